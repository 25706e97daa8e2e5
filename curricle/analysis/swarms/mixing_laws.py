"""Laws of a loss as a function of mixture proportions, fitted to a swarm of small runs (docs/theory.md, section 6).

    law = fit_law("efftokens", p_NJ, loss_NT)
    law.predict(p_MJ)[0]          # (M, T): one column a target

Four forms, all convex on the simplex: the effective-token law L = E + (Σⱼ kⱼ pⱼ^rⱼ + d)^−β, in which sources differ a
little in r; the same with r = 1; the exponential law L = E + exp(Σⱼ tⱼ pⱼ); and the linear one. Every target is fitted
by itself, by robust penalised least squares with analytic gradients; all targets, starts and refits on resamples run
through one vectorised Levenberg–Marquardt. It promises that several starts ended in the same predictions, or says by
how much they did not.

Shapes: N runs, J sources, T targets, R replicates (weightings of the runs), B problems (R × T × starts), Q parameters.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from curricle.study import Refused, nearest

FORMS = ("efftokens", "efftokens-linear", "exponential", "linear")
HUBER = 2.0  # residuals beyond about so many standard deviations weigh less and less (pseudo-Huber)
CHUNK = 3_000_000  # numbers in the largest array of a batch

# Priors, in the units of each parameter: what a swarm that says nothing leaves standing. They are wide; see
# docs/results/mixture-regmix.md for what other widths do.
K_SD = 1.5  # of log k around its expected profile over sources
D_MEAN, D_SD = -2.0, 2.0  # of log d against the mean log k
R_MEAN, R_SD = 0.0, 0.7  # of logit r: r about .5, from .2 to .8
R_OWN_SD = 0.4  # of logit rⱼ about logit r: how much sources differ in how fast they saturate
B_MEAN, B_SD = -1.2, 1.0  # of log β
H_MEAN, H_SD = 0.5, 0.8  # of log((mean loss − E)/range of the losses)
T_SD = 3.0  # of an exponent (or a slope, in ranges of the losses) around the mean over sources


@dataclass(frozen=True, slots=True)
class Law:
    """One form fitted to T targets, R times. `starts_agree` is the largest difference that starts left, in the
    predictions, as a share of the losses' standard deviation.

    Numbers are kept as they are well told apart: L = c + h(s^−β − 1) with c the mean loss and s = Σⱼ kⱼ pⱼʳ + d, whose
    unit makes s = 1 there. So E = c − h, and hβ is the slope against log s. θ = log k₁…k_J, log d, logit r,
    log(hβ/range), log(h/range), and logit rⱼ − logit r for each source."""

    form: str
    theta_RTQ: np.ndarray
    anchor_T2: np.ndarray  # mean and range of each target's losses: the units of all else; (R, T, 2) where they differ
    sigma_T: np.ndarray  # robust residual standard deviation
    starts_agree: float

    def replicate(self, r: int) -> Law:
        anchor = self.anchor_T2 if self.anchor_T2.ndim == 2 else self.anchor_T2[r]
        return Law(self.form, self.theta_RTQ[r : r + 1], anchor, self.sigma_T, self.starts_agree)

    def only(self, targets: np.ndarray) -> Law:
        """The law of some of its targets."""
        anchor, sigma = self.anchor_T2[..., targets, :], self.sigma_T[..., targets]
        return Law(self.form, self.theta_RTQ[:, targets], anchor, sigma, self.starts_agree)

    def rescaled(self, intercept_T: np.ndarray, slope_T: np.ndarray) -> Law:
        """The law of intercept + slope × loss, with slope > 0: the same form with other numbers. Both may be (R, T)."""
        anchor = np.stack([intercept_T + slope_T * self.anchor_T2[..., 0], slope_T * self.anchor_T2[..., 1]], -1)
        return Law(self.form, self.theta_RTQ, anchor, self.sigma_T * slope_T, self.starts_agree)

    def predict(self, p_NJ: np.ndarray) -> np.ndarray:
        """Predicted losses, (R, N, T)."""
        r, t, q = self.theta_RTQ.shape
        features = Features(p_NJ)
        made = np.empty((r * t, len(p_NJ)))
        theta, anchors = self.theta_RTQ.reshape(r * t, q), np.broadcast_to(self.anchor_T2, (r, t, 2)).reshape(-1, 2)
        for part in _chunks(r * t, p_NJ.size):
            made[part], _ = VALUES[self.form](theta[part], features, anchors[part], False)
        return made.reshape(r, t, -1).transpose(0, 2, 1)

    def derivatives(self, p_J: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Value (R, T), gradient (R, T, J) and Hessian (R, T, J, J) at one mixture. At a share of 0 the slope of pʳ is
        infinite: it is taken just beside."""
        p_J = np.maximum(p_J, 1e-15)
        shape, j = self.theta_RTQ.shape[:2], len(p_J)
        theta = self.theta_RTQ
        if self.form == "linear":
            slopes = theta * self.anchor_T2[..., 1, None]
            return self.anchor_T2[..., 0] + slopes @ p_J, slopes, np.zeros((*shape, j, j))
        height = np.exp(theta[..., j if self.form == "exponential" else j + 3]) * self.anchor_T2[..., 1]
        floor = self.anchor_T2[..., 0] - height
        if self.form == "exponential":
            t = theta[..., :j]
            above = height * np.exp(t @ p_J)
            return floor + above, above[..., None] * t, above[..., None, None] * t[..., :, None] * t[..., None, :]
        k, d, beta = np.exp(theta[..., :j]), np.exp(theta[..., j]), np.exp(theta[..., j + 2] - theta[..., j + 3])
        r = _exponents(theta, j) if self.form == "efftokens" else np.ones((*shape, 1))
        tokens = k * p_J**r
        s = tokens.sum(-1) + d
        above = height * s**-beta
        slope = r * tokens / p_J
        first = beta * above / s
        hessian = (first * (beta + 1) / s)[..., None, None] * slope[..., :, None] * slope[..., None, :]
        diagonal = np.arange(j)
        hessian[..., diagonal, diagonal] += first[..., None] * r * (1 - r) * tokens / p_J**2
        return floor + above, -first[..., None] * slope, hessian


class Features:
    """Proportions with what the laws need of them: their logarithms, and which are 0."""

    def __init__(self, p_NJ: np.ndarray):
        self.p_NJ = np.asarray(p_NJ, float)
        self.log_NJ = np.log(np.where(self.p_NJ > 0, self.p_NJ, 1.0))
        self.zero_NJ = self.p_NJ <= 0


def fit_law(
    form: str, p_NJ: np.ndarray, loss_NT: np.ndarray, weights_RN: np.ndarray | None = None, like: Law | None = None,
    starts: int = 4, only: np.ndarray | None = None,
) -> Law:  # fmt: skip
    """Fit every target. Each row of `weights_RN` is one weighting of the runs, fitted by itself (folds, resamples);
    `like` is the same form fitted to all runs, from which refits take their noise level and where they start. Targets
    learn from each other through `like` alone, so `only` some may be refitted, with the same result."""
    if form not in FORMS:
        raise Refused(f"method: {form!r} is no law; {nearest(form, FORMS)}")
    n, t = loss_NT.shape
    weights = np.ones((1, n)) if weights_RN is None else np.asarray(weights_RN, float)
    features = Features(p_NJ)
    if like is None:
        like = _whole(form, features, loss_NT, starts)
    if weights_RN is None:
        return like
    centres = _centres(like)
    if only is not None:
        like, loss_NT, centres, t = like.only(only), loss_NT[:, only], centres[only], len(only)
    r, q = len(weights), like.theta_RTQ.shape[-1]
    theta, _ = _minimise(
        form, features, np.tile(loss_NT.T, (r, 1)), np.repeat(weights, t, 0), np.tile(like.anchor_T2, (r, 1)),
        np.tile(like.sigma_T, r), np.tile(like.theta_RTQ[0], (r, 1)), np.tile(centres, (r, 1)), 1e-7,
    )  # fmt: skip
    return Law(form, theta.reshape(r, t, q), like.anchor_T2, like.sigma_T, like.starts_agree)


def _whole(form: str, features: Features, loss_NT: np.ndarray, starts: int) -> Law:
    """All runs: noise level and expected profile first, then every start again with both held."""
    n, t = loss_NT.shape
    j = features.p_NJ.shape[1]
    low, high = loss_NT.min(0), loss_NT.max(0)
    anchor = np.stack([loss_NT.mean(0), np.where(high > low, high - low, 1.0)], 1)
    spread = np.where(high > low, loss_NT.std(0), 1.0)
    begin = np.tile(_start(form, j), (t, 1))
    sigma, theta, centre = 0.1 * spread, begin, np.zeros_like(begin)
    for _ in range(3):
        theta, edf = _minimise(form, features, loss_NT.T, np.ones((t, n)), anchor, sigma, theta, centre)
        residual = loss_NT.T - VALUES[form](theta, features, anchor, False)[0]
        sigma = _noise(residual, edf, spread)
        centre = _centres(Law(form, theta[None], anchor, sigma, 0.0))
    tried = [theta]
    random = np.random.default_rng(0)
    for _ in range(starts):
        tried.append(begin + random.normal(0, 0.7, begin.shape) * (form != "linear"))
    b = len(tried)
    found, _ = _minimise(
        form, features, np.tile(loss_NT.T, (b, 1)), np.ones((b * t, n)), np.tile(anchor, (b, 1)), np.tile(sigma, b),
        np.concatenate(tried), np.tile(centre, (b, 1)),
    )  # fmt: skip
    values = VALUES[form](found, features, np.tile(anchor, (b, 1)), False)[0].reshape(b, t, n)
    cost = _cost(
        form, found, np.tile(loss_NT.T, (b, 1)) - values.reshape(b * t, n), np.ones((b * t, n)), np.tile(sigma, b),
        np.tile(centre, (b, 1)), j,
    )[0].reshape(b, t)  # fmt: skip
    best = cost.argmin(0)
    chosen = found.reshape(b, t, -1)[best, np.arange(t)]
    apart = np.abs(values - values[best, np.arange(t)]).max((0, 2)) / spread
    return Law(form, chosen[None], anchor, sigma, float(apart.max()))


def _centres(law: Law) -> np.ndarray:
    """What is expected of each target's parameters before its own runs are heard: (T, Q).

    A source that helps many targets is expected to help the next one too: log k is centred on row plus column effects
    of all targets' fits, the columns shrunk towards 0, and so is each source's own rⱼ; r on the mean over targets."""
    theta = law.theta_RTQ[0]
    centre = np.zeros_like(theta)
    t, q = theta.shape
    if law.form not in ("efftokens", "efftokens-linear"):
        return centre
    j = (q - 4) // 2 if law.form == "efftokens" else q - 4
    shared = t / (t + 3)
    if t > 1:
        logs = theta[:, :j] - theta[:, :j].mean(1, keepdims=True)
        centre[:, :j] = shared * np.median(logs, 0)
        centre[:, j + 4 :] = shared * theta[:, j + 4 :].mean(0)
    centre[:, j + 1] = (theta[:, j + 1].sum() + R_MEAN) / (t + 1)
    return centre


# ---- forms: value and gradient in the parameters -------------------------------------------------------------------


def _exponents(theta: np.ndarray, j: int) -> np.ndarray:
    """Each source's r."""
    return 1 / (1 + np.exp(-(theta[..., j + 1, None] + theta[..., j + 4 :])))


def _effective(theta: np.ndarray, f: Features, anchor: np.ndarray, gradient: bool, curved: bool = True):
    j = f.p_NJ.shape[1]
    k, d, beta = (np.exp(x)[:, None] for x in (theta[:, :j], theta[:, j], theta[:, j + 2] - theta[:, j + 3]))
    if curved:
        r = _exponents(theta, j)[:, None]
        power = np.exp(r * f.log_NJ)
        power[:, f.zero_NJ] = 0.0
    else:
        r, power = np.ones((1, 1, 1)), f.p_NJ
    tokens = k * power
    s = tokens.sum(-1) + d
    height = (np.exp(theta[:, j + 3]) * anchor[:, 1])[:, None]
    above = height * s**-beta
    value = anchor[:, :1] - height + above
    if not gradient:
        return value, None
    slope = -beta * above / s
    bend = beta * np.log(s) * above
    made = np.zeros((*value.shape, theta.shape[1]))
    made[..., :j] = slope[..., None] * tokens
    made[..., j] = slope * d
    made[..., j + 2] = -bend
    made[..., j + 3] = bend - height + above
    if curved:
        made[..., j + 4 :] = slope[..., None] * tokens * f.log_NJ * (r * (1 - r))
        made[..., j + 1] = made[..., j + 4 :].sum(-1)
    return value, made


def _exponential(theta: np.ndarray, f: Features, anchor: np.ndarray, gradient: bool):
    """θ = t₁…t_J, log(h/range), of L = c + h(exp Σⱼ tⱼ pⱼ − 1)."""
    j = f.p_NJ.shape[1]
    height = (np.exp(theta[:, j]) * anchor[:, 1])[:, None]
    above = height * np.exp(theta[:, :j] @ f.p_NJ.T)
    value = anchor[:, :1] - height + above
    if not gradient:
        return value, None
    made = np.empty((*value.shape, j + 1))
    made[..., :j] = above[..., None] * f.p_NJ
    made[..., j] = above - height
    return value, made


def _linear(theta: np.ndarray, f: Features, anchor: np.ndarray, gradient: bool):
    """θ = slopes, in ranges of the losses above the mean; proportions sum to 1, so no intercept is needed."""
    value = anchor[:, :1] + anchor[:, 1:] * (theta @ f.p_NJ.T)
    return value, anchor[:, 1, None, None] * f.p_NJ if gradient else None


Value = Callable[[np.ndarray, Features, np.ndarray, bool], tuple[np.ndarray, Any]]
VALUES: dict[str, Value] = {
    "efftokens": _effective,
    "efftokens-linear": lambda theta, f, anchor, gradient: _effective(theta, f, anchor, gradient, curved=False),
    "exponential": _exponential,
    "linear": _linear,
}


def _start(form: str, j: int) -> np.ndarray:
    """Every source alike: then the law says the mean everywhere near the uniform mixture."""
    if form == "linear":
        return np.zeros(j)
    if form == "exponential":
        return np.append(np.zeros(j), H_MEAN)
    level = -np.log(np.sqrt(j) + np.exp(D_MEAN))
    own = np.zeros(j if form == "efftokens" else 0)
    return np.array([*np.full(j, level), level + D_MEAN, R_MEAN, B_MEAN + H_MEAN, H_MEAN, *own])


def _precision(form: str, j: int) -> tuple[np.ndarray, np.ndarray]:
    """The prior as ½(θ − m)ᵀA(θ − m): A and the fixed part of m. Only differences of log k are penalised: the level
    that all share is free, as it must be for a law whose unit is free."""
    centring = np.eye(j) - 1 / j
    if form == "linear":
        return centring / T_SD**2, np.zeros(j)
    if form == "exponential":
        a = np.zeros((j + 1, j + 1))
        a[:j, :j], a[j, j] = centring / T_SD**2, 1 / H_SD**2
        return a, np.array([*np.zeros(j), H_MEAN])
    q = len(_start(form, j))
    a, mean = np.zeros((q, q)), np.zeros(q)
    a[:j, :j] = centring / K_SD**2
    tie, beta = np.zeros(q), np.zeros(q)
    tie[:j], tie[j] = -1 / j, 1.0
    beta[j + 2], beta[j + 3] = 1.0, -1.0
    a += np.outer(tie, tie) / D_SD**2 + np.outer(beta, beta) / B_SD**2
    a[j + 1, j + 1] += 1 / R_SD**2
    a[j + 3, j + 3] += 1 / H_SD**2
    a[range(j + 4, q), range(j + 4, q)] = 1 / R_OWN_SD**2
    mean[j], mean[j + 2], mean[j + 3] = D_MEAN, B_MEAN + H_MEAN, H_MEAN
    return a, mean


# ---- the fit -------------------------------------------------------------------------------------------------------


def _noise(residual_TN: np.ndarray, edf_T: np.ndarray, spread_T: np.ndarray) -> np.ndarray:
    """A robust standard deviation for each target, corrected for the effective number of parameters; never 0."""
    n = residual_TN.shape[1]
    raw = 1.4826 * np.median(np.abs(residual_TN), 1)
    return np.maximum(raw * np.sqrt(n / np.maximum(n - edf_T, 0.2 * n)), 1e-4 * spread_T)


def _cost(form, theta, residual, weights, sigma, centre, j):
    a, mean = _precision(form, j)
    away = theta - centre - mean
    size = residual / (HUBER * sigma[:, None])
    root = np.sqrt(1 + size**2)
    pull = away @ a
    return HUBER**2 * (weights * (root - 1)).sum(1) + 0.5 * (pull * away).sum(1), 1 / root, pull, a


def _minimise(
    form: str, features: Features, loss_BN: np.ndarray, weights_BN: np.ndarray, anchor_B2: np.ndarray,
    sigma_B: np.ndarray, theta_BQ: np.ndarray, centre_BQ: np.ndarray,
    precision: float = 1e-10,
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """Levenberg–Marquardt on every problem of the batch. Returns the parameters and their effective number."""
    theta, edf = theta_BQ.copy(), np.empty(len(theta_BQ))
    for part in _chunks(len(theta), features.p_NJ.size):
        theta[part], edf[part] = _batch(
            form, features, loss_BN[part], weights_BN[part], anchor_B2[part], sigma_B[part], theta[part],
            centre_BQ[part], precision,
        )  # fmt: skip
    return theta, edf


def _batch(form, features, loss, weights, anchor, sigma, theta, centre, precision: float, rounds: int = 600):
    j, value = features.p_NJ.shape[1], VALUES[form]
    q = theta.shape[1]
    diagonal = np.arange(q)
    active = np.arange(len(theta))
    damping = np.full(len(theta), 1e-2)
    calm = np.zeros(len(theta), int)  # rounds in a row that moved nothing

    def look(i: np.ndarray, at: np.ndarray):
        made, slope = value(at, features, anchor[i], True)
        residual = loss[i] - made
        cost, robust, pull, a = _cost(form, at, residual, weights[i], sigma[i], centre[i], j)
        scaled = weights[i] * robust / sigma[i][:, None] ** 2
        gradient = pull - np.matmul((scaled * residual)[:, None, :], slope)[:, 0]
        hessian = np.matmul((slope * scaled[..., None]).transpose(0, 2, 1), slope)
        return cost, gradient, hessian, a

    with np.errstate(over="ignore", invalid="ignore"):
        cost, gradient, hessian, a = look(active, theta)
        edf = np.zeros(len(theta))
        for _ in range(rounds):
            if not len(active):
                break
            full = hessian[active] + a
            full[:, diagonal, diagonal] += damping[active, None] * (full[:, diagonal, diagonal] + 1e-9)
            step = np.linalg.solve(full, -gradient[active][..., None])[..., 0]
            step *= np.minimum(1, 2 / np.maximum(np.abs(step).max(1, keepdims=True), 1e-300)) if form != "linear" else 1
            trial = theta[active] + step
            new_cost, new_gradient, new_hessian, _ = look(active, trial)
            better = np.isfinite(new_cost) & (new_cost <= cost[active])
            gained = np.where(better, cost[active] - new_cost, 0.0)
            small = (gained <= precision * (1 + cost[active])) & (better | (damping[active] > 1e6))
            moved = active[better]
            theta[moved], cost[moved] = trial[better], new_cost[better]
            gradient[moved], hessian[moved] = new_gradient[better], new_hessian[better]
            damping[active] = np.where(better, np.maximum(damping[active] / 5, 1e-9), damping[active] * 6)
            calm[active] = np.where(small, calm[active] + 1, 0)
            active = active[(calm[active] < 2) & (damping[active] < 1e12)]
        edf = np.trace(np.linalg.solve(hessian + a + 1e-9 * np.eye(q), hessian), axis1=1, axis2=2)
    return theta, edf


def _chunks(problems: int, size: int) -> Sequence[slice]:
    step = max(1, CHUNK // size)
    return [slice(i, i + step) for i in range(0, problems, step)]
