"""A subsample is decided by content alone, lies within every larger one, and its size is right within a document."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from curricle.corpus.catalogue import ORIGINAL
from curricle.corpus.documents import Document
from curricle.corpus.parts import digest
from curricle.tokens.shards import Shard, write_shard
from curricle.tokens.subsample import first_by_content, places, write_subsample
from curricle.tokens.tokenizer import train_bpe

sources = st.lists(st.tuples(st.integers(0, 50), st.integers(1, 40)), min_size=1, max_size=30)


def columns(found: list[tuple[int, int]]) -> tuple[np.ndarray, np.ndarray]:
    hashes, lengths = zip(*found)
    return np.array(hashes, np.uint64), np.array(lengths)


@given(sources, st.integers(0, 1500))
def test_no_other_number_of_documents_comes_nearer_to_the_tokens_wanted(found, wanted):
    hashes_D, lengths_D = columns(found)
    kept = first_by_content(hashes_D, lengths_D, wanted)
    assert len(kept) and (np.diff(kept) > 0).all()
    ends = np.cumsum(lengths_D[np.argsort(hashes_D, kind="stable")])
    assert abs(lengths_D[kept].sum() - wanted) == np.abs(ends - wanted).min()
    if ends[0] <= wanted <= ends[-1]:
        assert abs(lengths_D[kept].sum() - wanted) <= lengths_D.max() / 2, "within a document"


@given(sources, st.integers(0, 1500), st.integers(0, 1500))
def test_a_smaller_subsample_lies_within_a_larger_one(found, one, other):
    small, large = (first_by_content(*columns(found), wanted) for wanted in sorted([one, other]))
    assert set(small) <= set(large)


@given(sources, st.integers(0, 1500), st.randoms())
def test_the_order_of_documents_decides_nothing(found, wanted, random):
    once = list({document[0]: document for document in found}.values())  # each text once
    shuffled = random.sample(once, len(once))
    chosen = [{order[place] for place in first_by_content(*columns(order), wanted)} for order in (once, shuffled)]
    assert chosen[0] == chosen[1]


@pytest.fixture(scope="module")
def tokenizer():
    return train_bpe(["def f(x):\n    return x + 12\n"] * 50, 320)


def texts(count: int) -> list[Document]:
    return [Document(f"d{i}", f"def f{i}(x):\n" + f"    return x + {i}\n" * (1 + i % 7), "s") for i in range(count)]


def written(folder, documents, tokenizer, wanted):
    write_shard(folder / "whole", documents, tokenizer)
    write_subsample(folder / "part", folder / "whole", documents, wanted)
    return Shard.open(folder / "whole" / "data.ds"), Shard.open(folder / "part" / "data.ds"), places(folder / "part")


def test_a_subsample_is_a_shard_whose_documents_are_those_of_the_source(tmp_path, tokenizer):
    documents = [Document(d.id, d.text, "s", prompt="Write it.") if i % 2 else d for i, d in enumerate(texts(60))]
    whole, part, kept = written(tmp_path, documents, tokenizer, 700)
    assert places(tmp_path / "whole") is None and len(part.ends) == len(kept) < 60
    assert len(part.tokens) == part.ends[-1] == pytest.approx(700, abs=np.diff(whole.ends).max() / 2)
    for number, place in enumerate(kept):
        ours, theirs = (
            slice(int(shard.ends[i - 1]) if i else 0, int(shard.ends[i]))
            for shard, i in ((part, number), (whole, place))
        )
        assert (part.tokens[ours] == whole.tokens[theirs]).all() and (part.loss[ours] == whole.loss[theirs]).all()


def test_the_same_texts_come_first_under_other_names_and_when_transformed(tmp_path, tokenizer):
    plain = texts(60)
    found = {
        "plain": plain,
        "renamed": [Document(f"other/{d.id}", d.text, "s") for d in plain],
        "without": [Document(d.id, "x " * 9, "s", meta={ORIGINAL: digest(d.text).hex()}) for d in plain],
    }
    first = {name: written(tmp_path / name, documents, tokenizer, 1)[2].tolist() for name, documents in found.items()}
    assert len(first["plain"]) == 1 and first["plain"] == first["renamed"] == first["without"]
