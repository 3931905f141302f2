"""Classifiers that only answer: model files, functions and web services, those that fail included."""

import hashlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from mean_colour import Array, check, expected, model
from numpy.typing import NDArray
from torch import Tensor
from web_service import StatusError, WebService

from dftlib.classifiers import web_service
from dftlib.classifiers.black_box import CallableClassifier
from dftlib.classifiers.load import load_classifier
from dftlib.classifiers.web_service import HttpClassifier
from dftlib.errors import DataError
from dftlib.images import whole_levels
from dftlib.perturbation.query_log import Meter, QueryLog


@pytest.fixture
def images() -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (7, 3, 6, 6), dtype=np.uint8)


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web_service, "BACKOFF", 0.01)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


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
        (floats + 0.4 / 255).clamp_max(1),
        floats.contiguous(memory_format=torch.channels_last),
    ):
        levels = whole_levels(same)
        assert levels.dtype == np.uint8
        assert np.abs(levels.astype(int) - images).max() == 0


@pytest.mark.parametrize(
    "wrong", [lambda x: x * 1.0, lambda x: x / 127.5 - 1, lambda x: x.to(torch.int64), lambda x: x / 255 - 0.01]
)
def test_pictures_in_other_units_are_refused(images: NDArray[np.uint8], wrong: Any, tmp_path: Path) -> None:
    """Whoever asks: nothing is sent."""
    given = wrong(torch.from_numpy(images))
    box = CallableClassifier(lambda _: pytest.fail("asked"), identity="mine")
    meter = Meter(box, QueryLog(tmp_path / "log.db"), 100)
    for ask in (box.scores, meter.scores, meter.unsteady, meter.require_same, lambda x: list(box.stream(x))):
        for pictures in (given, given.numpy()):
            with pytest.raises(DataError, match=r"must (lie in|be uint8)"):
                ask(pictures)


# ---- model files


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


ABSENT = ("onnxruntime", "requests", "urllib3")


def test_what_is_imported_needs_no_package_for_asking(tmp_path: Path) -> None:
    """A sentence says what is missing, when it's needed."""
    path = tmp_path / "m.onnx"
    path.touch()
    code = f"""
import sys
sys.modules.update(dict.fromkeys({ABSENT}))
import dftlib.perturbation.from_scores
from dftlib.classifiers.load import load_classifier
from dftlib.errors import DataError
ways = {{
    "onnxruntime": lambda: load_classifier({str(path)!r}),
    "requests": lambda: load_classifier("http://127.0.0.1"),
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


@pytest.mark.parametrize(
    ("answer", "how"),
    [
        (lambda scores: np.sign(scores[:, 1] - 0.5), {}),
        (lambda scores: np.where(scores[:, 1] > 0.5, 1, -1).tolist(), {}),
        (lambda scores: np.where(scores[:, 1] > 0.5, "man", "woman"), {"names": ["woman", "man"]}),
        (lambda scores: ["man" if p > 0.5 else "woman" for p in scores[:, 1]], {"names": ["woman", "man"]}),
        (lambda scores: np.where(scores[:, 1] > 0.5, 2, 1), {"names": [1, 2]}),
    ],
)
def test_functions_that_answer_labels_of_their_own(images: NDArray[np.uint8], answer: Any, how: dict[str, Any]) -> None:
    wanted = np.eye(2)[expected(images).argmax(1)]
    check(CallableClassifier(lambda p: answer(mean_colour(p)), identity="mine", batch=2, **how).scores(images), wanted)


@pytest.mark.parametrize(
    ("answer", "how"),
    [
        (lambda scores: [dict(zip(("Woman", "Man"), row, strict=True)) for row in scores], {"names": ["woman", "man"]}),
        (lambda scores: {"woman": scores[:, 0], "man": scores[:, 1]}, {"names": ["woman", "man"]}),
        (lambda scores: SimpleNamespace(logits=torch.from_numpy(scores).log()), {}),
        (lambda scores: torch.from_numpy(scores).log().half().requires_grad_(), {"numbers": "logits"}),
        (lambda scores: 100 * scores, {}),
        (lambda scores: scores.squeeze(), {}),  # of the last picture, alone in its batch, a row is left
    ],
)
def test_functions_that_answer_in_a_form_of_their_own(images: NDArray[np.uint8], answer: Any, how: dict[str, Any]) -> None:
    check(
        CallableClassifier(lambda p: answer(mean_colour(p)), identity="mine", batch=2, **how).scores(images),
        expected(images),
        2e-3,
    )


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


@pytest.mark.parametrize("send", ["json", "data-url", "multipart"])
def test_pictures_arrive_exactly(service: WebService, images: NDArray[np.uint8], send: str) -> None:
    service.begins = "data:image/png;base64," if send == "data-url" else ""
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
        ("faces[].gender.label", (), "answers with '(fe)?male' where names were expected: set `names`"),
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


@pytest.mark.parametrize("end", ["a failure", "the consumer"])
def test_nothing_is_sent_again_after_the_end(service: WebService, images: NDArray[np.uint8], end: str) -> None:
    """Not even where the service asks to wait for it: who pays, or pressed Ctrl-C, waits for what is under way alone."""
    service.delay, service.headers = 0.2, {"Retry-After": "20"}
    service.faults = ["503", "404" if end == "a failure" else ""]
    stream, start = asked(service, parallel=2).stream(images), time.monotonic()
    if end == "a failure":
        assert "answers 404" in until_failure(stream)[1]
    else:
        next(stream)
        stream.close()  # type: ignore[attr-defined]
    assert service.requests == 2
    assert time.monotonic() - start < 10


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


def test_a_mistyped_host(images: NDArray[np.uint8]) -> None:
    begun = time.monotonic()
    with pytest.raises(
        DataError, match=r"^The service http://no\.invalid/ isn't found, as no host has this name: check URL and network.$"
    ):
        HttpClassifier("http://no.invalid/").scores(images)
    assert time.monotonic() - begun < 20  # five retries take 31 s


# ---- pictures without an answer


def faceless(images: NDArray[np.uint8], *rows: int) -> NDArray[np.uint8]:
    """The same pictures, these rows with nothing in them."""
    changed = images.copy()
    changed[list(rows)] = 7
    return changed


class NoFace:
    """A service that answers pictures without a face in one of the ways that services have."""

    def __init__(self, how: str) -> None:
        self.how = how

    def __call__(self, pictures: NDArray[np.uint8]) -> list[Any]:
        empty = (pictures == 7).all((1, 2, 3))
        if self.how in ("400", "422") and empty.any():
            raise StatusError(int(self.how), "no face in the picture")
        answers = zip(mean_colour(pictures).tolist(), empty, strict=True)
        if self.how == "left out":
            return [row for row, is_empty in answers if not is_empty]
        nothing: dict[str, Any] = {"null": None, "empty list": [], "empty object": {}}
        return [nothing[self.how] if is_empty else row for row, is_empty in answers]


@pytest.mark.parametrize("how", ["400", "422", "left out", "null", "empty list", "empty object"])
@pytest.mark.parametrize("batch", [1, 4])
def test_a_picture_without_a_face_has_no_answer(images: NDArray[np.uint8], how: str, batch: int) -> None:
    given = faceless(images, 0, 5)
    if how == "left out" and batch == 1:
        how = "empty list"
    with WebService(NoFace(how)) as service:
        classifier = asked(service, batch=batch)
        scores = classifier.scores(given)
    wanted = expected(given)
    wanted[[0, 5]] = np.nan
    np.testing.assert_allclose(scores.numpy(), wanted, atol=1e-5)
    assert ("no face in the picture" in classifier.refusal) == (how in ("400", "422"))


@pytest.mark.parametrize("how", ["400", "empty list"])
def test_a_service_that_never_answers_is_asked_otherwise(images: NDArray[np.uint8], how: str) -> None:
    """As with another `field`: the fault isn't in the pictures, and little is sent before that is said."""
    many = np.full((200, 3, 6, 6), 7, np.uint8)
    with WebService(NoFace(how)) as service:
        got, said = until_failure(asked(service, batch=1, parallel=1).stream(many))
        assert len(got) == service.requests - 1 == web_service.REFUSED - 1
    assert ("answers 400 ('no face in the picture')" if how == "400" else "answers an empty list") in said
    assert "to every picture: check its URL, `send`, `field` and `answer`." in said


def test_the_first_of_several_faces(service: WebService, images: NDArray[np.uint8]) -> None:
    service.reply = lambda rows: {"faces": [{"p": rows[0]}, {"p": [0.5, 0.5]}]}
    with pytest.raises(
        DataError, match=r"2 rows for 1 pictures: name the first of several in `answer`, as in 'faces\[0\].gender'"
    ):
        asked(service, batch=1, answer="faces[].p").scores(images)
    check(asked(service, batch=1, answer="faces[0].p").scores(images), expected(images))
    service.reply = lambda rows: {"results": [{"faces": [{"p": row}] * 2} for row in rows[:-1]] + [{"faces": []}]}
    scores = asked(service, batch=7, answer="results[].faces[0].p").scores(images)
    check(scores[:6], expected(images[:6]))
    assert scores[6].isnan().all()


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
    with pytest.raises(DataError, match="There is no API key in the environment variable SERVICE_KEY: set it"):
        made().scores(images)
    with pytest.raises(DataError, match="no API key in an environment variable and name that in `key_variable`") as caught:
        HttpClassifier(url, key_variable=KEY).scores(images)  # given itself, in place of its variable's name
    assert KEY not in str(caught.value)
    assert service.requests == 0
    monkeypatch.setenv("SERVICE_KEY", KEY + "\n")
    classifier = made()
    check(classifier.scores(images), expected(images))
    said = [repr(classifier), str(classifier), classifier.identity]
    for broken in ("[half", "h\u2100h"):
        with pytest.raises(DataError, match="is not the address of a web service: mend it") as caught:
            HttpClassifier(f"http://user:{PASSWORD}@{broken}/c?token={TOKEN}")
        said.append(str(caught.value))
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
        ("http://h", {"send": "xml"}, "Set `send` to one of json, data-url, multipart"),
        ("http://h", {"parallel": 0}, "`parallel` to 1 at least"),
        ("http://h", {"names": ("a",)}, "1 different names for 2 classes"),
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
    classifier = load_classifier("my_own_model:answer", classes=3, batch=2)
    check(classifier.scores(images), np.eye(3)[(images.mean((1, 2, 3)) > 127).astype(int)])
    first = classifier.identity
    assert load_classifier("my_own_model:answer", 3).identity == first != load_classifier("my_own_model:answer").identity
    assert load_classifier("my_own_model:answer", identity="paid").identity == "paid"
    assert load_classifier("my_own_model:answer", 3, names=["a", "b", "c"]).identity != first
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
        ("http://[half", r"http://\[half is not the address of a web service"),
    ]:
        with pytest.raises(DataError, match=sentence):
            load_classifier(name)


def test_options_by_name(service: WebService, images: NDArray[np.uint8]) -> None:
    check(load_classifier(service.url, batch=3, send="multipart").scores(images), expected(images))
    with pytest.raises(DataError, match="HttpClassifier has no option 'layout': its options are send, field, answer"):
        load_classifier(service.url, layout="nchw")
    with pytest.raises(DataError, match=r"can.t take these options .*: give numbers without quotes"):
        load_classifier(service.url, batch="8")
    with pytest.raises(DataError, match="has no option 'url'"):
        load_classifier(service.url, url="http://h")
    for names in (5, None):
        with pytest.raises(DataError, match=f"`names` is {names}, .*: give a list with each word in quotes"):
            load_classifier("numpy:mean", names=names)
    assert load_classifier("time:time").classes == 2  # of a module that is in no file
