"""Quantities as a person reads them, the same in the terminal and on the page: tokens, FLOPs, time, sizes.

Each function takes a plain number and promises a short string with its unit; nothing here rounds to a false zero.
"""

from __future__ import annotations

from collections.abc import Sequence

from curricle.analysis import Finding
from curricle.analysis.finding import Part, between, number
from curricle.study import Recipe
from curricle.values import plural as plural

DECIMAL = ((10**12, "T"), (10**9, "B"), (10**6, "M"), (10**3, "k"))


def count(value: float) -> str:
    """`409600` → `410k`; three significant digits, small whole numbers as they are."""
    for size, suffix in DECIMAL:
        if value >= size * 0.9995:
            return f"{float(f'{value / size:.3g}'):g}{suffix}"
    return f"{value:.4g}"


def recipe(made: Recipe, sweep: Sequence[float] = ()) -> str:
    """How weights are moved: `muon, learning rate 0.004 constant, 2.05k tokens a batch, fp32`."""
    rates = " or ".join(f"{rate:g}" for rate in sweep or [made.learning_rate])
    mean = f", the mean of the last {made.average.last} states" if made.average else ""
    return (
        f"{made.optimizer}, learning rate {rates} {made.schedule}, {count(made.batch_tokens)} tokens a batch, "
        f"{made.precision}{mean}"
    )


def flops(value: float) -> str:
    """`3.1e13`, without the padding of the exponent."""
    mantissa, exponent = f"{value:.1e}".split("e")
    return f"{float(mantissa):g}e{int(exponent)}" if value else "0"


def duration(seconds: float) -> str:
    """`40 s`, `5 min`, `3.2 h`, `14,700 h`: accelerator time is told in hours; past a century, years say more."""
    if seconds < 1:
        return "under 1 s"
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 90 * 60:
        return f"{seconds / 60:.0f} min"
    return (
        f"{float(f'{seconds / 3600:.3g}'):,g} h" if seconds < 3.2e9 else f"{float(f'{seconds / 3.156e7:.2g}'):,g} years"
    )


def budget(unit: str, amount: float) -> str:
    """What there is to spend: `1M tokens`, `2 hours`, `12 min`, `3.1e13 FLOPs`."""
    if unit == "tokens":
        return f"{count(amount)} tokens"
    if unit == "flops":
        return f"{flops(amount)} FLOPs"
    if amount < 1:
        return duration(3600 * amount)
    said = f"{float(f'{amount:.3g}'):,g}"
    return f"{said} hour" if said == "1" else f"{said} hours"


def size(value: float) -> str:
    """Bytes in decimal units."""
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if value < 999.5 or unit == "TB":
            return f"{value:.3g} {unit}" if unit != "B" else f"{value:.0f} {unit}"
        value /= 1000
    raise AssertionError("the last unit holds everything")


def percent(share: float) -> str:
    """`25 %`; a share below one percent keeps a digit that is not 0."""
    return f"{100 * share:.2g} %" if 0 < share < 0.01 else f"{float(f'{100 * share:.3g}'):g} %"


def p_value(p: float | None) -> str:
    if p is None:
        return ""
    # Near .05 a third digit says on which side it lies.
    return "< .0001" if p < 1e-4 else f"{p:.3g}" if 0.045 < p < 0.055 else f"{p:.2g}"


def estimate(f: Finding) -> str:
    """`+12.3 points`, or that there is no number."""
    return "undefined" if f.estimate is None else number(f.estimate, f.unit, f.is_change)


def sentence(f: Finding) -> str:
    """The finding in words, without an n that is not known: a page leaves out what there is not."""
    return f.sentence() if f.n else f.sentence().replace(", n unknown.", ".", 1)


def interval(f: Finding, kind: str | None = None) -> str:
    """`+4.1 to +20.5` of that kind, or of the widest claim; empty where there is none."""
    found = f.interval(kind)
    return between(found, f.unit, f.is_change) if found else ""


def resolution(f: Finding) -> str:
    """What the interval and the corrected test allow to be said of a change; of a level, that 0 lies outside its
    interval says nothing."""
    if f.estimate is None:
        return "undefined"
    if not f.is_change:
        return ""
    if f.resolved is None:
        return "no interval"
    if not f.resolved:
        return "not resolved"
    return "resolved" if f.seeds > 1 or f.question.startswith("published") else "resolved for these weights"


def cell(value: Part) -> str:
    """A number with as many digits as a reader takes in; none for what is missing."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if not isinstance(value, float):
        return value
    value += 0.0  # no "-0"
    return f"{value:,.0f}" if 1e4 <= abs(value) < 1e12 else f"{value:.4g}"  # no exponent where one is hard to read


def spaced(name: str) -> str:
    """The name of a part or a column, as words. What stands after a colon is a name of the user's and stays."""
    ours, colon, theirs = name.partition(":")
    return ours.replace("_", " ") + colon + theirs


def short_names(names: Sequence[str]) -> dict[str, str]:
    """Each name without what all begin and end with, cut at `_`, `/`, `.` or `:`, so that columns stay narrow."""
    if len(names) < 2:
        return {name: name for name in names}
    first, shortest = names[0], min(map(len, names))
    start = end = 0
    for i in range(1, shortest):
        if any(name[:i] != first[:i] for name in names):
            break
        start = i if first[i - 1] in "_/.:" else start
    for i in range(1, shortest - start):
        if any(name[-i:] != first[-i:] for name in names):
            break
        end = i if first[-i] in "_/.:" else end
    return {name: name[start : len(name) - end] for name in names}
