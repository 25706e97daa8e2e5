"""Saturation: known ends are found, unknown ones are not invented, floors are refused where they cannot be seen."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from curricle.analysis.pools import one_pool
from curricle.analysis.saturation import doubling_worth, floors, repeated_end, saturation, why_saturated
from curricle.analysis.statistics.powerlaw import PowerLaw
from curricle.analysis.statistics.repeats import effective_tokens
from curricle.report.charts.saturation import chart
from curricle.study import Refused

X = 1e6 * 2.0 ** np.arange(8)
LAW = PowerLaw(0.8, 0.6, 0.6, 1e6)


def rows(law=LAW, seed: int = 0, name: str = "arxiv", seeds: int = 3, sd: float = 0.004, **more: object) -> list[dict]:
    random = np.random.default_rng(seed)
    return [
        {"strategy": name, "seed": s, "stage_tokens": float(x), "dose:arxiv": float(x) / 2, "benchmark": "math",
         "measure": "bits per byte", "score": float(law(x)) + random.normal(0, sd), **more}
        for s in range(seeds) for x in X
    ]  # fmt: skip


@given(st.floats(0.05, 2), st.floats(0.2, 1.5), st.floats(1e-4, 0.02))
def test_past_d_sat_a_doubling_gains_less_than_delta(fall: float, alpha: float, delta: float) -> None:
    law = PowerLaw(0.5, fall, alpha, 1e6)
    at = doubling_worth(law, delta)
    assert at == pytest.approx((law.raw_amplitude * (1 - 2**-alpha) / delta) ** (1 / alpha), rel=1e-6)
    assert float(law(at) - law(2 * at)) == pytest.approx(delta)
    after = PowerLaw(0.5, fall, alpha, 1e6, offset=1.0)
    late = doubling_worth(after, delta)
    if late:
        assert float(after(late) - after(2 * late)) == pytest.approx(delta, rel=1e-2)
        assert float(after(3 * late) - after(6 * late)) < delta


@pytest.mark.slow
def test_an_end_within_the_range_is_found_with_its_interval() -> None:
    delta, held, studies = 0.03, 0, 25
    truth = doubling_worth(LAW, delta)
    for k in range(studies):
        f = saturation(rows(seed=k), delta=delta)
        held += f.interval().contains(truth)
        assert f.parts["verdict"] == "saturated"
    assert held / studies >= 0.95 - 3 * math.sqrt(0.05 * 0.95 / studies)
    assert f.estimate == pytest.approx(truth, rel=0.1)


def test_the_dose_of_a_source_is_its_own_axis() -> None:
    by_stage, by_dose = saturation(rows(), delta=0.03), saturation(rows(), source="arxiv", delta=0.03)
    assert by_dose.estimate == pytest.approx(float(by_stage.estimate or 0) / 2, rel=1e-3)
    with pytest.raises(Refused, match="no column 'dose:arxv' in row 0; did you mean 'dose:arxiv'"):
        saturation(rows(), source="arxv", delta=0.03)


@pytest.mark.slow
def test_where_nothing_saturates_no_end_is_invented() -> None:
    claims = 0
    for k in range(12):
        f = saturation(rows(lambda x: 1.4 - 0.06 * np.log(x / 1e6), k), delta=0.02)
        assert f.estimate is None and "not within" in (f.undefined or "")
        claims += f.parts["verdict"] != "not yet" or f.interval().high is not None
    assert claims / 12 <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / 12)


def test_what_is_no_power_law_gets_no_end() -> None:
    f = saturation(rows(lambda x: 0.8 + 0.6 * np.exp(-x / 2e7), sd=0.002), delta=0.03)
    assert f.estimate is None and f.parts["verdict"] == "open" and "do not follow" in (f.undefined or "")
    assert not f.intervals and f.parts["extrapolated"] is None  # nothing is read off a law that they do not follow


def test_runs_that_agree_but_for_rounding_have_no_noise() -> None:
    alike = rows(sd=0.0)
    assert "no two runs" in (saturation(alike).undefined or "")


def test_without_a_stated_delta_it_is_the_noise_of_a_difference() -> None:
    f = saturation(rows())
    assert float(f.parts["delta"] or 0) == pytest.approx(0.004 * math.sqrt(2 / 3), rel=0.35)
    twelve = saturation(rows(), seeds=12)
    assert twelve.parts["delta"] == pytest.approx(float(f.parts["delta"] or 0) / 2)
    with pytest.raises(Refused, match="delta"):
        saturation(rows(), delta=-1.0)


def test_what_is_not_known_of_delta_is_in_the_interval() -> None:
    """Runs that differ by their luck as much as points do: the truth is D_sat at the true noise of a difference."""
    truth, held = doubling_worth(LAW, 0.004 * math.sqrt(2) * math.sqrt(2 / 3)), 0
    for k in range(10):
        luck = np.random.default_rng(100 + k).normal(0, 0.004, 3)
        f = saturation([{**row, "score": row["score"] + luck[row["seed"]]} for row in rows(seed=k)])
        held += f.interval().contains(truth)
    assert held >= 8  # 3 of them where δ is taken as known
    stated = saturation(rows(seed=9), delta=float(saturation(rows(seed=9)).parts["delta"] or 0))
    assert "which the limits allow for" in f.note and "stated" in stated.note
    i, known = saturation(rows(seed=9)).interval(), stated.interval()
    assert i.low < known.low and (i.high is None or i.high > known.high)


def test_a_verdict_waits_for_a_delta_that_is_known() -> None:
    """Luck alone sets these two runs apart, so δ rests on one degree of freedom."""
    two = [{**row, "score": row["score"] + 0.002 * row["seed"]} for row in rows(seeds=2, sd=1e-5)]
    f = saturation(two)
    assert f.parts["delta_high"] > 20 * f.parts["delta"] and f.parts["verdict"] == "open"
    assert saturation(two, delta=float(f.parts["delta"] or 0)).parts["verdict"] == "not yet"


def test_one_run_without_a_stated_delta_is_not_answered() -> None:
    one = saturation(rows(seeds=1))
    assert one.estimate is None and not one.intervals and "state delta" in (one.undefined or "")
    assert saturation(rows(seeds=1), delta=0.03).estimate is not None
    assert chart(one).to_dict()["layer"]


def test_the_laws_own_misfit_is_no_noise_of_runs() -> None:
    f = saturation(rows(lambda x: 0.8 + 0.6 * np.exp(-x / 2e7), sd=0.002))
    assert float(f.parts["noise"] or 0) == pytest.approx(0.002, rel=0.4)


def test_repeated_tokens_end_sooner_than_new_ones() -> None:
    new = doubling_worth(LAW, 0.002)
    ends = [repeated_end(LAW, 0.002, one_pool(pool)) for pool in (1e6, 1e7, 1e12)]
    assert ends == sorted(ends) and ends[0] < ends[1] < new and ends[2] == pytest.approx(new, rel=0.02)
    assert repeated_end(LAW, 0.002, one_pool(1e6)) < 1e6 * 60
    assert saturation(rows(), delta=0.03, unique_tokens=2e6).parts["repeated"] is not None


# ---- floors and kinds -----------------------------------------------------------------------------------------------


def test_a_floor_that_cannot_be_seen_is_refused() -> None:
    slow = PowerLaw(0.8, 0.6, 0.1, 1e6)
    f = floors([*rows(slow, 1, "arxiv"), *rows(slow, 2, "web")], "arxiv", "web", detect=0.05)
    assert f.estimate is None and "cannot tell" in (f.undefined or "")
    assert float(f.parts["floor_error"] or 0) > 0.025 and float(f.parts["decades_needed"] or 0) > 2.1


def test_a_difference_of_floors_is_found_and_none_is_not() -> None:
    higher, claims, held = PowerLaw(0.9, 0.5, 0.6, 1e6), 0, 0
    for k in range(15):
        none = floors([*rows(LAW, 2 * k, "a"), *rows(LAW, 2 * k + 1, "b")], "a", "b", detect=0.1)
        claims += none.estimate is not None and not none.interval().contains(0.0)
        some = floors([*rows(higher, 2 * k, "a"), *rows(LAW, 2 * k + 1, "b")], "a", "b", detect=0.1)
        held += some.interval().contains(0.1) and some.interval().low > 0
    assert claims / 15 <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / 15) and held >= 13


def test_the_three_kinds_are_told_apart() -> None:
    mismatch = why_saturated([*rows(PowerLaw(1.0, 0.4, 0.6, 1e6), 1, "arxiv"), *rows(LAW, 2, "web")], "arxiv", "web")
    assert mismatch.parts["kind"] == "mismatch"
    slow = why_saturated(
        [*rows(PowerLaw(0.8, 0.7, 0.45, 1e6), 1, "arxiv", sd=0.001), *rows(LAW, 2, "web", sd=0.001)], "arxiv", "web"
    )
    assert slow.parts["kind"] == "slow" and slow.estimate == pytest.approx(0.0, abs=0.03)
    law = PowerLaw(0.8, 0.6, 0.3, 1e6)
    again = [
        *rows(lambda x: law(effective_tokens(2e6, x, 5.0)), 1, "arxiv", unique_tokens=2e6),
        *rows(lambda x: law(effective_tokens(1.6e7, x, 5.0)), 3, "arxiv", unique_tokens=1.6e7),
    ]
    repeated = why_saturated([*again, *rows(law, 2, "web")], "arxiv", "web")
    assert repeated.parts["kind"] == "repetition" and repeated.parts["r_star"] == pytest.approx(5, rel=0.3)
    blind = why_saturated(
        [*rows(PowerLaw(0.8, 0.6, 0.1, 1e6), 1, "a"), *rows(PowerLaw(0.8, 0.6, 0.1, 1e6), 2, "b")], "a", "b", 0.05
    )
    assert blind.parts["kind"] is None and "cannot tell" in (blind.undefined or "")


def test_a_pool_read_again_explains_nothing_where_the_source_is_not_worse() -> None:
    law = PowerLaw(0.8, 0.6, 0.3, 1e6)
    again = [
        *rows(lambda x: law(effective_tokens(2e6, x, 5.0)), 1, "a", unique_tokens=2e6),
        *rows(lambda x: law(effective_tokens(1.6e7, x, 5.0)), 3, "a", unique_tokens=1.6e7),
    ]
    worse = why_saturated([*again, *rows(PowerLaw(1.3, 0.6, 0.3, 1e6), 2, "b")], "a", "b", 0.1)
    assert worse.parts["kind"] is None and "alike" in (worse.undefined or "")
    blind = why_saturated([*again, *rows(law, 2, "b")], "a", "b", 0.001)
    assert blind.parts["kind"] == "repetition" and "repetition ended it" in (blind.undefined or "")
    assert blind.estimate is None and "cannot tell" in (blind.undefined or "")


def test_a_higher_floor_is_no_mismatch_where_text_was_read_many_times() -> None:
    higher, b = PowerLaw(1.0, 0.4, 0.6, 1e6), rows(LAW, 2, "b")
    many = why_saturated([*rows(higher, 1, "a", unique_tokens=1.6e7), *b], "a", "b", 0.1)
    assert many.parts["kind"] is None and "read up to 8 times" in (many.undefined or "")
    once = why_saturated([*rows(higher, 1, "a", unique_tokens=1e9), *b], "a", "b", 0.1)
    twice = why_saturated([*rows(higher, 1, "a", unique_tokens=1e8), *b], "a", "b", 0.1)
    assert once.parts["kind"] == twice.parts["kind"] == "mismatch"
    assert not once.parts["in_new_tokens"] and twice.parts["in_new_tokens"]
    assert max(float(row["x"] or 0) for row in twice.table if row["series"] == "a") < X[-1]


def test_the_same_source_twice_has_no_kind() -> None:
    named = []
    for k in range(6):
        f = why_saturated([*rows(LAW, 2 * k, "a", sd=0.002), *rows(LAW, 2 * k + 1, "b", sd=0.002)], "a", "b", 0.1)
        named.append(f.parts["kind"])
        assert f.parts["kind"] or "alike" in (f.undefined or "") or "not told" in (f.undefined or "")
    assert sum(kind is not None for kind in named) <= 1


def test_tokens_that_are_worth_less_are_not_called_slow() -> None:
    half = PowerLaw(0.8, 0.6 * 2**0.6, 0.6, 1e6)
    f = why_saturated([*rows(half, 1, "a", sd=0.001), *rows(LAW, 2, "b", sd=0.001)], "a", "b", 0.1)
    assert f.parts["kind"] is None and "not told to be the smaller" in (f.undefined or "")


def test_findings_are_plain_json_and_are_drawn() -> None:
    both = [*rows(PowerLaw(1.0, 0.4, 0.6, 1e6), 1, "arxiv"), *rows(LAW, 2, "web")]
    for f in (
        saturation(rows(), delta=0.03),
        saturation(rows()),
        floors(both, "arxiv", "web"),
        why_saturated(both, "arxiv", "web"),
    ):
        json.dumps(f.to_json(), allow_nan=False)
        assert chart(f).to_dict()["layer"]
