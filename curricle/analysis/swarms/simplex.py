"""The best point of a simplex: minimise a smooth convex function of proportions under caps and limits.

A barrier method with Newton steps. It promises a point that keeps every constraint strictly, a bound on how far its
value is from the least possible one (`gap`, by duality), and that any start ends in the same point: the points that a
barrier leads through are unique where the function is convex. Where no mixture keeps the limits, it is refused, with
the least violation.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from curricle.analysis.statistics.repeats import R_STAR, effective_tokens, worth_of_next
from curricle.study import Refused

# value, gradient (J,), Hessian (J, J) at proportions (J,)
Smooth = Callable[[np.ndarray], tuple[float, np.ndarray, np.ndarray]]


@dataclass(frozen=True, slots=True)
class Limit:
    """g(p) ≤ bound, with the words that a refusal uses."""

    function: Smooth
    bound: float
    name: str


@dataclass(frozen=True, slots=True)
class Optimum:
    p_J: np.ndarray
    value: float
    gap: float  # the value is at most so far above the least


def refuse_too_little(most_J: np.ndarray) -> None:
    """Caps that leave no mixture."""
    if most_J.sum() < 1 - 1e-12:
        raise Refused(
            f"available: the tokens at hand make only {most_J.sum():.1%} of the budget at that many epochs; "
            "raise --max-epochs or lower --budget-tokens"
        )


def best_on_simplex(
    objective: Smooth, most_J: np.ndarray, limits: Sequence[Limit] = (), start_J: np.ndarray | None = None,
    precision: float = 1e-8,
) -> Optimum:  # fmt: skip
    """Minimise over p ≥ 0, Σp = 1, p ≤ most, and the limits. A source with most = 0 gets exactly 0. Raises `Refused`
    where the caps leave no mixture, or the limits none."""
    open_J = most_J > 0
    refuse_too_little(most_J)
    most = np.minimum(most_J[open_J], 1.0)
    if most_J.sum() < 1 + 1e-9 or open_J.sum() == 1:  # the caps leave one mixture
        p = np.zeros(len(most_J))
        p[open_J] = most / most.sum()
        return Optimum(p, objective(_positive(p))[0], 0.0)
    inner = [Limit(_reduced(limit.function, open_J), limit.bound, limit.name) for limit in limits]
    p = _inside(most, None if start_J is None else start_J[open_J])
    if inner:
        p = _feasible(most, inner, p)
    p, gap = _follow(_reduced(objective, open_J), most, inner, p, precision)
    whole = np.zeros(len(most_J))
    whole[open_J] = p
    return Optimum(whole, objective(_positive(whole))[0], gap)


def divergence(from_J: np.ndarray) -> Smooth:
    """KL(p‖q) in nats. Where q is 0 it is taken as 1e-6, so that such a source is dear but not forbidden."""
    q = np.maximum(from_J, 1e-6)

    def value(p: np.ndarray) -> tuple[float, np.ndarray, np.ndarray]:
        logs = np.log(p / q)
        return float(p @ logs), logs + 1, np.diag(1 / p)

    return value


def repeated(p_J: np.ndarray, unique_J: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Shares as the model feels them, D'/D, with first and second derivative: what is seen again counts for less,
    D' = U + U·R*(1 − e^(−R/R*)), R = D/U − 1. `unique_J` is U/budget, infinite where nothing is repeated."""
    pool_J = np.maximum(unique_J, 1e-300)  # of an empty pool hardly anything is felt
    fade = worth_of_next(pool_J, p_J)
    return effective_tokens(pool_J, p_J), fade, np.where(p_J > pool_J, -fade / (pool_J * R_STAR), 0.0)


# ---- inside --------------------------------------------------------------------------------------------------------


def _positive(p: np.ndarray) -> np.ndarray:
    return np.maximum(p, 1e-12)


def _reduced(function: Smooth, open_J: np.ndarray) -> Smooth:
    if open_J.all():
        return function

    def value(p: np.ndarray) -> tuple[float, np.ndarray, np.ndarray]:
        whole = np.full(len(open_J), 1e-12)
        whole[open_J] = p
        level, gradient, hessian = function(whole)
        return level, gradient[open_J], hessian[np.ix_(open_J, open_J)]

    return value


def _inside(most: np.ndarray, start: np.ndarray | None) -> np.ndarray:
    """A point strictly inside the caps, near `start` where one is given."""
    middle = most / most.sum()
    if start is None or start.sum() <= 0:
        return middle
    near = np.minimum(start / start.sum(), most)
    spare = most - near
    near = near + spare * (1 - near.sum()) / spare.sum()
    return 0.9 * near + 0.1 * middle


def _barrier(p: np.ndarray, most: np.ndarray, limits: Sequence[Limit], slack: float = 0.0):
    """Value, gradient and Hessian of −Σ log of what is left of each constraint; infinite outside."""
    capped = most < 1
    room = np.where(capped, most - p, 1.0)
    if p.min() <= 0 or room.min() <= 0:
        return np.inf, None, None
    value = -np.log(p).sum() - np.log(room).sum()
    gradient = -1 / p + np.where(capped, 1 / room, 0)
    hessian = np.diag(1 / p**2 + np.where(capped, 1 / room**2, 0))
    for limit in limits:
        level, slope, bend = limit.function(p)
        left = limit.bound + slack - level
        if not left > 0:
            return np.inf, None, None
        value -= np.log(left)
        gradient = gradient + slope / left
        hessian = hessian + bend / left + np.outer(slope, slope) / left**2
    return value, gradient, hessian


def _follow(
    objective: Smooth, most: np.ndarray, limits: Sequence[Limit], p: np.ndarray, precision: float
) -> tuple[np.ndarray, float]:
    """Along the central path, from a strictly feasible p, until the gap is below `precision`."""
    constraints = len(p) + int((most < 1).sum()) + len(limits)
    weight = 0.1
    last = precision / constraints
    while True:
        p = _newton(objective, most, limits, p, weight)
        if weight <= last:
            return p, weight * constraints
        weight = max(weight / 10, last)


def _newton(
    objective: Smooth, most: np.ndarray, limits: Sequence[Limit], p: np.ndarray, weight: float, rounds: int = 60
) -> np.ndarray:
    def look(at: np.ndarray):
        fence, fence_slope, fence_bend = _barrier(at, most, limits)
        if not np.isfinite(fence):
            return np.inf, None, None
        level, slope, bend = objective(at)
        return level + weight * fence, slope + weight * fence_slope, bend + weight * fence_bend

    value, gradient, hessian = look(p)
    for _ in range(rounds):
        scale = 1 / np.sqrt(np.diag(hessian))  # the barrier's curvatures span many decades
        inner = hessian * scale[:, None] * scale[None, :]
        sides = np.linalg.solve(inner, np.stack([-gradient * scale, -scale], 1)) * scale[:, None]
        step = sides[:, 0] - sides[:, 1] * sides[:, 0].sum() / sides[:, 1].sum()
        decrement = -gradient @ step
        if decrement <= 1e-9 * weight:
            break
        length = 1.0
        while length > 1e-12:
            trial = p + length * step
            found = look(trial)
            if found[0] <= value - 0.1 * length * decrement:
                break
            length *= 0.5
        else:
            break
        p, (value, gradient, hessian) = trial, found
    return p


def _feasible(most: np.ndarray, limits: Sequence[Limit], p: np.ndarray) -> np.ndarray:
    """A point that keeps every limit strictly, found by lowering one limit after the other; refused where none is."""
    kept: list[Limit] = []
    for limit in sorted(limits, key=lambda x: x.function(p)[0] - x.bound):
        if not limit.function(p)[0] < limit.bound:
            p, _ = _follow(limit.function, most, kept, p, 1e-6)
            level = limit.function(p)[0]
            if not level < limit.bound:
                raise Refused(
                    f"{limit.name}: no mixture keeps it below {limit.bound:g}"
                    f"{' together with the other limits' if kept else ''}; the least that is possible is {level:.4g}"
                )
        kept.append(limit)
    return p
