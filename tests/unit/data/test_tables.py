"""Tables of paths and labels: their columns and their parts."""

from __future__ import annotations

from pathlib import Path

import pytest

from rtl import storage
from rtl.config.schema import PackConfig
from rtl.data import sources
from rtl.errors import DataError
from tests.support.tables import CONFIG, csv_text, pairs, parquet, put_table, read, reasons

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
