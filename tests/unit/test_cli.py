from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from rtl import cli, demo, recipes
from rtl.config import Config, from_dict

ROOT = Path(__file__).parents[2]


def test_config_prints_a_recipe_that_reads_back(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert cli.main(["config", "--set", "search.trials=16", "--storage", "s3://b/p"]) == 0
    recipe = tmp_path / "r.yaml"
    recipe.write_text(capsys.readouterr().out)
    read = recipes.load(recipe)
    assert (read.search.trials, read.storage) == (16, "s3://b/p")


def test_config_prints_one_section_with_what_its_keys_do(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert cli.main(["config", "--set", "search.trials=16", "--only", "search.trials"]) == 0
    assert capsys.readouterr().out == (
        "# The search over depths, learning rates and further keys (`rtl search`).\n"
        "search:\n"
        "  # Number of points that `optuna` proposes.\n"
        "  trials: 16\n"
    )
    assert cli.main(["config", "--only", "trials"]) == 1
    assert "the nearest is search.trials. `rtl config`" in capsys.readouterr().err


def test_an_error_is_one_line_and_a_status(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["config", "--set", "search.trails=16"]) == 1
    error = capsys.readouterr().err
    assert error.startswith("rtl config: search.trails is not a key")
    assert "search.trials" in error
    assert "Traceback" not in error


def test_help_starts_nothing() -> None:
    code = (
        "import sys, rtl, rtl.cli\n"
        "try: rtl.cli.main(['--help'])\n"
        "except SystemExit: pass\n"
        "print(sorted({'ray', 'torch', 'boto3', 'pyarrow', 'pydantic'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip().endswith("[]")
    assert "search" in done.stdout


def test_start_and_end_do_not_look_for_garbage_among_what_stays() -> None:
    code = (
        "import atexit, gc\n"
        "from rtl import cli, train\n"
        "print(gc.get_stats()[2]['collections'])\n"
        "atexit.register(lambda: print(gc.get_freeze_count() > 100_000))\n"
        "cli.main(['runs', '--storage', '/nowhere'])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    said = done.stdout.split("\n")
    assert (said[0], said[-2]) == ("0", "True")


@pytest.mark.parametrize("recipe", sorted((ROOT / "jobs" / "recipes").glob("*.yaml")))
def test_recipes_are_valid(recipe: Path) -> None:
    assert recipes.load(recipe).name


def test_the_demo_runs_its_recipe() -> None:
    whole: Config = from_dict(demo.RECIPE)
    assert whole == recipes.load(ROOT / "jobs" / "recipes" / "elpv.yaml")
    demo.make_config("s3://b/demo", quick=True)


def test_the_demo_splits_by_the_papers_protocol() -> None:
    photos = demo.load_photos()
    splits = demo.split(photos, 0.25, seed=0)
    assert len(photos) == 2624
    assert sum(photo.label == "defective" for photo in photos) == 821
    assert 650 <= splits.count("test") <= 662
    for kind in ("mono", "poly"):
        share = [s for p, s in zip(photos, splits, strict=True) if p.cell_type == kind]
        assert share.count("test") / len(share) == pytest.approx(0.25, abs=0.01)
    assert demo.split(photos, 0.25, seed=0) == splits
    assert demo.split(photos, 0.25, seed=1) != splits
    quick = demo.sample(photos, 300)
    assert len({photo.path for photo in quick}) == 300
