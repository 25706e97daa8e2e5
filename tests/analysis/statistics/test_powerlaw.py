"""Fitted curves: exact where there is no noise, honest where there is, and no start or unit matters."""

from __future__ import annotations

import json
import math
from importlib.resources import files

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from curricle.analysis.statistics.powerlaw import NO_FLOOR, PowerLaw, fit, floor_error
from curricle.study import Refused

X = 1e6 * 2.0 ** np.arange(8)


@pytest.fixture(scope="module")
def marin() -> dict:
    return json.loads((files("curricle.analysis") / "published" / "marin_isotoken.json").read_text(encoding="utf-8"))


def ladder(marin: dict, most: float) -> tuple[np.ndarray, np.ndarray]:
    flops, loss = np.array(marin["flops"]), np.array(marin["loss"])
    return flops[flops <= most], loss[flops <= most]


def test_marins_ladder_up_to_3e20_predicts_what_was_published(marin: dict) -> None:
    f = fit(*ladder(marin, 3e20))
    said, low, high = f.predict(np.array([1e21, 1e22]))
    assert said == pytest.approx([marin["predicted"]["1e21"], marin["predicted"]["1e22"]], abs=1e-4)
    measured = dict(zip(marin["flops"], marin["loss"]))
    for at, a, b in zip((1e21, 1e22), low, high):
        assert a < measured[at] < b  # both came out higher than predicted; the intervals had said that they might


def test_marins_floor_is_hardly_known_and_moves_with_one_point(marin: dict) -> None:
    floor, low, high = fit(*ladder(marin, 3e20)).floor()
    assert floor == pytest.approx(0.063, abs=1e-3) and low == 0 and high > 0.8
    moved = fit(*ladder(marin, 1e21))
    assert moved.floor()[0] == pytest.approx(0.659, abs=1e-3)
    assert low <= moved.floor()[0] <= high


@given(
    st.floats(0.0, 3.0), st.floats(0.05, 3.0), st.floats(0.06, 1.2), st.floats(-6, 20),
)  # fmt: skip
@settings(max_examples=40)
def test_a_curve_without_noise_is_found_exactly_in_any_unit(
    floor: float, fall: float, alpha: float, unit: float
) -> None:
    x = np.exp(unit) * np.geomspace(1, 100, 7)
    law = PowerLaw(floor, fall, alpha, scale=float(x[0]))
    f = fit(x, law(x))
    assert f.law(x) == pytest.approx(law(x), abs=1e-5 * fall)
    assert f.law.exponent == pytest.approx(alpha, rel=0.02)
    assert float(f.law(4 * x[-1])) == pytest.approx(float(law(4 * x[-1])), abs=1e-3 * fall)


@given(st.permutations(range(16)), st.floats(1e-3, 1e6), st.floats(0.1, 10))
@settings(max_examples=15)
def test_order_of_rows_and_units_do_not_matter(order: list[int], x_unit: float, y_unit: float) -> None:
    random = np.random.default_rng(3)
    x, curve = np.tile(X, 2), np.repeat([0, 1], 8)
    y = PowerLaw(0.7, 0.5, 0.4, 1e6)(x) + random.normal(0, 0.01, 16) + np.repeat([0.01, -0.02], 8)
    f, g = fit(x, y, curve), fit(x[order] * x_unit, y[order] * y_unit, curve[order])
    assert g.law.exponent == pytest.approx(f.law.exponent, rel=1e-3)
    for a, b in zip(f.floor(), g.floor()):
        assert b == pytest.approx(a * y_unit, rel=1e-2, abs=1e-3 * y_unit)
    assert np.array(g.predict(4 * X[-1] * x_unit)) == pytest.approx(np.array(f.predict(4 * X[-1])) * y_unit, rel=1e-3)


def test_no_other_start_finds_a_better_fit() -> None:
    from scipy.optimize import least_squares

    random = np.random.default_rng(5)
    for trial in range(8):
        y = PowerLaw(0.8, 0.6, float(random.uniform(0.1, 0.8)), 1e6)(X) + random.normal(0, 0.01, 8)
        f = fit(X, y)
        for start in ((0.1, 1.0, 0.1), (0.7, 0.3, 0.5), (0.0, 1.4, 1.0)):
            other = least_squares(
                lambda p, y=y: p[0] + p[1] * (X / 1e6) ** -p[2] - y,
                start,
                bounds=([0, 0, 0.005], [9, 9, 5]),
                xtol=1e-12,
            )
            assert f.rss <= 2 * other.cost * (1 + 1e-4), trial


def test_the_interval_is_the_profile_of_the_likelihood() -> None:
    """Its ends are where the best fit that is forced through them is as bad as the limit allows."""
    from scipy.optimize import least_squares

    y = PowerLaw(0.8, 0.6, 0.4, 1e6)(X) + np.random.default_rng(8).normal(0, 0.01, 8)
    f, at = fit(X, y, least_floor=NO_FLOOR), 4 * X[-1]
    _, low, high = f.predict(at)
    limit = f.limits(np.array([at]), 0.95)[0]
    for end in (low[0], high[0]):

        def left(p: np.ndarray, end: float = end) -> np.ndarray:
            basis = (X / 1e6) ** -p[1]
            return end + p[0] * (basis - (at / 1e6) ** -p[1]) - y

        forced = min(2 * least_squares(left, (0.5, a), xtol=1e-12).cost for a in (0.2, 0.4, 0.7))
        assert forced == pytest.approx(limit, rel=1e-2)  # the sweep's grid


def test_the_floors_error_is_a_matter_of_the_design_alone() -> None:
    six = np.geomspace(1, 10**1.5, 6)
    assert floor_error(six, 0.1, 0.005) == pytest.approx(0.34, abs=0.005)
    assert floor_error(six, 0.3, 0.005) == pytest.approx(0.04, abs=0.001)
    assert floor_error(six * 1e9, 0.3, 0.005) == pytest.approx(floor_error(six, 0.3, 0.005), rel=1e-6)
    assert floor_error(np.geomspace(1, 1e3, 12), 0.3, 0.005) < floor_error(six, 0.3, 0.005) / 3


def test_the_simulated_spread_of_the_floor_reaches_its_cramer_rao_bound() -> None:
    random, law, floors = np.random.default_rng(1), PowerLaw(0.8, 0.6, 0.6, 1e6), []
    for _ in range(100):
        floors.append(fit(X, law(X) + random.normal(0, 0.003, 8)).law.floor)
    assert np.std(floors) == pytest.approx(floor_error(X, 0.6, 0.003), rel=0.25)


@pytest.mark.parametrize(("seeds", "between"), [(1, 0.0), (3, 0.005), (3, 0.0)])
def test_intervals_hold_the_truth_at_their_rate(seeds: int, between: float) -> None:
    random, law, held = np.random.default_rng(2), PowerLaw(0.8, 0.6, 0.3, 1e6), np.zeros(3)
    x, curve, studies = np.tile(X, seeds), np.repeat(np.arange(seeds), 8), 60
    for _ in range(studies):
        y = law(x) + random.normal(0, 0.005, len(x)) + np.repeat(random.normal(0, between, seeds), 8)
        f = fit(x, y, curve)
        _, low, high = f.predict(np.array([math.inf, 4 * X[-1], 1e7]))
        held += (low <= law(np.array([math.inf, 4 * X[-1], 1e7]))) & (high >= law(np.array([math.inf, 4 * X[-1], 1e7])))
    assert (held / studies >= 0.95 - 3 * math.sqrt(0.95 * 0.05 / studies)).all(), held / studies


def test_a_wrong_law_is_told_and_widens() -> None:
    random = np.random.default_rng(3)
    x = np.tile(X, 3)
    y = 0.8 + 0.6 * np.exp(-x / 2e7) + random.normal(0, 0.003, 24)
    f = fit(x, y)
    assert f.wrong is not None and f.wrong < 1e-6 and any("does not fit" in note for note in f.notes)
    assert f.sigma > 0.02


def test_with_as_many_budgets_as_parameters_a_law_stopped_at_its_edge_is_tested_and_no_other() -> None:
    rng = np.random.default_rng(4)
    x, run = np.tile([50e3, 100e3, 150e3], 3), np.repeat([0, 1, 2], 3)
    noise = 0.02 * rng.standard_normal(9)
    straight = fit(
        x, 2.5 - 1.9 * np.log(x / 50e3) + noise, list(run)
    )  # a straight line: only a floor below 0 follows it
    assert straight.law.floor == 0 and straight.wrong is not None and straight.wrong < 1e-3 and straight.df == 1
    bent = fit(x, 1 + 2 * (x / 50e3) ** -2.0 + noise, list(run))
    assert bent.law.floor > 0 and bent.wrong is None
    told = [fit(x, 2 * (x / 50e3) ** -0.8 + 0.03 * rng.standard_normal(9)).wrong for _ in range(100)]
    assert 20 < sum(p is not None for p in told) < 80 and sum(p is not None and p < 0.05 for p in told) <= 8


def test_the_right_law_is_told_wrong_at_the_nominal_rate() -> None:
    random, law, told = np.random.default_rng(4), PowerLaw(0.8, 0.6, 0.4, 1e6), 0
    for _ in range(80):
        f = fit(np.tile(X, 2), law(np.tile(X, 2)) + random.normal(0, 0.005, 16))
        told += f.wrong is not None and f.wrong < 0.05
    assert told / 80 <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / 80)


def test_a_checkpoints_curve_is_found_with_its_head_start() -> None:
    law = PowerLaw(0.7, 0.4, 0.5, scale=3e6, offset=1.0)
    x = np.r_[0.0, X]
    f = fit(x, law(x) + np.random.default_rng(7).normal(0, 1e-5, 9), checkpoint=True)
    assert f.law(x) == pytest.approx(law(x), abs=1e-4)
    assert f.law.floor == pytest.approx(0.7, abs=0.02) and f.law.scale == pytest.approx(3e6, rel=0.2)


def test_reach_is_the_inverse() -> None:
    for law in (PowerLaw(0.5, 0.6, 0.3, 1e6), PowerLaw(0.5, 0.6, 0.3, 1e6, 1.0)):
        assert law.reach(law(5e6)) == pytest.approx(5e6)
        assert law.reach(0.5) == math.inf and law.slope(5e6) < 0
    y = PowerLaw(0.5, 0.6, 0.3, 1e6)(X) + np.random.default_rng(1).normal(0, 0.004, 8)
    value, low, high = fit(X, y).reach([0.85])[0]
    assert low is not None and high is not None and low < value < high


@pytest.mark.parametrize(
    ("x", "y", "word"),
    [
        ([1, 2, 3], [3, 2, 1.5], "scored at 3 budgets, 3 points in all; .* needs 4 points"),
        ([1, 2, 2, 2], [3, 2, 2, 2], "scored at 2 budgets, 4 points in all"),
        ([0, 1, 2, 3], [4, 3, 2, 1], "budget of 0"),
        ([1, 2, 3, 4], [1, 1, 1, 1], "same loss"), ([1, 2, 3, math.nan], [4, 3, 2, 1], "finite"),
    ],
)  # fmt: skip
def test_what_cannot_be_fitted_is_refused(x: list[float], y: list[float], word: str) -> None:
    with pytest.raises(Refused, match=word):
        fit(x, y)


@given(st.lists(st.floats(0.1, 5), min_size=6, max_size=6))
@settings(max_examples=40)
def test_any_losses_give_finite_ordered_intervals(losses: list[float]) -> None:
    assume(max(losses) > min(losses))
    f = fit(X[:6], losses)
    for value, low, high in (
        f.floor(),
        *zip(*f.predict(np.array([1e6, 1e9]))),
        *zip(*f.doubling(1e7)),
        *zip(*f.slopes(1e7)),
    ):
        assert low <= value + 1e-9 and value <= high + 1e-9 and np.isfinite([low, value, high]).all()


def test_the_profile_of_the_exponent_holds_the_truth() -> None:
    law, held, studies = PowerLaw(0.6, 0.8, 0.3, 1e6), 0, 40
    x = np.tile(1e6 * 2.0 ** np.arange(8), 2)
    for k in range(studies):
        value, low, high = fit(x, law(x) + np.random.default_rng(k).normal(0, 0.005, len(x))).exponent()
        held += low <= 0.3 <= high
        assert low <= value <= high
    assert held / studies >= 0.95 - 3 * (0.05 * 0.95 / studies) ** 0.5
