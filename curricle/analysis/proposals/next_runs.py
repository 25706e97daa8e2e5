"""What to run next: which questions a study leaves open, what each would cost, and what more seeds are worth.

For the choice between the strategies that were run there is a price: the expected value of sample information (Raiffa
and Schlaifer 1961). With means m_a known to a variance v = σ²/S from S seeds, k more seeds move each mean by a normal
of variance σ²/S − σ²/(S + k); the choice made then is better by E[max_a M_a] − max_a m_a on average, in the unit of
the score. That is the regret which these seeds take off, and per FLOP it says which seeds to buy. Questions that need
another design have no such price before their first run: they stand after it, what compares strategies first, then the
cheapest.

Every question that `analyse` asks is answered, open, or cannot be answered from this study. An answer without an
estimate, a difference whose interval holds 0, and a level known less well than asked are open like a refusal.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from curricle.analysis.asked.asking import Asked
from curricle.analysis.asked.designs import general_beside
from curricle.analysis.asked.questions import Answer, ask
from curricle.analysis.finding import ACCURACY, BITS, PERCENT, POINTS, Finding, between, digits, number
from curricle.analysis.front import front
from curricle.analysis.proposals.had import Had
from curricle.analysis.proposals.openings import OPENINGS
from curricle.analysis.proposals.own_study import Own, Runs, own_study
from curricle.analysis.proposals.together import Together, together
from curricle.analysis.statistics.spread import two_way
from curricle.study import Refused

if TYPE_CHECKING:
    from curricle.results import Results
    from curricle.study import Study

Row = Mapping[str, Any]
MORE_SEEDS = (1, 2, 4, 8)
DRAWS = 20_000
NARROWER = 3  # times the seeds so far, added: half the width
ANSWERED, OPEN, NOT_HERE = "answered", "open", "not from this study"
WORTH = 0.002  # of the spread between strategies: less regret than this is not worth a run


@dataclass(frozen=True, slots=True)
class Proposal:
    """Runs that would answer open questions."""

    question: str
    """One of them, or several with commas between."""
    runs: str
    tokens: float
    flops: float
    why: str
    """Why the question is open, and what the runs would tell."""
    how: str
    """What to type."""
    sets: tuple[str, ...] = ()
    """The same as changes of the study, as `--set` takes them; none where a study of its own is drafted."""
    hours: float | None = None
    """On the machine that trained the runs so far; None where their time is not told."""
    regret_saved: float | None = None
    """Expected, in the target's unit; None where there is no price."""
    fits: bool = True
    """Whether it is among those that the budget buys, taken in order."""
    alone: bool = True
    """Whether the budget would buy it if it were the only one."""

    @property
    def of_gain(self) -> bool:
        """Whether it answers what every study asks: which strategy is better."""
        return "gain" in self.question.split(", ")


@dataclass(frozen=True, slots=True)
class Status:
    """One question: whether these runs answer it, and why not."""

    question: str
    title: str
    state: str  # ANSWERED, OPEN or NOT_HERE
    why: str = ""
    tokens: float | None = None
    """Of the cheapest runs that are proposed for it."""


@dataclass(frozen=True, slots=True)
class Design:
    """What a budget buys: `budget` in `unit` (tokens, flops or hours), as it was given; `flops` is the same in FLOPs,
    `spent` what the runs so far took."""

    target: str
    measure: str
    unit: str
    budget: float
    flops: float
    spent: float
    proposals: tuple[Proposal, ...]
    questions: tuple[Status, ...]
    front: Finding | None
    together: Together
    """What is bought as one change of the study."""

    @property
    def apart(self) -> list[Proposal]:
        """What is bought and is not in that change: a study of its own, or too much beside the others."""
        return [p for k, p in enumerate(self.proposals) if p.fits and k not in self.together.taken]

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {
            "proposals": [asdict(p) for p in self.proposals],
            "questions": [asdict(q) for q in self.questions],
            "front": self.front.to_json() if self.front else None,
        }


@dataclass(frozen=True, slots=True)
class Rates:
    """What a token of these runs took."""

    flops: float
    seconds: float | None

    def proposal(self, question: str, runs: Runs, why: str, regret: float | None = None) -> Proposal:
        hours = None if self.seconds is None else runs.tokens * self.seconds / 3600
        return Proposal(
            question, runs.what, runs.tokens, runs.tokens * self.flops, why, runs.how, runs.sets, hours, regret
        )


def next_runs(
    results: Results, *, target: str | None = None, tokens: float | None = None, flops: float | None = None,
    hours: float | None = None, study: Study | None = None, words: Sequence[str] = (), place: Sequence[str] = (),
    precision: float | None = None,
) -> Design:  # fmt: skip
    """Proposals for one budget, given as `tokens`, `flops` or `hours` on the machine that trained these runs.

    `study` is the one that these are the results of, `words` how the command line names it and `place` its store: what
    is to be typed is made of them; without them the study is read off the rows. `precision`: a level known to a
    half-width of more than this share of it is open. Raises `Refused` where no budget or several are given, where hours
    cannot be turned into FLOPs, and where nothing has been scored.
    """
    asked = Asked(results, target=target, max_epochs=study.max_epochs if study else Asked.max_epochs)
    ends = [row for row in asked.rows if row["final"]]
    if not ends:
        raise Refused(f"{results.name}: no strategy has been scored at its end; curricle run trains what is missing")
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
    timed = [r for r in runs if r["wall_seconds"] and r["training_flops"]]
    per_flop = sum(r["wall_seconds"] for r in timed) / sum(r["training_flops"] for r in timed) if timed else None
    rates = Rates(rate, None if per_flop is None else per_flop * rate)
    own = own_study(results, study, words, place)
    priced = seeds(of_target, measure, own, rates)
    statuses, found = opened(Had(asked, own, target), measure, rates, precision)
    found = [*priced, *(p for p in found if p.how not in {each.how for each in priced})]
    # Without a price the study's own question, which strategy is better, is the first, and then what costs least.
    found.sort(key=lambda p: (p.regret_saved is None, -(p.regret_saved or 0.0) / p.flops, not p.of_gain, p.flops))
    spent = results.spent()["training_flops"] or 0.0
    given = the_budget(tokens, flops, hours)
    proposals = bought(found, budget)
    whole = together(own, [Runs(p.runs, p.tokens, p.how, p.sets if p.fits else ()) for p in proposals], budget / rate)
    return Design(target, measure, *given, budget, spent, proposals, statuses, drawn_front(asked, target, measure),
                  whole)  # fmt: skip


def opened(had: Had, measure: str, rates: Rates, precision: float | None) -> tuple[tuple[Status, ...], list[Proposal]]:
    """Every question with its state, and the runs that the open ones would take, each once."""
    statuses: list[Status] = []
    wanted: dict[str, tuple[Runs, list[str], str]] = {}
    for answer in ask(had.asked):
        why = open_because(answer, had.target, measure, precision)
        if why is None:
            statuses.append(Status(answer.question, answer.title, ANSWERED))
            continue
        there, refusals = taken(had, answer)
        for runs in there:
            wanted.setdefault(runs.how, (runs, [], why))[1].append(answer.question)
        said = "; ".join([why, *(f"cannot be proposed: {refusal}" for refusal in refusals)])
        cheapest = min((runs.tokens for runs in there), default=None)
        statuses.append(Status(answer.question, answer.title, OPEN if there else NOT_HERE, said, cheapest))
    return tuple(statuses), [rates.proposal(", ".join(q), runs, why) for runs, q, why in wanted.values()]


def taken(had: Had, answer: Answer) -> tuple[list[Runs], list[str]]:
    """Runs that would answer a question, and what stands in the way of others: those of its own kind, and where there
    is an answer that is not resolved, more seeds."""
    ways = [OPENINGS[answer.question]] if answer.question in OPENINGS else []
    made: list[Runs] = []
    refusals: list[str] = []
    for way in ways:
        try:
            made += way(had)
        except Refused as refusal:
            refusals.append(" ".join(str(refusal).split()))
    if answer.refused is None:
        try:
            count = NARROWER * len(had.own.study.seeds)
            made.append(more_seeds(had.own, count, "half the width"))
        except Refused as refusal:
            refusals.append(str(refusal))
    return made, refusals


def open_because(answer: Answer, target: str, measure: str, precision: float | None) -> str | None:
    """Why a question is open; None where it is answered. What is found on the target decides, where anything is."""
    if answer.refused is not None:
        return answer.refused
    about = [f for f in answer.findings if f.unit != PERCENT]  # a relative gain is the same answer once more
    about = [f for f in about if f.benchmark == target and f.measure == measure] or about
    whys = [(f, why) for f in about if (why := unresolved(f, precision))]
    if not whys:
        return None
    first, why = whys[0]
    counted = f"{len(whys)} of {len(about)} answers: " if len(about) > 1 else ""
    return f"{counted}{first.subject}: {why}"


def unresolved(f: Finding, precision: float | None) -> str | None:
    if f.estimate is None:
        return None if f.parts.get("complementary") else f.undefined  # γ's own question has κ for an answer
    interval = f.interval()
    if f.is_change:
        if interval is None:
            return "no interval can be had"
        if not f.resolved:
            held = interval.contains(0.0)
            return f"{number(f.estimate, f.unit)} ({between(interval, f.unit)}) " + (
                "holds 0" if held else "leaves out 0, and its corrected test does not reject"
            )
        return None
    if interval is None:
        return None
    if interval.low is None or interval.high is None:
        return f"its interval is {between(interval, f.unit, False)}"
    half = (interval.high - interval.low) / 2
    if precision is not None and half > precision * abs(f.estimate):
        return f"{number(f.estimate, f.unit, False)} is known to ± {half:.3g}, more than {precision:.3g} of it"
    return None


def per_token(runs: Sequence[Row]) -> float:
    told = [r for r in runs if r["training_flops"] and r["budget_tokens"]]
    if not told:
        raise Refused("runs: training_flops and budget_tokens are not told, so nothing can be priced")
    return sum(r["training_flops"] for r in told) / sum(r["budget_tokens"] for r in told)


def the_budget(tokens: float | None, flops: float | None, hours: float | None) -> tuple[str, float]:
    """The one budget that was given, by its unit. Raises `Refused` for none, several, or one that is not above 0."""
    given = {"tokens": tokens, "flops": flops, "hours": hours}
    named = {name: value for name, value in given.items() if value is not None}
    if len(named) != 1:
        raise Refused("a budget: give one of --budget-tokens, --budget-flops and --budget-hours")
    ((name, value),) = named.items()
    if not (math.isfinite(value) and value > 0):
        raise Refused(f"--budget-{name} {value:g}: give a number above 0")
    return name, value


def in_flops(runs: Sequence[Row], rate: float, tokens: float | None, flops: float | None, hours: float | None) -> float:
    name, value = the_budget(tokens, flops, hours)
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


def seeds(ends: Sequence[Row], measure: str, own: Own, rates: Rates) -> list[Proposal]:
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
    if had < 2:
        why = f"{max(had, 1)} seed: nothing is known of how much another run would differ"
        return [rates.proposal("gain", more_seeds(own, 2), why)]
    # What all strategies share in a seed moves no choice: the spread is that of the rest.
    sigma = math.sqrt(two_way(y)[0])
    means = y.mean(axis=1)
    values = {k: value_of_seeds(means, sigma, had, k) for k in MORE_SEEDS}
    best = max(values, key=lambda k: values[k] / k)
    printed = float(digits(values[best], POINTS if measure == ACCURACY else BITS, signed=False))
    if values[best] <= WORTH * float(np.ptp(means)) or not printed:  # a price of 0.0 is no offer
        return []
    order = np.argsort(-means)
    names = list(table)
    why = (
        f"{names[order[0]]} leads {names[order[1]]} by {means[order[0]] - means[order[1]]:.3g} with a spread of "
        f"{sigma:.3g} between runs: chosen now, the choice is expected to be worse than with {best} more by this regret"
    )
    return [rates.proposal("gain", more_seeds(own, best), why, values[best])]


def more_seeds(own: Own, more: int, of: str = "") -> Runs:
    had = own.study.seeds
    first = max(had, default=-1) + 1
    what = f"{more} more seed{'s' * (more > 1)} of every strategy{f': {of}' if of else ''}"
    return own.beside(what, {("seeds",): [*had, *range(first, first + more)]})


def bought(found: Sequence[Proposal], budget: float) -> tuple[Proposal, ...]:
    left, made = budget, []
    for p in found:
        fits = p.flops <= left
        left -= p.flops if fits else 0.0
        made.append(Proposal(**{**asdict(p), "fits": fits, "alone": p.flops <= budget}))
    return tuple(made)


def drawn_front(asked: Asked, target: str, measure: str) -> Finding | None:
    """Target, forgetting and compute of every strategy; None where there is nothing to set against the target."""
    general = general_beside(asked, target)
    try:
        return front(asked.every, target, general, measure=measure, cost="flops") if general else None
    except Refused:
        return None
