"""Figures of section 10: what the order of phases changes, and orders predicted without having been seen."""

from __future__ import annotations

import altair as alt

from curricle.analysis.finding import Finding
from curricle.report.figures import BASELINE_COLOR, COLORS, _finished

KINDS = {"order": COLORS[0], "mixed": COLORS[2], "interaction": COLORS[1], "before": COLORS[3], "alone": BASELINE_COLOR}


def chart(finding: Finding) -> alt.LayerChart:
    """The finding `phases`: every contrast as a dot with its interval, in groups by what is asked; filled where it is
    resolved once corrected."""
    rows = [
        {**row, "place": f"{i:02}", "name": _short(str(row["contrast"])),
         "resolved": row["p_holm"] is not None and float(row["p_holm"] or 0.0) <= 0.05,
         "p": "unknown" if row["p_holm"] is None else f"{row['p_holm']:.2g}"}
        for i, row in enumerate(finding.table)
    ]  # fmt: skip
    # A contrast's name is long: it stands above its dot, so that the plot keeps the whole width.
    y = alt.Y("place:N", title=None, axis=None)
    title = f"{finding.benchmark}: difference, {finding.unit}"
    x = alt.X("estimate:Q", title=title, scale=alt.Scale(padding=12), axis=alt.Axis(tickCount=6))
    color = alt.Color(
        "what:N", scale=alt.Scale(domain=list(KINDS), range=list(KINDS.values())),
        legend=alt.Legend(orient="top", title=None, symbolOpacity=1, symbolType="circle", columns=3),
    )  # fmt: skip
    base = alt.Chart(alt.Data(values=rows)).encode(y=y, color=color)
    tips = ["contrast:N", alt.Tooltip("estimate:Q", format="+.4f"), alt.Tooltip("p:N", title="p, Holm")]
    whisker = base.mark_rule(strokeWidth=2.5, opacity=0.7).encode(x=alt.X("low:Q", title=title), x2="high:Q")
    dots = base.mark_point(size=95, strokeWidth=2, opacity=1).encode(
        x=x, tooltip=tips, fillOpacity=alt.condition("datum.resolved", alt.value(1), alt.value(0)), fill=color
    )
    zero = alt.Chart(alt.Data(values=[{"zero": 0}])).mark_rule(color="currentColor", opacity=0.5, strokeWidth=1)
    name = base.mark_text(align="left", baseline="bottom", dx=2, dy=-9, fontSize=12).encode(
        x=alt.value(0), text="name:N", color=alt.value("currentColor")
    )
    layers = zero.encode(x=alt.X("zero:Q", title=title)) + whisker + dots + name
    return _finished(layers, 80 + 42 * len(rows))


def law_chart(finding: Finding) -> alt.LayerChart:
    """The finding `phase-law`: each order as measured and as predicted by a fit that had not seen it, with the
    prediction's interval."""
    rows = [{**row, "seen": "predicted, not seen"} for row in finding.table]
    both = [*rows, *({**row, "predicted": row["measured"], "seen": "measured"} for row in finding.table)]
    domain, colors = ["measured", "predicted, not seen"], [BASELINE_COLOR, COLORS[0]]
    legend = alt.Legend(orient="top", title=None, symbolOpacity=1)  # one for both, or Vega sees a conflict
    color = alt.Color("seen:N", scale=alt.Scale(domain=domain, range=colors), legend=legend)
    shape = alt.Shape("seen:N", scale=alt.Scale(domain=domain, range=["circle", "diamond"]), legend=legend)
    order = [str(row["order"]) for row in sorted(rows, key=lambda row: int(row["rank"] or 0))]
    y = alt.Y(
        "order:N", title=None, sort=order, axis=alt.Axis(ticks=False, domain=False, labelLimit=260, labelPadding=8)
    )
    title = f"{finding.benchmark}, {finding.unit} (lower is better)"
    x = alt.X("predicted:Q", title=title, scale=alt.Scale(zero=False, padding=16))
    offset = alt.YOffset("seen:N", sort=domain, scale=alt.Scale(paddingOuter=0.6))
    whisker = (
        alt.Chart(alt.Data(values=rows))
        .mark_rule(strokeWidth=2.5, opacity=0.6)
        .encode(y=y, yOffset=offset, color=color, x=alt.X("low:Q", title=title), x2="high:Q")
    )
    dots = (
        alt.Chart(alt.Data(values=both))
        .mark_point(filled=True, size=100, opacity=1)
        .encode(
            y=y, yOffset=offset, color=color, shape=shape, x=x,
            tooltip=["order:N", "seen:N", alt.Tooltip("predicted:Q", format=".4f")],
        )
    )  # fmt: skip
    return _finished(whisker + dots, 60 + 56 * len(rows))


def best_chart(finding: Finding) -> alt.LayerChart:
    """The finding `best-order`: the loss that the laws say of each order, and of the same tokens mixed."""
    rows = [{**row, "kind": "mixed" if row["mixed"] else "in this order"} for row in finding.table]
    kinds = ["in this order", "mixed"]
    y = alt.Y("order:N", title=None, sort=[str(row["order"]) for row in rows],
              axis=alt.Axis(ticks=False, domain=False, labelLimit=260, labelPadding=8))  # fmt: skip
    x = alt.X("weighted:Q", title=f"predicted {finding.unit} of {finding.benchmark} (lower is better)",
              scale=alt.Scale(zero=False, padding=16))  # fmt: skip
    color = alt.Color("kind:N", scale=alt.Scale(domain=kinds, range=[COLORS[0], COLORS[1]]),
                      legend=alt.Legend(orient="top", title=None, symbolOpacity=1))  # fmt: skip
    dots = alt.Chart(alt.Data(values=rows)).mark_point(filled=True, size=100, opacity=1)
    return _finished(alt.layer(dots.encode(y=y, x=x, color=color)), 50 + 26 * len(rows))


def _short(name: str) -> str:
    return name.replace("(", "").replace(")", "") if len(name) > 44 else name
