"""Findings from a synthetic study with known truth (conftest.py), and from tables that lack something."""

from __future__ import annotations

import json
from collections.abc import Callable

import numpy as np
import pytest

from curricle.analysis import (
    Finding,
    Interval,
    analyse,
    answer,
    common_stages,
    contrast,
    curve,
    forgetting,
    gain,
    scores,
    stage_gains,
)
from curricle.analysis.finding import ERRORS, KINDS, PERCENT, THESE_WEIGHTS, THIS_STRATEGY, join
from curricle.analysis.statistics.intervals import impossible
from curricle.results import Results
from curricle.study import Refused

Rows = Callable[..., dict[str, list[dict]]]
Write = Callable[[dict[str, list[dict]]], Results]


def only(findings: list[Finding], **wanted: object) -> Finding:
    found = [f for f in findings if all(getattr(f, key) == value for key, value in wanted.items())]
    assert len(found) == 1, [f.subject for f in found]
    return found[0]


def test_a_gain_is_the_query_on_the_rows(study: Results) -> None:
    truth = study.sql(
        """SELECT strategy, 100 * avg(correct::int) AS p FROM evaluations JOIN runs USING (run, seed)
           WHERE benchmark = 'algebra' AND final AND evaluations.stage = 'math' GROUP BY strategy"""
    )
    p = {row["strategy"]: row["p"] for row in truth}
    found = gain(study, "algebra", "accuracy")
    points = only(found, subject="code first over from scratch", unit="points")
    percent = only(found, subject="code first over from scratch", unit=PERCENT)
    assert points.estimate == pytest.approx(p["code first"] - p["from scratch"])
    assert percent.estimate == pytest.approx(100 * (p["code first"] / p["from scratch"] - 1))
    assert (points.n, points.seeds, len(points.runs)) == (120, 3, 6)
    assert {i.kind for i in points.intervals} == {"this strategy", "these weights", "these problems"}
    errors = only(found, subject="code first over from scratch", unit=ERRORS)
    assert errors.estimate == pytest.approx(100 * points.estimate / (100 - p["from scratch"]))
    assert {i.kind for i in errors.intervals} == {i.kind for i in points.intervals}
    assert errors.interval().low < errors.estimate < errors.interval().high and errors.resolved == points.resolved
    assert "Holm over 2" in points.test and points.p_value == percent.p_value == errors.p_value
    assert {f.unit for f in stage_gains(study, "algebra", "accuracy")} == {"points", PERCENT, ERRORS}


def test_bits_per_byte_of_a_gain_is_the_difference_of_ratios_of_sums(study: Results) -> None:
    row = study.sql(
        """SELECT avg(bpb) FILTER (strategy = 'code first') - avg(bpb) FILTER (strategy = 'from scratch') AS d FROM (
             SELECT strategy, seed, sum(nats) / ln(2) / sum(bytes) AS bpb FROM evaluations JOIN runs USING (run, seed)
             WHERE benchmark = 'algebra' AND final AND evaluations.stage = 'math' GROUP BY strategy, seed)"""
    )[0]
    found = only(gain(study, "algebra", "bits per byte"), subject="code first over from scratch")
    assert found.estimate == pytest.approx(row["d"])
    assert "negative difference is a gain" in found.note


def test_the_curve_shows_help_that_fades(study: Results) -> None:
    assert common_stages(study) == ["math"]
    found = curve(study, "math", "algebra", "accuracy")
    along = [f for f in found if f.question == "curve-contrast" and f.unit == "points"]
    code = [f for f in along if f.subject.startswith("code first over from scratch")]
    assert [f.parts["tokens"] for f in code] == [100, 200, 400]
    assert (code[0].estimate or 0) > (code[1].estimate or 0) > (code[2].estimate or 0)
    assert code[0].resolved and "Holm over 3" in code[0].test
    assert len([f for f in found if f.question == "curve"]) == 9
    between = [f for f in along if f.subject.startswith("code first over language first")]
    assert len(between) == 3 and not any(f.resolved for f in between)


def test_forgetting_is_the_rise_of_held_out_bits(study: Results) -> None:
    found = [f for f in forgetting(study) if f.question == "forgetting"]
    math_stage = only(found, subject="math in code first")
    code_stage = only(found, subject="code in code first")
    assert math_stage.estimate == pytest.approx(2.5 - 1.5, abs=0.05) and math_stage.resolved
    assert code_stage.estimate == pytest.approx(1.5 - 8.0, abs=0.1)
    assert code_stage.parts["since"] == "before training" and "Positive: forgotten" in math_stage.note
    interval = math_stage.interval(THIS_STRATEGY)
    assert interval and interval.contains(1.0)


def test_each_stage_is_set_against_what_it_began_from(study: Results) -> None:
    found = stage_gains(study, measure="accuracy")
    assert only(found, subject="math in code first", unit="points").parts["since"] == "code"
    assert only(found, subject="math in from scratch", unit="points").parts["since"] == "before training"
    assert {f.benchmark for f in found} == {"algebra"}


def test_all_findings_are_plain_json_and_come_back_equal(study: Results) -> None:
    found = analyse(study, target="algebra")
    text = json.dumps([f.to_json() for f in found], allow_nan=False)
    assert [Finding.from_json(value) for value in json.loads(text)] == found
    assert [f.question for f in found] == sorted([f.question for f in found], key=[f.question for f in found].index)
    assert all(f.sentence().endswith(".") for f in found)


def test_the_answer_names_every_strategy_the_best_two_and_what_is_not_resolved(study: Results) -> None:
    said = answer(analyse(study), "Does code help?", "algebra")
    assert said.startswith("Does code help? On algebra (accuracy; 120 items, 3 seeds): code first over from scratch +")
    assert "language first over from scratch" in said
    assert "the best over the second best, code first over language first" in said
    assert "not resolved: the interval includes 0" in said
    assert "lower is better" in answer(analyse(study), "Q?", "code text")


def test_runs_on_different_items_are_refused(rows: Rows, write: Write) -> None:
    made = rows()
    made["evaluations"] = [e for e in made["evaluations"] if not (e["run"] == "math/code-1" and e["item"] == "p007")]
    with pytest.raises(Refused, match=r"math/code-1.*not scored on the same items; 'p007'"):
        gain(write(made), "algebra")


def test_the_order_of_the_rows_does_not_matter(rows: Rows, write: Write) -> None:
    made = rows()
    ordered = gain(write(made)) + forgetting(write(made))
    made["evaluations"] = [
        made["evaluations"][i] for i in np.random.default_rng(0).permutation(len(made["evaluations"]))
    ]
    shuffled = gain(write(made)) + forgetting(write(made))
    assert [f.to_json() for f in shuffled] == [f.to_json() for f in ordered]


def test_curves_of_different_budgets_are_never_set_side_by_side(rows: Rows, write: Write) -> None:
    made = rows()
    for r in made["runs"]:
        if r["strategy"] == "code first" and r["stage"] == "math":
            r["budget_tokens"] = 800
    found = curve(write(made), "math")
    assert {f.parts["strategy"] for f in found} == {"language first", "from scratch"}


def test_an_item_scored_twice_is_refused(rows: Rows, write: Write) -> None:
    made = rows()
    made["evaluations"].append(made["evaluations"][-1])
    with pytest.raises(Refused, match="'d039' twice"):
        gain(write(made))


def test_unknown_names_are_refused_with_the_nearest_one(study: Results) -> None:
    with pytest.raises(Refused, match="did you mean 'algebra'"):
        gain(study, "algebr")
    with pytest.raises(Refused, match="did you mean 'code first'"):
        contrast(study, "code frist", "from scratch")
    with pytest.raises(Refused, match="did you mean 'math'"):
        curve(study, "maths")
    with pytest.raises(Refused, match="target"):
        analyse(study, target="geometry")


def test_identical_strategies_differ_by_exactly_nothing(rows: Rows, write: Write) -> None:
    made = rows()
    twin = [{**r, "strategy": "twin"} for r in made["runs"] if r["strategy"] == "code first"]
    made["runs"] += twin
    results = write(made)
    found = contrast(results, "code first", "twin", "algebra", "accuracy")
    assert [f.estimate for f in found] == [0.0] * 3 and [f.p_value for f in found] == [1.0] * 3
    assert all(i == Interval(0.0, 0.0, i.kind) for f in found for i in f.intervals)
    assert not found[0].resolved and "the same runs" in found[0].note
    assert len([f for f in curve(results, "math", "algebra", "accuracy") if f.question == "curve"]) == 9


def test_one_seed_speaks_about_these_weights_only(rows: Rows, write: Write) -> None:
    results = write(rows(seeds=(0,)))
    found = analyse(results)
    assert found and {i.kind for f in found for i in f.intervals} == {THESE_WEIGHTS}
    assert "One seed" in only(gain(results, "algebra", "accuracy")[:1]).note
    assert "these weights" in answer(found, "Q?", "algebra")


def test_two_seeds_are_said_to_cover_less_surely(rows: Rows, write: Write) -> None:
    assert "With 2 seeds" in gain(write(rows(seeds=(0, 1))), "algebra", "accuracy")[0].note


def test_a_baseline_on_the_floor_gives_an_undefined_relative_gain(rows: Rows, write: Write) -> None:
    made = rows()
    for e in made["evaluations"]:
        if e["run"].startswith("math/None") and e["benchmark"] == "algebra":
            e["correct"] = False
    results = write(made)
    found = gain(results, "algebra", "accuracy")
    percent = only(found, subject="code first over from scratch", unit=PERCENT)
    assert percent.estimate is None and "P₁ = 0" in (percent.undefined or "") and "undefined" in percent.sentence()
    assert (only(found, subject="code first over from scratch", unit="points").estimate or 0) > 0
    floor = only(scores(results, "algebra", "accuracy"), subject="from scratch")
    assert floor.intervals[0].low == 0 and 0 < (floor.intervals[0].high or 0) < 5
    assert "relative gain undefined" in answer(analyse(results), "Q?", "algebra")


def test_two_strategies_that_solve_nothing_are_told_apart_no_better_than_their_problems_allow(
    rows: Rows, write: Write
) -> None:
    made = rows()
    for e in made["evaluations"]:
        if e["benchmark"] == "algebra":
            e["correct"] = False
    found = only(gain(write(made), "algebra", "accuracy"), subject="code first over from scratch", unit="points")
    (interval,) = found.intervals
    most = 100 * 1.959964**2 / (found.n + 1.959964**2)  # Tango's limits where no pair of verdicts differs
    assert interval.kind == THESE_WEIGHTS and (interval.low, interval.high) == pytest.approx((-most, most))
    assert found.estimate == 0 and not found.resolved and "Tango" in found.note


def test_what_is_missing_is_left_out(rows: Rows, write: Write) -> None:
    made = rows(arms={"from scratch": (None, 0.0)})
    made["evaluations"] = [e for e in made["evaluations"] if e["kind"] == "held-out"]
    found = analyse(write(made))
    assert {f.question for f in found} == {"score", "held-out", "forgetting", "efficiency"}
    assert "Not answered yet" in answer(found, "Q?", "code text")


def test_an_unfinished_seed_is_left_out_and_named(rows: Rows, write: Write) -> None:
    made = rows()
    made["evaluations"] = [e for e in made["evaluations"] if e["run"] != "math/code-2"]
    found = gain(write(made), "algebra", "accuracy")[0]
    assert found.seeds == 2 and "one side lacks them: seeds 2" in found.note


def test_a_finding_without_an_estimate_must_say_why() -> None:
    with pytest.raises(ValueError, match="say why"):
        Finding("gain", "a over b", "accuracy", "x", None, "points")
    with pytest.raises(ValueError, match="not finite"):
        Finding("gain", "a over b", "accuracy", "x", float("inf"), "points")


def test_held_out_text_has_a_curve_where_a_stage_was_scored_on_its_way(rows: Rows, write: Write) -> None:
    made = rows()
    ends = [e for e in made["evaluations"] if e["kind"] == "held-out" and e["stage"] == "math" and e["final"]]
    made["evaluations"] += [{**e, "tokens": 100, "final": False, "nats": e["nats"] * 2} for e in ends]
    found = forgetting(write(made))
    way = [f for f in found if f.question == "held-out-curve" and f.parts["strategy"] == "code first"]
    # Before training, then a quarter of the way through the mathematics that follows 500 tokens of code.
    assert [(f.parts["tokens"], f.parts["trained_tokens"]) for f in way] == [(0, 0), (100, 600)]
    end = next(f for f in found if f.question == "held-out" and f.subject == "after math in code first")
    assert end.parts["trained_tokens"] == 900
    assert way[1].estimate == pytest.approx(2 * end.estimate) and way[1].n == end.n and way[1].interval() is not None
    assert "up" not in way[1].sentence() and not way[1].is_change


def test_notes_are_joined_without_saying_a_sentence_twice():
    whys = [impossible(1, 9, kind) for kind in KINDS]
    said = (
        "One seed: nothing can be said about another run, so there is no interval for this strategy or for these "
        "problems."
    )
    assert join(whys) == said and join([join(whys), "Left out: seeds 3, 4.", *whys]) == f"{said} Left out: seeds 3, 4."
    assert join(["A is lost. B, e.g. 0.5 of it, stays.", "A is lost.", ""]) == "A is lost. B, e.g. 0.5 of it, stays."
