"""A run killed at any moment ends in the same weights; an update is what it says; weights leave as they are."""

from __future__ import annotations

import json
import math
import os
import random
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from curricle.execution import GPU_MICRO_BATCH_TOKENS, Execution
from curricle.results import step_rows
from curricle.schedule import learning_rate
from curricle.shapes import Shape
from curricle.study import Average, Recipe
from curricle.tokens.sampler import Sampler
from curricle.tokens.shards import Shard, Supply
from curricle.training import checkpoint, loop, metrics, record
from curricle.training.loop import Diverged, NothingToLearn, train, update
from curricle.training.model import build
from curricle.training.optimizer import Muon, make_optimizers

SHAPE = Shape(layers=2, hidden=32, feed_forward=64, heads=2, kv_heads=2)
RECIPE = Recipe(batch_tokens=128, learning_rate=1e-2)


def make(seed: int = 0, recipe: Recipe = RECIPE, samples: int = 200, answers: bool = False):
    """With `answers`, only some tokens carry loss: from none in a row to more than ten."""
    torch.set_num_threads(1)
    generator = np.random.default_rng(0)
    tokens = generator.integers(0, 64, 9000).astype(np.uint16)
    tokens[::37] = 0
    loss = None
    if answers:  # stretches with none, with a few and with many of them
        loss = generator.random(len(tokens)) < np.repeat(generator.choice([0.0, 0.1, 0.5], 300), 30)
    supply = Supply([Shard(tokens, np.arange(90, 9001, 90).astype(np.uint64), loss)])
    sampler = Sampler({"s": supply}, [(samples, {"s": 1.0})], row_tokens=32, seed=seed, answers_only=answers)
    return build(SHAPE, vocabulary=64, context=32, delimiter=0, seed=seed), sampler


def repeating(samples: int) -> Sampler:
    """Text that can be learnt to the last token: the same 32 over and over."""
    tokens = np.tile(np.arange(1, 33), 100).astype(np.uint16)
    supply = Supply([Shard(tokens, np.array([len(tokens)], np.uint64), None)])
    return Sampler({"s": supply}, [(samples, {"s": 1.0})], row_tokens=32, seed=0)


def finish(folder: Path, steps: int = 20, recipe: Recipe = RECIPE, save_seconds: float = 1e9) -> dict:
    model, sampler = make()
    how = Execution(save_seconds=save_seconds)
    for _ in train(model, sampler, recipe, steps=steps, evaluate_at=frozenset({steps}), folder=folder, execution=how):
        pass
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def same(one: dict, other: dict) -> bool:
    return all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("optimizer", ["muon", "adamw"])
@pytest.mark.parametrize("at", [1, 7, 19])
def test_resume_is_bitwise_equal_to_an_uninterrupted_run(tmp_path, at, optimizer):
    recipe = RECIPE.model_copy(update={"optimizer": optimizer, "schedule": "cosine"})
    whole = finish(tmp_path / "whole", recipe=recipe)
    model, sampler = make()
    steps = train(model, sampler, recipe, steps=20, evaluate_at=frozenset(), folder=tmp_path / "cut")
    for now in steps:
        if now.step == at:
            break
    steps.close()
    assert same(whole, finish(tmp_path / "cut", recipe=recipe))
    files = [tmp_path / name / "metrics.jsonl" for name in ("whole", "cut")]
    logs = [[json.loads(line) for line in file.read_text().splitlines()] for file in files]
    taken = {"tokens_per_second", "data_seconds"}
    whole, cut = ([{n: v for n, v in row.items() if n not in taken} for row in log if "lr" in row] for log in logs)
    assert whole == cut and [row["step"] for row in whole] == list(range(1, 21))


KILLED = """
import sys
sys.path.insert(0, sys.argv[1])
from test_training import finish
from pathlib import Path
print("ready", flush=True)
finish(Path(sys.argv[2]), steps=60, save_seconds=0.0)
"""


@pytest.mark.slow
def test_kill_9_during_training_and_saving_ends_in_the_same_weights(tmp_path):
    """Saving after every step, so that most kills hit a save."""
    whole = finish(tmp_path / "whole", steps=60)
    chance = random.Random(0)
    for _ in range(3):
        with subprocess.Popen(
            [sys.executable, "-c", KILLED, str(Path(__file__).parent), str(tmp_path / "cut")], stdout=subprocess.PIPE
        ) as process:
            process.stdout.readline()
            time.sleep(0.1 + 0.5 * chance.random())
            process.kill()
    reached = checkpoint.complete(tmp_path / "cut" / "checkpoints")
    assert reached, "nothing was saved: the test killed too early"
    assert same(whole, finish(tmp_path / "cut", steps=60))
    assert not [f for f in (tmp_path / "cut" / "checkpoints").iterdir() if f.name.startswith(".")]
    assert len(reached) <= Execution().keep + 1


def test_what_was_trained_before_an_evaluation_counts_when_it_begins(tmp_path):
    """Also where saves are written while training goes on: a worker that is scoring is killed, not waited for."""
    model, sampler = make()
    how = Execution(save_seconds=1e9, save_ahead=True)
    points = frozenset({2, 4})
    for now in train(model, sampler, RECIPE, steps=4, evaluate_at=points, folder=tmp_path, execution=how):
        if now.evaluate:
            newest = checkpoint.complete(tmp_path / "checkpoints")[-1:]
            assert [checkpoint.describe(place).step for place in newest] == [now.step]


def test_after_one_slow_save_those_that_follow_are_as_frequent_as_before(tmp_path, monkeypatch):
    """On a clock of our own: a step takes one second, the first save two, and the others none."""
    clock, saves = [0.0], []
    monkeypatch.setattr(record, "time", SimpleNamespace(monotonic=lambda: clock[0], perf_counter=time.perf_counter))

    class SlowAtFirst(checkpoint.Saver):
        def save(self, model, optimizers, saved):
            clock[0] += 0.0 if saves else 2.0
            saves.append(saved.step)
            super().save(model, optimizers, saved)

    monkeypatch.setattr(record, "Saver", SlowAtFirst)
    model, sampler = make(samples=320)
    how = Execution(save_seconds=5)
    for _ in train(model, sampler, RECIPE, steps=80, evaluate_at=frozenset(), folder=tmp_path, execution=how):
        clock[0] += 1
    between = [later - earlier for earlier, later in pairwise(saves[:-1])]
    assert between[0] > 40 and len(between) > 2 and set(between[1:]) == {6}


def test_a_save_does_not_begin_before_the_last_is_written(tmp_path, monkeypatch):
    """On a clock of our own: a write takes ten steps, and a save is due after each step."""
    clock, begun, waits = [0.0], [0], []
    monkeypatch.setattr(record, "time", SimpleNamespace(monotonic=lambda: clock[0], perf_counter=time.perf_counter))

    class Slow(checkpoint.Saver):
        def save(self, model, optimizers, saved):
            waits.append(self.busy)
            begun[0] = clock[0]
            super().save(model, optimizers, saved)

        def written(self):
            return self.busy and clock[0] - begun[0] >= 10 and super().written() is not None

    monkeypatch.setattr(record, "Saver", Slow)
    model, sampler = make(samples=320)
    how = Execution(save_seconds=0.5, save_ahead=True)
    for _ in train(model, sampler, RECIPE, steps=40, evaluate_at=frozenset(), folder=tmp_path, execution=how):
        clock[0] += 1
    assert len(waits) >= 4 and not any(waits[:-1]), "the last save, at the end, takes what it must"


@pytest.mark.parametrize("ahead", [False, True])
def test_each_second_of_training_is_noted_once(tmp_path, monkeypatch, ahead):
    """On a clock of our own, which every part of the loop moves by so much. The last save is among them."""
    clock, parts = [0.0], {"batch": 1.0, "gradients": 2.0, "save": 16.0, "finish": 64.0, "keep": 256.0}
    taken = dict.fromkeys(parts, 0.0)

    def slow(owner, name: str, act) -> None:
        def slower(*arguments, **settings):
            if name != "finish" or arguments[0].busy:
                clock[0] += parts[name]
                taken[name] += parts[name]
            return act(*arguments, **settings)

        monkeypatch.setattr(owner, name, slower)

    for part in (loop, record):
        our_own = SimpleNamespace(monotonic=lambda: clock[0], perf_counter=lambda: clock[0])
        monkeypatch.setattr(part, "time", our_own)
    slow(checkpoint.Saver, "save", checkpoint.Saver.save)
    slow(checkpoint.Saver, "finish", checkpoint.Saver.finish)
    slow(loop, "gradients", loop.gradients)
    slow(loop.averaging, "keep", loop.averaging.keep)
    model, sampler = make()
    slow(sampler, "batch", sampler.batch)
    how, points = Execution(save_seconds=5, save_ahead=ahead), frozenset({3, 12})
    recipe = RECIPE.model_copy(update={"average": Average(last=2, every_tokens=512)})
    steps = train(model, sampler, recipe, steps=12, evaluate_at=points, folder=tmp_path, execution=how)
    rates = [now.tokens_per_second for now in steps]
    assert rates == pytest.approx([recipe.batch_tokens / 3.0] * 12), "no save makes a step slower"
    rows = step_rows(metrics.read(tmp_path), run="r", stage="s", seed=0)
    assert [row["data_seconds"] for row in rows] == [1.0] * 12
    saves = [row["save_seconds"] or 0.0 for row in rows]
    assert sum(saves) == taken["save"] + taken["finish"] + taken["keep"] == clock[0] - 36
    assert saves[-1] >= 16.0 + 256.0 and saves[2] >= 16.0


def test_a_checkpoint_without_its_mark_is_not_read(tmp_path):
    finish(tmp_path, steps=4)
    newest = checkpoint.complete(tmp_path / "checkpoints")[-1]
    (newest / "COMPLETE").unlink()
    assert newest not in checkpoint.complete(tmp_path / "checkpoints")
    model, sampler = make()
    first = next(train(model, sampler, RECIPE, steps=4, evaluate_at=frozenset(), folder=tmp_path))
    assert first.step == 1


def test_accumulation_changes_no_gradient(tmp_path):
    results = []
    for micro in (128, 64, 32):
        model, sampler = make()
        update(model, make_optimizers(model, RECIPE), sampler.batch(0, 4), RECIPE, 1e-3, micro // 32)
        results.append(torch.cat([p.detach().flatten() for p in model.parameters()]))
    assert torch.allclose(results[0], results[1], atol=1e-5) and torch.allclose(results[0], results[2], atol=1e-5)


@pytest.mark.parametrize(
    ("asked", "recipe", "device", "found"),
    [
        (None, None, "cpu", None),
        (None, None, "cuda", GPU_MICRO_BATCH_TOKENS),
        (None, 4096, "cuda", 4096),
        (2048, 4096, "cuda", 2048),
        (2048, 1024, "cpu", 2048),
    ],
)
def test_tokens_held_at_once_are_those_asked_for_then_the_recipe_s_then_the_device_s(asked, recipe, device, found):
    assert Execution(micro_batch_tokens=asked).at_once(recipe, device) == found


@pytest.mark.parametrize(("asked", "rows"), [(None, [4] * 2), (64, [2] * 4), (96, [3, 1] * 2), (1, [1] * 8)])
def test_no_more_rows_are_held_at_once_than_the_execution_says(tmp_path, monkeypatch, asked, rows):
    model, sampler = make()
    held = []

    class Watched(loop.Learner):
        def forward(self, tokens_BT, *others):
            held.append(len(tokens_BT))
            return super().forward(tokens_BT, *others)

    monkeypatch.setattr(loop, "Learner", Watched)
    how = Execution(micro_batch_tokens=asked)
    list(train(model, sampler, RECIPE, steps=2, evaluate_at=frozenset(), folder=tmp_path, execution=how))
    assert held == rows


def test_training_learns_what_can_be_learnt(tmp_path):
    model, _ = make()
    steps = train(model, repeating(240), RECIPE, steps=60, evaluate_at=frozenset(), folder=tmp_path)
    losses = [step.loss_nats for step in steps]
    assert losses[0] == pytest.approx(math.log(64), abs=0.3)
    assert losses[-1] < 0.1


def test_the_evaluation_points_are_yielded_also_when_the_run_was_cut_there(tmp_path):
    points = frozenset({0, 5, 10})
    model, sampler = make()
    seen = []
    steps = train(model, sampler, RECIPE, steps=10, evaluate_at=points, folder=tmp_path)
    for now in steps:
        seen += [now.step] if now.evaluate else []
        if now.step == 5:
            break
    steps.close()
    model, sampler = make()
    again = [s.step for s in train(model, sampler, RECIPE, steps=10, evaluate_at=points, folder=tmp_path) if s.evaluate]
    assert seen == [0, 5] and again == [5, 10]


@pytest.mark.parametrize("damage", [b"\x00" * 40, b'{"step": 9, "tok', b"[]\n", b"\xff\xfe\n"])
def test_metrics_that_a_power_cut_damaged_are_cut_there(tmp_path, damage):
    file = tmp_path / "metrics.jsonl"
    whole = [b'{"step": %d}\n' % step for step in range(1, 8)]
    file.write_bytes(b"".join(whole) + damage)
    for step, kept in ((5, whole[:5]), (99, whole)):
        assert [line for line, _ in metrics.lines_until(file, step)] == kept


@pytest.mark.slow  # builds kernels: half a minute on two cores
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_flex_attention_keeps_documents_apart_as_the_mask_does(precision):
    from curricle.training import attention

    model, sampler = make()
    batch, out = sampler.batch(0, 4), {}
    for name in ("auto", "flex_attention"):
        attention.keep_documents_apart(model, name, "cpu")
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            out[name] = model.eval()(input_ids=batch.tokens_BT, position_ids=batch.positions_BT, use_cache=False).logits
    apart = (out["auto"].float() - out["flex_attention"].float()).abs().max()
    assert apart < (1e-4 if precision == "fp32" else 0.05)


@pytest.mark.parametrize(
    ("device", "can", "kept"), [("cpu", True, "sdpa"), ("cuda", True, "curricle_flex"), ("cuda", False, "sdpa")]
)
def test_blocks_are_used_on_a_gpu_by_models_that_can_and_others_stay_as_they_came(device, can, kept):
    from curricle.training import attention

    model, _ = make()
    model._supports_flex_attn = can
    attention.keep_documents_apart(model, "auto", device)
    assert model.config._attn_implementation == kept


def test_a_loss_that_is_no_number_stops_the_run_and_says_what_to_lower(tmp_path):
    model, sampler = make()
    with torch.no_grad():
        next(model.parameters()).fill_(float("nan"))
    with pytest.raises(Diverged, match=r"lower recipe\.learning_rate"):
        list(train(model, sampler, RECIPE, steps=2, evaluate_at=frozenset(), folder=tmp_path))


def test_a_batch_with_nothing_to_learn_is_refused():
    model, sampler = make()
    batch = sampler.batch(0, 2)
    empty = type(batch)(batch.tokens_BT, torch.full_like(batch.labels_BT, -100), batch.positions_BT, 0)
    with pytest.raises(ValueError, match="nothing to learn"):
        update(model, make_optimizers(model, RECIPE), empty, RECIPE, 1e-3, 2)


def test_a_batch_with_nothing_to_learn_is_known_before_the_first_step(tmp_path):
    """Answers only, and a prompt that is longer than the fourth batch."""
    model, _ = make()
    tokens = np.random.default_rng(0).integers(1, 64, 2000).astype(np.uint16)
    loss = np.ones(len(tokens), np.bool_)
    loss[3 * 128 : 4 * 128 + 1] = False
    supply = Supply([Shard(tokens, np.array([len(tokens)], np.uint64), loss)], permuted=False)
    sampler = Sampler({"s": supply}, [(40, {"s": 1.0})], row_tokens=32, seed=0, answers_only=True)
    arguments = (model, sampler, RECIPE)
    with pytest.raises(NothingToLearn, match="step 4 would have nothing to learn: none of its 4 rows"):
        next(train(*arguments, steps=10, evaluate_at=frozenset(), folder=tmp_path / "ten"))
    assert len(list(train(*arguments, steps=3, evaluate_at=frozenset(), folder=tmp_path / "three"))) == 3


def test_our_muon_computes_what_torch_computes():
    torch.manual_seed(0)
    shapes = [(32, 32), (32, 64), (64, 32), (32, 32)]
    ours = [torch.nn.Parameter(torch.randn(s) * 0.02) for s in shapes]
    theirs = [torch.nn.Parameter(p.detach().clone()) for p in ours]
    mine = Muon(ours, lr=1e-2, weight_decay=0.1)
    reference = torch.optim.Muon(theirs, lr=1e-2, weight_decay=0.1, momentum=0.95, adjust_lr_fn="match_rms_adamw")
    for _ in range(5):
        for a, b in zip(ours, theirs, strict=True):
            a.grad = torch.randn_like(a)
            b.grad = a.grad.clone()
        mine.step()
        reference.step()
    for a, b in zip(ours, theirs, strict=True):
        assert (a - b).norm() / b.norm() < 0.01, "apart by more than bf16's rounding in theirs"


def test_muon_moves_matrices_and_adamw_the_rest():
    model, _ = make()
    muon, adamw = make_optimizers(model, RECIPE)
    moved = {id(p) for g in muon.param_groups for p in g["params"]}
    assert moved == {
        id(p) for n, p in model.named_parameters() if p.ndim == 2 and "embed" not in n and "lm_head" not in n
    }
    rest = {id(p) for g in adamw.param_groups for p in g["params"]}
    assert moved | rest == {id(p) for p in model.parameters()} and not moved & rest
    assert all(p.ndim < 2 for g in adamw.param_groups if g["weight_decay"] == 0 for p in g["params"])


@given(st.integers(10, 5000), st.data())
def test_schedules_are_what_they_say(steps, data):
    step = data.draw(st.integers(0, steps - 1))
    rate = {
        s: learning_rate(Recipe(learning_rate=1.0, schedule=s), step, steps)
        for s in ("constant", "multistep", "cosine", "wsd")
    }
    warmup = round(0.02 * steps)
    if step < warmup:
        assert set(rate.values()) == {(step + 1) / warmup}
        return
    assert rate["constant"] == 1.0
    assert rate["multistep"] == (1.0 if step / steps < 0.8 else 0.316 if step / steps < 0.9 else 0.1)
    assert 0.1 <= rate["cosine"] <= 1.0
    assert 0 < rate["wsd"] <= 1.0 and (step > 0.8 * steps or rate["wsd"] == 1.0)


@pytest.mark.parametrize(
    ("schedule", "rates"),
    [
        # Of 1,000 steps 100 are the warm-up; by step: its first and last, the one after it, then on to the last one.
        ("constant", {0: 0.005, 99: 0.5, 100: 0.5, 550: 0.5, 999: 0.5}),
        ("multistep", {0: 0.005, 99: 0.5, 100: 0.5, 799: 0.5, 800: 0.158, 899: 0.158, 900: 0.05, 999: 0.05}),
        # A tenth and nine tenths of (1 + cos)/2: a quarter, half and three quarters of the way from step 100.
        ("cosine", {0: 0.005, 99: 0.5, 100: 0.5, 325: 0.434099, 550: 0.275, 775: 0.115901, 999: 0.05000137}),
        ("wsd", {0: 0.005, 99: 0.5, 100: 0.5, 550: 0.5, 750: 0.5, 751: 0.498, 875: 0.25, 999: 0.002}),
    ],
)
def test_the_rates_of_each_schedule_at_the_steps_that_matter(schedule, rates):
    recipe = Recipe(learning_rate=0.5, schedule=schedule, warmup_share=0.1, decay_share=0.25)
    found = [learning_rate(recipe, step, 1000) for step in range(1000)]
    assert {step: found[step] for step in rates} == pytest.approx(rates, rel=1e-6)
    assert all(b > a for a, b in pairwise(found[:100])) and all(b <= a for a, b in pairwise(found[99:]))
    if schedule == "cosine":
        assert all(b < a for a, b in pairwise(found[100:])), "it falls from the first step after the warm-up on"


def test_weights_leave_in_the_hugging_face_format_and_come_back_equal(tmp_path):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from curricle.tokens.tokenizer import train_bpe
    from curricle.training.model import export, load

    model, sampler = make()
    tokenizer = train_bpe(["abc 123"] * 10, 300)
    export(model, tokenizer, tmp_path / "model")
    tokens_BT = sampler.batch(0, 2).tokens_BT
    with torch.inference_mode():
        expected = model.eval()(input_ids=tokens_BT).logits
        theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "model").eval()(input_ids=tokens_BT).logits
        back, own = load(tmp_path / "model")
        ours = back.eval()(input_ids=tokens_BT).logits
    assert torch.equal(theirs, expected) and torch.equal(ours, expected)
    assert (
        AutoTokenizer.from_pretrained(tmp_path / "model").encode("abc 12")
        == tokenizer.encode("abc 12")
        == own.encode("abc 12")
    )
    assert not [f for f in os.listdir(tmp_path / "model") if f.endswith((".bin", ".pt"))]
