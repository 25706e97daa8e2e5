"""Mediation: whether measured skills carry what a dose gives."""

from __future__ import annotations

import numpy as np
import pytest
from simulated import script

from curricle.analysis.mediation import mediation
from curricle.study import Refused

sim = script("transfer")


def mediated(direct: float) -> list[dict]:
    return sim.mediated(sim.Mediated("", direct=direct), np.random.default_rng(0))


def test_mediation_finds_the_skills_and_names_itself() -> None:
    f = mediation(mediated(0.0), benchmark="b")
    assert f.question == "transfer-mediated" and "after treatment" in f.note
    assert f.interval().contains(1.5) and f.parts["direct_p"] > 0.01
    assert mediation(mediated(1.0), benchmark="b").parts["direct_p"] < 0.001


def test_the_interval_allows_for_where_skills_are_counted_from() -> None:
    """The loss without doses is a mean of four runs; without its variance the interval held .89 of 1,000 studies."""
    random, studies = np.random.default_rng(3), 200
    found = [mediation(sim.mediated(sim.MEDIATED[0], random), benchmark="b") for _ in range(studies)]
    held = np.mean([f.interval().contains(1.5) for f in found])
    assert held >= 0.95 - 2.5 * (0.95 * 0.05 / studies) ** 0.5  # .91: what it held before would not pass


def test_mediation_refuses_an_outcome_that_is_the_skill_itself() -> None:
    with pytest.raises(Refused, match="which is the outcome"):
        mediation(mediated(0.0), benchmark="math")
    with pytest.raises(Refused, match="no bits per byte on 'code'"):
        mediation([r for r in mediated(0.0) if r["benchmark"] != "code"], benchmark="b")
