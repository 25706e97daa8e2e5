"""What `curricle analyse` says in a terminal: the sentence first, and no number where there is no answer."""

from __future__ import annotations

import io

from rich.console import Console, Group

from curricle.analysis import Finding, Interval
from curricle.report.answers import found


def shown(*findings: Finding, width: int = 100) -> str:
    file = io.StringIO()
    Console(file=file, width=width, no_color=True).print(Group(*found(findings)))
    return "\n".join(line.rstrip() for line in file.getvalue().splitlines())


def saturated(estimate: float | None, undefined: str | None) -> Finding:
    table = (
        {"series": "code", "x": 32_000.0, "score": 2.25, "line": False, "low": None, "high": None},
        {"series": "code", "x": 33_753.0, "score": 2.125, "line": True, "low": 2.0, "high": 2.5},
    )
    limits = (Interval(1.43e6, None, "these problems"),)
    parts = {"delta": 0.05, "extrapolated": 40_770_909_125.0}
    return Finding(
        "saturation", "code on web", "bits per byte", "web", estimate, "tokens", limits, n=9, seeds=2,
        undefined=undefined, note="δ = 0.05: stated.", parts=parts, table=table,
    )  # fmt: skip


def test_an_undefined_finding_says_why_and_prints_nothing_that_it_would_be_made_of():
    text = shown(saturated(None, "not within the 256k measured tokens"))
    assert "undefined: not within the 256k measured tokens" in text
    assert "95% limits for these problems: from 1.43M, unbounded above" in text and "interval" not in text
    assert "extrapolated" not in text and "40,770,909,125" not in text
    assert "40,770,909,125" in shown(saturated(4.077e10, None))
