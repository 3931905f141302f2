"""Classifiers that only answer, in one form: whole grey levels in, scores out."""

import importlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from dftlib.errors import DataError
from dftlib.images import Pictures, whole_levels


def as_scores(answer: Any, rows: int, classes: int, logits: bool, who: str) -> Tensor:
    """What a black box answered to `rows` pictures, in one form: float32 rows x classes, each row sums to 1.

    `answer` is an array, tensor or list of rows x classes probabilities (logits, with `logits`), of `rows` integer labels, or,
    for two classes, of `rows` probabilities (logits) of class 1. Raises `DataError`, beginning with `who`, for anything else.
    """
    try:
        values = torch.atleast_1d(answer.detach().cpu() if isinstance(answer, Tensor) else torch.from_numpy(np.array(answer)))
    except (TypeError, ValueError):
        raise DataError(f"{who} answers with something that is no array of numbers: give scores or labels.") from None
    if values.ndim > 1:
        values = values.flatten(1)  # n x classes x 1 x 1
        values = values[:, 0] if values.shape[1] == 1 else values
    if len(values) != rows:
        raise DataError(f"{who} answers with {len(values)} rows for {rows} pictures: it should give one row a picture.")
    if not values.isfinite().all():
        raise DataError(f"{who} answers with scores that are not numbers: check its weights and the range of its input.")
    if values.ndim == 1 and not values.is_floating_point():
        labels = values.long()
        if strange := labels[(labels < 0) | (labels >= classes)].tolist():
            raise DataError(f"{who} answers with the label {strange[0]}, not in 0 to {classes - 1}: set `classes` to fit it.")
        return nn.functional.one_hot(labels, classes).float()
    values = values.double()
    if values.ndim == 1:
        values = torch.stack([torch.zeros_like(values) if logits else 1 - values, values], 1)
    if (count := values.shape[1]) != classes:
        raise DataError(
            f"{who} answers with {count} classes where {classes} were expected: set `classes` to {count}, or label some of each."
        )
    if logits:
        return values.softmax(1).float()
    sums = values.sum(1, keepdim=True)
    if (wrong := (values < 0).any(1) | ((sums - 1).abs() > 1e-2).squeeze(1)).any():
        row = [round(v, 3) for v in values[wrong][0].tolist()]
        raise DataError(f"{who} answers with rows that are not probabilities, such as {row}: set logits=True if they are logits.")
    return (values / sums).float()


class BlackBox:
    """A classifier that only answers. Whatever it is, it is shown whole grey levels.

    `identity` stands for the classifier and how it is asked: where it is the same, the same answers are expected. It holds
    no secrets. `batch` is the number of pictures in one call or request.
    """

    def __init__(self, who: str, identity: str, classes: int, batch: int, logits: bool) -> None:
        if classes < 2 or batch < 1:
            raise DataError(f"`classes` is {classes} and `batch` {batch}: set them to 2 and 1 at least.")
        self.identity, self.classes, self.batch = identity, classes, batch
        self._who, self._logits = who, logits

    def stream(self, images: Pictures) -> Iterator[tuple[slice, Tensor]]:
        """Answers as they come: a slice of the pictures' rows, and the scores of its m pictures, float32 m x classes.

        Pictures as for `scores`. Raises `DataError` when the classifier fails or its answer can't be used; what was answered
        before has been yielded.
        """
        for rows in self._slices(images):
            yield rows, self._checked(images[rows])

    def scores(self, images: Pictures) -> Tensor:
        """As `Classifier.scores`; raises `DataError` like `stream`."""
        scores = torch.empty(len(images), self.classes)
        for rows, part in self.stream(images):
            scores[rows] = part
        return scores

    def _slices(self, images: Pictures) -> Iterator[slice]:
        return (slice(start, min(start + self.batch, len(images))) for start in range(0, len(images), self.batch))

    def _checked(self, images: Pictures) -> Tensor:
        return as_scores(self._answer(whole_levels(images)), len(images), self.classes, self._logits, self._who)

    def _answer(self, pictures: NDArray[np.uint8]) -> Any:
        """uint8 n x 3 x H x W -> whatever `as_scores` takes."""
        raise NotImplementedError


class CallableClassifier(BlackBox):
    """A Python function: uint8 pictures n x H x W x 3, a copy, to whatever `as_scores` takes; what it raises is passed on."""

    def __init__(
        self, function: Callable[[NDArray[np.uint8]], Any], classes: int = 2, *, identity: str, batch: int = 256,
        logits: bool = False,
    ) -> None:  # fmt: skip
        super().__init__(f"The function {getattr(function, '__name__', identity)}", identity, classes, batch, logits)
        self._function = function

    def _answer(self, pictures: NDArray[np.uint8]) -> Any:
        return self._function(pictures.transpose(0, 2, 3, 1).copy())


def optional(package: str) -> Any:
    """A package of the extra `blackbox`, imported when it's needed; `DataError` where it isn't installed."""
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise DataError(f"The package {package} can't be imported ({error}): install dftlib[blackbox].") from None


def first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0][:200].rstrip(".")
