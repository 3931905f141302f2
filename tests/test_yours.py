"""Notebook 10 and what it calls: faults end in a sentence before anything is asked, and the whole way as a new user goes it."""

import os
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import nbformat
import numpy as np
import pandas as pd
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from web_service import WebService

from dftlib.datasets import synthetic
from dftlib.errors import DataError
from dftlib.experiments import own_classifier, scores_only
from dftlib.experiments.own_classifier import Request, tune
from dftlib.paths import ROOT
from dftlib.perturbation import from_scores
from dftlib.perturbation.perturbation import Perturbation

NOTEBOOK = ROOT / "notebooks" / "10_your_own_classifier.ipynb"
asked: list[int] = []


def bright(pictures: NDArray[np.uint8]) -> NDArray[np.float64]:
    """The model of these tests: the probability of 'pale', in steep doubt at a level that the pictures' own middle misses."""
    asked.append(len(pictures))
    return 1 / (1 + np.exp(-(pictures.mean((1, 2, 3)) - 140) / 4))


def low(pictures: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Right about nearly all as they are, and wrong about the dark ones as soon as they are paler."""
    asked.append(len(pictures))
    return 1 / (1 + np.exp(-(pictures.mean((1, 2, 3)) - 114) / 4))


def drifting(pictures: NDArray[np.uint8]) -> NDArray[np.float64]:
    """The same, with answers that fall from call to call."""
    return bright(pictures) * 0.9 ** len(asked)


@pytest.fixture(scope="module")
def photos(scratch: Path) -> Path:
    """120 pictures of 8 x 8, darker or paler than grey level 120, one of them without label."""
    folder, random, rows = scratch / "greys", np.random.default_rng(0), []
    folder.mkdir()
    for i in range(121):
        level = 120 + (12 if i % 2 else -12) + random.normal(0, 3)
        Image.fromarray(np.clip(random.normal(level, 20, (8, 8, 3)), 0, 255).astype(np.uint8)).save(folder / f"{i}.png")
        rows.append(f"{i}.png,{'pale' if i % 2 else 'dark'}")
    (folder / "labels.csv").write_text("\n".join(["file,label", *rows[:120]]))
    return folder


@pytest.fixture
def wanted(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Request:
    """The request that works; surrogates are trained for a moment only."""
    asked.clear()
    monkeypatch.setattr(from_scores, "steepest", lambda step, c, problem, *_: problem.limited(c + 0.2))
    monkeypatch.setattr(from_scores.Surrogate, "learn", lambda *_: None)
    return Request(str(photos), str(photos / "labels.csv"), "test_yours:bright", 300, str(tmp_path / "out"), pixels=8)


def test_what_came_out(wanted: Request) -> None:
    tuned = tune(wanted)
    one = tuned.summary.iloc[0]
    assert one[["pictures", "unlabelled", "people", "n_fit", "n_val", "n_test"]].tolist() == [120, 1, 120, 72, 24, 24]
    assert one["after"] > one["before"]
    assert one["rise"] == pytest.approx(one["after"] - one["before"])
    assert one["recommended"]
    assert tuned.said[0].startswith("Recommended: add N.")
    assert one["majority"] == 50
    assert one["threshold"] > one["before"]
    assert any("moving the classifier's threshold" in line for line in tuned.said)
    assert one["sent_now"] == one["used"] == sum(asked) <= one["budget"]
    assert one["psnr"] > 25
    assert (one["auc_before"], one["unsteady"]) == (pytest.approx(1, abs=0.1), 0)
    assert tuned.per_class["class"].tolist() == ["dark", "pale"]
    assert tuned.per_class["n_test"].tolist() == [12, 12]
    assert torch.equal(tuned.after, tuned.perturbation.apply_uint8(tuned.images))
    assert "1 pictures in the folder have no label" in tuned.said[-2]


def test_a_second_run_asks_nothing(wanted: Request) -> None:
    first = tune(wanted)
    paid = sum(asked)
    again = tune(wanted)
    assert sum(asked) == paid
    assert again.summary["sent_now"].item() == 0
    assert torch.equal(again.perturbation.n, first.perturbation.n)
    pd.testing.assert_frame_equal(again.summary.drop(columns="sent_now"), first.summary.drop(columns="sent_now"))


def test_the_budget_covers_the_test(wanted: Request) -> None:
    one = tune(replace(wanted, budget=128)).summary.iloc[0]
    assert one["n_test"] == 16
    assert sum(asked) == one["used"] <= 128


def test_the_files(wanted: Request, tmp_path: Path) -> None:
    tuned = tune(wanted)
    tuned.save(tmp_path / "out", tuned.examples("greys"))
    names = ["answers.db", "examples.png", "per_class.csv", "perturbation.png", "perturbation.safetensors", "summary.csv"]
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == names
    assert pd.read_csv(tmp_path / "out" / "summary.csv")["used"].item() == sum(asked)
    kept = tmp_path / "out" / "perturbation.safetensors"
    assert own_classifier.same_as_command(kept, tuned.images[:2], tuned.after[:2])
    assert not own_classifier.same_as_command(kept, tuned.images[:2], tuned.images[:2])


def test_what_does_not_help_is_not_recommended(wanted: Request) -> None:
    tuned = tune(replace(wanted, model="test_yours:low"))
    assert not tuned.summary["recommended"].item()
    assert tuned.said[0].startswith("Not recommended: leave the pictures as they are.")
    assert any(line.startswith("Harm: class 'dark' falls from") for line in tuned.said)


def test_answers_that_change_are_reported(wanted: Request) -> None:
    said = tune(replace(wanted, model="test_yours:drifting", options={"batch": 300})).said
    assert any(line.startswith("The classifier changes its answers") for line in said)


def test_classes_in_another_order(wanted: Request) -> None:
    """The labels follow the order of the model's answers; the wrong order is suspected where a guess would do better."""
    wanted = replace(wanted, model="test_yours:low")
    right = tune(wanted).summary["before"].item()
    wrong = tune(replace(wanted, classes=["pale", "dark"]))
    assert wrong.summary["before"].item() == pytest.approx(100 - right)
    assert wrong.per_class["class"].tolist() == ["pale", "dark"]
    assert any("is the order of `classes`" in line for line in wrong.said)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"classes": ["pale", "drak"]}, "The classes pale, drak aren't the labels in .*, dark, pale: give these as `classes`"),
        ({"pixels": 0}, "doesn't say how large its pictures are: set `pixels`"),
        ({"budget": 127}, "A budget of 127 pictures can't fit, check and test a perturbation: give 128 or more"),
        ({"budget": "many"}, "Parameter 'budget' must be int, not 'many'"),
        ({"labels": ""}, "Parameter 'labels' is empty"),
        ({"model": "nothing.onnx"}, "There is no model file nothing.onnx"),
        ({"options": {"layout": "nchw"}}, "has no option 'layout'"),
        ({"images": "nowhere"}, "nowhere is no folder"),
    ],
)
def test_faults_are_said_before_anything_is_asked(wanted: Request, change: dict[str, Any], sentence: str) -> None:
    with pytest.raises(DataError, match=sentence):
        tune(replace(wanted, **change))
    assert not asked
    assert not Path(wanted.out).exists()


def test_parameters_of_the_notebook() -> None:
    given = {"images": "a", "labels": "b", "model": "c", "budget": 500, "profile": "demo", "seeds": [0], "In": [], "_": 3}
    assert own_classifier.request(given) == Request("a", "b", "c", 500, f"{os.environ['DFT_OUTPUT']}/build/yours")
    with pytest.raises(DataError, match="Unknown parameter 'budjet': the parameters are images, labels"):
        own_classifier.request({**given, "budjet": 3})


# ---- as a new user

KEY = "key-of-the-test-1234567"


def call(folder: Path, *command: str, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", *command], cwd=folder, capture_output=True, text=True, env={**os.environ, **environment}
    )
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


@pytest.mark.slow
def test_from_a_folder_and_a_web_service_to_perturbed_photos(tmp_path: Path) -> None:
    """The service fails, limits its rate and stalls; it gets every picture once, but for the eight that are sent twice."""
    photos, box = tmp_path / "photos", scores_only.black_box()
    photos.mkdir()
    drawn = synthetic.draw("webcam", 100, 1, 40)
    for i, picture in enumerate(drawn.pictures):
        Image.fromarray(picture.permute(1, 2, 0).numpy()).save(photos / f"{i}.png")
    rows = [f"{i}.png,{'male' if gender else 'female'}" for i, gender in enumerate(drawn.labels["Gender"])]
    (tmp_path / "labels.csv").write_text("\n".join(["file,label", *rows]))

    def gender(pictures: NDArray[np.uint8]) -> list[dict[str, float]]:
        return [dict(zip(("female", "male"), row, strict=True)) for row in box.scores(pictures.transpose(0, 3, 1, 2)).tolist()]

    with WebService(gender, ["500", "", "429", "stall", "close", "", "503"], key=KEY) as service:
        options = "{answer: scores, names: [female, male], key_variable: SERVICE_KEY, timeout: 2, retries: 6}"
        given = {"images": "photos", "labels": "labels.csv", "model": service.url, "out": "tuned"}
        strings = [word for name, value in given.items() for word in ("-r", name, value)]
        numbers = ["-p", "pixels", "32", "-p", "budget", "240", "-y", f"options: {options}"]
        (tmp_path / "tuned").mkdir()
        said = call(
            tmp_path, "papermill", "--log-output", *strings, *numbers, str(NOTEBOOK), "tuned/report.ipynb", SERVICE_KEY=KEY
        )
    said += call(tmp_path, "jupyter", "nbconvert", "--to", "html", "tuned/report.ipynb")
    said += call(
        tmp_path, "dftlib", "perturb", "--perturbation", "tuned/perturbation.safetensors", "--in", "photos", "--out", "new"
    )

    out = tmp_path / "tuned"
    one = pd.read_csv(out / "summary.csv").iloc[0]
    times = Counter(Counter(service.received).values())
    assert not service.faults
    assert times == {1: one["sent_now"] - 2 * from_scores.REPEATED, 2: from_scores.REPEATED}
    assert len(service.received) == one["sent_now"] == one["used"] <= 240
    assert one["n_test"] == 20
    names = ["perturbation.safetensors", "perturbation.png", "summary.csv", "per_class.csv", "examples.png", "answers.db"]
    assert sorted(p.name for p in out.iterdir()) == sorted([*names, "report.ipynb", "report.html"])

    report = nbformat.read(out / "report.ipynb", 4)
    text = "".join(o.get("text", "") for cell in report.cells for o in cell.get("outputs", []))
    assert text.count("PASS") >= 5
    assert "ecommended" in text
    assert "synthetic" not in text
    html = (out / "report.html").read_text()
    for word in (f"{one['before']:.1f} % right before, {one['after']:.1f} % with N", "over_threshold_lo", "data:image/png"):
        assert word in html

    n = Perturbation.load(out / "perturbation.safetensors")
    assert n.n.shape == (3, 32, 32)
    assert sorted(p.name for p in (tmp_path / "new").glob("*.png")) == sorted(f"{i}.png.png" for i in range(100))
    changed = np.asarray(Image.open(tmp_path / "new" / "7.png.png"))
    assert changed.shape == (40, 40, 3)
    assert (changed != drawn.pictures[7].permute(1, 2, 0).numpy()).any()
    for path in (p for p in tmp_path.rglob("*") if p.is_file()):
        assert KEY.encode() not in path.read_bytes(), path
    assert KEY not in said
