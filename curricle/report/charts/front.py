"""Figures of section 9: the front of target against general ability, and the largest share within a bound.

Each is drawn from a finding's table and parts; a strategy looks as it does on the rest of the page, where that is told.
What is dominated is hollow; the opacity of a point on the front says how often it stays there.
"""

from __future__ import annotations

from collections.abc import Mapping

import altair as alt

from curricle.analysis.finding import ACCURACY, Finding, Part
from curricle.report import words
from curricle.report.charts import labels
from curricle.report.charts.laws import UNKNOWN, Looks
from curricle.report.figures import BASELINE_COLOR, COLORS, WIDTH, _finished

ON, OFF, BOUND = COLORS[0], BASELINE_COLOR, COLORS[1]


def chart(finding: Finding, looks: Looks = UNKNOWN) -> alt.LayerChart:
    """The finding `front`: each strategy's target against its general loss, with 95 % whiskers; the front as a line,
    its knee ringed."""
    target = str(finding.parts["target"])
    better = "higher" if finding.parts["target_measure"] == ACCURACY else "lower"
    short = words.short_names([str(row["strategy"]) for row in finding.table])
    rows = [
        {**row, "name": _name(row, short), "certain": row["p_front"] if row["p_front"] is not None else 1.0,
         "often": "unknown" if row["p_front"] is None else f"{row['p_front']:.0%}", **_look(row, looks)}
        for row in finding.table
    ]  # fmt: skip
    on, off = [r for r in rows if r["on_front"]], [r for r in rows if not r["on_front"]]
    x_title = f"general: {finding.parts['general']}, bits per byte (lower is better)"
    y_title = f"{finding.measure} ({better} is better)"  # with the target's name before it where there is room
    y_title = f"{target}, {y_title}" if len(target) + len(y_title) <= 36 else y_title
    across, along = (
        labels.axis((r[name + end] for r in rows for end in ("", "_low", "_high")), pixels, down)
        for name, pixels, down in (("general", labels.ACROSS, False), ("target", labels.DOWN, True))
    )
    x = alt.X("general:Q", title=x_title, scale=across.scale, axis=alt.Axis(tickCount=6))
    y = alt.Y("target:Q", title=y_title, scale=along.scale)
    tips = [
        alt.Tooltip("strategy:N"),
        alt.Tooltip("target:Q", format=".4f"),
        alt.Tooltip("general:Q", format=".4f"),
        alt.Tooltip("often:N", title="on the front"),
    ]
    color, shape = alt.Color("color:N", scale=None), alt.Shape("shape:N", scale=None)
    every = alt.Chart(alt.Data(values=rows)).encode(color=color)
    sideways = every.mark_rule(strokeWidth=1.5, opacity=0.35).encode(
        y=y, x=alt.X("general_low:Q", title=x_title), x2="general_high:Q"
    )
    upright = every.mark_rule(strokeWidth=1.5, opacity=0.35).encode(
        x=x, y=alt.Y("target_low:Q", title=y_title), y2="target_high:Q"
    )
    front = alt.Chart(alt.Data(values=on))
    through = "currentColor" if looks else ON
    line = front.mark_line(strokeWidth=1.75, color=through, opacity=0.6, strokeDash=[4, 3]).encode(
        x=x, y=y, order=alt.Order("general:Q")
    )
    dots = front.mark_point(filled=True, size=95).encode(
        x=x, y=y, color=color, shape=shape,
        opacity=alt.Opacity("certain:Q", scale=alt.Scale(domain=[0, 1], range=[0.25, 1]), legend=None),
        tooltip=tips,
    )  # fmt: skip
    hollow = (
        alt.Chart(alt.Data(values=off))
        .mark_point(filled=False, size=80, strokeWidth=1.75)
        .encode(x=x, y=y, color=color, shape=shape, tooltip=tips)
    )
    ring = (
        alt.Chart(alt.Data(values=[r for r in on if r["knee"]]))
        .mark_point(filled=False, size=300, strokeWidth=1.5, color="currentColor" if looks else BOUND)
        .encode(x=x, y=y)
    )
    first = sorted(rows, key=lambda r: (not r["knee"], not r["on_front"]))
    names, left = labels.named(first, across, along, of=("general", "target"), titles=(x_title, y_title))
    return _finished(alt.layer(sideways, upright, line, hollow, dots, ring, *names, title=left))


def critical_chart(finding: Finding) -> alt.LayerChart:
    """The finding `critical-share` of one domain: its loss at the measured shares, the bound, and the largest share
    that keeps within it, with its interval on the bound."""
    rows = list(finding.table)
    bound = finding.parts["bound"]
    shares = [float(row["share"] or 0.0) for row in rows]
    domain = [min(shares), max(shares)]
    x_title = f"share of {finding.parts['share_of']}, % of the tokens"
    x = alt.X(
        "share:Q", title=x_title, scale=alt.Scale(domain=domain, nice=False, padding=14), axis=alt.Axis(grid=False)
    )
    y_title = f"{finding.benchmark}, {finding.measure}"
    y = alt.Y("general:Q", title=y_title, scale=alt.Scale(zero=False, padding=12))
    base = alt.Chart(alt.Data(values=rows)).encode(x=x)
    whisker = base.mark_rule(strokeWidth=2, opacity=0.6, color=ON).encode(y=alt.Y("low:Q", title=y_title), y2="high:Q")
    line = base.mark_line(strokeWidth=2, color=ON).encode(y=y)
    dots = base.mark_point(filled=True, size=64, color=ON, opacity=1).encode(
        y=y, tooltip=["strategy:N", alt.Tooltip("share:Q", format=".3g"), alt.Tooltip("general:Q", format=".4f")]
    )
    rule = (
        alt.Chart(alt.Data(values=[{"bound": bound, "text": f"bound {bound:.4g}"}]))
        .mark_rule(color=BOUND, strokeWidth=1.5, strokeDash=[5, 4])
        .encode(y=alt.Y("bound:Q", title=y_title))
    )
    layers = rule + whisker + line + dots
    interval = finding.interval()
    if interval is not None:
        low, high = interval.low or 0.0, 100.0 if interval.high is None else interval.high
        span = [{"low": max(low, domain[0]), "high": min(high, domain[1]), "bound": bound}]
        layers += (
            alt.Chart(alt.Data(values=span))
            .mark_rule(color=BOUND, strokeWidth=6, opacity=0.35)
            .encode(x=alt.X("low:Q", title=x_title), x2="high:Q", y=alt.Y("bound:Q", title=y_title))
        )
    if finding.estimate is not None:
        more = "at least " if finding.parts.get("censored") else ""
        here = [{"share": finding.estimate, "bound": bound, "text": f"{more}{finding.estimate:.1f} %"}]
        at = alt.Chart(alt.Data(values=here)).encode(x=x, y=alt.Y("bound:Q", title=y_title))
        layers += at.mark_point(filled=True, shape="diamond", size=130, color=BOUND, opacity=1)
        layers += at.mark_text(align="right", dx=-10, dy=-12, fontSize=12, fontWeight=600, color=BOUND).encode(
            text="text:N"
        )
    return _finished(layers, 230, WIDTH)


def _look(row: Mapping[str, Part], looks: Looks) -> dict[str, str]:
    look = looks.get(str(row["strategy"]))
    if look is None:
        return {"color": ON if row["on_front"] else OFF, "shape": "circle"}
    return {"color": look.color, "shape": look.shape}


def _name(row: Mapping[str, Part], short: Mapping[str, str]) -> str:
    share = row["share"]
    return short[str(row["strategy"])] if share is None else f"{100 * float(share):.3g} %"
