"""A classifier as the kit sees it: pictures in, scores out; with `TorchClassifier`, gradients too."""

import copy
from collections.abc import Iterator
from typing import Protocol, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from dftlib.config import DataError

Pictures = NDArray[np.uint8] | Tensor


class Classifier(Protocol):
    """Anything that answers pictures with scores."""

    def scores(self, images: Pictures) -> Tensor:
        """Pictures n x 3 x H x W, uint8 0 to 255 or float in [0, 1] -> float32 n x classes, each row sums to 1, on the CPU."""
        ...


class TorchClassifier:
    """A torch network with frozen weights: `scores` in float32, `logits` in `dtype` and differentiable to the input.

    The network is kept channels-last. A second copy of its body in `dtype` serves `logits`, so that no weight is cast again
    at every step; what is reported always comes from the float32 one.
    """

    def __init__(self, net: nn.Module, device: torch.device | None = None, dtype: torch.dtype = torch.float32) -> None:
        self.device = device or torch.device("cpu")
        self.net = _frozen(net, self.device)
        self.dtype = dtype
        self._fast = self.net if dtype == torch.float32 else _frozen(copy.deepcopy(net), self.device)
        if dtype != torch.float32:
            cast(nn.Module, self._fast.body).to(dtype)

    def logits(self, images: Tensor) -> Tensor:
        """Float pictures n x 3 x H x W in [0, 1] -> float32 logits n x classes, differentiable to the pictures alone."""
        return cast(Tensor, self._fast(images))

    @torch.inference_mode()
    def scores(self, images: Pictures) -> Tensor:
        """As `Classifier.scores`; raises `DataError` when the network answers with something that is not a number."""
        parts = [self.net(to_float(batch, self.device)).softmax(1).cpu() for batch in batches(images)]
        scores = torch.cat(parts)
        if not scores.isfinite().all():
            raise DataError("The classifier answered with scores that are not numbers: check its weights and its input range.")
        return scores


def _frozen(net: nn.Module, device: torch.device) -> nn.Module:
    return net.eval().requires_grad_(False).to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]


def batches(images: Pictures, size: int = 512) -> Iterator[Pictures]:
    return (images[start : start + size] for start in range(0, len(images), size))


def to_float(images: Pictures, device: torch.device) -> Tensor:
    """Pictures on `device`, float32 in [0, 1], channels-last; uint8 travels as uint8 and is divided by 255 there."""
    tensor = torch.as_tensor(np.array(images)) if isinstance(images, np.ndarray) else images
    tensor = tensor.to(device).contiguous(memory_format=torch.channels_last)
    return tensor.float() / 255 if tensor.dtype == torch.uint8 else tensor
