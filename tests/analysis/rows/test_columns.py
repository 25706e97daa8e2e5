"""Rows from a CSV are text: every estimator of rows reads them as it reads our own."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from itertools import product
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from curricle import analysis
from curricle.analysis.finding import Finding
from curricle.analysis.rows.columns import typed
from curricle.study import Refused

Rows = Sequence[Mapping[str, Any]]
BITS = "bits per byte"
random = np.random.default_rng(5)


def through_csv(rows: Rows) -> list[dict[str, str]]:
    file = io.StringIO()
    table = csv.DictWriter(file, list(rows[0]))
    table.writeheader()
    table.writerows(rows)
    return list(csv.DictReader(io.StringIO(file.getvalue())))


def outcome(
    strategy: str, seed: int, stage: str, position: int, at: int, before: int, score: float, **more: Any
) -> dict:
    about = {"strategy": strategy, "seed": seed, "stage": stage, "position": position, "stage_tokens": at}
    about |= {"tokens": before + at, "flops": 6.0 * (before + at), "benchmark": "math", "measure": BITS}
    about |= {"kind": "held-out", "score": score + random.normal(0, 0.003), "items": 50, "item_variance": None}
    return {**about, "final": False, **more}


def curves() -> Rows:
    """Code then math, math alone, and math then code, scored on the way."""
    made = []
    for seed, k in product(range(3), range(8)):
        at = 1000 * 2**k
        last = k == 7
        doses = {"dose:code": 0, "dose:math": at}
        made.append(outcome("scratch", seed, "math", 0, at, 0, 1 + 20 * at**-0.4, final=last, **doses))
    for seed in range(3):
        for first, second in (("code", "math"), ("math", "code")):
            name, none = f"{first} {second}", {f"dose:{second}": 0}
            for k in range(8):
                at, full = 1000 * 2**k, 128_000
                doses = none | {f"dose:{first}": at}
                made.append(outcome(name, seed, first, 0, at, 0, 1.5 + 9 * at**-0.4, **doses))
                read = {f"dose:{first}": full, f"dose:{second}": at}
                late = 0.9 + 20 * (at + 3000) ** -0.4 + 0.1 * (second == "code")
                made.append(outcome(name, seed, second, 1, at, full, late, final=k == 7, **read))
    return made


def crossed() -> Rows:
    return [
        {**outcome(f"{a} {b}", seed, "mix", 0, a + b, 0, 3 - a / 1e6 - b / 1e6, final=True),
         "dose:code": a, "dose:math": b}
        for a, b, seed in product((0, 200_000, 400_000), (0, 200_000, 400_000), range(3))
    ] + [
        {**outcome(f"{a} {b}", 0, "mix", 0, 1, 0, 9.0, final=False), "dose:code": a, "dose:math": b}
        for a, b in product((0, 200_000), (0, 200_000))
    ]  # fmt: skip


def of(strategy: str) -> Rows:
    return [row for row in CURVES if row["strategy"] == strategy]


CURVES, CROSSED = curves(), crossed()
STEPS = [
    {"strategy": name, "seed": seed, "stage": "math", "position": 0, "step": k, "tokens": 100 * k, "batch_tokens": 100,
     "loss_nats": 1.0 + start * (100.0 * k) ** -0.3 + random.normal(0, 0.01), "first_pass_tokens": None}
    for name, start in (("scratch", 8.0), ("code math", 6.0)) for seed in range(2) for k in range(1, 200)
]  # fmt: skip
MIXED = (9, 1), (1, 9), (5, 5), (3, 1), (1, 3), (2, 2), (8, 0), (0, 8), (4, 2), (2, 6)
SPLIT = [
    {**outcome(f"{a} {b}", seed, "mix", 0, 1000 * (a + b), 0, 0.7 + (0.1 + a**0.5 / 2 + b**0.5) ** -0.4),
     "dose:code": a, "dose:math": b, "final": True}
    for a, b in MIXED for seed in range(2)
]  # fmt: skip
SPLIT += [{**row, "final": False, "score": 9.0, "dose:math": 1} for row in SPLIT[:4]]  # on the way
LAW = [{"transferred": 30 * at**0.6 * (1 + 0.01 * (-1) ** k), "tokens": at, "params": n}
       for k, (at, n) in enumerate(product((1000, 4000, 16000), (10**6, 10**7)))]  # fmt: skip
HELPED = [
    outcome(name, seed, "math", 0, at, 0, 1 + 20 * (at + help_ * at**0.5) ** -0.4)
    for name, help_ in (("scratch", 0), ("code math", 60)) for seed in range(3)
    for at in (1000 * 2**k for k in range(8))
]  # fmt: skip
DOCUMENTS = [
    {"source": source, "document": k, "tokens": 10 + k, "method": "stand-in", "r": 0.1 * (k + 1), "c": 1.0, "f": worth,
     "dot": None, "target_square": None}
    for source, worth in (("web", 1.0), ("code", 2.0)) for k in range(4)
]  # fmt: skip
STEPS_OF_GRADIENTS = [{**row, "dot": row["r"] * row["f"], "target_square": 2.0} for row in DOCUMENTS]
BINS = [
    {"size": size, "seed": seed, "complexity": c, "relevance": 0.5,
     "gain": 0.5 * c * np.exp(-c * k) + random.normal(0, 0.001)}
    for size, k in ((10_000_000, 0.4), (100_000_000, 0.1)) for seed in range(3) for c in (0.5, 1.0, 2.0, 3.0)
]  # fmt: skip
GAINS = [{"source": name, "gain": gain + random.normal(0, 0.01)}
         for name, gain in (("a", 0.1), ("b", 0.3), ("c", 0.2), ("d", 0.5), ("e", 0.4)) for _ in range(2)]  # fmt: skip
ESTIMATORS: dict[str, tuple[Callable[[Rows], Any], Rows]] = {
    "chain": (analysis.chain, CURVES),
    "efficiency": (analysis.efficiency, CURVES),
    "transferred": (lambda r: analysis.transferred(r, "code math", "scratch", stage="math"), CURVES),
    "marginal": (analysis.marginal, of("scratch")),
    "saturation": (analysis.saturation, of("scratch")),
    "floors": (lambda r: analysis.floors(r, "scratch", "code math"), [*of("scratch"), *of("code math")[1::2]]),
    "predict_loss": (lambda r: analysis.predict_loss(r, 1e7), of("scratch")),
    "phases": (lambda r: analysis.phases(r, "math"), CURVES),
    "phase_law": (lambda r: analysis.phase_law(r, "math"), CURVES),
    "front": (lambda r: analysis.front(r, "math", "math", cost="flops", draws=50), CURVES),
    "last_loss_bound": (lambda r: analysis.last_loss_bound(r, "code math", "scratch", "math"), CURVES),
    "bounds": (lambda r: analysis.bounds(r, "code math", "scratch", "math"), STEPS),
    "split_of_runs": (analysis.split_of_runs, SPLIT),
    "transfer_law": (analysis.transfer_law, LAW),
    "transfer_law_of_runs": (lambda r: analysis.transfer_law_of_runs(r, "code math", "scratch"), HELPED),
    "value": (analysis.value, DOCUMENTS),
    "value, of gradients": (analysis.value, STEPS_OF_GRADIENTS),
    "surprise": (analysis.surprise, BINS),
    "validate": (lambda r: analysis.validate(dict(zip("abcde", range(5))), r), GAINS),
    "transfer": (lambda r: analysis.transfer(r, synergy=False), CROSSED),
}


@pytest.mark.parametrize("name", ESTIMATORS)
def test_an_estimator_says_the_same_of_a_csv(name: str) -> None:
    estimator, rows = ESTIMATORS[name]

    def said(of: Rows) -> list[Any]:
        found = estimator(of)
        return [f.to_json() for f in ([found] if isinstance(found, Finding) else found)]

    assert said(through_csv(rows)) == said(rows)


@given(
    st.lists(st.tuples(st.floats(0, 1e12), st.integers(0, 9), st.booleans(), st.none() | st.floats(0, 1)), min_size=1)
)
def test_what_is_written_is_read_again(cells: list) -> None:
    rows = [{"score": a, "seed": s, "final": b, "item_variance": v, "dose:web": a, "run": "7"} for a, s, b, v in cells]
    assert typed(through_csv(rows)) == rows


def test_what_is_neither_is_refused_by_name() -> None:
    with pytest.raises(Refused, match="final is 'perhaps' in row 0; give True or False"):
        typed([{"final": "perhaps"}])
    with pytest.raises(Refused, match="score is '2,04' in row 1; give a number"):
        typed([{"score": "2.04"}, {"score": "2,04"}])
    assert typed([{"seed": "a"}, {"seed": "1"}]) == [{"seed": "a"}, {"seed": "1"}]  # names, since one of them is
