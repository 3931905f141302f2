"""A classifier as the kit sees it: pictures in, scores out; with `TorchClassifier`, gradients too."""

import base64
import copy
import hashlib
import importlib
import inspect
import io
import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from threading import Event
from typing import Any, Protocol, cast
from urllib.parse import parse_qsl, urlsplit

import numpy as np
import onnxruntime
import requests
import torch
from numpy.typing import NDArray
from PIL import Image
from requests.adapters import HTTPAdapter
from torch import Tensor, nn
from urllib3 import Retry
from urllib3.exceptions import InvalidHeader, MaxRetryError

from dftlib.config import DataError

Pictures = NDArray[np.uint8] | Tensor
BACKOFF = 1.0  # seconds; doubled with each retry
LONGEST_WAIT = 60  # seconds between two retries, whatever the service asks for


class Classifier(Protocol):
    """Anything that answers pictures with scores."""

    def scores(self, images: Pictures) -> Tensor:
        """Pictures n x 3 x H x W, uint8 0 to 255 or float in [0, 1] -> float32 n x classes, each row sums to 1, on the CPU."""
        ...


class TorchClassifier:
    """A torch network with frozen weights: `scores` in float32, `logits` in `dtype` and differentiable to the input.

    The network is kept channels-last. A second copy of its body in `dtype` serves `logits`, so that no weight is cast again
    at every step; what is reported always comes from the float32 one.
    """

    def __init__(self, net: nn.Module, device: torch.device | None = None, dtype: torch.dtype = torch.float32) -> None:
        self.device = device or torch.device("cpu")
        self.net = _frozen(net, self.device)
        self.dtype = dtype
        self._fast = self.net if dtype == torch.float32 else _frozen(copy.deepcopy(net), self.device)
        if dtype != torch.float32:
            cast(nn.Module, self._fast.body).to(dtype)

    def logits(self, images: Tensor) -> Tensor:
        """Float pictures n x 3 x H x W in [0, 1] -> float32 logits n x classes, differentiable to the pictures alone."""
        return cast(Tensor, self._fast(images))

    @torch.inference_mode()
    def scores(self, images: Pictures) -> Tensor:
        """As `Classifier.scores`; raises `DataError` when the network answers with something that is not a number."""
        parts = [self.net(to_float(batch, self.device)).softmax(1).cpu() for batch in batches(images)]
        scores = torch.cat(parts)
        if not scores.isfinite().all():
            raise DataError("The classifier answered with scores that are not numbers: check its weights and its input range.")
        return scores


def _frozen(net: nn.Module, device: torch.device) -> nn.Module:
    return net.eval().requires_grad_(False).to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]


def batches(images: Pictures, size: int = 512) -> Iterator[Pictures]:
    return (images[start : start + size] for start in range(0, len(images), size))


def to_float(images: Pictures, device: torch.device) -> Tensor:
    """Pictures on `device`, float32 in [0, 1], channels-last; uint8 travels as uint8 and is divided by 255 there."""
    tensor = torch.as_tensor(np.array(images)) if isinstance(images, np.ndarray) else images
    tensor = tensor.to(device).contiguous(memory_format=torch.channels_last)
    return tensor.float().div_(255) if tensor.dtype == torch.uint8 else tensor


def whole_levels(images: Pictures) -> NDArray[np.uint8]:
    """Pictures n x 3 x H x W as whole grey levels, uint8 0 to 255: what leaves the computer."""
    tensor = torch.from_numpy(np.array(images)) if isinstance(images, np.ndarray) else images.detach().cpu()
    return (tensor.float() * 255).round().clamp(0, 255).byte().numpy() if tensor.is_floating_point() else tensor.byte().numpy()


def as_scores(answer: Any, rows: int, classes: int, logits: bool, who: str) -> Tensor:
    """What a black box answered to `rows` pictures, in one form: float32 rows x classes, each row sums to 1.

    `answer` is an array, tensor or list of rows x classes probabilities (logits, with `logits`), of `rows` integer labels, or,
    for two classes, of `rows` probabilities (logits) of class 1. Raises `DataError`, beginning with `who`, for anything else.
    """
    try:
        values = torch.atleast_1d(answer.detach().cpu() if isinstance(answer, Tensor) else torch.from_numpy(np.array(answer)))
    except (TypeError, ValueError):
        raise DataError(f"{who} answers with something that is no array of numbers: give scores or labels.") from None
    if values.ndim > 1:
        values = values.flatten(1)  # n x classes x 1 x 1
        values = values[:, 0] if values.shape[1] == 1 else values
    if len(values) != rows:
        raise DataError(f"{who} answers with {len(values)} rows for {rows} pictures: it should give one row a picture.")
    if not values.isfinite().all():
        raise DataError(f"{who} answers with scores that are not numbers: check its weights and the range of its input.")
    if values.ndim == 1 and not values.is_floating_point():
        labels = values.long()
        if strange := labels[(labels < 0) | (labels >= classes)].tolist():
            raise DataError(f"{who} answers with the label {strange[0]}, not in 0 to {classes - 1}: set `classes` to fit it.")
        return nn.functional.one_hot(labels, classes).float()
    values = values.double()
    if values.ndim == 1:
        values = torch.stack([torch.zeros_like(values) if logits else 1 - values, values], 1)
    if (count := values.shape[1]) != classes:
        raise DataError(
            f"{who} answers with {count} classes where {classes} were expected: set `classes` to {count}, or label some of each."
        )
    if logits:
        return values.softmax(1).float()
    sums = values.sum(1, keepdim=True)
    if (wrong := (values < 0).any(1) | ((sums - 1).abs() > 1e-2).squeeze(1)).any():
        row = [round(v, 3) for v in values[wrong][0].tolist()]
        raise DataError(f"{who} answers with rows that are not probabilities, such as {row}: set logits=True if they are logits.")
    return (values / sums).float()


class BlackBox:
    """A classifier that only answers. Whatever it is, it is shown whole grey levels.

    `identity` stands for the classifier and how it is asked: where it is the same, the same answers are expected. It holds
    no secrets. `batch` is the number of pictures in one call or request.
    """

    def __init__(self, who: str, identity: str, classes: int, batch: int, logits: bool) -> None:
        if classes < 2 or batch < 1:
            raise DataError(f"`classes` is {classes} and `batch` {batch}: set them to 2 and 1 at least.")
        self.identity, self.classes, self.batch = identity, classes, batch
        self._who, self._logits = who, logits

    def stream(self, images: Pictures) -> Iterator[tuple[slice, Tensor]]:
        """Answers as they come: a slice of the pictures' rows, and the scores of its m pictures, float32 m x classes.

        Pictures as for `scores`. Raises `DataError` when the classifier fails or its answer can't be used; what was answered
        before has been yielded.
        """
        for rows in self._slices(images):
            yield rows, self._checked(images[rows])

    def scores(self, images: Pictures) -> Tensor:
        """As `Classifier.scores`; raises `DataError` like `stream`."""
        scores = torch.empty(len(images), self.classes)
        for rows, part in self.stream(images):
            scores[rows] = part
        return scores

    def _slices(self, images: Pictures) -> Iterator[slice]:
        return (slice(start, min(start + self.batch, len(images))) for start in range(0, len(images), self.batch))

    def _checked(self, images: Pictures) -> Tensor:
        return as_scores(self._answer(whole_levels(images)), len(images), self.classes, self._logits, self._who)

    def _answer(self, pictures: NDArray[np.uint8]) -> Any:
        """uint8 n x 3 x H x W -> whatever `as_scores` takes."""
        raise NotImplementedError


class OnnxClassifier(BlackBox):
    """A model file, run by onnxruntime on the processor; uses its output n x `classes`, or else its first.

    Its input is (grey level - `mean`) / `deviation`, both in grey levels 0 to 255, one number or one for each of R, G, B; with
    `dtype` 'uint8' it is the grey levels themselves. `layout` is 'nchw' or 'nhwc', `dtype` 'float32', 'float16' or 'uint8'.
    `size` is the H = W in pixels that the file declares, None where it doesn't. `identity` covers the file and `FILE.data`,
    where torch puts the weights. Raises `DataError` for a file that can't be run or isn't asked as it declares.
    """

    def __init__(
        self, path: str | Path, classes: int = 2, *, mean: float | Sequence[float] = 0.0,
        deviation: float | Sequence[float] = 255.0, layout: str = "nchw", dtype: str = "float32", batch: int = 256,
        logits: bool = False,
    ) -> None:  # fmt: skip
        types = {"float32": "tensor(float)", "float16": "tensor(float16)", "uint8": "tensor(uint8)"}
        if layout not in ("nchw", "nhwc") or dtype not in types:
            raise DataError(f"Layout '{layout}', dtype '{dtype}': choose 'nchw' or 'nhwc', and one of {', '.join(types)}.")
        if any(np.shape(v) not in ((), (3,)) for v in (mean, deviation)) or not np.all(deviation):
            raise DataError("`mean` and `deviation` are one number or three, in grey levels, and no deviation is 0: set them so.")
        files = [file for file in (Path(path), Path(f"{path}.data")) if file.is_file()]
        if Path(path) not in files:
            raise DataError(f"There is no model file {path}: give the path of an ONNX file.")
        who = f"The model {Path(path).name}"
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.log_severity_level = 4  # what goes wrong is raised
        try:
            self._session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        except Exception as error:
            raise DataError(f"{who} can't be run ({_first_line(error)}): export it again.") from error
        entry, *others = self._session.get_inputs()
        if others or (entry.shape and len(entry.shape) != 4):
            raise DataError(f"{who} takes more than pictures, or not n of them: export it with one input of four dimensions.")
        if entry.type != types[dtype]:
            raise DataError(f"{who} takes {entry.type}, not {dtype}: set `dtype` to what it takes.")
        declared = {axis: n for axis, n in zip(layout, entry.shape, strict=False) if isinstance(n, int) and n > 0}
        if declared.get("c", 3) != 3:
            raise DataError(f"{who} takes {declared['c']} colour channels in the layout {layout}: set `layout` to the other one.")
        self._height, self._width = declared.get("h"), declared.get("w")
        self.size = self._height if self._height == self._width else None
        self._input, self._fixed, self._dtype, self._layout = entry.name, "n" in declared, dtype, layout
        self._mean, self._deviation = (np.array(v, np.float32).reshape(-1, 1, 1) for v in (mean, deviation))
        outputs = self._session.get_outputs()
        self._output = next((o.name for o in outputs if len(o.shape or ()) > 1 and o.shape[-1] == classes), outputs[0].name)
        content = " ".join(hashlib.sha256(file.read_bytes()).hexdigest() for file in files)
        grey = [v.ravel().tolist() for v in (self._mean, self._deviation)]
        identity = f"onnx {content} {classes} {grey} {layout} {dtype} {'logits' if logits else 'scores'}"
        super().__init__(who, identity, classes, declared.get("n", batch), logits)

    def _answer(self, pictures: NDArray[np.uint8]) -> Any:
        height, width = pictures.shape[2:]
        if (wanted := (self._height or height, self._width or width)) != (height, width):
            size = f"{wanted[0]} x {wanted[1]} pixels (height x width), not {height} x {width}"
            raise DataError(f"{self._who} takes pictures of {size}: resize them.")
        missing = self.batch - len(pictures) if self._fixed else 0
        entry: NDArray[Any] = np.pad(pictures, [(0, missing), (0, 0), (0, 0), (0, 0)], mode="edge")
        if self._dtype != "uint8":
            entry = ((entry - self._mean) / self._deviation).astype(self._dtype)
        entry = np.ascontiguousarray(entry.transpose(0, 2, 3, 1)) if self._layout == "nhwc" else entry
        try:
            (answer,) = self._session.run([self._output], {self._input: entry})
        except Exception as error:
            why = _first_line(error)
            raise DataError(f"{self._who} fails on pictures of {height} x {width} pixels ({why}): try another size.") from error
        return answer[:-missing] if missing else answer


class CallableClassifier(BlackBox):
    """A Python function: uint8 pictures n x H x W x 3, a copy, to whatever `as_scores` takes; what it raises is passed on."""

    def __init__(
        self, function: Callable[[NDArray[np.uint8]], Any], classes: int = 2, *, identity: str, batch: int = 256,
        logits: bool = False,
    ) -> None:  # fmt: skip
        super().__init__(f"The function {getattr(function, '__name__', identity)}", identity, classes, batch, logits)
        self._function = function

    def _answer(self, pictures: NDArray[np.uint8]) -> Any:
        return self._function(pictures.transpose(0, 2, 3, 1).copy())


class HttpClassifier(BlackBox):
    """A web service, asked by POST with `batch` pictures a request, as PNG so that each picture arrives exactly.

    `send` 'json': the body is {`field`: [base64, …]}; 'multipart': one part named `field` a picture. `answer` says where in the
    JSON reply the answers are: keys joined by dots, `[]` for each of a list ("faces[].gender.label"; "" is the reply itself).
    There stand rows of numbers or one number a picture; with `names`, the classes in order, also words (the label) or objects
    {name: probability}. A request of one picture may be answered without the list.
    `key_variable` names the environment variable of the API key, sent as `Authorization: Bearer …` and kept nowhere.
    Time-outs (of `timeout` seconds), broken connections, 429 and 5xx are retried `retries` times, at growing intervals.
    The URL's user and query are sent, never shown; `identity` tells different queries apart by a short digest.
    """

    def __init__(
        self, url: str, classes: int = 2, *, send: str = "json", field: str = "images", answer: str = "scores",
        names: Sequence[str] = (), key_variable: str = "", batch: int = 8, parallel: int = 4, timeout: float = 30.0,
        retries: int = 5, logits: bool = False,
    ) -> None:  # fmt: skip
        parts = urlsplit(url)
        host = parts.netloc.rpartition("@")[2]
        address = f"{parts.scheme}://{host}{parts.path}"
        if parts.scheme not in ("http", "https") or not host:
            raise DataError(f"{address} is not the address of a web service: give one that begins with http:// or https://.")
        if send not in ("json", "multipart") or parallel < 1 or retries < 0 or timeout <= 0:
            raise DataError("Set `send` to 'json' or 'multipart', `parallel` to 1 at least, `retries` to 0, `timeout` above 0.")
        if names and len(names) != classes:
            raise DataError(f"`names` has {len(names)} names for {classes} classes: give one for each class, in their order.")
        query = hashlib.sha256(parts.query.encode()).hexdigest()[:8] if parts.query else "-"
        how = f"{send} {field} {answer} {list(names)} {'logits' if logits else 'scores'}"
        super().__init__(f"The service {address}", f"{address} {query} {classes} {how}", classes, batch, logits)
        self._url, self._send, self._field, self._path = url, send, field, answer
        self._secrets = (parts.username, parts.password, parts.query, *(value for _, value in parse_qsl(parts.query)))
        self._names = [name.casefold() for name in names]
        self._key_variable, self._parallel, self._timeout, self._retries = key_variable, parallel, timeout, retries
        self._session = requests.Session()
        self._session.mount(f"{parts.scheme}://", HTTPAdapter(pool_maxsize=parallel))

    def stream(self, images: Pictures) -> Iterator[tuple[slice, Tensor]]:
        """As `BlackBox.stream`, out of order. After a failure nothing new is sent; what is under way is yielded first."""
        stop, failure = Event(), None

        def ask(rows: slice) -> Tensor | None:
            try:
                return None if stop.is_set() else self._checked(images[rows])
            except BaseException:
                stop.set()  # here, before this thread can take the next request
                raise

        with ThreadPoolExecutor(self._parallel) as pool:
            asked = {pool.submit(ask, rows): rows for rows in self._slices(images)}
            try:
                for future in as_completed(asked):
                    if error := future.exception():
                        failure = failure or error
                    elif (part := future.result()) is not None:
                        yield asked[future], part
            finally:
                stop.set()
        if failure:
            raise failure

    def _answer(self, pictures: NDArray[np.uint8]) -> Any:
        if self._key_variable and not (self._key().isascii() and self._key().isprintable() and self._key()):
            raise DataError(f"The environment variable {self._key_variable} holds no API key: set it to the key of the service.")
        reply = self._post([_png(picture) for picture in pictures])
        found = self._found(reply, re.findall(r"\[\]|[^.\[\]]+", self._path))
        alone = not isinstance(found, list) or (len(found) == self.classes and isinstance(found[0], float | int))
        found = [found] if len(pictures) == 1 and alone else found
        return [self._by_name(value) for value in found] if self._names and isinstance(found, list) else found

    def _key(self) -> str:
        return os.environ.get(self._key_variable, "").strip()

    def _excerpt(self, text: str) -> str:
        """The beginning of what the service said, without the secrets: services like to quote what they were sent."""
        for secret in filter(None, (self._key(), *self._secrets)):
            text = text.replace(secret, "…")
        return " ".join(text.split())[:200]

    def _sign(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        request.headers["Authorization"] = f"Bearer {self._key()}"
        return request

    def _post(self, pngs: list[bytes]) -> Any:
        body: dict[str, Any] = {"json": {self._field: [base64.b64encode(png).decode() for png in pngs]}}
        if self._send == "multipart":
            body = {"files": [(self._field, (f"{i}.png", png, "image/png")) for i, png in enumerate(pngs)]}
        # No redirects: a POST would become a GET, and the key is for this host.
        sent = dict(body, auth=self._sign if self._key_variable else None, timeout=self._timeout, allow_redirects=False)
        # Not mounted on the session: there it would miss replies that break off in their body.
        retry = Retry(self._retries, backoff_factor=BACKOFF, backoff_max=LONGEST_WAIT, retry_after_max=LONGEST_WAIT)
        while True:
            raw = None
            try:
                reply = self._session.post(self._url, **sent)
                raw = reply.raw
                said = f"{reply.status_code} ('{self._excerpt(reply.text)}')"
                if reply.status_code < 300:
                    return reply.json()
                if reply.status_code in (401, 403):
                    variable = f"the variable {self._key_variable}" if self._key_variable else "`key_variable`"
                    raise DataError(f"{self._who} refuses with {said}: give the right API key in {variable}.")
                if reply.status_code not in (429, 500, 502, 503, 504):
                    raise DataError(f"{self._who} answers {said}: check its URL, `send` and `field`.")
            except requests.JSONDecodeError:
                raise DataError(f"{self._who} answers with something that is not JSON, {said}: check its URL.") from None
            except requests.Timeout:
                said = f"nothing within {self._timeout:g} s"
            except (requests.ConnectionError, requests.exceptions.ChunkedEncodingError) as error:
                said = f"nothing: the connection failed ({type(error).__name__})"
            except requests.RequestException as error:
                raise DataError(f"{self._who} can't be asked ({type(error).__name__}): check its URL.") from None
            try:
                retry = retry.increment(response=raw)
            except MaxRetryError:
                raise DataError(f"{self._who} answers {said}, after {self._retries} retries too: nothing paid for is lost, run it"
                                " again later and it goes on from there.") from None  # fmt: skip
            try:
                retry.sleep(raw)
            except InvalidHeader:  # such as 'Retry-After: 1.5'
                retry.sleep()

    def _found(self, value: Any, steps: list[str]) -> Any:
        if not steps:
            return value
        if steps[0] == "[]" and isinstance(value, list):
            return [self._found(item, steps[1:]) for item in value]
        if isinstance(value, dict) and steps[0] in value:
            return self._found(value[steps[0]], steps[1:])
        what = f"the keys {self._excerpt(', '.join(value))}" if isinstance(value, dict) else f"a {type(value).__name__}"
        raise DataError(f"{self._who} answers with {what} where '{steps[0]}' of '{self._path}' should be: set `answer` to fit.")

    def _by_name(self, value: Any) -> Any:
        """A word -> its class; an object {name: number} -> its numbers in the order of the classes; numbers stay."""
        if isinstance(value, str):
            if value.casefold() in self._names:
                return self._names.index(value.casefold())
        elif isinstance(value, dict):
            given = {name.casefold(): v for name, v in value.items()}
            if set(self._names) <= set(given):
                return [given[name] for name in self._names]
        else:
            return value
        what = self._excerpt(value if isinstance(value, str) else ", ".join(value))
        raise DataError(f"{self._who} answers with '{what}' where names were expected: set `names` to the names it uses.")


def _png(picture: NDArray[np.uint8]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(picture.transpose(1, 2, 0).copy()).save(buffer, "PNG")
    return buffer.getvalue()


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0][:200].rstrip(".")


def load_classifier(model: str, classes: int = 2, **options: Any) -> BlackBox:
    """What `model` names: an ONNX file '….onnx', a web service 'http(s)://…', or a Python function 'module:function'.

    `options` are those of `OnnxClassifier`, `HttpClassifier` or `CallableClassifier`. A module is looked for in the current
    folder too; unless given, the `identity` of its function changes with the module's source. Raises `DataError` for anything
    that can't be read, imported or understood.
    """
    kind: Callable[..., BlackBox] = HttpClassifier if model.startswith(("http://", "https://")) else OnnxClassifier
    what: Any = model
    if kind is OnnxClassifier and not model.endswith(".onnx"):
        if ":" not in model:
            raise DataError(f"'{model}' names no classifier: give a file .onnx, an address http(s)://… or module:function.")
        kind, (what, source) = CallableClassifier, _imported(model)
        options = {"identity": f"{model} {source} {classes} {options.get('logits', False)}", **options}
    known = [p.name for p in inspect.signature(kind).parameters.values() if p.kind is p.KEYWORD_ONLY]
    if unknown := sorted(set(options) - set(known)):
        raise DataError(f"{kind.__name__} has no option '{unknown[0]}': its options are {', '.join(known)}.")
    return kind(what, classes, **options)


def _imported(name: str) -> tuple[Callable[..., Any], str]:
    """The function 'module:function' and a digest of its module's source."""
    module_name, _, function_name = name.partition(":")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        module = importlib.import_module(module_name)
    except Exception as error:
        raise DataError(f"'{module_name}' can't be imported ({type(error).__name__}: {_first_line(error)}): mend it.") from error
    if not callable(function := getattr(module, function_name, None)):
        raise DataError(f"The module '{module_name}' has no function '{function_name}': write module:function.")
    return function, hashlib.sha256(Path(module.__file__).read_bytes() if module.__file__ else b"").hexdigest()
