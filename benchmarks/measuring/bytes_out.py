"""Counts the bytes that an S3 server hands out: a proxy before it, in threads of this process."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from collections.abc import Iterator
from urllib.parse import urlsplit

_CHUNK = 1 << 18


class BytesOut:
    """Bytes from the server to its clients so far, headers included."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._bytes = 0

    def add(self, count: int) -> None:
        """Counts bytes that were handed out."""
        with self._lock:
            self._bytes += count

    def take(self) -> int:
        """The bytes since the last call."""
        with self._lock:
            found, self._bytes = self._bytes, 0
        return found


@contextlib.contextmanager
def counted() -> Iterator[BytesOut]:
    """Puts a counter before the server at AWS_ENDPOINT_URL, in the environment, for the block."""
    behind = os.environ["AWS_ENDPOINT_URL"]
    target = urlsplit(behind)
    found = BytesOut()
    with socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(
            target=_accept, args=(server, (target.hostname, target.port), found), daemon=True
        ).start()
        os.environ["AWS_ENDPOINT_URL"] = f"http://127.0.0.1:{server.getsockname()[1]}"
        try:
            yield found
        finally:
            os.environ["AWS_ENDPOINT_URL"] = behind


def _accept(server: socket.socket, target: tuple[str | None, int | None], found: BytesOut) -> None:
    with contextlib.suppress(OSError):  # the server is closed
        while True:
            client, _ = server.accept()
            upstream = socket.create_connection((str(target[0]), int(target[1] or 80)))
            for source, sink, counter in ((client, upstream, None), (upstream, client, found)):
                threading.Thread(target=_copy, args=(source, sink, counter), daemon=True).start()


def _copy(source: socket.socket, sink: socket.socket, counter: BytesOut | None) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(_CHUNK):
            sink.sendall(data)
            if counter is not None:
                counter.add(len(data))
    with contextlib.suppress(OSError):
        sink.shutdown(socket.SHUT_WR)
