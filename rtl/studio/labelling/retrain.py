"""The loop's turn: decisions become a new version of the data set, and a model is made of it.

Everything that is made lies in folders of its own until the session names the new version, the last
write of all. A failure, a cancelled task and a killed server leave the open version, the decisions
and the budget as they were.
"""

from __future__ import annotations

import contextlib
import datetime
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rtl import storage
from rtl.api.labels import label_apply
from rtl.config import loading
from rtl.config.tree import Config
from rtl.data.shards import Manifest
from rtl.errors import ConfigError, DataError, RtlError
from rtl.labels import tables
from rtl.labels.tables import CORRECTED
from rtl.labels.versions import SOURCE
from rtl.runs import run as runs
from rtl.studio.background import command
from rtl.studio.background.tasks import Work
from rtl.studio.labelling import scores
from rtl.studio.labelling.journal import Decision
from rtl.studio.labelling.scores import VersionScore
from rtl.studio.labelling.state import Labelling
from rtl.studio.runs import start

BUDGET = "1m"
"""Time budget of the search: the probe, without fine-tuning."""

METRIC = "accuracy"
"""Score that is followed over the versions, that of the learning curve."""

_LONGEST_NAME = 50
"""Characters of a model's name that become part of a run's."""


def check(labelling: Labelling) -> None:
    """Raises ConfigError where there is nothing to retrain on."""
    if not labelling.journal.pending() and labelling.score() is not None:
        raise ConfigError("No labels wait, and this version has a model; label some photos first.")


def retrain(labelling: Labelling, work: Work, *, who: str) -> dict[str, Any]:
    """Applies the decisions that wait, makes a model of the result, and opens that version.

    Without decisions a model of the open version is made. Raises the errors of `label_apply` and
    of a search.
    """
    check(labelling)
    opened = labelling.workspace.data
    with labelling.journal.held() as through:
        decisions = labelling.journal.pending(through)
        before = labelling.score()
        name, made = labelling.workspace.free_version(), None
        try:
            if decisions:
                work.stage("Writing the next version of the data set")
                made = _apply(labelling, name, decisions, who=who)
            manifest = made or labelling.workspace.data
            result = _fit(labelling, work, manifest)
            if labelling.workspace.data.digest != opened.digest:
                raise DataError("Another data set or version was opened meanwhile; retrain again.")
            found = _keep(labelling, manifest, result, who=who)
        except BaseException:
            if made is not None:
                with contextlib.suppress(RtlError):
                    storage.delete(made.uri)
            raise
        session = labelling.workspace.session
        if decisions:
            labelling.workspace.update(
                data=manifest.uri, versions=session.versions + 1, through=through,
                labelled=session.labelled + len(decisions),
            )  # fmt: skip
    labelling.workspace.events.publish("progress", found.to_dict())
    return {
        "now": found.to_dict(), "before": before and before.to_dict(), "applied": len(decisions)
    }  # fmt: skip


def export(uri: str, decisions: Sequence[Decision]) -> None:
    """Writes decisions as the table that `rtl label apply` reads. Raises StorageError."""
    rows = [{"id": one.id, SOURCE: one.source, CORRECTED: one.answer} for one in decisions]
    tables.write(uri, rows, columns=["id", SOURCE, CORRECTED])


def _apply(labelling: Labelling, name: str, decisions: Sequence[Decision], *, who: str) -> Manifest:
    table = labelling.workspace.place("tables", f"{name}.csv")
    export(table, decisions)
    target = labelling.workspace.place("data", name)
    return label_apply(labelling.workspace.data.uri, table, dest=target, who=who)


def _fit(labelling: Labelling, work: Work, manifest: Manifest) -> runs.Result:
    """Makes a model in a process of its own, so that the page stays alive meanwhile."""
    workspace = labelling.workspace
    framing = workspace.resolved_config(work).data.framing
    workspace.features(manifest, work)
    short = workspace.session.name[:_LONGEST_NAME].rstrip("._-")
    number = workspace.session.versions + (2 if manifest.uri != workspace.data.uri else 1)
    config: Config = workspace.config.replace(
        name=start.free_name(workspace.root, f"{short}-studio-v{number}"),
        register_as=workspace.session.name,
        data={"uri": manifest.uri, "framing": framing},
    )
    work.stage("Solving the probe")
    with tempfile.TemporaryDirectory(prefix="rtl-studio-") as folder:
        recipe = Path(folder) / "recipe.yaml"
        recipe.write_text(loading.to_yaml(config), encoding="utf-8")
        command.run(work, ["search", "--recipe", str(recipe), "--budget", BUDGET])
    result = runs.result(runs.locate(config))
    if result is None:
        raise DataError(f"The run {config.name} ended without a result; its folder was changed.")
    return result


def _keep(
    labelling: Labelling, manifest: Manifest, result: runs.Result, *, who: str
) -> VersionScore:
    """Keeps the score of the version."""
    workspace = labelling.workspace
    session = workspace.session
    score = result.val.estimate(METRIC)
    found = VersionScore(
        version=session.versions + (2 if manifest.uri != workspace.data.uri else 1),
        data=manifest.uri, labels=manifest.rows("train"), score=score.value, low=score.low,
        high=score.high, metric=METRIC, rows=result.val.rows,
        model=f"{session.name}@{result.version}",
        at=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"), who=who,
    )  # fmt: skip
    scores.write(labelling.folder, manifest.digest, found)
    return found
