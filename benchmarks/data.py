"""Tokenising and batch assembly: tokens a second, and assembly's share of a training step.

    .venv/bin/python benchmarks/data.py --out docs/results/data.md

Assembly must stay below 2 % of a step. Both are timed in turns in one process.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from itertools import islice
from pathlib import Path

import torch

from curricle.corpus.installed import installed_documents
from curricle.corpus.problems import generated_documents
from curricle.shapes import PRESETS
from curricle.study import Generated, Installed, Recipe
from curricle.tokens.sampler import Sampler
from curricle.tokens.shards import Supply, write_shard
from curricle.tokens.tokenizer import train_bpe
from curricle.training.loop import update
from curricle.training.model import build
from curricle.training.optimizer import make_optimizers


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    code = list(installed_documents(Installed(installed="code"), "code"))
    algebra = list(islice(generated_documents(Generated(generated=("chain_sum",)), "algebra", 0), 10_000))
    tokenizer = train_bpe((part for d in [*code[::8], *algebra[:2000]] for part in (d.prompt, d.text)), 512)
    lines = [
        "# Data on a CPU",
        "",
        f"`benchmarks/data.py --rounds {options.rounds}`; one run, one training thread, vocabulary {len(tokenizer)}.",
        "",
        "| what | figure |",
        "|---|---|",
    ]
    with tempfile.TemporaryDirectory() as folder:
        supplies = {}
        for name, documents in (("code", code), ("algebra", algebra)):
            began = time.perf_counter()
            write_shard(Path(folder) / name, documents, tokenizer)
            taken = time.perf_counter() - began
            supplies[name] = Supply.open([Path(folder) / name])
            lines.append(
                f"| tokenising {name} into a shard, {supplies[name].tokens / 1e6:.1f}M tokens | "
                f"{supplies[name].tokens / taken / 1e6:.2f}M tokens/s |"
            )
        for preset, batch_tokens, context in (("0.4m", 512, 128), ("1m", 4096, 256), ("10m", 4096, 256)):
            recipe = Recipe(batch_tokens=batch_tokens)
            rows = batch_tokens // context
            sampler = Sampler(
                supplies, [(rows * 1000, {"code": 0.5, "algebra": 0.5})], row_tokens=context, seed=0,
            )  # fmt: skip
            model = build(PRESETS[preset], vocabulary=len(tokenizer), context=context, delimiter=0, seed=0)
            optimizers = make_optimizers(model, recipe)
            assembly, step = [], []
            for number in range(options.rounds + 2):
                began = time.perf_counter()
                batch = sampler.batch(number * rows, (number + 1) * rows)
                assembled = time.perf_counter()
                update(model, optimizers, batch, recipe, 1e-3, rows)
                assembly.append(assembled - began)
                step.append(time.perf_counter() - assembled)
            a, s = statistics.median(assembly[2:]), statistics.median(step[2:])
            lines.append(
                f"| assembling {batch_tokens:,} tokens ({rows} rows of {context}) | "
                f"{batch_tokens / a / 1e6:.1f}M tokens/s, "
                f"{a * 1e3:.2f} ms: {a / s:.2%} of a {preset} step ({s * 1e3:.0f} ms) |"
            )
    print("\n".join(lines))
    if options.out:
        options.out.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
