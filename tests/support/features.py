"""A small config and readers for tests of cached features."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pytest
import torch

from rtl import storage
from rtl.config import loading
from rtl.config.tree import Config
from rtl.data.batches import EpochSampler
from rtl.data.shards import Manifest
from rtl.feature_extraction import cache, extraction
from rtl.feature_extraction.cache import FeatureReader, Features, Repair
from rtl.feature_extraction.trunk import Trunk
from rtl.model import inception, pretrained

Built = tuple[Config, Manifest, dict[int, Features]]
"""A config, its data set, and the features of k = 0 and 1 in two views."""


def make_config(root: str, **sections: Any) -> Config:
    base = loading.load().replace(
        storage=root, data={"uri": f"{root}/data", "image_size": 80, "framing": "crop"},
        features={"views": 2},
    )  # fmt: skip
    return base.replace(**sections)


def rows(found: Features, manifest: Manifest, repair: Repair) -> torch.Tensor:
    """All features of view 1 of `train`, as a fresh reader gives them."""
    reader = FeatureReader(found, False, repair)
    reads = EpochSampler(manifest, 0, 8, 2).train(1)
    return torch.cat([batch.inputs for read in reads for batch in reader(read)])


def never(*_: Any) -> bytes:
    pytest.fail("nothing is damaged")


def compute(config: Config, manifest: Manifest, depths: Sequence[int]) -> dict[int, Features]:
    """Computes and commits the features of some cuts in this process, without Ray."""
    weights = pretrained.load(config.model.weights, config.storage).sha256
    uris = {
        k: cache.locate(config, manifest.digest, weights_sha256=weights, unfrozen_layers=k)
        for k in depths
    }
    files: dict[int, dict[str, Any]] = {k: {} for k in depths}
    trunk = Trunk(config, manifest, uris)
    for item in extraction.group_reads(extraction.split_reads(manifest, config.features.views)):
        found = trunk({"item": [item]})
        for k, path, sha256, size in zip(
            found["depth"], found["path"], found["sha256"], found["bytes"], strict=True
        ):
            files[k][path] = {"sha256": sha256, "bytes": size}
    for k, uri in uris.items():
        record = json.dumps({"width": inception.feature_width(k, config.data.image_size)}).encode()
        storage.write_bytes(storage.join(uri, cache.RECORD), record)
        storage.seal(uri, {**files[k], cache.RECORD: storage.describe(record)})
    return {k: found for k, uri in uris.items() if (found := cache.load(uri))}
