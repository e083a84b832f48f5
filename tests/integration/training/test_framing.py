from __future__ import annotations

from pathlib import Path

import pytest
import torch

from rtl import storage
from rtl.config import loading
from rtl.evaluation.predictions import decode
from rtl.feature_extraction import cache, framing
from rtl.model import bundle
from rtl.runs import run
from rtl.runs.progress import RunCallbacks
from rtl.training import train
from tests.conftest import make_dataset, make_image


@pytest.mark.slow
def test_a_fit_takes_the_framing_decided_first_in_every_stage(
    tmp_path: Path, ray_cluster: None
) -> None:
    manifest = make_dataset(f"{tmp_path}/data")
    settings = loading.load().replace(
        name="fit",
        storage=f"{tmp_path}/root",
        data={"uri": f"{tmp_path}/data", "image_size": 80},
        features={"cache": "on"},
        model={"unfrozen_layers": 0},
        train={"epochs": 1, "batch_size": 8, "cpus_per_worker": 1},
    )
    assert framing.resolve(settings, manifest).data.framing == "pad"
    (name,) = storage.list_names(f"{tmp_path}/root/framing")
    decision = f"{tmp_path}/root/framing/{name}"
    # As if the attempt that is resumed had come to another answer.
    storage.write_json(decision, {**storage.read_json(decision), "framing": "stretch"})
    lines: list[str] = []
    result = train.train(settings, callbacks=RunCallbacks(print_line=lines.append))
    assert [line[:18] for line in lines] == ["Framing: stretch, "]
    assert run.read_record(run.locate(settings)).config["data"]["framing"] == "auto"
    (key,) = storage.list_names(f"{tmp_path}/root/features")
    record = storage.read_json(f"{tmp_path}/root/features/{key}/{cache.RECORD}")
    assert record["data"]["framing"] == "stretch"
    model = bundle.Classifier.load(result.bundle)
    assert model.info.framing == model.info.config["data"]["framing"] == "stretch"
    kept = decode(storage.read_bytes(f"{run.locate(settings)}/predictions/test.parquet"))
    images = [make_image(manifest.classes[int(n) % 3], int(n)) for n in kept.ids]
    answers = model.predict(torch.stack([model.preprocess(data) for data in images]))
    torch.testing.assert_close(answers, torch.from_numpy(kept.probabilities), atol=0.02, rtol=0)
