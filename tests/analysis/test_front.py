"""Fronts and critical shares: plain geometry, golden numbers of two papers, and synthetic studies with known truth."""

from __future__ import annotations

import json
import math
import runpy
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curricle.analysis.critical import CriticalRatio, critical_share, published_continual
from curricle.analysis.finding import Finding
from curricle.analysis.front import areas, front, hypervolume, knee, non_dominated
from curricle.report import words
from curricle.report.charts import front as charts
from curricle.study import Refused

SIMULATION = runpy.run_path(str(Path(__file__).parents[2] / "scripts/simulations/front.py"))
points = st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=1, max_size=9).map(
    lambda p: np.array(p, dtype=float)
)


def rows(losses: dict[float, list[float]], name: str = "web", **more: object) -> list[dict]:
    """General losses by share of the target, one value a seed."""
    return [
        {"strategy": f"{x:g}", "seed": s, "final": True, "benchmark": name, "measure": "bits per byte", "score": y,
         "math": x, **more}
        for x, ys in losses.items()
        for s, y in enumerate(ys)
    ]  # fmt: skip


# ---- published ----------------------------------------------------------------------------------------------------


def test_published_critical_ratios_come_out_of_the_published_coefficients() -> None:
    found = {f.parts["size"]: f for f in published_continual() if "size" in f.parts}
    assert {size: round(f.estimate, 1) for size, f in found.items()} == {
        "460M": 29.8, "940M": 34.9, "1.6B": 41.4, "3.1B": 47.8,
    }  # fmt: skip
    assert all(not f.intervals and "seeds are unknown" in f.note for f in found.values())


def test_the_published_trade_off_gives_the_share_that_its_authors_recommend() -> None:
    found = published_continual()[-1]
    assert round(found.estimate / 100, 3) == 0.924
    assert found.parts["bound"] == pytest.approx(1.03 * 2.8602)
    assert found.parts["between_low"] == pytest.approx(92.4) and found.parts["between_high"] == pytest.approx(93.0)


def test_the_recommended_share_is_found_without_its_own_run() -> None:
    table = [r for r in published_continual()[-1].table if r["share"] != pytest.approx(92.4)]
    without = [
        {**r, "seed": 0, "final": True, "benchmark": "g", "measure": "nats", "score": r["general"]} for r in table
    ]
    (found,) = critical_share(without, "share", "g", rise=0.03, relative=True, before=2.8602, measure="nats")
    assert found.estimate / 100 == pytest.approx(92.4, abs=0.15)  # the column is in percent already


def test_a_ratio_is_cut_to_what_a_share_can_be() -> None:
    assert CriticalRatio(1.0, 1.0, 0.0).at(50) == 100 and CriticalRatio(-1.0, 1.0, 0.0).at(50) == 0
    with pytest.raises(Refused, match="above 0"):
        CriticalRatio(1.0, 1.0, 0.0).at(0)


# ---- geometry -----------------------------------------------------------------------------------------------------


@given(points)
def test_a_point_is_on_the_front_where_no_other_is_better_in_all(p: np.ndarray) -> None:
    by_hand = [not any((q <= a).all() and (q < a).any() for q in p) for a in p]
    assert non_dominated(p).tolist() == by_hand


@given(points, st.randoms())
def test_the_hypervolume_counts_the_dominated_cells_and_knows_no_order(p: np.ndarray, random) -> None:
    reference = np.array([9.0, 9.0])
    cells = sum(bool((p <= (x, y)).all(axis=1).any()) for x in range(9) for y in range(9))
    assert hypervolume(p, reference) == pytest.approx(cells)
    assert float(areas(np.array(random.sample(p.tolist(), len(p))), reference)) == pytest.approx(cells)


@given(points)
def test_a_third_objective_that_is_the_same_for_all_only_multiplies(p: np.ndarray) -> None:
    flat = np.column_stack([p, np.full(len(p), 2.0)])
    assert hypervolume(flat, np.array([9.0, 9.0, 5.0])) == pytest.approx(3 * hypervolume(p, np.array([9.0, 9.0])))


def test_the_knee_is_where_the_front_bends() -> None:
    assert knee(np.array([[0, 10], [1, 1], [10, 0], [5, 5]], dtype=float)) == 1
    assert knee(np.array([[0, 10], [5, 5], [10, 0]], dtype=float)) is None  # a straight front has none
    assert knee(np.array([[0, 10], [10, 0]], dtype=float)) is None


# ---- the front ----------------------------------------------------------------------------------------------------


def test_a_dominated_strategy_is_found_and_called_so_with_its_probability() -> None:
    def target(s: float) -> float:
        return SIMULATION["target_law"](s) + (0.03 if s == 0.85 else 0)

    shares, general = (0.5, 0.65, 0.8, 0.85, 1.0), SIMULATION["LAWS"]["bends up"]
    made = SIMULATION["study"](np.random.default_rng(0), general, 0.001, shares, target=target)
    found = front(made, "math", ["web"], share="math")
    off = [r for r in found.table if not r["on_front"]]
    assert [r["share"] for r in off] == [pytest.approx(0.85)] and off[0]["p_front"] < 0.01
    assert found.parts["knee"] and found.interval().contains(found.estimate)
    assert Finding.from_json(json.loads(json.dumps(found.to_json(), allow_nan=False))) == found
    assert charts.chart(found).to_dict()["layer"]


def test_scores_where_more_is_better_are_turned_round() -> None:
    made = rows({0.5: [1.0, 1.01], 0.8: [1.1, 1.12], 1.0: [1.2, 1.21]})
    gains = {0.5: 20.0, 0.8: 30.0, 1.0: 25.0}
    made += [{**r, "benchmark": "gsm", "measure": "accuracy", "score": gains[r["math"]] + r["seed"]} for r in made]
    found = front(made, "gsm", "web", measure="accuracy")
    assert [r["on_front"] for r in found.table] == [True, True, False]
    assert [r["target"] for r in found.table] == [20.5, 30.5, 25.5]


def test_one_seed_speaks_about_these_weights_or_says_that_nothing_is_known() -> None:
    made = rows({0.5: [1.0], 1.0: [1.2]}) + rows({0.5: [0.9], 1.0: [0.8]}, "math")
    silent = front(made, "math", "web")
    assert not silent.intervals and all(r["p_front"] is None for r in silent.table) and "One seed" in silent.note
    spoken = front([{**r, "item_variance": 1e-4} for r in made], "math", "web")
    assert spoken.interval().kind == "these weights" and all(r["p_front"] > 0.9 for r in spoken.table)


def test_a_front_fills_no_more_than_its_box_and_says_what_the_box_is() -> None:
    noisy = rows({0.5: [1.0, 1.3], 1.0: [1.2, 1.0]})
    noisy += rows({0.5: [0.9, 0.7], 1.0: [0.85, 0.95]}, "math")
    found = front(noisy, "math", "web")
    interval = found.interval()
    assert interval and 0 <= interval.low <= interval.high <= 100
    corner = f"{found.parts['reference_target']:.4g} (target), {found.parts['reference_general']:.4g} (general)"
    assert f"The box lies between the best that was measured of each and {corner}, the worst moved out" in found.note
    given = front(noisy, "math", "web", reference=(2.0, 2.0))
    assert "2 (target), 2 (general), the reference given" in given.note


def test_an_accuracy_of_0_has_no_sign_and_limits_that_an_accuracy_can_have() -> None:
    made = rows({0.5: [1.0, 1.01], 0.8: [1.1, 1.12]})
    made += [{**r, "benchmark": "gsm", "measure": "accuracy", "score": 0.0 if r["seed"] else 0.5} for r in made]
    made += [{**r, "strategy": "none", "score": 0.0 if r["benchmark"] == "gsm" else 1.3} for r in made]
    found = front(made, "gsm", "web", measure="accuracy")
    assert all(math.copysign(1, r["target"]) == 1 and 0 <= r["target_low"] <= r["target_high"] for r in found.table)
    assert words.cell(-0.0) == "0"


def test_a_third_objective_keeps_a_cheaper_strategy_on_the_front() -> None:
    made = rows({0.5: [1.0, 1.0], 0.8: [1.1, 1.12]}) + rows({0.5: [0.8, 0.8], 0.8: [0.9, 0.9]}, "math")
    assert [r["on_front"] for r in front(made, "math", "web").table] == [True, False]
    cheap = [{**r, "flops": 2.0 if r["math"] == 0.5 else 1.0} for r in made]
    assert [r["on_front"] for r in front(cheap, "math", "web", cost="flops").table] == [True, True]


def test_what_cannot_be_a_front_is_refused() -> None:
    made = rows({0.5: [1.0]}) + rows({0.5: [0.9]}, "math")
    with pytest.raises(Refused, match="two make one"):
        front(made, "math", "web")
    with pytest.raises(Refused, match="did you mean 'web'"):
        front(made, "math", "wen")
    with pytest.raises(Refused, match="must be worse"):
        front(made + rows({1.0: [1.2]}) + rows({1.0: [0.7]}, "math"), "math", "web", reference=(0.5, 2.0))
    with pytest.raises(Refused, match="rows: score is nan in row 0"):
        front(rows({0.5: [float("nan")], 1.0: [1.0]}) + rows({0.5: [1.0], 1.0: [1.0]}, "math"), "web", "math")


def test_a_strategy_that_scatters_more_is_less_surely_off_the_front() -> None:
    quiet = {0.4: [0.999, 1.0, 1.001], 0.6: [1.019, 1.02, 1.021], 1.0: [1.079, 1.08, 1.081]}
    target = rows({0.4: [0.5] * 3, 0.6: [0.4] * 3, 0.8: [0.41] * 3, 1.0: [0.2] * 3}, "math")
    found = front(rows({**quiet, 0.8: [0.99, 1.04, 1.09]}) + target, "math", "web")
    (off,) = [row for row in found.table if not row["on_front"]]
    # Its own mean is known to .05/√3, and .02 less would put it there: a quarter. The pooled spread says a tenth.
    assert off["strategy"] == "0.8" and 0.2 < off["p_front"] < 0.35


# ---- critical shares ----------------------------------------------------------------------------------------------


@given(st.integers(0, 10_000), st.floats(0.1, 10), st.permutations(range(12)))
@settings(max_examples=30)
def test_a_critical_share_knows_neither_the_unit_of_loss_nor_the_order_of_rows(seed, unit, order) -> None:
    random = np.random.default_rng(seed)
    made = rows({x: (1 + 0.2 * x**2 + random.normal(0, 0.003, 3)).tolist() for x in (0.4, 0.6, 0.8, 1.0)})
    (plain,) = critical_share(made, "math", "web", rise=0.12, before=1.0)
    scaled = [{**made[i], "score": unit * made[i]["score"]} for i in order]
    (other,) = critical_share(scaled, "math", "web", rise=0.12 * unit, before=unit)
    assert other.estimate == pytest.approx(plain.estimate)
    assert other.interval().low == pytest.approx(plain.interval().low, abs=0.1)


def test_a_noisier_strategy_has_limits_of_its_own_and_a_critical_share_beside_it_is_less_sure() -> None:
    quiet = {0.4: [0.999, 1.0, 1.001], 0.6: [1.019, 1.02, 1.021], 0.8: [1.039, 1.04, 1.041], 1.0: [1.079, 1.08, 1.081]}
    wild = {**quiet, 0.8: [0.99, 1.04, 1.09]}
    calm, wide = (critical_share(rows(made), "math", "web", rise=0.03, before=1.0)[0] for made in (quiet, wild))
    assert wide.estimate == pytest.approx(calm.estimate)
    widths = [row["high"] - row["low"] for row in wide.table]
    assert widths[2] == pytest.approx(2 * 4.303 * 0.05 / 3**0.5, rel=0.01) and widths[2] > 1.5 * widths[0]
    assert wide.interval().high - wide.interval().low > calm.interval().high - calm.interval().low
    on = front(rows(wild) + rows({x: [1 - x] * 3 for x in wild}, "math"), "math", "web")
    assert [row["general_high"] - row["general_low"] for row in on.table] == pytest.approx(widths, rel=0.01)


def test_a_share_beyond_what_was_measured_is_at_least_that_and_one_below_is_not_made_up() -> None:
    made = rows({0.4: [1.01, 1.02], 0.8: [1.03, 1.05]})
    (more,) = critical_share(made, "math", "web", rise=0.5, before=1.0)
    assert more.estimate == 80 and more.parts["censored"] and more.interval().high is None and "At least" in more.note
    (less,) = critical_share(made, "math", "web", rise=0.001, before=1.0)
    assert less.estimate is None and "smaller ones are needed" in less.undefined


def test_a_bound_on_an_accuracy_is_refused_since_it_falls_where_general_ability_does() -> None:
    made = [{**r, "measure": "accuracy"} for r in rows({0.2: [60.0, 61.0], 0.8: [20.0, 21.0]})]
    with pytest.raises(Refused, match="'accuracy' rises"):
        critical_share(made, "math", "web", rise=5.0, before=60.0, measure="accuracy")


def test_each_domain_has_its_share_and_the_weighted_mean_lies_between() -> None:
    made = rows({0.4: [1.0, 1.01], 0.7: [1.1, 1.11], 1.0: [1.3, 1.31]})
    made += rows({0.4: [1.0, 1.01], 0.7: [1.02, 1.03], 1.0: [1.21, 1.2]}, "books")
    web, books, both = critical_share(made, "math", {"web": 1, "books": 3}, rise=0.1, before={"web": 1, "books": 1})
    assert web.estimate < both.estimate < books.estimate and both.benchmark == "weighted mean"
    assert charts.critical_chart(both).to_dict()["layer"]


def test_the_loss_before_is_the_one_model_that_all_last_stages_begin_from() -> None:
    made = [{**r, "tokens": 200, "stage_tokens": 100} for r in rows({0.4: [1.0, 1.01], 1.0: [1.3, 1.31]})]
    start = [{**r, "tokens": 100, "stage_tokens": 100, "final": False, "score": 0.95} for r in made]
    (found,) = critical_share([*made, *start], "math", "web", rise=0.1)
    assert found.parts["before"] == pytest.approx(0.95)
    other = [{**r, "score": 0.9 if r["math"] == 1.0 else 0.95} for r in start]
    with pytest.raises(Refused, match="begin at different losses"):
        critical_share([*made, *other], "math", "web", rise=0.1)


def test_shares_are_those_of_the_last_stage_alone() -> None:
    made = [
        {"strategy": a, "seed": s, "tokens": t, "stage_tokens": st_, "final": t == 200, "benchmark": "web",
         "measure": "bits per byte", "score": y + s * 0.01, "dose:math": d, "dose:web": t - d}
        for a, y, share in (("few", 1.0, 0.2), ("many", 1.2, 0.9))
        for s in (0, 1)
        for t, st_, d in ((100, 100, 50.0), (200, 100, 50.0 + 100 * share))
    ]  # fmt: skip
    (found,) = critical_share(made, "math", "web", rise=0.1, before=1.0)
    assert [r["share"] for r in found.table] == pytest.approx([20, 90])


@pytest.mark.parametrize("law", ["bends up", "straight", "bends down", "sharp, near 1"])
def test_the_interval_holds_the_truth_however_the_loss_bends(law: str) -> None:
    bias, share, error = SIMULATION["critical"](60, law, 0.002)
    assert share >= 0.95 - 3 * max(error, 0.028) and abs(bias) < 3


def test_the_hypervolume_covers_and_no_dominated_point_is_called_sure() -> None:
    found = SIMULATION["fronts"](60, 0.004)
    assert found["covered"] >= 0.95 - 3 * 0.028
    assert found["dominated, called sure (p > .95)"] == 0 and found["of those with p > .9 truly on the front"] == 1
