from __future__ import annotations

import dataclasses
import importlib.util
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from torch import nn

from rtl import storage
from rtl.config.tree import Config
from rtl.errors import BundleError, ConfigError, DataError
from rtl.evaluation import metrics
from rtl.evaluation.conformal import PredictionSets, SetCoverage
from rtl.evaluation.metrics import Estimate
from rtl.exporting import export
from rtl.exporting.card import card
from rtl.model import bundle
from rtl.model.bundle import BundleInfo, Classifier
from rtl.serving.http import openapi
from tests.conftest import COLOURS, make_folder, make_image
from tests.support.bundles import make_info, make_network

SAMPLES = [make_image(label, seed) for seed, label in enumerate(COLOURS)]


def scores(seed: int) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    labels = np.arange(30) % 3
    given = np.full((30, 3), 0.1) + 0.7 * np.eye(3)[np.where(rng.random(30) < 0.8, labels, 0)]
    return metrics.evaluate(given, labels, tuple(COLOURS)).to_dict()


PLAIN = make_info(
    mean=(0.485, 0.456, 0.406),
    std=(0.229, 0.224, 0.225),
    metrics={"val": scores(0), "test": scores(1)},
    config=Config().to_dict(),
)
SETS = PredictionSets(
    threshold=0.1234, coverage=0.95, confidence=0.9, guarantee="confident", rows=120,
    expected=Estimate(0.975, 0.941, 0.995),
    test=SetCoverage(80, Estimate(0.9625, 0.895, 0.987), mean_size=1.25, single=0.8),
)  # fmt: skip
TURNED = dataclasses.replace(
    PLAIN,
    test_flips="both",
    temperature=1.7,
    uncertain_below=0.625,
    prediction_sets=SETS,
    framing="pad",
)


@pytest.fixture(scope="module")
def network() -> nn.Sequential:
    return make_network(sharpness=20, taps=0.02)


def classifier(info: BundleInfo, network: nn.Sequential) -> Classifier:
    return Classifier(info, network, torch.device("cpu"), precision="fp32")


def make(root: Path, info: BundleInfo, network: nn.Sequential, target: export.Format) -> Path:
    """A folder with a `bundle` and its export, `out`."""
    bundle.save(str(root / "bundle"), info, network)
    done = export.export(
        str(root / "bundle"), str(root / "out"), target=target, samples=SAMPLES[:1]
    )
    assert done.images == 7
    assert done.difference <= export.TOLERANCE
    assert Path(done.uri) == root / "out" / export.FILES[target]
    return root


@pytest.fixture(scope="module")
def plain(network: nn.Sequential, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """For PyTorch, without flips and temperature."""
    return make(tmp_path_factory.mktemp("plain"), PLAIN, network, "torch")


@pytest.fixture(scope="module")
def turned(network: nn.Sequential, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """For ONNX, with both."""
    return make(tmp_path_factory.mktemp("turned"), TURNED, network, "onnx")


def judge(info: BundleInfo, network: nn.Sequential, ask: Callable[[torch.Tensor], Any]) -> None:
    """What is asked of the file alone must be as the bundle's, whatever the batch."""
    whole = classifier(info, network)
    pixels = torch.stack([whole.preprocess(data) for data in SAMPLES])
    expected = whole.predict(pixels)
    assert expected.std(0).max() > 0.01  # answers that differ from image to image
    for size in (1, 3):
        found = torch.as_tensor(ask(pixels[:size]))
        assert found.dtype == torch.float32
        torch.testing.assert_close(found, expected[:size], atol=2e-5, rtol=0)


@pytest.mark.slow
def test_a_torch_export_answers_as_its_bundle(plain: Path, network: nn.Sequential) -> None:
    judge(PLAIN, network, torch.export.load(plain / "out" / "model.pt2").module())


def test_an_onnx_export_answers_as_its_bundle(turned: Path, network: nn.Sequential) -> None:
    session = onnxruntime.InferenceSession(turned / "out" / "model.onnx")
    judge(TURNED, network, lambda pixels: session.run(None, {"images": pixels.numpy()})[0])


def test_an_export_tells_what_it_is(turned: Path) -> None:
    files = {path.name for path in (turned / "out").iterdir()}
    assert files == {"model.onnx", "model.onnx.json", "MODEL_CARD.md"}
    beside = json.loads((turned / "out" / "model.onnx.json").read_text())
    session = onnxruntime.InferenceSession(turned / "out" / "model.onnx")
    inside = session.get_modelmeta().custom_metadata_map
    assert inside.keys() == beside.keys()
    assert json.loads(inside["classes"]) == beside["classes"] == list(COLOURS)
    assert json.loads(inside["image_size"]) == beside["image_size"] == 75
    assert json.loads(inside["uncertain_below"]) == beside["uncertain_below"] == 0.625
    assert json.loads(inside["prediction_sets"]) == beside["prediction_sets"]
    assert beside["prediction_sets"] == dataclasses.asdict(SETS)
    assert inside["name"] == "colours"
    assert inside["data_digest"] == "d" * 64
    commit = (turned / "bundle" / storage.COMMIT).read_bytes()
    assert inside["bundle_sha256"] == storage.describe(commit)["sha256"]
    assert inside["framing"] == beside["framing"] == "pad"
    for word in ("longer side has 75 pixels", "75 x 75", "antialiasing"):
        assert word in inside["preprocessing"]
    assert session.get_inputs()[0].type == "tensor(uint8)"
    document = json.loads((turned / "bundle" / bundle.INFO).read_text())
    saved = BundleInfo.from_dict({**TURNED.to_dict(), "golden": document["golden"]})
    assert (turned / "out" / "MODEL_CARD.md").read_text() == card(saved)


def test_a_torch_export_holds_metadata_and_no_cpu_operations(plain: Path) -> None:
    extra = {export.EXTRA: ""}
    program = torch.export.load(plain / "out" / "model.pt2", extra_files=extra)
    beside = json.loads((plain / "out" / "model.pt2.json").read_text())
    assert json.loads(extra[export.EXTRA]) == beside
    called = {str(node.target) for node in program.graph.nodes if node.op == "call_function"}
    assert all(name.startswith("aten.") for name in called), called
    assert not any("batch_norm" in name for name in called)


def test_another_models_export_is_refused_and_nothing_is_left(
    plain: Path, turned: Path, tmp_path: Path
) -> None:
    other = turned / "out" / "model.onnx"
    with pytest.raises(BundleError, match=r"colours answers .* than its bundle"):
        export.export(
            str(plain / "bundle"), str(tmp_path / "out"), target="onnx",
            write=lambda *given: shutil.copy(other, given[-1]),
        )  # fmt: skip
    assert list(tmp_path.iterdir()) == []


def test_a_probability_that_is_off_is_refused_though_the_class_is_right(
    turned: Path, network: nn.Sequential
) -> None:
    cooler = classifier(dataclasses.replace(TURNED, temperature=1.6), network)
    with pytest.raises(BundleError, match=r"by up to 0\.0"):
        export.check(turned / "out" / "model.onnx", cooler, SAMPLES[:1])


def test_a_missing_package_is_named_with_its_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "onnxscript" else find(name)
    )
    with pytest.raises(ConfigError, match=r"needs onnxscript, .*`pip install onnx onnxruntime "):
        export.export(str(tmp_path / "no-bundle"), str(tmp_path / "out"), target="onnx")


def test_images_are_found_among_other_files(tmp_path: Path) -> None:
    make_folder(tmp_path / "a", per_class=2)
    (tmp_path / "a" / "labels.csv").write_text("a,b\n")
    (tmp_path / "a" / "cut.jpg").write_bytes(SAMPLES[0][:900])
    assert sorted(export.images_in(str(tmp_path / "a"))) == sorted(
        make_image(label, i) for label in COLOURS for i in range(2)
    )
    labels = {make_image(label, i): label for label in COLOURS for i in range(2)}
    few = export.images_in(str(tmp_path / "a"), at_most=4)
    assert {labels[data] for data in few} == set(COLOURS)
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "notes.txt").write_text("none")
    with pytest.raises(DataError, match="no readable image among 1 files"):
        export.images_in(str(tmp_path / "b"))


def test_a_card_has_the_numbers() -> None:
    text = card(TURNED)
    test, val = TURNED.metrics["test"], TURNED.metrics["val"]
    assert test
    assert val
    for content in (val, test):
        for name in ("accuracy", "macro_f1", "auc"):
            value, low, high = (content[name][key] for key in ("value", "low", "high"))
            assert f"{value:.3f} ({low:.3f} to {high:.3f})" in text
    assert f"| {test['log_loss']:.4f} |" in text
    assert "temperature of 1.7" in text
    assert "less than 0.625" in text
    assert "at least 95% of the others" in text
    assert "at least 0.1234, found on 120 rows" in text
    assert "for 95% of the images, with a confidence of 90%. Expected of this model" in text
    assert "On the 80 rows of `test` 96.2% of the sets hold the true class" in text
    assert "89.5% to 98.7%" in text
    assert "1.25 classes in the mean; 80% have one" in text
    assert "Mixed_7b to Mixed_7c" in text
    assert "| Peak learning rate of the head | 0.001 |" in text
    assert "d" * 64 in text
    assert "both and not at all" in text
    assert "accuracy of 0.333 on `test`" in text
    recalls = [line for line in text.splitlines() if line.startswith("| ") and " | 10 | " in line]
    assert [float(line.split("|")[3].split()[0]) for line in recalls] == sorted(
        line.recall.value
        for line in metrics.Scores.from_dict(test).per_class()
        if line.recall is not None
    )
    assert "None" not in text
    asked = re.search(r"curl .* http://127\.0\.0\.1:8000(/\S+)", text)
    assert asked
    assert asked[1] in openapi.document(secured=False)["paths"]


def test_a_card_is_honest_about_what_was_not_measured() -> None:
    bare = dataclasses.replace(
        PLAIN, metrics={"val": scores(0), "test": None}, config={}, unfrozen_layers=0
    )
    text = card(bare)
    assert "There are no scores on `test`" in text
    assert "opened once" not in text
    assert "its scores are optimistic" in text
    assert "the head alone was trained" in text
    assert "No answer is called uncertain" in text
    assert "learning rate of the head" not in text
    assert "None" not in text
    nothing = card(dataclasses.replace(bare, metrics={"val": None, "test": None}))
    assert "optimistic" not in nothing
    assert "None" not in nothing


@pytest.mark.parametrize(
    ("guarantee", "words"),
    [("average", "120 rows are too few for more"), ("all_classes", "each set is all classes")],
)
def test_a_card_tells_where_rows_are_too_few_for_a_promise(guarantee: Any, words: str) -> None:
    sets = dataclasses.replace(SETS, guarantee=guarantee, expected=None, test=None)
    text = card(dataclasses.replace(PLAIN, prediction_sets=sets))
    assert words in text
    assert "confidence" not in text
    assert "None" not in text


def test_a_class_name_cannot_break_a_card() -> None:
    names = ("a|b", "<script>", "c_d*")
    content = {**scores(0), "classes": list(names)}
    info = dataclasses.replace(PLAIN, classes=names, metrics={"val": content, "test": None})
    text = card(info)
    assert "<script>" not in text.replace("\\<script", "")
    table = [line for line in text.splitlines() if line.startswith("| ") and " | 10 | " in line]
    assert len(table) == 3
    assert {line.replace("\\|", "").count("|") for line in table} == {5}
