"""Photos of the demo: ELPV, 2,624 solar cells with experts' defect probabilities.

They are real (Deitsch et al. 2019, Solar Energy 185:455) and come from the PyPI package
`elpv-dataset`. As in the paper a cell counts as defective above 0.5, and 25 % are held out,
stratified by probability and cell type. The modules that the cells were cut from are not published:
a random split may share them, and so may flatter.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib import util
from pathlib import Path

import numpy as np

from rtl import storage
from rtl.errors import DataError
from rtl.runtime.session import Progress


@dataclass(frozen=True)
class Photo:
    """One solar cell."""

    path: Path
    probability: float
    """Probability of a defect by the experts' labels: 0, 1/3, 2/3 or 1."""
    cell_type: str
    """`mono` or `poly`."""

    @property
    def label(self) -> str:
        """`defective` above a probability of 0.5, else `functional`: the paper's rule."""
        return "defective" if self.probability > 0.5 else "functional"

    @property
    def confidence(self) -> float:
        """Probability that the label is right by the experts' labels: 1 or 2/3."""
        return max(self.probability, 1 - self.probability)


def installed() -> bool:
    """Whether the photos are installed."""
    return util.find_spec("elpv_dataset") is not None


def load_photos() -> list[Photo]:
    """The installed photos, in the order of the package's table. Raises DataError without them."""
    spec = util.find_spec("elpv_dataset")
    if spec is None or not spec.submodule_search_locations:
        raise DataError("The photos are not installed; `pip install 'rtl[demo]'` brings them.")
    folder = Path(next(iter(spec.submodule_search_locations))) / "data"
    photos = []
    for line in (folder / "labels.csv").read_text(encoding="utf-8").splitlines():
        path, probability, cell_type = line.split()
        photos.append(Photo(folder / path, float(probability), cell_type))
    return photos


def split(photos: Sequence[Photo], test_fraction: float, seed: int) -> list[str]:
    """`train` or `test` for each photo, the same share of every (probability, cell type)."""
    rng = np.random.default_rng(seed)
    names = ["train"] * len(photos)
    for key in sorted({(p.probability, p.cell_type) for p in photos}):
        members = [i for i, p in enumerate(photos) if (p.probability, p.cell_type) == key]
        for i in rng.permutation(members)[: round(test_fraction * len(members))]:
            names[int(i)] = "test"
    return names


def sample(photos: Sequence[Photo], count: int) -> list[Photo]:
    """Evenly spaced photos out of all, sorted by probability and cell type."""
    ordered = sorted(photos, key=lambda p: (p.probability, p.cell_type, p.path.name))
    return [ordered[int(i)] for i in np.linspace(0, len(ordered) - 1, count)]


def upload(photos: Sequence[Photo], splits: Sequence[str], uri: str, *, progress: Progress) -> None:
    """Writes photos and a table of image, label, confidence and split, as in a user's bucket."""
    table = io.StringIO()
    writer = csv.writer(table)
    writer.writerow(["image", "label", "confidence", "split"])
    for photo, name in zip(photos, splits, strict=True):
        writer.writerow([f"images/{photo.path.name}", photo.label, photo.confidence, name])

    def send(photo: Photo) -> None:
        storage.write_bytes(f"{uri}/images/{photo.path.name}", photo.path.read_bytes())

    with ThreadPoolExecutor(8) as pool:
        for done, _ in enumerate(pool.map(send, photos), 1):
            progress(done, len(photos))
    storage.write_bytes(f"{uri}/labels.csv", table.getvalue().encode())
