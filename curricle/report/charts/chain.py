"""A chain of stages: each stage's share of the whole gain, or its Shapley value beside what it gives alone and last."""

from __future__ import annotations

from typing import Any

import altair as alt

from curricle.analysis.finding import Finding
from curricle.report.charts.laws import UNKNOWN, Looks, finished, own_color
from curricle.report.figures import COLORS


def chart(finding: Finding, looks: Looks = UNKNOWN) -> alt.LayerChart:
    """`chain`: shares of the logarithm with intervals, a tick at the share of the difference; of the difference alone
    where there is no logarithm. `shapley`: values with intervals; ticks where the stage would stand alone and last."""
    return values(finding) if finding.question == "shapley" else shares(finding, looks)


def shares(finding: Finding, looks: Looks = UNKNOWN) -> alt.LayerChart:
    rows: list[dict[str, Any]] = [
        {**row, "name": row["stage"], "shown": row["share"] if row["share"] is not None else row["share_of_difference"]}
        for row in finding.table
    ]
    both = any(row["share"] is not None for row in rows)
    title = "share of the gain, in logarithms (bar) and plain (tick)" if both else "share of the whole gain"
    x = alt.X("shown:Q", title=title, axis=alt.Axis(format="%", tickCount=6), scale=alt.Scale(zero=True))
    layers = alt.layer(_base(rows, x).mark_bar(height=16, opacity=0.75, color=own_color(finding, looks)))
    if bounded := _known(rows, "low"):
        limits = _base(bounded, x).mark_rule(strokeWidth=2.5, color="currentColor", opacity=0.6)
        layers += limits.encode(x=alt.X("low:Q", title=title), x2="high:Q")
    if both:  # without a logarithm the bar itself ends there
        ticks = _base(_known(rows, "share"), x).mark_tick(thickness=2, height=16, color="currentColor")
        layers += ticks.encode(x=alt.X("share_of_difference:Q", title=title))
    return finished(layers, 60 + 36 * len(rows))


def values(finding: Finding) -> alt.LayerChart:
    rows = [{**row, "name": row["stage"], "shown": row["value"]} for row in finding.table]
    x = alt.X("shown:Q", title=f"{finding.unit} of the final score")
    dots = _base(rows, x).mark_point(filled=True, size=110, opacity=1, color=COLORS[0])
    ends = [{"name": row["name"], "shown": row[end], "end": end} for row in rows for end in ("alone", "last")]
    scale = alt.Scale(domain=["alone", "last"], range=[COLORS[1], COLORS[2]])
    color = alt.Color("end:N", scale=scale, legend=alt.Legend(orient="top", title=None))
    ticks = alt.Chart(alt.Data(values=ends)).mark_tick(thickness=2.5, height=18).encode(
        y=alt.Y("name:N", title=None, sort=None), x="shown:Q", color=color
    )  # fmt: skip
    zero = alt.Chart(alt.Data(values=[{"shown": 0}])).mark_rule(opacity=0.4, color="currentColor").encode(x="shown:Q")
    layers = zero + ticks + dots
    if bounded := _known(rows, "low"):
        limits = _base(bounded, x).mark_rule(strokeWidth=2.5, color=COLORS[0])
        layers = zero + limits.encode(x="low:Q", x2="high:Q") + ticks + dots
    return finished(layers, 70 + 40 * len(rows))


def _known(rows: list[dict[str, Any]], name: str) -> list[dict[str, Any]]:
    """Rows that have it. A filter in the chart would leave a layer without data, of which Vega complains."""
    return [row for row in rows if row[name] is not None]


def _base(rows: list[dict[str, Any]], x: alt.X) -> alt.Chart:
    names = alt.Axis(ticks=False, domain=False, labelLimit=160, labelPadding=8)
    return alt.Chart(alt.Data(values=rows)).encode(y=alt.Y("name:N", title=None, sort=None, axis=names), x=x)
