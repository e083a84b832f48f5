"""Workers of a TorchTrainer: how they are started, and what their parts of one fit share."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import nn

from rtl import runtime
from rtl.config import Config
from rtl.errors import TrainingError
from rtl.loop import Hooks

T = TypeVar("T")


def launch(
    worker: Callable[[dict[str, Any]], None],
    about: dict[str, Any],
    config: Config,
    max_failures: int,
) -> None:
    """Runs `worker(about)` in each of `train.workers` processes until all have returned.

    Raises TrainingError, with the last line of what ended it, after more than `max_failures`, and
    KeyboardInterrupt after SIGINT.
    """
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer
    from ray.train.v2.api.exceptions import TrainingFailedError

    settings = config.train
    cpus = settings.cpus_per_worker or 1
    # Ray's own records: its checkpoints are not used, so they need not outlive the attempt.
    folder = tempfile.mkdtemp(prefix="rtl-train-")
    trainer = TorchTrainer(
        worker,
        train_loop_config=about,
        scaling_config=ScalingConfig(
            num_workers=settings.workers,
            use_gpu=bool(settings.gpus_per_worker),
            resources_per_worker={"CPU": cpus}
            | ({"GPU": settings.gpus_per_worker} if settings.gpus_per_worker else {}),
        ),
        run_config=RunConfig(
            name="attempt",
            storage_path=folder,
            failure_config=FailureConfig(max_failures=max_failures),
            worker_runtime_env=runtime.runtime_env(cpus),  # type: ignore[call-arg]
        ),
    )
    try:
        _without_cleaner(trainer).fit()
    except TrainingFailedError as error:
        raise TrainingError(str(error).strip().splitlines()[-1]) from error
    except SystemExit:  # what Ray Train's own handler makes of Ctrl-C once its workers have ended
        raise KeyboardInterrupt from None
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _without_cleaner(trainer: Any) -> Any:
    """The trainer, where there is no dashboard without its cleaner of placement groups.

    Ray 2.60's cleaner asks the State API, a part of the dashboard, whether the controller lives. It
    cannot see it without one, and each fit would end 12 seconds later, when it stops trying.
    """
    from ray._private.ray_constants import KV_NAMESPACE_DASHBOARD
    from ray.experimental.internal_kv import _internal_kv_get
    from ray.train.v2._internal.callbacks.placement_group_callback import (
        PlacementGroupCleanerCallback,
    )

    if not _internal_kv_get("webui:url", namespace=KV_NAMESPACE_DASHBOARD):
        made = trainer._create_default_callbacks()
        kept = [one for one in made if not isinstance(one, PlacementGroupCleanerCallback)]
        trainer._create_default_callbacks = lambda: kept
    return trainer


class GroupHooks(Hooks):
    """What every worker of a group needs: its gradients averaged, its values gathered."""

    def __init__(self) -> None:
        import ray.train

        context = ray.train.get_context()
        self.rank: int = context.get_world_rank()
        self.ranks: int = context.get_world_size()

    def gather(self, value: T) -> list[T]:
        """See `Hooks`."""
        if self.ranks == 1:
            return [value]
        values: list[Any] = [None] * self.ranks
        torch.distributed.all_gather_object(values, value)
        return values

    def wrap(self, tail: nn.Module) -> nn.Module:
        """See `Hooks`."""
        import ray.train.torch

        wrapped: nn.Module = ray.train.torch.prepare_model(tail)
        return wrapped
