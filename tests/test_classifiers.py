"""Pictures in, scores out: what every classifier of the kit promises."""

import copy

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from dftlib.classifiers.base import TorchClassifier
from dftlib.errors import DataError
from dftlib.images import batches, to_float
from dftlib.models.backbones import AttributeNet, ConvNet, nnet


@pytest.fixture
def net() -> AttributeNet:
    torch.manual_seed(0)
    made = AttributeNet(ConvNet(24), nnet(128, 3)).train()
    with torch.no_grad():
        made(torch.rand(16, 3, 24, 24))  # statistics that differ from the initial ones
    return made


@pytest.fixture
def images() -> Tensor:
    """More than one batch."""
    return torch.randint(0, 256, (600, 3, 24, 24), generator=torch.Generator().manual_seed(0)).to(torch.uint8)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_scores_are_float32_shares_of_one(net: AttributeNet, images: Tensor, dtype: torch.dtype) -> None:
    scores = TorchClassifier(net, dtype=dtype).scores(images)
    assert scores.dtype == torch.float32
    assert scores.shape == (600, 3)
    assert scores.device.type == "cpu"
    assert (scores >= 0).all()
    torch.testing.assert_close(scores.sum(1), torch.ones(600))


def test_scores_are_the_networks_own(net: AttributeNet, images: Tensor) -> None:
    wanted = copy.deepcopy(net).eval()(images.float() / 255).softmax(1)
    torch.testing.assert_close(TorchClassifier(net).scores(images), wanted.detach(), rtol=1e-4, atol=1e-6)


def test_what_is_reported_does_not_depend_on_the_precision_of_the_fit(net: AttributeNet, images: Tensor) -> None:
    exact = TorchClassifier(copy.deepcopy(net)).scores(images)
    assert torch.equal(TorchClassifier(net, dtype=torch.bfloat16).scores(images), exact)


def test_bytes_fractions_and_arrays_score_the_same(net: AttributeNet, images: Tensor) -> None:
    model = TorchClassifier(net)
    scores = model.scores(images)
    assert torch.equal(model.scores(images.float() / 255), scores)
    assert torch.equal(model.scores(images.numpy()), scores)
    read_only = images.numpy().copy()
    read_only.setflags(write=False)
    assert torch.equal(model.scores(read_only), scores)


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_a_network_that_answers_no_number_is_refused(net: AttributeNet, images: Tensor, value: float) -> None:
    with torch.no_grad():
        net.head.get_parameter("4.bias")[1] = value
    with pytest.raises(DataError, match="not numbers"):
        TorchClassifier(net).scores(images)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_weights_are_frozen_and_statistics_stand_still(net: AttributeNet, images: Tensor, dtype: torch.dtype) -> None:
    model = TorchClassifier(net, dtype=dtype)
    before = {name: t.clone() for name, t in model.net.state_dict().items()}
    pictures = (images[:8].float() / 255).requires_grad_()
    model.logits(pictures).sum().backward()
    model.scores(images[:8])
    for module in (model.net, model._fast):
        assert not module.training
        assert not any(p.requires_grad or p.grad is not None for p in module.parameters())
    assert all(torch.equal(before[name], t) for name, t in model.net.state_dict().items())
    assert all(t.dtype != torch.bfloat16 for t in model.net.state_dict().values())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_logits_lead_back_to_the_pictures(net: AttributeNet, images: Tensor, dtype: torch.dtype) -> None:
    """In bfloat16 the gradient points where the float32 one does."""
    pictures = (images[:8].float() / 255).requires_grad_()
    wanted = torch.autograd.grad(copy.deepcopy(net).eval()(pictures)[:, 1].sum(), pictures)[0]
    logits = TorchClassifier(net, dtype=dtype).logits(pictures)
    assert logits.dtype == torch.float32
    (gradient,) = torch.autograd.grad(logits[:, 1].sum(), pictures)
    assert gradient.dtype == torch.float32
    alike = nn.functional.cosine_similarity(gradient.flatten(1), wanted.flatten(1))
    assert (alike > (0.9999 if dtype == torch.float32 else 0.98)).all()


def test_the_fast_copy_is_bfloat16_and_the_head_is_not(net: AttributeNet) -> None:
    model = TorchClassifier(net, dtype=torch.bfloat16)
    assert {p.dtype for p in model._fast.body.parameters()} == {torch.bfloat16}  # type: ignore[union-attr]
    assert {p.dtype for p in model._fast.head.parameters()} == {torch.float32}  # type: ignore[union-attr]
    whole = TorchClassifier(net)
    assert whole._fast is whole.net


def test_batches_cover_everything_in_order(images: Tensor) -> None:
    parts, large = list(batches(images)), list(batches(images, torch.device("cuda")))
    assert {len(p) for p in parts[:-1]} == {64}
    assert [len(p) for p in large] == [512, len(images) - 512]
    assert torch.equal(torch.cat([torch.as_tensor(p) for p in parts]), images)


def test_to_float_is_a_255th(images: Tensor) -> None:
    cpu = torch.device("cpu")
    made = to_float(images[:3].numpy(), cpu)
    assert made.is_contiguous(memory_format=torch.channels_last)
    np.testing.assert_array_equal(made.numpy(), images[:3].numpy().astype(np.float32) / np.float32(255))
    assert torch.equal(to_float(made, cpu), made)
