"""Records of benchmarks: their names, that none is overwritten, and the tables made of them."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

import pytest

BENCHMARKS = Path(__file__).parents[3] / "benchmarks"
MACHINE = {
    "cpu": "Intel(R) Xeon(R) Processor @ 2.50GHz", "flags": ["avx2", "avx512", "amx"],
    "logical_cpus": 2, "memory_gb": 25.3,
}  # fmt: skip


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Imports a module of the benchmarks as their scripts do."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module


def test_a_record_is_named_by_theme_hardware_and_date_and_stays(
    module: Any, tmp_path: Path
) -> None:
    record = module("measuring.record")
    content = {"ratio": 1.0, "hardware": MACHINE, "date": "2026-11-28"}
    added = [record.add("serve_faults", {**content, "ratio": n}, tmp_path) for n in range(12)]
    stem = "serve_faults_intel-xeon-avx2-avx512-amx_2026-11-28"
    assert [path.name for path in added[:2]] == [f"{stem}.json", f"{stem}-2.json"]
    record.add("serve", content, tmp_path)
    found = record.records("serve_faults", tmp_path)
    assert [each["ratio"] for each in found] == list(range(12))
    assert len(list(record.records("serve", tmp_path))) == 1


def test_every_record_has_its_hardware_and_its_name(module: Any) -> None:
    record = module("measuring.record")
    paths = list((BENCHMARKS / "results").glob("*"))
    assert len(paths) >= 12
    for path in paths:
        content = json.loads(path.read_text())
        assert {"cpu", "flags", "logical_cpus", "memory_gb"} <= set(content["hardware"]), path
        ending = f"_{record.slug(content['hardware'])}_{content['date']}"
        assert ending in path.stem, path
        assert (BENCHMARKS / f"{path.stem.partition(ending)[0]}.py").exists(), path


def test_this_machines_hardware_is_known(module: Any) -> None:
    record = module("measuring.record")
    found = record.hardware()
    assert found["cpu"]
    assert set(found["flags"]) <= set(record.FLAGS)
    assert found["logical_cpus"] >= 1


def test_a_table_stands_between_its_markers_and_nothing_else_changes(module: Any) -> None:
    table = module("table")
    text = "a\n<!-- results:begin search trunk -->\nold\n<!-- results:end -->\nb\n"
    rendered = table.render(text)
    assert rendered.startswith("a\n<!-- results:begin search trunk -->\n| Task |")
    assert rendered.endswith("|\n<!-- results:end -->\nb\n")
    assert "old" not in rendered
    assert "| 15 min 52 s |" in rendered
    assert "HTTP endpoint" not in rendered
    assert table.render(rendered) == rendered
    every = table.render("<!-- results:begin -->\n<!-- results:end -->")
    assert all(f"`{theme}.py`" in every for theme in table.THEMES)


def test_the_tables_are_those_of_the_records(module: Any) -> None:
    table = module("table")
    for path in table.pages():
        text = path.read_text(encoding="utf-8")
        assert table.render(text) == text, f"`python benchmarks/table.py` renders {path}"


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(56.4, "56 s"), (952.4, "15 min 52 s"), (15809, "4 h 23 min"), (7199, "2 h 0 min")],
)
def test_a_duration_reads_well(module: Any, seconds: float, said: str) -> None:
    assert module("table").duration(seconds) == said


def test_turns_are_reversed_and_the_limit_stands_between_them(module: Any) -> None:
    runner = module("measuring.runner")
    order: list[str] = []

    def note(name: str) -> int:
        order.append(name)
        return len(order)

    contenders = {name: lambda name=name: note(name) for name in ("a", "b")}
    found = runner.in_turns(contenders, turns=2, limit=lambda: note("limit"))
    assert order == ["limit", "a", "b", "limit", "b", "a", "limit"]
    assert found == {"a": [2, 6], "b": [3, 5], runner.LIMIT: [1, 4, 7]}


def test_an_interval_is_students(module: Any) -> None:
    interval = module("measuring.runner").interval
    assert interval([1.0]) == {"mean": 1.0}
    assert interval([1.0, 2.0, 3.0]) == {"mean": 2.0, "low": -0.4841, "high": 4.4841}
