"""A finished model: `load_model`, `evaluate`, `predict`, `export`."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from rtl.api.configuration import Location, Recipe, configure, text_of
from rtl.errors import ConfigError
from rtl.runtime import session

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

    from rtl.data.shards import LeftOut
    from rtl.evaluation.metrics import Scores
    from rtl.exporting.export import Exported, Format
    from rtl.model.bundle import BundleInfo, Classifier

Image = Location | bytes
"""An image: its path or URI, or its encoded bytes (JPEG, PNG, WebP, TIFF, ...)."""

Split = Literal["train", "val", "test"]


@dataclass(frozen=True)
class Answer:
    """A model's answer for one image."""

    label: str
    """The most probable class."""
    probability: float
    """Calibrated probability of `label`, 0 to 1."""
    uncertain: bool
    """Whether the probability is too low to rely on."""
    probabilities: Mapping[str, float]
    """Probability of every class, most probable first."""
    one_of: tuple[str, ...] = ()
    """Prediction set: classes among which the true one is with probability `coverage`, most
    probable first. Empty for a model that an earlier version made."""
    coverage: float | None = None
    """Probability that the true class is in `one_of`, over all images like those of `val`; None for
    a model that an earlier version made. `Model.info.prediction_sets` has more."""


@dataclass(frozen=True, eq=False)
class Explanation:
    """The parts of an image that speak for a class (Grad-CAM). A notebook shows it as a picture."""

    label: str
    """The class that is explained."""
    probability: float
    """Its calibrated probability, 0 to 1."""
    heatmap: NDArray[np.float32] = field(repr=False)
    """How much each part speaks for the class: float32 (H, W), 0 to 1."""
    png: bytes = field(repr=False)
    """The image as the network sees it, the heatmap over it in yellow and red; a PNG."""

    def _repr_png_(self) -> bytes:
        return self.png


@dataclass(frozen=True)
class Evaluation:
    """A model's scores on a split."""

    uri: str
    """The model's bundle."""
    data: str
    """The data set."""
    split: Split
    scores: Scores
    """Accuracy, macro F1, ROC AUC and more, with 95 % intervals."""


@dataclass(frozen=True)
class Answers:
    """A model's answers for many images, in Parquet files."""

    uri: str
    """The folder of the Parquet files: `pyarrow.parquet.read_table(uri)` reads them all."""
    rows: int
    """Images, unreadable ones included."""
    uncertain: int
    """Answers whose probability is too low to rely on."""
    errors: int
    """Images that could not be read; the column `error` tells why."""
    left_out: tuple[LeftOut, ...]
    """Files of the source that are no images."""


@dataclass(frozen=True, eq=False)
class Model:
    """A loaded model: answers in this process, without Ray."""

    uri: str
    """The model's bundle."""
    classifier: Classifier = field(repr=False)

    @property
    def info(self) -> BundleInfo:
        """Everything that the bundle says about the model: scores, data set, config, versions."""
        return self.classifier.info

    @property
    def classes(self) -> tuple[str, ...]:
        """The classes, in the order of the network's outputs."""
        return self.info.classes

    def predict(self, image: Image) -> Answer:
        """The answer for one image.

        Raises ImageError for bytes that are no usable image, NotFoundError and StorageError.
        """
        from rtl.evaluation import conformal

        pixels = self._pixels(image)
        found = self.classifier.predict(pixels[None])[0].tolist()
        ranked = sorted(zip(self.classes, found, strict=True), key=lambda pair: -pair[1])
        label, probability = ranked[0]
        sets = self.info.prediction_sets
        return Answer(
            label=label,
            probability=probability,
            uncertain=probability < self.info.uncertain_below,
            probabilities=dict(ranked),
            one_of=conformal.one_of(sets, self.classes, found),
            coverage=sets.coverage if sets else None,
        )

    def explain(self, image: Image, *, label: str | None = None) -> Explanation:
        """The parts of an image that speak for `label`, by default the most probable class.

        Raises ConfigError for an unknown label, and the errors of `predict`.
        """
        if label is not None and label not in self.classes:
            raise ConfigError(
                f"label is {label!r}; the model's classes are {', '.join(self.classes)}."
            )
        pixels = self._pixels(image)
        output = self.classifier.output(pixels[None])
        probabilities = output.probabilities[0].tolist()
        best = max(range(len(probabilities)), key=probabilities.__getitem__)
        number = best if label is None else self.classes.index(label)
        heat = self.classifier.heatmap(output.maps[0], number)
        png = _overlay(pixels, heat)
        return Explanation(self.classes[number], probabilities[number], heat.numpy(), png)

    def _pixels(self, image: Image) -> torch.Tensor:
        """uint8 (3, S, S) as the network sees an image."""
        from rtl import storage

        data = image if isinstance(image, bytes) else storage.read_bytes(text_of(image))
        return self.classifier.preprocess(data)


def load_model(model: Location, *, storage: Location | None = None, use_gpu: bool = False) -> Model:
    """Loads a model into this process, after all of its checks; Ray is not needed.

    `model` is a name in the registry under `storage` (its current version, or `NAME@VERSION`), or
    a bundle's path or URI. Raises BundleError, and ResourceError for a GPU that is not there.
    """
    session.silence()
    from rtl.model import bundle, device

    uri = _resolve(model, storage)
    classifier = bundle.Classifier.load(uri, device.pick(use_gpu))
    classifier.check()
    return Model(uri, classifier)


def evaluate(
    model: Location,
    data: Location | None = None,
    *,
    split: Split = "test",
    storage: Location | None = None,
    recipe: Recipe | None = None,
    overrides: Mapping[str, Any] | None = None,
    progress: bool = False,
) -> Evaluation:
    """Scores a model on a split of a packed data set, every row once.

    `model` as in `load_model`. Raises BundleError, DataError where the split is empty or the
    classes differ, and ResourceError for a GPU that is not there.
    """
    session.silence()
    from rtl.batch_inference import evaluate as evaluation
    from rtl.display import progress_views
    from rtl.model import registry

    given = {"data.uri": data and text_of(data), "storage": storage and text_of(storage)}
    config = configure(recipe, overrides=overrides, given=given)
    if config.data.uri is None:
        raise ConfigError("data.uri is not set; give the packed data set with --data URI.")
    uri = registry.resolve(config.storage, text_of(model))
    with progress_views.bars_if(progress) as on_progress:
        scores = evaluation.evaluate(
            uri, config.data.uri, split=split, use_gpu=bool(config.train.gpus_per_worker),
            progress=lambda done, total: on_progress(done, total, "rows"),
        )  # fmt: skip
    return Evaluation(uri, config.data.uri, split, scores)


def predict(
    model: Location,
    source: Location,
    *,
    dest: Location,
    storage: Location | None = None,
    recipe: Recipe | None = None,
    overrides: Mapping[str, Any] | None = None,
    progress: bool = False,
) -> Answers:
    """Answers for many images, in Parquet files below `dest`; called again, it goes on.

    `model` as in `load_model`. `source` is a folder or prefix of images, or a packed data set. The
    answers have the columns `id`, `label`, `probability`, `uncertain`, `probabilities`, `one_of`
    and `error`.
    Raises BundleError, DataError, NotFoundError, ConfigError, ResourceError and StorageError.
    """
    session.silence()
    from rtl import storage as objects
    from rtl.batch_inference import chunks
    from rtl.batch_inference import predict as prediction
    from rtl.display import progress_views
    from rtl.model import registry

    given = {"storage": storage and text_of(storage)}
    config = configure(recipe, overrides=overrides, given=given)
    uri = registry.resolve(config.storage, text_of(model))
    with progress_views.bars_if(progress) as on_progress:
        summary = prediction.predict(
            uri, text_of(source), dest=text_of(dest),
            use_gpu=bool(config.train.gpus_per_worker),
            progress=lambda done, total: on_progress(done, total, "images"),
        )  # fmt: skip
    place = objects.join(objects.normalize(text_of(dest)), chunks.ANSWERS)
    return Answers(place, summary.rows, summary.uncertain, summary.errors, summary.left_out)


def export(
    model: Location,
    out: Location,
    *,
    format: Format = "onnx",  # noqa: A002 -- as the command's option is called
    check: Location | None = None,
    storage: Location | None = None,
) -> Exported:
    """Writes a model as one file for a runtime without rtl, its metadata and its model card.

    `model` as in `load_model`; `format` is `onnx` or `torch`. The export answers images as the
    bundle does before it is kept; `check` is a folder of more images for that. Raises ConfigError
    where a package is missing, BundleError, ImageError and StorageError.
    """
    session.silence()
    from rtl.exporting import export as exporting

    uri = _resolve(model, storage)
    samples = exporting.images_in(text_of(check)) if check else []
    return exporting.export(uri, text_of(out), target=format, samples=samples)


def _resolve(model: Location, storage: Location | None) -> str:
    """The URI of a model's bundle."""
    from rtl.model import registry

    given = {"storage": storage and text_of(storage)}
    return registry.resolve(configure(None, overrides=None, given=given).storage, text_of(model))


def _overlay(pixels: torch.Tensor, heat: torch.Tensor) -> bytes:
    """uint8 (3, S, S) and float32 (H, W) as one picture, a PNG."""
    from PIL import Image as Pictures

    from rtl.data.images.decoding import heatmap_png

    photo = Pictures.fromarray(pixels.permute(1, 2, 0).numpy()).convert("RGBA")
    layer = Pictures.open(io.BytesIO(heatmap_png(heat, pixels.shape[1])))
    buffer = io.BytesIO()
    Pictures.alpha_composite(photo, layer).convert("RGB").save(buffer, "PNG")
    return buffer.getvalue()
