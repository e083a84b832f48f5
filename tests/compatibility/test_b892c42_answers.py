"""Probabilities of the old bundle where users meet them: over HTTP and in `rtl predict`."""

from __future__ import annotations

import json
from pathlib import Path

import httpx
import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
import torch

from rtl.batch_inference import predict
from rtl.data import shards
from rtl.model import device as devices
from tests.compatibility.b892c42.recorded import BEFORE, RECORDED
from tests.support.ray_endpoint import CONFIG, deployment, predictions

PRECISION = devices.resolve_precision("auto", torch.device("cpu"))
EXPECTED = np.array(RECORDED["probabilities"]["bf16" if torch.bfloat16 == PRECISION else "fp32"])
"""Probabilities of the rows of `val`, which were one batch then."""

NEAR = 5e-3 if torch.bfloat16 == PRECISION else 1e-4
"""Other batches add up in another order, which bf16 rounds to 3e-3."""


def val_rows() -> pa.Table:
    (shard,) = shards.load_manifest(str(BEFORE / "data")).split("val")
    return pq.read_table(BEFORE / "data" / shard.path)


def test_over_http(ray_cluster: None, old_bundle: str) -> None:
    url = deployment.deploy(old_bundle, CONFIG)
    try:
        replies = [
            httpx.post(f"{url}/v1/predict?top_k=3", content=image, timeout=60)
            for image in val_rows()["image"].to_pylist()
        ]
    finally:
        deployment.shutdown()
    assert [reply.status_code for reply in replies] == [200] * len(EXPECTED)
    classes = json.loads((BEFORE / "bundle.json").read_text(encoding="utf-8"))["classes"]
    for reply, expected in zip(replies, EXPECTED, strict=True):
        found = {p["label"]: p["probability"] for p in predictions(reply)}
        assert found == pytest.approx(dict(zip(classes, expected, strict=True)), abs=NEAR)


def test_in_predict(ray_cluster: None, old_bundle: str, tmp_path: Path) -> None:
    predict.predict(old_bundle, str(BEFORE / "data"), str(tmp_path / "out"))
    files = sorted((tmp_path / "out").rglob("*.parquet"))
    table = ds.dataset(files, format="parquet").to_table().to_pylist()
    by_id = {row["id"]: row["probabilities"] for row in table}
    found = np.array([by_id[row] for row in val_rows()["id"].to_pylist()])
    np.testing.assert_allclose(found, EXPECTED, rtol=0, atol=NEAR)
