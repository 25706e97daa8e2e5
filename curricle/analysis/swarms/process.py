"""A Gaussian process on log proportions: the flexible member beside the laws, and the check on them.

    process = fit_process(p_NJ, loss_NT)
    process.predict(p_MJ)[0]      # (M, T)

The kernel is a squared exponential with one length a source plus a linear one, on standardised log(p + 0.001) (so that
a share of 0 has a place); its numbers are found for each target by maximum posterior with analytic gradients. It
promises nothing far from the runs, where it goes back to its linear part: it interpolates.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

FLOOR = 1e-3  # a share of 0 is taken as so much, about the rounding of published proportions
LENGTH_SD = 1.0  # of log length around log √J: with J sources, distances grow as √J


@dataclass(frozen=True, slots=True)
class Process:
    """T targets, R weightings of the N runs."""

    x_NJ: np.ndarray
    center_J: np.ndarray
    scale_J: np.ndarray
    numbers_TQ: np.ndarray  # log: lengths (J), height, linear height, noise
    mean_T: np.ndarray
    spread_T: np.ndarray
    alpha_RTN: np.ndarray

    def predict(self, p_MJ: np.ndarray) -> np.ndarray:
        """Predicted losses, (R, M, T)."""
        x = (np.log(p_MJ + FLOOR) - self.center_J) / self.scale_J
        made = np.empty((len(self.alpha_RTN), len(x), len(self.mean_T)))
        for t, numbers in enumerate(self.numbers_TQ):
            bump, line = _kernels(x, self.x_NJ, numbers)
            made[:, :, t] = self.mean_T[t] + self.spread_T[t] * (self.alpha_RTN[:, t] @ (bump + line).T)
        return made


def fit_process(
    p_NJ: np.ndarray, loss_NT: np.ndarray, weights_RN: np.ndarray | None = None, like: Process | None = None
) -> Process:
    """Fit every target; a refit on weighted runs keeps the numbers of `like` and is conditioned on its own runs."""
    weights = np.ones((1, len(p_NJ))) if weights_RN is None else weights_RN
    logs = np.log(p_NJ + FLOOR)
    if like is None:
        center, scale = logs.mean(0), np.where(logs.std(0) > 0, logs.std(0), 1.0)
        mean, spread = loss_NT.mean(0), np.where(loss_NT.std(0) > 0, loss_NT.std(0), 1.0)
        x = (logs - center) / scale
        numbers = np.stack([_numbers(x, y) for y in ((loss_NT - mean) / spread).T])
    else:
        center, scale, mean, spread, numbers = like.center_J, like.scale_J, like.mean_T, like.spread_T, like.numbers_TQ
        x = (logs - center) / scale
    y = (loss_NT - mean) / spread
    alpha = np.zeros((len(weights), loss_NT.shape[1], len(p_NJ)))
    for t in range(loss_NT.shape[1]):
        bump, line = _kernels(x, x, numbers[t])
        for r, weight in enumerate(weights):
            used = weight > 0
            k = (bump + line)[np.ix_(used, used)] + np.diag(_noise(numbers[t]) / weight[used])
            alpha[r, t, used] = np.linalg.solve(k, y[used, t])
    return Process(x, center, scale, numbers, mean, spread, alpha)


def _noise(numbers: np.ndarray) -> float:
    return float(np.exp(2 * numbers[-1])) + 1e-8


def _kernels(a: np.ndarray, b: np.ndarray, numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    j = a.shape[1]
    u, v = a / np.exp(numbers[:j]), b / np.exp(numbers[:j])
    distance = (u**2).sum(1)[:, None] + (v**2).sum(1)[None] - 2 * u @ v.T
    bump = np.exp(2 * numbers[j] - 0.5 * np.maximum(distance, 0))
    return bump, np.exp(2 * numbers[j + 1]) / j * (1 + a @ b.T)


def _numbers(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """The maximum of the posterior of lengths, heights and noise."""
    from scipy.linalg import cho_factor, cho_solve
    from scipy.optimize import minimize

    n, j = x.shape
    center = np.array([*np.full(j, 0.5 * np.log(j) + 0.5), 0.0, 0.0, np.log(0.1)])
    width = np.array([*np.full(j, LENGTH_SD), 1.0, 1.0, 1.5])

    def cost(numbers: np.ndarray) -> tuple[float, np.ndarray]:
        bump, line = _kernels(x, x, numbers)
        noise = _noise(numbers)
        factor = cho_factor(bump + line + noise * np.eye(n), lower=True, check_finite=False)
        alpha = cho_solve(factor, y, check_finite=False)
        excess = cho_solve(factor, np.eye(n), check_finite=False) - np.outer(alpha, alpha)
        heavy = excess * bump
        scaled = x / np.exp(numbers[:j])
        lengths = (scaled**2 * heavy.sum(1)[:, None]).sum(0) - (scaled * (heavy @ scaled)).sum(0)
        gradient = np.array([*lengths, heavy.sum(), (excess * line).sum(), np.trace(excess) * np.exp(2 * numbers[-1])])
        away = (numbers - center) / width
        value = 0.5 * y @ alpha + np.log(np.diag(factor[0])).sum() + 0.5 * away @ away
        return float(value), gradient + away / width

    found = minimize(cost, center, jac=True, method="L-BFGS-B", bounds=[(-6, 6)] * len(center), options={"maxiter": 60})
    return found.x
