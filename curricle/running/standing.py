"""Where a plan stands in a store: which runs are done, which have diverged, and so what is left.

To look walks the whole store, so it is done once, where a plan is prepared, and what was seen is handed on; again only
after what can have changed it. Where machines share a remote store only, that is the one that is looked at.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from curricle.node import Node
from curricle.planning import Plan
from curricle.remote import Remote
from curricle.running import transfer
from curricle.running.adoption import state_folder
from curricle.running.preparation import Prepared
from curricle.running.work import evaluation_files, is_done
from curricle.store import Store, is_complete
from curricle.training import metrics
from curricle.training.guard import DIVERGED


@dataclass(frozen=True, slots=True)
class Standing:
    plan: Plan
    finished: frozenset[str] = frozenset()
    """The runs of which nothing is left to do."""
    diverged: Mapping[str, str] = field(default_factory=dict)
    """Those that have diverged, each with that word and what it said. They have ended as they are: they would only do
    so again."""
    branched: frozenset[str] = frozenset()
    """The branches that need their parent no more."""

    @classmethod
    def seen(cls, plan: Plan, prepared: Prepared, remote: Remote | None = None) -> Standing:
        """As the store has it now, or the `remote` one: then the rows of what is not done come here, for they say what
        has diverged."""
        if remote is None:
            finished = frozenset(run for run, node in plan.nodes.items() if is_done(prepared, node))
        else:
            finished = frozenset(run for run, node in plan.nodes.items() if transfer.done(remote, prepared, node))
            for run in plan.nodes.keys() - finished:
                transfer.pull_rows(remote, prepared, run)
        return cls(plan, finished, diverged(plan, prepared), branched(plan, prepared, remote))

    @property
    def left(self) -> list[Node]:
        """The runs that are still to be done."""
        return [
            node
            for run, node in self.plan.nodes.items()
            if run not in self.finished | self.diverged.keys()
            and ancestor(self.plan, node, self.diverged, self.branched) is None
        ]

    @property
    def left_out(self) -> frozenset[str]:
        """The runs that are not done and will not be: those that have diverged, and what begins from them."""
        return frozenset(self.plan.nodes) - self.finished - {node.run for node in self.left}


def diverged(plan: Plan, prepared: Prepared) -> dict[str, str]:
    """Only what has diverged, for whoever needs no more."""
    found = {run: metrics.diverged(prepared.store.run_folder(run)) for run in plan.nodes}
    return {run: f"{DIVERGED}: {said}" for run, said in found.items() if said is not None}


def branched(plan: Plan, prepared: Prepared, remote: Remote | None = None) -> frozenset[str]:
    """The branches whose state is kept, or which are scored: whatever becomes of their parent after that, they are
    trained to the same weights."""
    found = set()
    for run, node in plan.nodes.items():
        if node.parent is None or node.branch_step is None:
            continue
        state = state_folder(prepared.store.run_folder(node.parent), node.branch_step)
        stands = is_complete(state) if remote is None else transfer.complete(remote, prepared, state)
        if stands or all(file.exists() for file in evaluation_files(prepared, node)):
            found.add(run)
    return frozenset(found)


def saved(store: Store, run: str, remote: Remote | None = None) -> tuple[int, ...]:
    """How much of a run's work is not lost when it is left: the step of its newest state, and of the newest of those
    steps that are taken once more, and the number of its evaluations."""
    if remote is not None:
        return transfer.saved(remote, run)
    folder = store.run_folder(run)
    parts = [(folder / part).glob("step-*") for part in (transfer.STATES, transfer.STATES_AGAIN)]
    newest = [transfer.newest(state.name for state in part if is_complete(state)) for part in parts]
    return *newest, len([*(folder / "evaluations").glob("[!.]*")])


def ancestor(plan: Plan, node: Node, runs: Collection[str], branched: Collection[str] = ()) -> str | None:
    """The nearest of these runs that a run follows, and that it needs to its end: not what is behind a branch that has
    `branched`."""
    while node.parent is not None and node.run not in branched:
        if node.parent in runs:
            return node.parent
        node = plan.nodes[node.parent]
    return None
