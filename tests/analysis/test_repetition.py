"""What repeated tokens are worth: the published law on the published runs, and R* from runs of one's own."""

from __future__ import annotations

import csv
import math
import os
from pathlib import Path

import numpy as np
import pytest

from curricle.analysis.asked.exhaustion import corrected
from curricle.analysis.finding import Finding
from curricle.analysis.repetition import against_published, muennighoff2023, repetition
from curricle.analysis.statistics.powerlaw import PowerLaw
from curricle.analysis.statistics.repeats import effective_tokens
from curricle.report.charts.repetition import chart
from curricle.study import Refused

RUNS = Path(os.environ.get("CURRICLE_DATA", "/nowhere")) / "swarms" / "datablations" / "runs.csv"


def test_the_published_law_has_the_published_coefficients() -> None:
    law = muennighoff2023()
    assert pytest.approx((521, 1488, 1.87), rel=2e-3) == (law.A, law.B, law.E)
    assert law.params_for(1e9) / 1e9 == pytest.approx(0.051, abs=5e-4)
    assert law.loss(1e9, 1e10, 1e10) == pytest.approx(
        float(law.E + law.A * 1e9**-law.alpha + law.B * 1e10**-law.beta), rel=0.05
    )


@pytest.mark.skipif(not RUNS.exists(), reason="needs $CURRICLE_DATA/swarms/datablations")
def test_the_published_law_explains_the_published_share_of_182_runs() -> None:
    with RUNS.open(encoding="utf-8") as file:
        rows = [{**r, "tokens": r["total_tokens"]} for r in csv.DictReader(file) if r["in_fit182"] == "True"]
    found = against_published(rows)
    assert found.n == 182
    assert found.estimate == pytest.approx(0.772, abs=5e-4) and found.parts["r2_as_new"] == pytest.approx(
        0.445, abs=5e-4
    )
    assert chart(found).to_dict()["layer"]


@pytest.mark.skipif(not RUNS.exists(), reason="needs $CURRICLE_DATA/swarms/datablations")
def test_runs_of_one_size_ask_for_a_similar_r_star_without_the_published_law() -> None:
    with RUNS.open(encoding="utf-8") as file:
        runs = [r for r in csv.DictReader(file) if r["in_fit182"] == "True" and float(r["params"]) == 2.81e9]
    rows = [
        {"tokens": r["total_tokens"], "unique_tokens": r["unique_tokens"], "score": r["loss"]}
        for r in runs
        if r["dedup"] == "False"
    ]
    found = repetition(rows)
    assert len(rows) == 14 and found.parts["repeats_fade"]
    assert 7 < float(found.estimate or 0) < 14 and float(found.parts["r2"] or 0) > 0.99


def runs(star: float, random: np.random.Generator, pools: tuple[float, ...] = (2e6, 8e6, 1e9)) -> list[dict]:
    law = PowerLaw(0.8, 0.6, 0.3, 1e6)
    return [
        {"tokens": float(x), "unique_tokens": pool, "seed": seed, "benchmark": "math", "measure": "bits per byte",
         "score": float(law(effective_tokens(pool, x, star))) + random.normal(0, 0.004)}
        for pool in pools for seed in range(2) for x in 1e6 * 2.0 ** np.arange(8)
    ]  # fmt: skip


@pytest.mark.slow
def test_r_star_is_found_where_pools_differ() -> None:
    random, held = np.random.default_rng(0), 0
    for _ in range(4):
        f = repetition(runs(15.0, random))
        held += f.interval().contains(15.0)
        assert f.parts["repeats_fade"] and f.estimate == pytest.approx(15, rel=0.4)
    assert held >= 3
    assert chart(f).to_dict()["layer"]


@pytest.mark.slow
def test_fresh_tokens_are_said_to_fade_at_the_nominal_rate() -> None:
    random, claims, studies = np.random.default_rng(1), 0, 4
    for _ in range(studies):
        f = repetition(runs(math.inf, random, (2e6, 1e9)))
        claims += bool(f.parts["repeats_fade"])
        assert f.parts["repeats_fade"] == (f.interval().high is not None)
    assert claims / studies <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / studies)


def test_a_pool_that_is_hardly_repeated_says_nothing() -> None:
    rows = [row for row in runs(15.0, np.random.default_rng(2)) if row["unique_tokens"] == 1e9]
    with pytest.raises(Refused, match="no pool is read more than"):
        repetition(rows)


def test_whether_repeats_fade_is_claimed_by_a_test_corrected_for_the_sources() -> None:
    def found(source: str, p: float) -> Finding:
        return Finding("repetition", source, "bits per byte", "text", 9.0, "repeats", p_value=p, test="F",
                       parts={"repeats_fade": p <= 0.05})  # fmt: skip

    sure, taken_back, no = corrected([found("a", 0.001), found("b", 0.03), found("c", 0.5)])
    assert sure.p_value == pytest.approx(0.003) and sure.parts["repeats_fade"] and "Holm over 3" in sure.test
    assert taken_back.p_value == pytest.approx(0.06) and not taken_back.parts["repeats_fade"]
    assert "Corrected for the sources" in taken_back.note and not no.parts["repeats_fade"] and not no.note
    (alone,) = corrected([found("b", 0.03)])
    assert alone.parts["repeats_fade"] and alone.p_value == 0.03
