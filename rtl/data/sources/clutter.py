"""Clutter: files that systems leave beside photos, which are not rows, and their counts."""

from __future__ import annotations

from rtl.data.shards import LeftOut
from rtl.data.sources.rows import shown

HIDDEN = "hidden files"
SYSTEM = "files of operating systems and NAS (thumbnails, recycle bins, folder settings)"

_SYSTEM_NAMES = {
    # Synology and QNAP
    "@eadir", "@synoresource", "@synoeastream", "@tmp", "@recycle", "@recently-snapshot",
    "#recycle", "#snapshot", "@snapshot",
    # Windows
    "thumbs.db", "ehthumbs.db", "ehthumbs_vista.db", "desktop.ini", "$recycle.bin", "recycler",
    "system volume information",
    # macOS
    "__macosx", "icon\r", "network trash folder", "temporary items",
    # Linux, Python, Picasa
    "lost+found", "__pycache__", "picasa.ini",
}  # fmt: skip
"""Names of files and folders in lower case; what lies in such a folder is clutter too."""

_SYSTEM_ENDINGS = ("@synoresource", "@synoeastream", ":zone.identifier")
_OFFICE_LOCK = "~$"


def clutter_kind(path: str) -> str | None:
    """`HIDDEN` or `SYSTEM` by the names along a relative path, None for a file that counts."""
    for part in path.split("/"):
        name = part.lower()
        if name in _SYSTEM_NAMES or name.endswith(_SYSTEM_ENDINGS):
            return SYSTEM
        if name.startswith(_OFFICE_LOCK):
            return SYSTEM
        if name.startswith("."):
            return HIDDEN
    return None


class Tally:
    """Counts files that are not rows, by kind."""

    def __init__(self) -> None:
        self._found: dict[str, LeftOut] = {}

    def add(self, kind: str, path: str) -> None:
        """Counts one file, named by its path relative to the source."""
        before = self._found.get(kind)
        count, example = (before.count, before.example) if before else (0, shown(path))
        self._found[kind] = LeftOut(kind, count + 1, example)

    def result(self) -> tuple[LeftOut, ...]:
        """Returns the kinds, the one with the most files first."""
        return tuple(sorted(self._found.values(), key=lambda kind: (-kind.count, kind.kind)))
