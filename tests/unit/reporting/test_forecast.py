from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from rtl import storage
from rtl.planning import kept
from rtl.planning.records import (
    EPOCHS,
    EVALUATION,
    FEATURES,
    PROBE,
    TRIALS,
    WORKERS,
    CommandForecast,
    StageForecast,
)
from rtl.reporting import report
from rtl.reporting.facts import gather
from rtl.runs.records import Kind

RUNS = Path(__file__).parents[2] / "compatibility" / "b892c42"


@pytest.mark.parametrize(
    ("name", "kind", "names", "parts"),
    [
        ("fit", "train", (FEATURES, PROBE, WORKERS, EPOCHS, EVALUATION),
         [(EPOCHS, 10.0), ("features, probe, workers and evaluation", 40.0), ("in all", 50.0)]),
        ("searched", "search", (FEATURES, PROBE, TRIALS, EVALUATION),
         [(FEATURES, 10.0), (PROBE, 10.0), ("trials and evaluation", 20.0), ("in all", 40.0)]),
    ],
)  # fmt: skip
def test_a_planned_run_shows_forecast_and_outcome(
    tmp_path: Path, name: str, kind: Kind, names: tuple[str, ...], parts: list[tuple[str, float]]
) -> None:
    shutil.copytree(RUNS, tmp_path / "before")
    for path in (tmp_path / "before" / "root" / "runs").rglob("*.json"):
        text = path.read_text(encoding="utf-8")
        path.write_text(text.replace("PLACE", str(tmp_path / "before")), encoding="utf-8")
    uri = storage.join(str(tmp_path / "before" / "root"), "runs", name)
    assert "Forecast and outcome" not in report(uri)
    stages = tuple(StageForecast(stage, 10.0) for stage in names)
    kept.attach(CommandForecast(kind, stages, "rtl: all alike."), uri)
    found = gather(uri).forecast
    assert [(part.name, part.forecast) for part in found] == parts
    assert sum(part.outcome for part in found[:-1]) == pytest.approx(found[-1].outcome)
    assert found[-1].outcome > 0
    assert "Forecast and outcome" in report(uri)
