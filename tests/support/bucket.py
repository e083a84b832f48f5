"""An S3 server that holds any key, `//` too, which rclone's cannot: listings and reads alone."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, quote, unquote, urlsplit

import pytest

PAGE = 3
"""Keys a page of a listing."""


@contextlib.contextmanager
def serve(objects: Mapping[str, bytes], monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Serves keys and their bytes as a bucket until the block ends; yields its URI."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            parts = urlsplit(self.path)
            query = {name: values[0] for name, values in parse_qs(parts.query).items()}
            if query.get("list-type") == "2":
                self.answer(200, _listing(objects, query))
                return
            data = objects.get(unquote(parts.path).split("/", 2)[2])
            if data is None:
                self.answer(404, b"<Error><Code>NoSuchKey</Code></Error>")
                return
            first, _, last = self.headers["Range"].removeprefix("bytes=").partition("-")
            self.answer(206, data[int(first) : int(last) + 1])

        def answer(self, status: int, body: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Says nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield "s3://bucket"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def _listing(objects: Mapping[str, bytes], query: Mapping[str, str]) -> bytes:
    after = query.get("continuation-token", "")
    keys = sorted(k for k in objects if k.startswith(query.get("prefix", "")) and k > after)
    page = keys[:PAGE]
    contents = "".join(
        f"<Contents><Key>{quote(key)}</Key><Size>{len(objects[key])}</Size></Contents>"
        for key in page
    )
    more = len(keys) > PAGE
    token = f"<NextContinuationToken>{page[-1]}</NextContinuationToken>" if more else ""
    return (
        "<ListBucketResult><EncodingType>url</EncodingType>"
        f"<IsTruncated>{str(more).lower()}</IsTruncated>{token}{contents}</ListBucketResult>"
    ).encode()
