"""The label tools: which labels are wrong, which photos to label next, what more would bring."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rtl.api.configuration import Location, Recipe, configure, text_of
from rtl.runtime import session

if TYPE_CHECKING:
    from rtl.config.tree import Config
    from rtl.data.shards import Manifest
    from rtl.labels.curve.measure import Curve, Offer
    from rtl.labels.errors import Expectation
    from rtl.labels.rows import LabelledRows
    from rtl.labels.selection import Simulation


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


@dataclass(frozen=True)
class NextLabels:
    """Photos to label next."""

    uri: str
    """The queue, a JSON file; `.csv` and `.html` files of the same name lie beside it."""
    ids: tuple[str, ...]
    """Rows of the pool, the most valuable first."""
    guesses: tuple[str, ...]
    """Class that each row seems to be of, to be checked."""
    strategy: str
    """`coverage`, `margin` or `random`."""
    reason: str
    simulations: tuple[Simulation, ...]


def label_next(
    data: Location,
    pool: Location,
    *,
    count: int = 200,
    out: Location = "label-next.json",
    balance: bool = False,
    storage: Location | None = None,
    recipe: Recipe | None = None,
    overrides: Mapping[str, Any] | None = None,
    progress: bool = False,
) -> NextLabels:
    """Chooses which photos of a pool to label next, and writes them as JSON, CSV and HTML.

    `pool` is a folder or prefix of photos, or a packed data set, whose labels are ignored. While
    labels are few, typical photos are taken; later, what a simulation on the labelled rows shows to
    be better than random choice; else random ones. `balance` gives the classes that the photos seem
    to be of equal shares. `label_apply` reads the CSV once its column `corrected` is filled in.
    Raises ConfigError, DataError, NotFoundError and StorageError.
    """
    session.silence()
    from rtl import storage as objects
    from rtl.api.ray_session import connect
    from rtl.display import progress_views
    from rtl.errors import ConfigError
    from rtl.labels import images, queue
    from rtl.labels import pool as pools
    from rtl.labels.rows import prepare
    from rtl.reporting import sheet
    from rtl.storage import destinations

    if count < 1:
        raise ConfigError(f"count is {count}; it must be 1 or more.")
    target = text_of(out)
    if not target.endswith(".json"):
        raise ConfigError(f"out is {target!r}; it must end in .json, CSV and HTML go beside it.")
    destinations.check_file(target, "--out")
    config = _configure(data, storage=storage, recipe=recipe, overrides=overrides)
    config, _ = prepare(config)
    connect(progress=progress)
    with progress_views.bars_if(progress) as on_progress:
        unlabelled = pools.open_pool(
            text_of(pool), config, progress=lambda done, total: on_progress(done, total, "images")
        )
    # The framing of the data set is that of the pool, so that their features can be compared.
    config, manifest, rows = _load(config, progress=progress)
    _, _, others = _load(config.replace(data={"uri": unlabelled.uri}), progress=progress)
    known = set(images.hashes(manifest).values())
    present = {row for row, found in images.hashes(unlabelled).items() if found in known}
    made = queue.build(
        rows, others, source=unlabelled.uri, present=present, count=count, balance=balance
    )
    files = queue.write(target, made)
    captions = {item.id: f"probably {item.guess}" for item in made.items}
    page = sheet.render_sheet(
        f"{len(captions)} photos to label next", made.selection.reason, captions=captions,
        images=images.encoded(unlabelled, list(captions)),
    )  # fmt: skip
    objects.write_bytes(files.page, page.encode())
    return NextLabels(
        files.queue, tuple(item.id for item in made.items),
        tuple(item.guess for item in made.items), made.selection.strategy, made.selection.reason,
        made.selection.simulations,
    )  # fmt: skip


@dataclass(frozen=True, eq=False)
class LabelCurve:
    """A data set's learning curve, and what more labels would bring."""

    uri: str
    """The data set."""
    curve: Curve
    offers: tuple[Offer, ...]
    """More labels with the score that they would bring; empty without a forecast."""
    needed: int | None
    """More labels until the target is reached; None where no target was given, where it is out of
    reach, or without a forecast."""
    no_forecast: str
    """Why there is no forecast; empty where there is one."""


def label_curve(
    data: Location,
    *,
    target: float | None = None,
    price: float | None = None,
    counts: Sequence[int] = (),
    storage: Location | None = None,
    recipe: Recipe | None = None,
    overrides: Mapping[str, Any] | None = None,
    progress: bool = False,
) -> LabelCurve:
    """Forecasts the accuracy with more labels, from the learning curve of those that are there.

    `price` is the money that one label costs, `target` an accuracy from 0 to 1, `counts` numbers of
    labels to add, by default a quarter, once and thrice as many as there are. `curve.checks` says
    what checking as many of the old labels brings, for several shares of wrong ones. Raises
    ConfigError, DataError where there are too few rows, NotFoundError and StorageError.
    """
    session.silence()
    from rtl.errors import ConfigError
    from rtl.labels.curve import measure as curves
    from rtl.labels.curve.forecast import NoForecast

    if target is not None and not 0 < target < 1:
        raise ConfigError(f"target is {target}; it must be an accuracy between 0 and 1.")
    if price is not None and price < 0:
        raise ConfigError(f"price is {price}; it must be the money for one label, 0 or more.")
    if few := [count for count in counts if count < 1]:
        raise ConfigError(f"counts has {few[0]}; it must be numbers of labels to add, 1 or more.")
    config = _configure(data, storage=storage, recipe=recipe, overrides=overrides)
    config, _, rows = _load(config, progress=progress)
    labels = int((rows.splits == "train").sum())
    more = counts or [max(1, round(share * labels)) for share in (0.25, 1, 3)]
    found = curves.measure(rows, more)
    reason = found.forecast.reason if isinstance(found.forecast, NoForecast) else ""
    needed = None if target is None else found.needed(target)
    offers = tuple(found.offers(more, price))
    return LabelCurve(str(config.data.uri), found, offers, needed, reason)


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
    """Loads a data set's rows; also returns the config with the features' framing and precision."""
    from rtl.api.ray_session import connect
    from rtl.display import console, progress_views
    from rtl.labels import rows

    config, manifest = rows.prepare(config)
    connect(progress=progress)
    print_line = console.print_line if progress else lambda _: None
    config = rows.resolve(config, manifest, print_line)
    with progress_views.bars_if(progress) as on_progress:
        found = rows.load(
            config, manifest, progress=lambda done, total: on_progress(done, total, "features")
        )
    return config, manifest, found
