"""Token shards on disk, in datatrove's layout, read through memory maps.

`data.ds`           tokens of all documents end to end, each closed by the delimiter; 2 bytes below 2**16, else 4
`data.ds.index`     8 bytes a document: where it ends, in tokens
`data.ds.loss`      1 byte a token: whether it carries loss in an `instruct` stage (0 in prompts and tools' outputs)
`data.ds.metadata`  tokenizer and token size, tokens, tokens for people

A shard's folder appears whole or not at all. An endless source is a row of such folders, each a fixed chunk of its
stream, so that asking for more tokens never changes those that were there.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from curricle.corpus.documents import Document
from curricle.store import whole_folder
from curricle.study import Refused
from curricle.tokens.chat import Templates
from curricle.tokens.tokenizer import spelled

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

DOCUMENTS_AT_ONCE = 1024


@dataclass(frozen=True, slots=True)
class Encoded:
    """A document as tokens, the delimiter that closes it among them; whether each carries loss in an `instruct` stage;
    and the bytes of the text on which the loss falls."""

    ids: np.ndarray
    loss: np.ndarray
    bytes: int


def encode(documents: Iterable[Document], tokenizer: PreTrainedTokenizerFast) -> Iterator[Encoded]:
    """The documents' tokens. Parts that carry loss and parts that carry none are encoded apart, so that a token never
    spans the place where an answer begins."""
    templates = Templates(tokenizer)
    source = iter(documents)
    while batch := list(islice(source, DOCUMENTS_AT_ONCE)):
        laid_out = [templates.parts(document) for document in batch]
        texts = [part for parts in laid_out for part, _ in parts if isinstance(part, str)]
        encoded = iter(spelled(tokenizer, texts))
        for document, parts in zip(batch, laid_out, strict=True):
            found = [([part] if isinstance(part, int) else next(encoded), carries) for part, carries in parts]
            # An answer ends with the delimiter; where there is no token of one, there is nothing to end.
            answered = not (document.prompt or document.template) or any(ids and carries for ids, carries in found)
            found.append(([tokenizer.eos_token_id], answered))
            lengths, flags = [len(ids) for ids, _ in found], [carries for _, carries in found]
            ids = np.fromiter(chain.from_iterable(ids for ids, _ in found), np.uint32, sum(lengths))
            yield Encoded(ids, np.repeat(np.array(flags, np.bool_), lengths), document.answer_bytes)


def write_shard(folder: Path, documents: Iterable[Document], tokenizer: PreTrainedTokenizerFast) -> None:
    """Tokenise documents into one shard. Memory stays bounded: tokens are written as they come."""
    # By the largest token, not by how many there are: a vocabulary can have holes.
    token = np.uint16 if max(tokenizer.get_vocab().values()) < 2**16 else np.uint32
    with whole_folder(folder) as temporary:
        end, everywhere = 0, True
        with (
            open(temporary / "data.ds", "wb") as data,
            open(temporary / "data.ds.index", "wb") as index,
            open(temporary / "data.ds.loss", "wb") as loss,
        ):
            for document in encode(documents, tokenizer):
                end += len(document.ids)
                everywhere &= bool(document.loss.all())
                data.write(document.ids.astype(token).tobytes())
                index.write(np.uint64(end).tobytes())
                loss.write(document.loss.tobytes())
        if everywhere:
            (temporary / "data.ds.loss").unlink()
        size = np.dtype(token).itemsize
        (temporary / "data.ds.metadata").write_text(
            f"{tokenizer.name_or_path or 'curricle'}|{size}\n{end}\n{end / 1e6:.1f}M"
        )


@dataclass(frozen=True, slots=True)
class Shard:
    """One shard, mapped. A folder of several `.ds` files, as datatrove writes them, is several shards."""

    tokens: np.ndarray
    ends: np.ndarray
    loss: np.ndarray | None

    @classmethod
    def open(cls, data: Path) -> Shard:
        """Map `data` (a `.ds` file). Raises `Refused` where index and tokens do not belong together."""
        size = int(Path(f"{data}.metadata").read_text().splitlines()[0].rsplit("|", 1)[1])
        tokens = _map(data, np.uint16 if size == 2 else np.uint32)
        ends = _map(Path(f"{data}.index"), np.uint64)
        if len(tokens) != (int(ends[-1]) if len(ends) else 0):
            raise Refused(
                f"{data}: damaged: {len(tokens)} tokens, but its index ends at {ends[-1:]}; remove its folder"
            )
        loss = Path(f"{data}.loss")
        return cls(tokens, ends, _map(loss, np.bool_) if loss.exists() else None)

    def unanswered(self) -> int | None:
        """The first document without a token that carries loss, by its number; None where there is no such one."""
        if self.loss is None or not len(self.ends):
            return None
        starts = np.concatenate([[0], self.ends[:-1]]).astype(np.int64)
        found = np.flatnonzero(np.add.reduceat(self.loss, starts, dtype=np.int64) == 0)
        return int(found[0]) if len(found) else None


def _map(file: Path, kind: type) -> np.ndarray:
    if file.stat().st_size % np.dtype(kind).itemsize:
        raise Refused(f"{file}: damaged: its size is no multiple of a token's; remove its folder and run again")
    return np.memmap(file, kind, mode="r") if file.stat().st_size else np.zeros(0, kind)


class Supply:
    """All tokens of one source, as documents that can be laid out in any order.

    `permuted` is False for an endless stream, whose documents are drawn afresh and need no shuffling.
    """

    def __init__(self, shards: Sequence[Shard], permuted: bool = True):
        self.shards = tuple(shards)
        self.permuted = permuted
        self.tokens = sum(len(s.tokens) for s in shards)
        self.documents = sum(len(s.ends) for s in shards)
        lengths = [np.diff(s.ends.astype(np.int64), prepend=0) for s in shards]
        self.lengths = np.concatenate(lengths) if lengths else np.zeros(0, np.int64)
        self._first_document = np.cumsum([0, *(len(s.ends) for s in shards)])
        self._order: tuple[tuple[int, int], np.ndarray, np.ndarray] | None = None

    @classmethod
    def open(cls, folders: Iterable[Path], permuted: bool = True) -> Supply:
        return cls([Shard.open(data) for folder in folders for data in sorted(folder.glob("*.ds"))], permuted)

    def rows(self, row_tokens: int) -> int:
        """Whole rows in an epoch; each also reads the token after it, its last target."""
        return max(0, (self.tokens - 1) // row_tokens)

    @property
    def delimiter(self) -> int:
        """The token that closes every document."""
        shard = next(s for s in self.shards if len(s.ends))
        return int(shard.tokens[int(shard.ends[0]) - 1])

    def document(self, number: int, most: int) -> tuple[np.ndarray, np.ndarray]:
        """The first `most` tokens of a document, and whether each carries loss."""
        which = int(np.searchsorted(self._first_document, number, side="right")) - 1
        shard, end = self.shards[which], int(self.shards[which].ends[number - int(self._first_document[which])])
        length = int(self.lengths[number])
        part = slice(end - length, end - length + min(length, most))
        tokens = shard.tokens[part]
        return tokens, np.ones(len(tokens), np.bool_) if shard.loss is None else shard.loss[part]

    def laid_out(self, seed: int, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """The documents' order in an epoch, and where each ends in it. Kept for the epoch that is being read."""
        key = (seed, epoch)
        if self._order is None or self._order[0] != key:
            if self.permuted:
                bits = np.random.Philox(key=np.array(key, np.uint64))  # a list goes through float64 and loses digits
                order = np.random.Generator(bits).permutation(self.documents)
            else:
                order = np.arange(self.documents)
            self._order = (key, order, np.cumsum(self.lengths[order]))
        return self._order[1], self._order[2]

    def read(self, row: int, row_tokens: int, seed: int) -> tuple[np.ndarray, np.ndarray, list[int]]:
        """Row number `row`, counted over epochs: `row_tokens + 1` tokens, whether each carries loss, and the documents
        that it touches. The same row always, whoever asks."""
        epoch, row = divmod(row, self.rows(row_tokens))
        if epoch and not self.permuted:
            raise IndexError("the stream was not written out this far; prepare more of its chunks")
        order, ends = self.laid_out(seed, epoch)
        start, stop = row * row_tokens, (row + 1) * row_tokens + 1
        tokens, loss = np.empty(stop - start, np.int64), np.ones(stop - start, np.bool_)
        position, place, touched = start, int(np.searchsorted(ends, start, side="right")), []
        while position < stop:
            document = int(order[place])
            which = int(np.searchsorted(self._first_document, document, side="right")) - 1
            shard, local = self.shards[which], document - int(self._first_document[which])
            offset = int(shard.ends[local]) - (int(ends[place]) - position)
            length = min(stop, int(ends[place])) - position
            into = slice(position - start, position - start + length)
            tokens[into] = shard.tokens[offset : offset + length]
            if shard.loss is not None:
                loss[into] = shard.loss[offset : offset + length]
            touched.append(document)
            position, place = position + length, place + 1
        return tokens, loss, touched

    def openings(self, row: int, row_tokens: int, seed: int) -> np.ndarray:
        """Whether each of the same tokens opens a document: the delimiter that closes the one before. A conversation
        may hold that token inside, at the end of each answer, so tokens alone do not tell."""
        epoch, row = divmod(row, self.rows(row_tokens))
        _, ends = self.laid_out(seed, epoch)
        start, stop = row * row_tokens, (row + 1) * row_tokens + 1
        first, last = np.searchsorted(ends, [start, stop], side="right")
        found = np.zeros(stop - start, np.bool_)
        found[ends[first:last] - 1 - start] = True
        return found
