"""The training loop: a generator that yields after every step and says when the moment to evaluate has come.

It knows no benchmark and no strategy: it gets a model, a sampler and a recipe, and promises that a run killed at any
moment and started again goes on where its last whole checkpoint stands, and ends in the same weights bit for bit on
the same machine, on as many ranks; on another number of ranks it reads the same documents in the same steps. Closing
the generator (one rank) or being asked to stop (any number) saves first.

Letters: B rows, T tokens in a row.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Generator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch
from torch import nn
from torch.distributed.fsdp import FSDPModule

from curricle.execution import Execution
from curricle.schedule import learning_rate
from curricle.store import sweep
from curricle.study import Recipe
from curricle.tokens.sampler import Batch, Sampler
from curricle.training import attention, averaging, checkpoint
from curricle.training.checkpoint import Saved
from curricle.training.distribution import Ranks, layers_of, move_to, shard, without_weights
from curricle.training.guard import DIVERGED, Guard
from curricle.training.loss import Learner, bends_logits, note_bends
from curricle.training.optimizer import make_optimizers
from curricle.training.record import Record, Step

if TYPE_CHECKING:
    from transformers import PreTrainedModel

READ_AHEAD = frozenset({"cuda"})
"""Devices beside which a processor is idle during a step. On a CPU all its cores are in the step."""


@dataclass(frozen=True, slots=True)
class Begin:
    """A state that is there already. `resume`: go on in it, it is this run's own first part. `branch`: begin this
    stage with its weights and optimizer. `optimizer`: with its optimizer alone, beside the weights given."""

    place: Path
    verb: Literal["resume", "branch", "optimizer"]


class Diverged(RuntimeError):
    """The loss is no longer a number, or has jumped too often. It reads as what it is, wherever it is said."""

    def __str__(self) -> str:
        return f"{DIVERGED}: {super().__str__()}"


class NothingToLearn(ValueError):
    """A batch in which no token carries loss."""


def train(
    model: PreTrainedModel,
    sampler: Sampler,
    recipe: Recipe,
    *,
    steps: int,
    evaluate_at: frozenset[int],
    folder: Path,
    milestones: Mapping[int, str] | None = None,
    begin: Begin | None = None,
    ranks: Ranks | None = None,
    execution: Execution | None = None,
    asked_to_stop: Callable[[], bool] = lambda: False,
    flops_per_token: float | None = None,
) -> Generator[Step]:
    """Train for `steps` steps, or what is left of them, in `folder` (`metrics.jsonl`, `checkpoints/`).

    `evaluate_at` holds steps; 0 is the model as it came. `milestones` are steps whose whole state stays, with its
    fingerprint. The model may come without weights where the state that it begins at has them, and on every rank but
    the first. All call it alike; where any is asked to stop, all save and return before the next step.
    Raises `Diverged` past `recipe.max_skipped` steps that had to be skipped, `NothingToLearn` before the first step
    where a batch of any step would have nothing to learn, `Refused` where a batch cannot be shared out over the ranks.
    """
    ranks = ranks or Ranks.alone()
    how = (execution or Execution()).for_device(ranks.device.type)
    milestones = milestones or {}
    rows = recipe.batch_tokens // sampler.row_tokens
    mine = ranks.share(rows)
    at_once = how.at_once(recipe.micro_batch_tokens, ranks.device.type) or recipe.batch_tokens
    micro_rows = max(1, at_once // sampler.row_tokens)
    begin = where_to_begin(folder / "checkpoints", begin, ranks)
    if begin is not None and begin.verb != "optimizer":
        note_bends(model, checkpoint.describe(begin.place).bends)
    else:
        assert not (ranks.first and without_weights(model)), "a model without weights, and nothing to load them from"
    learner = _ready(model, ranks, how, recipe)
    optimizers = make_optimizers(model, recipe)
    start = _start(begin, model, optimizers)
    step, updates, guard = start.step, start.optimizer_steps, Guard(recipe.skip_sigma, start.guard)
    _refuse_barren(sampler, recipe, range(step, steps))
    batches = _batches(
        lambda at: sampler.batch(at * rows + mine.start, at * rows + mine.stop),
        range(step, steps),
        ahead=ranks.device.type in READ_AHEAD,
    )
    record = Record(folder, model, optimizers, ranks, how, step=step, batch_tokens=recipe.batch_tokens)

    def state() -> Saved:
        return Saved(step, updates, milestones.get(step), guard.memory(), learner.bends)

    model.train()
    try:
        if step in evaluate_at:
            if step == steps:
                averaging.apply(folder, model, recipe, steps, ranks)
            yield Step(
                step=step,
                tokens=step * recipe.batch_tokens,
                loss_nats=math.nan,
                grad_norm=math.nan,
                lr=0.0,
                tokens_per_second=0.0,
                evaluate=True,
                final=step == steps,
            )
            model.train()
        while step < steps:
            began = time.perf_counter()
            batch = next(batches).to(ranks.device)
            waited = time.perf_counter() - began
            targets, stop, due, written = ranks.summed(
                [batch.targets, asked_to_stop(), record.save_due(), record.written()]
            )
            aside = record.finish() if written == ranks.size else 0.0
            if stop:
                break
            if due:
                aside += record.save(state())
            if step * rows in sampler.turns.ends:
                guard.new_text()
            torch.manual_seed(_seed_of(sampler.seed, step, ranks.rank))  # for whatever a family may draw
            lr = learning_rate(recipe, step, steps)
            loss, norm = gradients(learner, batch, recipe, int(targets), micro_rows, ranks)
            objection = guard.objection(loss, norm)
            if objection is None:
                move(optimizers, lr)
                updates += 1
            guard.see(loss, norm, skipped=objection is not None)
            for optimizer in optimizers:
                optimizer.zero_grad()
            step += 1
            now = Step(
                step=step,
                tokens=step * recipe.batch_tokens,
                loss_nats=loss,
                grad_norm=norm,
                lr=lr,
                tokens_per_second=recipe.batch_tokens / (time.perf_counter() - began - aside),
                evaluate=step in evaluate_at,
                final=step == steps,
                data_seconds=waited,
                skipped=objection,
            )
            diverged = _divergence(guard, recipe, now)
            if diverged is not None:
                record.finish()  # a state on its way is what `--again` goes on from; what diverged is the last line
            record.note(now, flops_per_token, diverged)
            if diverged is not None:
                raise Diverged(diverged)
            if averaging.due(recipe, step, steps):
                record.timed(partial(averaging.keep, folder, model, step, ranks))
            if now.evaluate or now.final or step in milestones:
                record.save(state())
            if now.evaluate or now.final:
                record.finish()  # an evaluation may be killed: all that came before it must count by then
            if now.final and recipe.average is not None:
                record.timed(partial(averaging.apply, folder, model, recipe, steps, ranks))
            yield now
            model.train()
        record.save(state())
        record.finish()
    except GeneratorExit:
        if ranks.size == 1:  # many close at different moments, and could not agree on a save
            record.save(state())
            record.finish()
        raise
    finally:
        batches.close()
        record.close()


def _batches(read: Callable[[int], Batch], steps: range, *, ahead: bool) -> Generator[Batch]:
    """What is read for each step. `ahead` reads the next in a thread, which alone reads then, while one is learnt from;
    an error of that thread is raised where its batch is asked for."""
    if not ahead:
        yield from map(read, steps)
        return
    with ThreadPoolExecutor(1) as reader:
        coming = reader.submit(read, steps.start)
        for step in steps:
            batch = coming.result()
            if step + 1 < steps.stop:
                coming = reader.submit(read, step + 1)
            yield batch


def update(
    model: PreTrainedModel,
    optimizers: list[torch.optim.Optimizer],
    batch: Batch,
    recipe: Recipe,
    lr: float,
    micro_rows: int,
) -> tuple[float, float]:
    """One whole update on one rank, without the guard: what is timed, and compared with other loops."""
    found = gradients(Learner(model), batch, recipe, batch.targets, micro_rows, Ranks(device=model.device))
    move(optimizers, lr)
    for optimizer in optimizers:
        optimizer.zero_grad()
    return found


def gradients(
    learner: Learner | nn.Module, batch: Batch, recipe: Recipe, targets: int, micro_rows: int, ranks: Ranks
) -> tuple[float, float]:
    """Gradients of the mean loss over `targets`, those of all ranks; (that mean in nats, their norm before it is
    clipped)."""
    if not targets:
        raise NothingToLearn("a batch with nothing to learn: no token in it carries loss; raise recipe.batch_tokens")
    kind = ranks.device.type
    autocast = torch.autocast(kind, torch.bfloat16) if recipe.precision == "bf16" else contextlib.nullcontext()
    nats = torch.zeros((), device=ranks.device)
    starts = range(0, len(batch.tokens_BT), micro_rows)
    for at in starts:
        part = slice(at, at + micro_rows)
        if isinstance(learner, FSDPModule):  # copies of a model add up their shards once, with the last part's
            learner.set_requires_all_reduce(at == starts[-1])
        with autocast:
            loss = learner(batch.tokens_BT[part], batch.positions_BT[part], batch.labels_BT[part])
        # Divided by the targets of the whole batch, so that neither accumulation nor sharing out changes a gradient;
        # times the ranks, since sharding averages over them.
        (loss * (ranks.size / targets)).backward()
        nats += loss.detach()
    norm = torch.nn.utils.clip_grad_norm_(learner.parameters(), recipe.clip)
    norm = norm.full_tensor() if hasattr(norm, "full_tensor") else norm
    return ranks.summed([float(nats)])[0] / targets, float(norm)


def move(optimizers: list[torch.optim.Optimizer], lr: float) -> None:
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = lr
        optimizer.step()


def _ready(model: PreTrainedModel, ranks: Ranks, how: Execution, recipe: Recipe) -> Learner:
    """The model on its device, cut over the ranks, compiled where that was asked."""
    if ranks.size == 1:
        move_to(ranks.device, model)
    note_bends(model, ranks.decided(lambda: bends_logits(model)))  # which the others, without weights, cannot see
    _without_dropout(model)
    attention.keep_documents_apart(model, how.attention, ranks.device.type)
    if how.recompute:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    learner = Learner(model)
    if how.compile:
        for layer in layers_of(model):
            layer.compile()
    shard(learner, model, ranks, precision=recipe.precision, replicas=how.replicas)
    return learner


def _without_dropout(model: PreTrainedModel) -> None:
    """What dropout draws depends on how a batch is cut and shared out, so with it neither accumulation nor the number
    of ranks would leave a run as it is. Some families (GPT-2) have it on by default."""
    for owner in (model.config, *model.modules()):
        if isinstance(owner, nn.Dropout):
            owner.p = 0.0
        for name, value in vars(owner).items():
            if ("drop" in name or "jitter" in name) and isinstance(value, float):
                setattr(owner, name, 0.0)


def where_to_begin(checkpoints: Path, begin: Begin | None, ranks: Ranks) -> Begin | None:
    """At a run's own newest checkpoint, or at what it is told to begin with, or with the weights as given (None). All
    ranks call it."""
    if ranks.first:
        checkpoints.mkdir(parents=True, exist_ok=True)
        sweep(checkpoints)
    own = ranks.decided(lambda: checkpoint.complete(checkpoints)[-1:])
    return Begin(own[0], "resume") if own else begin


def _start(begin: Begin | None, model: PreTrainedModel, optimizers: list[torch.optim.Optimizer]) -> Saved:
    if begin is None:
        return Saved(0, 0)
    found = checkpoint.restore(begin.place, model, optimizers, weights_too=begin.verb != "optimizer")
    return found if begin.verb == "resume" else Saved(0, found.optimizer_steps)


def _refuse_barren(sampler: Sampler, recipe: Recipe, steps: range) -> None:
    """Raise `NothingToLearn` where the batch of one of these steps has no token that carries loss. Better known now
    than after hours."""
    if not sampler.answers_only or all(s.loss is None for supply in sampler.supplies for s in supply.shards):
        return
    rows = recipe.batch_tokens // sampler.row_tokens
    for at in steps:
        if not any(sampler.read(i)[2][1:].any() for i in range(at * rows, (at + 1) * rows)):
            raise NothingToLearn(
                f"step {at + 1} would have nothing to learn: none of its {rows} rows has a token that carries loss, as "
                f"inside a prompt of many rows; raise recipe.batch_tokens (now {recipe.batch_tokens:,})"
            )


def _seed_of(seed: int, step: int, rank: int) -> int:
    return (seed * 1_000_003 + step) * 4_099 + rank


def _divergence(guard: Guard, recipe: Recipe, now: Step) -> str | None:
    """What there is to say of a run that learns no more; None where it still does. At its end, a run without one loss
    that is a number is such a run, too."""
    skipped = sum(guard.skipped)
    if skipped <= recipe.max_skipped and (guard.losses or not now.final):
        return None
    return (
        f"{skipped} of the last {len(guard.skipped)} steps were skipped, the last at step {now.step}: {now.skipped}; "
        f"lower recipe.learning_rate (now {recipe.learning_rate:g}), or look at the text with curricle explain"
    )
