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


def reach(df: float, level: float = 0.95, power: float = 0.8) -> float:
    """How many standard errors an effect must measure for a two-sided t test at 1 − level to tell it from 0 in that
    share of studies: t_{(1 + level)/2} + t_power."""
    from scipy.special import stdtrit

    return float(stdtrit(df, (1 + level) / 2) + stdtrit(df, power))
