"""Small to large: a loss predicted at a larger budget, and candidates ranked at two sizes."""

from __future__ import annotations

import altair as alt

from curricle.analysis.finding import Finding, short
from curricle.report import words
from curricle.report.charts import labels
from curricle.report.charts.laws import finished, log_x, title_of
from curricle.report.figures import BASELINE_COLOR, COLORS


def chart(finding: Finding) -> alt.LayerChart:
    """`predicted-loss`: the ladder, the law with its band, predictions with intervals, and what a fit to all but the
    largest budget had said of it. `ranks`, `decision-accuracy`: each candidate's score at the two sizes."""
    return predicted(finding) if finding.question == "predicted-loss" else ranked(finding)


def predicted(finding: Finding) -> alt.LayerChart:
    of = {name: [row for row in finding.table if row["series"] == name] for name in ("measured", "law", "predicted")}
    tests = [row for row in finding.table if row["series"] == "backtest" and row["last"]]
    title = title_of(finding.measure)
    unit = finding.subject.split()[-1]
    x = log_x("training FLOPs" if unit == "flops" else unit.replace("_", " "), [float(r["x"] or 0) for r in of["law"]])
    y = alt.Y("score:Q", title=title, scale=alt.Scale(zero=False))
    law = alt.Chart(alt.Data(values=of["law"])).encode(x=x)
    band = law.mark_area(opacity=0.14, color=COLORS[0], stroke=None).encode(y=alt.Y("low:Q", title=title), y2="high:Q")
    line = law.mark_line(strokeWidth=2, color=COLORS[0]).encode(y=y)
    seen = alt.Chart(alt.Data(values=of["measured"])).mark_point(filled=True, size=54, opacity=0.9, color=COLORS[0])
    said = alt.Chart(alt.Data(values=of["predicted"])).encode(x=x, color=alt.value(COLORS[1]))
    limits = said.mark_rule(strokeWidth=2).encode(y=alt.Y("low:Q", title=title), y2="high:Q")
    mark = said.mark_point(filled=True, shape="diamond", size=110, opacity=1).encode(y=y)
    label = said.mark_text(align="right", dx=-8, dy=12, fontSize=12, fontWeight=600).encode(
        y=y, text=alt.Text("score:Q", format=".3f")
    )
    layers = [band, line, seen.encode(x=x, y=y), limits, mark, label]
    if tests:
        test = alt.Chart(alt.Data(values=tests)).encode(x=x, tooltip=[alt.Tooltip("predicted:Q", format=".4f")])
        layers[3:3] = [
            test.mark_rule(strokeWidth=7, opacity=0.35, color=BASELINE_COLOR).encode(
                y=alt.Y("low:Q", title=title), y2="high:Q"
            )
        ]
    return finished(alt.layer(*layers))


def ranked(finding: Finding) -> alt.LayerChart:
    small, large = finding.parts["small"], finding.parts["large"]
    short_of = words.short_names([str(row["candidate"]) for row in finding.table])
    rows = [{**row, "name": short_of[str(row["candidate"])]} for row in finding.table]
    sizes = [short(size) if isinstance(size, float | int) else str(size) for size in (small, large)]
    titles = (f"{finding.measure} at {sizes[0]}", f"{finding.measure} at {sizes[1]}")
    across = labels.axis((row["small"] for row in rows), labels.ACROSS)
    along = labels.axis((row["large"] for row in rows), labels.DOWN, down=True)
    base = alt.Chart(alt.Data(values=rows)).encode(
        x=alt.X("small:Q", title=titles[0], scale=across.scale, axis=alt.Axis(tickCount=6)),
        y=alt.Y("large:Q", title=titles[1], scale=along.scale),
    )
    dots = base.mark_point(filled=True, size=70, opacity=0.9, color=COLORS[0]).encode(
        tooltip=["candidate:N", alt.Tooltip("small:Q", format=".3f"), alt.Tooltip("large:Q", format=".3f")]
    )
    names, left = labels.named(rows, across, along, of=("small", "large"), titles=titles)
    return finished(alt.layer(dots, *names, title=left))
