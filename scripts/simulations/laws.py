"""Laws of budgets on synthetic studies whose truth is known: bias, coverage, refusals, false findings.

    python scripts/simulations/laws.py --studies 200        (some minutes on one core; prints Markdown tables)

A study has budgets a factor of 2 apart and runs of 1 to 3 seeds, with noise of .005 a point and .005 a run where
nothing else is said. Wrong laws are a straight line in the logarithm (no floor, no saturation), a broken law whose
slope doubles half way, and an exponential approach.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Iterator
from itertools import combinations

import numpy as np

from curricle.analysis.chain import chain, shapley
from curricle.analysis.efficiency import transferred
from curricle.analysis.finding import BITS_PER_BYTE, Finding
from curricle.analysis.repetition import repetition
from curricle.analysis.saturation import doubling_worth, floors, saturation, why_saturated
from curricle.analysis.scaling import predict_loss, ranks
from curricle.analysis.statistics.powerlaw import PowerLaw, fit
from curricle.analysis.statistics.repeats import effective_tokens
from curricle.analysis.transfer_runs import transfer_law_of_runs

Curve = Callable[[np.ndarray], np.ndarray]
BUDGETS = 1e6 * 2.0 ** np.arange(8)
NOISE = 0.005


def broken(x: np.ndarray) -> np.ndarray:
    """A power law whose exponent doubles past the middle of the budgets, smoothly."""
    middle = BUDGETS[4]
    return 0.6 + 0.6 * (x / 1e6) ** -0.15 * (1 + (x / middle) ** 3) ** (-0.15 / 3)


LAWS: dict[str, Curve] = {
    "power law, α = .1": PowerLaw(0.8, 0.6, 0.1, 1e6),
    "power law, α = .3": PowerLaw(0.8, 0.6, 0.3, 1e6),
    "power law, α = .6": PowerLaw(0.8, 0.6, 0.6, 1e6),
    "no floor: 1.4 − .06 ln x": lambda x: 1.4 - 0.06 * np.log(x / 1e6),
    "broken: the exponent doubles": broken,
    "exponential": lambda x: 0.8 + 0.6 * np.exp(-x / 2e7),
}


def rows_of(
    law: Curve, random: np.random.Generator, seeds: int = 3, budgets: np.ndarray = BUDGETS, between: float = NOISE,
    **more: object,
) -> list[dict[str, object]]:  # fmt: skip
    """One strategy: `seeds` runs with all budgets each, points of one run sharing an offset."""
    return [
        {"strategy": "a", "seed": seed, "stage_tokens": float(x),
         "score": float(law(x)) + offset + random.normal(0, NOISE), "measure": BITS_PER_BYTE, "benchmark": "math",
         **more}
        for seed, offset in enumerate(random.normal(0, between, seeds))
        for x in budgets
    ]  # fmt: skip


class Tally:
    """Counts of one scenario: how often asked, answered, held, and how far off."""

    def __init__(self) -> None:
        self.asked, self.held, self.off, self.width, self.counts = 0, [], [], [], {}  # type: ignore[var-annotated]

    def add(self, estimate: float | None, low: float | None, high: float | None, truth: float | None) -> None:
        self.asked += 1
        if truth is not None:
            self.held.append((low is None or low <= truth) and (high is None or truth <= high))
        if estimate is not None and truth is not None:
            self.off.append(estimate - truth)
        if low is not None and high is not None:
            self.width.append(high - low)

    def finding(self, f: Finding, truth: float | None) -> None:
        interval = f.interval()
        self.add(f.estimate, *((interval.low, interval.high) if interval else (None, None)), truth)

    def count(self, name: str, happened: bool) -> None:
        self.counts[name] = self.counts.get(name, 0) + bool(happened)

    def cells(self) -> list[str]:
        counted = ", ".join(f"{name} {share_of(n, self.asked)}" for name, n in self.counts.items())
        bias = f"{np.median(self.off):+.3g}" if self.off else "–"
        return [
            share_of(sum(self.held), len(self.held)),
            bias,
            f"{np.median(self.width):.3g}" if self.width else "–",
            counted,
        ]


def share_of(n: int, of: int) -> str:
    """A share with its Monte-Carlo standard error."""
    if not of:
        return "–"
    p = n / of
    return f"{p:.3f} ± {math.sqrt(max(p * (1 - p), 1 / of / 4 if p in (0, 1) else 0) / of):.3f}"


def laws(studies: int) -> Iterator[tuple[str, Tally]]:
    """The fitted curve: its floor, a prediction four and sixteen times past the largest budget."""
    for name, law in LAWS.items():
        for seeds in (1, 3):
            random, truth = np.random.default_rng(1), getattr(law, "floor", None)
            floor, near, far = Tally(), Tally(), Tally()
            for _ in range(studies):
                rows = rows_of(law, random, seeds, between=NOISE if seeds > 1 else 0.0)
                f = fit([r["stage_tokens"] for r in rows], [r["score"] for r in rows], [r["seed"] for r in rows])
                floor.add(*f.floor(), truth)
                floor.count("told wrong", f.wrong is not None and f.wrong < 0.05)
                places = BUDGETS[-1] * np.array([4.0, 16.0])
                for tally, at, found in zip((near, far), places, predict_loss(rows, places, x="stage_tokens")):
                    if found.estimate is None:
                        tally.asked += 1
                        tally.count("refused", True)
                        continue
                    tally.count("refused", False)
                    tally.finding(found, float(law(at)))
                    tally.count("widened", float(found.parts["widened"] or 1) > 1)
            about = f"{name}, {seeds} run{'s' * (seeds > 1)}"
            yield f"{about}: floor", floor
            yield f"{about}: 4 times past", near
            yield f"{about}: 16 times past", far


def saturations(studies: int) -> Iterator[tuple[str, Tally]]:
    for name, law in LAWS.items():
        for delta in (0.03, None):
            random, tally = np.random.default_rng(2), Tally()
            if isinstance(law, PowerLaw):
                noise = NOISE * math.sqrt(2) * math.sqrt(2 / 3)  # of a difference: a run varies by √2·.005
                truth: float | None = doubling_worth(law, delta or noise)
            else:
                truth = None
            for _ in range(studies):
                f = saturation(rows_of(law, random), delta=delta)
                tally.finding(f, truth)
                for verdict in ("saturated", "open", "not yet"):
                    tally.count(verdict, f.parts["verdict"] == verdict)
                tally.count("refused", f.estimate is None)
            top = float(law(BUDGETS[-2:-1])[0] - law(BUDGETS[-1:])[0])
            yield f"{name}, δ = {delta or 'noise'} (last doubling gains {top:.4f})", tally


def floor_differences(studies: int) -> Iterator[tuple[str, Tally]]:
    for alpha in (0.1, 0.3, 0.6):
        for gap in (0.0, 0.1):
            random, tally = np.random.default_rng(3), Tally()
            for _ in range(studies):
                a = rows_of(PowerLaw(0.8 + gap, 0.6, alpha, 1e6), random)
                b = [{**r, "strategy": "b"} for r in rows_of(PowerLaw(0.8, 0.5, alpha, 1e6), random)]
                f = floors([*a, *b], "a", "b", detect=0.1)
                tally.finding(f, gap)
                interval = f.interval()
                tally.count("claimed", f.estimate is not None and interval is not None and not interval.contains(0.0))
                tally.count("refused", f.estimate is None)
            yield f"α = {alpha}, floors {gap} apart", tally


def kinds(studies: int) -> Iterator[tuple[str, Tally]]:
    """Why one source gives less than another: the kind that is named, for floors .1 apart as what matters."""
    base = PowerLaw(0.8, 0.6, 0.6, 1e6)
    cases = {
        "the same source twice, α = .3": (PowerLaw(0.8, 0.6, 0.3, 1e6),) * 2,
        "the same source twice, α = .6": (base, base),
        "a token worth half, α = .6": (PowerLaw(0.8, 0.6 * 2**0.6, 0.6, 1e6), base),
        "slow: α = .45 and .6": (PowerLaw(0.8, 0.7, 0.45, 1e6), base),
        "mismatch: floors .2 apart, α = .6": (PowerLaw(1.0, 0.4, 0.6, 1e6), base),
    }
    for name, (worse, better) in cases.items():
        random, tally = np.random.default_rng(8), Tally()
        for _ in range(studies):
            b = [{**r, "strategy": "b"} for r in rows_of(better, random)]
            f = why_saturated([*rows_of(worse, random), *b], "a", "b", detect=0.1)
            tally.finding(f, worse.floor - better.floor)
            for kind in ("slow", "mismatch"):
                tally.count(kind, f.parts["kind"] == kind)
            tally.count("alike", (f.undefined or "").startswith("alike"))
            tally.count("not told", f.estimate is None and not (f.undefined or "").startswith("alike"))
        yield name, tally


def repetitions(studies: int) -> Iterator[tuple[str, Tally]]:
    law = PowerLaw(0.8, 0.6, 0.3, 1e6)
    for star in (math.inf, 15.0, 4.0):
        for pools in ((4e6,), (2e6, 8e6, 1e9)):
            random, tally = np.random.default_rng(4), Tally()
            for _ in range(studies):
                rows = []
                for pool in pools:
                    repeated = lambda x, pool=pool, star=star: law(effective_tokens(pool, x, star))  # noqa: E731
                    rows += rows_of(repeated, random, unique_tokens=pool)
                f = repetition(rows, tokens="stage_tokens")
                tally.finding(f, star if math.isfinite(star) else 1e300)
                tally.count("fading claimed", bool(f.parts["repeats_fade"]))
            yield f"R* = {star:g}, {len(pools)} pool{'s' * (len(pools) > 1)}", tally


def transfers(studies: int) -> Iterator[tuple[str, Tally]]:
    scratch = PowerLaw(0.8, 0.6, 0.3, 1e6)
    for name, head in (("no transfer", 0.0), ("a head start of 8M tokens", 8e6)):
        random, tally = np.random.default_rng(5), Tally()
        for _ in range(studies):
            helped = [{**r, "strategy": "code"} for r in rows_of(lambda x, head=head: scratch(x + head), random)]
            f = transferred([*rows_of(scratch, random), *helped], "code", "a")[0]
            tally.finding(f, head)
            interval = f.interval()
            tally.count("claimed", interval is not None and not interval.contains(0.0))
        yield name, tally


def transfer_laws(studies: int) -> Iterator[tuple[str, Tally]]:
    """α of D_T = k·D_F^α from one pair of strategies, nine budgets; D_T is what is said at a budget of 16M."""
    scratch, budgets = PowerLaw(0.8, 0.6, 0.3, 1e6), 1e6 * 2.0 ** np.arange(9)
    for alpha, middle in ((0.0, 4e7), (0.5, 1.6e7), (0.7, 5e6), (0.0, 0.0)):
        random, tally = np.random.default_rng(10), Tally()
        for _ in range(studies):
            law = lambda x, alpha=alpha, middle=middle: scratch(x + middle * (x / 1.6e7) ** alpha)  # noqa: E731
            helped = [{**r, "strategy": "code"} for r in rows_of(law, random, budgets=budgets)]
            f = transfer_law_of_runs([*rows_of(scratch, random, budgets=budgets), *helped], "code", "a")
            tally.finding(f, alpha if f.estimate is not None else None)
            tally.count("refused", f.estimate is None)
        yield (f"α = {alpha:g}, {middle / 1e6:g}M tokens" if middle else "no transfer"), tally


def chains(studies: int) -> Iterator[tuple[str, Tally]]:
    for name, together in (("stages add up", 0.0), ("together .05 more", 0.05)):
        random = np.random.default_rng(6)
        share, value, rest = Tally(), Tally(), Tally()
        for _ in range(studies):
            rows = []
            for k in range(3):
                for stages in combinations(("code", "math"), k):
                    for seed, luck in enumerate(random.normal(0, 0.01, 3)):
                        level, path = 3.0, ("warm", *stages)
                        for position, stage in enumerate(path):
                            level -= {"warm": 0.0, "code": 0.1, "math": 0.4}[stage]
                            level -= together * (stage == "math" and "code" in stages)
                            rows.append({
                                "strategy": "+".join(path), "seed": seed, "stage": stage, "position": position,
                                "stage_tokens": 1e6, "benchmark": "math", "measure": BITS_PER_BYTE,
                                "score": level + luck + random.normal(0, 0.005),
                            })  # fmt: skip
            whole = next(f for f in chain(rows) if f.parts["strategy"] == "warm+code+math")
            row = whole.table[0]
            low, high = row["low"], row["high"]
            end = 2.5 - together
            share.add(row["share"], low, high, math.log(2.9 / 3) / math.log(end / 3))  # type: ignore[arg-type]
            found = shapley(rows)[0]
            value.finding(found, -0.1 - together / 2)
            p = found.parts
            rest.add(p["unexplained"], p["unexplained_low"], p["unexplained_high"], -together)  # type: ignore[arg-type]
            rest.count("leaves out 0", p["unexplained_low"] > 0 or p["unexplained_high"] < 0)  # type: ignore[operator]
        yield f"{name}: code's share of the logarithm", share
        yield f"{name}: code's Shapley value", value
        yield f"{name}: what no stage explains alone", rest


def few_ranked(studies: int) -> Iterator[tuple[str, Tally]]:
    """Spearman's ρ of few candidates, correlation .8."""
    for count in (4, 5, 6, 8, 12):
        random = np.random.default_rng(9)
        many = random.multivariate_normal([0, 0], [[1, 0.8], [0.8, 1]], 200_000)
        truth, tally = float(np.corrcoef(many.argsort(0).argsort(0).T)[0, 1]), Tally()
        for q in random.multivariate_normal([0, 0], [[1, 0.8], [0.8, 1]], (studies, count)):
            rows = [
                {"strategy": f"s{i}", "size": size, "seed": 0, "score": q[i, k], "measure": BITS_PER_BYTE}
                for i in range(count)
                for k, size in enumerate(("small", "large"))
            ]
            found = ranks(rows, "small", "large")[0]
            tally.finding(found, truth if found.intervals else None)
        yield f"{count} candidates", tally


def rankings(studies: int) -> Iterator[tuple[str, Tally]]:
    for truth in (0.0, 0.7, 0.95):
        random = np.random.default_rng(7)
        many = random.multivariate_normal([0, 0], [[1, truth], [truth, 1]], 200_000)
        order = many.argsort(0).argsort(0)
        spearman = float(np.corrcoef(order.T)[0, 1])
        accuracy = 100 * (0.5 + math.asin(truth) / math.pi)
        rho, decided = Tally(), Tally()
        for _ in range(studies):
            q = random.multivariate_normal([0, 0], [[1, truth], [truth, 1]], 20)
            rows = [
                {"strategy": f"s{i}", "size": size, "seed": 0, "score": q[i, k], "measure": BITS_PER_BYTE}
                for i in range(20)
                for k, size in enumerate(("small", "large"))
            ]
            first, second = ranks(rows, "small", "large")
            rho.finding(first, spearman)
            decided.finding(second, accuracy)
        yield f"correlation {truth}: Spearman's ρ", rho
        yield f"correlation {truth}: decision accuracy", decided


SCENARIOS = {
    "Fitted curves": laws, "Saturation": saturations, "Floors": floor_differences, "Kinds of end": kinds,
    "Repetition": repetitions, "Effective data transferred": transfers,
    "Law of transfer": transfer_laws, "Shares of a chain": chains,
    "Ranks of few candidates": few_ranked, "Ranks of 20 candidates": rankings,
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--studies", type=int, default=200)
    parser.add_argument("--only", help="the beginning of one table's name")
    asked = parser.parse_args()
    for title, scenario in SCENARIOS.items():
        if asked.only and not title.lower().startswith(asked.only.lower()):
            continue
        print(f"### {title}\n\n| truth | 95 % interval holds it | median error | median width | how often |")
        print("|---|---|---|---|---|", flush=True)
        for name, tally in scenario(asked.studies):
            print(f"| {name} | {' | '.join(tally.cells())} |", flush=True)
        print()


if __name__ == "__main__":
    main()
