"""The MUCT face database (Milborrow et al., 2010): `muct/jpg/iSSSxy-GN.jpg`, the labels are in the names.

SSS is the subject, x the lighting, y the camera, G the gender (f, m), N the glasses (n without, g with; three names
have a digit there: not known). There are no other labels: -1.
"""

import logging
import re
import threading
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from dftlib import artefacts
from dftlib.datasets import align, decode
from dftlib.datasets.base import ATTRIBUTES
from dftlib.datasets.files import is_picture
from dftlib.errors import DataError

NAME = re.compile(r"i(\d{3})[a-z]{2}-([fm])([ng\d])(\.[A-Za-z]+)+")
CROPPED = 100  # pixels: a picture with a side below this is a face crop already (the originals are 480 x 640)

# Of the copies of 24 x 32 pixels. Originals have the box of Viola-Jones for all three.
FRAME = align.framing((24, 32), face=(-1, 0, 27, 28), crop=(-1.31, -4.09, 27.78, 25), picture=(0, 0, 24, 32))

log = logging.getLogger(__name__)


def parse(root: Path) -> pd.DataFrame:
    """Labels and 'subject', indexed by picture; no picture, or one with another name, raises `DataError`."""
    folder = decode.need(root, "muct", "jpg")
    rows = {}
    for file in sorted(p.name for p in folder.glob("i[0-9]*") if is_picture(p)):
        if not (match := NAME.fullmatch(file)):
            raise DataError(f"{folder / file} isn't named like i000qa-fn.jpg, so it has no labels: take it away.")
        subject, gender, glasses = match.groups()[:3]
        rows[file] = {"Gender": int(gender == "m"), "Eyeglasses": {"g": 1, "n": 0}.get(glasses, -1), "subject": subject}
    if not rows:
        raise DataError(f"{folder} holds no picture named like i000qa-fn.jpg: unpack the MUCT archives there.")
    table = pd.DataFrame.from_dict(rows, orient="index")
    labels = table.reindex(columns=list(ATTRIBUTES), fill_value=-1).astype("int8")
    return labels.assign(subject=table["subject"])


@cache
def viola_jones(_thread: int = 0) -> Any:
    """OpenCV's detector for faces seen from the front, one for each thread."""
    import cv2.data  # here, as few need it

    return cv2.CascadeClassifier(cv2.data.haarcascades + "haarcascade_frontalface_default.xml")


def largest_face(detector: Any, grey: NDArray[np.uint8]) -> tuple[int, int, int, int] | None:
    """Left, top, width, height of the largest face of an H x W picture in pixels, or None."""
    side = min(grey.shape) // 5  # no face of the originals is smaller; smaller finds are texture
    found = detector.detectMultiScale(grey, scaleFactor=1.1, minNeighbors=5, minSize=(side, side))
    return max(map(tuple, found), key=lambda b: (b[2] * b[3], b), default=None)


def face_boxes(folder: Path, files: list[str]) -> NDArray[np.float64]:
    """N x 3 x 4, left, top, right, bottom as fractions of each picture, from the cache: `FRAME`'s face, crop and picture.

    All three by Viola-Jones on originals (a row of NaN where it finds no face).
    """

    def make() -> dict[str, Tensor]:
        def work(i: int) -> NDArray[np.float64]:
            picture = decode.read_picture(folder / files[i])
            if min(picture.size) < CROPPED:
                return np.stack(FRAME)
            box = largest_face(viola_jones(threading.get_ident()), np.asarray(picture.convert("L")))
            left, top, width, height = box or (np.nan,) * 4
            return np.tile(np.array([left, top, left + width, top + height]) / (picture.size * 2), (3, 1))

        return {"boxes": torch.from_numpy(np.stack(decode.in_threads(work, len(files), "muct: find faces")))}

    key = {"files": decode.signature(folder, files), "frame": np.stack(FRAME).tolist(), "cropped": CROPPED}
    return artefacts.tensors("faces", 3, key, make)["boxes"].numpy()


def load(root: Path) -> align.Listed:
    table, folder = parse(root), decode.need(root, "muct", "jpg")
    boxes = face_boxes(folder, table.index.tolist())
    found = ~np.isnan(boxes[:, 0, 0])
    if not found.any():
        raise DataError(f"No face was found in any of the {len(table)} pictures of {folder}: unpack MUCT's archives there.")
    if not found.all():
        log.warning("MUCT: no face found in %d of %d pictures; they are left out.", (~found).sum(), len(table))
    return align.Listed(table[found], folder, table.index[found].tolist(), align.Framing(*boxes[found].transpose(1, 0, 2)))
