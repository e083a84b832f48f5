"""A model card: a bundle's properties as Markdown, for readers who use or assess the model.

The headings are those of M. Mitchell et al. 2019 (Model Cards for Model Reporting), as far as a
bundle can fill them; what it cannot know, such as how the photos were chosen, the card asks for.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

from rtl.config.schema import Framing
from rtl.evaluation.metrics import Scores
from rtl.model.bundle import BundleInfo
from rtl.model.inception import BLOCKS

CLASS_ROWS = 20
"""Most classes that have a line of their own in the scores, those of lowest recall first."""

_SCORES = {
    "accuracy": "Accuracy", "top5": "Top-5 accuracy", "macro_f1": "Macro F1", "auc": "ROC AUC",
}  # fmt: skip
_CONFIG = {
    "optimizer.lr": "Peak learning rate of the head",
    "optimizer.tail_lr_factor": "... times this for the blocks",
    "train.epochs": "Epochs, at most",
    "train.minutes": "Minutes for them",
    "train.metric": "Score on `val` that chose the epoch",
    "train.rows": "Share of the training rows used",
    "train.batch_size": "Batch size",
    "features.views": "Views of each image",
    "train.label_smoothing": "Label smoothing",
    "train.class_weights": "Class weights",
    "train.flip_features": "Flips of the features",
    "train.mixup": "Mixup",
    "train.ema": "Moving average of the weights",
    "model.dropout": "Dropout",
    "model.batch_norm": "BatchNorm in the unfrozen blocks",
    "train.seed": "Seed",
}
_FLIPS = {
    "none": "the image as it is",
    "horizontal": "the mean over the image and its mirror image",
    "both": "the mean over the image flipped left to right, top to bottom, both and not at all",
}
_FRAMED: dict[Framing, str] = {
    "crop": "crop the centre square whose side is the image's shorter one; resize it to {size} x "
    "{size} pixels, bilinear with antialiasing",
    "pad": "resize it, bilinear with antialiasing, so that its longer side has {size} pixels and "
    "the shorter one as many as keep its proportions, rounded, at least 1; lay it into the middle "
    "of a black square of {size} x {size} pixels, the odd pixel to the right or below",
    "stretch": "resize it to {size} x {size} pixels, whatever its shape, bilinear with "
    "antialiasing",
}
_SEEN: dict[Framing, str] = {
    "crop": "the centre square of an image alone",
    "pad": "the whole image, padded to a square",
    "stretch": "the whole image, stretched to a square",
}
"""The part of an image that the network sees, by framing."""


def card(info: BundleInfo) -> str:
    """Writes the Markdown text; what the bundle does not know is left out or called unknown."""
    parts = [
        f"# {_plain(info.name)}",
        f"An image classifier for {len(info.classes)} classes: Inception V3 of which "
        f"{_trained(info.unfrozen_layers)}, made {info.created}.",
        "## Classes",
        "In the order of the outputs: " + ", ".join(_plain(name) for name in info.classes) + ".",
        *_use(info),
        *_training(info),
        *_scores(info),
        *_calibration(info),
        "## Preprocessing",
        preprocessing(info)
        + f" The network then scales them by mean {_numbers(info.mean)} and standard deviation "
        f"{_numbers(info.std)} of RGB from 0 to 1. Its answer is {_FLIPS[info.test_flips]}.",
        "## Made with",
        _table(("Package", "Version"), sorted(info.versions.items())),
        *_quantized(info),
        *_serving(info),
    ]
    return "\n\n".join(parts) + "\n"


def preprocessing(info: BundleInfo) -> str:
    """Describes in words how an image file becomes the pixels that the network takes."""
    size = info.image_size
    return (
        "Decode to RGB, 8 bits a channel, with EXIF rotation applied and transparency laid on "
        f"white; {_FRAMED[info.framing].format(size=size)}; lay it out as uint8 "
        f"(3, {size}, {size})."
    )


def _use(info: BundleInfo) -> list[str]:
    return [
        "## Intended use and limits",
        "For images like those that it was trained on, told apart into these classes. A person "
        "should decide where a wrong answer does harm.",
        "- It always names one of its classes, also for an image that shows none of them.\n"
        f"- It sees {_SEEN[info.framing]}, at "
        f"{info.image_size} x {info.image_size} pixels.\n"
        "- Images from another camera, place or time than those it was scored on can be answered "
        "worse than the scores say, and as confidently.\n"
        "- The intervals take images as independent draws: several photos of one object, in one "
        "split or in two, make the scores look better and surer than they are.\n"
        "- How the images were chosen, who labelled them, and how it does on groups within a class "
        "is not recorded; who publishes this card should add it.",
    ]


def _training(info: BundleInfo) -> list[str]:
    rows = [
        ("Started from", " ".join(f"{key} `{v}`" for key, v in sorted(info.weights.items()))),
        ("Retrained", f"k = {info.unfrozen_layers}: {_trained(info.unfrozen_layers)}"),
        ("Data set", f"digest `{info.manifest_digest}`"),
    ]
    for key, label in _CONFIG.items():
        section, name = key.split(".")
        value = info.config.get(section, {}).get(name)
        if value is not None:
            rows.append((label, f"{value:g}" if isinstance(value, float) else str(value)))
    augment = info.config.get("data", {}).get("augment")
    if augment:
        views = ", ".join(f"{key} {value}" for key, value in sorted(augment.items()))
        rows.append(("Random views", views))
    seconds = info.cost.get("train_seconds")
    if seconds is not None:
        rows.append(("Time of the fit", f"{seconds:.0f} s"))
    return ["## How it was trained", _table(("", ""), rows)]


def _scores(info: BundleInfo) -> list[str]:
    found = {split: info.metrics.get(split) for split in ("val", "test")}
    scored = {split: scores for split, scores in found.items() if scores}
    lines = [
        (label, *(_interval(scores.get(key)) for scores in scored.values()))
        for key, label in _SCORES.items()
        if any(scores.get(key) for scores in scored.values())
    ]
    if any("log_loss" in scores for scores in scored.values()):
        losses = (scores.get("log_loss") for scores in scored.values())
        lines.append(("Log loss (nats)", *("-" if v is None else f"{v:.4f}" for v in losses)))
    heads = [
        f"`{split}`, {scores['rows']} rows" if "rows" in scores else f"`{split}`"
        for split, scores in scored.items()
    ]
    conditions = "the fit: temperature 1, no test-time flips"
    opened = "once, for the finished model"
    if info.quantized:
        conditions = "the model in 8 bits, as it is served"
        opened = "once for the model that this one was made from, and once for this one"
    parts = ["## Scores"]
    if scored:
        parts += ["With 95 % intervals.", _table(("", *heads), lines)]
    if found["val"]:
        parts.append(
            "`val` chose the epoch, and after a search the depth and the learning rate too, so "
            f"that its scores are optimistic. They are of {conditions}."
        )
    if found["test"]:
        parts.append(f"`test` was opened {opened}, as it is served.")
    else:
        parts.append(
            "**There are no scores on `test`**: how good it is on images that had no part in "
            "choosing it was not measured."
        )
    split = "test" if found["test"] else "val"
    return parts + _by_class(split, found[split] or {})


def _by_class(split: str, content: dict[str, Any]) -> list[str]:
    if "confusion" not in content:
        return []
    scores = Scores.from_dict(content)
    lines = sorted(
        ((line.recall, line) for line in scores.per_class() if line.recall is not None),
        key=lambda pair: pair[0].value,
    )
    largest = max((line for _, line in lines), key=lambda line: line.support)
    rows = [
        (
            _plain(line.name),
            str(line.support),
            _interval(recall.to_dict()),
            _interval(line.precision.to_dict() if line.precision else None),
        )
        for recall, line in lines[:CLASS_ROWS]
    ]
    return [
        f"Always answering {_plain(largest.name)} would have an accuracy of "
        f"{largest.support / scores.rows:.3f} on `{split}`. By class, lowest recall first"
        + (f" ({CLASS_ROWS} of {len(lines)}):" if len(lines) > CLASS_ROWS else ":"),
        _table(("Class", "Rows", "Recall", "Precision"), rows),
    ]


def _calibration(info: BundleInfo) -> list[str]:
    if info.temperature == 1.0:
        scaling = "The temperature is 1: probabilities are as the network gives them."
    else:
        side = "less" if info.temperature > 1 else "more"
        scaling = (
            f"The logits are divided by a temperature of {info.temperature:g}, found on `val`: "
            f"the probabilities are {side} sure than the network alone."
        )
    wanted = info.config.get("train", {}).get("certain_accuracy")
    share = "the share that was asked for" if wanted is None else f"{wanted:.0%}"
    if info.uncertain_below == 0.0:
        means = "No answer is called uncertain: `uncertain_below` is 0."
    elif info.uncertain_below == 1.0:
        means = (
            "Nearly every answer is called uncertain (`uncertain_below` is 1): not even the "
            f"surest ones on `val` were right in {share} of the rows."
        )
    else:
        means = (
            f"An answer whose most probable class has less than {info.uncertain_below:.4g} "
            f"(`uncertain_below`) is called uncertain. On `val` at least {share} of the others "
            "were right."
        )
    return ["## Calibration", f"{scaling} {means}", *_prediction_sets(info)]


def _prediction_sets(info: BundleInfo) -> list[str]:
    sets = info.prediction_sets
    if sets is None:
        return []
    promise = {
        "confident": f"with a confidence of {sets.confidence:.0%}",
        "average": f"in the mean over models made so; {sets.rows} rows are too few for more",
        "all_classes": f"because each set is all classes: {sets.rows} rows are too few for less",
    }[sets.guarantee]
    lines = [
        "Beside an answer stands its prediction set (`one_of`): the most probable class, and all "
        f"with a probability of at least {sets.threshold:.4g}, found on {sets.rows} rows of `val` "
        f"by split conformal prediction. It holds the true class for {sets.coverage:.0%} of the "
        f"images, {promise}."
    ]
    if sets.expected is not None:
        low, high = sets.expected.low, sets.expected.high
        lines[0] += f" Expected of this model are {low:.1%} to {high:.1%}."
    if sets.test is not None:
        found = sets.test
        lines.append(
            f"On the {found.rows} rows of `test` {found.coverage.value:.1%} of the sets hold the "
            f"true class (95 % interval {found.coverage.low:.1%} to {found.coverage.high:.1%}). "
            f"A set has {found.mean_size:.2f} classes in the mean; {found.single:.0%} have one."
        )
    return lines


def _quantized(info: BundleInfo) -> list[str]:
    proof = info.quantized
    if proof is None:
        return []
    return [
        "It computes in 8 bits, made from a model in floating point. On the "
        f"{proof.rows} rows of `val` its accuracy is {proof.accuracy:.4f}, that model's "
        f"{proof.accuracy_before:.4f}, and both name the same class for {proof.agreement:.2%}."
    ]


def _serving(info: BundleInfo) -> list[str]:
    name = info.name
    export = f"rtl export {name} OUT --format onnx --storage ROOT    # for a runtime without rtl\n"
    return [
        "## How to serve it",
        "```\n"
        f"rtl promote {name} VERSION --storage ROOT    # a number from ROOT/registry/{name}/\n"
        f"rtl serve {name} --storage ROOT\n"
        "curl --data-binary @photo.jpg http://127.0.0.1:8000/v1/predict\n"
        f"{'' if info.quantized else export}```",
    ]


def _trained(k: int) -> str:
    if k == 0:
        return "the head alone was trained"
    if k == 1:
        return f"the head and the last of {len(BLOCKS)} blocks ({BLOCKS[-1]}) were trained"
    first = f"{BLOCKS[-k]} to {BLOCKS[-1]}"
    return f"the head and the last {k} of {len(BLOCKS)} blocks ({first}) were trained"


def _interval(estimate: dict[str, float] | None) -> str:
    if estimate is None:
        return "-"
    return f"{estimate['value']:.3f} ({estimate['low']:.3f} to {estimate['high']:.3f})"


def _numbers(values: Iterable[float]) -> str:
    return "(" + ", ".join(f"{value:g}" for value in values) + ")"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _plain(text: str) -> str:
    """Escapes a name: nothing in it is Markdown, HTML or the border of a table's cell."""
    return re.sub(r"([\\`*_\[\]<>|#&~])", r"\\\1", " ".join(text.split()))
