"""Label tables and pictures, read from disk: every fault ends in a `DataError` that names the file."""

import csv
import struct
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image, ImageOps

from dftlib import store
from dftlib.config import DataError
from dftlib.progress import tqdm

# Left, top, right, bottom as fractions of the picture: they put the face in the same place in every set.
CROPS = {
    "lfw": (36 / 125, 37 / 125, 89 / 125, 90 / 125),
    "celeba": (18 / 89, 30 / 109, 71 / 89, 83 / 109),
    "muct": (0.0, 0.0, 1.0, 1.0),
}
CHUNK = 64


def need(root: Path, name: str, path: str) -> Path:
    """`root`/`path` of the data set `name`, if it exists; else `DataError` with the remedy."""
    found = root / path
    if not found.exists():
        raise DataError(
            f"{found} is missing: call python -m dftlib.datasets download {name} --to {root}, or set data_root to the folder "
            f"that holds {name}/."
        )
    return found


def read_lines(path: Path) -> list[str]:
    """Lines without their ends (LF or CRLF) and without blank ones at the end of the file."""
    return path.read_text(encoding="utf-8", errors="replace").rstrip().split("\n")


def read_table(
    path: Path, lines: list[str], skip: int, columns: list[str], wanted: list[str], sep: str | None = None
) -> pd.DataFrame:
    """The `wanted` columns, as strings, indexed by line number; `sep` None is any white space.

    Raises `DataError` where a column is unknown or a line after the first `skip` hasn't one field for each column.
    """
    if unknown := [c for c in wanted if c not in columns]:
        raise DataError(f"{path} has no column '{unknown[0]}': fetch the file again, it isn't the official one.")
    if len(set(columns)) < len(columns):
        raise DataError(f"{path} names a column twice: fetch the file again, it isn't the official one.")
    for number, line in enumerate(lines[skip:], skip + 1):
        # pandas itself would fill a short line with blanks
        if (found := len(line.split(sep))) != len(columns):
            raise DataError(f"Line {number} of {path} has {found} columns, not {len(columns)}: mend it or fetch the file again.")
    table = pd.read_csv(
        path,
        sep=sep or r"\s+",
        skiprows=skip,
        nrows=len(lines) - skip,
        names=columns,
        header=None,
        usecols=wanted,
        index_col=False,
        dtype=str,
        na_filter=False,
        quoting=csv.QUOTE_NONE,
        encoding_errors="replace",
    )
    return table.set_axis(range(skip + 1, len(lines) + 1))


def numbers(path: Path, table: pd.DataFrame, columns: list[str], allowed: Collection[int] = ()) -> pd.DataFrame:
    """`columns` of a table of `read_table` as floats; the first that is no number or not `allowed` raises `DataError`."""
    values: pd.DataFrame = table[columns].apply(pd.to_numeric, errors="coerce")
    rows, places = np.nonzero(~values.isin(list(allowed)) if allowed else ~np.isfinite(values))
    if len(rows):
        found = table[columns].iat[rows[0], places[0]]
        wanted = f"one of {', '.join(map(str, allowed))}" if 0 < len(allowed) < 9 else "a number"
        raise DataError(
            f"Line {table.index[rows[0]]} of {path} has {str(found)!r} for '{columns[places[0]]}', which must be {wanted}: "
            "mend it or fetch the file again."
        )
    return values


def signature(folder: Path, files: Sequence[str]) -> list[tuple[str, int, int]]:
    """Name, bytes and time of change of each picture; `DataError` tells how many aren't there, and the first."""
    found, missing = [], []
    for file in files:
        try:
            stat = (folder / file).stat()
            found.append((file, stat.st_size, stat.st_mtime_ns))
        except FileNotFoundError:
            missing.append(file)
    if missing:
        raise DataError(
            f"{len(missing)} of the {len(files)} pictures that the labels list aren't in {folder}, the first is "
            f"{missing[0]}: unpack the whole data set there, or take the lines of those pictures out of the label file."
        )
    return found


def read_picture(path: Path) -> Image.Image:
    """The picture at `path`, RGB, turned as its EXIF orientation says.

    An unreadable or truncated one raises `DataError`, and so does one of more than 8 bits a channel.
    """
    try:
        with Image.open(path) as picture:
            if picture.mode.startswith(("I", "F")):  # Pillow would clip them, at 255 of 65535 for instance
                raise DataError(f"{path} has grey levels of more than 8 bits: save it with 8 bits a channel.")
            ImageOps.exif_transpose(picture, in_place=True)
            return picture.convert("RGB")
    except (OSError, SyntaxError, ValueError, TypeError, struct.error, Image.DecompressionBombError) as error:
        raise DataError(f"{path} can't be read ({error}): fetch that picture again.") from error


def in_threads(work: Callable[[range], None], count: int, title: str) -> None:
    """Calls `work` on chunks of 0 … count - 1; the first exception ends it."""
    chunks = [range(i, min(i + CHUNK, count)) for i in range(0, count, CHUNK)]
    with ThreadPoolExecutor() as pool, tqdm(total=count, desc=title, unit="picture") as bar:
        for chunk, _ in zip(chunks, pool.map(work, chunks), strict=True):
            bar.update(len(chunk))


def pictures(
    name: str, folder: Path, files: Sequence[str], size: int | tuple[int, int], boxes: NDArray[np.float64] | tuple[float, ...]
) -> NDArray[np.uint8]:
    """The pictures, cropped and resized (Lanczos, antialiased): N x 3 x height x width, RGB, read-only, from the cache.

    size:  of a square picture, or height and width
    boxes: left, top, right, bottom as fractions, for all (4 numbers) or for each (N x 4)
    A missing, unreadable or truncated picture raises `DataError`.
    """
    boxes = np.asarray(boxes, float)
    height, width = (size, size) if isinstance(size, int) else size

    def make() -> NDArray[np.uint8]:
        out = np.empty((len(files), 3, height, width), np.uint8)
        each = np.broadcast_to(boxes, (len(files), 4))

        def work(chunk: range) -> None:
            for i in chunk:
                picture = read_picture(folder / files[i])
                left, top, right, bottom = each[i] * (picture.size * 2)
                small = picture.resize((width, height), Image.Resampling.LANCZOS, box=(left, top, right, bottom))
                out[i] = np.asarray(small).transpose(2, 0, 1)

        in_threads(work, len(files), f"{name}: decode")
        return out

    # names are relative and the root isn't part of the key, so that a folder that was moved is still found
    key = {"name": name, "size": size, "boxes": boxes.tolist(), "files": signature(folder, files)}
    return store.array("pictures", key, make)
