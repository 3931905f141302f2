"""Gathers what the benchmarks wrote into one table and one figure a machine.

    python tests/benchmarks/report.py [FOLDER]

Reads FOLDER/*.csv, `build/bench` where none is named. Writes `results/benchmarks/MACHINE.csv`, `figures/benchmarks/MACHINE.png`
and, where growth.py has run, `figures/benchmarks/MACHINE_growth.png`. Rows that miss their target are printed.
"""

import re
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from dftlib.errors import DataError
from dftlib.notebook import outputs
from dftlib.paths import ROOT
from dftlib.plots.style import ABSENT, AFTER, BEFORE, OTHER, PAGE, sheet

TIMES = ("s", "ms", "min", "pictures/s")  # units of rows whose `ratio` is one of times
OURS, FLOOR, UNFINISHED = "ours", "floor", "not there yet"


def gathered(files: Iterable[Path]) -> pd.DataFrame:
    """All rows of the files, in order, with the name of the script that wrote them."""
    return pd.concat([pd.read_csv(file, dtype={"torch": str}).assign(script=file.stem) for file in files], ignore_index=True)


def slug(machine: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", machine.lower()).strip("-")


def floors(table: pd.DataFrame) -> pd.DataFrame:
    """Our rows, and other floors, beside the least that their work can cost; where nothing is called ours, all is."""
    of, ours = table["of"].fillna(""), table["row"].str.startswith(OURS)
    shared = table["benchmark"].isin(table["benchmark"][ours]) & ~table["row"].str.startswith(FLOOR)
    return table[of.str.startswith(FLOOR) & (table["row"] != of) & table["unit"].isin(TIMES) & (ours | ~shared)]


def peers(table: pd.DataFrame) -> pd.DataFrame:
    """Others' work beside ours, whichever the row was: columns benchmark, peer, ours, slower and target.

    `slower` is their time over ours, `target` how much it should be at least.
    """
    of = table["of"].fillna("")
    by, against = table["row"].str.startswith(OURS), of.str.startswith(OURS)
    both = table[(by != against) & table["ratio"].notna() & (of != "") & ~of.str.startswith(FLOOR) & table["unit"].isin(TIMES)]
    swapped = both["row"].str.startswith(OURS)
    return pd.DataFrame(
        {
            "benchmark": both["benchmark"],
            "peer": both["row"].where(~swapped, both["of"]),
            "ours": both["of"].where(~swapped, both["row"]),
            "slower": both["ratio"].where(~swapped, 1 / both["ratio"]),
            "target": (1 / both["target"]).where(swapped),
        }
    )


def missed(table: pd.DataFrame) -> pd.DataFrame:
    return table[table["ratio"].fillna(table["value"]) > table["target"]]


def _lines(ax: Axes, names: list[str], ratios: pd.Series, said: list[str], label: str) -> None:
    """A line a name, from 1 to its ratio on a log axis, what is said of it at its right."""
    y = range(len(names))
    ax.axvline(1, color="0.3", linewidth=0.8)
    ax.hlines(y, 1, ratios, color="0.75", linewidth=2.5, zorder=1)
    for i, text in zip(y, said, strict=True):
        ax.text(1.01, i, text, transform=ax.get_yaxis_transform(), va="center_baseline", size=7)
    ax.set_yticks(y, names)
    ax.set(ylim=(len(names) - 0.4, -0.6), xscale="log", xlabel=label)
    _plain(ax.xaxis)
    ax.tick_params(axis="y", length=0)
    ax.spines["left"].set_visible(False)
    ax.grid(axis="x", color="0.92", linewidth=0.6)


def _plain(axis: Axis) -> None:
    """Ticks of a log axis at 1, 2 and 5, as plain numbers."""
    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:,g}"))


def compared(table: pd.DataFrame, note: str = "") -> Figure:
    """Above: time over the floor's, with targets; hollow are other floors. Below: the peers' time over ours, with targets."""
    near, far = floors(table), peers(table)
    heights = [0.6 + 0.19 * len(part) for part in (near, far) if len(part)]
    with sheet(PAGE, 0.3 + sum(heights), note) as figure:
        axes = iter(figure.subplots(len(heights), 1, squeeze=False, height_ratios=heights)[:, 0])
        if len(near):
            ax, y = next(axes), np.arange(len(near))
            late, other = near.index.isin(missed(near).index), near["row"].str.startswith(FLOOR).to_numpy()
            bounds = ["" if np.isnan(target) else f" (at most {target:.3g})" for target in near["target"]]
            names = [
                (row if row.startswith(benchmark) else f"{benchmark}: {row}") + (f" over {of}" if of != FLOOR else "")
                for benchmark, row, of in near[["benchmark", "row", "of"]].to_numpy()
            ]
            said = [f"{ratio:.3g}{bound}" for ratio, bound in zip(near["ratio"], bounds, strict=True)]
            _lines(ax, names, near["ratio"], said, "time over the floor's")
            ax.plot(near["target"], y, "|", color="black", markersize=11, markeredgewidth=1.5, label="target")
            for which, colour, shape, fill, name in (
                (~late & ~other, AFTER, "o", AFTER, "the kit's work"),
                (late, BEFORE, "D", BEFORE, "misses its target"),
                (~late & other, "0.4", "o", "white", "another floor"),
            ):
                if which.any():
                    ax.plot(near["ratio"][which], y[which], shape, color=colour, mfc=fill, markersize=4.5, label=name)
            ax.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=4)
        if len(far):
            ax, y = next(axes), np.arange(len(far))
            open_ = far["peer"].str.endswith(UNFINISHED).to_numpy()  # stopped before it was done: at least so much slower
            said = [
                f"{'≥ ' if stopped else ''}{slower:.3g} ×" + ("" if np.isnan(target) else f" (at least {target:.3g})")
                for stopped, slower, target in zip(open_, far["slower"], far["target"], strict=True)
            ]
            _lines(ax, list(far["benchmark"] + ": " + far["peer"]), far["slower"], said, "time of another's work over ours")
            if far["target"].notna().any():
                ax.plot(far["target"], y, "|", color="black", markersize=11, markeredgewidth=1.5)
            for which, shape in ((~open_, "s"), (open_, ">")):
                ax.plot(far["slower"][which], y[which], shape, color=OTHER, markersize=4.5)
    return figure


def growth(table: pd.DataFrame, note: str = "") -> Figure:
    """A row a curve, by the pictures' number and by their size: time of a step, of a whole epoch, and memory.

    Dotted is growth with the pixels (with a step's, by number: none), through the last point, as the first holds what every
    fit costs once.
    """
    curves = list(table[table["at"].notna()].groupby("benchmark", sort=False))
    with sheet(PAGE, 0.5 + 1.9 * len(curves), note) as figure:
        axes = figure.subplots(len(curves), 3, squeeze=False)
        marks: dict[str, Any] = {}
        for row, (name, curve) in zip(axes, curves, strict=True):
            sized = "size" in str(name)
            rows = {str(kind): part.set_index("at")["value"] for kind, part in curve.groupby("row", sort=False)}
            at = rows["step"].index.to_numpy()
            pixels = (at / at[-1]) ** (2 if sized else 1)
            for ax, kind, label in zip(row, ("step", "fit"), ("time of a step (ms)", "time of an epoch (s)"), strict=False):
                least = pixels if sized or kind == "fit" else np.ones(len(at))
                marks["in proportion to the pixels"] = ax.plot(at, least * rows[kind].iloc[-1], ":", color="0.4")[0]
                marks["time"] = ax.plot(at, rows[kind], "o-", color=AFTER, markersize=4)[0]
                ax.set(ylabel=label, yscale="log")
            # On a log axis of its own reach, the noise of a line that should be flat would look like hills.
            if not sized:
                row[0].set_ylim(rows["step"].min() / 3, rows["step"].max() * 3)
            ax = row[2]
            marks["memory of the pictures"] = ax.plot(at, rows["pictures"], "s--", color=ABSENT, markersize=4)[0]
            marks["memory beside them"] = ax.plot(at, rows["memory"], "^-", color=OTHER, markersize=4.5)[0]
            if curve["target"].notna().any():
                bound = curve["target"].max() * rows["memory"].iloc[0]
                marks["target of the latter"] = ax.axhline(bound, color="black", linewidth=0.9)
            ax.set(ylabel="peak memory (MB)", yscale="log")
            for ax in row:
                ax.set(xscale="log", xlabel="height and width (pixels)" if sized else "pictures")
                shown = [v for v, after in zip(at, [*at[1:], np.inf], strict=True) if after > 1.25 * v]
                ax.set_xticks(shown, [f"{v:g}" if v < 1000 else f"{v / 1000:g}k" for v in shown])
                ax.xaxis.set_minor_locator(NullLocator())
                _plain(ax.yaxis)
                ax.grid(color="0.92", linewidth=0.6)
            row[0].set_title(str(name), loc="left")
        figure.legend(list(marks.values()), list(marks), loc="outside upper center", ncols=len(marks))
    return figure


def main(folder: Path) -> None:
    files = sorted(folder.glob("*.csv"))
    if not files:
        raise DataError(f"There is no table in {folder}: run the benchmarks first, with --csv {folder}/NAME.csv.")
    for machine, table in gathered(files).groupby("machine", sort=False):
        name = slug(str(machine))
        note = f"{machine}, torch {' and '.join(table['torch'].unique())}"
        print(outputs.write_table(table, name, "benchmarks"))
        if len(floors(table)) or len(peers(table)):
            print(outputs.write_figure(compared(table, note), name, "benchmarks"))
        if table["at"].notna().any():
            print(outputs.write_figure(growth(table, note), f"{name}_growth", "benchmarks"))
        if len(late := missed(table)):
            print(
                "Missed targets:",
                late[["benchmark", "row", "of", "at", "value", "unit", "ratio", "target"]].to_string(index=False),
                sep="\n",
            )


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "build" / "bench")
