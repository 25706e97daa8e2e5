"""Kill a study again and again, and look whether it ends as if nobody had touched it.

    python scripts/soak.py --kills 200 --ranks 2        (about 10 s a kill; prints a line each, and the verdict)

A small study is run undisturbed, then in another store with a SIGKILL or SIGTERM at random moments, to the driver or
to one of its workers, until it has been stopped so often, and then to its end. One strike in five may come before a run
has begun; the others come after. Each time the study is at its end the weights of all runs must be equal byte for byte
to the undisturbed ones, every answer and score the same, every step noted once, and nothing half written and no
checkpoint left but those that other runs begin from; then it begins anew. A driver that was asked to stop must have
saved and left with 130.
"""

from __future__ import annotations

import argparse
import json
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

EARLY = 0.2  # of the strikes need not wait until a run has begun


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


def answers(store: Path) -> dict[str, list]:
    """The rows of every evaluation, by place."""
    import pyarrow.parquet as pq

    return {
        str(f.relative_to(store)): pq.read_table(f).to_pylist() for f in store.glob("runs/*/*/evaluations/*.parquet")
    }


def noted(store: Path) -> dict[str, list]:
    """What every run's metrics say: steps with their losses, and the scores on held-out text, but for times."""
    found = {}
    for file in store.glob("runs/*/*/metrics.jsonl"):
        lines = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
        # A run that was left during an evaluation and resumed before it notes the scores at another place.
        found[str(file.relative_to(store))] = [[r["step"], r["loss_nats"]] for r in lines if "loss_nats" in r] + sorted(
            [r["step"], json.dumps(r["evaluation"])] for r in lines if "evaluation" in r
        )
    return found


def states(store: Path) -> list[str]:
    """The checkpoints that are there."""
    return sorted(str(f.relative_to(store)) for f in store.glob("runs/*/*/checkpoints/*"))


def all_of(store: Path) -> dict[str, dict]:
    """What a store holds that nobody's strike may change, by kind."""
    return {
        "files of weights": weights(store),
        "evaluations": answers(store),
        "runs' metrics": noted(store),
        "checkpoints": dict.fromkeys(states(store)),
    }


def stray(store: Path) -> list[str]:
    """What a killed process left half written."""
    return [str(f.relative_to(store)) for f in store.glob("**/.*.tmp")]


def begun(process: subprocess.Popen, store: Path, since: float) -> None:
    """Wait until a worker has begun with a run: on a busy machine most strikes would hit imports otherwise."""
    until = time.monotonic() + 120
    while (
        process.poll() is None
        and time.monotonic() < until
        and all(f.stat().st_mtime < since for f in store.glob("runs/*/*/receipt.json"))
    ):
        time.sleep(0.05)


def is_worker(process: psutil.Process) -> bool:
    """Whether it is a worker: neither what workers are forked from nor what counts their resources."""
    try:
        words = " ".join(process.cmdline())
        return "multiprocessing" in words and "resource_tracker" not in words and not process.children()
    except psutil.NoSuchProcess:  # it has just ended
        return False


def struck(process: subprocess.Popen, chance: random.Random) -> tuple[str, set[int]]:
    """Hit the driver, or one of its workers, by a signal; what was done, in words, and how it may leave then. (A driver
    that is hit before it listens dies of the signal; one that was at its end anyway leaves with 0.)"""
    number = chance.choice([signal.SIGKILL, signal.SIGTERM])
    workers = [c for c in psutil.Process(process.pid).children(recursive=True) if is_worker(c)]
    if workers and chance.random() < 0.15:
        chance.choice(workers).kill()
        return "SIGKILL to a worker", {0}
    process.send_signal(number)
    # The children are looked at before it is hit, so that even a killed one may have come to its end meanwhile.
    allowed = {-signal.SIGKILL, 0} if number == signal.SIGKILL else {130, 0, -signal.SIGTERM}
    return f"{number.name} to the driver", allowed


def faults_of(store: Path, whole: dict[str, dict]) -> list[str]:
    """What is wrong with a store in which everything is done."""
    faults = []
    for kind, found in all_of(store).items():
        wanted = whole[kind]
        differ = [n for n in sorted(wanted.keys() | found.keys()) if n not in wanted or n not in found]
        differ += [n for n in sorted(wanted.keys() & found.keys()) if wanted[n] != found[n]]
        if differ:
            faults.append(f"{len(differ)} of {len(wanted)} {kind} differ, the first {differ[0]}")
    return faults + [f"left half written: {name}" for name in stray(store / "runs")]


def soak(kills: int, ranks: int, tokens: int, seed: int, checkpoint: str | None = None, say=print) -> list[str]:
    """Run, strike, run again; the faults that were found."""
    chance = random.Random(seed)
    place = Path(tempfile.mkdtemp(prefix="soak-"))
    file = written(place, tokens, checkpoint)
    began = time.monotonic()
    subprocess.run(command(file, place / "whole" / "store", ranks), check=True, stdout=subprocess.DEVNULL)
    undisturbed = time.monotonic() - began
    whole = all_of(place / "whole" / "store")
    counted = ", ".join(f"{len(found)} {kind}" for kind, found in whole.items())
    say(f"undisturbed: {undisturbed:.0f} s; {counted}")
    store, struck_so_far, finished, asked_early = place / "cut" / "store", 0, 0, 0
    while struck_so_far < kills:
        with subprocess.Popen(
            command(file, store, ranks), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
        ) as process:
            early = chance.random() < EARLY
            if not early:
                begun(process, store, time.time())
            try:
                process.wait(timeout=chance.uniform(0.1, 1.0) * min(undisturbed, 20) * (1 if early else 0.5))
            except subprocess.TimeoutExpired:
                struck_so_far += 1
                how, allowed = struck(process, chance)
                process.wait(timeout=120 + 2 * undisturbed)  # where a worker was hit, the driver does the other runs
                say(f"{struck_so_far:4d}  {time.monotonic() - began:6.0f} s  {how}: exit {process.returncode}")
                if process.returncode not in allowed:
                    return [f"{how}: exit {process.returncode}: {process.stderr.read().decode()[-2000:]}"]
                asked_early += process.returncode == -signal.SIGTERM
            else:
                finished += 1
                if process.returncode:
                    return [f"exit {process.returncode} without a signal: {process.stderr.read().decode()[-2000:]}"]
                if faults := faults_of(store, whole):
                    return faults
                say(f"      {time.monotonic() - began:6.0f} s  at its end: all the same; it begins anew")
                shutil.rmtree(store / "runs")
                shutil.rmtree(store / "states", ignore_errors=True)
    done = subprocess.run(command(file, store, ranks), capture_output=True, text=True)
    faults = [f"the last run failed: {done.stderr[-2000:]}"] if done.returncode else faults_of(store, whole)
    say(
        f"{struck_so_far} times struck ({asked_early} before it listened to SIGTERM), {finished + 1} times at its end; "
        f"{counted} compared each time"
    )
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
    print("\n".join(faults) or "the same weights to the byte, the same answers and metrics, nothing half written")
    sys.exit(bool(faults))


if __name__ == "__main__":
    main()
