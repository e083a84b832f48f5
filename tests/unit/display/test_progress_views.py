"""Progress as lines and as tables; tests/e2e has the terminal."""

from __future__ import annotations

import io
import time
from dataclasses import replace
from typing import Any

import pytest
from rich.console import Console

from rtl.display import console, progress_views
from rtl.display.progress_views import Bar, FitView, SearchView
from rtl.display.trial_table import TrialView
from rtl.runs.records import TrialEpoch
from rtl.runs.trials import Trial
from rtl.tuning.tracker import Round
from tests.support.screens import use_console


def epoch(number: int, score: float, seconds: float = 10.0) -> TrialEpoch:
    return TrialEpoch(number, 1.0, score, 0.5, seconds, seconds * (number + 1))


def trial(number: int, scores: list[float], state: Any = "finished") -> Trial:
    point = {"model.unfrozen_layers": number % 4, "optimizer.lr": 1e-3}
    history = tuple(epoch(n, score) for n, score in enumerate(scores))
    return Trial(number, point, state=state, history=history)


@pytest.fixture
def piped(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    """What a pipe gets."""
    out = io.StringIO()
    use_console(monkeypatch, file=out, width=200, soft_wrap=True)
    return out


def rendered(table: Any, width: int) -> str:
    out = io.StringIO()
    Console(file=out, width=width).print(table)
    return out.getvalue()


def test_a_pass_tells_its_rate_and_what_is_left(piped: io.StringIO) -> None:
    now = [100.0]
    bar = Bar("images checked", clock=lambda: now[0])
    bar(40, 1040)  # done before
    now[0] += 30
    bar(340, 1040)
    now[0] += 5
    bar(390, 1040)  # too early for another line
    now[0] += 35
    bar(1040, 1040)
    assert piped.getvalue().splitlines() == [
        "Images checked: 340 of 1040, 10 images/s, 1:10 left",
        "Images checked: 1040 of 1040, 14 images/s",
    ]


def test_a_search_without_news_still_shows_life(piped: io.StringIO) -> None:
    now = [100.0]
    with SearchView("accuracy", clock=lambda: now[0]) as view:
        view.round(Round(trials=3, epochs=4, concurrent=1))
        view.trials([trial(0, [0.5, 0.75, 0.7, 0.7]), trial(1, [0.4], "running")])
        now[0] += progress_views.LINE_EVERY_S + 1
        view.pulse()
        view.pulse()
        view.stage("Scoring the winner")
    lines = piped.getvalue().splitlines()
    assert lines[0] == "3 trials of up to 4 epochs"
    assert lines[1].startswith("Trial 0: k = 0, lr = 0.001, accuracy 0.750 on val after 4 epochs")
    assert lines[2] == (
        "1 of 3 trials done, best accuracy 0.750 (trial 0), 21 s elapsed, up to 1:10 left"
    )
    assert lines[3:] == ["Scoring the winner ..."]


def test_images_that_the_probe_reads_are_not_called_features(piped: io.StringIO) -> None:
    now = [100.0]
    with SearchView("accuracy", clock=lambda: now[0]) as view:
        for count in (view.features, view.probe):
            count(0, 300)
            now[0] += progress_views.LINE_EVERY_S
            count(300, 300)
    assert [line.split(":")[0] for line in piped.getvalue().splitlines()] == [
        "Features", "Images of the probe"
    ]  # fmt: skip


def test_an_epoch_in_progress_is_told_too(piped: io.StringIO) -> None:
    now = [100.0]
    with FitView(8, clock=lambda: now[0]) as view:
        view.step(0, 0, 300)
        now[0] += progress_views.LINE_EVERY_S
        view.step(0, 200, 300)
        view.step(0, 300, 300)
    assert piped.getvalue() == "Epoch 1 of 8: 200 of 300, 10 images/s, 10 s left\n"


def test_what_a_round_may_still_take() -> None:
    view = TrialView("auc")
    assert (view.seconds_left(), view.summary()) == (None, "")
    view.update([trial(0, [0.5] * 4)])
    view.begin(Round(trials=4, epochs=4, concurrent=2))
    view.update([trial(0, [0.5] * 4), trial(1, [0.5, 0.6], "running"), trial(2, [0.5] * 4)])
    # 2 epochs of trial 1 and 4 each of two that wait, 10 s each, two side by side.
    assert view.seconds_left() == pytest.approx(50)
    assert "1 of 4 trials done, best auc 0.600 (trial 1)" in view.summary()
    view.begin(Round(trials=4, epochs=4, concurrent=2, ends=time.monotonic() + 7))
    assert view.seconds_left() == pytest.approx(7, abs=1)


def test_a_failed_trial_is_never_the_best() -> None:
    view = TrialView("auc")
    view.begin(Round(trials=2, epochs=4, concurrent=2))
    view.update([trial(0, [0.5]), trial(1, [0.9], "failed")])
    assert "best auc 0.500 (trial 0)" in view.summary()


@pytest.mark.parametrize("width", [200, 80, 40])
def test_a_table_fits_and_tells_the_epoch_of_what_runs(width: int) -> None:
    view = TrialView("accuracy")
    view.begin(Round(trials=20, epochs=12, concurrent=2))
    rows = [trial(n, [0.5] * 12) for n in range(18)]
    rows += [trial(18, [0.25] * 3, "running"), replace(trial(19, []), state="failed")]
    view.update(rows)
    text = rendered(view.table(width, rows=6), width)
    assert "3/12" in text
    assert "0.250" in text
    assert "…" not in text
    assert all(len(line) <= width for line in text.splitlines())
    assert text.count("0.500") == 4  # of those that ended, as many as there is room for
    assert rendered(view.table(width), width).count("0.500") == 18


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0 s"), (59, "59 s"), (187, "3:07"), (4805, "1:20:05")]
)
def test_a_duration(seconds: float, text: str) -> None:
    assert console.duration(seconds) == text


def test_a_bar_without_a_total_says_the_number_so_far(piped: io.StringIO) -> None:
    now = [100.0]
    with progress_views.Bars(clock=lambda: now[0]) as bars:
        bars(5, 0, "files found")
        now[0] += progress_views.LINE_EVERY_S
        bars(5, 0, "files found")
        bars(705, 705, "files found")
    assert piped.getvalue().splitlines() == [
        "Files found: 5", "Files found: 705 of 705, 35 files/s"
    ]  # fmt: skip


def test_a_bar_without_a_total_is_not_full_in_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = io.StringIO()
    monkeypatch.setenv("TERM", "xterm")
    use_console(monkeypatch, file=screen, force_terminal=True, width=80, color_system=None)
    with progress_views.Bars() as bars:
        bars(5, 0, "files found")
    assert "Files found" in screen.getvalue()
    assert "5/?" in screen.getvalue()
