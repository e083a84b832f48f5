"""Peers of `ingest.py` that have to be installed: one of them reads all photos once.

    python benchmarks/measuring/peers.py webdataset|mosaicml|litdata FOLDER

FOLDER holds the photos below `photos/train` and keeps each peer's own format. Run as a script: from
`benchmarks/` the name `streaming` would be another module. Prints one JSON object.
"""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from typing import Any

from ingesting import BATCH, CORES, decode, drain

SHARD_BYTES = 16_000_000


def read_whole(path: str) -> dict[str, Any]:
    """One photo as it is stored."""
    return {"image": Path(path).read_bytes(), "id": Path(path).stem}


def decode_row(row: dict[str, Any]) -> Any:
    """A row of `read_whole` as a fit sees it."""
    return decode(row["image"], row["id"])


def webdataset(files: list[Path], folder: Path) -> Any:
    """WebDataset: tars, whose rows are mixed in a buffer."""
    import torch

    wds = importlib.import_module("webdataset")
    if not folder.exists():
        folder.mkdir()
        with wds.ShardWriter(f"{folder}/%05d.tar", maxsize=SHARD_BYTES, verbose=0) as sink:
            for path in files:
                sink.write({"__key__": path.stem, "jpg": path.read_bytes()})
    tars = sorted(map(str, folder.glob("*.tar")))
    found = wds.WebDataset(tars, shardshuffle=len(tars)).shuffle(1000)
    found = found.map(lambda row: decode(row["jpg"], row["__key__"]))
    batches = found.batched(BATCH, collation_fn=torch.stack)
    return wds.WebLoader(batches, batch_size=None, num_workers=CORES)


def mosaicml(files: list[Path], folder: Path) -> Any:
    """MosaicML Streaming: MDS shards, their order by (seed, epoch)."""
    streaming = importlib.import_module("streaming")
    from torch.utils.data import DataLoader

    if not folder.exists():
        columns = {"image": "bytes", "id": "str"}
        with streaming.MDSWriter(out=str(folder), columns=columns, size_limit=SHARD_BYTES) as sink:
            for path in files:
                sink.write(read_whole(str(path)))

    class Decoded(streaming.StreamingDataset):  # type: ignore[misc, name-defined]
        def __getitem__(self, number: int) -> Any:
            return decode_row(super().__getitem__(number))

    dataset = Decoded(local=str(folder), shuffle=True, batch_size=BATCH)
    return DataLoader(dataset, BATCH, num_workers=CORES)


def litdata(files: list[Path], folder: Path) -> Any:
    """LitData: optimized chunks."""
    ld = importlib.import_module("litdata")
    if not folder.exists():
        paths = [str(path) for path in files]
        ld.optimize(read_whole, paths, str(folder), chunk_bytes=SHARD_BYTES, num_workers=CORES)

    loader: Any = ld.StreamingDataLoader
    dataset = ld.StreamingDataset(str(folder), shuffle=True, transform=decode_row)
    return loader(dataset, batch_size=BATCH, num_workers=CORES)


def main() -> None:
    """Writes the peer's format where it is not there, and reads it once."""
    name, folder = sys.argv[1], Path(sys.argv[2])
    files = sorted((folder / "photos" / "train").rglob("*.jpg"))
    make = {"webdataset": webdataset, "mosaicml": mosaicml, "litdata": litdata}[name]
    loader = make(files, folder / name)
    print(json.dumps(drain(lambda: map(len, loader))))


if __name__ == "__main__":
    main()
