"""How much of what was read was new: the pools that a run's sources are, and what reading them again is worth.

A source with U tokens in one pass of which D were read is worth D' = U + U·R*·(1 − e^(−R/R*)) new ones, R = D/U − 1
(statistics/repeats.py). A stage that mixes sources reads each by its share, and what earlier stages read of a source
counts as read. Promises: where no source was read past its pool, new tokens are the tokens read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from curricle.analysis.rows.columns import DOSE
from curricle.analysis.statistics.repeats import R_STAR, effective_tokens
from curricle.study import Refused

if TYPE_CHECKING:
    from curricle.results import Results

Row = Mapping[str, Any]


class Pools(NamedTuple):
    """The sources that a stage reads: their shares of its tokens, what one pass of each holds (∞: endless, or not
    said), and how much of each had been read before the stage."""

    share_J: tuple[float, ...]
    unique_J: tuple[float, ...]
    before_J: tuple[float, ...]

    def new(self, tokens: np.ndarray | float, r_star: float = R_STAR) -> np.ndarray:
        """What so many tokens of the stage are worth in new ones."""
        read = np.asarray(tokens, dtype=float)
        made = np.zeros_like(read)
        for share, unique, before in zip(*self):
            worth = effective_tokens(unique, before + share * read, r_star)
            made = made + worth - effective_tokens(unique, before, r_star)
        return made

    def epochs(self, tokens: float) -> float:
        """How often the source that was read most often had been read by then."""
        return max(((b + s * tokens) / u for s, u, b in zip(*self)), default=0.0)


def one_pool(unique_tokens: float) -> Pools:
    if not unique_tokens > 0:
        raise Refused(f"unique_tokens: {unique_tokens:g}; give more than 0")
    return Pools((1.0,), (float(unique_tokens),), (0.0,))


def pools_of(results: Results, rows: Sequence[Row]) -> list[Pools | None]:
    """Of each outcome, the pools that its stage reads; None where they are not known: no row of mixtures says how much
    of any source there was, shares change along the stage, or doses are missing."""
    phases: dict[str, list[Row]] = {}
    for phase in results.sql("SELECT run, until_tokens, source, share, available_tokens FROM mixtures WHERE share > 0"):
        phases.setdefault(phase["run"], []).append(phase)
    return [read_of(row, phases.get(row.get("run", ""), [])) for row in rows]


def read_of(row: Row, phases: Sequence[Row]) -> Pools | None:
    unique = tuple(float("inf") if p["available_tokens"] is None else float(p["available_tokens"]) for p in phases)
    known = len({phase["until_tokens"] for phase in phases}) == 1 and any(0 < u < float("inf") for u in unique)
    doses = [row.get(DOSE + phase["source"]) for phase in phases]
    if not known or min(unique) <= 0 or row["stage_tokens"] is None or None in doses:
        return None
    share = tuple(float(phase["share"]) for phase in phases)
    before = (max(round(float(d or 0) - s * row["stage_tokens"]), 0) for d, s in zip(doses, share))
    return Pools(share, unique, tuple(map(float, before)))
