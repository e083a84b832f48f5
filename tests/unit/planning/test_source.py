from __future__ import annotations

from pathlib import Path

import pytest

from rtl.config.schema import PackConfig
from rtl.data.sources import Row
from rtl.errors import RtlError
from rtl.planning.source import look_at, predict_manifest
from tests.conftest import make_folder


def test_a_source_without_splits_is_divided_as_packing_would(tmp_path: Path) -> None:
    found = look_at(str(make_folder(tmp_path / "photos", 20)), PackConfig(val_fraction=0.2))
    assert found.manifest.counts == {"train": (13,) * 3, "val": (4,) * 3, "test": (3,) * 3}
    assert [found.manifest.rows(split) for split in ("train", "val", "test")] == [39, 12, 9]
    mean = sum(len(encoded) for _, encoded in found.sample) / len(found.sample)
    assert sum(shard.bytes for shard in found.manifest.shards) == pytest.approx(60 * mean, rel=0.01)


def test_splits_of_the_source_are_kept() -> None:
    rows = [Row(str(n), "x", "ab"[n % 2], "train" if n < 8 else "val") for n in range(12)]
    found = predict_manifest(rows, PackConfig(min_shards=2), image_bytes=10, uri="x")
    assert found.counts == {"train": (4, 4), "val": (2, 2), "test": (0, 0)}
    assert [shard.rows for shard in found.split("train")] == [4, 4]


def test_a_folder_that_is_no_source_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RtlError):
        look_at(str(tmp_path), PackConfig())
