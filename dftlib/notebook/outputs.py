"""What a notebook leaves behind: results/PROFILE/NAME.csv and figures/PROFILE/NAME.png, each whole or not at all."""

from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from dftlib.artefacts import whole
from dftlib.paths import output_folder


def write_table(table: pd.DataFrame, name: str, profile: str) -> Path:
    """Writes `results/PROFILE/NAME.csv`: comma, UTF-8, newline endings, no index, 6 significant decimals."""
    path = output_folder() / "results" / profile / f"{name}.csv"
    with whole(path) as temporary:
        table.to_csv(temporary, index=False, lineterminator="\n", float_format="%.6g")
    return path


def write_figure(figure: Figure, name: str, profile: str) -> Path:
    """Writes `figures/PROFILE/NAME.png` at 200 dots an inch, without a date, so that one figure gives one file."""
    path = output_folder() / "figures" / profile / f"{name}.png"
    with whole(path) as temporary:
        figure.savefig(temporary, dpi=200, metadata={"Software": ""})
    return path
