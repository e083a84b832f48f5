"""Tables and lines of a comparison of two models."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from rtl.cli import comparison_lines
from rtl.comparison.compare import accuracies_on, summarize
from rtl.evaluation.predictions import Predictions


def answers(given: np.ndarray, labels: np.ndarray) -> Predictions:
    probabilities = np.full((len(labels), 30), 0.01, np.float32)
    probabilities[np.arange(len(labels)), given] = 0.71
    return Predictions([f"{n:03}" for n in range(len(labels))], labels, probabilities)


def test_of_many_classes_those_that_differ_most_are_shown() -> None:
    labels = np.repeat(np.arange(30), 2)
    wrong = labels.copy()
    wrong[-4:] = 0  # B has the last two classes wrong
    names = tuple(f"[c{n}]" for n in range(30))
    pair = (answers(labels, labels), answers(wrong, labels))
    some = accuracies_on(pair, frozenset(pair[0].ids[:50]))
    found = replace(summarize(pair, names), without_copies=some, notes=("doubt.",))
    table = comparison_lines.classes_table(found)
    assert table.row_count == 20
    assert [str(cell) for cell in table.columns[0].cells][-2:] == ["\\[c28]", "\\[c29]"]
    assert [str(cell) for cell in table.columns[4].cells][-3:] == ["0", "2", "2"]
    assert comparison_lines.remarks(found) == [
        "The 20 of 30 classes that differ most; --json has all.",
        "50 of the 60 rows have no copy in train. Accuracy on them: A 1.000, B 1.000, B - A +0.000 "
        "(-0.053 to +0.053).",
        "Note: doubt.",
    ]


def test_each_score_has_a_row() -> None:
    labels = np.arange(60) % 30
    found = summarize(
        (answers(labels, labels), answers(labels, labels)), tuple(map(str, range(30)))
    )
    table = comparison_lines.scores_table(found)
    assert [str(cell) for cell in table.columns[0].cells] == [
        "accuracy", "macro F1", "ROC AUC", "log loss (lower is better)",
    ]  # fmt: skip
    assert [str(cell) for cell in table.columns[3].cells] == ["+0.000"] * 4
