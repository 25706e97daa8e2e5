"""Kill a study again and again, and look whether it ends as if nobody had touched it.

    python scripts/soak.py --kills 200 --ranks 2        (about 10 s a kill; prints a line each, and the verdict)

A small study is run undisturbed, then in another store with a SIGKILL or SIGTERM at random moments after its start, to
the driver or to one of its workers, until it has been stopped so often, and then to its end. The weights of all runs
must be equal byte for byte, and nothing half written may be left.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
import yaml

STUDY = {
    "question": "Does it end in the same weights?",
    "model": {"preset": "0.5m", "context": 64},
    "tokenizer": {"bpe": 320, "sample_bytes": 100_000},
    "sources": {"sums": {"generated": ["chain_sum"]}, "equations": {"generated": ["simple_equations"]}},
    "stages": {
        "first": {
            "phases": [
                {"until": "50%", "mixture": {"sums": 1}},
                {"until": "100%", "mixture": {"sums": 0.5, "equations": 0.5}},
            ],
            "budget_tokens": 0,
        },
        "branch": {"mixture": {"equations": 1}, "budget_tokens": 0, "branch_at": 0},
    },
    "strategies": {"one": ["first"], "two": ["first", "branch"]},
    "baseline": "one",
    "benchmarks": {"problems": {"generated": ["chain_sum"], "problems": 8, "max_new_tokens": 8}},
    "held_out": {"scored_bytes": 2000},
    "recipe": {"batch_tokens": 512},
    "seeds": [0, 1],
}


def written(folder: Path, tokens: int, checkpoint: str | None) -> Path:
    """The study as a file; with a `checkpoint` it begins from that model."""
    study = yaml.safe_load(yaml.safe_dump(STUDY))
    study["stages"]["first"] |= {"budget_tokens": tokens, "evaluate_at": [tokens // 4]}
    study["stages"]["branch"] |= {"budget_tokens": tokens // 2, "branch_at": tokens // 2}
    if checkpoint:
        study["model"] = {"checkpoint": str(Path(checkpoint).resolve()), "context": 64}
        study |= {"tokenizer": None, "seeds": [0], "recipe": {"batch_tokens": 512, "optimizer": "adamw",
                                                              "learning_rate": 1e-4, "precision": "bf16"}}  # fmt: skip
    file = folder / "soak.yaml"
    file.write_text(yaml.safe_dump(study))
    return file


def command(file: Path, store: Path, ranks: int) -> list[str]:
    run = [
        sys.executable,
        "-m",
        "curricle",
        "run",
        str(file),
        "--store",
        str(store),
        "--out",
        str(store.parent / "out"),
    ]
    return [*run, "--nproc-per-node", str(ranks), "--workers", "1"] if ranks > 1 else run


def weights(store: Path) -> dict[str, bytes]:
    """Every exported model of every run, by place. (Checkpoints hold the same tensors, but the order of their files'
    headers is the writer's threads'.)"""
    files = [f for part in ("model", "points/*") for f in sorted(store.glob(f"runs/*/*/{part}/*.safetensors"))]
    return {str(f.relative_to(store)): f.read_bytes() for f in files}


def stray(store: Path) -> list[str]:
    """What a killed process left half written."""
    return [str(f.relative_to(store)) for f in store.glob("**/.*.tmp")]


def struck(process: subprocess.Popen, chance: random.Random) -> str:
    """Hit the driver, or one of its workers, by a signal; what was done, in words."""
    number = chance.choice([signal.SIGKILL, signal.SIGTERM])
    workers = [c for c in psutil.Process(process.pid).children() if "multiprocessing" in " ".join(c.cmdline())]
    if workers and chance.random() < 0.3:
        chance.choice(workers).kill()
        return "SIGKILL to a worker"
    process.send_signal(number)
    return f"{number.name} to the driver"


def soak(kills: int, ranks: int, tokens: int, seed: int, checkpoint: str | None = None, say=print) -> list[str]:
    """Run, strike, run again; the faults that were found."""
    chance = random.Random(seed)
    place = Path(tempfile.mkdtemp(prefix="soak-"))
    file = written(place, tokens, checkpoint)
    began = time.monotonic()
    subprocess.run(command(file, place / "whole" / "store", ranks), check=True, stdout=subprocess.DEVNULL)
    undisturbed = time.monotonic() - began
    say(f"undisturbed: {undisturbed:.0f} s, {len(weights(place / 'whole' / 'store'))} files of weights")
    store, struck_so_far, finished = place / "cut" / "store", 0, 0
    while struck_so_far < kills:
        with subprocess.Popen(
            command(file, store, ranks), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
        ) as process:
            try:
                process.wait(timeout=chance.uniform(0.5, 1.0) * min(undisturbed, 20))
            except subprocess.TimeoutExpired:
                struck_so_far += 1
                how = struck(process, chance)
                process.wait(timeout=120)
                say(f"{struck_so_far:4d}  {time.monotonic() - began:6.0f} s  {how}: exit {process.returncode}")
            else:
                finished += 1
                if process.returncode:
                    return [f"exit {process.returncode} without a signal: {process.stderr.read().decode()[-2000:]}"]
                shutil.rmtree(store / "runs")  # what is left of the kills begins anew
                shutil.rmtree(store / "states", ignore_errors=True)
    done = subprocess.run(command(file, store, ranks), capture_output=True, text=True)
    faults = [f"the last run failed: {done.stderr[-2000:]}"] if done.returncode else []
    one, other = weights(place / "whole" / "store"), weights(store)
    if one != other:
        differ = sorted(n for n in one.keys() | other.keys() if one.get(n) != other.get(n))
        faults.append(f"{len(differ)} of {len(one)} files of weights differ, the first {differ[0]}")
    faults += [f"left half written: {name}" for name in stray(store / "runs")]
    say(f"{struck_so_far} times struck, {finished} times finished on the way; {len(one)} files of weights compared")
    if not faults:
        shutil.rmtree(place)
    return faults


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--ranks", type=int, default=1)
    parser.add_argument("--tokens", type=int, default=40_960)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--checkpoint", help="begin from this model (a folder) instead of a small one")
    asked = parser.parse_args()
    os.environ.setdefault("PYTHONUNBUFFERED", "1")
    faults = soak(asked.kills, asked.ranks, asked.tokens, asked.seed, asked.checkpoint)
    print("\n".join(faults) or "the same weights to the byte, nothing half written")
    sys.exit(bool(faults))


if __name__ == "__main__":
    main()
