from __future__ import annotations

from typing import Any

from rtl.data import history
from rtl.data.history import HISTORY, Origin
from rtl.data.shards import Manifest


def version(*steps: dict[str, Any]) -> Manifest:
    told = {"what": "x", "when": "", "who": "", "corrected": 0, "removed": 0, "added": 0}
    numbered = [{**told, "parent": f"d{number}", **step} for number, step in enumerate(steps)]
    return Manifest(("a",), {}, (), packing={HISTORY: numbered})


def test_a_packed_data_set_has_no_versions_before_it() -> None:
    found = history.lineage(Manifest(("a",), {}, (), packing={"seed": 0}))
    assert (found.digests, found.origins) == ({}, {})


def test_versions_come_newest_first_and_rows_have_their_last_origin() -> None:
    first = {"pool": {"x": ["train/0", 3], "y": ["train/0", 4]}}
    again = {"other": {"x": ["train/1", 0]}}
    found = history.lineage(
        version({}, {"added": 2, "sources": first}, {"removed": 1}, {"added": 1, "sources": again})
    )
    assert list(found.digests.items()) == [(3, "d3"), (2, "d2"), (1, "d1"), (0, "d0")]
    assert found.origins == {
        "x": Origin(4, "other", "train/1", 0), "y": Origin(2, "pool", "train/0", 4),
    }  # fmt: skip


def test_nothing_before_a_step_without_sources_is_known() -> None:
    """Such a step may have given the id of a row that was removed to another image."""
    early = {"pool": {"y": ["train/0", 4]}}
    found = history.lineage(
        version({"added": 1, "sources": early}, {"removed": 1}, {"added": 1}, {"corrected": 1})
    )
    assert (found.digests, found.origins) == ({3: "d3"}, {})
