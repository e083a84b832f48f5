"""Two models' predictions side by side: counts, rows, verdict."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from rtl import storage
from rtl.comparison.compare import accuracies_on, summarize
from rtl.comparison.copies import rows_without_copies
from rtl.comparison.verdict import verdict
from rtl.data import shards
from rtl.errors import DataError
from rtl.evaluation.paired import Comparison
from rtl.evaluation.predictions import Predictions
from tests.conftest import make_dataset, make_image

CLASSES = ("ant", "bee", "cat")


def predictions(labels: str, answers: str) -> Predictions:
    """One letter a row for the true class and the answer, whose probability is 0.8."""
    letters = "abc"
    probabilities = np.full((len(labels), 3), 0.1, np.float32)
    probabilities[np.arange(len(labels)), [letters.index(c) for c in answers]] = 0.8
    true = np.array([letters.index(c) for c in labels])
    return Predictions([f"row {n}" for n in range(len(labels))], true, probabilities)


def test_counts_and_rows_say_where_they_differ() -> None:
    found = summarize((predictions("aabbcc", "aabacb"), predictions("aabbcc", "baabbb")), CLASSES)
    by_name = {row.name: row for row in found.classes}
    assert vars(by_name["ant"]) == {
        "name": "ant", "rows": 2, "right_a": 2, "right_b": 1, "only_a": 1, "only_b": 0,
    }  # fmt: skip
    assert (by_name["bee"].only_a, by_name["bee"].only_b) == (1, 1)
    assert (by_name["cat"].right_a, by_name["cat"].right_b) == (1, 0)
    assert (found.test.wins, found.test.losses) == (1, 3)
    rows = [(row.id, row.only_a) for row in found.differing]
    assert rows == [("row 3", False), ("row 0", True), ("row 2", True), ("row 4", True)]
    first = found.differing[0]
    assert (first.label, first.answer_a, first.answer_b) == ("bee", "ant", "bee")
    assert first.probability_b == 0.8
    content = json.loads(json.dumps(found.to_dict()))
    assert [row["only"] for row in content["differing"]] == ["b", "a", "a", "a"]
    assert content["a"]["scores"]["accuracy"]["value"] == pytest.approx(4 / 6)


def test_a_better_model_is_named() -> None:
    right = predictions("abc" * 20, "abc" * 20)
    wrong = predictions("abc" * 20, "abb" * 20)
    assert summarize((wrong, right), CLASSES).verdict.startswith(
        "B is better: of 60 rows it is right on 20 where A is wrong, and wrong on 0 where A is "
        "right (p = 1.9e-06). B's accuracy against A's: +33.3 points"
    )
    assert summarize((right, wrong), CLASSES).verdict.startswith("A is better: of 60 rows it is")


def test_few_rows_show_no_difference_and_say_which_they_would() -> None:
    found = summarize((predictions("ab" * 50, "ab" * 49 + "aa"), predictions("ab" * 50, "ab" * 50)),
                      CLASSES)  # fmt: skip
    assert found.verdict.startswith("No difference that 100 rows could show: B alone is right on 1")
    assert found.detectable == pytest.approx(0.075, abs=0.01)
    assert f"A difference of {100 * found.detectable:.1f} points would have been" in found.verdict


def test_models_that_are_right_on_the_same_rows() -> None:
    none = Comparison(0, 0, 0.0, -0.1, 0.1, 1.0)
    assert verdict(none, 1, detectable=None) == (
        "No difference: A and B are right on the same of 1 row. So few rows show no difference at "
        "all."
    )


def test_accuracies_on_some_of_the_rows() -> None:
    pair = (predictions("aabbcc", "aabacb"), predictions("aabbcc", "baabbb"))
    found = accuracies_on(pair, frozenset({"row 0", "row 2", "row 3", "another"}))
    assert found is not None
    assert (found.rows, found.a, found.b) == (3, pytest.approx(2 / 3), pytest.approx(1 / 3))
    assert (found.test.wins, found.test.losses) == (1, 2)
    assert accuracies_on(pair, frozenset()) is None
    assert accuracies_on(pair, frozenset(pair[0].ids)) is None


def test_predictions_of_other_rows_are_an_error() -> None:
    one = predictions("abc", "abc")
    with pytest.raises(DataError, match="A and B were asked other rows"):
        summarize((one, replace(one, ids=["x", "y", "z"])), CLASSES)


def test_rows_without_copies_are_those_whose_file_is_not_in_train(tmp_path: Path) -> None:
    place = str(tmp_path / "data")
    manifest = make_dataset(place, train=12, val=0, test=6)
    images = [make_image("blue", 3), make_image("blue", 999)]  # row 3 of train, and a new one
    encoded = shards.encode_shard(["old", "new"], images, [0, 0])
    storage.write_bytes(f"{place}/test/extra.parquet", encoded)
    extra = shards.Shard("test/extra.parquet", "test", 2, **storage.describe(encoded))
    counts = {**manifest.counts, "test": (4, 2, 2)}
    replace(manifest, shards=(*manifest.shards, extra), counts=counts).save(place)
    whole = shards.load_manifest(place)
    assert rows_without_copies(whole, "test") == {*(f"{n:05}" for n in range(12, 18)), "new"}
