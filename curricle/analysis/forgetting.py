"""What each stage made the model forget, and what it taught: held-out bits per byte on every source, stage by stage.

A positive change is forgetting (more bits are needed than before the stage), a negative one is learning.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from curricle.analysis.compare import LOWER_IS_BETTER, difference, holm_adjusted, level, one_benchmark
from curricle.analysis.finding import BITS_PER_BYTE, Finding, Part
from curricle.analysis.gain import before_stage, measured
from curricle.analysis.scores import strategies

if TYPE_CHECKING:
    from curricle.results import Results

SIGN = "Positive: forgotten; negative: learnt."


def forgetting(results: Results, benchmark: str | None = None) -> list[Finding]:
    """For each source, strategy and stage: bits per byte at the stage's end (question `held-out`), and the change
    since the stage before or, for the first stage, the model before training (`forgetting`), Holm-adjusted over the
    stages of a source."""
    levels: list[Finding] = []
    changes: list[Finding] = []
    for read, measure in measured(results, benchmark, BITS_PER_BYTE, kind="held-out"):
        for strategy in strategies(results):
            for stage in strategy.stages:
                after, start = read.final(stage, measure), before_stage(read, strategy, stage, measure)
                if after is None:
                    continue
                parts: dict[str, Part] = {"strategy": strategy.name, "stage": stage.name, "position": stage.position}
                where = f"{stage.name} in {strategy.name}"
                levels.append(level("held-out", f"after {where}", after, parts))
                if start:
                    change = difference("forgetting", where, after, start[1], {**parts, "since": start[0]})
                    changes += [replace(change, note=change.note.replace(LOWER_IS_BETTER, SIGN))] if change else []
    return levels + holm_adjusted(changes, one_benchmark)
