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


def test_mediation_refuses_an_outcome_that_is_the_skill_itself() -> None:
    with pytest.raises(Refused, match="which is the outcome"):
        mediation(mediated(0.0), benchmark="math")
    with pytest.raises(Refused, match="no bits per byte on 'code'"):
        mediation([r for r in mediated(0.0) if r["benchmark"] != "code"], benchmark="b")
