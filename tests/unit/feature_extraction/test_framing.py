from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from rtl import storage
from rtl.config import loading
from rtl.config.tree import Config
from rtl.data import shards
from rtl.data.shards import Manifest, Shard
from rtl.feature_extraction import cache, framing
from rtl.labels import versions
from rtl.model import pretrained

Draw = Callable[[np.ndarray[Any, Any], int], None]
"""Draws the mark of a class into a picture's pixels, (H, W, 3)."""


pytestmark = pytest.mark.usefixtures("one_thread")


def _at_the_ends(pixels: np.ndarray[Any, Any], label: int) -> None:
    pixels[:, :30] = (210, 40, 40) if label else (40, 40, 210)


def _small_in_the_centre(pixels: np.ndarray[Any, Any], label: int) -> None:
    middle = pixels.shape[1] // 2
    field = pixels[16:64, middle - 24 : middle + 24]
    stripes = field[::4] if label else field[:, ::4]  # too fine to be seen six times smaller
    stripes[:] = 140


def _picture(size: tuple[int, int], seed: int, draw: Draw | None = None) -> bytes:
    rng = np.random.default_rng(seed)
    width, height = size
    pixels = rng.normal(110, 25, (height, width, 3)).clip(0, 255).astype(np.uint8)
    if draw is not None:
        draw(pixels, seed % 2)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG")
    return buffer.getvalue()


def _pack(
    uri: str, images: list[bytes], *, shard_rows: int = 100, num_classes: int = 2
) -> Manifest:
    """A data set of these training images, whose classes take turns."""
    found = []
    for start in range(0, len(images), shard_rows):
        part = images[start : start + shard_rows]
        numbers = range(start, start + len(part))
        encoded = shards.encode_shard(
            [f"{n:05}" for n in numbers], part, [n % num_classes for n in numbers]
        )
        path = f"train/{start:05}.parquet"
        storage.write_bytes(storage.join(uri, path), encoded)
        found.append(Shard(path, "train", len(part), **storage.describe(encoded)))
    counts = tuple(len(images[label::num_classes]) for label in range(num_classes))
    classes = tuple(f"class{label:03}" for label in range(num_classes))
    manifest = Manifest(classes, {"train": counts}, tuple(found))
    manifest.save(uri)
    return shards.load_manifest(uri)


def _config(place: Path, **data: Any) -> Config:
    return loading.load().replace(
        storage=f"{place}/root", data={"uri": f"{place}/data", "image_size": 75, **data}
    )


# Shapes


@pytest.mark.parametrize(
    ("sizes", "chosen"),
    [
        ([(90, 90)] * 20, "crop"),
        ([(90, 86)] * 20, "crop"),
        ([(90, 90)] * 19 + [(90, 60)], "crop"),
        ([(90, 90)] * 18 + [(90, 60)] * 2, "pad"),
        ([(60, 90)] * 20, "pad"),
    ],
    ids=["square", "nearly square", "one in twenty", "two in twenty", "tall"],
)
def test_shapes_alone_decide_where_they_can(
    tmp_path: Path, sizes: list[tuple[int, int]], chosen: str
) -> None:
    manifest = _pack(f"{tmp_path}/data", [_picture(size, n) for n, size in enumerate(sizes)])
    lines: list[str] = []
    config = framing.resolve(_config(tmp_path), manifest, lines.append)
    assert config.data.framing == chosen
    assert config.data.model_copy(update={"framing": "auto"}) == _config(tmp_path).data
    (line,) = lines
    reason = "training images are square" if chosen == "crop" else "too few training rows"
    assert line.startswith(f"Framing: {chosen}, ")
    assert reason in line


def test_a_framing_that_is_set_is_taken_without_a_look(tmp_path: Path) -> None:
    lines: list[str] = []
    config = _config(tmp_path, framing="stretch")
    nothing = Manifest(("even", "odd"), {"train": (0, 0)}, ())
    assert framing.resolve(config, nothing, lines.append) is config
    assert lines == []


# The probe


@pytest.mark.parametrize(
    ("draw", "size", "chosen"),
    [(_at_the_ends, (240, 80), {"pad", "stretch"}), (_small_in_the_centre, (480, 80), {"crop"})],
    ids=["at the ends", "small in the centre"],
)
def test_a_probe_decides_by_what_the_network_has_to_see(
    tmp_path: Path, draw: Draw, size: tuple[int, int], chosen: set[str]
) -> None:
    manifest = _pack(f"{tmp_path}/data", [_picture(size, n, draw) for n in range(60)])
    config = _config(tmp_path)
    weights = pretrained.load("packaged", config.storage)
    found = framing.decide(config, manifest, weights)
    assert found.framing in chosen
    assert found.scores.keys() == {"crop", "pad", "stretch"}
    assert found.scores[found.framing] > 0.8
    assert "by a probe on 60 training images" in found.reason
    assert framing.decide(config, manifest, weights) == found


def test_of_many_classes_enough_rows_are_read_for_a_probe(tmp_path: Path) -> None:
    images = [_picture((60, 40), n) for n in range(120 * 12)]
    manifest = _pack(f"{tmp_path}/data", images, num_classes=120)
    config = _config(tmp_path)
    found = framing.decide(config, manifest, pretrained.load("packaged", config.storage))
    assert "by a probe on 160 training images" in found.reason


def test_the_decision_is_kept_and_the_features_key_has_it(tmp_path: Path) -> None:
    images = [_picture((90, 60), n) for n in range(20)]
    manifest = _pack(f"{tmp_path}/data", images)
    config = _config(tmp_path)
    first = framing.resolve(config, manifest)
    (name,) = storage.list_names(f"{tmp_path}/root/framing")
    uri = f"{tmp_path}/root/framing/{name}"
    storage.write_json(uri, {**storage.read_json(uri), "framing": "stretch"})
    again = framing.resolve(config, manifest)
    assert (first.data.framing, again.data.framing) == ("pad", "stretch")
    keys = {
        cache.locate(found, manifest.digest, weights_sha256="w", unfrozen_layers=0)
        for found in (first, again)
    }
    assert len(keys) == 2
    other = framing.resolve(config.replace(data={"image_size": 80}), manifest)
    assert other.data.framing == "pad"


def test_a_version_has_the_framing_of_the_newest_one_before_it(tmp_path: Path) -> None:
    manifest = _pack(f"{tmp_path}/data", [_picture((90, 60), n) for n in range(20)])
    config = _config(tmp_path)
    framing.resolve(config, manifest)
    (name,) = storage.list_names(f"{tmp_path}/root/framing")
    uri = f"{tmp_path}/root/framing/{name}"
    storage.write_json(uri, {**storage.read_json(uri), "framing": "stretch"})
    said: list[str] = []
    for number in range(2):
        changes = versions.Changes(removed=frozenset({f"{number:05}"}))
        manifest = versions.apply(manifest, changes, f"{tmp_path}/{number}", what="x")
        assert framing.resolve(config, manifest, said.append).data.framing == "stretch"
    assert said[0] == said[1]
    assert said[0].count("as for an earlier version.") == 1


# The rules, as tables


def _hits(**rights: str) -> dict[Any, np.ndarray[Any, Any]]:
    return {name: np.array([mark == "x" for mark in marks]) for name, marks in rights.items()}


@pytest.mark.parametrize(
    ("hits", "chosen"),
    [
        (_hits(crop="xxxxxx..", pad="xxxxxx..", stretch="xxxxxx.."), "pad"),
        (_hits(crop="xxxxxxx.", pad="xxxxxx..", stretch="xxxxxx.."), "pad"),
        (_hits(crop="xxxxxxxx", pad="xxxxxx..", stretch="xxxxxx.."), "crop"),
        (_hits(crop="..xxxxxx", pad="xxxxx...", stretch="xxxxx..."), "pad"),
        (_hits(crop="xxxx....", pad="xxxx....", stretch="xxxxxxxx"), "stretch"),
        (_hits(crop="xxxx....", pad="xxxxx...", stretch="xxxx...."), "pad"),
    ],
    ids=["equal", "one row", "two rows", "chance", "stretch", "pad"],
)
def test_another_framing_has_to_beat_pad_beyond_chance(
    hits: dict[Any, np.ndarray[Any, Any]], chosen: str
) -> None:
    assert framing.choose(hits).framing == chosen


@pytest.mark.parametrize(
    ("labels", "counts"),
    [
        ([0] * 59, {}),
        ([0] * 100 + [1] * 7, {}),
        ([0, 1] * 29, {}),
        ([0, 1] * 30, {0: 30, 1: 30}),
        ([0] * 300 + [1] * 100, {0: 80, 1: 80}),
        (list(range(50)) * 10, dict.fromkeys(range(20), 8)),
        ([2] * 40 + [0] * 30 + [1] * 5, {2: 40, 0: 30}),
    ],
)
def test_rows_of_the_probe(labels: list[int], counts: dict[int, int]) -> None:
    chosen = framing.choose_rows(labels)
    found = [labels[number] for number in chosen]
    assert {label: found.count(label) for label in set(found)} == counts
    assert chosen == sorted(set(chosen))


def test_chance_is_no_better_than_chance() -> None:
    rng = np.random.default_rng(1)
    for classes in (2, 4):
        labels = np.arange(160) % classes
        found = [
            framing.cross_validate(rng.normal(3, 1, (160, 1536)), labels).mean() for _ in range(5)
        ]
        assert 0.8 / classes < np.mean(found) < 1.3 / classes  # the best of some strengths


def test_a_difference_of_the_classes_is_found() -> None:
    rng = np.random.default_rng(0)
    labels = np.arange(96) % 3
    features = rng.normal(0, 1, (96, 50))
    features[:, :3] += 3 * (labels[:, None] == [0, 1, 2])
    assert framing.cross_validate(features, labels).mean() > 0.75
