"""The typed config tree: all sections together, validated, changed, and as plain values.

Unknown and ill-typed keys are refused with the nearest key that exists. Everything is frozen: a
run's config is what it was started with. `schema` has the keys; `loading` reads YAML.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Collection, Mapping
from types import MappingProxyType
from typing import Any

import pydantic
from pydantic import Field

from rtl.config.schema import (
    DataConfig,
    FeaturesConfig,
    ModelConfig,
    OptimizerConfig,
    PackConfig,
    Section,
    ServeConfig,
    TrackConfig,
    TrainConfig,
)
from rtl.config.search_space import Range, SearchConfig
from rtl.errors import ConfigError, reason

_NOT_SEARCHED = {
    "model.precision": "the frozen trunk's features are computed in one precision for all trials",
    "train.gpus_per_worker": "the frozen trunk's features are those of one device for all trials",
    "train.workers": "all trials hold the same workers",
    "train.cpus_per_worker": "all trials hold the same CPUs",
    "train.max_failures": "a trial's lost worker ends the trial",
    "train.max_preemption_failures": "a trial is not resumed within its fit",
    "train.seed": "search.seeds fits the finalists with further seeds",
    "train.metric": "scores of different kinds cannot be compared",
}
"""Keys of a fit that all trials share, and why."""

_OF_A_BUDGET = ("train.epochs", "train.rows", "train.minutes", "train.flip_features")
"""Keys of a fit that a time budget sets."""


_NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$"


class Config(Section):
    """Everything that decides a result."""

    name: str | None = Field(default=None, pattern=_NAME)
    """Name of the run, and of its models in the registry where `register_as` is null."""
    register_as: str | None = Field(default=None, pattern=_NAME)
    """Name in the registry under which a run registers its models as the next versions; null takes
    the run's name."""
    storage: str = "rtl-data"
    """Folder or `s3://` prefix under which runs, features and the registry live."""
    pack: PackConfig = PackConfig()
    """Packing: from a source of labelled images to shards (`rtl pack`)."""
    data: DataConfig = DataConfig()
    """The data set and the random changes of its training images."""
    features: FeaturesConfig = FeaturesConfig()
    """The cache of the frozen trunk's output."""
    model: ModelConfig = ModelConfig()
    """The network and how much of it trains."""
    optimizer: OptimizerConfig = OptimizerConfig()
    """AdamW with a linear warm-up and a cosine decay to zero."""
    train: TrainConfig = TrainConfig()
    """Training of one model."""
    search: SearchConfig = SearchConfig()
    """The search over depths, learning rates and further keys (`rtl search`)."""
    serve: ServeConfig = ServeConfig()
    """The HTTP endpoint (`rtl serve`)."""
    track: TrackConfig = TrackConfig()
    """MLflow, where finished runs are logged too."""

    @property
    def registered_name(self) -> str:
        """Name of the run's models in the registry."""
        return str(self.register_as or self.name)

    @pydantic.model_validator(mode="after")
    def _check(self) -> Config:
        for workers in (self.train.fewest_workers, self.train.most_workers):
            if self.train.batch_size % workers:
                raise ValueError(
                    f"train.batch_size {self.train.batch_size} is not divisible by train.workers "
                    f"{workers}; every worker takes an equal part of the batch"
                )
        if self.model.precision == "fp16" and not self.train.gpus_per_worker:
            raise ValueError(
                "model.precision is fp16 and train.gpus_per_worker is 0; it is for GPUs alone: set "
                "train.gpus_per_worker=1, or model.precision=auto"
            )
        if self.train.compile and not self.train.gpus_per_worker:
            raise ValueError(
                "train.compile is set and train.gpus_per_worker is 0; it is for GPUs alone: set "
                "train.gpus_per_worker=1, or leave it out"
            )
        if self.train.compile and self.train.minutes:
            raise ValueError(
                "train.compile and train.minutes are set; epochs are planned by the first one's "
                "time, which compiling would distort: set train.epochs alone"
            )
        if self.model.batch_norm == "train":
            for key, used in (
                ("accumulate", self.train.accumulate > 1),
                ("activation_checkpointing", self.train.activation_checkpointing),
            ):
                if used:
                    raise ValueError(
                        f"train.{key} is set and model.batch_norm is train, whose statistics would "
                        "be those of other rows, or count twice; set model.batch_norm to frozen"
                    )
        for key, values in self.search.space.items():
            fixed = ("search.", "features.", "data.", "pack.", "serve.", "track.", "model.weights")
            if key in ("model.unfrozen_layers", "optimizer.lr"):
                raise ValueError(
                    f"search.space holds {key}; set search.{key.split('.')[1]} instead"
                )
            if key not in _keys(Config) or "." not in key or key.startswith(fixed):
                raise ValueError(f"search.space holds {key}, which is no key of a fit")
            if key in _NOT_SEARCHED:
                raise ValueError(
                    f"search.space holds {key}, but {_NOT_SEARCHED[key]}; set {key} alone"
                )
            if key in _OF_A_BUDGET and self.search.budget_minutes:
                raise ValueError(
                    f"search.space holds {key}, which search.budget_minutes sets; leave one out"
                )
            section, name = key.split(".")
            ends: Any = (values.min, values.max) if isinstance(values, Range) else values
            whole = isinstance(values, Range) and isinstance(self.get(key), int)
            for value in ends:  # its own rule refuses a bad one, by its own name
                from_dict({section: {name: int(value) if whole else value}})
        return self

    def at(self, point: Mapping[str, Any]) -> Config:
        """A copy with dotted keys replaced, validated: `at({"optimizer.lr": 0.01})`."""
        tree = self.to_dict()
        for key, value in point.items():
            assign(tree, key, value=value)
        return from_dict(tree)

    def get(self, key: str) -> Any:
        """The value of a dotted key."""
        value: Any = self
        for part in key.split("."):
            value = getattr(value, part)
        return value

    def replace(self, **sections: dict[str, Any] | str | None) -> Config:
        """A copy with keys replaced, validated: `replace(model={"unfrozen_layers": 2})`."""
        return from_dict(_merge(self.to_dict(), sections))

    def to_dict(self) -> dict[str, Any]:
        """The tree as plain JSON values; `from_dict` is the inverse."""
        return self.model_dump(mode="json")


def from_dict(tree: dict[str, Any], places: Mapping[str, str] = MappingProxyType({})) -> Config:
    """A `Config` from plain values. Raises ConfigError for a key or value that is not allowed.

    `places` says of dotted keys where they stand, such as a recipe's line; errors begin with it.
    """
    try:
        encoded = json.dumps(tree, ensure_ascii=False).encode()
        return Config.model_validate_json(encoded, strict=True)
    except TypeError as error:
        raise ConfigError(
            f"The config holds more than text, numbers and lists: {reason(error)}."
        ) from None
    except UnicodeEncodeError as error:
        before, after = error.object[: error.start], error.object[error.start :]
        text = before.rpartition('"')[2] + after.partition('"')[0]
        raise ConfigError(f"{text!r} is not UTF-8; rename the file or folder.") from None
    except pydantic.ValidationError as error:
        raise ConfigError("\n".join(_explain(e, places) for e in error.errors())) from None


def assign(tree: dict[str, Any], key: str, *, value: Any, source: str = "") -> None:
    """Sets a dotted key of a tree of plain values; sections that are missing are made.

    Raises ConfigError, which begins with `source` and the key, where a section is a value.
    """
    *path, name = key.split(".")
    section = tree
    for depth, part in enumerate(path, 1):
        below = section.setdefault(part, {})
        if not isinstance(below, dict):
            raise ConfigError(
                f"{source}{key}: {'.'.join(path[:depth])} is {below!r}; it must map keys to values."
            )
        section = below
    section[name] = value


def check_key(key: str) -> None:
    """Raises ConfigError, with the nearest, for what is neither a section nor a key."""
    if not any(f"{known}.".startswith(f"{key}.") for known in _keys(Config)):
        raise ConfigError(_unknown(key))


def _merge(tree: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    merged = dict(tree)
    for key, value in changes.items():
        below = merged.get(key)
        if isinstance(below, dict) and isinstance(value, dict):
            value = _merge(below, value)
        merged[key] = value
    return merged


def _keys(
    section: type[pydantic.BaseModel], prefix: str = "", *, of: Collection[Any] = ()
) -> list[str]:
    """All dotted keys, or those whose type is one of `of`."""
    keys: list[str] = []
    for name, field in section.model_fields.items():
        annotation = field.annotation
        if isinstance(annotation, type) and issubclass(annotation, pydantic.BaseModel):
            keys += _keys(annotation, f"{prefix}{name}.", of=of)
        elif not of or annotation in of:
            keys.append(prefix + name)
    return keys


TEXT_KEYS = frozenset(_keys(Config, of=(str, str | None)))
"""Keys whose value is any text."""


def _explain(error: Any, places: Mapping[str, str]) -> str:
    path = [str(part) for part in error["loc"] if part not in ("range", "list", "number")]
    key = ".".join(path)
    message = error["msg"].removeprefix("Value error, ")
    if error["type"] == "value_error":  # of a whole section: the message names the keys
        return f"{key}: {message}." if key else f"{message}."
    place = f"{places[key]}: " if key in places else ""
    if error["type"] == "extra_forbidden":
        if key in _keys(Config) and key in path:
            return f"{place}{key} must be nested: write `{_nested(key, error['input'])}`."
        return place + _unknown(key)
    return f"{place}{key} is {error['input']!r}: {message[0].lower()}{message[1:]}."


def _unknown(key: str) -> str:
    # The whole path first, then the last part anywhere in the tree: `lr` finds optimizer.lr.
    known = _keys(Config)
    near = difflib.get_close_matches(key, [*known, *Config.model_fields], n=1, cutoff=0.6)
    near = near or [k for k in known if k.split(".")[-1] == key.split(".")[-1]]
    hint = f"; the nearest is {near[0]}" if near else ""
    return f"{key or repr(key)} is not a key of the config{hint}. `rtl config` lists them all."


def _nested(key: str, value: Any) -> str:
    """`train: {epochs: 3}` of `train.epochs` and 3."""
    *sections, name = key.split(".")
    inner = f"{name}: {json.dumps(value)}"
    for section in reversed(sections):
        inner = f"{section}: {{{inner}}}"
    return inner
