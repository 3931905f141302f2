"""Fitting by asking: within the budget and the limit, the same for a seed, and what is wrong is told; nothing is paid twice."""

import copy
import hashlib
import json
import math
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import pytest
import slow_fit
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.linear_model import Ridge
from slow_fit import ask, faces
from torch import Tensor, nn
from web_service import WebService

from dftlib.classifiers import web_service
from dftlib.classifiers.base import TorchClassifier
from dftlib.classifiers.black_box import CallableClassifier
from dftlib.errors import DataError
from dftlib.images import to_float
from dftlib.metrics.class_order import ClassOrderError
from dftlib.models.backbones import ConvNet
from dftlib.perturbation import from_scores, surrogates
from dftlib.perturbation import problem as problem_module
from dftlib.perturbation.baselines import mean_picture
from dftlib.perturbation.from_scores import CHECKED, DEFAULT, ENOUGH, LEARNERS, REPEATED
from dftlib.perturbation.perturbation import Perturbation
from dftlib.perturbation.problem import NUDGE, WAYS, Problem
from dftlib.perturbation.query_log import ANEW, Meter, QueryLog, UnansweredError
from dftlib.perturbation.surrogates import Encoded, Imitation, Surrogate

Pixels = NDArray[np.uint8]
NOWHERE = Path(":memory:")  # SQLite's name for a log that is not kept
BUDGET = 150


def listening(asked: list[str], answer: Callable[[Pixels], Any] = ask, classes: int = 2) -> CallableClassifier:
    """A black box that notes the SHA-256 of each picture it is sent."""

    def listen(pictures: Pixels) -> Any:
        asked.extend(hashlib.sha256(picture.tobytes()).hexdigest() for picture in pictures)
        return answer(pictures)

    return CallableClassifier(listen, classes, identity="toy", batch=32)


@cache
def known(side: int) -> ConvNet:
    torch.manual_seed(0)
    return ConvNet(side)


def found(
    learner: str, answer: Callable[[Pixels], Any] = ask, side: int = 16, classes: int = 2, count: int = 60, **how: Any
) -> tuple[Perturbation, list[str]]:
    """N, and what was sent."""
    asked: list[str] = []
    fitting, check = faces(count, side, 0, classes), faces(40, side, 1, classes)
    reference = faces(60, side, 2, classes)[0] + 8
    how = {"query_budget": BUDGET, "query_log": NOWHERE, "reference": reference, "encoder": known(side), **how}
    return from_scores.fit_black_box(listening(asked, answer, classes), *fitting, *check, learner=learner, **how), asked


@contextmanager
def haste() -> Iterator[None]:
    learn, fitted = Surrogate.learn, Imitation.fitted
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Surrogate, "learn", lambda self, epochs, *more: learn(self, 2, *more))
        patch.setattr(Imitation, "fitted", lambda self, c, steps, *more: fitted(self, c, 10, *more))
        yield


@pytest.fixture
def hasty() -> Iterator[None]:
    """Surrogates that learn little: promises are tested, not accuracies."""
    with haste():
        yield


Runs = dict[str, tuple[Perturbation, list[str]]]


@pytest.fixture(scope="module", params=LEARNERS)
def runs(request: pytest.FixtureRequest) -> Runs:
    """What a learner found: with a seed, with the same one, and with another."""
    with haste():
        return {name: found(request.param, seed=seed) for name, seed in (("first", 3), ("again", 3), ("other", 4))}


def test_a_seed_names_a_fit(runs: Runs) -> None:
    (first, asked), (again, asked_again), (other, asked_otherwise) = runs.values()
    assert asked == asked_again
    assert torch.equal(first.n, again.n)
    assert first.about == again.about
    assert set(asked) != set(asked_otherwise)
    assert torch.equal(first.n, other.n) == (first.about["learner"] == "statistics")


def test_a_fit_stays_within_its_budget_and_says_what_it_used(runs: Runs) -> None:
    for made, asked in runs.values():
        used = made.about["used"]
        assert len(asked) == used <= BUDGET
        assert len(set(asked)) == used - REPEATED
        rounds = made.about["rounds"]
        assert rounds == sorted(rounds)
        assert 0 < rounds[-1] <= used - BUDGET // CHECKED


def test_a_fit_keeps_the_limit_on_the_distortion(runs: Runs) -> None:
    images = faces(60)[0]
    for made, _ in runs.values():
        assert made.n.abs().max() > 0
        squared = ((made.apply(images).double().numpy() - images / 255) ** 2).mean()
        assert -10 * math.log10(squared) > 29.8


def test_a_fit_says_how_it_was_found(runs: Runs, tmp_path: Path) -> None:
    made, _ = runs["first"]
    made.save(tmp_path / "n.safetensors")
    about = Perturbation.load(tmp_path / "n.safetensors").about
    assert about == made.about
    assert {"learner", "used", "rounds", "val_before", "val_after", "val_rise_lo", "val_rise_hi", "recommended"} <= set(about)
    assert (about["seed"], about["budget"], about["min_psnr"], about["unsteady"]) == (3, BUDGET, 30.0, 0)
    assert about["recommended"] == (about["val_rise_lo"] > 0)


def test_n_is_its_own_mirror_image_unless_left_and_right_matter(runs: Runs) -> None:
    made, _ = runs["first"]
    assert made.about["mirror"]
    torch.testing.assert_close(made.n, made.n.flip(2), atol=1e-5, rtol=0)
    with haste():
        free, _ = found(made.about["learner"], mirror=False)
    assert not free.about["mirror"]
    assert (free.n - free.n.flip(2)).abs().max() > 1e-3


def test_no_more_is_held_back_for_the_check_than_is_enough() -> None:
    """Of a large budget all but twice so many pictures goes to the learner."""
    asked: list[str] = []
    fitting, check = faces(20, 8), faces(ENOUGH + 100, 8, 1)
    made = from_scores.fit_black_box(
        listening(asked), *fitting, *check, query_budget=CHECKED * (ENOUGH + 50), query_log=NOWHERE, learner="statistics",
        reference=faces(20, 8, 2)[0],
    )  # fmt: skip
    assert made.about["used"] == 2 * ENOUGH + REPEATED


@pytest.mark.usefixtures("hasty")
@pytest.mark.parametrize("learner", LEARNERS)
@pytest.mark.parametrize(
    ("answer", "side", "classes"),
    [(lambda p: ask(p).argmax(1), 24, 2), (partial(ask, classes=3), 16, 3), (ask, 64, 2)],
    ids=["labels only", "three classes", "64 pixels"],
)
def test_labels_only_three_classes_and_other_sizes(
    learner: str, answer: Callable[[Pixels], Any], side: int, classes: int
) -> None:
    made, asked = found(learner, answer, side, classes, query_budget=100)
    assert made.n.shape == (3, side, side)
    assert made.n.isfinite().all()
    assert len(asked) == made.about["used"] <= 100


@pytest.mark.usefixtures("hasty")
@pytest.mark.parametrize("learner", LEARNERS)
def test_few_pictures_are_asked_again_and_again(learner: str) -> None:
    assert found(learner, query_budget=2500, count=20)[0].n.isfinite().all()


@pytest.mark.usefixtures("hasty")
@pytest.mark.parametrize("learner", LEARNERS)
def test_pictures_that_cannot_move_end_a_fit_as_the_others_do(learner: str) -> None:
    """All but two are black and white alone: what is asked again and again costs nothing."""
    fitting, labels = faces(60, 8)
    fitting[2:] = np.where(fitting[2:] > 128, 255, 0)
    how: dict[str, Any] = {"query_budget": 1500, "query_log": NOWHERE, "reference": faces(60, 8, 2)[0], "encoder": known(8)}
    made = from_scores.fit_black_box(listening([]), fitting, labels, *faces(40, 8, 1), learner=learner, **how)
    usual, _ = found(learner, query_budget=1500, side=8)
    assert made.n.isfinite().all()
    assert 0 < len(made.about["rounds"]) <= 2 * len(usual.about["rounds"]) + 1


@settings(max_examples=15)
@given(budget=st.integers(96, 700), learner=st.sampled_from(["statistics", "corrected spsa"]), seed=st.integers(0, 9))
def test_no_budget_is_overspent(budget: int, learner: str, seed: int) -> None:
    made, asked = found(learner, side=8, query_budget=budget, seed=seed)
    assert len(asked) == made.about["used"] <= budget


@pytest.mark.parametrize("learner", LEARNERS)
def test_each_learner_mends_a_classifier_that_sees_too_dark(learner: str) -> None:
    """Half of the toy's pictures are right before, nearly all could be after."""
    made, _ = found(learner, query_budget=300, count=200)
    images, labels = faces(300, seed=7)
    toy = listening([])
    before, after = ((toy.scores(x).argmax(1) == labels).double().mean() for x in (images, made.apply_uint8(images)))
    assert before < 0.65
    assert after - before > (0.25 if learner in (DEFAULT, "statistics") else 0.1)


def test_what_is_said_of_validation_is_true() -> None:
    """A budget that covers all of the validation pictures, and one person on all of them: no draw differs from another."""
    images, labels = faces(40, seed=1)
    one, _ = found("statistics", query_budget=480, val_subjects=np.full(40, "she"))
    many, _ = found("statistics", query_budget=480)
    before, after = (
        100 * float(np.mean(ask(x.transpose(0, 2, 3, 1)).argmax(1) == labels.numpy()))
        for x in (images, one.apply_uint8(images).numpy())
    )
    assert (one.about["val_before"], one.about["val_after"]) == pytest.approx((before, after))
    assert (one.about["val_rise_lo"], one.about["val_rise_hi"]) == pytest.approx((after - before, after - before))
    assert many.about["val_rise_lo"] < after - before < many.about["val_rise_hi"]
    assert many.about["recommended"]
    assert one.about["why_not"].startswith("Fewer than 6 people are on the images (1)")
    assert not found("statistics", query_budget=480, reference=faces(60)[0] - 8)[0].about["recommended"]


def test_people_are_told_by_place_in_whatever_form() -> None:
    """Ten people on 40 validation images, of which 12 are asked."""
    names = np.array([f"p{i // 4}" for i in range(40)])
    wanted, _ = found("statistics", val_subjects=names)
    for people in (names.tolist(), pd.Series(names, index=np.random.default_rng(0).permutation(40))):
        assert found("statistics", val_subjects=people)[0].about == wanted.about


# ---- against numpy


def problem(answer: Callable[[Pixels], Any] = ask, images: Pixels | None = None, budget: int = 10**6) -> Problem:
    own, labels = faces(60)
    box = CallableClassifier(answer, identity="toy")
    pictures = torch.from_numpy(own if images is None else images)
    return Problem(Meter(box, QueryLog(NOWHERE), budget), pictures, labels, 30.0, torch.Generator().manual_seed(0))


def enlarged(c: NDArray[Any], side: int = 16) -> NDArray[Any]:
    """OpenCV's inverse cosine transform of the lowest frequencies 3 x g x g, or every second one across; mean square 1 each."""
    full = np.zeros((3, side, side))
    full[:, : c.shape[1], : side : c.shape[1] // c.shape[2]][:, :, : c.shape[2]] = c * side
    return np.stack([cv2.idct(channel) for channel in full])


def perturbed(images: NDArray[Any], n: NDArray[Any]) -> NDArray[Any]:
    with np.errstate(divide="ignore"):
        return (np.tanh(np.arctanh(2 * (images / 255) - 1) + n) + 1) / 2


def some_c(scale: float = 0.02, grid: int = 8, mirror: bool = True) -> Tensor:
    return scale * torch.randn(1, 3, grid, grid // 2 if mirror else grid, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(("grid", "mirror"), [(4, True), (8, True), (8, False)])
def test_what_the_classifier_sees_and_its_loss(grid: int, mirror: bool) -> None:
    p, c, rows = problem(), some_c(0.05, grid, mirror), torch.tensor([4, 9, 4])
    p.mirror = mirror
    z = perturbed(np.asarray(p.images)[rows.numpy()], enlarged(c[0].numpy()))
    shown = p.shown(rows, c)
    assert shown.dtype == torch.uint8
    np.testing.assert_allclose(shown, np.rint(255 * z), atol=1)
    assert (shown.numpy() != np.rint(255 * z)).mean() < 0.01  # halves, rounded in float32
    scores = ask(shown.numpy().transpose(0, 2, 3, 1))
    np.testing.assert_allclose(p.loss(rows, c), [1 - scores[i, p.labels[row]] for i, row in enumerate(rows)], atol=1e-6)


@pytest.mark.parametrize("scale", [0.0002, 0.02, 0.4])
def test_coefficients_are_scaled_down_to_the_limit(scale: float) -> None:
    p, c = problem(), some_c(scale)
    x = np.asarray(p.images)
    squared = ((perturbed(x, enlarged(c[0].numpy())) - x / 255) ** 2).mean()
    np.testing.assert_allclose(p.limited(c), c / max(1, math.sqrt(squared * 1000)), rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize(("decibels", "grid"), [(28.0, 4), (30.0, 8)])
def test_noise_is_of_so_many_decibels_on_each_picture(decibels: float, grid: int) -> None:
    images = faces(60)[0]
    images[:30] //= 4  # on darker pictures the same N changes less
    p, rows = problem(images=images), torch.arange(60)
    c = p.noise(rows, decibels, grid).numpy()
    assert c.shape == (60, 3, 8, 4)
    assert (c[:, :, grid:] == 0).all()
    assert (c[:, :, :, grid // 2 :] == 0).all()
    for picture, own in zip(images, c, strict=True):
        x, n = picture / 255, enlarged(own)
        to_first_order = (2 * x * (1 - x) * n) ** 2
        assert -10 * math.log10(to_first_order.mean()) == pytest.approx(decibels, abs=0.001)
        assert -10 * math.log10(((perturbed(255 * x, n) - x) ** 2).mean()) == pytest.approx(decibels, abs=1.5)
    assert np.abs(np.corrcoef(c.reshape(60, -1)) - np.eye(60)).max() < 0.8  # of 24 numbers each, at the least


def test_directions_are_at_right_angles_and_of_so_many_decibels() -> None:
    images = faces(60)[0]
    images[:30] //= 4
    p, rows = problem(images=images), torch.arange(60).roll(3)
    ways = p.directions(rows).numpy()
    assert ways.shape == (WAYS, 60, 3, 8, 4)
    flat = ways.reshape(WAYS, 60, -1).transpose(1, 0, 2)
    lengths = np.linalg.norm(flat, axis=2)
    between = flat @ flat.transpose(0, 2, 1) / lengths[:, :, None] / lengths[:, None]
    np.testing.assert_allclose(between, np.eye(WAYS)[None].repeat(60, 0), atol=1e-5)
    for row, own in zip(rows, ways.transpose(1, 0, 2, 3, 4), strict=True):
        x = images[row] / 255
        for c in own:
            assert -10 * math.log10(((2 * x * (1 - x) * enlarged(c)) ** 2).mean()) == pytest.approx(NUDGE, abs=0.001)


def test_spsa_estimates_the_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    """On scores linear in the grey levels the gradient of each picture is known: its weights times 2 x (1 - x)."""
    weight = np.repeat([1, -1], 8)[:, None, None] * np.ones((16, 16, 3)) / 384
    sure, doubtful = np.repeat([183, 70], 8), np.repeat([25, 25], 8)  # levels of rows: scores 0.94 and 0.5
    images = np.array([sure, doubtful] * 300, np.uint8)[:, None, :, None].repeat(3, 1).repeat(16, 3)
    p = problem(lambda pictures: 0.5 + (pictures / 255 * weight).sum((1, 2, 3)), images)
    p.labels = torch.arange(600) // 500
    steps = []

    def moved(total: Tensor) -> Tensor:
        steps.append(total[0].double().numpy().copy())
        if len(steps) == 150:
            p.meter.budget = p.meter.used
        return torch.tensor(1e9)  # no step moves N

    monkeypatch.setattr(from_scores, "length", moved)
    list(LEARNERS["spsa"](p))
    estimates = [(now - 0.9 * before) / 0.1 for before, now in zip([0 * steps[0], *steps], steps, strict=False)]
    x, sign = images / 255, np.where(p.labels == 1, -1, 1)[:, None, None, None]
    by_n = (sign * weight.transpose(2, 0, 1) * 2 * x * (1 - x)).mean(0)
    wanted = np.array([(by_n * enlarged(basis.reshape(3, 8, 4))).sum() for basis in np.eye(96)])
    got = np.mean(estimates, 0).ravel()
    assert got @ wanted / np.linalg.norm(got) / np.linalg.norm(wanted) > 0.9
    assert got @ wanted / (wanted @ wanted) == pytest.approx(1, abs=0.1)


def test_spsa_ends_at_the_mean_of_the_last_half_of_its_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    p, steps = problem(budget=500), []

    def limited(self: Problem, c: Tensor) -> Tensor:
        steps.append(c)
        return c

    monkeypatch.setattr(Problem, "limited", limited)
    *_, last = LEARNERS["spsa"](p)
    own = steps[::2]
    assert len(own) >= 10
    torch.testing.assert_close(last, torch.stack(own[len(own) // 2 :]).mean(0))


def test_the_limit_is_measured_on_images_of_every_class() -> None:
    dark, grey = (np.full((200, 3, 16, 16), level, np.uint8) for level in (8, 128))
    sorted_by_class = problem(images=np.concatenate([dark, grey]))
    c = some_c(0.1)
    for _ in range(3):
        c = sorted_by_class.limited(c)
    z = sorted_by_class.under(to_float(sorted_by_class.images, torch.device("cpu")), c)
    squared = (z - torch.as_tensor(sorted_by_class.images) / 255).square().mean()
    assert float(-10 * squared.log10()) == pytest.approx(30, abs=0.5)


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_the_mean_picture_is_that_of_grey_levels_and_of_floats(dtype: type) -> None:
    images = faces(30)[0]
    given: Any = images if dtype is np.uint8 else (images / 255).astype(np.float32)
    assert torch.allclose(mean_picture(given), torch.as_tensor(images / 255).mean(0).float(), atol=1e-6)


def test_statistics_asks_nothing_and_moves_the_mean_picture() -> None:
    own, reference = faces(60)[0], faces(50, seed=2)[0] // 2 + 100
    p = problem(budget=0)
    p.reference = torch.from_numpy(reference)
    (c,) = LEARNERS["statistics"](p)
    means = [np.clip(x.mean(0) / 255, 0.01, 0.99) for x in (own, reference)]
    odds = [np.log(mean / (1 - mean)) for mean in means]
    both = (odds[1] - odds[0]) / 2
    wanted = np.stack([cv2.dct(channel) for channel in both])[:, :8, :8:2] / 16
    wanted /= math.sqrt(((perturbed(own, enlarged(wanted)) - own / 255) ** 2).mean() * 1000)
    np.testing.assert_allclose(c[0], wanted, rtol=2e-3, atol=1e-5)


def test_what_is_computed_does_not_depend_on_the_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = torch.arange(60).roll(7)
    whole, one_for_all = problem().noise(rows, 30, 8), problem().shown(rows, some_c())
    monkeypatch.setattr(problem_module, "AT_ONCE", 11)
    assert torch.equal(problem().noise(rows, 30, 8), whole)
    assert torch.equal(problem().shown(rows, some_c()), one_for_all)
    each = torch.cat([problem().shown(row[None], own[None]) for row, own in zip(rows, whole, strict=True)])
    assert torch.equal(problem().shown(rows, whole), each)


def test_images_are_computed_with_on_the_device_told() -> None:
    """On a device that knows shapes alone; what is drawn, shown and answered stays on the CPU."""
    p = problem()
    p.device = torch.device("meta")
    model, rows = Surrogate(p), torch.arange(20)
    model.shown, model.answers = [torch.as_tensor(p.images[:20])], [torch.zeros(20, 2)]
    model.learn(1, 0.01)
    assert {parameter.device.type for parameter in model.parameters()} == {"meta"}
    assert p.under(p.floats(rows), some_c()).device.type == model(p.floats(rows)).device.type == "meta"
    assert torch.as_tensor(p.images).device.type == p.labels.device.type == "cpu"


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("learner", LEARNERS)
def test_a_fit_on_a_gpu(learner: str) -> None:
    wanted, asked = found(learner)
    got, asked_there = found(learner, device=torch.device("cuda"))
    assert got.n.device.type == "cpu"
    assert len(set(asked) & set(asked_there)) >= BUDGET // CHECKED
    assert torch.nn.functional.cosine_similarity(got.n.flatten(), wanted.n.flatten(), dim=0) > 0.5


def test_one_layer_on_a_known_network_is_the_ridge_regression_of_the_answers() -> None:
    """Against scikit-learn; and the known network, whose copy may be moved, stays as it is."""
    p, body = problem(), ConvNet(16)
    before = copy.deepcopy(body.state_dict())
    model = Encoded(p, body)
    model.ask(torch.arange(60), p.nothing())
    model.learn()
    x = body.eval()(to_float(torch.cat(model.shown), torch.device("cpu"))).detach().double()
    y, spread = torch.cat(model.answers).double(), (x - x.mean(0)).square().sum() / x.shape[1]
    wanted = Ridge(alpha=float(surrogates.RIDGE * spread)).fit(x.numpy(), y.numpy())
    np.testing.assert_allclose(model.head.weight.detach(), wanted.coef_, atol=1e-4)
    np.testing.assert_allclose(model.head.bias.detach(), wanted.intercept_, atol=1e-3)
    assert all(parameter.requires_grad for parameter in body.parameters())
    assert all(torch.equal(before[name], value) for name, value in body.state_dict().items())


# ---- what decides a result


NUMBERS = [
    (name, number)
    for module in (from_scores, problem_module, surrogates)
    for name, number in vars(module).items()
    if name.isupper() and isinstance(number, int | float)
]


@pytest.mark.parametrize(("name", "number"), sorted(set(NUMBERS)))
def test_every_number_that_decides_stands_in_the_key(name: str, number: float, monkeypatch: pytest.MonkeyPatch) -> None:
    before = from_scores.key("spsa", 600, 30.0)
    monkeypatch.setattr(from_scores, name, number + 1, raising=False)
    assert (from_scores.key("spsa", 600, 30.0) != before) == (name != "AT_ONCE")


def test_every_argument_that_decides_stands_in_the_key() -> None:
    usual, free = from_scores.key("spsa", 600, 30.0), from_scores.key("spsa", 600, 30.0, mirror=False)
    keys = [
        usual,
        free,
        *(from_scores.key(*other) for other in (("surrogate", 600, 30.0), ("spsa", 601, 30.0), ("spsa", 600, 31.0))),
    ]
    assert len({json.dumps(key, sort_keys=True) for key in keys}) == 5


# ---- what fit does with what it is given


class Brightness(nn.Module):
    """The toy as a network: mean brightness, then two logits."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Flatten(), nn.Linear(1, 2)
        with torch.no_grad():
            self.head.weight.copy_(torch.tensor([[0.0], [100.0]]))
            self.head.bias.copy_(torch.tensor([0.0, -100 * 142 / 255]))

    def forward(self, images: Tensor) -> Tensor:
        out: Tensor = self.head(self.body(images).mean(1, keepdim=True))
        return out


def test_gradients_are_taken_where_there_are_any() -> None:
    net, images, labels = TorchClassifier(Brightness()), *faces(60)
    made = from_scores.fit_black_box(net, images, labels, *faces(40, seed=1), seed=2)
    assert made.about["optimiser"] == "steepest"
    assert "used" not in made.about
    before, after = ((net.scores(x).argmax(1) == labels).double().mean() for x in (images, made.apply_uint8(images)))
    assert after - before > 0.3
    squared = ((made.apply(images).double().numpy() - images / 255) ** 2).mean()
    assert -10 * math.log10(squared) > 29.8


def greedy(problem: Problem) -> Iterator[Tensor]:
    for shift in (0.0, 0.1, 0.2):
        problem.loss(torch.arange(len(problem)), torch.full((1, 3, 8, 8), shift))
    yield torch.zeros(1, 3, 8, 8)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"learner": "magic"}, r"no learner 'magic': choose one of statistics, one pass"),
        ({"query_log": None}, r"name a file as `query_log`"),
        ({"query_log": Path("/")}, r"The query log / can't be used"),
        ({"labels": torch.zeros(60, dtype=torch.int64)}, r"one class only"),
        ({"labels": torch.arange(60) % 3}, r"label is 2, .* 2 classes"),
        ({"labels": torch.arange(60) % 2 - 1}, r"A label is -1: leave out"),
        ({"query_budget": 95}, r"95 queries and 40 validation images are too few for a check: give 96 and 8"),
        ({"val": faces(5)}, r"150 queries and 5 validation images .*: give 96 and 8"),
        ({"val": faces(40, 12)}, r"validation .*\(3, 12, 12\), not \(3, 16, 16\): resize"),
        ({"val": (faces(40, seed=1)[0], faces(39)[1])}, r"Images \(40, 3, 16, 16\) and 39 labels: give n x 3"),
        ({"labels": faces(50)[1]}, r"Images \(60, 3, 16, 16\) and 50 labels: give n x 3"),
        ({"images": faces(60)[0][:, :1]}, r"validation .* are \(3, 16, 16\), not \(1, 16, 16\)"),
        ({"images": faces(60)[0][:, :1], "val": (faces(40, seed=1)[0][:, :1], faces(40, seed=1)[1])}, r"give n x 3 x H x W"),
        ({"images": faces(60)[0] // 128 * 255}, r"The fitting images are black and white alone, .*: give some that have levels"),
        ({"val_subjects": ["she"] * 39}, r"Subjects \(39,\) and 40 labels: give the person on each"),
        ({"val_subjects": np.repeat(["he", "she"], 60)}, r"Subjects \(120,\) and 40 labels: give the person on each"),
        ({"reference": faces(40, 12)[0]}, r"reference .*\(3, 12, 12\), not \(3, 16, 16\): resize"),
        ({"learner": "statistics", "reference": None}, r"needs reference images"),
        ({"learner": "greedy", "query_budget": 96}, r"query budget of 96 doesn't reach the first round of 'greedy'"),
        ({"answer": lambda p: np.full((len(p), 2), np.nan)}, r"scores that are not numbers"),
        ({"answer": partial(ask, classes=3)}, r"answers with 3 classes where 2 were expected: choose 2"),
        ({"answer": lambda p: np.full(len(p), 7)}, r"label 7, not in 0 to 1"),
    ],
)
def test_what_is_wrong_is_said_in_a_sentence(wrong: dict[str, Any], words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(LEARNERS, "greedy", greedy)
    how = {"learner": "corrected spsa", "query_budget": BUDGET, "query_log": NOWHERE, **wrong}
    asked: list[str] = []
    box = listening(asked, how.pop("answer", ask))
    (images, labels), val = faces(60), how.pop("val", faces(40, seed=1))
    images = how.pop("images", images)
    with pytest.raises(DataError, match=words) as said:
        from_scores.fit_black_box(box, images, how.pop("labels", labels), *val, **how)
    assert str(said.value).count(": ") >= 1
    assert str(said.value).endswith(".")
    assert not asked or wrong.keys() & {"answer"} or wrong.get("learner") in ("greedy", "statistics")


def test_a_box_that_changes_its_answers_is_reported() -> None:
    calls = []

    def drifts(pictures: Pixels) -> Any:
        calls.append(len(pictures))
        return ask(pictures) * 0.9 + 0.1 * np.array([len(calls) % 2, (len(calls) + 1) % 2])

    made, _ = found("statistics", drifts)
    assert made.about["unsteady"] == pytest.approx(0.1, abs=1e-6)


@pytest.mark.usefixtures("hasty")
def test_another_classifier_in_a_later_run_is_refused(tmp_path: Path) -> None:
    log = tmp_path / "log.db"
    first, asked = found("corrected spsa", query_log=log)
    again, asked_again = found("corrected spsa", query_log=log)
    assert torch.equal(again.n, first.n)
    assert again.about == first.about
    assert len(asked_again) == ANEW
    assert set(asked_again) <= set(asked)
    with pytest.raises(DataError, match=r"isn't the one whose answers .*log\.db holds: of 8 pictures .*; move that file away"):
        found("corrected spsa", lambda p: ask(p) * 0.98 + 0.01, query_log=log)
    log.rename(tmp_path / "away.db")
    found("corrected spsa", lambda p: ask(p) * 0.98 + 0.01, query_log=log)


def test_classes_in_another_order_end_the_fit_before_the_budget_is_spent() -> None:
    asked: list[str] = []
    box = listening(asked, lambda p: ask(np.minimum(p, 247) + 8)[:, ::-1])
    (images, labels), val = faces(60), faces(40, seed=1)
    with pytest.raises(ClassOrderError, match=r"would be about .* if its answers 0, 1, … meant the classes 1, 0") as caught:
        from_scores.fit_black_box(box, images, labels, *val, query_budget=400, query_log=NOWHERE)
    assert caught.value.order.answers == (1, 0)
    assert len(asked) <= 400 // CHECKED + REPEATED


@pytest.mark.usefixtures("hasty")
@pytest.mark.parametrize("learner", LEARNERS)
def test_pictures_without_an_answer_have_no_part_in_it(learner: str) -> None:
    images, labels = faces(40, seed=1)
    images[:6] = 20

    def answer(pictures: Pixels) -> Any:
        return [row if picture.mean() > 40 else None for row, picture in zip(ask(pictures), pictures, strict=True)]

    asked: list[str] = []
    fitting, fitting_labels = faces(60)
    fitting[::10] = 20
    how: dict[str, Any] = {
        "query_budget": 480,
        "query_log": NOWHERE,
        "learner": learner,
        "encoder": known(16),
        "reference": faces(60, seed=2)[0] + 8,
    }
    made = from_scores.fit_black_box(listening(asked, answer), fitting, fitting_labels, images, labels, **how)
    assert made.n.isfinite().all()
    assert made.about["val_before"] == pytest.approx(
        100 * np.mean(ask(images[6:].transpose(0, 2, 3, 1)).argmax(1) == labels[6:].numpy())
    )
    assert made.about["unsteady"] == 0
    assert len(asked) == made.about["used"] <= 480


def test_those_that_n_leaves_without_an_answer_count_as_wrong() -> None:
    """N makes pictures brighter, and the brightest aren't answered any more."""
    most = 149

    def answer(pictures: Pixels) -> Any:
        return [row if picture.mean() < most else [] for row, picture in zip(ask(pictures), pictures, strict=True)]

    made, _ = found("statistics", answer, query_budget=480)
    images, labels = faces(40, seed=1)
    assert images.mean((1, 2, 3)).max() < most
    after = made.apply_uint8(images).numpy()
    answered = after.mean((1, 2, 3)) < most
    right = ask(after.transpose(0, 2, 3, 1)).argmax(1) == labels.numpy()
    assert (right & ~answered).any()
    assert made.about["val_after"] == pytest.approx(100 * (right & answered).mean())


def test_too_many_without_an_answer_end_the_fit() -> None:
    with pytest.raises(UnansweredError, match="gives no answer to 40 of 40 pictures"):
        found("statistics", lambda p: [None] * len(p), query_budget=480)


@pytest.mark.parametrize("what", ["images", "val_images", "reference"])
def test_pictures_in_other_units_are_refused_before_anything_is_asked(what: str) -> None:
    asked: list[str] = []
    given = {"images": faces(60)[0], "val_images": faces(40, seed=1)[0], "reference": faces(60, seed=2)[0]}
    given[what] = given[what] * 1.0  # type: ignore[assignment]
    with pytest.raises(DataError, match=r"must lie in \[0, 1\]"):
        from_scores.fit_black_box(
            listening(asked), given["images"], faces(60)[1], given["val_images"], faces(40, seed=1)[1], query_budget=150,
            query_log=NOWHERE, learner="statistics", reference=given["reference"],
        )  # fmt: skip
    assert not asked


def test_a_class_that_validation_lacks_is_warned_of_before_anything_is_asked() -> None:
    val, val_labels = faces(40, seed=1)
    only = val_labels == 1

    def unasked(_: Pixels) -> Any:
        raise AssertionError("asked")

    with pytest.warns(UserWarning, match="^No validation image is of class 0, so"), pytest.raises(AssertionError, match="asked"):
        from_scores.fit_black_box(
            listening([], unasked), *faces(60), val[only], val_labels[only], query_budget=150, query_log=NOWHERE
        )


@pytest.mark.usefixtures("hasty")
@pytest.mark.parametrize("learner", LEARNERS)
def test_pictures_that_are_not_square(learner: str) -> None:
    def tall(count: int, seed: int) -> tuple[Pixels, Tensor]:
        images, labels = faces(count, 24, seed)
        return images[:, :, :, :16], labels

    how: dict[str, Any] = {"query_budget": 150, "query_log": NOWHERE, "learner": learner, "encoder": known(16)}
    how["reference"] = tall(60, 2)[0]
    made = from_scores.fit_black_box(listening([]), *tall(60, 0), *tall(40, 1), **how)
    assert made.n.shape == (3, 24, 16)


# ---- over a web service, killed and gone


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch) -> Iterator[WebService]:
    monkeypatch.setattr(web_service, "BACKOFF", 0.01)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with WebService(ask) as service:
        yield service


@pytest.fixture
def as_in_the_script() -> Iterator[None]:
    """Another number of threads adds up sums in another order."""
    threads = torch.get_num_threads()
    torch.set_num_threads(slow_fit.THREADS)
    yield
    torch.set_num_threads(threads)


@pytest.mark.slow
@pytest.mark.usefixtures("as_in_the_script")
def test_a_killed_fit_asks_only_what_is_new_and_ends_the_same(service: WebService, tmp_path: Path) -> None:
    wanted = slow_fit.fit(service.url, tmp_path / "undisturbed.db")
    once, service.received = service.received, []
    service.delay = 0.03
    with subprocess.Popen([sys.executable, slow_fit.__file__, service.url, tmp_path / "log.db"]) as killed:
        while len(service.received) < 250:
            assert killed.poll() is None
            time.sleep(0.002)
        killed.kill()
    assert killed.returncode == -signal.SIGKILL
    while service.under_way:
        time.sleep(0.01)
    before = len(service.received)
    assert before < len(once) - 50
    service.delay = 0
    got = slow_fit.fit(service.url, tmp_path / "log.db")
    assert len(service.received) > before
    on_their_way = Counter(service.received) - Counter(once)
    assert on_their_way.total() <= slow_fit.PARALLEL * slow_fit.BATCH + ANEW
    assert set(service.received) == set(once)
    assert torch.equal(got.n, wanted.n)
    assert got.about == wanted.about


@pytest.mark.usefixtures("hasty")
def test_a_service_gone_in_the_middle_costs_nothing_twice(service: WebService, tmp_path: Path) -> None:
    wanted = slow_fit.fit(service.url, tmp_path / "undisturbed.db")
    once, service.received = service.received, []

    def goes(pictures: Pixels) -> Any:
        if len(service.received) > 150:
            service.over.set()
        return ask(pictures)

    service.answer = goes
    with pytest.raises(DataError, match=r"nothing paid for is lost, run it again later.*\.$"):
        slow_fit.fit(service.url, tmp_path / "log.db")
    assert 150 < len(service.received) < len(once)
    service.answer = ask
    service.over.clear()
    got = slow_fit.fit(service.url, tmp_path / "log.db")
    assert torch.equal(got.n, wanted.n)
    assert got.about == wanted.about
    assert (Counter(service.received) - Counter(once)).total() <= slow_fit.PARALLEL * slow_fit.BATCH + ANEW


def test_a_service_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web_service, "BACKOFF", 0.01)
    with WebService(ask) as service:
        url = service.url
    with pytest.raises(DataError, match=r"connection failed.*nothing paid for is lost"):
        slow_fit.fit(url, tmp_path / "log.db")
