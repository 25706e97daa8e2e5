"""Means that came without their items, as runs from elsewhere often do: levels and differences of what is known.

The spread over seeds gives an interval for these problems; a stated standard error, or for an accuracy the number of
problems, one for these weights; both together one for the strategy. Which problems each model solved is lost, so
nothing is paired over them: their variance is taken as large as it can be, as if the seeds of one strategy were lucky
on the same items and two strategies on different ones. What neither the seeds nor the statement can tell is said in
words, never left to a missing column.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from curricle.analysis.finding import (
    ACCURACY,
    PERCENT,
    THESE_PROBLEMS,
    THESE_WEIGHTS,
    THIS_STRATEGY,
    Finding,
    Interval,
    Part,
    join,
)
from curricle.analysis.rows.cells import binomial
from curricle.analysis.rows.compare import TWO_SEEDS, UNITS, lower_is_better, share_removed
from curricle.analysis.rows.outcomes import Row, outcomes
from curricle.analysis.statistics.intervals import (
    Estimate,
    Ratio,
    fieller_moments,
    impossible,
    over_seeds,
    student,
    wilson,
)

if TYPE_CHECKING:
    from curricle.results import Results

MANY = 1e6  # degrees of freedom of a variance that was stated without its n: a normal
UNSTATED = "Neither a standard error nor a number of problems was stated: nothing can be said about other problems."
UNPAIRED = "Only means were given, so problems are not paired: the interval is wider than scores by item would give."
APART = "No seed is common to both, so runs are not paired either."


@dataclass(frozen=True, slots=True)
class Mean:
    """One strategy's end on one benchmark: a mean for each seed. `variance` is that over items of the mean over seeds,
    at most (all seeds lucky on the same items); None where nobody says."""

    benchmark: str
    measure: str
    seeds: tuple[int, ...]
    y_S: np.ndarray
    items: int  # 0 where unknown
    variance: float | None
    runs: tuple[str, ...]
    bare: bool  # none of its runs has items

    def of_seeds(self, seeds: Sequence[int]) -> Mean:
        kept = [self.seeds.index(seed) for seed in seeds]
        return replace(self, seeds=tuple(seeds), y_S=self.y_S[kept], runs=tuple(self.runs[k] for k in kept))


class Known(NamedTuple):
    """The variances of a difference's mean: over seeds, over items."""

    seeds: Estimate
    items: float | None
    items_df: float


def means_of(
    results: Results, benchmark: str | None = None, measure: str | None = None
) -> dict[tuple[str, str], dict[str, Mean]]:
    """Ends by benchmark and measure, for those where some strategy has a mean alone; strategies with items stand in
    them too, as what a mean can be set against."""
    stated = {(row["run"], row["benchmark"]) for row in results.sql("SELECT DISTINCT run, benchmark FROM scores")}
    found: dict[tuple[str, str], dict[str, dict[int, Row]]] = {}
    for row in outcomes(results) if stated else ():
        if row["final"] and benchmark in (None, row["benchmark"]) and measure in (None, row["measure"]):
            of = found.setdefault((row["benchmark"], row["measure"]), {})
            of.setdefault(row["strategy"], {})[row["seed"]] = row
    made = {
        key: {name: mean_of([row for _, row in sorted(by_seed.items())], stated) for name, by_seed in of.items()}
        for key, of in found.items()
    }
    return {key: of for key, of in made.items() if any(mean.bare for mean in of.values())}


def mean_of(rows: Sequence[Row], stated: set[tuple[str, str]]) -> Mean:
    variances = [binomial(row, row["measure"]) for row in rows]
    known = [math.sqrt(v) for v in variances if v is not None]
    return Mean(
        rows[0]["benchmark"], rows[0]["measure"], tuple(row["seed"] for row in rows),
        np.array([row["score"] for row in rows], dtype=float), min(int(row["items"] or 0) for row in rows),
        float(np.mean(known)) ** 2 if len(known) == len(rows) else None,
        tuple(row["run"] for row in rows), all((row["run"], row["benchmark"]) in stated for row in rows),
    )  # fmt: skip


def level_of_mean(subject: str, mean: Mean, parts: Mapping[str, Part]) -> Finding:
    """The finding `score` of a strategy without items."""
    intervals, notes, _ = judged(Known(over_seeds(mean.y_S[:, None]), mean.variance, degrees(mean)))
    value, most = float(mean.y_S.mean()), 100.0 if mean.measure == ACCURACY else math.inf
    if mean.measure == ACCURACY and mean.items and len(mean.seeds) == 1:
        intervals = [wilson(min(value, 100.0) / 100, mean.items).scaled(100)]
    return Finding(
        "score", subject, mean.measure, mean.benchmark, value, unit_of(mean),
        tuple(i.clipped(0.0, most) for i in intervals), n=mean.items, seeds=len(mean.seeds), runs=mean.runs,
        note=join(notes), parts=dict(parts),
    )  # fmt: skip


def difference_of_means(
    question: str, subject: str, after: Mean, before: Mean, parts: Mapping[str, Part]
) -> list[Finding]:
    """After minus before and, for accuracy, the relative gain and the share of errors removed: over the seeds that both
    have, or of runs that are not paired where they have none in common."""
    common = [seed for seed in after.seeds if seed in before.seeds]
    left_out = sorted(set(after.seeds) ^ set(before.seeds))
    notes = [lower_is_better(after.measure)]
    if common:
        after, before = after.of_seeds(common), before.of_seeds(common)
        over = over_seeds((after.y_S - before.y_S)[:, None])
        moments = np.cov(before.y_S, after.y_S, ddof=1) / len(common) if len(common) > 1 else np.zeros((2, 2))
        notes += [f"Left out, since one side lacks them: seeds {', '.join(map(str, left_out))}."] if left_out else []
        notes += [TWO_SEEDS] if len(common) == 2 else []
    else:
        over = welch(after.y_S, before.y_S)
        moments = np.diag([variance_of(before.y_S), variance_of(after.y_S)])
        notes.append(APART)
    both = None if after.variance is None or before.variance is None else after.variance + before.variance
    items_df = min(degrees(after), degrees(before))
    intervals, unknown, estimates = judged(Known(over, both, items_df))
    tested = next((e for e in estimates if e.variance is not None), None)
    p_value = tested.p_value if tested else None
    test = f"t of means for {tested.kind}, {tested.df:.3g} degrees of freedom" if tested else ""
    levels: dict[str, Part] = {"after": float(after.y_S.mean()), "before": float(before.y_S.mean()), "seed_sd": None}
    if len(common) > 1:
        levels["seed_sd"] = float((after.y_S - before.y_S).std(ddof=1))
    items = min(after.items, before.items)
    plain = Finding(
        question, subject, after.measure, after.benchmark, over.value, unit_of(after), tuple(intervals), p_value, test,
        n=items, seeds=len(common) or min(len(after.seeds), len(before.seeds)), runs=(*after.runs, *before.runs),
        note=join([*notes, *([UNPAIRED] if both is not None else []), *unknown]),
        parts={**parts, **levels, "p_alone": p_value},
    )  # fmt: skip
    if after.measure != ACCURACY:
        return [plain]
    p1, p2 = float(before.y_S.mean()), float(after.y_S.mean())
    gains, errors = [], []
    for e in estimates:
        if e.variance is not None:
            seeds = moments if e.kind != THESE_WEIGHTS else np.zeros((2, 2))
            own = [before.variance or 0.0, after.variance or 0.0] if e.kind != THESE_PROBLEMS else [0.0, 0.0]
            v, t = seeds + np.diag(own), float(student(e.df, 0.95))
            gains.append(fieller_moments(p1, p2, v[0, 0], v[0, 1], v[1, 1], t, e.kind))
            errors.append(fieller_moments(100 - p1, 100 - p2, v[0, 0], v[0, 1], v[1, 1], t, e.kind))
    removed = share_removed(plain, errors or [Ratio(100 * (p1 - p2) / (100 - p1) if p1 < 100 else None, None, "")])
    removed = replace(removed, note=join([removed.note, *unknown]))
    if p1 == 0:
        why = "P₁ = 0: none of the problems was solved, so ΔP has no divisor"
        note = "The difference in points is defined."
        return [plain, replace(plain, estimate=None, unit=PERCENT, intervals=(), undefined=why, note=note), removed]
    percent = 100 * (p2 - p1) / p1
    relative = replace(
        plain, estimate=percent, unit=PERCENT, intervals=tuple(r.interval for r in gains if r.interval),
        note=join([*(r.note for r in gains), *unknown]),
    )  # fmt: skip
    return [plain, relative, removed]


def judged(known: Known) -> tuple[list[Interval], list[str], list[Estimate]]:
    """Intervals of the kinds that can be had, what must be said of the others, and the estimates, the widest first."""
    over, items = known.seeds, known.items
    estimates: list[Estimate] = []
    notes: list[str] = []
    if items is not None:
        estimates.append(Estimate(over.value, items or None, known.items_df, THESE_WEIGHTS))
    if over.variance is not None and items is not None:
        total = over.variance + items
        df = total**2 / (over.variance**2 / over.df + items**2 / known.items_df)
        estimates.insert(0, Estimate(over.value, total, max(df, 1.0), THIS_STRATEGY))
    estimates.append(over)
    if items is None:
        notes.append(UNSTATED)
    if over.variance is None:
        notes.append(over.note.replace(f" for {THESE_PROBLEMS}", " over seeds"))
    return [i for e in estimates if (i := e.interval())], notes, estimates


def welch(after: np.ndarray, before: np.ndarray) -> Estimate:
    """Two groups of runs with no seed in common (Welch 1947)."""
    value = float(after.mean() - before.mean())
    if min(len(after), len(before)) < 2:
        return Estimate(value, None, 1.0, THESE_PROBLEMS, impossible(1, 2, THESE_PROBLEMS))
    a, b = variance_of(after), variance_of(before)
    if a + b == 0:
        why = f"No variation among seeds, so no interval for {THESE_PROBLEMS}."
        return Estimate(value, None, 1.0, THESE_PROBLEMS, why)
    df = (a + b) ** 2 / (a**2 / (len(after) - 1) + b**2 / (len(before) - 1))
    return Estimate(value, a + b, df, THESE_PROBLEMS)


def variance_of(y_S: np.ndarray) -> float:
    """Of the mean over seeds; 0 for one."""
    return float(y_S.var(ddof=1)) / len(y_S) if len(y_S) > 1 else 0.0


def degrees(mean: Mean) -> float:
    return float(max(mean.items - 1, 1)) if mean.items else MANY


def unit_of(mean: Mean) -> str:
    return UNITS.get(mean.measure, mean.measure)
