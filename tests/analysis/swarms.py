"""Swarms with known truth for the tests and simulations of mixtures."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

Truth = Callable[[np.ndarray], np.ndarray]  # mixtures (N, J) → losses (N, T)


def proportions(runs: int, sources: int, random: np.random.Generator, spread: float = 0.6) -> np.ndarray:
    """Mixtures as swarms draw them: Dirichlet, most of them far from even."""
    p = random.gamma(spread, size=(runs, sources)) + 1e-9
    return p / p.sum(1, keepdims=True)


def law(sources: int, targets: int, random: np.random.Generator) -> Truth:
    """The effective-token law: each target has a source of its own and something from all."""
    k = np.exp(random.normal(-1.5, 0.8, (targets, sources)))
    k[np.arange(targets), np.arange(targets) % sources] += 2.0
    r, beta = random.uniform(0.4, 0.8, targets), random.uniform(0.2, 0.5, targets)
    floor = random.uniform(1.5, 2.5, targets)
    return lambda p: np.stack(
        [floor[t] + ((p ** r[t]) @ k[t] + 0.1) ** -beta[t] for t in range(targets)], axis=1
    )  # fmt: skip


def other_law(sources: int, targets: int, random: np.random.Generator) -> Truth:
    """No law of ours: logarithms of shifted shares, with two sources that help only together."""
    a = random.uniform(0.05, 0.3, (targets, sources))
    pair = random.permuted(np.tile(np.arange(sources), (targets, 1)), axis=1)[:, :2]
    return lambda p: np.stack(
        [
            4 - np.log1p(30 * p) @ a[t] - 0.6 * np.sqrt(p[:, pair[t, 0]] * p[:, pair[t, 1]])
            for t in range(targets)
        ],
        axis=1,
    )  # fmt: skip


def null(sources: int, targets: int, random: np.random.Generator) -> Truth:
    """All mixtures are the same."""
    return lambda p: np.full((len(p), targets), 3.0)


TRUTHS = {"its own law": law, "another law": other_law, "nothing": null}


def tables(p: np.ndarray, loss: np.ndarray, first: int = 0) -> tuple[list[dict], list[dict]]:
    """As `curricle mixture` reads them."""
    ratios = [{"run": f"r{first + i}", **{f"s{j}": float(x) for j, x in enumerate(row)}} for i, row in enumerate(p)]
    metrics = [{"run": f"r{first + i}", **{f"m{t}": float(x) for t, x in enumerate(row)}} for i, row in enumerate(loss)]
    return ratios, metrics


def swarm(
    truth: str = "its own law", runs: int = 40, sources: int = 5, targets: int = 3, noise: float = 0.02, seed: int = 0
):
    """Mixtures, their noisy losses and the truth."""
    random = np.random.default_rng(seed)
    f = TRUTHS[truth](sources, targets, random)
    p = proportions(runs, sources, random)
    return p, f(p) + random.normal(0, noise, (runs, targets)), f
