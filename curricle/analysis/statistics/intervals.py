"""Intervals for paired scores of s seeds on n shared items: each kind of "again" has one, and its name.

Letters: S seeds, P problems (items). A difference is d_si = μ + P_i + S_s + ε_si (docs/theory.md, section 0). The
three kinds of interval are three sums of the same mean squares, which is why a ratio (Fieller) and a difference share
one machinery. Promises: nothing here divides by zero or returns a number that is not finite; where
the data cannot carry an interval there is none, and the note says why.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import NamedTuple

import numpy as np

from curricle.analysis.finding import KINDS, NO_INTERVAL, THESE_PROBLEMS, THESE_WEIGHTS, THIS_STRATEGY, Interval

NOTHING_TO_DIVIDE_BY = "P₁ = 0: there is nothing to divide by."
NEGLIGIBLE = 1e-12  # a standard error below this share of the data's size is rounding, not variation


class Ratio(NamedTuple):
    """A relative change in percent with its interval; `percent` is None where it is undefined."""

    percent: float | None
    interval: Interval | None
    note: str


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean, the variance of that mean (None where it cannot be known) and its degrees of freedom."""

    value: float
    variance: float | None
    df: float
    kind: str
    note: str = ""

    def interval(self, level: float = 0.95) -> Interval | None:
        if self.variance is None:
            return None
        half = float(student(self.df, level)) * math.sqrt(self.variance)
        return Interval(self.value - half, self.value + half, self.kind, level)

    @property
    def p_value(self) -> float | None:
        """Two-sided t test of a mean of 0."""
        if self.variance is None:
            return None
        from scipy.special import stdtr

        return float(min(1.0, 2 * stdtr(self.df, -abs(self.value) / math.sqrt(self.variance))))


def student(df: np.ndarray | float, level: float) -> np.ndarray:
    """The two-sided quantile of Student's t; `df` need not be whole."""
    from scipy.special import stdtrit  # scipy.stats takes a second to import, and this is all that is needed of it

    return stdtrit(df, (1 + level) / 2)


def normal(level: float) -> float:
    return NormalDist().inv_cdf((1 + level) / 2)


# ---- a mean over seeds and problems -------------------------------------------------------------------------------


def mean_products(a_SP: np.ndarray, b_SP: np.ndarray) -> np.ndarray:
    """Mean products of two tables, for problems, seeds and the rest: [MP_P, MP_S, MP_E]; mean squares where a is b.

    They are bilinear, so variances of linear combinations follow without computing anything again. What has no
    degrees of freedom (one seed, one problem) is 0.
    """
    s, n = a_SP.shape
    a, b = a_SP - a_SP.mean(), b_SP - b_SP.mean()
    a_P, b_P, a_S, b_S = a.mean(0), b.mean(0), a.mean(1), b.mean(1)
    problems, seeds = s * (a_P @ b_P), n * (a_S @ b_S)
    rest = ((a - a_P - a_S[:, None]) * (b - b_P - b_S[:, None])).sum()
    return np.array([problems, seeds, rest]) / np.maximum(degrees(s, n), 1)


def degrees(s: int, n: int) -> np.ndarray:
    return np.array([n - 1, s - 1, (n - 1) * (s - 1)])


def impossible(s: int, n: int, kind: str) -> str:
    """Why a table of s seeds and n items cannot carry an interval of this kind; empty where it can."""
    if s < 2 and kind != THESE_WEIGHTS:
        return f"One seed: nothing can be said about another run, {NO_INTERVAL}{kind}."
    if n < 2 and kind != THESE_PROBLEMS:
        return f"One item: nothing can be said about other items, {NO_INTERVAL}{kind}."
    return ""


def spread(squares: np.ndarray, s: int, n: int, kind: str) -> tuple[np.ndarray, np.ndarray]:
    """Variance of the grand mean and its degrees of freedom (Satterthwaite 1946, at least 1), from [MS_P, MS_S, MS_E];
    further axes are kept.

    Where the crossed sum would fall below MS_P (the seeds' variance is estimated as negative), that variance is taken
    as 0, so that the interval for a strategy never rests on a smaller standard error than the one for these weights.
    In simulation this holds .93 or more at 3 seeds, as the plain sum does, and is shorter where problems are few. All
    three mean squares count for the degrees of freedom, since the choice to leave two out was estimated too.
    """
    problems, seeds, rest = squares
    by_kind = {THIS_STRATEGY: problems + np.maximum(seeds - rest, 0.0), THESE_WEIGHTS: problems, THESE_PROBLEMS: seeds}
    counted = {THIS_STRATEGY: (1, 1, 1), THESE_WEIGHTS: (1, 0, 0), THESE_PROBLEMS: (0, 1, 0)}[kind]
    total = by_kind[kind]
    uncertainty = sum(c * square**2 / max(df, 1) for c, square, df in zip(counted, squares, degrees(s, n)))
    with np.errstate(invalid="ignore", divide="ignore"):
        df = np.where(uncertainty > 0, total**2 / uncertainty, 1.0)
    return total / (n * s), np.maximum(df, 1.0)


def estimate(d_SP: np.ndarray, kind: str) -> Estimate:
    """The mean of a table (seeds × items) with the variance that belongs to this kind of "again"."""
    d_SP = as_table(d_SP)
    s, n = d_SP.shape
    mean = float(d_SP.mean())
    why = impossible(s, n, kind)
    if why:
        return Estimate(mean, None, 1.0, kind, why)
    variance, df = (float(x) for x in spread(mean_products(d_SP, d_SP), s, n, kind))
    if math.sqrt(max(variance, 0.0)) <= NEGLIGIBLE * float(np.abs(d_SP).max()):
        among = {THESE_WEIGHTS: "items", THESE_PROBLEMS: "seeds"}.get(kind, "items or seeds")
        return Estimate(mean, None, 1.0, kind, f"No variation among {among}, so no interval for {kind}.")
    return Estimate(mean, variance, df, kind)


def crossed(d_SP: np.ndarray) -> Estimate:
    """Problems and seeds both vary: V̂ = (MS_P + MS_S − MS_E)/(ns), never below MS_P/(ns), Satterthwaite's df ≥ 1."""
    return estimate(d_SP, THIS_STRATEGY)


def over_problems(d_SP: np.ndarray) -> Estimate:
    """Problems vary, these weights stay: a paired t over items, seeds averaged."""
    return estimate(d_SP, THESE_WEIGHTS)


def over_seeds(d_SP: np.ndarray) -> Estimate:
    """Seeds vary, these problems stay: a t over the seeds' means."""
    return estimate(d_SP, THESE_PROBLEMS)


def estimates(d_SP: np.ndarray) -> list[Estimate]:
    """One estimate of each kind: this strategy, these weights, these problems."""
    return [estimate(d_SP, kind) for kind in KINDS]


def as_table(d_SP: np.ndarray) -> np.ndarray:
    table = np.asarray(d_SP, dtype=float)
    if table.ndim != 2 or not table.size or not np.isfinite(table).all():
        raise ValueError(f"expected finite scores as seeds × items, got shape {table.shape}")
    return table


def bits_per_byte(nats_SP: np.ndarray, bytes_P: np.ndarray) -> np.ndarray:
    """Bits per byte as one value per seed and item, so that means, differences and intervals apply to it.

    Bits per byte is a ratio of sums, B = Σ nats / (ln 2 · Σ bytes). Its linearisation gives item i the value
    (nats_i/ln 2 − B·bytes_i)/mean bytes + B: the mean over items is each seed's ratio exactly, and the spread over
    items is that of the ratio to first order (Cochran 1977, section 2.11).
    """
    mean_bytes = bytes_P.mean()
    bits_SP = nats_SP / math.log(2) / mean_bytes
    return bits_SP + bits_SP.mean() * (1 - bytes_P / mean_bytes)


# ---- ratios -------------------------------------------------------------------------------------------------------


def fieller(before_SP: np.ndarray, after_SP: np.ndarray, kind: str = THIS_STRATEGY, level: float = 0.95) -> Ratio:
    """ΔP = (P₂ − P₁)/P₁ in percent, with Fieller's interval (1954): every ratio ρ ≥ 0 at which the table
    y₂ − ρ·y₁ is not told from 0 by this kind's own t test, variance and degrees of freedom taken at that ρ.

    So it leaves out 0 % only where the interval of the difference leaves out 0. (With the degrees of freedom fixed at
    the estimated ratio, which would make this a quadratic, it can claim a gain that the difference does not.) Where
    the accepted ratios come in pieces, as they can when P₁ is barely told from 0, the interval spans them all.
    Unbounded where P₁ is not told from 0; undefined at P₁ = 0. Scores are taken as not negative.
    """
    before_SP, after_SP = as_table(before_SP), as_table(after_SP)
    if before_SP.shape != after_SP.shape:
        raise ValueError(f"the two tables differ in shape: {before_SP.shape} and {after_SP.shape}")
    s, n = before_SP.shape
    p1, p2 = float(before_SP.mean()), float(after_SP.mean())
    if p1 == 0:
        return Ratio(None, None, NOTHING_TO_DIVIDE_BY)
    percent = 100 * (p2 - p1) / p1
    residual = estimate(after_SP - (p2 / p1) * before_SP, kind)
    if residual.variance is None:
        return Ratio(percent, None, residual.note)
    pairs = ((before_SP, before_SP), (before_SP, after_SP), (after_SP, after_SP))
    m11, m12, m22 = (mean_products(a, b)[:, None] for a, b in pairs)

    def excess(angle: np.ndarray) -> np.ndarray:
        """How far the t test of cos·y₂ − sin·y₁ is past its limit: at most 0 where ρ = tan(angle) is accepted."""
        c, d = np.cos(angle), np.sin(angle)
        squares = np.maximum(c * c * m22 - 2 * c * d * m12 + d * d * m11, 0.0)  # below 0 only by rounding
        variance, df = spread(squares, s, n, kind)
        return np.abs(c * p2 - d * p1) - student(df, level) * np.sqrt(variance)

    estimated = math.atan2(p2, p1)
    low = _outermost(excess, estimated, 0.0)
    high = _outermost(excess, estimated, math.pi / 2)
    bounds = (None if low is None else 100 * (math.tan(low) - 1), None if high is None else 100 * (math.tan(high) - 1))
    if high is None:  # ρ = ∞ is accepted: P₁ itself is not told from 0
        return Ratio(percent, Interval(bounds[0], None, kind, level), unbounded(kind))
    return Ratio(percent, Interval(-100.0 if bounds[0] is None else bounds[0], bounds[1], kind, level), "")


def _outermost(excess: Callable[[np.ndarray], np.ndarray], inside: float, end: float) -> float | None:
    """The accepted angle that lies farthest from `inside` towards `end`; None where the end itself is accepted."""
    angles = np.linspace(inside, end, 512)
    accepted = np.flatnonzero(excess(angles) <= 0)
    last = int(accepted[-1]) if len(accepted) else 0  # the estimate is accepted but for rounding
    if last == len(angles) - 1:
        return None
    near, far = angles[last], angles[last + 1]
    for _ in range(60):
        middle = (near + far) / 2
        near, far = (middle, far) if excess(np.array([middle]))[0] <= 0 else (near, middle)
    return float(near)


def fieller_proportions(p1: float, n1: int, p2: float, n2: int, level: float = 0.95) -> Ratio:
    """The same for two published proportions (0 to 1), taken as independent binomials with the normal quantile: the
    ρ ≥ 0 that solve (p₂ − ρp₁)² ≤ z²(v₂ + ρ²v₁)."""
    variances = binomial_variance(p1, n1, level), binomial_variance(p2, n2, level)
    return fieller_moments(p1, p2, variances[0], 0.0, variances[1], normal(level), THESE_WEIGHTS, level)


def fieller_moments(
    p1: float, p2: float, v11: float, v12: float, v22: float, quantile: float, kind: str, level: float = 0.95
) -> Ratio:
    """The same for two means with the (co)variances of those means: the ρ ≥ 0 that solve
    (p₂ − ρp₁)² ≤ q²(v₂₂ − 2ρv₁₂ + ρ²v₁₁)."""
    if p1 == 0:
        return Ratio(None, None, NOTHING_TO_DIVIDE_BY)
    percent, q = 100 * (p2 - p1) / p1, quantile**2
    a, b, c = p1**2 - q * v11, p1 * p2 - q * v12, p2**2 - q * v22
    root = math.sqrt(max(b * b - a * c, 0.0))
    if a > 0:
        low, high = max((b - root) / a, 0.0), (b + root) / a
        return Ratio(percent, Interval(100 * (low - 1), 100 * (high - 1), kind, level), "")
    # ρ = ∞ is accepted. Where ρ = 0 is not (P₂ is told from 0), there is still a lower limit.
    lowest = 100 * ((b - root) / a - 1) if c > 0 and a < 0 else None
    return Ratio(percent, Interval(lowest, None, kind, level), unbounded(kind))


def unbounded(kind: str) -> str:
    return f"Unbounded for {kind}: the score divided by is not told from 0."


# ---- proportions and many tests -----------------------------------------------------------------------------------


def binomial_variance(p: float, n: int, level: float = 0.95) -> float:
    """p(1−p)/n; at 0 and 1, where that is 0, with Wilson's centre in place of p."""
    if p in (0.0, 1.0):
        z = normal(level)
        p = (p * n + z * z / 2) / (n + z * z)
    return p * (1 - p) / n


def wilson(p: float, n: int, level: float = 0.95) -> Interval:
    """Wilson's interval (1927) for a proportion p (0 to 1) of n problems."""
    z = normal(level)
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    # At 0 and 1 a limit equals p but for rounding.
    return Interval(min(p, max(0.0, centre - half)), max(p, min(1.0, centre + half)), THESE_WEIGHTS, level)


def ranked(values: np.ndarray) -> np.ndarray:
    """Ranks from 1, ties sharing their mean."""
    _, where, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[where]


def rank_correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Spearman's ρ, ties sharing their mean rank; 0 where all values of one are equal."""
    x, y = (ranked(values) - (len(values) + 1) / 2 for values in (a, b))
    size = math.sqrt(float(x @ x) * float(y @ y))
    return float(x @ y) / size if size else 0.0


FEWEST_RANKED = 5  # candidates for a rank correlation with an interval


def spearman_interval(rho: float, n: int, kind: str, level: float = 0.95) -> Interval | None:
    """An interval for Spearman's ρ over n candidates: Fisher's transformation with the variance (1 + ρ²/2)/(n − 3) of
    Bonett and Wright (2000), Student's quantile on n − 2 degrees of freedom, and |ρ| = 1 taken as half way to the next
    value that ranks can have. None with fewer than `FEWEST_RANKED`: of 4 candidates no such interval holds its level.
    """
    if n < FEWEST_RANKED:
        return None
    most = 1 - 6 / (n**3 - n)
    z = math.atanh(min(max(rho, -most), most))
    half = float(student(n - 2, level)) * math.sqrt((1 + rho * rho / 2) / (n - 3))
    return Interval(min(rho, math.tanh(z - half)), max(rho, math.tanh(z + half)), kind, level)


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Holm's step-down adjustment (1979), in the order given; None stays None and is not counted."""
    known = sorted((p, k) for k, p in enumerate(p_values) if p is not None)
    adjusted: list[float | None] = [None] * len(p_values)
    running = 0.0
    for rank, (p, k) in enumerate(known):
        running = max(running, min(1.0, p * (len(known) - rank)))
        adjusted[k] = running
    return adjusted
