"""Whether what documents were found to be worth orders sources as training on each did, asked of a study's rows.

The values come from elsewhere (`curricle value --out`, one row a document); the gains are those of strategies that all
begin with the same stages and end with one that reads one source and nothing else. Raises `Refused` where either is
missing.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from curricle.analysis.asked.asking import Asked
from curricle.analysis.finding import ACCURACY, Finding, short
from curricle.analysis.rows.arms import ends
from curricle.analysis.rows.cells import SAME_DOSE, snapped
from curricle.analysis.rows.columns import known
from curricle.analysis.rows.compare import holm_adjusted
from curricle.analysis.rows.outcomes import DOSE
from curricle.analysis.value import validate, value
from curricle.study import Refused, nearest

Row = Mapping[str, Any]
LEAST_SOURCES = 3  # that have a rank
NO_VALUES = (
    "it takes what documents are worth before training: curricle value MODEL --out values.parquet, of the run that the "
    "strategies begin with, and --values values.parquet here"
)
NO_RUNS = (
    f"no {LEAST_SOURCES} strategies that begin with the same stages and end with one that reads one source alone, each "
    "another, scored where it begins"
)


def values_beside_gains(asked: Asked) -> list[Finding]:
    """Each method's values against the gains, at the budgets of the last stage that were asked for, or at its end; the
    p-values are Holm-adjusted over all of them."""
    if not asked.values:
        raise Refused(NO_VALUES)
    known(asked.values, "source", "document", "method", table="values")
    targets = dict.fromkeys(row["target"] for row in asked.values if row.get("target") is not None)
    if len(targets) > 1:
        raise Refused(f"values: of several targets, {', '.join(map(str, targets))}; give those of one at a time")
    methods = dict.fromkeys(str(row["method"]) for row in asked.values)
    of = {method: value(row for row in asked.values if row["method"] == method) for method in methods}
    found: list[Finding] = []
    for group in asked.groups:
        for tokens, gains in at_budgets(gained(group), asked.at):
            benchmark = group[0]["benchmark"]
            found += [
                replace(
                    validate(values, gains, method=method),
                    subject=f"{method} after {short(tokens)} tokens", benchmark=benchmark,
                    runs=tuple(dict.fromkeys(row["run"] for row in gains)),
                )
                for method, values in of.items()
            ]  # fmt: skip
    if not found:
        raise Refused(NO_RUNS)
    return holm_adjusted(found, lambda f: f.question, lambda f: (f.subject, f.benchmark))


def gained(group: Sequence[Row]) -> list[dict[str, Any]]:
    """What training on one source alone gave after so many tokens of it, for each seed: positive is better. Of several
    beginnings, the one from which most sources were tried."""
    paths: dict[str, dict[int, str]] = {}
    for row in group:
        paths.setdefault(row["strategy"], {})[row["position"]] = row["stage"]
    made: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for (strategy, seed), last in ends(row for row in group if row["final"]).items():
        begin = tuple(stage for position, stage in paths[strategy].items() if position < last["position"])
        mine = [row for row in group if (row["strategy"], row["seed"]) == (strategy, seed)]
        before = beginning(mine, last)
        source = only_source(last, before) if before is not None else None
        if before is None or source is None:
            continue
        sign = 1 if last["measure"] == ACCURACY else -1
        made.setdefault(begin, []).extend(
            {"source": source, "seed": seed, "tokens": row["stage_tokens"], "run": row["run"],
             "gain": sign * (row["score"] - before["score"])}
            for row in mine if row["position"] == last["position"] and row["stage_tokens"]
        )  # fmt: skip
    return max(made.values(), key=lambda rows: len({row["source"] for row in rows}), default=[])


def beginning(rows: Iterable[Row], last: Row) -> Row | None:
    """The score of a run where its last stage begins: of the end of the stage before, or of the model as it came."""
    if last["tokens"] is None or last["stage_tokens"] is None:
        return None
    begin = last["tokens"] - last["stage_tokens"]
    return next((row for row in rows if row["tokens"] == begin and row is not last), None)


def only_source(last: Row, before: Row) -> str | None:
    """The one source that was read between the two; None where there were several."""
    room = SAME_DOSE * last["stage_tokens"]
    read = [name.removeprefix(DOSE) for name in last if name.startswith(DOSE) and last[name] - before[name] > room]
    return read[0] if len(read) == 1 else None


def at_budgets(gains: Sequence[Row], at: Sequence[float]) -> Iterator[tuple[float, list[Row]]]:
    """The gains at each budget that is asked for, or at the largest that all sources have."""
    level = snapped(row["tokens"] for row in gains)
    sources = {row["source"] for row in gains}
    by_size: dict[float, list[Row]] = {}
    for row in gains:
        by_size.setdefault(level[row["tokens"]], []).append(row)
    reached = {size: here for size, here in sorted(by_size.items()) if {row["source"] for row in here} == sources}
    if len(sources) < LEAST_SOURCES or not reached:
        return
    for wanted in at or (max(reached),):
        size = min(reached, key=lambda size: abs(size - wanted))
        if abs(size - wanted) > SAME_DOSE * max(reached):
            there = [short(size) for size in reached]
            raise Refused(f"--at {short(wanted)}: not scored there; {nearest(short(wanted), there)}")
        yield size, reached[size]
