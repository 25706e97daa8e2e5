"""A recommended mixture in the terminal: shares with how often they stay, what it gains, what to doubt, what to run.

It takes findings of `curricle.analysis.mixture` and returns something that rich can print; it fits 100 columns, and
says the same without colour.
"""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.text import Text

from curricle.analysis.finding import Finding
from curricle.report import words
from curricle.report.terminal import SPACE, add_row, plain_table

ABOUT = (
    "Intervals are CV+: they speak about new runs, and a gain's about the difference of two, noise included. The "
    "mean of many runs is without that noise, but counts how far a law and a process disagree here: it says whether "
    "there is a gain at all, and may be the wider. A rank correlation's is over other runs of the swarm's kind."
)
LEAST = 0.0005  # shares below this are told together
ABOVE = (1, 5, 10)  # percent of the tokens: how many of the resamples' optima give a source more
MOST = 8  # sources of a next run that are named


def mixture_view(findings: Sequence[Finding]) -> RenderableType:
    """Findings of `mixture`, in any order."""
    main, *_ = about(findings, "mixture")
    parts: list[RenderableType] = [heading(main), SPACE, shares(main), SPACE]
    parts += [gains([main, *about(findings, "mixture-gain")]), SPACE, fits(about(findings, "mixture-fit"))]
    for f in about(findings, "mixture-next"):
        if f.table:
            parts += [SPACE, Text("next runs worth buying", style="bold"), runs(f)]
    parts.append(SPACE)
    if main.note:
        parts.append(Text(f"warning: {main.note}", style="yellow"))
    parts.append(Text(f"Natural is {main.parts['natural']}. {ABOUT}", style="dim"))
    return Group(*parts)


def about(findings: Sequence[Finding], question: str) -> list[Finding]:
    return [f for f in findings if f.question == question]


def heading(main: Finding) -> Text:
    text = Text("recommended mixture", style="bold")
    return text.append(f"   for {main.measure}   {main.benchmark}   {main.parts['method']}", style="not bold dim")


def shares(main: Finding) -> RenderableType:
    """Largest share first. The optima of resamples are the law's, and the recommended mixture may have been drawn back
    from there: each of their columns says whose it is."""
    table = plain_table(
        "source", ">share", ">optima of\nresamples", *(f">optima\nabove {s} %" for s in ABOVE), ">natural", ">uniform"
    )
    names = words.short_names([str(row["source"]) for row in main.table])
    rest = [row for row in main.table if cell(row, "recommended") < LEAST]
    for row in main.table:
        if cell(row, "recommended") < LEAST:
            continue
        often = (f"{100 * cell(row, f'above {s} %'):.0f} %" for s in ABOVE)
        add_row(
            table, names[str(row["source"])], percent(cell(row, "recommended")),
            f"{percent(cell(row, 'low'))} to {percent(cell(row, 'high'))}", *often, percent(cell(row, "natural")),
            percent(cell(row, "uniform")),
        )  # fmt: skip
    if rest:
        total = sum(cell(row, "natural") for row in rest)
        add_row(table, f"{words.plural(len(rest), 'other')}", "0.0 %", "", "", "", "", percent(total), "")
    return table


def cell(row: object, name: str) -> float:
    value = row[name]  # type: ignore[index]
    return float(value) if value is not None else 0.0


def percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def gains(findings: Sequence[Finding]) -> RenderableType:
    table = plain_table("", ">predicted loss", "90 % interval", "")
    for f in findings:
        level, found = f.question == "mixture", f.interval()
        limits = f"{value(found.low, not level)} to {value(found.high, not level)}" if found else ""
        told = f"expected regret {cell(f.parts, 'regret'):.4f}" if level else optimism(f)
        name = "recommended" if level else f"lower than {f.parts['against']} by"
        add_row(table, name, value(f.estimate, not level), limits, told)
    return table


def optimism(f: Finding) -> str:
    told = f"{cell(f.parts, 'uncorrected'):+z.4f} less {cell(f.parts, 'optimism'):.4f} of optimism"
    low, high = f.parts.get("mean_low"), f.parts.get("mean_high")
    return told if low is None or high is None else f"{told}; mean of many runs {low:+z.4f} to {high:+z.4f}"


def value(number: float | None, signed: bool) -> str:
    return "–" if number is None else f"{number:+z.4f}" if signed else f"{number:z.4f}"


def fits(findings: Sequence[Finding]) -> RenderableType:
    table = plain_table("runs left out", ">rank correlation", "90 % interval", ">R²", ">error")
    each = {f.measure: f for f in findings}.values()  # with one target the aggregate is that metric
    names = words.short_names([f.measure for f in findings[1:]])
    for f in each:
        r2, error = f.parts.get("r2"), f.parts.get("rmse")
        add_row(
            table, names.get(f.measure, f.measure), "–" if f.estimate is None else f"{f.estimate:.3f}", ranked(f),
            "–" if r2 is None else f"{float(r2):.3f}", "–" if error is None else f"{float(error):.4f}",
        )  # fmt: skip
    return table


def ranked(f: Finding) -> str:
    found = f.interval()
    return f"{value(found.low, False)} to {value(found.high, False)}" if found else "–"


def runs(f: Finding) -> RenderableType:
    table = plain_table(">run", "mixture")
    names = words.short_names(sorted({str(row["source"]) for row in f.table}))
    for run in dict.fromkeys(row["run"] for row in f.table):
        here = sorted((r for r in f.table if r["run"] == run), key=lambda r: -cell(r, "share"))
        said = [f"{names[str(r['source'])]} {percent(cell(r, 'share'))}" for r in here[:MOST]]
        add_row(table, str(run), ", ".join([*said, "…"] if len(here) > MOST else said))
    return table
