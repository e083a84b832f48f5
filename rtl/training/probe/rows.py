"""Features and targets of a data set's rows, as the probe takes them."""

from __future__ import annotations

import hashlib
import math
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional

from rtl.data.batches import Batch, ImageReader, Reader, ShardRead
from rtl.evaluation import metrics
from rtl.feature_extraction.cache import FeaturePlan
from rtl.feature_extraction.trunk import open_reader
from rtl.model import device
from rtl.runtime import session
from rtl.training.loop import class_weights
from rtl.training.probe.solver import Rows
from rtl.training.steps.learner import FitSetup, Learner


@dataclass(frozen=True, eq=False)
class FeatureRows:
    """Features of N rows, each in one view."""

    ids: list[str]
    labels: torch.Tensor
    """int64 (N,)"""
    confidence: torch.Tensor
    """float32 (N,): probability that the label is right."""
    views: torch.Tensor
    """int64 (N,)"""
    features: torch.Tensor
    """float32 (N, F)"""

    def for_solver(self, setup: FitSetup) -> Rows:
        """The rows as the solver takes them, each with the weight of its class and its confidence.

        On ELPV weights gave a larger area under the curve than soft targets did, 0.927 and 0.921.
        Raises DataError for a label that is no class.
        """
        metrics.check_labels(self.labels.numpy(), setup.learner.num_classes)
        counts = setup.plan.manifest.counts["train"]
        weights = class_weights(counts, setup.config.train.class_weights)[self.labels]
        classes = functional.one_hot(self.labels, setup.learner.num_classes).float()
        targets = classes * (weights * self.confidence)[:, None]
        content = {  # images of equal content have equal features in view 0
            row: hashlib.sha256(self.features[i].numpy().tobytes()).hexdigest()
            for i, row in enumerate(self.ids)
            if not self.views[i]
        }
        _, groups = np.unique([content[row] for row in self.ids], return_inverse=True)
        return Rows(self.features, targets, groups)


def read(
    setup: FitSetup,
    features: FeaturePlan,
    split: str,
    *,
    views: int = 1,
    share: float = 1.0,
    progress: session.Progress = session.no_progress,
) -> FeatureRows:
    """Reads, or computes, a share of the rows of each shard of a split, in so many views.

    `setup` is that of a fit at k = 0. Where features are computed, each of the calling thread's
    cores takes a shard of its own, and `progress` receives the number of rows; reading them from a
    cache takes seconds.
    """
    found, manifest = features.load(0), setup.plan.manifest
    reader: Reader = ImageReader(manifest, setup.config.data)
    if found is not None:
        reader = open_reader(setup.config, manifest, found, keep=False)
    reads = [
        ShardRead(0, split, shard, np.arange(math.ceil(share * shard.rows)), view)
        for shard in manifest.split(split)
        for view in range(views)
    ]
    total = sum(len(read.rows) for read in reads)
    done = 0
    counting = threading.Lock()

    def compute(read: ShardRead) -> list[FeatureRows]:
        nonlocal done
        parts = []
        for batch in reader(read):
            parts.append(_part(setup.learner, batch, read.view))
            if found is None:
                with counting:
                    done += len(batch)
                    progress(done, total)
        return parts

    if found is not None:  # read and decompressed, not computed
        return concatenate([part for read in reads for part in compute(read)])
    _ = setup.learner.frozen  # built once, before the threads want it
    with ThreadPoolExecutor(torch.get_num_threads(), "rows", device.compute_with, (1,)) as cores:
        return concatenate([part for parts in cores.map(compute, reads) for part in parts])


def concatenate(parts: Sequence[FeatureRows]) -> FeatureRows:
    """Returns the rows of all parts, one after another."""
    return FeatureRows(
        [row for part in parts for row in part.ids],
        torch.cat([part.labels for part in parts]),
        torch.cat([part.confidence for part in parts]),
        torch.cat([part.views for part in parts]),
        torch.cat([part.features for part in parts]),
    )


def _part(learner: Learner, batch: Batch, view: int) -> FeatureRows:
    found = []
    with torch.inference_mode():
        for inputs in torch.split(batch.inputs, device.rows_per_pass(learner.device)):
            maps, taps = learner.features(inputs)
            found.append(torch.cat([maps.float(), taps], 1).cpu())
    features = torch.cat(found)
    return FeatureRows(
        batch.ids, batch.labels, batch.confidence, torch.full_like(batch.labels, view), features
    )
