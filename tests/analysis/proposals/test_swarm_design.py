"""The mixtures of a swarm: whole, different, round the natural one, and such that a law of mixtures can be fitted."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curricle.analysis.mixture import mixture
from curricle.analysis.proposals.swarm_design import swarm_design
from curricle.study import Refused

SIZES = st.lists(st.floats(1e-3, 1e6), min_size=2, max_size=9)


@pytest.mark.slow
@given(SIZES, st.integers(16, 60), st.integers(0, 2**31))
@settings(max_examples=60)
def test_every_mixture_is_whole_and_no_two_are_alike(sizes: list[float], runs: int, seed: int) -> None:
    natural = {f"source {i}": size for i, size in enumerate(sizes)}
    drawn = swarm_design(natural, runs, seed)
    assert len(drawn) == runs and len({tuple(sorted(m.items())) for m in drawn.values()}) == runs
    for mixed in drawn.values():
        assert abs(sum(mixed.values()) - 1) < 1e-9 and min(mixed.values()) > 0 and set(mixed) <= set(natural)
    assert drawn == swarm_design(natural, runs, seed)


def test_the_natural_and_the_uniform_mixture_are_among_them() -> None:
    drawn = swarm_design({"web": 60e9, "code": 30e9, "math": 10e9})
    assert drawn["natural"] == {"web": 0.6, "code": 0.3, "math": 0.1}
    assert drawn["uniform"] == {"web": 0.334, "code": 0.333, "math": 0.333}
    assert "uniform" not in swarm_design({"a": 1, "b": 1})


def test_draws_reach_the_edges_and_the_middle_and_see_the_rare_source() -> None:
    drawn = list(swarm_design({"web": 0.9, "code": 0.08, "math": 0.02}, 400).values())
    largest = np.array([max(m.values()) for m in drawn])
    assert (largest > 0.95).mean() > 0.05 and (largest < 0.6).mean() > 0.15
    math = np.mean([m.get("math", 0) for m in drawn])
    assert 0.02 < math < 1 / 3  # more than it has, less than an equal share


def test_a_law_is_found_again_from_the_swarm() -> None:
    drawn = swarm_design({"web": 3, "code": 2, "math": 1}, 36)
    rate = {"web": 0.5, "code": 1.0, "math": 3.0}
    rng = np.random.default_rng(0)
    losses = [
        {"run": name, "loss": (1 + sum(rate[s] * p**0.6 for s, p in m.items())) ** -0.4 + rng.normal(0, 1e-3)}
        for name, m in drawn.items()
    ]
    shares = [{"run": name, **dict.fromkeys(rate, 0.0), **m} for name, m in drawn.items()]
    found = mixture(shares, losses)
    chosen = {row["source"]: row["recommended"] for row in found[0].table}
    best = {s: k ** (1 / 0.4) for s, k in rate.items()}  # of Σ k pʳ at r = .6: p ∝ k^(1/(1 − r))
    for source, share in best.items():
        assert chosen[source] == pytest.approx(share / sum(best.values()), abs=0.05)


@pytest.mark.parametrize(
    ("natural", "runs", "word"),
    [({"a": 1}, 36, "two or more"), ({"a": 1, "b": 0}, 36, "b"), ({"a": 1, "b": 2}, 8, "16 or more")],
)
def test_what_is_no_swarm_is_refused(natural, runs, word) -> None:
    with pytest.raises(Refused, match=word):
        swarm_design(natural, runs)
