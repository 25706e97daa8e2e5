"""The training loop: a generator that yields after every step and says when the moment to evaluate has come.

It knows no benchmark and no strategy: it gets a model, a sampler and a recipe, and promises that a run killed at any
moment and started again goes on where its last whole checkpoint stands, and ends in the same weights bit for bit on
the same machine. Closing the generator saves first.

Letters: B rows, T tokens in a row, V vocabulary.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import time
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F

from curricle.store import sweep
from curricle.study import Recipe
from curricle.tokens.sampler import Batch, Sampler
from curricle.training import checkpoint
from curricle.training.optimizer import learning_rate, make_optimizers

if TYPE_CHECKING:
    from transformers import PreTrainedModel


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


class Diverged(RuntimeError):
    """The loss is no longer a number."""


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
    save_seconds: float = 30.0,
) -> Generator[Step]:
    """Train for `steps` steps, or what is left of them, in `folder` (`metrics.jsonl`, `checkpoints/`).

    `evaluate_at` holds steps; 0 is the model as it came. Raises `Diverged` on a loss or gradient that is not finite,
    `NothingToLearn` on a batch in which nothing is to be learnt.
    """
    rows = recipe.batch_tokens // sampler.row_tokens
    micro_rows = max(1, (recipe.micro_batch_tokens or recipe.batch_tokens) // sampler.row_tokens)
    optimizers = make_optimizers(model, recipe)
    checkpoints = folder / "checkpoints"
    checkpoints.mkdir(parents=True, exist_ok=True)
    sweep(checkpoints)
    step = saved = checkpoint.restore(checkpoints, model, optimizers)
    metrics = _reopen(folder / "metrics.jsonl", step)
    saved_at = time.monotonic()
    model.train()
    try:
        if step in evaluate_at:
            yield Step(step, step * recipe.batch_tokens, math.nan, math.nan, 0.0, 0.0, True, step == steps)
        while step < steps:
            began = time.perf_counter()
            lr = learning_rate(recipe, step, steps)
            loss, norm = update(
                model, optimizers, sampler.batch(step * rows, (step + 1) * rows), recipe, lr, micro_rows
            )
            step += 1
            tokens = rows * sampler.row_tokens
            rate = tokens / (time.perf_counter() - began)
            now = Step(step, step * tokens, loss, norm, lr, rate, step in evaluate_at, step == steps)
            kept = ("step", "tokens", "loss_nats", "grad_norm", "lr", "tokens_per_second")
            metrics.write(json.dumps({name: getattr(now, name) for name in kept}) + "\n")
            metrics.flush()
            if now.evaluate or now.final or time.monotonic() - saved_at > save_seconds:
                began = time.monotonic()
                checkpoint.save(checkpoints, model, optimizers, step)
                saved, saved_at = step, time.monotonic()
                save_seconds = max(save_seconds, 20 * (saved_at - began))  # saving may take a twentieth of the time
            yield now
    except GeneratorExit:
        if step > saved:
            checkpoint.save(checkpoints, model, optimizers, step)
        raise
    finally:
        metrics.close()


def update(
    model: PreTrainedModel,
    optimizers: list[torch.optim.Optimizer],
    batch: Batch,
    recipe: Recipe,
    lr: float,
    micro_rows: int,
) -> tuple[float, float]:
    """One update; (mean nats over the batch's targets, gradient norm before clipping)."""
    if not batch.targets:
        raise NothingToLearn("a batch with nothing to learn: no token in it carries loss; raise recipe.batch_tokens")
    autocast = torch.autocast("cpu", torch.bfloat16) if recipe.precision == "bf16" else contextlib.nullcontext()
    nats = torch.zeros(())
    for at in range(0, len(batch.tokens_BT), micro_rows):
        part = slice(at, at + micro_rows)
        with autocast:
            logits_BTV = model(
                input_ids=batch.tokens_BT[part],
                position_ids=batch.positions_BT[part],
                attention_mask=None,
                use_cache=False,
            ).logits
        loss = F.cross_entropy(logits_BTV.flatten(0, 1).float(), batch.labels_BT[part].flatten(), reduction="sum")
        # Divided by the whole batch's targets, so that accumulation changes no gradient.
        (loss / batch.targets).backward()
        nats += loss.detach()
    norm = torch.nn.utils.clip_grad_norm_(model.parameters(), recipe.clip)
    mean = float(nats) / batch.targets
    if not (math.isfinite(mean) and math.isfinite(float(norm))):
        raise Diverged(
            f"loss {mean}, gradient norm {float(norm)}: lower recipe.learning_rate (now {recipe.learning_rate:g})"
        )
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = lr
        optimizer.step()
        optimizer.zero_grad()
    return mean, float(norm)


def _reopen(file: Path, step: int):
    """The metrics file, cut back to `step`: what lies after it will be written again."""
    kept = 0
    if file.exists():
        with open(file, "rb") as lines:
            for line in lines:
                if not line.endswith(b"\n") or json.loads(line)["step"] > step:
                    break
                kept += len(line)
        os.truncate(file, kept)
    return open(file, "a", encoding="utf-8")
