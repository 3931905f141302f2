"""Chips against dlib's own and against markers drawn into pictures; landmarks against drawn faces; eyes in one place."""

import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import dlib
import drawn_eyes
import faces_on_disk
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from skimage.transform import SimilarityTransform

from dftlib.datasets import FaceDataset, align, celeba, decode, lfw, load_dataset, muct, synthetic
from dftlib.datasets.align import MEAN_FACE, Framing
from dftlib.datasets.synthetic import STYLES
from dftlib.errors import DataError

DATA = os.environ.get("DFT_DATA", "")
real = pytest.mark.skipif(not DATA, reason="DFT_DATA names no folder with the real data sets")
Picture = NDArray[np.uint8]
Points = NDArray[np.float64]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DFT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def landmarks_of(random: np.random.Generator, span: float, middle: float) -> Points:
    """Those of a face of this width, turned by up to 0.4 and not quite average."""
    turn = np.exp(1j * random.uniform(-0.4, 0.4)) * ((MEAN_FACE - 0.5) @ [1, 1j])
    return np.stack([turn.real, turn.imag], 1) * span + middle + random.normal(0, 0.05 * span, (5, 2))


def dlibs_own(picture: Picture, points: Points, size: int, padding: float) -> Picture:
    parts = [dlib.point(int(x), int(y)) for x, y in points]
    return dlib.get_face_chip(picture, dlib.full_object_detection(dlib.rectangle(0, 0, 9, 9), parts), size, padding)


# ---- chips


@pytest.mark.parametrize("padding", [0.2, 0.25])
@pytest.mark.parametrize("size", [32, 64, 150])
@pytest.mark.parametrize("span", [20, 60, 150, 400])  # enlarged, and shrunk by so much that dlib halves the picture first
def test_a_chip_is_dlibs_bit_for_bit(size: int, padding: float, span: int) -> None:
    random = np.random.default_rng(0)
    for _ in range(4):
        picture = random.integers(0, 256, (4 * span, 4 * span + 7, 3), np.uint8)
        points = landmarks_of(random, span, 2 * span).round()
        np.testing.assert_array_equal(align.chip(picture, points, size, padding), dlibs_own(picture, points, size, padding))


def test_the_padding_is_that_of_the_two_classifiers() -> None:
    picture = np.random.default_rng(0).integers(0, 256, (200, 200, 3), np.uint8)
    points = landmarks_of(np.random.default_rng(1), 60, 100).round()
    assert (align.chip(picture, points, 64) == dlibs_own(picture, points, 64, 0.2)).all()


@pytest.mark.parametrize("corner", [(-8, -8), (88, -8), (-8, 88), (88, 88), (40, 75), (40, 40)])
@pytest.mark.parametrize("span", [60, 300])
def test_beyond_the_picture_its_edge_goes_on(corner: tuple[int, int], span: int) -> None:
    """As if it had been continued by hand; a white picture gives a white chip, where dlib leaves black."""
    random = np.random.default_rng(2)
    points = (landmarks_of(random, span, 0) + corner).round()
    picture = random.integers(0, 256, (80, 80, 3), np.uint8)
    wide = np.pad(picture, ((900, 900), (900, 900), (0, 0)), "edge")
    np.testing.assert_array_equal(align.chip(picture, points, 64), dlibs_own(wide, points + 900, 64, 0.2))
    white = np.full((80, 80, 3), 255, np.uint8)
    assert align.chip(white, points, 64).min() == 255
    assert dlibs_own(white, points, 64, 0.2).min() == 0


def marked(place: Points, side: int, width: float) -> Picture:
    """A bright spot on black."""
    x, y = (np.exp(-((np.arange(side) - at) ** 2) / 2 / width**2) for at in place)
    return (255 * y[:, None, None] * x[:, None]).round().astype(np.uint8).repeat(3, 2)


def centre(spot: Picture) -> Points:
    return drawn_eyes.middle(torch.from_numpy(spot[None, ..., 0].astype(float)))[0].numpy()


@pytest.mark.parametrize("size", [32, 64, 150])
@pytest.mark.parametrize(("shrunk", "within"), [(0.5, 0.1), (0.9, 0.1), (1.7, 0.1), (3.5, 0.3), (8, 0.7)])
def test_landmarks_are_on_the_chip_where_a_marker_lands(size: int, shrunk: float, within: float) -> None:
    """In pixels of the chip. Where it shows over twice as many pixels as it has, dlib itself isn't exact."""
    random = np.random.default_rng(3)
    shown = shrunk * size / 1.4
    for i in range(5):
        points = landmarks_of(random, shown, 450)
        spot = align.chip(marked(points[i], 900, max(1, 2 * shrunk)), points, size)
        found = size * align.on_chip(points[None], size)[0, i]
        np.testing.assert_allclose(centre(spot) + 0.5, found, atol=within)


def test_landmarks_of_the_average_face_are_on_the_chip_as_they_are_on_it() -> None:
    for turn in (0, 90, 213):
        way = np.exp(1j * np.deg2rad(turn)) * (MEAN_FACE @ [1, 1j])
        points = np.stack([way.real, way.imag], 1) * 64 / 1.4 + 300
        np.testing.assert_allclose(align.on_chip(points[None], 64)[0], (MEAN_FACE + 0.2) / 1.4, atol=1e-6)


def test_turn_and_scale_are_those_of_two_other_libraries() -> None:
    """From the average face to this one, as dlib has it; in a large chip half a pixel is nothing."""
    random, size = np.random.default_rng(4), 4096
    many = np.stack([landmarks_of(random, 3000, 9000) for _ in range(20)])
    there = (MEAN_FACE + 0.2) / 1.4
    for points, found in zip(many, align.on_chip(many, size), strict=True):
        np.testing.assert_allclose(found, SimilarityTransform.from_estimate(there, points).inverse(points), atol=1e-3)
        matrix, _ = cv2.estimateAffinePartial2D(there, points, method=cv2.RANSAC, ransacReprojThreshold=1e5)
        np.testing.assert_allclose(found, (points - matrix[:, 2]) @ np.linalg.inv(matrix[:, :2]).T, atol=1e-3)


def test_eyes_are_the_middles_left_one_first() -> None:
    left, right = align.eyes(MEAN_FACE[None])[0]
    assert left.tolist() == pytest.approx([(0.12058 + 0.33409) / 2, (0.21373 + 0.22906) / 2], abs=1e-4)
    assert right.tolist() == pytest.approx([(0.85957 + 0.64606) / 2, (0.21350 + 0.22897) / 2], abs=1e-4)


@given(edges=st.tuples(*[st.integers(-9, 9)] * 2, *[st.integers(1, 12)] * 2))
def test_a_part_goes_on_beyond_the_picture(edges: tuple[int, int, int, int]) -> None:
    left, top, width, height = edges
    picture = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)
    wide = np.pad(picture, ((30, 30), (30, 30), (0, 0)), "edge")
    found = align.within(picture, left, top, left + width, top + height)
    np.testing.assert_array_equal(found, wide[30 + top : 30 + top + height, 30 + left : 30 + left + width])


# ---- landmarks


def drawn(style: str, count: int, size: int) -> tuple[list[Picture], Points]:
    made = synthetic.draw(style, count, 1, size, seed=3)
    return list(made.pictures.permute(0, 2, 3, 1).contiguous().numpy()), made.landmarks.double().numpy()


@pytest.fixture(scope="module")
def studio() -> tuple[list[Picture], Points]:
    return drawn("studio", 24, 256)


BOX = np.array([40.0, 50, 216, 226])  # of a drawn face, of 256 x 256 pixels


def test_landmarks_of_drawn_faces_are_found_where_they_are_drawn(studio: tuple[list[Picture], Points]) -> None:
    """dlib learned from photographs: it sees the outer corners of drawn eyes nearer to the middle."""
    pictures, true = studio
    found, detected = (np.array(part) for part in zip(*(align.find(p, BOX) for p in pictures), strict=True))
    assert detected.sum() >= 22
    distance = np.linalg.norm(found - true, axis=2)[detected]
    assert (np.median(distance, 0) < 0.05 * 256).all()
    assert (np.abs(np.median(align.eyes(found) - align.eyes(true), 0)) < 0.02 * 256).all()


def test_a_moved_face_is_found_where_it_was_moved(studio: tuple[list[Picture], Points]) -> None:
    for picture, step in zip(studio[0][:4], ((0, 70), (31, 0), (20, 13), (90, 40)), strict=True):
        move = np.array(step)
        moved = align.within(picture, -move[0], -move[1], 400 - move[0], 400 - move[1])
        found, detected = align.find(picture, BOX)
        assert detected
        np.testing.assert_allclose(align.find(moved, BOX + np.tile(move, 2))[0], found + move)


def test_a_small_face_is_found_as_a_large_one(studio: tuple[list[Picture], Points]) -> None:
    """dlib's detector finds no face below 80 pixels, and landmarks in whole pixels only."""
    apart, detector = [], dlib.get_frontal_face_detector()
    for picture in studio[0][:12]:
        small = np.asarray(cv2.resize(picture, (64, 64), interpolation=cv2.INTER_AREA), np.uint8)
        (large, both), (found, seen) = align.find(picture, BOX), align.find(small, BOX / 4)
        assert not len(detector(small, 0))
        if seen and both:
            apart.append((found + 0.5) * 4 - 0.5 - large)
    assert len(apart) >= 8
    assert (np.abs(np.median(apart, 0)) < 2.5).all()  # of 256 pixels


def test_of_two_faces_the_one_in_the_box_is_taken(studio: tuple[list[Picture], Points]) -> None:
    pair = np.concatenate(studio[0][:2], 1)
    for true, side in zip(studio[1], (0, 256), strict=False):
        found, detected = align.find(pair, BOX + np.tile([side, 0], 2))
        assert detected
        assert (np.abs(found - true - np.array([side, 0])) < 30).all()


def test_landmarks_are_the_same_however_many_look_for_them(studio: tuple[list[Picture], Points], tmp_path: Path) -> None:
    """dlib's detector isn't for several threads: with one for all, one picture in ten got other landmarks each time."""
    files = []
    for i, picture in enumerate(studio[0] * 8):
        files.append(f"{i}.png")
        Image.fromarray(picture[::3, ::3]).save(tmp_path / files[-1])
    found = align.landmarks("any", tmp_path, files, BOX / 256)
    alone = [align.find(np.ascontiguousarray(picture[::3, ::3]), BOX / 256 * 86)[0] for picture in studio[0]]
    np.testing.assert_array_equal(found.points, np.array(alone * 8))


@pytest.mark.parametrize("side", [24, 100, 300])
def test_where_no_face_is_found_it_is_taken_to_be_in_the_box(side: int) -> None:
    picture = np.full((side, side + 5, 3), 128, np.uint8)
    box = np.array([0.2, 0.3, 0.7, 0.8]) * side
    found, detected = align.find(picture, box)
    assert not detected
    inside = (found - box[:2]) / (box[2:] - box[:2])
    assert ((inside > 0) & (inside < 1)).all()
    right, left, nose = inside[:2].mean(0), inside[2:4].mean(0), inside[4]
    assert left[0] < nose[0] < right[0]
    assert max(left[1], right[1]) < nose[1]


# ---- from the disk, by content


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Digests of the pictures in which landmarks are looked for."""
    seen: list[str] = []

    def find(picture: Picture, box: Points) -> tuple[Points, bool]:
        seen.append(hashlib.sha256(picture.tobytes()).hexdigest())
        return MEAN_FACE * 50 + picture.mean(), False

    monkeypatch.setattr(align, "find", find)
    return seen


def folder_of(path: Path, seed: int) -> tuple[Path, list[str]]:
    """Four pictures whose files have the same length and time, whatever the seed."""
    files = [f"{i}.jpg" for i in range(4)]
    for i, file in enumerate(files):
        faces_on_disk.noise(path / file, 40, 50, 10 * seed + i)
        (path / file).write_bytes((path / file).read_bytes().ljust(9000, b"\0"))
        os.utime(path / file, (1, 1))
    return path, files


FACE = np.array([0.2, 0.2, 0.8, 0.8])


def test_landmarks_are_found_once(tmp_path: Path, counted: list[str]) -> None:
    folder, files = folder_of(tmp_path / "a", 0)
    first = align.landmarks("any", folder, files, FACE)
    assert len(counted) == 4
    assert first.sizes.tolist() == [[40, 50]] * 4
    for file in files:
        os.utime(folder / file, (99, 99))
    again = align.landmarks("other", folder.rename(tmp_path / "b"), files, FACE)
    assert len(counted) == 4
    np.testing.assert_array_equal(first.points, again.points)
    align.landmarks("any", tmp_path / "b", files, FACE / 2)
    assert len(counted) == 8


def test_each_folder_has_its_own_landmarks(tmp_path: Path, counted: list[str]) -> None:
    """Two folders whose files have the same names, lengths and times."""
    one, two = (folder_of(tmp_path / name, seed) for name, seed in (("a", 0), ("b", 1)))
    stats = [[(s.st_size, s.st_mtime) for s in ((folder / f).stat() for f in files)] for folder, files in (one, two)]
    assert stats[0] == stats[1]
    first, second = (align.landmarks("any", *where, FACE) for where in (one, two))
    assert len(set(counted)) == 8
    assert (first.points != second.points).any()
    chips = [align.pictures("any", *where, 16, "chip", Framing(FACE, FACE, FACE)).images for where in (one, two)]
    assert (chips[0] != chips[1]).any()


def test_each_picture_may_have_its_own_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def find(picture: Picture, box: Points) -> tuple[Points, bool]:
        asked.append(box)
        return MEAN_FACE * 20, len(asked) == 2

    monkeypatch.setattr(align, "find", find)
    folder, files = folder_of(tmp_path / "a", 0)
    boxes = FACE * np.array([[1.0], [0.5], [0.25], [0.75]])
    found = align.landmarks("any", folder, files, boxes)
    np.testing.assert_allclose(asked, boxes * [40, 50, 40, 50])
    assert found.detected.tolist() == [False, True, False, False]


@pytest.mark.parametrize(("way", "padding"), [("chip", 0.2), ("chip", 0.25), ("crop", 0.2), ("none", 0.2)])
def test_a_marker_is_where_the_eye_is_said_to_be(
    tmp_path: Path, way: str, padding: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A spot at the left eye, in pictures cut each way, one of them with boxes that reach beyond it."""
    random = np.random.default_rng(0)
    points = np.stack([landmarks_of(random, 60, 100) for _ in range(4)])
    files = [f"{i}.png" for i in range(4)]
    for file, eye in zip(files, align.eyes(points)[:, 0], strict=True):
        Image.fromarray(marked(eye, 200, 2)).save(tmp_path / file)
    known = iter(points)
    monkeypatch.setattr(align, "find", lambda picture, box: (next(known), True))  # one thread goes through so few in order
    frame = Framing(FACE, np.array([0.2, 0.1, 0.8, 0.9]), np.array([-0.1, 0.1, 0.7, 1.2]))
    faces = align.pictures("any", tmp_path, files, 100, way, frame, padding)
    for image, eyes in zip(faces.images, faces.eyes, strict=True):
        np.testing.assert_allclose((centre(image.transpose(1, 2, 0)) + 0.5) / 100, eyes[0], atol=2e-3)


def test_an_unknown_way_is_refused(tmp_path: Path, counted: list[str]) -> None:
    faces_on_disk.celeba(tmp_path)
    for name in ("celeba", "studio"):
        with pytest.raises(DataError, match=r"There is no alignment 'eyes': set 'align' to one of chip, crop, none\.$"):
            load_dataset(name, tmp_path, size=16, way="eyes")
    assert not counted


# ---- where eyes are in finished pictures, measured once more in them


def seen_eyes(images: NDArray[np.uint8]) -> Points:
    """Where dlib sees eyes in finished pictures n x 3 x H x W, enlarged: m x 2 x 2, as fractions; in m of n it finds a face."""
    detector, predictor = align._dlib()
    found = []
    for image in images:
        large = cv2.resize(np.ascontiguousarray(image.transpose(1, 2, 0)), (200, 200), interpolation=cv2.INTER_CUBIC)
        large = np.pad(large, ((50, 50), (50, 50), (0, 0)), "edge")
        for face in list(detector(large, 0))[:1]:
            parts = predictor(large, face).parts()
            found.append([[p.x - 50 + 0.5, p.y - 50 + 0.5] for p in parts])
    return align.eyes(np.array(found) / 200)


def shown_eyes(style: str, way: str, count: int = 96) -> Points:
    """Where the irises of drawn faces are in finished pictures, by what changes with their colour: count x 2 x 2, fractions."""
    p = drawn_eyes.latents(style, count)
    points, both = synthetic._landmarks(p, 64).double().numpy(), drawn_eyes.irises(style, p, 64)
    if way == "chip":
        whole = both.permute(0, 1, 3, 4, 2).contiguous().numpy()
        cut = [[align.chip(face, q, 64) for face, q in zip(part, points, strict=True)] for part in whole]
        both = torch.from_numpy(np.array(cut)).permute(0, 1, 4, 2, 3)
    apart = drawn_eyes.difference(both, 6)
    x = torch.arange(64)
    halves = ((x < 32).expand(64, 64), (x >= 32).expand(64, 64))
    return np.stack([(drawn_eyes.middle(apart * half).numpy() + 0.5) / 64 for half in halves], 1)


def test_drawn_sets_have_the_eyes_in_one_place() -> None:
    means = np.array([shown_eyes(style, "chip").mean(0) for style in STYLES])
    assert (means.max(0) - means.min(0) < 0.02).all()
    for style, mean in zip(STYLES, means, strict=True):
        told = synthetic.load(style, 64, 0, subjects=96, per_subject=1).faces
        assert told is not None
        np.testing.assert_allclose(told.eyes.mean(0), mean, atol=0.01)


def test_alignment_takes_the_pose_out_of_drawn_faces() -> None:
    for style in STYLES:
        aligned, as_drawn = (shown_eyes(style, way) for way in ("chip", "none"))
        assert (aligned.std(0) < 0.7 * as_drawn.std(0)).all()


SETS: dict[str, tuple[Any, str]] = {
    "lfw": (lfw, "lfw/lfw-deepfunneled"),
    "celeba": (celeba, "celeba/img_align_celeba"),
    "muct": (muct, "muct/jpg"),
}


def some_faces(name: str, way: str, count: int = 150, size: int = 64) -> Any:
    module, folder = SETS[name]
    files = np.random.default_rng(7).permutation(module.parse(Path(DATA)).index.to_numpy(str))[:count].tolist()
    return align.pictures(name, Path(DATA) / folder, files, size, way, module.FRAME)


@real
def test_real_and_drawn_sets_have_the_eyes_in_one_place() -> None:
    """Within 2 % of the width, between any two sets; and where each set says they are, within 1.5 %."""
    means = {}
    for name in SETS:
        faces = some_faces(name, "chip")
        seen = seen_eyes(faces.images)
        assert len(seen) >= 90
        means[name] = seen.mean(0)
        np.testing.assert_allclose(faces.eyes.mean(0), means[name], atol=0.015)
    means |= {style: shown_eyes(style, "chip").mean(0) for style in STYLES}
    values = np.array(list(means.values()))
    assert (values.max(0) - values.min(0) < 0.02).all(), means


@real
@pytest.mark.parametrize("name", ["lfw", "celeba"])
def test_one_crop_has_the_eyes_where_it_says(name: str) -> None:
    """At 0.373 of the height and 0.387 of the width apart, those of LFW's crop."""
    left, right = seen_eyes(some_faces(name, "crop").images).mean(0)
    assert (left[1] + right[1]) / 2 == pytest.approx(0.373, abs=0.02)
    assert right[0] - left[0] == pytest.approx(0.387, abs=0.02)
    assert (left[0] + right[0]) / 2 == pytest.approx(0.5, abs=0.02)


@real
def test_celebas_own_alignment_is_found() -> None:
    """Its authors put the eyes of every picture of 178 x 218 pixels at (69, 111) and (108, 111), by landmarks set by hand."""
    module, folder = SETS["celeba"]
    files = np.random.default_rng(8).permutation(module.parse(Path(DATA)).index.to_numpy(str))[:150].tolist()
    found = align.landmarks("celeba", Path(DATA) / folder, files, module.FRAME.face)
    eyes = (align.eyes(found.points) + 0.5) / found.sizes[:, None]
    official = (np.array([[69, 111], [108, 111]]) + 0.5) / [178, 218]
    apart = (eyes - official) * [1, 218 / 178]  # of the width
    assert found.detected.mean() > 0.95
    assert (np.abs(apart.mean(0)) < 0.02).all()
    assert (np.abs(np.median(apart, 0)) < 0.02).all()
    assert (np.linalg.norm(apart, axis=2) < 0.05).mean() > 0.9


@real
@pytest.mark.parametrize("name", SETS)
def test_a_face_that_isnt_found_has_landmarks_where_its_set_has_them(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of pictures in which it is found: without the detector they come out the same, within 2 % of the width."""
    module, folder = SETS[name]
    files = np.random.default_rng(9).permutation(module.parse(Path(DATA)).index.to_numpy(str))[:100].tolist()
    known = align.landmarks(name, Path(DATA) / folder, files, module.FRAME.face)
    predictor = align._dlib()[1]
    blind: Callable[[Any, int], list[Any]] = lambda picture, _: []  # noqa: E731
    monkeypatch.setattr(align, "_dlib", lambda: (blind, predictor))
    apart = []
    for file, points, size in zip(files, known.points, known.sizes, strict=True):
        picture = np.asarray(decode.read_picture(Path(DATA) / folder / file))
        found, detected = align.find(picture, module.FRAME.face * np.tile(size, 2))
        assert not detected
        apart.append((found - points) / size[0])
    assert (np.abs(np.mean(np.array(apart)[known.detected], 0)) < 0.02).all()
    assert known.detected.mean() > 0.7


@real
def test_a_set_says_where_its_eyes_are() -> None:
    faces: FaceDataset = load_dataset("muct", DATA, size=32)
    assert faces.faces is not None
    assert faces.faces.images is faces.images
    assert faces.faces.eyes.shape == (len(faces), 2, 2)
    assert ((faces.faces.eyes > 0) & (faces.faces.eyes < 1)).all()
    assert 0.8 < faces.faces.detected.mean() < 1
