"""The studio in Chromium: first paint, scrolling, the next photo, and retraining.

    python benchmarks/studio.py [--grid 20000] [--photos 40] [--turns 5]

`rtl studio` runs as a user starts it, on ELPV without 200 photos, which are the pool; Chromium is
headless and opens the link afresh in each turn. `first_paint_s` and `usable_s` (all photos of the
first screen are drawn) are medians. `next_photo_ms` is from a key that labels until the next photo
is painted. `retrain_s` is from the button to the new score, features cached, with the longest
answer of the server meanwhile beside it. `scroll_fps` is the median over the frames of a grid of
`--grid` photos that scrolls for ten seconds, at 40 pixels a frame. The last line is one JSON
object.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from measuring.record import write
from PIL import Image
from playwright.sync_api import Browser, Page, ViewportSize, sync_playwright

from rtl import storage
from rtl.api.data import pack
from rtl.data import elpv, shards
from rtl.data.shards import Manifest

POOL = 200
WINDOW: ViewportSize = {"width": 1280, "height": 900}
SHARD = 2500

WATCH_NEXT = """() => {
  window.nexts = [];
  let pressed = 0;
  addEventListener("keydown", () => { pressed = performance.now(); }, true);
  new MutationObserver(() => requestAnimationFrame(() => {
    if (pressed) nexts.push(performance.now() - pressed);
    pressed = 0;
  })).observe(document.querySelector(".stage"), { attributeFilter: ["data-ready"] });
}"""

SCROLL = """async (seconds) => {
  const box = document.querySelector(".grid");
  const frames = [];
  const until = performance.now() + 1000 * seconds;
  let before = await new Promise(requestAnimationFrame);
  while (performance.now() < until) {
    box.scrollTop += 40;
    const now = await new Promise(requestAnimationFrame);
    frames.push(now - before);
    before = now;
  }
  return frames;
}"""

DRAWN = """() => {
  const found = [...document.querySelectorAll(".grid img")];
  const whole = found.length > 11 && found.every((one) => one.complete && one.naturalWidth);
  return whole && performance.now();
}"""


def prepare(root: Path, grid: int) -> tuple[str, str, str]:
    """Packs ELPV, puts its pool and the grid's data set beside it; returns their places."""
    photos = elpv.load_photos()
    rest = elpv.sample(photos, POOL)
    kept = [photo for photo in photos if photo not in rest]
    splits = elpv.split(kept, 0.25, seed=0)
    elpv.upload(kept, splits, f"{root}/photos", progress=lambda *_: None)
    for photo in rest:
        storage.write_bytes(f"{root}/pool/{photo.path.name}", photo.path.read_bytes())
    columns = {"pack.confidence_column": "confidence"}
    pack(f"{root}/photos/labels.csv", f"{root}/cells", val_fraction=0.15, overrides=columns)
    make_grid(f"{root}/grid", grid)
    return f"{root}/cells", f"{root}/pool", f"{root}/grid"


def make_grid(dest: str, rows: int) -> None:
    """A data set of small generated photos, all different, of ten classes."""
    rng = np.random.default_rng(0)
    classes = tuple(f"class {i}" for i in range(10))
    found, counts = [], [0] * len(classes)
    for number, start in enumerate(range(0, rows, SHARD)):
        count = min(SHARD, rows - start)
        labels = rng.integers(0, len(classes), count).tolist()
        images = []
        for label in labels:
            pixels = rng.integers(0, 256, (6, 8, 3)) * 0.3 + 17.0 * label
            buffer = io.BytesIO()
            small = Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
            small.resize((400, 300)).save(buffer, "JPEG")
            images.append(buffer.getvalue())
            counts[label] += 1
        ids = [f"{start + i:06}.jpg" for i in range(count)]
        data, path = shards.encode_shard(ids, images, labels), f"train/{number:05}.parquet"
        storage.write_bytes(storage.join(dest, path), data)
        found.append(shards.Shard(path, "train", count, **storage.describe(data)))
    none = (0,) * len(classes)
    Manifest(classes, {"train": tuple(counts), "val": none, "test": none}, tuple(found)).save(dest)


@contextlib.contextmanager
def studio(root: Path, data: str, pool: str) -> Iterator[str]:
    """`rtl studio` in a process of its own; gives its link."""
    command = [sys.executable, "-m", "rtl.cli", "studio", "--no-browser", "--data", data]
    command += ["--pool", pool, "--name", "cells", "--storage", f"{root}/results"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        found = None
        while found is None and process.stdout is not None:
            found = re.search(r"http://\S+", process.stdout.readline())
        try:
            yield str(found and found[0])
        finally:
            process.terminate()


def ask(page: Page, path: str, body: Any = None) -> Any:
    """A request of the page to its server."""
    return page.evaluate(
        """async ([path, body]) => {
          const options = body === null ? {} : { method: "POST", body: JSON.stringify(body),
            headers: { "Content-Type": "application/json" } };
          return (await fetch(path, options)).json();
        }""",
        [path, body],
    )


def finish(page: Page, kind: str) -> tuple[float, float]:
    """Waits for a kind of task; returns seconds, and the longest answer of the server in them."""
    started, longest = time.monotonic(), 0.0
    while True:
        asked = time.monotonic()
        task = next(t for t in reversed(ask(page, "api/tasks")) if t["kind"] == kind)
        longest = max(longest, time.monotonic() - asked)
        if task["state"] == "done":
            return time.monotonic() - started, longest
        if task["error"] or task["state"] == "cancelled":
            raise SystemExit(f"{kind}: {task['state']} {task['error']}")
        time.sleep(0.1)


def open_turns(browser: Browser, link: str, turns: int) -> dict[str, list[float]]:
    """Seconds from the link to the first paint and to a screen of photos, a fresh browser each."""
    found: dict[str, list[float]] = {"paint": [], "usable": []}
    for _ in range(turns):
        context = browser.new_context(viewport=WINDOW, bypass_csp=True)
        page = context.new_page()
        page.goto(link)
        usable = page.wait_for_function(DRAWN, timeout=60_000).json_value()
        paint = page.evaluate("performance.getEntriesByName('first-contentful-paint')[0].startTime")
        found["paint"].append(paint / 1000)
        found["usable"].append(usable / 1000)
        context.close()
    return found


def label(page: Page, photos: int) -> list[float]:
    """Milliseconds from a key that labels until the next photo is painted."""
    page.goto(page.url.split("#")[0] + "#/label?kind=suspects")
    page.wait_for_selector(".stage[data-ready]")
    page.evaluate(WATCH_NEXT)
    for number in range(photos):
        page.keyboard.press("12"[number % 2])
        page.wait_for_function(f"nexts.length > {number}", timeout=20_000)
        page.wait_for_timeout(300)  # a person looks at it
    return list(page.evaluate("nexts"))


def main() -> None:
    """Measures all of it."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--grid", type=int, default=20_000)
    parser.add_argument("--photos", type=int, default=40)
    parser.add_argument("--turns", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        data, pool, grid = prepare(Path(folder), options.grid)
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox"]
        )
        with studio(Path(folder), data, pool) as link:
            opened = open_turns(browser, link, options.turns)
            print(
                {name: [round(s, 2) for s in found] for name, found in opened.items()}, flush=True
            )
            page = browser.new_page(viewport=WINDOW, bypass_csp=True)
            page.goto(link)
            page.wait_for_function(DRAWN, timeout=60_000)
            ask(page, "api/queue", {"kind": "suspects", "count": max(50, options.photos)})
            queue_s, _ = finish(page, "queue-suspects")
            nexts = label(page, options.photos)
            print([round(ms) for ms in nexts], flush=True)
            ask(page, "api/retrain", {"who": ""})
            retrain_s, longest_s = finish(page, "retrain")
            print({"retrain_s": retrain_s, "longest_answer_s": longest_s}, flush=True)
            ask(page, "api/workspace/open", {"uri": grid})
            page.goto(page.url.split("#")[0] + "#/data")
            page.wait_for_function(DRAWN, timeout=60_000)
            frames = page.evaluate(SCROLL, 10)
        browser.close()
    result = {
        "first_paint_s": round(statistics.median(opened["paint"]), 3),
        "usable_s": round(statistics.median(opened["usable"]), 3),
        "next_photo_ms": round(statistics.median(nexts), 1),
        "retrain_s": round(retrain_s, 1),
        "scroll_fps": round(1000 / statistics.median(frames), 1),
    }
    details = {
        "turns": {name: [round(s, 3) for s in found] for name, found in opened.items()},
        "next_photo_ms_all": [round(ms, 1) for ms in nexts], "queue_s": round(queue_s, 1),
        "longest_answer_while_retraining_s": round(longest_s, 2),
        "slow_frames": round(sum(ms > 1000 / 30 for ms in frames) / len(frames), 3),
        "grid_photos": options.grid,
    }  # fmt: skip
    write("studio", "the studio in Chromium, 2 cores", result=result, details=details)


if __name__ == "__main__":
    main()
