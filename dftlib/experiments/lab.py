"""`Lab`: a profile's data sets, classifiers and perturbations, and the cells of the tables measured with them.

Classifiers, perturbations and scores are kept in the cache, so a cell is paid once.
"""

import hashlib
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from dataclasses import fields, replace
from functools import wraps
from pathlib import Path
from typing import Any, TypeVar, cast

import numpy as np
import pandas as pd
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor, nn

from dftlib import artefacts, paths, seeds
from dftlib.classifiers.base import TorchClassifier
from dftlib.datasets import load_dataset, require_two_classes
from dftlib.datasets.base import SPLITS, FaceDataset, Split
from dftlib.experiments.outcome import ON_N, REMEDIES, Cell, Outcome, beside_simple, origin, remedies_on_answers, row_of
from dftlib.experiments.profile import Profile, device_of, dtype_of
from dftlib.images import Pictures, batches, to_float
from dftlib.metrics import classification, similarity
from dftlib.metrics.classification import Bools
from dftlib.metrics.comparison import compare
from dftlib.models import backbones, training
from dftlib.models.base import Backbone
from dftlib.perturbation import baselines, gradient
from dftlib.perturbation.gradient import Settings
from dftlib.perturbation.perturbation import Perturbation, from_cache, into_cache
from dftlib.progress import tqdm

Rows = NDArray[np.int64]
Method = TypeVar("Method", bound=Callable[..., Any])

# Stands beside Gender in Tables 2 and 5, though not in the paper: it is labelled in all three sets too, and tells hardly anything
# that people would rather keep to themselves.
BESIDE_GENDER = "Eyeglasses"
ROLES = ("LFW", "CelebA", "MUCT")  # the paper's data sets, in the order of Profile.datasets
SCRATCH: dict[str, Any] = {"backbone": "convnet", "head_epochs": 10, "head_learning_rate": 0.001}  # 0.005, of NNET, is unsteady
GAINS = (0.25, 0.5, 0.75, 1.0)  # of the difference of the mean images
TRIED = 500  # fitting images on which the gain is chosen


def published() -> pd.DataFrame:
    """The paper's accuracies, percent: table, experiment, attribute, data, model_trained_on, before, after."""
    return pd.read_csv(paths.published("data_fine_tuning_accuracy"))


def settings_of(profile: Profile) -> Settings:
    return Settings(**{f.name: getattr(profile, f.name) for f in fields(Settings)})


def some(rows: Rows, most: int, generator: np.random.Generator) -> Rows:
    """At most so many of the rows, drawn at random, in order; all where `most` is 0."""
    return np.sort(generator.permutation(rows)[:most]) if 0 < most < len(rows) else rows


def content(images: Pictures) -> str:
    """A digest of images."""
    return hashlib.sha256(np.ascontiguousarray(images).data).hexdigest()


def signature(data: FaceDataset) -> str:
    """A digest of a data set: images, labels and splits."""
    said = content(data.images) + data.labels.to_csv() + "".join(data.split)
    return hashlib.sha256(said.encode()).hexdigest()


def kept(method: Method) -> Method:
    """A method whose results the object keeps, by its arguments."""

    @wraps(method)
    def found(self: Any, /, *arguments: Any, **named: Any) -> Any:
        known = (method.__name__, *arguments, *named.items())
        if known not in self.memory:
            self.memory[known] = method(self, *arguments, **named)
        return self.memory[known]

    return cast(Method, found)


def under(model: TorchClassifier, found: Perturbation, images: Pictures) -> Tensor:
    """Scores n x 2 of perturbed images, a batch at a time."""
    return torch.cat([model.scores(found.apply(batch, model.device)) for batch in batches(images, model.device)])


def best_gain(difference: Tensor, scores: Callable[[Perturbation], Tensor], labels: NDArray[np.int64]) -> Perturbation:
    """Of a difference of mean images that share of `GAINS` whose scores n x classes are right most often, the first of equals."""
    tried = [Perturbation(gain * difference, "clip") for gain in GAINS]
    return max(tried, key=lambda n: classification.accuracy(scores(n), labels))


class Lab:
    """What a profile describes, made when it is asked for: data sets, features, classifiers, perturbations, outcomes."""

    def __init__(self, profile: Profile) -> None:
        self.profile, self.device = profile, device_of(profile)
        self.dtype = dtype_of(profile, self.device)
        self.memory: dict[Any, Any] = {}

    @kept
    def other(self, /, **changes: Any) -> "Lab":
        """The lab of the same profile but for these fields."""
        return Lab(replace(self.profile, **changes))

    def cells(self, *tables: int) -> list[Cell]:
        """The paper's cells of these tables on the profile's data sets, and `BESIDE_GENDER` wherever it has Gender.

        All with the first protocol and seed; Gender, or all if the profile says so (`every_seed`), also with every other seed,
        and Gender with every other protocol and the first seed.
        """
        protocols, every = self.profile.protocols, self.profile.seeds
        paper = published().replace(dict(zip(ROLES, self.profile.datasets, strict=True)))
        rows = pd.concat([paper, paper.query("attribute == 'Gender'").assign(attribute=BESIDE_GENDER)])
        found = []
        for row in rows.query("table in @tables").sort_values("table", kind="stable").to_dict("records"):
            gender = row["attribute"] == "Gender"
            runs = [(protocols[0], seed) for seed in (every if gender or self.profile.every_seed else every[:1])]
            for run in runs + [(protocol, every[0]) for protocol in protocols[1:] if gender]:
                found.append(Cell(row["table"], row["attribute"], row["data"], row["model_trained_on"], *run))
        return found

    def main(self, *tables: int) -> list[Cell]:
        """The cells of these tables with the first protocol and seed."""
        first = (self.profile.protocols[0], self.profile.seeds[0])
        return [cell for cell in self.cells(*tables) if (cell.protocol, cell.seed) == first]

    @kept
    def faces(self, name: str, protocol: str = "") -> FaceDataset:
        """A data set of the profile, split by this protocol or the first."""
        p = self.profile
        padding = backbones.kind(p.backbone).padding
        return load_dataset(name, p.data_root, p.size, protocol or p.protocols[0], p.seeds[0], p.align, padding)

    @kept
    def signature(self, name: str, protocol: str) -> str:
        return signature(self.faces(name, protocol))

    def split(self, name: str, attribute: str, rows: Rows, protocol: str) -> Split:
        """These rows of a data set with the labels of this attribute."""
        data = self.faces(name, protocol)
        labels = torch.from_numpy(data.labels[attribute].to_numpy()[rows].astype(np.int64))
        return Split(data.images, labels, data.subjects[rows], rows)

    def part(self, name: str, attribute: str, part: str, protocol: str, seed: int) -> Split:
        """'train', 'val' or 'test' of a data set: images of known label, at most as many as the profile says (n_train …)."""
        data = self.faces(name, protocol)
        rows = np.flatnonzero((data.split == part) & (data.labels[attribute].to_numpy() >= 0))
        most = {"train": self.profile.n_train, "val": self.profile.n_val, "test": self.profile.n_test}[part]
        # The test images are the same under every seed, so that seeds differ by training alone.
        some_rows = some(rows, most, seeds.rng(0 if part == "test" else seed, name, part))
        return self.split(name, attribute, some_rows, protocol)

    def of_cell(self, cell: Cell, rows: Rows) -> Split:
        """These rows of the images of a cell."""
        return self.split(cell.data, cell.attribute, rows, cell.protocol)

    def splits(self, cell: Cell) -> tuple[Split, Split, Split]:
        """The images of a cell that N, a threshold and a colour match are all fitted to, that N is chosen on, and measured on."""
        train, val, test = (self.part(cell.data, cell.attribute, part, cell.protocol, cell.seed) for part in SPLITS)
        fit = some(train.rows, self.profile.n_fit, seeds.rng(cell.seed, cell.data, "fit"))
        return self.of_cell(cell, fit), val, test

    def source(self, cell: Cell) -> Split:
        """The images that the classifier of a cell was trained on."""
        return self.part(cell.model, cell.attribute, "train", cell.protocol, cell.seed)

    @kept
    def body(self) -> Backbone:
        with torch.inference_mode(False):  # whoever asks first may be in it, and weights made there let no gradient through
            return backbones.backbone(self.profile.backbone, self.profile.size, self.profile.weights)

    @kept
    def weights(self) -> str:
        """Hash of the weight file, where the backbone has one of the user's: another file is another classifier."""
        if self.profile.backbone != "vggface":  # dlib's files are each held to one SHA-256
            return ""
        self.body()  # complains of a missing or damaged file in the kit's own words
        with Path(self.profile.weights).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    @kept
    def features(self, name: str, protocol: str) -> Tensor:
        """Backbone features of all images of a data set, n x F, computed once."""
        images = self.faces(name, protocol).images
        key = {"backbone": self.profile.backbone, "weights": self.weights(), "pictures": content(images)}
        made = artefacts.tensors("features", 1, key, lambda: {"features": training.features(self.body(), images, self.device)})
        return made["features"]

    def training_key(self, name: str, attribute: str, protocol: str, seed: int) -> dict[str, object]:
        used = ("size", "backbone", "n_train", "n_val", "head_epochs", "head_learning_rate")
        known = {"weights": self.weights(), "data": self.signature(name, protocol), "batch": training.BATCH}
        return {**{field: getattr(self.profile, field) for field in used}, **known, "attribute": attribute, "seed": seed}

    @kept
    def classifier(self, name: str, attribute: str, protocol: str, seed: int) -> TorchClassifier:
        """The frozen classifier of an attribute trained on a data set: backbone and NNET, or `convnet` from scratch."""
        require_two_classes(self.faces(name, protocol), attribute)
        train, val = (self.part(name, attribute, part, protocol, seed) for part in ("train", "val"))
        schedule = (self.profile.head_epochs, self.profile.head_learning_rate, seed)
        if self.profile.backbone == "convnet":
            net = backbones.AttributeNet(backbones.ConvNet(self.profile.size), backbones.nnet(backbones.ConvNet.features))
            trained: nn.Module = net

            def make() -> nn.Module:
                return training.train_network(net, train.images, train.labels, val.images, val.labels, *schedule, self.device)
        else:
            x = self.features(name, protocol)
            trained = backbones.nnet(x.shape[1])
            net = backbones.AttributeNet(self.body(), trained)

            def make() -> nn.Module:
                return training.train_nnet(x[train.rows], train.labels, x[val.rows], val.labels, *schedule)

        key = self.training_key(name, attribute, protocol, seed)
        trained.load_state_dict(artefacts.tensors("classifiers", 1, key, lambda: dict(make().state_dict())))
        return TorchClassifier(net, self.device, self.dtype, in_place=True)  # all classifiers of a lab share one body

    def model(self, cell: Cell) -> TorchClassifier:
        """The classifier of a cell."""
        return self.classifier(cell.model, cell.attribute, cell.protocol, cell.seed)

    def fit_key(self, cell: Cell, settings: Settings | None = None) -> dict[str, object]:
        p = self.profile
        return {
            "model": self.training_key(cell.model, cell.attribute, cell.protocol, cell.seed),
            "data": self.signature(cell.data, cell.protocol),
            "settings": gradient.key(settings or settings_of(p)),
            "n": (p.n_fit, p.n_train, p.n_val, p.n_test),
            "dtype": str(self.dtype),
            "seed": cell.seed,
        }

    def fitted(
        self, cell: Cell, settings: Settings | None = None, known: tuple[Split, Split] | None = None, **key: Any
    ) -> Perturbation:
        """The perturbation of a cell: from the cache, or fitted (a killed fit goes on after its last finished round).

        settings: where they aren't the profile's
        known:    fitting and validation images where they aren't the cell's own; `key` says in the cache what differs
        """
        settings = settings or settings_of(self.profile)
        path = artefacts.file("perturbations", 1, dict(**self.fit_key(cell, settings), **key), ".safetensors")
        # The processes of one fit must go into it together; each writes the same file, whole.
        with artefacts.once(path) if not dist.is_initialized() else nullcontext(not path.is_file()) as missing:
            if missing:
                fit, val = known or self.splits(cell)[:2]
                known_to_all = (fit.images, fit.labels, val.images, val.labels)
                found = gradient.fit(self.model(cell), *known_to_all, settings, cell.seed, path.with_suffix(".part"))
                into_cache(found.with_about(origin(cell, self.signature(cell.data, cell.protocol), found.about)), path)
        return from_cache(path)

    def shuffled(self, cell: Cell) -> Perturbation:
        """The perturbation fitted with labels dealt anew to the images, fitting and validation alike."""
        draw = seeds.rng(cell.seed, "shuffled")
        fit, val = (split.labelled(draw.permutation(split.labels.numpy())) for split in self.splits(cell)[:2])
        return self.fitted(cell, known=(fit, val), shuffled=True)

    def unperturbed(self, cell: Cell, model: str, split: Split, cut: "Lab | None" = None) -> Tensor:
        """Scores n x 2 of images of the cell's data as they are, or as the lab `cut` has them, by the classifier trained on
        `model`; from features if kept.
        """
        net = self.classifier(model, cell.attribute, cell.protocol, cell.seed)
        if self.profile.backbone == "convnet":
            return net.scores(cut.of_cell(cell, split.rows).images if cut else split.images)
        x = (cut or self).features(cell.data, cell.protocol)[split.rows]
        with torch.inference_mode():
            return cast(Tensor, cast(nn.Module, net.net.head)(x.to(net.device))).softmax(1).cpu()

    def outcome(self, cell: Cell) -> Outcome:
        """The cell measured: fits what is missing, then scores every test image before, after and under each remedy."""
        p, found, key = self.profile, self.fitted(cell), self.fit_key(cell)
        fit, val, test = self.splits(cell)

        def distortion() -> dict[str, Tensor]:
            pairs = ((to_float(batch, self.device), found.apply(batch, self.device)) for batch in batches(test.images))
            both = [(similarity.psnr(a, b), similarity.ssim(a, b)) for a, b in pairs]
            return {name: torch.cat(parts) for name, parts in zip(("psnr", "ssim"), zip(*both, strict=True), strict=True)}

        numbers = {"gains": GAINS, "tried": TRIED, "unaligned": self.other(align="none").signature(cell.data, cell.protocol)}
        scores = artefacts.tensors("scores", 1, {**key, **numbers}, lambda: self._scores(cell, found))
        scores |= artefacts.tensors("distortion", 1, key, distortion)
        remedies = {name: scores[name] for name in ("colour", "mean_picture")} | remedies_on_answers(scores, fit, test)
        comparison = compare(scores["before"], scores["after"], test, {name: remedies[name] for name in REMEDIES})
        chosen = beside_simple(scores["val_before"], scores["val_after"], val, scores["train"], fit)
        row: dict[str, Any] = {
            "table": cell.table, "data": cell.data, "model": cell.model, "attribute": cell.attribute,
            "backbone": p.backbone, "align": p.align, "protocol": cell.protocol, "box": p.box, "weight": p.weight,
            "min_psnr": p.min_psnr, "seed": cell.seed, "n_fit": len(fit), "n_test": len(test),
            "people": len(np.unique(test.subjects)), **row_of(comparison, chosen, scores),
            "psnr": float(scores["psnr"].mean()), "ssim": float(scores["ssim"].mean()),
        }  # fmt: skip
        gap = row["oracle"] - row["before"]  # what the classifier of the images' own set is ahead by, of which N closes a share
        row["gap_closed"] = (row["after"] - row["before"]) / gap if gap > 0 else np.nan
        row["best_remedy"] = comparison.best.replace("before", "as it is")
        row |= {"recommended": chosen.recommended, "epoch": found.about["epoch"]}
        return Outcome(cell, row, test, found, scores, comparison)

    def _scores(self, cell: Cell, found: Perturbation) -> dict[str, Tensor]:
        model, (fit, val, test), source = self.model(cell), self.splits(cell), self.source(cell)
        own, wanted = (baselines.channel_levels(split.images) for split in (fit, source))
        mean = self._mean_picture(model, fit, baselines.mean_picture(source.images), cell.seed)
        images = test.images
        rounded = found.apply_uint8(images, self.device).cpu()
        return {
            "unaligned": self.unperturbed(cell, cell.model, test, self.other(align="none")),
            "before": self.unperturbed(cell, cell.model, test),
            "oracle": self.unperturbed(cell, cell.data, test),
            "after": under(model, found, images),
            "after_8bit": model.scores(rounded),
            "after_jpeg95": model.scores(baselines.jpeg(rounded, 95)),
            "colour": model.scores(baselines.match_channels(images, own, wanted)),
            "mean_picture": under(model, mean, images),
            "train": self.unperturbed(cell, cell.model, fit),
            "train_colour": model.scores(baselines.match_channels(fit.images, own, wanted)),
            "val_before": self.unperturbed(cell, cell.model, val),
            "val_after": under(model, found, val.images),
        }

    @staticmethod
    def _mean_picture(model: TorchClassifier, fit: Split, source: Tensor, seed: int) -> Perturbation:
        """The difference of the mean images, with that gain of `GAINS` which is right most often on fitting images."""
        where = some(np.arange(len(fit)), TRIED, seeds.rng(seed, "gain"))
        images, y = fit.images, fit.labels.numpy()[where]
        return best_gain(source - baselines.mean_picture(images), lambda n: under(model, n, images[where]), y)

    def controlled(self, measured: Outcome) -> dict[str, Bools]:
        """Which test images of an outcome are right under each of `ON_N`, what N itself must beat."""
        cell, test = measured.cell, measured.test

        def make() -> dict[str, Tensor]:
            changed = {"shuffled": self.shuffled(cell), **baselines.controls_on(measured.perturbation, cell.seed)}
            model, images = self.model(cell), test.images
            return {name: under(model, n, images) for name, n in changed.items()}

        scores = artefacts.tensors("controls", 1, self.fit_key(cell), make)
        return {name: scores[name].argmax(1).numpy() == test.labels.numpy() for name in ON_N}

    def outcomes(self, wanted: Iterable[Cell]) -> list[Outcome]:
        return [self.outcome(cell) for cell in tqdm(list(wanted), desc="cells", unit="cell")]
