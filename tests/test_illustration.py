"""The two-dimensional example shows what it claims: one way moves the data alone, the other the boundary alone."""

import copy
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor

from dftlib.classifiers.base import TorchClassifier
from dftlib.perturbation.gradient import fit
from dftlib.perturbation.perturbation import Perturbation
from dftlib.plots import illustration
from dftlib.plots.illustration import Example, accuracy, example

made = cache(example)


@pytest.fixture
def shown() -> Example:
    return made(0)


def weights(classifier: TorchClassifier) -> dict[str, Tensor]:
    return copy.deepcopy(classifier.net.state_dict())


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def test_n_moves_every_point_by_the_same_vector(shown: Example) -> None:
    moved = shown.z.pictures - shown.x.pictures
    assert torch.allclose(moved, shown.perturbation.n.expand_as(moved), atol=1e-6)  # so none was clipped at the box
    assert moved.norm(dim=3).min() > 0.1
    assert torch.equal(shown.z.labels, shown.x.labels)


def test_data_fine_tuning_leaves_the_boundary_where_it_was(monkeypatch: pytest.MonkeyPatch, shown: Example) -> None:
    before: list[dict[str, Tensor]] = []

    def spy(classifier: TorchClassifier, *args: Any) -> Perturbation:
        before.append(weights(classifier))
        return fit(classifier, *args)

    monkeypatch.setattr(illustration, "fit", spy)
    again = example()
    assert len(before) == 1
    assert same(before[0], weights(again.model))
    assert same(before[0], weights(shown.model))  # drawing and scoring change nothing either
    assert not same(before[0], weights(again.tuned))


@pytest.mark.parametrize("seed", range(3))
def test_both_ways_help_on_points_that_neither_has_seen(seed: int) -> None:
    found = made(seed)
    present = (found.model.scores(found.x.pictures)[:, 1] > 0.5).double().mean()
    assert present > 0.9  # both classes on one side of the boundary, as in Figure 4
    assert accuracy(found.model, found.d1) > 0.85
    assert accuracy(found.model, found.x) < 0.6
    assert accuracy(found.model, found.z) > 0.8
    assert accuracy(found.tuned, found.x) > 0.8
    assert accuracy(found.tuned, found.d1) < 0.7  # what model fine-tuning costs, and data fine-tuning does not


def test_the_same_seed_gives_the_same_example(shown: Example) -> None:
    again, other = example(), made(1)
    assert torch.equal(again.perturbation.n, shown.perturbation.n)
    assert same(weights(again.tuned), weights(shown.tuned))
    assert torch.equal(again.x.pictures, shown.x.pictures)
    assert not torch.equal(other.x.pictures, shown.x.pictures)


def test_training_validation_and_test_points_are_others() -> None:
    drawn = torch.cat([part.pictures.flatten(1) for part in illustration._draw("X", (0.5, 0.5), 0, 0)])
    assert len(drawn.unique(dim=0)) == len(drawn) == sum(illustration.COUNTS.values())


def test_the_figures_titles_are_the_measured_accuracies(shown: Example) -> None:
    def right(classifier: TorchClassifier, points: illustration.Points) -> str:
        return f": {100 * accuracy(classifier, points):.1f} % right"

    before, mft, dft = right(shown.model, shown.x), right(shown.tuned, shown.x), right(shown.model, shown.z)
    titles = [ax.get_title() for ax in illustration.two_ways(shown).axes]
    assert all(title.endswith(end) for title, end in zip(titles, (before, mft, dft), strict=True))
    titles = [ax.get_title() for ax in illustration.score_path(shown).axes[:3]]
    assert all(title.endswith(end) for title, end in zip(titles, (right(shown.model, shown.d1), before, dft), strict=True))
