"""`rtl evaluate`, `rtl compare`, `rtl quantize`, `rtl predict`, `rtl export` and `rtl card`."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Literal

from rtl.cli.arguments import flag, option, positional
from rtl.cli.commands.base import Configured, OnData, bundle_argument
from rtl.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Evaluate(OnData):
    """Scores a model on a split."""

    verb = "evaluate"
    about = "Score a model on a split of a packed data set."

    bundle: str = bundle_argument()
    split: Literal["train", "val", "test"] = option(
        "--split", default="test", choices=["train", "val", "test"]
    )
    as_json: bool = flag("--json", "for scripts: all scores as JSON alone")

    def execute(self) -> None:
        """See `Command`."""
        from rtl.api.models import evaluate
        from rtl.cli import tables
        from rtl.display.console import print_line, write

        found = evaluate(
            self.bundle, recipe=self.settings(), split=self.split, progress=not self.as_json
        )
        if self.as_json:
            write(json.dumps(found.scores.to_dict()) + "\n")
            return
        for line in tables.scores_lines(self.split, found.scores):
            print_line(line)


@dataclass(frozen=True, kw_only=True)
class Compare(OnData):
    """Compares two models."""

    verb = "compare"
    about = "Compare two models on the same rows: which is better, and where they differ."

    a: str = positional("model A: a bundle's path or URI, NAME or NAME@VERSION")
    b: str = positional("model B, whose scores are compared with A's")
    split: Literal["train", "val", "test"] = option(
        "--split", default="test", choices=["train", "val", "test"]
    )
    robustness: bool = flag(
        "--robustness",
        "also under blur, noise, brightness and JPEG damage: nine passes in place of one",
    )
    near_duplicates: bool = flag(
        "--near-duplicates",
        "leave out rows whose photo is in train in another form too, as `rtl audit` finds them",
    )
    html: str | None = option(
        "--html", metavar="FILE", help="page with the photos that one model alone has right"
    )
    as_json: bool = flag("--json", "for scripts: everything as JSON alone")

    def execute(self) -> None:
        """See `Command`."""
        from rtl.api.comparisons import compare
        from rtl.cli import comparison_lines
        from rtl.display.console import print_line, print_table, write

        found = compare(
            self.a, self.b, split=self.split, robustness=self.robustness,
            near_duplicates=self.near_duplicates, html=self.html,
            recipe=self.settings(), progress=not self.as_json,
        )  # fmt: skip
        if self.as_json:
            write(json.dumps(found.to_dict()) + "\n")
            return
        for line in comparison_lines.names(found):
            print_line(line)
        print_table(comparison_lines.scores_table(found))
        print_line(found.verdict)
        print_table(comparison_lines.classes_table(found))
        if found.robustness:
            print_table(comparison_lines.robustness_table(found))
        for line in comparison_lines.remarks(found):
            print_line(line)
        if self.html:
            print_line(f"Photos that one model alone has right: {self.html}")


@dataclass(frozen=True, kw_only=True)
class Quantize(Configured):
    """Registers a model in 8 bits."""

    verb = "quantize"
    about = "Register an 8-bit version of a model, if it is as accurate."

    bundle: str = bundle_argument()
    data: str | None = option(
        "--data", metavar="URI", help="the packed data set that it was trained on"
    )
    at_most: float = option(
        "--at-most", type=float, default=0.3, metavar="POINTS",
        help="of accuracy that it may lose on val (default: 0.3)",
    )  # fmt: skip

    def execute(self) -> None:
        """See `Command`."""
        from rtl.batch_inference import quantize
        from rtl.cli import tables
        from rtl.display import progress_views
        from rtl.display.console import print_line
        from rtl.model import registry

        settings = self.settings()
        data = self.data or settings.data.uri
        if data is None:
            raise ConfigError("data.uri is not set; give the packed data set with --data URI.")
        uri = registry.resolve(settings.storage, self.bundle)
        with progress_views.Bars() as bars:
            bars(0, 0, "rows compared")  # the activations' ranges are observed first
            done = quantize.quantize(
                settings.storage, uri, data_uri=data, at_most=self.at_most,
                progress=lambda done, total: bars(done, total, "rows compared"),
            )  # fmt: skip
        proof = done.proof
        print_line(
            f"Accuracy on val {proof.accuracy:.4f} in 8 bits, {proof.accuracy_before:.4f} before; "
            f"{round((1 - proof.agreement) * proof.rows)} of {proof.rows} rows get another class"
        )
        for line in tables.scores_lines("test", done.test) if done.test else []:
            print_line(line)
        print_line(f"Registered as {done.name}@{done.version}")
        print_line(f"Next: rtl promote {done.name} {done.version} --storage {settings.storage}")


@dataclass(frozen=True, kw_only=True)
class Predict(Configured):
    """Predicts many images."""

    verb = "predict"
    about = "Predict many images into Parquet files; run again, it goes on."

    bundle: str = bundle_argument()
    source: str = positional("folder or s3:// prefix of images, or a packed data set")
    dest: str = positional("folder or s3:// prefix for the answers")

    def execute(self) -> None:
        """See `Command`."""
        from rtl.api.models import predict
        from rtl.display.console import print_line

        found = predict(
            self.bundle, self.source, dest=self.dest, recipe=self.settings(), progress=True
        )
        print_line(
            f"{found.rows} images, {found.uncertain} uncertain, {found.errors} unreadable (see "
            "the column `error`)"
        )
        for kind in found.left_out:
            print_line(f"Left out {kind}")
        print_line(f"Answers at {self.dest}/answers")

    def standing(self) -> str:
        """See `Command`."""
        from rtl import storage
        from rtl.batch_inference import chunks

        files = storage.list_files(storage.join(self.dest, chunks.ANSWERS))
        whole = [entry for entry in files if entry.path.endswith(".parquet")]
        return f"{len(whole)} files of answers are kept at {self.dest}."


@dataclass(frozen=True, kw_only=True)
class Export(Configured):
    """Writes a model for another runtime."""

    verb = "export"
    about = "Write a model as one file for a runtime without rtl."

    bundle: str = bundle_argument()
    out: str = positional("folder or s3:// prefix of the model, metadata and model card")
    format: Literal["onnx", "torch"] = option("--format", default="onnx", choices=["onnx", "torch"])
    check: str | None = option(
        "--check", metavar="FOLDER", help="more images on which it is compared with the bundle"
    )

    def execute(self) -> None:
        """See `Command`."""
        from rtl.api.models import export
        from rtl.display.console import print_line

        storage = self.settings().storage
        done = export(self.bundle, self.out, format=self.format, check=self.check, storage=storage)
        print_line(
            f"Asked {done.images} images, it answered as the bundle: probabilities differ by "
            f"{done.difference:.1g} at most."
        )
        print_line(f"Model at {done.uri}, its card beside it")


@dataclass(frozen=True, kw_only=True)
class Card(Configured):
    """Prints or writes a model card."""

    verb = "card"
    about = "Print a model's card, or write it."

    bundle: str = bundle_argument()
    out: str | None = option(
        "--out", metavar="FILE", help="file to write (default: standard output)"
    )

    def execute(self) -> None:
        """See `Command`."""
        from rtl import storage
        from rtl.display import console
        from rtl.exporting import card
        from rtl.model import bundle, registry
        from rtl.storage import destinations

        if self.out:
            destinations.check_file(self.out, "--out")
        uri = registry.resolve(self.settings().storage, self.bundle)
        text = card.card(bundle.verify(uri))
        if self.out:
            storage.write_bytes(self.out, text.encode())
            console.print_line(f"Model card at {self.out}")
        else:
            console.write(text)
