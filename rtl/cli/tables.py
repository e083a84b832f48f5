"""Tables and lines of the commands' results."""

from __future__ import annotations

import datetime
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.markup import escape
from rich.table import Table

from rtl.display.console import duration, interval, make_table

if TYPE_CHECKING:
    from ray.job_submission import JobDetails

    from rtl.evaluation.metrics import Scores
    from rtl.feature_extraction.prune import Cache
    from rtl.planning.records import CommandForecast, Forecast, PackForecast, StageForecast
    from rtl.runs.listing import Row
    from rtl.runs.records import SearchSummary
    from rtl.tuning.lr_find import RangeTest


def rates_table(tests: Sequence[RangeTest]) -> Table:
    """Results of range tests, a row each."""
    found = make_table("unfrozen", "lr", "from", "to", "loss there", "at the start")
    for t in tests:
        low, high = t.around
        found.add_row(
            str(t.unfrozen_layers), f"{t.suggestion:.2g}", f"{low:.2g}", f"{high:.2g}",
            f"{t.loss_at(t.suggestion):.3f}", f"{t.losses[0]:.3f}",
        )  # fmt: skip
    return found


def caches_table(caches: Sequence[Cache]) -> Table:
    """Entries of the feature cache, a row each."""
    found = make_table("features", "data set", "unfrozen", "views", "MB", "state")
    for c in caches:
        found.add_row(
            c.uri.rsplit("/", 1)[-1][:12], c.data_uri or "-", str(c.unfrozen_layers),
            str(c.views), f"{c.bytes / 1e6:.1f}", c.state,
        )  # fmt: skip
    return found


def runs_table(rows: Sequence[Row]) -> Table:
    """The runs under a storage root, a row each."""
    found = make_table(
        "run", "state", "started UTC, data set", "scores", "model", "done, spent", lines=True
    )
    for r in rows:
        digest = r.data_digest[:12] if r.data_digest else "-"
        scores = ["-" if r.val is None else f"val {r.metric} {r.val:.3f}"]
        scores += [f"test {interval(r.test)}"] if r.test else []
        found.add_row(
            f"{escape(r.name)}\n{r.kind or '-'}", f"{r.state}\n{_minute(r.last)}",
            f"{_minute(r.started)}\n{digest}", escape("\n".join(scores)), escape(r.bundle or "-"),
            f"{_done(r)}\n{_spent(r)}",
        )  # fmt: skip
    return found


def _minute(iso: str | None) -> str:
    """`2026-11-25 09:16`, UTC."""
    return iso[:16].replace("T", " ") if iso else "-"


def _done(row: Row) -> str:
    parts = []
    if row.trials_done is not None:
        parts = [f"{row.trials_done} of {row.trials_planned or '?'} trials"]
    elif row.epochs is not None:
        parts = [f"{row.epochs} epochs"]
    parts += [] if row.seconds is None else [f"{row.seconds:.0f} s"]
    return ", ".join(parts) or "-"


def _spent(row: Row) -> str:
    if row.spent is None:
        return "-"
    parts = [f"{row.spent.cpu_seconds / 60:.1f} CPU min"]
    parts += [f"{row.spent.gpu_seconds / 60:.1f} GPU min"] if row.spent.gpu_seconds else []
    parts += [f"{row.spent.cost:.2f} {row.currency}"] if row.spent.cost else []
    return escape(", ".join(parts))


def jobs_table(jobs: Sequence[JobDetails]) -> Table:
    """A cluster's jobs, a row each."""
    found = make_table("job", "state", "started UTC", "command", whole=("job",))
    for job in jobs:
        started = datetime.datetime.fromtimestamp((job.start_time or 0) / 1000, datetime.UTC)
        found.add_row(
            job.submission_id, str(job.status), f"{started:%Y-%m-%d %H:%M}", escape(job.entrypoint)
        )
    return found


def forecast_table(found: Forecast) -> Table:
    """A forecast, a row for each stage and one for each command."""
    priced = found.price_per_hour is not None
    columns = ["", "time", "memory a process", "storage"] + (["cost"] if priced else [])
    table = make_table(*columns, title=f"Forecast for {found.rows} images, {_cluster(found)}")

    def add(name: str, part: PackForecast | StageForecast | CommandForecast, memory: int) -> None:
        cost = found.cost(part.seconds)
        table.add_row(
            name, duration(part.seconds), _gigabytes(memory), _gigabytes(part.storage),
            *([] if cost is None else [f"{escape(found.currency)}{cost:.2f}"]),
        )  # fmt: skip

    if found.pack is None:
        table.add_row("rtl pack", "packed", *["-"] * (len(columns) - 2))
    else:
        add("rtl pack", found.pack, 0)
    for command in found.commands:
        table.add_section()
        add(f"rtl {command.kind}", command, command.memory)
        for stage in command.stages:
            add(f"  {stage.name}", stage, stage.memory)
    return table


def forecast_lines(found: Forecast) -> list[str]:
    """Bottlenecks, and the cores that a GPU needs beside it."""
    rate = found.images_per_core
    lines = [f"Most time: {command.bottleneck}" for command in found.commands]
    if found.cores_per_gpu is None:
        lines.append(
            f"A core decodes {rate:.0f} images/s with their views: a GPU needs one for each "
            f"{rate:.0f} images/s that it computes."
        )
    else:
        lines.append(
            f"A GPU needs {math.ceil(found.cores_per_gpu)} cores to feed it: each decodes "
            f"{rate:.0f} images/s with their views."
        )
    return [*lines, f"Measured for {found.measured_seconds:.0f} s, on the machine as it is now."]


def _cluster(found: Forecast) -> str:
    gpus = f", {found.gpus} GPUs" if found.gpus else ""
    return f"{found.cpus} CPUs{gpus}"


def _gigabytes(size: int) -> str:
    if not size:
        return "-"
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{max(1, round(size / 1e6))} MB"


def scores_lines(split: str, scores: Scores) -> list[str]:
    """A split's scores, one a line, with 95 % intervals."""
    named = [
        ("accuracy", scores.accuracy),
        ("top-5", scores.top5),
        ("macro F1", scores.macro_f1),
        ("ROC AUC", scores.auc),
    ]
    return [f"{split} ({scores.rows} rows, 95 % intervals)"] + [
        f"  {name:<9} {interval(estimate)}" for name, estimate in named if estimate is not None
    ]


def spent_line(summary: SearchSummary) -> str:
    """Resources that a search's trials took, and their cost."""
    spent = summary.spent
    parts = [f"{spent.cpu_seconds / 60:.1f} CPU minutes"]
    parts += [f"{spent.gpu_seconds / 60:.1f} GPU minutes"] if spent.gpu_seconds else []
    parts += [f"{spent.cost:.2f} {summary.currency}"] if spent.cost else []
    return (
        f"The trials took {', '.join(parts)}; the last half per cent of score took "
        f"{summary.last_half_percent:.0%} of that."
    )
