"""`FaceDataset`: decoded pictures, labels, people and splits of one data set."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

# The seven attributes of the kit, in the papers' words.
ATTRIBUTES = ("Gender", "Smiling", "Bushy Eyebrows", "Pale Skin", "Attractive", "Wearing Lipstick", "Eyeglasses")
SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class Faces:
    """Pictures uint8 N x 3 x H x W, and where the middles of their eyes are: N x 2 x 2, left and right, x and y as fractions.

    `detected`: in which of the N pictures dlib's detector found the face; the others' is where faces of that set usually are.
    """

    images: NDArray[np.uint8]
    eyes: NDArray[np.floating[Any]]
    detected: NDArray[np.bool_]


@dataclass(frozen=True)
class FaceDataset:
    """One data set, decoded.

    images:   uint8, N x 3 x H x W, RGB, 0 to 255 (may be memory-mapped and read-only)
    labels:   N rows; one int8 column an attribute, 1 present (Gender: 1 male), 0 absent, -1 not known
    subjects: N strings, one person each
    split:    N of 'train', 'val', 'test'
    files:    N names, for messages and for figures
    faces:    where the eyes are; None where nobody looked
    """

    name: str
    images: NDArray[np.uint8]
    labels: pd.DataFrame
    subjects: NDArray[np.str_]
    split: NDArray[np.str_]
    files: NDArray[np.str_]
    faces: Faces | None = None

    def __len__(self) -> int:
        return len(self.images)
