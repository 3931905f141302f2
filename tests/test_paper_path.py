"""The profile `paper`, whole: LFW and MUCT from disk, VGG-16 at 224 x 224, NNET, perturbation, measurements.

Noise instead of faces and random weights instead of VGGFace's: the way is tested, not the numbers.
"""

import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import faces_on_disk
import pandas as pd
import pytest
import torch

from dftlib import paths
from dftlib.errors import DataError
from dftlib.experiments import lab
from dftlib.experiments.lab import Lab
from dftlib.experiments.outcome import Outcome
from dftlib.experiments.profile import Profile, load_profile
from dftlib.metrics import similarity
from dftlib.perturbation import gradient

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def profile(tmp_path_factory: pytest.TempPathFactory, vggface_file: Path) -> Profile:
    root = tmp_path_factory.mktemp("data")
    faces_on_disk.lfw(root, pictures_each=1)
    faces_on_disk.celeba(root)
    faces_on_disk.muct(root, people=3)
    small = {"n_fit": 4, "n_val": 2, "batch_size": 4, "inner_steps": 1, "epochs": 1, "head_epochs": 1}
    where = {"data_root": str(root), "weights": str(vggface_file), "device": "cpu"}
    return load_profile("paper", **small, **where, seeds=[0], protocols=["paper"])


@pytest.fixture(scope="module")
def outcome(profile: Profile, scratch: Path) -> Iterator[Outcome]:
    (cell,) = [c for c in Lab(profile).cells(5) if (c.attribute, c.data, c.model) == ("Gender", "lfw", "muct")]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DFT_CACHE", str(scratch / "cache"))
        yield Lab(profile).outcome(cell)


def test_the_papers_cells_are_all_there(profile: Profile) -> None:
    cells = [c for c in Lab(profile).cells(2, 3, 5, 6) if c.attribute != lab.BESIDE_GENDER]
    assert len(cells) == len(lab.published().query("table in [2, 3, 5, 6]")) > 10
    assert {c.data for c in cells} == {"lfw", "celeba", "muct"}
    assert {(c.data == c.model) for c in cells if c.table in (5, 6)} == {False}


def test_a_cell_gives_a_complete_row(outcome: Outcome) -> None:
    row = outcome.row
    columns = (
        "data, model, attribute, backbone, protocol, box, weight, seed, n_fit, n_test, before, before_lo, before_hi, after, "
        "after_lo, after_hi, mcnemar_p, trivial, threshold, colour, colour_threshold, balanced_before, balanced_after, "
        "auc_before, auc_after, after_8bit, after_jpeg95, psnr, ssim, oracle, gap_closed"
    )
    assert set(columns.split(", ")) <= set(row)
    assert (row["data"], row["model"], row["backbone"]) == ("lfw", "muct", "vggface")
    assert (row["n_fit"], row["n_test"]) == (4, 3)
    numbers = {name: value for name, value in row.items() if isinstance(value, int | float)}
    gap, psnr = numbers.pop("gap_closed"), numbers.pop("psnr")
    assert psnr > 60  # infinite where no N is better than none on two pictures
    assert len(numbers) >= 25
    assert all(math.isfinite(value) for value in numbers.values())
    assert all(0 <= numbers[name] <= 100 for name in ("before", "after", "trivial", "threshold", "colour", "oracle"))
    room = numbers["oracle"] - numbers["before"]
    if room > 0:
        assert gap == pytest.approx((numbers["after"] - numbers["before"]) / room)
    else:
        assert math.isnan(gap)


def test_one_step_of_adam_is_seen_and_is_small(profile: Profile, outcome: Outcome, monkeypatch: pytest.MonkeyPatch) -> None:
    """From N = 0 Adam's first step is the learning rate, less where a gradient is as small as Adam's epsilon, never more."""
    cell = outcome.cell
    own = Lab(profile)
    model, (fit, val, _) = own.model(cell), own.splits(cell)
    answers = iter([1 - val.labels, val.labels])  # wrong without N, right with it: so that the step is kept
    with monkeypatch.context() as patch:
        patch.setattr(model, "scores", lambda _: torch.eye(2)[next(answers)])
        how = replace(lab.settings_of(profile), temperature=0.0)  # random weights are too sure to have a gradient
        found = gradient.fit(model, fit.images, fit.labels, val.images, val.labels, how)
    assert found.about["epoch"] == 1
    assert found.n.shape == (3, 224, 224)
    assert found.n.abs().max() == pytest.approx(0.001, rel=0.01)
    assert (found.n != 0).double().mean() > 0.9
    plain = torch.from_numpy(val.images) / 255
    assert 60 < float(similarity.psnr(plain, found.apply(val.images)).mean()) < 80
    assert float(similarity.ssim(plain, found.apply(val.images)).mean()) > 0.999
    before, after = model.scores(val.images), model.scores(found.apply(val.images))
    assert not torch.equal(before, after)
    torch.testing.assert_close(before, after, rtol=0, atol=0.05)


def test_a_second_look_computes_nothing(
    profile: Profile, outcome: Outcome, monkeypatch: pytest.MonkeyPatch, scratch: Path
) -> None:
    """Everything but the oracle's scores, which are not kept, comes from the cache."""
    monkeypatch.setattr(gradient, "fit", lambda *_: pytest.fail("fitted again"))
    monkeypatch.setattr(Lab, "_scores", lambda *_: pytest.fail("scored again"))
    again = Lab(profile).outcome(outcome.cell)
    pd.testing.assert_series_equal(pd.Series(again.row), pd.Series(outcome.row))
    assert paths.cache_folder() == scratch / "cache"
    assert not list(paths.cache_folder().rglob("*.part"))


def test_missing_weights_are_named(profile: Profile, tmp_path: Path) -> None:
    where = {"data_root": profile.data_root, "device": "cpu", "weights": str(tmp_path / "none.pth")}
    wrong = load_profile("paper", **where)
    with pytest.raises(DataError, match=r"none\.pth are missing"):
        Lab(wrong).body()
