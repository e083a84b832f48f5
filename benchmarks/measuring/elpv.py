"""The photos of the demo, packed, for benchmarks."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ray

from rtl.cli import demo
from rtl.config.tree import Config
from rtl.data import elpv, pack
from rtl.data.shards import Manifest
from rtl.runtime import session
from rtl.storage import local_s3


@contextlib.contextmanager
def packed(
    count: int | None, seed: int = 0, recipe: dict[str, Any] | None = None
) -> Iterator[tuple[str, Config, Manifest]]:
    """The storage's URI, the config and the data set, in a real S3 server on loopback.

    `seed` decides which photos are held out; the config is the demo's with `recipe`'s changes, but
    how many CPUs a fit has is left open.
    """
    photos = elpv.load_photos()
    photos = elpv.sample(photos, count) if count else photos
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        root = stack.enter_context(local_s3.serve(Path(folder)))
        session.connect()
        stack.callback(ray.shutdown)  # its workers know this server's keys
        elpv.upload(
            photos, elpv.split(photos, 0.25, seed), f"{root}/photos", progress=lambda *_: None
        )
        settings = demo.make_config(f"{root}/rtl", quick=False)
        settings = settings.replace(
            train={"cpus_per_worker": None},
            data={"uri": f"{root}/data", "framing": "crop"},  # all photos are square
        )
        settings = settings.replace(**(recipe or {}))
        source = f"{root}/photos/labels.csv"
        yield root, settings, pack.pack(source, f"{root}/data", settings.pack)
