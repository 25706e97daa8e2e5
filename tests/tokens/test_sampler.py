"""Sample `i` is a pure function of (seed, mixture, i), the same on any number of ranks; documents are kept apart."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_shards import shard_of

from curricle.tokens.sampler import Sampler, positions
from curricle.tokens.shards import Shard, Supply


def sampler(samples: int = 64, seed: int = 0, **changes) -> Sampler:
    supplies = {"a": Supply([shard_of([5, 9, 40, 3] * 5)]), "b": Supply([shard_of([11] * 30, 10_000)])}
    settings_ = {"row_tokens": 8, "seed": seed}
    weights = changes.pop("weights", {"a": 0.3, "b": 0.7})
    return Sampler(supplies, [(samples, weights)], **(settings_ | changes))


@settings(max_examples=25)
@given(st.integers(0, 3), st.sampled_from([1, 2, 8]), st.integers(1, 4))
def test_the_same_global_batches_on_1_2_and_8_ranks(seed, ranks, steps):
    batch = 8
    whole = sampler(seed=seed)
    for step in range(steps):
        expected = whole.batch(step * batch, (step + 1) * batch).tokens_BT
        each = batch // ranks
        parts = [
            sampler(seed=seed).batch(step * batch + r * each, step * batch + (r + 1) * each).tokens_BT
            for r in range(ranks)
        ]
        assert torch.equal(torch.cat(parts), expected)


def test_reading_from_the_middle_gives_what_reading_from_the_start_gives():
    whole, late = sampler(), sampler()
    for i in range(64):
        whole.read(i)
    assert all((whole.read(i)[1] == late.read(i)[1]).all() for i in range(50, 64))


def test_another_seed_reads_in_another_order_and_sources_do_not_share_one():
    rows = {seed: np.stack([sampler(seed=seed).read(i)[1] for i in range(16)]) for seed in (0, 1)}
    assert (rows[0] != rows[1]).any()
    twins = {name: Supply([shard_of([5, 9, 40, 3] * 5)]) for name in "ab"}
    both = Sampler(twins, [(16, {"a": 0.5, "b": 0.5})], row_tokens=8, seed=0)
    read = [both.read(i) for i in range(16)]
    assert [t.tolist() for s, t, *_ in read if s == "a"] != [t.tolist() for s, t, *_ in read if s == "b"]


def test_skipped_rows_are_those_that_an_earlier_stage_read():
    first, second = sampler(weights={"b": 1.0}), sampler(weights={"b": 1.0}, skip={"b": 10})
    assert (second.read(0)[1] == first.read(10)[1]).all()


def test_a_row_holds_tokens_of_one_source_only():
    whole = sampler()
    for i in range(64):
        source, tokens, _, _ = whole.read(i)
        assert ((tokens >= 10_000) == (source == "b")).all()


def test_in_an_instruct_stage_prompts_carry_no_loss():
    tokens = np.arange(24, dtype=np.uint32)
    supply = Supply([Shard(tokens, np.array([12, 24], np.uint64), tokens % 12 >= 5)], permuted=False)
    options = {"row_tokens": 23, "seed": 0}
    batch = Sampler({"s": supply}, [(1, {"s": 1.0})], answers_only=True, **options).batch(0, 1)
    asked = batch.labels_BT[0][batch.labels_BT[0] != -100].tolist()
    assert asked == [t for t in range(1, 24) if t % 12 >= 5]
    assert batch.targets == len(asked)
    plain = Sampler({"s": supply}, [(1, {"s": 1.0})], **options).batch(0, 1)
    assert plain.targets == 23


@given(st.lists(st.integers(0, 3), min_size=1, max_size=40))
def test_positions_restart_where_a_document_opens(tokens):
    found = positions(np.array([tokens]) == 0)[0]
    for place, token in enumerate(tokens):
        assert found[place] == (0 if token == 0 or place == 0 else found[place - 1] + 1)


@pytest.mark.parametrize("family", ["llama", "qwen2"])
def test_packed_documents_get_the_logits_that_they_get_alone(family):
    from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

    config, build = {"llama": (LlamaConfig, LlamaForCausalLM), "qwen2": (Qwen2Config, Qwen2ForCausalLM)}[family]
    torch.manual_seed(0)
    shape = {"num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64}
    model = build(config(vocab_size=50, hidden_size=32, intermediate_size=64, **shape)).eval()
    documents = [[0, *torch.randint(1, 50, (n,)).tolist()] for n in (5, 11, 1, 14)]
    row_BT = np.array([[token for document in documents for token in document]])
    with torch.inference_mode():
        packed = model(
            input_ids=torch.from_numpy(row_BT), position_ids=torch.from_numpy(positions(row_BT == 0)), use_cache=False
        ).logits[0]
        alone = torch.cat([model(input_ids=torch.tensor([d]), use_cache=False).logits[0] for d in documents])
        blurred = model(input_ids=torch.from_numpy(row_BT), use_cache=False).logits[0]
    assert torch.allclose(packed, alone, atol=1e-5)
    assert not torch.allclose(blurred, alone, atol=1e-2), "without positions they would see each other"
