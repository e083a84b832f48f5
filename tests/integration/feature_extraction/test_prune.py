from __future__ import annotations

import functools
import json
import threading
from pathlib import Path

import pytest

from rtl import storage
from rtl.cli import main
from rtl.feature_extraction import cache, extraction, prune
from rtl.storage.lease import Lease
from tests.conftest import make_dataset
from tests.support.features import make_config

STALE_S = 0.3
Quick = functools.partial(Lease, beat_s=0.05, stale_s=STALE_S)


def test_a_lease_whose_holder_died_is_taken_over(tmp_path: Path) -> None:
    uri = str(tmp_path / "BUILDER")
    with Quick(uri) as alive:
        assert alive.take()
        waiting = Quick(uri)
        tries = [waiting.take() or threading.Event().wait(0.1) for _ in range(6)]
        assert not any(tries)  # it beats
    assert waiting.take()
    waiting.release()
    storage.write_bytes(uri, b"of a dead process")
    heir = Quick(uri)
    assert not heir.take()
    threading.Event().wait(0.4)
    assert heir.take()
    heir.release()
    assert not storage.exists(uri)
    assert heir.take()
    first = storage.read_bytes(uri)
    beats = (storage.read_bytes(uri) != first or threading.Event().wait(0.1) for _ in range(100))
    assert any(beats)  # as the first time
    heir.release()


def test_what_nobody_can_use_is_pruned(
    tmp_path: Path,
    ray_cluster: None,
    capsys: pytest.CaptureFixture[str],
) -> None:
    root = str(tmp_path)
    manifest = make_dataset(f"{root}/data")
    settings = make_config(root)
    found = extraction.build(settings, manifest, [0, 1])
    kept, outdated = found[0].uri, found[1].uri
    about = storage.read_json(storage.join(outdated, cache.RECORD))
    gone = json.dumps({**about, "data_uri": f"{root}/no-longer-there"}).encode()
    storage.write_bytes(storage.join(outdated, cache.RECORD), gone)
    storage.seal(outdated, {**found[1].files, cache.RECORD: storage.describe(gone)})
    dead = storage.join(root, "features", "dead")
    storage.write_bytes(storage.join(dead, cache.BUILDER), b"of a dead process")
    storage.write_bytes(storage.join(dead, "x.parquet"), bytes(1000))
    working = storage.join(root, "features", "working")
    with Quick(storage.join(working, cache.BUILDER)) as alive:
        assert alive.take()
        states = {cache.uri: cache.state for cache in prune.listing(root, stale_s=STALE_S)}
        assert states == {
            kept: "ready", outdated: "outdated", dead: "abandoned", working: "building",
        }  # fmt: skip
        assert {cache.uri for cache in prune.prune(root, stale_s=STALE_S)} == {outdated, dead}
        everything = prune.prune(root, everything=True, stale_s=STALE_S)
        assert [cache.uri for cache in everything] == [kept]
        assert [cache.uri for cache in prune.listing(root, stale_s=STALE_S)] == [working]
    storage.write_bytes(storage.join(dead, "x.parquet"), bytes(1000))
    assert main.main(["features", "--prune", "--storage", root]) == 0
    assert "Removed 1 caches" in capsys.readouterr().out


@pytest.mark.parametrize("ended", [False, True])
def test_what_a_builder_took_up_in_the_meantime_is_not_pruned(place: str, ended: bool) -> None:
    manifest = make_dataset(f"{place}/data")
    uri = storage.join(place, "features", "taken-up")
    lone = storage.join(place, "features", "dead")
    about = json.dumps(
        {"data_uri": f"{place}/data", "manifest": manifest.digest, "width": 2048}
    ).encode()
    files = {"x.parquet": bytes(1000), cache.RECORD: about}
    for name, data in files.items():
        storage.write_bytes(storage.join(uri, name), data)
    storage.write_bytes(storage.join(lone, cache.BUILDER), b"of a dead process")
    storage.write_bytes(storage.join(lone, "x.parquet"), bytes(1000))
    builder = Quick(storage.join(uri, cache.BUILDER))
    with builder:
        found = prune.scan(place, stale_s=STALE_S)
        assert builder.take()  # it begins after the scan, and may have ended before the removal
        if ended:
            storage.commit(uri, files)
            builder.release()
        assert [cache.uri for cache in prune.remove(found)] == [lone]
        assert storage.read_bytes(storage.join(uri, "x.parquet")) == bytes(1000)
    assert storage.list_files(lone) == []
    assert storage.is_committed(uri) == ended
