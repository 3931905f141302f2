"""Handwritten digits as another scanner gives them: the library outside faces, and what one N can and can't undo there."""

from collections.abc import Callable
from functools import cache
from itertools import product
from typing import Any, cast

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from scipy import ndimage
from sklearn.datasets import load_digits
from torch import Tensor, nn

from dftlib import seeds
from dftlib.classifiers.base import TorchClassifier
from dftlib.datasets.base import Split
from dftlib.experiments.lab import best_gain
from dftlib.images import to_float
from dftlib.metrics import classification, similarity
from dftlib.metrics.comparison import compare
from dftlib.perturbation import baselines
from dftlib.perturbation.gradient import Settings, fit
from dftlib.perturbation.perturbation import Perturbation
from dftlib.progress import tqdm

Floats = NDArray[np.floating[Any]]
PARTS = {"train": 600, "fit": 500, "val": 200, "test": 497}  # of 1,797; the clean classifier's own, and three of the scanner's
# 'atanh' leaves black as it is, and most of these images is black. A mirrored digit is none. Nobody has to like the look.
SETTINGS = Settings(box="clip", mirror=False, min_psnr=20.0)
EPOCHS, BATCH, RATE = 40, 100, 0.003
FARTHEST = 2  # pixels that alignment looks for

_DOWN, _RIGHT = np.mgrid[:8, :8] / 7
_SMUDGE = 0.55 * np.exp(-((_RIGHT - 0.3) ** 2 + (_DOWN - 0.45) ** 2) / 0.1)


def _noise(x: Floats, std: float) -> Floats:
    return x + seeds.rng("scanner").normal(0, std, x.shape)


def _blur(x: Floats, pixels: float) -> Floats:
    return cast(Floats, ndimage.gaussian_filter(x, (0, 0, pixels, pixels)))


def _shift(x: Floats) -> Floats:
    """A pixel down and right."""
    return np.pad(x, ((0, 0), (0, 0), (1, 0), (1, 0)))[..., :8, :8]


# What a scanner makes of images n x 1 x 8 x 8 in [0, 1], black 0; what leaves [0, 1] is cut off.
SCANNERS: dict[str, Callable[[Floats], Floats]] = {
    "as trained": lambda x: x,
    "contrast": lambda x: 0.3 + 0.4 * x,
    "uneven light": lambda x: x + 0.5 * _RIGHT,
    "smudge": lambda x: x + _SMUDGE,
    "blur": lambda x: _blur(x, 1.0),
    "noise": lambda x: _noise(x, 0.3),
    "shift": _shift,
    "all": lambda x: 0.2 + 0.5 * _noise(_blur(_shift(x), 0.5), 0.1) + 0.3 * _RIGHT,
}


@cache
def scanned(scanner: str) -> dict[str, Split]:
    """The digits as one of `SCANNERS` gives them, uint8 n x 1 x 8 x 8 with labels 0 to 9: the same digits in the same `PARTS`."""
    known = load_digits()
    images = np.clip(SCANNERS[scanner](known.images[:, None] / 16), 0, 1)
    levels = (255 * images).round().astype(np.uint8)
    order = np.split(seeds.rng("digits").permutation(len(levels)), np.cumsum(list(PARTS.values()))[:-1])
    return {part: Split(levels[rows], known.target[rows]) for part, rows in zip(PARTS, order, strict=True)}


def trained(split: Split) -> nn.Module:
    """A network of two convolutions, trained on these images by Adam and cross-entropy: n x 1 x 8 x 8 -> logits n x 10."""
    seeds.seed_all(0)
    layers = [nn.Conv2d(1, 16, 3, 1, 1), nn.ReLU(), nn.Conv2d(16, 32, 3, 2, 1), nn.ReLU(), nn.Flatten(), nn.Linear(512, 10)]
    net, x = nn.Sequential(*layers), to_float(split.images, torch.device("cpu"))
    optimiser = torch.optim.Adam(net.parameters(), RATE)
    for epoch in range(EPOCHS):
        for rows in torch.from_numpy(seeds.rng("epoch", epoch).permutation(len(x))).split(BATCH):
            loss = F.cross_entropy(net(x[rows]), split.labels[rows])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    return net.eval()


def offsets(scores: Tensor, labels: Tensor) -> Tensor:
    """What to add to the logarithms of scores n x classes for the lowest cross-entropy: one number a class.

    The threshold of two classes, for more.
    """
    added = torch.zeros(scores.shape[1], requires_grad=True)
    optimiser = torch.optim.LBFGS([added], max_iter=100, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimiser.zero_grad()
        # A class that no image has would sink without end.
        value = F.cross_entropy(scores.clamp_min(1e-9).log() + added, labels) + 1e-4 * added.square().sum()
        value.backward()
        return value

    optimiser.step(loss)  # type: ignore[no-untyped-call]
    return added.detach()


def displaced(images: Tensor, source: Tensor) -> tuple[int, int]:
    """By how many pixels, down and right, `images` stand beside `source`, both uint8: of their mean images."""
    here, there = (baselines.mean_picture(x)[0].numpy() for x in (images, source))
    moves = range(-FARTHEST, FARTHEST + 1)
    return max(product(moves, moves), key=lambda move: np.corrcoef(np.roll(there, move, (0, 1)).ravel(), here.ravel())[0, 1])


def remedies(classifier: TorchClassifier, known: Split, source: Split, split: Split) -> dict[str, classification.Bools]:
    """Which images of `split` are right under each simple remedy, learned from the fitting images `known`.

    source: the images that the classifier was trained on
    """
    own, x, clean = (torch.as_tensor(part.images) for part in (known, split, source))
    y = split.labels.numpy()
    down, right = displaced(own, clean)
    matched = baselines.match_channels(x, *(baselines.channel_levels(part) for part in (own, clean)))
    difference = baselines.mean_picture(clean) - baselines.mean_picture(own)
    mean = best_gain(difference, lambda n: classifier.scores(n.apply(own)), known.labels.numpy())
    moved = offsets(classifier.scores(own), known.labels)
    answers = {
        "offsets": classifier.scores(x).clamp_min(1e-9).log() + moved,
        "matched": classifier.scores(matched),
        "mean_image": classifier.scores(mean.apply(x)),
        "aligned": classifier.scores(x.roll((-down, -right), (2, 3))),
        "aligned_matched": classifier.scores(matched.roll((-down, -right), (2, 3))),
    }
    majority = {"majority": y == known.labels.bincount().argmax().item()}
    return majority | {name: given.argmax(1).numpy() == y for name, given in answers.items()}


def study() -> tuple[pd.DataFrame, dict[str, Perturbation]]:
    """A row a scanner (percent on test images, 95 % intervals), and the N fitted for each.

    `before` and `after` N, each simple remedy, `best` of these and of leaving the images as they are, chosen on these very test
    images, `over_best`: by how much N is ahead of it; `own`: a classifier trained on the scanner's own fitting images;
    `recommended`: by validation images.
    """
    source = scanned("as trained")["train"]
    classifier = TorchClassifier(trained(source))
    rows, found = [], {}
    for scanner in tqdm(SCANNERS, desc="scanners", unit="scanner"):
        known, val, test = (scanned(scanner)[part] for part in ("fit", "val", "test"))
        n = fit(classifier, known.images, known.labels, val.images, val.labels, SETTINGS)
        of_test, of_val = (
            compare(
                classifier.scores(split.images), classifier.scores(n.apply_uint8(split.images)), split,
                remedies(classifier, known, source, split),
            )
            for split in (test, val)
        )  # fmt: skip
        own = TorchClassifier(trained(known)).scores(test.images).argmax(1).numpy() == test.labels.numpy()
        shares = classification.in_percent("best", of_test.right[of_test.best]) | classification.in_percent("own", own)
        plain = to_float(test.images, torch.device("cpu"))
        others = {name: of_test.accuracy(name) for name in of_test.right if name not in ("before", "after")}
        rows.append({
            "scanner": scanner, **of_test.row(), **others, "best_remedy": of_test.best.replace("before", "as it is"),
            **{f"over_best{end}": value for end, value in of_test.over(of_test.best).items()}, **shares,
            "recommended": of_val.recommended,
            "psnr": float(similarity.psnr(plain, n.apply(plain)).mean()),
        })  # fmt: skip
        found[scanner] = n
    return pd.DataFrame(rows), found


def examples(found: dict[str, Perturbation]) -> dict[str, tuple[Tensor, Tensor, Tensor]]:
    """Of each scanner the first 0 and the first 3 of the test, N to look at, and the digits with N: uint8."""
    labels = scanned("as trained")["test"].labels.tolist()
    rows = [labels.index(digit) for digit in (0, 3)]
    first = {scanner: torch.as_tensor(scanned(scanner)["test"].images[rows]) for scanner in found}
    return {scanner: (first[scanner], n.picture(), n.apply_uint8(first[scanner])) for scanner, n in found.items()}
