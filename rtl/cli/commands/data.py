"""`rtl pack` and `rtl features`."""

from __future__ import annotations

from dataclasses import dataclass

from rtl.cli.arguments import flag, positional
from rtl.cli.commands.base import Configured
from rtl.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Pack(Configured):
    """Packs a source, and names what was left out."""

    verb = "pack"
    about = "Turn labelled images into shards."

    source: str = positional(
        "folder with a folder for each class, CSV, Parquet, Stanford Dogs or WebDataset"
    )
    dest: str = positional("folder or s3:// prefix of the data set")

    def execute(self) -> None:
        """See `Command`."""
        from rtl.api.data import pack
        from rtl.display.console import print_line

        manifest = pack(self.source, self.dest, recipe=self.settings(), progress=True)
        rows = ", ".join(f"{manifest.rows(s)} {s}" for s in ("train", "val", "test"))
        print_line(f"{len(manifest.classes)} classes, {rows} rows, digest {manifest.digest[:12]}")
        if manifest.quarantine:
            first = manifest.quarantine[0]
            print_line(
                f"{len(manifest.quarantine)} rows were quarantined (see quarantine in "
                f"manifest.json), first {first.id}: {first.reason}"
            )
        for kind in manifest.left_out:
            print_line(f"Left out {kind}")
        print_line(f"Packed at {manifest.uri}")

    def standing(self) -> str:
        """See `Command`."""
        from rtl import storage
        from rtl.data import shards
        from rtl.data.packing import journal

        if storage.exists(storage.join(self.dest, shards.MANIFEST)):
            return f"The data set that was at {self.dest} is whole."
        again = "packing begins anew"
        if storage.list_files(storage.join(self.dest, journal.FOLDER)):
            again = "most images that were checked are not decoded again"
        return f"{self.dest} holds no data set yet; {again}."


@dataclass(frozen=True, kw_only=True)
class Features(Configured):
    """Lists the feature cache, after removing some of it where asked."""

    verb = "features"
    about = "List the feature cache; remove outdated entries."

    prune: bool = flag("--prune", "remove outdated and abandoned entries")
    everything: bool = flag("--all", "with --prune, remove all entries that no process builds")

    def execute(self) -> None:
        """See `Command`."""
        from rtl.api.data import features
        from rtl.cli import tables
        from rtl.display.console import print_line, print_table

        if self.everything and not self.prune:
            raise ConfigError("--all says what --prune removes; give both.")
        found = features(recipe=self.settings(), prune=self.prune, everything=self.everything)
        if self.prune:
            freed = sum(entry.bytes for entry in found.removed) / 1e6
            print_line(f"Removed {len(found.removed)} caches, {freed:.1f} MB")
        print_table(tables.caches_table(found.entries))
