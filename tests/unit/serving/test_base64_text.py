from __future__ import annotations

import base64
import json
import tracemalloc

import pytest
from starlette.requests import Request

from rtl.serving.http.errors import RequestError
from rtl.serving.http.request import base64_text, json_body, parsing
from tests.support import bodies

DATA = bytes(range(256)) + b"\xfb\xff\xfe"  # of which both alphabets have something
PLAIN = base64.b64encode(DATA).decode()


def unpadded(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


@pytest.mark.parametrize("size", [257, 258, 259])  # all three remainders
def test_base64_is_taken_in_every_spelling(size: int) -> None:
    data = DATA[-size:]
    plain, url_safe = base64.b64encode(data).decode(), base64.urlsafe_b64encode(data).decode()
    assert plain != url_safe
    for text in (
        plain,
        plain.rstrip("="),
        url_safe,
        unpadded(data),
        bodies.wrap(data),
        bodies.wrap(data, "\n"),
        f" {plain}\n",
        f"data:image/jpeg;base64,{plain}",
        f"DATA:image/jpeg;name=a.jpg;BASE64,{unpadded(data)}",
        f"data:;base64,\n{bodies.wrap(data)}",
    ):
        assert base64_text.decode(text, "x") == data, text


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("%%%", "x is not base64: its character 1 is '%'; encode the file's bytes."),
        ("QUJD\nQU%D", "x is not base64: its character 8 is '%'; encode the file's bytes."),
        ("QUJDé", r"x is not base64: its character 5 is '\xe9'; encode the file's bytes."),
        ("QUJD\ud800", r"x is not base64: its character 5 is '\ud800'; encode the file's bytes."),
        ("QQ==QQ==", "x is not base64: its character 3 is '='; encode the file's bytes."),
        (
            "data:image/png;base64,QU*D",
            "x, after its comma, is not base64: its character 3 is '*'; encode the file's bytes.",
        ),
        (
            "QUJDR",
            "x is not base64: its length is not that of whole bytes; encode the file's bytes and "
            "send all of it.",
        ),
        (
            "data:image/svg+xml,<svg/>",
            "x begins 'data:image/svg+xml'; a data: URI must have ;base64 and a comma before its "
            "data, as in data:image/jpeg;base64,DATA.",
        ),
    ],
)
def test_what_is_not_base64_is_refused_with_its_first_bad_character(text: str, why: str) -> None:
    with pytest.raises(RequestError) as refused:
        base64_text.decode(text, "x")
    assert (refused.value.status, str(refused.value)) == (400, why)


def test_base64_as_it_should_be_is_not_copied() -> None:
    data = bytes(3 * 2**20)
    text = base64.b64encode(data).decode()
    tracemalloc.start()
    try:
        assert base64_text.decode(text, "x") == data
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(data) <= peak < len(data) + len(text) / 2


def test_a_bad_image_in_json_is_named() -> None:
    content = {"images": [{"data": PLAIN}, {"data": "Q?", "name": "b.jpg"}]}
    assert json_body.read(json.dumps(content).encode()).images[1].name == "b.jpg"
    with pytest.raises(RequestError, match=r"^images\.1\.data \('b\.jpg'\) is not base64: its ch"):
        parse(json.dumps(content).encode())


def parse(body: bytes) -> parsing.Asked:
    """What a JSON body asks for."""
    headers = [(b"content-type", b"application/json")]
    request = Request({"type": "http", "headers": headers, "query_string": b""})
    coroutine = parsing.parse(request, body)
    try:
        coroutine.send(None)
    except StopIteration as end:
        found: parsing.Asked = end.value
        return found
    raise AssertionError("a JSON body is read without waiting")


def test_line_breaks_stand_in_json_as_a_shell_writes_them() -> None:
    text = bodies.wrap(DATA, "\n")
    body = f'{{"images": [{{"data": "{text}"}}]}}'.encode()
    assert b"\\n" not in body
    assert parse(body).images == [DATA]
