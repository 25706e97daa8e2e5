"""The figure of transfer is made from its finding alone, whatever the finding could say."""

from __future__ import annotations

import io

import numpy as np
import pytest
from simulated import script

from curricle.analysis import Finding
from curricle.analysis.factorial import factorial_design
from curricle.analysis.transfer import transfer, transfer_published
from curricle.report.charts.transfer import chart
from curricle.report.figures import svg
from curricle.report.proposals import factorial_view

sim = script("transfer")


def findings() -> dict[str, Finding]:
    random = np.random.default_rng(0)
    filled = sim.Scenario("", sim.effective(1.0), sigma=0.01, filler=True).rows(random)
    orders = [{**row, "order": "code→math"} for row in filled]
    both = [row for row in orders if row["dose:code"] and row["dose:math"]]
    orders += [{**row, "order": "math→code", "strategy": "reverse", "score": row["score"] + 0.05} for row in both]
    four = [row for row in filled if row["dose:code"] in (0, 4e6) and row["dose:math"] in (0, 4e6)]
    return {
        "orders and a filler": transfer(orders, filler="prose"),
        "undefined": transfer(four, filler="prose"),
        "published": transfer_published()[0],
        "one run a cell": transfer([row for row in filled if row["seed"] == 0], filler="prose"),
    }


@pytest.mark.parametrize("name", ["orders and a filler", "undefined", "published", "one run a cell"])
def test_a_figure_is_made_from_the_finding_as_it_is_stored(name: str) -> None:
    stored = Finding.from_json(findings()[name].to_json())
    drawn = svg(chart(stored).to_dict())
    assert drawn.startswith("<svg") and "tokens of code" in drawn
    assert ("γ together" in drawn) is (stored.parts.get("raw_gamma") is not None)


def test_a_proposal_names_its_arms_and_what_it_can_tell() -> None:
    from rich.console import Console

    console = Console(width=80, record=True, file=io.StringIO())
    console.print(factorial_view(factorial_design({"code": (0, 4e5), "math": (0, 2e5)}, filler="prose")))
    shown = console.export_text()
    assert "It cannot answer: γ and the effect of the filler" in shown and "code 400k, math 200k" in shown
