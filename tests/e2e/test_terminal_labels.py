"""The verbs for labels in a terminal."""

from __future__ import annotations

from tests.support.workplace import SharedCluster, Workplace


def test_audit_fits_the_terminal_and_writes_a_page(
    work: Workplace, shared_cluster: SharedCluster
) -> None:
    line = "rtl audit data --storage results --set data.image_size=75 --html audit.html"
    shown = work.run(line, rows=60)
    shown.find(r"\d+ rows: \d+ kinds? of faults")
    shown.must_say("small classes")
    shown.must_say("In order:")
    shown.must_say("Photos: audit.html")
    assert "<img" in work.path("audit.html").read_text()
    assert shared_cluster.still_busy() == []
