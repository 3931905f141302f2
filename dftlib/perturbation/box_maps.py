"""Box maps: how N is added to an image so that what comes out stays in [0, 1] (Data Fine-tuning, equation 5)."""

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor

from dftlib.errors import DataError


def printed(images: Tensor, n: Tensor) -> Tensor:
    """Z = (tanh(X + N) + 1) / 2, equation 5 as printed. At N = 0 it maps [0, 1] to [0.50, 0.88]."""
    return (torch.tanh(images + n) + 1) / 2


class _Atanh(torch.autograd.Function):
    """`atanh` in parts that stay in a processor's cache; back to N by dZ/dN = 2 Z (1 - Z), from Z alone."""

    @staticmethod
    def forward(ctx: Any, images: Tensor, n: Tensor) -> Tensor:
        gain = torch.exp(2 * n.clamp(-40, 40))
        if images.is_contiguous(memory_format=torch.channels_last):  # laid out alike, both are read in one go
            gain = gain.view(-1, *gain.shape[-3:]).contiguous(memory_format=torch.channels_last)
        images, gain = torch.broadcast_tensors(images, gain)
        z = torch.empty_like(images)
        for x, g, lit in zip(_parts(images), _parts(gain), _parts(z), strict=True):
            torch.mul(x, g, out=lit)
            lit.div_((1 - x).add_(lit))
        ctx.save_for_backward(z)
        ctx.shape = n.shape
        return z

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, Tensor]:  # type: ignore[override]
        (z,) = ctx.saved_tensors
        each = torch.empty_like(z)
        for part, g, out in zip(_parts(z), _parts(gradient), _parts(each), strict=True):
            torch.addcmul(part, part, part, value=-1, out=out).mul_(g)
        return None, 2 * each.sum_to_size(ctx.shape)


def _parts(tensor: Tensor) -> tuple[Tensor, ...]:
    """Of a batch on a processor, 16 images at a time; on a GPU, which hides a call's cost behind the last one's work, all."""
    return tensor.split(16 if tensor.device.type == "cpu" else max(1, len(tensor)))


def atanh(images: Tensor, n: Tensor) -> Tensor:
    """Z = (tanh(atanh(2X - 1) + N) + 1) / 2, Carlini and Wagner's change of variable; the identity at N = 0.

    Computed as X g / (1 + X (g - 1)) with g = exp(2N): the same function, finite at X = 0 and 1, and with no transcendental
    function of the batch. N adds to the log-odds of a pixel: it multiplies X / (1 - X) by g.
    """
    if images.requires_grad:  # no fit asks for it
        lit = images * torch.exp(2 * n.clamp(-40, 40))
        return lit / ((1 - images) + lit)
    return cast(Tensor, _Atanh.apply(images, n))


def clip(images: Tensor, n: Tensor) -> Tensor:
    """Z = min(max(X + N, 0), 1); the identity at N = 0."""
    return (images + n).clamp(0, 1)


BoxMap = Callable[[Tensor, Tensor], Tensor]  # images n x C x H x W and N, to Z
BOXES: dict[str, BoxMap] = {"atanh": atanh, "printed": printed, "clip": clip}


def require_box(name: str) -> None:
    """Raises `DataError` for an unknown box map."""
    if name not in BOXES:
        raise DataError(f"There is no box map '{name}': choose one of {', '.join(BOXES)}.")
