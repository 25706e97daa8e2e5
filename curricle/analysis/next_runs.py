"""What to run next: which questions a study leaves open, what each would cost, and what more seeds are worth.

For the choice between the strategies that were run there is a price: the expected value of sample information (Raiffa
and Schlaifer 1961). With means m_a known to a variance v = σ²/S from S seeds, k more seeds move each mean by a normal
of variance σ²/S − σ²/(S + k); the choice made then is better by E[max_a M_a] − max_a m_a on average, in the unit of
the score. That is the regret which these seeds take off, and per FLOP it says which seeds to buy. Questions that need
another design have no such price before their first run: they stand after it, the cheapest first.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from curricle.analysis.designs import general_beside
from curricle.analysis.factorial import factorial_design
from curricle.analysis.finding import ACCURACY, Finding
from curricle.analysis.front import front
from curricle.analysis.outcomes import DOSE
from curricle.analysis.questions import Asked, ask
from curricle.analysis.spread import two_way
from curricle.study import Refused

if TYPE_CHECKING:
    from curricle.results import Results

Row = Mapping[str, Any]
MORE_SEEDS = (1, 2, 4, 8)
DRAWS = 20_000
SWARM = 32  # mixtures of a first batch
WORTH = 0.002  # of the spread between strategies: less regret than this is not worth a run


@dataclass(frozen=True, slots=True)
class Proposal:
    """Runs that would answer an open question."""

    question: str
    runs: str
    tokens: float
    flops: float
    why: str
    """Why the question is open, and what the runs would tell."""
    how: str
    """What to type or to write."""
    regret_saved: float | None = None
    """Expected, in the target's unit; None where there is no price."""
    fits: bool = True
    """Whether it is among those that the budget buys, taken in order."""


@dataclass(frozen=True, slots=True)
class Design:
    """What the budget buys. `flops` is the budget, `spent` what the runs so far took."""

    target: str
    measure: str
    flops: float
    spent: float
    proposals: tuple[Proposal, ...]
    front: Finding | None

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {
            "proposals": [asdict(p) for p in self.proposals],
            "front": self.front.to_json() if self.front else None,
        }


def next_runs(
    results: Results, *, target: str | None = None, tokens: float | None = None, flops: float | None = None,
    hours: float | None = None,
) -> Design:  # fmt: skip
    """Proposals for one budget, given as `tokens`, `flops` or `hours` on the machine that trained these runs.

    Raises `Refused` where none or several are given, where hours cannot be turned into FLOPs, and where nothing has
    been scored.
    """
    asked = Asked(results, target=target)
    ends = [row for row in asked.rows if row["final"]]
    if not ends:
        raise Refused(f"{results.folder}: no strategy has been scored at its end; curricle run trains what is missing")
    known = list(dict.fromkeys(row["benchmark"] for row in sorted(ends, key=lambda row: row["kind"] != "problems")))
    target = target or known[0]
    of_target = [row for row in ends if row["benchmark"] == target]
    if not of_target:
        raise Refused(f"target: {target!r} was not scored at any strategy's end; known: {', '.join(known)}")
    measure = ACCURACY if any(row["measure"] == ACCURACY for row in of_target) else of_target[0]["measure"]
    of_target = [row for row in of_target if row["measure"] == measure]
    runs = results.sql(
        "SELECT DISTINCT run, stage, kind, position, seed, budget_tokens, training_flops, wall_seconds FROM runs"
    )
    rate = per_token(runs)
    budget = in_flops(runs, rate, tokens, flops, hours)
    found = [*seeds(of_target, measure, runs), *designs(asked, of_target, results, rate)]
    found.sort(key=lambda p: (p.regret_saved is None, -(p.regret_saved or 0.0) / p.flops, p.flops))
    return Design(target, measure, budget, sum(r["training_flops"] or 0.0 for r in runs), bought(found, budget),
                  drawn_front(asked, target, measure))  # fmt: skip


def per_token(runs: Sequence[Row]) -> float:
    told = [r for r in runs if r["training_flops"] and r["budget_tokens"]]
    if not told:
        raise Refused("runs: training_flops and budget_tokens are not told, so nothing can be priced")
    return sum(r["training_flops"] for r in told) / sum(r["budget_tokens"] for r in told)


def in_flops(runs: Sequence[Row], rate: float, tokens: float | None, flops: float | None, hours: float | None) -> float:
    given = {"tokens": tokens, "flops": flops, "hours": hours}
    named = {name: value for name, value in given.items() if value is not None}
    if len(named) != 1:
        raise Refused("a budget: give one of --budget-tokens, --budget-flops and --budget-hours")
    ((name, value),) = named.items()
    if not (math.isfinite(value) and value > 0):
        raise Refused(f"--budget-{name} {value:g}: give a number above 0")
    if name == "flops":
        return value
    if name == "tokens":
        return value * rate
    seconds = sum(r["wall_seconds"] or 0.0 for r in runs)
    if not seconds:
        raise Refused("--budget-hours: these runs do not tell their time; give --budget-tokens or --budget-flops")
    return 3600 * value * sum(r["training_flops"] or 0.0 for r in runs) / seconds


def value_of_seeds(means: np.ndarray, sigma: float, had: int, more: int, draws: int = DRAWS) -> float:
    """The expected gain of the choice from `more` seeds of every strategy; `means` as higher is better."""
    moved = math.sqrt(max(sigma**2 / had - sigma**2 / (had + more), 0.0))
    half = np.random.default_rng(0).standard_normal((draws // 2, len(means)))
    later = means + moved * np.concatenate([half, -half])
    return float(later.max(axis=1).mean() - means.max())


def seeds(ends: Sequence[Row], measure: str, runs: Sequence[Row]) -> list[Proposal]:
    """More seeds of every strategy, so many as are worth most per FLOP; none where one strategy is clearly best."""
    table: dict[str, dict[int, float]] = {}
    for row in ends:
        table.setdefault(row["strategy"], {})[row["seed"]] = row["score"]
    common = sorted(set.intersection(*(set(of) for of in table.values())))
    if len(table) < 2:
        return []
    y = np.array([[of[seed] for seed in common] for of in table.values()])
    y = y if measure == ACCURACY else -y
    had = len(common)
    one_seed = sum(r["training_flops"] or 0.0 for r in runs) / max(len({r["seed"] for r in runs}), 1)
    tokens = sum(r["budget_tokens"] or 0.0 for r in runs) / max(len({r["seed"] for r in runs}), 1)
    if had < 2:
        return [
            Proposal("gain", "2 more seeds of every strategy", 2 * tokens, 2 * one_seed,
                     f"{max(had, 1)} seed: nothing is known of how much another run would differ",
                     more_seeds(common, 2))
        ]  # fmt: skip
    # What all strategies share in a seed moves no choice: the spread is that of the rest.
    sigma = math.sqrt(two_way(y)[0])
    means = y.mean(axis=1)
    values = {k: value_of_seeds(means, sigma, had, k) for k in MORE_SEEDS}
    best = max(values, key=lambda k: values[k] / k)
    if values[best] <= WORTH * float(np.ptp(means)) or not one_seed:
        return []
    order = np.argsort(-means)
    names = list(table)
    why = (
        f"{names[order[0]]} leads {names[order[1]]} by {means[order[0]] - means[order[1]]:.3g} with a spread of "
        f"{sigma:.3g} between runs: chosen now, the choice is expected to be worse than with {best} more by this regret"
    )
    what = f"{best} more seed{'s' * (best > 1)} of every strategy"
    return [Proposal("gain", what, best * tokens, best * one_seed, why, more_seeds(common, best), values[best])]


def more_seeds(had: Sequence[int], more: int) -> str:
    first = max(had, default=-1) + 1
    return f"--set seeds=[{', '.join(str(seed) for seed in [*had, *range(first, first + more)])}]"


def designs(asked: Asked, ends: Sequence[Row], results: Results, rate: float) -> list[Proposal]:
    """What the questions that these rows do not answer would take."""
    open_ = {a.question: a.refused for a in ask(asked, ["transfer", "phases", "mixture", "saturation"]) if a.refused}
    sources = sorted({key.removeprefix(DOSE) for row in ends for key in row if key.startswith(DOSE)})
    read = {source: max(row[DOSE + source] for row in ends) for source in sources}
    sources = sorted((source for source in sources if read[source]), key=lambda source: -read[source])
    count = len({row["seed"] for row in ends})
    made = []
    if "transfer" in open_ and len(sources) >= 2:
        pair, filler = sources[:2], sources[2] if len(sources) > 2 else None
        low = 0.0 if filler else 1.0 / 4
        doses = {source: [low * read[source], read[source] / 2, read[source]] for source in pair}
        design = factorial_design(doses, pair, seeds=max(count, 3), filler=filler)
        levels = " ".join(f"--dose {s}={','.join(f'{d:.0f}' for d in of)}" for s, of in doses.items())
        made.append(
            Proposal("transfer", f"{len(design.arms)} strategies × {design.seeds} seeds, doses of {pair[0]} and "
                     f"{pair[1]} crossed", design.tokens, design.tokens * rate, open_["transfer"],
                     f"curricle design factorial {levels}{f' --filler {filler}' if filler else ''} --out transfer.yaml")
        )  # fmt: skip
    paths = results.sql(
        "SELECT strategy, list(stage ORDER BY position) AS stages, list(kind ORDER BY position) AS kinds, "
        "sum(budget_tokens) AS tokens FROM (SELECT DISTINCT strategy, position, stage, budget_tokens, kind FROM runs) "
        "GROUP BY strategy ORDER BY tokens, strategy"
    )
    there = [path["stages"] for path in paths]
    new = [(path, turned) for path in paths if (turned := turned_round(path)) not in there]
    if "phases" in open_ and new:
        path, turned = new[0]
        made.append(
            Proposal("phases", f"{' → '.join(turned)}, {count} seeds", count * path["tokens"],
                     count * path["tokens"] * rate, open_["phases"],
                     f"strategies: {{{path['strategy']} turned round: [{', '.join(turned)}]}}")
        )  # fmt: skip
    if "mixture" in open_ and len(sources) >= 3:
        tokens = SWARM * max(row["tokens"] for row in ends) / 4
        made.append(
            Proposal("mixture", f"{SWARM} mixtures of {len(sources)} sources at a quarter of the tokens", tokens,
                     tokens * rate, open_["mixture"], f"curricle design swarm --runs {SWARM} --out swarm.yaml")
        )  # fmt: skip
    ladder = results.sql(
        "SELECT stage, max(budget_tokens) AS tokens FROM runs WHERE kind = 'pretrain' GROUP BY stage "
        "ORDER BY tokens DESC"
    )
    if "saturation" in open_ and ladder and ladder[0]["tokens"]:
        stage, tokens = ladder[0]["stage"], 2 * ladder[0]["tokens"]
        points = ", ".join(f"{tokens * share // 100:.0f}" for share in (10, 20, 40, 60, 80))
        made.append(
            Proposal("saturation", f"{stage} alone at twice its budget, scored at six points, {count} seeds",
                     count * tokens, count * tokens * rate, open_["saturation"],
                     f"stages: {{long: {{…, budget_tokens: {tokens}, evaluate_at: [{points}]}}}}, a strategy [long]")
        )  # fmt: skip
    return made


def turned_round(path: Row) -> list[str]:
    """A strategy's stages with those of pre-training in the opposite order, and every other one in its place: two
    orders are compared only where all else is the same."""
    pretrained = [stage for stage, kind in zip(path["stages"], path["kinds"]) if kind == "pretrain"]
    return [pretrained.pop() if kind == "pretrain" else stage for stage, kind in zip(path["stages"], path["kinds"])]


def bought(found: Sequence[Proposal], budget: float) -> tuple[Proposal, ...]:
    left, made = budget, []
    for p in found:
        fits = p.flops <= left
        left -= p.flops if fits else 0.0
        made.append(Proposal(**{**asdict(p), "fits": fits}))
    return tuple(made)


def drawn_front(asked: Asked, target: str, measure: str) -> Finding | None:
    """Target, forgetting and compute of every strategy; None where there is nothing to set against the target."""
    general = general_beside(asked, target)
    try:
        return front(asked.every, target, general, measure=measure, cost="flops") if general else None
    except Refused:
        return None
