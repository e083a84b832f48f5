from __future__ import annotations

from pathlib import Path

import pytest

from rtl.data import history, shards
from rtl.labels import versions
from rtl.labels.audit import fix
from rtl.labels.audit.copies import CopyGroup
from rtl.labels.audit.fix import Remedy
from rtl.labels.versions import Changes
from tests.conftest import make_dataset


def group(*members: str) -> CopyGroup:
    """Of words such as `a train red`."""
    ids, splits, labels = zip(*(member.split() for member in members), strict=True)
    return CopyGroup(tuple(range(len(ids))), ids, splits, labels)


@pytest.mark.parametrize(
    ("found", "removed", "moved"),
    [
        (group("a train x", "b test x"), {"a"}, {"b": "train"}),
        (group("a val x", "b test x", "c test x"), {"a"}, {"a": "test"}),
        (group("a train x", "b val x", "c val x"), {"a"}, {"a": "val"}),
        (group("a train x", "b val y"), {"a"}, {"b": "train"}),
        (group("a train x", "b train x", "c train x"), {"b", "c"}, {}),
        (group("a train x", "b train y"), set(), {}),
        (group("a test x", "b test x"), set(), {}),
    ],
)
def test_copies_are_removed_or_moved(
    found: CopyGroup, removed: set[str], moved: dict[str, str]
) -> None:
    assert fix.changes([found], "remove") == Changes(removed=frozenset(removed))
    assert fix.changes([found], "group") == Changes(moved=moved)


@pytest.mark.parametrize("remedy", fix.REMEDIES)
def test_the_new_version_has_a_photo_in_one_split(remedy: Remedy, tmp_path: Path) -> None:
    data = make_dataset(str(tmp_path / "data"))
    found = [group("00000 train blue", "00024 val blue"), group("00001 train x", "00036 test x")]
    made = versions.apply(
        data, fix.changes(found, remedy), str(tmp_path / "next"), what="audit", who="Ada"
    )
    splits = {
        row["id"]: shard.split
        for shard in made.shards
        for row in shards.read_shard(made, shard).to_pylist()
    }
    assert len({splits[row] for row in ("00000", "00024") if row in splits}) == 1
    assert len({splits[row] for row in ("00001", "00036") if row in splits}) == 1
    (step,) = history.steps(made)
    assert (step.removed, step.moved) == ((2, 0) if remedy == "remove" else (0, 2))
    assert {split: sum(counts) for split, counts in made.counts.items()} == {
        split: list(splits.values()).count(split) for split in ("train", "val", "test")
    }
    assert shards.load_manifest(data.uri).digest == data.digest
