"""Figures 1 and 4 of the paper, live in two dimensions: pictures of two pixels (n x 1 x 1 x 2), so that all can be drawn.

M1, a curved boundary, is learned on D1. On X, the same two bows moved and turned, it fails. Model fine-tuning goes on
training it with labelled points of X; data fine-tuning leaves it alone and adds one N, fitted by `perturbation.fit`, to them all.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import NDArray
from torch import Tensor, nn

from dftlib import seeds
from dftlib.classifiers.base import TorchClassifier
from dftlib.models.training import train_nnet
from dftlib.perturbation.gradient import Settings, fit
from dftlib.perturbation.perturbation import Perturbation
from dftlib.plots.style import ABSENT, CLASSES, PAGE, PRESENT, shares, sheet

COUNTS = {"train": 200, "val": 200, "test": 300}
# The distance costs little, and has no limit: N has to carry the points as far as the data sets lie apart.
SETTINGS = Settings.paper(box="clip", weight=0.1, optimiser="steepest", learning_rate=0.01, inner_steps=20, epochs=6)


class Points(NamedTuple):
    """Pictures n x 1 x 1 x 2 in [0, 1] and their labels n (int64), 0 or 1."""

    pictures: Tensor
    labels: Tensor

    @property
    def features(self) -> tuple[Tensor, Tensor]:
        """The pictures as features n x 2, and the labels."""
        return self.pictures.flatten(1), self.labels


@dataclass(frozen=True)
class Example:
    """Test points of D1 and of X, M1 trained on D1, M1 fine-tuned on X, and the perturbation fitted to X under M1."""

    d1: Points
    x: Points
    model: TorchClassifier
    tuned: TorchClassifier
    perturbation: Perturbation

    @property
    def z(self) -> Points:
        """X + N, the fine-tuned data."""
        return Points(self.perturbation.apply(self.x.pictures), self.x.labels)


def _draw(name: str, centre: tuple[float, float], degrees: float, seed: int) -> list[Points]:
    """Two parallel bows, class 0 above class 1, around `centre` and turned: training, validation and test points."""
    angle = np.deg2rad(degrees)
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    parts = []
    for part, count in COUNTS.items():
        random = seeds.rng(seed, name, part)
        labels = np.arange(count) % 2
        along = random.uniform(-1, 1, count)
        bows = np.stack([along, 0.3 - 0.8 * along**2 + 0.4 * (1 - 2 * labels)], 1)
        points = 0.2 * (bows + 0.2 * random.standard_normal(bows.shape)) @ turn + centre
        parts.append(Points(torch.from_numpy(points).float().view(-1, 1, 1, 2), torch.from_numpy(labels)))
    return parts


def accuracy(classifier: TorchClassifier, points: Points) -> float:
    """The share of points that the classifier gets right."""
    return (classifier.scores(points.pictures).argmax(1) == points.labels).double().mean().item()


def example(seed: int = 0) -> Example:
    """Trains M1 on D1, goes on training a copy of it on X, and fits N to X under M1; validation points choose the epochs."""
    train, val, d1 = _draw("D1", (0.54, 0.64), 0, seed)
    # Slowly, since a model that is sure of everything has no gradient where it is wrong, and N would find no way back.
    head = train_nnet(*train.features, *val.features, learning_rate=0.001, seed=seed)
    learned_on = train.pictures.flatten(1)
    train, val, x = _draw("X", (0.46, 0.42), -20, seed)
    tuned = train_nnet(*train.features, *val.features, seed=seed, start=head, scale=learned_on)
    model, other = (TorchClassifier(nn.Sequential(nn.Flatten(), layers)) for layers in (head, tuned))
    return Example(d1, x, model, other, fit(model, *train, *val, SETTINGS, seed))


SIDE = np.linspace(0, 1, 121, dtype=np.float32)  # where a boundary in two dimensions is looked for


def _field(classifier: TorchClassifier) -> NDArray[np.float32]:
    """The score of 'present' all over the unit square; the rows are those of the second pixel."""
    grid = torch.from_numpy(np.stack(np.meshgrid(SIDE, SIDE), -1)).view(-1, 1, 1, 2)
    return classifier.scores(grid)[:, 1].view(len(SIDE), -1).numpy()


def _square(ax: Axes, classifier: TorchClassifier, points: Points, title: str) -> None:
    """Points in the unit square, on what the classifier says of all of it, with its decision boundary and its accuracy."""
    field = _field(classifier)
    ax.contourf(SIDE, SIDE, field, [0, 0.5, 1], colors=[ABSENT, PRESENT], alpha=0.2)
    ax.contour(SIDE, SIDE, field, [0.5], colors="0.1", linewidths=1.4)
    for label, ((name, colour), shape) in enumerate(zip(CLASSES.items(), "o^", strict=True)):
        x, y = points.pictures[points.labels == label].flatten(1).T.numpy()
        ax.scatter(x, y, 11, color=colour, marker=shape, edgecolor="0.2", linewidth=0.35, label=name)
    ax.set(xlim=(0, 1), ylim=(0, 1), xticks=[0, 0.5, 1], yticks=[0, 0.5, 1], aspect="equal", xlabel="first pixel")
    ax.set_title(f"{title}: {100 * accuracy(classifier, points):.1f} % right")


def two_ways(example: Example, note: str = "") -> Figure:
    """Figure 1, live: data X and a model of other data; the boundary moves to the data, or the data to the boundary."""
    panels = (
        (example.model, example.x, "(a) data X, a model of other data,\nnothing has moved"),
        (example.tuned, example.x, "(b) model fine-tuning,\nthe boundary moves"),
        (example.model, example.z, "(c) data fine-tuning,\nthe data move"),
    )
    with sheet(PAGE, 3.15, note) as figure:
        axes = figure.subplots(1, 3, sharey=True)
        for ax, (classifier, points, title) in zip(axes, panels, strict=True):
            _square(ax, classifier, points, title)
        axes[1].contour(SIDE, SIDE, _field(example.model), [0.5], colors="0.1", linewidths=1.2, linestyles="dashed")
        was, n = example.x.pictures.flatten(1), example.perturbation.n.flatten()
        for label, shape in enumerate("o^"):
            x, y = was[example.x.labels == label].T
            axes[2].scatter(x, y, 8, color="none", marker=shape, edgecolor="0.6", linewidth=0.4, zorder=0.9)
        x, y = was[was[:, 0].argsort()[20::43]].T  # a few, from left to right
        axes[2].quiver(x, y, *n, angles="xy", scale_units="xy", scale=1, width=0.012, color="0.1", ec="white", lw=0.5, zorder=3)
        axes[0].set_ylabel("second pixel")
        handles, texts = axes[0].get_legend_handles_labels()
        handles += [Line2D([], [], color="0.1", linewidth=1.4), Line2D([], [], color="0.1", linewidth=1.2, linestyle="--")]
        handles.append(Line2D([], [], color="0.1", marker=r"$\rightarrow$", markersize=12, linestyle="none"))
        texts += ["decision boundary", "before fine-tuning", "N, the same for every point"]
        figure.legend(handles, texts, loc="outside upper center", ncols=5)
    return figure


def score_path(example: Example, note: str = "") -> Figure:
    """Figure 4, live: the data D₁ that trained a model M₁, the data X, and Z = X + N; below each, the scores that M₁ gives."""
    parts = {"D₁": example.d1, "X": example.x, "Z = X + N": example.z}
    with sheet(PAGE, 4.75, note) as figure:
        axes = figure.subplots(2, 3, sharey="row", height_ratios=(1.6, 1))
        for (top, below), (name, points), letters in zip(axes.T, parts.items(), ("ab", "cd", "ef"), strict=True):
            _square(top, example.model, points, f"({letters[0]}) {name}")
            shares(below, example.model.scores(points.pictures)[:, 1].double().numpy(), points.labels.numpy())
            below.set(title=f"({letters[1]}) scores of {name}", xlabel="score of 'present'")
        axes[0, 0].set_ylabel("second pixel")
        axes[1, 0].set_ylabel("share of class (%)")
        handles, texts = axes[0, 0].get_legend_handles_labels()
        handles.append(Line2D([], [], color="0.1", linewidth=1.4))
        figure.legend(handles, [*texts, "decision boundary of M₁, trained on D₁"], loc="outside upper center", ncols=3)
    return figure
