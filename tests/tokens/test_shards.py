"""Shards are datatrove's layout, whole or not there; rows tile a permutation of the documents, each epoch anew."""

from __future__ import annotations

import itertools
import subprocess
import sys
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from curricle.corpus.documents import Document
from curricle.tokens.shards import Shard, Supply, write_shard
from curricle.tokens.tokenizer import fingerprint_of, load, save, train_bpe


@pytest.fixture(scope="module")
def tokenizer():
    return train_bpe(["def f(x):\n    return x + 12\n", "Problem: 3 + 4\nSolution:\n"] * 50, 320)


def shard_of(lengths: list[int], start: int = 0) -> Shard:
    """Documents of these lengths; token k of the stream is k, so that every token names its place."""
    ends = np.cumsum(lengths).astype(np.uint64)
    return Shard(np.arange(start, start + int(ends[-1]), dtype=np.uint32), ends, None)


lengths = st.lists(st.integers(1, 30), min_size=1, max_size=25)


@given(lengths, lengths, st.integers(1, 12), st.integers(0, 5))
def test_no_token_is_a_target_twice_within_an_epoch(first, second, row_tokens, seed):
    one = shard_of(first)
    supply = Supply([one, shard_of(second, len(one.tokens))])
    rows = supply.rows(row_tokens)
    for epoch in range(2 if rows else 0):
        read = [supply.read(epoch * rows + r, row_tokens, seed)[0] for r in range(rows)]
        targets = np.concatenate([row[1:] for row in read])
        assert len(set(targets)) == len(targets) == rows * row_tokens
        for row, following in itertools.pairwise(read):
            assert row[-1] == following[0], "a row's last target is the next row's first token"


@given(lengths, st.integers(0, 5))
def test_documents_are_permuted_whole_and_anew_in_each_epoch(found, seed):
    supply = Supply([shard_of(found)])
    row_tokens = supply.tokens - 1
    if row_tokens < 1:
        return
    starts = np.concatenate([[0], np.cumsum(found)])[:-1]
    orders = []
    for epoch in range(3):
        tokens, _, touched = supply.read(epoch, row_tokens, seed)
        expected = np.concatenate([np.arange(starts[d], starts[d] + found[d]) for d in touched])
        assert (tokens == expected).all()
        orders.append(tuple(touched))
    assert sorted(orders[0]) == list(range(len(found)))
    if len(found) > 8:
        assert len(set(orders)) > 1


def test_the_same_row_whoever_asks_and_in_whatever_order():
    supply, other = (Supply([shard_of([7, 3, 9, 30, 2, 14])]) for _ in range(2))
    forward = [supply.read(i, 5, seed=3)[0] for i in range(30)]
    backward = [other.read(i, 5, seed=3)[0] for i in reversed(range(30))][::-1]
    assert all((a == b).all() for a, b in zip(forward, backward, strict=True))


def test_an_endless_stream_is_read_in_order_and_never_repeated():
    supply = Supply([shard_of([4, 4]), shard_of([4, 4], 8)], permuted=False)
    assert supply.read(1, 5, seed=0)[0].tolist() == [5, 6, 7, 8, 9, 10]
    with pytest.raises(IndexError, match="not written out this far"):
        supply.read(3, 5, seed=0)


def test_a_shard_is_laid_out_as_datatrove_lays_it_out(tmp_path, tokenizer):
    documents = [Document("a", " 7\n", "s", "Problem: 3 + 4\n"), Document("b", "def f(x):\n", "s")]
    write_shard(tmp_path / "shard", documents, tokenizer)
    ids = [[*tokenizer.encode(d.prompt), *tokenizer.encode(d.text), tokenizer.eos_token_id] for d in documents]
    assert np.fromfile(tmp_path / "shard" / "data.ds", "<u2").tolist() == ids[0] + ids[1]
    assert np.fromfile(tmp_path / "shard" / "data.ds.index", "<u8").tolist() == [len(ids[0]), len(ids[0]) + len(ids[1])]
    loss = np.fromfile(tmp_path / "shard" / "data.ds.loss", np.bool_)
    assert loss.tolist() == [False] * len(tokenizer.encode("Problem: 3 + 4\n")) + [True] * (
        len(loss) - len(tokenizer.encode("Problem: 3 + 4\n"))
    )
    name, tokens, _ = (tmp_path / "shard" / "data.ds.metadata").read_text().splitlines()
    assert name.endswith("|2") and int(tokens) == len(ids[0]) + len(ids[1])


def test_a_shard_whose_index_does_not_belong_to_it_is_refused(tmp_path, tokenizer):
    write_shard(tmp_path / "s", [Document("a", "def f", "s")], tokenizer)
    with open(tmp_path / "s" / "data.ds", "ab") as data:
        data.write(b"\0\0")
    with pytest.raises(ValueError, match="its index ends at"):
        Shard.open(tmp_path / "s" / "data.ds")


WRITER = """
import sys
from pathlib import Path
from curricle.corpus.documents import Document
from curricle.tokens.shards import write_shard
from curricle.tokens.tokenizer import load
tokenizer = load(Path(sys.argv[1]))
print("ready", flush=True)
for number in range(100000):
    documents = [Document(str(i), "def f(x):" * 20, "s") for i in range(400)]
    write_shard(Path(sys.argv[2]) / f"block-{number}", documents, tokenizer)
"""


@pytest.mark.slow
def test_kill_9_while_a_shard_is_written_leaves_only_whole_shards(tmp_path, tokenizer):
    save(tokenizer, tmp_path / "tokenizer")
    with subprocess.Popen(
        [sys.executable, "-c", WRITER, str(tmp_path / "tokenizer"), str(tmp_path / "out")], stdout=subprocess.PIPE
    ) as writer:
        writer.stdout.readline()
        time.sleep(0.7)
        writer.kill()
    whole = [f for f in (tmp_path / "out").iterdir() if not f.name.startswith(".")]
    assert whole
    each = {len(Shard.open(f / "data.ds").ends) for f in whole}
    assert each == {400}


def test_digits_are_single_tokens_and_any_text_survives(tokenizer):
    text = "x = 1234 # é 漢字 \t\n\n  y"
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert all(sum(c.isdigit() for c in tokenizer.decode([i])) <= 1 for i in ids)


def test_a_tokenizer_read_back_is_the_same_and_has_the_same_fingerprint(tmp_path, tokenizer):
    save(tokenizer, tmp_path / "one")
    save(load(tmp_path / "one"), tmp_path / "two")
    assert load(tmp_path / "two").encode("def f(12)") == tokenizer.encode("def f(12)")
    assert fingerprint_of(tmp_path / "one") == fingerprint_of(tmp_path / "two")


def test_a_text_that_spells_the_delimiter_out_is_one_document(tmp_path, tokenizer):
    write_shard(tmp_path / "s", [Document("a", "a<|endoftext|>b", "s", "<|endoftext|>")], tokenizer)
    shard = Shard.open(tmp_path / "s" / "data.ds")
    assert (shard.tokens == tokenizer.eos_token_id).sum() == 1
    assert tokenizer.decode(shard.tokens[:-1].tolist()) == "<|endoftext|>a<|endoftext|>b"


def test_tokenizers_that_differ_in_the_delimiter_alone_have_different_fingerprints(tmp_path, tokenizer):
    save(tokenizer, tmp_path / "one")
    other = load(tmp_path / "one")
    other.eos_token = other.convert_ids_to_tokens(10)
    save(other, tmp_path / "two")
    (tmp_path / "two" / "tokenizer.json").write_bytes((tmp_path / "one" / "tokenizer.json").read_bytes())
    assert fingerprint_of(tmp_path / "one") != fingerprint_of(tmp_path / "two")


def test_seeds_that_a_float_cannot_tell_apart_give_other_orders():
    supply = Supply([shard_of([3] * 40)])
    orders = [supply.laid_out(seed, 0)[0].tolist() for seed in (2**63, 2**63 + 1)]
    assert orders[0] != orders[1]


def test_a_vocabulary_with_holes_wraps_no_token(tmp_path):
    import numpy as np

    from curricle.tokens import shards

    class Holed:
        eos_token_id, name_or_path = 70_000, ""

        def __len__(self):
            return 2

        def get_vocab(self):
            return {"a": 1, "end": 70_000}

    def encode(documents, tokenizer):
        return [shards.Encoded(np.array([1, 70_000], np.uint32), np.array([True, True]), 1)]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shards, "encode", encode)
        shards.write_shard(tmp_path / "shard", [], Holed())
    assert shards.Shard.open(tmp_path / "shard" / "data.ds").tokens.tolist() == [1, 70_000]
