"""How far runs of one kind lie apart, pooled over kinds, and how large an effect such a spread lets be seen.

Every question that judges a contrast of runs by their seeds takes its variance from one of two places: runs about the
mean of their own cell, or, where every cell has the same seeds, what cells and seeds do not explain of their table.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


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


def reach(df: float, level: float = 0.95, power: float = 0.8) -> float:
    """How many standard errors an effect must measure for a two-sided t test at 1 − level to tell it from 0 in that
    share of studies: t_{(1 + level)/2} + t_power."""
    from scipy.special import stdtrit

    return float(stdtrit(df, (1 + level) / 2) + stdtrit(df, power))
