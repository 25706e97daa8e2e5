"""Sharing a budget out over sources or stages, so that the last token of each gives the same (theory, section 2).

`split` is the closed form for S = Σ k_j·x_j^r with costs and limits; `best_split` is its finding, with what other fits
of the same data would have said. It promises that the whole budget is spent where limits allow, and no limit broken.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from curricle.analysis.finding import Finding, Part, short
from curricle.study import Refused


def split(
    worth: Mapping[str, float], r: float, budget: float, cost: Mapping[str, float] | None = None,
    most: Mapping[str, float] | None = None,
) -> dict[str, float]:  # fmt: skip
    """Tokens of each source that make S = Σ k_j·x_j^r largest under Σ c_j·x_j ≤ budget and x_j ≤ most_j.

    Without limits x_j = B·(k_j/c_j)^{1/(1−r)} / Σ_i c_i·(k_i/c_i)^{1/(1−r)}: each source's last unit of cost gives the
    same. A source at its limit gives more than that, and the rest share what is left by the same rule. With r = 1 all
    goes to the best per cost, then to the next. Worths of 0 get nothing. Raises `Refused` for r outside (0, 1].
    """
    if not 0 < r <= 1:
        raise Refused(f"r: {r:g}; returns that diminish have 0 < r <= 1")
    if not budget > 0 or not math.isfinite(budget):
        raise Refused(f"budget: {budget:g}; give a number above 0")
    names = list(worth)
    if not names:
        raise Refused("worth: no sources")
    costs = {name: 1.0 if cost is None else cost.get(name, 1.0) for name in names}
    room = {name: math.inf if most is None else most.get(name, math.inf) for name in names}
    for name in names:
        if not (worth[name] >= 0 and math.isfinite(worth[name])) or not costs[name] > 0 or not room[name] >= 0:
            raise Refused(f"{name}: worth {worth[name]:g}, cost {costs[name]:g}; give 0 or more, and above 0")
    if not any(worth.values()):
        raise Refused("worth: 0 for every source, so any split is as good as another")
    left, given = budget, dict.fromkeys(names, 0.0)
    open_ = [name for name in names if worth[name] > 0 and room[name] > 0]
    if r == 1:
        for name in sorted(open_, key=lambda n: -worth[n] / costs[n]):
            given[name] = min(room[name], left / costs[name])
            left -= given[name] * costs[name]
        return given
    while open_:
        best = max(worth[n] / costs[n] for n in open_)  # so that powers stay in range where r is near 1
        share = {n: (worth[n] / costs[n] / best) ** (1 / (1 - r)) for n in open_}
        unit = left / sum(costs[n] * share[n] for n in open_)
        full = [n for n in open_ if unit * share[n] > room[n]]
        if not full:
            return given | {n: unit * share[n] for n in open_}
        for n in full:
            given[n] = room[n]
            left -= room[n] * costs[n]
        open_ = [n for n in open_ if n not in full]
    return given


def best_split(
    worth: Mapping[str, float], r: float, budget: float, cost: Mapping[str, float] | None = None,
    most: Mapping[str, float] | None = None, draws: Sequence[tuple[Mapping[str, float], float]] = (),
    level: float = 0.95,
) -> Finding:  # fmt: skip
    """`split` as a finding: `table` has tokens, share, what a unit of cost gives last and, from `draws` (other fits of
    worth and r, as from a bootstrap), each share's interval and how much of S the proposed split loses under them."""
    given = split(worth, r, budget, cost, most)
    costs = {name: 1.0 if cost is None else cost.get(name, 1.0) for name in worth}

    def total(k: Mapping[str, float], power: float, x: Mapping[str, float]) -> float:
        return sum(k[name] * x[name] ** power for name in worth)

    others = [(k, power, split(k, power, budget, cost, most)) for k, power in draws]
    table: list[dict[str, Part]] = []
    for name in worth:
        x = given[name]
        row: dict[str, Part] = {
            "source": name, "tokens": x, "share": x * costs[name] / budget,
            "last": worth[name] * r * x ** (r - 1) / costs[name] if x > 0 else None,
            "limited": most is not None and x >= most.get(name, math.inf), "low": None, "high": None,
        }  # fmt: skip
        if others:
            shares = [d[name] * costs[name] / budget for *_, d in others]
            row["low"], row["high"] = (float(q) for q in np.quantile(shares, [(1 - level) / 2, (1 + level) / 2]))
        table.append(row)
    losses = [1 - total(k, power, given) / total(k, power, d) for k, power, d in others]
    best = total(worth, r, given)
    equal = {name: budget / len(worth) / costs[name] for name in worth}
    parts: dict[str, Part] = {
        "r": r, "budget": budget, "equal_split": total(worth, r, equal) / best,
        "regret": float(np.mean(losses)) if losses else None,
        "regret_high": float(np.quantile(losses, level)) if losses else None,
    }  # fmt: skip
    return Finding(
        "split", f"{short(budget)} over {', '.join(worth)}", "S = Σ k·x^r", "", best, "S", n=0, parts=parts,
        table=tuple(table), note="" if draws else "No draws of the fit: how sure the split is, is not said.",
    )  # fmt: skip
