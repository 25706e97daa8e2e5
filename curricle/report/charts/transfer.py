"""Transfer drawn: cells over the doses of both sources with the fitted surface, and its terms on two scales.

From the finding alone (`analysis.transfer`). An interaction is lines that are not parallel; on which scale they are not
is what the panels below say. Whiskers are 95 % intervals.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import altair as alt

from curricle.analysis import Finding
from curricle.analysis.finding import ACCURACY
from curricle.report import words
from curricle.report.figures import BASELINE_COLOR, COLORS, LABELS, TITLES, Row

ACROSS, SIDE = 330, 270  # widths of the surface and of the panels of terms, whose labels are longer


def chart(finding: Finding) -> alt.VConcatChart:
    """Scores over the first source's dose, a colour for each dose of the second; below it α, β, γ on both scales. One
    column, so that its letters are still read where the page is as narrow as a telephone."""
    return dressed(alt.vconcat(surface(finding), *scales(finding), spacing=18))


def surface(finding: Finding) -> alt.LayerChart:
    first, second = str(finding.parts["first"]), str(finding.parts["second"])
    main = finding.parts["order"]
    rows = [labelled(row, second) for row in finding.table]
    cells = [row for row in rows if row["row"] == "cell"]
    usual = [row for row in cells if row["order"] in ("", main)]
    other = [row for row in cells if row["order"] not in ("", main)]
    names = [f"{second} {words.count(level)}" for level in sorted({row["second"] for row in cells})]
    colors = alt.Scale(domain=names, range=[BASELINE_COLOR, *COLORS][: len(names)])
    legend = alt.Legend(orient="top", title=None, labelLimit=200, symbolOpacity=1, symbolType="circle")
    color = alt.Color("level:N", scale=colors, legend=legend)
    # Without fitted lines a finding is undefined; means are drawn all the same.
    doses = sorted({row["first"] for row in cells})
    ticks = alt.Axis(format="~s", values=doses, grid=False, labelExpr="datum.value ? datum.label : '0'")
    x = alt.X("first:Q", title=f"tokens of {first}", axis=ticks, scale=alt.Scale(nice=False, padding=18))
    title = TITLES[finding.measure]
    y = alt.Y("score:Q", title=title, scale=alt.Scale(zero=False))
    tip = [
        alt.Tooltip("strategy:N"),
        alt.Tooltip("order:N"),
        alt.Tooltip("score:Q", format=".4~g"),
        alt.Tooltip("low:Q", format=".4~g"),
        alt.Tooltip("high:Q", format=".4~g"),
        alt.Tooltip("seeds:Q"),
    ]
    fitted = alt.Chart(alt.Data(values=[row for row in rows if row["row"] == "fit"]))
    layers = [fitted.mark_line(strokeWidth=1.75, opacity=0.8).encode(x=x, y=y, color=color)]
    for points, filled, shift in ((usual, True, 0), (other, False, 7)):
        if points:
            base = alt.Chart(alt.Data(values=points)).encode(x=x, color=color)
            whisker = base.mark_rule(strokeWidth=2, opacity=0.7, xOffset=shift)
            layers.append(whisker.encode(y=alt.Y("low:Q", title=title), y2="high:Q"))
            dots = base.mark_point(filled=filled, size=64, opacity=1, strokeWidth=2, xOffset=shift)
            layers.append(dots.encode(y=y, tooltip=tip))
    named = f"filled: {main}; open: the other order" if other else ""
    return alt.layer(*layers).properties(
        width=ACROSS, height=270, title=alt.TitleParams(named, fontSize=11, fontWeight="normal", color="currentColor")
    )


def labelled(row: Row, second: str) -> dict[str, Any]:
    return {**row, "level": f"{second} {words.count(float(row['second']))}"}


def scales(finding: Finding) -> list[alt.LayerChart]:
    """The terms on f's scale and on the raw one, each with its own axis: they are numbers of different kinds."""
    parts = finding.parts
    raw = "points of accuracy" if finding.measure == ACCURACY else "bits per byte saved"
    made = []
    for prefix, title in (("", parts.get("scale")), ("raw_", raw)):
        if parts.get(f"{prefix}gamma") is not None:
            made.append(one_scale(finding, prefix, str(title)))
    if parts.get("kappa") is not None:
        edges = {"low": parts["kappa_low"], "high": parts["kappa_high"]}
        if edges["high"] is None:
            title = "of effective tokens (unbounded above)"
            edges["high"] = max(10.0, 2 * float(parts["kappa"] or 0.0))
        else:
            title = "of effective tokens"
        made.append(terms([{"term": "κ together", "value": parts["kappa"], **edges, "main": True}], title))
    return made


def one_scale(finding: Finding, prefix: str, title: str) -> alt.LayerChart:
    parts = finding.parts
    named = {"alpha": f"α {parts['first']}", "beta": f"β {parts['second']}", "gamma": "γ together"}
    named |= {"phi": f"φ {parts['filler']}"} if parts.get("filler") else {}
    rows = [
        {
            "term": name,
            "value": parts[prefix + key],
            "low": parts[f"{prefix}{key}_low"],
            "high": parts[f"{prefix}{key}_high"],
            "main": key == "gamma",
        }
        for key, name in named.items()
    ]
    return terms(rows, title)


def terms(rows: Sequence[Row], title: str) -> alt.LayerChart:
    """One row a term: its estimate and its interval beside 0."""
    axis = alt.Axis(ticks=False, domain=False, labelLimit=120, labelPadding=8)
    y = alt.Y("term:N", title=None, sort=[row["term"] for row in rows], axis=axis)
    base = alt.Chart(alt.Data(values=rows)).encode(
        y=y, color=alt.condition("datum.main", alt.value(COLORS[1]), alt.value(BASELINE_COLOR))
    )
    x = alt.X("value:Q", title=title, axis=alt.Axis(tickCount=5), scale=alt.Scale(padding=10))
    zero = alt.Chart(alt.Data(values=[{"value": 0}])).mark_rule(opacity=0.5, strokeDash=[3, 3], color="currentColor")
    whisker = base.mark_rule(strokeWidth=2.5, opacity=0.75).encode(x=alt.X("low:Q", title=title), x2="high:Q")
    tip = [alt.Tooltip("term:N"), *(alt.Tooltip(f"{name}:Q", format=".3~g") for name in ("value", "low", "high"))]
    dots = base.mark_point(filled=True, size=90, opacity=1).encode(x=x, tooltip=tip)
    return alt.layer(zero.encode(x=x), whisker, dots).properties(width=SIDE, height=24 * len(rows) + 12)


def dressed(made: alt.VConcatChart) -> alt.VConcatChart:
    """The page's face, as `figures` gives it to a single chart: text, ticks and grid take the colour around."""
    text = {"labelColor": "currentColor", "titleColor": "currentColor"}
    faint = {"gridColor": "currentColor", "domainColor": "currentColor", "tickColor": "currentColor"}
    thin = {"gridOpacity": 0.13, "domainOpacity": 0.4, "tickOpacity": 0.4, "labelFontSize": 12, "titleFontSize": 12}
    soft = {"titleFontWeight": 400, "titlePadding": 10, "labelOpacity": 0.8, "titleOpacity": 0.8, "labelOverlap": True}
    return (
        made.configure(background="transparent", font="system-ui, sans-serif", padding=4)
        .configure_view(stroke=None)
        .configure_axis(**text, **faint, **thin, **soft)
        .configure_axisX(**LABELS)
        .configure_legend(labelColor="currentColor", labelFontSize=12, columnPadding=20)
    )
