"""A web server on the loopback address that fails as planned."""

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Self


class Loopback(ThreadingHTTPServer):
    """`with Loopback(handler) as server:` serves at `server.url` until the end of the block, in threads of this process."""

    daemon_threads = True

    def __init__(self, handler: type[BaseHTTPRequestHandler], faults: list[str] | None) -> None:
        super().__init__(("127.0.0.1", 0), handler)
        self.faults = faults or []
        self.over = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def __enter__(self) -> Self:
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.over.set()
        self.shutdown()
        self.server_close()
