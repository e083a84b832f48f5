"""A bundle: the folder that holds one finished model, and `Classifier`, which uses it.

`model.safetensors` is the whole network in fp32, `bundle.json` everything else that a user of the
model needs: classes, preprocessing, scores, where it came from. `COMMIT` is written last with the
sha256 of both. Nothing in a bundle is a pickle, and nothing is used before its sha256 was checked.
"""

from __future__ import annotations

import json
import platform
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from importlib import metadata
from typing import Annotated, Any

import pydantic
import torch
from pydantic import Field
from safetensors.torch import load as load_safetensors
from safetensors.torch import save as save_safetensors
from torch import nn

from rtl import storage
from rtl.config.schema import Flips, Framing
from rtl.data.images import decoding
from rtl.errors import BundleError, DataError, NotFoundError, reason
from rtl.evaluation import conformal
from rtl.evaluation.baseline import Baseline
from rtl.evaluation.conformal import PredictionSets
from rtl.evaluation.live_accuracy import CalibrationGap
from rtl.model import device as devices
from rtl.model import golden, inception
from rtl.model.golden import Golden
from rtl.model.inference import Output, Prediction, Predictor
from rtl.model.kernels import int8

MODEL = "model.safetensors"
INFO = "bundle.json"

_FORMAT = 2
_WITHOUT_TAPS = 1
"""Format of bundles whose head saw the last block alone."""

_UNSAVED = "num_batches_tracked"  # counts training steps, which inference never reads
_REMEDY = "Use another bundle, or make this one again with `rtl train` or `rtl search`."

_Channels = tuple[float, float, float]
_Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]


def software_versions() -> dict[str, str]:
    """Versions of rtl, torch, torchvision, ray and python in this process."""
    packages = ("rtl", "torch", "torchvision", "ray")
    return {**{p: metadata.version(p) for p in packages}, "python": platform.python_version()}


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


@dataclass(frozen=True)
class Quantized:
    """Accuracy on `val` of a model in 8 bits and of the one that it was made from."""

    rows: Annotated[int, Field(ge=1)]
    accuracy: Annotated[float, Field(ge=0, le=1)]
    """Accuracy in 8 bits, from 0 to 1."""
    accuracy_before: Annotated[float, Field(ge=0, le=1)]
    """Accuracy before, from 0 to 1."""
    agreement: Annotated[float, Field(ge=0, le=1)]
    """Share of the rows for which both name the same class."""


@dataclass(frozen=True, kw_only=True)
class BundleInfo:
    """Everything about a finished model but its weights; plain JSON values throughout."""

    name: Annotated[str, Field(min_length=1)]
    """Name of the run that made it."""
    classes: Annotated[tuple[str, ...], Field(min_length=1)]
    """Class names in the order of the network's outputs."""
    unfrozen_layers: Annotated[int, Field(ge=0, le=16)]
    """k: the head and the last k blocks were trained."""
    image_size: Annotated[int, Field(ge=75, le=1024)]
    """Side in pixels of the square that the network sees."""
    mean: _Channels
    """Mean of the RGB scaled to 0..1 that the network expects, by channel."""
    std: tuple[_Positive, _Positive, _Positive]
    """Standard deviation of the same."""
    weights: dict[str, str]
    """Pretrained weights it started from: `source` and `sha256`."""
    metrics: dict[str, dict[str, Any] | None]
    """Scores on `val` and `test`: `Scores.to_dict()`, None where the split was not opened."""
    manifest_digest: str
    """Digest of the data set that it was trained on."""
    config: dict[str, Any]
    """`Config.to_dict()` of the run."""
    temperature: _Positive = 1.0
    """Divisor of the logits that calibrates the probabilities."""
    test_flips: Flips = "none"
    """Flips of an image that its probabilities are the mean over."""
    uncertain_below: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Predictions whose most probable class has less than this are called uncertain."""
    prediction_sets: PredictionSets | None = None
    """Classes that an image may have, and how surely; None in bundles of earlier versions."""
    quantized: Quantized | None = None
    """Set for a network that computes in 8 bits: see `rtl.model.kernels.int8`."""
    baseline: Baseline | None = None
    """Statistics of its predictions on `val`, for measuring drift."""
    calibration_gap: CalibrationGap | None = None
    """Error of its mean confidence, for estimating live accuracy; None in older bundles."""
    framing: Framing = "crop"
    """How an image becomes the square: see `rtl.data.images.framing`. Older bundles crop."""
    golden: Golden | tuple[float, ...] | None = None
    """Outputs for the golden inputs, in fp32 or 8 bits; set by `save`, checked before use. An older
    bundle has the probabilities of one picture alone."""
    cost: dict[str, Any] = field(default_factory=dict)
    """Cost of making it: `train_seconds`."""
    versions: dict[str, str] = field(default_factory=software_versions)
    """Versions of the packages it was made with."""
    created: str = field(default_factory=_now)
    """Time of its making, ISO 8601, UTC."""

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values; `from_dict` is the inverse."""
        content = asdict(self)
        for key in ("classes", "mean", "std"):
            content[key] = list(content[key])
        if isinstance(self.golden, Golden):
            content["golden"] = self.golden.to_dict()
        elif self.golden is not None:
            content["golden"] = list(self.golden)
        if self.baseline is not None:
            content["baseline"] = self.baseline.to_dict()
        return content

    @classmethod
    def from_dict(cls, content: dict[str, Any]) -> BundleInfo:
        """The inverse of `to_dict`. Raises BundleError for a missing or impossible value."""
        try:
            info: BundleInfo = _adapter().validate_json(json.dumps(content), strict=True)
        except pydantic.ValidationError as error:
            first = error.errors()[0]
            key = ".".join(str(part) for part in first["loc"])
            raise BundleError(
                f"{INFO}: {key} is {str(first['input'])[:80]!r}: {first['msg']}. {_REMEDY}"
            ) from None
        if len(set(info.classes)) < len(info.classes):
            raise BundleError(f"{INFO}: classes names a class twice: {list(info.classes)}.")
        return info


def _adapter() -> pydantic.TypeAdapter[BundleInfo]:
    return pydantic.TypeAdapter(BundleInfo)


def save(uri: str, info: BundleInfo, network: nn.Sequential) -> None:
    """Writes a bundle so that it exists whole or not at all; an older one there is replaced.

    `network` has the parameters of `inception.build(len(info.classes))`, with peaks where it
    computes in 8 bits. Raises BundleError for an info or a network that no bundle may have (weights
    that are not finite), StorageError.
    """
    BundleInfo.from_dict(info.to_dict())
    state = {
        name: tensor.detach().to("cpu", torch.float32).contiguous()
        for name, tensor in network.state_dict().items()
        if not name.endswith(_UNSAVED)
    }
    _check_state(state, info, uri)
    exact = Classifier(info, network, torch.device("cpu"), precision="fp32")
    info = replace(info, golden=golden.measure(exact))
    model = save_safetensors(state)
    document = {"format": _FORMAT, "files": {MODEL: storage.describe(model)}, **info.to_dict()}
    storage.delete(storage.join(uri, storage.COMMIT))  # from here on the older one is gone
    text = json.dumps(document, indent=1, sort_keys=True, allow_nan=False)
    storage.commit(uri, {MODEL: model, INFO: text.encode()})


def load(uri: str) -> tuple[BundleInfo, nn.Sequential]:
    """Loads a bundle's info and network, fp32 on the CPU in eval mode, after `verify`'s checks.

    Raises BundleError for a missing, incomplete or altered bundle.
    """
    info, state = _check(uri, _fetch(uri))
    network = _build(info)
    network.load_state_dict(state, strict=False)
    return info, network.eval()


def verify(uri: str) -> BundleInfo:
    """Checks a bundle: committed, every sha256, a sound info, every weight there and finite.

    Raises BundleError that tells which check failed.
    """
    return _check(uri, _fetch(uri))[0]


def read_files(uri: str) -> dict[str, bytes]:
    """Reads the bytes of a bundle's files, for a copy, after all of `verify`'s checks.

    Raises BundleError.
    """
    files = _fetch(uri)
    _check(uri, files)
    return files


def _fetch(uri: str) -> dict[str, bytes]:
    where = storage.normalize(uri)
    try:
        files = storage.read_committed(where)
    except NotFoundError as error:
        if storage.is_committed(where):
            raise BundleError(f"The bundle {where} is incomplete: {error} {_REMEDY}") from None
        raise BundleError(
            f"{where} is no bundle: it has no {storage.COMMIT}, which is written last. Check the "
            f"path; if it is right, the run that wrote it did not finish. {_REMEDY}"
        ) from None
    except DataError as error:
        raise BundleError(f"The bundle {where} was altered: {error} {_REMEDY}") from None
    except (KeyError, TypeError, AttributeError, ValueError):
        raise BundleError(
            f"The bundle {where} was altered: {storage.COMMIT} is not what rtl writes. {_REMEDY}"
        ) from None
    if set(files) != {MODEL, INFO}:
        raise BundleError(
            f"{where} holds {', '.join(sorted(files)) or 'nothing'}; a bundle holds {MODEL} and "
            f"{INFO}, no more. {_REMEDY}"
        )
    return files


def _check(uri: str, files: dict[str, bytes]) -> tuple[BundleInfo, dict[str, torch.Tensor]]:
    try:
        document = json.loads(files[INFO])
        written, recorded = document["format"], document["files"][MODEL]
    except (ValueError, KeyError, TypeError):
        raise BundleError(f"{uri}: {INFO} is not what rtl writes. {_REMEDY}") from None
    if written not in (_FORMAT, _WITHOUT_TAPS):
        raise BundleError(
            f"{uri} is of bundle format {written!r}, this rtl reads up to {_FORMAT}; use the rtl "
            "that wrote it, or make the bundle again."
        )
    if recorded != storage.describe(files[MODEL]):
        raise BundleError(f"{uri}: {MODEL} is not the model that {INFO} describes. {_REMEDY}")
    info = BundleInfo.from_dict(document)
    try:
        state = load_safetensors(files[MODEL])
    except Exception as error:  # noqa: BLE001 -- safetensors raises its own Rust errors
        raise BundleError(
            f"{uri}: {MODEL} is not safetensors ({reason(error)}). {_REMEDY}"
        ) from None
    if written == _WITHOUT_TAPS:
        state["taps.weight"] = torch.zeros_like(inception.Taps(len(info.classes)).weight)
    _check_state(state, info, uri)
    return info, state


def _build(info: BundleInfo) -> nn.Sequential:
    network = inception.build(len(info.classes))
    if info.quantized:
        int8.attach_peaks(network)
    return network


def _check_state(state: dict[str, torch.Tensor], info: BundleInfo, uri: str) -> None:
    with torch.device("meta"):
        network = _build(info)
    expected = {n: t.shape for n, t in network.state_dict().items() if not n.endswith(_UNSAVED)}
    for name in sorted(expected.keys() ^ state.keys()):
        wrong = "lacks" if name in expected else "has the unknown entry"
        raise BundleError(
            f"The network of {uri} {wrong} {name}; it must be Inception V3's. {_REMEDY}"
        )
    for name, tensor in state.items():
        if tensor.shape != expected[name] or tensor.dtype != torch.float32:
            raise BundleError(
                f"The network of {uri} has {name} as {tensor.dtype} {tuple(tensor.shape)}; it must "
                f"be float32 {tuple(expected[name])} for {len(info.classes)} classes. {_REMEDY}"
            )
        if not torch.isfinite(tensor).all():
            raise BundleError(
                f"The network of {uri} has a NaN or infinity in {name}: its training diverged. "
                "Train again with a lower optimizer.lr."
            )


class Classifier:
    """A model ready for inference: what the endpoint, evaluation and batch prediction use.

    See `Predictor` for its arithmetic.
    """

    def __init__(
        self,
        info: BundleInfo,
        network: nn.Sequential,
        device: torch.device,
        *,
        precision: devices.Precision = "auto",
        threads: int = 1,
    ) -> None:
        """`threads` is how many cores `predict_batches` uses, each for images of its own."""
        self.info = info
        self.device = device
        self._predictor = Predictor(
            network, mean=info.mean, std=info.std, device=device,
            dtype=devices.resolve_precision(precision, device),
            flips=info.test_flips, temperature=info.temperature, threads=threads,
        )  # fmt: skip

    @classmethod
    def load(
        cls,
        uri: str,
        device: torch.device = torch.device("cpu"),  # noqa: B008 -- an immutable value
        *,
        precision: devices.Precision = "auto",
    ) -> Classifier:
        """Loads and verifies the classifier of a bundle. Raises BundleError."""
        return cls(*load(uri), device, precision=precision)

    def preprocess(self, data: bytes, max_pixels: int = 100_000_000) -> torch.Tensor:
        """Decodes and frames an encoded image to uint8 (3, S, S).

        Raises CorruptImageError, UnsupportedImageError or ImageTooLargeError.
        """
        image = decoding.decode(data, max_pixels)
        return decoding.resize(image, self.info.image_size, self.info.framing)

    def predict(self, batch: torch.Tensor) -> torch.Tensor:
        """Maps uint8 (N, 3, S, S) to probabilities, float32 (N, C), in one pass, on the CPU."""
        return self.output(batch).probabilities.cpu()

    def output(self, batch: torch.Tensor) -> Output:
        """Maps uint8 (N, 3, S, S) on the CPU to the network's output on its device, in one pass."""
        return self._predictor(devices.to_device(batch, self.device))

    def predict_batches(self, images: torch.Tensor) -> Output:
        """Maps any number of images, uint8 (N, 3, S, S), to their output; all on the CPU.

        See `Predictor.predict_batches`.
        """
        output = self._predictor.predict_batches(devices.to_device(images, self.device))
        return Output(output.probabilities.cpu(), output.pooled.cpu(), output.maps)

    def prediction(self, probabilities: torch.Tensor) -> Prediction:
        """The prediction for one image with these probabilities, float32 (C,)."""
        best = int(probabilities.argmax())
        probability = float(probabilities[best])
        every = tuple(probabilities.tolist())
        return Prediction(
            label=self.info.classes[best],
            probability=probability,
            uncertain=probability < self.info.uncertain_below,
            probabilities=every,
            one_of=conformal.one_of(self.info.prediction_sets, self.info.classes, every),
        )

    def heatmap(self, maps: torch.Tensor, number: int) -> torch.Tensor:
        """Heatmap of one image's `Output.maps` on the CPU: see `Predictor.heatmap`."""
        return self._predictor.heatmap(maps, number).cpu()

    def check(self) -> None:
        """Computes the outputs for the golden images again.

        Raises BundleError where they differ from those in the bundle: decoding, framing,
        preprocessing, classes or arithmetic here are not those that the model was evaluated with.
        """
        recorded, name = self.info.golden, self.info.name
        if isinstance(recorded, Golden):
            golden.check(name, recorded, golden.measure(self))
        elif recorded is not None:
            golden.check_square(name, recorded, self)
