"""The plot of notebook 11: digits as scanners give them, with N, and what becomes of the accuracy."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from torch import Tensor

from dftlib.plots.style import AFTER, BEFORE, OTHER, PAGE, errorbars, sheet

LINES = ("scanned", "N", "with N")
WAYS = {  # column, colour, shape
    "as it is": ("before", BEFORE, "o"),
    "best simple remedy": ("best", "0.45", "s"),
    "with N": ("after", AFTER, "D"),
    "classifier of this scanner": ("own", OTHER, "^"),
}
REMEDIES = {
    "as it is": "none", "majority": "majority", "offsets": "offsets", "matched": "matched", "mean_image": "mean image",
    "aligned": "aligned", "aligned_matched": "aligned,\nmatched",
}  # fmt: skip


def digits(table: pd.DataFrame, shown: Mapping[str, tuple[Tensor, Tensor, Tensor]], note: str = "") -> Figure:
    """Above, for each scanner two digits as scanned, N, and the digits with N; below, accuracies on test images.

    table: a row a scanner: scanner; before, best, after, own with _lo and _hi, majority (percent); best_remedy
    shown: of each scanner two digits, N as `Perturbation.picture` has it, and the digits with N; uint8
    """
    with sheet(PAGE, 4.4, note) as figure:
        images, ax = figure.subplots(2, 1, sharex=True, height_ratios=(0.82, 1.6))
        for place, scanner in enumerate(table["scanner"]):
            plain, n, tuned = shown[scanner]
            for line, pair in enumerate((plain, n[None], tuned)):
                for i, image in enumerate(pair):
                    left, top = place + 0.46 * (i - len(pair) / 2) + 0.01, 0.47 * line
                    where = (left, left + 0.44, top + 0.44, top)
                    images.imshow(image[0].numpy(), cmap="gray", vmin=0, vmax=255, extent=where, aspect="auto")
        images.set(ylim=(0.47 * len(LINES), 0), yticks=[0.47 * (line + 0.48) for line in range(len(LINES))], yticklabels=LINES)
        x = np.arange(len(table))
        for number, (name, (column, colour, shape)) in enumerate(WAYS.items()):
            errorbars(ax, x + 0.17 * (number - 1.5), table, column, fmt=shape, color=colour, label=name)
        names = table["scanner"] + "\n" + table["best_remedy"].map(REMEDIES).radd("(").add(")")
        ax.set_xticks(x, names)
        ax.set(xlim=(-0.5, len(x) - 0.5), ylim=(0, 102), ylabel="accuracy on test images (%)")
        ax.set_xlabel("scanner (best simple remedy)")
        ax.axhline(table["majority"].iloc[0], color="0.3", linestyle=":", linewidth=0.9, label="majority class", zorder=0)
        ax.vlines(x[1:] - 0.5, 0, 102, color="0.9", linewidth=0.6, zorder=0)
        ax.grid(axis="y")
        for part in (images, ax):
            part.tick_params(axis="x", length=0)
        images.tick_params(length=0, labelbottom=False)
        images.spines[:].set_visible(False)
        figure.legend(*ax.get_legend_handles_labels(), loc="outside upper center", ncols=5)
    return figure
