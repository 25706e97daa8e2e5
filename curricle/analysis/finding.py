"""What analysis hands on: an estimate with its intervals, its n, its seeds and the runs it rests on.

A finding carries everything that a page or a sentence needs, so that a report can be made from findings alone. It
promises to be plain JSON: no number in it is infinite or undefined; where there is no number there is a reason in
words. Every interval names what it speaks about (docs/theory.md, section 0).
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

THIS_STRATEGY = "this strategy"  # problems and seeds vary: would another run, on other problems, agree?
THESE_WEIGHTS = "these weights"  # problems vary, the trained weights stay: would other problems agree?
THESE_PROBLEMS = "these problems"  # seeds vary, the problems stay: would another run agree on them?
OTHER_CANDIDATES = "other candidates"  # what is compared varies: would other mixtures or recipes be ranked as well?
KINDS = (THIS_STRATEGY, THESE_WEIGHTS, THESE_PROBLEMS)

ACCURACY = "accuracy"
BITS_PER_BYTE = "bits per byte"
LOSSES = (BITS_PER_BYTE, "nats per token")  # lower is better; of the second only means are known, from elsewhere

POINTS = "points"  # of accuracy, out of 100
PERCENT = "%"  # relative: (P₂ − P₁)/P₁·100
ERRORS = "% of the errors"  # removed: (P₂ − P₁)/(100 − P₁)·100
RATIOS = frozenset({PERCENT, ERRORS})  # of a difference: they stand beside the difference itself
BITS = "bits per byte"
BITS_PER_TOKEN = "bits per token"
LOGITS = "logits"  # of accuracy
LOG_LOSS = "log loss"  # a difference of −ln(loss): about the share by which a loss falls
KAPPA = "κ"  # synergy on the scale of effective tokens
# Digits after the point; a number in any other unit has three that are significant.
PLACES = {POINTS: 1, PERCENT: 1, ERRORS: 1, BITS: 3, BITS_PER_TOKEN: 3, LOGITS: 2, LOG_LOSS: 3, KAPPA: 2}

# Questions whose estimate is the level of one thing, so that a sign before it would say nothing.
LEVELS = {
    *("front", "critical-share", "published-critical-share"),
    *("score", "curve", "held-out", "held-out-curve"),
    *("multiplier", "transfer-law", "split", "predicted-loss", "ranks", "decision-accuracy"),
    *("saturation", "floor", "repetition", "data-constrained"),
    *("mixture", "mixture-fit", "mixture-next"),
}

NO_INTERVAL, OR_FOR = "so there is no interval for ", " or for "  # then the kind, or several

Part = float | int | str | bool | None


@dataclass(frozen=True, slots=True)
class Interval:
    """A confidence interval in the unit of its finding. A limit of None means unbounded on that side."""

    low: float | None
    high: float | None
    kind: str
    level: float = 0.95

    def contains(self, value: float) -> bool:
        return (self.low is None or self.low <= value) and (self.high is None or value <= self.high)

    def scaled(self, factor: float) -> Interval:
        """The same interval in another unit; `factor` is positive."""
        low, high = (None if x is None else x * factor for x in (self.low, self.high))
        return Interval(low, high, self.kind, self.level)

    def clipped(self, least: float, most: float) -> Interval:
        """Cut to what the quantity can be."""
        low, high = (None if x is None else min(most, max(least, x)) for x in (self.low, self.high))
        return Interval(low, high, self.kind, self.level)


@dataclass(frozen=True, slots=True)
class Finding:
    """One answered question. `estimate` is None exactly where `undefined` says why."""

    question: (
        str  # a slug: score, gain, stage-gain, contrast, curve, curve-contrast, held-out, held-out-curve, forgetting, …
    )
    subject: str  # what it is about: "code first over from scratch"
    measure: str
    benchmark: str
    estimate: float | None
    unit: str
    intervals: tuple[Interval, ...] = ()
    p_value: float | None = None
    test: str = ""  # which test gave the p-value, and over how many it was corrected
    n: int = 0  # problems, or held-out documents; 0 where unknown
    seeds: int = 1
    runs: tuple[str, ...] = ()
    undefined: str | None = None
    note: str = ""
    parts: Mapping[str, Part] = field(default_factory=dict)  # what the estimate was made of, by name
    table: tuple[Mapping[str, Part], ...] = ()  # what its figure draws, or a reader looks up: one mapping a row

    def __post_init__(self) -> None:
        limits = [x for i in self.intervals for x in (i.low, i.high, i.level)]
        cells = [x for row in self.table for x in row.values()]
        numbers = [self.estimate, self.p_value, *limits, *self.parts.values(), *cells]
        if any(isinstance(x, float) and not math.isfinite(x) for x in numbers):
            raise ValueError(f"{self.question}, {self.subject}: a number is not finite; say None and why in words")
        if (self.estimate is None) != (self.undefined is not None):
            raise ValueError(f"{self.question}, {self.subject}: without an estimate say why; with one, do not")

    def interval(self, kind: str | None = None) -> Interval | None:
        """The interval of that kind; without one, the widest claim: strategy, weights, problems, or the first."""
        for wanted in KINDS if kind is None else (kind,):
            for interval in self.intervals:
                if interval.kind == wanted:
                    return interval
        return self.intervals[0] if kind is None and self.intervals else None

    @property
    def resolved(self) -> bool | None:
        """Whether 0 is left out by the interval and by the corrected test; None where there is nothing to judge by."""
        interval = self.interval()
        if interval is None:
            return None
        return not interval.contains(0.0) and (self.p_value is None or self.p_value <= 1 - interval.level)

    def reversed(self) -> Finding:
        """The same difference seen from the other side; only for what is symmetric, so not for a relative gain."""
        if self.unit in RATIOS:
            raise ValueError(f"{self.subject}: a relative gain cannot be turned round by its sign")
        names = {"strategy": "against", "against": "strategy", "after": "before", "before": "after"}
        a, b = self.parts["strategy"], self.parts["against"]
        return replace(
            self,
            subject=self.subject.replace(f"{a} over {b}", f"{b} over {a}"),
            estimate=None if self.estimate is None else -self.estimate,
            intervals=tuple(
                Interval(None if i.high is None else -i.high, None if i.low is None else -i.low, i.kind, i.level)
                for i in self.intervals
            ),
            parts={names.get(key, key): value for key, value in self.parts.items()},
        )

    def to_json(self) -> dict[str, Any]:
        """Plain JSON types, `intervals`, `runs` and `table` as lists."""
        lists = {"intervals": [asdict(i) for i in self.intervals], "runs": list(self.runs)}
        return {**asdict(self), **lists, "table": [dict(row) for row in self.table]}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Finding:
        intervals = tuple(Interval(**i) for i in value["intervals"])
        table = tuple(value.get("table", ()))
        return cls(**{**value, "intervals": intervals, "runs": tuple(value["runs"]), "table": table})

    def sentence(self) -> str:
        """The finding in words: subject, benchmark, estimate, intervals by kind, test, n and seeds."""
        on = f"{self.subject}, {self.measure} on {self.benchmark}"
        if self.estimate is None:
            return f"{on}: undefined ({self.undefined})."
        signed = self.is_change
        said = [f"{on}: {number(self.estimate, self.unit, signed)}"]
        if self.intervals:
            said.append(f"({'; '.join(f'{i.kind} {between(i, self.unit, signed)}' for i in self.intervals)})")
        if self.p_value is not None:
            said.append(f"p = {self.p_value:.2g} [{self.test}]" if self.p_value >= 1e-4 else f"p < .0001 [{self.test}]")
        size = f"n = {self.n:,}, {self.seeds} seed{'s' * (self.seeds != 1)}" if self.n else "n unknown"
        return f"{' '.join(said)}, {size}.{' ' + self.note if self.note else ''}"

    @property
    def is_change(self) -> bool:
        """Whether it compares two things, so that its sign matters; otherwise it is the level of one."""
        return self.question not in LEVELS and not self.question.startswith("bound")


def number(value: float, unit: str, signed: bool = True) -> str:
    """A number as a person reads it: `+12.3 points`, `-0.045 bits per byte`, `+153.1 %`."""
    shown = digits(value, unit, signed)
    return f"{shown} {unit}"


def digits(value: float, unit: str, signed: bool = True) -> str:
    if unit not in PLACES:
        return significant(value, signed)
    places = PLACES[unit]
    value = round(value, places) + 0.0  # no "-0.0"
    return f"{value:+.{places}f}" if signed and value else f"{value:.{places}f}"


def significant(value: float, signed: bool = True) -> str:
    """Three significant digits; from a thousand on by its suffix: 1.79k, 4.56B; past 999T as a power of ten."""
    sign, size = "+" if signed and value > 0 else "-" if value < 0 else "", abs(value)
    if 999.5 <= size < 999.5e12:
        power = next(p for p in (3, 6, 9, 12) if size < 999.5 * 10**p)
        return f"{sign}{size / 10**power:.3g}{'kMBT'[power // 3 - 1]}"
    return f"{sign}{size:.3g}"


def short(value: float | int | str | bool | None) -> str:
    """A size without a sign: 12.3k; `?` where there is none."""
    return significant(value, signed=False) if isinstance(value, (int, float)) else "?"


def between(interval: Interval, unit: str, signed: bool = True) -> str:
    """`+4.1 to +20.5`; an unbounded side is said in words."""
    if interval.low is None and interval.high is None:
        return "unbounded"
    if interval.low is None:
        return f"up to {digits(interval.high or 0.0, unit, signed)}, unbounded below"
    if interval.high is None:
        return f"from {digits(interval.low, unit, signed)}, unbounded above"
    return f"{digits(interval.low, unit, signed)} to {digits(interval.high, unit, signed)}"


def join(notes: Iterable[str]) -> str:
    """Notes as sentences, each once, in order. Sentences that say of several kinds why there is no interval are one."""
    made: dict[str, list[str]] = {}
    for note in notes:
        for sentence in re.split(r"(?<=[.!?]) (?=[A-Z])", note):
            said, told, kinds = sentence.partition(NO_INTERVAL)
            joined = made.setdefault(said + told, [])
            if told:  # what was joined before is taken apart again
                joined += [kind for kind in kinds.removesuffix(".").split(OR_FOR) if kind not in joined]
    return " ".join(f"{said}{OR_FOR.join(kinds)}." if kinds else said for said, kinds in made.items() if said)
