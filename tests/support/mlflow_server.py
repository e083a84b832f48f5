"""An HTTP server that answers as much of MLflow's API as rtl uses, and fails as it is told."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

from tests.support.runs import Files


class MlflowServer(ThreadingHTTPServer):
    """As much of MLflow's HTTP as rtl asks for; from a request on it may fail in one way."""

    def __init__(self, fails_at: str = "", how: str = "", authorization: str | None = None) -> None:
        super().__init__(("127.0.0.1", 0), MlflowRequest)
        self.fails_at, self.how, self.authorization = fails_at, how, authorization
        self.run_id = f"r{self.server_address[1]}"  # MLflow remembers where a run's files go
        self.ended = threading.Event()
        self.seen: list[str] = []
        self.batches: list[dict[str, Any]] = []
        self.files: Files = {}
        self.status: list[str] = []

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def handle_error(self, *_: Any) -> None:
        """A client that gave up is none of ours."""


class MlflowRequest(BaseHTTPRequestHandler):
    server: MlflowServer
    protocol_version = "HTTP/1.1"

    def answer(self) -> None:
        server, path = self.server, urlsplit(self.path).path
        content = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        server.seen.append(path)
        if server.authorization and self.headers["Authorization"] != server.authorization:
            self.reply(401, b"You are not authenticated.")
        elif server.fails_at and any(server.fails_at in seen for seen in server.seen):
            self.fail(server.how)
        elif "/artifacts/" in path:
            server.files[path.rpartition("/")[2]] = content
            self.reply(200, b"{}")
        else:
            sent = json.loads(content or b"{}")
            info = {
                "run_id": server.run_id, "run_uuid": server.run_id, "experiment_id": "1",
                "status": "RUNNING", "lifecycle_stage": "active",
                "artifact_uri": f"mlflow-artifacts:/1/{server.run_id}/artifacts",
            }  # fmt: skip
            run = {"info": info, "data": {}}
            if path.endswith("runs/log-batch"):
                server.batches.append(sent)
            elif path.endswith("runs/update"):
                server.status.append(sent["status"])
            experiment = {"experiment_id": "1", "name": "rtl", "lifecycle_stage": "active"}
            answers = {
                "experiments/get-by-name": {"experiment": experiment},
                "runs/create": {"run": run}, "runs/get": {"run": run},
                "runs/update": {"run_info": info}, "runs/log-batch": {},
            }  # fmt: skip
            self.reply(200, json.dumps(answers[path.partition("/mlflow/")[2]]).encode())

    do_GET = do_POST = do_PUT = answer  # noqa: N815 -- the standard library's names

    def fail(self, how: str) -> None:
        if how == "silent":
            self.server.ended.wait(30)
            self.close_connection = True
        elif how == "busy":
            self.reply(503, b"", {"Retry-After": "3600"})
        elif how == "broken":
            self.reply(500, b"{}")
        else:
            self.close_connection = True

    def reply(self, code: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(code)
        for key, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(key, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Says nothing."""


@contextlib.contextmanager
def mlflow_server(**options: Any) -> Iterator[MlflowServer]:
    with MlflowServer(**options) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        yield server
        server.ended.set()
        server.shutdown()
