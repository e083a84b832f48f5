"""After Ctrl-C: what stands of the work, and the command that goes on with it."""

from __future__ import annotations

import argparse
import contextlib
import shlex
import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from rtl.errors import RtlError

if TYPE_CHECKING:
    from rtl.config.tree import Config

PATIENCE_S = 3.0
"""Seconds for a look at storage; one that does not answer is not waited for."""


def lines(arguments: argparse.Namespace, given: Sequence[str], load: Callable[[], Config]) -> str:
    """What to tell after Ctrl-C. `given` are the command line's words, `load` gives the config."""
    found: list[str] = []

    def look() -> None:
        with contextlib.suppress(RtlError, KeyError, TypeError, ValueError):
            found.append(_STANDING.get(arguments.verb, _nothing)(arguments, load))

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    thread.join(PATIENCE_S)
    standing = found[0] if found else "What was written before stays."
    words = [word for word in given if word != "--resume"]
    if arguments.verb in ("train", "search"):
        words.append("--resume")
    verb = {"serve": "Serve again with", "demo": "Start again with"}.get(
        arguments.verb, "Go on with"
    )
    return f"rtl {arguments.verb}: Stopped. {standing}\n{verb}: {shlex.join(['rtl', *words])}\n"


def _nothing(arguments: argparse.Namespace, load: Callable[[], Config]) -> str:  # noqa: ARG001
    return "Nothing was changed or half-written."


def _pack(arguments: argparse.Namespace, load: Callable[[], Config]) -> str:  # noqa: ARG001
    from rtl import storage
    from rtl.data import shards

    if storage.exists(storage.join(arguments.dest, shards.MANIFEST)):
        return f"The data set that was at {arguments.dest} is whole."
    return f"{arguments.dest} holds no data set yet; packing begins anew."


def _run(arguments: argparse.Namespace, load: Callable[[], Config]) -> str:
    from rtl import storage
    from rtl.runs import run, trials

    uri = run.locate(load())
    if arguments.verb == "search":
        ended = [t for t in trials.recorded(uri) if t.state in ("finished", "stopped")]
        kept = f"{len(ended)} {'trial' if len(ended) == 1 else 'trials'} that ended"
    else:
        epochs = storage.read_json(storage.join(uri, run.ATTEMPT)).get("epochs", 0)
        kept = f"{epochs} committed {'epoch' if epochs == 1 else 'epochs'}"
    return f"{kept} and all features computed so far are kept ({uri})."


def _predict(arguments: argparse.Namespace, load: Callable[[], Config]) -> str:  # noqa: ARG001
    from rtl import storage
    from rtl.batch_inference import chunks

    files = storage.list_files(storage.join(arguments.dest, chunks.ANSWERS))
    whole = [entry for entry in files if entry.path.endswith(".parquet")]
    return f"{len(whole)} files of answers are kept at {arguments.dest}."


def _serve(arguments: argparse.Namespace, load: Callable[[], Config]) -> str:  # noqa: ARG001
    return "The endpoint has ended; the model stays registered."


def _demo(arguments: argparse.Namespace, load: Callable[[], Config]) -> str:  # noqa: ARG001
    if arguments.storage:
        return f"What it wrote stays below {arguments.storage}."
    return "Its object storage has ended with it, so nothing is kept."


_STANDING = {
    "pack": _pack, "train": _run, "search": _run, "predict": _predict, "serve": _serve,
    "demo": _demo,
}  # fmt: skip
