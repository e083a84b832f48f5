from __future__ import annotations

import io

import pytest
from rich.console import Console

from rtl import console


def test_a_bar_without_a_total_says_the_number_so_far(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(console, "_LINE_EVERY_S", -1.0)
    with console.Bars() as bars:
        bars(5, 0, "files found")
        bars(7, 7, "files found")
    assert capsys.readouterr().out.splitlines() == ["Files found: 5", "Files found: 7 of 7"]


def test_a_bar_without_a_total_is_not_full_in_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = io.StringIO()
    monkeypatch.setattr(
        console, "console", Console(file=screen, force_terminal=True, width=80, color_system=None)
    )
    with console.Bars() as bars:
        bars(5, 0, "files found")
    assert "Files found" in screen.getvalue()
    assert "5/?" in screen.getvalue()
