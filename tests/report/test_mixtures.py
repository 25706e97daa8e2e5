"""A recommended mixture in the terminal: its columns say whose they are, and nothing is a negative zero."""

from __future__ import annotations

import io

from rich.console import Console

from curricle.analysis.finding import Finding
from curricle.report.mixtures import mixture_view, value


def test_the_optima_of_resamples_are_not_taken_for_the_recommended_mixture() -> None:
    shares = {"recommended": 0.05, "natural": 0.05, "uniform": 0.5, "low": 0.124, "high": 0.19}
    row = {"source": "web", **shares, "above 1 %": 1.0, "above 5 %": 1.0, "above 10 %": 1.0}
    parts = {"method": "efftokens", "natural": "the mean of the swarm", "regret": 0.0}
    main = Finding("mixture", "recommended", "m", "swarm", 3.0, "loss", table=(row,), parts=parts, note="No gain.")
    file = io.StringIO()
    Console(file=file, width=100).print(mixture_view([main]))
    above, heads, line, *_ = (text.rstrip() for text in file.getvalue().splitlines()[2:])
    assert above.split() == ["optima", "of", "optima", "optima", "optima"]
    assert "resamples  above 1 %  above 5 %  above 10 %" in heads
    assert line.split("  ")[0] == "web" and "12.4 % to 19.0 %" in line
    assert "warning: No gain." in file.getvalue()


def test_zero_has_no_sign_of_less() -> None:
    assert [value(-1e-9, signed) for signed in (True, False)] == ["+0.0000", "0.0000"]
