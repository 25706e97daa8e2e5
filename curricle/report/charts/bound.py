"""Figures of section 11: what was saved along a stage beside the most that could be, and all limits side by side."""

from __future__ import annotations

import math
from collections.abc import Sequence

import altair as alt

from curricle.analysis.finding import Finding, Part
from curricle.report.charts.laws import UNKNOWN, Looks, color, log_x, own_color, shape, title_of
from curricle.report.figures import BASELINE_COLOR, COLORS, _finished

LIMIT = COLORS[1]
ZERO = "datum.value ? datum.label : '0'"  # not 0k
NAMES = {
    "bound-regret": "regret", "bound-head-start": "head start", "bound-information": "information",
    "bound-last-loss": "last loss", "bound-accuracy": "sampled answers", "bound-accuracy-from-loss": "through the loss",
}  # fmt: skip


def limit_color(looks: Looks) -> str:
    """A limit is no strategy: beside strategies that have their colours it takes that of the text."""
    return "currentColor" if looks else LIMIT


def chart(finding: Finding, looks: Looks = UNKNOWN) -> alt.LayerChart:
    """The finding `bound-regret` or `bound-head-start`: bits saved until each point of the stage, and the bound, with
    its band."""
    rows = [
        {"tokens": row["tokens"], "kind": kind, "bits": row[key], "low": row[low], "high": row[high]}
        for kind, key, low, high in (("saved", "saved", "saved", "saved"), ("at most", "bound", "low", "high"))
        for row in finding.table
        if float(row["tokens"] or 0) > 0
    ]
    domain, colors = ["saved", "at most"], [own_color(finding, looks), limit_color(looks)]
    legend = alt.Legend(
        orient="top", title=None, symbolOpacity=1, symbolType="stroke", symbolStrokeWidth=2
    )  # one for both, or Vega sees a conflict
    paint = alt.Color("kind:N", scale=alt.Scale(domain=domain, range=colors), legend=legend)
    dash = alt.StrokeDash("kind:N", scale=alt.Scale(domain=domain, range=[[1, 0], [6, 3]]), legend=legend)
    title = "bits saved so far"
    x = alt.X(
        "tokens:Q", title=f"tokens of {finding.benchmark}", scale=alt.Scale(nice=False, padding=8),
        axis=alt.Axis(format="~s", tickCount=5, grid=False, labelExpr=ZERO),
    )  # fmt: skip
    y = alt.Y("bits:Q", title=title, axis=alt.Axis(format="~s", tickCount=5, labelExpr=ZERO))
    base = alt.Chart(alt.Data(values=rows)).encode(x=x, color=paint)
    band = base.mark_area(opacity=0.14, stroke=None).encode(y=alt.Y("low:Q", title=title), y2="high:Q")
    line = base.mark_line(strokeWidth=2).encode(
        y=y, strokeDash=dash,
        tooltip=["kind:N", alt.Tooltip("tokens:Q", format=","), alt.Tooltip("bits:Q", format=",.0f")],
    )  # fmt: skip
    return _finished(band + line, 230)


def side_by_side(findings: Sequence[Finding], looks: Looks = UNKNOWN) -> alt.LayerChart:
    """Every limit of one unit beside what was measured: a bar to the limit, a whisker for its interval, the gain as a
    dot with its own."""
    shown = [f for f in findings if f.estimate is not None]
    rows = []
    for f in shown:
        i = f.interval()
        rows.append({
            "name": NAMES.get(f.question, f.question), "bound": f.estimate,
            "low": f.estimate if i is None or i.low is None else i.low,
            "high": f.estimate if i is None or i.high is None else i.high,
            "measured": f.parts.get("measured"), "color": own_color(f, looks),
            "gain_low": or_else(f.parts.get("measured_low"), f.parts.get("measured")),
            "gain_high": or_else(f.parts.get("measured_high"), f.parts.get("measured")),
        })  # fmt: skip
    title = f"{shown[0].unit if shown else ''}: limit (bar), measured (dot)"
    y = alt.Y("name:N", title=None, sort=None, axis=alt.Axis(ticks=False, domain=False, labelPadding=8))
    base, at_most = alt.Chart(alt.Data(values=rows)).encode(y=y), limit_color(looks)
    gained = alt.Color("color:N", scale=None)
    bar = base.mark_bar(height=16, color=at_most, opacity=0.28).encode(x=alt.X("bound:Q", title=title))
    edge = base.mark_rule(color=at_most, strokeWidth=2.5, opacity=0.8).encode(
        x=alt.X("low:Q", title=title), x2="high:Q"
    )
    gain = alt.Chart(alt.Data(values=[row for row in rows if row["measured"] is not None])).encode(y=y)
    whisker = gain.mark_rule(strokeWidth=2.5, opacity=0.8).encode(
        color=gained, x=alt.X("gain_low:Q", title=title), x2="gain_high:Q"
    )
    dots = gain.mark_point(filled=True, size=100, opacity=1).encode(
        color=gained,
        x=alt.X("measured:Q", title=title),
        tooltip=["name:N", alt.Tooltip("bound:Q", format=".4f"), alt.Tooltip("measured:Q", format=".4f")],
    )
    return _finished(bar + edge + whisker + dots, 50 + 44 * max(len(rows), 1))


def or_else(value: Part, other: Part) -> Part:
    return other if value is None else value


def alone(finding: Finding, looks: Looks = UNKNOWN) -> alt.LayerChart:
    """One limit beside the gain, of findings that have no curve: `bound-information`, `bound-accuracy`."""
    return side_by_side([finding], looks)


def last_loss(finding: Finding, looks: Looks = UNKNOWN) -> alt.LayerChart:
    """The finding `bound-last-loss`: both arms' curves, and the floor below which neither can come, with its band."""
    rows = [{**row, "x": row["tokens"], "series": row["strategy"]} for row in finding.table]
    series = list(dict.fromkeys(str(row["series"]) for row in rows))
    title = title_of(finding.measure)
    x, y = log_x("tokens of the stage"), alt.Y("score:Q", title=title, scale=alt.Scale(zero=False))
    base = alt.Chart(alt.Data(values=rows)).encode(x=x, y=y, color=color(series, looks=looks))
    dots = base.mark_point(filled=True, size=50, opacity=0.9).encode(shape=shape(series, looks=looks))
    lines = base.mark_line(strokeWidth=2) + dots
    floor = {key: finding.parts[key] for key in ("floor", "floor_low", "floor_high")}
    at = alt.Chart(alt.Data(values=[{**floor, "label": "floor"}]))
    strip = at.mark_rect(opacity=0.16, color=BASELINE_COLOR)
    edge = at.mark_rule(strokeDash=[6, 3], strokeWidth=1.5, color=BASELINE_COLOR).encode(
        y=alt.Y("floor:Q", title=title)
    )
    word = at.mark_text(align="left", dx=4, dy=-7, fontSize=12, color="currentColor")
    word = word.encode(y=alt.Y("floor:Q", title=title), x=alt.value(0), text="label:N")
    band = strip.encode(y=alt.Y("floor_low:Q", title=title), y2="floor_high:Q")
    return _finished(band + edge + lines + word)


def accuracy(finding: Finding, looks: Looks = UNKNOWN) -> alt.LayerChart:
    """The finding `bound-accuracy-from-loss`: accuracy against the loss for both arms, the curve that they share, and
    where it stands at the floor of the loss."""
    parts = {name: float(finding.parts[name] or 0) for name in ("slope", "intercept", "guess", "floor")}
    series = list(dict.fromkeys(str(row["strategy"]) for row in finding.table))
    points = [
        {"loss": row["bits per byte"], "score": row["accuracy"], "series": row["strategy"]} for row in finding.table
    ]
    reach = [parts["floor"], *(float(point["loss"] or 0) for point in points)]
    grid = [min(reach) + k * (max(reach) - min(reach)) / 80 for k in range(81)]

    def at(loss: float) -> float:
        logit = max(-40.0, min(40.0, parts["intercept"] + parts["slope"] * loss))
        return parts["guess"] + (100 - parts["guess"]) / (1 + math.exp(-logit))

    x = alt.X("loss:Q", title="bits per byte (lower is better)", scale=alt.Scale(zero=False, padding=10))
    y = alt.Y("score:Q", title="accuracy, % correct")
    line = alt.Chart(alt.Data(values=[{"loss": at_loss, "score": at(at_loss)} for at_loss in grid]))
    dots = alt.Chart(alt.Data(values=points)).mark_point(filled=True, size=46, opacity=0.8)
    layers = [
        line.mark_line(strokeWidth=1.75, strokeDash=[6, 3], color=BASELINE_COLOR).encode(x=x, y=y),
        dots.encode(x=x, y=y, color=color(series, looks=looks), shape=shape(series, looks=looks)),
    ]
    if finding.estimate is not None:
        i = finding.interval()
        end = {"loss": parts["floor"], "score": finding.estimate, "low": i.low if i else finding.estimate,
               "high": i.high if i else finding.estimate, "label": f"at most {finding.estimate:.1f} %"}  # fmt: skip
        limit = alt.Chart(alt.Data(values=[end])).encode(x=x)
        at_most = limit_color(looks)
        rule = limit.mark_rule(strokeWidth=2.5, opacity=0.8, color=at_most)
        layers.append(rule.encode(y=alt.Y("low:Q", title="accuracy, % correct"), y2="high:Q"))
        layers.append(limit.mark_point(filled=True, shape="diamond", size=110, opacity=1, color=at_most).encode(y=y))
        word = limit.mark_text(align="left", dx=9, dy=-12, fontSize=12, color="currentColor")
        layers.append(word.encode(y=y, text="label:N"))
    return _finished(alt.layer(*layers))
