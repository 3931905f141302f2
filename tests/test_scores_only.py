"""Notebook 06: what is compared, and that its numbers are those of the classifier itself."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnxruntime
import pandas as pd
import pytest

from dftlib.datasets import synthetic
from dftlib.experiments import scores_only
from dftlib.experiments.lab import Lab
from dftlib.images import Pictures
from dftlib.models.dlib_files import DlibGender
from dftlib.perturbation import from_scores
from dftlib.plots import studies

KEYS = ["data", "seed", "learner", "told", "budget", "mirror"]


@pytest.fixture(scope="module")
def lab(few_faces: Lab) -> Lab:
    return few_faces.other(query_datasets=("studio",), query_budgets=(200,), n_val=24)


@pytest.fixture(scope="module")
def table(lab: Lab) -> pd.DataFrame:
    return scores_only.table(lab)


def test_every_data_set_has_the_remedies_and_every_learner_once(lab: Lab, table: pd.DataFrame) -> None:
    assert not table.duplicated(KEYS).any()
    told = table.groupby("told")["learner"].agg(set)
    assert told["scores"] == {*from_scores.LEARNERS, "threshold", "colour and threshold", "features and scores"}
    assert told["gradients"] == {"gradient"}
    assert told["labels"] == {"surrogate", "spsa"}
    assert told["nothing"] == {"colour", "alignment", "own features"}
    assert set(table["data"]) == set(lab.profile.query_datasets)
    assert table["learner"].tolist()[:7] == ["gradient", *scores_only.REMEDIES]
    assert table[~table["mirror"] & table["learner"].isin(from_scores.LEARNERS)]["learner"].tolist() == [from_scores.DEFAULT]


@pytest.mark.parametrize("changes", [{"align": "none"}, {"size": 64}, {"backbone": "dlib_face"}])
def test_faces_are_the_chips_that_the_maker_prescribes(lab: Lab, changes: dict[str, object]) -> None:
    given = scores_only.at_its_size(lab.other(**changes)).faces("studio")
    wanted = synthetic.load("studio", 32, 0, "chip", subjects=60, per_subject=2, padding=0.2)
    assert np.array_equal(given.images, wanted.images)


def test_the_known_network_sees_faces_at_its_own_size_and_is_in_the_keys_that_it_changes(lab: Lab) -> None:
    other = lab.other(encoder="dlib_face", align="none", weights="mine.dat")
    assert scores_only.known(lab) is lab
    p = scores_only.known(other).profile
    assert (p.backbone, p.size, p.align, p.weights) == ("dlib_face", 150, "chip", "mine.dat")
    cell = scores_only.cells(lab.profile)[0]
    for learner, same in (("encoder", False), ("surrogate", True)):
        keys = [scores_only.fit_key(each, cell, learner, "scores", 200, True) for each in (lab, lab.other(encoder="dlib_face"))]
        assert (keys[0] == keys[1]) is same


def test_remedies_are_those_of_their_answers(lab: Lab, table: pd.DataFrame) -> None:
    small = scores_only.at_its_size(lab)
    cell, box = scores_only.cells(small.profile)[0], scores_only.black_box()
    fit, _, test = small.splits(cell)
    loose = small.other(align="none").faces(cell.data).images[test.rows]

    def accuracy(images: Pictures) -> float:
        return float(100 * (box.scores(images).argmax(1) == test.labels).double().mean())

    def said(learner: str, column: str) -> float:
        return float(table.loc[table["learner"] == learner, column].iloc[0])

    assert said("alignment", "before") == pytest.approx(accuracy(loose))
    assert said("alignment", "after") == pytest.approx(accuracy(test.images))
    assert said("colour", "before") == pytest.approx(accuracy(test.images))
    present, known = box.scores(fit.images)[:, 1].numpy(), fit.labels.numpy()
    best = max(((present > cut) == known).mean() for cut in [-1.0, *present])
    cuts = [cut for cut in [-1.0, *np.sort(present)] if ((present > cut) == known).mean() == best]
    there = box.scores(test.images)[:, 1].numpy()
    ranges = [100 * float(((there > cut) == test.labels.numpy()).mean()) for cut in cuts]
    assert min(ranges) - 2 <= said("threshold", "after") <= max(ranges) + 2
    assert said("threshold", "used") == len(fit)


def test_accuracies_are_those_of_the_file_run_by_onnxruntime(lab: Lab, table: pd.DataFrame) -> None:
    small = scores_only.at_its_size(lab)
    cell = scores_only.cells(small.profile)[0]
    test = small.splits(cell)[2]
    labels = test.labels.numpy()
    session = onnxruntime.InferenceSession(str(DlibGender.file))
    spec = json.loads((Path(str(DlibGender.file)).parent / "manifest.json").read_text())["models"]["gender"]["input"][
        "normalization"
    ]
    means = np.array(spec["means"], np.float32).reshape(3, 1, 1)

    def accuracy(pictures: np.ndarray) -> float:
        (scores,) = session.run(None, {"images": ((pictures - means) * spec["scale"]).astype(np.float32)})
        return float(100 * (scores.argmax(1) == labels).mean())

    row = table.query("data == @cell.data and learner == 'gradient'").iloc[0]
    assert row["before"] == pytest.approx(accuracy(np.asarray(test.images)))
    found = scores_only.fitted(lab, cell, "gradient", "gradients", 0, True)
    assert row["after"] == pytest.approx(accuracy(found.apply_uint8(test.images).numpy()))


def test_labels_only_tells_no_score(lab: Lab) -> None:
    images = scores_only.at_its_size(lab).faces("press").images[:50]
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
    assert len(made) == len(table.groupby(KEYS[:1] + KEYS[2:]))
    one = "learner == 'spsa' and told == 'scores' and mirror"
    assert made.query(one)["after"].item() == pytest.approx(table.query(one)["after"].mean())


def test_the_figure_shows_every_learner(table: pd.DataFrame) -> None:
    figure = studies.queries(table, note="synthetic faces")
    assert [ax.get_title() for ax in figure.axes] == ["studio"]
    (legend,) = figure.legends
    names = {name for name, _, _ in studies.ASKERS.values()}
    assert {t.get_text() for t in legend.get_texts()} >= {*names, "told labels only", "N not mirrored", "one seed"}


def test_asking_again_asks_nothing(lab: Lab, table: pd.DataFrame, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(from_scores, "fit_black_box", lambda *a, **k: pytest.fail("fitted again"))
    pd.testing.assert_frame_equal(scores_only.table(lab), table)


@pytest.mark.parametrize(
    ("where", "name", "other"),
    [
        (scores_only, "FITTED", 50),
        (scores_only, "MIN_PSNR", 31.0),
        (DlibGender, "options", {"mean": 120.0, "deviation": 256.0}),
        (from_scores, "GRID", 4),
        (from_scores, "NUDGE", 30.0),
    ],
)
def test_what_decides_a_fit_stands_in_its_key(
    lab: Lab, where: object, name: str, other: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    cell = scores_only.cells(lab.profile)[0]

    def key() -> dict[str, object]:
        return scores_only.fit_key(lab, cell, "spsa", "scores", 200, True)

    before = key()
    assert key() == before
    monkeypatch.setattr(where, name, other)
    assert key() != before


def test_what_a_fit_is_told_stands_in_its_key(lab: Lab) -> None:
    cell = scores_only.cells(lab.profile)[0]
    few = ("n_fit", "n_train", "n_val", "n_test")
    labs = [lab, *(lab.other(**{name: 20}) for name in few)]
    cells = [cell, replace(cell, seed=1), replace(cell, attribute="Smiling"), replace(cell, model="press", data="webcam")]
    ways = [("spsa", "scores", 200, True), ("encoder", "scores", 200, True), ("spsa", "labels", 200, True)]
    ways += [("spsa", "scores", 300, True), ("spsa", "scores", 200, False)]
    keys = [scores_only.fit_key(one, cell, *ways[0]) for one in labs]
    keys += [scores_only.fit_key(lab, one, *ways[0]) for one in cells[1:]]
    keys += [scores_only.fit_key(lab, cell, *way) for way in ways[1:]]
    assert len({json.dumps(key, sort_keys=True) for key in keys}) == len(labs) + len(cells) + len(ways) - 2
