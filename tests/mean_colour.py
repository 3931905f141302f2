"""A toy classifier that answers by the mean colour of a picture, in numpy and as ONNX files of many shapes."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, helper, numpy_helper
from torch import Tensor

Array = NDArray[Any]
WEIGHT = np.array([[0.5, -1.0, 2.0], [-0.5, 1.5, 0.25]], np.float32)  # classes x channels
BIAS = np.array([0.1, -0.2], np.float32)
MEAN, DEVIATION = (120.0, 110.0, 100.0), (64.0, 60.0, 50.0)


def softmax(logits: Array) -> Array:
    powers = np.exp(logits - logits.max(1, keepdims=True))
    return np.asarray(powers / powers.sum(1, keepdims=True))


def expected(images: NDArray[np.uint8], mean: Any = 0.0, deviation: Any = 255.0) -> Array:
    """Scores n x 2 of pictures n x 3 x H x W."""
    pixels = (images.transpose(0, 2, 3, 1).astype(np.float64) - mean) / deviation
    return softmax(pixels.mean((1, 2)) @ WEIGHT.T + BIAS)


def check(scores: Tensor, wanted: Array, tolerance: float = 1e-5) -> None:
    assert scores.dtype == torch.float32
    assert scores.device.type == "cpu"
    torch.testing.assert_close(scores.sum(1), torch.ones(len(wanted)))
    np.testing.assert_allclose(scores.numpy(), wanted, atol=tolerance)


Info = tuple[str, int, Sequence[Any]]  # name, type, shape


def saved(path: Path, nodes: list[NodeProto], inputs: Sequence[Info], outputs: Sequence[Info], weights: dict[str, Array]) -> Path:
    """A graph in a file."""
    entries, exits = ([helper.make_tensor_value_info(*info) for info in infos] for infos in (inputs, outputs))
    kept = [numpy_helper.from_array(weight, name) for name, weight in weights.items()]
    graph = helper.make_graph(nodes, "toy", entries, exits, kept)
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("ai.onnx.ml", 3)]
    made = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    onnx.checker.check_model(made)
    onnx.save(made, path)
    return path


def model(path: Path, shape: list[Any], kind: str = "nchw", element: int = TensorProto.FLOAT, probabilities: bool = True) -> Path:
    """Mean colour, a matrix, softmax; `shape` is what the input declares, the output 'features' comes before the scores."""
    nodes, last = [], "pictures"
    if element != TensorProto.FLOAT:
        nodes.append(helper.make_node("Cast", [last], ["cast"], to=TensorProto.FLOAT))
        last = "cast"
    if kind == "nhwc":
        nodes.append(helper.make_node("Transpose", [last], ["turned"], perm=[0, 3, 1, 2]))
        last = "turned"
    nodes += [
        helper.make_node("GlobalAveragePool", [last], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["features"]),
        helper.make_node("Gemm", ["features", "weight", "bias"], ["logits"], transB=1),
        helper.make_node("Softmax", ["logits"], ["scores"], axis=1),
    ]
    last = "scores" if probabilities else "logits"
    outputs = [("features", TensorProto.FLOAT, [shape[0], 3]), (last, TensorProto.FLOAT, [shape[0], 2])]
    return saved(path, nodes, [("pictures", element, shape)], outputs, {"weight": WEIGHT, "bias": BIAS})
