"""Heads and networks learn toys that can be learned, the same way for the same seed."""

import copy

import pytest
import torch
from torch import Tensor

from dftlib import seeds
from dftlib.models import training
from dftlib.models.backbones import AttributeNet, ConvNet, nnet
from dftlib.models.base import Backbone
from dftlib.models.training import features, train_network, train_nnet

CPU = torch.device("cpu")


def clouds(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Two classes that two of eight features tell apart; the features' units differ by a factor of a million."""
    random = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, 2, (count,), generator=random)
    x = torch.randn(count, 8, generator=random)
    x[:, :2] += 2.0 * (2 * labels - 1)[:, None]
    return x * torch.logspace(-3, 3, 8) + torch.linspace(-50, 50, 8), labels


TRAIN, VAL, TEST = clouds(600, 0), clouds(200, 1), clouds(1000, 2)


def test_nnet_learns_from_raw_features() -> None:
    head = train_nnet(*TRAIN, *VAL, epochs=10)
    assert not head.training
    assert (head(TEST[0]).argmax(1) == TEST[1]).double().mean() > 0.95


def test_the_normalisation_is_folded_into_the_first_layer() -> None:
    """Without a step of training: the untouched head on features normalised by hand, in float64."""
    folded = train_nnet(*TRAIN, *VAL, epochs=0, seed=5)
    seeds.seed_all(5)
    plain = nnet(8).double()
    x = TRAIN[0].double()
    normal = (TEST[0].double() - x.mean(0)) / x.std(0)
    torch.testing.assert_close(folded.double()(TEST[0].double()), plain(normal), rtol=0, atol=1e-2)
    assert plain(normal).std() > 0.03
    spread = (folded(TEST[0].double()) - plain(normal)).abs().mean()
    assert spread < 0.02 * plain(normal).std()


def test_training_does_not_depend_on_the_units_of_a_feature() -> None:
    """Trained on features normalised by hand, a head answers the same: the fold after training is right too."""
    mean, deviation = TRAIN[0].mean(0), TRAIN[0].std(0)
    raw = train_nnet(*TRAIN, *VAL, epochs=2)
    normal = train_nnet((TRAIN[0] - mean) / deviation, TRAIN[1], (VAL[0] - mean) / deviation, VAL[1], epochs=2)
    a, b = raw(TEST[0]).softmax(1), normal((TEST[0] - mean) / deviation).softmax(1)
    assert (a - b).abs().mean() < 0.01


def test_a_feature_that_never_moves_in_training_has_no_say() -> None:
    """Rectified features may be zero on every training picture; divided by a deviation of nothing, they would decide alone."""

    def with_dead(x: Tensor, value: float) -> Tensor:
        return torch.cat([x, torch.full((len(x), 1), value)], 1)

    head = train_nnet(with_dead(TRAIN[0], 0), TRAIN[1], with_dead(VAL[0], 0), VAL[1], epochs=5)
    asleep, awake = head(with_dead(TEST[0], 0)), head(with_dead(TEST[0], 0.5))
    torch.testing.assert_close(asleep, awake, rtol=0.1, atol=0.1)


def test_a_head_is_deterministic_by_seed() -> None:
    a, b, c = (train_nnet(*TRAIN, *VAL, epochs=2, seed=seed).state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert not any(torch.equal(a[name], c[name]) for name in a)


def test_the_epoch_with_the_best_validation_is_kept() -> None:
    """Validation labels that are the opposite of what training teaches: every epoch of training makes them worse."""
    one = train_nnet(*TRAIN, VAL[0], 1 - VAL[1], epochs=1, learning_rate=1e-5)
    many = train_nnet(*TRAIN, VAL[0], 1 - VAL[1], epochs=6, learning_rate=1e-5)
    last = train_nnet(*TRAIN, *VAL, epochs=6, learning_rate=1e-5)
    assert all(torch.equal(one.state_dict()[name], many.state_dict()[name]) for name in one.state_dict())
    assert not torch.equal(last[0].weight, many[0].weight)  # type: ignore[arg-type]


def test_the_first_of_equally_good_epochs_is_kept() -> None:
    """Validation pictures far from the border are right after one epoch, and stay right."""
    far = (VAL[0] - TRAIN[0].mean(0)).div(TRAIN[0].std(0)).mul(2 * VAL[1][:, None] - 1)[:, :2].amin(1) > 1
    one, many = (train_nnet(*TRAIN, VAL[0][far], VAL[1][far], epochs=epochs) for epochs in (1, 5))
    assert far.sum() > 20
    assert (one(VAL[0][far]).argmax(1) == VAL[1][far]).all()
    assert all(torch.equal(one.state_dict()[name], many.state_dict()[name]) for name in one.state_dict())


def test_fine_tuning_starts_from_the_head_that_it_is_given() -> None:
    """Without a step the same function, whatever features of the new pictures never move; with steps a better one."""
    head = train_nnet(*TRAIN, *VAL, epochs=4)
    kept = copy.deepcopy(head.state_dict())
    moved = [(x + 1.5 * TRAIN[0].std(0), y) for x, y in (clouds(64, 3), clouds(64, 4), clouds(1000, 5))]
    moved[0][0][:, 4] = moved[0][0][0, 4]
    untouched = train_nnet(*moved[0], *moved[1], epochs=0, start=head, scale=TRAIN[0])
    torch.testing.assert_close(untouched(TEST[0]), head(TEST[0]), rtol=1e-3, atol=1e-2)
    tuned = train_nnet(*moved[0], *moved[1], epochs=20, start=head, scale=TRAIN[0])
    before, after = ((net(moved[2][0]).argmax(1) == moved[2][1]).double().mean() for net in (head, tuned))
    assert after > before + 0.1
    assert all(torch.equal(value, kept[name]) for name, value in head.state_dict().items())


def pictures(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Grey noise, brighter above than below in class 1: a mirror doesn't change the class."""
    random = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, 2, (count,), generator=random)
    images = 0.5 + 0.15 * torch.randn(count, 3, 16, 16, generator=random)
    images[:, :, :8] += (0.1 * (2 * labels - 1)).view(-1, 1, 1, 1)
    return (images.clamp(0, 1) * 255).to(torch.uint8), labels


def trained(seed: int) -> AttributeNet:
    net = AttributeNet(ConvNet(16), nnet(ConvNet.features))
    (x, y), (val_x, val_y) = pictures(300, 0), pictures(100, 1)
    return train_network(net, x.numpy(), y, val_x.numpy(), val_y, 3, 0.002, seed, CPU)


@pytest.fixture(scope="module")
def network() -> AttributeNet:
    return trained(seed=0)


@torch.inference_mode()
def test_a_network_learns_from_scratch(network: AttributeNet) -> None:
    images, labels = pictures(300, 2)
    assert not network.training
    assert (network(images.float() / 255).argmax(1) == labels).double().mean() > 0.95


def test_a_network_is_deterministic_by_seed(network: AttributeNet) -> None:
    """Whatever the global generator and the network's weights were before."""
    torch.manual_seed(123)
    same, other = trained(seed=0).state_dict(), trained(seed=1).state_dict()
    for name, value in network.state_dict().items():
        assert torch.equal(value, same[name])
    assert not torch.equal(network.head.get_parameter("0.weight"), other["head.0.weight"])


def test_fine_tuning_all_layers_starts_from_the_weights_there_are(network: AttributeNet) -> None:
    (x, y), (val_x, val_y) = pictures(300, 5), pictures(100, 6)
    inverted, val_inverted = 255 - x, 255 - val_x
    net = copy.deepcopy(network).requires_grad_(False)
    same = train_network(net, inverted, y, val_inverted, val_y, 0, 0.001, 0, CPU, fresh=False)
    assert all(torch.equal(value, network.state_dict()[name]) for name, value in same.state_dict().items())
    test_x, test_y = pictures(300, 7)
    before = (network((255 - test_x).float() / 255).argmax(1) == test_y).double().mean()
    tuned = train_network(net, inverted, y, val_inverted, val_y, 12, 0.002, 0, CPU, fresh=False, dtype=torch.bfloat16)
    after = (tuned((255 - test_x).float() / 255).argmax(1) == test_y).double().mean()
    assert before < 0.5 < 0.7 < after
    assert {p.dtype for p in tuned.parameters()} == {torch.float32}


def test_features_are_the_bodys_in_order() -> None:
    body: Backbone = ConvNet(16).train()
    images = pictures(600, 3)[0]
    with torch.no_grad():
        wanted = copy.deepcopy(body).eval()(images.float() / 255)
    found = features(body, images.numpy(), CPU)
    assert found.shape == (600, body.features)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)
    assert training.BATCH < 600
