"""How time and memory of a fit grow with the number of pictures and with their size.

    python tests/benchmarks/growth.py [--csv FILE]

One epoch of one step a batch of 250, and 500 pictures of validation, in the precision that the kit takes here: by number on
pictures of 64 x 64 with ConvNet, the fastest backbone; by size on 1,000 pictures with DlibAge, whose convolutions take any.
Every point has a process of its own, so that its peak is its own. The pictures themselves are held once, as uint8; memory
beside them must not grow with their number.
"""

import math
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from multiprocessing import get_context

import numpy as np
import torch
from timing import Measured, device, peak_memory, run, seconds
from torch import Tensor
from tqdm import tqdm

from dftlib import seeds
from dftlib.classifiers.base import TorchClassifier
from dftlib.experiments.lab import settings_of
from dftlib.experiments.profile import dtype_of, load_profile
from dftlib.models.backbones import AttributeNet, ConvNet, nnet
from dftlib.models.dlib_files import DlibAge
from dftlib.perturbation.gradient import fit

COUNTS, SIZES = (1_000, 3_000, 10_000, 30_000, 100_000), (64, 96, 128, 192, 224)
FEW, SIDE = 1_000, 64  # pictures where the size grows, pixels where the number does
VAL, BATCH = 500, 250
FLAT = 1.1  # times the memory of the fewest pictures, at most, beside the pictures themselves


@dataclass(frozen=True)
class Point:
    """Of one fit: milliseconds of a step, seconds of all, MB at most beside the pictures, and MB of the pictures."""

    step: float
    fit: float
    memory: float
    pictures: float


class Watched(TorchClassifier):
    """Notes when each step of a fit begins to ask it."""

    def __init__(self, *given: object) -> None:
        super().__init__(*given)  # type: ignore[arg-type]
        self.asked: list[float] = []

    def logits(self, images: Tensor) -> Tensor:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        self.asked.append(time.perf_counter())
        return super().logits(images)


def point(network: str, count: int, size: int) -> Point:
    """One epoch on `count` pictures of noise, size x size: what they show changes neither time nor memory."""
    at, profile = device(), load_profile("small")
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (count + VAL, 3, size, size), np.uint8)
    labels = torch.from_numpy(random.integers(0, 2, count + VAL))
    seeds.seed_all(0)
    body = DlibAge() if network == "DlibAge" else ConvNet(size)
    model = Watched(AttributeNet(body, nnet(body.features)), at, dtype_of(profile, at))
    settings = replace(settings_of(profile), batch_size=BATCH, inner_steps=1, steps=0, epochs=1)
    took = seconds(lambda: fit(model, images[:count], labels[:count], images[count:], labels[count:], settings), at)
    held = images.nbytes / 1e6
    return Point(1000 * float(np.median(np.diff(model.asked))), took, peak_memory(at) - held, held)


def measure(_: torch.device) -> list[Measured]:
    curves = {
        f"growth by number: ConvNet, {SIDE} x {SIDE} pixels": ("ConvNet", FLAT, [(count, count, SIDE) for count in COUNTS]),
        f"growth by size: DlibAge, {FEW:,} pictures": ("DlibAge", math.nan, [(size, FEW, size) for size in SIZES]),
    }
    measured = []
    bar = tqdm(total=len(COUNTS) + len(SIZES), desc="points", disable=None)
    # A new process a point, begun afresh: a forked one has its parent's memory.
    with ProcessPoolExecutor(1, get_context("spawn"), max_tasks_per_child=1) as pool:
        for name, (network, bound, points) in curves.items():
            found = {}
            for at, count, size in points:
                found[at] = pool.submit(point, network, count, size).result()
                bar.update()
            first = next(iter(found))
            for at, values in found.items():
                for row, unit, target in (("step", "ms", math.nan), ("fit", "s", math.nan), ("memory", "MB", bound)):
                    value, of = getattr(values, row), getattr(found[first], row)
                    measured.append(Measured(name, row, value, unit, value / of, f"{row} at {first:,}", target, at))
                measured.append(Measured(name, "pictures", values.pictures, "MB", at=at))
    return measured


if __name__ == "__main__":
    run(measure, __doc__ or "")
