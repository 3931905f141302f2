"""Every plot, one function per figure of the paper, in one style. Each returns a closed figure: a notebook shows it once.

Figures are as wide as the paper's page, or a third of it a panel. Faces of a data set are drawn only through `showable`.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
import torch
import torch.nn.functional as F
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator, NullLocator
from numpy.typing import ArrayLike, NDArray
from sklearn.metrics import auc, confusion_matrix, roc_curve

from dftlib._torchvision import utils
from dftlib.classifiers import TorchClassifier
from dftlib.config import rng
from dftlib.datasets import FaceDataset
from dftlib.illustration import Example, Points, accuracy
from dftlib.perturbation import Perturbation

PAGE = 7.1  # inches
BEFORE, AFTER, ABSENT, PRESENT, OTHER = "#D55E00", "#0072B2", "#E69F00", "#56B4E9", "#009E73"  # Okabe and Ito (2008)
STAGES = (("before", BEFORE), ("after", AFTER))
STYLE: dict[Any, Any] = {
    "figure.dpi": 150, "font.size": 8, "axes.titlesize": 8, "axes.labelsize": 8, "xtick.labelsize": 7, "ytick.labelsize": 7,
    "legend.fontsize": 7, "legend.frameon": False, "axes.linewidth": 0.6, "xtick.major.width": 0.6, "ytick.major.width": 0.6,
    "axes.spines.top": False, "axes.spines.right": False, "axes.axisbelow": True, "lines.linewidth": 1.2,
}  # fmt: skip
GAP = 2  # pixels between faces
SIDE = np.linspace(0, 1, 121, dtype=np.float32)  # where a boundary in two dimensions is looked for
UNITS = {"atanh": "half log-odds", "printed": "argument of tanh", "clip": "share of full scale"}
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


def _faces(ax: Axes, lines: dict[str, torch.Tensor], columns: int, foot: int = 0) -> None:
    """Named lines of at most `columns` faces (uint8, n x 3 x H x W), with `foot` white pixels below each face."""
    sheet = [F.pad(faces, (0, 0, 0, foot, 0, 0, 0, columns - len(faces)), value=255) for faces in lines.values()]
    grid = utils.make_grid(torch.cat(sheet), columns, GAP, pad_value=255)
    ax.imshow(grid.permute(1, 2, 0).numpy(), interpolation="lanczos")
    pitch = grid.shape[1] / len(lines)
    ax.set_xticks([])
    ax.set_yticks([pitch * (i + 0.5) - foot / 2 for i in range(len(lines))], list(lines), rotation=90, va="center")
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)


def samples(sets: Sequence[FaceDataset], per_class: int = 8, seed: int = 0, note: str = "") -> Figure:
    """Figure 0 (ours): a block a data set, `per_class` women above as many men, drawn at random."""
    with sheet(PAGE, len(sets) * (0.25 + 2 * PAGE / per_class), note) as figure:
        for ax, data in zip(figure.subplots(len(sets), 1, squeeze=False).flat, sets, strict=True):
            gender = data.labels["Gender"].to_numpy()
            rows = [some_faces(data, np.flatnonzero(gender == g), per_class, seed) for g in (0, 1)]
            faces = [torch.from_numpy(np.array(data.images[r])) for r in rows]
            _faces(ax, dict(zip(("female", "male"), faces, strict=True)), per_class)
            people, women = len(np.unique(data.subjects)), 100 * (gender[gender >= 0] == 0).mean()
            ax.set_title(f"{data.name}: {len(data):,} pictures of {people:,} people, {women:.0f} % female", loc="left")
    return figure


def mean_faces(rows: dict[str, Sequence[FaceDataset]], note: str = "") -> Figure:
    """The mean of all faces of each set, a row a way of cutting them out; crosses mark where the eyes are on average."""
    columns = len(next(iter(rows.values())))
    side = min(PAGE / columns, 1.6)
    with sheet(side * columns + 0.3, len(rows) * (side + 0.1) + 0.35, note) as figure:
        for line, (way, sets) in zip(figure.subplots(len(rows), columns, squeeze=False), rows.items(), strict=True):
            for ax, data in zip(line, sets, strict=True):
                assert data.faces is not None
                mean = data.images.mean(0) / 255
                ax.imshow(mean.transpose(1, 2, 0), interpolation="lanczos", extent=(0, 1, 1, 0))
                ax.plot(*data.faces.eyes.mean(0).T, "+", color="white", markersize=7, markeredgewidth=1)
                ax.set(xticks=[], yticks=[0, 0.25, 0.5, 0.75, 1] if ax is line[0] else [])
                if line is figure.axes[0] or way == next(iter(rows)):
                    ax.set_title(f"{data.name}, {len(data):,} faces")
            line[0].set_ylabel(f"{way}\nshare of the height")
    return figure


def perturbations(items: Sequence[tuple[str, Perturbation]], note: str = "") -> Figure:
    """Figure 3b: each N stretched to its largest value (grey is zero), and below it its luminance, on one scale for all."""
    side = PAGE / max(len(items), 3)
    with sheet(side * len(items), 2 * side + 0.75, note) as figure:
        axes = figure.subplots(2, len(items), squeeze=False)
        weights = torch.tensor([0.299, 0.587, 0.114])[:, None, None]  # luminance as JPEG has it
        luminance = [(found.n * weights).sum(0).numpy() for _, found in items]
        most = max(float(np.abs(x).max()) for x in luminance) or 1.0
        for (title, found), light, top, below in zip(items, luminance, *axes, strict=True):
            top.imshow(found.picture().permute(1, 2, 0).numpy(), interpolation="nearest")
            top.set_title(f"{title}\nlargest |N| {found.n.abs().max():.2g}")
            image = below.imshow(light, cmap="RdBu_r", vmin=-most, vmax=most, interpolation="nearest")
        for ax in axes.flat:
            ax.set(xticks=[], yticks=[])
            ax.spines[:].set_visible(False)
        axes[0, 0].set_ylabel("N, each stretched")
        axes[1, 0].set_ylabel("luminance of N")
        units = ", ".join(dict.fromkeys(UNITS[found.box] for _, found in items))
        bar = figure.colorbar(image, ax=axes, location="bottom", shrink=0.6, aspect=40, pad=0.02)
        bar.set_label(f"luminance of N ({units})")
        bar.outline.set_visible(False)
    return figure


def corrected(blocks: Sequence[Block], per_block: int = 8, seed: int = 0, note: str = "") -> Figure:
    """Figure 5: pictures misclassified before, and the same ones below, set right by data fine-tuning; a block an attribute.

    Drawn at random of all that were set right; under each face stands the score of its true class.
    """
    with sheet(PAGE, len(blocks) * (0.6 + 2 * (PAGE - 0.2) / per_block), note) as figure:
        for ax, block in zip(figure.subplots(len(blocks), 1, squeeze=False).flat, blocks, strict=True):
            panel, data = block.panel, block.dataset
            was, now = panel.right("before"), panel.right("after")
            rows = some_faces(data, block.rows[~was & now], per_block, seed)
            images = torch.from_numpy(np.array(data.images[rows]))
            foot = round(images.shape[2] * per_block * 11 / 72 / PAGE)  # 11 points, a line of text
            after = block.perturbation.apply_uint8(images) if len(rows) else images
            _faces(ax, {"before": images, "after": after}, per_block, foot)
            width, height = images.shape[3] + GAP, images.shape[2] + foot + GAP
            for line, (stage, colour) in enumerate(STAGES):
                true = pd.Series(np.where(panel.labels == 1, panel.scores(stage), 1 - panel.scores(stage)), block.rows)
                for i, score in enumerate(true[rows]):
                    place = (width * (i + 0.5) + GAP / 2, height * (line + 1) - foot / 2)
                    ax.annotate(f"{score:.2f}", place, color=colour, ha="center", va="center", size=7)
            counts = f"of {len(was):,} pictures {(~was & now).sum():,} set right, {(was & ~now).sum():,} set wrong"
            ax.set_title(f"{panel.title}: {counts}", loc="left")
        figure.axes[0].set_title("below each: score of its true class", loc="right", size=7, color="0.35")
    return figure


def _shares(ax: Axes, scores: NDArray[np.float64], labels: NDArray[np.int64], names: tuple[str, str]) -> None:
    """The scores of each class in 30 bins, as shares of the class, and the decision boundary at 0.5."""
    bins = np.linspace(0, 1, 31).tolist()
    for label, colour in enumerate((ABSENT, PRESENT)):
        own = scores[labels == label]
        weights = np.full(len(own), 100 / max(len(own), 1))
        ax.hist(own, bins, weights=weights, color=colour, alpha=0.55, label=names[label])
        ax.hist(own, bins, weights=weights, color=colour, histtype="step", linewidth=0.9)
    ax.axvline(0.5, color="0.2", linestyle="--", linewidth=0.8, label="decision boundary")
    ax.set(xlim=(0, 1), xticks=[0, 0.5, 1])
    ax.yaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 5, 10]))


def score_distributions(panels: Sequence[Panel], names: tuple[str, str] = ("absent", "present"), note: str = "") -> Figure:
    """Figures 6 and 8: the scores of each class in 30 bins; of one panel side by side, of more in threes, after below before."""
    alone, columns = len(panels) == 1, 2 if len(panels) == 1 else min(len(panels), 3)
    bands = -(-len(panels) // 3) * (1 if alone else 2)
    with sheet(PAGE * columns / 3, 0.45 + (1.7 if alone else 1.3 * bands), note) as figure:
        axes = figure.subplots(bands, columns, squeeze=False)
        for ax in axes.flat:
            ax.set_visible(False)
        for i, panel in enumerate(panels):
            pair = axes[0] if alone else axes[2 * (i // 3) :, i % 3][:2]
            pair[1].sharey(pair[0])
            for ax, (stage, _) in zip(pair, STAGES, strict=True):
                ax.set_visible(True)
                _shares(ax, panel.scores(stage), panel.labels, names)
                below = stage == "after" and not alone
                ax.set_title(panel.accuracy(stage) if below else f"{panel.title}\n{panel.accuracy(stage)}")
                if below or alone:
                    ax.set_xlabel(f"score of '{names[1]}'")
                else:
                    ax.tick_params(labelbottom=False)
        for ax in axes[:, 0]:
            ax.set_ylabel("share of class (%)")
        figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=3)
    return figure


def roc_curves(panels: Sequence[Panel], note: str = "") -> Figure:
    """Figure 7: ROC curves before and after, in threes, with the areas below them; a dot is the classifier's threshold of 0.5."""
    columns = min(len(panels), 3)
    bands = -(-len(panels) // columns)
    with sheet(PAGE * columns / 3, 0.4 + 2.55 * bands, note) as figure:
        axes = figure.subplots(bands, columns, squeeze=False, sharex=True, sharey=True)
        for ax in axes.flat[len(panels) :]:
            ax.set_visible(False)
        for ax, panel in zip(axes.flat, panels, strict=False):
            areas = []
            for (stage, colour), dash in zip(STAGES, ("--", "-"), strict=True):
                false, true, _ = roc_curve(panel.labels, panel.scores(stage))
                areas.append(f"{auc(false, true):.3f}")
                ax.plot(100 * false, 100 * true, color=colour, linestyle=dash, label=stage)
                said = panel.scores(stage) > 0.5
                at = [100 * said[panel.labels == label].mean() for label in (0, 1)]
                ax.plot(*at, "o", color=colour, markersize=5, markeredgecolor="white", clip_on=False, zorder=3)
            ax.plot([0, 100], [0, 100], color="0.6", linestyle=":", label="chance")
            ax.set_title(f"{panel.title}\narea {' → '.join(areas)}")
            ax.set(xlim=(0, 100), ylim=(0, 100), xticks=range(0, 101, 25), yticks=range(0, 101, 25), aspect="equal")
        for ax in axes.flat[: len(panels)][-columns:]:
            ax.set_xlabel("false positive rate (%)")
            ax.tick_params(labelbottom=True)
        for ax in axes[:, 0]:
            ax.set_ylabel("true positive rate (%)")
        handles, texts = axes[0, 0].get_legend_handles_labels()
        dot = Line2D([], [], marker="o", color="0.3", linestyle="none", markersize=5, markeredgecolor="white")
        figure.legend([*handles, dot], [*texts, "threshold 0.5"], loc="outside upper center", ncols=2 * min(columns, 2))
    return figure


def confusion(
    panels: Sequence[Panel],
    published: Sequence[NDArray[np.float64]] = (),
    names: tuple[str, str] = ("absent", "present"),
    note: str = "",
) -> Figure:
    """Table 4 as a picture: percent of each true class, before above after, and in brackets what the paper has.

    `published`, one 2 x 2 x 2 a panel: [stage, truth, prediction] in percent, 'present' before 'absent', as the paper prints it.
    """
    side = PAGE / max(len(panels), 3)
    with sheet(side * len(panels), 2 * side + 0.5, note) as figure:
        axes = figure.subplots(2, len(panels), squeeze=False, sharex=True, sharey=True)
        for (j, i), ax in np.ndenumerate(axes):
            panel, stage = panels[i], STAGES[j][0]
            percent = 100 * confusion_matrix(panel.labels, panel.scores(stage) > 0.5, labels=[1, 0], normalize="true")
            ax.imshow(percent, cmap="Blues", vmin=0, vmax=100)
            for (truth, said), value in np.ndenumerate(percent):
                colour = "white" if value > 55 else "black"
                ax.annotate(f"{value:.1f}", (said, truth), ha="center", va="center", color=colour, size=10)
                if len(published):
                    paper, place = f"({published[i][j, truth, said]:.1f})", (said, truth + 0.2)
                    ax.annotate(paper, place, ha="center", va="center", color=colour, size=6.5)
            ax.set_xticks([0, 1], names[::-1])
            ax.set_yticks([0, 1], names[::-1], rotation=90, va="center")
            ax.tick_params(length=0)
            ax.spines[:].set_visible(False)
            ax.set_title(f"{panel.title}\n{panel.accuracy(stage)}" if stage == "before" else panel.accuracy(stage))
        for ax in axes[1]:
            ax.set_xlabel("predicted (% of true class)" + ("\nin brackets: the paper" if len(published) else ""))
        for ax in axes[:, 0]:
            ax.set_ylabel("true class")
    return figure


def rise(table: pd.DataFrame, note: str = "") -> Figure:
    """Accuracies before and after, a line a row of a table of outcomes, with 95 % intervals; all in percent.

    Columns: data, model; before, after and rise, each also with _lo and _hi; trivial and threshold. Where there are
    published_before and published_after, they stand hollow below. Lines are named by what differs between the rows.
    """
    names = table["data"] + " by " + table["model"]
    if table["attribute"].nunique() > 1:
        names = table["attribute"] + ": " + names
    for column, word in (("protocol", "protocol "), ("seed", "seed "), ("group", "")):
        if column in table and table[column].nunique() > 1:
            names += f", {word}" + table[column].astype(str)
    paper = {"published_before", "published_after"} <= set(table) and bool(table["published_before"].notna().any())
    y = np.arange(len(table))
    with sheet(PAGE, 1.0 + (0.32 if paper else 0.24) * len(table), note) as figure:
        ax = figure.subplots()
        marks: list[Any] = []
        ax.hlines(y, table["before"], table["after"], color="0.75", linewidth=2.5, zorder=1)
        for (stage, colour), shape in zip(STAGES, "oD", strict=True):
            reach = np.abs(table[[f"{stage}_lo", f"{stage}_hi"]].to_numpy().T - table[stage].to_numpy())
            bars = ax.errorbar(table[stage], y, xerr=reach, fmt=shape, color=colour, elinewidth=0.9, capsize=2, markersize=4.5)
            bars.set_label(stage)
            marks.append(bars)
        if paper:
            ax.hlines(y + 0.32, table["published_before"], table["published_after"], color="0.85", linewidth=0.9, zorder=1)
            for (stage, colour), shape in zip(STAGES, "oD", strict=True):
                marks += ax.plot(table[f"published_{stage}"], y + 0.32, shape, color=colour, mfc="white", markersize=3.5)
                marks[-1].set_label(f"{stage}, in the paper")
        beside_it = (("trivial", "black", "majority class"), ("threshold", OTHER, "best threshold alone"))
        for column, colour, label in (one for one in beside_it if one[0] in table):
            marks += ax.plot(table[column], y, "|", color=colour, markersize=9, markeredgewidth=1.5, zorder=3, label=label)
        beside = ax.get_yaxis_transform()
        for i, found, low, high in zip(range(len(table)), table["rise"], table["rise_lo"], table["rise_hi"], strict=True):
            ax.text(1.01, i, f"{found:+.1f} [{low:+.1f}, {high:+.1f}]", transform=beside, va="center_baseline", size=7)
        ax.text(1.01, -0.6, "rise, points [95 %]", transform=beside, va="bottom", size=7, weight="bold")
        ax.set_yticks(y, list(names))
        ax.set(ylim=(len(table) - 0.4, -0.6), xlabel="accuracy (%) with 95 % interval")
        ax.tick_params(axis="y", length=0)
        ax.spines["left"].set_visible(False)
        ax.grid(axis="x", color="0.92", linewidth=0.6)
        figure.legend(handles=marks, loc="outside upper center", ncols=-(-len(marks) // 2), labelspacing=0.8)
    return figure


METHODS = {  # of fine-tuning: name, colour, shape
    "data": ("data fine-tuning", AFTER, "D"),
    "head": ("model fine-tuning, head", ABSENT, "s"),
    "all layers": ("model fine-tuning, all layers", OTHER, "^"),
    "both": ("both in turn", OTHER, "^"),
}


def label_budgets(table: pd.DataFrame, note: str = "") -> Figure:
    """Figures 9 and 10: accuracy by the number of labelled pictures, a panel a cell; a small mark a draw, the line their mean.

    Columns: attribute, data, model, method, labels, all, after with _lo and _hi, before; percent. The bar at the last point
    is its 95 % interval.
    """
    cells = list(table.groupby(["attribute", "data", "model"], sort=False))
    with sheet(PAGE * max(len(cells), 2) / 3, 2.9, note) as figure:
        axes = figure.subplots(1, len(cells), squeeze=False)[0]
        for ax, ((attribute, data, model), cell) in zip(axes, cells, strict=True):
            for method, own in cell.groupby("method", sort=False):
                name, colour, shape = METHODS[str(method)]
                ax.plot(own["labels"], own["after"], shape, color=colour, alpha=0.35, markersize=3, markeredgewidth=0)
                ax.plot(own.groupby("labels")["after"].mean(), color=colour, marker=shape, markersize=4.5, label=name)
                last = own[own["all"]].iloc[0]
                reach = [[last["after"] - last["after_lo"]], [last["after_hi"] - last["after"]]]
                ax.errorbar(last["labels"], last["after"], yerr=reach, color=colour, elinewidth=0.9, capsize=2)
            ax.axhline(cell["before"].iloc[0], color=BEFORE, linestyle="--", linewidth=0.9, label="before")
            ticks = sorted(cell["labels"].unique())
            ax.set_xscale("log")
            ax.set_xticks(ticks, [*(f"{n:,}" for n in ticks[:-1]), f"all\n{ticks[-1]:,}"])
            ax.xaxis.set_minor_locator(NullLocator())
            ax.set(title=f"{attribute}: {data} by {model}", xlabel="labelled pictures")
            ax.grid(axis="y", color="0.92", linewidth=0.6)
        axes[0].set_ylabel("accuracy on test pictures (%)")
        figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=4 if len(cells) > 2 else 2)
    return figure


def rounds(table: pd.DataFrame, note: str = "") -> Figure:
    """The combination: accuracy by round for each way alone and both in turn; bands are 95 % intervals, in percent."""
    cells = list(table.groupby(["attribute", "data", "model"], sort=False))
    with sheet(PAGE * max(len(cells), 2) / 3, 2.7, note) as figure:
        axes = figure.subplots(1, len(cells), squeeze=False)[0]
        for ax, ((attribute, data, model), cell) in zip(axes, cells, strict=True):
            for way, own in cell.groupby("way", sort=False):
                name, colour, shape = METHODS[str(way)]
                ax.fill_between(own["round"], own["after_lo"], own["after_hi"], color=colour, alpha=0.15, linewidth=0)
                ax.plot(own["round"], own["after"], color=colour, marker=shape, markersize=4.5, label=name)
            ax.set(title=f"{attribute}: {data} by {model}", xlabel="round", xticks=sorted(cell["round"].unique()))
            ax.grid(axis="y", color="0.92", linewidth=0.6)
        axes[0].set_ylabel("accuracy on test pictures (%)")
        figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=3)
    return figure


def frontier(table: pd.DataFrame, note: str = "") -> Figure:
    """Accuracy against PSNR, SSIM and PASS, a row a cell, by what holds the distortion down.

    Columns: rule ('limit', 'mean', 'sum'), value, attribute, data, model, before, after with _lo and _hi (percent), psnr
    (dB), ssim, pass.
    """
    rules = {
        "limit": ("limit on the PSNR (dB)", AFTER, "D-"),
        "mean": ("weight of the averaged distance", ABSENT, "s--"),
        "sum": ("distance summed, as printed", OTHER, "^"),
    }
    measures = {"psnr": "PSNR (dB)", "ssim": "SSIM", "pass": "PASS"}
    cells = list(table.groupby(["attribute", "data", "model"], sort=False))
    with sheet(PAGE, 0.5 + 2.3 * len(cells), note) as figure:
        axes = figure.subplots(len(cells), 3, squeeze=False, sharey="row")
        for ax, label in zip(axes[-1], measures.values(), strict=True):
            ax.set_xlabel(label)
        for row, ((attribute, data, model), cell) in zip(axes, cells, strict=True):
            for ax, measure in zip(row, measures, strict=True):
                for rule, (name, colour, style) in rules.items():
                    own = cell[cell["rule"] == rule].sort_values(measure)
                    ax.fill_between(own[measure], own["after_lo"], own["after_hi"], color=colour, alpha=0.12, linewidth=0)
                    ax.plot(own[measure], own["after"], style, color=colour, markersize=4, label=name)
                    above = 1 if rule == "limit" else -1
                    for x, y, value in own[[measure, "after", "value"]].to_numpy() if measure == "psnr" and rule != "sum" else ():
                        place = {"xytext": (0, 5 * above), "textcoords": "offset points", "va": "bottom" if above > 0 else "top"}
                        ax.annotate(f"{value:g}", (x, y), ha="center", size=6, color=colour, **place)
                ax.axhline(cell["before"].iloc[0], color=BEFORE, linestyle=":", linewidth=0.9, label="before")
                ax.grid(color="0.92", linewidth=0.6)
            row[0].set_ylabel("accuracy (%)")
            row[0].set_title(f"{attribute}: {data} by {model}", loc="left")
        figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=4)
    return figure


ASKERS = {
    "statistics": ("image statistics", "0.45", "X"),
    "one pass": ("one pass, free N", ABSENT, "v"),
    "surrogate": ("surrogate", AFTER, "o"),
    "spsa": ("SPSA", OTHER, "s"),
    "corrected spsa": ("SPSA, gradient correction", "#CC79A7", "^"),
    "cma": ("CMA-ES", BEFORE, "D"),
}


def queries(table: pd.DataFrame, note: str = "") -> Figure:
    """Accuracy against pictures asked, a panel a data set; a small mark a seed, the line their mean, hollow with labels only.

    Columns: data, seed, learner, told ('scores', 'labels', 'gradients'), used, before, after, threshold, colour_threshold;
    percent. The best remedy without N is that of the two thresholds which is higher on average.
    """
    sets = list(table.groupby("data", sort=False))
    with sheet(PAGE * max(len(sets), 2) / 3, 3.1 if len(sets) > 2 else 3.5, note) as figure:
        axes = figure.subplots(1, len(sets), squeeze=False)[0]
        for ax, (data, rows) in zip(axes, sets, strict=True):
            for learner, (name, colour, shape) in ASKERS.items():
                own = rows[(rows["learner"] == learner) & (rows["told"] == "scores")]
                ax.plot(own["used"], own["after"], shape, color=colour, alpha=0.35, markersize=3, markeredgewidth=0)
                mean = own.groupby("budget")[["used", "after"]].mean()
                ax.plot(mean["used"], mean["after"], color=colour, marker=shape, markersize=4.5, label=name)
                labels = rows[(rows["learner"] == learner) & (rows["told"] == "labels")][["used", "after"]].mean()
                ax.plot(*labels, shape, color=colour, markersize=5, markerfacecolor="none")
            means = rows.groupby("told")["after"].mean()
            ax.axhline(means["gradients"], color="0", linewidth=0.9, label="gradient fit, opened")
            ax.axhline(rows[["threshold", "colour_threshold"]].mean().max(), color="0.3", linestyle="--", linewidth=0.9,
                       label="moved threshold")  # fmt: skip
            ax.axhline(rows["before"].mean(), color="0.3", linestyle=":", linewidth=0.9, label="before")
            ax.set(xscale="log", title=str(data), xlabel="pictures asked")
            ax.margins(x=0.2)
            ticks = sorted(set(table["budget"]) - {0})
            ax.set_xticks(ticks, [f"{n:,}" for n in ticks])
            ax.xaxis.set_minor_locator(NullLocator())
            ax.grid(color="0.92", linewidth=0.6)
        axes[0].set_ylabel("accuracy on test pictures (%)")
        figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=5 if len(sets) > 2 else 3)
    return figure


def controls(table: pd.DataFrame, note: str = "") -> Figure:
    """How far the accuracy under N is above each control, in points: a row a cell, a column a control.

    Columns: table, attribute, data, model, control, over with _lo and _hi. Bold: the 95 % interval excludes zero.
    """
    names = table["attribute"] + ": " + table["data"] + " by " + table["model"]
    table = table.assign(cell=names)[table["control"] != "after"]
    grid, low, high = (
        table.pivot_table(value, "cell", "control", sort=False, dropna=False) for value in ("over", "over_lo", "over_hi")
    )
    with sheet(PAGE, 1.5 + 0.2 * len(grid), note) as figure:
        ax = figure.subplots()
        most = min(30.0, float(np.nanmax(np.abs(grid.to_numpy()))))
        bar = {"label": "accuracy under N less the control's (points)", "location": "bottom", "shrink": 0.5, "aspect": 40}
        bar |= {"extend": "both", "pad": 0.04}
        sns.heatmap(grid, ax=ax, cmap="PuOr", center=0, vmin=-most, vmax=most, annot=True, fmt="+.1f", cbar_kws=bar,
                    annot_kws={"size": 6.5}, linewidths=0.5)  # fmt: skip
        clear = ((low > 0) | (high < 0)).to_numpy()[~grid.isna().to_numpy()]
        for text, sure in zip(ax.texts, clear, strict=True):
            text.set_fontweight("bold" if sure else "normal")
        ax.set_xticks(ax.get_xticks(), [str(c).replace("_", " ") for c in grid.columns], rotation=90)
        ax.set(xlabel="", ylabel="")
        ax.xaxis.tick_top()
        ax.tick_params(length=0)
    return figure


def scorecard(table: pd.DataFrame, note: str = "") -> Figure:
    """The paper's rise beside ours for each of its cells: the picture of `scorecard.scorecard`, Tables 2, 3, 5 and 6."""
    rows = table[table["table"] != 4].reset_index(drop=True)
    verdicts = {
        "beats every simple remedy": (AFTER, "D", rows["beats_remedies"] == "yes"),
        "not shown to beat the best of them": (ABSENT, "o", rows["beats_remedies"] != "yes"),
    }
    titles = {2: "Gender, own data", 3: "attributes, own data", 5: "Gender, other data", 6: "attributes, other data"}
    y = np.arange(len(rows)) + rows["table"].map({t: i for i, t in enumerate(titles)}).to_numpy() * 1.4
    agree = int((rows["sign_agrees"]).sum())
    with sheet(PAGE, 0.9 + 0.19 * (len(rows) + 1.4 * len(titles)), note) as figure:
        ax = figure.subplots()
        ax.axvline(0, color="0.3", linewidth=0.8)
        ax.hlines(y, rows["published_rise"], rows["rise"], color="0.85", linewidth=2)
        ax.plot(rows["published_rise"], y, "D", mfc="white", color="0.35", markersize=4.5, label="the paper")
        for name, (colour, shape, here) in verdicts.items():
            own = rows[here]
            reach = [own["rise"] - own["rise_lo"], own["rise_hi"] - own["rise"]]
            ax.errorbar(own["rise"], y[here], xerr=reach, fmt=shape, color=colour, elinewidth=0.9, capsize=2, markersize=4.5,
                        label=f"ours: {name}")  # fmt: skip
        left = ax.get_yaxis_transform()
        for number, title in titles.items():
            first = y[rows["table"] == number].min()
            said = f"Table {number}: {title}"
            ax.text(-0.01, first - 0.95, said, transform=left, ha="right", va="center", size=7, weight="bold")
        ax.set_yticks(y, rows["attribute"] + ": " + rows["data"] + " by " + rows["model"])
        ax.set(ylim=(y.max() + 0.7, -1.6), xlabel="rise in accuracy (points), with 95 % interval")
        ax.set_title(f"The sign agrees in {agree} of {len(rows)} cells", loc="left", weight="bold")
        ax.tick_params(axis="y", length=0)
        ax.spines["left"].set_visible(False)
        ax.grid(axis="x", color="0.92", linewidth=0.6)
        figure.legend(loc="outside upper center", ncols=3)
    return figure


def _field(classifier: TorchClassifier) -> NDArray[np.float32]:
    """The score of 'present' all over the unit square; the rows are those of the second pixel."""
    grid = torch.from_numpy(np.stack(np.meshgrid(SIDE, SIDE), -1)).view(-1, 1, 1, 2)
    return classifier.scores(grid)[:, 1].view(len(SIDE), -1).numpy()


def _square(ax: Axes, classifier: TorchClassifier, points: Points, names: tuple[str, str], title: str) -> None:
    """Points in the unit square, on what the classifier says of all of it, with its decision boundary and its accuracy."""
    field = _field(classifier)
    ax.contourf(SIDE, SIDE, field, [0, 0.5, 1], colors=[ABSENT, PRESENT], alpha=0.2)
    ax.contour(SIDE, SIDE, field, [0.5], colors="0.1", linewidths=1.4)
    for label, (colour, shape) in enumerate(((ABSENT, "o"), (PRESENT, "^"))):
        x, y = points.pictures[points.labels == label].flatten(1).T.numpy()
        ax.scatter(x, y, 11, color=colour, marker=shape, edgecolor="0.2", linewidth=0.35, label=names[label])
    ax.set(xlim=(0, 1), ylim=(0, 1), xticks=[0, 0.5, 1], yticks=[0, 0.5, 1], aspect="equal", xlabel="first pixel")
    ax.set_title(f"{title}: {100 * accuracy(classifier, points):.1f} % right")


def two_ways(example: Example, names: tuple[str, str] = ("absent", "present"), note: str = "") -> Figure:
    """Figure 1, live: data X and a model of other data; the boundary moves to the data, or the data to the boundary."""
    panels = (
        (example.model, example.x, "(a) data X, a model of other data,\nnothing has moved"),
        (example.tuned, example.x, "(b) model fine-tuning,\nthe boundary moves"),
        (example.model, example.z, "(c) data fine-tuning,\nthe data move"),
    )
    with sheet(PAGE, 3.15, note) as figure:
        axes = figure.subplots(1, 3, sharey=True)
        for ax, (classifier, points, title) in zip(axes, panels, strict=True):
            _square(ax, classifier, points, names, title)
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


def score_path(example: Example, names: tuple[str, str] = ("absent", "present"), note: str = "") -> Figure:
    """Figure 4, live: the data D₁ that trained a model M₁, the data X, and Z = X + N; below each, the scores that M₁ gives."""
    parts = {"D₁": example.d1, "X": example.x, "Z = X + N": example.z}
    with sheet(PAGE, 4.75, note) as figure:
        axes = figure.subplots(2, 3, sharey="row", height_ratios=(1.6, 1))
        for (top, below), (name, points), letters in zip(axes.T, parts.items(), ("ab", "cd", "ef"), strict=True):
            _square(top, example.model, points, names, f"({letters[0]}) {name}")
            _shares(below, example.model.scores(points.pictures)[:, 1].double().numpy(), points.labels.numpy(), names)
            below.set(title=f"({letters[1]}) scores of {name}", xlabel=f"score of '{names[1]}'")
        axes[0, 0].set_ylabel("second pixel")
        axes[1, 0].set_ylabel("share of class (%)")
        handles, texts = axes[0, 0].get_legend_handles_labels()
        handles.append(Line2D([], [], color="0.1", linewidth=1.4))
        figure.legend(handles, [*texts, "decision boundary of M₁, trained on D₁"], loc="outside upper center", ncols=3)
    return figure


def examples(before: torch.Tensor, after: torch.Tensor, true: ArrayLike, title: str, note: str = "") -> Figure:
    """Pictures before, ten times the change around grey, pictures after (uint8, n x 3 x H x W); true: 2 x n scores, in [0, 1]."""
    count, _, size, _ = before.shape
    change = (127.5 + 10 * (after.float() - before)).clamp(0, 255).byte()
    with sheet(PAGE, 0.5 + 3.4 * (PAGE - 0.2) / count, note) as figure:
        ax = figure.subplots()
        foot = round(size * count * 11 / 72 / PAGE)  # 11 points, a line of text
        _faces(ax, {"before": before, "10 × change": change, "after": after}, count, foot)
        for line, (_, colour), scores in zip((1, 3), STAGES, np.asarray(true), strict=True):
            for i, score in enumerate(scores):
                place = ((before.shape[3] + GAP) * (i + 0.5) + GAP / 2, (size + foot + GAP) * line - foot / 2)
                ax.annotate(f"{score:.2f}", place, color=colour, ha="center", va="center", size=7)
        ax.set_title(title, loc="left")
        ax.set_title("below each: score of its true class", loc="right", size=7, color="0.35")
    return figure
