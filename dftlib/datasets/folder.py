"""A practitioner's own pictures: a folder, and a CSV that says what each shows."""

import csv
import io
import os
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from dftlib.datasets import decode, splits
from dftlib.datasets.base import SPLITS, FaceDataset
from dftlib.errors import DataError

LEAST = 10  # pictures of a class: 6, 2, 2 on the three sides
MOST = 127  # classes, counted in int8
INTEGER = re.compile(r"[+-]?[0-9]{1,18}")


@dataclass(frozen=True)
class Photos:
    """A folder of labelled pictures.

    dataset:    its `labels` have one int8 column, 'label': the index of the picture's class in `names`
    names:      the classes as the CSV calls them, sorted: by value if all are integers, else alphabetically
    unlabelled: pictures in the folder and below it that the CSV doesn't name
    """

    dataset: FaceDataset
    names: tuple[str, ...]
    unlabelled: int


def is_picture(path: Path) -> bool:
    """Whether the ending is that of a kind of picture that Pillow knows; hidden files are none."""
    kind = Image.registered_extensions().get(path.suffix.lower(), "")
    # Pillow's endings also name documents and films
    return Image.MIME.get(kind, "").startswith("image/") and not path.name.startswith(".")


def read_labels(path: Path) -> pd.DataFrame:
    """Columns 'file', 'label', 'person' as strings, indexed by the line of the CSV.

    UTF-8 with commas and a header, in which `file` and `label` are needed, `person` may be there (without it each file is a
    person of its own), and others are ignored; so are blank lines and blanks around a field. Integers are written in one way
    (01 and +1 are 1) if all labels are integers. `DataError`, naming the line, for anything else, for a file named twice or
    outside the pictures' folder, and for an empty field.
    """
    columns = ["file", "label"]
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise DataError(f"{path} can't be read ({error.strerror}): name a CSV file with the columns file and label.") from None
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise DataError(f"Line {line} of {path} isn't UTF-8: save the file as CSV in UTF-8.") from None
    reader = csv.reader(io.StringIO(text, newline=""), strict=True, skipinitialspace=True)
    lines = []
    try:
        for fields in reader:
            if any(fields := [field.strip() for field in fields]):
                lines.append((reader.line_num, fields))
    except csv.Error as error:
        raise DataError(f"Line {reader.line_num} of {path} isn't CSV ({error}): mend it or save the file as CSV again.") from None
    if not lines:
        raise DataError(f"{path} is empty: write a first line 'file,label' and below it a line for each picture.")
    (_, header), *body = lines
    if "person" in header:
        columns.append("person")
    for column in columns:
        if (count := header.count(column)) != 1:
            raise DataError(
                f"The first line of {path} names the column '{column}' {count} times: it must be there once, as in 'file,label', "
                "with commas."
            )
    rows: dict[int, dict[str, str]] = {}
    seen: dict[str, int] = {}
    for line, fields in body:
        if len(fields) != len(header):
            raise DataError(
                f"Line {line} of {path} has {len(fields)} fields, not {len(header)}: mend it, with quotes around a field that "
                "holds a comma."
            )
        row = dict(zip(header, fields, strict=True))
        if empty := [c for c in columns if not row[c]]:
            raise DataError(f"Line {line} of {path} has no {empty[0]}: fill it in, or take the line out.")
        file = Path(row["file"])
        if file.anchor or ".." in file.parts:
            raise DataError(f"Line {line} of {path} names {file}: give the name within the folder of the pictures.")
        if (first := seen.setdefault(file.as_posix(), line)) != line:
            raise DataError(f"Line {line} of {path} names {file} again, after line {first}: keep one of the two.")
        rows[line] = {"file": file.as_posix(), "label": row["label"], "person": row.get("person", file.as_posix())}
    if not rows:
        raise DataError(f"{path} names no picture: write a line for each below the first.")
    table = pd.DataFrame.from_dict(rows, orient="index")
    if table["label"].map(lambda label: bool(INTEGER.fullmatch(label))).all():
        table["label"] = table["label"].map(lambda label: str(int(label)))
    return table


def load(images: str | Path, labels: str | Path, size: int, seed: int = 0) -> Photos:
    """The pictures of the folder `images` that the CSV `labels` (see `read_labels`) names, each whole, size x size.

    Their proportions aren't kept: a picture that isn't square is squeezed. The split is 60/20/20 within each class, with
    all pictures of one person on one side; it depends on the names and `seed`, not on the order of the lines.
    Raises `DataError` for a fault in the CSV, for pictures that aren't there or can't be read, for one class or more than
    127, and for a class with fewer than 10 pictures or with too few people to be on all three sides.
    """
    images, path = Path(images), Path(labels)
    if not images.is_dir():
        raise DataError(f"{images} is no folder: name the folder that holds the pictures.")
    table = read_labels(path)
    files = table["file"].tolist()
    missing = [file for file in files if not os.path.isfile(images / file)]
    if missing:
        raise DataError(
            f"{len(missing)} of the {len(files)} pictures that {path} names aren't in {images}, the first is {missing[0]} "
            f"(line {table.index[files.index(missing[0])]}): put them there, or take their lines out."
        )
    found = table["label"].unique().tolist()
    names = tuple(sorted(found, key=int) if all(map(INTEGER.fullmatch, found)) else sorted(found))
    if not 2 <= len(names) <= MOST:
        raise DataError(f"The column 'label' of {path} has {len(names)} different values: give 2 to {MOST} classes.")
    counts = table["label"].value_counts()
    if counts.min() < LEAST:
        raise DataError(
            f"Class '{counts.idxmin()}' in {path} has {counts.min()} pictures: give it {LEAST} or more, or take its lines out."
        )
    classes = table["label"].map(names.index).astype("int8").to_numpy()
    subjects = table["person"].to_numpy(str)
    split = splits.subject_split(subjects, classes, seed)
    for side in SPLITS:
        if absent := sorted(set(range(len(names))) - set(classes[split == side])):
            raise DataError(
                f"No picture of class '{names[absent[0]]}' in {path} is left for the {side} split, as nobody may be in two: "
                "add pictures of more people of that class."
            )
    name = images.resolve().name
    decoded = decode.pictures(name, images, files, size, (0.0, 0.0, 1.0, 1.0))
    unlabelled = {p.relative_to(images).as_posix() for p in images.rglob("*") if is_picture(p) and p.is_file()} - set(files)
    faces = FaceDataset(name, decoded, pd.DataFrame({"label": classes}), subjects, split, np.array(files))
    return Photos(faces, names, len(unlabelled))
