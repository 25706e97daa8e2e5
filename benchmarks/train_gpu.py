"""Our training step on one GPU beside Hugging Face Trainer: tokens a second, and the share of the measured bf16 peak.

    .venv/bin/pip install -e '.[bench]' && .venv/bin/python benchmarks/train_gpu.py --out docs/results/train_gpu.md

The presets 160m, 400m and 1b (50,304 tokens of vocabulary), rows of 4,096 tokens, bf16 with fp32 master weights, fused
AdamW, clipping, the loss read every step; each loop with and without `torch.compile`. Ours keeps the documents of a row
apart (1,000 tokens each); Trainer, which is given the same rows, does not, and so does more of attention's arithmetic.
FLOPs are 6 a weight that multiplies and 6·L·H·T of causal attention a token (`Shape.training_flops_per_token`), with T
the row for Trainer and the document for ours: only what a loop does is counted. The peak is what `curricle calibrate`
measures, the best of large matrix products.

Each loop has a process to itself, so that memory is its own and nothing compiled is shared. Steps after the first
`--warm` are timed one by one, but for the last, with which ours saves; the median stands in the table with the middle
80 %.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch

from curricle.execution import Execution
from curricle.running.calibration import peak
from curricle.shapes import PRESETS
from curricle.store import Store
from curricle.study import Recipe
from curricle.tokens.sampler import Sampler
from curricle.tokens.shards import Shard, Supply
from curricle.training.loop import train
from curricle.training.model import build

CONTEXT, DOCUMENT = 4096, 1000
ROWS = {"0.4m": 2, "160m": 32, "400m": 16, "1b": 16}  # of a batch
MICRO = {"0.4m": 8192, "160m": 65_536, "400m": 32_768, "1b": 16_384}  # tokens at once, where that is not the default
OURS, COMPILED = "ours, not compiled", "ours, compiled (the default)"
PATIENCE = 200.0  # seconds for one loop
TRAINER, TRAINER_COMPILED = "Hugging Face Trainer", "Hugging Face Trainer, compiled"
OURS_TOO = (COMPILED, OURS)
LOOPS = (*OURS_TOO, TRAINER, TRAINER_COMPILED)


def vocabulary(preset: str) -> int:
    return PRESETS[preset].vocabulary or 512


def documents(preset: str) -> np.ndarray:
    """Some million tokens in documents of 1,000, closed by the delimiter 0."""
    made = np.random.default_rng(0).integers(1, vocabulary(preset), 4_000_000).astype(np.uint32)
    made[DOCUMENT - 1 :: DOCUMENT] = 0
    return made


def recipe_of(preset: str) -> Recipe:
    return Recipe(optimizer="adamw", learning_rate=1e-4, batch_tokens=ROWS[preset] * CONTEXT, precision="bf16")


def ours(preset: str, steps: int, compile: bool) -> Iterator[float]:
    """Seconds of each step."""
    data, recipe = documents(preset), recipe_of(preset)
    how = Execution(compile=compile, save_seconds=math.inf, micro_batch_tokens=MICRO[preset])
    supply = Supply([Shard(data, np.arange(DOCUMENT, len(data) + 1, DOCUMENT).astype(np.uint64), None)])
    sampler = Sampler({"s": supply}, [(steps * ROWS[preset], {"s": 1.0})], row_tokens=CONTEXT, seed=0)
    model = build(PRESETS[preset], vocabulary=vocabulary(preset), context=CONTEXT, delimiter=0, seed=0)
    with tempfile.TemporaryDirectory() as folder:
        told: dict[str, Any] = {"steps": steps, "evaluate_at": frozenset(), "folder": Path(folder), "execution": how}
        began = time.perf_counter()
        for _ in train(model, sampler, recipe, **told):  # the last step's save comes after its time is taken
            yield time.perf_counter() - began
            began = time.perf_counter()


def trainer(preset: str, steps: int, compile: bool) -> Iterator[float]:
    from transformers import Trainer, TrainerCallback, TrainingArguments
    from transformers.trainer_callback import PrinterCallback

    recipe, at_once = recipe_of(preset), max(1, MICRO[preset] // CONTEXT)
    data = documents(preset)
    rows = torch.from_numpy(data[: len(data) // CONTEXT * CONTEXT].reshape(-1, CONTEXT).astype(np.int64))
    model = build(PRESETS[preset], vocabulary=vocabulary(preset), context=CONTEXT, delimiter=0, seed=0)
    at: list[float] = []

    class Clock(TrainerCallback):
        def on_step_end(self, *_: object, **__: object) -> None:
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            at.append(time.perf_counter())

    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            folder,
            per_device_train_batch_size=min(at_once, ROWS[preset]),
            gradient_accumulation_steps=max(1, ROWS[preset] // at_once),
            max_steps=steps,
            learning_rate=recipe.learning_rate,
            weight_decay=recipe.weight_decay,
            max_grad_norm=recipe.clip,
            optim="adamw_torch_fused",
            lr_scheduler_type="constant",
            bf16=True,
            torch_compile=compile,
            logging_strategy="steps",
            logging_steps=1,
            save_strategy="no",
            report_to=[],
            disable_tqdm=True,
            dataloader_num_workers=2,
            use_cpu=not torch.cuda.is_available(),
        )
        quiet = Trainer(
            model=model,
            args=arguments,
            train_dataset=[{"input_ids": r, "labels": r} for r in rows],
            callbacks=[Clock()],
        )
        quiet.remove_callback(PrinterCallback)
        quiet.train()
    yield math.nan
    yield from (b - a for a, b in pairwise(at))


def measured(name: str, preset: str, steps: int, warm: int) -> dict[str, float]:
    began = time.perf_counter()
    loop = ours(preset, steps, name == COMPILED) if name in OURS_TOO else None
    taken = list(loop if loop is not None else trainer(preset, steps, name == TRAINER_COMPILED))
    counted = sorted(taken[warm:-1])
    n = len(counted)
    return {
        "seconds": statistics.median(counted), "low": counted[n // 10], "high": counted[n - 1 - n // 10],
        "all": time.perf_counter() - began,
        "gigabytes": torch.cuda.max_memory_allocated() / 1e9 if torch.cuda.is_available() else math.nan,
    }  # fmt: skip


def alone(name: str, preset: str, steps: int, warm: int) -> dict[str, float] | str:
    """The same in a process of its own; in words, what went wrong there."""
    asked = ["--one", name, "--models", preset, "--steps", str(steps), "--warm", str(warm)]
    try:
        found = subprocess.run([sys.executable, __file__, *asked], capture_output=True, text=True, timeout=PATIENCE)
    except subprocess.TimeoutExpired:
        return f"not done after {PATIENCE:.0f} s"
    if found.returncode:
        print(found.stderr[-3000:], file=sys.stderr, flush=True)
        return (found.stderr.strip().splitlines() or ["no word"])[-1][:200]
    return json.loads(found.stdout.splitlines()[-1])


def row(name: str, preset: str, made: dict[str, float] | str, best: float) -> str:
    if isinstance(made, str):
        return f"| {preset} | {name} | failed: {made} | | | | | |"
    tokens = ROWS[preset] * CONTEXT
    each = PRESETS[preset].training_flops_per_token(vocabulary(preset), DOCUMENT if name in OURS_TOO else CONTEXT)
    low, high = (tokens / made[end] for end in ("high", "low"))
    rate = tokens / made["seconds"]
    return (
        f"| {preset} | {name} | {tokens:,} | {made['seconds'] * 1e3:.1f} | {rate:,.0f} ({low:,.0f}–{high:,.0f}) | "
        f"{100 * rate * each / best:.1f} % | {made['gigabytes']:.1f} | {made['all']:.0f} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=list(ROWS), default=["160m", "400m", "1b"])
    parser.add_argument("--loops", nargs="+", choices=LOOPS, default=list(LOOPS))
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--warm", type=int, default=6)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        print(json.dumps(measured(given.one, given.models[0], given.steps, given.warm)))
        return
    device = "cuda:0" if torch.cuda.is_available() else "cpu"
    with tempfile.TemporaryDirectory() as folder:
        best = peak(Store(Path(folder)), device)
    most, copied = best.flops_per_second["bf16"], best.copy_bytes_per_second
    asked = f"--models {' '.join(given.models)} --steps {given.steps} --warm {given.warm}"
    at_once = ", ".join(f"{MICRO[p]:,} tokens at once at {p}" for p in given.models)
    lines = [
        "# A training step on a GPU, side by side",
        "",
        f"`benchmarks/train_gpu.py {asked}`; {best.name}, torch {torch.__version__}. The bf16 peak measured here is "
        f"{most / 1e12:,.0f} TFLOP/s, a memory copy {copied / 1e12:.2f} TB/s. Rows of {CONTEXT} tokens, {at_once}; "
        f"medians of {given.steps - given.warm - 1} steps with the middle 80 %. `whole` is the process's time, with "
        "making the model and compiling.",
        "",
        "| model | loop | tokens a step | ms a step | tokens/s | of the peak | GB | whole, s |",
        "|" + "---|" * 8,
    ]
    print("\n".join(lines), flush=True)
    for preset in given.models:
        for name in given.loops:
            lines.append(row(name, preset, alone(name, preset, given.steps, given.warm), most))
            print(lines[-1], flush=True)
            if given.out:
                given.out.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
