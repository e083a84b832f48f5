"""One process's part of a fit: its network and its rows, as the driver planned them."""

from __future__ import annotations

import torch

from rtl.config.tree import Config
from rtl.data.batches import BatchSource, EpochSampler, ImageReader, InMemorySource, Position
from rtl.data.shards import load_manifest
from rtl.data.streaming import RayDataSource
from rtl.feature_extraction.cache import FeaturePlan
from rtl.feature_extraction.trunk import open_reader
from rtl.model import pretrained
from rtl.training.probe import Head
from rtl.training.steps.learner import FitSetup, Learner


def build_fit(
    config: Config,
    features: FeaturePlan,
    *,
    where: torch.device,
    rank: int = 0,
    ranks: int = 1,
    start: Position = (0, 0),
    head: Head | None = None,
) -> FitSetup:
    """Builds the network, on the device `where`, and the rows of worker `rank` of `ranks`.

    The fit begins at `start`, and from `head` where it is given. Raises DataError where
    planned features are gone.
    """
    manifest = load_manifest(str(config.data.uri))
    plan = EpochSampler.from_config(config, manifest, rank=rank, num_ranks=ranks)
    weights = pretrained.load(config.model.weights, config.storage)
    learner = Learner(config, weights, num_classes=len(manifest.classes), device=where)
    if head is not None:
        learner.tail.load_state_dict(head.state, strict=False)
    source = make_source(config, plan, features=features, start=start)
    return FitSetup(config, learner, plan, source, head)


def make_source(
    config: Config, plan: EpochSampler, *, features: FeaturePlan, start: Position = (0, 0)
) -> BatchSource:
    """Opens a fit's rows: cached features, from memory where they fit, or images.

    Raises DataError where planned features are gone.
    """
    found = features.load(config.model.unfrozen_layers)
    if found is None:
        reader = ImageReader(plan.manifest, config.data)
        return RayDataSource(plan, reader, epochs=config.train.epochs, start=start)
    keep = found.bytes <= config.features.memory_gb * 1e9
    cached = open_reader(config, plan.manifest, found, keep=keep)
    return (
        InMemorySource(plan, cached)
        if keep
        else RayDataSource(plan, cached, epochs=config.train.epochs, start=start)
    )
