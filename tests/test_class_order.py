"""Another order of the classes is named where it explains the answers, and nowhere else."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from dftlib.metrics import class_order
from dftlib.metrics.class_order import ClassOrderError, likely_order, require_order


def answered(
    classes: int, count: int, right: float, order: NDArray[Any] | None = None, seed: int = 0
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Predictions and labels of a classifier that is right so often, in its own order of the classes."""
    random = np.random.default_rng(seed)
    labels = np.arange(count) % classes
    said = np.where(random.random(count) < right, labels, (labels + random.integers(1, classes, count)) % classes)
    return (said if order is None else order[said]), labels


def as_text(classes: int) -> NDArray[Any]:
    """The place of the classes 1, 2, … among their names sorted as text: 1, 10, 11, 2, …"""
    names = sorted(map(str, range(1, classes + 1)))
    return np.array([names.index(str(k)) for k in range(1, classes + 1)])


@pytest.mark.parametrize(("classes", "count", "right"), [(12, 120, 1.0), (12, 240, 0.7), (101, 1010, 0.9)])
def test_folders_numbered_as_text(classes: int, count: int, right: float) -> None:
    found = likely_order(*answered(classes, count, right, as_text(classes)), classes)
    assert found is not None
    assert [str(k + 1) for k in found.answers] == sorted(map(str, range(1, classes + 1)))
    assert found.before < 15
    assert found.explained > 100 * right - 12
    assert found.swapped


@pytest.mark.parametrize(("count", "right"), [(30, 0.95), (60, 0.85), (400, 0.8)])
def test_two_classes_the_wrong_way_round(count: int, right: float) -> None:
    predicted, labels = answered(2, count, right, np.array([1, 0]))
    found = likely_order(predicted, labels, 2)
    assert found is not None
    assert found.answers == (1, 0)
    assert found.before == pytest.approx(100 * np.mean([(predicted == labels)[labels == k].mean() for k in (0, 1)]))
    assert found.explained == pytest.approx(100 - found.before)
    with pytest.raises(ClassOrderError, match=r"right about .* if its answers 0, 1, … meant the classes 1, 0: number the labels"):
        require_order(predicted, labels, 2)


@pytest.mark.parametrize(("classes", "shuffles"), [(2, 1000), (100, 1000), (400, 250), (1000, 100), (1100, 100)])
def test_of_many_classes_fewer_shuffles_do(monkeypatch: pytest.MonkeyPatch, classes: int, shuffles: int) -> None:
    """Each takes as long as the cube of the classes: of 1,000, 1,000 would take a minute."""
    predicted, labels = answered(classes, 10 * classes, 0.9, np.roll(np.arange(classes), 1))
    fitted, calls = class_order._fitted, []

    def counted(*given: Any) -> Any:
        calls.append(given)
        return fitted(*given) if len(calls) == 1 else (np.zeros((classes, classes)), np.arange(classes))

    monkeypatch.setattr(class_order, "_fitted", counted)
    found = likely_order(predicted, labels, classes)
    assert found is not None
    assert found.swapped
    assert len(calls) == 1 + shuffles


def test_the_remedy_when_followed_leaves_nothing_to_say() -> None:
    order = np.array([2, 0, 3, 1])
    predicted, labels = answered(4, 200, 0.9, order)
    found = likely_order(predicted, labels, 4)
    assert found is not None
    moved = np.array([found.answers.index(k) for k in range(4)])[labels]  # labels in the order of the answers
    assert (predicted == moved).mean() > 0.8
    assert likely_order(predicted, moved, 4) is None


def test_two_of_many_classes_exchanged_are_named_and_no_reason_to_stop() -> None:
    order = np.arange(6)
    order[[2, 4]] = 4, 2
    predicted, labels = answered(6, 600, 0.9, order)
    found = likely_order(predicted, labels, 6)
    assert found is not None
    assert found.answers == tuple(order)
    assert not found.swapped
    require_order(predicted, labels, 6)


@pytest.mark.parametrize("classes", [2, 3, 12])
@pytest.mark.parametrize("seed", range(5))
def test_what_is_right_by_chance_or_more_is_left_alone(classes: int, seed: int) -> None:
    for right in (1 / classes, 0.5, 0.9):
        require_order(*answered(classes, 20 * classes, right, seed=seed), classes)
    assert likely_order(*answered(classes, 20 * classes, 0.9, seed=seed), classes) is None


@pytest.mark.parametrize("share", [0.5, 0.75, 0.97])
def test_always_one_answer_is_no_order(share: float) -> None:
    """Where most are of the other class it's right far less often than a guess; exchanged, it would be no classifier either."""
    labels = (np.arange(200) >= 200 * share).astype(int)
    predicted = (np.random.default_rng(0).random(200) < 0.95).astype(int)
    assert likely_order(predicted, labels, 2) is None
    assert likely_order(np.ones(200, int), labels, 2) is None


def test_answers_shifted_by_one_class_are_no_other_order() -> None:
    """As of pictures that are too dark for a classifier of brightness: N mends that, and two classes share an answer."""
    labels = np.arange(300) % 5
    require_order(np.maximum(labels - 1, 0), labels, 5)


def test_a_few_pictures_prove_nothing() -> None:
    assert likely_order(np.array([1, 0, 1, 0, 1, 0]), np.array([0, 1, 0, 1, 0, 1]), 2) is None
    assert likely_order(np.array([1, 1]), np.array([1, 1]), 2) is None
