"""Studies written as rows: strategies, their stages with doses, and the scores that a function gives."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from curricle.results import EVALUATIONS, MIXTURES, RUNS, SCORES, STEPS, Results, write_rows

Stage = tuple[str, str, Mapping[str, int]]  # name, kind, tokens by source
Point = tuple[str, str, str, float]  # benchmark, kind, measure, score


def study(
    folder: Path, strategies: Mapping[str, Sequence[Stage]], score: Any, at: Sequence[float] = (1.0,),
    count: int = 2, rate: Any = None, there: Mapping[str, int] | None = None, loss: Any = None,
) -> Results:  # fmt: skip
    """Strategies written as rows; `score(strategy, seed, position, share of the stage)` gives the points there,
    `rate(share of the stage)` the learning rate, `there` how much of each source there is, and
    `loss(strategy, position, share of the stage)` the training loss of 200 steps a stage."""
    folder.mkdir(exist_ok=True)
    runs, mixtures, scores, steps = [], [], [], []
    for (name, path), seed in product(strategies.items(), range(count)):
        before = 0
        for position, (stage, kind, doses) in enumerate(path):
            run, budget = f"{name}/{stage}-{seed}", sum(doses.values())
            runs.append({"study": "s", "strategy": name, "baseline": False, "seed": seed, "position": position,
                         "stage": stage, "kind": kind, "run": run, "budget_tokens": budget, "tokens_before": before,
                         "training_flops": 6.0 * budget, "wall_seconds": 1.0})  # fmt: skip
            mixtures += [{"run": run, "until_tokens": budget, "source": s, "share": d / budget,
                          "available_tokens": (there or {}).get(s), "kind": "procedural" if s == "lists" else "files"}
                         for s, d in doses.items()]  # fmt: skip
            for part in at:
                scores += [{"run": run, "tokens": round(part * budget), "final": part == 1, "benchmark": b, "kind": k,
                            "measure": m, "score": v}
                           for b, k, m, v in score(name, seed, position, part)]  # fmt: skip
            if rate:
                steps += [{"run": run, "stage": stage, "seed": seed, "step": i, "tokens": budget * i // 20,
                           "loss_nats": 1.0, "lr": rate(i / 20)} for i in range(1, 21)]  # fmt: skip
            if loss:
                steps += [{"run": run, "stage": stage, "seed": seed, "step": i, "tokens": budget * i // 200,
                           "loss_nats": loss(name, position, i / 200)
                           + np.random.default_rng([seed, i, position]).normal(0, 0.01)}
                          for i in range(1, 201)]  # fmt: skip
            before += budget
    for name, rows, schema in (("runs", runs, RUNS), ("mixtures", mixtures, MIXTURES), ("scores", scores, SCORES),
                               ("steps", steps, STEPS), ("evaluations", [], EVALUATIONS)):  # fmt: skip
        write_rows(folder / f"{name}.parquet", rows, schema)
    return Results(folder)
