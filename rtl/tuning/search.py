"""`rtl search`: a probe at once, then which depth and rate, over one pass of the frozen trunk.

The probe is registered as soon as it stands, and the trials' heads start from it. Each trial is a
fit on cached features, of one process or of the workers of a TorchTrainer. Optuna proposes the
points or all of a grid are tried, ASHA ends those that fall behind, and the finalists are fitted
with further seeds. Each trial is recorded as it ends, so that `--resume` runs none again but those
that failed through no fault of their own. `test` is opened once, for the winner.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable
from dataclasses import dataclass

from rtl import storage
from rtl.config.tree import Config
from rtl.data.shards import Manifest
from rtl.errors import ConfigError, NotFoundError
from rtl.feature_extraction import cost, extraction, framing
from rtl.feature_extraction.cache import FeaturePlan
from rtl.runs import mlflow_log, ray_metrics, run, tensorboard, trials
from rtl.runs.progress import RunCallbacks, open_channel
from rtl.runs.ray_metrics import Meter
from rtl.runs.records import (
    OUTCOME_FILE,
    PLAN_FILE,
    SEARCH_FILE,
    TRIALS_FILE,
    Outcome,
    SearchPlan,
    SearchSummary,
)
from rtl.runs.trials import Choice, Trial
from rtl.runtime import capacity, session
from rtl.runtime.capacity import ResourceRequest
from rtl.training import checks
from rtl.training.finalize import read_outcome, register_result
from rtl.training.train import prepare, resolve_precision
from rtl.tuning import budget, first_answer, sweep
from rtl.tuning.rounds import Rounds
from rtl.tuning.throughput import Rates, measure
from rtl.tuning.tracker import Round, TrialTracker, Watch
from rtl.tuning.trial.process import TrialSetup
from rtl.tuning.trial.winner import finalize_trial


@dataclass(frozen=True)
class _Callbacks:
    """Receives the progress of a search, in the driver."""

    progress: session.Progress
    """Takes the number of images whose features are computed, and their total."""
    probe: session.Progress
    """Takes the number of images that the probe has read, and their total."""
    watch: Watch
    """Takes all trials after each change."""
    on_round: Callable[[Round], None]
    """Takes each round of trials as it begins."""
    on_stage: Callable[[str], None]
    """Takes the name of other long work as it begins."""
    print_line: Callable[[str], None]
    """Takes a sentence for each trade-off of a time budget."""
    on_first_answer: Callable[[int], None]
    """Takes the version of the first answer; the search goes on once it returns."""


Measure = Callable[[Config, int], Rates]
"""Measures the rates of a config's fits, so many side by side."""


def search(
    config: Config,
    *,
    progress: session.Progress = session.no_progress,
    probe: session.Progress = session.no_progress,
    watch: Watch = lambda _: None,
    on_round: Callable[[Round], None] = lambda _: None,
    on_stage: Callable[[str], None] = lambda _: None,
    print_line: Callable[[str], None] = lambda _: None,
    on_first_answer: Callable[[int], None] = lambda _: None,
    resume: bool = False,
    measure_rates: Measure = measure,
) -> run.Result:
    """Runs a search to its end and registers the winner's bundle. Ray is connected already.

    `progress` takes the number of images whose features are computed and their total, `probe` those
    that the probe reads where their features are not cached, `watch` all trials after each change,
    `on_round` each round of trials as it begins, `on_stage` the name of other long work,
    `print_line` a sentence for the framing and each trade-off of a time budget.

    `resume` goes on with a search of that name. It runs no ended trial again, except those that
    failed through no fault of their own, of a lost process or of storage; a budget's time counts on
    from where it was. Raises the errors of `rtl.training.train.train`; a trial that fails does not
    end the search.
    """
    started = time.monotonic()
    config, manifest = check(config)
    cached = depths_to_cache(config, manifest)
    streams = any(k not in cached for k in config.search.unfrozen_layers)
    concurrent = count_concurrent(config, data_cpus=1 if streams else 0)
    uri = run.create_or_resume(config, "search", manifest_digest=manifest.digest, resume=resume)
    done = run.result(uri)
    if done is None:
        earlier = trials.to_resume(trials.recorded(uri))
        with (
            run.open_run(uri) as heartbeat,
            Meter(config, manifest, earlier=earlier) as meter,
        ):
            config = resolve_precision(config)  # the run's record keeps `auto`
            config = framing.resolve(config, manifest, print_line)
            curves = tensorboard.TensorBoardLogger(config, uri)
            watch = ray_metrics.each(watch, meter.trials, curves.trials, lambda _: heartbeat())
            callbacks = _Callbacks(
                progress, probe, watch, on_round, on_stage, print_line, on_first_answer
            )
            begun = _Begun(uri, started, concurrent, cached, earlier)
            running = _Search(config, manifest, begun, callbacks=callbacks, meter=meter)
            running.plan_budget(measure_rates)
            features = running.extract()
            running.answer_first(features)
            choice = running.run_rounds()
            outcome = running.finalize_winner(choice)
            curves.outcome(outcome, choice.winner)
            done = register_result(
                config, outcome, kind="search", uri=uri, seconds=running.worked_seconds()
            )
            if running.probe_alone:
                running.announce(done.version)
    mlflow_log.log(config, uri, done)
    return done


def check(config: Config) -> tuple[Config, Manifest]:
    """Returns the config with absolute URIs, and the data set, both checked for a search.

    Needs no Ray. Raises the errors of `rtl.training.train.prepare`.
    """
    config, manifest = prepare(config)
    checks.check_points(config, manifest)
    if config.train.compile:
        raise ConfigError(
            "train.compile is set; each fit of a search would compile, for minutes. It is for `rtl "
            "train`: leave it out."
        )
    mlflow_log.check(config)
    return config, manifest


def depths_to_cache(config: Config, manifest: Manifest) -> tuple[int, ...]:
    """Selects the depths whose features a search caches: the probe's, and where that pays."""
    depths = config.search.unfrozen_layers
    fits = budget.count_points(config, depths)
    cached = cost.depths_to_cache(config, manifest, depths, fits=fits)
    return cost.with_probe(config, manifest, cached)


def count_concurrent(config: Config, *, data_cpus: int) -> int:
    """Number of trials that the cluster holds side by side. Raises ResourceError where it is none.

    `data_cpus` stay free for Ray Data.
    """
    workers, wanted = config.train.most_workers, config.search.concurrent or 1
    each, share = sweep.resources(config)
    one = ResourceRequest("A trial", workers, each // workers, share / workers, data_cpus)
    capacity.require(one, preferred=dataclasses.replace(one, processes=wanted * workers))
    most = (capacity.total("CPU") - data_cpus) // each
    if share:
        most = min(most, math.floor(capacity.total("GPU") / share))
    return max(1, min(config.search.concurrent or most, most))


@dataclass(frozen=True)
class _Begun:
    """The start of a search's attempt."""

    uri: str
    started: float
    """Time of the monotonic clock at which the command started."""
    concurrent: int
    cached: tuple[int, ...]
    """Depths whose features are to be cached."""
    earlier: list[Trial]
    """Trials that earlier attempts recorded."""


class _Search:
    """One attempt at a search, stage by stage."""

    def __init__(
        self,
        config: Config,
        manifest: Manifest,
        begun: _Begun,
        *,
        callbacks: _Callbacks,
        meter: Meter,
    ) -> None:
        self._config = config
        self._manifest = manifest
        self._begun = begun
        self._cached = begun.cached
        self._callbacks = callbacks
        self._meter = meter
        self._plan = _read_plan(begun.uri)
        self._rates: Rates | None = None
        self._deadline = math.inf
        self._features_seconds = 0.0
        self._earlier = begun.earlier
        self._worked = 0.0
        if self._plan is not None:
            self._worked = run.worked_seconds(begun.uri)  # all attempts share the budget's time
            self._earlier = [trial for trial in begun.earlier if trial.state != "running"]

    @property
    def probe_alone(self) -> bool:
        """Whether nothing is fine-tuned, so that the first answer is the result."""
        return self._plan is not None and not self._plan.depths

    def worked_seconds(self) -> float:
        """Seconds spent on the search: by all attempts where it has a budget, else by this one."""
        return self._worked + time.monotonic() - self._begun.started

    def plan_budget(self, measure_rates: Measure) -> None:
        """Measures the cluster and fixes views and depths, where the search has a time budget."""
        config, concurrent = self._config, self._begun.concurrent
        if config.search.budget_minutes:
            budget_seconds = 60 * config.search.budget_minutes
            self._deadline = self._begun.started - self._worked + budget_seconds
            if config.search.budget_minutes < budget.LEAST_MINUTES:
                lines = ("fine-tuning: the probe alone", f"{config.features.views} views: one")
                self._plan = SearchPlan(1, (), lines[: 1 + (config.features.views > 1)])
            elif not any(_ended_last_round(trial) for trial in self._earlier):
                self._callbacks.on_stage("Measuring how fast this machine is")
                self._rates = measure_rates(config, concurrent)
        if self._rates is not None and self._plan is None:
            plan = budget.make_plan(
                config, self._manifest, self._rates,
                seconds=self._deadline - time.monotonic(), concurrent=concurrent,
                cached=self._cached, built=not self._cached,
            )  # fmt: skip
            self._plan = SearchPlan(plan.views, plan.depths, plan.extraction_tradeoffs)
            path = storage.join(self._begun.uri, PLAN_FILE)
            storage.write_json(path, self._plan.to_dict())
        if self._plan is not None:
            depths = self._plan.depths
            self._config = config.replace(features={"views": self._plan.views})
            if depths:
                self._config = self._config.replace(search={"unfrozen_layers": depths})
            self._cached = tuple(k for k in self._cached if k in (0, *depths))

    def extract(self) -> FeaturePlan:
        """Computes the features and corrects the measured rates by the pass's own rate."""
        began, done = time.monotonic(), [0]
        progress = ray_metrics.each(
            self._callbacks.progress, self._meter.features, lambda images, _: done.append(images)
        )
        depths = (0, *self._config.search.unfrozen_layers)
        features = extraction.build_plan(
            self._config, self._manifest, depths,
            cached=self._cached, progress=progress,
        )  # fmt: skip
        if self._cached:
            self._meter.built(self._config)
            if self._rates is not None:
                found = done[:2][-1]  # the pass first reports the images of an earlier one
                self._rates = self._rates.corrected(done[-1] - found, time.monotonic() - began)
        self._features_seconds = time.monotonic() - self._begun.started
        return features

    def answer_first(self, features: FeaturePlan) -> None:
        """Solves the probe; registers its model where the search goes on, and says how to serve it.

        Where the probe is the result, it is scored on `test` in one go and registered as such.
        """
        config, uri = self._config, self._begun.uri
        self._setup = TrialSetup(config, uri, features)
        self._tracker = TrialTracker(
            config, uri, ended=self._earlier, watch=self._callbacks.watch,
            on_round=self._callbacks.on_round,
        )  # fmt: skip
        if first_answer.find(self._tracker.trials) is None:
            self._tracker.add(self._solve_probe())
        if self.probe_alone:
            return
        version = first_answer.register(self._setup)
        if version is not None:
            self.announce(version)

    def _solve_probe(self) -> Trial:
        """Solves the probe, with progress where its features have to be computed for it alone."""
        callbacks, alone = self._callbacks, self.probe_alone
        if 0 in self._setup.features.uris:
            callbacks.on_stage("Solving the probe")
            return first_answer.solve_first_answer(self._setup, alone=alone)

        def progress(done: int, total: int) -> None:
            callbacks.probe(done, total)
            if done == total:
                callbacks.on_stage("Solving the probe")

        with open_channel(RunCallbacks(probe=progress)) as channel:
            return first_answer.solve_first_answer(self._setup, alone=alone, progress=channel.probe)

    def announce(self, version: int) -> None:
        """Says how good the first answer is and how to serve it."""
        line = first_answer.describe(
            self._setup, version, seconds=self.worked_seconds(), alone=self.probe_alone
        )
        self._callbacks.print_line(line)
        self._callbacks.on_first_answer(version)

    def run_rounds(self) -> Choice:
        """Runs all rounds of trials, chooses the winner and writes the search's records."""
        uri, tracker = self._begun.uri, self._tracker
        rounds = Rounds(self._setup, tracker, self._begun.concurrent)
        tradeoffs: list[str] = []
        if self._plan is None:
            rounds.run_points()
            rounds.run_seeds()
        elif self._rates is not None and self._plan.depths:
            tradeoffs = self._run_budget(rounds, self._plan, self._rates)
        else:
            tradeoffs = list(self._plan.tradeoffs)
        choice = first_answer.choose(uri, tracker.trials, metric=self._config.train.metric)
        record = self._record(tracker, choice, tradeoffs)
        content = [trial.to_dict() for trial in tracker.trials]
        storage.write_json(storage.join(uri, TRIALS_FILE), content)
        storage.write_json(storage.join(uri, SEARCH_FILE), record.to_dict())
        return choice

    def _run_budget(self, rounds: Rounds, plan: SearchPlan, rates: Rates) -> list[str]:
        """Plans the rounds in the time that is left and runs them; returns all trade-offs."""
        second = budget.make_plan(
            self._config, self._manifest, rates, seconds=self._deadline - time.monotonic(),
            concurrent=self._begun.concurrent, cached=rounds.setup.features.uris, built=True,
        )  # fmt: skip
        # The first plan's own rounds do not count: the second may have more time, or less.
        tradeoffs = [*plan.tradeoffs, *second.extraction_tradeoffs, *second.tradeoffs]
        self._print_tradeoffs(tradeoffs)
        rounds.run_budget(second, deadline=self._deadline)
        late = budget.unfinished(second, rounds.tracker.fits)
        self._print_tradeoffs(late)
        return tradeoffs + late

    def _print_tradeoffs(self, tradeoffs: list[str]) -> None:
        for line in tradeoffs:
            self._callbacks.print_line(f"For the time: {line}.")

    def _record(self, tracker: TrialTracker, choice: Choice, tradeoffs: list[str]) -> SearchSummary:
        search = self._config.search
        spent = trials.spent(tracker.trials, search)
        return SearchSummary(
            winner=choice.winner.number, metric=self._config.train.metric, mean=choice.mean,
            spread=choice.spread, seeds=choice.seeds, currency=search.currency,
            spent=spent,
            last_half_percent=trials.share_after(tracker.trials),
            features_seconds=self._features_seconds, tradeoffs=tuple(tradeoffs),
        )  # fmt: skip

    def finalize_winner(self, choice: Choice) -> Outcome:
        """Has the winner predict `val` and `test` and writes its bundle; returns its outcome."""
        if self.probe_alone and storage.exists(storage.join(self._begun.uri, OUTCOME_FILE)):
            return read_outcome(self._begun.uri)  # scored as it was solved
        self._callbacks.on_stage("Scoring the winner on val and test")
        return finalize_trial(self._setup, choice.winner)


def _read_plan(uri: str) -> SearchPlan | None:
    """Reads the plan of a budget's first attempt; None where there is none."""
    try:
        return SearchPlan.from_dict(storage.read_json(storage.join(uri, PLAN_FILE)))
    except NotFoundError:
        return None


def _ended_last_round(trial: Trial) -> bool:
    """Tells whether a trial is of a budget's last round and came to its end."""
    return "train.minutes" in trial.point and trial.state in ("finished", "stopped")
