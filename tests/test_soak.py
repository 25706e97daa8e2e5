"""Twenty kills at random moments change no weight and leave nothing behind (`scripts/soak.py`; 200 by hand)."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "scripts" / "soak.py"


@pytest.fixture(scope="module")
def soak():
    spec = importlib.util.spec_from_file_location("soak", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.soak


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [1, 2])
def test_twenty_kills_at_random_moments_leave_the_same_weights_and_nothing_else(soak, ranks):
    assert soak(kills=20 // ranks, ranks=ranks, tokens=20_480, seed=ranks) == []
