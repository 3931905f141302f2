"""A web service on the loopback address that classifies pictures, and fails, stalls and limits its rate as planned."""

import base64
import contextlib
import hashlib
import io
import json
import socket
import threading
from collections.abc import Callable
from email.message import Message
from http.server import BaseHTTPRequestHandler
from typing import Any, cast

import numpy as np
from loopback import Loopback
from numpy.typing import NDArray
from PIL import Image

Answer = Callable[[NDArray[np.uint8]], Any]


class StatusError(Exception):
    """What `answer` raises to make the reply a status with these words."""

    def __init__(self, status: int, words: str) -> None:
        super().__init__(words)
        self.status = status


class WebService(Loopback):
    """`with WebService(answer) as service:` serves at `service.url` until the end of the block, in threads of this process.

    Takes {"images": [base64, …]} or multipart parts named `images`, pictures of one size, and replies `reply(rows)`, where rows
    is `answer` of the pictures, uint8 n x H x W x 3, as a list. Each request takes one of `faults`: '' answers, a status such as
    '429' fails, 'stall' waits, 'close' hangs up at once, 'half' in the middle of the reply, 'garbage' replies what is no JSON.
    """

    def __init__(
        self,
        answer: Answer,
        faults: list[str] | None = None,
        reply: Callable[[list[Any]], Any] = lambda rows: {"scores": rows},
        key: str = "",
        delay: float = 0.0,
    ) -> None:
        super().__init__(_Handler, faults)
        self.answer = answer
        self.reply = reply
        self.key = key
        """The API key that every request must bring."""
        self.delay = delay
        """Seconds that every request takes."""
        self.headers: dict[str, str] = {}
        """Headers of the replies with a status as fault."""
        self.begins = ""
        """How every text that stands for a picture must begin."""
        self.received: list[str] = []
        """SHA-256 of the H x W x 3 bytes of every picture answered (sent off, that is: the client may be gone by then)."""
        self.requests = 0
        self.under_way = 0
        self.busiest = 0
        """The most requests under way at a time."""
        self.lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"{super().url}/classify"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"  # keeps connections, as real services do

    def do_POST(self) -> None:
        service = cast(WebService, self.server)
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if service.over.is_set():  # over a connection kept from before
            return self._hang_up()
        with service.lock:
            service.requests += 1
            service.under_way += 1
            service.busiest = max(service.busiest, service.under_way)
            fault = service.faults.pop(0) if service.faults else ""
        try:
            service.over.wait(service.delay)
            with contextlib.suppress(ConnectionError):  # a client that had enough of waiting
                self._serve(service, fault, body)
        finally:
            with service.lock:
                service.under_way -= 1

    def _serve(self, service: WebService, fault: str, body: bytes) -> None:
        sent = self.headers.get("Authorization", "")
        if fault == "stall":
            service.over.wait(30)
        if fault in ("stall", "close") or service.over.is_set():
            self._hang_up()
        elif fault.isdigit():
            self._send(int(fault), f"planned, for {self.path} {sent}".encode(), service.headers)
        elif fault == "garbage":
            self._send(200, f"<html>not JSON, for {self.path} {sent}</html>".encode())
        elif service.key and sent != f"Bearer {service.key}":
            self._send(401, f"wrong key: {sent}".encode())
        else:
            pictures = _pictures(self.headers, body, service.begins)
            try:
                rows = service.answer(pictures)
            except StatusError as error:
                return self._send(error.status, str(error).encode())
            reply = json.dumps(service.reply(rows if isinstance(rows, list) else np.asarray(rows).tolist())).encode()
            if fault == "half":
                self._send(200, reply[: len(reply) // 2], {"Content-Length": str(len(reply))})
                return self._hang_up()
            with service.lock:
                service.received += [hashlib.sha256(picture.tobytes()).hexdigest() for picture in pictures]
            self._send(200, reply)

    def _send(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def _hang_up(self) -> None:
        self.close_connection = True
        self.connection.shutdown(socket.SHUT_RDWR)

    def log_message(self, format: str, *args: Any) -> None:
        pass


def _pictures(headers: Message, body: bytes, begins: str) -> NDArray[np.uint8]:
    if headers.get_content_type() == "application/json":
        texts = json.loads(body)["images"]
        assert all(text.startswith(begins) for text in texts)
        files = [base64.b64decode(text[len(begins) :], validate=True) for text in texts]
    else:
        parts = body.split(b"--" + str(headers.get_param("boundary")).encode())[1:-1]
        heads, files = zip(*(part.removesuffix(b"\r\n").split(b"\r\n\r\n", 1) for part in parts), strict=True)  # type: ignore[assignment]
        assert all(b'name="images"' in head and b"image/png" in head for head in heads)
    opened = [Image.open(io.BytesIO(file)) for file in files]
    assert all(picture.format == "PNG" and picture.mode == "RGB" for picture in opened)
    return np.stack([np.asarray(picture) for picture in opened])
