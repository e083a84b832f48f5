"""The console of the process, replaced for a test."""

from __future__ import annotations

from typing import Any

import pytest
from rich.console import Console

from rtl.display import console


def use_console(patch: pytest.MonkeyPatch, **settings: Any) -> None:
    """Has everything that is displayed go to a console of these settings."""
    patch.setattr(console, "console", Console(**settings))
