"""The results tables of README and docs, rendered from the newest records.

    python benchmarks/table.py [--check]

In each Markdown file the lines between `<!-- results:begin -->` and `<!-- results:end -->` are
replaced by the table of all themes; `<!-- results:begin search serve -->` takes those named. A
theme has a row for each kind of hardware that it has a record of. `--check` changes nothing and
fails where a table is not what its records give.
"""

from __future__ import annotations

import argparse
import re
import statistics
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from measuring.record import HERE, records

ROOT = HERE.parent
HEADER = ("Task", "Hardware", "Plain PyTorch", "Tuned PyTorch", "rtl", "Ratio", "Script")
NONE = "-"

_MARKED = re.compile(
    r"(<!-- results:begin(?P<themes>[ \w]*?) *-->\n)(?P<table>.*?)(<!-- results:end -->)", re.DOTALL
)

Record = Mapping[str, Any]


@dataclass(frozen=True)
class Row:
    """One line of the table, but for its hardware and script."""

    task: str
    rtl: str
    ratio: str
    plain: str = NONE
    tuned: str = NONE


def duration(seconds: float) -> str:
    """`56 s`, `15 min 52 s` or `4 h 23 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{round(seconds / 60) // 60} h {round(seconds / 60) % 60} min"


def search(record: Record) -> Iterator[Row]:
    """A grid of 12 trials, the same with ASHA, one fit."""
    took = record["rtl_seconds"]
    plain = record["plain_grid_seconds_computed"]
    photos = f"{record['rows']['train']:,} photos"
    yield Row(
        f"Search: 12 trials, 8 epochs of {photos}", duration(took["grid"]),
        f"{record['speedup_same_epochs']:.3g} (tuned: {record['speedup_vs_tuned']:.3g})",
        duration(plain), duration(record["tuned_grid_seconds_computed"]),
    )  # fmt: skip
    asha = took["asha_with_cache"] + took["features"]
    yield Row("The same search with ASHA", duration(asha), f"{record['speedup_vs_grid']:.3g}")
    yield Row(
        f"One fit: k = 0, 10 epochs of {photos}", duration(took["k0"]),
        f"{record['k0_speedup']:.3g}", duration(took["k0"] * record["k0_speedup"]),
    )  # fmt: skip


def trunk(record: Record) -> Iterator[Row]:
    """The feature extraction against the trunk in memory."""
    yield Row(
        "Feature extraction from S3, images/s", f"{record['pass_images_per_s']:.0f}",
        f"{record['ratio_to_bare']:.3g}",
        tuned=f"{statistics.fmean(record['bare_images_per_s']):.0f} (in memory)",
    )  # fmt: skip


def streaming(record: Record) -> Iterator[Row]:
    """Fits on images that Ray Data streams, against Ray Data as it comes."""
    for k, rates in record["rows_per_s"].items():
        yield Row(
            f"Fit on streamed images, k = {k}, images/s", f"{rates['streamed']:.1f}",
            f"{record[f'k{k}_streamed_vs_unrested']:.3g}",
            f"{rates['unrested']:.1f} (Ray Data's defaults)",
        )  # fmt: skip


def serve(record: Record) -> Iterator[Row]:
    """The endpoint against the network alone and LitServe."""
    rate, p50_s = (
        statistics.fmean(run[key] for run in record["bare"]) for key in ("images_per_s", "p50_s")
    )
    yield Row(
        "HTTP endpoint at saturation, images/s", f"{record['rtl']['images_per_s']:.0f}",
        f"{record['throughput_ratio_to_bare']:.3g} "
        f"(LitServe: {record['litserve_throughput_ratio']:.3g})",
        tuned=f"{rate:.0f} (no HTTP)",
    )  # fmt: skip
    yield Row(
        "HTTP endpoint, one photo alone, ms", f"{1000 * record['rtl']['p50_s']:.0f}",
        f"{record['p50_ratio_to_bare']:.3g} (LitServe: {record['litserve_p50_ratio']:.3g})",
        tuned=f"{1000 * p50_s:.0f} (no HTTP)",
    )  # fmt: skip


THEMES: dict[str, Callable[[Record], Iterator[Row]]] = {
    "search": search, "trunk": trunk, "streaming": streaming, "serve": serve,
}  # fmt: skip


def machine(hardware: Mapping[str, Any]) -> str:
    """`AMD EPYC, 2 cores, avx512 bf16`."""
    cpu = re.sub(r"\((R|TM)\)| Processor", "", hardware["cpu"])
    flags = hardware["flags"]
    known = "instructions not recorded" if flags is None else " ".join(flags)
    return f"{cpu}, {hardware['logical_cpus']} cores, {known}"


def newest(theme: str) -> dict[str, Record]:
    """The newest record of a theme for each kind of hardware."""
    return {machine(record["hardware"]): record for record in records(theme)}


def table(themes: Sequence[str]) -> str:
    """The rows of these themes, as a Markdown table."""
    lines = [HEADER, tuple("---" for _ in HEADER)]
    for theme in themes:
        for hardware, record in newest(theme).items():
            lines += [
                (row.task, hardware, row.plain, row.tuned, row.rtl, row.ratio, f"`{theme}.py`")
                for row in THEMES[theme](record)
            ]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def render(text: str) -> str:
    """The text with its tables as the records give them."""

    def replace(match: re.Match[str]) -> str:
        themes = match["themes"].split() or list(THEMES)
        return f"{match[1]}{table(themes)}{match[4]}"

    return _MARKED.sub(replace, text)


def pages() -> list[Path]:
    """The Markdown files that may have a table."""
    return [ROOT / "README.md", HERE / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def main() -> None:
    """Renders, or checks, all Markdown files that have a table."""
    parser = argparse.ArgumentParser()
    parser.add_argument(
        "--check", action="store_true", help="change nothing; fail where one is old"
    )
    check = parser.parse_args().check
    old = []
    for path in pages():
        text = path.read_text(encoding="utf-8")
        rendered = render(text)
        if rendered != text:
            old.append(str(path.relative_to(ROOT)))
            if not check:
                path.write_text(rendered, encoding="utf-8")
    if old:
        print(f"{'Old' if check else 'Rendered'}: {', '.join(old)}")
    sys.exit(bool(old and check))


if __name__ == "__main__":
    main()
