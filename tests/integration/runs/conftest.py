"""A bundle, a fit and a search that the tests of TensorBoard, metrics and MLflow share."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from rtl import storage
from rtl.config.tree import Config
from rtl.data.shards import Manifest
from rtl.feature_extraction import extraction
from rtl.feature_extraction.cache import Features
from rtl.model import bundle
from rtl.runs import listing, run, tensorboard, trials
from rtl.runs.progress import RunCallbacks
from rtl.runs.ray_metrics import Meter
from rtl.runs.records import Epoch, TrialEpoch
from rtl.runs.trials import Trial
from rtl.runtime import capacity
from rtl.runtime.session import Progress
from rtl.training import train
from rtl.tuning import first_answer, search, sweep
from rtl.tuning.sweep import Sweep
from rtl.tuning.tracker import Round, TrialTracker
from rtl.tuning.trial.process import TrialSetup
from tests.conftest import make_dataset
from tests.support.bundles import make_info, make_network
from tests.support.event_files import curves
from tests.support.runs import (
    EPOCHS,
    IMAGES,
    Files,
    Workers,
    make_config,
    search_config,
    write_outcome,
)


@pytest.fixture(scope="package")
def model(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Files]:
    """The files of the bundle that the runs end with, of a fit at a learning rate of 0.5."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # two on a core that others use too wait for each other
    best = EPOCHS[-1].val.to_dict()
    info = make_info(
        unfrozen_layers=0, image_size=80, mean=(0.5,) * 3, std=(0.2,) * 3,
        metrics={"val": best, "test": best},
        config=make_config("somewhere").at({"optimizer.lr": 0.5}).to_dict(),
    )  # fmt: skip
    uri = str(tmp_path_factory.mktemp("model"))
    bundle.save(uri, info, make_network())
    yield storage.read_committed(uri)
    torch.set_num_threads(threads)


@pytest.fixture(scope="package")
def fitted(s3_server: str, ray_cluster: None, model: Files) -> list[Any]:
    """A fit that was stopped after its first epoch and after its second: its curves each time."""
    place = f"{s3_server}/fitted"
    make_dataset(f"{place}/data")
    settings = make_config(place, "fitted")
    folder = storage.join(run.locate(settings), tensorboard.FOLDER, "fit")
    epochs: list[int] = []
    callbacks = RunCallbacks(epoch=lambda epoch: epochs.append(epoch.epoch))
    seen: list[Any] = []
    for stop_after in (0, 1):
        with pytest.raises(KeyboardInterrupt):
            train.train(
                settings, resume=stop_after > 0, callbacks=callbacks,
                launch=Workers(model, stop_after),
            )  # fmt: skip
        seen.append(curves(folder))
        assert listing.read(run.locate(settings)).state == "stopped"
    train.train(settings, resume=True, callbacks=callbacks, launch=Workers(model))
    assert epochs == [0, 1, 2]
    return [*seen, curves(folder), settings]


@pytest.fixture(scope="package")
def told_search(
    ray_cluster: None, model: Files, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Config, Manifest]]:
    """A search as its driver sees it, without the work of other processes."""
    place = str(tmp_path_factory.mktemp("searched"))
    manifest = make_dataset(f"{place}/data")
    settings = search_config(place, "searched")

    def build(*_: Any, progress: Progress) -> dict[int, Features]:
        for done in (8, 40, IMAGES):  # 8 of them were there
            progress(done, IMAGES)
        return {}

    def tune(setup: TrialSetup, tracker: TrialTracker, *, sweep: Sweep) -> None:
        del setup
        tracker.begin(Round(len(sweep.jobs), len(EPOCHS), 1, cpus=2))
        for job in sweep.jobs:
            tracker.start(job)
            for epoch in EPOCHS:
                tracker.report(job, tune_result(epoch))
            tracker.end(job, failed=False)

    def evaluate_winner(*_: Any, **__: Any) -> list[None]:
        write_outcome(run.locate(settings), model)
        return []

    def solve(setup: TrialSetup, *, alone: bool, progress: Progress) -> Trial:
        progress(1, 1)
        assert not alone  # fits follow it
        write_outcome(first_answer.folder(setup.uri), model)
        epoch = TrialEpoch(0, 0.5, 0.8, 0.5, 1.0, 1.0)  # better than any fit
        point = {"model.unfrozen_layers": 0}
        return Trial(0, point, 0, "finished", (epoch,), wall_seconds=1.5, strength=1e-3)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(first_answer, "solve_first_answer", solve)
        patch.setattr(extraction, "build", build)
        patch.setattr(sweep, "run", tune)
        patch.setattr(capacity, "run", evaluate_winner)
        search.search(settings)
    # A second one finds the features and three trials: the first has counted these.
    earlier = trials.recorded(run.locate(settings))
    with Meter(settings, manifest, earlier=earlier) as again:
        again.built(settings)
        again.trials(earlier)
        yield settings, manifest


def tune_result(epoch: Epoch) -> dict[str, Any]:
    """An epoch as a trial reports it to Tune."""
    score = epoch.val.score("accuracy")
    return {
        "epochs": epoch.epoch + 1, "score": score, "epoch_score": score,
        "train_loss": epoch.train_loss, "log_loss": epoch.val.log_loss, "seconds": epoch.seconds,
        "stall_seconds": epoch.stall_seconds, "share": epoch.share, "lr": epoch.lr,
    }  # fmt: skip
