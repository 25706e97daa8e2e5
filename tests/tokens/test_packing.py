"""In an `instruct` stage every conversation lies whole in a row, in order; what does not fit at all is counted."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from curricle.supplied import Stretch
from curricle.tokens.packing import WholeRows, entered, lacking, packing_of, place_after
from curricle.tokens.sampler import Sampler
from curricle.tokens.shards import Shard, Supply

END = 0
"""The delimiter; every other token names its place."""

chats = st.lists(st.tuples(st.integers(0, 12), st.integers(0, 12)), min_size=1, max_size=25)
"""Of each conversation, tokens asked and tokens answered; an answer ends with the delimiter."""
row_lengths = st.integers(2, 24)


def shard_of(sizes: list[tuple[int, int]], start: int = 1) -> Shard:
    tokens, loss = [], []
    for asked, answered in sizes:
        tokens += [*range(start + len(tokens), start + len(tokens) + asked + answered), END]
        loss += [False] * asked + [True] * (answered + 1)
    ends = np.cumsum([asked + answered + 1 for asked, answered in sizes]).astype(np.uint64)
    return Shard(np.array(tokens, np.uint32), ends, np.array(loss))


def documents_of(shard: Shard) -> list[list[int]]:
    return [part.tolist() for part in np.split(shard.tokens, shard.ends[:-1].astype(int))]


def held(rows: WholeRows, row: int, row_tokens: int, seed: int) -> list[tuple[int, list[int]]]:
    """The documents of a row, each with the tokens that stand in it; all else is held to be padding."""
    tokens, loss, touched = rows.read(row, row_tokens, seed)
    opens = rows.openings(row, row_tokens, seed)
    assert tokens[0] == END and not loss[0] and not opens[0]
    found, at = [], 1
    for document, end in zip(touched, np.flatnonzero(opens) + 1, strict=True):
        found.append((document, tokens[at:end].tolist()))
        at = end
    assert (tokens[at:] == END).all() and not loss[at:].any()
    return found


@given(chats, chats, row_lengths, st.integers(0, 3))
def test_every_conversation_lies_whole_in_one_row_once_an_epoch_and_what_is_not_is_counted(one, other, T, seed):
    first = shard_of(one)
    supply = Supply([first, shard_of(other, 1000)])
    documents, sizes = [*documents_of(first), *documents_of(supply.shards[1])], one + other
    packing, long = packing_of(supply, T)
    assert long == [n for n, document in enumerate(documents) if len(document) > T]
    left_out = {n for n in long if sizes[n][0] >= T}
    assert (packing.cut, packing.left_out) == (len(long) - len(left_out), len(left_out))
    rows = WholeRows(supply)
    row = 0
    for epoch in range(2 if packing.rows else 0):
        read = []
        while len(read) < len(documents) - len(left_out):
            read += held(rows, row, T, seed)
            row += 1
        assert [n for n, _ in read] == [n for n in supply.laid_out(seed, epoch)[0] if n not in left_out]
        assert all(tokens == documents[n][:T] for n, tokens in read)


@given(chats, row_lengths)
def test_a_row_takes_as_many_as_fit_and_the_padding_that_is_told_is_what_is_left(sizes, T):
    supply = Supply([shard_of(sizes)], permuted=False)
    rows, (packing, _) = WholeRows(supply), packing_of(supply, T)
    each = [held(rows, row, T, 0) for row in range(packing.rows)]
    filled = [sum(len(tokens) for _, tokens in row) for row in each]
    assert all(n + len(after[0][1]) > T for n, after in zip(filled, each[1:]))
    assert packing.padding == pytest.approx(1 - sum(filled) / (packing.rows * T) if packing.rows else 0)


@given(chats, row_lengths, st.lists(st.booleans(), min_size=2, max_size=8), st.integers(0, 3))
@example([(3, 4)] * 4, 8, [False, True], 0)
def test_no_token_is_a_target_twice_within_an_epoch_whatever_stages_follow_each_other(sizes, T, stages, seed):
    supply = Supply([shard_of(sizes)])
    if not supply.rows(T) or not packing_of(supply, T)[0].rows:
        return
    before, seen = [], []
    for whole in stages:  # each of one row
        read, start = entered(supply, before, whole=whole, row_tokens=T, seed=seed)
        targets = read.read(start, T, seed)[0][1:]
        seen += targets[targets != END].tolist()  # every other token names its place
        before.append(Stretch(1, whole))
        if place_after(supply, before, T, seed) >= (1, 0):
            break
        assert len(seen) == len(set(seen))


def test_stages_that_follow_each_other_read_what_one_stage_would():
    supply = Supply([shard_of([(n % 7, n % 5 + 1) for n in range(40)])])
    one = WholeRows(supply)
    whole = [one.read(row, 16, 3)[0].tolist() for row in range(60)]
    assert one.read(60, 16, 3)[2], "some epochs on"
    for rows in (1, 7, 31):
        read, start = entered(supply, [Stretch(rows, True)], whole=True, row_tokens=16, seed=3)
        assert [read.read(start + row, 16, 3)[0].tolist() for row in range(20)] == whole[rows : rows + 20]
    assert one.read(5, 16, 3)[0].tolist() == whole[5], "whatever was read in between"


def test_a_stream_that_is_written_on_leaves_the_rows_that_were_complete():
    first, more = shard_of([(3, 4)] * 9), shard_of([(2, 2)] * 9, 500)
    short, long = Supply([first], permuted=False), Supply([first, more], permuted=False)
    complete = WholeRows(short).complete(20)
    assert complete == 4  # 8 tokens each, two a row; of the fifth row nobody knows
    for row in range(complete):
        assert (WholeRows(short).read(row, 20, 0)[0] == WholeRows(long).read(row, 20, 0)[0]).all()
    reads = [((Stretch(2, False),), 3, True)]
    assert lacking(short, reads, 20) > 0 and lacking(long, reads, 20) == 0
    with pytest.raises(IndexError, match="not written out this far"):
        WholeRows(short).read(50, 20, 0)


def test_padding_is_a_document_of_its_own_without_loss():
    supply = Supply([shard_of([(2, 3), (4, 1), (5, 9)])], permuted=False)
    sampler = Sampler({"s": WholeRows(supply)}, [(2, {"s": 1.0})], row_tokens=16, seed=0, answers_only=True)
    batch = sampler.batch(0, 2)
    assert batch.tokens_BT[0].tolist() == [END, 1, 2, 3, 4, 5, END, 7, 8, 9, 10, 11, END, END, END, END]
    assert batch.positions_BT[0].tolist() == [*range(6), *range(6), *range(4)]
    learnt = [-100, -100, 3, 4, 5, END, -100, -100, -100, -100, 11, END, -100, -100, -100, -100]
    assert batch.labels_BT[0].tolist() == learnt
    assert batch.targets == 6 + 10
