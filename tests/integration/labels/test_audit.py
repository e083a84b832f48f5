"""`rtl audit` from a packed data set to its table, JSON, page and new version."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

import rtl
from rtl import storage
from rtl.cli.main import main
from rtl.data import shards
from rtl.data.shards import Shard
from rtl.errors import ConfigError, DataError
from tests.conftest import make_dataset

pytestmark = pytest.mark.ray


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory, ray_cluster: None) -> Path:
    """A storage root with a data set whose test photo `00040` is in train again, as `copy`."""
    found = tmp_path_factory.mktemp("audit")
    data = make_dataset(f"{found}/data")
    table = shards.read_shard(data, data.split("test")[0]).to_pylist()
    row = next(row for row in table if row["id"] == "00040")
    again = io.BytesIO()
    # (These photos are noise, which a lower quality takes away.)
    Image.open(io.BytesIO(row["image"])).save(again, "JPEG", quality=95)
    encoded = shards.encode_shard(["copy"], [again.getvalue()], [row["label"]])
    storage.write_bytes(f"{data.uri}/train/extra.parquet", encoded)
    train = list(data.counts["train"])
    train[row["label"]] += 1
    extra = Shard("train/extra.parquet", "train", 1, **storage.describe(encoded))
    replace(data, shards=(*data.shards, extra), counts={**data.counts, "train": tuple(train)}).save(
        data.uri
    )
    return found


def test_an_audit_shows_what_it_found(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["audit", str(root / "data"), "--storage", str(root)]
    command += ["--set", "data.image_size=80"]
    page, table = root / "audit.html", root / "audit.csv"
    assert main([*command, "--html", str(page), "--out", str(table)]) == 0
    shown = capsys.readouterr().out
    assert "49 rows:" in shown
    assert "copies across splits" in shown
    assert "In order:" in shown
    assert "copies across splits: serious" in page.read_text()
    assert page.read_text().count("<img src=") >= 2
    rows = {row["id"]: row for row in csv.DictReader(table.read_text().splitlines())}
    assert len(rows) == 49
    assert float(rows["copy"]["copies across splits"]) > 0.99
    assert float(rows["00000"]["copies across splits"]) == 0

    assert main([*command, "--json"]) == 0
    content = json.loads(capsys.readouterr().out)
    assert content["copies"] == [
        {"ids": ["copy", "00040"], "splits": ["train", "test"], "labels": ["green", "green"]}
    ]
    first = next(one for one in content["findings"] if one["kind"] == "copies across splits")
    assert {row["id"] for row in first["rows"]} == {"copy", "00040"}


def test_a_fix_is_a_new_version(root: Path) -> None:
    found = rtl.audit(
        root / "data", fix=root / "fixed", who="Ada", storage=root,
        overrides={"data.image_size": 80},
    )  # fmt: skip
    assert found.fixed is not None
    assert found.fixed.rows("train") == 24
    (step,) = found.fixed.packing["history"]
    assert (step["what"], step["who"], step["removed"]) == ("audit --fix, copies remove", "Ada", 1)
    assert shards.load_manifest(str(root / "data")).rows("train") == 25
    with pytest.raises(DataError, match="no near-duplicates"):
        rtl.audit(
            root / "fixed", fix=root / "again", storage=root, overrides={"data.image_size": 80}
        )


def test_another_remedy_is_an_error(root: Path) -> None:
    with pytest.raises(ConfigError, match="copies is 'merge'"):
        rtl.audit(root / "data", copies="merge")  # type: ignore[arg-type]
