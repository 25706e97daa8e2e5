"""Intervals of a gain, and the price of more seeds, on synthetic studies whose truth is known, as Markdown tables.

    python scripts/simulations/gain.py --studies 1000        (some minutes on one core)

Two strategies are scored on the same problems with the same seeds, solved or not. A problem has a difficulty, a run its
luck, and each run meets each problem in its own way. The truth of an interval for a strategy is what endless problems
and seeds would give; for these weights, endless problems; for these problems, endless seeds. In the last table a choice
between strategies is made after some seeds, and again after more: V(k) promises by how much the second is better.
"""

from __future__ import annotations

import argparse
import math
from typing import NamedTuple

import numpy as np

from curricle.analysis.finding import KINDS, THESE_PROBLEMS, THESE_WEIGHTS, THIS_STRATEGY
from curricle.analysis.proposals.next_runs import value_of_seeds
from curricle.analysis.statistics.intervals import estimate, fieller
from curricle.analysis.statistics.spread import two_way

PROBLEMS, LUCK = 20_000, 500  # that stand for endless ones


class Scenario(NamedTuple):
    """On the scale of logits: how hard problems are, what the second strategy adds, and by how much things vary."""

    name: str
    base: float = -1.5  # some 25 % solved
    gain: float = 0.5
    hardness: float = 1.5  # sd over problems
    luck: float = 0.15  # sd over runs
    own: float = 0.5  # sd of what a strategy adds, over problems
    seeds: int = 3
    problems: int = 200


SCENARIOS = (
    Scenario("25 % solved, gains"),
    Scenario("25 % solved, no gain", gain=0.0, own=0.0),
    Scenario("no gain, and runs as good as alike", gain=0.0, own=0.0, luck=0.0),
    Scenario("runs differ much", luck=0.5),
    Scenario("5 seeds", seeds=5),
    Scenario("2 seeds", seeds=2),
    Scenario("40 problems", problems=40),
    Scenario("3 % solved", base=-4.5, gain=0.7),
    Scenario("90 % solved", base=3.0, gain=0.5),
)


def chance(of: Scenario, problem_P: np.ndarray, luck_S: np.ndarray) -> np.ndarray:
    """S × P: the chance that a run solves a problem."""
    return 1 / (1 + np.exp(-(of.base + problem_P[None] + luck_S[:, None])))


class Drawn(NamedTuple):
    """What stands behind a study: what problems are like for either strategy, and its runs' luck."""

    problems: tuple[np.ndarray, np.ndarray]
    luck: tuple[np.ndarray, np.ndarray]


def drawn(of: Scenario, random: np.random.Generator, problems: int, seeds: int) -> Drawn:
    hard = random.normal(0, of.hardness, problems)
    better = hard + of.gain + random.normal(0, of.own, problems)
    return Drawn((hard, better), (random.normal(0, of.luck, seeds), random.normal(0, of.luck, seeds)))


def means(of: Scenario, behind: Drawn) -> tuple[float, float]:
    before, after = (float(chance(of, p, z).mean()) for p, z in zip(behind.problems, behind.luck))
    return before, after


def truths(of: Scenario, behind: Drawn, endless: Drawn) -> dict[str, tuple[float, float]]:
    """Expected scores before and after, by what an interval speaks about."""
    return {
        THESE_WEIGHTS: means(of, Drawn(endless.problems, behind.luck)),
        THESE_PROBLEMS: means(of, Drawn(behind.problems, endless.luck)),
    }


def gains(of: Scenario, studies: int, seed: int) -> dict[str, list[bool]]:
    """What held in each study: difference and percent, by kind; 0 left out; a percent without an end. A study without
    such an interval counts as one that did not hold."""
    random = np.random.default_rng([17, seed])
    endless = drawn(of, random, PROBLEMS, LUCK)
    whole = means(of, endless)
    found: dict[str, list[bool]] = {}

    def count(name: str, yes: bool) -> None:
        found.setdefault(name, []).append(yes)

    for _ in range(studies):
        behind = drawn(of, random, of.problems, of.seeds)
        before, after = (
            (random.random((of.seeds, of.problems)) < chance(of, p, z)).astype(float)
            for p, z in zip(behind.problems, behind.luck)
        )
        fixed = truths(of, behind, endless)
        for kind in KINDS:
            p1, p2 = fixed.get(kind, whole)
            inside, ratio = estimate(after - before, kind).interval(), fieller(before, after, kind).interval
            count(f"points, {kind}", bool(inside and inside.contains(p2 - p1)))
            count(f"percent, {kind}", bool(ratio and ratio.contains(100 * (p2 - p1) / p1)))
            if kind == THIS_STRATEGY:
                count("0 left out", bool(inside and not inside.contains(0.0)))
                count("percent without an end", bool(ratio and ratio.high is None))
    return found


def price(strategies: int, seeds: int, spread: float, studies: int) -> dict[int, tuple[float, float, float]]:
    """k → what V(k) promises, what k more seeds in truth gave, and the error of their difference; in units of a run's
    spread.

    Strategies' true means are normal with `spread`. V(k) takes them to have come from anywhere (a flat prior), and
    a run's spread to be the one that was estimated."""
    random = np.random.default_rng([strategies, seeds, int(10 * spread)])
    found: dict[int, list[tuple[float, float]]] = {}
    for _ in range(studies):
        true_A = random.normal(0, spread, strategies)
        y_AS = true_A[:, None] + random.normal(0, 1, (strategies, seeds))
        sigma = math.sqrt(two_way(y_AS)[0])
        first = int(y_AS.mean(1).argmax())
        more_AS = true_A[:, None] + random.normal(0, 1, (strategies, 8))
        for k in (1, 4, 8):
            both = np.concatenate([y_AS, more_AS[:, :k]], axis=1)
            gained = float(true_A[both.mean(1).argmax()] - true_A[first])
            found.setdefault(k, []).append((value_of_seeds(y_AS.mean(1), sigma, seeds, k, 2_000), gained))
    made = {}
    for k, pairs in found.items():
        promised, gained = np.array(pairs).T
        made[k] = (float(promised.mean()), float(gained.mean()), float((gained - promised).std() / math.sqrt(studies)))
    return made


def rate(held: list[bool]) -> str:
    p = float(np.mean(held))
    return f"{p:.3f} ± {max(math.sqrt(p * (1 - p) / len(held)), 0.5 / len(held)):.3f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--studies", type=int, default=1000)
    studies = parser.parse_args().studies
    columns = [f"{what}, {kind}" for what in ("points", "percent") for kind in KINDS]
    columns += ["0 left out", "percent without an end"]
    print(f"| truth | {' | '.join(columns)} |\n{'|---' * (len(columns) + 1)}|")
    for number, of in enumerate(SCENARIOS):
        found = gains(of, studies, number)
        print(f"| {of.name} | {' | '.join(rate(found[name]) for name in columns)} |", flush=True)
    print("\n| strategies | seeds | their spread | k | V(k) | what k more gave | gave less promised |")
    print("|---|---|---|---|---|---|---|")
    for strategies, seeds, spread in (
        (2, 3, 0.5),
        (2, 3, 2),
        (5, 3, 0.5),
        (5, 3, 2),
        (5, 10, 0.5),
        (20, 3, 0.5),
        (20, 3, 2),
    ):
        for k, (promised, gained, error) in price(strategies, seeds, spread, studies).items():
            print(
                f"| {strategies} | {seeds} | {spread:g} | {k} | {promised:.3f} | {gained:.3f} "
                f"| {gained - promised:+.3f} ± {error:.3f} |", flush=True,
            )  # fmt: skip


if __name__ == "__main__":
    main()
