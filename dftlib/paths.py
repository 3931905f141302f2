"""Where things are: profiles, published numbers, the cache and the outputs, in a checkout and in an installed package."""

import os
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent
ROOT = PACKAGE.parent  # of the project, in a checkout
CHECKOUT = (ROOT / "pyproject.toml").is_file()
PROFILES = ROOT / "notebooks" / "profiles" if CHECKOUT else PACKAGE / "profiles"
NOTEBOOKS = ROOT / "notebooks" if CHECKOUT else PACKAGE / "notebooks"
PUBLISHED = ROOT / "results" / "published" if CHECKOUT else PACKAGE / "published"


def published(name: str) -> Path:
    """A table of the papers' own numbers."""
    return PUBLISHED / f"{name}.csv"


def cache_folder() -> Path:
    """The folder that the environment variable DFT_CACHE names, else `.cache` in a checkout, else the user's cache folder."""
    if named := os.environ.get("DFT_CACHE"):
        return Path(named)
    users = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return ROOT / ".cache" if CHECKOUT else users / "dftlib"


def output_folder() -> Path:
    """Below which `results/` and `figures/` are written: what DFT_OUTPUT names, else the checkout, else the current folder."""
    return Path(os.environ.get("DFT_OUTPUT") or (ROOT if CHECKOUT else Path.cwd()))
