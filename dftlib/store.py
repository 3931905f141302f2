"""Artefacts kept by content, and files that are written whole or not at all."""

import contextlib
import errno
import fcntl
import fnmatch
import glob
import hashlib
import json
import os
import re
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from dftlib.config import ROOT, DataError

LISTED = 10  # seconds


def cache_folder() -> Path:
    """`.cache` in the project, or the folder that the environment variable DFT_CACHE names."""
    return Path(os.environ.get("DFT_CACHE") or ROOT / ".cache")


def output_folder() -> Path:
    """The project, or the folder that DFT_OUTPUT names: `results/` and `figures/` are written below it."""
    return Path(os.environ.get("DFT_OUTPUT") or ROOT)


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """Yields a temporary path beside `path`; on success it replaces `path`, on any failure it is removed.

    What a killed process left behind is removed by the next one that writes the same path.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    _sweep(path)
    handle, temporary = _locked(path)
    try:
        yield temporary
        temporary.chmod(0o644)
        temporary.replace(path)
    except (SafetensorError, RuntimeError) as error:
        # how safetensors and torch report that a file can't be written
        if not (fault := re.search(r"os error (\d+)|file write failed|unexpected pos", str(error))):
            raise
        number = int(fault[1] or errno.EIO)
        raise OSError(number, os.strerror(number), str(path)) from error
    finally:
        temporary.unlink(missing_ok=True)
        os.close(handle)


def _locked(path: Path) -> tuple[int, Path]:
    """A new temporary file beside `path`, locked for as long as this process lives."""
    while True:
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem}-", suffix=path.suffix)
        with contextlib.suppress(OSError):  # a file system without locks: nothing is swept there
            fcntl.flock(handle, fcntl.LOCK_EX)
        if os.fstat(handle).st_nlink:  # else it was swept away in the moment before it was locked
            return handle, Path(name)
        os.close(handle)


def _sweep(path: Path) -> None:
    """Removes what killed processes left of `path`: temporary files that nobody holds a lock on."""
    of_path = f".{glob.escape(path.stem)}-????????{glob.escape(path.suffix)}"
    for left in _lying(path.parent, int(time.monotonic() // LISTED)):
        if fnmatch.fnmatchcase(left.name, of_path):
            with contextlib.suppress(OSError):  # another process was faster, or holds it
                handle = os.open(left, os.O_RDWR)
                try:
                    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    left.unlink()
                finally:
                    os.close(handle)


@lru_cache(maxsize=64)
def _lying(folder: Path, _moment: int) -> list[Path]:
    """Temporary files in `folder`; listed every `LISTED` seconds at most, as ten thousand photos may go to one folder."""
    return list(folder.glob(".*-????????*"))


@contextmanager
def once(path: Path) -> Iterator[bool]:
    """Says whether `path` is still to be made; meanwhile other processes that want it wait, and find it."""
    if path.is_file():
        with contextlib.suppress(OSError):  # of a process that was killed once it was made
            path.with_suffix(".lock").unlink()
        yield False
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_suffix(".lock").open("w") as lock:
        with contextlib.suppress(OSError):  # a file system without locks: two may make the same
            fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            yield not path.is_file()
        finally:
            path.with_suffix(".lock").unlink(missing_ok=True)


def digest(key: Mapping[str, Any], code: tuple[ModuleType, ...] = ()) -> str:
    """Hex digest of a JSON-able key and of the source of the modules whose change makes an artefact stale."""
    hasher = hashlib.sha256(json.dumps(key, sort_keys=True, default=str).encode())
    for module in code:
        hasher.update(Path(str(module.__file__)).read_bytes())
    return hasher.hexdigest()[:20]


def tensors(
    kind: str, key: Mapping[str, Any], make: Callable[[], dict[str, Tensor]], code: tuple[ModuleType, ...] = ()
) -> dict[str, Tensor]:
    """The artefact `kind` of this `key`: read from the cache, or made, written whole, and returned (on the CPU).

    Raises `DataError` where the file in the cache is damaged.
    """
    path = cache_folder() / kind / f"{digest(key, code)}.safetensors"
    with once(path) as missing:
        if missing:
            made = {name: t.detach().cpu().contiguous() for name, t in make().items()}
            with whole(path) as temporary:
                save_file(made, temporary, metadata={"key": json.dumps(key, sort_keys=True, default=str)})
    with _sound(path):
        return load_file(path)


def array(kind: str, key: Mapping[str, Any], make: Callable[[], NDArray[np.uint8]]) -> NDArray[np.uint8]:
    """As `tensors`, for one large array; it comes back memory-mapped and read-only."""
    path = cache_folder() / kind / f"{digest(key)}.npy"
    with once(path) as missing:
        if missing:
            made = make()
            with whole(path) as temporary:
                np.save(temporary, made)
    with _sound(path):
        return np.load(path, mmap_mode="r")


@contextmanager
def _sound(path: Path) -> Iterator[None]:
    try:
        yield
    except (SafetensorError, ValueError, EOFError) as error:
        raise DataError(f"{path} in the cache is damaged ({error}): delete that file and call again.") from None


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
