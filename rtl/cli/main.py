"""The command line: what it takes. `rtl.verbs` has what each verb does."""

from __future__ import annotations

import argparse
import atexit
import gc
import os
import shlex
import sys
import tempfile
import traceback
from collections.abc import Callable, Sequence
from typing import Any

from rtl.cli import commands, interrupt, job_commands, stopped
from rtl.errors import RtlError
from rtl.runtime import session

VERBS = ("pack", "features", "search", "train", "lr-find", "evaluate", "predict", "deploy")
"""What can be submitted."""


UNEXPECTED = 70
"""Exit status after an error that nobody expected (EX_SOFTWARE of sysexits.h)."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one verb, and returns its exit status.

    0 when it did what was asked, 1 after an error, 70 after one that nobody expected, 130 after
    Ctrl-C.
    """
    try:
        parsed = parse(arguments)
    finally:
        _flush()  # of help, whose reader may be gone
    interrupt.install()
    atexit.register(gc.freeze)  # Python would look through all objects as it ends: a second
    session.silence()
    action: Callable[[argparse.Namespace], None] = parsed.action
    try:
        action(parsed)
    except RtlError as error:
        sys.stderr.write(f"rtl {parsed.verb}: {error}\n")
        return 1
    except KeyboardInterrupt:
        given = sys.argv[1:] if arguments is None else arguments
        sys.stderr.write(stopped.lines(parsed, given, lambda: commands.load(parsed)))
        return 130
    except Exception as error:  # noqa: BLE001 -- told in short; its traceback is kept
        sys.stderr.write(_unexpected(parsed.verb, error))
        return UNEXPECTED
    return 0


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The verb and what it was given; SystemExit with a message for what cannot be."""
    parser = _parser()
    parsed, rest = parser.parse_known_args(arguments)
    if parsed.verb == "submit":
        parsed.asked, parsed.rest = parse([parsed.submitted, *rest]), rest
    elif rest:
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    return parsed


def _flush() -> None:
    """Writes out what waits; a pipe that nobody reads gets nothing more, as Python ends too."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _unexpected(verb: str, error: Exception) -> str:
    """Three lines on an error that nobody expected; its traceback goes to a file of its own."""
    from rtl.cli.console import console

    text = "".join(traceback.format_exception(error))
    if os.environ.get("RTL_DEBUG") == "1":
        return text
    handle, path = tempfile.mkstemp(prefix="rtl-error-", suffix=".log")
    with os.fdopen(handle, "w", encoding="utf-8", errors="backslashreplace") as file:
        file.write(f"{shlex.join(sys.argv)}\n{text}")
    last = text.strip().splitlines()[-1]
    doing = f" ({console.activity})" if console.activity else ""
    return (
        f"rtl {verb}{doing}: an error that nobody expected, a defect of rtl or of what it uses.\n"
        f"{last}\n"
        f"The traceback is in {path}; RTL_DEBUG=1 shows it here.\n"
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="rtl", description="From labelled images to a served classifier."
    )
    subparsers = parser.add_subparsers(dest="verb", required=True, metavar="VERB")

    def add(name: str, action: Callable[[argparse.Namespace], None], about: str) -> Any:
        verb = subparsers.add_parser(name, help=about, description=about)
        verb.set_defaults(action=action)
        verb.add_argument("--recipe", metavar="FILE", help="YAML recipe (`rtl config` prints one)")
        verb.add_argument(
            "--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE",
            help="override a key of the recipe, such as search.trials=16; may be repeated",
        )  # fmt: skip
        verb.add_argument("--storage", metavar="URI", help="folder or s3:// prefix for all results")
        return verb

    verb = add("config", commands.config, "Print the effective config as a recipe.")
    verb.add_argument(
        "--only", metavar="KEY", help="a section or key of it, such as search or search.lr"
    )
    verb = add("pack", commands.pack, "Turn labelled images into shards.")
    verb.add_argument("source", help="folder a class, CSV, Parquet, Stanford Dogs or WebDataset")
    verb.add_argument("dest", help="folder or s3:// prefix of the data set")
    for name, action, about in (
        ("train", commands.train, "Fit one model."),
        ("search", commands.search, "Find the depth and learning rate; register the winner."),
    ):
        verb = add(name, action, about)
        verb.add_argument("--name", help="name of the run and of the model")
        verb.add_argument("--data", metavar="URI", help="the packed data set")
        if name == "search":
            verb.add_argument(
                "--budget", metavar="TIME", help="end in this time, such as 30m, 90s or 2h"
            )
        verb.add_argument("--resume", action="store_true", help="go on with a run of this name")
    verb = add(
        "lr-find", commands.lr_find, "Find where to search the learning rate, depth by depth."
    )
    verb.add_argument("--data", metavar="URI", help="the packed data set")
    verb = add("features", commands.features, "List the feature cache; remove what nobody can use.")
    verb.add_argument("--prune", action="store_true", help="remove outdated and abandoned ones")
    verb.add_argument("--all", action="store_true", help="with --prune, remove all not in work")
    verb = add("evaluate", commands.evaluate, "Score a model on a split of a packed data set.")
    verb.add_argument("bundle", help="a bundle's path or URI, NAME or NAME@VERSION")
    verb.add_argument("--data", metavar="URI", help="the packed data set")
    verb.add_argument("--split", default="test", choices=["train", "val", "test"])
    verb.add_argument("--json", action="store_true", help="for scripts: all scores as JSON alone")
    verb = add("quantize", commands.quantize, "Make a version in 8 bits, if it is as accurate.")
    verb.add_argument("bundle", help="a bundle's path or URI, NAME or NAME@VERSION")
    verb.add_argument("--data", metavar="URI", help="the packed data set that it was trained on")
    verb.add_argument(
        "--at-most", type=float, default=0.3, metavar="POINTS",
        help="of accuracy that it may lose on val before it is refused (default: 0.3)",
    )  # fmt: skip
    verb = add("predict", commands.predict, "Answer for many images, as Parquet; again: goes on.")
    verb.add_argument("bundle", help="a bundle's path or URI, NAME or NAME@VERSION")
    verb.add_argument("source", help="folder or s3:// prefix of images, or a packed data set")
    verb.add_argument("dest", help="folder or s3:// prefix for the answers")
    verb = add("report", commands.report, "Write a finished run as one HTML file.")
    verb.add_argument("run", help="a run's name, or its path or URI")
    verb.add_argument("--out", metavar="FILE", help="where to (default: NAME.html)")
    verb = add("runs", commands.runs, "List all runs, how they stand and how good they are.")
    verb.add_argument("--json", action="store_true", help="for scripts: all that is known")
    verb = add("promote", commands.promote, "Make a version of a model the current one.")
    verb.add_argument("name")
    verb.add_argument("version", type=int)
    verb = add(
        "rollback", commands.rollback, "Make the version before the current one current again."
    )
    verb.add_argument("name")
    verb = add(
        "canary", commands.canary, "Let a version answer some of the images beside the current."
    )
    verb.add_argument("name")
    verb.add_argument("version", type=int, nargs="?", help="left out: end the trial")
    verb.add_argument("--share", type=float, default=0.1, help="of the images (default: 0.1)")
    verb.add_argument(
        "--shadow", action="store_true", help="compare only: the current version's answer is given"
    )
    for name, action, about in (
        ("serve", commands.serve, "Serve a model over HTTP until Ctrl-C."),
        ("deploy", commands.deploy, "Serve a model over HTTP, and leave it to the cluster."),
    ):
        verb = add(name, action, about)
        verb.add_argument("bundle", help="a bundle's path or URI, NAME or NAME@VERSION")
    verb = add("export", commands.export, "Write a model as one file for a runtime without rtl.")
    verb.add_argument("bundle", help="a bundle's path or URI, NAME or NAME@VERSION")
    verb.add_argument("out", help="folder or s3:// prefix of the model, metadata and model card")
    verb.add_argument("--format", default="onnx", choices=["onnx", "torch"])
    verb.add_argument(
        "--check", metavar="FOLDER", help="images that it must answer as the bundle does"
    )
    verb = add("card", commands.card, "Print a model's card, or write it.")
    verb.add_argument("bundle", help="a bundle's path or URI, NAME or NAME@VERSION")
    verb.add_argument("--out", metavar="FILE", help="where to (default: standard output)")

    def remote(name: str, action: Callable[[argparse.Namespace], None], about: str) -> Any:
        verb = subparsers.add_parser(name, help=about, description=about, allow_abbrev=False)
        verb.set_defaults(action=action)
        verb.add_argument("--address", metavar="URL", help="job server, such as http://HEAD:8265")
        return verb

    verb = remote(
        "submit", job_commands.submit, "Run a verb, with its own arguments, as a cluster's job."
    )
    verb.add_argument("submitted", metavar="VERB", choices=VERBS, help=", ".join(VERBS))
    verb.add_argument("--id", metavar="ID", help="submission id (default: one is made)")
    verb.add_argument("--no-wait", action="store_true", help="return once it is submitted")
    verb.add_argument("--runtime-env", metavar="FILE", help="YAML, where nodes lack packages")
    verb.add_argument("--cpus", type=float, help="that the job's own process reserves")
    verb.add_argument("--gpus", type=float, help="that the job's own process reserves")
    verb.add_argument("--memory-gb", type=float, help="that the job's own process reserves")
    verb = remote(
        "jobs", job_commands.jobs, "List a cluster's jobs; follow, stop or take one up again."
    )
    one = verb.add_mutually_exclusive_group()
    one.add_argument("--follow", metavar="ID", help="show its output until it ends")
    one.add_argument("--stop", metavar="ID", help="end it; what it committed stays")
    one.add_argument("--resume", metavar="ID", help="submit it again; a fit or search goes on")
    verb = add("demo", commands.demo, "The whole way on 2,624 real photos of solar cells.")
    verb.add_argument("--quick", action="store_true", help="300 photos and a small search")
    verb.add_argument("--keep", action="store_true", help="leave the endpoint up until Ctrl-C")
    verb.add_argument("--json", action="store_true", help="for scripts: end with a line of JSON")
    return parser
