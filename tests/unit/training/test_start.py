"""A fit that starts from the probe: before its first step it answers as the probe does."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from rtl.config import loading
from rtl.config.tree import Config
from rtl.data.batches import ImageReader, ShardRead, TrainBatch
from rtl.data.order import Part
from rtl.errors import DataError
from rtl.feature_extraction.cache import FeaturePlan
from rtl.training import probe
from rtl.training.probe import rows, start
from rtl.training.regularization import mixup_shares
from rtl.training.setup import build_fit
from rtl.training.steps.learner import FitSetup, Learner
from rtl.training.steps.step import training_step
from tests.conftest import make_dataset
from tests.support.broken_data import mislabel

CPU = torch.device("cpu")
State = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Config:
    root = str(tmp_path_factory.mktemp("start"))
    make_dataset(f"{root}/data", train=18, val=6, test=0)
    return loading.load().replace(
        storage=root, data={"uri": f"{root}/data", "image_size": 80, "framing": "crop"},
        model={"unfrozen_layers": 0, "precision": "bf16"}, train={"batch_size": 6},
    )  # fmt: skip


def images(config: Config, split: str) -> tuple[torch.Tensor, torch.Tensor]:
    manifest = build_fit(config, FeaturePlan(), where=CPU).plan.manifest
    reader = ImageReader(manifest, config.data)
    found = [
        batch
        for shard in manifest.split(split)
        for batch in reader(ShardRead(0, split, shard, np.arange(shard.rows), 0))
    ]
    return torch.cat([b.inputs for b in found]), torch.cat([b.labels for b in found])


def answers(learner: Learner, inputs: torch.Tensor) -> torch.Tensor:
    learner.tail.eval()
    with torch.inference_mode():
        return learner.logits(learner.features(inputs)).softmax(1)


@pytest.fixture(scope="module")
def solved(config: Config) -> tuple[State, torch.Tensor]:
    """The probe's head, and its probabilities for `val`."""
    learner = build_fit(config, FeaturePlan(), where=CPU).learner
    inputs, labels = images(config, "train")
    with torch.inference_mode():
        maps, taps = learner.features(inputs)
    rows = probe.Rows(torch.cat([maps.float(), taps], 1), torch.eye(3)[labels], np.arange(18))
    found = probe.solve(rows, strengths=[1e-2])
    head = {
        "fc.weight": found.weight[:, :2048].contiguous(), "fc.bias": found.bias,
        "taps.weight": found.weight[:, 2048:].contiguous(),
    }  # fmt: skip
    learner.tail.load_state_dict(head)
    inputs, labels = images(config, "val")
    given = answers(learner, inputs)
    assert (given.argmax(1) == labels).float().mean() > 0.8
    with torch.inference_mode():
        maps, taps = learner.features(inputs)
    exact = found.logits(torch.cat([maps.float(), taps], 1)).softmax(1)
    torch.testing.assert_close(given, exact, atol=0.02, rtol=0)
    return head, given


@pytest.mark.parametrize("k", [1, 2, 3, 5])
def test_at_step_0_every_probability_is_the_probes(
    config: Config, solved: tuple[State, torch.Tensor], k: int
) -> None:
    state, expected = solved
    head = probe.Head(state, [], torch.zeros(1, 0, 3))
    deeper = config.replace(model={"unfrozen_layers": k})
    learner = build_fit(deeper, FeaturePlan(), where=CPU, head=head).learner
    inputs, _ = images(config, "val")
    torch.testing.assert_close(answers(learner, inputs), expected, atol=0.02, rtol=0)
    served = learner.predictor("none")(inputs).probabilities
    torch.testing.assert_close(served, expected, atol=0.02, rtol=0)
    without = build_fit(deeper, FeaturePlan(), where=CPU).learner
    assert (answers(without, inputs) - expected).abs().max() > 0.1


def test_a_start_is_solved_from_images_and_answers_as_its_probe(config: Config) -> None:
    config = config.replace(features={"views": 2})
    found = start.solve(config.replace(model={"unfrozen_layers": 3}), FeaturePlan(), where=CPU)
    assert found.setup.config.model.unfrozen_layers == 0
    assert sorted(found.train.ids) == sorted(2 * found.head.ids)
    inputs, labels = images(config, "val")
    given = answers(found.setup.learner, inputs)
    assert (given.argmax(1) == labels).float().mean() > 0.8
    deeper = config.replace(model={"unfrozen_layers": 1})
    begun = build_fit(deeper, FeaturePlan(), where=CPU, head=found.head).learner
    torch.testing.assert_close(answers(begun, inputs), given, atol=0.02, rtol=0)
    exact = found.probe.held_out - found.probe.logits(found.train.features)
    for view in (0, 1):
        chosen = (found.train.views == view).nonzero()[:, 0]
        corrections = found.head.corrections_of([found.train.ids[row] for row in chosen], view)
        torch.testing.assert_close(corrections, exact[chosen])


def test_several_threads_read_what_one_does(config: Config) -> None:
    setup = build_fit(config, FeaturePlan(), where=CPU)
    found, counts = [], []
    before = torch.get_num_threads()
    for threads in (1, 3):
        torch.set_num_threads(threads)
        counted: list[tuple[int, int]] = []
        found.append(
            rows.read(
                setup, FeaturePlan(), "train", views=2,
                progress=lambda *count, own=counted: own.append(count),
            )
        )  # fmt: skip
        counts.append(counted)
    torch.set_num_threads(before)
    one, three = found
    assert one.ids == three.ids
    assert len(one.ids) == 36
    assert torch.equal(one.views, three.views)
    assert torch.equal(one.features, three.features)
    for counted in counts:
        assert counted == sorted(counted)
        assert counted[-1] == (36, 36)


def test_a_label_that_is_no_class_is_an_error(config: Config, tmp_path: Path) -> None:
    mislabel(make_dataset(f"{tmp_path}/data", train=9, val=3, test=0), 99)
    broken = config.replace(data={"uri": f"{tmp_path}/data"})
    with pytest.raises(DataError, match=r"from 99 to 99; they must be integers from 0 to 2"):
        start.solve(broken, FeaturePlan(), where=CPU)


def test_mixup_mixes_the_corrections_with_their_rows(config: Config) -> None:
    mixed = config.replace(
        model={"precision": "fp32", "dropout": 0.0},
        train={"mixup": 0.4, "label_smoothing": 0.0, "batch_size": 6},
    )
    fit = build_fit(mixed, FeaturePlan(), where=CPU)
    inputs, labels = (rows[:6] for rows in images(mixed, "train"))
    ids = [f"{n:05}" for n in range(6)]
    corrections = torch.randn(1, 6, 3, generator=torch.Generator().manual_seed(0))
    setup = FitSetup(
        mixed, fit.learner, fit.plan, fit.source, probe.Head({}, ids, corrections.expand(2, -1, -1))
    )
    with torch.inference_mode():  # k = 0 is linear: its logits mix as its inputs do
        logits = fit.learner.logits(fit.learner.features(inputs)) + corrections[0]
    part = Part(np.arange(6), np.array([1, 0, 3, 2, 5, 4]), 6)
    drawn = mixup_shares(6, 0.4, seed=mixed.train.seed, step=0)
    share, other = torch.from_numpy(np.repeat(drawn[::2], 2))[:, None], part.partners
    logits, targets = (
        rows * share + rows[other] * (1 - share) for rows in (logits, torch.eye(3)[labels])
    )
    expected = -(targets * logits.log_softmax(1)).sum()
    loss = training_step(
        setup, TrainBatch(ids, labels, inputs, torch.ones(6), part), number=0,
        tail=fit.learner.tail,
        optimizer=torch.optim.SGD(fit.learner.tail.parameters(), lr=0.0), weights=torch.ones(3),
    )  # fmt: skip
    assert loss == pytest.approx(float(expected), rel=1e-3)
