"""A toy that only answers, and a fit to it over a web service that can be killed: python slow_fit.py URL LOG."""

import sys
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dftlib.classifiers.web_service import HttpClassifier
from dftlib.perturbation.from_scores import fit_black_box
from dftlib.perturbation.perturbation import Perturbation

PARALLEL, BATCH, THREADS = 3, 8, 1


def faces(count: int, side: int = 16, seed: int = 0, classes: int = 2) -> tuple[NDArray[np.uint8], Tensor]:
    """Pictures n x 3 x side x side of one scene, whose brightness tells their class, and their classes."""
    random = np.random.default_rng(seed)
    labels = np.arange(count) % classes
    scene = np.random.default_rng(5).integers(60, 196, (3, side, side))
    bright = 128 - scene.mean() + 12 * labels + random.normal(0, 3, count)
    pictures = scene + bright[:, None, None, None] + random.normal(0, 10, (count, 3, side, side))
    return pictures.clip(0, 255).astype(np.uint8), torch.from_numpy(labels)


def ask(pictures: NDArray[np.uint8], classes: int = 2) -> NDArray[np.float64]:
    """Scores n x classes of pictures n x H x W x 3. It was made for pictures 8 grey levels brighter than those of `faces`."""
    distance = pictures.mean((1, 2, 3))[:, None] - (136 + 12 * np.arange(classes))
    powers = np.exp(-((distance / 7) ** 2)) + 1e-9
    return powers / powers.sum(1, keepdims=True)


def fit(url: str, log: Path) -> Perturbation:
    service = HttpClassifier(url, batch=BATCH, parallel=PARALLEL, retries=1)
    return fit_black_box(service, *faces(60), *faces(60, seed=1), query_budget=450, query_log=log, learner="spsa")


if __name__ == "__main__":
    torch.set_num_threads(THREADS)
    fit(sys.argv[1], Path(sys.argv[2]))
