"""Numbers that were recorded, and how near those of this code have to be."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from tests.compatibility.b892c42.processor import processor

BEFORE = Path(__file__).parent
RECORDED: dict[str, Any] = json.loads((BEFORE / "recorded.json").read_text(encoding="utf-8"))

NEAR = 0.0 if (RECORDED["cpu"], RECORDED["torch"]) == (processor(), torch.__version__) else 1e-3
"""Allowed relative difference; bf16 is rounded to 3e-3 and its losses are means of many."""
