"""Saturation: the curve, its band, and the budget past which a doubling is worth less than δ."""

from __future__ import annotations

import altair as alt

from curricle.analysis.finding import Finding, short
from curricle.report.charts.laws import UNKNOWN, Looks, curves, finished, rule, said


def of_strategy(finding: Finding, looks: Looks) -> alt.LayerChart:
    """Of `saturation`, whose curve is a strategy's; that of `floor` and `why-saturated` is a source's."""
    return chart(finding, looks)


def chart(finding: Finding, looks: Looks = UNKNOWN) -> alt.LayerChart:
    """Of questions `saturation`, `floor` and `why-saturated`: measured points and fitted curves over tokens; for
    `saturation` D_sat with its interval, or, past the measured range, its lower limit."""
    title = "new tokens (repeats count less)" if finding.parts.get("in_new_tokens") else "tokens read"
    layers = curves(finding.table, title, finding.measure, looks)
    interval = finding.interval()
    if finding.question == "saturation" and interval is not None:
        top = float(finding.parts["largest"] or 0) * 2
        low, high = interval.low or 0.0, interval.high
        least = min(float(row["x"] or 0) for row in finding.table)
        shown = (max(low, least), top if high is None else min(high, top))
        if finding.estimate is not None:
            layers = [*rule(finding.estimate, f"D_sat {short(finding.estimate)}", *shown), *layers]
        elif low > 0:
            layers.append(said(f"a doubling is worth δ until past {short(low)}"))
    return finished(alt.layer(*layers))
