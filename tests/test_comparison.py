"""`Comparison` against scipy, scikit-learn and plain numpy, and what follows from it."""

import json

import numpy as np
import pandas as pd
import pytest
import torch
from numpy.typing import NDArray
from scipy.stats import binomtest
from sklearn.metrics import balanced_accuracy_score, roc_auc_score

from dftlib.datasets.base import Split
from dftlib.errors import DataError
from dftlib.metrics.comparison import Comparison, compare


def scores(seed: int, count: int = 240, classes: int = 2, good: float = 0.0) -> NDArray[np.float64]:
    """Scores n x classes; the more `good`, the more often the highest is that of the label, i modulo `classes`."""
    random = np.random.default_rng(seed)
    logits = random.normal(size=(count, classes))
    logits[np.arange(count), np.arange(count) % classes] += good
    return np.exp(logits) / np.exp(logits).sum(1, keepdims=True)


def split(count: int = 240, classes: int = 2, people: int = 60) -> Split:
    images = np.zeros((count, 3, 2, 2), np.uint8)
    return Split(images, torch.arange(count) % classes, np.array([f"p{i % people}" for i in range(count)]))


@pytest.fixture
def found() -> Comparison:
    return compare(scores(0, good=0.3), torch.from_numpy(scores(1, good=1.2)), split(), {"other": scores(2, good=0.8)})


def test_accuracies_have_wilsons_intervals(found: Comparison) -> None:
    row, labels = found.row(), np.arange(240) % 2
    for name, given in (("before", scores(0, good=0.3)), ("after", scores(1, good=1.2))):
        right = int((given.argmax(1) == labels).sum())
        ends = binomtest(right, 240).proportion_ci(method="wilson")
        assert [row[name], row[f"{name}_lo"], row[f"{name}_hi"]] == pytest.approx(
            [100 * right / 240, 100 * ends.low, 100 * ends.high]
        )


def test_the_rise_has_an_interval_over_people(found: Comparison) -> None:
    """Against a plain bootstrap that draws people, with other random numbers."""
    before, after = found.right["before"], found.right["after"]
    by_person = [(after.astype(int) - before)[np.arange(240) % 60 == person].sum() for person in range(60)]
    random = np.random.default_rng(9)
    drawn = [np.mean(random.choice(by_person, 60)) / 4 * 100 for _ in range(20_000)]
    row = found.row()
    assert row["rise"] == pytest.approx(100 * (after.mean() - before.mean()))
    assert row["rise_lo"] == pytest.approx(np.quantile(drawn, 0.025), abs=1)
    assert row["rise_hi"] == pytest.approx(np.quantile(drawn, 0.975), abs=1)


def test_pictures_of_one_person_are_no_independent_ones() -> None:
    same, each = (compare(scores(0), scores(1, good=1), split(people=n)) for n in (6, 240))
    assert same.rise["_hi"] - same.rise["_lo"] > 0
    assert each.rise[""] == same.rise[""]
    alone = compare(scores(0), scores(1, good=1), Split(np.zeros((240, 3, 2, 2), np.uint8), torch.arange(240) % 2))
    assert alone.rise["_lo"] == pytest.approx(each.rise["_lo"], abs=1.5)


def test_subjects_are_told_by_place_in_whatever_form() -> None:
    """A column of a table that was shuffled has labels of its own."""
    names = [f"p{i % 6}" for i in range(240)]
    shuffled = pd.Series(names, index=np.random.default_rng(0).permutation(240))
    for given in (names, shuffled):
        made = Split(np.zeros((240, 3, 2, 2), np.uint8), torch.arange(240) % 2, given)
        assert made.subjects.tolist() == names
        assert compare(scores(0), scores(1), made).rise == compare(scores(0), scores(1), split(people=6)).rise
    for wrong in (names[:30], [*names, "p0"], np.array([names])):
        with pytest.raises(DataError, match=r"Subjects \(.*\) and 240 labels: give the person on each"):
            Split(np.zeros((240, 3, 2, 2), np.uint8), torch.arange(240) % 2, wrong)


def test_mcnemar_counts_what_differs(found: Comparison) -> None:
    row, before, after = found.row(), found.right["before"], found.right["after"]
    assert (row["gained"], row["lost"]) == ((after & ~before).sum(), (before & ~after).sum())
    assert row["mcnemar_p"] == pytest.approx(binomtest(int(row["gained"]), int(row["gained"] + row["lost"])).pvalue)
    same = compare(scores(0), scores(0), split()).row()
    assert (same["gained"], same["lost"], same["mcnemar_p"], same["rise"]) == (0, 0, 1, 0)


def test_balanced_accuracy_and_areas_are_sklearns(found: Comparison) -> None:
    balanced, areas, labels = found.balanced(), found.areas(), np.arange(240) % 2
    for name, given in (("before", scores(0, good=0.3)), ("after", scores(1, good=1.2))):
        assert balanced[f"balanced_{name}"] == pytest.approx(100 * balanced_accuracy_score(labels, given.argmax(1)))
        assert areas[f"auc_{name}"] == pytest.approx(roc_auc_score(labels, given[:, 1]))
    assert areas["auc_rise_lo"] < areas["auc_after"] - areas["auc_before"] < areas["auc_rise_hi"]
    rise = balanced["balanced_after"] - balanced["balanced_before"]
    assert balanced["balanced_rise_lo"] < rise < balanced["balanced_rise_hi"]


def test_bools_are_right_answers() -> None:
    right = np.arange(240) % 3 > 0
    found = compare(right, ~right, split(), {"always": np.ones(240, bool)})
    assert found.row()["rise"] == pytest.approx(100 * (1 / 3 - 2 / 3))
    assert found.best == "always"
    assert found.over("always")[""] == pytest.approx(-200 / 3)
    assert found.over("always", "before")[""] == pytest.approx(-100 / 3)


def test_many_classes() -> None:
    found = compare(scores(0, classes=5), scores(1, classes=5, good=2), split(classes=5))
    assert found.accuracy("before") < 40 < found.accuracy("after")
    assert not found.scores


def test_without_an_answer_is_wrong() -> None:
    """In accuracies whatever the class, and in the order of scores."""
    given = np.array([[0.8, 0.2], [np.nan] * 2, [np.nan] * 2, [0.3, 0.7]])
    sure = np.array([[0.8, 0.2], [0, 1], [1, 0], [0.3, 0.7]])
    few = Split(np.zeros((4, 3, 1, 1), np.uint8), torch.tensor([0, 0, 1, 1]))
    found, same = compare(given, given, few), compare(sure, sure, few)
    assert found.right["before"].tolist() == [True, False, False, True]
    assert found.row() == same.row()
    assert found.areas() == same.areas()
    several = compare(
        np.array([[0.2, 0.1, 0.7], [np.nan] * 3]), np.array([True, True]), Split(few.source[:2], torch.tensor([2, 0]))
    )
    assert several.right["before"].tolist() == [True, False]


def test_logits_are_ordered_as_their_probabilities() -> None:
    """What both logits of an image have in common says nothing; an image without an answer comes last in either form."""
    draw = torch.Generator().manual_seed(0)
    logits = torch.randn(240, 2, generator=draw) + 5 * torch.randn(240, 1, generator=draw)
    for unanswered in (0, 20):
        logits[:unanswered] = torch.nan
        told, wanted = (compare(given, given, split()) for given in (logits, logits.double().softmax(1)))
        assert told.areas() == wanted.areas()
        assert told.row() == wanted.row()


def test_scores_may_be_tensors_as_they_come_from_a_network() -> None:
    given = torch.from_numpy(scores(0))
    wanted = compare(given.bfloat16().float(), given, split())
    for same in (given.bfloat16(), given.bfloat16().float().requires_grad_()):
        assert compare(same, given, split()).areas() == wanted.areas()


def test_balanced_accuracy_is_over_all_classes() -> None:
    labels = torch.arange(60) % 3
    right = (labels < 2).numpy()
    found = compare(right, right, Split(np.zeros((60, 3, 1, 1), np.uint8), labels)).balanced()
    assert found["balanced_before"] == pytest.approx(200 / 3)


def test_of_no_image_nothing_is_compared() -> None:
    with pytest.raises(DataError, match="no image to compare"):
        compare(np.zeros((0, 2)), np.zeros((0, 2)), Split(np.zeros((0, 3, 1, 1), np.uint8), torch.zeros(0, dtype=torch.int64)))


@pytest.mark.parametrize("wrong", [np.array([0, 1, 0]), np.array([True, False]), np.zeros((2, 2))])
def test_answers_of_another_form_are_named(wrong: np.ndarray) -> None:
    """Class numbers for instance, which would pass for what is right."""
    split = Split(np.zeros((3, 3, 1, 1), np.uint8), torch.tensor([0, 1, 0]))
    with pytest.raises(DataError, match=r"The answers 'after' are .* for 3 images: give scores n x classes, or n bools"):
        compare(np.ones(3, bool), wrong, split)
    with pytest.raises(DataError, match="compared on a Split, not on a Tensor: give"):
        compare(np.ones(3, bool), np.ones(3, bool), split.labels)  # type: ignore[arg-type]


def test_the_best_is_the_most_accurate_without_n(found: Comparison) -> None:
    assert found.best == "other"
    assert found.over("other")[""] == pytest.approx(found.accuracy("after") - found.accuracy("other"))
    assert compare(scores(0, good=3), scores(1), split(), {"other": scores(2)}).best == "before"


def test_only_a_rise_clear_of_zero_is_recommended() -> None:
    before = scores(0)
    assert compare(before, scores(1, good=2), split()).recommended
    for after in (scores(1), before):
        found = compare(before, after, split())
        assert not found.recommended
        assert found.why_not == "The gain is not clear of zero."


@pytest.mark.parametrize("people", [1, 5, 6])
def test_a_gain_on_too_few_people_is_not_recommended(people: int) -> None:
    """However many images there are of them: of one no draw differs from another."""
    found = compare(scores(0), scores(1, good=2), split(people=people))
    assert found.rise["_lo"] > 0
    few = f"Fewer than 6 people are on the images ({people}), too few to tell a gain from chance."
    assert found.why_not == ("" if people == 6 else few)


def bools(*shares: float, count: int = 240) -> NDArray[np.bool_]:
    """Which of `count` images are right: of each class, i modulo how many shares there are, so large a share, the first ones."""
    i, classes = np.arange(count), len(shares)
    return i // classes < np.array(shares)[i % classes] * count // classes


def test_a_gain_at_the_cost_of_a_class_is_not_recommended() -> None:
    found = compare(bools(0.9, 0.3), bools(0.7, 0.95), split(people=240))
    assert found.rise["_lo"] > 0
    assert found.why_not == "It harms class 0, which falls from 90.0 to 70.0 % right."
    assert compare(bools(0.9, 0.3), bools(0.9, 0.95), split(people=240)).recommended


def test_a_loss_that_may_be_chance_harms_nobody() -> None:
    """Two pictures of one class, and all five people of a class of five."""
    assert compare(bools(0.9, 0.3), bools(0.89, 0.95), split(people=240)).recommended
    before, after = np.arange(240) < 120, np.arange(240) > 9
    labels = torch.arange(240) % 2
    labels[:5] = 2
    assert compare(before, after, Split(np.zeros((240, 3, 2, 2), np.uint8), labels)).recommended
    labels[5] = 2
    assert "It harms class 2" in compare(before, after, Split(np.zeros((240, 3, 2, 2), np.uint8), labels)).why_not


def test_a_gain_at_the_cost_of_a_stated_group_is_not_recommended() -> None:
    glasses = np.arange(240) < 40
    before, after = np.where(glasses, True, bools(0.3, 0.3)), np.where(glasses, False, bools(0.95, 0.95))
    assert compare(before, after, split(people=240)).recommended
    found = compare(before, after, split(people=240), groups={"people with glasses": glasses})
    assert found.why_not == "It harms people with glasses, which falls from 100.0 to 0.0 % right."
    assert list(found.everyone) == ["people with glasses", "class 0", "class 1"]
    assert list(compare(before, after, split(), groups={"women": np.arange(240) % 2 == 0}).everyone) == ["women", "class 1"]


def test_what_always_naming_one_class_beats_is_not_recommended() -> None:
    """Tried: with classes named in the wrong order 40 % were right after, and 50 % are by naming always the same class."""
    found = compare(bools(0.1, 0.1), bools(0.4, 0.4), split(people=240))
    assert found.rise["_lo"] > 0
    assert found.why_not == ("It is behind a simple remedy, always naming the most frequent class: 40.0 % right against 50.0 %.")
    rare = Split(np.zeros((240, 3, 2, 2), np.uint8), torch.arange(240) < 200)
    name, percent = compare(bools(0.1, 0.1), bools(0.8, 0.8), rare).simplest
    assert name == "always naming the most frequent class"
    assert percent == pytest.approx(100 * 200 / 240)


def test_what_a_baseline_beats_is_not_recommended() -> None:
    before, after = bools(0.3, 0.3), bools(0.8, 0.8)
    found = compare(before, after, split(people=240), {"moving the threshold": bools(0.85, 0.85)})
    assert found.why_not == "It is behind a simple remedy, moving the threshold: 80.0 % right against 85.0 %."
    assert compare(before, after, split(people=240), {"moving the threshold": after}).recommended


def test_evidence_is_that_of_the_parts(found: Comparison) -> None:
    said = found.evidence()
    own = found.of(np.arange(240) % 2 == 1)
    assert said["groups"]["class 1"] == {"images": 120, **own.row()}
    assert (said["images"], said["remedy"], said["rise"]) == (240, "other", found.rise[""])
    assert said["remedy_accuracy"] == found.accuracy("other")
    assert json.loads(json.dumps(said)) == said


def test_a_part_is_compared_as_if_alone(found: Comparison) -> None:
    where = np.arange(240) % 2 == 1
    part = found.of(where)
    assert len(part.labels) == 120
    assert part.accuracy("after") == pytest.approx(100 * found.right["after"][where].mean())
    assert (part.scores["before"] == found.scores["before"][where]).all()
