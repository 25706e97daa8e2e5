"""Transfer: what is claimed from a factorial is what its cells carry, on the scale that is named."""

from __future__ import annotations

import json
import math
import random as stdlib_random
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from simulated import script

from curricle.analysis import Finding
from curricle.analysis.finding import ACCURACY, BITS_PER_BYTE, THESE_PROBLEMS, THESE_WEIGHTS, THIS_STRATEGY
from curricle.analysis.proposals.next_runs import unresolved
from curricle.analysis.rows.cells import read_factorial, snapped
from curricle.analysis.statistics.crossover import double_cancellation, gail_simon
from curricle.analysis.transfer import claims_adjusted, concluded, transfer, transfer_published, transfers
from curricle.results import MIXTURES, write_rows
from curricle.study import Refused

sim = script("transfer")
LAW = sim.t_law(1.0, 1.5, 0.5)


def rows(law=LAW, sigma: float = 0.1, seeds: int = 3, seed: int = 0, **more) -> list[dict]:
    return sim.Scenario("", law, ACCURACY, sigma, seeds, **more).rows(np.random.default_rng(seed))


def two_by_two(a: float, b: float, c: float, d: float, sd: float = 0.5, seeds: int = 3) -> list[dict]:
    """Accuracies of neither, code, mathematics, both; seeds spread evenly around them."""
    offsets = sd * (np.arange(seeds) - (seeds - 1) / 2)
    return [
        {"strategy": f"{code}{math_}", "seed": s, "benchmark": "b", "measure": ACCURACY, "score": value + offset,
         "dose:code": code, "dose:math": math_}
        for (code, math_), value in zip(((0, 0), (1e6, 0), (0, 1e6), (1e6, 1e6)), (a, b, c, d))
        for s, offset in enumerate(offsets)
    ]  # fmt: skip


# ---- golden numbers ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def published() -> dict[str, Finding]:
    return {f.benchmark: f for f in transfer_published()}


def test_the_published_interactions_are_found_on_the_raw_scale(published: dict[str, Finding]) -> None:
    wanted = {"GSM8K": -0.2, "MATH": 0.5, "CMATH": -2.6, "GSM8K+Py": -6.0, "MATH+Py": -5.0}
    assert {name: f.parts["raw_gamma"] for name, f in published.items()} == pytest.approx(wanted)


def test_no_published_benchmark_shows_synergy_and_maths_sign_changes_on_the_logit(
    published: dict[str, Finding],
) -> None:
    assert not [f for f in published.values() if f.parts["raw_gamma_low"] > 0 or f.interval().low > 0]
    assert {n for n, f in published.items() if f.parts["raw_gamma_p"] < 0.05} == {"GSM8K+Py", "MATH+Py"}
    assert round(published["MATH"].estimate, 2) == -0.05
    assert published["MATH"].parts["raw_gamma"] > 0


def test_published_cells_speak_about_their_weights_only(published: dict[str, Finding]) -> None:
    for f in published.values():
        assert [i.kind for i in f.intervals] == [THESE_WEIGHTS] and "Holm over 5" in f.test
        assert "nothing is said about another run" in f.note
        assert Finding.from_json(json.loads(json.dumps(f.to_json(), allow_nan=False))) == f


# ---- the estimate --------------------------------------------------------------------------------------------------


def test_gamma_of_four_cells_is_the_interaction_and_its_error_two_sigma_over_root_s() -> None:
    f = transfer(two_by_two(20, 30, 40, 65, seeds=4))
    sigma = f.parts["raw_seed_sd"]
    assert f.parts["raw_gamma"] == pytest.approx(65 - 40 - (30 - 20))
    from scipy.special import stdtrit

    half = (f.parts["raw_gamma_high"] - f.parts["raw_gamma_low"]) / 2
    assert half == pytest.approx(stdtrit(12, 0.975) * 2 * sigma / math.sqrt(4))
    logit = [math.log(p / (100 - p)) for p in (20, 30, 40, 65)]
    assert f.estimate == pytest.approx(logit[3] - logit[2] - logit[1] + logit[0], abs=1e-3)


def test_nine_cells_of_three_seeds_have_eighteen_degrees_of_freedom() -> None:
    f = transfer(rows(seed=1))
    assert f.parts["df"] == 18 and "18 degrees of freedom" in f.test
    assert [i.kind for i in f.intervals] == [THESE_PROBLEMS]


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=15)
def test_the_order_of_rows_does_not_matter(seed: int) -> None:
    made = rows()
    stdlib_random.Random(seed).shuffle(made)
    assert transfer(made) == transfer(rows())


@given(st.floats(1e-3, 1e6))
@settings(max_examples=15)
def test_the_unit_of_tokens_does_not_matter(unit: float) -> None:
    scaled = [{k: v * unit if k.startswith("dose:") else v for k, v in row.items()} for row in rows()]
    assert transfer(scaled).estimate == pytest.approx(transfer(rows()).estimate)


def test_swapping_the_sources_swaps_alpha_and_beta_and_keeps_gamma() -> None:
    one, other = transfer(rows()), transfer(rows(), sources=("math", "code"))
    assert other.estimate == pytest.approx(one.estimate)
    assert (other.parts["alpha"], other.parts["beta"]) == pytest.approx((one.parts["beta"], one.parts["alpha"]))


def test_a_guessing_floor_is_taken_off_before_the_logit() -> None:
    guessed = [{**row, "score": 25 + 0.75 * row["score"]} for row in rows()]
    assert transfer(guessed, guess=0.25).estimate == pytest.approx(transfer(rows()).estimate)


def test_for_losses_up_is_better_on_both_scales() -> None:
    def law(c, m, f):
        return np.exp(-sim.t_law(0.3, 0.4, 0.2, base=0.0)(c, m, f))

    f = transfer(sim.Scenario("", law, sigma=1e-6).rows(np.random.default_rng(0)), synergy=False)
    assert f.estimate == pytest.approx(0.2, abs=1e-4) and f.parts["alpha"] > 0 and "up is better" in f.note
    assert f.parts["raw_alpha"] > 0


# ---- scales, crossovers --------------------------------------------------------------------------------------------


def test_an_interaction_without_a_crossover_is_called_removable() -> None:
    f = transfer(two_by_two(20, 30, 40, 75))
    assert f.parts["removable"] is True and "could remove it" in f.note


def test_without_either_shown_whether_it_is_removable_is_not_told() -> None:
    """Code alone may help or hurt, so that it may change its sign or keep it."""
    f = transfer(two_by_two(20, 20.2, 40, 75))
    assert f.p_value < 0.05 and f.parts["removable"] is None and f.parts["signs_keep_p"] > 0.05
    assert "is not told" in f.note and "nor both to keep theirs" in f.note


def test_gamma_of_cells_that_do_not_lie_on_t_is_kept_among_the_parts_and_refused() -> None:
    f = transfer(sim.Scenario("", sim.separate, sigma=0.005).rows(np.random.default_rng(0)), synergy=False)
    assert f.estimate is None and f.p_value is None and f.parts["removable"] is None
    assert "do not lie on T" in f.undefined and f.parts["gamma_low"] > 0  # it would have been told from 0
    four = transfer(two_by_two(20, 30, 40, 75))
    assert four.estimate is not None and "cannot be tested here" in four.note


def test_claims_on_several_benchmarks_are_corrected_as_one_family() -> None:
    alone = two_by_two(20, 31, 60, 40, sd=5)
    one = transfer(alone)
    four = transfers([{**row, "benchmark": name} for row in alone for name in "abcd"])
    assert one.parts["crossover_p"] <= 0.05 and one.parts["removable"] is False
    assert [f.parts["crossover_p"] for f in four] == pytest.approx([4 * one.parts["crossover_p"]] * 4)
    assert not [f for f in four if f.parts["removable"] is not None]


def test_synergy_on_several_benchmarks_is_claimed_where_the_corrected_test_agrees() -> None:
    rows = sim.Scenario("", sim.effective(3.0), sigma=0.005).rows(np.random.default_rng(4))
    (one,) = transfers(rows)
    assert one.parts["complementary"] is True and one.parts["kappa_p"] < 0.05 < one.parts["kappa_low"]
    parts = {**one.parts, "kappa_p": 0.04}
    weak = claims_adjusted([replace(one, parts=parts)] * 2, "kappa_p")
    assert [concluded(f, 0.95).parts["complementary"] for f in weak] == [False, False]


def test_synergy_is_told_where_gamma_is_refused_and_is_no_open_question_then() -> None:
    (found,) = transfers(sim.Scenario("", sim.effective(3.0), sigma=0.005).rows(np.random.default_rng(1)))
    assert found.estimate is None and "do not lie on T" in found.undefined
    assert "on the scale of effective tokens: complementarity is claimed." in found.note
    assert unresolved(found, None) is None
    (apart,) = transfers(sim.Scenario("", sim.separate, sigma=0.005).rows(np.random.default_rng(1)))
    assert "complementarity is not claimed." in apart.note and unresolved(apart, None) == apart.undefined


def test_a_crossover_is_called_what_no_scale_removes() -> None:
    f = transfer(two_by_two(20, 40, 60, 40))
    assert f.parts["removable"] is False and f.parts["crossover_p"] < 0.01 and "no increasing scale" in f.note


def test_where_gamma_is_not_told_from_0_nothing_is_called_removable() -> None:
    f = transfer(two_by_two(20, 30, 40, 51, sd=6))
    assert f.parts["removable"] is None and "no evidence that it is 0" in f.note


def test_gail_simon_has_its_published_critical_values() -> None:
    # Gail & Simon 1985, table 1: 5 % points of min(Q+, Q−) for 2, 3, 5 and 10 groups.
    for groups, critical in ((2, 2.71), (3, 4.23), (5, 6.50), (10, 10.99)):
        effects = [-math.sqrt(critical), 1e3, *[1e-9] * (groups - 2)]
        assert gail_simon(effects, [1.0] * groups, 1e9) == pytest.approx(0.05, abs=0.001)


def test_effects_of_one_sign_are_no_crossover() -> None:
    assert gail_simon([0.1, 3.0, 2.0], [1.0] * 3, 10) == 1.0


@given(st.lists(st.floats(-3, 3), min_size=6, max_size=6), st.sampled_from([math.exp, math.atan, lambda x: x**3]))
def test_sums_never_violate_double_cancellation_whatever_the_scale(parts: list[float], f) -> None:
    means = np.array([[f(a + b) for b in parts[3:]] for a in parts[:3]])
    p = double_cancellation(means, np.full((3, 3), 1e-6), 18)
    assert p is not None and p > 0.4


def test_an_order_of_cells_that_no_sum_has_is_found_and_four_cells_cannot_have_one() -> None:
    means = np.array([[2.0, 6.0, 4.0], [5.0, 3.0, 8.0], [9.0, 7.0, 1.0]])
    assert double_cancellation(means, np.full((3, 3), 1e-4), 18) < 1e-6
    assert double_cancellation(np.ones((2, 2)), np.ones((2, 2)), 4) is None


def test_with_a_crossover_even_t_violates_double_cancellation() -> None:
    """So a violation rejects T only where no effect changes its sign (docs/theory.md, 3)."""
    u, v = np.array([-1.0, 0.0, 1.0]), np.array([-1.0, 0.5, 1.0])
    assert double_cancellation(np.outer(u + 0.01, v), np.full((3, 3), 1e-8), 18) < 0.01


# ---- a filler, orders ----------------------------------------------------------------------------------------------


def test_a_filler_that_helps_makes_an_interaction_unless_it_is_modelled() -> None:
    made = rows(sim.t_law(1.0, 1.5, 0.0, phi=1.5), sigma=1e-4, filler=True, seeds=3)
    f = transfer(made, filler="prose")
    assert f.estimate == pytest.approx(0.0, abs=0.01) and f.parts["phi"] == pytest.approx(1.5, abs=0.05)
    assert abs(f.parts["gamma_without_filler"]) > 0.3 and f.parts["inflation"] > 1


def test_four_cells_with_a_filler_cannot_tell_gamma_and_say_so() -> None:
    made = [{**row, "dose:prose": 3e6 - row["dose:code"] - row["dose:math"]} for row in two_by_two(20, 30, 40, 60)]
    f = transfer(made, filler="prose")
    assert f.estimate is None and "'prose' cannot be told apart" in f.undefined and f.intervals == ()
    assert f.parts["order_pairs"] == 0 and f.parts["crossover_p"] is None


@pytest.mark.parametrize("gamma", [0.0, -0.25])
def test_a_concave_filler_is_not_taken_for_a_crossover(gamma: float) -> None:
    """A source in place of the last of the filler may lose while its effect is positive at every dose of the other."""
    law = sim.steeper(0.5, 0.5, gamma)
    for seed in range(10):
        f = transfer(rows(law, sigma=0.03, seed=seed, filler=True), filler="prose")
        assert f.parts["crossover_p"] is None or f.parts["crossover_p"] > 0.05
        assert f.parts.get("removable") is not False and "changes its sign" not in f.note
        if f.parts["lack_of_fit_p"] < 0.05:  # γ takes up what the filler's model misses
            assert f.estimate is None and f.p_value is None and "prose's own effect" in f.undefined


def test_with_a_filler_a_crossover_is_shown_by_the_surface_that_holds_it() -> None:
    f = transfer(rows(sim.t_law(0.5, 1.5, -1.2, phi=1.0), sigma=0.03, filler=True), filler="prose")
    assert f.parts["crossover_of_first_p"] < 0.01 and f.parts["crossover_of_second_p"] == 1.0
    assert f.parts["removable"] is False and "with prose held" in f.note
    plain = transfer(rows(sim.t_law(0.5, 1.5, 0.4, phi=1.0), sigma=0.03, filler=True), filler="prose")
    assert plain.parts["crossover_p"] == 1.0 and plain.parts["removable"] is True


def with_orders(effect: float) -> list[dict]:
    made = []
    for row in two_by_two(20, 30, 40, 60):
        both = row["dose:code"] and row["dose:math"]
        made.append({**row, "order": "code→math" if both else None})
        if both:
            made.append({**row, "order": "math→code", "strategy": "reverse", "score": row["score"] - effect})
    return made


def test_the_order_effect_is_the_natural_order_less_the_reverse() -> None:
    f = transfer(with_orders(7.0))
    assert f.parts["order"] == "code→math" and f.parts["order_pairs"] == 1
    assert f.parts["raw_order_effect"] == pytest.approx(7.0) and f.parts["raw_order_effect_p"] < 0.001
    assert f.parts["raw_gamma"] == pytest.approx(10.0)
    assert transfer(with_orders(7.0), order="math→code").parts["raw_gamma"] == pytest.approx(3.0)
    assert f.parts["df"] == 10  # the reverse order's seeds count for the pooled variance


def test_orders_are_read_from_the_points_along_the_way() -> None:
    made = []
    for row in two_by_two(20, 30, 40, 60):
        key = {"strategy": row["strategy"], "seed": row["seed"]}
        made.append({**row, "final": True})
        if row["dose:code"] and row["dose:math"]:
            made.append({**row, **key, "final": False, "dose:math": 0.0})
            other = {**row, "strategy": "reverse", "score": row["score"] - 5}
            made += [{**other, "final": True}, {**other, "final": False, "dose:code": 0.0}]
    f = transfer(made)
    assert f.parts["order"] == "code→math" and f.parts["raw_order_effect"] == pytest.approx(5.0)


# ---- what an interval speaks about ---------------------------------------------------------------------------------


def test_from_results_all_three_kinds_of_interval_are_there(write, tmp_path) -> None:
    random = np.random.default_rng(1)
    runs, evaluations, mixtures = [], [], []
    for name, code, tokens in (("neither", 0, 0), ("code", 100, 0), ("math", 0, 100), ("both", 100, 100)):
        for seed in range(3):
            run = f"{name}-{seed}"
            budget = 100 + code + tokens
            runs.append(
                {"study": "s", "strategy": name, "baseline": name == "neither", "seed": seed, "position": 0,
                 "stage": name, "kind": "pretrain", "run": run, "budget_tokens": budget, "tokens_before": 0,
                 "training_flops": 1.0, "wall_seconds": 1.0}
            )  # fmt: skip
            for source, dose in (("base", 100), ("code", code), ("math", tokens)):
                mixtures.append({"run": run, "until_tokens": budget, "source": source, "share": dose / budget})
            level = -0.5 + code / 200 + tokens / 150 + random.normal(0, 0.1)
            for i in range(80):
                right = random.random() < 1 / (1 + math.exp(-level))
                evaluations.append(
                    {"run": run, "stage": name, "seed": seed, "tokens": budget, "final": True, "benchmark": "problems",
                     "kind": "problems", "item": f"{i:03}", "nats": 1.0, "target_tokens": 1, "bytes": 3,
                     "correct": bool(right)}
                )  # fmt: skip
    mixtures = [{**m, "available_tokens": None} for m in mixtures]
    write_rows(tmp_path / "mixtures.parquet", mixtures, MIXTURES)
    results = write({"runs": runs, "evaluations": evaluations, "steps": []})
    f = transfer(results, benchmark="problems", measure=ACCURACY)
    assert [i.kind for i in f.intervals] == [THIS_STRATEGY, THESE_PROBLEMS, THESE_WEIGHTS]
    widths = [i.high - i.low for i in f.intervals]
    assert widths[0] >= widths[2] and f.n == 80 and f.seeds == 3
    assert f.test.startswith("t for this strategy")
    both = transfers(results)
    assert {g.measure for g in both} == {ACCURACY, BITS_PER_BYTE}


def test_item_variances_of_a_plain_table_bound_what_other_problems_would_add() -> None:
    f = transfer([{**row, "items": 400} for row in two_by_two(20, 30, 40, 60)])
    logit_variance = sum(1 / (400 * p * (1 - p)) for p in (0.2, 0.3, 0.4, 0.6))
    assert f.parts["items_error_at_most"] == pytest.approx(math.sqrt(logit_variance), rel=0.01)
    assert [i.kind for i in f.intervals] == [THESE_PROBLEMS] and "Other problems would add" in f.note


def test_seeds_whose_spread_differs_widen_the_interval_and_are_named() -> None:
    made = rows(seed=3)
    noisy = [{**r, "score": r["score"] + (r["seed"] - 1) * 6 * (r["dose:code"] == 4e6)} for r in made]
    f = transfer(noisy)
    assert "may differ between cells" in f.note
    even = transfer(made)
    assert f.interval().high - f.interval().low > even.interval().high - even.interval().low


def test_limits_of_an_accuracy_are_accuracies() -> None:
    found = transfer(two_by_two(0.3, 20.0, 60.0, 99.7, sd=0.25), sources=("code", "math"))
    cells = [row for row in found.table if row["row"] == "cell"]
    assert cells[0]["low"] == 0.0 and cells[-1]["high"] == 100.0
    assert all(0.0 <= row["low"] <= row["score"] <= row["high"] <= 100.0 for row in cells)


# ---- what is refused -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda r: [], "there are none"),
        (lambda r: [{k: v for k, v in x.items() if k != "dose:math"} for x in r], "dose:math"),
        (lambda r: [{**x, "score": float("nan")} for x in r], "score: nan"),
        (lambda r: [{**x, "score": 140.0} for x in r], "not an accuracy"),
        (lambda r: [{**x, "dose:code": -1.0} for x in r], "dose:code"),
        (lambda r: [x for x in r if x["dose:code"]], "needs two levels"),
        (lambda r: [{**x, "final": False} for x in r], "final"),
        (lambda r: [*r, r[-1]], "column 'order'"),
        (lambda r: [*r, {**r[0], "benchmark": "c"}], "name one"),
        (lambda r: [x for x in r if not (x["dose:code"] and x["dose:math"])], "no run read both"),
    ],
)
def test_rows_that_are_no_factorial_are_refused_by_name(change, says: str) -> None:
    with pytest.raises(Refused, match=says):
        transfer(change(two_by_two(20, 30, 40, 60)))


@pytest.mark.parametrize("options", [{"guess": 1.0}, {"guess": -0.1}, {"floor": -1.0}, {"dose_unit": {"code": 0.0}},
                                     {"dose_power": 2.0}, {"order": "math→code"}, {"sources": "code"}])  # fmt: skip
def test_options_out_of_range_are_refused(options: dict) -> None:
    with pytest.raises(Refused, match=next(iter(options))):
        transfer(two_by_two(20, 30, 40, 60), **options)


def test_three_cells_do_not_tell_gamma() -> None:
    made = [row for row in two_by_two(20, 30, 40, 60) if row["dose:code"] or row["dose:math"]]
    f = transfer(made)
    assert f.estimate is None and "do not cross" in f.undefined


def test_one_run_a_cell_without_items_has_no_interval_and_says_so() -> None:
    f = transfer([row for row in two_by_two(20, 30, 40, 60) if row["seed"] == 0])
    assert f.intervals == () and f.p_value is None and "nothing is said about another run" in f.note


def test_scores_at_the_floor_have_no_logit_and_keep_their_points() -> None:
    f = transfer(two_by_two(0.0, 30, 40, 60, sd=0.0001, seeds=1))
    assert f.estimate is None and "at the floor" in f.undefined
    counted = [{**row, "items": 200} for row in two_by_two(0.0, 30, 40, 60, seeds=1)]
    assert transfer(counted).estimate is not None


def test_cells_that_stay_at_0_have_no_logit_whose_half_problem_could_make_a_synergy() -> None:
    flat = [{**row, "score": max(row["score"], 0.0), "items": 100} for row in two_by_two(-9, -9, 9, 9)]
    f = transfer(flat)
    assert f.estimate is None and "2 of 4 cells have no run between 0 and 100 %" in f.undefined
    assert f.parts["raw_gamma"] == pytest.approx(0.0)


@given(st.lists(st.floats(0, 1e9), min_size=1, max_size=30))
def test_doses_that_differ_by_rounding_are_one_level(values: list[float]) -> None:
    levels = snapped(values)
    assert set(levels) == set(values) and (0.0 not in levels or levels[0.0] == 0.0)
    assert len({levels[v] for v in values}) <= len(set(values))


def test_cells_gather_runs_of_all_seeds() -> None:
    design = read_factorial(rows(), ("code", "math"))
    assert len(design.cells) == 9 and {cell.seeds for cell in design.cells} == {(0, 1, 2)}


# ---- coverage ------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("scenario", sim.GAMMAS, ids=lambda s: s.name)
def test_the_interval_of_gamma_holds_the_truth_as_often_as_it_says(scenario) -> None:
    g = sim.gammas(scenario, 300, seed=11)
    error = math.sqrt(0.05 * 0.95 / 300)
    known = 0.04 if scenario.shared else 0.0  # what a common prefix costs, of which the finding warns
    least = 0.95 - known - 3 * error
    assert np.mean(g["own"]) >= least and np.mean(g["raw"]) >= least
    assert abs(np.mean(g["error"])) < 4 * np.std(g["error"]) / math.sqrt(300)
    if abs(g["truth"]) < 1e-6:
        assert np.mean(g["found"]) <= 0.05 + known + 3 * error
    if "crossover" in scenario.name:  # an effect that changes its sign, or is 0, is seldom said to keep it
        assert np.mean(g["removable"]) <= 0.05 + 3 * error
    else:
        assert np.mean(g["crossover"]) <= 0.05
    if "(loss)" in scenario.name or "steeper" in scenario.name:  # laws that are not T: the verdict is refused
        assert np.mean(g["found"]) <= 0.08


def test_intervals_over_items_and_seeds_speak_about_what_they_name() -> None:
    held = sim.items(250, 100, 0.5, 0.2, seed=4)
    error = math.sqrt(0.05 * 0.95 / 250)
    assert np.mean(held[THIS_STRATEGY]) >= 0.95 - 3 * error and np.mean(held[THESE_PROBLEMS]) >= 0.95 - 3 * error
