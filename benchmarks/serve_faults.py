"""Hostile bytes at the endpoint, and a replica that is killed under load.

    python benchmarks/serve_faults.py [--images 10000] [--seconds 30]

Photos in six formats are cut, flipped, overwritten and lengthened at random and sent by eight
clients as fast as they are answered, with broken headers, slow bodies and pixel bombs among them;
meanwhile good photos come at a tenth of the saturation rate, and before that alone. Each answer
must be a 200 or a 4xx (or a 503 with Retry-After). Then two replicas serve under load, one is
killed, and each failed request is tried once more. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import os
import random
import socket
import struct
import tempfile
import time
import zlib
from collections import Counter
from pathlib import Path
from typing import Any

import httpx
import psutil
from measuring import load
from measuring.record import write
from measuring.servers import CORES, NAME, PREDICT, make_registry, memory_mb
from PIL import Image

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
CLIENTS = 8


def mutate(data: bytes, rng: random.Random) -> bytes:
    """The bytes with one to four injuries."""
    found = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        place = rng.randrange(max(1, len(found)))
        kind = rng.randrange(5)
        if kind == 0:
            del found[place:]
        elif kind == 1:
            for at in rng.sample(range(len(found)), min(len(found), 32)):
                found[at] ^= 1 << rng.randrange(8)
        elif kind == 2:
            found[place : place + 64] = rng.randbytes(64)
        elif kind == 3:
            found[place:place] = rng.randbytes(rng.randint(1, 256))
        else:
            found[: rng.randint(1, 40)] = rng.randbytes(rng.randint(1, 40))
    return bytes(found)


def bomb() -> bytes:
    """A PNG's header of 10^10 pixels over a handful of bytes."""
    header = struct.pack(">IIBBBBB", 100_000, 100_000, 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(b"\0" * 9)), (b"IEND", b""))
    parts = [
        struct.pack(">I", len(d)) + k + d + struct.pack(">I", zlib.crc32(k + d)) for k, d in chunks
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


async def hostile(url: str, photos: list[bytes], count: int) -> Counter[str]:
    """Sends them all; how often each status came."""
    rng = random.Random(0)  # noqa: S311 -- the same injuries in every run
    seeds = []
    for data in photos:
        for kind in FORMATS:
            buffer = io.BytesIO()
            Image.open(io.BytesIO(data)).convert("RGB").save(buffer, kind)
            seeds.append(buffer.getvalue())
    statuses: Counter[str] = Counter()
    numbers = iter(range(count))

    async def client(http: httpx.AsyncClient) -> None:
        for number in numbers:
            data = bomb() if number % 50 == 0 else mutate(rng.choice(seeds), rng)
            kinds = ["image/jpeg", "application/json", "x/y", "multipart/form-data; boundary=x"]
            headers = {"content-type": rng.choices(kinds, [16, 2, 1, 1])[0]}
            reply = await http.post(url, content=data, headers=headers)
            known = reply.status_code < 500 or "retry-after" in reply.headers
            statuses[str(reply.status_code) if known else f"unexpected {reply.status_code}"] += 1

    async with httpx.AsyncClient(timeout=120) as http:
        await asyncio.gather(*(client(http) for _ in range(CLIENTS)))
    return statuses


def slow(url: str, count: int) -> list[socket.socket]:
    """Connections that promise a body and send a byte of it."""
    parts = httpx.URL(url)
    found = []
    for number in range(count):
        sock = socket.create_connection((parts.host, parts.port or 80), timeout=60)
        length = "Content-Length: 1000" if number % 2 else "Transfer-Encoding: chunked"
        sock.sendall(f"POST {PREDICT} HTTP/1.1\r\nHost: x\r\n{length}\r\n\r\n1".encode())
        found.append(sock)
    return found


def attack(url: str, photos: list[str], count: int, seconds: float) -> dict[str, Any]:
    """Good traffic alone, then beside the hostile one."""
    some = [Path(photo).read_bytes() for photo in photos[:8]]
    load.run(url, photos, seconds / 3, concurrency=CLIENTS)
    rate = load.run(url, photos, seconds, concurrency=3 * 16).throughput(seconds / 6) / 10
    asyncio.run(hostile(url, some, 500))  # caches and pools grow once
    alone = load.run(url, photos, seconds, rate)
    before = memory_mb()
    with load.running(url, photos, 3600.0, rate) as process:
        sockets = slow(url, 50)
        statuses = asyncio.run(hostile(url, some, count))
        process.terminate()
        beside = load.finish(process)
    for sock in sockets:
        sock.close()
    time.sleep(5)
    after = memory_mb()
    return {
        "statuses": dict(statuses),
        "unexpected": sum(n for name, n in statuses.items() if name.startswith("unexpected")),
        "good_failed": beside.failed,
        "good_p99_ratio": round(beside.latency(99) / alone.latency(99), 2),
        "memory_growth_mb": round(after["replica"] - before["replica"], 1),
        "good_alone": alone.summary(),
        "good_beside": beside.summary(),
    }


def killed(url: str, photo: bytes, seconds: float) -> dict[str, Any]:
    """Eight clients in turns; after a third of the time one of two replicas is killed."""
    outcome: Counter[str] = Counter()

    async def client(http: httpx.AsyncClient, ends: float) -> None:
        while time.monotonic() < ends:
            for attempt in ("first", "retried", "failed"):
                if attempt == "failed":
                    outcome[attempt] += 1
                    break
                try:
                    reply = await http.post(url, content=photo)
                    if reply.status_code == 200:
                        outcome[attempt] += 1
                        break
                except httpx.TransportError:
                    pass
                await asyncio.sleep(1)

    async def main() -> None:
        ends = time.monotonic() + seconds
        async with httpx.AsyncClient(timeout=120) as http:
            clients = [asyncio.create_task(client(http, ends)) for _ in range(8)]
            await asyncio.sleep(seconds / 3)
            replicas = [
                process
                for process in psutil.Process().children(recursive=True)
                if "Endpoint" in "".join(process.cmdline()[:1])
            ]
            assert len(replicas) == 2, replicas
            replicas[0].kill()
            await asyncio.gather(*clients)

    asyncio.run(main())
    whole = sum(outcome.values())
    return {**outcome, "success_share": round(1 - outcome["failed"] / whole, 5)}


def main() -> None:
    """Attacks one endpoint, then kills a replica of another."""
    import ray

    from rtl.config.schema import ServeConfig
    from rtl.data import elpv
    from rtl.model import registry
    from rtl.runtime import session
    from rtl.serving import deployment

    parser = argparse.ArgumentParser()
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--seconds", type=float, default=30.0)
    options = parser.parse_args()
    os.environ.update(session.env_vars(CORES))
    photos = [str(photo.path) for photo in elpv.sample(elpv.load_photos(), 128)]
    with tempfile.TemporaryDirectory() as folder:
        make_registry(folder, photos)
        uri = registry.resolve(folder, f"{NAME}@1")
        session.connect(CORES)
        url = deployment.deploy(uri, ServeConfig(port=0, cpus_per_replica=CORES)) + PREDICT
        hostility = attack(url, photos, options.images, options.seconds)
        deployment.shutdown()
        url = deployment.deploy(uri, ServeConfig(port=0, replicas=2)) + PREDICT
        kill = killed(url, Path(photos[0]).read_bytes(), 2 * options.seconds)
        deployment.shutdown()
        ray.shutdown()
    result = {
        "images": options.images,
        "unexpected_5xx": hostility["unexpected"],
        "good_failed": hostility["good_failed"],
        "good_p99_ratio": hostility["good_p99_ratio"],
        "memory_growth_mb": hostility["memory_growth_mb"],
        "success_share_replica_killed": kill["success_share"],
    }
    write(
        "serve_faults", "hostile bytes at the endpoint, a replica killed under load",
        result=result, details={"hostile": hostility, "killed": kill},
    )  # fmt: skip


if __name__ == "__main__":
    main()
