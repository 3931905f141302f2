"""How much faster attribute networks are trained side by side than one by one.

python tests/benchmarks/side_by_side.py [--csv FILE]
"""

from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from timing import Measured, best, run
from torch import Tensor

from dftlib import seeds
from dftlib.datasets import synthetic
from dftlib.experiments.profile import dtype_of, load_profile
from dftlib.models import attribute_networks
from dftlib.models.attribute_networks import EARLY, ConvNets

GROUPS = (1, 4, 8, 20, 40)
SIZE, BATCH = 64, 64
STEPS = 16  # of one network in an epoch; a larger group takes longer and gets fewer


def train(
    images: NDArray[np.uint8], labels: Tensor, count: int, steps: int, device: torch.device, dtype: torch.dtype
) -> dict[str, Tensor]:
    """`count` networks side by side, for EARLY epochs."""
    seeds.seed_all(0)
    nets = ConvNets(count, 1, (SIZE, SIZE))
    rows = torch.arange(steps * BATCH) % len(images)
    x, y = images[rows], labels[rows][:, torch.arange(count) % labels.shape[1], None]
    return attribute_networks.train(nets, x, y, x[:1], y[:1], "euclidean", EARLY, 1e-3, BATCH, 0, device, dtype)


def measure(device: torch.device) -> list[Measured]:
    faces = synthetic.load("studio", SIZE, seed=0)
    labels = torch.from_numpy(faces.labels.to_numpy().astype(np.float32)) * 2 - 1
    works: dict[str, Callable[[], object]] = {}
    steps: dict[str, int] = {}
    of = {}
    for dtype in dict.fromkeys((torch.float32, dtype_of(load_profile("demo"), device))):
        kind = str(dtype).removeprefix("torch.")
        for count in GROUPS:
            name, epoch = f"{count} at a time, {kind}", max(2, STEPS // count)
            works[name] = partial(train, faces.images, labels, count, epoch, device, dtype)
            steps[name], of[name] = EARLY * epoch * count, f"1 at a time, {kind}"
    ms = {name: 1000 * took / steps[name] for name, took in best(works, device).items()}
    return [Measured("step of a network", name, ms[name], "ms", ms[name] / ms[of[name]], of[name]) for name in ms]


if __name__ == "__main__":
    run(measure, __doc__ or "")
