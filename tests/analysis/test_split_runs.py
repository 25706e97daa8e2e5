"""A budget's split read off runs: what is known comes out, within its interval as often as it says, or a reason."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from simulated import script

from curricle.analysis.split_runs import split_of_runs
from curricle.report.charts.efficiency import chart
from curricle.study import Refused

sim = script("split")
R, TOTAL, WORTH = sim.R, sim.TOTAL, sim.TWO


def study(
    random: np.random.Generator, worth: Mapping[str, float] = WORTH, arms: int = 10, **noise: float
) -> list[dict[str, Any]]:
    return sim.study(random, sim.Scenario(worth, sim.own(worth), arms), **noise)


@pytest.mark.slow
@pytest.mark.parametrize("truth", ["three sources", "another law: an exponent for each", "another law: more together"])
def test_shares_and_the_gain_lie_in_their_intervals_as_often_as_they_say_whatever_the_law(truth) -> None:
    studies = 20
    held = sim.held(sim.SCENARIOS[truth], studies, seed=1)
    assert held["refused"][0] <= 0.4 * studies
    for name in ("shares", "loss", "gain"):
        yes, of_all = held[name]
        assert yes / of_all >= 0.95 - 3 * (0.95 * 0.05 / studies) ** 0.5, name


def test_limits_of_a_share_hold_what_costs_no_more_than_strategies_show() -> None:
    found = split_of_runs(study(np.random.default_rng(2)), TOTAL)
    for row in found.table:
        assert float(row["low"] or 0) < float(row["share"] or 0) < float(row["high"] or 0)
        assert 0.05 < float(row["high"] or 0) - float(row["low"] or 0) < 0.35
    sharp = split_of_runs(study(np.random.default_rng(2), sigma=1e-4), TOTAL)
    assert all(float(row["high"] or 0) - float(row["low"] or 0) < 0.05 for row in sharp.table)


def test_a_source_that_teaches_nothing_may_get_nothing() -> None:
    found = split_of_runs(study(np.random.default_rng(5), {"code": 0.5, "math": 1.0, "noise": 0.0}, arms=16), TOTAL)
    row = next(row for row in found.table if row["source"] == "noise")
    assert float(row["low"] or 0) == pytest.approx(0, abs=1e-3) and float(row["high"] or 1) < 0.1
    assert float(found.parts["gain_high"] or 0) < 0  # better than equal shares, for sure
    json.dumps(found.to_json(), allow_nan=False)
    assert chart(found).to_dict()["layer"]


def test_limits_are_kept_and_what_no_run_read_is_said() -> None:
    rows = study(np.random.default_rng(6))
    found = split_of_runs(rows, TOTAL, {"math": 3e5})
    assert {row["source"]: row["limited"] for row in found.table} == {"code": False, "math": True}
    assert "than any run read" in split_of_runs(rows, 10 * TOTAL).note
    assert "no more is shared out" in split_of_runs(rows, TOTAL, {"math": 3e5, "code": 3e5}).note


def test_rows_that_cannot_tell_are_refused_with_the_reason() -> None:
    rows = study(np.random.default_rng(7))
    alone = [{**row, f"dose:{'code' if i // 3 % 2 else 'math'}": 0.0} for i, row in enumerate(rows)]
    for some, said in (
        (alone, "one of the sources alone"),
        (rows[:12], "a law of 2 sources takes 7"),
        ([{**row, "measure": "accuracy"} for row in rows], "accuracy does not follow"),
        ([{**row, "dose:code": 5.0} for row in rows], "1 source was read in doses that vary"),
    ):
        with pytest.raises(Refused, match=said):
            split_of_runs(some, TOTAL)


def test_runs_of_another_law_are_not_answered() -> None:
    rows = study(np.random.default_rng(8), arms=14, sigma=1e-5)
    for row in rows:
        row["score"] += 0.2 * np.sin(9 * row["dose:code"] / TOTAL)
    found = split_of_runs(rows, TOTAL)
    assert found.estimate is None and "do not follow a law of effective tokens" in str(found.undefined)
