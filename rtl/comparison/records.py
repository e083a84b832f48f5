"""Result of a comparison of two models, A and B, as typed records."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from rtl.evaluation.metrics import Scores
from rtl.evaluation.paired import Comparison, Difference


@dataclass(frozen=True)
class ComparedModel:
    """One of the two models."""

    name: str
    """`NAME@VERSION` for one of a registry, else the bundle's URI."""
    uri: str
    scores: Scores
    """Scores on all rows, with 95 % intervals of their own."""


@dataclass(frozen=True)
class ClassCounts:
    """Rows of one class, by which model is right."""

    name: str
    rows: int
    right_a: int
    """Rows that A has right."""
    right_b: int
    """Rows that B has right."""
    only_a: int
    """Rows that A alone has right."""
    only_b: int
    """Rows that B alone has right."""


@dataclass(frozen=True)
class DifferingRow:
    """A row that one of the models alone has right."""

    id: str
    label: str
    """True class."""
    answer_a: str
    answer_b: str
    probability_a: float
    """Probability that A gives to its answer."""
    probability_b: float
    """Probability that B gives to its answer."""

    @property
    def only_a(self) -> bool:
        """Whether A is the model that is right."""
        return self.answer_a == self.label


@dataclass(frozen=True)
class AccuracyPair:
    """Accuracies of both models on some rows, or on corrupted ones."""

    rows: int
    a: float
    b: float
    test: Comparison
    """B against A: `wins` are rows that B alone has right."""


@dataclass(frozen=True)
class Robustness:
    """Accuracies on rows whose photos were damaged."""

    corruption: str
    """Kind and strength, such as `JPEG, quality 25`."""
    accuracy: AccuracyPair


@dataclass(frozen=True)
class ModelComparison:
    """Model B against model A on the rows of one split; differences are B minus A."""

    a: ComparedModel
    b: ComparedModel
    data: str
    """The data set."""
    split: str
    rows: int
    test: Comparison
    """McNemar's test of B against A: `wins` are rows that B alone has right."""
    differences: tuple[Difference, ...]
    """Scores of B minus those of A, with 95 % intervals of the paired difference."""
    detectable: float | None
    """Difference of accuracy that these rows would have shown in four of five samples; None where
    they are too few for any."""
    verdict: str
    """One sentence, about accuracy."""
    classes: tuple[ClassCounts, ...]
    """Counts of each class, in the order of the data set's classes."""
    differing: tuple[DifferingRow, ...]
    """Rows that one model alone has right: those of B first, by class and id."""
    without_copies: AccuracyPair | None
    """Accuracies on the rows without a copy in `train`; None where no row has one, where all have,
    and on `train` itself."""
    robustness: tuple[Robustness, ...]
    """Accuracies on corrupted photos; empty where they were not asked for."""
    notes: tuple[str, ...]
    """Reasons to trust the scores less."""

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        content = asdict(self)
        for row, found in zip(content["differing"], self.differing, strict=True):
            row["only"] = "a" if found.only_a else "b"
        return content
