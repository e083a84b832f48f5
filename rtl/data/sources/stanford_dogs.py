"""Stanford Dogs: SRC/Images/nXXXX-NAME/*.jpg with train_list.mat and test_list.mat."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Iterator, Sequence

from rtl import storage
from rtl.data.shards import Quarantined
from rtl.data.sources.clutter import Tally
from rtl.data.sources.rows import Row, no_image, shown, unlabelled
from rtl.errors import DataError
from rtl.storage.entries import Entry

DOGS_LISTS = tuple(
    tuple(f"{folder}{split}_list.mat" for split in ("train", "test")) for folder in ("", "lists/")
)
"""Where the two lists may lie in the source."""
BESIDE = "files outside Images/ that are no lists of Stanford Dogs"


def stanford_dogs(
    root: str,
    files: Sequence[Entry],
    *,
    lists: Sequence[str],
    quarantine: list[Quarantined],
    left_out: Tally,
) -> Iterator[Row]:
    """Rows of Stanford Dogs, split as its lists say; files beside go to `left_out`."""
    splits: dict[str, str] = {}
    for split, path in zip(("train", "test"), lists, strict=True):
        for name in _read_mat(storage.join(root, path)):
            if splits.setdefault(name, split) != split:
                raise DataError(f"{root}: {name!r} is in both lists; get the lists anew.")
    images = {
        entry.path.removeprefix("Images/"): entry
        for entry in files
        if entry.path.startswith("Images/")
    }
    for entry in files:
        if not entry.path.startswith("Images/") and entry.path not in lists:
            left_out.add(BESIDE, entry.path)
    breeds = {path.split("/")[0] for path in (*images, *splits) if "/" in path}
    names = Counter(breed.partition("-")[2] for breed in breeds)
    for path, entry in images.items():
        if path not in splits:
            reason = "it is in neither train_list.mat nor test_list.mat"
            quarantine.append(unlabelled(shown(entry.path), reason))
            continue
        breed = path.split("/")[0]
        name = breed.partition("-")[2]
        # Two synsets of one name (ImageNet has such) stay two classes.
        label = name if name and names[name] == 1 else breed
        yield Row(shown(entry.path), entry.uri, shown(label), splits[path], size=entry.size)
    for path in sorted(splits.keys() - images.keys()):
        quarantine.append(no_image(shown(f"Images/{path}"), "its list names it"))


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
