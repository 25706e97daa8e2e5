"""Synergy κ on the scale of effective tokens, the scale on which complementarity is claimed.

    L = E + S^−β,  S = d + k_c·x_c^r + k_m·x_m^r + κ·√(k_c·k_m)·(x_c·x_m)^(r/2) + k_f·x_f^r

Tokens of two sources add up in S where κ = 0. κ is relative to r: at d = 0, (k, r, κ = 2, β) and (√k, r/2, 0, 2β) are
the same law, so κ has an interval only with E, r, β and d left free: the profile interval. All profiles are fitted
side by side as one batch (Levenberg–Marquardt with analytic derivatives); every κ starts from many points and from its
neighbours' best. Letters: B problems of the batch, C cells, K parameters.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from curricle.analysis.finding import ACCURACY, KAPPA, THESE_PROBLEMS, Finding, Interval, Part, join
from curricle.analysis.rows.cells import Factorial, Row, read_factorial
from curricle.analysis.statistics.intervals import student
from curricle.analysis.surface import on, raw
from curricle.study import Refused

if TYPE_CHECKING:
    from curricle.results import Results

LEAST = -2.0  # below it S could fall as tokens grow: u² + v² + κuv ≥ 0 for all u, v only from here
MOST = 60.0
NAMES = ("floor", "r", "beta", "d", "first", "second", "filler")  # the free parameters, in this order
R_LEAST, BETA_LEAST, BETA_MOST = 0.05, 0.02, 6.0
ROUNDS = 120


class Data(NamedTuple):
    """Mean losses of cells, runs in each, and tokens in units of the largest total."""

    loss_C: np.ndarray
    count_C: np.ndarray
    tokens_CJ: np.ndarray  # first, second and, where there is one, filler


def synergy(
    rows: Sequence[Row] | Results | Factorial,
    *,
    sources: Sequence[str] = ("code", "math"),
    benchmark: str | None = None,
    measure: str | None = None,
    filler: str | None = None,
    order: str | None = None,
    level: float = 0.95,
) -> Finding:
    """κ with its profile interval over seeds. `parts["complementary"]` is true only where that leaves out 0 from above.

    For losses only, since an accuracy has no law in tokens. Where the law does not fit the cells (lack of fit at 5 %)
    the interval rests on the misfit instead of the seeds, and says so. Undefined where there are fewer cells than
    parameters, or one run a cell.
    """
    design = rows if isinstance(rows, Factorial) else read_factorial(rows, sources, benchmark, measure, filler)
    if design.measure == ACCURACY:
        raise Refused("measure: κ belongs to a law of the loss; ask for 'bits per byte'")
    order = (design.orders or [""])[0] if order is None else order
    used = design.of_order(order)
    cells = on(raw(design.measure), design.cells)
    data = data_of(design, used)
    free = len(NAMES) - (design.filler is None)
    about = Finding(
        "synergy", f"{design.sources[0]} and {design.sources[1]} on the scale of effective tokens", design.measure,
        design.benchmark, None, KAPPA, n=max(cell.items for cell in design.cells),
        seeds=int(data.count_C.min()), runs=tuple(run for k in used for run in design.cells[k].runs), undefined="",
    )  # fmt: skip
    if len(used) < free + 1:
        return _undefined(about, f"{len(used)} cells cannot tell {free + 1} parameters; 3 doses of each source can")
    if not cells.df or not cells.pooled:
        return _undefined(about, "the seeds' spread is unknown (one run a cell, or no variation)")
    from scipy.special import fdtrc, stdtr

    first = profile(data)
    spare = len(used) - free - 1
    variance, df = cells.pooled, float(cells.df)
    lack_p, misfit = None, False
    if spare:  # with as many cells as parameters nothing is left to test the law by
        least = float(first.losses.min())
        lack_p = float(fdtrc(spare, cells.df, least / spare / cells.pooled))
        misfit = lack_p < 0.05
    if misfit:
        variance, df = max(variance, least / spare), float(spare)
    limit = float(student(df, level)) ** 2 * variance
    kappas, losses, thetas = refined(first, data, limit)
    best = int(losses.argmin())
    low, high = accepted(kappas, (losses - losses[best]) / limit)
    zero = float(losses[int(np.abs(kappas).argmin())] - losses[best]) / variance  # 0 is on the grid
    parts: dict[str, Part] = {
        "zero_p": float(2 * stdtr(df, -math.sqrt(max(zero, 0.0)))),
        "complementary": low is not None and low > 0, "substitutes": high is not None and high < 0,
        "lack_of_fit_p": lack_p, "seed_sd": cells.sd, "df": df, "order": order,
        **{name: float(value) for name, value in zip(NAMES, natural(thetas[best], data.loss_C.min()))},
    }  # fmt: skip
    curve: tuple[dict[str, Part], ...] = tuple(
        {"kappa": float(k), "excess": float((loss - losses[best]) / limit)} for k, loss in zip(kappas, losses)
    )
    said = [
        "Profile interval: E, r, β, d and every k are free.",
        "Complementarity is claimed."
        if parts["complementary"]
        else "Complementarity is not claimed: 0 is not excluded.",
        f"The law does not fit (p = {lack_p:.2g}), so the interval rests on the misfit." if misfit else "",
        "Unbounded above." * (high is None),
    ]
    interval = Interval(LEAST if low is None else low, high, THESE_PROBLEMS, level)
    return _with(about, float(kappas[best]), interval, parts, curve, join(said))


def _undefined(about: Finding, why: str) -> Finding:
    return replace(about, undefined=why, parts={"complementary": False})


def _with(
    about: Finding,
    value: float,
    interval: Interval,
    parts: dict[str, Part],
    table: tuple[dict[str, Part], ...],
    note: str,
) -> Finding:
    return replace(about, estimate=value, undefined=None, intervals=(interval,), parts=parts, table=table, note=note)


def data_of(design: Factorial, used: Sequence[int]) -> Data:
    cells = [design.cells[k] for k in used]
    tokens = np.array([[*cell.doses, *([cell.filler] if design.filler else [])] for cell in cells])
    loss = np.array([cell.y_S.mean() for cell in cells])
    return Data(loss, np.array([float(len(cell.y_S)) for cell in cells]), tokens / tokens.sum(1).max())


def accepted(kappas: np.ndarray, excess: np.ndarray) -> tuple[float | None, float | None]:
    """The outermost κ at which `excess` (of the least squares, in units of the limit) is at most 1; None at an open
    end. Between points its root is taken as straight, which it is for a parabola."""
    inside = np.flatnonzero(excess <= 1)
    low, high = int(inside[0]), int(inside[-1])
    root = np.sqrt(np.maximum(excess, 0.0))

    def crossing(near: int, far: int) -> float:
        return float(kappas[near] + (1 - root[near]) / (root[far] - root[near]) * (kappas[far] - kappas[near]))

    return (None if low == 0 else crossing(low, low - 1)), (
        None if high == len(kappas) - 1 else crossing(high, high + 1)
    )


# ---- the law and its fit ------------------------------------------------------------------------------------------


def grid() -> np.ndarray:
    """κ, dense around 0 and wider outwards; 0 is on it."""
    outer = np.expm1(np.linspace(0, np.log1p(MOST), 29))
    return np.unique(np.concatenate([np.linspace(LEAST, 0, 17), outer]))


def squash(theta: np.ndarray, low: float, high: float) -> tuple[np.ndarray, np.ndarray]:
    """The real line to (low, high), and the derivative."""
    share = 1 / (1 + np.exp(-np.clip(theta, -40, 40)))
    return low + (high - low) * share, (high - low) * share * (1 - share)


def natural(theta_BK: np.ndarray, least_loss: float) -> np.ndarray:
    """Free parameters to those of the law: E, r, β, d, k…"""
    theta = np.atleast_2d(theta_BK)
    log_beta, _ = squash(theta[:, 2], np.log(BETA_LEAST), np.log(BETA_MOST))
    columns = [squash(theta[:, 0], 0, least_loss)[0], squash(theta[:, 1], R_LEAST, 1)[0], np.exp(log_beta)]
    out = np.concatenate([np.stack(columns, axis=1), np.exp(np.clip(theta[:, 3:], -60, 60))], axis=1)
    return out if np.ndim(theta_BK) > 1 else out[0]


def law(theta_BK: np.ndarray, kappa_B: np.ndarray, data: Data) -> tuple[np.ndarray, np.ndarray]:
    """Losses (B × C) and their derivatives by the free parameters (B × C × K)."""
    floor, d_floor = squash(theta_BK[:, :1], 0, float(data.loss_C.min()))
    r, d_r = squash(theta_BK[:, 1:2], R_LEAST, 1)
    log_beta, d_log_beta = squash(theta_BK[:, 2:3], np.log(BETA_LEAST), np.log(BETA_MOST))
    beta = np.exp(log_beta)
    d, *k = np.exp(np.clip(theta_BK[:, 3:], -60, 60)).T[:, :, None]
    with np.errstate(divide="ignore"):
        logs_CJ = np.log(data.tokens_CJ)
    logs_CJ = np.where(np.isfinite(logs_CJ), logs_CJ, 0.0)
    there_CJ = data.tokens_CJ > 0
    powers = [np.where(there, np.exp(r * log), 0.0) for there, log in zip(there_CJ.T, logs_CJ.T)]
    shared = kappa_B[:, None] * np.sqrt(k[0] * k[1]) * np.sqrt(powers[0] * powers[1])
    parts = [each * power for each, power in zip(k, powers)]
    s = np.maximum(d + sum(parts) + shared, 1e-30)
    lifted = np.exp(-beta * np.log(s))
    by_s = -beta * lifted / s
    of_r = sum(part * log for part, log in zip(parts, logs_CJ.T)) + shared * (logs_CJ[:, 0] + logs_CJ[:, 1]) / 2
    half = shared / 2
    columns = [
        np.broadcast_to(d_floor, lifted.shape), by_s * of_r * d_r, -lifted * np.log(s) * beta * d_log_beta, by_s * d,
        by_s * (parts[0] + half), by_s * (parts[1] + half), *(by_s * part for part in parts[2:]),
    ]  # fmt: skip
    return floor + lifted, np.stack(columns, axis=2)


def descend(
    theta_BK: np.ndarray, kappa_B: np.ndarray, data: Data, rounds: int = ROUNDS
) -> tuple[np.ndarray, np.ndarray]:
    """Levenberg–Marquardt on every problem of the batch at once, those at rest left out; where each ended and its
    weighted squares."""
    root_C, eye = np.sqrt(data.count_C), np.eye(theta_BK.shape[1])
    nothing = 1e-16 * float((data.count_C * data.loss_C**2).sum())  # squares that are rounding

    def at(theta: np.ndarray, kappa: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        losses, slopes = law(theta, kappa, data)
        residual = root_C * (data.loss_C - losses)
        return residual, slopes * root_C[:, None], (residual**2).sum(1)

    ends, least = theta_BK.copy(), np.empty(len(theta_BK))
    alive, theta, kappa = np.arange(len(theta_BK)), theta_BK, kappa_B
    residual, slopes, squares = at(theta, kappa)
    damping, still = np.full(len(theta), 1e-2), np.zeros(len(theta))
    for _ in range(rounds):
        transposed = slopes.transpose(0, 2, 1)
        gram = transposed @ slopes
        scale = np.einsum("bkk->bk", gram)
        scale = np.maximum(scale, 1e-9 * scale.max(1, keepdims=True) + 1e-30)
        step = np.linalg.solve(gram + (damping[:, None] * scale)[:, :, None] * eye, transposed @ residual[:, :, None])
        tried = theta + np.clip(step[:, :, 0], -3, 3)
        new = at(tried, kappa)
        better = new[2] < squares
        gained = np.where(better, squares - new[2], 0.0)
        theta = np.where(better[:, None], tried, theta)
        residual = np.where(better[:, None], new[0], residual)
        slopes = np.where(better[:, None, None], new[1], slopes)
        squares = np.where(better, new[2], squares)
        damping = np.where(better, np.maximum(damping / 4, 1e-12), damping * 5)
        still = np.where(gained > 1e-7 * squares, 0, still + better)
        going = (still < 3) & (damping < 1e7) & (squares > nothing)
        if not going.all():
            ends[alive], least[alive] = theta, squares
            alive, theta, kappa, residual = alive[going], theta[going], kappa[going], residual[going]
            slopes, squares, damping, still = slopes[going], squares[going], damping[going], still[going]
            if not len(alive):
                break
    ends[alive], least[alive] = theta, squares
    return ends, least


def starts(data: Data) -> np.ndarray:
    """Points to begin from: floors, exponents and shares that published fits span; k's from the size of the fall."""
    top = float(data.loss_C.max())
    made = []
    for floor in (0.1, 0.8):
        for r in (0.3, 0.8):
            for beta in (0.15, 0.6):
                e = floor * float(data.loss_C.min())
                reach = (float(data.loss_C.min()) - e) ** (-1 / beta)
                base = (top - e) ** (-1 / beta)
                share_r = (r - R_LEAST) / (1 - R_LEAST)
                share_beta = np.log(beta / BETA_LEAST) / np.log(BETA_MOST / BETA_LEAST)
                k = np.log(np.full(data.tokens_CJ.shape[1], max(reach - base, 1e-9) / 2))
                logits = [np.log(share / (1 - share)) for share in (floor, share_r, share_beta)]
                made.append([*logits, np.log(base / 2), *k])
    return np.array(made)


class Profile(NamedTuple):
    """Along κ: the least weighted squares with everything else free, and where they are reached."""

    kappas: np.ndarray
    losses: np.ndarray
    thetas: np.ndarray


def profile(data: Data) -> Profile:
    kappas, first = grid(), starts(data)
    found = fitted(kappas, np.tile(first, (len(kappas), 1, 1)), data)
    for _ in range(3):  # each κ from its neighbours' ends as well
        near = np.clip(np.arange(len(kappas))[:, None] + [-1, 0, 1], 0, len(kappas) - 1)
        found = fitted(kappas, found.thetas[near], data)
    return found


def fitted(kappas: np.ndarray, starts_GMK: np.ndarray, data: Data) -> Profile:
    """Each κ of the grid from each of its M starts; the best is kept."""
    g, m, k = starts_GMK.shape
    theta, squares = descend(starts_GMK.reshape(g * m, k), np.repeat(kappas, m), data)
    best = squares.reshape(g, m).argmin(1)
    return Profile(kappas, squares.reshape(g, m).min(1), theta.reshape(g, m, k)[np.arange(g), best])


def refined(found: Profile, data: Data, limit: float, rounds: int = 2, points: int = 4) -> Profile:
    """More κ where it matters: on both sides of the best, and where the excess passes the limit."""
    for _ in range(rounds):
        kappas, best = found.kappas, int(found.losses.argmin())
        inside = np.flatnonzero(found.losses - found.losses[best] <= limit)
        places = {best - 1, best, int(inside[0]) - 1, int(inside[-1])} & set(range(len(kappas) - 1))
        left = np.repeat(sorted(places), points)
        share = np.tile(np.arange(1, points + 1) / (points + 1), len(places))
        new = kappas[left] + share * (kappas[left + 1] - kappas[left])
        more = fitted(new, np.stack([found.thetas[left], found.thetas[left + 1]], axis=1), data)
        joined = Profile(*(np.concatenate(pair) for pair in zip(found, more)))
        order = np.argsort(joined.kappas)
        found = Profile(*(column[order] for column in joined))
    return found
