"""A small config and readers for tests of cached features."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from rtl.config import loading
from rtl.config.tree import Config
from rtl.data.batches import EpochSampler
from rtl.data.shards import Manifest
from rtl.feature_extraction.cache import FeatureReader, Features, Repair

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
