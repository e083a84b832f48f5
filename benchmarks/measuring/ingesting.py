"""Parts that `ingest.py` and its peers share: one view of a photo, and the loop that drains."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable
from typing import Any

import psutil

CORES = os.cpu_count() or 1
BATCH = 32


def decode(data: bytes, row: str) -> Any:
    """One image as a fit sees it in view 1: uint8 (3, 299, 299)."""
    from rtl.config.schema import AugmentConfig
    from rtl.data.images import decoding

    return decoding.view(
        decoding.decode(data), 1, size=299, framing="crop", augment=AugmentConfig(), seed=0,
        image_id=row,
    )  # fmt: skip


def drain(batches: Callable[[], Iterable[int]]) -> dict[str, float]:
    """Counts the rows of all batches: rates, seconds to the first batch, share of all cores.

    The steady rate is that after the first quarter of the rows.
    """
    psutil.cpu_percent()
    started = time.monotonic()
    seen: list[tuple[float, int]] = []
    rows = 0
    for size in batches():
        rows += size
        seen.append((time.monotonic() - started, rows))
    seconds = seen[-1][0]
    begun = next(one for one in seen if one[1] >= rows / 4)
    return {
        "rows_per_s": round(rows / seconds, 1),
        "steady_rows_per_s": round((rows - begun[1]) / max(seconds - begun[0], 1e-9), 1),
        "first_batch_s": round(seen[0][0], 3),
        "rows": rows,
        "cpu_share": round(psutil.cpu_percent() / 100, 3),
    }
