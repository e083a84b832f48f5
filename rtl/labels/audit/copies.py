"""Near-duplicates as findings: across splits, within one, and with labels that disagree."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rtl.data.shards import SPLITS
from rtl.labels.audit.duplicates.groups import Pair, groups
from rtl.labels.audit.findings import Finding, Weight, counted, nothing
from rtl.labels.rows import LabelledRows


@dataclass(frozen=True)
class CopyGroup:
    """Rows that show the same photo."""

    rows: tuple[int, ...]
    """Row numbers."""
    ids: tuple[str, ...]
    splits: tuple[str, ...]
    """Split of each row."""
    labels: tuple[str, ...]
    """Class of each row."""

    @property
    def straddles(self) -> bool:
        """Whether the rows are in several splits."""
        return len(set(self.splits)) > 1

    @property
    def disagrees(self) -> bool:
        """Whether the rows have several labels."""
        return len(set(self.labels)) > 1


def group_up(rows: LabelledRows, pairs: Sequence[Pair]) -> list[CopyGroup]:
    """Groups that pairs of row numbers form."""
    return [
        CopyGroup(
            tuple(group), tuple(rows.ids[row] for row in group),
            tuple(str(rows.splits[row]) for row in group),
            tuple(rows.classes[rows.labels[row]] for row in group),
        )
        for group in groups(pairs, len(rows))
    ]  # fmt: skip


def findings(
    rows: LabelledRows, pairs: Sequence[Pair], found: Sequence[CopyGroup]
) -> list[Finding]:
    """Three findings; a row's score is one minus the distance to its copy, 0 without one."""
    scores = np.zeros(len(rows), np.float32)
    for pair in pairs:
        for row in (pair.first, pair.second):
            scores[row] = max(scores[row], 1 - pair.distance)
    across = [group for group in found if group.straddles]
    scored = sum(split != "train" for group in across for split in group.splits)
    total = int((rows.splits != "train").sum())
    both = {
        (one, other): sum({one, other} <= set(group.splits) for group in across)
        for place, one in enumerate(SPLITS)
        for other in SPLITS[place + 1 :]
    }
    which = ", ".join(f"{n} {one} and {other}" for (one, other), n in both.items() if n)
    within = [group for group in found if not group.straddles]
    surplus = sum(len(group.rows) - 1 for group in within)
    mixed = [group for group in found if group.disagrees]
    return [
        _finding(
            "copies across splits", across, scores, serious=True, number=scored,
            summary=f"{counted(len(across), 'photo lies', 'photos lie')} in several splits "
            f"({which}): {scored} of {total} rows of val and test are copies",
            advice="Scores on them are too high: `rtl audit --fix DEST` removes the train rows, or "
            "with `--copies group` moves each group into one split.",
            clean="no photo lies in two splits",
        ),
        _finding(
            "copies within a split", within, scores, serious=False, number=surplus,
            summary=f"{counted(len(within), 'photo is', 'photos are')} there more than once, "
            f"{counted(surplus, 'row', 'rows')} too many",
            advice="They count twice in training and in scores: `rtl audit --fix DEST` removes "
            "them from train.",
            clean="no photo is there twice in a split",
        ),
        _finding(
            "copies with different labels", mixed, scores, serious=True, number=len(mixed),
            summary=f"{counted(len(mixed), 'photo has', 'photos have')} several labels, such as "
            + (", ".join(sorted(set(mixed[0].labels))) if mixed else ""),
            advice="One of the labels is wrong: correct it by `rtl label apply`.",
            clean="copies have the same label",
        ),
    ]  # fmt: skip


def _finding(
    kind: str,
    found: Sequence[CopyGroup],
    scores: np.ndarray,
    *,
    serious: bool,
    number: int,
    summary: str,
    advice: str,
    clean: str,
) -> Finding:
    flags = np.zeros(len(scores), np.bool_)
    notes: dict[int, str] = {}
    for group in found:
        for place, row in enumerate(group.rows):
            other = 0 if place else 1
            notes[row] = f"as {group.ids[other]} ({group.splits[other]}, {group.labels[other]})"
            flags[row] = True
    own = np.where(flags, scores, 0).astype(np.float32)
    if not found:
        return nothing(kind, clean, own)
    weight: Weight = "serious" if serious else "notable"
    return Finding(kind, weight, float(number), summary, advice, own, flags, notes)
