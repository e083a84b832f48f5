"""Where labelled images come from: a source's rows, listed without reading a pixel.

    class folders     SRC/CLASS/*, or SRC/{train,val,test}/CLASS/*
    table             one .csv or .parquet with a column of paths or URIs and one of labels
    Stanford Dogs     SRC/Images/nXXXX-NAME/*.jpg with train_list.mat and test_list.mat
    WebDataset        .tar files with key.jpg beside key.cls or key.json

Sources are local or `s3://`. Hidden files are no rows; a file's extension is not trusted, except
inside a tar, where it tells the image from its label. What cannot become a row is quarantined with
a reason. Ids are paths relative to the source, so that they do not change with its place.
"""

from __future__ import annotations

import io
import os
import posixpath
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq

from rtl import storage, webdataset
from rtl.errors import DataError, NotFoundError
from rtl.sections import PackConfig
from rtl.shards import Quarantined
from rtl.storage import Entry

LAYOUTS = (
    "a folder a class (SRC/CLASS/IMAGE), also below train, val and test; a .csv or .parquet table; "
    "Stanford Dogs (SRC/Images with train_list.mat and test_list.mat); WebDataset .tar files"
)

_SPLITS = {
    "train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test",
}  # fmt: skip
_CLUTTER = ("Thumbs.db", "desktop.ini", "__MACOSX")


@dataclass(frozen=True, slots=True)
class Row:
    """One labelled image of a source, not read yet."""

    id: str
    """Stable and unique: relative to the source, names that are not UTF-8 escaped."""
    uri: str
    """The file or tar that holds the bytes; may hold surrogates for a name that is not UTF-8."""
    label: str
    """The class's name."""
    split: str | None
    """`train`, `val`, `test`, or None where the source has no splits."""
    confidence: float = 1.0
    """Probability that the label is right, above 0 and up to 1."""
    offset: int = 0
    """Where in `uri` the image's bytes start."""
    size: int | None = None
    """Bytes of the image; None where it was not listed, only named by a table."""


@dataclass(frozen=True)
class Listing:
    """What a source holds. Either every row has a split or none has."""

    layout: str
    """`class folders`, `table`, `Stanford Dogs` or `WebDataset`."""
    rows: tuple[Row, ...]
    quarantine: tuple[Quarantined, ...]

    @property
    def classes(self) -> tuple[str, ...]:
        """The labels that occur: by value where all are whole numbers, else by name."""
        labels = {row.label for row in self.rows}
        if all(label.isascii() and label.isdigit() for label in labels):
            return tuple(sorted(labels, key=lambda label: (int(label), label)))
        return tuple(sorted(labels))


def list_source(source: str, config: PackConfig) -> Listing:
    """The rows of a source, told by its layout.

    Raises NotFoundError where nothing is there, DataError for a layout that is not known, an empty
    class folder, fewer than two classes, or a table or tar that cannot be read.
    """
    root = storage.normalize(source)
    name = root.rsplit("/", 1)[-1].lower()
    quarantine: list[Quarantined] = []
    if name.endswith((".csv", ".parquet")):
        layout, rows = "table", list(_table(root, config, quarantine))
    elif name.endswith(".tar"):
        tars = [Entry(root, root.rsplit("/", 1)[-1], 0)]
        layout, rows = "WebDataset", list(_webdataset(root, tars, config, quarantine))
    else:
        layout, rows = _folder(root, config, quarantine)
    if not rows:
        reasons = Counter(row.reason for row in quarantine).most_common(1)
        why = f"; {reasons[0][1]} rows: {reasons[0][0]}" if reasons else ""
        raise DataError(
            f"{root} ({layout}) holds no image with a label{why} Give at least two classes."
        )
    listing = Listing(layout, tuple(_unique(rows)), tuple(quarantine))
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
        return "Stanford Dogs", list(_stanford_dogs(root, files, found[0], quarantine))
    tars = [entry for entry in files if entry.path.lower().endswith(".tar")]
    if tars and not any(_looks_like_image(path) for path in paths):
        return "WebDataset", list(_webdataset(root, tars, config, quarantine))
    folders = _subfolders(root, files)
    if folders:
        return "class folders", list(_class_folders(root, files, folders, quarantine))
    tables = [path for path in sorted(paths) if path.endswith((".csv", ".parquet"))]
    hint = f" Did you mean the table {root}/{tables[0]}?" if tables else ""
    raise DataError(f"{shown(root)} has none of the layouts that rtl reads: {LAYOUTS}.{hint}")


def _class_folders(
    root: str, files: Sequence[Entry], folders: Sequence[str], quarantine: list[Quarantined]
) -> Iterator[Row]:
    known = [name for name in folders if name.lower() in _SPLITS]
    below = {entry.path.split("/")[0] for entry in files if entry.path.count("/") >= 2}
    if known and len(known) < len(folders) and below & set(known):
        other = next(name for name in folders if name not in known)
        raise DataError(
            f"{root} has the folder {shown(other)!r} beside {known[0]!r}; with classes below a "
            "split, every folder of SRC must be train, val or test. Move it away."
        )
    parents: dict[str, str | None] = {"": None}
    if len(known) == len(folders):
        parents = {f"{name}/": _SPLITS[name.lower()] for name in known}
    claimed = set()
    for parent, split in parents.items():
        inside = [
            replace(entry, path=entry.path[len(parent) :])
            for entry in files
            if entry.path.startswith(parent)
        ]
        groups: dict[str, list[Entry]] = {
            name: [] for name in _subfolders(f"{root}/{parent}".rstrip("/"), inside)
        }
        for entry in inside:
            if "/" in entry.path:
                groups[entry.path.split("/")[0]].append(entry)
        for name, entries in groups.items():
            if not entries:
                raise DataError(
                    f"The class folder {shown(parent + name)!r} of {root} holds no file (links "
                    "that lead out of the source do not count). Fill it or remove it."
                )
            for entry in entries:
                claimed.add(parent + entry.path)
                identity = shown(parent + entry.path)
                yield Row(identity, entry.uri, shown(name), split, size=entry.size)
    for entry in files:
        if entry.path not in claimed and _looks_like_image(entry.path):
            quarantine.append(_unlabelled(shown(entry.path), "it lies in no class folder"))


def _table(uri: str, config: PackConfig, quarantine: list[Quarantined]) -> Iterator[Row]:
    folder = uri.rsplit("/", 1)[0]
    columns = _read_table(uri, config)
    splits = columns[config.split_column]
    has_splits = any(splits)
    images, labels = columns[config.image_column], columns[config.label_column]
    confidences = columns.get(str(config.confidence_column), [""] * len(images))
    rows = zip(images, labels, splits, confidences, strict=True)
    for number, (image, label, split, confidence) in enumerate(rows, 1):
        sure = _probability(confidence or "1")
        place = _resolve(folder, image)
        identity = image or f"row {number}"
        if place is not None and place.startswith(f"{folder}/"):
            identity = place[len(folder) + 1 :]
        if not image:
            quarantine.append(_no_image(identity, f"{config.image_column!r} is empty"))
        elif place is None:
            quarantine.append(_no_image(identity, "only paths and s3:// URIs are read"))
        elif not label:
            quarantine.append(_unlabelled(identity, f"{config.label_column!r} is empty"))
        elif has_splits and split.lower() not in _SPLITS:
            reason = f"The split {split!r} is not train, val or test; correct the table."
            quarantine.append(Quarantined(identity, reason))
        elif sure is None:
            reason = (
                f"The {config.confidence_column} {confidence!r} is no probability above 0 and up "
                "to 1; correct the table."
            )
            quarantine.append(Quarantined(identity, reason))
        else:
            yield Row(identity, place, label, _SPLITS[split.lower()] if has_splits else None, sure)


def _read_table(uri: str, config: PackConfig) -> dict[str, list[str]]:
    """The columns that count as stripped text; a missing value is empty."""
    data = pa.BufferReader(storage.read_bytes(uri))
    wanted = [config.image_column, config.label_column, config.split_column]
    wanted += [config.confidence_column] if config.confidence_column else []
    try:
        if uri.lower().endswith(".csv"):
            types = dict.fromkeys(wanted, pa.string())
            table = pacsv.read_csv(data, convert_options=pacsv.ConvertOptions(column_types=types))
        else:
            file = pq.ParquetFile(data)
            table = file.read(columns=[n for n in file.schema_arrow.names if n in wanted])
    except (pa.ArrowInvalid, OSError) as error:
        raise DataError(f"{uri} cannot be read as a table ({error}); save it anew.") from None
    columns: dict[str, list[str]] = {}
    for name in wanted:
        if table.column_names.count(name) == 1:
            columns[name] = [
                webdataset.text(value, f"{uri}: column {name!r}")
                for value in table[name].to_pylist()
            ]
        elif name == config.split_column == PackConfig().split_column:
            columns[name] = [""] * len(table)
        else:
            raise DataError(
                f"{uri} has no single column {name!r}, it has {', '.join(table.column_names)}. Set "
                "pack.image_column, pack.label_column, pack.split_column or pack.confidence_column "
                "to what it has."
            )
    return columns


def _probability(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if 0 < value <= 1 else None


def _resolve(folder: str, image: str) -> str | None:
    """Where a table's image is, or None for what is no path."""
    if "\0" in image or ("://" in image and not image.startswith("s3://")):
        return None
    if image.startswith(("/", "s3://")):
        return image.rstrip("/")
    scheme, start = ("s3://", folder.removeprefix("s3://")) if "s3://" in folder else ("", folder)
    path = posixpath.normpath(f"{start}/{image}")
    return None if path.startswith("..") else scheme + path


def _stanford_dogs(
    root: str, files: Sequence[Entry], lists: Sequence[str], quarantine: list[Quarantined]
) -> Iterator[Row]:
    splits: dict[str, str] = {}
    for split, path in zip(("train", "test"), lists, strict=True):
        for name in _read_mat(storage.join(root, path)):
            if splits.setdefault(name, split) != split:
                raise DataError(f"{root}: {name!r} is in both lists; get the lists anew.")
    images = {
        entry.path.removeprefix("Images/"): entry
        for entry in files
        if entry.path.startswith("Images/") and entry.path.count("/") == 2
    }
    breeds = {path.split("/")[0] for path in (*images, *splits)}
    names = Counter(breed.partition("-")[2] for breed in breeds)
    for path, entry in images.items():
        if path not in splits:
            reason = "it is in neither train_list.mat nor test_list.mat"
            quarantine.append(_unlabelled(shown(entry.path), reason))
            continue
        breed = path.split("/")[0]
        name = breed.partition("-")[2]
        # Two synsets of one name (ImageNet has such) stay two classes.
        label = name if name and names[name] == 1 else breed
        yield Row(shown(entry.path), entry.uri, shown(label), splits[path], size=entry.size)
    for path in sorted(splits.keys() - images.keys()):
        quarantine.append(_no_image(shown(f"Images/{path}"), "its list names it"))


def _read_mat(uri: str) -> list[str]:
    import scipy.io

    try:
        cells = scipy.io.loadmat(
            io.BytesIO(storage.read_bytes(uri))  # type: ignore[arg-type]  # the stub forgets files
        )["file_list"]
        return [str(cell.item()) for cell in cells.ravel()]
    except (
        scipy.io.matlab.MatReadError, ValueError, TypeError, KeyError, NotImplementedError
    ) as error:  # fmt: skip
        raise DataError(
            f"{uri} is no list of Stanford Dogs ({type(error).__name__}: {error}); it must hold "
            "the cells `file_list`. Get lists.tar anew."
        ) from None


def _webdataset(
    root: str, tars: Sequence[Entry], config: PackConfig, quarantine: list[Quarantined]
) -> Iterator[Row]:
    splits = [_SPLITS.get(tar.path.split("/")[0].lower()) for tar in tars]
    if None in splits and any(splits):
        outside = tars[splits.index(None)].path
        raise DataError(
            f"{root} has tars below train, val or test, but {shown(outside)!r} lies outside; move "
            "it into one of them."
        )
    for tar, split in zip(tars, splits, strict=True):
        samples: dict[str, dict[str, Any]] = {}
        for key, part, value in webdataset.members(tar.uri, config.label_column):
            sample = samples.setdefault(key, {})
            sample[part] = None if part in sample else value  # None: the tar holds it twice
        for key, sample in samples.items():
            identity = f"{shown(tar.path)}/{shown(webdataset.inside(key))}"
            label = sample.get("cls", sample.get("json", ""))
            if "image" not in sample:
                quarantine.append(_no_image(identity, "the tar holds its label alone"))
            elif None in sample.values():
                reason = "The tar holds two members for one part of this sample, or a link."
                quarantine.append(Quarantined(identity, reason))
            elif not label:
                quarantine.append(_unlabelled(identity, "no usable .cls or .json is beside it"))
            else:
                offset, size = sample["image"]
                yield Row(identity, tar.uri, label, split, offset=offset, size=size)


def visible_files(root: str) -> list[Entry]:
    """All files below a folder that are not hidden, sorted by path."""
    entries = storage.list_files(root)
    if not entries and not storage.exists(root):
        raise NotFoundError(f"{shown(root)} does not exist; check the path or URI.")
    return [entry for entry in entries if not _hidden(entry.path)]


def _subfolders(root: str, files: Iterable[Entry]) -> list[str]:
    """Names of the folders directly below, empty ones too."""
    names = {entry.path.split("/")[0] for entry in files if "/" in entry.path}
    if storage.is_local(root):
        below = [path for path in Path(root).glob("*") if path.is_dir()]
        names.update(path.name for path in below if not path.is_symlink())
    else:
        plain = {entry.path for entry in files if "/" not in entry.path}
        names.update(set(storage.list_names(root)) - plain)
    return sorted(name for name in names if not _hidden(name))


def _hidden(path: str) -> bool:
    return any(part.startswith(".") or part in _CLUTTER for part in path.split("/"))


def _looks_like_image(path: str) -> bool:
    return path.lower().rsplit(".", 1)[-1] in webdataset.IMAGE_SUFFIXES


def shown(name: str) -> str:
    """The name itself, or with escapes where its bytes are not UTF-8."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def _unique(rows: Iterable[Row]) -> Iterator[Row]:
    """An id that occurs again gets `#2`, `#3`, ..."""
    taken: set[str] = set()
    for row in rows:
        identity, number = row.id, 1
        while identity in taken:
            number += 1
            identity = f"{row.id}#{number}"
        taken.add(identity)
        yield row if identity == row.id else replace(row, id=identity)


def _unlabelled(identity: str, why: str) -> Quarantined:
    return Quarantined(identity, f"The image has no label: {why}.")


def _no_image(identity: str, why: str) -> Quarantined:
    return Quarantined(identity, f"There is no such image: {why}.")
