from __future__ import annotations

import contextlib
from typing import Any

import pytest

from rtl.config import loading
from rtl.data.shards import Manifest, Shard
from rtl.errors import ConfigError, DataError
from rtl.training import checks


def manifest(train: tuple[int, ...] = (20, 5), val: tuple[int, ...] = (4, 3)) -> Manifest:
    shards = tuple(
        Shard(
            f"{split}/{part:05}.parquet",
            split,
            sum(counts) * (part + 1) // 4 - sum(counts) * part // 4,
            0,
            "",
        )
        for split, counts in (("train", train), ("val", val))
        for part in range(4)
    )
    return Manifest(("a", "b", "c")[: len(train)], {"train": train, "val": val}, shards, uri="/d")


def check(data: Manifest, /, **sections: Any) -> None:
    config = loading.load().replace(**sections)
    checks.check_fit(config, data)
    checks.check_points(config, data)


@pytest.mark.parametrize("val", [(7, 0), (0, 1), (0, 2, 0)])
def test_auc_needs_val_rows_of_two_classes(val: tuple[int, ...]) -> None:
    data = manifest(train=(5,) * len(val), val=val)
    with pytest.raises(ConfigError, match=r"^train\.metric is auc.* val rows of /d are all of '"):
        check(data, train={"metric": "auc"})
    for metric in ("accuracy", "macro_f1"):
        check(data, train={"metric": metric})
    check(manifest(), train={"metric": "auc"})
    check(manifest(train=(5, 5, 5), val=(2, 0, 1)), train={"metric": "auc"})


@pytest.mark.parametrize(
    ("counts", "says"),
    [({"val": (0, 0)}, "no val rows"), ({"train": (9, 0)}, "Class number 1 has no training row")],
)
def test_a_split_and_a_class_without_rows_are_refused(counts: Any, says: str) -> None:
    with pytest.raises(DataError, match=says):
        check(manifest(**counts))


ONE_PIXEL: dict[str, Any] = {
    "model": {"batch_norm": "train", "unfrozen_layers": 1}, "data": {"image_size": 75},
}  # fmt: skip


def test_a_worker_needs_two_rows_where_batch_norm_trains_on_one_pixel() -> None:
    train = {"batch_size": 4, "workers": 4}
    with pytest.raises(
        ConfigError, match=r"batch_size 4 over 4 workers and 24 training rows .*even"
    ):
        check(manifest(), **ONE_PIXEL, train=train)
    check(manifest(), **ONE_PIXEL, train={**train, "batch_size": 8})
    check(manifest(), **{**ONE_PIXEL, "data": {"image_size": 107}}, train=train)
    off = {"model": {"batch_norm": "frozen"}, "data": {"image_size": 75}}
    check(manifest(), **off, train=train)
    with pytest.raises(ConfigError, match=r"0 training rows .* train\.rows"):
        check(manifest(), **ONE_PIXEL, train={"rows": 0.01})


@pytest.mark.parametrize("space", [{"train.batch_size": (2, 4)}, {"train.rows": (0.01, 1.0)}])
def test_a_searched_value_is_checked_as_well(space: dict[str, Any]) -> None:
    train = {"batch_size": 4, "workers": 2}
    with pytest.raises(ConfigError, match=r"batch_norm is train|a batch must be full"):
        check(manifest(), **ONE_PIXEL, train=train, search={"space": space})
    with pytest.raises(ConfigError, match="batch_size 5 is not divisible"):
        check(manifest(), train=train, search={"space": {"train.batch_size": (4, 5)}})


def test_a_batch_of_several_workers_must_be_full() -> None:
    with pytest.raises(ConfigError, match="is 32, an epoch has 25 training rows"):
        check(manifest(), train={"batch_size": 32, "workers": 2})


@pytest.mark.parametrize(("lanes", "workers", "fits"), [(8, 4, True), (8, 8, False), (2, 4, False)])
def test_each_worker_needs_a_shard(lanes: int, workers: int, fits: bool) -> None:
    train = {"batch_size": 8, "workers": workers, "lanes": lanes}
    refused = pytest.raises(ConfigError, match=rf"workers is {workers}; .*min_shards={workers}")
    with contextlib.nullcontext() if fits else refused:
        check(manifest(), train=train)
