"""What survives any increasing change of scale: an effect that changes its sign, and an order of cells that no sum has.

An interaction on one scale may vanish on another; these two do not (docs/theory.md, section 3). Both take cell means
with independent errors and give a p-value that is valid whatever increasing f stands between skill and score.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import permutations

import numpy as np


def gail_simon(effects_K: Sequence[float], variances_K: Sequence[float], df: float) -> float:
    """The p-value of "no crossover": that these independent effects have one sign (Gail & Simon 1985).

    min(Q⁺, Q⁻), the sums of squared t over the positive and over the negative effects, against the least favourable
    null: one effect huge, K−1 at 0, so a mixture of h·F(h, df) with binomial weights. `df` is that of the pooled
    variance; a very large one gives the published χ² form.
    """
    from scipy.special import fdtrc

    d, v = np.asarray(effects_K, dtype=float), np.asarray(variances_K, dtype=float)
    least = min(float((d[d > 0] ** 2 / v[d > 0]).sum()), float((d[d < 0] ** 2 / v[d < 0]).sum()))
    others = len(d) - 1
    if others < 1 or least <= 0:
        return 1.0
    mixed = [math.comb(others, h) / 2**others * float(fdtrc(h, df, least / h)) for h in range(1, others + 1)]
    return min(1.0, sum(mixed))


def double_cancellation(means_RC: np.ndarray, variances_RC: np.ndarray, df: float) -> float | None:
    """The p-value of "no violation of double cancellation", Bonferroni over its instances; None below 3 × 3.

    An instance is ay > bx, bz > cy and yet cx > az: an order that no sum of a row's and a column's part can have,
    nor any increasing function of one. All three must be shown, so its p is the largest of three one-sided ones.
    """
    from scipy.special import stdtr

    rows, columns = means_RC.shape
    if rows < 3 or columns < 3:
        return None
    seen: dict[frozenset[tuple[int, ...]], float] = {}
    for a, b, c in permutations(range(rows), 3):
        for x, y, z in permutations(range(columns), 3):
            steps = ((a, y, b, x), (b, z, c, y), (c, x, a, z))
            if (key := frozenset(steps)) in seen:
                continue
            t = [
                (means_RC[i, j] - means_RC[k, m]) / math.sqrt(variances_RC[i, j] + variances_RC[k, m])
                for i, j, k, m in steps
            ]
            seen[key] = float(stdtr(df, -min(t)))
    return min(1.0, len(seen) * min(seen.values()))
