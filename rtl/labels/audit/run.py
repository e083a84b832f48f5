"""Runs all checks of a data set."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from rtl.labels.audit import classes, copies, doubts, outliers, pretraining, shortcuts
from rtl.labels.audit.copies import CopyGroup
from rtl.labels.audit.duplicates import groups
from rtl.labels.audit.duplicates.candidates import project
from rtl.labels.audit.duplicates.groups import Pair
from rtl.labels.audit.facts import Facts
from rtl.labels.audit.findings import WEIGHTS, Finding
from rtl.labels.errors import FEWEST_ROWS
from rtl.labels.rows import LabelledRows


@dataclass(frozen=True, eq=False)
class Checked:
    """All findings of a data set, the worst first."""

    findings: tuple[Finding, ...]
    """One for each kind of fault, those without a fault last."""
    copies: tuple[CopyGroup, ...]
    """Groups of near-duplicates."""


def check(rows: LabelledRows, facts: Facts) -> Checked:
    """Looks for all kinds of faults; what takes more rows or classes than there are is left out."""
    projected = project(rows.features)
    pairs = _near_duplicates(projected, facts)
    found = copies.group_up(rows, pairs)
    findings = [
        *copies.findings(rows, pairs, found), classes.absent(rows), classes.small(rows),
        classes.imbalance(rows), outliers.outliers(projected, facts), pretraining.pretraining(rows),
    ]  # fmt: skip
    if len(rows) >= FEWEST_ROWS and len(np.unique(rows.labels)) > 1:
        outputs = doubts.left_out(rows)
        skill = doubts.skill(rows, outputs)
        findings += [
            shortcuts.shortcuts(rows, facts, skill=skill), doubts.suspects(rows, outputs),
            doubts.weak_groups(rows, projected, outputs),
        ]  # fmt: skip
    findings.sort(key=lambda one: (WEIGHTS.index(one.weight), -float(one.flags.mean())))
    return Checked(tuple(findings), tuple(found))


def ids_without_copies(rows: LabelledRows, facts: Facts, split: str) -> frozenset[str]:
    """Ids of a split's rows that have no near-duplicate in `train`."""
    found = copies.group_up(rows, _near_duplicates(project(rows.features), facts))
    known = {row for group in found if "train" in group.splits for row in group.ids}
    pairs = zip(rows.ids, rows.splits, strict=True)
    return frozenset(row for row, own in pairs if own == split and row not in known)


def _near_duplicates(projected: torch.Tensor, facts: Facts) -> list[Pair]:
    return groups.find(
        projected, pictures=facts.pictures, sides=facts.numbers[:, :2].min(1),
        contents=facts.contents,
    )  # fmt: skip
