"""Flips against plain loops over one picture at a time, and against every size there is where the network is linear."""

import dataclasses
import math
from typing import Any
from unittest.mock import Mock

import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
import torch
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from test_similarity import Spy
from torch import Tensor, nn

from dftlib.models.attribute_networks import ConvNets, Network, losses, present
from dftlib.perturbation import per_image
from dftlib.perturbation.per_image import Flips, flip

SHAPE = (16, 12)
WAYS = [(method, search) for method in ("fgs", "ffa") for search in ("line", "iterative")]
KINDS = {"euclidean": (1, 0), "softmax": (2, 0), "moon": (5, 3)}  # outputs, attribute
CASES = [(kind, *way) for kind in KINDS for way in WAYS if (kind, way[0]) != ("moon", "fgs")]
Pixels = NDArray[np.uint8]


class Linear(Network):
    """Scores (w · grey levels + b) / unit, exact for whole levels."""

    def __init__(self, weights: Any, bias: Any, unit: float = 1e5) -> None:
        nn.Module.__init__(self)
        self.weights = nn.Parameter(torch.tensor(np.asarray(weights), dtype=torch.float64), requires_grad=False)
        self.bias, self.unit = torch.tensor(bias, dtype=torch.float64), unit

    def forward(self, images: Tensor) -> Tensor:
        return (torch.einsum("nchw,ochw->no", (images * 255).double(), self.weights) + self.bias) / self.unit


def slope(bias: float, unit: float = 1e5) -> Linear:
    """Score (first level + bias) / unit of a picture of one pixel; its other two levels have no say."""
    return Linear([[[[1]], [[0]], [[0]]]], [bias], unit)


def levels(*first: int) -> Tensor:
    """A picture of one pixel for each."""
    return torch.tensor([[[[x]], [[7]], [[8]]] for x in first], dtype=torch.uint8)


def smooth(count: int, seed: int = 0) -> Tensor:
    small = torch.rand(count, 3, 4, 3, generator=torch.Generator().manual_seed(seed))
    return (nn.functional.interpolate(small, SHAPE, mode="bilinear") * 255).round().to(torch.uint8)


def curved(outputs: int, seed: int = 0) -> Network:
    """An untrained network whose scores of smooth pictures are spread about zero; double, so that batches don't matter."""
    torch.manual_seed(seed)
    nets, images = ConvNets(1, outputs, SHAPE).double(), smooth(64, 9).float() / 255
    with torch.no_grad():
        for p in nets.parameters():
            if p.ndim == 1:
                p.add_(torch.randn_like(p), alpha=0.3)
        for _ in range(20):  # the statistics of normalisation move by a tenth each time
            nets(images)
        scores, head = nets.eval()(images)[:, 0], nets.net[-1]
        assert isinstance(head, nn.Conv2d)
        assert head.bias is not None
        head.weight.div_(scores.std(0).view(-1, 1, 1, 1))
        head.bias.sub_(scores.median(0).values).div_(scores.std(0))
    return Network(nets)


def loss_of(kind: str) -> str:
    return "softmax" if kind == "softmax" else "euclidean"


def there(scores: Tensor, kind: str) -> Tensor:
    """The classification of scores n x outputs."""
    return scores[:, 1] > scores[:, 0] if kind == "softmax" else scores[:, KINDS[kind][1]] > 0


def answers(net: Network, images: Tensor, kind: str = "euclidean") -> Tensor:
    return there(net(images.float() / 255), kind)


class Alone:
    """Section 3 for one picture: its directions, and both searches in plain loops."""

    def __init__(self, net: Network, kind: str, method: str, picture: Tensor, label: float) -> None:
        self.net, self.kind, self.method, self.label = net, kind, method, label
        self.picture = picture.float()
        self.was = self.asks(self.picture)

    def asks(self, z: Tensor) -> bool:
        return bool(there(self.net(z[None] / 255), self.kind))

    def direction(self, z: Tensor) -> Tensor:
        z = z.clone().requires_grad_()
        scores = self.net(z[None] / 255)[0]
        if self.method == "fgs":
            right = self.was == (self.label > 0)
            if self.kind == "softmax":
                loss = -(scores.exp() / scores.exp().sum())[int(self.label > 0)].log()
            else:
                loss = (scores[0] - self.label) ** 2
            return torch.autograd.grad(loss if right else -loss, z)[0].sign()
        target = scores.detach().clone()
        target[int(scores.argmax()) if self.kind == "softmax" else KINDS[self.kind][1]] = 0
        gradient = torch.autograd.grad((target - scores).square().sum() / 2, z)[0]
        return -gradient / gradient.abs().max()

    def moved(self, size: float) -> Tensor:
        return (self.picture + size * self.direction(self.picture)).clamp(0, 255).round()

    def line(self) -> tuple[Tensor, float]:
        size = 1.0
        while self.asks(self.moved(size)) == self.was:
            size *= 2
            if size > 256:
                return self.picture, math.inf
        low, high = (0.0 if size == 1 else size / 2), size
        while high - low > (1 if self.method == "fgs" else 0.125):
            middle = (low + high) / 2
            if self.asks(self.moved(middle)) == self.was:
                low = middle
            else:
                high = middle
        return self.moved(high), high

    def iterative(self) -> tuple[Tensor, float]:
        z = self.picture
        way = torch.zeros_like(z)
        for step in range(1, per_image.STEPS + 1):
            if self.asks(z) == self.was:  # or else only the rounded picture isn't over the border yet: on as before
                way = self.direction(z)
            z = (z + way).clamp(0, 255)
            if self.asks(z) != self.was and self.asks(z.round()) != self.was:
                return z.round(), step
        return self.picture, math.inf


def assert_same(a: Flips, b: Flips) -> None:
    for name in ("images", "flipped", "size"):
        assert torch.equal(getattr(a, name), getattr(b, name)), name


@pytest.fixture(scope="module")
def nets() -> dict[str, Network]:
    return {kind: curved(outputs) for kind, (outputs, _) in KINDS.items()}


IMAGES = smooth(16)
LABELS = torch.tensor([-1.0, 1.0, 1.0, -1.0] * 4)
# Pictures and weights so that everything is exact: powers of two, and scores that are never zero.
pictures = hnp.arrays(np.uint8, (3, 3, 2, 1))
weights = hnp.arrays(np.int8, (3, 2, 1), elements=st.sampled_from([-4, -2, -1, 0, 1, 2, 4]))
labels = st.lists(st.sampled_from([-1.0, 1.0]), min_size=3, max_size=3)


def every_size(w: NDArray[np.int8], b: float, x: Pixels, method: str, search: str) -> tuple[Pixels, float]:
    """The smallest of all sizes that flips a picture, and what comes out; the search by steps asks fractional pictures, too."""

    def above(z: NDArray[Any]) -> bool:
        return bool((w.astype(float) * z).sum() + b > 0)

    step = (-1 if above(x) else 1) * (np.sign(w) if method == "fgs" else w / max(abs(w).max(), 1))
    sizes = np.arange(1, 257) if method == "fgs" else np.arange(1, 2049) / 8
    for size in range(1, per_image.STEPS + 1) if search == "iterative" else sizes:
        z = np.clip(x + size * step, 0, 255)
        if above(np.round(z)) != above(x) and (search == "line" or above(z) != above(x)):
            return np.round(z).astype(np.uint8), float(size)
    return x, math.inf


@pytest.mark.parametrize("search", per_image.SEARCHES)
@pytest.mark.parametrize("method", per_image.METHODS)
@settings(max_examples=20)
@given(x=pictures, w=weights, at=st.integers(-2000, 2000), y=labels)
@example(x=np.full((3, 3, 2, 1), 255, np.uint8), w=np.full((3, 2, 1), 4, np.int8), at=-6000, y=[1.0, 1.0, -1.0])
@example(x=np.full((3, 3, 2, 1), 1, np.uint8), w=np.full((3, 2, 1), -1, np.int8), at=1500, y=[1.0, 1.0, -1.0])
def test_of_a_linear_network_the_smallest_size_of_all_is_found(
    method: str, search: str, x: Pixels, w: NDArray[np.int8], at: int, y: list[float]
) -> None:
    """With clipping, and for pictures that are classified right and wrong."""
    net = Linear(w[None], [at + 0.125])
    found = flip(net, torch.from_numpy(x), torch.tensor(y), method, search)
    for i, picture in enumerate(x):
        wanted, size = every_size(w, at + 0.125, picture, method, search)
        assert found.size[i].item() == size
        np.testing.assert_array_equal(found.images[i].numpy(), wanted)
        assert found.flipped[i].item() == math.isfinite(size)


@settings(max_examples=20)
@given(
    w=hnp.arrays(np.float64, (1, 3, 2, 1), elements=st.floats(0.01, 1) | st.floats(-1, -0.01)),
    x=hnp.arrays(np.uint8, (1, 3, 2, 1), elements=st.integers(100, 155)),
    distance=st.floats(0.01, 90),
    y=st.sampled_from([-1.0, 1.0]),
)
def test_away_from_black_and_white_epsilon_is_the_score_by_the_sum_of_weights(
    w: NDArray[np.float64], x: Pixels, distance: float, y: float
) -> None:
    """The score changes by the sum of |w| with each level."""
    assume(abs(distance - round(distance)) > 1e-3)
    score = y * distance * abs(w).sum()
    net = Linear(w, [score - (w * x).sum()])
    for label in (y, -y):
        found = flip(net, torch.from_numpy(x), torch.tensor([label]), "fgs", "line")
        assert found.size.item() == math.ceil(distance)
        np.testing.assert_array_equal(found.images.numpy(), x - y * math.ceil(distance) * np.sign(w))


@pytest.mark.parametrize(("kind", "method", "search"), CASES)
def test_flips_are_those_of_plain_loops(nets: dict[str, Network], kind: str, method: str, search: str) -> None:
    found = flip(nets[kind], IMAGES, LABELS, method, search, loss_of(kind), KINDS[kind][1])
    for i, picture in enumerate(IMAGES):
        wanted, size = getattr(Alone(nets[kind], kind, method, picture, LABELS[i].item()), search)()
        assert found.size[i].item() == size
        off = (found.images[i].float() - wanted).abs()
        assert off.max() <= 1  # a level just at the half may be rounded otherwise
        assert off.mean() < 0.002
    assert found.flipped.sum() >= 6
    assert len(set(found.size.tolist())) > 3


@pytest.mark.parametrize("precision", [torch.float32, torch.float64])
@pytest.mark.parametrize(("kind", "method", "search"), CASES)
def test_what_is_reported_holds_for_the_pictures_returned(kind: str, method: str, search: str, precision: torch.dtype) -> None:
    """Classified anew, one by one; what isn't flipped is returned as it was."""
    outputs, attribute = KINDS[kind]
    net = curved(outputs, seed=1).to(precision)
    found = flip(net, IMAGES.numpy(), LABELS, method, search, loss_of(kind), attribute)
    assert found.images.dtype == torch.uint8
    assert found.images.shape == IMAGES.shape
    assert found.flipped.dtype == torch.bool
    assert torch.equal(found.flipped, found.size.isfinite())
    assert found.flipped.any()
    for i, flipped in enumerate(found.flipped.tolist()):
        before, after = (answers(net, images[i : i + 1], kind).item() for images in (IMAGES, found.images))
        assert (before != after) == flipped
        assert flipped or torch.equal(found.images[i], IMAGES[i])
        assert (found.images[i].float() - IMAGES[i].float()).abs().max() <= math.ceil(found.size[i].nan_to_num(posinf=0))


class Batched(Linear):
    """Float scores that come out a little higher for several images at once, as other loops over them round otherwise."""

    def forward(self, images: Tensor) -> Tensor:
        return (super().forward(images) + (4e-6 if len(images) > 1 else 0)).float()


@pytest.mark.parametrize(("method", "search"), WAYS)
def test_a_flip_is_beyond_what_a_batch_changes(method: str, search: str) -> None:
    net = Batched([[[[1]], [[0]], [[0]]]], [-100.2])  # one grey level is a score of 0.00001
    images = levels(90, 97, 60, 99)
    found = flip(net, images, -torch.ones(4), method, search)
    assert found.flipped.all()
    assert (found.images[:, 0, 0, 0] == 101).all()
    assert all((net(image[None].float() / 255) > 0).all() for image in found.images)


def test_some_pictures_are_not_flipped(nets: dict[str, Network]) -> None:
    """Or else nothing would tell what becomes of them."""
    for kind, method in (("euclidean", "fgs"), ("softmax", "ffa")):
        for search in per_image.SEARCHES:
            found = flip(nets[kind], IMAGES, LABELS, method, search, kind)
            assert 0 < (~found.flipped).sum() < 16
            assert torch.equal(found.images[~found.flipped], IMAGES[~found.flipped])


@pytest.mark.parametrize("kind", ["euclidean", "softmax"])
def test_fgs_moves_every_level_by_the_whole_size_or_to_the_end(nets: dict[str, Network], kind: str) -> None:
    images = IMAGES.clone()
    images[:, 0] = torch.where(images[:, 0] > 127, 254, 1)
    found = flip(nets[kind], images, LABELS, "fgs", "line", kind)
    clipped = 0
    for i in found.flipped.nonzero()[:, 0].tolist():
        after, size = found.images[i].float(), found.size[i].item()
        assert size == int(size) > 0
        off = (after - images[i].float()).abs()
        end = (after == 0) | (after == 255)
        assert ((off == size) | (end & (off < size))).all()
        clipped += int((off < size).sum())
    assert clipped > 0


@pytest.mark.parametrize(("kind", "method"), [(kind, method) for kind, method, search in CASES if search == "line"])
def test_a_size_smaller_by_the_resolution_doesnt_flip(nets: dict[str, Network], kind: str, method: str) -> None:
    """And neither does the half of the first size tried that did."""
    fine = 1 if method == "fgs" else 1 / 8
    found = flip(nets[kind], IMAGES, LABELS, method, "line", loss_of(kind), KINDS[kind][1])
    for i in found.flipped.nonzero()[:, 0].tolist():
        alone, size = Alone(nets[kind], kind, method, IMAGES[i], LABELS[i].item()), found.size[i].item()
        assert size % fine == 0
        assert alone.asks(alone.moved(size)) != alone.was
        assert alone.asks(alone.moved(size - fine)) == alone.was
        below = 2.0 ** math.ceil(math.log2(size)) / 2
        assert below < 1 or alone.asks(alone.moved(below)) == alone.was


@pytest.mark.parametrize(("kind", "method", "search"), CASES)
def test_a_flip_doesnt_depend_on_the_other_pictures(
    nets: dict[str, Network], kind: str, method: str, search: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    net, loss, attribute = nets[kind], loss_of(kind), KINDS[kind][1]
    wanted = flip(net, IMAGES, LABELS, method, search, loss, attribute)
    order = torch.arange(15, -1, -1)
    turned = flip(net, IMAGES[order], LABELS[order], method, search, loss, attribute)
    assert_same(turned, Flips(wanted.images[order], wanted.flipped[order], wanted.size[order]))
    seen: list[int] = []
    handle = net.register_forward_hook(lambda _net, images, _scores: seen.append(len(images[0])))
    for batch, count in ((1, 4), (5, 16)):
        monkeypatch.setattr(per_image, "BATCH", batch)
        found = flip(net, IMAGES[:count], LABELS[:count], method, search, loss, attribute)
        assert_same(found, Flips(wanted.images[:count], wanted.flipped[:count], wanted.size[:count]))
        assert max(seen) == batch
    handle.remove()


def rows(net: Network, images: Tensor, method: str, search: str) -> tuple[list[int], Flips]:
    """How many pictures each call of the network had."""
    seen: list[int] = []
    handle = net.register_forward_hook(lambda _net, images, _scores: seen.append(len(images[0])))
    found = flip(net, images, torch.ones(len(images)), method, search)
    handle.remove()
    return seen, found


def test_only_what_hasnt_flipped_is_computed() -> None:
    """Three pictures 1, 3 and 6 levels from the border, and one beyond its label, which FGS drives away from it."""
    net, images = slope(-100.5, 140), levels(101, 103, 106, 250)
    seen, found = rows(net, images, "fgs", "line")
    assert found.size.tolist() == [1, 3, 6, math.inf]
    # gradients; sizes 1, 2, 4, 8 and up to 256; sizes 3 and 6, then 5
    assert seen == [4, 4, 3, 3, 2, 1, 1, 1, 1, 1, 2, 1]
    seen, found = rows(net, images, "fgs", "iterative")
    assert found.size.tolist() == [1, 3, 6, math.inf]
    assert seen == [4, 4, 3, 3, 2, 2, 2] + [1] * (per_image.STEPS - 6)
    seen, found = rows(net, images[:3], "ffa", "iterative")
    assert found.size.tolist() == [1, 3, 6]
    # each picture over the border once more, rounded
    assert seen == [3, 3, 1, 2, 2, 1, 1, 1, 1, 1]


def test_most_rows_are_spared(nets: dict[str, Network]) -> None:
    for method, search in WAYS:
        seen, _ = rows(nets["euclidean"], IMAGES, method, search)
        assert sum(seen) < 0.7 * len(seen) * len(IMAGES)


def test_the_line_search_reaches_from_white_to_black_and_the_iterative_one_as_far_as_its_steps() -> None:
    steps = per_image.STEPS
    for method in per_image.METHODS:
        # 254.5 is rounded to an even level
        assert flip(slope(-0.5), levels(255), torch.ones(1), method, "line").size.tolist() == [255 - (method == "ffa") / 2]
        found = flip(slope(-0.5), levels(steps - 1, steps, steps + 1, 255), torch.ones(4), method, "iterative")
        assert found.size.tolist() == [steps - 1, steps, math.inf, math.inf]
        assert found.images[:, 0, 0, 0].tolist() == [0, 0, steps + 1, 255]


@pytest.mark.parametrize("search", per_image.SEARCHES)
def test_a_picture_that_is_wrong_is_set_right(nets: dict[str, Network], search: str) -> None:
    """FGS lowers the loss of a wrong one and raises that of a right one."""
    for kind in ("euclidean", "softmax"):
        net = nets[kind]
        was = answers(net, IMAGES, kind)
        for sign in (1, -1):
            y = sign * (was.float() * 2 - 1)
            found = flip(net, IMAGES, y, "fgs", search, kind)
            before, after = (losses(net(x.float() / 255), y[:, None], kind)[:, 0] for x in (IMAGES, found.images))
            assert found.flipped.sum() > 10
            assert ((after - before) * sign > 0)[found.flipped].all()
        assert found.flipped.all()
        assert torch.equal(present(net(found.images.float() / 255), kind)[:, 0], y > 0)


@pytest.mark.parametrize("search", per_image.SEARCHES)
@pytest.mark.parametrize(("score", "y"), [(1.5, 1), (-1.5, -1), (1.0, 1)])
def test_fgs_drives_a_score_beyond_its_label_away_from_the_border(search: str, score: float, y: int) -> None:
    """Equation 7 with the Euclidean loss; at the label itself there is no way at all. FFA doesn't mind, nor do wrong labels."""
    net, images = slope(score * 20.5 - 100, 20.5), levels(100)
    lost = flip(net, images, torch.tensor([float(y)]), "fgs", search)
    assert not lost.flipped.item()
    assert torch.equal(lost.images, images)
    for method, label in (("fgs", -y), ("ffa", y), ("ffa", -y)):
        found = flip(net, images, torch.tensor([float(label)]), method, search)
        assert found.flipped.item()
        assert 20 <= found.size.item() <= 31
        assert (found.images.float() - 100)[0, 0, 0, 0] * y < 0


@pytest.mark.parametrize("search", per_image.SEARCHES)
def test_ffa_needs_no_labels_and_turns_the_output_asked_for(nets: dict[str, Network], search: str) -> None:
    net, found = nets["moon"], []
    before = net(IMAGES.float() / 255) > 0
    for attribute in (0, 3):
        a, b = (flip(net, IMAGES, y, "ffa", search, attribute=attribute) for y in (LABELS, -LABELS))
        assert_same(a, b)
        changed = (net(a.images.float() / 255) > 0) != before
        assert torch.equal(changed[:, attribute], a.flipped)
        assert changed[:, attribute].sum() > 10
        found.append(a)
    assert not torch.equal(found[0].images, found[1].images)


@pytest.mark.parametrize("search", per_image.SEARCHES)
def test_ffa_on_moon_moves_as_if_there_were_one_output(search: str) -> None:
    """The others are their own targets."""
    random = np.random.default_rng(0)
    w = random.normal(0, 1, (4, 3, 3, 2))
    b = random.normal(0, 50, 4) - 128 * w.sum((1, 2, 3))
    x = torch.from_numpy(random.integers(0, 256, (6, 3, 3, 2), np.uint8))
    for attribute in range(4):
        moon = flip(Linear(w, b), x, torch.ones(6), "ffa", search, attribute=attribute)
        assert_same(moon, flip(Linear(w[[attribute]], b[[attribute]]), x, torch.ones(6), "ffa", search))
        assert moon.flipped.any()


def test_ffa_of_two_logits_moves_the_higher_one_to_zero() -> None:
    """Away from the border if it is below zero, as section 5 has it: that picture flips by no line, whatever the labels."""
    w = np.zeros((2, 3, 1, 1))
    w[0, 0], w[1, 1] = 1, 1
    x = torch.tensor([[[[130]], [[120]], [[9]]], [[[70]], [[80]], [[9]]]], dtype=torch.uint8)
    found = flip(Linear(w, [-100.0, -100.0], 50), x, torch.ones(2), "ffa", "line", "softmax")
    assert found.flipped.tolist() == [True, False]
    # present wins only when above absent, and 119.5 is rounded to 120
    assert found.images[0, :, 0, 0].tolist() == [119, 120, 9]
    assert found.size[0].item() == 10.625


def fine_print() -> Linear:
    """One level of weight 1 and ten of 0.4, that one step leaves where they are once rounded; the border is 1.3 levels away."""
    w = np.zeros((1, 3, 4, 1))
    w[0, 0, 0], w[0, 1:].flat[:] = 1, 0.4
    w[0, 0, 1:3] = 0.4
    return Linear(w, [1.3 - 100 * w.sum()])


def test_iterative_ffa_goes_on_until_the_rounded_picture_flips() -> None:
    """After one step the fractional picture is over the border, the rounded one is not; after two both are."""
    net, x = fine_print(), torch.full((1, 3, 4, 1), 100, dtype=torch.uint8)
    once = 100 - net.weights.float()
    assert answers(net, x).item()
    assert not answers(net, once).item()
    assert answers(net, once.round()).item()
    found = flip(net, x, torch.ones(1), "ffa", "iterative")
    assert found.size.tolist() == [2]
    assert torch.equal(found.images, (100 - 2 * net.weights).round().byte())
    assert not answers(net, found.images).item()


@pytest.mark.parametrize(("method", "search"), WAYS)
def test_a_picture_that_gives_no_gradient_stays(method: str, search: str) -> None:
    found = flip(Linear(np.zeros((1, 3, 2, 2)), [3.0]), smooth(2)[:, :, :2, :2], torch.ones(2), method, search)
    assert found.size.tolist() == [math.inf, math.inf]
    assert torch.equal(found.images, smooth(2)[:, :, :2, :2])


@pytest.mark.parametrize(("method", "search"), WAYS)
def test_no_pictures_are_no_flips(nets: dict[str, Network], method: str, search: str) -> None:
    for nothing in (IMAGES[:0], IMAGES[:0].numpy()):
        found = flip(nets["euclidean"], nothing, LABELS[:0], method, search)
        assert found.images.shape == (0, 3, *SHAPE)
        assert (found.images.dtype, found.flipped.dtype) == (torch.uint8, torch.bool)
        assert found.flipped.shape == found.size.shape == (0,)


def test_what_comes_in_is_left_alone(nets: dict[str, Network]) -> None:
    images, y = IMAGES.clone(), LABELS.clone()
    before = {name: t.clone() for name, t in nets["euclidean"].state_dict().items()}
    for method, search in WAYS:
        flip(nets["euclidean"], images, y, method, search)
    assert torch.equal(images, IMAGES)
    assert torch.equal(y, LABELS)
    assert all(torch.equal(t, before[name]) for name, t in nets["euclidean"].state_dict().items())


@pytest.mark.parametrize(("method", "search"), [("pgd", "line"), ("fgs", "random"), ("line", "fgs")])
def test_unknown_methods_and_searches_are_refused(nets: dict[str, Network], method: str, search: str) -> None:
    with pytest.raises(ValueError, match=f"no '{method}' by '{search}': choose one of"):
        flip(nets["euclidean"], IMAGES, LABELS, method, search)


@pytest.mark.parametrize("search", per_image.SEARCHES)
def test_fgs_on_moon_is_refused(nets: dict[str, Network], search: str) -> None:
    with pytest.raises(ValueError, match=r"can't choose one attribute of MOON\. Use method 'ffa'"):
        flip(nets["moon"], IMAGES, LABELS, "fgs", search, attribute=3)


@pytest.mark.parametrize(("method", "search"), WAYS)
def test_a_tensor_changes_device_only_for_the_networks_and_back(nets: dict[str, Network], method: str, search: str) -> None:
    net = nets["euclidean"]
    with Spy() as spy:
        found = flip(net, IMAGES[:2], LABELS[:2], method, search)
    assert set(spy.sent) == {next(net.parameters()).device, IMAGES.device}
    assert {getattr(found, field.name).device for field in dataclasses.fields(found)} == {IMAGES.device}
    assert not found.size.requires_grad


def test_the_last_step_asks_for_no_gradient(nets: dict[str, Network], monkeypatch: pytest.MonkeyPatch) -> None:
    """After it no picture moves."""
    spy = Mock(side_effect=torch.autograd.grad)
    monkeypatch.setattr(torch.autograd, "grad", spy)
    found = flip(nets["softmax"], IMAGES, LABELS, "ffa", "iterative", "softmax")
    assert not found.flipped.all()
    assert spy.call_count == per_image.STEPS
