"""Plots of what the papers leave open: label budgets, distortion, queries, controls, and the scorecard."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.offsetbox import AnnotationBbox, DrawingArea
from matplotlib.patches import Arc, Circle, Ellipse, Rectangle
from matplotlib.ticker import NullLocator

from dftlib.plots.style import ABSENT, AFTER, BEFORE, OTHER, PAGE, errorbars, sheet

METHODS = {  # of fine-tuning: name, colour, shape
    "data": ("data fine-tuning", AFTER, "D"),
    "head": ("model fine-tuning, head", ABSENT, "s"),
    "all layers": ("model fine-tuning, all layers", OTHER, "^"),
    "both": ("both in turn", OTHER, "^"),
}
CELL = ["attribute", "data", "model"]
TITLE = "{}: {} by {}"


def _panels(figure: Figure, table: pd.DataFrame, by: list[str], x: str, columns: int) -> Iterator[tuple[Axes, pd.DataFrame]]:
    """Goes through groups of rows, each with its panel, side by side; then gives all one legend in so many columns."""
    groups = list(table.groupby(by, sort=False))
    axes = figure.subplots(1, len(groups), squeeze=False)[0]
    for ax, (names, rows) in zip(axes, groups, strict=True):
        ax.set(title=TITLE.format(*names) if by == CELL else str(names[0]), xlabel=x)
        yield ax, rows
    axes[0].set_ylabel("accuracy on test pictures (%)")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=columns)


def label_budgets(table: pd.DataFrame, note: str = "") -> Figure:
    """Figures 9 and 10: accuracy by the number of labelled pictures, a panel a cell; a small mark a draw, the line their mean.

    Columns: attribute, data, model, method, labels, all, after with _lo and _hi, before; percent. Where there is one draw, its
    bar is the 95 % interval; methods stand side by side.
    """
    cells = table.groupby(CELL).ngroups
    with sheet(PAGE * max(cells, 2) / 3, 2.9, note) as figure:
        for ax, cell in _panels(figure, table, CELL, "labelled pictures", 4 if cells > 2 else 2):
            for place, (method, own) in zip((0.94, 1, 1.06), cell.groupby("method", sort=False), strict=False):
                name, colour, shape = METHODS[str(method)]
                own = own.assign(labels=own["labels"] * place)
                ax.plot(own["labels"], own["after"], shape, color=colour, alpha=0.35, markersize=3, markeredgewidth=0)
                ax.plot(own.groupby("labels")["after"].mean(), color=colour, marker=shape, markersize=4.5, label=name)
                alone = own[own.groupby("labels")["after"].transform("size") == 1]
                errorbars(ax, alone["labels"], alone, "after", color=colour, linestyle="none")
            ax.axhline(cell["before"].iloc[0], color=BEFORE, linestyle="--", linewidth=0.9, label="before")
            *budgets, most = sorted(cell["labels"].unique())
            ax.set_xscale("log")
            ax.set_xticks([*budgets, most], [*(f"{n:,}" for n in budgets), f"all\n{most:,}"])
            ax.xaxis.set_minor_locator(NullLocator())
            ax.grid(axis="y")
    return figure


def rounds(table: pd.DataFrame, note: str = "") -> Figure:
    """The combination: accuracy by round for each way alone and both in turn; bands are 95 % intervals, in percent."""
    with sheet(PAGE * max(table.groupby(CELL).ngroups, 2) / 3, 2.7, note) as figure:
        for ax, cell in _panels(figure, table, CELL, "round", 3):
            for way, own in cell.groupby("way", sort=False):
                name, colour, shape = METHODS[str(way)]
                ax.fill_between(own["round"], own["after_lo"], own["after_hi"], color=colour, alpha=0.15, linewidth=0)
                ax.plot(own["round"], own["after"], color=colour, marker=shape, markersize=4.5, label=name)
            ax.set_xticks(sorted(cell["round"].unique()))
            ax.grid(axis="y")
    return figure


def frontier(table: pd.DataFrame, note: str = "") -> Figure:
    """Accuracy against PSNR, SSIM and PASS, a row a cell, by what holds the distortion down.

    Columns: rule ('limit', 'mean', 'sum'), value, attribute, data, model, before, after with _lo and _hi (percent), psnr
    (dB), ssim, pass. A number beside a mark is a weight. The title says how often N = 0 was kept, which no PSNR stands for.
    """
    rules = {
        "limit": ("limit on the PSNR (dB)", AFTER, "D-"),
        "mean": ("weight of the averaged distance", ABSENT, "s--"),
        "sum": ("distance summed, as printed", OTHER, "^"),
    }
    measures = {"psnr": "PSNR (dB)", "ssim": "SSIM", "pass": "PASS"}
    cells = list(table.groupby(CELL, sort=False))
    with sheet(PAGE, 0.5 + 2.3 * len(cells), note) as figure:
        axes = figure.subplots(len(cells), 3, squeeze=False, sharey="row")
        for ax, label in zip(axes[-1], measures.values(), strict=True):
            ax.set_xlabel(label)
        for row, (names, cell) in zip(axes, cells, strict=True):
            moved = cell[np.isfinite(cell["psnr"])]
            for ax, measure in zip(row, measures, strict=True):
                for rule, (name, colour, style) in rules.items():
                    own = moved[moved["rule"] == rule].sort_values(measure)
                    errorbars(ax, own[measure], own, "after", fmt=style, color=colour, markersize=4, label=name)
                    for x, y, value in own[[measure, "after", "value"]].to_numpy() if (measure, rule) == ("psnr", "mean") else ():
                        ax.annotate(f"{value:g}", (x, y), xytext=(4, 3), textcoords="offset points", size=6, color=colour)
                ax.axhline(cell["before"].iloc[0], color=BEFORE, linestyle=":", linewidth=0.9, label="before")
                ax.grid()
            row[0].set_ylabel("accuracy (%)")
            kept = f"; N = 0 kept in {len(cell) - len(moved)} of {len(cell)} fits" if len(moved) < len(cell) else ""
            row[0].set_title(TITLE.format(*names) + kept, loc="left")
        figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=4)
    return figure


ASKERS = {
    "statistics": ("image statistics", "0.45", "X"),
    "one pass": ("one pass, free N", ABSENT, "v"),
    "encoder": ("one pass, known network", "#F0E442", "P"),
    "surrogate": ("surrogate", AFTER, "o"),
    "spsa": ("SPSA", OTHER, "s"),
    "corrected spsa": ("SPSA, gradient correction", "#CC79A7", "^"),
}

MARKS = (("o", "none", 5, "told labels only"), ("x", "0.3", 5, "N not mirrored"), ("o", "0.3", 2.5, "one seed"))


def queries(table: pd.DataFrame, note: str = "") -> Figure:
    """Accuracy against pictures asked, a panel a data set; a small mark a seed, the line their mean of mirrored Ns.

    Columns: data, seed, learner, told ('scores', 'labels', 'gradients', 'nothing'), budget, mirror, used, before, after; percent.
    Hollow: labels only. A cross: an N that isn't mirrored. The threshold is that remedy of two which is higher on average.
    """
    sets = table["data"].nunique()
    with sheet(PAGE * max(sets, 2) / 3, 3.4 if sets > 2 else 4.2, note) as figure:
        for ax, rows in _panels(figure, table, ["data"], "pictures asked", 4 if sets > 2 else 2):
            for learner, (name, colour, shape) in ASKERS.items():
                asked = rows[rows["learner"] == learner]
                own = asked[asked["mirror"] & (asked["told"] == "scores")]
                ax.plot(own["used"], own["after"], shape, color=colour, alpha=0.35, markersize=3, markeredgewidth=0)
                mean = own.groupby("budget")[["used", "after"]].mean()
                ax.plot(mean["used"], mean["after"], color=colour, marker=shape, markersize=4.5, label=name)
                labels = asked[asked["told"] == "labels"][["used", "after"]].mean()
                ax.plot(*labels, shape, color=colour, markersize=5, markerfacecolor="none")
                if len(free := asked[~asked["mirror"]]):
                    ax.plot(*free[["used", "after"]].mean(), "x", color=colour, markersize=5)
            for shape, face, size, label in MARKS:
                ax.plot([], [], shape, color="0.3", markerfacecolor=face, markersize=size, label=label)
            means = rows.groupby("learner")[["before", "after"]].mean()
            moved = means["after"].reindex(["threshold", "colour and threshold"]).max()
            ax.axhline(means["after"]["gradient"], color="0", linewidth=0.9, label="gradient fit, opened")
            ax.axhline(moved, color="0.3", linestyle="--", linewidth=0.9, label="moved threshold")
            for remedy, style in (("own features", (0, (6, 1, 1, 1, 1, 1))), ("features and scores", (0, (9, 2)))):
                ax.axhline(means["after"][remedy], color="#7B3294", linestyle=style, linewidth=0.9, label=f"{remedy}, no N")
            ax.axhline(means["after"]["alignment"], color="0.3", linestyle=":", linewidth=0.9, label="aligned")
            ax.axhline(means["before"]["alignment"], color="0.6", linestyle="-.", linewidth=0.9, label="unaligned")
            ax.set_xscale("log")
            ax.margins(x=0.2)
            low, high = ax.get_ylim()
            ax.set_ylim(min(low, (low + high) / 2 - 4), max(high, (low + high) / 2 + 4))  # less would make chance look large
            ticks = sorted(set(table["budget"]) - {0})
            ax.set_xticks(ticks, [f"{n:,}" for n in ticks])
            ax.xaxis.set_minor_locator(NullLocator())
            ax.grid()
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
        bar: dict[str, Any] = {"label": "accuracy under N less the control's (points)", "location": "bottom", "extend": "both"}
        bar |= {"shrink": 0.5, "aspect": 40, "pad": 0.04}
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


CHANGES = {"moved": "crop moved, share of its width", "scaled": "crop widened", "other": "another crop"}
STAGES = {  # of misplaced faces: name, colour, shape
    "before": ("as they are", BEFORE, "o"),
    "threshold": ("best threshold", "0.45", "s"),
    "after": ("N fitted on such pictures", AFTER, "D"),
}
SKETCH = 30  # points


def misplaced(table: pd.DataFrame, note: str = "") -> Figure:
    """What cutting faces elsewhere costs and what N gives back: a line of panels a cell, below a sketch of each cut.

    Columns: attribute, data, model, change ('moved', 'scaled', 'other'), cut; before, threshold, after, aligned, aligned_after
    with _lo and _hi, trivial (percent); middle, line, distance (of the eyes, percent of the crop).
    """
    groups, changes = list(table.groupby(CELL, sort=False)), table["change"].unique()
    widths = [table[table["change"] == change]["cut"].nunique() for change in changes]
    with sheet(PAGE, 0.4 + 2.5 * len(groups), note) as figure:
        grid = figure.subplots(len(groups), len(widths), squeeze=False, sharey=True, width_ratios=widths)
        for (names, cell), axes in zip(groups, grid, strict=True):
            for ax, change in zip(axes, changes, strict=True):
                _accuracies(ax, cell[cell["change"] == change])
                ax.set_xlabel(CHANGES[str(change)])
            axes[0].set_ylabel("accuracy on test pictures (%)")
            axes[0].set_title(TITLE.format(*names), loc="left", pad=SKETCH + 10)
            figure.align_xlabels(axes)
        handles, labels = grid[0, 0].get_legend_handles_labels()
        order = [*range(len(labels) - len(STAGES), len(labels)), *range(len(labels) - len(STAGES))]
        figure.legend(*([part[i] for i in order] for part in (handles, labels)), loc="outside upper center", ncols=6)
    return figure


def _accuracies(ax: Axes, rows: pd.DataFrame) -> None:
    """Of `misplaced`: one change of the crop."""
    first, x, other = rows.iloc[0], np.arange(len(rows)), rows["change"].iloc[0] == "other"
    for number, (stage, (name, colour, shape)) in enumerate(STAGES.items()):
        line = " " if other else "-"
        errorbars(ax, x + 0.08 * (number - 1), rows, stage, color=colour, marker=shape, linestyle=line, label=name)
    ax.axhspan(first["aligned_lo"], first["aligned_hi"], color=OTHER, alpha=0.25, linewidth=0, label="aligned", zorder=0)
    ax.axhline(first["aligned_after"], color=OTHER, linestyle="--", label="aligned, and N", zorder=0)
    ax.axhline(first["trivial"], color="0.3", linestyle=":", linewidth=0.9, label="majority class", zorder=0)
    ax.set_xticks(x, rows["cut"].str.replace(" ", "\n") if other else rows["cut"])
    ax.set_xlim(-0.5, len(rows) - 0.5)
    ax.grid(axis="y")
    for place, (middle, line, distance) in enumerate(rows[["middle", "line", "distance"]].to_numpy() / 100):
        box = _sketch(SKETCH * middle, SKETCH * (1 - line), SKETCH * distance)
        above = ("data", "axes fraction")
        ax.add_artist(AnnotationBbox(box, (place, 1.03), xycoords=above, box_alignment=(0.5, 0), frameon=False, pad=0))


def _sketch(x: float, y: float, apart: float) -> DrawingArea:
    """A crop with a face in it whose eyes are so far apart, in points, with their middle here."""
    area = DrawingArea(SKETCH, SKETCH, clip=True)
    thin: dict[str, Any] = {"edgecolor": "0.15", "linewidth": 0.7}
    for part in (
        Rectangle((0, 0), SKETCH, SKETCH, facecolor="0.93"),
        Ellipse((x, y - 0.45 * apart), 2.1 * apart, 2.9 * apart, facecolor="#E8C9A6", **thin),
        *(Circle((x + end * apart / 2, y), 0.13 * apart, facecolor="0.15") for end in (-1, 1)),
        Arc((x, y - 0.85 * apart), 0.8 * apart, 0.5 * apart, theta1=200, theta2=340, **thin),
        Rectangle((0, 0), SKETCH, SKETCH, facecolor="none", edgecolor="0.3", linewidth=1.2),
    ):
        area.add_artist(part)
    return area


def scorecard(table: pd.DataFrame, note: str = "") -> Figure:
    """The paper's rise beside ours for each of its cells: the picture of `scorecard.scorecard`, Tables 2, 3, 5 and 6."""
    rows = table[table["table"] != 4].reset_index(drop=True)
    clear, ahead = rows["beats_remedies"] == "yes", rows["over_best"] > 0
    verdicts = {
        "clearly ahead of every simple remedy": (AFTER, "D", clear),
        "ahead, but not clearly": (ABSENT, "o", ahead & ~clear),
        "no better than a simple remedy": (BEFORE, "X", ~ahead & ~clear),
    }
    titles = {2: "Gender, own data", 3: "attributes, own data", 5: "Gender, other data", 6: "attributes, other data"}
    y = np.arange(len(rows)) + rows["table"].map({t: i for i, t in enumerate(titles)}).to_numpy() * 1.4
    sure = int((rows["rise_lo"] > 0).sum())
    with sheet(PAGE, 0.9 + 0.19 * (len(rows) + 1.4 * len(titles)), note) as figure:
        ax = figure.subplots()
        ax.axvline(0, color="0.3", linewidth=0.8)
        ax.hlines(y, rows["published_rise"], rows["rise"], color="0.85", linewidth=2)
        ax.plot(rows["published_rise"], y, "D", mfc="white", color="0.35", markersize=4.5, label="the paper")
        for name, (colour, shape, here) in verdicts.items():
            errorbars(ax, y[here], rows[here], "rise", across=True, fmt=shape, color=colour, label=f"ours: {name}")
        left = ax.get_yaxis_transform()
        for number, title in titles.items():
            first = y[rows["table"] == number].min()
            said = f"Table {number}: {title}"
            ax.text(-0.01, first - 0.95, said, transform=left, ha="right", va="center", size=7, weight="bold")
        ax.set_yticks(y, rows["attribute"] + ": " + rows["data"] + " by " + rows["model"])
        ax.set(ylim=(y.max() + 0.7, -1.6), xlabel="rise in accuracy (points), with 95 % interval")
        said = f"A clear rise in {sure} of {len(rows)} cells, clearly ahead of every simple remedy in {int(clear.sum())}"
        ax.set_title(said, loc="left", weight="bold")
        ax.tick_params(axis="y", length=0)
        ax.spines["left"].set_visible(False)
        ax.grid(axis="x")
        figure.legend(loc="outside upper center", ncols=2)
    return figure
