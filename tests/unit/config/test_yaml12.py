from __future__ import annotations

import json
import random
import re
from pathlib import Path
from typing import Any

import pytest

from rtl.config import yaml12
from rtl.errors import ConfigError
from tests.support.yaml_texts import ODD_TEXTS


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("", None),
        ("# a comment\n", None),
        ("~", None),
        ("null", None),
        ("True", True),
        ("false", False),
        ("on", "on"),
        ("NO", "NO"),
        ("10", 10),
        ("010", 10),
        ("08", 8),
        ("+5", 5),
        ("0o10", 8),
        ("0x1f", 31),
        ("1_000", "1_000"),
        ("1:30", "1:30"),
        ("-_", "-_"),
        ("1e-3", 0.001),
        ("1.E3", 1000.0),
        ("-.5", -0.5),
        ("._", "._"),
        ("1.5_5", "1.5_5"),
        ("2026-11-24", "2026-11-24"),
        ("2026-11-24 10:00:00", "2026-11-24 10:00:00"),
        ("=", "="),
        ("<<", "<<"),
        ("'010'", "010"),
        ('"\\u00fc"', "ü"),
        ("!!str 010", "010"),
        ("!!int x", "x"),
        ("%YAML 1.1\n---\n[on, 010, 1:30]", ["on", 10, "1:30"]),
        ("{1: a, null: b, on: c}", {"1": "a", "null": "b", "on": "c"}),
        ("{<<: {b: 1}, c: 2}", {"<<": {"b": 1}, "c": 2}),
        ("a: &seed 3\nb: *seed\nc: [*seed]", {"a": 3, "b": 3, "c": [3]}),
        ("a: |\n  x\n  y\n", {"a": "x\ny\n"}),
        ("a: 1\r\nb: [2,\r\n 3]\r\n", {"a": 1, "b": [2, 3]}),
        ("---\na: 1\n...\n", {"a": 1}),
    ],
)
def test_a_value_is_that_of_yaml_1_2(text: str, value: Any) -> None:
    found = yaml12.parse(text, "it").value
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\na: 2", "line 2, column 1: a is given twice; merge the two."),
        ("{1: a, '1': b}", "line 1, column 8: 1 is given twice"),
        ("a: 1\n---\nb: 2", "line 2, column 1: not valid YAML, but found another document"),
        (
            "a:\n\tb: 1",
            "line 2, column 1: not valid YAML, found character '\\t' that cannot start any",
        ),
        ("a: b: c", "line 1, column 5: not valid YAML, mapping values are not allowed here."),
        ("a: 'x\n", "line 2, column 1: not valid YAML, found unexpected end of stream"),
        ("a: *b", "line 1, column 4: not valid YAML, found undefined alias 'b'."),
        ("a: 1\nbc: \x00", "line 2, column 5: not valid YAML, '\\x00' is not allowed; remove it."),
        ("a: !x 1", "line 1, column 4: the tag !x is not taken; leave it out."),
        ("a: !!python/name:os.system", "line 1, column 4: the tag !!python/name:os.system is not"),
        ("!!set {a}", "line 1, column 1: the tag !!set is not taken"),
        ("!!binary aGk=", "line 1, column 1: the tag !!binary is not taken"),
        ("? [a]\n: 1", "line 1, column 3: a key is a list or a mapping; it must be text."),
        ("&a [*a]", "line 1, column 1: more than 10000 values or 20 levels are not taken"),
        ("a: &a {b: *a}", "line 1, column 4: more than 10000 values or 20 levels"),
    ],
)
def test_what_is_not_taken_is_named_with_line_and_column(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=f"^it, {re.escape(message)}") as caught:
        yaml12.parse(text, "it")
    assert str(caught.value).endswith(".")
    assert "\n" not in str(caught.value)


def test_a_billion_values_and_a_deep_nest_are_refused() -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 10)]
    with pytest.raises(ConfigError, match="more than 10000 values"):
        yaml12.parse("\n".join(lines), "it")
    with pytest.raises(ConfigError, match="it is nested too deeply"):
        yaml12.parse("[" * 5000 + "]" * 5000, "it")


def test_the_texts_of_a_text_key_are_kept_unless_they_are_quoted_or_nothing() -> None:
    text = "a: {b: 010, c: 010}\nd: true\ne: ~\nf: '~'\n"
    found = yaml12.parse(text, "it", text_keys={"a.b", "d", "e", "f"}).value
    assert found == {"a": {"b": "010", "c": 10}, "d": "true", "e": None, "f": "~"}


def test_the_place_of_each_value_is_known() -> None:
    places = yaml12.parse("a:\n  b: [1, 2]\n", "it").places
    assert places == {
        "a": "it, line 2, column 3",
        "a.b": "it, line 2, column 6",
        "a.b.0": "it, line 2, column 7",
        "a.b.1": "it, line 2, column 10",
    }


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_a_byte_order_mark_is_no_part_of_the_text(tmp_path: Path, encoding: str) -> None:
    file = tmp_path / "x.yaml"
    file.write_bytes("a: ü😀\n".encode(encoding))
    assert yaml12.read(file, "it").value == {"a": "ü😀"}


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"a: 1\nb: \xe9", "it, line 2, column 4: not UTF-8 text; save it as UTF-8."),
        (b"# " + b"x" * 1_000_000, "it holds more than 1 MB; it must be a short text in YAML."),
    ],
)
def test_a_file_that_is_no_short_text_is_refused(tmp_path: Path, data: bytes, message: str) -> None:
    (tmp_path / "x").write_bytes(data)
    with pytest.raises(ConfigError, match=f"^{re.escape(message)}$"):
        yaml12.read(tmp_path / "x", "it")


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    for path, why in ((tmp_path / "no", "No such file or directory"), (tmp_path, "Is a directory")):
        with pytest.raises(ConfigError, match=rf"^it cannot be read: {why}\.$"):
            yaml12.read(path, "it")


def test_what_is_written_is_read_back() -> None:
    values: list[Any] = [None, True, 0, -3, 1e-5, 3e22, 10**30, [], {}, [[]], {"a": {}}]
    values += [shape for x in ODD_TEXTS for shape in (x, [x, x], {x: [x]}, {"k": x})]
    rng = random.Random(3)  # noqa: S311 -- no secret
    alphabet = "a1 .:-_#'\"\\,[]{}&*!|>%@`~?=\n\té😀\x85"
    values += ["".join(rng.choices(alphabet, k=rng.randint(1, 6))) for _ in range(300)]
    for value in values:
        text = yaml12.write(value)
        assert "\n" not in text
        found = yaml12.parse(f"- {text}", "it").value
        assert json.dumps(found) == json.dumps([value]), text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ({"min": 0.001, "log": True}, "{min: 0.001, log: true}"),
        (["a", "010", "s3://b/x"], '[a, "010", s3://b/x]'),
        ("My Photos", '"My Photos"'),
        ("2026-11-24", "2026-11-24"),
    ],
)
def test_plain_text_is_written_without_quotes(value: Any, text: str) -> None:
    assert yaml12.write(value) == text
