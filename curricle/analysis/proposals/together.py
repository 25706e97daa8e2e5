"""What a budget buys, as one change of the study: proposals taken together, as long as all of it stays in the budget.

Each proposal is priced by itself, and together they cost more: new strategies are trained with the new seeds, too. So
they are added one by one, in their order, and the whole study is counted each time.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from curricle.analysis.proposals.own_study import Own, Runs, Sets, cost
from curricle.study import Refused

SEEDS = ("seeds",)


@dataclass(frozen=True, slots=True)
class Together:
    """Fields to set, as `--set` takes them, the tokens that they add, and which proposals (by place) are in them."""

    sets: tuple[str, ...] = ()
    tokens: float = 0.0
    taken: tuple[int, ...] = ()


def together(own: Own, proposals: Sequence[Runs], tokens: float) -> Together:
    """The proposals that are changes of the study, each where it still fits in `tokens` beside those before it. Seeds
    are added up; a proposal that would set another field a second time, otherwise, is left out."""
    made: Sets = {}
    spent, taken = 0.0, list[int]()
    for place, runs in enumerate(proposals):
        asked = {tuple(text.partition("=")[0].split(".")): json.loads(text.partition("=")[2]) for text in runs.sets}
        tried = joined(made, asked) if asked else None
        if tried is None:
            continue
        try:
            adds = cost(own.changed(tried)) - cost(own.study)
        except Refused:
            continue
        if adds <= tokens:
            made, spent = tried, adds
            taken.append(place)
    return Together(tuple(f"{'.'.join(path)}={json.dumps(value, ensure_ascii=False)}" for path, value in made.items()),
                    spent, tuple(taken))  # fmt: skip


def joined(made: Sets, asked: Sets) -> Sets | None:
    """Both changes in one; None where they set one field to two values."""
    both: dict[tuple[str, ...], Any] = {**made}
    for path, value in asked.items():
        if path == SEEDS:
            both[path] = sorted({*both.get(path, ()), *value})
        elif both.setdefault(path, value) != value:
            return None
    return both
