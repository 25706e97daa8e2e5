"""How far runs of one kind lie apart, pooled over kinds, and how large an effect such a spread lets be seen.

Every question that judges a contrast of runs by their seeds takes its variance from one of two places: runs about the
mean of their own cell, or, where every cell has the same seeds, what cells and seeds do not explain of their table.
Either pools over cells, which need not scatter alike: `Spread` judges a contrast by its own cells where they may not.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

UNEVEN = 0.2  # Bartlett's p below which spreads are not taken as one; few seeds give that test little power
LEAST_OWN = 0.1  # of the pooled variance: a cell's own, told apart from what seeds share, may come out at 0 or below


def within(cells: Sequence[np.ndarray]) -> tuple[float, int]:
    """The variance of one run about the mean of its cell, pooled over cells, and its degrees of freedom; 0 and 0 where
    no cell has two runs."""
    df = sum(len(y) - 1 for y in cells)
    return (sum(float(((y - y.mean()) ** 2).sum()) for y in cells) / df, df) if df else (0.0, 0)


def two_way(y_CS: np.ndarray) -> tuple[float, int]:
    """The variance of one run beyond what its cell and its seed say, and its degrees of freedom, from cells × seeds (or
    turned round). What a seed shares with every cell is no part of it, as it drops out of any contrast. 0 and 0 for one
    cell or one seed."""
    c, s = y_CS.shape
    df = (c - 1) * (s - 1)
    rest = y_CS - y_CS.mean(0) - y_CS.mean(1, keepdims=True) + y_CS.mean()
    return (float((rest**2).sum()) / df, df) if df else (0.0, 0)


def of_runs(
    y_N: np.ndarray, cell_N: np.ndarray, run_N: np.ndarray, level: float = 0.95
) -> tuple[float, float, float] | None:
    """The variance of one run about the mean of its cell, as `within` has it, with its limits where a run has a point
    in several cells; None where no cell has two points.

    Points of one run share its luck, so three runs scored at eight places are nearer to 2 degrees of freedom than to
    16. The variance is a sum of two mean squares, between runs and what is left, each with its share and its degrees
    of freedom: (MS_run + (X − 1)·MS_rest)/X where every run has all X cells. Its limits are those of Graybill and Wang
    (1980), each mean square's own distances by χ² in quadrature. Satterthwaite's single χ² held .87 where three runs
    differ in little but their luck (docs/theory.md, section 8)."""
    from scipy.special import chdtri

    cells, runs = ((of_N[:, None] == np.unique(of_N)).astype(float) for of_N in (cell_N, run_N))
    df, squares = len(y_N) - cells.shape[1], _left(y_N, cells)
    if not df:
        return None
    both = np.hstack([cells, runs])
    rest_df = len(y_N) - int(np.linalg.matrix_rank(both))
    rest = _left(y_N, both) if rest_df else 0.0
    down = up = 0.0
    for part, its_df in ((max(squares - rest, 0.0), df - rest_df), (rest, rest_df)):
        if its_df:
            down += (part / df * (1 - its_df / chdtri(its_df, (1 - level) / 2))) ** 2
            up += (part / df * (its_df / chdtri(its_df, (1 + level) / 2) - 1)) ** 2
    variance = squares / df
    return variance, variance - down**0.5, variance + up**0.5


def _left(y_N: np.ndarray, columns: np.ndarray) -> float:
    """The sum of squares that a least squares fit of the columns leaves."""
    return float(((y_N - columns @ np.linalg.lstsq(columns, y_N, rcond=None)[0]) ** 2).sum())


def own_of(y_CS: np.ndarray) -> np.ndarray:
    """Each cell's own variance of one run beyond what its seed says (Grubbs 1948), at least a tenth of the pooled one.
    Of what a table leaves, each cell holds (1 − 2/C) of its own variance and 1/C of the mean one. Two cells cannot be
    told apart, and have the pooled one."""
    c, s = y_CS.shape
    pooled = two_way(y_CS)[0]
    if c < 3 or s < 2:
        return np.full(c, pooled)
    rest = y_CS - y_CS.mean(0) - y_CS.mean(1, keepdims=True) + y_CS.mean()
    left = (rest**2).sum(1) / (s - 1)
    return np.maximum((left - pooled / c) * c / (c - 2), LEAST_OWN * pooled)


@dataclass(frozen=True, slots=True)
class Spread:
    """The variance of one run, pooled over cells, and of each cell by itself; the pooled one where a cell has a single
    run."""

    pooled: float
    df: float
    variances_C: np.ndarray
    counts_C: np.ndarray
    uneven_p: float | None  # nominal where cells are crossed with seeds: their own variances are then less certain
    crossed: bool = False

    @property
    def uneven(self) -> bool:
        return self.uneven_p is not None and self.uneven_p < UNEVEN

    def note(self, cells: str) -> str:
        if not self.uneven:
            return ""
        test = "" if self.crossed else f" (Bartlett, p = {self.uneven_p:.2g})"
        return f"The seeds' spread may differ between {cells}{test}: the wider one stands."

    def of(self, weights_C: np.ndarray, counts_C: np.ndarray | None = None) -> tuple[float, float]:
        """Variance of Σ w·mean over seeds and its degrees of freedom: pooled, or cell by cell (Satterthwaite) where the
        spreads differ and that interval is the wider one. With `counts_C` there may be cells after those that the
        spread was made of, which are taken to scatter as all do."""
        from curricle.analysis.statistics.intervals import student

        counts = self.counts_C if counts_C is None else counts_C
        pooled = self.pooled * float((weights_C**2 / counts).sum())
        if not self.uneven:
            return pooled, self.df
        more = len(counts) - len(self.counts_C)
        variances = np.append(self.variances_C, np.full(more, self.pooled))
        known = np.append(self.counts_C, np.ones(more, int))
        terms = weights_C**2 * variances / counts
        dfs = np.where(known > 1, known - 1, self.df)
        apart = float(terms.sum())
        df = apart**2 / float((terms**2 / dfs).sum()) if apart else 1.0
        wider = student(df, 0.95) ** 2 * apart > student(self.df, 0.95) ** 2 * pooled
        return (apart, df) if wider else (pooled, self.df)


def spread_within(cells: Sequence[np.ndarray]) -> Spread:
    """Runs about the mean of their own cell."""
    counts = np.array([len(y) for y in cells])
    pooled, df = within(cells)
    squares = np.array([float(((y - y.mean()) ** 2).sum()) for y in cells])
    variances = np.where(counts > 1, squares / np.maximum(counts - 1, 1), pooled)
    return Spread(pooled, df, variances, counts, bartlett(variances, counts))


def spread_crossed(y_CS: np.ndarray) -> Spread:
    """Cells with the same seeds: what cells and seeds do not explain, and each cell's part of it."""
    c, s = y_CS.shape
    pooled, df = two_way(y_CS)
    variances, counts = own_of(y_CS), np.full(c, s)
    return Spread(pooled, df, variances, counts, bartlett(variances, counts) if c > 2 else None, True)


def bartlett(variances_C: np.ndarray, counts_C: np.ndarray) -> float | None:
    """Bartlett's test (1937) that the cells' variances are one; None where fewer than two can be told."""
    from scipy.special import gammaincc

    several = counts_C > 1
    v, df = variances_C[several], counts_C[several] - 1
    if len(v) < 2 or not (v > 0).all():
        return None
    pooled = (df * v).sum() / df.sum()
    correction = 1 + ((1 / df).sum() - 1 / df.sum()) / (3 * (len(v) - 1))
    statistic = (df.sum() * math.log(pooled) - (df * np.log(v)).sum()) / correction
    return float(gammaincc((len(v) - 1) / 2, max(statistic, 0.0) / 2))


def reach(df: float, level: float = 0.95, power: float = 0.8) -> float:
    """How many standard errors an effect must measure for a two-sided t test at 1 − level to tell it from 0 in that
    share of studies: t_{(1 + level)/2} + t_power."""
    from scipy.special import stdtrit

    return float(stdtrit(df, (1 + level) / 2) + stdtrit(df, power))
