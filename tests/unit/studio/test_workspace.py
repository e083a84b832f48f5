"""The open data set and what the studio remembers of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from rtl import storage
from rtl.config.tree import Config
from rtl.errors import ConfigError, NotFoundError
from rtl.studio import session as sessions
from rtl.studio.workspace import Workspace, short
from tests.conftest import make_dataset


@pytest.fixture
def root(tmp_path: Path) -> str:
    return str(tmp_path / "root")


@pytest.fixture
def data(tmp_path: Path) -> str:
    return make_dataset(str(tmp_path / "dogs"), 6, 3, 3).uri


def workspace(root: str) -> Workspace:
    return Workspace(Config(storage=root))


def test_nothing_is_open_at_first(root: str) -> None:
    first = workspace(root)
    first.begin(None)
    assert not first.is_open
    assert first.describe()["data"] is None
    with pytest.raises(NotFoundError, match="No data set is open"):
        _ = first.data


def test_the_next_start_opens_what_was_open_last(root: str, data: str) -> None:
    first = workspace(root)
    first.begin(data, pool="photos", name="rex")
    first.update(price=0.4, budget=100)
    second = workspace(root)
    second.begin(None)
    assert second.session == first.session
    assert second.session.name == "rex"
    assert second.session.price == 0.4
    assert second.session.pool == storage.normalize("photos")


def test_a_data_set_is_opened_at_its_newest_version(root: str, data: str, tmp_path: Path) -> None:
    newer = make_dataset(str(tmp_path / "v2"), 9, 3, 3)
    first = workspace(root)
    first.begin(data)
    first.update(data=newer.uri, versions=1)
    for named in (data, newer.uri):
        again = workspace(root)
        again.begin(named)
        assert again.data.digest == newer.digest
        assert again.session.origin == data
        assert again.session.versions == 1


def test_two_data_sets_have_sessions_of_their_own(root: str, data: str, tmp_path: Path) -> None:
    other = make_dataset(str(tmp_path / "cats"), 9, 3, 3).uri
    first = workspace(root)
    first.begin(data)
    first.update(price=1.0)
    first.open(other)
    assert first.session.price is None
    assert first.session.name == "cats"
    first.open(data)
    assert first.session.price == 1.0


def test_a_data_set_that_is_gone_is_not_opened(root: str, data: str) -> None:
    workspace(root).begin(data)
    storage.delete(storage.join(data, "manifest.json"))
    again = workspace(root)
    again.begin(None)
    assert not again.is_open
    with pytest.raises(NotFoundError, match=r"manifest\.json"):
        again.begin(data)


def test_a_pool_needs_a_data_set(root: str) -> None:
    with pytest.raises(ConfigError, match="--data"):
        workspace(root).begin(None, pool="photos")


def test_pages_name_data_sets_by_the_start_of_their_digest(root: str, data: str) -> None:
    first = workspace(root)
    first.begin(data)
    assert first.manifest(short(first.data)) is first.data
    with pytest.raises(NotFoundError, match="0000"):
        first.manifest("0000")


@pytest.mark.parametrize(
    ("uri", "name"),
    [
        ("/photos/solar cells/", "solar-cells"), ("s3://bucket", "bucket"),
        ("/a/.hidden", "hidden"), ("/写真", "model"), ("/a/" + 80 * "b", 48 * "b"),
    ],
)  # fmt: skip
def test_a_name_comes_from_the_data_set(uri: str, name: str) -> None:
    assert sessions.default_name(uri) == name
