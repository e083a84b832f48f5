"""An audit's table, sentences and JSON."""

from __future__ import annotations

import io
import json

import numpy as np
from rich.console import Console

from rtl.api.audits import Audit
from rtl.cli import audit_lines
from rtl.labels.audit.copies import CopyGroup
from rtl.labels.audit.findings import Finding, nothing

GROUP = CopyGroup((0, 2), ("a[1].jpg", "c.jpg"), ("train", "test"), ("cat", "dog"))


def made(*findings: Finding) -> Audit:
    return Audit(
        "/data", ("a[1].jpg", "b.jpg", "c.jpg"), ("train", "train", "test"), ("cat", "cat", "dog"),
        findings, (GROUP,), None,
    )  # fmt: skip


def bad() -> Finding:
    flags = np.array([True, False, True])
    scores = np.array([0.5, 0, 1], np.float32)
    return Finding(
        "copies across splits", "serious", 2, "1 photo [x] lies in two", "Remove it.", scores,
        flags, {0: "as c.jpg"},
    )  # fmt: skip


FINE = nothing("imbalance", "1.0 times", np.ones(3, np.float32))


def shown(found: Audit) -> str:
    text = io.StringIO()
    Console(file=text, width=120).print(audit_lines.findings_table(found))
    return text.getvalue()


def test_the_table_has_faults_alone_and_what_to_do() -> None:
    text = shown(made(bad(), FINE))
    for words in ("copies across splits", "serious", "1 photo [x] lies in two", "Remove it."):
        assert words in text
    assert "imbalance" not in text


def test_the_sentences_name_what_is_in_order() -> None:
    assert audit_lines.lines(made(bad(), FINE)) == [
        "3 rows: 1 kind of faults.", "In order: imbalance.",
    ]  # fmt: skip
    assert audit_lines.lines(made(FINE))[0] == "3 rows: nothing to mend was found."
    assert audit_lines.lines(made(bad())) == ["3 rows: 1 kind of faults."]


def test_the_json_has_flagged_rows_the_worst_first() -> None:
    content = json.loads(json.dumps(audit_lines.content(made(bad(), FINE))))
    first, second = content["findings"]
    assert [(row["id"], row["score"], row["note"]) for row in first["rows"]] == [
        ("c.jpg", 1.0, ""), ("a[1].jpg", 0.5, "as c.jpg"),
    ]  # fmt: skip
    assert second["rows"] == []
    assert content["copies"] == [
        {"ids": ["a[1].jpg", "c.jpg"], "splits": ["train", "test"], "labels": ["cat", "dog"]}
    ]
    assert content["fixed"] is None
