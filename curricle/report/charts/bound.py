"""Figures of section 11: what was saved along a stage beside the most that could be, and all limits side by side."""

from __future__ import annotations

from collections.abc import Sequence

import altair as alt

from curricle.analysis.finding import Finding
from curricle.report.figures import COLORS, _finished

GAIN, LIMIT = COLORS[0], COLORS[1]
ZERO = "datum.value ? datum.label : '0'"  # not 0k
NAMES = {
    "bound-regret": "regret", "bound-head-start": "head start", "bound-information": "information",
    "bound-last-loss": "last loss",
}  # fmt: skip


def chart(finding: Finding) -> alt.LayerChart:
    """The finding `bound-regret` or `bound-head-start`: bits saved until each point of the stage, and the bound, with
    its band."""
    rows = [
        {"tokens": row["tokens"], "kind": kind, "bits": row[key], "low": row[low], "high": row[high]}
        for kind, key, low, high in (("saved", "saved", "saved", "saved"), ("at most", "bound", "low", "high"))
        for row in finding.table
        if float(row["tokens"] or 0) > 0
    ]
    domain, colors = ["saved", "at most"], [GAIN, LIMIT]
    legend = alt.Legend(orient="top", title=None, symbolOpacity=1)  # one for both, or Vega sees a conflict
    color = alt.Color("kind:N", scale=alt.Scale(domain=domain, range=colors), legend=legend)
    dash = alt.StrokeDash("kind:N", scale=alt.Scale(domain=domain, range=[[1, 0], [6, 3]]), legend=legend)
    title = "bits, from the stage's beginning"
    x = alt.X(
        "tokens:Q", title=f"tokens of {finding.benchmark}", scale=alt.Scale(nice=False, padding=8),
        axis=alt.Axis(format="~s", tickCount=5, grid=False, labelExpr=ZERO),
    )  # fmt: skip
    y = alt.Y("bits:Q", title=title, axis=alt.Axis(format="~s", tickCount=5, labelExpr=ZERO))
    base = alt.Chart(alt.Data(values=rows)).encode(x=x, color=color)
    band = base.mark_area(opacity=0.14, stroke=None).encode(y=alt.Y("low:Q", title=title), y2="high:Q")
    line = base.mark_line(strokeWidth=2).encode(
        y=y, strokeDash=dash,
        tooltip=["kind:N", alt.Tooltip("tokens:Q", format=","), alt.Tooltip("bits:Q", format=",.0f")],
    )  # fmt: skip
    return _finished(band + line, 230)


def side_by_side(findings: Sequence[Finding]) -> alt.LayerChart:
    """Every limit of one unit beside what was measured: a bar to the limit, a whisker for its interval, the gain as a
    dot with its own."""
    shown = [f for f in findings if f.estimate is not None and f.parts.get("measured") is not None]
    rows = []
    for f in shown:
        i = f.interval()
        rows.append({
            "name": NAMES.get(f.question, f.question), "bound": f.estimate,
            "low": f.estimate if i is None or i.low is None else i.low,
            "high": f.estimate if i is None or i.high is None else i.high,
            "measured": f.parts["measured"],
            "gain_low": f.parts.get("measured_low", f.parts["measured"]),
            "gain_high": f.parts.get("measured_high", f.parts["measured"]),
        })  # fmt: skip
    title = f"{shown[0].unit if shown else ''}: limit (bar), measured (dot)"
    y = alt.Y("name:N", title=None, sort=None, axis=alt.Axis(ticks=False, domain=False, labelPadding=8))
    base = alt.Chart(alt.Data(values=rows)).encode(y=y)
    bar = base.mark_bar(height=16, color=LIMIT, opacity=0.28).encode(x=alt.X("bound:Q", title=title))
    edge = base.mark_rule(color=LIMIT, strokeWidth=2.5, opacity=0.8).encode(x=alt.X("low:Q", title=title), x2="high:Q")
    whisker = base.mark_rule(color=GAIN, strokeWidth=2.5, opacity=0.8).encode(
        x=alt.X("gain_low:Q", title=title), x2="gain_high:Q"
    )
    dots = base.mark_point(filled=True, size=100, color=GAIN, opacity=1).encode(
        x=alt.X("measured:Q", title=title),
        tooltip=["name:N", alt.Tooltip("bound:Q", format=".4f"), alt.Tooltip("measured:Q", format=".4f")],
    )
    return _finished(bar + edge + whisker + dots, 50 + 44 * max(len(rows), 1))
