"""Test text never trains: exact search for benchmark texts inside documents, with the evidence.

Words are runs of letters and digits in lower case; a Chinese, Japanese or Korean character is a word of its own. A
document is contaminated by a benchmark when it shares ten words in a row with one of its texts, or holds the whole of
a text of 3 to 9 words (DeepSeekMath, arXiv 2402.03300, 2.1.1). For generated problems only the whole text counts,
since their templates share ten words with every other, and its operators count too: `12 + 7` is not `12 - 7`. Words
and runs of words are hashed to 64 bits in numpy, without making a string of any; what the hashes find is then compared
word by word, so a hit is never an accident of hashing.
"""

from __future__ import annotations

import functools
import re
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

GRAM = 10  # words in a row that two texts may not share
SHORTEST = 3  # texts of fewer words say too little to be looked for

CJK = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af\uf900-\ufaff\U00020000-\U0003ffff"
WORD = re.compile(f"[{CJK}]|[^\\W_{CJK}]+")
FACTOR = np.uint64(0x9E3779B97F4A7C15)  # odd, so that multiplying loses nothing modulo 2^64


def words_of(text: str) -> list[str]:
    return WORD.findall(text.lower())


@dataclass(frozen=True, slots=True)
class Hit:
    """A document holds words of a benchmark; `evidence` is what they share, as words."""

    benchmark: str
    evidence: str


@dataclass(frozen=True, slots=True)
class _Text:
    benchmark: str
    words: list[str]
    whole: bool
    literal: re.Pattern[str] | None
    """For a generated problem: its characters too, spaces aside, and not as the beginning of a longer expression."""


OPERATOR = r"[-+*/^=()]"
PART = re.compile(rf"{OPERATOR}|(?:(?!{OPERATOR})\S)+")
# What makes the same characters another problem: more of a word or a number, or an operation on the same line. An
# equals sign does not: the answer follows it.
NOT_LONGER = r"(?!\w)(?!\.\d)(?![ \t]*[-+*/^][ \t]*[\w(])"


def _literal(text: str) -> re.Pattern[str]:
    first, *rest = PART.findall(text.lower())
    pattern, before = re.escape(first), first
    for part in rest:
        apart = r"\s*" if re.fullmatch(OPERATOR, before) or re.fullmatch(OPERATOR, part) else r"\s+"
        pattern, before = pattern + apart + re.escape(part), part
    return re.compile(r"(?<![\w.])" + pattern + NOT_LONGER)


class Contamination:
    """What is looked for: the texts of each benchmark; those named in `whole` count only as a whole."""

    def __init__(self, texts: Mapping[str, Sequence[str]], whole: Collection[str] = ()):
        self._texts: list[_Text] = []
        grams: dict[int, list[np.ndarray]] = {}  # length in words → hashes of the grams to look for
        owners: dict[int, list[np.ndarray]] = {}  # beside them: which text, and from which word of it
        for benchmark, wanted in texts.items():
            for text in dict.fromkeys(wanted):
                words = words_of(text)
                if len(words) < SHORTEST:
                    continue
                only_whole = benchmark in whole or len(words) < GRAM
                length = min(len(words), GRAM)
                found = dict(_gram_hashes(_word_hashes(text), {length}))[length]
                found = found[:1] if only_whole else found
                owner = np.stack([np.full(len(found), len(self._texts)), np.arange(len(found))], axis=1)
                grams.setdefault(length, []).append(found)
                owners.setdefault(length, []).append(owner)
                literal = _literal(text) if benchmark in whole else None
                self._texts.append(_Text(benchmark, words, only_whole, literal))
        self._indexes = {length: _Index(grams[length], owners[length]) for length in grams}

    def find(self, text: str) -> list[Hit]:
        """The benchmarks that the text holds words of, in alphabetical order, each with its first evidence."""
        words: list[str] = []  # made only once there is something to compare
        hits: dict[str, Hit] = {}
        for length, hashes in _gram_hashes(_word_hashes(text), self._indexes.keys()):
            for place, number, offset in self._indexes[length].candidates(hashes):
                words = words or words_of(text)
                wanted = self._texts[number]
                shared = wanted.words if wanted.whole else wanted.words[offset : offset + GRAM]
                if wanted.benchmark in hits or words[place : place + len(shared)] != shared:
                    continue
                if wanted.literal is None or wanted.literal.search(text.lower()):
                    hits[wanted.benchmark] = Hit(wanted.benchmark, " ".join(shared))
        return [hits[benchmark] for benchmark in sorted(hits)]


class _Index:
    """Hashes of one length, sorted, behind a table of bits that turns nearly every other hash away in one look."""

    def __init__(self, hashes: list[np.ndarray], owners: list[np.ndarray]):
        flat = np.concatenate(hashes)
        order = np.argsort(flat, kind="stable")
        self.hashes, self.owners = flat[order], np.concatenate(owners)[order]
        bits = max(16, min(28, int(flat.size * 32).bit_length()))
        self.shift = np.uint64(64 - bits)
        self.table = np.zeros(2**bits, dtype=bool)
        self.table[self.hashes >> self.shift] = True

    def candidates(self, hashes: np.ndarray) -> Iterator[tuple[int, int, int]]:
        """(word of the document, text, word of the text) for each pair of equal hashes."""
        places = self.table[hashes >> self.shift].nonzero()[0]
        if not places.size:
            return
        firsts = self.hashes.searchsorted(hashes[places], "left")
        lasts = self.hashes.searchsorted(hashes[places], "right")
        found = lasts > firsts
        for place, first, last in zip(places[found], firsts[found], lasts[found], strict=True):
            for number, offset in self.owners[first:last]:
                yield int(place), int(number), int(offset)


def _word_hashes(text: str) -> np.ndarray:
    """One hash for each of `words_of(text)`: Σ cᵢ·fⁱ over its characters, from the differences of a running sum."""
    characters = np.frombuffer(text.lower().encode("utf-32-le", "surrogatepass"), dtype=np.uint32)
    kind = np.zeros(len(characters) + 2, dtype=np.uint8)  # a separator on either side
    kind[1:-1] = _kinds()[characters]
    # A word begins or ends where the kind changes, and on both sides of a CJK character.
    turns = (kind[1:] != kind[:-1]) | (kind[1:] == IDEOGRAM)
    starts = np.flatnonzero(turns & (kind[1:] != SEPARATOR))
    ends = np.flatnonzero(turns & (kind[:-1] != SEPARATOR))
    powers, inverses = _powers(len(characters))
    sums = np.zeros(len(characters) + 1, dtype=np.uint64)
    np.cumsum(characters * powers, out=sums[1:])
    return _mixed((sums[ends] - sums[starts]) * inverses[starts])


SEPARATOR, LETTER, IDEOGRAM = 0, 1, 2


@functools.cache
def _kinds() -> np.ndarray:
    """The kind of every code point, as `WORD` sees it. None above the third plane is a letter or a number."""
    kinds = np.zeros(sys.maxunicode + 1, dtype=np.uint8)
    assigned = "".join(map(chr, range(0x40000)))
    kinds[: len(assigned)] = [character.isalnum() for character in assigned]
    kinds[[found.start() for found in re.finditer(f"[{CJK}]", assigned)]] = IDEOGRAM
    return kinds


def _powers(count: int) -> tuple[np.ndarray, np.ndarray]:
    """fⁱ and f⁻ⁱ modulo 2^64 for i below `count`, rounded up so that few sizes are ever computed."""
    powers, inverses = _powers_table(max(16, (count - 1).bit_length()))
    return powers[:count], inverses


@functools.lru_cache(maxsize=2)
def _powers_table(bits: int) -> tuple[np.ndarray, np.ndarray]:
    tables = []
    for factor in (int(FACTOR), pow(int(FACTOR), -1, 2**64)):
        table = np.full(2**bits, factor, dtype=np.uint64)
        table[0] = 1
        tables.append(np.cumprod(table))
    return tables[0], tables[1]


def _mixed(hashes: np.ndarray) -> np.ndarray:
    """Multiplying moves bits up only; a shift and a turn more, and the high bits depend on all."""
    return (hashes ^ (hashes >> np.uint64(32))) * FACTOR


def _gram_hashes(words: np.ndarray, lengths: Collection[int]) -> Iterator[tuple[int, np.ndarray]]:
    """For each wanted length n, the hashes of all n words in a row: h(w₁…wₙ) = h(w₁…wₙ₋₁)·factor + wₙ."""
    rolling = words
    for length in range(1, min(max(lengths, default=0), len(words)) + 1):
        if length > 1:
            rolling = rolling[:-1] * FACTOR + words[length - 1 :]
        if length in lengths:
            yield length, _mixed(rolling)
