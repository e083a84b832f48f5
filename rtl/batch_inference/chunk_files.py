"""Output files of a batch prediction: actors of Ray Data compute them, a later run checks them."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import ray.data
import torch

from rtl import storage
from rtl.batch_inference.chunks import Chunk, Image
from rtl.data import shards
from rtl.data.shards import Manifest
from rtl.data.sources import shown
from rtl.errors import BundleError, DataError, ImageError, NotFoundError
from rtl.model import device
from rtl.model.bundle import BundleInfo, Classifier
from rtl.runtime import capacity, task_errors
from rtl.runtime.capacity import ResourceRequest
from rtl.storage import destinations

SCHEMA = pa.schema(
    [
        ("id", pa.string()),  # path relative to SRC, or the row's id in the data set
        ("label", pa.string()),  # the most probable class; null, as all to come, beside an error
        ("probability", pa.float32()),  # of that class
        ("uncertain", pa.bool_()),  # the bundle's `uncertain_below` is above `probability`
        ("probabilities", pa.list_(pa.float32())),  # in the order of the bundle's classes
        ("one_of", pa.list_(pa.string())),  # the prediction set, the most probable class first
        ("error", pa.string()),  # type and message; null beside a prediction
    ]
)

_READ_AHEAD = 16  # encoded images that wait for their turn
_GO_ON = "The answers so far stand: once that is mended, the same command goes on from there."


@dataclass(frozen=True)
class ChunkFile:
    """A finished output file."""

    path: str
    """Relative to DEST."""
    rows: int
    errors: int
    """Rows whose image could not be read."""
    uncertain: int
    """Rows whose prediction is uncertain."""
    sha256: str
    size: int
    """Bytes of the file."""

    @classmethod
    def describe(cls, path: str, table: pa.Table, data: bytes) -> ChunkFile:
        """Describes a file by its table and its encoded bytes."""
        digest = storage.describe(data)
        return cls(
            path=path,
            rows=len(table),
            errors=len(table) - table["error"].null_count,
            uncertain=table["uncertain"].to_pylist().count(True),
            sha256=digest["sha256"],
            size=digest["bytes"],
        )


@dataclass(frozen=True, kw_only=True)
class PredictionTask:
    """Everything that an actor needs to compute chunks."""

    bundle_uri: str
    info: BundleInfo
    manifest: Manifest | None
    """Manifest of a packed data set, None for a folder."""
    root: str
    """URI of the source."""
    target: str
    """URI of DEST."""
    use_gpu: bool


def missing_files(target: str, files: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Paths of the files (sha256 and bytes by path) that are not in DEST in their size."""
    sizes = {entry.path: entry.size for entry in storage.list_files(target)}
    return [path for path, entry in files.items() if sizes.get(path) != entry["bytes"]]


def find_complete_files(target: str, chunks: Sequence[Chunk]) -> dict[str, ChunkFile]:
    """Complete files that an earlier run left, by path."""
    names = {entry.path for entry in storage.list_files(target)}

    def verify(chunk: Chunk) -> ChunkFile | None:
        data = storage.read_bytes(storage.join(target, chunk.path))
        try:
            table = pq.read_table(pa.BufferReader(data), page_checksum_verification=True)
        except (pa.ArrowInvalid, OSError):
            return None
        complete = table.schema.equals(SCHEMA) and len(table) == chunk.rows
        return ChunkFile.describe(chunk.path, table, data) if complete else None

    present = [chunk for chunk in chunks if chunk.path in names]
    with ThreadPoolExecutor(8) as pool:
        return {file.path: file for file in pool.map(verify, present) if file}


def compute_files(chunks: Sequence[Chunk], task: PredictionTask) -> Iterator[ChunkFile]:
    """Has actors write the files of these chunks, and yields each that is written."""
    if not chunks:
        return
    use_gpu = task.use_gpu
    capacity.require(ResourceRequest("The prediction", 1, int(not use_gpu), int(use_gpu)))
    dataset = ray.data.from_items(list(chunks), override_num_blocks=len(chunks)).map_batches(
        task_errors.OnFirstCall,
        fn_constructor_args=(ChunkPredictor, task),
        **capacity.actor_options(len(chunks), sum(chunk.rows for chunk in chunks), use_gpu),
    )
    with destinations.advise(_GO_ON), task_errors.raise_own_errors():
        for row in dataset.iter_rows():
            yield ChunkFile(**row)


class ChunkPredictor:
    """An actor that predicts for whole chunks and writes their files."""

    def __init__(self, task: PredictionTask) -> None:
        """Raises BundleError for a bundle that was replaced or answers otherwise here."""
        torch.set_num_threads(1)
        self._task = task
        where = device.pick(task.use_gpu)
        self._classifier = Classifier.load(task.bundle_uri, where)
        if self._classifier.info != task.info:
            raise BundleError(
                f"The bundle {task.bundle_uri} was replaced meanwhile; predict again."
            )
        self._classifier.check()
        self._rows = device.rows_per_pass(where)
        self._readers = ThreadPoolExecutor(8)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Writes the files of `batch["item"]`; returns a row for each, in columns."""
        files = [asdict(self._write(chunk)) for chunk in batch["item"]]
        return {key: [file[key] for file in files] for key in files[0]}

    def _write(self, chunk: Chunk) -> ChunkFile:
        rows: list[dict[str, Any]] = []
        images = self._images(chunk)
        while part := list(itertools.islice(images, self._rows)):
            rows += self._predict(part)
        table = pa.Table.from_pylist(rows, schema=SCHEMA)
        sink = pa.BufferOutputStream()
        # Checksums: a run that continues this one can tell a complete file by itself.
        pq.write_table(table, sink, write_page_checksum=True)
        data = bytes(sink.getvalue())
        storage.write_bytes(storage.join(self._task.target, chunk.path), data)
        return ChunkFile.describe(chunk.path, table, data)

    def _images(self, chunk: Chunk) -> Iterator[tuple[str, bytes]]:
        """Ids and encoded images of a chunk."""
        if chunk.shard is not None and self._task.manifest is not None:
            table = shards.read_shard(self._task.manifest, chunk.shard)
            for image_id, data in zip(table["id"], table["image"], strict=True):
                yield image_id.as_py(), data.as_py()
            return
        first, *others = chunk.images
        yield self._read(first)  # alone: several threads must not make the S3 client at once
        waiting: deque[Future[tuple[str, bytes]]] = deque()
        for image in others:
            waiting.append(self._readers.submit(self._read, image))
            if len(waiting) > _READ_AHEAD:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()

    def _read(self, image: Image) -> tuple[str, bytes]:
        path, size = image
        try:
            return shown(path), storage.read_range(f"{self._task.root}/{path}", 0, size)
        except NotFoundError as error:
            raise DataError(
                f"{error} It was there when SRC was listed: it went away, or SRC is a local folder "
                "that other nodes of the cluster do not see. Use s3:// or a shared folder."
            ) from None

    def _predict(self, images: Sequence[tuple[str, bytes]]) -> list[dict[str, Any]]:
        """A row of `SCHEMA` with a prediction or an error for each id and encoded image."""
        rows: list[dict[str, Any]] = []
        pixels: list[torch.Tensor] = []
        for image_id, data in images:
            row: dict[str, Any] = {"id": image_id, "error": None}
            try:
                pixels.append(self._classifier.preprocess(data))
            except ImageError as error:
                row["error"] = f"{type(error).__name__}: {error}"
            rows.append(row)
        if not pixels:
            return rows
        good = [row for row in rows if row["error"] is None]
        output = self._classifier.predict_batches(torch.stack(pixels))
        for row, probabilities in zip(good, output.probabilities, strict=True):
            row.update(asdict(self._classifier.prediction(probabilities)))
        return rows
