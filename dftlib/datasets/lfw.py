"""Labeled Faces in the Wild, deep-funneled, with the 73 attributes of Columbia (Kumar et al., 2009).

    lfw/lfw-deepfunneled/<Name>/<Name>_0001.jpg     or, where there is none, lfw/lfw_funneled/…
    lfw/lfw_attributes.txt

The labels are a classifier's scores, above 0 for present: noisy, and the size of a score is not used.
"""

import logging
from pathlib import Path

import pandas as pd

from dftlib.datasets import align, decode
from dftlib.datasets.base import ATTRIBUTES
from dftlib.datasets.files import located
from dftlib.errors import DataError

# LFW has 'Attractive' once for each sex; a picture with either of the two counts as Attractive.
COLUMNS = {a: [a] for a in ATTRIBUTES} | {"Gender": ["Male"], "Attractive": ["Attractive Man", "Attractive Woman"]}
# Of 125 x 125 pixels (the originals have 250 x 250, and the face in the same place).
FRAME = align.framing((125, 125), face=(37.5, 43, 89.5, 91.5), crop=(36, 37, 89, 90), picture=(36, 37, 89, 90))

DEEP_FUNNELED, FUNNELED = "lfw-deepfunneled", "lfw_funneled"  # the second is all that a mirror has

log = logging.getLogger(__name__)


def parse(root: Path) -> pd.DataFrame:
    """Labels and 'subject' (the person's name), indexed by picture, relative to the folder of the pictures.

    Raises `DataError` where the label file is missing or damaged.
    """
    path = decode.need(root, "lfw", "lfw_attributes.txt")
    lines = decode.read_lines(path)
    # line 2 begins with '#' as if that were a column: read naively, every name stands one column too far to the left
    columns = lines[1].removeprefix("#").strip().split("\t") if len(lines) > 1 else []
    scores = sorted({c for cs in COLUMNS.values() for c in cs})
    table = decode.read_table(path, lines, 2, columns, ["person", "imagenum", *scores], "\t")
    present = decode.numbers(path, table, scores) > 0
    number = decode.numbers(path, table, ["imagenum"], range(1, 10_000))["imagenum"].astype(int)
    if len(table) > 1000 and not 0.6 <= (share := present["Male"].mean()) <= 0.9:
        raise DataError(
            f"{share:.0%} of the pictures in {path} are 'Male' where about 77% are expected, so the header doesn't fit "
            "the columns: fetch the file again, unedited."
        )
    labels = pd.DataFrame({a: present[cs].any(axis=1).astype("int8") for a, cs in COLUMNS.items()})
    person = table["person"].str.replace(" ", "_")
    file = person + "/" + person + "_" + number.map("{:04d}.jpg".format)
    return labels.assign(subject=person).set_axis(file)


def load(root: Path) -> align.Listed:
    table, folder = parse(root), decode.need(root, "lfw", DEEP_FUNNELED, FUNNELED)
    if folder.name == FUNNELED:
        log.warning("LFW: %s holds the funneled pictures; the deep-funneled ones, aligned better, are not there.", folder)
    return align.Listed(table, folder, located(folder, table.index.tolist()), FRAME)
