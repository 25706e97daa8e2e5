"""Why is this run new? What two studies, or two runs, differ in, field by field; and of the runs that are there, which
is nearest to one that is not."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from curricle.planning import Plan
from curricle.study import Refused, nearest


@dataclass(frozen=True, slots=True)
class Difference:
    field: str
    theirs: object
    ours: object


def differences(ours: object, theirs: object, path: str = "") -> list[Difference]:
    """The fields in which two plain values differ, by path."""
    if isinstance(ours, Mapping) and isinstance(theirs, Mapping):
        found = []
        for key in dict.fromkeys([*ours, *theirs]):
            found += differences(ours.get(key), theirs.get(key), f"{path}.{key}" if path else str(key))
        return found
    return [] if ours == theirs else [Difference(path, theirs, ours)]


def why_new(plan: Plan, run: str, known: Mapping[str, Mapping[str, Any]]) -> tuple[str, list[Difference]] | None:
    """The run in `known` (run → identity) that is nearest to `run`, and the fields that differ; an ancestor's
    difference is followed down to the fields that made it. None where nothing of that stage was ever trained."""
    if run not in plan.nodes:
        raise Refused(f"{run}: not a run of this plan; {nearest(run, plan.nodes)}")
    node = plan.nodes[run]
    others = {name: identity for name, identity in known.items() if name.split("/")[0] == run.split("/")[0]}
    if not others:
        return None
    same_seed = {n: i for n, i in others.items() if i.get("seed") == node.seed} or others
    found = min(((n, differences(node.identity, i)) for n, i in same_seed.items()), key=lambda pair: len(pair[1]))
    if node.parent and any(d.field == "ancestor" for d in found[1]):
        earlier = why_new(plan, node.parent, known)
        if earlier:
            found[1].extend(Difference(f"{node.parent}: {d.field}", d.theirs, d.ours) for d in earlier[1])
    return found
