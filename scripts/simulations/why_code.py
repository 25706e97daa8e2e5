"""How well `why_code` does on studies whose truth is known: python scripts/simulations/why_code.py --studies 2000

Prints a Markdown table: coverage of the intervals of effects and of shares, and how often a study with properties that
give nothing claims at least one. Each number stands with its Monte-Carlo standard error.
"""

from __future__ import annotations

import argparse

import numpy as np

from curricle.analysis.why_code import why_code

PROPERTIES = ("meaning", "binding", "nesting", "order")
HELP = 4.0  # what code gives over the filler, in points


def study(random: np.random.Generator, lost: tuple[float, ...], seeds: int, law: str) -> list[dict]:
    """Final scores of six arms; `lost` is what goes with each property (that of binding on top of meaning's)."""
    whole = 40.0
    means = {"whole": whole, "filler": whole - HELP, **{p: whole - x for p, x in zip(PROPERTIES, lost)}}
    means["binding"] -= lost[0]
    of_seed = random.normal(0, 1.0, seeds)
    spread = dict.fromkeys(means, 0.5)
    if law == "one arm noisier":  # three times the spread in one arm: the pooled variance is nobody's
        spread["nesting"] = 1.5
    rows = []
    for arm, mean in means.items():
        noise = random.standard_t(3, seeds) / np.sqrt(3) if law == "heavy tails" else random.normal(0, 1, seeds)
        for seed in range(seeds):
            score = mean + of_seed[seed] + spread[arm] * noise[seed]
            rows.append({"strategy": arm, "seed": seed, "benchmark": "b", "measure": "accuracy", "score": score})
    return rows


def tried(studies: int, lost: tuple[float, ...], seeds: int, law: str, start: int = 0) -> dict[str, float]:
    random = np.random.default_rng([start, seeds])
    effects, shares, claimed, undefined = [], [], 0, 0
    for _ in range(studies):
        rows = study(random, lost, seeds, law)
        found = why_code(rows, whole="whole", filler="filler", taken={p: p for p in PROPERTIES})
        effects += [f.interval().contains(x) for f, x in zip(found[1:], lost)]
        for f, x in zip(found[1:], lost):
            if f.parts["share"] is None:
                undefined += 1
            else:
                shares.append(f.parts["share_low"] <= x / HELP <= f.parts["share_high"])
        claimed += any(f.resolved for f, x in zip(found[1:], lost) if x == 0)
    return {
        "effects": float(np.mean(effects)),
        "shares": float(np.mean(shares)),
        "claimed": claimed / studies,
        "undefined": undefined / (studies * len(lost)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--studies", type=int, default=2000)
    studies = parser.parse_args().studies
    print("| law | seeds | lost | effects covered | shares covered | share refused | false claim in a study |")
    print("|---|---|---|---|---|---|---|")
    for law in ("its own", "heavy tails", "one arm noisier"):
        for seeds in (2, 3, 5):
            for lost in ((1.0, 0.5, 2.0, 0.0), (0.0, 0.0, 0.0, 0.0)):
                r = tried(studies, lost, seeds, law)
                trials = {"effects": 4 * studies, "shares": 4 * studies, "undefined": 4 * studies, "claimed": studies}
                told = [f"{r[k]:.3f} ± {(r[k] * (1 - r[k]) / n) ** 0.5:.3f}" for k, n in trials.items()]
                print(f"| {law} | {seeds} | {', '.join(f'{x:g}' for x in lost)} | {' | '.join(told)} |", flush=True)


if __name__ == "__main__":
    main()
