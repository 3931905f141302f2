"""Notebook 06: what is compared, and that its numbers are those of the classifier itself."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnxruntime
import pandas as pd
import pytest

from dftlib import experiments, figures, queries, scores_only
from dftlib.config import Profile
from dftlib.models import DlibGender

KEYS = ["data", "seed", "learner", "told", "budget"]


@pytest.fixture(scope="module")
def profile(few_faces: Profile) -> Profile:
    return replace(few_faces, query_datasets=("studio",), query_budgets=(200,), n_val=24)


@pytest.fixture(scope="module")
def table(profile: Profile) -> pd.DataFrame:
    return scores_only.table(profile)


def test_every_data_set_has_every_learner_once_and_the_default_with_labels_only(profile: Profile, table: pd.DataFrame) -> None:
    assert not table.duplicated(KEYS).any()
    told = table.groupby("told")["learner"].agg(set)
    assert told["scores"] == set(queries.LEARNERS)
    assert told["gradients"] == {"gradient"}
    assert told["labels"] == {queries.default(200)}
    assert set(table["data"]) == set(profile.query_datasets)


def test_accuracies_are_those_of_the_file_run_by_onnxruntime(profile: Profile, table: pd.DataFrame) -> None:
    small = scores_only.at_its_size(profile)
    cell = scores_only.cells(small)[0]
    data, test = experiments.faces(small, cell.data, cell.protocol), experiments.test_rows(small, cell)
    labels = data.labels["Gender"].to_numpy()[test]
    session = onnxruntime.InferenceSession(str(DlibGender.file))
    spec = json.loads((Path(str(DlibGender.file)).parent / "manifest.json").read_text())["models"]["gender"]["input"][
        "normalization"
    ]
    means = np.array(spec["means"], np.float32).reshape(3, 1, 1)

    def accuracy(pictures: np.ndarray) -> float:
        (scores,) = session.run(None, {"images": ((pictures - means) * spec["scale"]).astype(np.float32)})
        return float(100 * (scores.argmax(1) == labels).mean())

    row = table.query("data == @cell.data and learner == 'gradient'").iloc[0]
    assert row["before"] == pytest.approx(accuracy(data.images[test]))
    found = scores_only.fitted(small, cell, "gradient", "gradients", 0)
    assert row["after"] == pytest.approx(accuracy(found.apply_uint8(data.images[test]).numpy()))


def test_labels_only_tells_no_score(profile: Profile) -> None:
    images = experiments.faces(scores_only.at_its_size(profile), "press", "subject").images[:50]
    box = scores_only.black_box()
    told = scores_only.labels_only(box).scores(images)
    assert set(told.unique().tolist()) == {0.0, 1.0}
    assert (told.argmax(1) == box.scores(images).argmax(1)).all()


def test_a_share_is_that_of_the_gradients_rise(table: pd.DataFrame) -> None:
    for _, rows in table.groupby(["data", "seed"]):
        bound = rows.query("learner == 'gradient'")["rise"].item()
        np.testing.assert_allclose(rows["share"] * bound, rows["rise"], atol=1e-9)


def test_the_summary_keeps_every_kind_of_row(table: pd.DataFrame) -> None:
    made = scores_only.summary(table)
    assert len(made) == len(table.groupby(["data", "learner", "told", "budget"]))
    one = made.query("learner == 'spsa'").iloc[0]
    assert one["after"] == pytest.approx(table.query("learner == 'spsa'")["after"].mean())


def test_the_figure_shows_every_learner(table: pd.DataFrame) -> None:
    figure = figures.queries(table, note="synthetic faces")
    assert [ax.get_title() for ax in figure.axes] == ["studio"]
    (legend,) = figure.legends
    assert {t.get_text() for t in legend.get_texts()} >= {name for name, _, _ in figures.ASKERS.values()}


def test_asking_again_asks_nothing(profile: Profile, table: pd.DataFrame, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queries, "fit", lambda *a, **k: pytest.fail("fitted again"))
    pd.testing.assert_frame_equal(scores_only.table(profile), table)
