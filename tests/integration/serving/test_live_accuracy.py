"""Estimated accuracy and kept images over HTTP, and the pool that they make."""

from __future__ import annotations

import dataclasses
import io
import time
import warnings
from pathlib import Path
from typing import Any

import httpx
import jsonschema
import numpy as np
import pytest
import torch
from PIL import Image

from rtl import storage
from rtl.config.schema import ServeConfig
from rtl.evaluation import baseline
from rtl.evaluation.live_accuracy import CalibrationGap
from rtl.model import bundle
from rtl.model.bundle import Classifier
from tests.support.bundles import make_info, make_network

with warnings.catch_warnings():
    # Ray Serve's own config classes use a form of `Field` that pydantic 2 deprecates.
    warnings.filterwarnings("ignore", "Using extra keyword arguments on `Field`")
    from rtl.serving import deployment
    from rtl.serving.http import openapi

pytestmark = pytest.mark.slow

PHOTOS = 240
MOST = 5


def photo(seed: int) -> bytes:
    noise = np.random.default_rng(seed)
    shade = tuple(int(v) for v in noise.integers(0, 255, 3))
    buffer = io.BytesIO()
    Image.new("RGB", (80, 80), shade).save(buffer, "PNG")
    return buffer.getvalue()


def make_bundle(folder: str) -> Classifier:
    """An always uncertain model, with a baseline on the same photos: no drift by chance."""
    info, network = make_info(uncertain_below=1.0), make_network(sharpness=20)
    raw = Classifier(info, network, torch.device("cpu"))
    said = raw.output(torch.stack([raw.preprocess(photo(i)) for i in range(PHOTOS)]))
    known = dataclasses.replace(
        info,
        baseline=baseline.measure(said.probabilities, said.pooled),
        calibration_gap=CalibrationGap("test", 100, gap=-0.01, error=0.02),
    )
    bundle.save(folder, known, network)
    return Classifier.load(folder)


@pytest.mark.parametrize("replicas", [1, 2])
def test_accuracy_and_kept_images_over_http(
    ray_cluster: None, place: str, replicas: int, tmp_path: Path
) -> None:
    classifier = make_bundle(str(tmp_path / "bundle"))
    kept = f"{place}/kept"
    config = ServeConfig(
        port=0, replicas=replicas, error_price=2.0, keep_uncertain=kept, keep_uncertain_max=MOST
    )
    url = deployment.deploy(str(tmp_path / "bundle"), config)
    try:
        with httpx.Client(base_url=url, timeout=60) as client:
            before = traffic(client)
            assert before["accuracy"]["reason"] == "few_answers"
            assert before["kept"]["maximum"] == MOST
            photos = [photo(i) for i in range(PHOTOS)]
            for start in range(0, PHOTOS, 24):
                files = [("f", (f"{i}.png", photos[i])) for i in range(start, start + 24)]
                assert client.post("/v1/predict", files=files).status_code == 200
            deadline = time.monotonic() + 60
            # Replicas report in turn.
            while (after := traffic(client))["accuracy"]["reason"] == "few_answers" or (
                after["kept"]["images"] != MOST
            ):
                assert time.monotonic() < deadline, after
                time.sleep(0.1)
            assert 'rtl_estimated_accuracy{end="low"}' in client.get("/metrics").text
    finally:
        deployment.shutdown()
    pixels = torch.stack([classifier.preprocess(data) for data in photos])
    mean = float(classifier.predict(pixels).max(1).values.mean())
    found = after["accuracy"]
    assert found["reason"] is None
    assert found["estimate"]["value"] == pytest.approx(mean, abs=0.01)
    assert found["estimate"]["low"] < found["estimate"]["value"] < found["estimate"]["high"]
    assert found["cost_per_1000"]["value"] == pytest.approx(
        2000 * (1 - found["estimate"]["value"]), abs=0.01
    )
    stored = [storage.read_bytes(entry.uri) for entry in storage.list_files(kept)]
    assert len(stored) == MOST
    assert set(stored) <= set(photos)


def traffic(client: httpx.Client) -> Any:
    """The answer of `/v1/traffic`, which must be what the OpenAPI document says."""
    content = client.get("/v1/traffic").json()
    document = openapi.document(secured=False)
    rule = {"$ref": "#/components/schemas/Traffic", "components": document["components"]}
    jsonschema.validate(content, rule)
    return content
