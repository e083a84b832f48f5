"""The registry as the page gets it, and the look at an endpoint."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rtl import storage
from rtl.errors import ConfigError, NotFoundError
from rtl.model import bundle, registry
from rtl.ports import free_port
from rtl.studio.models import endpoint
from rtl.studio.models.versions import Versions
from tests.support import page_server
from tests.support.bundles import make_info
from tests.support.made_runs import made_scores
from tests.support.page_server import Canned


def _register(root: Path, name: str, version: int, **info: object) -> str:
    """A version by its description alone: its weights are a few bytes."""
    uri = registry.place(str(root), name, version)
    text = json.dumps(make_info(**info).to_dict()).encode()
    storage.commit(uri, {bundle.INFO: text, bundle.MODEL: b"weights"})
    return uri


def test_versions_are_listed_newest_first_with_scores(tmp_path: Path) -> None:
    scores = made_scores(right=45)
    config = {"data": {"uri": "s3://bucket/data"}}
    _register(tmp_path, "solar", 1, metrics={"val": scores, "test": scores}, config=config)
    _register(tmp_path, "solar", 2, unfrozen_layers=0)
    canary = registry.Canary(2, 0.25, shadow=True)
    registry.write_pointer(str(tmp_path), "solar", registry.Pointer(1, None, canary))
    [model] = Versions(str(tmp_path)).models()
    assert [version["version"] for version in model["versions"]] == [2, 1]
    assert (model["name"], model["current"], model["previous"]) == ("solar", 1, None)
    assert model["canary"] == {"version": 2, "share": 0.25, "shadow": True}
    newest, first = model["versions"]
    assert first["scores"]["test"]["accuracy"]["value"] == 0.75
    assert first["scores"]["test"]["rows"] == 60
    assert (first["data"], first["data_uri"], first["depth"]) == ("d" * 16, "s3://bucket/data", 2)
    assert newest["scores"] == {"val": None, "test": None}
    assert newest["size"] > len(b"weights")
    json.dumps(model, allow_nan=False)


def test_a_damaged_version_breaks_its_own_row_alone(tmp_path: Path) -> None:
    _register(tmp_path, "solar", 1)
    uri = _register(tmp_path, "solar", 2)
    storage.write_bytes(storage.join(uri, bundle.INFO), b'{"name": "<script>"}')
    storage.write_bytes(storage.join(_register(tmp_path, "solar", 3), bundle.INFO), b"[]")
    storage.write_json(storage.join(str(tmp_path), "registry", "solar", "current.json"), [])
    [model] = Versions(str(tmp_path)).models()
    third, second, first = model["versions"]
    assert not first["problem"]
    assert "bundle.json" in second["problem"]
    assert third["problem"]
    assert "promote a version of solar again" in model["problem"]


def test_no_model_is_an_empty_list(tmp_path: Path) -> None:
    assert Versions(str(tmp_path)).models() == []


def test_an_endpoint_tells_its_model_and_traffic() -> None:
    with page_server.serving(Canned(token="secret")) as url:
        found = endpoint.ask(f"{url}/", "secret")
        assert found["address"] == url
        assert found["model"]["name"] == "colours"
        assert found["traffic"]["drift"]["level"] == "same"
        with pytest.raises(ConfigError, match="another token"):
            endpoint.ask(url, "guess")


def test_nobody_answers() -> None:
    with pytest.raises(NotFoundError, match="No endpoint answers"):
        endpoint.ask(f"http://127.0.0.1:{free_port()}")


@pytest.mark.parametrize(
    "text",
    ["", "ftp://host", "file:///etc/passwd", "http://", "http://user@host", "http://h:99999"],
)
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="is no address"):
        endpoint.check(text)


def test_an_address_needs_no_scheme() -> None:
    assert endpoint.check(" 127.0.0.1:8000/ ") == "http://127.0.0.1:8000"
