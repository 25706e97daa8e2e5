"""Marks that the charts of fitted laws share: measured points, a curve with its band, one look a series."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import altair as alt

from curricle.analysis.finding import Finding
from curricle.report.figures import BASELINE_COLOR, COLORS, DASHES, HEIGHT, SHAPES, WIDTH, Look, _finished, key

Row = Mapping[str, Any]
LOSS = {"bits per byte": "bits per byte (lower is better)"}


def title_of(measure: str) -> str:
    return LOSS.get(measure, f"{measure} (lower is better)")


Looks = Mapping[str, Look]  # of strategies, as the rest of a page has them
UNKNOWN: Looks = MappingProxyType({})


def color(series: Sequence[str], legend: bool = True, looks: Looks = UNKNOWN) -> alt.Color:
    given = {name: look.color for name, look in looks.items()}
    scale = alt.Scale(domain=list(series), range=assigned(series, given, COLORS))
    return alt.Color("series:N", scale=scale, legend=key(series) if legend else None)


def shape(series: Sequence[str], legend: bool = True, looks: Looks = UNKNOWN) -> alt.Shape:
    given = {name: look.shape for name, look in looks.items()}
    scale = alt.Scale(domain=list(series), range=assigned(series, given, (*SHAPES[1:], SHAPES[0]), shift=1))
    return alt.Shape("series:N", scale=scale, legend=key(series) if legend else None)


def assigned(series: Sequence[str], given: Mapping[str, str], by_position: Sequence[str], shift: int = 0) -> list[str]:
    """What is given to a series, else the next by position that no other one here was given. Where they are used up
    they begin again, `shift` places on: so shapes that shift tell two series of one colour apart."""
    taken = {given[name] for name in series if name in given}
    free = [each for each in by_position if each not in taken] or list(by_position)
    others = [name for name in series if name not in given]
    places = {name: at + shift * (at // len(free)) for at, name in enumerate(others)}
    return [given.get(name) or free[places[name] % len(free)] for name in series]


def own_color(finding: Finding, looks: Looks) -> str:
    """Of a figure about one strategy: that strategy's."""
    look = looks.get(str(finding.parts.get("strategy")))
    return look.color if look else COLORS[0]


def log_x(title: str, values: Sequence[float] = ()) -> alt.X:
    """Budgets on a log scale: 1M, 10M, 1e21."""
    big = max(values, default=0.0) >= 1e15
    axis = alt.Axis(format="~e" if big else "~s", grid=False, tickCount=6)
    return alt.X("x:Q", title=title, scale=alt.Scale(type="log", nice=False, padding=14), axis=axis)


def curves(table: Sequence[Row], x_title: str, measure: str, looks: Looks = UNKNOWN) -> list[alt.Chart]:
    """Points and fitted curves with their bands, from rows `series, x, score, line, low, high`."""
    rows = [row for row in table if "series" in row and row.get("x")]
    lines = [row for row in rows if row.get("line")]
    dots = [row for row in rows if row.get("line") is False]
    series = list(dict.fromkeys(row["series"] for row in [*dots, *lines]))
    x = log_x(x_title, [row["x"] for row in rows])
    title = title_of(measure)
    y = alt.Y("score:Q", title=title, scale=alt.Scale(zero=False))
    base = alt.Chart(alt.Data(values=lines)).encode(x=x, color=color(series, len(series) > 1, looks))
    band = base.mark_area(opacity=0.14, stroke=None).encode(y=alt.Y("low:Q", title=title), y2="high:Q")
    line = base.mark_line(strokeWidth=2).encode(y=y)
    marks = (
        alt.Chart(alt.Data(values=dots))
        .mark_point(filled=True, size=46, opacity=0.85)
        .encode(
            x=x, y=y, color=color(series, len(series) > 1, looks), shape=shape(series, len(series) > 1, looks),
            tooltip=[
                alt.Tooltip("series:N"), alt.Tooltip("x:Q", title=x_title, format=",.3~s"),
                alt.Tooltip("score:Q", title=measure, format=".4f"),
            ],
        )
    )  # fmt: skip
    return [band, line, marks]


def finished(chart: alt.LayerChart, height: int = HEIGHT, width: int = WIDTH) -> alt.LayerChart:
    return _finished(chart, height, width)


def rule(x: float, label: str, low: float | None = None, high: float | None = None) -> list[alt.Chart]:
    """A vertical line at a budget with its interval as a pale strip, and a word beside it."""
    made = []
    if low is not None and high is not None:
        strip = alt.Chart(alt.Data(values=[{"x": low, "to": high}]))
        made.append(strip.mark_rect(opacity=0.16, color=BASELINE_COLOR).encode(x=alt.X("x:Q"), x2="to:Q"))
    line = alt.Chart(alt.Data(values=[{"x": x, "label": label}]))
    made.append(line.mark_rule(strokeDash=DASHES[2], strokeWidth=1.5, color=BASELINE_COLOR).encode(x="x:Q"))
    text = line.mark_text(align="left", dx=6, baseline="top", fontSize=12, color="currentColor")
    made.append(text.encode(x="x:Q", y=alt.value(4), text="label:N"))
    return made


def intervals(rows: Sequence[Row], title: str) -> alt.LayerChart:
    """One line for each of `name, value, low, high` beside 0; without limits a dot alone."""
    y = alt.Y("name:N", title=None, sort=None, axis=alt.Axis(ticks=False, domain=False, labelLimit=200, labelPadding=8))
    x = alt.X("value:Q", title=title, scale=alt.Scale(padding=16), axis=alt.Axis(tickCount=6))
    base = alt.Chart(alt.Data(values=list(rows))).encode(y=y, color=alt.value(COLORS[0]))
    limits = [{**row} for row in rows if row.get("low") is not None and row.get("high") is not None]
    whisker = alt.Chart(alt.Data(values=limits)).mark_rule(strokeWidth=2.5, opacity=0.75, color=COLORS[0])
    zero = alt.Chart(alt.Data(values=[{"value": 0}])).mark_rule(opacity=0.5, strokeDash=[3, 3], color="currentColor")
    layers = [zero.encode(x=x), base.mark_point(filled=True, size=90, opacity=1).encode(x=x)]
    if limits:
        layers.insert(1, whisker.encode(y=y, x=alt.X("low:Q", title=title), x2="high:Q"))
    return finished(alt.layer(*layers), 50 + 34 * len(rows))


def said(label: str) -> alt.Chart:
    """A few words in the upper right corner."""
    text = alt.Chart(alt.Data(values=[{"label": label}])).mark_text(align="right", baseline="top", dx=-4, fontSize=12)
    return text.encode(x=alt.value("width"), y=alt.value(4), text="label:N", color=alt.value("currentColor"))
