"""Artefacts kept by what decides them, and files that are written whole or not at all."""

import errno
import hashlib
import json
import os
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from dftlib.errors import DataError
from dftlib.paths import cache_folder

T = TypeVar("T")

os.umask(UMASK := os.umask(0o077))  # which can't be read otherwise: what the user grants to others


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """Yields a temporary path beside `path`; on success it replaces `path`, on any failure it is removed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # its length doesn't grow with that of `path`, which may be as long as a name can be; writers go by the ending
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=".part-", suffix=path.suffix[:20])
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        temporary.chmod(0o666 & ~UMASK)
        temporary.replace(path)
    except (SafetensorError, RuntimeError) as error:
        # how safetensors and torch report that a file can't be written
        if not (fault := re.search(r"os error (\d+)|file write failed|unexpected pos", str(error))):
            raise
        number = int(fault[1] or errno.EIO)
        raise OSError(number, os.strerror(number), str(path)) from error
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def once(path: Path) -> Iterator[bool]:
    """Says whether `path` is still to be made; meanwhile other processes that want it wait, and find it."""
    lock = path.with_suffix(".lock")
    path.parent.mkdir(parents=True, exist_ok=True)
    with nullcontext() if path.exists() else FileLock(lock):
        try:
            yield not path.exists()
        finally:
            with suppress(OSError):  # where `path` was there, of a process that was killed as soon as it had made it
                lock.unlink()


def digest(kind: str, version: int, key: Mapping[str, Any]) -> str:
    """Hex digest of what decides an artefact: its kind, the version of the code that makes it, and a JSON-able key.

    The version is raised by whoever changes what the code computes; every number that changes a result stands in the key.
    """
    return hashlib.sha256(json.dumps([kind, version, key], sort_keys=True, default=str).encode()).hexdigest()[:20]


def file(kind: str, version: int, key: Mapping[str, Any], suffix: str) -> Path:
    """Where the cache has this artefact."""
    return cache_folder() / kind / f"{digest(kind, version, key)}{suffix}"


def tensors(kind: str, version: int, key: Mapping[str, Any], make: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
    """The artefact of this `key`: read from the cache, or made, written whole, and returned (on the CPU).

    Raises `DataError` where the file in the cache is damaged.
    """

    def save(temporary: Path, made: dict[str, Tensor]) -> None:
        kept = {name: t.detach().cpu().contiguous() for name, t in made.items()}
        save_file(kept, temporary, metadata={"key": json.dumps(key, sort_keys=True, default=str)})

    return _kept(file(kind, version, key, ".safetensors"), make, save, load_file)


def array(kind: str, version: int, key: Mapping[str, Any], make: Callable[[], NDArray[np.uint8]]) -> NDArray[np.uint8]:
    """As `tensors`, for one large array; it comes back memory-mapped and read-only."""
    return _kept(file(kind, version, key, ".npy"), make, np.save, partial(np.load, mmap_mode="r"))


def _kept(path: Path, make: Callable[[], T], save: Callable[[Path, T], None], load: Callable[[Path], T]) -> T:
    with once(path) as missing:
        if missing:
            made = make()
            with whole(path) as temporary:
                save(temporary, made)
    try:
        return load(path)
    except (SafetensorError, ValueError, EOFError) as error:
        raise DataError(f"{path} in the cache is damaged ({error}): delete that file and call again.") from None
