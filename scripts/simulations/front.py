"""Front and critical share on synthetic studies with known truth, as a Markdown table.

    python scripts/simulations/front.py --studies 200

Five or six replay shares, three seeds, noise that seeds share and noise of their own. The critical share is asked under
general losses that bend up, down, not at all, and sharply; the front where all points are on it, and where two points
are truly equal.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Sequence

import numpy as np

from curricle.analysis.critical import critical_share
from curricle.analysis.front import front, hypervolume, non_dominated

SHARES = (0.5, 0.65, 0.8, 0.9, 1.0)
LAWS: dict[str, Callable[[float], float]] = {
    "bends up": lambda s: 1.0 + 0.10 * s**4,
    "straight": lambda s: 1.0 + 0.10 * s,
    "bends down": lambda s: 1.0 + 0.12 * math.sqrt(max(s - 0.4, 0.0)),
    "sharp, near 1": lambda s: 1.0 + 0.01 * s / (1.03 - s) ** 0.75,
}


def target_law(s: float) -> float:
    return 1.2 - 0.3 * s**0.5


def study(
    random: np.random.Generator, general: Callable[[float], float], sd: float, shares: Sequence[float] = SHARES,
    seeds: int = 3, target: Callable[[float], float] = target_law, noisier: float = 1.0,
) -> list[dict]:  # fmt: skip
    """Outcome rows of one study, seeds shared by all strategies; the last scatters `noisier` times as much."""
    rows = []
    for seed in range(seeds):
        common = random.normal(0, sd, 2)
        for k, s in enumerate(shares):
            own = sd * (noisier if k == len(shares) - 1 else 1.0)
            for m, (name, law) in enumerate((("math", target), ("web", general))):
                score = law(s) + common[m] + random.normal(0, own)
                rows.append(
                    {"strategy": f"{k}: {s:g}", "seed": seed, "final": True, "tokens": 100, "stage_tokens": 100,
                     "benchmark": name, "measure": "bits per byte", "score": score, "items": 100, "dose:math": 100 * s}
                )  # fmt: skip
    return rows


def critical(studies: int, law: str, sd: float, at: float = 0.84) -> tuple[float, float, float]:
    """Bias in points of share, the share of studies whose interval holds the truth, and that share's error."""
    random, held, errors = np.random.default_rng(3), 0, []
    bound = LAWS[law](at)
    for _ in range(studies):
        (f,) = critical_share(study(random, LAWS[law], sd), "math", "web", rise=bound - 1.0, before=1.0)
        i = f.interval()
        held += bool(i and i.contains(100 * at))
        if f.estimate is not None:
            errors.append(f.estimate - 100 * at)
    share = held / studies
    return float(np.mean(errors)), share, math.sqrt(share * (1 - share) / studies)


def fronts(studies: int, sd: float, noisier: float = 1.0) -> dict[str, float]:
    """How the hypervolume's interval covers, and how often a truly dominated point is called on the front."""
    random, held, bias, false, sure, calls = np.random.default_rng(4), 0, [], 0, 0, 0
    shares = (*SHARES, 0.85)
    general, reference = LAWS["bends up"], np.array([1.05, 1.12])

    def target(s: float) -> float:
        return target_law(s) + (0.03 if s == 0.85 else 0.0)

    truth = np.array([[target(s), general(s)] for s in shares])
    box = np.prod(reference - truth.min(axis=0))
    on = non_dominated(truth)
    for _ in range(studies):
        rows = study(random, general, sd, shares, target=target, noisier=noisier)
        f = front(rows, "math", "web", reference=reference.tolist())
        measured = np.array([[r["target"], r["general"]] for r in f.table])
        scale = float(np.prod(reference - measured.min(axis=0)))  # the finding's box is that of its own best points
        volume, interval = hypervolume(truth, reference), f.interval()
        held += bool(interval and interval.contains(min(100.0, 100 * volume / scale)))
        bias.append((f.estimate or 0.0) * scale / box - 100 * volume / box)
        p = np.array([r["p_front"] for r in f.table])
        false += int((p[~on] > 0.95).sum())
        sure += int(on[p > 0.9].sum())
        calls += int((p > 0.9).sum())
    return {
        "covered": held / studies, "bias": float(np.mean(bias)), "dominated, called sure (p > .95)": false / studies,
        "of those with p > .9 truly on the front": sure / max(calls, 1),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--studies", type=int, default=200)
    n = parser.parse_args().studies
    print(
        "| general loss | noise of a run, bits | bias, points of share | 95 % interval holds the truth |\n"
        "|---|---|---|---|"
    )
    for law in LAWS:
        for sd in (0.001, 0.004):
            bias, share, error = critical(n, law, sd)
            print(f"| {law} | {sd} | {bias:+.2f} | {share:.3f} ± {error:.3f} |")
    print("\n| front, noise of a run | " + " | ".join(fronts(1, 0.001)) + " |\n|---|---|---|---|---|")
    for sd in (0.001, 0.004, 0.016):
        print(f"| {sd} | " + " | ".join(f"{v:.3f}" for v in fronts(n, sd).values()) + " |")
    told = fronts(n, 0.004, noisier=6.0)
    print("| 0.004, the dominated strategy 6 times | " + " | ".join(f"{v:.3f}" for v in told.values()) + " |")


if __name__ == "__main__":
    main()
