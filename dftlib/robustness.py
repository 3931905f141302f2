"""What notebooks 07 to 09 measure: attribute networks, how easily their answers flip, and what else flips with them.

*Facial Attributes: Accuracy and Adversarial Robustness*. Networks, flips and answers are kept, so each is paid once.
"""

import hashlib
from functools import cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm.auto import tqdm

from dftlib import attributes, store
from dftlib.attributes import ConvNets, Network, Vgg16
from dftlib.config import DataError, Profile, device_of, dtype_of, rng
from dftlib.datasets import FaceDataset, load_attributes

KINDS = ("euclidean", "softmax", "moon", "moon_balanced")
TOGETHER = 8  # networks trained side by side on a processor: more fall out of its cache; a GPU takes all


@cache
def faces(profile: Profile) -> FaceDataset:
    return load_attributes(profile.attribute_data, profile.data_root, profile.attribute_shape)


def names(profile: Profile) -> list[str]:
    return [str(name) for name in faces(profile).labels.columns]


@cache
def rows_of(profile: Profile, split: str) -> NDArray[np.int64]:
    """Rows of a split, at most as many as the profile says (n_train, n_test; validation pictures all), in order."""
    rows = np.flatnonzero(faces(profile).split == split)
    most = {"train": profile.n_train, "val": 0, "test": profile.n_test}[split]
    return np.sort(rng(0, "attributes", split).permutation(rows)[:most]) if 0 < most < len(rows) else rows


def signs(profile: Profile, rows: NDArray[np.int64]) -> Tensor:
    """Labels n x attributes, -1 or +1."""
    return torch.from_numpy(faces(profile).labels.to_numpy()[rows].astype(np.float32)) * 2 - 1


@cache
def _signature(profile: Profile) -> str:
    data = faces(profile)
    hasher = hashlib.sha256(np.ascontiguousarray(data.images).data)
    hasher.update(data.labels.to_csv().encode() + "".join(data.split).encode())
    return hasher.hexdigest()


def _stack(profile: Profile, count: int, outputs: int) -> ConvNets | Vgg16:
    """Untrained networks; VGG-16 stands alone, as 40 of them would fill any memory."""
    if profile.attribute_network == "convnets":
        return ConvNets(count, outputs, profile.attribute_shape)
    if profile.attribute_network == "vgg16":
        return Vgg16(outputs)
    raise DataError(f"There is no attribute_network '{profile.attribute_network}': choose convnets or vgg16.")


def groups(profile: Profile) -> list[list[int]]:
    """The attributes whose separate networks are trained side by side."""
    together = 1 if profile.attribute_network == "vgg16" else TOGETHER if device_of(profile).type == "cpu" else 10**6
    count = len(names(profile))
    return [part.tolist() for part in np.array_split(np.arange(count), -(-count // together))]


def _key(profile: Profile, kind: str) -> dict[str, Any]:
    kept = ("attribute_network", "attribute_epochs", "attribute_learning_rate", "attribute_batch", "n_train")
    return {"data": _signature(profile), "kind": kind, **{name: getattr(profile, name) for name in kept}}


def trained(profile: Profile, kind: str, group: tuple[int, ...]) -> dict[str, Tensor]:
    """What `attributes.train` returned for these attributes; for MOON, which is one network, `group` holds them all."""
    moon, loss = kind.startswith("moon"), loss_of(kind)
    outputs = len(group) if moon else attributes.LOSSES.index(loss) + 1
    split = {name: rows_of(profile, name) for name in ("train", "val")}
    # n x count x attributes: one network has all attributes, or each network has one
    y, val_y = (signs(profile, rows)[:, group].unsqueeze(1 if moon else 2) for rows in split.values())
    images, device = faces(profile).images, device_of(profile)

    def make() -> dict[str, Tensor]:
        torch.manual_seed(group[0])
        return attributes.train(
            _stack(profile, 1 if moon else len(group), outputs), images[split["train"]], y, images[split["val"]], val_y, loss,
            profile.attribute_epochs, profile.attribute_learning_rate, profile.attribute_batch, profile.seeds[0], device,
            dtype_of(profile, device), attributes.balance(y[:, 0])[:, None] if kind == "moon_balanced" else None,
        )  # fmt: skip

    return store.tensors("attributes", {**_key(profile, kind), "group": group}, make, (attributes,))


def loss_of(kind: str) -> str:
    return "softmax" if kind == "softmax" else "euclidean"


def networks(profile: Profile, kind: str, snapshot: str = "converged") -> list[Network]:
    """The networks of a kind at a snapshot ('two_epochs' or 'converged'): one an attribute, or MOON alone; trained if need be."""
    every = [list(range(len(names(profile))))] if kind.startswith("moon") else groups(profile)
    found = []
    for group in tqdm(every, desc=f"{kind} networks", unit="group", disable=None, leave=False):
        parts = trained(profile, kind, tuple(group))
        outputs = len(group) if kind.startswith("moon") else attributes.LOSSES.index(loss_of(kind)) + 1
        count = 1 if kind.startswith("moon") else len(group)
        found += [attributes.network(_stack(profile, 1, outputs), parts, snapshot, i) for i in range(count)]
    return [net.to(device_of(profile), memory_format=torch.channels_last) for net in found]  # type: ignore[call-overload]
