from __future__ import annotations

from pathlib import Path

import pytest
import torch

from rtl import storage
from rtl.config import loading
from rtl.data.batches import InMemorySource
from rtl.data.streaming import RayDataSource
from rtl.errors import DataError
from rtl.feature_extraction import cost, extraction
from rtl.feature_extraction.cache import RECORD, FeaturePlan
from rtl.training.setup import build_fit
from rtl.tuning import budget
from rtl.tuning.trial.process import Job, trial_config
from tests.conftest import make_dataset


def test_a_longer_trial_reads_what_the_driver_decided(tmp_path: Path) -> None:
    manifest = make_dataset(f"{tmp_path}/data")
    config = loading.load().replace(
        storage=f"{tmp_path}/root",
        data={"uri": f"{tmp_path}/data", "image_size": 75, "framing": "crop"},
        model={"precision": "bf16"},
        train={"epochs": 1, "batch_size": 8},
        search={"unfrozen_layers": [13], "lr": [1e-3], "sampler": "grid",
                "space": {"train.epochs": [1, 20]}},
    )  # fmt: skip
    depths = config.search.unfrozen_layers
    fits = budget.count_points(config, depths)
    cached = cost.depths_to_cache(config, manifest, depths, fits=fits)
    assert cached == ()
    features = extraction.build_plan(config, manifest, depths, cached=cached)
    assert features == FeaturePlan()
    point = {"model.unfrozen_layers": 13, "optimizer.lr": 1e-3, "train.epochs": 20}
    trial = trial_config(config, point, 0)
    assert cost.depths_to_cache(trial, manifest, depths, fits=fits) == (13,)  # by its own epochs
    setup = build_fit(trial, features, where=torch.device("cpu"))
    assert isinstance(setup.source, RayDataSource)
    # The other way round: features that are there are read by the shortest trial too.
    uri = f"{tmp_path}/root/features/13"
    storage.commit(uri, {RECORD: b'{"width": 7776}'})
    short = trial_config(config, {**point, "train.epochs": 1}, 0)
    setup = build_fit(short, FeaturePlan({13: uri}), where=torch.device("cpu"))
    assert isinstance(setup.source, InMemorySource)


def test_planned_features_that_are_gone_end_a_fit(tmp_path: Path) -> None:
    plan = FeaturePlan({3: f"{tmp_path}/gone"})
    assert plan.load(5) is None
    with pytest.raises(DataError, match=r"^The features for k = 3 at .*/gone are gone; run the"):
        plan.load(3)


def test_a_job_is_read_back_from_tunes_config() -> None:
    job = Job(4, {"optimizer.lr": 1e-3}, 9, finalist_of=2)
    assert Job.of({"job": job.to_dict()}) == job
