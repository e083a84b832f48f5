"""Makes the pictures of README and the docs from a real run of `rtl demo`.

    python -m docs.pictures.make            # --full takes all photos, for some minutes

It runs the demo in a pseudo-terminal, then photographs the terminal, the endpoint's page with a
heatmap and the report in Chromium. Each picture is a PNG of 256 colours and at most 300 KB. The
endpoint's answer for one photo goes to `answer.json`.
"""

from __future__ import annotations

import argparse
import io
import json
import re
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import httpx
import pyte
from PIL import Image
from playwright.sync_api import Browser, Page, ViewportSize, sync_playwright
from rich.console import Console
from rich.style import Style
from rich.terminal_theme import MONOKAI
from rich.text import Text

from rtl.data.elpv import Photo, load_photos, sample, split
from tests.support.terminal import CTRL_C, Terminal, environment

HERE = Path(__file__).parent
LARGEST = 300_000
"""Bytes that a picture may have."""
COLUMNS, ROWS = 92, 60
WINDOW: ViewportSize = {"width": 1060, "height": 960}
ENDPOINT = r"http://127\.0\.0\.1:\d+(?=/v1/predict)"

_FRAME = """<body style="margin:0"><pre style="display:inline-block; margin:0; padding:18px 22px;
font:14px/1.165 'DejaVu Sans Mono', monospace; background:{background}; color:{foreground}"
>{code}</pre></body><style>{stylesheet}</style>"""


def main() -> None:
    """Runs the demo once and writes all pictures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--full", action="store_true", help="all photos, not 300 of them")
    full = parser.parse_args().full
    arguments = ["demo", *([] if full else ["--quick"]), "--keep"]
    shown = held_out(load_photos() if full else sample(load_photos(), 300))
    command = [sys.executable, "-m", "rtl.cli", *arguments]
    with (
        tempfile.TemporaryDirectory() as folder,
        Terminal(
            command, environment=environment(), folder=Path(folder), columns=COLUMNS, rows=ROWS
        ) as terminal,
    ):
        terminal.wait_until(lambda: "/v1/predict" in terminal.text(), "the endpoint", 3600)
        url = terminal.find(ENDPOINT)[0]
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(
                executable_path=shutil.which("chromium"), args=["--no-sandbox", "--disable-gpu"]
            )
            keep_answer(url, shown[0])
            photograph_page(browser, url, shown)
            photograph_report(browser, Path(folder) / "rtl-demo.html")
            photograph_terminal(browser, styled(terminal.raw, shown=" ".join(["rtl", *arguments])))
            browser.close()
        terminal.type(CTRL_C)
        terminal.wait(120)


def keep_answer(url: str, photo: Path) -> None:
    """Writes what the endpoint answers for one photo."""
    answer = httpx.post(f"{url}/v1/predict", content=photo.read_bytes(), timeout=120)
    answer.raise_for_status()
    text = json.dumps(answer.json(), indent=2)
    (HERE / "answer.json").write_text(f"{text}\n", encoding="utf-8")


def photograph_page(browser: Browser, url: str, shown: list[Path]) -> None:
    """The endpoint's page, with two photos of cells and where the network looked."""
    page = browser.new_page(viewport=WINDOW, color_scheme="light")
    page.goto(url)
    page.locator("#files").set_input_files(shown)
    page.locator("#photos li img").nth(1).wait_for(timeout=120_000)
    page.wait_for_timeout(3000)
    save(page, "page.png")


def held_out(photos: Sequence[Photo]) -> list[Path]:
    """Two photos of the demo's test split that the experts agree on: one defective, one not."""
    names = split(photos, 0.25, seed=0)
    test = [photo for photo, name in zip(photos, names, strict=True) if name == "test"]
    return [next(p.path for p in test if p.probability == defect) for defect in (1, 0)]


def photograph_report(browser: Browser, path: Path) -> None:
    """The report's beginning."""
    page = browser.new_page(viewport=WINDOW, color_scheme="light")
    page.goto(path.as_uri())
    save(page, "report.png")


def photograph_terminal(browser: Browser, text: Text) -> None:
    """The terminal as it stands when the endpoint answers."""
    console = Console(record=True, width=COLUMNS, file=io.StringIO(), force_terminal=True)
    console.print(text, soft_wrap=True)
    html = console.export_html(theme=MONOKAI, code_format=_FRAME)
    page = browser.new_page(viewport={"width": 900, "height": 600}, device_scale_factor=1.5)
    page.set_content(html)
    image = page.locator("pre").screenshot()
    write(image, "terminal.png")


def styled(raw: bytes, *, shown: str) -> Text:
    """What a terminal holds after these bytes, with its colours, below the command."""
    screen = pyte.HistoryScreen(COLUMNS, ROWS, history=1000)
    pyte.ByteStream(screen).feed(raw)
    text = Text.assemble(("$ ", "bold green"), (f"{shown}\n", "bold"))
    for line in [*screen.history.top, *(screen.buffer[y] for y in range(ROWS))]:
        row = Text()
        for cell in (line[x] for x in range(COLUMNS)):
            row.append(cell.data, Style(color=colour(cell.fg), bold=cell.bold, italic=cell.italics))
        row.rstrip()
        text.append_text(row).append("\n")
    text.rstrip()
    return text


def colour(name: str) -> str | None:
    """A colour of pyte's in rich's terms."""
    if re.fullmatch("[0-9a-f]{6}", name):
        return f"#{name}"
    bright = name.removeprefix("bright")
    known = {"brown": "yellow", "default": None}.get(bright, bright)
    return f"bright_{known}" if known and bright != name else known


def save(page: Page, name: str) -> None:
    """What the window shows, and then the page is closed."""
    write(page.screenshot(), name)
    page.close()


def write(image: bytes, name: str) -> None:
    """A picture of 256 colours; refuses one that is too large."""
    buffer = io.BytesIO()
    Image.open(io.BytesIO(image)).convert("RGB").quantize(256).save(buffer, "PNG", optimize=True)
    if len(buffer.getvalue()) > LARGEST:
        raise ValueError(f"{name} has {len(buffer.getvalue())} bytes; {LARGEST} are the most.")
    (HERE / name).write_bytes(buffer.getvalue())


if __name__ == "__main__":
    main()
