"""CSV files: delimiters, quotes, line ends and encodings."""

from __future__ import annotations

import codecs
from pathlib import Path

import pytest

from rtl.errors import DataError
from tests.support.tables import TWO, csv_text, pairs, parquet, put_table, read

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
