"""Lists a source's rows, by whichever layout it has, without reading a pixel."""

from __future__ import annotations

from collections import Counter

from rtl import storage
from rtl.errors import DataError
from rtl.sections import PackConfig
from rtl.shards import Quarantined
from rtl.sources.class_folders import class_folders
from rtl.sources.files import looks_like_image, subfolders, visible_files
from rtl.sources.rows import Listing, Row, shown, unique
from rtl.sources.stanford_dogs import stanford_dogs
from rtl.sources.tables import table_rows
from rtl.sources.webdataset import webdataset_rows
from rtl.storage import Entry

LAYOUTS = (
    "a folder a class (SRC/CLASS/IMAGE), also below train, val and test; a .csv or .parquet table; "
    "Stanford Dogs (SRC/Images with train_list.mat and test_list.mat); WebDataset .tar files"
)


def list_source(source: str, config: PackConfig) -> Listing:
    """The rows of a source, told by its layout.

    Raises NotFoundError where nothing is there, DataError for a layout that is not known, an empty
    class folder, fewer than two classes, or a table or tar that cannot be read.
    """
    root = storage.normalize(source)
    name = root.rsplit("/", 1)[-1].lower()
    quarantine: list[Quarantined] = []
    if name.endswith((".csv", ".parquet")):
        layout, rows = "table", list(table_rows(root, config, quarantine))
    elif name.endswith(".tar"):
        tars = [Entry(root, root.rsplit("/", 1)[-1], 0)]
        layout, rows = "WebDataset", list(webdataset_rows(root, tars, config, quarantine))
    else:
        layout, rows = _folder(root, config, quarantine)
    if not rows:
        reasons = Counter(row.reason for row in quarantine).most_common(1)
        why = f"; {reasons[0][1]} rows: {reasons[0][0]}" if reasons else ""
        raise DataError(
            f"{root} ({layout}) holds no image with a label{why} Give at least two classes."
        )
    listing = Listing(layout, tuple(unique(rows)), tuple(quarantine))
    if len(listing.classes) < 2:
        raise DataError(
            f"{root} ({layout}) has a single class, {listing.classes[0]!r}; a classifier needs at "
            f"least two. Is SRC one folder too high or too low? rtl reads {LAYOUTS}."
        )
    return listing


def _folder(root: str, config: PackConfig, quarantine: list[Quarantined]) -> tuple[str, list[Row]]:
    files = visible_files(root)
    paths = {entry.path for entry in files}
    lists = [
        [f"{folder}{split}_list.mat" for split in ("train", "test")] for folder in ("", "lists/")
    ]
    found = [pair for pair in lists if paths.issuperset(pair)]
    if found and any(path.startswith("Images/") for path in paths):
        return "Stanford Dogs", list(stanford_dogs(root, files, found[0], quarantine))
    tars = [entry for entry in files if entry.path.lower().endswith(".tar")]
    if tars and not any(looks_like_image(path) for path in paths):
        return "WebDataset", list(webdataset_rows(root, tars, config, quarantine))
    folders = subfolders(root, files)
    if folders:
        return "class folders", list(class_folders(root, files, folders, quarantine))
    tables = [path for path in sorted(paths) if path.endswith((".csv", ".parquet"))]
    hint = f" Did you mean the table {root}/{tables[0]}?" if tables else ""
    raise DataError(f"{shown(root)} has none of the layouts that rtl reads: {LAYOUTS}.{hint}")
