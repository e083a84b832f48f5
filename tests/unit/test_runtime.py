from __future__ import annotations

import socket
import threading
import time

import pytest

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


def test_a_cluster_that_was_left_is_not_missed(capsys: pytest.CaptureFixture[str]) -> None:
    runtime._watch("127.0.0.1", 1, lambda: False, 0.01, 0.3)
    assert capsys.readouterr().err == ""
