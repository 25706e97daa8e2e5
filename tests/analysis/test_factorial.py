"""A design says beforehand what it can tell, and what is promised is what is found."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from simulated import script

from curricle.analysis.factorial import factorial_design, smallest_gamma
from curricle.analysis.finding import ACCURACY
from curricle.analysis.surface import power_needed
from curricle.analysis.transfer import transfer
from curricle.drafting import draft_factorial
from curricle.study import Refused
from curricle.studyfile import parse_study

sim = script("transfer")
DOSES = {"code": (0, 2e5, 4e5), "math": (0, 1e5, 2e5)}


def test_the_smallest_gamma_is_two_quantiles_of_two_sigma_over_root_s() -> None:
    from scipy.special import stdtrit

    assert smallest_gamma(0.1, 3) == pytest.approx((stdtrit(8, 0.975) + stdtrit(8, 0.8)) * 2 * 0.1 / math.sqrt(3))
    with pytest.raises(Refused):
        smallest_gamma(0.1, 1)


def test_corners_decide_and_middle_doses_add_degrees_of_freedom_only() -> None:
    doses = {"code": (1e5, 4e5), "math": (0, 2e5)}
    four = factorial_design(doses, sigma=0.1)
    assert four.smallest_gamma == pytest.approx(smallest_gamma(0.1, 3))
    nine = factorial_design({"code": (0.0, 4e5, 2.4e6), "math": (1e5, 7e5, 2.5e6)}, sigma=0.1)
    assert nine.df == 18
    # middle doses in the middle of log(1 + D/D₀) leave the weights on the corners
    assert nine.smallest_gamma == pytest.approx(smallest_gamma(0.1, 3, df=18, power=power_needed(True)), rel=0.05)


def test_what_a_design_promises_is_what_transfer_finds() -> None:
    design = factorial_design({"code": sim.DOSES, "math": sim.DOSES}, filler="prose", total_tokens=sim.TOTAL, sigma=0.1)
    scenario = sim.Scenario("", sim.t_law(1.0, 1.5, 0.0, phi=0.5), ACCURACY, 0.1, filler=True)
    f = transfer(scenario.rows(np.random.default_rng(0)), filler="prose")
    assert f.parts["inflation"] == pytest.approx(design.inflation)
    assert f.parts["smallest_gamma"] / f.parts["seed_sd"] == pytest.approx(design.smallest_gamma_sd)


@pytest.mark.slow
@pytest.mark.parametrize("filler", [None, "prose"])
def test_the_smallest_gamma_is_found_in_about_eight_of_ten_studies(filler) -> None:
    if filler:
        doses = {"code": sim.DOSES, "math": sim.DOSES}
        smallest = factorial_design(doses, filler=filler, total_tokens=sim.TOTAL, sigma=0.1).smallest_gamma
    else:  # a design without a filler has no cell of nothing, so the same doses are asked of the finding itself
        scenario = sim.Scenario("", sim.t_law(1.0, 1.5, 0.0), ACCURACY, 0.1)
        parts = transfer(scenario.rows(np.random.default_rng(0))).parts
        smallest = parts["smallest_gamma"] / parts["seed_sd"] * 0.1
    law = sim.t_law(1.0, 1.5, smallest, phi=0.5)
    g = sim.gammas(sim.Scenario("", law, ACCURACY, 0.1, filler=filler is not None), 300, seed=3)
    assert np.mean(g["found"]) == pytest.approx(0.8, abs=3 * math.sqrt(0.16 / 300) + 0.01)


def test_a_filler_keeps_total_tokens_fixed_and_comes_first() -> None:
    design = factorial_design(DOSES, filler="prose", orders=("code→math", "math→code"))
    assert {sum(t for _, t in arm.stages) for arm in design.arms} == {600_000}
    assert len(design.arms) == 9 + 4 and len(design.runs) == 39
    assert all(arm.stages[0][0] == "prose" for arm in design.arms if arm.filler)
    reverse = [arm for arm in design.arms if arm.order == "math→code"]
    assert all([s for s, _ in arm.stages][-2:] == ["math", "code"] for arm in reverse)


def test_shared_first_stages_are_told_where_they_could_make_an_interval_too_narrow() -> None:
    assert factorial_design(DOSES, filler="prose").prefix_factor < 1
    same = factorial_design({"code": sim.DOSES, "math": sim.DOSES}, filler="prose")
    assert same.prefix_factor > 1.5 and same.answers
    scenario = sim.Scenario("", sim.t_law(1.0, 1.5, 0.0, phi=0.5), ACCURACY, 0.1, filler=True)
    f = transfer(scenario.rows(np.random.default_rng(0)), filler="prose")
    assert f.parts["prefix_factor"] > 1.5 and "too narrow" in f.note


def test_a_two_by_two_with_a_filler_cannot_answer_unless_it_has_arms_of_less_filler() -> None:
    doses = {"code": (0, 4e5), "math": (0, 2e5)}
    design = factorial_design(doses, filler="prose")
    assert not design.answers and "cannot be told apart" in design.why and design.smallest_gamma_sd is None
    assert factorial_design(doses, filler="prose", filler_arms=(2e5,)).answers


def test_a_design_that_is_too_small_says_how_many_seeds_would_do() -> None:
    design = factorial_design(DOSES, filler="prose", sigma=0.1, wanted=0.2)
    assert not design.answers and "seeds would do" in design.why
    enough = int(design.why.split("; ")[1].split()[0])
    assert factorial_design(DOSES, filler="prose", sigma=0.1, wanted=0.2, seeds=enough).answers
    assert not factorial_design(DOSES, filler="prose", sigma=0.1, wanted=0.2, seeds=enough - 1).answers
    assert not factorial_design(DOSES, filler="prose", seeds=1).answers


@pytest.mark.parametrize(
    ("doses", "more", "says"),
    [
        ({"code": (0, 1)}, {}, "two sources"),
        ({"code": (0, 0), "math": (0, 1)}, {"filler": "prose"}, "two different doses"),
        ({"code": (0, -1), "math": (0, 1)}, {"filler": "prose"}, "0 or more"),
        (DOSES, {}, "train on nothing"),
        (DOSES, {"filler": "code"}, "one of the sources"),
        (DOSES, {"filler": "prose", "total_tokens": 1e5}, "less than"),
        (DOSES, {"filler": "prose", "orders": ("math→prose",)}, "orders"),
        (DOSES, {"filler": "prose", "seeds": 0}, "seeds"),
        (DOSES, {"filler": "prose", "sigma": -1.0}, "sigma"),
        (DOSES, {"filler": "prose", "filler_arms": (9e9,)}, "filler_arms"),
    ],
)
def test_what_is_no_factorial_is_refused_by_name(doses, more, says: str) -> None:
    with pytest.raises(Refused, match=says):
        factorial_design(doses, **more)


@given(
    st.lists(st.integers(0, 20), min_size=2, max_size=4, unique=True),
    st.lists(st.integers(0, 20), min_size=2, max_size=4, unique=True),
    st.booleans(),
)
@settings(max_examples=25)
def test_every_design_is_a_study_that_can_be_read(code: list[int], math_: list[int], both: bool) -> None:
    doses = {"code": [c * 5e4 for c in code], "math": [m * 5e4 for m in math_]}
    orders = ("code→math", "math→code") if both else ("code→math",)
    design = factorial_design(doses, filler="prose", orders=orders)
    json.dumps(design.to_json(), allow_nan=False)
    study = parse_study(draft_factorial(design, "1m", []), "factorial.yaml")  # type: ignore[arg-type]
    assert list(study.strategies) == [arm.strategy for arm in design.arms]
    for arm in design.arms:
        stages = [study.stages[name] for name in study.strategies[arm.strategy]]
        assert [(s.sources[0], s.budget_tokens) for s in stages] == list(arm.stages)


def test_a_design_like_a_study_has_its_proxy_and_its_stages_recipes() -> None:
    like = parse_study(
        """
question: q
model: {preset: 0.4m, context: 64}
tokenizer: {bpe: 512}
sources: {code: {installed: code}, math: {generated: [chain_sum]}}
stages:
  much: {mixture: {code: 1}, budget_tokens: 1M, recipe: {learning_rate: 0.002, schedule: cosine}}
  little: {mixture: {code: .5, math: .5}, budget_tokens: 500k, recipe: {learning_rate: 0.001}}
  plain: {mixture: {math: 1}, budget_tokens: 1M}
strategies: {a: [much, plain], b: [little, plain]}
baseline: b
proxy: {of_tokens: 3B, learning_rate: .5}
recipe: {learning_rate: 0.003, schedule: wsd}
""",
        "like.yaml",  # type: ignore[arg-type]
    )
    design = factorial_design({"code": [0.0, 2e5], "math": [1e5, 2e5]})
    study = parse_study(draft_factorial(design, "1m", [], like, Path("out.yaml")), "out.yaml")  # type: ignore[arg-type]
    assert study.proxy == like.proxy and study.recipe.schedule == "constant"
    rates = {stage.sources[0]: study.recipe_of(name).learning_rate for name, stage in study.stages.items()}
    assert rates == {"code": pytest.approx(0.001), "math": pytest.approx(0.0015)}  # halved, as the proxy says
    assert {study.recipe_of(name).schedule for name in study.stages} == {"constant"}
