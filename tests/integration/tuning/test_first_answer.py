"""The probe of a search: solved and registered before anything is fine-tuned, and once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from rtl import storage
from rtl.config import loading
from rtl.feature_extraction.cache import FeaturePlan
from rtl.model import bundle, registry
from rtl.runs import run, trials
from rtl.tuning import first_answer, search
from rtl.tuning.throughput import Rates
from rtl.tuning.trial.process import TrialSetup
from tests.conftest import make_dataset


def never(*_: Any) -> Rates:
    pytest.fail("it measures")


def test_a_minute_is_the_probe_alone_which_is_solved_and_registered_once(
    tmp_path: Path, ray_cluster: None
) -> None:
    make_dataset(f"{tmp_path}/data")
    settings = loading.load().replace(
        name="quick",
        register_as="cells",
        storage=f"{tmp_path}/root",
        data={"uri": f"{tmp_path}/data", "image_size": 80, "framing": "crop"},
        search={"unfrozen_layers": [1], "budget_minutes": 1.0},
    )
    said: list[str] = []
    stages: list[str] = []

    def die(stage: str) -> None:
        stages.append(stage)
        if stage.startswith("Scoring"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        search.search(settings, print_line=said.append, on_stage=die, measure_rates=never)
    assert stages == ["Solving the probe", "Scoring the winner on val and test"]
    assert len(said) == 1
    assert said[0].startswith("First answer after ")
    assert said[0].endswith(f"Serve it meanwhile: rtl serve cells@1 --storage {settings.storage}")
    uri = run.locate(settings)
    first = bundle.verify(registry.resolve(settings.storage, "cells@1"))
    assert (first.unfrozen_layers, first.metrics["test"]) == (0, None)
    assert first.metrics["val"] is not None
    (known,) = trials.recorded(uri)
    assert known == first_answer.find([known])
    # It goes on where it was.
    said.clear()
    stages.clear()
    result = search.search(
        settings, print_line=said.append, on_stage=stages.append, measure_rates=never, resume=True
    )
    assert (stages, said) == (["Scoring the winner on val and test"], [])
    assert (result.name, result.model) == ("quick", "cells@2")
    assert (result.unfrozen_layers, result.lr) == (0, 0.0)
    assert result.val.accuracy.value == known.score
    last = bundle.verify(registry.resolve(settings.storage, "cells@2"))
    assert result.test is not None
    assert last.metrics["test"] == result.test.to_dict()
    assert last.metrics["val"] == first.metrics["val"]
    assert trials.recorded(uri) == [known]
    assert storage.read_json(storage.join(uri, "search.json"))["winner"] == 0
    assert registry.versions(settings.storage, "cells") == [1, 2]
    # An attempt that died after it registered, before it wrote that down, is recognised.
    setup = TrialSetup(settings, uri, FeaturePlan())
    assert first_answer.register(setup) is None
    storage.delete(storage.join(first_answer.folder(uri), "registered.json"))
    assert first_answer.register(setup) == 1
    assert first_answer.register(setup) is None
    assert registry.versions(settings.storage, "cells") == [1, 2]
