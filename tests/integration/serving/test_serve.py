"""The endpoint on Ray: what it answers, what it refuses, and how its model is replaced."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
import pyarrow.parquet as pq
import pytest
from ray import serve

from rtl import storage
from rtl.batch_inference import evaluate, predict
from rtl.data.shards import read_shard
from rtl.errors import BundleError, ConfigError, ResourceError
from rtl.evaluation import metrics
from rtl.model import bundle
from rtl.model.bundle import Classifier
from rtl.ports import free_port
from rtl.runtime import ingress
from rtl.serving.http.request import json_body
from tests.conftest import COLOURS, make_dataset
from tests.support.photos import BAD, GOOD, JPEG
from tests.support.ray_endpoint import CONFIG, ESTIMATE, deployment, predictions, running


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
        assert len(predictions(client.post(f"/v1/predict{query}", content=JPEG))) == count
    for text in ("0", "-1", "1.5", "x", "", "%C2%B2", "9" * 30):
        reply = client.post(f"/v1/predict?top_k={text}", content=JPEG)
        assert (reply.status_code, reply.json()["error"]["type"]) == (400, "bad_request"), text


def test_multipart(client: httpx.Client) -> None:
    alone = predictions(client.post("/v1/predict", content=JPEG))
    reply = client.post("/v1/predict", files={"image": ("a.jpg", JPEG)})
    assert reply.json()["results"][0]["file"] == "a.jpg"
    assert predictions(reply)[0]["label"] == alone[0]["label"]
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
    one, other = ingress.variables(tmp_path), ingress.variables(tmp_path)
    ports = [int(env[name]) for env in (one, other) for name in names]
    assert len(set(ports)) == 4
    assert max(ports) < 32768  # from there on a connection, or Ray's agent, may have one before
    assert min(ports) >= 20000


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


def served(client: httpx.Client) -> tuple[str, int]:
    model = client.get("/v1/model").json()
    return model["name"], model["version"]


@pytest.mark.slow
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
    client: httpx.Client, root: str, first: str
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
    with pytest.raises(BundleError, match=r"was rejected, .*/1 stays in service.*altered"):
        deployment.deploy(broken, CONFIG, verify=lambda _: None)
    assert served(client) == ("colours", 1)
    assert client.post("/v1/predict", content=JPEG).status_code == 200


def test_what_cannot_start_is_refused_at_once(url: str, local: str) -> None:
    with pytest.raises(ResourceError, match="3 replicas x 2 CPUs = 6 CPUs, the cluster has 4"):
        deployment.deploy(local, CONFIG.model_copy(update={"replicas": 3, "cpus_per_replica": 2}))
    with pytest.raises(ConfigError, match="cannot move"):
        deployment.deploy(local, CONFIG.model_copy(update={"port": free_port()}))
    with pytest.raises(ConfigError, match="cannot be listened on"):
        deployment.check_port("127.0.0.1", int(url.rsplit(":", 1)[1]))


@pytest.mark.parametrize(("changed", "warned"), [({"host": "localhost"}, 0), ({"top_k": 1}, 1)])
def test_missing_room_is_said_where_replicas_are_replaced(
    local: str, changed: dict[str, Any], warned: int, caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch, url: str,
) -> None:  # fmt: skip
    monkeypatch.setattr(deployment.capacity, "fits_now", lambda *_: False)
    monkeypatch.setattr(serve, "run", lambda *_, **__: None)
    assert deployment.deploy(local, CONFIG.model_copy(update=changed)) == url
    assert (
        sum("no room for one more replica" in record.message for record in caplog.records) == warned
    )
