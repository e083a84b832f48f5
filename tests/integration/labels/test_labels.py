"""The label tools from a packed data set to their files, by the Python API and the command line."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

import rtl
from rtl.cli.main import main
from rtl.data import shards
from rtl.errors import ConfigError
from rtl.serving.uncertain.pool import Pool
from tests.conftest import make_dataset, make_image

pytestmark = pytest.mark.ray


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory, ray_cluster: None) -> Path:
    """A storage root with a small data set."""
    found = tmp_path_factory.mktemp("labels")
    make_dataset(f"{found}/data")
    return found


def options(root: Path) -> list[str]:
    return ["--storage", str(root), "--set", "data.image_size=80"]


def read(table: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(table.read_text().splitlines()))


def test_a_review_ranks_every_row(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = root / "review.csv"
    command = ["label", "review", str(root / "data"), "--out", str(table), *options(root)]
    assert main(command) == 0
    shown = capsys.readouterr().out
    assert "If 5% of the labels were wrong anywhere" in shown
    assert f"rtl label apply {root}/data {table}" in shown
    rows = read(table)
    assert len(rows) == 48
    assert {row["split"] for row in rows} == {"train", "val", "test"}
    assert {row["corrected"] for row in rows} == {""}
    assert [float(row["score"]) for row in rows] == sorted(float(row["score"]) for row in rows)
    assert main([*command, "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["suspects"]) == len(rows)


def test_corrections_make_a_new_version(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = read(root / "review.csv")
    rows[0]["corrected"] = rows[0]["suggested"]
    rows[1]["corrected"] = "-"
    with (root / "done.csv").open("w") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    words = ["label", "apply", str(root / "data"), str(root / "done.csv"), str(root / "data2")]
    assert main([*words, "--by", "Ada"]) == 0
    assert "1 labels corrected, 1 rows removed, 0 added" in capsys.readouterr().out
    made = shards.load_manifest(str(root / "data2"))
    assert made.packing["history"][0]["who"] == "Ada"
    assert main(words) == 1
    assert "name another DEST" in capsys.readouterr().err


def test_a_pool_becomes_a_queue_and_labels(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    photos = root / "pool"
    photos.mkdir()
    for number in range(12):
        (photos / f"{number}.jpg").write_bytes(make_image("red", 500 + number))
    manifest = shards.load_manifest(str(root / "data"))
    known = shards.read_shard(manifest, manifest.shards[0])["image"][0].as_py()
    (photos / "labelled.jpg").write_bytes(known)  # the data set has it under another name
    command = ["label", "next", str(root / "data"), "--pool", str(photos), "--count", "12"]
    command += ["--out", str(root / "next.json"), *options(root)]
    assert main(command) == 0
    assert "48 labels are too few to simulate on" in capsys.readouterr().out
    queue = json.loads((root / "next.json").read_text())
    chosen = {item["id"] for item in queue["items"]}
    assert len(chosen) == 12
    assert "labelled.jpg" not in chosen
    page = (root / "next.html").read_text()
    assert page.count('<img src="data:image/jpeg') == 12
    rows = read(root / "next.csv")
    for row in rows[:3]:
        row["corrected"] = queue["classes"][0]
    with (root / "labelled.csv").open("w") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    made = rtl.label_apply(root / "data", root / "labelled.csv", dest=root / "data3")
    assert made.rows("train") == 27
    assert made.packing["history"][0]["added"] == 3


def test_kept_images_of_an_endpoint_are_a_pool(root: Path) -> None:
    kept = Pool(str(root / "kept"), 4)
    for seed in range(6):
        kept.add(make_image("red", 900 + seed), 0.9 - seed / 10)
    queue = root / "from-traffic.json"
    words = ["label", "next", str(root / "data"), "--pool", kept.uri, "--count", "4"]
    assert main([*words, "--out", str(queue), *options(root)]) == 0
    chosen = {item["id"] for item in json.loads(queue.read_text())["items"]}
    assert chosen == {path.name for path in (root / "kept").iterdir()}
    assert len(chosen) == 4


def test_a_curve_says_what_more_labels_bring(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_dataset(f"{root}/more", train=90, val=0, test=36)
    command = ["label", "curve", str(root / "more"), "--price", "0.4", "--target", "0.99999"]
    assert main([*command, *options(root)]) == 0
    shown = capsys.readouterr().out
    assert "90 labels have" in shown
    assert "0.99999" in shown
    assert main([*command, "--json", *options(root)]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["sizes"][-1] == 90
    assert {check["count"] for check in told["checks"]} == {22, 90}  # 270 are more than there are


def test_a_share_that_is_none_is_an_error(root: Path) -> None:
    with pytest.raises(ConfigError, match="noise is 5"):
        rtl.label_review(root / "data", noise=5)
    with pytest.raises(ConfigError, match="counts has 0; it must be numbers of labels to add"):
        rtl.label_curve(root / "data", counts=[100, 0])
