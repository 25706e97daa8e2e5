"""The stateless mixture sampler: sample `i` is a pure function of (seed, mixture, i).

A sample is one row of T tokens from one source. Which source comes next is decided by a schedule that keeps every
source within one row of its share at every prefix; which row of that source follows from how many came before. The
whole state of a loader is therefore one integer, and ranks need not talk: each reads the samples that are its own.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch

    from curricle.tokens.shards import Supply

RESOLUTION = 10**6  # weights are read to six digits, so a schedule repeats after at most a million samples


class Schedule:
    """Which source gives sample `i`, and how many of its rows came before.

    The k-th row of a source with share w (k = 1, 2, …) may not come before sample ⌊(k−1)/w⌋ and must come before
    ⌈k/w⌉; taking the earliest deadline among those allowed always succeeds, and is within one row of every share at
    every prefix (proportionate fairness: Baruah, Cohen, Plaxton and Varvel, Algorithmica 15, 1996). Shares are
    rational, so the schedule is periodic: one period is worked out, the rest is arithmetic.
    """

    def __init__(self, weights: Mapping[str, float], samples: int):
        """`samples` is how far the schedule will be asked for; it bounds the work and changes nothing else."""
        shares = [Fraction(round(w * RESOLUTION), RESOLUTION) for w in weights.values()]
        total = sum(shares)
        shares = [s / total for s in shares]
        self.names = tuple(weights)
        self.period = math.lcm(*(s.denominator for s in shares))
        self._per_period = np.array([int(s * self.period) for s in shares], np.int64)
        length = min(self.period, samples)
        self._source = np.empty(length, np.int16)
        self._before = np.empty(length, np.int64)
        counts = np.zeros(len(shares), np.int64)
        # ⌊(k−1)/w⌋ and ⌈k/w⌉ for w = a/period, in whole numbers; a source of weight 0 is never due
        a = np.maximum(self._per_period, 1)
        never = np.iinfo(np.int64).max
        for i in range(length):
            due = np.where(counts * self.period // a <= i, -(-(counts + 1) * self.period // a), never)
            due[self._per_period == 0] = never
            chosen = int(np.argmin(due))
            self._source[i], self._before[i] = chosen, counts[chosen]
            counts[chosen] += 1

    def at(self, i: int) -> tuple[int, int]:
        """(index of the source, how many of its rows came before) for sample `i`."""
        periods, place = divmod(i, self.period)
        source = int(self._source[place])
        return source, int(periods * self._per_period[source] + self._before[place])

    def counts(self, samples: int) -> dict[str, int]:
        """Rows that each source gives among the first `samples`."""
        periods, rest = divmod(samples, self.period)
        tail = np.bincount(self._source[:rest], minlength=len(self.names))
        return dict(zip(self.names, (int(n) for n in periods * self._per_period + tail), strict=True))


@dataclass(frozen=True, slots=True)
class Batch:
    """B rows of T tokens. Letters: B rows, T tokens in a row."""

    tokens_BT: torch.Tensor
    labels_BT: torch.Tensor
    """The token to be predicted at each place; −100 where none is asked."""
    positions_BT: torch.Tensor
    """Restart at every document, which is what keeps documents apart in attention."""
    targets: int


class Sampler:
    """Rows of a stage. `skip` is how many rows of a source the strategy's earlier stages have read already: a stage
    goes on in the stream where the one before it stopped, so nothing repeats before its epoch is over."""

    def __init__(
        self,
        supplies: Mapping[str, Supply],
        weights: Mapping[str, float],
        *,
        row_tokens: int,
        samples: int,
        seed: int,
        delimiter: int,
        skip: Mapping[str, int] | None = None,
        answers_only: bool = False,
    ):
        self.schedule = Schedule(weights, samples)
        self.supplies = [supplies[name] for name in self.schedule.names]
        self.row_tokens, self.seed, self.delimiter, self.answers_only = row_tokens, seed, delimiter, answers_only
        self._skip = [(skip or {}).get(name, 0) for name in self.schedule.names]
        # Sources are permuted independently of each other, and alike in every stage: a key of its own for each.
        self._seeds = [_stable(seed, name) for name in self.schedule.names]

    def read(self, i: int) -> tuple[str, np.ndarray, np.ndarray, list[int]]:
        """(source, T+1 tokens, whether each carries loss, the documents touched) of sample `i`."""
        source, before = self.schedule.at(i)
        row = self.supplies[source].read(self._skip[source] + before, self.row_tokens, self._seeds[source])
        return self.schedule.names[source], *row

    def batch(self, start: int, stop: int) -> Batch:
        """Samples `start` to `stop` as tensors."""
        import torch

        T = self.row_tokens
        tokens_BS = np.empty((stop - start, T + 1), np.int64)
        loss_BS = np.empty((stop - start, T + 1), np.bool_)
        for b, i in enumerate(range(start, stop)):
            _, tokens_BS[b], loss_BS[b], _ = self.read(i)
        labels_BT = tokens_BS[:, 1:].copy()
        if self.answers_only:
            labels_BT[~loss_BS[:, 1:]] = -100
        return Batch(
            torch.from_numpy(tokens_BS[:, :-1].copy()),
            torch.from_numpy(labels_BT),
            torch.from_numpy(positions(tokens_BS[:, :-1], self.delimiter)),
            int((labels_BT != -100).sum()),
        )


def positions(tokens_BT: np.ndarray, delimiter: int) -> np.ndarray:
    """Positions within each document: 0 at a row's start and at every delimiter."""
    place_T = np.arange(tokens_BT.shape[1])
    begins_BT = np.where(tokens_BT == delimiter, place_T, 0)
    return place_T - np.maximum.accumulate(begins_BT, axis=1)


def _stable(seed: int, name: str) -> int:
    import hashlib

    return int.from_bytes(hashlib.sha256(f"{seed}:{name}".encode()).digest()[:8], "big")
