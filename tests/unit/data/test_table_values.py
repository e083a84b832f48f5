"""Cells of a table: labels of every kind, and places of images."""

from __future__ import annotations

import datetime
import decimal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from rtl.data.sources.labels import label_text
from rtl.errors import DataError
from tests.support.tables import TWO, csv_text, pairs, parquet, put_table, read

# Values


def labels_of(folder: Path, labels: list[Any], kind: str) -> list[str]:
    """The classes that a column becomes as CSV or Parquet."""
    images = [f"{i}.jpg" for i in range(len(labels))]
    if kind == "parquet":
        data: bytes | str = parquet(image=images, label=labels)
    else:
        cells = ["" if label is None else str(label) for label in labels]
        data = csv_text([("image", "label"), *zip(images, cells, strict=True)])
    return [label for _, label in pairs(put_table(str(folder), f"t.{kind}", data))]


@pytest.mark.parametrize("kind", ["csv", "parquet"])
@pytest.mark.parametrize(
    ("labels", "classes"),
    [
        (["1", "1.0", "2.00", "-3.0"], ["1", "1", "2", "-3"]),
        ([0.0, 1.0, None, 2.5], ["0", "1", "2.5"]),
        ([0, 1, None], ["0", "1"]),
        ([True, False, True], ["True", "False", "True"]),
        ([decimal.Decimal("1.00"), decimal.Decimal("12.50")], ["1", "12.50"]),
        (["1.0", "v2"], ["1.0", "v2"]),
        (["01", "02", "10"], ["01", "02", "10"]),
        (["1e3", "2"], ["1e3", "2"]),
        (["9" * 40 + ".0", "9" * 39 + "8"], ["9" * 40, "9" * 39 + "8"]),
        (["NA", "None", "none", "a  b", " c "], ["NA", "None", "none", "a  b", "c"]),
    ],
)
def test_a_label_is_one_class_in_every_kind_of_table(
    tmp_path: Path, kind: str, labels: list[Any], classes: list[str]
) -> None:
    assert labels_of(tmp_path, labels, kind) == classes


def test_a_narrow_float_is_the_number_that_was_written(tmp_path: Path) -> None:
    data = parquet(image=["1.jpg", "2.jpg"], label=pa.array([0.1, 2.0], pa.float32()))
    uri = put_table(str(tmp_path), "t.parquet", data)
    assert pairs(uri) == [("1.jpg", "0.1"), ("2.jpg", "2")]


@pytest.mark.parametrize(
    ("labels", "shown"),
    [
        (["1", "01"], "'01' and '1'"),
        (["1", "1.0", "v2"], "'1' and '1.0'"),
        (["1.5", "1.50"], "'1.5' and '1.50'"),
        (["0", "-0"], "'-0' and '0'"),
    ],
)
def test_one_number_in_two_spellings_is_an_error(
    tmp_path: Path, labels: list[str], shown: str
) -> None:
    with pytest.raises(DataError, match=f"column 'label' holds the labels {shown}, which are one"):
        labels_of(tmp_path, labels, "csv")


MARKS = ["nan", "NaN", "<NA>", "null", "NULL", "N/A", "#N/A", "#REF!"]


@pytest.mark.parametrize("mark", MARKS)
def test_a_mark_of_a_missing_value_is_named_as_it_stands(tmp_path: Path, mark: str) -> None:
    text = csv_text([*TWO, ("3.jpg", mark), (mark, "a")])
    rows, found = read(put_table(str(tmp_path), "t.csv", text))
    assert [row.id for row in rows] == ["1.jpg", "2.jpg"]
    assert list(found) == ["3.jpg", "row 4"]
    assert f"'label' is '{mark}', which software writes for a missing value" in found["3.jpg"]
    assert f"'image' is '{mark}', which software writes" in found["row 4"]


def test_a_mark_beside_numbers_leaves_them_numbers(tmp_path: Path) -> None:
    assert labels_of(tmp_path, ["1", "nan", "1.0", "", "2"], "csv") == ["1", "1", "2"]


def test_splits_that_are_all_missing_are_none(tmp_path: Path) -> None:
    text = csv_text([(*TWO[0], "split"), (*TWO[1], "nan"), (*TWO[2], "")])
    assert [row.split for row in read(put_table(str(tmp_path), "t.csv", text))[0]] == [None, None]


KINDS: list[Callable[[list[str]], Any]] = [
    lambda v: pa.array(v, pa.large_string()),
    lambda v: pa.array(v).dictionary_encode(),
    lambda v: pa.array(v, pa.string_view()),
    lambda v: pa.array([x.encode() for x in v], pa.binary()),
    lambda v: pa.array([x.encode() for x in v], pa.large_binary()),
    lambda v: pa.array([x.encode() for x in v]).dictionary_encode(),
]


@pytest.mark.parametrize("kind", KINDS)
def test_parquet_text_of_every_kind(tmp_path: Path, kind: Callable[[list[str]], Any]) -> None:
    data = parquet(image=kind(["ü.jpg", "2.jpg"]), label=kind([" a ", "1.0"]))
    assert pairs(put_table(str(tmp_path), "t.parquet", data)) == [("ü.jpg", "a"), ("2.jpg", "1.0")]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([[1]], "column 'label' holds a list<.*it must hold text or numbers"),
        ([{"bytes": b"x", "path": "1.jpg"}], "holds a struct<bytes"),
        ([datetime.datetime(2024, 1, 2)], "holds a timestamp"),
        ([datetime.date(2024, 1, 2)], "holds a date32"),
        ([b"\xff\xd8\xff"], "bytes that are not UTF-8 in row 1"),
        (pa.array([b"ok", b"\xff"], pa.binary()).view(pa.string()), "not UTF-8 in row 2"),
    ],
)
def test_columns_that_hold_no_labels(tmp_path: Path, values: Any, message: str) -> None:
    data = parquet(image=[f"{i}.jpg" for i in range(len(values))], label=values)
    with pytest.raises(DataError, match=message):
        read(put_table(str(tmp_path), "t.parquet", data))


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, ""), (float("nan"), ""), (" cat\n", "cat"), (1, "1"), (1.0, "1"), (-0.0, "0"),
        (2.5, "2.5"), (True, "True"), ("nan", ""), ("NA", "NA"), ("1.0", "1.0"),
    ],
)  # fmt: skip
def test_label_text(value: Any, text: str) -> None:
    assert label_text(value) == text


# Places


def place_of(folder: str, image: str) -> str:
    """The URI of an image of a table at `folder`, or why it has none."""
    rows, found = read(put_table(folder, "t.parquet", parquet(image=[image], label=["a"])))
    return rows[0].uri if rows else next(iter(found.values()))


@pytest.mark.parametrize(
    ("image", "uri"),
    [
        ("./a.jpg", "{place}/a.jpg"),
        ("x//y/../a.jpg", "{place}/x/a.jpg"),
        ("img\\sub\\a.jpg", "{place}/img/sub/a.jpg"),
        (".\\a.jpg", "{place}/a.jpg"),
        ("100%.jpg", "{place}/100%.jpg"),
        ("a%2Fb.jpg", "{place}/a%2Fb.jpg"),
        ("s3a://bucket/a b.jpg", "s3://bucket/a b.jpg"),
        ("/data//x/../a.jpg", "/data/a.jpg"),
        ("file:///data/a%20b.jpg", "/data/a b.jpg"),
        ("file://localhost/data/a.jpg", "/data/a.jpg"),
        ("file:/data/a.jpg", "/data/a.jpg"),
    ],
)  # fmt: skip
def test_places_that_are_read(place: str, image: str, uri: str) -> None:
    assert place_of(place, image) == uri.format(place=place)


@pytest.mark.parametrize(
    ("image", "why"),
    [
        ("C:\\photos\\a.jpg", "drive of Windows; write its path relative to the table"),
        ("c:/photos/a.jpg", "drive of Windows"),
        ("\\\\server\\share\\a.jpg", "drive of Windows"),
        ("file:///C:/photos/a.jpg", "drive of Windows"),
        ("file://server/a.jpg", "another machine"),
        ("file://a.jpg", "another machine, or no absolute path"),
        ("https://host/a.jpg", "on the web.* download it"),
        ("gs://bucket/a.jpg", "not on s3://, which rtl reads; copy it there"),
        ("s3://bucket", "write s3://BUCKET/KEY"),
        ("s3:///a.jpg", "write s3://BUCKET/KEY"),
        ("S3://bucket/a//b.jpg", "has an empty, . or .. part between its slashes"),
        ("photos/", "is a folder"),
        ("photos/..", "is a folder"),
        ("a\0.jpg", "zero byte"),
        ("file:///data/a%00.jpg", "zero byte"),
        ("data:image/png;base64," + "iVBO" * 300, "1222 letters.*in place of the image itself"),
    ],
)  # fmt: skip
def test_places_that_are_refused_say_what_to_write(tmp_path: Path, image: str, why: str) -> None:
    with pytest.raises(AssertionError, match=why):
        raise AssertionError(place_of(str(tmp_path), image))


def test_a_name_that_is_there_as_written_comes_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", "/home/of/somebody")
    assert place_of(str(tmp_path), "~/a.jpg") == "/home/of/somebody/a.jpg"
    (tmp_path / "a b.jpg").touch()
    assert place_of(str(tmp_path), "a%20b.jpg") == str(tmp_path / "a b.jpg")
    for name in ("a%20b.jpg", "img\\a.jpg", "~/a.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
        assert place_of(str(tmp_path), name) == str(tmp_path / name)
    uri = (tmp_path / "a%20b.jpg").as_uri()
    assert place_of(str(tmp_path), uri) == str(tmp_path / "a%20b.jpg")
    assert place_of(str(tmp_path), f"file://{tmp_path}/a%20b.jpg") == str(tmp_path / "a%20b.jpg")


def test_a_path_out_of_the_bucket_is_refused(s3: str) -> None:
    assert "leads out of the table's bucket" in place_of(s3, "../../../other/a.jpg")


def test_an_id_is_the_path_however_it_was_written(tmp_path: Path) -> None:
    images = ["x\\1.jpg", f"file://{tmp_path}/x/2.jpg", f"{tmp_path}/y/../x/3.jpg"]
    data = parquet(image=images, label=["a", "b", "b"])
    found = pairs(put_table(str(tmp_path), "t.parquet", data))
    assert [identity for identity, _ in found] == ["x/1.jpg", "x/2.jpg", "x/3.jpg"]
