"""Label tables and pictures, read from disk: every fault ends in a `DataError` that names the file."""

import hashlib
import struct
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image, ImageOps

from dftlib import artefacts
from dftlib.datasets.files import named
from dftlib.errors import DataError
from dftlib.progress import tqdm

T = TypeVar("T")
CHUNK = 64
HEIC = (b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"mif1", b"msf1")  # brands of ISO 23008-12, after 'ftyp'


def find(root: Path, name: str, *paths: str) -> Path | None:
    """The first of the `paths` that the data set `name` has below `root`/`name`, there or one folder deeper.

    A folder with another of its own name in it, as some archives unpack, stands for that one.
    """
    for path in paths:
        for found in (root / name / path, *sorted((root / name).glob(f"*/{path}"))):
            if found.exists():
                return found / found.name if (found / found.name).is_dir() else found
    return None


def need(root: Path, name: str, *paths: str) -> Path:
    """As `find`; where there is none `DataError` names the first path, what is there instead, and the remedy."""
    if found := find(root, name, *paths):
        return found
    home = root / name if (root / name).is_dir() else root
    holds = named(sorted(path.name for path in home.iterdir())) if home.is_dir() else ""
    raise DataError(
        f"{root / name / paths[0]} is missing ({home} holds {holds or 'nothing'}): call dft download {name} --to {root}, or set "
        f"data_root to the folder that holds {name}/."
    )


def read_lines(path: Path) -> list[str]:
    """Lines without their ends (LF or CRLF), without a byte-order mark and without blank ones at the end of the file."""
    return path.read_text(encoding="utf-8-sig", errors="replace").rstrip().split("\n")


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
    rows, at = [], [columns.index(column) for column in wanted]
    for number, line in enumerate(lines[skip:], skip + 1):
        if (found := len(fields := line.split(sep))) != len(columns):
            raise DataError(f"Line {number} of {path} has {found} columns, not {len(columns)}: mend it or fetch the file again.")
        rows.append([fields[i] for i in at])
    return pd.DataFrame(rows, range(skip + 1, len(lines) + 1), pd.Index(wanted), dtype=object)


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
    """A digest of the names and the bytes of the pictures.

    By content, not by time or size: two folders of one name may hold pictures of the same size and time.
    """
    return hashlib.sha256(b"".join(digests(folder, files, with_names=True))).hexdigest()


def digests(folder: Path, files: Sequence[str], with_names: bool = False) -> list[bytes]:
    """The SHA-256 of each file's bytes, or of its name and its bytes."""

    def work(i: int) -> bytes:
        head = files[i].encode("utf-8", "surrogateescape") + b"\0" if with_names else b""
        try:
            return hashlib.sha256(head + (folder / files[i]).read_bytes()).digest()
        except OSError as error:
            raise DataError(f"{folder / files[i]} can't be read ({error.strerror}): fetch that picture again.") from None

    return in_threads(work, len(files), "read")


def read_picture(path: Path) -> Image.Image:
    """The picture at `path`, RGB, turned as its EXIF orientation says; what it is by its content, whatever its name's ending.

    An unreadable or truncated one raises `DataError`, and so does a grey one of more than 8 bits, or one in HEIC where the
    package that reads it isn't installed. Of colours of 16 bits Pillow reads the upper 8.
    """
    knows_heic()
    try:
        with Image.open(path) as picture:
            if picture.mode.startswith(("I", "F")):  # Pillow would clip them, at 255 of 65535 for instance
                raise DataError(f"{path} has grey levels of more than 8 bits: save it with 8 bits a channel.")
            ImageOps.exif_transpose(picture, in_place=True)
            return picture.convert("RGB")
    except (OSError, SyntaxError, ValueError, TypeError, struct.error, Image.DecompressionBombError) as error:
        if not getattr(error, "errno", None) and not knows_heic():  # the file could be opened
            head = path.read_bytes()[4:12]
            if head[:4] == b"ftyp" and head[4:] in HEIC:
                raise DataError(
                    f"{path} is a HEIC picture, as phones take them: call pip install pillow-heif, or save it as JPEG or PNG."
                ) from None
        raise DataError(f"{path} can't be read ({error}): fetch that picture again.") from error


@cache
def knows_heic() -> bool:
    """Whether the package `pillow-heif` is installed; Pillow then reads HEIC through it."""
    try:
        import pillow_heif
    except ImportError:
        return False
    pillow_heif.register_heif_opener()
    return True


def in_threads(work: Callable[[int], T], count: int, title: str) -> list[T]:
    """What `work` returns for 0 … count - 1; the first exception ends it."""
    chunks, done = [range(i, min(i + CHUNK, count)) for i in range(0, count, CHUNK)], list[T]()
    with ThreadPoolExecutor() as pool, tqdm(total=count, desc=title, unit="picture") as bar:
        for part in pool.map(lambda chunk: [work(i) for i in chunk], chunks):
            done += part
            bar.update(len(part))
    return done


def cut(
    name: str, folder: Path, files: Sequence[str], shape: tuple[int, int],
    part: Callable[[int, Image.Image], NDArray[np.uint8]], key: Mapping[str, Any],
) -> NDArray[np.uint8]:  # fmt: skip
    """`part(i, picture)`, uint8 height x width x 3, of each picture: N x 3 x height x width, RGB, read-only, from the cache.

    `key` says what `part` does. A missing, unreadable or truncated picture raises `DataError`.
    """

    def make() -> NDArray[np.uint8]:
        out = np.empty((len(files), 3, *shape), np.uint8)

        def work(i: int) -> None:
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
