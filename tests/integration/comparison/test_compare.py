"""`rtl compare` from two bundles and a data set to its lines, JSON and page."""

from __future__ import annotations

import io
import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

import rtl
from rtl import storage
from rtl.cli.main import main
from rtl.data import shards
from rtl.errors import ConfigError, DataError
from rtl.model import bundle, registry
from rtl.model.bundle import Classifier
from rtl.model.inception import Network
from tests.conftest import COLOURS, make_dataset, make_image
from tests.support.bundles import make_info, make_network

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("one_thread")]

ROWS = 36


def make_able_network(size: int, *, never: int | None) -> Network:
    """A network that tells colours of `size` pixels apart; it never gives the answer `never`."""
    network = make_network()
    plain = Classifier(make_info(image_size=size), network, torch.device("cpu"))
    rows = [(make_image(name, 900 + n), c) for c, name in enumerate(COLOURS) for n in range(16)]
    pixels = torch.stack([plain.preprocess(data) for data, _ in rows])
    pooled = plain.predict_batches(pixels).pooled
    labels = torch.tensor([label for _, label in rows])
    means = torch.stack([pooled[labels == c].mean(0) for c in range(len(COLOURS))])
    with torch.no_grad():  # nearest mean as a linear classifier
        network.get_parameter("fc.weight").copy_(2 * means)
        network.get_parameter("fc.bias").copy_(-means.square().sum(1))
        if never is not None:
            network.get_parameter("fc.bias")[never] -= 1e6
    return network


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory, ray_cluster: None) -> Path:
    """Storage with `data`, and two versions of `colours`: the first never says red."""
    found = tmp_path_factory.mktemp("compare")
    manifest = make_dataset(f"{found}/data", train=12, val=0, test=ROWS, shard_rows=12)
    for version, (never, size) in enumerate(((2, 75), (None, 80))):
        info = make_info(image_size=size, manifest_digest=manifest.digest)
        bundle.save(f"{found}/bundle-{version}", info, make_able_network(size, never=never))
        registry.register(str(found), "colours", f"{found}/bundle-{version}")
    return found


def test_a_planted_difference_is_found_and_shown(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = root / "differing.html"
    command = ["compare", "colours@1", "colours@2", "--data", f"{root}/data"]
    command += ["--storage", str(root), "--html", str(page), "--robustness"]
    assert main(command) == 0
    shown = capsys.readouterr().out
    assert "A: colours@1\nB: colours@2\n" in shown
    found = re.search(
        r"B is better: of 36 rows it is right on (\d+) where A is wrong, and wrong on (\d) ", shown
    )
    assert found is not None
    assert int(found[1]) >= 10  # of 12 red ones
    assert "JPEG, quality 10" in shown
    assert "Note:" not in shown
    text = page.read_text()
    assert text.count('<img src="data:image/jpeg') == int(found[1]) + int(found[2])
    assert "only B is right: red." in text


def test_copies_and_other_data_are_told(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    manifest = shards.load_manifest(str(root / "data"))
    first = manifest.split("train")[0]
    table = shards.read_shard(manifest, first)
    encoded = shards.encode_shard(
        [f"copy {n}" for n in range(len(table))], table["image"].to_pylist(),
        table["label"].to_pylist(),
    )  # fmt: skip
    place = str(root / "leaky")
    for shard in manifest.shards:
        data = storage.read_bytes(f"{manifest.uri}/{shard.path}")
        storage.write_bytes(storage.join(place, shard.path), data)
    storage.write_bytes(storage.join(place, "test/copies.parquet"), encoded)
    copies = shards.Shard("test/copies.parquet", "test", len(table), **storage.describe(encoded))
    counts = {**manifest.counts, "test": (16, 16, 16)}
    replace(manifest, shards=(*manifest.shards, copies), counts=counts).save(place)

    command = ["compare", "colours@1", "colours@2", "--data", place, "--storage", str(root)]
    assert main([*command, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["rows"] == ROWS + 12
    assert found["without_copies"]["rows"] == ROWS
    assert found["test"]["wins"] > found["without_copies"]["test"]["wins"] >= 10
    assert [note.split(" was made")[0] for note in found["notes"]] == ["A", "B"]
    assert {row["label"] for row in found["differing"] if row["only"] == "b"} == {"red"}
    assert found["robustness"] == []
    alone = rtl.evaluate("colours@2", place, storage=root)
    assert found["b"]["scores"] == json.loads(json.dumps(alone.scores.to_dict()))


@pytest.mark.slow
def test_near_duplicates_are_left_out_where_asked(root: Path) -> None:
    manifest = shards.load_manifest(str(root / "data"))
    table = shards.read_shard(manifest, manifest.split("test")[0])
    again = io.BytesIO()  # (noise, which a lower quality takes away)
    Image.open(io.BytesIO(table["image"][0].as_py())).save(again, "JPEG", quality=95)
    label = table["label"][0].as_py()
    encoded = shards.encode_shard(["again"], [again.getvalue()], [label])
    place = str(root / "near")
    for shard in manifest.shards:
        data = storage.read_bytes(f"{manifest.uri}/{shard.path}")
        storage.write_bytes(storage.join(place, shard.path), data)
    storage.write_bytes(storage.join(place, "train/again.parquet"), encoded)
    more = shards.Shard("train/again.parquet", "train", 1, **storage.describe(encoded))
    train = tuple(n + (c == label) for c, n in enumerate(manifest.counts["train"]))
    counts = {**manifest.counts, "train": train}
    replace(manifest, shards=(*manifest.shards, more), counts=counts).save(place)

    small = {"data.image_size": 80}
    names = ("colours@1", "colours@2")
    assert rtl.compare(*names, data=place, storage=root).without_copies is None
    found = rtl.compare(*names, data=place, storage=root, near_duplicates=True, overrides=small)
    assert found.without_copies is not None
    assert found.without_copies.rows == ROWS - 1


def test_what_cannot_be_compared_is_an_error(root: Path) -> None:
    with pytest.raises(ConfigError, match="are one model"):
        rtl.compare("colours@1", f"{root}/bundle-0", data=root / "data", storage=root)
    with pytest.raises(DataError, match=r"has no rows of 'val'; it has train, test\."):
        rtl.compare("colours@1", "colours@2", data=root / "data", split="val", storage=root)
    other = make_info(classes=("ant", "bee", "cat"))
    bundle.save(f"{root}/insects", other, make_network())
    with pytest.raises(DataError, match=r"Model B: The data set has the classes \['blue'"):
        rtl.compare("colours@1", f"{root}/insects", data=root / "data", storage=root)
