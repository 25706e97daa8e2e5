"""From the swarm's size to the target's, by a few runs there: each metric's prediction is stretched and shifted.

With 4 to 8 runs a slope is poorly known, so each metric's is pulled towards the slope of all metrics together, with the
weight of one more run. Ranks of one metric stay as the swarm gave them; what changes is the level, the size of
differences, and so the weight of each metric in a sum. Promises: the interval of a weighted loss, or of a difference of
two, comes from what the runs at the target size show when they are left out, never from the swarm's own scatter.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from curricle.analysis.statistics.intervals import student
from curricle.study import Refused

LEAST, PULL = 3, 1.0


@dataclass(frozen=True, slots=True)
class Recalibration:
    intercept_T: np.ndarray
    slope_T: np.ndarray
    error_MT: np.ndarray  # of each run at the target size, when the others predict it
    predicted_MT: np.ndarray  # by the swarm's fit, for those runs
    actual_MT: np.ndarray

    @property
    def runs(self) -> int:
        return len(self.actual_MT)

    @property
    def quantile_df(self) -> int:
        return max(self.runs - 2, 1)

    def apply(self, predicted: np.ndarray) -> np.ndarray:
        return self.intercept_T + self.slope_T * predicted

    def interval(self, middle: np.ndarray, level: float) -> np.ndarray:
        """Of one new run at the target size, (2, M, T), by Student's t on the left-out errors."""
        half = float(student(self.quantile_df, level)) * np.sqrt(np.mean(np.square(self.error_MT), 0))
        return np.stack([middle - half, middle + half])

    def half_level(self, weights_T: np.ndarray, level: float) -> float:
        """The same of a weighted loss: half its interval's width."""
        return float(student(self.quantile_df, level)) * math.sqrt(np.mean(np.square(self.error_MT @ weights_T)))

    def half_difference(self, weights_T: np.ndarray, difference_T: np.ndarray, level: float) -> float:
        """Of the difference of two new runs whose swarm predictions differ by `difference_T`: the differences of
        left-out errors, whose common shift drops out, and what leaving runs out does to the slopes (a jackknife),
        which counts where the two lie farther apart than the runs do."""
        errors = self.error_MT @ weights_T
        apart = np.subtract.outer(errors, errors)[np.triu_indices(self.runs, 1)]
        rest = ~np.eye(self.runs, dtype=bool)
        slopes = np.stack([_fit(self.predicted_MT[kept], self.actual_MT[kept])[1] for kept in rest])
        tilt = (slopes - slopes.mean(0)) @ (weights_T * difference_T)
        variance = np.mean(apart**2) + (self.runs - 1) * np.mean(tilt**2)
        return float(student(self.quantile_df, level)) * math.sqrt(variance)

    def redrawn(self, refits: int, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Intercepts and slopes, (R, T), with the runs at the target size weighted anew, as a Bayesian bootstrap does:
        those of each refit."""
        weights = random.exponential(1.0, (refits, self.runs))
        made = [_fit(self.predicted_MT, self.actual_MT, w / w.mean()) for w in weights]
        return np.stack([a for a, _ in made]), np.stack([b for _, b in made])


@dataclass(frozen=True, slots=True)
class Moved:
    """A member whose predictions are carried to the target size, each replicate by its own numbers (R or 1, T)."""

    inner: object
    intercept_RT: np.ndarray
    slope_RT: np.ndarray

    def predict(self, p_NJ: np.ndarray) -> np.ndarray:
        inner = self.inner.predict(p_NJ)  # type: ignore[attr-defined]
        return self.intercept_RT[:, None] + self.slope_RT[:, None] * inner


def recalibrate(predicted_MT: np.ndarray, actual_MT: np.ndarray) -> Recalibration:
    runs = len(actual_MT)
    if runs < LEAST:
        raise Refused(f"larger ratios: {runs} runs at the target size; {LEAST} or more are needed, 4 to 8 are good")
    intercept, slope = _fit(predicted_MT, actual_MT)
    errors = []
    for i in range(runs):
        rest = np.arange(runs) != i
        a, b = _fit(predicted_MT[rest], actual_MT[rest])
        errors.append(actual_MT[i] - a - b * predicted_MT[i])
    return Recalibration(intercept, slope, np.array(errors), predicted_MT, actual_MT)


def _fit(x: np.ndarray, y: np.ndarray, weights: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    weight = np.ones((len(x), 1)) if weights is None else weights[:, None]
    at, level = (np.average(v, axis=0, weights=weight[:, 0]) for v in (x, y))
    dx, dy = x - at, y - level
    squares, products = (weight * dx**2).sum(0), (weight * dx * dy).sum(0)
    together = max(products.sum() / max(squares.sum(), 1e-300), 1e-3)
    pull = PULL * squares / len(x) + 1e-12
    slope = np.maximum((products + pull * together) / (squares + pull), 1e-3 * together)
    return level - slope * at, slope
