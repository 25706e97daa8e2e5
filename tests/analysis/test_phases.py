"""Order effects and the law of phases: properties of the law, and synthetic studies with known truth."""

from __future__ import annotations

import json
import runpy
from itertools import permutations
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curricle.analysis.finding import Finding
from curricle.analysis.learning import PhaseLaw, curves_of, fit, misfit, trajectories
from curricle.analysis.phase_law import best_order, best_order_of_runs, phase_law
from curricle.analysis.phases import design, phases
from curricle.report.charts import phases as charts
from curricle.study import Refused

SIMULATION = runpy.run_path(str(Path(__file__).parents[2] / "scripts/simulations/phases.py"))
study, LAW, NO_ORDER, TWO, THREE = (SIMULATION[name] for name in ("study", "LAW", "NO_ORDER", "TWO", "THREE"))

rates = st.floats(0.0, 0.02)
lengths = st.floats(1.0, 500.0)


@st.composite
def laws(draw, most: int = 4) -> tuple[PhaseLaw, list[list[float]]]:
    """A law and one pure stage of each of its sources."""
    j = draw(st.integers(2, most))
    k, phi = ([draw(rates) for _ in range(j)] for _ in range(2))
    law = PhaseLaw("t", tuple(f"s{i}" for i in range(j)), 0.5, 1.0, 0.7, tuple(k), tuple(phi))
    return law, [[draw(lengths) if i == m else 0.0 for m in range(j)] for i in range(j)]


@given(laws())
def test_the_index_rule_gives_the_best_order_of_all(made) -> None:
    law, stages = made

    def index(stage: list[float]) -> float:
        found = law.index(stage)
        return np.inf if found is None else found

    states = {order: law.state(order) for order in permutations(map(tuple, stages))}
    by_rule = law.state(sorted(stages, key=index))
    assert by_rule >= max(states.values()) * (1 - 1e-9)


@given(laws(3))
def test_the_same_tokens_mixed_lie_between_the_best_and_the_worst_order(made) -> None:
    law, stages = made
    states = [law.state(order) for order in permutations(stages)]
    mixed = law.state([np.sum(stages, axis=0).tolist()])
    assert min(states) * (1 - 1e-9) <= mixed <= max(states) * (1 + 1e-9)


@given(laws(3), st.integers(2, 5))
def test_a_stage_cut_in_pieces_is_the_same_stage(made, pieces: int) -> None:
    law, stages = made
    cut = [[x / pieces for x in stage] for stage in stages for _ in range(pieces)]
    assert law.loss(cut) == pytest.approx(law.loss(stages))


@given(st.integers(0, 1000))
@settings(max_examples=20)
def test_the_gradient_of_the_law_is_exact(seed: int) -> None:
    random = np.random.default_rng(seed)
    x = random.random((2, 3, 2)) * 0.5
    theta = np.array([0.8, 0.4, -0.7, *random.normal(1, 1, 2), *random.random(2) * random.choice([0, 1])])
    _, gradient = trajectories(theta, x, 2)
    for i, step in enumerate(1e-6 * np.eye(len(theta))):
        slope = (trajectories(theta + step, x, 2)[0] - trajectories(theta - step, x, 2)[0]) / 2e-6
        assert np.abs(slope - gradient[..., i]).max() < 1e-6 * max(1, np.abs(gradient[..., i]).max())


def test_the_law_is_found_again_without_noise() -> None:
    rows = study(np.random.default_rng(0), LAW.loss, TWO, sd=0.0, seeds=1)
    law = fit(curves_of(rows), "algebra")
    assert law.rms < 1e-4
    order = [TWO["code"], TWO["math"]]
    assert law.loss(order) == pytest.approx(LAW.loss(order), abs=1e-3)


# ---- contrasts ----------------------------------------------------------------------------------------------------


def test_every_contrast_that_the_design_holds_is_in_the_table_with_the_means_it_is_made_of() -> None:
    rows = study(np.random.default_rng(1), LAW.loss, TWO)
    (found,) = phases(rows, "algebra")
    end = {}
    for r in rows:
        if r["final"]:
            end.setdefault(r["strategy"], []).append(r["score"])
    mean = {name: float(np.mean(values)) for name, values in end.items()}
    nothing = float(np.mean([r["score"] for r in rows if r["tokens"] == 0]))
    table = {r["what"]: r for r in found.table if r["what"] in ("order", "mixed", "interaction")}
    orders = mean["code then math"], mean["math then code"]
    assert table["order"]["estimate"] == pytest.approx(orders[0] - orders[1])
    assert table["mixed"]["estimate"] == pytest.approx(mean["mixed"] - sum(orders) / 2)
    wanted = sum(orders) / 2 - mean["only code"] - mean["only math"] + nothing
    assert table["interaction"]["estimate"] == pytest.approx(wanted)
    assert {r["what"] for r in found.table} == {"order", "mixed", "interaction", "before", "alone"}
    assert all(r["p_holm"] >= r["p"] and r["over"] == 7 for r in found.table)
    assert found.p_value == table["order"]["p_holm"] and found.test.endswith("Holm over 7")
    assert found.subject == "(code → math) over (math → code)" and found.resolved
    assert Finding.from_json(json.loads(json.dumps(found.to_json(), allow_nan=False))) == found
    assert charts.chart(found).to_dict()["layer"]


def test_a_noisier_order_is_judged_by_its_own_spread_and_what_it_has_no_part_in_is_not() -> None:
    quiet, wild = (phases(study(np.random.default_rng(6), NO_ORDER.loss, TWO, seeds=4, noisier=k), "algebra")[0]
                   for k in (1.0, 20.0))  # fmt: skip
    assert "pooled over 6 arms, 12 degrees" in quiet.test and "may differ" not in quiet.note
    assert "of these two arms" in wild.test and "may differ between arms" in wild.note and not wild.resolved
    (order,) = (row for row in wild.table if row["what"] == "order")
    assert (order["low"], order["high"]) == (wild.interval().low, wild.interval().high)

    def width(row) -> float:
        return (row["high"] - row["low"]) / 2

    pooled = {row["contrast"]: width(row) for row in wild.table if row["what"] == "alone"}
    assert len({round(w, 12) for w in pooled.values()}) == 1 and width(order) > 1.2 * max(pooled.values())


def test_phases_are_what_was_read_whatever_stages_are_called() -> None:
    rows = study(np.random.default_rng(1), LAW.loss, TWO, seeds=2)
    for r in rows:
        if r["strategy"] == "math then code":
            r["stage"] = "first" if r["position"] == 0 else "second"
    (group,) = design(rows).orders()
    assert set(group) == {"code then math", "math then code"}


def test_two_recipes_of_one_order_are_no_two_orders() -> None:
    both = study(np.random.default_rng(1), LAW.loss, TWO, seeds=2)
    one = [r for r in both if r["strategy"] != "math then code"]
    twin = [{**r, "strategy": "at half the rate", "score": r["score"] + 0.2}
            for r in one if r["strategy"] == "code then math"]  # fmt: skip
    assert not design([*one, *twin]).orders()
    (found,) = phases([*one, *twin], "algebra")
    assert found.estimate is None and "different orders" in found.undefined
    (unclear,) = phases([*both, *twin], "algebra")
    assert unclear.estimate is None and "'at half the rate' differ in something else" in unclear.undefined
    assert "differ in something else" in phase_law([*both, *twin], "algebra").undefined


def test_what_all_strategies_end_with_is_no_part_of_the_question() -> None:
    rows = study(np.random.default_rng(1), LAW.loss, TWO, seeds=2)
    ends = [r for r in rows if r["final"]]
    more = [
        {**r, "stage": "instruct", "position": r["position"] + 1, "stage_tokens": 50.0, "tokens": r["tokens"] + 50.0,
         "dose:math": r["dose:math"] + 50.0}
        for r in ends
    ]  # fmt: skip
    made = design([*({**r, "final": False} for r in rows), *more])
    assert made.shared == ("instruct",) and made.label("code then math") == "code → math"


def test_three_phases_are_judged_by_the_range_of_their_six_orders() -> None:
    rows = study(np.random.default_rng(2), SIMULATION["LAW3"].loss, SIMULATION["THREE"], seeds=2, points=2)
    (found,) = phases(rows, "algebra")
    assert found.parts["orders"] == 6 and "best less the worst of 6" in found.note and found.estimate < 0
    assert found.p_value in [r["p_holm"] for r in found.table if r["what"] == "order"]
    assert sum(r["what"] == "order" for r in found.table) == 15


def test_a_design_without_two_orders_is_not_answered() -> None:
    rows = [r for r in study(np.random.default_rng(1), LAW.loss, TWO) if r["strategy"] != "math then code"]
    (found,) = phases(rows, "algebra")
    assert found.estimate is None and "run both A→B and B→A" in found.undefined
    assert phase_law(rows, "algebra").estimate is None


def test_one_seed_gives_no_interval_and_no_judgement() -> None:
    rows = study(np.random.default_rng(1), LAW.loss, TWO, seeds=1)
    (found,) = phases(rows, "algebra")
    assert not found.intervals and found.p_value is None and "No two seeds" in found.note
    assert "no two seeds" in phase_law(rows, "algebra").undefined


def test_a_stage_whose_beginning_was_not_scored_is_refused() -> None:
    rows = study(np.random.default_rng(1), LAW.loss, TWO)
    holes = [r for r in rows if not (r["position"] == 0 and r["stage_tokens"] == 400 and r["stage"] == "code")]
    with pytest.raises(Refused, match="score every stage at its end"):
        phases(holes, "algebra")


def test_the_order_of_rows_does_not_matter() -> None:
    rows = study(np.random.default_rng(3), LAW.loss, TWO)
    shuffled = [rows[i] for i in np.random.default_rng(0).permutation(len(rows))]
    a, b = phases(rows, "algebra")[0], phases(shuffled, "algebra")[0]
    assert abs(a.estimate) == pytest.approx(abs(b.estimate)) and a.p_value == pytest.approx(b.p_value)


def test_an_order_effect_is_judged_by_the_p_value_that_its_row_has_after_the_correction() -> None:
    """Of 24 studies in which order does not matter, one has an order contrast that only the correction holds back."""
    random, held_back = np.random.default_rng(5), 0
    for _ in range(24):
        (found,) = phases(study(random, NO_ORDER.loss, TWO), "algebra")
        (row,) = (r for r in found.table if r["what"] == "order")
        held_back += row["p"] <= 0.05 < row["p_holm"]
        assert found.resolved == (row["p_holm"] <= 0.05)
    assert held_back


def test_false_order_effects_come_at_their_nominal_rate_and_intervals_cover() -> None:
    found = SIMULATION["order_effects"](80, NO_ORDER.loss, TWO)
    assert found["resolved"] <= 0.05 + 3 * 0.024 and found["family"] <= 0.05 + 3 * 0.024
    assert found["held"] >= 0.95 - 3 * 0.024 and abs(found["bias"]) < 0.003


# ---- the law's test -----------------------------------------------------------------------------------------------


def test_an_order_that_was_not_seen_is_predicted() -> None:
    rows = study(np.random.default_rng(5), LAW.loss, TWO)
    found = phase_law(rows, "algebra")
    truth = SIMULATION["ends"](LAW.loss, TWO)
    effect = truth["code then math"] - truth["math then code"]
    assert found.parts["best"] == found.parts["rule"] == found.parts["measured_best"] == "code → math"
    assert found.interval().contains(effect) and found.estimate == pytest.approx(effect, abs=0.04)
    assert all(r["inside"] for r in found.table)
    assert charts.law_chart(found).to_dict()["layer"]


def test_curves_that_are_not_the_laws_are_not_answered() -> None:
    rows = study(np.random.default_rng(6), SIMULATION["two_stores"], TWO)
    found = phase_law(rows, "algebra")
    assert found.estimate is None and "does not describe" in found.undefined


def test_what_an_order_shares_with_another_strategy_stays_when_it_is_left_out() -> None:
    """The first stage of code → math is the arm of code alone. Whichever of them stands first in the rows, that arm is
    still there when the order is left out, and the prediction is the same."""
    rows = study(np.random.default_rng(5), LAW.loss, TWO)
    backwards = sorted(rows, key=lambda row: row["strategy"], reverse=True)
    for order in ("code then math", "math then code"):
        until = sum(TWO[order.split()[0]])
        left = [curves_of(given).without(order, until) for given in (rows, backwards)]
        assert sorted(left[0].loss) == pytest.approx(sorted(left[1].loss))
        assert f"only {order.split()[0]}" in {left[0].strategies[i] for i in left[0].path}
    there, back = ({r["order"]: r["predicted"] for r in phase_law(x, "algebra").table} for x in (rows, backwards))
    assert there == pytest.approx(back, abs=1e-4)


def test_an_order_that_is_left_out_is_not_seen_in_an_arm_that_is_a_part_of_it_or_goes_on_from_it() -> None:
    """With three phases code → math is run as well, and so are arms with a fourth phase."""
    paths = {"a": "code math web", "b": "math code web", "part": "code math", "more": "code math web code",
             "alone": "code", "other": "code web"}  # fmt: skip
    rows = []
    for strategy, path in paths.items():
        read, tokens = np.zeros(3), 0.0
        for position, name in enumerate(path.split()):
            for i in range(0 if position == 0 else 1, 4):
                here = read + np.array(THREE[name]) * i / 3
                rows.append({
                    "strategy": strategy, "seed": 0, "stage": name, "position": position, "tokens": here.sum(),
                    "stage_tokens": here.sum() - tokens, "score": 1 / (1 + here.sum()),
                    "run": " ".join(path.split()[: position + 1]), **dict(zip(("dose:c", "dose:m", "dose:w"), here)),
                })  # fmt: skip
            read, tokens = here, float(here.sum())
    curves = curves_of(rows)
    left = curves.without("a", sum(THREE["code"]))
    has = [{curves.strategies[i] for i in np.flatnonzero(row >= 0)} for row in left.stretch_NP]
    assert len(curves.loss) == 3 * (3 + 3 + 1 + 1) and len(left.loss) == 3 * (1 + 3 + 1), "code, b, and web of other"
    assert all("alone" in each or not each & {"part", "more"} for each in has)
    assert {"alone", "b", "other"} <= set().union(*has)


def test_a_point_of_one_seed_does_not_count_and_a_seed_that_was_scored_twice_counts_once() -> None:
    rows = study(np.random.default_rng(5), LAW.loss, TWO)
    few = [r for r in rows if r["strategy"] == "mixed" and r["seed"] > 0]
    curves = curves_of([r for r in rows if r not in few])
    law = fit(curves, "algebra")
    single = curves.path == curves.strategies.index("mixed")
    moved = curves._replace(loss=np.where(single, curves.loss + 0.3, curves.loss))
    assert misfit(law, moved) == pytest.approx(misfit(law, curves), rel=1e-6), "it has nothing to be judged by"
    twice = curves_of([*rows, *({**r, "run": "again", "score": r["score"] + 1e-9} for r in rows if r["seed"] == 0)])
    assert misfit(law, twice) == pytest.approx(misfit(law, curves_of(rows)), rel=1e-4)


@pytest.mark.slow
def test_the_test_of_the_law_has_its_level_where_arms_have_unequal_seeds() -> None:
    """Points of one seed were once in its numerator and not in its denominator."""
    random, kept, p = np.random.default_rng(6), {"mixed": 1, "only code": 2, "math then code": 2}, []
    for _ in range(12):
        curves = curves_of([r for r in study(random, NO_ORDER.loss, TWO) if r["seed"] < kept.get(r["strategy"], 3)])
        p.append(misfit(fit(curves, "algebra"), curves))
    assert 0.3 < np.median(p) < 0.7 and (np.array(p) < 0.05).sum() <= 3


@pytest.mark.slow
def test_the_test_of_the_law_has_the_level_that_it_says_and_sees_a_law_that_is_not_its_own() -> None:
    """It once had p above .6 in every study of its own law, and so let one of four studies of synergy through."""

    def p_values(loss, studies: int) -> np.ndarray:
        random = np.random.default_rng(6)
        curves = [curves_of(study(random, loss, TWO)) for _ in range(studies)]
        return np.array([misfit(fit(c, "algebra"), c) for c in curves])

    own = p_values(NO_ORDER.loss, 12)
    assert 0.2 < np.median(own) < 0.8 and (own < 0.05).sum() <= 3
    assert (p_values(SIMULATION["synergy"], 2) < 0.01).all()


@pytest.mark.slow
def test_an_effect_of_nothing_is_answered_and_its_interval_holds_it() -> None:
    """Where order does not matter, half of the studies were once refused: t had one degree of freedom."""
    found = SIMULATION["left_out"](16, NO_ORDER.loss, TWO)
    assert found["refused"] <= 0.1 and found["held"] >= 0.8


def test_too_few_points_for_the_law_are_refused() -> None:
    rows = study(np.random.default_rng(6), LAW.loss, TWO, points=1)
    with pytest.raises(Refused, match="evaluate more often"):
        phase_law(rows, "algebra")


def test_with_one_target_the_best_order_is_the_rules_and_with_several_it_is_enumerated() -> None:
    other = PhaseLaw("prose", ("code", "math"), 0.9, 1.0, 0.5, (0.02, 0.002), (0.001, 0.003))
    parts = {"code": {"code": 400.0}, "math": {"math": 300.0}}
    assert best_order([LAW], parts).parts["best"] == "code → math"
    assert best_order([other], parts).parts["best"] == "math → code"
    both = best_order([LAW, other], parts, {"algebra": 1, "prose": 9})
    assert both.parts["best"] == "math → code" and {r["order"] for r in both.table} == {
        "code → math", "math → code", "code + math",
    }  # fmt: skip
    with pytest.raises(Refused, match="no source of the laws"):
        best_order([LAW], {"code": {"code": 1.0}, "x": {"web": 1.0}})


def test_the_best_order_is_told_from_the_second_as_far_as_the_fit_is_known() -> None:
    parts = {"code": {"code": 400.0}, "math": {"math": 300.0}}
    truth = LAW.loss([[400, 0], [0, 300]]) - LAW.loss([[0, 300], [400, 0]])
    for noise, sure in ((0.002, True), (0.3, False)):
        law = fit(curves_of(study(np.random.default_rng(2), LAW.loss, TWO, noise)), "algebra")
        found = best_order([law], parts)
        sign = 1 if found.parts["best"] == "code → math" else -1
        inside = found.interval()
        assert inside is not None and inside.contains(float(found.estimate or 0)) and inside.contains(sign * truth)
        assert found.resolved is sure and ("not told from the second best" in found.note) is not sure
    assert best_order([LAW], parts).intervals == () and "no covariance" in best_order([LAW], parts).note


def test_the_best_order_of_runs_keeps_what_all_of_them_begin_with() -> None:
    rows = study(np.random.default_rng(2), LAW.loss, TWO, seeds=3)
    (found,) = best_order_of_runs(rows, ["algebra"])
    assert found.parts["best"] == "code → math" and found.interval() is not None
    law = fit(curves_of(rows), "algebra")
    parts = {"code": {"code": 400.0}, "math": {"math": 300.0}}
    later = best_order([law], parts, before=[{"math": 200.0}], after=[{"code": 50.0}])
    assert later.estimate == pytest.approx(
        law.predicted([[0, 200], [400, 0], [0, 300], [50, 0]], minus=[[0, 200], [0, 300], [400, 0], [50, 0]])[0]
        * (1 if later.parts["best"] == "code → math" else -1)
    )
    with pytest.raises(Refused, match="does not describe"):
        best_order_of_runs(study(np.random.default_rng(6), SIMULATION["two_stores"], TWO), ["algebra"])


def test_seeds_are_names_and_any_will_do() -> None:
    rows = study(np.random.default_rng(0), LAW.loss, TWO, seeds=2)
    named = [{**row, "seed": f"run {'ab'[row['seed']]}"} for row in rows]
    assert fit(curves_of(named), "algebra").covariance == pytest.approx(fit(curves_of(rows), "algebra").covariance)
