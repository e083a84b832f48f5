from __future__ import annotations

import codecs
import datetime
import decimal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from rtl import storage
from rtl.config.schema import PackConfig
from rtl.data import sources
from rtl.data.shards import Quarantined
from rtl.data.sources import Listing, Row
from rtl.data.sources.labels import label_text
from rtl.data.sources.tables.listing import table_rows
from rtl.errors import DataError
from tests.support.tables import csv_text, parquet, put_table

CONFIG = PackConfig()
TWO = (("image", "label"), ("1.jpg", "a"), ("2.jpg", "b"))


def read(uri: str, config: PackConfig = CONFIG) -> tuple[list[Row], dict[str, str]]:
    """A table's rows, and the reason of each id that was left out."""
    quarantine: list[Quarantined] = []
    rows = list(table_rows(uri, config, quarantine))
    return rows, {row.id: row.reason for row in quarantine}


def pairs(uri: str, config: PackConfig = CONFIG) -> list[tuple[str, str]]:
    return [(row.id, row.label) for row in read(uri, config)[0]]


def reasons(listing: Listing) -> dict[str, str]:
    return {row.id: row.reason for row in listing.quarantine}


# The whole


def test_csv(place: str) -> None:
    text = (
        "image,label,split,note\n"
        "x/1.jpg,01,train,\n"
        "./x/../2.jpg, cat ,VALIDATION,\n"
        f"{place}/3.jpg,cat,test,\n"
        "s3://other/4.jpg,NA,train,\n"
        "5.jpg,,train,\n"
        "6.jpg,NaN,train,\n"
        ",cat,train,\n"
        "8.jpg,cat,spare,\n"
        "http://host/9.jpg,cat,train,\n"
    )
    listing = sources.list_source(put_table(place, "t.csv", text), CONFIG)
    assert listing.layout == "table"
    assert [(row.id, row.label, row.split) for row in listing.rows] == [
        ("x/1.jpg", "01", "train"), ("2.jpg", "cat", "val"), ("3.jpg", "cat", "test"),
        ("s3://other/4.jpg", "NA", "train"),
    ]  # fmt: skip
    assert [row.uri for row in listing.rows] == [
        f"{place}/x/1.jpg", f"{place}/2.jpg", f"{place}/3.jpg", "s3://other/4.jpg",
    ]  # fmt: skip
    found = reasons(listing)
    assert sorted(found) == ["5.jpg", "6.jpg", "8.jpg", "http://host/9.jpg", "row 7"]
    assert "'label' is empty" in found["5.jpg"]
    assert "'label' is 'NaN', which software writes for a missing value" in found["6.jpg"]
    assert "'image' is empty" in found["row 7"]
    assert "'spare' is not train, val or test" in found["8.jpg"]
    assert "on the web" in found["http://host/9.jpg"]


def test_parquet_with_other_columns(place: str) -> None:
    data = parquet(file=["1.jpg", "2.jpg", "1.jpg", "3.jpg"], y=[0.0, 1.0, 0.0, float("nan")])
    listing = sources.list_source(
        put_table(place, "t.parquet", data), PackConfig(image_column="file", label_column="y")
    )
    assert [(row.id, row.label, row.split) for row in listing.rows] == [
        ("1.jpg", "0", None), ("2.jpg", "1", None), ("1.jpg#2", "0", None),
    ]  # fmt: skip
    assert list(reasons(listing)) == ["3.jpg"]


def test_a_column_of_confidence_is_read_where_it_is_named(tmp_path: Path) -> None:
    text = (
        "image,label,sure\n1.jpg,a,0.75\n2.jpg,b,\n3.jpg,b,1.2\n4.jpg,b,0\n5.jpg,b,yes\n"
        "6.jpg,b,nan\n"
    )
    uri = put_table(str(tmp_path), "t.csv", text)
    rows, found = read(uri, PackConfig(confidence_column="sure"))
    assert [(row.id, row.confidence) for row in rows] == [
        ("1.jpg", 0.75), ("2.jpg", 1.0), ("6.jpg", 1.0),
    ]  # fmt: skip
    assert sorted(found) == ["3.jpg", "4.jpg", "5.jpg"]
    assert "'1.2' is no probability" in found["3.jpg"]
    assert {row.confidence for row in read(uri)[0]} == {1.0}


def test_a_large_table_is_read_whole(tmp_path: Path) -> None:
    rows = [("image", "label", "note"), *((f"{i}.jpg", f"{i % 7}", "x" * 30) for i in range(10**5))]
    found = pairs(put_table(str(tmp_path), "t.csv", csv_text(rows)))
    assert len(found) == 10**5
    assert found[-1] == ("99999.jpg", "4")


def test_a_table_without_a_usable_row_says_why(tmp_path: Path) -> None:
    uri = put_table(str(tmp_path), "t.csv", "image,label\nx,\n")
    with pytest.raises(DataError, match=r"with a label\. 1 of 1 rows, such as x: .*is empty"):
        sources.list_source(uri, CONFIG)


@pytest.mark.parametrize("text", ["image,label\n", "image,label\n\n , \n"])
def test_a_table_without_a_row_is_an_error(tmp_path: Path, text: str) -> None:
    with pytest.raises(DataError, match=r"t\.csv has no row below the names"):
        read(put_table(str(tmp_path), "t.csv", text))
    with pytest.raises(DataError, match=r"t\.parquet has no row"):
        read(put_table(str(tmp_path), "t.parquet", parquet(image=[], label=[])))


# Columns


@pytest.mark.parametrize(
    ("header", "config", "message"),
    [
        ("image,label", PackConfig(confidence_column="sure"), "no single column 'sure'"),
        ("a,b", PackConfig(), "no single column 'image', it has a, b"),
        ("image,label", PackConfig(split_column="fold"), "no single column 'fold'"),
        ("Image,label", PackConfig(), r"Set pack\.image_column to 'Image', the nearest"),
        ("image,Label", PackConfig(), r"Set pack\.label_column to 'Label', the nearest"),
        ("images,label", PackConfig(), "to 'images', the nearest"),
        ("Image;label", PackConfig(), "it has Image, label"),
        ("image,label,Split", PackConfig(), r"Set pack\.split_column to 'Split', the nearest"),
        ("image,label, label", PackConfig(), "Rename or remove the other columns"),
        ("image,label,split,split", PackConfig(), "no single column 'split'"),
        ("1.jpg,cat", PackConfig(), "the names of a .csv stand in its first line"),
        ("", PackConfig(), "no single column 'image', it has none"),
        (",".join(f"c{i}" for i in range(3000)), PackConfig(), "c19 and 2980 more"),
    ],
)
def test_columns_that_are_missing_or_twice(
    tmp_path: Path, header: str, config: PackConfig, message: str
) -> None:
    with pytest.raises(DataError, match=message):
        read(put_table(str(tmp_path), "t.csv", f"{header}\nx,y\n" if header else ""), config)


@pytest.mark.parametrize(
    "header", ["image,label,Image", " image ,\tlabel", '"image", "label"', "label,x,image,,"]
)
def test_blanks_quotes_and_other_columns_do_not_hide_a_name(tmp_path: Path, header: str) -> None:
    names = [name.strip(' "\t') for name in header.split(",")]
    rows = "".join(
        f"{','.join((c if n == 'label' else i if n == 'image' else '') for n in names)}\n"
        for i, c in ("1a", "2b")
    )
    assert pairs(put_table(str(tmp_path), "t.csv", f"{header}\n{rows}")) == [("1", "a"), ("2", "b")]


def test_columns_without_a_name_at_the_end_need_no_cells(tmp_path: Path) -> None:
    uri = put_table(str(tmp_path), "t.csv", "image,label,, \n1,a\n2,b,\n3,c,,note\n")
    assert pairs(uri) == [("1", "a"), ("2", "b")]
    assert "Line 4 has 4 cells and the header 2" in read(uri)[1]["row 3"]


def test_parquet_names_are_found_alike(tmp_path: Path) -> None:
    uri = put_table(str(tmp_path), "t.parquet", parquet(**{" image": ["1"], "Label": ["a"]}))
    with pytest.raises(DataError, match=r"pack\.label_column to 'Label'"):
        read(uri)
    assert pairs(uri, PackConfig(label_column="Label")) == [("1", "a")]


# The form of a CSV


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_delimiters_and_line_ends(tmp_path: Path, delimiter: str, end: str) -> None:
    uri = put_table(str(tmp_path), "t.tsv", csv_text([*TWO, ("",), ("", " ")], delimiter, end))
    assert pairs(uri) == [("1.jpg", "a"), ("2.jpg", "b")]
    assert read(uri)[1] == {}


@pytest.mark.parametrize("first", ["sep=|", '"sep=|"', "sep=|\r"])
def test_a_first_line_names_the_delimiter(tmp_path: Path, first: str) -> None:
    text = f"{first}\n{csv_text(TWO, '|')}"
    assert pairs(put_table(str(tmp_path), "t.csv", text)) == [("1.jpg", "a"), ("2.jpg", "b")]


def test_other_delimiters_inside_cells_decide_nothing(tmp_path: Path) -> None:
    text = 'image;"a, note";label\n1.jpg;"x;y\tz,";a\n2.jpg;p,q,r;b, c\n'
    assert pairs(put_table(str(tmp_path), "t.csv", text)) == [("1.jpg", "a"), ("2.jpg", "b, c")]


def test_line_breaks_in_quotes_beyond_a_mebibyte(place: str) -> None:
    cells = ['"a\nnote, ""quoted"""', '"' + "x\r\n" * 10**6 + '"', "plain"]
    rows = [(f"{i}.jpg", cells[i % 3], "ab"[i % 2]) for i in range(6)]
    uri = put_table(place, "t.csv", csv_text([("image", "note", "label"), *rows]))
    assert pairs(uri) == [(f"{i}.jpg", "ab"[i % 2]) for i in range(6)]


def test_rows_of_another_length_are_named(tmp_path: Path) -> None:
    text = 'image,note,label\n1.jpg,"a\nb",a\n2.jpg,x,y,b\n\n3.jpg,b\n4.jpg,,b,,\n,,\n5.jpg,,\n'
    rows, found = read(put_table(str(tmp_path), "t.csv", text))
    assert [row.id for row in rows] == ["1.jpg", "4.jpg"]
    assert list(found) == ["row 2", "row 3", "5.jpg"]
    assert "Line 4 has 4 cells and the header 3" in found["row 2"]
    assert "Line 6 has 2 cells and the header 3" in found["row 3"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('image,label\n1.jpg,a\n2.jpg,"b\n3.jpg,c\n', "starts on line 3, a quote is not closed"),
        ('image,label\n1.jpg,"a" b"\n', "starts on line 2, ',' expected after"),
        ('image,"label\n1.jpg,a\n', "starts on line 1, a quote is not closed"),
    ],
)
def test_quotes_that_do_not_close_are_named(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read(put_table(str(tmp_path), "t.csv", text))


def test_a_quote_that_closes_too_late_makes_no_class(tmp_path: Path) -> None:
    text = 'image,label\n1.jpg,"a\n2.jpg,b\n3.jpg,"\n"4.jpg\n5.jpg",b\n6.jpg,b\n'
    rows, found = read(put_table(str(tmp_path), "t.csv", text))
    assert [row.id for row in rows] == ["6.jpg"]
    assert "line break of 'a\\n2.jpg,b" in found["1.jpg"]
    assert "line break" in found["row 2"]


# Encodings


@pytest.mark.parametrize(
    ("mark", "encoding"),
    [
        (b"", "utf-8"),
        (codecs.BOM_UTF8, "utf-8"),
        (codecs.BOM_UTF16_LE, "utf-16-le"),
        (codecs.BOM_UTF16_BE, "utf-16-be"),
        (codecs.BOM_UTF32_LE, "utf-32-le"),
        (codecs.BOM_UTF32_BE, "utf-32-be"),
    ],
)
def test_encodings_that_are_certain(tmp_path: Path, mark: bytes, encoding: str) -> None:
    text = csv_text([("image", "label"), ("ü.jpg", "größe"), ("日本.jpg", "犬🐕")])
    uri = put_table(str(tmp_path), "t.csv", mark + text.encode(encoding))
    assert pairs(uri) == [("ü.jpg", "größe"), ("日本.jpg", "犬🐕")]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"image,label,gr\xf6\xdfe\n1,2,3\n", r"line 1 is not UTF-8 \(byte 0xF6 at offset 14\)"),
        (b"image,label\n1.jpg,a\nx,\xff\n", r"line 3 is not UTF-8 \(byte 0xFF at offset 22\)"),
        (codecs.BOM_UTF8 + b"image\n\xff", r"line 2 is not UTF-8 \(byte 0xFF at offset 9\)"),
        (codecs.BOM_UTF16_LE + b"i\0m\0a", "line 1 is not UTF-16-LE"),
        ("image,label\n1,a\n".encode("utf-16-le"), "zero bytes, as UTF-16 without its mark"),
        (b"PK\x03\x04rest", "it is a workbook"),
        (b"\x1f\x8brest", "it is compressed"),
        (parquet(image=["1"], label=["a"]), "it is a Parquet file"),
    ],
)
def test_encodings_that_are_not_certain(tmp_path: Path, data: bytes, message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        read(put_table(str(tmp_path), "t.csv", data))
    assert "CSV UTF-8" in str(caught.value)


def test_a_broken_parquet_is_an_error(tmp_path: Path) -> None:
    whole = parquet(image=["1.jpg"], label=["a"])
    odd = whole.replace(b"label", b"\xffabel")
    for data in (b"", b"image,label\n1,a\n", whole[:-20], whole[20:], odd):
        with pytest.raises(DataError, match="cannot be read as a table"):
            read(put_table(str(tmp_path), "t.parquet", data))


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


# Parts


def test_a_folder_of_parts_is_a_table(place: str) -> None:
    for name in ("_SUCCESS", "._SUCCESS.crc", ".part-0.parquet.crc", "_metadata"):
        put_table(place, f"t.parquet/{name}", "x")
    put_table(place, "t.parquet/part-1.parquet", parquet(label=["b"], image=["2.jpg"]))
    put_table(place, "t.parquet/part-0.parquet", parquet(image=["1.jpg"], label=["a"]))
    listing = sources.list_source(storage.join(place, "t.parquet"), CONFIG)
    assert [(row.id, row.label, row.uri) for row in listing.rows] == [
        ("1.jpg", "a", f"{place}/1.jpg"), ("2.jpg", "b", f"{place}/2.jpg"),
    ]  # fmt: skip


def test_numbers_are_one_class_over_all_parts(tmp_path: Path) -> None:
    for part, label in enumerate(("1", "1.0")):
        put_table(str(tmp_path), f"t.csv/part-{part}.csv", f"image,label\n{part}.jpg,{label}\n")
    assert pairs(str(tmp_path / "t.csv")) == [("0.jpg", "1"), ("1.jpg", "1")]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("part-1.csv", "image,label,split\n2,b,val\n", "one alone has the column 'split'"),
        ("part-1.csv", "image,class\n2,b\n", r"part-1\.csv has no single column 'label'"),
        ("part-1.csv.gz", "x", r"not compressed.*also 'part-1\.csv\.gz'"),
        ("split=val/part-1.csv", "image,label\n2,b\n", "not in folders of their own"),
    ],
)
def test_parts_that_do_not_agree(tmp_path: Path, name: str, text: str, message: str) -> None:
    put_table(str(tmp_path), "t.csv/part-0.csv", "image,label\n1,a\n")
    put_table(str(tmp_path), f"t.csv/{name}", text)
    with pytest.raises(DataError, match=message):
        read(str(tmp_path / "t.csv"))


def test_a_folder_without_parts_is_an_error(tmp_path: Path) -> None:
    put_table(str(tmp_path), "t.csv/_SUCCESS", "")
    with pytest.raises(DataError, match="It holds none"):
        read(str(tmp_path / "t.csv"))
