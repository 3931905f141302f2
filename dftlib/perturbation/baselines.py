"""What a perturbation must beat: cheaper changes of the images, and changes of N that should do nothing."""

import io
from typing import cast

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from dftlib import seeds
from dftlib.images import Pictures, as_tensor, batches
from dftlib.perturbation.perturbation import Perturbation

Levels = tuple[Tensor, Tensor]  # mean and standard deviation of each channel, float64 C each, in grey levels


def channel_levels(images: Pictures) -> Levels:
    """Mean and standard deviation of each channel over images uint8 n x C x H x W."""
    parts = (as_tensor(batch).cpu().double() for batch in batches(images))
    total = sum(torch.stack([x.sum((0, 2, 3)), x.square().sum((0, 2, 3))]) for x in parts)
    mean, square = cast(Tensor, total) / (len(images) * images.shape[2] * images.shape[3])
    return mean, (square - mean**2).sqrt()


def match_channels(images: Pictures, own: Levels, wanted: Levels) -> Tensor:
    """The colour control: images uint8 n x C x H x W given the `wanted` mean and std of each channel, uint8, where they are."""
    numbers = torch.stack([own[0], wanted[1] / own[1].clamp_min(1e-9), wanted[0]]).float()[:, None, :, None, None]
    made = []
    for batch in map(as_tensor, batches(images)):
        centre, gain, target = numbers.to(batch.device)
        made.append(((batch.float() - centre) * gain + target).round().clamp(0, 255).to(torch.uint8))
    return torch.cat(made)


def mean_picture(images: Pictures) -> Tensor:
    """The mean of images n x 3 x H x W (uint8, or float in [0, 1]): float32 3 x H x W in [0, 1], where they are."""
    total = cast(Tensor, sum(as_tensor(batch).double().sum(0) for batch in batches(images)))
    most = 1 if as_tensor(images[:1]).is_floating_point() else 255
    return (total / (most * len(images))).float()


def controls_on(found: Perturbation, seed: int) -> dict[str, Perturbation]:
    """What should do nothing if N fits these images: its sign flipped, its pixels shuffled, noise of equal norm.

    `moved_1` and `moved_2` move N by so many pixels right and down: they tell how well the images must be aligned.
    """
    n, draw = found.n, seeds.rng(seed, "controls")
    pixels = torch.from_numpy(draw.permutation(n[0].numel())).to(n.device)
    noise = torch.from_numpy(draw.standard_normal(n.shape)).float().to(n.device)
    changed = {
        "flipped": -n,
        "scrambled": n.flatten(1)[:, pixels].view_as(n),
        "moved_1": n.roll((1, 1), (1, 2)),
        "moved_2": n.roll((2, 2), (1, 2)),
        "random": noise * n.norm() / noise.norm(),
    }
    return {name: found.with_n(other) for name, other in changed.items()}


def jpeg(images: Tensor, quality: int = 95) -> Tensor:
    """Images uint8 n x 3 x H x W after JPEG of this quality (Pillow, 4:2:0 chroma) and back, uint8, on the CPU."""
    out = []
    for image in images.permute(0, 2, 3, 1).cpu().numpy():
        file = io.BytesIO()
        Image.fromarray(image).save(file, "JPEG", quality=quality)
        out.append(np.asarray(Image.open(file)))
    return torch.from_numpy(np.stack(out)).permute(0, 3, 1, 2).contiguous()
