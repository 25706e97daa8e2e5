"""What is read for a question: which rows, which sources, which points."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import product
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from written import Point, Stage, study

from curricle.analysis import Asked, ask
from curricle.analysis.asked import designs
from curricle.analysis.asked.budgets import lines
from curricle.analysis.finding import Finding
from curricle.analysis.pools import Pools, one_pool
from curricle.analysis.proposals.next_runs import next_runs
from curricle.analysis.statistics.repeats import effective_tokens
from curricle.study import Refused

FOLLOWS = "Points on the way count as ends"


# ---- factorials ---------------------------------------------------------------------------------------------------


def cells(*doses: Mapping[str, float]) -> list[dict]:
    return [{"final": True, **{f"dose:{name}": dose for name, dose in each.items()}} for each in doses]


def square(**more: Any) -> list[dict[str, float]]:
    return [{"a": a, "b": b, **{k: f(a, b) for k, f in more.items()}} for a in (0, 2e5, 4e5) for b in (0, 2e5, 4e5)]


def test_doses_that_differ_by_rounding_are_one_level():
    doses = square()
    doses[4]["a"] *= 1 + 1e-12
    assert designs.crossed(cells(*doses)) == (("a", "b"), None)


def test_a_third_source_is_a_filler_only_where_it_fills_up_to_one_total():
    filled = square(prose=lambda a, b: 1e6 - a - b + 1e-6 * a)
    assert designs.crossed(cells(*filled)) == (("a", "b"), "prose")
    less = {**filled[0], "a": 0.0, "b": 0.0, "prose": 3e5}
    assert designs.crossed(cells(*filled, less)) == (("a", "b"), "prose")
    with pytest.raises(Refused, match="a and b are crossed, but web varied too"):
        designs.crossed(cells(*square(web=lambda a, b: a / 2 + b)))
    with pytest.raises(Refused, match="but books, prose varied too"):
        designs.crossed(cells(*square(prose=lambda a, b: (1e6 - a - b) / 2, books=lambda a, b: (1e6 - a - b) / 2)))


def factorial(measure: str, benchmark: str, levels: Sequence[float] = (0, 2e5, 4e5)) -> list[dict]:
    random = np.random.default_rng(1)
    return [
        {"strategy": f"{a:g} {b:g}", "seed": seed, "final": True, "benchmark": benchmark, "measure": measure,
         "dose:a": a, "dose:b": b, "tokens": a + b, "score": 3 - a / 1e6 - b / 1e6 + random.normal(0, 0.01)}
        for a, b, seed in product(levels, levels, range(2))
    ]  # fmt: skip


def test_skills_that_carry_a_transfer_are_one_family_over_benchmarks():
    rows = [*factorial("bits per byte", "text"), *factorial("bits per byte", "more")]
    for name in ("a", "b"):  # the skills: what a dose does to its own text
        rows += [{**row, "benchmark": name, "score": 2 - (row[f"dose:{name}"] / 1e6) ** 0.5}
                 for row in factorial("bits per byte", name)]  # fmt: skip
    groups = [[row for row in rows if row["benchmark"] == name] for name in ("text", "more")]

    def through(groups: list[list[dict]]) -> list[Finding]:
        asked = SimpleNamespace(rows=rows, every=rows, groups=groups, benchmark=None, target=None)
        return [f for f in designs.transfer_of_crossed(asked) if f.question == "transfer-mediated"]

    (alone,), both = through(groups[:1]), through(groups)
    assert "Holm" not in alone.test and all(f.test.endswith("Holm over 2") for f in both)
    assert both[0].p_value == pytest.approx(min(1.0, 2 * alone.p_value))


def test_a_benchmark_that_is_no_factorial_does_not_take_the_answer_from_others():
    good, bad = factorial("bits per byte", "text"), factorial("bits per byte", "other")[:2]
    found = designs.transfer_of_crossed(
        SimpleNamespace(rows=good, every=good, groups=[bad, good], benchmark=None, target=None)
    )
    assert {f.benchmark for f in found} == {"text"}
    nats = factorial("nats per token", "theirs")
    both = designs.transfer_of_crossed(
        SimpleNamespace(rows=good, every=good, groups=[nats, good], benchmark=None, target=None)
    )
    assert {(f.benchmark, f.measure) for f in both} == {("theirs", "nats per token"), ("text", "bits per byte")}


def crossed_arms(*orders: tuple[str, str]) -> dict[str, list[Stage]]:
    """Doses of two sources crossed, each pair of doses in each of the orders."""
    arms: dict[str, list[Stage]] = {}
    for first, second in orders:
        for a, b in product((200, 400), repeat=2):
            path = [(f"{name} {dose}", "pretrain", {name: dose}) for name, dose in ((first, a), (second, b))]
            arms[" then ".join(stage for stage, *_ in path)] = path
    return arms


def of_two(strategy: str, seed: int, position: int, part: float) -> list[Point]:
    noise = np.random.default_rng([seed, *map(ord, strategy)]).normal(0, 0.01)
    return [(b, "held-out", "bits per byte", 2.0 + noise) for b in ("algebra", "code")]


@pytest.mark.parametrize(
    ("orders", "dropped", "target", "rests_on"),
    [([("code", "algebra")], "", "algebra", "code→algebra"),
     ([("code", "algebra")], "", "code", "code→algebra"),  # no other order was run
     ([("algebra", "code"), ("code", "algebra")], "", "algebra", "code→algebra"),  # ends with the target
     ([("code", "algebra"), ("algebra", "code")], "", "gsm", "code→algebra"),  # stands first
     ([("algebra", "code"), ("code", "algebra")], "algebra 400 then code 400", "gsm", "code→algebra")],  # most cells
)  # fmt: skip
def test_the_order_that_gamma_rests_on_is_the_studys_and_not_the_alphabets(tmp_path, orders, dropped, target, rests_on):
    arms = crossed_arms(*orders)
    arms.pop(dropped, None)
    made = study(tmp_path, arms, of_two)
    rows = Asked(made).rows
    pair = designs.in_order(rows, ("algebra", "code"), target)
    assert "→".join(pair) == rests_on == "→".join(designs.in_order(rows, ("code", "algebra"), target))
    if target in ("algebra", "code"):
        found = designs.transfer_of_crossed(Asked(made, target=target))
        assert {f.parts["order"] for f in found} == {rests_on}


def test_a_budget_is_split_where_doses_vary_within_what_the_sources_hold(tmp_path):
    doses = [(a, b) for a in (100, 200, 400) for b in (100, 200, 400)]
    arms = {f"{a} {b}": [("mix", "pretrain", {"a": a, "b": b})] for a, b in doses}

    def score(strategy: str, seed: int, position: int, part: float) -> list[Point]:
        a, b = map(float, strategy.split())
        noise = np.random.default_rng([seed, *map(ord, strategy)]).normal(0, 0.002)
        return [("text", "held-out", "bits per byte", 0.7 + (0.1 + (a / 800) ** 0.5 + 0.5 * (b / 800) ** 0.5) ** -0.4
                 + noise), ("text", "held-out", "accuracy", 50.0)]  # fmt: skip

    made = study(tmp_path, arms, score, there={"a": 100, "b": 1000})
    (answer,) = ask(Asked(made, at=(600.0,)), ["split"])
    (found,) = answer.findings
    assert found.parts["budget"] == 600 and found.interval() is not None
    assert {row["source"]: row["tokens"] for row in found.table} == pytest.approx({"a": 400, "b": 200})
    (once,) = ask(Asked(made, at=(600.0,), max_epochs=1.0), ["split"])[0].findings
    assert {row["source"]: row["tokens"] for row in once.table} == pytest.approx({"a": 100, "b": 500})
    few = study(tmp_path / "few", {name: arms[name] for name in list(arms)[:4]}, score)
    (refused,) = ask(Asked(few), ["split"])
    assert "a law of 2 sources takes 7" in str(refused.refused)


def test_laws_join_the_answers_that_they_belong_to(tmp_path):
    a: Stage = ("a", "pretrain", {"a": 3200})
    arms = {"scratch": [("b", "pretrain", {"b": 6400})], "after": [a, ("b", "pretrain", {"b": 6400})]}

    def score(strategy: str, seed: int, position: int, part: float) -> list[Point]:
        x = 6400 * part + (3200 if strategy == "after" else 0)
        loss = 3.0 if position == 0 and strategy == "after" else 1 + 20 * x**-0.4
        return [("text", "held-out", "bits per byte",
                 loss + np.random.default_rng([seed, position, int(1e3 * part)]).normal(0, 0.002))]  # fmt: skip

    asked = Asked(study(tmp_path, arms, score, [2**-k for k in range(5, -1, -1)], count=3))
    found = {answer.question: answer for answer in ask(asked, ["efficiency", "transferred"])}
    assert {f.question for f in found["efficiency"].findings} == {"efficiency", "marginal"}
    assert {f.question for f in found["transferred"].findings} == {"transferred", "multiplier", "transfer-law"}


def test_skills_are_asked_beside_the_doses_where_they_were_scored(tmp_path):
    def score(strategy: str, seed: int, position: int, part: float) -> list[Point]:
        read = {name: float(dose) for name, dose in zip("abp", strategy.split())}
        noise = np.random.default_rng([seed, *map(ord, strategy)]).normal(0, 0.01, 3)
        texts = [(n, "held-out", "bits per byte", 3 - read[n] / 500 + noise[i]) for i, n in enumerate("ab")]
        return [*texts, ("gsm", "problems", "accuracy", 20 + read["a"] / 50 + read["b"] / 20 + noise[2])]

    arms = {
        f"{a} {b} {1000 - a - b}": [("mix", "pretrain", {"a": a, "b": b, "p": 1000 - a - b})]
        for a, b in product((0, 200, 400), repeat=2)
    }
    made = study(tmp_path, arms, score)
    (answer,) = ask(Asked(made, benchmark="gsm"), ["transfer"])
    assert [f.question for f in answer.findings] == ["transfer", "transfer-mediated"]
    (answer,) = ask(Asked(made, benchmark="a"), ["transfer"])  # the skill in `a` is the outcome
    assert [f.question for f in answer.findings] == ["transfer"]


# ---- what is read -------------------------------------------------------------------------------------------------


def test_losses_in_nats_per_token_are_answered_like_those_in_bits(tmp_path):
    def score(strategy: str, seed: int, position: int, part: float) -> list[Point]:
        return [("eval", "held-out", "nats per token", 2 + 0.5 * part**-0.4 + 0.001 * seed)]

    made = study(tmp_path, {"long": [("web", "pretrain", {"web": 6400})]}, score, [2**-k for k in range(6, -1, -1)])
    found = {a.question: a for a in ask(Asked(made), ["saturation", "prediction"])}
    assert {f.measure for a in found.values() for f in a.findings} == {"nats per token"}
    assert all(a.findings for a in found.values())


def test_a_benchmark_that_is_named_does_not_throw_away_answers_about_a_swarm_or_a_stage(tmp_path):
    random = np.random.default_rng(3)
    mixes = {f"m{i}": (1000 * random.dirichlet(np.ones(3))).round().astype(int) + 1 for i in range(18)}

    def score(strategy: str, seed: int, position: int, part: float) -> list[Point]:
        p = mixes[strategy] / mixes[strategy].sum()
        return [(n, "held-out", "bits per byte", 3 - 0.5 * p[i] ** 0.5) for i, n in enumerate("abc")]

    arms = {name: [("mix", "pretrain", dict(zip("abc", map(int, of))))] for name, of in mixes.items()}
    made = study(tmp_path, arms, score, count=1)
    for asked in (Asked(made, benchmark="a"), Asked(made, measure="bits per byte")):
        (answer,) = ask(asked, ["mixture"])
        assert {f.question for f in answer.findings} >= {"mixture", "mixture-gain"}


def test_a_mixture_for_a_study_asks_for_no_more_of_a_source_than_its_epochs_allow(tmp_path):
    random = np.random.default_rng(3)
    mixes = {f"m{i}": (1000 * random.dirichlet(np.ones(3))).round().astype(int) + 1 for i in range(18)}

    def score(strategy: str, seed: int, position: int, part: float) -> list[Point]:
        p = mixes[strategy] / mixes[strategy].sum()
        return [("eval", "held-out", "bits per byte", 3 - p[0] ** 0.5 - 0.1 * p[1] ** 0.5)]

    arms = {name: [("mix", "pretrain", dict(zip("abc", map(int, of))))] for name, of in mixes.items()}
    share = {}
    for name, there in (("much", {"a": 10_000}), ("little", {"a": 100})):
        made = study(tmp_path / name, arms, score, count=1, there={"b": 10_000, "c": 10_000, **there})
        (answer,) = ask(Asked(made, max_epochs=3.0), ["mixture"])
        (best,) = (f for f in answer.findings if f.question == "mixture")
        share[name] = {row["source"]: row["recommended"] for row in best.table}["a"]
    assert share["little"] <= 0.3 < 0.6 < share["much"]


def test_bits_and_nats_of_a_swarm_are_never_averaged(tmp_path):
    random = np.random.default_rng(4)
    mixes = {f"m{i}": (1000 * random.dirichlet(np.ones(3))).round().astype(int) + 1 for i in range(18)}

    def score(strategy: str, seed: int, position: int, part: float) -> list[Point]:
        p = mixes[strategy] / mixes[strategy].sum()
        loss = 3 - 0.5 * p[0] ** 0.5
        return [("a", "held-out", "bits per byte", loss), ("a", "held-out", "nats per token", 40 * loss)]

    arms = {name: [("mix", "pretrain", dict(zip("abc", map(int, of))))] for name, of in mixes.items()}
    (answer,) = ask(Asked(study(tmp_path, arms, score, count=1)), ["mixture"])
    best = {f.subject: f for f in answer.findings if f.question == "mixture"}
    bits, nats = (best[f"recommended mixture, {unit}"] for unit in ("bits per byte", "nats per token"))
    assert 2 < (bits.estimate or 0) < 3 and nats.estimate == pytest.approx(40 * (bits.estimate or 0), rel=0.02)
    fits = [f for f in answer.findings if f.question == "mixture-fit"]
    assert len(fits) == 2 and all(f.interval().low < f.estimate <= f.interval().high for f in fits)


def test_forgetting_is_looked_for_outside_of_what_was_learned_last(tmp_path):
    def score(strategy: str, seed: int, position: int, part: float) -> list[Point]:
        texts = [(n, "held-out", "bits per byte", 2.0 + 0.01 * seed) for n in ("code", "math", "web")]
        return [("gsm", "problems", "accuracy", 20.0 + seed), *texts]

    code: Stage = ("code", "pretrain", {"code": 500})
    rest: list[Stage] = [("math", "pretrain", {"math": 300, "web": 100}), ("tune", "instruct", {"chat": 1000})]
    arms = {"code first": [code, *rest], "scratch": rest}
    made = study(tmp_path, arms, score)
    assert designs.general_beside(Asked(made), "gsm") == ["code", "web"]
    assert designs.general_beside(Asked(made), "math") == ["code", "web"]
    assert designs.general_beside(Asked(made), "web") == ["code", "math"]
    (by_accuracy,) = ask(Asked(made, measure="accuracy"), ["front"])
    assert by_accuracy.findings and by_accuracy.findings[0].parts["general"] == "code, web"
    drawn = next_runs(made, target="gsm", tokens=1e5).front
    assert drawn is not None and drawn.parts["general"] == "code, web"


# ---- points on the way, and ends ----------------------------------------------------------------------------------


def falling(strategy: str, seed: int, position: int, part: float) -> list[Point]:
    return [("web", "held-out", "bits per byte", 2 + 0.5 * part**-0.4 + 0.001 * seed)]


@pytest.mark.parametrize(
    ("rate", "said"),
    [(lambda part: 1e-3 * (1 - 0.9 * part), "was at 34% to 100% of its peak there and at 10% at the end"),
     (lambda part: 1e-3, "was the same at all of them"), (None, "is not told")],
)  # fmt: skip
def test_points_on_the_way_are_told_with_their_learning_rate(tmp_path, rate, said):
    arms = {"long": [("web", "pretrain", {"web": 6400})]}
    made = study(tmp_path, arms, falling, [2**-k for k in range(5, -1, -1)] + [0.75], rate=rate)
    for question in ("saturation", "prediction"):
        (answer,) = ask(Asked(made), [question])
        assert answer.findings and all(FOLLOWS in f.note for f in answer.findings)
        assert all(said in f.note for f in answer.findings)


def test_ends_of_different_budgets_are_taken_before_points_on_the_way(tmp_path):
    budgets = {f"b{k}": 400 * 2**k for k in range(6)}
    arms = {name: [(f"stage {name}", "pretrain", {"web": tokens})] for name, tokens in budgets.items()}

    def score(strategy: str, seed: int, position: int, part: float) -> list[Point]:
        high = 0.3 * (part < 1)  # the rate has not come down
        noise = np.random.default_rng([seed, budgets[strategy]]).normal(0, 0.002)
        loss = 2 + 5 * (part * budgets[strategy]) ** -0.4 + high + noise
        return [("web", "held-out", "bits per byte", loss)]

    made = study(tmp_path, arms, score, [0.25, 0.5, 1.0])
    asked = Asked(made)
    (line,) = lines(asked, asked.groups[0])
    assert {row["tokens"] for row in line.rows} == set(budgets.values()) and "of 6 budgets" in line.note
    (answer,) = ask(asked, ["prediction"])
    (found,) = answer.findings
    assert found.estimate == pytest.approx(2 + 5 * 25_600**-0.4, abs=0.01) and line.note in found.note


def test_a_loss_is_predicted_at_the_budgets_that_are_asked_for(tmp_path):
    def score(strategy: str, seed: int, position: int, part: float) -> list[Point]:
        noise = np.random.default_rng([seed, int(6400 * part)]).normal(0, 0.001)
        return [("web", "held-out", "bits per byte", 2 + 0.5 * part**-0.4 + noise)]

    arms = {"long": [("web", "pretrain", {"web": 6400})]}
    made = study(tmp_path, arms, score, [2**-k for k in range(6, -1, -1)])
    (answer,) = ask(Asked(made, at=(12_800.0, 1e6)), ["prediction"])
    assert [f.parts["tokens"] for f in answer.findings] == [12_800, 1e6]
    assert [f.parts["at"] for f in answer.findings] == [6 * 12_800, 6e6]
    (twice,) = ask(Asked(made), ["prediction"])[0].findings
    assert twice.estimate == answer.findings[0].estimate
    assert "long after 1M tokens" in answer.findings[1].subject
    assert twice.estimate == pytest.approx(2 + 0.5 * 2**-0.4, abs=0.01)
    assert answer.findings[1].estimate == pytest.approx(2, abs=0.1) and answer.findings[1].estimate < twice.estimate


def test_every_bound_that_the_rows_allow_is_asked_of_a_head_start(tmp_path):
    first = {"code first": 3.0, "lists first": 1.5, "scratch": 0.0}  # what each takes off the loss at the beginning

    def loss(strategy: str, position: int, part: float) -> float:
        return 1 + (6 - first[strategy] * (strategy == "scratch" or position)) * (100 * part) ** -0.5

    def score(strategy: str, seed: int, position: int, part: float) -> list[Point]:
        if position == 0 and strategy != "scratch":
            return []
        noise = np.random.default_rng([seed, int(1000 * part), len(strategy)]).normal(0, 0.01)
        bits = loss(strategy, position, part) / 2 + noise
        return [
            ("gsm", "problems", "bits per byte", bits),
            ("gsm", "problems", "accuracy", 100 / (1 + np.exp(2 * bits))),
        ]

    math_: Stage = ("math", "pretrain", {"math": 20_000})
    arms = {"scratch": [math_], "code first": [("code", "pretrain", {"code": 10_000}), math_],
            "lists first": [("lists", "pretrain", {"lists": 10_000}), math_]}  # fmt: skip
    made = study(tmp_path, arms, score, [k / 8 for k in range(1, 9)], count=3, loss=loss)
    found = ask(Asked(made, parameters=10_000), ["bound"])[0].findings
    asked_of = {f.question for f in found if f.subject.startswith("code first")}
    assert asked_of == {"bound-regret", "bound-head-start", "bound-information", "bound-last-loss",
                        "bound-accuracy-from-loss"}  # fmt: skip
    (informed,) = [f for f in found if f.question == "bound-information"]
    assert informed.parts["control"] == "lists first" and informed.parts["cap"] == "weights"
    assert informed.parts["cap_bits: weights"] == 20_000 and informed.estimate > informed.parts["measured"]
    (unknown,) = [f for f in ask(Asked(made), ["bound"])[0].findings if f.question == "bound-information"]
    assert unknown.parts["cap"] == "code text"
    only = ask(Asked(made, measure="accuracy"), ["bound"])[0].findings
    assert {f.question for f in only} == {"bound-accuracy-from-loss"}


# ---- text that is read again ----------------------------------------------------------------------------------------


def read_again(unique: float, r_star: float = 15.39) -> Any:
    def score(strategy: str, seed: int, position: int, part: float) -> list[Point]:
        worth = float(effective_tokens(unique, part * 64_000, r_star))
        noise = np.random.default_rng([seed, int(part * 64_000)]).normal(0, 0.001)
        return [("target", "held-out", "bits per byte", 1 + 30 * worth**-0.5 + noise)]

    return score


def test_repeated_tokens_are_not_taken_for_new_ones(tmp_path):
    arms, points = {"small pool": [("web", "pretrain", {"web": 64_000})]}, [2**-k for k in range(7, -1, -1)]
    made = study(tmp_path, arms, read_again(2000), points, there={"web": 2000})
    (found,) = ask(Asked(made), ["saturation"])[0].findings
    assert found.parts["epochs"] == 32 and found.parts["in_new_tokens"] and "D' = U + U·R*" in found.note
    assert found.parts["largest"] == pytest.approx(float(effective_tokens(2000, 64_000)))
    assert found.parts["exponent"] == pytest.approx(0.5, rel=0.1)  # the law of new tokens that made the scores
    endless = study(tmp_path / "endless", arms, read_again(2000), points)
    (taken_as_new,) = ask(Asked(endless), ["saturation"])[0].findings
    assert taken_as_new.parts["epochs"] is None and taken_as_new.parts["largest"] == 64_000


def test_what_an_earlier_stage_read_of_a_pool_counts_as_read():
    pool = Pools((0.5, 0.5), (1000.0, math.inf), (1000.0, 0.0))
    worth = float(effective_tokens(1000, 1500) - effective_tokens(1000, 1000))
    assert float(pool.new(1000)) == pytest.approx(500 + worth) and pool.epochs(1000) == 1.5


@given(st.floats(1, 1e9), st.floats(0, 1))
def test_where_no_pool_ends_new_tokens_are_the_tokens_read(unique: float, part: float):
    assert float(one_pool(unique).new(part * unique)) == pytest.approx(part * unique)


def test_repeats_floors_and_why_a_source_ended_are_asked_of_a_study(tmp_path):
    arms = {name: [(name, "pretrain", {name: 64_000})] for name in ("web", "tiny")}

    def score(strategy: str, seed: int, position: int, part: float) -> list[Point]:
        return read_again(1000 if strategy == "tiny" else 1e9, 3.0)(strategy, seed, position, part)

    points = [2**-k for k in range(9, -1, -1)]
    made = study(tmp_path, arms, score, points, there={"tiny": 1000, "web": 10**9})
    again, floor, why = ask(Asked(made), ["repetition", "floors", "why-saturated"])
    (r_star,) = again.findings
    assert r_star.subject.startswith("tiny: R*") and r_star.parts["most_epochs"] == 64
    assert r_star.estimate == pytest.approx(3.0, rel=0.05)
    assert [f.subject for f in floor.findings] == ["tiny less web"] and "read up to 64 times" in floor.findings[0].note
    (reason,) = why.findings
    assert reason.subject == "tiny against web" and reason.parts["kind"] == "repetition"
    one = study(tmp_path / "one", {"web": arms["web"]}, score, points)
    assert all(a.refused and not a.findings for a in ask(Asked(one), ["repetition", "floors", "why-saturated"]))
