"""What to run next: more seeds have the price that theory gives them, and a budget is never overspent."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console
from tiny_study import tiny

from curricle.analysis import QUESTIONS
from curricle.analysis.asked.questions import Answer
from curricle.analysis.finding import THESE_PROBLEMS, Finding, Interval, number
from curricle.analysis.proposals.next_runs import Rates, bought, next_runs, open_because, seeds, value_of_seeds
from curricle.analysis.proposals.own_study import Own, Runs, cost
from curricle.analysis.proposals.together import Together, together
from curricle.report import words
from curricle.report.proposals import next_runs_view
from curricle.results import Results
from curricle.study import Refused
from curricle.studyfile import parse_study


def closed_form(gap: float, sigma: float, had: int, more: int) -> float:
    """Two strategies: s·φ(z) − gap·Φ(−z) with s the spread that the difference of means will move by (Raiffa and
    Schlaifer 1961)."""
    s = math.sqrt(2 * (sigma**2 / had - sigma**2 / (had + more)))
    z = gap / s
    return s * math.exp(-z * z / 2) / math.sqrt(2 * math.pi) - gap * 0.5 * math.erfc(z / math.sqrt(2))


@given(st.floats(0, 3), st.floats(0.2, 3), st.integers(2, 8), st.integers(1, 8))
@settings(max_examples=30)
def test_two_strategies_are_priced_as_the_normal_formula_prices_them(gap, sigma, had, more):
    found = value_of_seeds(np.array([gap, 0.0]), sigma, had, more, draws=100_000)
    assert found == pytest.approx(closed_form(gap, sigma, had, more), abs=0.02 * sigma)


@given(st.lists(st.floats(-5, 5), min_size=2, max_size=6), st.floats(0.1, 3))
@settings(max_examples=30)
def test_more_seeds_are_never_worth_less_and_none_are_worth_anything_without_noise(means, sigma):
    y = np.array(means)
    values = [value_of_seeds(y, sigma, 3, more) for more in (1, 2, 4, 8)]
    assert all(b >= a - 1e-9 for a, b in pairwise(values)) and values[0] >= -1e-9
    assert value_of_seeds(y, 0.0, 3, 4) == pytest.approx(0.0, abs=1e-12)


@pytest.mark.slow
def test_strategies_that_are_close_are_worth_more_seeds_and_a_clear_winner_is_not(rows: Callable, write: Callable):
    close = next_runs(write(rows(seed_sd=0.5)), tokens=1e6)
    priced = [p for p in close.proposals if p.regret_saved is not None]
    assert priced and priced[0] is close.proposals[0] and "--set 'seeds=[0, 1, 2, 3" in priced[0].how
    clear = {"code first": ("code", 40.0), "from scratch": (None, 0.0)}
    assert not [p for p in next_runs(write(rows(arms=clear)), tokens=1e6).proposals if p.regret_saved is not None]


@pytest.mark.parametrize(("gap", "priced"), [(0.5, True), (1.5, False)])
def test_seeds_whose_price_would_be_printed_as_0_are_not_offered(gap: float, priced: bool):
    ends = [
        {"strategy": name, "seed": seed, "score": 20.0 + gap * k + luck * (-1) ** k}
        for k, name in enumerate(("a", "b"))
        for seed, luck in enumerate((1.0, -1.0, 0.0))
    ]
    own = SimpleNamespace(study=SimpleNamespace(seeds=(0, 1, 2)), beside=lambda what, sets: Runs(what, 9.0, ""))
    offered = seeds(ends, "accuracy", own, Rates(1.0, None))
    assert bool(offered) is priced and all(number(p.regret_saved, "points", False) != "0.0 points" for p in offered)


@pytest.mark.slow
def test_what_is_bought_fits_the_budget_and_all_is_plain_json(study: Results):
    design = next_runs(study, tokens=2_000.0)
    for flops in (1e-3, design.flops, 10 * design.flops, 1e12):
        assert sum(p.flops for p in bought(design.proposals, flops) if p.fits) <= flops * (1 + 1e-9)
    assert all(p.fits for p in bought(design.proposals, 1e12)) and not all(p.fits for p in design.proposals)
    twice = bought([replace(design.proposals[0], flops=flops) for flops in (6.0, 5.0, 11.0)], 10.0)
    assert [(p.fits, p.alone) for p in twice] == [(True, True), (False, True), (False, False)]
    assert {q for p in design.proposals for q in p.question.split(", ")} >= {"gain", "phases"}
    assert [q.question for q in design.questions] == list(QUESTIONS)
    json.dumps(design.to_json(), allow_nan=False)
    console = Console(width=60, record=True, file=io.StringIO())
    console.print(next_runs_view(design), crop=False)
    lines = {line.strip() for line in console.export_text().splitlines()}
    assert all(p.how in lines for p in design.proposals)  # whole, so that it can be copied


def test_what_is_bought_together_stays_in_the_budget_and_adds_seeds_up():
    own = Own(parse_study(yaml.safe_dump(tiny()), Path("tiny.yaml")), ("tiny.yaml",), True, {})
    had, seeds = cost(own.study), own.study.seeds
    another = own.beside("another", {("stages", "more"): {"mixture": {"algebra": 1}, "budget_tokens": 1024},
                                     ("strategies", "more"): ["more"]})  # fmt: skip
    twice, thrice = (own.beside("seeds", {("seeds",): [*seeds, *more]}) for more in ([7], [8, 9]))
    otherwise = own.beside("another", {("stages", "less"): {"mixture": {"algebra": 1}, "budget_tokens": 512},
                                       ("strategies", "less"): ["less"]})  # fmt: skip
    clash = Runs("clash", 1.0, "", ('strategies.more=["less"]', *otherwise.sets))
    apart = Runs("a draft", 1.0, "curricle design swarm")
    asked = [another, twice, apart, thrice, clash]
    whole = together(own, asked, 1e9)
    assert whole.taken == (0, 1, 3) and f"seeds={[*seeds, 7, 8, 9]}" in whole.sets
    assert whole.tokens == (had + 1024 * len(seeds)) * (len(seeds) + 3) / len(seeds) - had  # more than by themselves
    assert whole.tokens > sum(runs.tokens for runs in (another, twice, thrice))
    assert together(own, asked, another.tokens + twice.tokens).taken == (0,)  # with it, seeds would cost more
    assert together(own, [apart], 1e9) == Together()


def test_the_budget_is_said_as_it_was_given_and_what_fits_by_itself_is_marked(study: Results):
    design = next_runs(study, tokens=2_000.0)
    half = replace(design, proposals=bought([replace(p, flops=6.0) for p in design.proposals[:2]], 10.0))
    console = Console(width=100, record=True, file=io.StringIO())
    console.print(next_runs_view(half), crop=False)
    said = " ".join(console.export_text().split())
    assert said.startswith("2k tokens to spend (about ") and "alone: within the budget by itself" in said
    assert words.budget("hours", 2) == "2 hours" and words.budget("hours", 1) == "1 hour"
    assert words.budget("hours", 0.2) == "12 min" and words.budget("flops", 3.1e13) == "3.1e13 FLOPs"


def test_a_longer_budget_is_proposed_for_the_stage_that_teaches_the_target(study: Results):
    longer = [p for p in next_runs(study, tokens=1e6).proposals if "saturation" in p.question.split(", ")]
    assert [p.runs.split(" alone")[0] for p in longer if "twice its budget" in p.runs] == ["math"]  # code is longer


@pytest.mark.parametrize(
    ("budget", "said"),
    [({}, "give one of"), ({"tokens": 1.0, "flops": 1.0}, "give one of"), ({"hours": -1.0}, "a number above 0"),
     ({"tokens": 1.0, "target": "algebre"}, "algebre")],
)  # fmt: skip
def test_a_budget_or_a_target_that_is_none_is_refused(study: Results, budget: dict, said: str):
    with pytest.raises(Refused, match=said):
        next_runs(study, **budget)


@pytest.mark.parametrize(
    ("finding", "precision", "open_"),
    [
        (("gain", "points", 1.0, (-1.0, 3.0)), None, "holds 0"),
        (("gain", "points", 1.0, (0.5, 1.5)), None, None),
        (("gain", "points", None, None), None, "too few"),
        (("predicted-loss", "bits per byte", 2.0, (1.5, 2.5)), None, None),
        (("predicted-loss", "bits per byte", 2.0, (1.5, 2.5)), 0.1, "more than 0.1 of it"),
        (("predicted-loss", "bits per byte", 2.0, (1.9, 2.1)), 0.1, None),
        (("saturation", "tokens", 2.0, (1.5, None)), None, "unbounded"),
    ],
)
def test_an_answer_is_open_where_it_is_none_holds_0_or_is_wider_than_asked(finding, precision, open_):
    question, unit, estimate, limits = finding
    intervals = (Interval(*limits, THESE_PROBLEMS),) if limits else ()
    undefined = None if estimate is not None else "too few"
    f = Finding(question, "a over b", "accuracy", "t", estimate, unit, intervals, undefined=undefined)
    said = open_because(Answer(question, "", [f]), "t", "accuracy", precision)
    assert said is None if open_ is None else said is not None and open_ in said
