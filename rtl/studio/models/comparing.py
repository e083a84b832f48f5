"""Compares two models in the background, as `rtl compare` does."""

from __future__ import annotations

from typing import Any, Literal

from rtl.comparison import compare as comparing
from rtl.comparison.records import ModelComparison
from rtl.data import shards
from rtl.errors import ConfigError
from rtl.model import registry
from rtl.studio.models.versions import describe
from rtl.studio.runs.plain import without_nan
from rtl.studio.tasks import Task, Work
from rtl.studio.workspace import Workspace

ON_PAGE = 200
"""Rows that one model alone has right, at most."""


def compare(
    workspace: Workspace, a: str, b: str, *, split: Literal["val", "test"], data: str | None = None
) -> Task:
    """Starts the comparison of B with A, each `NAME@VERSION`, on a split of a data set.

    Without `data` on the one that is open, else on the one that B was made from. Raises BundleError
    for a model that is not there, ConfigError where no data set is known.
    """
    uris = tuple(registry.resolve(workspace.root, name) for name in (a, b))
    place = data or (workspace.session.data if workspace.is_open else None)
    place = place or describe(uris[1])["data_uri"]
    if place is None:
        raise ConfigError(f"No data set is open, and {b} names none; open one first.")

    def work(own: Work) -> dict[str, Any]:
        own.stage("Starting Ray")
        found = comparing.compare(
            (uris[0], uris[1]), place, split=split, seed=workspace.config.data.seed,
            use_gpu=bool(workspace.config.train.gpus_per_worker), progress=_progress(own),
        )  # fmt: skip
        return content(found)

    return workspace.tasks.start("compare", f"Compare {a} and {b}", work=work)


def content(found: ModelComparison) -> dict[str, Any]:
    """A comparison as plain JSON values, with the first rows that one model alone has right."""
    plain: dict[str, Any] = without_nan(found.to_dict())
    for side, model in (("a", found.a), ("b", found.b)):
        scores = plain[side]["scores"]
        plain[side]["scores"] = {key: scores[key] for key in ("accuracy", "macro_f1", "auc")}
        plain[side]["scores"]["log_loss"] = model.scores.log_loss
    differing = plain.pop("differing")
    digest = shards.load_manifest(found.data).digest[:16]
    return {**plain, "differing": differing[:ON_PAGE], "differ": len(differing), "digest": digest}


def _progress(work: Work) -> Any:
    """Names the stage once rows come, and counts them."""
    begun = False

    def report(done: int, total: int) -> None:
        nonlocal begun
        if not begun:
            begun = True
            work.stage("Answering")
        work.progress(done, total, "rows")

    return report
