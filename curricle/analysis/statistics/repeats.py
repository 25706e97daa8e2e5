"""What tokens that are read again are worth in fresh ones (Muennighoff et al. 2023, arXiv 2305.16264; docs/theory.md,
section 8).

They count for less and less: D tokens from a pool of U unique ones are worth D' = U + U·R*·(1 − e^(−R/R*)), with
R = D/U − 1 repeats.
"""

from __future__ import annotations

import numpy as np

from curricle.study import Refused

R_STAR = 15.39  # repeats after which a pool has given 1 − 1/e of all that repeating it can give


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
