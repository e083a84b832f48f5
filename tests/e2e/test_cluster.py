"""A cluster of several nodes that share nothing but S3, from `rtl submit` to a prediction.

Where root and `unshare` allow, each node has a network, a /tmp and a home of its own; else all are
on loopback, and what needs separate nodes is left out: an endpoint, whose replicas HAProxy would
have to reach there, and a drain.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from rtl import storage
from rtl.model.bundle import Classifier
from rtl.runs import run
from rtl.storage import local_s3
from tests.conftest import make_folder, make_image

ROOT = Path(__file__).parents[2]
LOCAL = ROOT / "cluster" / "local"
SEPARATE = subprocess.run(["unshare", "--net", "--mount", "true"], check=False).returncode == 0
TOKEN = secrets.token_hex(16)
RECIPE: dict[str, Any] = {
    "data": {"image_size": 80},
    "train": {"epochs": 1, "batch_size": 6, "workers": 2, "cpus_per_worker": 1},
    "search": {
        "concurrent": 2, "lr": [0.01], "sampler": "grid", "scheduler": "none",
    },
    "serve": {"host": "0.0.0.0", "port": 0},  # noqa: S104 -- of a network of the cluster's own
}  # fmt: skip


class Nodes:
    """A cluster on this machine, driven by `cluster/local` and `rtl submit`."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.environment = {**os.environ, "RTL_TOKEN": TOKEN}
        self.started: list[subprocess.Popen[str]] = []

    def local(self, *arguments: str) -> str:
        command = [sys.executable, str(LOCAL), "--directory", str(self.directory), *arguments]
        done = subprocess.run(
            command, env=self.environment, capture_output=True, text=True, timeout=200, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def start(self, nodes: int, cpus: int) -> None:
        separate = ["--separate"] if SEPARATE else []
        given = self.local("start", *separate, f"--nodes={nodes}", f"--cpus={cpus}")
        pairs = (line.removeprefix("export ").split("=", 1) for line in given.splitlines())
        self.environment |= dict(pairs)

    @property
    def address(self) -> str:
        return self.environment["RAY_API_SERVER_ADDRESS"]

    def popen(self, *arguments: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-m", "rtl.cli", *arguments], env=self.environment, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        self.started.append(process)
        return process

    def rtl(self, *arguments: str) -> str:
        return finish(self.popen(*arguments))

    def ray_job(self, *command: str) -> str:
        """`ray job submit` from the project's folder."""
        done = subprocess.run(
            [
                str(Path(sys.executable).parent / "ray"), "job", "submit", "--address",
                self.address, "--working-dir", ".", "--", "python", *command,
            ],
            env=self.environment, cwd=ROOT, capture_output=True, text=True, timeout=200,
            check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def stop(self) -> None:
        """The nodes, and what a failed test left waiting for them."""
        for process in self.started:
            process.kill()
            process.communicate()
        self.local("stop")

    def logs(self) -> Iterator[Path]:
        for path in self.directory.rglob("*"):
            if path.is_file() and not path.is_symlink() and path.name != "token":
                yield path


def finish(process: subprocess.Popen[str]) -> str:
    output, _ = process.communicate(timeout=280)
    assert process.returncode == 0, output
    return output


@pytest.fixture
def short_path() -> Iterator[Path]:
    """A folder whose name leaves room for Ray's sockets."""
    with tempfile.TemporaryDirectory(prefix="rtl", dir="/tmp", ignore_cleanup_errors=True) as name:
        yield Path(name)


@pytest.fixture
def s3_and_nodes(
    short_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[str, Nodes]]:
    nodes = Nodes(short_path / "cluster")
    with contextlib.ExitStack() as stack:
        stack.callback(nodes.stop)
        host = nodes.local("network").strip() if SEPARATE else "127.0.0.1"
        s3 = stack.enter_context(local_s3.serve(tmp_path_factory.mktemp("s3"), host=host))
        nodes.environment = {**os.environ, "RTL_TOKEN": TOKEN}
        yield s3, nodes


def write_recipe(path: Path, s3: str) -> str:
    path.write_text(json.dumps({**RECIPE, "storage": f"{s3}/root"}))
    return str(path)


def ask(url: str, image: bytes) -> httpx.Response:
    headers = {"Authorization": f"Bearer {TOKEN}"}
    return httpx.post(f"{url}/v1/predict", content=image, headers=headers, timeout=60)


def test_nodes_of_one_machine_need_no_network_of_their_own(
    short_path: Path, tmp_path: Path
) -> None:
    with pytest.raises(AssertionError, match="too long by"):
        Nodes(tmp_path / ("long" * 9)).local("start")
    nodes = Nodes(short_path / "cluster")
    try:
        assert "http://127.0.0.10:" in nodes.local("start", "--nodes=1")
        status = nodes.local("status").splitlines()
    finally:
        nodes.stop()
    assert sorted(status) == ["127.0.0.10 ALIVE 0 CPUs", "127.0.0.11 ALIVE 1.0 CPUs"]


@pytest.mark.slow  # a third of the CPU time of all default tests; terminals work on a cluster too
@pytest.mark.timeout(900)
def test_from_photos_to_predictions_with_nothing_shared_but_s3(
    s3_and_nodes: tuple[str, Nodes], tmp_path: Path
) -> None:
    s3, nodes = s3_and_nodes
    folder = make_folder(tmp_path / "photos", 12)
    for photo in folder.rglob("*.jpg"):
        storage.write_bytes(f"{s3}/photos/{photo.parent.name}/{photo.name}", photo.read_bytes())
    recipe = write_recipe(tmp_path / "recipe.yaml", s3)
    nodes.start(nodes=1, cpus=3)

    # Closed to strangers.
    assert httpx.get(f"{nodes.address}/api/jobs/").status_code == 401
    wrong = {"Authorization": "Bearer wrong"}
    assert httpx.get(f"{nodes.address}/api/jobs/", headers=wrong).status_code == 403

    output = nodes.ray_job("jobs/pack.py", f"{s3}/photos", f"{s3}/data",
                           "--set", "pack.val_fraction=0.25")  # fmt: skip
    assert "3 classes" in output

    # Two workers and Ray Data take the first node, so that the second trial waits for another.
    search = nodes.popen("submit", "search", "--recipe", recipe, "--name", "colours", "--data",
                         f"{s3}/data", "--set", "search.unfrozen_layers=[1, 0]")  # fmt: skip
    nodes.local("add", "--cpus=2")
    output = finish(search)
    assert "registered as colours@2" in output
    result = run.result(f"{s3}/root/runs/colours")
    assert result is not None
    if SEPARATE:  # the node that came in mid-search has fitted
        assert list(nodes.directory.glob("node-2/ray/*/logs/train/ray-train-app-worker-*.log"))
    nodes.rtl("promote", "colours", "1", "--storage", f"{s3}/root")

    image = make_image("red", 1000)
    if SEPARATE:
        url = deployed(nodes, recipe, replicas=2)
        reply = ask(url, image)
        assert reply.status_code == 200
        said = {p["label"]: p["probability"] for p in reply.json()["results"][0]["predictions"]}
        classifier = Classifier.load(result.bundle)
        (expected,) = classifier.predict(classifier.preprocess(image)[None]).tolist()
        assert said == pytest.approx(
            dict(zip(classifier.info.classes, expected, strict=True)), abs=0.02
        )
        assert httpx.post(f"{url}/v1/predict", content=image, timeout=60).status_code == 401

    stop_and_take_up_again(nodes, recipe, f"{s3}/data")
    assert "colours" in nodes.rtl("runs", "--storage", f"{s3}/root")
    assert "Removed" in nodes.rtl("submit", "features", "--recipe", recipe, "--prune", "--all")
    output = nodes.rtl("submit", "train", "--recipe", recipe, "--name", "fit",
                       "--data", f"{s3}/data")  # fmt: skip
    assert "registered as fit@1" in output
    output = nodes.rtl("submit", "predict", "--recipe", recipe, "colours", f"{s3}/photos",
                       f"{s3}/answers")  # fmt: skip
    assert "36 images, " in output
    if SEPARATE:
        assert statuses_during(lambda: nodes.local("drain", "1", "--notice=20"), url, image) == {
            200
        }
        assert not re.search(r"\.11 ALIVE", nodes.local("status"))

    # No key and no token in what anybody can read: logs, job records, all that lies in storage.
    canaries = {
        "S3 key": os.environ["AWS_SECRET_ACCESS_KEY"],
        "endpoint's token": TOKEN,
        "cluster's token": (nodes.directory / "token").read_text(),
    }
    headers = {"Authorization": "Bearer " + canaries["cluster's token"]}
    kept = {"job records": httpx.get(f"{nodes.address}/api/jobs/", headers=headers).content}
    assert b"rtl.cli search" in kept["job records"]
    kept |= {str(path): path.read_bytes() for path in nodes.logs()}
    kept |= {e.uri: storage.read_bytes(e.uri) for e in storage.list_files(f"{s3}/root")}
    assert len(kept) > 20
    found = [
        (what, place)
        for place, content in kept.items()
        for what, secret in canaries.items()
        if secret.encode() in content
    ]
    assert not found


def deployed(nodes: Nodes, recipe: str, replicas: int) -> str:
    """The URL of an endpoint for `colours`."""
    output = nodes.rtl("submit", "deploy", "colours", "--recipe", recipe,
                       "--set", f"serve.replicas={replicas}")  # fmt: skip
    at = re.search(r" at http://[\d.]+:(\d+) ", output)
    assert at, output
    return f"http://{httpx.URL(nodes.address).host}:{at[1]}"


def stop_and_take_up_again(nodes: Nodes, recipe: str, data: str) -> None:
    """A fit that is stopped by its submission id goes on after its last committed epoch."""
    fit = nodes.popen("submit", "train", "--id", "long-fit", "--recipe", recipe, "--name", "long",
                      "--data", data, "--set", "train.workers=1", "--set", "train.epochs=14",
                      "--set", "features.cache=off")  # fmt: skip
    assert fit.stdout is not None
    for line in fit.stdout:
        if line.startswith("Epoch 2:"):
            break
    nodes.rtl("jobs", "--stop", "long-fit")
    rest, _ = fit.communicate(timeout=120)
    assert fit.returncode == 1
    assert "rtl jobs --resume long-fit" in rest
    assert "Epoch 14:" not in rest
    assert re.search(r"long-fit\W+STOPPED", nodes.rtl("jobs"))
    output = nodes.rtl("jobs", "--resume", "long-fit")
    assert "Submitted as long-fit-again-1" in output
    epochs = [int(number) for number in re.findall(r"^Epoch (\d+):", output, re.MULTILINE)]
    assert epochs[0] > 1
    assert epochs == list(range(epochs[0], 15))
    assert "registered as long@1" in output


def statuses_during(act: Any, url: str, image: bytes) -> set[int]:
    """The statuses of requests that are sent one after the other while `act` runs."""
    counts: Counter[int] = Counter()
    stop = threading.Event()

    def send() -> None:
        while not stop.is_set():
            counts[ask(url, image).status_code] += 1

    thread = threading.Thread(target=send)
    thread.start()
    try:
        act()
        time.sleep(1)
    finally:
        stop.set()
        thread.join()
    assert counts.total() > 10
    return set(counts)
