"""Long work of the studio: progress, cancelling, errors, one of a kind."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from rtl.errors import ConfigError, DataError, NotFoundError
from rtl.studio.background.tasks import Task, Tasks, Work

PATIENCE_S = 60.0


@pytest.fixture
def changes() -> queue.Queue[Task]:
    return queue.Queue()


@pytest.fixture
def tasks(changes: queue.Queue[Task]) -> Iterator[Tasks]:
    found = Tasks(changes.put)
    yield found
    found.close()


def end_of(changes: queue.Queue[Task], number: int) -> Task:
    while True:
        task = changes.get(timeout=PATIENCE_S)
        if task.number == number and task.ended:
            return task


def test_a_task_tells_its_progress_and_its_result(tasks: Tasks, changes: queue.Queue[Task]) -> None:
    def work(own: Work) -> Mapping[str, Any]:
        own.stage("Counting")
        own.counting("rows")(3, 7)
        return {"rows": 7}

    task = tasks.start("count", "Counting rows", work=work)
    seen: list[Task] = []
    while not seen or not seen[-1].ended:
        seen.append(changes.get(timeout=PATIENCE_S))
    assert [one.state for one in seen] == ["waiting", "running", "running", "running", "done"]
    assert (seen[3].stage, seen[3].done, seen[3].total, seen[3].unit) == ("Counting", 3, 7, "rows")
    assert seen[-1].result == {"rows": 7}
    assert tasks.all() == [seen[-1]]
    assert task.number == seen[-1].number


def test_errors_of_rtl_are_shown_as_they_are(tasks: Tasks, changes: queue.Queue[Task]) -> None:
    def work(_: Work) -> Mapping[str, Any]:
        raise DataError("3 rows are too few; label more.")

    ended = end_of(changes, tasks.start("x", "X", work=work).number)
    assert (ended.state, ended.error) == ("failed", "3 rows are too few; label more.")


def test_a_defect_fails_its_task_and_the_next_one_runs(
    tasks: Tasks, changes: queue.Queue[Task]
) -> None:
    ended = end_of(changes, tasks.start("x", "X", work=lambda _: {"one": 1 / 0}).number)
    assert ended.state == "failed"
    assert "division" in ended.error
    assert end_of(changes, tasks.start("x", "X", work=lambda _: {}).number).state == "done"


def test_a_running_task_ends_at_its_next_report(tasks: Tasks, changes: queue.Queue[Task]) -> None:
    begun, go_on = threading.Event(), threading.Event()

    def work(own: Work) -> Mapping[str, Any]:
        begun.set()
        go_on.wait(PATIENCE_S)
        own.progress(1, 2)
        raise AssertionError("it went on")

    number = tasks.start("x", "X", work=work).number
    assert begun.wait(PATIENCE_S)
    tasks.cancel(number)
    go_on.set()
    assert end_of(changes, number).state == "cancelled"


def test_a_waiting_task_that_is_cancelled_never_begins(
    tasks: Tasks, changes: queue.Queue[Task]
) -> None:
    go_on, ran = threading.Event(), threading.Event()

    def first(_: Work) -> Mapping[str, Any]:
        go_on.wait(PATIENCE_S)
        return {}

    tasks.start("a", "A", work=first)

    def never(_: Work) -> Mapping[str, Any]:
        ran.set()
        return {}

    second = tasks.start("b", "B", work=never)
    tasks.cancel(second.number)
    go_on.set()
    assert end_of(changes, second.number).state == "cancelled"
    assert not ran.is_set()


def test_a_kind_is_under_way_once(tasks: Tasks, changes: queue.Queue[Task]) -> None:
    go_on = threading.Event()
    task = tasks.start("x", "Looking", work=lambda _: {"set": go_on.wait(PATIENCE_S)})
    with pytest.raises(ConfigError, match="Looking is under way"):
        tasks.start("x", "Looking", work=lambda _: {})
    go_on.set()
    assert end_of(changes, task.number).state == "done"


def test_an_unknown_task_cannot_be_cancelled(tasks: Tasks) -> None:
    with pytest.raises(NotFoundError, match="no task 9"):
        tasks.cancel(9)


def test_the_end_does_not_wait_for_work_that_reports_nothing() -> None:
    begun, go_on = threading.Event(), threading.Event()

    def work(_: Work) -> Mapping[str, Any]:
        begun.set()
        go_on.wait(10 * PATIENCE_S)
        return {}

    changes: queue.Queue[Task] = queue.Queue()
    tasks = Tasks(changes.put)
    number = tasks.start("x", "X", work=work).number
    waiting = tasks.start("y", "Y", work=work).number
    assert begun.wait(PATIENCE_S)
    tasks.close()  # the test's time limit would end it
    assert {task.number: task.state for task in tasks.all()}[number] == "running"
    go_on.set()
    assert end_of(changes, waiting).state == "cancelled"
