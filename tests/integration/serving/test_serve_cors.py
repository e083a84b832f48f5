"""Requests from web pages of other origins."""

from __future__ import annotations

import base64
import functools
import http.server
import threading
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from playwright.sync_api import Browser

from rtl.config.schema import ServeConfig
from rtl.serving.engine import Engine
from tests.conftest import make_image
from tests.support import endpoint

TOKEN = "cors-token-77aa"
SHOP = "https://shop.example"
JPEG = make_image("red", 0)
CONFIG = ServeConfig(port=0, max_body_mb=0.5, refusals_per_s=1000)
PREFLIGHT = {
    "access-control-request-method": "POST",
    "access-control-request-headers": "authorization,content-type",
}


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> str:
    return endpoint.make_bundle(str(tmp_path_factory.mktemp("serve") / "bundle"))


@pytest.fixture(scope="module")
def page_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A web server with an empty page, of another origin than any endpoint."""
    folder = tmp_path_factory.mktemp("page")
    (folder / "index.html").write_text("<!doctype html><title>shop</title>")
    handler = functools.partial(_Quiet, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://localhost:{server.server_port}"
        server.shutdown()
        thread.join()


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 -- its name there
        pass


@pytest.fixture(scope="module")
def local(bundle: str, page_url: str) -> Iterator[endpoint.Local]:
    """Asks for a token, and lets two origins in."""
    config = CONFIG.model_copy(update={"cors_origins": (SHOP, page_url)})
    with endpoint.serving(bundle, config, TOKEN) as local:
        yield local


@pytest.fixture(scope="module")
def client(local: endpoint.Local) -> Iterator[httpx.Client]:
    headers = {"authorization": f"Bearer {TOKEN}", "origin": SHOP}
    with httpx.Client(base_url=local.url, headers=headers, timeout=60) as client:
        yield client


def preflight(url: str, origin: str = SHOP, **changed: str) -> httpx.Response:
    headers = {**PREFLIGHT, "origin": origin}
    headers |= {name.replace("_", "-"): value for name, value in changed.items()}
    return httpx.options(f"{url}/v1/predict", headers=headers)


def words(header: str) -> set[str]:
    return {word.strip().lower() for word in header.split(",")}


def test_a_browser_may_ask_without_the_token_before_it_sends(local: endpoint.Local) -> None:
    counted = ("requests", "/v1/predict", "200")
    before = local.engine.counts[counted]
    reply = preflight(local.url, access_control_request_private_network="true")
    assert reply.status_code == 200
    assert reply.headers["access-control-allow-origin"] == SHOP
    assert {"get", "post"} == words(reply.headers["access-control-allow-methods"])
    assert {"authorization", "content-type"} < words(reply.headers["access-control-allow-headers"])
    assert reply.headers["access-control-allow-private-network"] == "true"
    assert "access-control-allow-credentials" not in reply.headers
    assert "origin" in words(reply.headers["vary"])
    assert local.engine.counts[counted] == before + 1


def test_answers_and_errors_may_be_read_by_the_page(
    client: httpx.Client, local: endpoint.Local, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(*_: Any) -> None:
        raise ZeroDivisionError

    def check(status: int, content: bytes = JPEG, **how: Any) -> httpx.Response:
        reply = client.post("/v1/predict", content=content, **how)
        assert reply.status_code == status
        assert reply.headers["access-control-allow-origin"] == SHOP
        assert reply.headers["access-control-expose-headers"] == "Retry-After"
        assert "origin" in words(reply.headers["vary"])
        return reply

    check(200)
    check(400, params={"topk": "1"})
    check(401, headers={"authorization": "Bearer wrong"})
    check(413, b"x" * 500_001)
    check(415, b"hello")
    engine = local.engine
    usual, engine.config = engine.config, engine.config.model_copy(update={"max_waiting": 0})
    check(503)
    engine.config = usual
    with monkeypatch.context() as patch:
        patch.setattr(Engine, "classify", fail)
        assert check(500).headers["connection"] == "close"
    assert client.get("/nothing").headers["access-control-allow-origin"] == SHOP


def test_a_page_of_another_origin_may_read_nothing(
    client: httpx.Client, local: endpoint.Local
) -> None:
    other = {"origin": "https://shop.example.evil.example"}
    reply = client.post("/v1/predict", content=JPEG, headers=other)
    assert "access-control-allow-origin" not in reply.headers
    assert "origin" in words(reply.headers["vary"])
    refused = preflight(local.url, **other)
    assert refused.status_code == 403
    assert refused.json()["error"] == {
        "type": "origin_not_allowed",
        "message": "The origin 'https://shop.example.evil.example' is not in serve.cors_origins of "
        "this endpoint; add it there to allow requests from its pages.",
    }
    assert not [name for name in refused.headers if name.startswith("access-control-")]


@pytest.mark.parametrize(
    ("asked", "why"),
    [
        ({"access_control_request_method": "PUT"}, "PUT with the headers 'authorization,conte"),
        ({"access_control_request_headers": "x-secret"}, "POST with the headers 'x-secret'; pages"),
    ],
)
def test_a_page_that_asks_for_more_is_told_what_there_is(
    local: endpoint.Local, asked: dict[str, str], why: str
) -> None:
    reply = preflight(local.url, **asked)
    assert (reply.status_code, reply.json()["error"]["type"]) == (403, "preflight_refused")
    assert why in reply.json()["error"]["message"]


@pytest.mark.parametrize(("origins", "allowed"), [((), None), (("*",), "*")])
def test_no_origin_is_allowed_but_those_that_are_said(
    bundle: str, origins: tuple[str, ...], allowed: str | None
) -> None:
    config = CONFIG.model_copy(update={"cors_origins": origins})
    with endpoint.serving(bundle, config) as local:
        reply = preflight(local.url)
        assert reply.status_code == (200 if allowed else 403)
        assert ("serve.cors_origins" in reply.text) is (allowed is None)
        assert reply.headers.get("access-control-allow-origin") == allowed
        answer = httpx.post(f"{local.url}/v1/predict", content=JPEG, headers={"origin": SHOP})
        assert answer.status_code == 200
        assert answer.headers.get("access-control-allow-origin") == allowed
        alone = httpx.options(f"{local.url}/v1/predict", headers={"origin": SHOP})
        assert (alone.status_code, alone.headers["allow"]) == (405, "POST")


FETCH = """
async ([url, token, text, how]) => {
  const bytes = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
  const form = new FormData();
  form.append("image", new Blob([bytes]), "zürich.jpg");
  form.append("top_k", "1");
  const data = `data:image/jpeg;base64,${text}`;
  const json = JSON.stringify({ images: [{ name: "zürich.jpg", data }], top_k: 1 });
  const body = { form, json, blob: new Blob([bytes], { type: "image/jpeg" }) }[how];
  const headers = token ? { Authorization: `Bearer ${token}` } : {};
  const query = how === "blob" ? "?top_k=1" : "";
  try {
    const reply = await fetch(`${url}/v1/predict${query}`, { method: "POST", headers, body });
    return { status: reply.status, content: await reply.json() };
  } catch (error) {
    return { status: 0, content: String(error) };
  }
}
"""


@pytest.mark.browser
def test_fetch_from_a_page_of_an_allowed_origin(
    local: endpoint.Local, page_url: str, browser: Browser, bundle: str
) -> None:
    page = browser.new_page()
    page.goto(page_url)
    text = base64.b64encode(JPEG).decode()
    for how, name in (("form", "zürich.jpg"), ("json", "zürich.jpg"), ("blob", None)):
        found = page.evaluate(FETCH, [local.url, TOKEN, text, how])
        assert found["status"] == 200, found
        (result,) = found["content"]["results"]
        assert (result["file"], len(result["predictions"])) == (name, 1)
    refused = page.evaluate(FETCH, [local.url, "wrong", text, "json"])
    assert (refused["status"], refused["content"]["error"]["type"]) == (401, "unauthorized")
    with endpoint.serving(bundle, CONFIG) as closed:  # which names no origin
        assert page.evaluate(FETCH, [closed.url, "", text, "json"])["status"] == 0
    page.close()
