"""Shares of a chain add up, Shapley's value is fair, and both hold the truth at their rate."""

from __future__ import annotations

import json
import math
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curricle.analysis.chain import chain, ratio, shapley
from curricle.report.charts.chain import chart
from curricle.study import Refused


def path(
    strategy: str, stages: list[str], scores: list[float], seed: int = 0, start: float | None = None
) -> list[dict]:
    """Rows of one strategy: the score at the end of each stage, one point on the way, and before training."""
    rows = [] if start is None else [_row(strategy, stages[0], seed, 0, 0, start)]
    for k, (stage, score) in enumerate(zip(stages, scores)):
        rows += [_row(strategy, stage, seed, k, 50, score + 0.3), _row(strategy, stage, seed, k, 100, score)]
    return rows


def _row(strategy: str, stage: str, seed: int, position: int, tokens: int, score: float) -> dict:
    return {
        "strategy": strategy, "stage": stage, "seed": seed, "position": position, "stage_tokens": tokens,
        "score": score, "benchmark": "math", "measure": "bits per byte", "flops": 1e15 * (position + tokens / 100),
    }  # fmt: skip


def subsets(
    random: np.random.Generator, together: float = 0.0, seeds: int = 3, names: tuple = ("code", "math")
) -> list[dict]:
    gives = dict(zip(names, (0.1, 0.4, 0.2)))
    rows = []
    for k in range(len(names) + 1):
        for stages in combinations(names, k):
            for seed, luck in enumerate(random.normal(0, 0.01, seeds)):
                level, scores = 3.0, []
                for stage in ("warm", *stages):
                    level -= gives.get(stage, 0.0) + together * (stage == "math" and "code" in stages)
                    scores.append(level + luck + random.normal(0, 0.005))
                rows += path("+".join(["warm", *stages]), ["warm", *stages], scores, seed)
    return rows


@given(st.lists(st.floats(0.2, 5.0), min_size=3, max_size=6))
def test_shares_multiply_to_the_whole_gain(scores: list[float]) -> None:
    stages = [f"s{k}" for k in range(len(scores) - 1)]
    (found,) = chain(path("a", stages, scores[1:], start=scores[0]))
    relative = [float(row["relative_percent"] or 0) for row in found.table]
    assert math.prod(1 + r / 100 for r in relative) == pytest.approx(scores[-1] / scores[0])
    if abs(math.log(scores[-1] / scores[0])) > 1e-3:
        assert sum(float(row["share"] or 0) for row in found.table) == pytest.approx(1, abs=1e-6)
    assert found.estimate == pytest.approx(scores[-1] - scores[0]) and not found.intervals
    assert "lower is better, so a negative difference is a gain" in found.note


def test_seeds_that_agree_are_not_called_one_seed() -> None:
    (found,) = chain(
        [*path("a", ["b", "c"], [3.0, 2.0], 0, start=4.0), *path("a", ["b", "c"], [3.0, 2.0], 1, start=4.0)]
    )
    assert not found.intervals and "No variation over seeds" in found.note and "One seed" not in found.note


def test_a_chain_says_where_it_begins_and_what_it_lacks() -> None:
    rows = path("a", ["code", "math"], [2.0, 1.0]) + path("a", ["code", "math"], [2.1, 1.1], seed=1)[:-1]
    (found,) = chain(rows)
    assert [row["stage"] for row in found.table] == ["math"]
    assert "begins at its end" in found.note and "1 seed without all stages: left out." in found.note
    with pytest.raises(Refused, match="no strategy has two stages"):
        chain(path("a", ["code"], [2.0]))
    with pytest.raises(Refused, match="no column 'position'"):
        chain([{"strategy": "a", "seed": 0, "stage": "x", "stage_tokens": 1, "score": 1}])


def test_what_stages_give_alone_and_what_remains_stand_beside_the_chain() -> None:
    rows = (
        path("both", ["code", "math"], [2.8, 2.0], start=3.0) + path("code", ["code"], [2.8], start=3.0)
        + path("math", ["math"], [2.4], start=3.0)
    )  # fmt: skip
    found = next(f for f in chain(rows) if f.parts["strategy"] == "both")
    assert [row["alone"] for row in found.table] == pytest.approx([-0.2, -0.6])
    assert found.parts["unexplained"] == pytest.approx(-1.0 + 0.8)


@given(st.integers(0, 2**32 - 1), st.sampled_from([("code", "math"), ("code", "math", "prose")]))
@settings(max_examples=25)
def test_shapleys_values_add_to_the_whole_gain(seed: int, names: tuple[str, ...]) -> None:
    found = shapley(subsets(np.random.default_rng(seed), 0.2, names=names))
    assert sum(float(f.estimate or 0) for f in found) == pytest.approx(float(found[0].parts["total"] or 0))
    alone = sum(float(f.parts["alone"] or 0) for f in found)
    assert found[0].parts["unexplained"] == pytest.approx(float(found[0].parts["total"] or 0) - alone)


def test_stages_that_add_up_get_what_they_give_and_leave_nothing() -> None:
    random, claims, held, studies = np.random.default_rng(0), 0, 0, 150
    for _ in range(studies):
        code = shapley(subsets(random))[0]
        claims += float(code.parts["unexplained_p"] or 1) < 0.05
        interval = code.interval()
        held += interval is not None and interval.contains(-0.1)
    assert claims / studies <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / studies)
    assert held / studies >= 0.95 - 3 * math.sqrt(0.05 * 0.95 / studies)


def test_many_strategies_that_gain_nothing_are_seldom_said_to_gain() -> None:
    random, claims, studies = np.random.default_rng(3), {"chain": 0, "shapley": 0}, 60
    for _ in range(studies):
        scores = random.normal(2, 0.01, (8, 3, 3)).tolist()
        rows = [row for k in range(8) for seed, (start, *then) in enumerate(scores[k])
                for row in path(f"a{k}", ["x", "y"], then, seed, start)]  # fmt: skip
        names = ("code", "math", "prose")
        nothing = [{**row, "score": random.normal(2, 0.01)} for row in subsets(random, names=names)]
        for question, found in (("chain", chain(rows)), ("shapley", shapley(nothing))):
            claims[question] += any(f.p_value is not None and f.p_value < 0.05 for f in found)
            assert all("Holm over" in f.test for f in found)
    assert max(claims.values()) / studies <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / studies)


def test_a_subset_that_was_not_run_is_named() -> None:
    rows = [row for row in subsets(np.random.default_rng(0)) if row["strategy"] != "warm+math"]
    with pytest.raises(Refused, match="not run: math"):
        shapley(rows)
    twice = subsets(np.random.default_rng(0))
    with pytest.raises(Refused, match="one order"):
        shapley([*twice, *path("again", ["warm", "math", "code"], [3.0, 2.5, 2.4])])


def test_a_noisier_subset_widens_what_it_has_a_part_in() -> None:
    rows = subsets(np.random.default_rng(6), seeds=5)
    calm = shapley(rows)[0]
    for row in rows:
        if row["strategy"] == "warm+code+math" and row["stage"] == "math":
            row["score"] += (-1) ** row["seed"]
    noisy = shapley(rows)[0]
    assert "pooled over all subsets" in calm.note and "may differ between subsets" in noisy.note
    # All of the noise is one subset's, and half of that subset's weight is the stage's: t has its 4 degrees of freedom.
    score = [r["score"] for r in rows if r["strategy"] == "warm+code+math" and r["stage"] == "math"]
    half = 2.776 * 0.5 * np.std(score, ddof=1) / 5**0.5
    assert (noisy.interval().high - noisy.interval().low) / 2 == pytest.approx(half, rel=0.05)


def test_fiellers_ratio_holds_the_truth_and_knows_when_it_cannot() -> None:
    random, held = np.random.default_rng(1), 0
    for _ in range(400):
        b = random.normal(1.0, 0.1, 3)
        _, low, high = ratio(0.3 * b + random.normal(0, 0.05, 3), b, 0.95)
        held += low is not None and high is not None and low <= 0.3 <= high
    assert held / 400 >= 0.95 - 3 * math.sqrt(0.05 * 0.95 / 400)
    assert ratio(np.array([0.1, -0.1, 0.05]), np.array([0.1, -0.1, 0.02]), 0.95)[1:] == (None, None)


def test_findings_are_plain_json_and_are_drawn() -> None:
    rows = subsets(np.random.default_rng(2))
    for found in (*chain(rows), *shapley(rows)):
        json.dumps(found.to_json(), allow_nan=False)
        assert chart(found).to_dict()["layer"]
