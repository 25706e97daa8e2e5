"""What repeated tokens are worth: the data-constrained law of Muennighoff et al. 2023 (arXiv 2305.16264).

Tokens read again count for less and less. D tokens from a pool of U unique ones are worth
D' = U + U·R*·(1 − e^(−R/R*)) fresh tokens, R = D/U − 1 repeats; parameters beyond what U tokens call for likewise
count as N'. `data_constrained_loss` is the published law; `repetition` says how well it describes a table of runs,
and what R* that table itself asks for (docs/theory.md, section 8).
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from importlib.resources import files

import numpy as np

from curricle.study import Refused

R_STAR = 15.39  # repeats after which a pool has given 1 − 1/e of all that repeating it can give
LARGEST = 1e4  # of R*: past it repeats are as good as fresh tokens for any number of epochs that anyone runs


def effective_tokens(
    unique_tokens: np.ndarray | float, tokens: np.ndarray | float, r_star: np.ndarray | float = R_STAR
) -> np.ndarray:
    """The fresh tokens that `tokens` read from a pool of `unique_tokens` are worth. Vectorised by numpy's rules.

    Up to one epoch they are worth themselves. R* = ∞ says that repeats are fresh; R* = 0 that they are worth nothing.
    A pool without limit is ∞. An empty pool gives nothing, and only 0 tokens can be read from it.
    """
    pool, read, r = np.broadcast_arrays(*(np.asarray(x, dtype=float) for x in (unique_tokens, tokens, r_star)))
    if (
        np.isnan(pool).any()
        or np.isnan(read).any()
        or not np.isfinite(read).all()
        or (np.minimum(pool, read) < 0).any()
    ):
        raise Refused("tokens, unique_tokens: negative or not a number; give 0 or more")
    if not (r >= 0).all():
        raise Refused(f"r_star: {r.min():g}; give 0 or more")
    if ((pool == 0) & (read > 0)).any():
        raise Refused("unique_tokens: 0, so no token can be read from it; give more than 0, or 0 tokens")
    unique = np.minimum(pool, read)
    more = read - unique
    room = unique * np.where(np.isinf(r), 0.0, r)  # what all repeats together can add
    with np.errstate(divide="ignore", invalid="ignore"):
        added = np.where(room > 0, -room * np.expm1(-more / room), 0.0)
    return unique + np.where(np.isinf(r), more, added)


def worth_of_next(
    unique_tokens: np.ndarray | float, tokens: np.ndarray | float, r_star: np.ndarray | float = R_STAR
) -> np.ndarray:
    """dD'/dD, what one more token is worth: 1 within the first epoch, then e^(−R/R*)."""
    pool, read, r = (np.asarray(x, dtype=float) for x in (unique_tokens, tokens, r_star))
    with np.errstate(divide="ignore", invalid="ignore"):
        repeats = np.where(read > pool, read / pool - 1, 0.0)
        return np.where(repeats > 0, np.exp(-repeats / r), 1.0)


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
        raise Refused("rows: loss is the same in every row, so nothing is there to be explained")
    return 1 - float(((seen - said) ** 2).sum()) / total
