"""Intervals, tests, thresholds and colour controls against closed formulas, brute force, and other packages."""

import io
import math

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from scipy.stats import binom, chi2
from sklearn.metrics import balanced_accuracy_score, roc_auc_score

from dftlib.datasets import synthetic
from dftlib.metrics import classification
from dftlib.metrics.classification import Bools
from dftlib.perturbation import baselines
from dftlib.perturbation.baselines import channel_levels
from dftlib.perturbation.perturbation import Perturbation


def rise_interval(before: Bools, after: Bools, people: NDArray[np.str_]) -> tuple[float, float]:
    return classification.interval(classification.share(after.astype(float) - before, classification.people_drawn(people)))


def bools(right: int, total: int) -> Bools:
    return np.arange(total) < right


@given(total=st.integers(1, 3000), share=st.floats(0, 1))
def test_wilson_is_the_closed_formula(total: int, share: float) -> None:
    right = round(share * total)
    z, p = 1.959963984540054, right / total
    centre = (p + z**2 / (2 * total)) / (1 + z**2 / total)
    reach = z / (1 + z**2 / total) * math.sqrt(p * (1 - p) / total + z**2 / (4 * total**2))
    assert classification.wilson(bools(right, total)) == pytest.approx((centre - reach, centre + reach), abs=1e-9)


def test_wilson_by_the_book() -> None:
    """15 of 50: 19.1 to 43.8 %, Newcombe's worked value for method 3."""
    assert classification.wilson(bools(15, 50)) == pytest.approx((0.1910, 0.4375), abs=1e-4)


@given(gained=st.integers(0, 60), lost=st.integers(0, 60), both=st.integers(1, 30), neither=st.integers(0, 30))
def test_mcnemar_is_an_exact_binomial_test(gained: int, lost: int, both: int, neither: int) -> None:
    before = np.repeat([False, True, True, False], [gained, lost, both, neither])
    after = np.repeat([True, False, True, False], [gained, lost, both, neither])
    tail = binom.cdf(min(gained, lost), gained + lost, 0.5)
    assert classification.mcnemar(before, after) == pytest.approx(min(1.0, 2 * tail))


def test_mcnemar_by_hand_and_nearly_as_its_approximation() -> None:
    before, after = np.repeat([False, True], [8, 1]), np.repeat([True, False], [8, 1])
    assert classification.mcnemar(before, after) == pytest.approx(2 * (1 + 9) / 2**9)
    before, after = np.repeat([False, True], [260, 200]), np.repeat([True, False], [260, 200])
    assert classification.mcnemar(before, after) == pytest.approx(chi2.sf((60 - 1) ** 2 / 460, 1), rel=0.02)
    assert classification.mcnemar(before, before) == 1


def accuracy_at(scores: NDArray[np.float64], labels: NDArray[np.int64], threshold: float) -> float:
    return float(((scores > threshold) == labels).mean())


@given(
    st.lists(
        st.tuples(st.sampled_from([0.0, 0.1, 0.25, 0.5, 0.75, 1.0]) | st.floats(0, 1), st.integers(0, 1)), min_size=1, max_size=30
    )
)
def test_best_threshold_is_as_good_as_any(pairs: list[tuple[float, int]]) -> None:
    """Ties included. No rule 'score > t' is right more often than one of: nothing, everything, above one of the scores."""
    scores, labels = np.array([p[0] for p in pairs]), np.array([p[1] for p in pairs])
    best = max(accuracy_at(scores, labels, t) for t in [-math.inf, *scores])
    found = classification.best_threshold(scores, labels)
    assert accuracy_at(scores, labels, found) == best
    smaller = [t for t in [-math.inf, *scores] if (scores > t).sum() > (scores > found).sum()]
    assert all(accuracy_at(scores, labels, t) < best for t in smaller)


def test_best_threshold_between_neighbouring_numbers() -> None:
    """Half-way between two neighbouring floats lies no float: the threshold must still tell them apart."""
    for low in (0.3, 0.7, np.nextafter(1.0, 0)):
        scores, labels = np.array([low, np.nextafter(low, 2)]), np.array([0, 1])
        assert accuracy_at(scores, labels, classification.best_threshold(scores, labels)) == 1


def test_best_threshold_lies_between_the_classes() -> None:
    scores, labels = np.array([0.9, 0.2, 0.1, 0.6]), np.array([1, 0, 0, 1])
    assert classification.best_threshold(scores, labels) == pytest.approx(0.4)
    assert classification.best_threshold(scores, np.ones(4, np.int64)) == -math.inf
    assert classification.best_threshold(scores, np.zeros(4, np.int64)) == math.inf


@pytest.fixture(scope="module")
def images() -> NDArray[np.uint8]:
    return synthetic.load("studio", 64, seed=3, subjects=40, per_subject=1).images


def test_channel_statistics_are_numpys(images: NDArray[np.uint8]) -> None:
    many = np.concatenate([images] * 15)  # several batches
    mean, deviation = channel_levels(many)
    np.testing.assert_allclose(mean, many.mean((0, 2, 3), np.float64), rtol=1e-10)
    np.testing.assert_allclose(deviation, many.std((0, 2, 3), np.float64), rtol=1e-8)
    np.testing.assert_array_equal(channel_levels(torch.from_numpy(many))[0], mean)
    np.testing.assert_array_equal(channel_levels(np.full((3, 3, 5, 5), 77, np.uint8))[1], 0)


def test_matched_pictures_have_the_wanted_colours() -> None:
    """Where nothing is cut off at black or white, up to half a grey level of rounding."""
    random = np.random.default_rng(0)
    images = random.integers(90, 140, (20, 3, 16, 16)).astype(np.uint8)
    wanted = torch.tensor([100.0, 128.0, 150.0]), torch.tensor([10.0, 20.0, 30.0])
    matched = baselines.match_channels(images, channel_levels(images), wanted)
    assert matched.dtype == torch.uint8
    assert matched.shape == images.shape
    assert 0 < matched.min() < matched.max() < 255
    for found, number in zip(channel_levels(matched), wanted, strict=True):
        np.testing.assert_allclose(found, number, atol=0.1)


def test_matching_to_oneself_changes_nothing(images: NDArray[np.uint8]) -> None:
    own = channel_levels(images)
    np.testing.assert_array_equal(baselines.match_channels(images, own, own).numpy(), images)


def test_matching_flat_pictures_gives_pictures() -> None:
    flat = np.full((2, 3, 4, 4), 60, np.uint8)
    wanted = torch.tensor([100.0, 120.0, 140.0]), torch.full((3,), 30.0)
    matched = baselines.match_channels(flat, channel_levels(flat), wanted)
    np.testing.assert_array_equal(matched.numpy()[:, :, 0, 0], [[100, 120, 140]] * 2)


@pytest.mark.parametrize("quality", [95, 5])
def test_jpeg_is_what_opencv_decodes(images: NDArray[np.uint8], quality: int) -> None:
    """OpenCV has a decoder of its own; it enlarges the chroma a little differently."""
    found = baselines.jpeg(torch.from_numpy(images[:5].copy()), quality).numpy()
    assert found.dtype == np.uint8
    assert found.shape == images[:5].shape
    for image, after in zip(images[:5], found, strict=True):
        file = io.BytesIO()
        Image.fromarray(np.ascontiguousarray(image.transpose(1, 2, 0))).save(file, "JPEG", quality=quality)
        theirs = cv2.imdecode(np.frombuffer(file.getvalue(), np.uint8), cv2.IMREAD_COLOR_RGB)
        assert theirs is not None
        assert abs(after.transpose(1, 2, 0).astype(int) - theirs).mean() < 0.5
        assert abs(after.transpose(1, 2, 0).astype(int) - theirs).max() <= 2


def test_lower_quality_changes_more(images: NDArray[np.uint8]) -> None:
    before = torch.from_numpy(images.copy())
    little, much = ((baselines.jpeg(before, q).float() - before.float()).abs().mean().item() for q in (95, 5))
    assert 0 < little < 3 < 2 * little < much


def test_accuracies_and_area_by_hand() -> None:
    present = np.array([0.9, 0.8, 0.4, 0.6, 0.3, 0.2, 0.6])
    labels = np.array([1, 1, 1, 0, 0, 0, 0])
    scores = torch.from_numpy(np.stack([1 - present, present], 1))
    assert classification.accuracy(scores, labels) == pytest.approx(4 / 7)
    right, one = scores.argmax(1).numpy() == labels, np.ones((1, 7))
    assert classification.balanced_share(right, labels, one) == pytest.approx([(2 / 3 + 2 / 4) / 2])
    pairs = [float(p > q) + 0.5 * float(p == q) for p in present[labels == 1] for q in present[labels == 0]]
    assert classification.area(present, labels, one) == pytest.approx([np.mean(pairs)])


def test_the_interval_of_a_rise_covers_it() -> None:
    """Near the normal approximation when everybody has one picture; a rise of nothing has an interval of nothing."""
    random = np.random.default_rng(0)
    before, after = random.random(900) < 0.6, random.random(900) < 0.75
    low, high = rise_interval(before, after, np.arange(900).astype(str))
    change = after.astype(float) - before
    assert low < change.mean() < high
    assert high - low == pytest.approx(2 * 1.96 * change.std() / 30, rel=0.08)
    assert rise_interval(before, before, np.arange(900).astype(str)) == (0, 0)


def test_pictures_of_one_person_count_as_less() -> None:
    """Ten pictures of each of 60 people, right or wrong together: sqrt(10) times as wide as if all were strangers."""
    random = np.random.default_rng(1)
    before, after = (np.repeat(random.random(60) < share, 10) for share in (0.5, 0.7))
    people = np.repeat(np.arange(60), 10).astype(str)
    low, high = rise_interval(before, after, people)
    narrow, wide = rise_interval(before, after, np.arange(600).astype(str))
    assert (high - low) / (wide - narrow) == pytest.approx(math.sqrt(10), rel=0.1)
    # One person in five has twenty pictures and gains on all, the others have one and gain nothing: 400 pictures of 480.
    often = np.arange(100) % 5 == 0
    who = np.repeat(np.arange(100), np.where(often, 20, 1))
    assert rise_interval(np.zeros(480, bool), often[who], who.astype(str))[0] > 0.5
    shuffled = random.permutation(600)
    again = rise_interval(before[shuffled], after[shuffled], people[shuffled])
    assert again == pytest.approx((low, high))


@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 1), st.integers(0, 3)), min_size=4, max_size=30))
def test_statistics_of_a_draw_are_those_of_pictures_repeated(pictures: list[tuple[int, int, int]]) -> None:
    """A picture that counts k times is a picture that is there k times; ties among scores included."""
    scores, labels, times = (np.array(column) for column in zip(*pictures, strict=True))
    again = [np.repeat(column, times) for column in (scores / 6, labels)]
    if len(set(again[1])) < 2:
        return
    drawn, right = times[None].astype(float), (scores > 3) == labels
    area = classification.area(scores / 6, labels, drawn)
    assert area == pytest.approx([roc_auc_score(again[1], again[0])])
    said = again[0] > 0.5
    assert classification.balanced_share(right, labels, drawn) == pytest.approx([balanced_accuracy_score(again[1], said)])
    assert classification.share(right, drawn) == pytest.approx([(said == again[1]).mean()])


def test_a_draw_of_one_class_is_left_out() -> None:
    drawn = np.array([[1.0, 0, 2], [0, 3, 0]])
    area = classification.area(np.array([0.9, 0.1, 0.4]), np.array([1, 0, 1]), drawn)
    assert np.isnan(area).all()
    assert classification.interval(np.array([0.2, np.nan, 0.2])) == (0.2, 0.2)


def test_draws_are_of_people() -> None:
    people = np.array(["a", "b", "a", "c"])
    drawn = classification.people_drawn(people, 500)
    assert np.array_equal(drawn[:, 0], drawn[:, 2])
    assert np.array_equal(drawn[:, [0, 1, 3]].sum(1), np.full(500, 3))
    assert drawn.mean(0) == pytest.approx(np.ones(4), abs=0.15)


def test_controls_on_n_keep_what_they_should() -> None:
    n = torch.randn(3, 8, 8, generator=torch.Generator().manual_seed(0))
    found = baselines.controls_on(Perturbation(n, "clip"), 0)
    assert torch.equal(found["flipped"].n, -n)
    for name in ("scrambled", "moved_1", "moved_2"):
        assert not torch.equal(found[name].n, n)
        assert torch.equal(found[name].n.flatten(1).sort(1).values, n.flatten(1).sort(1).values)
    assert torch.equal(found["moved_2"].n[:, 2:, 2:], n[:, :-2, :-2])
    pixels = {tuple(p) for p in n.flatten(1).T.tolist()}
    assert {tuple(p) for p in found["scrambled"].n.flatten(1).T.tolist()} == pixels
    assert found["random"].n.norm() == pytest.approx(n.norm())
    assert {p.box for p in found.values()} == {"clip"}


def test_the_mean_picture_is_the_mean() -> None:
    images = np.random.default_rng(0).integers(0, 256, (700, 3, 5, 4)).astype(np.uint8)
    np.testing.assert_allclose(baselines.mean_picture(images).numpy(), images.mean(0) / 255, atol=1e-6)
