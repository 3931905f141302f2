"""What a black box answers, in whatever form, as scores n x classes: where functions, model files and services meet."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from dftlib.errors import DataError

NUMBERS = ("probabilities", "logits", "sigmoids", "percent")
NOTHING = (type(None), list, tuple, dict)  # what stands, empty, for a picture without an answer


class RowsError(DataError):
    """An answer with more or fewer rows than pictures."""


@dataclass(frozen=True)
class Reading:
    """How answers are read. Raises `DataError` for what makes no sense.

    classes: how many there are
    numbers: what numbers are: 'probabilities', which sum to 1 (or to 100) in each row; 'logits'; 'sigmoids', a probability for
             each class that knows nothing of the others, divided by their sum; or 'percent', as probabilities of 0 to 100
    columns: which columns of a row are the classes, in their order, counted from 0; of two classes that of class 1 is enough
    names:   the classes in their order, as the answers call them: words, or other numbers than 0, 1, …
    """

    classes: int
    numbers: str = "probabilities"
    columns: Sequence[int] = ()
    names: Sequence[Any] = ()

    def __post_init__(self) -> None:
        if self.classes < 2:
            raise DataError(f"A classifier of {self.classes} classes has nothing to tell: give 2 or more.")
        if self.numbers not in NUMBERS:
            raise DataError(f"There are no numbers '{self.numbers}': set `numbers` to one of {', '.join(NUMBERS)}.")
        require_words("names", self.names)
        if self.names and len(self._words) != self.classes:
            count = f"{len(self._words)} different names for {self.classes} classes"
            raise DataError(f"`names` has {count}: give one for each class, in their order.")
        listed = isinstance(self.columns, list | tuple) and all(isinstance(c, int) and c >= 0 for c in self.columns)
        if not listed or len(self.columns) not in ((0, 1, 2) if self.classes == 2 else (0, self.classes)):
            raise DataError(
                f"`columns` is {self.columns} for {self.classes} classes: give a list with the column of each class, "
                "counted from 0; for two classes that of the second is enough."
            )

    @property
    def text(self) -> str:
        """What stands in the identity of a classifier."""
        text = "scores" if self.numbers == "probabilities" else self.numbers
        text += f" columns {list(self.columns)}" if self.columns else ""
        return text + (f" names {list(self.names)}" if self.names else "")

    @property
    def _words(self) -> dict[str, int]:
        return {_word(name): index for index, name in enumerate(self.names)}

    def number(self, value: Any, shown: Callable[[str], str]) -> Any:
        """One picture's answer without words: a name is its class, a dictionary the numbers of the classes; others stay."""
        if isinstance(value, list | tuple) and len(value) == 1 and isinstance(value[0], str | dict):
            value = value[0]
        if isinstance(value, str):
            if _word(value) in self._words:
                return self._words[_word(value)]
        elif isinstance(value, Mapping):
            given = {_word(name): number for name, number in value.items()}
            if self.names and set(self._words) <= set(given):
                return [given[name] for name in self._words]
            if not self.names and all(isinstance(name, int) for name in value):
                return [value[name] for name in sorted(value)]
        else:
            return value
        what = shown(value if isinstance(value, str) else ", ".join(map(str, value)))
        raise DataError(
            f"answers with '{what}' where names were expected: set `names` to the names that it uses, in their order."
        )

    def labels(self, values: Tensor) -> Tensor:
        """Class indices of integers: those that `names` tells, or else -1 and 1 for two classes, or else indices."""
        given, last = values.tolist(), self.classes - 1
        if self.names and all(_word(value) in self._words for value in given):
            return torch.tensor([self._words[_word(value)] for value in given])
        labels = values.add(1) // 2 if self.classes == 2 and -1 in given and set(given) <= {-1, 1} else values
        if strange := labels[(labels < 0) | (labels > last)].tolist():
            raise DataError(f"answers with the label {strange[0]}, not in 0 to {last}: set `names` to the labels that it uses.")
        return labels


def require_words(what: str, given: Any) -> None:
    """Raises `DataError` where YAML made something else of a list of words."""
    words = not isinstance(given, str) and isinstance(given, Iterable)
    if not words or not all(isinstance(name, str | int | float) and not isinstance(name, bool) for name in given):
        raise DataError(
            f"`{what}` is {given!r}, since YAML reads words such as yes, no, on and null in a way of its own: give a list with "
            'each word in quotes, as in \'["yes", "no"]\'.'
        )


def _word(name: Any) -> str:
    return str(name).strip().casefold()


def as_scores(
    answer: Any, rows: int, reading: Reading, who: str, shown: Callable[[str], str] = lambda text: text[:200]
) -> Tensor:
    """What a black box answered to `rows` pictures, in one form: float32 rows x classes; each row sums to 1.

    `answer` is an array, tensor or list of rows of numbers (see `Reading`), of labels (integers, words, -1 and 1), or, for two
    classes, of numbers of class 1; a list of dictionaries from a name to its number, or one dictionary from a name to the
    numbers of all pictures; or an object whose `logits` are such. One picture needs no list around its answer. A row of NaN
    stands for a picture without an answer: None, or an empty list or dictionary. Raises `DataError`, beginning with `who`, for
    anything else, and `RowsError` for another number of rows; `shown` cuts what is quoted.
    """
    logits = answer.get("logits") if isinstance(answer, Mapping) else getattr(answer, "logits", None)
    if logits is not None:
        answer, reading = logits, replace(reading, numbers="logits")
    try:
        if isinstance(answer, Mapping) and answer and (rows > 1 or not np.isscalar(next(iter(answer.values())))):
            columns = [np.asarray(column).reshape(-1).tolist() for column in answer.values()]
            answer = [dict(zip(answer, row, strict=True)) for row in zip(*columns, strict=True)]
        given = [answer] if isinstance(answer, Mapping | str) else answer
        if (listed := _listed(given)) is None:
            return _of_numbers(given, rows, reading)
        if rows == 1 and (not listed or (len(listed) > 1 and all(_is_number(value) for value in listed))):
            listed = [listed]
        _require_rows(len(listed), rows)
        there = torch.tensor([not (isinstance(value, NOTHING) and not value) for value in listed])
        scores = torch.full((rows, reading.classes), torch.nan)
        if there.any():
            numbers = [reading.number(value, shown) for value, is_there in zip(listed, there, strict=True) if is_there]
            scores[there] = _of_numbers(numbers, len(numbers), reading)
        return scores
    except DataError as error:
        raise type(error)(f"{who} {error}") from None
    except (TypeError, ValueError, RuntimeError):
        raise DataError(f"{who} answers with something that is no array of numbers: give scores or labels.") from None


def _listed(answer: Any) -> list[Any] | None:
    """The answers one by one, where they aren't all numbers."""
    if isinstance(answer, Tensor):
        return None
    if isinstance(answer, list | tuple):
        return [value.detach().float().cpu().numpy() if isinstance(value, Tensor) else value for value in answer]
    array = np.asarray(answer)
    return list(array.tolist()) if array.ndim and array.dtype.kind in "OUS" else None


def _is_number(value: Any) -> bool:
    """Of Python or NumPy, or an array of no dimension."""
    return isinstance(value, int | float | np.number) or (isinstance(value, np.ndarray) and value.ndim == 0)


def _require_rows(given: int, rows: int) -> None:
    if given != rows:
        raise RowsError(f"answers with {given} rows for {rows} pictures: it should give one row a picture.")


def _of_numbers(answer: Any, rows: int, reading: Reading) -> Tensor:
    """Scores of what is all numbers."""
    classes, numbers = reading.classes, reading.numbers
    values = torch.atleast_1d(answer.detach().cpu() if isinstance(answer, Tensor) else torch.from_numpy(np.array(answer)))
    if values.is_complex():
        raise TypeError
    if rows == 1 and values.ndim == 1 and len(values) > 1:
        values = values[None]
    values = values.flatten(1) if values.ndim > 1 else values[:, None]  # of n x classes x 1 x 1, or of n
    _require_rows(len(values), rows)
    if not values.isfinite().all():
        raise DataError("answers with scores that are not numbers: check its weights and the range of its input.")
    if reading.columns:
        if (last := max(reading.columns)) >= (count := values.shape[1]):
            raise DataError(f"answers with {count} columns, so there is no column {last}: count them from 0.")
        values = values[:, list(reading.columns)]
    if values.shape[1] == 1:
        signs = numbers != "logits" and bool(((values == 1) | (values == -1)).all() and (values == -1).any())
        if signs or not (values.is_floating_point() or numbers == "percent"):
            return nn.functional.one_hot(reading.labels(values[:, 0].long()), classes).float()
    values = values.double() / (100 if numbers == "percent" else 1)
    if values.shape[1] == 1:
        values = torch.cat([torch.zeros_like(values) if numbers == "logits" else 1 - values, values], 1)
    if (count := values.shape[1]) != classes:
        more = f"choose {classes} with `columns`, or label some of each"
        remedy = more if count > classes else "leave out labels of the others"
        raise DataError(f"answers with {count} classes where {classes} were expected: {remedy}.")
    return (values.softmax(1) if numbers == "logits" else _shares(values, numbers)).float()


def _shares(values: Tensor, numbers: str) -> Tensor:
    """Rows of numbers that aren't logits, each divided by its sum."""
    sums = values.sum(1, keepdim=True)
    wrong = outside = ((values < 0) | (values > 1)).any(1)
    if numbers == "sigmoids":
        values, sums = torch.where(sums > 0, values, 1), torch.where(sums > 0, sums, values.shape[1])
    else:
        percent = (values >= 0).all(1) & ((sums - 100).abs() <= 1)[:, 0]
        wrong, outside = (outside | ((sums - 1).abs() > 1e-2)[:, 0]) & ~percent, outside & ~percent
    if wrong.any():
        row, remedy = values[outside if outside.any() else wrong][0], "to 'logits' if they are logits"
        if not outside.any():
            remedy = f"to 'sigmoids' if each is the probability of its class, or {remedy}, or choose that of class 1 by `columns`"
        elif len(row) == 2 and 1 < row[1] <= 100 and abs(row.sum() - 1) < 1e-9:
            row, remedy = row[1:], f"to 'percent' if they reach to 100, or {remedy}"
        shown = [round(v, 3) for v in row.tolist()]
        raise DataError(f"answers with rows that are not probabilities, such as {shown}: set `numbers` {remedy}.")
    return values / sums
