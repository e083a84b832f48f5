from __future__ import annotations

import json
import math
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from rtl import storage
from rtl.cli import main
from rtl.config import loading
from rtl.config.tree import Config
from rtl.data import streaming
from rtl.data.batches import Batch, EpochSampler, ImageReader, InMemorySource, ShardRead
from rtl.data.shards import Manifest
from rtl.data.streaming import RayDataSource
from rtl.errors import DataError, ResourceError
from rtl.evaluation import baseline, predictions
from rtl.feature_extraction import cache, extraction, prune
from rtl.feature_extraction.cache import FeatureReader, Features, Repair
from rtl.model import bundle, inception, pretrained
from rtl.storage import lease
from rtl.storage.lease import Lease
from rtl.training import finalize, loop
from rtl.training.checkpoint import Checkpoints
from rtl.training.loop import Hooks, Learner, finished, fit
from tests.conftest import make_dataset


def make_config(root: str, **sections: Any) -> Config:
    base = loading.load().replace(
        storage=root, data={"uri": f"{root}/data", "image_size": 80}, features={"views": 2}
    )
    return base.replace(**sections)


def rows(found: Features, manifest: Manifest, repair: Repair) -> torch.Tensor:
    """All features of view 1 of `train`, as a fresh reader gives them."""
    reader = FeatureReader(found, False, repair)
    reads = EpochSampler(manifest, 0, 8, 2).train(1)
    return torch.cat([batch.inputs for read in reads for batch in reader(read)])


def never(*_: Any) -> bytes:
    pytest.fail("nothing is damaged")


@pytest.fixture(scope="module")
def built(
    tmp_path_factory: pytest.TempPathFactory, ray_cluster: None
) -> tuple[Config, Manifest, dict[int, Features]]:
    root = str(tmp_path_factory.mktemp("features"))
    manifest = make_dataset(f"{root}/data")
    settings = make_config(root, model={"precision": "bf16"})
    return settings, manifest, extraction.build(settings, manifest, [0, 1])


Built = tuple[Config, Manifest, dict[int, Features]]


def test_a_process_keeps_the_trunk_for_the_tasks_of_one_pass(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made: list[tuple[Any, ...]] = []

    class Trunk:
        def __init__(self, *arguments: Any) -> None:
            made.append(arguments)
            self.number = len(made)

        def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
            return {"from": [self.number] * len(batch["item"]), "threads": torch.get_num_threads()}

    monkeypatch.setattr(extraction, "_Trunk", Trunk)
    monkeypatch.setattr(extraction, "_kept", {})
    task: Any = extraction._task
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        answers = [task({"item": [0]}, name, name, None, {}) for name in ("a", "a", "b", "a")]
        torch.set_num_threads(2)
        again = task({"item": [0]}, "a", "a", None, {})
    finally:
        torch.set_num_threads(before)
    assert [answer["from"] for answer in [*answers, again]] == [[1], [1], [2], [3], [3]]
    assert made == [("a", None, {}), ("b", None, {}), ("a", None, {})]
    assert answers[0]["threads"] == again["threads"] == 1


def test_one_pass_gives_every_cut_and_is_not_run_again(built: Built) -> None:
    settings, manifest, found = built
    assert {k: f.shape for k, f in found.items()} == {
        0: (2048,),
        1: inception.feature_shape(1, 80),
    }
    again = extraction.build(settings, manifest, [1, 0], lambda *_: pytest.fail("computed again"))
    assert again == found
    about = storage.read_json(storage.join(found[1].uri, cache.ABOUT))
    assert (about["cut"], about["manifest"]) == (1, manifest.digest)
    assert rows(found[1], manifest, never).dtype == torch.bfloat16


@pytest.mark.parametrize(
    "sections",
    [
        {"data": {"image_size": 96}},
        {"data": {"augment": {"jitter": 0.2}}},
        {"data": {"seed": 1}},
        {"features": {"views": 3}},
        {"model": {"precision": "fp32"}},
    ],
)
def test_what_decides_the_numbers_decides_the_place(built: Built, sections: dict[str, Any]) -> None:
    settings, manifest, _ = built
    here = cache.locate(settings, manifest, "w", 1)
    assert cache.locate(settings.replace(**sections), manifest, "w", 1) != here
    assert cache.locate(settings, manifest, "other weights", 1) != here
    assert cache.locate(settings, manifest, "w", 2) != here
    other = make_dataset(f"{settings.storage}/other", train=30)
    assert cache.locate(settings, other, "w", 1) != here
    assert cache.locate(settings.replace(train={"seed": 9}), manifest, "w", 1) == here


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
    again = extraction.build(settings, manifest, [1], lambda *done: seen.append(done))
    total = 2 * manifest.rows("train") + manifest.rows("val") + manifest.rows("test")
    assert again[1] == found[1]
    assert 0 < seen[0][0] < total
    assert seen[-1] == (total, total)
    assert torch.equal(rows(again[1], manifest, never), before)


@pytest.mark.parametrize("name", [cache.ABOUT, storage.COMMIT])
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
    again = extraction.build(settings, manifest, [0, 1], lambda *done: seen.append(done))
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
    repair = extraction.Repair(settings.replace(model={"unfrozen_layers": 1}), manifest, found[1])

    def counted(*place: Any) -> bytes:
        repairs.append(1)
        return repair(*place)

    assert torch.equal(rows(found[1], manifest, counted), before)
    assert repairs == [1]
    assert torch.equal(rows(found[1], manifest, never), before)


@pytest.mark.parametrize("k", [0, 1])
def test_a_fit_is_judged_by_its_features_as_by_the_images(
    built: Built, k: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, manifest, found = built
    settings = settings.replace(
        name="judged", model={"unfrozen_layers": k}, train={"epochs": 1, "batch_size": 8},
        optimizer={"lr": 1e-2},
    )  # fmt: skip
    learner = Learner(
        settings, 3, pretrained.load("packaged", settings.storage), torch.device("cpu")
    )
    plan = EpochSampler.from_config(settings, manifest)
    checkpoints = Checkpoints(str(tmp_path / "checkpoints"))
    hooks = Hooks()
    monkeypatch.setattr(hooks, "save", lambda checkpoint, _: checkpoints.save(checkpoint))
    source = InMemorySource(plan, FeatureReader(found[k], False, never))
    state = fit(learner, source, plan, settings, hooks)

    def answers(name: str, config: Config) -> dict[str, torch.Tensor]:
        finalize.judge(str(tmp_path / name), config, learner, plan, checkpoints, state, hooks)
        kept = storage.read_bytes(str(tmp_path / name / "predictions" / "test.parquet"))
        rows = predictions.decode(kept)
        return dict(zip(rows.ids, torch.from_numpy(rows.probabilities), strict=True))

    off, turned = {"cache": "off"}, settings.replace(model={"test_flips": "both"})
    images = answers("images", settings.replace(features=off))
    turned_images = answers("turned-images", turned.replace(features=off))
    read: list[int] = []
    real = FeatureReader.__call__

    def counted(reader: FeatureReader, wanted: ShardRead) -> Iterator[Batch]:
        read.append(len(wanted.rows))
        return real(reader, wanted)

    with monkeypatch.context() as watched:
        watched.setattr(FeatureReader, "__call__", counted)
        turned_cached = answers("turned", turned)
        assert sum(read) == manifest.rows("val") + manifest.rows("test")
        read.clear()
        watched.setattr(ImageReader, "__call__", never)
        cached = answers("features", settings)
        assert sum(read) == manifest.rows("val") + manifest.rows("test")
        with pytest.raises(pytest.fail.Exception):  # features are of images that are not turned
            answers("turned-without", turned)
        watched.setattr(learner, "dtype", torch.float32)
        with pytest.raises(pytest.fail.Exception):  # and of another arithmetic roundings
            answers("rounded", settings)
    assert len({tuple(row.tolist()) for row in images.values()}) > 1
    assert any(not torch.allclose(images[n], turned_images[n], atol=2e-3) for n in images)
    for one, other in ((cached, images), (turned_cached, turned_images)):
        assert list(one) == list(other)
        for name, row in other.items():
            torch.testing.assert_close(one[name], row, atol=2e-3, rtol=0)


def test_the_baseline_of_a_fit_is_of_val(
    built: Built, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, manifest, _ = built
    settings = settings.replace(
        name="watched", model={"unfrozen_layers": 1}, train={"epochs": 1, "batch_size": 8}
    )
    weights = pretrained.load("packaged", settings.storage)
    learner = Learner(settings, 3, weights, torch.device("cpu"))
    plan, hooks = EpochSampler.from_config(settings, manifest), Hooks()
    checkpoints = Checkpoints(str(tmp_path / "checkpoints"))
    monkeypatch.setattr(hooks, "save", lambda checkpoint, _: checkpoints.save(checkpoint))
    monkeypatch.setattr(baseline, "MIN_ROWS", manifest.rows("val"))
    source = InMemorySource(plan, ImageReader(manifest, settings.data))
    state = fit(learner, source, plan, settings, hooks)
    finalize.judge(str(tmp_path), settings, learner, plan, checkpoints, state, hooks)
    found = bundle.Classifier.load(str(tmp_path / "bundle"))
    assert found.info.baseline is not None
    mean = torch.tensor(found.info.baseline.feature_mean)
    pixels = {
        split: torch.cat([batch.inputs for batch in source.rows_of(split, None)])
        for split in ("val", "test")
    }
    assert len(pixels["val"]) == manifest.rows("val")
    near, far = (
        float((found.output(pixels[split]).pooled.mean(0) - mean).abs().max())
        for split in ("val", "test")
    )
    assert near < 0.1 * far


@pytest.mark.parametrize("streamed", [False, True])
def test_a_fit_ends_with_its_minutes_in_part_of_an_epoch_and_its_rate_at_zero(
    built: Built, ray_cluster: None, monkeypatch: pytest.MonkeyPatch, streamed: bool
) -> None:
    settings, manifest, found = built
    settings = settings.replace(train={"batch_size": 2})
    plan = EpochSampler.from_config(settings, manifest)
    part = math.ceil(0.5 * plan.steps)
    assert 0 < part < plan.steps
    settings = settings.replace(
        model={"unfrozen_layers": 0}, train={"epochs": 8, "minutes": 3.5 * plan.steps / 60}
    )
    learner = Learner(
        settings, 3, pretrained.load("packaged", settings.storage), torch.device("cpu")
    )
    clock = [0.0]
    monkeypatch.setattr(loop, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    told: list[tuple[int, int]] = []

    def tick(_: int, rows: int, total: int) -> None:  # a second a step
        clock[0] += 1.0
        told.append((rows, total))

    hooks = Hooks()
    monkeypatch.setattr(hooks, "progress", tick)
    reader = FeatureReader(found[0], not streamed, never)
    source = (
        RayDataSource(plan, reader, first_epoch=0, epochs=8)
        if streamed
        else InMemorySource(plan, reader)
    )
    state = fit(learner, source, plan, settings, hooks)
    steps = [plan.steps] * 3 + [part]
    assert [epoch.seconds for epoch in state.history] == steps
    assert [epoch.share for epoch in state.history] == [1.0] * 3 + [part / plan.steps]
    assert told[-1] == (part * 2, part * 2)
    assert all(epoch.val.rows == manifest.rows("val") for epoch in state.history)
    assert finished(state, settings.train)
    falling = 0.9 * sum(steps)
    rate = settings.optimizer.lr * 0.5 * (1 - math.cos(math.pi / falling))
    assert state.history[-1].lr == pytest.approx(rate)


def test_a_pause_follows_each_step_of_the_scheduler(built: Built, ray_cluster: None) -> None:
    settings, manifest, found = built
    steps: list[float] = []
    reads = EpochSampler.from_config(settings, manifest).evaluation("val", 0)
    reader = FeatureReader(found[0], False, never)
    rows = streaming.stream(reads, reader, between_steps=lambda: steps.append(time.monotonic()))
    assert sum(len(batch) for _, batch in rows) == manifest.rows("val")
    assert steps
    began = time.monotonic()
    streaming.pause()
    assert time.monotonic() - began >= 0.02


def test_two_builders_make_one_pass(
    tmp_path: Path,
    ray_cluster: None,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(extraction, "POLL_SECONDS", 0.1)
    manifest = make_dataset(f"{tmp_path}/data")
    settings = make_config(str(tmp_path))
    results: dict[str, dict[int, Features]] = {}
    heard: dict[str, list[int]] = {"a": [], "b": []}

    def run(name: str) -> None:
        results[name] = extraction.build(
            settings, manifest, [0], lambda done, _: heard[name].append(done)
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


def test_a_lease_whose_holder_died_is_taken_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease, "STALE_SECONDS", 0.3)
    monkeypatch.setattr(lease, "BEAT_SECONDS", 0.05)
    uri = str(tmp_path / "BUILDER")
    with Lease(uri) as alive:
        assert alive.take()
        waiting = Lease(uri)
        tries = [waiting.take() or threading.Event().wait(0.1) for _ in range(6)]
        assert not any(tries)  # it beats
    assert waiting.take()
    waiting.release()
    storage.write_bytes(uri, b"of a dead process")
    heir = Lease(uri)
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


@pytest.mark.slow  # a fit from a damaged shard is in tests/integration/test_train.py
def test_a_damaged_shard_ends_the_pass_with_its_name(tmp_path: Path, ray_cluster: None) -> None:
    manifest = make_dataset(f"{tmp_path}/data")
    shard = manifest.split("train")[1].path
    data = bytearray(storage.read_bytes(f"{tmp_path}/data/{shard}"))
    data[100] ^= 1
    storage.write_bytes(f"{tmp_path}/data/{shard}", bytes(data))
    with pytest.raises(DataError, match=shard):
        extraction.build(make_config(str(tmp_path)), manifest, [0])


def test_a_full_disk_is_said_before_the_pass(built: Built, monkeypatch: pytest.MonkeyPatch) -> None:
    settings, manifest, _ = built
    usage = extraction.shutil.disk_usage(settings.storage)
    monkeypatch.setattr(extraction.shutil, "disk_usage", lambda _: usage._replace(free=1000))
    fresh = settings.replace(data={"seed": 5})
    with pytest.raises(ResourceError, match=r"k = 0 \+ .* for k = 1 = .* GB free.*--prune`\),"):
        extraction.build(fresh, manifest, [0, 1])


def test_a_pass_that_is_taken_up_needs_room_for_what_is_missing(
    tmp_path: Path, built: Built, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, manifest, found = built
    shutil.copytree(Path(found[1].uri).parent, tmp_path / "features")
    settings = settings.replace(storage=str(tmp_path))
    uri = storage.join(tmp_path, "features", found[1].uri.rsplit("/", 1)[-1])
    storage.delete(storage.join(uri, storage.COMMIT))
    names = sorted(found[1].files)
    storage.delete(storage.join(uri, names[0]))
    expected = cache.cost(settings, manifest, 1).bytes
    left = max(0, expected - sum(found[1].files[name]["bytes"] for name in names[1:]))
    usage = extraction.shutil.disk_usage(tmp_path)
    monkeypatch.setattr(extraction.shutil, "disk_usage", lambda _: usage._replace(free=left))
    assert left < expected / 2
    assert set(extraction.build(settings, manifest, [1])[1].files) == set(names)
    storage.delete(storage.join(uri, storage.COMMIT))
    for name in names[1:]:
        storage.delete(storage.join(uri, name))
    with pytest.raises(ResourceError, match="not by `rtl features --prune`: it would remove the"):
        extraction.build(settings, manifest, [1])


@pytest.mark.parametrize(
    ("k", "epochs", "views", "trials", "mode", "pays"),
    [
        (0, 8, 2, 1, "auto", True),
        (3, 8, 2, 1, "auto", True),
        (3, 2, 2, 1, "auto", False),  # each view is seen once: nothing is saved
        (3, 2, 2, 4, "auto", True),  # but other trials see it again
        (14, 3, 2, 1, "auto", False),  # little is frozen, much is stored
        (16, 90, 1, 9, "on", False),  # nothing is frozen
        (3, 1, 8, 1, "on", True),
        (0, 90, 1, 9, "off", False),
    ],
)
def test_what_pays(
    built: Built, k: int, epochs: int, views: int, trials: int, mode: str, pays: bool
) -> None:
    settings, manifest, _ = built
    settings = settings.replace(
        features={"cache": mode, "views": views}, train={"epochs": epochs},
        data={"image_size": 299},
    )  # fmt: skip
    assert cache.pays(settings, manifest, k, trials) is pays


def test_slow_storage_makes_large_features_not_pay(built: Built) -> None:
    settings, manifest, _ = built
    settings = settings.replace(data={"image_size": 299}, train={"epochs": 8})
    slow = settings.replace(features={"storage_mb_s": 0.2})
    assert cache.pays(settings, manifest, 3)
    assert not cache.pays(slow, manifest, 3)
    assert cache.cost(settings, manifest, 3).bytes == cache.cost(slow, manifest, 3).bytes


def test_what_nobody_can_use_is_pruned(
    tmp_path: Path,
    ray_cluster: None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(lease, "STALE_SECONDS", 0.3)
    monkeypatch.setattr(lease, "BEAT_SECONDS", 0.05)
    root = str(tmp_path)
    manifest = make_dataset(f"{root}/data")
    settings = make_config(root)
    found = extraction.build(settings, manifest, [0, 1])
    kept, outdated = found[0].uri, found[1].uri
    about = storage.read_json(storage.join(outdated, cache.ABOUT))
    gone = json.dumps({**about, "data_uri": f"{root}/no-longer-there"}).encode()
    storage.write_bytes(storage.join(outdated, cache.ABOUT), gone)
    storage.seal(outdated, {**found[1].files, cache.ABOUT: storage.describe(gone)})
    dead = storage.join(root, "features", "dead")
    storage.write_bytes(storage.join(dead, cache.BUILDER), b"of a dead process")
    storage.write_bytes(storage.join(dead, "x.parquet"), bytes(1000))
    working = storage.join(root, "features", "working")
    with Lease(storage.join(working, cache.BUILDER)) as alive:
        assert alive.take()
        states = {cache.uri: cache.state for cache in prune.listing(root)}
        assert states == {
            kept: "ready", outdated: "outdated", dead: "abandoned", working: "building",
        }  # fmt: skip
        assert {cache.uri for cache in prune.prune(root)} == {outdated, dead}
        assert main.main(["features", "--prune", "--all", "--storage", root]) == 0
        assert [cache.uri for cache in prune.listing(root)] == [working]
    assert "Removed 1 caches" in capsys.readouterr().out


@pytest.mark.parametrize("ended", [False, True])
def test_what_a_builder_took_up_in_the_meantime_is_not_pruned(
    place: str, monkeypatch: pytest.MonkeyPatch, ended: bool
) -> None:
    monkeypatch.setattr(lease, "STALE_SECONDS", 0.3)
    manifest = make_dataset(f"{place}/data")
    uri = storage.join(place, "features", "taken-up")
    lone = storage.join(place, "features", "dead")
    about = json.dumps(
        {"data_uri": f"{place}/data", "manifest": manifest.digest, "shape": [2048]}
    ).encode()
    files = {"x.parquet": bytes(1000), cache.ABOUT: about}
    for name, data in files.items():
        storage.write_bytes(storage.join(uri, name), data)
    storage.write_bytes(storage.join(lone, cache.BUILDER), b"of a dead process")
    storage.write_bytes(storage.join(lone, "x.parquet"), bytes(1000))
    builder = Lease(storage.join(uri, cache.BUILDER))
    watch = prune._watch

    def meanwhile(leases: dict[str, Lease]) -> set[str]:
        stale = watch(leases)
        assert builder.take()
        return stale

    read = prune._read

    def look(at: str, in_work: bool) -> prune.Cache:
        cache = read(at, in_work)
        if ended and at == uri and cache.state == "abandoned":
            storage.commit(uri, files)
            builder.release()
        return cache

    monkeypatch.setattr(prune, "_watch", meanwhile)
    monkeypatch.setattr(prune, "_read", look)
    with builder:
        assert [cache.uri for cache in prune.prune(place)] == [lone]
        assert storage.read_bytes(storage.join(uri, "x.parquet")) == bytes(1000)
    assert storage.list_files(lone) == []
    assert storage.is_committed(uri) == ended
