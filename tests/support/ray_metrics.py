"""Ray's metrics as Prometheus would read them."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator

import httpx
import pytest
import ray


def exported(name: str, **tags: str) -> Iterator[float]:
    """The samples of a metric on the node's port that have these tags."""
    port = ray.nodes()[0]["MetricsExportPort"]
    text = httpx.get(f"http://127.0.0.1:{port}/metrics", trust_env=False).text
    for labels, value in re.findall(rf"^{name}{{(.*)}} (\S+)$", text, re.MULTILINE):
        if all(f'{key}="{tag}"' in labels for key, tag in tags.items()):
            yield float(value)


def until(expected: dict[str, float], **tags: str) -> dict[str, float]:
    """What is exported, once it is what is expected or half a minute is over."""
    deadline = time.monotonic() + 30
    found: dict[str, float] = {}
    while time.monotonic() < deadline:
        found = {name: sum(exported(name, **tags)) for name in expected}
        if found == pytest.approx(expected):
            break
        time.sleep(0.2)
    return found
