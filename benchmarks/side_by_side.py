"""Twelve independent small runs, one after the other, as processes side by side, and as tasks of a local Ray.

    .venv/bin/pip install -e '.[ray]' && .venv/bin/python benchmarks/side_by_side.py --out docs/results/side_by_side.md

Each way has a store of its own in which the corpora and tokens lie already, so that what is timed is starting workers,
training and evaluating; a round tries all ways, in turn, so that a machine whose speed drifts does so for all. Every
way must end in the same weights to the bit, or there is no table.
"""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from curricle.execution import Execution
from curricle.planning import Plan
from curricle.running import runner
from curricle.running.preparation import make_plan, prepare, write_streams
from curricle.running.standing import Standing, saved
from curricle.running.workers import LocalCrew, cores
from curricle.store import Store
from curricle.studyfile import load_study

ONE, ALL_THREADS = "one after the other, one thread", "one after the other, all threads"
WAYS: dict[str, dict[str, Any]] = {
    ONE: {},
    ALL_THREADS: {"workers": 1},
    "processes (the default)": {},
    "local Ray": {"on": "local"},
}


def study(runs: int, tokens: int, preset: str) -> dict[str, Any]:
    """A stage for each strategy, none shared: as many runs, none of which waits for another."""
    half = runs // 2
    names = [f"{source} {rate:g}" for source in ("prose", "algebra") for rate in range(1, half + 1)]
    stages = {
        name: {
            "mixture": {name.split()[0]: 1},
            "budget_tokens": tokens,
            "recipe": {"learning_rate": 1e-3 * int(name.split()[1])},
        }
        for name in names
    }
    return {
        "question": "How much sooner are independent runs done side by side?",
        "model": {"preset": preset, "context": 128},
        "tokenizer": {"bpe": 512},
        "sources": {
            "prose": {"installed": "prose"},
            "algebra": {"generated": ["chain_sum", "simple_equations"]},
        },
        "stages": stages,
        "strategies": {name: [name] for name in names},
        "baseline": names[0],
        "benchmarks": {"problems": {"generated": ["chain_sum"], "problems": 50, "max_new_tokens": 24}},
        "held_out": {"scored_bytes": 12_000},
        "recipe": {"batch_tokens": 512},
        "seeds": [0],
    }


def one_by_one(plan: Plan, store: Path) -> None:
    """One worker with the threads that it has among several: `workers=1` would give it all cores, and other sums."""
    prepared = prepare(plan.study, Store(store))
    crew = LocalCrew(prepared, cores(), Execution(), left=1)
    leavings = runner.Leavings(lambda run: saved(prepared.store, run))
    for _ in runner.execute(Standing(plan), crew, leavings, lambda: False):
        pass


def timed(plan: Plan, prepared_store: Path, way: str) -> tuple[float, dict[str, bytes]]:
    """Wall seconds of one way in a fresh copy of the prepared store, and every run's weights as bytes."""
    with tempfile.TemporaryDirectory() as folder:
        store = Path(folder) / "store"
        shutil.copytree(prepared_store, store)
        began = time.perf_counter()
        if way == ONE:
            one_by_one(plan, store)
        else:
            runner.run(plan, store=store, out=Path(folder) / "out", **WAYS[way])
        seconds = time.perf_counter() - began
        files = {run: Store(store).run_folder(run) / "model" / "model.safetensors" for run in plan.nodes}
        return seconds, {run: file.read_bytes() for run, file in files.items()}


def table(seconds: dict[str, list[float]], runs: int, parameters: int, tokens: int) -> Iterator[str]:
    import torch

    rounds = len(next(iter(seconds.values())))
    yield "# Independent runs side by side\n"
    yield (
        f"{runs} runs of {tokens:,} tokens each, {parameters:,} parameters, evaluation counted; {cores()} cores "
        f"({platform.machine()}, load {os.getloadavg()[0]:.1f} at the end), torch {torch.__version__}, one thread a "
        f"run where nothing else is said; median of {rounds} rounds. The weights "
        f"are the same to the bit in all rounds and ways (but for all threads, which add in another order).\n"
    )
    yield "| way | wall seconds | least to most | times as fast as the first |"
    yield "|---|---|---|---|"
    first = next(iter(seconds.values()))
    for way, taken in seconds.items():
        ratios = [one / other for one, other in zip(first, taken, strict=True)]
        yield (
            f"| {way} | {statistics.median(taken):.1f} | {min(taken):.1f} to {max(taken):.1f} | "
            f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f}) |"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=12)
    parser.add_argument("--tokens", type=int, default=200_000, help="of each run")
    parser.add_argument("--preset", default="0.4m")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "side-by-side.yaml"
        file.write_text(yaml.safe_dump(study(asked.runs, asked.tokens, asked.preset), sort_keys=False))
        store = Path(folder) / "store"
        plan = make_plan(load_study(file), store)
        write_streams(prepare(plan.study, Store(store)), plan)
        seconds: dict[str, list[float]] = {way: [] for way in WAYS}
        weights: dict[str, bytes] = {}
        for number in range(asked.rounds):
            for way in WAYS:
                taken, found = timed(plan, store, way)
                weights = weights or found
                different = [run for run in found if found[run] != weights[run]]
                if different and way != ALL_THREADS:  # more threads add in another order
                    raise SystemExit(f"{way}: {len(different)} of {len(found)} runs have other weights: {different[0]}")
                seconds[way].append(taken)
                print(f"round {number + 1}: {way}, {taken:.1f} s", flush=True)
        text = "\n".join(table(seconds, len(plan.nodes), plan.parameters, asked.tokens)) + "\n"
    print(text)
    if asked.out is not None:
        asked.out.write_text(text)


if __name__ == "__main__":
    main()
