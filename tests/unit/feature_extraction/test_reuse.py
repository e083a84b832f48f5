"""Rows of other versions, copied: equal to what the trunk computes, file by file."""

from __future__ import annotations

from pathlib import Path

import pytest
import ray

from rtl import storage
from rtl.config.tree import Config
from rtl.data import shards
from rtl.data.batches import ShardRead
from rtl.data.shards import Manifest
from rtl.feature_extraction import extraction, reuse
from rtl.feature_extraction.trunk import Trunk
from rtl.labels import versions
from rtl.labels.versions import Changes
from rtl.model import pretrained
from tests.conftest import make_dataset, make_image
from tests.support.features import compute, make_config

pytestmark = pytest.mark.usefixtures("one_thread")

Left = set[tuple[str, int]]
"""Id and view of rows that remain to be computed."""


def settings_of(root: str, *, views: int = 2) -> Config:
    return make_config(root, features={"views": views}, model={"precision": "bf16"})


def copy(config: Config, manifest: Manifest, depths: list[int]) -> tuple[dict[int, str], Left]:
    """Copies what there is; returns the cuts' folders, and what remains."""
    weights = pretrained.load(config.model.weights, config.storage).sha256
    sources = reuse.find_sources(config, manifest, weights_sha256=weights, depths=depths)
    uris = {k: storage.join(config.storage, "copied", str(k)) for k in depths}
    reads = extraction.split_reads(manifest, config.features.views)
    _, left = reuse.copy_rows(manifest, uris, reads, sources=sources)
    complete(config, manifest, uris, left)
    return uris, {(row, read.view) for read in left for row in ids(manifest, read)}


def complete(
    config: Config, manifest: Manifest, uris: dict[int, str], left: list[ShardRead]
) -> None:
    for item in extraction.group_reads(left):
        Trunk(config, manifest, uris)({"item": [item]})


def ids(manifest: Manifest, read: ShardRead) -> list[str]:
    found: list[str] = shards.read_shard(manifest, read.shard)["id"].take(read.rows).to_pylist()
    return found


def assert_as_computed(
    config: Config, manifest: Manifest, uris: dict[int, str], place: Path
) -> None:
    """The copied folders hold the files that the trunk alone writes, byte for byte."""
    scratch = compute(config.replace(storage=str(place / "scratch")), manifest, list(uris))
    for k, uri in uris.items():
        listed = [entry for entry in storage.list_files(uri) if entry.path.endswith(".parquet")]
        found = {e.path: storage.describe(storage.read_bytes(e.uri)) for e in listed}
        assert found == dict(scratch[k].files)


def pool_of(uri: str, *rows: tuple[str, str, int]) -> Manifest:
    """A pool of generated photos: id, colour and seed of each."""
    names, colours, seeds = zip(*rows, strict=True)
    images = [make_image(colour, seed) for colour, seed in zip(colours, seeds, strict=True)]
    encoded = shards.encode_shard(names, images, [0] * len(rows))
    shard = shards.Shard("train/00000.parquet", "train", len(rows), **storage.describe(encoded))
    storage.write_bytes(f"{uri}/{shard.path}", encoded)
    counts = {"train": (len(rows),), "val": (0,), "test": (0,)}
    Manifest(("unlabelled",), counts, (shard,)).save(uri)
    return shards.load_manifest(uri)


def test_a_version_is_written_without_ray_as_the_trunk_would(place: str, tmp_path: Path) -> None:
    config = settings_of(place, views=1)
    data = make_dataset(f"{place}/data", train=132, val=6, test=6, shard_rows=132)
    compute(config, data, [0, 1])
    changes = Changes({"00003": "red", "00133": "blue"}, frozenset({"00000", "00130", "00139"}))
    made = versions.apply(data, changes, f"{place}/next", what="label apply")
    seen: list[tuple[int, int]] = []
    found = extraction.build(config, made, [0, 1], progress=lambda *done: seen.append(done))
    assert not ray.is_initialized()
    total = sum(shard.rows for shard in made.shards)
    assert seen == [(total, total)]
    assert_as_computed(config, made, {k: f.uri for k, f in found.items()}, tmp_path)


def test_rows_of_a_pool_come_with_its_features(tmp_path: Path) -> None:
    """One whose id was taken has another id, and so another second view."""
    root = str(tmp_path)
    config = settings_of(root)
    data = make_dataset(f"{root}/data", train=12, val=3, test=3)
    pool = pool_of(f"{root}/pool", ("00001", "red", 70), ("new", "blue", 71), ("other", "red", 72))
    compute(config, data, [0])
    compute(config, pool, [0])
    added = {pool.uri: {"00001": "red", "new": "blue"}}
    made = versions.apply(data, Changes(added=added), f"{root}/next", what="label apply")
    uris, left = copy(config, made, [0])
    assert left == {(f"{pool.digest[:8]}/00001", 1)}
    assert_as_computed(config, made, uris, tmp_path)


def test_the_id_of_a_removed_row_may_be_another_image(tmp_path: Path) -> None:
    root = str(tmp_path)
    config = settings_of(root)
    data = make_dataset(f"{root}/data", train=12, val=3, test=3)
    compute(config, data, [0])
    less = versions.apply(data, Changes(removed=frozenset({"00001"})), f"{root}/b", what="x")
    pool = pool_of(f"{root}/pool", ("00001", "red", 70))
    added = {pool.uri: {"00001": "red"}}
    made = versions.apply(less, Changes(added=added), f"{root}/c", what="x")
    uris, left = copy(config, made, [0])
    assert left == {("00001", 0), ("00001", 1)}
    assert_as_computed(config, made, uris, tmp_path)


def test_rows_that_move_to_train_lack_its_further_views(tmp_path: Path) -> None:
    root = str(tmp_path)
    config = settings_of(root)
    data = make_dataset(f"{root}/data", train=12, val=4, test=3)
    compute(config, data, [0, 1])
    made = versions.apply(data, Changes(moved={"00013": "train"}), f"{root}/next", what="x")
    uris, left = copy(config, made, [0, 1])
    assert left == {("00013", 1)}
    assert_as_computed(config, made, uris, tmp_path)


def test_rows_of_a_damaged_file_are_computed(tmp_path: Path) -> None:
    root = str(tmp_path)
    config = settings_of(root, views=1)
    data = make_dataset(f"{root}/data", train=140, val=3, test=3, shard_rows=140)
    found = compute(config, data, [0, 1])
    made = versions.apply(
        data, Changes(removed=frozenset({"00001"})), f"{root}/next", what="label apply"
    )
    uri = storage.join(found[1].uri, "train/00000-000128.v0.parquet")
    whole = bytearray(storage.read_bytes(uri))
    whole[len(whole) // 2] ^= 1
    storage.write_bytes(uri, bytes(whole))
    storage.delete(storage.join(found[0].uri, "val/00000-000000.v0.parquet"))
    uris, left = copy(config, made, [0, 1])
    assert left == {(f"{number:05}", 0) for number in range(128, 143)}
    assert_as_computed(config, made, uris, tmp_path)


def test_another_number_of_views_serves_too(tmp_path: Path) -> None:
    root = str(tmp_path)
    data = make_dataset(f"{root}/data", train=12, val=3, test=3)
    compute(settings_of(root, views=1), data, [0])
    three = settings_of(root, views=3)
    uris, left = copy(three, data, [0])
    assert {view for _, view in left} == {1, 2}
    assert_as_computed(three, data, uris, tmp_path)
    compute(three, data, [0])
    storage.delete(f"{root}/copied")
    two = settings_of(root)
    made = versions.apply(data, Changes({"00003": "red"}), f"{root}/next", what="label apply")
    uris, left = copy(two, made, [0])
    assert not left
    assert_as_computed(two, made, uris, tmp_path)


def test_other_weights_or_sizes_are_never_taken(tmp_path: Path) -> None:
    root = str(tmp_path)
    config = settings_of(root)
    data = make_dataset(f"{root}/data", train=12, val=3, test=3)
    compute(config, data, [0])
    made = versions.apply(data, Changes({"00003": "red"}), f"{root}/next", what="label apply")
    weights = pretrained.load(config.model.weights, config.storage).sha256
    for changed, sha256 in (
        (config.replace(data={"image_size": 96}), weights),
        (config.replace(data={"framing": "pad"}), weights),
        (config.replace(model={"precision": "fp32"}), weights),
        (config, "others"),
    ):
        found = reuse.find_sources(changed, made, weights_sha256=sha256, depths=[0])
        assert found == {0: []}
    found = reuse.find_sources(config, made, weights_sha256=weights, depths=[0, 1])
    assert (len(found[0]), found[1]) == (1, [])
