"""Charts of findings, for the page and for paper: each function takes plain values and returns an Altair chart.

A strategy has one colour, one shape and one dash in every chart (`looks`), told apart by colour-blind readers and in
grey print. Text takes the colour of the page around it (`currentColor`), so a chart reads on light and on dark. A band
or whisker is the 95 % interval of the finding's widest claim; faint marks are single seeds.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import altair as alt

from curricle.analysis import Finding
from curricle.analysis.finding import ACCURACY, BITS_PER_BYTE
from curricle.report import words
from curricle.store import whole_file

Row = Mapping[str, Any]

# Middle tones, at least 3:1 on white and on near-black, apart for the usual colour-blindnesses; grey is the baseline's.
COLORS = ("#3a7fc8", "#d0702a", "#239a7c", "#b85c9e", "#9a8220", "#7f6fd0", "#c8524c", "#4a93a8")
BASELINE_COLOR = "#7d848c"
SHAPES = ("circle", "square", "triangle-up", "diamond", "cross", "triangle-down", "triangle-right", "triangle-left")
DASHES = ([1, 0], [7, 2], [3, 2], [7, 2, 2, 2], [1, 2], [10, 3], [5, 5], [2, 4])
BASELINE_DASH = [4, 3]
WIDTH, HEIGHT = 430, 270
SMALL = 320  # the width of a chart that stands in a row of three
# Of a legend, in pixels: what the axis beside the plot takes, a symbol, a letter of a wide face, between columns;
# and a row.
AXIS, SYMBOL, LETTER, GAP, LINE = 60, 24, 7.0, 20, 17
MOST_COLUMNS = 4
# Of an axis across: the page's face may be wider than the one that labels were measured in.
LABELS = {"labelSeparation": 8, "labelFlush": False}
VEGA_LITE = "_".join(alt.SCHEMA_VERSION.removeprefix("v").split(".")[:2])  # as vl-convert names it
TITLES = {ACCURACY: "accuracy, % correct", BITS_PER_BYTE: "bits per byte (lower is better)"}
COLUMN = {ACCURACY: "accuracy", BITS_PER_BYTE: "bits_per_byte"}  # of queries.seed_scores


# The same shapes as paths around (0, 0), for a key outside a chart.
PATHS = {
    "circle": "M-4 0A4 4 0 1 0 4 0A4 4 0 1 0-4 0Z", "square": "M-3.6-3.6h7.2v7.2h-7.2Z",
    "triangle-up": "M0-4.4L4.4 3.6H-4.4Z", "diamond": "M0-5L4 0L0 5L-4 0Z",
    "cross": "M-1.5-4.5h3v3h3v3h-3v3h-3v-3h-3v-3h3Z", "triangle-down": "M0 4.4L4.4-3.6H-4.4Z",
    "triangle-right": "M4.4 0L-3.6 4.4V-4.4Z", "triangle-left": "M-4.4 0L3.6 4.4V-4.4Z",
}  # fmt: skip


class Look(NamedTuple):
    color: str
    shape: str
    dash: list[int]

    @property
    def path(self) -> str:
        return PATHS[self.shape]


def looks(strategies: Sequence[str], baseline: str) -> dict[str, Look]:
    """How each strategy looks, in every chart."""
    others = [s for s in strategies if s != baseline]
    # A colour that comes again has another shape and dash.
    made = {
        s: Look(COLORS[i % 8], SHAPES[(i + 1 + i // 8) % 8], DASHES[(i + i // 8) % 8]) for i, s in enumerate(others)
    }
    grey = {baseline: Look(BASELINE_COLOR, SHAPES[0], BASELINE_DASH)}
    return {s: (grey | made)[s] for s in strategies}


def curve(
    findings: Sequence[Finding], seeds: Sequence[Row], style: Mapping[str, Look], stage: str, measure: str,
    legend: bool = False,
) -> alt.LayerChart:  # fmt: skip
    """The score after each evaluation point of `stage`; `findings` are those of question `curve` on one benchmark."""
    rows = [
        _row(f, f.parts["strategy"], tokens=f.parts["tokens"])
        for f in findings
        if f.question == "curve" and f.measure == measure and f.parts["stage"] == stage
    ]
    here = [s for s in seeds if s["stage"] == stage and s["strategy"] in {row["strategy"] for row in rows}]
    places = {s["strategy"]: s["position"] for s in here}  # the last one, where a stage stands twice in a strategy
    single = [
        {"strategy": s["strategy"], "tokens": s["tokens"], "value": s[COLUMN[measure]]}
        for s in here
        if s["position"] == places[s["strategy"]] and s[COLUMN[measure]] is not None
    ]
    points = sorted({row["tokens"] for row in rows})
    kind = "log" if points and points[-1] >= 6 * points[0] else "linear"
    x = alt.X(
        "tokens:Q",
        title=f"tokens of {stage}",
        scale=alt.Scale(type=kind, nice=False, padding=14, zero=False),
        axis=alt.Axis(format="~s", values=points if len(points) <= 7 else alt.Undefined, grid=False),
    )
    y = alt.Y("value:Q", title=TITLES[measure], scale=alt.Scale(zero=False))
    base = alt.Chart(alt.Data(values=rows)).encode(x=x, y=y, color=_color(style, legend))
    band = base.mark_area(opacity=0.13, stroke=None).encode(y=alt.Y("low:Q", title=TITLES[measure]), y2="high:Q")
    line = base.mark_line(strokeWidth=2).encode(strokeDash=_dash(style))
    mark = base.mark_point(filled=True, size=64, opacity=1)
    dots = mark.encode(shape=_shape(style, legend), tooltip=_tooltip(alt.Tooltip("tokens:Q", format=",")))
    faint = alt.Chart(alt.Data(values=single)).mark_point(filled=True, size=14, opacity=0.45)
    return _finished(
        band + faint.encode(x=x, y=y, color=_color(style)) + line + dots, names=list(style) if legend else ()
    )


def side_by_side(
    findings: Sequence[Finding], seeds: Sequence[Row], style: Mapping[str, Look], measure: str
) -> alt.LayerChart:
    """The score of each strategy at its end, with its interval; `findings` are those of question `score`."""
    rows = [_row(f, f.parts["strategy"]) for f in findings if f.question == "score" and f.measure == measure]
    single = [
        {"strategy": s["strategy"], "value": s[COLUMN[measure]]}
        for s in seeds
        if s["last"] and s["final"] and s[COLUMN[measure]] is not None
    ]
    names = alt.Axis(ticks=False, domain=False, labelLimit=140, labelPadding=8)
    y = alt.Y("strategy:N", title=None, sort=list(style), axis=names)
    x = alt.X("value:Q", title=TITLES[measure], scale=alt.Scale(zero=False, padding=12), axis=alt.Axis(tickCount=6))
    base = alt.Chart(alt.Data(values=rows)).encode(y=y, x=x, color=_color(style))
    whisker = base.mark_rule(strokeWidth=2.5, opacity=0.75).encode(x=alt.X("low:Q", title=TITLES[measure]), x2="high:Q")
    faint = alt.Chart(alt.Data(values=single)).mark_tick(thickness=1.5, height=13, opacity=0.5)
    dots = base.mark_point(filled=True, size=120, opacity=1).encode(shape=_shape(style), tooltip=_tooltip())
    label = base.mark_text(dy=-15, fontSize=12, fontWeight=600).encode(text="digits:N")
    layers = whisker + faint.encode(y=y, x=x, color=_color(style)) + dots + label
    return _finished(layers, 70 + 46 * len(rows))


def forgetting(
    findings: Sequence[Finding], style: Mapping[str, Look], columns: Sequence[Sequence[str]],
    column_of: Mapping[tuple[str, int], int], legend: bool = False,
) -> alt.LayerChart:  # fmt: skip
    """Held-out bits per byte of one source after each stage. `columns` names the stages that stand in each
    column, `column_of` says where the stage at a position of a strategy stands."""
    rows = []
    for f in findings:
        strategy, position = str(f.parts.get("strategy")), f.parts.get("position")
        place = column_of.get((strategy, position)) if isinstance(position, int) else None
        if f.question == "held-out" and place is not None:
            rows.append(_row(f, strategy, column=place, after=f.parts["stage"]))
    lines = alt.Axis(labelAngle=0, labelLimit=110, grid=False, labelExpr=f"{json.dumps(columns)}[datum.value]")
    x = alt.X("column:O", title=None, axis=lines)
    offset = alt.XOffset("strategy:N", sort=list(style), scale=alt.Scale(paddingOuter=1))
    y = alt.Y("value:Q", title="bits per byte", scale=alt.Scale(zero=False))
    base = alt.Chart(alt.Data(values=rows)).encode(x=x, xOffset=offset, y=y, color=_color(style, legend, SMALL))
    line = base.mark_line(strokeWidth=1.75, opacity=0.8).encode(strokeDash=_dash(style))
    whisker = base.mark_rule(strokeWidth=2, opacity=0.7).encode(y=alt.Y("low:Q", title="bits per byte"), y2="high:Q")
    mark = base.mark_point(filled=True, size=64, opacity=1)
    dots = mark.encode(shape=_shape(style, legend, SMALL), tooltip=_tooltip(alt.Tooltip("after:N")))
    return _finished(line + whisker + dots, 210, SMALL, list(style) if legend else ())


def along(findings: Sequence[Finding], style: Mapping[str, Look], legend: bool = False) -> alt.LayerChart:
    """Held-out bits per byte of one source at every evaluation point of whole strategies: findings of the questions
    `held-out` (ends of stages) and `held-out-curve` (on their way)."""
    rows = [
        _row(f, f.parts["strategy"], tokens=f.parts["trained_tokens"], stage=f.parts["stage"])
        for f in sorted(findings, key=lambda f: int(f.parts["trained_tokens"] or 0))
    ]
    ticks = alt.Axis(format="~s", tickCount=4, grid=False, labelExpr="datum.value ? datum.label : '0'")
    x = alt.X("tokens:Q", title="tokens of training", axis=ticks, scale=alt.Scale(nice=False, padding=8))
    y = alt.Y("value:Q", title="bits per byte", scale=alt.Scale(zero=False))
    base = alt.Chart(alt.Data(values=rows)).encode(x=x, y=y, color=_color(style, legend, SMALL))
    band = base.mark_area(opacity=0.13, stroke=None).encode(y=alt.Y("low:Q", title="bits per byte"), y2="high:Q")
    line = base.mark_line(strokeWidth=1.75, opacity=0.8).encode(strokeDash=_dash(style))
    mark = base.mark_point(filled=True, size=40, opacity=1)
    place = [alt.Tooltip("stage:N"), alt.Tooltip("tokens:Q", format=",")]
    dots = mark.encode(shape=_shape(style, legend, SMALL), tooltip=_tooltip(*place))
    return _finished(band + line + dots, 210, SMALL, list(style) if legend else ())


def loss(rows: Sequence[Row], style: Mapping[str, Look], legend: bool = False) -> alt.LayerChart:
    """Training loss along one stage, from `queries.losses`: one faint line a run, their mean strong."""
    runs = {run: i for i, run in enumerate(dict.fromkeys(row["run"] for row in rows))}
    plain = [
        {"strategy": row["strategy"], "position": row["position"], "run": runs[row["run"]], "tokens": row["tokens"],
         "loss_nats": round(row["loss_nats"], 4)}
        for row in rows
    ]  # fmt: skip
    ticks = alt.Axis(format="~s", tickCount=4, grid=False, labelExpr="datum.value ? datum.label : '0'")
    x = alt.X("tokens:Q", title="tokens of the stage", axis=ticks, scale=alt.Scale(nice=False))
    y = alt.Y("loss_nats:Q", title="loss, nats per token", scale=alt.Scale(zero=False))
    base = alt.Chart().encode(x=x, color=_color(style, legend, SMALL))
    faint = base.mark_line(strokeWidth=1, opacity=0.35).encode(y=y, detail="run:N")
    strong = base.mark_line(strokeWidth=2).encode(
        y=alt.Y("mean(loss_nats):Q", title="loss, nats per token", scale=alt.Scale(zero=False)),
        strokeDash=_dash(style),
        detail="position:N",
        tooltip=[
            alt.Tooltip("strategy:N"),
            alt.Tooltip("tokens:Q", format=","),
            alt.Tooltip("mean(loss_nats):Q", title="mean loss", format=".3f"),
        ],
    )
    drawn = _finished(faint + strong, 190, SMALL, list(style) if legend else ())
    drawn.data = alt.Data(values=plain)  # last, since every step before copies what it has
    return drawn


def _row(f: Finding, strategy: object, **more: object) -> dict[str, Any]:
    """A finding as one row of a chart. Without an interval both limits are the estimate."""
    found = f.interval()
    low, high = (found.low, found.high) if found else (None, None)
    return {
        "strategy": strategy,
        "value": f.estimate,
        "low": f.estimate if low is None else low,
        "high": f.estimate if high is None else high,
        "estimate": words.estimate(f),
        "digits": words.estimate(f).split(" ")[0],
        "interval": f"{words.interval(f)} ({found.level:.0%}, {found.kind})" if found else "none",
        "size": f"n = {f.n:,}, {words.plural(f.seeds, 'seed')}",
        **more,
    }


def _tooltip(*place: alt.Tooltip) -> list[alt.Tooltip]:
    return [alt.Tooltip("strategy:N"), *place, *(alt.Tooltip(f"{n}:N") for n in ("estimate", "interval", "size"))]


def _color(style: Mapping[str, Look], legend: bool = False, width: int = WIDTH) -> alt.Color:
    scale = alt.Scale(domain=list(style), range=[look.color for look in style.values()])
    return alt.Color("strategy:N", scale=scale, legend=key(list(style), width) if legend else None)


def _shape(style: Mapping[str, Look], legend: bool = False, width: int = WIDTH) -> alt.Shape:
    scale = alt.Scale(domain=list(style), range=[look.shape for look in style.values()])
    return alt.Shape("strategy:N", scale=scale, legend=key(list(style), width) if legend else None)


def _dash(style: Mapping[str, Look]) -> alt.StrokeDash:
    scale = alt.Scale(domain=list(style), range=[look.dash for look in style.values()])
    return alt.StrokeDash("strategy:N", scale=scale, legend=None)


def key(names: Sequence[str], width: int = WIDTH) -> alt.Legend:
    """A legend above a chart of that width, in as many columns as leave every name whole."""
    room = width - AXIS
    return alt.Legend(
        orient="top", title=None, columns=_columns(names, room), labelLimit=room - SYMBOL, symbolOpacity=1
    )


def _columns(names: Sequence[str], room: float) -> int:
    """Vega makes each column as wide as its longest name, and cuts what stands past the edge without a word."""

    def across(columns: int) -> float:
        widths = [max(SYMBOL + LETTER * len(name) for name in names[i::columns]) for i in range(columns)]
        return sum(widths) + GAP * (columns - 1)

    return next((n for n in range(min(MOST_COLUMNS, len(names)), 1, -1) if across(n) <= room), 1)


def _finished(
    chart: alt.LayerChart, height: int = HEIGHT, width: int = WIDTH, names: Sequence[str] = ()
) -> alt.LayerChart:
    """One size, one face. Text, ticks and grid take the page's colour. `names` of its `key`, where that is long: the
    rows past the first get room of their own, and take none from the plot."""
    if names:
        height += LINE * (-(-len(names) // _columns(names, width - AXIS)) - 1)
    text = {"labelColor": "currentColor", "titleColor": "currentColor"}
    faint = {"gridColor": "currentColor", "domainColor": "currentColor", "tickColor": "currentColor"}
    thin = {"gridOpacity": 0.13, "domainOpacity": 0.4, "tickOpacity": 0.4, "labelFontSize": 12, "titleFontSize": 12}
    soft = {"titleFontWeight": 400, "titlePadding": 10, "labelOpacity": 0.8, "titleOpacity": 0.8, "labelOverlap": True}
    return (
        chart.properties(width=width, height=height, autosize=alt.AutoSizeParams(type="fit", contains="padding"))
        .configure(background="transparent", font="system-ui, sans-serif", padding=4)
        .configure_view(stroke=None)
        .configure_axis(**text, **faint, **thin, **soft)
        .configure_axisX(**LABELS)
        .configure_legend(labelColor="currentColor", labelFontSize=12, columnPadding=GAP)
    )


def svg(spec: dict[str, Any]) -> str:
    """A chart's specification (`chart.to_dict()`) as SVG text, places rounded to hundredths of a pixel."""
    import vl_convert

    drawn = vl_convert.vegalite_to_svg(spec, vl_version=VEGA_LITE)
    places = r' (?:d|transform|x|y|x1|x2|y1|y2|width|height)="[^"]*"'
    return re.sub(places, lambda found: re.sub(r"(\.\d\d)\d+", r"\1", found[0]), drawn)


def save(chart: alt.LayerChart, path: Path) -> None:
    """Write the chart as `.svg` (transparent) or `.png` (on white, twice the size)."""
    spec = chart.to_dict()
    if path.suffix == ".svg":
        with whole_file(path, "w") as file:
            file.write(svg(spec))
    elif path.suffix == ".png":
        import vl_convert

        with whole_file(path) as file:
            file.write(vl_convert.vegalite_to_png({**spec, "background": "white"}, vl_version=VEGA_LITE, scale=2))
    else:
        raise ValueError(f"{path}: a figure is saved as .svg or .png")
