"""Box maps and objective against numpy, and the fit on a toy: it learns, keeps its promises, and goes on after a kill."""

import dataclasses
import json
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save, save_file
from torch import Tensor, nn

from dftlib import seeds
from dftlib.classifiers.base import TorchClassifier
from dftlib.errors import DataError
from dftlib.experiments.lab import settings_of
from dftlib.experiments.profile import load_profile
from dftlib.images import Pictures
from dftlib.perturbation import gradient
from dftlib.perturbation.box_maps import BOXES
from dftlib.perturbation.from_scores import fit_black_box
from dftlib.perturbation.gradient import Settings, fit, objective
from dftlib.perturbation.perturbation import Perturbation

SIDE = 8
Floats = NDArray[np.float32]

shades = hnp.arrays(np.float32, 24, elements=st.floats(0, 1, width=32) | st.sampled_from([0.0, 1.0]))
shifts = hnp.arrays(np.float32, 24, elements=st.floats(-100, 100, width=32) | st.floats(-3, 3, width=32))
ENDS = np.array([0, 0.5, 1] * 8, np.float32)


def on(box: str, x: Floats, n: Floats) -> Floats:
    return BOXES[box](torch.from_numpy(x), torch.from_numpy(n)).numpy()


@pytest.mark.parametrize("box", BOXES)
@given(x=shades, n=shifts)
@example(x=ENDS, n=np.full(24, -9, np.float32))
@example(x=ENDS, n=np.full(24, 50, np.float32))
@example(x=ENDS, n=np.full(24, -60, np.float32))
def test_what_leaves_a_box_is_a_picture(box: str, x: Floats, n: Floats) -> None:
    """In [0, 1] for every picture and every N, also where a pixel is black or white and N is absurd."""
    z = on(box, x, n)
    assert (z >= 0).all()
    assert (z <= 1).all()


@pytest.mark.parametrize("box", ["atanh", "clip"])
@given(x=shades)
@example(x=ENDS)
def test_no_perturbation_is_no_change(box: str, x: Floats) -> None:
    np.testing.assert_allclose(on(box, x, np.zeros_like(x)), x, rtol=0, atol=1e-7)


def test_the_printed_map_is_no_identity() -> None:
    z = on("printed", np.array([0, 1], np.float32), np.zeros(2, np.float32))
    np.testing.assert_allclose(z, [0.5, 0.880797], atol=1e-6)


@given(x=shades, n=hnp.arrays(np.float32, 24, elements=st.floats(-6, 6, width=32)))
@example(x=ENDS, n=np.linspace(-6, 6, 24, dtype=np.float32))
def test_atanh_is_the_textbooks_change_of_variable(x: Floats, n: Floats) -> None:
    """Carlini and Wagner's form in float64; it has no value at X = 0 and 1, where the limit is X."""
    inside = (x > 0) & (x < 1)
    wide = x.astype(np.float64)[inside]
    z = on("atanh", x, n)
    with np.errstate(divide="ignore"):  # 2X - 1 is -1 for the smallest X, and tanh(-inf) is right
        wanted = (np.tanh(np.arctanh(2 * wide - 1) + n[inside]) + 1) / 2
    np.testing.assert_allclose(z[inside], wanted, rtol=0, atol=1e-6)
    np.testing.assert_array_equal(z[~inside], x[~inside])


@given(x=shades, n=shifts)
def test_printed_and_clip_are_as_written(x: Floats, n: Floats) -> None:
    wide = x.astype(np.float64) + n
    np.testing.assert_allclose(on("printed", x, n), (np.tanh(wide) + 1) / 2, rtol=0, atol=1e-6)
    np.testing.assert_allclose(on("clip", x, n), np.minimum(np.maximum(wide, 0), 1), rtol=0, atol=1e-6)


@pytest.mark.parametrize("box", BOXES)
@given(x=shades, n=shifts, more=st.floats(0, 20, width=32))
def test_more_is_never_darker(box: str, x: Floats, n: Floats, more: float) -> None:
    """Monotone in N, up to the rounding of float32."""
    assert (on(box, x, n + np.float32(more)) >= on(box, x, n) - 1e-6).all()


@pytest.mark.parametrize("box", BOXES)
def test_gradients_of_the_boxes(box: str) -> None:
    random = torch.Generator().manual_seed(0)
    x = torch.rand(3, 2, 4, 4, generator=random, dtype=torch.float64) * 0.8 + 0.1
    n = (torch.randn(1, 2, 4, 4, generator=random, dtype=torch.float64) * 0.5).requires_grad_()
    assert torch.autograd.gradcheck(lambda n: BOXES[box](x, n), n, eps=1e-6, atol=1e-6)
    (gradient,) = torch.autograd.grad(BOXES[box](x, n).sum(), n)
    assert (gradient > 0).any()


@pytest.mark.parametrize("shape", [(1, 3, 5, 4), (3, 5, 4), (37, 3, 5, 4), (1, 3, 1, 1)])
def test_gradient_of_atanh_is_that_of_its_formula(shape: tuple[int, ...]) -> None:
    """More pictures than are computed at a time; one N for all, one for each, one number a channel."""
    random = torch.Generator().manual_seed(1)
    x = torch.rand(37, 3, 5, 4, generator=random, dtype=torch.float64).contiguous(memory_format=torch.channels_last)
    n = torch.randn(shape, generator=random, dtype=torch.float64).requires_grad_()
    weights = torch.randn(37, 3, 5, 4, generator=random, dtype=torch.float64)
    plain = (torch.tanh(torch.atanh(2 * x - 1) + n) + 1) / 2
    found = BOXES["atanh"](x, n)
    torch.testing.assert_close(found, plain)
    torch.testing.assert_close(*(torch.autograd.grad((z * weights).sum(), n)[0] for z in (found, plain)))


@pytest.mark.parametrize("distance", ["mean", "sum"])
@pytest.mark.parametrize("weight", [0.0, 1.0, 20.0])
def test_objective_is_equations_11_and_12(distance: str, weight: float) -> None:
    random = np.random.default_rng(0)
    logits, labels = random.normal(0, 3, (5, 2)), np.array([0, 1, 1, 0, 1])
    x, z = random.random((5, 3, 4, 6)), random.random((5, 3, 4, 6))
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    terms = []
    for k in range(5):
        one_hot = np.eye(2)[labels[k]]
        squares = [(a - b) ** 2 for a, b in zip(x[k].ravel(), z[k].ravel(), strict=True)]
        terms.append(max(0, 1 - one_hot @ p[k]) + weight * (sum(squares) if distance == "sum" else sum(squares) / len(squares)))
    settings = Settings.paper(distance=distance, weight=weight)
    found = objective(torch.from_numpy(logits), torch.from_numpy(labels), torch.from_numpy(x), torch.from_numpy(z), settings)
    assert found.item() == pytest.approx(np.mean(terms), rel=1e-10)


class Body(nn.Module):
    """Mean brightness of the four quarters of a picture."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, images: Tensor) -> Tensor:
        return nn.functional.avg_pool2d(images.to(self.scale.dtype) * self.scale, SIDE // 2).mean(1).flatten(1)


class Net(nn.Module):
    """'Present' where the upper half is brighter than the lower by more than `bias`, which is wrong for the toy's pictures."""

    def __init__(self, bias: float) -> None:
        super().__init__()
        self.body, self.head = Body(), nn.Linear(4, 2)
        with torch.no_grad():
            self.head.weight.copy_(torch.tensor([[0.0, 0, 0, 0], [10.0, 10, -10, -10]]))
            self.head.bias.copy_(torch.tensor([0.0, -bias]))

    def forward(self, images: Tensor) -> Tensor:
        out: Tensor = self.head(self.body(images).float())
        return out


def toy(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Grey noise; pictures of class 1 are brighter above than below."""
    random = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % 2
    images = 0.5 + 0.05 * torch.randn(count, 3, SIDE, SIDE, generator=random)
    images[:, :, : SIDE // 2] += (0.1 * (2 * labels - 1)).view(-1, 1, 1, 1)
    return (images.clamp(0, 1) * 255).round().to(torch.uint8), labels


@pytest.fixture
def model() -> TorchClassifier:
    return TorchClassifier(Net(bias=5.0))


TOY = (*toy(120, 1), *toy(60, 2))
QUICK = Settings.paper(weight=0.1, learning_rate=0.02, batch_size=50, inner_steps=4, epochs=5)
STEEP = dataclasses.replace(QUICK, optimiser="steepest", mirror=True, min_psnr=30.0)


def correct(model: TorchClassifier, images: Pictures, labels: Tensor) -> float:
    return (model.scores(images).argmax(1) == labels).double().mean().item()


@pytest.mark.parametrize("optimiser", ["adam", "steepest"])
@pytest.mark.parametrize("box", ["atanh", "clip"])
def test_a_fit_mends_a_wrong_bias(model: TorchClassifier, box: str, optimiser: str) -> None:
    test, labels = toy(200, 3)
    found = fit(model, *TOY, dataclasses.replace(QUICK, box=box, optimiser=optimiser))
    assert found.n.shape == (3, SIDE, SIDE)
    assert found.box == box
    assert correct(model, test, labels) < 0.55
    assert correct(model, found.apply(test), labels) > 0.9
    assert found.n[:, : SIDE // 2].mean() > 0 > found.n[:, SIDE // 2 :].mean()


def test_the_printed_map_can_be_fitted(model: TorchClassifier) -> None:
    found = fit(model, *TOY, dataclasses.replace(QUICK, box="printed", weight=0.0, learning_rate=0.1, epochs=10))
    test, labels = toy(200, 3)
    assert correct(model, found.apply(test), labels) > 0.9


def test_steepest_descent_goes_along_the_averaged_gradient() -> None:
    """Every step has the length it was told, whatever the gradient's; momentum 0.9, against numpy."""
    random = np.random.default_rng(0)
    start, gradients = random.normal(size=(3, 4)), random.normal(size=(5, 3, 4)) * np.array([1, 1e3, 1e-3, 1, 10])[:, None, None]
    p = torch.tensor(start, requires_grad=True)
    optimiser = gradient.Steepest([p], lr=0.02)
    mean, wanted = np.zeros((3, 4)), start.copy()
    for slope in gradients:
        before = p.detach().clone()
        p.grad = torch.from_numpy(slope)
        optimiser.step()
        mean = 0.9 * mean + 0.1 * slope
        wanted = wanted - 0.02 * mean / np.sqrt((mean**2).mean())
        np.testing.assert_allclose(p.detach().numpy(), wanted, rtol=1e-9)
        assert (p.detach() - before).square().mean().sqrt().item() == pytest.approx(0.02)


def test_the_rate_of_steepest_descent_falls_to_nothing() -> None:
    """As half a cosine over all steps; Adam's stays."""
    n = torch.zeros(1, requires_grad=True)
    rates: dict[str, list[float]] = {}
    for name in ("adam", "steepest"):
        optimiser, schedule = gradient._optimiser(n, dataclasses.replace(QUICK, optimiser=name), steps=10)
        n.grad = torch.ones(1)
        rates[name] = []
        for _ in range(10):
            rates[name].append(optimiser.param_groups[0]["lr"])
            optimiser.step()
            schedule.step()
    np.testing.assert_allclose(rates["adam"], QUICK.learning_rate)
    np.testing.assert_allclose(rates["steepest"], QUICK.learning_rate * (1 + np.cos(np.pi * np.arange(10) / 10)) / 2)


def test_half_of_the_pictures_are_mirrored(model: TorchClassifier) -> None:
    """Seen by the classifier at N = 0: each picture or its mirror image, about as often, and not the same ones every epoch."""
    ramp = torch.linspace(0, 1, SIDE).expand(120, 3, SIDE, SIDE)
    seen: list[Tensor] = []
    logits = model.logits

    def watched(images: Tensor) -> Tensor:
        seen.append(images.detach()[:, 0, 0, 0] > images.detach()[:, 0, 0, -1])
        return logits(images)

    model.logits = watched  # type: ignore[method-assign]
    still = dataclasses.replace(QUICK, learning_rate=0.0, batch_size=120, inner_steps=2, epochs=3)
    fit(model, ramp, *TOY[1:], still)
    assert not torch.cat(seen).any()
    seen.clear()
    fit(model, ramp, *TOY[1:], dataclasses.replace(still, mirror=True))
    assert len(seen) == 6
    assert all(35 < mirrored.sum() < 85 for mirrored in seen)
    assert torch.equal(seen[0], seen[1])
    assert not torch.equal(seen[0], seen[2])


def test_a_fit_goes_on_from_a_given_n(model: TorchClassifier) -> None:
    """With a rate of nothing it ends where it starts; with one, one step from there."""
    data = (*toy(64, 0), *toy(64, 1))
    start = torch.full(tuple(data[0].shape[1:]), 0.25)
    still = fit(model, *data, Settings.paper(batch_size=32, learning_rate=0.0, epochs=1), start=start)
    assert torch.equal(still.n, start)
    step = Settings.paper(batch_size=64, learning_rate=0.01, inner_steps=1, epochs=1)
    moved = fit(Scripted([0, 10]), *data[:2], VALIDATION, ONES, step, start=start)
    assert (moved.n - start).abs().max().item() == pytest.approx(0.01, rel=1e-4)
    assert torch.equal(start, torch.full_like(start, 0.25))


Wide = NDArray[np.float64]


def toys_logits(images: Wide) -> Wide:
    """`Net` with a bias of 5, in numpy: n x 2."""
    rows = images.mean((1, 3))
    return np.stack([np.zeros(len(images)), 20 * (rows[:, : SIDE // 2].mean(1) - rows[:, SIDE // 2 :].mean(1)) - 5], 1)


def boxed(images: Wide, n: Wide) -> Wide:
    wanted: Wide = (np.tanh(np.arctanh(2 * images - 1) + n) + 1) / 2
    return wanted


@pytest.mark.parametrize("strength", [0.0, 0.3])
def test_the_temperature_is_by_the_margin_at_the_start(model: TorchClassifier, strength: float) -> None:
    """0.7 x the median distance of the two logits of the pictures, with the N that the fit starts from."""
    images, labels = (part[:99] for part in TOY[:2])  # an odd number: the median is one of them
    start = torch.zeros(3, SIDE, SIDE)
    start[:, : SIDE // 2] = strength
    logits = toys_logits(boxed(images.numpy() / 255, start.numpy().astype(np.float64)))
    by_margin = dataclasses.replace(QUICK, temperature=0.0, epochs=1)
    found = fit(model, images, labels, *TOY[2:], by_margin, start=start)
    assert found.about["fitted_at"] == pytest.approx(0.7 * np.median(np.abs(logits[:, 1] - logits[:, 0])), rel=1e-5)
    assert found.about["temperature"] == 0
    fixed = fit(
        model, images, labels, *TOY[2:], dataclasses.replace(by_margin, temperature=found.about["fitted_at"]), start=start
    )
    assert torch.equal(fixed.n, found.n)
    assert fixed.about["fitted_at"] == fixed.about["temperature"]


def test_the_margin_is_that_of_the_two_likeliest_classes() -> None:
    logits = np.random.default_rng(0).normal(0, 3, (101, 5))
    ordered = np.sort(logits, 1)
    assert gradient.margin(torch.from_numpy(logits)) == pytest.approx(np.median(ordered[:, -1] - ordered[:, -2]), rel=1e-5)


@pytest.mark.parametrize("balance", [False, True])
@pytest.mark.parametrize("temperature", [0.4, 1.0, 7.0])
def test_a_step_goes_down_the_slope_of_the_loss_at_its_temperature(temperature: float, balance: bool) -> None:
    """One step of steepest descent against differences of the loss written out in numpy, three pictures in four of class 0."""
    images = TOY[0][np.r_[0:90:2, 1:31:2]]
    labels = torch.tensor([0] * 45 + [1] * 15)
    x, y = images.numpy() / 255, labels.numpy()
    weights = np.array([60 / 90, 60 / 30])[y] if balance else np.ones(60)
    start = np.random.default_rng(0).normal(0, 0.2, (3, SIDE, SIDE)).astype(np.float32)

    def loss(n: Wide) -> float:
        z = boxed(x, n)
        powers = np.exp(toys_logits(z) / temperature)
        wrong = 1 - powers[np.arange(60), y] / powers.sum(1)
        return float((weights * wrong).mean() + 3 * ((z - x) ** 2).mean())

    settings = Settings.paper(
        weight=3, temperature=temperature, balance=balance, optimiser="steepest", learning_rate=0.001, batch_size=60,
        inner_steps=1, steps=1,
    )  # fmt: skip
    found = fit(Scripted([0, 10]), images, labels, VALIDATION, ONES, settings, start=torch.from_numpy(start))
    assert found.about["epoch"] == 1
    slope = np.empty(start.shape)
    for place in np.ndindex(start.shape):
        more, less = start.astype(np.float64), start.astype(np.float64)
        more[place] += 1e-4
        less[place] -= 1e-4
        slope[place] = (loss(more) - loss(less)) / 2e-4
    step = found.n.numpy().astype(np.float64) - start
    np.testing.assert_allclose(step, -0.001 * slope / np.sqrt((slope**2).mean()), atol=3e-6)


def test_weighed_classes_are_fitted_as_if_the_rarer_one_were_there_more_often(model: TorchClassifier) -> None:
    """Three pictures of class 1, or each of them four times, among twelve of class 0: the same fit."""
    images, labels = (part[np.r_[0:24:2, 1:7:2]] for part in TOY[:2])
    often = np.r_[0:12, np.tile(np.arange(12, 15), 4)]
    wanted = dataclasses.replace(QUICK, weight=0.0, batch_size=24, inner_steps=6, epochs=2)
    weighed = fit(model, images, labels, *TOY[2:], dataclasses.replace(wanted, balance=True))
    oversampled = fit(model, images[often], labels[often], *TOY[2:], wanted)
    neither = fit(model, images, labels, *TOY[2:], wanted)
    assert weighed.about["epoch"] == oversampled.about["epoch"] > 0
    torch.testing.assert_close(weighed.n, oversampled.n, rtol=0, atol=1e-4)
    assert (weighed.n - neither.n).abs().max() > 1e-3
    for one, other in zip(weighed.about["history"], oversampled.about["history"], strict=True):
        assert one["loss"] == pytest.approx(other["loss"], rel=1e-4)


def test_classes_that_are_as_frequent_need_no_weights(model: TorchClassifier) -> None:
    even, weighed = (fit(model, *TOY, dataclasses.replace(QUICK, balance=balance)) for balance in (False, True))
    torch.testing.assert_close(even.n, weighed.n, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("given", "pictures", "rounds", "draws"),
    [
        ({"epochs": 5, "batch_size": 800}, 1600, 5, 2),
        ({"epochs": 5, "batch_size": 800}, 1601, 5, 3),
        ({"steps": 480, "inner_steps": 1, "epochs": 7}, 10, 4, 120),
        ({"steps": 480, "inner_steps": 1, "epochs": 7}, 10_000, 4, 120),
        ({"steps": 480, "inner_steps": 16}, 10, 4, 8),  # 7.5 draws a round
        ({"steps": 32, "inner_steps": 16}, 10, 2, 1),
        ({"steps": 3, "inner_steps": 1}, 10, 3, 1),
        ({"steps": 1, "inner_steps": 16}, 10, 1, 1),
    ],
)
def test_the_schedule_of_a_fit(given: dict[str, Any], pictures: int, rounds: int, draws: int) -> None:
    assert Settings.paper(**given).schedule(pictures) == (rounds, draws)


@given(steps=st.integers(1, 5000), inner=st.integers(1, 40))
def test_about_as_many_steps_are_taken_as_were_asked_for(steps: int, inner: int) -> None:
    """Half a batch a round more or less, in four rounds where there are as many batches."""
    rounds, draws = Settings.paper(steps=steps, inner_steps=inner).schedule(100)
    assert rounds == min(4, max(1, steps // inner))
    assert abs(rounds * draws * inner - steps) <= max(inner, rounds * inner / 2)


@pytest.mark.parametrize(("steps", "batch", "each"), [(20, 4, {2}), (40, 10, {10}), (8, 2, {0, 1})])
def test_steps_go_through_all_pictures_before_any_comes_again(steps: int, batch: int, each: set[int]) -> None:
    """Ten pictures, told apart by their grey level, and how often each is seen in each of four rounds."""
    images = torch.linspace(0.05, 0.95, 10).view(-1, 1, 1, 1).expand(10, 3, SIDE, SIDE)
    model = Scripted([0] * 5)
    seen: list[int] = []
    logits = model.logits

    def watched(shown: Tensor) -> Tensor:
        seen.extend((shown.detach()[:, 0, 0, 0] * 10).int().tolist())
        return logits(shown)

    model.logits = watched  # type: ignore[assignment,method-assign]
    fit(
        model,
        images,
        torch.arange(10) % 2,
        VALIDATION,
        ONES,
        Settings.paper(learning_rate=0, steps=steps, batch_size=batch, inner_steps=1),
    )
    assert len(seen) == steps * batch
    for part in np.array(seen).reshape(4, -1):
        assert {int((part == level).sum()) for level in range(10)} == each
        assert all(len(set(part[i : i + 10])) == len(part[i : i + 10]) for i in range(0, len(part), 10))


def test_a_fit_leaves_the_network_alone(model: TorchClassifier) -> None:
    before = {name: t.clone() for name, t in model.net.state_dict().items()}
    fit(model, *TOY, QUICK)
    after = model.net.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert not any(p.requires_grad or p.grad is not None for p in model.net.parameters())


@pytest.mark.parametrize("box", ["atanh", "clip"])
@pytest.mark.parametrize("limit", [25.0, 30.0, 35.0])
def test_a_fit_keeps_the_limit_on_distortion(model: TorchClassifier, box: str, limit: float) -> None:
    """A bias that takes more than the limit allows to mend, and one that takes less."""
    images, labels = TOY[:2]
    wanted = dataclasses.replace(QUICK, box=box, weight=0.0, min_psnr=limit, epochs=8, patience=8)
    free = fit(model, *TOY, dataclasses.replace(wanted, min_psnr=0.0))
    assert psnr(free, images) < limit - 1
    for bias in (5.0, 2.4):
        model = TorchClassifier(Net(bias))
        held = fit(model, *TOY, wanted)
        assert psnr(held, images) >= limit - 0.01
        assert correct(model, held.apply(images), labels) >= correct(model, images, labels)
    assert held.about["epoch"] > 0
    assert correct(model, held.apply(images), labels) > 0.9


def psnr(found: Perturbation, images: Tensor) -> float:
    """Of the mean squared distance over all pictures, which is at most the mean of theirs."""
    original = images.numpy() / 255
    return float(-10 * np.log10(((found.apply(images).numpy().astype(np.float64) - original) ** 2).mean()))


@pytest.mark.parametrize("optimiser", ["adam", "steepest"])
@pytest.mark.parametrize("box", ["atanh", "clip"])
def test_where_a_round_ends_the_limit_holds_on_the_pool(box: str, optimiser: str) -> None:
    """Of 700 pictures, half of them with black and white pixels that cut N off; large steps push against the limit."""
    images, labels = toy(700, 5)
    images[::2, :, ::2] = images[::2, :, ::2].float().sub(115).mul(8).clamp(0, 255).to(torch.uint8)
    pool = images[np.sort(seeds.rng(4, "pool").permutation(700)[: gradient.POOL])]
    wanted = dataclasses.replace(
        QUICK,
        box=box,
        optimiser=optimiser,
        weight=0.0,
        min_psnr=24.0,
        learning_rate=0.05,
        batch_size=100,
        inner_steps=1,
        steps=60,
    )
    for rounds in range(1, gradient.ROUNDS + 1):  # each of them is the best once
        model = Scripted([0] * rounds + [9] + [0] * (gradient.ROUNDS - rounds))
        held = fit(model, images, labels, VALIDATION, ONES, wanted, seed=4)
        assert held.about["epoch"] == rounds
        assert 24 - 0.01 <= psnr(held, pool) < 24.5
        assert psnr(held, images) == pytest.approx(psnr(held, pool), abs=0.3)


class Scripted(TorchClassifier):
    """A classifier whose validation accuracy follows a script, in tenths of ten pictures: at the start, after each epoch."""

    def __init__(self, tenths: list[int]) -> None:
        super().__init__(Net(bias=5.0))
        self.tenths = iter(tenths)
        self.asked: list[Tensor] = []

    def scores(self, images: Pictures) -> Tensor:
        assert isinstance(images, Tensor)
        self.asked.append(images.clone())
        right = next(self.tenths)
        return torch.tensor([[0.0, 1.0]] * right + [[1.0, 0.0]] * (10 - right))


VALIDATION = toy(10, 4)[0]
ONES = torch.ones(10, dtype=torch.int64)


def test_the_epoch_with_the_best_validation_is_kept() -> None:
    model = Scripted([2, 3, 7, 5, 7, 6])
    found = fit(model, *TOY[:2], VALIDATION, ONES, QUICK)
    assert (found.about["start"], found.about["epoch"]) == (0.2, 2)
    assert [h["val_accuracy"] for h in found.about["history"]] == [0.3, 0.7, 0.5, 0.7, 0.6]
    assert torch.equal(found.apply(VALIDATION), model.asked[2])
    assert not torch.equal(found.apply(VALIDATION), model.asked[5])


def test_balanced_classes_weigh_as_if_each_were_drawn_as_often() -> None:
    """The gradient of weighed pictures is that of a set in which the rarer class is repeated."""
    logits = torch.randn(8, 2, generator=torch.Generator().manual_seed(1)).requires_grad_()
    labels = torch.tensor([0, 0, 0, 0, 0, 0, 1, 1])
    images = torch.zeros(8, 3, 2, 2)
    weights = torch.tensor([8 / (2 * 6), 8 / (2 * 2)])[labels]
    weighed = objective(logits, labels, images, images, Settings.paper(), weights)
    again = torch.tensor([0, 1, 2, 3, 4, 5, 6, 7, 6, 7, 6, 7])
    repeated = objective(logits[again], labels[again], images[again], images[again], Settings.paper())
    one, other = (torch.autograd.grad(loss, logits, retain_graph=True)[0] for loss in (weighed, repeated))
    torch.testing.assert_close(one, other)


@pytest.mark.parametrize("settings", [QUICK, STEEP, dataclasses.replace(STEEP, steps=60)], ids=["adam", "steepest", "steps"])
def test_where_no_round_is_better_there_is_no_perturbation(settings: Settings) -> None:
    """As good isn't better; and a fit that goes on from some N keeps that one."""
    wanted = dataclasses.replace(settings, epochs=4)
    found = fit(Scripted([7, 3, 7, 6, 7]), *TOY[:2], VALIDATION, ONES, wanted)
    assert (found.about["start"], found.about["epoch"]) == (0.7, 0)
    assert len(found.about["history"]) == 4
    assert not found.n.any()
    assert torch.equal(found.apply_uint8(VALIDATION), VALIDATION)
    start = torch.full((3, SIDE, SIDE), 0.01)
    kept = fit(Scripted([7, 3, 7, 6, 7]), *TOY[:2], VALIDATION, ONES, wanted, start=start)
    assert kept.about["epoch"] == 0
    assert torch.equal(kept.n, start)


@pytest.mark.parametrize(
    ("patience", "tenths", "epochs"),
    [(2, [0, 3, 7, 5, 6], 4), (2, [3, 7, 5, 6], 3), (1, [3, 3], 1), (5, [7, 6, 5, 4, 3, 2], 5), (2, [1, 2, 3, 4, 5, 6, 7], 6)],
)
def test_a_fit_stops_when_validation_gets_no_better(patience: int, tenths: list[int], epochs: int) -> None:
    """The start counts as the round before the first."""
    model = Scripted(tenths)
    found = fit(model, *TOY[:2], VALIDATION, ONES, dataclasses.replace(QUICK, epochs=6, patience=patience))
    assert len(found.about["history"]) == epochs
    assert next(model.tenths, None) is None


class KilledError(Exception):
    pass


class Mortal(TorchClassifier):
    """Dies when it is asked for the logits of batch `last` (counted from 0)."""

    def __init__(self, last: int) -> None:
        super().__init__(Net(bias=5.0))
        self.left = last

    def logits(self, images: Tensor) -> Tensor:
        if self.left == 0:
            raise KilledError
        self.left -= 1
        return super().logits(images)


@pytest.mark.parametrize("step", [5, 12, 30, 59])
@pytest.mark.parametrize("settings", [QUICK, STEEP], ids=["adam", "steepest"])
def test_a_killed_fit_ends_as_if_it_had_not_been_killed(
    model: TorchClassifier, tmp_path: Path, step: int, settings: Settings
) -> None:
    """Three batches of four steps make an epoch: killed within the first, between, and in the last of five."""
    part = tmp_path / "n.part"
    undisturbed = fit(model, *TOY, settings, seed=3)
    assert len(undisturbed.about["history"]) == 5
    with pytest.raises(KilledError):
        fit(Mortal(step), *TOY, settings, seed=3, checkpoint=part)
    assert part.exists() == (step >= 12)
    steps: list[Tensor] = []
    logits = model.logits

    def counted(images: Tensor) -> Tensor:
        steps.append(images)
        return logits(images)

    model.logits = counted  # type: ignore[method-assign]
    resumed = fit(model, *TOY, settings, seed=3, checkpoint=part)
    assert len(steps) == 60 - 12 * (step // 12)
    assert torch.equal(resumed.n, undisturbed.n)
    assert resumed.about == undisturbed.about
    assert list(tmp_path.iterdir()) == []


BY_STEPS = dataclasses.replace(STEEP, steps=48, temperature=0.0, balance=True, batch_size=70)


@pytest.mark.parametrize("step", [1, 7, 14, 31, 49])
def test_a_killed_fit_by_steps_ends_as_if_it_had_not_been_killed(model: TorchClassifier, tmp_path: Path, step: int) -> None:
    """Two calls for the temperature, then four rounds of twelve: killed before, in the first, between, and at the last step."""
    part, data = tmp_path / "n.part", (TOY[0][:100], TOY[1][:100], *TOY[2:])
    undisturbed = fit(model, *data, BY_STEPS, seed=3)
    assert len(undisturbed.about["history"]) == 4
    with pytest.raises(KilledError):
        fit(Mortal(step), *data, BY_STEPS, seed=3, checkpoint=part)
    assert part.exists() == (step >= 14)
    resumed = fit(model, *data, BY_STEPS, seed=3, checkpoint=part)
    assert torch.equal(resumed.n, undisturbed.n)
    assert resumed.about == undisturbed.about
    assert list(tmp_path.iterdir()) == []


def test_a_fit_killed_twice_ends_the_same(model: TorchClassifier, tmp_path: Path) -> None:
    part = tmp_path / "n.part"
    for steps in (14, 25):
        with pytest.raises(KilledError):
            fit(Mortal(steps), *TOY, QUICK, checkpoint=part)
    assert torch.equal(fit(model, *TOY, QUICK, checkpoint=part).n, fit(model, *TOY, QUICK).n)


def test_a_checkpoint_may_be_named_by_a_text(model: TorchClassifier, tmp_path: Path) -> None:
    part = str(tmp_path / "fit.part")
    with pytest.raises(KilledError):
        fit(Mortal(14), *TOY, QUICK, checkpoint=part)
    assert Path(part).is_file()
    assert torch.equal(fit(model, *TOY, QUICK, checkpoint=part).n, fit(model, *TOY, QUICK).n)


def test_a_checkpoint_of_another_fit_is_refused(model: TorchClassifier, tmp_path: Path) -> None:
    part = tmp_path / "n.part"
    with pytest.raises(KilledError):
        fit(Mortal(14), *TOY, QUICK, checkpoint=part)
    images, labels, val, val_labels = TOY
    others = [(dataclasses.replace(QUICK, weight=7.0), labels, 0), (QUICK, labels.roll(1), 0), (QUICK, labels, 1)]
    for settings, known, seed in others:
        with pytest.raises(DataError, match=r"n\.part is of another fit: take it away"):
            fit(model, images, known, val, val_labels, settings, seed, part)
    assert torch.equal(fit(model, *TOY, QUICK, checkpoint=part).n, fit(model, *TOY, QUICK).n)


class Rootless(nn.Module):
    """Answers are finite, the gradient isn't: that of a root at 0."""

    def forward(self, x: Tensor) -> Tensor:
        level = x.mean((1, 2, 3))
        return torch.stack([level, 1 - level], 1) + (x * 0).sum((1, 2, 3)).sqrt()[:, None]


class Detached(Rootless):
    """It is computed with, and leads nowhere."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.detach())


@pytest.mark.filterwarnings("ignore:The classifier is right about 0.0 %")
def test_a_network_without_a_gradient_is_named() -> None:
    with pytest.raises(DataError, match="gradient to its input is no number"):
        fit(TorchClassifier(Rootless()), *TOY, QUICK)
    with pytest.raises(DataError, match="gives no gradient to its input"):
        fit(TorchClassifier(Detached()), *TOY, QUICK)


class Level(nn.Module):
    """Of the two classes it names the brighter one 0."""

    def forward(self, x: Tensor) -> Tensor:
        level = x.mean((1, 2, 3))
        return torch.stack([level, 1 - level], 1)


def test_labels_in_another_order_are_warned_of() -> None:
    images, labels, val, val_labels = TOY
    with pytest.warns(UserWarning, match=r"if its answers 0, 1, … meant the classes 1, 0: number the labels as it does\. If"):
        fit(TorchClassifier(Level()), images, labels, val, val_labels, QUICK)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fit(TorchClassifier(Level()), images, 1 - labels, val, 1 - val_labels, QUICK)


def test_a_class_that_validation_lacks_is_warned_of() -> None:
    images, labels, val, val_labels = TOY
    only = val_labels == 0
    with pytest.warns(UserWarning, match=r"^No validation image is of class 1, so N may harm it unseen: add some\.$"):
        fit(TorchClassifier(Level()), images, 1 - labels, val[only], val_labels[only], QUICK)


def test_a_network_that_is_not_wrapped_is_named() -> None:
    for way in (fit, fit_black_box):
        with pytest.raises(DataError, match=r"needs TorchClassifier\(network\).*, not a Rootless: wrap"):
            way(Rootless(), *TOY)  # type: ignore[arg-type]


def test_mirrored_arrays_and_numpys_integers_are_taken(model: TorchClassifier) -> None:
    images, labels, val, val_labels = TOY
    turned = np.asarray(images)[:, ::-1]
    seed: Any = np.int64(3)
    found = fit(model, turned, labels, val, val_labels, QUICK, seed)
    assert torch.equal(found.n, fit(model, turned.copy(), labels, val, val_labels, QUICK, 3).n)


def test_a_seed_names_a_fit(model: TorchClassifier, tmp_path: Path) -> None:
    a, b, c = (fit(model, *TOY, QUICK, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(a.n, b.n)
    assert a.about == b.about
    assert not torch.equal(a.n, c.n)
    contents = set()
    for _ in range(10):  # a writer that orders by chance is often right
        for found in (a, b):
            found.save(tmp_path / "n")
            contents.add((tmp_path / "n").read_bytes())
    assert len(contents) == 1


def test_pictures_may_be_bytes_or_fractions(model: TorchClassifier) -> None:
    images, labels, val, val_labels = TOY
    as_bytes = fit(model, images.numpy(), labels, val.numpy(), val_labels, QUICK)
    as_floats = fit(model, images / 255, labels, val / 255, val_labels, QUICK)
    assert torch.equal(as_bytes.n, as_floats.n)


def test_labels_of_one_class_are_refused(model: TorchClassifier) -> None:
    with pytest.raises(DataError, match="one class"):
        fit(model, TOY[0], torch.ones(120, dtype=torch.int64), *TOY[2:], QUICK)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"box": "tanh"}, "choose one of atanh, printed, clip"),
        ({"optimiser": "sgd"}, "choose 'adam' or 'steepest'"),
        ({"distance": "median"}, "choose 'mean' or 'sum'"),
        ({"box": "printed", "min_psnr": 30.0}, "set min_psnr to 0"),
        ({"batch_size": 0}, "batch_size"),
        ({"inner_steps": 0}, "inner_steps"),
        ({"epochs": 0}, "epochs"),
        ({"patience": 0}, "patience"),
        ({"temperature": -0.5}, "Parameter 'temperature' must be a number, 0 or more, not -0.5"),
        ({"learning_rate": float("nan")}, "Parameter 'learning_rate' must be a number"),
        ({"weight": -5.0}, "Parameter 'weight' must be a number"),
        ({"min_psnr": float("inf")}, "Parameter 'min_psnr' must be a number"),
        ({"steps": -1}, "Parameter 'steps' must be 0 or more, not -1"),
    ],
)
def test_settings_that_make_no_sense_are_refused(wrong: dict[str, Any], words: str) -> None:
    with pytest.raises(DataError, match=words):
        Settings(**wrong)


def some_n() -> Tensor:
    return torch.randn(3, 6, 5, generator=torch.Generator().manual_seed(0))


def test_saved_and_loaded(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "n.safetensors"
    made = Perturbation(some_n(), "clip", {"seed": 3, "history": [{"loss": 0.25}], "note": "é"})
    made.save(path)
    loaded = Perturbation.load(path)
    assert torch.equal(loaded.n, made.n)
    assert (loaded.box, loaded.about) == (made.box, made.about)
    assert sorted(p.name for p in path.parent.iterdir()) == ["n.md", "n.png", "n.safetensors"]
    assert (path.parent / "n.md").read_text(encoding="utf-8") == made.card()


@pytest.mark.parametrize("other", ["photo.png", "photo.md"])
def test_what_is_not_of_an_n_is_not_written_over(tmp_path: Path, other: str) -> None:
    (tmp_path / other).write_text("mine")
    with pytest.raises(DataError, match=f"{other} would be written over, and isn't of an N: give"):
        Perturbation(some_n()).save(tmp_path / "photo.safetensors")
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [(other, "mine")]


def test_the_picture_of_n_is_grey_where_n_is_zero(tmp_path: Path) -> None:
    n = torch.zeros(3, 6, 5)
    n[0, 1, 2], n[2, 5, 4] = 0.5, -0.5
    Perturbation(n).save(tmp_path / "n.safetensors")
    pixels = np.asarray(Image.open(tmp_path / "n.png")).astype(int)
    assert pixels.shape == (6, 5, 3)
    assert (pixels[1, 2, 0], pixels[5, 4, 2]) == (255, 0)
    assert (abs(pixels[n.permute(1, 2, 0).numpy() == 0] - 127.5) <= 0.5).all()


@pytest.mark.parametrize("box", BOXES)
@pytest.mark.parametrize("count", [1, 600])
def test_apply_adds_n_to_every_picture(box: str, count: int) -> None:
    images = torch.randint(0, 256, (count, 3, 6, 5), generator=torch.Generator().manual_seed(1)).to(torch.uint8)
    found = Perturbation(some_n(), box)
    z = found.apply(images)
    assert z.dtype == torch.float32
    torch.testing.assert_close(z, BOXES[box](images.float() / 255, some_n()))
    assert torch.equal(found.apply(images.numpy()), z)
    assert torch.equal(found.apply(images.float() / 255), z)
    whole = found.apply_uint8(images)
    assert whole.dtype == torch.uint8
    np.testing.assert_array_equal(whole.numpy(), np.rint(z.numpy() * np.float32(255)).astype(np.uint8))


@pytest.mark.parametrize("shape", [(2, 3, 5, 6), (2, 1, 6, 5), (3, 6, 5)])
def test_pictures_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(DataError, match="resize"):
        Perturbation(some_n()).apply(torch.zeros(shape))


def metadata(about: Any = None) -> dict[str, str]:
    """What `save` writes beside the numbers, whatever its layout."""
    with tempfile.TemporaryDirectory() as folder:
        Perturbation(some_n(), "atanh", {} if about is None else about).save(Path(folder) / "n.safetensors")
        with safe_open(Path(folder) / "n.safetensors", "pt") as file:
            found: dict[str, str] = file.metadata()
            return found


GOOD = metadata()


def test_the_files_below_are_refused_for_what_is_wrong_with_them(tmp_path: Path) -> None:
    save_file({"n": some_n()}, tmp_path / "n.safetensors", GOOD)
    assert torch.equal(Perturbation.load(tmp_path / "n.safetensors").n, some_n())


@pytest.mark.parametrize(
    ("n", "meta"),
    [
        (some_n(), None),
        (some_n(), {"format": "pt"}),
        (some_n(), {k: v.replace("atanh", "tanh") for k, v in GOOD.items()}),
        (some_n(), {k: v[:-1] for k, v in GOOD.items()}),
        (some_n(), {k: "3" for k in GOOD}),
        (some_n(), metadata(about=3)),
        (some_n().double(), GOOD),
        (some_n()[0], GOOD),
        (some_n() * torch.nan, GOOD),
        (some_n() / 0, GOOD),
        (torch.zeros(3, 0, 5), GOOD),
    ],
)
def test_a_file_of_another_kind_is_refused(tmp_path: Path, n: Tensor, meta: dict[str, str] | None) -> None:
    save_file({"n": n.contiguous()}, tmp_path / "n.safetensors", meta)
    with pytest.raises(DataError, match=r"n\.safetensors"):
        Perturbation.load(tmp_path / "n.safetensors")


def test_another_name_and_no_file_are_refused(tmp_path: Path) -> None:
    save_file({"m": some_n()}, tmp_path / "n.safetensors", GOOD)
    for path in (tmp_path / "n.safetensors", tmp_path / "none.safetensors", tmp_path):
        with pytest.raises(DataError, match="name a file"):
            Perturbation.load(path)


def only_data_errors(path: Path, content: bytes) -> bool:
    """Whether the file is taken; whatever else it raises than `DataError` fails the test."""
    path.write_bytes(content)
    try:
        Perturbation.load(path)
    except DataError:
        return False
    return True


SAVED = save({"n": some_n()}, GOOD)
dtypes = st.sampled_from(["F32", "F64", "BF16", "F8_E4M3", "F8_E8M0", "F4", "BOOL", "U64", "X"])


@given(content=st.binary(max_size=200))
def test_garbage_is_refused(scratch: Path, content: bytes) -> None:
    assert not only_data_errors(scratch / "garbage.safetensors", content)


@given(kept=st.integers(0, len(SAVED) - 1))
def test_a_truncated_file_is_refused(scratch: Path, kept: int) -> None:
    assert not only_data_errors(scratch / "short.safetensors", SAVED[:kept])


@given(place=st.integers(0, len(SAVED) - 1), value=st.integers(0, 255))
def test_a_file_with_a_wrong_byte_loads_or_is_refused(scratch: Path, place: int, value: int) -> None:
    only_data_errors(scratch / "bent.safetensors", SAVED[:place] + bytes([value]) + SAVED[place + 1 :])


@given(
    dtype=dtypes,
    shape=st.lists(st.integers(-1, 6), max_size=4),
    end=st.integers(0, 400),
    key=st.sampled_from([*GOOD, "other"]),
    about=st.text(max_size=5) | st.sampled_from(["[]", "{}", "null", "[" * 100000]),
)
def test_a_strange_header_loads_or_is_refused(
    scratch: Path, dtype: str, shape: list[int], end: int, key: str, about: str
) -> None:
    entry = {"dtype": dtype, "shape": shape, "data_offsets": [0, end]}
    header = json.dumps({"n": entry, "__metadata__": {**GOOD, key: about}}).encode()
    only_data_errors(scratch / "strange.safetensors", len(header).to_bytes(8, "little") + header + bytes(end))


@pytest.mark.parametrize("dtype", ["F8_E4M3", "F8_E8M0", "F4", "F6_E2M3", "BOOL", "U64", "C64", "BF16"])
def test_numbers_of_another_kind_are_refused(tmp_path: Path, dtype: str) -> None:
    bits = {"F4": 4, "F6_E2M3": 6, "BOOL": 8, "U64": 64, "C64": 64, "BF16": 16}.get(dtype, 8)
    size = 3 * 4 * 4 * bits // 8
    entry = {"dtype": dtype, "shape": [3, 4, 4], "data_offsets": [0, size]}
    header = json.dumps({"n": entry, "__metadata__": GOOD}).encode()
    assert not only_data_errors(tmp_path / "n.safetensors", len(header).to_bytes(8, "little") + header + bytes(size))


def test_loading_runs_no_code(tmp_path: Path) -> None:
    """A pickled file that would write a mark is refused before it can."""
    mark: Callable[[], bool] = (tmp_path / "ran").exists
    torch.save({"n": some_n(), "box": "atanh", "about": "{}"}, tmp_path / "n.safetensors")
    with pytest.raises(DataError):
        Perturbation.load(tmp_path / "n.safetensors")
    assert not mark()


def test_the_defaults_are_the_profile_small_and_the_papers_the_profile_paper() -> None:
    assert Settings() == settings_of(load_profile("small"))
    assert settings_of(load_profile("paper")) == Settings.paper()
    s = Settings.paper()
    assert (s.learning_rate, s.batch_size, s.inner_steps, s.epochs) == (0.001, 800, 16, 5)
    assert (s.temperature, s.balance, s.steps, s.min_psnr) == (1, False, 0, 0)
