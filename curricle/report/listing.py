"""What the store and a study's progress look like in a terminal: the views of `status`, `list`, `diff` and `clean`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from curricle.planning import Difference, Plan
from curricle.report import words
from curricle.report.terminal import add_row, plain_table

SHOWN = 40  # runs that are listed one by one


def status_view(plan: Plan, reached: Mapping[str, int], done: frozenset[str]) -> RenderableType:
    """One line for each run: done, under way with its share, or waiting."""
    table = plain_table("run", "stage", "seed", "tokens", "state")
    for run, node in plan.nodes.items():
        tokens = reached[run]
        if run in done:
            state = "✓ done"
        elif tokens >= node.tokens:
            state = "trained, to be evaluated"
        elif tokens:
            state = f"{words.percent(tokens / node.tokens)} of {words.count(node.tokens)}"
        else:
            state = "waiting" if node.parent is None or node.parent in done else "waits for its parent"
        add_row(table, run, node.stage, str(node.seed), words.count(node.tokens), state)
    return Group(table, Text(f"\n{len(done)} of {words.plural(len(plan.nodes), 'run')} done"))


def list_view(shipped: Mapping[str, str], runs: Sequence[Mapping[str, Any]], store: Path) -> RenderableType:
    studies = plain_table("study", "question")
    for name, question in shipped.items():
        add_row(studies, name, question)
    if not runs:
        return Group(studies, Text(f"\nno runs in {store}"))
    table = plain_table("run", "seed", "tokens", "state", "studies")
    for run in runs[:SHOWN]:
        state = "complete" if run["complete"] else "begun"
        studies_of = ", ".join(run["studies"]) or "none"
        add_row(table, run["run"], str(run["seed"]), words.count(run["tokens"]), state, studies_of)
    more = f"\n… and {len(runs) - SHOWN} more" if len(runs) > SHOWN else ""
    return Group(studies, Text(f"\n{words.plural(len(runs), 'run')} in {store}"), table, Text(more))


def diff_view(one: str, other: str, found: Sequence[Difference]) -> RenderableType:
    if not found:
        return Text(f"{one} and {other} are the same")
    table = plain_table("field", one, other)
    for difference in found:
        add_row(table, difference.field, _value(difference.theirs), _value(difference.ours))
    return table


def clean_view(unused: Mapping[str, int], removed: bool) -> RenderableType:
    if not unused:
        return Text("nothing to clean: every study that refers to this store needs all of it")
    table = plain_table("not referred to by any study", "size")
    for name, size in unused.items():
        add_row(table, name, words.size(size))
    total = words.size(sum(unused.values()))
    said = f"\nremoved: {total}" if removed else f"\n{total} in all; curricle clean --remove removes it"
    return Group(table, Text(said))


def _value(value: object) -> str:
    return "–" if value is None else str(value)
