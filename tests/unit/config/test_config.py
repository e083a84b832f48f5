from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pydantic
import pytest

from rtl.config import loading, schema, search_space, tree
from rtl.config.schema import DataConfig
from rtl.config.tree import Config
from rtl.errors import BundleError, ConfigError
from rtl.model import registry
from tests.support.yaml_texts import ODD_TEXTS


def test_the_defaults_are_a_valid_config() -> None:
    assert loading.load() == Config() == tree.from_dict({})


@pytest.mark.parametrize("content", ["", "# every key is a comment\n", "{}"])
def test_an_empty_recipe_is_the_defaults(tmp_path: Path, content: str) -> None:
    assert loading.load(_recipe(tmp_path, content)) == Config()


def test_a_recipe_goes_over_the_defaults_and_overrides_over_the_recipe(tmp_path: Path) -> None:
    recipe = _recipe(tmp_path, "train: {epochs: 3, batch_size: 16}\n")
    loaded = loading.load(recipe, ["train.epochs=5", "train.epochs=6", "data.augment.jitter=0"])
    assert loaded.train == Config().train.model_copy(update={"epochs": 6, "batch_size": 16})
    assert loaded.data.augment.jitter == 0
    assert loaded.model == Config().model


def test_yaml_and_dict_are_read_back_to_an_equal_config(tmp_path: Path) -> None:
    changed = loading.load(
        overrides=[
            "name=cells-2", "storage=s3://rtl/a", "features.cache=off", "optimizer.lr=3e-5",
            "search.unfrozen_layers=[0, 16]", "train.patience=2", "data.augment.min_scale=1",
        ]
    )  # fmt: skip
    assert loading.load(_recipe(tmp_path, loading.to_yaml(changed))) == changed
    assert tree.from_dict(changed.to_dict()) == changed


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("optimizer.lr=1e-3", 1e-3),
        ("optimizer.lr=1E-3", 1e-3),
        ("optimizer.lr=1.e-3", 1e-3),
        ("optimizer.lr=.5e-3", 5e-4),
        ("optimizer.lr=0.002", 2e-3),
        ("optimizer.lr=1", 1.0),
        ("features.cache=on", "on"),
        ("features.cache=off", "off"),
        ("name=2026-11-24", "2026-11-24"),
        ("name=e3", "e3"),
        ("name=010", "010"),
        ("name=true", "true"),
        ("name=", None),
        ("name=null", None),
        ("search.trials=010", 10),
        ("search.trials=0o10", 8),
        ("search.trials=0x10", 16),
        ("pack.label_column='label'", "'label'"),
        ("pack.label_column= a: [b] # c ", " a: [b] # c "),
        ("data.uri=/data/My Photos #2", "/data/My Photos #2"),
        ("data={uri: 010, image_size: 0o454}", DataConfig(uri="010", image_size=300)),
        ("train.cpus_per_worker=null", None),
        ("data.augment.vertical_flip=true", True),
        ("search.unfrozen_layers=[1]", (1,)),
        ("data.uri=s3://bucket/a=b", "s3://bucket/a=b"),
        (" train.epochs = 4", 4),
    ],
)
def test_a_value_is_text_as_it_stands_or_yaml_1_2(override: str, expected: Any) -> None:
    value: Any = loading.load(overrides=[override])
    for part in override.partition("=")[0].strip().split("."):
        value = getattr(value, part)
    assert value == expected
    assert type(value) is type(expected)


@pytest.mark.parametrize(
    ("unknown", "nearest"),
    [
        ("train.epoch", "train.epochs"),
        ("serch.trials", "search"),
        ("lr", "optimizer.lr"),
        ("unfrozen_layers", "model.unfrozen_layers"),
        ("data.augment.jiter", "data.augment.jitter"),
        ("model.unfrozen_layer", "model.unfrozen_layers"),
    ],
)
def test_an_unknown_key_names_the_nearest_one(unknown: str, nearest: str) -> None:
    key = unknown if unknown != "serch.trials" else "serch"
    rule = f"{key} is not a key of the config; the nearest is {nearest}. `rtl config` lists them"
    with pytest.raises(ConfigError, match=f"^{re.escape(rule)}"):
        loading.load(overrides=[f"{unknown}=1"])


def test_a_run_registers_under_its_name_or_another_that_a_registry_takes() -> None:
    assert loading.load(overrides=["name=a"]).registered_name == "a"
    assert loading.load(overrides=["name=a", "register_as=b"]).registered_name == "b"
    for name in ("b c", "-b", "b/c", "b@2", "", "x" * 64):
        with pytest.raises(ConfigError, match="register_as is"):
            Config(name="a").at({"register_as": name})
        with pytest.raises(BundleError, match="cannot be a model's name"):
            registry.versions("nowhere", name)


def test_an_unknown_key_with_nothing_near_names_no_other() -> None:
    with pytest.raises(ConfigError, match=r"^xyzzy is not a key of the config\. `rtl config`"):
        loading.load(overrides=["xyzzy=1"])


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.epochs=many", "train.epochs is 'many': input should be a valid integer."),
        ("train.epochs=1.5", "train.epochs is 1.5: input should be a valid integer."),
        ("train.epochs=true", "train.epochs is True: input should be a valid integer."),
        ("train.epochs='2'", "train.epochs is '2': input should be a valid integer."),
        ("train.epochs=0", "train.epochs is 0: input should be greater than or equal to 1."),
        ("train.epochs=null", "train.epochs is None: input should be a valid integer."),
        ("train=3", "train is 3: input should be an object."),
        ("optimizer.lr=.nan", "optimizer.lr is '.nan': input should be a valid number."),
        ("optimizer.lr=.inf", "optimizer.lr is '.inf': input should be a valid number."),
        ("optimizer.lr=1e999", "optimizer.lr is inf: input should be a finite number."),
        ("train.minutes=1:30", "train.minutes is '1:30': input should be a valid number."),
        ("search.trials=1_000", "search.trials is '1_000': input should be a valid integer."),
        ("data.augment.vertical_flip=yes", "data.augment.vertical_flip is 'yes': input should be"),
        ("storage=null", "storage is None: input should be a valid string."),
        ("storage=", "storage is None: input should be a valid string."),
        ('name="cells"', "name is '\"cells\"': string should match pattern"),
        ("data.uri=/data/\udcff", "'/data/\\udcff' is not UTF-8; rename the file or folder."),
        ("model.unfrozen_layers=17", "model.unfrozen_layers is 17: input should be less than or"),
        ("model.precision=fp8", "model.precision is 'fp8': input should be 'auto', 'fp32', 'bf16'"),
        ("search.unfrozen_layers=[0, a]", "search.unfrozen_layers.1 is 'a': input should be a"),
        ("name=../other", "name is '../other': string should match pattern"),
    ],
)
def test_an_ill_typed_value_is_refused_with_key_value_and_rule(override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=f"^{re.escape(message)}"):
        loading.load(overrides=[override])


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["train.workers=3"], "train.batch_size 32 is not divisible by train.workers 3"),
        (["train.workers=0"], "train.workers is 0: input should be greater than or equal to 1"),
        (
            ["train.workers={min: 2, max: 6}"],
            "train.batch_size 32 is not divisible by",
        ),
        (["train.workers={min: 8, max: 2}"], "train.workers: min 8 is above max 2; swap them"),
        (["train.workers={min: 2}"], "train.workers.max is {'min': 2}: field required"),
        (["search.unfrozen_layers=[]"], "search: unfrozen_layers is []; give at least one depth"),
        (["search.unfrozen_layers=[2,17]"], "search: unfrozen_layers is [2, 17]; give at least"),
        (["search.lr={min: 0.1, max: 0.01}"], "search.lr: min 0.1 is above max 0.01; swap them."),
        (["search.lr={min: 0, max: 0.01}"], "search.lr: min is 0; a log range lies above 0"),
        (["search.lr=[]"], "search.lr is []: tuple should have at least 1 item"),
        (["search.lr=[0.001, big]"], "search: lr is [0.001, 'big']; learning rates are"),
        (["search.sampler=grid"], "search: sampler is grid and lr is a range; give a list"),
        (["search.space={optimizer.lr: [1]}"], "search.space holds optimizer.lr; set search.lr"),
        (["search.space={train.no: [1]}"], "search.space holds train.no, which is no key of a"),
        (
            ["search.space={model.precision: [fp32, bf16]}"],
            "search.space holds model.precision, but the frozen trunk's features are computed in",
        ),
        (
            ["search.space={train.gpus_per_worker: [0, 1]}"],
            "search.space holds train.gpus_per_worker, but the frozen trunk's features are those",
        ),
        (
            ["search.space={train.workers: [1, 2]}"],
            "search.space holds train.workers, but all trials hold the same workers; set train.",
        ),
        (
            ["search.space={train.cpus_per_worker: [1, 2]}"],
            "search.space holds train.cpus_per_worker, but all trials hold the same CPUs",
        ),
        (
            ["search.space={train.max_failures: [0, 1]}"],
            "search.space holds train.max_failures, but a trial's lost worker ends the trial",
        ),
        (
            ["search.space={train.seed: [0, 1]}"],
            "search.space holds train.seed, but search.seeds fits the finalists with further",
        ),
        (
            ["search.space={train.metric: [accuracy, auc]}"],
            "search.space holds train.metric, but scores of different kinds cannot be compared",
        ),
        (
            ["search.space={train.epochs: [4, 8]}", "search.budget_minutes=30"],
            "search.space holds train.epochs, which search.budget_minutes sets; leave one out",
        ),
        (
            ["search.space={train.epochs: [0]}"],
            "train.epochs is 0: input should be greater than",
        ),
        (
            ["pack.val_fraction=0.5", "pack.test_fraction=0.5"],
            "pack: val_fraction 0.5 and test_fraction 0.5 leave nothing to train on",
        ),
    ],
)
def test_values_that_do_not_go_together_are_refused(overrides: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=f"^{re.escape(message)}"):
        loading.load(overrides=overrides)


def test_every_wrong_key_is_told_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        loading.load(overrides=["train.epochs=0", "serve.port=70000"])
    assert [line.split()[0] for line in str(caught.value).splitlines()] == [
        "train.epochs",
        "serve.port",
    ]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"- train\n", "holds a list; it must map sections to keys"),
        (b"train\n", "holds a str; it must map"),
        (b"train: {epochs: 3\n", ", line 2, column 1: not valid YAML, expected ',' or '}', but"),
        (b"\nname: \xff\xfe\n", ", line 2, column 7: not UTF-8 text; save it as UTF-8."),
        (b"train: {epochs: many}", ", line 1, column 17: train.epochs is 'many': input should be"),
        (b"\ntrain:\n  epoch: 3", ", line 3, column 10: train.epoch is not a key of the config;"),
        (
            b"search:\n  unfrozen_layers:\n  - 0\n  - a\n",
            ", line 4, column 5: search.unfrozen_layers.1 is 'a': input should be",
        ),
        (
            b"train.epochs: 3",
            ", line 1, column 15: train.epochs must be nested: write `train: {epo",
        ),
        (
            b"data: {augment.jitter: 0.1}",
            ", line 1, column 24: data.augment.jitter is not a key of the config; the nearest is",
        ),
    ],
)
def test_a_recipe_that_is_none_is_named(tmp_path: Path, content: bytes, message: str) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        loading.load(recipe)
    said = str(caught.value).removeprefix(f"The recipe {recipe}").lstrip(" ")
    assert said.startswith(message)
    assert said.endswith(".")
    assert not said.endswith("..")
    assert "\n" not in said


def test_a_recipe_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere\.yaml cannot be read: No such file"):
        loading.load(tmp_path / "nowhere.yaml")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.epochs", "--set 'train.epochs' is not of the form section.key=value."),
        ("=3", "--set '=3' is not of the form section.key=value."),
        (
            "train.epochs=[",
            "--set 'train.epochs=[', line 1, column 2: not valid YAML, expected the node content, "
            "but found the end while parsing a flow node.",
        ),
    ],
)
def test_an_override_that_cannot_be_read_is_quoted(override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=f"^{re.escape(message)}"):
        loading.load(overrides=[override])


def test_an_override_below_a_value_of_the_recipe_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"--set train\.epochs: train is 3; it must map"):
        loading.load(_recipe(tmp_path, "train: 3"), ["train.epochs=2"])


def test_replace_changes_the_named_keys_alone_and_checks_them() -> None:
    before = loading.load(overrides=["data.augment.vertical_flip=true", "train.epochs=2"])
    after = before.replace(data={"augment": {"jitter": 0.0}}, name="b")
    assert after.to_dict() == {
        **before.to_dict(),
        "name": "b",
        "data": {
            **before.data.model_dump(),
            "augment": {**before.data.augment.model_dump(), "jitter": 0.0},
        },
    }
    with pytest.raises(ConfigError, match=r"train\.epochs is 0"):
        before.replace(train={"epochs": 0})
    with pytest.raises(ConfigError, match="modle is not a key of the config; the nearest is model"):
        before.replace(modle={"unfrozen_layers": 2})


@pytest.mark.parametrize(("section", "key"), [(None, "name"), ("train", "epochs")])
def test_a_config_is_frozen(section: str | None, key: str) -> None:
    loaded = Config()
    with pytest.raises(pydantic.ValidationError, match="frozen"):
        setattr(getattr(loaded, section) if section else loaded, key, 3)


def test_every_key_says_what_it_does() -> None:
    for section in (Config, *schema.Section.__subclasses__()):
        assert section.__doc__
        assert [n for n, field in section.model_fields.items() if not field.description] == []


def test_text_of_a_recipe_is_taken_as_it_stands(tmp_path: Path) -> None:
    text = "name: 2026\nstorage: 1:30\ndata: {uri: 010}\nsearch: {trials: 010, currency: ~}\n"
    with pytest.raises(ConfigError, match=r"column 33: search\.currency is None"):
        loading.load(_recipe(tmp_path, text))
    loaded = loading.load(_recipe(tmp_path, text.replace("~", "off")))
    assert (loaded.name, loaded.storage, loaded.data.uri) == ("2026", "1:30", "010")
    assert (loaded.search.trials, loaded.search.currency) == (10, "off")


def test_the_message_for_a_flat_key_shows_a_recipe_that_is_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        loading.load(_recipe(tmp_path, "data.augment.jitter: 0.3\n"))
    shown = str(caught.value).split("`")[1]
    assert loading.load(_recipe(tmp_path, shown)).data.augment.jitter == 0.3


def test_an_override_is_not_blamed_on_the_recipes_line(tmp_path: Path) -> None:
    recipe = _recipe(tmp_path, "train:\n  epochs: 3\n")
    for override in ("train.epochs=0", "train={epochs: 0}"):
        with pytest.raises(ConfigError, match=r"^train\.epochs is 0"):
            loading.load(recipe, [override])


@pytest.mark.parametrize("comments", [False, True])
def test_every_text_is_written_so_that_it_is_read_back(tmp_path: Path, comments: bool) -> None:
    for text in ODD_TEXTS:
        written = Config().replace(
            storage=text, pack={"label_column": text}, search={"currency": text}
        )
        recipe = _recipe(tmp_path, loading.to_yaml(written, comments=comments))
        assert loading.load(recipe) == written, repr(text)


def test_the_comments_are_the_keys_docstrings_and_lines_are_short() -> None:
    printed = loading.to_yaml(Config(), comments=True)
    told = " ".join(line.strip(" #") for line in printed.splitlines() if line.lstrip()[:1] == "#")
    for section in (Config, *schema.Section.__subclasses__()):
        if section.__module__.startswith("rtl.config.") and section not in (
            search_space.Range,
            schema.WorkerRange,
        ):
            for name, field in section.model_fields.items():
                assert " ".join(str(field.description).split()) in told, name
    assert "Values: accuracy, macro_f1, auc." in told
    assert max(map(len, printed.splitlines())) <= 90
    plain = [line for line in printed.splitlines() if line.strip() and line.lstrip()[0] != "#"]
    assert plain == loading.to_yaml(Config()).splitlines()


@pytest.mark.parametrize(
    ("only", "kept"),
    [
        ("search", {"search"}),
        ("search.lr", {"search.lr"}),
        ("data.augment", {"data.augment"}),
        ("name", {"name"}),
    ],
)
def test_a_part_is_printed_as_a_recipe(tmp_path: Path, only: str, kept: set[str]) -> None:
    changes = [
        "name=cells", "search.trials=3", "search.lr=[0.1]", "data.augment.jitter=0",
        "data.image_size=200",
    ]  # fmt: skip
    settings = loading.load(overrides=changes)
    loaded = loading.load(_recipe(tmp_path, loading.to_yaml(settings, only, comments=True)))
    expected = [c for c in changes if any(f"{c.split('=')[0]}.".startswith(f"{k}.") for k in kept)]
    assert expected
    assert loaded == loading.load(overrides=expected)


@pytest.mark.parametrize(
    ("only", "nearest"),
    [("lr", "optimizer.lr"), ("serch", "search"), ("search.l", "search.lr"), ("sear", "search")],
)
def test_a_part_that_is_none_names_the_nearest(only: str, nearest: str) -> None:
    with pytest.raises(ConfigError, match=rf"^{only} is not a key .* the nearest is {nearest}\."):
        loading.to_yaml(Config(), only)


def _recipe(folder: Path, content: str) -> Path:
    path = folder / "recipe.yaml"
    path.write_text(content, encoding="utf-8")
    return path
