"""Label budgets, the combination and the open questions on a few synthetic faces: what is compared is comparable."""

import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from dftlib import experiments, studies
from dftlib.config import Profile
from dftlib.experiments import Cell

CELL = Cell(5, "Gender", "webcam", "studio", "subject", 0)


@pytest.fixture(scope="module")
def tiny(few_faces: Profile) -> Profile:
    return replace(few_faces, label_budgets=(16, 0), frontier_weights=(1000.0,), frontier_limits=(24.0, 40.0))


def test_figures_9_and_10_have_the_paper_s_cells(tiny: Profile) -> None:
    found = {(c.attribute, c.data, c.model) for c in studies.contest(tiny)}
    three = {(a, "press", "studio") for a in ("Gender", "Smiling", "Bushy Eyebrows", "Pale Skin")}
    assert found == three | {("Gender", "webcam", "studio")}
    assert len(studies.featured(tiny)) == 2


def test_a_budget_is_part_of_the_next_and_keeps_the_classes_in_proportion(tiny: Profile) -> None:
    all_rows = experiments.fit_rows(tiny, CELL)
    male = experiments.faces(tiny, "webcam", "subject").labels["Gender"].to_numpy()
    small, large = (np.concatenate(studies.labelled(tiny, CELL, budget, 0)) for budget in (16, 32))
    assert set(small) < set(large) < set(all_rows)
    assert len(set(small)) == 16
    assert male[small].mean() == pytest.approx(male[all_rows].mean(), abs=1 / 16)
    fit, val = studies.labelled(tiny, CELL, 16, 0)
    assert (len(fit), len(val)) == (12, 4)
    assert not np.array_equal(np.sort(small), np.sort(np.concatenate(studies.labelled(tiny, CELL, 16, 1))))


def test_without_a_budget_a_cell_has_all_its_labels(tiny: Profile) -> None:
    fit, val = studies.labelled(tiny, CELL, 0, 0)
    assert np.array_equal(fit, experiments.fit_rows(tiny, CELL))
    assert np.array_equal(val, experiments.val_rows(tiny, CELL))


@pytest.mark.parametrize("count", [3, 12, 30, 60])
def test_few_labels_get_as_many_steps_as_many(tiny: Profile, count: int) -> None:
    own, few = experiments.settings_of(tiny), studies._schedule(tiny, CELL, count)
    steps = [math.prod(s.schedule(n)) * s.inner_steps for s, n in ((own, 60), (few, count))]
    assert steps[0] == steps[1] == 4
    assert few.batch_size == min(30, count)


@pytest.fixture(scope="module")
def budgets(tiny: Profile) -> pd.DataFrame:
    return studies.label_budget(tiny)


def test_each_method_gets_the_same_labels(tiny: Profile, budgets: pd.DataFrame) -> None:
    assert len(budgets) == 5 * 2 * 3
    assert budgets.groupby(["data", "attribute", "all"])["labels"].nunique().eq(1).all()
    assert budgets.groupby(["data", "attribute"])["before"].nunique().eq(1).all()
    assert budgets["after"].between(budgets["after_lo"], budgets["after_hi"]).all()


def test_data_fine_tuning_on_all_labels_is_the_cell_of_the_table(tiny: Profile, budgets: pd.DataFrame) -> None:
    row = budgets.query("method == 'data' and all and data == 'webcam'").iloc[0]
    known = experiments.outcome(tiny, next(c for c in studies.featured(tiny) if c.data == "webcam")).row
    for name in ("before", "after", "rise", "rise_lo", "rise_hi", "gained", "lost", "mcnemar_p"):
        assert row[name] == pytest.approx(known[name])


def test_model_fine_tuning_changes_no_classifier_but_its_own_copy(tiny: Profile, budgets: pd.DataFrame) -> None:
    """After the study the frozen classifier still answers as a freshly loaded one does."""
    before = experiments.classifier(tiny, "studio", "Gender", "subject", 0)
    images = experiments.faces(tiny, "webcam", "subject").images[:8]
    kept = before.scores(images)
    experiments.classifier.cache_clear()
    torch.testing.assert_close(experiments.classifier(tiny, "studio", "Gender", "subject", 0).scores(images), kept)
    assert not any(p.requires_grad for p in before.net.parameters())


def test_the_combination_starts_where_both_start(tiny: Profile) -> None:
    rounds = studies.combination(tiny)
    assert len(rounds) == 2 * 3 * (studies.ROUNDS + 1)
    first = rounds.query("round == 0")
    assert (first["rise"] == 0).all()
    assert (first["mcnemar_p"] == 1).all()
    assert rounds.query("round == 1").groupby("data")["after"].nunique().gt(1).all()


def test_the_frontier_is_ordered_by_its_limit(tiny: Profile) -> None:
    found = studies.frontier(tiny)
    assert set(found["rule"]) == {"mean", "sum", "limit"}
    limits = found.query("rule == 'limit'").sort_values("value")
    assert limits["value"].unique().tolist() == [24.0, 28.5, 40.0]
    for _, cell in limits.groupby("data"):
        assert (cell["psnr"] > cell["value"] - 0.5).all()
        assert cell["psnr"].is_monotonic_increasing
        assert cell["ssim"].is_monotonic_increasing
    assert found["pass"].le(1).all()


def test_the_open_questions_share_their_reference(tiny: Profile) -> None:
    """What each question calls the kit's own choice is the cell of the table."""
    found = studies.ambiguities(tiny)
    after = found.set_index(["question", "choice", "data"])["after"].to_dict()
    for cell in studies.featured(tiny):
        known = experiments.outcome(tiny, cell).row["after"]
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
