"""The cells of the tables on a few synthetic faces: what is fitted once, what is compared with what."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from dftlib import evaluation, experiments, perturbation, tables
from dftlib.config import DataError, Profile, load_profile
from dftlib.experiments import Cell, Outcome

CELL = Cell(5, "Gender", "press", "studio", "subject", 0)


@pytest.fixture(scope="module")
def outcome(few_faces: Profile) -> Outcome:
    return experiments.outcome(few_faces, CELL)


def test_the_paper_s_21_cells(few_faces: Profile) -> None:
    cells = experiments.cells(few_faces, 2, 3, 5, 6)
    assert len(cells) == 21
    assert [sum(c.table == t for c in cells) for t in (2, 3, 5, 6)] == [3, 6, 6, 6]
    assert {c.data == c.model for c in cells if c.table in (2, 3)} == {True}
    assert {(c.data, c.model) for c in cells if c.table == 5} == {
        (a, b) for a in few_faces.datasets for b in few_faces.datasets if a != b
    }


def test_gender_also_runs_under_every_seed_and_protocol() -> None:
    wide = load_profile("small", seeds=[0, 1, 2])
    runs = {(c.protocol, c.seed) for c in experiments.cells(wide, 5)}
    assert runs == {("subject", 0), ("subject", 1), ("subject", 2), ("paper", 0)}
    assert {(c.protocol, c.seed) for c in experiments.cells(wide, 6)} == {("subject", 0)}


def test_a_row_says_what_its_scores_say(few_faces: Profile, outcome: Outcome) -> None:
    data = experiments.faces(few_faces, "press", "subject")
    assert set(data.split[outcome.test_rows]) == {"test"}
    net = experiments.classifier(few_faces, "studio", "Gender", "subject", 0)
    tuned = net.scores(outcome.perturbation.apply(data.images[outcome.test_rows]))
    torch.testing.assert_close(tuned, outcome.after, rtol=0, atol=1e-6)
    row = outcome.row
    assert row["after"] == pytest.approx(100 * evaluation.accuracy(tuned, outcome.labels))
    assert row["before"] == pytest.approx(100 * evaluation.accuracy(net.scores(data.images[outcome.test_rows]), outcome.labels))
    own = experiments.classifier(few_faces, "press", "Gender", "subject", 0)
    assert row["oracle"] == pytest.approx(100 * evaluation.accuracy(own.scores(data.images[outcome.test_rows]), outcome.labels))
    assert float(str(row["gained"])) - float(str(row["lost"])) == pytest.approx(row["rise"] / 100 * len(outcome.labels))
    assert row["psnr"] > few_faces.min_psnr - 0.5


def test_controls_learn_from_fitting_pictures_alone(few_faces: Profile, outcome: Outcome) -> None:
    rows = experiments.fit_rows(few_faces, CELL)
    data = experiments.faces(few_faces, "press", "subject")
    assert set(data.split[rows]) == {"train"}
    assert outcome.row["n_fit"] == len(rows) <= few_faces.n_fit
    male = data.labels["Gender"].to_numpy()
    majority = int(male[rows].mean() >= 0.5)
    assert outcome.row["trivial"] == pytest.approx(100 * (male[outcome.test_rows] == majority).mean())


def test_a_cell_is_paid_once(few_faces: Profile, outcome: Outcome, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("this was computed before")

    monkeypatch.setattr(perturbation, "fit", refuse)
    monkeypatch.setattr(experiments, "_scores", refuse)
    again = experiments.outcome(few_faces, CELL)
    np.testing.assert_equal(again.row, outcome.row)
    assert torch.equal(again.perturbation.n, outcome.perturbation.n)


def test_another_parameter_is_another_fit(few_faces: Profile, monkeypatch: pytest.MonkeyPatch) -> None:

    called: list[object] = []

    def fit(*arguments: object) -> None:
        called.append(arguments)
        raise KeyboardInterrupt

    monkeypatch.setattr(perturbation, "fit", fit)
    with pytest.raises(KeyboardInterrupt):
        experiments.fitted(replace(few_faces, weight=7.0), CELL)
    assert len(called) == 1


def test_published_numbers_stand_beside_real_data_sets_only(outcome: Outcome) -> None:
    assert tables.outcomes([outcome])["published_before"].isna().all()
    assert tables.published_confusion([outcome]) == []
    real = Outcome(
        Cell(5, "Gender", "lfw", "celeba", "subject", 0),
        {**outcome.row, "data": "lfw", "model": "celeba"},
        outcome.labels, outcome.before, outcome.after, outcome.test_rows, outcome.perturbation, outcome.scores, outcome.right,
    )  # fmt: skip
    assert tables.outcomes([real])[["published_before", "published_after"]].to_numpy().tolist() == [[56.01, 86.33]]


def test_confusion_rows(outcome: Outcome) -> None:
    found = tables.confusion([outcome]).set_index(["stage", "truth"])
    said = outcome.after.argmax(1).numpy()
    expected = 100 * (said[outcome.labels == 1] == 1).mean()
    assert found["predicted_present"].to_dict()["after", "present"] == pytest.approx(expected)
    assert (found["predicted_present"] + found["predicted_absent"]).to_numpy() == pytest.approx(100)


def test_only_the_printed_map_changes_pictures_at_zero(few_faces: Profile) -> None:
    zero = tables.boxes_at_zero(few_faces)
    printed = zero["box"].to_numpy() == "printed"
    assert (zero["at_zero"].to_numpy() == zero["original"].to_numpy())[~printed].all()
    assert (zero["psnr"].to_numpy()[printed] < 20).all()


def test_the_summary_counts_every_picture(few_faces: Profile) -> None:
    summary = tables.data_summary(few_faces)
    gender = summary.query("attribute == 'Gender'")
    assert gender.groupby("data")["pictures"].sum().to_list() == [120] * 3
    assert (summary["people_also_in_train"] == 0).all()


def test_classifiers_at_home_and_away(few_faces: Profile) -> None:

    accuracy = tables.classifier_accuracy(replace(few_faces, head_epochs=1))
    gender = accuracy.query("attribute == 'Gender'")
    assert len(gender) == 18  # two backbones, three models, three data sets
    assert accuracy["accuracy"].between(accuracy["accuracy_lo"], accuracy["accuracy_hi"]).all()


def test_a_vanished_weight_file_is_said(tmp_path: Path) -> None:

    lost = load_profile("paper", weights=str(tmp_path / "no.pth"))
    with pytest.raises(DataError, match=r"are missing: call python -m dftlib\.datasets download vggface"):
        experiments.body(lost)


def test_every_control_stands_beside_n(few_faces: Profile, outcome: Outcome) -> None:
    found = tables.controls(few_faces, [outcome]).set_index("control")
    assert set(found.index) == {"unaligned", "before", "after", "oracle", *experiments.REMEDIES, *experiments.ON_N}
    row = outcome.row
    for name in ("unaligned", *experiments.REMEDIES):
        assert found.loc[name, "accuracy"] == pytest.approx(row[name])
    for ours, theirs in (
        ("over", "rise"),
        ("over_lo", "rise_lo"),
        ("over_hi", "rise_hi"),
        ("gained", "gained"),
        ("lost", "lost"),
    ):
        assert found.loc["before", ours] == pytest.approx(row[theirs])
    assert (found[["over", "over_lo", "over_hi"]].loc["after"] == 0).all()
    assert row["over_best"] == pytest.approx(row["after"] - max(row[name] for name in ("before", *experiments.REMEDIES)))
    assert found["balanced"]["after"] == pytest.approx(row["balanced_after"])


def test_the_controls_on_n_are_those_scored_under_each(few_faces: Profile, outcome: Outcome) -> None:
    found, cell = experiments.controlled(few_faces, outcome), outcome.cell
    assert tuple(found) == experiments.ON_N
    model = experiments.classifier(few_faces, cell.model, cell.attribute, cell.protocol, cell.seed)
    images = experiments.faces(few_faces, cell.data, cell.protocol).images[outcome.test_rows]
    flipped = replace(outcome.perturbation, n=-outcome.perturbation.n)
    scores = experiments.under(model, flipped, images).numpy()
    assert np.array_equal(found["flipped"], scores.argmax(1) == outcome.labels)


def test_pictures_are_scored_as_their_set_usually_crops_them_too(few_faces: Profile, outcome: Outcome) -> None:
    cell = outcome.cell
    model = experiments.classifier(few_faces, cell.model, cell.attribute, cell.protocol, cell.seed)
    loose = experiments.faces(replace(few_faces, align="none"), cell.data, cell.protocol).images[outcome.test_rows]
    assert not np.array_equal(loose, experiments.faces(few_faces, cell.data, cell.protocol).images[outcome.test_rows])
    torch.testing.assert_close(outcome.scores["unaligned"], model.scores(loose), atol=1e-4, rtol=0)


def test_shuffled_labels_are_the_same_labels_dealt_anew(few_faces: Profile, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def fit(*arguments: object) -> None:
        seen.append(arguments)
        raise KeyboardInterrupt

    monkeypatch.setattr(perturbation, "fit", fit)
    for shuffled in (False, True):
        with pytest.raises(KeyboardInterrupt):
            experiments.fit_cell(few_faces, CELL, replace(experiments.settings_of(few_faces), weight=3.0), shuffled=shuffled)
    for labels in (2, 4):
        true, dealt = (torch.as_tensor(arguments[labels]) for arguments in seen)
        assert torch.equal(true.sort().values, dealt.sort().values)
        assert not torch.equal(true, dealt)


def test_the_gate_opens_for_a_gain_on_validation_alone(few_faces: Profile, outcome: Outcome) -> None:
    row, scores = outcome.row, outcome.scores
    rows = experiments.val_rows(few_faces, CELL)
    y = experiments.labels_of(few_faces, "press", "Gender", rows, "subject").numpy()
    people = experiments.faces(few_faces, "press", "subject").subjects[rows]
    was, now = (scores[f"val_{stage}"].argmax(1).numpy() == y for stage in ("before", "after"))
    low = evaluation.compared(was, now, people)["rise_lo"]
    assert row["val_rise_lo"] == pytest.approx(low)
    assert row["recommended"] == (low > 0)
    assert row["after_gate"] == pytest.approx(row["after"] if low > 0 else row["before"])


def test_subgroups_make_up_the_whole(few_faces: Profile, outcome: Outcome) -> None:
    groups = tables.subgroups(few_faces, [outcome], smallest=1).set_index("group")
    for pair in (["women", "men"], ["no glasses", "glasses"]):
        own = groups.loc[pair]
        assert own["n"].sum() == len(outcome.labels)
        assert np.average(own["after"], weights=own["n"]) == pytest.approx(outcome.row["after"])
        assert own["gained"].sum() == outcome.row["gained"]
    assert len(tables.subgroups(few_faces, [outcome], smallest=10_000)) == 0
