"""Reading a batch while the one before it is learnt from changes nothing but the time that it takes."""

from __future__ import annotations

import json
import threading

import pytest
from test_training import RECIPE, finish, make, same

from curricle.execution import Execution
from curricle.training import loop


def test_batches_that_are_read_ahead_change_nothing_and_an_error_comes_at_the_step_that_needs_the_batch(
    tmp_path, monkeypatch
):
    whole = finish(tmp_path / "whole", steps=6)
    monkeypatch.setattr(loop, "READ_AHEAD", {"cpu"})
    readers, read, taken, broken = set(), [], [], True

    def train():
        model, sampler = make()
        batch = sampler.batch

        def noted(start: int, stop: int):
            readers.add(threading.current_thread())
            read.append(start // 4)
            if broken and start // 4 == 4:
                raise OSError("the disk is gone")
            return batch(start, stop)

        sampler.batch = noted
        how = Execution(save_seconds=0.0)
        steps = loop.train(model, sampler, RECIPE, steps=6, evaluate_at=frozenset(), folder=tmp_path, execution=how)
        taken.extend(now.step for now in steps)
        return model.state_dict()

    with pytest.raises(OSError, match="the disk is gone"):
        train()
    assert read == [0, 1, 2, 3, 4] and threading.main_thread() not in readers
    steps = [json.loads(line).get("lr") is not None for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert sum(steps) == 4, "the steps before it were taken"
    broken = False
    assert same(train(), whole)
    assert read[-1] == 5 and taken[-1] == 6
    assert not any(reader.is_alive() for reader in readers), "no thread is left behind"
