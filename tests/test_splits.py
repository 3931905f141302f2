import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from dftlib.datasets.base import SPLITS
from dftlib.datasets.splits import paper_split, split, subject_split

LABELS = st.lists(st.integers(-1, 1), min_size=1, max_size=300).map(np.array)
SEEDS = st.integers(0, 2**40)


def assert_60_20_20(sides: np.ndarray) -> None:
    for side, share in zip(SPLITS, (0.6, 0.2, 0.2), strict=True):
        assert abs((sides == side).sum() - share * len(sides)) <= 1


@given(LABELS, SEEDS)
def test_paper_split_is_60_20_20_in_each_class(labels: np.ndarray, seed: int) -> None:
    sides = paper_split(labels, seed)
    assert set(sides) <= set(SPLITS)
    for label in set(labels.tolist()):
        assert_60_20_20(sides[labels == label])


@given(st.lists(st.tuples(st.integers(0, 40), st.integers(0, 1)), min_size=1, max_size=300), SEEDS)
def test_subject_split_keeps_each_person_on_one_side(rows: list[tuple[int, int]], seed: int) -> None:
    subjects, labels = np.array([f"p{who}" for who, _ in rows]), np.array([label for _, label in rows])
    sides = subject_split(subjects, labels, seed)
    assert set(sides) <= set(SPLITS)
    people = {who: set(sides[subjects == who]) for who in set(subjects)}
    assert all(len(s) == 1 for s in people.values())
    majority = {who: labels[subjects == who].mean() > 0.5 for who in people}
    for label in (False, True):
        assert_60_20_20(np.array([next(iter(people[who])) for who in people if majority[who] == label]))


@given(LABELS, SEEDS)
def test_a_seed_fixes_the_split(labels: np.ndarray, seed: int) -> None:
    subjects = np.array([f"p{i // 3}" for i in range(len(labels))])
    for protocol in ("paper", "subject"):
        assert (split(protocol, subjects, labels, seed) == split(protocol, subjects, labels, seed)).all()


def test_the_split_of_seed_0_is_the_same_on_every_machine() -> None:
    second_letters = "".join(side[1] for side in paper_split(np.repeat([0, 1], 10), 0))
    assert second_letters == "rerrerarraraererrarr"


def test_seeds_and_protocols_differ() -> None:
    labels = np.tile([0, 1], 100)
    subjects = np.repeat([f"p{i}" for i in range(50)], 4)
    assert (paper_split(labels, 0) != paper_split(labels, 1)).any()
    assert (split("paper", subjects, labels, 0) != split("subject", subjects, labels, 0)).any()
