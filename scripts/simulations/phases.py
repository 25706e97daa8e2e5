"""Order effects and the law of phases on synthetic studies with known truth, as Markdown tables.

    python scripts/simulations/phases.py --studies 200 --laws 100
    python scripts/simulations/phases.py --studies 0 --laws 100 --truths "its own"   # rows of the second table alone

Each study has arms over two or three phases, three seeds, a part that a seed shares with all arms, a part of each run,
and noise along its curve. Nulls: arms whose orders truly give the same, also with one of them noisier than all others.
Laws other than the fitted one: a skill that only grows after another (synergy), a state kept in two stores, and a later
stage that teaches at half its rate.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Mapping, Sequence
from itertools import permutations

import numpy as np

from curricle.analysis.learning import PhaseLaw
from curricle.analysis.phase_law import phase_law
from curricle.analysis.phases import phases

Doses = tuple[float, ...]
Loss = Callable[[Sequence[Doses]], float]  # of stretches, each tokens by source
TWO: dict[str, Doses] = {"code": (400.0, 0.0), "math": (0.0, 300.0)}
THREE: dict[str, Doses] = {"code": (300.0, 0.0, 0.0), "math": (0.0, 300.0, 0.0), "web": (0.0, 0.0, 200.0)}
LAW = PhaseLaw("algebra", ("code", "math"), 0.8, 1.5, 0.5, (0.004, 0.03), (0.001, 0.002))
LAW3 = PhaseLaw("algebra", ("code", "math", "web"), 0.8, 1.5, 0.5, (0.01, 0.03, 0.004), (0.0015, 0.002, 0.002))
NO_ORDER = PhaseLaw("algebra", ("code", "math"), 0.8, 1.5, 0.5, (0.01, 0.02), (0.0005, 0.001))  # the same k/φ


def synergy(path: Sequence[Doses]) -> float:
    """Mathematics teaches more, the more code there was before it; nothing is forgotten."""
    code = math_ = 0.0
    for x in path:
        math_ += x[1] * (1 + code / 200)
        code += x[0]
    return 0.8 + 1.5 * (1 + 0.004 * code + 0.02 * math_) ** -0.5


def two_stores(path: Sequence[Doses]) -> float:
    """A quick store that fades and a slow one that stays."""
    quick = PhaseLaw("", ("code", "math"), 0, 1, 1, (0.01, 0.04), (0.02, 0.01)).state(path)
    slow = PhaseLaw("", ("code", "math"), 0, 1, 1, (0.002, 0.006), (0.0002, 0.0001)).state(path)
    return 0.8 + 1.5 * (0.5 * quick + 0.5 * slow) ** -0.5


def later_is_slower(path: Sequence[Doses]) -> float:
    """Whatever comes second is trained at half the rate: k and φ halve past 350 tokens."""
    u, seen = 1.0, 0.0
    for x in path:
        rate = 1.0 if seen < 350 else 0.5
        u = LAW.state([tuple(rate * v for v in x)], u)
        seen += sum(x)
    return LAW.floor + LAW.amplitude * u**-LAW.exponent


OTHERS: dict[str, Loss] = {"its own": LAW.loss, "synergy": synergy, "two stores": two_stores,
                           "later is slower": later_is_slower}  # fmt: skip


def arms_of(parts: Mapping[str, Doses]) -> dict[str, list[tuple[str, Doses]]]:
    """Every order, the mixture, and each phase alone."""
    made = {" then ".join(order): [(name, parts[name]) for name in order] for order in permutations(parts)}
    made["mixed"] = [("both", tuple(float(v) for v in np.sum(list(parts.values()), axis=0)))]
    return made | {f"only {name}": [(name, doses)] for name, doses in parts.items()}


def study(
    random: np.random.Generator, loss: Loss, parts: Mapping[str, Doses], sd: float = 0.008, seeds: int = 3,
    points: int = 8, noisier: float = 1.0,
) -> list[dict]:  # fmt: skip
    """Outcome rows; arms that begin alike share their runs, as they do in a real study. Runs that come to the end of
    the last order have a part of their own that many times `noisier`."""
    rows = []
    names = list(parts)
    noisy = tuple(reversed(names))
    for seed in range(seeds):
        common, run_part, noise_at = random.normal(0, sd), {}, {}
        for strategy, stages in arms_of(parts).items():
            path: list[Doses] = []
            done: tuple[str, ...] = ()
            tokens, read = 0.0, np.zeros(len(names))
            for position, (stage, doses) in enumerate(stages):
                done = (*done, stage)
                part = run_part.setdefault(done, random.normal(0, sd) * (noisier if done == noisy else 1.0))
                for i in range(0 if position == 0 else 1, points + 1):
                    step = tuple(v / points * (i > 0) for v in doses)
                    path.append(step)
                    read = read + np.array(step)
                    extra = 0.0 if i == 0 else part + noise_at.setdefault((done, i), random.normal(0, sd / 3))
                    rows.append(
                        {"strategy": strategy, "seed": seed, "stage": stage, "position": position,
                         "stage_tokens": sum(doses) * i / points, "tokens": tokens + sum(doses) * i / points,
                         "final": position == len(stages) - 1 and i == points, "run": "/".join(done),
                         "benchmark": "algebra", "measure": "bits per byte", "score": loss(path) + common + extra,
                         "items": 100, **{f"dose:{n}": float(v) for n, v in zip(names, read)}}
                    )  # fmt: skip
                tokens += sum(doses)
    return rows


def ends(loss: Loss, parts: Mapping[str, Doses], points: int = 8) -> dict[str, float]:
    """What each arm truly comes to."""
    return {
        strategy: loss([tuple(v / points for v in doses) for _, doses in stages for _ in range(points)])
        for strategy, stages in arms_of(parts).items()
    }


def order_effects(studies: int, loss: Loss, parts: Mapping[str, Doses], noisier: float = 1.0) -> dict[str, float]:
    """Bias and coverage of the order effect, how often it is called resolved, and how often any contrast whose truth
    is 0 is called so after Holm's correction."""
    random, truth = np.random.default_rng(5), ends(loss, parts)
    held = called = wrong = 0
    errors = []
    for _ in range(studies):
        (f,) = phases(study(random, loss, parts, noisier=noisier), "algebra")
        true = truth[str(f.parts["strategy"])] - truth[str(f.parts["against"])]
        i = f.interval()
        held += bool(i and i.contains(true))
        called += bool(f.resolved)
        errors.append((f.estimate or 0.0) - true)
        zero = [r for r in f.table if r["what"] == "order" and abs(true) < 1e-9]
        wrong += any((r["p_holm"] or 0.0) <= 0.05 for r in zero)
    n = studies
    return {"bias": float(np.mean(errors)), "held": held / n, "resolved": called / n, "family": wrong / n}


def left_out(studies: int, loss: Loss, parts: Mapping[str, Doses]) -> dict[str, float]:
    """The law's test: how often a left-out order's prediction interval holds what was measured, the effect's interval
    its truth, the rule names the truly best order, and the finding is refused."""
    random, truth = np.random.default_rng(6), ends(loss, parts)
    inside = tested = right = refused = held = answered = 0
    errors = []
    for _ in range(studies):
        f = phase_law(study(random, loss, parts), "algebra")
        inside += int(f.parts["orders_inside"] or 0)
        tested += int(f.parts["orders_tested"] or 0)
        orders = {str(r["order"]).replace(" → ", " then "): r for r in f.table}
        errors += [float(r["predicted"]) - truth[name] for name, r in orders.items()]
        best = min(orders, key=lambda name: truth[name])
        right += str(f.parts["best"]).replace(" → ", " then ") == best
        refused += f.estimate is None
        if f.estimate is not None:
            names = [str(f.parts[k]).replace(" → ", " then ") for k in ("best", "worst")]
            i = f.interval()
            held += bool(i and i.contains(truth[names[0]] - truth[names[1]]))
            answered += 1
    n = studies
    return {"rmse": float(np.sqrt(np.mean(np.square(errors)))), "inside": inside / tested,
            "held": held / max(answered, 1), "right": right / n, "refused": refused / n,
            "answered": answered}  # fmt: skip


def error(share: float, n: int) -> str:
    """A share with its Monte-Carlo standard error; at 0 and 1 that of half a study."""
    return f"{share:.3f} ± {math.sqrt(max(share * (1 - share), 1 / n / 4 if share in (0, 1) else 0) / n):.3f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--studies", type=int, default=200)
    parser.add_argument("--laws", type=int, default=50, help="studies for the fitted law, some 0.6 s each")
    parser.add_argument("--truths", nargs="+", default=["no order effect", *OTHERS], help="rows of the second table")
    asked = parser.parse_args()
    n = asked.studies
    cases: dict[str, tuple[Loss, Mapping[str, Doses]] | tuple[Loss, Mapping[str, Doses], float]] = {
        "no order effect, two phases": (NO_ORDER.loss, TWO),
        "no order effect, two phases, one order 3 times noisier": (NO_ORDER.loss, TWO, 3.0),
        "no order effect, two phases, one order 6 times noisier": (NO_ORDER.loss, TWO, 6.0),
        "no order effect, three phases": (lambda path: 0.8 + 1.5 * (1 + 0.02 * sum(map(sum, path))) ** -0.5, THREE),
        **{f"{name}, two phases": (loss, TWO) for name, loss in OTHERS.items()},
        "its own, three phases": (LAW3.loss, THREE),
    }
    if n:
        print(
            "| truth | bias, bits | interval holds it | called resolved | any false order contrast, Holm |\n"
            "|---|---|---|---|---|"
        )
    for name, case in cases.items() if n else ():
        r = order_effects(n, *case)
        print(
            f"| {name} | {r['bias']:+.4f} | {error(r['held'], n)} | {error(r['resolved'], n)} "
            f"| {error(r['family'], n)} |", flush=True,
        )  # fmt: skip
    print(
        "\n| truth | error of a left-out order, bits | measured inside its interval | effect's interval holds it "
        "| rule names the best order | refused |\n|---|---|---|---|---|---|"
    )
    truths = {"no order effect": NO_ORDER.loss, **OTHERS}
    for name in asked.truths:
        r = left_out(asked.laws, truths[name], TWO)
        answered = round(r["answered"])
        held = f"{error(r['held'], answered)} (of {answered})" if answered else "– (of 0)"
        right = "–" if name == "no order effect" else f"{r['right']:.3f}"
        print(
            f"| {name} | {r['rmse']:.4f} | {error(r['inside'], 2 * asked.laws)} | {held} | {right} "
            f"| {error(r['refused'], asked.laws)} |", flush=True,
        )  # fmt: skip


if __name__ == "__main__":
    main()
