"""A surface over the cells of a factorial, T = base + α·s_c + β·s_m + γ·s_c·s_m (+ φ·s_f), and what contrasts vary by.

Everything that is said about a factorial is a linear combination of cell means on some scale: γ, an order effect, the
effect of one source at one dose of the other. `Cells.contrast` gives each of them the same three kinds of interval.
Letters: C cells, S seeds, P items, K terms of the surface.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from curricle.analysis.finding import ACCURACY, THESE_PROBLEMS, THESE_WEIGHTS, THIS_STRATEGY
from curricle.analysis.rows.cells import Cell, Factorial
from curricle.analysis.statistics.intervals import NEGLIGIBLE, Estimate
from curricle.analysis.statistics.spread import Spread, spread_within
from curricle.study import Refused

TERMS = ("base", "alpha", "beta", "gamma", "phi")
LACK = 0.05  # the p below which cells are said not to lie on T, and γ is refused
POWER = 0.8  # of a design: it tells its smallest γ in 8 of 10 studies
MANY = 1e9  # degrees of freedom of a variance that is known, as a binomial's is


def power_needed(tested: bool) -> float:
    """What γ's test must have for `POWER` in all: where cells are tested for lying on T, which takes more of them than
    terms, `LACK` of sound studies lose their γ to chance."""
    return POWER / (1 - LACK) if tested else POWER


# ---- scales of scores ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Scale:
    """Scores to T, upwards meaning better, and back; `slope` is dT/dscore."""

    name: str
    to: Callable[[np.ndarray], np.ndarray]
    back: Callable[[np.ndarray], np.ndarray]
    slope: Callable[[np.ndarray], np.ndarray]


def raw(measure: str) -> Scale:
    """The measure itself, turned so that more is better."""
    sign = 1.0 if measure == ACCURACY else -1.0
    name = "points of accuracy" if measure == ACCURACY else f"{measure} saved"
    return Scale(name, lambda y: sign * y, lambda t: sign * t, lambda y: sign * np.ones_like(y))


def link(design: Factorial, guess: float, floor: float) -> Scale | str:
    """The scale of f: a logit over a guessing floor for accuracies, −ln(L − E) for losses; or why there is none.

    Where a run has all or no problems right, half a problem is added to both sides of every run's count. Where all runs
    of a cell have, that half problem would decide its logit, and there is no scale.
    """
    if not 0 <= guess < 1:
        raise Refused(f"guess: {guess!r}; give the accuracy without knowledge as a share, from 0 to below 1")
    if not 0 <= floor < math.inf:
        raise Refused(f"floor: {floor!r}; give a loss of 0 or more")
    scores = np.concatenate([cell.y_S for cell in design.cells])
    if design.measure != ACCURACY:
        if floor >= scores.min():
            return f"the loss floor {floor:g} is not below every loss (the least is {scores.min():.4g})"
        name = "−ln of the loss" if floor == 0 else f"−ln(loss − {floor:g})"
        return Scale(name, lambda y: -np.log(y - floor), lambda t: floor + np.exp(-t), lambda y: -1 / (y - floor))
    low, high, n = 100 * guess, 100.0, min(cell.items for cell in design.cells)
    shift = 0.0
    if scores.min() <= low or scores.max() >= high:
        stuck = [c for c in design.cells if len(c.y_S) > 1 and (c.y_S.max() <= low or c.y_S.min() >= high)]
        if stuck:
            return (
                f"{len(stuck)} of {len(design.cells)} cells have no run between {low:g} and {high:g} %, so their "
                "logits are not known; a loss tells such cells apart"
            )
        if not n:
            return "a run is at the floor or at 100 %, where a logit is infinite, and the number of problems is unknown"
        shift = 50 / n
        low, high = low - shift, high + shift
    if scores.min() <= low:
        return f"a run scores {scores.min():.3g} %, at or below the guessing floor of {100 * guess:g} %"
    name = "logit of accuracy" if guess == 0 else f"logit of accuracy over a guessing floor of {100 * guess:g} %"
    return Scale(
        name,
        lambda y: np.log((y - low) / (high - y)),
        lambda t: low + (high - low) / (1 + np.exp(-t)),
        lambda y: 1 / (y - low) + 1 / (high - y),
    )


# ---- doses --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Dose:
    """Tokens to s in [0, 1] over the measured range: log(1 + D/D₀), or D^r where `power` is given."""

    least: float
    most: float
    unit: float
    power: float | None = None

    def _effect(self, tokens: np.ndarray) -> np.ndarray:
        return np.log1p(tokens / self.unit) if self.power is None else (tokens / self.unit) ** self.power

    def __call__(self, tokens: np.ndarray | float) -> np.ndarray:
        low, high = self._effect(np.array([self.least, self.most]))
        return (self._effect(np.asarray(tokens, dtype=float)) - low) / (high - low)


def dose_of(levels: Sequence[float], power: float | None, unit: float | None) -> Dose:
    """Over these levels; the unit D₀ is the smallest positive one unless it is given."""
    if unit is not None and not 0 < unit < math.inf:
        raise Refused(f"dose_unit: {unit!r}; give tokens above 0")
    return Dose(min(levels), max(levels), unit or min(level for level in levels if level > 0), power)


# ---- cells on a scale ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Cells:
    """Cells on one scale: means, and the seeds' variance pooled over all of them."""

    cells: tuple[Cell, ...]
    scale: Scale
    means_C: np.ndarray
    counts_C: np.ndarray
    variances_C: np.ndarray  # of single runs; the pooled one where a cell has a single run
    pooled: float
    df: int
    uneven_p: float | None

    @property
    def sd(self) -> float | None:
        return math.sqrt(self.pooled) if self.df else None

    @property
    def spread(self) -> Spread:
        return Spread(self.pooled, self.df, self.variances_C, self.counts_C, self.uneven_p)

    def by_seeds(self, weights_C: np.ndarray) -> tuple[float, float]:
        """Variance of Σ w·mean over seeds and its degrees of freedom: pooled, or cell by cell (Satterthwaite) where the
        spreads differ and that interval is the wider one."""
        return self.spread.of(weights_C)

    def over_items(self, weights_C: np.ndarray) -> tuple[float, float, float, float] | None:
        """From scores item by item: variance over items of Σ w·mean for these weights, the part of it that the seeds'
        variance holds too, and both degrees of freedom. T is linearised at each cell's mean."""
        used = np.flatnonzero(weights_C)
        tables = [self.cells[k].y_SP for k in used]
        if any(table is None for table in tables) or len({table.shape[1] for table in tables if table is not None}) > 1:
            return None
        slopes = weights_C * self.scale.slope(np.array([cell.y_S.mean() for cell in self.cells]))
        total_P, shared, df = np.zeros(1), 0.0, 0
        for k, y_SP in zip(used, tables):
            if y_SP is None:
                continue
            s, n = y_SP.shape
            total_P = total_P + slopes[k] * y_SP.mean(0)
            if s > 1:
                rest = y_SP - y_SP.mean(0) - y_SP.mean(1, keepdims=True) + y_SP.mean()
                shared += slopes[k] ** 2 * float((rest**2).sum()) / ((n - 1) * (s - 1)) / (n * s)
                df += (n - 1) * (s - 1)
        n = len(total_P)
        return (float(total_P.var(ddof=1)) / n, shared, n - 1, max(df, 1)) if n > 1 else None

    def apart(self, weights_C: np.ndarray) -> float | None:
        """Variance over items if cells shared none: from each run's stated item variance. An upper bound in practice,
        since cells are scored on the same items and contrasts cancel what these have in common."""
        slopes = self.scale.slope(np.array([cell.y_S.mean() for cell in self.cells]))
        known = [cell.item_variance for cell, w in zip(self.cells, weights_C) if w]
        if any(v is None for v in known):
            return None
        each = np.array([cell.item_variance or 0.0 for cell in self.cells])
        return float(((weights_C * slopes) ** 2 * each).sum())

    def contrast(self, weights_C: np.ndarray) -> list[Estimate]:
        """Σ w·mean with each kind of "again" that the rows can carry, the widest claim first."""
        value = float(weights_C @ self.means_C)
        tiny = (NEGLIGIBLE * float(np.abs(self.means_C).max() or 1.0)) ** 2
        made: list[Estimate] = []
        items = self.over_items(weights_C)
        seeds, df = self.by_seeds(weights_C) if self.df else (0.0, 0.0)
        if seeds > tiny:
            if items:
                problems, both, df_items, df_rest = items
                total = max(seeds + problems - both, problems)
                unsure = seeds**2 / df + problems**2 / df_items + both**2 / df_rest
                made.append(Estimate(value, total, max(total**2 / unsure, 1.0), THIS_STRATEGY))
            made.append(Estimate(value, seeds, df, THESE_PROBLEMS))
        if items and items[0] > tiny:
            made.append(Estimate(value, items[0], items[2], THESE_WEIGHTS))
        elif not self.df and (alone := self.apart(weights_C)):
            made.append(Estimate(value, alone, MANY, THESE_WEIGHTS))
        return made or [Estimate(value, None, 1.0, THESE_PROBLEMS)]


def on(scale: Scale, cells: Sequence[Cell]) -> Cells:
    """Cells on a scale, every run taken there by itself."""
    runs = [scale.to(cell.y_S) for cell in cells]
    found = spread_within(runs)
    means_C = np.array([y_S.mean() for y_S in runs])
    return Cells(
        tuple(cells), scale, means_C, found.counts_C, found.variances_C, found.pooled, int(found.df), found.uneven_p
    )


def prefix_factor(weights_C: np.ndarray, same_CC: np.ndarray) -> float:
    """How many times as large the variance of a contrast could be because runs of one seed share a first stage, were
    all of their spread that stage's: 1 plus the products of weights of cells that do. Below 1 it could be smaller."""
    shared = weights_C @ (same_CC & ~np.eye(len(weights_C), dtype=bool)) @ weights_C
    return 1 + float(shared) / float((weights_C**2).sum())


# ---- the surface --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Surface:
    """T over the cells `used`, least squares with each run counted once."""

    cells: Cells
    used: np.ndarray
    coefficients: dict[str, float]
    weights: dict[str, np.ndarray]  # of all cells: a coefficient is Σ w·mean
    fitted_C: np.ndarray
    lack_p: float | None  # F test that the cells lie on such a surface

    def term(self, name: str) -> list[Estimate]:
        return self.cells.contrast(self.weights[name])


def terms(s_CK: Sequence[np.ndarray]) -> np.ndarray:
    """Columns 1, s_c, s_m, s_c·s_m and, where there is one, s_f."""
    s_c, s_m, *filler = s_CK
    return np.stack([np.ones_like(s_c), s_c, s_m, s_c * s_m, *filler], axis=1)


def fit(cells: Cells, used: Sequence[int], x_CK: np.ndarray) -> Surface | None:
    """None where these cells do not determine the terms."""
    here = np.array(used)
    x, n = x_CK[here], cells.counts_C[here]
    if not determined(x):
        return None
    root = np.sqrt(n)[:, None]
    inverse = np.linalg.pinv(root * x) * root[:, 0]
    y = cells.means_C[here]
    beta = inverse @ y
    weights = {}
    for name, row in zip(TERMS, inverse):
        weights[name] = np.zeros(len(cells.means_C))
        weights[name][here] = row
    lack_p = None
    spare = len(here) - x.shape[1]
    if spare > 0 and cells.df and cells.pooled > 0:
        from scipy.special import fdtrc

        residual = float((n * (y - x @ beta) ** 2).sum())
        lack_p = float(fdtrc(spare, cells.df, residual / spare / cells.pooled))
    return Surface(cells, here, dict(zip(TERMS, beta.tolist())), weights, x_CK @ beta, lack_p)


def determined(x_CK: np.ndarray) -> bool:
    """Whether least squares on these rows has one answer."""
    return len(x_CK) >= x_CK.shape[1] and bool(np.linalg.cond(x_CK) < 1e6)
