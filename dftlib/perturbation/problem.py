"""What a learner that can only ask works on: images and their labels, a meter, and N as few coefficients.

N is looked for among cosines of the `GRID` x `GRID` lowest frequencies a channel, of which mirrored (its own mirror image) it has
half: what asking can find out about finer detail costs more than it brings. Coefficients and random draws stay on the CPU; images
are computed with on the device that a fit is told, a batch at a time.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from itertools import repeat

import torch
import torch.nn.functional as F
from torch import Tensor

from dftlib.images import Pictures, to_float
from dftlib.models.base import Backbone
from dftlib.perturbation.box_maps import BOXES
from dftlib.perturbation.query_log import Meter

CPU = torch.device("cpu")
GRID = 8
PROBE = 128  # images, at most, on which the limit on the distortion is measured
WAYS, NUDGE = 4, 32.0  # random directions an image, and their dB
AT_ONCE = 512  # images computed with, where nothing depends on how many there are


@cache
def waves(side: int, count: int, step: int) -> Tensor:
    """The cosines of a DCT-II over `side` pixels, side x count, of every `step`-th frequency: of mean square 1, at right angles.

    Every second one is even about the middle.
    """
    found = 2**0.5 * torch.cos(math.pi / side * (torch.arange(side)[:, None] + 0.5) * step * torch.arange(count))
    found[:, 0] = 1
    return found


@dataclass
class Problem:
    """What a learner has: a meter to ask, images uint8 n x 3 x H x W with labels n, a limit in dB, a seed's draws, a device.

    reference: images whose colours the classifier knows
    encoder:   a frozen network whose features may help to imitate the answers
    """

    meter: Meter
    images: Pictures
    labels: Tensor
    min_psnr: float
    draw: torch.Generator
    reference: Pictures | None = None
    device: torch.device = CPU
    mirror: bool = True
    encoder: Backbone | None = None

    def __len__(self) -> int:
        return len(self.images)

    @property
    def probe(self) -> Pictures:
        """Every so many-th image: those of a class may all stand together."""
        return self.images[:: -(-len(self) // PROBE)]

    def floats(self, rows: Tensor) -> Tensor:
        """These images in [0, 1] on the device."""
        return to_float(self.images[rows.numpy()], self.device)

    def nothing(self, height: int = GRID, width: int = GRID) -> Tensor:
        """Coefficients of no N: zeros 1 x 3 x height x width, of half the width where N is mirrored."""
        return torch.zeros(1, 3, height, (width + 1) // 2 if self.mirror else width)

    def waves(self, c: Tensor) -> tuple[Tensor, Tensor]:
        """Of the coefficients' frequencies, down and across, where they are."""
        height, width = self.images.shape[2:]
        return waves(height, c.shape[2], 1).to(c.device), waves(width, c.shape[3], 2 if self.mirror else 1).to(c.device)

    def enlarged(self, c: Tensor) -> Tensor:
        """Coefficients m x 3 x g x g -> N, m x 3 x H x W, where they are; its mean square is the sum of theirs."""
        down, across = self.waves(c)
        return down @ c @ across.T

    def reduced(self, n: Tensor) -> Tensor:
        """The coefficients nearest to N, 3 x H x W."""
        down, across = self.waves(c := self.nothing())
        return c + down.T @ n @ across / n[0].numel()

    def under(self, x: Tensor, c: Tensor) -> Tensor:
        """Float images in [0, 1] under coefficients, one set for all or one for each, where the images are."""
        return BOXES["atanh"](x, self.enlarged(c.to(x.device)))

    def limited(self, c: Tensor) -> Tensor:
        """Coefficients scaled down to the limit on the distortion, to first order."""
        x = to_float(self.probe, self.device)
        squared = (self.under(x, c) - x).square().mean().cpu()
        return c / (squared * 10 ** (self.min_psnr / 10)).sqrt().clamp_min(1)

    def parts(self, rows: Tensor, c: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Batches of these images, float on the device, with their coefficients: one set for all, or one for each."""
        own = c.split(AT_ONCE) if len(c) == len(rows) else repeat(c)
        return ((self.floats(some), part) for some, part in zip(rows.split(AT_ONCE), own, strict=False))

    def noise(self, rows: Tensor, decibels: float, grid: int) -> Tensor:
        """Random coefficients of the lowest frequencies for each of these images, that leave each about so many decibels."""
        low, whole = self.nothing(grid, grid).repeat(len(rows), 1, 1, 1).normal_(generator=self.draw), self.nothing()
        return self.scaled(rows, F.pad(low, (0, whole.shape[3] - low.shape[3], 0, whole.shape[2] - grid)), decibels)

    def scaled(self, rows: Tensor, c: Tensor, decibels: float) -> Tensor:
        """Coefficients for each of these images, scaled so that they leave each about so many decibels."""
        # the box map to first order
        moved = [(2 * x * (1 - x) * self.enlarged(n.to(x.device))).square().mean((1, 2, 3)) for x, n in self.parts(rows, c)]
        each = torch.cat(moved).cpu().sqrt().view(-1, 1, 1, 1)
        return c * 10 ** (-decibels / 20) / each.clamp_min(1e-6)  # an image of black and white alone doesn't move

    def directions(self, rows: Tensor) -> Tensor:
        """Random coefficients, WAYS x m x 3 x g x g: of each of these images at right angles, and `NUDGE` decibels away."""
        one = self.nothing()
        drawn = torch.randn(len(rows), one.numel(), WAYS, generator=self.draw)
        ways = torch.linalg.qr(drawn).Q.movedim(2, 0).reshape(-1, *one.shape[1:])
        return self.scaled(rows.repeat(WAYS), ways, NUDGE).unflatten(0, (WAYS, len(rows)))

    def shown(self, rows: Tensor, c: Tensor) -> Tensor:
        """What the classifier gets to see: uint8 images under coefficients, on the CPU."""
        return torch.cat([(self.under(x, n) * 255).round().byte().cpu() for x, n in self.parts(rows, c)])

    def loss(self, rows: Tensor, c: Tensor) -> Tensor:
        """Asks. 1 - the score of the true class, of each image under c: equation 12 where rows sum to 1.

        Without an answer it is 1: an image that never has one has no say, and none is gained by losing it.
        """
        return 1 - self.meter.scores(self.shown(rows, c)).gather(1, self.labels[rows, None])[:, 0].nan_to_num(0)

    def shuffled(self) -> Iterator[int]:
        """Rows of the images without end, each once before any twice."""
        while True:
            yield from torch.randperm(len(self), generator=self.draw).tolist()


def length(c: Tensor) -> Tensor:
    """Root mean square of the N that coefficients stand for."""
    return c.square().sum((2, 3)).mean().sqrt().clamp_min(1e-20)
