"""The cells of the tables: what a notebook calls. Classifiers, perturbations and scores are kept, so a cell is paid once."""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields, replace
from functools import cache
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from tqdm.auto import tqdm

from dftlib import classifiers, evaluation, figures, models, perturbation, similarity, store, training
from dftlib.classifiers import TorchClassifier, batches, to_float
from dftlib.config import ROOT, Profile, device_of, dtype_of, rng
from dftlib.datasets import SPLITS, FaceDataset, load_dataset, require_two_classes
from dftlib.evaluation import ChannelStatistics
from dftlib.perturbation import BOXES, Perturbation, Settings

ROLES = ("LFW", "CelebA", "MUCT")  # the paper's data sets, in the order of Profile.datasets
SCRATCH: dict[str, Any] = {
    "backbone": "convnet",
    "head_epochs": 10,
    "head_learning_rate": 0.001,
}  # at the 0.005 of NNET it trains unsteadily


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
    """A cell, measured on its test pictures: scores n x 2 before and after, labels n, and the row of the table."""

    cell: Cell
    row: dict[str, Any]
    labels: NDArray[np.int64]
    before: Tensor
    after: Tensor
    test_rows: NDArray[np.int64]
    perturbation: Perturbation


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


@cache
def faces(profile: Profile, name: str, protocol: str) -> FaceDataset:
    return load_dataset(name, profile.data_root, profile.size, protocol, profile.seeds[0])


@cache
def _signature(profile: Profile, name: str, protocol: str) -> str:
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
    known = {"weights": _weights(profile), "data": _signature(profile, name, protocol)}
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


def _fit_key(profile: Profile, cell: Cell) -> dict[str, object]:
    device = device_of(profile)
    return {
        "model": _training_key(profile, cell.model, cell.attribute, cell.protocol, cell.seed),
        "data": _signature(profile, cell.data, cell.protocol),
        "settings": asdict(settings_of(profile)),
        "n": (profile.n_fit, profile.n_train, profile.n_val, profile.n_test),
        "dtype": str(dtype_of(profile, device)),
        "seed": cell.seed,
    }


CODE = (models, training, classifiers, perturbation)


def fitted(profile: Profile, cell: Cell) -> Perturbation:
    """The perturbation of a cell: from the cache, or fitted (a killed fit goes on after its last finished epoch)."""
    path = store.cache_folder() / "perturbations" / f"{store.digest(_fit_key(profile, cell), CODE)}.safetensors"
    if not path.is_file():
        data = faces(profile, cell.data, cell.protocol)
        fit, val = fit_rows(profile, cell), rows_of(profile, cell.data, cell.attribute, "val", cell.protocol, cell.seed)
        y, val_y = (labels_of(profile, cell.data, cell.attribute, rows, cell.protocol) for rows in (fit, val))
        model = classifier(profile, cell.model, cell.attribute, cell.protocol, cell.seed)
        found = perturbation.fit(
            model, data.images[fit], y, data.images[val], val_y, settings_of(profile), cell.seed, path.with_suffix(".part")
        )
        found.save(path)
    return Perturbation.load(path)


def outcome(profile: Profile, cell: Cell) -> Outcome:
    """The cell measured: fits what is missing, then scores every test picture before, after and under each control."""
    found = fitted(profile, cell)
    data = faces(profile, cell.data, cell.protocol)
    test = rows_of(profile, cell.data, cell.attribute, "test", cell.protocol, cell.seed)
    key = _fit_key(profile, cell)
    scores = store.tensors("scores", key, lambda: _scores(profile, cell, found, test), (*CODE, evaluation, similarity))
    y = labels_of(profile, cell.data, cell.attribute, test, cell.protocol).numpy()
    row = _row(profile, cell, found, scores, y, data.subjects[test])
    return Outcome(cell, row, y, scores["before"], scores["after"], test, found)


def unperturbed(profile: Profile, cell: Cell, model: str, rows: NDArray[np.int64]) -> Tensor:
    """Scores n x 2 of rows of the cell's data as they are, by the classifier trained on `model`; from features where kept."""
    net = classifier(profile, model, cell.attribute, cell.protocol, cell.seed)
    if profile.backbone == "convnet":
        return net.scores(faces(profile, cell.data, cell.protocol).images[rows])
    with torch.inference_mode():
        kept = features(profile, cell.data, cell.protocol)[rows].to(net.device)
        return cast(Tensor, cast(nn.Module, net.net.head)(kept)).softmax(1).cpu()


def _scores(profile: Profile, cell: Cell, found: Perturbation, test: NDArray[np.int64]) -> dict[str, Tensor]:
    data, source = faces(profile, cell.data, cell.protocol), faces(profile, cell.model, cell.protocol)
    model = classifier(profile, cell.model, cell.attribute, cell.protocol, cell.seed)
    train = fit_rows(profile, cell)
    source_rows = rows_of(profile, cell.model, cell.attribute, "train", cell.protocol, cell.seed)
    own, wanted = ChannelStatistics.of(data.images[train]), ChannelStatistics.of(source.images[source_rows])
    images = data.images[test]
    tuned, rounded = found.apply(images), found.apply_uint8(images)
    cpu = torch.device("cpu")
    pairs = [(to_float(a, cpu), to_float(b, cpu)) for a, b in zip(batches(images), batches(tuned), strict=True)]
    return {
        "before": unperturbed(profile, cell, cell.model, test),
        "oracle": unperturbed(profile, cell, cell.data, test),
        "after": model.scores(tuned),
        "after_8bit": model.scores(rounded),
        "after_jpeg95": model.scores(evaluation.jpeg(rounded, 95)),
        "colour": model.scores(evaluation.match_channels(images, own, wanted)),
        "train": unperturbed(profile, cell, cell.model, train),
        "train_colour": model.scores(evaluation.match_channels(data.images[train], own, wanted)),
        "psnr": torch.cat([similarity.psnr(a, b) for a, b in pairs]),
        "ssim": torch.cat([similarity.ssim(a, b) for a, b in pairs]),
    }


def _row(
    profile: Profile, cell: Cell, found: Perturbation, scores: dict[str, Tensor], y: NDArray[np.int64], subjects: NDArray[np.str_]
) -> dict[str, Any]:
    """The row of section 'Results' of the README: accuracies and intervals in percent, PSNR in dB, ROC areas in [0, 1]."""
    train_y = labels_of(profile, cell.data, cell.attribute, fit_rows(profile, cell), cell.protocol).numpy()
    present = {name: scores[name][:, 1].double().numpy() for name in ("before", "colour", "train", "train_colour")}
    cut = evaluation.best_threshold(present["train"], train_y)
    colour_cut = evaluation.best_threshold(present["train_colour"], train_y)
    right = {name: scores[name].argmax(1).numpy() == y for name in ("before", "after")}
    intervals = {name: evaluation.wilson(right[name]) for name in right}
    rise = evaluation.rise_interval(right["before"], right["after"], subjects)
    oracle = evaluation.accuracy(scores["oracle"], y)
    before, after = right["before"].mean(), right["after"].mean()
    percent = {
        "before": before, "before_lo": intervals["before"][0], "before_hi": intervals["before"][1],
        "after": after, "after_lo": intervals["after"][0], "after_hi": intervals["after"][1],
        "rise": after - before, "rise_lo": rise[0], "rise_hi": rise[1],
        "trivial": (y == int(train_y.mean() >= 0.5)).mean(),
        "threshold": ((present["before"] > cut) == y).mean(),
        "colour": evaluation.accuracy(scores["colour"], y),
        "colour_threshold": ((present["colour"] > colour_cut) == y).mean(),
        "balanced_before": evaluation.balanced_accuracy(scores["before"], y),
        "balanced_after": evaluation.balanced_accuracy(scores["after"], y),
        "after_8bit": evaluation.accuracy(scores["after_8bit"], y),
        "after_jpeg95": evaluation.accuracy(scores["after_jpeg95"], y),
        "oracle": oracle,
    }  # fmt: skip
    return {
        "table": cell.table, "data": cell.data, "model": cell.model, "attribute": cell.attribute,
        "backbone": profile.backbone, "protocol": cell.protocol, "box": profile.box, "weight": profile.weight,
        "min_psnr": profile.min_psnr,
        "seed": cell.seed, "n_fit": len(train_y), "n_test": len(y),
        **{name: 100 * float(value) for name, value in percent.items()},
        "mcnemar_p": evaluation.mcnemar(right["before"], right["after"]),
        "auc_before": evaluation.roc_area(scores["before"], y), "auc_after": evaluation.roc_area(scores["after"], y),
        "psnr": float(scores["psnr"].mean()), "ssim": float(scores["ssim"].mean()),
        "gap_closed": float((after - before) / (oracle - before)) if oracle > before else float("nan"),
        "gained": int((~right["before"] & right["after"]).sum()), "lost": int((right["before"] & ~right["after"]).sum()),
        "epoch": found.about["epoch"],
    }  # fmt: skip


def outcomes(profile: Profile, wanted: Iterable[Cell]) -> list[Outcome]:
    bar = tqdm(list(wanted), desc="cells", unit="cell", disable=None)
    return [outcome(profile, cell) for cell in bar]


def table(found: Iterable[Outcome]) -> pd.DataFrame:
    """The rows of these outcomes, with the paper's own before and after (percent) where the data sets are the paper's."""
    rows = pd.DataFrame([o.row for o in found])
    paper = published().rename(columns={"model_trained_on": "model", "before": "published_before", "after": "published_after"})
    paper = paper.drop(columns="experiment").assign(data=paper["data"].str.lower(), model=paper["model"].str.lower())
    return rows.merge(paper, on=["table", "attribute", "data", "model"], how="left")


def confusion(found: Iterable[Outcome]) -> pd.DataFrame:
    """Table 4: row-normalised confusion matrices in percent, a row per true class, beside the paper's where they exist."""
    rows = []
    for o in found:
        for stage, scores in (("before", o.before), ("after", o.after)):
            for truth, name in ((1, "present"), (0, "absent")):
                share = 100 * float((scores.argmax(1).numpy()[o.labels == truth] == 1).mean())
                rows.append(
                    {
                        "data": o.cell.data,
                        "attribute": o.cell.attribute,
                        "stage": stage,
                        "truth": name,
                        "predicted_present": share,
                        "predicted_absent": 100 - share,
                    }
                )
    paper = pd.read_csv(ROOT / "results" / "published" / "data_fine_tuning_confusion.csv").drop(columns="table")
    paper = paper.assign(data=paper["data"].str.lower())
    return pd.DataFrame(rows).merge(paper, on=["data", "attribute", "stage", "truth"], how="left", suffixes=("", "_published"))


def data_summary(profile: Profile) -> pd.DataFrame:
    """A row per data set, protocol, attribute and split: pictures, people, share present (percent), people also in train."""
    rows = []
    for name in profile.datasets:
        for protocol in profile.protocols:
            data = faces(profile, name, protocol)
            for attribute in data.labels:
                known = data.labels[attribute].to_numpy() >= 0
                people = set(data.subjects[known & (data.split == "train")])
                for split in SPLITS:
                    here = known & (data.split == split)
                    if not here.any():
                        continue
                    persons = set(data.subjects[here])
                    rows.append(
                        {
                            "data": name,
                            "protocol": protocol,
                            "attribute": attribute,
                            "split": split,
                            "pictures": int(here.sum()),
                            "people": len(persons),
                            "present": 100 * float(data.labels[attribute].to_numpy()[here].mean()),
                            "people_also_in_train": len(persons & people) if split != "train" else 0,
                        }
                    )
    return pd.DataFrame(rows)


def classifier_accuracy(profile: Profile) -> pd.DataFrame:
    """Every classifier of the tables on the test pictures of its own data set, and on every other set for its attribute.

    Percent, ROC areas in [0, 1]; `trivial` is the majority class of the training split. Gender also for `convnet`.
    """
    pairs = dict.fromkeys((c.model, c.attribute) for c in cells(profile, 2, 3, 5, 6))
    runs = [(profile, *pair) for pair in pairs]
    if profile.backbone != "convnet":
        scratch = replace(profile, **SCRATCH)
        runs += [(scratch, name, "Gender") for name in profile.datasets]
    protocol, seed = profile.protocols[0], profile.seeds[0]
    rows = []
    for run, name, attribute in tqdm(runs, desc="classifiers", unit="classifier", disable=None):
        model = classifier(run, name, attribute, protocol, seed)
        train = rows_of(run, name, attribute, "train", protocol, seed)
        majority = int(labels_of(run, name, attribute, train, protocol).double().mean() >= 0.5)
        for data in run.datasets:
            if (faces(run, data, protocol).labels[attribute] < 0).all():
                continue
            test = rows_of(run, data, attribute, "test", protocol, seed)
            y = labels_of(run, data, attribute, test, protocol).numpy()
            scores = model.scores(faces(run, data, protocol).images[test])
            low, high = evaluation.wilson(scores.argmax(1).numpy() == y)
            rows.append(
                {
                    "attribute": attribute,
                    "model": name,
                    "data": data,
                    "backbone": run.backbone,
                    "protocol": protocol,
                    "seed": seed,
                    "n_train": len(train),
                    "n_test": len(y),
                    "accuracy": 100 * evaluation.accuracy(scores, y),
                    "accuracy_lo": 100 * low,
                    "accuracy_hi": 100 * high,
                    "trivial": 100 * float((y == majority).mean()),
                    "balanced": 100 * evaluation.balanced_accuracy(scores, y),
                    "auc": evaluation.roc_area(scores, y),
                }
            )
    return pd.DataFrame(rows)


def boxes_at_zero(profile: Profile) -> pd.DataFrame:
    """Each box map at N = 0 on the Gender test pictures of each set, under that set's own classifier: percent and dB.

    A map that is the identity there changes nothing; `printed`, equation 5 as it stands, does.
    """
    protocol, seed = profile.protocols[0], profile.seeds[0]
    rows = []
    for name in profile.datasets:
        test = rows_of(profile, name, "Gender", "test", protocol, seed)
        y = labels_of(profile, name, "Gender", test, protocol).numpy()
        images = faces(profile, name, protocol).images[test]
        model, plain = classifier(profile, name, "Gender", protocol, seed), to_float(images, torch.device("cpu"))
        for box in BOXES:
            z = Perturbation(torch.zeros(images.shape[1:]), box).apply(images)
            rows.append(
                {
                    "data": name,
                    "box": box,
                    "original": 100 * evaluation.accuracy(model.scores(images), y),
                    "at_zero": 100 * evaluation.accuracy(model.scores(z), y),
                    "psnr": float(similarity.psnr(plain, z).mean()),
                    "darkest": float(z.min()),
                    "brightest": float(z.max()),
                }
            )
    return pd.DataFrame(rows)


def design(profile: Profile) -> pd.DataFrame:
    """Table 1 on the profile's data sets: a row per cell of the paper's Tables 2, 3, 5 and 6."""
    plan = published()[["table", "experiment", "attribute", "data", "model_trained_on"]]
    return plan.replace(dict(zip(ROLES, profile.datasets, strict=True)))


def brief(rows: pd.DataFrame) -> pd.DataFrame:
    """The columns of a table that a reader looks at first, rounded."""
    names = ["attribute", "data", "model", "protocol", "seed", "before", "after", "rise", "rise_lo", "rise_hi", "mcnemar_p"]
    names += ["trivial", "threshold", "colour", "colour_threshold", "oracle", "after_8bit", "after_jpeg95", "psnr", "ssim"]
    if rows["published_before"].notna().any():
        names += ["published_before", "published_after"]
    return rows[names].round(dict.fromkeys(names[5:], 1) | {"mcnemar_p": 4, "ssim": 2})


def panel(o: Outcome) -> figures.Panel:
    """An outcome as the score plots take it."""
    return figures.Panel(o.cell.title, o.before[:, 1].numpy(), o.after[:, 1].numpy(), o.labels)


def block(profile: Profile, o: Outcome) -> figures.Block:
    """An outcome with its faces, as Figure 5 takes it."""
    return figures.Block(panel(o), faces(profile, o.cell.data, o.cell.protocol), o.test_rows, o.perturbation)


def published_confusion(found: Sequence[Outcome]) -> list[NDArray[np.float64]]:
    """The paper's Table 4 for these outcomes, as `figures.confusion` takes it; empty for synthetic data sets."""
    measured = confusion(found)
    if measured["predicted_present_published"].isna().any():
        return []
    columns = ["predicted_present_published", "predicted_absent_published"]
    return [rows[columns].to_numpy().reshape(2, 2, 2) for _, rows in measured.groupby("attribute", sort=False)]
