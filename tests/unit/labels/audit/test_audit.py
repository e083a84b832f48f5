"""Each kind of fault is planted in a clean set, and found; the clean set has none."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from rtl.labels.audit import run
from rtl.labels.audit.findings import Finding
from rtl.labels.rows import LabelledRows
from tests.support.planted import clean_images, clean_rows, encode, measured, photo

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def images() -> list[bytes]:
    return clean_images()


def findings(rows: LabelledRows, images: list[bytes]) -> dict[str, Finding]:
    """Faults that were found, by kind."""
    checked = run.check(rows, measured(images, rows.ids))
    for one in checked.findings:
        assert one.scores.shape == one.flags.shape == (len(rows),)
        assert one.weight != "none" or not one.flags.any(), one.kind
    return {one.kind: one for one in checked.findings if one.weight != "none"}


def test_a_clean_set_has_no_finding(images: list[bytes]) -> None:
    assert findings(clean_rows(), images) == {}


def test_copies_over_splits_and_their_labels(images: list[bytes]) -> None:
    rows = clean_rows()
    copied = [*images]
    copied[150] = encode(photo(0), quality=60)  # test; row 0 is in train, both are bolts
    copied[151] = encode(photo(2))  # another label
    copied[4] = encode(photo(1), quality=50)  # both in train
    found = findings(rows, copied)
    assert list(found) == [
        "copies across splits", "copies with different labels", "copies within a split",
    ]  # fmt: skip
    across = found["copies across splits"]
    assert set(across.flagged) == {0, 150, 2, 151}
    assert across.number == 2
    assert across.notes[150] == "as 0000.jpg (train, bolts)"
    assert set(found["copies with different labels"].flagged) == {2, 151}
    assert set(found["copies within a split"].flagged) == {1, 4}


def test_classes_that_are_small_rare_or_absent(images: list[bytes]) -> None:
    rows = clean_rows()
    rare = np.flatnonzero((rows.labels == 2) & (np.arange(len(rows)) >= 12))
    kept = np.setdiff1d(np.arange(len(rows)), rare)
    found = findings(rows.of_rows(kept), [images[row] for row in kept])
    assert set(found) == {"small classes", "imbalance", "absent classes"}
    assert found["small classes"].number == 4
    assert found["imbalance"].number == 10
    assert found["absent classes"].number == 2
    assert "washers in val" in found["absent classes"].summary


@pytest.mark.parametrize("sign", ["size", "format", "camera", "name", "border", "brightness"])
def test_a_sign_that_gives_the_label_away(images: list[bytes], sign: str) -> None:
    rows = clean_rows()
    signed, ids = list(images), list(rows.ids)
    for row in np.flatnonzero(rows.labels == 1):
        image = photo(int(row))
        if sign == "size":
            signed[row] = encode(photo(int(row), (120, 100)))
        elif sign == "format":
            signed[row] = encode(image, "PNG")
        elif sign == "camera":
            exif = Image.Exif()
            exif[0x0110] = "Cam 2"
            signed[row] = encode(image, exif=exif)
        elif sign == "name":
            ids[row] = f"scan_{ids[row]}"
        elif sign == "border":
            frame = Image.new("RGB", image.size, (0, 0, 0))
            frame.paste(image.crop((6, 6, 90, 74)), (6, 6))
            signed[row] = encode(frame)
        else:
            signed[row] = encode(image.point(lambda value: value + 40))
            signed[row + 1] = encode(photo(int(row) + 1).point(lambda value: value - 30))
    found = findings(replace(rows, ids=ids), signed)
    assert set(found) == {"shortcuts"}
    words = {"size": "width"}
    assert f"{words.get(sign, sign)} alone has" in found["shortcuts"].summary
    assert 0.6 < found["shortcuts"].number <= 1


def test_odd_rows(images: list[bytes]) -> None:
    rows = clean_rows()
    features = rows.features.clone()
    features[10] = 40 * torch.tensor([(-1.0) ** i for i in range(32)])
    odd = list(images)
    odd[20] = encode(photo(20, (600, 40)))
    odd[30] = encode(Image.new("RGB", (96, 80), (90, 90, 90)))
    found = findings(replace(rows, features=features), odd)["outliers"]
    assert set(found.flagged) == {10, 20, 30}
    assert found.notes[20] == "odd size, 600 x 40"
    assert "even" in found.notes[30]


def test_labels_that_the_others_contradict(images: list[bytes]) -> None:
    rows = clean_rows()
    labels = rows.labels.copy()
    labels[[3, 41]] = 1
    found = findings(replace(rows, labels=labels), images)["suspect labels"]
    assert set(found.flagged) == {3, 41}
    assert found.notes[3] == "rather bolts"


def test_a_group_that_does_worse_than_its_class(images: list[bytes]) -> None:
    rows = clean_rows()
    generator = torch.Generator().manual_seed(1)
    features = rows.features.float().clone()
    group = np.flatnonzero(rows.labels == 0)[:20]
    features[torch.from_numpy(group)] = features[1] + torch.randn(20, 32, generator=generator) / 2
    found = findings(replace(rows, features=features.bfloat16()), images)
    assert len(set(found["weak groups"].flagged) & set(group)) >= 15
    assert "rows of bolts have" in found["weak groups"].summary


def test_photos_that_the_weights_know(images: list[bytes]) -> None:
    rows = clean_rows()
    numbered = replace(rows, ids=[f"dogs/n02085620_{row}.jpg" for row in range(len(rows))])
    assert findings(numbered, images)["photos known to the weights"].weight == "serious"
    named = replace(rows, classes=("tabby", "Golden_Retriever", "washers"))
    found = findings(named, images)["photos known to the weights"]
    assert (found.weight, found.number) == ("notable", 0.6667)


def test_few_rows_and_one_class_are_no_error() -> None:
    rows = clean_rows().of_rows(np.arange(0, 30, 3))
    assert "small classes" in findings(rows, [encode(photo(seed)) for seed in range(10)])
