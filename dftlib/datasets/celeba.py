"""CelebA, aligned and cropped (Liu et al., 2015).

    celeba/img_align_celeba/000001.jpg
    celeba/list_attr_celeba.txt      count; names of 40 attributes; one line a picture, 1 or -1
    celeba/list_eval_partition.txt   one line a picture, 0 train, 1 validation, 2 test
    celeba/identity_CelebA.txt       one line a picture, its person; may be absent

Also as CSV, with a line of names instead of the count (list_attr_celeba.csv, list_eval_partition.csv), and with pictures as PNG.

Both protocols are the official partition: nobody is in two of its parts. So without the identity file each picture
stands for a person of its own, which changes no split.
"""

import logging
from pathlib import Path

import pandas as pd

from dftlib.datasets import align, decode
from dftlib.datasets.base import ATTRIBUTES, SPLITS
from dftlib.datasets.files import located
from dftlib.errors import DataError

COLUMNS = {a: a.replace(" ", "_") for a in ATTRIBUTES} | {"Gender": "Male"}
# Of 89 x 109 pixels (the originals have 178 x 218).
FRAME = align.framing((89, 109), face=(22, 45.5, 67, 91), crop=(19.57, 38.02, 69.34, 87.79), picture=(18, 30, 71, 83))
FOLDERS = ("img_align_celeba", "img_align_celeba_png")

log = logging.getLogger(__name__)


def parse(root: Path, wanted: dict[str, str] | None = COLUMNS) -> pd.DataFrame:
    """Labels, 'subject' and 'split', indexed by picture; raises `DataError` where a list is missing or damaged.

    `wanted` gives the file's column for each attribute; None: all 40, with blanks for underscores in their names. People on
    several sides of the partition are told by a warning.
    """
    path = decode.need(root, "celeba", "list_attr_celeba.txt", "list_attr_celeba.csv")
    lines = decode.read_lines(path)
    csv = "," in lines[0]
    skip, sep = (1, ",") if csv else (2, None)
    columns = ["file", *lines[skip - 1].split(sep)[csv:]] if len(lines) >= skip else []
    wanted = {name.replace("_", " "): name for name in columns[1:]} if wanted is None else wanted
    names = list(wanted.values())
    table = decode.read_table(path, lines, skip, columns, ["file", *names], sep)
    if not csv and lines[0].strip() != str(len(table)):
        raise DataError(f"Line 1 of {path} promises {lines[0].strip()} pictures, but {len(table)} follow: fetch the file again.")
    present = decode.numbers(path, table, names, (1, -1)) > 0
    labels = present.astype("int8").set_axis(list(wanted), axis=1).set_axis(table["file"])
    path = decode.need(root, "celeba", "list_eval_partition.txt", "list_eval_partition.csv")
    part = decode.numbers(path, parts := _pairs(path), ["value"], range(3))["value"].astype(int)
    split = _of(labels, path, parts["file"], part.map(dict(enumerate(SPLITS))))
    if not (listed := decode.find(root, "celeba", "identity_CelebA.txt", "identity_CelebA.csv")):
        return labels.assign(subject=labels.index, split=split)
    people = _pairs(listed)
    subject = _of(labels, listed, people["file"], people["value"])
    if len(several := (sides := split.groupby(subject).nunique()).index[sides > 1]):
        log.warning(
            "CelebA: %d of %d people of %s, such as %s, are on several sides of %s, so accuracies may be too good: fetch both "
            "lists again.", len(several), len(sides), listed, several[0], path,
        )  # fmt: skip
    return labels.assign(subject=subject, split=split)


def _pairs(path: Path) -> pd.DataFrame:
    lines = decode.read_lines(path)
    csv = "," in lines[0]
    return decode.read_table(path, lines, int(csv), ["file", "value"], ["file", "value"], "," if csv else None)


def _of(labels: pd.DataFrame, path: Path, file: pd.Series, value: pd.Series) -> pd.Series:
    """`value` in the order of `labels`."""
    found = labels.index.to_series().map(dict(zip(file, value, strict=True)))
    if found.isna().any():
        raise DataError(f"{path} doesn't list {found.isna().idxmax()}, which has attributes: fetch both lists again.")
    return found


def load(root: Path, wanted: dict[str, str] | None = COLUMNS) -> align.Listed:
    """With the official partition; `wanted` as of `parse`."""
    table, folder = parse(root, wanted), decode.need(root, "celeba", *FOLDERS)
    return align.Listed(table, folder, located(folder, table.index.tolist()), FRAME)
