from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import io
import json
import os
import secrets
import socket
import struct
import subprocess
import sys
import threading
import time
import warnings
import weakref
import zlib
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from ray import serve
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from rtl import storage
from rtl.batch_inference import evaluate, predict
from rtl.config.schema import ServeConfig
from rtl.data.shards import read_shard
from rtl.errors import BundleError, ConfigError, ResourceError
from rtl.evaluation import metrics
from rtl.model import bundle, inception, pretrained, registry
from rtl.model.bundle import BundleInfo, Classifier
from rtl.model.inference import Output
from rtl.ports import free_port
from rtl.runtime import session
from tests.conftest import COLOURS, make_dataset, make_image

with warnings.catch_warnings():
    # Ray Serve's own config classes use a form of `Field` that pydantic 2 deprecates.
    warnings.filterwarnings("ignore", "Using extra keyword arguments on `Field`")
    from rtl.serving import batching, deployment, traffic
    from rtl.serving.engine import Engine
    from rtl.serving.http import app, errors
    from rtl.serving.http.error_limit import Pace
    from rtl.serving.http.request import json_body

CONFIG = ServeConfig(
    port=0,
    max_batch_size=4,
    max_body_mb=0.5,
    max_pixels=1_000_000,
    top_k=2,
    timeout_s=6.0,
    max_waiting=32,
    follow_s=0.2,
)
ESTIMATE = {"value": 0.9, "low": 0.8, "high": 0.95}
INFO = BundleInfo(
    name="first",
    classes=tuple(COLOURS),
    unfrozen_layers=2,
    image_size=75,
    mean=(0.0,) * 3,
    std=(1.0,) * 3,
    weights={"source": "packaged", "sha256": pretrained.PACKAGED_SHA256},
    metrics={"val": {"accuracy": ESTIMATE}, "test": None},
    manifest_digest="d" * 64,
    config={},
)


@pytest.fixture(scope="module")
def root(s3_server: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A storage root with the bundles `first` and `second`, registered as versions of one name."""
    root = f"{s3_server}/{secrets.token_hex(6)}"
    network = inception.build(num_classes=3)
    inception.load_part(network, pretrained.load("packaged", "unused").state)
    for seed, name in enumerate(("first", "second")):
        inception.init_head(network, seed)
        with torch.no_grad():
            network.get_submodule("fc").weight.mul_(20)  # classes far from equally probable
        made = str(tmp_path_factory.mktemp("made") / name)
        bundle.save(made, dataclasses.replace(INFO, name=name), network)
        registry.register(root, "colours", made)
    return root


@pytest.fixture(scope="module")
def first(root: str) -> str:
    return registry.resolve(root, "colours@1")


@pytest.fixture(scope="module")
def second(root: str) -> str:
    return registry.resolve(root, "colours@2")


@pytest.fixture(scope="module")
def url(ray_cluster: None, first: str) -> Iterator[str]:
    """The endpoint, serving `first`."""
    yield deployment.deploy(first, CONFIG)
    deployment.shutdown()


@pytest.fixture(scope="module")
def client(url: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=url, timeout=60) as client:
        yield client


def encode(image: Image.Image, fmt: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, fmt, **options)
    return buffer.getvalue()


def photo() -> Image.Image:
    return Image.open(io.BytesIO(make_image("red", 0)))


def rotated() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    return encode(photo(), "JPEG", exif=exif)


def huge_png() -> bytes:
    """A header of 10^10 pixels over a handful of bytes."""
    header = struct.pack(">IIBBBBB", 100_000, 100_000, 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(b"\0" * 9)), (b"IEND", b""))
    parts = [
        struct.pack(">I", len(d)) + k + d + struct.pack(">I", zlib.crc32(k + d)) for k, d in chunks
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


JPEG = make_image("red", 0)
GOOD = {
    "jpeg": JPEG,
    "png": make_image("blue", 1, fmt="PNG"),
    "cmyk": encode(photo().convert("CMYK"), "JPEG"),
    "16 bits": encode(Image.new("I;16", (90, 80), 40_000), "PNG"),
    "alpha": encode(photo().convert("RGBA"), "PNG"),
    "palette": encode(photo().convert("P"), "PNG", transparency=0),
    "rotated": rotated(),
    "gif": encode(photo(), "GIF", save_all=True, append_images=[photo().rotate(90)]),
    "webp": encode(photo(), "WEBP", save_all=True, append_images=[photo().rotate(90)]),
    "one pixel": encode(Image.new("RGB", (1, 1)), "PNG"),
}
BAD = {
    "empty": (b"", 400, "corrupt_image"),
    "truncated jpeg": (JPEG[: len(JPEG) // 2], 400, "corrupt_image"),
    "truncated png": (GOOD["png"][:2000], 400, "corrupt_image"),
    "broken png": (GOOD["png"][:500] + b"x" * 40 + GOOD["png"][540:], 400, "corrupt_image"),
    "bomb": (huge_png(), 413, "image_too_large"),
    "large": (encode(Image.new("RGB", (1001, 1000)), "PNG"), 413, "image_too_large"),
    "text": (b"hello, this is no image", 415, "unsupported_image"),
    "svg": (b"<svg xmlns='http://www.w3.org/2000/svg'/>", 415, "unsupported_image"),
    "other format": (encode(photo(), "PPM"), 415, "unsupported_image"),
    "a URL": (b'{"url": "http://127.0.0.1/x.jpg"}', 415, "unsupported_image"),
}


@pytest.fixture(scope="module")
def classifier(first: str) -> Classifier:
    return Classifier.load(first)


def said(reply: httpx.Response) -> Any:
    """The predictions of the one image that was asked for."""
    (result,) = reply.json()["results"]
    return result["predictions"]


@pytest.mark.parametrize("name", GOOD)
def test_an_image_gets_the_classifiers_probabilities(
    client: httpx.Client, classifier: Classifier, name: str
) -> None:
    # A wrong content type does no harm: the bytes say what they are.
    reply = client.post(
        "/v1/predict?top_k=3", content=GOOD[name], headers={"content-type": "text/x"}
    )
    assert reply.status_code == 200, reply.text
    found = {p["label"]: p["probability"] for p in reply.json()["results"][0]["predictions"]}
    expected = classifier.predict(classifier.preprocess(GOOD[name])[None])[0]
    assert found == pytest.approx(dict(zip(COLOURS, expected.tolist(), strict=True)), abs=1e-4)
    assert list(found.values()) == sorted(found.values(), reverse=True)
    assert max(found.values()) > 0.34
    assert reply.json()["results"][0]["uncertain"] is False  # of a bundle that is never so


@pytest.mark.parametrize("name", BAD)
def test_a_bad_image_gets_its_status_and_a_json_error(client: httpx.Client, name: str) -> None:
    data, status, type_ = BAD[name]
    reply = client.post("/v1/predict", content=data, headers={"content-type": "image/jpeg"})
    assert (reply.status_code, reply.json()["error"]["type"]) == (status, type_)
    assert len(reply.json()["error"]["message"]) > 20
    assert "/work" not in reply.text
    assert ".cpp" not in reply.text


def test_top_k(client: httpx.Client) -> None:
    counts = {"": 2, "?top_k=1": 1, "?top_k=3": 3, "?top_k=999": 3}
    for query, count in counts.items():
        assert len(said(client.post(f"/v1/predict{query}", content=JPEG))) == count
    for text in ("0", "-1", "1.5", "x", "", "%C2%B2", "9" * 30):
        reply = client.post(f"/v1/predict?top_k={text}", content=JPEG)
        assert (reply.status_code, reply.json()["error"]["type"]) == (400, "bad_request"), text


def test_multipart(client: httpx.Client) -> None:
    alone = said(client.post("/v1/predict", content=JPEG))
    reply = client.post("/v1/predict", files={"image": ("a.jpg", JPEG)})
    assert reply.json()["results"][0]["file"] == "a.jpg"
    assert said(reply)[0]["label"] == alone[0]["label"]
    files = [("f", ("a.jpg", JPEG)), ("f", ("b.txt", b"text")), ("g", ("c.png", GOOD["png"]))]
    several = client.post("/v1/predict?top_k=1", files=files)
    assert several.status_code == 200
    a, b, c = several.json()["results"]
    assert [a["file"], b["file"], c["file"]] == ["a.jpg", "b.txt", "c.png"]
    assert a["predictions"][0]["label"] == alone[0]["label"]
    assert len(c["predictions"]) == 1
    assert (b["error"]["type"], b["error"]["status"]) == ("unsupported_image", 415)
    bad = client.post("/v1/predict", files={"f": ("b.txt", b"text")})
    assert bad.status_code == 415


@pytest.mark.parametrize(
    "wrong",
    [
        {"content": b"nonsense", "headers": {"content-type": "multipart/form-data; boundary=x"}},
        {"content": JPEG, "headers": {"content-type": "multipart/form-data"}},
        {"files": {"field": (None, "no file name")}},
        {"files": [("f", (f"{i}.jpg", b"x")) for i in range(json_body.MAX_IMAGES + 1)]},
    ],
)
def test_a_broken_multipart_body_is_the_clients_error(client: httpx.Client, wrong: Any) -> None:
    reply = client.post("/v1/predict", **wrong)
    assert (reply.status_code, reply.json()["error"]["type"]) == (400, "bad_request")


def test_endpoint_predict_and_evaluate_give_the_same_probabilities(
    client: httpx.Client, first: str, tmp_path: Path
) -> None:
    manifest = make_dataset(f"{tmp_path}/data", train=3, val=3, test=12)
    rows = [
        row for shard in manifest.split("test") for row in read_shard(manifest, shard).to_pylist()
    ]
    summary = predict.predict(first, manifest.uri, f"{tmp_path}/answers")
    files = [pq.read_table(f"{tmp_path}/answers/{chunk}") for chunk in summary.chunks]
    said = {row["id"]: row["probabilities"] for file in files for row in file.to_pylist()}
    for row in rows:
        (answer,) = client.post("/v1/predict?top_k=3", content=row["image"]).json()["results"]
        found = {p["label"]: p["probability"] for p in answer["predictions"]}
        assert [found[name] for name in COLOURS] == pytest.approx(said[row["id"]], abs=1e-3)
    probabilities = np.array([said[row["id"]] for row in rows], np.float32)
    labels = np.array([row["label"] for row in rows])
    mine = metrics.evaluate(probabilities, labels, manifest.classes)
    scores = evaluate.evaluate(first, manifest.uri)
    assert scores.confusion == mine.confusion
    assert scores.log_loss == pytest.approx(mine.log_loss, rel=1e-3)


def test_haproxy_runs_without_splice(url: str) -> None:
    """With it HAProxy 2.8 takes a core while a body of more than 16 KB waits for its answer."""
    port = int(url.rpartition(":")[2])
    (listening,) = {c.pid for c in psutil.net_connections("tcp4")
                    if c.status == psutil.CONN_LISTEN and c.laddr.port == port}  # fmt: skip
    assert listening is not None
    command = psutil.Process(listening).cmdline()
    assert command[0].endswith("haproxy")
    assert "-dS" in command


def test_endpoints_of_two_clusters_here_share_no_port(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RAY_SERVE_ENABLE_HA_PROXY", raising=False)
    names = [f"RAY_SERVE_HAPROXY_{what}_PORT" for what in ("METRICS", "STATS")]
    one, other = session._ingress_env(tmp_path), session._ingress_env(tmp_path)
    ports = [int(env[name]) for env in (one, other) for name in names]
    assert len(set(ports)) == 4
    assert max(ports) < 32768  # from there on a connection, or Ray's agent, may have one before
    assert min(ports) >= 20000


@pytest.mark.slow
def test_haproxy_that_does_not_start_is_said_with_its_reason(local: str) -> None:
    with socket.socket() as taken:
        taken.bind(("", 0))
        taken.listen()
        port = taken.getsockname()[1]
        # Not of the session's cluster, whose HAProxy has its files and ports in the environment.
        env = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
        env |= {"RAY_AUTH_MODE": "disabled", "RAY_SERVE_HAPROXY_METRICS_PORT": str(port)}
        command = [sys.executable, "-m", "rtl.cli", "deploy", local, "--set", "serve.port=0"]
        done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1
    assert f"cannot bind socket (Address already in use) for [0.0.0.0:{port}]" in done.stderr
    assert "RAY_SERVE_ENABLE_HA_PROXY=0" in done.stderr
    assert "Traceback" not in done.stderr
    assert "ServeController" not in done.stdout + done.stderr  # Serve was ended: Ray would tell


def test_health_and_model(client: httpx.Client) -> None:
    health = client.get("/healthz")
    assert (health.status_code, health.json()["status"]) == (200, "ok")
    model = client.get("/v1/model").json()
    assert (model["name"], model["version"], model["unfrozen_layers"]) == ("colours", 1, 2)
    assert model["classes"] == list(COLOURS)
    assert model["metrics"]["val"]["accuracy"] == ESTIMATE
    assert model["manifest_digest"] == "d" * 64
    assert "s3://" not in json.dumps(model)


def test_unknown_routes_answer_json(client: httpx.Client) -> None:
    for method, path, status in (
        ("GET", "/nothing", 404),
        ("POST", "/v1/predict/", 404),
        ("GET", "/v1/predict", 405),
        ("POST", "/v1/model", 405),
    ):
        reply = client.request(method, path)
        assert reply.status_code == status
        assert reply.json()["error"]["type"] in ("not_found", "method_not_allowed")


def open_request(url: str, *headers: str) -> socket.socket:
    host, port = url.removeprefix("http://").split(":")
    sock = socket.create_connection((host, int(port)), timeout=30)
    lines = ["POST /v1/predict HTTP/1.1", f"Host: {host}", *headers, "", ""]
    sock.sendall("\r\n".join(lines).encode())
    return sock


def status_of(sock: socket.socket) -> int:
    answer = sock.recv(65536).decode()
    return int(answer.split()[1])


def test_a_large_body_is_refused_before_it_is_read_whole(client: httpx.Client, url: str) -> None:
    reply = client.post("/v1/predict", content=b"x" * 500_001)
    assert (reply.status_code, reply.json()["error"]["type"]) == (413, "body_too_large")
    # One byte less is judged by its content.
    assert client.post("/v1/predict", content=b"x" * 500_000).status_code == 415
    with open_request(url, "Content-Length: 1000000000000") as sock:
        assert status_of(sock) == 413
    with open_request(url, "Transfer-Encoding: chunked") as sock:
        for _ in range(6):  # and no end
            sock.sendall(b"186a0\r\n" + b"x" * 100_000 + b"\r\n")
        assert status_of(sock) == 413
    assert client.post("/v1/predict", content=JPEG).status_code == 200


def test_a_slow_client_times_out_and_harms_nobody(client: httpx.Client, url: str) -> None:
    with contextlib.ExitStack() as stack:
        socks = [
            stack.enter_context(open_request(url, f"Content-Length: {len(JPEG)}"))
            for _ in range(20)
        ]
        for sock in socks:
            sock.sendall(JPEG[:100])
        started = time.monotonic()
        assert client.post("/v1/predict", content=JPEG).status_code == 200
        assert time.monotonic() - started < CONFIG.timeout_s
        for sock in socks:
            answer = b"".join(iter(lambda sock=sock: sock.recv(65536), b""))  # until it is closed
            assert answer.startswith(b"HTTP/1.1 408 "), answer
            assert b'"slow_request"' in answer


@contextlib.contextmanager
def running(work: Callable[[], None], times: int, stop: threading.Event) -> Iterator[None]:
    """Has threads do `work`, which ends at `stop`, while the block runs."""
    threads = [threading.Thread(target=work) for _ in range(times)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def served(client: httpx.Client) -> tuple[str, int]:
    model = client.get("/v1/model").json()
    return model["name"], model["version"]


def test_a_model_is_swapped_without_a_lost_request(
    client: httpx.Client, url: str, first: str, second: str
) -> None:
    statuses: list[int] = []
    versions: list[int] = []
    stop = threading.Event()

    def ask() -> None:
        with httpx.Client(base_url=url, timeout=60) as own:
            while not stop.is_set():
                reply = own.post("/v1/predict", content=JPEG)
                statuses.append(reply.status_code)
                if reply.status_code == 200:
                    versions.append(reply.json()["model"]["version"])

    try:
        with running(ask, 2, stop):
            assert deployment.deploy(second, CONFIG) == url
            assert served(client) == ("colours", 2)
            time.sleep(0.5)
    finally:
        deployment.deploy(first, CONFIG)
    assert set(statuses) == {200}
    assert set(versions) == {1, 2}
    assert served(client) == ("colours", 1)


def test_a_broken_bundle_never_replaces_a_good_one(
    client: httpx.Client, root: str, first: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = f"{root}/broken"
    files = storage.read_committed(first)
    model = bytearray(files[bundle.MODEL])
    model[-1] ^= 1
    storage.write_bytes(f"{broken}/{bundle.MODEL}", bytes(model))
    storage.write_bytes(f"{broken}/{bundle.INFO}", files[bundle.INFO])
    storage.seal(broken, {name: storage.describe(data) for name, data in files.items()})
    with pytest.raises(BundleError, match="altered"):
        deployment.deploy(broken, CONFIG)
    assert served(client) == ("colours", 1)
    # Also where only the replicas see that it is broken.
    monkeypatch.setattr(bundle, "verify", lambda _: None)
    with pytest.raises(BundleError, match=r"was refused, .*/1 stays in service.*altered"):
        deployment.deploy(broken, CONFIG)
    assert served(client) == ("colours", 1)
    assert client.post("/v1/predict", content=JPEG).status_code == 200


@pytest.mark.slow
def test_a_replica_comes_while_requests_wait(client: httpx.Client, url: str, first: str) -> None:
    scales = CONFIG.model_copy(update={"max_replicas": 2, "max_batch_size": 1})
    assert deployment.deploy(first, scales) == url
    image, stop = make_image("red", 1), threading.Event()
    statuses: Counter[int] = Counter()

    def send() -> None:
        while not stop.is_set():
            statuses[client.post("/v1/predict", content=image).status_code] += 1

    def replicas() -> int:
        states = serve.status().applications["rtl"].deployments["Endpoint"].replica_states
        return int(states.get("RUNNING", 0))

    try:
        with running(send, 8, stop):
            assert replicas() == 1
            deadline = time.monotonic() + 150
            while replicas() < 2:
                assert time.monotonic() < deadline, statuses
                time.sleep(1)
            time.sleep(3)
    finally:
        deployment.deploy(first, CONFIG)
    assert set(statuses) == {200}


@pytest.mark.slow
def test_another_config_comes_without_a_lost_request(
    client: httpx.Client, url: str, first: str, tmp_path: Path
) -> None:
    statuses: Counter[int] = Counter()
    stop = threading.Event()

    def ask() -> None:
        with httpx.Client(base_url=url, timeout=60) as own:
            while not stop.is_set():
                statuses[own.post("/v1/predict", content=JPEG).status_code] += 1

    def answers() -> int:
        return len(said(client.post("/v1/predict", content=JPEG)))

    # One that loads and answers the golden image otherwise: only a replica finds out.
    info, network = bundle.load(first)
    wrong = str(tmp_path / "wrong")
    bundle.save(wrong, info, network)
    files = bundle.read_files(wrong)
    document = {**json.loads(files[bundle.INFO]), "mean": [0.6] * 3, "std": [0.1] * 3}
    files[bundle.INFO] = json.dumps(document).encode()
    storage.delete(storage.join(wrong, storage.COMMIT))
    storage.commit(wrong, files)
    one = CONFIG.model_copy(update={"top_k": 1})
    assert answers() == 2
    try:
        with running(ask, 2, stop):
            assert deployment.deploy(first, one) == url
            assert answers() == 1
            with pytest.raises(BundleError, match=r"do not start, .*/1 stays in service"):
                deployment.deploy(wrong, CONFIG)
            assert answers() == 1
            deployment.deploy(first, CONFIG)
            assert answers() == 2
    finally:
        deployment.deploy(first, CONFIG)
    assert set(statuses) == {200}
    assert statuses[200] > 20


@pytest.mark.slow
def test_a_killed_replica_costs_no_request_that_is_sent_twice(
    client: httpx.Client, url: str, first: str
) -> None:
    outcome: Counter[str] = Counter()
    stop = threading.Event()

    def ask() -> None:
        while not stop.is_set():
            for attempt in ("first", "second", "failed"):
                if attempt == "failed":
                    outcome[attempt] += 1
                    break
                with contextlib.suppress(httpx.TransportError):
                    if client.post("/v1/predict", content=JPEG).status_code == 200:
                        outcome[attempt] += 1
                        break
                time.sleep(1)

    def processes() -> set[int]:
        found = set()
        for process in psutil.Process().children(recursive=True):
            with contextlib.suppress(psutil.Error):  # it has just ended
                if "Endpoint" in "".join(process.cmdline()[:1]):
                    found.add(process.pid)
        return found

    try:
        assert deployment.deploy(first, CONFIG.model_copy(update={"replicas": 2})) == url
        before = processes()
        assert len(before) == 2
        with running(ask, 4, stop):
            time.sleep(2)
            psutil.Process(min(before)).kill()
            deadline = time.monotonic() + 120
            while len(processes() - {min(before)}) < 2:  # another one comes
                assert time.monotonic() < deadline
                time.sleep(0.5)
            time.sleep(2)
    finally:
        deployment.deploy(first, CONFIG)
    assert outcome["failed"] == 0
    assert outcome["first"] > 20


def test_what_cannot_start_is_refused_at_once(url: str, local: str) -> None:
    with pytest.raises(ResourceError, match="3 replicas x 2 CPUs = 6 CPUs, the cluster has 4"):
        deployment.deploy(local, CONFIG.model_copy(update={"replicas": 3, "cpus_per_replica": 2}))
    with pytest.raises(ConfigError, match="cannot move"):
        deployment.deploy(local, CONFIG.model_copy(update={"port": free_port()}))
    with pytest.raises(ConfigError, match="cannot be listened on"):
        deployment._check_port("127.0.0.1", int(url.rsplit(":", 1)[1]))


@pytest.mark.parametrize(("changed", "warned"), [({"host": "localhost"}, 0), ({"top_k": 1}, 1)])
def test_missing_room_is_said_where_replicas_are_replaced(
    local: str, changed: dict[str, Any], warned: int, caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch, url: str,
) -> None:  # fmt: skip
    monkeypatch.setattr(deployment.capacity, "has_room", lambda *_: False)
    monkeypatch.setattr(deployment, "_run", lambda *_: None)
    assert deployment.deploy(local, CONFIG.model_copy(update=changed)) == url
    assert sum("no room for a replica" in record.message for record in caplog.records) == warned


class Alone:
    """A replica without others, for an engine in this process."""

    def __init__(self, engine: Engine) -> None:
        self.rejected: dict[str, str] = {}
        self._engine = engine

    async def ledger(self) -> traffic.Ledger:
        ledger = traffic.Ledger()
        ledger.add(self._engine.counts)
        return ledger


def with_engine(uri: str, config: ServeConfig, test: Callable[..., Awaitable[None]]) -> None:
    """Runs a test on an engine and its application in this process."""

    async def main() -> None:
        engine = Engine(config)
        await engine.load(uri)
        transport = httpx.ASGITransport(
            app.build(engine, Alone(engine), Alone(engine)), raise_app_exceptions=False
        )
        async with httpx.AsyncClient(transport=transport, base_url="http://rtl") as http:
            await test(engine, http)

    asyncio.run(main())


@pytest.fixture(scope="module")
def local(first: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    uri = str(tmp_path_factory.mktemp("serve") / "bundle")
    storage.commit(uri, bundle.read_files(first))
    return uri


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0.01)


def test_what_waits_for_the_model_goes_as_one_batch(local: str) -> None:
    async def test(engine: Engine, http: httpx.AsyncClient) -> None:
        sizes: list[int] = []
        output = engine.served.classifier.output

        def record(batch: torch.Tensor) -> Output:
            sizes.append(len(batch))
            return output(batch)

        engine.served.classifier.output = record  # type: ignore[method-assign]
        free = threading.Event()
        engine._batcher._lanes[0].submit(free.wait, 60)
        images = [make_image("red", i) for i in range(11)]
        asked = [asyncio.create_task(http.post("/v1/predict", content=images[0]))]
        await until(lambda: bool(engine._batcher._running))
        asked += [
            asyncio.create_task(http.post("/v1/predict", content=data)) for data in images[1:]
        ]
        await until(lambda: engine._batcher.waiting == 10)
        free.set()
        assert [(await task).status_code for task in asked] == [200] * 11
        # The first was alone when it went to the model; the others queued meanwhile.
        assert sizes == [1, 4, 4, 2]

    with_engine(local, CONFIG, test)


@pytest.mark.parametrize(("cpus", "sizes"), [(1, [1, 2, 3, 4]), (2, [1, 2])])
def test_a_model_is_warmed_up_for_each_size_of_batch(
    local: str, cpus: int, sizes: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    warmed: list[int] = []
    predict = Classifier.predict

    def record(self: Classifier, batch: torch.Tensor) -> torch.Tensor:
        warmed.append(len(batch))
        return predict(self, batch)

    monkeypatch.setattr(Classifier, "predict", record)

    async def test(engine: Engine, http: httpx.AsyncClient) -> None:
        assert warmed[: len(sizes)] == sizes
        assert set(engine._batcher.sizes) == set(sizes)

    with_engine(local, CONFIG.model_copy(update={"cpus_per_replica": cpus}), test)


@pytest.mark.skipif(
    sys.platform != "linux", reason="elsewhere threads have no priority of their own"
)
def test_a_model_that_comes_leaves_the_cpus_to_the_one_that_answers(
    local: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    priorities: list[int] = []
    own, load = os.getpriority(os.PRIO_PROCESS, 0), bundle.load

    def record(uri: str) -> Any:
        priorities.append(os.getpriority(os.PRIO_PROCESS, 0))  # of the calling thread
        return load(uri)

    monkeypatch.setattr(bundle, "load", record)
    other = str(tmp_path / "bundle")
    storage.commit(other, bundle.read_files(local))

    async def test(engine: Engine, http: httpx.AsyncClient) -> None:
        assert priorities == [own]
        await engine.load(other)
        assert engine.served.uri == other
        assert priorities == [own, min(own + 10, 19)]
        await engine.try_out(local, 0.5, shadow=False)
        assert priorities[2:] == [min(own + 10, 19)]
        answer = await http.post("/v1/predict", content=make_image("red", 0))
        assert answer.status_code == 200
        lanes = [lane.submit(os.getpriority, os.PRIO_PROCESS, 0) for lane in engine._batcher._lanes]
        assert [lane.result(30) for lane in lanes] == [own] * len(lanes)

    with_engine(local, CONFIG, test)


def test_images_alone_have_all_threads_and_more_have_one_each(local: str) -> None:
    async def test(engine: Engine, http: httpx.AsyncClient) -> None:
        seen: list[tuple[int, int]] = []
        teams: set[str] = set()
        output, free = engine.served.classifier.output, threading.Event()

        def record(batch: torch.Tensor) -> Output:
            threads = torch.get_num_threads()
            seen.append((len(batch), threads))
            if threads > 1:
                teams.add(threading.current_thread().name)
                time.sleep(0.5)  # so that two images at once are too many for a team
            free.wait(60)
            return output(batch)

        engine.served.classifier.output = record  # type: ignore[method-assign]
        images = [make_image("red", i) for i in range(7)]
        free.set()
        for _ in range(18):  # one after the other
            await http.post("/v1/predict", content=images[0])
        assert seen == [(1, 1)] * 16 + [(1, 2)] * 2
        seen.clear()
        free.clear()
        asked = []
        for data in images[:2]:
            asked.append(asyncio.create_task(http.post("/v1/predict", content=data)))
            await until(lambda: len(seen) == len(asked))
        asked += [
            asyncio.create_task(http.post("/v1/predict", content=data)) for data in images[2:]
        ]
        await until(lambda: engine._batcher.waiting == 5)
        free.set()
        answers = [(await task).json()["results"][0]["predictions"] for task in asked]
        assert seen[:2] == [(1, 2), (1, 1)]
        assert teams == {"model-0_0"}  # more than one would be slower than none
        assert sum(size for size, _ in seen) == 7
        assert all(size <= 2 and threads == 1 for size, threads in seen[2:])
        # Dealt out and brought together again: each has its own answer.
        classifier = engine.served.classifier
        for data, answer in zip(images, answers, strict=True):
            (said,) = classifier.predict(classifier.preprocess(data)[None])
            assert answer[0]["probability"] == pytest.approx(float(said.max()), abs=0.01)

    with_engine(local, CONFIG.model_copy(update={"cpus_per_replica": 2}), test)


def test_images_that_come_evenly_get_out_of_the_lanes(
    local: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where their gaps are more than all threads take for one, and less than one thread does."""
    monkeypatch.setattr(batching, "_CALM", 2)
    seconds = {1: 0.6, 2: 0.1}

    async def test(engine: Engine, http: httpx.AsyncClient) -> None:
        seen: list[int] = []
        classifier = engine.served.classifier
        pixels = classifier.preprocess(make_image("red", 0))
        # Known before: on a busy machine computing would take longer than what is slept.
        known = {n: classifier.output(torch.stack([pixels] * n)) for n in (1, 2)}

        def record(batch: torch.Tensor) -> Output:
            seen.append(torch.get_num_threads())
            time.sleep(seconds[seen[-1]])
            return known[len(batch)]

        engine.served.classifier.output = record  # type: ignore[method-assign]

        async def post() -> int:
            return (await http.post("/v1/predict", content=make_image("red", 0))).status_code

        for _ in range(4):  # one after the other: all threads are measured
            assert await post() == 200
        assert seen == [1, 1, 2, 2]
        # Too many at once go to the lanes, and so does what finds them busy.
        asked = [asyncio.create_task(post()) for _ in range(4)]
        await until(lambda: 1 in seen[4:])
        async with asyncio.timeout(30):  # a busy machine may hold up some of them
            while seen[-3:] != [2, 2, 2]:
                await asyncio.sleep(0.3)
                asked.append(asyncio.create_task(post()))
        assert {await task for task in asked} == {200}

    with_engine(local, CONFIG.model_copy(update={"cpus_per_replica": 2}), test)


def test_too_many_at_once_are_told_to_come_again(local: str) -> None:
    async def test(engine: Engine, http: httpx.AsyncClient) -> None:
        free = threading.Event()
        engine._batcher._lanes[0].submit(free.wait, 60)
        files = [("f", (f"{i}.jpg", JPEG)) for i in range(6)]
        # 32 images may wait: five times six of them, and then two alone.
        inside = [asyncio.create_task(http.post("/v1/predict", files=files)) for _ in range(5)]
        await until(lambda: engine._inside == 30)
        late = [await http.post("/v1/predict", files=files)]
        inside += [asyncio.create_task(http.post("/v1/predict", content=JPEG)) for _ in range(2)]
        await until(lambda: engine._inside == 32)

        async def unread() -> AsyncIterator[bytes]:
            pytest.fail("an overloaded server reads no body")
            yield b""

        assert engine.full
        late += [await http.post("/v1/predict", content=JPEG)]
        late += [await http.post("/v1/predict", content=unread())]
        free.set()
        for reply in late:
            assert (reply.status_code, reply.json()["error"]["type"]) == (503, "overloaded")
            assert reply.headers["retry-after"] == "1"
        assert [reply.status_code for reply in await asyncio.gather(*inside)] == [200] * 7
        assert engine._inside == 0
        assert (await http.post("/v1/predict", content=JPEG)).status_code == 200

    with_engine(local, CONFIG.model_copy(update={"timeout_s": 30.0}), test)


def test_refusals_wait_and_nothing_else_does(local: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(engine: Engine, http: httpx.AsyncClient) -> None:
        told = asyncio.Event()
        waiting: list[Pace] = []

        async def turn(pace: Pace) -> float:
            waiting.append(pace)
            await told.wait()
            return 1000.0

        monkeypatch.setattr(Pace, "turn", turn)
        bodies = [b"no image", JPEG[:200], b""]
        bad = [asyncio.create_task(http.post("/v1/predict", content=body)) for body in bodies]
        await until(lambda: len(waiting) == len(bodies))
        files = [("f", ("bad.jpg", JPEG[:200])), ("f", ("good.jpg", JPEG))]
        for good in ({"content": JPEG}, {"files": files}):
            assert (await http.post("/v1/predict", **good)).status_code == 200
        engine._served = None  # a server's own error
        assert (await http.post("/v1/predict", content=JPEG)).status_code == 500
        assert engine._inside == 0
        assert not any(task.done() for task in bad)
        told.set()
        assert [(await task).status_code for task in bad] == [415, 400, 400]
        # What they waited is no time that it took to answer.
        assert engine.counts["requests", "/v1/predict", "400"] == 2
        assert engine.counts["seconds", "/v1/predict", "sum"] < -2000

    with_engine(local, CONFIG, test)


def test_a_refusal_that_waits_keeps_no_body(monkeypatch: pytest.MonkeyPatch) -> None:
    class Body(bytearray):
        pass

    async def refuse(_: Request) -> Response:
        large = Body(1000)
        kept.append(weakref.ref(large))
        try:
            raise ValueError("not JSON")
        except ValueError:
            raise errors.RequestError(400, "bad_request", "It is not JSON.") from None

    async def turn(_: Pace) -> float:
        alive.append(kept[0]() is not None)
        return 0.0

    async def main() -> httpx.Response:
        application = Starlette(
            routes=[Route("/", refuse)],
            exception_handlers={errors.RequestError: app._on_request_error},
        )
        application.state.pace = Pace(50)
        transport = httpx.ASGITransport(application)
        async with httpx.AsyncClient(transport=transport, base_url="http://rtl") as http:
            return await http.get("/")

    kept: list[weakref.ref[Body]] = []
    alive: list[bool] = []
    monkeypatch.setattr(Pace, "turn", turn)
    assert asyncio.run(main()).status_code == 400
    assert alive == [False]


def test_refusals_come_at_a_pace() -> None:
    pace = Pace(per_second=4)
    # A second's worth at once, then one every quarter of a second, and none later than a second.
    delays = [pace.delay(100.0) for _ in range(12)]
    assert delays == pytest.approx([0] * 5 + [0.25, 0.5, 0.75, 1, 1, 1, 1])
    assert pace.delay(100.5) == pytest.approx(0.75)
    assert [pace.delay(102.0 + i / 4) for i in range(3)] == pytest.approx([0, 0, 0])
    assert pace.delay(200.0) == 0


def test_an_answer_that_takes_too_long_is_a_504(local: str) -> None:
    async def test(engine: Engine, http: httpx.AsyncClient) -> None:
        free = threading.Event()
        busy = engine._batcher._lanes[0].submit(free.wait, 60)
        late = await http.post("/v1/predict", content=JPEG)
        assert (late.status_code, late.json()["error"]["type"]) == (504, "timeout")
        free.set()
        await asyncio.wrap_future(busy)
        await until(lambda: engine._inside == 0)
        assert (await http.post("/v1/predict", content=JPEG)).status_code == 200

    with_engine(local, CONFIG.model_copy(update={"timeout_s": 2.0}), test)


def test_a_model_that_fails_is_unhealthy_and_says_nothing_of_the_inside(local: str) -> None:
    async def test(engine: Engine, http: httpx.AsyncClient) -> None:
        def fail(_: object) -> None:
            raise RuntimeError("secret detail")

        engine.served.classifier.output = fail  # type: ignore[assignment, method-assign]
        # It answered a moment ago, then it is asked again.
        assert (await http.get("/healthz")).status_code == 200
        engine._answered = -1e9
        health = await http.get("/healthz")
        reply = await http.post("/v1/predict", content=JPEG)
        assert (health.status_code, health.json()["error"]["type"]) == (503, "unhealthy")
        assert (reply.status_code, reply.json()["error"]["type"]) == (500, "internal")
        assert "secret" not in health.text + reply.text

    with_engine(local, CONFIG, test)
