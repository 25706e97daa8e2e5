"""What `curricle analyse` says in a terminal: each question with its findings, or why it cannot be answered.

Findings of one kind stand in one table. A finding that carries a table of its own is said in a sentence, its intervals
under it, then what of the table a person reads: as many columns as fit, those that answer first. Nothing is cut
silently: what is left out is counted or named, and `--json` has all of it, the coordinates of figures too.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from textwrap import fill
from typing import TYPE_CHECKING, Any

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.table import Table
from rich.text import Text

from curricle.analysis import Answer, Finding
from curricle.analysis.finding import BITS, Part, between
from curricle.report import words
from curricle.report.terminal import SPACE, add_row, plain_table

if TYPE_CHECKING:
    from curricle.results import Results

ROWS = 24  # of a finding's own table that are shown
WORDS = 24  # characters of a column of words that are asked for; longer ones are folded
FINDINGS = 40  # of one question that are shown
NOTES = 6  # of findings that stand in one table
# Questions whose own table is a figure's coordinates and nothing else.
DRAWN = {
    *("bound-regret", "bound-head-start", "bound-last-loss", "bound-accuracy-from-loss"),
    *("synergy", "transfer-mediated", "value-surprise"),
}
# The columns that answer, first what weighs most, of tables that begin with something else; the others follow.
ANSWERS = {
    "chain": ("stage", "gain", "share", "low", "high", "before", "after", "alone", "tokens"),
    "transferred": ("tokens", "transferred", "low", "high", "beyond", "loss", "scratch_tokens"),
    "multiplier": ("tokens", "multiplier", "multiplier_low", "multiplier_high", "beyond", "loss", "scratch_tokens"),
    "transfer": ("strategy", "first", "second", "score", "low", "high", "seeds", "filler", "order"),
}


def answers_view(answers: Sequence[Answer]) -> RenderableType:
    """Answered questions in full, then the others, a line each."""
    parts: list[RenderableType] = []
    for answer in answers:
        if answer.findings:
            parts += [Text(f"{answer.title}  ({answer.question})", style="bold"), *found(answer.findings), SPACE]
    open_ = [answer for answer in answers if answer.refused is not None]
    if open_:
        parts.append(Text("Not answered from these rows", style="bold"))
        parts += [Text(f"{answer.question}: {answer.refused}") for answer in open_]
    return Group(*parts[: -1 if not open_ else None])


def found(findings: Sequence[Finding]) -> list[RenderableType]:
    """What stands in tables, then what is told; the other way round where the tables would only say "undefined"."""
    rows = [f for f in findings if not f.table]
    parts = [tabled(rows), *(told(f) for f in findings if f.table)]
    if all(f.estimate is None for f in rows):
        parts = [*parts[1:], parts[0]]
    spaced = [part for some in parts if some for part in (SPACE, *some)]
    return spaced[1:]


def tabled(rows: Sequence[Finding]) -> list[RenderableType]:
    groups: dict[tuple[str, str], list[Finding]] = {}
    for f in rows[:FINDINGS]:
        groups.setdefault((f.benchmark, f.measure), []).append(f)
    parts: list[RenderableType] = []
    for n, ((benchmark, measure), here) in enumerate(groups.items()):
        parts += [*([SPACE] if n else []), listing(f"{measure} on {benchmark}", here)]
    if len(rows) > FINDINGS:
        parts.append(Text(f"… and {len(rows) - FINDINGS:,} more: --benchmark, --measure, or --json", style="dim"))
    kinds = list(dict.fromkeys(f"{i.kind} ({i.level:.0%})" for f in rows if (i := f.interval())))
    if kinds:
        parts.append(Text(f"Intervals for {', '.join(kinds)}.", style="dim"))
    return [*parts, *notes(rows)]


def listing(about: str, findings: Sequence[Finding]) -> Table:
    """One row a finding; a subject that stands in the row above is not said again."""
    judged = any(f.p_value is not None or f.estimate is None for f in findings)
    table = plain_table(about, ">estimate", "interval", *([">p", ""] if judged else []))
    last = ""
    for f in findings:
        said = [words.p_value(f.p_value), words.resolution(f)] if judged else []
        subject = "" if f.subject == last else f.subject
        add_row(table, subject, words.estimate(f).replace(BITS, "bpb"), words.interval(f), *said)
        last = f.subject
    return table


def told(f: Finding) -> list[RenderableType]:
    """A finding in a sentence with what must be said of it, its intervals, its numbers and its table."""
    size = f"n = {f.n:,}, {words.plural(f.seeds, 'seed')}" if f.n else words.plural(f.seeds, "seed")
    p = f", p = {words.p_value(f.p_value)} [{f.test}]".replace("= <", "<") if f.p_value is not None else ""
    said = f"undefined: {f.undefined}" if f.estimate is None else f"{words.estimate(f).strip()}{p}; {size}"
    about, what = f"{f.subject}, {f.measure} on {f.benchmark}", "limits" if f.estimate is None else "interval"
    lines = [Text(f"{about}: {said.removesuffix('.')}.{' ' if f.note else ''}").append(f.note, style="dim")]
    lines += [Text(f"  {i.level:.0%} {what} for {i.kind}: {between(i, f.unit, f.is_change)}") for i in f.intervals]
    if f.parts and f.estimate is not None:  # what an undefined one would have been made of is no answer either
        made = "   ".join(f"{words.spaced(name)} {words.cell(value)}" for name, value in f.parts.items())
        lines += [Text(fill(made, 96, initial_indent="  ", subsequent_indent="  "), style="dim")]
    rows = looked_up(f)
    own: list[RenderableType] = [SPACE, OwnTable(rows, by_weight(f.question, rows))] if rows else []
    return [*lines, *own]


def looked_up(f: Finding) -> list[Mapping[str, Part]]:
    """The rows of its table that a person reads: not the points and lines of its figure, which the page draws."""
    if f.question in DRAWN:
        return []
    return [row for row in f.table if row.get("row") != "fit" and row.get("series", "backtest") == "backtest"]


@dataclass(frozen=True, slots=True)
class OwnTable:
    """As many columns of a finding's table as fit, in this order; the names of the others under it."""

    rows: Sequence[Mapping[str, Part]]
    columns: Sequence[str]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        rows = self.rows[:ROWS]
        numeric = {n: all(isinstance(row.get(n), int | float | None) for row in self.rows) for n in self.columns}
        shown: list[str] = []
        left_over = options.max_width
        for together in limits_together(self.columns):
            for name in together:
                widest = max(len(words.cell(row.get(name))) for row in rows)
                left_over -= max(len(name), widest if numeric[name] else min(widest, WORDS)) + 2
            if shown and left_over < -2:  # nothing stands between the last column and the edge
                break
            shown += together
        table = plain_table(*(f">{name}" if numeric[name] else name for name in shown))
        for row in rows:
            add_row(table, *(words.cell(row.get(name)) for name in shown))
        yield table
        left = [f"{len(self.rows) - ROWS:,} rows"] if len(self.rows) > ROWS else []
        others = [name for name in self.columns if name not in shown]
        left += [f"columns {', '.join(others)}"] if others else []
        if left:
            yield Text(f"… and {' and '.join(left)}: --json has all", style="dim")


def by_weight(question: str, rows: Sequence[Mapping[str, Part]]) -> list[str]:
    """The columns of a finding's table, those that answer its question first."""
    names = dict.fromkeys(name for row in rows for name in row)
    first = [name for name in ANSWERS.get(question, ()) if name in names]
    return [*first, *(name for name in names if name not in first)]


def limits_together(columns: Sequence[str]) -> list[list[str]]:
    """Columns that are shown or left out as one: a lower limit without its upper says something else than both."""
    made: dict[str, list[str]] = {}
    for name in columns:
        made.setdefault(re.sub(r"(^|_)(low|high)$", r"\1limits", name), []).append(name)
    return list(made.values())


def notes(findings: Iterable[Finding]) -> list[RenderableType]:
    why = [f"Undefined: {f.undefined}." for f in findings if f.undefined]
    said = list(dict.fromkeys([*why, *(f.note for f in findings if f.note)]))
    left = [f"… and {words.plural(len(said) - NOTES, 'more note')}: --json has all"] if len(said) > NOTES else []
    return [Text(note, style="dim") for note in (*said[:NOTES], *left)]


# ---- what rows hold -----------------------------------------------------------------------------------------------


def holds(results: Results) -> dict[str, Any]:
    """Strategies with their stages and seeds, benchmarks with what was measured on them."""
    strategies = results.sql(
        """
        WITH placed AS (
            SELECT DISTINCT strategy, baseline, {'position': position, 'stage': stage, 'tokens': budget_tokens} AS place
            FROM runs
        )
        SELECT strategy, bool_or(baseline) AS baseline, list(DISTINCT place ORDER BY place) AS stages,
               (SELECT count(DISTINCT seed) FROM runs WHERE runs.strategy = placed.strategy) AS seeds
        FROM placed GROUP BY strategy ORDER BY strategy
        """
    )
    benchmarks = results.sql(
        """
        SELECT benchmark, any_value(kind) AS kind, count(DISTINCT run) AS runs, count(DISTINCT item) AS items,
               count(DISTINCT (run, tokens)) AS points, count(correct) > 0 AS accuracy, count(nats) > 0 AS bits_per_byte
        FROM evaluations GROUP BY benchmark
        UNION ALL
        SELECT benchmark, any_value(kind), count(DISTINCT run), max(items), count(DISTINCT (run, tokens)),
               bool_or(measure = 'accuracy'), bool_or(measure = 'bits per byte')
        FROM scores GROUP BY benchmark ORDER BY kind DESC, benchmark
        """
    )
    return {"results": str(results.folder), "strategies": strategies, "benchmarks": benchmarks}


def holds_view(found: Mapping[str, Any]) -> RenderableType:
    strategies = plain_table("strategy", "stages", ">seeds", "")
    for row in found["strategies"]:
        stages = " → ".join(
            f"{s['stage']} {'?' if s['tokens'] is None else words.count(s['tokens'])}" for s in row["stages"]
        )
        add_row(strategies, row["strategy"], stages, words.cell(row["seeds"]), "baseline" if row["baseline"] else "")
    benchmarks = plain_table("benchmark", "kind", ">runs", ">points", ">items", "measures")
    for row in found["benchmarks"]:
        measures = ", ".join(m for m, there in (("accuracy", row["accuracy"]), (BITS, row["bits_per_byte"])) if there)
        numbers = (words.cell(row[name]) for name in ("runs", "points", "items"))
        add_row(benchmarks, row["benchmark"], row["kind"], *numbers, measures)
    return Group(strategies, SPACE, benchmarks)
