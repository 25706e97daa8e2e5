"""A study and a catalogue compiled: a tree of stages, each named by its content, with a ledger and a cost.

A plan is a pure function of the two: nothing is read, timed or downloaded here. Stages that strategies share stand
once. What would waste a run is refused here: a source that would get no sample, more epochs than allowed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from curricle.shapes import Shape
from curricle.store import canonical, fingerprint
from curricle.study import Recipe, Refused, Study, nearest
from curricle.turns import Turns

TRAINING_VERSION = 1  # raised by hand when the same identity would train to other weights

# Dense bf16 peaks from NVIDIA's H100 and H200 (SXM) data sheets; hours are given at this share of them.
ACCELERATORS = {"H100": 989.4e12, "H200": 989.4e12}
STATED_MFU = 0.40


@dataclass(frozen=True, slots=True)
class Supplied:
    """What the catalogue knows of a source."""

    fingerprint: str
    tokens: int | None
    """None for an endless source."""
    documents: int = 0
    bytes: int = 0
    declared: bool = False


@dataclass(frozen=True, slots=True)
class Catalogue:
    """All that a plan depends on beside the study."""

    sources: Mapping[str, Supplied]
    shape: Shape
    vocabulary: int
    tokenizer: str
    """Fingerprint of the tokenizer that is used."""
    model: str | None = None
    """Fingerprint of the checkpoint; None for fresh weights."""
    decoded_tokens: int = 0
    """Tokens generated at one evaluation point, at most."""
    scored_tokens: int = 0
    """Tokens whose likelihood is taken at one evaluation point, prompts included."""


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
    mixture: Mapping[str, float]
    rows: Mapping[str, int]
    """Rows that each source gives to this stage."""
    skip: Mapping[str, int]
    """Rows of each source that the ancestors have read."""
    evaluate_at: tuple[int, ...]
    """Steps; 0 is a checkpoint as it came."""
    strategies: tuple[str, ...]

    @property
    def tokens(self) -> int:
        return self.steps * self.recipe.batch_tokens

    @property
    def fingerprint(self) -> str:
        return self.run.rsplit("/", 1)[1]

    def tokens_at(self, step: int) -> int:
        return step * self.recipe.batch_tokens


@dataclass(frozen=True, slots=True)
class Share:
    """A line of the ledger: what one source gives to one stage."""

    stage: str
    source: str
    share: float
    tokens: int
    available: int | None
    epochs: float
    """Passes over the source by the end of this stage, those of earlier stages counted; the most among strategies."""
    declared: bool


@dataclass(frozen=True, slots=True)
class Plan:
    study: Study
    catalogue: Catalogue
    nodes: Mapping[str, Node]
    """By run, ancestors before descendants."""
    paths: Mapping[tuple[str, int], tuple[str, ...]]
    """(strategy, seed) → its runs, in order."""

    @property
    def parameters(self) -> int:
        return self.catalogue.shape.parameters(self.catalogue.vocabulary)

    @property
    def tokens(self) -> int:
        """Tokens to train on, shared stages counted once."""
        return sum(node.tokens for node in self.nodes.values())

    def training_flops(self, node: Node) -> float:
        return node.tokens * self.catalogue.shape.training_flops_per_token(self.catalogue.vocabulary, node.context)

    def evaluation_flops(self, node: Node) -> float:
        seen = self.catalogue.decoded_tokens + self.catalogue.scored_tokens
        per_token = self.catalogue.shape.forward_flops_per_token(self.catalogue.vocabulary, node.context)
        return len(node.evaluate_at) * seen * per_token

    @property
    def flops(self) -> float:
        return sum(self.training_flops(n) + self.evaluation_flops(n) for n in self.nodes.values())

    def accelerator_hours(self, name: str) -> float:
        """Hours on one accelerator at `STATED_MFU` of its peak."""
        return self.flops / (ACCELERATORS[name] * STATED_MFU) / 3600

    def declared(self) -> list[str]:
        """Sources that are only described, which make the study one that can be planned and not run."""
        return [name for name, source in self.catalogue.sources.items() if source.declared]

    def ledger(self) -> list[Share]:
        """One line for each source of each stage."""
        lines: dict[tuple[str, str], Share] = {}
        for node in self.nodes.values():
            for source, rows in node.rows.items():
                supplied = self.catalogue.sources[source]
                epoch = rows_in_epoch(supplied, node.context)
                epochs = (node.skip.get(source, 0) + rows) / epoch if epoch else 0.0
                key = (node.stage, source)
                if key not in lines or epochs > lines[key].epochs:
                    tokens = rows * node.context
                    lines[key] = Share(*key, tokens / node.tokens, tokens, supplied.tokens, epochs, supplied.declared)
        return list(lines.values())

    def to_json(self, done: Iterable[str] = ()) -> dict[str, Any]:
        """Plain values: for `--json` and for whoever wants to schedule the runs."""
        finished = set(done)
        return {
            "study": self.study.name,
            "question": self.study.question,
            "parameters": self.parameters,
            "tokens": self.tokens,
            "training_flops": sum(map(self.training_flops, self.nodes.values())),
            "evaluation_flops": sum(map(self.evaluation_flops, self.nodes.values())),
            "accelerator_hours": {name: self.accelerator_hours(name) for name in ACCELERATORS},
            "stated_mfu": STATED_MFU,
            "declared_sources": self.declared(),
            "runs": [
                {
                    "run": n.run,
                    "stage": n.stage,
                    "kind": n.kind,
                    "seed": n.seed,
                    "parent": n.parent,
                    "tokens": n.tokens,
                    "steps": n.steps,
                    "evaluate_at_tokens": [n.tokens_at(s) for s in n.evaluate_at],
                    "training_flops": self.training_flops(n),
                    "strategies": list(n.strategies),
                    "done": n.run in finished,
                }
                for n in self.nodes.values()
            ],
            "ledger": [{name: getattr(line, name) for name in Share.__slots__} for line in self.ledger()],
        }


def rows_in_epoch(source: Supplied, context: int) -> int | None:
    """Whole rows of `context` tokens in one pass; None for an endless source. The last token is a target only."""
    return None if source.tokens is None else max(0, (source.tokens - 1) // context)


def compile_plan(study: Study, catalogue: Catalogue) -> Plan:
    """The tree of stages. Raises `Refused` with every fault it finds, one a line."""
    faults: list[str] = []
    nodes: dict[str, Node] = {}
    paths: dict[tuple[str, int], tuple[str, ...]] = {}
    for seed in study.seeds:
        for strategy, stages in study.strategies.items():
            parent: Node | None = None
            path: list[str] = []
            for name in stages:
                node = _node(study, catalogue, name, seed, parent, faults)
                known = nodes.get(node.run, node)
                passing = tuple(dict.fromkeys([*known.strategies, strategy]))
                parent = nodes[node.run] = replace(node, strategies=passing)
                path.append(node.run)
            paths[strategy, seed] = tuple(path)
    if faults:
        raise Refused("\n".join(f"{study.path or study.name}: {fault}" for fault in dict.fromkeys(faults)))
    return Plan(study, catalogue, nodes, paths)


def _node(study: Study, catalogue: Catalogue, name: str, seed: int, parent: Node | None, faults: list[str]) -> Node:
    """One run; what is wrong with it is added to `faults`."""
    stage, recipe, context = study.stages[name], study.recipe_of(name), study.model.context
    steps = max(1, round(stage.budget_tokens / recipe.batch_tokens))
    samples = steps * recipe.batch_tokens // context
    mixture = {source: weight for source, weight in stage.mixture.items() if weight > 0}
    rows = Turns(mixture, samples).counts(samples)
    skip = {s: parent.skip.get(s, 0) + parent.rows.get(s, 0) for s in {*parent.skip, *parent.rows}} if parent else {}
    for source in mixture:
        if not rows.get(source):
            faults.append(
                f"stages.{name}.mixture.{source}: a weight of {mixture[source]:g} gives no sample in {samples:,} rows; "
                f"raise it or the budget, or leave the source out"
            )
            continue
        supplied = catalogue.sources[source]
        epoch = rows_in_epoch(supplied, context)
        if epoch == 0:
            faults.append(f"sources.{source}: {supplied.tokens:,} tokens do not fill one row of {context:,}")
        elif epoch is not None:
            read = skip.get(source, 0) + rows[source]
            if read / epoch > study.max_epochs:
                faults.append(
                    f"stages.{name}.mixture.{source}: {read * context:,} tokens by the end of the stage are "
                    f"{read / epoch:.1f} epochs of its {supplied.tokens:,}; max_epochs = {study.max_epochs:g}"
                )
    identity = canonical(
        {
            "training_version": TRAINING_VERSION,
            "ancestor": parent.fingerprint if parent else None,
            "model": None if parent else _model_identity(study, catalogue),
            "tokenizer": catalogue.tokenizer,
            "context": context,
            "kind": stage.kind,
            "mixture": mixture,
            "data": {source: catalogue.sources[source].fingerprint for source in mixture},
            "budget_tokens": steps * recipe.batch_tokens,
            # How a batch is cut to fit into memory is where it runs, not what it is.
            "recipe": recipe.model_dump(exclude={"micro_batch_tokens"}),
            "seed": seed,
        }
    )
    assert isinstance(identity, dict)
    points = {max(1, round(t / recipe.batch_tokens)) for t in stage.points if t < stage.budget_tokens} | {steps}
    if parent is None and catalogue.model is not None:
        points.add(0)
    return Node(
        run=f"{name.replace(' ', '_')}/{fingerprint(identity)}",
        stage=name,
        kind=stage.kind,
        seed=seed,
        parent=parent.run if parent else None,
        identity=identity,
        recipe=recipe,
        context=context,
        steps=steps,
        mixture=mixture,
        rows=rows,
        skip=skip,
        evaluate_at=tuple(sorted(points)),
        strategies=(),
    )


def _model_identity(study: Study, catalogue: Catalogue) -> dict[str, Any]:
    if catalogue.model is not None:
        return {"checkpoint": catalogue.model}
    shape = catalogue.shape
    names = ("layers", "hidden", "feed_forward", "heads", "kv_heads", "tied")
    return {**{n: getattr(shape, n) for n in names}, "vocabulary": catalogue.vocabulary}


# ---- why is this run new? -----------------------------------------------------------------------------------------


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
