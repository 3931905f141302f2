"""The card of a perturbation: what it says is true, and what isn't known isn't said."""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from dftlib.classifiers.base import TorchClassifier
from dftlib.classifiers.black_box import CallableClassifier
from dftlib.experiments.cards import carded
from dftlib.experiments.lab import Lab
from dftlib.experiments.outcome import Cell
from dftlib.metrics import classification, similarity
from dftlib.perturbation import card, from_scores
from dftlib.perturbation.gradient import Settings, fit
from dftlib.perturbation.perturbation import Perturbation

LABELS = torch.arange(40) % 2


def grey(seed: int = 0) -> torch.Tensor:
    """Images 40 x 3 x 4 x 4, paler where the label is 1."""
    noise = torch.randint(0, 60, (40, 3, 4, 4), generator=torch.Generator().manual_seed(seed))
    return (noise + 40 * LABELS[:, None, None, None] + 60).to(torch.uint8)


def classifier() -> TorchClassifier:
    torch.manual_seed(0)
    return TorchClassifier(nn.Sequential(nn.Flatten(), nn.Linear(48, 2)))


def test_a_fit_says_what_it_knows() -> None:
    model = classifier()
    found = fit(model, grey(), LABELS, grey(1), LABELS, Settings(steps=20))
    about, x = found.about, grey().double() / 255
    assert (about["fitted_on"]["images"], about["fitted_on"]["per_class"]) == (40, [20, 20])
    assert about["fitted_on"]["mean"] == pytest.approx(x.mean((0, 2, 3)).tolist())
    assert about["fitted_on"]["std"] == pytest.approx(x.std((0, 2, 3), correction=0).tolist())
    digest = hashlib.sha256(b"".join(p.detach().numpy().tobytes() for p in model.net.parameters())).hexdigest()
    assert about["classifier"] == f"Sequential, SHA-256 of its weights {digest[:16]}"
    right = {"before": model.scores(grey(1)).argmax(1) == LABELS, "after": model.scores(found.apply(grey(1))).argmax(1) == LABELS}
    for name, correct in right.items():
        low, high = classification.wilson(correct.numpy())
        said = [about["validation"][name + end] for end in ("", "_lo", "_hi")]
        assert said == pytest.approx([100 * correct.double().mean().item(), 100 * low, 100 * high])
    if found.n.abs().max():
        assert about["psnr"] == pytest.approx(similarity.psnr(grey() / 255, found.apply(grey())).mean().item())
    assert "Recommended" not in found.card()
    assert "- Not judged: what `compare` says" in found.card()
    assert "- Fitted on: 40 images (20 of class 0, 20 of class 1)." in found.card().splitlines()


def test_a_start_that_is_no_untouched_image_is_not_said_to_be_before() -> None:
    for more in ({"start": torch.full((3, 4, 4), 0.1)}, {"settings": Settings.paper(box="printed", epochs=1)}):
        given: dict[str, Any] = {"settings": Settings(steps=4), **more}
        assert "validation" not in fit(classifier(), grey(), LABELS, grey(1), LABELS, **given).about


def test_a_fit_from_scores_says_whether_it_is_recommended_and_why_not(tmp_path: Path) -> None:
    box = CallableClassifier(lambda p: p.mean((1, 2, 3)) / 255, identity="toy")
    found = from_scores.fit_black_box(
        box,
        grey(),
        LABELS,
        grey(1),
        LABELS,
        query_budget=480,
        query_log=tmp_path / "log.db",
        learner="statistics",
        reference=grey(),
    )
    assert not found.about["recommended"]
    assert found.card().splitlines()[2] == "- Not recommended: leave the images as they are. The gain is not clear of zero."
    assert found.about["classifier"] == box.identity
    assert found.about["validation"]["before"] == found.about["val_before"]
    assert [own["images"] for own in found.about["validation"]["groups"].values()] == [20, 20]


def test_a_card_says_all_that_is_known() -> None:
    change = {"before": 60.0, "before_lo": 50.0, "before_hi": 70.0, "after": 80.0, "after_lo": 70.0, "after_hi": 90.0}
    change |= {"rise": 20.0, "rise_lo": 10.0, "rise_hi": 30.0}
    groups = {"class 0": {"images": 40, **change}, "people with glasses": {"images": 7, **change}}
    about = {
        "recommended": True,
        "why_not": "",
        "fitted_on": {"images": 1234, "per_class": [1000, 234], "classes": ["'cat'", "'dog'"], "mean": [0.5], "std": [0.1]},
        "data": {"name": "pets", "split": "by person", "content": "0123abcd", "licence": "For research only."},
        "classifier": "m.onnx",
        "psnr": 28.53,
        "validation": {"images": 100, **change, "remedy": "moving the threshold", "remedy_accuracy": 70.0, "groups": groups},
    }
    shift = "right before 60.0 % (50.0 to 70.0), with N 80.0 % (70.0 to 90.0), +20.0 points (+10.0 to +30.0)."
    assert Perturbation(torch.zeros(3, 4, 5), "clip", about).card() == "\n".join([
        "# Perturbation",
        "",
        "- Recommended: add it to the images.",
        "- Fitted on: 1,234 images (1,000 of 'cat', 234 of 'dog') of 'pets', split by person, content 0123abcd.",
        "- For: m.onnx.",
        "- Shape: 3 x 4 x 5 (C x H x W), added by the box map 'clip'.",
        "- It leaves 28.5 dB (PSNR, mean).",
        f"- Of 100 validation images, which decided: {shift}",
        "- The best simple remedy there, moving the threshold: 70.0 % right.",
        f"- Of the 40 of 'cat': {shift}",
        f"- Of the 7 of people with glasses: {shift}",
        "- Licence of the data: For research only.",
        "",
    ])  # fmt: skip


@pytest.mark.parametrize(
    "about", [{}, {"data": "mine"}, {"fitted_on": 7}, {"validation": [1]}, {"psnr": "high"}, {"classifier": None}]
)
def test_about_may_hold_other_things(about: dict[str, Any]) -> None:
    made = Perturbation(torch.zeros(3, 4, 5), "clip", about)
    assert made.card() == "# Perturbation\n\n- Shape: 3 x 4 x 5 (C x H x W), added by the box map 'clip'.\n"
    assert card.far([{"mean": [0.5] * 3, "std": [0.1] * 3}] * card.FEW, about) == ""


def test_the_levels_of_many_images_are_those_of_some_evenly_picked() -> None:
    images = np.random.default_rng(0).integers(0, 256, (2000, 2, 2, 2), np.uint8)
    images[:1000] //= 2
    said = card.fitted_on(images, torch.zeros(2000, dtype=torch.long))
    assert said["mean"] == pytest.approx((images / 255).mean((0, 2, 3)).tolist(), abs=0.02)
    assert said["per_class"] == [2000]


def test_the_card_of_a_cell(few_faces: Lab) -> None:
    cell = Cell(5, "Gender", "press", "studio", "subject", 0)
    outcome, about = few_faces.outcome(cell), carded(few_faces, cell).about
    assert about["data"] == {"name": "press", "split": "subject", "content": few_faces.signature("press", "subject")[:16]}
    assert about["classifier"].endswith(", trained on 'studio'")
    assert about["recommended"] == outcome.row["recommended"] == (about["why_not"] == "")
    for name in ("before", "after", "rise_lo", "rise_hi"):
        assert about["test"][name] == pytest.approx(outcome.row[name])
    assert about["validation"]["rise_lo"] == pytest.approx(outcome.row["val_rise_lo"])
    assert about["fitted_on"]["classes"] == ["'Gender' absent", "'Gender' present"]
    assert sum(about["fitted_on"]["per_class"]) == outcome.row["n_fit"]
