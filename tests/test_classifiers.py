"""Pictures in, scores out: what every classifier of the kit promises."""

import copy
from collections import OrderedDict
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

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


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_torchscript_is_named(net: AttributeNet) -> None:
    traced = torch.jit.trace(copy.deepcopy(net).eval(), torch.rand(2, 3, 24, 24))  # type: ignore[no-untyped-call]
    with pytest.raises(DataError, match="TorchScript module can't be frozen: give the network that it was made of"):
        TorchClassifier(traced)


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


def test_no_image_gives_no_row_and_a_device_may_be_named(net: AttributeNet, images: Tensor) -> None:
    named = TorchClassifier(net, "cpu")
    assert named.scores(images[:0]).shape == (0, 3)
    assert torch.equal(named.scores(images), TorchClassifier(net).scores(images))


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


# ---- networks as people bring them


class Wrapped(nn.Module):
    """The same network, its logits in something else."""

    def __init__(self, net: nn.Module, wrap: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.net, self.wrap = net, wrap

    def forward(self, images: Tensor) -> Any:
        return self.wrap(self.net(images))


@pytest.mark.parametrize(
    "wrap", [lambda x: SimpleNamespace(logits=x), lambda x: OrderedDict(loss=None, logits=x), lambda x: x[:, :, None, None]]
)
def test_logits_within_an_object(net: AttributeNet, images: Tensor, wrap: Callable[[Tensor], Any]) -> None:
    """As Hugging Face's models answer."""
    plain, wrapped = TorchClassifier(net), TorchClassifier(Wrapped(net, wrap))
    assert torch.equal(wrapped.scores(images), plain.scores(images))
    assert torch.equal(wrapped.logits(images[:3] / 255), plain.logits(images[:3] / 255))


@pytest.mark.parametrize("wrap", [lambda x: (x, x), lambda x: {"scores": x}, lambda x: None, lambda x: x[:1]])
def test_what_is_no_logits_is_refused_in_a_sentence(net: AttributeNet, images: Tensor, wrap: Callable[[Tensor], Any]) -> None:
    with pytest.raises(DataError, match=r"The network answers with .*: wrap it so that it gives logits n x classes, or n\."):
        TorchClassifier(Wrapped(net, wrap)).scores(images)


@pytest.mark.parametrize("shape", [(-1, 1), (-1,), (-1, 1, 1, 1)])
def test_one_logit_is_that_of_class_1(net: AttributeNet, images: Tensor, shape: tuple[int, ...]) -> None:
    logit = copy.deepcopy(net).eval()(images[:9] / 255)[:, 2].detach()
    scores = TorchClassifier(Wrapped(net, lambda x: x[:, 2].reshape(shape))).scores(images[:9])
    torch.testing.assert_close(scores, torch.stack([1 - logit.sigmoid(), logit.sigmoid()], 1), rtol=1e-4, atol=1e-6)


class Linear(nn.Module):
    """A network that doesn't cast its input."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 4, 3), nn.Linear(4, 3)

    def forward(self, images: Tensor) -> Tensor:
        out: Tensor = self.head(self.conv(images).mean((2, 3)))
        return out


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_networks_of_other_precision_work(images: Tensor, kind: torch.dtype, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    plain = Linear()
    other = TorchClassifier(copy.deepcopy(plain).to(kind), dtype=dtype)
    scores = other.scores(images)
    assert scores.dtype == torch.float32
    torch.testing.assert_close(scores, TorchClassifier(plain).scores(images), rtol=0, atol=1e-2)
    pictures = (images[:4] / 255).requires_grad_()
    (gradient,) = torch.autograd.grad(other.logits(pictures)[:, 0].sum(), pictures)
    assert gradient.isfinite().all()
    assert gradient.abs().max() > 0


@pytest.mark.parametrize("wrong", [lambda x: x * 1.0, lambda x: x / 127.5 - 1, lambda x: x.to(torch.int64)])
def test_pictures_in_other_units_are_refused(net: AttributeNet, images: Tensor, wrong: Callable[[Tensor], Tensor]) -> None:
    for given in (wrong(images[:3]), wrong(images[:3]).numpy()):
        with pytest.raises(DataError, match=r"must (lie in|be uint8)"):
            TorchClassifier(net).scores(given)
