"""Which photos to look at: labels that are doubtful, and photos of the pool to label next.

A queue is kept in the session's folder, so that another day, another tab and a restarted server go
on in it.
"""

from __future__ import annotations

import datetime
from dataclasses import asdict
from typing import Any, Literal

import torch

from rtl import storage
from rtl.errors import DataError, NotFoundError
from rtl.labels import errors, images, queue
from rtl.labels.rows import LabelledRows
from rtl.studio.background.tasks import Work
from rtl.studio.labelling.state import Labelling

Kind = Literal["suspects", "next"]

TITLES: dict[Kind, str] = {
    "suspects": "Looking for doubtful labels",
    "next": "Choosing photos to label",
}


def build(labelling: Labelling, work: Work, *, kind: Kind, count: int) -> dict[str, Any]:
    """Makes a queue, keeps it and returns its size; rows that have an answer are left out.

    Raises DataError where there is nothing to look at, and the errors of the features.
    """
    content = (_suspects if kind == "suspects" else _next)(labelling, work, count)
    content |= {
        "kind": kind, "digest": labelling.workspace.data.digest,
        "made": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }  # fmt: skip
    storage.write_json(_place(labelling, kind), content)
    labelling.workspace.events.publish("queue", {"kind": kind, "made": content["made"]})
    return {"items": len(content["items"])}


def read(labelling: Labelling, kind: Kind) -> dict[str, Any] | None:
    """The kept queue as plain JSON values, its items with what was answered; None without one.

    Rows of another version that is not open any more are left out. Raises StorageError.
    """
    try:
        content = dict(storage.read_json(_place(labelling, kind)))
    except NotFoundError:
        return None
    workspace = labelling.workspace
    answers, settled = labelling.journal.answers(), labelling.journal.settled()
    fresh = content.pop("digest") == workspace.data.digest
    shown: dict[str, str] = {}
    items = []
    for item in content["items"]:
        row = (item["source"], item["id"])
        if row in settled and row not in answers:
            continue  # a version has it
        if item["source"] not in shown:
            shown[item["source"]] = workspace.source(item["source"]).digest[:16]
        held = answers.get(row)
        items.append({
            **item, "data": shown[item["source"]],
            "answer": None if held is None else held.answer,
        })  # fmt: skip
    return {**content, "items": items, "fresh": fresh}


def _suspects(labelling: Labelling, work: Work, count: int) -> dict[str, Any]:
    workspace = labelling.workspace
    rows = workspace.features(workspace.data, work)
    errors.check(rows)
    work.stage("Comparing each label with all others")
    reviewer = errors.Reviewer(rows.features, confidence=rows.confidence)
    classes = len(rows.classes)
    outputs = reviewer.outputs(rows.labels, classes=classes)
    found = reviewer.review(rows.labels, classes=classes)
    done = {row for source, row in labelling.journal.answers() if not source}
    done |= {row for source, row in labelling.journal.settled() if not source}
    chosen = [int(i) for i in found.order if rows.ids[i] not in done][:count]
    if not chosen:
        raise DataError("Every label was looked at; there are no doubtful ones left.")
    work.stage("Planting errors, to tell how many would be found")
    expected = errors.expect(reviewer, rows.labels, classes=classes, count=len(chosen))
    ranked = queue.rank(outputs[torch.tensor(chosen)]).tolist()
    items = [
        {
            "source": "", "id": rows.ids[i], "split": str(rows.splits[i]),
            "label": rows.classes[rows.labels[i]], "suggested": rows.classes[found.suggested[i]],
            "score": round(float(found.scores[i]), 4),
            "likely": _with(rows.classes, places, (rows.labels[i], found.suggested[i])),
        }
        for i, places in zip(chosen, ranked, strict=True)
    ]  # fmt: skip
    return {"items": items, "reason": "", "expected": [asdict(one) for one in expected]}


def _next(labelling: Labelling, work: Work, count: int) -> dict[str, Any]:
    workspace = labelling.workspace
    rows = workspace.features(workspace.data, work)
    pool = workspace.open_pool(work)
    others: LabelledRows = workspace.features(pool, work)
    work.stage("Leaving out photos that are labelled already")
    known = set(images.hashes(workspace.data).values())
    present = {row for row, found in images.hashes(pool).items() if found in known}
    answered = [*labelling.journal.answers(), *labelling.journal.settled()]
    present |= {row for source, row in answered if source == pool.uri}
    left = sum(row not in present for row in others.ids)
    if not left:
        raise DataError(f"All {len(others)} photos of the pool {pool.uri} have a label or answer.")
    work.stage("Simulating which choice of photos teaches most")
    made = queue.build(
        rows, others, source=pool.uri, present=present, count=min(count, left)
    )  # fmt: skip
    items = [
        {"source": pool.uri, "id": one.id, "split": "", "label": None, "suggested": one.guess,
         "score": None, "likely": list(one.likely)}
        for one in made.items
    ]  # fmt: skip
    return {"items": items, "reason": made.selection.reason, "expected": []}


def _with(classes: tuple[str, ...], places: list[int], also: tuple[int, int]) -> list[str]:
    """Names of the ranked classes; the last ones make room for those that must be among them."""
    missing = [int(one) for one in dict.fromkeys(also) if one not in places]
    kept = [place for place in places if place in also]
    others = [place for place in places if place not in also]
    room = len(places) - len(kept) - len(missing)
    chosen = {*kept, *others[:room]}
    return [classes[place] for place in [*(p for p in places if p in chosen), *missing]]


def _place(labelling: Labelling, kind: Kind) -> str:
    return labelling.workspace.place("queues", f"{kind}.json")
