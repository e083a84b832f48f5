"""The sections of the config: every key with its default, its rule and what it decides."""

from __future__ import annotations

from typing import Annotated, Literal
from urllib.parse import urlsplit

import pydantic
from pydantic import Field


class Section(pydantic.BaseModel):
    """Frozen, typed, its keys all known."""

    model_config = pydantic.ConfigDict(
        frozen=True,
        extra="forbid",
        strict=True,
        allow_inf_nan=False,
        use_attribute_docstrings=True,
    )


Flips = Literal["none", "horizontal", "both"]


class PackConfig(Section):
    """How a source becomes shards."""

    seed: int = Field(default=0, ge=0)
    """Decides the global shuffle and which rows of an unsplit source become val and test."""
    val_fraction: float = Field(default=0.15, ge=0, lt=1)
    """Share of the rows without a split that goes to `val`, drawn class by class."""
    test_fraction: float = Field(default=0.15, ge=0, lt=1)
    """Share of the rows without a split that goes to `test`, where the source has no test split."""
    shard_mb: float = Field(default=64.0, gt=0)
    """Aimed size of a shard in MB of encoded images."""
    min_shards: int = Field(default=4, ge=1)
    """Shards that the train split has at least, so that workers can share the reading."""
    max_quarantined: float = Field(default=0.05, ge=0, le=1)
    """Share of the rows that may be quarantined before packing fails."""
    max_pixels: int = Field(default=100_000_000, ge=1)
    """Width times height above which an image is quarantined undecoded."""
    image_column: str = "image"
    """The column of a table source with the path or URI of the image."""
    label_column: str = "label"
    """The column of a table source with the label."""
    split_column: str = "split"
    """The column of a table source with `train`, `val` or `test`, where it has one."""
    confidence_column: str | None = None
    """The column of a table source with the probability that the label is right: experts who agree
    2 to 1 give 0.67. Without one every label is certain."""

    @pydantic.model_validator(mode="after")
    def _check(self) -> PackConfig:
        if self.val_fraction + self.test_fraction >= 1:
            raise ValueError(
                f"val_fraction {self.val_fraction} and test_fraction {self.test_fraction} leave "
                "nothing to train on; their sum must be below 1"
            )
        return self


class AugmentConfig(Section):
    """The random part of a view; view 0 has none."""

    min_scale: float = Field(default=0.6, gt=0, le=1)
    """Smallest share of the image's area that a random crop keeps; 1 turns cropping off."""
    horizontal_flip: bool = True
    """Mirror left and right, in half of the views."""
    vertical_flip: bool = False
    """Mirror top and bottom, in half of the views; of both, each of the four ways comes in turn."""
    jitter: float = Field(default=0.1, ge=0, le=1)
    """Brightness and contrast change by up to this factor."""


class DataConfig(Section):
    """What is read and how it looks to the network."""

    uri: str | None = None
    """The packed data set: the folder or prefix that holds `manifest.json`."""
    image_size: int = Field(default=299, ge=75, le=1024)
    """Side in pixels of the square that the network sees; Inception V3 was trained at 299."""
    augment: AugmentConfig = AugmentConfig()
    """How the training views differ from the image."""
    seed: int = Field(default=0, ge=0)
    """Decides the views; fits of other seeds share them, and so their features."""


class FeaturesConfig(Section):
    """The cache of the frozen trunk's output."""

    cache: Literal["auto", "on", "off"] = "auto"
    """`auto` caches where it pays: when a view is used more than once, from Mixed_6a on."""
    views: int = Field(default=2, ge=1)
    """Views of each training image; epoch e trains on view e modulo `views`."""
    storage_mb_s: float = Field(default=200.0, gt=0)
    """Speed of the storage in MB a second, for `auto`'s cost model."""
    memory_gb: float = Field(default=3.0, gt=0)
    """A training process keeps its features in memory, compressed, up to this; else it streams."""


class ModelConfig(Section):
    """The network and how much of it trains."""

    weights: str = "packaged"
    """`packaged`, `imagenet`, or the path or URI of a torchvision state_dict or safetensors."""
    unfrozen_layers: int = Field(default=3, ge=0, le=16)
    """k: the head and the last k blocks train. 0 is a linear probe, 16 full fine-tuning."""
    dropout: float = Field(default=0.2, ge=0, lt=1)
    """Dropout before the classifier."""
    test_flips: Flips = "none"
    """Flips of an image that a finished model averages its probabilities over, itself included:
    `horizontal` takes 2 forward passes, `both` 4."""
    batch_norm: Literal["frozen", "train"] = "frozen"
    """Whether the tail's BatchNorm keeps the pretrained statistics or follows the batches: `train`
    needs two rows in a worker's part of a batch up to 106 pixels of `data.image_size`, so that a
    last row that would be alone is left out of its epoch."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """Arithmetic of the network; `auto` is bf16 where the device computes in it, else fp32."""


class OptimizerConfig(Section):
    """AdamW with a linear warm-up and a cosine to zero."""

    lr: float = Field(default=1e-3, gt=0)
    """Peak learning rate of the head."""
    tail_lr_factor: float = Field(default=0.33, gt=0, le=1)
    """The unfrozen blocks train at `lr` times this."""
    layer_decay: float = Field(default=1.0, gt=0, le=1)
    """Each block trains at the rate of the one after it times this (Howard and Ruder 2018)."""
    weight_decay: float = Field(default=1e-2, ge=0)
    """Decoupled weight decay on convolutions and the classifier, not on BatchNorm or biases."""
    warmup_fraction: float = Field(default=0.1, ge=0, lt=1)
    """Share of all steps over which the learning rate rises."""
    max_grad_norm: float = Field(default=5.0, gt=0)
    """The gradient's norm is clipped to this."""


class TrainConfig(Section):
    """One fit."""

    epochs: int = Field(default=8, ge=1)
    """Passes over the training rows, at most."""
    minutes: float | None = Field(default=None, gt=0)
    """That the epochs may take together: after each, as many more are planned as fit at the pace so
    far, the last one perhaps in part; one at least in all. null has them all."""
    rows: float = Field(default=1.0, gt=0, le=1)
    """Share of the training rows that the fit uses: the first of each shard, a random sample."""
    batch_size: int = Field(default=32, ge=2)
    """Rows in a step over all workers."""
    workers: int = Field(default=1, ge=1)
    """Training processes; the batch is divided among them."""
    cpus_per_worker: int | None = Field(default=None, ge=1)
    """Logical CPUs that each worker reserves; null shares out all that Ray Data does not need."""
    gpus_per_worker: int = Field(default=0, ge=0, le=1)
    """GPUs that each worker reserves: 0 trains on the CPU."""
    metric: Literal["accuracy", "macro_f1", "auc"] = "accuracy"
    """The `val` score that chooses the best epoch, and a search's winner."""
    label_smoothing: float = Field(default=0.05, ge=0, lt=1)
    """Probability taken from the true class and spread over all classes."""
    class_weights: Literal["none", "balanced"] = "none"
    """`balanced` weighs a row by the inverse of its class's share."""
    flip_features: Flips = "none"
    """From the second epoch on each step turns the trunk's output of each row at random, in one of
    the ways that `model.test_flips` names: views that cost no pass of the trunk."""
    mixup: float = Field(default=0.0, ge=0)
    """Mixes neighbours in a batch, by shares from Beta(mixup, mixup) (Zhang et al. 2018); 0: no."""
    ema: float = Field(default=0.0, ge=0, lt=1)
    """The model that is judged and kept has the moving average of the weights over the steps, with
    this decay: 0.98 takes the last 50 or so into account. 0 takes the last step's weights."""
    patience: int | None = Field(default=None, ge=1)
    """Epochs without a better `val` score after which training stops; null never stops early."""
    certain_accuracy: float = Field(default=0.95, gt=0, le=1)
    """Share of right answers on `val` among those that are not called uncertain."""
    seed: int = Field(default=0, ge=0)
    """Decides initial head, sample order and dropout."""
    max_failures: int = Field(default=3, ge=0)
    """Lost workers after which a fit gives up; each restart goes on from the last commit."""


class Range(Section):
    """Numbers between two ends, both included."""

    min: float
    """Lower end."""
    max: float
    """Upper end."""
    log: bool = True
    """Draw the logarithm uniformly, not the number."""

    @pydantic.model_validator(mode="after")
    def _check(self) -> Range:
        if self.min > self.max:
            raise ValueError(f"min {self.min:g} is above max {self.max:g}; swap them")
        if self.log and self.min <= 0:
            raise ValueError(f"min is {self.min:g}; a log range lies above 0, or set log: false")
        return self


Choices = Annotated[tuple[int | float | str | bool | None, ...], Field(min_length=1)]
Values = Annotated[
    Annotated[Range, pydantic.Tag("range")] | Annotated[Choices, pydantic.Tag("list")],
    pydantic.Discriminator(lambda value: "range" if isinstance(value, dict | Range) else "list"),
]
"""What a search draws a key's value from; the error of a bad one names only the form it has."""


class SearchConfig(Section):
    """The sweep over `model.unfrozen_layers`, `optimizer.lr` and what else is asked for."""

    unfrozen_layers: tuple[int, ...] = (0, 1, 2, 3)
    """The depths that are tried, each from 0 to 16."""
    lr: Values = Range(min=3e-4, max=3e-3)
    """Peak learning rates of the head: `{min, max}` or a list, the likeliest first: a grid tries it
    at all depths before the next, and ASHA compares what follows with it."""
    space: dict[str, Values] = {}
    """Further keys of the config, a range or a list each: `optimizer.weight_decay: [0, 0.01]`."""
    sampler: Literal["optuna", "grid"] = "optuna"
    """`grid` tries every combination of lists, `optuna` proposes `trials` points (TPE)."""
    trials: int = Field(default=8, ge=1)
    """Points that `optuna` proposes."""
    scheduler: Literal["asha", "none"] = "asha"
    """`asha` ends trials that fall behind (Li et al. 2020), `none` runs each to its last epoch."""
    grace_epochs: int = Field(default=2, ge=1)
    """Epochs that ASHA grants every trial."""
    reduction_factor: int = Field(default=3, ge=2)
    """ASHA lets the best one in this many go on at each rung."""
    finalists: int = Field(default=2, ge=1)
    """Points that are run again with other seeds; the best mean over seeds wins."""
    seeds: int = Field(default=1, ge=1)
    """Seeds of each finalist, its first fit's included; 1 runs none again. With a budget none
    is run again."""
    budget_minutes: float | None = Field(default=None, gt=0)
    """The search ends in this time, with less tried where it must; null takes what it takes."""
    concurrent: int | None = Field(default=None, ge=1)
    """Trials side by side; null takes as many as the cluster's CPUs or GPUs allow."""
    gpus_per_trial: float = Field(default=1.0, gt=0, le=1)
    """Share of a GPU that a trial holds, where `train.gpus_per_worker` is 1."""
    seed: int = Field(default=0, ge=0)
    """Decides which points are tried."""
    cpu_hour_price: float = Field(default=0.0, ge=0)
    """What an hour of one CPU costs, in `currency`; 0 leaves the cost out."""
    gpu_hour_price: float = Field(default=0.0, ge=0)
    """What an hour of one GPU costs."""
    currency: str = "$"
    """Shown before a cost."""

    @pydantic.model_validator(mode="after")
    def _check(self) -> SearchConfig:
        if not self.unfrozen_layers or not all(0 <= k <= 16 for k in self.unfrozen_layers):
            raise ValueError(
                f"unfrozen_layers is {list(self.unfrozen_layers)}; give at least one depth, "
                "each from 0 to 16"
            )
        rates = (self.lr.min,) if isinstance(self.lr, Range) else self.lr
        if not all(isinstance(rate, int | float) and rate > 0 for rate in rates):
            raise ValueError(f"lr is {list(rates)}; learning rates are numbers above 0")
        ranges = [k for k, v in {"lr": self.lr, **self.space}.items() if isinstance(v, Range)]
        if self.sampler == "grid" and ranges:
            raise ValueError(f"sampler is grid and {ranges[0]} is a range; give a list of values")
        return self

    @property
    def points(self) -> dict[str, Values]:
        """Every key that is searched, with its values."""
        return {
            "model.unfrozen_layers": self.unfrozen_layers,
            "optimizer.lr": self.lr,
            **self.space,
        }


class TrackConfig(Section):
    """Where finished runs are logged besides storage and TensorBoard's files."""

    mlflow: str | None = None
    """Address of an MLflow server; null logs to none. Needs `rtl[mlflow]`. `sqlite:///FILE` serves
    one machine: bundles go to `mlruns/` in the working directory then."""
    experiment: str = Field(default="rtl", min_length=1)
    """The MLflow experiment that a run's parameters, scores and bundle go to."""

    @pydantic.model_validator(mode="after")
    def _check(self) -> TrackConfig:
        parts = urlsplit(self.mlflow or "")
        if "@" in parts.netloc or parts.query:  # a run's record holds the address
            raise ValueError(
                "mlflow holds a user, password or query; give the address alone, and set "
                "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN"
            )
        return self


class ServeConfig(Section):
    """The HTTP endpoint."""

    host: str = "127.0.0.1"
    """Address that the endpoint listens on."""
    port: int = Field(default=8000, ge=0, le=65535)
    """Port that the endpoint listens on; 0 takes a free one."""
    replicas: int = Field(default=1, ge=1)
    """Processes that each hold the model; the fewest, where `max_replicas` is set."""
    max_replicas: int | None = Field(default=None, ge=1)
    """Ray Serve starts up to so many while requests wait, and ends them again; null: no more."""
    cpus_per_replica: int = Field(default=1, ge=1)
    """Logical CPUs that each replica reserves."""
    gpus_per_replica: int = Field(default=0, ge=0, le=1)
    """GPUs that each replica reserves."""
    max_batch_size: int = Field(default=16, ge=1)
    """Images that a replica computes at once; its CPUs share them."""
    max_waiting: int = Field(default=128, ge=1)
    """Images inside a replica beyond which a request is refused with 503."""
    max_body_mb: float = Field(default=10.0, gt=0)
    """Size of a request's body above which it is refused with 413."""
    max_pixels: int = Field(default=50_000_000, ge=1)
    """Width times height above which an image is refused with 413, undecoded."""
    refusals_per_s: float = Field(default=50.0, gt=0)
    """Requests a second that a replica refuses as the client's error (4xx) at once; more wait."""
    top_k: int = Field(default=5, ge=1)
    """Classes in an answer that asks for no other number."""
    timeout_s: float = Field(default=30.0, gt=0)
    """Seconds until a request is given up."""
    follow_s: float = Field(default=2.0, gt=0)
    """Seconds between looks at the registry, where a name without a version is served."""

    @pydantic.model_validator(mode="after")
    def _check(self) -> ServeConfig:
        if self.max_replicas is not None and self.max_replicas < self.replicas:
            raise ValueError(
                f"max_replicas is {self.max_replicas}, below replicas {self.replicas}; raise it"
            )
        return self
