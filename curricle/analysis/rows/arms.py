"""Outcome rows at the door: checked, chosen, and laid out as one mean score for each strategy and seed.

The questions about fronts, phases and bounds read the same rows (`outcomes.py` says which keys an outcome has) and need
the same noise: how far a strategy's mean over seeds may lie from what other seeds would give. That variance is pooled
over strategies, since three seeds alone hardly know it; where strategies may differ in it, the wider of the pooled and
of their own stands. Promises: a missing column, a score that is no number and a name without rows are refused with the
field, the value and what is allowed.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from curricle.analysis.finding import BITS_PER_BYTE
from curricle.analysis.rows.columns import known, numbers, typed
from curricle.analysis.statistics.intervals import student
from curricle.analysis.statistics.spread import Spread, spread_crossed, spread_within
from curricle.study import Refused, nearest

Row = Mapping[str, Any]
Domains = Mapping[str, float] | Sequence[str] | str  # general domains, weighted or equal


class Table(NamedTuple):
    """Scores as strategies × seeds × measures; NaN where a strategy lacks a seed."""

    strategies: list[str]
    seeds: list[int]
    y_ASM: np.ndarray

    @property
    def counts(self) -> np.ndarray:
        return np.isfinite(self.y_ASM[:, :, 0]).sum(axis=1)

    @property
    def means(self) -> np.ndarray:
        return np.nanmean(self.y_ASM, axis=1)


class Noise(NamedTuple):
    """The covariance (measures × measures) of one run about its strategy's mean, and its degrees of freedom.

    `covariance` holds what a seed shares with all strategies; `own` leaves that out, where every strategy has the same
    seeds: it is what contrasts of strategies vary by. `spreads` are those of each measure, strategy by strategy."""

    covariance: np.ndarray
    df: float
    own: np.ndarray
    own_df: float
    paired: bool
    spreads: tuple[Spread, ...] = ()  # empty where no seeds vary, and items alone do

    @property
    def uneven(self) -> Spread | None:
        """The first of the spreads, if any, in which strategies may differ."""
        return next((spread for spread in self.spreads if spread.uneven), None)

    @property
    def stretch_AM(self) -> np.ndarray:
        """How many times as wide as the pooled one a strategy's own spread is, at least 1, where they may differ."""
        each = [s.variances_C / s.pooled if s.uneven else np.ones(1) for s in self.spreads] or [np.ones(1)]
        return np.sqrt(np.maximum(np.stack(np.broadcast_arrays(*each), axis=1), 1.0))

    def means_error(self, table: Table, level: float) -> np.ndarray:
        """Half the width of each strategy's interval, strategies × measures; where strategies may scatter unlike, a
        noisy one's is its own where that is wider."""
        n = table.counts
        half = student(self.df, level) * np.sqrt(np.diag(self.covariance)[None] / n[:, None])
        spare = np.maximum(n - 1, 1)
        alone = np.nanstd(table.y_ASM, axis=1) * (student(spare, level) / np.sqrt(spare))[:, None]
        uneven_M = np.array([spread.uneven for spread in self.spreads] or False)
        return np.where(uneven_M, np.maximum(half, alone), half)  # of one run there is no spread: 0


def checked(rows: Iterable[Row], columns: Sequence[str], numeric: Sequence[str] = ()) -> list[Row]:
    """The rows, of which each has these columns, and finite numbers where they are numbers; of a CSV they are read."""
    found = typed(rows, *numeric)
    known(found, *columns)
    for name in numeric:
        numbers(found, name)
    return found


def scored(rows: Iterable[Row], benchmark: str, measure: str = BITS_PER_BYTE, columns: Sequence[str] = ()) -> list[Row]:
    """The rows of one benchmark in one measure, each with a finite score."""
    found = checked(rows, ("strategy", "seed", "benchmark", "measure", *columns))
    here = [row for row in found if row["benchmark"] == benchmark]
    if not here:
        raise Refused(
            f"benchmark: {benchmark!r} has no rows; {nearest(benchmark, {str(r['benchmark']) for r in found})}"
        )
    kept = [row for row in here if row["measure"] == measure]
    if not kept:
        raise Refused(
            f"measure: {benchmark!r} has no {measure!r}; it has {', '.join(sorted({r['measure'] for r in here}))}"
        )
    return checked(kept, (), ("score",))


def ends(rows: Iterable[Row]) -> dict[tuple[str, int], Row]:
    """The row at each run's end: `final` where the rows say so, else the one with most tokens."""
    found: dict[tuple[str, int], Row] = {}
    for row in rows:
        key = (str(row["strategy"]), row["seed"])
        rank = (bool(row.get("final")), row.get("tokens") or 0)
        old = found.get(key)
        if old is None or rank > (bool(old.get("final")), old.get("tokens") or 0):
            found[key] = row
    whole = {key: row for key, row in found.items() if row.get("final", True)}
    return whole or found


def tabled(cells: Sequence[Mapping[tuple[str, int], float]]) -> Table:
    """One mapping (strategy, seed) → value for each measure, as a table of the runs that have all of them."""
    keys = [key for key in cells[0] if all(key in cell for cell in cells)]
    strategies, seeds = list(dict.fromkeys(a for a, _ in keys)), sorted({s for _, s in keys})
    y = np.full((len(strategies), len(seeds), len(cells)), np.nan)
    for a, s in keys:
        y[strategies.index(a), seeds.index(s)] = [cell[a, s] for cell in cells]
    return Table(strategies, seeds, y)


def noise(table: Table) -> Noise | None:
    """The seeds' variation, pooled over strategies; None where no strategy has two seeds, or nothing varies.

    With the same seeds everywhere the two-way mean products MP_S and MP_E stand for it: one run varies by
    (MP_S + (A − 1)·MP_E)/A, Satterthwaite's degrees of freedom; a contrast by MP_E, (A − 1)(S − 1), or by its own
    strategies (`Spread.of`)."""
    y, n = table.y_ASM, table.counts
    a, s, m_ = y.shape
    if (n < 2).all():
        return None
    off_ASM = np.where(np.isfinite(y), y - table.means[:, None], 0.0)
    within = np.einsum("asm,asn->mn", off_ASM, off_ASM)
    if (n == s).all() and a > 1:
        seed_SM = off_ASM.mean(axis=0)
        rest_ASM = off_ASM - seed_SM
        shared = a * seed_SM.T @ seed_SM / (s - 1)
        own_df = (a - 1) * (s - 1)
        own = np.einsum("asm,asn->mn", rest_ASM, rest_ASM) / own_df
        total = (shared + (a - 1) * own) / a
        parts = [(np.trace(shared) / a, s - 1), (np.trace(own) * (a - 1) / a, own_df)]
        below = sum(v**2 / df for v, df in parts)
        df = float(np.trace(total) ** 2 / below) if below > 0 else 1.0
        made = Noise(total, max(df, 1.0), own, float(own_df), True, tuple(spread_crossed(y[..., m]) for m in range(m_)))
    else:
        df = float((n - 1).clip(0).sum())
        each = [spread_within([row[np.isfinite(row)] for row in y[..., m]]) for m in range(m_)]
        made = Noise(within / df, df, within / df, df, False, tuple(each))
    scale = float(np.nanmax(np.abs(y))) or 1.0
    return made if np.sqrt(np.diag(made.covariance)).max() > 1e-12 * scale else None


def items_noise(rows: Iterable[Row]) -> float | None:
    """The mean of the rows' `item_variance`, for where one seed leaves nothing else; None where a row lacks it."""
    values = [row.get("item_variance") for row in rows]
    known = [float(v) for v in values if v is not None]
    return float(np.mean(known)) if known and len(known) == len(values) else None


def weights_of(general: Domains) -> dict[str, float]:
    """General domains with weights that sum to 1."""
    given = {general: 1.0} if isinstance(general, str) else general
    weights = dict(given) if isinstance(given, Mapping) else dict.fromkeys(given, 1.0)
    total = sum(weights.values())
    if not weights or total <= 0 or any(w < 0 or not math.isfinite(w) for w in weights.values()):
        raise Refused(
            f"general: {general!r}: name one domain or more, with weights of 0 or more that do not all vanish"
        )
    return {name: w / total for name, w in weights.items()}


def weighted(
    rows: Sequence[Row], domains: Mapping[str, float], measure: str = BITS_PER_BYTE
) -> dict[tuple[str, int], float]:
    """The domains' weighted mean score at each run's end, for runs that have them all."""
    each = [(w, ends(scored(rows, name, measure))) for name, w in domains.items()]
    keys = [key for key in each[0][1] if all(key in found for _, found in each)]
    return {key: sum(w * float(found[key]["score"]) for w, found in each) for key in keys}


def last_stage_shares(rows: Sequence[Row], share: str) -> dict[tuple[str, int], float]:
    """What part of each run's last stage was this source (0 to 1), from its `dose:` column; or a column as it is."""
    dose = f"dose:{share}"
    found = ends(checked(rows, ("strategy", "seed")))
    if all(share in row for row in found.values()):
        checked(found.values(), (), (share,))
        return {key: float(row[share]) for key, row in found.items()}
    known = sorted({str(k).removeprefix("dose:") for row in rows for k in row if str(k).startswith("dose:")})
    if share not in known:
        raise Refused(f"share: {share!r} is neither a column nor a source with doses; {nearest(share, known)}")
    checked(found.values(), (), (dose, "tokens", "stage_tokens"))
    at = {(str(r["strategy"]), r["seed"], r["tokens"]): r for r in rows if dose in r and "tokens" in r}
    made = {}
    for key, row in found.items():
        begin = row["tokens"] - row["stage_tokens"]
        start = at.get((*key, begin))
        if begin > 0 and start is None:
            raise Refused(
                f"{key[0]!r} was not scored at {begin:,} tokens, where its last stage begins; score stages' ends"
            )
        if row["stage_tokens"] <= 0:
            raise Refused(f"{key[0]!r} has no tokens in its last stage")
        made[key] = (row[dose] - (start[dose] if start and begin > 0 else 0.0)) / row["stage_tokens"]
    return made


def runs_of(found: Mapping[tuple[str, int], Row]) -> tuple[str, ...]:
    """The runs by name, or by strategy and seed where rows name none."""
    return tuple(dict.fromkeys(str(row.get("run") or f"{a}, seed {s}") for (a, s), row in found.items()))


def items_of(found: Mapping[tuple[str, int], Row]) -> int:
    """How many items each score rests on; 0 where rows do not say."""
    return min((int(row.get("items") or 0) for row in found.values()), default=0)
