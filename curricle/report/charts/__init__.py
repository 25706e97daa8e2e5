"""The figures of findings by question: one function of one finding in a file for each question of docs/theory.md.

Joining another is one line in `CHARTS`: the question of the finding, a title, and where its function stands. It is
imported when it is first asked for, since drawing is slow to import.
"""

from __future__ import annotations

import pkgutil
import re
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from curricle.analysis.finding import Finding

if TYPE_CHECKING:
    from curricle.report.figures import Look
    from curricle.results import Results


class Chart(NamedTuple):
    title: str
    drawn_by: str  # "module:function", of one finding
    tabled: bool = True  # drawn from the finding's table; else from its estimate and parts
    styled: bool = False  # draws strategies: the function takes their looks too
    shows: tuple[str, ...] = ()  # columns of the table, where it may hold none of them in any row


ROOM = "curricle.report.charts"
CHARTS: dict[str, Chart] = {
    "chain": Chart(
        "Shares of the gain by stage", f"{ROOM}.chain:chart", styled=True, shows=("share", "share_of_difference")
    ),
    "shapley": Chart("What each stage is worth, over all orders", f"{ROOM}.chain:chart", styled=True),
    "efficiency": Chart("Per token and per FLOP", f"{ROOM}.efficiency:chart"),
    "transferred": Chart("What a head start is worth in tokens", f"{ROOM}.efficiency:head_start", styled=True),
    "transfer": Chart("Whether two sources help each other", f"{ROOM}.transfer:chart"),
    "mixture": Chart("The mixture to train next", f"{ROOM}.mixture:chart"),
    "why-code": Chart("What code gives", f"{ROOM}.why_code:chart"),
    "mixture-gain": Chart("What the mixture gains", f"{ROOM}.mixture:gain", tabled=False),
    "mixture-fit": Chart("How well left-out runs were predicted", f"{ROOM}.mixture:held_out"),
    "mixture-next": Chart("Mixtures to run next", f"{ROOM}.mixture:next_runs"),
    "synergy": Chart("Which κ the runs allow", f"{ROOM}.synergy:profile"),
    "transfer-mediated": Chart("Scores by measured skills", f"{ROOM}.synergy:mediated"),
    "transfer-law": Chart("Tokens transferred by budget", f"{ROOM}.efficiency:chart"),
    "marginal": Chart("What the next token gives", f"{ROOM}.efficiency:chart"),
    "split": Chart("A budget shared out", f"{ROOM}.efficiency:chart"),
    "value": Chart("What a token of each source is worth", f"{ROOM}.value:chart"),
    "value-validation": Chart("Values against measured gains", f"{ROOM}.value:chart"),
    "value-surprise": Chart("What a model makes of complex text", f"{ROOM}.value:chart"),
    "repetition": Chart("What reading text again is worth", f"{ROOM}.repetition:chart"),
    "data-constrained": Chart("The published law of repeats", f"{ROOM}.repetition:chart"),
    "floor": Chart("Where sources stop lowering the loss", f"{ROOM}.saturation:chart"),
    "why-saturated": Chart("Why a source ends sooner", f"{ROOM}.saturation:chart"),
    "saturation": Chart("Where more tokens stop paying", f"{ROOM}.saturation:of_strategy", styled=True),
    "predicted-loss": Chart("The loss at a larger budget", f"{ROOM}.scaling:chart"),
    "ranks": Chart("Whether small runs rank mixtures as large ones do", f"{ROOM}.scaling:chart"),
    "front": Chart("The target against everything else", f"{ROOM}.front:chart", styled=True),
    "critical-share": Chart("The largest share within a bound", f"{ROOM}.front:critical_chart"),
    "phases": Chart("Whether the order matters", f"{ROOM}.phases:chart"),
    "phase-law": Chart("Orders that were not run", f"{ROOM}.phases:law_chart"),
    "best-order": Chart("Every order, by the laws", f"{ROOM}.phases:best_chart"),
    "bound-regret": Chart("The most that can be saved", f"{ROOM}.bound:chart", styled=True),
    "bound-head-start": Chart("What a head start can save", f"{ROOM}.bound:chart", styled=True),
    "bound-information": Chart("What weights can carry", f"{ROOM}.bound:alone", tabled=False, styled=True),
    "bound-last-loss": Chart("How low the last loss can come", f"{ROOM}.bound:last_loss", styled=True),
    "bound-accuracy": Chart("How accurate sampled answers can be", f"{ROOM}.bound:alone", tabled=False, styled=True),
    "bound-accuracy-from-loss": Chart("How accurate the loss allows", f"{ROOM}.bound:accuracy", styled=True),
}
# Findings without a figure of their own, and why.
UNDRAWN = {
    "score": "drawn together", "curve": "drawn together", "held-out": "drawn together",
    "held-out-curve": "drawn together", "gain": "a row of numbers", "contrast": "a row of numbers",
    "stage-gain": "a row of numbers", "curve-contrast": "a row of numbers", "forgetting": "a row of numbers",
    "multiplier": "drawn with transferred", "decision-accuracy": "drawn with ranks",
    "published-gain": "a row of numbers", "published-interaction": "a row of numbers",
    "published-critical-share": "a row of numbers",
}  # fmt: skip


def has_figure(finding: Finding) -> bool:
    """Whether its question has a figure, and the finding something to draw."""
    known = CHARTS.get(finding.question)
    if known is None:
        return False
    if not known.tabled:
        return finding.estimate is not None
    return any(not known.shows or any(row[c] is not None for c in known.shows) for row in finding.table)


def drawn(finding: Finding, looks: Mapping[str, Look] | None = None) -> Any | None:
    """The finding's figure; None where it has none. A strategy is drawn as `looks` has it, so that it is the same in
    every figure of a page; a series that is no strategy there has a colour by its position."""
    if not has_figure(finding):
        return None
    known = CHARTS[finding.question]
    draw = pkgutil.resolve_name(known.drawn_by)
    return draw(finding, looks or {}) if known.styled else draw(finding)


def figures_of(findings: Sequence[Finding], results: Results | None) -> Iterator[tuple[str, Any]]:
    """Every figure that findings make, with a name for its file. Scores and curves are drawn together, strategies side
    by side; the rest one figure a finding."""
    taken: set[str] = set()
    style = style_of(results) if results else {}
    for name, chart in (*(together(findings, results, style) if results else ()), *alone(findings, style)):
        base = name = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:120].rstrip("-") or "figure"
        number = 1
        while name in taken:
            number += 1
            name = f"{base}-{number}"
        taken.add(name)
        yield name, chart


def style_of(results: Results) -> dict[str, Look]:
    """How the strategies of these rows look."""
    from curricle.analysis.rows.scores import baseline_of, strategies
    from curricle.report import figures

    known = strategies(results)
    base = baseline_of(known)
    return figures.looks([s.name for s in known], base.name if base else known[0].name) if known else {}


def alone(findings: Iterable[Finding], style: Mapping[str, Look]) -> Iterator[tuple[str, Any]]:
    for f in findings:
        chart = drawn(f, style)
        if chart is not None:
            title = f"{CHARTS[f.question].title}: {f.measure} on {f.benchmark}"
            name = " ".join(dict.fromkeys((f.question, f.benchmark, f.measure, f.subject)))
            yield name, titled(chart, title, f.subject)


def together(findings: Sequence[Finding], results: Results, style: Mapping[str, Look]) -> Iterator[tuple[str, Any]]:
    from curricle.report import figures, queries

    parts = (
        ("score", None, "Strategies at their end"),
        ("curve", "stage", "Along {stage}"),
        ("held-out-curve", None, "Held-out text along the stages"),
    )
    for question, part, title in parts:
        groups: dict[tuple[str, str, str], list[Finding]] = {}
        for f in findings:
            if f.question == question and f.measure in figures.TITLES:
                groups.setdefault((f.benchmark, f.measure, str(f.parts[part]) if part else ""), []).append(f)
        for (benchmark, measure, stage), here in groups.items():
            drawn_here = {f.parts.get("strategy") for f in here}
            looks = {name: look for name, look in style.items() if name in drawn_here}
            if question == "held-out-curve":
                ends = [f for f in findings if f.question == "held-out" and f.benchmark == benchmark]
                chart = figures.along([*here, *ends], looks, legend=True)
            elif question == "curve":
                seeds = queries.seed_scores(results, benchmark)
                chart = figures.curve(here, seeds, looks, stage, measure, legend=True)
            else:
                chart = figures.side_by_side(here, queries.seed_scores(results, benchmark), style, measure)
            heading = f"{title.format(stage=stage)}: {measure} on {benchmark}"
            yield f"{question} {benchmark} {measure} {stage}", titled(chart, heading)


def titled(chart: Any, title: str, under: str = "") -> Any:
    """A figure that leaves its page, where a heading stood above it: with the title in it, and room for that."""
    import altair as alt

    from curricle.report.figures import HEIGHT, WIDTH

    width, height = (
        size if isinstance(size, int | float) else usual
        for size, usual in ((chart.width, WIDTH), (chart.height, HEIGHT))
    )
    lines, small = textwrap.wrap(title, int(width / 8)), textwrap.wrap(under, int(width / 7))  # widths of a letter
    colors = {"color": "currentColor", "subtitleColor": "currentColor"}
    heading = alt.TitleParams(text=lines, subtitle=small, anchor="start", offset=12, fontSize=14, **colors)
    return chart.properties(title=heading, height=height + 18 * len(lines) + 14 * len(small) + 12)


def save_all(findings: Sequence[Finding], results: Results | None, folder: Path) -> list[str]:
    """Write every figure as SVG and PNG; their names. Without results, those that a finding makes alone."""
    from curricle.report.figures import save

    folder.mkdir(parents=True, exist_ok=True)
    names = []
    for name, chart in figures_of(findings, results):
        for suffix in (".svg", ".png"):
            save(chart, folder / f"{name}{suffix}")
        names.append(name)
    return names
