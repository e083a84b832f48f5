"""Storage behind a proxy that fails on purpose, in front of the real S3 server."""

from __future__ import annotations

import http.client
import http.server
import io
import os
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from typing import Literal
from urllib.parse import urlsplit

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rtl import shards, storage
from rtl.errors import DataError, StorageError

Fault = Literal["503", "429", "500", "409", "reset", "cut", "lost answer"]
FOR_EVER = 10**6


class Proxy(http.server.ThreadingHTTPServer):
    """Passes requests on, signatures and all, but for the next `times` of one method."""

    daemon_threads = True

    def __init__(self, upstream: str) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.upstream = urlsplit(upstream).netloc
        self.seen: list[str] = []
        """Methods of the requests so far."""
        self._lock = threading.Lock()
        self._fault: Fault = "503"
        self._methods: tuple[str, ...] = ()
        self._times = 0

    def fail(self, fault: Fault, times: int, *methods: str) -> None:
        """The next `times` requests by one of `methods` meet with `fault`."""
        self._fault, self._times, self._methods = fault, times, methods

    def next_fault(self, method: str) -> Fault | None:
        with self._lock:
            self.seen.append(method)
            if self._times == 0 or method not in self._methods:
                return None
            self._times -= 1
            return self._fault

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that hangs up is part of the game."""


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Proxy

    def _pass_on(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        fault = self.server.next_fault(self.command)
        if fault == "reset":
            return self._hang_up()
        if fault in ("503", "429", "500", "409"):
            code = b"<Error><Code>Injected</Code><Message>Please slow down</Message></Error>"
            return self._answer(int(fault), [("Content-Type", "application/xml")], code)
        status, headers, data = self._ask(body)
        if fault == "lost answer":
            return self._hang_up()
        return self._answer(status, headers, data, cut=fault == "cut")

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _pass_on  # noqa: N815 -- http.server's names

    def _ask(self, body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
        connection = http.client.HTTPConnection(self.server.upstream, timeout=30)
        # The Host header is signed: it goes on as the client sent it.
        connection.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
        for name, value in self.headers.items():
            if name.lower() not in ("expect", "connection"):
                connection.putheader(name, value)
        connection.endheaders(body)
        answer = connection.getresponse()
        data = answer.read()
        connection.close()
        return answer.status, answer.getheaders(), data

    def _answer(
        self, status: int, headers: list[tuple[str, str]], data: bytes, cut: bool = False
    ) -> None:
        self.send_response_only(status)
        for name, value in headers:
            if name.lower() not in ("content-length", "transfer-encoding", "connection"):
                self.send_header(name, value)
        length = dict(headers).get("Content-Length") if self.command == "HEAD" else str(len(data))
        self.send_header("Content-Length", length or "0")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data[: len(data) // 2] if cut else data)
        self.close_connection = self.close_connection or cut

    def _hang_up(self) -> None:
        # Lingering for 0 seconds makes the close a reset.
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()
        self.close_connection = True

    def log_message(self, *_: object) -> None:
        """Says nothing."""


@pytest.fixture
def proxy(s3: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    """Storage's way to the S3 server leads through this; its waits are short."""
    server = Proxy(os.environ["AWS_ENDPOINT_URL"])
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setattr(storage, "_BASE_DELAY_S", 0.001)
    _forget_clients()
    yield server
    _forget_clients()
    server.shutdown()
    thread.join()
    server.server_close()


def _forget_clients() -> None:
    storage._s3.cache_clear()
    storage._bucket_fs.cache_clear()
