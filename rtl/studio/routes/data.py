"""Photos of the open data set: rows, images, the audit, the map of features."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any, Literal

import numpy as np
from fastapi import APIRouter, Query, Response
from pydantic import BaseModel

from rtl.data.shards import SPLITS, Manifest
from rtl.errors import DataError, ImageError
from rtl.labels.audit.fix import Remedy
from rtl.studio.photos import faults, filters, work
from rtl.studio.photos.filters import Decided, Filter, Sort
from rtl.studio.photos.index import RowIndex
from rtl.studio.workspace import Workspace

MOST_ROWS = 500
"""Rows in one answer."""

EXAMPLES = 6
"""Photos that stand for a finding."""

FOREVER = {"Cache-Control": "private, max-age=31536000, immutable"}
"""Headers of a photo: its address names its data set by digest, so that its bytes never change."""

PLACEHOLDER = (
    '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 160 120" width="160" height="120">'
    '<rect width="160" height="120" fill="#e3e5e8"/><text x="80" y="56" text-anchor="middle" '
    'font-family="sans-serif" font-size="13" fill="#3a4047">This photo</text><text x="80" y="74" '
    'text-anchor="middle" font-family="sans-serif" font-size="13" fill="#3a4047">cannot be read'
    "</text></svg>"
)
"""Picture that is shown in place of a damaged one."""

Start = Annotated[int, Query(ge=0)]
Count = Annotated[int, Query(ge=1, le=MOST_ROWS)]


class Mending(BaseModel):
    """How near-duplicates are dealt with in a new version."""

    remedy: Remedy = "remove"


def router(workspace: Workspace) -> APIRouter:
    """Requests below `/api`."""
    found = APIRouter()
    photos = workspace.photos

    @found.get("/photo")
    def photo(data: str, id: str, size: Literal["thumb", "full"] = "thumb") -> Response:  # noqa: A002
        manifest = workspace.manifest(data)
        try:
            image = (photos.thumbnail if size == "thumb" else photos.large)(manifest, id)
        except ImageError:
            image = b""
        except DataError:  # a damaged shard may be mended
            return Response(PLACEHOLDER, media_type="image/svg+xml")
        if not image:
            return Response(PLACEHOLDER, media_type="image/svg+xml", headers=FOREVER)
        return Response(image, media_type="image/jpeg", headers=FOREVER)

    @found.get("/rows")
    def rows(
        *,
        start: Start = 0,
        count: Count = 200,
        label: Annotated[str, Query(alias="class")] = "",
        split: str = "",
        finding: str = "",
        query: str = "",
        decided: Decided = "",
        box: str = "",
        sort: Sort = "",
        find: str = "",
    ) -> dict[str, Any]:
        manifest, index = workspace.data, photos.index(workspace.data)
        wanted = Filter(label, split, finding, query, filters.parse_box(box), decided, sort)
        known = photos.faults(manifest)
        order = filters.choose(
            wanted, manifest, rows=index, found=known, plane=photos.map(manifest),
            waiting=[one for source, one in workspace.labelling.journal.answers() if not source],
        )  # fmt: skip
        notes = known.fault(finding).notes if known and finding else {}
        place = np.flatnonzero(order == index.numbers.get(find, -1))
        return {
            "total": len(order),
            "place": int(place[0]) if len(place) else None,
            "rows": [
                {**_row(manifest, index, n), "note": notes.get(n, "")}
                for n in map(int, order[start : start + count])
            ],
        }

    @found.get("/row")
    def row(data: str, id: str) -> dict[str, Any]:  # noqa: A002
        manifest = workspace.manifest(data)
        index, plane = photos.index(manifest), photos.map(manifest)
        number = index.number(id)
        at = plane.place(number) if plane else None
        alike, opinion = [], None
        if plane is not None and at is not None:
            alike = [_row(manifest, index, int(n)) for n in plane.nearest[at][:8]]
            if plane.suggested[at] >= 0:
                opinion = {
                    "class": manifest.classes[plane.suggested[at]],
                    "margin": round(float(plane.margin[at]), 3),
                }
        known = photos.faults(manifest)
        return {
            **_row(manifest, index, number),
            "file": _file(workspace, manifest, id),
            "audited": known is not None,
            "findings": [
                {"kind": one.kind, "weight": one.weight, "note": one.notes.get(number, "")}
                for one in (known.faults if known else ())
                if one.weight != "none" and number in one.rows
            ],
            "copies": [
                _row(manifest, index, n)
                for group in (known.copies if known else ())
                if number in group
                for n in group
                if n != number
            ],
            "opinion": opinion,
            "alike": alike,
        }

    @found.get("/audit")
    def audit() -> dict[str, Any]:
        manifest = workspace.data
        known = photos.faults(manifest)
        index = photos.index(manifest) if known else None
        return {
            "limit": faults.limit(manifest),
            "when": known.when if known else None,
            "copies": len(known.copies) if known else 0,
            "findings": [
                {
                    "kind": one.kind, "weight": one.weight, "number": one.number,
                    "summary": one.summary, "advice": one.advice, "rows": len(one.rows),
                    "examples": [index.ids[n] for n in one.rows[:EXAMPLES]] if index else [],
                }
                for one in (known.faults if known else ())
            ],
        }  # fmt: skip

    @found.post("/audit")
    def start_audit() -> dict[str, Any]:
        return asdict(work.start_audit(workspace))

    @found.get("/audit/copies")
    def copies(finding: str, start: Start = 0, count: Count = 50) -> dict[str, Any]:
        manifest, index = workspace.data, photos.index(workspace.data)
        known = photos.faults(manifest)
        groups = known.groups(finding, index) if known else []
        return {
            "total": len(groups),
            "groups": [
                [_row(manifest, index, n) for n in group] for group in groups[start : start + count]
            ],
        }

    @found.post("/audit/fix")
    def fix(asked: Mending) -> dict[str, Any]:
        return asdict(work.start_fix(workspace, asked.remedy))

    @found.get("/map")
    def feature_map() -> dict[str, Any]:
        manifest, index = workspace.data, photos.index(workspace.data)
        plane = photos.map(manifest)
        if plane is None:
            return {"limit": faults.limit(manifest), "points": None}
        return {
            "limit": "",
            "total": len(index),
            "points": {
                "id": [index.ids[n] for n in plane.rows],
                "x": np.round(plane.x, 4).tolist(), "y": np.round(plane.y, 4).tolist(),
                "label": index.labels[plane.rows].tolist(),
                "split": [SPLITS.index(split) for split in index.splits[plane.rows]],
                "confidence": np.round(index.confidence[plane.rows], 3).tolist(),
                "suggested": plane.suggested.tolist(),
            },
        }  # fmt: skip

    @found.post("/map")
    def draw() -> dict[str, Any]:
        return asdict(work.start_map(workspace))

    return found


def _row(manifest: Manifest, index: RowIndex, number: int) -> dict[str, Any]:
    return {
        "id": index.ids[number],
        "label": manifest.classes[index.labels[number]],
        "split": str(index.splits[number]),
        "confidence": round(float(index.confidence[number]), 4),
    }


def _file(workspace: Workspace, manifest: Manifest, row: str) -> dict[str, Any] | None:
    try:
        return asdict(workspace.photos.file(manifest, row))
    except (ImageError, DataError):
        return None
