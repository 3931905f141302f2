"""Before against after on the same images: one comparison for every table, and for the advice that follows from it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dftlib.datasets.base import Split, require_known
from dftlib.errors import DataError
from dftlib.metrics import classification
from dftlib.metrics.classification import Bools, Floats

# People who can show a gain, or the harm of a group: that five are all better or worse off may still be chance (an exact test's p
# is 0.06), and a bootstrap that draws people knows no width of one.
FEWEST = 6
Answers = Tensor | NDArray[Any]  # scores n x classes, or n bools: which images are right


@dataclass(frozen=True)
class Comparison:
    """Which of n images are right before, after and under each baseline; `row` says it in percent, with 95 % intervals.

    Intervals of accuracies are Wilson's; those of differences are of a bootstrap over people.
    """

    labels: NDArray[np.int64]
    subjects: NDArray[np.str_]
    right: Mapping[str, Bools]  # 'before', 'after' and the baselines
    scores: Mapping[str, Floats] = field(default_factory=dict)  # n, the higher the likelier class 1, of two classes with scores
    groups: Mapping[str, Bools] = field(default_factory=dict)  # n bools each: who else than a class must not be worse off

    @cached_property
    def drawn(self) -> Floats:
        return classification.people_drawn(self.subjects)

    def of(self, where: Bools) -> "Comparison":
        """The same for some of the images: n bools."""
        right = {name: correct[where] for name, correct in self.right.items()}
        scores = {name: present[where] for name, present in self.scores.items()}
        groups = {name: own[where] for name, own in self.groups.items()}
        return Comparison(self.labels[where], self.subjects[where], right, scores, groups)

    def accuracy(self, name: str) -> float:
        """In percent."""
        return 100 * float(self.right[name].mean())

    def over(self, name: str, what: str = "after") -> dict[str, float]:
        """By how many points `what` is ahead of `name`: '' the difference, '_lo' and '_hi' its interval."""
        better, worse = self.right[what], self.right[name]
        low, high = classification.interval(classification.share(better.astype(float) - worse, self.drawn))
        return {"": 100 * float(better.mean() - worse.mean()), "_lo": 100 * low, "_hi": 100 * high}

    @cached_property
    def best(self) -> str:
        """The most accurate of leaving the images as they are and of the baselines, on these very images."""
        return max((name for name in self.right if name != "after"), key=self.accuracy)

    @cached_property
    def rise(self) -> dict[str, float]:
        return self.over("before")

    @cached_property
    def why_not(self) -> str:
        """Why N is not recommended, a sentence; empty where it is. Ask validation images: test images have no part in a decision.

        Recommended is an N whose rise is clear of zero on `FEWEST` people or more, under which no group and no class (of as many)
        has a change clear below zero, and which is not behind any baseline, nor behind the most frequent class of these very
        labels.
        """
        if (people := len(np.unique(self.subjects))) < FEWEST:
            return f"Fewer than {FEWEST} people are on the images ({people}), too few to tell a gain from chance."
        if not self.rise["_lo"] > 0:
            return "The gain is not clear of zero."
        for name, where in self.everyone.items():
            own = self.of(where)
            if len(np.unique(own.subjects)) >= FEWEST and own.rise["_hi"] < 0:
                was, now = own.accuracy("before"), own.accuracy("after")
                return f"It harms {name}, which falls from {was:.1f} to {now:.1f} % right."
        name, best = self.simplest
        if self.accuracy("after") < best:
            return f"It is behind a simple remedy, {name}: {self.accuracy('after'):.1f} % right against {best:.1f} %."
        return ""

    @property
    def recommended(self) -> bool:
        """Whether nothing speaks against N: see `why_not`."""
        return not self.why_not

    @property
    def everyone(self) -> dict[str, Bools]:
        """The images, n bools each, of the stated groups, and of each class that is there and none of these."""
        classes = {f"class {k}": self.labels == k for k in np.unique(self.labels)}
        known = list(self.groups.values())
        return {**self.groups, **{k: own for k, own in classes.items() if not any(np.array_equal(own, group) for group in known)}}

    @property
    def simplest(self) -> tuple[str, float]:
        """The best baseline on these very images, always naming their most frequent class among them: its name, and percent."""
        simple = {name: self.accuracy(name) for name in self.right if name not in ("before", "after")}
        simple["always naming the most frequent class"] = 100 * float(np.bincount(self.labels).max() / len(self.labels))
        return max(simple.items(), key=lambda pair: pair[1])

    def evidence(self) -> dict[str, Any]:
        """What a card says of a perturbation on these images, JSON-able: `row`, of each group and class too, `simplest`."""
        there = {name: self.of(where) for name, where in self.everyone.items() if where.any()}
        each = {name: {"images": len(own.labels), **own.row()} for name, own in there.items()}
        remedy, best = self.simplest
        return {"images": len(self.labels), **self.row(), "remedy": remedy, "remedy_accuracy": best, "groups": each}

    def row(self) -> dict[str, float]:
        """`before`, `after` and `rise` with `_lo` and `_hi` (percent), `gained` and `lost` images, and McNemar's exact p."""
        before, after = self.right["before"], self.right["after"]
        shares = classification.in_percent("before", before) | classification.in_percent("after", after)
        rise = {f"rise{end}": value for end, value in self.rise.items()}
        gained, lost = int((~before & after).sum()), int((before & ~after).sum())
        return {**shares, **rise, "gained": gained, "lost": lost, "mcnemar_p": classification.mcnemar(before, after)}

    def balanced(self) -> dict[str, float]:
        """Balanced accuracy before and after in percent, and the interval of its rise."""
        return self._measured("balanced", classification.balanced_share, self.right, 100)

    def areas(self) -> dict[str, float]:
        """Areas under the ROC curve before and after, in [0, 1], and the interval of their rise; two classes only."""
        return self._measured("auc", classification.area, self.scores, 1)

    def _measured(
        self, name: str, statistic: Callable[..., Floats], given: Mapping[str, NDArray[Any]], unit: int
    ) -> dict[str, float]:
        """A statistic of what is given before and after, times `unit`, and the interval of its rise."""
        one, stages = np.ones((1, len(self.labels))), ("before", "after")
        row = {f"{name}_{stage}": unit * float(statistic(given[stage], self.labels, one)[0]) for stage in stages}
        before, after = (statistic(given[stage], self.labels, self.drawn) for stage in stages)
        low, high = classification.interval(after - before)
        return row | {f"{name}_rise_lo": unit * low, f"{name}_rise_hi": unit * high}


def compare(
    before: Answers, after: Answers, split: Split,
    baselines: Mapping[str, Answers] | None = None, groups: Mapping[str, Bools] | None = None,
) -> Comparison:  # fmt: skip
    """What became of the images of a split: answers before, after, and under each baseline.

    Each is scores n x classes, probabilities or logits (the highest counts; nan: no answer, which is wrong), or n bools that say
    which images are right.
    `groups` are n bools each: people to whom no recommended perturbation may do harm, as to no class. Raises `DataError` where
    there is no image, and for answers of another form.
    """
    if not isinstance(split, Split):
        raise DataError(f"Answers are compared on a Split, not on a {type(split).__name__}: give Split(images, labels).")
    if not len(split.labels):
        raise DataError("There is no image to compare answers on: give a split that has some.")
    labels = split.labels.cpu().numpy()
    answers = {"before": before, "after": after, **(baselines or {})}
    arrays = {name: _array(given) for name, given in answers.items()}
    for name, given in arrays.items():
        if len(given) != len(labels) or (given.ndim != 2 and given.dtype != bool):
            form = f"{given.shape} {given.dtype} for {len(labels)} images"
            raise DataError(f"The answers '{name}' are {form}: give scores n x classes, or n bools that say which are right.")
        if given.ndim == 2:
            require_known(split.labels, given.shape[1])
    there = {name: ~np.isnan(given).any(1) for name, given in arrays.items() if given.ndim == 2}
    right = {name: there[name] & (given.argmax(1) == labels) if name in there else given for name, given in arrays.items()}
    pairs = {name: _of_class_1(arrays[name], own, labels) for name, own in there.items() if arrays[name].shape[1] == 2}
    return Comparison(labels, split.subjects, right, pairs, groups or {})


def _array(given: Answers) -> NDArray[Any]:
    if not isinstance(given, Tensor):
        return np.asarray(given)
    given = given.detach().cpu()
    return (given.float() if given.dtype == torch.bfloat16 else given).numpy()  # which NumPy has no type for


def _of_class_1(scores: NDArray[Any], there: Bools, labels: NDArray[np.int64]) -> Floats:
    """Of scores n x 2 what orders the images: probabilities of class 1, else its lead; without an answer as wrong as can be."""
    scores = scores.astype(float)
    if np.allclose(scores[there].sum(1), 1, atol=0.01):
        return np.where(there, scores[:, 1], 1 - labels)
    lead = scores[:, 1] - scores[:, 0]
    return np.where(there, lead, (1 - 2 * labels) * (1 + np.abs(lead[there]).max(initial=0)))
