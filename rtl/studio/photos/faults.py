"""The audit of a data set as the pages show it: run once, kept in storage by the data's digest."""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from rtl import storage
from rtl.data.shards import SPLITS, Manifest
from rtl.errors import DataError, NotFoundError
from rtl.labels import rows as labelled
from rtl.labels.audit import facts, run
from rtl.labels.audit import fix as fixes
from rtl.labels.audit.copies import CopyGroup
from rtl.labels.audit.fix import Remedy
from rtl.labels.rows import LabelledRows
from rtl.labels.versions import Changes
from rtl.studio.background.tasks import Work
from rtl.studio.photos.index import RowIndex

AUDIT = "audit.json"
"""File of the cache."""

COPIES = ("copies across splits", "copies within a split", "copies with different labels")
"""Kinds of findings whose rows form groups."""


@dataclass(frozen=True)
class Fault:
    """A finding of the audit, see `rtl.labels.audit.findings.Finding`."""

    kind: str
    weight: str
    number: float
    summary: str
    advice: str
    rows: tuple[int, ...]
    """Numbers of the flagged rows, the worst first."""
    notes: Mapping[int, str] = field(default_factory=dict)
    """Words on flagged rows, by row number."""


@dataclass(frozen=True)
class Faults:
    """All findings of a data set, the worst first."""

    when: str
    """UTC, ISO 8601."""
    faults: tuple[Fault, ...]
    copies: tuple[tuple[int, ...], ...]
    """Row numbers of each group of near-duplicates."""

    def fault(self, kind: str) -> Fault:
        """The finding of a kind. Raises NotFoundError."""
        for one in self.faults:
            if one.kind == kind:
                return one
        raise NotFoundError(
            f"The audit has no finding {kind!r}; it has {', '.join(f.kind for f in self.faults)}."
        )

    def groups(self, kind: str, rows: RowIndex) -> list[tuple[int, ...]]:
        """Groups of near-duplicates that a finding of `COPIES` counts."""
        values = {"copies with different labels": rows.labels}.get(kind, rows.splits)
        several = kind != "copies within a split"
        return [
            group for group in self.copies
            if (len({values[row] for row in group}) > 1) == several
        ]  # fmt: skip


def limit(manifest: Manifest) -> str:
    """Words on why a data set is too large for the audit and the map; empty where it is not."""
    total = sum(manifest.rows(split) for split in SPLITS)
    if total <= labelled.MOST_ROWS:
        return ""
    return (
        f"The data set has {total:,} photos. The audit and the map take up to "
        f"{labelled.MOST_ROWS:,}: the features of all photos have to fit into memory. Pack a "
        "sample of them, or look at the photos here."
    )


def check(manifest: Manifest, rows: LabelledRows, work: Work) -> Faults:
    """Audits a data set. Raises DataError for a damaged shard."""
    work.stage("Measuring photos")
    measured = facts.measure(manifest, progress=work.counting("photos"))
    work.stage("Comparing photos")
    found = run.check(rows, measured)
    return Faults(
        datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        tuple(
            Fault(
                one.kind, one.weight, one.number, one.summary, one.advice,
                tuple(map(int, one.flagged)), dict(one.notes),
            )
            for one in found.findings
        ),
        tuple(group.rows for group in found.copies),
    )  # fmt: skip


def write(uri: str, found: Faults) -> None:
    """Keeps an audit. Raises StorageError."""
    storage.write_json(uri, asdict(found))


def read(uri: str) -> Faults | None:
    """Reads an audit; None where there is none. Raises DataError and StorageError."""
    try:
        content: dict[str, Any] = storage.read_json(uri)
    except NotFoundError:
        return None
    return Faults(
        content["when"],
        tuple(
            Fault(**{
                **one, "rows": tuple(one["rows"]),
                "notes": {int(row): note for row, note in one["notes"].items()},
            })
            for one in content["faults"]
        ),
        tuple(tuple(group) for group in content["copies"]),
    )  # fmt: skip


def mending(
    manifest: Manifest, rows: RowIndex, *, copies: Sequence[tuple[int, ...]], remedy: Remedy
) -> Changes:
    """The changes that `rtl audit --fix` makes. Raises DataError without copies to mend."""
    groups = [
        CopyGroup(
            group, tuple(rows.ids[row] for row in group),
            tuple(str(rows.splits[row]) for row in group),
            tuple(manifest.classes[rows.labels[row]] for row in group),
        )
        for group in copies
    ]  # fmt: skip
    found = fixes.changes(groups, remedy)
    if not found.removed and not found.moved:
        raise DataError(
            f"{manifest.uri} has no near-duplicates to {remedy}; go on with it as it is."
        )
    return found
