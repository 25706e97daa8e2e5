"""Scores and gains of runs that came as means: intervals from seeds and from what was stated, words for the rest."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curricle import analysis
from curricle.analysis import compare_scores
from curricle.analysis.finding import THESE_PROBLEMS, THESE_WEIGHTS, THIS_STRATEGY
from curricle.analysis.rows.means import Mean, difference_of_means, level_of_mean
from curricle.importing import gather, write
from curricle.results import Results
from curricle.study import Refused

N = 400


def mean(scores: list[float], items: int = 0, variance: float | None = None, measure: str = "accuracy") -> Mean:
    seeds = tuple(range(len(scores)))
    return Mean("gsm", measure, seeds, np.array(scores), items, variance, tuple(f"r/{s}" for s in seeds), True)


@pytest.fixture
def imported(tmp_path) -> Callable[..., Results]:
    def made(rows: str, name: str = "scores.csv") -> Results:
        (tmp_path / name).write_text(rows)
        write(gather([tmp_path / name], baseline="base"), tmp_path / "out")
        return Results(tmp_path / "out")

    return made


def by_unit(findings) -> dict:
    return {f.unit: f for f in findings}


HEAD = "strategy,seed,final,benchmark,kind,measure,score,items,item_variance\n"


def test_imported_means_of_three_seeds_have_scores_and_gains_over_seeds(imported):
    ends = {"base": (20.0, 22.0, 21.0), "code": (30.0, 33.0, 31.5)}
    rows = [f"{s},{k},true,gsm,problems,accuracy,{y},,\n" for s, ys in ends.items() for k, y in enumerate(ys)]
    results = imported(HEAD + "".join(rows))
    found = {f.parts["strategy"]: f for f in analysis.scores(results)}
    assert found["code"].estimate == pytest.approx(31.5) and found["code"].seeds == 3
    half = 4.3027 * 1.5 / 3**0.5  # t with 2 degrees of freedom
    (interval,) = found["code"].intervals
    assert (interval.kind, interval.low, interval.high) == (
        THESE_PROBLEMS, pytest.approx(31.5 - half, abs=1e-3), pytest.approx(31.5 + half, abs=1e-3)
    )  # fmt: skip
    gains = by_unit(analysis.gain(results))
    assert gains["points"].estimate == pytest.approx(10.5) and gains["%"].estimate == pytest.approx(50.0)
    assert gains["points"].resolved and gains["%"].resolved
    assert gains["% of the errors"].estimate == pytest.approx(100 * 10.5 / 79) and gains["% of the errors"].resolved
    assert all("nothing can be said about other problems" in f.note for f in (*found.values(), *gains.values()))
    assert [f for f in analysis.analyse(results) if f.question == "gain"] == analysis.gain(results)
    assert analysis.gain(results, "gsm", "accuracy") == analysis.gain(results)
    with pytest.raises(Refused, match="did you mean 'gsm'"):
        analysis.gain(results, "gsn")


def test_one_run_with_its_error_speaks_of_these_weights_and_says_what_is_not_known(imported):
    stated = "base,0,true,gsm,problems,accuracy,20,,4\ncode,0,true,gsm,problems,accuracy,30,,4\n"
    results = imported(HEAD + stated)
    gains = by_unit(analysis.gain(results))
    (interval,) = gains["points"].intervals
    assert interval.kind == THESE_WEIGHTS and interval.high - interval.low == pytest.approx(2 * 1.96 * 8**0.5, rel=1e-3)
    assert "nothing can be said about another run" in gains["points"].note
    assert "problems are not paired" in gains["points"].note


def test_one_run_without_anything_has_a_number_and_no_interval(imported):
    rows = "base,0,true,gsm,problems,accuracy,20,,\ncode,0,true,gsm,problems,accuracy,30,,\n"
    results = imported(HEAD + rows)
    score, gain = analysis.scores(results)[0], analysis.gain(results)[0]
    for f in (score, gain):
        assert f.estimate is not None and not f.intervals and f.p_value is None and f.resolved is None
        assert "another run" in f.note and "other problems" in f.note


def test_one_run_each_of_n_problems_is_the_comparison_of_two_published_numbers():
    found = by_unit(difference_of_means("gain", "a over b", *published(30.0, 24.0), {}))
    said = compare_scores(24.0, 30.0, 4000)
    for unit, interval in (("points", said.absolute_interval), ("%", said.relative_interval)):
        assert found[unit].interval().low == pytest.approx(interval.low, rel=5e-3, abs=5e-3)
        assert found[unit].interval().high == pytest.approx(interval.high, rel=5e-3, abs=5e-3)


def published(after: float, before: float, n: int = 4000) -> tuple[Mean, Mean]:
    def of(p: float) -> Mean:
        return mean([p], n, p * (100 - p) / n)

    return of(after), of(before)


def test_without_a_common_seed_runs_are_not_paired_and_that_is_said():
    a, b = mean([30.0, 31.0, 33.0]), mean([20.0, 21.0])
    apart = Mean(b.benchmark, b.measure, (7, 8), b.y_S, 0, None, b.runs, True)
    plain, *_ = difference_of_means("gain", "a over b", a, apart, {})
    assert plain.estimate == pytest.approx(31.333 - 20.5, abs=1e-3) and "No seed is common" in plain.note
    assert plain.interval().contains(plain.estimate)
    alone = Mean(b.benchmark, b.measure, (9,), b.y_S[:1], 0, None, b.runs[:1], True)
    assert not difference_of_means("gain", "a over b", a, alone, {})[0].intervals


def test_a_score_of_nothing_right_has_no_relative_gain_and_keeps_its_points():
    found = by_unit(difference_of_means("gain", "a over b", *published(30.0, 0.0), {}))
    assert found["%"].estimate is None and "no divisor" in found["%"].undefined
    assert found["points"].estimate == 30.0


@settings(max_examples=40)
@given(
    st.lists(st.tuples(st.floats(5, 60), st.floats(5, 60)), min_size=1, max_size=5),
    st.sampled_from([None, 0.5, 4.0]),
)
def test_the_relative_gain_leaves_out_0_exactly_where_the_difference_does(pairs, variance):
    a, b = (mean([p[k] for p in pairs], 0, variance) for k in (0, 1))
    plain, relative, _ = difference_of_means("gain", "a over b", a, b, {})
    kinds = [i.kind for i in plain.intervals]
    assert [i.kind for i in relative.intervals] == kinds
    for kind in kinds:
        here, there = plain.interval(kind), relative.interval(kind)
        unbounded = there.low is None and there.high is None  # the baseline is not told from 0: nothing is said
        if min(abs(here.low), abs(here.high)) > 1e-6 and not unbounded:
            assert here.contains(0.0) == there.contains(0.0)


def test_the_more_is_stated_the_wider_the_claim_and_none_is_shorter_than_its_parts():
    score = level_of_mean("a", mean([30.0, 31.0, 33.0], N, 4.0), {})
    width = {i.kind: i.high - i.low for i in score.intervals}
    assert score.interval().kind == THIS_STRATEGY and set(width) == {THIS_STRATEGY, THESE_WEIGHTS, THESE_PROBLEMS}
    assert width[THIS_STRATEGY] > width[THESE_WEIGHTS] > 0


def test_intervals_of_means_hold_the_truth_at_least_as_often_as_they_say():
    random = np.random.default_rng(0)
    held = {THIS_STRATEGY: 0, THESE_PROBLEMS: 0}
    studies = 300
    for _ in range(studies):
        ease = random.normal(0, 10, N)  # that all runs share: what pairing would take out
        runs = [[random.normal(0, 1.5) + (40 + gain + ease + random.normal(0, 30, N)).mean() for _ in range(3)]
                for gain in (6.0, 0.0)]  # fmt: skip
        a, b = (mean(r, N, 1000 / N, measure="bits per byte") for r in runs)
        (found,) = difference_of_means("gain", "a over b", a, b, {})
        for kind in held:
            held[kind] += found.interval(kind).contains(6.0)
    assert all(h / studies >= 0.95 - 3 * (0.95 * 0.05 / studies) ** 0.5 for h in held.values())


STAGED = "run,strategy,seed,stage,position,final,benchmark,kind,measure,score,tokens\n"


def staged(benchmark: str, kind: str, measure: str, tokens: str = "") -> list[str]:
    """A strategy of one stage and one of two, each seed a run, as means alone."""
    ends = [("base", "math", 0), ("code", "code", 0), ("code", "math", 1)]
    return [
        f"{stage}{strategy}{seed},{strategy},{seed},{stage},{position},true,{benchmark},{kind},{measure},"
        f"{20 + k + seed},{tokens}\n"
        for k, (strategy, stage, position) in enumerate(ends) for seed in (0, 1)
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "measure", "by_item"),
    [("problems", "accuracy", {"stage-gain", "curve"}), ("held-out", "bits per byte", {"curve", "forgetting"})],
)
def test_what_means_cannot_answer_says_in_the_importers_words_what_lacks(imported, kind, measure, by_item):
    results = imported(STAGED + "".join(staged("gsm", kind, measure)))
    refused = {a.question: a.refused for a in analysis.ask(analysis.Asked(results)) if a.refused}
    for name in ("stage-gain", "curve", "forgetting"):
        told = "of gsm there are means alone: import a table of evaluations" in refused[name]
        assert told == (name in by_item), name
    for name in ("chain", "shapley", "efficiency", "split", "transferred", "saturation", "phases", "phase-law"):
        assert "scores after math, code nobody says; import a table of runs with budget_tokens" in refused[name], name
    assert "training losses step by step (a table of steps" in refused["bound"]
    assert not [why for why in refused.values() if "rows:" in why or "rows[" in why or "stage_tokens" in why]


def test_a_benchmark_without_tokens_does_not_take_the_answer_from_those_with_them(imported):
    results = imported(
        STAGED + "".join(staged("gsm", "problems", "accuracy", "1000") + staged("m", "problems", "accuracy"))
    )
    chains = next(a for a in analysis.ask(analysis.Asked(results), ["chain"]))
    assert [f.benchmark for f in chains.findings] == ["gsm"] and chains.refused is None


@pytest.mark.parametrize("measure", ["accuracy", "bits per byte", "nats per token"])
def test_the_sign_of_a_difference_is_said_of_every_loss(measure: str):
    (found, *_) = difference_of_means(
        "gain", "a over b", mean([1.0, 1.2], measure=measure), mean([2.0, 2.1], measure=measure), {}
    )
    assert ("lower is better, so a negative difference is a gain" in found.note) == (measure != "accuracy")
