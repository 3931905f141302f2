"""Queries are paid for: a log keeps every answer, a meter counts the images and stops at the query budget."""

import hashlib
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dftlib.classifiers.black_box import BlackBox
from dftlib.errors import DataError
from dftlib.images import Pictures, batches, whole_levels
from dftlib.progress import tqdm

CHANGED = 1e-3  # two answers to one image further apart than this are two answers
ANEW = 8  # images asked anew at the start of every run, if so many were answered before
ANEW_LABELS = 32  # the same where answers are labels, which another classifier may well give alike
UNANSWERED = 0.2  # share of the images asked that may be without an answer
FEW = 8  # so many may be in any case


class BudgetSpentError(Exception):
    """More images were about to be asked than the budget allows; none of them was."""


class UnansweredError(DataError):
    """Too many images are without an answer."""


def digests(identity: str, images: Pictures) -> list[bytes]:
    """What stands for each image n x 3 x H x W, as whole grey levels, in the log of the classifier of this identity."""
    whole = (x for batch in batches(images) for x in whole_levels(batch))
    return [hashlib.sha256(identity.encode() + str(x.shape).encode() + x.tobytes()).digest() for x in whole]


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
        question = "SELECT scores FROM answers WHERE identity = ? AND picture = ?"
        found = {image: self._rows(question, identity, image) for image in images}
        return {image: torch.from_numpy(np.frombuffer(rows[0][0], np.float32).copy()) for image, rows in found.items() if rows}

    def add(self, identity: str, answers: Mapping[bytes, Tensor]) -> None:
        """Appends answers, in one transaction; one that is there already stays as it is."""
        rows = [(identity, image, scores.numpy().astype(np.float32).tobytes()) for image, scores in answers.items()]
        with self._usable(), self._db:  # which commits, or takes all back
            self._db.execute("BEGIN")
            self._db.executemany("INSERT OR IGNORE INTO answers VALUES (?, ?, ?)", rows)

    def anew(self) -> int:
        """Answers in the file to images asked anew."""
        return int(self._rows("SELECT COUNT(*) FROM answers WHERE identity LIKE '% (anew %'")[0][0])

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
    """A black box behind a query log and a budget: it answers whole grey levels with scores, as the box does.

    `used` counts the different images that were needed so far, `sent` those of them that the log didn't hold. The budget is on
    `used`, so a resumed run stops where an undisturbed one would.
    """

    def __init__(self, box: BlackBox, log: QueryLog, budget: int) -> None:
        self.box, self.log, self.budget, self._again = box, log, budget, f"{box.identity} (again)"
        self.sent = self._unanswered = 0
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
        """As `BlackBox.scores`; raises `BudgetSpentError`, before anything is sent, where the images cost more than is left.

        What is answered before a failure (`DataError`) is in the log. Raises `UnansweredError` where more than `UNANSWERED` of
        all images so far (and more than `FEW`) are without an answer.
        """
        return self._asked(images, self.box.identity)

    def unsteady(self, images: Pictures) -> float:
        """Largest difference between the first answers to some images and the answers to the same ones sent once more.

        The second answers are paid for and kept, under a name of their own.
        """
        first = self.scores(images)
        return float(_apart(self._asked(images, self._again), first).max())

    def require_same(self, images: Pictures) -> None:
        """Asks some images anew whose answers are in the log; `DataError` where it's another classifier that answers now.

        They are `ANEW` (`ANEW_LABELS`), or as many as there are; those that are answered otherwise are asked once more. All of
        it is paid for, counted in `sent`, and kept under a name of its own; it isn't of the budget. An answer is another one
        where both new ones are further from it than twice what two answers of the same classifier are apart.
        """
        keys = digests(self.box.identity, images)
        known = self.log.known(self.box.identity, keys)
        rows = sorted({key: row for row, key in enumerate(keys) if key in known}.values())
        if not rows:
            return
        labels = torch.stack(list(known.values())).nan_to_num(1)
        count = ANEW_LABELS if bool(((labels == 0) | (labels == 1)).all()) else ANEW
        chosen = [rows[i] for i in sorted({i * len(rows) // count for i in range(count)})]

        def anew(rows: list[int]) -> Tensor:
            name = f"{self.box.identity} (anew {len(self.log)})"
            return self._sent(whole_levels(images[rows]), [keys[row] for row in rows], name)

        twice = dict(zip(digests(self._again, images), keys, strict=True))
        again = self.log.known(self._again, twice)
        pairs = [(answer, known[twice[key]]) for key, answer in again.items() if twice[key] in known]
        steady = max([CHANGED / 2, *(float(_apart(*pair).max()) for pair in pairs)])
        old, new = torch.stack([known[keys[row]] for row in chosen]), anew(chosen)
        others = _apart(new, old) > 2 * steady
        if not others.any():
            return
        third = anew([row for row, other in zip(chosen, others, strict=True) if other])
        steady = max(steady, float(_apart(third, new[others]).max()))
        changed = torch.minimum(_apart(new[others], old[others]), _apart(third, old[others]))
        if count := int((changed > 2 * steady).sum()):
            raise DataError(
                f"The classifier isn't the one whose answers {self.log.path} holds: of {len(chosen)} pictures asked anew it "
                f"answers {count} otherwise, by up to {float(changed.max()):.3f}; move that file away to begin anew."
            )

    def _asked(self, images: Pictures, identity: str) -> Tensor:
        levels = whole_levels(images)
        keys = digests(identity, levels)
        first = {key: row for row, key in reversed(list(enumerate(keys))) if key not in self._seen}
        if len(first) > self.left:
            raise BudgetSpentError
        found = self.log.known(identity, first)
        rows = sorted(first[key] for key in first.keys() - found.keys())
        if rows:
            chosen = [keys[row] for row in rows]
            found |= dict(zip(chosen, self._sent(levels[rows], chosen, identity), strict=True))
        self._seen |= {key: found[key] for key in first}
        self._bar.update(len(first))
        self._unanswered += sum(bool(found[key].isnan().any()) for key in first)
        if self._unanswered > max(FEW, UNANSWERED * self.used):
            refusal = f" ({self.box.refusal})" if self.box.refusal else ""
            raise UnansweredError(
                f"The classifier gives no answer{refusal} to {self._unanswered} of {self.used} pictures, which is more than "
                f"{100 * UNANSWERED:.0f} %: leave out those in which it finds nothing."
            )
        return torch.stack([self._seen[key] for key in keys])

    def _sent(self, levels: NDArray[np.uint8], keys: list[bytes], identity: str) -> Tensor:
        """Sends these images, and keeps each answer as it comes."""
        scores = torch.empty(len(keys), self.box.classes)
        for some, part in self.box.stream(levels):
            self.log.add(identity, dict(zip(keys[some], part, strict=True)))
            self.sent += len(part)
            scores[some] = part
        return scores


def _apart(some: Tensor, others: Tensor) -> Tensor:
    """The largest difference between two answers in each row of scores; 1 where one is no answer."""
    return (some.nan_to_num(-1) - others.nan_to_num(-1)).abs().amax(-1).clamp_max(1)
