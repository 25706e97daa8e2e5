"""What a source is worth: sums that hold, ranks that are judged, and two accounts that are told apart."""

from __future__ import annotations

import importlib.util
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import spearmanr

from curricle.analysis.value import OTHER_SOURCES, saturating, surprise, validate, value
from curricle.report.charts.value import chart
from curricle.study import Refused

SCRIPT = Path(__file__).parents[2] / "scripts" / "simulations" / "value.py"
spec = importlib.util.spec_from_file_location("value_simulation", SCRIPT)
simulation = importlib.util.module_from_spec(spec)
spec.loader.exec_module(simulation)


def documents(n: int = 40, gradients: bool = True) -> list[dict]:
    """Three sources: one near the target, one with much in it that is beside the point, one noise."""
    random = np.random.default_rng(3)
    rows = []
    for source, r, c in (("near", 0.3, 1.0), ("rich", 0.03, 4.0), ("noise", 0.0, 6.0)):
        for i in range(n):
            mine = {"r": r + random.normal(0, 0.02), "c": c * math.exp(random.normal(0, 0.2)), "f": 2.0}
            row = {"source": source, "document": f"{source}{i}", "tokens": int(random.integers(50, 400)), **mine}
            rows.append(row | ({"dot": math.prod(mine.values()), "target_square": 4.0} if gradients else {}))
    return rows


def test_sources_are_ordered_by_the_value_of_a_token_in_percent_of_the_target_s_own():
    rows = documents()
    found = value(rows)
    assert [f.subject for f in found] == ["near", "rich", "noise"]
    near = [row for row in rows if row["source"] == "near"]
    by_hand = sum(row["tokens"] * row["dot"] for row in near) / sum(row["tokens"] for row in near)
    assert found[0].estimate == pytest.approx(100 * by_hand / 4) and found[0].parts["per_token"] == pytest.approx(
        by_hand
    )
    assert found[0].resolved and not found[2].resolved
    assert [row["source"] for row in found[0].table] == ["near", "rich", "noise"]
    chart(found[0])


def test_factors_alone_give_the_same_order_in_percent_of_the_mean_source():
    found = value(documents(gradients=False))
    assert [f.subject for f in found] == ["near", "rich", "noise"]
    assert sum(f.estimate for f in found) == pytest.approx(300)
    assert all(f.p_value is None for f in found)


def test_the_mean_of_the_product_is_not_the_product_of_the_means():
    rows = [
        {"source": "s", "document": str(i), "tokens": 10, "r": r, "c": c, "f": 1.0}
        for i, (r, c) in enumerate([(0.4, 1.0), (0.1, 4.0)] * 5)
    ]
    only = value(rows)[0]
    assert only.parts["mean_rc"] == pytest.approx(0.4) and only.parts["product_of_means"] == pytest.approx(0.625)
    assert "E[rc] is 0.64 of E[r]·E[c]" in only.note and "less relevant" in only.note


@settings(max_examples=30)
@given(st.permutations(documents(8)), st.floats(1e-3, 1e3), st.integers(2, 5))
def test_neither_order_nor_units_nor_the_number_of_checkpoints_matter(shuffled, scale, checkpoints):
    known = value(documents(8))
    scaled = [{**row, "dot": row["dot"] * scale, "target_square": 4.0 * scale} for row in shuffled]
    repeated = [row for row in documents(8) for _ in range(checkpoints)]
    for other in (value(scaled), value(repeated)):
        for f, g in zip(known, other):
            assert g.subject == f.subject and g.estimate == pytest.approx(f.estimate)
            assert g.interval().low == pytest.approx(f.interval().low)


def test_volume_saturates_and_is_the_value_times_the_tokens_where_they_are_few():
    assert saturating(2.0, 1e3, 1e9, 0.5) == pytest.approx(2e3, rel=1e-5)
    assert saturating(2.0, 1e9, 1e8, 1.0) == pytest.approx(2e9)
    assert saturating(2.0, 1e9, 1e8, 0.0) == pytest.approx(2e8 * math.log(11))
    assert saturating(2.0, 1e9, 1e8, 1e-9) == pytest.approx(saturating(2.0, 1e9, 1e8, 0.0), rel=1e-6)
    a, b = (saturating(1.0, d, 1e8, 0.4) for d in (1e9, 2e9))
    assert a < b < 2 * a
    assert value(documents(), volume={"rich": 1e9})[1].parts["volume_tokens"] == 1e9
    with pytest.raises(Refused, match="volume: needs"):
        saturating(1.0, 1.0, 0.0, 0.5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda rows: [], "there are none"),
        (lambda rows: [{**rows[0], "dot": None, "r": None}, *rows[1:]], "near, near0: no 'r'"),
        (lambda rows: [{**rows[0], "dot": float("nan")}, *rows[1:]], "near, near0: value nan"),
        (lambda rows: [{**row, "target_square": 0.0} for row in rows], "nothing to measure by"),
    ],
)
def test_rows_without_a_value_are_refused(change, message):
    with pytest.raises(Refused, match=message):
        value(change(documents(3)))


GAINS = [{"source": s, "gain": g} for s, g in zip("abcdefg", (3.0, 2.5, 2.6, 1.0, 0.5, 0.4, -1.0))]
VALUES = dict(zip("abcdefg", (9.0, 8.0, 9.5, 3.0, 2.0, 2.5, 0.1)))


def test_values_are_validated_by_the_ranks_of_gains():
    found = validate(VALUES, GAINS)
    assert found.estimate == pytest.approx(spearmanr(list(VALUES.values()), [g["gain"] for g in GAINS]).statistic)
    assert found.parts["first_by_value"] == "c" and found.parts["best"] == "a"
    assert found.parts["regret"] == pytest.approx(0.4)
    assert found.p_value < 0.05 and found.interval(OTHER_SOURCES).low > 0
    chart(found)


def test_an_exact_test_of_three_sources_cannot_be_significant_and_has_no_interval():
    found = validate({k: VALUES[k] for k in "adg"}, GAINS)
    assert found.estimate == pytest.approx(1) and found.p_value == pytest.approx(2 / 6) and not found.intervals
    with pytest.raises(Refused, match="a rank needs 3"):
        validate({"a": 1.0, "b": 2.0}, GAINS)
    assert validate(dict.fromkeys("abc", 1.0), GAINS).undefined == "all values are equal"


def test_findings_of_value_can_be_validated_as_they_are():
    found = value(documents())
    gains = [{"source": s, "gain": g} for s, g in (("near", 3), ("rich", 1), ("noise", 0))]
    assert validate(found, gains).estimate == pytest.approx(1)


@pytest.mark.parametrize(("account", "verdict"), [("mismatch", "mismatch"), ("capacity", "capacity")])
def test_the_two_accounts_of_a_surprise_are_told_apart(account, verdict):
    found = surprise(simulation.bins(np.random.default_rng(0), account, noise=0.02, seeds=5))
    assert found.parts["verdict"] == verdict
    if account == "capacity":
        assert found.parts["k_small"] == pytest.approx(0.5, abs=0.1) and found.estimate > 0
    chart(found)


def test_a_law_of_another_kind_is_neither_account():
    found = surprise(simulation.bins(np.random.default_rng(0), "threshold", noise=0.3, seeds=3))
    assert found.parts["verdict"] == "cannot tell" and "do not follow" in found.note
    assert found.parts["k_small_low"] > 0 and found.interval().low > 0  # it would have been called capacity
    told = simulation.verdicts(60, "threshold", 0.3, 3)
    assert told["cannot tell"] >= 0.9
    own = [surprise(simulation.bins(np.random.default_rng(k), "capacity", 0.3, 3)).parts["lack_of_fit_p"] < 0.05
           for k in range(100)]  # fmt: skip
    assert np.mean(own) <= 0.05 + 3 * (0.05 * 0.95 / 100) ** 0.5


def test_bins_that_differ_between_seeds_leave_the_fit_untested():
    rows = simulation.bins(np.random.default_rng(0), "capacity", noise=0.02, seeds=5)
    found = surprise([{**row, "complexity": row["complexity"] + 0.01 * row["seed"]} for row in rows])
    assert found.parts["lack_of_fit_p"] is None and "could not be tested" in found.note


def test_noise_leaves_the_surprise_undecided():
    assert (
        surprise(simulation.bins(np.random.default_rng(0), "capacity", noise=5, seeds=3)).parts["verdict"]
        == "cannot tell"
    )
    with pytest.raises(Refused, match="compares two model sizes"):
        surprise([{**row, "size": 1} for row in simulation.bins(np.random.default_rng(0), "mismatch", 0.1, 3)])


def test_intervals_hold_the_truth_and_a_mismatch_is_seldom_called_capacity():
    covered = simulation.covered(200, 30)
    assert covered["value"] > 0.9 and covered["false"] < 0.05 + 3 * (0.05 * 0.95 / 200) ** 0.5
    told = simulation.verdicts(100, "mismatch", 0.1, 3)
    assert told["capacity"] <= 0.06
    ranks = simulation.ranked(300, 7)
    assert ranks["false"] <= 0.05 + 3 * (0.05 * 0.95 / 300) ** 0.5
