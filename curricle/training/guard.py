"""Which steps move the weights: one whose loss or gradient is not a number, or far above what was usual, does not.

The rule reads what was seen so far and nothing else, so a resumed run decides as an uninterrupted one; its whole
memory goes into the checkpoint. A spike of one bad batch is stepped over; a run that keeps spiking stops. What was
skipped still counts as seen, so text that is simply harder (a new phase, a rare source) is learnt from once it recurs;
but no value counts for more than a few times what would be objected to, so one spike does not blind what comes after.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Collection, Mapping
from typing import Any

WINDOW = 128  # steps that say what is usual
SETTLED = 32  # fewer say nothing yet
DIVERGED = "diverged"  # what a run is called, everywhere, that the guard has ended
REMEMBERED = 4  # times the distance at which a step is objected to: the farthest that a value is remembered as


class Guard:
    def __init__(self, sigma: float, memory: Mapping[str, Any] | None = None):
        self.sigma = sigma
        memory = memory or {}
        self.losses: deque[float] = deque(memory.get("losses", ()), WINDOW)
        self.norms: deque[float] = deque(memory.get("norms", ()), WINDOW)
        self.skipped: deque[bool] = deque(memory.get("skipped", ()), WINDOW)

    def objection(self, loss: float, norm: float) -> str | None:
        """Why this step must not move the weights; None where it may."""
        for name, value, usual in (("loss", loss, self.losses), ("gradient norm", norm, self.norms)):
            if not math.isfinite(value):
                return f"{name} {value}"
            if len(usual) >= SETTLED:
                mean, deviation = _spread(usual)
                if value > mean + self.sigma * deviation + 1e-12:
                    far = (value - mean) / deviation if deviation else math.inf
                    return f"{name} {value:.4g} is {far:.1f} sigma above its last {len(usual)}"
        return None

    def see(self, loss: float, norm: float, *, skipped: bool) -> None:
        """Remember a step, moved or skipped."""
        self.skipped.append(skipped)
        if math.isfinite(loss) and math.isfinite(norm):
            for value, usual in ((loss, self.losses), (norm, self.norms)):
                if len(usual) >= SETTLED:
                    mean, deviation = _spread(usual)
                    value = min(value, mean + REMEMBERED * self.sigma * max(deviation, 1e-3 * abs(mean)))
                usual.append(value)

    def new_text(self) -> None:
        """Another mixture begins: what was usual says nothing about it."""
        self.losses.clear()
        self.norms.clear()

    def memory(self) -> dict[str, Any]:
        return {"losses": list(self.losses), "norms": list(self.norms), "skipped": list(self.skipped)}


def _spread(usual: Collection[float]) -> tuple[float, float]:
    mean = math.fsum(usual) / len(usual)
    return mean, math.sqrt(math.fsum((u - mean) ** 2 for u in usual) / len(usual))
