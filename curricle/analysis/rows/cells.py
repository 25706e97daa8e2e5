"""Outcome rows as the cells of a factorial: which runs read the same tokens in the same order, and what they scored.

A cell is a point of the design: the doses of two sources, the dose of a filler, and the order in which the two were
read. Runs that differ in their seed only stand in one cell, so that the spread inside cells is the seeds', whatever
the surface over them looks like. Promises: rows are checked here, once, and a refusal names the column and the way out.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from curricle.analysis.finding import ACCURACY, LOSSES
from curricle.analysis.rows.columns import known, one_of, typed
from curricle.analysis.rows.outcomes import DOSE, outcomes
from curricle.study import Refused

if TYPE_CHECKING:
    from curricle.results import Results

Row = Mapping[str, Any]
SAME_DOSE = 0.01  # of the largest: budgets are rounded to rows and batches
MIXED = "mixed"


@dataclass(frozen=True, slots=True)
class Cell:
    """Runs that read the same. `order` is empty where at most one of the two sources was read, or where it is
    unknown. `item_variance` is that of the mean over items, of one run's weights; `y_SP` stands where items do."""

    name: str
    doses: tuple[float, float]
    filler: float
    order: str
    seeds: tuple[Any, ...]
    y_S: np.ndarray
    items: int
    item_variance: float | None
    runs: tuple[str, ...]
    y_SP: np.ndarray | None = None

    @property
    def both(self) -> bool:
        return all(dose > 0 for dose in self.doses)


@dataclass(frozen=True, slots=True)
class Factorial:
    """One benchmark in one measure over the cells of a design."""

    sources: tuple[str, str]
    filler: str | None
    benchmark: str
    measure: str
    cells: tuple[Cell, ...]

    @property
    def orders(self) -> list[str]:
        """The orders that cells with both sources come in, that of `sources` leading: whoever names them says it."""
        named = ordered(self.sources)
        counted = [cell.order for cell in self.cells if cell.both]
        return sorted(dict.fromkeys(counted), key=lambda order: (order != named, -counted.count(order)))

    def of_order(self, order: str) -> list[int]:
        """Cells that a surface over that order rests on: those in it, and those to which no order applies."""
        return [k for k, cell in enumerate(self.cells) if not cell.both or cell.order == order]

    @property
    def fixed_total(self) -> float | None:
        """Tokens of the two sources and the filler together, where they are the same in every cell."""
        totals = [sum(cell.doses) + cell.filler for cell in self.cells]
        return totals[0] if self.filler and max(totals) - min(totals) <= SAME_DOSE * max(totals) else None


def ordered(sources: Sequence[str]) -> str:
    return "→".join(sources)


def read_factorial(
    rows: Sequence[Row] | Results,
    sources: Sequence[str],
    benchmark: str | None = None,
    measure: str | None = None,
    filler: str | None = None,
) -> Factorial:
    """The cells of final outcomes. Needs `seed, benchmark, measure, score` and `dose:SOURCE`; uses `strategy, order,
    final, tokens, items, item_variance, run` where they stand. From results, items are read too.

    Without a column `order` it is told from the points along the way: the source that was begun while the other had
    not. Raises `Refused` for columns that are missing, numbers that are not finite, and rows that cannot be told apart.
    """
    results: Results | None = None
    if hasattr(rows, "sql"):
        results = cast("Results", rows)
        rows = outcomes(results)
    rows = typed(cast(Sequence[Row], rows))
    pair = two(sources)
    named = [*pair, *([filler] if filler else [])]
    known(rows, "seed", "benchmark", "measure", "score", *(DOSE + source for source in named), filled=True)
    if len(set(named)) < len(named):
        raise Refused(f"sources: {', '.join(named)}: two sources and a filler, each named once")
    orders = orders_of(rows, pair)
    benchmark = one_of("benchmark", benchmark, (row["benchmark"] for row in rows))
    here = [row for row in rows if row["benchmark"] == benchmark]
    measure = one_of("measure", measure, (row["measure"] for row in here))
    if measure not in (ACCURACY, *LOSSES):
        raise Refused(f"measure: {measure!r}; known: {ACCURACY!r} in percent, {', '.join(map(repr, LOSSES))}")
    here = [row for row in here if row["measure"] == measure and row.get("final", True)]
    if not here:
        raise Refused(f"rows: none of {benchmark!r} in {measure} is final (the end of a strategy's last stage)")
    levels = {source: snapped(finite(row, DOSE + source, least=0) for row in here) for source in named}
    grouped: dict[tuple[Any, ...], list[Row]] = {}
    for row in here:
        doses = tuple(levels[source][float(row[DOSE + source])] for source in named)
        order = orders[row.get("strategy"), row["seed"]] if all(doses[:2]) else ""
        grouped.setdefault((*doses, order), []).append(row)
    cells = [cell_of(key, found, bool(filler), measure) for key, found in sorted(grouped.items())]
    if results is not None:
        cells = with_items(cells, results, benchmark, measure)
    for k, source in enumerate(pair):
        if len({cell.doses[k] for cell in cells}) < 2:
            raise Refused(f"dose:{source}: every run has {cells[0].doses[k]:,.0f} tokens; a factorial needs two levels")
    return Factorial(pair, filler, benchmark, measure, tuple(cells))


def two(sources: Sequence[str]) -> tuple[str, str]:
    if isinstance(sources, str) or len(sources) != 2:
        raise Refused(f"sources: {sources!r}; name the two whose transfer is asked about, such as ('code', 'math')")
    return sources[0], sources[1]


def finite(row: Row, name: str, least: float = -math.inf) -> float:
    try:
        value = float(row[name])
    except (TypeError, ValueError):
        value = math.nan
    if not math.isfinite(value) or value < least:
        at_least = "" if least == -math.inf else f" of {least:g} or more"
        raise Refused(f"{name}: {row[name]!r} (seed {row['seed']}); give a finite number{at_least}")
    return value


def snapped(values: Iterable[float]) -> dict[float, float]:
    """Each dose → its level: doses closer than `SAME_DOSE` of the largest are one level, their mean; 0 stays 0."""
    unique = sorted(set(values))
    groups: list[list[float]] = []
    for value in unique:
        near = groups and value - groups[-1][-1] <= SAME_DOSE * unique[-1]
        if near and groups[-1][0] > 0:
            groups[-1].append(value)
        else:
            groups.append([value])
    return {value: sum(group) / len(group) for group in groups for value in group}


def orders_of(rows: Sequence[Row], pair: tuple[str, str]) -> dict[tuple[Any, Any], str]:
    """(strategy, seed) → which source was begun first. A column `order` is taken at its word."""
    first, second = (DOSE + source for source in pair)
    told: dict[tuple[Any, Any], str] = {}
    alone: dict[tuple[Any, Any], set[str]] = {}
    for row in rows:
        key = row.get("strategy"), row["seed"]
        if row.get("order") is not None:
            told[key] = str(row["order"])
        a, b = finite(row, first) > 0, finite(row, second) > 0
        seen = alone.setdefault(key, set())
        seen |= {pair[0]} if a and not b else {pair[1]} if b and not a else set()
        seen |= {MIXED} if a and b and not row.get("final", True) else set()
    for key, seen in alone.items():
        forward, reverse = ordered(pair), ordered(pair[::-1])
        told.setdefault(key, forward if pair[0] in seen else reverse if pair[1] in seen else "".join(seen & {MIXED}))
    return told


def cell_of(key: tuple[Any, ...], rows: Sequence[Row], has_filler: bool, measure: str) -> Cell:
    names = list(dict.fromkeys(str(row.get("strategy", "")) for row in rows))
    seeds = [row["seed"] for row in rows]
    if len(set(seeds)) < len(seeds):
        twice = next(seed for seed in seeds if seeds.count(seed) > 1)
        raise Refused(
            f"seed: {twice} stands twice at the same doses ({', '.join(map(repr, names))}); if they differ in what was "
            f"read first, say so in a column 'order'; rows on the way need final = false"
        )
    by_seed = sorted(rows, key=lambda row: str(row["seed"]))
    scores = [finite(row, "score", least=0) for row in by_seed]
    if measure == ACCURACY and max(scores) > 100:
        raise Refused(f"score: {max(scores):g} is not an accuracy in percent; give numbers from 0 to 100")
    items = [row.get("items") or 0 for row in by_seed]
    variances = [binomial(row, measure) for row in by_seed]
    known = [v for v in variances if v is not None]
    return Cell(
        " = ".join(names), (key[0], key[1]), key[2] if has_filler else 0.0, key[-1],
        tuple(row["seed"] for row in by_seed), np.array(scores), int(min(items)),
        sum(known) / len(known) if len(known) == len(variances) else None,
        tuple(str(row["run"]) for row in by_seed if row.get("run")),
    )  # fmt: skip


def binomial(row: Row, measure: str) -> float | None:
    """The variance of a run's mean over items: as stated, or for an accuracy of n problems p(1−p)/n."""
    from curricle.analysis.statistics.intervals import binomial_variance

    if row.get("item_variance") is not None:
        return finite(row, "item_variance", least=0)
    if measure == ACCURACY and row.get("items"):
        return 1e4 * binomial_variance(float(row["score"]) / 100, int(row["items"]))
    return None


def with_items(cells: Sequence[Cell], results: Results, benchmark: str, measure: str) -> list[Cell]:
    """The same cells with their scores item by item, where one strategy fills a cell."""
    from curricle.analysis.rows.scores import Benchmark, strategies

    read, named = Benchmark(results, benchmark), {strategy.name: strategy for strategy in strategies(results)}
    made = []
    for cell in cells:
        scores = read.final(named[cell.name].stages[-1], measure) if cell.name in named else None
        if scores and set(scores.seeds) == set(cell.seeds):
            y_SP = scores.y_SP[[scores.seeds.index(seed) for seed in cell.seeds]]
            cell = replace(cell, y_SP=y_SP, items=y_SP.shape[1])
        made.append(cell)
    return made
