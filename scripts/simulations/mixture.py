"""What `mixture` says about swarms whose truth is known: the law's own data, another law's, and no effect at all.

    .venv/bin/python scripts/simulations/mixture.py --studies 200        (prints a Markdown table)

Each study draws a truth, 40 runs over five sources with two targets and noise of .03, and asks for the mixture of both
targets together. Printed for each truth: how many fresh runs fall into their 90 % interval; by how much the gain over
natural is overstated, with and without the correction for optimism; the exact probability that its interval holds the
difference of two new runs, which it speaks about; how often the limits of the mean gain hold the true one, and how
often either is above 0; and the regret of the recommended mixture, of the natural and of the uniform one, beside the
regret that was said. Standard errors over studies; of counted shares the binomial one, at 0 and 1 that of half a study.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from statistics import NormalDist

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2] / "tests" / "analysis"))

import swarms
from laws import share_of

from curricle.analysis.mixture import mixture, predictions

RUNS, SOURCES, TARGETS, NOISE = 40, 5, 2, 0.03
COUNTED = ("claimed", "mean held", "mean claimed")  # yes or no in each study


def study(truth: str, seed: int) -> dict[str, float]:
    random = np.random.default_rng(seed)
    f = swarms.TRUTHS[truth](SOURCES, TARGETS, random)
    p, fresh = (swarms.proportions(n, SOURCES, random) for n in (RUNS, 100))
    measured, actual = (f(q) + random.normal(0, NOISE, (len(q), TARGETS)) for q in (p, fresh))
    tables = swarms.tables(p, measured)
    rows = predictions(*tables, swarms.tables(fresh, actual)[0])
    inside = [
        row[f"m{t}_low"] <= actual[i, t] <= row[f"m{t}_high"] for i, row in enumerate(rows) for t in range(TARGETS)
    ]
    found = mixture(*tables, resamples=24)
    shares = {str(row["source"]): float(row["recommended"]) for row in found[0].table}  # type: ignore[arg-type]
    chosen = np.array([shares[f"s{j}"] for j in range(SOURCES)])
    gain = next(x for x in found if x.subject == "recommended over natural")
    limits = gain.interval()
    assert limits is not None and limits.low is not None and limits.high is not None and gain.estimate is not None
    many = np.concatenate([random.dirichlet(np.full(SOURCES, a), 20_000) for a in (0.3, 1, 3)])
    level = {name: float(f(q[None]).mean()) for name, q in (
        ("chosen", chosen), ("natural", p.mean(0)), ("uniform", np.full(SOURCES, 1 / SOURCES)))}  # fmt: skip
    best = min(float(f(many).mean(1).min()), *level.values())
    true = level["natural"] - level["chosen"]
    # Two new runs differ by the true gain and noise of this size, so that how often they fall inside is known.
    inside_of = NormalDist(true, NOISE * np.sqrt(2 / TARGETS))
    held = inside_of.cdf(limits.high) - inside_of.cdf(limits.low)
    low, high = float(gain.parts["mean_low"]), float(gain.parts["mean_high"])  # type: ignore[arg-type]
    return {
        "inside": float(np.mean(inside)), "overstated": gain.estimate - true,
        "uncorrected": float(gain.parts["uncorrected"]) - true,  # type: ignore[arg-type]
        "held": held, "claimed": float(limits.low > 0), "true": true,
        "mean held": float(low <= true <= high), "mean claimed": float(low > 0),
        "regret": level["chosen"] - best, "said": float(found[0].parts["regret"]),  # type: ignore[arg-type]
        "natural": level["natural"] - best, "uniform": level["uniform"] - best,
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--studies", type=int, default=200)
    parser.add_argument("--truths", nargs="+", choices=list(swarms.TRUTHS), default=list(swarms.TRUTHS))
    given = parser.parse_args()
    heads = [
        "truth", "fresh runs inside", "true gain over natural", "overstated", "overstated without the correction",
        "probability that two new runs' gain is inside", "claimed", "mean gain inside its limits", "claimed", "regret",
        "regret that was said", "natural's regret", "uniform's regret",
    ]  # fmt: skip
    keys = [
        "inside", "true", "overstated", "uncorrected", "held", "claimed", "mean held", "mean claimed", "regret", "said",
        "natural", "uniform",
    ]  # fmt: skip
    print(f"| {' | '.join(heads)} |\n|{'---|' * len(heads)}")
    for truth in given.truths:
        made = [study(truth, seed) for seed in range(given.studies)]
        cells = []
        for key in keys:
            x = np.array([m[key] for m in made])
            cells.append(
                share_of(int(x.sum()), len(x)) if key in COUNTED else
                f"{x.mean():.4f} ± {x.std(ddof=1) / np.sqrt(len(x)):.4f}"
            )  # fmt: skip
        print(f"| {truth} | {' | '.join(cells)} |", flush=True)
    print(f"\n`scripts/simulations/mixture.py --studies {given.studies}`, seeds 0 to {given.studies - 1}.")


if __name__ == "__main__":
    main()
