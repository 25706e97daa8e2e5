"""The design of a factorial before it is trained: which runs, and the smallest γ that they can tell.

    design = factorial_design({"code": (0, 2e5, 4e5), "math": (0, 1e5, 2e5)}, filler="prose", seeds=3, sigma=0.02)
    design.smallest_gamma, design.answers, design.why

Pure arithmetic on the design matrix that `transfer` will use, so that what is promised here is what is found there. A
design that cannot answer is handed back with `answers` false and the reason; what is no design is refused.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from typing import Any

import numpy as np

from curricle.analysis.rows.cells import ordered
from curricle.analysis.rows.outcomes import DOSE
from curricle.analysis.statistics.spread import reach
from curricle.analysis.surface import POWER, determined, dose_of, power_needed, prefix_factor, terms
from curricle.study import Refused, nearest
from curricle.values import shortened

KAPPA_CELLS = 7  # parameters of the effective-token law, one more with a filler


@dataclass(frozen=True, slots=True)
class Arm:
    """One strategy: what is read, in turn. A filler comes first, so that it lies between nothing that is compared."""

    strategy: str
    order: str
    doses: tuple[float, float]
    filler: float
    stages: tuple[tuple[str, int], ...]  # source and tokens


@dataclass(frozen=True, slots=True)
class Design:
    sources: tuple[str, str]
    filler: str | None
    seeds: int
    arms: tuple[Arm, ...]
    sigma: float | None  # of a run's T over seeds; None where it is not known yet
    df: int
    smallest_gamma_sd: float | None  # in units of sigma
    smallest_gamma: float | None
    inflation: float  # how many times as wide the interval of γ is because the filler is modelled
    prefix_factor: float  # how many times as large γ's variance could be because arms share a first stage
    tells_kappa: bool
    answers: bool
    why: str  # why it does not answer, or what it answers

    @property
    def tokens(self) -> int:
        """Of all runs, were no prefix shared."""
        return self.seeds * sum(tokens for arm in self.arms for _, tokens in arm.stages)

    @property
    def runs(self) -> list[dict[str, Any]]:
        """One plain mapping a run, with the columns that `transfer` will read."""
        return [
            {
                "strategy": arm.strategy,
                "seed": seed,
                "order": arm.order,
                "stages": [{"source": source, "tokens": tokens} for source, tokens in arm.stages],
                **{DOSE + source: dose for source, dose in zip(self.sources, arm.doses)},
                **({DOSE + self.filler: arm.filler} if self.filler else {}),
            }
            for arm in self.arms
            for seed in range(self.seeds)
        ]

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "tokens": self.tokens, "runs": self.runs}


def smallest_gamma(sigma: float, seeds: int, *, df: float | None = None, power: float = POWER) -> float:
    """(t.975 + t_power)·2σ/√s: the smallest γ on doses in [0, 1] that four corners with s seeds each tell from 0 at
    5 % in that share of studies. Cells between the corners add degrees of freedom (`df`) and no more."""
    if not sigma > 0 or seeds < 2:
        raise Refused(f"sigma, seeds: {sigma!r} and {seeds!r}; a spread above 0 and at least 2 seeds tell a smallest γ")
    return reach(4 * (seeds - 1) if df is None else df, power=power) * 2 * sigma / math.sqrt(seeds)


def factorial_design(
    doses: Mapping[str, Sequence[float]],
    sources: Sequence[str] | None = None,
    *,
    seeds: int = 3,
    filler: str | None = None,
    total_tokens: float | None = None,
    filler_arms: Sequence[float] = (),
    orders: Sequence[str] | None = None,
    sigma: float | None = None,
    wanted: float | None = None,
    dose_power: float | None = None,
) -> Design:
    """Every dose of one source crossed with every dose of the other.

    `filler` keeps total tokens fixed, at the two largest doses together unless `total_tokens` says more; `filler_arms`
    are arms of less filler alone, which tell its effect from γ. `orders`: ("code→math", "math→code") for both, the
    first alone by default. `sigma`: the seeds' spread of one run's T (`seed_sd` of an earlier finding). `wanted`: the γ
    that must be seen. Raises `Refused` for what is no factorial.
    """
    pair = two_of(doses, sources)
    levels = [checked(source, doses[source]) for source in pair]
    known = [ordered(pair), ordered(pair[::-1])]
    orders = list(orders) if orders else known[:1]
    for order in orders:
        if order not in known:
            raise Refused(f"orders: {order!r}; {nearest(order, known)}")
    if isinstance(seeds, bool) or not isinstance(seeds, int) or seeds < 1:
        raise Refused(f"seeds: {seeds!r}; give a whole number of 1 or more")
    if sigma is not None and not (math.isfinite(sigma) and sigma > 0):
        raise Refused(f"sigma: {sigma!r}; give the spread over seeds, above 0")
    if filler in pair:
        raise Refused(f"filler: {filler!r} is one of the sources; a filler is neutral text beside them")
    largest = levels[0][-1] + levels[1][-1]
    total = largest if total_tokens is None else total_tokens
    if filler is None and (total_tokens is not None or filler_arms):
        raise Refused("total_tokens, filler_arms: only a filler keeps total tokens fixed; name one")
    if filler and total < largest:
        raise Refused(f"total_tokens: {total:,.0f} is less than the two largest doses together, {largest:,.0f}")
    if filler is None and levels[0][0] == levels[1][0] == 0:
        raise Refused(
            f"doses: the cell with 0 {pair[0]} and 0 {pair[1]} would train on nothing; name a filler, or let the "
            f"lowest dose of one source be more than 0"
        )
    arms = [
        arm(pair, (a, b), filler, total - a - b if filler else 0.0, order if a and b else "")
        for a, b in product(*levels)
        for order in (orders if a and b else orders[:1])
    ]
    arms += [arm(pair, (0.0, 0.0), filler, least, "") for least in shorter(filler_arms, total, levels)]
    return judged(pair, filler, seeds, arms, orders[0], sigma, wanted, dose_power)


def judged(
    pair: tuple[str, str], filler: str | None, seeds: int, arms: Sequence[Arm], main: str, sigma: float | None,
    wanted: float | None, dose_power: float | None,
) -> Design:  # fmt: skip
    """What these arms can tell, by the very regressors that `transfer` will use."""
    used = [a for a in arms if a.order in ("", main)]
    columns = [[a.doses[0] for a in used], [a.doses[1] for a in used], *([[a.filler for a in used]] if filler else [])]
    x_CK = terms([dose_of(levels, dose_power, None)(np.array(levels)) for levels in columns])
    df = len(arms) * (seeds - 1)
    power = power_needed(len(used) > x_CK.shape[1])
    fails = ""
    smallest_sd, inflation, shared = None, 1.0, 1.0
    if not determined(x_CK):
        fails = (
            f"γ and the effect of the filler {filler!r} cannot be told apart in {len(used)} cells: give three doses of "
            f"each source, or arms of less filler alone (--filler-arm)"
        )
    else:
        firsts = [a.stages[:1] for a in used]
        same_CC = np.array([[one == other for other in firsts] for one in firsts])
        shared = prefix_factor(np.linalg.pinv(x_CK)[3], same_CC)
        error = math.sqrt(np.linalg.inv(x_CK.T @ x_CK)[3, 3])
        inflation = error / math.sqrt(np.linalg.inv(x_CK[:, :4].T @ x_CK[:, :4])[3, 3])
        if seeds < 2:
            fails = "one seed says nothing about another run: give at least 2, better 3"
        else:
            smallest_sd = reach(df, power=power) * error / math.sqrt(seeds)
    smallest = smallest_sd * sigma if smallest_sd and sigma else None
    if smallest is not None and wanted is not None and smallest > abs(wanted):
        enough = seeds_for(abs(wanted), sigma or 0.0, smallest_sd or 0.0, seeds, len(arms), power)
        fails = f"γ = {wanted:g} is wanted and the smallest that it can tell is {smallest:.3g}; {enough} seeds would do"
    kappa = len(used) >= KAPPA_CELLS + (filler is not None)
    told = "" if smallest_sd is None else f"{smallest_sd:.2f} standard deviations over seeds"
    said = (
        f"tells γ = {smallest:.3g}, {told}, in 8 of 10 studies" if smallest else f"tells γ = {told} in 8 of 10 studies"
    )
    return Design(
        pair,
        filler,
        seeds,
        tuple(arms),
        sigma,
        df,
        smallest_sd,
        smallest,
        inflation,
        shared,
        kappa,
        not fails,
        fails or said,
    )


def seeds_for(wanted: float, sigma: float, smallest_sd: float, seeds: int, arms: int, power: float = POWER) -> int:
    """The fewest seeds with which the same arms tell the wanted γ."""
    error = smallest_sd / reach(arms * (seeds - 1), power=power) * math.sqrt(seeds) * sigma
    more = seeds
    while reach(arms * (more - 1), power=power) * error / math.sqrt(more) > wanted:
        more += max(1, more // 20)
    return more


def two_of(doses: Mapping[str, Sequence[float]], sources: Sequence[str] | None) -> tuple[str, str]:
    named = tuple(doses) if sources is None else tuple(sources)
    if len(named) != 2 or named[0] == named[1]:
        raise Refused(f"doses: {', '.join(map(repr, named)) or 'none'}; give the doses of two sources")
    for source in named:
        if source not in doses:
            raise Refused(f"doses: none for {source!r}; {nearest(source, doses)}")
    return named[0], named[1]


def checked(source: str, levels: Sequence[float]) -> list[float]:
    made = sorted(set(map(float, levels)))
    if any(not math.isfinite(level) or level < 0 or level != int(level) for level in made):
        raise Refused(f"doses: {source}: {list(levels)}; give whole numbers of tokens, 0 or more")
    if len(made) < 2:
        raise Refused(f"doses: {source}: {list(levels)}; an effect needs two different doses")
    return made


def shorter(filler_arms: Sequence[float], total: float, levels: Sequence[Sequence[float]]) -> list[float]:
    made = sorted(set(map(float, filler_arms)))
    if made and (not levels[0][0] == levels[1][0] == 0 or made[0] <= 0 or made[-1] >= total):
        raise Refused(
            f"filler_arms: {', '.join(f'{x:,.0f}' for x in made)}; give tokens between 0 and {total:,.0f}, beside a "
            f"dose of 0 of both sources"
        )
    return made


def arm(pair: tuple[str, str], doses: tuple[float, float], filler: str | None, rest: float, order: str) -> Arm:
    turns = list(zip(pair, doses)) if order in ("", ordered(pair)) else list(zip(pair, doses))[::-1]
    stages = [(filler, rest), *turns] if filler else turns
    name = ", ".join(f"{source} {shortened(int(dose))}" for source, dose in turns)
    if not any(doses) and filler:
        name = f"{filler} {shortened(int(rest))}"
    return Arm(name, order, doses, rest, tuple((source, int(tokens)) for source, tokens in stages if tokens > 0))
