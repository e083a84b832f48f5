"""`rtl demo --quick` in a terminal: a newcomer's first command, which starts Ray itself."""

from __future__ import annotations

import re

import pytest

from tests.support.terminal import SLOWER
from tests.support.workplace import Workplace, stop

STAGES = ("Upload", "Images checked", "Shards written", "Features")


@pytest.mark.timeout(600 * SLOWER)
def test_the_quick_demo_ends_with_predictions_and_a_report(alone: Workplace) -> None:
    with alone.open("rtl demo --quick") as terminal:
        for stage in STAGES:
            terminal.wait_for(stage)
        terminal.wait_for("trials done", seconds=200)
        terminal.ends(0, seconds=300)
        terminal.leaves_nothing()
    terminal.find(r"rtl, first answer +│ [01]\.\d{3} \(")
    terminal.find(r"rtl, winner: (k = |the probe)")
    terminal.find(r"The first answer came over HTTP after \d+ s")
    assert len(re.findall(r"│ cell\d+\.png +│ (?:functional|defective) +│ ",
                          terminal.transcript())) == 10  # fmt: skip
    terminal.must_say("The report, with every trial and the worst mistakes: rtl-demo.html")
    assert "<html" in alone.path("rtl-demo.html").read_text()
    assert "{" not in terminal.transcript()


def test_ctrl_c_ends_the_demo_and_all_that_it_started(alone: Workplace) -> None:
    with alone.open("rtl demo --quick") as terminal:
        terminal.wait_for("Images checked")
        names = " ".join(process.name() for process in terminal.left())
        assert "rclone" in names
        assert "raylet" in names
        command = stop(terminal)
    terminal.must_say("Its object storage has ended with it, so nothing is kept.")
    assert command == "rtl demo --quick"
