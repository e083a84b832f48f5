"""Nothing that Tune is given may hold an object of the driver: Tune pickles it all."""

from __future__ import annotations

import pickle
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ray import cloudpickle, tune

from rtl.config import loading
from rtl.config.tree import Config
from rtl.display.progress_views import SearchView
from rtl.errors import ConfigError
from rtl.feature_extraction.cache import FeaturePlan
from rtl.runs.records import TrialEpoch
from rtl.runs.trials import Trial
from rtl.tuning import search, sweep
from rtl.tuning.proposals import Proposals
from rtl.tuning.sweep import Sweep
from rtl.tuning.tracker import Round, TrialTracker, TuneEvents
from rtl.tuning.trial.process import Job, TrialSetup
from tests.conftest import make_dataset
from tests.support.screens import use_console

POINT = {"model.unfrozen_layers": 1, "optimizer.lr": 1e-3}


@pytest.fixture
def live_view(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A search's view with its live table on, as in a terminal."""
    monkeypatch.setenv("TERM", "xterm")
    with open("/dev/null", "w") as nowhere:  # noqa: PTH123 -- a real file, which cannot be pickled
        use_console(monkeypatch, file=nowhere, force_terminal=True, width=80)
        with SearchView("accuracy") as view:
            view.trials([Trial(0, POINT)])
            assert view._live is not None
            yield view


@pytest.mark.parametrize("proposed", [True, False])
@pytest.mark.parametrize("workers", [1, 2])
def test_what_tune_is_given_can_be_pickled_beside_a_live_table(
    live_view: SearchView, tmp_path: Path, proposed: bool, workers: int
) -> None:
    config = Config().replace(train={"workers": workers}, search={"budget_minutes": 1.0})
    tracker = TrialTracker(
        config, str(tmp_path), ended=(), watch=live_view.trials, on_round=live_view.round
    )
    jobs = [Job(0, POINT, 0)]
    setup = TrialSetup(config, str(tmp_path), FeaturePlan())
    one = Sweep(1, jobs, proposals=int(proposed), ended=(), deadline=1.0)
    tuner = sweep.make_tuner(setup, tracker, sweep=one, folder=str(tmp_path))
    internal = tuner._local_tuner
    settings, run = internal._tune_config, internal._run_config
    assert (run.callbacks or [])[0]._tracker is tracker
    for given in (
        settings.trial_name_creator, settings.trial_dirname_creator, settings.scheduler, run.stop,
        run.callbacks, settings.search_alg, tuner, SimpleNamespace(settings=settings, run=run),
    ):  # fmt: skip
        assert cloudpickle.dumps(given)
    restored = pickle.loads(cloudpickle.dumps(run.callbacks))  # noqa: S301 -- our own
    assert type(restored[0]) is tune.Callback  # no tracker came with it


def test_the_lock_of_a_live_table_is_what_cannot_be_pickled(live_view: SearchView) -> None:
    with pytest.raises(TypeError, match="cannot pickle"):
        cloudpickle.dumps(live_view.trials)
    assert isinstance(threading.RLock(), type(live_view._live._lock))  # type: ignore[union-attr]


def test_proposals_run_jobs_first_and_number_what_is_new(tmp_path: Path) -> None:
    config = Config()
    jobs = [Job(3, {**POINT, "train.rows": 0.5}, 7)]
    proposals = Proposals(config, jobs, ended=(), first_number=5, fixed={"train.rows": 0.5})
    first, second, third = (proposals.suggest(str(n)) for n in range(3))
    assert first == {"job": jobs[0].to_dict()}
    assert second is not None
    assert third is not None
    assert (second["job"]["number"], third["job"]["number"]) == (5, 6)
    assert second["job"]["point"]["train.rows"] == 0.5
    assert set(second["job"]["point"]) == {*POINT, "train.rows"}
    assert (second["job"]["seed"], second["job"]["finalist_of"]) == (0, None)


def test_a_tracker_records_what_tune_reports(tmp_path: Path) -> None:
    seen: list[list[Trial]] = []
    rounds: list[Round] = []
    tracker = TrialTracker(
        Config(), str(tmp_path), ended=(), watch=lambda t: seen.append(list(t)),
        on_round=rounds.append,
    )  # fmt: skip
    tracker.begin(Round(1, 8, 1, cpus=2, gpus=0.5))
    trial = SimpleNamespace(config={"job": Job(4, POINT, 9).to_dict()})
    events = TuneEvents(tracker)
    events.log_trial_start(trial)
    result = {
        "epochs": 1, "train_loss": 1.0, "epoch_score": 0.5, "log_loss": 0.9, "seconds": 2.0,
        "stall_seconds": 0.0, "share": 1.0, "lr": 1e-3,
    }  # fmt: skip
    events.log_trial_result(1, trial, result)
    events.log_trial_end(trial)
    assert [t[0].state for t in seen] == ["running", "running", "stopped"]
    last = seen[-1][0]
    assert (last.number, last.seed, last.cpus, last.gpus, last.score) == (4, 9, 2, 0.5, 0.5)
    assert last.history[0] == TrialEpoch(
        0,
        1.0,
        0.5,
        0.9,
        2.0,
        pytest.approx(0, abs=60),
        lr=1e-3,  # type: ignore[arg-type]
    )
    assert (tracker.next_number, rounds[0].trials) == (5, 1)


def test_a_search_compiles_nothing(tmp_path: Path) -> None:
    manifest = make_dataset(f"{tmp_path}/data", train=12, val=3, test=0, shard_rows=6)
    config = loading.load().replace(
        storage=str(tmp_path), name="one", data={"uri": manifest.uri},
        train={"compile": True, "gpus_per_worker": 1},
    )  # fmt: skip
    with pytest.raises(ConfigError, match=r"train\.compile is set; each fit of a search"):
        search.check(config)
