"""The loop on real parts: suspects, labels of a pool, a retraining, and its score."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from rtl.config.tree import Config
from rtl.errors import ConfigError
from rtl.model import registry
from rtl.studio.background.tasks import Task
from rtl.studio.labelling import queues, retrain
from rtl.studio.labelling.opinion import Opinions
from rtl.studio.workspace import Workspace
from tests.conftest import COLOURS, make_dataset, make_image


def ended(workspace: Workspace, task: Task) -> Mapping[str, Any]:
    """A task's result, once it is done."""
    while not (found := next(t for t in workspace.tasks.all() if t.number == task.number)).ended:
        time.sleep(0.05)
    assert found.state == "done", found.error
    return found.result


@pytest.mark.slow
def test_labels_make_a_version_a_model_and_a_score(ray_cluster: None, tmp_path: Path) -> None:
    make_dataset(str(tmp_path / "data"), train=36, val=30, test=6, wrong_every=9)
    (tmp_path / "pool").mkdir()
    for number in range(6):
        colour = list(COLOURS)[number % 3]
        (tmp_path / "pool" / f"{number}.jpg").write_bytes(make_image(colour, 900 + number))
    workspace = Workspace(Config(storage=str(tmp_path / "root"), data={"image_size": 75}))
    workspace.begin(str(tmp_path / "data"), pool=str(tmp_path / "pool"), name="colours")
    labelling = workspace.labelling

    def run(kind: str, work: Any) -> Mapping[str, Any]:
        return ended(workspace, workspace.tasks.start(kind, kind, work=work))

    try:
        for kind in ("suspects", "next"):
            run(kind, lambda work, kind=kind: queues.build(labelling, work, kind=kind, count=6))
        suspects, pool = (queues.read(labelling, kind) for kind in ("suspects", "next"))
        assert suspects is not None
        assert pool is not None
        assert len(suspects["items"]) == len(pool["items"]) == 6
        assert "labels" in pool["reason"]
        doubtful = suspects["items"][0]
        assert doubtful["label"] != doubtful["suggested"] == doubtful["likely"][0]
        labelling.record(("", doubtful["id"]), doubtful["suggested"], key="key-0001")
        labelling.record(("", suspects["items"][1]["id"]), "", key="key-0002")
        for number, item in enumerate(pool["items"][:4]):
            answer = list(COLOURS)[int(item["id"][0]) % 3]
            labelling.record((item["source"], item["id"]), answer, key=f"pool-{number:04}")

        first = workspace.data
        found = run("retrain", lambda work: retrain.retrain(labelling, work, who="Ada"))
        assert (found["applied"], found["before"]) == (5, None)
        assert workspace.data.rows("train") == first.rows("train") + 4
        assert workspace.data.uri.endswith("/data/v2")
        step = workspace.data.packing["history"][-1]
        assert (step["who"], step["added"], step["corrected"]) == ("Ada", 4, 1)
        assert labelling.budget()["pending"] == 0
        assert workspace.session.labelled == 5
        (score,) = labelling.scores()
        assert score.low <= score.score <= score.high
        assert score.model == "colours@1"
        assert registry.versions(workspace.root, "colours") == [1]
        left = queues.read(labelling, "next")
        assert left is not None
        assert len(left["items"]) == 2
        assert not left["fresh"]
        with pytest.raises(ConfigError, match="No labels wait"):
            retrain.check(labelling)
        image = workspace.photos.encoded(workspace.data, doubtful["id"])
        said = Opinions(workspace.models).of(("a", image), root=workspace.root, name="colours")
        assert said.model == "colours@1"
        assert said.heatmap.startswith(b"\x89PNG")

        # A class without a train row is refused, and everything stays as it was.
        index = workspace.photos.index(workspace.data)
        blue = [row for row, label, split in zip(index.ids, index.labels, index.splits, strict=True)
                if label == 0 and split == "train"]  # fmt: skip
        for number, row in enumerate(blue):
            labelling.record(("", row), "-", key=f"gone-{number:04}")
        task = workspace.tasks.start(
            "retrain", "again", work=lambda work: retrain.retrain(labelling, work, who="")
        )
        with pytest.raises(AssertionError, match="no train row"):
            ended(workspace, task)
        assert labelling.budget()["pending"] == len(blue)
        assert workspace.session.versions == 1
        assert labelling.undo(None, key="undo-0001").undoes is not None
    finally:
        workspace.close()
