"""The memory that the benchmarks count as a process's own."""

from __future__ import annotations

import importlib
import io
import mmap
import os
from pathlib import Path

import pytest
from PIL import Image

BENCHMARKS = Path(__file__).parents[3] / "benchmarks"
MEGABYTES = 50


def test_own_memory_is_neither_files_nor_what_is_shared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    memory = importlib.import_module("measuring.memory")
    before = memory.own_memory(os.getpid())
    path = tmp_path / "file"
    path.write_bytes(bytes(MEGABYTES << 20))
    with path.open("r+b") as file, mmap.mmap(file.fileno(), 0) as shared:
        shared[:] = b"x" * len(shared)
        assert memory.own_memory(os.getpid()) < before + MEGABYTES / 2
        own = bytearray(b"x") * (MEGABYTES << 20)
        assert memory.own_memory(os.getpid()) > before + MEGABYTES / 2
        del own


def test_tiny_photos_are_distinct_and_decode(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    memory = importlib.import_module("measuring.memory")
    memory.make_tiny_source(tmp_path, 7)
    photos = [path.read_bytes() for path in tmp_path.glob("*/*.jpg")]
    assert len(set(photos)) == 7
    assert {Image.open(io.BytesIO(photo)).size for photo in photos} == {(24, 24)}
