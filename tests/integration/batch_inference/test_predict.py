from __future__ import annotations

import dataclasses
import io
import os
import shutil
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch

from rtl import storage
from rtl.batch_inference.chunk_files import SCHEMA
from rtl.batch_inference.chunks import ANSWERS, PLAN
from rtl.batch_inference.predict import SUMMARY, Summary, predict
from rtl.data.shards import LeftOut, read_shard
from rtl.data.sources.clutter import HIDDEN, SYSTEM
from rtl.errors import BundleError, ConfigError, DataError, NotFoundError
from rtl.evaluation.conformal import PredictionSets
from rtl.model import bundle
from rtl.model.bundle import Classifier
from rtl.storage.walk import LINKS
from tests.conftest import COLOURS, make_dataset, make_folder, make_image
from tests.support.bundles import make_info, make_network
from tests.support.trees import put

INFO = make_info(
    name="first",
    uncertain_below=0.6,
    prediction_sets=PredictionSets(
        threshold=0.2, coverage=0.8, confidence=0.9, guarantee="confident", rows=120, expected=None
    ),
)
TOLERANCE = 1e-3  # bf16 probabilities of an image may depend on the others of its batch
CUT, TEXT = "blue/cut.jpg", "notes.txt"


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """Two bundles of the same classes with other weights."""
    root = tmp_path_factory.mktemp("bundles")
    for seed, name in enumerate(("first", "second")):
        network = make_network(seed=seed, sharpness=100)
        bundle.save(str(root / name), dataclasses.replace(INFO, name=name), network)
    return str(root / "first"), str(root / "second")


@pytest.fixture(scope="module")
def classifier(bundles: tuple[str, str]) -> Classifier:
    return Classifier.load(bundles[0])


@pytest.fixture(scope="module")
def finished(
    ray_cluster: None, bundles: tuple[str, str], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Path, Summary]:
    """A folder of 69 good images and 2 bad ones, the answers to it in three files."""
    root = tmp_path_factory.mktemp("finished")
    source = make_folder(root / "source", 22)
    (source / "red" / "deep" / "er").mkdir(parents=True)
    (source / "red" / "deep" / "er" / "0.png").write_bytes(make_image("red", 90, fmt="PNG"))
    (source / "top").write_bytes(make_image("green", 91))
    Path(os.fsdecode(os.fsencode(source) + b"/n\xff.jpg")).write_bytes(make_image("blue", 92))
    (source / CUT).write_bytes(make_image("blue", 93)[:900])
    (source / TEXT).write_text("no image")
    # Neither hidden files, clutter nor links that lead out are images of the source.
    for path in (".hidden.jpg", ".more/hidden.jpg", "red/@eaDir/0.jpg"):
        put(str(source), {path: make_image("red", 94)})
    (root / "outside.jpg").write_bytes(make_image("red", 95))
    (source / "link.jpg").symlink_to(root / "outside.jpg")
    dest = root / "dest"
    return source, dest, predict(bundles[0], str(source), str(dest))


@pytest.fixture
def copy(finished: tuple[Path, Path, Summary], tmp_path: Path) -> Path:
    """Of `finished`'s answers, to be damaged."""
    return Path(shutil.copytree(finished[1], tmp_path / "copy"))


def rows_of(dest: str, summary: Summary) -> dict[str, dict[str, Any]]:
    """All rows by id; checks the schema, and that no id occurs twice."""
    files = storage.read_committed(dest)
    assert set(files) == {*summary.chunks, SUMMARY}
    rows = []
    for path in summary.chunks:
        table = pq.read_table(io.BytesIO(files[path]))
        assert table.schema.equals(SCHEMA)
        rows += table.to_pylist()
    found = {row["id"]: row for row in rows}
    assert len(found) == len(rows) == summary.rows
    return found


def check_answers(
    rows: dict[str, dict[str, Any]], images: dict[str, bytes], classifier: Classifier
) -> None:
    pixels = torch.stack([classifier.preprocess(data) for data in images.values()])
    for image_id, expected in zip(images, classifier.predict(pixels).tolist(), strict=True):
        row = rows[image_id]
        assert row["error"] is None
        assert row["probabilities"] == pytest.approx(expected, abs=TOLERANCE), image_id
        assert row["probability"] == max(row["probabilities"])
        assert row["label"] == INFO.classes[row["probabilities"].index(row["probability"])]
        assert row["uncertain"] == (row["probability"] < INFO.uncertain_below)
        pairs = zip(INFO.classes, row["probabilities"], strict=True)
        inside = [name for name, p in sorted(pairs, key=lambda pair: -pair[1]) if p >= 0.2]
        assert row["one_of"] == inside


def test_every_image_of_a_folder_has_the_classifiers_answer(
    finished: tuple[Path, Path, Summary], bundles: tuple[str, str], classifier: Classifier
) -> None:
    source, dest, summary = finished
    rows = rows_of(str(dest), summary)
    images = {f"{label}/{i:04}.jpg": make_image(label, i) for label in COLOURS for i in range(22)}
    images["red/deep/er/0.png"] = make_image("red", 90, fmt="PNG")
    images["top"] = make_image("green", 91)
    images["n\\xff.jpg"] = make_image("blue", 92)
    assert rows.keys() == {*images, CUT, TEXT}
    check_answers(rows, images, classifier)
    assert len(pq.read_table(dest / ANSWERS)) == 71
    assert len({row["label"] for row in rows.values()} - {None}) > 1
    model = Path(bundles[0], bundle.MODEL).read_bytes()
    assert summary == Summary(
        bundle=bundles[0],
        model_sha256=storage.describe(model)["sha256"],
        classes=INFO.classes,
        source=str(source),
        chunks=tuple(f"answers/0000{n}.parquet" for n in range(3)),
        rows=71,
        errors=2,
        uncertain=sum(row["uncertain"] is True for row in rows.values()),
        set_coverage=0.8,
        left_out=(
            LeftOut(HIDDEN, 2, ".hidden.jpg"),
            LeftOut(SYSTEM, 1, "red/@eaDir/0.jpg"),
            LeftOut(LINKS, 1, "link.jpg"),
        ),
    )
    assert 0 < summary.uncertain < 69


def test_a_bad_image_is_a_row_with_its_error(finished: tuple[Path, Path, Summary]) -> None:
    rows = rows_of(str(finished[1]), finished[2])
    for image_id, kind in ((CUT, "CorruptImageError: "), (TEXT, "UnsupportedImageError: ")):
        row = rows[image_id]
        assert row.pop("error").startswith(kind)
        assert row.pop("id") == image_id
        assert set(row.values()) == {None}


@pytest.mark.slow
def test_a_prefix_of_s3(
    ray_cluster: None, s3: str, bundles: tuple[str, str], classifier: Classifier
) -> None:
    images = {f"a/{i}.jpg": make_image("red", i) for i in range(3)}
    images |= {f"{i}.jpg": make_image("blue", i) for i in range(7)}
    for path, data in {**images, "bad.jpg": b""}.items():
        storage.write_bytes(f"{s3}/source/{path}", data)
    summary = predict(bundles[0], f"{s3}/source/", f"{s3}/dest")
    rows = rows_of(f"{s3}/dest", summary)
    assert (summary.rows, summary.errors, len(summary.chunks)) == (11, 1, 1)
    check_answers(rows, images, classifier)
    assert rows["bad.jpg"]["error"].startswith("CorruptImageError: ")


@pytest.mark.slow
def test_all_splits_of_a_packed_data_set(
    ray_cluster: None, tmp_path: Path, bundles: tuple[str, str], classifier: Classifier
) -> None:
    manifest = make_dataset(str(tmp_path / "data"), train=12, val=3, test=0, shard_rows=12)
    seen: list[tuple[int, int]] = []
    summary = predict(
        bundles[0], str(tmp_path / "data"), str(tmp_path / "dest"),
        progress=lambda done, total: seen.append((done, total)),
    )  # fmt: skip
    assert summary.chunks == tuple(f"answers/{s.path}" for s in manifest.shards)
    assert len(summary.chunks) == 2
    assert (seen[0], seen[-1]) == ((0, 15), (15, 15))
    images = {
        row["id"]: row["image"]
        for shard in manifest.shards
        for row in read_shard(manifest, shard).to_pylist()
    }
    rows = rows_of(str(tmp_path / "dest"), summary)
    assert rows.keys() == images.keys()
    check_answers(rows, images, classifier)


def times(dest: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in dest.rglob("*") if path.is_file()}


@pytest.mark.slow
def test_what_is_whole_is_not_computed_again(
    finished: tuple[Path, Path, Summary], copy: Path, bundles: tuple[str, str]
) -> None:
    source, dest, summary = finished
    (copy / storage.COMMIT).unlink()
    (copy / SUMMARY).unlink()
    (copy / ANSWERS / "00000.parquet").unlink()
    whole = (copy / ANSWERS / "00002.parquet").read_bytes()
    (copy / ANSWERS / "00002.parquet").write_bytes(whole[:60] + b"\0" * 9 + whole[69:])
    before = times(copy)
    seen: list[tuple[int, int]] = []
    again = predict(
        bundles[0], str(source), str(copy), progress=lambda *counts: seen.append(counts)
    )
    assert again == summary
    after = times(copy)
    assert {name for name in before if before[name] == after[name]} == {PLAN, "00001.parquet"}
    assert (seen[0], seen[-1]) == ((32, 71), (71, 71))
    rows, first = rows_of(str(copy), again), rows_of(str(dest), summary)
    assert {i: row["label"] for i, row in rows.items()} == {
        i: row["label"] for i, row in first.items()
    }


class StopError(Exception):
    pass


def test_a_finished_one_computes_nothing_while_its_files_are_there(
    finished: tuple[Path, Path, Summary], copy: Path, bundles: tuple[str, str]
) -> None:
    source, _, summary = finished
    before = times(copy)
    seen: list[tuple[int, int]] = []

    def stop(*counts: int) -> None:
        raise StopError(counts)

    arguments = (bundles[0], str(source), str(copy))
    assert predict(*arguments, progress=lambda *counts: seen.append(counts)) == summary
    assert times(copy) == before
    assert seen == [(71, 71)]
    (copy / ANSWERS / "00001.parquet").unlink()
    with pytest.raises(StopError, match=r"\(39, 71\)"):
        predict(*arguments, progress=stop)
    assert not storage.is_committed(copy)


def test_a_plan_of_something_else_is_refused(
    finished: tuple[Path, Path, Summary], copy: Path, bundles: tuple[str, str], tmp_path: Path
) -> None:
    source, _, _ = finished
    before = times(copy)
    with pytest.raises(ConfigError, match=r"of another bundle .* or delete /"):
        predict(bundles[1], str(source), str(copy))
    other = shutil.copytree(source, tmp_path / "other", symlinks=True)
    with pytest.raises(ConfigError, match="of another source, /"):
        predict(bundles[0], str(other), str(copy))
    new = source / "zebra.jpg"
    new.write_bytes(make_image("red", 96))
    with pytest.raises(ConfigError, match=r"1 of 3 chunks are others now"):
        predict(bundles[0], str(source), str(copy))
    new.unlink()
    storage.write_json(copy / PLAN, [])
    with pytest.raises(ConfigError, match="of another version"):
        predict(bundles[0], str(source), str(copy))
    (copy / PLAN).unlink()
    with pytest.raises(ConfigError, match=r"no prediction, such as COMMIT; choose"):
        predict(bundles[0], str(source), str(copy))
    del before[PLAN]
    assert times(copy) == before


def test_a_source_without_images_is_an_error(bundles: tuple[str, str], place: str) -> None:
    storage.write_bytes(f"{place}/empty/.hidden.jpg", make_image("red", 0))
    with pytest.raises(DataError, match="holds no image; give"):
        predict(bundles[0], f"{place}/empty", f"{place}/dest")
    with pytest.raises(NotFoundError, match="nothing does not exist"):
        predict(bundles[0], f"{place}/nothing", f"{place}/dest")
    for dest in ("", "/", "/below"):
        with pytest.raises(ConfigError, match="lies in SRC"):
            predict(bundles[0], f"{place}/empty", f"{place}/empty{dest}")
    assert storage.list_files(f"{place}/dest") == []


@pytest.mark.slow
def test_what_changes_meanwhile_ends_the_run(
    ray_cluster: None, tmp_path: Path, bundles: tuple[str, str]
) -> None:
    source = make_folder(tmp_path / "source", 1)
    mine = shutil.copytree(bundles[0], tmp_path / "mine")

    def remove(*_: int) -> None:
        (source / "red" / "0000.jpg").unlink(missing_ok=True)

    def replace(*_: int) -> None:
        shutil.copytree(bundles[1], mine, dirs_exist_ok=True)

    with pytest.raises(DataError, match=r"0000\.jpg does not exist.* when SRC was listed"):
        predict(str(mine), str(source), str(tmp_path / "one"), progress=remove)
    with pytest.raises(BundleError, match="was replaced meanwhile"):
        predict(str(mine), str(source), str(tmp_path / "two"), progress=replace)
    assert not storage.is_committed(tmp_path / "one")
    assert not storage.is_committed(tmp_path / "two")
