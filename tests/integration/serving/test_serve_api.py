"""What the endpoint says beyond a label, and how it follows the registry."""

from __future__ import annotations

import base64
import dataclasses
import io
import json
import secrets
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import jsonschema
import numpy as np
import pytest
import torch
from PIL import Image
from playwright.sync_api import Browser

from rtl import storage
from rtl.config.schema import ServeConfig
from rtl.errors import BundleError
from rtl.evaluation import baseline
from rtl.model import bundle, registry
from rtl.model.bundle import Classifier
from rtl.model.registry import Canary
from tests.conftest import make_image
from tests.support.bundles import make_info, make_network

with warnings.catch_warnings():
    # Ray Serve's own config classes use a form of `Field` that pydantic 2 deprecates.
    warnings.filterwarnings("ignore", "Using extra keyword arguments on `Field`")
    from rtl.serving import deployment
    from rtl.serving.http import openapi

TOKEN = "canary-token-5c1d"
JPEG = make_image("red", 0)
SHOP = "https://shop.example"
CONFIG = ServeConfig(port=0, max_batch_size=4, top_k=2, follow_s=0.2, cors_origins=(SHOP,))


pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def root(s3_server: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A storage root with three versions of `colours`, the first one current."""
    root = f"{s3_server}/{secrets.token_hex(6)}"
    info = make_info(image_size=139, uncertain_below=0.999)
    for seed in range(3):
        network = make_network(seed=seed, sharpness=20)
        raw = Classifier(info, network, torch.device("cpu"))
        pixels = [raw.preprocess(make_image("red", i)) for i in range(baseline.MIN_ROWS)]
        said = raw.output(torch.stack(pixels))
        made = str(tmp_path_factory.mktemp("made") / str(seed))
        known = dataclasses.replace(
            info, baseline=baseline.measure(said.probabilities, said.pooled)
        )
        bundle.save(made, known, network)
        registry.register(root, "colours", made)
    registry.promote(root, "colours", 1)
    return root


@pytest.fixture(scope="module")
def client(ray_cluster: None, root: str) -> Iterator[httpx.Client]:
    """The endpoint follows `colours` and asks for a token."""
    url = deployment.deploy_name(root, "colours", CONFIG, token=TOKEN)
    headers = {"authorization": f"Bearer {TOKEN}"}
    with httpx.Client(base_url=url, headers=headers, timeout=60) as client:
        yield client
    deployment.shutdown()


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def version(client: httpx.Client) -> int:
    found: int = client.get("/v1/model").json()["version"]
    return found


def checked(reply: httpx.Response, schema: str) -> Any:
    """The body, which must be what the OpenAPI document says."""
    document = openapi.document(secured=True)
    rule = {"$ref": f"#/components/schemas/{schema}", "components": document["components"]}
    jsonschema.validate(reply.json(), rule)
    return reply.json()


def test_a_heatmap_shows_what_spoke_for_the_class(client: httpx.Client, root: str) -> None:
    reply = client.post("/v1/predict?explain=true&top_k=3", content=JPEG)
    (result,) = checked(reply, "Answer")["results"]
    heatmap = Image.open(io.BytesIO(base64.b64decode(result["heatmap"])))
    assert (heatmap.format, heatmap.mode, heatmap.size) == ("PNG", "RGBA", (139, 139))
    classifier = Classifier.load(registry.place(root, "colours", 1))
    said = classifier.output(classifier.preprocess(JPEG)[None])
    heat = classifier.heatmap(said.maps[0], int(said.probabilities[0].argmax()))
    assert heat.max() == pytest.approx(1)
    alpha = np.asarray(heatmap)[..., 3].astype(float)
    # One pixel of a map this small stands for tens: its place is that of the highest alpha.
    row, column = np.unravel_index(alpha.argmax(), alpha.shape)
    best = np.unravel_index(int(heat.argmax()), heat.shape)
    assert heat.shape == (3, 3)
    assert (row * 3 // 139, column * 3 // 139) == best
    assert "heatmap" not in client.post("/v1/predict", content=JPEG).json()["results"][0]
    assert client.post("/v1/predict?explain=yes", content=JPEG).status_code == 400


def test_json_with_base64(client: httpx.Client) -> None:
    encoded = base64.b64encode(JPEG).decode()
    images = [{"name": "a", "data": encoded}, {"data": base64.b64encode(b"no image").decode()}]
    content = checked(
        client.post("/v1/predict", json={"images": images, "top_k": 1, "explain": True}), "Answer"
    )
    good, bad = content["results"]
    assert (good["file"], len(good["predictions"]), bad["file"]) == ("a", 1, None)
    assert "heatmap" in good
    assert (bad["error"]["type"], bad["error"]["status"]) == ("unsupported_image", 415)
    alone = client.post("/v1/predict", content=JPEG).json()["results"][0]
    assert good["predictions"][0]["label"] == alone["predictions"][0]["label"]
    for wrong in (
        {"images": []}, {"images": [{"data": "%%%"}]}, {"images": [{"url": "http://127.0.0.1"}]},
        {"images": [{"data": encoded}], "top_k": 0}, [],
        {"images": [{"data": encoded}] * 65},
    ):  # fmt: skip
        reply = client.post("/v1/predict", json=wrong)
        assert (reply.status_code, reply.json()["error"]["type"]) == (400, "bad_request"), wrong
    deep = client.post(
        "/v1/predict", content=b"[" * 100_000, headers={"content-type": "application/json"}
    )
    assert deep.status_code == 400


def test_answers_are_called_uncertain_below_the_bundles_confidence(client: httpx.Client) -> None:
    threshold = client.get("/v1/model").json()["uncertain_below"]
    found = []
    for seed in range(6):
        (result,) = client.post("/v1/predict", content=make_image("blue", seed)).json()["results"]
        found.append((result["predictions"][0]["probability"] < threshold, result["uncertain"]))
    assert all(below == uncertain for below, uncertain in found)
    assert any(uncertain for _, uncertain in found)


def test_without_the_token_nothing_is_said(client: httpx.Client) -> None:
    for headers in ({}, {"authorization": "Bearer wrong"}, {"authorization": f"Basic {TOKEN}"}):
        for method, path in (
            ("POST", "/v1/predict"),
            ("GET", "/v1/model"),
            ("GET", "/v1/traffic"),
            ("GET", "/metrics"),
        ):
            reply = httpx.request(method, client.base_url.join(path), headers=headers, content=JPEG)
            assert (reply.status_code, reply.json()["error"]["type"]) == (401, "unauthorized")
            assert reply.headers["www-authenticate"] == "Bearer"
    for path in ("/healthz", "/readyz", "/openapi.json", "/"):
        assert httpx.get(client.base_url.join(path)).status_code == 200


def test_a_page_of_another_origin_may_ask(client: httpx.Client) -> None:
    url = client.base_url.join("/v1/predict")
    asking = {"origin": SHOP, "access-control-request-method": "POST"}
    may = httpx.options(url, headers=asking)
    without_token = httpx.post(url, headers={"origin": SHOP}, content=JPEG)
    assert (may.status_code, without_token.status_code) == (200, 401)
    for reply in (may, without_token):
        assert reply.headers["access-control-allow-origin"] == SHOP
    other = httpx.options(url, headers={**asking, "origin": "https://other.example"})
    assert (other.status_code, "serve.cors_origins" in other.text) == (403, True)


@pytest.mark.browser
def test_the_page_at_the_real_endpoint(client: httpx.Client, browser: Browser) -> None:
    page = browser.new_page()
    page.goto(str(client.base_url))
    page.get_by_label("This server needs an access token").fill(TOKEN)
    page.get_by_role("button", name="Unlock").click()
    page.get_by_role("heading", name="colours@1").wait_for()
    photo = {"name": "cell.jpg", "mimeType": "image/jpeg", "buffer": make_image("green", 3)}
    page.locator("#files").set_input_files([photo])  # type: ignore[list-item]
    page.locator(".heat").wait_for()
    (said,) = client.post("/v1/predict", content=make_image("green", 3)).json()["results"]
    assert page.locator(".verdict").inner_text() == said["predictions"][0]["label"]
    percent = page.locator(".bars .percent").first.inner_text()
    assert float(percent.split()[0]) == pytest.approx(
        100 * said["predictions"][0]["probability"], abs=0.3
    )


def test_the_openapi_document_is_what_is_answered(client: httpx.Client) -> None:
    document = client.get("/openapi.json").json()
    assert document["security"] == [{"token": []}]
    assert set(document["paths"]) == {
        "/v1/predict", "/v1/model", "/v1/traffic", "/healthz", "/readyz",
    }  # fmt: skip
    checked(client.get("/v1/model"), "Card")
    checked(client.get("/v1/traffic"), "Traffic")
    checked(client.get("/healthz"), "Health")
    checked(client.post("/v1/predict", content=b""), "Error")


def test_metrics_count_requests_and_images(client: httpx.Client) -> None:
    def count(line: str) -> float:
        text = client.get("/metrics").text
        return next((float(t.split()[-1]) for t in text.splitlines() if t.startswith(line)), 0.0)

    good = 'rtl_requests_total{route="/v1/predict",status="200"}'
    bad = 'rtl_requests_total{route="/v1/predict",status="415"}'
    images = 'rtl_images_total{outcome="ok",version="colours@1"}'
    fast = 'rtl_request_seconds_count{route="/v1/predict"}'
    before = [count(line) for line in (good, bad, images, fast)]
    files = [("f", (f"{i}.jpg", JPEG)) for i in range(3)]
    assert client.post("/v1/predict", files=files).status_code == 200
    assert client.post("/v1/predict", content=b"text").status_code == 415
    after = [count(line) for line in (good, bad, images, fast)]
    assert [b - a for a, b in zip(before, after, strict=True)] == [1, 1, 3, 2]


def test_drift_is_seen_once_there_are_enough_images(client: httpx.Client) -> None:
    assert client.get("/v1/traffic").json()["drift"]["level"] == "unknown"
    noise = np.random.default_rng(0)
    for part in range(4):
        files = []
        for number in range(64):
            buffer = io.BytesIO()
            shade = noise.integers(0, 40, 3)
            Image.new("RGB", (80, 80), tuple(int(v) for v in shade)).save(buffer, "PNG")
            files.append(("f", (f"{part}-{number}.png", buffer.getvalue())))
        assert client.post("/v1/predict", files=files).status_code == 200
    drift = checked(client.get("/v1/traffic"), "Traffic")["drift"]
    assert drift["rows"] >= 200
    assert drift["level"] == "other"
    assert drift["distance"] > 0.25
    assert 'rtl_drift{signal="distance"}' in client.get("/metrics").text


def test_promotion_and_rollback_under_load_lose_no_request(client: httpx.Client, root: str) -> None:
    statuses: list[int] = []
    versions: list[int] = []
    stop = threading.Event()

    def ask() -> None:
        while not stop.is_set():
            reply = client.post("/v1/predict", content=JPEG)
            statuses.append(reply.status_code)
            if reply.status_code == 200:
                versions.append(reply.json()["model"]["version"])

    threads = [threading.Thread(target=ask) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        registry.promote(root, "colours", 2)
        until(lambda: version(client) == 2)
        assert registry.rollback(root, "colours") == 1
        until(lambda: version(client) == 1)
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert set(statuses) == {200}
    assert {1, 2} == set(versions)
    assert registry.rollback(root, "colours") == 2  # back again to where it came from
    until(lambda: version(client) == 2)  # else it may come when 1 is thought to be served again
    registry.promote(root, "colours", 1)
    until(lambda: version(client) == 1)


@pytest.mark.parametrize("shadow", [True, False])
def test_a_canary_answers_beside_the_current_model(
    client: httpx.Client, root: str, shadow: bool
) -> None:
    def trial() -> Any:
        return client.get("/v1/traffic").json()["canary"]

    registry.set_canary(root, "colours", Canary(3, 0.5, shadow))
    until(lambda: (trial() or {}).get("shadow") is shadow)
    before = trial()["rows"]
    given = [
        client.post("/v1/predict", content=make_image("green", i)).json()["results"][0]["version"]
        for i in range(24)
    ]
    assert set(given) == ({1} if shadow else {1, 3})
    until(lambda: trial()["rows"] - before >= 3)
    found = trial()
    assert (found["version"], found["share"], found["failed"]) == (3, 0.5, 0)
    assert found["rows"] - before < 24
    assert 0 <= found["agreement"]["low"] <= found["agreement"]["value"] <= 1
    difference = found["candidate"]["confidence"] - found["current"]["confidence"]
    assert found["confidence_difference"]["mean"] == pytest.approx(difference)
    assert 0 <= found["confidence_difference"]["p_value"] <= 1
    registry.set_canary(root, "colours", None)
    until(lambda: trial() is None)


def test_a_refused_deployment_leaves_the_name_followed(client: httpx.Client, root: str) -> None:
    files = bundle.read_files(registry.place(root, "colours", 3))
    broken = f"{root}/broken"
    storage.write_bytes(f"{broken}/{bundle.MODEL}", files[bundle.MODEL][:-1])
    storage.write_bytes(f"{broken}/{bundle.INFO}", files[bundle.INFO])
    storage.seal(broken, {name: storage.describe(data) for name, data in files.items()})
    with pytest.raises(BundleError, match=r"was rejected, .*/1 stays in service"):
        deployment.deploy(  # as if a replica alone could see it
            broken, CONFIG, token=TOKEN, verify=lambda _: None
        )
    assert version(client) == 1
    registry.promote(root, "colours", 2)
    until(lambda: version(client) == 2)
    registry.promote(root, "colours", 1)
    until(lambda: version(client) == 1)


def test_a_bundle_that_answers_the_golden_image_otherwise_takes_no_traffic(
    client: httpx.Client, root: str, tmp_path: Path
) -> None:
    first = registry.place(root, "colours", 1)
    info, network = bundle.load(first)
    bundle.save(str(tmp_path / "b"), info, network)
    version_4 = registry.register(root, "colours", str(tmp_path / "b"))
    # As if this machine decoded otherwise than the one that made the bundle.
    wrong = dataclasses.replace(info, mean=(0.6,) * 3, std=(0.1,) * 3)
    files = bundle.read_files(registry.place(root, "colours", version_4))
    document = {**json.loads(files[bundle.INFO]), "mean": list(wrong.mean), "std": list(wrong.std)}
    files[bundle.INFO] = json.dumps(document).encode()
    place = registry.place(root, "colours", version_4)
    storage.delete(storage.join(place, storage.COMMIT))
    storage.commit(place, files)
    with pytest.raises(BundleError, match="golden image"):
        registry.promote(root, "colours", version_4)
    assert registry.current(root, "colours") == 1
    # A pointer that was moved by hand.
    storage.write_json(f"{root}/registry/colours/current.json", {"version": version_4})
    until(lambda: bool(client.get("/v1/model").json()["rejected"]))
    assert "golden image" in client.get("/v1/model").json()["rejected"][0]
    assert version(client) == 1
    assert client.post("/v1/predict", content=JPEG).status_code == 200
    registry.promote(root, "colours", 1)
