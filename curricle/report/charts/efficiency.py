"""Efficiency: curves read horizontally (how many tokens from scratch for the same loss), rates, and a split budget."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import altair as alt

from curricle.analysis.finding import Finding, short
from curricle.report.charts.laws import UNKNOWN, Looks, color, curves, finished, log_x, said
from curricle.report.figures import BASELINE_COLOR, COLORS


def chart(finding: Finding) -> alt.LayerChart:
    """`transfer-law`: measured D_T with the law through it. `split`: shares with their intervals. `marginal`: what the
    next token gives, with its band. Others as `head_start`."""
    if finding.question == "transfer-law":
        return law(finding)
    if finding.question == "split":
        return shares(finding)
    if finding.question == "marginal":
        return falling(finding)
    return head_start(finding)


def head_start(finding: Finding, looks: Looks = UNKNOWN) -> alt.LayerChart:
    """`transferred`, `multiplier`: both curves, and from each measured budget a line to where the scratch curve has
    that loss, dashed where that lies past what was measured."""
    layers = curves(finding.table, "tokens of the target", finding.measure, looks)
    steps = [row for row in finding.table if "scratch_tokens" in row and not row["beyond"]]
    open_ = [row for row in finding.table if "scratch_tokens" in row and row["beyond"]]
    arrows: list[dict[str, Any]] = [{"x": r["tokens"], "to": r["scratch_tokens"], "loss": r["loss"]} for r in steps]
    endless = [{"x": r["tokens"], "to": r["scratch_low"], "loss": r["loss"]} for r in open_]
    y = alt.Y("loss:Q")
    if arrows:
        rule = alt.Chart(alt.Data(values=arrows)).mark_rule(strokeWidth=1.5, opacity=0.8, color=BASELINE_COLOR)
        layers.append(rule.encode(x="x:Q", x2="to:Q", y=y))
    if endless:
        dashed = alt.Chart(alt.Data(values=endless)).mark_rule(strokeWidth=1.5, strokeDash=[3, 3], color=BASELINE_COLOR)
        layers.append(dashed.encode(x="x:Q", x2="to:Q", y=y))
    told = [r for r in steps if r["tokens"] == finding.parts["tokens"]]
    if told:
        layers.append(said(f"{short(told[0]['multiplier'])} times the tokens at {short(told[0]['tokens'])}"))
    return finished(alt.layer(*layers))


def shares(finding: Finding) -> alt.LayerChart:
    rows: list[Mapping[str, Any]] = [dict(row) for row in finding.table]
    base = alt.Chart(alt.Data(values=rows)).encode(
        y=alt.Y("source:N", title=None, sort=None, axis=alt.Axis(ticks=False, domain=False, labelPadding=8)),
        x=alt.X("share:Q", title="share of the budget", axis=alt.Axis(format="%"), scale=alt.Scale(zero=True)),
    )
    layers = [base.mark_bar(height=16, opacity=0.75, color=COLORS[0])]
    if any(row["low"] is not None for row in rows):
        limits = base.mark_rule(strokeWidth=2.5, color=BASELINE_COLOR)
        layers.append(limits.encode(x=alt.X("low:Q", title="share of the budget"), x2="high:Q"))
    return finished(alt.layer(*layers), 60 + 36 * len(rows))


def law(finding: Finding) -> alt.LayerChart:
    """D_T = k·D_F^α·N^β on logarithms, a line a model size."""
    k, alpha = (float(finding.parts[name] or 0) for name in ("k", "alpha"))
    beta = float(finding.parts.get("beta") or 0)
    sizes = sorted({float(row["params"] or 1) for row in finding.table})
    named = {size: f"{short(size)} parameters" for size in sizes}
    points = [{**row, "x": row["tokens"], "series": named[float(row["params"] or 1)]} for row in finding.table]
    lines = [
        {"x": x, "transferred": k * x**alpha * size**beta, "series": named[size]}
        for size in sizes
        for x in [float(p["tokens"] or 1) for p in points if p["series"] == named[size]]
    ]
    y = alt.Y("transferred:Q", title="effective tokens transferred", scale=alt.Scale(type="log"),
              axis=alt.Axis(format="~s", tickCount=5))  # fmt: skip
    place, paint = log_x("tokens of the target"), color(list(named.values()), len(sizes) > 1)
    line = alt.Chart(alt.Data(values=lines)).mark_line(strokeWidth=2).encode(x=place, y=y, color=paint)
    dots = alt.Chart(alt.Data(values=points)).mark_point(filled=True, size=60, opacity=0.9)
    return finished(line + dots.encode(x=place, y=y, color=paint) + said(f"α = {alpha:.2f}"))


def falling(finding: Finding) -> alt.LayerChart:
    """On logarithms where all that is drawn is above 0; a limit that is not then reaches the frame's edge."""
    rows = [{**row, "x": row["tokens"]} for row in finding.table]
    unit = finding.unit
    drawn = [float(row[name] or 0) for row in rows for name in ("value", "low", "high")]
    least = min((y for y in drawn if y > 0), default=0.0) / 2
    falls = all(float(row["value"] or 0) > 0 for row in rows)
    if falls:
        rows = [{**row, "low": max(float(row["low"] or 0), least)} for row in rows]
    base = alt.Chart(alt.Data(values=rows)).encode(
        x=alt.X(
            "x:Q",
            title="tokens read",
            scale=alt.Scale(type="log", nice=False, padding=14),
            axis=alt.Axis(format="~s", grid=False),
        )
    )
    scale = alt.Scale(type="log", domainMin=least, nice=False) if falls else alt.Scale()
    axis = alt.Axis(tickCount=5, format="~g")
    y = alt.Y("value:Q", title=unit, scale=scale, axis=axis)
    band = base.mark_area(opacity=0.2, color=COLORS[0], stroke=None)
    line = base.mark_line(strokeWidth=2, color=COLORS[0], point=True).encode(y=y)
    band = band.encode(y=alt.Y("low:Q", title=unit, scale=scale, axis=axis), y2="high:Q")
    return finished(band + line)
