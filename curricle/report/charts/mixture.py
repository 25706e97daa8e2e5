"""Charts of a recommended mixture: its shares beside the natural and the uniform mixture, and how well runs that were
left out were predicted.

A bar is the recommended share; the rule runs from the 5th to the 95th percentile of the optima of refits on resamples,
which the recommended mixture may have been drawn back from. Drawn from a finding's table alone.
"""

from __future__ import annotations

import altair as alt

from curricle.analysis.finding import Finding
from curricle.report import words
from curricle.report.charts.laws import intervals
from curricle.report.figures import BASELINE_COLOR, COLORS, WIDTH, _finished, key

MARKS = {"recommended": COLORS[0], "natural": COLORS[1], "uniform": BASELINE_COLOR}


def chart(finding: Finding) -> alt.LayerChart:
    """Of the finding `mixture`: a row a source, the largest share first."""
    names = words.short_names([str(row["source"]) for row in finding.table])
    rows = [{**row, "source": names[str(row["source"])]} for row in finding.table]
    order = [row["source"] for row in rows]
    points = [{"source": row["source"], "mixture": name, "share": row[name]} for row in rows for name in MARKS]
    axis = alt.Axis(ticks=False, domain=False, labelLimit=180, labelPadding=8)
    y = alt.Y("source:N", title=None, sort=order, axis=axis)
    title = "share of the tokens; a line: 90 % of the resamples' optima"
    share = alt.X("share:Q", title=title, axis=alt.Axis(format="%", tickCount=6))
    color = alt.Color(
        "mixture:N", scale=alt.Scale(domain=list(MARKS), range=list(MARKS.values())),
        legend=alt.Legend(orient="top", title=None, symbolOpacity=1),
    )  # fmt: skip
    shape = alt.Shape("mixture:N", scale=alt.Scale(domain=list(MARKS), range=["circle", "diamond", "triangle-up"]))
    bars = alt.Chart(alt.Data(values=rows)).mark_bar(height=11, opacity=0.25, color=MARKS["recommended"])
    rule = alt.Chart(alt.Data(values=rows)).mark_rule(strokeWidth=2, color=MARKS["recommended"], opacity=0.8)
    dots = alt.Chart(alt.Data(values=points)).mark_point(filled=True, size=70, opacity=1)
    often = [
        alt.Tooltip(f"{name}:Q", title=f"optima {name}", format=".0%") for name in rows[0] if name.startswith("above ")
    ]
    tips = [alt.Tooltip("source:N"), *(alt.Tooltip(f"{m}:Q", format=".1%") for m in MARKS)]
    return _finished(
        bars.encode(y=y, x=alt.X("recommended:Q", title=title), tooltip=[*tips, *often])
        + rule.encode(y=y, x=alt.X("low:Q", title=title), x2="high:Q")
        + dots.encode(y=y, x=share, color=color, shape=shape),
        40 + 22 * len(rows),
    )


def held_out(finding: Finding) -> alt.LayerChart:
    """Of the finding `mixture-fit` of the targets together: each run as predicted without it, against what it was."""
    rows = [dict(row) for row in finding.table]
    values = [float(row[k] or 0) for row in rows for k in ("predicted", "measured")]
    ends = [{"x": min(values), "y": min(values)}, {"x": max(values), "y": max(values)}]
    scale = alt.Scale(zero=False, padding=10, nice=False)
    title = f"predicted {finding.measure}, the run left out"
    x = alt.X("predicted:Q", title=title, scale=scale, axis=alt.Axis(grid=False, tickCount=6))
    y = alt.Y("measured:Q", title="measured", scale=scale, axis=alt.Axis(tickCount=6))
    line = alt.Chart(alt.Data(values=ends)).mark_line(strokeDash=[4, 3], color=BASELINE_COLOR)
    tips = [alt.Tooltip("run:N"), *(alt.Tooltip(f"{k}:Q", format=".4f") for k in ("predicted", "measured"))]
    dots = alt.Chart(alt.Data(values=rows)).mark_point(filled=True, size=34, opacity=0.7, color=COLORS[0])
    return _finished(
        line.encode(x=alt.X("x:Q", title=title, scale=scale), y="y:Q") + dots.encode(x=x, y=y, tooltip=tips), WIDTH
    )


def gain(finding: Finding) -> alt.LayerChart:
    """Of the finding `mixture-gain`: what the recommended mixture gains, with its interval, and what other methods say
    of the same."""
    i = finding.interval()
    own = {"name": "this method", "value": finding.estimate, "low": i.low if i else None, "high": i.high if i else None}
    rows = [
        own,
        *({"name": k.removeprefix("by "), "value": v} for k, v in finding.parts.items() if k.startswith("by ")),
    ]
    return intervals(rows, f"predicted {finding.measure} lower than {finding.parts['against']} by")


def next_runs(finding: Finding) -> alt.LayerChart:
    """Of the finding `mixture-next`: each proposed run's shares. Where there are more sources than colours, those with
    the least over all runs are one."""
    sources = list(dict.fromkeys(str(row["source"]) for row in finding.table))
    names: dict[str, str] = words.short_names(sources)
    whole = dict.fromkeys(sources, 0.0)
    for row in finding.table:
        whole[str(row["source"])] += float(row["share"] or 0)
    few = sorted(sources, key=lambda s: -whole[s])[len(COLORS) :]
    names |= dict.fromkeys(few, f"{words.plural(len(few), 'other')}")
    shares: dict[tuple[str, str], float] = {}
    for row in finding.table:
        part = f"run {row['run']}", names[str(row["source"])]
        shares[part] = shares.get(part, 0.0) + float(row["share"] or 0)
    rows = [{"run": run, "source": source, "share": share} for (run, source), share in shares.items()]
    domain = [*(names[s] for s in sources if s not in few), *dict.fromkeys(names[s] for s in few)]
    scale = alt.Scale(domain=domain, range=[*COLORS[: len(domain) - bool(few)], *[BASELINE_COLOR] * bool(few)])
    bars = alt.Chart(alt.Data(values=rows)).mark_bar(height=18).encode(
        y=alt.Y("run:N", title=None, sort=None, axis=alt.Axis(ticks=False, domain=False, labelPadding=8)),
        x=alt.X("share:Q", title="share of the tokens", axis=alt.Axis(format="%"), stack="normalize"),
        color=alt.Color("source:N", scale=scale, legend=key(domain)),
        tooltip=["run:N", "source:N", alt.Tooltip("share:Q", format=".1%")],
    )  # fmt: skip
    return _finished(alt.layer(bars), 70 + 30 * len({row["run"] for row in rows}), names=domain)
