"""The cells of the tables on a few synthetic faces: what is fitted once, what is compared with what."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from dftlib import evaluation, experiments, perturbation
from dftlib.config import DataError, Profile, load_profile
from dftlib.datasets import FaceDataset, synthetic
from dftlib.experiments import Cell, Outcome

CELL = Cell(5, "Gender", "press", "studio", "subject", 0)
CACHED = (experiments.faces, experiments.features, experiments.classifier, experiments.body)


@pytest.fixture(scope="module")
def profile(scratch: Path) -> Iterator[Profile]:
    def few(name: str, root: str, size: int, protocol: str, seed: int) -> FaceDataset:
        return synthetic.load(name, size, seed, subjects=60, per_subject=2)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(experiments, "load_dataset", few)
        patch.setenv("DFT_CACHE", str(scratch / "cache"))
        for kept in CACHED:
            kept.cache_clear()
        yield load_profile("demo", n_fit=60, epochs=2, batch_size=30, head_epochs=5)
        for kept in CACHED:
            kept.cache_clear()


@pytest.fixture(scope="module")
def outcome(profile: Profile) -> Outcome:
    return experiments.outcome(profile, CELL)


def test_the_paper_s_21_cells(profile: Profile) -> None:
    cells = experiments.cells(profile, 2, 3, 5, 6)
    assert len(cells) == 21
    assert [sum(c.table == t for c in cells) for t in (2, 3, 5, 6)] == [3, 6, 6, 6]
    assert {c.data == c.model for c in cells if c.table in (2, 3)} == {True}
    assert {(c.data, c.model) for c in cells if c.table == 5} == {
        (a, b) for a in profile.datasets for b in profile.datasets if a != b
    }


def test_gender_also_runs_under_every_seed_and_protocol() -> None:
    wide = load_profile("small", seeds=[0, 1, 2])
    runs = {(c.protocol, c.seed) for c in experiments.cells(wide, 5)}
    assert runs == {("subject", 0), ("subject", 1), ("subject", 2), ("paper", 0)}
    assert {(c.protocol, c.seed) for c in experiments.cells(wide, 6)} == {("subject", 0)}


def test_a_row_says_what_its_scores_say(profile: Profile, outcome: Outcome) -> None:
    data = experiments.faces(profile, "press", "subject")
    assert set(data.split[outcome.test_rows]) == {"test"}
    net = experiments.classifier(profile, "studio", "Gender", "subject", 0)
    tuned = net.scores(outcome.perturbation.apply(data.images[outcome.test_rows]))
    torch.testing.assert_close(tuned, outcome.after, rtol=0, atol=1e-6)
    row = outcome.row
    assert row["after"] == pytest.approx(100 * evaluation.accuracy(tuned, outcome.labels))
    assert row["before"] == pytest.approx(100 * evaluation.accuracy(net.scores(data.images[outcome.test_rows]), outcome.labels))
    own = experiments.classifier(profile, "press", "Gender", "subject", 0)
    assert row["oracle"] == pytest.approx(100 * evaluation.accuracy(own.scores(data.images[outcome.test_rows]), outcome.labels))
    assert float(str(row["gained"])) - float(str(row["lost"])) == pytest.approx(row["rise"] / 100 * len(outcome.labels))
    assert row["psnr"] > profile.min_psnr - 0.5


def test_controls_learn_from_fitting_pictures_alone(profile: Profile, outcome: Outcome) -> None:
    rows = experiments.fit_rows(profile, CELL)
    data = experiments.faces(profile, "press", "subject")
    assert set(data.split[rows]) == {"train"}
    assert outcome.row["n_fit"] == len(rows) <= profile.n_fit
    male = data.labels["Gender"].to_numpy()
    majority = int(male[rows].mean() >= 0.5)
    assert outcome.row["trivial"] == pytest.approx(100 * (male[outcome.test_rows] == majority).mean())


def test_a_cell_is_paid_once(profile: Profile, outcome: Outcome, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("this was computed before")

    monkeypatch.setattr(perturbation, "fit", refuse)
    monkeypatch.setattr(experiments, "_scores", refuse)
    again = experiments.outcome(profile, CELL)
    np.testing.assert_equal(again.row, outcome.row)
    assert torch.equal(again.perturbation.n, outcome.perturbation.n)


def test_another_parameter_is_another_fit(profile: Profile, monkeypatch: pytest.MonkeyPatch) -> None:

    called: list[object] = []

    def fit(*arguments: object) -> None:
        called.append(arguments)
        raise KeyboardInterrupt

    monkeypatch.setattr(perturbation, "fit", fit)
    with pytest.raises(KeyboardInterrupt):
        experiments.fitted(replace(profile, weight=7.0), CELL)
    assert len(called) == 1


def test_published_numbers_stand_beside_real_data_sets_only(outcome: Outcome) -> None:
    assert experiments.table([outcome])["published_before"].isna().all()
    assert experiments.published_confusion([outcome]) == []
    real = Outcome(
        Cell(5, "Gender", "lfw", "celeba", "subject", 0),
        {**outcome.row, "data": "lfw", "model": "celeba"},
        outcome.labels, outcome.before, outcome.after, outcome.test_rows, outcome.perturbation,
    )  # fmt: skip
    assert experiments.table([real])[["published_before", "published_after"]].to_numpy().tolist() == [[56.01, 86.33]]


def test_confusion_rows(outcome: Outcome) -> None:
    found = experiments.confusion([outcome]).set_index(["stage", "truth"])
    said = outcome.after.argmax(1).numpy()
    expected = 100 * (said[outcome.labels == 1] == 1).mean()
    assert found["predicted_present"].to_dict()["after", "present"] == pytest.approx(expected)
    assert (found["predicted_present"] + found["predicted_absent"]).to_numpy() == pytest.approx(100)


def test_only_the_printed_map_changes_pictures_at_zero(profile: Profile) -> None:
    zero = experiments.boxes_at_zero(profile)
    printed = zero["box"].to_numpy() == "printed"
    assert (zero["at_zero"].to_numpy() == zero["original"].to_numpy())[~printed].all()
    assert (zero["psnr"].to_numpy()[printed] < 20).all()


def test_the_summary_counts_every_picture(profile: Profile) -> None:
    summary = experiments.data_summary(profile)
    gender = summary.query("attribute == 'Gender'")
    assert gender.groupby("data")["pictures"].sum().to_list() == [120] * 3
    assert (summary["people_also_in_train"] == 0).all()


def test_classifiers_at_home_and_away(profile: Profile) -> None:

    accuracy = experiments.classifier_accuracy(replace(profile, head_epochs=1))
    gender = accuracy.query("attribute == 'Gender'")
    assert len(gender) == 18  # two backbones, three models, three data sets
    assert accuracy["accuracy"].between(accuracy["accuracy_lo"], accuracy["accuracy_hi"]).all()


def test_a_vanished_weight_file_is_said(tmp_path: Path) -> None:

    lost = load_profile("paper", weights=str(tmp_path / "no.pth"))
    with pytest.raises(DataError, match="are missing: fetch"):
        experiments.body(lost)
