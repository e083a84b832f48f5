"""What packing decides for sources with every kind of row, held by hashes of what it once gave.

The hashes are of ids, images, labels, confidences, order and reasons, not of the shards' bytes, in
which the library that wrote them names its version.
"""

from __future__ import annotations

import hashlib
import json
import os
import struct
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import pytest

from rtl.config.schema import PackConfig
from rtl.data import pack, shards
from rtl.data.shards import Manifest
from tests.support.trees import put, tar

SIDE = 16


def bitmap(number: int) -> bytes:
    """A BMP of one colour, another for each number: the same bytes whatever library is there."""
    pixels = bytes((number % 251, number // 251, 100)) * SIDE * SIDE
    head = struct.pack("<2sIHHI", b"BM", 54 + len(pixels), 0, 0, 54)
    return head + struct.pack("<IiiHHIIiiII", 40, SIDE, SIDE, 1, 24, 0, 0, 0, 0, 0, 0) + pixels


def folders(root: Path) -> str:
    """Class folders whose splits are drawn, with copies, contradictions and odd names."""
    files = {f"{('cat', 'dog', 'owl')[n % 3]}/{n:03}.bmp": bitmap(n) for n in range(90)}
    files |= {f"cat/copy of {n}.bmp": bitmap(n) for n in range(0, 30, 3)}
    files |= {f"owl/not a dog {n}.bmp": bitmap(n) for n in (1, 4, 7)}
    files |= {"dog/both.bmp": bitmap(2000), "owl/both.bmp": bitmap(2000), "cat/bad.bmp": b"BM"}
    files |= {"dog/\u00e9 \u65e5\U0001f436.bmp": bitmap(2001), "dog/x#2": bitmap(2002)}
    files |= {"cat/.hidden.bmp": bitmap(1), "stray.bmp": bitmap(1), "readme.md": b"x"}
    put(str(root), files)
    for name, number in ((b"caf\xe9", 2003), (b"caf\xe8", 2004), (b"caf\\xe9", 2005)):
        Path(os.fsdecode(os.fsencode(root) + b"/dog/" + name)).write_bytes(bitmap(number))
    return str(root)


def three_splits(root: Path) -> str:
    """Class folders below splits, with copies in several and contradictions across them."""
    firsts = {"Training": range(40), "val": range(40, 60), "test": range(60, 80)}
    files = {
        f"{split}/{'ab'[n % 2]}/{n}.bmp": bitmap(n) for split, part in firsts.items() for n in part
    }
    files |= {f"Training/a/copy {n}.bmp": bitmap(n) for n in (0, 2, 40, 60)}
    files |= {f"val/a/copy {n}.bmp": bitmap(n) for n in (42, 62, 60)}
    files |= {"test/b/wrong.bmp": bitmap(4), "test/b/again.bmp": bitmap(61)}
    return put(str(root), files)


def tars(root: Path) -> str:
    """Two tars with copies within and across, contradictions, and labels that are numbers."""
    for name, first in (("x-0.tar", 0), ("x-1.tar", 20)):
        members = [
            (f"{n:03}.{part}", data)
            for n in range(first, first + 30)
            for part, data in (
                ("bmp", bitmap(n % 45)),
                ("cls", b"%d.0" % ((n % 45 + (n == 48)) % 4)),
            )
        ]
        put(str(root), {name: tar(*members, ("alone.cls", b"1"), ("notes.bin", b"x"))})
    return str(root)


def table(root: Path) -> str:
    """A table that names images twice and none, with splits, confidences and odd ids."""
    lines = ["image,label,split,sure"]
    for n in range(40):
        put(str(root), {f"photos/{n}.bmp": bitmap(n)})
        label, split = ("red", "blue")[n % 2], ("train", "test")[n // 30]
        lines.append(f"photos/{n}.bmp,{label},{split},0.{n % 9 + 1}")
    put(str(root), {"photos/0.bmp#2": bitmap(100)})
    lines += ["photos/0.bmp,red,train,", "photos/0.bmp#2,blue,train,1", "photos/0.bmp,red,test,0.5"]
    lines += ["photos/gone.bmp,red,train,1", "photos/1.bmp,red,train,1", ",red,train,1"]
    lines += ["photos/2.bmp,,train,1", "photos/3.bmp,blue,other,1", "photos/4.bmp,red,train,7"]
    return f"{put(str(root), {'t.csv': chr(10).join(lines)})}/t.csv"


def fingerprint(manifest: Manifest) -> str:
    """A hash of what was packed."""
    rows = []
    for shard in manifest.shards:
        for row in shards.read_shard(manifest, shard).to_pylist():
            image = hashlib.sha256(row.pop("image")).hexdigest()
            rows.append([shard.path, image, *row.values()])
    beside = [asdict(row) for row in manifest.quarantine]
    beside += [asdict(kind) for kind in manifest.left_out]
    content = [manifest.classes, manifest.counts, manifest.packing, beside, rows]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


@pytest.mark.parametrize(
    ("source", "quarantined", "expected"),
    [
        (folders, 10, "2650859e9572e233"),
        (three_splits, 6, "8e44b843aaaf5c9a"),
        (tars, 4, "71448b82fac2509e"),
        (table, 9, "3319bd8a01e47712"),
    ],
)
def test_a_source_gives_what_it_always_gave(
    ray_cluster: None,
    tmp_path: Path,
    source: Callable[[Path], str],
    quarantined: int,
    expected: str,
) -> None:
    config = PackConfig(
        shard_mb=0.008, max_quarantined=0.5, seed=3,
        confidence_column="sure" if source is table else None,
    )  # fmt: skip
    uri = source(tmp_path / "src")
    manifest = pack.pack(uri, str(tmp_path / "out"), config, rows_per_task=7)
    assert (len(manifest.quarantine), fingerprint(manifest)) == (quarantined, expected)
