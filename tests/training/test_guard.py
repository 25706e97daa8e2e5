"""Harmful steps move nothing; harder text is not taken for harm for long; a resumed guard decides alike."""

from __future__ import annotations

import json
import math
import random

import pytest
import torch
from pydantic import ValidationError
from test_training import RECIPE, finish, make, repeating, same

from curricle.execution import Execution
from curricle.study import Recipe
from curricle.tokens.sampler import Sampler
from curricle.training import checkpoint, metrics, record
from curricle.training.guard import SETTLED, WINDOW, Guard
from curricle.training.loop import Diverged, train


def settled(sigma: float = 6.0, loss: float = 3.0) -> Guard:
    guard, chance = Guard(sigma), random.Random(0)
    for _ in range(SETTLED):
        guard.see(loss + chance.gauss(0, 0.05), 1 + chance.gauss(0, 0.05), skipped=False)
    return guard


def test_what_is_no_number_is_objected_to_from_the_first_step():
    assert Guard(6.0).objection(math.nan, 1.0) == "loss nan"
    assert Guard(6.0).objection(1.0, math.inf) == "gradient norm inf"


def test_a_spike_is_objected_to_and_a_usual_step_is_not():
    guard = settled()
    assert guard.objection(3.1, 1.1) is None
    assert "sigma above" in guard.objection(9.0, 1.0)
    assert "gradient norm" in guard.objection(3.0, 30.0)


def test_harder_text_is_learnt_from_after_a_few_steps():
    guard, skipped = settled(loss=0.4), 0
    for _ in range(100):
        objection = guard.objection(2.5, 1.0)
        guard.see(2.5, 1.0, skipped=objection is not None)
        skipped += objection is not None
    assert 1 <= skipped <= 10


def test_one_spike_does_not_blind_the_guard_to_the_next():
    guard = settled()
    for loss, norm in ((3.0, 1e6), (3.0, 1e4), (50.0, 1.0), (3.0, 1e3)):
        assert guard.objection(loss, norm) is not None
        guard.see(loss, norm, skipped=True)
    assert guard.objection(3.0, 1.0) is None


def test_a_new_mixture_is_not_measured_by_the_old_one():
    guard = settled()
    guard.new_text()
    assert guard.objection(9.0, 30.0) is None


def test_a_guard_that_was_saved_decides_as_the_one_that_was_not():
    guard = settled()
    back = Guard(6.0, json.loads(json.dumps(guard.memory())))
    for loss in (3.0, 3.2, 3.4, 5.0):
        assert back.objection(loss, 1.0) == guard.objection(loss, 1.0)


class Spiking:
    """A sampler in one of whose steps every label is another: the loss jumps."""

    def __init__(self, sampler, step: int, rows: int):
        self.sampler, self.at, self.rows = sampler, step, rows

    def __getattr__(self, name):
        return getattr(self.sampler, name)

    def batch(self, start, stop):
        batch = self.sampler.batch(start, stop)
        if start // self.rows == self.at:
            batch.labels_BT[:] = 63 - batch.labels_BT.clamp(0, 63)
        return batch


def test_a_bad_batch_moves_no_weight_and_is_named_in_the_metrics(tmp_path):
    (model, _), bad = make(), 200  # by then only learnt text is in the guard's window
    weights, skipped = {}, {}
    for now in train(
        model, Spiking(repeating(840), bad, 4), RECIPE, steps=bad + 10, evaluate_at=frozenset(), folder=tmp_path
    ):
        weights[now.step] = {n: p.detach().clone() for n, p in model.named_parameters()}
        skipped[now.step] = now.skipped
    assert "sigma above" in skipped[bad + 1] and [s for s, why in skipped.items() if why] == [bad + 1]
    assert same(weights[bad + 1], weights[bad]) and not same(weights[bad + 2], weights[bad + 1])
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [(line["step"], line["guard"]) for line in lines if "guard" in line] == [(bad + 1, skipped[bad + 1])]


EAGER = RECIPE.model_copy(update={"skip_sigma": 3.0})  # so that few steps are enough to know a jump


def test_a_run_resumed_in_the_middle_of_the_guard_s_window_skips_the_spike_that_an_uninterrupted_one_skips(tmp_path):
    """The session that meets it has taken fewer steps of its own than the guard asks for."""
    cut, bad, ends = 50, 60, {}
    assert SETTLED < cut < WINDOW and bad - cut < SETTLED
    for name, sessions in (("whole", [None]), ("cut", [cut, None])):
        skipped = {}
        for until in sessions:
            (model, _), sampler = make(), Spiking(repeating(280), bad, 4)
            steps = train(model, sampler, EAGER, steps=bad + 4, evaluate_at=frozenset(), folder=tmp_path / name)
            for now in steps:
                skipped[now.step] = now.skipped
                if now.step == until:
                    break
            steps.close()
        ends[name] = skipped, {n: p.detach().clone() for n, p in model.named_parameters()}
    (whole, weights), (cut_up, others) = ends["whole"], ends["cut"]
    assert [step for step, why in whole.items() if why] == [bad + 1]
    assert cut_up == whole and same(weights, others)


def test_the_first_steps_of_a_phase_are_learnt_from_though_their_loss_jumps(tmp_path):
    """From text that is known by heart to text that is not: what would be a spike within a mixture."""
    edge, known, other = 60, repeating(1).supplies[0], make()[1].supplies[0]
    phases = [(4 * edge, {"known": 1.0}), (4 * edge + 16, {"other": 1.0})]
    sampler, (model, _) = Sampler({"known": known, "other": other}, phases, row_tokens=32, seed=0), make()
    guard, seen = Guard(EAGER.skip_sigma), []
    for now in train(model, sampler, EAGER, steps=edge + 4, evaluate_at=frozenset(), folder=tmp_path):
        if now.step == edge + 1:
            assert "sigma above" in guard.objection(now.loss_nats, now.grad_norm), "this is a jump"
        guard.see(now.loss_nats, now.grad_norm, skipped=False)
        seen.append(now.skipped)
    assert seen == [None] * (edge + 4)


def test_a_run_that_keeps_spiking_stops_and_says_so(tmp_path):
    model, sampler = make(samples=400)
    with torch.no_grad():
        next(model.parameters()).fill_(float("nan"))
    recipe = RECIPE.model_copy(update={"max_skipped": 3})
    with pytest.raises(Diverged, match="4 of the last 4 steps were skipped, the last at step 4: loss nan"):
        list(train(model, sampler, recipe, steps=60, evaluate_at=frozenset(), folder=tmp_path))
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "diverged" in line] == [4], "whoever chooses among arms must know"


def test_a_state_that_is_on_its_way_when_a_run_diverges_counts(tmp_path, monkeypatch):
    """It is written while training goes on, and more slowly than that."""

    class Slow(checkpoint.Saver):
        def written(self):
            return False

    monkeypatch.setattr(record, "Saver", Slow)
    model, sampler = make(samples=400)
    with torch.no_grad():
        next(model.parameters()).fill_(float("nan"))
    recipe, how = RECIPE.model_copy(update={"max_skipped": 3}), Execution(save_seconds=0.0, save_ahead=True)
    with pytest.raises(Diverged):
        list(train(model, sampler, recipe, steps=60, evaluate_at=frozenset(), folder=tmp_path, execution=how))
    assert [place.name for place in (tmp_path / "checkpoints").iterdir()] == ["step-00000001"]
    assert checkpoint.describe(tmp_path / "checkpoints" / "step-00000001").step == 1
    assert "4 of the last 4 steps" in (metrics.diverged(tmp_path) or "")


def test_a_bound_on_skipped_steps_that_the_guard_could_never_pass_is_refused():
    assert Recipe(max_skipped=WINDOW - 1).max_skipped == WINDOW - 1
    with pytest.raises(ValidationError, match="max_skipped"):
        Recipe(max_skipped=WINDOW)


def test_averaging_gives_the_mean_of_the_last_states_also_after_an_interruption(tmp_path):
    from curricle.study import Average

    recipe = RECIPE.model_copy(update={"average": Average(last=3, every_tokens=256)})
    model, sampler = make()
    states = {}
    for now in train(model, sampler, RECIPE, steps=20, evaluate_at=frozenset(), folder=tmp_path / "plain"):
        if now.step in {16, 18, 20}:
            states[now.step] = {n: p.detach().clone() for n, p in model.named_parameters()}
    mean = {n: sum(state[n] for state in states.values()) / 3 for n in states[20]}
    averaged = finish(tmp_path / "averaged", recipe=recipe)
    assert all(torch.allclose(averaged[n], mean[n], atol=1e-6) for n in mean)
    model, sampler = make()
    steps = train(model, sampler, recipe, steps=20, evaluate_at=frozenset(), folder=tmp_path / "cut")
    for now in steps:
        if now.step == 17:
            break
    steps.close()
    assert same(averaged, finish(tmp_path / "cut", recipe=recipe))
