"""The value of sources drawn: what a token of each gives, values against measured gains, and a surprise put to the
test. Each chart is drawn from its finding alone."""

from __future__ import annotations

import math

import altair as alt

from curricle.analysis import Finding
from curricle.analysis.finding import short
from curricle.report.charts import labels
from curricle.report.figures import COLORS, DASHES, SHAPES, _finished, key


def chart(finding: Finding) -> alt.LayerChart:
    """The chart of a finding `value` (the first of them, which holds the table), `value-validation` or
    `value-surprise`."""
    drawn = {"value": _sources, "value-validation": _against_gains, "value-surprise": _decay}
    return drawn[finding.question](finding)


def _sources(finding: Finding) -> alt.LayerChart:
    rows = [
        {**row, "low": row["value"] if row["low"] is None else row["low"],
         "high": row["value"] if row["high"] is None else row["high"],
         "said": "" if row.get("mean_r") is None else f"r {row['mean_r']:.2f} · c {row['mean_c']:.3g}"}
        for row in finding.table
    ]  # fmt: skip
    title = f"value of a token, in % of {finding.parts['of']}"
    names = alt.Axis(ticks=False, domain=False, labelLimit=160, labelPadding=8)
    y = alt.Y("source:N", title=None, sort=None, axis=names)
    x = alt.X("value:Q", title=title, scale=alt.Scale(padding=30))
    base = alt.Chart(alt.Data(values=rows)).encode(y=y, x=x, color=alt.value(COLORS[0]))
    whisker = base.mark_rule(strokeWidth=2.5, opacity=0.75).encode(x=alt.X("low:Q", title=title), x2="high:Q")
    numbers = [alt.Tooltip(f"{name}:Q", format=".3~g") for name in ("value", "low", "high")]
    tips = [alt.Tooltip("source:N"), alt.Tooltip("documents:Q"), *numbers]
    dots = base.mark_point(filled=True, size=90, opacity=1).encode(tooltip=tips)
    said = base.mark_text(dy=-13, fontSize=11).encode(text="said:N", color=alt.value("currentColor"))
    return _finished(_zero("x") + whisker + dots + said, 50 + 44 * len(rows))


def _against_gains(finding: Finding) -> alt.LayerChart:
    rows = [dict(row) for row in finding.table]
    said = finding.parts
    titles = (finding.subject, "measured gain")
    if said.get("measure"):  # asked of a study's rows
        after = short(float(said["tokens"] or 0))
        titles = (f"value by {said['method']}", f"gain after {after} tokens, {said['measure']}")
    across = labels.axis((row["value"] for row in rows), labels.ACROSS)
    along = labels.axis((row["gain"] for row in rows), labels.DOWN, down=True)
    x = alt.X("value:Q", title=titles[0], scale=across.scale, axis=alt.Axis(tickCount=6))
    base = alt.Chart(alt.Data(values=rows)).encode(x=x, y=alt.Y("gain:Q", title=titles[1], scale=along.scale))
    dots = base.mark_point(filled=True, size=90, opacity=1, color=COLORS[0]).encode(
        tooltip=["source:N", alt.Tooltip("value:Q", format=".3~g"), alt.Tooltip("gain:Q", format=".3~g"), "seeds:Q"]
    )
    names, left = labels.named(rows, across, along, of=("value", "gain"), titles=titles, name="source")
    zero = alt.Chart(alt.Data(values=[{"at": 0}])).mark_rule(opacity=0.5, strokeDash=[3, 3], color="currentColor")
    return _finished(alt.layer(zero.encode(y="at:Q"), dots, *names, title=left))


def _decay(finding: Finding) -> alt.LayerChart:
    small, large = float(finding.parts["small"] or 0), float(finding.parts["large"] or 0)
    names = {size: f"{_count(size)} parameters" for size in (small, large)}
    points = [{**row, "size": names[float(row["size"] or 0)]} for row in finding.table]
    ends = [float(row["complexity"] or 0) for row in finding.table]
    grid = [min(ends) + i * (max(ends) - min(ends)) / 40 for i in range(41)]
    lines = [
        {"size": names[size], "complexity": c, "made": math.exp(-float(finding.parts[k] or 0) * c)}
        for size, k in ((small, "k_small"), (large, "k_large"))
        for c in grid
    ]
    scale = {"domain": list(names.values())}
    color = alt.Color("size:N", scale=alt.Scale(**scale, range=list(COLORS[:2])), legend=key(scale["domain"]))
    x = alt.X("complexity:Q", title="complexity of the text, c", scale=alt.Scale(zero=False, padding=10))
    y = alt.Y("made:Q", title="what the model makes of r·c, f")
    dots = alt.Chart(alt.Data(values=points)).mark_point(filled=True, size=30, opacity=0.5)
    shape = alt.Shape("size:N", scale=alt.Scale(**scale, range=list(SHAPES[:2])), legend=key(scale["domain"]))
    dash = alt.StrokeDash("size:N", scale=alt.Scale(**scale, range=DASHES[:2]), legend=key(scale["domain"]))
    curves = alt.Chart(alt.Data(values=lines)).mark_line(strokeWidth=2)
    return _finished(
        _zero("y")
        + dots.encode(x=x, y=y, color=color, shape=shape)
        + curves.encode(x=x, y=y, color=color, strokeDash=dash)
    )


def _count(number: float) -> str:
    for unit, size in (("B", 1e9), ("M", 1e6), ("k", 1e3)):
        if number >= size:
            return f"{number / size:.3g}{unit}"
    return f"{number:g}"


def _zero(axis: str) -> alt.Chart:
    rule = alt.Chart(alt.Data(values=[{"at": 0}])).mark_rule(opacity=0.5, strokeDash=[3, 3], color="currentColor")
    return rule.encode(x="at:Q") if axis == "x" else rule.encode(y="at:Q")
