"""Requests as clients of all kinds send them, to an endpoint behind a real HTTP server."""

from __future__ import annotations

import base64
import json
import re
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import jsonschema
import pytest

from rtl.config.schema import ServeConfig
from rtl.serving.http import openapi
from tests.conftest import make_image
from tests.support import bodies, endpoint
from tests.support.bodies import MULTIPART, multipart, part

CONFIG = ServeConfig(port=0, max_body_mb=3, refusals_per_s=1000)
JPEG = make_image("red", 0)
TEXT = base64.b64encode(JPEG).decode()
FILE = part(JPEG, 'Content-Disposition: form-data; name="f"; filename="a.jpg"')
FORM = "application/x-www-form-urlencoded"


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Iterator[endpoint.Local]:
    uri = endpoint.make_bundle(str(tmp_path_factory.mktemp("serve") / "bundle"))
    with endpoint.serving(uri, CONFIG) as local:
        yield local


@pytest.fixture(scope="module")
def client(local: endpoint.Local) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=local.url, timeout=60) as client:
        yield client


def post(client: httpx.Client, body: bytes, kind: str | None = None, query: str = "") -> Any:
    headers = {} if kind is None else {"content-type": kind}
    return client.post(f"/v1/predict{query}", content=body, headers=headers)


def count(reply: httpx.Response) -> int:
    """Classes in the answer of the first image."""
    assert reply.status_code == 200, reply.text
    return len(reply.json()["results"][0]["predictions"])


def refusal(reply: httpx.Response, status: int = 400) -> str:
    """The message of an error: one line with one full stop at its end."""
    assert reply.status_code == status, reply.text
    message: str = reply.json()["error"]["message"]
    assert re.fullmatch(r"[^\n]+[^.]\.", message), message
    return message


# JSON


@pytest.mark.parametrize(
    "kind",
    [
        None, "", "text/plain", "text/plain;charset=UTF-8", FORM, "application/octet-stream",
        "application/json; charset=utf-8", "Application/JSON", "application/vnd.api+json",
        "text/json",
    ],
)  # fmt: skip
@pytest.mark.parametrize("before", [b"", b" \r\n\t", b"\xef\xbb\xbf"])
def test_json_is_taken_with_any_type_that_says_nothing_else(
    client: httpx.Client, kind: str | None, before: bytes
) -> None:
    assert count(post(client, before + bodies.json_body(TEXT, top_k=1), kind)) == 1


def test_json_in_utf_16_is_taken(client: httpx.Client) -> None:
    body = bodies.json_body(TEXT, top_k=1).decode().encode("utf-16")
    assert count(post(client, body, "application/json; charset=utf-16")) == 1


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (b'{"image": "x"}', "the key 'image' is not known; the nearest is images"),
        (b'{"images": [{"url": "x"}]}', "images.0: the key 'url' is not known; there are name an"),
        (b'{"images": ["QUJD"]}', "images.0 is 'QUJD': it must be an object"),
        (b'{"images": [{"name": "a"}]}', "images.0.data is missing"),
        (b'{"images": []}', "images is a list of 0: list should have at least 1 item"),
        (bodies.json_body("QUJD", top_k="3"), "top_k is '3': input should be a valid integer"),
        (bodies.json_body("QUJD", top_k=0), "top_k is 0: input should be greater than or equal t"),
        (bodies.json_body("QUJD", explain="yes"), "explain is 'yes': input should be a valid boo"),
        (b"{'images': []}", "Expecting property name enclosed in double quotes"),
        (b'{"images": [{"dat', "Unterminated string"),
        (b"{}", "images is missing"),
    ],
)
def test_json_that_cannot_be_read_is_refused_with_the_key(
    client: httpx.Client, body: bytes, why: str
) -> None:
    for kind in ("application/json", FORM, None):
        message = refusal(post(client, body, kind))
        assert f"The JSON body cannot be read ({why}" in message
        assert '). Send {"images": [{"data": BASE64}, ...]} with up to 64 images.' in message


def test_an_image_whose_type_is_wrong_is_still_told_by_its_bytes(client: httpx.Client) -> None:
    for kind in (None, "", FORM, "text/plain", "application/octet-stream", "image/png"):
        assert count(post(client, JPEG, kind)) == 3
    assert "not an image" in refusal(post(client, b'{"images": []}', "image/jpeg"), 415)


# Options


@pytest.mark.parametrize(
    ("query", "why"),
    [
        ("topk=1", "'topk' is not known; the nearest is top_k"),
        ("top-k=1", "'top-k' is not known; the nearest is top_k"),
        ("topK=1", "'topK' is not known; the nearest is top_k"),
        ("explian=true", "'explian' is not known; the nearest is explain"),
        ("token=s3cret", "'token' is not known; there are top_k and explain"),
        ("top_k=abc", "top_k is 'abc'; it must be a whole number from 1 to 999999999, such as"),
        ("top_k=0", "top_k is '0'; it must be a whole number from 1"),
        ("top_k=-3", "top_k is '-3'; it must be a whole number from 1"),
        ("explain=maybe", "explain is 'maybe'; it must be true or false"),
    ],
)
def test_a_query_that_is_not_understood_is_refused(
    client: httpx.Client, query: str, why: str
) -> None:
    for body, kind in ((JPEG, None), (bodies.json_body(TEXT), None)):
        message = refusal(post(client, body, kind, f"?{query}"))
        assert why in message
        assert "s3cret" not in message


def test_a_flag_is_taken_in_any_case_of_letters(client: httpx.Client) -> None:
    # `requests` writes True, and it writes what is None not at all.
    reply = post(client, JPEG, query="?explain=True&top_k=1")
    assert "heatmap" in reply.json()["results"][0]
    assert "heatmap" not in post(client, JPEG, query="?explain=FALSE").json()["results"][0]


def test_options_are_form_fields_beside_the_files(client: httpx.Client) -> None:
    files = {"image": ("a.jpg", JPEG)}
    data = {"top_k": "1", "explain": "true"}
    reply = client.post("/v1/predict?top_k=2", files=files, data=data)
    assert count(reply) == 1  # what the body says counts
    assert "heatmap" in reply.json()["results"][0]
    assert count(client.post("/v1/predict?top_k=2", files=files)) == 2
    for wrong, why in {
        "topk": "The form's field 'topk' is not known; the nearest is top_k.",
        "csrf": "The form's field 'csrf' is not known; there are top_k and explain.",
    }.items():
        message = refusal(client.post("/v1/predict", files=files, data={wrong: "1"}))
        assert message.startswith(why)
    for name, value in {"top_k": "abc", "explain": "maybe"}.items():
        message = refusal(client.post("/v1/predict", files=files, data={name: value}))
        assert message.startswith(f"{name} is {value!r}; it must be ")


# Multipart


@pytest.mark.parametrize(
    ("disposition", "name"),
    [
        ("form-data; name=f; filename*=UTF-8''z%C3%BCrich%20%22a%22.jpg", 'zürich "a".jpg'),
        ("form-data; name=f; filename*=iso-8859-1'en'%A3.jpg", "£.jpg"),
        ("form-data; name=f; FILENAME*=utf-8''a%5Cb.jpg", "a\\b.jpg"),
        ("form-data; name=f; filename=\"a.jpg\"; filename*=utf-8''b.jpg", "a.jpg"),
        ('form-data; name="filename*=b.jpg"; filename="a.jpg"', "a.jpg"),
        ("Form-Data; Name=f; FileName=a.jpg", "a.jpg"),
    ],
)
def test_a_part_is_named_in_either_way(client: httpx.Client, disposition: str, name: str) -> None:
    for header in ("Content-Disposition", "content-disposition"):
        body = multipart(part(JPEG, f"{header}: {disposition}", "Content-Type: image/jpeg"))
        reply = client.post("/v1/predict", content=body, headers=MULTIPART)
        assert count(reply) == 3
        assert reply.json()["results"][0]["file"] == name


def test_a_part_in_base64_is_decoded(client: httpx.Client) -> None:
    head = 'Content-Disposition: form-data; name="f"; filename="a.jpg"'
    encoding = "Content-Transfer-Encoding"
    good = multipart(part(bodies.wrap(JPEG).encode(), head, f"{encoding}: BASE64"), FILE)
    reply = client.post("/v1/predict", content=good, headers=MULTIPART)
    first, second = reply.json()["results"]
    assert first == second
    for said, data, why in (
        ("base64", b"a%", "The file 'a.jpg' is not base64: its character 2 is '%'; enc"),
        ("quoted-printable", JPEG, f"The file 'a.jpg' has the {encoding} 'quoted-printable'; s"),
    ):
        body = multipart(part(data, head, f"{encoding}: {said}"))
        assert why in refusal(client.post("/v1/predict", content=body, headers=MULTIPART))
    plain = multipart(part(JPEG, head, f"{encoding}: binary"))
    assert count(client.post("/v1/predict", content=plain, headers=MULTIPART)) == 3


FIELD = 'Content-Disposition: form-data; name="image"'


@pytest.mark.parametrize(
    ("kind", "body", "why"),
    [
        ("multipart/form-data", multipart(FILE), "has no boundary; leave that header to the HTTP"),
        (None, multipart(FILE, FILE)[:-100], "it ends before its closing boundary"),
        (None, multipart(FILE, end=b""), "it ends before its closing boundary"),
        (None, multipart(), "has no file part"),
        (None, multipart(part(JPEG * 600, FIELD)), "The form's field 'image' is not known; there"),
        (None, multipart(part(JPEG, FIELD), FILE), "if it is an image, give it a file name"),
    ],
)
def test_a_broken_form_is_refused_with_what_is_wrong(
    client: httpx.Client, kind: str | None, body: bytes, why: str
) -> None:
    assert why in refusal(post(client, body, kind or MULTIPART["content-type"]))


def test_types_are_read_in_any_case_of_letters(client: httpx.Client) -> None:
    assert count(post(client, multipart(FILE), "Multipart/Form-Data; Boundary=x")) == 3


def test_another_multipart_type_is_refused(client: httpx.Client) -> None:
    message = refusal(post(client, multipart(FILE), "multipart/mixed; boundary=x"), 415)
    assert message == "The body is multipart/mixed; send images as multipart/form-data."


@pytest.mark.parametrize(
    "body", [b"image=abc&top_k=1", b"my%20image=abc", f"image={TEXT}".encode()]
)
def test_a_form_of_text_is_refused_as_one(client: httpx.Client, body: bytes) -> None:
    message = refusal(post(client, body, FORM))
    assert "is a form of text with the field '" in message
    assert "image'" in message
    assert "curl -F image=@photo.jpg" in message


# HTTP


def test_a_compressed_body_is_refused(client: httpx.Client) -> None:
    for encoding, status in (("gzip", 415), ("br", 415), ("identity", 200)):
        reply = client.post("/v1/predict", content=JPEG, headers={"content-encoding": encoding})
        assert reply.status_code == status
    reply = client.post("/v1/predict", content=JPEG, headers={"content-encoding": "GZIP"})
    assert refusal(reply, 415).startswith("The body's Content-Encoding is 'GZIP', which is not su")
    assert reply.json()["error"]["type"] == "unsupported_encoding"
    assert reply.headers["accept-encoding"] == "identity"


def test_other_methods_are_refused_with_those_that_there_are(client: httpx.Client) -> None:
    for method in ("GET", "PUT", "DELETE", "OPTIONS"):
        reply = client.request(method, "/v1/predict")
        assert (reply.status_code, reply.headers["allow"]) == (405, "POST")
        assert "There are POST /v1/predict" in refusal(reply, 405)
    for path in ("/", "/v1/model", "/v1/traffic", "/healthz", "/readyz", "/metrics"):
        reply = client.head(path)
        assert (reply.status_code, reply.content) == (200, b"")
        assert int(reply.headers["content-length"]) > 10


def test_a_client_may_ask_whether_to_go_on(local: endpoint.Local) -> None:
    host, port = local.url.removeprefix("http://").split(":")
    head = f"POST /v1/predict HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n"
    asking = f"{head}Expect: 100-continue\r\nContent-Length: {len(JPEG)}\r\n\r\n"
    with socket.create_connection((host, int(port)), timeout=30) as sock:
        sock.sendall(asking.encode())
        assert sock.recv(1000).startswith(b"HTTP/1.1 100 ")
        sock.sendall(JPEG)
        assert sock.recv(65536).startswith(b"HTTP/1.1 200 ")


def test_the_openapi_document_says_what_is_taken() -> None:
    document = openapi.document(secured=False)
    content = document["paths"]["/v1/predict"]["post"]["requestBody"]["content"]
    form = content["multipart/form-data"]["schema"]
    jsonschema.validate({"top_k": 1, "explain": True, "photo": "bytes"}, form)
    for wrong in ({"top_k": 0}, {"explain": "maybe"}):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(wrong, form)
    rule = {**content["application/json"]["schema"], "components": document["components"]}
    jsonschema.validate({"images": [{"data": f"data:image/jpeg;base64,{TEXT}"}]}, rule)
    for wrong in ({"image": []}, {"images": [{"url": "x"}]}):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(wrong, rule)
    data = document["components"]["schemas"]["JsonImage"]["properties"]["data"]
    assert "data: URI" in data["description"]


# curl


@pytest.fixture
def curl(local: endpoint.Local, tmp_path: Path) -> Any:
    """Runs curl with these arguments, beside the file photo.jpg; gives status and content."""
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed")
    (tmp_path / "photo.jpg").write_bytes(JPEG)
    (tmp_path / "photo.png").write_bytes(make_image("red", 0, fmt="PNG"))
    (tmp_path / "body.json").write_text(f'{{"images": [{{"data": "{bodies.wrap(JPEG)}"}}]}}')

    def run(*arguments: str) -> tuple[int, Any]:
        command = ["curl", "-s", "-w", " %{http_code}", *arguments, f"{local.url}/v1/predict"]
        done = subprocess.run(
            command, cwd=tmp_path, check=True, capture_output=True, text=True, timeout=60
        )
        content, _, status = done.stdout.rpartition(" ")
        return int(status), json.loads(content)

    return run


@pytest.mark.parametrize(
    "arguments",
    [
        ["--data-binary", "@photo.jpg"],
        ["-X", "POST", "-T", "photo.jpg"],
        ["-H", "Expect: 100-continue", "--data-binary", "@photo.jpg"],
        ["-H", "Transfer-Encoding: chunked", "--data-binary", "@photo.jpg"],
        ["-F", "image=@photo.jpg", "-F", "top_k=3"],
        ["-F", "image=@photo.jpg;encoder=base64"],
        ["-d", "@body.json"],
        ["--data-binary", "@body.json"],
        ["-H", "Content-Type: application/json", "-d", "@body.json"],
    ],
)
def test_curl_is_answered(curl: Any, arguments: list[str]) -> None:
    status, content = curl(*arguments)
    assert status == 200, content
    assert len(content["results"][0]["predictions"]) == 3


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["-d", "@photo.jpg"], "The file has no zero byte and no line break: curl -d leaves them"),
        (["-d", "@photo.png"], "The file has no zero byte and no line break: curl -d leaves them"),
        (["-F", "image=<photo.jpg"], "give it a file name (curl -F image=@photo.jpg)"),
        (["--data-urlencode", "image@photo.jpg"], "The body is a form of text with the field 'im"),
    ],
)
def test_curl_that_cannot_be_answered_is_told_how(
    curl: Any, arguments: list[str], why: str
) -> None:
    status, content = curl(*arguments)
    assert status == 400
    assert why in content["error"]["message"]
