from __future__ import annotations

import pytest

from rtl.feature_extraction import extraction
from tests.conftest import make_dataset
from tests.support.features import Built, make_config


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory, ray_cluster: None) -> Built:
    """Features of a small data set; a test that damages them leaves them as they were."""
    root = str(tmp_path_factory.mktemp("features"))
    manifest = make_dataset(f"{root}/data")
    settings = make_config(root, model={"precision": "bf16"})
    return settings, manifest, extraction.build(settings, manifest, [0, 1])
