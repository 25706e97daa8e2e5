"""What is known of a source before a plan is made, and how often stages have passed over it.

A source is read in rows, in two ways: as one text that is cut at row ends, or so that every conversation lies whole in
a row (`instruct` stages). A pass takes more rows the second way, since some of each is padding.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple


class Stretch(NamedTuple):
    """Rows of a source that were read one after the other, and whether every conversation lay whole in one."""

    rows: int
    whole: bool


@dataclass(frozen=True, slots=True)
class Packing:
    """How a source's conversations lie in rows where each is whole."""

    rows: int | None
    """In one pass; None for an endless source. Another order takes a few more or fewer."""
    padding: float
    """The share of the rows that no conversation fills; of an endless source, in a sample."""
    documents: int = 0
    """Conversations that were looked at: all, or the sample."""
    cut: int = 0
    """Conversations longer than a row, of which the beginning is read."""
    left_out: int = 0
    """Those of which no answer would begin within a row."""
    examples: tuple[str, ...] = ()
    """The first of both, by their ids."""


@dataclass(frozen=True, slots=True)
class Supplied:
    """What the catalogue knows of a source."""

    fingerprint: str
    tokens: int | None
    """None for an endless source."""
    documents: int = 0
    bytes: int = 0
    declared: bool = False
    whole_tokens: int | None = None
    """Of the whole source, where the rest tells of the subsample that a proxy reads."""
    packing: Packing | None = None
    """In rows of the study's context, where an instruct stage reads it."""


def rows_in_epoch(source: Supplied, context: int, whole: bool = False) -> int | None:
    """Rows of `context` tokens in one pass; None for an endless source. The last token is a target only. Where
    conversations lie `whole`, rows as they were counted; without a count, as if none were padded."""
    if whole and source.packing is not None:
        return source.packing.rows
    return None if source.tokens is None else max(0, (source.tokens - 1) // context)


def epochs_of(source: Supplied, stretches: Iterable[Stretch], context: int) -> float | None:
    """Passes over a source; None for an endless one, or one without a row."""
    total = 0.0
    for rows, whole in stretches:
        epoch = rows_in_epoch(source, context, whole)
        if not epoch:
            return None
        total += rows / epoch
    return total


def read_on(before: tuple[Stretch, ...], rows: int, whole: bool) -> tuple[Stretch, ...]:
    """What has been read after so many rows more."""
    if before and before[-1].whole == whole:
        return (*before[:-1], Stretch(before[-1].rows + rows, whole))
    return (*before, Stretch(rows, whole)) if rows else before
