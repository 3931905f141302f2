"""Whether answers are those of a good classifier whose classes stand in another order."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from dftlib import seeds
from dftlib.errors import DataError

LEAST_GAIN = 0.1  # of balanced accuracy, that another order must bring to be worth a word
SHUFFLES = 1000  # of the labels, to see what chance brings; fewer, as each takes long, where there are more than `MANY` classes
MANY = 100
CHANCE = 0.01  # share of the shuffles that may bring as much; none may where a run is stopped


@dataclass(frozen=True)
class ClassOrder:
    """Another order of the classes, in which the answers are right far more often.

    answers:   n classes: the class that answer 0, 1, … means
    before:    balanced accuracy, in percent, of the answers as they are numbered
    explained: the same in that order
    swapped:   whether hardly anything else explains the answers: they are right at most half as often, no shuffle of the labels
               brings as much, and each class is answered mostly, or nearly so, by the one that would mean it
    """

    answers: tuple[int, ...]
    before: float
    explained: float
    swapped: bool


class ClassOrderError(DataError):
    """The classes of a classifier stand in another order, `order`, than those of the labels."""

    def __init__(self, order: ClassOrder) -> None:
        self.order = order
        super().__init__(
            f"The classifier is right about {order.before:.1f} % of the validation images (mean over classes), and would be "
            f"about {order.explained:.1f} % if its answers 0, 1, … meant the classes {', '.join(map(str, order.answers))}: "
            "number the labels as it does."
        )


def require_order(predicted: NDArray[Any], labels: NDArray[Any], classes: int) -> None:
    """Raises `ClassOrderError` where the `likely_order` is another one and hardly anything else explains the answers."""
    if (order := likely_order(predicted, labels, classes)) and order.swapped:
        raise ClassOrderError(order)


def likely_order(predicted: NDArray[Any], labels: NDArray[Any], classes: int) -> ClassOrder | None:
    """The order in which predicted classes, n, fit the labels, n, best; None where it isn't far better than the order 0, 1, ….

    Far better is a balanced accuracy that rises by `LEAST_GAIN` and more, and by more than for nearly all shuffles of the labels:
    what a search among all orders brings where answers tell nothing.
    """
    present = np.unique(labels)
    if len(present) < 2:
        return None
    shares, meant = _fitted(predicted, labels, classes)
    before, explained = (shares[present, order[present]].mean() for order in (np.arange(classes), meant))
    if explained - before < LEAST_GAIN:
        return None
    draw, as_much = seeds.rng("class order"), 0
    shuffles = min(SHUFFLES, max(MANY * SHUFFLES // classes, round(1 / CHANCE)))
    for _ in range(shuffles):
        by_chance, order = _fitted(predicted, draw.permutation(labels), classes)
        as_much += (by_chance[present, order[present]] - by_chance[present, present]).mean() >= explained - before
        if as_much > CHANCE * shuffles:
            return None
    mostly = bool((2 * shares[present, meant[present]] >= shares[present].max(1)).all())
    swapped = not as_much and 2 * before <= explained and mostly
    return ClassOrder(tuple(np.argsort(meant).tolist()), 100 * float(before), 100 * float(explained), swapped)


def _fitted(predicted: NDArray[Any], labels: NDArray[Any], classes: int) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Shares of each class (row) that are answered by each (column), and for each class the answer that would mean it."""
    counts = np.bincount(classes * labels + predicted, minlength=classes**2).reshape(classes, classes)
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    return shares, linear_sum_assignment(shares + 1e-9 * np.eye(classes), maximize=True)[1]
