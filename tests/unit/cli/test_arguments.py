"""Arguments as fields of frozen dataclasses."""

from __future__ import annotations

import dataclasses

import pytest

from rtl.cli import main
from rtl.cli.commands.base import Command
from rtl.cli.commands.fits import Search
from rtl.cli.commands.jobs import Submit, without_rays_own_line
from rtl.cli.commands.serving import StartCanary


@pytest.mark.parametrize("command", main.COMMANDS, ids=lambda command: command.verb)
def test_a_command_is_frozen_and_says_what_it_is_for(command: type[Command]) -> None:
    assert dataclasses.is_dataclass(command)
    assert command.__dataclass_params__.frozen  # type: ignore[attr-defined]
    assert command.about.endswith(".")


def test_arguments_are_fields_of_their_types() -> None:
    words = ["search", "--set", "a.b=1", "--set", "c=2", "--data", "d", "--resume"]
    assert main.parse(words) == Search(
        recipe=None, overrides=("a.b=1", "c=2"), storage=None, name=None, register_as=None,
        data="d", budget=None, resume=True,
    )  # fmt: skip
    ended = main.parse(["canary", "dogs"])
    assert isinstance(ended, StartCanary)
    assert (ended.version, ended.share, ended.overrides) == (None, 0.1, ())
    begun = main.parse(["canary", "dogs", "2", "--share", "0.5"])
    assert isinstance(begun, StartCanary)
    assert (begun.version, begun.share) == (2, 0.5)


def test_what_has_an_option_of_its_own_is_part_of_the_config() -> None:
    words = ["search", "--name", "dogs", "--data", "d", "--storage", "s", "--budget", "90s"]
    command = main.parse([*words, "--register-as", "animals"])
    assert isinstance(command, Search)
    settings = command.settings()
    assert settings.registered_name == "animals"
    assert (settings.name, settings.data.uri, settings.storage) == ("dogs", "d", "s")
    assert settings.search.budget_minutes == 1.5


def test_submit_holds_the_command_that_it_submits() -> None:
    words = ["submit", "--cpus", "2", "search", "--data", "s3://b/d", "--address", "http://h"]
    command = main.parse([*words, "--resume"])
    assert isinstance(command, Submit)
    assert (command.cpus, command.address) == (2.0, "http://h")
    assert command.asked == main.parse(["search", "--data", "s3://b/d", "--resume"])
    assert command.rest == ("--data", "s3://b/d", "--resume")


@pytest.mark.parametrize(
    ("words", "place"),
    [
        (["audit", "s3://b/d", "--out", "rows.csv"], "out is 'rows.csv'"),
        (["audit", "data"], "data is 'data'"),
        (["compare", "a@1", "a@2", "--data", "s3://b/d", "--html", "page.html"], "html is 'page.h"),
    ],
)
def test_a_job_is_not_given_a_folder_of_this_machine(
    words: list[str], place: str, capsys: pytest.CaptureFixture[str]
) -> None:
    submitted = ["submit", *words, "--storage", "s3://b/r", "--address", "http://h"]
    assert main.main(submitted) == 1
    assert place in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["jobs", "--stop", "a", "--follow", "b"], "not allowed with argument --stop"),
        (["promote", "dogs", "first"], "invalid int value: 'first'"),
        (["train", "--budget", "3m"], "unrecognized arguments: --budget 3m"),
        (["pack", "photos"], "the following arguments are required: dest"),
        (["submit", "train", "--budget", "3m"], "unrecognized arguments: --budget 3m"),
    ],
)
def test_wrong_arguments_end_with_status_2(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main.parse(words)
    assert ended.value.code == 2
    assert message in capsys.readouterr().err


def test_rays_own_line_is_left_out_of_a_jobs_output() -> None:
    own = "2026-11-28 21:00:00,123\tINFO job_manager.py:599 -- Runtime env is setting up.\n"
    assert without_rays_own_line(own) == ""
    assert without_rays_own_line(f"{own}Packed at s3://b/d\n") == "Packed at s3://b/d\n"
    assert without_rays_own_line("Runtime env is setting up.\n") == "Runtime env is setting up.\n"
