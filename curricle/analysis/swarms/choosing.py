"""From a law with its refits to one mixture: which, how sure, and which runs would make it surer.

The recommended mixture is the predicted optimum, drawn back to the natural mixture by as much of the way as chance
alone would have gone: p = natural + (1 − regret/gain)₊ (optimum − natural), the positive-part rule of James and Stein
in the loss's own curvature. A swarm that tells nothing thus recommends the natural mixture, and one that tells much
recommends its optimum. Limits hold for the result, since they hold at both ends and are convex.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from curricle.analysis.swarms.members import Member
from curricle.analysis.swarms.mixing_laws import Law
from curricle.analysis.swarms.simplex import Limit, Smooth, best_on_simplex, divergence, repeated
from curricle.study import Refused

CANDIDATES, TOP = 20_000, 100  # mixtures tried by a method without gradients, and how many of the best are averaged


@dataclass(frozen=True, slots=True)
class Problem:
    """What is minimised and within what: weights over the law's targets, caps, what is unique, limits."""

    weights_T: np.ndarray
    natural_J: np.ndarray
    most_J: np.ndarray  # largest share of each source
    unique_J: np.ndarray  # unique tokens over the budget, infinite where nothing is repeated
    bounds_T: np.ndarray  # floors against forgetting: largest loss of each target, infinite where free
    names_T: tuple[str, ...]
    divergence: float | None = None  # KL to the natural mixture at most, nats


@dataclass(frozen=True, slots=True)
class Choice:
    p_J: np.ndarray  # recommended
    best_J: np.ndarray  # where the fit to all runs is least
    anchor_J: np.ndarray  # the natural mixture, or the nearest to it that keeps the limits
    kept: float  # how much of the way from the anchor to the optimum was gone
    optima_RJ: np.ndarray  # where each refit is least
    regret: float  # expected, of the recommended mixture, as refits have it
    optimism: float  # by how much the gain of the recommended over the natural mixture is overstated, on average
    gap: float
    starts_agree: float  # largest total variation between optima from different starts


def loss_of(law: Law, problem: Problem, target: int | None = None) -> Smooth:
    """The mean over refits of the weighted loss (or of one target's), as a function of shares."""
    weights = problem.weights_T if target is None else np.eye(len(problem.weights_T))[target]
    used = np.flatnonzero(weights)
    few = law.only(used)
    weights = weights[used]
    plain = not np.isfinite(problem.unique_J).any()

    def value(p: np.ndarray) -> tuple[float, np.ndarray, np.ndarray]:
        felt, first, second = (p, None, None) if plain else repeated(p, problem.unique_J)
        level, slope, bend = few.derivatives(felt)
        gradient = np.einsum("rtj,t->j", slope, weights) / len(slope)
        hessian = np.einsum("rtij,t->ij", bend, weights) / len(bend)
        if first is not None:
            hessian = first[:, None] * hessian * first[None] + np.diag(gradient * second)
            gradient = gradient * first
        return float((level @ weights).mean()), gradient, hessian

    return value


def predicted(law: Member, problem: Problem, p_MJ: np.ndarray) -> np.ndarray:
    """The weighted loss of each mixture under each refit, (R, M)."""
    return law.predict(repeated(p_MJ, problem.unique_J)[0]) @ problem.weights_T


def choose(
    whole: Law, refits: Law, problem: Problem, narrow: Problem, starts: Sequence[np.ndarray] = ()
) -> Choice:  # fmt: skip
    """The recommended mixture. `whole` is the law fitted to all runs, `refits` the same on resamples of them, of the
    targets in `narrow`: those with a weight."""
    near = divergence(problem.natural_J)
    spread = [] if problem.divergence is None else [Limit(near, problem.divergence, "KL to the natural mixture")]
    limits = [*floors(whole, problem), *spread]
    anchor = best_on_simplex(near, problem.most_J, limits, problem.natural_J, 1e-9).p_J
    objective = loss_of(whole, problem)
    found = [best_on_simplex(objective, problem.most_J, limits, s) for s in (problem.natural_J, *starts)]
    best = min(found, key=lambda o: o.value)
    agree = max(float(np.abs(o.p_J - best.p_J).sum() / 2) for o in found)
    # A refit's floors would move with the refit, and might leave no mixture at all: all keep those of the whole.
    optima = np.array([
        best_on_simplex(loss_of(refits.replicate(r), narrow), problem.most_J, limits, best.p_J, 1e-6).p_J
        for r in range(len(refits.theta_RTQ))
    ])  # fmt: skip
    return _drawn_back(whole, refits, problem, narrow, best.p_J, anchor, optima, best.gap, agree, 1.0)


def floors(whole: Law, problem: Problem) -> list[Limit]:
    return [
        Limit(loss_of(whole, problem, int(t)), float(problem.bounds_T[t]), f"bound: {problem.names_T[t]}")
        for t in np.flatnonzero(np.isfinite(problem.bounds_T))
    ]


def _drawn_back(
    whole: Member, refits: Member, problem: Problem, narrow: Problem, best: np.ndarray, anchor: np.ndarray,
    optima: np.ndarray, gap: float, agree: float, inflation: float,
) -> Choice:  # fmt: skip
    """Regret, optimism and the way back. Each refit is a world in which `best` was chosen and another mixture was best;
    the regret is what that costs there. The fit overstates its optimum by twice the regret: the true loss at `best` is
    one regret above the least, and the fit's least one regret below it (docs/theory.md, section 6)."""
    r = np.arange(len(optima))
    least = predicted(refits, narrow, optima)[r, r]

    def expected(p: np.ndarray) -> float:
        return max(0.0, inflation * float(np.mean(predicted(refits, narrow, p[None])[:, 0] - least)))

    of_best = expected(best)
    gain = float(np.subtract(*predicted(whole, problem, np.stack([anchor, best]))[0]))
    kept = max(0.0, 1 - of_best / gain) if gain > 0 else 0.0
    p = anchor + kept * (best - anchor)
    return Choice(p, best, anchor, kept, optima, expected(p), 2 * kept * of_best, gap, agree)


def choose_among(
    whole: Member, refits: Member, problem: Problem, runs_NJ: np.ndarray, random: np.random.Generator
) -> Choice:
    """The same for a method that has no gradient (a process, trees): the best of many mixtures around the natural one,
    the uniform one and the runs, an average of the best of them as the optimum. Limits are kept by leaving out what
    breaks them, and a mixture above a cap is brought under it. `refits` leave out one fold of the runs each, so that
    their spread is the jackknife's and is widened as that is."""
    j = len(problem.natural_J)
    allowed = best_on_simplex(divergence(problem.natural_J), problem.most_J, (), problem.natural_J).p_J
    anchors = np.concatenate([allowed[None], np.full((1, j), 1 / j), runs_NJ])
    centers = np.concatenate(
        [np.repeat(anchors[:2], CANDIDATES // 4, 0), anchors[random.integers(0, len(anchors), CANDIDATES // 2)]]
    )
    wide = np.exp(random.uniform(np.log(2), np.log(200), len(centers)))[:, None]
    drawn = random.gamma(np.maximum(centers, 0.02 / j) * wide) + 1e-12
    drawn = np.concatenate([drawn / drawn.sum(1, keepdims=True), anchors])
    within = np.where(problem.most_J > 0, drawn, 0)
    for _ in range(50):
        within = np.minimum(within / within.sum(1, keepdims=True), problem.most_J)
    felt = repeated(within, problem.unique_J)[0]
    by_metric = whole.predict(felt)[0]
    kept = ((by_metric <= problem.bounds_T) | np.isinf(problem.bounds_T)).all(1)
    near = np.array([divergence(problem.natural_J)(np.maximum(p, 1e-12))[0] for p in within])
    if problem.divergence is not None:
        kept &= near <= problem.divergence
    if not kept.any():
        raise Refused("bounds: none of the mixtures that were tried keeps all limits")
    within, near, felt = within[kept], near[kept], felt[kept]

    def top(level: np.ndarray) -> np.ndarray:
        return within[np.argsort(level)[: max(1, min(TOP, len(level) // 20))]].mean(0)

    weighted = refits.predict(felt) @ problem.weights_T
    best, optima = top(by_metric[kept] @ problem.weights_T), np.array([top(level) for level in weighted])
    return _drawn_back(
        whole, refits, problem, problem, best, within[near.argmin()], optima, 0.0, 0.0, len(optima) - 1.0
    )  # fmt: skip


def next_runs(refits: Member, problem: Problem, choice: Choice, noise: float, how_many: int = 4) -> list[np.ndarray]:
    """Mixtures whose runs would do most for the choice: of the places where some refit has its optimum, and those
    half-way to the recommended one, greedily those whose measured loss would take most from the variance, over refits,
    of the differences between these places and the recommended one. `noise` is a run's standard deviation."""
    places = np.concatenate([choice.optima_RJ, (choice.optima_RJ + choice.p_J) / 2, choice.best_J[None]])
    levels = predicted(refits, problem, places)
    away = levels - predicted(refits, problem, choice.p_J[None])
    levels, away = levels - levels.mean(0), away - away.mean(0)
    picked: list[np.ndarray] = []
    for _ in range(how_many):
        shared = levels.T @ away / len(levels)
        power = (shared**2).sum(1) / (levels.var(0) + noise**2)
        for p in picked:
            power[np.abs(places - p).sum(1) / 2 < 0.05] = 0
        i = int(power.argmax())
        if power[i] <= 0:
            break
        picked.append(places[i])
        seen = levels[:, i]
        total = seen.var() + noise**2
        step = seen / (total * (1 + np.sqrt(noise**2 / total)))  # what the refits still say once that run is known
        away = away - np.outer(step, seen @ away / len(seen))
        levels = levels - np.outer(step, seen @ levels / len(seen))
    return picked


def resample_weights(runs: int, resamples: int, random: np.random.Generator) -> np.ndarray:
    """Weights of the Bayesian bootstrap, (R, N): exponential, with mean 1. Every run keeps some weight, so that no
    refit is left without the one run that shows a source."""
    weights = random.exponential(1.0, (resamples, runs))
    return weights / weights.mean(1, keepdims=True)
