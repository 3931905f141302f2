"""Where things are: profiles, published numbers, the cache and the outputs, in a checkout and in an installed package."""

import errno
import os
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent
ROOT = PACKAGE.parent  # of the project, in a checkout
CHECKOUT = (ROOT / "pyproject.toml").is_file()
PROFILES = ROOT / "notebooks" / "profiles" if CHECKOUT else PACKAGE / "profiles"
NOTEBOOKS = ROOT / "notebooks" if CHECKOUT else PACKAGE / "notebooks"
PUBLISHED = ROOT / "results" / "published" if CHECKOUT else PACKAGE / "published"
OUTPUTS = ("results", "figures", "build/yours")
OTHERS = {"MPLCONFIGDIR": "matplotlib", "IPYTHONDIR": "ipython", "TORCHINDUCTOR_CACHE_DIR": "torch"}  # and their folders
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)


def published(name: str) -> Path:
    """A table of the papers' own numbers."""
    return PUBLISHED / f"{name}.csv"


def cache_folder() -> Path:
    """The folder that the environment variable DFT_CACHE names, else `.cache` in a checkout, else the user's cache folder."""
    if named := os.environ.get("DFT_CACHE"):
        return Path(named)
    return ROOT / ".cache" if CHECKOUT else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "dftlib"


def output_folder() -> Path:
    """Below which `results/` and `figures/` are written: what DFT_OUTPUT names, else the checkout, else the current folder."""
    return Path(os.environ.get("DFT_OUTPUT") or (ROOT if CHECKOUT else Path.cwd()))


def keep_to_cache() -> None:
    """Other packages, in this process and those it starts, write for themselves below the cache, not below the user's home.

    What is already named by one of their variables stays as named. onnxruntime's reports to its maker are off.
    """
    for name, folder in OTHERS.items():
        os.environ.setdefault(name, str(cache_folder().absolute() / folder))
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # read when the package is imported, by whatever function a user names


def fault(error: OSError) -> str:
    """One sentence: what can't be read or written, why, and what to do."""
    path = Path(error.filename or "").absolute()
    own = any(path.is_relative_to(place.absolute()) for place in (cache_folder(), *(output_folder() / n for n in OUTPUTS)))
    remedy = "name another place"
    if error.errno in FULL:
        remedy = "make room and call again"
    elif own and error.filename and error.errno != errno.ENOENT:
        remedy = "set the variables DFT_CACHE and DFT_OUTPUT to folders that you may write to"
    return f"{error.filename or 'A file'} can't be read or written ({error.strerror or error}): {remedy}."
