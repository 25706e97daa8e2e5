"""Why code helps: contrasts of arms that are right, shares where they can be had, and refusals where they cannot."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curricle.analysis.why_code import why_code
from curricle.report.charts.why_code import chart
from curricle.study import Refused

SCRIPT = Path(__file__).parents[2] / "scripts" / "simulations" / "why_code.py"
spec = importlib.util.spec_from_file_location("why_code_simulation", SCRIPT)
simulation = importlib.util.module_from_spec(spec)
spec.loader.exec_module(simulation)

MEANS = {"code": 40, "prose": 30, "m": 37, "b": 33, "n": 36, "o": 38, "bag": 31, "said": 33, "drill": 34}
NAMED = {
    "whole": "code",
    "filler": "prose",
    "taken": {"meaning": "m", "binding": "b", "nesting": "n", "order": "o", "syntax": "bag", "code": "said"},
    "control": "drill",
}


def rows(seeds: int = 3, noise: float = 0.5, measure: str = "accuracy", scale: float = 1.0) -> list[dict]:
    random = np.random.default_rng(0)
    return [
        {"strategy": arm, "seed": seed, "benchmark": "b", "measure": measure, "final": True, "items": 200,
         "score": scale * (mean + random.normal(0, noise))}
        for seed in range(seeds) for arm, mean in MEANS.items()
    ]  # fmt: skip


def test_each_property_is_the_difference_of_two_arms_and_the_account_adds_up():
    found = why_code(rows(noise=0.0001), **NAMED)
    assert [round(f.estimate) for f in found] == [10, 3, 4, 4, 2]  # binding on top of meaning
    account = {row["what"]: row for row in found[0].table}
    assert round(account["the rest"]["effect"]) == 10 - 13
    alone = ("token counts alone", "comments alone", "procedural text")
    assert [round(account[what]["effect"]) for what in alone] == [1, 3, 4]
    told = ("meaning", "binding", "nesting", "order", "the rest")
    assert sum(account[what]["effect"] for what in told) == pytest.approx(account["code"]["effect"])
    shares = [row["share"] * account["code"]["effect"] for row in found[0].table if row["share"] is not None]
    assert shares == pytest.approx([row["effect"] for row in found[0].table if row["share"] is not None])


def test_an_arm_that_is_noisier_than_the_others_stands_on_its_own():
    wild = {"n": [36, 20, 50, 31]}
    given = [{**row, "score": wild[row["strategy"]][row["seed"]] if row["strategy"] in wild else row["score"]}
             for row in rows(seeds=4, noise=0.1)]  # fmt: skip
    found = {f.subject.split(",")[0]: f for f in why_code(given, **NAMED)}
    assert "nesting" in found["nesting"].note and "of this contrast" in found["nesting"].test
    assert found["nesting"].parts["share"] is None and found["nesting"].interval().contains(0)


def test_fewer_bits_per_byte_are_better():
    points, bits = why_code(rows(), **NAMED), why_code(rows(measure="bits per byte", scale=-1), **NAMED)
    assert [f.estimate for f in points] == pytest.approx([f.estimate for f in bits])
    assert bits[0].unit == "bits per byte" and "fewer bits" in bits[0].note


def test_a_loss_in_nats_has_its_own_unit_and_lower_is_better():
    points, nats = why_code(rows(), **NAMED), why_code(rows(measure="nats per token", scale=-1), **NAMED)
    assert [f.estimate for f in points] == pytest.approx([f.estimate for f in nats])
    assert {f.unit for f in nats} == {"nats per token"} and "less is lost" in nats[0].note


@settings(max_examples=30)
@given(st.permutations(rows()), st.floats(0.01, 100))
def test_neither_the_order_of_rows_nor_the_unit_matters(shuffled, scale):
    known = why_code(rows(), **NAMED)
    for f, g in zip(known, why_code([{**r, "score": r["score"] * scale} for r in shuffled], **NAMED)):
        assert g.estimate == pytest.approx(f.estimate * scale) and g.p_value == pytest.approx(f.p_value)
        assert g.parts.get("share_low") == pytest.approx(f.parts.get("share_low"))


def test_a_share_is_refused_where_code_is_not_told_from_the_filler():
    found = why_code(rows(noise=20), **NAMED)
    assert all(f.parts["share"] is None for f in found[1:]) and "nothing to take shares of" in found[0].note


def test_one_seed_has_no_interval_and_says_so():
    first, *rest = why_code(rows(seeds=1), **NAMED)
    assert first.interval() is None and first.p_value is None and "One seed" in first.note
    assert all(f.parts["share"] is None for f in rest)
    chart(first)


def test_seeds_that_an_arm_lacks_are_left_out_and_named():
    short = [row for row in rows() if (row["strategy"], row["seed"]) != ("n", 1)]
    assert why_code(short, **NAMED)[0].seeds == 2 and "seeds 1" in why_code(short, **NAMED)[0].note


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"whole": "cod"}, "whole: 'cod' has no rows; did you mean 'code'"),
        ({"taken": {"names": "m"}}, "taken.names: unknown property"),
        ({"benchmark": "c"}, "benchmark: 'c' has no rows"),
    ],
)
def test_what_cannot_be_answered_is_refused(change, message):
    with pytest.raises(Refused, match=message):
        why_code(rows(), **{**NAMED, **change})


def test_missing_columns_two_scores_and_no_numbers_are_refused():
    with pytest.raises(Refused, match="no column 'seed'"):
        why_code([{k: v for k, v in r.items() if k != "seed"} for r in rows()], **NAMED)
    with pytest.raises(Refused, match="two final scores"):
        why_code(rows() + rows(), **NAMED)
    with pytest.raises(Refused, match="is no number"):
        why_code([{**r, "score": float("nan")} for r in rows()], **NAMED)


@pytest.mark.parametrize("law", ["its own", "heavy tails"])
def test_intervals_hold_the_truth_and_nothing_is_claimed_of_nothing(law):
    found = simulation.tried(150, (1.0, 0.5, 2.0, 0.0), 3, law)
    assert found["effects"] > 0.92 and found["shares"] > 0.92
    assert simulation.tried(150, (0.0,) * 4, 3, law)["claimed"] < 0.05 + 3 * (0.05 * 0.95 / 150) ** 0.5
