"""What `ingest.py`, its peers and `views.py` share: photos, a view of one, the loop that drains."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from PIL import Image

CORES = os.cpu_count() or 1
BATCH = 32


def make_photo(path: Path, number: int) -> None:
    """A smooth random photo of 500 x 375, about 40 KB."""
    rng = np.random.default_rng(number)
    small = Image.fromarray(rng.integers(0, 256, (24, 32, 3), np.uint8))
    noise = rng.normal(0, 6, (375, 500, 3))
    pixels = np.asarray(small.resize((500, 375), Image.Resampling.BICUBIC)) + noise
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(path, "JPEG", quality=88)


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
