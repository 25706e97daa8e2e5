"""Which points of a study make a curve over budgets, and what must be said of where they come from.

A law of budgets is one of ends. A point on the way of a run is not the end of a shorter one: its learning rate had not
come down as it does at an end. So ends of runs of different budgets are taken before points on the way, and where there
are only such points, a note says what the learning rate was.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from curricle.analysis.asked.asking import Asked
from curricle.analysis.finding import Finding, join
from curricle.analysis.rows.outcomes import DOSE

Row = Mapping[str, Any]
LADDER = 4  # budgets that ended, from which on their ends alone are a curve


class Line(NamedTuple):
    """Rows that one law is fitted to, and what must be said of where its points come from."""

    rows: list[Row]
    note: str


def lines(asked: Asked, group: Sequence[Row]) -> list[Line]:
    """The curves in one benchmark's losses: the ends of runs that differ in their budget alone where there are such,
    else each strategy along its last stage."""
    made, taken = [], set()
    for rungs in ladders(group):
        names = [row["strategy"] for row in sorted(rungs, key=lambda row: row["tokens"])]
        both = f"{names[0]} to {names[-1]}"
        budgets = len({row["tokens"] for row in rungs})
        said = f"The points are the ends of runs of {budgets} budgets, each with a schedule of its own."
        made.append(Line([{**row, "strategy": both} for row in rungs], said))
        taken |= set(names)
    for rows in by_strategy(group):
        last = max(row["position"] for row in rows)
        if rows[0]["strategy"] not in taken:
            along = [row for row in rows if row["position"] == last]
            made.append(Line(along, rates_on_the_way(asked, along)))
    return made


def ladders(group: Sequence[Row]) -> list[list[Row]]:
    """Ends of strategies of one stage that differ in their budget alone: the same shares and FLOPs per token."""
    found: dict[tuple[Any, ...], list[Row]] = {}
    for row in group:
        named = [key for key in row if key.startswith(DOSE)]
        if not (row["final"] and row["position"] == 0 and row["tokens"] and named):
            continue
        shares = tuple(round((row[key] or 0.0) / row["tokens"], 2) for key in sorted(named))
        size = None if not row["flops"] else round(math.log(row["flops"] / row["tokens"]), 1)
        found.setdefault((shares, size), []).append(row)
    return [rungs for rungs in found.values() if len({row["tokens"] for row in rungs}) >= LADDER]


def rates_on_the_way(asked: Asked, rows: Sequence[Row]) -> str:
    """What the learning rate was where a strategy was scored before its end, in words; empty where it was not."""
    end = max(row["stage_tokens"] or 0 for row in rows)
    points = sorted({row["stage_tokens"] for row in rows if 0 < (row["stage_tokens"] or 0) < end})
    if not points:
        return ""
    steps = asked.results.sql(
        "SELECT tokens, lr FROM steps WHERE run = ? AND lr IS NOT NULL ORDER BY tokens", [rows[0]["run"]]
    )
    peak = max((step["lr"] for step in steps), default=0.0)
    if not peak:
        return "Points on the way count as ends, and what the learning rate was there is not told."
    least, most = math.inf, 0.0
    for point in points:
        rate = max((step for step in steps if step["tokens"] <= point), key=lambda s: s["tokens"], default=steps[0])
        least, most = min(least, rate["lr"]), max(most, rate["lr"])
    last = steps[-1]["lr"]
    if min(least, last) > 0.95 * peak:
        return "Points on the way count as ends; the learning rate was the same at all of them (it never came down)."
    where = f"{least / peak:.0%}" if most < 1.01 * least else f"{least / peak:.0%} to {most / peak:.0%}"
    return (
        f"Points on the way count as ends, but the learning rate was at {where} of its peak there and at "
        f"{last / peak:.0%} at the end: runs of those budgets alone would have come down too."
    )


def by_strategy(group: Sequence[Row]) -> list[list[Row]]:
    names = dict.fromkeys(row["strategy"] for row in group)
    return [[row for row in group if row["strategy"] == name] for name in names]


def noted(found: Finding | Iterable[Finding], note: str) -> list[Finding]:
    """Findings with one more sentence."""
    listed = [found] if isinstance(found, Finding) else list(found)
    return [replace(finding, note=join([finding.note, note])) for finding in listed]
