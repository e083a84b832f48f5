"""Long work on the photos: the audit, the map, a version without near-duplicates."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rtl.data.shards import Manifest
from rtl.errors import ConfigError, DataError, NotFoundError
from rtl.labels import versions
from rtl.labels.audit.fix import Remedy
from rtl.studio.background.tasks import Task, Work
from rtl.studio.photos import faults, feature_map

if TYPE_CHECKING:
    from rtl.studio.workspace import Workspace


def start_audit(workspace: Workspace) -> Task:
    """Audits the open data set in the background. Raises DataError where it is too large."""
    manifest = _small_enough(workspace)

    def run(work: Work) -> dict[str, Any]:
        rows = workspace.features(manifest, work)
        found = faults.check(manifest, rows, work)
        workspace.photos.keep_faults(manifest, found)
        return {"serious": sum(one.weight == "serious" for one in found.faults)}

    return workspace.tasks.start("audit", "Looking for faults", work=run)


def start_map(workspace: Workspace) -> Task:
    """Draws the map of the open data set in the background. Raises as `start_audit` does."""
    manifest = _small_enough(workspace)

    def run(work: Work) -> dict[str, Any]:
        rows = workspace.features(manifest, work)
        found = feature_map.build(rows, work)
        workspace.photos.keep_map(manifest, found)
        return {"rows": len(found.rows)}

    return workspace.tasks.start("map", "Drawing the map", work=run)


def start_fix(workspace: Workspace, remedy: Remedy) -> Task:
    """Writes a version of the open data set without near-duplicates, and opens it.

    Raises NotFoundError before the audit, DataError without near-duplicates, and ConfigError where
    a row would go whose corrected label waits.
    """
    manifest = workspace.data
    found = workspace.photos.faults(manifest)
    if found is None:
        raise NotFoundError("The data set has not been audited yet; start the audit first.")
    rows = workspace.photos.index(manifest)
    changes = faults.mending(manifest, rows, copies=found.copies, remedy=remedy)
    waiting = {one.id for one in workspace.labelling.journal.pending() if not one.source}
    if lost := sorted(waiting & changes.removed):
        raise ConfigError(
            f"{len(lost)} photos that would go have labels that wait, first {lost[0]!r}; retrain "
            "on the Label page, or take these labels back."
        )

    def run(work: Work) -> dict[str, Any]:
        work.stage("Writing the new version")
        what = f"audit --fix, copies {remedy}"
        dest = workspace.place("data", workspace.free_version())
        made = versions.apply(manifest, changes, dest, what=what)
        if workspace.data.digest != manifest.digest:
            raise DataError(f"Another version was opened meanwhile; {made.uri} holds this one.")
        workspace.update(data=made.uri, versions=workspace.session.versions + 1)
        return {"uri": made.uri}

    return workspace.tasks.start("fix", "Writing a new version", work=run)


def _small_enough(workspace: Workspace) -> Manifest:
    if words := faults.limit(workspace.data):
        raise DataError(words)
    return workspace.data
