"""A practitioner's own pictures: a folder, and a CSV that says what each shows."""

import csv
import io
import re
import unicodedata
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from dftlib.datasets import decode, splits
from dftlib.datasets.base import SPLITS, FaceDataset
from dftlib.datasets.files import below, is_picture, located, named
from dftlib.errors import DataError

LEAST = 10  # pictures of a class: 6, 2, 2 on the three sides
MOST = 127  # classes, counted in int8
# What columns are called, in any case and with any dashes: the first of each row that is there is taken.
COLUMNS = {
    "file": ("file", "filename", "filepath", "image", "imagename", "imagepath", "imageid", "picture", "photo", "path"),
    "label": ("label", "class", "target", "category"),
    "person": ("person", "personid", "personname", "subject", "subjectid", "subjectname", "identity", "identityid",
               "individual", "individualid", "personnumber", "id"),
}  # fmt: skip
INTEGER = re.compile(r"[+-]?[0-9]{1,18}")


@dataclass(frozen=True)
class Photos:
    """A folder of labelled pictures.

    dataset:    its `labels` have one int8 column, 'label': the index of the picture's class in `names`
    names:      the classes as the CSV calls them, sorted: by value if all are integers, else alphabetically
    unlabelled: pictures in the folder and below it, linked folders too, that the CSV doesn't name
    notes:      what a reader of results must know: sentences about columns, names, copies and links
    """

    dataset: FaceDataset
    names: tuple[str, ...]
    unlabelled: int
    notes: tuple[str, ...] = ()


def read_labels(path: Path) -> tuple[pd.DataFrame, list[str]]:
    """Columns 'file', 'label', 'person' as strings, indexed by the line of the CSV, and sentences about other columns.

    UTF-8 with commas and a header, which has `file` and `label`, and `person` or each file is a person of its own; or one of
    their other names in `COLUMNS`. Other columns are ignored; so are blank lines and blanks around a field. Accents are composed
    and slashes are straight. Integers are written in one way (01 and +1 are 1) if all labels are integers. `DataError`, naming
    the line, for anything else, for a file named twice or outside the pictures' folder, and for an empty field; and for one class
    or more than 127.
    """
    try:
        text = unicodedata.normalize("NFC", path.read_bytes().decode("utf-8-sig"))
    except OSError as error:
        raise DataError(f"{path} can't be read ({error.strerror}): name a CSV file with the columns file and label.") from None
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise DataError(f"Line {line} of {path} isn't UTF-8: save the file as CSV in UTF-8.") from None
    reader = csv.reader(io.StringIO(text, newline=""), strict=True, skipinitialspace=True)
    try:
        lines = [(reader.line_num, [field.strip() for field in fields]) for fields in reader if any(map(str.strip, fields))]
    except csv.Error as error:
        raise DataError(f"Line {reader.line_num} of {path} isn't CSV ({error}): mend it or save the file as CSV again.") from None
    if not lines:
        raise DataError(f"{path} is empty: write a first line 'file,label' and below it a line for each picture.")
    (_, header), *body = lines
    columns, notes = _columns(path, header)
    rows: dict[int, dict[str, str]] = {}
    seen: dict[str, int] = {}
    for line, fields in body:
        if len(fields) != len(header):
            raise DataError(
                f"Line {line} of {path} has {len(fields)} fields, not {len(header)}: mend it, with quotes around a field that "
                "holds a comma."
            )
        row = {column: fields[i] for column, i in columns.items()}
        if empty := [c for c in columns if not row[c]]:
            raise DataError(f"Line {line} of {path} has no {empty[0]}: fill it in, or take the line out.")
        file = Path(row["file"].replace("\\", "/"))
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
    if not 2 <= (count := table["label"].nunique()) <= MOST:
        raise DataError(f"The column 'label' of {path} has {count} different values: give 2 to {MOST} classes.")
    return table, notes


def _columns(path: Path, header: list[str]) -> tuple[dict[str, int], list[str]]:
    """Where 'file', 'label' and perhaps 'person' stand in the header, and sentences about the rest."""
    plain = [re.sub(r"[\W_]", "", name).casefold() for name in header]
    places, notes = {}, []
    for column, known in COLUMNS.items():
        name = next((name for name in known if name in plain), column)
        if (count := plain.count(name)) == 1:
            places[column] = plain.index(name)
        elif column != "person" or count:
            raise DataError(
                f"The first line of {path} names the column '{name}' {count} times: it must be there once, as in 'file,label', "
                "with commas."
            )
    person = header[places["person"]] if "person" in places else ""
    if person not in ("", "person"):
        notes.append(f"People are told apart by the column '{person}' of {path.name}.")
    if aside := [name for i, name in enumerate(header) if name and i not in places.values()]:
        alone = "" if person else "; none is called person, so each picture counts as another person"
        notes.append(f"Columns of {path.name} that were left aside: {named(aside)}{alone}.")
    return places, notes


def load(images: str | Path, labels: str | Path, size: int | tuple[int, int], seed: int = 0) -> Photos:
    """The pictures of the folder `images` that the CSV `labels` (see `read_labels`) names, each whole: size x size, or
    height x width.

    Their proportions aren't kept: a picture that isn't square is squeezed. The split is 60/20/20 within each class, with
    all pictures of one person on one side; it depends on the names and `seed`, not on the order of the lines.
    Raises `DataError` for a fault in the CSV, for pictures that aren't there or can't be read, and for a class with fewer than 10
    pictures or with too few people to be on all three sides.
    """
    images, path = Path(images), Path(labels)
    if not images.is_dir():
        raise DataError(f"{images} is no folder: name the folder that holds the pictures.")
    table, notes = read_labels(path)
    listed = table["file"].tolist()
    files = located(images, listed, str(path), table.index.tolist())
    if others := [pair for pair in zip(listed, files, strict=True) if pair[0] != unicodedata.normalize("NFC", pair[1])]:
        notes.append(f"{len(others):,} names in {path.name} mean files with other names, such as {others[0][0]}: {others[0][1]}.")
    found = table["label"].unique().tolist()
    names = tuple(sorted(found, key=int) if all(map(INTEGER.fullmatch, found)) else sorted(found))
    counts = table["label"].value_counts()
    if counts.min() < LEAST:
        rare = str(counts.idxmin())
        alike = [f", or call it '{name}' too" for name in names if name != rare and name.casefold() == rare.casefold()]
        raise DataError(
            f"Class '{rare}' in {path} has {counts.min()} pictures: give it {LEAST} or more, or take its lines out"
            f"{''.join(alike)}."
        )
    classes = table["label"].map(names.index).astype("int8").to_numpy()
    content = pd.factorize(np.array(decode.digests(images, files), object))[0]
    subjects = _joined(table["person"].to_numpy(str), content)
    if copies := len(content) - len(np.unique(content)):
        several = int((pd.Series(classes).groupby(content).nunique() > 1).sum())
        torn = f"; {several:,} pictures have copies with another label" if several else ""
        notes.append(
            f"{copies:,} pictures are copies of others, byte for byte: copies are on one side, as if of one person{torn}."
        )
    split = splits.subject_split(subjects, classes, seed)
    for side in SPLITS:
        if absent := sorted(set(range(len(names))) - set(classes[split == side])):
            raise DataError(
                f"No picture of class '{names[absent[0]]}' in {path} is left for the {side} split, as nobody may be in two, nor "
                "copies of a picture: add pictures of more people of that class, or rename the column of the people if it tells "
                "something else."
            )
    name = images.resolve().name
    decoded = decode.pictures(name, images, files, size, (0.0, 0.0, 1.0, 1.0))
    there = below(images)
    if there.unread:
        notes.append(f"Not looked into below the folder of the pictures: {named(there.unread)}.")
    unlabelled = {file for file in there.files if is_picture(Path(file))} - set(files)
    faces = FaceDataset(name, decoded, pd.DataFrame({"label": classes}), subjects, split, np.array(files))
    return Photos(faces, names, len(unlabelled), tuple(notes))


def _joined(people: NDArray[np.str_], content: NDArray[np.int64]) -> NDArray[np.str_]:
    """The person on each picture, those who share a picture (equal `content`) taken for one, under the first of their names."""
    names, who = np.unique(people, return_inverse=True)
    nodes = len(names) + int(content.max()) + 1  # people, then pictures
    shown = coo_array((np.ones(len(who)), (who, len(names) + content)), (nodes, nodes))
    group = connected_components(shown, directed=False)[1][: len(names)]
    return names[np.unique(group, return_index=True)[1]][group][who]
