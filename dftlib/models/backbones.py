"""Backbones (pictures in, features out), the NNET head, and the two as one attribute network.

Every backbone takes float pictures n x 3 x H x W in [0, 1], RGB, and does its own normalisation inside, so that a
perturbation is always learned in the units of the picture.
"""

from typing import cast

import torch
from torch import Tensor, nn

from dftlib.errors import DataError
from dftlib.models.base import Backbone
from dftlib.models.dlib_face import DlibFace
from dftlib.models.dlib_files import DlibAge
from dftlib.models.vggface import VGGFace


class ConvNet(Backbone):
    """A small network to train from scratch: four convolutions with batch normalisation, halving the picture three times."""

    features = 128

    def __init__(self, size: int = 64) -> None:
        super().__init__()
        self.size = size
        self.register_buffer("mean", torch.full((1, 3, 1, 1), 0.5))
        layers: list[nn.Module] = []
        for inputs, outputs, stride in ((3, 32, 2), (32, 64, 2), (64, 128, 2), (128, 128, 1)):
            layers += [nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]
        self.net = nn.Sequential(*layers)

    def forward(self, images: Tensor) -> Tensor:
        return self.maps(images).mean((2, 3))

    def maps(self, images: Tensor) -> Tensor:
        """The features where they lie: n x 128 x size/8 x size/8."""
        return cast(Tensor, self.net(((images - self.mean) * 4).to(next(self.net.parameters()).dtype)))


KINDS: dict[str, type[Backbone]] = {"dlib_age": DlibAge, "dlib_face": DlibFace, "vggface": VGGFace, "convnet": ConvNet}


def kind(name: str) -> type[Backbone]:
    """The class of a profile's backbone, which says how faces are cut for it; `DataError` for an unknown name."""
    if name not in KINDS:
        raise DataError(f"There is no backbone '{name}': choose one of {', '.join(KINDS)}.")
    return KINDS[name]


def backbone(name: str, size: int, weights: str = "") -> Backbone:
    """The backbone of a profile; `DataError` for an unknown name or a picture size that it can't take."""
    needed = {"dlib_age": (), "convnet": (size,)}.get(name, (weights,))
    made = kind(name)(*needed)
    if made.size != size:
        raise DataError(f"The backbone '{name}' takes pictures of {made.size} pixels, not {size}: set 'size' to {made.size}.")
    return made


def nnet(features: int, classes: int = 2) -> nn.Sequential:
    """NNET: two fully connected layers of 512 and an output layer (paper, Implementation Details): n x features -> logits."""
    return nn.Sequential(nn.Linear(features, 512), nn.ReLU(), nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, classes))


class AttributeNet(nn.Module):
    """Backbone and head as one network: n x 3 x H x W in [0, 1] -> float32 logits n x classes.

    The body may be cast to bfloat16: each backbone casts its input to its weights' type only after normalising it.
    """

    def __init__(self, body: Backbone, head: nn.Module) -> None:
        super().__init__()
        self.body, self.head = body, head

    def forward(self, images: Tensor) -> Tensor:
        return cast(Tensor, self.head(self.body(images).float()))
