"""A study and a catalogue compiled: a tree of stages, each named by its content, with a ledger and a cost.

A plan is a pure function of the two: nothing is read, timed or downloaded here. Stages that strategies share stand
once. What would waste a run is refused here: a source that would get no sample, more epochs than allowed.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from curricle.node import Node, average_fault, state_after
from curricle.schedule import warmup_fault
from curricle.shapes import Shape
from curricle.store import canonical, fingerprint
from curricle.study import Recipe, Refused, Study
from curricle.supplied import Stretch, Supplied, epochs_of, read_on, rows_in_epoch
from curricle.supplies import is_answered
from curricle.turns import PhasedTurns

TRAINING_VERSION = 5  # raised by hand when the same identity would train to other weights

# Dense bf16 peaks from NVIDIA's H100 and H200 (SXM) data sheets; hours are given at this share of them.
ACCELERATORS = {"H100": 989.4e12, "H200": 989.4e12}
STATED_MFU = 0.40
MATCHED_WITHIN = 0.1  # a proxy's epochs and its target's; what whole documents and rows cannot match is refused


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
    subsample: int | None = None
    """Tokens that a proxy leaves of the available ones, and passes over `epochs` times; None where it takes all."""
    target_epochs: float | None = None
    """The same passes at the target that the study stands for, which may be the study itself; None without end."""
    padding: float = 0.0
    """The share of `tokens` that is padding, so that conversations lie whole."""


@dataclass(frozen=True, slots=True)
class Plan:
    study: Study
    catalogue: Catalogue
    nodes: Mapping[str, Node]
    """By run, ancestors before descendants."""
    paths: Mapping[tuple[str, int], tuple[str, ...]]
    """(arm, seed) → its runs, in order."""
    arms: Mapping[str, str]
    """Arm → its strategy: the strategy itself, or one for each learning rate where one of its stages sweeps them."""

    @property
    def parameters(self) -> int:
        return self.catalogue.shape.parameters(self.catalogue.vocabulary)

    @property
    def tokens(self) -> int:
        """Tokens to train on, shared stages counted once."""
        return sum(node.tokens for node in self.nodes.values())

    @property
    def width(self) -> int:
        """How many runs can go side by side at most: as many as there are that no other begins from."""
        return len(self.nodes.keys() - {node.parent for node in self.nodes.values()})

    def tokens_in(self, path: Sequence[str], position: int) -> int:
        """Tokens of the stage at `position` of a path that the path passes through: all, but where the next branches
        off before the end."""
        after = self.nodes[path[position + 1]] if position + 1 < len(path) else None
        node = self.nodes[path[position]]
        return node.tokens if after is None or after.branch_step is None else node.tokens_at(after.branch_step)

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

    def branch_tokens(self, node: Node) -> int | None:
        """Tokens of its parent after which a run branches off; None where it begins from the end."""
        if node.parent is None or node.branch_step is None:
            return None
        return self.nodes[node.parent].tokens_at(node.branch_step)

    def ledger(self) -> list[Share]:
        """One line for each source of each stage."""
        lines: dict[tuple[str, str], Share] = {}
        for node in self.nodes.values():
            for source, rows in node.rows.items():
                supplied = self.catalogue.sources[source]
                epochs = epochs_of(supplied, node.read(source), node.context) or 0.0
                key = (node.stage, source)
                if key not in lines or epochs > lines[key].epochs:
                    tokens, whole = rows * node.context, supplied.whole_tokens
                    line = Share(
                        *key,
                        share=tokens / node.tokens,
                        tokens=tokens,
                        available=supplied.tokens,
                        epochs=epochs,
                        declared=supplied.declared,
                        padding=supplied.packing.padding if supplied.packing and source in node.whole else 0.0,
                    )
                    if whole is not None:
                        line = replace(line, available=whole, subsample=supplied.tokens)
                    epoch = rows_in_epoch(supplied, node.context)
                    if epoch and (wanted := _rows_at_target(self.study, supplied, node.context)):
                        line = replace(line, target_epochs=epochs * epoch / wanted)
                    lines[key] = line
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
            "proxy": self.study.proxy.model_dump() if self.study.proxy else None,
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
                    "branch_at_tokens": self.branch_tokens(n),
                    "strategies": list(n.strategies),
                    "done": n.run in finished,
                }
                for n in self.nodes.values()
            ],
            "ledger": [{name: getattr(line, name) for name in Share.__slots__} for line in self.ledger()],
        }


def _rows_at_target(study: Study, source: Supplied, context: int) -> float:
    """Rows that a proxy should pass over as often as its target does over the whole source: its part of the target's
    rows in an epoch."""
    tokens = source.tokens if source.whole_tokens is None else source.whole_tokens
    return float((rows_in_epoch(replace(source, tokens=tokens), context) or 0) * study.part_of_target)


def compile_plan(study: Study, catalogue: Catalogue) -> Plan:
    """The tree of stages. Raises `Refused` with every fault it finds, one a line."""
    faults: list[str] = []
    if study.model.context < 2:  # a study that is only counted with may have one
        faults.append("model.context: of one token there is no context to learn from; write 2 or more")
    nodes: dict[str, Node] = {}
    paths: dict[tuple[str, int], tuple[str, ...]] = {}
    arms: dict[str, str] = {}
    for seed in study.seeds:
        for strategy in study.strategies:
            for arm, chosen in _arms(study, strategy):
                parent: Node | None = None
                path: list[str] = []
                for name in study.strategies[strategy]:
                    recipe = study.recipe_of(name).model_copy(update=chosen.get(name, {}))
                    node = _node(study, catalogue, name, recipe, seed, parent, faults)
                    # A branch from a state that several runs have is one node; its parent is the first of them.
                    known = nodes.get(node.run, node)
                    passing = tuple(dict.fromkeys([*known.strategies, arm]))
                    parent = nodes[node.run] = replace(known, strategies=passing)
                    path.append(node.run)
                paths[arm, seed] = tuple(path)
                arms[arm] = strategy
    if faults:
        raise Refused("\n".join(f"{study.path or study.name}: {fault}" for fault in dict.fromkeys(faults)))
    return Plan(study, catalogue, _with_states(nodes, paths.values()), paths, arms)


def _arms(study: Study, strategy: str) -> Iterator[tuple[str, dict[str, dict[str, float]]]]:
    """The strategy under its own name, or once for each combination of the learning rates that its stages sweep; for
    each what of a stage's recipe is set."""
    sweeping = [name for name in dict.fromkeys(study.strategies[strategy]) if study.stages[name].sweep]
    for each in itertools.product(*(study.stages[name].sweep for name in sweeping)):
        said = ", ".join(f"{name} {rate:g}" for name, rate in zip(sweeping, each))
        chosen = {name: {"learning_rate": rate} for name, rate in zip(sweeping, each)}
        yield f"{strategy} [{said}]" if said else strategy, chosen


def _with_states(nodes: dict[str, Node], paths: Iterable[Sequence[str]]) -> dict[str, Node]:
    """Which states are kept: the ends of phases, and where a path leaves for a branch; scored there, too. A run that is
    not the branch's parent has the same state there, so whichever comes first lends it to the other."""
    needed: dict[str, set[int]] = {run: set() for run in nodes}
    branches: dict[str, set[int]] = {run: set() for run in nodes}
    for before, after in itertools.chain.from_iterable(map(itertools.pairwise, paths)):
        branch = nodes[after].branch_step
        if branch is not None:
            branches[before].add(branch)
    for node in nodes.values():
        if node.parent is not None and node.branch_step is not None:
            needed[node.parent].add(node.branch_step)
        elif node.parent is not None and node.init_from != "weights":
            needed[node.parent].add(nodes[node.parent].steps)
    found = {}
    for run, node in nodes.items():
        kept = sorted({end for end, _ in node.mixtures} | branches[run])
        found[run] = replace(
            node,
            evaluate_at=tuple(sorted({*node.evaluate_at, *branches[run]})),
            states={step: state_after(node, step) for step in kept},
            needed=frozenset(needed[run]),
        )
    return found


def _node(
    study: Study,
    catalogue: Catalogue,
    name: str,
    recipe: Recipe,
    seed: int,
    parent: Node | None,
    faults: list[str],
) -> Node:
    """One run; what is wrong with it is added to `faults`."""
    stage, context = study.stages[name], study.model.context
    steps = max(1, round(stage.budget_tokens / recipe.batch_tokens))
    mixtures = tuple((_step(end, recipe, steps), weights) for end, weights in stage.mixtures)
    rows_per_step = recipe.batch_tokens // context
    samples = steps * rows_per_step
    if any(a >= b for (a, _), (b, _) in zip(((0, {}), *mixtures), mixtures)):
        faults.append(f"stages.{name}.phases: one of them is shorter than a step of {recipe.batch_tokens:,} tokens")
        mixtures = mixtures[-1:]
    own_faults = warmup_fault(name, recipe, steps), average_fault(name, recipe, steps)
    faults.extend(fault for fault in own_faults if fault is not None)
    branch = _step(stage.branch_at, parent.recipe, parent.steps) if parent and stage.branch_at is not None else None
    skip = _read_before(parent, parent.steps if branch is None else branch) if parent else {}
    turns = PhasedTurns([(end * rows_per_step, weights) for end, weights in mixtures])
    rows = turns.counts(samples)
    where = [f"phases.{i}.mixture" for i in range(len(mixtures))] if stage.phases else ["mixture"]
    for (_, weights), gives, field_name in zip(mixtures, turns.each(), where):
        for source, weight in weights.items():
            if not gives.get(source):
                field_of = f"replay.{source}" if source in stage.replay else f"{field_name}.{source}"
                faults.append(
                    f"stages.{name}.{field_of}: a weight of {weight:g} gives no sample in {sum(gives.values()):,} "
                    f"rows; raise it or the budget, or leave the source out"
                )
    whole = tuple(n for n in rows if stage.kind == "instruct" and is_answered(study.sources[n]))
    for source in rows:
        supplied = catalogue.sources[source]
        if supplied.tokens is None:
            continue
        epoch = rows_in_epoch(supplied, context) or 0
        wanted = _rows_at_target(study, supplied, context)
        if supplied.whole_tokens is not None and abs(wanted - epoch) > MATCHED_WITHIN * wanted:
            faults.append(
                f"sources.{source}: proxy.of_tokens leaves {wanted * context:,.0f} of its {supplied.whole_tokens:,} "
                f"tokens, and whole documents in rows of {context:,} come no nearer than {epoch * context:,}; "
                f"lower proxy.of_tokens, raise the budgets, or leave the source out"
            )
            continue
        if rows_in_epoch(supplied, context, source in whole) == 0:
            inside = "of conversations have no answer that begins within" if source in whole else "do not fill"
            faults.append(f"sources.{source}: {supplied.tokens:,} tokens {inside} one row of {context:,}")
            continue
        stretches = read_on(skip.get(source, ()), rows[source], source in whole)
        epochs = epochs_of(supplied, stretches, context)
        if epochs is not None and epochs > study.max_epochs:
            cut = "" if supplied.whole_tokens is None else " (a subsample, read as often as at the target)"
            read = sum(stretch.rows for stretch in stretches) * context
            faults.append(
                f"stages.{name}.mixture.{source}: {read:,} tokens by the end of the stage are "
                f"{epochs:.1f} epochs of its {supplied.tokens:,}{cut}; max_epochs = {study.max_epochs:g}: "
                f"lower the budget or its weight, or raise max_epochs"
            )
    ancestor = None
    if parent is not None:
        ancestor = parent.fingerprint if branch is None else f"state {state_after(parent, branch)}"
    mixture: object = mixtures[0][1]
    if len(mixtures) > 1:
        mixture = [{"until": end * recipe.batch_tokens, "mixture": weights} for end, weights in mixtures]
    identity = canonical(
        {
            "training_version": TRAINING_VERSION,
            "ancestor": ancestor,
            "init_from": stage.init_from if branch is None else "everything",
            "model": None if parent else _model_identity(study, catalogue),
            "tokenizer": catalogue.tokenizer,
            "context": context,
            "kind": stage.kind,
            "mixture": mixture,
            "data": {source: catalogue.sources[source].fingerprint for source in rows},
            "budget_tokens": steps * recipe.batch_tokens,
            # How a batch is cut to fit into memory is where it runs, not what it is.
            "recipe": recipe.model_dump(exclude={"micro_batch_tokens"}),
            "seed": seed,
        }
    )
    assert isinstance(identity, dict)
    points = {_step(t, recipe, steps) for t in stage.points if t < stage.budget_tokens} | {steps}
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
        mixtures=mixtures,
        rows=rows,
        skip=skip,
        evaluate_at=tuple(sorted(points)),
        init_from=stage.init_from,
        branch_step=branch,
        whole=whole,
    )


def _step(tokens: int, recipe: Recipe, steps: int) -> int:
    """The step that ends nearest to so many tokens."""
    return min(steps, max(1, round(tokens / recipe.batch_tokens)))


def _read_before(parent: Node, step: int) -> dict[str, tuple[Stretch, ...]]:
    """Rows of each source that have been read when the parent has taken `step` steps."""
    gives = PhasedTurns(parent.turns).counts(step * parent.rows_per_step)
    return {
        source: read_on(parent.skip.get(source, ()), gives.get(source, 0), source in parent.whole)
        for source in sorted({*parent.skip, *gives})
    }


def _model_identity(study: Study, catalogue: Catalogue) -> dict[str, Any]:
    if catalogue.model is not None:
        return {"checkpoint": catalogue.model}
    shape = catalogue.shape
    names = ("layers", "hidden", "feed_forward", "heads", "kv_heads", "tied")
    return {**{n: getattr(shape, n) for n in names}, "vocabulary": catalogue.vocabulary}
