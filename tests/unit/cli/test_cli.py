from __future__ import annotations

import re
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from rtl.cli import demo, main, stopped
from rtl.cli.commands.base import Command
from rtl.cli.commands.data import Pack
from rtl.config import loading
from rtl.config.tree import Config, from_dict
from rtl.data import elpv
from rtl.display import console
from rtl.runs import trials

ROOT = Path(__file__).parents[3]


def test_config_prints_a_recipe_that_reads_back(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert main.main(["config", "--set", "search.trials=16", "--storage", "s3://b/p"]) == 0
    recipe = tmp_path / "r.yaml"
    recipe.write_text(capsys.readouterr().out)
    read = loading.load(recipe)
    assert (read.search.trials, read.storage) == (16, "s3://b/p")


def test_config_prints_one_section_with_what_its_keys_do(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert main.main(["config", "--set", "search.trials=16", "--only", "search.trials"]) == 0
    assert capsys.readouterr().out == (
        "# The search over depths, learning rates and further keys (`rtl search`).\n"
        "search:\n"
        "  # Number of points that `optuna` proposes.\n"
        "  trials: 16\n"
    )
    assert main.main(["config", "--only", "trials"]) == 1
    assert "the nearest is search.trials. `rtl config`" in capsys.readouterr().err


def test_an_error_is_one_line_and_a_status(capsys: pytest.CaptureFixture[str]) -> None:
    assert main.main(["config", "--set", "search.trails=16"]) == 1
    error = capsys.readouterr().err
    assert error.startswith("rtl config: search.trails is not a key")
    assert "search.trials" in error
    assert "Traceback" not in error


def test_help_starts_nothing() -> None:
    code = (
        "import sys, rtl, rtl.cli.main\n"
        "try: rtl.cli.main.main(['--help'])\n"
        "except SystemExit: pass\n"
        "print(sorted({'ray', 'torch', 'boto3', 'pyarrow', 'pydantic'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip().endswith("[]")
    assert "search" in done.stdout


def test_start_and_end_do_not_look_for_garbage_among_what_stays() -> None:
    code = (
        "import atexit, gc\n"
        "from rtl.cli import main\n"
        "def heavy(command):\n"
        "    from rtl.training import train\n"
        "    print(gc.get_stats()[2]['collections'])\n"
        "atexit.register(lambda: print(gc.get_freeze_count() > 100_000))\n"
        "main.main(['runs'], execute=heavy)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["0", "True"]


@pytest.mark.parametrize("recipe", sorted((ROOT / "jobs" / "recipes").glob("*.yaml")))
def test_recipes_are_valid(recipe: Path) -> None:
    assert loading.load(recipe).name


def test_the_demo_runs_its_recipe() -> None:
    whole: Config = from_dict(demo.RECIPE)
    assert whole == loading.load(ROOT / "jobs" / "recipes" / "elpv.yaml")
    demo.make_config("s3://b/demo", quick=True)


def test_the_demo_splits_by_the_papers_protocol() -> None:
    photos = elpv.load_photos()
    splits = elpv.split(photos, 0.25, seed=0)
    assert len(photos) == 2624
    assert sum(photo.label == "defective" for photo in photos) == 821
    assert 650 <= splits.count("test") <= 662
    for kind in ("mono", "poly"):
        share = [s for p, s in zip(photos, splits, strict=True) if p.cell_type == kind]
        assert share.count("test") / len(share) == pytest.approx(0.25, abs=0.01)
    assert elpv.split(photos, 0.25, seed=0) == splits
    assert elpv.split(photos, 0.25, seed=1) != splits
    quick = elpv.sample(photos, 300)
    assert len({photo.path for photo in quick}) == 300


def broken(_: Command) -> None:
    console.begin_stage("features")
    raise ValueError("nobody expected this")


def test_an_unexpected_error_is_three_lines_and_a_log(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("RTL_DEBUG", raising=False)
    assert main.main(["runs"], execute=broken) == 70
    what, last, where = capsys.readouterr().err.splitlines()
    assert what.startswith("rtl runs (features): an unexpected error")
    assert last == "ValueError: nobody expected this"
    found = re.search(r"/\S+\.log", where)
    assert found is not None
    log = Path(found[0])
    assert "Traceback" in log.read_text()
    assert log.stat().st_mode & 0o077 == 0
    log.unlink()
    monkeypatch.setenv("RTL_DEBUG", "1")
    assert main.main(["runs"], execute=broken) == 70
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.parametrize("reader", ["true", "head -1"])
@pytest.mark.parametrize("verb", ["config", "runs --json", "runs"])
def test_a_reader_that_goes_away_is_no_error(verb: str, reader: str, tmp_path: Path) -> None:
    rtl = f"{sys.executable} -m rtl.cli"
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", f"{rtl} {verb} --storage {tmp_path} | {reader}"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")


def interrupted(arguments: list[str]) -> int:
    """The exit status of a command that Ctrl-C ends."""

    def stop(_: Command) -> None:
        raise KeyboardInterrupt

    return main.main(arguments, execute=stop)


def test_ctrl_c_says_what_stands_and_how_to_go_on(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    root = str(tmp_path / "my root")
    uri = f"{root}/runs/dogs"
    point = {"model.unfrozen_layers": 1, "optimizer.lr": 1e-3}
    for number, state in enumerate(("finished", "stopped", "running")):
        trials.record(uri, trials.Trial(number, point, state=state))  # type: ignore[arg-type]
    given = ["search", "--name", "dogs", "--storage", root]
    assert interrupted(given) == 130
    first, command = capsys.readouterr().err.splitlines()
    assert first == (
        "rtl search: Stopped. 2 trials that ended and all features computed so far are kept "
        f"({uri})."
    )
    assert command == f"Go on with: rtl search --name dogs --storage '{root}' --resume"
    assert interrupted([*given, "--resume"]) == 130
    assert capsys.readouterr().err.count("--resume") == 1
    assert interrupted([*given, "--set", "features.cache=off"]) == 130
    assert f"2 trials that ended are kept ({uri})." in capsys.readouterr().err


def test_ctrl_c_in_packing_says_whether_there_is_a_data_set(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    dest = str(tmp_path / "data")
    assert interrupted(["pack", "photos", dest]) == 130
    assert f"{dest} holds no data set yet" in capsys.readouterr().err
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "manifest.json").write_text("{}")
    assert interrupted(["pack", "photos", dest]) == 130
    assert f"The data set that was at {dest} is whole" in capsys.readouterr().err


class Hanging(Pack):
    """A command whose storage does not answer."""

    def standing(self) -> str:
        threading.Event().wait(60)
        return "late"


def test_a_storage_that_does_not_answer_does_not_hold_up_ctrl_c() -> None:
    words = ["pack", "photos", "s3://b/data"]
    told = stopped.lines(Hanging(source="photos", dest="s3://b/data"), words, patience_s=0.1)
    assert "What was written before stays" in told
    assert told.endswith("Go on with: rtl pack photos s3://b/data\n")
