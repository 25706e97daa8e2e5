"""What becomes of a run that diverges or fails on its way, and of what begins from it."""

from __future__ import annotations

import pytest
from test_branches import compiled, worked

from curricle.training import loop
from curricle.training.loop import Diverged


@pytest.fixture
def wild(monkeypatch):
    """From this step on, what is set here by the number of a run's steps, rates are no numbers."""
    usual, after = loop.learning_rate, {}

    def rate(recipe, step, steps):
        return float("nan") if step >= after.get(steps, steps) else usual(recipe, step, steps)

    monkeypatch.setattr(loop, "learning_rate", rate)
    return after


def test_what_was_half_written_goes_from_a_run_that_has_diverged_too(tmp_path, wild):
    stage = {"budget_tokens": 2048, "recipe": {"max_skipped": 0}}
    prepared, nodes = compiled(tmp_path, tmp_path / "store", {"a": ["long"]}, long=stage)
    wild[4] = 2
    with pytest.raises(Diverged):
        worked(prepared, nodes["long"])
    folder = prepared.store.run_folder(nodes["long"].run)
    half = folder / "checkpoints" / ".step-00000002.half.tmp"
    half.mkdir()
    with pytest.raises(Diverged):
        worked(prepared, nodes["long"])
    assert not [*folder.glob(".*.tmp"), *folder.glob("*/.*.tmp")]
