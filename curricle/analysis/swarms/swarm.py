"""A swarm of runs as two tables, one of proportions and one of metrics, joined and checked at the door.

The tables are read as RegMix and olmix write them: a column `run`, `run_id` or `index`, or else the first one, says
which rows belong together; every other column of the proportions is a source, of the metrics a metric. It promises that
what goes on is whole: no number missing, no run twice or in one table only, proportions that sum to 1 within a
hundredth (and are then made to sum to 1). Anything else is refused by its table, row and column.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from curricle.study import Refused, nearest

Row = Mapping[str, Any]

KEYS = ("run", "run_id", "index")  # in this order, where both tables have it
NO_DATA = frozenset({*KEYS, "name", "", "Unnamed: 0"})  # columns that name a run, and are neither source nor metric
TOLERANCE = 0.01  # of a row's sum: published proportions are rounded


@dataclass(frozen=True, slots=True)
class Swarm:
    """N runs: keys, proportions over J sources, values of T metrics."""

    keys: tuple[str, ...]
    sources: tuple[str, ...]
    metrics: tuple[str, ...]
    p_NJ: np.ndarray
    loss_NT: np.ndarray

    def subset(self, rows: Sequence[int] | np.ndarray) -> Swarm:
        keys = tuple(self.keys[i] for i in rows)
        return Swarm(keys, self.sources, self.metrics, self.p_NJ[rows], self.loss_NT[rows])


def read_swarm(ratios: Sequence[Row], metrics: Sequence[Row]) -> Swarm:
    """Join the two tables. Raises `Refused` for what cannot be joined or is no number."""
    key = join_column(ratios, metrics)
    shares = read_ratios(ratios, key[0])
    keys = _keys(metrics, "metrics", key[1])
    where = {k: i for i, k in enumerate(keys)}
    for here, there, a, b in ((shares[0], where, "ratios", "metrics"), (keys, set(shares[0]), "metrics", "ratios")):
        lost = [k for k in here if k not in there]
        if lost:
            raise Refused(
                f"{a}: {key[0]} {_some(lost)} {'has' if len(lost) == 1 else 'have'} no row in {b}; every run needs both"
            )
    names = _columns(metrics, "metrics", key[1])
    values = np.array([[_number(row, m, "metrics", key[1]) for m in names] for row in metrics])
    swarm = Swarm(shares[0], shares[1], names, shares[2], values[[where[k] for k in shares[0]]])
    # A metric may well have a source's name, as the loss on its held-out text. The source's share it may not be.
    places = [(t, swarm.sources.index(name)) for t, name in enumerate(names) if name in swarm.sources]
    if same := [names[t] for t, j in places if np.allclose(swarm.loss_NT[:, t], swarm.p_NJ[:, j], atol=1e-3)]:
        raise Refused(f"metrics: {', '.join(map(repr, same[:5]))}: the shares of ratios, not scores of the runs")
    return swarm


def join_column(ratios: Sequence[Row], metrics: Sequence[Row]) -> tuple[str, str]:
    """The column of each table that names the run."""
    for name, table in (("ratios", ratios), ("metrics", metrics)):
        if not table:
            raise Refused(f"{name}: no rows")
    for key in KEYS:
        if key in ratios[0] and key in metrics[0]:
            return key, key
    return key_column(ratios), key_column(metrics)


def key_column(table: Sequence[Row]) -> str:
    """`run`, `run_id` or `index` where there is one, else the first column."""
    return next((key for key in KEYS if key in table[0]), next(iter(table[0])))


def read_ratios(
    rows: Sequence[Row], key: str | None = None, sources: Sequence[str] | None = None, table: str = "ratios"
) -> tuple[tuple[str, ...], tuple[str, ...], np.ndarray]:
    """Keys, sources and proportions. With `sources` the columns must be these, in any order."""
    if not rows:
        raise Refused(f"{table}: no rows")
    key = key_column(rows) if key is None else key
    keys = _keys(rows, table, key)
    found = _columns(rows, table, key)
    if sources is not None:
        for name in found:
            if name not in sources:
                raise Refused(f"{table}: unknown source {name!r}; {nearest(name, sources)}")
        for name in sources:
            if name not in found:
                raise Refused(f"{table}: no column for source {name!r}")
        found = tuple(sources)
    if len(found) < 2:
        raise Refused(f"{table}: {len(found)} source; a mixture needs two or more")
    p = np.array([[_number(row, source, table, key) for source in found] for row in rows])
    for i, j in np.argwhere(p < 0)[:1]:
        raise Refused(f"{table}: {key} {keys[i]}, {found[j]}: {p[i, j]:g} is negative; a proportion is 0 to 1")
    total = p.sum(1)
    for i in np.flatnonzero(np.abs(total - 1) > TOLERANCE)[:1]:
        raise Refused(
            f"{table}: {key} {keys[i]}: proportions sum to {total[i]:.4g}; they must sum to 1, within {TOLERANCE:g}"
        )
    return keys, found, p / total[:, None]


def read_amounts(rows: Sequence[Row], sources: Sequence[str], table: str) -> np.ndarray:
    """One non-negative number a source, from a table with a row a source (name, number) or one row with a column each.
    A source that is not named has none."""
    if not rows:
        raise Refused(f"{table}: no rows")
    first = list(rows[0])
    pairs: dict[str, float] = {}
    if len(rows) == 1 and any(name in sources for name in first):
        pairs = {name: _number(rows[0], name, table, first[0]) for name in first if name not in NO_DATA}
    else:
        if len(first) < 2:
            raise Refused(f"{table}: one column; give a source and a number in each row")
        for row in rows:
            name = str(row[first[0]]).strip()
            if name in pairs:
                raise Refused(f"{table}: {name!r} stands twice")
            pairs[name] = _number(row, first[1], table, first[0])
    for name, value in pairs.items():
        if name not in sources:
            raise Refused(f"{table}: unknown source {name!r}; {nearest(name, sources)}")
        if value < 0:
            raise Refused(f"{table}: {name}: {value:g} is negative")
    made = np.array([pairs.get(source, 0.0) for source in sources])
    if made.sum() <= 0:
        raise Refused(f"{table}: all are 0")
    return made


def _keys(rows: Sequence[Row], table: str, key: str) -> tuple[str, ...]:
    made: dict[str, int] = {}
    for i, row in enumerate(rows, 1):
        name = str(row.get(key, "")).strip()
        if not name:
            raise Refused(f"{table}: row {i} has no {key}")
        if name in made:
            raise Refused(f"{table}: {key} {name} stands twice, in rows {made[name]} and {i}")
        made[name] = i
    return tuple(made)


def _columns(rows: Sequence[Row], table: str, key: str) -> tuple[str, ...]:
    found = tuple(name for name in rows[0] if name not in NO_DATA and name != key)
    if not found:
        raise Refused(f"{table}: no column beside {key}")
    return found


def _number(row: Row, column: str, table: str, key: str) -> float:
    value = row.get(column)
    try:
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        shown = "is empty" if value in (None, "") else f"{value!r} is not a finite number"
        raise Refused(f"{table}: {key} {row.get(key)}, {column}: {shown}")
    return number


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
