"""What each stage made the model forget, and what it taught: held-out bits per byte on every source, stage by stage.

A positive change is forgetting (more bits are needed than before the stage), a negative one is learning.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from curricle.analysis.finding import BITS_PER_BYTE, Finding, Part
from curricle.analysis.gain import before_stage, measured
from curricle.analysis.rows.compare import difference, holm_adjusted, level, lower_is_better, one_benchmark
from curricle.analysis.rows.scores import Benchmark, StageRuns, StrategyRuns, strategies

if TYPE_CHECKING:
    from curricle.results import Results

SIGN = "Positive: forgotten; negative: learnt."


def forgetting(results: Results, benchmark: str | None = None) -> list[Finding]:
    """For each source, strategy and stage: bits per byte at the stage's end (question `held-out`), and the change
    since the stage before or, for the first stage, the model before training (`forgetting`), Holm-adjusted over the
    stages of a source. Where a stage was scored on its way, also the level there (`held-out-curve`), so that what a
    gain on the target costs elsewhere is seen while it happens. A level's part `trained_tokens` counts from the
    strategy's beginning."""
    levels: list[Finding] = []
    changes: list[Finding] = []
    for read, measure in measured(results, benchmark, BITS_PER_BYTE, kind="held-out"):
        for strategy in strategies(results):
            trained: int | None = 0  # None from where nobody says how long a stage was
            way: list[Finding] = []
            for stage in strategy.stages:
                before, trained = trained, added(trained, stage.budget_tokens)
                way += on_the_way(read, strategy, stage, before)
                after, start = read.final(stage, measure), before_stage(read, strategy, stage, measure)
                if after is None:
                    continue
                parts: dict[str, Part] = {"strategy": strategy.name, "stage": stage.name, "position": stage.position}
                where = f"{stage.name} in {strategy.name}"
                levels.append(level("held-out", f"after {where}", after, {**parts, "trained_tokens": trained}))
                if start:
                    change = difference("forgetting", where, after, start[1], {**parts, "since": start[0]})
                    changes += (
                        [replace(change, note=change.note.replace(lower_is_better(measure), SIGN))] if change else []
                    )
            levels += way if any(f.parts["tokens"] for f in way) else []  # the beginning alone is no curve
    return levels + holm_adjusted(changes, one_benchmark)


def on_the_way(read: Benchmark, strategy: StrategyRuns, stage: StageRuns, before: int | None) -> list[Finding]:
    """The levels before the stage's end; of a first stage, also the model before any training. `before` are the tokens
    of the stages before it."""
    parts: dict[str, Part] = {"strategy": strategy.name, "stage": stage.name, "position": stage.position}
    found: list[Finding] = []
    untrained = read.untrained(stage, BITS_PER_BYTE) if stage.position == 0 else None
    if untrained:
        about = {**parts, "tokens": 0, "trained_tokens": 0}
        found.append(level("held-out-curve", f"before {strategy.name}", untrained, about))
    for tokens in read.tokens(stage) if stage.budget_tokens is not None else []:
        scores = read.at(stage, tokens, BITS_PER_BYTE) if tokens < (stage.budget_tokens or 0) else None
        if scores:
            about = {**parts, "tokens": tokens, "trained_tokens": added(before, tokens)}
            subject = f"after {tokens:,} tokens of {stage.name} in {strategy.name}"
            found.append(level("held-out-curve", subject, scores, about))
    return found


def added(before: int | None, tokens: int | None) -> int | None:
    return None if before is None or tokens is None else before + tokens
