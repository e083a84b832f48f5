from __future__ import annotations

import numpy as np
import pytest
import torch

from rtl.config.schema import Flips, TrainConfig
from rtl.data.batches import EpochSampler
from rtl.data.shards import Manifest, Shard
from rtl.model.inception import Activation
from rtl.training.regularization import augment, draw_flips, flip, mixup_shares, soft_targets


@pytest.mark.parametrize("num_ranks", [2, 3])
def test_a_batch_is_augmented_alike_however_many_workers_share_it(num_ranks: int) -> None:
    shards = [Shard(f"train/{i}.parquet", "train", rows, 0, "") for i, rows in enumerate((9, 6, 8))]
    packed = Manifest(("a", "b"), {}, tuple(shards))
    settings = TrainConfig(mixup=0.4, flip_features="both")
    generator = torch.Generator().manual_seed(0)
    maps, taps = torch.rand(8, 4, 3, 3, generator=generator), torch.rand(8, 5, generator=generator)
    targets = torch.rand(8, 2, generator=generator)

    def augmented(num_ranks: int) -> torch.Tensor:
        found = torch.full((8, 4 * 9 + 5 + 2), float("nan"))
        for rank in range(num_ranks):
            plan = EpochSampler(packed, 0, 8, 1, rank, num_ranks)
            part = next(plan.parts(1))
            own = torch.from_numpy(part.places)
            features, mixed = augment(
                Activation(maps[own], taps[own]), targets[own], settings, plan=plan, part=part,
                step=plan.steps,
            )  # fmt: skip
            found[own] = torch.cat([features.maps.flatten(1), features.taps, mixed], 1)
        return found

    whole = augmented(1)
    assert not bool(whole.isnan().any())
    assert torch.equal(whole, augmented(num_ranks))
    part = next(EpochSampler(packed, 0, 8, 1).parts(1))
    mixed = whole[:, 36:41]
    pair = mixed + mixed[torch.from_numpy(part.partners)]  # one share: the sum stays
    torch.testing.assert_close(pair, taps + taps[torch.from_numpy(part.partners)])
    assert not torch.allclose(mixed, taps)


def test_mixing_shares_are_a_function_of_seed_and_step() -> None:
    shares = mixup_shares(7, 0.2, seed=0, step=3)
    assert shares.shape == (7,)
    assert shares.dtype == np.float32
    assert ((shares >= 0) & (shares <= 1)).all()
    assert (shares == mixup_shares(7, 0.2, seed=0, step=3)).all()
    assert (shares != mixup_shares(7, 0.2, seed=0, step=4)).any()


def test_what_a_label_leaves_goes_to_the_other_classes() -> None:
    labels, confidence = torch.tensor([0, 2]), torch.tensor([1.0, 0.7])
    plain = soft_targets(labels, confidence, num_classes=3, smoothing=0.0)
    assert torch.allclose(plain, torch.tensor([[1.0, 0.0, 0.0], [0.15, 0.15, 0.7]]))
    smooth = soft_targets(labels, confidence, num_classes=3, smoothing=0.3)
    assert torch.allclose(smooth, plain * 0.7 + 0.1)
    logits = torch.randn(2, 3)
    ours = -(
        soft_targets(labels, torch.ones(2), num_classes=3, smoothing=0.1) * logits.log_softmax(1)
    ).sum(1)
    torchs = torch.nn.functional.cross_entropy(
        logits, labels, label_smoothing=0.1, reduction="none"
    )
    assert torch.allclose(ours, torchs)


@pytest.mark.parametrize(("flips", "ways"), [("none", 1), ("horizontal", 2), ("both", 4)])
def test_flips_are_a_function_of_seed_and_step(flips: Flips, ways: int) -> None:
    drawn = draw_flips(400, flips, seed=0, step=3)
    assert torch.equal(drawn, draw_flips(400, flips, seed=0, step=3))
    counts = torch.bincount(drawn, minlength=ways)
    assert len(counts) == ways
    assert counts.min() > 400 / ways * 0.7
    if ways > 1:
        assert not torch.equal(drawn, draw_flips(400, flips, seed=0, step=4))
        assert not torch.equal(drawn, draw_flips(400, flips, seed=1, step=3))


def test_each_row_is_turned_its_own_way_and_the_cache_is_left_alone() -> None:
    rows = torch.arange(4 * 6.0).reshape(4, 1, 2, 3).contiguous(memory_format=torch.channels_last)
    before = rows.clone()
    turned = flip(rows, "both", torch.tensor([3, 2, 1, 0]))
    assert turned[0, 0].tolist() == [[5, 4, 3], [2, 1, 0]]
    assert turned[1, 0].tolist() == [[9, 10, 11], [6, 7, 8]]
    assert turned[2, 0].tolist() == [[14, 13, 12], [17, 16, 15]]
    assert torch.equal(turned[3], rows[3])
    assert torch.equal(rows, before)
