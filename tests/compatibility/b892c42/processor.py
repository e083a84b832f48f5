"""The processor that numbers come from: another one adds in another order."""

from __future__ import annotations

from pathlib import Path

_KEYS = ("model name", "cpu family", "model", "stepping")


def processor() -> str:
    """Name and numbers of this machine's processor; empty where Linux does not tell."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return ""
    pairs = (line.partition(":") for line in lines)
    found = {key.strip(): value.strip() for key, _, value in pairs}
    return " ".join(found.get(key, "") for key in _KEYS)
