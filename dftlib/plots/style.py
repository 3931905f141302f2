"""One style for every plot, and the faces and scores that several of them draw.

Figures are as wide as the paper's page, or a third of it a panel. Faces of a data set are drawn only through `showable`.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from matplotlib.axes import Axes
from matplotlib.container import ErrorbarContainer
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import MaxNLocator
from numpy.typing import ArrayLike, NDArray

from dftlib._torchvision import utils
from dftlib.datasets import FaceDataset
from dftlib.perturbation.perturbation import Perturbation
from dftlib.seeds import rng

PAGE = 7.1  # inches
BEFORE, AFTER, ABSENT, PRESENT, OTHER = "#D55E00", "#0072B2", "#E69F00", "#56B4E9", "#009E73"  # Okabe and Ito (2008)
STAGES = (("before", BEFORE), ("after", AFTER))
CLASSES = {"absent": ABSENT, "present": PRESENT}
STYLE: dict[Any, Any] = {
    "figure.dpi": 150, "font.size": 8, "axes.titlesize": 8, "axes.labelsize": 8, "xtick.labelsize": 7, "ytick.labelsize": 7,
    "legend.fontsize": 7, "legend.frameon": False, "axes.linewidth": 0.6, "xtick.major.width": 0.6, "ytick.major.width": 0.6,
    "axes.spines.top": False, "axes.spines.right": False, "axes.axisbelow": True, "lines.linewidth": 1.2,
    "grid.color": "0.92", "grid.linewidth": 0.6,
}  # fmt: skip
GAP = 2  # pixels between faces
MUCT_SHOWABLE = ("000", "001", "002", "200", "201", "400", "401", "402")  # the people whom its authors allow in print


@dataclass(frozen=True)
class Panel:
    """The scores of one cell: of the class 'present', in [0, 1], n before and n after, and n labels, 0 or 1."""

    title: str
    before: ArrayLike
    after: ArrayLike
    labels: NDArray[np.int64]

    def scores(self, stage: str) -> NDArray[np.float64]:
        return np.asarray(getattr(self, stage), dtype=np.float64)

    def true(self, stage: str) -> NDArray[np.float64]:
        """Of each image's own class."""
        return np.where(self.labels == 1, self.scores(stage), 1 - self.scores(stage))

    def right(self, stage: str) -> NDArray[np.bool_]:
        return (self.scores(stage) > 0.5) == (self.labels == 1)

    def accuracy(self, stage: str) -> str:
        return f"{stage}: {100 * self.right(stage).mean():.1f} % right"


@dataclass(frozen=True)
class Block:
    """A panel and the faces that it was measured on: n rows of `dataset`, changed by `perturbation`."""

    panel: Panel
    dataset: FaceDataset
    rows: NDArray[np.int64]
    perturbation: Perturbation


@contextmanager
def sheet(width: float, height: float, note: str) -> Iterator[Figure]:
    """A figure of this size in inches, in the style whatever the user's own is, with `note` in a line kept free at the bottom."""
    line = 10 / 72 / height if note else 0.0
    with plt.style.context(["default", STYLE]):
        figure = plt.figure(figsize=(width, height), layout=ConstrainedLayoutEngine(rect=(0, line, 1, 1 - line)))
        try:
            yield figure
            figure.text(1 - 0.04 / width, 0.03 / height, note, size=6, style="italic", color="0.35", ha="right", va="bottom")
            for ax in figure.axes:
                ax.tick_params(labelsize=7)  # said again, since a locator asks for it after the style is gone
            figure.draw_without_rendering()  # other ticks take their style when they are first drawn
        finally:
            plt.close(figure)


def showable(dataset: FaceDataset, rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """The rows whose faces a figure may show: all, but of MUCT only the eight people that its authors name."""
    return rows[np.isin(dataset.subjects[rows], MUCT_SHOWABLE)] if "muct" in dataset.name.lower() else rows


def some_faces(dataset: FaceDataset, rows: NDArray[np.int64], most: int, seed: int) -> NDArray[np.int64]:
    """At most `most` of the showable rows, drawn at random, every person once before any twice."""
    rows = rng(seed, "figures").permutation(showable(dataset, rows))
    again = pd.Series(dataset.subjects[rows]).groupby(dataset.subjects[rows]).cumcount().to_numpy()
    return rows[np.argsort(again, kind="stable")][:most]


def bare(ax: Axes) -> None:
    """Of axes only what is drawn in them, and their labels."""
    ax.set(xticks=[], yticks=[])
    ax.spines[:].set_visible(False)


def errorbars(ax: Axes, at: ArrayLike, table: pd.DataFrame, column: str, across: bool = False, **how: Any) -> ErrorbarContainer:
    """A column of the table at these places along x, or `across` along y, with its 95 % intervals (`_lo` and `_hi`)."""
    reach = np.abs([table[f"{column}{end}"] - table[column] for end in ("_lo", "_hi")])
    how = {"markersize": 4.5, "elinewidth": 0.9, "capsize": 2} | how
    if across:
        return ax.errorbar(table[column], at, xerr=reach, **how)
    return ax.errorbar(at, table[column], yerr=reach, **how)


def faces(ax: Axes, lines: dict[str, torch.Tensor], columns: int, foot: int = 0) -> None:
    """Named lines of at most `columns` faces (uint8, n x 3 x H x W), with `foot` white pixels below each face."""
    padded = [F.pad(line, (0, 0, 0, foot, 0, 0, 0, columns - len(line)), value=255) for line in lines.values()]
    grid = utils.make_grid(torch.cat(padded), columns, GAP, pad_value=255)
    ax.imshow(grid.permute(1, 2, 0).numpy(), interpolation="lanczos")
    pitch = grid.shape[1] / len(lines)
    bare(ax)
    ax.set_yticks([pitch * (i + 0.5) - foot / 2 for i in range(len(lines))], list(lines), rotation=90, va="center")
    ax.tick_params(length=0)


def scored_faces(ax: Axes, lines: dict[str, torch.Tensor], scores: Mapping[str, ArrayLike], columns: int) -> None:
    """As `faces`, with room for a line of text below each face; for lines named by a stage, n `scores` stand there."""
    height, width = next(iter(lines.values())).shape[2:]
    foot = round(height * columns * 11 / 72 / PAGE)  # 11 points
    faces(ax, lines, columns, foot)
    for stage, colour in STAGES:
        below = (height + foot + GAP) * (list(lines).index(stage) + 1) - foot / 2
        for i, score in enumerate(np.asarray(scores[stage])):
            place = ((width + GAP) * (i + 0.5) + GAP / 2, below)
            ax.annotate(f"{score:.2f}", place, color=colour, ha="center", va="center", size=7)


def shares(ax: Axes, scores: NDArray[np.float64], labels: NDArray[np.int64]) -> None:
    """The scores of each class in 30 bins, as shares of the class, and the decision boundary at 0.5."""
    bins = np.linspace(0, 1, 31).tolist()
    for label, (name, colour) in enumerate(CLASSES.items()):
        own = scores[labels == label]
        weights = np.full(len(own), 100 / max(len(own), 1))
        ax.hist(own, bins, weights=weights, color=colour, alpha=0.55, label=name)
        ax.hist(own, bins, weights=weights, color=colour, histtype="step", linewidth=0.9)
    ax.axvline(0.5, color="0.2", linestyle="--", linewidth=0.8, label="decision boundary")
    ax.set(xlim=(0, 1), xticks=[0, 0.5, 1])
    ax.yaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 5, 10]))
