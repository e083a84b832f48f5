from __future__ import annotations

import copy
import dataclasses
import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch

from rtl import storage
from rtl.errors import BundleError, RtlError
from rtl.evaluation.conformal import PredictionSets, SetCoverage
from rtl.evaluation.metrics import Estimate
from rtl.model import bundle, registry
from rtl.model.bundle import BundleInfo, Classifier
from rtl.model.golden import Golden
from rtl.storage import objects
from tests.conftest import make_image
from tests.support.bundles import make_info, make_network

SIZE = 75
ESTIMATE = {"value": 0.9, "low": 0.8, "high": 0.95}
INFO = make_info(
    name="solar",
    image_size=SIZE,
    mean=(0.5, 0.4, 0.3),
    std=(0.2, 0.3, 0.4),
    temperature=1.7,
    metrics={"val": {"accuracy": ESTIMATE, "top5": None}, "test": None},
    config={"name": "solar", "model": {"unfrozen_layers": 2}},
    cost={"seconds": 12.5},
)

SETS = PredictionSets(
    threshold=0.3, coverage=0.95, confidence=0.9, guarantee="confident", rows=120,
    expected=Estimate(0.975, 0.941, 0.995),
    test=SetCoverage(80, Estimate(0.9625, 0.895, 0.987), mean_size=1.2, single=0.8),
)  # fmt: skip


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def network() -> torch.nn.Sequential:
    return make_network()


@pytest.fixture(scope="module")
def solar(network: torch.nn.Sequential, tmp_path_factory: pytest.TempPathFactory) -> str:
    """One whole bundle that no test changes."""
    uri = str(tmp_path_factory.mktemp("bundles") / "solar")
    bundle.save(uri, INFO, network)
    return uri


def linked(source: str, target: str) -> str:
    """A copy that a test may damage: `storage` replaces files, it never writes into one."""
    Path(target).mkdir()
    for file in Path(source).iterdir():
        os.link(file, Path(target) / file.name)
    return target


def damage_model(uri: str) -> None:
    data = bytearray(storage.read_bytes(f"{uri}/model.safetensors"))
    data[len(data) // 2] ^= 1
    storage.write_bytes(f"{uri}/model.safetensors", bytes(data))


def recommit(uri: str, **changes: Any) -> None:
    """An info that somebody edited, under a `COMMIT` that fits it."""
    document = {**storage.read_json(f"{uri}/{bundle.INFO}"), **changes}
    info = json.dumps(document).encode()
    storage.write_bytes(f"{uri}/{bundle.INFO}", info)
    files = storage.read_json(f"{uri}/{storage.COMMIT}")["files"]
    storage.seal(uri, {**files, bundle.INFO: storage.describe(info)})


def test_a_bundle_comes_back_as_it_was_saved(place: str, network: torch.nn.Sequential) -> None:
    bundle.save(place, INFO, network)
    info, loaded = bundle.load(place)
    assert dataclasses.replace(info, golden=None) == INFO
    assert isinstance(info.golden, Golden)
    for output in info.golden.outputs.values():
        assert sum(output.probabilities) == pytest.approx(1, abs=1e-4)
    assert bundle.verify(place) == info
    expected = network.state_dict()
    for name, tensor in loaded.state_dict().items():
        assert name.endswith("num_batches_tracked") or torch.equal(tensor, expected[name])
    assert not loaded.training
    assert storage.list_names(place) == ["COMMIT", "bundle.json", "model.safetensors"]
    assert INFO.versions.keys() == {"rtl", "torch", "torchvision", "ray", "python"}


def test_prediction_sets_come_back_as_they_were_saved() -> None:
    info = dataclasses.replace(INFO, prediction_sets=SETS)
    content = json.loads(json.dumps(info.to_dict()))
    assert BundleInfo.from_dict(content) == info
    del content["prediction_sets"]  # as earlier versions wrote it
    assert BundleInfo.from_dict(content) == INFO
    content["prediction_sets"] = {**dataclasses.asdict(SETS), "threshold": 1.5}
    with pytest.raises(BundleError, match=r"prediction_sets.threshold is '1.5'"):
        BundleInfo.from_dict(content)


def test_a_prediction_names_the_classes_that_the_image_may_have(
    network: torch.nn.Sequential,
) -> None:
    info = dataclasses.replace(INFO, prediction_sets=SETS, uncertain_below=0.9)
    classifier = Classifier(info, network, torch.device("cpu"))
    found = classifier.prediction(torch.tensor([0.35, 0.1, 0.55]))
    assert (found.label, found.uncertain, found.one_of) == ("red", True, ("red", "blue"))
    assert classifier.prediction(torch.tensor([0.05, 0.9, 0.05])).one_of == ("green",)
    older = Classifier(INFO, network, torch.device("cpu"))
    assert older.prediction(torch.tensor([0.35, 0.1, 0.55])).one_of == ()


DAMAGE = {
    "a flipped byte": (damage_model, "model.safetensors is not what was written"),
    "a missing model": (lambda u: storage.delete(f"{u}/model.safetensors"), "is incomplete"),
    "a missing info": (lambda u: storage.delete(f"{u}/bundle.json"), "is incomplete"),
    "no COMMIT": (lambda u: storage.delete(f"{u}/COMMIT"), "no COMMIT"),
    "a cut COMMIT": (lambda u: storage.write_bytes(f"{u}/COMMIT", b'{"fil'), "is not JSON"),
    "another COMMIT": (lambda u: storage.write_bytes(f"{u}/COMMIT", b"[]"), "COMMIT is not what"),
    "an altered info": (
        lambda u: storage.write_bytes(f"{u}/bundle.json", b"{}"),
        "bundle.json is not what was written",
    ),
    "a foreign file": (lambda u: storage.commit(u, {"model.pkl": b"x"}), "model.pkl"),
    "other weights": (
        lambda u: recommit(u, files={bundle.MODEL: {"sha256": "0" * 64, "bytes": 1}}),
        "is not the model",
    ),
    "a missing class": (lambda u: recommit(u, classes=["blue", "green"]), "for 2 classes"),
    "a class twice": (lambda u: recommit(u, classes=["blue", "red", "red"]), "twice"),
    "no mean": (lambda u: recommit(u, mean=[]), "mean"),
    "temperature 0": (lambda u: recommit(u, temperature=0), "temperature is '0'"),
    "k of 17": (lambda u: recommit(u, unfrozen_layers=17), "unfrozen_layers is '17'"),
    "a later format": (lambda u: recommit(u, format=3), "format 3, this rtl reads up to 2"),
}


@pytest.mark.parametrize(("damage", "message"), DAMAGE.values(), ids=DAMAGE.keys())
def test_a_damaged_bundle_is_refused(solar: str, tmp_path: Any, damage: Any, message: str) -> None:
    uri = linked(solar, str(tmp_path / "b"))
    damage(uri)
    for use in (bundle.load, bundle.verify):
        with pytest.raises(BundleError, match=message):
            use(uri)


def test_a_diverged_network_is_never_saved(place: str, network: torch.nn.Sequential) -> None:
    broken = copy.deepcopy(network)
    with torch.no_grad():
        broken.get_submodule("fc").weight[0, 0] = torch.nan
    with pytest.raises(BundleError, match=r"fc\.weight.*diverged"):
        bundle.save(place, INFO, broken)
    assert not storage.exists(place)


def test_a_save_that_dies_leaves_no_bundle(
    solar: str, tmp_path: Any, network: torch.nn.Sequential, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = linked(solar, str(tmp_path / "b"))

    def die(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(objects, "seal", die)
        with pytest.raises(KeyboardInterrupt):
            bundle.save(uri, dataclasses.replace(INFO, name="next"), network)
    with pytest.raises(BundleError, match="no COMMIT"):
        bundle.load(uri)
    bundle.save(uri, dataclasses.replace(INFO, name="next"), network)
    assert bundle.verify(uri).name == "next"


def test_test_flips_are_averaged(tmp_path: Path, network: torch.nn.Sequential) -> None:
    answers = {}
    for flips in ("none", "horizontal", "both"):
        bundle.save(str(tmp_path), dataclasses.replace(INFO, test_flips=flips), network)  # type: ignore[arg-type]
        classifier = Classifier.load(str(tmp_path), precision="fp32")
        answers[flips] = classifier.predict
    pixels = classifier.preprocess(make_image("red", 0))[None]
    plain = [answers["none"](pixels.flip(dims)) for dims in ((), (3,), (2,), (2, 3))]
    torch.testing.assert_close(
        answers["horizontal"](pixels), (plain[0] + plain[1]) / 2, atol=1e-5, rtol=0
    )
    torch.testing.assert_close(answers["both"](pixels), sum(plain) / 4, atol=1e-5, rtol=0)


def test_the_classifier_is_the_network(solar: str, network: torch.nn.Sequential) -> None:
    classifier = Classifier.load(solar, precision="fp32")
    pixels = [classifier.preprocess(make_image(name, 0)) for name in INFO.classes]
    batch = torch.stack(pixels)
    assert batch.shape == (3, 3, SIZE, SIZE)
    assert batch.dtype == torch.uint8
    probabilities = classifier.predict(batch)
    normalized = (batch / 255 - torch.tensor(INFO.mean).view(3, 1, 1)) / torch.tensor(
        INFO.std
    ).view(3, 1, 1)
    with torch.no_grad():
        expected = torch.softmax(network(normalized) / 1.7, dim=1)
    assert probabilities.dtype == torch.float32
    torch.testing.assert_close(probabilities, expected, atol=2e-4, rtol=0)
    alone = classifier.predict(batch[:1])
    torch.testing.assert_close(alone, probabilities[:1], atol=1e-5, rtol=0)
    rough = Classifier.load(solar, precision="bf16").predict(batch)
    torch.testing.assert_close(rough, expected, atol=0.03, rtol=0)
    torch.testing.assert_close(rough.sum(1), torch.ones(3), atol=1e-5, rtol=0)


def test_registrations_at_once_get_their_own_numbers(place: str, solar: str) -> None:
    with ThreadPoolExecutor(3) as pool:
        futures = [pool.submit(registry.register, place, "solar", solar) for _ in range(3)]
        numbers = [future.result() for future in futures]
    assert len(set(numbers)) == 3
    assert registry.versions(place, "solar") == sorted(numbers)
    assert registry.names(place) == ["solar"]
    assert registry.current(place, "solar") is None
    copied = registry.resolve(place, f"solar@{numbers[0]}")
    assert storage.read_committed(copied) == storage.read_committed(solar)
    assert registry.entry_of(copied) == ("solar", numbers[0])
    assert registry.entry_of(solar) is None


def test_every_claim_is_of_another_number(place: str) -> None:
    with ThreadPoolExecutor(6) as pool:
        numbers = list(pool.map(lambda _: registry._claim(place, "solar"), range(30)))
    assert len(set(numbers)) == 30


def test_a_registration_that_died_is_no_version(place: str, solar: str) -> None:
    storage.write_bytes(storage.join(place, "registry/solar/1/CLAIM-dead"), b"dead")
    assert registry.versions(place, "solar") == []
    assert registry.register(place, "solar", solar) == 2
    assert registry.versions(place, "solar") == [2]


def test_a_broken_bundle_is_not_promoted(tmp_path: Any, solar: str) -> None:
    root = str(tmp_path)
    for number in (1, 2):
        assert registry.register(root, "solar", solar) == number
    registry.promote(root, "solar", 1)
    damage_model(registry.resolve(root, "solar@2"))
    with pytest.raises(BundleError, match="altered"):
        registry.promote(root, "solar", 2)
    with pytest.raises(BundleError, match=r"no version 3 .* has: 1, 2"):
        registry.promote(root, "solar", 3)
    assert registry.current(root, "solar") == 1
    with pytest.raises(BundleError, match="altered"):
        registry.register(root, "solar", registry.resolve(root, "solar@2"))
    assert registry.versions(root, "solar") == [1, 2]


def test_resolve(tmp_path: Any, solar: str) -> None:
    root = str(tmp_path / "store")
    assert registry.resolve(root, solar) == solar
    assert registry.resolve(root, f"file://{solar}/") == solar
    with pytest.raises(BundleError, match=r"'solar' is neither .* has: none yet"):
        registry.resolve(root, "solar")
    registry.register(root, "solar", solar)
    with pytest.raises(BundleError, match=r"no current version, only 1.*`rtl promote solar 1`"):
        registry.resolve(root, "solar")
    registry.register(root, "solar", solar)
    registry.promote(root, "solar", 2)
    assert registry.resolve(root, "solar").endswith("/registry/solar/2")
    assert registry.resolve(root, "solar@1").endswith("/registry/solar/1")
    registry.promote(root, "solar", 1)
    assert registry.resolve(root, "solar").endswith("/registry/solar/1")
    with pytest.raises(BundleError, match=r"no version 9 .* has: 1, 2"):
        registry.resolve(root, "solar@9")
    for unknown in ("lunar", "lunar@1", "solar@0", "../solar", "solar@x", "", "a/b/c"):
        with pytest.raises(BundleError, match=r"has: (solar|none yet)"):
            registry.resolve(root, unknown)
    with pytest.raises(BundleError, match="cannot be a model's name"):
        registry.register(root, "../x", solar)
    storage.write_bytes(f"{root}/registry/solar/current.json", b"{}")
    with pytest.raises(BundleError, match="promote a version"):
        registry.resolve(root, "solar")


def test_errors_are_of_our_tree() -> None:
    with pytest.raises(RtlError):
        registry.resolve("root", "ftp://somewhere/model")
