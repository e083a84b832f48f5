from __future__ import annotations

from pathlib import Path

import pytest

from rtl import storage
from rtl.data import history, shards
from rtl.data.shards import Manifest
from rtl.errors import DataError
from rtl.labels import versions
from rtl.labels.versions import Changes
from tests.conftest import make_dataset


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    return make_dataset(str(tmp_path_factory.mktemp("versions") / "data"))


def rows(manifest: Manifest) -> dict[str, tuple[str, str, bytes]]:
    """Split, class and image of each row, by id."""
    return {
        row["id"]: (shard.split, manifest.classes[row["label"]], row["image"])
        for shard in manifest.shards
        for row in shards.read_shard(manifest, shard).to_pylist()
    }


def table(tmp_path: Path, *lines: str) -> str:
    path = tmp_path / "corrected.csv"
    path.write_text("\n".join(["id,corrected,source", *lines]))
    return str(path)


def test_a_version_has_the_changes_and_nothing_else(data: Manifest, tmp_path: Path) -> None:
    first, second, third = data.classes[:3]
    csv = table(tmp_path, f"00000,{second},", "00001,-,", "00030,,", f"00005,{first},{data.uri}")
    changes = versions.read_changes(csv, data)
    made = versions.apply(data, changes, str(tmp_path / "next"), what="label apply", who="Ada")
    old, new = rows(data), rows(made)
    assert third
    assert new["00000"] == ("train", second, old["00000"][2])
    assert new["00005"][1] == first
    assert "00001" not in new
    untouched = set(old) - {"00000", "00001", "00005"}
    assert {row: new[row] for row in untouched} == {row: old[row] for row in untouched}
    assert sum(made.counts["train"]) == 23
    (step,) = history.steps(made)
    assert (step.parent, step.who, step.corrected, step.removed) == (data.digest, "Ada", 2, 1)
    assert shards.load_manifest(made.uri).digest == made.digest
    again = versions.apply(made, Changes({"00002": first}), str(tmp_path / "b"), what="x")
    assert [s.parent for s in history.steps(again)] == [data.digest, made.digest]
    assert rows(shards.load_manifest(data.uri)) == old


def test_rows_of_a_pool_come_to_train(data: Manifest, tmp_path: Path) -> None:
    pool = make_dataset(str(tmp_path / "pool"), train=60, val=0, test=0)
    name = data.classes[1]
    csv = table(tmp_path, f"00055,{name},{pool.uri}", f"00056,-,{pool.uri}")
    changes = versions.read_changes(csv, data)
    made = versions.apply(data, changes, str(tmp_path / "next"), what="label apply")
    assert rows(made)["00055"] == ("train", name, rows(pool)["00055"][2])
    (step,) = history.steps(shards.load_manifest(made.uri))
    assert step.sources == {pool.digest: {"00055": ["train/00005.parquet", 5]}}
    assert len(rows(made)) == len(rows(data)) + 1
    with pytest.raises(DataError, match=r"'00055' of .* is in .* already"):
        versions.apply(made, changes, str(tmp_path / "twice"), what="label apply")


def test_another_photo_of_the_same_name_gets_another_id(data: Manifest, tmp_path: Path) -> None:
    pool = make_dataset(str(tmp_path / "pool"), train=60, val=0, test=0)
    renamed = str(tmp_path / "renamed")
    images = [image for row, (_, _, image) in rows(pool).items() if row == "00055"]
    encoded = shards.encode_shard(["00000"], images, [0])
    storage.write_bytes(f"{renamed}/train/00000.parquet", encoded)
    shard = shards.Shard("train/00000.parquet", "train", 1, **storage.describe(encoded))
    Manifest(("x",), {"train": (1,), "val": (0,), "test": (0,)}, (shard,)).save(renamed)
    changes = versions.read_changes(table(tmp_path, f"00000,{data.classes[1]},{renamed}"), data)
    made = versions.apply(data, changes, str(tmp_path / "next"), what="label apply")
    (added,) = set(rows(made)) - set(rows(data))
    assert added == f"{shards.load_manifest(renamed).digest[:8]}/00000"
    assert history.lineage(made).origins[added].shard == "train/00000.parquet"
    assert rows(made)[added] == ("train", data.classes[1], images[0])
    assert rows(made)["00000"] == rows(data)["00000"]


def test_an_image_of_another_split_is_not_added_to_train(data: Manifest, tmp_path: Path) -> None:
    pool = make_dataset(str(tmp_path / "pool"), train=60, val=0, test=0)
    held_out = next(row for row, (split, _, _) in rows(data).items() if split == "test")
    csv = table(tmp_path, f"{held_out},{data.classes[1]},{pool.uri}")
    with pytest.raises(DataError, match=rf"{held_out}' of .* already, as '{held_out}'"):
        versions.apply(
            data, versions.read_changes(csv, data), str(tmp_path / "next"), what="label apply"
        )
    assert not storage.list_files(str(tmp_path / "next"))


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["00000,wolf,"], "line 2: 'wolf' is none of the"),
        (["00000,,"], "holds no answer"),
        (["00000,-,", "00000,-,", "99999,-,"], "1 rows are not in .*, first '99999'"),
    ],
)
def test_a_wrong_table_is_an_error_before_anything_is_written(
    data: Manifest, tmp_path: Path, lines: list[str], message: str
) -> None:
    def act() -> None:
        changes = versions.read_changes(table(tmp_path, *lines), data)
        versions.apply(data, changes, str(tmp_path / "next"), what="label apply")

    with pytest.raises(DataError, match=message):
        act()
    assert not storage.list_files(str(tmp_path / "next"))


def test_two_answers_for_a_row_are_an_error(data: Manifest, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="keep one of them"):
        versions.read_changes(table(tmp_path, f"00000,{data.classes[0]},", "00000,-,"), data)


def test_a_data_set_is_never_overwritten_and_no_class_vanishes(
    data: Manifest, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match="which stays as it is"):
        versions.apply(data, Changes(), data.uri, what="x")
    first = {row for row, (split, name, _) in rows(data).items()
             if split == "train" and name == data.classes[0]}  # fmt: skip
    with pytest.raises(DataError, match="would have no train row any more"):
        versions.apply(data, Changes(removed=frozenset(first)), str(tmp_path / "n"), what="x")
