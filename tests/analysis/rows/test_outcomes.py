"""Outcomes: the same scores as findings show, with what the model had read."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from curricle.analysis import gain
from curricle.analysis.rows.outcomes import doses, outcomes
from curricle.analysis.rows.scores import Benchmark, strategies
from curricle.analysis.statistics.intervals import over_problems
from curricle.results import MIXTURES, Results, write_rows


@pytest.fixture
def with_mixtures(rows, write: Callable[..., Results], tmp_path: Path) -> Results:
    made = rows()
    read = [
        {"run": row["run"], "until_tokens": row["budget_tokens"] // 2 * part, "source": source, "share": share,
         "available_tokens": None}
        for row in {r["run"]: r for r in made["runs"]}.values()
        for part, shares in ((1, {"text": 1.0}), (2, {"text": 0.25, "sums": 0.75}))
        for source, share in shares.items()
    ]  # fmt: skip
    write_rows(tmp_path / "mixtures.parquet", read, MIXTURES)
    return write(made)


def test_scores_and_their_variances_over_items_are_those_that_findings_show(study: Results):
    found = outcomes(study)
    for strategy in strategies(study):
        for name in ("algebra", "code text"):
            read = Benchmark(study, name)
            for measure in read.measures:
                scores = read.final(strategy.stages[-1], measure)
                for seed, y_P in zip(scores.seeds, scores.y_SP):
                    (row,) = [
                        r for r in found
                        if r["final"] and (r["strategy"], r["seed"]) == (strategy.name, seed)
                        and (r["benchmark"], r["measure"]) == (name, measure)
                    ]  # fmt: skip
                    assert row["score"] == pytest.approx(y_P.mean(), rel=1e-3)
                    assert row["items"] == len(y_P)
                    if y_P.std():
                        assert row["item_variance"] == pytest.approx(over_problems(y_P[None]).variance, rel=0.05)
    assert gain(study)  # the same results answer the first question


def test_doses_are_those_of_all_stages_until_the_point(with_mixtures: Results):
    ends = [r for r in outcomes(with_mixtures) if r["final"] and r["strategy"] == "code first"]
    assert {(r["tokens"], r["dose:text"], r["dose:sums"]) for r in ends} == {(900, 562.5, 337.5)}
    for row in outcomes(with_mixtures):
        assert row["dose:text"] + row["dose:sums"] == pytest.approx(row["tokens"])


def test_results_without_mixtures_have_no_doses_and_the_untrained_model_is_a_point(study: Results):
    found = outcomes(study)
    assert not any(key.startswith("dose:") for row in found for key in row)
    untrained = [r for r in found if r["tokens"] == 0]
    assert {r["position"] for r in untrained} == {0} and untrained


@given(st.lists(st.integers(1, 1000), min_size=1, max_size=4), st.integers(0, 4000))
def test_what_is_read_of_all_sources_is_what_was_trained_on(lengths: list[int], tokens: int):
    ends = np.cumsum(lengths)
    phases = [
        {"until_tokens": int(end), "source": source, "share": share}
        for k, end in enumerate(ends)
        for source, share in ((f"s{k}", 0.25), ("shared", 0.75))
    ]
    assert sum(doses(phases, tokens).values()) == pytest.approx(min(tokens, ends[-1]))
