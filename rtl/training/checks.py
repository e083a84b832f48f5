"""Checks that a data set can be fitted with a config, before any work."""

from __future__ import annotations

from rtl.config.tree import Config
from rtl.data.batches import EpochSampler, needs_two_rows
from rtl.data.shards import Manifest
from rtl.errors import ConfigError, DataError
from rtl.training.loop import class_weights


def check_fit(config: Config, manifest: Manifest) -> None:
    """Raises DataError or ConfigError where no fit of this config can run on the data set."""
    for split in ("train", "val"):
        if not manifest.rows(split):
            raise DataError(
                f"{manifest.uri} has no {split} rows; pack it again with {split} rows in the "
                "source or pack.val_fraction above 0."
            )
    class_weights(manifest.counts["train"], config.train.class_weights)
    _check_metric(config, manifest)
    _check_batches(config, manifest)


def check_points(config: Config, manifest: Manifest) -> None:
    """Runs `check_fit` for each listed value of each searched key, the others as configured."""
    if config.train.fewest_workers < config.train.most_workers:
        raise ConfigError(
            f"train.workers is a range, {config.train.fewest_workers} to "
            f"{config.train.most_workers}; the trials of a search all have the same workers. Set "
            "train.workers to a number."
        )
    for key, values in config.search.points.items():
        for value in values if isinstance(values, tuple) else ():
            check_fit(config.at({key: value}), manifest)


def _check_metric(config: Config, manifest: Manifest) -> None:
    counts = manifest.counts["val"]
    there = [name for name, rows in zip(manifest.classes, counts, strict=True) if rows]
    if config.train.metric == "auc" and len(there) == 1:
        raise ConfigError(
            f"train.metric is auc, which is undefined where all rows are of one class: the "
            f"{manifest.rows('val')} val rows of {manifest.uri} are all of {there[0]!r}. Set "
            "train.metric to accuracy or macro_f1, or pack again with other val rows."
        )


def _check_batches(config: Config, manifest: Manifest) -> None:
    size, workers = config.train.batch_size, config.train.most_workers
    rows = EpochSampler.from_config(config, manifest).rows
    shards = len(manifest.split("train"))
    if workers > min(config.train.lanes, shards):
        raise ConfigError(
            f"train.workers is {workers}; each worker reads shards of its own, and there are "
            f"{shards} train shards, of which train.lanes {config.train.lanes} are read side by "
            f"side. Lower train.workers, raise train.lanes, or pack again with "
            f"pack.min_shards={workers} or more."
        )
    if workers > 1 and rows < size:
        raise ConfigError(
            f"train.batch_size is {size}, an epoch has {rows} training rows; with several workers "
            "a batch must be full."
        )
    if needs_two_rows(config) and (size % 2 or size == workers or rows < 2):
        raise ConfigError(
            f"model.batch_norm is train, which needs rows in pairs at data.image_size "
            f"{config.data.image_size}; train.batch_size {size} over {workers} workers and {rows} "
            "training rows do not give them. Make train.batch_size even, raise it or train.rows, "
            "or set model.batch_norm to frozen."
        )
