"""Which steps move the weights: one whose loss or gradient is not a number, or far above what was usual, does not.

The rule reads what was seen so far and nothing else, so a resumed run decides as an uninterrupted one; its whole
memory goes into the checkpoint. A spike of one bad batch is stepped over; a run that keeps spiking stops.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from typing import Any

WINDOW = 128  # accepted steps that say what is usual
SETTLED = 32  # fewer say nothing yet


class Guard:
    def __init__(self, sigma: float, memory: Mapping[str, Any] | None = None):
        self.sigma = sigma
        memory = memory or {}
        self.losses: deque[float] = deque(memory.get("losses", ()), WINDOW)
        self.norms: deque[float] = deque(memory.get("norms", ()), WINDOW)
        self.skipped: int = memory.get("skipped", 0)

    def objection(self, loss: float, norm: float) -> str | None:
        """Why this step must not move the weights; None where it may."""
        for name, value, usual in (("loss", loss, self.losses), ("gradient norm", norm, self.norms)):
            if not math.isfinite(value):
                return f"{name} {value}"
            if len(usual) >= SETTLED:
                mean = math.fsum(usual) / len(usual)
                deviation = math.sqrt(math.fsum((u - mean) ** 2 for u in usual) / len(usual))
                if value > mean + self.sigma * deviation + 1e-12:
                    far = (value - mean) / deviation if deviation else math.inf
                    return f"{name} {value:.4g} is {far:.1f} sigma above its last {len(usual)}"
        return None

    def accept(self, loss: float, norm: float) -> None:
        self.losses.append(loss)
        self.norms.append(norm)

    def memory(self) -> dict[str, Any]:
        return {"losses": list(self.losses), "norms": list(self.norms), "skipped": self.skipped}
