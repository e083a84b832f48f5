"""The S3 server dies in the middle of a command: it ends soon, says what stands, and how to go on.

A cluster of its own for each: the session's cluster keeps its server.
"""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from rtl import storage
from rtl.model import bundle
from rtl.storage import local_s3
from tests.conftest import make_dataset, make_folder
from tests.support.bundles import make_info, make_network

START_S = 300
"""That a command may take until it is in the middle of its work."""
END_S = 120
"""From the loss of storage to the end of the command."""

FIT = [
    "--name=fit", "--storage={0}/root", "--data={0}/data", "--set=data.image_size=75",
    "--set=train.epochs=50", "--set=train.batch_size=8", "--set=train.cpus_per_worker=1",
]  # fmt: skip
STREAMED = [
    *FIT, "--set=features.cache=off", "--set=model.unfrozen_layers=1", "--set=train.rows=0.2",
]  # fmt: skip
COMMANDS = {
    "fit": (["train", *STREAMED], "root/runs/fit/checkpoints/0000/COMMIT"),
    "pass": (["train", *FIT, "--set=features.cache=on"], "root/features/**/*.parquet"),
    "search": (
        ["search", *STREAMED, "--set=search.unfrozen_layers=[0]", "--set=search.trials=6"],
        "root/runs/fit/trials/0000/val.parquet",
    ),
    "predict": (["predict", "{0}/bundle", "{0}/data", "{0}/answers"], "answers/answers/**/*.p*"),
    "pack": (["pack", "{0}/images", "{0}/packed", "--set=pack.min_shards=60"], "packed/train/*.p*"),
}


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_ends_soon_after_its_storage(tmp_path: Path, name: str) -> None:
    given, sign = COMMANDS[name]
    before = set(psutil.Process().children())
    with local_s3.serve(tmp_path) as s3:
        (server,) = set(psutil.Process().children()) - before
        if name == "pack":
            for entry in storage.list_files(make_folder(tmp_path / "images", 200)):
                storage.write_bytes(f"{s3}/images/{entry.path}", Path(entry.uri).read_bytes())
        else:
            make_dataset(f"{s3}/data", train=400, shard_rows=20)
        if name == "predict":
            bundle.save(f"{s3}/bundle", make_info(), make_network())
        with subprocess.Popen(
            [sys.executable, "-m", "rtl.cli", *(part.format(s3) for part in given)],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path,
        ) as command:  # fmt: skip
            try:
                deadline = time.monotonic() + START_S
                while not list((tmp_path / "rtl").glob(sign)):
                    assert command.poll() is None, command.communicate()
                    assert time.monotonic() < deadline, f"no {sign}"
                    time.sleep(0.05)
                server.kill()
                _, said = command.communicate(timeout=END_S)
            finally:
                command.terminate()
    assert command.returncode == 1, said
    last = said.strip().splitlines()[-1]
    assert last.startswith(f"rtl {given[0]}: Could not "), said
    assert f" {s3}/" in last
    goes_on = "--resume goes on" if given[0] in ("train", "search") else "the same command"
    assert goes_on in last
    assert ".." not in last.replace("...", "")
    assert "Traceback" not in said
