"""Whether sources come to an end and why, asked of a study's rows: where doublings stop paying, what repeats are worth,
where floors lie, and which of the two (or a slow fall) ended a source.

A source's own curve is that of a strategy of one stage which reads nothing else. Every other source is set against the
best, the one with the lowest loss at the largest budget that all of them have. Raises `Refused` where the rows hold no
such strategies.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from curricle.analysis.asked.asking import Asked
from curricle.analysis.asked.budgets import Line, lines, noted
from curricle.analysis.asked.designs import answered, losses
from curricle.analysis.finding import Finding, join
from curricle.analysis.pools import Pools, pools_of
from curricle.analysis.repetition import repetition
from curricle.analysis.rows.compare import holm_adjusted, one_benchmark
from curricle.analysis.rows.outcomes import DOSE
from curricle.analysis.saturation import floors, saturation, why_saturated
from curricle.analysis.statistics.repeats import R_STAR
from curricle.study import Refused

Row = Mapping[str, Any]
ALONE = "no strategies of one stage that read one source alone, of two sources, each scored at budgets enough for a law"


class Source(NamedTuple):
    """One source read alone: its points, what must be said of them, and the pool of each, where it is known."""

    name: str
    rows: list[Row]
    note: str


def saturations(asked: Asked) -> list[Finding]:
    """Each curve of the last stage; with the pools that it reads, where rows say how much of each source there is."""

    def one(line: Line) -> list[Finding]:
        pools = pools_of(asked.results, line.rows)
        known = [pool for pool in pools if pool is not None]
        return noted(saturation(line.rows, unique_tokens=known if len(known) == len(pools) else None), line.note)

    return answered(lambda line=line: one(line) for group in losses(asked) for line in lines(asked, group))


def repetitions(asked: Asked) -> list[Finding]:
    """R* of each source that one model read from its pool again and again, from scratch and with nothing else; p-values
    are Holm-adjusted over the sources on one benchmark in one measure."""

    def attempts() -> Iterator[Any]:
        for group in losses(asked):
            by: dict[tuple[str, float], list[Row]] = {}
            for row in with_pools(asked, [row for row in group if not row["position"] and row["stage_tokens"]]):
                source = only_source(row)
                if source is not None and row["unique_tokens"] is not None:
                    size = round(math.log(row["flops"] / row["tokens"]), 1) if row["flops"] else 0.0
                    by.setdefault((source, size), []).append(row)
            for (source, _), rows in by.items():
                yield lambda r=rows, s=source: named(s, repetition(r, tokens="stage_tokens"))

    made = answered(attempts())
    if not made:
        raise Refused(
            "no strategy whose first stage reads one source alone, with its available_tokens known; repeats are seen "
            "where such a source is read more than twice"
        )
    return corrected(made)


def corrected(found: Sequence[Finding]) -> list[Finding]:
    """Sources on one benchmark are a family (Holm): whether repeats fade is claimed by the adjusted p-value."""
    made = []
    for before, f in zip(found, holm_adjusted(found, one_benchmark, id)):
        fades = f.p_value is not None and f.p_value <= 0.05
        taken_back = bool(before.parts["repeats_fade"]) and not fades
        note = "Corrected for the sources asked about, repeats as good as new tokens are not ruled out." * taken_back
        made.append(replace(f, parts={**f.parts, "repeats_fade": fades}, note=join([f.note, note])))
    return made


def named(source: str, found: Finding) -> Finding:
    return replace(found, subject=f"{source}: {found.subject}")


def floors_of_sources(asked: Asked) -> list[Finding]:
    """The floor of each source less the best one's; in new tokens where a pool was read past its end."""

    def ask(rows: list[Row], a: str, b: str) -> list[Finding]:
        pools = pools_of(asked.results, rows)
        most = max((pool.epochs(row["stage_tokens"]) for row, pool in zip(rows, pools) if pool), default=0.0)
        again = (
            f"Text was read up to {most:.3g} times: budgets are in new tokens, by R* = {R_STAR}." if most > 1 else ""
        )
        return noted(floors(in_new_tokens(rows, pools), a, b), again)

    return against_the_best(asked, ask)


def why_sources_end(asked: Asked) -> list[Finding]:
    """Why each source gives less than the best one: repetition, a floor of its own, or a slow fall."""
    return against_the_best(asked, lambda rows, a, b: why_saturated(with_pools(asked, rows), a, b))


def against_the_best(asked: Asked, ask: Callable[[list[Row], str, str], Finding | Iterable[Finding]]) -> list[Finding]:
    def attempts() -> Iterator[Any]:
        for group in losses(asked):
            found = sources_alone(asked, group)
            if len(found) < 2:
                continue
            top = min(max(row["stage_tokens"] for row in source.rows) for source in found)
            best = min(found, key=lambda source: loss_at(source.rows, top))
            for source in found:
                if source is not best:
                    rows = [{**row, "strategy": s.name} for s in (source, best) for row in s.rows]
                    yield lambda r=rows, a=source, b=best: noted(
                        noted(ask(r, a.name, b.name), a.note), "" if b.note == a.note else b.note
                    )

    made = answered(attempts())
    if not made:
        raise Refused(ALONE)
    return made


def sources_alone(asked: Asked, group: list[Row]) -> list[Source]:
    """The curve of each source that some strategy of one stage read alone, the longest where there are several."""
    found: dict[str, Line] = {}
    for line in lines(asked, group):
        rows = [row for row in line.rows if row["stage_tokens"]]
        source = only_source(rows[-1]) if rows and not any(row["position"] for row in rows) else None
        if source is None or not any(row["final"] for row in rows):
            continue
        if source not in found or reach(rows) > reach(found[source].rows):
            found[source] = Line(rows, line.note)
    return [Source(name, line.rows, line.note) for name, line in found.items()]


def reach(rows: list[Row]) -> tuple[int, float]:
    budgets = {row["stage_tokens"] for row in rows}
    return len(budgets), max(budgets)


def only_source(row: Row) -> str | None:
    """The one source that was read until this point; None where there are several."""
    read = [key.removeprefix(DOSE) for key, dose in row.items() if key.startswith(DOSE) and dose]
    return read[0] if len(read) == 1 else None


def loss_at(rows: list[Row], top: float) -> float:
    """The mean loss at the largest budget up to `top`."""
    last = max((row["stage_tokens"] for row in rows if row["stage_tokens"] <= top), default=None)
    return float(np.mean([row["score"] for row in rows if row["stage_tokens"] == last])) if last else math.inf


def with_pools(asked: Asked, rows: list[Row]) -> list[Row]:
    """Rows of sources read alone with a column `unique_tokens`, None where that is not known or has no end."""
    sizes = [pool.unique_J[0] if pool else None for pool in pools_of(asked.results, rows)]
    return [{**row, "unique_tokens": size} for row, size in zip(rows, sizes)]


def in_new_tokens(rows: list[Row], pools: list[Pools | None]) -> list[Row]:
    return [
        row if pool is None else {**row, "stage_tokens": float(pool.new(row["stage_tokens"]))}
        for row, pool in zip(rows, pools)
    ]
