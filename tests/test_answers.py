"""Answers of whatever form become scores n x classes, or one sentence says what to set."""

from collections import OrderedDict
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dftlib.classifiers.answers import Reading, RowsError, as_scores
from dftlib.errors import DataError

ONE_QUARTER = [[0.25, 0.75], [1, 0]]
NONE = [np.nan, np.nan]
HALF_THREE = [0.0, np.log(3)]  # logits of 1/2 and 3/4


@pytest.mark.parametrize(
    ("answer", "how", "wanted"),
    [
        ([[0.25, 0.75], [1, 0]], {}, ONE_QUARTER),
        ([[0.25, 0.755], [1, 0]], {}, [[0.25 / 1.005, 0.755 / 1.005], [1, 0]]),
        ([[0.0, 0.0], HALF_THREE], {"numbers": "logits"}, [[0.5, 0.5], [0.25, 0.75]]),
        ([0, 2], {"classes": 3}, [[1, 0, 0], [0, 0, 1]]),
        ([[0], [1]], {}, [[1, 0], [0, 1]]),
        ([False, True], {"numbers": "logits"}, [[1, 0], [0, 1]]),
        ([0.25, 1.0], {}, [[0.75, 0.25], [0, 1]]),
        (HALF_THREE, {"numbers": "logits"}, [[0.5, 0.5], [0.25, 0.75]]),
        (np.array([[[[0.25]], [[0.75]]], [[[1]], [[0]]]], np.float16), {}, ONE_QUARTER),
        (torch.tensor(ONE_QUARTER, dtype=torch.bfloat16, requires_grad=True), {}, ONE_QUARTER),
        ([torch.tensor(row, dtype=torch.bfloat16, requires_grad=True) for row in ONE_QUARTER], {}, ONE_QUARTER),
        (pd.DataFrame(ONE_QUARTER), {}, ONE_QUARTER),
        # -1 and 1
        ([-1, 1], {}, [[1, 0], [0, 1]]),
        (np.array([1.0, -1.0]), {}, [[0, 1], [1, 0]]),
        ([1, 1], {}, [[0, 1], [0, 1]]),
        ([-1.0, 1.0], {"numbers": "logits"}, [[1 / (1 + np.exp(-1)), 1 / (1 + np.e)], [1 / (1 + np.e), 1 / (1 + np.exp(-1))]]),
        # words, and other numbers than 0, 1, …
        (["man", " Woman"], {"names": ["woman", "man"]}, [[0, 1], [1, 0]]),
        (np.array(["man", "woman"]), {"names": ["woman", "man"]}, [[0, 1], [1, 0]]),
        (pd.Series(["man", "woman"]), {"names": ["woman", "man"]}, [[0, 1], [1, 0]]),
        ([2, 1], {"names": [1, 2]}, [[0, 1], [1, 0]]),
        ([0, 1], {"names": ["woman", "man"]}, [[1, 0], [0, 1]]),
        # dictionaries: one a picture, one for all, and scikit-learn's of class numbers
        ([{"b": 0.75, "A": 0.25}, {"A": 1, "b": 0}], {"names": ["a", "b"]}, ONE_QUARTER),
        ([{"b": 0.75, "a": 0.25, "c": 9}, {"a": 1, "b": 0, "c": 9}], {"names": ["a", "b"]}, ONE_QUARTER),
        ({"b": np.array([0.75, 0]), "a": np.array([0.25, 1])}, {"names": ["a", "b"]}, ONE_QUARTER),
        ([{1: 0.75, 0: 0.25}, {0: 1.0, 1: 0.0}], {}, ONE_QUARTER),
        ([[{"label": 0.25, "b": 0.75}], [{"b": 0, "label": 1}]], {"names": ["label", "b"]}, ONE_QUARTER),
        # what Hugging Face's models return
        (SimpleNamespace(logits=torch.tensor([[0.0, 0.0], HALF_THREE])), {}, [[0.5, 0.5], [0.25, 0.75]]),
        (OrderedDict(logits=torch.tensor([[0.0, 0.0], HALF_THREE])), {}, [[0.5, 0.5], [0.25, 0.75]]),
        # percent, recognised by the sum, or told
        ([[25, 75], [100.0, 0.0]], {}, ONE_QUARTER),
        ([[25.4, 74.9], [0.25, 0.75]], {}, [[25.4 / 100.3, 74.9 / 100.3], [0.25, 0.75]]),
        ([75, 0], {"numbers": "percent"}, ONE_QUARTER),
        ([0.5, 75.0], {"numbers": "percent"}, [[0.995, 0.005], [0.25, 0.75]]),
        # sigmoids that know nothing of each other; of many columns those that count
        ([[0.9, 0.6], [0.0, 0.0]], {"numbers": "sigmoids"}, [[0.6, 0.4], [0.5, 0.5]]),
        ([[0.9, 0.75, 0.3], [0.1, 0.0, 0.9]], {"columns": [1]}, ONE_QUARTER),
        ([[0.9, 0.6, 0.9], [0.1, 0.5, 0.0]], {"columns": [2, 1], "numbers": "sigmoids"}, [[0.6, 0.4], [0, 1]]),
        (np.arange(80).reshape(2, 40) / 100, {"columns": [20]}, [[0.8, 0.2], [0.4, 0.6]]),
        # no answer
        ([[0.25, 0.75], None], {}, [[0.25, 0.75], NONE]),
        ([[], 0.75], {}, [NONE, [0.25, 0.75]]),
        ([{}, {"a": 1, "b": 0}], {"names": ["a", "b"]}, [NONE, [1, 0]]),
        ([0, "b"], {"names": ["a", "b"]}, [[1, 0], [0, 1]]),
        ([None, "b"], {"names": ["a", "b"]}, [NONE, [0, 1]]),
        ([None, []], {}, [NONE, NONE]),
    ],
)
def test_answers_are_brought_into_one_form(answer: Any, how: dict[str, Any], wanted: Any) -> None:
    scores = as_scores(answer, 2, Reading(**{"classes": 2, **how}), "It")
    assert scores.dtype == torch.float32
    np.testing.assert_allclose(scores.numpy(), wanted, atol=1e-6)
    np.testing.assert_allclose(np.nansum(scores.numpy(), 1), ~np.isnan(wanted).any(1), atol=1e-6)


@pytest.mark.parametrize(
    ("answer", "how", "wanted"),
    [
        ([0.25, 0.75], {}, [0.25, 0.75]),
        (torch.tensor([0.25, 0.75]), {}, [0.25, 0.75]),  # as `squeeze` leaves it
        (list(np.array([0.25, 0.75], np.float32)), {}, [0.25, 0.75]),
        (tuple(torch.tensor([0.25, 0.75])), {}, [0.25, 0.75]),
        ([np.array(0.25), np.array(0.75)], {}, [0.25, 0.75]),
        (0.75, {}, [0.25, 0.75]),
        ([1], {}, [0, 1]),
        ("b", {"names": ["a", "b"]}, [0, 1]),
        ({"a": 1, "b": 3}, {"names": ["a", "b"], "numbers": "logits"}, [1 / (1 + np.exp(2)), 1 / (1 + np.exp(-2))]),
        ({"a": [1.0], "b": [0.0]}, {"names": ["a", "b"]}, [1, 0]),
        ([], {}, NONE),
    ],
)
def test_one_picture_needs_no_list_around_its_answer(answer: Any, how: dict[str, Any], wanted: list[float]) -> None:
    np.testing.assert_allclose(as_scores(answer, 1, Reading(2, **how), "It").numpy(), [wanted], atol=1e-6)


@pytest.mark.parametrize(
    ("answer", "how", "sentence"),
    [
        ([[0.2, 0.8]], {}, "It answers with 1 rows for 2 pictures"),
        (0.5, {}, "It answers with 1 rows for 2 pictures"),
        ([None], {}, "It answers with 1 rows for 2 pictures"),
        ([[0.2, 0.3, 0.5]] * 2, {}, "3 classes where 2 were expected: choose 2 with `columns`"),
        ([0.5, 0.5], {"classes": 3}, "2 classes where 3 were expected: leave out labels"),
        ([[0.2, np.nan], [0.5, 0.5]], {}, "not numbers"),
        ([np.inf, 0.5], {}, "not numbers"),
        ([[0.5, 0.5], [80.0, 30.0]], {}, r"not probabilities, such as \[80.0, 30.0\]: set `numbers` to 'logits'"),
        ([[1.5, -0.5], [0.5, 0.5]], {}, "not probabilities"),
        ([1.5, 0.5], {}, r"such as \[1.5\]: set `numbers` to 'percent' if they reach to 100, or to 'logits'"),
        ([87.5, 0.5], {}, r"such as \[87.5\]: set `numbers` to 'percent'"),
        ([120.0, 0.5], {"numbers": "percent"}, "not probabilities"),
        (
            [[0.9, 0.8], [0.5, 0.5]],
            {},
            r"such as \[0.9, 0.8\]: set `numbers` to 'sigmoids' .*or choose that of class 1 by `columns`",
        ),
        ([[0.9, 1.8], [0.5, 0.5]], {"numbers": "sigmoids"}, r"such as \[0.9, 1.8\]"),
        ([0, 2], {}, "the label 2, not in 0 to 1: set `names`"),
        ([0, -1], {}, "the label -1, not in 0 to 1"),
        ([0, 3], {"names": [1, 2]}, "the label 3, not in 0 to 1: set `names`"),
        ([[0.1, 0.9]] * 2, {"columns": [2]}, "2 columns, so there is no column 2: count them from 0"),
        (["man", "woman"], {}, "answers with 'man' where names were expected: set `names`"),
        (["man", "lady"], {"names": ["woman", "man"]}, "answers with 'lady' where names were expected"),
        ([{"male": 0.2, "female": 0.8}] * 2, {}, "answers with 'male, female' where names were expected"),
        ([{"male": 0.2}] * 2, {"names": ["female", "male"]}, "answers with 'male' where names"),
        ([[0.5, 0.5], [1.0]], {}, "no array of numbers"),
        ([[0.1, 0.9], "man"], {"names": ["woman", "man"]}, "no array of numbers"),
        (None, {}, "no array of numbers"),
        (np.array([1j, 2j]), {}, "no array of numbers"),
        ({"a": [0, 1], "b": [0]}, {"names": ["a", "b"]}, "no array of numbers"),
    ],
)
def test_answers_that_cannot_be_used(answer: Any, how: dict[str, Any], sentence: str) -> None:
    reading = Reading(**{"classes": 2, **how})
    with pytest.raises(DataError, match=sentence) as caught:
        as_scores(answer, 2, reading, "It")
    assert str(caught.value).startswith("It answers with ")
    assert isinstance(caught.value, RowsError) == ("rows for" in str(caught.value))


@pytest.mark.parametrize(
    ("answer", "wrong", "right"),
    [
        ([[3.0, -1.0], [0.0, 0.0]], {}, {"numbers": "logits"}),
        ([87.5, 0.5], {}, {"numbers": "percent"}),
        ([[0.9, 0.8], [0.1, 0.7]], {}, {"numbers": "sigmoids"}),
        ([[0.9, 0.8], [0.1, 0.7]], {}, {"columns": [1]}),
        ([[0.2, 0.3, 0.5]] * 2, {}, {"columns": [0, 1], "numbers": "sigmoids"}),
        ([[0.2, 0.3, 0.5]] * 2, {}, {"classes": 3}),
        (["f", "m"], {}, {"names": ["f", "m"]}),
        ([1, 2], {}, {"names": ["1", "2"]}),
    ],
)
def test_a_remedy_that_is_followed_works(answer: Any, wrong: dict[str, Any], right: dict[str, Any]) -> None:
    with pytest.raises(DataError) as caught:
        as_scores(answer, 2, Reading(**{"classes": 2, **wrong}), "It")
    if "classes" not in right:
        assert f"`{next(iter(right))}`" in str(caught.value)
    assert as_scores(answer, 2, Reading(**{"classes": 2, **right}), "It").isfinite().all()


@pytest.mark.parametrize(
    ("how", "sentence"),
    [
        ({"classes": 1}, "A classifier of 1 classes"),
        ({"numbers": "probs"}, "no numbers 'probs': set `numbers` to one of probabilities, logits, sigmoids, percent"),
        ({"names": ["a"]}, "1 different names for 2 classes"),
        ({"names": ["a", "A"]}, "1 different names for 2 classes"),
        ({"names": [True, False]}, r"YAML reads words such as yes, no.*each word in quotes, as in '\[\"yes\", \"no\"\]'"),
        ({"names": [None, "x"]}, "YAML reads words"),
        ({"names": "ab"}, "YAML reads words"),
        ({"columns": [0, 1, 2]}, r"`columns` is \[0, 1, 2\] for 2 classes"),
        ({"columns": [-1]}, "counted from 0"),
        ({"columns": ["male"]}, "counted from 0"),
        ({"columns": 20}, "`columns` is 20 for 2 classes: give a list"),
        ({"classes": 3, "columns": [1]}, "for 3 classes"),
    ],
)
def test_readings_that_make_no_sense(how: dict[str, Any], sentence: str) -> None:
    with pytest.raises(DataError, match=sentence):
        Reading(**{"classes": 2, **how})


def test_what_decides_how_an_answer_is_read_stands_in_the_identity() -> None:
    ways = [{}, {"numbers": "logits"}, {"numbers": "percent"}, {"columns": [1]}, {"columns": [0]}, {"names": ["a", "b"]}]
    assert len({Reading(2, **how).text for how in ways}) == len(ways)  # type: ignore[arg-type]


LEAVES = st.one_of(
    st.none(), st.booleans(), st.integers(-3, 300), st.floats(), st.text(max_size=3), st.sampled_from(["a", "b", 0.25, 0.75])
)
ANSWERS = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(["a", "b", "c", 0, 1]), inner),
    max_leaves=12,
)
READINGS = st.builds(
    Reading, st.just(2), st.sampled_from(["probabilities", "logits", "sigmoids", "percent"]),
    st.sampled_from([(), (1,), (0, 1)]), st.sampled_from([(), ("a", "b")]),
)  # fmt: skip


@given(answer=ANSWERS, rows=st.integers(1, 3), reading=READINGS)
def test_whatever_is_answered_becomes_scores_or_one_sentence(answer: Any, rows: int, reading: Reading) -> None:
    said = ""
    try:
        scores = as_scores(answer, rows, reading, "It")
    except DataError as error:
        said = str(error)
    if said:
        assert said.startswith("It answers with ")
        assert said.endswith(".")
        return
    assert scores.shape == (rows, 2)
    sums = scores.sum(1)
    assert bool((sums.isnan() | ((sums - 1).abs() < 1e-5)).all())
    assert not ((scores < 0) | (scores > 1)).any()
