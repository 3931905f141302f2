"""A web server on the loopback address that serves files with ranges and versions, and fails as planned."""

import contextlib
import hashlib
import re
import socket
import threading
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler
from typing import Any, NamedTuple, cast

from loopback import Loopback

PAGE = b"<html>Quota exceeded</html>"


class Asked(NamedTuple):
    """A request: the file's name, and its headers Range, If-Range and Accept-Encoding, each empty where it has none."""

    name: str
    range: str
    if_range: str
    encoding: str


class FileServer(Loopback):
    """`with FileServer(files) as server:` serves `server.url`/NAME until the end of the block, in threads of this process.

    Each request takes one of `faults`: '' answers, a status such as '404' fails, 'stall' stops in the middle of the answer, 'cut'
    hangs up there, 'end' does so without having said how long the answer is, 'flip' sends a wrong byte, 'page' sends a web page,
    'shift' a range that begins elsewhere.
    """

    def __init__(self, files: dict[str, bytes] | None = None, faults: list[str] | None = None) -> None:
        super().__init__(_Handler, faults)
        self.files = files or {}
        self.ranges = True
        """Whether a range is heeded."""
        self.version = "ETag"
        """The header that tells the version: 'ETag', 'weak' (an ETag that isn't strong, and a date), 'Last-Modified' or ''."""
        self.asked: list[Asked] = []
        self.sent = 0
        """Bytes of files sent off, in all."""
        self.stalling = threading.Event()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def handle(self) -> None:
        with contextlib.suppress(ConnectionError):  # a client that was killed, or had enough of waiting
            super().handle()

    def do_GET(self) -> None:
        server = cast(FileServer, self.server)
        name = self.path.removeprefix("/")
        server.asked.append(Asked(name, *(self.headers.get(header, "") for header in ("Range", "If-Range", "Accept-Encoding"))))
        fault = server.faults.pop(0) if server.faults else ""
        if fault.isdigit() or name not in server.files:
            self._head(int(fault or 404), {"Content-Length": "0"})
        elif fault == "page":
            self._head(200, {"Content-Length": str(len(PAGE)), "Content-Type": "text/html; charset=utf-8"})
            self.wfile.write(PAGE)
        else:
            self._send(server, server.files[name], fault)

    def _send(self, server: FileServer, body: bytes, fault: str) -> None:
        tag, date = f'"{hashlib.md5(body).hexdigest()}"', formatdate(sum(body[:1000]), usegmt=True)
        versions = {
            "ETag": {"ETag": tag},
            "weak": {"ETag": "W/" + tag, "Last-Modified": date},
            "Last-Modified": {"Last-Modified": date},
        }
        headers = versions.get(server.version, {})
        asked, status = server.asked[-1], 200
        same = asked.if_range in ("", date, *([tag] if server.version == "ETag" else []))
        if (match := re.fullmatch(r"bytes=(\d+)-", asked.range)) and server.ranges and same:
            start = int(match[1])
            if start >= len(body):
                return self._head(416, {"Content-Length": "0", "Content-Range": f"bytes */{len(body)}"})
            start //= 1 + (fault == "shift")
            status, headers = 206, headers | {"Content-Range": f"bytes {start}-{len(body) - 1}/{len(body)}"}
            body = body[start:]
        if fault == "flip":
            body = bytes([body[0] ^ 1]) + body[1:]
        self._head(status, headers | ({"Connection": "close"} if fault == "end" else {"Content-Length": str(len(body))}))
        part = body[: len(body) // 2] if fault in ("stall", "cut", "end") else body
        self.wfile.write(part)
        server.sent += len(part)
        if fault == "stall":
            server.stalling.set()
            server.over.wait(30)
        if len(part) < len(body):
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)

    def _head(self, status: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        pass
