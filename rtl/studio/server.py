"""Runs the studio until Ctrl-C."""

from __future__ import annotations

import contextlib
import secrets
import socket
import threading
from collections.abc import Iterator

import uvicorn

from rtl.errors import ConfigError, reason
from rtl.ports import free_port
from rtl.studio import app
from rtl.studio.workspace import Workspace

HOST = "127.0.0.1"


@contextlib.contextmanager
def running(workspace: Workspace, *, port: int = 0, token: str = "") -> Iterator[str]:
    """Serves the studio on loopback while the block runs; gives the link with the token.

    `port` 0 takes a free one; a new token is drawn where none is given. Raises ConfigError for a
    port that cannot be had.
    """
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        sock.bind((HOST, port or free_port()))
    except OSError as error:
        sock.close()
        raise ConfigError(
            f"Port {port} cannot be had ({reason(error)}); give another one, or 0 for a free one."
        ) from None
    address = f"{HOST}:{sock.getsockname()[1]}"
    secret = token or secrets.token_urlsafe(24)
    config = uvicorn.Config(
        app.create(workspace, host=address, token=secret), log_level="warning", access_log=False,
        ws="none", timeout_graceful_shutdown=2,
    )  # fmt: skip
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [sock]}, name="studio-server")
    thread.start()
    try:
        yield f"http://{address}/?token={secret}"
    finally:
        workspace.events.close()  # open streams would hold the server
        server.should_exit = True
        thread.join()
        sock.close()
