"""How much faster PASS is in batches than OpenCV's alignment and scikit-image's SSIM, one pair after the other.

    python tests/benchmarks/pass_score.py [--pairs 512] [--repeats 8]

Both are measured once a round, and the best of all rounds counts: other work on the machine slows both.
"""

import argparse
import math
import sys
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import torch
from tqdm import tqdm

sys.path.append(str(Path(__file__).parents[1]))

from test_similarity import KINDS, pass_by_opencv, perturbed

from dftlib.datasets import synthetic
from dftlib.similarity import pass_score


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def main() -> None:
    options = argparse.ArgumentParser()
    for option, default in (("--pairs", 512), ("--repeats", 8)):
        options.add_argument(option, type=int, default=default)
    given = options.parse_args()
    cv2.setNumThreads(torch.get_num_threads())
    faces = synthetic.load("press", 64, seed=2, subjects=math.ceil(given.pairs / len(KINDS)), per_subject=1)
    a, b = (x[: given.pairs] for x in perturbed(faces.images))
    rows: dict[str, Callable[[], object]] = {
        "OpenCV + scikit-image": lambda: pass_by_opencv(a, b),
        "pass_score": lambda: pass_score(a, b),
    }
    best = dict.fromkeys(rows, math.inf)
    for _ in tqdm(range(given.repeats + 1), desc="rounds", disable=None):  # the first also warms up
        best = {name: min(best[name], seconds(work)) for name, work in rows.items()}
    print(f"{len(a)} pairs of 64 x 64, {torch.get_num_threads()} threads")
    for name, value in best.items():
        print(f"{name:<24}{1000 * value / len(a):8.3f} ms a pair")
    print(f"ratio {best['OpenCV + scikit-image'] / best['pass_score']:.2f}")


if __name__ == "__main__":
    main()
