"""The endpoint's answers: typed JSON objects, from which the OpenAPI document is generated.

They are dictionaries that mypy checks, so that an answer costs no validation and no copy. The
docstrings and descriptions are part of the OpenAPI document.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, NotRequired

from pydantic import Field
from typing_extensions import TypedDict  # pydantic needs this one before Python 3.12

from rtl.config.schema import Framing


class ErrorDetail(TypedDict):
    """An error."""

    type: str
    message: str


class Error(TypedDict):
    """An answer that is an error."""

    error: ErrorDetail


class ImageErrorDetail(ErrorDetail):
    """The error of one image among several."""

    status: Annotated[int, Field(description="The HTTP status that this image alone would get.")]


class Model(TypedDict):
    """The model that answered."""

    name: str
    version: Annotated[int | None, Field(description="Its version in the registry.")]
    unfrozen_layers: Annotated[int, Field(description="Blocks of the network that were trained.")]
    created: Annotated[str, Field(description="ISO 8601, UTC.")]
    framing: Annotated[Framing, Field(description="How an image becomes the network's square.")]


class Prediction(TypedDict):
    """A class with its calibrated probability."""

    label: str
    probability: float


class Result(TypedDict):
    """The result for one image: `predictions`, or an `error`."""

    file: Annotated[str | None, Field(description="The file's name, where the request has one.")]
    predictions: NotRequired[
        Annotated[list[Prediction], Field(description="The most probable class first.")]
    ]
    uncertain: NotRequired[
        Annotated[bool, Field(description="The confidence is too low to rely on.")]
    ]
    one_of: NotRequired[
        Annotated[
            list[str],
            Field(
                description="Prediction set: classes among which the true one is with probability "
                "`coverage`, the most probable first; all of them, whatever `top_k` is. Empty "
                "where the model has no prediction sets."
            ),
        ]
    ]
    coverage: NotRequired[
        Annotated[
            float | None,
            Field(
                description="Probability that `one_of` holds the true class, over all images like "
                "the validation images; null where the model has no prediction sets."
            ),
        ]
    ]
    version: NotRequired[
        Annotated[int | None, Field(description="Version of the model that answered.")]
    ]
    heatmap: NotRequired[
        Annotated[
            str,
            Field(
                description="Regions that support the first prediction; with explain=true.",
                json_schema_extra={"contentEncoding": "base64", "contentMediaType": "image/png"},
            ),
        ]
    ]
    error: NotRequired[ImageErrorDetail]


class Answer(TypedDict):
    """The answer to a request to predict."""

    model: Model
    results: Annotated[list[Result], Field(description="One for each image, in their order.")]


class Quantization(TypedDict):
    """Accuracy of a model in 8 bits beside the model that it was made from."""

    rows: Annotated[int, Field(description="Validation images that both classified.")]
    accuracy: float
    accuracy_before: float
    agreement: Annotated[float, Field(description="Share with the same class from both.")]


class Estimate(TypedDict):
    """A share with its 95 % interval."""

    value: float
    low: float
    high: float


class SetCoverage(TypedDict):
    """Prediction sets measured on test images."""

    rows: int
    coverage: Annotated[Estimate, Field(description="Share of sets that hold the true class.")]
    mean_size: Annotated[float, Field(description="Classes in a set, in the mean.")]
    single: Annotated[float, Field(description="Share of sets that are one class.")]


class PredictionSets(TypedDict):
    """The rule of `one_of` and its promise."""

    threshold: Annotated[
        float, Field(description="Lowest probability of a class in a set; 0 for all classes.")
    ]
    coverage: Annotated[
        float, Field(description="Probability asked for that a set holds the true class.")
    ]
    confidence: Annotated[
        float, Field(description="Probability asked for that this model reaches `coverage`.")
    ]
    guarantee: Annotated[
        Literal["confident", "average", "all_classes"],
        Field(
            description="`confident`: `coverage` is reached with probability `confidence`; "
            "`average`: in the mean over models made so; `all_classes`: too few validation images "
            "for either, so that sets are all classes."
        ),
    ]
    rows: Annotated[int, Field(description="Validation images that it was made from.")]
    expected: Annotated[
        Estimate | None,
        Field(description="Expected coverage over later images; null where sets are all classes."),
    ]
    test: Annotated[
        SetCoverage | None, Field(description="Measured on test images; null without any.")
    ]


class Card(Model):
    """The current model and its measured quality."""

    classes: list[str]
    image_size: Annotated[int, Field(description="Side of the network's input in pixels.")]
    metrics: Annotated[
        dict[str, dict[str, Any] | None],
        Field(description="Metrics by split, `test` and `val`, with 95 % intervals."),
    ]
    temperature: Annotated[float, Field(description="Calibration temperature; 1 for none.")]
    uncertain_below: Annotated[
        float, Field(description="Confidence below which an answer is `uncertain`.")
    ]
    prediction_sets: Annotated[
        PredictionSets | None, Field(description="Null for a model of an earlier version.")
    ]
    test_flips: str
    manifest_digest: Annotated[str, Field(description="Digest of the data set.")]
    versions: Annotated[dict[str, str], Field(description="Software that made the model.")]
    quantized: Quantization | None
    rejected: Annotated[
        list[str], Field(description="Why other bundles were not taken into service.")
    ]


class DriftReport(TypedDict):
    """Distance of recent answers from those on validation data."""

    rows: Annotated[int, Field(description="Recent images.")]
    confidence: Annotated[
        float | None, Field(description="Population stability index of the confidence.")
    ]
    distance: Annotated[
        float | None, Field(description="Population stability index of the features' distance.")
    ]
    level: Literal["same", "moved", "other", "unknown"]


class Money(TypedDict):
    """An amount in the currency of `error_price`, with its 95 % interval."""

    value: float
    low: float
    high: float


class AccuracyReport(TypedDict):
    """Accuracy of recent answers, estimated without labels as the mean of their probabilities."""

    rows: Annotated[int, Field(description="Recent images.")]
    estimate: Annotated[
        Estimate | None,
        Field(
            description="Share of right answers; the interval counts chance in these answers and "
            "the calibration's own error on labelled images. Null where there is a `reason`."
        ),
    ]
    reason: Annotated[
        Literal["few_answers", "drift", "not_measured"] | None,
        Field(
            description="Why nothing is estimated: too few answers yet; drift, under which the "
            "calibration may not hold; a model without a measured calibration."
        ),
    ]
    error_price: Annotated[
        float | None, Field(description="Price of one wrong answer; null where none was given.")
    ]
    cost_per_1000: Annotated[
        Money | None,
        Field(description="Price of the wrong answers among 1,000 images, as estimated."),
    ]


class KeptReport(TypedDict):
    """Images with an uncertain answer that are kept for labelling."""

    images: Annotated[
        int | None, Field(description="Images that are kept; null before the first was offered.")
    ]
    maximum: Annotated[int, Field(description="Limit of `images`.")]
    added: Annotated[int, Field(description="Images that were written since the start.")]
    skipped: Annotated[
        int, Field(description="Images that were not looked at, because too many waited.")
    ]
    failed: Annotated[int, Field(description="Images that could not be written.")]
    fault: Annotated[
        str | None, Field(description="Error of the latest image, where it could not be written.")
    ]


class Traffic(TypedDict):
    """Statistics of the images that were classified."""

    model: Model
    drift: DriftReport
    accuracy: AccuracyReport
    kept: Annotated[
        KeptReport | None, Field(description="Null where `serve.keep_uncertain` is not set.")
    ]
    canary: Annotated[
        dict[str, Any] | None,
        Field(description="The canary beside the current model: share, agreement, means."),
    ]


class Health(TypedDict):
    """The state of the endpoint."""

    status: str
    model: Model
