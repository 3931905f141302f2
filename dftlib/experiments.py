"""The cells of the tables, fitted and measured. Classifiers, perturbations and scores are kept, so a cell is paid once."""

import hashlib
from collections.abc import Iterable
from contextlib import nullcontext
from dataclasses import asdict, dataclass, fields, replace
from functools import cache
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor, nn

from dftlib import classifiers, evaluation, models, perturbation, similarity, store, training
from dftlib.classifiers import Pictures, TorchClassifier, batches, to_float
from dftlib.config import ROOT, Profile, device_of, dtype_of, rng
from dftlib.datasets import FaceDataset, load_dataset, require_two_classes
from dftlib.evaluation import Bools, ChannelStatistics
from dftlib.perturbation import Perturbation, Settings
from dftlib.progress import tqdm

ROLES = ("LFW", "CelebA", "MUCT")  # the paper's data sets, in the order of Profile.datasets
SCRATCH: dict[str, Any] = {
    "backbone": "convnet",
    "head_epochs": 10,
    "head_learning_rate": 0.001,
}  # at the 0.005 of NNET it trains unsteadily


# Beside each perturbation: remedies on the answers and on the pictures, after the first of all, alignment, which makes `before`
# of `unaligned`; and what N itself must beat.
REMEDIES = ("trivial", "threshold", "colour", "colour_threshold", "mean_picture")
ON_N = ("shuffled", "flipped", "scrambled", "moved_1", "moved_2", "random")
GAINS = (0.25, 0.5, 0.75, 1.0)  # of the difference of the mean pictures


@dataclass(frozen=True)
class Cell:
    """One cell of the paper's Tables 2, 3, 5 and 6: pictures of `data`, classified by the model trained on `model`."""

    table: int
    attribute: str
    data: str
    model: str
    protocol: str
    seed: int

    @property
    def title(self) -> str:
        return f"{self.attribute}: {self.data} by {self.model}"


@dataclass(frozen=True)
class Outcome:
    """A cell, measured on its test pictures: scores n x 2 before and after, labels n, and the row of the table.

    `scores` are those of every stage and control (`_scores`); `right` says which of the n pictures each gets right.
    """

    cell: Cell
    row: dict[str, Any]
    labels: NDArray[np.int64]
    before: Tensor
    after: Tensor
    test_rows: NDArray[np.int64]
    perturbation: Perturbation
    scores: dict[str, Tensor]
    right: dict[str, Bools]


def published() -> pd.DataFrame:
    """The paper's accuracies, percent: table, experiment, attribute, data, model_trained_on, before, after."""
    return pd.read_csv(ROOT / "results" / "published" / "data_fine_tuning_accuracy.csv")


def cells(profile: Profile, *tables: int) -> list[Cell]:
    """The paper's cells of these tables on the profile's data sets.

    All with the first protocol and seed; Gender also with every other seed, and with every other protocol and the first seed.
    """
    names = dict(zip(ROLES, profile.datasets, strict=True))
    found = []
    for row in published().query("table in @tables").to_dict("records"):
        runs = [(profile.protocols[0], seed) for seed in profile.seeds] + [(p, profile.seeds[0]) for p in profile.protocols[1:]]
        for protocol, seed in runs if row["attribute"] == "Gender" else runs[:1]:
            found.append(Cell(row["table"], row["attribute"], names[row["data"]], names[row["model_trained_on"]], protocol, seed))
    return found


def main(profile: Profile, *tables: int) -> list[Cell]:
    """The cells of these tables with the first protocol and seed."""
    return [c for c in cells(profile, *tables) if (c.protocol, c.seed) == (profile.protocols[0], profile.seeds[0])]


@cache
def faces(profile: Profile, name: str, protocol: str) -> FaceDataset:
    return load_dataset(name, profile.data_root, profile.size, protocol, profile.seeds[0], profile.align)


@cache
def signature(profile: Profile, name: str, protocol: str) -> str:
    dataset = faces(profile, name, protocol)
    hasher = hashlib.sha256(np.ascontiguousarray(dataset.images).data)
    hasher.update(dataset.labels.to_csv().encode())
    hasher.update("".join(dataset.split).encode())
    return hasher.hexdigest()


def rows_of(profile: Profile, name: str, attribute: str, split: str, protocol: str, seed: int) -> NDArray[np.int64]:
    """Rows of a split whose label is known, at most as many as the profile says (n_train, n_val, n_test), in order."""
    dataset = faces(profile, name, protocol)
    rows = np.flatnonzero((dataset.split == split) & (dataset.labels[attribute].to_numpy() >= 0))
    most = {"train": profile.n_train, "val": profile.n_val, "test": profile.n_test}[split]
    # The test pictures are the same under every seed, so that seeds differ by training alone.
    return _some(rows, most, rng(0 if split == "test" else seed, name, split))


def _some(rows: NDArray[np.int64], most: int, generator: np.random.Generator) -> NDArray[np.int64]:
    return np.sort(generator.permutation(rows)[:most]) if 0 < most < len(rows) else rows


def labels_of(profile: Profile, name: str, attribute: str, rows: NDArray[np.int64], protocol: str) -> Tensor:
    return torch.from_numpy(faces(profile, name, protocol).labels[attribute].to_numpy()[rows].astype(np.int64))


@cache
def body(profile: Profile) -> models.Backbone:
    return models.backbone(profile.backbone, profile.size, profile.weights)


@cache
def _weights(profile: Profile) -> str:
    """Hash of the weight file, where the backbone has one of the user's: another file is another classifier."""
    if profile.backbone != "vggface":
        return ""
    body(profile)  # complains of a missing or damaged file in the kit's own words
    with Path(profile.weights).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@cache
def features(profile: Profile, name: str, protocol: str) -> Tensor:
    """Backbone features of all pictures of a data set, n x F, computed once."""
    dataset = faces(profile, name, protocol)
    pictures = hashlib.sha256(np.ascontiguousarray(dataset.images).data).hexdigest()
    key = {"backbone": profile.backbone, "weights": _weights(profile), "pictures": pictures}

    def make() -> dict[str, Tensor]:
        return {"features": training.features(body(profile), dataset.images, device_of(profile))}

    return store.tensors("features", key, make, (models,))["features"]


def _training_key(profile: Profile, name: str, attribute: str, protocol: str, seed: int) -> dict[str, object]:
    kept = ("size", "backbone", "n_train", "n_val", "head_epochs", "head_learning_rate")
    numbers = {field: getattr(profile, field) for field in kept}
    known = {"weights": _weights(profile), "data": signature(profile, name, protocol)}
    return {**numbers, **known, "attribute": attribute, "seed": seed}


@cache
def classifier(profile: Profile, name: str, attribute: str, protocol: str, seed: int) -> TorchClassifier:
    """The frozen classifier of an attribute trained on a data set: backbone and NNET, or `convnet` from scratch."""
    require_two_classes(faces(profile, name, protocol), attribute)
    train, val = (rows_of(profile, name, attribute, split, protocol, seed) for split in ("train", "val"))
    y, val_y = (labels_of(profile, name, attribute, rows, protocol) for rows in (train, val))
    schedule = (profile.head_epochs, profile.head_learning_rate, seed)
    key = _training_key(profile, name, attribute, protocol, seed)
    if profile.backbone == "convnet":
        images = faces(profile, name, protocol).images
        net = models.AttributeNet(models.ConvNet(profile.size), models.nnet(models.ConvNet.features))
        trained: nn.Module = net

        def make() -> nn.Module:
            return training.train_network(net, images[train], y, images[val], val_y, *schedule, device_of(profile))
    else:
        x = features(profile, name, protocol)
        trained = models.nnet(x.shape[1])
        net = models.AttributeNet(body(profile), trained)

        def make() -> nn.Module:
            return training.train_nnet(x[train], y, x[val], val_y, *schedule)

    trained.load_state_dict(store.tensors("classifiers", key, lambda: dict(make().state_dict()), (models, training)))
    device = device_of(profile)
    return TorchClassifier(net, device, dtype_of(profile, device))


def settings_of(profile: Profile) -> Settings:
    return Settings(**{f.name: getattr(profile, f.name) for f in fields(Settings)})


def fit_rows(profile: Profile, cell: Cell) -> NDArray[np.int64]:
    """The labelled pictures that a perturbation, a threshold and a colour match all learn from: the same budget for each."""
    rows = rows_of(profile, cell.data, cell.attribute, "train", cell.protocol, cell.seed)
    return _some(rows, profile.n_fit, rng(cell.seed, cell.data, "fit"))


def val_rows(profile: Profile, cell: Cell) -> NDArray[np.int64]:
    return rows_of(profile, cell.data, cell.attribute, "val", cell.protocol, cell.seed)


def test_rows(profile: Profile, cell: Cell) -> NDArray[np.int64]:
    return rows_of(profile, cell.data, cell.attribute, "test", cell.protocol, cell.seed)


def fit_key(profile: Profile, cell: Cell) -> dict[str, object]:
    device = device_of(profile)
    return {
        "model": _training_key(profile, cell.model, cell.attribute, cell.protocol, cell.seed),
        "data": signature(profile, cell.data, cell.protocol),
        "settings": asdict(settings_of(profile)),
        "n": (profile.n_fit, profile.n_train, profile.n_val, profile.n_test),
        "dtype": str(dtype_of(profile, device)),
        "seed": cell.seed,
    }


CODE = (models, training, classifiers, perturbation)


def fit_cell(
    profile: Profile,
    cell: Cell,
    settings: Settings,
    rows: tuple[NDArray[np.int64], NDArray[np.int64]] | None = None,
    shuffled: bool = False,
    **key: Any,
) -> Perturbation:
    """A perturbation for a cell: from the cache, or fitted (a killed fit goes on after its last finished epoch).

    `rows` are the fitting and the validation pictures where they aren't the cell's own; `key` says in the cache what differs.
    With `shuffled`, labels are dealt anew to the pictures, fitting and validation alike.
    """
    known = {**fit_key(profile, cell), "settings": asdict(settings), **({"shuffled": True} if shuffled else {}), **key}
    path = store.cache_folder() / "perturbations" / f"{store.digest(known, CODE)}.safetensors"
    # Of the processes of one fit only the first sees to the file, and all must go into `fit` together.
    with store.once(path) if not dist.is_initialized() else nullcontext(not path.is_file()) as missing:
        if missing:
            data = faces(profile, cell.data, cell.protocol)
            fit, val = rows or (fit_rows(profile, cell), val_rows(profile, cell))
            y, val_y = (labels_of(profile, cell.data, cell.attribute, part, cell.protocol) for part in (fit, val))
            if shuffled:
                draw = rng(cell.seed, "shuffled")
                y, val_y = (labels[torch.from_numpy(draw.permutation(len(labels)))] for labels in (y, val_y))
            model = classifier(profile, cell.model, cell.attribute, cell.protocol, cell.seed)
            found = perturbation.fit(
                model, data.images[fit], y, data.images[val], val_y, settings, cell.seed, path.with_suffix(".part")
            )
            found.save(path)
    return Perturbation.load(path)


def fitted(profile: Profile, cell: Cell) -> Perturbation:
    """The perturbation of a cell under the profile's settings."""
    return fit_cell(profile, cell, settings_of(profile))


def outcome(profile: Profile, cell: Cell) -> Outcome:
    """The cell measured: fits what is missing, then scores every test picture before, after and under each control."""
    found = fitted(profile, cell)
    data = faces(profile, cell.data, cell.protocol)
    test = test_rows(profile, cell)
    key = fit_key(profile, cell)
    scores = store.tensors("scores", key, lambda: _scores(profile, cell, found, test), (*CODE, evaluation))
    scores |= store.tensors("distortion", key, lambda: _distortion(found, data.images[test]), (*CODE, similarity))
    y = labels_of(profile, cell.data, cell.attribute, test, cell.protocol).numpy()
    row, right = _row(profile, cell, found, scores, y, data.subjects[test])
    return Outcome(cell, row, y, scores["before"], scores["after"], test, found, scores, right)


def controlled(profile: Profile, measured: Outcome) -> dict[str, Bools]:
    """Which test pictures of an outcome are right under each of `ON_N`, what N itself must beat."""
    cell, images = measured.cell, faces(profile, measured.cell.data, measured.cell.protocol).images[measured.test_rows]
    null = fit_cell(profile, cell, settings_of(profile), shuffled=True)
    model = classifier(profile, cell.model, cell.attribute, cell.protocol, cell.seed)
    others = {"shuffled": null, **evaluation.controls_on(measured.perturbation, cell.seed)}

    def make() -> dict[str, Tensor]:
        return {name: under(model, n, images) for name, n in others.items()}

    scores = store.tensors("controls", fit_key(profile, cell), make, (*CODE, evaluation))
    return {name: scores[name].argmax(1).numpy() == measured.labels for name in ON_N}


def under(model: TorchClassifier, found: Perturbation, images: Pictures) -> Tensor:
    """Scores n x 2 of perturbed pictures, a batch at a time."""
    return torch.cat([model.scores(found.apply(batch)) for batch in batches(images)])


def unperturbed(profile: Profile, cell: Cell, model: str, rows: NDArray[np.int64]) -> Tensor:
    """Scores n x 2 of rows of the cell's data as they are, by the classifier trained on `model`; from features where kept."""
    net = classifier(profile, model, cell.attribute, cell.protocol, cell.seed)
    if profile.backbone == "convnet":
        return net.scores(faces(profile, cell.data, cell.protocol).images[rows])
    return _from_features(net, features(profile, cell.data, cell.protocol)[rows])


def unaligned(profile: Profile, cell: Cell, rows: NDArray[np.int64]) -> Tensor:
    """Scores n x 2 of rows of the cell's data in the usual crop of their set, by the classifier of the profile's alignment."""
    loose = replace(profile, align="none")
    net = classifier(profile, cell.model, cell.attribute, cell.protocol, cell.seed)
    if profile.backbone == "convnet":
        return net.scores(faces(loose, cell.data, cell.protocol).images[rows])
    return _from_features(net, features(loose, cell.data, cell.protocol)[rows])


@torch.inference_mode()
def _from_features(net: TorchClassifier, kept: Tensor) -> Tensor:
    return cast(Tensor, cast(nn.Module, net.net.head)(kept.to(net.device))).softmax(1).cpu()


def _scores(profile: Profile, cell: Cell, found: Perturbation, test: NDArray[np.int64]) -> dict[str, Tensor]:
    data, source = faces(profile, cell.data, cell.protocol), faces(profile, cell.model, cell.protocol)
    model = classifier(profile, cell.model, cell.attribute, cell.protocol, cell.seed)
    train, val = fit_rows(profile, cell), val_rows(profile, cell)
    source_rows = rows_of(profile, cell.model, cell.attribute, "train", cell.protocol, cell.seed)
    own, wanted = ChannelStatistics.of(data.images[train]), ChannelStatistics.of(source.images[source_rows])
    mean = _mean_picture(profile, cell, model, evaluation.mean_picture(source.images[source_rows]))
    images = data.images[test]
    rounded = torch.cat([found.apply_uint8(batch) for batch in batches(images)])
    return {
        "unaligned": unaligned(profile, cell, test),
        "before": unperturbed(profile, cell, cell.model, test),
        "oracle": unperturbed(profile, cell, cell.data, test),
        "after": under(model, found, images),
        "after_8bit": model.scores(rounded),
        "after_jpeg95": model.scores(evaluation.jpeg(rounded, 95)),
        "colour": model.scores(evaluation.match_channels(images, own, wanted)),
        "mean_picture": under(model, mean, images),
        "train": unperturbed(profile, cell, cell.model, train),
        "train_colour": model.scores(evaluation.match_channels(data.images[train], own, wanted)),
        "val_before": unperturbed(profile, cell, cell.model, val),
        "val_after": under(model, found, data.images[val]),
    }


def _distortion(found: Perturbation, images: Pictures) -> dict[str, Tensor]:
    pairs = ((to_float(batch, torch.device("cpu")), found.apply(batch)) for batch in batches(images))
    both = [(similarity.psnr(a, b), similarity.ssim(a, b)) for a, b in pairs]
    return {name: torch.cat(parts) for name, parts in zip(("psnr", "ssim"), zip(*both, strict=True), strict=True)}


def _mean_picture(profile: Profile, cell: Cell, model: TorchClassifier, source: Tensor) -> Perturbation:
    """The difference of the mean pictures, with that gain of `GAINS` which is right most often on fitting pictures."""
    rows = _some(fit_rows(profile, cell), 500, rng(cell.seed, "gain"))
    images = faces(profile, cell.data, cell.protocol).images
    y = labels_of(profile, cell.data, cell.attribute, rows, cell.protocol).numpy()
    difference = source - evaluation.mean_picture(images[fit_rows(profile, cell)])
    tried = [Perturbation(gain * difference, "clip") for gain in GAINS]
    return max(tried, key=lambda n: evaluation.accuracy(under(model, n, images[rows]), y))


def _row(
    profile: Profile, cell: Cell, found: Perturbation, scores: dict[str, Tensor], y: NDArray[np.int64], subjects: NDArray[np.str_]
) -> tuple[dict[str, Any], dict[str, Bools]]:
    """The row of a table: accuracies and intervals in percent, PSNR in dB, ROC areas in [0, 1].

    `over_best` compares with whichever is best on these very test pictures, of `REMEDIES` and of leaving the (aligned) pictures
    as they are: the remedies are given the choice that N hasn't.
    Beside the row, which test pictures are right before, after and under each control.
    """
    train_y = labels_of(profile, cell.data, cell.attribute, fit_rows(profile, cell), cell.protocol).numpy()
    present = {name: scores[name][:, 1].double().numpy() for name in ("before", "after", "colour", "train", "train_colour")}
    cut = evaluation.best_threshold(present["train"], train_y)
    colour_cut = evaluation.best_threshold(present["train_colour"], train_y)
    kept = ("train", "train_colour", "val_before", "val_after", "psnr", "ssim")
    right = {name: s.argmax(1).numpy() == y for name, s in scores.items() if name not in kept} | {
        "trivial": y == int(train_y.mean() >= 0.5),
        "threshold": (present["before"] > cut) == y,
        "colour_threshold": (present["colour"] > colour_cut) == y,
    }
    accuracy = {name: float(r.mean()) for name, r in right.items()}
    before, after = accuracy["before"], accuracy["after"]
    drawn = evaluation.people_drawn(subjects)
    balanced = {stage: evaluation.balanced_share(right[stage], y, drawn) for stage in ("before", "after")}
    areas = {stage: evaluation.area(present[stage], y, drawn) for stage in ("before", "after")}
    best = max(("before", *REMEDIES), key=lambda name: accuracy[name])
    val = val_rows(profile, cell)
    val_y = labels_of(profile, cell.data, cell.attribute, val, cell.protocol).numpy()
    was, now = (scores[f"val_{stage}"].argmax(1).numpy() == val_y for stage in ("before", "after"))
    val_subjects = faces(profile, cell.data, cell.protocol).subjects[val]
    val_rise = evaluation.interval(evaluation.gain(now, was, evaluation.people_drawn(val_subjects)))

    def limits(name: str, found: tuple[float, float]) -> dict[str, float]:
        return {f"{name}_lo": found[0], f"{name}_hi": found[1]}

    percent = {
        **{name: accuracy[name] for name in ("unaligned", *REMEDIES)},
        "over_best": after - accuracy[best],
        **limits("over_best", evaluation.interval(evaluation.gain(right["after"], right[best], drawn))),
        "balanced_before": evaluation.balanced_accuracy(scores["before"], y),
        "balanced_after": evaluation.balanced_accuracy(scores["after"], y),
        **limits("balanced_rise", evaluation.interval(balanced["after"] - balanced["before"])),
        **{name: accuracy[name] for name in ("after_8bit", "after_jpeg95")},
        "oracle": accuracy["oracle"],
        **limits("val_rise", val_rise),
        "after_gate": after if val_rise[0] > 0 else before,
    }  # fmt: skip
    row = {
        "table": cell.table, "data": cell.data, "model": cell.model, "attribute": cell.attribute,
        "backbone": profile.backbone, "align": profile.align, "protocol": cell.protocol, "box": profile.box,
        "weight": profile.weight, "min_psnr": profile.min_psnr,
        "seed": cell.seed, "n_fit": len(train_y), "n_test": len(y), "people": len(np.unique(subjects)),
        **evaluation.compared(right["before"], right["after"], subjects),
        **{name: 100 * float(value) for name, value in percent.items()},
        "auc_before": evaluation.roc_area(scores["before"], y), "auc_after": evaluation.roc_area(scores["after"], y),
        **limits("auc_rise", evaluation.interval(areas["after"] - areas["before"])),
        "psnr": float(scores["psnr"].mean()), "ssim": float(scores["ssim"].mean()),
        "gap_closed": (after - before) / (oracle - before) if (oracle := accuracy["oracle"]) > before else float("nan"),
        "best_remedy": {"before": "as it is"}.get(best, best), "recommended": val_rise[0] > 0,
        "epoch": found.about["epoch"],
    }  # fmt: skip
    return row, right


def outcomes(profile: Profile, wanted: Iterable[Cell]) -> list[Outcome]:
    bar = tqdm(list(wanted), desc="cells", unit="cell")
    return [outcome(profile, cell) for cell in bar]
