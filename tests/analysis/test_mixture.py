"""Mixtures: what the answer promises, on swarms with known truth and on a real one."""

from __future__ import annotations

import csv
import os
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import swarms
from swarms import swarm

from curricle.analysis.finding import Finding
from curricle.analysis.mixture import mixture, more_is_better, predictions, refuse_higher
from curricle.analysis.statistics.intervals import rank_correlation
from curricle.analysis.swarms.mixing_laws import fit_law
from curricle.analysis.swarms.recalibration import recalibrate
from curricle.analysis.swarms.swarm import read_swarm
from curricle.study import Refused

REGMIX = Path(os.environ.get("CURRICLE_DATA", "nowhere")) / "swarms" / "regmix"


def shares(found: list[Finding], key: str = "recommended") -> dict[str, float]:
    return {str(row["source"]): float(row[key]) for row in found[0].table}  # type: ignore[arg-type]


# ---- the answer ----------------------------------------------------------------------------------------------------


def test_the_recommended_mixture_is_near_the_truths_best_and_its_gain_is_told_with_its_optimism():
    p, loss, f = swarm(noise=0.02, runs=60)
    found = mixture(*swarms.tables(p, loss))
    main, natural = found[0], next(f for f in found if f.subject == "recommended over natural")
    best = np.array([shares(found)[f"s{j}"] for j in range(5)])
    assert best.sum() == pytest.approx(1, abs=1e-4)
    fresh = np.random.default_rng(5).dirichlet(np.ones(5), 4000)
    assert f(best[None]).mean() <= f(fresh).mean(1).min() + 0.01
    assert natural.estimate is not None and natural.estimate < natural.parts["uncorrected"]  # type: ignore[operator]
    true = float(f(p.mean(0)[None]).mean() - f(best[None]).mean())
    interval = natural.interval()
    assert interval is not None and interval.contains(true) and interval.level == 0.9
    low, high = natural.parts["mean_low"], natural.parts["mean_high"]  # of many runs, so without their noise
    assert low <= true <= high  # type: ignore[operator]
    assert main.parts["optimiser_starts_agree"] < 1e-4 and main.parts["fit_starts_agree"] < 1e-4  # type: ignore[operator]
    assert {f.question for f in found} == {"mixture", "mixture-gain", "mixture-fit", "mixture-next"}
    assert found[0] == Finding.from_json(found[0].to_json())


def test_where_all_mixtures_are_alike_natural_is_recommended_and_no_gain_is_claimed():
    claimed, away = [], []
    for seed in range(4):
        p, loss, _ = swarm("nothing", runs=30, targets=1, seed=seed)
        found = mixture(*swarms.tables(p, loss), resamples=24)
        gain = next(f for f in found if f.subject == "recommended over natural")
        claimed.append(gain.interval().low > 0 or gain.parts["mean_low"] > 0)  # type: ignore[union-attr, operator]
        away.append(abs(gain.estimate))  # type: ignore[arg-type]
    assert not any(claimed) and np.median(away) < 0.01


def test_a_recommendation_that_is_not_the_laws_optimum_says_so():
    p, loss, _ = swarm("nothing", runs=30, targets=1, seed=0)
    main = mixture(*swarms.tables(p, loss), resamples=24)[0]
    assert main.parts["way_from_natural"] == 0 and shares([main]) == pytest.approx(shares([main], "natural"), abs=1e-5)
    assert main.note.startswith(
        "The runs do not show a gain over natural: natural is recommended. The optima of resamples"
    )
    p, loss, _ = swarm("its own law", runs=30, targets=1, noise=0.3)
    between = mixture(*swarms.tables(p, loss), resamples=24)[0]
    way = between.parts["way_from_natural"]
    assert isinstance(way, float) and 0 < way < 0.95
    assert between.note.startswith(f"The recommendation goes {100 * way:.2g} % of the way from natural to the law's")
    p, loss, _ = swarm("its own law", runs=40, targets=1, noise=0.01)
    sure = mixture(*swarms.tables(p, loss), resamples=24)[0]
    assert sure.parts["way_from_natural"] > 0.95 and "of the way" not in sure.note  # type: ignore[operator]


@pytest.mark.parametrize(
    "name",
    ["metric/acc", "gsm8k_Accuracy", "gsm8k/exact_match,strict-match", "pass@10", "maj@k", "squad f1", "x.pass_at_1"],
)
def test_a_metric_of_which_more_is_better_is_lowered_by_no_mixture(name):
    p, loss, _ = swarm(runs=14, targets=2)
    ratios, metrics = swarms.tables(p, loss)
    metrics = [{name if key == "m0" else key: value for key, value in row.items()} for row in metrics]
    for targets in (None, [name], {name: 1.0, "m1": 2.0}):
        with pytest.raises(Refused, match=f"target: {re.escape(name)}: higher is better.* give an error rate"):
            mixture(ratios, metrics, targets=targets)
    with pytest.raises(Refused, match=f"bound: {re.escape(name)}: higher is better"):
        mixture(ratios, metrics, targets=["m1"], bounds={name: 0.5})
    assert mixture(ratios, metrics, targets={name: 0.0, "m1": 1.0}, resamples=4)[0].measure == "m1"
    assert name in predictions(ratios, metrics, ratios[:1])[0]


@pytest.mark.parametrize("name", ["metric/the_pile_pile_cc_val_loss", "acc_loss", "1 - acc error", "bacc", "mem"])
def test_a_loss_is_not_taken_for_an_accuracy(name):
    assert not more_is_better(name)
    refuse_higher("target", [name], "")


def test_caps_follow_tokens_times_epochs_over_the_budget():
    p, loss, _ = swarm(runs=40)
    available = {"s0": 5e9, "s1": 100e9, "s2": 100e9, "s3": 100e9, "s4": 0.0}
    found = mixture(*swarms.tables(p, loss), available=available, budget_tokens=100e9, max_epochs=2, resamples=8)
    made = shares(found)
    assert made["s0"] <= 0.1 + 1e-6 and made["s4"] == 0 and sum(made.values()) == pytest.approx(1, abs=1e-4)
    assert "in proportion to the tokens available" in str(found[0].parts["natural"])


def test_a_bound_on_a_metric_is_kept_and_an_impossible_one_refused():
    p, loss, _ = swarm(runs=40, noise=0.01)
    tables = swarms.tables(p, loss)
    free = mixture(*tables, targets=["m0"], resamples=8)
    bound = mixture(*tables, targets=["m0"], bounds={"m1": "natural+0.0"}, resamples=8)
    law = fit_law("efftokens", p, loss)

    def m1(found: list[Finding]) -> float:
        return float(law.predict(np.array([[shares(found)[f"s{j}"] for j in range(5)]]))[0, 0, 1])

    natural = float(law.predict(p.mean(0)[None])[0, 0, 1])
    assert m1(free) > natural and m1(bound) <= natural + 1e-3
    with pytest.raises(Refused, match=r"bound: m1: no mixture keeps it below 0\.5"):
        mixture(*tables, bounds={"m1": 0.5}, resamples=8)


def test_a_method_without_gradients_keeps_caps_and_says_that_its_refits_vary_too_little():
    p, loss, _ = swarm(runs=40, targets=1)
    available = {"s0": 10.0, **{f"s{j}": 100.0 for j in range(1, 5)}}
    found = mixture(*swarms.tables(p, loss), method="gp", available=available, budget_tokens=100, max_epochs=2)
    made = shares(found)
    assert made["s0"] <= 0.2 + 1e-6 and sum(made.values()) == pytest.approx(1, abs=1e-3)
    assert "vary less than new swarms would" in found[0].note


def test_a_source_that_no_run_read_gets_no_share_and_is_named():
    p, loss, _ = swarm(runs=40)
    p = np.insert(p, 2, 0.0, axis=1)
    found = mixture(*swarms.tables(p, loss), resamples=8)
    assert shares(found)["s2"] == 0 and "No run read s2" in found[0].note


def test_runs_at_the_target_size_stretch_and_shift():
    random = np.random.default_rng(0)
    small = random.normal(4, 0.5, (6, 3))
    made = recalibrate(small, np.array([1.0, 0.5, 0.2]) + 0.7 * small)
    assert made.slope_T == pytest.approx(0.7, abs=1e-6)
    p, loss, f = swarm(runs=40)
    q = swarms.proportions(5, 5, random)
    larger = swarms.tables(q, 0.5 + 0.8 * f(q))
    rows = predictions(*swarms.tables(p, loss), swarms.tables(p, loss)[0], larger=larger)
    actual = 0.5 + 0.8 * f(p)
    assert np.abs(np.array([row["m0"] for row in rows]) - actual[:, 0]).mean() < 0.05
    found = mixture(*swarms.tables(p, loss), larger=larger, resamples=8)
    assert found[0].parts["runs_at_target_size"] == 5
    assert found[0].estimate == pytest.approx(0.5 + 0.8 * f(p).mean(1).min(), abs=0.1)


def test_at_the_target_size_intervals_come_from_the_runs_there():
    p, loss, f = swarm(runs=40, targets=2, noise=0.005)
    random = np.random.default_rng(2)
    q = swarms.proportions(6, 5, random)
    larger = swarms.tables(q, 0.5 + 0.8 * f(q) + random.normal(0, 0.1, (6, 2)))
    found = mixture(*swarms.tables(p, loss), larger=larger, targets=["m0"], resamples=24)
    rows = predictions(*swarms.tables(p, loss), swarms.tables(p, loss)[0][:1], larger=larger)
    width = rows[0]["m0_high"] - rows[0]["m0_low"]
    level, gain = found[0].interval(), next(x for x in found if x.subject == "recommended over natural")
    assert level is not None and level.high - level.low == pytest.approx(width, rel=0.05)  # type: ignore[operator]
    between = gain.interval()
    assert between is not None and between.high - between.low > width  # type: ignore[operator]
    exact = mixture(*swarms.tables(p, loss), larger=swarms.tables(q, 0.5 + 0.8 * f(q)), targets=["m0"], resamples=24)
    surer = next(x for x in exact if x.subject == "recommended over natural")
    assert surer.parts["refits_sd"] < gain.parts["refits_sd"]  # type: ignore[operator]


def test_metrics_without_weight_are_not_refitted_and_change_nothing(monkeypatch):
    p, loss, _ = swarm(runs=30, targets=3)
    whole = fit_law("efftokens", p, loss)
    weights = np.random.default_rng(0).exponential(1.0, (4, 30))
    one, every = (fit_law("efftokens", p, loss, weights, whole, only=o) for o in (np.array([1]), None))
    assert one.predict(p)[..., 0] == pytest.approx(every.predict(p)[..., 1], abs=1e-6)
    asked = []

    def noted(*args, **more):
        made = fit_law(*args, **more)
        asked.append(made.theta_RTQ.shape[:2])
        return made

    monkeypatch.setattr(sys.modules["curricle.analysis.mixture"], "fit_law", noted)
    mixture(*swarms.tables(p, loss), targets=["m1"], bounds={"m0": "natural+0.5"}, resamples=8)
    assert asked == [(8, 1)]


# ---- the door ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("over", ["natural", "uniform"])
def test_a_member_that_disagrees_about_a_gain_is_named(monkeypatch, over):
    p, loss, _ = swarm()
    room = sys.modules["curricle.analysis.mixture"]
    told = room.witnesses

    def quarrelsome(*given):
        agreed = told(*given)
        return {**agreed, "gp": (agreed["gp"][0], -9.0) if over == "uniform" else (-9.0, agreed["gp"][1])}

    monkeypatch.setattr(room, "witnesses", quarrelsome)
    notes = " ".join(f.note for f in mixture(*swarms.tables(p, loss)))
    assert notes.count("disagrees") == 1 and f"gp disagrees: it predicts a gain over {over} of -9.000, and" in notes


def broken(change) -> str:
    p, loss, _ = swarm(runs=14)
    ratios, metrics = swarms.tables(p, loss)
    change(ratios, metrics)
    with pytest.raises(Refused) as refusal:
        read_swarm(ratios, metrics)
    return str(refusal.value)


def test_what_cannot_be_joined_or_is_no_number_is_refused_by_table_row_and_column():
    assert "run r3 stands twice, in rows 4 and 15" in broken(lambda r, m: r.append(dict(r[3])))
    assert "ratios: run r5 has no row in metrics" in broken(lambda r, m: m.pop(5))
    assert "metrics: run r5 has no row in ratios" in broken(lambda r, m: r.pop(5))
    assert "metrics: run r2, m1: 'nan' is not a finite number" in broken(lambda r, m: m[2].update(m1="nan"))
    assert "metrics: run r2, m1: is empty" in broken(lambda r, m: m[2].update(m1=""))
    assert "ratios: run r1: proportions sum to 2" in broken(
        lambda r, m: r[1].update({s: r[1][s] * 2 for s in r[1] if s != "run"})
    )
    assert "ratios: run r1, s0: -0.1 is negative" in broken(lambda r, m: r[1].update(s0=-0.1))


def test_unknown_names_are_refused_with_the_nearest():
    p, loss, _ = swarm(runs=14)
    ratios, metrics = swarms.tables(p, loss)
    with pytest.raises(Refused, match="target: unknown metric 'm11'; did you mean"):
        mixture(ratios, metrics, targets=["m11"])
    with pytest.raises(Refused, match="--method efftoken"):
        mixture(ratios, metrics, method="efftoken")
    with pytest.raises(Refused, match="predict: unknown source 'sx'"):
        predictions(ratios, metrics, [{"run": 1, "s0": 0.5, "s1": 0.5, "s2": 0, "s3": 0, "sx": 0}])
    with pytest.raises(Refused, match="4 runs; a mixture needs 12 or more"):
        mixture(ratios[:4], metrics[:4])


def test_keys_are_run_or_index_or_the_first_column_and_names_are_no_data():
    p, loss, _ = swarm(runs=14)
    ratios, metrics = swarms.tables(p, loss)
    plain = read_swarm(ratios, metrics)
    olmix = [
        [{"run": r["run"], "name": "x", "index": i, **r} for i, r in enumerate(t)] for t in (ratios, metrics[::-1])
    ]
    assert np.array_equal(read_swarm(*olmix).loss_NT, plain.loss_NT)
    first = [[{"mix": r["run"], **{k: v for k, v in r.items() if k != "run"}} for r in t] for t in (ratios, metrics)]
    assert read_swarm(*first).sources == plain.sources


# ---- a real swarm --------------------------------------------------------------------------------------------------


@pytest.mark.skipif(not REGMIX.is_dir(), reason="needs $CURRICLE_DATA/swarms/regmix")
def test_64_of_regmix_runs_rank_the_256_unseen_mixtures():
    tables = {}
    for part in ("train", "test"):
        rows = [list(csv.DictReader((REGMIX / f"{part}_{name}_1m.csv").open())) for name in ("mixture", "pile_loss")]
        tables[part] = read_swarm(*rows)
    train, test = tables["train"], tables["test"]
    assert (len(train.keys), len(test.keys), len(train.sources), len(train.metrics)) == (512, 256, 17, 13)
    part = train.subset(np.random.default_rng(1000).choice(512, 64, replace=False))
    law = fit_law("efftokens", part.p_NJ, part.loss_NT)
    said = law.predict(test.p_NJ)[0]
    assert law.starts_agree < 1e-3
    assert rank_correlation(said.mean(1), test.loss_NT.mean(1)) > 0.985
    assert rank_correlation(said[:, 8], test.loss_NT[:, 8]) > 0.98
