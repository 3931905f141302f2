"""One perturbation over several processes (torch.distributed), and the command `dft fit`."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.multiprocessing.spawn import spawn

from dftlib.classifiers.base import TorchClassifier
from dftlib.cli import fit as command
from dftlib.experiments.lab import Lab
from dftlib.experiments.outcome import Cell
from dftlib.experiments.profile import load_profile
from dftlib.images import Pictures
from dftlib.models.backbones import AttributeNet
from dftlib.models.base import Backbone
from dftlib.perturbation import gradient
from dftlib.perturbation.gradient import Settings, fit
from dftlib.perturbation.perturbation import Perturbation

STEEPEST = Settings.paper(
    optimiser="steepest", learning_rate=0.03, min_psnr=30, mirror=True, batch_size=8, inner_steps=2, epochs=3, patience=3
)
CASES = {
    "limit and mirror": STEEPEST,
    "one picture left for two processes": replace(STEEPEST, batch_size=20),
    "batch of nearly all": replace(STEEPEST, batch_size=200),
    "by steps": replace(STEEPEST, steps=30, temperature=0, balance=True),
    "the paper's": Settings.paper(learning_rate=0.01, batch_size=8, inner_steps=2, epochs=3),
    "printed, summed": Settings.paper(box="printed", distance="sum", learning_rate=0.01, batch_size=8, inner_steps=1, epochs=2),
}


class Smooth(Backbone):
    """Without a kink: at one, a sum rounded otherwise changes the gradient by much, and nothing could be compared."""

    features, size = 4, 12

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Conv2d(3, 4, 5, 2), nn.Tanh(), nn.AdaptiveAvgPool2d(1), nn.Flatten())

    def forward(self, images: Tensor) -> Tensor:
        return 4 * self.net(images)


class Rising(TorchClassifier):
    """Right about two pictures of validation more at each call, whatever N is: of each fit the last round is kept."""

    calls = 0

    def scores(self, images: Pictures) -> Tensor:
        rank, processes = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
        right = torch.arange(9)[rank::processes] < 2 * self.calls
        self.calls += 1
        return torch.stack([~right, right], 1).float()


def fits(checkpoint: Path | None = None) -> dict[str, Perturbation]:
    torch.manual_seed(0)
    net = AttributeNet(Smooth(), nn.Linear(4, 2))
    draw = np.random.default_rng(0)
    images, labels = draw.integers(0, 256, (201 + 9, 3, 12, 12), dtype=np.uint8), torch.from_numpy(draw.integers(0, 2, 210))
    found = {}
    for name, settings in CASES.items():
        count = 41 if settings.batch_size < 200 else 201
        data = (images[:count], labels[:count], images[201:], torch.ones(9, dtype=torch.int64))
        found[name] = fit(Rising(net), *data, settings, seed=1, checkpoint=checkpoint)
    few = (torch.from_numpy(images[:41]), labels[:41], images[201:])
    found["from a tensor"] = fit(Rising(net), *few, torch.ones(9, dtype=torch.int64), STEEPEST, seed=1)
    found["by validation"] = fit(TorchClassifier(net), *few, labels[201:], STEEPEST, seed=1)
    return found


def _process(rank: int, processes: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"file://{folder}/meet", rank=rank, world_size=processes)
    found = fits(Path(folder) / "fit.part")
    torch.save({name: (p.n, p.about) for name, p in found.items()}, f"{folder}/{rank}.pt")
    dist.barrier()  # gloo aborts in a process whose neighbour has already hung up
    dist.destroy_process_group()


@pytest.fixture(scope="module", params=[2, 3])
def both(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Perturbation], list[Any]]:
    folder = tmp_path_factory.mktemp("fit")
    spawn(_process, (request.param, str(folder)), request.param)
    assert not (folder / "fit.part").exists()
    return fits(), [torch.load(folder / f"{rank}.pt") for rank in range(request.param)]


@pytest.mark.parametrize("case", [*CASES, "from a tensor", "by validation"])
def test_several_processes_find_what_one_finds(both: tuple[dict[str, Perturbation], list[Any]], case: str) -> None:
    alone, together = both
    n, about = together[0][case]
    if case != "by validation":
        assert alone[case].n.abs().max() > 0.01
        assert about["epoch"] == len(about["history"])
    torch.testing.assert_close(n, alone[case].n, rtol=0, atol=1e-5)
    assert [h["val_accuracy"] for h in about["history"]] == [h["val_accuracy"] for h in alone[case].about["history"]]
    assert (about["start"], about["epoch"]) == (alone[case].about["start"], alone[case].about["epoch"])
    assert about["fitted_at"] == pytest.approx(alone[case].about["fitted_at"], rel=1e-6)
    for one, other in zip(about["history"], alone[case].about["history"], strict=True):
        assert one["loss"] == pytest.approx(other["loss"], rel=1e-4)


def test_every_process_has_the_same_bits(both: tuple[dict[str, Perturbation], list[Any]]) -> None:
    first, *others = both[1]
    for other in others:
        assert all(torch.equal(first[case][0], other[case][0]) and first[case][1] == other[case][1] for case in first)


@pytest.mark.parametrize("place", ["cpu", "meta"])
def test_a_process_of_several_takes_its_part_where_the_images_are(place: str) -> None:
    """`meta` stands for a GPU: its tensors and those of the processor don't go together."""
    group, device = gradient.Group(), torch.device(place)
    group.rank, group.size, group.own = 1, 2, slice(1, None, 2)
    images = torch.zeros(41, 3, 4, 4, dtype=torch.uint8, device=place)
    parts = list(gradient._drawn(images, STEEPEST, 6, np.random.default_rng(0), group, device))
    assert [len(rows) for _, rows, _ in parts] == [4, 4, 4, 4, 4, 1]
    assert {tensor.device for x, rows, _ in parts for tensor in (x, rows)} == {device}


SMALL = [
    *("-p", "n_train", "40", "-p", "n_val", "31", "-p", "n_fit", "41", "-p", "steps", "1", "-p", "precision", "float32"),
    *("--data", "webcam", "--model", "studio", "--attribute", "Gender"),
]


def run(cache: Path, *words: str, processes: int = 0) -> subprocess.CompletedProcess[str]:
    launcher = ["-m", "torch.distributed.run", f"--nproc-per-node={processes}"] if processes else []
    environment = {**os.environ, "DFT_CACHE": str(cache), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, *launcher, "-m", "dftlib", "fit", *words], env=environment, capture_output=True, text=True, timeout=300
    )


def test_the_command_fits_the_same_under_torchrun_and_a_notebook_finds_the_fit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = []
    for processes in (0, 2):
        cache, out = tmp_path / f"cache{processes}", tmp_path / f"{processes}.safetensors"
        done = run(cache, *SMALL, "--out", str(out), processes=processes)
        assert done.returncode == 0, done.stderr
        found.append(Perturbation.load(out))
        after, before = found[-1].about["history"][0]["val_accuracy"], found[-1].about["start"]
        said = f"{100 * max(before, after):.1f} % of the validation images right, {100 * before:.1f} % without N "
        assert done.stdout.count(f"{out}: {said}(round {int(after > before)} of 1).\n") == 1
        kept = list((cache / "perturbations").iterdir())
        assert sorted(p.suffix for p in kept) == [".md", ".png", ".safetensors"]
        assert len(list((cache / "classifiers").iterdir())) == 1
    torch.testing.assert_close(found[0].n, found[1].n, rtol=0, atol=1e-5)

    monkeypatch.setenv("DFT_CACHE", str(cache))
    monkeypatch.setattr(gradient, "fit", lambda *_: pytest.fail("fitted once more"))
    profile = load_profile("demo", n_train=40, n_val=31, n_fit=41, steps=1, precision="float32")
    known = Lab(profile).fitted(Cell(5, "Gender", "webcam", "studio", "subject", 0))
    assert torch.equal(known.n, found[1].n)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--data", "atlantis"], "Profile 'demo' has no data set 'atlantis': choose one of press, studio, webcam."),
        (["--model", "atlantis"], "Profile 'demo' has no data set 'atlantis'"),
        (["--attribute", "Gendre"], "'webcam' has no attribute 'Gendre': choose one of "),
        (["-p", "epoch", "1"], "Unknown parameter 'epoch'; did you mean 'epochs'?"),
        (["--profile", "dmeo"], "There is no profile 'dmeo'"),
        (["-p", "frontier_weights", "[1, ten]"], "Parameter 'frontier_weights' must be"),
    ],
)
def test_bad_input_is_one_sentence(words: list[str], said: str, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    out = tmp_path / "n.safetensors"
    assert command.main([*SMALL, "--out", str(out), *words]) == 2
    answer = capsys.readouterr().err
    assert answer.startswith(said)
    assert answer.count("\n") == 1
    assert not out.exists()


def test_a_name_that_is_no_place_for_n_is_refused_before_the_fit(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(command, "fit", lambda *_: pytest.fail("It was fitted."))
    assert command.main([*SMALL, "--out", str(tmp_path / "n.png")]) == 2
    assert "n.png is where N's picture goes" in capsys.readouterr().err


def test_debug_lets_the_fault_out(tmp_path: Path) -> None:
    with pytest.raises(Exception, match="atlantis"):
        command.main([*SMALL, "--out", str(tmp_path / "n.safetensors"), "--data", "atlantis", "--debug"])
