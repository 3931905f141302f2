"""`FaceDataset`: the images, labels, people and splits of one data set; `Split`: one part of it with one label."""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from dftlib.errors import DataError
from dftlib.images import Pictures

# The seven attributes of the kit, in the papers' words.
ATTRIBUTES = ("Gender", "Smiling", "Bushy Eyebrows", "Pale Skin", "Attractive", "Wearing Lipstick", "Eyeglasses")
SPLITS = ("train", "val", "test")
DRAWN = ("studio", "press", "webcam")  # data sets that `datasets.synthetic` draws

Labels = Tensor | NDArray[np.integer[Any] | np.bool_]
Subjects = NDArray[np.str_] | Sequence[str] | pd.Series


@dataclass(frozen=True)
class Faces:
    """Pictures uint8 N x 3 x H x W, and where the middles of their eyes are: N x 2 x 2, left and right, x and y as fractions.

    detected: in which of the N pictures dlib's detector found the face; the others' is where faces of that set usually are
    recut:    `recut(rows, way, down=, scale=)` cuts these rows out of the originals in another way: 'chip', 'crop', 'none' or
              'whole' (the picture, squeezed); a chip moved `down` by this share of its width and `scale` times as wide
    """

    images: NDArray[np.uint8]
    eyes: NDArray[np.floating[Any]]
    detected: NDArray[np.bool_]
    recut: Callable[..., "Faces"] | None = None


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


def class_indices(labels: Labels) -> Tensor:
    """Labels n or n x 1, of any integer type or bool, as n of int64.

    Raises `DataError` for others, and below 0: there -1 may be a class, as in -1 and +1, or one that isn't known.
    """
    given = labels if isinstance(labels, Tensor) else np.asarray(labels)
    if not isinstance(given, Tensor) and given.dtype.kind in "iub":
        given = torch.from_numpy(given.astype(np.int64))
    if not isinstance(given, Tensor) or given.is_floating_point() or given.is_complex():
        raise DataError(
            f"Labels must be whole numbers, 0 for the classifier's first class, not {given.dtype}: "
            "give np.unique(labels, return_inverse=True)[1] where its classes are in the order of that."
        )
    if given.ndim != 1 and (given.ndim != 2 or given.shape[1] != 1):
        raise DataError(f"Labels must be n class indices, not {tuple(given.shape)}: of one-hot rows give labels.argmax(1).")
    given = given.reshape(-1).long()
    if len(given) and int(given.min()) < 0:
        raise DataError(
            f"A label is {int(given.min())}: leave out images whose class isn't known and count classes from 0, "
            "which makes (labels + 1) // 2 of -1 and +1."
        )
    return given


def require_known(labels: Tensor, classes: int) -> None:
    """Raises `DataError` where a label is none of the classifier's `classes`."""
    if len(labels) and (last := int(labels.max())) >= classes:
        raise DataError(
            f"A label is {last}, but the classifier has {classes} classes, counted from 0: "
            "give labels - 1 where yours count from 1, else leave those images out."
        )


def warn_of_absent(labels: Tensor, val_labels: Tensor) -> None:
    """Warns where validation lacks a class of the fitting images: nobody would see what N does to it."""
    if absent := sorted(set(labels.tolist()) - set(val_labels.tolist())):
        which = ", ".join(map(str, absent))
        warnings.warn(f"No validation image is of class {which}, so N may harm it unseen: add some.", stacklevel=3)


class Split:
    """Labelled images of one part of a data set: those that a perturbation is fitted to, chosen on, or measured on.

    source:   images N x C x H x W, uint8 or float in [0, 1]
    labels:   n class indices, as `class_indices` takes them
    subjects: n strings (an array, a list or a column), the person on each image; by default another on each
    rows:     which n of the N images; by default all

    Raises `DataError` where the subjects aren't as many as the labels.
    """

    def __init__(
        self, source: Pictures, labels: Labels, subjects: Subjects | None = None, rows: NDArray[np.int64] | None = None
    ) -> None:
        self.source, self.labels = source, class_indices(labels)
        self.subjects = np.arange(len(labels)).astype(str) if subjects is None else np.asarray(subjects)
        if self.subjects.shape != (len(labels),):
            raise DataError(f"Subjects {self.subjects.shape} and {len(labels)} labels: give the person on each labelled image.")
        self.rows = np.arange(len(labels)) if rows is None else rows
        self._all = rows is None

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def images(self) -> Pictures:
        """n x C x H x W, read anew each time."""
        return self.source if self._all else self.source[self.rows]

    def labelled(self, labels: Labels) -> "Split":
        """The same images with other labels."""
        return Split(self.source, labels, self.subjects, None if self._all else self.rows)
