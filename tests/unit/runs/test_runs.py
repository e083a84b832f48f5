"""`rtl runs` over run folders made by hand, and what a run keeps of its own life."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rtl import storage
from rtl.cli import main, tables
from rtl.config import loading, tree
from rtl.errors import (
    ConfigError,
    NotFoundError,
    ResourceError,
    RunExistsError,
    StorageError,
    TrainingError,
)
from rtl.evaluation import metrics
from rtl.evaluation.metrics import Scores
from rtl.reporting.facts import gather
from rtl.runs import listing, run, trials
from rtl.runs.listing import Row
from rtl.runs.records import Attempt, Epoch, Kind, Outcome, RunRecord, TrialEpoch
from rtl.runs.trials import State, Trial
from tests.support.screens import use_console

SEARCH: dict[str, Any] = {
    "unfrozen_layers": [0, 1], "trials": 3, "finalists": 1, "seeds": 2, "cpu_hour_price": 0.5,
    "currency": "EUR",
}  # fmt: skip


def scores(right: int, rows: int = 10) -> Scores:
    """Of a model that has `right` of the rows."""
    labels = np.arange(rows) % 2
    called = np.where(np.arange(rows) < right, labels, 1 - labels)
    return metrics.evaluate(np.eye(2, dtype=np.float32)[called], labels, ("a", "b"))


def trial(number: int, score: float, state: State = "finished", **more: Any) -> Trial:
    history = (TrialEpoch(0, 1.0, score, 0.5, 2.0, 3.0),)
    point = {"model.unfrozen_layers": 0, "optimizer.lr": 1e-3}
    found = Trial(number, point, 0, state, history if score else (), wall_seconds=1800.0, cpus=2)
    return replace(found, **more)


def outcome(*seconds: float) -> dict[str, Any]:
    """The record of a fit's end, with an epoch of each of these durations."""
    history = tuple(Epoch(n, 1.0, 1e-3, scores(7), s, 12.0) for n, s in enumerate(seconds))
    return Outcome(history, 0, 0, 1e-3, None, len(history)).to_dict()


def begin(root: str, name: str, kind: Kind, **sections: Any) -> str:
    """A new run, as its driver leaves it before any work."""
    settings = loading.load().replace(name=name, storage=root, search=SEARCH, **sections)
    return run.create_or_resume(settings, kind, manifest_digest="d" * 64, resume=False)


def end(uri: str, kind: Kind, right: int, test: int | None = 8) -> None:
    name = uri.rsplit("/", 1)[-1]
    tested = None if test is None else scores(test)
    run.finish(uri, run.Result(name, "cells", kind, f"{uri}/bundle", 4, 0, 1e-3, 0, 2,
                               scores(right), tested, 77.0))  # fmt: skip


def rows_of(root: str) -> dict[str, Row]:
    return {row.name: row for row in listing.listing(root)}


def test_every_run_is_listed_with_how_it_stands(place: str) -> None:
    uri = begin(place, "searched", "search")
    ended = [trial(0, 0.7), trial(1, 0.9, "stopped"), trial(2, 0.0, "failed", reason="NaN")]
    for one in ended:
        trials.record(uri, one)
    storage.write_json(f"{uri}/trials.json", [one.to_dict() for one in ended])
    end(uri, "search", right=9)
    uri = begin(place, "half", "search")
    trials.record(uri, trial(0, 0.7))
    trials.record(uri, trial(1, 0.0, "running"))
    with pytest.raises(KeyboardInterrupt), run.open_run(uri):
        raise KeyboardInterrupt
    uri = begin(place, "fitted", "train", train={"cpus_per_worker": 3, "workers": 2})
    storage.write_json(f"{uri}/outcome.json", outcome(5.0, 7.0))
    end(uri, "train", right=7, test=None)
    found = rows_of(place)
    assert set(found) == {"searched", "half", "fitted"}
    row = found["searched"]
    assert (row.state, row.kind, row.bundle, row.seconds) == (
        "finished",
        "search",
        "cells@4",
        77,
    )
    assert (row.trials_done, row.trials_planned, row.metric, row.val) == (3, 3, "accuracy", 0.9)
    assert row.test == scores(8).accuracy
    assert row.data_digest == "d" * 64
    assert row.spent is not None
    assert (row.spent.cpu_seconds, row.spent.cost) == (3 * 1800 * 2, pytest.approx(1.5))
    row = found["half"]
    assert (row.state, row.trials_done, row.trials_planned, row.val) == ("stopped", 1, 4, 0.7)
    assert row.test is None
    row = found["fitted"]
    assert (row.state, row.epochs, row.val, row.test) == ("finished", 2, 0.7, None)
    assert row.spent is not None
    assert row.spent.cpu_seconds == (5 + 7) * 2 * 3


def test_a_run_whose_driver_vanished_is_unfinished_and_tells_its_last_sign(tmp_path: Path) -> None:
    uri = begin(str(tmp_path), "gone", "train")
    storage.write_json(
        f"{uri}/attempt.json",
        {"state": "running", "at": "2030-01-02T03:04:05+00:00", "epochs": 3, "score": 0.75},
    )
    row = rows_of(str(tmp_path))["gone"]
    assert (row.state, row.last) == ("unfinished", "2030-01-02T03:04:05+00:00")
    assert (row.epochs, row.val, row.bundle) == (3, 0.75, None)
    # Without that record, as of a driver that died at once, its start is all that is known.
    storage.delete(f"{uri}/attempt.json")
    row = rows_of(str(tmp_path))["gone"]
    assert (row.state, row.last) == ("unfinished", row.started)


def test_a_run_that_failed_says_why(tmp_path: Path) -> None:
    uri = begin(str(tmp_path), "nan", "train")
    with pytest.raises(TrainingError), run.open_run(uri):
        raise TrainingError("Something.\nThe loss is nan; lower optimizer.lr.")
    row = rows_of(str(tmp_path))["nan"]
    assert (row.state, row.reason) == (
        "failed", "TrainingError: The loss is nan; lower optimizer.lr.",
    )  # fmt: skip
    # A search of which all trials failed, by its trials' records alone.
    uri = begin(str(tmp_path), "all", "search")
    for number in range(4):
        trials.record(uri, trial(number, 0.0, "failed", reason="the lr is too high"))
    row = rows_of(str(tmp_path))["all"]
    assert (row.state, row.reason) == ("failed", "the lr is too high")
    # Taken up again it is neither failed nor has it a reason.
    with run.open_run(uri):
        trials.record(uri, trial(0, 0.5))
        row = rows_of(str(tmp_path))["all"]
        assert (row.state, row.reason, row.val) == ("unfinished", "", 0.5)


def test_of_two_processes_at_one_run_one_gets_an_error(tmp_path: Path) -> None:
    uri = begin(str(tmp_path), "twice", "search")
    with run.open_run(uri, heartbeat_seconds=0, beat_s=0.05) as heartbeat:
        heartbeat(epochs=1, score=0.5)
        with pytest.raises(RunExistsError, match="is alive"), run.open_run(uri):
            pytest.fail("both work at it")
        assert rows_of(str(tmp_path))["twice"].epochs == 1  # as the first one says
    with run.open_run(uri):
        pass
    assert not (Path(uri) / "OWNER").exists()
    end(uri, "search", 8)
    with pytest.raises(RunExistsError, match="finished meanwhile"), run.open_run(uri):
        pytest.fail("it would be registered twice")


def test_a_run_that_is_refused_before_anything_is_made_leaves_its_name_free(
    tmp_path: Path,
) -> None:
    for made in (False, True):
        uri = begin(str(tmp_path), "refused", "search")
        storage.write_json(f"{uri}/plan.json", {"views": 1})
        if made:
            trials.record(uri, trial(0, 0.5))
        with pytest.raises(ResourceError), run.open_run(uri):
            raise ResourceError("The disk has no room.")
        assert storage.exists(f"{uri}/run.json") == made


def test_a_run_whose_process_died_here_is_taken_up_at_once(tmp_path: Path) -> None:
    uri = begin(str(tmp_path), "killed", "search")
    code = (
        "import os, sys; from rtl.runs import run\n"
        "with run.open_run(sys.argv[1]): print('held', flush=True); os._exit(1)"
    )
    done = subprocess.run([sys.executable, "-c", code, uri], capture_output=True, text=True)
    assert done.stdout == "held\n", done.stderr
    assert (Path(uri) / "OWNER").exists()
    with run.open_run(uri, sleep=lambda _: pytest.fail("it waits")):
        assert run.worked_seconds(uri) > 0


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("run.json", None, "run.json is missing"),
        ("run.json", b'{"kind": "sea', "run.json is not JSON"),
        ("run.json", b"[]", "run.json is not what rtl writes"),
        ("run.json", b'{"kind": "search", "started": "x"}', "run.json is not what rtl writes"),
        ("attempt.json", b'"x"', "attempt.json is not what rtl writes"),
        ("result.json", b"", "result.json is not JSON"),
        ("result.json", b'{"val": {}}', "result.json is not what rtl writes"),
        ("trials.json", b"{}", "trials.json holds no list"),
        ("trials.json", b'[{"number": 1}]', "A trial's record is not what rtl writes"),
        ("trials/0000/trial.json", b"{", "trial.json is not JSON"),
        ("trials/0000/trial.json", b'{"history": 3}', "A trial's record is not what rtl writes"),
    ],
)
def test_a_broken_record_breaks_its_own_row_alone(
    tmp_path: Path, name: str, content: bytes | None, says: str
) -> None:
    begin(str(tmp_path), "sound", "train")
    uri = begin(str(tmp_path), "broken", "search")
    if content is None:
        storage.delete(f"{uri}/{name}")
        storage.write_bytes(f"{uri}/other", b"")
    else:
        storage.write_bytes(f"{uri}/{name}", content)
    found = rows_of(str(tmp_path))
    assert found["sound"].state == "unfinished"
    assert found["broken"].state == "broken"
    assert says in found["broken"].reason


@pytest.mark.parametrize("kind", ["train", "search"])
def test_no_value_of_a_wrong_type_ends_the_listing(tmp_path: Path, kind: Kind) -> None:
    uri = begin(str(tmp_path), "one", kind)
    trials.record(uri, trial(0, 0.7))
    storage.write_json(f"{uri}/outcome.json", outcome(5.0))
    with run.open_run(uri) as heartbeat:
        heartbeat(epochs=1, score=0.5)
    end(uri, kind, right=7)
    broken = 0
    for name in (
        "run.json",
        "attempt.json",
        "result.json",
        "outcome.json",
        "trials/0000/trial.json",
    ):
        record = storage.read_json(f"{uri}/{name}")
        for path in _paths(record):
            for value in ("text", None, {"a": 1}, []):
                Path(uri, name).write_text(json.dumps(_replaced(record, path, value)))
                row = listing.read(uri)
                assert (row.state == "broken") == (" " in row.reason), (name, path, value)
                broken += row.state == "broken"
                tables.runs_table([row])
                json.dumps(row.to_dict())
        Path(uri, name).write_text(json.dumps(record))
    assert broken > 50
    assert listing.read(uri).state == "finished"


def _paths(tree: Any, prefix: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Of every value in a record."""
    if not isinstance(tree, dict | list):
        return [prefix]
    below = tree.items() if isinstance(tree, dict) else enumerate(tree)
    return [prefix, *(path for key, value in below for path in _paths(value, (*prefix, key)))]


def _replaced(tree: Any, path: tuple[Any, ...], value: Any) -> Any:
    """A copy with one value changed."""
    if not path:
        return value
    copy = dict(tree) if isinstance(tree, dict) else list(tree)
    copy[path[0]] = _replaced(tree[path[0]], path[1:], value)
    return copy


@pytest.mark.parametrize(
    ("search", "expected"),
    [
        ({"trials": 8, "seeds": 1}, 8),
        ({"trials": 8, "seeds": 3, "finalists": 2}, 12),
        ({"trials": 1, "seeds": 3, "finalists": 2}, 3),
        ({"sampler": "grid", "unfrozen_layers": [0, 1], "lr": [1e-4, 1e-3, 1e-2],
          "space": {"train.ema": [0.0, 0.9]}, "seeds": 1}, 12),
        ({"budget_minutes": 5.0}, None),
    ],
)  # fmt: skip
def test_how_many_trials_a_search_plans(search: dict[str, Any], expected: int | None) -> None:
    assert listing.planned_trials(loading.load().replace(search=search).to_dict()) == expected


def test_the_verb_prints_a_table_or_json(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    root = str(tmp_path)
    assert main.main(["runs", "--storage", root]) == 0
    assert f"No runs under {root}" in capsys.readouterr().out
    uri = begin(root, "fitted", "train")
    storage.write_json(f"{uri}/outcome.json", outcome(5.0))
    end(uri, "train", right=7)
    storage.write_bytes(f"{root}/runs/bad/run.json", b"{")
    use_console(monkeypatch, width=250)
    assert main.main(["runs", "--storage", root]) == 0
    said = capsys.readouterr().out
    for part in ("cells@4", "accuracy 0.700", "0.800 (0.490 to 0.943)", "bad broken: "):
        assert part in said
    assert main.main(["runs", "--storage", root, "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["name"] for row in rows] == ["fitted", "bad"]
    assert rows[0]["test"] == scores(8).accuracy.to_dict()
    assert rows[0]["spent"] == {"cpu_seconds": 5.0, "gpu_seconds": 0.0, "cost": 5 * 0.5 / 3600}


def test_runs_are_listed_without_ray_and_torch() -> None:
    code = "import rtl.runs.listing, sys; print(sorted({'ray', 'torch'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_storage_that_refuses_signs_of_life_ends_no_run(tmp_path: Path) -> None:
    uri = begin(str(tmp_path), "full", "train")
    attempt = Path(uri) / "attempt.json"
    with run.open_run(uri, heartbeat_seconds=0) as heartbeat:
        attempt.unlink()
        attempt.mkdir()  # in the way of every write
        with pytest.raises(StorageError):
            storage.write_json(str(attempt), {})
        heartbeat(epochs=1, score=0.5)
    assert list(attempt.iterdir()) == []


def test_where_a_run_is_tracked_decides_nothing(tmp_path: Path) -> None:
    settings = loading.load().replace(name="one", storage=str(tmp_path))
    run.create_or_resume(settings, "train", manifest_digest="d" * 64, resume=False)
    tracked = settings.replace(track={"mlflow": "http://mlflow:5000", "experiment": "x"})
    run.create_or_resume(tracked, "train", manifest_digest="d" * 64, resume=True)
    before = settings.to_dict()
    del before["track"]  # of a run that was started by an rtl without it
    assert run.differences(before, tracked.to_dict()) == []


@pytest.mark.parametrize(
    "address",
    ["http://ann:s3cret@mlflow:5000", "https://s3cret@mlflow", "https://mlflow/?token=s3cret"],
)
def test_an_address_with_a_secret_is_refused_without_telling_it(address: str) -> None:
    with pytest.raises(ConfigError, match="MLFLOW_TRACKING_PASSWORD") as refused:
        tree.from_dict({"track": {"mlflow": address}})
    assert "s3cret" not in str(refused.value)


@pytest.mark.parametrize("address", ["https://mlflow.example/path", "sqlite:////tmp/x.db", None])
def test_an_address_alone_is_taken(address: str | None) -> None:
    assert tree.from_dict({"track": {"mlflow": address}}).track.mlflow == address


@pytest.mark.parametrize(
    ("attempt", "says", "resume"),
    [
        (None, r"^{0} has not ended; go on with it by `rtl train --resume`", True),
        (Attempt("stopped", "2026-11-28T00:00:00+00:00"), r"^{0} has not ended", True),
        (
            Attempt("failed", "2026-11-28T00:00:00+00:00", reason="TrainingError: Odd."),
            r"^{0} has no .* failed by TrainingError: Odd\.$",
            False,
        ),
    ],
)
def test_a_report_of_a_run_without_a_result_says_how_it_stands(
    tmp_path: Path, attempt: Attempt | None, says: str, resume: bool
) -> None:
    record = RunRecord("train", {}, "d" * 64, "2026-11-28T00:00:00+00:00")
    storage.write_json(f"{tmp_path}/run.json", record.to_dict())
    if attempt is not None:
        storage.write_json(f"{tmp_path}/attempt.json", attempt.to_dict())
    with pytest.raises(NotFoundError, match=says.format(tmp_path)) as caught:
        gather(str(tmp_path))
    assert ("--resume" in str(caught.value)) == resume


def test_a_run_is_resumed_with_other_workers() -> None:
    before, now = (
        loading.load().replace(train={"workers": workers}).to_dict()
        for workers in ({"min": 1, "max": 2}, {"min": 2, "max": 4})
    )
    assert run.differences(before, now) == []
    assert run.differences(before, loading.load().to_dict()) == []
    assert run.differences(before, loading.load().replace(train={"seed": 1}).to_dict()) == [
        "train.seed was 0, is 1"
    ]
