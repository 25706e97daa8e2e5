"""Repetition: loss against how often a pool was read, with the law's line for each pool."""

from __future__ import annotations

import altair as alt

from curricle.analysis.finding import Finding, short
from curricle.report.charts.laws import color, finished, title_of
from curricle.report.figures import BASELINE_COLOR


def chart(finding: Finding) -> alt.LayerChart:
    """`repetition`: a colour a pool, points measured, lines and ticks the law. `data-constrained`: what the published
    law says against what was measured, with decay and with repeats counted as new."""
    if finding.question == "data-constrained":
        return against(finding)
    pools = sorted({float(row["unique_tokens"] or 0) for row in finding.table})
    name = {pool: f"{short(pool)} unique" for pool in pools}
    rows = [{**row, "series": name[float(row["unique_tokens"] or 0)]} for row in finding.table]
    base = alt.Chart(alt.Data(values=rows)).encode(
        x=alt.X("epochs:Q", title="times the pool was read", scale=alt.Scale(type="log", nice=False, padding=14),
                axis=alt.Axis(grid=False)),
        color=color([name[p] for p in pools], len(pools) > 1),
    )  # fmt: skip
    y = alt.Y("score:Q", title=title_of(finding.measure), scale=alt.Scale(zero=False))
    line = base.mark_line(strokeWidth=2, opacity=0.8).encode(y=alt.Y("law:Q", title=title_of(finding.measure)))
    law = alt.Y("law:Q", title=title_of(finding.measure))
    ticks = base.mark_tick(thickness=2, width=16, opacity=0.9).encode(y=law)
    return finished(line + ticks + base.mark_point(filled=True, size=50, opacity=0.9).encode(y=y))


def against(finding: Finding) -> alt.LayerChart:
    said = {"law": "with decay", "as_new": "repeats as new"}
    rows = [{"seen": row["score"], "said": row[key], "series": said[key]} for row in finding.table for key in said]
    limits = [min(row["seen"] for row in rows), max(row["seen"] for row in rows)]  # type: ignore[type-var]
    scale = alt.Scale(zero=False, domain=limits, clamp=True)
    base = alt.Chart(alt.Data(values=rows)).encode(
        x=alt.X("said:Q", title="loss that the law says, nats per token", scale=scale),
        y=alt.Y("seen:Q", title="loss measured", scale=alt.Scale(zero=False, domain=limits)),
        color=color(list(said.values())),
    )
    ends = [{"said": x, "seen": x} for x in limits]
    same = alt.Chart(alt.Data(values=ends)).mark_line(strokeDash=[4, 3], color=BASELINE_COLOR)
    return finished(same.encode(x="said:Q", y="seen:Q") + base.mark_point(filled=True, size=34, opacity=0.7))
