"""The closing cell of a notebook: claims that are checked as it runs, printed in words that are the same on every machine."""

import os
from collections.abc import Mapping

import pandas as pd

from dftlib.experiments.profile import Profile, overridden
from dftlib.paths import ROOT


def check(claim: str, holds: object) -> None:
    """Prints 'PASS claim'; raises AssertionError 'FAIL claim' when it doesn't hold."""
    assert bool(holds), f"FAIL {claim}"
    print(f"PASS {claim}")


def claim(text: str, holds: object) -> None:
    """Prints whether a claim holds here: one whose margin is not twice what moves from machine to machine stops no run."""
    print(f"{'holds' if bool(holds) else 'does not hold here'}: {text}")


def same_as_stored(
    table: pd.DataFrame, name: str, profile: Profile, keys: list[str], tolerance: Mapping[str, float], some: bool = False,
    means: Mapping[str, float] | None = None,
) -> None:  # fmt: skip
    """Checks `table` against the committed results/PROFILE/NAME.csv: the same rows, and numbers within their tolerance.

    `tolerance` gives the largest absolute difference for each column compared, and `means` for the mean of each column whose
    single rows move too far from machine to machine; rows are matched by `keys`. With `some` the table holds only some of the
    stored rows, which have a tolerance of their own. Skipped, and said so, for real faces, of which
    the stored tables are of a sample that others don't have, when a parameter differs from the profile's file, when nothing is
    stored yet, and when the environment variable DFT_ACCEPT is set, which is how new numbers are accepted.
    """
    if not profile.synthetic:
        return print(f"SKIP {name}: what is stored is of a sample of the real data sets")
    path = ROOT / "results" / profile.profile / f"{name}.csv"
    if changed := overridden(profile):
        return print(f"SKIP {name}: {', '.join(changed)} differ from the profile '{profile.profile}'")
    if not path.is_file() or os.environ.get("DFT_ACCEPT"):
        return print(f"SKIP {name}: no stored table to compare with")
    stored = pd.read_csv(path)
    both = table.merge(stored, on=keys, how="left" if some else "outer", suffixes=("", "_stored"), indicator=True)
    check(f"{name} has the rows of the stored table", (both["_merge"] == "both").all())
    for column, most in tolerance.items():
        missing = both[column].isna() != both[f"{column}_stored"].isna()
        worst = max((both[column] - both[f"{column}_stored"]).abs().dropna(), default=0.0)
        assert not missing.any(), f"FAIL {name}: {column} is empty in one of the two tables"
        assert worst <= most, f"FAIL {name}: {column} differs from the stored table by {worst:.4g}, more than {most:g}"
        print(f"PASS {name}: {column} within {most:g} of the stored table")
    for column, most in (means or {}).items():
        apart = abs(float(both[column].mean() - both[f"{column}_stored"].mean()))
        assert apart <= most, f"FAIL {name}: the mean of {column} differs from the stored one by {apart:.4g}, more than {most:g}"
        print(f"PASS {name}: the mean of {column} within {most:g} of the stored one")
