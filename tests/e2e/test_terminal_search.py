"""`rtl search` in a terminal: stopped twice, taken up again, in a budget, and through a pipe."""

from __future__ import annotations

import re
import shlex

import pytest

from rtl.model import registry
from rtl.runs import run
from tests.support.terminal import SLOWER, Terminal
from tests.support.workplace import SharedCluster, Workplace, stop

SEARCH = (
    "rtl search --data data --storage results --set train.batch_size=8 --set train.epochs=6 "
    "--set search.sampler=grid --set search.scheduler=none --set search.lr=[0.01,0.003] "
    "--set search.unfrozen_layers=[1,0] --set train.cpus_per_worker=1 --set data.image_size="
)


@pytest.fixture(scope="module")
def stopped_in_the_pass(work: Workplace, shared_cluster: SharedCluster) -> str:
    """The command that goes on after Ctrl-C in the features' pass."""
    with work.open(SEARCH + "224 --name colours") as terminal:
        terminal.wait_for("Features")
        command = stop(terminal)
        terminal.must_say("0 trials that ended and all features computed so far are kept")
    assert shared_cluster.still_busy() == []
    return command


@pytest.fixture(scope="module")
def stopped_in_a_trial(
    work: Workplace, shared_cluster: SharedCluster, stopped_in_the_pass: str
) -> Terminal:
    """Stopped again while its table was live, and the window had changed its size."""
    with work.open(stopped_in_the_pass, columns=200, rows=50, NO_COLOR="1") as terminal:
        terminal.wait_until(
            lambda: (
                re.search("[1-5]/6", terminal.screen()) is not None
                # The line below the table may come in the next piece of output.
                and re.search(r"[0-3] of 4 trials done.* elapsed", terminal.screen()) is not None
            ),
            "an epoch in the table, and the trials that are done below it",
        )
        terminal.resize(100, 30)
        terminal.wait_until(
            lambda: bool(re.search("[1-3] of 4", terminal.screen())), "a trial that ended"
        )
        assert terminal.screen().count("unfrozen") == 1, terminal.screen()
        best = r"best accuracy [01]\.\d+ \((trial \d|the probe)\)"
        terminal.find(best + r", .* elapsed, up to .* left")
        stop(terminal)
    assert shared_cluster.still_busy() == []
    return terminal


@pytest.fixture(scope="module")
def searched(work: Workplace, stopped_in_the_pass: str, stopped_in_a_trial: Terminal) -> Terminal:
    """The same search at its end, through a pipe."""
    return work.run(f"{{ {stopped_in_the_pass}; echo exit status $?; }} | cat")


def test_ctrl_c_in_the_features_pass_names_the_command_that_goes_on(
    stopped_in_the_pass: str,
) -> None:
    typed = shlex.split(SEARCH + "224 --name colours")
    assert shlex.split(stopped_in_the_pass) == [*typed, "--resume"]


def test_ctrl_c_in_trials_leaves_the_table_and_what_stands(
    work: Workplace, stopped_in_a_trial: Terminal
) -> None:
    stopped_in_a_trial.find(r"[1-4] trials? that ended")
    assert not stopped_in_a_trial.colours()
    assert registry.versions(str(work.path("results")), "colours") == [1]  # the first answer
    assert "stopped" in work.run("rtl runs --storage results").screen()


def test_a_search_that_was_stopped_twice_goes_on_to_its_end(
    work: Workplace, searched: Terminal
) -> None:
    searched.must_say("registered as colours@2")
    searched.must_say("rtl promote colours 2 --storage results")
    found = run.result(str(work.path("results/runs/colours")))
    assert found is not None
    assert registry.versions(str(work.path("results")), "colours") == [1, found.version]


def test_a_piped_search_is_lines_at_a_sane_rate(searched: Terminal) -> None:
    assert "\x1b" not in searched.raw.decode()
    lines = searched.lines().splitlines()
    assert lines[-1] == "exit status 0"
    assert any(re.fullmatch(r"\d trials? of up to 6 epochs", line) for line in lines)
    ended = sorted(line[:8] for line in lines if line.startswith("Trial "))
    assert ended == [f"Trial {number}:" for number in range(1, 5)]
    assert len(lines) < 40


def test_a_search_in_a_budget_fits_a_narrow_terminal(work: Workplace) -> None:
    line = SEARCH + f"75 --name quick --budget {40 * SLOWER:.0f}s --set train.epochs=2"
    narrow = work.run(line, columns=40)
    narrow.must_say("registered as quick@2")
    narrow.find(r"^ *trial +k +lr +epoch +val *$")
    narrow.find(r"^ *\d+( stopped)? +[01] +0\.0\d+ +[12] +[01]\.\d{3} *$")


def test_the_report_of_a_search_is_one_file(alone: Workplace, searched: Terminal) -> None:
    alone.run("rtl report colours --storage results").must_say("Report at colours.html")
    assert "<html" in alone.path("colours.html").read_text()
