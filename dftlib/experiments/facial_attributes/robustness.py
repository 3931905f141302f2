"""What notebooks 07 to 09 measure: attribute networks, how easily their predictions flip, and what else flips with them.

*Facial Attributes: Accuracy and Adversarial Robustness*. Networks, flips and predictions are kept, so each is paid once.
"""

from collections.abc import Sequence
from functools import cached_property, partial
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from dftlib import artefacts, seeds
from dftlib.classifiers.base import TorchClassifier
from dftlib.datasets import load_attributes
from dftlib.datasets.base import FaceDataset, Split
from dftlib.errors import DataError
from dftlib.experiments.lab import Rows, kept, settings_of, signature, some
from dftlib.experiments.profile import Profile, device_of, dtype_of
from dftlib.images import Pictures, batches, to_float
from dftlib.metrics import similarity
from dftlib.models import attribute_networks
from dftlib.models.attribute_networks import ConvNets, Network, Vgg16
from dftlib.models.backbones import AttributeNet
from dftlib.models.base import Backbone
from dftlib.perturbation import gradient, per_image
from dftlib.progress import tqdm

TAU = 0.95  # a flipped image whose PASS is as high as this is called adversarial (section 3)
COMPARED = 256  # test images on which the distortion by N is measured
TOGETHER = 8  # networks trained side by side on a processor, where more take longer; a GPU takes all


def loss_of(kind: str) -> str:
    return "softmax" if kind == "softmax" else "euclidean"


@torch.inference_mode()
@attribute_networks.exactly()
def scores(net: Network, images: Pictures) -> Tensor:
    """What a network gives images n x 3 x H x W: float32 n x outputs, on the CPU."""
    *_, bias = net.parameters()
    none = torch.zeros(0, len(bias))  # no image gives no row
    return torch.cat([none, *(net(to_float(part, bias.device)).cpu() for part in batches(images, bias.device))])


def predictions(net: Network, images: Pictures, loss: str) -> Tensor:
    """What a network says to images n x 3 x H x W: bool n x attributes, on the CPU."""
    return attribute_networks.present(scores(net, images), loss)


def adversarial(found: dict[str, Tensor], tau: float = TAU) -> Tensor:
    """Flipped, and as similar to the original as `tau`: bool n x attributes."""
    return found["flipped"] & (found["pass"] >= tau) if tau else found["flipped"]


class _Signs(nn.Module):
    """The score of a Euclidean network as two logits, of absent and present, whose larger is the class."""

    def forward(self, scores: Tensor) -> Tensor:
        return torch.cat([-scores, scores], 1)


class AttributeLab:
    """A profile's faces with all their attributes, the networks for these, and their flips; made when they are asked for.

    `kind` is 'euclidean' or 'softmax', one network an attribute, or 'moon' or 'moon_balanced', one for all; `snapshot` is
    'two_epochs' or 'converged'.
    """

    def __init__(self, profile: Profile) -> None:
        self.profile, self.device = profile, device_of(profile)
        self.dtype = dtype_of(profile, self.device)
        self.memory: dict[Any, Any] = {}

    @cached_property
    def faces(self) -> FaceDataset:
        return load_attributes(self.profile.attribute_data, self.profile.data_root, self.profile.attribute_shape)

    @cached_property
    def names(self) -> list[str]:
        """Of the attributes."""
        return [str(name) for name in self.faces.labels.columns]

    @kept
    def rows(self, part: str) -> Rows:
        """Rows of 'train', 'val' or 'test', at most as many as the profile says (n_train, n_test; 'val' all), in order."""
        most = {"train": self.profile.n_train, "val": 0, "test": self.profile.n_test}[part]
        return some(np.flatnonzero(self.faces.split == part), most, seeds.rng(0, "attributes", part))

    @cached_property
    def sample(self) -> Rows:
        """The training images whose attributes are flipped, the same for every network: `n_flip`, drawn at random."""
        return some(self.rows("train"), self.profile.n_flip, seeds.rng(self.profile.seeds[0], "flip"))

    def signs(self, rows: Rows) -> Tensor:
        """Labels n x attributes, -1 or +1."""
        return torch.from_numpy(self.faces.labels.to_numpy()[rows].astype(np.float32)) * 2 - 1

    def splits(self, i: int) -> list[Split]:
        """The images that N is fitted to, chosen on and measured on, labelled by attribute i: 0 or 1."""
        most = {"train": self.profile.n_fit, "val": self.profile.n_val, "test": 0}
        drawn = [some(self.rows(part), n, seeds.rng(self.profile.seeds[0], "universal", part)) for part, n in most.items()]
        images, people = self.faces.images, self.faces.subjects
        return [Split(images, (self.signs(rows)[:, i] > 0).long(), people[rows], rows) for rows in drawn]

    @cached_property
    def signature(self) -> str:
        return signature(self.faces)

    def groups(self, kind: str = "euclidean") -> list[list[int]]:
        """The attributes whose separate networks are trained side by side; for MOON, which is one network, all."""
        count = len(self.names)
        if kind.startswith("moon"):
            return [list(range(count))]
        # VGG-16 stands alone, as 40 of them would fill any memory.
        together = 1 if self.profile.attribute_network == "vgg16" else TOGETHER if self.device.type == "cpu" else count
        return [part.tolist() for part in np.array_split(np.arange(count), -(-count // together))]

    def training_key(self, kind: str) -> dict[str, Any]:
        """What decides the networks of a kind, JSON-able."""
        used = ("shape", "network", "epochs", "learning_rate", "batch")
        numbers = {name: getattr(self.profile, f"attribute_{name}") for name in used} | {"n_train": self.profile.n_train}
        known = {"kind": kind, "groups": self.groups(kind), "seed": self.profile.seeds[0], "dtype": str(self.dtype)}
        return {"data": self.signature, **known, "profile": numbers, "module": attribute_networks.key()}

    def stack(self, count: int, outputs: int) -> ConvNets | Vgg16:
        """Untrained networks."""
        if self.profile.attribute_network == "convnets":
            return ConvNets(count, outputs, self.profile.attribute_shape)
        if self.profile.attribute_network == "vgg16":
            return Vgg16(outputs)
        raise DataError(f"There is no attribute_network '{self.profile.attribute_network}': choose convnets or vgg16.")

    @staticmethod
    def _outputs(kind: str, group: Sequence[int]) -> int:
        """Of one network: MOON has one an attribute, a softmax network two."""
        return len(group) if kind.startswith("moon") else 2 if kind == "softmax" else 1

    def trained(self, kind: str, group: Sequence[int]) -> dict[str, Tensor]:
        """What `attribute_networks.train` returned for these attributes, which are one of `groups`."""
        p, moon, images = self.profile, kind.startswith("moon"), self.faces.images
        train, val = self.rows("train"), self.rows("val")
        # n x count x attributes: one network has all attributes, or each network has one
        y, val_y = (self.signs(rows)[:, group].unsqueeze(1 if moon else 2) for rows in (train, val))

        def make() -> dict[str, Tensor]:
            torch.manual_seed(group[0])
            return attribute_networks.train(
                self.stack(1 if moon else len(group), self._outputs(kind, group)),
                images[train], y, images[val], val_y, loss_of(kind),
                p.attribute_epochs, p.attribute_learning_rate, p.attribute_batch, p.seeds[0], self.device, self.dtype,
                attribute_networks.balance(y[:, 0])[:, None] if kind == "moon_balanced" else None,
            )  # fmt: skip

        return artefacts.tensors("attribute_networks", 1, {"training": self.training_key(kind), "group": group}, make)

    @kept
    def networks(self, kind: str, snapshot: str = "converged") -> list[Network]:
        """The networks of a kind at a snapshot: one an attribute, or MOON alone; trained if need be."""
        found = []
        for group in tqdm(self.groups(kind), desc=f"{kind} networks", unit="group", leave=False):
            parts, stack = self.trained(kind, group), self.stack(1, self._outputs(kind, group))
            found += [attribute_networks.network(stack, parts, snapshot, i) for i in range(parts["errors"].shape[1])]
        return [net.to(self.device, memory_format=torch.channels_last) for net in found]  # type: ignore[call-overload]

    def network(self, kind: str, i: int, snapshot: str = "converged") -> tuple[Network, int]:
        """The network that answers for attribute i, and which of its answers it is."""
        nets = self.networks(kind, snapshot)
        return (nets[0], i) if kind.startswith("moon") else (nets[i], 0)

    def predicted(self, kind: str, images: Pictures, snapshot: str = "converged") -> Tensor:
        """What the networks of a kind say to images: bool n x attributes, on the CPU."""
        nets = tqdm(self.networks(kind, snapshot), desc=f"{kind} predictions", unit="network", leave=False)
        return torch.cat([predictions(net, images, loss_of(kind)) for net in nets], 1)

    def test_predictions(self, kind: str, snapshot: str) -> NDArray[np.bool_]:
        """What the networks of a kind say to the test images: n x attributes."""

        def make() -> dict[str, Tensor]:
            return {"present": self.predicted(kind, self.faces.images[self.rows("test")], snapshot)}

        key = {"training": self.training_key(kind), "snapshot": snapshot, "n_test": self.profile.n_test}
        return artefacts.tensors("attribute_predictions", 2, key, make)["present"].numpy()

    @kept
    def _before(self, kind: str) -> Tensor:
        return self.predicted(kind, self.faces.images[self.sample])

    def flips(self, kind: str, method: str, search: str, snapshot: str = "converged") -> dict[str, Tensor]:
        """Every attribute of every image of `sample`, flipped where it can be; n x attributes each.

        right:   bool, the network was right before
        claimed: bool, the search reported a flip
        flipped: bool, the rounded image, classified anew, has another class
        pass:    PASS of original and flipped image (nan: not flipped)
        size:    see `per_image.Flips`
        others:  bool n x attributes x attributes, which other predictions differ: MOON's own, or the converged networks'
        """
        key = {"training": self.training_key(kind), "n_flip": self.profile.n_flip, "attack": (snapshot, method, search)}
        key |= {"flip": per_image.key(), "pass": similarity.key()}
        bar = tqdm(range(len(self.names)), desc=f"{kind} {method} {search}", unit="attribute", leave=False)
        make = partial(self._flips, kind, method, search, snapshot)
        parts = [artefacts.tensors("flips", 2, {**key, "i": i}, partial(make, i)) for i in bar]
        return {name: torch.stack([part[name] for part in parts], 1) for name in parts[0]}

    def _flips(self, kind: str, method: str, search: str, snapshot: str, i: int) -> dict[str, Tensor]:
        images, loss = torch.from_numpy(self.faces.images[self.sample]), loss_of(kind)
        (net, output), y = self.network(kind, i, snapshot), self.signs(self.sample)[:, i]
        before = predictions(net, images, loss)[:, output]
        found = per_image.flip(net, images, y, method, search, loss, output)
        # Flips are counted anew, from the 8-bit images alone.
        flipped = predictions(net, found.images, loss)[:, output] != before
        scored = self._pass(images[flipped], found.images[flipped])
        similar = torch.full((len(images),), torch.nan).masked_scatter(flipped, scored)
        result = {"right": before == (y > 0), "claimed": found.flipped, "flipped": flipped, "pass": similar, "size": found.size}
        if kind.startswith("moon") or (kind, method, search) == ("euclidean", "ffa", "line"):
            result["others"] = torch.zeros(len(images), len(self.names), dtype=torch.bool)
            result["others"][flipped] = self.predicted(kind, found.images[flipped]) != self._before(kind)[flipped]
        return result

    def _pass(self, images: Tensor, changed: Tensor) -> Tensor:
        """PASS of uint8 images, computed on the device and returned on the CPU."""
        return similarity.pass_score(images.to(self.device), changed.to(self.device)).cpu()

    def universal(self, i: int) -> dict[str, Tensor]:
        """N for the separate network of attribute i, n, and what came of it, images in the order of `splits`.

        {part}_before and {part}_after: the score of 'present', in [0, 1], without and with N (train_after isn't there); ffa
        and ffa_pass: for each mistake on test images, whether FFA sets it right, and PASS; psnr, pass: of N on some test images.
        """
        p = self.profile
        key = {"training": self.training_key("euclidean"), "i": i, "n": (p.n_fit, p.n_val, p.n_test), "compared": COMPARED}
        key |= {"fit": gradient.key(settings_of(p)), "flip": per_image.key(), "pass": similarity.key()}
        return artefacts.tensors("universal", 2, key, partial(self._universal, i))

    def _universal(self, i: int) -> dict[str, Tensor]:
        """One perturbation for all images, fitted to the converged separate network of attribute i, and FFA on its mistakes."""
        net, (fit, val, test) = self.networks("euclidean")[i], self.splits(i)
        model = TorchClassifier(AttributeNet(cast(Backbone, net), _Signs()), self.device, self.dtype, in_place=True)
        settings = settings_of(self.profile)
        found = gradient.fit(model, fit.images, fit.labels, val.images, val.labels, settings, self.profile.seeds[0])
        parts = {"train": fit.images, "val": val.images, "test": test.images}
        before = {part: model.scores(images) for part, images in parts.items()}
        tuned = {part: found.apply_uint8(parts[part], self.device).cpu() for part in ("val", "test")}
        images = torch.from_numpy(parts["test"])
        mistakes = images[before["test"].argmax(1) != test.labels]
        flipped = per_image.flip(net, mistakes, torch.ones(len(mistakes)), "ffa", "iterative").images
        few, changed = images[:COMPARED], tuned["test"][:COMPARED]
        return {
            "n": found.n,
            **{f"{part}_before": s[:, 1] for part, s in before.items()},
            **{f"{part}_after": model.scores(tuned[part])[:, 1] for part in tuned},
            "ffa": predictions(net, flipped, "euclidean")[:, 0] != predictions(net, mistakes, "euclidean")[:, 0],
            "ffa_pass": self._pass(mistakes, flipped),
            "psnr": similarity.psnr(few / 255, changed / 255), "pass": self._pass(few, changed),
        }  # fmt: skip
