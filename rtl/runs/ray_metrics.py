"""A run's metrics as Ray metrics, told by its driver: Prometheus finds them on the node's port.

Ray puts `ray_` before each name. All have the tag `run`. The training loop knows nothing of them:
they are made of the epochs, trials and progress that reach the driver. Counters stay after a run's
end; gauges go half a minute later, as Ray forgets one that nobody tells again.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Self, get_args

from ray.util.metrics import Counter, Gauge

from rtl.config.tree import Config
from rtl.data.batches import Plan
from rtl.data.shards import Manifest
from rtl.feature_extraction import cost
from rtl.runs import trials
from rtl.runs.progress import Watcher
from rtl.runs.records import Epoch
from rtl.runs.trials import Spent, State, Trial

RATE_SECONDS = 2.0
"""Over which a rate is measured at least."""

AGAIN_SECONDS = 5.0
"""Between two tellings of the same gauge: Ray reports every 10 s and drops what it was not told."""


class Meter:
    """What is told of one run; a context manager that ends its rates."""

    def __init__(self, config: Config, manifest: Manifest, earlier: Sequence[Trial] = ()) -> None:
        """`earlier` are the trials that a resumed search finds; other processes counted them."""
        self._config = config
        self._manifest = manifest
        self._run = str(config.name)
        self._gauges: list[_Gauge] = []
        rate = self._gauge("rtl_images_per_second", "Images a second, of late.", "stage")
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
            "rtl_epoch", "Epochs done; of a search, by the trial that is furthest."
        )
        self._states = self._gauge("rtl_trials", "Trials of a search.", "state")
        self._cpu = self._counter("rtl_cpu_seconds_total", "CPU seconds that fits held.")
        self._gpu = self._counter("rtl_gpu_seconds_total", "GPU seconds that fits held.")
        self._spend = self._counter("rtl_spend_total", "What fits cost, at the recipe's prices.")
        self._computed = 0
        """Images whose features this run computed."""
        self._done: int | None = None
        """Images that its pass of the trunk has done, those included that it found done; None where
        none runs."""
        self._step = (0, 0)
        """The epoch and its rows that were told last."""
        self._earlier = {trial.number for trial in earlier if trial.state != "running"}
        self._epochs = {trial.number: trial.epochs for trial in earlier}
        """Of each trial, that were told."""
        self._spent = Spent(0.0, 0.0, 0.0)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._tell_again, daemon=True)

    def watcher(self) -> Watcher:
        """The events of a fit, to this meter."""
        return Watcher(features=self.features, step=self.step, epoch=self.epoch)

    def features(self, done: int, total: int) -> None:
        """Images whose features are there, of those that lack them at a cut."""
        new = 0 if self._done is None else max(0, done - self._done)
        self._done = None if done == total else done
        self._computed += new
        self._trunk.add(new)
        _add(self._misses, new)
        if done == total:
            self._trunk.stop()

    def built(self, config: Config) -> None:
        """All features that a run needs are there."""
        _add(self._hits, cost.count_images(config, self._manifest) - self._computed)

    def step(self, epoch: int, rows: int, total: int) -> None:  # noqa: ARG002
        """Rows of an epoch that are done."""
        before, earlier = self._step
        self._step = (epoch, rows)
        self._train.add(rows - earlier if epoch == before and rows >= earlier else rows)

    def epoch(self, epoch: Epoch) -> None:
        """A fit ended an epoch."""
        settings, prices = self._config.train, self._config.search
        self._epoch.set(epoch.epoch + 1)
        _add(self._stall, epoch.stall_seconds)
        cpu = self._spent.cpu_seconds + epoch.seconds * settings.workers * (
            settings.cpus_per_worker or 1
        )
        gpu = self._spent.gpu_seconds + epoch.seconds * settings.workers * settings.gpus_per_worker
        self._pay(Spent.of(cpu, gpu, prices.cpu_hour_price, prices.gpu_hour_price))

    def trials(self, found: Sequence[Trial]) -> None:
        """All trials of a search as they stand."""
        for trial in found:
            new = trial.history[self._epochs.get(trial.number, 0) :]
            self._epochs[trial.number] = trial.epochs
            rows = Plan(self._manifest, 0, 1, 1, share=trial.rows).rows
            self._train.add(rows * len(new))
            _add(self._stall, sum(epoch.stall_seconds for epoch in new))
        self._epoch.set(max((trial.epochs for trial in found), default=0))
        for state in get_args(State):
            self._states.set(sum(trial.state == state for trial in found), {"state": state})
        mine = [trial for trial in found if trial.number not in self._earlier]
        self._pay(trials.spent(mine, self._config.search))

    def __enter__(self) -> Self:
        """Begins to tell gauges again and again."""
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """A run that has ended does nothing any more."""
        self._trunk.stop()
        self._train.stop()
        self._ended.set()
        self._thread.join()

    def _tell_again(self) -> None:
        while not self._ended.wait(AGAIN_SECONDS):
            for gauge in self._gauges:
                gauge.tell()

    def _pay(self, now: Spent) -> None:
        before, self._spent = self._spent, now
        _add(self._cpu, now.cpu_seconds - before.cpu_seconds)
        _add(self._gpu, now.gpu_seconds - before.gpu_seconds)
        _add(self._spend, now.cost - before.cost)

    def _counter(self, name: str, about: str, *tags: str) -> Counter:
        made = Counter(name, about, ("run", *tags))
        made.set_default_tags({"run": self._run})
        return made

    def _gauge(self, name: str, about: str, *tags: str) -> _Gauge:
        made = Gauge(name, about, ("run", *tags))
        made.set_default_tags({"run": self._run})
        self._gauges.append(_Gauge(made))
        return self._gauges[-1]


def together(*watchers: Watcher) -> Watcher:
    """One watcher that tells all of them, in turn."""
    return Watcher(
        features=each(*(watcher.features for watcher in watchers)),
        step=each(*(watcher.step for watcher in watchers)),
        epoch=each(*(watcher.epoch for watcher in watchers)),
    )


def each(*functions: Callable[..., None]) -> Callable[..., None]:
    """One function that calls all of them, in turn."""

    def call(*arguments: Any) -> None:
        for function in functions:
            function(*arguments)

    return call


class _Gauge:
    """A gauge that knows its values, by tag."""

    def __init__(self, gauge: Gauge) -> None:
        self._gauge = gauge
        self._values: dict[tuple[tuple[str, str], ...], float] = {}

    def set(self, value: float, tags: Mapping[str, str] | None = None) -> None:
        self._values[tuple((tags or {}).items())] = value
        self.tell()

    def tell(self) -> None:
        for tags, value in tuple(self._values.items()):  # another thread may add to them
            self._gauge.set(value, dict(tags))


class _Rate:
    """The images of one stage: counted, and how many come in a second."""

    def __init__(self, stage: str, gauge: _Gauge, counter: Counter) -> None:
        self._tags = {"stage": stage}
        self._gauge = gauge
        self._counter = counter
        self._since: float | None = None
        self._images = 0

    def add(self, images: int) -> None:
        """The first call starts the clock: its images came before."""
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
    """Ray refuses to add nothing."""
    if value > 0:
        counter.inc(value, tags or {})
