"""A synthetic study with known truth, written as the result rows that a real one leaves."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from curricle.results import SCHEMAS, Results, write_rows

# strategy → (what comes first, its head start in logits at the first point of the mathematics stage)
ARMS = {"code first": ("code", 2.0), "language first": ("language", 2.0), "from scratch": (None, 0.0)}
POINTS = (100, 200, 400)
PROBLEMS, DOCUMENTS = 120, 40
BPB = {"untrained": 8.0, "code": 1.5, "math": 2.5}  # of the held-out code text, after each stage


def synthetic(
    seeds: tuple[int, ...] = (0, 1, 2),
    arms: dict[str, tuple[str | None, float]] = ARMS,
    base_logit: float = -1.0,
    seed_sd: float = 0.1,
) -> dict[str, list[dict]]:
    """Rows in which the head start fades as 1/tokens, and bits per byte are those of BPB up to noise."""
    random = np.random.default_rng(7)
    ease = random.normal(0, 1, PROBLEMS)
    size = random.integers(50, 400, DOCUMENTS)
    runs: list[dict] = []
    evaluations: list[dict] = []

    def problems(run: str, stage: str, seed: int, tokens: int, final: bool, logit: float) -> None:
        right = random.random(PROBLEMS) < 1 / (1 + np.exp(-(logit + ease + random.normal(0, seed_sd))))
        for i, correct in enumerate(right):
            evaluations.append(
                {"run": run, "stage": stage, "seed": seed, "tokens": tokens, "final": final, "benchmark": "algebra",
                 "kind": "problems", "item": f"p{i:03}", "nats": 20.0 - 2 * logit - ease[i] + random.normal(0, 0.5),
                 "target_tokens": 10, "bytes": 30, "correct": bool(correct)}
            )  # fmt: skip

    def text(run: str, stage: str, seed: int, tokens: int, final: bool, bpb: float) -> None:
        level = bpb + random.normal(0, 0.02)
        for i, length in enumerate(size):
            nats = level * math.log(2) * length * (1 + random.normal(0, 0.03))
            evaluations.append(
                {"run": run, "stage": stage, "seed": seed, "tokens": tokens, "final": final, "benchmark": "code text",
                 "kind": "held-out", "item": f"d{i:03}", "nats": nats, "target_tokens": 10, "bytes": int(length)}
            )  # fmt: skip

    for name, (first, head_start) in arms.items():
        for seed in seeds:
            stages = ([(first, 500)] if first else []) + [("math", POINTS[-1])]
            for position, (stage, budget) in enumerate(stages):
                run = f"{stage}/{first}-{seed}"
                runs.append(
                    {"study": "synthetic", "strategy": name, "baseline": name == "from scratch", "seed": seed,
                     "position": position, "stage": stage, "kind": "pretrain", "run": run, "budget_tokens": budget,
                     "tokens_before": 500 * position, "training_flops": 1.0, "wall_seconds": 1.0}
                )  # fmt: skip
                if position == 0:
                    problems(run, stage, seed, 0, False, -4.0)
                    text(run, stage, seed, 0, False, BPB["untrained"])
                if stage == "math":
                    for tokens in POINTS:
                        growth = math.log2(tokens / POINTS[0])
                        logit = base_logit + growth + head_start * POINTS[0] / tokens
                        problems(run, stage, seed, tokens, tokens == POINTS[-1], logit)
                    text(run, stage, seed, POINTS[-1], True, BPB["math"])
                else:
                    problems(run, stage, seed, budget, True, -3.0)
                    text(run, stage, seed, budget, True, BPB["code"])
    return {"runs": runs, "evaluations": evaluations, "steps": []}


Write = Callable[[dict[str, list[dict]]], Results]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def made(rows: dict[str, list[dict]]) -> Results:
        for name, schema in SCHEMAS.items():
            write_rows(tmp_path / f"{name}.parquet", rows[name], schema)
        return Results(tmp_path)

    return made


@pytest.fixture(scope="session")
def study(tmp_path_factory: pytest.TempPathFactory) -> Results:
    folder = tmp_path_factory.mktemp("results")
    for name, rows in synthetic().items():
        write_rows(folder / f"{name}.parquet", rows, SCHEMAS[name])
    return Results(folder)


@pytest.fixture(scope="session")
def rows() -> Callable[..., dict[str, list[dict]]]:
    return synthetic
