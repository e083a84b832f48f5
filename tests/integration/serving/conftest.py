"""Bundles, and an endpoint on Ray that serves the first of them."""

from __future__ import annotations

import secrets
from collections.abc import Iterator

import httpx
import pytest

from rtl.model import registry
from rtl.model.bundle import Classifier
from tests.support import endpoint
from tests.support.ray_endpoint import CONFIG, ESTIMATE, deployment

METRICS = {"val": {"accuracy": ESTIMATE}, "test": None}


@pytest.fixture(scope="module")
def root(s3_server: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A storage root with the bundles `first` and `second`, registered as versions of one name."""
    root = f"{s3_server}/{secrets.token_hex(6)}"
    for seed, name in enumerate(("first", "second")):
        made = str(tmp_path_factory.mktemp("made") / name)
        endpoint.make_bundle(made, seed, name=name, metrics=METRICS)
        registry.register(root, "colours", made)
    return root


@pytest.fixture(scope="module")
def first(root: str) -> str:
    return registry.resolve(root, "colours@1")


@pytest.fixture(scope="module")
def second(root: str) -> str:
    return registry.resolve(root, "colours@2")


@pytest.fixture(scope="module")
def classifier(first: str) -> Classifier:
    return Classifier.load(first)


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The folder of a bundle."""
    return endpoint.make_bundle(str(tmp_path_factory.mktemp("serve") / "bundle"))


@pytest.fixture(scope="module")
def url(ray_cluster: None, first: str) -> Iterator[str]:
    """The endpoint, serving `first`."""
    yield deployment.deploy(first, CONFIG)
    deployment.shutdown()


@pytest.fixture(scope="module")
def client(url: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=url, timeout=60) as client:
        yield client
