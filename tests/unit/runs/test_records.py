"""Runs that were written before the records had types are read, and written alike."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from rtl import storage
from rtl.cli import tables
from rtl.config import loading
from rtl.runs import listing, run
from rtl.runs.records import Attempt, Outcome, RunRecord, SearchPlan, SearchSummary, Spent

SHARE = {"value": 0.75, "low": 0.6, "high": 0.9}
SCORES: dict[str, Any] = {
    "classes": ["a", "b"], "rows": 4, "accuracy": SHARE, "top5": None, "macro_f1": SHARE,
    "auc": SHARE, "log_loss": 0.5, "confusion": [[2, 1], [0, 1]],
}  # fmt: skip
EPOCH: dict[str, Any] = {
    "epoch": 0, "train_loss": 0.7, "lr": 0.001, "val": SCORES, "seconds": 2.5, "rows_per_s": 12.0,
    "stall_seconds": 0.25, "share": 1.0,
}  # fmt: skip
RUN: dict[str, Any] = {
    "kind": "train", "config": loading.load().replace(name="old").to_dict(),
    "manifest_digest": "d" * 64, "started": "2026-11-27T10:00:00+00:00",
}  # fmt: skip
OUTCOME: dict[str, Any] = {
    "history": [EPOCH, {**EPOCH, "epoch": 1}], "best": 1, "unfrozen_layers": 3, "lr": 0.001,
    "test": SCORES,
}  # fmt: skip
RESULT: dict[str, Any] = {
    "name": "old", "kind": "train", "bundle": "root/runs/old/bundle", "version": 2,
    "unfrozen_layers": 3, "lr": 0.001, "best_epoch": 1, "epochs": 2, "val": SCORES,
    "test": SCORES, "seconds": 60.0,
}  # fmt: skip
SEARCH: dict[str, Any] = {
    "winner": 3, "metric": "accuracy", "mean": 0.8, "spread": None, "seeds": 1, "currency": "EUR",
    "spent": {"cpu_seconds": 120.0, "gpu_seconds": 0.0, "cost": 0.5}, "last_half_percent": 0.25,
    "features_seconds": 30.0, "given_up": ["one view of an image"],
}  # fmt: skip
PLAN: dict[str, Any] = {"views": 1, "depths": [1, 0], "narrowed": ["k = 3 is left out"]}
ATTEMPT: dict[str, Any] = {
    "state": "failed", "at": "2026-11-27T10:05:00+00:00", "seconds": 300.0, "epochs": 2,
    "score": 0.75, "reason": "TrainingError: Odd.",
}  # fmt: skip


@pytest.mark.parametrize(
    ("record", "content"),
    [(RunRecord, RUN), (Attempt, ATTEMPT), (SearchPlan, PLAN), (SearchSummary, SEARCH)],
)
def test_a_record_of_the_old_form_is_read_and_written_alike(record: Any, content: Any) -> None:
    read = record.from_dict(json.loads(json.dumps(content)))
    assert json.loads(json.dumps(read.to_dict())) == content


def test_an_outcome_of_the_old_form_is_read_and_written_with_its_epochs() -> None:
    read = Outcome.from_dict(OUTCOME)
    assert (read.epochs, read.val, read.test) == (2, read.history[1].val, read.history[0].val)
    later = {"train_seconds": 0.0, "stalls": []}  # not known of an old epoch
    history = [{**epoch, **later} for epoch in OUTCOME["history"]]
    assert json.loads(json.dumps(read.to_dict())) == {**OUTCOME, "epochs": 2, "history": history}
    assert Outcome.from_dict(read.to_dict()) == read


def test_a_summary_has_its_parts_typed() -> None:
    read = SearchSummary.from_dict(SEARCH)
    assert read.spent == Spent(120.0, 0.0, 0.5)
    assert read.tradeoffs == ("one view of an image",)
    assert "25%" in tables.spent_line(read)


def test_an_attempt_that_is_not_known_in_full_is_read() -> None:
    read = Attempt.from_dict({"state": "running", "at": "2026-11-27T10:05:00+00:00"})
    assert (read.seconds, read.reason, read.epochs, read.score) == (0.0, "", None, None)


def test_a_run_of_the_old_form_is_listed_and_resumed(tmp_path: Path) -> None:
    uri = f"{tmp_path}/runs/old"
    for name, content in (
        ("run.json", RUN), ("attempt.json", ATTEMPT), ("outcome.json", OUTCOME),
    ):  # fmt: skip
        storage.write_json(f"{uri}/{name}", content)
    row = listing.read(uri)
    assert (row.state, row.reason, row.epochs, row.val) == (
        "failed", "TrainingError: Odd.", 2, 0.75,
    )  # fmt: skip
    settings = loading.load().replace(name="old", storage=str(tmp_path))
    resumed = run.create_or_resume(settings, "train", manifest_digest="d" * 64, resume=True)
    assert resumed == uri
    assert run.worked_seconds(uri) == 300.0
    assert run.failure(uri) == "TrainingError: Odd."
    storage.write_json(f"{uri}/result.json", RESULT)
    row = listing.read(uri)
    assert (row.state, row.bundle, row.val) == ("finished", "old@2", 0.75)
    assert row.spent is not None
    assert row.spent.cpu_seconds == 5.0
