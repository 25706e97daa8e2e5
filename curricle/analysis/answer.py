"""The study's question, answered in a sentence made from findings alone.

It names each strategy's gain over the baseline on the target, then the pairs that the study asks to compare (where a
claim such as "code, rather than any text" is decided), or the best strategy against the second best. It says what is
resolved and what is not, and why; it draws no conclusion that an interval does not carry.
"""

from __future__ import annotations

from collections.abc import Sequence

from curricle.analysis.finding import ACCURACY, BITS_PER_BYTE, PERCENT, RATIOS, Finding, between, number


def answer(
    findings: Sequence[Finding],
    question: str,
    target: str,
    measure: str | None = None,
    compare: Sequence[tuple[str, str]] = (),
) -> str:
    """One sentence on the target (a benchmark, or a source for its held-out text) in that measure; when left out,
    accuracy, or bits per byte where there is none."""
    on_target = [f for f in findings if f.benchmark == target and f.unit not in RATIOS]
    if measure is None:
        measure = ACCURACY if any(f.measure == ACCURACY for f in on_target) else BITS_PER_BYTE
    on_target = [f for f in on_target if f.measure == measure]
    gains = [f for f in on_target if f.question == "gain"]
    if not gains:
        return f"{question} Not answered yet: no two strategies have been scored on {target}."
    said = [f"{f.subject} {verdict(f, percent_beside(findings, f))}" for f in gains]
    for one, other in compare:
        pair = between_strategies(on_target, one, other)
        if pair and pair.question != "gain":  # a gain was said already
            said.append(f"{pair.subject} {verdict(pair)}")
    first = None if compare else best_two(on_target, measure)
    if first and first.question != "gain":
        said.append(f"the best over the second best, {first.subject}, {verdict(first)}")
    seeds, n = {f.seeds for f in gains}, {f.n for f in gains}
    size = f"{min(n):,} items, {min(seeds)} seed{'s' * (min(seeds) != 1)}"
    lower = "; lower is better" if measure == BITS_PER_BYTE else ""
    return f"{question} On {target} ({measure}{lower}; {size}): {'; '.join(said)}."


def percent_beside(findings: Sequence[Finding], plain: Finding) -> Finding | None:
    """The relative gain that belongs to a difference."""
    same = (plain.question, plain.subject, plain.benchmark, plain.measure)
    beside = (f for f in findings if (f.question, f.subject, f.benchmark, f.measure) == same and f.unit == PERCENT)
    return next(beside, None)


def verdict(f: Finding, percent: Finding | None = None) -> str:
    """`+12.3 points (+25.1 %; this strategy +4.1 to +20.5; resolved)`."""
    if f.estimate is None:
        return f"undefined: {f.undefined}"
    inside = []
    if percent:
        inside.append("relative gain undefined" if percent.estimate is None else number(percent.estimate, PERCENT))
    interval = f.interval()
    if interval is None:
        return f"{number(f.estimate, f.unit)} ({'; '.join([*inside, 'not resolved: no interval can be had'])})"
    inside.append(f"{interval.level:.0%} interval for {interval.kind} {between(interval, f.unit)}")
    if f.resolved:
        better = (f.estimate > 0) == (f.measure == ACCURACY)
        inside.append(f"resolved: {'better' if better else 'worse'}")
        if f.seeds == 1:
            inside.append("for these weights only: one seed")
    elif interval.contains(0.0):
        inside.append("not resolved: the interval includes 0")
    else:
        inside.append(f"not resolved: p = {f.p_value:.2g} once corrected ({f.test.rpartition('; ')[2]})")
    return f"{number(f.estimate, f.unit)} ({'; '.join(inside)})"


def best_two(on_target: Sequence[Finding], measure: str) -> Finding | None:
    """The finding that sets the best strategy against the second best, the better one first."""
    levels = [f for f in on_target if f.question == "score" and f.estimate is not None]
    ranked = sorted(levels, key=lambda f: f.estimate or 0.0, reverse=measure == ACCURACY)
    if len(ranked) < 2:
        return None
    return between_strategies(on_target, ranked[0].subject, ranked[1].subject)


def between_strategies(on_target: Sequence[Finding], one: str, other: str) -> Finding | None:
    """The difference of two strategies, `one` first."""
    for f in on_target:
        if f.question in {"gain", "contrast"} and {f.parts["strategy"], f.parts["against"]} == {one, other}:
            return f if f.parts["strategy"] == one else f.reversed()
    return None
