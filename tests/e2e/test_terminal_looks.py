"""Terminals of all kinds, pipes, and errors that nobody expected."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from rtl.config import loading
from rtl.errors import TrainingError
from rtl.runs import run
from tests.support.terminal import ROOT, Terminal
from tests.support.workplace import Workplace

BROKEN_LISTING = """
import rtl.runs.listing
def listing(root):
    raise ValueError("the shelf is crooked")
rtl.runs.listing.listing = listing
"""
BROKEN_PACK = """
import rtl.data.pack, rtl.runtime.session
def pack(source, dest, config, progress):
    progress(1, 10, "images checked")
    raise ValueError("the shelf is crooked")
rtl.data.pack.pack = pack
rtl.runtime.session.connect = lambda: None
"""
UNEXPECTED = 70
REASON = "Weights [burst] at s3://bucket/" + "very-long/" * 12


@pytest.fixture(scope="module")
def runs(folder: Path) -> str:
    """A storage root with a run that failed, one that was stopped, and one that goes on."""
    names: dict[str, type[BaseException] | None] = {
        "dogs-of-2026-with-a-long-name": None, "failed": TrainingError, "halted": KeyboardInterrupt,
    }  # fmt: skip
    for name, error in names.items():
        settings = loading.load().replace(name=name, storage=str(folder / "shelf"))
        uri = run.create_or_resume(settings, "train", manifest_digest="d" * 64, resume=False)
        if error is not None:
            with contextlib.suppress(error), run.open_run(uri):
                raise error(REASON)
    return "shelf"


@pytest.fixture
def broken(alone: Workplace, tmp_path: Path) -> Iterator[Workplace]:
    """Whose Python runs `sitecustomize.py` of a folder first."""
    changed = {**alone.environment, "PYTHONPATH": f"{tmp_path}:{ROOT}", "TMPDIR": str(tmp_path)}
    return Workplace(alone.folder, changed)


def test_config_prints_a_recipe(alone: Workplace) -> None:
    shown = alone.run("rtl config --set search.trials=16")
    alone.path("shown.yaml").write_text(shown.lines())
    assert loading.load(alone.path("shown.yaml")).search.trials == 16
    refused = alone.run("rtl config --set search.trails=16", 1)
    refused.must_say("rtl config: search.trails is not a key")


@pytest.mark.parametrize(("columns", "rows"), [(80, 24), (200, 50), (40, 24)])
def test_runs_fit_the_terminal(alone: Workplace, runs: str, columns: int, rows: int) -> None:
    shown = alone.run(f"rtl runs --storage {runs}", columns=columns, rows=rows)
    for word in ("dogs-of-2026-with-a-long-name", "unfinished", "failed", "halted", "stopped"):
        if not _is_readable(shown, word):
            raise shown.failure(f"{word!r} cannot be read")
    shown.must_say(f"failed failed: TrainingError: {REASON}")
    borders = {row[0] + row.rstrip()[-1] for row in shown.transcript().splitlines() if "━" in row}
    assert borders <= {"┏┓", "┡┩"}, shown.screen()


def _is_readable(terminal: Terminal, word: str) -> bool:
    """Whether it stands there in one piece, or is broken over the lines of a table's cell."""
    rows = [row.split("│") for row in terminal.transcript().splitlines() if "│" in row]
    width = max((len(row) for row in rows), default=0)
    columns = ["".join(row[i].strip() for row in rows if len(row) == width) for i in range(width)]
    return any(word in text for text in [terminal.transcript(), *columns])


@pytest.mark.parametrize(
    "variables", [{"TERM": "dumb"}, {"NO_COLOR": "1"}], ids=["dumb", "no-colour"]
)
def test_plain_terminals_get_no_colour(
    alone: Workplace, runs: str, variables: dict[str, str]
) -> None:
    shown = alone.run(f"rtl runs --storage {runs}", **variables)
    assert not shown.colours()
    shown.must_say("unfinished")
    if "TERM" in variables:
        assert "\x1b" not in shown.raw.decode()


def test_a_pipe_gets_text_alone(alone: Workplace, runs: str) -> None:
    shown = alone.run(f"rtl runs --storage {runs} | cat")
    assert "\x1b" not in shown.raw.decode()
    shown.must_say("unfinished")


@pytest.mark.parametrize("verb", ["config", "runs", "runs --json", "--help"])
def test_a_reader_that_goes_away_is_no_error(alone: Workplace, runs: str, verb: str) -> None:
    place = f"--storage {runs}" if verb != "--help" else ""
    shown = alone.run(f"{{ rtl {verb} {place}; echo exit status $? >&2; }} | true")
    assert shown.screen() in ("exit status 0", "exit status 141")


def test_an_error_that_nobody_expected_is_three_lines(broken: Workplace, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(BROKEN_LISTING)
    shown = broken.run("rtl runs --storage shelf", UNEXPECTED)
    first, second, third = shown.lines().splitlines()
    assert first.startswith("rtl runs")
    assert second == "ValueError: the shelf is crooked"
    log = re.search(r"(/\S+\.log)\b.*RTL_DEBUG=1", third)
    assert log is not None, third
    assert "Traceback" in Path(log[1]).read_text()
    assert "rtl runs" in Path(log[1]).read_text()


def test_debug_shows_the_traceback(broken: Workplace, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(BROKEN_LISTING)
    with broken.open("rtl runs --storage shelf", RTL_DEBUG="1") as terminal:
        assert terminal.wait() == UNEXPECTED
        assert terminal.faults() == ["a traceback"]
    terminal.must_say("ValueError: the shelf is crooked")
    assert list(tmp_path.glob("*.log")) == []


def test_an_unexpected_error_under_a_bar_says_what_was_done(
    broken: Workplace, tmp_path: Path
) -> None:
    (tmp_path / "sitecustomize.py").write_text(BROKEN_PACK)
    shown = broken.run("rtl pack photos elsewhere", UNEXPECTED)
    shown.must_say("rtl pack (images checked): ")
    shown.must_say("ValueError: the shelf is crooked")
