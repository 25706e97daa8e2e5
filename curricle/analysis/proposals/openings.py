"""What each open question would take: runs beside those that were made, as changes of the study.

`OPENINGS` has a line for each question that runs of another kind would answer. A function there yields the cheapest
runs that it knows of, or raises `Refused` with what stands in the way; where it yields nothing, this study cannot be
asked. More seeds, which narrow any interval, are nobody's line: `next_runs` adds them where an answer is not resolved.
"""

from __future__ import annotations

import contextlib
import shlex
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import combinations, permutations
from typing import Any

from curricle.analysis.asked.designs import LEAST_RANKED, LEAST_SWARM, crossed, head_starts, in_order
from curricle.analysis.asked.valued import LEAST_SOURCES
from curricle.analysis.factorial import Design, factorial_design
from curricle.analysis.proposals.had import Had
from curricle.analysis.proposals.openings_code import counterfactuals
from curricle.analysis.proposals.own_study import Runs, distinct, spelled, tokens_of
from curricle.analysis.proposals.swarm_design import swarm_design
from curricle.analysis.rows.outcomes import DOSE
from curricle.study import Refused

SWARM = 32  # mixtures of a first batch
POINTS = (10, 20, 40, 60, 80)  # percent of a longer budget at which it is scored, beside its end
TIMES_READ = 3  # a pool, where repeats are the question: past 2 they are seen to fade
REPLAYS = (0.1, 0.3, 0.5)
ROWS_OF_LEAST = 128  # rows of a mixture of a swarm, so that a share of a percent is one
MOST_SHARING = 4  # stages whose subsets are proposed: 15 strategies
SEEDS = 3  # at least, of a contrast and of a factorial
LARGER = (4, 2)  # times the budget: the second size


# ---- mixtures and doses -------------------------------------------------------------------------------------------


def transfer(had: Had) -> Iterator[Runs]:
    """Arms of less filler where doses are crossed already, else a factorial of the two sources most read."""
    try:
        _, filler = crossed(had.asked.rows)
    except Refused:
        yield factorial(had)
        return
    if filler is None:
        return
    stages = {n: s for n, s in had.own.study.stages.items() if s.mixture == {filler: 1} and s.kind == "pretrain"}
    if not stages:
        return
    longest = max(stages, key=lambda name: stages[name].budget_tokens)
    total = stages[longest].budget_tokens
    there = [
        stages[path[0]].budget_tokens
        for path in had.own.study.strategies.values()
        if len(path) == 1 and path[0] in stages
    ]
    sets: dict[tuple[str, ...], Any] = {}
    for budget in (had.own.whole(total / 3), had.own.whole(2 * total / 3)):
        if budget < total and budget not in there:
            name = spelled(f"{filler} {budget} alone")
            sets |= {("stages", name): had.copied(longest, budget_tokens=budget, evaluate_at=[]),
                     ("strategies", name): [name]}  # fmt: skip
    if sets:
        yield had.own.beside(f"{len(sets) // 2} arms of less {filler}, which show its own effect", sets)


def factorial(had: Had) -> Runs:
    design = factorial_of(had)
    tokens = design.seeds * distinct(arm.stages for arm in design.arms)
    doses = {s: sorted({arm.doses[i] for arm in design.arms}) for i, s in enumerate(design.sources)}
    words = [f"--dose={s}={','.join(f'{d:.0f}' for d in levels)}" for s, levels in doses.items()]
    words += [f"--filler={design.filler}"] if design.filler else []
    what = (
        f"{len(design.arms)} strategies × {design.seeds} seeds, doses of {' and '.join(design.sources)} crossed, in "
        "both orders"
    )
    used = [*design.sources, *([design.filler] if design.filler else [])]
    return Runs(what, tokens, drafted(had, "factorial", used, [*words, f"--seeds={design.seeds}"], "transfer"))


def factorial_of(had: Had) -> Design:
    """Doses of the two sources that are most read, in whole batches, another one filling up where there is enough."""
    read = most_read(had)
    own = had.own
    room = {s: own.study.max_epochs * own.supply.get(s, float("inf")) for s in read}
    names = list(read)
    if len(names) < 2:
        raise Refused(f"{len(names)} source was read; doses of two are crossed")
    pair = in_order(had.asked.rows, (names[0], names[1]), had.target)
    most = {s: own.whole(min(read[s], room[s] - own.batch)) for s in pair}
    filler = next((s for s in names[2:] if room[s] >= sum(most.values())), None)
    levels = {s: sorted({0 if filler else own.whole(most[s] / 4), own.whole(most[s] / 2), most[s]}) for s in pair}
    short = [s for s in pair if len(levels[s]) < 3]
    if short:
        raise Refused(f"doses: {short[0]}: {most[short[0]]:,} tokens are too few batches of {own.batch:,} for three")
    seeds = max(len(own.study.seeds), SEEDS)
    orders = ["→".join(pair), "→".join(pair[::-1])]
    design = factorial_design(levels, pair, seeds=seeds, filler=filler, orders=orders)
    for arm in design.arms:
        own.refuse_too_often(dict(arm.stages))
    return design


def mixture(had: Had) -> Iterator[Runs]:
    """A first batch of mixtures at a quarter of the tokens; nothing where there is one already."""
    own, read = had.own, most_read(had)
    if len(had.alone) >= LEAST_SWARM:
        return
    if len(read) < 3:
        raise Refused(f"{len(read)} sources were read; a mixture of three or more is a question")
    size = max(max(row["tokens"] for row in had.ends) / 4, ROWS_OF_LEAST * own.study.model.context)
    tokens = own.whole(size + own.batch / 2)
    known = all(own.supply.get(source) for source in read)
    natural = {source: float(int(own.supply[source])) if known else 1.0 for source in read}
    mixtures = swarm_design(natural, SWARM)
    for shares in mixtures.values():
        own.refuse_too_often({source: share * tokens for source, share in shares.items()})
    words = [f"--natural={','.join(f'{s}={size:.0f}' for s, size in natural.items())}", f"--runs={SWARM}",
             f"--budget-tokens={tokens}"]  # fmt: skip
    what = f"{SWARM} mixtures of {len(read)} sources at a quarter of the tokens, one seed each"
    yield Runs(what, float(tokens * SWARM), drafted(had, "swarm", list(read), words, "swarm"))


def most_read(had: Had) -> dict[str, float]:
    """Sources of pre-training, the most read first, with the most tokens that one strategy read."""
    study = had.own.study
    known = {s for name in study.stages if had.pretrained_stage(name) for s in study.stages[name].sources}
    names = sorted({key.removeprefix(DOSE) for row in had.ends for key in row if key.startswith(DOSE)})
    read = {n: max(row[DOSE + n] or 0.0 for row in had.ends) for n in names if spelled(n) in known or n in known}
    return dict(sorted(((s, x) for s, x in read.items() if x), key=lambda item: -item[1]))


def drafted(had: Had, verb: str, used: Sequence[str], words: Sequence[str], name: str) -> str:
    """The command that writes the study; from rows alone, where a source lies is for the reader to say."""
    own = had.own
    origin = ["--like", *own.words] if own.known else [f"--source={source}=PATH" for source in used]
    out = f"{own.study.name}-{name}.yaml" if own.known else f"{name}.yaml"
    return shlex.join(["curricle", "design", verb, *origin, *words, f"--out={out}"])


# ---- budgets ------------------------------------------------------------------------------------------------------


def longer(had: Had) -> Iterator[Runs]:
    """A stage that some strategy begins with, alone, at twice its budget: the one that comes nearest to the target. A
    curve of text that does not teach it does not say where it ends."""
    study = had.own.study
    first = {path[0] for path in study.strategies.values() if had.pretrained_stage(path[0])}
    worth = had.target_after_first()
    nearest = sorted(first, key=lambda name: (worth.get(name, float("inf")), -study.stages[name].budget_tokens, name))

    def attempt(stage: str) -> Runs:
        tokens = had.own.whole(2 * study.stages[stage].budget_tokens)
        points = sorted({had.own.whole(tokens * share / 100) for share in POINTS})
        name = spelled(f"{stage} twice as long")
        sets: dict[tuple[str, ...], Any] = {
            ("stages", name): had.copied(stage, budget_tokens=tokens, evaluate_at=points),
            ("strategies", name): [name],
        }
        return had.own.beside(f"{stage} alone at twice its budget, scored at {len(points) + 1} points", sets)

    yield from first_that_can(attempt, nearest)


def sources_alone(had: Had) -> Iterator[Runs]:
    """The two sources that are most read, each alone and scored on its way, where no strategy is that."""
    study, sets, new = had.own.study, dict[tuple[str, ...], Any](), list[str]()
    read = dict(list(most_read(had).items())[:2])
    if len(read) < 2:
        return
    alone = {source for path in study.strategies.values() if len(path) == 1 for source in study.stages[path[0]].sources
             if len(study.stages[path[0]].sources) == 1}  # fmt: skip
    for source, tokens in read.items():
        if source in alone or source not in study.sources:
            continue
        budget = had.own.whole(tokens)
        points = sorted({had.own.whole(budget * share / 100) for share in POINTS} - {budget})
        name = spelled(f"{source} alone")
        fields = {"mixture": {source: 1}, "budget_tokens": budget, "evaluate_at": points}
        sets |= {("stages", name): fields, ("strategies", name): [name]}
        new.append(source)
    if new:
        yield had.own.beside(f"{', '.join(new)} alone, scored on the way", sets)


def each_alone(had: Had) -> Iterator[Runs]:
    """Every source that was read, alone after the baseline's first stage: as long as those that were run so, else a
    quarter of that stage. Nothing where all were: then values lack, and no runs."""
    study = had.own.study
    first = study.strategies[study.baseline][0]
    read = [source for source in most_read(had) if source in study.sources]
    if len(read) < LEAST_SOURCES or not had.pretrained_stage(first):
        return
    there = {
        study.stages[path[1]].sources[0]: path[1]
        for path in study.strategies.values()
        if len(path) == 2 and path[0] == first and len(study.stages[path[1]].sources) == 1
    }
    like = next(iter(there.values()), None)
    budget = had.own.whole(study.stages[first].budget_tokens / 4)
    fields = had.copied(like) if like else {"budget_tokens": budget}
    sets: dict[tuple[str, ...], Any] = {}
    for source in read:
        if source not in there:
            name = spelled(f"{source} alone after {first}")
            sets |= {("stages", name): {**fields, "mixture": {source: 1}}, ("strategies", name): [first, name]}
    if sets:
        what = f"{len(sets) // 2} sources, each alone after {first}, to set beside what curricle value says there"
        yield had.own.beside(what, sets)


def read_again(had: Had) -> Iterator[Runs]:
    """The smallest source that ends, alone, read so often that what its repeats are worth can be seen."""
    own = had.own
    read = [source for source in most_read(had) if own.supply.get(source) and source in own.study.sources]

    def attempt(source: str) -> Runs:
        budget = own.whole(TIMES_READ * own.supply[source])
        points = sorted({own.whole(budget * share / 100) for share in POINTS} - {budget})
        name = spelled(f"{source} read {TIMES_READ} times")
        fields = {"mixture": {source: 1}, "budget_tokens": budget, "evaluate_at": points}
        sets: dict[tuple[str, ...], Any] = {("stages", name): fields, ("strategies", name): [name]}
        return own.beside(f"{source} alone, read {TIMES_READ} times, scored at {len(points) + 1} points", sets)

    yield from first_that_can(attempt, sorted(read, key=lambda source: own.supply[source]))


def sources_or_longer(had: Had) -> Iterator[Runs]:
    """Two sources alone; where there are such, one of them longer."""
    yield from list(sources_alone(had)) or longer(had)


def second_size(had: Had) -> Iterator[Runs]:
    """Mixtures of one stage again, at a larger budget."""
    study = had.own.study
    names = had.alone
    if len(names) < LEAST_RANKED:
        return
    names = names[:: max(1, len(names) // (2 * LEAST_RANKED))][: 2 * LEAST_RANKED]

    def attempt(times: int) -> Runs:
        sets: dict[tuple[str, ...], Any] = {}
        for stage in names:
            name = spelled(f"{stage} at {times}x")
            budget = had.own.whole(times * study.stages[stage].budget_tokens)
            sets |= {("stages", name): had.copied(stage, budget_tokens=budget), ("strategies", name): [name]}
        return had.own.beside(f"{len(names)} of the mixtures at {times} times their budget", sets)

    yield from first_that_can(attempt, LARGER)


def first_that_can(attempt: Callable[[Any], Runs], among: Iterable[Any]) -> Iterator[Runs]:
    """The first proposal that is no refusal; the first refusal where all are."""
    why: Refused | None = None
    for each in among:
        try:
            yield attempt(each)
        except Refused as refusal:
            why = why or refusal
        else:
            return
    if why is not None:
        raise why


# ---- orders and stages --------------------------------------------------------------------------------------------


def orders(had: Had) -> Iterator[Runs]:
    """The orders of one strategy's pre-training stages that were not run, every other stage in its place; of the
    cheapest strategy that has such."""
    study = had.own.study
    there = set(study.strategies.values())
    for strategy in sorted(study.strategies, key=lambda s: (had.tokens(s), s)):
        own = had.pretrained(strategy)
        if not 2 <= len(set(own)) == len(own) <= 4:
            continue
        paths = [turned(study.strategies[strategy], own, order) for order in permutations(own)]
        new = [path for path in paths if path not in there]
        if new:
            sets: dict[tuple[str, ...], Any] = {
                ("strategies", spelled(f"{strategy} as {' '.join(path)}")): list(path) for path in new
            }
            said = " · ".join(" → ".join(path) for path in new)
            yield of_several_seeds(had, said, sets)
            return


def of_several_seeds(had: Had, said: str, sets: dict[tuple[str, ...], Any]) -> Runs:
    """Strategies to be set against others: of a study with one seed, with more of every strategy."""
    seeds = had.own.study.seeds
    if len(seeds) > 1:
        return had.own.beside(f"{said}, {len(seeds)} seeds", sets)
    more = list(range(seeds[0], seeds[0] + SEEDS))
    what = f"{said}, {SEEDS} seeds, and {SEEDS - 1} more of every strategy: one seed has no interval"
    return had.own.beside(what, {**sets, ("seeds",): more})


def turned(path: Sequence[str], own: Sequence[str], order: Sequence[str]) -> tuple[str, ...]:
    left = list(order)
    return tuple(left.pop(0) if name in own else name for name in path)


def subsets(had: Had) -> Iterator[Runs]:
    """The subsets of the stages of the strategy with most of them that no strategy was, in its order; nothing where the
    strategies stand in several orders, which no subset can mend."""
    study = had.own.study
    paths = set(study.strategies.values())
    whole = max(paths, key=lambda path: (len(path), path))
    ground = [name for name in whole if all(name in path for path in paths) and len(paths) > 1]
    players = [name for name in whole if name not in ground]
    if not 2 <= len(players) <= MOST_SHARING or len(set(whole)) < len(whole):
        return
    made = {tuple(name for name in whole if name in (*ground, *chosen))
            for size in range(len(players) + 1) for chosen in combinations(players, size)} - {()}  # fmt: skip
    if paths - made:
        return
    new = sorted(made - paths, key=lambda path: (len(path), [whole.index(name) for name in path]))
    if new:
        sets: dict[tuple[str, ...], Any] = {
            ("strategies", spelled(f"only {' '.join(path)}")): list(path) for path in new
        }
        said = " · ".join(" → ".join(path) for path in new)
        yield of_several_seeds(had, f"the stages' other subsets: {said}", sets)


def scratch(had: Had) -> Iterator[Runs]:
    """A strategy without its first stage: what it is to be a head start over; nothing where there is such a pair."""
    study = had.own.study
    with contextlib.suppress(Refused):
        if head_starts(had.asked):
            return
    there = set(study.strategies.values())
    for strategy in sorted(study.strategies, key=lambda s: (had.tokens(s), s)):
        rest = study.strategies[strategy][1:]
        if len(had.pretrained(strategy)) > 1 and rest not in there:
            yield had.own.beside(
                f"{' → '.join(rest)}, from scratch", {("strategies", spelled(f"{strategy} from scratch")): list(rest)}
            )
            return


def replays(had: Had) -> Iterator[Runs]:
    """A strategy's last pre-training stage with shares of the text before it, and without, ending there."""
    study = had.own.study
    for strategy in sorted(study.strategies, key=lambda s: (had.tokens(s), s)):
        own = had.pretrained(strategy)
        if len(own) < 2 or study.stages[own[-1]].replay:
            continue
        last, path = own[-1], list(study.strategies[strategy])
        before: dict[str, float] = {}
        for name in own[:-1]:
            for source, tokens in tokens_of(study.stages[name].mixtures).items():
                if source not in study.stages[last].sources:
                    before[source] = before.get(source, 0.0) + tokens
        if not before:
            continue
        old = max(before, key=lambda source: before[source])
        until = path[: path.index(last)]
        sets: dict[tuple[str, ...], Any] = {}
        for share in REPLAYS:
            name = spelled(f"{last} with {share:.0%} {old}".replace("%", " percent"))
            sets |= {("stages", name): had.copied(last, replay={old: share}), ("strategies", name): [*until, name]}
        if (*until, last) not in study.strategies.values():
            sets["strategies", spelled(f"{last} without {old}")] = [*until, last]
        shares = ", ".join(f"{share:.0%}" for share in REPLAYS)
        yield had.own.beside(f"{last} with {shares} of {old} replayed, and without", sets)
        return


OPENINGS: dict[str, Callable[[Had], Iterator[Runs]]] = {
    "shapley": subsets,
    "transferred": scratch,
    "transfer": transfer,
    "why-code": counterfactuals,
    "value": each_alone,
    "mixture": mixture,
    "split": mixture,
    "saturation": longer,
    "repetition": read_again,
    "floors": sources_or_longer,
    "why-saturated": sources_alone,
    "prediction": longer,
    "ranks": second_size,
    "front": replays,
    "critical-share": replays,
    "phases": orders,
    "phase-law": orders,
    "bound": scratch,
}
