"""`FaceDataset`: the images, labels, people and splits of one data set; `Split`: one part of it with one label."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from torch import Tensor

from dftlib.images import Pictures

# The seven attributes of the kit, in the papers' words.
ATTRIBUTES = ("Gender", "Smiling", "Bushy Eyebrows", "Pale Skin", "Attractive", "Wearing Lipstick", "Eyeglasses")
SPLITS = ("train", "val", "test")
DRAWN = ("studio", "press", "webcam")  # data sets that `datasets.synthetic` draws


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


class Split:
    """Labelled images of one part of a data set: those that a perturbation is fitted to, chosen on, or measured on.

    source:   images N x C x H x W, uint8 or float in [0, 1]
    labels:   n class indices
    subjects: n strings, the person on each image; by default another on each
    rows:     which n of the N images; by default all
    """

    def __init__(
        self, source: Pictures, labels: Tensor, subjects: NDArray[np.str_] | None = None, rows: NDArray[np.int64] | None = None
    ) -> None:
        self.source, self.labels = source, labels
        self.subjects = np.arange(len(labels)).astype(str) if subjects is None else subjects
        self.rows = np.arange(len(labels)) if rows is None else rows
        self._all = rows is None

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def images(self) -> Pictures:
        """n x C x H x W, read anew each time."""
        return self.source if self._all else self.source[self.rows]

    def labelled(self, labels: Tensor) -> "Split":
        """The same images with other labels."""
        return Split(self.source, labels, self.subjects, None if self._all else self.rows)
