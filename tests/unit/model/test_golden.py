"""Planted changes of each step from bytes to classes; every use of a model refuses all of them."""

from __future__ import annotations

import asyncio
import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from rtl import storage
from rtl.batch_inference import quantize
from rtl.batch_inference.chunk_files import ChunkPredictor, PredictionTask
from rtl.config.schema import ServeConfig
from rtl.data.images import decoding, framing, orientation, samples
from rtl.data.images import golden as inputs
from rtl.data.shards import load_manifest
from rtl.errors import BundleError, CorruptImageError
from rtl.exporting import export
from rtl.model import bundle, golden
from rtl.model.bundle import BundleInfo, Classifier
from rtl.model.inference import Predictor
from rtl.serving.engine import Engine
from tests.conftest import make_dataset
from tests.support.bundles import make_info, make_network

INFO = make_info(name="solar", framing="pad")

Plant = Callable[[str], tuple[Any, str, Any] | None]
"""Changes the bundle at a URI, or gives a module, a name in it, and what it is to be instead."""


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def network() -> torch.nn.Sequential:
    """A network whose head is as little sure as one can be: probabilities alone tell little."""
    return make_network()


@pytest.fixture(scope="module")
def saved(network: torch.nn.Sequential, tmp_path_factory: pytest.TempPathFactory) -> str:
    uri = str(tmp_path_factory.mktemp("bundles") / "solar")
    bundle.save(uri, INFO, network)
    return uri


@pytest.fixture
def solar(saved: str, tmp_path: Path) -> str:
    """A copy that a test may change."""
    (tmp_path / "solar").mkdir()
    for file in Path(saved).iterdir():
        (tmp_path / "solar" / file.name).hardlink_to(file)
    return str(tmp_path / "solar")


# What is planted


def _recommit(**changes: Any) -> Plant:
    """An edited info under a `COMMIT` that fits it."""

    def plant(uri: str) -> None:
        document = {**storage.read_json(f"{uri}/{bundle.INFO}"), **changes}
        info = json.dumps(document).encode()
        storage.write_bytes(f"{uri}/{bundle.INFO}", info)
        files = storage.read_json(f"{uri}/{storage.COMMIT}")["files"]
        storage.seal(uri, {**files, bundle.INFO: storage.describe(info)})

    return plant


def _orientation_ignored(_: str) -> Any:
    return orientation, "upright", lambda pixels, _: pixels


def _turned_the_other_way(_: str) -> Any:
    right = orientation.upright
    return orientation, "upright", lambda pixels, n: right(pixels, {6: 8, 8: 6}.get(n, n))


def _as_pillow_has_it(image: Image.Image) -> torch.Tensor:
    return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1).contiguous()


def _alpha_ignored(_: str) -> Any:
    right = samples.to_rgb

    def ignore(image: Image.Image, data: bytes) -> torch.Tensor:
        return _as_pillow_has_it(image) if image.mode == "RGBA" else right(image, data)

    return samples, "to_rgb", ignore


def _sixteen_bits_clipped(_: str) -> Any:
    right = samples.to_rgb

    def clip(image: Image.Image, data: bytes) -> torch.Tensor:
        if not image.mode.startswith("I"):
            return right(image, data)
        levels = np.asarray(image).clip(0, 255).astype(np.uint8)
        return _as_pillow_has_it(Image.fromarray(levels))

    return samples, "to_rgb", clip


def _decoder_gives_bgr(_: str) -> Any:
    right = decoding.decode
    return decoding, "decode", lambda *arguments: right(*arguments).flip(0)


def _decoder_refuses(_: str) -> Any:
    def refuse(*_: object) -> torch.Tensor:
        raise CorruptImageError("no.")

    return samples, "to_rgb", refuse


def _framed(name: Any) -> Plant:
    right = framing.frame
    return lambda _: (framing, "frame", lambda image, size, _: right(image, size, name))


def _predictor(**changes: Any) -> Plant:
    def changed(network: torch.nn.Sequential, **given: Any) -> Predictor:
        return Predictor(network, **{**given, **changes})

    return lambda _: (bundle, "Predictor", changed)


def _network_gets_bgr(_: str) -> Any:
    return bundle.devices, "to_device", lambda batch, _: batch.flip(1)


DECODING, SETTINGS, NETWORK = "other pixels", "classes, their order or the prep", "other features"

PLANTED: dict[str, tuple[Plant, str]] = {
    "orientation ignored": (_orientation_ignored, DECODING),
    "turned the other way": (_turned_the_other_way, DECODING),
    "alpha ignored": (_alpha_ignored, DECODING),
    "16 bits clipped": (_sixteen_bits_clipped, DECODING),
    "a format not read": (_decoder_refuses, "cannot be decoded here"),
    "the decoder's channels": (_decoder_gives_bgr, DECODING),
    "cropped": (_framed("crop"), DECODING),
    "stretched": (_framed("stretch"), DECODING),
    "another framing in the bundle": (_recommit(framing="crop"), SETTINGS),
    "another mean and std": (_predictor(mean=(0.5,) * 3, std=(0.5,) * 3), NETWORK),
    "another std": (_predictor(std=(0.5,) * 3), NETWORK),
    "another mean in the bundle": (_recommit(mean=[0.5, 0.5, 0.5]), SETTINGS),
    "the network's channels": (_network_gets_bgr, NETWORK),
    "the order of classes": (_recommit(classes=["red", "green", "blue"]), SETTINGS),
}


def _plant(patch: pytest.MonkeyPatch, plant: Plant, uri: str) -> None:
    planted = plant(uri)
    if planted is not None:
        patch.setattr(*planted)


@pytest.mark.parametrize(("plant", "message"), PLANTED.values(), ids=PLANTED.keys())
def test_a_planted_change_is_refused(
    solar: str, monkeypatch: pytest.MonkeyPatch, plant: Plant, message: str
) -> None:
    _plant(monkeypatch, plant, solar)
    with pytest.raises(BundleError, match=message) as refused:
        Classifier.load(solar).check()
    assert "golden image" in str(refused.value)
    assert "make the bundle again" in str(refused.value)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_without_a_change_a_model_passes(saved: str, precision: Any) -> None:
    classifier = Classifier.load(saved, precision=precision)
    classifier.check()
    recorded, found = classifier.info.golden, golden.measure(classifier)
    assert isinstance(recorded, golden.Golden)
    assert recorded.outputs.keys() == inputs.pictures().keys()
    for name, expected in recorded.outputs.items():
        before, now = (torch.tensor(o.features) for o in (expected, found.outputs[name]))
        assert float((now - before).norm() / before.norm()) < golden.FEATURES / 2


def test_another_order_of_the_heads_rows_is_refused(network: torch.nn.Sequential) -> None:
    head = network.get_submodule("fc")
    state = {name: tensor.clone() for name, tensor in head.state_dict().items()}
    try:
        head.load_state_dict({name: 20 * tensor for name, tensor in state.items()})
        cpu = torch.device("cpu")
        sure = Classifier(INFO, network, cpu)
        recorded = dataclasses.replace(INFO, golden=golden.measure(sure))
        head.load_state_dict({name: 20 * tensor.flip(0) for name, tensor in state.items()})
        with pytest.raises(BundleError, match="probabilities for the golden image"):
            Classifier(recorded, network, cpu).check()
    finally:
        head.load_state_dict(state)


# Who looks


def _serve(uri: str, place: Path) -> None:
    asyncio.run(Engine(ServeConfig(max_batch_size=1)).load(uri))


def _predict(uri: str, place: Path) -> None:
    ChunkPredictor(
        PredictionTask(
            bundle_uri=uri, info=bundle.verify(uri), manifest=None, root=str(place),
            target=f"{place}/answers", use_gpu=False,
        )
    )  # fmt: skip


def _export(uri: str, place: Path) -> None:
    export.export(uri, f"{place}/exported", target="torch")


def _quantize(uri: str, place: Path) -> None:
    make_dataset(f"{place}/data", train=3, val=3, test=0)
    manifest = load_manifest(f"{place}/data")
    classes = bundle.verify(uri).classes
    dataclasses.replace(manifest, classes=classes).save(f"{place}/data")
    quantize.quantize(f"{place}/root", uri, f"{place}/data")


@pytest.mark.parametrize("use", [_serve, _predict, _export, _quantize])
@pytest.mark.parametrize("change", ["orientation ignored", "the order of classes"])
def test_every_use_of_a_model_looks(
    solar: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    use: Callable[[str, Path], None],
    change: str,
) -> None:
    plant, message = PLANTED[change]
    _plant(monkeypatch, plant, solar)
    with pytest.raises(BundleError, match=message):
        use(solar, tmp_path)
    assert not {"exported", "answers", "root"} & {path.name for path in tmp_path.iterdir()}


# Bundles of earlier versions


def test_a_bundle_with_one_golden_picture_is_checked_as_before(solar: str) -> None:
    classifier = Classifier.load(solar)
    pixels = classifier.preprocess(inputs.square_picture(INFO.image_size))
    right = classifier.predict(pixels[None])[0].tolist()
    _recommit(golden=right)(solar)
    older = Classifier.load(solar)
    assert older.info.golden == tuple(right)
    older.check()
    assert BundleInfo.from_dict(older.info.to_dict()) == older.info
    for wrong in ([right[0] + 0.1, *right[1:]], right[:2], [float("inf"), *right[1:]]):
        with pytest.raises(BundleError, match="golden image"):
            golden.check_square("solar", wrong, older)


def test_a_bundle_without_golden_images_or_framing_is_cropped(
    network: torch.nn.Sequential,
) -> None:
    content = INFO.to_dict()
    del content["framing"], content["golden"]
    info = BundleInfo.from_dict(content)
    assert (info.framing, info.golden) == ("crop", None)
    Classifier(info, network, torch.device("cpu")).check()


# The pictures


def test_the_pictures_cover_what_they_are_called_after() -> None:
    pictures = inputs.pictures()
    headers = {name: decoding.read_header(data, 10**6) for name, data in pictures.items()}
    shapes = {name: tuple(decoding.decode(data).shape[1:]) for name, data in pictures.items()}
    turned = headers["orientation"]
    assert shapes["orientation"] == (turned.width, turned.height)
    assert shapes["wide"][1] > 2 * shapes["wide"][0]
    assert shapes["tall"][0] > 2 * shapes["tall"][1]
    modes = {name: header.mode for name, header in headers.items()}
    assert (modes["transparent"], modes["grey"], modes["deep"]) == ("RGBA", "L", "I;16")
    assert inputs.pictures() == pictures


@pytest.mark.parametrize("size", [75, 96, 299])
def test_every_framing_and_every_turn_gives_another_summary(size: int) -> None:
    def furthest(one: torch.Tensor, other: torch.Tensor) -> float:
        return golden.largest_difference(inputs.summarize(one), inputs.summarize(other))

    for name, data in inputs.pictures().items():
        image = decoding.decode(data)
        framed = [decoding.resize(image, size, way) for way in ("crop", "pad", "stretch")]
        if name in ("wide", "tall"):
            pairs = [(0, 1), (0, 2), (1, 2)]
            assert min(furthest(framed[a], framed[b]) for a, b in pairs) > 10 * golden.LEVELS
        square = framed[1]
        for other in (square.flip(1), square.flip(2), square.transpose(1, 2)):
            assert furthest(square, other) > 10 * golden.LEVELS
        if name in ("wide", "tall", "orientation"):
            assert furthest(square, square.flip(0)) > 10 * golden.LEVELS


def test_a_codecs_rounding_is_no_change() -> None:
    data = inputs.pictures()["orientation"]
    pixels = decoding.resize(decoding.decode(data), 299, "stretch")
    noise = torch.from_numpy(np.random.default_rng(0).integers(-2, 3, pixels.shape))
    other = (pixels + noise).clamp(0, 255).to(torch.uint8)
    furthest = golden.largest_difference(inputs.summarize(pixels), inputs.summarize(other))
    assert furthest < golden.LEVELS / 4
