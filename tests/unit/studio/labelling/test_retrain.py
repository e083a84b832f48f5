"""What a retraining hands to `rtl label apply`, and the scores of the versions."""

from __future__ import annotations

from pathlib import Path

from rtl.labels import versions
from rtl.studio.labelling import scores
from rtl.studio.labelling.journal import Journal
from rtl.studio.labelling.retrain import export
from rtl.studio.labelling.scores import VersionScore
from tests.conftest import make_dataset


def test_decisions_become_the_table_that_apply_reads(tmp_path: Path) -> None:
    data = make_dataset(str(tmp_path / "data"), train=12, val=6, test=6)
    journal = Journal(str(tmp_path / "decisions"))
    rows = {"00000": "red", "00001": "-", "00002": ""}
    for number, (row, answer) in enumerate(rows.items()):
        journal.record(("", row), answer, key=f"key-{number:04}")
    odd = 'a, "photo"\nof é.jpg'
    journal.record(("s3://bucket/pool", odd), "blue", key="key-0009")
    export(str(tmp_path / "t.csv"), journal.pending())
    found = versions.read_changes(str(tmp_path / "t.csv"), data)
    assert found.labels == {"00000": "red"}
    assert found.removed == {"00001"}
    assert found.added == {"s3://bucket/pool": {odd: "blue"}}


def test_a_versions_scores_are_those_of_its_ancestors(tmp_path: Path) -> None:
    first = make_dataset(str(tmp_path / "v1"), train=12, val=6, test=6)
    steps = [first]
    for number in (2, 3):
        changes = versions.Changes(labels={f"{number:05}": "red"})
        steps.append(
            versions.apply(steps[-1], changes, str(tmp_path / f"v{number}"), what="label apply")
        )
    folder = str(tmp_path / "session")
    for number in (1, 3):  # the second was made by another command, and has no score
        found = VersionScore(
            version=number, data="", labels=12, score=0.5, low=0.4, high=0.6, metric="accuracy",
            rows=6, model=f"colours@{number}", at="",
        )  # fmt: skip
        scores.write(folder, steps[number - 1].digest, found)
    assert [one.version for one in scores.lineage(folder, steps[2])] == [1, 3]
    assert [one.version for one in scores.lineage(folder, steps[1])] == [1]
    assert scores.read(folder, steps[1].digest) is None
