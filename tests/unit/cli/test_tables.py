"""Tables of results: readable and copyable in a terminal of 80 columns, times in UTC."""

from __future__ import annotations

import io
import time
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from rtl.cli import tables
from rtl.runs.listing import Row

ID = "raysubmit_Ab3dEf6hIj9kLmNo"


@pytest.fixture
def far_from_utc(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("TZ", "Asia/Kolkata")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


def rendered(table: Any, width: int = 80) -> str:
    out = io.StringIO()
    Console(file=out, width=width).print(table)
    return out.getvalue()


def test_a_submission_id_stands_in_one_piece_and_its_time_in_utc(far_from_utc: None) -> None:
    command = "python -m rtl.cli search --data s3://bucket/dogs --storage s3://bucket/rtl"
    job: Any = SimpleNamespace(
        submission_id=ID, status="SUCCEEDED", start_time=1764360000000, entrypoint=command
    )
    text = rendered(tables.jobs_table([job]))
    assert f"│ {ID} │" in text
    assert "started UTC" in text
    assert "2025-11-28 20:00" in text


def test_runs_have_their_times_in_utc(far_from_utc: None) -> None:
    row = Row("dogs", "s3://b/runs/dogs", started="2026-11-25T09:16:00+00:00")
    text = rendered(tables.runs_table([row]), 120)
    assert "started UTC, data set" in text
    assert "2026-11-25 09:16" in text
