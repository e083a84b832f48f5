"""Two models on the same rows: `compare`."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from rtl.api.configuration import Location, Recipe, configure, text_of
from rtl.api.models import Split
from rtl.errors import ConfigError
from rtl.runtime import session

if TYPE_CHECKING:
    from rtl.comparison.records import DifferingRow, ModelComparison
    from rtl.config.tree import Config
    from rtl.data.shards import Manifest

ON_PAGE = 300
"""Photos of the page, at most."""


def compare(
    a: Location,
    b: Location,
    *,
    data: Location | None = None,
    split: Split = "test",
    robustness: bool = False,
    near_duplicates: bool = False,
    html: Location | None = None,
    storage: Location | None = None,
    recipe: Recipe | None = None,
    overrides: Mapping[str, Any] | None = None,
    progress: bool = False,
) -> ModelComparison:
    """Compares two models on a split of a packed data set: which is better, and where they differ.

    `a` and `b` as in `load_model`; differences are B minus A. `robustness` adds accuracies on
    blurred, noisy, brighter, darker and JPEG-damaged photos, nine passes in place of one.
    `near_duplicates` leaves out of the accuracies without copies also rows whose photo is in
    `train` in another form, as `audit` finds them; without it, copies are equal files. `html` gets
    a page with the photos that one model alone has right. Raises BundleError, ConfigError for
    one model given twice, DataError where the split is empty or the classes differ, and
    ResourceError for a GPU that is not there.
    """
    session.silence()
    from rtl import storage as objects
    from rtl.comparison import compare as comparing
    from rtl.comparison.copies import rows_without_copies
    from rtl.data import shards
    from rtl.display import progress_views
    from rtl.labels import images
    from rtl.model import registry
    from rtl.reporting import sheet
    from rtl.storage import destinations

    given = {"data.uri": data and text_of(data), "storage": storage and text_of(storage)}
    config = configure(recipe, overrides=overrides, given=given)
    if config.data.uri is None:
        raise ConfigError("data.uri is not set; give the packed data set with --data URI.")
    if html is not None:
        destinations.check_file(text_of(html), "--html")
    uris = tuple(registry.resolve(config.storage, text_of(model)) for model in (a, b))
    with progress_views.bars_if(progress) as on_progress:
        found = comparing.compare(
            (uris[0], uris[1]), config.data.uri, split=split, robustness=robustness,
            seed=config.data.seed, use_gpu=bool(config.train.gpus_per_worker),
            rows_without_copies=partial(_without_near_duplicates, config=config)
            if near_duplicates else rows_without_copies,
            progress=lambda done, total: on_progress(done, total, "rows"),
        )  # fmt: skip
    if html is not None:
        rows = found.differing[:ON_PAGE]
        page = sheet.render_sheet(
            f"{found.a.name} (A) and {found.b.name} (B)", _text(found),
            captions={row.id: _caption(row) for row in rows},
            images=images.encoded(shards.load_manifest(found.data), [row.id for row in rows]),
        )  # fmt: skip
        objects.write_bytes(text_of(html), page.encode())
    return found


def _without_near_duplicates(manifest: Manifest, split: str, *, config: Config) -> frozenset[str]:
    """Ids of a split's rows without a near-duplicate in `train`; Ray is connected already."""
    from rtl.labels import rows as labelled
    from rtl.labels.audit import facts, run

    config, manifest = labelled.prepare(config)
    rows = labelled.load(labelled.resolve(config, manifest), manifest)
    return run.ids_without_copies(rows, facts.measure(manifest), split)


def _caption(row: DifferingRow) -> str:
    right = "A" if row.only_a else "B"
    return (
        f"only {right} is right: {row.label}. A says {row.answer_a} ({row.probability_a:.2f}), B "
        f"{row.answer_b} ({row.probability_b:.2f})"
    )


def _text(found: ModelComparison) -> str:
    shown = min(ON_PAGE, len(found.differing))
    return (
        f"{found.verdict} {shown} of the {len(found.differing)} rows that one model alone has "
        "right, those of B first. Rows that both have wrong are not shown."
    )
