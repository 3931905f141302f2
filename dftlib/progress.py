"""tqdm where somebody watches: as text in a terminal, as widgets in JupyterLab, elsewhere as a line now and then."""

import io
import os
import sys
import time
from collections.abc import Iterator
from typing import Any, TextIO

from tqdm import std

EVERY = 15  # seconds from one line to the next
PREFIX = "DFT_PREFIX"  # names the command in each line of its, for make, which has several write to one terminal
VARIABLE = "DFT_PROGRESS"  # names the file that lines are added to, for whoever started a kernel and reads it


def watched(stream: TextIO) -> bool:
    """Whether somebody sees this one command draw in a terminal."""
    return stream.isatty() and PREFIX not in os.environ


def in_jupyter() -> bool:
    """Whether a Jupyter server started this kernel, so that a person sees widgets; papermill, nbconvert and nbval don't."""
    return "JPY_SESSION_NAME" in os.environ


class Lines(std.tqdm):  # type: ignore[type-arg]
    """Bars without a screen: every `EVERY` seconds a line says how far each stands, the outermost first, and how long still."""

    last = time.monotonic()

    def __init__(self, *items: Any, **options: Any) -> None:
        self.where = options.pop("file", None)
        super().__init__(*items, **{**options, "file": io.StringIO(), "mininterval": float("inf")})

    def __iter__(self) -> Iterator[Any]:
        for item in self.iterable:
            yield item
            self.update()
        self.close()

    def update(self, n: float | None = 1) -> bool | None:
        shown = super().update(n)
        if not self.disable and time.monotonic() - Lines.last >= EVERY:
            Lines.last = time.monotonic()
            standing: Any = std.tqdm._instances  # type: ignore[attr-defined]
            bars = sorted((bar for bar in standing if isinstance(bar, Lines)), key=lambda bar: abs(bar.pos))
            line = " · ".join(bar.said() for bar in bars) + "\n"
            if name := os.environ.get(VARIABLE):
                with open(name, "a", encoding="utf-8") as file:
                    file.write(line)
            else:
                (self.where or sys.stderr).write(line)
        return shown

    def said(self) -> str:
        """Such as 'cells 3 of 12, 2:10 left'."""
        done, whole, taken = self.n - self.initial, self.total, self.format_dict["elapsed"]
        if not whole:
            return f"{self.desc} {self.n:,} {self.unit}s"
        left = f", {self.format_interval(taken / done * (whole - self.n))} left" if done else ""
        return f"{self.desc} {self.n:,} of {whole:,}{left}"


def tqdm(*items: Any, silent: bool = False, **options: Any) -> Any:
    """A bar with tqdm's own arguments; `silent` shows none."""
    kind: Any = std.tqdm
    if in_jupyter():
        from tqdm import notebook  # it brings ipywidgets, which no command needs

        kind = notebook.tqdm
    elif os.environ.get(VARIABLE) or not watched(options.get("file") or sys.stderr):
        kind = Lines
        silent |= VARIABLE not in os.environ and "ipykernel" in sys.modules  # a line would stand among a cell's outputs
    return kind(*items, disable=silent, **options)
