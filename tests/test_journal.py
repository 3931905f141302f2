"""What was paid for is kept: the query log, and the meter that counts pictures and stops at the budget."""

import multiprocessing
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

from dftlib.classifiers.answers import Reading
from dftlib.classifiers.black_box import BlackBox, CallableClassifier
from dftlib.errors import DataError
from dftlib.images import Pictures
from dftlib.perturbation.query_log import ANEW, ANEW_LABELS, BudgetSpentError, Meter, QueryLog, UnansweredError


def answered(rows: range, seed: int = 0) -> dict[bytes, Tensor]:
    """Answers of three classes under made-up digests."""
    random = torch.Generator().manual_seed(seed)
    return {f"picture {row}".encode(): torch.rand(3, generator=random) for row in rows}


def same(a: dict[bytes, Tensor], b: dict[bytes, Tensor]) -> bool:
    """To the bit."""
    return a.keys() == b.keys() and all(torch.equal(a[key].view(torch.int32), b[key].view(torch.int32)) for key in a)


# ---- the log


def test_answers_come_back_to_the_bit(tmp_path: Path) -> None:
    path, answers = tmp_path / "folder" / "log.db", answered(range(1201))
    answers[b"extreme"] = torch.tensor([1e-42, 1.0, 1 - 2**-24])
    QueryLog(path).add("a", answers)
    assert same(QueryLog(path).known("a", [*answers, b"never asked"]), answers)
    assert QueryLog(path).known("a", []) == {}


def test_the_first_answer_stays(tmp_path: Path) -> None:
    log, first = QueryLog(tmp_path / "log.db"), answered(range(5))
    log.add("a", first)
    log.add("a", answered(range(9), seed=1))
    assert same(log.known("a", first), first)
    assert len(log.known("a", answered(range(20)))) == 9


def test_classifiers_keep_their_answers_apart(tmp_path: Path) -> None:
    log, a, b = QueryLog(tmp_path / "log.db"), answered(range(5)), answered(range(5), seed=1)
    log.add("a", a)
    assert log.known("b", a) == {}
    log.add("b", b)
    assert same(log.known("a", a), a)
    assert same(log.known("b", a), b)


def damaged(path: Path) -> None:
    QueryLog(path).add("a", answered(range(2000)))
    content = path.read_bytes()
    path.write_bytes(content[:8192] + b"\xa5" * (len(content) - 8192))


def of_another_program(path: Path) -> None:
    with sqlite3.connect(path) as db:
        db.execute("CREATE TABLE answers (question TEXT, answer TEXT)")


def below_a_file(path: Path) -> None:
    path.parent.rmdir()
    path.parent.touch()


@pytest.mark.parametrize(
    "spoil",
    [lambda path: path.write_bytes(b"no log" * 1000), damaged, of_another_program, below_a_file, Path.mkdir],
)
def test_what_is_no_log_is_refused(tmp_path: Path, spoil: Callable[[Path], Any]) -> None:
    path = tmp_path / "folder" / "log.db"
    path.parent.mkdir()
    spoil(path)
    with pytest.raises(DataError, match=r"log\.db can't be used \(.*: .*name another file.*\.$"):
        QueryLog(path).known("a", answered(range(2000)))


def test_a_log_that_can_only_be_read_is_refused_before_anything_is_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    QueryLog(tmp_path / "log.db")
    connect = sqlite3.connect  # not by permissions: the superuser may write everything
    monkeypatch.setattr(sqlite3, "connect", lambda path, **how: connect(f"file:{path}?mode=ro", uri=True, **how))
    with pytest.raises(DataError, match=r"log\.db can't be used \(.*readonly"):
        QueryLog(tmp_path / "log.db")


def test_a_refused_answer_leaves_the_log_in_order(tmp_path: Path) -> None:
    """As when the disk is full for a while: all of an `add` is kept, or nothing."""
    path, answers = tmp_path / "log.db", answered(range(9))
    log, other = QueryLog(path), sqlite3.connect(path)
    other.execute(
        "CREATE TRIGGER full BEFORE INSERT ON answers WHEN NEW.picture = CAST('picture 5' AS BLOB) "
        "BEGIN SELECT RAISE(ABORT, 'disk full'); END"
    )
    with pytest.raises(DataError, match="disk full"):
        log.add("a", answers)
    assert log.known("a", answers) == {}
    other.execute("DROP TRIGGER full")
    log.add("a", answers)
    assert same(QueryLog(path).known("a", answers), answers)


def write(path: Path, start: int) -> None:
    log = QueryLog(path)
    for row in range(start, start + 300, 3):
        log.add("a", answered(range(row, row + 6)))


def test_two_processes_write_at_once(tmp_path: Path) -> None:
    fork = multiprocessing.get_context("fork")
    writers = [fork.Process(target=write, args=(tmp_path / "log.db", start)) for start in (0, 150)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(50)
    assert [writer.exitcode for writer in writers] == [0, 0]
    assert len(QueryLog(tmp_path / "log.db").known("a", answered(range(1000)))) == 453


# ---- the meter

Ask = Callable[[NDArray[np.uint8]], Any]


def picture(*shades: int) -> Tensor:
    """Pictures of one grey level each."""
    return torch.tensor(shades, dtype=torch.uint8).view(-1, 1, 1, 1).repeat(1, 3, 4, 4)


def brightness(pictures: NDArray[np.uint8]) -> Any:
    return pictures.mean((1, 2, 3)) / 255


class Counter:
    """A black box, two pictures a call, that remembers which grey levels it was sent."""

    def __init__(self, ask: Ask = brightness, identity: str = "brightness") -> None:
        self.ask = ask
        self.sent: list[int] = []
        self.box = CallableClassifier(self, identity=identity, batch=2)
        self.alone = CallableClassifier(ask, identity="")

    def __call__(self, pictures: NDArray[np.uint8]) -> Any:
        answer = self.ask(pictures)
        self.sent += pictures[:, 0, 0, 0].tolist()
        return answer


def test_each_different_picture_counts_once(tmp_path: Path) -> None:
    counter = Counter()
    meter = Meter(counter.box, QueryLog(tmp_path / "log.db"), 10)
    for images in (picture(5, 7, 5, 7, 9), picture(7, 5), picture(9, 5) / 255, picture(9, 5).numpy()):
        assert torch.equal(meter.scores(images), counter.alone.scores(images))
    assert sorted(counter.sent) == [5, 7, 9]
    assert (meter.used, meter.sent, meter.left) == (3, 3, 7)


def test_pictures_of_equal_bytes_and_other_shape_are_different(tmp_path: Path) -> None:
    counter = Counter()
    meter = Meter(counter.box, QueryLog(tmp_path / "log.db"), 10)
    meter.scores(torch.full((1, 3, 2, 8), 4, dtype=torch.uint8))
    meter.scores(torch.full((1, 3, 8, 2), 4, dtype=torch.uint8))
    assert meter.used == 2


def test_answers_from_the_log_cost_nothing_and_count(tmp_path: Path) -> None:
    first = Meter(Counter().box, QueryLog(tmp_path / "log.db"), 10)
    wanted = first.scores(picture(1, 2, 3))
    counter = Counter(ask=lambda pictures: brightness(pictures) / 2)
    meter = Meter(counter.box, QueryLog(tmp_path / "log.db"), 4)
    assert torch.equal(meter.scores(picture(3, 1)), wanted[[2, 0]])
    assert (meter.used, meter.sent) == (2, 0)
    meter.scores(picture(1, 2, 3, 4))
    assert (meter.used, meter.sent, counter.sent) == (4, 1, [4])
    with pytest.raises(BudgetSpentError):
        Meter(counter.box, QueryLog(tmp_path / "log.db"), 2).scores(picture(1, 2, 3))
    stranger = Counter(identity="another")
    Meter(stranger.box, QueryLog(tmp_path / "log.db"), 4).scores(picture(1, 2))
    assert stranger.sent == [1, 2]


def test_nothing_is_sent_beyond_the_budget(tmp_path: Path) -> None:
    counter = Counter()
    meter = Meter(counter.box, QueryLog(tmp_path / "log.db"), 5)
    meter.scores(picture(1, 2, 3))
    with pytest.raises(BudgetSpentError):
        meter.scores(picture(1, 4, 5, 6))
    assert (meter.used, sorted(counter.sent)) == (3, [1, 2, 3])
    meter.scores(picture(1, 2, 3, 4, 5, 5))
    assert (meter.used, meter.left, sorted(counter.sent)) == (5, 0, [1, 2, 3, 4, 5])
    meter.scores(picture(5, 4, 3))


@given(questions=st.lists(st.lists(st.integers(0, 8), min_size=1, max_size=6), max_size=8), budget=st.integers(0, 10))
def test_used_is_what_was_needed_and_within_the_budget(questions: list[list[int]], budget: int) -> None:
    counter, needed = Counter(), set[int]()
    meter = Meter(counter.box, QueryLog(":memory:"), budget)
    for question in questions:
        try:
            scores = meter.scores(picture(*question))
        except BudgetSpentError:
            assert len(needed | set(question)) > budget
        else:
            needed |= set(question)
            np.testing.assert_allclose(scores[:, 1] * 255, question, atol=1e-4)
        assert meter.used == meter.sent == len(needed) <= budget
        assert sorted(counter.sent) == sorted(needed)


class Backwards(BlackBox):
    """Answers the last pictures first, as a service with parallel requests may."""

    def __init__(self) -> None:
        super().__init__("It", "backwards", Reading(2), 2)

    def stream(self, images: Pictures) -> Iterator[tuple[slice, Tensor]]:
        for rows in reversed(list(self._slices(images))):
            bright = torch.as_tensor(images[rows]).float().mean((1, 2, 3)) / 255
            yield rows, torch.stack([1 - bright, bright], 1)


def test_answers_out_of_order_go_to_their_pictures(tmp_path: Path) -> None:
    shades = [9, 2, 7, 2, 30, 1, 9, 200, 4]
    for _ in range(2):
        scores = Meter(Backwards(), QueryLog(tmp_path / "log.db"), 10).scores(picture(*shades))
        np.testing.assert_allclose(scores[:, 1] * 255, shades, rtol=1e-5)


def test_what_was_answered_before_a_failure_is_kept(tmp_path: Path) -> None:
    def fails(pictures: NDArray[np.uint8]) -> Any:
        if (pictures == 5).any():
            raise DataError("It is gone: wait.")
        return brightness(pictures)

    meter = Meter(Counter(fails).box, QueryLog(tmp_path / "log.db"), 10)
    with pytest.raises(DataError, match="It is gone"):
        meter.scores(picture(1, 2, 3, 4, 5, 6, 7, 8))
    assert (meter.sent, meter.used) == (4, 0)
    counter = Counter()
    again = Meter(counter.box, QueryLog(tmp_path / "log.db"), 8)
    again.scores(picture(1, 2, 3, 4, 5, 6, 7, 8))
    assert (again.sent, again.used, counter.sent) == (4, 8, [5, 6, 7, 8])


def test_a_box_that_changes_its_answers_is_seen_and_asked_no_third_time(tmp_path: Path) -> None:
    calls = []

    def drifts(pictures: NDArray[np.uint8]) -> Any:
        calls.append(len(pictures))
        return brightness(pictures) + 0.01 * len(calls)

    meter = Meter(Counter(drifts).box, QueryLog(tmp_path / "log.db"), 8)
    assert meter.unsteady(picture(1, 2, 3, 4)) == pytest.approx(0.02, abs=1e-6)  # calls 1 and 2, then 3 and 4
    assert (calls, meter.used) == ([2, 2, 2, 2], 8)
    resumed = Meter(Counter(drifts).box, QueryLog(tmp_path / "log.db"), 8)
    assert resumed.unsteady(picture(1, 2, 3, 4)) == pytest.approx(0.02, abs=1e-6)
    assert (calls, resumed.sent, resumed.used) == ([2, 2, 2, 2], 0, 8)
    with pytest.raises(BudgetSpentError):
        resumed.scores(picture(5))


def test_a_steady_box_is_steady(tmp_path: Path) -> None:
    counter = Counter()
    meter = Meter(counter.box, QueryLog(tmp_path / "log.db"), 8)
    assert meter.unsteady(picture(1, 2, 3)) == 0
    assert sorted(counter.sent) == [1, 1, 2, 2, 3, 3]


# ---- another classifier under the same name

SHADES = range(10, 90)


def journaled(tmp_path: Path, ask: Ask, twice: int = 0) -> None:
    """A log of answers to all shades; the first so many are asked twice."""
    meter = Meter(Counter(ask).box, QueryLog(tmp_path / "log.db"), 200)
    meter.scores(picture(*SHADES))
    if twice:
        meter.unsteady(picture(*SHADES[:twice]))


def asked_anew(tmp_path: Path, ask: Ask) -> list[int]:
    """The shades that are sent to see whether this is the classifier of the log."""
    counter = Counter(ask)
    meter = Meter(counter.box, QueryLog(tmp_path / "log.db"), 200)
    meter.require_same(picture(*SHADES, 7, 8))
    assert meter.used == 0
    assert meter.sent == len(counter.sent) == QueryLog(tmp_path / "log.db").anew()
    return counter.sent


def labelled(pictures: NDArray[np.uint8]) -> Any:
    return (pictures.mean((1, 2, 3)) > 50).astype(int)


def test_the_same_classifier_is_asked_a_few_anew(tmp_path: Path) -> None:
    assert asked_anew(tmp_path, brightness) == []  # nothing is known yet
    journaled(tmp_path, brightness)
    sent = asked_anew(tmp_path, brightness)
    assert len(sent) == len(set(sent)) == ANEW >= 8
    assert min(sent) < 20
    assert max(sent) > 75  # from all over


def test_one_that_tells_labels_is_asked_more(tmp_path: Path) -> None:
    journaled(tmp_path, labelled)
    assert len(asked_anew(tmp_path, labelled)) == ANEW_LABELS


CHANGED = (
    r"isn't the one whose answers .*log\.db holds: of \d+ pictures asked anew it answers \d+ otherwise, .*move that file away"
)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (brightness, lambda pictures: brightness(pictures) + 0.01),
        (brightness, lambda pictures: np.where(pictures.mean((1, 2, 3)) > 60, 0.9, brightness(pictures))),
        (labelled, lambda pictures: (pictures.mean((1, 2, 3)) > 55).astype(int)),
        (brightness, lambda pictures: [None] * len(pictures)),
        (brightness, labelled),
    ],
)
@pytest.mark.parametrize("twice", [0, 8])
def test_another_classifier_is_refused_and_the_remedy_works(tmp_path: Path, before: Ask, after: Ask, twice: int) -> None:
    journaled(tmp_path, before, twice)
    with pytest.raises(DataError, match=CHANGED):
        asked_anew(tmp_path, after)
    (tmp_path / "log.db").rename(tmp_path / "away.db")
    assert asked_anew(tmp_path, after) == []


@pytest.mark.parametrize("twice", [0, 8])
@pytest.mark.parametrize("seed", range(5))
def test_one_that_changes_its_answers_all_the_time_is_no_other_one(tmp_path: Path, twice: int, seed: int) -> None:
    random = np.random.default_rng(seed)

    def noisy(pictures: NDArray[np.uint8]) -> Any:
        return brightness(pictures) + random.uniform(0, 0.05, len(pictures))

    journaled(tmp_path, noisy, twice)
    assert len(asked_anew(tmp_path, noisy)) <= 2 * ANEW


def test_a_label_that_flips_now_and_then_is_no_other_one(tmp_path: Path) -> None:
    journaled(tmp_path, labelled)
    calls = []

    def flips(pictures: NDArray[np.uint8]) -> Any:
        calls.append(len(pictures))
        return 1 - labelled(pictures) if len(calls) == 1 else labelled(pictures)

    assert len(asked_anew(tmp_path, flips)) == ANEW_LABELS + 2  # the first call, of two pictures, asked once more


def test_answers_of_other_classifiers_are_left_alone(tmp_path: Path) -> None:
    journaled(tmp_path, brightness)
    counter = Counter(lambda pictures: 1 - brightness(pictures), identity="another")
    Meter(counter.box, QueryLog(tmp_path / "log.db"), 9).require_same(picture(*SHADES))
    assert counter.sent == []


# ---- pictures without an answer


def silent(below: int) -> Ask:
    """No answer to pictures darker than that."""
    return lambda pictures: [b if 255 * b >= below else None for b in brightness(pictures)]


def test_no_answer_is_paid_for_once(tmp_path: Path) -> None:
    for _ in range(2):
        counter = Counter(silent(12))
        meter = Meter(counter.box, QueryLog(tmp_path / "log.db"), 30)
        scores = meter.scores(picture(10, 11, 12, 13))
        assert scores.isnan().any(1).tolist() == [True, True, False, False]
        assert meter.used == 4
        assert meter.unsteady(picture(10, 12)) == 0
    assert counter.sent == []


def test_too_many_without_an_answer_end_the_run(tmp_path: Path) -> None:
    meter = Meter(Counter(silent(18)).box, QueryLog(tmp_path / "log.db"), 300)
    meter.scores(picture(*range(10, 20)))  # 8 of 10, which may be chance
    meter.scores(picture(*range(20, 60)))
    meter = Meter(Counter(silent(23)).box, QueryLog(tmp_path / "other.db"), 300)
    with pytest.raises(UnansweredError, match=r"no answer to 13 of 40 pictures, which is more than 20 %: leave out those"):
        meter.scores(picture(*range(10, 50)))
    assert len(QueryLog(tmp_path / "other.db")) == 40  # what was paid for is kept
