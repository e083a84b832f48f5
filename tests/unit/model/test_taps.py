"""The head's share in the taps: the same from images and from features, in every arithmetic."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load as load_safetensors
from safetensors.torch import save as save_safetensors

from rtl import storage
from rtl.config import loading
from rtl.errors import BundleError
from rtl.model import bundle, inception, kernels, pretrained
from rtl.model.bundle import Classifier
from rtl.model.inception import Activation
from rtl.model.inference import Predictor
from rtl.model.kernels import pooling
from rtl.training.steps.learner import Learner
from tests.support.bundles import make_info, make_network, set_taps

CPU = torch.device("cpu")
GENERATOR = torch.Generator().manual_seed(0)
IMAGES = torch.randint(0, 256, (4, 3, 80, 80), dtype=torch.uint8, generator=GENERATOR)
IMAGES = (IMAGES // torch.tensor([1, 2, 3, 4]).view(-1, 1, 1, 1)).byte()
INFO = make_info(image_size=80, mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4))


@pytest.fixture(scope="module")
def network() -> torch.nn.Sequential:
    """A network whose taps decide: without them the classes are about equally probable."""
    return make_network(taps=0.03)


def make_predictor(
    network: torch.nn.Sequential, dtype: torch.dtype = torch.float32, k: int | None = None
) -> Predictor:
    return Predictor(
        network, mean=INFO.mean, std=INFO.std, device=CPU, dtype=dtype, unfrozen_layers=k
    )


# --- pooling


def test_taps_are_mean_maximum_and_deviation_of_each_channel() -> None:
    maps = torch.tensor([[[[1.0, 3.0]], [[2.0, 2.0]]]])
    expected = torch.tensor([[2.0, 2.0, 3.0, 2.0, 1.0, inception.MIN_VARIANCE**0.5]])
    torch.testing.assert_close(inception.pool_taps(maps), expected)


@pytest.mark.parametrize("side", [1, 3, 17])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.uint8])
def test_the_kernel_pools_as_the_plain_network(side: int, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(side)
    maps = torch.randn(3, 40, side, side, generator=generator).relu() * 9
    maps = maps.to(dtype).contiguous(memory_format=torch.channels_last)
    before = maps.clone()
    scale = torch.rand(40, generator=generator) + 0.1 if dtype == torch.uint8 else None
    with torch.inference_mode():
        found = pooling.pool_taps(maps, scale)
        values = maps.float() if scale is None else maps.float() * scale.view(1, -1, 1, 1)
        expected = inception.pool_taps(values)
    assert torch.equal(maps, before)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected, atol=2e-3, rtol=1e-4)


def test_no_images_have_no_taps(network: torch.nn.Sequential) -> None:
    trunk, _ = inception.split(network, 3)
    frozen = kernels.optimize_for_inference(
        trunk, device=CPU, dtype=torch.bfloat16, mean=INFO.mean, std=INFO.std
    )
    found = frozen(IMAGES[:0])
    assert (len(found.maps), found.taps.shape) == (0, (0, inception.taps_width(13)))
    again = inception.unpack_features(inception.pack_features(found), 3)
    assert again.maps.shape == found.maps.shape


# --- features


@pytest.mark.parametrize("k", [0, 1, 3, 5, 8, 9, 11, 16])
def test_features_come_back_as_they_were_packed(network: torch.nn.Sequential, k: int) -> None:
    trunk, _ = inception.split(network, k)
    with torch.inference_mode():
        maps, taps = trunk(IMAGES[:2] / 255.0)
    given = Activation(maps.bfloat16(), taps.bfloat16().float())
    rows = inception.pack_features(given)
    assert (rows.dtype, rows.shape) == (torch.bfloat16, (2, inception.feature_width(k, 80)))
    for one, other in zip(inception.unpack_features(rows, k), given, strict=True):
        assert one.dtype == other.dtype
        assert torch.equal(one, other)


@pytest.mark.parametrize("k", [0, 3, 5, 8, 9])
def test_cached_features_are_answered_as_their_images(tmp_path: Path, k: int) -> None:
    config = loading.load().replace(
        storage=str(tmp_path), data={"image_size": 80},
        model={"unfrozen_layers": k, "precision": "bf16"},
    )  # fmt: skip
    weights = pretrained.load("packaged", str(tmp_path))
    learner = Learner(config, weights, num_classes=3, device=CPU)
    set_taps(learner.network, 0.02)
    rows = inception.pack_features(learner.frozen(IMAGES))
    predictor = learner.predictor("none", unfrozen_layers=k)
    from_images = predictor(IMAGES).probabilities
    from_features = predictor(None, learner.features(rows)).probabilities
    assert from_images.std(0).max() > 0.03  # answers that differ from image to image
    torch.testing.assert_close(from_features, from_images, atol=0.01, rtol=0)
    learner.tail.eval()
    with torch.inference_mode():
        own = learner.logits(learner.features(IMAGES)).softmax(1)
    torch.testing.assert_close(own, from_features, atol=0.03, rtol=0)
    set_taps(learner.network, 0.0)
    flat = learner.predictor("none", unfrozen_layers=k)(None, learner.features(rows))
    assert (flat.probabilities - from_features).abs().max() > 0.1  # it is the taps that decide


def test_the_taps_train(network: torch.nn.Sequential) -> None:
    """The gradient through the tail's own taps is that of the plain network."""
    net = inception.build(3)
    net.load_state_dict(network.state_dict())
    _, tail = inception.split(net, 5)
    trunk, _ = inception.split(network, 5)
    with torch.no_grad():
        features = trunk(IMAGES / 255.0)
    tail.eval()
    tail(*features)[:, 0].sum().backward()
    gradient = tail.get_parameter("taps.weight").grad
    assert gradient is not None
    with torch.no_grad():
        taps = inception.split(network, 0)[0](IMAGES / 255.0).taps
    torch.testing.assert_close(gradient[0], taps.sum(0))
    assert not gradient[1:].any()
    block = tail.get_parameter("Mixed_6e.branch1x1.conv.weight").grad
    assert block is not None
    assert block.abs().max() > 0


# --- in 8 bits


def test_taps_in_8_bits_are_close_to_those_in_floating_point(network: torch.nn.Sequential) -> None:
    smaller = kernels.quantize_network(network, [IMAGES], mean=INFO.mean, std=INFO.std)
    pool = [name for name, _ in network.named_children()].index("avgpool")
    exact, rounded = (
        kernels.optimize_for_inference(
            net[:pool], device=CPU, dtype=torch.float32, mean=INFO.mean, std=INFO.std
        )(IMAGES).taps
        for net in (network, smaller)
    )
    assert not torch.equal(exact, rounded)
    start = 0
    for name in inception.TAPPED:
        end = inception.taps_width(inception.BLOCKS.index(name) + 1)
        parts = exact[:, start:end], rounded[:, start:end]
        assert torch.nn.functional.cosine_similarity(*parts).min() > 0.98, name
        start = end
    one, other = (make_predictor(net)(IMAGES).probabilities for net in (network, smaller))
    assert (one - other).abs().max() < 0.1


# --- bundles


def recommit(uri: str, state: dict[str, torch.Tensor], written: int) -> None:
    """Writes a bundle's weights and format anew, as another version of rtl wrote them."""
    model = save_safetensors(state)
    document = storage.read_json(f"{uri}/{bundle.INFO}")
    document |= {"format": written, "files": {bundle.MODEL: storage.describe(model)}}
    storage.delete(f"{uri}/{storage.COMMIT}")
    storage.commit(uri, {bundle.MODEL: model, bundle.INFO: json.dumps(document).encode()})


def test_a_bundle_of_before_the_taps_answers_as_it_did(
    network: torch.nn.Sequential, tmp_path: Path
) -> None:
    older = inception.build(3)
    older.load_state_dict({**network.state_dict()})
    set_taps(older, 0.0)
    uri = str(tmp_path / "bundle")
    bundle.save(uri, INFO, older.eval())
    expected = Classifier.load(uri).predict(IMAGES)
    assert storage.read_json(f"{uri}/{bundle.INFO}")["format"] == 2
    state = load_safetensors(storage.read_bytes(f"{uri}/{bundle.MODEL}"))
    del state["taps.weight"]
    recommit(uri, state, 1)
    found = Classifier.load(uri)
    found.check()
    assert torch.equal(found.predict(IMAGES), expected)
    recommit(uri, state, 2)
    with pytest.raises(BundleError, match=r"lacks taps\.weight"):
        bundle.load(uri)


def test_a_bundle_keeps_the_taps_weight(network: torch.nn.Sequential, tmp_path: Path) -> None:
    bundle.save(str(tmp_path), dataclasses.replace(INFO), network)
    found = Classifier.load(str(tmp_path), precision="fp32")
    expected = make_predictor(network)(IMAGES).probabilities
    assert torch.equal(found.predict(IMAGES), expected)
