"""A cell of the tables, and what a perturbation did to its test images beside the simple remedies."""

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from dftlib.datasets.base import Split
from dftlib.datasets.sources import SOURCES
from dftlib.metrics import classification
from dftlib.metrics.comparison import Comparison, compare
from dftlib.perturbation.perturbation import Perturbation

# Beside each perturbation: remedies on the answers and on the images, after the first of all, alignment, which makes `before`
# of `unaligned`; and what N itself must beat.
REMEDIES = ("trivial", "threshold", "colour", "colour_threshold", "mean_picture")
ON_N = ("shuffled", "flipped", "scrambled", "moved_1", "moved_2", "random")


@dataclass(frozen=True)
class Cell:
    """One cell of the paper's Tables 2, 3, 5 and 6: images of `data`, classified by the model trained on `model`."""

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
    """A cell, measured on its test images: the row of the table, and what it was made of.

    scores: n x 2 of every stage and remedy, of validation and fitting images too, and n of PSNR and SSIM (`Lab.outcome`)
    """

    cell: Cell
    row: dict[str, Any]
    test: Split
    perturbation: Perturbation
    scores: dict[str, Tensor]
    comparison: Comparison


def by_threshold(answers: Tensor, labels: Tensor, scores: Tensor, split: Split) -> classification.Bools:
    """Which images of `split`, with scores n x 2, are right with the threshold that is best for `answers` to `labels`."""
    known, present = (given[:, 1].double().numpy() for given in (answers, scores))
    right: classification.Bools = (present > classification.best_threshold(known, labels.numpy())) == split.labels.numpy()
    return right


def remedies_on_answers(scores: dict[str, Tensor], fit: Split, test: Split) -> dict[str, Any]:
    """Which test images are right by the majority class and by a moved threshold, learned from the fitting images."""
    return {
        "trivial": test.labels.numpy() == int(fit.labels.numpy().mean() >= 0.5),
        "threshold": by_threshold(scores["train"], fit.labels, scores["before"], test),
        "colour_threshold": by_threshold(scores["train_colour"], fit.labels, scores["colour"], test),
    }


def beside_simple(before: Tensor, after: Tensor, split: Split, answers: Tensor, fit: Split) -> Comparison:
    """Scores n x 2 beside the threshold that is best for `answers` to fitting images: the remedy that costs nothing.

    Of validation images it decides whether N is recommended.
    """
    return compare(before, after, split, {"moving the threshold": by_threshold(answers, fit.labels, before, split)})


def row_of(comparison: Comparison, chosen: Comparison, scores: dict[str, Tensor]) -> dict[str, float]:
    """Accuracies and intervals in percent, ROC areas in [0, 1]; `chosen` is the comparison on validation images.

    `over_best` compares with whichever is best on these very test images, of `REMEDIES` and of leaving the (aligned) images
    as they are: the remedies are given the choice that N hasn't.
    """
    labels = comparison.labels
    after_gate = comparison.accuracy("after" if chosen.recommended else "before")
    balanced, areas = comparison.balanced(), comparison.areas()
    others = ("unaligned", "after_8bit", "after_jpeg95", "oracle")
    percent = {name: 100 * classification.accuracy(scores[name], labels) for name in others}
    return {
        **comparison.row(), "unaligned": percent.pop("unaligned"), **{name: comparison.accuracy(name) for name in REMEDIES},
        **{f"over_best{end}": value for end, value in comparison.over(comparison.best).items()},
        **balanced, **percent,
        "val_rise_lo": chosen.rise["_lo"], "val_rise_hi": chosen.rise["_hi"], "after_gate": after_gate, **areas,
    }  # fmt: skip


def origin(cell: Cell, signature: str, about: dict[str, Any]) -> dict[str, Any]:
    """`about` of a perturbation of the cell, with what its card says of the data set (of this digest), classes and classifier."""
    licence = {"licence": SOURCES[cell.data].terms} if cell.data in SOURCES else {}
    return {
        **about,
        "data": {"name": cell.data, "split": cell.protocol, "content": signature[:16], **licence},
        "fitted_on": {**about["fitted_on"], "classes": [f"'{cell.attribute}' {word}" for word in ("absent", "present")]},
        "classifier": f"{about['classifier']}, trained on '{cell.model}'",
    }
