"""Pictures per second of everything that goes through many pictures.

    python tests/benchmarks/throughput.py [--csv FILE]

DlibAge and NNET, a small attribute network for the flips, drawn faces of 64 x 64. Pictures are decoded from JPEG files as
large as CelebA's, written just before: from the system's memory, not from a cold disk.
"""

import math
import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from unittest import mock

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from timing import Measured, best, run
from torch import Tensor

from dftlib import seeds
from dftlib.classifiers.base import TorchClassifier
from dftlib.datasets import decode, synthetic
from dftlib.experiments.lab import settings_of
from dftlib.experiments.profile import dtype_of, load_profile
from dftlib.images import to_float
from dftlib.metrics.similarity import pass_score
from dftlib.models import attribute_networks, training
from dftlib.models.attribute_networks import ConvNets, Network
from dftlib.models.backbones import AttributeNet, nnet
from dftlib.models.dlib_files import DlibAge
from dftlib.perturbation import per_image
from dftlib.perturbation.gradient import fit
from dftlib.perturbation.perturbation import Perturbation

BATCH, STEPS = 250, 4  # of a fit
FACES, FLIPS = 1000, 256
HEAD_FACES, HEAD_EPOCHS = 250, 20
JPEG, QUALITY = (178, 218), 90  # width and height
REPEATS = 3


Labelled = tuple[NDArray[np.uint8], Tensor]  # pictures, and labels of -1 or +1


def flippable(train: Labelled, val: Labelled, epochs: int, device: torch.device) -> Network:
    """A small softmax network taught one attribute."""
    size = train[0].shape[2], train[0].shape[3]
    (images, y), (val_images, val_y) = train, val
    seeds.seed_all(0)
    found = attribute_networks.train(
        ConvNets(1, 2, size), images, y[:, None, None], val_images, val_y[:, None, None], "softmax", epochs, 1e-3, 64, 0, device
    )
    net = attribute_networks.network(ConvNets(1, 2, size), found, "converged", 0)
    return net.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]


def head(body: DlibAge, images: NDArray[np.uint8], labels: Tensor, device: torch.device, cached: bool) -> None:
    """NNET trained for `HEAD_EPOCHS`: on features computed once, or on the same computed anew in every epoch."""
    rounds, epochs = (1, HEAD_EPOCHS) if cached else (HEAD_EPOCHS, 1)
    for _ in range(rounds):
        x = training.features(body, images, device)
        training.train_nnet(x, labels, x[:1], labels[:1], epochs)


def written(folder: Path, images: NDArray[np.uint8]) -> list[str]:
    """The pictures as JPEG files in `folder`; their names."""
    names = [f"{i:06d}.jpg" for i in range(len(images))]
    for name, picture in zip(names, images, strict=True):
        Image.fromarray(picture.transpose(1, 2, 0)).resize(JPEG).save(folder / name, quality=QUALITY)
    return names


def measure(device: torch.device) -> list[Measured]:
    small = load_profile("small")
    dtype = dtype_of(small, device)
    faces = synthetic.load("studio", 64, seed=0)
    images, male = faces.images[:FACES], torch.from_numpy(faces.labels["Gender"].to_numpy().astype(np.int64))[:FACES]
    seeds.seed_all(0)
    body = DlibAge()
    model = TorchClassifier(AttributeNet(body, nnet(DlibAge.features)), device, dtype)
    settings = replace(settings_of(small), batch_size=BATCH, steps=0, epochs=1)
    found = Perturbation(0.1 * torch.randn(3, 64, 64))
    pair = to_float(images, device), to_float(found.apply_uint8(images), device)
    every = torch.from_numpy(faces.labels["Gender"].to_numpy().astype(np.float32)) * 2 - 1
    net = flippable((faces.images, every), (faces.images[:1], every[:1]), attribute_networks.EARLY, device)
    signs = male[:FLIPS] * 2 - 1

    with tempfile.TemporaryDirectory() as name, mock.patch.dict(os.environ, DFT_CACHE=str(Path(name) / "cache")):
        folder, cache = Path(name) / "faces", Path(name) / "cache"
        folder.mkdir()
        files = written(folder, images)

        def decoded(cold: bool) -> NDArray[np.uint8]:
            if cold and cache.exists():
                shutil.rmtree(cache)
            return np.array(decode.pictures("faces", folder, files, 64, (0, 0, 1, 1)))

        fitted = torch.arange(STEPS * BATCH) % FACES
        part = images[:HEAD_FACES], male[:HEAD_FACES]
        rows: dict[str, tuple[int, Callable[[], object]]] = {
            f"fit, {str(dtype).removeprefix('torch.')}": (
                STEPS * BATCH, lambda: fit(model, images[fitted], male[fitted], images[:1], male[:1], settings),
            ),
            "perturbation applied": (FACES, lambda: found.apply_uint8(images)),
            "PASS": (FACES, lambda: pass_score(*pair)),
            **{
                f"flips, {method.upper()}": (
                    FLIPS, partial(per_image.flip, net, images[:FLIPS], signs, method, "line", "softmax"),
                ) for method in per_image.METHODS
            },
            "head, features each epoch": (HEAD_EPOCHS * HEAD_FACES, lambda: head(body, *part, device, False)),
            "head, features cached": (HEAD_EPOCHS * HEAD_FACES, lambda: head(body, *part, device, True)),
            "decoded from JPEG, into the cache": (FACES, lambda: decoded(True)),
            "read from the cache": (FACES, lambda: decoded(False)),
        }  # fmt: skip
        took = best({name: work for name, (_, work) in rows.items()}, device, REPEATS)

    compared = {
        "head, features cached": "head, features each epoch",
        "read from the cache": "decoded from JPEG, into the cache",
    }
    measured = []
    for name, (count, _) in rows.items():
        of = compared.get(name, "")
        ratio = took[name] / took[of] if of else math.nan
        measured.append(Measured("throughput", name, count / took[name], "pictures/s", ratio, of))
    return measured


if __name__ == "__main__":
    run(measure, __doc__ or "")
