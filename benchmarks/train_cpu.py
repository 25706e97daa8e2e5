"""Our training step beside a bare PyTorch loop, a LitGPT-style loop with a model of its own, and Hugging Face Trainer.

    .venv/bin/pip install -e '.[bench]' && .venv/bin/python benchmarks/train_cpu.py --out docs/results/train_cpu.md

Same sizes, optimizer, batch and threads. The loops take turns in one process, a few steps each and in an order that
moves on by one each round, so that a machine whose speed drifts does so for all. A round's figure is its mean step;
the table gives medians over rounds, and for ratios, taken round by round, the median with its 95 % interval (of order
statistics, so that one bad round moves nothing) and the middle 80 %. Peak memory is measured in a child process for
each loop alone. Set-up is not counted. No loop saves on its way: a save of ours, by default one each 30 s, is timed
on its own.
"""

from __future__ import annotations

import argparse
import json
import math
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from peer import Decoder, get_batch
from transformers import PreTrainedModel, Trainer, TrainerCallback, TrainingArguments

from curricle.execution import Execution
from curricle.shapes import PRESETS
from curricle.study import Recipe
from curricle.tokens.sampler import Sampler
from curricle.tokens.shards import Shard, Supply
from curricle.training.checkpoint import Saved, Saver
from curricle.training.distribution import Ranks
from curricle.training.loop import train
from curricle.training.model import build
from curricle.training.optimizer import make_optimizers

VOCABULARY, CONTEXT = 512, 128
BATCHES = {"0.4m": 512, "1m": 2048, "3m": 2048, "10m": 2048}
OURS, COMPILED = "ours", "ours, compiled"
BARE, LIT, TRAINER = "bare PyTorch loop", "LitGPT-style loop", "Hugging Face Trainer"


def tokens() -> np.ndarray:
    """A million tokens in documents of 60, closed by the delimiter 0."""
    made = np.random.default_rng(0).integers(1, VOCABULARY, 1_000_000).astype(np.uint16)
    made[59::60] = 0
    return made


def ours(
    model: PreTrainedModel, recipe: Recipe, data: np.ndarray, steps: int, *, compile: bool = False
) -> Iterator[None]:
    how = Execution(compile=compile, save_seconds=math.inf)
    ends = np.arange(60, len(data) + 1, 60).astype(np.uint64)
    supply = Supply([Shard(data[: int(ends[-1])], ends, None)])
    samples = steps * recipe.batch_tokens // CONTEXT
    sampler = Sampler({"s": supply}, [(samples, {"s": 1.0})], row_tokens=CONTEXT, seed=0)
    with tempfile.TemporaryDirectory() as folder:
        told = {"steps": steps, "evaluate_at": frozenset(), "folder": Path(folder), "execution": how}
        for _ in train(model, sampler, recipe, **told):
            yield


def grouped(model: torch.nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    matrices = [p for p in model.parameters() if p.ndim >= 2]
    vectors = [p for p in model.parameters() if p.ndim < 2]
    groups = [{"params": matrices, "weight_decay": recipe.weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=recipe.learning_rate, betas=recipe.betas, fused=True)


def bare(model: PreTrainedModel, recipe: Recipe, data: np.ndarray, steps: int) -> Iterator[None]:
    """The least that trains our model: random windows, forward, backward, clip, step. It keeps no documents apart,
    writes no log and no checkpoint."""
    optimizer = grouped(model, recipe)
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


def lit(preset: str, recipe: Recipe, file: Path, steps: int) -> Iterator[None]:
    """The shape of LitGPT's and nanoGPT's loops: a model of their own with fused projections, batches from a mapped
    file, the loss read every step as ours is. It keeps no documents apart and writes nothing."""
    torch.manual_seed(0)
    model = Decoder(PRESETS[preset], VOCABULARY, CONTEXT)
    optimizer = grouped(model, recipe)
    model.train()
    for _ in range(steps):
        x, y = get_batch(file, recipe.batch_tokens // CONTEXT, CONTEXT)
        loss = model(x, y)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), recipe.clip)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        loss.item()
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


def fresh(preset: str) -> PreTrainedModel:
    return build(PRESETS[preset], vocabulary=VOCABULARY, context=CONTEXT, delimiter=0, seed=0)


def loop_of(name: str, preset: str, steps: int, folder: Path) -> Callable[[int], float]:
    """What runs so many steps of that loop and gives seconds a step. It may be asked for `steps` in all."""
    recipe = Recipe(optimizer="adamw", learning_rate=1e-4, batch_tokens=BATCHES[preset])
    data = tokens()
    if name == TRAINER:
        made = data[: len(data) // CONTEXT * CONTEXT].reshape(-1, CONTEXT).astype(np.int64)
        rows = [{"input_ids": row, "labels": row} for row in torch.from_numpy(made)]
        model = fresh(preset)
        return lambda number: trainer_round(model, recipe, rows, number)
    if name == LIT:
        file = folder / "tokens.bin"
        data.tofile(file)
        loop = lit(preset, recipe, file, steps)
    elif name == BARE:
        loop = bare(fresh(preset), recipe, data, steps)
    else:
        loop = ours(fresh(preset), recipe, data, steps, compile=name == COMPILED)
    return lambda number: clocked(number, lambda: next(loop))


def compare(preset: str, names: list[str], rounds: int, steps: int) -> dict[str, list[float]]:
    """Seconds a step of each loop in each round. The first round warms up and is not counted."""
    seconds: dict[str, list[float]] = {name: [] for name in names}
    with tempfile.TemporaryDirectory() as folder:
        loops = {name: loop_of(name, preset, (rounds + 1) * steps + 1, Path(folder)) for name in names}
        for number in range(rounds + 1):
            turn = number % len(names)
            for name in [*names[turn:], *names[:turn]]:
                taken = loops[name](steps)
                if number:
                    seconds[name].append(taken)
            print(f"\r{preset}: round {number} of {rounds}", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    return seconds


def peak_megabytes(name: str, preset: str, steps: int, threads: int) -> float:
    """The most memory that a process with this loop alone came to, less what it held before the loop was made."""
    command = [sys.executable, __file__, "--memory-of", name, "--models", preset, "--steps", str(steps)]
    found = subprocess.run([*command, "--threads", str(threads)], check=True, capture_output=True, text=True)
    return json.loads(found.stdout.splitlines()[-1])


def memory_of(name: str, preset: str, steps: int) -> float:
    before = resident()
    with tempfile.TemporaryDirectory() as folder:
        loop_of(name, preset, steps + 1, Path(folder))(steps)
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before) / 1e6


def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def of_ratios(found: list[float], base: list[float]) -> str:
    """The median with its 95 % interval from order statistics, and the middle 80 %."""
    ratios = sorted(a / b for a, b in zip(found, base, strict=True))
    n = len(ratios)
    # The least k for which the k-th smallest and the k-th largest hold the median between them with 95 %.
    tail, k = 0.0, 0
    while k < n // 2 and (tail := tail + math.comb(n, k) / 2**n) <= 0.025:
        k += 1
    interval = f"{ratios[k - 1]:.3f}–{ratios[n - k]:.3f}" if k else "too few rounds"
    return f"{statistics.median(ratios):.3f} ({interval}) | {ratios[n // 10]:.3f}–{ratios[n - 1 - n // 10]:.3f}"


def table_rows(preset: str, seconds: dict[str, list[float]], memory: dict[str, float]) -> list[str]:
    base = seconds[BARE]
    peers = [name for name in seconds if name not in (OURS, COMPILED)]
    fastest = min(peers, key=lambda name: statistics.median(seconds[name]))
    lines = []
    for name, found in seconds.items():
        extra = statistics.median(a - b for a, b in zip(found, base, strict=True)) * 1e3
        lines.append(
            f"| {preset} | {BATCHES[preset]:,} | {name} | {statistics.median(found) * 1e3:.1f} | {extra:+.1f} | "
            f"{of_ratios(found, base)} | {memory[name]:,.0f} |"
        )
    ratio = of_ratios(seconds[OURS], seconds[fastest])
    lines.append(f"| {preset} | {BATCHES[preset]:,} | *ours over the fastest peer, {fastest}* | | | {ratio} | |")
    return lines


def save_milliseconds(preset: str) -> float:
    """The median of five whole checkpoints: weights and both moments of AdamW, to this machine's disk."""
    model, recipe = fresh(preset), Recipe(optimizer="adamw", batch_tokens=BATCHES[preset])
    optimizers = make_optimizers(model, recipe)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizers[0].step()
    with tempfile.TemporaryDirectory() as folder:
        saver = Saver(Path(folder), Ranks.alone(), keep=2, ahead=False)
        taken = [clocked(1, lambda step=step: saver.save(model, optimizers, Saved(step, step))) for step in range(5)]
    return 1e3 * statistics.median(taken)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--steps", type=int, default=10, help="steps of each in a round")
    parser.add_argument("--models", nargs="+", choices=list(BATCHES), default=["1m", "10m"])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--compiled", action="store_true", help="our loop with torch.compile, too")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--memory-of", help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.memory_of:
        print(json.dumps(memory_of(options.memory_of, options.models[0], options.steps)))
        return
    asked = f"--rounds {options.rounds} --steps {options.steps} --threads {options.threads}"
    models = " ".join(options.models) + (" --compiled" if options.compiled else "")
    lines = [
        "# A training step on a CPU, side by side",
        "",
        f"`benchmarks/train_cpu.py {asked} --models {models}`; torch {torch.__version__}, AdamW, "
        f"rows of {CONTEXT} tokens, vocabulary {VOCABULARY}. Ratios and differences are to the bare loop, round by "
        "round. Memory is the process's peak above what it held before the loop was made.",
        "",
        "| model | tokens a step | loop | ms a step | overhead, ms | ratio (95 % of the median) | middle 80 % | MB |",
        "|---|---|---|---|---|---|---|---|",
    ]
    names = [OURS, *([COMPILED] if options.compiled else []), BARE, LIT, TRAINER]
    saves: list[str] = []
    for preset in options.models:
        memory = {name: peak_megabytes(name, preset, options.steps, options.threads) for name in names}
        added = table_rows(preset, compare(preset, names, options.rounds, options.steps), memory)
        lines += added
        print("\n".join(added), flush=True)
        saves.append(f"{save_milliseconds(preset):.0f} ms at {preset}")
    lines += [
        "",
        f"A save of ours (by default one each 30 s, never more than a twentieth of the time): {', '.join(saves)}.",
    ]
    if options.out:
        options.out.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
