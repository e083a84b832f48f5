from __future__ import annotations

import functools
import shutil
import threading
from pathlib import Path
from typing import Any

import pytest
import torch

from rtl import storage
from rtl.errors import DataError, ResourceError
from rtl.feature_extraction import cache, cost, extraction, prune, trunk
from rtl.feature_extraction.cache import Features
from rtl.labels import versions
from rtl.labels.versions import Changes
from rtl.model import inception
from tests.conftest import make_dataset
from tests.support.features import Built, compute, make_config, never, rows


def test_a_process_keeps_the_trunk_for_the_tasks_of_one_pass() -> None:
    made: list[tuple[Any, ...]] = []

    class CountedTrunk:
        def __init__(self, *arguments: Any) -> None:
            made.append(arguments)
            self.number = len(made)

        def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
            return {"from": [self.number] * len(batch["item"]), "threads": torch.get_num_threads()}

    def task(name: str) -> dict[str, Any]:
        return trunk.run_task({"item": [0]}, name, (name, None, {}), make=CountedTrunk)

    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        answers = [task(name) for name in ("a", "a", "b", "a")]
        torch.set_num_threads(2)
        again = task("a")
    finally:
        torch.set_num_threads(before)
    assert [answer["from"] for answer in [*answers, again]] == [[1], [1], [2], [3], [3]]
    assert made == [("a", None, {}), ("b", None, {}), ("a", None, {})]
    assert answers[0]["threads"] == again["threads"] == 1


def test_one_pass_gives_every_cut_and_is_not_run_again(built: Built) -> None:
    settings, manifest, found = built
    taps = inception.taps_width(16)
    assert {k: f.width for k, f in found.items()} == {0: 2048 + taps, 1: 2048 + taps}
    again = extraction.build(
        settings, manifest, [1, 0], progress=lambda *_: pytest.fail("computed again")
    )
    assert again == found
    about = storage.read_json(storage.join(found[1].uri, cache.RECORD))
    assert (about["cut"], about["manifest"]) == (1, manifest.digest)
    assert rows(found[1], manifest, never).dtype == torch.bfloat16


def test_of_a_version_only_what_is_new_is_computed(tmp_path: Path, built: Built) -> None:
    settings, manifest, found = built
    shutil.copytree(Path(found[1].uri).parent, tmp_path / "features")
    settings = settings.replace(storage=str(tmp_path))
    changes = Changes({"00003": "red"}, frozenset({"00001"}), moved={"00030": "train"})
    made = versions.apply(manifest, changes, f"{tmp_path}/next", what="label apply")
    seen: list[tuple[int, int]] = []
    again = extraction.build(settings, made, [0, 1], progress=lambda *done: seen.append(done))
    total = 2 * made.rows("train") + made.rows("val") + made.rows("test")
    assert seen == [(total - 1, total), (total, total)]  # the row that moved, in its second view
    scratch = compute(settings.replace(storage=f"{tmp_path}/scratch"), made, [0, 1])
    assert [again[k].files for k in (0, 1)] == [scratch[k].files for k in (0, 1)]


def test_a_build_that_died_is_taken_up(built: Built) -> None:
    settings, manifest, found = built
    before = rows(found[1], manifest, never)
    names = sorted(found[1].files)
    uri = found[1].uri
    storage.delete(storage.join(uri, storage.COMMIT))
    storage.delete(storage.join(uri, names[0]))
    cut = storage.read_bytes(storage.join(uri, names[1]))
    storage.write_bytes(storage.join(uri, names[1]), cut[: len(cut) // 2])
    seen: list[tuple[int, int]] = []
    again = extraction.build(settings, manifest, [1], progress=lambda *done: seen.append(done))
    total = 2 * manifest.rows("train") + manifest.rows("val") + manifest.rows("test")
    assert again[1] == found[1]
    assert 0 < seen[0][0] < total
    assert seen[-1] == (total, total)
    assert torch.equal(rows(again[1], manifest, never), before)


@pytest.mark.parametrize("name", [cache.RECORD, storage.COMMIT])
@pytest.mark.parametrize("damage", ["flipped", "cut", "gone"])
def test_damaged_records_of_a_cache_are_written_anew(built: Built, name: str, damage: str) -> None:
    settings, manifest, found = built
    uri = storage.join(found[1].uri, name)
    data = storage.read_bytes(uri)
    if damage == "gone":
        storage.delete(uri)
    else:  # flipped: of a key, so that it is JSON as before
        bad = data.replace(b'"', b'"x', 1) if damage == "flipped" else data[: len(data) // 2]
        storage.write_bytes(uri, bad)
    assert cache.load(found[1].uri) is None
    assert found[1].uri in {cache.uri for cache in prune.listing(settings.storage)}
    seen: list[tuple[int, int]] = []
    again = extraction.build(settings, manifest, [0, 1], progress=lambda *done: seen.append(done))
    assert again == found
    assert storage.read_bytes(uri) == data
    assert [done for done, total in seen if done < total] == []  # nothing is computed again


@pytest.mark.parametrize("damage", ["flipped", "cut", "gone"])
def test_a_damaged_file_is_found_and_computed_anew(built: Built, damage: str) -> None:
    settings, manifest, found = built
    before = rows(found[1], manifest, never)
    name = next(name for name in sorted(found[1].files) if ".v1." in name)
    uri = storage.join(found[1].uri, name)
    data = bytearray(storage.read_bytes(uri))
    if damage == "gone":
        storage.delete(uri)
    else:
        data[len(data) // 2] ^= 1
        storage.write_bytes(uri, bytes(data if damage == "flipped" else data[:-9]))
    repairs: list[int] = []
    repair = trunk.Repair(settings.replace(model={"unfrozen_layers": 1}), manifest, found[1])

    def counted(*place: Any) -> bytes:
        repairs.append(1)
        return repair(*place)

    assert torch.equal(rows(found[1], manifest, counted), before)
    assert repairs == [1]
    assert torch.equal(rows(found[1], manifest, never), before)


def test_two_builders_make_one_pass(
    tmp_path: Path,
    ray_cluster: None,
    caplog: pytest.LogCaptureFixture,
) -> None:
    manifest = make_dataset(f"{tmp_path}/data")
    settings = make_config(str(tmp_path))
    results: dict[str, dict[int, Features]] = {}
    heard: dict[str, list[int]] = {"a": [], "b": []}

    def run(name: str) -> None:
        results[name] = extraction.build(
            settings, manifest, [0], progress=lambda done, _: heard[name].append(done), poll_s=0.1
        )

    threads = [threading.Thread(target=run, args=(name,)) for name in heard]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results["a"] == results["b"]
    assert sorted(bool(done) for done in heard.values()) == [False, True]
    assert caplog.text.count("Another process computes these features") == 1
    assert not storage.exists(storage.join(results["a"][0].uri, "BUILDER"))


@pytest.mark.slow  # a fit from a damaged shard is in tests/integration/test_train.py
def test_a_damaged_shard_ends_the_pass_with_its_name(tmp_path: Path, ray_cluster: None) -> None:
    manifest = make_dataset(f"{tmp_path}/data")
    shard = manifest.split("train")[1].path
    data = bytearray(storage.read_bytes(f"{tmp_path}/data/{shard}"))
    data[100] ^= 1
    storage.write_bytes(f"{tmp_path}/data/{shard}", bytes(data))
    with pytest.raises(DataError, match=shard):
        extraction.build(make_config(str(tmp_path)), manifest, [0])


def test_a_full_disk_is_said_before_the_pass(built: Built) -> None:
    settings, manifest, _ = built
    fresh = settings.replace(data={"seed": 5})
    with pytest.raises(ResourceError, match=r"k = 0 \+ .* for k = 1 = .* GB free.*--prune`\),"):
        extraction.build(fresh, manifest, [0, 1], free_bytes=lambda _: 1000)


def test_a_pass_that_is_taken_up_needs_room_for_what_is_missing(
    tmp_path: Path, built: Built
) -> None:
    settings, manifest, found = built
    shutil.copytree(Path(found[1].uri).parent, tmp_path / "features")
    settings = settings.replace(storage=str(tmp_path))
    uri = storage.join(tmp_path, "features", found[1].uri.rsplit("/", 1)[-1])
    storage.delete(storage.join(uri, storage.COMMIT))
    names = sorted(found[1].files)
    storage.delete(storage.join(uri, names[0]))
    expected = cost.estimate(settings, manifest, unfrozen_layers=1).bytes
    left = max(0, expected - sum(found[1].files[name]["bytes"] for name in names[1:]))
    build = functools.partial(extraction.build, settings, manifest, [1], free_bytes=lambda _: left)
    assert left < expected / 2
    assert set(build()[1].files) == set(names)
    storage.delete(storage.join(uri, storage.COMMIT))
    for name in names[1:]:
        storage.delete(storage.join(uri, name))
    with pytest.raises(ResourceError, match="not by `rtl features --prune`: it would remove the"):
        build()
