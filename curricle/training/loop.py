"""The training loop: a generator that yields after every step and says when the moment to evaluate has come.

It knows no benchmark and no strategy: it gets a model, a sampler and a recipe, and promises that a run killed at any
moment and started again goes on where its last whole checkpoint stands, and ends in the same weights bit for bit on
the same machine, on as many ranks; on another number of ranks it reads the same documents in the same steps. Closing
the generator (one rank) or being asked to stop (any number) saves first.

Letters: B rows, T tokens in a row.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import time
from collections.abc import Callable, Generator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import nn
from torch.distributed.fsdp import FSDPModule

from curricle.execution import Execution
from curricle.schedule import learning_rate
from curricle.store import sweep
from curricle.study import Recipe
from curricle.tokens.sampler import Batch, Sampler
from curricle.training import attention, averaging, checkpoint
from curricle.training.checkpoint import Saved, Saver
from curricle.training.distribution import Ranks, layers_of, move_to, shard, without_weights
from curricle.training.guard import DIVERGED, Guard
from curricle.training.loss import Learner, bends_logits, note_bends
from curricle.training.metrics import FILE, lines_until
from curricle.training.optimizer import make_optimizers

if TYPE_CHECKING:
    from transformers import PreTrainedModel

KEPT = ("step", "tokens", "loss_nats", "grad_norm", "lr", "tokens_per_second", "data_seconds")

READ_AHEAD = frozenset({"cuda"})
"""Devices beside which a processor is idle during a step. On a CPU all its cores are in the step."""


@dataclass(frozen=True, slots=True)
class Step:
    """What is known after a step. `evaluate` marks the points that were asked for; the last has `final`."""

    step: int
    tokens: int
    loss_nats: float
    grad_norm: float
    lr: float
    tokens_per_second: float
    evaluate: bool
    final: bool
    data_seconds: float = 0.0
    """Of the step's time: waiting for the batch. Saves are beside it, in lines of their own."""
    skipped: str | None = None
    """Why the step moved nothing."""


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
    checkpoints = folder / "checkpoints"
    begin = where_to_begin(checkpoints, begin, ranks)
    if begin is not None and begin.verb != "optimizer":
        note_bends(model, checkpoint.describe(begin.place).bends)
    else:
        assert not (ranks.first and without_weights(model)), "a model without weights, and nothing to load them from"
    learner = _ready(model, ranks, how, recipe)
    optimizers = make_optimizers(model, recipe)
    saver = Saver(checkpoints, ranks, keep=how.keep, ahead=bool(how.save_ahead))
    start = _start(begin, model, optimizers)
    step = saved = start.step
    updates, guard = start.optimizer_steps, Guard(recipe.skip_sigma, start.guard)
    if (barren := _barren(sampler, rows, step, steps)) is not None:
        raise NothingToLearn(
            f"step {barren + 1} would have nothing to learn: none of its {rows} rows has a token that carries loss, as "
            f"inside a prompt of many rows; raise recipe.batch_tokens (now {recipe.batch_tokens:,})"
        )
    metrics = _reopen(folder / FILE, step) if ranks.first else None
    save_every, saved_at = how.save_seconds, time.monotonic()

    def saving(act: Callable[[], None]) -> float:
        """The seconds that it took. They are no step's, so they have a line of the metrics to themselves."""
        began = time.perf_counter()
        act()
        seconds = time.perf_counter() - began
        if metrics is not None:
            _write_line(metrics, {"step": step, "tokens": step * recipe.batch_tokens, "save_seconds": seconds})
        return seconds

    def save() -> None:
        nonlocal saved, saved_at, save_every
        began = time.monotonic()
        if metrics is not None:
            os.fsync(metrics.fileno())  # a state that outlives a power cut must find the lines that led to it
        saver.save(model, optimizers, Saved(step, updates, milestones.get(step), guard.memory(), learner.bends))
        saved, saved_at = step, time.monotonic()
        # Saving may take a twentieth of the time; one slow save (a busy disk) says nothing about the ones after it.
        save_every = max(how.save_seconds, 20 * (saved_at - began))

    def leave() -> None:
        if step > saved:
            saving(save)
        if saver.busy:
            saving(saver.finish)

    batches = _batches(
        lambda at: sampler.batch(at * rows + mine.start, at * rows + mine.stop),
        range(step, steps),
        ahead=ranks.device.type in READ_AHEAD,
    )
    model.train()
    try:
        if step in evaluate_at:
            if step == steps:
                averaging.apply(folder, model, recipe, steps, ranks)
            yield Step(step, step * recipe.batch_tokens, math.nan, math.nan, 0.0, 0.0, True, step == steps)
            model.train()
        while step < steps:
            began = time.perf_counter()
            batch = next(batches).to(ranks.device)
            waited = time.perf_counter() - began
            # A save that began before the last was written would wait for it.
            due = ranks.first and not saver.busy and time.monotonic() - saved_at > save_every
            targets, stop, late, written = ranks.summed([batch.targets, asked_to_stop(), due, saver.written()])
            aside = saving(saver.finish) if written == ranks.size else 0.0
            if stop:
                break
            if late and step > saved:
                aside += saving(save)
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
            tokens = rows * sampler.row_tokens
            rate = tokens / (time.perf_counter() - began - aside)
            now = Step(
                step,
                step * tokens,
                loss,
                norm,
                lr,
                rate,
                step in evaluate_at,
                step == steps,
                waited,
                objection,
            )
            diverged = None
            if sum(guard.skipped) > recipe.max_skipped or (now.final and not guard.losses):
                diverged = (
                    f"{sum(guard.skipped)} of the last {len(guard.skipped)} steps were skipped, the last at step "
                    f"{step}: {objection}; lower recipe.learning_rate (now {recipe.learning_rate:g}), or look at the "
                    f"text with curricle explain"
                )
            if metrics is not None:
                _write(metrics, now, flops_per_token, diverged)
            if diverged is not None:
                raise Diverged(diverged)
            if averaging.due(recipe, step, steps):
                saving(partial(averaging.keep, folder, model, step, ranks))
            if now.evaluate or now.final or step in milestones:
                saving(save)
            if (now.evaluate or now.final) and saver.busy:
                saving(saver.finish)  # an evaluation may be killed: all that came before it must count by then
            if now.final and recipe.average is not None:
                saving(partial(averaging.apply, folder, model, recipe, steps, ranks))
            yield now
            model.train()
        leave()
    except GeneratorExit:
        if ranks.size == 1:  # many close at different moments, and could not agree on a save
            leave()
        raise
    finally:
        batches.close()
        saver.close()
        if metrics is not None:
            metrics.close()


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


def _barren(sampler: Sampler, rows: int, step: int, steps: int) -> int | None:
    """How many steps come before the first, from `step` on, whose batch has no token that carries loss; None where
    every batch has one. Better known now than after hours."""
    if not sampler.answers_only or all(s.loss is None for supply in sampler.supplies for s in supply.shards):
        return None
    for at in range(step, steps):
        if not any(sampler.read(i)[2][1:].any() for i in range(at * rows, (at + 1) * rows)):
            return at
    return None


def _seed_of(seed: int, step: int, rank: int) -> int:
    return (seed * 1_000_003 + step) * 4_099 + rank


def _write(metrics: Any, now: Step, flops_per_token: float | None, diverged: str | None) -> None:
    row: dict[str, Any] = {name: getattr(now, name) for name in KEPT}
    row = {name: v if not isinstance(v, float) or math.isfinite(v) else None for name, v in row.items()}
    if flops_per_token is not None:
        row["flops_per_second"] = now.tokens_per_second * flops_per_token
    if now.skipped is not None:
        row["guard"] = now.skipped
    if diverged is not None:
        row["diverged"] = diverged
    _write_line(metrics, row)


def _write_line(metrics: Any, row: Mapping[str, Any]) -> None:
    metrics.write(json.dumps(row) + "\n")
    metrics.flush()


def _reopen(file: Path, step: int):
    """The metrics file, cut back to `step`: what lies after it will be written again."""
    if file.exists():
        os.truncate(file, sum(len(line) for line, _ in lines_until(file, step)))
    return open(file, "a", encoding="utf-8")
