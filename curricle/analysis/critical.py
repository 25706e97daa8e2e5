"""The largest share of the target's text that keeps general ability within a bound (docs/theory.md, section 9).

    critical_share(rows, share="math", general=["web", "books"], rise=0.03, relative=True)

Rows are outcomes (`outcomes.py`), one strategy for each share. Promises: nothing is extrapolated, so a share beyond
what was measured is said to be at least that; the interval is the set of shares at which the loss is not told from the
bound, and knows that a curve bends between measured shares. What two papers print is found again from their figures.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from importlib.resources import files
from typing import Any, NamedTuple

import numpy as np

from curricle.analysis.finding import ACCURACY, BITS_PER_BYTE, THESE_PROBLEMS, Finding, Interval, Part, join
from curricle.analysis.rows.arms import (
    Domains,
    Row,
    Table,
    checked,
    ends,
    items_of,
    last_stage_shares,
    noise,
    runs_of,
    scored,
    tabled,
    weighted,
    weights_of,
)
from curricle.analysis.rows.columns import typed
from curricle.study import Refused, nearest

SHARE = "% of the tokens"


def critical_share(
    rows: Iterable[Row],
    share: str,
    general: Domains,
    *,
    rise: float,
    relative: bool = False,
    before: float | Mapping[str, float] | None = None,
    target: str | None = None,
    measure: str = BITS_PER_BYTE,
    level: float = 0.95,
) -> list[Finding]:
    """The largest share of `share` in the last stage whose general loss stays within `before` + `rise` (or
    `before`·(1 + `rise`), `relative`): one finding for each general domain and, for several, one for their weighted
    mean, in percent.

    `share` is a source's name or a column. `before` is the general loss that must not rise, by default that of the rows
    at 0 tokens. Between measured shares the loss is taken as straight; the interval is the set of shares at which the
    loss is not told from the bound, widened to where the neighbouring segments' extensions would put it if the curve
    bends one way. A `target` adds its loss there, and the price: bits of the target per bit of the general. Raises
    `Refused` for fewer than two shares, and for accuracies, which are no loss.
    """
    if measure == ACCURACY:
        raise Refused(f"measure: {measure!r} rises where a model gets better; give a loss, such as {BITS_PER_BYTE!r}")
    rows = typed(rows)
    domains = weights_of(general)
    shares = last_stage_shares(rows, share)
    goal = {key: float(r["score"]) for key, r in ends(scored(rows, target, measure)).items()} if target else None
    wanted: list[tuple[str, dict[str, float]]] = [(name, {name: 1.0}) for name in domains]
    if len(domains) > 1:
        wanted.append(("weighted mean", domains))
    made = []
    for name, part in wanted:
        table = tabled([weighted(rows, part, measure), shares, *([goal] if goal else [])])
        start = _before(rows, part, measure, before)
        bound = start * (1 + rise) if relative else start + rise
        here = ends(r for r in rows if r["benchmark"] in part and r["measure"] == measure)
        made.append(_critical(name, share, table, start, bound, measure, target, level, items_of(here), runs_of(here)))
    return made


def _critical(
    name: str, share: str, table: Table, start: float, bound: float, measure: str, target: str | None, level: float,
    items: int, runs: tuple[str, ...],
) -> Finding:  # fmt: skip
    x = table.means[:, 1]
    order = np.argsort(x, kind="stable")
    if len(np.unique(x)) < 2 or len(np.unique(x)) < len(x):
        raise Refused(
            f"share: {name}: {len(x)} strategies with {len(np.unique(x))} different shares; give two or more, each once"
        )
    x, y, n = x[order], table.means[order, 0], table.counts[order]
    table = Table([table.strategies[i] for i in order], table.seeds, table.y_ASM[order])
    found = noise(table._replace(y_ASM=table.y_ASM[:, :, :1]))
    half = found.means_error(table._replace(y_ASM=table.y_ASM[:, :, :1]), level)[:, 0] if found else np.zeros(len(x))
    rows: tuple[dict[str, Part], ...] = tuple(
        {"domain": name, "strategy": table.strategies[i], "share": float(100 * x[i]), "general": float(y[i]),
         "low": float(y[i] - half[i]) if found else None, "high": float(y[i] + half[i]) if found else None,
         "seeds": int(n[i]), "bound": bound}
        for i in range(len(x))
    )  # fmt: skip
    parts: dict[str, Part] = {"domain": name, "before": start, "bound": bound, "share_of": share, "target": target}
    unit_note = "Straight lines between measured shares: where the loss bends upwards the share is larger, not smaller."
    noiseless = "" if found else "No two seeds of one strategy: no interval can be had."
    common: dict[str, Any] = {"n": items, "seeds": int(n.min()), "runs": runs, "parts": parts, "table": rows}
    subject = f"largest share of {share} that keeps {name} within {bound:.4g}"
    about = ("critical-share", subject, measure, name)
    over = np.flatnonzero(y > bound)
    low, high = _accepted(x, y, half, bound)
    intervals: tuple[Interval, ...] = ()
    if found:
        intervals = (Interval(100 * low, None if high is None else 100 * high, THESE_PROBLEMS, level),)
    if y[0] > bound:
        why = f"at {100 * x[0]:.3g} %, the smallest measured share, the loss is {y[0]:.4g}: smaller ones are needed"
        below = tuple(Interval(0.0, i.high, i.kind, i.level) for i in intervals)
        return Finding(*about, None, SHARE, below, undefined=why, note=noiseless, **common)
    if not len(over):
        note = join(["At least that: no measured share passes the bound, and nothing is extrapolated.", noiseless])
        parts["censored"] = True
        intervals = tuple(Interval(i.low, None, i.kind, i.level) for i in intervals)
        return Finding(*about, float(100 * x[-1]), SHARE, intervals, note=note, **common)
    i = int(over[0])
    at = x[i - 1] + (x[i] - x[i - 1]) * (bound - y[i - 1]) / (y[i] - y[i - 1])
    parts |= {"censored": False, "between_low": float(100 * x[i - 1]), "between_high": float(100 * x[i])}
    if target:
        goal = table.means[:, 2]
        parts["target_loss"] = float(np.interp(at, x, goal))
        slope = float((goal[i] - goal[i - 1]) / (y[i] - y[i - 1]))
        parts["price"] = -slope  # bits of the target bought by a bit more of the general
    back = "Further on the loss comes back within the bound." if (y[i:] <= bound).any() else ""
    note = join([unit_note, back, noiseless])
    return Finding(*about, float(100 * at), SHARE, intervals, note=note, **common)


def _accepted(x: np.ndarray, y: np.ndarray, half: np.ndarray, bound: float) -> tuple[float, float | None]:
    """The hull of the shares at which the loss is not told from the bound; None above where the last share is one.

    At each share the loss is bracketed: by the chord, and by the extensions of the neighbouring segments, between which
    a curve that bends one way lies. A share is left out where the whole bracket, widened by its noise, misses the
    bound. Means have intervals of ± `half`; weights of an extension are larger than 1, and count."""
    grid = np.unique(np.concatenate([np.linspace(x[0], x[-1], 2001), x]))
    i = np.clip(np.searchsorted(x, grid, side="right") - 1, 0, len(x) - 2)

    def line(a: np.ndarray, there: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The line through points a and a + 1 at the grid, NaN where there are none; and how far seeds may move it."""
        a0 = np.clip(a, 0, len(x) - 2)
        w = (grid - x[a0]) / (x[a0 + 1] - x[a0])
        value = (1 - w) * y[a0] + w * y[a0 + 1]
        squares = (half[a0] * (1 - w)) ** 2 + (half[a0 + 1] * w) ** 2
        error = np.sqrt(np.maximum(squares, np.minimum(half[a0], half[a0 + 1]) ** 2))
        return np.where(there, value, np.nan), error

    chord, e_chord = line(i, np.ones_like(i, dtype=bool))
    left, e_left = line(i - 1, i > 0)
    right, e_right = line(i + 1, i < len(x) - 2)
    sides = np.stack([left, right])
    with np.errstate(invalid="ignore"):
        lowest, highest = np.fmax(left, right), np.fmin(left, right)
        e_low = np.where(np.nan_to_num(left, nan=-np.inf) >= np.nan_to_num(right, nan=-np.inf), e_left, e_right)
        e_high = np.where(np.nan_to_num(left, nan=np.inf) <= np.nan_to_num(right, nan=np.inf), e_left, e_right)
        none = np.isnan(sides).all(axis=0)
        convex, concave = ~none & (lowest < chord), ~none & (highest > chord)
    lower = np.where(convex, np.fmin(lowest - e_low, chord - e_chord), chord - e_chord)
    upper = np.where(concave, np.fmax(highest + e_high, chord + e_chord), chord + e_chord)
    at_points = np.isin(grid, x)
    lower, upper = np.where(at_points, chord - e_chord, lower), np.where(at_points, chord + e_chord, upper)
    accepted = np.flatnonzero((lower <= bound) & (bound <= upper))
    if not len(accepted):  # every share is told from the bound, on the grid: it lies between two of its points
        inside = np.flatnonzero(chord <= bound)
        last = int(inside[-1]) if len(inside) else 0
        return float(grid[last]), None if last == len(grid) - 1 else float(grid[last + 1])
    top = int(accepted[-1])
    return float(grid[accepted[0]]), None if top == len(grid) - 1 else float(grid[top])


def _before(
    rows: Sequence[Row], domains: Mapping[str, float], measure: str, before: float | Mapping[str, float] | None
) -> float:
    """The weighted general loss that must not rise: as given, or of the one model where the last stages begin."""
    if isinstance(before, Mapping):
        missing = [name for name in domains if name not in before]
        if missing:
            raise Refused(f"before: {missing[0]!r} is missing; {nearest(missing[0], list(before))}")
        return sum(w * float(before[name]) for name, w in domains.items())
    if before is not None:
        return float(before)
    total = 0.0
    for name, w in domains.items():
        here = checked(scored(rows, name, measure), (), ("tokens", "stage_tokens"))
        at = {(str(r["strategy"]), r["seed"], r["tokens"]): float(r["score"]) for r in here}
        began: dict[int, set[float]] = {}
        for key, row in ends(here).items():
            start = at.get((*key, row["tokens"] - row["stage_tokens"]))
            if start is not None:
                began.setdefault(row["seed"], set()).add(start)
        if not began:
            raise Refused(f"{name!r} was not scored where the last stages begin, so there is no loss to stay near")
        if any(max(values) - min(values) > 1e-9 for values in began.values()):
            raise Refused(
                f"the last stages begin at different losses of {name!r}, so there is no one loss to stay near"
            )
        total += w * float(np.mean([min(values) for values in began.values()]))
    return total


# ---- what was published -------------------------------------------------------------------------------------------


class CriticalRatio(NamedTuple):
    """R = a·T^s + b: the critical share of the target after T units of tokens (arXiv:2407.17467)."""

    a: float
    s: float
    b: float

    def at(self, tokens_units: float) -> float:
        """In percent, cut to what a share can be."""
        if not tokens_units > 0:
            raise Refused(f"tokens: {tokens_units!r} is not above 0")
        return float(np.clip(100 * (self.a * tokens_units**self.s + self.b), 0.0, 100.0))


def published_continual() -> list[Finding]:
    """The critical shares that two papers print, from their own coefficients and losses: arXiv:2407.17467 at four
    sizes, and arXiv:2406.01375 by this room's estimator on its measured losses."""
    data = json.loads((files("curricle.analysis") / "published" / "continual.json").read_text(encoding="utf-8"))
    law, trade = data["critical_ratio"], data["tradeoff"]
    one = "One run each: seeds are unknown, so there is no interval."
    made = []
    for size, c in law["sizes"].items():
        share = CriticalRatio(c["a"], c["s"], c["b"]).at(law["printed_at"])
        parts: dict[str, Part] = {"size": size, "tokens_units": law["printed_at"], "printed": c["printed"]}
        made.append(Finding(
            "published-critical-share", f"{size} at {law['printed_at'] * law['tokens_unit']:.2g} tokens",
            "nats per token", "general text", share, SHARE, runs=(law["source"],), note=one, parts=parts,
        ))  # fmt: skip
    rows = [
        {"strategy": f"{100 * x:g} %", "seed": 0, "final": True, "benchmark": name, "measure": "nats per token",
         "score": score, "chemistry": x}
        for name, column in (("general text", "general"), ("chemistry text", "target"))
        for x, score in zip(trade["share"], trade[column], strict=True)
    ]  # fmt: skip
    (found,) = critical_share(
        rows, "chemistry", "general text", rise=trade["allowed_rise"], relative=True, before=trade["general_before"],
        target="chemistry text", measure="nats per token",
    )  # fmt: skip
    made.append(Finding(
        "published-critical-share", f"Qwen1.5-1.8B: {found.subject}", found.measure, found.benchmark, found.estimate,
        found.unit, runs=(trade["source"],), note=join([one, found.note]),
        parts={**found.parts, "printed": 100 * trade["printed"]}, table=found.table,
    ))  # fmt: skip
    return made
