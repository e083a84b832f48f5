"""The Python API from a folder of photos to an endpoint, as `docs/examples/first_model.py` has it.

The example runs inside an event loop, where a notebook's cells run too.
"""

from __future__ import annotations

import asyncio
import importlib.util
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

import rtl
from tests.conftest import make_folder, make_image

# A search, an evaluation and an endpoint: more than a minute of two cores.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

ROOT = Path(__file__).parents[3]
SETTINGS = {
    "data.image_size": 75, "train.epochs": 2, "train.batch_size": 8, "search.sampler": "grid",
    "search.lr": [0.01], "search.unfrozen_layers": [1, 0], "search.scheduler": "none",
    "pack.val_fraction": 0.25, "pack.test_fraction": 0.3,
}  # fmt: skip


def example() -> Any:
    """The example as a module."""
    path = ROOT / "docs" / "examples" / "first_model.py"
    spec = importlib.util.spec_from_file_location("first_model", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_folder(tmp_path_factory.mktemp("photos") / "photos", 24)


@pytest.fixture(scope="module")
def storage(ray_cluster: None, photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A storage root after the example ran."""
    root = tmp_path_factory.mktemp("api")

    async def cell() -> None:
        example().main(photos, root, port=0, **SETTINGS)

    asyncio.run(cell())
    return root


def test_the_example_leaves_a_model_a_report_and_a_heatmap(storage: Path) -> None:
    registry = rtl.Registry(storage)
    assert registry.uri == f"{storage}/registry"
    assert (registry.names(), registry.versions("first")) == (["first"], [1, 2])
    assert registry.current("first") == 2
    assert "<html" in (storage / "first.html").read_text()
    with Image.open(storage / "heatmap.png") as heatmap:
        assert heatmap.size == (75, 75)


def test_a_model_answers_and_explains(storage: Path) -> None:
    model = rtl.load_model("first@2", storage=storage)
    assert model.uri == f"{storage}/registry/first/2"
    assert model.classes == ("blue", "green", "red")
    answer = model.predict(make_image("green", 99))
    assert answer.label == "green"
    assert next(iter(answer.probabilities)) == "green"
    assert sum(answer.probabilities.values()) == pytest.approx(1, abs=1e-4)
    assert answer.uncertain == (answer.probability < model.info.uncertain_below)
    sets = model.info.prediction_sets
    assert sets is not None
    assert sets.test is not None
    assert answer.coverage == sets.coverage == 0.95
    gap = model.info.calibration_gap
    assert gap is not None
    assert (gap.split, gap.rows) == ("test", sets.test.rows)
    assert answer.one_of[0] == "green"
    assert all(
        (name in answer.one_of) == (p >= sets.threshold or name == "green")
        for name, p in answer.probabilities.items()
    )
    shown = model.explain(make_image("green", 99), label="red")
    assert (shown.label, shown.heatmap.dtype) == ("red", np.float32)
    assert shown.probability == pytest.approx(answer.probabilities["red"], abs=0.01)
    assert 0 <= shown.heatmap.min() <= shown.heatmap.max() <= 1
    assert Image.open(io.BytesIO(shown.png)).format == "PNG"
    with pytest.raises(rtl.errors.ConfigError, match="label is 'violet'; the model's classes are"):
        model.explain(make_image("green", 99), label="violet")


def test_a_second_version_is_trained_compared_promoted_and_taken_back(
    storage: Path, photos: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    values = {**SETTINGS, "model.unfrozen_layers": 0}
    fit = rtl.train(storage / "data", name="second", storage=storage, overrides=values)
    assert fit.uri == f"{storage}/runs/second"
    assert (fit.model, fit.epochs, fit.trials) == ("second@1", 2, ())
    assert fit.test is not None
    scored = rtl.evaluate(fit.bundle, storage / "data")
    assert scored.scores.accuracy.value == pytest.approx(fit.test.accuracy.value, abs=0.1)
    cache = rtl.features(storage)
    assert cache.uri == f"{storage}/features"
    assert {entry.state for entry in cache.entries} == {"ready"}
    assert cache.bytes > 0
    answers = rtl.predict(fit.bundle, photos / "red", dest=storage / "answers")
    table = pq.read_table(answers.uri)
    assert (answers.rows, answers.errors, table.num_rows) == (24, 0, 24)
    exported = rtl.export(fit.bundle, storage / "exported", format="torch")
    assert Path(exported.uri).is_file()
    registry = rtl.Registry(str(storage))
    assert registry.canary("first", None) is None
    with pytest.raises(rtl.errors.BundleError, match="no version before"):
        registry.rollback("first")
    told = capfd.readouterr()
    assert (told.out, told.err) == ("", "")


def test_progress_is_shown_where_it_is_asked_for(
    storage: Path, tmp_path: Path, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rtl.pack(photos, tmp_path / "data", progress=True)
    assert "Images checked: 72 of 72" in capsys.readouterr().out


def test_the_endpoint_of_the_example_answered(
    storage: Path, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with rtl.serve("first", storage=storage, port=0, token="t" * 20) as endpoint:
        import httpx

        assert endpoint.uri == f"{storage}/registry/first/2"
        image = make_image("blue", 5)
        refused = httpx.post(f"{endpoint.url}/v1/predict", content=image, timeout=60)
        assert refused.status_code == 401
        bearer = {"Authorization": f"Bearer {'t' * 20}"}
        answered = httpx.post(
            f"{endpoint.url}/v1/predict", content=image, headers=bearer, timeout=60
        )
        first = json.loads(answered.content)["results"][0]["predictions"][0]
        assert first["label"] == rtl.load_model("first", storage=storage).predict(image).label
    with pytest.raises(httpx.ConnectError):
        httpx.get(endpoint.url)
