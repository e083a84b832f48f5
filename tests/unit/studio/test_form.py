"""The form of a search: its fields are the config's keys, its values texts that `--set` takes."""

from __future__ import annotations

from typing import Any

import pytest

from rtl.config import loading
from rtl.config.tree import Config
from rtl.errors import ConfigError
from rtl.studio.runs import form

FIELDS = {field.key: field for field in form.form(Config()).fields}


def test_fields_are_all_keys_that_a_search_has() -> None:
    tree = Config().to_dict()
    for section in ("storage", "pack", "serve"):
        del tree[section]

    def keys(below: dict[str, Any], prefix: str = "") -> set[str]:
        known = {f"{prefix}{k}" for k in below} & set(FIELDS)
        nested = [(f"{prefix}{k}.", v) for k, v in below.items() if f"{prefix}{k}" not in known]
        return known.union(*(keys(value, start) for start, value in nested))

    assert keys(tree) == set(FIELDS)
    assert set(form.COMMON) <= set(FIELDS)


def test_fields_know_kind_default_limits_and_docs() -> None:
    trials = FIELDS["search.trials"]
    assert (trials.kind, trials.value, trials.limits, trials.optional) == (
        "integer", "8", "from 1", False,
    )  # fmt: skip
    budget = FIELDS["search.budget_minutes"]
    assert (budget.kind, budget.value, budget.limits, budget.optional) == (
        "number", "", "above 0", True,
    )  # fmt: skip
    assert FIELDS["train.metric"].choices == ("accuracy", "macro_f1", "auc")
    assert FIELDS["data.augment.vertical_flip"].kind == "boolean"
    assert FIELDS["data.uri"].kind == "text"
    assert FIELDS["search.lr"].kind == FIELDS["train.workers"].kind == "values"
    assert FIELDS["model.dropout"].limits == "from 0 below 1"
    assert all(field.about.endswith(".") for field in FIELDS.values())
    assert all(form.form(Config()).sections.values())


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"name": "010", "data": {"uri": '/data/It\'s #2: "my" <photos>'}},
        {"train": {"checkpoint_minutes": None, "workers": {"min": 1, "max": 4}, "seed": 7}},
        {"search": {"lr": [0.001, 0.0001], "unfrozen_layers": [0], "scheduler": "none"}},
        {"search": {"space": {"optimizer.weight_decay": [0, 0.01]}, "currency": "null "}},
        {"features": {"cache": "off"}, "serve": {"cors_origins": ["https://a.example"]}},
    ],
)
def test_overrides_give_the_same_config(changes: dict[str, Any]) -> None:
    config = Config().replace(**changes)
    assert loading.load(None, form.overrides(config)) == config


def test_overrides_hold_only_what_differs() -> None:
    assert form.overrides(Config()) == []
    assert form.overrides(Config().replace(search={"trials": 3})) == ["search.trials=3"]


def test_values_go_upon_the_studio_s_own() -> None:
    base = Config().replace(train={"epochs": 3, "seed": 5})
    found = form.configure(base, {"train.epochs": "4", "train.patience": "", "name": "solar"})
    assert (found.train.epochs, found.train.seed, found.train.patience) == (4, 5, None)
    assert found.name == "solar"


@pytest.mark.parametrize(
    ("values", "key", "word"),
    [
        ({"search.trials": "0"}, "search.trials", "greater than or equal to 1"),
        ({"search.trials": "many"}, "search.trials", "'many'"),
        ({"search.unfrozen_layers": "[1, 17]"}, "search.unfrozen_layers", "from 0 to 16"),
        ({"search.unfrozen_layers": "[1"}, "search.unfrozen_layers", "--set"),
        ({"name": "<b>"}, "name", "'<b>'"),
        ({"train.batch_size": "7", "train.workers": "2"}, "train.batch_size", "not divisible"),
        ({"no.such": "1"}, "", "not a key"),
    ],
)
def test_errors_stand_at_their_field(values: dict[str, str], key: str, word: str) -> None:
    found = form.errors(Config(), values)
    assert list(found) == [key]
    assert word in found[key]
    with pytest.raises(ConfigError):
        form.configure(Config(), values)


def test_each_error_has_its_own_field() -> None:
    found = form.errors(Config(), {"search.trials": "0", "model.dropout": "2", "train.seed": "1"})
    assert set(found) == {"search.trials", "model.dropout"}
