"""A bundle as one file that runs without rtl: ONNX or torch.export, pixels in, probabilities out.

Scaling, network, test-time flips and temperature are inside, in fp32, each BatchNorm folded into
its convolution. Decoding and resizing stay with the caller; `card.preprocessing` says how. An
export is compared with its bundle before it is kept.
"""

from __future__ import annotations

import copy
import importlib.util
import json
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from rtl import storage
from rtl.data.images import decoding, golden
from rtl.errors import BundleError, ConfigError, DataError, ImageError
from rtl.exporting.card import card, preprocessing
from rtl.model import bundle
from rtl.model.bundle import BundleInfo, Classifier
from rtl.model.inception import FLIPS, Normalize
from rtl.model.inference import calibrate
from rtl.storage import destinations
from rtl.vision import BasicConv2d

Format = Literal["onnx", "torch"]

FILES: dict[Format, str] = {"onnx": "model.onnx", "torch": "model.pt2"}
"""File names of an export by format; FILE.json has its metadata."""
CARD = "MODEL_CARD.md"
EXTRA = "rtl.json"
"""Name of the metadata among the extra files of a `torch.export` archive."""

TOLERANCE = 1e-3
"""Largest allowed difference of a probability from the bundle's in fp32."""

_BATCH = 8
_PACKAGES = ("onnx", "onnxruntime", "onnxscript")


@dataclass(frozen=True)
class Exported:
    """An export that passed its check."""

    uri: str
    """URI of the model's file."""
    images: int
    """Images on which it was compared with the bundle."""
    difference: float
    """Largest difference of a probability from the bundle's."""


Writer = Callable[["Portable", dict[str, Any], Path], None]
"""Writes a model and its metadata to a file."""


def export(
    uri: str,
    out: str,
    *,
    target: Format,
    samples: Sequence[bytes] = (),
    write: Writer | None = None,
) -> Exported:
    """Writes a bundle's model, its metadata and its model card into the folder or prefix `out`.

    `write` writes the file, by default that of the format. It takes `images`, uint8 (N, 3, S, S), N
    free, and gives `probabilities`, float32 (N, C). Before it is kept, it is compared with the
    bundle on the golden images and the encoded `samples`. Raises ConfigError where a package is
    missing, BundleError for a bad bundle or an export with other probabilities, ImageError for a
    bad sample, and StorageError where the model cannot be written; then `out` is as it was.
    """
    if target == "onnx":
        _require(_PACKAGES)
    destinations.check_writable(out, "OUT")
    info, network = bundle.load(uri)
    if info.quantized:
        raise BundleError(
            f"The model of {uri} computes in 8 bits, which no export does; export the version that "
            "it was made from."
        )
    commit = storage.read_bytes(storage.join(uri, storage.COMMIT))
    properties = metadata(info, storage.describe(commit)["sha256"])
    classifier = Classifier(info, network, torch.device("cpu"), precision="fp32")
    classifier.check()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / FILES[target]
        (write or WRITERS[target])(Portable(info, network), properties, path)
        images, difference = check(path, classifier, samples)
        data = path.read_bytes()
    place = storage.join(out, FILES[target])
    storage.write_bytes(place, data)  # first: a full disk ends here
    storage.write_json(f"{place}.json", properties)
    storage.write_bytes(storage.join(out, CARD), card(info).encode())
    return Exported(place, images, difference)


def images_in(folder: str, at_most: int = 100) -> list[bytes]:
    """Reads images below a folder or prefix, evenly spread over its files by name.

    Raises DataError where there is none, StorageError.
    """
    files = storage.list_files(folder)
    found = []
    for entry in files[:: -(-len(files) // at_most) or 1]:
        data = storage.read_bytes(entry.uri)
        try:
            decoding.decode(data)
        except ImageError:
            continue
        found.append(data)
    if not found:
        raise DataError(
            f"{storage.normalize(folder)} holds no readable image among {len(files)} files; give a "
            "folder of images like those that the model is for."
        )
    return found


def metadata(info: BundleInfo, sha256: str) -> dict[str, Any]:
    """Metadata for the user of an exported file: classes, input, output, preprocessing; plain JSON.

    `sha256` is that of the bundle's `COMMIT`, which holds those of its files.
    """
    size = info.image_size
    return {
        "name": info.name,
        "classes": list(info.classes),
        "image_size": size,
        "framing": info.framing,
        "input": f"images: uint8 (N, 3, {size}, {size}), RGB",
        "output": f"probabilities: float32 (N, {len(info.classes)}), in the order of classes",
        "preprocessing": preprocessing(info),
        "test_flips": info.test_flips,
        "temperature": info.temperature,
        "uncertain_below": info.uncertain_below,
        "prediction_sets": asdict(info.prediction_sets) if info.prediction_sets else None,
        "data_digest": info.manifest_digest,
        "bundle_sha256": sha256,
        "created": info.created,
    }


class Portable(nn.Module):
    """Pixels to a bundle's probabilities, as one module of operations that every runtime has."""

    def __init__(self, info: BundleInfo, network: nn.Sequential) -> None:
        super().__init__()
        self.normalize = Normalize(info.mean, info.std, torch.float32)
        self.network = copy.deepcopy(network)
        self.eval().requires_grad_(False)
        _fold(self.network)
        self._flips, self._temperature = FLIPS[info.test_flips], info.temperature

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Maps uint8 (N, 3, S, S) to float32 (N, C); the flips of a batch go through together."""
        flipped = torch.cat([images.flip(dims) for dims in self._flips])
        probabilities = torch.softmax(self.network(self.normalize(flipped)), dim=1)
        mean = probabilities.view(len(self._flips), -1, probabilities.shape[1]).mean(0)
        return calibrate(mean, self._temperature)


def check(path: Path, classifier: Classifier, samples: Sequence[bytes]) -> tuple[int, float]:
    """Compares an exported file with a classifier on the same images, alone and in batches.

    Returns how many, and the largest difference of a probability. Raises BundleError where one is
    above `TOLERANCE` or another class comes first, ImageError for a bad sample.
    """
    predict = _open_onnx(path) if path.name == FILES["onnx"] else _open_torch(path)
    images = [*golden.pictures().values(), *samples]
    pixels = torch.stack([classifier.preprocess(data) for data in images])
    furthest = 0.0
    for batch in (pixels[:1], *torch.split(pixels, _BATCH)):
        expected, found = classifier.predict(batch), predict(batch)
        same = found.shape == expected.shape and bool((found.argmax(1) == expected.argmax(1)).all())
        difference = float((found - expected).abs().max()) if same else float("inf")
        if not difference <= TOLERANCE:  # NaN is not
            what = f"by up to {difference:.3g} otherwise" if same else "another class first"
            raise BundleError(
                f"The export of {classifier.info.name} answers {what} than its bundle; the same "
                f"class and {TOLERANCE:g} are the rule, so it was not kept. Try the other format, "
                "or other versions of torch and the ONNX packages."
            )
        furthest = max(furthest, difference)
    return len(pixels), furthest


def _require(packages: Sequence[str]) -> None:
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    if missing:
        raise ConfigError(
            f"The format onnx needs {', '.join(missing)}, which is not installed; run "
            f"`pip install {' '.join(packages)}`, or use the format torch."
        )


def _fold(module: nn.Module) -> None:
    for name, child in module.named_children():
        if isinstance(child, BasicConv2d):
            setattr(module, name, nn.Sequential(fuse_conv_bn_eval(child.conv, child.bn), nn.ReLU()))
        else:
            _fold(child)


def _program(model: Portable, properties: dict[str, Any]) -> torch.export.ExportedProgram:
    size = properties["image_size"]
    example = torch.zeros(2, 3, size, size, dtype=torch.uint8)  # of 1 the batch would be a constant
    batch = torch.export.Dim("batch")
    return torch.export.export(model, (example,), dynamic_shapes={"images": {0: batch}})


def _write_onnx(model: Portable, properties: dict[str, Any], path: Path) -> None:
    onnx = torch.onnx.export(
        _program(model, properties), input_names=["images"], output_names=["probabilities"],
        dynamo=True, verbose=False,
    )  # fmt: skip
    assert onnx is not None  # noqa: S101 -- what `dynamo` gives without a path
    onnx.model.metadata_props.update(
        {key: v if isinstance(v, str) else json.dumps(v) for key, v in properties.items()}
    )
    onnx.save(path, external_data=False)


def _open_onnx(path: Path) -> Callable[[torch.Tensor], torch.Tensor]:
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return lambda batch: torch.from_numpy(
        session.run(["probabilities"], {"images": batch.numpy()})[0]
    )


def _write_torch(model: Portable, properties: dict[str, Any], path: Path) -> None:
    program = _program(model, properties)
    torch.export.save(program, path, extra_files={EXTRA: json.dumps(properties)})


WRITERS: dict[Format, Writer] = {
    "onnx": _write_onnx, "torch": _write_torch,
}  # fmt: skip
"""Functions that write a model and its metadata to a file, by format."""


def _open_torch(path: Path) -> Callable[[torch.Tensor], torch.Tensor]:
    return torch.export.load(path).module()
