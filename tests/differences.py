"""The gradient of a frozen backbone, held to central differences."""

import pytest
import torch
from torch import Tensor, nn


def require_gradient(body: nn.Module, picture: Tensor, pixels: tuple[tuple[int, int, int], ...], least: float) -> None:
    """At these pixels (channel, row, column) of a float64 picture 1 x 3 x H x W: slopes above `least`, and the same ones."""
    picture = picture.requires_grad_()
    direction = torch.randn(256, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    (gradient,) = torch.autograd.grad((body(picture) @ direction).sum(), picture)
    for channel, row, column in pixels:
        step = torch.zeros_like(picture)
        step[0, channel, row, column] = 1e-6
        with torch.no_grad():
            slope = ((body(picture + step) - body(picture - step)) @ direction).item() / 2e-6
        assert abs(slope) > least
        assert gradient[0, channel, row, column].item() == pytest.approx(slope, rel=1e-5)
