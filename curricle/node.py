"""One stage of a strategy with one seed: a run, named by everything that its weights depend on.

A state on its way has a name too, of what led to it and nothing that comes after.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from curricle.schedule import rates
from curricle.store import fingerprint
from curricle.study import Recipe
from curricle.supplied import Stretch, read_on


@dataclass(frozen=True, slots=True)
class Node:
    """A run: one stage, after its ancestors, for one seed."""

    run: str
    stage: str
    kind: str
    seed: int
    parent: str | None
    identity: Mapping[str, Any] = field(repr=False)
    recipe: Recipe = field(repr=False)
    context: int
    steps: int
    mixtures: tuple[tuple[int, Mapping[str, float]], ...]
    """The step at which it ends, and its weights, for each phase; one where there are no phases."""
    rows: Mapping[str, int]
    """Rows that each source gives to this stage."""
    skip: Mapping[str, tuple[Stretch, ...]]
    """Rows of each source that the ancestors have read, the first first."""
    evaluate_at: tuple[int, ...]
    """Steps; 0 is a checkpoint as it came."""
    init_from: str = "weights"
    branch_step: int | None = None
    """The parent's step at which this stage branches off, with everything; None where it begins from its end."""
    states: Mapping[int, str] = field(default_factory=dict, repr=False)
    """Steps after which the whole state is kept (ends of phases, branches), each with the state's fingerprint: runs
    whose first steps are the same share them."""
    needed: frozenset[int] = frozenset()
    """Those of them that another stage of the plan begins from."""
    whole: tuple[str, ...] = ()
    """Sources of which every conversation lies whole in a row."""
    strategies: tuple[str, ...] = ()

    @property
    def tokens(self) -> int:
        return self.steps * self.recipe.batch_tokens

    @property
    def fingerprint(self) -> str:
        return self.run.rsplit("/", 1)[1]

    def tokens_at(self, step: int) -> int:
        return step * self.recipe.batch_tokens

    @property
    def rows_per_step(self) -> int:
        return self.recipe.batch_tokens // self.context

    @property
    def sources(self) -> tuple[str, ...]:
        return tuple(self.rows)

    def read(self, source: str) -> tuple[Stretch, ...]:
        """Rows of a source that have been read by the end of the stage, earlier stages included."""
        return read_on(self.skip.get(source, ()), self.rows.get(source, 0), source in self.whole)

    @property
    def turns(self) -> tuple[tuple[int, Mapping[str, float]], ...]:
        """The mixtures with their ends in samples, as the sampler takes them."""
        return tuple((step * self.rows_per_step, weights) for step, weights in self.mixtures)


def averaged_steps(recipe: Recipe, steps: int) -> list[int]:
    """The steps whose weights are averaged: the end, and those before it at equal distances; none without averaging."""
    if recipe.average is None:
        return []
    apart = max(1, round(recipe.average.every_tokens / recipe.batch_tokens))
    return [s for s in range(steps - (recipe.average.last - 1) * apart, steps + 1, apart) if s > 0]


def average_fault(stage: str, recipe: Recipe, steps: int) -> str | None:
    """What is wrong where a stage is too short for the states that it should average; None where it is long enough."""
    there = len(averaged_steps(recipe, steps))
    if recipe.average is None or there == recipe.average.last:
        return None
    return (
        f"stages.{stage}.recipe.average: {recipe.average.last} states every {recipe.average.every_tokens:,} tokens "
        f"reach back past the beginning of a stage of {steps * recipe.batch_tokens:,} tokens, in which there are "
        f"{there}; lower last or every_tokens, or raise the budget"
    )


def state_after(node: Node, step: int) -> str:
    """The fingerprint of everything (weights, optimizer) after `step` steps of a run. It covers what happened until
    then and nothing later: two runs that differ only in what comes after have it in common."""
    mixtures = [(min(end, step), weights) for end, weights in node.mixtures]
    begun = [(end, weights) for (end, weights), (before, _) in zip(mixtures, ((0, {}), *mixtures)) if before < step]
    read = {source for _, weights in begun for source in weights}
    rate = {"learning_rate", "schedule", "warmup_share", "warmup_tokens", "decay_share", "average"}
    recipe = node.identity["recipe"]
    return fingerprint(
        {
            **{k: node.identity[k] for k in ("training_version", "ancestor", "init_from", "model", "tokenizer")},
            **{k: node.identity[k] for k in ("context", "kind", "seed")},
            "mixtures": [[end, dict(weights)] for end, weights in begun],
            "data": {source: node.identity["data"][source] for source in read},
            "recipe": {k: v for k, v in recipe.items() if k not in rate},
            "rates": rates(node.recipe, node.steps, step),
        }
    )
