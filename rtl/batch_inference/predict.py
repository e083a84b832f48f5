"""`rtl predict`: a bundle's predictions for a folder of images or a packed data set, as Parquet.

    plan.json           the bundle's digests and what each chunk reads; written first
    answers/            Parquet alone: 00000.parquet, ... of a folder, or train/00000.parquet, ...
    predictions.json    the result (`Summary`)
    COMMIT              sha256 and bytes of the answers and of predictions.json; written last

Run again after a stop, it computes only the chunks that have no complete file. An image that cannot
be read is a row with its error.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from rtl import storage
from rtl.batch_inference import chunk_files, chunks
from rtl.batch_inference.chunk_files import ChunkFile, PredictionTask
from rtl.batch_inference.chunks import PredictionPlan
from rtl.data import shards
from rtl.data.shards import LeftOut, Manifest
from rtl.data.sources import Tally
from rtl.errors import ConfigError, DataError
from rtl.model import bundle
from rtl.model.bundle import BundleInfo
from rtl.runtime import session
from rtl.storage import destinations

SUMMARY = "predictions.json"


@dataclass(frozen=True)
class Summary:
    """Result of a finished batch prediction; `predictions.json`."""

    bundle: str
    """URI of the bundle."""
    model_sha256: str
    """sha256 of its weights."""
    classes: tuple[str, ...]
    """Class names in the order of `probabilities`."""
    source: str
    chunks: tuple[str, ...]
    """Parquet files, relative to DEST, in the order of the source."""
    rows: int
    """Images, those with an error too."""
    errors: int
    """Images that could not be read."""
    uncertain: int
    """Predictions below the bundle's `uncertain_below`."""
    set_coverage: float | None = None
    """Probability that `one_of` holds the true class; None for a bundle without prediction sets."""
    left_out: tuple[LeftOut, ...] = ()
    """Files of the source that are no images: hidden ones, clutter of systems, links."""


def predict(
    bundle_uri: str,
    source: str,
    dest: str,
    *,
    use_gpu: bool = False,
    progress: session.Progress = session.no_progress,
) -> Summary:
    """Predicts every image of a source, by actors of Ray Data; connects to Ray where it must.

    `source` is a packed data set (all its splits) or a folder or prefix whose files are images, but
    for those in `Summary.left_out`. A finished `dest` gives its summary at once. `progress` gets
    the images done and their total.
    Raises BundleError, DataError (no image, or one went away), NotFoundError (no source),
    ConfigError (`dest` holds something else), ResourceError (no GPU) and StorageError.
    """
    root, target = storage.normalize(source), storage.normalize(dest)
    _check_apart(root, target)
    destinations.check_writable(target, "DEST")
    manifest = _manifest(root)
    left_out = Tally()
    parts = chunks.shard_chunks(manifest) if manifest else chunks.folder_chunks(root, left_out)
    info, digests = _identify(bundle_uri)
    plan = PredictionPlan(digests, root, parts)
    chunks.write_plan(target, plan)
    finished = _finished(target)
    if finished:
        progress(plan.rows, plan.rows)
        return finished
    storage.delete(storage.join(target, storage.COMMIT))  # of one that lost a file since
    task = PredictionTask(
        bundle_uri=bundle_uri, info=info, manifest=manifest, root=root, target=target,
        use_gpu=use_gpu,
    )  # fmt: skip
    files = _files(plan, task, progress)
    summary = Summary(
        bundle=storage.normalize(bundle_uri),
        model_sha256=digests[bundle.MODEL],
        classes=info.classes,
        source=root,
        chunks=tuple(file.path for file in files),
        rows=sum(file.rows for file in files),
        errors=sum(file.errors for file in files),
        uncertain=sum(file.uncertain for file in files),
        set_coverage=info.prediction_sets.coverage if info.prediction_sets else None,
        left_out=left_out.result(),
    )
    _seal(target, summary, files)
    return summary


def _files(
    plan: PredictionPlan, task: PredictionTask, progress: session.Progress
) -> list[ChunkFile]:
    """Files of all chunks, in their order: those of an earlier run, and the others computed now."""
    files = chunk_files.find_complete_files(task.target, plan.chunks)
    missing = [chunk for chunk in plan.chunks if chunk.path not in files]
    done = plan.rows - sum(chunk.rows for chunk in missing)
    progress(done, plan.rows)
    session.connect()
    session.quiet()
    for file in chunk_files.compute_files(missing, task):
        files[file.path] = file
        done += file.rows
        progress(done, plan.rows)
    return [files[chunk.path] for chunk in plan.chunks]


def _identify(uri: str) -> tuple[BundleInfo, dict[str, str]]:
    """The info of a verified bundle and the sha256 of its files."""
    files = bundle.read_files(uri)
    digests = {name: storage.describe(data)["sha256"] for name, data in sorted(files.items())}
    return BundleInfo.from_dict(json.loads(files[bundle.INFO])), digests


def _manifest(root: str) -> Manifest | None:
    if storage.exists(storage.join(root, shards.MANIFEST)):
        return shards.load_manifest(root)
    return None


def _check_apart(root: str, target: str) -> None:
    if destinations.lies_in(target, root):
        raise ConfigError(
            f"DEST {target} lies in SRC {root}: its files would be images of the next prediction. "
            "Choose a DEST beside it."
        )


def _finished(target: str) -> Summary | None:
    """The summary of a complete prediction, None where there is none."""
    if not storage.is_committed(target):
        return None
    files = storage.read_json(storage.join(target, storage.COMMIT))["files"]
    if chunk_files.missing_files(target, files):
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


def _seal(target: str, summary: Summary, files: Sequence[ChunkFile]) -> None:
    written = {file.path: {"sha256": file.sha256, "bytes": file.size} for file in files}
    missing = chunk_files.missing_files(target, written)
    if missing:
        raise DataError(
            f"{target} lacks {len(missing)} of {len(written)} files that actors wrote: it is a "
            "local folder that nodes of the cluster do not share. Use s3:// or a shared folder."
        )
    encoded = json.dumps(asdict(summary), indent=1).encode()
    storage.write_bytes(storage.join(target, SUMMARY), encoded)
    storage.seal(target, {**written, SUMMARY: storage.describe(encoded)})
