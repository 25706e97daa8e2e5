"""Gains and the price of seeds on studies whose truth is known, in small; in full: scripts/simulations/gain.py."""

from __future__ import annotations

import math

import numpy as np
import pytest
from simulated import script

from curricle.analysis.finding import KINDS

sim = script("gain")
STUDIES = 200


@pytest.mark.parametrize("number", [0, 1], ids=["gains", "no gain"])
def test_each_interval_of_a_difference_and_of_a_percentage_holds_what_it_speaks_about(number: int) -> None:
    found = sim.gains(sim.SCENARIOS[number], STUDIES, number)
    for name in (f"{what}, {kind}" for what in ("points", "percent") for kind in KINDS):
        share = float(np.mean(found[name]))
        assert share >= 0.95 - 3 * math.sqrt(0.05 * 0.95 / STUDIES), name
    if number == 1:  # nothing differs
        assert np.mean(found["0 left out"]) <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / STUDIES)


def test_the_price_of_seeds_is_what_they_give_where_nothing_is_known_of_the_strategies() -> None:
    """Two strategies whose true means spread far more than runs do: the flat prior is nearly theirs."""
    for promised, gained, error in sim.price(2, 3, 3.0, 4_000).values():
        assert gained >= -3 * error and abs(gained - promised) <= 4 * error
