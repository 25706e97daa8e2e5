"""What a stage gives for what it costs: known rates, known head starts, and budgets split so that nothing is gained by
moving a token."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curricle.analysis.allocation import best_split, split
from curricle.analysis.efficiency import efficiency, marginal, transfer_law, transferred
from curricle.analysis.statistics.powerlaw import PowerLaw
from curricle.analysis.transfer_runs import transfer_law_of_runs
from curricle.report.charts.efficiency import chart
from curricle.study import Refused

X = 1e6 * 2.0 ** np.arange(8)
SCRATCH = PowerLaw(0.8, 0.6, 0.3, 1e6)


def curve(name: str, law, seed: int, seeds: int = 3, sd: float = 0.004, between: float = 0.0) -> list[dict]:
    random = np.random.default_rng(seed)
    return [
        {"strategy": name, "seed": s, "stage": "math", "stage_tokens": float(x), "measure": "bits per byte",
         "benchmark": "math", "score": float(law(x)) + offset + random.normal(0, sd), "items": 50}
        for s, offset in enumerate(random.normal(0, between, seeds))
        for x in X
    ]  # fmt: skip


# ---- rates --------------------------------------------------------------------------------------------------------


def stage(position: int, tokens: int, score: float, seed: int, flops: float, measure: str = "accuracy") -> dict:
    return {
        "strategy": "a", "seed": seed, "stage": f"s{position}", "position": position, "stage_tokens": tokens,
        "score": score, "benchmark": "algebra", "measure": measure, "flops": flops,
    }  # fmt: skip


def test_rates_are_gains_over_costs() -> None:
    rows = [
        row for seed in (0, 1)
        for row in (stage(0, 0, 10.0, seed, 0.0), stage(0, 2_000_000, 20.0 + 2 * seed, seed, 4e15),
                    stage(1, 1_000_000, 40.0 + 2 * seed, seed, 9e15))
    ]  # fmt: skip
    found = {(f.parts["stage"], f.unit): f for f in efficiency(rows)}
    assert found["s0", "points per million tokens"].estimate == pytest.approx(11 / 2)
    assert found["s0", "points per 10^15 FLOPs"].estimate == pytest.approx(11 / 4)
    assert found["s1", "points per million tokens"].estimate == pytest.approx(20)
    assert found["s1", "points per 10^15 FLOPs"].estimate == pytest.approx(20 / 5)
    assert found["s0", "points per million tokens"].interval() is not None
    bits = [{**row, "measure": "bits per byte", "score": 5 - row["score"] / 100, "flops": None} for row in rows]
    assert [f.unit for f in efficiency(bits)] == ["bits per byte per million tokens"] * 2
    assert all((f.estimate or 0) > 0 for f in efficiency(bits))  # fewer bits are a gain
    assert all("Positive: bits per byte taken off." in f.note for f in efficiency(bits))  # a difference has the other
    assert all("Positive: points gained." in f.note for f in efficiency(rows))


def test_rates_of_many_stages_are_corrected_and_a_stages_two_rates_are_one_test() -> None:
    rows = [
        {**row, "strategy": name}
        for name in ("a", "b") for seed in (0, 1, 2)
        for row in (stage(0, 0, 10.0 + 0.1 * seed, seed, 0.0), stage(0, 2_000_000, 11.0 + 0.2 * seed, seed, 4e15),
                    stage(1, 1_000_000, 12.0 + 0.4 * seed + (name == "b"), seed, 9e15))
    ]  # fmt: skip
    found = efficiency(rows)  # the first stage is one for both strategies, so there are three
    assert len(found) == 8 and all(f.test.endswith("Holm over 3") for f in found)
    assert len({f.p_value for f in found if f.parts["stage"] == "s0"}) == 1
    alone = efficiency([row for row in rows if row["strategy"] == "a" and row["position"] == 0])
    by_stage = {f.parts["stage"]: f.p_value for f in found}
    assert alone[0].test == "t over seeds" and by_stage["s0"] > alone[0].p_value


def test_without_a_beginning_there_is_no_rate() -> None:
    with pytest.raises(Refused, match="before it"):
        efficiency([stage(0, 1_000_000, 20.0, 0, 1e15)])


# ---- horizontally ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("times", [1.0, 3.0])
def test_a_multiplier_is_read_off_two_curves(times: float) -> None:
    rows = curve("scratch", SCRATCH, 1) + curve("code", lambda x: SCRATCH(times * x), 2)
    given, ratio = transferred(rows, "code", "scratch")
    interval = ratio.interval()
    assert ratio.estimate == pytest.approx(times, rel=0.15) and interval is not None and interval.contains(times)
    tokens = float(given.parts["tokens"] or 0)
    assert given.estimate == pytest.approx((float(ratio.estimate or 0) - 1) * tokens)
    assert tokens * times <= 1.1 * X[-1]  # read where the scratch curve was measured
    assert given.n == 50 and given.seeds == 3


def test_past_what_scratch_reached_there_is_a_limit_and_no_number() -> None:
    rows = curve("scratch", SCRATCH, 1) + curve("code", lambda x: SCRATCH(3 * x), 2)
    beyond = [row for row in transferred(rows, "code", "scratch")[0].table if row.get("beyond")]
    assert beyond and all(row["high"] is None for row in beyond)
    assert all(float(row["scratch_low"] or 0) <= X[-1] for row in beyond)
    far = curve("scratch", SCRATCH, 1) + curve("code", lambda x: SCRATCH(1e3 * x), 2)
    found = transferred(far, "code", "scratch")[0]
    interval = found.interval()
    assert found.estimate is None and "below all that scratch reached" in (found.undefined or "")
    assert interval is not None and interval.high is None and interval.low is not None
    assert interval.low == pytest.approx(X[-1] - X[0], rel=0.2)


@pytest.mark.slow
def test_no_transfer_is_claimed_at_its_nominal_rate() -> None:
    claims, studies = 0, 20
    for k in range(studies):
        rows = curve("scratch", SCRATCH, 2 * k, between=0.004) + curve("code", SCRATCH, 2 * k + 1, between=0.004)
        interval = transferred(rows, "code", "scratch")[0].interval()
        claims += interval is not None and not interval.contains(0.0)
    assert claims / studies <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / studies)


def test_a_curve_that_its_runs_do_not_follow_is_said_with_what_follows() -> None:
    bent = curve("scratch", lambda x: SCRATCH(x) + 0.1 * (x > 1e7), 1)
    found, _ = transferred(bent + curve("code", lambda x: SCRATCH(3 * x), 2), "code", "scratch")
    assert float(found.parts["lack_of_fit_p_scratch"] or 0) < 0.05
    assert "From scratch: The law does not fit" in found.note and "the runs of scratch do not follow" in found.note
    straight = curve("scratch", SCRATCH, 1) + curve("code", lambda x: SCRATCH(3 * x), 2)
    assert "do not follow" not in transferred(straight, "code", "scratch")[0].note


def test_accuracies_and_unknown_strategies_are_refused() -> None:
    rows = curve("scratch", SCRATCH, 1) + curve("code", SCRATCH, 2)
    with pytest.raises(Refused, match="did you mean"):
        transferred(rows, "cod", "scratch")
    with pytest.raises(Refused, match="accuracy does not follow"):
        transferred([{**row, "measure": "accuracy"} for row in rows], "code", "scratch")


@given(st.floats(1e2, 1e6), st.floats(0.05, 0.9), st.floats(0.1, 0.9), st.floats(1e-3, 1e3))
@settings(max_examples=30)
def test_the_transfer_law_is_found_and_follows_the_unit(k: float, alpha: float, beta: float, unit: float) -> None:
    rows = [
        {"tokens": d * unit, "params": n, "transferred": unit * k * d**alpha * n**beta}
        for d in (1e6, 1e7, 1e8)
        for n in (1e6, 4e7)
    ]
    found = transfer_law(rows)
    assert found.estimate == pytest.approx(alpha) and found.parts["beta"] == pytest.approx(beta)
    assert found.parts["k"] == pytest.approx(k * unit ** (1 - alpha), rel=1e-6)


def test_a_transfer_law_needs_help_and_budgets() -> None:
    rows = [{"tokens": 10.0**k, "transferred": 5.0 * 10 ** (0.2 * k)} for k in range(4)]
    one = transfer_law(rows)
    assert "beta" not in one.parts and "One model size" in one.note
    with pytest.raises(Refused, match="transferred"):
        transfer_law([*rows, {"tokens": 1e6, "transferred": -3.0}])
    with pytest.raises(Refused, match="need 3"):
        transfer_law(rows[:2])


def law_rows(seed: int, alpha: float, middle: float, seeds: int = 3) -> list[dict]:
    """D_T is `middle` tokens at a budget of 11.3M, the geometric mean of `X`."""
    unit = math.exp(float(np.log(X).mean()))
    after = curve("code", lambda x: SCRATCH(x + middle * (x / unit) ** alpha), 2 * seed, seeds, between=0.004)
    return curve("scratch", SCRATCH, 2 * seed + 1, seeds, between=0.004) + after


def test_budgets_of_one_pair_of_curves_are_no_independent_points() -> None:
    table = [
        row for row in transferred(law_rows(0, 0.0, 4e7), "code", "scratch")[0].table if row.get("beyond") is False
    ]
    with pytest.raises(Refused, match="transfer_law_of_runs"):
        transfer_law(table)
    sizes = [{**table[0], "tokens": table[0]["tokens"] * (1 + k % 3), "params": 1e6 * 2**k} for k in range(5)]
    assert transfer_law(sizes).parts["df"] == 2  # one of each pair is independent


def test_the_law_of_transfer_is_found_from_the_runs_and_its_interval_holds_it() -> None:
    held = []
    for seed in range(6):
        found = transfer_law_of_runs(law_rows(seed, 0.3, 1.5e7), "code", "scratch")
        held.append(found.interval().contains(0.3))
        assert found.estimate == pytest.approx(0.3, abs=0.3)
    assert np.mean(held) >= 0.95 - 3 * math.sqrt(0.05 * 0.95 / 6)
    assert found.parts["transferred"] == pytest.approx(1.5e7, rel=0.3)
    k, middle, alpha = (float(found.parts[name] or 0) for name in ("k", "middle", "alpha"))
    assert k * middle**alpha == pytest.approx(found.parts["transferred"])
    json.dumps(found.to_json(), allow_nan=False)


def test_without_transfer_its_law_has_no_exponent() -> None:
    told = [transfer_law_of_runs(law_rows(seed, 0.0, 0.0), "code", "scratch").estimate for seed in range(6)]
    assert sum(estimate is not None for estimate in told) <= 1


def test_a_law_of_transfer_needs_two_runs_on_the_same_budgets() -> None:
    with pytest.raises(Refused, match="one run"):
        transfer_law_of_runs(law_rows(0, 0.0, 4e7, seeds=1), "code", "scratch")
    with pytest.raises(Refused, match="same budgets"):
        transfer_law_of_runs(law_rows(0, 0.0, 4e7)[:-1], "code", "scratch")


def test_the_next_token_says_whose_it_is_and_a_limit_of_nothing_is_0() -> None:
    """Runs that are level but for their noise: nothing is gained, or hardly anything."""
    noise = np.random.default_rng(0).normal(0, 0.02, (3, 7))
    rows = [
        {"strategy": "math first", "seed": s, "benchmark": "b", "measure": "bits per byte",
         "stage_tokens": 1e5 * 2**k, "score": 1.5 + noise[s, k]}
        for s in range(3) for k in range(7)
    ]  # fmt: skip
    found = marginal(rows)
    assert found.subject == "the next token of math first after 6.4M" and found.parts["strategy"] == "math first"
    assert "Positive: bits per byte taken off." in found.note
    low = found.intervals[0].low
    assert low is not None and (low == 0.0 or low < -1e-9), "rounding is told from a rise"
    drawn = chart(found).to_dict()["data"]["values"]
    assert len(drawn) == 7 and all(row["low"] > 0 for row in drawn), "on logarithms"


def test_the_next_token_gives_what_the_curves_slope_says() -> None:
    truth, held = -float(SCRATCH.slope(X[-1])) * 1e15 / 1e9, 0
    for seed in range(20):
        found = marginal(curve("a", SCRATCH, seed), flops_per_token=1e9)
        held += found.interval().contains(truth)
        assert found.estimate == pytest.approx(truth, rel=0.25)
    assert held / 20 >= 0.95 - 3 * math.sqrt(0.05 * 0.95 / 20)
    assert found.unit == "bits per byte per 10^15 FLOPs"
    assert marginal(curve("a", SCRATCH, 3), at=[1e6, 1e9]).table[-1]["beyond"]


# ---- a split budget -------------------------------------------------------------------------------------------------

WORTH = st.dictionaries(st.sampled_from("abcdef"), st.floats(0.01, 100), min_size=1, max_size=6)


@given(WORTH, st.floats(0.05, 0.95), st.floats(1, 1e9), st.data())
def test_the_last_token_of_every_source_gives_the_same(worth: dict, r: float, budget: float, data) -> None:
    cost = {name: data.draw(st.floats(0.1, 10)) for name in worth}
    x = split(worth, r, budget, cost)
    assert sum(cost[n] * x[n] for n in x) == pytest.approx(budget)
    closed = {n: (worth[n] / cost[n]) ** (1 / (1 - r)) for n in worth}
    for n in x:
        assert x[n] == pytest.approx(budget * closed[n] / sum(cost[m] * closed[m] for m in worth), rel=1e-6)
    last = [worth[n] * r * x[n] ** (r - 1) / cost[n] for n in x if x[n] > 1e-200]
    assert max(last) == pytest.approx(min(last), rel=1e-6)


@given(WORTH, st.floats(0.05, 1.0), st.data())
def test_limits_are_kept_and_no_move_of_a_token_gains(worth: dict, r: float, data) -> None:
    most = {name: data.draw(st.floats(1, 100)) for name in worth}
    budget = data.draw(st.floats(0.1, 0.99)) * sum(most.values())
    x = split(worth, r, budget, most=most)
    assert all(0 <= x[n] <= most[n] * (1 + 1e-12) for n in x) and sum(x.values()) == pytest.approx(budget)

    def total(given: dict) -> float:
        return sum(worth[n] * given[n] ** r for n in given)

    step = 1e-4 * budget
    for a in x:
        for b in x:
            if a != b and x[a] >= step and x[b] + step <= most[b]:
                assert total(x | {a: x[a] - step, b: x[b] + step}) <= total(x) * (1 + 1e-9)


def test_without_diminishing_returns_all_goes_to_the_best() -> None:
    assert split({"a": 1, "b": 2, "c": 3}, 1, 10, cost={"c": 2}, most={"b": 4}) == {"a": 0.0, "b": 4, "c": 3.0}
    assert split({"a": 1, "b": 1.001}, 0.99999, 10)["b"] == pytest.approx(10)
    for worth, r, budget in (({"a": 0.0}, 0.5, 1), ({"a": 1.0}, 1.5, 1), ({"a": 1.0}, 0.5, 0), ({}, 0.5, 1)):
        with pytest.raises(Refused):
            split(worth, r, budget)


def test_a_split_says_how_sure_it_is() -> None:
    random = np.random.default_rng(0)
    draws = [({"a": 1 + 0.2 * z, "b": 2.0}, 0.5) for z in random.normal(size=200)]
    found = best_split({"a": 1.0, "b": 2.0}, 0.5, 100, draws=draws)
    row = found.table[0]
    assert row["share"] == pytest.approx(0.2) and float(row["low"] or 0) < 0.2 < float(row["high"] or 0)
    assert 0 < float(found.parts["regret"] or 0) < 0.02 < 1 - float(found.parts["equal_split"] or 0)


def test_findings_are_plain_json_and_are_drawn() -> None:
    rows = curve("scratch", SCRATCH, 1) + curve("code", lambda x: SCRATCH(3 * x), 2)
    for found in (
        *transferred(rows, "code", "scratch"),
        marginal(rows[:24]),
        best_split({"a": 1.0, "b": 2.0}, 0.5, 10),
    ):
        json.dumps(found.to_json(), allow_nan=False)
        assert chart(found).to_dict()["layer"]
