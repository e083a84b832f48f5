"""The probe of a search: solved and registered before anything is fine-tuned, and once."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from rtl import storage
from rtl.config import loading
from rtl.data.shards import load_manifest
from rtl.errors import RunExistsError
from rtl.feature_extraction.cache import FeaturePlan
from rtl.model import bundle, registry
from rtl.runs import listing, run, trials
from rtl.runs.trials import Trial
from rtl.tuning import first_answer, search
from rtl.tuning.throughput import Rates
from rtl.tuning.trial.process import TrialSetup
from tests.conftest import Searched, make_dataset


def never(*_: Any) -> Rates:
    pytest.fail("it measures")


def test_a_minute_is_the_probe_alone_which_is_solved_scored_and_registered_once(
    tmp_path: Path, ray_cluster: None
) -> None:
    make_dataset(f"{tmp_path}/data")
    settings = loading.load().replace(
        name="quick",
        register_as="cells",
        storage=f"{tmp_path}/root",
        data={"uri": f"{tmp_path}/data", "image_size": 80, "framing": "crop"},
        features={"cache": "off"},
        search={"unfrozen_layers": [1], "budget_minutes": 1.0},
    )
    said: list[str] = []
    counted: list[tuple[int, int]] = []
    stages: list[str] = []
    answered: list[int] = []
    uri = run.locate(settings)

    def die(found: Sequence[Trial]) -> None:
        if found and found[0].state == "finished":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        search.search(
            settings, probe=lambda *count: counted.append(count), watch=die,
            on_stage=stages.append, measure_rates=never,
        )  # fmt: skip
    rows = load_manifest(f"{tmp_path}/data").rows("train")  # a minute is for one view
    assert counted == sorted(counted)
    assert counted[-1] == (rows, rows)
    assert stages == ["Solving the probe"]
    assert registry.versions(settings.storage, "cells") == []
    (known,) = trials.recorded(uri)
    assert known == first_answer.find([known])
    # It goes on where it was.
    with pytest.raises(RunExistsError, match=r"register_as was 'cells', is 'others'"):
        search.search(settings.replace(register_as="others"), resume=True)
    stages.clear()
    result = search.search(
        settings, print_line=said.append, on_stage=stages.append, measure_rates=never, resume=True,
        on_first_answer=answered.append,
    )  # fmt: skip
    assert (stages, answered) == ([], [1])
    assert said[0].startswith("First answer after ")
    assert said[0].endswith(f"Serve it meanwhile: rtl serve cells@1 --storage {settings.storage}")
    assert (result.name, result.model) == ("quick", "cells@1")
    assert (result.unfrozen_layers, result.lr) == (0, 0.0)
    assert result.val.accuracy.value == known.score
    info = bundle.verify(registry.resolve(settings.storage, "cells@1"))
    assert result.test is not None
    assert info.name == "cells"
    assert info.unfrozen_layers == 0
    assert info.metrics == {"val": result.val.to_dict(), "test": result.test.to_dict()}
    assert trials.recorded(uri) == [known]
    assert storage.read_json(storage.join(uri, "search.json"))["winner"] == 0
    assert registry.versions(settings.storage, "cells") == [1]
    assert [row.bundle for row in listing.listing(settings.storage)] == ["cells@1"]


def test_an_attempt_that_registered_and_could_not_write_it_down_is_recognised(
    searched: Searched,
) -> None:
    setup = TrialSetup(searched.settings, searched.uri, FeaturePlan())
    root, name = searched.settings.storage, searched.settings.registered_name
    before = registry.versions(root, name)
    assert first_answer.register(setup) is None
    storage.delete(storage.join(first_answer.folder(searched.uri), "registered.json"))
    assert first_answer.register(setup) == 1
    assert first_answer.register(setup) is None
    assert registry.versions(root, name) == before
    first = bundle.verify(registry.resolve(root, f"{name}@1"))
    assert (first.unfrozen_layers, first.metrics["test"]) == (0, None)
    assert first.metrics["val"] is not None
