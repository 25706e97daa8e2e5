"""An update is what its recipe says: clipped, in bf16 where that was asked, and the mean over all its targets however
unevenly they lie in rows, in parts of a batch and on ranks.

Letters: B rows, T tokens in a row.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from test_training import RECIPE, make

from curricle.tokens.sampler import Batch, Sampler
from curricle.tokens.shards import Shard, Supply
from curricle.training.distribution import Ranks
from curricle.training.loop import gradients, train, update
from curricle.training.loss import Learner

NEVER_CLIPPED = RECIPE.model_copy(update={"clip": 1e9})


def flat(tensors) -> torch.Tensor:
    return torch.cat([tensor.detach().flatten() for tensor in tensors])


def gradient(model) -> torch.Tensor:
    return flat(p.grad for p in model.parameters())


def of_rows(batch: Batch, rows: slice) -> Batch:
    labels_BT = batch.labels_BT[rows]
    found = int((labels_BT != -100).sum())
    return Batch(batch.tokens_BT[rows], labels_BT, batch.positions_BT[rows], found)


def targets_of_rows(batch: Batch) -> list[int]:
    return (batch.labels_BT != -100).sum(1).tolist()


@pytest.mark.parametrize("part", [0.25, 4.0])
def test_a_step_moves_by_no_more_than_the_clipped_gradient(part):
    """By plain descent, in which a step's length is that of its gradient; AdamW and Muon would hide it."""
    model, sampler = make()
    batch = sampler.batch(0, 4)
    _, norm = gradients(Learner(model), batch, NEVER_CLIPPED, batch.targets, 4, Ranks.alone())
    model, _ = make()
    before = flat(model.parameters())
    recipe = RECIPE.model_copy(update={"clip": part * norm})
    plain = torch.optim.SGD(model.parameters(), lr=1.0)
    _, said = update(model, [plain], batch, recipe, 0.5, 4)
    moved = float((flat(model.parameters()) - before).norm())
    assert said == pytest.approx(norm), "the norm that is noted is the one before clipping"
    assert moved == pytest.approx(0.5 * norm * min(part, 1.0), rel=1e-3)


def test_bf16_is_what_the_layers_work_in_and_weights_stay_in_fp32(tmp_path):
    losses, worked_in = {}, {}
    for precision in ("fp32", "bf16"):
        model, sampler = make()
        seen = worked_in[precision] = set()

        def note(module, given, out, seen=seen):
            if torch.is_grad_enabled():  # training, not the look at what the model does with its logits
                seen.add(out.dtype)

        model.model.layers[0].mlp.down_proj.register_forward_hook(note)
        recipe = RECIPE.model_copy(update={"precision": precision})
        steps = train(model, sampler, recipe, steps=3, evaluate_at=frozenset(), folder=tmp_path / precision)
        losses[precision] = [now.loss_nats for now in steps]
        assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert worked_in == {"fp32": {torch.float32}, "bf16": {torch.bfloat16}}
    assert losses["bf16"] != losses["fp32"] and losses["bf16"] == pytest.approx(losses["fp32"], abs=0.02)


def test_a_gradient_is_the_mean_over_targets_however_unevenly_rows_have_them():
    """The mean of the parts' means would give a target in a row of one as much weight as ten in another."""
    found, rows = [], 16
    for micro_rows in (16, 8, 3, 1):
        model, sampler = make(answers=True)
        batch = sampler.batch(0, rows)
        loss, norm = gradients(Learner(model), batch, NEVER_CLIPPED, batch.targets, micro_rows, Ranks.alone())
        found.append((loss, norm, gradient(model)))
    assert min(targets_of_rows(batch)) == 0 and max(targets_of_rows(batch)) >= 10
    (loss, norm, whole), *others = found
    for other in others:
        assert other[:2] == pytest.approx((loss, norm), rel=1e-5)
        assert torch.allclose(other[2], whole, atol=1e-6)


class OneOfTwo(Ranks):
    """One of two ranks whose sums with the other are known beforehand: two ranks in one process."""

    def __init__(self, nats_of_both: float = 0.0):
        super().__init__(rank=0, size=2)
        object.__setattr__(self, "nats_of_both", nats_of_both)

    def summed(self, numbers: Sequence[float]) -> list[float]:
        return [self.nats_of_both]


def test_the_mean_of_two_ranks_gradients_is_that_over_both_ones_targets():
    """Sharding averages gradients over ranks. A rank that divided by its own targets would give the mean of means."""
    model, sampler = make(answers=True)
    batch = sampler.batch(0, 16)
    loss, _ = gradients(Learner(model), batch, NEVER_CLIPPED, batch.targets, 16, Ranks.alone())
    whole, parts = gradient(model), []
    for rows in (slice(0, 8), slice(8, 16)):
        model, _ = make(answers=True)
        mine = of_rows(batch, rows)
        ranks = OneOfTwo(loss * batch.targets)
        assert gradients(Learner(model), mine, NEVER_CLIPPED, batch.targets, 4, ranks)[0] == pytest.approx(loss)
        parts.append((mine.targets, gradient(model)))
    (few, one), (many, other) = parts
    assert few != many
    assert torch.allclose((one + other) / 2, whole, atol=1e-6)


@pytest.mark.parametrize("rows_at_once", [3, 1])
def test_the_gradient_of_packed_rows_is_that_of_their_documents_each_alone(rows_at_once):
    """Several rows of several documents, whose ends lie at other places in each row."""
    model, _ = make()
    generator = np.random.default_rng(0)
    tokens = generator.integers(1, 64, 2000).astype(np.uint16)
    supply = Supply([Shard(tokens, np.array([*range(11, 2000, 11), 2000], np.uint64), None)])
    sampler = Sampler({"s": supply}, [(9, {"s": 1.0})], row_tokens=32, seed=0)
    batch = sampler.batch(0, 3)
    openings = [sorted({0, *row.eq(0).nonzero().flatten().tolist()}) for row in batch.positions_BT]
    assert min(map(len, openings)) >= 2 and len(set(map(tuple, openings))) == 3
    gradients(Learner(model), batch, NEVER_CLIPPED, batch.targets, rows_at_once, Ranks.alone())
    packed = gradient(model)
    model, _ = make()
    learner = Learner(model)
    for b, starts in enumerate(openings):
        for start, stop in zip(starts, [*starts[1:], sampler.row_tokens], strict=True):
            here = (slice(b, b + 1), slice(start, stop))
            loss = learner(batch.tokens_BT[here], batch.positions_BT[here], batch.labels_BT[here])
            (loss / batch.targets).backward()
    assert torch.allclose(gradient(model), packed, atol=1e-6)
    together = batch.positions_BT.clone()
    together[:] = torch.arange(sampler.row_tokens)
    model, _ = make()
    mixed = Batch(batch.tokens_BT, batch.labels_BT, together, batch.targets)
    gradients(Learner(model), mixed, NEVER_CLIPPED, batch.targets, rows_at_once, Ranks.alone())
    assert not torch.allclose(gradient(model), packed, atol=1e-6), "these documents would show it if they were read"
