"""Files of `cluster/` and how tests read them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
CLUSTER = ROOT / "cluster"


def load(name: str) -> dict[str, Any]:
    """Returns the content of a YAML file of `cluster/`."""
    content: dict[str, Any] = yaml.safe_load((CLUSTER / name).read_text())
    return content


def instructions(dockerfile: str) -> list[tuple[str, str]]:
    """Returns a Dockerfile's instructions: the word and the rest, on one line each."""
    lines = [line for line in dockerfile.splitlines() if line.strip() and line[0] != "#"]
    joined = re.sub(r"\\\n\s*", "", "\n".join(lines))
    return [(word, rest) for word, _, rest in (line.partition(" ") for line in joined.splitlines())]
