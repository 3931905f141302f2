"""Every plot of *Facial Attributes: Accuracy and Adversarial Robustness*, in the one `style`; percent throughout."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
import pandas as pd
import seaborn as sns
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from dftlib.plots.style import ABSENT, AFTER, BEFORE, OTHER, PAGE, PRESENT, errorbars, faces, sheet

APPROACHES = (  # of Figure 2: approach, colour, shape
    ("Separate networks (Euclidean)", AFTER, "D"),
    ("Separate networks (softmax)", PRESENT, "s"),
    ("Separate networks (Euclidean) after two epochs", AFTER, "_"),
    ("MOON", BEFORE, "o"),
    ("MOON, domain-balanced", ABSENT, "^"),
)
TYPES = {"FGS": ("FGS", BEFORE, "o"), "FFA": ("FFA", AFTER, "D"), "MFFA": ("FFA on MOON", OTHER, "^")}
SIGNS = {"+": "right before", "-": "wrong before"}


@dataclass(frozen=True)
class Flipped:
    """An image before and after one attribute was flipped: uint8 3 x H x W, and what is said above and below them."""

    title: str
    before: torch.Tensor
    after: torch.Tensor
    caption: str


def _attributes(ax: Axes, names: Sequence[str]) -> None:
    """The attributes along x, upright."""
    ax.set_xticks(range(len(names)), list(names), rotation=90)
    ax.set_xlim(-0.7, len(names) - 0.3)
    ax.tick_params(axis="x", length=0)
    ax.grid(axis="y")


def errors(table: pd.DataFrame, note: str = "") -> Figure:
    """Figure 2: classification error by attribute, sorted by that of the separate networks (`tables.errors`).

    Bars: the majority class. The interval is the 95 % one of the separate networks. Means over attributes are in the legend.
    """
    wide = table.pivot(index="attribute", columns="approach", values="error").reindex(table["attribute"].unique())
    x = np.arange(len(wide))
    with sheet(PAGE, 4.3, note) as figure:
        ax = figure.subplots()
        trivial = wide["Trivial (majority class)"]
        ax.bar(x, trivial, width=0.8, color="0.88", label=f"majority class ({trivial.mean():.1f})")
        for name, colour, shape in APPROACHES:
            size = 7 if shape == "_" else 4.5
            ax.plot(x, wide[name], shape, color=colour, markersize=size, markeredgewidth=1.2 if shape == "_" else 0,
                    label=f"{name} ({wide[name].mean():.1f})")  # fmt: skip
        own = table[table["approach"] == APPROACHES[0][0]]
        ax.vlines(x, own["error_lo"], own["error_hi"], color=AFTER, linewidth=0.9)
        _attributes(ax, wide.index.tolist())
        ax.set(ylabel="classification error on test pictures (%)", ylim=(0, None))
        figure.legend(loc="outside upper center", ncols=2, title="approach (mean error, %)", title_fontsize=7)
    return figure


def success(table: pd.DataFrame, note: str = "") -> Figure:
    """Figure 3: share of images flipped at PASS 0.95 by attribute; of `tables.success`.

    Above line-search, below iterative; filled: the network was right, hollow: it was wrong (natural adversarial samples).
    """
    modes = list(dict.fromkeys(table["mode"]))
    names = table["attribute"].unique().tolist()
    with sheet(PAGE, 6.2, note) as figure:
        axes = figure.subplots(len(modes), 1, sharex=True)
        for ax, mode in zip(axes, modes, strict=True):
            for kind, (label, colour, shape) in TYPES.items():
                for sign, word in SIGNS.items():
                    own = table[(table["mode"] == mode) & (table["adversarial_type"] == kind + sign)].set_index("attribute")
                    ax.plot(range(len(names)), own["success"].reindex(names), shape, color=colour, markersize=4,
                            mfc=colour if sign == "+" else "white", markeredgewidth=0.9, label=f"{label}, {word}")  # fmt: skip
            _attributes(ax, names)
            ax.set(ylabel="flipped at PASS ≥ 0.95 (%)", ylim=(-4, 104))
            ax.set_title(mode, loc="left", weight="bold")
        figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=3)
    return figure


def flippability(table: pd.DataFrame, note: str = "") -> Figure:
    """Table 1: share flipped by PASS threshold, ours with 95 % intervals beside the paper's (dashed)."""
    taus = ["0", "90", "95", "99"]
    losses, modes = (list(dict.fromkeys(table[column])) for column in ("loss", "mode"))
    with sheet(PAGE, 4.4, note) as figure:
        axes = figure.subplots(len(SIGNS), len(losses) * len(modes), sharex=True, sharey=True)
        for (row, sign), (column, (loss, mode)) in product(enumerate(SIGNS), enumerate(product(losses, modes))):
            ax = axes[row, column]
            for kind, (_, colour, shape) in TYPES.items():
                own = table[(table["loss"] == loss) & (table["mode"] == mode) & (table["adversarial_type"] == kind + sign)]
                if own.empty:
                    continue
                ours, low, high, paper = (own[[pattern.format(t) for t in taus]].iloc[0].to_numpy(float) for pattern in
                                          ("pass_{}", "pass_{}_lo", "pass_{}_hi", "published_pass_{}"))  # fmt: skip
                ax.errorbar(range(len(taus)), ours, yerr=[ours - low, high - ours], color=colour, marker=shape, markersize=4,
                            elinewidth=0.9, capsize=2)  # fmt: skip
                ax.plot(range(len(taus)), paper, "--", color=colour, marker=shape, markersize=3.5, mfc="white", linewidth=0.8)
            ax.set_xticks(range(len(taus)), ["0", ".90", ".95", ".99"])
            ax.grid(axis="y")
            if not row:
                ax.set_title(f"{loss}, {mode}")
            else:
                ax.set_xlabel("PASS at least")
            if not column:
                ax.set_ylabel(f"{SIGNS[sign]}: flipped (%)")
        axes[0, 0].set_ylim(-4, 104)
        marks = [Line2D([], [], color=colour, marker=shape, markersize=4, label=name) for name, colour, shape in TYPES.values()]
        ours, paper = Line2D([], [], color="0.3", label="ours"), Line2D([], [], color="0.3", ls="--", lw=0.8, label="the paper")
        figure.legend(handles=[*marks, ours, paper], loc="outside upper center", ncols=5)
    return figure


def influence(table: pd.DataFrame, title: str, note: str = "") -> Figure:
    """Figures 4 and 5, one panel of `tables.others`: in columns the attribute flipped, in rows the one looked at."""
    values = table.to_numpy(float)
    with sheet(PAGE, 0.9 * PAGE, note) as figure:
        ax = figure.subplots()
        sns.heatmap(values, ax=ax, vmin=0, vmax=100, cmap="cividis", square=True, linewidths=0.3, linecolor="0.6",
                    xticklabels=list(table), yticklabels=list(table.index), annot=len(table) <= 10, fmt=".0f",
                    cbar_kws={"label": "answers changed (%)", "shrink": 0.7})  # fmt: skip
        ax.set_facecolor("white")
        ax.set(xlabel="adversarial images made for", ylabel="answer looked at")
        ax.set_title(title, loc="left", weight="bold")
        ax.tick_params(length=0)
    return figure


def universal(table: pd.DataFrame, note: str = "") -> Figure:
    """The bridge: what one perturbation for all does, by attribute; of `tables.universal`.

    Above, shares of mistakes set right and of right answers broken; below, accuracy gained, with 95 % intervals.
    """
    table = table.sort_values("rise", kind="stable", ascending=False)
    x = np.arange(len(table))
    small: dict[str, Any] = {"markersize": 4, "capsize": 0}
    shares = (
        ("natural", "mistakes: by FFA, each its own perturbation, PASS ≥ 0.95", OTHER, "^"),
        ("set_right", "mistakes set right by one perturbation for all", AFTER, "D"),
        ("broken", "right answers that it breaks", BEFORE, "o"),
    )
    with sheet(PAGE, 5.6, note) as figure:
        above, below = figure.subplots(2, 1, sharex=True)
        for name, label, colour, shape in shares:
            errorbars(above, x, table, name, fmt=shape, color=colour, label=label, **small)
        above.set(ylabel="share (%)", ylim=(-4, 104))
        below.axhline(0, color="0.3", linewidth=0.8)
        errorbars(below, x, table, "rise", fmt="D", color=AFTER, label="one perturbation", **small)
        moved = table["threshold"] - table["before"]
        below.plot(x, moved, "_", color="black", markersize=7, markeredgewidth=1.2, label="best threshold, no perturbation")
        chosen = table["recommended"].to_numpy(bool)
        if chosen.any():
            below.plot(x[chosen], table["rise"][chosen], "o", mfc="none", color=AFTER, markersize=8, label="recommended")
        below.set(ylabel="rise in accuracy (points)")
        for ax in (above, below):
            _attributes(ax, table["attribute"].tolist())
        handles = [mark for ax in (above, below) for mark in zip(*ax.get_legend_handles_labels(), strict=True)]
        figure.legend(*zip(*handles, strict=True), loc="outside upper center", ncols=2)
    return figure


def examples(flipped: Sequence[Flipped], note: str = "") -> Figure:
    """Figure 1: image, ten times the perturbation around grey, and the image with it; two such to a line."""
    lines = -(-len(flipped) // 2)
    with sheet(PAGE, lines * (PAGE / 6 + 0.75), note) as figure:
        for ax, found in zip(figure.subplots(lines, 2, squeeze=False).flat, flipped, strict=False):
            change = (127.5 + 10 * (found.after.float() - found.before)).clamp(0, 255).byte()
            faces(ax, {"": torch.stack([found.before, change, found.after])}, 3)
            ax.set_title(found.title, loc="left")
            ax.set(xlabel=found.caption, yticks=[])
    return figure
