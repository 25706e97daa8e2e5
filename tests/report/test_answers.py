"""What `curricle analyse` says in a terminal: the sentence first, and no number where there is no answer."""

from __future__ import annotations

import io
from dataclasses import replace

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


def test_undefined_findings_in_a_table_come_last_and_say_why():
    missing = Finding("bound-information", "a over b", "loss", "gsm", None, "bits", undefined="no procedural control")
    lines = shown(missing, saturated(4.077e10, None)).splitlines()
    assert lines[0].startswith("code on web")
    assert lines[-1] == "Undefined: no procedural control."
    assert any("a over b" in line and "undefined" in line for line in lines)


def test_the_sentence_leads_and_the_coordinates_of_a_figure_are_left_out():
    lines = shown(saturated(4.077e10, None)).splitlines()
    assert lines[0] == "code on web, bits per byte on web: 40.8B tokens; n = 9, 2 seeds. δ = 0.05: stated."
    assert lines[1].strip() == "95% interval for these problems: from 1.43M, unbounded above"
    assert not any("33,753" in line or "series" in line for line in lines)


def test_of_a_table_that_holds_both_what_a_person_looks_up_stays():
    cell = {"row": "cell", "strategy": "code then math", "first": 80.0, "score": 0.5}
    fit = {"row": "fit", "strategy": None, "first": 10_005.0, "score": 5.984}
    text = shown(Finding("transfer", "both", "bits per byte", "gsm", 0.25, "log loss", n=9, table=(cell, fit)))
    assert "code then math" in text and "5.984" not in text
    test = {"series": "backtest", "until": 1e6, "x": 2e6, "score": 1.25, "predicted": 1.375, "held": True}
    point = {"series": "measured", "x": 777.0, "score": 1.5, "line": False}
    text = shown(Finding("predicted-loss", "at 4M", "bits per byte", "gsm", 1.0, "bits per byte", table=(point, test)))
    assert "1.375" in text and "777" not in text
    curve = ({"tokens": 512.0, "saved": 235.5, "bound": 4100.0},)
    assert "235.5" not in shown(Finding("bound-regret", "a over b", "loss", "gsm", 0.5, "bits per token", table=curve))


SHARES = {
    "stage": "math", "position": 1, "since": "code", "tokens": 512_000, "before": 2.5, "after": 2.25, "gain": -0.25,
    "relative_percent": -10.0, "share": 0.625, "low": 0.375, "high": 0.875, "share_of_difference": 0.6, "alone": -0.2,
}  # fmt: skip


def test_the_columns_that_answer_stand_first_and_what_does_not_fit_is_named():
    chain = Finding("chain", "code to math", "bits per byte", "gsm", -0.4, "bits per byte", table=(SHARES,))
    narrow, wide = shown(chain, width=60), shown(chain, width=200)
    assert "0.625" in narrow and "0.375" in narrow and "0.875" in narrow
    assert "columns" in narrow and "share_of_difference" in narrow.split("columns ")[1]
    assert {*SHARES} <= {*wide.split()} and "--json" not in wide


def test_a_lower_limit_is_never_shown_without_its_upper():
    row = {"tokens": 1e6, "loss": 2.5, "multiplier_low": 1.25, "multiplier": 1.5, "multiplier_high": None, "low": 0.0}
    row |= {"high": 3e6, "transferred": 5e5, "scratch_tokens": 1.5e6}
    for question in ("transferred", "multiplier", "another"):
        finding = Finding(question, "a over b", "bits per byte", "gsm", 1.5, "times", table=(row,))
        for width in range(20, 140):
            text = shown(finding, width=width).split("… and columns")[0]
            assert ("multiplier_low" in text) == ("multiplier_high" in text), (question, width)


def test_a_level_beside_differences_is_not_called_resolved():
    level = Finding("curve", "a", "accuracy", "gsm", 40.0, "points", (Interval(35.0, 45.0, "these weights"),), seeds=2)
    change = replace(level, question="curve-contrast", subject="a over b", p_value=0.01)
    lines = shown(level, change).splitlines()
    assert [line.endswith("resolved") for line in lines if line.startswith("a ")] == [False, True]
