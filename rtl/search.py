"""`rtl search`: which depth and learning rate, by Ray Tune over one pass of the frozen trunk.

Each trial is a fit of one process on cached features. Optuna proposes the points, ASHA ends those
that fall behind. The winner is the trial with the best `val` score in any of its epochs; `test` is
opened once, with the winner's weights.
"""

from __future__ import annotations

import secrets
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import ray
import torch

from rtl import features, pretrained, run, runtime, storage
from rtl.checkpoint import Checkpoint, Checkpoints, Epoch
from rtl.config import Config, Range, from_dict
from rtl.data import Plan
from rtl.errors import TrainingError
from rtl.loop import Hooks, Learner, fit
from rtl.shards import load_manifest
from rtl.train import conclude, judge, make_source, prepare, write_outcome


@dataclass(frozen=True)
class Trial:
    """One point of the search and how far it came."""

    number: int
    """From 0, in the order in which the trials were proposed."""
    unfrozen_layers: int
    lr: float
    state: str = "running"
    """`running`, `finished`, `stopped` (by ASHA or patience) or `failed`."""
    epochs: int = 0
    """Epochs done."""
    score: float = float("nan")
    """Best `val` score of any epoch so far."""
    log_loss: float = float("inf")
    """`val` log loss in the epoch of that score."""
    seconds: float = 0.0
    """Of all its epochs."""
    reason: str = ""
    """Why it failed."""


Watch = Callable[[Sequence[Trial]], None]


def choose(trials: Sequence[Trial]) -> Trial:
    """The winner: best score, of equals the lower log loss, then the shallower tail.

    Raises TrainingError where no trial has a score.
    """
    scored = [trial for trial in trials if trial.score == trial.score]
    if not scored:
        reasons = sorted({trial.reason for trial in trials if trial.reason})
        raise TrainingError(
            f"None of {len(trials)} trials finished an epoch: {' '.join(reasons) or 'no reason.'}"
        )
    return max(scored, key=lambda t: (t.score, -t.log_loss, -t.unfrozen_layers, -t.number))


def search(
    config: Config,
    progress: runtime.Progress = runtime.no_progress,
    watch: Watch = lambda _: None,
) -> run.Result:
    """Runs a search to its end and registers the winner's bundle. Ray is connected already.

    `progress` is told the images whose features are computed, `watch` all trials after each change.
    Raises the errors of `rtl.train.train`; a trial that fails does not end the search.
    """
    started = time.monotonic()
    config, manifest = prepare(config)
    cpus = int(ray.cluster_resources().get("CPU", 1))  # type: ignore[no-untyped-call]
    gpus = int(ray.cluster_resources().get("GPU", 0))  # type: ignore[no-untyped-call]
    cached = [k for k in config.search.unfrozen_layers if features.pays(config, k)]
    data_cpus = 0 if len(cached) == len(config.search.unfrozen_layers) else 1
    runtime.check_resources("A trial", 1, 1, config.train.gpus_per_worker, data_cpus)
    room = (gpus if config.train.gpus_per_worker else cpus) - data_cpus
    concurrent = min(config.search.concurrent or room, room, config.search.trials)
    uri = run.claim(config, "search", manifest.digest, resume=False)
    if cached:
        features.build(config, manifest, cached, progress)
    trials = _run(config, uri, max(1, concurrent), watch)
    storage.write_json(
        storage.join(uri, "trials.json"), [{**vars(trial)} for trial in trials if trial.epochs]
    )
    winner = choose(trials)
    settings = at(config, winner.unfrozen_layers, winner.lr)
    task = ray.remote(
        num_cpus=1,
        num_gpus=config.train.gpus_per_worker,
        runtime_env={"env_vars": runtime.env_vars(1)},
        max_retries=2,
    )(_judge_winner)
    ray.get(task.remote(settings.to_dict(), uri, trial_uri(uri, winner.number)))
    outcome = storage.read_json(storage.join(uri, "outcome.json"))
    return conclude(config, "search", uri, outcome, time.monotonic() - started)


def at(config: Config, unfrozen_layers: int, lr: float) -> Config:
    """The config of one trial, a fit of one worker."""
    return config.replace(
        model={"unfrozen_layers": unfrozen_layers},
        optimizer={"lr": lr},
        train={"workers": 1, "cpus_per_worker": 1},
    )


def trial_uri(run_uri: str, number: int) -> str:
    """Where a trial's checkpoint lies."""
    return storage.join(run_uri, "trials", f"{number:04}")


def _run(config: Config, uri: str, concurrent: int, watch: Watch) -> list[Trial]:
    import optuna
    from ray import tune
    from ray.tune.schedulers import ASHAScheduler
    from ray.tune.search.optuna import OptunaSearch

    runtime.quiet()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    settings = config.search
    board = _Board(config.train.epochs, watch)
    space = {
        "unfrozen_layers": tune.choice(list(settings.unfrozen_layers)),
        "lr": tune.loguniform(settings.lr.min, settings.lr.max)
        if isinstance(settings.lr, Range)
        else tune.choice(list(settings.lr)),
    }
    trainable = tune.with_resources(
        tune.with_parameters(_trial, config=config.to_dict(), uri=uri),
        {"cpu": 1, "gpu": config.train.gpus_per_worker},
    )
    with tempfile.TemporaryDirectory(prefix="rtl-search-") as folder:
        tuner = tune.Tuner(
            trainable,
            param_space=space,
            tune_config=tune.TuneConfig(
                metric="score",
                mode="max",
                search_alg=OptunaSearch(seed=settings.seed),
                scheduler=ASHAScheduler(
                    time_attr="epochs",
                    max_t=config.train.epochs,
                    grace_period=min(settings.grace_epochs, config.train.epochs),
                    reduction_factor=settings.reduction_factor,
                ),
                num_samples=settings.trials,
                max_concurrent_trials=concurrent,
                reuse_actors=True,
                trial_name_creator=lambda trial: board.name(trial.trial_id),
                trial_dirname_creator=lambda trial: board.name(trial.trial_id),
            ),
            # Tune's own state serves this run alone: what must last is written by the trials.
            run_config=tune.RunConfig(
                name=f"search-{secrets.token_hex(4)}", storage_path=folder, verbose=0,
                callbacks=[board.callback()],
            ),
        )  # fmt: skip
        outcomes = tuner.fit()
        for outcome in (outcomes[i] for i in range(len(outcomes))):
            if outcome.error is not None:
                board.explain(Path(outcome.path).name, outcome.error)
    return board.trials


def _trial(point: dict[str, Any], config: dict[str, Any], uri: str) -> None:
    """What a trial's process runs."""
    from ray import tune

    runtime.quiet()
    torch.set_num_threads(1)
    settings = at(from_dict(config), point["unfrozen_layers"], point["lr"])
    number = int(tune.get_context().get_trial_name().removeprefix("trial-"))
    manifest = load_manifest(str(settings.data.uri))
    plan = Plan(manifest, settings.train.seed, settings.train.batch_size, settings.features.views)
    learner = _learner(settings, len(manifest.classes))
    source = make_source(settings, plan, 0)
    fit(learner, source, plan, settings, _TrialHooks(trial_uri(uri, number), settings))


def _judge_winner(config: dict[str, Any], uri: str, winner: str) -> None:
    """Opens `test` with the winner's weights and writes its bundle."""
    settings = from_dict(config)
    torch.set_num_threads(1)
    manifest = load_manifest(str(settings.data.uri))
    plan = Plan(manifest, settings.train.seed, settings.train.batch_size, settings.features.views)
    learner = _learner(settings, len(manifest.classes))
    source = make_source(settings, plan, 0)
    checkpoints = Checkpoints(winner)
    state = checkpoints.last()
    if state is None:
        raise TrainingError(f"The winner's checkpoint at {winner} is gone; search again.")
    test = judge(learner, source, plan, checkpoints, state, Hooks())
    write_outcome(uri, settings, manifest, learner, state, test)


def _learner(config: Config, num_classes: int) -> Learner:
    from rtl import device

    weights = pretrained.load(config.model.weights, config.storage)
    return Learner(config, num_classes, weights, device.pick(bool(config.train.gpus_per_worker)))


class _TrialHooks(Hooks):
    """Commits a trial's weights when they are its best so far, and tells Tune its score."""

    def __init__(self, uri: str, config: Config) -> None:
        self._checkpoints = Checkpoints(uri)
        self._metric = config.train.metric
        self._best: Epoch | None = None
        self._seconds = 0.0

    def save(self, checkpoint: Checkpoint) -> None:
        """See `Hooks`. The optimizer is left out: a trial is not resumed in mid-fit."""
        if checkpoint.history[-1].epoch == checkpoint.best:
            self._best = checkpoint.history[-1]
            self._checkpoints.save(Checkpoint(checkpoint.history, checkpoint.best, checkpoint.tail))

    def report(self, epoch: Epoch) -> None:
        """See `Hooks`."""
        from ray import tune

        best = self._best or epoch
        self._seconds += epoch.seconds
        tune.report(
            {
                "epochs": epoch.epoch + 1,
                "score": best.val.score(self._metric),
                "log_loss": best.val.log_loss,
                "seconds": self._seconds,
            }
        )


class _Board:
    """All trials as Tune reports them, in the driver."""

    def __init__(self, epochs: int, watch: Watch) -> None:
        self._epochs = epochs
        self._watch = watch
        self._numbers: dict[str, int] = {}
        self.trials: list[Trial] = []

    def name(self, trial_id: str) -> str:
        return f"trial-{self._numbers.setdefault(trial_id, len(self._numbers)):04}"

    def update(self, tune_trial: Any, state: str) -> None:
        number = int(self.name(tune_trial.trial_id).removeprefix("trial-"))
        last = tune_trial.last_result or {}
        if state == "finished" and last.get("epochs", 0) < self._epochs:
            state = "stopped"
        while len(self.trials) <= number:
            self.trials.append(Trial(len(self.trials), 0, 0.0))
        self.trials[number] = Trial(
            number=number,
            unfrozen_layers=tune_trial.config["unfrozen_layers"],
            lr=tune_trial.config["lr"],
            state=state,
            epochs=last.get("epochs", 0),
            score=last.get("score", float("nan")),
            log_loss=last.get("log_loss", float("inf")),
            seconds=last.get("seconds", 0.0),
        )
        self._watch(self.trials)

    def explain(self, name: str, error: Exception) -> None:
        """Adds to a failed trial what rtl said, else the last line of what Ray did."""
        number = int(name.removeprefix("trial-"))
        lines = str(error).strip().splitlines() or [type(error).__name__]
        reason = lines[-1].removeprefix("rtl.errors.")
        self.trials[number] = replace(self.trials[number], reason=reason)
        self._watch(self.trials)

    def callback(self) -> Any:
        from ray.tune.logger import LoggerCallback

        board = self

        class Callback(LoggerCallback):
            def log_trial_start(self, trial: Any) -> None:
                board.update(trial, "running")

            def log_trial_result(self, iteration: int, trial: Any, result: Any) -> None:  # noqa: ARG002
                board.update(trial, "running")

            def log_trial_end(self, trial: Any, failed: bool = False) -> None:
                board.update(trial, "failed" if failed else "finished")

        return Callback()
