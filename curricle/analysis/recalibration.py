"""From the swarm's size to the target's, by a few runs there: each metric's prediction is stretched and shifted.

With 4 to 8 runs a slope is poorly known, so each metric's is pulled towards the slope of all metrics together, with the
weight of one more run. Ranks of one metric stay as the swarm gave them; what changes is the level, the size of
differences, and so the weight of each metric in a sum.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from curricle.analysis.intervals import student
from curricle.study import Refused

LEAST, PULL = 3, 1.0


@dataclass(frozen=True, slots=True)
class Recalibration:
    intercept_T: np.ndarray
    slope_T: np.ndarray
    error_T: np.ndarray  # root mean square of each run's error when the others predict it
    runs: int

    def apply(self, predicted: np.ndarray) -> np.ndarray:
        return self.intercept_T + self.slope_T * predicted

    def interval(self, middle: np.ndarray, level: float) -> np.ndarray:
        """Of one new run at the target size, (2, M, T), by Student's t on the left-out errors."""
        half = float(student(max(self.runs - 2, 1), level)) * self.error_T
        return np.stack([middle - half, middle + half])

    def member(self, member: object) -> Moved:
        return Moved(member, self)


@dataclass(frozen=True, slots=True)
class Moved:
    """A member whose predictions are carried to the target size."""

    inner: object
    by: Recalibration

    def predict(self, p_NJ: np.ndarray) -> np.ndarray:
        return self.by.apply(self.inner.predict(p_NJ))  # type: ignore[attr-defined]


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
    return Recalibration(intercept, slope, np.sqrt(np.mean(np.square(errors), 0)), runs)


def _fit(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    dx, dy = x - x.mean(0), y - y.mean(0)
    squares = (dx**2).sum(0)
    together = max((dx * dy).sum() / max(squares.sum(), 1e-300), 1e-3)
    pull = PULL * squares / len(x) + 1e-12
    slope = np.maximum(((dx * dy).sum(0) + pull * together) / (squares + pull), 1e-3 * together)
    return y.mean(0) - slope * x.mean(0), slope
