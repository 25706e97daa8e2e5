"""What a run leaves on the disk as it trains: a line for each step in `metrics.jsonl`, and its states.

It promises that the lines which led to a state are on the disk before it, and that states kept only for the case of a
kill take no more than a twentieth of the time.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from curricle.execution import Execution
from curricle.training.checkpoint import Saved, Saver
from curricle.training.distribution import Ranks
from curricle.training.metrics import FILE, lines_until

if TYPE_CHECKING:
    from transformers import PreTrainedModel

KEPT = ("step", "tokens", "loss_nats", "grad_norm", "lr", "tokens_per_second", "data_seconds")


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """What is known after a step. `evaluate` marks the points that were asked for; the last has `final`."""

    step: int
    tokens: int
    loss_nats: float
    grad_norm: float
    lr: float
    tokens_per_second: float
    evaluate: bool
    final: bool
    data_seconds: float = 0.0
    """Of the step's time: waiting for the batch. Saves are beside it, in lines of their own."""
    skipped: str | None = None
    """Why the step moved nothing."""


class Record:
    """Saving is no step's time: each method that saves gives the seconds that it took, and has written them in a line
    of their own. All ranks call these alike; the first alone writes lines, and says when a save is due."""

    def __init__(
        self,
        folder: Path,
        model: PreTrainedModel,
        optimizers: list[torch.optim.Optimizer],
        ranks: Ranks,
        how: Execution,
        *,
        step: int,
        batch_tokens: int,
    ):
        self._model, self._optimizers = model, optimizers
        self._step, self._batch_tokens = step, batch_tokens
        self._saver = Saver(folder / "checkpoints", ranks, keep=how.keep, ahead=bool(how.save_ahead))
        self._saved, self._saved_at = step, time.monotonic()
        self._at_least = self._save_every = how.save_seconds
        self._first = ranks.first
        self._metrics = _reopen(folder / FILE, step) if ranks.first else None

    def note(self, now: Step, flops_per_token: float | None, diverged: str | None) -> None:
        self._step = now.step
        row: dict[str, Any] = {name: getattr(now, name) for name in KEPT}
        row = {name: v if not isinstance(v, float) or math.isfinite(v) else None for name, v in row.items()}
        if flops_per_token is not None:
            row["flops_per_second"] = now.tokens_per_second * flops_per_token
        if now.skipped is not None:
            row["guard"] = now.skipped
        if diverged is not None:
            row["diverged"] = diverged
        self._write(row)

    def save_due(self) -> bool:
        # A save that began before the last was written would wait for it.
        return self._first and not self._saver.busy and time.monotonic() - self._saved_at > self._save_every

    def written(self) -> bool:
        """Whether this rank has a state on its way that is written by now."""
        return self._saver.written()

    def save(self, state: Saved) -> float:
        """Begin to keep a state, and no more than that where saves are written ahead; nothing where it is kept."""
        return self.timed(partial(self._save, state)) if state.step > self._saved else 0.0

    def finish(self) -> float:
        """Wait for the state that is on its way, if any, and make it count."""
        return self.timed(self._saver.finish) if self._saver.busy else 0.0

    def timed(self, act: Callable[[], None]) -> float:
        began = time.perf_counter()
        act()
        seconds = time.perf_counter() - began
        self._write({"step": self._step, "tokens": self._step * self._batch_tokens, "save_seconds": seconds})
        return seconds

    def close(self) -> None:
        self._saver.close()
        if self._metrics is not None:
            self._metrics.close()

    def _save(self, state: Saved) -> None:
        began = time.monotonic()
        if self._metrics is not None:
            os.fsync(self._metrics.fileno())  # a state that outlives a power cut must find the lines that led to it
        self._saver.save(self._model, self._optimizers, state)
        self._saved, self._saved_at = state.step, time.monotonic()
        # Saving may take a twentieth of the time; one slow save (a busy disk) says nothing about the ones after it.
        self._save_every = max(self._at_least, 20 * (self._saved_at - began))

    def _write(self, row: Mapping[str, Any]) -> None:
        if self._metrics is not None:
            self._metrics.write(json.dumps(row) + "\n")
            self._metrics.flush()


def _reopen(file: Path, step: int):
    """The metrics file, cut back to `step`: what lies after it will be written again."""
    if file.exists():
        os.truncate(file, sum(len(line) for line, _ in lines_until(file, step)))
    return open(file, "a", encoding="utf-8")
