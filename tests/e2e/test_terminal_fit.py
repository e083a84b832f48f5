"""`pack`, `plan`, `train`, `lr-find` and `features` in a terminal; stopped by Ctrl-C they go on."""

from __future__ import annotations

import re

import pytest

from rtl import storage
from rtl.data import shards
from rtl.model import registry
from rtl.runs import run
from tests.support.terminal import Terminal
from tests.support.workplace import SharedCluster, Workplace, link_many, stop

FIT = "--data data --storage results --set data.image_size=75 --set train.batch_size=8"


@pytest.mark.slow
def test_pack_that_was_stopped_leaves_nothing_and_packs_again(
    work: Workplace, shared_cluster: SharedCluster
) -> None:
    link_many(work.path("photos"), work.path("many"), 8)
    with work.open("rtl pack many packed --set pack.shard_mb=0.01", columns=40) as terminal:
        terminal.wait_for("Shards written")
        command = stop(terminal)
        terminal.must_say("packed holds no data set yet")
    assert command == "rtl pack many packed --set pack.shard_mb=0.01"
    assert not work.path("packed").joinpath(shards.MANIFEST).exists()
    assert shared_cluster.still_busy() == []

    again = work.run(command)
    again.must_say("3 classes, 288 train, 48 val, 48 test rows")
    again.must_say(f"Packed at {work.path('packed')}")
    assert "384/384" in again.screen()
    manifest = shards.load_manifest(str(work.path("packed")))
    present = {entry.path for entry in storage.list_files(manifest.uri)}
    assert present == {shard.path for shard in manifest.shards} | {shards.MANIFEST}


def test_pack_that_is_stopped_while_ray_starts_ends_at_once(alone: Workplace) -> None:
    with alone.open("rtl pack photos early") as terminal:
        terminal.wait_for("Images checked")
        stop(terminal)
    assert not alone.path("early").joinpath(shards.MANIFEST).exists()


@pytest.mark.slow
def test_plan_shows_a_table_and_what_takes_the_most_time(work: Workplace) -> None:
    line = "rtl plan --data data --storage results --price-per-hour 2 --set data.image_size=75"
    shown = work.run(f"{line} --set search.unfrozen_layers=[1] --set model.unfrozen_layers=1")
    shown.find(r"rtl search +│ (\d+ s|\d:\d\d) +│ [\d.]+ GB +│ [\d.]+ [GM]B +│ \$0\.\d\d")
    shown.must_say("Most time: rtl train: ")
    shown.must_say("a GPU needs one for each")
    refused = work.run(f"{line} --set search.unfrozen_layers=[17]", 1)
    refused.must_say("each from 0 to 16")


@pytest.fixture(scope="module")
def fitted(work: Workplace, shared_cluster: SharedCluster) -> tuple[Terminal, Terminal]:
    """A fit that was stopped after its first epoch, and the same at its end."""
    line = f"rtl train --name fit {FIT} --set model.unfrozen_layers=1 --set train.epochs=5"
    with work.open(line) as first:
        first.wait_for("Epoch 1:")
        command = stop(first)
    assert command == f"{line} --resume"
    assert shared_cluster.still_busy() == []
    return first, work.run(command)


@pytest.mark.slow
def test_a_stopped_fit_says_what_stands(work: Workplace, fitted: tuple[Terminal, Terminal]) -> None:
    first, _ = fitted
    first.find(r"Stopped\. [1-4] committed epochs? and all features")


@pytest.mark.slow
def test_a_fit_goes_on_after_its_last_epoch(
    work: Workplace, fitted: tuple[Terminal, Terminal]
) -> None:
    second = fitted[1]
    before, after = (re.findall(r"^Epoch (\d):", t.lines(), re.M) for t in fitted)
    assert int(after[0]) > int(before[0])
    assert after[-1] == "5"
    second.must_say("Best: 1 unfrozen layers")
    second.must_say("registered as fit@1")
    second.must_say("Next: rtl promote fit 1 --storage results")
    assert registry.versions(str(work.path("results")), "fit") == [1]
    assert run.result(str(work.path("results/runs/fit"))) is not None


@pytest.mark.slow
def test_lr_find_ends_with_a_table_and_the_next_command(work: Workplace) -> None:
    line = f"rtl lr-find {FIT} --set search.unfrozen_layers=[1]"
    done = work.run(line)
    done.find(r"│ 1 +│ 0\.\d+ ")
    done.must_say("Next: rtl search --set 'search.lr={min:")


@pytest.mark.slow
def test_features_are_listed_and_pruned(work: Workplace, fitted: tuple[Terminal, Terminal]) -> None:
    listed = work.run("rtl features --storage results")
    assert "ready" in listed.screen()
    assert "Removed 0 caches" in work.run("rtl features --prune --storage results").screen()
