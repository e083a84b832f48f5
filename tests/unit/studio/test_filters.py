"""Which rows a grid shows, and in which order."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from rtl.data.shards import Manifest
from rtl.errors import ConfigError, NotFoundError
from rtl.studio.photos import filters
from rtl.studio.photos.faults import Fault, Faults
from rtl.studio.photos.feature_map import FeatureMap
from rtl.studio.photos.filters import Filter
from rtl.studio.photos.index import RowIndex

IDS = ["b/IMG_1.jpg", "a/img_2.jpg", "ü.jpg", "<script>.jpg", "c/img_5.jpg", "d_6.jpg"]
ROWS = RowIndex(
    IDS, np.array(["train"] * 4 + ["val", "test"]), np.array([0, 1, 0, 1, 0, 1]),
    np.array([1, 0.5, 1, 0.2, 0.9, 1], np.float32), (), np.zeros(0, np.int64),
)  # fmt: skip
MANIFEST = Manifest(("cat", "<b>dog</b>"), {}, ())
FAULTS = Faults("", (Fault("outliers", "notable", 2, "", "", (4, 0, 1)),), ())
PLANE = FeatureMap(
    np.array([0, 2, 4, 5]), np.array([0, 0.2, 0.5, 1], np.float32),
    np.array([0, 1, 0.5, 1], np.float32), np.zeros(4, np.int64),
    np.array([0.9, -0.5, 0.1, -0.9], np.float32), np.zeros((4, 0), np.int64),
)  # fmt: skip


def chosen(**how: Any) -> list[int]:
    return list(
        filters.choose(
            Filter(**how),
            MANIFEST,
            rows=ROWS,
            found=FAULTS,
            plane=PLANE,
            waiting=[IDS[5], IDS[2], "gone"],
        )
    )


@pytest.mark.parametrize(
    ("how", "expected"),
    [
        ({}, [0, 1, 2, 3, 4, 5]),
        ({"label": "<b>dog</b>"}, [1, 3, 5]),
        ({"split": "val"}, [4]),
        ({"label": "cat", "split": "train"}, [0, 2]),
        ({"text": "IMG_"}, [0, 1, 4]),
        ({"text": "<SCRIPT>"}, [3]),
        ({"text": "Ü"}, [2]),
        ({"text": "."}, [0, 1, 2, 3, 4, 5]),
        ({"finding": "outliers"}, [4, 0, 1]),
        ({"finding": "outliers", "split": "train"}, [0, 1]),
        ({"finding": "outliers", "sort": "confidence"}, [1, 4, 0]),
        ({"box": (0.1, 0, 0.9, 1)}, [2, 4]),
        ({"decided": "yes"}, [2, 5]),
        ({"decided": "no", "label": "cat"}, [0, 4]),
        ({"sort": "name"}, [3, 1, 0, 4, 5, 2]),
        ({"sort": "name", "label": "cat"}, [0, 4, 2]),
        ({"sort": "class"}, [0, 2, 4, 1, 3, 5]),
        ({"sort": "confidence"}, [3, 1, 4, 0, 2, 5]),
        ({"sort": "doubt"}, [5, 2, 4, 0, 1, 3]),
    ],
)
def test_rows_and_their_order(how: dict[str, Any], expected: list[int]) -> None:
    assert chosen(**how) == expected


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ({"label": "bird"}, "no class 'bird'"),
        ({"split": "all"}, "no split 'all'"),
        ({"finding": "dust"}, "no finding 'dust'"),
    ],
)
def test_an_unknown_condition_is_refused(how: dict[str, Any], words: str) -> None:
    with pytest.raises(NotFoundError, match=words):
        chosen(**how)


def test_before_audit_and_map_their_filters_say_so() -> None:
    for how, words in ((Filter(finding="x"), "audited"), (Filter(sort="doubt"), "map")):
        with pytest.raises(NotFoundError, match=words):
            filters.choose(how, MANIFEST, rows=ROWS, found=None, plane=None)


def test_a_box_is_four_numbers() -> None:
    assert filters.parse_box("") is None
    assert filters.parse_box("0,0.25,1,0.5") == (0, 0.25, 1, 0.5)
    for text in ("0,1,2", "a,b,c,d"):
        with pytest.raises(ConfigError, match="four numbers"):
            filters.parse_box(text)
