"""How much faster attribute networks are trained side by side than one by one.

    python tests/benchmarks/side_by_side.py [--size 64] [--batch 64] [--steps 24] [--repeats 4]

An epoch of one network has `steps` steps, that of a larger group fewer, as each takes longer. Every group is measured once a
round, and the best of all rounds counts: other work on the machine slows all groups alike.
"""

import argparse
import math
import time

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from dftlib import attributes, config
from dftlib.attributes import EARLY, ConvNets
from dftlib.config import load_profile
from dftlib.datasets import synthetic

GROUPS = (1, 4, 8, 20, 40)


def seconds(
    images: NDArray[np.uint8], labels: Tensor, count: int, steps: int, batch: int, device: torch.device, dtype: torch.dtype
) -> float:
    """Of one step of one network, where `count` are trained side by side."""
    config.seed_all(0)
    nets = ConvNets(count, 1, (images.shape[2], images.shape[3]))
    rows = torch.arange(steps * batch) % len(images)
    x, y = images[rows], labels[rows][:, torch.arange(count) % labels.shape[1], None]
    start = time.perf_counter()
    attributes.train(nets, x, y, x[:1], y[:1], "euclidean", EARLY, 1e-3, batch, 0, device, dtype)
    return (time.perf_counter() - start) / (EARLY * steps * count)


def main() -> None:
    options = argparse.ArgumentParser()
    for option, default in (("--size", 64), ("--batch", 64), ("--steps", 24), ("--repeats", 4)):
        options.add_argument(option, type=int, default=default)
    given = options.parse_args()
    profile = load_profile("demo")
    device = config.device_of(profile)
    faces = synthetic.load("studio", given.size, seed=0)
    labels = torch.from_numpy(faces.labels.to_numpy().astype(np.float32)) * 2 - 1
    rows = [(dtype, count) for dtype in dict.fromkeys((config.dtype_of(profile, device), torch.float32)) for count in GROUPS]
    best = dict.fromkeys(rows, math.inf)
    for _ in tqdm(range(given.repeats + 1), desc="rounds", disable=None):  # the first also warms up
        for dtype, count in rows:
            steps = max(2, given.steps // count)
            best[dtype, count] = min(best[dtype, count], seconds(faces.images, labels, count, steps, given.batch, device, dtype))
    print(f"batches of {given.batch} pictures of {given.size} x {given.size}, {device}, {torch.get_num_threads()} threads")
    for (dtype, count), value in best.items():
        name, ratio = str(dtype).removeprefix("torch."), best[dtype, 1] / value
        print(f"{name:<10}{count:3} side by side{1000 * value:9.2f} ms a network and step, {ratio:.2f} times as fast")


if __name__ == "__main__":
    main()
