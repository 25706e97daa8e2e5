"""What a method says about runs that it was not fitted to, and intervals made of that: CV+ (Barber et al. 2021).

For each run i in fold k, R_i = |y_i − μ₋ₖ(x_i)|. The interval at a mixture x runs from the ⌊α(n+1)⌋-th smallest of
μ₋ₖ₍ᵢ₎(x) − R_i to the ⌈(1−α)(n+1)⌉-th smallest of μ₋ₖ₍ᵢ₎(x) + R_i. It speaks about one new run of a mixture drawn as
the swarm's were, noise of that run included, and holds at least 1 − 2α of them whatever the method is worth; 1 − α in
practice. It promises nothing about a law's numbers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from curricle.analysis.swarms.members import Member, fit_member

FOLDS = 10


@dataclass(frozen=True, slots=True)
class Foldwise:
    fold_N: np.ndarray
    member: Member  # one replicate a fold, fitted without it
    outside_NT: np.ndarray  # each run's prediction by the replicate that did not see it
    loss_NT: np.ndarray

    @property
    def residual_NT(self) -> np.ndarray:
        return self.loss_NT - self.outside_NT


def foldwise(
    method: str, p_NJ: np.ndarray, loss_NT: np.ndarray, whole: Member, seed: int = 0, folds: int = FOLDS
) -> Foldwise:
    """Fit without each fold in turn. The folds do not depend on the order of the rows. A fold has four runs or more,
    since the gain's interval rests on pairs of runs that one fold leaves out: of 12 runs ten folds would leave two."""
    n = len(p_NJ)
    folds = max(min(folds, n // 4), min(n, 3))
    fold = np.empty(n, int)
    order = np.lexsort(np.sort(p_NJ, 1).T)[np.random.default_rng(seed).permutation(n)]
    fold[order] = np.arange(n) % folds
    weights = (fold[None] != np.arange(folds)[:, None]).astype(float)
    member = fit_member(method, p_NJ, loss_NT, weights, whole)
    outside = member.predict(p_NJ)[fold, np.arange(n)]
    return Foldwise(fold, member, outside, loss_NT)


def cv_plus(
    predicted_KM: np.ndarray, residual_N: np.ndarray, fold_N: np.ndarray, level: float,
    unit_N: np.ndarray | float = 1.0, unit_M: np.ndarray | float = 1.0, runs: int | None = None,
) -> np.ndarray:  # fmt: skip
    """Intervals (2, M) from each fold's predictions and the residuals of what it left out. Where losses scatter
    unevenly, residuals are told in units (`unit_N`) and intervals made in those of the new mixtures (`unit_M`).
    Residuals that share `runs` runs (pairs' differences) count as that many: ranks allow for (m + 1)/m of the level,
    with m the runs and not the pairs."""
    alpha, size = 1 - level, (np.abs(residual_N) / unit_N)[:, None]
    made = np.empty((2, predicted_KM.shape[1]))
    unit = np.broadcast_to(unit_M, predicted_KM.shape[1])
    n = len(residual_N)
    m = runs or n
    high = min(n, math.ceil((1 - alpha) * (m + 1) / m * n - 1e-9))
    low = n + 1 - high
    step = max(1, 2_000_000 // n)
    for i in range(0, predicted_KM.shape[1], step):
        here, wide = predicted_KM[fold_N, i : i + step], size * unit[i : i + step]
        made[0, i : i + step] = np.sort(here - wide, 0)[low - 1]
        made[1, i : i + step] = np.sort(here + wide, 0)[high - 1]
    return made


@dataclass(frozen=True, slots=True)
class Scatter:
    """How a residual's size goes with the predicted loss: exp(slope × place), level in the range that was seen."""

    middle: float
    spread: float
    slope: float
    ends: tuple[float, float]

    def unit(self, predicted: np.ndarray) -> np.ndarray:
        place = (np.clip(predicted, *self.ends) - self.middle) / self.spread
        return np.exp(self.slope * place)


def scatter(outside_N: np.ndarray, residual_N: np.ndarray) -> Scatter:
    """Fitted to left-out residuals: log size on place, the slope drawn to 0 as by one more run far out."""
    spread = float(outside_N.std()) or 1.0
    place = (outside_N - outside_N.mean()) / spread
    size = np.abs(residual_N)
    level = float(np.median(size)) or 1.0
    logs = np.log(size / level + 0.1)
    slope = float((place * (logs - logs.mean())).sum() / ((place**2).sum() + 10))
    ends = float(outside_N.min()), float(outside_N.max())
    return Scatter(float(outside_N.mean()), spread, float(np.clip(slope, -1.5, 1.5)), ends)


def pairs(fold_N: np.ndarray) -> np.ndarray:
    """All pairs of runs that were left out together, (P, 2): their differences were predicted by a fit that saw
    neither."""
    i, j = np.triu_indices(len(fold_N), 1)
    return np.stack([i, j], 1)[fold_N[i] == fold_N[j]]
