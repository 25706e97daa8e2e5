"""What goes with each property of code, and what is left without it: the finding `why-code` as one chart."""

from __future__ import annotations

import altair as alt

from curricle.analysis import Finding
from curricle.analysis.finding import POINTS
from curricle.report.figures import BASELINE_COLOR, COLORS, _finished

KINDS = {
    "all": ("what code gives", COLORS[0], "circle"),
    "taken away": ("lost with one property", COLORS[1], "square"),
    "rest": ("the rest", BASELINE_COLOR, "diamond"),
    "alone": ("given by what is left", COLORS[2], "triangle-up"),
}


def chart(finding: Finding) -> alt.LayerChart:
    """One line for each contrast of the table, with its interval; in percent, its share of what code gives."""
    rows = [
        {
            "what": row["what"],
            "kind": KINDS[str(row["kind"])][0],
            "effect": row["effect"],
            "low": row["effect"] if row["low"] is None else row["low"],
            "high": row["effect"] if row["high"] is None else row["high"],
            "share": "" if row["share"] is None or row["kind"] == "all" else f"{row['share']:.0%}",
        }
        for row in finding.table
    ]
    there = [look for kind, look in KINDS.items() if any(row["kind"] == kind for row in finding.table)]
    names = [name for name, _, _ in there]
    title = "points of accuracy" if finding.unit == POINTS else f"{finding.unit} saved"
    y = alt.Y("what:N", title=None, sort=None, axis=alt.Axis(ticks=False, domain=False, labelPadding=8, labelLimit=160))
    x = alt.X("effect:Q", title=title, scale=alt.Scale(padding=26))
    key = alt.Legend(orient="top", title=None, columns=2, labelLimit=260, symbolOpacity=1)
    color = alt.Color("kind:N", scale=alt.Scale(domain=names, range=[c for _, c, _ in there]), legend=key)
    shape = alt.Shape("kind:N", scale=alt.Scale(domain=names, range=[s for _, _, s in there]), legend=key)
    base = alt.Chart(alt.Data(values=rows)).encode(y=y, x=x, color=color)
    whisker = base.mark_rule(strokeWidth=2.5, opacity=0.75).encode(x=alt.X("low:Q", title=title), x2="high:Q")
    tips = [alt.Tooltip("what:N"), *(alt.Tooltip(f"{name}:Q", format=".3f") for name in ("effect", "low", "high"))]
    dots = base.mark_point(filled=True, size=90, opacity=1).encode(shape=shape, tooltip=[*tips, alt.Tooltip("share:N")])
    share = base.mark_text(align="left", dx=8, fontSize=11).encode(x="high:Q", text="share:N")
    zero = alt.Chart(alt.Data(values=[{"at": 0}])).mark_rule(opacity=0.5, strokeDash=[3, 3], color="currentColor")
    return _finished(zero.encode(x="at:Q") + whisker + dots + share, 60 + 32 * len(rows))
