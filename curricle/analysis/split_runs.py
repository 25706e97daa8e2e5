"""A budget shared out over sources by what runs say of them: the law's worths and exponent, with their errors.

    split_of_runs(rows, budget=1e9)

L = E + A·(d + Σ w_j·x_j^r)^−β is fitted to the ends of strategies that read the sources in different doses, and the
budget is split so that the last token of each gives the same (allocation.py). A source read alone shows r·β and no
more, so runs that read several together are what tells r. Each share has an interval over draws of (w, r) from the
fit's covariance; the loss, and what the split gains over equal shares, have one by the delta method. All are widened by
what the law may miss without the strategies' showing it, the error of a difference of two of them. Letters: C cells
(strategies), J sources, K parameters.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from curricle.analysis.allocation import best_split, split
from curricle.analysis.finding import ACCURACY, THESE_PROBLEMS, Finding, Interval, Part, join, short
from curricle.analysis.rows.cells import SAME_DOSE, finite
from curricle.analysis.rows.columns import Row, items, known, the_one, typed
from curricle.analysis.rows.compare import UNITS
from curricle.analysis.rows.outcomes import DOSE
from curricle.analysis.statistics.intervals import student
from curricle.analysis.statistics.powerlaw import CLEAR, HOPELESS
from curricle.study import Refused
from curricle.values import plural

DRAWS = 400
OWN = 5  # E, ln A, ln β, logit r, d; then a worth for each source
MOST_LOGIT = 4.0  # of r: from .02 to .98
NOTHING = 1e-5  # of d beside the largest worth, and of E: held at 0


@dataclass(frozen=True, slots=True)
class SplitLaw:
    """θ = (E, ln A, ln β, logit r, d, w…), tokens in units of `scale`, the largest worth 1 and held there."""

    theta_K: np.ndarray
    covariance_KK: np.ndarray
    df: float
    scale: float
    lack_p: float | None  # F test that the cells lie on such a law; None where runs do not tell their noise
    error: float  # of the difference of two strategies' means

    @property
    def worth_J(self) -> np.ndarray:
        return self.theta_K[OWN:]

    @property
    def r(self) -> float:
        return float(expit(self.theta_K[3]))

    def predicted(self, x_J: np.ndarray, minus: np.ndarray | None = None) -> tuple[float, float]:
        """The loss at these doses (less that at others), and its standard error."""
        value, slope = model(self.theta_K, x_J[None] / self.scale)
        if minus is not None:
            other, its = model(self.theta_K, minus[None] / self.scale)
            value, slope = value - other, slope - its
        return float(value[0]), math.sqrt(max(float(slope[0] @ self.covariance_KK @ slope[0]), 0.0))

    def draws(self, count: int) -> list[tuple[np.ndarray, float]]:
        """Worths and exponents that the runs allow, t-distributed; a worth below 0 is one of 0."""
        random = np.random.default_rng(0)
        part = np.r_[3, OWN : len(self.theta_K)]
        values, vectors = np.linalg.eigh(self.covariance_KK[np.ix_(part, part)])
        root = vectors * np.sqrt(np.maximum(values, 0.0))
        wide = np.sqrt(self.df / random.chisquare(self.df, count)) if math.isfinite(self.df) else np.ones(count)
        drawn = self.theta_K[part] + (random.standard_normal((count, len(part))) @ root.T) * wide[:, None]
        r = expit(np.clip(drawn[:, 0], -MOST_LOGIT, MOST_LOGIT))
        return [(w, float(each)) for w, each in zip(np.maximum(drawn[:, 1:], 0.0), r) if w.any()]


def expit(x: np.ndarray | float) -> np.ndarray:
    return 1 / (1 + np.exp(-np.asarray(x, dtype=float)))


def model(theta_K: np.ndarray, z_CJ: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Losses (C) and their gradient in θ (C × K)."""
    floor, amplitude, beta, r = theta_K[0], math.exp(theta_K[1]), math.exp(theta_K[2]), float(expit(theta_K[3]))
    there = z_CJ > 0
    logs = np.log(np.where(there, z_CJ, 1.0))
    powers = np.where(there, np.exp(r * logs), 0.0)
    s = np.maximum(theta_K[4] + powers @ theta_K[OWN:], 1e-12)
    above = amplitude * s**-beta
    by_s = -beta * above / s
    gradient = np.empty((len(z_CJ), len(theta_K)))
    gradient[:, 0], gradient[:, 1], gradient[:, 2] = 1.0, above, -beta * above * np.log(s)
    gradient[:, 3] = by_s * ((powers * logs) @ theta_K[OWN:]) * r * (1 - r)
    gradient[:, 4] = by_s
    gradient[:, OWN:] = by_s[:, None] * powers
    return floor + above, gradient


def fit_split(x_CJ: np.ndarray, y_C: list[np.ndarray]) -> SplitLaw:
    """Least squares on the cells' means from several starts, E ≥ 0 and every worth ≥ 0, the largest worth 1. The noise
    is that of runs within cells; where the cells leave the law by more, or no cell has two runs, what they leave."""
    from scipy.optimize import least_squares
    from scipy.special import fdtrc

    scale = float(x_CJ.sum(1).max())
    z, sources = x_CJ / scale, x_CJ.shape[1]
    mean_C, n_C = np.array([y.mean() for y in y_C]), np.array([float(len(y)) for y in y_C])
    root, size = np.sqrt(n_C), OWN + sources
    free = np.array([k for k in range(size) if k != OWN])
    logged = free >= 4  # d and the worths, by their logarithms

    def whole(some: np.ndarray) -> np.ndarray:
        theta = np.ones(size)
        theta[free] = np.where(logged, np.exp(np.where(logged, some, 0.0)), some)
        return theta

    def off(some: np.ndarray) -> np.ndarray:
        return root * (model(whole(some), z)[0] - mean_C)

    def slopes(some: np.ndarray) -> np.ndarray:
        theta = whole(some)
        return root[:, None] * model(theta, z)[1][:, free] * np.where(logged, theta[free], 1.0)

    least = np.array([0.0, -15.0, math.log(0.02), -MOST_LOGIT, *[-14.0] * sources])
    most = np.array([float(mean_C.min()), 15.0, math.log(6.0), MOST_LOGIT, *[7.0] * sources])
    starts = [
        np.array([e * mean_C.min(), math.log(mean_C.mean() - e * mean_C.min()), math.log(beta), logit, -1.5,
                  *[0.0] * (sources - 1)])
        for e in (0.3, 0.85) for beta in (0.2, 0.8) for logit in (-0.8, 0.8)
    ]  # fmt: skip

    def descended(start: np.ndarray, rounds: int) -> Any:
        inside = np.clip(start, least + 1e-6, most - 1e-6)
        return least_squares(off, inside, slopes, bounds=(least, most), x_scale="jac", max_nfev=rounds)

    near = sorted((descended(start, 25) for start in starts), key=lambda each: each.cost)
    best = min((descended(each.x, 150) for each in near[:2]), key=lambda each: each.cost)
    theta = whole(best.x)
    top = int(theta[OWN:].argmax())  # that worth becomes 1: the same law in other units
    theta[1] -= math.exp(theta[2]) * math.log(theta[OWN + top])
    theta[4:] = theta[4:] / theta[OWN + top]
    theta[[0, 4]] = np.where(theta[[0, 4]] < NOTHING, 0.0, theta[[0, 4]])
    apart = np.array([k for k in range(size) if k != OWN + top and not (k in (0, 4) and theta[k] == 0)])
    fitted, gradient = model(theta, z)
    misfit, within = float((n_C * (mean_C - fitted) ** 2).sum()), float(sum(((y - y.mean()) ** 2).sum() for y in y_C))
    spare, df = max(len(y_C) - (size - 1), 1), int(n_C.sum()) - len(y_C)
    variance, lack_p = misfit / spare, None
    if df and within > 0:
        lack_p = float(fdtrc(spare, df, misfit / spare / (within / df)))
        variance, df = (within / df, df) if lack_p >= CLEAR else (misfit / spare, spare)
    else:
        df = spare
    jac = root[:, None] * gradient[:, apart]
    lengths = np.maximum(np.sqrt((jac**2).sum(0)), 1e-300)
    covariance = np.zeros((size, size))
    inverse = np.linalg.pinv((jac / lengths).T @ (jac / lengths), rcond=1e-13)
    covariance[np.ix_(apart, apart)] = variance * inverse / np.outer(lengths, lengths)
    return SplitLaw(theta, covariance, float(df), scale, lack_p, math.sqrt(2 * variance / float(np.median(n_C))))


def as_good(law: SplitLaw, sources: Sequence[str], x_J: np.ndarray, most: Mapping[str, float]) -> np.ndarray:
    """The least and the most tokens of each source (2 × J) with which the loss, the others shared out anew, is within
    `law.error` of that of the split `x_J`. A law that is wrong by no more than strategies show may have its best split
    anywhere there."""
    best, size = law.predicted(x_J)[0], float(x_J.sum())
    found = np.stack([x_J, x_J])
    for j, name in enumerate(sources):
        others = {other: w for other, w in zip(sources, law.worth_J.tolist()) if other != name}

        def excess(x: float, name: str = name, others: Mapping[str, float] = others) -> float:
            given = {name: x}
            if x < size and any(others.values()):
                given |= split(others, law.r, size - x, most=most)
            return law.predicted(np.array([given.get(each, 0.0) for each in sources]))[0] - best - law.error

        for side, end in enumerate((0.0, min(size, most.get(name, math.inf)))):
            near, far = float(x_J[j]), end
            if excess(far) > 0:
                for _ in range(40):
                    middle = (near + far) / 2
                    near, far = (middle, far) if excess(middle) <= 0 else (near, middle)
                far = near
            found[side, j] = far
    return found


def split_of_runs(
    rows: Sequence[Row], budget: float | None = None, most: Mapping[str, float] | None = None, level: float = 0.95
) -> Finding:
    """The equal-marginal split of `budget` tokens (by default what the longest strategy read of these sources), with at
    most `most` of a source. The estimate is the loss that the law says of it; `table` has each source's share with its
    interval, `parts` what the split gains over equal shares.

    Columns: strategy, seed, score (a loss), `final` and `dose:SOURCE`. Sources whose dose is the same everywhere are no
    part of the split. Orders are not told apart: what an order does counts as misfit. Raises `Refused` where nothing
    was read together, or in too few doses; undefined where the strategies follow no such law.
    """
    rows = [row for row in typed(rows) if row.get("final", True)]
    known(rows, "strategy", "seed", "score")
    for name in ("benchmark", "measure"):
        the_one(rows, name)
    if rows[0].get("measure") == ACCURACY:
        raise Refused("measure: a split rests on a law of the loss, which accuracy does not follow")
    sources, x_CJ, y_C = cells_of(rows)
    about = Finding(
        "split", "", str(rows[0].get("measure", "loss")), str(rows[0].get("benchmark", "")), None,
        UNITS.get(str(rows[0].get("measure")), "loss"), n=items(rows), seeds=min(map(len, y_C)), undefined="",
    )  # fmt: skip
    law = fit_split(x_CJ, y_C)
    size = float(x_CJ.sum(1).max()) if budget is None else budget
    about = replace(about, subject=f"{short(size)} tokens over {', '.join(sources)}")
    if law.lack_p is not None and law.lack_p < HOPELESS:
        why = f"the strategies do not follow a law of effective tokens (p = {law.lack_p:.1g})"
        return replace(about, undefined=why, parts={"budget": size, "lack_of_fit_p": law.lack_p})
    draws = [(dict(zip(sources, worth.tolist())), r) for worth, r in law.draws(DRAWS)]
    shared = best_split(dict(zip(sources, law.worth_J.tolist())), law.r, size, most=most, draws=draws, level=level)
    x_J = np.array([float(row["tokens"] or 0.0) for row in shared.table])
    spent = float(x_J.sum())
    reach_2J = as_good(law, sources, x_J, most or {}) / spent
    rows_J: list[dict[str, Part]] = [
        {**row, "low": min(float(row["low"] or 0), low), "high": max(float(row["high"] or 0), high)}
        for row, low, high in zip(shared.table, *reach_2J.tolist())
    ]
    equal_J = np.full(len(sources), size / len(sources))
    quantile = float(student(law.df, level))
    (loss, error), (gain, gain_error) = law.predicted(x_J), law.predicted(x_J, minus=equal_J)
    # A law that is wrong by less than strategies show is off by as much as one of their means here, or two of them.
    error, gain_error = math.hypot(error, law.error / math.sqrt(2)), math.hypot(gain_error, law.error)
    largest = x_CJ.max(0) * (1 + SAME_DOSE)
    beyond = [name for name, x, top in zip(sources, x_J, largest) if x > top]
    told = any(not float(row["low"] or 0) <= 1 / len(sources) <= float(row["high"] or 0) for row in rows_J)
    parts: dict[str, Part] = {
        **shared.parts, "gain": gain, "gain_low": gain - quantile * gain_error,
        "gain_high": gain + quantile * gain_error,
        "lack_of_fit_p": law.lack_p, "floor": float(law.theta_K[0]), "exponent": math.exp(law.theta_K[2]), "df": law.df,
        **{f"worth:{name}": w for name, w in zip(sources, law.worth_J.tolist())},
    }  # fmt: skip
    note = join([
        f"Against equal shares: {gain:+.3g}, {parts['gain_low']:+.3g} to {parts['gain_high']:+.3g}.",
        "" if told else "No share is told from an equal one.",
        f"The law does not fit (p = {law.lack_p:.2g}), so intervals rest on the misfit."
        if law.lack_p is not None and law.lack_p < CLEAR else "",
        "One run each: the noise is what the runs leave of the law." if about.seeds == 1 else "",
        f"More of {', '.join(beyond)} than any run read." if beyond else "",
        f"The sources hold {short(x_J.sum())} tokens, and no more is shared out." if x_J.sum() < 0.999 * size else "",
    ])  # fmt: skip
    interval = Interval(loss - quantile * error, loss + quantile * error, THESE_PROBLEMS, level)
    return replace(
        about, estimate=loss, undefined=None, intervals=(interval,), parts=parts, table=tuple(rows_J), note=note
    )


def cells_of(rows: Sequence[Row]) -> tuple[list[str], np.ndarray, list[np.ndarray]]:
    """Sources whose doses vary, the doses of each strategy, and its scores."""
    named = sorted({key for row in rows for key in row if key.startswith(DOSE)})
    by: dict[str, list[Row]] = {}
    for row in rows:
        by.setdefault(str(row["strategy"]), []).append(row)
    x = np.array([[finite({**of[0], key: of[0].get(key) or 0.0}, key, least=0) for key in named] for of in by.values()])
    top = x.sum(1).max(initial=0.0)
    varied = [j for j in range(len(named)) if np.ptp(x[:, j]) > SAME_DOSE * top]
    sources, x_CJ = [named[j].removeprefix(DOSE) for j in varied], x[:, varied]
    if len(sources) < 2:
        some = f"{plural(len(sources), 'source')} {'was' if len(sources) == 1 else 'were'}"
        raise Refused(f"{some} read in doses that vary; a budget is shared out over two or more")
    if ((x_CJ > 0).sum(1) > 1).sum() < 2:
        raise Refused(
            "each strategy read one of the sources alone: that shows how fast the loss falls with each, but not what "
            "they are worth together; strategies that read several in different doses show it"
        )
    need = OWN + len(sources)
    different = len(np.unique(np.round(x_CJ / top, 2), axis=0))
    if different < need:
        raise Refused(f"{different} strategies of different doses; a law of {len(sources)} sources takes {need}")
    return sources, x_CJ, [np.array([finite(row, "score") for row in of]) for of in by.values()]
