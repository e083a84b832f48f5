"""The config of the fits that were recorded, and the bundle that was."""

from __future__ import annotations

from pathlib import Path

import pytest
from safetensors.torch import save as save_safetensors

from rtl import storage
from rtl.config import loading
from rtl.config.tree import Config
from rtl.model import bundle, inception, pretrained
from tests.compatibility.b892c42.recorded import BEFORE


@pytest.fixture
def config(tmp_path: Path) -> Config:
    return loading.load().replace(
        storage=str(tmp_path),
        data={"uri": str(BEFORE / "data"), "image_size": 80, "framing": "crop"},
        model={"unfrozen_layers": 1, "precision": "fp32"},
        optimizer={"lr": 0.01},
        train={"epochs": 3, "batch_size": 4},
    )


@pytest.fixture
def old_bundle(config: Config) -> str:
    """The bundle of format 1: its info as it was written, its network made again."""
    weights = pretrained.load("packaged", config.storage)
    network = inception.build(3)
    inception.load_part(network, weights.state)
    inception.init_head(network, 7)
    unsaved = ("num_batches_tracked", "taps.weight")
    state = {n: t.contiguous() for n, t in network.state_dict().items() if not n.endswith(unsaved)}
    uri = storage.join(config.storage, "bundle")
    info = (BEFORE / "bundle.json").read_bytes()
    storage.commit(uri, {bundle.MODEL: save_safetensors(state), bundle.INFO: info})
    return uri
