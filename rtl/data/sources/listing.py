"""Lists a source's rows, by whichever layout it has, without reading a pixel."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from rtl import storage
from rtl.config.schema import PackConfig
from rtl.data.shards import LeftOut, Quarantined
from rtl.data.sources.class_folders import class_folders
from rtl.data.sources.clutter import Tally
from rtl.data.sources.files import Files, looks_like_image, visible_files
from rtl.data.sources.gathered import Rows
from rtl.data.sources.labels import classes_of
from rtl.data.sources.names import merge_spellings
from rtl.data.sources.rows import by_reason, shown
from rtl.data.sources.stanford_dogs import DOGS_LISTS, stanford_dogs
from rtl.data.sources.tables.listing import TABLE_SUFFIXES, table_rows
from rtl.data.sources.webdataset.tars import webdataset_rows
from rtl.errors import DataError
from rtl.storage.entries import Entry

LAYOUTS = (
    "a folder a class (SRC/CLASS/IMAGE), also below train, val and test; a .csv, .tsv or .parquet "
    "table; Stanford Dogs (SRC/Images with train_list.mat and test_list.mat); WebDataset .tar files"
)
FILES, MEMBERS = "files found", "tar members read"
BESIDE_TARS = "files beside the tars"

Progress = Callable[[int, int, str], None]
"""Called with (done, total, what is counted); the total is 0 while it is not known."""


@dataclass(frozen=True)
class Listing:
    """Rows of a source, and what was left out. Either every row has a split or none has."""

    layout: str
    """`class folders`, `table`, `Stanford Dogs` or `WebDataset`."""
    rows: Rows
    quarantine: tuple[Quarantined, ...]
    left_out: tuple[LeftOut, ...] = ()
    """The files that are neither, most first."""

    @property
    def classes(self) -> tuple[str, ...]:
        """The labels that occur: by value where all are whole numbers, else by name."""
        labels = {self.rows.labels[number] for number in np.unique(self.rows.label_numbers)}
        if all(label.isascii() and label.isdigit() for label in labels):
            return tuple(sorted(labels, key=lambda label: (int(label), label)))
        return tuple(sorted(labels))


def list_source(
    source: str, config: PackConfig, *, progress: Progress = lambda *_: None
) -> Listing:
    """The rows of a source, told by its layout.

    Raises NotFoundError where nothing is there, DataError for a layout that is not known, an empty
    class folder, a tree that can be read in two ways, two classes that look the same, fewer than
    two classes, or a table or tar that cannot be read.
    """
    root = storage.normalize(source)
    lister = _Lister(root, config, progress)
    layout, rows = lister.rows()
    rows = merge_spellings(rows, root, quarantine=lister.quarantine)
    left_out = lister.left_out.result()
    listing = Listing(layout, rows.with_unique_ids(), tuple(lister.quarantine), left_out)
    _check_classes(root, listing)
    return listing


@dataclass
class _Lister:
    """One source and what was found in it that is no row."""

    root: str
    config: PackConfig
    progress: Progress
    quarantine: list[Quarantined] = field(default_factory=list)
    left_out: Tally = field(default_factory=Tally)

    def rows(self) -> tuple[str, Rows]:
        """The layout and the rows."""
        name = self.root.rsplit("/", 1)[-1]
        if name.lower().endswith(TABLE_SUFFIXES):
            folder = self.root.rsplit("/", 1)[0]
            rows = table_rows(self.root, self.config, self.quarantine)
            return "table", Rows.gather(f"{folder}/", rows)
        if _is_tar(name):
            return "WebDataset", self._tars([Entry(self.root, name, 0)])
        return self._folder()

    def _folder(self) -> tuple[str, Rows]:
        files = visible_files(
            self.root, self.left_out, found=lambda done: self.progress(done, 0, FILES)
        )
        self.progress(len(files.entries), len(files.entries), FILES)
        lists = set(itertools.chain(*DOGS_LISTS)).intersection(files.entries.paths())
        found = [pair for pair in DOGS_LISTS if lists.issuperset(pair)]
        if found and any(path.startswith("Images/") for path in files.entries.paths()):
            dogs = stanford_dogs(
                self.root,
                files.entries,
                lists=found[0],
                quarantine=self.quarantine,
                left_out=self.left_out,
            )
            return "Stanford Dogs", Rows.gather(f"{self.root}/", dogs)
        tars = [entry for entry in files.entries if _is_tar(entry.path)]
        photos = ("/" in path and looks_like_image(path) for path in files.entries.paths())
        if tars and not any(photos):
            for path in sorted({path for path in files.entries.paths() if not _is_tar(path)}):
                self.left_out.add(BESIDE_TARS, path)
            return "WebDataset", self._tars(tars)
        if files.below(""):
            rows = class_folders(
                self.root, files, quarantine=self.quarantine, left_out=self.left_out
            )
            return "class folders", Rows.gather(f"{self.root}/", rows)
        raise DataError(_unknown(self.root, files, self.left_out.result()))

    def _tars(self, tars: Sequence[Entry]) -> Rows:
        done = 0

        def read(members: int) -> None:
            nonlocal done
            done = members
            self.progress(done, 0, MEMBERS)

        rows = Rows.gather(
            f"{self.root}/",
            webdataset_rows(
                self.root,
                tars,
                config=self.config,
                quarantine=self.quarantine,
                left_out=self.left_out,
                read=read,
            ),
        )
        self.progress(done, done, MEMBERS)
        return rows.relabel(classes_of(rows.labels, self.root))


def _check_classes(root: str, listing: Listing) -> None:
    if len(listing.classes) >= 2:
        return
    left_out = "; ".join(f"left out {kind}" for kind in listing.left_out)
    beside = f" ({left_out})" if left_out else ""
    if listing.classes:
        raise DataError(
            f"{shown(root)} ({listing.layout}) has a single class, {listing.classes[0]!r}{beside}; "
            "a classifier needs at least two. Is SRC one folder too high or too low? rtl reads "
            f"{LAYOUTS}."
        )
    kinds = by_reason(listing.quarantine)
    why = f"; rtl reads {LAYOUTS}."
    if kinds:
        rows, first = len(listing.quarantine), kinds[0][0]
        why = f". {len(kinds[0])} of {rows} rows, such as {first.id}: {first.reason}"
    raise DataError(f"{shown(root)} ({listing.layout}) holds no image with a label{beside}{why}")


def _unknown(root: str, files: Files, left_out: Sequence[LeftOut]) -> str:
    tables = [path for path in files.entries.paths() if path.lower().endswith(TABLE_SUFFIXES)]
    hint = (
        f" Did you mean the table {shown(root)}/{shown(tables[0])}? Then give its path."
        if tables
        else ""
    )
    beside = "".join(f" Left out {kind}." for kind in left_out)
    return f"{shown(root)} has none of the layouts that rtl reads: {LAYOUTS}.{beside}{hint}"


def _is_tar(path: str) -> bool:
    return path.lower().endswith(".tar")
