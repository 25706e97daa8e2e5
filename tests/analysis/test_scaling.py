"""From small to large: ranks with what luck allows, and predictions that were put to the test first."""

from __future__ import annotations

import json
import math
from importlib.resources import files

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from curricle.analysis.scaling import predict_loss, ranks
from curricle.analysis.statistics.intervals import ranked
from curricle.analysis.statistics.powerlaw import PowerLaw
from curricle.report.charts.scaling import chart
from curricle.study import Refused

X = 1e18 * 3.0 ** np.arange(7)


def ladder(law, seed: int = 0, seeds: int = 1, sd: float = 0.004) -> list[dict]:
    random = np.random.default_rng(seed)
    return [
        {"strategy": "a", "seed": s, "flops": float(x), "score": float(law(x)) + random.normal(0, sd),
         "measure": "bits per byte", "benchmark": "math"}
        for s in range(seeds) for x in X
    ]  # fmt: skip


def candidates(small: np.ndarray, large: np.ndarray, sd: float = 0.0, seeds: int = 1) -> list[dict]:
    random = np.random.default_rng(1)
    return [
        {"strategy": f"s{i}", "size": size, "seed": s, "score": float(of[i]) + random.normal(0, sd),
         "measure": "bits per byte"}
        for i in range(len(small)) for size, of in (("small", small), ("large", large)) for s in range(seeds)
    ]  # fmt: skip


def test_marins_ladder_is_predicted_as_published_and_the_interval_holds_what_came() -> None:
    marin = json.loads((files("curricle.analysis") / "published" / "marin_isotoken.json").read_text(encoding="utf-8"))
    rows = [
        {"flops": c, "score": loss, "measure": "bits per byte", "benchmark": "math", "strategy": "p33m67"}
        for c, loss in zip(marin["flops"], marin["loss"])
        if c <= 3e20
    ]
    came = dict(zip(marin["flops"], marin["loss"]))
    found = predict_loss(rows, [1e21, 1e22])
    for f, at, said in zip(found, (1e21, 1e22), (0.9775, 0.8829)):
        interval = f.interval()
        assert f.estimate == pytest.approx(said, abs=1e-4)
        assert interval is not None and interval.contains(came[at]) and "past the largest" in f.note
    assert found[0].parts["floor_low"] == 0 and float(found[0].parts["floor_high"] or 0) > 0.8
    assert (found[1].interval().high - found[1].interval().low) > 2 * (
        found[0].interval().high - found[0].interval().low
    )
    assert chart(found[0]).to_dict()["layer"]


@pytest.mark.slow
def test_predictions_hold_at_their_rate() -> None:
    law, held, studies = PowerLaw(0.6, 0.8, 0.15, 1e18), 0, 25
    for k in range(studies):
        held += predict_loss(ladder(law, k), 10 * X[-1])[0].interval().contains(float(law(10 * X[-1])))
    assert held / studies >= 0.95 - 3 * math.sqrt(0.05 * 0.95 / studies)


@pytest.mark.slow
@pytest.mark.parametrize(
    "law",
    [lambda x: 1.4 - 0.05 * np.log(x / 1e18),
     lambda x: 0.6 + 0.8 * (x / 1e18) ** -0.1 * (1 + (x / 8e19) ** 2) ** -0.05],
)  # fmt: skip
def test_under_another_law_it_widens_or_refuses(law) -> None:
    held, asked = 0, 0
    for k in range(12):
        f = predict_loss(ladder(law, k, seeds=2, sd=0.003), 10 * X[-1])[0]
        if f.estimate is not None:
            held, asked = held + f.interval().contains(float(law(10 * X[-1]))), asked + 1
    assert held >= 0.85 * asked - 3 * math.sqrt(0.1 * asked)


def test_a_curve_that_is_no_power_law_is_not_extrapolated() -> None:
    rows = ladder(lambda x: 0.8 + 0.6 * np.exp(-x / 2e20), seeds=3, sd=0.002)
    past, inside = predict_loss(rows, [10 * X[-1], X[3]])
    assert past.estimate is None and "do not follow" in (past.undefined or "") and inside.estimate is not None
    assert past.parts["run_low"] is None and past.parts["run_high"] is None and inside.parts["run_low"] is not None
    said = [row["x"] for row in past.table if row["series"] in ("law", "predicted")]
    assert X[3] in said and max(said) <= X[-1] * (1 + 1e-9)  # the figure draws no law past the points either


def test_a_failed_backtest_widens_by_as_much_as_it_failed() -> None:
    law = PowerLaw(0.6, 0.8, 0.15, 1e18)
    rows = ladder(law, 1, sd=0.0005)
    plain = predict_loss(rows, 3 * X[-1])[0]
    rows[-1]["score"] += 0.05
    missed = predict_loss(rows, 3 * X[-1])[0]
    last = next(row for row in missed.table if row.get("series") == "backtest" and row["last"])
    assert plain.parts["widened"] == 1 and float(missed.parts["widened"] or 0) == pytest.approx(
        float(last["miss"] or 0)
    )
    assert float(missed.parts["widened"] or 0) > 3 and "half-widths" in missed.note and not last["held"]


def test_too_few_budgets_are_refused_or_said() -> None:
    law = PowerLaw(0.6, 0.8, 0.15, 1e18)
    assert "could not be put to the test" in predict_loss(ladder(law)[:4], 1e21)[0].note
    with pytest.raises(Refused, match="needs 4"):
        predict_loss(ladder(law)[:3], 1e21)
    with pytest.raises(Refused, match="accuracy"):
        predict_loss([{**row, "measure": "accuracy"} for row in ladder(law)], 1e21)
    with pytest.raises(Refused, match="finite"):
        predict_loss([*ladder(law), {**ladder(law)[0], "score": float("nan")}], 1e21)


# ---- ranks ----------------------------------------------------------------------------------------------------------


@given(st.lists(st.floats(0.5, 2), min_size=5, max_size=12, unique=True), st.floats(0.1, 5))
def test_the_same_order_is_perfect_and_the_reverse_is_none(scores: list[float], power: float) -> None:
    small = np.array(scores)
    kept, decided = ranks(candidates(small, 3 * ranked(small) ** power), "small", "large")
    assert kept.estimate == pytest.approx(1) and decided.estimate == pytest.approx(100)
    assert decided.interval().low < 100 and kept.interval().low < 1  # few candidates prove little
    turned, none = ranks(candidates(small, -ranked(small)), "small", "large")
    assert turned.estimate == pytest.approx(-1) and none.estimate == pytest.approx(0)


def test_the_interval_of_few_candidates_holds_the_correlation_of_all() -> None:
    random, studies = np.random.default_rng(4), 400
    many = random.multivariate_normal([0, 0], [[1, 0.8], [0.8, 1]], 50_000)
    truth = float(np.corrcoef(many.argsort(0).argsort(0).T)[0, 1])
    for k in (5, 6, 10):
        drawn = random.multivariate_normal([0, 0], [[1, 0.8], [0.8, 1]], (studies, k))
        found = [ranks(candidates(*q.T), "small", "large")[0].interval() for q in drawn]
        assert np.mean([i.contains(truth) for i in found]) >= 0.95 - 3 * math.sqrt(0.05 * 0.95 / studies)
    few = ranks(candidates(*drawn[0][:4].T), "small", "large")[0]
    assert few.estimate is not None and not few.intervals and "4 candidates: too few" in few.note


def test_the_regret_is_of_taking_the_small_sizes_best() -> None:
    small, large = np.array([1.0, 1.1, 1.2, 1.3, 1.4]), np.array([0.9, 0.8, 0.95, 1.0, 1.1])
    parts = ranks(candidates(small, large), "small", "large")[0].parts
    assert (parts["picked"], parts["best"]) == ("s0", "s1") and parts["regret"] == pytest.approx(0.1)
    points = [{**row, "measure": "accuracy", "score": -row["score"]} for row in candidates(small, large)]
    assert ranks(points, "small", "large")[0].parts["regret"] == pytest.approx(0.1)


def test_luck_at_the_large_size_sets_a_ceiling() -> None:
    quality = np.random.default_rng(0).normal(1, 0.05, 16)
    clear = ranks(candidates(quality, quality, 0.001, 3), "small", "large")[1]
    blurred = ranks(candidates(quality, quality, 0.15, 3), "small", "large")[1]
    assert float(clear.parts["ceiling"] or 0) > 95 > 85 > float(blurred.parts["ceiling"] or 0)
    assert "no small size can be asked for more" in blurred.note
    assert "cannot be told apart" in ranks(candidates(quality, quality), "small", "large")[0].note
    assert chart(clear).to_dict()["layer"]


@pytest.mark.parametrize("truth", [0.0, 0.8])
def test_intervals_of_ranks_hold_at_their_rate(truth: float) -> None:
    random, studies = np.random.default_rng(2), 100
    covariance = [[1, truth], [truth, 1]]
    many = random.multivariate_normal([0, 0], covariance, 100_000).argsort(0).argsort(0)
    rho, accuracy = float(np.corrcoef(many.T)[0, 1]), 100 * (0.5 + math.asin(truth) / math.pi)
    held = np.zeros(2)
    for _ in range(studies):
        q = random.multivariate_normal([0, 0], covariance, 20)
        kept, decided = ranks(candidates(q[:, 0], q[:, 1]), "small", "large")
        held += (kept.interval().contains(rho), decided.interval().contains(accuracy))
    assert (held / studies >= 0.95 - 3 * math.sqrt(0.05 * 0.95 / studies)).all(), held / studies


def test_too_few_candidates_and_unknown_sizes_are_refused() -> None:
    rows = candidates(np.arange(3.0), np.arange(3.0))
    with pytest.raises(Refused, match="3 stand at both"):
        ranks(rows, "small", "large")
    with pytest.raises(Refused, match="did you mean 'large'"):
        ranks(rows, "small", "larg")
