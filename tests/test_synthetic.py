"""Drawn faces: what is promised of them, and that styles differ enough to need data fine-tuning."""

from collections.abc import Iterator
from dataclasses import dataclass

import drawn_eyes
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score
from torch import Tensor

from dftlib.datasets import align, synthetic
from dftlib.datasets.base import ATTRIBUTES, DRAWN, SPLITS, FaceDataset
from dftlib.datasets.synthetic import STYLES


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Small steps on a busy machine: a second thread costs more than it gives."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def sets() -> dict[str, FaceDataset]:
    return {style: synthetic.load(style, 64, seed=0, subjects=400, per_subject=2) for style in STYLES}


@pytest.fixture(scope="module")
def rows(sets: dict[str, FaceDataset]) -> dict[str, Tensor]:
    """Pictures at 32 x 32, one row each."""
    return {s: F.avg_pool2d(torch.from_numpy(d.images) / 255, 2).flatten(1) for s, d in sets.items()}


@dataclass(frozen=True)
class Linear:
    """Ridge classifiers trained on one style's training people and asked about the held-out people of any."""

    sets: dict[str, FaceDataset]
    rows: dict[str, Tensor]

    def scores(self, attribute: str, trained_on: str, asked: str) -> tuple[NDArray[np.float32], NDArray[np.int8]]:
        """Decision values and true labels."""
        home, away = self.sets[trained_on], self.sets[asked]
        train, held = home.split == "train", away.split != "train"
        x, target = self.rows[trained_on][train], torch.tensor(home.labels[attribute].to_numpy()[train] * 2.0 - 1).float()
        centre, level = x.mean(0), target.mean()
        x = x - centre
        # In its dual form: fewer faces than pixels.
        weights = x.T @ torch.linalg.solve(x @ x.T + 100 * torch.eye(len(x)), target - level)
        values = (self.rows[asked][held] - centre) @ weights + level
        return values.numpy(), away.labels[attribute].to_numpy()[held]

    def accuracy(self, attribute: str, trained_on: str, asked: str) -> float:
        values, truth = self.scores(attribute, trained_on, asked)
        return float(((values > 0) == truth).mean())


@pytest.fixture(scope="module")
def linear(sets: dict[str, FaceDataset], rows: dict[str, Tensor]) -> Linear:
    return Linear(sets, rows)


@pytest.mark.parametrize("size", [32, 45, 64])
def test_shapes_and_types(size: int) -> None:
    pictures, labels, landmarks = synthetic.draw("press", 3, 7, size)  # more than one chunk, the last one short
    assert pictures.shape == (21, 3, size, size)
    assert landmarks.shape == (21, 5, 2)
    assert pictures.dtype == torch.uint8
    assert tuple(labels.columns) == ATTRIBUTES
    assert (labels.dtypes == np.int8).all()
    assert set(np.unique(labels)) <= {0, 1}


def test_a_seed_fixes_every_byte() -> None:
    first, again, other = (synthetic.draw("studio", 10, 2, seed=seed) for seed in (5, 5, 6))
    assert torch.equal(first.pictures, again.pictures)
    assert first.labels.equals(again.labels)
    assert torch.equal(first.landmarks, again.landmarks)
    assert not torch.equal(first.pictures, other.pictures)


def test_drawing_leaves_torch_as_it_was() -> None:
    state, threads = torch.get_rng_state(), torch.get_num_threads()
    synthetic.draw("webcam", 2, 1)
    assert torch.equal(state, torch.get_rng_state())
    assert torch.get_num_threads() == threads


def test_styles_have_other_people_and_other_colours(sets: dict[str, FaceDataset]) -> None:
    people = [d.labels.to_numpy()[::2] for d in sets.values()]
    colours = [d.images.mean(axis=(0, 2, 3)) for d in sets.values()]
    for a, b in ((0, 1), (0, 2), (1, 2)):
        # Gender and Eyeglasses, constant for a person, agree by chance alone.
        assert (people[a][:, [0, 6]] == people[b][:, [0, 6]]).all(axis=1).mean() < 0.6
        assert np.abs(colours[a] - colours[b]).max() > 20


def test_prevalences(sets: dict[str, FaceDataset]) -> None:
    for style, faces in sets.items():
        shares = faces.labels.mean()
        assert shares.between(0.1, 0.8).all(), (style, shares)
        assert shares["Gender"] == pytest.approx(STYLES[style].male, abs=0.08)


def test_people_are_in_one_split_and_keep_what_is_theirs(sets: dict[str, FaceDataset]) -> None:
    for style, faces in sets.items():
        assert faces.name == style
        own = ["Gender", "Bushy Eyebrows", "Pale Skin", "Attractive", "Eyeglasses"]
        table = faces.labels[own].assign(split=faces.split)
        assert (table.groupby(faces.subjects).nunique() == 1).all(axis=None)
        assert [int((faces.split == s).sum()) for s in SPLITS] == [480, 160, 160]
        assert len(set(faces.files)) == len(faces)
        assert faces.files[3] == f"{style}-0001-1"


@pytest.mark.parametrize("style", STYLES)
def test_landmarks_are_where_the_eyes_are_drawn(style: str) -> None:
    """Irises that look straight ahead stand in the middle between the corners; the whites reach from corner to corner."""
    p = drawn_eyes.latents(style, 16)
    p["gaze"] = -4 / 3 * p["yaw"]  # the eyes turn back what the head turns
    landmarks = synthetic._landmarks(p, 256)
    iris = drawn_eyes.difference(drawn_eyes.irises(style, p, 256), 12)
    opened = drawn_eyes.pair(style, p, "open", (p["open"], 1.8 * p["open"]), 256)
    white = drawn_eyes.difference(opened, 12)
    y, x = torch.meshgrid(torch.arange(256), torch.arange(256), indexing="ij")
    for half, (outer, inner) in zip(drawn_eyes.halves(p, 256), ((2, 3), (0, 1)), strict=True):
        corners = landmarks[:, [outer, inner]]
        found = drawn_eyes.middle(iris * half) - corners.mean(1)
        assert found.mean(0).tolist() == pytest.approx([0, -1], abs=1)  # of 256 pixels; irises are drawn one pixel higher
        assert found.abs().max() < 2.5
        across = corners[:, 0] - corners[:, 1]
        width = across.norm(dim=1)
        dx, dy = (x - corners[:, 1, 0, None, None], y - corners[:, 1, 1, None, None])
        along = (dx * across[:, 0, None, None] + dy * across[:, 1, None, None]) / width[:, None, None]
        seen = (white > 0) & half
        assert (along.where(seen, torch.tensor(-1e9)).amax((1, 2)) - width).median().abs() < 1.5
        assert along.where(seen, torch.tensor(1e9)).amin((1, 2)).median().abs() < 1.5


@pytest.mark.parametrize("style", STYLES)
def test_landmarks_have_the_nose_at_the_nostrils(style: str) -> None:
    p = drawn_eyes.latents(style, 16)
    noses = drawn_eyes.pair(style, p, "nose", (0.8 * p["nose"], 1.2 * p["nose"]), 256, flat=True)
    found = drawn_eyes.middle(drawn_eyes.difference(noses, 3)) - synthetic._landmarks(p, 256)[:, 4]
    assert found.mean(0).abs().max() < 2.5  # of 256 pixels
    assert found.abs().max() < 4


def test_a_picture_of_another_size_has_its_landmarks_in_the_same_place() -> None:
    small, large = (synthetic.draw("webcam", 9, 2, size).landmarks for size in (32, 256))
    torch.testing.assert_close((small + 0.5) / 32, (large + 0.5) / 256)


@pytest.mark.parametrize("style", STYLES)
def test_a_set_is_cut_around_its_landmarks_or_as_drawn(style: str) -> None:
    drawn = synthetic.draw(style, 5, 2, 48, seed=3)
    chips, crops, plain = (synthetic.load(style, 48, 3, way, subjects=5, per_subject=2) for way in ("chip", "crop", "none"))
    assert (plain.images == drawn.pictures.numpy()).all()
    assert (crops.images == plain.images).all()
    assert chips.labels.equals(plain.labels)
    for image, picture, points in zip(chips.images, drawn.pictures, drawn.landmarks.double().numpy(), strict=True):
        assert (image == align.chip(picture.permute(1, 2, 0).contiguous().numpy(), points, 48).transpose(2, 0, 1)).all()
    assert chips.faces is not None
    assert plain.faces is not None
    assert chips.faces.detected.all()
    assert chips.faces.images is chips.images
    middles = (drawn.landmarks[:, 2:4].mean(1), drawn.landmarks[:, :2].mean(1))
    np.testing.assert_allclose(plain.faces.eyes, (torch.stack(middles, 1) + 0.5) / 48, atol=1e-6)


@pytest.mark.parametrize(
    ("attribute", "latents"),
    [
        ("Gender", {"looks": (-1.0, 1.0)}),
        ("Smiling", {"smile": (0.0, 0.8), "teeth": (0.0, 1.0)}),
        ("Bushy Eyebrows", {"brow": (-0.5, 1.2)}),
        ("Wearing Lipstick", {"wears": (0.0, 1.0)}),
        ("Eyeglasses", {"glasses": (0.0, 1.0)}),
    ],
)
def test_what_is_drawn_for_an_attribute_shows(attribute: str, latents: dict[str, tuple[float, float]]) -> None:
    style = STYLES["studio"]
    p, _ = synthetic._latents(style, 8, 1, torch.Generator().manual_seed(0))

    def faces(end: int) -> Tensor:
        drawn = p | {name: torch.full_like(p[name], ends[end]) for name, ends in latents.items()}
        return synthetic._render(drawn, style, 64, torch.Generator().manual_seed(1)).float()

    changed = ((faces(1) - faces(0)).abs().amax(1) > 20).sum((1, 2))
    assert (changed > 12).all(), (attribute, changed)


@pytest.mark.parametrize("attribute", ATTRIBUTES)
def test_every_attribute_can_be_learned_from_pixels(linear: Linear, attribute: str) -> None:
    values, truth = linear.scores(attribute, "studio", "studio")
    assert roc_auc_score(truth, values) > 0.65


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("attribute", ["Gender", "Smiling"])
def test_a_linear_classifier_beats_the_majority(linear: Linear, style: str, attribute: str) -> None:
    _, truth = linear.scores(attribute, style, style)
    assert linear.accuracy(attribute, style, style) > max(truth.mean(), 1 - truth.mean()) + 0.05


def test_gender_is_told_well_but_not_perfectly(linear: Linear) -> None:
    assert 0.85 < linear.accuracy("Gender", "studio", "studio") < 0.98


def test_a_gender_classifier_loses_accuracy_on_another_style(linear: Linear) -> None:
    """Against the classifier that was trained on the other style's own training people."""
    own = {style: linear.accuracy("Gender", style, style) for style in STYLES}
    losses = {(a, b): own[b] - linear.accuracy("Gender", a, b) for a in STYLES for b in STYLES if a != b}
    assert np.mean(list(losses.values())) > 0.08, losses
    assert max(losses.values()) > 0.15, losses


def test_the_profiles_know_which_sets_are_drawn() -> None:
    assert set(STYLES) == set(DRAWN)
