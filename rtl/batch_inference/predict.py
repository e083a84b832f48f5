"""`rtl predict`: a bundle's answers to a folder of images or a packed data set, as Parquet.

    plan.json           the bundle's digests and what each chunk reads; written first
    answers/            Parquet alone: 00000.parquet, ... of a folder, or train/00000.parquet, ...
    predictions.json    what was done (`Summary`)
    COMMIT              sha256 and bytes of the answers and of predictions.json; written last

Run again after a stop, only the chunks are computed that have no whole file. An image that cannot
be read is a row with its error.
"""

from __future__ import annotations

import itertools
import json
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import ray.data
import torch

from rtl import storage
from rtl.data import shards
from rtl.data.shards import LeftOut, Manifest, Shard
from rtl.data.sources import Tally, shown, visible_files
from rtl.errors import BundleError, ConfigError, DataError, ImageError, NotFoundError
from rtl.model import bundle, device
from rtl.model.bundle import BundleInfo, Classifier
from rtl.runtime import capacity, session, task_errors
from rtl.runtime.capacity import ResourceRequest
from rtl.storage import destinations

PLAN = "plan.json"
ANSWERS = "answers"
SUMMARY = "predictions.json"
SCHEMA = pa.schema(
    [
        ("id", pa.string()),  # path relative to SRC, or the row's id in the data set
        ("label", pa.string()),  # the most probable class; null, as all to come, beside an error
        ("probability", pa.float32()),  # of that class
        ("uncertain", pa.bool_()),  # the bundle's `uncertain_below` is above `probability`
        ("probabilities", pa.list_(pa.float32())),  # in the order of the bundle's classes
        ("error", pa.string()),  # type and message; null beside an answer
    ]
)

_CHUNK = (32, 256)  # images of a folder, fewest and most: few images are spread over all cores
_READ_AHEAD = 16  # encoded images that wait for their turn
_VERSION = 1
_GO_ON = "The answers so far stand: once that is mended, the same command goes on from there."

_Image = tuple[str, int]  # path relative to SRC and bytes
_Done = dict[str, Any]  # of a chunk's file: path, rows, errors, uncertain, sha256, bytes


@dataclass(frozen=True)
class Summary:
    """What a finished prediction says of itself; `predictions.json`."""

    bundle: str
    """URI of the bundle that answered."""
    model_sha256: str
    """Of its weights."""
    classes: tuple[str, ...]
    """In the order of `probabilities`."""
    source: str
    chunks: tuple[str, ...]
    """The Parquet files, relative to DEST, in the order of the source."""
    rows: int
    """Images, those with an error too."""
    errors: int
    """Images that could not be read."""
    uncertain: int
    """Answers below the bundle's `uncertain_below`."""
    left_out: tuple[LeftOut, ...] = ()
    """Files of the source that are no images: hidden ones, clutter of systems, links."""


@dataclass(frozen=True)
class _Chunk:
    """What one output file answers for: a shard, or some images of a folder."""

    path: str
    """Of the output, relative to DEST."""
    rows: int
    shard: Shard | None
    images: tuple[_Image, ...]


def predict(
    bundle_uri: str,
    source: str,
    dest: str,
    use_gpu: bool = False,
    progress: session.Progress = session.no_progress,
) -> Summary:
    """Answers for every image of a source, by actors of Ray Data; connects to Ray where it must.

    `source` is a packed data set (all its splits) or a folder or prefix whose files are images, but
    for those in `Summary.left_out`. A finished `dest` gives its summary at once.
    Raises BundleError, DataError (no image, or one went away), NotFoundError (no source),
    ConfigError (`dest` holds something else), ResourceError (no GPU) and StorageError.
    """
    root, target = storage.normalize(source), storage.normalize(dest)
    _check_apart(root, target)
    destinations.check_writable(target, "DEST")
    manifest = _manifest(root)
    left_out = Tally()
    chunks = _shard_chunks(manifest) if manifest else _folder_chunks(root, left_out)
    info, digests = _identify(bundle_uri)
    plan = {"version": _VERSION, "bundle": digests, "source": root, "chunks": chunks}
    _settle(target, plan)
    total = sum(chunk.rows for chunk in chunks)
    finished = _finished(target)
    if finished:
        progress(total, total)
        return finished
    storage.delete(storage.join(target, storage.COMMIT))  # of one that lost a file since
    done = _taken_up(target, chunks)
    left = [chunk for chunk in chunks if chunk.path not in done]
    rows = total - sum(chunk.rows for chunk in left)
    progress(rows, total)
    session.connect()
    session.quiet()
    for result in _compute(left, (bundle_uri, info, manifest, root, target, use_gpu), use_gpu):
        done[result["path"]] = result
        rows += result["rows"]
        progress(rows, total)
    entries = [done[chunk.path] for chunk in chunks]
    summary = Summary(
        bundle=storage.normalize(bundle_uri),
        model_sha256=digests[bundle.MODEL],
        classes=info.classes,
        source=root,
        chunks=tuple(entry["path"] for entry in entries),
        rows=sum(entry["rows"] for entry in entries),
        errors=sum(entry["errors"] for entry in entries),
        uncertain=sum(entry["uncertain"] for entry in entries),
        left_out=left_out.result(),
    )
    _seal(target, summary, entries)
    return summary


def _identify(uri: str) -> tuple[BundleInfo, dict[str, str]]:
    """The info of a verified bundle and the sha256 of its files."""
    files = bundle.read_files(uri)
    digests = {name: storage.describe(data)["sha256"] for name, data in sorted(files.items())}
    return BundleInfo.from_dict(json.loads(files[bundle.INFO])), digests


def _manifest(root: str) -> Manifest | None:
    if storage.exists(storage.join(root, shards.MANIFEST)):
        return shards.load_manifest(root)
    return None


def _shard_chunks(manifest: Manifest) -> list[_Chunk]:
    chunks = [
        _Chunk(f"{ANSWERS}/{shard.path}", shard.rows, shard, ())
        for shard in manifest.shards
        if shard.rows
    ]
    if not chunks:
        raise DataError(f"The data set {manifest.uri} has no rows; pack one that has.")
    return chunks


def _folder_chunks(root: str, left_out: Tally) -> list[_Chunk]:
    # The place below the root as it is: that of an S3 key may hold empty names.
    entries = visible_files(root, left_out).entries
    images = [(entry.uri.removeprefix(f"{root}/"), entry.size) for entry in entries]
    if not images:
        beside = "".join(f" Left out {kind}." for kind in left_out.result())
        raise DataError(
            f"{shown(root)} holds no image; give a folder or s3:// prefix of images, or a packed "
            f"data set.{beside}"
        )
    fewest, most = _CHUNK
    size = min(most, max(fewest, len(images) // most))
    parts = [tuple(images[start : start + size]) for start in range(0, len(images), size)]
    return [
        _Chunk(f"{ANSWERS}/{number:05}.parquet", len(part), None, part)
        for number, part in enumerate(parts)
    ]


def _check_apart(root: str, target: str) -> None:
    if destinations.lies_in(target, root):
        raise ConfigError(
            f"DEST {target} lies in SRC {root}: its files would be images of the next prediction. "
            "Choose a DEST beside it."
        )


def _settle(target: str, plan: Mapping[str, Any]) -> None:
    """Writes the plan where there is none.

    Raises ConfigError where DEST holds another plan, or files that no plan stands beside.
    """
    uri = storage.join(target, PLAN)
    encoded = json.dumps(plan, default=asdict).encode()
    foreign = [entry.path for entry in storage.list_files(target) if entry.path[0] != "."]
    if foreign and not storage.exists(uri):
        raise ConfigError(
            f"DEST {target} holds files that are no prediction, such as {shown(foreign[0])}; "
            "choose an empty one."
        )
    storage.create(uri, encoded)
    wanted, found = json.loads(encoded), storage.read_json(uri)
    if found != wanted:
        raise ConfigError(
            f"DEST {target} holds predictions {_difference(found, wanted)}. Choose another DEST, "
            f"or delete {target} to predict anew."
        )


def _difference(found: Any, wanted: Mapping[str, Any]) -> str:
    """How a plan that was found differs from the one that is wanted."""
    if not isinstance(found, dict) or found.get("version") != _VERSION:
        return "of another version of rtl"
    if found["bundle"] != wanted["bundle"]:
        one, other = (plan["bundle"][bundle.INFO][:12] for plan in (found, wanted))
        return f"of another bundle (its {bundle.INFO} has sha256 {one}, this one's {other})"
    if found["source"] != wanted["source"]:
        return f"of another source, {shown(found['source'])}"
    before, now = ({json.dumps(chunk) for chunk in plan["chunks"]} for plan in (found, wanted))
    return (
        f"of {shown(found['source'])} before files were added, removed or changed there "
        f"({len(before - now)} of {len(before)} chunks are others now)"
    )


def _lacking(target: str, files: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Those of the files that are not there in their size."""
    sizes = {entry.path: entry.size for entry in storage.list_files(target)}
    return [path for path, entry in files.items() if sizes.get(path) != entry["bytes"]]


def _finished(target: str) -> Summary | None:
    if not storage.is_committed(target):
        return None
    files = storage.read_json(storage.join(target, storage.COMMIT))["files"]
    if _lacking(target, files):
        return None
    content = storage.read_json(storage.join(target, SUMMARY))
    return Summary(
        **{
            **content,
            "classes": tuple(content["classes"]),
            "chunks": tuple(content["chunks"]),
            "left_out": tuple(LeftOut(**kind) for kind in content.get("left_out", [])),
        }
    )


def _seal(target: str, summary: Summary, entries: Sequence[_Done]) -> None:
    files = {e["path"]: {"sha256": e["sha256"], "bytes": e["bytes"]} for e in entries}
    lacking = _lacking(target, files)
    if lacking:
        raise DataError(
            f"{target} lacks {len(lacking)} of {len(files)} files that actors wrote: it is a local "
            "folder that nodes of the cluster do not share. Use s3:// or a shared folder."
        )
    encoded = json.dumps(asdict(summary), indent=1).encode()
    storage.write_bytes(storage.join(target, SUMMARY), encoded)
    storage.seal(target, {**files, SUMMARY: storage.describe(encoded)})


def _taken_up(target: str, chunks: Sequence[_Chunk]) -> dict[str, _Done]:
    """The whole files that an earlier run left, by path."""
    names = {entry.path for entry in storage.list_files(target)}

    def verify(chunk: _Chunk) -> _Done | None:
        data = storage.read_bytes(storage.join(target, chunk.path))
        try:
            table = pq.read_table(pa.BufferReader(data), page_checksum_verification=True)
        except (pa.ArrowInvalid, OSError):
            return None
        whole = table.schema.equals(SCHEMA) and len(table) == chunk.rows
        return _describe(chunk, table, data) if whole else None

    there = [chunk for chunk in chunks if chunk.path in names]
    with ThreadPoolExecutor(8) as pool:
        return {done["path"]: done for done in pool.map(verify, there) if done}


def _describe(chunk: _Chunk, table: pa.Table, data: bytes) -> _Done:
    return {
        "path": chunk.path,
        "rows": len(table),
        "errors": len(table) - table["error"].null_count,
        "uncertain": table["uncertain"].to_pylist().count(True),
        **storage.describe(data),
    }


def _compute(
    chunks: Sequence[_Chunk], arguments: tuple[Any, ...], use_gpu: bool
) -> Iterator[_Done]:
    """Has actors write the files of these chunks, and tells of each that is written."""
    if not chunks:
        return
    capacity.require(ResourceRequest("The prediction", 1, int(not use_gpu), int(use_gpu)))
    dataset = ray.data.from_items(list(chunks), override_num_blocks=len(chunks)).map_batches(
        task_errors.OnFirstCall,
        fn_constructor_args=(_Answerer, *arguments),
        **capacity.actor_options(len(chunks), sum(chunk.rows for chunk in chunks), use_gpu),
    )
    with destinations.advise(_GO_ON), task_errors.raise_own_errors():
        yield from dataset.iter_rows()


class _Answerer:
    """An actor that answers for whole chunks and writes their files."""

    def __init__(
        self, bundle_uri: str, info: BundleInfo, manifest: Manifest | None, root: str, target: str,
        use_gpu: bool,
    ) -> None:  # fmt: skip
        torch.set_num_threads(1)
        self._classifier = Classifier.load(bundle_uri, device.pick(use_gpu))
        if self._classifier.info != info:
            raise BundleError(f"The bundle {bundle_uri} was replaced meanwhile; predict again.")
        self._classifier.check()
        self._manifest, self._root, self._target = manifest, root, target
        self._step = 64 if use_gpu else 8
        self._readers = ThreadPoolExecutor(8)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        done = [self._write(chunk) for chunk in batch["item"]]
        return {key: [entry[key] for entry in done] for key in done[0]}

    def _write(self, chunk: _Chunk) -> _Done:
        rows: list[dict[str, Any]] = []
        images = self._images(chunk)
        while part := list(itertools.islice(images, self._step)):
            rows += self._answer(part)
        table = pa.Table.from_pylist(rows, schema=SCHEMA)
        sink = pa.BufferOutputStream()
        # Checksums: a run that takes this one up can tell a whole file by itself.
        pq.write_table(table, sink, write_page_checksum=True)
        data = bytes(sink.getvalue())
        storage.write_bytes(storage.join(self._target, chunk.path), data)
        return _describe(chunk, table, data)

    def _images(self, chunk: _Chunk) -> Iterator[tuple[str, bytes]]:
        """Ids and encoded images of a chunk."""
        if chunk.shard is not None and self._manifest is not None:
            table = shards.read_shard(self._manifest, chunk.shard)
            for image_id, data in zip(table["id"], table["image"], strict=True):
                yield image_id.as_py(), data.as_py()
            return
        first, *others = chunk.images
        yield self._read(first)  # alone: several threads must not make the S3 client at once
        waiting: deque[Any] = deque()
        for image in others:
            waiting.append(self._readers.submit(self._read, image))
            if len(waiting) > _READ_AHEAD:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()

    def _read(self, image: _Image) -> tuple[str, bytes]:
        path, size = image
        try:
            return shown(path), storage.read_range(f"{self._root}/{path}", 0, size)
        except NotFoundError as error:
            raise DataError(
                f"{error} It was there when SRC was listed: it went away, or SRC is a local folder "
                "that other nodes of the cluster do not see. Use s3:// or a shared folder."
            ) from None

    def _answer(self, images: Sequence[tuple[str, bytes]]) -> list[dict[str, Any]]:
        """A row with an answer or an error for each id and encoded image."""
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
        info = self._classifier.info
        for row, answer in zip(good, self._classifier.predict(torch.stack(pixels)), strict=True):
            best = int(answer.argmax())
            row["label"] = info.classes[best]
            row["probability"] = float(answer[best])
            row["uncertain"] = row["probability"] < info.uncertain_below
            row["probabilities"] = answer.tolist()
        return rows
