"""Rows in which every conversation lies whole, with its question: what an `instruct` stage reads of answered questions.

A row begins with a delimiter and then holds documents in the order in which the source is read anyway: as many as fit,
the next one begins the next row. What is left of a row is padding: the delimiter, without loss, as a document of its
own, which no other attends to. A document longer than a row has one to itself and is cut at its end; one whose answer
would begin past that end teaches nothing there and is left out. Both are counted by `packing_of`, before training.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from curricle.supplied import Packing, Stretch
from curricle.tokens.shards import Supply

Place = tuple[int, int]
"""How far a source has been read: (epoch, tokens of it, in that epoch's order)."""


@dataclass(frozen=True, slots=True)
class Packed:
    """The documents of an epoch in rows."""

    documents: np.ndarray
    """Those that are read, in order."""
    firsts: np.ndarray
    """For each row the first of its documents, by its place among them; one more at the end."""
    begins: np.ndarray
    """The token at which each of the documents begins, in the epoch's order of all; one more at the end."""

    @property
    def rows(self) -> int:
        return len(self.firsts) - 1


def pack(lengths: np.ndarray, row_tokens: int) -> np.ndarray:
    """Which documents of these lengths begin a row, and where the last row ends: as many to a row as fit, in order; one
    that is longer than a row has its own."""
    ends = np.cumsum(np.minimum(lengths, row_tokens))
    firsts, before = [0], 0
    while firsts[-1] < len(lengths):
        firsts.append(int(np.searchsorted(ends, before + row_tokens, side="right")))
        before = int(ends[firsts[-1] - 1])
    return np.array(firsts, np.int64)


class WholeRows:
    """A source's rows, each with whole documents, from `begin` on. Rows are counted over epochs; how many an epoch has
    depends a little on its order."""

    def __init__(self, supply: Supply, begin: Place = (0, 0)):
        self.supply, self.begin = supply, begin
        self.shards = supply.shards
        self._kept: dict[int, np.ndarray] = {}
        self._last: tuple[tuple[int, int, int], Packed] | None = None
        self._rows: dict[tuple[int, int], list[int]] = {}
        """For a row's length and a seed: rows before each epoch, from the first on."""

    def read(self, row: int, row_tokens: int, seed: int) -> tuple[np.ndarray, np.ndarray, list[int]]:
        """Row number `row`: `row_tokens + 1` tokens, whether each carries loss, and the documents in it."""
        found = self._documents(row, row_tokens, seed)
        tokens, loss = np.full(row_tokens + 1, self.supply.delimiter), np.zeros(row_tokens + 1, np.bool_)
        at = 1
        for document in found:
            ids, carries = self.supply.document(document, row_tokens)
            tokens[at : at + len(ids)], loss[at : at + len(ids)] = ids, carries
            at += len(ids)
        return tokens, loss, found

    def openings(self, row: int, row_tokens: int, seed: int) -> np.ndarray:
        """Whether each of the same tokens opens a document: the delimiter that closes the one before. The last of them
        opens the padding."""
        lengths = self.supply.lengths[self._documents(row, row_tokens, seed)]
        found = np.zeros(row_tokens + 1, np.bool_)
        found[np.cumsum(np.minimum(lengths, row_tokens))] = True
        return found

    def place_after(self, rows: int, row_tokens: int, seed: int) -> Place:
        """How far the source has been read after so many rows."""
        if not rows:
            return self.begin
        epoch, local = self._at(rows - 1, row_tokens, seed)
        packed = self.packed(epoch, row_tokens, seed)
        return epoch, int(packed.begins[packed.firsts[local + 1]])

    def complete(self, row_tokens: int) -> int:
        """Rows of a stream that will not change when more of it is written out; the last could still take in more."""
        return max(0, self.packed(0, row_tokens, 0).rows - 1)

    def kept(self, row_tokens: int) -> np.ndarray:
        """Whether each document has something to learn within a row."""
        if row_tokens not in self._kept:
            kept = np.ones(self.supply.documents, np.bool_)
            for document in np.flatnonzero(self.supply.lengths > row_tokens).tolist():
                kept[document] = self.supply.document(document, row_tokens)[1].any()
            self._kept[row_tokens] = kept
        return self._kept[row_tokens]

    def packed(self, epoch: int, row_tokens: int, seed: int) -> Packed:
        """An epoch's rows; those that are left of the one in which the source is entered. Kept for the last asked."""
        key = (epoch, row_tokens, seed)
        if self._last is None or self._last[0] != key:
            order, ends = self.supply.laid_out(seed, epoch)
            begins = ends - self.supply.lengths[order]
            here = self.kept(row_tokens)[order]
            if epoch == self.begin[0]:
                here &= begins >= self.begin[1]
            total = int(ends[-1]) if len(ends) else 0
            read = order[here]
            packed = Packed(read, pack(self.supply.lengths[read], row_tokens), np.append(begins[here], total))
            self._last = (key, packed)
        return self._last[1]

    def _at(self, row: int, row_tokens: int, seed: int) -> tuple[int, int]:
        """(epoch, the row's number in it)."""
        before = self._rows.setdefault((row_tokens, seed), [0])
        while row >= before[-1]:
            epoch = self.begin[0] + len(before) - 1
            if not self.supply.permuted and epoch:
                raise IndexError("the stream was not written out this far; prepare more of its chunks")
            before.append(before[-1] + self.packed(epoch, row_tokens, seed).rows)
        passed = int(np.searchsorted(before, row, side="right")) - 1
        return self.begin[0] + passed, row - before[passed]

    def _documents(self, row: int, row_tokens: int, seed: int) -> list[int]:
        epoch, local = self._at(row, row_tokens, seed)
        packed = self.packed(epoch, row_tokens, seed)
        return packed.documents[packed.firsts[local] : packed.firsts[local + 1]].tolist()


def place_after(supply: Supply, stretches: Sequence[Stretch], row_tokens: int, seed: int) -> Place:
    """How far a source has been read by stages that took these stretches of rows, one after the other."""
    place: Place = (0, 0)
    for stretch in stretches:
        if stretch.whole:
            place = WholeRows(supply, place).place_after(stretch.rows, row_tokens, seed)
        else:
            epoch, row = 0, row_at(supply, place, row_tokens) + stretch.rows
            if supply.permuted:
                epoch, row = divmod(row, supply.rows(row_tokens))
            place = (epoch, row * row_tokens + 1 if row else 0)  # the row's last target is the token after it
    return place


def row_at(supply: Supply, place: Place, row_tokens: int) -> int:
    """The first row of a text that runs on from row to row in which nothing has been read."""
    epoch, read = place
    return epoch * supply.rows(row_tokens) + -(-max(0, read - 1) // row_tokens)


def entered(
    supply: Supply, before: Sequence[Stretch], *, whole: bool, row_tokens: int, seed: int
) -> tuple[Supply | WholeRows, int]:
    """A source as a stage reads it after these stretches: its rows, and the first of them that is the stage's."""
    place = place_after(supply, before, row_tokens, seed)
    return (WholeRows(supply, place), 0) if whole else (supply, row_at(supply, place, row_tokens))


def lacking(stream: Supply, reads: Iterable[tuple[Sequence[Stretch], int, bool]], row_tokens: int) -> int:
    """Rows that are missing in a stream for stages that read, after these stretches, so many rows, whole or not. A few
    more may turn out to be missing when those are there; 0 means that all are."""
    most = 0
    for before, rows, whole in reads:
        try:
            place = place_after(stream, before, row_tokens, 0)
        except IndexError:
            most = max(most, 1)
            continue
        have = WholeRows(stream, place).complete(row_tokens) if whole else stream.rows(row_tokens)
        most = max(most, rows + (0 if whole else row_at(stream, place, row_tokens)) - have)
    return most


def packing_of(supply: Supply, row_tokens: int) -> tuple[Packing, list[int]]:
    """How a source's conversations lie in rows, in the catalogue's order; and those that are cut or left out, by their
    place there."""
    rows = WholeRows(Supply(supply.shards, permuted=False))
    packed, long, kept = rows.packed(0, row_tokens, 0), supply.lengths > row_tokens, rows.kept(row_tokens)
    held = int(np.minimum(supply.lengths[kept], row_tokens).sum())
    padding = 1 - held / (packed.rows * row_tokens) if packed.rows else 0.0
    packing = Packing(packed.rows, padding, supply.documents, cut=int((long & kept).sum()), left_out=int((~kept).sum()))
    return packing, np.flatnonzero(long).tolist()
