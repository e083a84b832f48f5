"""`label_review`: labels that are probably wrong. `label_apply`: a data set with corrections."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rtl.api.configuration import Location, Recipe, configure, text_of
from rtl.runtime import session

if TYPE_CHECKING:
    from rtl.config.tree import Config
    from rtl.data.shards import Manifest
    from rtl.labels.errors import Expectation
    from rtl.labels.rows import LabelledRows


@dataclass(frozen=True)
class Suspect:
    """A row whose label is doubtful."""

    id: str
    split: str
    label: str
    suggested: str
    """Class that the other rows speak for; the label itself where they do not contradict it."""
    score: float
    """Margin of the label: the smaller, the more doubtful."""


@dataclass(frozen=True)
class LabelReview:
    """All rows of a data set, the most doubtful label first."""

    uri: str | None
    """The CSV file; None where none was asked for."""
    suspects: tuple[Suspect, ...]
    expected: tuple[Expectation, ...]
    """Precision and recall in the first rows at a stated share of wrong labels."""


def label_review(
    data: Location,
    *,
    out: Location | None = None,
    noise: float = 0.05,
    count: int | None = None,
    storage: Location | None = None,
    recipe: Recipe | None = None,
    overrides: Mapping[str, Any] | None = None,
    progress: bool = False,
) -> LabelReview:
    """Ranks the labels of a packed data set by how doubtful they are.

    Each row is compared with a probe that was solved without it, on cached features. `out` is a
    CSV file with an empty column `corrected`, which `label_apply` reads once it is filled in.
    `expected` says how many of the first `count` rows (by default 8 %) would be wrong if a share
    `noise` of all labels were, by errors planted in this data set. Raises ConfigError, DataError,
    NotFoundError and StorageError.
    """
    session.silence()
    from rtl.errors import ConfigError
    from rtl.labels import errors, tables
    from rtl.storage import destinations

    if not 0 < noise < 0.5:
        raise ConfigError(f"noise is {noise}; it must be a share of the labels between 0 and 0.5.")
    if out is not None:
        destinations.check_file(text_of(out), "--out")
    config = _configure(data, storage=storage, recipe=recipe, overrides=overrides)
    _, _, rows = _load(config, progress=progress)
    errors.check(rows)
    classes = len(rows.classes)
    reviewer = errors.Reviewer(rows.features, confidence=rows.confidence)
    found = reviewer.review(rows.labels, classes=classes)
    first = min(len(rows), count or max(1, round(0.08 * len(rows))))
    expected = errors.expect(reviewer, rows.labels, classes=classes, count=first, noise=noise)
    suspects = tuple(
        Suspect(
            rows.ids[i], str(rows.splits[i]), rows.classes[rows.labels[i]],
            rows.classes[found.suggested[i]], round(float(found.scores[i]), 4),
        )
        for i in found.order
    )  # fmt: skip
    if out is not None:
        columns = ["id", "split", "label", "suggested", "score", tables.CORRECTED]
        tables.write(text_of(out), [vars(row) for row in suspects], columns=columns)
    return LabelReview(text_of(out) if out is not None else None, suspects, tuple(expected))


def label_apply(data: Location, corrected: Location, *, dest: Location, who: str = "") -> Manifest:
    """Writes a new version of a packed data set with the answers of a corrected table.

    `corrected` is a CSV file of `label_review` or `label_next` whose column `corrected` was filled
    in: a class, `-` to remove the row, or nothing. The data set stays as it is; `dest` gets the new
    one, whose manifest tells its history: when, from which digest, and by `who`, if that is given.
    Raises DataError for a wrong answer before anything is written, NotFoundError and StorageError.
    """
    session.silence()
    from rtl.data import shards
    from rtl.labels import versions

    manifest = shards.load_manifest(text_of(data))
    changes = versions.read_changes(text_of(corrected), manifest)
    return versions.apply(manifest, changes, text_of(dest), what="label apply", who=who)


def _configure(
    data: Location,
    *,
    storage: Location | None,
    recipe: Recipe | None,
    overrides: Mapping[str, Any] | None,
) -> Config:
    given = {"data.uri": text_of(data), "storage": storage and text_of(storage)}
    return configure(recipe, overrides=overrides, given=given)


def _load(config: Config, *, progress: bool) -> tuple[Config, Manifest, LabelledRows]:
    """Loads a data set's rows with their features, which are computed where they are missing."""
    from rtl.api.ray_session import connect
    from rtl.display import console, progress_views
    from rtl.labels import rows

    config, manifest = rows.prepare(config)
    connect(progress=progress)
    print_line = console.print_line if progress else lambda _: None
    with progress_views.bars_if(progress) as on_progress:
        found = rows.load(
            config, manifest, print_line=print_line,
            progress=lambda done, total: on_progress(done, total, "features"),
        )  # fmt: skip
    return config, manifest, found
