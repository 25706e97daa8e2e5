"""The work on one run: train what is left of it, keep its weights at every evaluation point, score them there.

Whatever it is doing when it dies, the store holds only whole things, and whoever works on the run next goes on from
there. On many ranks all of them walk through it in step; the first one writes.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from curricle.execution import Execution
from curricle.node import Node
from curricle.results import EVALUATIONS, read_table, write_rows
from curricle.running.adoption import state_folder, weights_folder
from curricle.running.beginning import begin_at, initial, register
from curricle.running.preparation import Prepared, sampler_for
from curricle.running.receipt import receipt, sessions
from curricle.store import Held, is_complete, locked, read_json, sweep, write_json
from curricle.training import metrics
from curricle.training.guard import DIVERGED

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

    from curricle.training.distribution import Ranks

Kind = Literal["step", "evaluating", "evaluated", "done", "stopped", "held", "failed", "refused"]
Asked = Callable[[], bool]


@dataclass(frozen=True, slots=True)
class Message:
    """What is said about a run that is being worked on."""

    kind: Kind
    run: str
    tokens: int = 0
    loss_nats: float = 0.0
    tokens_per_second: float = 0.0
    text: str = ""
    lr: float = 0.0
    grad_norm: float = 0.0
    bits_per_byte: Mapping[str, float] = field(default_factory=dict)
    """Of the held-out text of every source, where it was `evaluated`."""
    change: Mapping[str, float] = field(default_factory=dict)
    """Of these since the run began, where that is known."""


def ending(text: str) -> str:
    """How a run ended that went wrong: what its worker said, after the word for it. A run that has diverged did not
    fail: it would only do so again."""
    return text if says_diverged(text) else f"failed: {text}"


def says_diverged(text: str) -> bool:
    return text.startswith(f"{DIVERGED}: ")


def evaluation_file(prepared: Prepared, run: Path, tokens: int, name: str) -> Path:
    """One benchmark, or one source's held-out text, at one point. The name carries what was asked, so that what is
    asked later is another file and nothing is trained again."""
    return run / "evaluations" / f"{tokens:012d}-{name.replace(' ', '_')}-{prepared.asked[name]}.parquet"


def kept_folders(prepared: Prepared, node: Node) -> list[Path]:
    """What a trained run keeps: its weights at every point, and every state that another stage begins from."""
    folder = prepared.store.run_folder(node.run)
    weights = [weights_folder(folder, node, step) for step in node.evaluate_at]
    return [*weights, *(state_folder(folder, step) for step in node.needed)]


def evaluation_files(prepared: Prepared, node: Node) -> list[Path]:
    """One for each point and whatever is asked there."""
    folder = prepared.store.run_folder(node.run)
    points = [node.tokens_at(step) for step in node.evaluate_at]
    return [evaluation_file(prepared, folder, tokens, name) for tokens in points for name in prepared.asked]


def is_trained(prepared: Prepared, node: Node) -> bool:
    return all(map(is_complete, kept_folders(prepared, node)))


def is_scored(prepared: Prepared, node: Node) -> bool:
    """Trained, and every evaluation there."""
    return is_trained(prepared, node) and all(file.exists() for file in evaluation_files(prepared, node))


def is_done(prepared: Prepared, node: Node) -> bool:
    """Scored, and rid of what it needs no longer: a run that was killed in between is entered once more for that."""
    return is_scored(prepared, node) and not left_over(prepared.store.run_folder(node.run))


def left_over(folder: Path) -> list[Path]:
    """What is of use only until a run is scored: what is taken once more or averaged, states that have no name and so
    are only there to resume from, and what was being removed."""
    states = folder / "checkpoints"
    found = [part for part in (folder / "again", folder / "average") if part.exists()]
    for place in filter(is_complete, sorted(states.glob("step-*"))):
        with suppress(FileNotFoundError):  # another process has just removed it
            found += [place] if read_json(place / "state.json")["state"] is None else []
    return [*found, *folder.glob(".*.old.tmp"), *states.glob(".*.old.tmp")]


def work_on(
    prepared: Prepared,
    node: Node,
    ranks: Ranks | None = None,
    execution: Execution | None = None,
    asked_to_stop: Asked = lambda: False,
) -> Iterator[Message]:
    """Train what is left of a run and evaluate it; nothing that is there is done again. The last message is `done`, or
    `stopped` where it was asked to stop and has saved. Raises `Held` where another process works on it, `Diverged`
    where the run does, or did before: then nothing is trained."""
    from curricle.training import checkpoint
    from curricle.training.distribution import Ranks
    from curricle.training.loop import Diverged

    ranks = ranks or Ranks.alone()
    folder = prepared.store.run_folder(node.run)
    with _ours(folder, node.run, ranks):
        if ranks.first:
            for part in ("", "points", "evaluations", "checkpoints", "average"):
                sweep(folder / part)
        if (said := ranks.decided(lambda: metrics.diverged(folder))) is not None:
            raise Diverged(said)
        if ranks.first:
            if not (folder / "run.json").exists():
                write_json(folder / "run.json", prepared.described(node))
            checkpoint.name(folder / "checkpoints", node.states)
            for step in node.states:
                if is_complete(state_folder(folder, step)):
                    register(prepared, node, step)
        if ranks.decided(lambda: is_trained(prepared, node)):
            yield from _evaluate_kept(prepared, node, folder, ranks, asked_to_stop)
        else:
            if ranks.first:
                write_json(folder / "receipt.json", {"sessions": [*sessions(folder), receipt(ranks)]})
            yield from _train(prepared, node, folder, ranks, execution or Execution(), asked_to_stop)
        done = ranks.decided(lambda: is_scored(prepared, node))
        if done and ranks.first:
            for place in left_over(folder):
                checkpoint.drop(place)
    yield Message("done" if done else "stopped", node.run, node.tokens if done else 0)


@contextmanager
def _ours(folder: Path, run: str, ranks: Ranks) -> Iterator[None]:
    """The run's lock, which the first rank takes for all: where another process has it, every rank raises `Held`, so
    that none of them is left behind in this run."""
    with ExitStack() as taken:
        fault = None
        if ranks.first:
            try:
                taken.enter_context(locked(folder, run))
            except Held as held:
                fault = str(held)
        fault = ranks.decided(lambda: fault)
        if fault is not None:
            raise Held(fault)
        yield


def _train(
    prepared: Prepared, node: Node, folder: Path, ranks: Ranks, execution: Execution, asked_to_stop: Asked
) -> Iterator[Message]:
    """What lies behind the newest state first, then on from there."""

    def behind() -> list[int]:
        return ranks.decided(lambda: _settled(node, folder))

    if again := behind():
        yield from _take_steps(prepared, node, folder, ranks, execution, asked_to_stop, again)
        if behind():
            return
    if not ranks.decided(lambda: is_trained(prepared, node)):
        yield from _take_steps(prepared, node, folder, ranks, execution, asked_to_stop)
    if ranks.decided(lambda: is_trained(prepared, node)):
        # What was asked since, at points that an earlier session passed.
        yield from _evaluate_kept(prepared, node, folder, ranks, asked_to_stop)


def _settled(node: Node, folder: Path) -> list[int]:
    """The steps before the newest state after which something is to be kept that nobody had asked for when they were
    taken. They are taken once more, in `again/`, from the last state before them, and what the run has reached stays;
    states that are made there and needed are the run's own."""
    from curricle.training import checkpoint

    sweep(folder)
    made = checkpoint.complete(folder / "again" / "checkpoints")
    for place in made:
        target = folder / "checkpoints" / place.name
        if checkpoint.describe(place).step in node.needed and not is_complete(target):
            place.rename(target)
    states = checkpoint.complete(folder / "checkpoints")
    lacking = [s for s in node.evaluate_at if not is_complete(weights_folder(folder, node, s))]
    lacking += [s for s in node.needed if not is_complete(state_folder(folder, s))]
    reached = checkpoint.describe(states[-1]).step if states else 0
    behind = sorted({s for s in lacking if s < reached})
    past = [place for place in made if behind and place.name > state_folder(folder, behind[0]).name]
    if (past or not behind) and (folder / "again").exists():
        checkpoint.drop(folder / "again")
    return behind


def _take_steps(
    prepared: Prepared,
    node: Node,
    folder: Path,
    ranks: Ranks,
    execution: Execution,
    asked_to_stop: Asked,
    again: Sequence[int] = (),
) -> Iterator[Message]:
    """Train, and keep and score the weights at every point. With `again` until the last of these steps only, in
    `again/`."""
    from curricle.tokens.tokenizer import load as load_tokenizer
    from curricle.training import model as models
    from curricle.training.distribution import whole_weights
    from curricle.training.loop import train, where_to_begin

    tokenizer = load_tokenizer(prepared.tokenizer, prepared.revision)
    tokenizer.chat_template = prepared.chat_template(node.kind, node.sources) or tokenizer.chat_template
    begin = begin_at(prepared, node, folder, ranks, before=again[0] if again else None)
    how = execution.for_device(ranks.device.type)
    into = folder / "again" if again else folder
    begin = where_to_begin(into / "checkpoints", begin, ranks)
    model = initial(prepared, node, tokenizer.eos_token_id, begin, ranks)
    taken = 0
    steps = train(
        model,
        sampler_for(prepared, node),
        node.recipe,
        steps=node.steps,
        evaluate_at=frozenset(s for s in node.evaluate_at if not again or s in again),
        folder=into,
        milestones={s: state for s, state in node.states.items() if not again or s in again},
        begin=begin,
        ranks=ranks,
        execution=how,
        asked_to_stop=lambda: asked_to_stop() or (bool(again) and taken >= again[-1]),
        flops_per_token=prepared.catalogue.shape.training_flops_per_token(prepared.catalogue.vocabulary, node.context),
    )
    # On a GPU the layers are compiled for training's shapes; what is scored is then what was exported.
    live = ranks.size == 1 and not how.compile and ranks.device.type == "cpu"
    for now in steps:
        taken = now.step
        said = Message("step", node.run, now.tokens, now.loss_nats, now.tokens_per_second)
        yield replace(said, lr=now.lr, grad_norm=now.grad_norm)
        if now.step in node.states and ranks.first:
            register(prepared, node, now.step)
        if now.evaluate:
            yield Message("evaluating", node.run, now.tokens)
            kept = weights_folder(folder, node, now.step)
            if not ranks.decided(partial(is_complete, kept)):
                if (whole := whole_weights(model, ranks)) is not None:
                    models.export(whole, tokenizer, kept)
                del whole  # of many ranks a copy: it is on the disk now
                ranks.wait()
            given = (model, tokenizer) if live else None
            yield from _evaluate(prepared, node, folder, now.step, given, ranks, asked_to_stop)


# ---- evaluation ---------------------------------------------------------------------------------------------------


def _evaluate_kept(
    prepared: Prepared, node: Node, folder: Path, ranks: Ranks, asked_to_stop: Asked
) -> Iterator[Message]:
    for step in node.evaluate_at:
        if not ranks.decided(partial(_all_asked, prepared, node, folder, step)):
            yield Message("evaluating", node.run, node.tokens_at(step))
            yield from _evaluate(prepared, node, folder, step, None, ranks, asked_to_stop)
        elif ranks.first:  # a line behind steps that were cut off and taken again is cut off with them
            _note_held_out(prepared, node, folder, step, 0.0)


def _all_asked(prepared: Prepared, node: Node, folder: Path, step: int) -> bool:
    tokens = node.tokens_at(step)
    return all(evaluation_file(prepared, folder, tokens, name).exists() for name in prepared.asked)


def _evaluate(
    prepared: Prepared,
    node: Node,
    folder: Path,
    step: int,
    live: tuple[PreTrainedModel, PreTrainedTokenizerFast] | None,
    ranks: Ranks,
    asked_to_stop: Asked,
) -> Iterator[Message]:
    """Score what was not scored yet, and say what is new of the held-out text."""
    began = time.monotonic()
    tokens = node.tokens_at(step)
    _score(prepared, node, folder, step, live, ranks, asked_to_stop)
    ranks.wait()
    if ranks.first and _note_held_out(prepared, node, folder, step, time.monotonic() - began):
        parent = prepared.store.run_folder(node.parent) if node.parent else None
        bits, change = metrics.held_out(folder, parent, node.branch_step)
        yield Message("evaluated", node.run, tokens, bits_per_byte=bits, change=change)


def _score(
    prepared: Prepared,
    node: Node,
    folder: Path,
    step: int,
    live: tuple[PreTrainedModel, PreTrainedTokenizerFast] | None,
    ranks: Ranks,
    asked_to_stop: Asked,
) -> None:
    """What was not scored yet; ranks share out problems and documents. Leaves early where it is asked to stop. Where
    the model is not there `live`, every rank has what was exported of it on its device, whole, and only meanwhile."""
    from curricle.evaluation.scoring import evaluate
    from curricle.training import model as models

    tokens = node.tokens_at(step)
    where = {"run": node.run, "stage": node.stage, "seed": node.seed, "tokens": tokens, "final": step == node.steps}
    left = ranks.decided(
        lambda: [n for n in prepared.asked if not evaluation_file(prepared, folder, tokens, n).exists()]
    )
    for name in left:
        if ranks.decided(asked_to_stop):
            break
        if live is None:
            live = models.load(weights_folder(folder, node, step), device=ranks.device)
        model, tokenizer = live
        context = max(node.context, getattr(model.config, "max_position_embeddings", 0))
        benchmarks = [replace(b, items=tuple(ranks.dealt(b.items))) for b in prepared.benchmarks if b.name == name]
        held_out = {} if benchmarks else {name: ranks.dealt(prepared.held_out(name))}
        rows = ranks.collected(evaluate(model, tokenizer, benchmarks, held_out, context=context))
        if rows is not None:
            file = evaluation_file(prepared, folder, tokens, name)
            write_rows(file, [{**where, **row} for row in rows], EVALUATIONS)


def _note_held_out(prepared: Prepared, node: Node, folder: Path, step: int, seconds: float) -> bool:
    """The held-out text of every source as one line of the metrics, so that what is lost is seen while it happens;
    whether that line is new."""
    import pyarrow.compute as pc

    tokens = node.tokens_at(step)
    files = {name: evaluation_file(prepared, folder, tokens, name) for name in prepared.entries}
    if not all(file.exists() for file in files.values()):
        return False
    columns = ("nats", "target_tokens", "bytes")
    tables = {name: read_table(file, list(columns)) for name, file in files.items()}
    scored = {name: {c: pc.sum(table[c]).as_py() for c in columns} for name, table in tables.items()}
    line = {"step": step, "tokens": tokens, "evaluation": scored, "seconds": round(seconds, 3)}
    same = [found for found in metrics.evaluations(folder) if found["step"] == step]
    if same and same[-1]["evaluation"] == scored:  # of two the later counts: the file is only ever written to
        return False
    with open(folder / metrics.FILE, "a", encoding="utf-8") as out:
        out.write(json.dumps(line) + "\n")
    return True
