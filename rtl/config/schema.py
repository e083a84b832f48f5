"""The sections of the config: every key with its default, its rule and what it decides."""

from __future__ import annotations

import re
from typing import Annotated, Literal
from urllib.parse import urlsplit

import pydantic
from pydantic import Field


class Section(pydantic.BaseModel):
    """A section of the config: frozen and typed; unknown keys are refused."""

    model_config = pydantic.ConfigDict(
        frozen=True,
        extra="forbid",
        strict=True,
        allow_inf_nan=False,
        use_attribute_docstrings=True,
    )


Flips = Literal["none", "horizontal", "both"]
Framing = Literal["crop", "pad", "stretch"]
"""How an image becomes the network's square: see `rtl.data.images.framing`."""


class PackConfig(Section):
    """Packing of a source into shards."""

    seed: int = Field(default=0, ge=0)
    """Seed of the shuffle, and of the choice of val and test rows in a source without splits."""
    val_fraction: float = Field(default=0.15, ge=0, lt=1)
    """Share of the rows without a split that goes to `val`, drawn class by class."""
    test_fraction: float = Field(default=0.15, ge=0, lt=1)
    """Share of the rows without a split that goes to `test`, where the source has no test split."""
    shard_mb: float = Field(default=64.0, gt=0)
    """Target size of a shard, in MB of encoded images."""
    min_shards: int = Field(default=8, ge=1)
    """Minimum number of shards of each split, so that as many workers can share the reading: every
    shard is read by one worker. The number of shards is a multiple of it."""
    max_quarantined: float = Field(default=0.05, ge=0, le=1)
    """Share of quarantined rows above which packing fails."""
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
    """Random augmentation of the training views; view 0 has none."""

    min_scale: float = Field(default=0.6, gt=0, le=1)
    """Smallest share of the image's area that a random crop keeps; 1 turns cropping off."""
    horizontal_flip: bool = True
    """Whether half of the views are mirrored left to right."""
    vertical_flip: bool = False
    """Whether half of the views are mirrored top to bottom. With both flips, the four combinations
    come in turn."""
    jitter: float = Field(default=0.1, ge=0, le=1)
    """Largest change of brightness and contrast, as a share: 0.1 is 10 %."""


class DataConfig(Section):
    """The data set, and its images as the network sees them."""

    uri: str | None = None
    """The packed data set: the folder or prefix that holds `manifest.json`."""
    image_size: int = Field(default=299, ge=75, le=1024)
    """Side in pixels of the square that the network sees; Inception V3 was trained at 299."""
    framing: Literal["auto", "crop", "pad", "stretch"] = "auto"
    """How an image becomes the network's square: `crop` takes the centre square, `pad` the whole
    image with black bars, `stretch` the whole image scaled unevenly. `auto` takes
    `crop` where nearly all training images are square, else the one that a quick probe on a sample
    of them answers best, `pad` where that cannot tell."""
    augment: AugmentConfig = AugmentConfig()
    """Random augmentation of the training images."""
    seed: int = Field(default=0, ge=0)
    """Seed of the views. Fits with another `train.seed` share them, and so the feature cache."""


class FeaturesConfig(Section):
    """The cache of the frozen trunk's output."""

    cache: Literal["auto", "on", "off"] = "auto"
    """Whether the frozen trunk's output is cached. `auto` caches where it pays: when a view is used
    more than once, from Mixed_6a on."""
    views: int = Field(default=2, ge=1)
    """Views of each training image; epoch e trains on view e modulo `views`."""
    storage_mb_s: float = Field(default=200.0, gt=0)
    """Speed of the storage in MB a second, for `auto`'s cost model."""
    memory_gb: float = Field(default=3.0, gt=0)
    """Size in GB up to which a training process keeps its features in memory, compressed; larger
    ones are streamed."""


class ModelConfig(Section):
    """The network and how much of it trains."""

    weights: str = "packaged"
    """`packaged`, `imagenet`, or the path or URI of a torchvision state_dict or safetensors."""
    unfrozen_layers: int = Field(default=3, ge=0, le=16)
    """Number of the network's last blocks that train beside the head: 0 is a linear probe, 16 full
    fine-tuning."""
    dropout: float = Field(default=0.2, ge=0, lt=1)
    """Dropout rate before the classifier."""
    test_flips: Flips = "none"
    """Flips of an image over which a finished model averages its probabilities: `horizontal` takes
    2 forward passes, `both` 4."""
    batch_norm: Literal["frozen", "train"] = "frozen"
    """Whether the tail's BatchNorm keeps the pretrained statistics or follows the batches. With
    `train` and a `data.image_size` up to 106, each worker needs two rows in a batch: a single last
    row is left out of its epoch."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """Arithmetic of the network; `auto` is bf16 where the device computes in it, else fp16 on a
    GPU, else fp32. fp16 is for GPUs alone."""


class OptimizerConfig(Section):
    """AdamW with a linear warm-up and a cosine decay to zero."""

    lr: float = Field(default=1e-3, gt=0)
    """Peak learning rate of the head."""
    tail_lr_factor: float = Field(default=0.33, gt=0, le=1)
    """Learning rate of the unfrozen blocks, as a factor of `lr`."""
    layer_decay: float = Field(default=1.0, gt=0, le=1)
    """Learning rate of each unfrozen block, as a factor of that of the block after it (Howard and
    Ruder 2018)."""
    weight_decay: float = Field(default=1e-2, ge=0)
    """Decoupled weight decay on convolutions and the classifier, not on BatchNorm or biases."""
    warmup_fraction: float = Field(default=0.1, ge=0, lt=1)
    """Share of all steps over which the learning rate rises."""
    max_grad_norm: float = Field(default=5.0, gt=0)
    """Norm to which the gradient is clipped."""


class WorkerRange(Section):
    """Numbers of workers that a fit may have."""

    min: int = Field(ge=1)
    """Fewest workers that it starts or goes on with."""
    max: int = Field(ge=1)
    """Most workers that it takes."""

    @pydantic.model_validator(mode="after")
    def _check(self) -> WorkerRange:
        if self.min > self.max:
            raise ValueError(f"min {self.min} is above max {self.max}; swap them")
        return self


Workers = Annotated[
    Annotated[WorkerRange, pydantic.Tag("range")]
    | Annotated[int, Field(ge=1), pydantic.Tag("number")],
    pydantic.Discriminator(
        lambda value: "range" if isinstance(value, dict | WorkerRange) else "number"
    ),
]
"""A number of workers, or the numbers between two ends; errors name the form that was given."""


class TrainConfig(Section):
    """One fit."""

    epochs: int = Field(default=8, ge=1)
    """Largest number of passes over the training rows."""
    minutes: float | None = Field(default=None, gt=0)
    """Time limit in minutes for all epochs together; null sets none. After each epoch the number of
    epochs that still fit is planned again, and the last one may be shortened. At least one epoch
    is run."""
    rows: float = Field(default=1.0, gt=0, le=1)
    """Share of the training rows that are used: a random sample, the first rows of each shard."""
    batch_size: int = Field(default=32, ge=2)
    """Rows in a step, over all workers together."""
    workers: Workers = 1
    """Number of training processes; each batch is divided among them. With `{min: 2, max: 8}` a
    fit takes as many as the cluster holds: it goes on with fewer where a node is lost, and with
    more where one has joined."""
    accumulate: int = Field(default=1, ge=1)
    """Parts in which each worker computes its rows of a step, one after the other; their gradients
    add up to those of the whole batch. More parts take less memory."""
    activation_checkpointing: bool = False
    """Whether the backward pass computes each unfrozen block again, in place of keeping its
    activations: less memory, and about a third more time a step."""
    compile: bool = False
    """Whether `torch.compile` compiles the unfrozen blocks, on a GPU: the first step of a fit then
    takes minutes, the others less time."""
    lanes: int = Field(default=8, ge=1)
    """Shards that are read side by side, over all workers, and the largest number of workers. The
    batches are the same for any number of workers; with other lanes they are others. Each worker
    holds twice `lanes / workers` shards in memory."""
    cpus_per_worker: int | None = Field(default=None, ge=1)
    """Logical CPUs that each worker reserves; null shares out all that Ray Data does not need."""
    gpus_per_worker: int = Field(default=0, ge=0, le=1)
    """GPUs that each worker reserves: 0 trains on the CPU."""
    metric: Literal["accuracy", "macro_f1", "auc"] = "accuracy"
    """Score on `val` that chooses the best epoch, and the winner of a search."""
    label_smoothing: float = Field(default=0.05, ge=0, lt=1)
    """Probability that is taken from the true class and spread over all classes."""
    class_weights: Literal["none", "balanced"] = "none"
    """Weights of the classes in the loss; `balanced` takes the inverse of each class's share."""
    flip_features: Flips = "none"
    """Flips of the frozen trunk's output, chosen at random for each row and step from the second
    epoch on: further views that cost no forward pass of the trunk."""
    mixup: float = Field(default=0.0, ge=0)
    """Parameter of the distribution Beta(mixup, mixup) of the shares in which neighbours of a batch
    are mixed (Zhang et al. 2018); 0 mixes none."""
    ema: float = Field(default=0.0, ge=0, lt=1)
    """Decay of the moving average of the weights, which is evaluated and kept: 0.98 averages over
    about the last 50 steps. 0 takes the last step's weights."""
    patience: int | None = Field(default=None, ge=1)
    """Number of epochs without a better `val` score after which training stops; null never stops
    early."""
    certain_accuracy: float = Field(default=0.95, gt=0, le=1)
    """Accuracy on `val` that the answers above the threshold of uncertainty reach; the others are
    marked uncertain."""
    set_coverage: float = Field(default=0.95, gt=0, lt=1)
    """Probability that an answer's `one_of`, the classes that the image may have, holds the true
    one."""
    set_confidence: float = Field(default=0.9, gt=0, lt=1)
    """Probability that a model's sets reach `set_coverage`; where `val` has too few rows (below 45
    at the defaults) they reach it in the mean over models alone."""
    checkpoint_minutes: float | None = Field(default=10.0, gt=0)
    """Minutes after which a fit commits a checkpoint within an epoch; one is committed at the end
    of each epoch in any case. null commits no others."""
    seed: int = Field(default=0, ge=0)
    """Seed of the head's initial weights, the order of the rows and dropout."""
    max_failures: int = Field(default=3, ge=0)
    """Number of lost workers after which a fit gives up; each restart goes on from the last
    commit."""
    max_preemption_failures: int | None = Field(default=None, ge=0)
    """Number of preemptions after which a fit gives up, counted apart from `max_failures`: a node's
    notice has the fit commit and go on elsewhere from that step. null sets no limit."""

    @property
    def fewest_workers(self) -> int:
        """Fewest workers that a fit has."""
        return self.workers.min if isinstance(self.workers, WorkerRange) else self.workers

    @property
    def most_workers(self) -> int:
        """Most workers that a fit has."""
        return self.workers.max if isinstance(self.workers, WorkerRange) else self.workers


class TrackConfig(Section):
    """MLflow, where finished runs are logged besides storage and TensorBoard's files."""

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


_ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://([a-z0-9._-]+|\[[0-9a-f:.]+\])(:[1-9][0-9]{0,4})?")
_DEFAULT_PORT = re.compile(r"http://.*:80|https://.*:443")
"""Browsers leave it out of an origin."""


class ServeConfig(Section):
    """The HTTP endpoint."""

    host: str = "127.0.0.1"
    """Address that the endpoint listens on."""
    port: int = Field(default=8000, ge=0, le=65535)
    """Port that the endpoint listens on; 0 takes a free one."""
    replicas: int = Field(default=1, ge=1)
    """Number of processes that hold the model; the minimum where `max_replicas` is set."""
    max_replicas: int | None = Field(default=None, ge=1)
    """Maximum number of processes: Ray Serve starts more while requests wait; null starts none."""
    cpus_per_replica: int = Field(default=1, ge=1)
    """Logical CPUs that each replica reserves."""
    gpus_per_replica: int = Field(default=0, ge=0, le=1)
    """GPUs that each replica reserves."""
    max_batch_size: int = Field(default=16, ge=1)
    """Images that a replica computes at once; its CPUs share them."""
    max_waiting: int = Field(default=128, ge=1)
    """Number of images in a replica above which requests are refused with 503."""
    max_body_mb: float = Field(default=10.0, gt=0)
    """Size of a request's body above which it is refused with 413."""
    max_pixels: int = Field(default=50_000_000, ge=1)
    """Width times height above which an image is refused with 413, undecoded."""
    refusals_per_s: float = Field(default=50.0, gt=0)
    """Client errors (4xx) a second that a replica answers at once; further ones are delayed."""
    top_k: int = Field(default=5, ge=1)
    """Number of classes in an answer, where the request asks for no other."""
    timeout_s: float = Field(default=30.0, gt=0)
    """Time limit of a request, in seconds."""
    follow_s: float = Field(default=2.0, gt=0)
    """Seconds between two checks which version is current, where a name is served."""
    # Not strict: Ray Serve reads the arguments of an application from YAML, which has no tuples.
    cors_origins: tuple[str, ...] = Field(default=(), strict=False)
    """Origins whose web pages may call the endpoint, besides its own: `https://shop.example`,
    `http://localhost:5173`; `*` for all."""
    error_price: float | None = Field(default=None, gt=0)
    """Price of one wrong answer, in a currency of your choice: estimates of wrong answers are
    told in money too; null tells none."""
    keep_uncertain: str | None = Field(default=None, min_length=1)
    """Folder or `s3://` prefix where images with an uncertain answer are kept, as a pool for `rtl
    label next`; null keeps none."""
    keep_uncertain_max: int = Field(default=1000, ge=1)
    """Number of images kept at once, over all replicas; beyond it the most certain is dropped."""

    @pydantic.model_validator(mode="after")
    def _check(self) -> ServeConfig:
        if self.max_replicas is not None and self.max_replicas < self.replicas:
            raise ValueError(
                f"max_replicas is {self.max_replicas}, below replicas {self.replicas}; raise it"
            )
        for origin in self.cors_origins:
            known = _ORIGIN.fullmatch(origin) and not _DEFAULT_PORT.fullmatch(origin)
            if origin != "*" and not known:
                raise ValueError(
                    f"cors_origins holds {origin!r}; an origin is scheme://host or "
                    "scheme://host:port in lower case, without a path or a default port; write it "
                    "as https://shop.example, or * for all"
                )
        return self
