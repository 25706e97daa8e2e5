"""Pooled spreads, what they let be seen, and ranks: one function each, and right."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chi2, spearmanr, t

from curricle.analysis.statistics.intervals import rank_correlation, ranked
from curricle.analysis.statistics.spread import of_runs, own_of, reach, spread_crossed, spread_within, two_way, within

NUMBERS = st.integers(-5, 5).map(float)


@given(st.integers(0, 2**32 - 1), st.integers(2, 6), st.integers(2, 6))
def test_what_a_seed_or_a_cell_shares_is_no_part_of_the_two_way_spread(seed: int, cells: int, seeds: int) -> None:
    random = np.random.default_rng(seed)
    y = random.normal(size=(cells, seeds))
    moved = y + random.normal(0, 100, (cells, 1)) + random.normal(0, 100, seeds)
    assert two_way(moved)[0] == pytest.approx(two_way(y)[0]) and two_way(y)[1] == (cells - 1) * (seeds - 1)
    assert two_way(y.T) == pytest.approx(two_way(y))


def test_both_spreads_estimate_the_variance_of_a_run() -> None:
    random = np.random.default_rng(0)
    tables = random.normal(0, 2, (4000, 3, 4))
    assert np.mean([two_way(y)[0] for y in tables]) == pytest.approx(4, rel=0.05)
    assert np.mean([within([y[0], y[1, :2], y[2, :1]])[0] for y in tables]) == pytest.approx(4, rel=0.05)
    assert within([np.ones(1), np.ones(1)]) == (0.0, 0) and two_way(np.ones((1, 3))) == (0.0, 0)


@pytest.mark.parametrize("shared", [0.0, 0.5, 0.9])
def test_the_limits_of_a_spread_hold_where_points_of_a_run_share_its_luck(shared: float) -> None:
    random, studies = np.random.default_rng(2), 600
    cell, run = (a.ravel() for a in np.meshgrid(np.arange(8), np.arange(3)))
    kept = ~((cell == 7) & (run == 2))  # and where one run lacks a cell
    held = 0
    for _ in range(studies):
        luck = np.sqrt(shared) * random.normal(size=3)
        y = cell + luck[run] + np.sqrt(1 - shared) * random.normal(size=24)
        variance, low, high = of_runs(y[kept], cell[kept], run[kept])
        held += low <= 1 <= high
        assert variance == pytest.approx(within([y[kept & (cell == c)] for c in range(8)])[0])
    assert held / studies >= 0.95 - 3 * np.sqrt(0.05 * 0.95 / studies)


def test_runs_with_a_point_each_have_the_limits_of_one_chi_square() -> None:
    y, cell = np.array([1.0, 2.0, 4.0, 7.0, 6.0]), np.array([0, 0, 0, 1, 1])
    assert of_runs(y, cell, np.arange(5)) == pytest.approx((within([y[:3], y[3:]])[0], *_by_chi_square(y, 3)))
    assert of_runs(y, np.arange(5), np.zeros(5)) is None


def _by_chi_square(y: np.ndarray, df: int) -> tuple[float, float]:
    squares = within([y[:3], y[3:]])[0] * df
    return squares / chi2.ppf(0.975, df), squares / chi2.ppf(0.025, df)


def test_a_cells_own_spread_is_told_apart_from_what_seeds_share() -> None:
    random, sd = np.random.default_rng(2), np.array([1.0, 1.0, 3.0, 2.0, 1.0])
    tables = sd[:, None] * random.normal(size=(4000, 5, 6)) + random.normal(0, 5, (4000, 1, 6))
    assert np.mean([own_of(y) for y in tables], 0) == pytest.approx(sd**2, rel=0.2)  # held at a tenth from below
    assert own_of(tables[0][:2]) == pytest.approx([two_way(tables[0][:2])[0]] * 2)


@pytest.mark.parametrize(
    ("times", "shared", "least", "most"),
    [(1, 3, 0.94, 0.975), (3, 3, 0.87, 0.93), (6, 0, 0.88, 0.94), (6, 3, 0.88, 0.94)],
)
def test_a_contrast_with_a_noisier_cell_is_held_nearly_as_often_as_said(times, shared, least, most) -> None:
    """Pooling alone holds .835 and .765 with one of five cells 3 and 6 times noisier, whatever seeds share."""
    random, weights = np.random.default_rng(3), np.array([1.0, -1.0, 0.0, 0.0, 0.0])
    held = 0
    for y in random.normal(size=(1500, 5, 3)):
        y = y * np.array([[1], [times], [1], [1], [1]]) + shared * random.normal(size=3)
        variance, df = spread_crossed(y).of(weights)
        held += abs(weights @ y.mean(1)) <= t.ppf(0.975, df) * np.sqrt(variance)
    assert least < held / 1500 < most


def test_a_contrast_of_quiet_cells_keeps_the_pooled_spread_and_cells_of_one_run_have_it() -> None:
    cells = [np.array([0.0, 10.0, -10.0]), np.array([0.0, 0.1, -0.1]), np.array([0.0, 0.1, -0.2]), np.array([1.0])]
    spread = spread_within(cells)
    assert spread.uneven and spread.of(np.array([0, 1, -1, 0]))[1] == spread.df == 6
    variance, df = spread.of(np.array([1, -1, 0, 0]))
    assert variance == pytest.approx(cells[0].var(ddof=1) / 3 + cells[1].var(ddof=1) / 3) and df == pytest.approx(
        2, 0.01
    )
    assert spread.variances_C[3] == spread.pooled and "Bartlett, p = " in spread.note("cells")
    more = spread.of(np.array([1, 0, 0, 0, -1]), np.array([3, 3, 3, 1, 3]))  # a cell that the spread knows nothing of
    assert more[0] == pytest.approx(cells[0].var(ddof=1) / 3 + spread.pooled / 3)


@pytest.mark.parametrize(("df", "level", "power"), [(4, 0.95, 0.8), (18, 0.99, 0.9)])
def test_an_effect_at_reach_is_told_as_often_as_it_says(df: int, level: float, power: float) -> None:
    """The shifted t, which the formula takes for the noncentral one, is off by a little at few degrees of freedom."""
    random, n = np.random.default_rng(1), 200_000
    statistic = (random.normal(reach(df, level, power), 1, n)) / np.sqrt(random.chisquare(df, n) / df)
    assert np.mean(statistic > t.ppf((1 + level) / 2, df)) == pytest.approx(power, abs=0.03)


@given(st.lists(st.tuples(NUMBERS, NUMBERS), min_size=2, max_size=30))
def test_ranks_share_ties_and_their_correlation_is_spearmans(pairs: list[tuple[float, float]]) -> None:
    a, b = np.array(pairs).T
    assert ranked(a).sum() == pytest.approx(len(a) * (len(a) + 1) / 2)
    found = rank_correlation(a, b)
    assert found == (pytest.approx(spearmanr(a, b).statistic) if np.ptp(a) and np.ptp(b) else 0.0)
