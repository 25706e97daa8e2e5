"""Upper limits on what code can give, on synthetic training losses with known truth, as Markdown tables.

    python scripts/simulations/bound.py --studies 200

Scratch loss E + A(x + x₀)^−α in nats, noise of a batch that all arms share, noise of a run, noise of their own. Code
is a head start, a multiplier of every token's worth, a lower floor, or nothing. A limit is violated where the finding
says so: measured saving above it, its interval's lower end counted.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable

import numpy as np

from curricle.analysis.bound import head_start_bound, information_bound, regret_bound
from curricle.analysis.bound_score import binary_kl, highest

E, A, ALPHA, X0, TOKENS = 2.0, 30.0, 0.35, 2000.0, 512


def scratch(x: np.ndarray) -> np.ndarray:
    return E + A * (x + X0) ** -ALPHA


CODE: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "nothing": scratch,
    "a head start of 20k": lambda x: scratch(x + 20_000),
    "a head start of 60k": lambda x: scratch(x + 60_000),
    "each token worth 1.5": lambda x: scratch(1.5 * x + 1000),
    "harm": lambda x: scratch(np.maximum(x - 5000, -1000)),
    "a floor .3 lower": lambda x: scratch(x) - 0.3 * (1 - np.exp(-x / 50_000)),
}


def study(
    random: np.random.Generator, code: Callable[[np.ndarray], np.ndarray], seeds: int = 3, batches: int = 500,
    run_sd: float = 0.004, control: Callable[[np.ndarray], np.ndarray] | None = None,
) -> list[dict]:  # fmt: skip
    """Step rows of the mathematics stage of each arm."""
    x = np.arange(batches) * float(TOKENS)
    laws = {"scratch": scratch, "code": code, **({"control": control} if control else {})}
    rows = []
    for seed in range(seeds):
        shared = random.normal(0, 0.08, batches)  # some batches are harder, for every arm
        for arm, law in laws.items():
            losses = law(x) + shared + random.normal(0, run_sd) + random.normal(0, 0.01, batches)
            rows += [
                {"strategy": arm, "seed": seed, "stage": "math", "step": t + 1, "tokens": (t + 1) * TOKENS,
                 "batch_tokens": TOKENS, "loss_nats": float(loss)}
                for t, loss in enumerate(losses)
            ]  # fmt: skip
    return rows


def limits(studies: int, code: str) -> dict[str, float]:
    """How often each limit is violated; how the head start and its marginal slope come out; how E is covered."""
    random = np.random.default_rng(8)
    count = {"regret, E known": 0, "regret, E fitted": 0, "head start": 0, "E covered": 0, "growing": 0}
    starts, slopes = [], []
    for _ in range(studies):
        rows = study(random, CODE[code])
        known = regret_bound(rows, "code", "scratch", "math", floor_nats=E)
        fitted = regret_bound(rows, "code", "scratch", "math")
        head = head_start_bound(rows, "code", "scratch", "math")
        count["regret, E known"] += bool(known.parts["violated"])
        count["regret, E fitted"] += bool(fitted.parts["violated"])
        low, high = float(fitted.parts["floor_low"] or 0.0), float(fitted.parts["floor_high"] or 0.0)
        count["E covered"] += low <= E / math.log(2) <= high
        count["head start"] += bool(head.parts.get("violated"))
        count["growing"] += bool(head.parts.get("growing"))
        if head.estimate is not None:
            starts.append(float(head.parts["head_start_tokens"] or 0.0))
            if head.parts["marginal_slope"] is not None:
                slopes.append(float(head.parts["marginal_slope"]))
    found = {name: value / studies for name, value in count.items()}
    return {**found, "T̄, tokens": float(np.mean(starts)), "marginal slope": float(np.mean(slopes)) if slopes else 0.0}


def answers(studies: int) -> tuple[float, float]:
    """Of random pairs of answer distributions over random problems: how often the accuracy passes the limit from their
    mean divergence (never), and by how much Pinsker's limit is looser, in points."""
    random, broken, loose = np.random.default_rng(9), 0, []
    for _ in range(studies):
        problems, choices = 20, 6
        p = random.dirichlet(np.full(choices, 0.7), problems)
        q = p * np.exp(random.normal(0, random.uniform(0.05, 1.0), p.shape))
        q /= q.sum(axis=1, keepdims=True)
        kl = float((q * np.log(q / p)).sum(axis=1).mean())
        p0, pc = float(p[:, 0].mean()), float(q[:, 0].mean())
        limit = highest(p0, kl)
        broken += pc > limit + 1e-9 and binary_kl(pc, p0) > kl
        loose.append(100 * (min(1.0, p0 + math.sqrt(kl / 2)) - limit))
    return broken / studies, float(np.mean(loose))


def control(studies: int) -> tuple[float, float]:
    """The information limit where a control cures what code cures and code carries few bits beyond (never violated),
    and where the control cures nothing of it."""
    random = np.random.default_rng(10)
    shares = []
    for cures in (CODE["a head start of 20k"], scratch):
        broken = 0
        for _ in range(studies):
            rows = study(random, lambda x: scratch(x + 21_000), control=cures)
            f = information_bound(rows, "code", "scratch", "math", control="control", parameters=1500)
            broken += bool(f.parts["violated"])
        shares.append(broken / studies)
    return shares[0], shares[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--studies", type=int, default=200)
    n = parser.parse_args().studies
    header = "| code gives | " + " | ".join(limits(1, "nothing")) + " |"
    print(header.replace("regret, E", "violated: regret, E").replace("head start", "violated: head start"))
    print("|---" * 8 + "|")
    for name in CODE:
        row = limits(n, name)
        print(f"| {name} | " + " | ".join(f"{v:,.0f}" if "T̄" in k else f"{v:.3f}" for k, v in row.items()) + " |")
    broken, loose = answers(10 * n)
    print(
        f"\nAccuracy of sampled answers above its limit: {broken:.4f} of {10 * n} pairs; "
        f"Pinsker looser by {loose:.1f} points."
    )
    right, wrong = control(n)
    print(
        f"Information limit violated: {right:.3f} where the control cures what code cures, "
        f"{wrong:.3f} where it does not."
    )


if __name__ == "__main__":
    main()
