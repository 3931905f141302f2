"""What notebooks 07 to 09 measure: attribute networks, how easily their answers flip, and what else flips with them.

*Facial Attributes: Accuracy and Adversarial Robustness*. Networks, flips and answers are kept, so each is paid once.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import asdict
from functools import cache, partial
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from dftlib import attributes, experiments, flipping, perturbation, similarity, store
from dftlib.attributes import ConvNets, Network, Vgg16
from dftlib.classifiers import Pictures, TorchClassifier, batches, to_float
from dftlib.config import DataError, Profile, device_of, dtype_of, rng
from dftlib.datasets import FaceDataset, load_attributes
from dftlib.models import AttributeNet, Backbone
from dftlib.progress import tqdm

KINDS = ("euclidean", "softmax", "moon", "moon_balanced")
SEARCHES = {"line": "line-search", "iterative": "iterative"}
TAUS = (0.0, 0.9, 0.95, 0.99)  # thresholds on PASS; 0 stands for any picture whose class flipped
TAU = 0.95  # a flipped picture as similar as this is called adversarial (section 3)
COMPARED = 256  # test pictures on which the distortion by N is measured
TOGETHER = 8  # networks trained side by side on a processor, where more take longer; a GPU takes all


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


def groups(profile: Profile, kind: str = "euclidean") -> list[list[int]]:
    """The attributes whose separate networks are trained side by side; for MOON, which is one network, all."""
    if kind.startswith("moon"):
        return [list(range(len(names(profile))))]
    together = 1 if profile.attribute_network == "vgg16" else TOGETHER if device_of(profile).type == "cpu" else 10**6
    count = len(names(profile))
    return [part.tolist() for part in np.array_split(np.arange(count), -(-count // together))]


def _key(profile: Profile, kind: str) -> dict[str, Any]:
    kept = ("attribute_network", "attribute_epochs", "attribute_learning_rate", "attribute_batch", "n_train")
    return {"data": _signature(profile), "kind": kind, **{name: getattr(profile, name) for name in kept}}


def trained(profile: Profile, kind: str, group: tuple[int, ...]) -> dict[str, Tensor]:
    """What `attributes.train` returned for these attributes; for MOON, which is one network, `group` holds them all."""
    moon, loss = kind.startswith("moon"), loss_of(kind)
    split = {name: rows_of(profile, name) for name in ("train", "val")}
    # n x count x attributes: one network has all attributes, or each network has one
    y, val_y = (signs(profile, rows)[:, group].unsqueeze(1 if moon else 2) for rows in split.values())
    images, device = faces(profile).images, device_of(profile)

    def make() -> dict[str, Tensor]:
        torch.manual_seed(group[0])
        return attributes.train(
            _stack(profile, 1 if moon else len(group), _outputs(kind, group)),
            images[split["train"]], y, images[split["val"]], val_y, loss,
            profile.attribute_epochs, profile.attribute_learning_rate, profile.attribute_batch, profile.seeds[0], device,
            dtype_of(profile, device), attributes.balance(y[:, 0])[:, None] if kind == "moon_balanced" else None,
        )  # fmt: skip

    return store.tensors("attributes", {**_key(profile, kind), "group": group}, make, (attributes,))


def _outputs(kind: str, group: Sequence[int]) -> int:
    """Of one network: MOON has one an attribute, a softmax network two."""
    return len(group) if kind.startswith("moon") else 2 if kind == "softmax" else 1


def loss_of(kind: str) -> str:
    return "softmax" if kind == "softmax" else "euclidean"


@cache
def networks(profile: Profile, kind: str, snapshot: str = "converged") -> list[Network]:
    """The networks of a kind at a snapshot ('two_epochs' or 'converged'): one an attribute, or MOON alone; trained if need be."""
    found = []
    for group in tqdm(groups(profile, kind), desc=f"{kind} networks", unit="group", leave=False):
        parts = trained(profile, kind, tuple(group))
        stack = _stack(profile, 1, _outputs(kind, group))
        found += [attributes.network(stack, parts, snapshot, i) for i in range(parts["errors"].shape[1])]
    return [net.to(device_of(profile), memory_format=torch.channels_last) for net in found]  # type: ignore[call-overload]


@cache
def sample(profile: Profile) -> NDArray[np.int64]:
    """The training pictures whose attributes are flipped, the same for every network: `n_flip`, drawn at random."""
    rows = rows_of(profile, "train")
    return np.sort(rng(profile.seeds[0], "flip").permutation(rows)[: profile.n_flip])


@torch.inference_mode()
def scores(net: Network, images: Pictures) -> Tensor:
    """What a network gives pictures n x 3 x H x W: float32 n x outputs, on the CPU."""
    *_, bias = net.parameters()
    none = torch.zeros(0, len(bias))  # no picture gives no row
    return torch.cat([none, *(net(to_float(part, bias.device)).cpu() for part in batches(images))])


def answers(net: Network, images: Pictures, loss: str) -> Tensor:
    """What a network says to pictures n x 3 x H x W: bool n x attributes, on the CPU."""
    return attributes.present(scores(net, images), loss)


def of_attribute(profile: Profile, kind: str, i: int, snapshot: str = "converged") -> tuple[Network, int]:
    """The network that answers for attribute i, and which of its answers it is."""
    nets = networks(profile, kind, snapshot)
    return (nets[0], i) if kind.startswith("moon") else (nets[i], 0)


def _flips(profile: Profile, kind: str, snapshot: str, method: str, search: str, i: int) -> dict[str, Tensor]:
    images, loss = faces(profile).images[sample(profile)], loss_of(kind)
    net, output = of_attribute(profile, kind, i, snapshot)
    y = signs(profile, sample(profile))[:, i]
    found = flipping.flip(net, images, y, method, search, loss, output)
    was = answers(net, images, loss)[:, output]
    # Flips are counted anew, from the 8-bit pictures alone.
    flipped = answers(net, found.images, loss)[:, output] != was
    original, changed = (torch.as_tensor(part)[flipped].float() / 255 for part in (images, found.images))
    similar = torch.full((len(images),), torch.nan).masked_scatter(flipped, similarity.pass_score(original, changed))
    kept = {"right": was == (y > 0), "claimed": found.flipped, "flipped": flipped, "pass": similar, "size": found.size}
    if kind.startswith("moon") or (kind, method, search) == ("euclidean", "ffa", "line"):
        after = torch.cat([answers(other, found.images[flipped], loss) for other in networks(profile, kind)], 1)
        kept["others"] = torch.zeros(len(images), len(names(profile)), dtype=torch.bool)
        kept["others"][flipped] = after != _said(profile, kind)[flipped]
    return kept


@cache
def _said(profile: Profile, kind: str) -> Tensor:
    """The converged networks' answers to the pictures of `sample`."""
    images = faces(profile).images[sample(profile)]
    return torch.cat([answers(net, images, loss_of(kind)) for net in networks(profile, kind)], 1)


def flips(profile: Profile, kind: str, method: str, search: str, snapshot: str = "converged") -> dict[str, Tensor]:
    """Every attribute of every picture of `sample`, flipped where it can be; n x attributes each.

    right:   bool, the network was right before
    claimed: bool, the search reported a flip
    flipped: bool, the rounded picture, classified anew, has another class
    pass:    PASS of original and flipped picture (nan: not flipped)
    size:    see `flipping.Flips`
    others:  bool n x attributes x attributes, which other answers differ: MOON's own, or those of the converged networks
    """
    key = {**_key(profile, kind), "rows": sample(profile).tolist(), "attack": (kind, snapshot, method, search)}
    bar = tqdm(range(len(names(profile))), desc=f"{kind} {method} {search}", unit="attribute", leave=False)
    code = (attributes, flipping, similarity)
    parts = [
        store.tensors("flips", {**key, "i": i}, partial(_flips, profile, kind, snapshot, method, search, i), code) for i in bar
    ]
    return {name: torch.stack([part[name] for part in parts], 1) for name in parts[0]}


def adversarial(found: dict[str, Tensor], tau: float = TAU) -> Tensor:
    """Flipped, and as similar to the original as `tau`: bool n x attributes."""
    return found["flipped"] & (found["pass"] >= tau) if tau else found["flipped"]


def test_answers(profile: Profile, kind: str, snapshot: str) -> NDArray[np.bool_]:
    """Test pictures x attributes: what the networks of a kind say."""
    images = faces(profile).images[rows_of(profile, "test")]

    def make() -> dict[str, Tensor]:
        nets = tqdm(networks(profile, kind, snapshot), desc=f"{kind}: test pictures", unit="network", leave=False)
        return {"answers": torch.cat([answers(net, images, loss_of(kind)) for net in nets], 1)}

    key = {**_key(profile, kind), "snapshot": snapshot, "rows": rows_of(profile, "test").tolist()}
    return store.tensors("attribute_answers", key, make, (attributes,))["answers"].numpy()


class _Signs(nn.Module):
    """The score of a Euclidean network as two logits, of absent and present, whose larger is the class."""

    def forward(self, scores: Tensor) -> Tensor:
        return torch.cat([-scores, scores], 1)


def universal_rows(profile: Profile) -> dict[str, NDArray[np.int64]]:
    """The pictures that N is fitted to, chosen on and measured on."""
    most = {"train": profile.n_fit, "val": profile.n_val, "test": 0}
    drawn = {split: rng(profile.seeds[0], "universal", split).permutation(rows_of(profile, split)) for split in most}
    return {split: np.sort(rows[: most[split] or None]) for split, rows in drawn.items()}


def _universal(profile: Profile, i: int) -> dict[str, Tensor]:
    """One perturbation for all pictures, fitted to the converged separate network of attribute i, and FFA on its mistakes."""
    device, data, settings = device_of(profile), faces(profile), experiments.settings_of(profile)
    net = networks(profile, "euclidean")[i]
    model = TorchClassifier(AttributeNet(cast(Backbone, net), _Signs()), device, dtype_of(profile, device))
    rows = universal_rows(profile)
    images = {split: data.images[which] for split, which in rows.items()}
    y = {split: (signs(profile, which)[:, i] > 0).long() for split, which in rows.items()}
    found = perturbation.fit(model, images["train"], y["train"], images["val"], y["val"], settings, profile.seeds[0])
    before = {split: model.scores(part) for split, part in images.items()}
    tuned = {split: found.apply_uint8(images[split]) for split in ("val", "test")}
    mistakes = torch.from_numpy(images["test"])[before["test"].argmax(1) != y["test"]]
    flipped = flipping.flip(net, mistakes, torch.ones(len(mistakes)), "ffa", "iterative")
    some, changed = (part[:COMPARED].float() / 255 for part in (torch.from_numpy(images["test"]), tuned["test"]))
    return {
        "n": found.n,
        **{f"{split}_labels": labels for split, labels in y.items()},
        **{f"{split}_before": s[:, 1] for split, s in before.items()},
        **{f"{split}_after": model.scores(part)[:, 1] for split, part in tuned.items()},
        "ffa": answers(net, flipped.images, "euclidean")[:, 0] != answers(net, mistakes, "euclidean")[:, 0],
        "ffa_pass": similarity.pass_score(mistakes.float() / 255, flipped.images.float() / 255),
        "psnr": similarity.psnr(some, changed), "pass": similarity.pass_score(some, changed),
    }  # fmt: skip


def universal(profile: Profile, i: int) -> dict[str, Tensor]:
    """N for the separate network of attribute i, n, and what came of it, pictures in the order of `universal_rows`.

    {split}_before and {split}_after: the score of 'present', in [0, 1], without and with N; {split}_labels: 0 or 1; ffa and
    ffa_pass: for each mistake on test pictures, whether FFA sets it right, and PASS; psnr, pass: of N on some test pictures.
    """
    settings = asdict(experiments.settings_of(profile))
    key = {**_key(profile, "euclidean"), "i": i, "fit": settings, "n": [profile.n_fit, profile.n_val, profile.n_test]}
    code = (attributes, flipping, similarity, perturbation)
    return store.tensors("universal", key, partial(_universal, profile, i), code)
