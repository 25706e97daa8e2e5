from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curricle.analysis.finding import KINDS, THESE_PROBLEMS, THESE_WEIGHTS, THIS_STRATEGY
from curricle.analysis.statistics.intervals import (
    bits_per_byte,
    crossed,
    estimate,
    fieller,
    fieller_proportions,
    holm,
    mean_products,
    over_problems,
    over_seeds,
    spread,
    student,
    wilson,
)

shapes = st.tuples(st.integers(2, 5), st.integers(2, 12), st.integers(0, 2**32 - 1))


def table(shape: tuple[int, int, int], sd: float = 1.0) -> np.ndarray:
    s, n, seed = shape
    random = np.random.default_rng(seed)
    return random.normal(0, sd, (s, n)) + random.normal(0, sd, n) + random.normal(0, sd, (s, 1))


def coverage(s: int, n: int, problem_sd: float, seed_sd: float, kind: str, truth: float = 0.3) -> tuple[float, float]:
    """Share of 1500 synthetic studies whose interval holds the truth, and that share's Monte-Carlo error."""
    random, repeats, held = np.random.default_rng(12), 1500, 0
    fixed_P = random.normal(0, problem_sd, n)
    fixed_S = random.normal(0, seed_sd, (s, 1))
    for _ in range(repeats):
        p = fixed_P if kind == THESE_PROBLEMS else random.normal(0, problem_sd, n)
        z = fixed_S if kind == THESE_WEIGHTS else random.normal(0, seed_sd, (s, 1))
        target = truth + (p.mean() if kind == THESE_PROBLEMS else 0) + (z.mean() if kind == THESE_WEIGHTS else 0)
        interval = estimate(truth + p + z + random.normal(0, 1, (s, n)), kind).interval()
        held += bool(interval and interval.contains(target))
    share = held / repeats
    return share, math.sqrt(share * (1 - share) / repeats)


@pytest.mark.parametrize("seed_sd", [0.05, 0.1, 0.3])
def test_crossed_intervals_cover_93_to_96_percent_at_3_seeds(seed_sd: float) -> None:
    share, error = coverage(3, 200, 0.5, seed_sd, THIS_STRATEGY)
    assert 0.93 - 3 * error <= share <= 0.96 + 3 * error


@pytest.mark.parametrize(
    ("n", "problem_sd", "seed_sd"), [(200, 0.5, 0.0), (40, 0.5, 0.0), (40, 0.0, 0.0), (40, 0.5, 0.3)]
)
def test_crossed_intervals_never_cover_too_little_at_3_seeds_nulls_included(
    n: int, problem_sd: float, seed_sd: float
) -> None:
    share, error = coverage(3, n, problem_sd, seed_sd, THIS_STRATEGY, truth=0.0)
    assert share >= 0.93 - 3 * error


@pytest.mark.parametrize("kind", [THESE_WEIGHTS, THESE_PROBLEMS])
def test_the_other_kinds_cover_what_they_speak_about(kind: str) -> None:
    share, error = coverage(3, 60, 0.5, 0.2, kind)
    assert abs(share - 0.95) <= 4 * error


def test_an_interval_over_problems_does_not_speak_about_a_strategy() -> None:
    """The reason why both are shown: with seeds that differ it covers far too little."""
    random = np.random.default_rng(3)
    held = sum(
        bool(
            (i := over_problems(random.normal(0, 0.3, (3, 1)) + random.normal(0, 1, (3, 200))).interval())
            and i.contains(0)
        )
        for _ in range(300)
    )
    assert held / 300 < 0.6


def test_crossed_variance_is_the_formula_of_the_two_way_table() -> None:
    d = table((3, 7, 1))
    s, n = d.shape
    p = s * ((d.mean(0) - d.mean()) ** 2).sum() / (n - 1)
    z = n * ((d.mean(1) - d.mean()) ** 2).sum() / (s - 1)
    e = ((d - d.mean(0) - d.mean(1)[:, None] + d.mean()) ** 2).sum() / ((n - 1) * (s - 1))
    v = (p + z - e) / (n * s)
    found = crossed(d)
    assert z > e
    assert found.variance == pytest.approx(v)
    parts = (p / (n * s)) ** 2 / (n - 1) + (z / (n * s)) ** 2 / (s - 1) + (e / (n * s)) ** 2 / ((n - 1) * (s - 1))
    assert found.df == pytest.approx(max(1.0, v**2 / parts))


def test_over_problems_and_over_seeds_are_paired_t_intervals() -> None:
    from scipy.stats import ttest_1samp

    d = table((4, 9, 5))
    for found, sample in ((over_problems(d), d.mean(0)), (over_seeds(d), d.mean(1))):
        known = ttest_1samp(sample, 0)
        interval, wanted = found.interval(), known.confidence_interval()
        assert interval is not None
        assert (interval.low, interval.high) == pytest.approx((wanted.low, wanted.high))
        assert found.p_value == pytest.approx(known.pvalue)


@given(shapes)
def test_mean_products_are_those_of_polarisation(shape: tuple[int, int, int]) -> None:
    a, b = table(shape), table((*shape[:2], shape[2] // 2 + 1))
    plus, minus = a + b, a - b
    by_polarisation = (mean_products(plus, plus) - mean_products(minus, minus)) / 4
    np.testing.assert_allclose(mean_products(a, b), by_polarisation, atol=1e-9)


@given(shapes, st.floats(-100, 100), st.floats(0.01, 100))
def test_intervals_follow_a_shift_and_a_change_of_unit(shape: tuple[int, int, int], shift: float, scale: float) -> None:
    d = table(shape)
    for kind in KINDS:
        plain, moved = estimate(d, kind).interval(), estimate(scale * d + shift, kind).interval()
        assert plain and moved
        wanted = [scale * (plain.low or 0) + shift, scale * (plain.high or 0) + shift]
        np.testing.assert_allclose([moved.low, moved.high], wanted, rtol=1e-6, atol=1e-6 * scale)


@given(shapes)
def test_the_order_of_items_and_seeds_does_not_matter(shape: tuple[int, int, int]) -> None:
    d = table(shape)
    shuffled = np.random.default_rng(shape[2]).permutation(np.random.default_rng(1).permutation(d, axis=1), axis=0)
    for kind in KINDS:
        a, b = estimate(d, kind), estimate(shuffled, kind)
        assert (a.value, a.variance, a.df) == pytest.approx((b.value, b.variance, b.df))


@given(shapes)
def test_a_strategy_is_never_known_better_than_its_weights(shape: tuple[int, int, int]) -> None:
    d = table(shape)
    assert (crossed(d).variance or 0) >= (over_problems(d).variance or 0)
    assert crossed(d).df >= 1


def test_one_seed_gives_no_interval_for_the_strategy_and_says_so() -> None:
    d = table((1, 8, 0))
    assert crossed(d).interval() is None and over_seeds(d).interval() is None
    assert "One seed" in crossed(d).note
    assert over_problems(d).interval() is not None


def test_no_variation_gives_no_interval_and_no_error() -> None:
    for kind in KINDS:
        found = estimate(np.full((3, 5), 0.1), kind)
        assert found.interval() is None and found.p_value is None and "No variation" in found.note


def test_scores_that_are_not_numbers_are_refused() -> None:
    with pytest.raises(ValueError, match="finite"):
        crossed(np.array([[1.0, math.nan], [0.0, 1.0]]))


# ---- ratios


def pair(p1: float, p2: float, n: int = 80, s: int = 3, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    ease = random.normal(0, 0.15, n)
    return tuple((random.random((s, n)) < p + ease + random.normal(0, 0.02, (s, 1))) * 100.0 for p in (p1, p2))  # type: ignore[return-value]


@pytest.mark.parametrize("kind", KINDS)
def test_fieller_is_the_inversion_of_the_test_at_each_ratio(kind: str) -> None:
    before, after = pair(0.4, 0.55)
    ratio = fieller(before, after, kind)
    assert ratio.interval and ratio.interval.low is not None and ratio.interval.high is not None
    grid = np.linspace(0, 4, 8001)
    accepted = [rho for rho in grid if (i := estimate(after - rho * before, kind).interval()) and i.contains(0)]
    assert ratio.interval.low == pytest.approx(100 * (min(accepted) - 1), abs=0.06)
    assert ratio.interval.high == pytest.approx(100 * (max(accepted) - 1), abs=0.06)


def test_fieller_over_problems_is_the_textbook_quadratic() -> None:
    before, after = pair(0.4, 0.55)
    n = before.shape[1]
    t = float(student(n - 1, 0.95))
    v = np.cov(before.mean(0), after.mean(0)) / n
    p1, p2 = before.mean(), after.mean()
    roots = np.roots([p1**2 - t**2 * v[0, 0], -2 * (p1 * p2 - t**2 * v[0, 1]), p2**2 - t**2 * v[1, 1]])
    found = fieller(before, after, THESE_WEIGHTS).interval
    assert found
    np.testing.assert_allclose([found.low, found.high], 100 * (np.sort(roots) - 1), rtol=1e-8)


@settings(max_examples=60)
@given(st.integers(0, 10**6), st.sampled_from([0.1, 0.3, 0.5]), st.sampled_from(KINDS))
def test_a_relative_gain_is_never_claimed_where_the_difference_is_not(seed: int, p2: float, kind: str) -> None:
    before, after = pair(0.3, p2, n=20, seed=seed)
    ratio, difference = fieller(before, after, kind), estimate(after - before, kind).interval()
    if ratio.interval and difference and min(abs(difference.low or 0), abs(difference.high or 0)) > 1e-9:
        assert ratio.interval.contains(0) or not difference.contains(0)


@pytest.mark.slow
def test_fieller_holds_the_true_ratio_at_3_seeds() -> None:
    held, repeats = 0, 400
    for k in range(repeats):
        random = np.random.default_rng(k)
        ease_P = random.normal(0, 10, 60)
        before, after = (m + ease_P + random.normal(0, 2, (3, 1)) + random.normal(0, 20, (3, 60)) for m in (40, 60))
        interval = fieller(before, after).interval
        held += bool(interval and interval.contains(50.0))
    assert held / repeats >= 0.93 - 3 * math.sqrt(0.93 * 0.07 / repeats)


def test_a_relative_gain_from_zero_is_undefined() -> None:
    before, after = pair(0.4, 0.5)
    assert fieller(0 * before, after).percent is None
    assert fieller_proportions(0.0, 100, 0.2, 100).percent is None


def test_a_relative_gain_from_nearly_zero_is_unbounded_and_says_why() -> None:
    before, after = np.zeros((3, 50)), pair(0.4, 0.5, n=50)[1]
    before[0, 0] = 100.0
    ratio = fieller(before, after)
    assert ratio.percent is not None and ratio.interval
    assert ratio.interval.high is None and ratio.interval.low is not None and ratio.interval.low > 0
    assert "Unbounded" in ratio.note and "not told from 0" in ratio.note


def test_fieller_of_proportions_solves_its_equation() -> None:
    found = fieller_proportions(0.143, 5000, 0.362, 5000)
    assert found.percent == pytest.approx(153.1468531)
    assert found.interval
    for limit in (found.interval.low, found.interval.high):
        rho = 1 + (limit or 0) / 100
        error = math.sqrt(0.362 * 0.638 / 5000 + rho**2 * 0.143 * 0.857 / 5000)
        assert abs(0.362 - rho * 0.143) == pytest.approx(1.959963985 * error)
    unbounded = fieller_proportions(0.008, 118, 0.0, 118)
    assert unbounded.interval and unbounded.interval.high is None and "Unbounded" in unbounded.note


# ---- the rest


def test_bits_per_byte_of_the_table_is_the_ratio_of_sums() -> None:
    random = np.random.default_rng(0)
    size = random.integers(10, 500, 30).astype(float)
    nats = size * random.uniform(0.5, 1.5, (3, 30))
    y = bits_per_byte(nats, size)
    np.testing.assert_allclose(y.mean(axis=1), nats.sum(axis=1) / math.log(2) / size.sum())


def test_the_error_of_bits_per_byte_is_that_of_a_jackknife() -> None:
    random = np.random.default_rng(1)
    size = random.integers(50, 400, 200).astype(float)
    nats = size * random.normal(1.0, 0.2, 200)
    ratio = np.array([np.delete(nats, i).sum() / np.delete(size, i).sum() for i in range(200)]) / math.log(2)
    jackknife = 199 / 200 * ((ratio - ratio.mean()) ** 2).sum()
    assert over_problems(bits_per_byte(nats[None], size)).variance == pytest.approx(jackknife, rel=0.03)


def test_wilson_and_holm_give_textbook_values() -> None:
    w = wilson(0.1, 20)
    assert (w.low, w.high) == pytest.approx((0.02787, 0.30103), abs=2e-5)
    assert wilson(0.0, 10).low == 0 and wilson(1.0, 10).high == 1
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([None, 0.5]) == [None, 0.5] and holm([]) == []


def test_degrees_of_freedom_are_at_least_one() -> None:
    _, df = spread(np.array([1e-9, 1.0, 1.0]), 2, 50, THIS_STRATEGY)
    assert df == 1.0
