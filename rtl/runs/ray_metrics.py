"""A run's metrics as Ray metrics, set by its driver: Prometheus finds them on the node's port.

Ray puts `ray_` before each name. All have the tag `run`. The training loop does not know them: they
follow from the epochs, trials and progress that reach the driver. Counters stay after a run's end;
gauges disappear half a minute later, as Ray drops a gauge that is not set again.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Self, get_args

from ray.util.metrics import Counter, Gauge

from rtl.config.tree import Config
from rtl.data.batches import EpochSampler
from rtl.data.shards import Manifest
from rtl.feature_extraction import cost
from rtl.runs import trials
from rtl.runs.progress import RunCallbacks
from rtl.runs.records import Epoch, Spent
from rtl.runs.trials import State, Trial

RATE_SECONDS = 2.0
"""Shortest time over which a rate is measured."""

AGAIN_SECONDS = 5.0
"""Time after which a gauge is set again: Ray exports every 10 s and drops what was not set."""


class Meter:
    """The metrics of one run; a context manager that ends its rates."""

    def __init__(
        self,
        config: Config,
        manifest: Manifest,
        *,
        earlier: Sequence[Trial] = (),
        again_seconds: float = AGAIN_SECONDS,
    ) -> None:
        """`earlier` are trials that a resumed search finds and other processes have counted.

        Gauges are set again every `again_seconds`.
        """
        self._config = config
        self._manifest = manifest
        self._again_seconds = again_seconds
        self._run = str(config.name)
        self._gauges: list[_Gauge] = []
        rate = self._gauge("rtl_images_per_second", "Images a second, lately.", "stage")
        images = self._counter("rtl_images_total", "Images that went through a stage.", "stage")
        self._trunk = _Rate("trunk", rate, images)
        self._train = _Rate("train", rate, images)
        self._stall = self._counter(
            "rtl_stall_seconds_total", "Seconds that training loops waited for data."
        )
        self._hits = self._counter("rtl_cache_hits_total", "Images whose features were there.")
        self._misses = self._counter(
            "rtl_cache_misses_total", "Images whose features were computed."
        )
        self._epoch = self._gauge(
            "rtl_epoch", "Epochs done; in a search, by the trial that is furthest."
        )
        self._states = self._gauge("rtl_trials", "Trials of a search.", "state")
        self._cpu = self._counter("rtl_cpu_seconds_total", "CPU seconds that fits held.")
        self._gpu = self._counter("rtl_gpu_seconds_total", "GPU seconds that fits held.")
        self._spend = self._counter("rtl_spend_total", "Cost of the fits, at the recipe's prices.")
        self._computed = 0
        """Images whose features this run computed."""
        self._done: int | None = None
        """Images that its feature extraction has done, with those that it found done; None where
        none runs."""
        self._step = (0, 0)
        """The last epoch and its rows."""
        self._earlier = {trial.number for trial in earlier if trial.state != "running"}
        self._epochs = {trial.number: trial.epochs for trial in earlier}
        """Epochs of each trial that are counted."""
        self._spent = Spent(0.0, 0.0, 0.0)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._set_again, daemon=True)

    def callbacks(self) -> RunCallbacks:
        """Callbacks that meter a fit."""
        return RunCallbacks(features=self.features, step=self.step, epoch=self.epoch)

    def features(self, done: int, total: int) -> None:
        """Counts images whose features are there, of those that lacked them at a cut."""
        new = 0 if self._done is None else max(0, done - self._done)
        self._done = None if done == total else done
        self._computed += new
        self._trunk.add(new)
        _add(self._misses, new)
        if done == total:
            self._trunk.stop()

    def built(self, config: Config) -> None:
        """Counts cache hits, once all features that a run needs are there."""
        _add(self._hits, cost.count_images(config, self._manifest) - self._computed)

    def step(self, epoch: int, rows: int, total: int) -> None:  # noqa: ARG002
        """Counts rows of an epoch that are done."""
        before, earlier = self._step
        self._step = (epoch, rows)
        self._train.add(rows - earlier if epoch == before and rows >= earlier else rows)

    def epoch(self, epoch: Epoch) -> None:
        """Counts an epoch that a fit has ended."""
        settings, prices = self._config.train, self._config.search
        self._epoch.set(epoch.epoch + 1)
        _add(self._stall, epoch.stall_seconds)
        workers = len(epoch.stalls) or settings.most_workers
        held = epoch.seconds * workers
        cpu = self._spent.cpu_seconds + held * (settings.cpus_per_worker or 1)
        gpu = self._spent.gpu_seconds + held * settings.gpus_per_worker
        self._pay(
            Spent.at_prices(
                cpu_seconds=cpu, gpu_seconds=gpu,
                cpu_hour=prices.cpu_hour_price, gpu_hour=prices.gpu_hour_price,
            )
        )  # fmt: skip

    def trials(self, found: Sequence[Trial]) -> None:
        """Counts all trials of a search, after each change."""
        for trial in found:
            new = trial.history[self._epochs.get(trial.number, 0) :]
            self._epochs[trial.number] = trial.epochs
            rows = EpochSampler(self._manifest, 0, 1, 1, share=trial.rows).rows
            self._train.add(rows * len(new))
            _add(self._stall, sum(epoch.stall_seconds for epoch in new))
        self._epoch.set(max((trial.epochs for trial in found), default=0))
        for state in get_args(State):
            self._states.set(sum(trial.state == state for trial in found), {"state": state})
        mine = [trial for trial in found if trial.number not in self._earlier]
        self._pay(trials.spent(mine, self._config.search))

    def __enter__(self) -> Self:
        """Begins to set gauges again and again."""
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Sets the rates to 0 and ends the thread."""
        self._trunk.stop()
        self._train.stop()
        self._ended.set()
        self._thread.join()

    def _set_again(self) -> None:
        while not self._ended.wait(self._again_seconds):
            for gauge in self._gauges:
                gauge.set_again()

    def _pay(self, now: Spent) -> None:
        before, self._spent = self._spent, now
        _add(self._cpu, now.cpu_seconds - before.cpu_seconds)
        _add(self._gpu, now.gpu_seconds - before.gpu_seconds)
        _add(self._spend, now.cost - before.cost)

    def _counter(self, name: str, description: str, *tags: str) -> Counter:
        made = Counter(name, description, ("run", *tags))
        made.set_default_tags({"run": self._run})
        return made

    def _gauge(self, name: str, description: str, *tags: str) -> _Gauge:
        made = Gauge(name, description, ("run", *tags))
        made.set_default_tags({"run": self._run})
        self._gauges.append(_Gauge(made))
        return self._gauges[-1]


def combine(*callbacks: RunCallbacks) -> RunCallbacks:
    """Callbacks that call all of the given ones, in order."""
    return RunCallbacks(
        features=each(*(one.features for one in callbacks)),
        probe=each(*(one.probe for one in callbacks)),
        step=each(*(one.step for one in callbacks)),
        epoch=each(*(one.epoch for one in callbacks)),
        print_line=each(*(one.print_line for one in callbacks)),
    )


def each(*functions: Callable[..., None]) -> Callable[..., None]:
    """One function that calls all of the given ones, in order."""

    def call(*arguments: Any) -> None:
        for function in functions:
            function(*arguments)

    return call


class _Gauge:
    """A gauge that keeps its values, by tag."""

    def __init__(self, gauge: Gauge) -> None:
        self._gauge = gauge
        self._values: dict[tuple[tuple[str, str], ...], float] = {}

    def set(self, value: float, tags: Mapping[str, str] | None = None) -> None:
        self._values[tuple((tags or {}).items())] = value
        self.set_again()

    def set_again(self) -> None:
        for tags, value in tuple(self._values.items()):  # another thread may add to them
            self._gauge.set(value, dict(tags))


class _Rate:
    """The images of one stage: their number and their rate."""

    def __init__(self, stage: str, gauge: _Gauge, counter: Counter) -> None:
        self._tags = {"stage": stage}
        self._gauge = gauge
        self._counter = counter
        self._since: float | None = None
        self._images = 0

    def add(self, images: int) -> None:
        """Adds images. The first call starts the clock: its images came before."""
        _add(self._counter, images, self._tags)
        now = time.monotonic()
        if self._since is None:
            self._since = now
            return
        self._images += images
        if now - self._since >= RATE_SECONDS:
            self._gauge.set(self._images / (now - self._since), self._tags)
            self._since, self._images = now, 0

    def stop(self) -> None:
        if self._since is not None:
            self._gauge.set(0.0, self._tags)
            self._since, self._images = None, 0


def _add(counter: Counter, value: float, tags: dict[str, str] | None = None) -> None:
    """Adds a value above 0: Ray refuses to add 0."""
    if value > 0:
        counter.inc(value, tags or {})
