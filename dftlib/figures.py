"""Every plot, one function per figure, in one style. A function returns a closed figure: a notebook shows it once.

Widths are those of the paper's columns. Faces come from a data set only through `showable`, which keeps MUCT's authors' wish.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import ArrayLike, NDArray
from sklearn.metrics import auc, confusion_matrix, roc_curve
from torch import Tensor, as_tensor, full

from dftlib._torchvision import utils
from dftlib.config import rng
from dftlib.datasets import FaceDataset
from dftlib.perturbation import Perturbation

COLUMN, PAGE = 3.5, 7.1  # inches
BEFORE, AFTER, ABSENT, PRESENT, OTHER = "#D55E00", "#0072B2", "#E69F00", "#56B4E9", "#009E73"  # Okabe and Ito (2008)
STYLE = {
    "figure.dpi": 150, "font.family": "DejaVu Sans", "font.size": 8, "axes.titlesize": 8, "axes.labelsize": 8,
    "xtick.labelsize": 7, "ytick.labelsize": 7, "legend.fontsize": 7, "legend.frameon": False, "axes.linewidth": 0.6,
    "xtick.major.width": 0.6, "ytick.major.width": 0.6, "axes.spines.top": False, "axes.spines.right": False,
    "axes.axisbelow": True, "lines.linewidth": 1.2,
}  # fmt: skip
MUCT_SHOWABLE = ("000", "001", "002", "200", "201", "400", "401", "402")
GAP = 2  # pixels between faces
UNITS = {"atanh": "half log-odds", "printed": "before tanh", "clip": "share of full scale"}

Rows = NDArray[np.int64]
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Panel:
    """The scores of one cell: of 'present' in [0, 1], n before and n after, for n labels 0 or 1."""

    title: str
    before: ArrayLike
    after: ArrayLike
    labels: NDArray[np.int64]

    @property
    def stages(self) -> dict[str, Floats]:
        return {"before": np.asarray(self.before, float), "after": np.asarray(self.after, float)}

    def accuracy(self, stage: str) -> float:
        return float(((self.stages[stage] > 0.5) == self.labels).mean())


@dataclass(frozen=True)
class Block:
    """A panel and the faces it was measured on: rows n of `dataset`, under `perturbation`."""

    panel: Panel
    dataset: FaceDataset
    rows: Rows
    perturbation: Perturbation


@contextmanager
def _sheet(width: float, height: float, note: str) -> Iterator[Figure]:
    with plt.rc_context(STYLE):
        figure = plt.figure(figsize=(width, height), layout="constrained")
        try:
            yield figure
            if note:
                line = 10 / 72 / height
                figure.get_layout_engine().set(rect=(0, line, 1, 1 - line))
                figure.text(1 - 0.04 / width, 0.03 / height, note, size=6, style="italic", color="0.35", ha="right", va="bottom")
            figure.draw_without_rendering()  # ticks take their style when they are first drawn
        finally:
            plt.close(figure)


def showable(dataset: FaceDataset, rows: Rows) -> Rows:
    """The rows whose faces a figure may show: all, but of MUCT only the eight people its authors name."""
    return rows[np.isin(dataset.subjects[rows], MUCT_SHOWABLE)] if "muct" in dataset.name.lower() else rows


def _some(dataset: FaceDataset, rows: Rows, most: int, seed: int) -> Rows:
    """At most `most` of the rows that may be shown, drawn at random, every person once before any twice."""
    rows = rng(seed, "figures").permutation(showable(dataset, rows))
    again = pd.Series(dataset.subjects[rows]).groupby(dataset.subjects[rows]).cumcount().to_numpy()
    return rows[np.argsort(again, kind="stable")][:most]


def _faces(ax: Axes, lines: dict[str, Tensor], columns: int) -> int:
    """Draws lines of faces (uint8, at most `columns` x 3 x H x W), each with its name on the left; returns a face's pitch in pixels."""
    size = next(iter(lines.values())).shape[1:]
    sheet = full((len(lines) * columns, *size), 255).byte()
    for i, faces in enumerate(lines.values()):
        sheet[i * columns : i * columns + len(faces)] = faces
    ax.imshow(utils.make_grid(sheet, columns, GAP, pad_value=255).permute(1, 2, 0).numpy(), interpolation="lanczos")
    pitch = int(size[-1]) + GAP
    ax.set_xticks([])
    ax.set_yticks([pitch * (i + 0.5) for i in range(len(lines))], list(lines), rotation=90, va="center")
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    return pitch


def samples(sets: Sequence[FaceDataset], per_class: int = 8, seed: int = 0, note: str = "") -> Figure:
    """Figure 0: a block a data set, a row of women above a row of men, `per_class` faces each, drawn at random."""
    with _sheet(PAGE, len(sets) * (0.25 + 2 * PAGE / per_class), note) as figure:
        for ax, data in zip(figure.subplots(len(sets), 1, squeeze=False).flat, sets, strict=True):
            gender = data.labels["Gender"].to_numpy()
            rows = {name: _some(data, np.flatnonzero(gender == g), per_class, seed) for g, name in enumerate(("female", "male"))}
            _faces(ax, {name: as_tensor(np.array(data.images[r])) for name, r in rows.items()}, per_class)
            people, women = len(np.unique(data.subjects)), (gender == 0).mean()
            ax.set_title(f"{data.name}: {len(data):,} pictures of {people:,} people, {women:.0%} female", loc="left")
    return figure


def perturbations(items: Sequence[tuple[str, Perturbation]], note: str = "") -> Figure:
    """Figure 3b: each N stretched to its largest value (grey is zero), and below its luminance, on one scale for all."""
    with _sheet(PAGE, 0.6 + 2 * (PAGE - 0.8) / max(len(items), 3), note) as figure:
        axes = figure.subplots(2, len(items), squeeze=False)
        weights = as_tensor([0.299, 0.587, 0.114])[:, None, None]  # of ITU-R BT.601, as in JPEG
        luminance = [(p.n * weights).sum(0).numpy() for _, p in items]
        most = max(float(np.abs(x).max()) for x in luminance) or 1.0
        for (title, found), light, top, below in zip(items, luminance, axes[0], axes[1], strict=True):
            top.imshow(found.picture().permute(1, 2, 0).numpy(), interpolation="nearest")
            top.set_title(f"{title}\nlargest |N| {found.n.abs().max():.2g}")
            image = below.imshow(light, cmap="RdBu_r", vmin=-most, vmax=most, interpolation="nearest")
        for ax in axes.flat:
            ax.set(xticks=[], yticks=[])
            ax.spines[:].set_visible(False)
        axes[0, 0].set_ylabel("N, each stretched")
        axes[1, 0].set_ylabel("luminance, one scale")
        units = ", ".join(dict.fromkeys(UNITS[p.box] for _, p in items))
        figure.colorbar(image, ax=axes[1], label=f"luminance of N\n({units})", shrink=0.9).outline.set_visible(False)
    return figure


def corrected(blocks: Sequence[Block], per_block: int = 8, seed: int = 0, note: str = "") -> Figure:
    """Figure 5: pictures misclassified before, and below them the same ones, right after data fine-tuning.

    Under each stands the score of its true class. Drawn at random of all that were set right, one block an attribute.
    """
    with _sheet(PAGE, len(blocks) * (0.55 + 2 * PAGE / per_block), note) as figure:
        for ax, block in zip(figure.subplots(len(blocks), 1, squeeze=False).flat, blocks, strict=True):
            panel, data = block.panel, block.dataset
            true = {stage: np.where(panel.labels == 1, score, 1 - score) for stage, score in panel.stages.items()}
            found = np.flatnonzero((true["before"] < 0.5) & (true["after"] > 0.5))
            place = dict(zip(block.rows[found].tolist(), found.tolist(), strict=True))
            rows = _some(data, block.rows[found], per_block, seed)
            images = np.array(data.images[rows])
            pitch = _faces(ax, {"before": as_tensor(images), "after": block.perturbation.apply_uint8(images)}, per_block)
            for (stage, scores), y, colour in zip(true.items(), (0, 1), (BEFORE, AFTER), strict=True):
                for x, row in enumerate(rows.tolist()):
                    text = f"{scores[place[row]]:.2f}"
                    ax.annotate(text, (pitch * (x + 0.5), pitch * (y + 1)), color=colour, ha="center", va="bottom", size=7)
            lost = int(((true["before"] > 0.5) & (true["after"] < 0.5)).sum())
            ax.set_title(f"{panel.title}: {len(found):,} pictures set right, {lost:,} set wrong, of {len(panel.labels):,}", loc="left")
    return figure


def score_distributions(panels: Sequence[Panel], names: tuple[str, str] = ("absent", "present"), note: str = "") -> Figure:
    """Figures 6 and 8: the scores of each class before and after, 30 bins; one panel side by side, more in threes, before above after."""
    columns, bands = (2, 1) if len(panels) == 1 else (min(len(panels), 3), 2 * -(-len(panels) // 3))
    bins = np.linspace(0, 1, 31)
    with _sheet(PAGE if columns > 2 else COLUMN * 1.4, 0.4 + 1.35 * bands, note) as figure:
        axes = figure.subplots(bands, columns, squeeze=False, sharex=True)
        for i, panel in enumerate(panels):
            first = 2 * (i // 3), i % 3
            pair = [axes[first], axes[0, 1] if len(panels) == 1 else axes[first[0] + 1, first[1]]]
            pair[1].sharey(pair[0])
            for ax, (stage, scores) in zip(pair, panel.stages.items(), strict=True):
                for label, colour in enumerate((ABSENT, PRESENT)):
                    own = scores[panel.labels == label]
                    weights = np.full(len(own), 100 / max(len(own), 1))
                    ax.hist(own, bins, weights=weights, color=colour, alpha=0.55, label=names[label])
                    ax.hist(own, bins, weights=weights, color=colour, histtype="step", linewidth=0.9)
                ax.axvline(0.5, color="0.2", linestyle="--", linewidth=0.8, label="decision boundary")
                ax.set(xlim=(0, 1), xticks=[0, 0.5, 1])
                ax.set_title(f"{panel.title}\n{stage}: {panel.accuracy(stage):.1%} right")
        for ax in axes.flat[: 0 if len(panels) == 1 else None]:
            ax.set_visible(ax.has_data())
        figure.supylabel("share of the class in a bin (%)", size=8)
        figure.supxlabel(f"score of '{names[1]}'", size=8)
        handles, texts = axes[0, 0].get_legend_handles_labels()
        figure.legend(handles, texts, loc="outside upper center", ncols=3)
    return figure


def roc_curves(panels: Sequence[Panel], note: str = "") -> Figure:
    """Figure 7: ROC curves before and after, in threes; a dot is the classifier's own threshold of 0.5, areas stand in the titles."""
    columns = min(len(panels), 3)
    bands = -(-len(panels) // columns)
    with _sheet(PAGE * columns / 3, 0.5 + 2.5 * bands, note) as figure:
        axes = figure.subplots(bands, columns, squeeze=False, sharex=True, sharey=True)
        for ax, panel in zip(axes.flat, panels, strict=False):
            ax.plot([0, 100], [0, 100], color="0.6", linestyle=":", label="chance")
            areas = []
            for (stage, scores), colour in zip(panel.stages.items(), (BEFORE, AFTER), strict=True):
                false, true, _ = roc_curve(panel.labels, scores)
                areas.append(f"{auc(false, true):.3f}")
                ax.plot(100 * false, 100 * true, color=colour, label=stage)
                at = [100 * (scores[panel.labels == truth] > 0.5).mean() for truth in (0, 1)]
                ax.plot(*at, "o", color=colour, markersize=5, markeredgecolor="white", clip_on=False, zorder=3)
            ax.set_title(f"{panel.title}\narea {' → '.join(areas)}")
            ax.set(xlim=(0, 100), ylim=(0, 100), xticks=range(0, 101, 25), yticks=range(0, 101, 25), aspect="equal")
        for ax in axes.flat[len(panels) :]:
            ax.set_visible(False)
        figure.supxlabel("false positive rate (%)", size=8)
        figure.supylabel("true positive rate (%)", size=8)
        handles, texts = axes[0, 0].get_legend_handles_labels()
        dot = Line2D([], [], marker="o", color="0.3", linestyle="none", markersize=5, markeredgecolor="white")
        figure.legend([*handles, dot], [*texts, "threshold 0.5"], loc="outside upper center", ncols=4)
    return figure


def confusion(
    panels: Sequence[Panel], published: Sequence[NDArray[np.float64]] = (), names: tuple[str, str] = ("absent", "present"), note: str = ""
) -> Figure:
    """Table 4 as a picture: percent of each true class, before above after; `published`, 2 x 2 x 2 a panel, stand in brackets.

    `published[panel][stage, truth, predicted]`, in percent, has 'present' before 'absent', as the paper's table.
    """
    words = names[::-1]
    with _sheet(PAGE * min(len(panels), 3) / 3, 4.6, note) as figure:
        axes = figure.subplots(2, len(panels), squeeze=False)
        for i, panel in enumerate(panels):
            for j, (stage, scores) in enumerate(panel.stages.items()):
                ax, percent = axes[j, i], 100 * confusion_matrix(panel.labels, scores > 0.5, labels=[1, 0], normalize="true")
                image = ax.imshow(percent, cmap="Blues", vmin=0, vmax=100)
                for (truth, said), value in np.ndenumerate(percent):
                    colour = "white" if value > 55 else "black"
                    ax.text(said, truth, f"{value:.1f}", ha="center", va="center", color=colour, size=10)
                    if len(published):
                        paper = f"({published[i][j, truth, said]:.1f})"
                        ax.text(said, truth + 0.22, paper, ha="center", va="center", color=colour, size=6.5)
                ax.set_xticks([0, 1], words)
                ax.set_yticks([0, 1], words, rotation=90, va="center")
                ax.tick_params(length=0)
                ax.spines[:].set_visible(False)
                ax.set_title(f"{panel.title}\n{stage}: {panel.accuracy(stage):.1%} right")
        figure.supxlabel("predicted class" + (" (in brackets: the paper)" if len(published) else ""), size=8)
        figure.supylabel("true class", size=8)
        figure.colorbar(image, ax=axes, label="share of the true class (%)", shrink=0.6).outline.set_visible(False)
    return figure


def rise(table: pd.DataFrame, note: str = "") -> Figure:
    """Accuracies before and after, a line a row of a table of outcomes (`experiments.Outcome.row`), in percent with 95 % intervals.

    Needs data, model, attribute, before, after, rise, each with _lo and _hi, trivial and threshold; hollow where
    published_before and published_after stand. What differs between rows (attribute, protocol, seed) is in their names.
    """
    differs = [c for c in ("attribute", "protocol", "seed") if c in table and table[c].nunique() > 1]
    labels = [", ".join([f"{r['data']} by {r['model']}", *(str(r[c]) for c in differs)]) for _, r in table.iterrows()]
    paper = {"published_before", "published_after"} <= set(table)
    y = np.arange(len(table))
    with _sheet(PAGE, 0.8 + (0.36 if paper else 0.27) * len(table), note) as figure:
        ax = figure.subplots()
        ax.hlines(y, table["before"], table["after"], color="0.75", linewidth=2.5, zorder=1)
        for stage, colour in (("before", BEFORE), ("after", AFTER)):
            reach = np.abs(table[[f"{stage}_lo", f"{stage}_hi"]].to_numpy().T - table[stage].to_numpy())
            ax.errorbar(table[stage], y, xerr=reach, fmt="o", color=colour, markersize=5, elinewidth=0.9, capsize=2, label=stage)
            if paper:
                ax.plot(table[f"published_{stage}"], y + 0.3, "o", color=colour, mfc="none", markersize=4, label=f"{stage}, published")
        if paper:
            ax.hlines(y + 0.3, table["published_before"], table["published_after"], color="0.85", linewidth=0.9, zorder=1)
        ax.plot(table["trivial"], y, "|", color="black", markersize=11, markeredgewidth=1.4, label="majority class")
        ax.plot(table["threshold"], y, "|", color=OTHER, markersize=11, markeredgewidth=1.4, label="best threshold, no change of data")
        for place, row in zip(y, table.itertuples(), strict=True):
            text = f"{row.rise:+.1f} [{row.rise_lo:+.1f}, {row.rise_hi:+.1f}]"
            ax.annotate(text, (1.01, place), xycoords=("axes fraction", "data"), va="center", size=7)
        ax.annotate("rise [95 %]", (1.01, -0.6), xycoords=("axes fraction", "data"), va="bottom", size=7, weight="bold")
        ax.set_yticks(y, labels)
        ax.set(ylim=(len(table) - 0.35, -0.6), xlabel="accuracy (%), bars: 95 % interval")
        ax.tick_params(axis="y", length=0)
        ax.spines["left"].set_visible(False)
        ax.grid(axis="x", color="0.92", linewidth=0.6)
        figure.legend(loc="outside upper center", ncols=3)
    return figure
