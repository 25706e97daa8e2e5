"""Does the order of phases matter, apart from what the phases give together? (docs/theory.md, section 10).

    phases(rows, "algebra")

Rows are outcomes; what a phase is, is read from what was trained on: tokens of each source between a stage's beginning
and its end. Strategies that pass through the same phases in another order are set against each other, and against the
same tokens mixed, each phase alone, and none. Promises: the seeds' variance is pooled over all arms, or of a contrast's
own arms where arms may differ in it and theirs is wider; p-values are Holm-adjusted over all contrasts; and a design
without two orders of the same phases is not answered.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations
from typing import NamedTuple

import numpy as np

from curricle.analysis.finding import ACCURACY, BITS_PER_BYTE, THESE_PROBLEMS, Finding, Interval, Part, join
from curricle.analysis.rows.arms import Noise, Row, Table, checked, ends, items_of, noise, runs_of, scored, tabled
from curricle.analysis.rows.compare import UNITS
from curricle.analysis.statistics.intervals import Estimate, holm
from curricle.analysis.statistics.spread import reach
from curricle.study import Refused

NOTHING = "nothing"
ARROW = " → "
SAME = 0.02  # phases are the same where the tokens of each source differ by less than this share of the larger phase


class Phase(NamedTuple):
    """One stage as what it read: `doses` are tokens by source, in the order of the design's sources."""

    name: str
    doses: tuple[float, ...]


class Design(NamedTuple):
    """Which strategy passed through which phases; what all share at the beginning and the end is left out."""

    sources: tuple[str, ...]
    arms: Mapping[str, tuple[Phase, ...]]
    before: tuple[Phase, ...] = ()  # phases that every strategy begins with
    after: tuple[Phase, ...] = ()  # and those that every one ends with

    @property
    def shared(self) -> tuple[str, ...]:
        return tuple(phase.name for phase in (*self.before, *self.after))

    def groups(self) -> list[list[str]]:
        """Groups of strategies that pass through the same phases in two or more different orders."""
        groups: dict[tuple[Phase, ...], list[str]] = {}
        for strategy, path in self.arms.items():
            groups.setdefault(tuple(sorted(path)), []).append(strategy)
        return [group for group in groups.values() if len({self.arms[s] for s in group}) > 1]

    def twins(self, group: Sequence[str]) -> list[str]:
        """Strategies of a group whose path another of it has too: what sets them apart is not their order."""
        paths = [self.arms[s] for s in group]
        return [s for s, path in zip(group, paths) if paths.count(path) > 1]

    def orders(self) -> list[list[str]]:
        """Groups in which every order was run by one strategy."""
        return [group for group in self.groups() if not self.twins(group)]

    def unclear(self) -> str:
        """Why a group with two orders is not answered; empty where every group is."""
        twins = [name for group in self.groups() for name in self.twins(group)]
        return (
            f"{', '.join(map(repr, twins))} differ in something else than order; keep one of each path" if twins else ""
        )

    def label(self, strategy: str) -> str:
        return ARROW.join(phase.name for phase in self.arms[strategy]) or NOTHING

    def mixed(self, path: Sequence[Phase]) -> str | None:
        """The strategy that read the same tokens in one phase."""
        whole = np.sum([phase.doses for phase in path], axis=0)
        for strategy, other in self.arms.items():
            if len(other) == 1 and np.abs(np.array(other[0].doses) - whole).max() <= SAME * whole.sum():
                return strategy
        return None

    def just(self, path: tuple[Phase, ...]) -> str | None:
        return next((strategy for strategy, other in self.arms.items() if other == path), None)


def doses_of(rows: Sequence[Row]) -> tuple[tuple[str, ...], str]:
    """The sources, and the prefix of their columns; without `dose:` columns each stage counts as a source of its own
    (prefix empty)."""
    named = sorted({str(key) for row in rows for key in row if str(key).startswith("dose:")})
    if named:
        checked(rows, (), named)
        return tuple(name.removeprefix("dose:") for name in named), "dose:"
    return tuple(dict.fromkeys(str(row["stage"]) for row in rows)), ""


def cumulative(rows: Sequence[Row]) -> tuple[tuple[str, ...], dict[str, dict[float, tuple[int, str, np.ndarray]]]]:
    """For each strategy, at each point by its tokens: position, stage, and tokens of each source read until then.

    Raises `Refused` where a stage's beginning was not scored, since what it read is then not known."""
    found = checked(rows, ("strategy", "seed", "stage"), ("position", "stage_tokens", "tokens"))
    sources, prefix = doses_of(found)
    points: dict[str, dict[float, tuple[int, str, np.ndarray]]] = {}
    for row in sorted(found, key=lambda r: (r["tokens"], r["position"])):
        here = points.setdefault(str(row["strategy"]), {0.0: (0, str(row["stage"]), np.zeros(len(sources)))})
        at = float(row["tokens"])
        if at in here:
            continue
        begin = at - float(row["stage_tokens"])
        if begin not in here:
            raise Refused(
                f"strategy {row['strategy']!r} was not scored at {begin:,.0f} tokens, where stage "
                f"{row['stage']!r} begins; score every stage at its end"
            )
        if prefix:
            read = np.array([float(row[prefix + source]) for source in sources])
        else:
            read = here[begin][2].copy()
            read[sources.index(str(row["stage"]))] += float(row["stage_tokens"])
        here[at] = (int(row["position"]), str(row["stage"]), read)
    return sources, points


def design(rows: Sequence[Row]) -> Design:
    """The phases of each strategy, told apart by what they read."""
    sources, points = cumulative(rows)
    known: list[Phase] = []
    arms: dict[str, tuple[Phase, ...]] = {}
    for strategy, here in points.items():
        last: dict[int, tuple[str, np.ndarray]] = {}
        for _, (position, stage, read) in sorted(here.items()):
            last[position] = (stage, read)
        path, before = [], np.zeros(len(sources))
        for _, (stage, read) in sorted(last.items()):
            phase, before = Phase(stage, tuple(float(x) for x in read - before)), read
            if sum(phase.doses) <= 0:
                continue
            same = next((k for k in known if _same(k, phase)), None)
            if same is None:
                known.append(phase)
            path.append(same or phase)
        arms[strategy] = tuple(path)
    paths = list(arms.values())
    begin = end = 0
    while len(paths) > 1 and min(map(len, paths)) > begin and len({path[begin] for path in paths}) == 1:
        begin += 1
    while len(paths) > 1 and min(map(len, paths)) > begin + end and len({path[-1 - end] for path in paths}) == 1:
        end += 1
    first = paths[0]
    trimmed = {s: path[begin : len(path) - end] for s, path in arms.items()}
    return Design(sources, trimmed, first[:begin], first[len(first) - end :])


def _same(a: Phase, b: Phase) -> bool:
    x, y = np.array(a.doses), np.array(b.doses)
    return bool(np.abs(x - y).max() <= SAME * max(x.sum(), y.sum()))


# ---- contrasts ----------------------------------------------------------------------------------------------------


class Contrast(NamedTuple):
    what: str  # order | interaction | mixed | before | alone
    name: str
    weights: Mapping[str, float]  # over strategies; they sum to 0


def contrasts_of(made: Design, group: Sequence[str]) -> list[Contrast]:
    """What can be asked of one group of orders, in terms of its strategies' scores.

    order        one order less another
    mixed        the same tokens in one stage, less the mean of the orders
    interaction  the mean of the orders less what each phase gives alone: mean − Σ alone + (k − 1)·nothing
    before       an order less its last phase alone: what came before gave that
    alone        one phase less nothing
    """
    path = made.arms[group[0]]
    mean = {s: 1 / len(group) for s in group}
    found = [
        Contrast("order", f"({made.label(a)}) − ({made.label(b)})", {a: 1.0, b: -1.0})
        for a, b in combinations(group, 2)
    ]
    mixed, nothing = made.mixed(path), made.just(())
    if mixed:
        found.append(Contrast("mixed", f"{made.label(mixed)} − mean of the orders", _sum({mixed: 1.0}, mean, -1)))
    alone = {phase: made.just((phase,)) for phase in dict.fromkeys(path)}
    singles = [alone[phase] for phase in path]
    if nothing and all(singles):
        weights = _sum(mean, {nothing: float(len(path) - 1)})
        for single in singles:
            weights = _sum(weights, {str(single): -1.0})
        found.append(Contrast("interaction", "mean of the orders − Σ alone + nothing", weights))
    for strategy in group:
        last = alone[made.arms[strategy][-1]]
        if last:
            found.append(
                Contrast("before", f"({made.label(strategy)}) − {made.label(last)}", {strategy: 1.0, last: -1.0})
            )
    for phase, single in alone.items():
        if single and nothing:
            found.append(Contrast("alone", f"{phase.name} − {NOTHING}", {single: 1.0, nothing: -1.0}))
    return found


def _sum(a: Mapping[str, float], b: Mapping[str, float], factor: float = 1.0) -> dict[str, float]:
    return {key: a.get(key, 0.0) + factor * b.get(key, 0.0) for key in {**a, **b}}


def phases(rows: Iterable[Row], target: str, measure: str = BITS_PER_BYTE, level: float = 0.95) -> list[Finding]:
    """For each group of strategies with the same phases in different orders: the order effect on `target` (of two
    orders, the first less the second; of more, the best less the worst, with Tukey's interval), and in `table` every
    contrast that the design holds, Holm-adjusted over all of them. The finding's p-value is its contrast's there.

    The model before any training stands for `nothing` where no strategy does and no phase is shared by all. Without two
    orders of the same phases there is one finding, undefined, that says what is missing; so there is for orders that
    two strategies ran, since these differ in something else (a recipe), which would be taken for the order's.
    """
    here = scored(rows, target, measure, ("stage",))
    made = design(here)
    at_end = ends(here)
    cells = {key: float(row["score"]) for key, row in at_end.items()}
    if not made.just(()) and not made.shared:
        start = {(NOTHING, r["seed"]): float(r["score"]) for r in here if r["tokens"] == 0}
        if start:
            cells |= start
            made = made._replace(arms={**made.arms, NOTHING: ()})
    table = tabled([cells])
    found = noise(
        tabled([{key: cells[key] for key in at_end}])
    )  # the model as it came has no run, and so no noise of one
    groups = made.orders()
    unit = UNITS.get(measure, measure)
    if not groups:
        have = "; ".join(f"{s}: {made.label(s)}" for s in made.arms)
        why = f"no two strategies have the same phases in different orders ({have}); run both A→B and B→A"
        why = made.unclear() or why
        return [Finding("phases", f"order on {target}", measure, target, None, unit, undefined=why)]
    asked = [(group, contrasts_of(made, group)) for group in groups]
    estimates = [[_contrast(table, found, c.weights) for c in each] for _, each in asked]
    flat = holm([e.p_value for each in estimates for e in each])
    findings, done = [], 0
    for (group, each), measured in zip(asked, estimates):
        adjusted = flat[done : done + len(each)]
        done += len(each)
        lines: list[dict[str, Part]] = []
        for c, e, p in zip(each, measured, adjusted):
            i = e.interval(level)
            lines.append({
                "what": c.what, "contrast": c.name, "estimate": e.value, "low": i.low if i else None,
                "high": i.high if i else None, "p": e.p_value, "p_holm": p, "over": len(flat),
            })  # fmt: skip
        runs = runs_of({key: row for key, row in at_end.items() if key[0] in {s for c in each for s in c.weights}})
        corrected = {frozenset(c.weights): p for c, p in zip(each, adjusted) if c.what == "order"}
        findings.append(
            _order(made, table, found, group, lines, corrected, target, measure, unit, level, items_of(at_end), runs)
        )
    if unclear := made.unclear():
        findings.append(Finding("phases", f"other orders on {target}", measure, target, None, unit, undefined=unclear))
    return findings


def _contrast(table: Table, found: Noise | None, weights: Mapping[str, float]) -> Estimate:
    """Σ w·mean, with the variance of what strategies do not share (weights sum to 0, so a seed's part drops out). The
    model as it came stands last in the table, if at all, and not in the noise."""
    w = np.array([weights.get(s, 0.0) for s in table.strategies])
    value = float(w @ table.means[:, 0])
    if found is None:
        return Estimate(value, None, 1.0, THESE_PROBLEMS)
    variance, df = found.spreads[0].of(w, table.counts)
    return Estimate(value, variance if variance > 0 else None, df, THESE_PROBLEMS)


def _order(
    made: Design, table: Table, found: Noise | None, group: Sequence[str], lines: Sequence[Mapping[str, Part]],
    corrected: Mapping[frozenset[str], float | None], target: str, measure: str, unit: str, level: float, items: int,
    runs: tuple[str, ...],
) -> Finding:  # fmt: skip
    """The finding of one group: its order effect, judged by the p-value that its contrast has in the table."""
    score = {s: float(table.means[table.strategies.index(s), 0]) for s in group}
    better = (lambda s: -score[s]) if measure == ACCURACY else (lambda s: score[s])
    ranked = sorted(group, key=better)
    a, b = (group[0], group[1]) if len(group) == 2 else (ranked[0], ranked[-1])
    e = _contrast(table, found, {a: 1.0, b: -1.0})
    interval, p_value, test = e.interval(level), corrected[frozenset((a, b))], ""
    if found is not None and e.variance is not None:
        pooled = e.df == found.own_df
        of = f"pooled over {len(table.strategies)} arms" if pooled else "of these two arms"
        test = f"t, variance {of}, {e.df:.3g} degrees of freedom"
        test += f"; Holm over {lines[0]['over']}"
        if len(group) > 2:  # every pair is in the family, so that its p-value allows for the choice as well
            from scipy.stats import studentized_range

            error = math.sqrt(e.variance / 2)
            q = float(studentized_range.ppf(level, len(group), e.df))
            interval = Interval(e.value - q * error, e.value + q * error, THESE_PROBLEMS, level)
    counts = [int(table.counts[table.strategies.index(s)]) for s in group]
    lower = "" if measure == ACCURACY else "Lower is better."
    several = (
        f"The best less the worst of {len(group)}: Tukey's interval allows for the choice." if len(group) > 2 else ""
    )
    parts: dict[str, Part] = {
        "strategy": a, "against": b, "after": score[a], "before": score[b], "best": made.label(ranked[0]),
        "orders": len(group), "contrasts": len(lines), "shared": ", ".join(made.shared) or None,
        "sd": None if found is None else float(math.sqrt(found.own[0, 0])),
        "detectable": _detectable(found, min(counts), level, int(lines[0]["over"] or 1)),
    }  # fmt: skip
    note = join([
        lower, several, "" if found else "No two seeds of one strategy, or no variation: no interval can be had.",
        found.spreads[0].note("arms") if found else "",
        f"Missing, so not asked: {gap}." if (gap := _missing(made, group)) else "",
    ])  # fmt: skip
    return Finding(
        "phases", f"({made.label(a)}) over ({made.label(b)})", measure, target, e.value, unit,
        (interval,) if interval else (), p_value, test, n=items, seeds=min(counts), runs=runs, note=note, parts=parts,
        table=tuple(lines),
    )  # fmt: skip


def _detectable(found: Noise | None, seeds: int, level: float, over: int) -> float | None:
    """The smallest order effect that this design shows in four of five cases, even where no other of the contrasts that
    it is corrected with is told: (t + t₈₀)·σ·√(2/S)."""
    if found is None:
        return None
    return reach(found.own_df, 1 - (1 - level) / over) * math.sqrt(2 * float(found.own[0, 0]) / seeds)


def _missing(made: Design, group: Sequence[str]) -> str:
    path = made.arms[group[0]]
    gaps = [] if made.mixed(path) else ["the same tokens mixed"]
    gaps += [f"{phase.name} alone" for phase in dict.fromkeys(path) if not made.just((phase,))]
    return ", ".join(gaps + ([] if made.just(()) else [NOTHING]))
