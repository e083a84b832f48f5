"""The workers of a TorchTrainer: starts them, and connects the parts of their common fit."""

from __future__ import annotations

import math
import shutil
import tempfile
from collections.abc import Callable
from typing import Any, Literal, TypeVar

import torch
from torch import nn

from rtl.config.tree import Config
from rtl.errors import ResourceError, TrainingError
from rtl.runtime import capacity, ray_private, session
from rtl.training.loop import FitCallbacks

T = TypeVar("T")

Ending = Literal["done", "preempted", "grown"]
"""Why the workers of an attempt ended: the fit is done, a node was given notice, or one joined."""

_ATTEMPT_S = 60.0
"""Seconds that Ray Train waits for its workers' places before it gives up and tries again."""


def launch(worker: Callable[[T], Ending | None], task: T, *, config: Config) -> Ending | None:
    """Runs `worker(task)` in each of `train.workers` processes until all have returned.

    Returns what the workers return, and "preempted" where a node with notice was gone before that.
    Of a range, Ray Train takes as many workers as find places, for the whole attempt. Raises
    TrainingError, with the last line of its cause, where a worker failed: whether to start
    them again is for the caller to decide. Raises ResourceError where the workers found no places
    within `capacity.patience` in all, and KeyboardInterrupt after SIGINT.
    """
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer
    from ray.train.v2.api.exceptions import ControllerError, PreemptionError, TrainingFailedError

    settings = config.train
    attempts = max(1, math.ceil(capacity.patience() / _ATTEMPT_S))
    cpus = settings.cpus_per_worker or 1
    fewest, most = settings.fewest_workers, settings.most_workers
    number: Any = (fewest, most) if fewest < most else most
    # Holds Ray's own records; its checkpoints are not used, so they need not outlive the attempt.
    folder = tempfile.mkdtemp(prefix="rtl-train-")
    trainer = TorchTrainer(
        _run_worker,
        train_loop_config={"worker": worker, "task": task},
        scaling_config=ScalingConfig(  # type: ignore[call-arg]
            num_workers=number,
            # Ray would end the workers wherever they are; rtl's end after a commit.
            elastic_resize_monitor_interval_s=math.inf,
            use_gpu=bool(settings.gpus_per_worker),
            resources_per_worker={"CPU": cpus}
            | ({"GPU": settings.gpus_per_worker} if settings.gpus_per_worker else {}),
        ),
        run_config=RunConfig(
            name="attempt",
            storage_path=folder,
            failure_config=FailureConfig(  # type: ignore[call-arg]
                max_failures=0,  # Ray does not tell a lost worker from a permanent error
                max_preemption_failures=0,  # the caller starts the next attempt, as after others
                # By default Ray tries for ever.
                controller_failure_limit=attempts - 1,
            ),
            worker_runtime_env=session.runtime_env(cpus),
        ),
    )
    try:
        ray_private.drop_placement_group_cleaner(trainer)
        ending: Ending | None = trainer.fit().return_value  # type: ignore[attr-defined]
        return ending
    except PreemptionError:
        return "preempted"
    except ControllerError as error:
        raise _explain_controller(error, config, attempts=attempts) from error
    except TrainingFailedError as error:
        raise TrainingError(str(error).strip().splitlines()[-1]) from error
    except SystemExit:  # what Ray Train's own handler makes of Ctrl-C once its workers have ended
        raise KeyboardInterrupt from None
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _run_worker(loop_config: dict[str, Any]) -> Any:
    """Unpacks `launch`'s arguments, which Ray Train hands over as a dict."""
    return loop_config["worker"](loop_config["task"])


def _explain_controller(error: Any, config: Config, *, attempts: int) -> Exception:
    """Makes the error to raise where Ray Train's controller, and no worker, ended a fit."""
    if not isinstance(error.controller_failure, ray_private.worker_startup_errors()):
        return TrainingError(str(error).strip().splitlines()[-1])
    settings = config.train
    return ResourceError(
        f"{settings.fewest_workers} workers x {settings.cpus_per_worker or 1} CPUs and "
        f"{settings.gpus_per_worker} GPUs could not be started; {attempts} attempts of up to "
        f"{_ATTEMPT_S:g} s are made. {capacity.describe_free()} Add the node that is lost, or end "
        "what holds the rest; then go on with --resume. Or ask for fewer with train.workers or "
        "train.cpus_per_worker."
    )


class DistributedCallbacks(FitCallbacks):
    """Averages the gradients of a group of workers and gathers their values."""

    def __init__(self, config: Config) -> None:
        import ray.train

        self._model = config.model
        context = ray.train.get_context()
        self.rank: int = context.get_world_rank()
        self.ranks: int = context.get_world_size()

    def gather(self, value: T) -> list[T]:
        """See `FitCallbacks`."""
        if self.ranks == 1:
            return [value]
        values: list[Any] = [None] * self.ranks
        torch.distributed.all_gather_object(values, value)
        return values

    def wrap(self, tail: nn.Module) -> nn.Module:
        """See `FitCallbacks`."""
        import ray.train.torch

        options = {
            "broadcast_buffers": self._model.batch_norm == "train",  # frozen ones stay equal
            "gradient_as_bucket_view": True,  # the exchange copies nothing
        }
        wrapped: nn.Module = ray.train.torch.prepare_model(tail, parallel_strategy_kwargs=options)
        return wrapped
