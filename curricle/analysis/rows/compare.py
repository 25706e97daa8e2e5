"""From tables of scores to findings: the level of one model, the difference of two, the relative gain, and the
correction for many. Every question of this room asks these four; they promise the same units, intervals, tests and
notes wherever a number appears.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from curricle.analysis.finding import (
    ACCURACY,
    BITS,
    BITS_PER_BYTE,
    ERRORS,
    KINDS,
    LOSSES,
    PERCENT,
    POINTS,
    THESE_WEIGHTS,
    Finding,
    Interval,
    Part,
    join,
)
from curricle.analysis.rows.scores import Scores, paired
from curricle.analysis.statistics.intervals import Estimate, Ratio, estimates, fieller, holm, normal, wilson
from curricle.values import plural

UNITS = {ACCURACY: POINTS, BITS_PER_BYTE: BITS}
NOTHING_WRONG = "P₁ = 100: nothing was wrong, so no error is there to be removed"
SAME_RUNS = "Both are the same runs, so the difference is exactly 0."
ALIKE = (
    "No problem was solved by one and not by the other, so nothing varies; the interval is the score interval of a "
    "paired difference (Tango 1998)."
)
TWO_SEEDS = "With 2 seeds the interval for this strategy holds the truth in about 90 to 98 % of cases, not 95 %."


def lower_is_better(measure: str) -> str:
    """What the sign of a difference says, where that is not plain: of a loss, in whatever unit."""
    if measure not in LOSSES:
        return ""
    return f"{measure[:1].upper()}{measure[1:]}: lower is better, so a negative difference is a gain."


def level(question: str, subject: str, scores: Scores, parts: Mapping[str, Part]) -> Finding:
    """The mean score of one model over items and seeds."""
    s, n = scores.y_SP.shape
    mean = float(scores.y_SP.mean())
    intervals, notes = said(estimates(scores.y_SP))
    if scores.measure == ACCURACY and not scores.y_SP.std():
        # All right or all wrong, in every seed: a t interval would have no width.
        intervals, notes = [wilson(mean / 100, n).scaled(100)], []
    intervals = [i.clipped(0.0, 100.0 if scores.measure == ACCURACY else math.inf) for i in intervals]
    return Finding(
        question, subject, scores.measure, scores.benchmark, mean, UNITS[scores.measure], tuple(intervals),
        n=n, seeds=s, runs=scores.runs, note=join(notes), parts=dict(parts),
    )  # fmt: skip


def difference(question: str, subject: str, after: Scores, before: Scores, parts: Mapping[str, Part]) -> Finding | None:
    """After minus before, item by item and seed by seed: points of accuracy, or bits per byte."""
    pair = paired(after, before)
    if pair is None:
        return None
    d_SP, lower = pair.after.y_SP - pair.before.y_SP, lower_is_better(after.measure)
    found, test, p_value = estimates(d_SP), "", None
    intervals, notes = said(found)
    mean = float(d_SP.mean())
    if pair.after.places == pair.before.places:
        mean, p_value, test = 0.0, 1.0, "the same runs"
        intervals, notes = [Interval(0.0, 0.0, kind) for kind in KINDS], [SAME_RUNS]
    else:
        tested = next((e for e in found if e.variance is not None), None)
        if tested:
            p_value, test = tested.p_value, f"paired t for {tested.kind}, {tested.df:.3g} degrees of freedom"
        elif not d_SP.any():
            notes = ["Both score the same on every item in every seed, so there is no variation and no interval."]
            if after.measure == ACCURACY and d_SP.shape[1] > 1:
                intervals, notes = [never_apart(d_SP.shape[1])], [ALIKE]
    if d_SP.shape[0] == 2:
        notes.append(TWO_SEEDS)
    return Finding(
        question, subject, after.measure, after.benchmark, mean, UNITS[after.measure], tuple(intervals), p_value, test,
        n=d_SP.shape[1], seeds=d_SP.shape[0], runs=(*pair.after.runs, *pair.before.runs),
        note=join([lower, *notes, pair.note]), parts={**parts, **means(pair.after, pair.before), "p_alone": p_value},
    )  # fmt: skip


def relative(question: str, subject: str, after: Scores, before: Scores, parts: Mapping[str, Part]) -> Finding | None:
    """ΔP = (P₂ − P₁)/P₁·100 with Fieller's interval of each kind; undefined, and said so, at P₁ = 0.

    Its test is the one of the difference, since ΔP is 0 exactly where the difference is.
    """
    plain, pair = difference(question, subject, after, before, parts), paired(after, before)
    if plain is None or pair is None:
        return None
    ratios = [fieller(pair.before.y_SP, pair.after.y_SP, kind) for kind in KINDS]
    percent = ratios[0].percent
    if percent is None:
        why = f"P₁ = 0: none of {plain.n:,} problems was solved in {plural(plain.seeds, 'seed')}, so ΔP has no divisor"
        return replace(
            plain, estimate=None, unit=PERCENT, intervals=(), undefined=why, note="The difference in points is defined."
        )
    if pair.after.places == pair.before.places:
        return replace(plain, unit=PERCENT)
    intervals = tuple(ratio.interval for ratio in ratios if ratio.interval)
    notes = [ratio.note for ratio in ratios]
    return replace(plain, estimate=percent, unit=PERCENT, intervals=intervals, note=join([*notes, pair.note]))


def errors_removed(
    question: str, subject: str, after: Scores, before: Scores, parts: Mapping[str, Part]
) -> Finding | None:
    """(P₂ − P₁)/(100 − P₁)·100, the share of what was wrong before that is right now, with Fieller's interval of each
    kind: the relative gain of the errors, its sign turned. Undefined, and said so, at P₁ = 100."""
    plain, pair = difference(question, subject, after, before, parts), paired(after, before)
    if plain is None or pair is None:
        return None
    if pair.after.places == pair.before.places:
        return replace(plain, unit=ERRORS)
    ratios = [fieller(100.0 - pair.before.y_SP, 100.0 - pair.after.y_SP, kind) for kind in KINDS]
    found = share_removed(plain, ratios)
    return replace(found, note=join([found.note, pair.note]))


def share_removed(plain: Finding, ratios: Sequence[Ratio]) -> Finding:
    """A difference in points as a share of the errors, from the relative gains of the errors."""
    if not ratios or ratios[0].percent is None:
        note = "The difference in points is defined."
        return replace(plain, estimate=None, unit=ERRORS, intervals=(), undefined=NOTHING_WRONG, note=note)
    intervals = tuple(turned(ratio.interval) for ratio in ratios if ratio.interval)
    notes = join(ratio.note.replace("the score divided by", "the errors before") for ratio in ratios)
    return replace(plain, estimate=0.0 - ratios[0].percent, unit=ERRORS, intervals=intervals, note=notes)


def turned(i: Interval) -> Interval:
    low, high = (None if x is None else 0.0 - x for x in (i.high, i.low))
    return Interval(low, high, i.kind, i.level)


def both(
    question: str, subject: str, after: Scores, before: Scores, parts: Mapping[str, Part], *, errors: bool = False
) -> list[Finding]:
    """The difference and, for accuracy, the relative gain beside it; with `errors` the share of errors removed too."""
    kinds: list[Callable[..., Finding | None]] = [difference]
    if after.measure == ACCURACY:
        kinds += [relative, *([errors_removed] if errors else [])]
    return [found for make in kinds if (found := make(question, subject, after, before, parts))]


def never_apart(n: int, level: float = 0.95) -> Interval:
    """Of the difference in points where none of n problems was solved by one and not by the other: the score interval
    of a paired difference (Tango 1998), ±100·z²/(n + z²) where no pair differs. Several seeds count as one, which can
    only make it wider."""
    most = 100 * normal(level) ** 2 / (n + normal(level) ** 2)
    return Interval(-most, most, THESE_WEIGHTS, level)


def means(after: Scores, before: Scores) -> dict[str, Part]:
    """Both levels, and the spread of the difference over seeds (its standard deviation), for tables and figures."""
    d_S = (after.y_SP - before.y_SP).mean(axis=1)
    spread = float(d_S.std(ddof=1)) if len(d_S) > 1 else None
    return {"after": float(after.y_SP.mean()), "before": float(before.y_SP.mean()), "seed_sd": spread}


def said(found: Sequence[Estimate]) -> tuple[list[Interval], list[str]]:
    """The intervals that there are, and what must be said about them."""
    intervals = [interval for e in found if (interval := e.interval())]
    return intervals, [e.note for e in found]


def holm_adjusted(
    findings: Sequence[Finding],
    family: Callable[[Finding], object],
    test: Callable[[Finding], object] | None = None,
) -> list[Finding]:
    """Findings with p-values adjusted within each family (Holm 1979). A difference and its ratios are one
    test, and so is a stage that strategies share: they are counted once. `test` says which findings are one."""
    same = test or one_test
    tests: dict[object, dict[object, float]] = {}
    for f in findings:
        if f.p_value is not None:
            tests.setdefault(family(f), {})[same(f)] = f.p_value
    adjusted = {key: dict(zip(alone, holm(list(alone.values())))) for key, alone in tests.items()}
    made = []
    for f in findings:
        among = adjusted.get(family(f), {})
        many = f.p_value is not None and len(among) > 1
        made.append(replace(f, p_value=among[same(f)], test=f"{f.test}; Holm over {len(among)}") if many else f)
    return made


def one_test(f: Finding) -> object:
    """What makes two p-values the same test: the runs, what they were scored on, and where on a curve."""
    return f.runs, f.benchmark, f.measure, f.parts.get("tokens")


def one_benchmark(f: Finding) -> object:
    """The usual family: one question on one benchmark in one measure."""
    return f.question, f.benchmark, f.measure
