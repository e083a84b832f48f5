"""Every command that writes looks at its destination before anything else is done.

What each of them reads is not there: were it read first, the error would be another one.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from rtl.batch_inference.predict import predict
from rtl.cli import main
from rtl.config.schema import PackConfig
from rtl.data.pack import pack
from rtl.errors import ConfigError, DataError, StorageError
from rtl.exporting.export import export

GONE = "/no/such/place"
REFUSED = ["file", "file/below", "/proc/x"]


@pytest.fixture(autouse=True)
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file, a folder and a link to it in the working directory."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("kept")
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "folder")


@pytest.mark.parametrize("dest", REFUSED)
def test_a_destination_that_is_no_folder_is_refused_at_once(dest: str) -> None:
    with pytest.raises(StorageError, match=r"^DEST .*(is not one|refuses it)"):
        pack(GONE, dest, PackConfig())
    with pytest.raises(StorageError, match=r"^DEST .*(is not one|refuses it)"):
        predict(GONE, GONE, dest)
    with pytest.raises(StorageError, match=r"^OUT .*(is not one|refuses it)"):
        export(GONE, dest, target="torch")
    assert Path("file").read_text() == "kept"


@pytest.mark.parametrize("verb", ["report", "card"])
@pytest.mark.parametrize("out", ["folder", "new/", "file/x.html", "/proc/x.html"])
def test_a_file_that_cannot_be_written_is_refused_at_once(
    verb: str, out: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main.main([verb, GONE, "--out", out]) == 1
    assert capsys.readouterr().err.startswith(f"rtl {verb}: --out ")


@pytest.mark.parametrize("dest", ["folder", "link", "folder/new", "link/new", "x/../folder/y"])
def test_a_destination_in_the_source_is_refused_also_behind_a_link(dest: str) -> None:
    with pytest.raises(DataError, match="lies in SRC"):
        pack("folder", dest, PackConfig())
    with pytest.raises(ConfigError, match="lies in SRC"):
        predict(GONE, "folder", dest)
