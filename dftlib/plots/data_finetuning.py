"""Every plot, one function per figure of the paper, in one style. Each returns a closed figure: a notebook shows it once."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import ArrayLike, NDArray
from sklearn.metrics import auc, confusion_matrix, roc_curve

from dftlib.datasets import FaceDataset
from dftlib.perturbation.perturbation import Perturbation
from dftlib.plots.style import OTHER, PAGE, STAGES, Block, Panel, bare, errorbars, faces, scored_faces, shares, sheet, some_faces

UNITS = {"atanh": "half log-odds", "printed": "argument of tanh", "clip": "share of full scale"}


def samples(sets: Sequence[FaceDataset], per_class: int = 8, seed: int = 0, note: str = "") -> Figure:
    """Figure 0 (ours): a block a data set, `per_class` women above as many men, drawn at random."""
    with sheet(PAGE, len(sets) * (0.25 + 2 * PAGE / per_class), note) as figure:
        for ax, data in zip(figure.subplots(len(sets), 1, squeeze=False).flat, sets, strict=True):
            gender = data.labels["Gender"].to_numpy()
            rows = [some_faces(data, np.flatnonzero(gender == g), per_class, seed) for g in (0, 1)]
            lines = [torch.from_numpy(np.array(data.images[r])) for r in rows]
            faces(ax, dict(zip(("female", "male"), lines, strict=True)), per_class)
            people, women = len(np.unique(data.subjects)), 100 * (gender[gender >= 0] == 0).mean()
            ax.set_title(f"{data.name}: {len(data):,} pictures of {people:,} people, {women:.0f} % female", loc="left")
    return figure


def mean_faces(rows: dict[str, Sequence[FaceDataset]], note: str = "") -> Figure:
    """The mean of all faces of each set, a row a way of cutting them out; crosses mark the median place of the eyes."""
    columns = len(next(iter(rows.values())))
    side = min(PAGE / columns, 1.6)
    with sheet(side * columns + 0.3, len(rows) * (side + 0.1) + 0.35, note) as figure:
        axes = figure.subplots(len(rows), columns, squeeze=False)
        for line, (way, sets) in zip(axes, rows.items(), strict=True):
            for ax, data in zip(line, sets, strict=True):
                assert data.faces is not None
                mean = data.images.mean(0) / 255
                ax.imshow(mean.transpose(1, 2, 0), interpolation="lanczos", extent=(0, 1, 1, 0))
                ax.plot(*np.median(data.faces.eyes, 0).T, "+", color="white", markersize=7, markeredgewidth=1)
                ax.set(xticks=[], yticks=[0, 0.25, 0.5, 0.75, 1] if ax is line[0] else [])
            line[0].set_ylabel(f"{way}\nshare of the height")
        for ax, data in zip(axes[0], next(iter(rows.values())), strict=True):
            ax.set_title(f"{data.name}, {len(data):,} faces")
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
            bare(ax)
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
            after = block.perturbation.apply_uint8(images) if len(rows) else images
            true = {stage: pd.Series(panel.true(stage), block.rows)[rows] for stage, _ in STAGES}
            scored_faces(ax, {"before": images, "after": after}, true, per_block)
            counts = f"of {len(was):,} pictures {(~was & now).sum():,} set right, {(was & ~now).sum():,} set wrong"
            ax.set_title(f"{panel.title}: {counts}", loc="left")
        figure.axes[0].set_title("below each: score of its true class", loc="right", size=7, color="0.35")
    return figure


def score_distributions(panels: Sequence[Panel], note: str = "") -> Figure:
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
                shares(ax, panel.scores(stage), panel.labels)
                below = stage == "after" and not alone
                ax.set_title(panel.accuracy(stage) if below else f"{panel.title}\n{panel.accuracy(stage)}")
                if below or alone:
                    ax.set_xlabel("score of 'present'")
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
                scores = panel.scores(stage)
                false, true, _ = roc_curve(panel.labels, scores)
                areas.append(f"{auc(false, true):.3f}")
                ax.plot(100 * false, 100 * true, color=colour, linestyle=dash, label=stage)
                at = [100 * (scores[panel.labels == label] > 0.5).mean() for label in (0, 1)]
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


def confusion(panels: Sequence[Panel], published: Sequence[NDArray[np.float64]] = (), note: str = "") -> Figure:
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
            ax.set_xticks([0, 1], ["present", "absent"])
            ax.set_yticks([0, 1], ["present", "absent"], rotation=90, va="center")
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
            marks.append(errorbars(ax, y, table, stage, across=True, fmt=shape, color=colour, label=stage))
        if paper:
            ax.hlines(y + 0.32, table["published_before"], table["published_after"], color="0.85", linewidth=0.9, zorder=1)
            for (stage, colour), shape in zip(STAGES, "oD", strict=True):
                said = f"{stage}, in the paper"
                marks += ax.plot(table[f"published_{stage}"], y + 0.32, shape, color=colour, mfc="white", ms=3.5, label=said)
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
        ax.grid(axis="x")
        figure.legend(handles=marks, loc="outside upper center", ncols=-(-len(marks) // 2), labelspacing=0.8)
    return figure


def examples(before: torch.Tensor, after: torch.Tensor, true: ArrayLike, title: str, note: str = "") -> Figure:
    """Pictures before, ten times the change around grey, pictures after (uint8, n x 3 x H x W); true: 2 x n scores, in [0, 1]."""
    change = (127.5 + 10 * (after.float() - before)).clamp(0, 255).byte()
    with sheet(PAGE, 0.5 + 3.4 * (PAGE - 0.2) / len(before), note) as figure:
        ax = figure.subplots()
        scores = dict(zip(("before", "after"), np.asarray(true), strict=True))
        scored_faces(ax, {"before": before, "10 × change": change, "after": after}, scores, len(before))
        ax.set_title(title, loc="left")
        ax.set_title("below each: score of its true class", loc="right", size=7, color="0.35")
    return figure
