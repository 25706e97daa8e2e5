"""Which design a study's rows are: the arguments that an estimator needs, found in the rows rather than typed.

A factorial is two sources whose doses are crossed; a head start is a stage that one strategy begins with and another
comes to; and so on. Each function raises `Refused` where the rows are no such design, and says what is missing.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import combinations
from typing import Any, NamedTuple

from curricle.analysis.asked.asking import Asked
from curricle.analysis.asked.budgets import lines, noted
from curricle.analysis.critical import critical_share
from curricle.analysis.finding import ACCURACY, BITS_PER_BYTE, Finding, short
from curricle.analysis.front import front
from curricle.analysis.mediation import mediation
from curricle.analysis.mixture import mixture
from curricle.analysis.phase_law import best_order_of_runs, phase_law
from curricle.analysis.phases import phases
from curricle.analysis.rows.arms import ends, last_stage_shares
from curricle.analysis.rows.cells import SAME_DOSE, ordered, orders_of, read_factorial, snapped
from curricle.analysis.rows.compare import holm_adjusted
from curricle.analysis.rows.outcomes import DOSE
from curricle.analysis.rows.outcomes import doses as doses_until
from curricle.analysis.rows.scores import strategies
from curricle.analysis.scaling import predict_loss, ranks
from curricle.analysis.transfer import transfers
from curricle.analysis.why_code import why_code
from curricle.study import Refused
from curricle.values import plural

Row = Mapping[str, Any]
LEAST_SWARM = 16
LEAST_RANKED = 4
ALLOWED_RISE = 0.03  # of a general loss, relative: what arXiv:2406.01375 allows in its trade-off


class HeadStart(NamedTuple):
    """Two strategies with one stage in common, which one of them begins with."""

    stage: str
    after: str
    scratch: str


def head_starts(asked: Asked) -> list[HeadStart]:
    """Every strategy that comes to a stage against one that begins with it (the baseline, where it does)."""
    known = strategies(asked.results)
    found = []
    for stage in dict.fromkeys(stage.name for strategy in known for stage in strategy.stages):
        having = [(strategy, at) for strategy in known if (at := strategy.stage(stage))]
        begin = sorted((s for s, at in having if at.position == 0), key=lambda s: not s.baseline)
        found += [HeadStart(stage, s.name, begin[0].name) for s, at in having if begin and at.position > 0]
    if not found:
        raise Refused("no stage that one strategy begins with and another comes to later, so there is no head start")
    return found


def crossed(rows: Sequence[Row]) -> tuple[tuple[str, str], str | None]:
    """The two sources whose doses at the end are fully crossed, and the one that fills up the rest. A third source that
    varies is a filler only where it makes the total the same in every run that reads of the two (arms of less filler
    alone show its own effect); else what it does is not told apart."""
    ends = [row for row in rows if row["final"]]
    names = sorted({key.removeprefix(DOSE) for row in ends for key in row if key.startswith(DOSE)})
    levels = {name: snapped(row[DOSE + name] for row in ends) for name in names}
    read = [{name: of[row[DOSE + name]] for name, of in levels.items()} for row in ends]
    varied = [name for name in names if len(set(levels[name].values())) > 1]
    others: list[str] = []
    for pair in combinations(varied, 2):
        cells = {tuple(row[name] for name in pair) for row in read}
        if len(cells) < len({a for a, _ in cells}) * len({b for _, b in cells}):
            continue
        rest = [name for name in varied if name not in pair]
        totals = [sum(row[n] for n in (*pair, *rest)) for row in read if any(row[n] for n in pair)]
        if not rest:
            return pair, None
        if len(rest) == 1 and max(totals) - min(totals) <= SAME_DOSE * max(totals):
            return pair, rest[0]
        others.append(f"{' and '.join(pair)} are crossed, but {', '.join(rest)} varied too")
    if others:
        raise Refused(f"{others[0]}: only one more source may, and only so that it fills every run up to one total")
    raise Refused(
        "no two sources whose doses are crossed (each dose of the one with each of the other); "
        "curricle design factorial proposes such a study"
    )


def in_order(rows: Sequence[Row], pair: tuple[str, str], target: str | None = None) -> tuple[str, str]:
    """The pair in the order that γ rests on, never the alphabet's: the one that most cells with both sources were read
    in; of two with as many, the one whose last source is the target, else the one whose strategy comes first."""
    orders = orders_of(rows, pair)
    cells: dict[str, set[tuple[float, ...]]] = {}
    for row in rows:
        doses = tuple(float(row[DOSE + source]) for source in pair)
        if row["final"] and all(doses):
            cells.setdefault(orders[row.get("strategy"), row["seed"]], set()).add(doses)
    known = {ordered(each): each for each in (pair, pair[::-1])}
    seen = [order for order in cells if order in known]  # in the order of their first strategies
    best = max(seen, key=lambda o: (len(cells[o]), known[o][1] == target), default=None)
    return known[best] if best else pair[::-1] if pair[0] == target else pair


def transfer_of_crossed(asked: Asked) -> list[Finding]:
    pair, filler = crossed(asked.rows)
    sources = in_order(asked.rows, pair, asked.benchmark or asked.target)
    whys: list[Refused] = []
    of: list[Row] = []
    for group in asked.groups:
        try:
            read_factorial(group, sources, filler=filler)
        except Refused as refusal:
            whys.append(refusal)
        else:
            of += group
    if whys and not of:
        raise whys[0]
    found = transfers(of, sources=sources, filler=filler)  # κ is among its parts
    through: list[Finding] = []
    for benchmark, measure in dict.fromkeys((f.benchmark, f.measure) for f in found):
        with contextlib.suppress(Refused):  # the skills were not scored, or are the outcome
            through.append(mediation(asked.every, sources=sources, benchmark=benchmark, measure=measure))
    return [*found, *holm_adjusted(through, lambda f: f.measure)]  # one γ a benchmark: they are the family


def answered(attempts: Iterator[Any]) -> list[Finding]:
    """What could be answered; the first refusal where nothing could."""
    made: list[Finding] = []
    why: Refused | None = None
    for attempt in attempts:
        try:
            found = attempt()
        except Refused as refusal:
            why = why or refusal
        else:
            made += [found] if isinstance(found, Finding) else list(found)
    if why is not None and not made:
        raise why
    return made


def losses(asked: Asked) -> list[list[Row]]:
    """The groups that are losses, in whatever unit."""
    return [group for group in asked.groups if group[0]["measure"] != ACCURACY]


def fronts(asked: Asked) -> list[Finding]:
    """Each target against the held-out text of everything else."""

    def attempts() -> Iterator[Any]:
        for group in asked.groups:
            target, measure = group[0]["benchmark"], group[0]["measure"]
            general = general_beside(asked, target)
            if general:
                yield lambda t=target, g=general, m=measure: front(asked.every, t, g, measure=m)

    made = answered(attempts())
    if not made:
        raise Refused("a front sets a target against held-out text of other sources, and there is none")
    return made


def general_beside(asked: Asked, target: str) -> list[str]:
    """Held-out texts on which forgetting would show: all but the target, and, where that is problems, but the source
    that strategies read most of in their last pre-training stage, since that is where the problems are learned."""
    kinds = {row["benchmark"]: row["kind"] for row in asked.every}
    texts = {row["benchmark"] for row in asked.every if row["measure"] == BITS_PER_BYTE and row["kind"] == "held-out"}
    own = learned_last(asked) if kinds.get(target) == "problems" else None
    return [name for name in kinds if name in texts and name not in (target, own)]


def learned_last(asked: Asked) -> str | None:
    """The source of which most was read in the strategies' last pre-training stages; None where nobody says, and where
    several were read as much."""
    read: dict[str, float] = {}
    phases = asked.results.sql("SELECT * FROM mixtures ORDER BY until_tokens")
    for stage in asked.results.sql(
        "SELECT run, budget_tokens FROM runs WHERE kind = 'pretrain' "
        "QUALIFY position = max(position) OVER (PARTITION BY strategy, seed)"
    ):
        of_run = [row for row in phases if row["run"] == stage["run"]]
        end = stage["budget_tokens"] or max((row["until_tokens"] for row in of_run), default=0)
        for source, tokens in doses_until(of_run, end).items():
            read[source] = read.get(source, 0.0) + tokens
    most = [source for source in read if read[source] >= (1 - SAME_DOSE) * max(read.values())]
    return most[0] if len(most) == 1 else None


def orders(asked: Asked) -> list[Finding]:
    """The contrasts of the orders that were run and, for losses that follow the law of phases, the best of all."""
    found = decided(answered(lambda g=group: phases(g, g[0]["benchmark"], g[0]["measure"]) for group in asked.groups))
    for group in losses(asked):
        with contextlib.suppress(Refused):
            found += best_order_of_runs(group, [group[0]["benchmark"]], group[0]["measure"])
    return found


def laws_of_orders(asked: Asked) -> list[Finding]:
    return decided(
        answered(lambda g=group: phase_law(g, g[0]["benchmark"], measure=g[0]["measure"]) for group in losses(asked))
    )


def decided(found: list[Finding]) -> list[Finding]:
    """The findings, unless none of them could be estimated: then these rows are no such design, for the first's
    reason."""
    if found and all(f.estimate is None for f in found):
        raise Refused(str(found[0].undefined))
    return found


def swarm(asked: Asked) -> list[Finding]:
    """The best mixture, from strategies of one stage that differ in nothing but their mixture; of the loss on each
    benchmark asked about, all alike. Losses in two units have no mean, so each measure has a mixture of its own."""
    rows = [row for group in losses(asked) for row in group if row["final"] and row["position"] == 0]
    measures = list(dict.fromkeys(row["measure"] for row in rows)) or [None]
    return answered(
        lambda m=measure: [
            replace(f, subject=f"{f.subject}, {m}") if len(measures) > 1 else f
            for f in swarm_of(asked, [row for row in rows if row["measure"] == m])
        ]
        for measure in measures
    )


def swarm_of(asked: Asked, rows: Sequence[Row]) -> list[Finding]:
    """The mixture by one measure. What there is of each source says which mixture is natural, and what the budget of
    these runs may take of it."""
    names = sorted({key.removeprefix(DOSE) for row in rows for key in row if key.startswith(DOSE)})
    mixtures: dict[str, dict[str, Any]] = {}
    scored: dict[str, dict[str, list[float]]] = {}
    for row in rows:
        run = row["strategy"]
        mixtures[run] = {"run": run} | {name: row[DOSE + name] / row["tokens"] for name in names}
        scored.setdefault(run, {}).setdefault(row["benchmark"], []).append(row["score"])
    different = {tuple(mixture[name] for name in names) for mixture in mixtures.values()}
    if len(names) < 2 or len(different) < LEAST_SWARM:
        raise Refused(
            f"{plural(len(different), 'different mixture')} in one stage; a law of mixtures takes {LEAST_SWARM} or more"
        )
    there = asked.results.sql("SELECT source, max(available_tokens) AS tokens FROM mixtures GROUP BY source")
    available = {row["source"]: row["tokens"] for row in there if row["tokens"] and row["source"] in names}
    metrics = [{"run": run, **{name: sum(v) / len(v) for name, v in of.items()}} for run, of in scored.items()]
    if len(available) < len(names):
        return mixture(list(mixtures.values()), metrics)
    budget = max(row["tokens"] for row in rows)
    return mixture(
        list(mixtures.values()), metrics, available=available, budget_tokens=budget, max_epochs=asked.max_epochs
    )


def predictions(asked: Asked) -> list[Finding]:
    """The loss of each strategy of one stage at the budgets asked for, in tokens, or at twice what it took, by the
    curve of its points: over training FLOPs where rows say them, else over tokens."""

    def attempts() -> Iterator[Any]:
        for group in losses(asked):
            for line in lines(asked, group):
                if not any(row["position"] for row in line.rows):
                    by = "flops" if any(row["flops"] for row in line.rows) else "tokens"
                    spent = [row for row in line.rows if row[by] and row["tokens"]]
                    if spent:
                        yield lambda r=spent, x=by, note=line.note: noted(predicted(r, x, asked.at), note)

    made = answered(attempts())
    if not made:
        raise Refused("no strategy of one stage alone, scored on its way; the curve of several stages is no one law")
    return made


def predicted(rows: Sequence[Row], by: str, at: Sequence[float]) -> list[Finding]:
    """`predict_loss` at budgets in tokens; a token costs what it cost at the largest budget that was run."""
    largest = max(rows, key=lambda row: row["tokens"])
    each = largest[by] / largest["tokens"]
    budgets = list(at) or [2 * largest["tokens"]]
    return [
        replace(
            f, subject=f"{largest['strategy']} after {short(tokens)} tokens, {f.subject}",
            parts={"strategy": largest["strategy"], "tokens": tokens, **f.parts},
        )
        for tokens, f in zip(budgets, predict_loss(rows, [each * tokens for tokens in budgets], by))
    ]  # fmt: skip


def critical_shares(asked: Asked) -> list[Finding]:
    """The largest share of a source in the last stage that keeps held-out text of other sources within a rise of 3 %,
    at each budget of that stage; the source is one that the last stage brings in, in several shares."""
    rows = [row for row in asked.rows if row["measure"] == BITS_PER_BYTE and row["tokens"] is not None]
    held_out = list(dict.fromkeys(row["benchmark"] for row in rows if row["kind"] == "held-out"))
    last = {key: row for key, row in ends(rows).items() if row["final"]}
    sizes = snapped(row["stage_tokens"] for row in last.values() if row["stage_tokens"])

    def attempts() -> Iterator[Any]:
        for size in sorted(set(sizes.values())):
            names = {name for (name, _), row in last.items() if sizes.get(row["stage_tokens"]) == size}
            here = [row for row in rows if row["strategy"] in names]
            for source in brought_in(here):
                general = [name for name in held_out if name != source]
                if general:
                    yield lambda h=here, s=source, g=general, n=size: [
                        replace(f, subject=f"{f.subject}, after {short(n)} tokens")
                        for f in critical_share(h, s, g, rise=ALLOWED_RISE, relative=True)
                    ]

    made = answered(attempts())
    if not made:
        raise Refused(
            "no last stages of one length that bring in a source in several shares, with held-out text of others "
            "scored; strategies that differ in how much of the earlier text they replay are such a design"
        )
    return made


def brought_in(rows: Sequence[Row]) -> list[str]:
    """Sources whose share of the last stage varies over strategies, and which nothing had read before it; where every
    one had been read, all that vary."""
    sources = sorted({key.removeprefix(DOSE) for row in rows for key in row if key.startswith(DOSE)})
    shares = {source: last_stage_shares(rows, source) for source in sources} if len(ends(rows)) > 1 else {}
    varied = [source for source, of in shares.items() if len(set(snapped(of.values()).values())) > 1]
    end = ends(rows)

    def new(source: str) -> bool:
        """Whether all that was read of it was read in the last stage."""
        here = {key: share * end[key]["stage_tokens"] for key, share in shares[source].items()}
        return all(end[key][DOSE + source] <= tokens * (1 + SAME_DOSE) for key, tokens in here.items())

    return [source for source in varied if new(source)] or varied


def ranks_between(asked: Asked) -> list[Finding]:
    """Mixtures of one stage that were trained at two sizes: in training FLOPs where all runs say them, so that a larger
    model counts as well as a longer budget, otherwise in tokens. Of all sizes, the two with most mixtures in common,
    and of those the farthest apart."""

    def attempts() -> Iterator[Any]:
        for group in asked.groups:
            rows = [row for row in group if row["final"] and not row["position"] and row["tokens"]]
            by = "flops" if rows and all(row["flops"] for row in rows) else "tokens"
            level = snapped(row[by] for row in rows)
            names = [key for key in (rows[0] if rows else ()) if key.startswith(DOSE)]
            placed: dict[tuple[float, ...], dict[float, str]] = {}
            keyed = []
            for row in rows:
                mixture = tuple(round(row[name] / row["tokens"], 2) for name in names)
                placed.setdefault(mixture, {}).setdefault(level[row[by]], row["strategy"])
                keyed.append((mixture, row))
            pairs = {
                (a, b): sum(a in of and b in of for of in placed.values())
                for a, b in combinations(sorted(set(level.values())), 2)
            }
            if not names or not pairs or max(pairs.values()) < LEAST_RANKED:
                continue
            small, large = max(pairs, key=lambda pair: (pairs[pair], pair[1] / pair[0]))
            both = [
                {**row, "size": level[row[by]], "mixture": placed[mixture][large]}
                for mixture, row in keyed
                if small in placed[mixture] and large in placed[mixture] and level[row[by]] in (small, large)
            ]
            yield lambda b=both, s=small, g=large: ranks(b, s, g, candidate="mixture")

    made = answered(attempts())
    if not made:
        raise Refused(
            f"no {LEAST_RANKED} mixtures of one stage that were each trained at two sizes (of the model, told by its "
            "FLOPs, or of the budget)"
        )
    return made


class Account(NamedTuple):
    """The strategies that tell why code helps: with the code, with a filler in its place, without a property."""

    whole: str
    filler: str
    taken: dict[str, str]
    control: str | None


def why_of_counterfactuals(asked: Asked) -> list[Finding]:
    account = counterfactual_arms(asked)
    return answered(
        lambda g=group: why_code(
            g, whole=account.whole, filler=account.filler, taken=account.taken, control=account.control
        )
        for group in asked.groups
    )


def counterfactual_arms(asked: Asked) -> Account:
    """The strategy with code from which others differ in one source only, as many of them as there are."""
    made = asked.results.sql("SELECT DISTINCT source, kind, made_from, take FROM mixtures ORDER BY source")
    take = {(row["made_from"], row["source"]): row["take"] for row in made if row["made_from"] and row["take"]}
    if not take:
        raise Refused(
            "no source was made from another by taking a property of its code away; sources.NAME.counterfactual makes "
            "one, and a study takes one property away at a time"
        )
    procedural = {row["source"] for row in made if row["kind"] == "procedural"}
    derived = {source for _, source in take}
    ends_of = {row["strategy"]: row for row in asked.rows if row["final"] and row["tokens"]}
    read = {
        name: {k.removeprefix(DOSE): v for k, v in row.items() if k.startswith(DOSE)} for name, row in ends_of.items()
    }
    found: list[Account] = []
    for whole, doses in read.items():
        for code in dict.fromkeys(original for original, _ in take):
            others = {name: instead(doses, read[name], code) for name in read if doses.get(code)}
            arms = {source: name for name, source in others.items() if source}
            plain = [source for source in arms if source not in derived | procedural]
            taken = {take[code, source]: name for source, name in arms.items() if (code, source) in take}
            control = next((arms[source] for source in arms if source in procedural), None)
            if plain and taken:
                found.append(Account(whole, arms[plain[0]], taken, control))
    if not found:
        raise Refused(
            "sources with a property of code taken away are there, but no strategy with the code whose place such a "
            "source takes in a second strategy, and other text in a third, everything else alike"
        )
    return max(found, key=lambda account: len(account.taken))


def instead(doses: Mapping[str, float], other: Mapping[str, float], code: str) -> str | None:
    """The one source that another strategy reads in the place of the code, all else alike; None where it differs
    otherwise."""
    room = SAME_DOSE * max(sum(doses.values()), 1.0)
    more = {name: other[name] - doses[name] for name in doses if abs(other[name] - doses[name]) > room}
    if set(more) - {code} and len(more) == 2 and abs(other[code]) <= room and abs(sum(more.values())) <= room:
        return next(name for name in more if name != code)
    return None
