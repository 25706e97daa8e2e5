"""From result rows to tables of scores: which run stands where in a strategy, and its scores as seeds × items.

Two tables may be compared only when they hold the same items; `paired` makes sure of it and refuses loudly otherwise.
A run that is not finished yet is left out with its seed, so that findings can be made while a study goes on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from curricle.analysis.finding import ACCURACY, BITS_PER_BYTE
from curricle.analysis.statistics.intervals import bits_per_byte
from curricle.study import Refused

if TYPE_CHECKING:  # reading Parquet is slow to import, and a gain between two numbers needs none of it
    from curricle.results import Results

MEASURES = (ACCURACY, BITS_PER_BYTE)


@dataclass(frozen=True, slots=True)
class StageRuns:
    """One stage of one strategy: the run of each seed that stands there."""

    name: str
    position: int
    budget_tokens: int | None  # None where nobody says, as of runs from elsewhere
    runs: Mapping[int, str]


@dataclass(frozen=True, slots=True)
class StrategyRuns:
    name: str
    baseline: bool
    stages: tuple[StageRuns, ...]

    def stage(self, name: str) -> StageRuns | None:
        """The last stage of that name."""
        return next((stage for stage in reversed(self.stages) if stage.name == name), None)


@dataclass(frozen=True, slots=True)
class Scores:
    """Scores of one model (a run at one point, over seeds) on one benchmark: `y_SP` in points or bits per byte."""

    benchmark: str
    measure: str
    seeds: tuple[int, ...]
    items: tuple[str, ...]
    places: tuple[tuple[str, int | None], ...]  # run and tokens, one for each seed
    y_SP: np.ndarray

    @property
    def runs(self) -> tuple[str, ...]:
        return tuple(run for run, _ in self.places)


class Cell(NamedTuple):
    """One run at one point on one benchmark, items in order."""

    items: tuple[str, ...]
    nats: np.ndarray | None
    bytes: np.ndarray | None
    correct: np.ndarray | None


class Pair(NamedTuple):
    """Two models on the same items and seeds."""

    after: Scores
    before: Scores
    note: str


def strategies(results: Results) -> list[StrategyRuns]:
    """The strategies in the order of the rows, each with its stages and the runs that stand there."""
    rows = results.sql("SELECT strategy, baseline, position, stage, budget_tokens, seed, run FROM runs")
    found: dict[str, dict[int, list[dict]]] = {}
    for row in rows:
        found.setdefault(row["strategy"], {}).setdefault(row["position"], []).append(row)
    made = []
    for name, positions in found.items():
        stages = []
        for position, here in sorted(positions.items()):
            runs = {row["seed"]: row["run"] for row in here}
            if len({(row["stage"], row["run"], row["seed"]) for row in here}) != len(runs):
                raise Refused(f"runs: strategy {name!r} has two runs for one seed at {position}; keep one study")
            stages.append(StageRuns(here[0]["stage"], position, here[0]["budget_tokens"], runs))
        baseline = any(row["baseline"] for here in positions.values() for row in here)
        made.append(StrategyRuns(name, baseline, tuple(stages)))
    return made


def baseline_of(found: Sequence[StrategyRuns]) -> StrategyRuns | None:
    return next((strategy for strategy in found if strategy.baseline), None)


def benchmarks(results: Results, kind: str | None = None) -> list[str]:
    """Names of what was scored: problems first, then held-out texts; or one kind only."""
    query = "SELECT benchmark, max(kind) AS kind FROM evaluations GROUP BY benchmark ORDER BY kind DESC, benchmark"
    return [row["benchmark"] for row in results.sql(query) if kind in (None, row["kind"])]


class Benchmark:
    """Every cell of one benchmark, read once. Its methods give `Scores`, or None where nothing was measured."""

    def __init__(self, results: Results, name: str):
        self.name = name
        rows = results.sql(
            """
            SELECT run, tokens, any_value(seed) AS seed, bool_or(final) AS final, list(item ORDER BY item) AS items,
                   list(nats ORDER BY item) AS nats, list(bytes ORDER BY item) AS bytes,
                   list(correct ORDER BY item) AS correct
            FROM evaluations WHERE benchmark = ? GROUP BY run, tokens
            """,
            [name],
        )
        self._cells: dict[tuple[str, int | None], Cell] = {}
        self._ends: dict[str, int | None] = {}
        self._untrained: dict[int, str] = {}  # seed → a run whose rows at 0 tokens are the model before any training
        for row in rows:
            items = tuple(row["items"])
            if len(set(items)) != len(items):
                twice = next(a for a, b in pairwise(items) if a == b)
                at = "an unknown point" if row["tokens"] is None else f"{row['tokens']:,} tokens"
                raise Refused(f"evaluations: {name}, {row['run']} at {at} scores {twice!r} twice")
            self._cells[row["run"], row["tokens"]] = Cell(
                items, column(row["nats"]), column(row["bytes"]), column(row["correct"])
            )
            if row["final"]:
                self._ends[row["run"]] = row["tokens"]
            if row["tokens"] == 0:
                self._untrained[row["seed"]] = min(row["run"], self._untrained.get(row["seed"], row["run"]))

    @property
    def measures(self) -> tuple[str, ...]:
        """What can be told from these rows: accuracy where verdicts stand, bits per byte where nats and bytes do."""
        cells = self._cells.values()
        return tuple(measure for measure in MEASURES if any(carries(cell, measure) for cell in cells))

    def tokens(self, stage: StageRuns) -> list[int]:
        """Points of this stage at which any of its runs was scored, 0 left out."""
        runs = set(stage.runs.values())
        return sorted({tokens for run, tokens in self._cells if run in runs and tokens})

    def final(self, stage: StageRuns, measure: str) -> Scores | None:
        """At the stage's end, or where its strategy leaves it for a branch."""

        def end(run: str) -> tuple[str, int | None]:
            left = (run, stage.budget_tokens)
            return left if left in self._cells else (run, self._ends[run])

        return self._gather({seed: end(run) for seed, run in stage.runs.items() if run in self._ends}, measure)

    def at(self, stage: StageRuns, tokens: int, measure: str) -> Scores | None:
        """After so many tokens of this stage."""
        return self._gather({seed: (run, tokens) for seed, run in stage.runs.items()}, measure)

    def untrained(self, stage: StageRuns, measure: str) -> Scores | None:
        """The model before any training. It is the same for all first stages of a seed, so any run's rows will do."""
        return self._gather(
            {seed: (self._untrained[seed], 0) for seed in stage.runs if seed in self._untrained}, measure
        )

    def _gather(self, places: Mapping[int, tuple[str, int | None]], measure: str) -> Scores | None:
        usable = {
            seed: place
            for seed, place in sorted(places.items())
            if place in self._cells and carries(self._cells[place], measure)
        }
        if not usable:
            return None
        runs = [run for run, _ in usable.values()]
        cells = [self._cells[place] for place in usable.values()]
        for run, cell in zip(runs, cells):
            same_items(self.name, run, cell.items, runs[0], cells[0].items)
        if measure == ACCURACY:
            y_SP = 100.0 * stacked([cell.correct for cell in cells])
        else:
            bytes_SP = stacked([cell.bytes for cell in cells])
            if (bytes_SP != bytes_SP[0]).any():
                raise Refused(f"evaluations: {self.name}: {', '.join(runs)} state different bytes for the same items")
            y_SP = bits_per_byte(stacked([cell.nats for cell in cells]), bytes_SP[0])
        return Scores(self.name, measure, tuple(usable), cells[0].items, tuple(usable.values()), y_SP)


def column(values: Sequence[float | bool | None]) -> np.ndarray | None:
    """Numbers of a column, or None where any is missing."""
    return None if any(value is None for value in values) else np.array(values, dtype=float)


def stacked(columns: Sequence[np.ndarray | None]) -> np.ndarray:
    return np.stack([column for column in columns if column is not None])


def carries(cell: Cell, measure: str) -> bool:
    if measure == ACCURACY:
        return cell.correct is not None
    return cell.nats is not None and cell.bytes is not None and bool(cell.bytes.sum() > 0)


def same_items(benchmark: str, run: str, items: Sequence[str], other_run: str, other_items: Sequence[str]) -> None:
    if tuple(items) != tuple(other_items):
        odd = sorted(set(items) ^ set(other_items))
        raise Refused(
            f"evaluations: {benchmark}: {run} ({len(items)} items) and {other_run} ({len(other_items)} items) were not "
            f"scored on the same items; {odd[0]!r} stands in one only ({len(odd)} such). Score them on the same items"
        )


def paired(after: Scores, before: Scores) -> Pair | None:
    """The seeds that both have, on the items that both must have; None where no seed is common (yet). Raises `Refused`
    where items differ.

    Seeds are paired by number: runs of one seed share their order of data and, from a preset, their first weights.
    """
    same_items(after.benchmark, after.runs[0], after.items, before.runs[0], before.items)
    common = [seed for seed in after.seeds if seed in before.seeds]
    if not common:
        return None
    left_out = sorted(set(after.seeds) ^ set(before.seeds))
    note = f"Left out, since one side lacks them: seeds {', '.join(map(str, left_out))}." if left_out else ""
    return Pair(of_seeds(after, common), of_seeds(before, common), note)


def of_seeds(scores: Scores, seeds: Sequence[int]) -> Scores:
    """The rows of these seeds only. (A linearised table stays centred on all seeds: a difference of second order.)"""
    rows = [scores.seeds.index(seed) for seed in seeds]
    places = tuple(scores.places[row] for row in rows)
    return Scores(scores.benchmark, scores.measure, tuple(seeds), scores.items, places, scores.y_SP[rows])
