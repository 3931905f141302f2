"""The cells of the tables on a few synthetic faces: what is fitted once, what is compared with what."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from dftlib.errors import DataError
from dftlib.experiments import lab, scores_only, tables
from dftlib.experiments.lab import Lab
from dftlib.experiments.outcome import ON_N, REMEDIES, Cell, Outcome
from dftlib.experiments.profile import load_profile
from dftlib.metrics import classification
from dftlib.metrics.comparison import compare
from dftlib.paths import cache_folder
from dftlib.perturbation import gradient
from dftlib.perturbation.perturbation import Perturbation

CELL = Cell(5, "Gender", "press", "studio", "subject", 0)


@pytest.fixture(scope="module")
def outcome(few_faces: Lab) -> Outcome:
    return few_faces.outcome(CELL)


def test_the_paper_s_21_cells_and_eyeglasses_wherever_it_has_gender(few_faces: Lab) -> None:
    every = few_faces.cells(2, 3, 5, 6)
    glasses = [c for c in every if c.attribute == "Eyeglasses"]
    cells = [c for c in every if c.attribute != "Eyeglasses"]
    assert len(cells) == 21
    assert [replace(c, attribute="Gender") for c in glasses] == [c for c in cells if c.attribute == "Gender"]
    assert [c.table for c in every] == sorted(c.table for c in every)
    assert tables.design(few_faces)["attribute"].tolist().count("Eyeglasses") == 0
    assert [sum(c.table == t for c in cells) for t in (2, 3, 5, 6)] == [3, 6, 6, 6]
    assert {c.data == c.model for c in cells if c.table in (2, 3)} == {True}
    assert {(c.data, c.model) for c in cells if c.table == 5} == {
        (a, b) for a in few_faces.profile.datasets for b in few_faces.profile.datasets if a != b
    }


def test_gender_also_runs_under_every_seed_and_protocol() -> None:
    wide = load_profile("small", seeds=[0, 1, 2])
    runs = {(c.protocol, c.seed) for c in Lab(wide).cells(5)}
    assert runs == {("subject", 0), ("subject", 1), ("subject", 2), ("paper", 0)}
    assert {(c.protocol, c.seed) for c in Lab(wide).cells(6)} == {("subject", 0)}
    assert {(c.protocol, c.seed) for c in Lab(wide).cells(2, 5) if c.attribute == "Eyeglasses"} == {("subject", 0)}


def test_a_profile_may_run_all_cells_under_every_seed() -> None:
    lab, seeds = Lab(load_profile("identity")), {("subject", seed) for seed in (0, 1, 2)}
    for table, runs in ((5, seeds | {("paper", 0)}), (6, seeds)):  # Gender also under the other protocol, with the first seed
        cells = [c for c in lab.cells(table) if c.attribute != "Eyeglasses"]
        assert {(c.protocol, c.seed) for c in cells} == runs
        assert len(set(cells)) == len(cells) == 6 * len(runs)
        assert len([c for c in lab.main(table) if c.attribute != "Eyeglasses"]) == 6
    assert {c.seed for c in lab.cells(5) if c.attribute == "Eyeglasses"} == {0, 1, 2}


def test_a_row_says_what_its_scores_say(few_faces: Lab, outcome: Outcome) -> None:
    data, test = few_faces.faces("press", "subject"), outcome.test
    assert set(data.split[test.rows]) == {"test"}
    labels, net = test.labels.numpy(), few_faces.classifier("studio", "Gender", "subject", 0)
    tuned = net.scores(outcome.perturbation.apply(test.images))
    torch.testing.assert_close(tuned, outcome.scores["after"], rtol=0, atol=1e-6)
    row = outcome.row
    assert row["after"] == pytest.approx(100 * classification.accuracy(tuned, labels))
    assert row["before"] == pytest.approx(100 * classification.accuracy(net.scores(test.images), labels))
    own = few_faces.classifier("press", "Gender", "subject", 0)
    assert row["oracle"] == pytest.approx(100 * classification.accuracy(own.scores(test.images), labels))
    assert float(str(row["gained"])) - float(str(row["lost"])) == pytest.approx(row["rise"] / 100 * len(test))
    assert row["psnr"] > few_faces.profile.min_psnr - 0.5


def test_controls_learn_from_fitting_pictures_alone(few_faces: Lab, outcome: Outcome) -> None:
    rows = few_faces.splits(CELL)[0].rows
    data = few_faces.faces("press", "subject")
    assert set(data.split[rows]) == {"train"}
    assert outcome.row["n_fit"] == len(rows) <= few_faces.profile.n_fit
    male = data.labels["Gender"].to_numpy()
    majority = int(male[rows].mean() >= 0.5)
    assert outcome.row["trivial"] == pytest.approx(100 * (male[outcome.test.rows] == majority).mean())


def test_a_cell_is_paid_once(few_faces: Lab, outcome: Outcome, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("this was computed before")

    monkeypatch.setattr(gradient, "fit", refuse)
    monkeypatch.setattr(Lab, "_scores", refuse)
    again = few_faces.outcome(CELL)
    np.testing.assert_equal(again.row, outcome.row)
    assert torch.equal(again.perturbation.n, outcome.perturbation.n)


@pytest.mark.parametrize("way", ["by gradients", "by asking"])
def test_a_damaged_perturbation_is_fitted_again_once_it_is_deleted(few_faces: Lab, way: str) -> None:
    run = few_faces.other(query_datasets=("studio",), n_val=24, steps=8)

    def fitted() -> Perturbation:
        if way == "by gradients":
            return run.fitted(CELL)
        return scores_only.fitted(run, scores_only.cells(run.profile)[0], "statistics", "scores", 96, True)

    def cached() -> set[Path]:
        return set(cache_folder().rglob("*.safetensors"))

    before = cached()
    first = fitted()
    (path,) = {p for p in cached() - before if p.with_suffix(".md").exists()}
    whole = path.read_bytes()
    path.unlink()  # `first` reads its numbers from the file that was there
    path.write_bytes(whole[:1000])
    with pytest.raises(DataError, match=f"^{re.escape(str(path))} in the cache is damaged: delete that file and call again"):
        fitted()
    path.unlink()
    assert torch.equal(fitted().n, first.n)
    assert path.with_suffix(".png").is_file()


def test_another_parameter_is_another_fit(few_faces: Lab, monkeypatch: pytest.MonkeyPatch) -> None:

    called: list[object] = []

    def fit(*arguments: object) -> None:
        called.append(arguments)
        raise KeyboardInterrupt

    monkeypatch.setattr(gradient, "fit", fit)
    with pytest.raises(KeyboardInterrupt):
        few_faces.other(weight=7.0).fitted(CELL)
    assert len(called) == 1


def test_published_numbers_stand_beside_real_data_sets_only(outcome: Outcome) -> None:
    assert tables.outcomes([outcome])["published_before"].isna().all()
    assert tables.published_confusion([outcome]) == []
    row = {**outcome.row, "data": "lfw", "model": "celeba"}
    real = replace(outcome, cell=Cell(5, "Gender", "lfw", "celeba", "subject", 0), row=row)
    assert tables.outcomes([real])[["published_before", "published_after"]].to_numpy().tolist() == [[56.01, 86.33]]


def test_confusion_rows(outcome: Outcome) -> None:
    found = tables.confusion([outcome]).set_index(["stage", "truth"])
    said, labels = outcome.scores["after"].argmax(1).numpy(), outcome.test.labels.numpy()
    expected = 100 * (said[labels == 1] == 1).mean()
    assert found["predicted_present"].to_dict()["after", "present"] == pytest.approx(expected)
    assert (found["predicted_present"] + found["predicted_absent"]).to_numpy() == pytest.approx(100)


def test_only_the_printed_map_changes_pictures_at_zero(few_faces: Lab) -> None:
    zero = tables.boxes_at_zero(few_faces)
    printed = zero["box"].to_numpy() == "printed"
    assert (zero["at_zero"].to_numpy() == zero["original"].to_numpy())[~printed].all()
    assert (zero["psnr"].to_numpy()[printed] < 20).all()


def test_the_summary_counts_every_picture(few_faces: Lab) -> None:
    summary = tables.data_summary(few_faces)
    gender = summary.query("attribute == 'Gender'")
    assert gender.groupby("data")["pictures"].sum().to_list() == [120] * 3
    assert (summary["people_also_in_train"] == 0).all()


def test_classifiers_at_home_and_away(few_faces: Lab) -> None:

    accuracy = tables.classifier_accuracy(few_faces.other(head_epochs=1))
    gender = accuracy.query("attribute == 'Gender'")
    assert len(gender) == 18  # two backbones, three models, three data sets
    assert accuracy["accuracy"].between(accuracy["accuracy_lo"], accuracy["accuracy_hi"]).all()


def test_crops_are_those_of_training_and_test_alike(few_faces: Lab) -> None:
    lab = few_faces.other(head_epochs=1)
    found = tables.crops(lab)
    assert found.groupby("cut").size().to_dict() == {"the usual crops": 9, "by landmarks": 9}
    for way, cut_so in tables.alignments(lab).items():  # noqa: B007 the query reads it
        cut = lab.other(align=way)
        model, test = cut.classifier("press", "Gender", "subject", 0), cut.part("webcam", "Gender", "test", "subject", 0)
        right = 100 * (model.scores(test.images).argmax(1) == test.labels).double().mean().item()
        row = found.query("cut == @cut_so and model == 'press' and data == 'webcam'")
        assert row["accuracy"].item() == pytest.approx(right)
    means = tables.home_and_away(found)
    own = found.query("cut == 'by landmarks' and model == data")["accuracy"].mean()
    assert means.loc["by landmarks", "own set"] == pytest.approx(own)
    assert (means["lost"] == means["own set"] - means["other sets"]).all()


def test_a_vanished_weight_file_is_said(tmp_path: Path) -> None:

    lost = load_profile("paper", weights=str(tmp_path / "no.pth"))
    with pytest.raises(DataError, match=r"are missing: call dft download vggface"):
        Lab(lost).body()


def test_every_control_stands_beside_n(few_faces: Lab, outcome: Outcome) -> None:
    found = tables.controls(few_faces, [outcome]).set_index("control")
    assert set(found.index) == {"unaligned", "before", "after", "oracle", *REMEDIES, *ON_N}
    row = outcome.row
    for name in ("unaligned", *REMEDIES):
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
    assert row["over_best"] == pytest.approx(row["after"] - max(row[name] for name in ("before", *REMEDIES)))
    assert found["balanced"]["after"] == pytest.approx(row["balanced_after"])


def test_the_controls_on_n_are_those_scored_under_each(few_faces: Lab, outcome: Outcome) -> None:
    found = few_faces.controlled(outcome)
    assert tuple(found) == ON_N
    flipped = outcome.perturbation.with_n(-outcome.perturbation.n)
    scores = lab.under(few_faces.model(outcome.cell), flipped, outcome.test.images).numpy()
    assert np.array_equal(found["flipped"], scores.argmax(1) == outcome.test.labels.numpy())


def test_images_are_scored_as_their_set_usually_crops_them_too(few_faces: Lab, outcome: Outcome) -> None:
    loose = few_faces.other(align="none").of_cell(outcome.cell, outcome.test.rows).images
    assert not np.array_equal(loose, outcome.test.images)
    torch.testing.assert_close(outcome.scores["unaligned"], few_faces.model(outcome.cell).scores(loose), atol=1e-4, rtol=0)


def test_shuffled_labels_are_the_same_labels_dealt_anew(few_faces: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def fit(*arguments: object) -> None:
        seen.append(arguments)
        raise KeyboardInterrupt

    monkeypatch.setattr(gradient, "fit", fit)
    other = few_faces.other(weight=3.0)
    for fitted in (other.fitted, other.shuffled):
        with pytest.raises(KeyboardInterrupt):
            fitted(CELL)
    for labels in (2, 4):
        true, dealt = (torch.as_tensor(arguments[labels]) for arguments in seen)
        assert torch.equal(true.sort().values, dealt.sort().values)
        assert not torch.equal(true, dealt)


def test_the_gate_opens_for_a_gain_on_validation_alone(few_faces: Lab, outcome: Outcome) -> None:
    row, scores, val = outcome.row, outcome.scores, few_faces.splits(CELL)[1]
    was, now = (scores[f"val_{stage}"].argmax(1).numpy() == val.labels.numpy() for stage in ("before", "after"))
    drawn = classification.people_drawn(val.subjects)
    low = 100 * classification.interval(classification.share(now.astype(float) - was, drawn))[0]
    assert row["val_rise_lo"] == pytest.approx(low)
    present, cut = (
        scores["val_before"][:, 1].double().numpy(),
        classification.best_threshold(scores["train"][:, 1].double().numpy(), few_faces.splits(CELL)[0].labels.numpy()),
    )
    truth = val.labels.numpy() == 1
    harmed = [compare(was, now, val).of(truth == k).rise["_hi"] < 0 for k in (False, True)]
    simple = max(((present > cut) == truth).mean(), truth.mean(), 1 - truth.mean())
    opens = low > 0 and not any(harmed) and now.mean() >= simple
    assert row["recommended"] == opens
    assert row["after_gate"] == pytest.approx(row["after"] if opens else row["before"])


def test_subgroups_make_up_the_whole(few_faces: Lab, outcome: Outcome) -> None:
    groups = tables.subgroups(few_faces, [outcome], smallest=1).set_index("group")
    for pair in (["women", "men"], ["no glasses", "glasses"]):
        own = groups.loc[pair]
        assert own["n"].sum() == len(outcome.test)
        assert np.average(own["after"], weights=own["n"]) == pytest.approx(outcome.row["after"])
        assert own["gained"].sum() == outcome.row["gained"]
    assert len(tables.subgroups(few_faces, [outcome], smallest=10_000)) == 0
