"""Figures of section 3 beside the surface: κ's profile, and a transfer through measured skills."""

from __future__ import annotations

import altair as alt

from curricle.analysis.finding import Finding
from curricle.report.figures import BASELINE_COLOR, COLORS, TITLES, _finished

SHOWN = 4.0  # of the excess: past it a κ is out of the question


def profile(finding: Finding) -> alt.LayerChart:
    """The finding `synergy`: how much worse the law fits at each κ, all else free, as a share of what the interval
    allows; κ is held where the curve is below the line."""
    rows = [row for row in finding.table if float(row["excess"] or 0) <= SHOWN]
    x = alt.X("kappa:Q", title="κ (above 0: a token of one source is worth more beside the other)")
    y = alt.Y("excess:Q", title="misfit (1: the interval's limit)", scale=alt.Scale(domain=[0, SHOWN]))
    line = alt.Chart(alt.Data(values=rows)).mark_line(strokeWidth=2, color=COLORS[0], point=True).encode(x=x, y=y)
    limit = alt.Chart(alt.Data(values=[{"excess": 1}])).mark_rule(strokeDash=[6, 3], color=COLORS[1]).encode(y=y)
    zero = alt.Chart(alt.Data(values=[{"kappa": 0}])).mark_rule(strokeDash=[3, 3], color=BASELINE_COLOR).encode(x=x)
    return _finished(zero + limit + line, 230)


def mediated(finding: Finding) -> alt.LayerChart:
    """The finding `transfer-mediated`: each run's two measured skills, and what it scored."""
    names = finding.subject.removeprefix("measured skill in ").removesuffix(" together").split(" and ")
    first, second = names if len(names) == 2 else ("the first source", "the second source")
    title = TITLES.get(finding.measure, finding.measure)
    scale = alt.Scale(zero=False, padding=12)
    points = alt.Chart(alt.Data(values=[dict(row) for row in finding.table])).encode(
        x=alt.X("first:Q", title=f"measured skill in {first}", scale=scale),
        y=alt.Y("score:Q", title=title, scale=scale),
        color=alt.Color("second:Q", scale=alt.Scale(scheme="viridis"), legend=alt.Legend(
            title=f"skill in {second}", orient="right", titleColor="currentColor", format=".2f")),
        tooltip=["strategy:N", "seed:O", *(alt.Tooltip(f"{k}:Q", format=".3f") for k in ("first", "second", "score"))],
    )  # fmt: skip
    return _finished(alt.layer(points.mark_point(filled=True, size=70, opacity=0.9)))
