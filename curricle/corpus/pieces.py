"""The held-out text that is scored: pieces of documents, each once, in an order that only their content decides."""

from __future__ import annotations

import hashlib
import heapq
from collections.abc import Iterable, Iterator
from dataclasses import replace

from curricle.corpus.documents import Document

SHORTEST_PIECE = 20  # bytes that a held-out document is taken to have at least
SCORED_PIECE = 4000  # characters of one held-out document that are scored, so that several are


def scored(documents: Iterable[Document], wanted: int) -> list[Document]:
    """About `wanted` bytes of them; memory holds as many pieces as that could be, never all held-out text."""
    pieces = _distinct(replace(d, text=d.text[:SCORED_PIECE], meta={}) for d in documents)
    kept, size = [], 0
    for piece in heapq.nsmallest(max(1, wanted // SHORTEST_PIECE), pieces, key=lambda d: d.id):
        if size >= wanted:
            break
        kept.append(piece)
        size += len(piece.text.encode())
    return kept


def _distinct(pieces: Iterable[Document]) -> Iterator[Document]:
    """Each piece once, named by what it holds: the same text in another file is the same item."""
    seen = set()
    for piece in pieces:
        content = hashlib.sha256("\0".join(piece.texts).encode()).hexdigest()[:16]
        if content not in seen:
            seen.add(content)
            yield replace(piece, id=content)
