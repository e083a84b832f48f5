"""Only the studio's own page, opened with the token, gets through."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest

from rtl.config.tree import Config
from rtl.studio import server
from rtl.studio.workspace import Workspace

TOKEN = "a-token-of-a-test"


@pytest.fixture
def link(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    workspace = Workspace(Config(storage=str(tmp_path_factory.mktemp("root"))))
    with server.running(workspace, token=TOKEN) as found:
        yield found


@pytest.fixture
def client(link: str) -> Iterator[httpx.Client]:
    """A browser that has opened the link."""
    with httpx.Client(base_url=link.split("/?")[0]) as found:
        assert found.get(link, follow_redirects=True).status_code == 200
        yield found


def test_without_the_token_nothing_is_shown(link: str) -> None:
    base = link.split("/?")[0]
    for path in ("/", "/page/app.js", "/api/workspace", "/api/events", "/?token=wrong"):
        answer = httpx.get(base + path)
        assert answer.status_code == 401, path
        assert TOKEN not in answer.text


def test_the_link_sets_a_cookie_and_takes_the_token_out_of_the_address(link: str) -> None:
    answer = httpx.get(link)
    assert answer.status_code == 303
    assert answer.headers["location"] == "/"
    cookie = answer.headers["set-cookie"].lower()
    assert "httponly" in cookie
    assert "samesite=strict" in cookie


def test_a_script_may_send_the_token_as_a_bearer(link: str) -> None:
    headers = {"Authorization": f"Bearer {TOKEN}"}
    answer = httpx.get(link.split("/?")[0] + "/api/workspace", headers=headers)
    assert answer.status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "http://example.com"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1:1"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
    ],
)
def test_another_page_changes_nothing(client: httpx.Client, headers: dict[str, str]) -> None:
    answer = client.post("/api/workspace/open", json={"uri": "/nowhere"}, headers=headers)
    assert answer.status_code == 403


def test_the_own_page_may_post(client: httpx.Client) -> None:
    headers = {"Origin": str(client.base_url).rstrip("/"), "Sec-Fetch-Site": "same-origin"}
    answer = client.post("/api/workspace/open", json={"uri": "/nowhere"}, headers=headers)
    assert answer.status_code == 404
    assert "rtl pack" in answer.json()["error"]


def test_another_name_for_the_address_is_refused(client: httpx.Client) -> None:
    answer = client.get("/api/workspace", headers={"Host": "rebound.example:80"})
    assert answer.status_code == 421


def test_every_answer_confines_the_page(client: httpx.Client) -> None:
    for path in ("/", "/page/app.js", "/page/vendor/htm-preact.js", "/api/workspace", "/nothing"):
        headers = client.get(path).headers
        policy = headers["content-security-policy"]
        assert "script-src 'self'" in policy, path
        assert "unsafe" not in policy
        assert headers["x-content-type-options"] == "nosniff"


def test_the_docs_of_the_requests_are_not_shown(client: httpx.Client) -> None:
    assert client.get("/docs").status_code == 404
