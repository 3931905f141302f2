"""The picture at the head of a practitioner's report."""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from torch import Tensor

from dftlib.plots.style import OTHER, PAGE, STAGES, bare, sheet


def verdict(pictures: dict[str, Tensor], table: pd.DataFrame, note: str = "") -> Figure:
    """Pictures (uint8, 3 x H x W) by their titles, beside accuracies as bars, each with its interval.

    table: a row a bar, named by its index, columns `right`, `lo`, `hi` in percent; the first two are before and after
    """
    with sheet(PAGE, max(1.7, 0.5 + 0.3 * len(table)), note) as figure:
        *shown, ax = figure.subplots(1, len(pictures) + 1, width_ratios=[*[1] * len(pictures), 2.2])
        for (title, picture), own in zip(pictures.items(), shown, strict=True):
            own.imshow(picture.permute(1, 2, 0).numpy(), interpolation="nearest")
            bare(own)
            own.set_title(title)
        y, right = np.arange(len(table)), table["right"].to_numpy()
        reach = np.abs(table[["lo", "hi"]].to_numpy().T - right)
        colours = [colour for _, colour in STAGES] + [OTHER] * (len(table) - 2)
        ax.barh(y, right, 0.7, color=colours, xerr=reach, error_kw={"elinewidth": 0.9, "capsize": 2})
        for i, value in enumerate(right):
            ax.text(101, i, f"{value:.1f}", va="center_baseline", size=7)
        ax.set_yticks(y, list(table.index))
        ax.set(xlim=(0, 100), ylim=(len(table) - 0.4, -0.6), xlabel="right (% of test pictures), 95 % interval")
        ax.tick_params(axis="y", length=0)
    return figure
