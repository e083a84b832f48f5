"""The audit of a data set, before money is spent on it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rtl.api.configuration import Location, Recipe, configure, text_of
from rtl.runtime import session

if TYPE_CHECKING:
    from rtl.data.shards import Manifest
    from rtl.labels.audit.copies import CopyGroup
    from rtl.labels.audit.findings import Finding
    from rtl.labels.audit.fix import Remedy
    from rtl.labels.rows import LabelledRows

ON_SHEET = 48
"""Photos of one finding on the HTML sheet."""


@dataclass(frozen=True, eq=False)
class Audit:
    """Faults of a data set of N rows."""

    uri: str
    """The data set."""
    ids: tuple[str, ...]
    """Rows, in the order of all scores and flags."""
    splits: tuple[str, ...]
    labels: tuple[str, ...]
    findings: tuple[Finding, ...]
    """One for each kind of fault, the worst first, those without a fault last."""
    copies: tuple[CopyGroup, ...]
    """Groups of near-duplicates."""
    fixed: Manifest | None
    """The new version; None where none was asked for."""


def audit(
    data: Location,
    *,
    out: Location | None = None,
    html: Location | None = None,
    fix: Location | None = None,
    copies: Remedy = "remove",
    who: str = "",
    storage: Location | None = None,
    recipe: Recipe | None = None,
    overrides: Mapping[str, Any] | None = None,
    progress: bool = False,
) -> Audit:
    """Looks for faults of a packed data set: near-duplicates, shortcuts, outliers and more.

    Each finding has a score and a flag for each row, and one number for the set. `out` is a CSV
    file of all rows with a column of scores for each kind, `html` a page with the flagged photos.
    `fix` gets a new version of the data set: with `copies` `remove`, near-duplicates leave `train`
    where `val` or `test` has the photo, `val` where `test` has it, and one of those within `train`
    stays; with `group`, each group of them moves into one split. The data set itself stays as it
    is. Raises ConfigError, DataError, NotFoundError and StorageError.
    """
    session.silence()
    from rtl import storage as objects
    from rtl.api.ray_session import connect
    from rtl.display import console, progress_views
    from rtl.errors import ConfigError, DataError
    from rtl.labels import rows as labelled
    from rtl.labels import versions
    from rtl.labels.audit import facts, run
    from rtl.labels.audit import fix as fixes
    from rtl.storage import destinations

    if copies not in fixes.REMEDIES:
        raise ConfigError(f"copies is {copies!r}; it must be {' or '.join(fixes.REMEDIES)}.")
    for name, target in (("--out", out), ("--html", html)):
        if target is not None:
            destinations.check_file(text_of(target), name)
    if fix is not None:
        destinations.check_writable(text_of(fix), "--fix")
    given = {"data.uri": text_of(data), "storage": storage and text_of(storage)}
    config = configure(recipe, overrides=overrides, given=given)
    config, manifest = labelled.prepare(config)
    connect(progress=progress)
    print_line = console.print_line if progress else lambda _: None
    config = labelled.resolve(config, manifest, print_line)
    with progress_views.bars_if(progress) as bar:
        rows = labelled.load(
            config, manifest, progress=lambda done, total: bar(done, total, "features")
        )
        measured = facts.measure(manifest, progress=lambda done, total: bar(done, total, "images"))
    found = run.check(rows, measured)
    if html is not None:
        objects.write_bytes(text_of(html), _page(rows, manifest, found.findings).encode())
    if out is not None:
        _write_table(text_of(out), rows, found.findings)
    made = None
    if fix is not None:
        changes = fixes.changes(found.copies, copies)
        if not changes.removed and not changes.moved:
            raise DataError(
                f"{manifest.uri} has no near-duplicates to {copies}; go on with it as it is."
            )
        made = versions.apply(
            manifest, changes, text_of(fix), what=f"audit --fix, copies {copies}", who=who
        )
    return Audit(
        manifest.uri, tuple(rows.ids), tuple(map(str, rows.splits)),
        tuple(rows.classes[label] for label in rows.labels), found.findings, found.copies, made,
    )  # fmt: skip


def _page(rows: LabelledRows, manifest: Manifest, findings: Sequence[Finding]) -> str:
    from rtl.labels import images
    from rtl.reporting import sheet

    sections = []
    for found in findings:
        if found.weight == "none":
            continue
        captions = {
            rows.ids[row]: ", ".join(
                part
                for part in (
                    rows.classes[rows.labels[row]], str(rows.splits[row]), found.notes.get(row)
                )
                if part
            )
            for row in found.flagged[:ON_SHEET]
        }  # fmt: skip
        text = f"{found.summary}. {found.advice}"
        sections.append(sheet.SheetSection(f"{found.kind}: {found.weight}", text, captions))
    wanted = {row for section in sections for row in section.captions}
    return sheet.render_sections(
        f"Audit of {manifest.uri}",
        f"{len(rows)} rows, {len(sections)} kinds of faults, the worst first.",
        sections=sections, images=images.encoded(manifest, wanted),
    )  # fmt: skip


def _write_table(uri: str, rows: LabelledRows, findings: Sequence[Finding]) -> None:
    from rtl.labels import tables

    kinds = [found.kind for found in findings]
    lines = [
        {
            "id": rows.ids[row], "split": rows.splits[row],
            "label": rows.classes[rows.labels[row]],
            "flags": "; ".join(found.kind for found in findings if found.flags[row]),
            **{found.kind: round(float(found.scores[row]), 4) for found in findings},
            tables.CORRECTED: "",
        }
        for row in range(len(rows))
    ]  # fmt: skip
    tables.write(uri, lines, columns=["id", "split", "label", "flags", *kinds, tables.CORRECTED])
