"""The stateless mixture sampler: sample `i` is a pure function of (seed, mixture, i).

A sample is one row of T tokens from one source: a piece of its text, which runs on from row to row (`Supply`), or whole
conversations (`WholeRows`). Which source comes next is decided by turns (`curricle.turns`) that
keep every source within one row of its share at every prefix; which row of that source follows from how many came
before. The whole state of a loader is therefore one integer, and ranks need not talk: each reads the samples that are
its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from curricle.turns import PhasedTurns

if TYPE_CHECKING:
    import torch

    from curricle.tokens.packing import WholeRows
    from curricle.tokens.shards import Supply


@dataclass(frozen=True, slots=True)
class Batch:
    """B rows of T tokens. Letters: B rows, T tokens in a row."""

    tokens_BT: torch.Tensor
    labels_BT: torch.Tensor
    """The token to be predicted at each place; −100 where none is asked."""
    positions_BT: torch.Tensor
    """Restart at every document, which is what keeps documents apart in attention."""
    targets: int

    def to(self, device: torch.device) -> Batch:
        if device.type == "cpu":
            return self
        parts = (self.tokens_BT, self.labels_BT, self.positions_BT)
        tokens_BT, labels_BT, positions_BT = (part.pin_memory().to(device, non_blocking=True) for part in parts)
        return Batch(tokens_BT, labels_BT, positions_BT, self.targets)


class Sampler:
    """Rows of a stage. `skip` is how many rows of a source the strategy's earlier stages have read already: a stage
    goes on in the stream where the one before it stopped, so nothing repeats before its epoch is over. `phases` holds,
    for each mixture of the stage, the sample at which it ends and its weights."""

    def __init__(
        self,
        supplies: Mapping[str, Supply | WholeRows],
        phases: Sequence[tuple[int, Mapping[str, float]]],
        *,
        row_tokens: int,
        seed: int,
        skip: Mapping[str, int] | None = None,
        answers_only: bool = False,
    ):
        self.turns = PhasedTurns(phases)
        self.supplies = [supplies[name] for name in self.turns.names]
        self.row_tokens, self.seed, self.answers_only = row_tokens, seed, answers_only
        self._skip = [(skip or {}).get(name, 0) for name in self.turns.names]
        # Sources are permuted independently of each other, and alike in every stage: a key of its own for each.
        self._seeds = [seed_of(seed, name) for name in self.turns.names]

    def read(self, i: int) -> tuple[str, np.ndarray, np.ndarray, list[int]]:
        """(source, T+1 tokens, whether each carries loss, the documents touched) of sample `i`."""
        source, *place = self._place(i)
        return self.turns.names[source], *self.supplies[source].read(*place)

    def openings(self, i: int) -> np.ndarray:
        """Whether each token of sample `i` opens a document."""
        source, *place = self._place(i)
        return self.supplies[source].openings(*place)

    def _place(self, i: int) -> tuple[int, int, int, int]:
        """Where sample `i` lies: its source, and the row there, its length and the seed."""
        source, before = self.turns.at(i)
        return source, self._skip[source] + before, self.row_tokens, self._seeds[source]

    def batch(self, start: int, stop: int) -> Batch:
        """Samples `start` to `stop` as tensors."""
        import torch

        T = self.row_tokens
        tokens_BS = np.empty((stop - start, T + 1), np.int64)
        loss_BS, opens_BS = np.empty((2, stop - start, T + 1), np.bool_)
        for b, i in enumerate(range(start, stop)):
            _, tokens_BS[b], loss_BS[b], _ = self.read(i)
            opens_BS[b] = self.openings(i)
        labels_BT = tokens_BS[:, 1:].copy()
        if self.answers_only:
            labels_BT[~loss_BS[:, 1:]] = -100
        return Batch(
            torch.from_numpy(tokens_BS[:, :-1].copy()),
            torch.from_numpy(labels_BT),
            torch.from_numpy(positions(opens_BS[:, :-1])),
            int((labels_BT != -100).sum()),
        )


def positions(opens_BT: np.ndarray) -> np.ndarray:
    """Positions within each document: 0 at a row's start and at every token that opens a document."""
    place_T = np.arange(opens_BT.shape[1])
    return place_T - np.maximum.accumulate(np.where(opens_BT, place_T, 0), axis=1)


def seed_of(seed: int, name: str) -> int:
    """The seed of a source's order."""
    import hashlib

    return int.from_bytes(hashlib.sha256(f"{seed}:{name}".encode()).digest()[:8], "big")
