"""`ray up cluster/machines.yaml` by ssh: from three bare machines to a prediction, and down again.

Each machine is a network namespace with an sshd, and has its processes, its user, its /home, /tmp
and /dev/shm for itself. The file is taken as it is, but for the addresses, the key and the
packages, which are those of the tests: nothing is downloaded.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import sysconfig
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
import yaml

from rtl.ports import free_port
from rtl.storage import local_s3
from tests.conftest import COLOURS, make_dataset, make_image

ROOT = Path(__file__).parents[2]
BRIDGE, SUBNET = "rssh-br", "10.78.0"
HEAD, *WORKERS = ADDRESSES = [f"{SUBNET}.{10 + number}" for number in range(3)]
PUBLIC = "192.88.99.1"  # given to a machine, and never spoken to
SSHD = shutil.which("sshd", path=f"{os.environ['PATH']}:/usr/sbin")
RAY = str(Path(sys.executable).with_name("ray"))
RTL = (sys.executable, "-m", "rtl.cli")
KEYS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
TOKEN = secrets.token_hex(16)
RECIPE: dict[str, Any] = {
    "data": {"image_size": 80},
    # Two workers of the fit that need a machine each: one of them cannot be the head.
    "train": {"epochs": 1, "batch_size": 6, "workers": 2, "cpus_per_worker": os.cpu_count()},
    "search": {"unfrozen_layers": [1], "lr": [0.01], "sampler": "grid", "scheduler": "none"},
    "serve": {"host": "0.0.0.0", "port": free_port(), "replicas": 1},  # noqa: S104
}
PRIVATE = ("/home", "/root", "/run", "/tmp", "/var/tmp", "/dev/shm", str(ROOT))  # noqa: S108
MACHINE = r"""
set -eu
given=$1 new=$2 sshd=$3 private=$4 kept=$5
mkdir "$new"
hostname machine
mount --rbind / "$new"
mount -t proc proc "$new/proc"
for path in $private; do mount -t tmpfs -o mode=755 tmpfs "$new$path"; done
for path in $kept; do
    mkdir -p "$new$path"
    mount --bind "$path" "$new$path"
    mount -o remount,bind,ro "$new$path"
done
mount --bind "$given/passwd" "$new/etc/passwd"
mount --bind "$given/hosts" "$new/etc/hosts"
chmod 1777 "$new/tmp" "$new/dev/shm"
mkdir -p "$new/run/sshd"
cp "$given/host" "$new/run/sshd"
install -d -o 7700 -g 7700 "$new/home/ray" "$new/home/ray/.ssh"
install -o 7700 -g 7700 "$given/bashrc" "$new/home/ray/.bashrc"
install -o 7700 -g 7700 "$given/key.pub" "$new/home/ray/.ssh/authorized_keys"
exec chroot "$new" "$sshd" -D -e -f /dev/null -h /run/sshd/host \
    -o PasswordAuthentication=no -o KbdInteractiveAuthentication=no -o UsePAM=no
"""
"""A machine on the root file system of this one; `private` is its own, `kept` may only be read."""


def lacking() -> list[str]:
    """What the test needs and this machine does not have."""
    programs = ("ssh", "ssh-keygen", "rsync", "hostname", "ip", "unshare", "chroot")
    lacks = [name for name in programs if shutil.which(name) is None] + ["sshd"] * (SSHD is None)
    commands = ("ip netns list", "unshare --net --mount --uts --ipc --pid --fork true")
    if lacks or all(subprocess.run(c.split(), check=False).returncode == 0 for c in commands):
        return lacks
    return ["root"]


def ip(command: str, check: bool = True) -> str:
    done = subprocess.run(["ip", *command.split()], check=check, capture_output=True, text=True)
    return done.stdout


class Machines:
    """Three machines without Ray on a network of their own, and a client with its own home."""

    def __init__(self, home: Path) -> None:
        self.home, self.file = home, str(home / "machines.yaml")
        self.started: list[subprocess.Popen[bytes]] = []
        self.environment = {k: v for k, v in os.environ.items() if k not in KEYS}
        self.environment |= {"HOME": str(home), "TMPDIR": str(home), "RAY_AUTH_MODE": "token"}

    def start(self) -> None:
        for key in ("key", "host"):
            command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(self.home / key)]
            subprocess.run(command, check=True)
        user = "ray:*:7700:7700::/home/ray:/bin/bash\n"
        (self.home / "passwd").write_text(user + Path("/etc/passwd").read_text())
        (self.home / "hosts").write_text("127.0.0.1 localhost\n127.0.1.1 machine\n")  # as Debian's
        (self.home / "bashrc").write_text(f'export PATH="{sys.base_prefix}/bin:$PATH"\n')
        ip(f"link add {BRIDGE} type bridge")
        ip(f"addr add {SUBNET}.1/24 dev {BRIDGE}")
        ip(f"link set {BRIDGE} up")
        own = [p for p in PRIVATE if not any(p.startswith(f"{other}/") for other in PRIVATE)]
        for number, address in enumerate(ADDRESSES):
            name = f"rssh{number}"
            ip(f"netns add {name}")
            ip(f"link add {name} type veth peer name eth0 netns {name}")
            ip(f"link set {name} master {BRIDGE} up")
            ip(f"-n {name} addr add {address}/24 dev eth0")
            ip(f"-n {name} link set eth0 up")
            ip(f"-n {name} link set lo up")
            ip(f"-n {name} route add default via {SUBNET}.254")  # which nobody has
            self.popen(
                "ip", "netns", "exec", name,
                "unshare", "--mount", "--uts", "--ipc", "--pid", "--fork", "--kill-child",
                "sh", "-c", MACHINE, "sh", str(self.home), str(self.home / name), str(SSHD),
                " ".join(own), f"{sys.base_prefix} {sys.prefix}",
            )  # fmt: skip

    def write_config(self) -> None:
        """The project's file, with the packages of the tests in a venv of the machine's own."""
        config = yaml.safe_load((ROOT / "cluster" / "machines.yaml").read_text())
        config["provider"] |= {"head_ip": HEAD, "worker_ips": WORKERS}
        config["auth"]["ssh_private_key"] = str(self.home / "key")
        (install,) = [c for c in config["setup_commands"] if "pip install" in c]
        config["setup_commands"][config["setup_commands"].index(install)] = (
            f"cd ~/rtl/venv && echo {sysconfig.get_path('purelib')} > "
            f"$(echo lib/python3*/site-packages)/tests.pth && "
            f'sed "1s|.*|#!$HOME/rtl/venv/bin/python|" {RAY} > bin/ray && chmod +x bin/ray'
        )
        Path(self.file).write_text(yaml.safe_dump(config, sort_keys=False))

    def popen(self, *command: str) -> None:
        """Starts what runs until the end, with an input that stays open."""
        self.started.append(
            subprocess.Popen(
                command, env=self.environment, cwd=ROOT, stdin=subprocess.PIPE,
                start_new_session=True,
            )
        )  # fmt: skip

    def run(self, *command: str, code: int = 0, **environment: str) -> str:
        done = subprocess.run(
            command, env={**self.environment, **environment}, cwd=ROOT, check=False, text=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=250,
        )  # fmt: skip
        assert done.returncode == code, done.stdout
        return done.stdout

    def ssh(self, address: str, command: str) -> str:
        options = f"-q -i {self.home}/key -o StrictHostKeyChecking=no"
        known = "-o UserKnownHostsFile=/dev/null"
        return self.run("ssh", *options.split(), *known.split(), f"ray@{address}", command)

    def processes(self) -> set[str]:
        """What runs on the machines beside ssh."""
        pids = "".join(ip(f"netns pids rssh{number}") for number in range(len(ADDRESSES))).split()
        found = {p.info["name"] for p in psutil.process_iter(["name"]) if str(p.pid) in pids}
        return found - {"ssh", "sshd", "unshare"}

    def stop(self) -> None:
        """All that was started: with a machine's first process end its others."""
        for process in reversed(self.started):
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
        for number in range(len(ADDRESSES)):
            ip(f"link del rssh{number}", check=False)
            ip(f"netns del rssh{number}", check=False)
        ip(f"link del {BRIDGE}", check=False)


def wait_for(what: Callable[[], Any], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline
        time.sleep(1)


def status(url: str, **headers: str) -> int:
    """Of an answer; 0 where nobody answers."""
    try:
        return httpx.get(url, headers=headers).status_code
    except httpx.TransportError:
        return 0


@pytest.fixture
def s3_and_machines(tmp_path: Path) -> Iterator[tuple[str, Machines]]:
    if lacks := lacking():
        pytest.skip(f"The machines are network namespaces with an sshd; here is no {lacks}.")
    with contextlib.ExitStack() as stack:
        (tmp_path / "home").mkdir()
        machines = Machines(tmp_path / "home")
        stack.callback(machines.stop)
        machines.start()
        s3 = stack.enter_context(local_s3.serve(tmp_path / "s3", host=f"{SUBNET}.1"))
        machines.environment |= {k: os.environ[k] for k in ("AWS_ENDPOINT_URL", "AWS_REGION")}
        yield s3, machines


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_three_machines_are_set_up_by_ssh_search_serve_and_are_left_as_they_were(
    s3_and_machines: tuple[str, Machines], tmp_path: Path
) -> None:
    s3, machines = s3_and_machines
    make_dataset(f"{s3}/data")
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(json.dumps({**RECIPE, "storage": f"{s3}/root"}))

    machines.run(RAY, "get-auth-token", "--generate")
    (machines.home / ".rtl").mkdir()
    kept = {"RTL_TOKEN": TOKEN, **{key: os.environ[key] for key in KEYS}}
    lines = [f"export {key}={value}\n" for key, value in kept.items()]
    (machines.home / ".rtl" / "secrets.sh").write_text("".join(lines))
    machines.write_config()

    # A public address stops it.
    ip(f"-n rssh0 addr add {PUBLIC}/32 dev eth0")
    assert f"Public address ['{PUBLIC}']" in machines.run(RAY, "up", "-y", machines.file, code=1)
    assert machines.processes() == set()
    ip(f"-n rssh0 addr del {PUBLIC}/32 dev eth0")

    machines.run(RAY, "up", "-y", machines.file)
    port = free_port()
    address = f"http://127.0.0.1:{port}"
    machines.popen(RAY, "dashboard", "-p", str(port), machines.file)
    wait_for(lambda: status(f"{address}/api/jobs/"), 20)

    # Closed: to who has no token, and the dashboard to all who are not on the head.
    assert status(f"{address}/api/jobs/") == 401
    assert status(f"{address}/api/jobs/", Authorization="Bearer wrong") == 403
    assert status(f"http://{HEAD}:8265/api/jobs/") == 0
    jobs = (*RTL, "jobs", "--address", address)
    assert "asks for its token" in machines.run(*jobs, code=1, RAY_AUTH_MODE="disabled")

    # The head brings the workers up.
    wait_for(lambda: machines.ssh(HEAD, ". ~/.bashrc; ray status").count("\n 3 local.c"), 60)
    submit = (*RTL, "submit")
    options = ("--address", address, "--recipe", str(recipe))
    output = machines.run(*submit, "search", *options, "--name", "colours", "--data", f"{s3}/data")
    assert "registered as colours@2" in output
    worked = [machines.ssh(a, "ls /tmp/ray/session_latest/logs/train || true") for a in WORKERS]
    assert "ray-train-app-worker-" in "".join(worked)

    machines.run(*submit, "deploy", *options, "colours@1")
    port = RECIPE["serve"]["port"]
    machines.popen(RAY, "attach", machines.file, "-p", str(port))
    url = f"http://127.0.0.1:{port}/v1"
    wait_for(lambda: status(f"{url}/model"), 20)
    assert status(f"{url}/model") == 401
    reply = httpx.post(f"{url}/predict", content=make_image("red", 1000), timeout=60,
                       headers={"Authorization": f"Bearer {TOKEN}"})  # fmt: skip
    assert reply.status_code == 200
    said = {p["label"]: p["probability"] for p in reply.json()["results"][0]["predictions"]}
    assert said.keys() == COLOURS.keys()
    assert sum(said.values()) == pytest.approx(1, abs=1e-3)

    machines.run(RAY, "down", "-y", machines.file)
    for worker in WORKERS:
        machines.ssh(worker, ". rtl/environment.sh; ray stop")
    wait_for(lambda: machines.processes() <= {"bash", "sleep"}, 20)  # those of the tunnels
