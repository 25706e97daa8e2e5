"""Mediation: whether measured skills carry what a dose gives."""

from __future__ import annotations

import math

import numpy as np
import pytest
from simulated import script

from curricle.analysis.finding import ACCURACY, BITS_PER_BYTE
from curricle.analysis.mediation import mediation
from curricle.study import Refused

sim = script("transfer")
FACTORIAL = sim.Scenario("", sim.t_law(1.0, 1.5, 0.5), ACCURACY, 0.1, 4)


def mediated(direct: float, seed: int = 0) -> list[dict]:
    """Outcomes that rest on skills alone, and on the code dose itself by `direct`."""
    random = np.random.default_rng(seed)
    made = []
    for row in FACTORIAL.rows(np.random.default_rng(0)):
        s = [
            float(sim.share(np.array(row[f"dose:{name}"]))) * 0.5 + random.normal(0, 0.05) for name in ("code", "math")
        ]
        t = -1 + 1.2 * s[0] + 2.0 * s[1] + 1.5 * s[0] * s[1] + direct * float(sim.share(np.array(row["dose:code"])))
        made.append({**row, "score": 100 / (1 + math.exp(-t - random.normal(0, 0.02)))})
        for name, skill in zip(("code", "math"), s):
            made.append({**row, "benchmark": name, "measure": BITS_PER_BYTE, "score": 2.0 * (1 - skill)})
    return made


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
