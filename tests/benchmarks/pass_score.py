"""How much faster PASS is in batches than OpenCV's alignment and scikit-image's SSIM, one pair after the other.

python tests/benchmarks/pass_score.py [--csv FILE]
"""

import math
import sys
from collections.abc import Callable
from pathlib import Path

import cv2
import torch
from timing import Measured, best, run

sys.path.append(str(Path(__file__).parents[1]))

from test_similarity import KINDS, pass_by_opencv, perturbed

from dftlib.datasets import synthetic
from dftlib.metrics.similarity import pass_score

PAIRS = 512
PEER = "OpenCV + scikit-image"


def measure(device: torch.device) -> list[Measured]:
    cv2.setNumThreads(torch.get_num_threads())
    faces = synthetic.load("press", 64, seed=2, subjects=math.ceil(PAIRS / len(KINDS)), per_subject=1)
    a, b = (x[:PAIRS] for x in perturbed(faces.images))
    here = a.to(device), b.to(device)
    rows: dict[str, Callable[[], object]] = {"ours": lambda: pass_score(*here), PEER: lambda: pass_by_opencv(a, b)}
    ms = {name: 1000 * took / PAIRS for name, took in best(rows, device).items()}
    return [Measured("PASS of a pair", name, value, "ms", value / ms["ours"], "ours") for name, value in ms.items()]


if __name__ == "__main__":
    run(measure, __doc__ or "")
