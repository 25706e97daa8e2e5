"""How well `analysis.value` does where the truth is known: python scripts/simulations/value.py --studies 1000

Prints Markdown tables with Monte-Carlo standard errors: coverage of a source's value over documents, ranks of values
that have nothing to do with gains, and the verdicts on a source that disappoints.
"""

from __future__ import annotations

import argparse
import math

import numpy as np

from curricle.analysis.value import OTHER_SOURCES, surprise, validate, value


def documents(random: np.random.Generator, n: int, relevance: float, heavy: bool = False) -> list[dict]:
    """Two sources, one of them irrelevant in the mean; lengths and sizes of gradients vary, and are correlated with
    relevance. The truth of a token's value: `truth`."""
    rows = []
    for source, mean in (("some", relevance), ("none", 0.0)):
        tokens = np.clip(np.exp(random.normal(5, 0.7, n)), 20, 1000).astype(int)
        noise = random.standard_t(3, n) / math.sqrt(3) if heavy else random.normal(0, 1, n)
        worth = mean * (1 + 0.5 * (tokens > 150)) + 0.1 * noise
        rows += [
            {"source": source, "document": str(i), "tokens": int(t), "dot": float(w), "target_square": 1.0}
            for i, (t, w) in enumerate(zip(tokens, worth))
        ]
    return rows


def truth(relevance: float) -> float:
    """By a large sample of the same law: Σ tokens·value / Σ tokens."""
    tokens = np.clip(np.exp(np.random.default_rng(1).normal(5, 0.7, 2_000_000)), 20, 1000).astype(int)
    return float((tokens * relevance * (1 + 0.5 * (tokens > 150))).sum() / tokens.sum())


def covered(studies: int, n: int, heavy: bool = False) -> dict[str, float]:
    random, true = np.random.default_rng([n, heavy]), 100 * truth(0.1)
    held, false = 0, 0
    for _ in range(studies):
        found = {f.subject: f for f in value(documents(random, n, 0.1, heavy))}
        held += found["some"].interval().contains(true)
        false += bool(found["none"].resolved)
    return {"value": held / studies, "false": false / studies}


def ranked(studies: int, sources: int, link: float = 0.0) -> dict[str, float]:
    """Values that share `link` of their variance with gains; how often p ≤ .05, and how often the interval holds the
    rank correlation of a large sample of such sources."""
    random = np.random.default_rng([sources, int(100 * link)])
    found = 6 / math.pi * math.asin(link / 2)  # Spearman's of two normals with correlation `link`
    false, held = 0, 0
    for _ in range(studies):
        x = random.normal(0, 1, sources)
        y = link * x + math.sqrt(1 - link**2) * random.normal(0, 1, sources)
        names = [str(i) for i in range(sources)]
        told = validate(dict(zip(names, x)), [{"source": n, "gain": g} for n, g in zip(names, y)])
        false += told.p_value <= 0.05
        held += bool((limits := told.interval(OTHER_SOURCES)) and limits.contains(found))
    return {"false": false / studies, "held": held / studies}


def bins(random: np.random.Generator, account: str, noise: float, seeds: int) -> list[dict]:
    """Gains of eight bins by complexity at two sizes; k = .5 and .2 under capacity, 0 under mismatch, where richer text
    is less relevant; a law of neither kind is `threshold`: whatever is too rich gives nothing."""
    rows = []
    for size, k in ((1e6, 0.5), (4e6, 0.2)):
        for seed in range(seeds):
            for c in np.linspace(0.5, 5, 8):
                r = 0.4 / (1 + c) if account == "mismatch" else 0.2
                made = {"mismatch": 1.0, "capacity": math.exp(-k * c), "threshold": float(c < 1 / k)}[account]
                gain = r * c * made + noise * 0.2 * random.normal()
                rows.append({"size": size, "seed": seed, "complexity": float(c), "relevance": r, "gain": gain})
    return rows


def verdicts(studies: int, account: str, noise: float, seeds: int) -> dict[str, float]:
    random = np.random.default_rng([seeds, int(100 * noise)])
    told = [surprise(bins(random, account, noise, seeds)).parts["verdict"] for _ in range(studies)]
    return {verdict: told.count(verdict) / studies for verdict in ("mismatch", "capacity", "cannot tell")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--studies", type=int, default=1000)
    studies = parser.parse_args().studies

    def said(p: float) -> str:
        return f"{p:.3f} ± {math.sqrt(p * (1 - p) / studies):.3f}"

    print("| documents | law | value covered | an irrelevant source resolved |\n|---|---|---|---|")
    for n in (10, 30, 100):
        for heavy in (False, True):
            found = covered(studies, n, heavy)
            print(f"| {n} | {'heavy tails' if heavy else 'normal'} | {said(found['value'])} | {said(found['false'])} |")
    print("\n| sources | correlation of value and gain | p ≤ .05 | interval holds it |\n|---|---|---|---|")
    for sources in (5, 7, 12):
        for link in (0.0, 0.5, 0.9):
            found = ranked(studies, sources, link)
            print(f"| {sources} | {link:g} | {said(found['false'])} | {said(found['held'])} |", flush=True)
    print("\n| truth | noise | seeds | mismatch | capacity | cannot tell |\n|---|---|---|---|---|---|")
    for account in ("mismatch", "capacity", "threshold"):
        for noise in (0.05, 0.3):
            for seeds in (3, 5):
                found = verdicts(studies // 4, account, noise, seeds)
                print(
                    f"| {account} | {noise:g} | {seeds} | {' | '.join(f'{p:.3f}' for p in found.values())} |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
