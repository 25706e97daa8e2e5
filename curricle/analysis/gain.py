"""What a strategy gave, and what each of its stages gave: the first question of docs/theory.md (section 1).

Four ways to say a gain stand side by side: the difference in points, the relative gain ΔP = (P₂ − P₁)/P₁·100 (which
multiplies along a chain), the share of the errors that it removed (which compares gains near the top), and the
difference in bits per byte, which is smooth where accuracy is on its floor. Each comes with an interval of each kind.
`compare_scores` says the same about two published numbers.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from typing import TYPE_CHECKING, Any

from curricle.analysis.finding import THESE_WEIGHTS, Finding, Interval, Part
from curricle.analysis.rows.compare import both, holm_adjusted, level, one_benchmark, turned
from curricle.analysis.rows.means import difference_of_means, level_of_mean, means_of
from curricle.analysis.rows.scores import (
    Benchmark,
    Scores,
    StageRuns,
    StrategyRuns,
    baseline_of,
    benchmarks,
    strategies,
)
from curricle.analysis.statistics.intervals import binomial_variance, fieller_proportions, normal
from curricle.study import Refused, nearest

if TYPE_CHECKING:
    from curricle.results import Results


def measured(
    results: Results, benchmark: str | None, measure: str | None, kind: str | None = None
) -> Iterator[tuple[Benchmark, str]]:
    """Each benchmark with each measure that its rows carry; or the one that is asked for."""
    known = benchmarks(results, kind)
    alone = [row["benchmark"] for row in results.sql("SELECT DISTINCT benchmark FROM scores")]
    if benchmark is not None and benchmark not in (*known, *alone):
        raise Refused(f"benchmark: {benchmark!r} has no rows; {nearest(benchmark, [*known, *alone])}")
    for name in known if benchmark is None else [benchmark] if benchmark in known else []:
        read = Benchmark(results, name)
        for each in read.measures:
            if measure in (None, each):
                yield read, each


def scores(results: Results, benchmark: str | None = None, measure: str | None = None) -> list[Finding]:
    """The score of each strategy at its end, from its items, or from means where those are all there is."""
    made = [
        level("score", strategy.name, end, {"strategy": strategy.name, "baseline": strategy.baseline})
        for read, each in measured(results, benchmark, measure)
        for strategy in strategies(results)
        if (end := read.final(strategy.stages[-1], each))
    ]
    baselines = {strategy.name: strategy.baseline for strategy in strategies(results)}
    return made + [
        level_of_mean(name, mean, {"strategy": name, "baseline": baselines[name]})
        for of in means_of(results, benchmark, measure).values()
        for name, mean in of.items()
        if mean.bare
    ]


def gain(results: Results, benchmark: str | None = None, measure: str | None = None) -> list[Finding]:
    """Each strategy at its end against the baseline at its end, Holm-adjusted over the strategies."""
    found = strategies(results)
    base = baseline_of(found)
    others = [strategy for strategy in found if strategy is not base]
    pairs = [(strategy, base) for strategy in others if base]
    return _contrasts(results, "gain", pairs, benchmark, measure)


def contrasts(results: Results, benchmark: str | None = None, measure: str | None = None) -> list[Finding]:
    """Every two strategies other than the baseline against each other, Holm-adjusted over the pairs."""
    others = [strategy for strategy in strategies(results) if not strategy.baseline]
    return _contrasts(results, "contrast", list(combinations(others, 2)), benchmark, measure)


def contrast(
    results: Results, a: str, b: str, benchmark: str | None = None, measure: str | None = None
) -> list[Finding]:
    """Strategy `a` over strategy `b`, each at its end; one comparison, so nothing is adjusted within a benchmark."""
    named = {strategy.name: strategy for strategy in strategies(results)}
    for name in (a, b):
        if name not in named:
            raise Refused(f"strategy: {name!r} has no rows; {nearest(name, named)}")
    return _contrasts(results, "contrast", [(named[a], named[b])], benchmark, measure)


def _contrasts(
    results: Results,
    question: str,
    pairs: Sequence[tuple[StrategyRuns, StrategyRuns]],
    benchmark: str | None,
    measure: str | None,
) -> list[Finding]:
    made: list[Finding] = []
    for read, each in measured(results, benchmark, measure):
        for a, b in pairs:
            after, before = read.final(a.stages[-1], each), read.final(b.stages[-1], each)
            if after and before:
                parts = {"strategy": a.name, "against": b.name}
                made += both(question, f"{a.name} over {b.name}", after, before, parts, errors=True)
    for of in means_of(results, benchmark, measure).values():
        for a, b in pairs:
            after_mean, before_mean = of.get(a.name), of.get(b.name)
            if after_mean and before_mean and (after_mean.bare or before_mean.bare):
                parts = {"strategy": a.name, "against": b.name}
                made += difference_of_means(question, f"{a.name} over {b.name}", after_mean, before_mean, parts)
    return holm_adjusted(made, one_benchmark)


def before_stage(read: Benchmark, strategy: StrategyRuns, stage: StageRuns, measure: str) -> tuple[str, Scores] | None:
    """What a stage began from, by name: the stage before it, or the model before any training, if that was scored."""
    earlier = [s for s in strategy.stages if s.position < stage.position]
    name = earlier[-1].name if earlier else "before training"
    found = read.final(earlier[-1], measure) if earlier else read.untrained(stage, measure)
    return (name, found) if found else None


def stage_gains(results: Results, benchmark: str | None = None, measure: str | None = None) -> list[Finding]:
    """Each stage of each strategy, on problems: its end against what it began from. (For text, see `forgetting`.)"""
    made: list[Finding] = []
    for read, each in measured(results, benchmark, measure, kind=None if benchmark else "problems"):
        for strategy in strategies(results):
            for stage in strategy.stages:
                after, start = read.final(stage, each), before_stage(read, strategy, stage, each)
                if after and start:
                    name, before = start
                    parts: dict[str, Part] = {
                        "strategy": strategy.name, "stage": stage.name, "position": stage.position,
                        "since": name, "budget_tokens": stage.budget_tokens,
                    }  # fmt: skip
                    made += both("stage-gain", f"{stage.name} in {strategy.name}", after, before, parts, errors=True)
    return holm_adjusted(made, one_benchmark)


# ---- two numbers ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two accuracies and what lies between them. Intervals are there where the numbers of problems are known."""

    before: float  # percent correct
    after: float
    relative_gain_percent: float | None
    absolute_points: float
    error_reduction_percent: float | None  # the share of what was wrong before that is right now
    relative_interval: Interval | None = None
    absolute_interval: Interval | None = None
    error_reduction_interval: Interval | None = None
    z: float | None = None  # difference over its unpooled standard error
    p_value: float | None = None
    undefined: str | None = None  # why there is no relative gain
    note: str = ""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def compare_scores(p1: float, p2: float, n1: int | None = None, n2: int | None = None) -> Comparison:
    """The gain from `p1` to `p2`, accuracies in percent; with n problems (n2 = n1 when left out), its intervals.

    The two are taken as independent binomials: published scores do not say which problems each model solved, so the
    pairing is lost. The interval speaks about these weights; one run each says nothing about another run. Raises
    `Refused` for what is no accuracy.
    """
    for name, p in (("from", p1), ("to", p2)):
        if not 0 <= p <= 100:
            raise Refused(f"{name}: {p:g} is not an accuracy in percent; give a number from 0 to 100")
    for n in (n1, n2):
        if n is not None and n < 1:
            raise Refused(f"problems: {n} is not a number of problems; give 1 or more")
    difference = p2 - p1
    undefined = None if p1 > 0 else "P₁ = 0: there is nothing to divide by, so a relative gain is undefined"
    percent = None if undefined else 100 * difference / p1
    error_reduction = None if p1 == 100 else 100 * difference / (100 - p1)
    n2 = n1 if n2 is None else n2
    if n1 is None or n2 is None:
        note = "Without the number of problems there is no interval."
        return Comparison(p1, p2, percent, difference, error_reduction, undefined=undefined, note=note)
    ratio = fieller_proportions(p1 / 100, n1, p2 / 100, n2)
    wrong = fieller_proportions(1 - p1 / 100, n1, 1 - p2 / 100, n2).interval
    error = 100 * (binomial_variance(p1 / 100, n1) + binomial_variance(p2 / 100, n2)) ** 0.5
    half = normal(0.95) * error
    z = difference / error
    return Comparison(
        p1, p2, percent, difference, error_reduction, ratio.interval,
        Interval(difference - half, difference + half, THESE_WEIGHTS), turned(wrong) if wrong else None, z,
        two_sided(z), undefined, note="" if undefined else ratio.note,
    )  # fmt: skip


def two_sided(z: float) -> float:
    """The two-sided normal p-value."""
    from math import erfc, sqrt

    return erfc(abs(z) / sqrt(2))
