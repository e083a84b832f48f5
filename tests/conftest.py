"""Real parts for the tests: an S3 server, a Ray cluster, and separable images."""

from __future__ import annotations

import contextlib
import ctypes
import io
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

# Ray reads these when it is imported; a test never talks to a cluster that it did not start.
os.environ["RAY_AUTH_MODE"] = "disabled"
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
os.environ.pop("RAY_ADDRESS", None)
os.environ["RAY_SERVE_HAPROXY_TIMEOUT_CLIENT_S"] = "7"
os.environ["RAY_SERVE_CONTROL_LOOP_INTERVAL_S"] = "0.1"  # many endpoints that live for seconds

import numpy as np
import psutil
import pytest
from PIL import Image

from rtl import storage
from rtl.data import shards
from rtl.data.shards import Manifest
from rtl.storage import local_s3

if TYPE_CHECKING:
    from rtl.config.tree import Config
    from rtl.runs.run import Result


@pytest.hookimpl(tryfirst=True)  # before `-m` chooses
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks the tests of the session's Ray cluster."""
    for item in items:
        if "ray_cluster" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.ray)


LARGE_PROCESS = 2_000_000_000
"""Bytes above which the memory that is free within the process goes back to the system."""

COLOURS = {"blue": (40, 60, 200), "green": (50, 180, 60), "red": (200, 50, 40)}


def make_image(label: str, seed: int, size: tuple[int, int] = (96, 80), fmt: str = "JPEG") -> bytes:
    """A noisy photo of one colour: classes that a network can learn to tell apart."""
    rng = np.random.default_rng([seed, *label.encode()])
    noise = rng.normal(0, 40, (size[1], size[0], 3))
    pixels = (np.array(COLOURS[label]) + noise).clip(0, 255).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, fmt)
    return buffer.getvalue()


def make_folder(root: Path, per_class: int, labels: tuple[str, ...] = tuple(COLOURS)) -> Path:
    """A folder a class of `per_class` distinct images each."""
    for label in labels:
        (root / label).mkdir(parents=True)
        for i in range(per_class):
            (root / label / f"{i:04}.jpg").write_bytes(make_image(label, i))
    return root


def make_dataset(
    uri: str, train: int = 24, val: int = 12, test: int = 12, *, shard_rows: int = 10,
    wrong_every: int = 1000,
) -> Manifest:  # fmt: skip
    """A packed data set of generated photos, its classes in turn, its splits distinct.

    One row in `wrong_every` has the label of the next class.
    """
    classes = tuple(COLOURS)

    def label_of(number: int) -> int:
        return (number + (number % wrong_every == wrong_every - 1)) % len(classes)

    found, counts, start = [], {}, 0
    for split, rows in (("train", train), ("val", val), ("test", test)):
        numbers = range(start, start + rows)
        start += rows
        counts[split] = tuple(
            sum(label_of(n) == label for n in numbers) for label in range(len(classes))
        )
        for part in range(0, rows, shard_rows):
            chosen = numbers[part : part + shard_rows]
            labels = [label_of(n) for n in chosen]
            pixels = [make_image(classes[n % len(classes)], n) for n in chosen]
            encoded = shards.encode_shard([f"{n:05}" for n in chosen], pixels, labels)
            path = f"{split}/{part // shard_rows:05}.parquet"
            storage.write_bytes(storage.join(uri, path), encoded)
            found.append(shards.Shard(path, split, len(chosen), **storage.describe(encoded)))
    manifest = Manifest(classes, counts, tuple(found))
    manifest.save(uri)
    return shards.load_manifest(uri)


@pytest.fixture(scope="module", autouse=True)
def give_back_memory() -> Iterator[None]:
    """Networks come and go, and malloc keeps their memory, of which tests beside them want much."""
    yield
    if psutil.Process().memory_info().rss > LARGE_PROCESS:
        ctypes.CDLL(None).malloc_trim(0)


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Two threads on a core that others use too wait for each other."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A real S3 server on loopback; its endpoint and keys are in the environment."""
    with local_s3.serve(tmp_path_factory.mktemp("s3")) as uri:
        yield uri


@pytest.fixture
def s3(s3_server: str) -> str:
    """An empty prefix of its own in a real bucket."""
    return f"{s3_server}/{secrets.token_hex(6)}"


@pytest.fixture(params=["local", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A folder and an S3 prefix in turn: storage must not tell them apart."""
    if request.param == "local":
        return str(tmp_path / "place")
    return str(request.getfixturevalue("s3"))


@pytest.fixture(scope="session")
def ray_cluster(s3_server: str) -> Iterator[None]:
    """The session's one Ray cluster, with 4 logical CPUs; it knows the S3 server's keys."""
    import ray

    from rtl.runtime import session

    session.connect(num_cpus=4)
    yield
    ray.shutdown()


class Searched(NamedTuple):
    """A search that has ended."""

    settings: Config
    result: Result
    uri: str
    """Of the run."""


@pytest.fixture(scope="session")
def searched(ray_cluster: None, tmp_path_factory: pytest.TempPathFactory) -> Searched:
    """A search of two points with a second seed for the better one; leave it as it is."""
    from rtl.config import loading
    from rtl.runs import run
    from rtl.tuning import search

    place = tmp_path_factory.mktemp("searched")
    make_dataset(f"{place}/data", train=24, test=60)
    settings = loading.load().replace(
        name="colours",
        storage=f"{place}/root",
        data={"uri": f"{place}/data", "image_size": 75},
        train={"epochs": 2, "batch_size": 8},
        search={
            "unfrozen_layers": [0, 1], "lr": [1e-2], "sampler": "grid", "scheduler": "none",
            "cpu_hour_price": 1.0, "currency": "EUR", "finalists": 1, "seeds": 2,
        },
    )  # fmt: skip
    return Searched(settings, search.search(settings), run.locate(settings))


@contextlib.contextmanager
def chromium() -> Iterator[Any]:
    """A headless Chromium, the system's or Playwright's own; the test is skipped without one.

    Until it is closed Playwright keeps an event loop running in this thread, and Ray Serve's calls
    refuse to wait inside one.
    """
    from playwright.sync_api import Error, sync_playwright

    found = shutil.which("chromium") or shutil.which("chromium-browser")
    flags = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"]
    flags += ["--disable-background-networking", "--disable-component-update"]
    with sync_playwright() as playwright:
        try:
            started = playwright.chromium.launch(executable_path=found, args=flags)
        except Error as error:
            pytest.skip(f"No Chromium: install Debian's, or `playwright install chromium`. {error}")
        yield started
        started.close()


@pytest.fixture
def browser() -> Iterator[Any]:
    """A browser for one test."""
    with chromium() as started:
        yield started
