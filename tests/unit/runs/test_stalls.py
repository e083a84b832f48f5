"""Waits for data: what an epoch's record says of them, and what is advised."""

from __future__ import annotations

import dataclasses
import json
import re

import pytest

from rtl.config import loading
from rtl.runs import stalls
from rtl.runs.records import Epoch, Stall
from tests.support.runs import EPOCHS

HELD_UP = dataclasses.replace(
    EPOCHS[1], train_seconds=20.0, stalls=(Stall(1.0, 1.0, 50), Stall(8.0, 2.0, 50))
)
QUIET = dataclasses.replace(EPOCHS[1], train_seconds=20.0, stalls=(Stall(9.0, 8.5, 50),))


def test_an_epoch_keeps_the_waits_of_each_worker() -> None:
    assert Epoch.from_dict(json.loads(json.dumps(HELD_UP.to_dict()))) == HELD_UP
    assert HELD_UP.stalls[1].seconds_per_step == pytest.approx(0.16)
    assert HELD_UP.held_up == pytest.approx(0.3)  # the first wait is the start of the reading
    assert EPOCHS[1].held_up == 0  # of an older record, nothing is known


@pytest.mark.parametrize(
    ("cache", "depth", "cached", "says"),
    [
        ("auto", 3, False, r"by a lower train\.cpus_per_worker or another node\.$"),
        ("off", 3, False, r"another node, or set features\.cache=on\.$"),
        ("off", 16, False, r"another node\.$"),
        ("on", 3, True, r"raise features\.memory_gb \(3\), .* faster storage\.$"),
    ],
)
def test_advice_names_what_to_change(cache: str, depth: int, cached: bool, says: str) -> None:
    config = loading.load().replace(features={"cache": cache}, model={"unfrozen_layers": depth})
    found = stalls.advice(HELD_UP, config, cached=cached)
    assert found.startswith("Epoch 2 waited 30% of its training time for data, 160 ms a step: ")
    assert re.search(says, found)


def test_no_advice_where_data_are_quick() -> None:
    assert stalls.advice(QUIET, loading.load(), cached=False) == ""


def test_a_fits_waits_are_those_of_its_worst_epoch() -> None:
    assert stalls.summary([QUIET, HELD_UP]) == (
        "Workers waited for data in at most 30.0% of an epoch's training time, 160 ms a step."
    )
    assert stalls.summary(EPOCHS) == ""
