"""No decision that was answered as saved is ever lost, and all agree on their order."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import pytest

from rtl import storage
from rtl.errors import ConfigError, DataError, NotFoundError
from rtl.studio.labelling.journal import SKIP, Journal, rule


def keys(journal: Journal) -> dict[tuple[str, str], str | None]:
    return {row: one.answer for row, one in journal.answers().items()}


def test_decisions_are_there_for_the_next_reader(place: str) -> None:
    journal = Journal(place)
    assert journal.record(("", "a"), "red", key="key-0001").number == 1
    assert journal.record(("s3://pool", "a"), "-", key="key-0002").number == 2
    assert journal.record(("", "b"), SKIP, key="key-0003").number == 3
    again = Journal(place)
    assert keys(again) == {("", "a"): "red", ("s3://pool", "a"): "-", ("", "b"): ""}
    assert [one.id for one in again.pending()] == ["a", "a"]
    assert again.record(("", "a"), "blue", key="key-0004").number == 4
    assert keys(again)["", "a"] == "blue"


def test_a_decision_is_in_storage_before_it_is_returned(tmp_path: Path) -> None:
    journal = Journal(str(tmp_path))
    made = journal.record(("", "<b>\"é'|"), "red", key="key-0001")
    (file,) = tmp_path.glob("00000001-*.json")
    content = json.loads(file.read_text())
    assert content["id"] == made.id
    assert content["answer"] == "red"


def test_an_undo_gives_back_the_answer_before(tmp_path: Path) -> None:
    journal = Journal(str(tmp_path))
    journal.record(("", "a"), "red", key="key-0001")
    second = journal.record(("", "a"), "blue", key="key-0002")
    made = journal.undo(second.key, key="key-0003")
    assert (made.number, made.undoes) == (3, "key-0002")
    assert keys(Journal(str(tmp_path))) == keys(journal) == {("", "a"): "red"}
    assert journal.undo(None, key="key-0004").undoes == "key-0001"
    assert keys(Journal(str(tmp_path))) == {}
    with pytest.raises(NotFoundError):
        journal.undo(None, key="key-0005")
    with pytest.raises(NotFoundError):
        journal.undo("key-0002", key="key-0006")


def test_a_decision_that_is_sent_again_is_kept_once(tmp_path: Path) -> None:
    journal = Journal(str(tmp_path))
    first = journal.record(("", "a"), "red", key="key-0001")
    assert journal.record(("", "a"), "red", key="key-0001") == first
    assert Journal(str(tmp_path)).record(("", "a"), "red", key="key-0001") == first
    undone = journal.undo(None, key="key-0002")
    assert journal.undo(None, key="key-0002") == undone
    assert journal.last == 2


def test_two_writers_lose_nothing_and_agree(place: str) -> None:
    journals = [Journal(place), Journal(place)]

    def write(number: int) -> None:
        for i in range(15):
            journals[number % 2].record(("", f"{number}-{i}"), "red", key=f"key-{number}-{i:03}")

    threads = [threading.Thread(target=write, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = Journal(place)
    assert len(found.answers()) == 60
    assert len(storage.list_names(place)) == 60
    for journal in journals:
        journal.refresh()
        assert journal.answers() == found.answers()


def test_a_crash_between_two_writes_leaves_what_was_saved(tmp_path: Path) -> None:
    Journal(str(tmp_path)).record(("", "a"), "red", key="key-0001")
    # A killed writer leaves a temporary file that was never linked to its name.
    (tmp_path / ".00000002-0123456789abcdef.json.abc").write_text('{"number": 2')
    journal = Journal(str(tmp_path))
    assert keys(journal) == {("", "a"): "red"}
    assert journal.record(("", "b"), "red", key="key-0002").number == 2


def test_a_damaged_decision_is_never_passed_over(tmp_path: Path) -> None:
    Journal(str(tmp_path)).record(("", "a"), "red", key="key-0001")
    (file,) = tmp_path.glob("*.json")
    file.write_text('{"number": 1}')
    with pytest.raises(DataError, match="no decision"):
        Journal(str(tmp_path))


def test_decisions_of_a_version_leave_those_that_wait(tmp_path: Path) -> None:
    journal = Journal(str(tmp_path))
    journal.record(("", "a"), "red", key="key-0001")
    journal.record(("pool", "b"), "blue", key="key-0002")
    journal.record(("", "c"), SKIP, key="key-0003")
    with journal.held() as through:
        assert through == 3
        journal.record(("", "d"), "red", key="key-0004")
        journal.record(("", "a"), "blue", key="key-0005")  # a data set's label may change again
        with pytest.raises(ConfigError, match="version already"):
            journal.undo("key-0001", key="key-0006")
        with pytest.raises(ConfigError, match="version already"):
            journal.record(("pool", "b"), "red", key="key-0007")
        assert journal.undo("key-0005", key="key-0008").undoes == "key-0005"
        assert [one.id for one in journal.pending(through)] == ["a", "b"]
    journal.settle(through)
    for found in (journal, Journal(str(tmp_path), through=through)):
        assert keys(found) == {("", "d"): "red"}
        assert set(found.settled()) == {("", "a"), ("pool", "b")}
        with pytest.raises(ConfigError, match="version already"):
            found.undo("key-0002", key="key-0009")


def test_a_failed_version_leaves_everything_as_it_was(tmp_path: Path) -> None:
    journal = Journal(str(tmp_path))
    journal.record(("pool", "b"), "blue", key="key-0001")
    with pytest.raises(ValueError, match="failed"), journal.held():
        raise ValueError("failed")
    assert [one.id for one in journal.pending()] == ["b"]
    assert journal.undo(None, key="key-0002").undoes == "key-0001"


def test_an_answer_is_a_class_a_removal_or_a_skip() -> None:
    for answer in ("red", "-", ""):
        rule(answer, ("red", "blue"))
    with pytest.raises(ConfigError, match="none of the 2 classes"):
        rule("green", ("red", "blue"))
