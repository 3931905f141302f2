"""Queries are paid for: a log keeps every answer, a meter counts the images and stops at the query budget."""

import hashlib
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dftlib.classifiers.black_box import BlackBox
from dftlib.errors import DataError
from dftlib.images import Pictures, whole_levels
from dftlib.progress import tqdm

IN_ONE_QUESTION = 500  # digests that one SQL statement asks for
CHANGED = 1e-3  # two answers to one image further apart than this are two answers


class BudgetSpentError(Exception):
    """More images were about to be asked than the budget allows; none of them was."""


def digests(identity: str, images: Pictures) -> list[bytes]:
    """What stands for each image n x 3 x H x W, as whole grey levels, in the log of the classifier of this identity."""
    return [hashlib.sha256(identity.encode() + str(x.shape).encode() + x.tobytes()).digest() for x in whole_levels(images)]


class QueryLog:
    """Answers of black boxes in one SQLite file, which only ever grows. Every answer is on disk before it is used."""

    def __init__(self, path: str | Path) -> None:
        """Opens or creates `path`; `DataError`, here or later, where it can't be written or is something else."""
        self.path = Path(path)
        with self._usable():
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._db = sqlite3.connect(self.path, timeout=60, isolation_level=None, check_same_thread=False)
            self._db.execute(
                "CREATE TABLE IF NOT EXISTS answers (identity TEXT, picture BLOB, scores BLOB, PRIMARY KEY (identity, picture))"
            )
            # Writes nothing, and fails where nothing can be written: before an answer is paid for.
            self._db.execute("INSERT INTO answers (identity, picture, scores) SELECT 0, 0, 0 WHERE FALSE")

    def __len__(self) -> int:
        """Answers in the file, of whatever classifier."""
        return int(self._rows("SELECT COUNT(*) FROM answers")[0][0])

    def known(self, identity: str, images: Iterable[bytes]) -> dict[bytes, Tensor]:
        """The answers there are among these digests of images: float32 scores, one a class."""
        wanted, found = list(images), {}
        for start in range(0, len(wanted), IN_ONE_QUESTION):
            some = wanted[start : start + IN_ONE_QUESTION]
            marks = ",".join("?" * len(some))
            question = f"SELECT picture, scores FROM answers WHERE identity = ? AND picture IN ({marks})"
            rows = self._rows(question, identity, *some)
            found.update({image: torch.from_numpy(np.frombuffer(scores, np.float32).copy()) for image, scores in rows})
        return found

    def add(self, identity: str, answers: Mapping[bytes, Tensor]) -> None:
        """Appends answers, in one transaction; one that is there already stays as it is."""
        rows = [(identity, image, scores.numpy().astype(np.float32).tobytes()) for image, scores in answers.items()]
        with self._usable(), self._db:  # which commits, or takes all back
            self._db.execute("BEGIN")
            self._db.executemany("INSERT OR IGNORE INTO answers VALUES (?, ?, ?)", rows)

    def _rows(self, question: str, *values: Any) -> list[Any]:
        with self._usable():
            return self._db.execute(question, values).fetchall()

    @contextmanager
    def _usable(self) -> Iterator[None]:
        try:
            yield
        except (OSError, sqlite3.Error) as error:
            raise DataError(
                f"The query log {self.path} can't be used ({error}): free some space, name another file, or move this one away."
            ) from None


class Meter:
    """A black box behind a query log and a budget, itself a `Classifier` of whole grey levels.

    `used` counts the different images that were needed so far, `sent` those of them that the log didn't hold. The budget is on
    `used`, so a resumed run stops where an undisturbed one would.
    """

    def __init__(self, box: BlackBox, log: QueryLog, budget: int) -> None:
        self.box, self.log, self.budget = box, log, budget
        self.sent = 0
        self._seen: dict[bytes, Tensor] = {}
        self._bar = tqdm(total=budget, desc="asked", unit="image", leave=False)

    def close(self) -> None:
        self._bar.close()

    @property
    def used(self) -> int:
        return len(self._seen)

    @property
    def left(self) -> int:
        return self.budget - self.used

    def scores(self, images: Pictures) -> Tensor:
        """As `Classifier.scores`; raises `BudgetSpentError`, before anything is sent, where the images cost more than is left.

        What is answered before a failure (`DataError`) is in the log.
        """
        return self._asked(images, self.box.identity)

    def unsteady(self, images: Pictures) -> float:
        """Largest difference between the first answers to some images and the answers to the same ones sent once more.

        The second answers are paid for and kept, under a name of their own.
        """
        first = self.scores(images)
        return float((self._asked(images, f"{self.box.identity} (again)") - first).abs().max())

    def _asked(self, images: Pictures, identity: str) -> Tensor:
        levels = whole_levels(images)
        keys = digests(identity, levels)
        first = {key: row for row, key in reversed(list(enumerate(keys))) if key not in self._seen}
        if len(first) > self.left:
            raise BudgetSpentError
        found = self.log.known(identity, first)
        rows = sorted(first[key] for key in first.keys() - found.keys())
        for some, scores in self.box.stream(levels[rows]):
            answers = {keys[row]: answer for row, answer in zip(rows[some], scores, strict=True)}
            self.log.add(identity, answers)
            self.sent += len(answers)
            found |= answers
        self._seen |= {key: found[key] for key in first}
        self._bar.update(len(first))
        return torch.stack([self._seen[key] for key in keys])
