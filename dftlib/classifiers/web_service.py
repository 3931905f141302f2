"""A classifier behind an address, asked over HTTP."""

import base64
import hashlib
import io
import os
import re
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextvars import ContextVar
from itertools import islice
from threading import Event
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from dftlib.classifiers.answers import Reading, RowsError
from dftlib.classifiers.black_box import BlackBox, optional
from dftlib.errors import DataError
from dftlib.images import Pictures

BACKOFF = 1.0  # seconds; doubled with each retry
LONGEST_WAIT = 60  # seconds between two retries, whatever the service asks for
REFUSED = 8  # pictures without an answer after which, if there was none with one, the fault lies elsewhere
SENDS = ("json", "data-url", "multipart")
STOPPED: ContextVar[Event] = ContextVar("stopped")  # whether the stream is that this thread asks for


class GivenUpError(Exception):
    """The stream has ended while this request waited to be sent again."""


class RefusedError(Exception):
    """The service understands the request and gives no answer to what is in it."""


class HttpClassifier(BlackBox):
    """A web service, asked by POST with `batch` pictures a request, as PNG so that each picture arrives exactly.

    `send` 'json': the body is {`field`: [base64, …]}; 'data-url': the same with data:image/png;base64,… for base64; 'multipart':
    one part named `field` a picture. `answer` says where in the JSON reply the answers are: keys joined by dots, `[]` for each
    of a list, `[0]` for its first ("faces[].gender.label"; "" is the reply itself). There stands what `as_scores` takes;
    `numbers`, `columns` and `names` say how it is read, as in `Reading`. A picture that alone is answered by 400 or 422, or by
    an empty list, is one without an answer; one of several pictures that are answered so, or by another number of rows, is sent
    again alone. Raises `DataError` where the first `REFUSED` pictures are all without an answer.
    `key_variable` names the environment variable of the API key, sent as `Authorization: Bearer …` and kept nowhere.
    Time-outs (of `timeout` seconds), broken connections, 429 and 5xx are retried `retries` times, at growing intervals.
    The URL's user and query are sent, never shown; `identity` tells different queries apart by a short digest.
    """

    def __init__(
        self, url: str, classes: int = 2, *, send: str = "json", field: str = "images", answer: str = "scores",
        key_variable: str = "", batch: int = 8, parallel: int = 4, timeout: float = 30.0, retries: int = 5,
        numbers: str = "probabilities", columns: Sequence[int] = (), names: Sequence[Any] = (),
    ) -> None:  # fmt: skip
        try:
            parts = urlsplit(url)
        except ValueError:  # whose words may quote a password
            shown = re.sub("//.*@", "//", url.partition("?")[0])
            raise DataError(f"{shown} is not the address of a web service: mend it.") from None
        host = parts.netloc.rpartition("@")[2]
        address = f"{parts.scheme}://{host}{parts.path}"
        if parts.scheme not in ("http", "https") or not host:
            raise DataError(f"{address} is not the address of a web service: give one that begins with http:// or https://.")
        if send not in SENDS or parallel < 1 or retries < 0 or timeout <= 0:
            ways = ", ".join(SENDS)
            raise DataError(f"Set `send` to one of {ways}, `parallel` to 1 at least, `retries` to 0, `timeout` above 0.")
        reading = Reading(classes, numbers, columns, names)
        query = hashlib.sha256(parts.query.encode()).hexdigest()[:8] if parts.query else "-"
        how = f"{send} {field} {answer} {reading.text}"
        super().__init__(f"The service {address}", f"{address} {query} {classes} {how}", reading, batch)
        self._url, self._send, self._field, self._path = url, send, field, answer
        self._secrets = (parts.username, parts.password, parts.query, *(value for _, value in parse_qsl(parts.query)))
        self._answered, self._refused = False, 0
        self._key_variable, self._parallel, self._timeout, self._retries = key_variable, parallel, timeout, retries
        requests = optional("requests")
        self._session = requests.Session()
        self._session.mount(f"{parts.scheme}://", requests.adapters.HTTPAdapter(pool_maxsize=parallel))

    def stream(self, images: Pictures) -> Iterator[tuple[slice, Tensor]]:
        """As `BlackBox.stream`, out of order. After a failure nothing is sent, new or again; what is under way comes first."""
        stop, failure = Event(), None

        def ask(rows: slice) -> Tensor | None:
            STOPPED.set(stop)
            try:
                return None if stop.is_set() else self._checked(images[rows])
            except GivenUpError:
                return None
            except BaseException:
                stop.set()  # here, before this thread can take the next request
                raise

        with ThreadPoolExecutor(self._parallel) as pool:
            todo = iter(self._slices(images))
            asked = {pool.submit(ask, rows): rows for rows in islice(todo, self._parallel)}
            try:
                while asked:
                    future = next(as_completed(asked))
                    rows = asked.pop(future)
                    if error := future.exception():
                        failure = failure or error
                    elif (part := future.result()) is not None:
                        yield rows, part
                    # Only now: whoever is killed has paid for no more answers than these that he didn't keep.
                    asked |= {pool.submit(ask, rows): rows for rows in islice(todo, 1)}
            finally:
                stop.set()
        if failure:
            raise failure

    def _checked(self, images: Pictures) -> Tensor:
        try:
            scores = super()._checked(images)
        except (RefusedError, RowsError) as error:
            if len(images) > 1:
                return torch.cat([self._checked(images[i : i + 1]) for i in range(len(images))])
            if isinstance(error, RowsError):
                what = str(error).rpartition(": ")[0]
                raise DataError(f"{what}: name the first of several in `answer`, as in 'faces[0].gender'.") from None
            scores = torch.full((1, self.classes), torch.nan)
        refused = scores.isnan().any(1)
        self._answered, self._refused = self._answered or not refused.all(), self._refused + int(refused.sum())
        if self._refused >= REFUSED and not self._answered:
            said = self.refusal or "an empty list"
            raise DataError(f"{self._who} answers {said} to every picture: check its URL, `send`, `field` and `answer`.")
        return scores

    def _answer(self, pictures: NDArray[np.uint8]) -> Any:
        if self._key_variable and not (self._key().isascii() and self._key().isprintable() and self._key()):
            raise DataError(f"There is no API key in {self._variable}: set it to the key of the service.")
        reply = self._post([_png(picture) for picture in pictures])
        found = self._found(reply, re.findall(r"\[\d*\]|[^.\[\]]+", self._path))
        return [found] if len(pictures) == 1 and not isinstance(found, list) else found

    @property
    def _variable(self) -> str:
        """The variable of the key, by its name, unless that might be a key given in its place."""
        name = self._key_variable
        known = re.fullmatch(r"[A-Z_][A-Z0-9_]*", name)
        return f"the environment variable {name}" if known else "an environment variable and name that in `key_variable`"

    def _key(self) -> str:
        return os.environ.get(self._key_variable, "").strip()

    def _excerpt(self, text: str) -> str:
        """The beginning of what the service said, without the secrets: services like to quote what they were sent."""
        for secret in filter(None, (self._key(), *self._secrets)):
            text = text.replace(secret, "…")
        return " ".join(text.split())[:200]

    def _sign(self, request: Any) -> Any:
        request.headers["Authorization"] = f"Bearer {self._key()}"
        return request

    def _post(self, pngs: list[bytes]) -> Any:
        requests, urllib3 = optional("requests"), optional("urllib3")
        before = "data:image/png;base64," if self._send == "data-url" else ""
        body: dict[str, Any] = {"json": {self._field: [before + base64.b64encode(png).decode() for png in pngs]}}
        if self._send == "multipart":
            body = {"files": [(self._field, (f"{i}.png", png, "image/png")) for i, png in enumerate(pngs)]}
        # No redirects: a POST would become a GET, and the key is for this host.
        sent = dict(body, auth=self._sign if self._key_variable else None, timeout=self._timeout, allow_redirects=False)
        # Not mounted on the session: there it would miss replies that break off in their body.
        retry = urllib3.Retry(self._retries, backoff_factor=BACKOFF, backoff_max=LONGEST_WAIT, retry_after_max=LONGEST_WAIT)
        while True:
            raw = None
            try:
                reply = self._session.post(self._url, **sent)
                raw = reply.raw
                said = f"{reply.status_code} ('{self._excerpt(reply.text)}')"
                if reply.status_code < 300:
                    return reply.json()
                if reply.status_code in (401, 403):
                    raise DataError(f"{self._who} refuses with {said}: put the right API key into {self._variable}.")
                if reply.status_code in (400, 422):
                    self.refusal = said
                    raise RefusedError
                if reply.status_code not in (429, 500, 502, 503, 504):
                    raise DataError(f"{self._who} answers {said}: check its URL, `send` and `field`.")
            except requests.JSONDecodeError:
                raise DataError(f"{self._who} answers with something that is not JSON, {said}: check its URL.") from None
            except requests.Timeout:
                said = f"nothing within {self._timeout:g} s"
            except (requests.ConnectionError, requests.exceptions.ChunkedEncodingError) as error:
                reason = getattr(error.args[0] if error.args else None, "reason", None)
                if isinstance(reason, urllib3.exceptions.NameResolutionError) and not self._answered:
                    raise DataError(f"{self._who} isn't found, as no host has this name: check URL and network.") from None
                said = f"nothing: the connection failed ({type(error).__name__})"
            except requests.RequestException as error:
                raise DataError(f"{self._who} can't be asked ({type(error).__name__}): check its URL.") from None
            try:
                retry = retry.increment(response=raw)
            except urllib3.exceptions.MaxRetryError:
                raise DataError(f"{self._who} answers {said}, after {self._retries} retries too: nothing paid for is lost, run it"
                                " again later and it goes on from there.") from None  # fmt: skip
            try:
                wanted = retry.get_retry_after(raw) if raw else None
            except urllib3.exceptions.InvalidHeader:  # such as 'Retry-After: 1.5'
                wanted = None
            if STOPPED.get(Event()).wait(wanted or retry.get_backoff_time()):
                raise GivenUpError

    def _found(self, value: Any, steps: list[str]) -> Any:
        if not steps:
            return value
        if steps[0] == "[]" and isinstance(value, list):
            return [self._found(item, steps[1:]) for item in value]
        if steps[0][:1] == "[" and steps[0] != "[]" and isinstance(value, list):
            return self._found(value[place], steps[1:]) if (place := int(steps[0][1:-1])) < len(value) else None
        if isinstance(value, dict) and steps[0] in value:
            return self._found(value[steps[0]], steps[1:])
        what = f"the keys {self._excerpt(', '.join(value))}" if isinstance(value, dict) else f"a {type(value).__name__}"
        raise DataError(f"{self._who} answers with {what} where '{steps[0]}' of '{self._path}' should be: set `answer` to fit.")


def _png(picture: NDArray[np.uint8]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(picture.transpose(1, 2, 0).copy()).save(buffer, "PNG")
    return buffer.getvalue()
