"""Label budgets, the combination and the open questions on a few synthetic faces: what is compared is comparable."""

import math

import numpy as np
import pandas as pd
import pytest
import torch

from dftlib.datasets.base import Split
from dftlib.experiments import ablations
from dftlib.experiments.lab import Lab, settings_of
from dftlib.experiments.outcome import Cell
from dftlib.models.backbones import ConvNet
from dftlib.perturbation.perturbation import Perturbation
from dftlib.plots import style

CELL = Cell(5, "Gender", "webcam", "studio", "subject", 0)


@pytest.fixture(scope="module")
def tiny(few_faces: Lab) -> Lab:
    return few_faces.other(label_budgets=(16, 0), frontier_weights=(1000.0,), frontier_limits=(24.0, 40.0))


def test_figures_9_and_10_have_the_paper_s_cells(tiny: Lab) -> None:
    found = {(c.attribute, c.data, c.model) for c in ablations.contest(tiny)}
    three = {(a, "press", "studio") for a in ("Gender", "Smiling", "Bushy Eyebrows", "Pale Skin")}
    assert found == three | {("Gender", "webcam", "studio")}
    assert len(ablations.featured(tiny)) == 2


def test_the_cell_to_look_at_has_test_faces_that_may_be_shown(tiny: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = ablations.featured(tiny)
    assert ablations.shown(tiny) == first
    monkeypatch.setattr(style, "showable", lambda data, rows: rows[:0] if data.name == first.data else rows)
    assert ablations.shown(tiny) == second


def test_a_budget_is_part_of_the_next_and_keeps_the_classes_in_proportion(tiny: Lab) -> None:
    all_rows = tiny.splits(CELL)[0].rows
    male = tiny.faces("webcam", "subject").labels["Gender"].to_numpy()

    def rows(budget: int, draw: int) -> list[int]:
        return [row for split in ablations.labelled(tiny, CELL, budget, draw) for row in split.rows.tolist()]

    small, large = (rows(budget, 0) for budget in (16, 32))
    assert set(small) < set(large) < set(all_rows.tolist())
    assert len(set(small)) == 16
    assert male[small].mean() == pytest.approx(male[all_rows].mean(), abs=1 / 16)
    fit, val = ablations.labelled(tiny, CELL, 16, 0)
    assert (len(fit), len(val)) == (12, 4)
    assert sorted(small) != sorted(rows(16, 1))


@pytest.mark.parametrize("present", [0.05, 0.25, 0.5, 0.75])
@pytest.mark.parametrize("budget", [16, 32, 512])
def test_the_validation_part_of_a_budget_has_both_classes_as_often(
    tiny: Lab, monkeypatch: pytest.MonkeyPatch, present: float, budget: int
) -> None:
    labels = torch.from_numpy(np.random.default_rng(budget).random(1000) < present).long()
    images = np.zeros((1000, 3, 2, 2), np.uint8)
    monkeypatch.setattr(tiny, "splits", lambda cell: (Split(images, labels),) * 3)
    monkeypatch.setattr(tiny, "of_cell", lambda cell, rows: Split(images, labels[rows], rows=rows))
    for draw in range(20):
        fit, val = ablations.labelled(tiny, CELL, budget, draw)
        assert not set(fit.rows) & set(val.rows)
        assert (len(fit), len(val)) == (budget * 3 // 4, budget // 4)
        assert float(val.labels.double().mean()) == pytest.approx(float(fit.labels.double().mean()), abs=1 / len(val))


def test_nothing_added_changes_no_other_classifier_s_answer_either(tiny: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also that of a network for which faces are cut in another way."""
    lab = Lab(tiny.profile)
    monkeypatch.setattr(ConvNet, "padding", 0.6)
    monkeypatch.setattr(lab, "fitted", lambda cell: Perturbation(torch.zeros(3, tiny.profile.size, tiny.profile.size)))
    for name, row in ablations._other_classifier(lab, CELL):
        assert (row["gained"], row["lost"]) == (0, 0), name


def test_without_a_budget_a_cell_has_all_its_labels(tiny: Lab) -> None:
    for found, own in zip(ablations.labelled(tiny, CELL, 0, 0), tiny.splits(CELL), strict=False):
        assert np.array_equal(found.rows, own.rows)


@pytest.mark.parametrize("count", [3, 12, 30, 60])
def test_few_labels_get_as_many_steps_as_many(tiny: Lab, count: int) -> None:
    own, few = settings_of(tiny.profile), ablations._schedule(tiny, CELL, count)
    steps = [math.prod(s.schedule(n)) * s.inner_steps for s, n in ((own, 60), (few, count))]
    assert steps[0] == steps[1] == 4
    assert few.batch_size == min(30, count)


@pytest.fixture(scope="module")
def budgets(tiny: Lab) -> pd.DataFrame:
    return ablations.label_budget(tiny)


def test_each_method_gets_the_same_labels(tiny: Lab, budgets: pd.DataFrame) -> None:
    assert len(budgets) == 5 * 2 * 3
    assert budgets.groupby(["data", "attribute", "all"])["labels"].nunique().eq(1).all()
    assert budgets.groupby(["data", "attribute"])["before"].nunique().eq(1).all()
    assert budgets["after"].between(budgets["after_lo"], budgets["after_hi"]).all()


def test_data_fine_tuning_on_all_labels_is_the_cell_of_the_table(tiny: Lab, budgets: pd.DataFrame) -> None:
    row = budgets.query("method == 'data' and all and data == 'webcam'").iloc[0]
    known = tiny.outcome(next(c for c in ablations.featured(tiny) if c.data == "webcam")).row
    for name in ("before", "after", "rise", "rise_lo", "rise_hi", "gained", "lost", "mcnemar_p"):
        assert row[name] == pytest.approx(known[name])


def test_model_fine_tuning_changes_no_classifier_but_its_own_copy(tiny: Lab, budgets: pd.DataFrame) -> None:
    """After the study the frozen classifier still answers as a freshly loaded one does."""
    before = tiny.classifier("studio", "Gender", "subject", 0)
    images = tiny.faces("webcam", "subject").images[:8]
    kept = before.scores(images)
    anew = Lab(tiny.profile)
    torch.testing.assert_close(anew.classifier("studio", "Gender", "subject", 0).scores(images), kept)
    assert not any(p.requires_grad for p in before.net.parameters())


def test_the_combination_starts_where_both_start(tiny: Lab) -> None:
    rounds = ablations.combination(tiny)
    assert len(rounds) == 2 * 3 * (ablations.ROUNDS + 1)
    first = rounds.query("round == 0")
    assert (first["rise"] == 0).all()
    assert (first["mcnemar_p"] == 1).all()
    assert rounds.query("round == 1").groupby("data")["after"].nunique().gt(1).all()


def test_the_frontier_is_ordered_by_its_limit(tiny: Lab) -> None:
    found = ablations.frontier(tiny)
    assert set(found["rule"]) == {"mean", "sum", "limit"}
    limits = found.query("rule == 'limit'").sort_values("value")
    assert limits["value"].unique().tolist() == [24.0, 28.5, 40.0]
    for _, cell in limits.groupby("data"):
        assert (cell["psnr"] > cell["value"] - 0.5).all()
        assert cell["psnr"].is_monotonic_increasing
        assert cell["ssim"].is_monotonic_increasing
    assert found["pass"].le(1).all()


def test_the_open_questions_share_their_reference(tiny: Lab) -> None:
    """What each question calls the kit's own choice is the cell of the table."""
    found = ablations.ambiguities(tiny)
    after = found.set_index(["question", "choice", "data"])["after"].to_dict()
    for cell in ablations.featured(tiny):
        known = tiny.outcome(cell).row["after"]
        for question, choice in (
            ("alignment", "by landmarks"),
            ("box map", "atanh"),
            ("temperature", "by the margins"),
            ("classes", "as frequent as they are"),
            ("steps", "1 x"),
            ("strength", "full"),
            ("file format", "float"),
            ("other classifier", "its own"),
        ):
            if (question, cell.data) != ("steps", "press"):
                assert after[question, choice, cell.data] == pytest.approx(known), question
    assert (found.query("choice == 'printed'")["psnr"] < 20).all()
    psnr = found.query("question == 'strength'").pivot(index="data", columns="choice", values="psnr")
    assert (psnr["half"] > psnr["full"]).all()
    assert (psnr["full"] > psnr["double"]).all()
