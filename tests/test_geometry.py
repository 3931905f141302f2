"""Faces cut elsewhere: where markers land in each cut, dlib's own wider chips, and what the table compares."""

from pathlib import Path
from typing import Any

import dlib
import numpy as np
import pandas as pd
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from dftlib import artefacts
from dftlib.datasets import align, synthetic
from dftlib.datasets.align import MEAN_FACE, Framing
from dftlib.datasets.base import Faces
from dftlib.experiments import geometry
from dftlib.experiments.geometry import Cut
from dftlib.experiments.lab import Lab
from dftlib.experiments.profile import load_profile

SIZE, COUNT, WIDTH, HEIGHT = 100, 4, 240, 200
EVERY = [cut for cut in geometry.cuts(Lab(load_profile("small"))) if not cut.aligned]
PLACES = [cut for cut in EVERY if cut.place]
FRAME = Framing(*np.array([[0.2, 0.2, 0.8, 0.8], [0.2, 0.1, 0.8, 0.9], [-0.1, 0.1, 0.7, 1.2]]))


def spots(at: NDArray[np.float64]) -> NDArray[np.uint8]:
    """A grey spot at each of these places, n x 2 in pixels: n x HEIGHT x WIDTH x 3."""
    x, y = (np.exp(-((np.arange(n) - at[:, axis, None]) ** 2) / 8) for axis, n in ((0, WIDTH), (1, HEIGHT)))
    return (255 * y[:, :, None, None] * x[:, None, :, None]).round().astype(np.uint8).repeat(3, 3)


def centres(images: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Where the spot of each picture n x 3 x SIZE x SIZE is: n x 2, fractions."""
    grey = images[:, 0].astype(float)
    places = (np.arange(SIZE) + 0.5) / SIZE
    return np.stack([(grey * places).sum((1, 2)), (grey * places[:, None]).sum((1, 2))], 1) / grey.sum((1, 2))[:, None]


@pytest.fixture(params=["read", "drawn"])
def marked(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Faces:
    """Aligned pictures whose originals have a spot where the left eye is; from files, and as a drawn set has them."""
    monkeypatch.setenv("DFT_CACHE", str(tmp_path / "cache"))
    random = np.random.default_rng(0)
    turn = np.exp(1j * random.uniform(-0.3, 0.3, (COUNT, 1))) * ((MEAN_FACE - 0.5) @ [1, 1j])
    points = 60 * np.stack([turn.real, turn.imag], 2) + 100 + random.normal(0, 2, (COUNT, 5, 2))
    pictures = spots(align.eyes(points)[:, 0])
    if request.param == "drawn":
        square = np.ascontiguousarray(pictures[:, :, :HEIGHT].transpose(0, 3, 1, 2))
        labels = pd.DataFrame(np.zeros((COUNT, 7), np.int8))
        made = synthetic.Drawn(torch.from_numpy(square), labels, torch.from_numpy(points))
        monkeypatch.setattr(synthetic, "draw", lambda *_: made)
        faces = synthetic.load("studio", SIZE, 0, subjects=COUNT, per_subject=1).faces
        assert faces is not None
        return faces
    known = iter(points)
    monkeypatch.setattr(align, "find", lambda picture, box: (next(known), True))  # one thread goes through so few in order
    for i, picture in enumerate(pictures):
        Image.fromarray(picture).save(tmp_path / f"{i}.png")
    return align.pictures("any", tmp_path, [f"{i}.png" for i in range(COUNT)], SIZE, "chip", FRAME)


def cut(faces: Faces, how: Cut, rows: NDArray[np.int64] | None = None) -> Faces:
    assert faces.recut is not None
    return faces.recut(np.arange(COUNT) if rows is None else rows, how.way, **how.place)


def test_in_place_is_the_aligned_chip_byte_for_byte(marked: Faces) -> None:
    for place in ({"down": 0.0}, {"scale": 1.0}, {"down": 0.0, "scale": 1.0}):
        np.testing.assert_array_equal(cut(marked, Cut("moved", "", place=place)).images, marked.images)


@pytest.mark.parametrize("how", PLACES, ids=lambda c: c.name)
def test_a_moved_or_widened_crop_has_the_eyes_elsewhere_by_as_much(marked: Faces, how: Cut) -> None:
    """Within 2 % of the width (here half a percent), of where the aligned chip has them."""
    before, found = centres(marked.images), cut(marked, how)
    wanted = 0.5 + (before - 0.5) / how.place.get("scale", 1) - [0, how.place.get("down", 0)]
    np.testing.assert_allclose(centres(found.images), wanted, atol=0.005)
    np.testing.assert_allclose(found.eyes[:, 0], wanted, atol=0.005)


def test_a_whole_picture_is_the_picture_squeezed(marked: Faces, request: pytest.FixtureRequest) -> None:
    if "drawn" in request.node.name:
        return  # has no other
    found = cut(marked, Cut("other", "", "whole"), np.array([2, 0]))
    np.testing.assert_allclose(centres(found.images), found.eyes[:, 0], atol=0.005)
    assert len(found.images) == 2


def test_some_rows_are_cut_as_all_are(marked: Faces) -> None:
    rows = np.array([3, 1])
    for how in (PLACES[0], PLACES[-1], Cut("other", "", "none")):
        some, every = cut(marked, how, rows), cut(marked, how)
        np.testing.assert_array_equal(some.images, every.images[rows])
        np.testing.assert_array_equal(some.eyes, every.eyes[rows])


@pytest.mark.parametrize("scale", [0.75, 1.25, 1.5])
def test_a_widened_crop_is_dlibs_with_more_padding(scale: float) -> None:
    random = np.random.default_rng(0)
    picture = random.integers(0, 256, (300, 300, 3), np.uint8)
    points = (MEAN_FACE * 60 + 120 + random.normal(0, 2, (5, 2))).round()
    full = dlib.full_object_detection(dlib.rectangle(0, 0, 9, 9), [dlib.point(int(x), int(y)) for x, y in points])
    theirs = dlib.get_face_chip(picture, full, 64, (1.4 * scale - 1) / 2)
    apart = np.abs(align.chip(picture, points, 64, scale=scale).astype(int) - theirs)
    assert (apart > 1).mean() < 1e-3


# ---- the experiment


@pytest.fixture(scope="module")
def asked() -> dict[str, set[str]]:
    """By kind, the artefacts that the experiment below asks for."""
    return {}


@pytest.fixture(scope="module")
def tiny(few_faces: Lab) -> Lab:
    return few_faces.other(size=32, backbone="convnet", n_fit=30, steps=2)


@pytest.fixture(scope="module")
def table(tiny: Lab, asked: dict[str, set[str]]) -> pd.DataFrame:
    digest = artefacts.digest

    def spy(kind: str, version: int, key: Any) -> str:
        found = digest(kind, version, key)
        asked.setdefault(kind, set()).add(found)
        return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(artefacts, "digest", spy)
        return geometry.misplaced(tiny)


def test_each_cut_has_scores_and_an_n_of_its_own(tiny: Lab, table: pd.DataFrame, asked: dict[str, set[str]]) -> None:
    cells, elsewhere = 2, sum(not how.aligned for how in geometry.cuts(tiny))
    assert len(asked["misplaced"]) == cells * elsewhere
    assert len(asked["perturbations"]) == cells * (elsewhere + 1)  # and that of the aligned images
    assert len(table) == cells * len(geometry.cuts(tiny))


def test_in_place_the_row_is_the_cell_of_the_table(tiny: Lab, table: pd.DataFrame) -> None:
    for cell in geometry.cells(tiny):
        own, row = table[table["data"] == cell.data], tiny.outcome(cell).row
        for _, here in own[own["cut"].isin(["in place", "1 x"])].iterrows():
            for name in ("before", "after", "rise", "rise_lo", "rise_hi", "threshold", "trivial", "auc_before", "auc_after"):
                assert here[name] == pytest.approx(row[name]), name
        for name, wanted in (("aligned", "before"), ("aligned_after", "after"), ("aligned_threshold", "threshold")):
            np.testing.assert_allclose(own[name], row[wanted])


def test_rows_measure_images_cut_so(tiny: Lab, table: pd.DataFrame) -> None:
    """Against chips with more padding, which shows as much, under the same classifier."""
    cell = geometry.cells(tiny)[1]
    test, size = tiny.splits(cell)[2], tiny.profile.size
    drawn = synthetic.draw(cell.data, 60, 2, size)
    chips = [align.chip(drawn.pictures[i].permute(1, 2, 0).contiguous().numpy(), drawn.landmarks[i].double().numpy(), size,
                        (1.4 * 1.5 - 1) / 2) for i in test.rows]  # fmt: skip
    said = tiny.model(cell).scores(np.stack(chips).transpose(0, 3, 1, 2)).argmax(1)
    row = table[(table["data"] == cell.data) & (table["cut"] == "1.5 x")].iloc[0]
    assert row["before"] == pytest.approx(100 * (said == test.labels).double().mean().item(), abs=100 / len(test))


def test_differences_are_those_of_the_columns(table: pd.DataFrame) -> None:
    for name, better, worse in (
        ("rise", "after", "before"), ("over_threshold", "after", "threshold"), ("repair", "aligned", "before"),
        ("short", "aligned", "after"), ("left", "aligned_after", "after"),
    ):  # fmt: skip
        np.testing.assert_allclose(table[name], table[better] - table[worse], atol=1e-9)
        assert table[name].between(table[f"{name}_lo"], table[f"{name}_hi"]).all()
    for name in ("before", "threshold", "after", "aligned", "aligned_after"):
        assert table[name].between(table[f"{name}_lo"], table[f"{name}_hi"]).all()


def test_the_table_says_where_the_eyes_are(table: pd.DataFrame) -> None:
    line, distance = (table.groupby("cut")[name].mean().to_dict() for name in ("line", "distance"))
    assert line["10 % up"] - line["in place"] == pytest.approx(10, abs=0.5)
    assert line["in place"] - line["10 % down"] == pytest.approx(10, abs=0.5)
    assert distance["1 x"] / distance["1.5 x"] == pytest.approx(1.5, abs=0.03)


def test_the_classifier_is_that_of_aligned_faces_whatever_the_profile_says(tiny: Lab, table: pd.DataFrame) -> None:
    pd.testing.assert_frame_equal(geometry.misplaced(tiny.other(align="none")), table)
