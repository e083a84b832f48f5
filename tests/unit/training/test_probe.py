from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from rtl.training import probe
from rtl.training.probe import STRENGTHS, Rows

CLASSES = 3


def make_rows(
    rows: int, width: int, *, seed: int = 0, spread: float = 1.0, weights: bool = False
) -> Rows:
    """Rows of three overlapping classes; with `weights` soft targets and weights of classes."""
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.arange(rows) % CLASSES)
    centres = rng.normal(0, spread / np.sqrt(width), (CLASSES, width))
    features = centres[labels] + rng.normal(0, 1, (rows, width)) @ np.diag(
        np.geomspace(0.3, 3, width)
    )
    targets = np.eye(CLASSES)[labels]
    if weights:
        sure = rng.uniform(0.6, 1, rows)[:, None]
        targets = targets * sure + (1 - targets) * (1 - sure) / (CLASSES - 1)
        targets = targets * np.array([0.4, 1.2, 2.0])[labels, None]
    return as_rows(features, targets)


def as_rows(
    features: NDArray[np.float64],
    targets: NDArray[np.float64],
    groups: NDArray[np.int64] | None = None,
) -> Rows:
    found = np.arange(len(features)) if groups is None else groups
    return Rows(torch.from_numpy(features).float(), torch.from_numpy(targets).float(), found)


def probabilities(found: probe.Probe, rows: Rows) -> torch.Tensor:
    return found.logits(rows.features).softmax(1)


@pytest.mark.parametrize("strength", [1e-5, 1e-3, 1e-1])
@pytest.mark.parametrize(("rows", "width"), [(40, 500), (300, 20)])
@pytest.mark.parametrize("weights", [False, True])
def test_it_is_solved_to_its_optimum(rows: int, width: int, strength: float, weights: bool) -> None:
    data = make_rows(rows, width, weights=weights)
    found = probe.solve(data, strengths=[strength])
    # The objective as it is written down, in standardised features and in double precision.
    features = data.features.double()
    mean, deviation = features.mean(0), features.std(0, correction=0)
    weight = (found.weight.double() * deviation).requires_grad_()
    bias = (found.bias.double() + found.weight.double() @ mean).requires_grad_()
    logits = ((features - mean) / deviation) @ weight.T + bias
    loss = -(data.targets.double() * logits.log_softmax(1)).sum() / rows
    objective = loss + 0.5 * weight.square().sum() / (strength * rows)
    slopes = torch.autograd.grad(objective, [weight, bias])
    # Strong convexity bounds what is left to gain; the bias, which has no penalty, stands still.
    left = float(slopes[0].square().sum()) * strength * rows / 2
    assert left < 1e-5
    assert slopes[1].abs().max() < 1e-4
    own = -(data.targets.double() * logits.log_softmax(1)).sum() / data.targets.double().sum()
    assert found.loss == pytest.approx(float(own.detach()), rel=1e-3)


@pytest.mark.parametrize("strength", [1e-3, 1e-1])
def test_it_is_scikit_learns_logistic_regression(strength: float) -> None:
    data = make_rows(200, 60)
    found = probe.solve(data, strengths=[strength])
    features = StandardScaler().fit_transform(data.features.numpy().astype(np.float64))
    reference = LogisticRegression(C=strength, tol=1e-8, max_iter=10_000)
    expected = reference.fit(features, data.targets.argmax(1).numpy()).predict_proba(features)
    difference = np.abs(probabilities(found, data).numpy() - expected)
    assert difference.max() < 1e-3
    assert expected.std(0).max() > 0.01


def test_the_scale_of_a_feature_does_not_matter() -> None:
    data = make_rows(60, 40)
    rng = np.random.default_rng(1)
    scale = torch.from_numpy(10 ** rng.uniform(-3, 3, 40)).float()
    other = Rows(data.features * scale + 5 * scale, data.targets, data.groups)
    one, two = (probe.solve(rows) for rows in (data, other))
    assert one.strength == two.strength
    torch.testing.assert_close(
        probabilities(one, data), probabilities(two, other), atol=2e-3, rtol=0
    )


def test_constant_features_get_no_weight() -> None:
    data = make_rows(60, 20)
    constant = torch.tensor([0.0, 7.3, 5000.0]).expand(60, 3)
    wider = Rows(torch.cat([constant, data.features], 1), data.targets, data.groups)
    one, two = (probe.solve(rows, strengths=[1e-2]) for rows in (data, wider))
    assert torch.equal(two.weight[:, :3], torch.zeros(CLASSES, 3))
    torch.testing.assert_close(
        probabilities(one, data), probabilities(two, wider), atol=1e-3, rtol=0
    )


def test_rounded_features_are_taken_as_they_come() -> None:
    data = make_rows(60, 20)
    rounded = Rows(data.features.bfloat16(), data.targets, data.groups)
    wide = Rows(rounded.features.float(), data.targets, data.groups)
    one, two = (probe.solve(rows, strengths=[1e-2]) for rows in (rounded, wide))
    assert torch.equal(one.weight, two.weight)


def test_soft_targets_count_as_rows_of_either_class() -> None:
    soft = make_rows(50, 30, weights=True)
    split = Rows(
        soft.features.repeat(CLASSES, 1),
        torch.cat([soft.targets * torch.eye(CLASSES)[label] for label in range(CLASSES)]),
        np.tile(soft.groups, CLASSES),
    )
    one, two = (probe.solve(rows, strengths=[1e-2]) for rows in (soft, split))
    torch.testing.assert_close(
        probabilities(one, soft), probabilities(two, soft), atol=1e-3, rtol=0
    )


def test_without_information_the_answer_is_the_weighted_share_of_each_class() -> None:
    targets = np.eye(CLASSES)[np.repeat(np.arange(CLASSES), [60, 30, 10])]
    weights = np.array([1.0, 2.0, 3.0])
    data = as_rows(np.full((100, 4), 2.0), targets * weights)
    found = probe.solve(data, strengths=[1e-2])
    shares = torch.tensor([60.0, 60.0, 30.0]) / 150
    torch.testing.assert_close(probabilities(found, data)[0], shares, atol=1e-3, rtol=0)


# --- cross-validation


@pytest.mark.parametrize(("groups", "expected"), [(3, 3), (7, 5), (40, 5)])
def test_rows_of_a_group_share_a_fold(groups: int, expected: int) -> None:
    names = np.random.default_rng(0).integers(groups, size=200)
    names[:groups] = np.arange(groups)
    fold = probe.assign_folds(names, 5)
    assert set(fold) == set(range(expected))
    assert all(len(set(fold[names == name])) == 1 for name in range(groups))
    sizes = [len(set(names[fold == number])) for number in range(expected)]
    assert max(sizes) - min(sizes) <= 1
    assert np.array_equal(fold, probe.assign_folds(names, 5))


def planted(groups: NDArray[np.int64]) -> tuple[float, float]:
    """Accuracy on held-out rows and on its own of a probe that could know each image by heart."""
    images = np.arange(120) // 2  # two views of each
    labels = np.random.default_rng(3).integers(CLASSES, size=60)[images]
    data = as_rows(np.eye(60)[images], np.eye(CLASSES)[labels], groups)
    found = probe.solve(data, strengths=[1e-1])
    given = found.held_out, found.logits(data.features)
    held_out, own = (float(np.mean(logits.argmax(1).numpy() == labels)) for logits in given)
    return held_out, own


def test_a_held_out_row_was_not_seen_in_any_view() -> None:
    held_out, own = planted(np.arange(120) // 2)
    assert own == 1.0
    assert held_out < 0.55
    leaked, _ = planted(np.arange(120))  # as if each view were an image of its own
    assert leaked > 0.75


def test_a_held_out_row_is_answered_as_by_a_probe_of_the_other_folds() -> None:
    data = make_rows(100, 10)
    found = probe.solve(data, strengths=[1e-1])
    out = probe.assign_folds(data.groups, 5) == 2
    # Standardised by all rows, as in `solve`.
    features = StandardScaler().fit_transform(data.features.numpy().astype(np.float64))
    reference = LogisticRegression(C=1e-1, tol=1e-8, max_iter=10_000)
    reference.fit(features[~out], data.targets.argmax(1).numpy()[~out])
    expected = reference.predict_proba(features[out])
    assert np.abs(found.held_out[out].softmax(1).numpy() - expected).max() < 2e-3


@pytest.mark.parametrize(("spread", "least", "most"), [(0.0, 1e-5, 3e-3), (30.0, 1e-2, 1e-1)])
def test_the_strength_is_the_best_of_cross_validation(
    spread: float, least: float, most: float
) -> None:
    data = make_rows(150, 30, seed=1, spread=spread)
    found = probe.solve(data)
    assert least <= found.strength <= most
    losses = {}
    at = STRENGTHS.index(found.strength)
    for strength in STRENGTHS[max(0, at - 1) : at + 2]:
        alone = probe.solve(data, strengths=[strength])
        given = alone.held_out.log_softmax(1)
        losses[strength] = float(-(data.targets * given).sum() / data.targets.sum())
        if strength == found.strength:
            torch.testing.assert_close(alone.weight, found.weight)
            torch.testing.assert_close(alone.held_out, found.held_out, atol=0.05, rtol=0)
    assert losses[found.strength] == pytest.approx(min(losses.values()), rel=1e-3)


def test_of_many_rows_one_fold_chooses_and_the_solution_is_that_of_all() -> None:
    data = make_rows(400, 20, seed=1, spread=30.0)
    found = probe.solve(data, many_rows=200)  # these span the space of 20 features
    whole = probe.solve(data)
    assert abs(STRENGTHS.index(found.strength) - STRENGTHS.index(whole.strength)) <= 1
    alone = probe.solve(data, strengths=[found.strength])
    torch.testing.assert_close(found.weight, alone.weight, rtol=1e-2, atol=1e-3)
    right = (found.held_out.argmax(1) == data.targets.argmax(1)).float().mean()
    expected = (alone.held_out.argmax(1) == data.targets.argmax(1)).float().mean()
    assert float(right) == pytest.approx(float(expected), abs=0.05)
