"""Storage behind a proxy that fails on purpose, in front of the real S3 server."""

from __future__ import annotations

import http.client
import http.server
import os
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from typing import Literal
from urllib.parse import urlsplit

import pytest

from rtl import storage
from rtl.data import shards
from rtl.errors import DataError, StorageError
from rtl.runs import run
from rtl.storage import retry
from rtl.storage.retry import RetryPolicy

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


QUICK = RetryPolicy(base_delay_s=0.001)
TWICE = RetryPolicy(base_delay_s=0.001, attempts=2)


@pytest.fixture
def proxy(s3: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    """Storage's way to the S3 server leads through this; its waits are short."""
    server = Proxy(os.environ["AWS_ENDPOINT_URL"])
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.server_port}")
    with retry.policy(QUICK):
        yield server
    server.shutdown()
    thread.join()
    server.server_close()


DATA = os.urandom(50_000)


def _read(uri: str) -> None:
    assert storage.read_bytes(uri) == DATA


def _read_range(uri: str) -> None:
    assert storage.read_range(uri, 7, 9) == DATA[7:16]


def _exists(uri: str) -> None:
    assert storage.exists(uri)


def _list(uri: str) -> None:
    folder, _, name = uri.rpartition("/")
    assert [(entry.path, entry.size) for entry in storage.list_files(folder)] == [(name, 50_000)]


def _write(uri: str) -> None:
    storage.write_bytes(uri, b"new")
    assert storage.read_bytes(uri) == b"new"


def _create(uri: str) -> None:
    assert storage.create(uri + ".lock", b"mine")
    assert storage.read_bytes(uri + ".lock") == b"mine"


def _delete(uri: str) -> None:
    storage.delete(uri)
    assert not storage.exists(uri)


ACTIONS = {
    _read: ("HEAD", "GET"),
    _read_range: ("GET",),
    _exists: ("HEAD",),
    _list: ("GET",),
    _write: ("PUT",),
    _create: ("PUT",),
    _delete: ("DELETE",),
}


@pytest.mark.parametrize("fault", ["503", "429", "500", "reset", "lost answer"])
@pytest.mark.parametrize("act", ACTIONS)
def test_a_passing_fault_is_tried_again(
    proxy: Proxy, s3: str, act: Callable[[str], None], fault: Fault
) -> None:
    uri = storage.join(s3, "x")
    storage.write_bytes(uri, DATA)
    for method in ACTIONS[act]:
        before = proxy.seen.count(method)
        proxy.fail(fault, 2, method)
        act(uri)
        assert proxy.seen.count(method) >= before + 3


PERSISTING: list[tuple[Callable[[str], None], Fault]] = [
    # No "reset" for these: pyarrow itself tries again for 6 s, in each attempt.
    (_read, "503"),
    (_list, "503"),
    *((act, fault) for act in (_write, _create, _delete) for fault in ("503", "reset")),
    *((_read_range, fault) for fault in ("503", "reset", "cut")),
]


@pytest.mark.parametrize(("act", "fault"), PERSISTING)
def test_a_persisting_fault_is_an_error_that_names_the_object(
    proxy: Proxy, s3: str, act: Callable[[str], None], fault: Fault
) -> None:
    uri = storage.join(s3, "x")
    storage.write_bytes(uri, DATA)
    named = s3 if act is _list else f"{uri}.lock" if act is _create else uri
    proxy.fail(fault, FOR_EVER, *ACTIONS[act][-1:])
    said = rf"^Could not \w+ {named} \(2 attempts\): "
    with retry.policy(TWICE), pytest.raises(StorageError, match=said) as caught:
        act(uri)
    assert os.environ["AWS_SECRET_ACCESS_KEY"] not in str(caught.value)


def test_the_waits_grow_and_are_drawn_at_random(proxy: Proxy, s3: str) -> None:
    longest: list[float] = []

    def draw(ceiling_s: float) -> float:
        longest.append(ceiling_s)
        return 0.0

    proxy.fail("503", FOR_EVER, "PUT")
    policy = retry.policy(RetryPolicy(jitter=draw))
    with policy, pytest.raises(StorageError, match=r"\(6 attempts\)"):
        storage.write_bytes(storage.join(s3, "x"), b"x")
    assert longest == pytest.approx([0.4, 0.8, 1.6, 3.2, 6.4])
    assert proxy.seen == ["PUT"] * 6
    assert RetryPolicy().jitter is retry.full_jitter
    drawn = [retry.full_jitter(2.0) for _ in range(200)]
    assert 0 <= min(drawn) < 0.5 < 1.5 < max(drawn) <= 2


def test_an_action_is_not_begun_again_once_its_patience_is_over(proxy: Proxy, s3: str) -> None:
    proxy.fail("503", FOR_EVER, "PUT")
    policy = retry.policy(RetryPolicy(patience_s=0.0))
    with policy, pytest.raises(StorageError, match=r"\(1 attempts\)"):
        storage.write_bytes(storage.join(s3, "x"), b"x")


def test_a_run_whose_storage_is_gone_ends_after_few_tries_with_what_stands(
    proxy: Proxy, s3: str
) -> None:
    uri = storage.join(s3, "run")
    said = rf"^Could not write {uri}/x .* What the run committed is kept: .* --resume goes on .*\.$"

    def work() -> None:
        with run.open_run(uri):
            proxy.fail("503", FOR_EVER, "PUT", "GET", "HEAD", "DELETE")
            proxy.seen.clear()
            storage.write_bytes(storage.join(uri, "x"), b"x")

    with pytest.raises(StorageError, match=said):
        work()
    assert proxy.seen.count("PUT") == 6 + 3  # the object, and that the run failed


def test_a_write_that_fails_leaves_the_old_object(proxy: Proxy, s3: str) -> None:
    uri = storage.join(s3, "x")
    storage.write_bytes(uri, b"old")
    proxy.fail("reset", FOR_EVER, "PUT")
    with retry.policy(TWICE), pytest.raises(StorageError):
        storage.write_bytes(uri, b"new")
    assert storage.read_bytes(uri) == b"old"


def test_a_creator_whose_answer_was_lost_learns_that_it_won(proxy: Proxy, s3: str) -> None:
    uri = storage.join(s3, "lock")
    proxy.fail("lost answer", 1, "PUT")
    assert storage.create(uri, b"first")
    assert not storage.create(uri, b"second")


def test_a_conflict_at_creation_is_tried_again(proxy: Proxy, s3: str) -> None:
    # S3 answers 409 while another request is under way: it may fail, and then nobody has won.
    proxy.fail("409", 2, "PUT")
    assert storage.create(storage.join(s3, "lock"), b"mine")


def test_a_commit_that_fails_midway_has_no_marker(proxy: Proxy, s3: str) -> None:
    proxy.fail("503", FOR_EVER, "PUT")
    with retry.policy(TWICE), pytest.raises(StorageError, match=f"Could not write {s3}/a"):
        storage.commit(s3, {"a": b"1", "b": b"2"})
    assert not storage.is_committed(s3)
    proxy.fail("503", 3, "PUT")
    storage.commit(s3, {"a": b"1", "b": b"2"})
    assert storage.read_committed(s3) == {"a": b"1", "b": b"2"}


@pytest.mark.parametrize("act", [_read, _read_range, _list])
def test_a_get_that_is_cut_is_fetched_again(
    proxy: Proxy, s3: str, act: Callable[[str], None]
) -> None:
    uri = storage.join(s3, "x")
    storage.write_bytes(uri, DATA)
    proxy.fail("cut", 2, "GET")
    act(uri)
    assert proxy.seen.count("GET") >= 3


def test_a_shard_behind_a_bad_line_comes_whole_or_not_at_all(proxy: Proxy, s3: str) -> None:
    ids = [f"{i}" for i in range(50)]
    data = shards.encode_shard(ids, [DATA[i * 900 :][:900] for i in range(50)], [0] * 50)
    shard = shards.Shard("train/00000.parquet", "train", 50, **storage.describe(data))
    manifest = shards.Manifest(("a",), {"train": (50,)}, (shard,), uri=s3)
    storage.write_bytes(storage.join(s3, shard.path), data)
    proxy.fail("cut", 1, "GET")
    assert shards.read_shard(manifest, shard)["id"].to_pylist() == ids
    proxy.fail("cut", FOR_EVER, "GET")
    refused = pytest.raises((StorageError, DataError), match=r"train/00000\.parquet")
    with retry.policy(RetryPolicy(attempts=1)), refused:
        shards.read_shard(manifest, shard)
