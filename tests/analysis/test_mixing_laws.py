"""Laws of mixtures, the optimum on the simplex and intervals: what the answer of `test_mixture.py` is made of."""

from __future__ import annotations

import numpy as np
import pytest
import swarms
from hypothesis import given, settings
from hypothesis import strategies as st
from swarms import swarm

from curricle.analysis.mixture import predictions
from curricle.analysis.swarms.foldwise import cv_plus, foldwise, pairs
from curricle.analysis.swarms.members import fit_member
from curricle.analysis.swarms.mixing_laws import FORMS, VALUES, Features, Law, fit_law
from curricle.analysis.swarms.simplex import Limit, best_on_simplex, divergence, repeated
from curricle.study import Refused


def some_law(form: str, j: int, seed: int, replicates: int = 1) -> Law:
    random = np.random.default_rng(seed)
    q = j + {"linear": 0, "exponential": 1, "efftokens": j + 4}.get(form, 4)
    return Law(form, random.normal(0, 0.5, (replicates, 1, q)), np.array([[3.0, 1.5]]), np.ones(1), 0.0)


# ---- laws ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", FORMS)
@given(seed=st.integers(0, 10**6))
@settings(max_examples=20)
def test_gradients_and_hessians_are_those_of_the_values(form, seed):
    law, p = some_law(form, 4, seed), np.random.default_rng(seed).dirichlet(np.ones(4))
    p = (p + 0.02) / 1.08
    value, gradient, hessian = law.derivatives(p)
    assert value[0, 0] == pytest.approx(law.predict(p[None])[0, 0, 0])
    for j, step in enumerate(1e-5 * np.eye(4)):
        up, down = law.derivatives(p + step), law.derivatives(p - step)
        assert (up[0] - down[0]) / 2e-5 == pytest.approx(gradient[..., j], rel=1e-4, abs=1e-6)
        assert (up[1] - down[1])[0, 0] / 2e-5 == pytest.approx(hessian[0, 0, j], rel=1e-3, abs=1e-4)
    theta, f = law.theta_RTQ[:, 0], Features(np.array([[0.0, 0.2, 0.3, 0.5], p]))
    slope = VALUES[form](theta, f, law.anchor_T2, True)[1]
    for i, step in enumerate(1e-6 * np.eye(theta.shape[1])):
        up, down = (VALUES[form](theta + s, f, law.anchor_T2, False)[0] for s in (step, -step))
        assert (up - down)[0] / 2e-6 == pytest.approx(slope[0, :, i], rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("form", FORMS)
@given(seed=st.integers(0, 10**6), way=st.floats(0, 1))
@settings(max_examples=20)
def test_every_law_is_convex_on_the_simplex(form, seed, way):
    law, random = some_law(form, 5, seed), np.random.default_rng(seed)
    a, b = random.dirichlet(np.full(5, 0.3), 2)
    between, at_a, at_b = law.predict(np.stack([way * a + (1 - way) * b, a, b]))[0, :, 0]
    assert between <= way * at_a + (1 - way) * at_b + 1e-9


def test_a_law_finds_its_own_truth_and_its_starts_agree():
    p, loss, f = swarm(noise=0.005, runs=60)
    law = fit_law("efftokens", p, loss)
    assert law.starts_agree < 1e-4
    fresh = swarms.proportions(200, 5, np.random.default_rng(9))
    error = law.predict(fresh)[0] - f(fresh)
    assert np.sqrt((error**2).mean(0)).max() < 0.15 * f(fresh).std(0).min()


@given(seed=st.integers(0, 100), scale=st.floats(0.1, 50), shift=st.floats(-5, 5))
@settings(max_examples=8)
def test_predictions_follow_the_unit_of_the_losses(seed, scale, shift):
    p, loss, _ = swarm(runs=25, targets=2, seed=seed)
    plain = fit_law("efftokens", p, loss, starts=0).predict(p)[0]
    moved = fit_law("efftokens", p, shift + scale * loss, starts=0).predict(p)[0]
    assert moved == pytest.approx(shift + scale * plain, abs=2e-3 * scale)


def test_order_of_runs_and_sources_does_not_matter():
    p, loss, _ = swarm(runs=30)
    rows, columns = np.random.default_rng(1).permutation(30), np.random.default_rng(2).permutation(5)
    plain = fit_law("efftokens", p, loss).predict(p)[0]
    turned = fit_law("efftokens", p[rows][:, columns], loss[rows]).predict(p[:, columns])[0]
    assert turned == pytest.approx(plain, abs=2e-3)


def test_weights_are_counts_of_runs():
    p, loss, _ = swarm(runs=30)
    whole = fit_law("efftokens", p, loss)
    weights = np.ones((1, 30))
    weights[0, :4] = 0
    weights[0, 5] = 2
    index = [*range(4, 30), 5]
    by_weight = fit_law("efftokens", p, loss, weights, whole).predict(p)[0]
    by_rows = fit_law("efftokens", p[index], loss[index], np.ones((1, 27)), whole).predict(p)[0]
    assert by_weight == pytest.approx(by_rows, abs=2e-3)


# ---- the simplex ---------------------------------------------------------------------------------------------------


@given(seed=st.integers(0, 10**6))
@settings(max_examples=30)
def test_the_optimum_keeps_every_limit_and_no_other_mixture_is_better(seed):
    random = np.random.default_rng(seed)
    law, natural = some_law("efftokens", 5, seed), random.dirichlet(np.ones(5))

    def loss(p):
        return tuple(x[0, 0] for x in law.derivatives(p))

    most = np.where(random.random(5) < 0.5, random.uniform(0.25, 0.6, 5), 1.0)
    radius = 0.3
    limits = [Limit(divergence(natural), radius, "KL")]
    try:
        found = best_on_simplex(loss, most, limits)
    except Refused:
        assert most.sum() < 1 or (np.maximum(natural - most, 0).sum() > 0.01)
        return
    p = found.p_J
    assert p.sum() == pytest.approx(1) and p.min() >= 0 and (p <= most + 1e-9).all()
    assert divergence(natural)(np.maximum(p, 1e-12))[0] <= radius + 1e-6
    others = random.dirichlet(np.full(5, 1.0), 400)
    others = np.concatenate([others, 0.95 * p + 0.05 * others, 0.999 * p + 0.001 * others])
    allowed = (others <= most).all(1) & np.array([divergence(natural)(q)[0] <= radius for q in others])
    if allowed.any():
        assert law.predict(others[allowed])[0, :, 0].min() >= found.value - 1e-6


@given(seed=st.integers(0, 10**6))
@settings(max_examples=15)
def test_every_start_ends_in_the_same_mixture(seed):
    random = np.random.default_rng(seed)
    law = some_law("efftokens", 6, seed)

    def loss(p):
        return tuple(x[0, 0] for x in law.derivatives(p))

    found = [best_on_simplex(loss, np.ones(6), start_J=random.dirichlet(np.full(6, 0.2))).p_J for _ in range(4)]
    assert max(np.abs(p - found[0]).sum() / 2 for p in found) < 1e-4


def test_the_split_of_a_budget_is_that_of_the_formula():
    """S = Σ k p^r has its greatest value at p_j ∝ k_j^{1/(1−r)}."""
    k, r = np.array([1.0, 2.0, 0.5]), 0.6
    theta = np.array([*np.log(k), -30.0, np.log(r / (1 - r)), np.log(0.3), 0.0, 0.0, 0.0, 0.0])
    law = Law("efftokens", theta[None, None], np.array([[2.0, 1.0]]), np.ones(1), 0.0)
    found = best_on_simplex(lambda p: tuple(x[0, 0] for x in law.derivatives(p)), np.ones(3))
    assert found.p_J == pytest.approx(k ** (1 / (1 - r)) / (k ** (1 / (1 - r))).sum(), abs=1e-5)


def test_limits_that_nothing_keeps_are_refused_with_the_least_violation():
    with pytest.raises(Refused, match=r"the tokens at hand make only 70\.0%"):
        best_on_simplex(divergence(np.ones(2) / 2), np.array([0.3, 0.4]))
    with pytest.raises(Refused, match="the least that is possible is"):
        best_on_simplex(
            divergence(np.ones(2) / 2), np.array([0.1, 1.0]), [Limit(divergence(np.ones(2) / 2), 0.1, "KL")]
        )


def test_repeats_wear_out_by_the_published_law():
    felt, slope, bend = repeated(np.array([0.1, 0.2, 0.8]), np.array([np.inf, 0.2, 0.2]))
    assert felt[:2] == pytest.approx([0.1, 0.2]) and slope[:2] == pytest.approx([1, 1])
    assert felt[2] == pytest.approx(0.2 + 0.2 * 15.39 * (1 - np.exp(-3 / 15.39)))
    assert slope[2] == pytest.approx(np.exp(-3 / 15.39)) and bend[2] < 0


# ---- intervals -----------------------------------------------------------------------------------------------------


def test_cv_plus_is_the_published_formula():
    random = np.random.default_rng(0)
    by_fold, residual, fold = random.normal(size=(3, 4)), random.normal(size=19), np.arange(19) % 3
    low, high = cv_plus(by_fold, residual, fold, 0.9)
    for m in range(4):
        assert low[m] == np.sort(by_fold[fold, m] - np.abs(residual))[2 - 1]
        assert high[m] == np.sort(by_fold[fold, m] + np.abs(residual))[18 - 1]


def test_pairs_of_runs_count_as_the_runs_that_they_are_made_of():
    """Of 40 runs in ten folds 60 pairs were ranked as 60 runs, and too short an interval taken."""
    fold = np.arange(40) % 10
    i, _ = pairs(fold).T
    assert len(i) == 60
    difference, level = np.random.default_rng(0).normal(size=60), np.zeros((10, 1))
    low, high = cv_plus(level, difference, fold[i], 0.9, runs=40)[:, 0]
    assert high == np.sort(np.abs(difference))[56 - 1] and low == -high  # ceil(.9 · 41/40 · 60)
    assert cv_plus(level, difference, fold[i], 0.9)[1, 0] == np.sort(np.abs(difference))[55 - 1]


@pytest.mark.parametrize(("runs", "folds"), [(12, 3), (16, 4), (40, 10), (100, 10)])
def test_few_runs_are_left_out_four_at_a_time(runs, folds):
    p, loss, _ = swarm(runs=runs)
    made = foldwise("linear", p, loss, fit_member("linear", p, loss))
    assert np.bincount(made.fold_N).min() >= 4 and len(np.unique(made.fold_N)) == folds


@pytest.mark.parametrize("truth", ["its own law", "another law"])
def test_intervals_hold_nine_of_ten_new_runs_also_under_another_law(truth):
    inside = []
    for seed in range(5):
        p, loss, f = swarm(truth, runs=48, noise=0.03, seed=seed)
        random = np.random.default_rng(100 + seed)
        q = swarms.proportions(100, 5, random)
        actual = f(q) + random.normal(0, 0.03, (100, 3))
        others = swarms.tables(q, actual, 1000)[0]
        rows = predictions(*swarms.tables(p, loss), others)
        for t in range(3):
            inside.append(np.mean([row[f"m{t}_low"] <= a <= row[f"m{t}_high"] for row, a in zip(rows, actual[:, t])]))
    assert 0.85 <= np.mean(inside) <= 0.97


def test_folds_do_not_depend_on_the_order_of_the_rows():
    p, loss, _ = swarm(runs=30)
    turn = np.random.default_rng(3).permutation(30)
    a = foldwise("linear", p, loss, fit_member("linear", p, loss))
    b = foldwise("linear", p[turn], loss[turn], fit_member("linear", p[turn], loss[turn]))
    assert (a.fold_N[turn] == b.fold_N).all()
    assert a.outside_NT[turn] == pytest.approx(b.outside_NT, abs=1e-6)
