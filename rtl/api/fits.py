"""`plan`: a forecast. `train`: one fit. `search`: the best of many. `report`: a run as HTML."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rtl.api.configuration import Location, Recipe, configure, text_of
from rtl.runtime import session

if TYPE_CHECKING:
    from rtl.config.tree import Config
    from rtl.data.shards import Manifest
    from rtl.evaluation.metrics import Scores
    from rtl.planning.records import Forecast
    from rtl.runs.records import Kind
    from rtl.runs.run import Result
    from rtl.runs.trials import Trial


@dataclass(frozen=True, kw_only=True)
class Fit:
    """A finished training or search, and the model that it registered."""

    uri: str
    """The run's folder."""
    name: str
    """Name of the run."""
    registered_as: str
    """Name of the model in the registry."""
    version: int
    """The model's number in the registry."""
    bundle: str
    """URI of the model's bundle."""
    unfrozen_layers: int
    """Number of the network's last blocks that were trained beside the head, 0 to 16."""
    lr: float
    """Peak learning rate of the head; 0 of a probe, which takes no steps."""
    best_epoch: int
    """Epoch whose weights were kept, from 0."""
    epochs: int
    """Epochs that were run."""
    val: Scores
    """Scores on `val`, with 95 % intervals."""
    test: Scores | None
    """Scores on `test`; None where the data set has no such rows."""
    seconds: float
    """From the start to the bundle."""
    trials: tuple[Trial, ...] = ()
    """The trials of a search, by number."""

    @property
    def model(self) -> str:
        """The registered model, `NAME@VERSION`."""
        return f"{self.registered_as}@{self.version}"


@dataclass(frozen=True)
class Report:
    """A run's report."""

    uri: str
    """The HTML file."""


def plan(
    data: Location | None = None,
    *,
    storage: Location | None = None,
    budget: str | None = None,
    price_per_hour: float | None = None,
    recipe: Recipe | None = None,
    overrides: Mapping[str, Any] | None = None,
    progress: bool = False,
) -> Forecast:
    """Forecasts time, memory, storage and cost of packing, a search and a training, before them.

    `data` is a packed data set, or a source that is not packed yet. Measures the machine or cluster
    on its images for a minute or less. `price_per_hour` is the whole cluster's; without it there is
    no cost. A run of the same config on the same packed data keeps its forecast, and its report
    shows it beside the outcome. Raises the errors of `search`.
    """
    session.silence()
    from rtl.api.ray_session import connect
    from rtl.config import loading
    from rtl.display import console
    from rtl.errors import ConfigError
    from rtl.planning import plan as planning

    if price_per_hour is not None and not price_per_hour >= 0:
        raise ConfigError(f"price_per_hour is {price_per_hour:g}; give 0 or more, or leave it out.")
    config = _configure(recipe, overrides, data=data, storage=storage)
    if budget is not None:
        config = config.replace(search={"budget_minutes": loading.minutes(budget)})
    subject = planning.look(config)  # errors of the config and the data come before Ray starts
    connect(progress=progress)
    if not progress:
        return planning.plan(subject, price_per_hour=price_per_hour)
    with console.busy("Measuring how fast this machine is"):
        return planning.plan(subject, price_per_hour=price_per_hour)


def train(
    data: Location | None = None,
    *,
    name: str | None = None,
    register_as: str | None = None,
    storage: Location | None = None,
    resume: bool = False,
    recipe: Recipe | None = None,
    overrides: Mapping[str, Any] | None = None,
    progress: bool = False,
) -> Fit:
    """Fits one model on a packed data set and registers it.

    The model is the next version of `register_as`, by default of `name`, which is the run's own.
    `resume` goes on with a run of that name after its last committed epoch. Raises ConfigError,
    DataError, RunExistsError, ResourceError, WeightsError, TrainingError and StorageError, each
    before anything starts where that is possible.
    """
    session.silence()
    from rtl.api.ray_session import connect
    from rtl.display import console, progress_views
    from rtl.runs.progress import RunCallbacks
    from rtl.training import train as training

    config = _configure(
        recipe, overrides, data=data, storage=storage, name=name, register_as=register_as
    )
    # Errors of the config and the data come before Ray starts.
    _, manifest = training.prepare(config)
    connect(progress=progress)
    if not progress:
        return _finish(training.train(config, resume=resume), config, manifest)
    with progress_views.FitView(config.train.epochs) as view:
        callbacks = RunCallbacks(
            features=view.features, probe=view.probe, step=view.step, epoch=view.epoch,
            print_line=console.print_line,
        )  # fmt: skip
        result = training.train(config, resume=resume, callbacks=callbacks)
    return _finish(result, config, manifest)


def search(
    data: Location | None = None,
    *,
    name: str | None = None,
    register_as: str | None = None,
    storage: Location | None = None,
    budget: str | None = None,
    resume: bool = False,
    recipe: Recipe | None = None,
    overrides: Mapping[str, Any] | None = None,
    progress: bool = False,
    on_first_answer: Callable[[str], None] | None = None,
) -> Fit:
    """Searches the depth and the learning rate, and registers the winner.

    The models are the next versions of `register_as`, by default of `name`, which is the run's own.
    A probe comes first: a linear classifier on the pretrained network's outputs, registered within
    a minute or so. `on_first_answer` takes its `NAME@VERSION` then, and may serve it; the search
    goes on once it returns.

    `budget` is the time in which it ends, such as `30m`, `90s` or `2h`. `resume` goes on with a
    search of that name: trials that ended are not run again. A trial that fails does not end the
    search. Raises the errors of `train`.
    """
    session.silence()
    from rtl.api.ray_session import connect
    from rtl.config import loading
    from rtl.display import console, progress_views
    from rtl.tuning import search as tuning

    config = _configure(
        recipe, overrides, data=data, storage=storage, name=name, register_as=register_as
    )
    if budget is not None:
        config = config.replace(search={"budget_minutes": loading.minutes(budget)})
    _, manifest = tuning.check(config)  # errors of the config and the data come before Ray starts
    connect(progress=progress)
    on_first = on_first_answer or (lambda _: None)

    def answered(version: int) -> None:
        on_first(f"{config.registered_name}@{version}")

    if not progress:
        result = tuning.search(config, resume=resume, on_first_answer=answered)
        return _finish(result, config, manifest)
    with progress_views.SearchView(config.train.metric) as view:
        result = tuning.search(
            config, progress=view.features, probe=view.probe, watch=view.trials,
            on_round=view.round, on_stage=view.stage, resume=resume,
            print_line=console.print_line, on_first_answer=answered,
        )  # fmt: skip
    return _finish(result, config, manifest)


def report(
    run: Location, *, out: Location | None = None, storage: Location | None = None
) -> Report:
    """Writes a finished run as one HTML file that needs no other; by default NAME.html.

    `run` is a name under `storage`, or a run's path or URI. Raises NotFoundError where there is no
    run or where it has not ended, and StorageError.
    """
    session.silence()
    from rtl import reporting
    from rtl import storage as objects
    from rtl.storage import destinations

    uri = text_of(run)
    if "/" not in uri:
        given = {"storage": storage and text_of(storage)}
        uri = objects.join(configure(None, overrides=None, given=given).storage, "runs", uri)
    target = text_of(out) if out else uri.rstrip("/").rsplit("/", 1)[-1] + ".html"
    destinations.check_file(target, "--out")
    objects.write_bytes(target, reporting.report(uri).encode())
    return Report(target)


def _configure(
    recipe: Recipe | None,
    overrides: Mapping[str, Any] | None,
    *,
    data: Location | None,
    storage: Location | None,
    name: str | None = None,
    register_as: str | None = None,
) -> Config:
    given = {
        "data.uri": data and text_of(data), "name": name, "register_as": register_as,
        "storage": storage and text_of(storage),
    }  # fmt: skip
    return configure(recipe, overrides=overrides, given=given)


def _finish(result: Result, config: Config, manifest: Manifest) -> Fit:
    """A run's result; the forecast that was planned for it is written into its folder."""
    from rtl.planning import kept
    from rtl.runs import run, trials

    kind: Kind = result.kind
    if (planned := kept.find(config, manifest, kind=kind)) is not None:
        kept.attach(planned, run.locate(config))

    uri = run.locate(config)
    return Fit(
        uri=uri, name=result.name, registered_as=result.registered_as, version=result.version,
        bundle=result.bundle,
        unfrozen_layers=result.unfrozen_layers, lr=result.lr, best_epoch=result.best_epoch,
        epochs=result.epochs, val=result.val, test=result.test, seconds=result.seconds,
        trials=tuple(trials.recorded(uri)) if result.kind == "search" else (),
    )  # fmt: skip
