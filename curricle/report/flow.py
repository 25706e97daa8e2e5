"""The plan as a drawing needs it: strategies laid out as rows, stages as boxes in columns, what is shared only once.

A pure function of the plan, read by the terminal and by the page. Columns count from the end, so that the last stages
of all strategies stand under each other; strategies that share a beginning stand in adjacent rows.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from curricle.planning import Plan


@dataclass(frozen=True, slots=True)
class Box:
    """One stage as it stands in one or more strategies, over all seeds."""

    stage: str
    kind: str
    tokens: int
    column: int
    row: int
    parent: int | None
    """Index of the box before it."""
    strategies: tuple[str, ...]
    position: int
    """Its place in those strategies; 0 is the first."""
    runs: tuple[str, ...]
    """One for each seed."""
    branch_tokens: int | None = None
    """Where in the box before it branches off, if not at its end."""
    phases: int = 1

    def done(self, finished: Collection[str]) -> int:
        """How many of its runs are complete."""
        return sum(run in finished for run in self.runs)


@dataclass(frozen=True, slots=True)
class End:
    """Where a strategy ends."""

    strategy: str
    baseline: bool
    row: int
    box: int


@dataclass(frozen=True, slots=True)
class Flow:
    boxes: tuple[Box, ...]
    ends: tuple[End, ...]
    """In the order of their rows."""

    @property
    def columns(self) -> int:
        return max((box.column for box in self.boxes), default=-1) + 1

    def column_names(self) -> list[list[str]]:
        """The stages that stand in each column: `[["code", "language"], ["math"], ["instruct"]]`."""
        names: list[dict[str, None]] = [{} for _ in range(self.columns)]
        for box in self.boxes:
            names[box.column][box.stage] = None
        return [list(stages) for stages in names]

    def children(self, index: int) -> list[Box]:
        return [box for box in self.boxes if box.parent == index]


def flow(plan: Plan) -> Flow:
    """The layout of a plan's tree; the seeds have the same tree, so that of the first is drawn."""
    seeds = plan.study.seeds
    paths = {arm: plan.paths[arm, seeds[0]] for arm in plan.arms}
    seen = {run: i for i, run in enumerate(dict.fromkeys(run for path in paths.values() for run in path))}
    rows = sorted(paths, key=lambda strategy: [seen[run] for run in paths[strategy]])
    heights = dict.fromkeys(seen, 0)
    for path in paths.values():
        for position, run in enumerate(path):
            heights[run] = max(heights[run], len(path) - 1 - position)
    last = max(heights.values(), default=0)
    boxes: list[Box] = []
    index: dict[str, int] = {}
    for row, strategy in enumerate(rows):
        for position, run in enumerate(paths[strategy]):
            if run in index:
                continue
            node = plan.nodes[run]
            index[run] = len(boxes)
            parent = index[node.parent] if node.parent else None
            runs = tuple(plan.paths[strategy, seed][position] for seed in seeds)
            column = last - heights[run]
            left = plan.branch_tokens(node)
            boxes.append(
                Box(
                    node.stage, node.kind, node.tokens, column, row, parent, node.strategies, position, runs, left,
                    phases=len(node.mixtures),
                )
            )  # fmt: skip
    ends = [End(s, plan.arms[s] == plan.study.baseline, row, index[paths[s][-1]]) for row, s in enumerate(rows)]
    return Flow(tuple(boxes), tuple(ends))
