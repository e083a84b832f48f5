"""Load on an HTTP server, from a process of its own: photos posted at due times, or in turns.

With a `rate` the load is open: requests wait for no answer, and a latency counts from the time at
which its request was due, so that a slow server cannot slow its own test down (what is called
coordinated omission). They come at random, as from many clients (Poisson arrivals), or `evenly`
spaced, as most load generators send them. Without a rate `concurrency` clients each send when the
last answer came.

The generator is one thread of asyncio over raw streams: bodies are read and headers written before
the start, connections are kept alive. `own_cost` measures it against a server that does nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np

TIMEOUT_S = 60.0
UNANSWERED = 0
"""The status of a request whose connection failed or that took longer than `TIMEOUT_S`."""

_ANSWER = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}"


@dataclass(frozen=True)
class Record:
    """One request; times are seconds from the start."""

    due: float
    sent: float
    done: float
    status: int
    retry_after: bool
    """Whether the answer had that header."""


@dataclass(frozen=True)
class Result:
    """What a load found."""

    records: list[Record]
    cpu_share: float
    """Of one core, that the generator itself took."""

    @property
    def statuses(self) -> dict[str, int]:
        """How many answers of each status."""
        return dict(Counter(str(record.status) for record in self.records))

    @property
    def failed(self) -> int:
        """Requests without a 200."""
        return sum(record.status != 200 for record in self.records)

    def latency(self, percent: float) -> float:
        """A percentile of the seconds of the 200s; the next larger one that was seen."""
        seconds = [record.done - record.due for record in self.records if record.status == 200]
        return float(np.percentile(seconds, percent, method="higher"))

    def throughput(self, skip: float) -> float:
        """200s a second after the first `skip` seconds: a line through their times.

        (Answers come a batch at a time: a count between two times is wrong by up to a batch.)
        """
        times = sorted(r.done for r in self.records if r.status == 200 and r.done > skip)
        return float(np.polyfit(times, np.arange(len(times)), 1)[0])

    def summary(self) -> dict[str, Any]:
        """For the details of a record."""
        late = [record.sent - record.due for record in self.records]
        return {
            "requests": len(self.records),
            "statuses": self.statuses,
            "p50_s": round(self.latency(50), 4),
            "p99_s": round(self.latency(99), 4),
            "sent_late_p99_s": round(float(np.percentile(late, 99)), 4),
            "generator_cpu_share": round(self.cpu_share, 3),
        }


@contextlib.contextmanager
def running(
    url: str,
    photos: Sequence[str],
    seconds: float,
    rate: float | None = None,
    concurrency: int = 1,
    evenly: bool = False,
) -> Iterator[subprocess.Popen[str]]:
    """A load that goes on while the block does other things, which calls `finish` at its end.

    SIGTERM ends it early: what was sent is answered.
    """
    asked = {"url": url, "photos": list(photos), "seconds": seconds, "rate": rate}
    how = {**asked, "concurrency": concurrency, "evenly": evenly}
    arguments = [sys.executable, __file__, json.dumps(how)]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def finish(process: subprocess.Popen[str]) -> Result:
    """Waits for a load's end and gives what it found."""
    out, _ = process.communicate()
    assert process.returncode == 0, "the load generator failed"
    content = json.loads(out)
    return Result([Record(*record) for record in content["records"]], content["cpu_share"])


def run(
    url: str,
    photos: Sequence[str],
    seconds: float,
    rate: float | None = None,
    concurrency: int = 1,
    evenly: bool = False,
) -> Result:
    """One load, from start to end."""
    with running(url, photos, seconds, rate, concurrency, evenly) as process:
        return finish(process)


@contextlib.contextmanager
def idle_server() -> Iterator[str]:
    """The URL of a server that reads a body and does nothing, in a process of its own."""
    with subprocess.Popen([sys.executable, __file__], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        try:
            yield f"http://127.0.0.1:{int(process.stdout.readline())}/"
        finally:
            process.terminate()


def own_cost(photos: Sequence[str], seconds: float, rate: float) -> dict[str, Any]:
    """What the generator adds: a load of this rate on `idle_server`."""
    with idle_server() as url:
        found = run(url, photos, seconds, rate)
    assert found.failed == 0, found.statuses
    return {"rate": rate, **found.summary()}


class _Client:
    """Posts bodies over connections that are kept alive."""

    def __init__(self, url: str, photos: Sequence[str], started: float) -> None:
        parts = urlsplit(url)
        assert parts.hostname is not None
        self._host, self._port = parts.hostname, parts.port
        requests = []
        for photo in photos:
            body = Path(photo).read_bytes()
            lines = [f"POST {parts.path} HTTP/1.1", f"host: {parts.netloc}"]
            lines += ["content-type: application/octet-stream", f"content-length: {len(body)}"]
            requests.append("\r\n".join([*lines, "", ""]).encode() + body)
        self._requests = itertools.cycle(requests)
        self._started = started
        self._idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []
        self.records: list[tuple[float, float, float, int, bool]] = []

    @property
    def now(self) -> float:
        """Seconds from the start."""
        return time.monotonic() - self._started

    async def post(self, due: float) -> None:
        """Sends one photo and records what came of it."""
        sent, status, retry_after = self.now, UNANSWERED, False
        try:
            async with asyncio.timeout(TIMEOUT_S):
                status, retry_after = await self._exchange(next(self._requests))
        except (OSError, EOFError, TimeoutError) as error:
            print(f"unanswered: {error!r}", file=sys.stderr)
        self.records.append((due, sent, self.now, status, retry_after))

    async def _exchange(self, request: bytes) -> tuple[int, bool]:
        reader, writer = await self._connection()
        try:
            writer.write(request)
            head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
            first, *lines = head.split("\r\n")
            headers = dict(line.split(": ", 1) for line in lines if line)
            await reader.readexactly(int(headers["content-length"]))
        except BaseException:
            writer.close()
            raise
        if headers.get("connection") == "close":
            writer.close()
        else:
            self._idle.append((reader, writer))
        return int(first.split()[1]), "retry-after" in headers

    async def _connection(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        while self._idle:
            reader, writer = self._idle.pop()
            if not reader.at_eof():
                return reader, writer
            writer.close()
        return await asyncio.open_connection(self._host, self._port)


async def _generate(
    url: str,
    photos: Sequence[str],
    seconds: float,
    rate: float | None,
    concurrency: int,
    evenly: bool,
) -> dict[str, Any]:
    client = _Client(url, photos, time.monotonic())
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    cpu = time.process_time()

    async def in_turns() -> None:
        while client.now < seconds and not stop.is_set():
            await client.post(client.now)

    async with asyncio.TaskGroup() as tasks:
        if rate is None:
            for _ in range(concurrency):
                tasks.create_task(in_turns())
        else:
            random.seed(0)
            due = 0.0
            while due < seconds and not stop.is_set():
                await asyncio.sleep(due - client.now)
                tasks.create_task(client.post(due))
                due += 1 / rate if evenly else random.expovariate(rate)
    share = (time.process_time() - cpu) / client.now
    return {"records": client.records, "cpu_share": share}


async def _serve_idly() -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(EOFError):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                await reader.readexactly(int(head.split("content-length: ")[1].split("\r\n")[0]))
                writer.write(_ANSWER)

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    if sys.argv[1:]:
        print(json.dumps(asyncio.run(_generate(**json.loads(sys.argv[1])))))
    else:
        asyncio.run(_serve_idly())
