"""Our training step beside a bare PyTorch loop and Hugging Face Trainer: same model, data, optimizer and threads.

    .venv/bin/pip install -e '.[bench]' && .venv/bin/python benchmarks/train_cpu.py --out docs/results/train_cpu.md

The three take turns in one process, a few steps each, so that a machine whose speed drifts does so for all. A round's
figure is its mean step; the table gives medians over rounds and the spread of the ratios. Set-up is not counted.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from transformers import PreTrainedModel, Trainer, TrainerCallback, TrainingArguments

from curricle.shapes import PRESETS
from curricle.study import Recipe
from curricle.tokens.sampler import Sampler
from curricle.tokens.shards import Shard, Supply
from curricle.training.loop import train
from curricle.training.model import build

VOCABULARY, CONTEXT = 512, 128


def tokens() -> np.ndarray:
    """A million tokens in documents of 60, closed by the delimiter 0."""
    made = np.random.default_rng(0).integers(1, VOCABULARY, 1_000_000).astype(np.uint16)
    made[59::60] = 0
    return made


def ours(model: PreTrainedModel, recipe: Recipe, data: np.ndarray, steps: int) -> Iterator[None]:
    ends = np.arange(60, len(data) + 1, 60).astype(np.uint64)
    supply = Supply([Shard(data[: int(ends[-1])], ends, None)])
    samples = steps * recipe.batch_tokens // CONTEXT
    sampler = Sampler({"s": supply}, {"s": 1.0}, row_tokens=CONTEXT, samples=samples, seed=0, delimiter=0)
    with tempfile.TemporaryDirectory() as folder:
        for _ in train(model, sampler, recipe, steps=steps, evaluate_at=frozenset(), folder=Path(folder)):
            yield


def bare(model: PreTrainedModel, recipe: Recipe, data: np.ndarray, steps: int) -> Iterator[None]:
    """The shape of nanoGPT's loop: random windows, forward, backward, clip, step. It keeps no documents apart, writes
    no log and no checkpoint."""
    matrices = [p for p in model.parameters() if p.ndim >= 2]
    vectors = [p for p in model.parameters() if p.ndim < 2]
    groups = [{"params": matrices, "weight_decay": recipe.weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=recipe.learning_rate, betas=recipe.betas, fused=True)
    model.train()
    for _ in range(steps):
        starts = np.random.randint(0, len(data) - CONTEXT - 1, recipe.batch_tokens // CONTEXT)
        x = torch.from_numpy(np.stack([data[s : s + CONTEXT] for s in starts]).astype(np.int64))
        y = torch.from_numpy(np.stack([data[s + 1 : s + 1 + CONTEXT] for s in starts]).astype(np.int64))
        logits = model(input_ids=x, use_cache=False).logits
        F.cross_entropy(logits.flatten(0, 1), y.flatten()).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), recipe.clip)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        yield


class Clock(TrainerCallback):
    def __init__(self) -> None:
        self.at: list[float] = []

    def on_step_end(self, *_: object, **__: object) -> None:
        self.at.append(time.perf_counter())


def trainer_round(model: PreTrainedModel, recipe: Recipe, rows: list[dict], steps: int) -> float:
    """Seconds a step of a fresh Trainer, its first step left out."""
    clock = Clock()
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            folder,
            per_device_train_batch_size=recipe.batch_tokens // CONTEXT,
            max_steps=steps + 1,
            learning_rate=recipe.learning_rate,
            weight_decay=recipe.weight_decay,
            max_grad_norm=recipe.clip,
            optim="adamw_torch_fused",
            lr_scheduler_type="constant",
            logging_strategy="steps",
            logging_steps=1,
            save_strategy="no",
            report_to=[],
            disable_tqdm=True,
            use_cpu=True,
        )
        quiet = Trainer(model=model, args=arguments, train_dataset=rows, callbacks=[clock])
        from transformers.trainer_callback import PrinterCallback

        quiet.remove_callback(PrinterCallback)
        quiet.train()
    return (clock.at[-1] - clock.at[0]) / steps


def clocked(steps: int, advance: Callable[[], object]) -> float:
    began = time.perf_counter()
    for _ in range(steps):
        advance()
    return (time.perf_counter() - began) / steps


def compare(preset: str, batch_tokens: int, rounds: int, steps: int) -> list[str]:
    recipe = Recipe(optimizer="adamw", learning_rate=1e-4, batch_tokens=batch_tokens)
    data = tokens()
    rows = [
        {"input_ids": torch.from_numpy(r.astype(np.int64)), "labels": torch.from_numpy(r.astype(np.int64))}
        for r in data[: len(data) // CONTEXT * CONTEXT].reshape(-1, CONTEXT)
    ]
    fresh = lambda: build(PRESETS[preset], vocabulary=VOCABULARY, context=CONTEXT, delimiter=0, seed=0)  # noqa: E731
    total = (rounds + 1) * steps + 1
    loops = {"ours": ours(fresh(), recipe, data, total), "bare PyTorch loop": bare(fresh(), recipe, data, total)}
    theirs = fresh()
    seconds: dict[str, list[float]] = {name: [] for name in (*loops, "Hugging Face Trainer")}
    for number in range(rounds + 1):
        for name, loop in loops.items():
            taken = clocked(steps, lambda loop=loop: next(loop))  # type: ignore[misc]
            if number:  # the first round warms up
                seconds[name].append(taken)
        taken = trainer_round(theirs, recipe, rows, steps)
        if number:
            seconds["Hugging Face Trainer"].append(taken)
    lines = []
    base = seconds["bare PyTorch loop"]
    for name, found in seconds.items():
        ratios = sorted(a / b for a, b in zip(found, base, strict=True))
        middle, low, high = statistics.median(ratios), ratios[len(ratios) // 10], ratios[-1 - len(ratios) // 10]
        extra = (statistics.median(found) - statistics.median(base)) * 1e3
        lines.append(
            f"| {preset} | {batch_tokens:,} | {name} | {statistics.median(found) * 1e3:.1f} | {extra:+.1f} | "
            f"{middle:.3f} ({low:.3f}–{high:.3f}) |"
        )
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--steps", type=int, default=10, help="steps of each in a round")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    lines = [
        "# A training step on a CPU, side by side",
        "",
        f"`benchmarks/train_cpu.py --rounds {options.rounds} --steps {options.steps} --threads {options.threads}`; "
        f"torch {torch.__version__}, AdamW, rows of {CONTEXT} tokens, vocabulary {VOCABULARY}. "
        "The ratio is to the bare loop, round by round: median (10 %–90 %).",
        "",
        "| model | tokens a step | loop | ms a step | against bare, ms | ratio |",
        "|---|---|---|---|---|---|",
    ]
    for preset, batch in (("0.4m", 512), ("1m", 2048), ("10m", 2048)):
        lines += compare(preset, batch, options.rounds, options.steps)
        print("\n".join(lines[-3:]), flush=True)
    if options.out:
        options.out.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
