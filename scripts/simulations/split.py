"""The best split of a budget on synthetic studies whose law is known, as a Markdown table.

    python scripts/simulations/split.py --studies 200        (some minutes on one core)

Strategies read two or three sources in random doses, three seeds each, with noise of .004 bits a run. The question is
how to split a budget: does the interval of each source's share hold the best one, that of the loss the loss there, and
that of the gain what the split gains over equal shares? In the last two rows the law is not the estimator's: each
source has an exponent of its own, and sources give more together.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from curricle.analysis.allocation import split
from curricle.analysis.split_runs import split_of_runs
from curricle.study import Refused

R, BETA, FLOOR, START, TOTAL = 0.5, 0.4, 0.7, 0.1, 1e6
Loss = Callable[[np.ndarray], float]  # of tokens of each source


def own(worth: Mapping[str, float], r: float | tuple[float, ...] = R, together: float = 0.0) -> Loss:
    """The law of effective tokens; with an `r` for each source, or something that two give only `together`, another."""
    w = np.array(list(worth.values()))

    def loss(x: np.ndarray) -> float:
        read = np.asarray(x, float) / TOTAL
        both = together * np.sqrt(read[0] * read[1])
        return float(FLOOR + (START + (w * read ** np.asarray(r)).sum() + both) ** -BETA)

    return loss


class Scenario(NamedTuple):
    worth: Mapping[str, float]
    loss: Loss
    arms: int = 10


TWO, THREE = {"code": 0.4, "math": 1.0}, {"code": 0.4, "math": 1.0, "web": 0.2}
NOISE = {"code": 0.5, "math": 1.0, "noise": 0.0}
SCENARIOS = {
    "two sources": Scenario(TWO, own(TWO)),
    "three sources": Scenario(THREE, own(THREE), 14),
    "three, one worth nothing": Scenario(NOISE, own(NOISE), 14),
    "another law: an exponent for each": Scenario(TWO, own(TWO, (0.3, 0.7))),
    "another law: more together": Scenario(TWO, own(TWO, together=0.6)),
}


def study(random: np.random.Generator, of: Scenario, seeds: int = 3, sigma: float = 0.004) -> list[dict[str, Any]]:
    """The ends of strategies that read all sources in random doses, every other one of less in all."""
    made: list[dict[str, Any]] = []
    for arm in range(of.arms):
        x = random.dirichlet(np.ones(len(of.worth))) * TOTAL * (1.0 if arm % 2 else 0.4)
        made += [
            {"strategy": f"m{arm}", "seed": seed, "final": True, "benchmark": "algebra", "measure": "bits per byte",
             "score": of.loss(x) + random.normal(0, sigma), **{f"dose:{n}": float(v) for n, v in zip(of.worth, x)}}
            for seed in range(seeds)
        ]  # fmt: skip
    return made


def best(of: Scenario) -> np.ndarray:
    """Shares of the best split: over two sources by a grid, whatever the law; over more by the formula."""
    if len(of.worth) > 2:
        given = split(of.worth, R, TOTAL)
        return np.array([given[name] for name in of.worth]) / TOTAL
    grid = np.linspace(0, 1, 20_001)
    first = grid[int(np.argmin([of.loss(np.array([p, 1 - p]) * TOTAL) for p in grid]))]
    return np.array([first, 1 - first])


def held(of: Scenario, studies: int, seed: int) -> dict[str, tuple[int, int]]:
    """How often each interval held its truth, of how many; and how often there was no answer."""
    truth, even = best(of), of.loss(np.full(len(of.worth), TOTAL / len(of.worth)))
    counts = {name: [0, 0] for name in ("shares", "loss", "gain", "refused")}

    def count(name: str, yes: bool) -> None:
        counts[name] = [counts[name][0] + yes, counts[name][1] + 1]

    for at in range(studies):
        try:
            found = split_of_runs(study(np.random.default_rng([seed, at]), of), TOTAL)
        except Refused:
            found = None
        answered = found is not None and bool(found.table)
        count("refused", not answered)
        if found is None or not answered:
            continue
        rows = {row["source"]: row for row in found.table}
        given = np.array([float(rows[name]["tokens"] or 0) for name in of.worth])
        for name, share in zip(of.worth, truth):
            count("shares", float(rows[name]["low"] or 0) <= share <= float(rows[name]["high"] or 0))
        inside, at_split = found.interval(), of.loss(given)
        count("loss", inside is not None and inside.contains(at_split))
        low, high = (float(found.parts[f"gain_{end}"] or 0) for end in ("low", "high"))
        count("gain", low <= at_split - even <= high)
    return {name: (yes, of_all) for name, (yes, of_all) in counts.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--studies", type=int, default=200)
    studies = parser.parse_args().studies
    print("| truth | shares | loss | gain | no answer |\n|---|---|---|---|---|")
    for k, (name, of) in enumerate(SCENARIOS.items()):
        cells = []
        for yes, of_all in held(of, studies, k).values():
            p = yes / of_all if of_all else 0.0
            error = max((p * (1 - p) / of_all) ** 0.5, 0.5 / of_all) if of_all else 0.0
            cells.append(f"{p:.3f} ± {error:.3f}" if of_all else "–")
        print(f"| {name} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
