"""Upper limits: code lengths, floors, and limits that hold wherever their assumptions do."""

from __future__ import annotations

import json
import math
import runpy
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curricle.analysis.bound import bounds, head_start_bound, information_bound, regret_bound
from curricle.analysis.bound_score import accuracy_bound, accuracy_from_loss, binary_kl, highest, last_loss_bound
from curricle.analysis.code_length import code_lengths, fit_floor
from curricle.analysis.finding import Finding
from curricle.analysis.rows.outcomes import steps_of
from curricle.report.charts import bound as charts
from curricle.results import Results
from curricle.study import Refused

SIMULATION = runpy.run_path(str(Path(__file__).parents[2] / "scripts/simulations/bound.py"))
study, CODE, scratch = (SIMULATION[name] for name in ("study", "CODE", "scratch"))


def steps(losses: dict[str, list[float]], tokens: int = 10, **more: object) -> list[dict]:
    return [
        {"strategy": a, "seed": s, "stage": "math", "step": t + 1, "tokens": (t + 1) * tokens, "loss_nats": x, **more}
        for a, xs in losses.items()
        for s in (0, 1)
        for t, x in enumerate(xs)
    ]


def test_a_code_length_is_the_sum_of_losses_times_tokens_in_bits() -> None:
    made = code_lengths(steps({"a": [2.0] * 10}), "math", ["a"])["a"]
    assert made.bits_ST.sum(axis=1) == pytest.approx([2.0 * 100 / math.log(2)] * 2)


def test_what_was_read_twice_is_left_out() -> None:
    rows = steps({"a": [2.0] * 20}, first_pass_tokens=100.0)
    assert code_lengths(rows, "math", ["a"])["a"].tokens == 100
    assert code_lengths(rows, "math", ["a"], first_pass_tokens=150)["a"].tokens == 150


def test_arms_are_compared_on_the_same_batches_and_seeds_only() -> None:
    rows = steps({"a": [2.0] * 12, "b": [1.0] * 10})
    rows = [r for r in rows if not (r["strategy"] == "b" and r["seed"] == 1)]
    made = code_lengths(rows, "math", ["a", "b"])
    assert made["a"].seeds == (0,) and made["a"].tokens == made["b"].tokens == 100
    with pytest.raises(Refused, match="other batches"):
        code_lengths(
            [*steps({"a": [2.0] * 10}, batch_tokens=10), *steps({"b": [2.0] * 10}, batch_tokens=9)], "math", ["a", "b"]
        )
    with pytest.raises(Refused, match="did you mean 'math'"):
        code_lengths(rows, "maths", ["a"])
    with pytest.raises(Refused, match="8 are needed"):
        code_lengths(steps({"a": [1.0] * 5}), "math", ["a"])


@given(st.floats(0.2, 3.0), st.floats(0.3, 1.2), st.floats(1.0, 50.0))
@settings(max_examples=8)
def test_a_floor_is_found_without_noise_and_scales_with_the_loss(floor: float, alpha: float, unit: float) -> None:
    x = np.geomspace(1e3, 1e6, 25)
    y = floor + 5.0 * (x / 1e3) ** -alpha
    found, scaled = fit_floor(x, y), fit_floor(x, unit * y)
    assert found.low - 0.03 <= floor <= found.high + 0.03  # the grid's own step
    assert found.estimate == pytest.approx(floor, abs=0.05)
    assert scaled.estimate == pytest.approx(unit * found.estimate, rel=1e-6)


def test_a_straight_line_on_logs_shows_no_floor() -> None:
    x = np.geomspace(1e3, 1e4, 12)
    noisy = 3 * x**-0.1 + np.random.default_rng(0).normal(0, 0.005, 12)
    assert fit_floor(x, noisy).low < 0.1
    with pytest.raises(Refused, match="6 are needed"):
        fit_floor(x[:5], noisy[:5])


def test_the_saving_and_its_limit_are_said_side_by_side() -> None:
    rows = study(np.random.default_rng(0), CODE["a head start of 20k"], batches=300)
    found = bounds(rows, "code", "scratch", "math", parameters=1e4)
    regret, head, information = found
    assert regret.parts["measured"] == head.parts["measured"] == information.parts["measured"]
    assert regret.parts["certain"] > regret.estimate > head.estimate > head.parts["measured"] > 0
    assert head.table[-1]["saved"] == pytest.approx(head.parts["saved_bits"])
    assert information.estimate is None and "procedural control" in information.undefined
    for f in found:
        assert Finding.from_json(json.loads(json.dumps(f.to_json(), allow_nan=False))) == f
    assert charts.chart(regret).to_dict()["layer"] and charts.side_by_side(found[:2]).to_dict()["layer"]


@pytest.mark.parametrize("code", ["nothing", "a head start of 60k", "each token worth 1.5", "harm"])
def test_no_limit_is_passed_where_its_assumption_holds(code: str) -> None:
    random = np.random.default_rng(8)
    for _ in range(4):
        rows = study(random, CODE[code], batches=300)
        assert not regret_bound(rows, "code", "scratch", "math", floor_nats=2.0).parts["violated"]
        assert not regret_bound(rows, "code", "scratch", "math").parts["violated"]
        assert not head_start_bound(rows, "code", "scratch", "math").parts["violated"]


def test_the_limit_knows_that_another_run_spends_otherwise() -> None:
    """A known floor leaves the seeds' spread; of many studies' bounds the interval holds their mean."""
    random = np.random.default_rng(5)
    for bound in (regret_bound, head_start_bound):
        found = [
            bound(study(random, CODE["a head start of 20k"], batches=120), "code", "scratch", "math", floor_nats=2.0)
            for _ in range(30)
        ]
        assert all(f.interval().kind == "this strategy" and f.interval().high > f.interval().low for f in found)
        if bound is regret_bound:  # the head start itself is held fixed, and differs from study to study
            mean = float(np.mean([f.estimate for f in found]))
            assert np.mean([f.interval().contains(mean) for f in found]) >= 0.95 - 3 * math.sqrt(0.05 * 0.95 / 30)
    alone = study(random, CODE["a head start of 20k"], seeds=1, batches=120)
    given = regret_bound(alone, "code", "scratch", "math", floor_nats=2.0)
    assert not given.intervals and "One seed: what another run" in given.note
    assert regret_bound(alone, "code", "scratch", "math").interval().kind == "these weights"


def test_a_floor_that_is_too_high_is_seen() -> None:
    rows = study(np.random.default_rng(0), lambda x: scratch(x) - 0.8, batches=300)
    found = regret_bound(rows, "code", "scratch", "math", floor_nats=2.6)
    assert found.parts["violated"] and "the floor is above the entropy" in found.note


def test_a_head_start_is_told_from_tokens_that_are_worth_more() -> None:
    random = np.random.default_rng(3)
    head = head_start_bound(study(random, CODE["a head start of 20k"]), "code", "scratch", "math")
    more = head_start_bound(study(random, CODE["each token worth 1.5"]), "code", "scratch", "math")
    assert not head.parts["growing"] and head.parts["marginal_slope"] < -1 and "1/D" in head.note
    assert more.parts["growing"] and more.parts["marginal_slope"] > -1 and "grows along the stage" in more.note


def test_a_control_that_cures_nothing_shows_in_what_code_saves_beyond_it() -> None:
    random = np.random.default_rng(4)
    cured = study(random, lambda x: scratch(x + 21_000), control=CODE["a head start of 20k"], batches=200)
    not_cured = study(random, lambda x: scratch(x + 21_000), control=scratch, batches=200)
    wanted = {"control": "control", "parameters": 1500.0}
    assert not information_bound(cured, "code", "scratch", "math", **wanted).parts["violated"]
    assert information_bound(not_cured, "code", "scratch", "math", **wanted).parts["violated"]


def test_one_seed_gives_a_limit_without_an_interval_for_the_saving() -> None:
    rows = study(np.random.default_rng(0), CODE["nothing"], seeds=1, batches=100)
    found = regret_bound(rows, "code", "scratch", "math")
    assert found.parts["measured_low"] is None and "One seed" in found.note


# ---- accuracy -----------------------------------------------------------------------------------------------------


@given(st.floats(0.001, 0.999), st.floats(0.0, 5.0))
def test_the_accuracy_limit_is_where_the_divergence_is_spent_and_below_pinskers(p0: float, kl: float) -> None:
    p = highest(p0, kl)
    assert p0 <= p <= min(1.0, p0 + math.sqrt(kl / 2)) + 1e-6
    assert binary_kl(p, p0) <= kl + 1e-9
    assert p > 1 - 1e-9 or binary_kl(min(p + 1e-6, 1.0), p0) >= kl - 1e-6


def test_no_pair_of_models_passes_the_accuracy_limit() -> None:
    broken, looser = SIMULATION["answers"](200)
    assert broken == 0 and looser > 0


def test_an_accuracy_limit_knows_its_own_uncertainty() -> None:
    plain = accuracy_bound(40.0, 0.02)
    found = accuracy_bound(40.0, [0.0, 0.05, 0.01, 0.02] * 25, problems=200, measured_percent=45.0)
    assert not plain.intervals and found.estimate == pytest.approx(plain.estimate, abs=0.1)
    assert found.interval().high > found.estimate and found.parts["pinsker"] > found.estimate
    assert found.parts["violated"] is False
    assert accuracy_bound(0.0, 0.1).estimate == 0 and accuracy_bound(100.0, 0.1).estimate == 100
    assert "empty" in accuracy_bound(40.0, 50.0).note
    for wrong in ((140.0, 0.1), (40.0, -0.1), (40.0, float("nan"))):
        with pytest.raises(Refused):
            accuracy_bound(*wrong)


def scores(gap: float, seeds: int = 3, random_seed: int = 0, of_run: float = 0.0) -> list[dict]:
    """Losses and accuracies of two arms; `gap` is what the code arm's accuracy has beyond its loss, in logits, `of_run`
    the spread of what all points of a run have so."""
    random, made = np.random.default_rng(random_seed), []
    for arm, start in (("scratch", 0.0), ("code", 4000.0)):
        for seed in range(seeds):
            luck = random.normal(0, of_run) if of_run else 0.0
            for t in range(1, 9):
                loss = 0.6 + 20 * (1000.0 * t + start) ** -0.4 + random.normal(0, 0.002)
                p = 1 / (1 + math.exp(-(3 - 3 * loss + gap * (arm == "code") + luck + random.normal(0, 0.02))))
                place = {"strategy": arm, "seed": seed, "tokens": 1000 * t, "stage_tokens": 1000 * t, "position": 0,
                         "final": t == 8, "benchmark": "algebra", "items": 500}  # fmt: skip
                made += [{**place, "measure": "bits per byte", "score": loss},
                         {**place, "measure": "accuracy", "score": 100 * p}]  # fmt: skip
    return made


def test_the_last_loss_cannot_gain_more_than_what_lies_above_the_floor() -> None:
    known = last_loss_bound(scores(0.0), "code", "scratch", "algebra", floor_bits=0.6)
    assert known.estimate > known.parts["measured"] > 0 and not known.parts["violated"]
    fitted = last_loss_bound(scores(0.0), "code", "scratch", "algebra")
    assert fitted.interval().contains(known.estimate)
    few = [r for r in scores(0.0) if r["tokens"] >= 5000]
    assert "taken as 0" in last_loss_bound(few, "code", "scratch", "algebra").note
    high = last_loss_bound(scores(0.0), "code", "scratch", "algebra", floor_bits=1.2)
    assert high.parts["violated"] and "too high" in high.note


def test_a_known_floor_leaves_the_spread_of_the_last_loss() -> None:
    """The scratch arm ends at .6 + 20·8000^−.4 on average; of one run less of that is known, and it is not said."""
    truth, studies = 20 * 8000**-0.4, 40
    found = [
        last_loss_bound(scores(0.0, random_seed=k), "code", "scratch", "algebra", floor_bits=0.6)
        for k in range(studies)
    ]
    assert np.mean([f.interval().contains(truth) for f in found]) >= 0.95 - 3 * math.sqrt(0.05 * 0.95 / studies)
    ranged = last_loss_bound(scores(0.0), "code", "scratch", "algebra", floor_bits=0.6, floor_range=(0.5, 0.65))
    assert ranged.interval().high > ranged.estimate + 0.1 and ranged.interval().low < ranged.estimate - 0.05
    one = last_loss_bound(scores(0.0, seeds=1), "code", "scratch", "algebra", floor_bits=0.6)
    assert not one.intervals and "One seed" in one.note


def test_no_head_start_has_no_interval() -> None:
    falling = [4.0 - 0.02 * t for t in range(100)]
    found = head_start_bound(
        steps({"scratch": falling, "code": [x + 0.5 for x in falling]}), "code", "scratch", "math", floor_nats=1.0
    )
    assert found.parts["head_start_tokens"] == 0.0 == found.estimate
    assert not found.intervals and "nowhere ahead" in found.note


def test_where_loss_decides_accuracy_its_floor_caps_it_and_elsewhere_nothing_is_said() -> None:
    found = accuracy_from_loss(scores(0.0), "code", "scratch", "algebra", floor_bits=0.6)
    assert found.estimate == pytest.approx(100 / (1 + math.exp(-(3 - 1.8))), abs=3)
    assert "extrapolation" in found.note and not found.parts["violated"]
    apart = accuracy_from_loss(scores(0.5), "code", "scratch", "algebra", floor_bits=0.6)
    assert apart.estimate is None and "at equal loss the two arms differ" in apart.undefined
    assert "one seed" in accuracy_from_loss(scores(0.0, seeds=1), "code", "scratch", "algebra").undefined


@pytest.mark.parametrize("of_run", [0.0, 0.05])
def test_the_limit_of_accuracy_carries_the_curves_uncertainty_and_the_floors(of_run: float) -> None:
    truth, studies = 100 / (1 + math.exp(-(3 - 1.8))), 60
    found = [
        accuracy_from_loss(scores(0.0, random_seed=k, of_run=of_run), "code", "scratch", "algebra", floor_bits=0.6)
        for k in range(studies)
    ]
    held = [f.interval().contains(truth) for f in found if f.interval()]
    assert len(held) > 0.8 * studies and np.mean(held) >= 0.95 - 3 * math.sqrt(0.05 * 0.95 / studies)
    fitted = accuracy_from_loss(scores(0.0, of_run=of_run), "code", "scratch", "algebra")
    known = found[0].interval()
    assert fitted.parts["floor_high"] > fitted.parts["floor_low"]
    assert fitted.interval().high - fitted.interval().low > known.high - known.low > 0


# ---- rows -----------------------------------------------------------------------------------------------------------


def test_steps_of_results_stand_for_every_strategy_that_passes_through_the_run(rows, write, tmp_path) -> None:
    made = rows()
    run = next(r for r in made["runs"] if r["stage"] == "math")
    made["steps"] = [
        {"run": run["run"], "stage": "math", "seed": run["seed"], "step": t + 1, "tokens": 20 * (t + 1),
         "loss_nats": 3.0 - 0.1 * t, "grad_norm": 1.0, "lr": 1e-3, "tokens_per_second": 1.0}
        for t in range(10)
    ]  # fmt: skip
    made["runs"].append({**run, "strategy": "twin"})
    results: Results = write(made)
    found = steps_of(results)
    assert {r["strategy"] for r in found} == {run["strategy"], "twin"} and len(found) == 20
    assert {r["batch_tokens"] for r in found} == {20} and {r["first_pass_tokens"] for r in found} == {None}
    assert regret_bound(found, "twin", run["strategy"], "math").parts["measured"] == 0
