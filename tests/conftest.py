"""What every test needs: no screen, few threads, folders of its own, and one VGGFace weight file with random weights."""

import os

os.environ["MPLBACKEND"] = "Agg"
os.environ.setdefault("OMP_NUM_THREADS", "2")  # read by torch when it is imported

import math
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import settings
from torch import Tensor

from dftlib.datasets import FaceDataset, synthetic
from dftlib.experiments import lab
from dftlib.experiments.lab import Lab
from dftlib.experiments.profile import load_profile

torch.set_num_threads(min(2, torch.get_num_threads()))
# One commit gives one verdict: the same examples every time, and none fails because the machine is busy.
settings.register_profile("kit", deadline=None, derandomize=True, database=None)
settings.load_profile("kit")

VGGFACE_LAYERS: dict[str, tuple[int, ...]] = {
    "conv1_1": (64, 3, 3, 3), "conv1_2": (64, 64, 3, 3),
    "conv2_1": (128, 64, 3, 3), "conv2_2": (128, 128, 3, 3),
    "conv3_1": (256, 128, 3, 3), "conv3_2": (256, 256, 3, 3), "conv3_3": (256, 256, 3, 3),
    "conv4_1": (512, 256, 3, 3), "conv4_2": (512, 512, 3, 3), "conv4_3": (512, 512, 3, 3),
    "conv5_1": (512, 512, 3, 3), "conv5_2": (512, 512, 3, 3), "conv5_3": (512, 512, 3, 3),
    "fc6": (4096, 25088), "fc7": (4096, 4096), "fc8": (2622, 4096),
}  # fmt: skip


@pytest.fixture(scope="session")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("kit")


@pytest.fixture(autouse=True)
def own_folders(scratch: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test reads the project's cache or writes its results; what one test computes, another may find."""
    monkeypatch.setenv("DFT_CACHE", str(scratch / "cache"))
    monkeypatch.setenv("DFT_OUTPUT", str(scratch / "output"))


def vggface_tensors(seed: int = 0) -> dict[str, Tensor]:
    """Random weights under the published file's names, in its shapes, scaled so that activations neither grow nor vanish."""
    random = torch.Generator().manual_seed(seed)
    state = {}
    for name, shape in VGGFACE_LAYERS.items():
        scale = (2 / math.prod(shape[1:])) ** 0.5
        if name.startswith("conv"):
            state[f"{name}.weight"] = scale * torch.randn(shape, generator=random)
        else:
            # Rows are windows, 7 apart, of one short line of numbers: torch.save writes that line, 60 MB in all instead of 580.
            line = scale * torch.randn(7 * shape[0] + shape[1], generator=random)
            state[f"{name}.weight"] = line.as_strided(shape, (7, 1))
        state[f"{name}.bias"] = 0.1 * torch.randn(shape[0], generator=random)
    return state


@pytest.fixture(scope="session")
def vggface_file(scratch: Path) -> Path:
    """Such weights in torch's old format, that of the published file."""
    path = scratch / "vgg_face_dag.pth"
    torch.save(vggface_tensors(), path, _use_new_zipfile_serialization=False)
    return path


@pytest.fixture(scope="module")
def few_faces(scratch: Path) -> Iterator[Lab]:
    """The profile `demo` on 120 faces a set, with fits that take a second: paths are tested, not accuracies."""

    def few(name: str, root: str, size: int, protocol: str, seed: int, way: str, padding: float) -> FaceDataset:
        return synthetic.load(name, size, seed, way, subjects=60, per_subject=2, padding=padding)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lab, "load_dataset", few)
        patch.setenv("DFT_CACHE", str(scratch / "cache"))
        yield Lab(load_profile("demo", n_fit=60, steps=4, batch_size=30, head_epochs=5))
