"""Networks side by side are networks one by one, training is RMSProp by hand, and snapshots are of the epochs they name."""

import copy
from collections.abc import Iterable
from typing import Any, NamedTuple, cast

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import assume, example, given
from hypothesis import strategies as st
from torch import Tensor, nn

from dftlib import seeds
from dftlib.errors import DataError
from dftlib.models import attribute_networks
from dftlib.models.attribute_networks import ConvNets, Network, Vgg16, balance, losses, network, present, train

LOSSES = ("euclidean", "softmax")
CPU = torch.device("cpu")
SHAPE = (16, 16)


class Task(NamedTuple):
    """Pictures and labels n x count x attributes, for training and for validation."""

    images: Tensor
    labels: Tensor
    val_images: Tensor
    val_labels: Tensor


def grey(count: int, shape: tuple[int, int] = SHAPE, seed: int = 0) -> Tensor:
    return torch.randint(0, 256, (count, 3, *shape), generator=torch.Generator().manual_seed(seed)).to(torch.uint8)


def signs(*shape: int, seed: int = 0) -> Tensor:
    return torch.randint(0, 2, shape, generator=torch.Generator().manual_seed(seed)).float() * 2 - 1


def noise(count: int = 3, several: int = 1, val: int = 40) -> Task:
    """Nothing to learn, so validation errors go up and down."""
    return Task(grey(22), signs(22, count, several, seed=1), grey(val, seed=2), signs(val, count, several, seed=3))


def bright(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Two attributes: brighter above than below, brighter on the left than on the right."""
    labels = signs(count, 2, 1, seed=seed)
    images = 0.5 + 0.15 * torch.randn(count, 3, *SHAPE, generator=torch.Generator().manual_seed(seed))
    images[:, :, :8] += 0.1 * labels[:, 0].view(-1, 1, 1, 1)
    images[:, :, :, :8] += 0.1 * labels[:, 1].view(-1, 1, 1, 1)
    return (images.clamp(0, 1) * 255).to(torch.uint8), labels


def stack(count: int, outputs: int = 1, shape: tuple[int, int] = SHAPE, seed: int = 0) -> ConvNets:
    """Double precision, so that what tells two trainings apart is no rounding error."""
    torch.manual_seed(seed)
    return ConvNets(count, outputs, shape).double()


def used(count: int, outputs: int, shape: tuple[int, int], seed: int = 0) -> ConvNets:
    """Networks whose normalisations have weights and statistics of their own in every channel."""
    nets = stack(count, outputs, shape, seed).train()
    with torch.no_grad():
        for name, value in nets.named_parameters():
            value.add_(torch.randn_like(value), alpha=0.3 if value.ndim == 1 else 0.1 if "12" in name else 0)
        for _ in range(20):  # the statistics move by a tenth each time
            nets(grey(32, shape, seed=7).double() / 255)
    return nets.eval()


def by_hand(nets: ConvNets, i: int, images: Tensor) -> Tensor:
    """Network `i` alone, written down from the description: no groups, no modules."""

    def part(name: str) -> Tensor:
        whole = nets.state_dict()[f"net.{name}"]
        each = len(whole) // nets.count
        return whole[i * each : (i + 1) * each]

    x = (images.double() - 0.5) * 4
    for layer, stride in zip((0, 3, 6, 9), (2, 2, 2, 1), strict=True):
        x = F.conv2d(x, part(f"{layer}.weight"), stride=stride, padding=1)
        mean, var, scale, shift = (
            part(f"{layer + 1}.{name}").view(-1, 1, 1) for name in ("running_mean", "running_var", "weight", "bias")
        )
        x = ((x - mean) / (var + 1e-5).sqrt() * scale + shift).clamp(min=0)
    return torch.einsum("nchw,ochw->no", x, part("12.weight")) + part("12.bias")


def rmsprop(
    nets: ConvNets, task: Task, loss: str, epochs: int, rate: float, batch: int, seed: int, weights: Tensor | None = None
) -> dict[str, Tensor]:
    """The weights after some epochs, by equations 1 and 4 and Caffe's formulas for RMSProp and 'inv'."""
    nets = copy.deepcopy(nets).train()
    squares, step = [torch.zeros_like(p) for p in nets.parameters()], 0
    for epoch in range(epochs):
        order = seeds.rng(seed, epoch).permutation(len(task.images))
        for start in range(0, len(order), batch):
            rows = order[start : start + batch]
            scores, y = nets(task.images[rows].float() / 255), task.labels[rows]
            if loss == "euclidean":
                each = (scores - y) ** 2
            else:
                each = F.cross_entropy(scores.flatten(0, 1), (y.flatten() > 0).long(), reduction="none").view(y.shape)
            each = each * (1 if weights is None else weights[rows])
            gradients = torch.autograd.grad(each.sum() / len(rows), list(nets.parameters()))
            with torch.no_grad():
                for p, gradient, square in zip(nets.parameters(), gradients, squares, strict=True):
                    square.mul_(0.9).add_(0.1 * gradient**2)
                    p.sub_(rate * (1 + 0.001 * step) ** -0.75 * gradient / (square.sqrt() + 1e-8))
            step += 1
    return nets.state_dict()


def snapshot(trained: dict[str, Tensor], which: str, i: int) -> dict[str, Tensor]:
    prefix = f"{which}.{i}."
    return {name.removeprefix(prefix): t for name, t in trained.items() if name.startswith(prefix)}


def own(state: dict[str, Tensor], i: int, count: int) -> dict[str, Tensor]:
    """What belongs to network `i` of a stack."""
    return {name: t.unflatten(0, (count, -1))[i] if t.ndim else t for name, t in state.items()}


def assert_same(a: dict[str, Tensor], b: dict[str, Tensor], atol: float = 0) -> None:
    assert a.keys() == b.keys()
    assert len(a) > 0
    for name, value in a.items():
        torch.testing.assert_close(value, b[name], rtol=0, atol=atol, msg=name)


@pytest.mark.parametrize("shape", [SHAPE, (21, 10)])
@pytest.mark.parametrize(("count", "outputs"), [(1, 3), (3, 1), (4, 2)])
@torch.inference_mode()
def test_networks_side_by_side_answer_as_each_alone(count: int, outputs: int, shape: tuple[int, int]) -> None:
    """Cut out of the stack and without normalisation, too."""
    nets, images = used(count, outputs, shape), grey(8, shape, seed=5).float() / 255
    answers = nets(images)
    assert answers.shape == (8, count, outputs)
    parts = attribute_networks._parts(nets, "converged", range(count))
    for i in range(count):
        wanted = by_hand(nets, i, images)
        assert wanted.std(0).min() > 0.05
        torch.testing.assert_close(answers[:, i], wanted, rtol=0, atol=1e-5)
        alone = network(ConvNets(1, outputs, shape).double(), parts, "converged", i)
        torch.testing.assert_close(alone(images), wanted, rtol=0, atol=1e-5)


def test_a_network_is_frozen_without_normalisation_and_apart_from_the_stack() -> None:
    nets = used(1, 1, SHAPE).train()
    net, images = Network(nets), grey(4).float() / 255
    assert not any(isinstance(module, nn.BatchNorm2d) for module in net.modules())
    assert not any(p.requires_grad for p in net.parameters())
    answers = net(images)
    nets(images)
    with torch.no_grad():
        for p in nets.parameters():
            p.add_(1)
    assert torch.equal(net(images), answers)
    assert nets.training
    assert all(p.requires_grad for p in nets.parameters())
    assert any(isinstance(module, nn.BatchNorm2d) for module in nets.modules())


@torch.inference_mode()
def test_each_network_and_snapshot_is_found_by_its_number() -> None:
    """Also among more than ten."""
    two, last = used(12, 1, SHAPE, seed=0), used(12, 1, SHAPE, seed=1)
    trained = attribute_networks._parts(last, "converged", [11, 1, 0]) | attribute_networks._parts(two, "two_epochs", range(12))
    images = grey(4).float() / 255
    for name, nets, i in (("two_epochs", two, 1), ("two_epochs", two, 11), ("converged", last, 1), ("converged", last, 11)):
        found = network(ConvNets(1, 1, SHAPE).double(), trained, name, i)(images)
        torch.testing.assert_close(found, by_hand(nets, i, images), rtol=0, atol=1e-5)


@pytest.mark.parametrize("shape", [(218, 178), (32, 32)])
def test_vgg_takes_the_papers_pictures(shape: tuple[int, int]) -> None:
    """Without a weight in memory."""
    with torch.device("meta"):
        net, images = Vgg16(5), torch.empty(2, 3, *shape)
        assert net(images).shape == (2, 1, 5)
        frozen = Network(net)
        assert frozen(images).shape == (2, 5)
    assert not any(module.training for module in frozen.modules() if isinstance(module, nn.Dropout))
    assert sum(isinstance(module, nn.Conv2d | nn.Linear) for module in net.modules()) == 16


def test_vgg_is_trained_like_a_stack_of_one(monkeypatch: pytest.MonkeyPatch) -> None:
    def small(weights: None, num_classes: int) -> nn.Module:
        return nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, num_classes))

    monkeypatch.setattr("dftlib.models.attribute_networks.tv.vgg16", small)
    task, net = noise(count=1, several=2), Vgg16(2)
    trained = train(net, *task, "euclidean", 2, 0.001, 8, 0, CPU)
    found = network(Vgg16(2), trained, "two_epochs", 0)(task.images.float() / 255)
    layer = cast(nn.Linear, cast(nn.Sequential, net.net)[1])
    wanted = ((task.images.float() / 255 - 0.5) * 4).flatten(1) @ layer.weight.T + layer.bias
    torch.testing.assert_close(found, wanted.detach(), rtol=0, atol=1e-4)


def test_present_is_above_zero_or_the_higher_logit() -> None:
    scores = torch.tensor([[[0.1, -0.1, 0.0]], [[-3.0, 2.0, -0.0]]])
    assert present(scores, "euclidean").tolist() == [[[True, False, False]], [[False, True, False]]]
    logits = torch.tensor([[[1.0, 2.0], [2.0, 1.0]], [[-1.0, -2.0], [3.0, 3.0]]])
    assert present(logits, "softmax").tolist() == [[[True], [False]], [[False], [False]]]


def test_losses_are_numpys_squares_and_torchs_cross_entropy() -> None:
    """Cross-entropy stays a number for logits far apart."""
    random, y = np.random.default_rng(0), signs(7, 4, 3)
    scores = random.normal(0, 2, (7, 4, 3)).astype(np.float32)
    np.testing.assert_allclose(losses(torch.from_numpy(scores), y, "euclidean"), (scores - y.numpy()) ** 2, rtol=1e-5)
    logits, y = torch.from_numpy(random.normal(0, 3, (7, 4, 2)).astype(np.float32)), y[..., :1]
    logits[0] = torch.tensor([200.0, -200.0])
    wanted = F.cross_entropy(logits.flatten(0, 1), (y.flatten() > 0).long(), reduction="none").view(7, 4, 1)
    torch.testing.assert_close(losses(logits, y, "softmax"), wanted)


@given(st.lists(st.lists(st.sampled_from([-1.0, 1.0]), min_size=3, max_size=3), min_size=2, max_size=30))
@example([[1.0, 1.0, -1.0], [-1.0, 1.0, -1.0], [-1.0, -1.0, 1.0]])
def test_balanced_labels_weigh_the_same_present_and_absent(rows: list[list[float]]) -> None:
    """The rarer class keeps its weight."""
    labels = np.array(rows)
    counts = np.array([(labels > 0).sum(0), (labels < 0).sum(0)])
    assume(counts.all())
    weights = balance(torch.tensor(rows)).double().numpy()
    for column in range(3):
        each = [set(weights[labels[:, column] == sign, column]) for sign in (1, -1)]
        assert [len(values) for values in each] == [1, 1]
        masses = [count * values.pop() for count, values in zip(counts[:, column], each, strict=True)]
        np.testing.assert_allclose(masses, counts[:, column].min(), rtol=1e-5)


def test_weights_are_numbers_where_an_attribute_never_changes() -> None:
    assert balance(torch.tensor([[1.0, -1.0], [1.0, -1.0]])).isfinite().all()


@pytest.mark.parametrize(
    ("loss", "count", "several", "weighted"),
    [("euclidean", 2, 1, False), ("euclidean", 1, 3, False), ("euclidean", 1, 3, True), ("softmax", 2, 1, True)],
)
def test_training_is_rmsprop_with_inverse_decay_by_hand(loss: str, count: int, several: int, weighted: bool) -> None:
    """Two epochs of eight steps, the last of fewer pictures, in the order that the seed gives."""
    task = noise(count, several)
    weights = torch.rand(task.labels.shape, generator=torch.Generator().manual_seed(4)) if weighted else None
    nets = stack(count, several * (2 if loss == "softmax" else 1))
    wanted = rmsprop(nets, task, loss, 2, 0.003, 3, 5, weights)
    moved = (wanted["net.0.weight"] - nets.state_dict()["net.0.weight"]).abs().mean()
    assert moved > 0.003
    trained = train(nets, *task, loss, 2, 0.003, 3, 5, CPU, weights=weights)
    for i in range(count):
        found, expected = snapshot(trained, "two_epochs", i), own(wanted, i, count)
        assert found.keys() == expected.keys()
        # in double precision: a step has the size of the rate however small the gradient, so single precision shows in weights
        assert_same(found, expected, 1e-9)


@pytest.mark.parametrize("loss", LOSSES)
def test_a_network_learns_beside_others_what_it_learns_alone(loss: str) -> None:
    """At the profiles' own rate: RMSprop divides by the gradient's size, so it enlarges rounding where there is hardly any."""
    task, nets = noise(), stack(3, LOSSES.index(loss) + 1)
    start = copy.deepcopy(nets.state_dict())
    together = train(nets, *task, loss, 3, 0.001, 8, 0, CPU)
    for i in range(3):
        net = stack(1, LOSSES.index(loss) + 1, seed=99)
        net.load_state_dict(own(start, i, 3))
        mine = Task(task.images, task.labels[:, i : i + 1], task.val_images, task.val_labels[:, i : i + 1])
        alone = train(net, *mine, loss, 3, 0.001, 8, 0, CPU)
        assert_same(snapshot(alone, "two_epochs", 0), snapshot(together, "two_epochs", i), 1e-6)
        assert_same(snapshot(alone, "converged", 0), snapshot(together, "converged", i), 1e-6)
        assert torch.equal(alone["errors"][:, 0], together["errors"][:, i])


def test_the_labels_of_a_network_are_nothing_to_its_neighbours() -> None:
    task = noise()
    changed = task.labels.clone()
    changed[:, 1] *= -1
    a, b = (train(stack(3), *task._replace(labels=y), "euclidean", 2, 0.01, 8, 0, CPU) for y in (task.labels, changed))
    for i in (0, 2):
        assert_same(snapshot(a, "two_epochs", i), snapshot(b, "two_epochs", i))
    moved, other = snapshot(a, "two_epochs", 1), snapshot(b, "two_epochs", 1)
    assert not any(torch.equal(moved[name], other[name]) for name in moved if name.endswith("weight"))


def test_a_seed_gives_the_same_weights_bit_for_bit() -> None:
    """Whatever the global generator was before."""

    def trained(seed: int, world: int) -> dict[str, Tensor]:
        nets = stack(2).float()
        torch.manual_seed(world)
        return train(nets, *noise(2), "euclidean", 3, 0.01, 8, seed, CPU)

    a, b, c = trained(0, 1), trained(0, 2), trained(1, 1)
    assert_same(a, b)
    assert not torch.equal(a["two_epochs.0.net.0.weight"], c["two_epochs.0.net.0.weight"])


@pytest.mark.parametrize(("count", "several"), [(3, 1), (1, 3)])
def test_the_converged_networks_have_the_lowest_validation_error_from_epoch_two_on(count: int, several: int) -> None:
    """Asked anew, one by one; more validation pictures than go into one batch."""
    task = noise(count, several, val=600)
    trained = train(stack(count, several), *task, "euclidean", 5, 0.01, 8, 2, CPU)
    errors = trained["errors"]
    assert errors.shape == (5, count)
    for i in range(count):
        for name, wanted in (("two_epochs", errors[1, i]), ("converged", errors[1:, i].min())):
            net = network(stack(1, several, seed=9), trained, name, i)
            found = (net(task.val_images.float() / 255) > 0) != (task.val_labels[:, i] > 0)
            assert found.double().mean().item() == pytest.approx(wanted.item(), abs=1e-9)
    assert (errors[1:].min(0).values < errors[1]).any()


def scripted(monkeypatch: pytest.MonkeyPatch, wrong: Iterable[list[int]], epochs: int) -> tuple[dict[str, Tensor], ConvNets]:
    """Training with the validation answers given: how many of 40 are wrong, each epoch, for each network."""
    script = list(wrong)
    task, epoch = noise(len(script[0])), iter(range(99))

    def answers(scores: Tensor, loss: str) -> Tensor:
        right = torch.arange(len(scores))[:, None] >= torch.tensor(script[next(epoch)])
        return (task.val_labels > 0) == right[..., None]

    monkeypatch.setattr(attribute_networks, "present", answers)
    nets = stack(len(script[0]))
    return train(nets, *task, "euclidean", epochs, 0.01, 8, 0, CPU), nets


def test_each_snapshot_holds_the_weights_of_its_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first epoch counts for nothing, the first of equal ones wins, and each network has its own best epoch."""
    wrong = [[0, 9, 9], [5, 8, 9], [6, 8, 7], [7, 3, 8], [5, 9, 7], [9, 3, 9]]
    after = {}
    for epochs in range(2, 7):
        trained, nets = scripted(monkeypatch, wrong, epochs)
        after[epochs] = {name: t.clone() for name, t in nets.state_dict().items()}
    assert torch.equal(trained["errors"], torch.tensor(wrong).double() / 40)
    for i, best in enumerate((2, 4, 3)):
        assert_same(snapshot(trained, "two_epochs", i), own(after[2], i, 3))
        assert_same(snapshot(trained, "converged", i), own(after[best], i, 3))
    assert not torch.equal(after[2]["net.0.weight"], after[3]["net.0.weight"])


@pytest.mark.parametrize(
    ("wrong", "epochs"),
    [
        ([[9], [5], [5], [6], [7], [1], [0]], 5),  # three epochs after the second, the best
        ([[0], [5], [6], [6], [4], [5], [5], [5], [1]], 8),
        ([[9, 9], [5, 5], [6, 6], [6, 4], [6, 5], [6, 5], [6, 5], [1, 1]], 7),  # network 1 keeps network 0 going
        ([[9], [8], [7], [6], [5], [4], [3], [2], [1]], 9),
    ],
)
def test_training_ends_three_epochs_after_the_last_network_got_better(
    monkeypatch: pytest.MonkeyPatch, wrong: list[list[int]], epochs: int
) -> None:
    trained, _ = scripted(monkeypatch, wrong, len(wrong))
    assert len(trained["errors"]) == epochs


@pytest.mark.parametrize("epochs", [0, 1])
def test_fewer_than_two_epochs_are_refused(epochs: int) -> None:
    with pytest.raises(DataError, match=f"'attribute_epochs' is {epochs}: set it to 2"):
        train(stack(3), *noise(), "euclidean", epochs, 0.01, 8, 0, CPU)


@pytest.mark.parametrize(
    ("loss", "dtype"), [("euclidean", torch.float32), ("softmax", torch.float32), ("euclidean", torch.bfloat16)]
)
def test_two_attributes_are_learned_side_by_side(loss: str, dtype: torch.dtype) -> None:
    """From arrays, too; in bfloat16 only the products are."""
    (x, y), (val_x, val_y), (test_x, test_y) = bright(200, 0), bright(100, 1), bright(200, 2)
    torch.manual_seed(0)
    outputs = LOSSES.index(loss) + 1
    nets = ConvNets(2, outputs, SHAPE)
    trained = train(nets, x.numpy(), y, val_x.numpy(), val_y, loss, 5, 0.002, 20, 0, CPU, dtype)
    for i in range(2):
        net = network(ConvNets(1, outputs, SHAPE), trained, "converged", i)
        found = present(net(test_x.float() / 255), loss)[:, 0]
        assert (found == (test_y[:, i, 0] > 0)).double().mean() > 0.95
    assert {t.dtype for name, t in trained.items() if name.endswith("weight")} == {torch.float32}


def test_the_precision_of_products_is_the_one_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []
    nets = stack(1).float()
    nets.net[0].register_forward_hook(lambda _layer, _images, answer: seen.append(answer.dtype))
    for dtype in (torch.bfloat16, torch.float32):
        seen.clear()
        train(nets, *noise(1), "euclidean", 2, 0.001, 8, 0, CPU, dtype)
        assert set(seen) == {dtype}
