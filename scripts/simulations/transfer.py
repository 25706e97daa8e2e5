"""Transfer's estimators on synthetic studies whose truth is known: bias, coverage, false findings, power.

    python scripts/simulations/transfer.py --studies 200        (some minutes on one core; prints Markdown tables)

A study is a factorial of runs with seeds: code × mathematics, 3 × 3 doses and 3 seeds where nothing else is said. The
truth of a contrast is that contrast of the expected cells, so that it is defined under a law that is not the
estimator's own.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np

from curricle.analysis.finding import (
    ACCURACY,
    BITS_PER_BYTE,
    THESE_PROBLEMS,
    THESE_WEIGHTS,
    THIS_STRATEGY,
    Finding,
    Interval,
)
from curricle.analysis.mediation import mediation
from curricle.analysis.rows.cells import read_factorial
from curricle.analysis.surface import on, raw
from curricle.analysis.synergy import synergy
from curricle.analysis.transfer import transfer

DOSES = (0.0, 1e6, 4e6)
TOTAL = 8e6
Law = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]  # doses of code, mathematics, filler → score or T


def share(tokens: np.ndarray, most: float = 4e6, unit: float = 1e6) -> np.ndarray:
    return np.log1p(tokens / unit) / math.log1p(most / unit)


def t_law(alpha: float, beta: float, gamma: float, base: float = -1.0, phi: float = 0.0) -> Law:
    """T itself; with a filler of 0 to 8M tokens that adds φ·s_f."""

    def law(code: np.ndarray, math_: np.ndarray, filler: np.ndarray) -> np.ndarray:
        c, m, unit = share(code), share(math_), filler[filler > 0].min(initial=np.inf)
        f = np.log1p(filler / unit) / math.log1p(TOTAL / unit) if np.isfinite(unit) else 0.0
        return base + alpha * c + beta * m + gamma * c * m + phi * f

    return law


def effective(kappa: float, d: float = 0.3, r: float = 0.5, beta: float = 0.3, floor: float = 0.6) -> Law:
    """The effective-token law, in units of 8M tokens."""
    k = 1.0, 2.0, 0.4

    def law(code: np.ndarray, math_: np.ndarray, filler: np.ndarray) -> np.ndarray:
        c, m, f = code / TOTAL, math_ / TOTAL, filler / TOTAL
        s = d + k[0] * c**r + k[1] * m**r + kappa * math.sqrt(k[0] * k[1]) * (c * m) ** (r / 2) + k[2] * f**r
        return floor + s**-beta

    return law


def separate(code: np.ndarray, math_: np.ndarray, filler: np.ndarray) -> np.ndarray:
    """Another law, without synergy: each source lowers its own part of the loss, and saturates."""
    return 0.6 + 0.25 * np.exp(-code / 2e6) + 0.5 / (1 + math_ / 1e6) ** 0.4 + 0.15 * np.exp(-filler / 3e6)


def steeper(alpha: float, beta: float, gamma: float, phi: float = 0.45, unit: float = 1e5) -> Law:
    """T with a filler that is steeper where there is little of it than the model of it, so that a source in place of
    much filler gains and in place of the last of it loses: no effect changes its sign, a difference of cells does."""

    def law(code: np.ndarray, math_: np.ndarray, filler: np.ndarray) -> np.ndarray:
        c, m = share(code), share(math_)
        return alpha * c + beta * m + gamma * c * m + phi * np.log1p(filler / unit) - 2.5

    return law


@dataclass(frozen=True)
class Scenario:
    name: str
    law: Law
    measure: str = BITS_PER_BYTE
    sigma: float = 0.02  # of a run, on the scale of the law
    seeds: int = 3
    filler: bool = False
    spread: Callable[[np.ndarray], np.ndarray] = field(default=lambda s_c: np.ones_like(s_c))  # of sigma over cells
    extra: tuple[tuple[float, float, float], ...] = ()
    shared: float = 0.0  # of a run's variance, with the runs of its seed that read as much filler first

    @property
    def cells(self) -> np.ndarray:
        """C × (code, mathematics, filler)."""
        made = [(c, m, TOTAL - c - m if self.filler else 0.0) for c in DOSES for m in DOSES]
        return np.array([*made, *self.extra])

    @property
    def expected(self) -> np.ndarray:
        return self.law(*self.cells.T)

    def rows(self, random: np.random.Generator) -> list[dict[str, Any]]:
        made, prefix = [], {}
        sd = self.sigma * self.spread(share(self.cells[:, 0]))
        for (code, math_, filler), value, s in zip(self.cells, self.expected, sd):
            for seed in range(self.seeds):
                own = random.normal(0, s)
                common = prefix.setdefault((filler, seed), own) if self.shared else 0.0
                if self.shared:  # the first of them lends its draw; the others add one of their own
                    own = math.sqrt(self.shared) * common + math.sqrt(1 - self.shared) * random.normal(0, s)
                t = value + own
                score = 100 / (1 + math.exp(-t)) if self.measure == ACCURACY else t
                made.append(
                    {"strategy": f"{code:g} {math_:g} {filler:g}", "seed": seed, "score": score,
                     "benchmark": "b", "measure": self.measure, "dose:code": code, "dose:math": math_,
                     "dose:prose": filler}
                )  # fmt: skip
        return made


def own_exponents(code: np.ndarray, math_: np.ndarray, filler: np.ndarray) -> np.ndarray:
    """Another law, without synergy: effective tokens add up, each source with an exponent of its own."""
    return 0.6 + (0.3 + (code / TOTAL) ** 0.9 + 2 * (math_ / TOTAL) ** 0.4 + 0.4 * (filler / TOTAL) ** 0.6) ** -0.3


def rate(values: list[bool]) -> str:
    """A share and its Monte-Carlo error."""
    p = sum(values) / len(values)
    return f"{p:.3f} ± {math.sqrt(max(p * (1 - p), 0.25 / len(values)) / len(values)):.3f}"


def quietly(scenario: Scenario, **options: Any) -> Finding:
    """The finding where no seed varies: its estimate is the truth of the contrast."""
    return transfer(
        Scenario(scenario.name, scenario.law, scenario.measure, 1e-9, 2, scenario.filler, extra=scenario.extra).rows(
            np.random.default_rng(0)
        ),
        benchmark="b", measure=scenario.measure, filler="prose" if scenario.filler else None, synergy=False, **options,
    )  # fmt: skip


def gammas(scenario: Scenario, studies: int, seed: int = 1) -> dict[str, Any]:
    """γ on f's scale and on the raw one: bias, coverage, how often each is told from 0; crossovers and lack of fit."""
    random, truth = np.random.default_rng(seed), quietly(scenario)
    held: dict[str, list[Any]] = {
        k: [] for k in ("error", "own", "raw", "found", "raw_found", "crossover", "removable", "lack", "width")
    }
    for _ in range(studies):
        f = transfer(scenario.rows(random), filler="prose" if scenario.filler else None, synergy=False)
        interval = Interval(f.parts["gamma_low"], f.parts["gamma_high"], "")  # stands there where γ is refused, too
        held["error"].append(f.parts["gamma"] - truth.parts["gamma"])
        held["own"].append(interval.contains(truth.parts["gamma"]))
        held["found"].append(f.estimate is not None and f.p_value <= 0.05)
        held["width"].append((interval.high - interval.low) / 2)
        flat = Interval(f.parts["raw_gamma_low"], f.parts["raw_gamma_high"], "")
        held["raw"].append(flat.contains(truth.parts["raw_gamma"]))
        held["raw_found"].append(not flat.contains(0.0))
        held["crossover"].append(f.parts["crossover_p"] is not None and f.parts["crossover_p"] <= 0.05)
        held["removable"].append(f.parts["removable"] is True)
        held["lack"].append(f.parts["lack_of_fit_p"] is not None and f.parts["lack_of_fit_p"] <= 0.05)
    return {"truth": truth.parts["gamma"], "raw_truth": truth.parts["raw_gamma"], **held}


def kappas(scenario: Scenario, studies: int, seed: int = 1) -> dict[str, list[Any]]:
    """κ's profile interval: whether it holds the truth, and what is claimed from it."""
    random = np.random.default_rng(seed)
    held: dict[str, list[Any]] = {k: [] for k in ("intervals", "claimed", "substitutes", "lack", "estimates")}
    for _ in range(studies):
        f = synergy(scenario.rows(random), filler="prose" if scenario.filler else None)
        held["intervals"].append(f.interval())
        held["estimates"].append(f.estimate)
        held["claimed"].append(bool(f.parts["complementary"]))
        held["substitutes"].append(bool(f.parts["substitutes"]))
        held["lack"].append((f.parts["lack_of_fit_p"] or 1.0) < 0.05)
    return held


FILLERS = ((0.0, 0.0, 1e6), (0.0, 0.0, 4e6))
GAMMAS = [
    Scenario("T, γ = 0 (logit)", t_law(1.0, 1.5, 0.0), ACCURACY, 0.1),
    Scenario("T, γ = 0.36, the smallest that is told (logit)", t_law(1.0, 1.5, 0.36), ACCURACY, 0.1),
    Scenario("T, γ = 0, 2 seeds", t_law(1.0, 1.5, 0.0), ACCURACY, 0.1, 2),
    Scenario("T, γ = 0.4, the seeds' spread rises threefold with code", t_law(1.0, 1.5, 0.4), ACCURACY, 0.1,
             spread=lambda s: 1 + 2 * s),
    Scenario("T, γ = 0, nothing has any effect", t_law(0.0, 0.0, 0.0), ACCURACY, 0.1),
    Scenario("T with a crossover: α = −0.5, γ = 1", t_law(-0.5, 1.5, 1.0), ACCURACY, 0.1),
    Scenario("T at the edge of a crossover: α = 0, γ = 0.5", t_law(0.0, 1.5, 0.5), ACCURACY, 0.1),
    Scenario("T, γ = 0, a filler with φ = 0.6 keeps tokens fixed", t_law(1.0, 1.5, 0.0, phi=0.6), ACCURACY, 0.1,
             filler=True),
    Scenario("the same with two arms of less filler", t_law(1.0, 1.5, 0.0, phi=0.6), ACCURACY, 0.1, filler=True,
             extra=FILLERS),
    Scenario("the same nine cells, half of the variance from a common prefix", t_law(1.0, 1.5, 0.0, phi=0.6), ACCURACY,
             0.1, filler=True, shared=0.5),
    Scenario("T with a steeper filler than its model, γ = 0", steeper(0.5, 0.5, 0.0), ACCURACY, 0.1, filler=True),
    Scenario("T with a steeper filler than its model, γ = −.25", steeper(0.5, 0.5, -0.25), ACCURACY, 0.1, filler=True),
    Scenario("T with a filler and a crossover: α = .5, γ = −1.2", t_law(0.5, 1.5, -1.2, phi=0.6), ACCURACY, 0.1,
             filler=True),
    Scenario("effective tokens, κ = 0 (loss)", effective(0.0), sigma=0.005),
    Scenario("separate saturating parts (loss)", separate, sigma=0.005),
]  # fmt: skip
KAPPAS = [
    (Scenario("κ = 0", effective(0.0), sigma=0.005), 0.0),
    (Scenario("κ = 0, σ = .001", effective(0.0), sigma=0.001), 0.0),
    (Scenario("κ = 0, filler", effective(0.0), sigma=0.005, filler=True), 0.0),
    (Scenario("κ = 0, filler, two arms of less filler", effective(0.0), sigma=0.005, filler=True, extra=FILLERS), 0.0),
    (Scenario("κ = 0, d = .01: nearly the same law as κ = 2", effective(0.0, d=0.01), sigma=0.001), 0.0),
    (Scenario("κ = 0, 2 seeds", effective(0.0), sigma=0.005, seeds=2), 0.0),
    (Scenario("κ = 3", effective(3.0), sigma=0.005), 3.0),
    (Scenario("κ = 3, σ = .001", effective(3.0), sigma=0.001), 3.0),
    (Scenario("κ = −1", effective(-1.0), sigma=0.005), -1.0),
    (Scenario("another law: separate saturating parts", separate, sigma=0.005), None),
    (Scenario("another law: an exponent for each source", own_exponents, sigma=0.005), None),
    (Scenario("another law: separate saturating parts, filler", separate, sigma=0.005, filler=True), None),
    (Scenario("another law: separate saturating parts, σ = .001", separate, sigma=0.001), None),
]


def items(studies: int, n: int, item_sd: float, seed_sd: float, seeds: int = 3, seed: int = 1) -> dict[str, list[bool]]:
    """A contrast of cells scored item by item, γ = 0: items differ by their own level, and by how much each source
    helps them; seeds differ; the rest is noise of 1. Coverage by what the interval speaks about."""
    random = np.random.default_rng(seed)
    plain = read_factorial(GAMMAS[0].rows(random), ("code", "math"))
    corners = [k for k, cell in enumerate(plain.cells) if all(dose in (0.0, DOSES[-1]) for dose in cell.doses)]
    weights = np.zeros(len(plain.cells))
    weights[corners] = 1, -1, -1, 1
    held: dict[str, list[bool]] = {}
    for _ in range(studies):
        level_P, helped_CP = random.normal(0, 1, n), random.normal(0, item_sd, (len(plain.cells), n))
        tables = [
            50 + level_P + helped_P + random.normal(0, seed_sd, (seeds, 1)) + random.normal(0, 1, (seeds, n))
            for helped_P in helped_CP
        ]
        cells = [replace(cell, y_S=y_SP.mean(1), y_SP=y_SP) for cell, y_SP in zip(plain.cells, tables)]
        fixed = float(weights @ helped_CP.mean(1))
        for estimate in on(raw(ACCURACY), cells).contrast(weights):
            interval = estimate.interval()
            if interval and estimate.kind != THESE_WEIGHTS:
                truth = 0.0 if estimate.kind == THIS_STRATEGY else fixed
                held.setdefault(estimate.kind, []).append(interval.contains(truth))
                held.setdefault(f"0 by {estimate.kind}", []).append(interval.contains(0.0))
    return held


class Mediated(NamedTuple):
    """What runs score by the skills that they have, and how those came about."""

    name: str
    gamma: float = 1.5  # of the skills, on f's scale
    direct: float = 0.0  # what the dose of code gives beside the skill in it
    blur: float = 0.0  # sd of a skill's measurement; the skills themselves vary by .05


MEDIATED = (
    Mediated("skills carry all"),
    Mediated("skills carry all, γ = 0", gamma=0.0),
    Mediated("the dose of code gives .3 beside them", direct=0.3),
    Mediated("the dose of code gives 1 beside them", direct=1.0),
    Mediated("skills measured with an error of .02", blur=0.02),
    Mediated("skills measured with an error of .05", blur=0.05),
)
SKILLS = Scenario("", t_law(1.0, 1.5, 0.5), ACCURACY, 0.1, 4)


def mediated(of: Mediated, random: np.random.Generator) -> list[dict[str, Any]]:
    """A factorial of four seeds whose outcomes rest on skills, with the held-out text that skills are measured on."""
    made = []
    for row in SKILLS.rows(random):
        dose = [float(share(np.array(row[f"dose:{name}"]))) for name in ("code", "math")]
        s = [half * 0.5 + random.normal(0, 0.05) for half in dose]
        t = -1 + 1.2 * s[0] + 2.0 * s[1] + of.gamma * s[0] * s[1] + of.direct * dose[0]
        made.append({**row, "score": 100 / (1 + math.exp(-t - random.normal(0, 0.02)))})
        for name, skill in zip(("code", "math"), s):
            loss = 2.0 * (1 - skill - random.normal(0, of.blur))
            made.append({**row, "benchmark": name, "measure": BITS_PER_BYTE, "score": loss})
    return made


def of_mediation(studies: int) -> None:
    print(
        "| skills | γ | bias | coverage | told from 0 | doses told beside them (p < .05) |\n|---|---|---|---|---|---|"
    )
    for number, of in enumerate(MEDIATED):
        random = np.random.default_rng([5, number])
        found = [mediation(mediated(of, random), benchmark="b") for _ in range(studies)]
        limits = [interval for f in found if (interval := f.interval())]
        bias = float(np.mean([f.estimate for f in found if f.estimate is not None])) - of.gamma
        print(
            f"| {of.name} | {of.gamma:g} | {bias:+.2f} | {rate([i.contains(of.gamma) for i in limits])} "
            f"| {rate([not i.contains(0.0) for i in limits])} "
            f"| {rate([isinstance(p := f.parts['direct_p'], float) and p < 0.05 for f in found])} |", flush=True,
        )  # fmt: skip
    print()


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--studies", type=int, default=200)
    arguments.add_argument("--kappas", type=int, help="studies of a κ scenario; as many by default")
    arguments.add_argument("--table", choices=["gamma", "kappa", "items", "skills"], help="one of the four tables")
    arguments.add_argument("--only", default="", help="scenarios whose name holds this")
    told = arguments.parse_args()
    if told.table in (None, "gamma"):
        of_gamma(told.studies, told.only)
    if told.table in (None, "kappa"):
        of_kappa(told.kappas or told.studies, told.only)
    if told.table in (None, "items"):
        of_items(told.studies)
    if told.table in (None, "skills"):
        of_mediation(told.studies)


def of_gamma(studies: int, only: str) -> None:
    print("| γ under | truth | bias | half width | coverage | told from 0 | raw: truth | raw coverage "
          "| raw told from 0 | crossover shown | called removable | lack of fit |")  # fmt: skip
    print("|---" * 12 + "|")
    for scenario in [s for s in GAMMAS if only in s.name]:
        g = gammas(scenario, studies)
        print(
            f"| {scenario.name} | {g['truth']:.3f} | {np.mean(g['error']):+.3f} | {np.mean(g['width']):.3f} "
            f"| {rate(g['own'])} | {rate(g['found'])} | {round(g['raw_truth'], 3):g} | {rate(g['raw'])} "
            f"| {rate(g['raw_found'])} | {rate(g['crossover'])} | {rate(g['removable'])} "
            f"| {rate(g['lack'])} |", flush=True,
        )  # fmt: skip
    print()


def of_kappa(studies: int, only: str) -> None:
    print("| κ under | median κ̂ | median interval | coverage | complementarity claimed | substitutes claimed "
          "| lack of fit |")  # fmt: skip
    print("|---" * 7 + "|")
    for scenario, truth in [pair for pair in KAPPAS if only in pair[0].name]:
        k = kappas(scenario, studies)
        held = "–" if truth is None else rate([i.contains(truth) for i in k["intervals"]])
        print(
            f"| {scenario.name} | {np.median(k['estimates']):.2f} | {typical(k['intervals'])} | {held} "
            f"| {rate(k['claimed'])} | {rate(k['substitutes'])} | {rate(k['lack'])} |", flush=True,
        )  # fmt: skip
    print()


def of_items(studies: int) -> None:
    print("| items | items differ by | seeds by | this strategy holds the truth | these problems hold theirs "
          "| these problems, asked about other problems |")  # fmt: skip
    print("|---" * 6 + "|")
    for n, item_sd, seed_sd in ((200, 0.5, 0.1), (200, 0.5, 0.3), (200, 0.0, 0.1), (40, 1.0, 0.05), (40, 0.0, 0.0)):
        h = items(studies, n, item_sd, seed_sd)
        print(
            f"| {n} | {item_sd} | {seed_sd} | {rate(h[THIS_STRATEGY])} | {rate(h[THESE_PROBLEMS])} "
            f"| {rate(h['0 by ' + THESE_PROBLEMS])} |", flush=True,
        )  # fmt: skip


def typical(intervals: list[Interval]) -> str:
    low = float(np.median([i.low for i in intervals]))
    high = float(np.median([math.inf if i.high is None else i.high for i in intervals]))
    return f"{low:.1f} to {high:.1f}" if math.isfinite(high) else f"{low:.1f} to unbounded"


if __name__ == "__main__":
    main()
