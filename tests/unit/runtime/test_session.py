from __future__ import annotations

import errno
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import ray

from rtl.errors import ResourceError
from rtl.runtime import ingress, ray_folder, session


def test_a_head_that_is_gone_is_told_once(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as head:
        port = head.getsockname()[1]
        watch = threading.Thread(
            target=session.watch_head,
            args=("127.0.0.1", port),
            kwargs={"connected": lambda: True, "every_s": 0.05, "patience_s": 0.3},
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
            ingress.remove(str(ours))
            assert left.wait(10) == -signal.SIGTERM
            assert strange.poll() is None
            assert (ours.exists(), other.exists()) == (False, True)
        finally:
            left.kill()
            strange.kill()


def test_a_cluster_that_was_left_is_not_missed(capsys: pytest.CaptureFixture[str]) -> None:
    session.watch_head("127.0.0.1", 1, connected=lambda: False, every_s=0.01, patience_s=0.3)
    assert capsys.readouterr().err == ""


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder without what the environment names."""
    for name in ("RAY_TMPDIR", "TMPDIR", "XDG_RUNTIME_DIR"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def find(places: Path, system: str = "tmp") -> str:
    """Finds Ray's folder where `places` has 20 bytes less than the longest that Ray takes."""
    return ray_folder.find(system=str(places / system), longest=len(str(places)) + 20)


def test_rays_folder_is_the_one_that_the_environment_names(
    places: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert find(places) == str(places / "tmp" / "ray")
    monkeypatch.setenv("TMPDIR", str(places / ("t" * 19)))  # just short enough, and made
    assert find(places) == str(places / ("t" * 19) / "ray")
    monkeypatch.setenv("RAY_TMPDIR", str(places / "own"))
    assert find(places) == str(places / "own" / "ray")


def test_a_folder_that_ray_cannot_use_gives_way_to_another(
    places: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (places / "file").write_bytes(b"")
    for unusable in ("t" * 20, "file"):
        monkeypatch.setenv("TMPDIR", str(places / unusable))
        assert find(places) == str(places / "tmp" / "ray")
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(places / "run"))
    assert find(places, "file") == str(places / "run" / "ray")


def test_without_a_folder_for_ray_the_arithmetic_is_told(
    places: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (places / "file").write_bytes(b"")
    long = str(places / ("t" * 20))
    monkeypatch.setenv("TMPDIR", long)
    with pytest.raises(ResourceError) as caught:
        find(places, "file")
    said = str(caught.value)
    assert f"{long} has {len(long)} bytes; {places / 'file'} cannot be used (Not a dire" in said
    assert "have 68 bytes after the folder's, of 107 that the system takes: set RAY_TM" in said
    assert said.endswith(f"{len(long) - 1} bytes long at most.")


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (
            OSError(errno.ENOSPC, "No space left on device"),
            r"cannot start in .*/ray \(No space left on device\)\. ",
        ),
        (
            Exception("The current node timed out during startup. This could happen because"),
            r"did not start on this machine within 120 s: .* Give the same command again",
        ),
    ],
)
def test_why_ray_cannot_start_is_told(
    fault: Exception, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(**_: object) -> None:
        raise fault

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", fail)
    monkeypatch.setenv("RAY_SERVE_ENABLE_HA_PROXY", "0")
    with pytest.raises(ResourceError, match=said):
        session.connect()


def test_a_cluster_starts_with_a_long_tmpdir(tmp_path: Path) -> None:
    long = tmp_path / ("t" * 60)
    long.mkdir()
    code = (
        "from rtl.runtime import session; session.connect(num_cpus=1); import ray; "
        "print(ray.get(ray.remote(lambda: 3).remote()))"
    )
    environment = {**os.environ, "TMPDIR": str(long)}
    environment.pop("RAY_TMPDIR", None)
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout.split()[-1:]) == (0, ["3"]), done.stderr


def test_ray_outlives_the_thread_that_started_it() -> None:
    code = (
        "import os, threading, time; from rtl.runtime import session; import psutil; "
        "start = threading.Thread(target=session.connect, args=(1,)); start.start(); start.join(); "
        "time.sleep(1); "
        "print([p.status() for p in psutil.Process().children() if p.name() == 'raylet'])"
    )
    environment = {**os.environ, "RAY_AUTH_MODE": "disabled"}
    printed = subprocess.check_output([sys.executable, "-c", code], env=environment, text=True)
    assert printed.split("\n")[-2] in ("['sleeping']", "['running']")
