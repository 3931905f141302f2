"""Where the features of drawn faces are, seen in pixels alone: pictures that differ in one feature differ where it is."""

from dataclasses import replace

import torch
from torch import Tensor

from dftlib.datasets import synthetic
from dftlib.datasets.synthetic import STYLES

Latents = dict[str, Tensor]


def latents(style: str, count: int, seed: int = 0) -> Latents:
    """Of `count` people, a picture each, nobody with hair before the eyes."""
    p, _ = synthetic._latents(STYLES[style], count, 1, torch.Generator().manual_seed(seed))
    return p | {"fringe": torch.zeros_like(p["fringe"])}


def pair(style: str, p: Latents, feature: str, values: tuple[Tensor, Tensor], size: int, flat: bool = False) -> Tensor:
    """Two pictures of each face, 2 x n x 3 x size x size, with these values of one feature; `flat`: without shading."""
    look = replace(STYLES[style], noise=0.0)
    look = replace(look, contrast=(1.0, 0.0)) if flat else look
    return torch.stack([synthetic._render(p | {feature: v}, look, size, torch.Generator().manual_seed(1)) for v in values])


def difference(pictures: Tensor, least: float) -> Tensor:
    """How far the pictures of a pair differ, n x H x W in grey levels; 0 below `least`."""
    apart = (pictures[0].float() - pictures[1].float()).abs().amax(1)
    return apart * (apart > least)


def irises(style: str, p: Latents, size: int) -> Tensor:
    """Each face with black and with white irises."""
    return pair(style, p, "iris", (torch.zeros_like(p["iris"]), torch.ones_like(p["iris"])), size)


def halves(p: Latents, size: int) -> tuple[Tensor, Tensor]:
    """Masks n x size x size of what is left and right of the middle of each face, before any turn."""
    right = torch.arange(size) > (1 + p["right"]) * size / 2
    right = right.expand(-1, size, size)
    return ~right, right


def middle(weights: Tensor) -> Tensor:
    """Centres of weights n x H x W: n x 2, x and y in pixels."""
    y, x = (torch.arange(n).double() for n in weights.shape[1:])
    return torch.stack([(weights * x).sum((1, 2)), (weights * y[:, None]).sum((1, 2))], 1) / weights.sum((1, 2))[:, None]
