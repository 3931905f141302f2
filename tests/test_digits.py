"""Notebook 11's digits: the scanners do what they are named for, and each remedy what it should."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from sklearn.datasets import load_digits
from torch import nn

from dftlib.classifiers.base import TorchClassifier
from dftlib.datasets.base import Split
from dftlib.experiments import digits
from dftlib.perturbation import baselines

CLEAN = digits.scanned("as trained")


def levels(scanner: str) -> NDArray[np.int64]:
    """Of the test digits, n x 1 x 8 x 8."""
    return np.asarray(digits.scanned(scanner)["test"].images).astype(np.int64)


def test_the_parts_are_all_digits_each_once() -> None:
    known = load_digits()
    expected = sorted(zip((255 * known.images / 16).round().astype(np.uint8).reshape(-1, 64).tolist(), known.target, strict=True))
    found = [
        (image, label)
        for split in CLEAN.values()
        for image, label in zip(np.asarray(split.images).reshape(-1, 64).tolist(), split.labels.tolist(), strict=True)
    ]
    assert sorted(found) == expected
    assert {part: len(split) for part, split in CLEAN.items()} == digits.PARTS


@pytest.mark.parametrize("scanner", digits.SCANNERS)
def test_every_scanner_gives_the_same_digits(scanner: str) -> None:
    for part, split in digits.scanned(scanner).items():
        assert split.images.shape == (digits.PARTS[part], 1, 8, 8)
        assert split.images.dtype == np.uint8
        assert torch.equal(split.labels, CLEAN[part].labels)


def test_what_each_scanner_does() -> None:
    clean = levels("as trained")
    assert np.abs(levels("contrast") - (76.5 + 0.4 * clean)).max() <= 1
    for scanner in ("uneven light", "smudge"):  # the same on all images, wherever nothing is cut off
        added = np.where(levels(scanner) < 255, levels(scanner) - clean, np.nan)
        assert np.nanmax(np.nanmax(added, 0) - np.nanmin(added, 0)) <= 1
        assert np.nanmax(added) > 100
    assert (levels("shift")[..., 1:, 1:] == clean[..., :-1, :-1]).all()
    noise = levels("noise") - clean
    assert (noise[0] != noise[1]).any()
    grey = (clean > 100) & (clean < 155)  # where the noise is hardly cut off
    assert noise[grey].std() == pytest.approx(0.3 * 255, rel=0.1)
    assert np.abs(levels("blur").mean() - clean.mean()) < 1
    assert np.diff(levels("blur")).std() < 0.5 * np.diff(clean).std()


def test_offsets_have_the_lowest_cross_entropy() -> None:
    """Where all scores are equal, they are those of the classes' shares; where these are right already, they change nothing."""
    labels = torch.tensor([0] * 50 + [1] * 30 + [2] * 20)
    shares = torch.tensor([0.5, 0.3, 0.2])
    found = digits.offsets(torch.full((100, 3), 1 / 3), labels)
    assert torch.allclose(found.softmax(0), shares, atol=1e-3)
    assert digits.offsets(shares.expand(100, 3), labels).abs().max() < 1e-3


@pytest.mark.parametrize("move", [(0, 0), (1, 1), (-2, 1)])
def test_a_displacement_is_found_whatever_the_contrast(move: tuple[int, int]) -> None:
    source = torch.as_tensor(CLEAN["train"].images)
    other = torch.as_tensor(CLEAN["fit"].images).roll(move, (2, 3))
    assert digits.displaced((90 + 0.4 * other).to(torch.uint8), source) == move


@pytest.mark.parametrize("channels", [1, 2, 3])
def test_grey_levels_are_matched_whatever_the_channels(channels: int) -> None:
    draw = np.random.default_rng(0)
    here, there = (draw.integers(low, high, (40, channels, 6, 5)).astype(np.uint8) for low, high in ((90, 130), (60, 200)))
    own, wanted = (baselines.channel_levels(x) for x in (here, there))
    assert own[0].numpy() == pytest.approx(here.mean((0, 2, 3)))
    matched = baselines.match_channels(here, own, wanted).numpy()
    assert matched.mean((0, 2, 3)) == pytest.approx(there.mean((0, 2, 3)), abs=0.5)
    assert matched.std((0, 2, 3)) == pytest.approx(there.std((0, 2, 3)), abs=0.5)


class Nearest(nn.Module):
    """Logits: how near an image is to the mean clean digit of each class."""

    def __init__(self) -> None:
        super().__init__()
        x, y = torch.as_tensor(CLEAN["train"].images).float() / 255, CLEAN["train"].labels
        self.register_buffer("means", torch.stack([x[y == k].mean(0).flatten() for k in range(10)]))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return -10 * torch.cdist(images.flatten(1), self.get_buffer("means"))


def test_each_remedy_mends_what_it_is_for() -> None:
    classifier = TorchClassifier(Nearest())

    def right(known: Split, split: Split) -> dict[str, float]:
        return {name: float(r.mean()) for name, r in digits.remedies(classifier, known, CLEAN["train"], split).items()}

    def rolled(split: Split) -> Split:
        return Split(torch.as_tensor(split.images).roll((1, -1), (2, 3)), split.labels)

    clean = float((classifier.scores(CLEAN["test"].images).argmax(1) == CLEAN["test"].labels).float().mean())
    fit, test = CLEAN["fit"], CLEAN["test"]
    majority = test.labels == fit.labels.mode().values
    moved = right(rolled(fit), rolled(test))
    assert moved["aligned"] == pytest.approx(clean)
    assert moved["matched"] < clean - 0.3
    assert moved["majority"] == pytest.approx(float(majority.float().mean()))
    faint = right(digits.scanned("contrast")["fit"], digits.scanned("contrast")["test"])
    assert faint["matched"] == pytest.approx(clean, abs=0.02)
    stained = digits.scanned("smudge")
    assert right(stained["fit"], stained["test"])["mean_image"] > 0.95 * clean


def test_a_row_a_scanner(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(digits, "SCANNERS", {name: digits.SCANNERS[name] for name in ("contrast", "shift")})
    monkeypatch.setattr(digits, "SETTINGS", replace(digits.SETTINGS, steps=24))
    monkeypatch.setattr(digits, "EPOCHS", 12)
    table, found = digits.study()
    assert table["scanner"].tolist() == list(found) == ["contrast", "shift"]
    simple = ["before", "majority", "offsets", "matched", "mean_image", "aligned", "aligned_matched"]
    assert table["best"].tolist() == table[simple].max(axis=1).tolist()
    assert np.allclose(table["after"] - table["best"], table["over_best"])
    for name in ("before", "after", "best", "own", "rise", "over_best"):
        assert (table[f"{name}_lo"] <= table[name]).all()
        assert (table[name] <= table[f"{name}_hi"]).all()
    assert (table["own"] > 50).all()
    assert (table["psnr"] > digits.SETTINGS.min_psnr - 0.5).all()
    shown = digits.examples(found)
    labels = CLEAN["test"].labels.tolist()
    assert (shown["contrast"][0].numpy() == levels("contrast")[[labels.index(0), labels.index(3)]]).all()
    assert (shown["shift"][2] != shown["shift"][0]).any() == bool(found["shift"].n.any())
