"""Notebook 10 and what it calls: faults end in a sentence before anything is asked, and the whole way as a new user goes it."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import mean_colour
import nbformat
import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from numpy.typing import NDArray
from onnx import TensorProto, helper
from PIL import Image
from web_service import WebService

from dftlib.datasets import align, synthetic
from dftlib.errors import DataError
from dftlib.experiments import own_classifier, scores_only
from dftlib.experiments.own_classifier import Request, tune
from dftlib.notebook import checks
from dftlib.notebook.pages import write_page
from dftlib.paths import ROOT
from dftlib.perturbation import from_scores, surrogates
from dftlib.perturbation.perturbation import Perturbation
from dftlib.perturbation.query_log import ANEW

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

    def brighter(model: surrogates.Imitation, c: torch.Tensor, _: int) -> torch.Tensor:
        problem = model.problem
        return problem.limited(c + problem.reduced(torch.full(problem.images.shape[1:], 0.2)))

    monkeypatch.setattr(surrogates.Imitation, "fitted", brighter)
    monkeypatch.setattr(surrogates.Surrogate, "learn", lambda *_: None)
    return Request(str(photos), str(photos / "labels.csv"), "test_yours:bright", 300, str(tmp_path / "out"), pixels=8)


def test_what_came_out(wanted: Request) -> None:
    tuned = tune(wanted)
    one = tuned.summary.iloc[0]
    assert one[["pictures", "unlabelled", "people", "n_fit", "n_val", "n_test"]].tolist() == [120, 1, 120, 72, 24, 24]
    assert one["after"] > one["before"]
    assert one["rise"] == pytest.approx(one["after"] - one["before"])
    assert one["majority"] == 50
    assert one["threshold"] > one["before"]
    assert any("moving the threshold" in line for line in tuned.said)
    assert one["sent_now"] == one["used"] == sum(asked) <= one["budget"]
    assert one["psnr"] > 25
    assert (one["auc_before"], one["unsteady"]) == (pytest.approx(1, abs=0.1), 0)
    assert tuned.per_class["class"].tolist() == ["dark", "pale"]
    assert tuned.per_class["n_test"].tolist() == [12, 12]
    assert torch.equal(tuned.after, tuned.perturbation.apply_uint8(tuned.images))
    assert "1 pictures in the folder have no label" in tuned.said[-3]
    assert tuned.said[-2].startswith("The classifier names one class for all test pictures as they are: do `options` (mean")
    said = f"{one['before']:.1f} ({one['before_lo']:.1f} to {one['before_hi']:.1f})"
    assert tuned.accuracies()["right"].to_dict()["as they are"] == tuned.accuracies().iloc[0, 0] == said
    assert tuned.classes().columns.tolist() == ["before", "after", "rise", "pictures", "set right", "set wrong"]
    assert tuned.classes()["pictures"].to_dict() == {"dark": 12, "pale": 12}
    assert tuned.facts(used="asked", nothing="no such", psnr="dB").index.tolist() == ["asked", "dB"]
    assert "<li>pixels: 8</li>" in tuned.parameters()
    assert tuned.verdict().startswith("<h1>Not recommended: leave the pictures as they are</h1><p>It is behind a simple remedy")
    assert "emonstration" not in tuned.verdict()
    assert "<em>Demonstration on drawn greys.</em>" in tuned.verdict("drawn greys")
    bars = [round(bar.get_width(), 1) for bar in tuned.picture().axes[3].patches]  # type: ignore[attr-defined]
    assert bars == [round(one[name], 1) for name in ("before", "after", "majority", "threshold")]


def test_words_of_a_user_are_no_markup(wanted: Request, photos: Path, tmp_path: Path) -> None:
    (labels := tmp_path / "labels.csv").write_text((photos / "labels.csv").read_text().replace("dark", "<b>dark"))
    tuned = tune(replace(wanted, labels=str(labels), model="test_yours:low", classes=["<b>dark", "pale"]))
    assert any("<b>" in line for line in tuned.said)
    assert "&lt;b&gt;dark" in tuned.verdict()
    assert "<b>" not in tuned.verdict() + tuned.parameters()


def labelled(pictures: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Labels only: no threshold can be moved."""
    return (bright(pictures) > 0.5).astype(int)


def test_n_is_recommended_where_nothing_simpler_does_as_well(wanted: Request) -> None:
    tuned = tune(replace(wanted, model="test_yours:labelled"))
    assert tuned.summary["recommended"].item()
    assert tuned.summary["why_not"].item() == ""
    assert tuned.said[0].startswith("Recommended: add N. On validation pictures")
    scored = tune(replace(wanted, out=f"{wanted.out}-scored"))
    assert scored.summary["val_rise_lo"].item() > 0
    assert not scored.summary["recommended"].item()
    assert "It is behind a simple remedy, moving the threshold: " in scored.said[0]


def test_the_checks_of_the_notebook_hold_where_a_simple_remedy_is_ahead(
    wanted: Request, capsys: pytest.CaptureFixture[str]
) -> None:
    """A rise that is clear of zero, and all the same no N to recommend."""
    tuned = tune(wanted)
    assert tuned.summary["val_rise_lo"].item() > 0
    assert not tuned.summary["recommended"].item()
    tuned.save(Path(wanted.out), tuned.examples())
    known = {"tuned": tuned, "asked": wanted, "own_classifier": own_classifier, "checks": checks, "Path": Path, "torch": torch}
    (source,) = [cell.source for cell in nbformat.read(NOTEBOOK, 4).cells if cell.source.startswith("result, kept")]
    exec(source, {**known, "Perturbation": Perturbation})
    assert capsys.readouterr().out.count("PASS") == source.count("checks.check(")


def test_a_second_run_asks_a_few_anew_and_nothing_else(wanted: Request) -> None:
    first = tune(wanted)
    paid = sum(asked)
    again = tune(wanted)
    assert sum(asked) == paid + ANEW
    assert again.summary[["sent_now", "anew"]].iloc[0].tolist() == [ANEW, ANEW]
    assert first.summary["anew"].item() == 0
    assert "8 were sent now, 8 of them anew to see whether the classifier is still the same" in again.said[-1]
    assert torch.equal(again.perturbation.n, first.perturbation.n)
    now = ["sent_now", "anew"]
    pd.testing.assert_frame_equal(again.summary.drop(columns=now), first.summary.drop(columns=now))


def test_a_model_trained_anew_is_noticed(wanted: Request, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A function whose source stays as it is, with its weights in a file beside it."""
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "with_weights.py").write_text(
        "from pathlib import Path\n"
        "def answer(pictures):\n"
        "    level = float(Path(__file__).with_name('weights.txt').read_text())\n"
        "    return 1 / (1 + 2.718 ** ((level - pictures.mean((1, 2, 3))) / 4))\n"
    )
    (tmp_path / "weights.txt").write_text("140")
    wanted = replace(wanted, model="with_weights:answer")
    first = tune(wanted).summary["before"].item()
    (tmp_path / "weights.txt").write_text("125")
    with pytest.raises(DataError, match=r"isn't the one whose answers .*answers\.db holds.* move that file away to begin anew"):
        tune(wanted)
    (tmp_path / "out" / "answers.db").rename(tmp_path / "away.db")
    second = tune(wanted).summary
    assert second["before"].item() != first
    assert second["anew"].item() == 0


@pytest.mark.parametrize("sided", [False, True])
def test_n_is_symmetric_unless_the_classes_depend_on_left_and_right(
    wanted: Request, sided: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def paler_left(model: surrogates.Imitation, c: torch.Tensor, _: int) -> torch.Tensor:
        return model.problem.limited(c + model.problem.reduced(torch.linspace(0.4, 0, 8).expand(model.problem.images.shape[1:])))

    monkeypatch.setattr(surrogates.Imitation, "fitted", paler_left)
    n = tune(replace(wanted, sided=sided)).perturbation
    assert n.about["mirror"] is not sided
    assert torch.allclose(n.n, n.n.flip(2), atol=1e-5) is not sided


def test_the_budget_covers_the_test(wanted: Request) -> None:
    one = tune(replace(wanted, budget=128)).summary.iloc[0]
    assert one["n_test"] == 16
    assert sum(asked) == one["used"] <= 128


def test_the_files(wanted: Request, tmp_path: Path) -> None:
    tuned = tune(wanted)
    tuned.save(tmp_path / "out", tuned.examples("greys"))
    names = ["answers.db", "examples.png", "per_class.csv", "perturbation.md", "perturbation.png"]
    names += ["perturbation.safetensors", "summary.csv"]
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
    assert not any("names one class" in line for line in tuned.said)


def test_answers_that_change_are_reported(wanted: Request) -> None:
    said = tune(replace(wanted, model="test_yours:drifting", options={"batch": 300})).said
    assert any(line.startswith("The classifier changes its answers") for line in said)


def test_classes_in_another_order(wanted: Request) -> None:
    """The wrong order ends the run as soon as there is evidence enough, and what was paid till then counts."""
    wanted = replace(wanted, model="test_yours:low")
    with pytest.raises(DataError, match=r"so no more were asked: set `classes` to \[\"dark\", \"pale\"\]\."):
        tune(replace(wanted, classes=["pale", "dark"]))
    paid = sum(asked)
    assert paid <= wanted.budget // from_scores.CHECKED + from_scores.REPEATED
    one = tune(replace(wanted, classes=["dark", "pale"])).summary.iloc[0]
    assert one["before"] > 90
    assert one["sent_now"] == one["used"] - paid + ANEW


def test_classes_in_another_order_where_validation_pictures_are_too_few_to_tell(wanted: Request) -> None:
    wanted = replace(wanted, model="test_yours:low", budget=128)
    right = tune(wanted)
    wrong = tune(replace(wanted, classes=["pale", "dark"]))
    assert wrong.summary["before"].item() == pytest.approx(100 - right.summary["before"].item())
    assert wrong.per_class["class"].tolist() == ["pale", "dark"]
    assert any('should `classes` be ["dark", "pale"]?' in line for line in wrong.said)
    assert not any("should `classes` be" in line for line in right.said)


def steps(pictures: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Right about 12 levels of grey, with its classes in the order in which folders 1 to 12 are listed."""
    asked.append(len(pictures))
    listed = sorted(map(str, range(1, 13)))
    return np.array([listed.index(str(round(level / 20))) for level in pictures.mean((1, 2, 3))])


def test_folders_in_the_order_of_their_names(wanted: Request, tmp_path: Path) -> None:
    photos, rows, random = tmp_path / "steps", [], np.random.default_rng(0)
    photos.mkdir()
    for i in range(120):
        grey = np.clip(random.normal(20 * (i % 12 + 1), 5, (8, 8, 3)), 0, 255).astype(np.uint8)
        Image.fromarray(grey).save(photos / f"{i}.png")
        rows.append(f"{i}.png,{i % 12 + 1}")
    (tmp_path / "steps.csv").write_text("\n".join(["file,label", *rows]))
    wanted = replace(wanted, images=str(photos), labels=str(tmp_path / "steps.csv"), model="test_yours:steps", budget=500)
    with pytest.raises(DataError, match=r"set `classes` to \[\"1\", \"10\", \"11\", \"12\", \"2\".*\]\.") as caught:
        tune(wanted)
    order = json.loads(str(caught.value).rpartition("to ")[2].rstrip("."))
    assert tune(replace(wanted, classes=order)).summary["before"].item() == 100


# ---- aligned faces


@pytest.fixture(scope="module")
def people(scratch: Path) -> Path:
    """80 drawn faces of 64 x 64; in some of them dlib's detector finds none."""
    folder, drawn = scratch / "people", synthetic.draw("press", 80, 1, 64)
    folder.mkdir()
    for i, picture in enumerate(drawn.pictures):
        Image.fromarray(picture.permute(1, 2, 0).numpy()).save(folder / f"{i}.png")
    rows = [f"{i}.png,{'pale' if picture.float().mean() > 110 else 'dark'}" for i, picture in enumerate(drawn.pictures)]
    (folder / "labels.csv").write_text("\n".join(["file,label", *rows]))
    return folder


def test_aligned_faces(wanted: Request, people: Path) -> None:
    wanted = replace(wanted, images=str(people), labels=str(people / "labels.csv"), pixels=32, budget=240, align=True)
    tuned = tune(wanted)
    one, out = tuned.summary.iloc[0], Path(wanted.out)
    (faceless,) = [line for line in tuned.said if line.startswith("No face is found in ")]
    assert int(faceless.split()[5]) == 80 - one["pictures"] > 0
    assert one["sent_now"] == one["used"] == sum(asked) <= 240
    labels = dict(line.split(",") for line in (people / "labels.csv").read_text().splitlines()[1:])
    whole = np.stack([np.asarray(Image.open(file).resize((32, 32), Image.Resampling.LANCZOS)) for file in tuned.sources])
    right = (bright(whole) > 0.5) == [labels[Path(file).name] == "pale" for file in tuned.sources]
    assert one["unaligned"] == pytest.approx(100 * right.mean())
    assert one["asked_unaligned"] == one["n_test"] + tuned.perturbation.about["validation"]["images"]
    assert any(
        f"{one['unaligned']:.1f} % right as whole pictures, {one['before']:.1f} % as aligned" in line for line in tuned.said
    )
    assert tuned.accuracies().index[[0, 2]].tolist() == ["aligned, as they are", "whole pictures, not aligned"]
    assert tuned.perturbation.about["aligned"] == align.PADDING
    assert "faces that dlib finds and aligns by five landmarks, with 20 % around" in tuned.perturbation.card()
    tuned.perturbation.save(kept := out / "perturbation.safetensors")
    assert own_classifier.same_as_command(kept, tuned.sources[:2], tuned.after[:2])
    assert not own_classifier.same_as_command(kept, tuned.sources[:2], tuned.images[:2])


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"pixels": [8, 6]}, r"Aligned faces are square, but the model's pictures are 8 x 6: set `pixels` to one number"),
        ({}, "No face is found in any picture of class 'dark' of the train split: add pictures .* or leave `align` out"),
        ({"budget": 177}, "A budget of 177 pictures can't fit, check and test a perturbation: give 178 or more"),
    ],
)
def test_faults_of_alignment_are_said_before_anything_is_asked(wanted: Request, change: dict[str, Any], sentence: str) -> None:
    with pytest.raises(DataError, match=sentence):
        tune(replace(wanted, align=True, **change))
    assert not asked


def test_the_least_budget_that_is_named_does(wanted: Request, people: Path) -> None:
    assert own_classifier.least(False) == 128
    wanted = replace(wanted, images=str(people), labels=str(people / "labels.csv"), pixels=32, budget=178, align=True)
    assert tune(wanted).summary["used"].item() <= 178


def shy_of_whole(pictures: NDArray[np.uint8]) -> list[float | None]:
    """Answers what is aligned only: there the corners are brighter or darker than those of drawn pictures, told by a list."""
    asked.append(len(pictures))
    known = {whole.tobytes() for whole in wholes}
    return [None if picture.tobytes() in known else float(p) for p, picture in zip(bright(pictures), pictures, strict=True)]


wholes: list[NDArray[np.uint8]] = []


def test_a_service_that_finds_no_face_in_whole_pictures(wanted: Request, people: Path) -> None:
    """Pictures that get no answer unless they are aligned count as wrong unaligned, and end no run."""
    wholes[:] = [np.asarray(Image.open(people / f"{i}.png").resize((32, 32), Image.Resampling.LANCZOS)) for i in range(80)]
    wanted = replace(wanted, images=str(people), labels=str(people / "labels.csv"), pixels=32, budget=240, align=True)
    assert tune(replace(wanted, model="test_yours:shy_of_whole")).summary["unaligned"].item() == 0


# ---- more classes than two


def doubled(pictures: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Of three levels of grey it mostly takes the middle for the highest, which its scores tell all the same."""
    asked.append(len(pictures))
    level = pictures.mean((1, 2, 3))
    scores = np.exp(-(np.abs(level[:, None] - [60, 120, 135]) / 20))
    return scores / scores.sum(1, keepdims=True)


def test_scores_of_more_classes_are_weighed_anew(wanted: Request, tmp_path: Path) -> None:
    photos, rows, random = tmp_path / "levels", [], np.random.default_rng(0)
    photos.mkdir()
    for i in range(150):
        grey = np.clip(random.normal((60, 132, 200)[i % 3], 5, (8, 8, 3)), 0, 255).astype(np.uint8)
        Image.fromarray(grey).save(photos / f"{i}.png")
        rows.append(f"{i}.png,{i % 3}")
    (tmp_path / "levels.csv").write_text("\n".join(["file,label", *rows]))
    wanted = replace(wanted, images=str(photos), labels=str(tmp_path / "levels.csv"), model="test_yours:doubled", budget=400)
    tuned = tune(wanted)
    one = tuned.summary.iloc[0]
    assert one["before"] < 70
    assert one["stack"] == 100
    assert "threshold" not in one
    assert tuned.accuracies().index[-1] == "scores weighed anew"
    assert tuned.perturbation.about["validation"]["remedy"] == "weighing the classifier's scores anew"
    assert not one["recommended"]


# ---- pictures without an answer


def shy(pictures: NDArray[np.uint8]) -> list[float | None]:
    """No answer to the darkest."""
    asked.append(len(pictures))
    return [float(p) if level > 106 else None for p, level in zip(bright(pictures), pictures.mean((1, 2, 3)), strict=True)]


def test_pictures_without_an_answer_are_named_and_left_out(wanted: Request, photos: Path) -> None:
    tuned = tune(replace(wanted, model="test_yours:shy", budget=600))
    dark = [i for i in range(120) if np.asarray(Image.open(photos / f"{i}.png")).mean() <= 106]
    one = tuned.summary.iloc[0]
    (line,) = [line for line in tuned.said if "got no answer and had no part" in line]
    named = re.findall(r"(\d+)\.png", line)
    assert one["unanswered"] == int(line.split()[0]) > 0
    assert len(named) == min(5, one["unanswered"])
    assert set(map(int, named)) <= set(dark)
    assert one["n_test"] == len(tuned.images) < 24
    assert all(image.float().mean() > 106 for image in tuned.images)
    assert one["unanswered_after"] == 0
    assert one["used"] <= 600


def test_too_many_pictures_without_an_answer(wanted: Request) -> None:
    with pytest.raises(
        DataError, match=r"no answer to 21 of 21 pictures, .*: leave out those .*, such as \d+\.png, .* and 16 more\."
    ):
        tune(replace(wanted, model="test_yours:mute"))


def mute(pictures: NDArray[np.uint8]) -> list[None]:
    return [None] * len(pictures)


# ---- other pictures, other words


def test_pictures_that_are_not_square(wanted: Request, tmp_path: Path) -> None:
    tuned = tune(replace(wanted, pixels=[12, 6]))
    assert tuned.perturbation.n.shape == tuned.images.shape[1:] == (3, 12, 6)
    tuned.save(tmp_path / "out", tuned.examples("greys"))
    kept = tmp_path / "out" / "perturbation.safetensors"
    assert own_classifier.same_as_command(kept, tuned.images[:2], tuned.after[:2])


def test_the_size_that_a_file_declares(wanted: Request, tmp_path: Path) -> None:
    path = mean_colour.model(tmp_path / "m.onnx", ["n", 3, 10, 6])
    assert tune(replace(wanted, model=str(path), pixels=0)).images.shape[1:] == (3, 10, 6)


def test_what_a_reader_must_know_of_pictures_and_model_is_said(wanted: Request, photos: Path, tmp_path: Path) -> None:
    rows = (photos / "labels.csv").read_text().splitlines()
    copied = tmp_path / "copied"
    shutil.copytree(photos, copied)
    shutil.copy(copied / "3.png", copied / "copy.png")
    (copied / "labels.csv").write_text("\n".join([*rows, "copy.png,pale"]))
    nodes = [
        helper.make_node("ReduceMean", ["pictures", "axes"], ["mean"], keepdims=0),
        helper.make_node("Reshape", ["mean", "one"], ["scores"]),
    ]
    weights = {"axes": np.array([1, 2, 3]), "one": np.array([1])}
    entry = [("pictures", TensorProto.FLOAT, ["n", 1, 8, 8])]
    path = mean_colour.saved(tmp_path / "m.onnx", nodes, entry, [("scores", TensorProto.FLOAT, ["n"])], weights)
    said = tune(replace(wanted, images=str(copied), labels=str(copied / "labels.csv"), model=str(path))).said
    assert any("1 pictures are copies of others" in line for line in said)
    assert any("takes grey pictures" in line for line in said)
    assert any("takes one picture at a time" in line for line in said)


def test_words_that_yaml_reads_otherwise(wanted: Request, photos: Path, tmp_path: Path) -> None:
    """`classes: [no, yes]` arrives as truth values; the remedy works as it stands."""
    labels = tmp_path / "labels.csv"
    labels.write_text((photos / "labels.csv").read_text().replace("dark", "no").replace("pale", "yes"))
    wanted = replace(wanted, labels=str(labels))
    for given in ({"classes": yaml.safe_load("[no, yes]")}, {"options": yaml.safe_load("{names: [no, yes]}")}):
        with pytest.raises(DataError, match=r"each word in quotes, as in '\[\"yes\", \"no\"\]'"):
            tune(replace(wanted, **given))
    with pytest.raises(DataError, match=r"set `classes` to (\[.*\]), in the order") as caught:
        tune(replace(wanted, classes=yaml.safe_load('["nein", "ja"]')))
    quoted = re.search(r"\[.*\]", str(caught.value).partition("set `classes`")[2])
    assert quoted is not None
    assert tune(replace(wanted, classes=yaml.safe_load(quoted[0]))).per_class["class"].tolist() == ["no", "yes"]


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"classes": ["pale", "drak"]}, r"The classes pale, drak aren't the labels in .*: set `classes` to \[.dark., .pale.\]"),
        ({"pixels": 0}, "doesn't say how large its pictures are: set `pixels`"),
        ({"pixels": "8"}, r"'pixels' is '8': give height = width, or \[height, width\], such as \[218, 178\]"),
        ({"pixels": [8, 8, 3]}, r"'pixels' is \[8, 8, 3\]: give height"),
        ({"pixels": [8, 0]}, r"'pixels' is \[8, 0\]: give height"),
        ({"budget": 127}, "A budget of 127 pictures can't fit, check and test a perturbation: give 128 or more"),
        ({"budget": "many"}, "Parameter 'budget' must be int, not 'many'"),
        ({"labels": ""}, "Parameter 'labels' is empty"),
        ({"model": "nothing.onnx"}, "There is no model file nothing.onnx"),
        ({"options": {"layout": "nchw"}}, "has no option 'layout'"),
        ({"options": {"classes": ["dark", "pale"]}}, "has no option 'classes'"),
        ({"options": {"model": "nothing.onnx"}}, "has no option 'model'"),
        ({"options": {1: 2}}, "has no option '1'"),
        ({"options": {"batch": 2.5}}, "`batch` is 2.5: set it to a whole number, 1 at least"),
        ({"images": "nowhere"}, "nowhere is no folder"),
    ],
)
def test_faults_are_said_before_anything_is_asked(wanted: Request, change: dict[str, Any], sentence: str) -> None:
    with pytest.raises(DataError, match=sentence):
        tune(replace(wanted, **change))
    assert not asked
    assert not Path(wanted.out).exists()


def test_so_few_pictures_that_validation_proves_nothing(wanted: Request, photos: Path, tmp_path: Path) -> None:
    """Ten of each of two classes, as a folder may have them; 40 do."""
    lines, labels = (photos / "labels.csv").read_text().splitlines(), tmp_path / "labels.csv"
    wanted = replace(wanted, labels=str(labels))
    labels.write_text("\n".join(lines[:21]))
    with pytest.raises(DataError, match=r"^Of 20 pictures 4 are for validation, .* and it needs 8: give about 40"):
        tune(wanted)
    assert not asked
    labels.write_text("\n".join(lines[:41]))
    assert tune(wanted).summary["n_val"].item() == 8


def test_a_csv_of_one_class_is_told_as_such(wanted: Request, photos: Path, tmp_path: Path) -> None:
    (labels := tmp_path / "labels.csv").write_text((photos / "labels.csv").read_text().replace("dark", "pale"))
    with pytest.raises(DataError, match=r"The column 'label' of .*labels\.csv has 1 different values: give 2 to 127 classes\.$"):
        tune(replace(wanted, labels=str(labels)))


def test_parameters_of_the_notebook() -> None:
    given = {"images": "a", "labels": "b", "model": "c", "budget": 500, "profile": "demo", "seeds": [0], "In": [], "_": 3}
    assert own_classifier.request(given) == Request("a", "b", "c", 500, f"{os.environ['DFT_OUTPUT']}/build/yours")
    for word, meant in (("chip", True), ("none", False)):  # of a profile
        assert own_classifier.request({**given, "align": word}).align is meant
    with pytest.raises(DataError, match="Parameter 'align' must be bool, not 'crop'"):
        own_classifier.request({**given, "align": "crop"})
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
    names = [
        "perturbation.safetensors",
        "perturbation.png",
        "perturbation.md",
        "summary.csv",
        "per_class.csv",
        "examples.png",
        "answers.db",
    ]
    assert sorted(p.name for p in out.iterdir()) == sorted([*names, "report.ipynb", "report.html"])

    report = nbformat.read(out / "report.ipynb", 4)
    text = "".join(o.get("text", "") for cell in report.cells for o in cell.get("outputs", []))
    assert text.count("PASS") >= 5
    assert "ecommended" in text
    assert "synthetic" not in text
    html = (out / "report.html").read_text()
    for word in (f"{one['before']:.1f} % right before", f"{one['after']:.1f} % with N", "threshold moved", "data:image/png"):
        assert word in html
    write_page(out / "report.ipynb", page := tmp_path / "page.html", results=True)
    assert not re.search("synthetic|demonstration", page.read_text(), re.IGNORECASE)
    assert "<li>model: http" in page.read_text()

    n = Perturbation.load(out / "perturbation.safetensors")
    assert n.n.shape == (3, 32, 32)
    assert sorted(p.name for p in (tmp_path / "new").glob("*.png")) == sorted(f"{i}.png.png" for i in range(100))
    changed = np.asarray(Image.open(tmp_path / "new" / "7.png.png"))
    assert changed.shape == (40, 40, 3)
    assert (changed != drawn.pictures[7].permute(1, 2, 0).numpy()).any()
    for path in (p for p in tmp_path.rglob("*") if p.is_file()):
        assert KEY.encode() not in path.read_bytes(), path
    assert KEY not in said
