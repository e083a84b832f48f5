"""A local disk that refuses what is written."""

from __future__ import annotations

import os

import pytest


def refuse_writes(patch: pytest.MonkeyPatch, error: Exception) -> None:
    """Has every file fail with this error as it is written to the disk."""

    def fail(*_: object) -> None:
        raise error

    patch.setattr(os, "fsync", fail)
