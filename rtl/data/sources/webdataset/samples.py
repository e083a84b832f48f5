"""Members of a tar to samples: which label belongs to which image, and what belongs to none.

An image pairs with the label of its own name (`a 0.0.jpg`, `a 0.0.cls`), else with that of its name
cut at a dot (`x.input.jpg`, `x.cls`). Every member is a row, part of one, quarantined or left out.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from rtl.data.shards import Quarantined
from rtl.data.sources.files import IMAGE_SUFFIXES, OTHER_IMAGE_SUFFIXES
from rtl.data.sources.rows import no_image, shown, unlabelled

IMAGE, OTHER_IMAGE = "image", "other image"
LABELS = ("cls", "label", "class", "json", "txt")
"""Parts that hold a label; the first that a sample has is its label."""
BESIDE = "tar members that are neither an image nor a label of a sample"

_ENDINGS = {
    **dict.fromkeys(OTHER_IMAGE_SUFFIXES, OTHER_IMAGE),
    **dict.fromkeys(IMAGE_SUFFIXES, IMAGE),
    **{part: part for part in LABELS},
    **{f"{part}.txt": part for part in ("cls", "label", "class")},
}
_LONGEST = sorted(_ENDINGS, key=len, reverse=True)
_MAX_TXT = 100


@dataclass(frozen=True, slots=True)
class Member:
    """A member of a tar that is an image or a label."""

    path: str
    """Inside the tar, as it stands there but for `.` and empty names."""
    stem: str
    """The path without the ending that tells the part."""
    part: str
    """`IMAGE`, `OTHER_IMAGE` or one of `LABELS`."""
    offset: int = 0
    size: int = 0
    label: str = ""
    """The text of a label, empty where it has none."""
    fault: str = ""
    """The reason why its bytes cannot be used, a sentence."""


@dataclass
class _Sample:
    exact: list[Member] = field(default_factory=list)
    """Images of the sample's own name."""
    longer: list[Member] = field(default_factory=list)
    """Images whose name goes on behind a dot."""
    other: list[Member] = field(default_factory=list)
    """Images of a format that is not decoded."""
    labels: dict[str, list[Member]] = field(default_factory=dict)


def part_of(path: str) -> tuple[str, str]:
    """Stem and part of a member by its name's ending; the part is empty for other members."""
    folder, _, name = path.rpartition("/")
    for ending in _LONGEST:
        if name.lower().endswith(f".{ending}") and len(name) > len(ending) + 1:
            return f"{folder}/{name[: -len(ending) - 1]}".lstrip("/"), _ENDINGS[ending]
    return path, ""


def pair(
    members: Iterable[Member],
    tar: str,
    *,
    quarantine: list[Quarantined],
    leave_out: Callable[[str], None],
) -> Iterator[tuple[str, Member, str]]:
    """Each image that has a label, as id, member and label.

    `tar` stands before the members' names in ids. `leave_out` takes the paths of members that are
    part of no sample.
    """
    for sample in _samples(members).values():
        images = sample.exact or sample.longer
        label = next((sample.labels[part] for part in LABELS if part in sample.labels), [])
        beside = [*(sample.longer if sample.exact else []), *(sample.other if images else [])]
        if not images and not sample.other:
            if _may_be_another_text(label[0]):
                beside += itertools.chain.from_iterable(sample.labels.values())
            else:
                identity = f"{tar}/{shown(inside(label[0].stem))}"
                quarantine.append(no_image(identity, "the tar holds its label alone"))
        for member in beside:
            leave_out(member.path)
        for image in images or sample.other:
            identity = f"{tar}/{shown(inside(image.stem))}"
            refused = _refusal(identity, image, labels=label, images=len(images))
            if refused:
                quarantine.append(refused)
            else:
                yield identity, image, label[0].label


def _samples(members: Iterable[Member]) -> dict[str, _Sample]:
    """Samples by the name of their label, or of their image where there is none."""
    samples: dict[str, _Sample] = {}
    images: list[Member] = []
    for member in members:
        if member.part in LABELS:
            sample = samples.setdefault(member.stem, _Sample())
            sample.labels.setdefault(member.part, []).append(member)
        else:
            images.append(member)
    labelled = set(samples)
    for image in images:
        key = next((name for name in _shorter(image.stem) if name in labelled), image.stem)
        sample = samples.setdefault(key, _Sample())
        if image.part == OTHER_IMAGE:
            sample.other.append(image)
        else:
            (sample.exact if image.stem == key else sample.longer).append(image)
    return samples


def _shorter(stem: str) -> Iterator[str]:
    """The name itself, then cut at its last dot, and so on."""
    folder, _, name = stem.rpartition("/")
    while name:
        yield f"{folder}/{name}".lstrip("/")
        name = name.rpartition(".")[0]


def _refusal(
    identity: str, image: Member, *, labels: list[Member], images: int
) -> Quarantined | None:
    """Returns the quarantine entry of an image that cannot be a row, None for one that can."""
    fault = image.fault
    if image.part == OTHER_IMAGE:
        ending = image.path.rpartition(".")[2]
        fault = f"Images with the ending .{ending} are not read; make it a JPEG or PNG."
    elif not labels and not fault:
        return unlabelled(identity, f"no member with the ending {_endings()} is beside it")
    elif images > 1:
        fault = "The tar holds several images for one label; keep one, or give each its label."
    elif len(labels) > 1:
        fault = "The tar holds several labels of one kind for this image; keep one."
    fault = fault or labels[0].fault
    if fault:
        return Quarantined(identity, fault)
    text = labels[0].label
    if not text:
        return unlabelled(identity, f"its .{labels[0].part} holds none that can be used")
    if labels[0].part == "txt" and (len(text) > _MAX_TXT or "\n" in text):
        return unlabelled(identity, f"its .txt holds a text of {len(text)} characters, no name")
    return None


def _may_be_another_text(label: Member) -> bool:
    """Whether a label without an image may be a file of its own, such as a README.txt."""
    return label.part == "txt" or (label.part == "json" and not label.label)


def _endings() -> str:
    return ", ".join(f".{part}" for part in LABELS)


def inside(path: str) -> str:
    """A member's path without any way out of the tar."""
    return "/".join("__" if part == ".." else part for part in path.split("/"))
