"""Accuracies with intervals, paired tests and ROC areas of answers to the same images, and thresholds."""

from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binomtest
from torch import Tensor

from dftlib import seeds

Bools = NDArray[np.bool_]
Floats = NDArray[np.float64]


def wilson(correct: Bools) -> tuple[float, float]:
    """95 % Wilson interval of a share, as fractions."""
    interval = binomtest(int(correct.sum()), len(correct)).proportion_ci(0.95, method="wilson")
    return float(interval.low), float(interval.high)


def in_percent(name: str, right: Bools) -> dict[str, float]:
    """The share of `right`, percent, with its Wilson interval, `_lo` and `_hi`; nan where there is nothing to share."""
    shares = (right.mean(), *wilson(right)) if len(right) else (np.nan, np.nan, np.nan)
    return {f"{name}{end}": 100 * float(share) for end, share in zip(("", "_lo", "_hi"), shares, strict=True)}


def mcnemar(before: Bools, after: Bools) -> float:
    """Exact two-sided McNemar p of two classifiers' correctness on the same pictures (1 when they never differ)."""
    gained, lost = int((~before & after).sum()), int((before & ~after).sum())
    return float(binomtest(gained, gained + lost).pvalue) if gained + lost else 1.0


def people_drawn(subjects: NDArray[np.str_], draws: int = 1000) -> Floats:
    """A bootstrap that draws people, not pictures: draws x n, how often each picture counts in each draw.

    One person's pictures are right or wrong together, so an interval that counts them as independent is too narrow.
    """
    people, index = np.unique(subjects, return_inverse=True)
    times = seeds.rng("bootstrap").multinomial(len(people), np.full(len(people), 1 / len(people)), draws)
    return times[:, index].astype(np.float64)


def interval(statistic: Floats) -> tuple[float, float]:
    """The middle 95 % of a statistic over the draws of a bootstrap (draws in which it is undefined are left out)."""
    low, high = np.nanquantile(statistic, (0.025, 0.975))
    return float(low), float(high)


def share(right: NDArray[Any], drawn: Floats) -> Floats:
    """Mean of `right`, n values, in each draw."""
    return cast(Floats, drawn @ right / drawn.sum(1))


def balanced_share(right: Bools, labels: NDArray[np.int64], drawn: Floats) -> Floats:
    """Balanced accuracy, the mean over the classes, in each draw."""
    with np.errstate(invalid="ignore"):  # a draw may lack a class
        return cast(
            Floats, np.mean([share(right[own], drawn[:, own]) for own in (labels == k for k in np.unique(labels))], axis=0)
        )


def area(scores: Floats, labels: NDArray[np.int64], drawn: Floats) -> Floats:
    """Area under the ROC curve of n scores in each draw: the share of pairs of both classes in the right order, ties half."""
    order = np.argsort(scores, kind="stable")
    ties = np.flatnonzero(np.diff(scores[order], prepend=-np.inf))
    present, absent = (np.add.reduceat(drawn[:, order] * (labels[order] == label), ties, axis=1) for label in (1, 0))
    below = absent.cumsum(1) - absent / 2
    with np.errstate(invalid="ignore"):
        return cast(Floats, (present * below).sum(1) / (present.sum(1) * absent.sum(1)))


def best_threshold(scores: Floats, labels: NDArray[np.int64]) -> float:
    """The threshold t for which 'present if score > t' is right most often on these pictures (the first of equals)."""
    order = np.argsort(scores, kind="stable")
    ranked, truth = scores[order], labels[order]
    # With k pictures called absent: right are the absent among the first k and the present among the rest.
    right = np.concatenate([[0], np.cumsum(truth == 0)]) + (truth == 1).sum() - np.concatenate([[0], np.cumsum(truth == 1)])
    middle = (ranked[:-1] + ranked[1:]) / 2
    cuts = np.concatenate([[-np.inf], np.where(middle < ranked[1:], middle, ranked[:-1]), [np.inf]])
    splits_ties = np.concatenate([[False], ranked[:-1] == ranked[1:], [False]])
    return float(cuts[np.argmax(np.where(splits_ties, -1, right))])


def accuracy(scores: Tensor, labels: NDArray[np.int64]) -> float:
    """Share of pictures whose highest score, n x classes, is that of their label."""
    return float((scores.argmax(1).numpy() == labels).mean())
