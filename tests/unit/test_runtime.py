from __future__ import annotations

import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import ray

from rtl import runtime


def test_a_head_that_is_gone_is_told_once(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as head:
        port = head.getsockname()[1]
        watch = threading.Thread(
            target=runtime._watch, args=("127.0.0.1", port, lambda: True, 0.05, 0.3)
        )
        watch.start()
        time.sleep(0.6)
        assert watch.is_alive()
        assert capsys.readouterr().err == ""
    watch.join(30)
    assert not watch.is_alive()
    said = capsys.readouterr().err
    assert f"127.0.0.1:{port} has not answered for 0.3 s" in said
    assert "--resume" in said


def test_a_haproxy_that_its_actor_left_behind_is_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray, "shutdown", lambda: None)  # the session's cluster stays
    ours, other = tmp_path / "ours", tmp_path / "ours-not"
    idle = [sys.executable, "-c", "import time; time.sleep(60)", "-f"]
    for folder in (ours, other):
        folder.mkdir()
    with (
        subprocess.Popen([*idle, str(ours / "a" / "haproxy.cfg")]) as left,
        subprocess.Popen([*idle, str(other / "haproxy.cfg")]) as strange,
    ):
        try:
            runtime._leave(str(ours))
            assert left.wait(10) == -signal.SIGTERM
            assert strange.poll() is None
            assert (ours.exists(), other.exists()) == (False, True)
        finally:
            left.kill()
            strange.kill()


def test_a_cluster_that_was_left_is_not_missed(capsys: pytest.CaptureFixture[str]) -> None:
    runtime._watch("127.0.0.1", 1, lambda: False, 0.01, 0.3)
    assert capsys.readouterr().err == ""
