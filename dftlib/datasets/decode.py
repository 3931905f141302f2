"""Label tables and pictures, read from disk: every fault ends in a `DataError` that names the file."""

import csv
import hashlib
import struct
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image, ImageOps

from dftlib import artefacts
from dftlib.errors import DataError
from dftlib.progress import tqdm

CHUNK = 64


def need(root: Path, name: str, path: str) -> Path:
    """`root`/`path` of the data set `name`, if it exists; else `DataError` with the remedy."""
    found = root / path
    if not found.exists():
        raise DataError(
            f"{found} is missing: call dft download {name} --to {root}, or set data_root to the folder that holds {name}/."
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


def signature(folder: Path, files: Sequence[str]) -> str:
    """A digest of the names and the bytes of the pictures; `DataError` tells how many aren't there, and the first.

    By content, not by time or size: two folders of one name may hold pictures of the same size and time.
    """
    if missing := [file for file in files if not (folder / file).is_file()]:
        raise DataError(
            f"{len(missing)} of the {len(files)} pictures that the labels list aren't in {folder}, the first is "
            f"{missing[0]}: unpack the whole data set there, or take the lines of those pictures out of the label file."
        )

    def of(file: str) -> bytes:
        return hashlib.sha256(file.encode() + b"\0" + (folder / file).read_bytes()).digest()

    with ThreadPoolExecutor() as pool:
        return hashlib.sha256(b"".join(pool.map(of, files))).hexdigest()


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


Cut = Callable[[int, Image.Image], NDArray[np.uint8]]


def cut(
    name: str, folder: Path, files: Sequence[str], shape: tuple[int, int], part: Cut, key: Mapping[str, Any]
) -> NDArray[np.uint8]:
    """`part(i, picture)`, uint8 height x width x 3, of each picture: N x 3 x height x width, RGB, read-only, from the cache.

    `key` says what `part` does. A missing, unreadable or truncated picture raises `DataError`.
    """

    def make() -> NDArray[np.uint8]:
        out = np.empty((len(files), 3, *shape), np.uint8)

        def work(chunk: range) -> None:
            for i in chunk:
                out[i] = part(i, read_picture(folder / files[i])).transpose(2, 0, 1)

        in_threads(work, len(files), f"{name}: decode")
        return out

    return artefacts.array("pictures", 2, {**key, "shape": shape, "files": signature(folder, files)}, make)


def pictures(
    name: str, folder: Path, files: Sequence[str], size: int | tuple[int, int], boxes: NDArray[np.float64] | tuple[float, ...]
) -> NDArray[np.uint8]:
    """The pictures, cropped and resized (Lanczos, antialiased): N x 3 x height x width, RGB, read-only, from the cache.

    size:  of a square picture, or height and width
    boxes: left, top, right, bottom as fractions, for all (4 numbers) or for each (N x 4); beyond a picture its edge goes on
    A missing, unreadable or truncated picture raises `DataError`.
    """
    boxes = np.asarray(boxes, float)
    height, width = (size, size) if isinstance(size, int) else size
    each = np.broadcast_to(boxes, (len(files), 4))

    def part(i: int, picture: Image.Image) -> NDArray[np.uint8]:
        box = each[i] * (picture.size * 2)
        if outside := int(np.ceil(max(*-box[:2], *(box[2:] - picture.size), 0))):
            picture = Image.fromarray(np.pad(np.asarray(picture), ((outside,) * 2, (outside,) * 2, (0, 0)), "edge"))
            box = box + outside
        return np.asarray(picture.resize((width, height), Image.Resampling.LANCZOS, box=tuple(box.tolist())))

    return cut(name, folder, files, (height, width), part, {"boxes": boxes.tolist()})
