"""Begins a search, or goes on with a run, by the command line in a process of its own."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import chain, count
from typing import Any

from rtl import storage
from rtl.api.ray_session import connect
from rtl.config.tree import Config, from_dict
from rtl.errors import ConfigError, DataError, RtlError
from rtl.runs import run
from rtl.runs.records import RUN_FILE
from rtl.studio.background import command
from rtl.studio.background.tasks import Task, Work
from rtl.studio.runs import form, overview
from rtl.studio.workspace import Workspace

KIND = "search"
"""The kind of these tasks: one search is under way at a time."""


def base(workspace: Workspace) -> Config:
    """The studio's own config, on the data set that is open and for the name of its models."""
    if not workspace.is_open:
        return workspace.config
    session = workspace.session
    return workspace.config.replace(data={"uri": session.data}, register_as=session.name)


def suggest_name(workspace: Workspace) -> str:
    """A run name that is not used yet, after the open data set's."""
    return free_name(workspace.root, workspace.session.name if workspace.is_open else "search")


def free_name(root: str, stem: str) -> str:
    """A run name that is not used yet: `stem`, or `stem` with a number."""
    used = set(storage.list_names(storage.join(root, "runs")))
    names = chain([stem], (f"{stem}-{n}" for n in count(2)))
    return next(name for name in names if name not in used)


def problems(workspace: Workspace, values: Mapping[str, str]) -> dict[str, str]:
    """Finds the faults of a search before it starts, by key of the form."""
    values = {"name": "", **values}
    found = form.errors(base(workspace), values)
    if found:
        return found
    config = form.configure(base(workspace), values)
    if config.name is None:
        return {"name": "Give the run a name."}
    if storage.exists(storage.join(overview.locate(workspace.root, config.name), RUN_FILE)):
        return {"name": f"{config.name} is used already; choose another name, or resume that run."}
    if config.data.uri is None:
        return {"data.uri": "Name a packed data set."}
    return _refused(config)


def search(workspace: Workspace, values: Mapping[str, str]) -> Task:
    """Starts a search in the background. Raises ConfigError for a form that cannot be used."""
    if found := problems(workspace, values):
        raise ConfigError("\n".join(found.values()))
    config = form.configure(base(workspace), values)
    return _start(workspace, config, words=["search"], title=f"Search {config.name}")


def resume(workspace: Workspace, name: str) -> Task:
    """Goes on with a run in the background. Raises NotFoundError and ConfigError."""
    record = run.read_record(overview.locate(workspace.root, name))
    try:
        config = from_dict(dict(record.config)).replace(storage=workspace.root)
    except (TypeError, ValueError):
        raise DataError(f"The record of {name!r} holds no config; it was edited.") from None
    words = [record.kind, "--resume"]
    return _start(workspace, config, words=words, title=f"Resume {config.name}")


def _start(workspace: Workspace, config: Config, *, words: list[str], title: str) -> Task:
    given = [word for one in form.overrides(config) for word in ("--set", one)]

    def work(own: Work) -> dict[str, Any]:
        own.stage("Starting Ray")
        connect(progress=False)
        command.run(own, [*words, *given])
        return {"name": config.name}

    return workspace.tasks.start(KIND, title, work=work)


def _refused(config: Config) -> dict[str, str]:
    """Finds the faults of the data set, and values that do not go with it."""
    from rtl.tuning import search as tuning  # imports Ray

    try:
        tuning.check(config)
    except ConfigError as error:
        return {"": str(error)}
    except RtlError as error:
        return {"data.uri": str(error)}
    return {}
