"""Classifiers that only answer, in one form: whole grey levels in, scores out."""

import importlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dftlib.classifiers.answers import Reading, as_scores
from dftlib.errors import DataError
from dftlib.images import Pictures, whole_levels


class BlackBox:
    """A classifier that only answers. Whatever it is, it is shown whole grey levels.

    `identity` stands for the classifier and how it is asked: where it is the same, the same answers are expected. It holds
    no secrets. `batch` is the number of pictures in one call or request. `size` is the height and width in pixels that it
    tells, None where it doesn't; `notes` are sentences on how it came to be asked, `refusal` what it last said instead of an
    answer.
    """

    size: tuple[int, int] | None = None
    refusal = ""

    def __init__(self, who: str, identity: str, reading: Reading, batch: int) -> None:
        if batch < 1 or not isinstance(batch, int | np.integer):
            raise DataError(f"`batch` is {batch}: set it to a whole number, 1 at least.")
        self.identity, self.classes, self.batch = identity, reading.classes, batch
        self.notes: list[str] = []
        self._who, self._reading = who, reading

    def stream(self, images: Pictures) -> Iterator[tuple[slice, Tensor]]:
        """Answers as they come: a slice of the pictures' rows, and the scores of its m pictures, float32 m x classes.

        Pictures as for `scores`. Raises `DataError` when the classifier fails or its answer can't be used; what was answered
        before has been yielded.
        """
        for rows in self._slices(images):
            yield rows, self._checked(images[rows])

    def scores(self, images: Pictures) -> Tensor:
        """As `TorchClassifier.scores`; raises `DataError` like `stream`. A picture without an answer has a row of NaN."""
        scores = torch.empty(len(images), self.classes)
        for rows, part in self.stream(images):
            scores[rows] = part
        return scores

    def _slices(self, images: Pictures) -> Iterator[slice]:
        size = self.batch  # which may change on the way
        return (slice(start, min(start + size, len(images))) for start in range(0, len(images), size))

    def _checked(self, images: Pictures) -> Tensor:
        return as_scores(self._answer(whole_levels(images)), len(images), self._reading, self._who, self._excerpt)

    def _answer(self, pictures: NDArray[np.uint8]) -> Any:
        """uint8 n x 3 x H x W -> whatever `as_scores` takes."""
        raise NotImplementedError

    def _excerpt(self, text: str) -> str:
        """The beginning of what the classifier said."""
        return " ".join(text.split())[:200]


class CallableClassifier(BlackBox):
    """A Python function: uint8 pictures n x H x W x 3, a copy, to whatever `as_scores` takes; what it raises is passed on.

    `numbers`, `columns` and `names` say how its answers are read, as in `Reading`.
    """

    def __init__(
        self, function: Callable[[NDArray[np.uint8]], Any], classes: int = 2, *, identity: str, batch: int = 256,
        numbers: str = "probabilities", columns: Sequence[int] = (), names: Sequence[Any] = (),
    ) -> None:  # fmt: skip
        who = f"The function {getattr(function, '__name__', identity)}"
        super().__init__(who, identity, Reading(classes, numbers, columns, names), batch)
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
