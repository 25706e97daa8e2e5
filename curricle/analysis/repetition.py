"""What repeated tokens are worth: the data-constrained law of Muennighoff et al. 2023 (arXiv 2305.16264).

Tokens read again count for less and less (`statistics/repeats.py`); parameters beyond what U unique tokens call for
likewise count as N'. `DataConstrained` is the published law; `repetition` says how well it describes a table of runs,
and what R* that table itself asks for (docs/theory.md, section 8).
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib.resources import files

import numpy as np

from curricle.analysis.finding import THESE_PROBLEMS, Finding, Interval, Part, join
from curricle.analysis.rows.columns import Row, items, numbers, the_one, typed
from curricle.analysis.statistics.intervals import student
from curricle.analysis.statistics.powerlaw import Fit, fit
from curricle.analysis.statistics.repeats import effective_tokens
from curricle.study import Refused

LARGEST = 1e4  # of R*: past it repeats are as good as fresh tokens for any number of epochs that anyone runs


@dataclass(frozen=True, slots=True)
class DataConstrained:
    """L = E + A/N'^α + B/D'^β in nats per token; R* = ∞ takes the decay away."""

    E: float
    A: float
    B: float
    alpha: float
    beta: float
    r_tokens: float
    r_params: float

    def params_for(self, tokens: np.ndarray | float) -> np.ndarray:
        """The compute-optimal number of parameters for so many fresh tokens: where dL/dlnN = dL/dlnD along 6·N·D."""
        powers = self.alpha * self.A / (self.beta * self.B) * np.asarray(tokens, dtype=float) ** self.beta
        return powers ** (1 / self.alpha)

    def loss(
        self,
        params: np.ndarray | float,
        tokens: np.ndarray | float,
        unique_tokens: np.ndarray | float,
        decay: bool = True,
    ) -> np.ndarray:
        """The loss of `params` parameters after `tokens` tokens from a pool; without `decay` repeats count as fresh."""
        n, d = np.asarray(params, dtype=float), np.asarray(tokens, dtype=float)
        if decay:
            useful = self.params_for(np.minimum(unique_tokens, d))
            n, d = effective_tokens(useful, n, self.r_params), effective_tokens(unique_tokens, d, self.r_tokens)
        return self.E + self.A * n**-self.alpha + self.B * d**-self.beta


def muennighoff2023() -> DataConstrained:
    """The coefficients as published."""
    p = json.loads((files("curricle.analysis") / "published" / "muennighoff2023.json").read_text(encoding="utf-8"))
    ends = (math.exp(p["e"]), math.exp(p["a"]), math.exp(p["b"]))
    return DataConstrained(*ends, p["alpha"], p["beta"], p["r_tokens"], p["r_params"])


def explained(seen: np.ndarray, said: np.ndarray) -> float:
    """R²: the share of the variance of what was seen that the law explains; negative where a mean would do better."""
    total = float(((seen - seen.mean()) ** 2).sum())
    if total == 0:
        raise Refused("the loss is the same in every row, so nothing is there to be explained")
    return 1 - float(((seen - said) ** 2).sum()) / total


# ---- how fast repeats fade, from runs -------------------------------------------------------------------------------


def repetition(
    rows: Sequence[Row], tokens: str = "tokens", unique: str = "unique_tokens", score: str = "score",
    level: float = 0.95,
) -> Finding:  # fmt: skip
    """R* from runs of one model that read pools again: L = E + A·D'^−α, fitted at every R* of a grid, the best taken.

    The estimate is R*, with its profile interval (None above: repeats as good as new are not ruled out). The p-value
    is of R* = ∞ (an F test of one parameter); `parts.repeats_fade` says whether it is rejected. With a single pool
    that is only read further, an end by repetition and a floor look alike: then both ends of the interval are wide, as
    they should be. Several pools, or one run in fresh tokens, tell them apart. Raises `Refused` where no pool is read
    more than twice.
    """
    from scipy.special import fdtrc

    rows = typed(rows)
    the_one(rows, "benchmark")
    read, pool, y = numbers(rows, tokens, above=0.0), numbers(rows, unique, above=0.0), numbers(rows, score)
    most = float((read / pool).max())
    if most <= 2:
        raise Refused(f"no pool is read more than {most:.3g} times; what repeats are worth is seen past 2")
    if len(y) < 6:
        raise Refused(f"{len(y)} points; E, A, α and R* need 6 or more")
    runs = [tuple(row.get(name) for name in ("strategy", "seed", unique)) for row in rows]
    offsets = fit(effective_tokens(pool, read), y, runs)  # what points of one run share, held fixed along the grid
    ratio = (offsets.between / offsets.sigma) ** 2

    def at(r: float) -> Fit:
        return fit(effective_tokens(pool, read, r), y, runs, ratio=ratio)

    grid = np.append(np.geomspace(0.25, LARGEST, 36), math.inf)
    fits = [at(float(r)) for r in grid]
    rss = np.array([f.rss for f in fits])
    k = int(rss[:-1].argmin())
    if 0 < k < len(grid) - 2:  # between its neighbours on a log scale
        finer = np.geomspace(grid[k - 1], grid[k + 1], 21)
        more = [at(float(r)) for r in finer]
        order = np.argsort(np.concatenate([grid, finer]))
        rss = np.concatenate([rss, [f.rss for f in more]])[order]
        fits = [(fits + more)[i] for i in order]
        grid = np.concatenate([grid, finer])[order]
        k = int(rss[:-1].argmin())
    df = fits[k].df - 1
    variance = float(rss[k]) / df
    limit = float(rss[k]) + float(student(df, level)) ** 2 * variance
    inside = np.flatnonzero(rss <= limit)
    low = 0.0 if inside[0] == 0 else _between(grid, rss, int(inside[0]) - 1, limit)
    endless = inside[-1] == len(grid) - 1
    last = int(inside[-1])
    high = None if endless else _between(grid, rss, last, limit)
    p_value = float(fdtrc(1, df, max(rss[-1] - rss[k], 0.0) / max(variance, 1e-300)))
    fades = p_value <= 1 - level
    notes = list(fits[k].notes)
    if len(np.unique(pool)) == 1:
        notes.append("One pool only: a floor and an end by repetition are told apart by the curve's form alone.")
    if not fades:
        notes.append("Repeats as good as new tokens are not ruled out.")
    parts: dict[str, Part] = {
        "repeats_fade": fades, "most_epochs": most, "pools": len(np.unique(pool)), "floor": fits[k].law.floor,
        "exponent": fits[k].law.exponent, "r2": explained(y, fits[k].law(effective_tokens(pool, read, grid[k]))),
        "r2_as_new": explained(y, fits[-1].law(read)),
    }  # fmt: skip
    said = fits[k].law(effective_tokens(pool, read, grid[k]))
    table = [
        {"tokens": float(d), "unique_tokens": float(u), "epochs": float(d / u), "score": float(v), "law": float(f)}
        for d, u, v, f in zip(read, pool, y, said)
    ]
    return Finding(
        "repetition", f"R* from {len(np.unique(pool))} pool(s), up to {most:.3g} epochs",
        str(rows[0].get("measure", "loss")), str(rows[0].get("benchmark", "")), float(grid[k]), "repeats",
        (Interval(low, high, THESE_PROBLEMS, level),), p_value, "F of one parameter against repeats as good as new",
        items(rows), len({row.get("seed") for row in rows}), (), None, join(notes), parts, tuple(table),
    )  # fmt: skip


def _between(grid: np.ndarray, rss: np.ndarray, k: int, limit: float) -> float:
    """Where the residual sum of squares crosses `limit` between grid[k] and grid[k + 1], on a log scale."""
    if not math.isfinite(grid[k + 1]):
        return float(grid[k])
    share = (limit - rss[k]) / (rss[k + 1] - rss[k])
    return float(grid[k] * (grid[k + 1] / grid[k]) ** share)


def against_published(rows: Sequence[Row], level: float = 0.95, resamples: int = 400) -> Finding:
    """How well the published law describes runs with `params, tokens, unique_tokens, loss` (nats per token), and the R*
    that they ask for. The estimate is R² with decay; `parts` has R² with repeats counted as new, and R* of tokens and
    of parameters refitted with the single-epoch coefficients as published, with percentile intervals from resampling
    whole pools (runs of one pool are not independent). `table`: a row a run.
    """
    n, d = numbers(rows, "params", above=0.0), numbers(rows, "tokens", above=0.0)
    u, seen = numbers(rows, "unique_tokens", above=0.0), numbers(rows, "loss", above=0.0)
    law = muennighoff2023()
    said, as_new = law.loss(n, d, u), law.loss(n, d, u, decay=False)
    stars = np.geomspace(0.5, 200, 60)
    useful = law.params_for(np.minimum(u, d))
    of_n = law.A * effective_tokens(useful, n, stars[:, None]) ** -law.alpha
    of_d = law.B * effective_tokens(u, d, stars[:, None]) ** -law.beta
    square_NDR = (law.E + of_n[:, None] + of_d[None] - seen) ** 2
    pools, member = np.unique(np.minimum(u, d), return_inverse=True)
    by_pool = np.stack([square_NDR[..., member == p].sum(-1) for p in range(len(pools))], axis=-1)
    random = np.random.default_rng(0)
    counts = random.multinomial(len(pools), np.full(len(pools), 1 / len(pools)), size=resamples)
    totals = by_pool.reshape(-1, len(pools)) @ counts.T
    picked = totals.argmin(0)
    own = int(by_pool.sum(-1).argmin())
    tails = [(1 - level) / 2, (1 + level) / 2]
    parts: dict[str, Part] = {"r2": explained(seen, said), "r2_as_new": explained(seen, as_new), "pools": len(pools)}
    for name, of_grid in (("r_params", 0), ("r_tokens", 1)):
        refitted = stars[np.unravel_index(picked, square_NDR.shape[:2])[of_grid]]
        low, high = (float(q) for q in np.quantile(refitted, tails))
        best = float(stars[np.unravel_index(own, square_NDR.shape[:2])[of_grid]])
        parts |= {name: best, f"{name}_low": low, f"{name}_high": high}
    refit = replace(law, r_tokens=float(parts["r_tokens"] or 0), r_params=float(parts["r_params"] or 0))
    parts["r2_refitted"] = explained(seen, refit.loss(n, d, u))
    table = [
        {"params": float(a), "tokens": float(b), "unique_tokens": float(c), "epochs": float(b / min(b, c)),
         "score": float(v), "law": float(f), "as_new": float(g)}
        for a, b, c, v, f, g in zip(n, d, u, seen, said, as_new)
    ]  # fmt: skip
    return Finding(
        "data-constrained", f"the published law on {len(rows)} runs", "nats per token", "", explained(seen, said), "R²",
        n=len(rows), parts=parts, table=tuple(table),
        note="Coefficients as published (arXiv 2305.16264, appendix A); fitted on runs that these may be among.",
    )  # fmt: skip
