"""From a data set to the head that its fits start from (Kumar et al. 2022, "Fine-Tuning can Distort
Pretrained Features and Underperform Out-of-Distribution")."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import torch

from rtl.config.tree import Config
from rtl.feature_extraction import cost
from rtl.feature_extraction.cache import FeaturePlan
from rtl.model import device
from rtl.runs.progress import EventChannel
from rtl.runtime import capacity, session
from rtl.runtime.capacity import ResourceRequest
from rtl.training.probe import rows, solver
from rtl.training.probe.head import Head
from rtl.training.probe.rows import FeatureRows
from rtl.training.probe.solver import Probe
from rtl.training.setup import build_fit
from rtl.training.steps.learner import FitSetup, Learner


@dataclass(frozen=True, eq=False)
class Start:
    """A probe that was solved on `train`."""

    setup: FitSetup
    """A fit at k = 0, whose head is the probe's."""
    train: FeatureRows
    """The rows that it was solved on."""
    probe: Probe
    head: Head
    """The head that fits of any depth start from."""


def solve(
    config: Config,
    features: FeaturePlan,
    *,
    where: torch.device,
    progress: session.Progress = session.no_progress,
) -> Start:
    """Solves the probe on the training rows, on the features in `features` or on images.

    It takes `cost.PROBE_ROWS` rows at most, the first of each shard, which are in random order;
    `progress` receives those that are computed. Raises DataError where planned features are gone or
    a shard is not what was packed.
    """
    config = config.replace(model={"unfrozen_layers": 0})
    setup = build_fit(config, features, where=where)
    views = config.features.views
    share = min(1.0, cost.PROBE_ROWS / (views * setup.plan.manifest.rows("train")))
    train = rows.read(setup, features, "train", views=views, share=share, progress=progress)
    found = solver.solve(train.for_solver(setup))
    load(found, setup.learner)
    return Start(setup, train, found, _head(found, train, setup))


def solve_head(config: Config, features: FeaturePlan, *, channel: EventChannel) -> Head:
    """Solves the probe on the cluster's largest node, in a process of its own; returns its head.

    Raises the errors of `solve`, and ResourceError where no node has room.
    """
    gpus = config.train.gpus_per_worker
    request = ResourceRequest("The probe", 1, capacity.most_cpus(gpus), gpus)
    function = functools.partial(_solve_head, channel=channel, threads=int(request.cpus))
    (head,) = capacity.run(request, function, config, features)
    found: Head = head
    return found


def _solve_head(
    config: Config, features: FeaturePlan, *, channel: EventChannel, threads: int
) -> Head:
    torch.set_num_threads(threads)
    where = device.pick(bool(config.train.gpus_per_worker))
    return solve(config, features, where=where, progress=channel.probe).head


def load(found: Probe, learner: Learner) -> None:
    """Gives the probe's weights to a learner's head: the pooled output's come first."""
    pooled = learner.tail.get_parameter("fc.weight").shape[1]
    head = {
        "fc.weight": found.weight[:, :pooled], "fc.bias": found.bias,
        "taps.weight": found.weight[:, pooled:],
    }  # fmt: skip
    learner.tail.load_state_dict({k: v.contiguous() for k, v in head.items()})


def _head(found: Probe, train: FeatureRows, setup: FitSetup) -> Head:
    """The learner's head, with the corrections of the rows that it was solved on."""
    views = setup.plan.views
    ids = sorted(set(train.ids))
    place = {row: i for i, row in enumerate(ids)}
    corrections = torch.zeros(views, len(ids), setup.learner.num_classes)
    places = torch.tensor([place[row] for row in train.ids])
    corrections[train.views, places] = found.held_out - found.logits(train.features)
    state = {name: tensor.clone() for name, tensor in setup.learner.tail.state_dict().items()}
    return Head(state, ids, corrections)
