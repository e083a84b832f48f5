"""The network of one process: its frozen trunk, its trainable tail, and its predictions."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import nn

from rtl.config.schema import Flips
from rtl.config.tree import Config
from rtl.data.batches import Batch, BatchSource, EpochSampler
from rtl.evaluation.predictions import Predictions
from rtl.model import device as devices
from rtl.model import inception, kernels
from rtl.model.inception import Activation
from rtl.model.inference import Predictor
from rtl.model.pretrained import Pretrained
from rtl.training.probe import Head


class Learner:
    """A pretrained network cut for training: the folded frozen trunk and the trainable tail."""

    def __init__(
        self, config: Config, pretrained: Pretrained, *, num_classes: int, device: torch.device
    ) -> None:
        plain = inception.build(num_classes, config.model.dropout)
        self.network = kernels.optimize_for_training(plain)
        inception.load_part(self.network, pretrained.state)
        inception.init_head(self.network, config.train.seed)
        self.network.get_submodule("taps").requires_grad_(False)  # solved, not trained by steps
        self._unfrozen_layers = config.model.unfrozen_layers
        self._trunk, tail = inception.split(self.network, self._unfrozen_layers)
        self._pretrained = pretrained
        self.dtype = devices.resolve_precision(config.model.precision, device)
        self.device = device
        self.scaler = devices.make_scaler(device, self.dtype)
        tail.recompute = config.train.activation_checkpointing
        self.tail = tail.to(device).to(memory_format=torch.channels_last)
        self.num_classes = num_classes

    @cached_property
    def frozen(self) -> kernels.InferenceNetwork:
        """The trunk for inference; a fit on cached features never builds it."""
        mean, std = self._pretrained.mean, self._pretrained.std
        return kernels.optimize_for_inference(
            self._trunk, device=self.device, dtype=self.dtype, mean=mean, std=std
        )

    def features(self, inputs: torch.Tensor) -> Activation:
        """Input of the tail, its maps in `dtype`: the trunk's output for images or cached rows."""
        inputs = devices.to_device(inputs, self.device)
        k = self._unfrozen_layers
        if inputs.dtype == torch.uint8:
            found = self.frozen(inputs)
            if len(self._trunk):
                # Cached features are bf16; rounding here makes fits on images equal to theirs.
                found = inception.unpack_features(inception.pack_features(found), k)
        else:
            found = inception.unpack_features(inputs, k)
        maps = found.maps
        if maps.ndim == 4:
            maps = maps.contiguous(memory_format=torch.channels_last)
        maps = maps.to(self.dtype)  # autocast would, at every use
        return Activation(*(t.clone() if t.is_inference() else t for t in (maps, found.taps)))

    def logits(self, features: Activation, tail: nn.Module | None = None) -> torch.Tensor:
        """Logits, fp32 (N, C), by the tail or by a module that wraps it."""
        with devices.autocast(self.device, self.dtype):
            output: torch.Tensor = (tail or self.tail)(*features)
        return output.float()

    def predictor(
        self, flips: Flips, *, unfrozen_layers: int | None = None, threads: int = 1
    ) -> Predictor:
        """Returns the network with the tail as it is now, as it will be served, uncalibrated.

        It takes images, or with `unfrozen_layers` this learner's features at its own cut. On a CPU
        `threads` cores compute, each images of its own.
        """
        mean, std = self._pretrained.mean, self._pretrained.std
        return Predictor(
            self.network, mean=mean, std=std, device=self.device, dtype=self.dtype, flips=flips,
            unfrozen_layers=unfrozen_layers, threads=threads,
        )  # fmt: skip

    def predict(self, batches: Iterator[Batch], tail: nn.Module | None = None) -> Predictions:
        """Predicts all rows of one process, in fp32, by the tail or by a copy of it."""
        tail = tail or self.tail
        tail.eval()
        ids: list[str] = []
        labels, probabilities = [], []
        with torch.inference_mode():
            for batch in batches:
                if len(batch):
                    logits = self.logits(self.features(batch.inputs), tail)
                    ids += batch.ids
                    labels.append(batch.labels.numpy())
                    probabilities.append(logits.softmax(dim=1).cpu().numpy())
        if not ids:
            none = np.empty((0, self.num_classes), np.float32)
            return Predictions([], np.empty(0, np.int64), none)
        return Predictions(ids, np.concatenate(labels), np.concatenate(probabilities))


@dataclass(frozen=True, eq=False)
class FitSetup:
    """One process's network and rows for a fit."""

    config: Config
    learner: Learner
    plan: EpochSampler
    source: BatchSource
    head: Head | None = None
    """The head that the fit starts from; None starts from a random one."""
