from __future__ import annotations

import pickle

import pytest
from ray.exceptions import ActorDiedError, RayTaskError

from rtl.errors import BundleError, DataError, RtlError
from rtl.runtime import task_errors


def of_task(cause: Exception) -> RayTaskError:
    """Ray's error of a task, as it reaches the driver."""
    error = RayTaskError("task", "Traceback ...", pickle.loads(pickle.dumps(cause)))  # noqa: S301 -- its own
    return error.as_instanceof_cause()


def raised(error: Exception, *also: type[Exception]) -> Exception:
    with pytest.raises(Exception) as caught, task_errors.raise_own_errors(*also):  # noqa: PT011
        raise error
    return caught.value


def test_the_error_of_a_task_is_raised_as_it_was() -> None:
    found = raised(of_task(DataError("The shard is cut; pack again.")))
    assert type(found) is DataError
    assert str(found) == "The shard is cut; pack again."
    assert found.__cause__ is None


def test_what_ray_data_adds_to_an_error_is_left_out() -> None:
    error = DataError("The shard is cut; pack again.")
    error.args = (f"{error.args[0]}\nFailed to apply UDF transform after 1/1 attempts.",)
    found = raised(of_task(error))
    assert str(found) == "The shard is cut; pack again."


def test_an_error_in_the_context_of_another_is_found() -> None:
    class TuneError(Exception):
        """Raised by Tune with the text of a callback's error."""

    def fail() -> None:
        try:
            raise BundleError("The bundle is gone.")
        except BundleError as error:
            raise TuneError(str(error))  # noqa: B904 -- as Tune does

    own = task_errors.raise_own_errors(TuneError)
    with pytest.raises(BundleError, match=r"^The bundle is gone\.$"), own:
        fail()
    with pytest.raises(TuneError), task_errors.raise_own_errors():
        fail()


@pytest.mark.parametrize("error", [of_task(ValueError("x")), ActorDiedError()])
def test_other_errors_pass_as_they_are(error: Exception) -> None:
    assert raised(error) is error


def test_an_error_of_rtl_itself_passes_as_it_is() -> None:
    error = RtlError("x.")
    assert raised(error) is error


def test_an_actor_makes_its_worker_at_the_first_call() -> None:
    made: list[str] = []

    def make(name: str) -> object:
        made.append(name)
        return lambda batch: {**batch, "by": name}

    actor = task_errors.OnFirstCall(make, "trunk")  # type: ignore[arg-type]
    assert made == []
    assert [actor({"a": 1}), actor({"a": 2})] == [{"a": 1, "by": "trunk"}, {"a": 2, "by": "trunk"}]
    assert made == ["trunk"]
