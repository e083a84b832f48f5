from __future__ import annotations

import pickle

import pytest
import torch
from ray.exceptions import RayTaskError, WorkerCrashedError

from rtl import errors
from rtl.errors import RtlError
from rtl.training.workers import faults


def in_a_task(cause: Exception) -> BaseException:
    """The error as Ray raises it where a task's result is asked for."""
    made: BaseException = RayTaskError("task", "the trace", cause).as_instanceof_cause()
    return made


def failed(error: Exception) -> Exception:
    """The error after it was raised, with its trace."""
    with pytest.raises(type(error)) as caught:
        raise error
    return caught.value


@pytest.mark.parametrize("error", [ValueError("a."), KeyError("a"), TypeError("a"), IndexError()])
def test_an_error_of_python_comes_again_with_the_same_config(error: Exception) -> None:
    assert faults.is_own(in_a_task(error))
    for each in (failed(error), in_a_task(error)):
        reason = faults.permanent(each, ranks=2)
        assert isinstance(reason, errors.TrainingError)
        assert str(reason).startswith(f"The fit ended by {type(error).__name__}: ")
        assert "--resume" not in str(reason)
        assert ".." not in str(reason)


def test_the_trace_travels_with_it() -> None:
    reason = faults.permanent(failed(ValueError("odd")))
    assert "in failed" in pickle.loads(pickle.dumps(reason)).__notes__[0]  # noqa: S301 -- our own


@pytest.mark.parametrize(
    "error",
    [
        WorkerCrashedError(), MemoryError(), OSError(28, "disk full"), ConnectionResetError(),
        torch.OutOfMemoryError("of the GPU"), torch.AcceleratorError("an illegal access"),
    ],
)  # fmt: skip
def test_what_a_process_or_a_device_lost_may_pass(error: Exception) -> None:
    assert faults.permanent(error) is None
    assert faults.permanent(in_a_task(error)) is None
    assert not faults.is_own(error)
    assert not faults.is_own(in_a_task(error))


def test_what_no_task_raised_is_no_points_own() -> None:
    assert not faults.is_own(RuntimeError("The actor died."))
    assert faults.is_own(in_a_task(RuntimeError("shapes do not fit")))


def test_a_runtime_error_may_be_of_a_lost_neighbour() -> None:
    assert faults.permanent(RuntimeError("Connection closed by peer"), ranks=2) is None
    assert faults.permanent(RuntimeError("shapes do not fit"), ranks=1) is not None


@pytest.mark.parametrize(
    ("kind", "own"),
    [
        ("TrainingError", True), ("ConfigError", True), ("BundleError", True),
        ("StorageError", False), ("NotFoundError", False), ("DataError", False),
        ("ResourceError", False), ("WeightsError", False), ("RtlError", False),
    ],
)  # fmt: skip
def test_an_error_of_rtl_is_final_and_seldom_a_points_own(kind: str, own: bool) -> None:
    error: RtlError = getattr(errors, kind)("Said once.")
    assert faults.permanent(error, ranks=2) is error
    assert faults.permanent(in_a_task(error), ranks=2) is error
    assert (faults.is_own(error), faults.is_own(in_a_task(error))) == (own, own)
