"""The mixtures of a swarm before it is trained: drawn round the natural one, so that a law of mixtures can be fitted.

    swarm_design({"web": 0.6, "code": 0.3, "mathweb": 0.1}, runs=36)

A Dirichlet whose mean is the natural mixture, flattened, and whose strength differs from draw to draw, as in RegMix
(Liu et al. 2024, arXiv 2407.01492): weak draws reach the edges of the simplex, strong ones its middle, where the answer
mostly lies. The natural and the uniform mixture are the first two, since every recommendation is measured against them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from curricle.analysis.asked.designs import LEAST_SWARM
from curricle.study import Refused

FLATTEN = 0.5  # a natural mixture of .9 and .1 is drawn round .75 and .25: rare sources must be seen to be judged
WEAK, STRONG = 1.0, 2.0  # of all sources together, and of each: a draw's strength lies between, log-uniformly
STEP = 0.001  # shares are multiples of it
LEAST = 0.01  # a smaller share of a small run is a handful of rows: it goes to the largest


def swarm_design(natural: Mapping[str, float], runs: int = 36, seed: int = 0) -> dict[str, dict[str, float]]:
    """`runs` different mixtures by name; shares sum to 1 exactly and sources that get nothing are left out.

    Raises `Refused` for fewer than two sources, a share that is not positive, or too few runs for a law.
    """
    sources = list(natural)
    if len(sources) < 2:
        raise Refused(f"sources: {', '.join(sources) or 'none'}; a mixture needs two or more")
    for source, share in natural.items():
        if not (math.isfinite(share) and share > 0):
            raise Refused(f"natural: {source}: {share:g}; a share is above 0")
    if runs < LEAST_SWARM:
        raise Refused(f"runs: {runs}; a law of mixtures takes {LEAST_SWARM} or more")
    rng = np.random.default_rng(seed)
    given = np.array([natural[source] for source in sources])
    mean = given**FLATTEN / (given**FLATTEN).sum()
    low, high = np.log(WEAK), np.log(STRONG * len(sources))
    drawn = {"natural": _rounded(given / given.sum()), "uniform": _rounded(np.full(len(sources), 1 / len(sources)))}
    seen = {tuple(steps) for steps in drawn.values()}
    if len(seen) == 1:
        del drawn["uniform"]
    while len(drawn) < runs:
        steps = _rounded(rng.dirichlet(np.exp(rng.uniform(low, high)) * mean))
        if tuple(steps) not in seen:
            seen.add(tuple(steps))
            drawn[f"mix {len(drawn) + 1:0{len(str(runs))}d}"] = steps
    return {
        name: {source: round(n * STEP, 3) for source, n in zip(sources, steps) if n} for name, steps in drawn.items()
    }


def _rounded(share: np.ndarray) -> list[int]:
    """Shares as whole numbers of `STEP`, the largest taking up what rounding and `LEAST` leave."""
    steps = np.where(share < LEAST, 0, np.rint(share / STEP)).astype(int)
    steps[int(share.argmax())] += round(1 / STEP) - int(steps.sum())
    return [int(n) for n in steps]
