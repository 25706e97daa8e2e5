"""Orders that were not run: the law of learning and forgetting put to the test, and its rule for the best order
(docs/theory.md, section 10).

    phase_law(rows, "algebra")
    best_order([law, …], {"code": {"code": 4e5}, "math": {"math": 3e5}})

For one target the best order sorts the stages by k/φ, ascending: what leads highest in the end goes last. Promises: an
order's prediction is made without having seen that order; where the curves are not the law's, or cannot tell, the
finding is undefined and says why.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import permutations

import numpy as np

from curricle.analysis.finding import BITS, BITS_PER_BYTE, THESE_PROBLEMS, Finding, Interval, Part, join
from curricle.analysis.learning import PhaseLaw, curves_of, fit, misfit
from curricle.analysis.phases import ARROW, Design, Phase, design
from curricle.analysis.rows.arms import Row, Table, ends, items_of, noise, runs_of, scored, tabled, weights_of
from curricle.analysis.statistics.intervals import student
from curricle.study import Refused

WRONG = 0.01  # a test of the law below this says that the curves are not its
MOST_ORDERS = 7  # phases whose orders are enumerated: 5040


def phase_law(
    rows: Iterable[Row], target: str, *, measure: str = BITS_PER_BYTE, from_tokens: float = 1.0, level: float = 0.95
) -> Finding:
    """The law fitted on all curves of `target`, and its test: each order that was run is predicted from fits that have
    not seen it, and set beside what was measured.

    The estimate is the effect of the order that the law puts first against the one it puts last (of those run),
    predicted by a fit without the one and by a fit without the other, averaged; `measured` stands beside it in `parts`.
    Points before `from_tokens` are not fitted (by default the model as it came, since random weights follow no such
    law; 0 includes them). Undefined without two orders of the same phases, where the curves are not the law's (an
    F test at 1 %), and where the prediction is wider than all that was measured.
    """
    here = scored(rows, target, measure, ("stage",))
    made, at_end = design(here), ends(here)
    about = ("phase-law", f"best order for {target}", measure, target)
    common = {"n": items_of(at_end), "runs": runs_of(at_end)}
    groups = made.orders()
    if not groups:
        why = "no two strategies have the same phases in different orders, so no order can be left out and predicted"
        why = made.unclear() or why
        return Finding(*about, None, BITS, undefined=why, **common)  # type: ignore[arg-type]
    curves = curves_of(here, from_tokens)
    law = fit(curves, target)
    table = tabled([{key: float(row["score"]) for key, row in at_end.items()}])
    found = noise(table)
    own = (float(found.covariance[0, 0]), found.df) if found else (0.0, 1.0)
    group = max(groups, key=len)
    whole = {s: curves.x_PTJ[i, : curves.last[i]] for i, s in enumerate(curves.strategies)}
    ranked = sorted(group, key=lambda s: law.loss(whole[s]))
    begun = sum(sum(phase.doses) for phase in made.before)
    left = {
        s: fit(curves.without(s, begun + sum(made.arms[s][0].doses)), target, law.vector)
        for members in groups
        for s in members
    }
    lines: list[dict[str, Part]] = []
    for members in groups:
        for rank, s in enumerate(sorted(members, key=lambda s: law.loss(whole[s])), 1):
            count = int(table.counts[table.strategies.index(s)])
            lines.append(_line(made, law, left[s], s, whole[s], rank, table, own[0] / count, own[1], level))
    best, worst = ranked[0], ranked[-1]
    effects = [left[s].predicted(whole[best], minus=whole[worst]) for s in (best, worst)]  # one side not seen
    estimate, error = (float(np.mean(each)) for each in zip(*effects))  # they share most runs, so errors add
    half = float(student(min(left[best].df, left[worst].df), level)) * error
    measured = {s: float(table.means[table.strategies.index(s), 0]) for s in group}
    inside = [line["inside"] for line in lines if line["inside"] is not None]
    indices: dict[str, Part] = {}
    for j, source in enumerate(law.sources):
        one = np.eye(len(law.sources))[j]
        indices |= {f"k:{source}": law.teaches[j], f"phi:{source}": law.forgets[j], f"index:{source}": law.index(one)}
    parts: dict[str, Part] = {
        "best": made.label(best), "worst": made.label(worst), "measured": measured[best] - measured[worst],
        "measured_best": made.label(min(measured, key=lambda s: measured[s])),
        "floor": law.floor, "amplitude": law.amplitude, "exponent": law.exponent, "rms": law.rms,
        "orders_inside": sum(map(bool, inside)), "orders_tested": len(inside),
        "rule": ARROW.join(p.name for p in by_index(law, made, best)), **indices,
    }  # fmt: skip
    wrong = misfit(law, curves)
    parts["p_misfit"] = wrong
    width = float(table.means[:, 0].max() - table.means[:, 0].min())
    if found is None:
        why, half = "no two seeds of one strategy, so a left-out order's prediction cannot be judged", 0.0
        return Finding(*about, None, BITS, undefined=why, parts=parts, table=tuple(lines), **common)  # type: ignore[arg-type]
    if wrong is not None and wrong < WRONG:
        why = (
            f"the law does not describe these curves: its residuals are {law.rms:.2g} bits per byte, more than the "
            f"seeds' noise allows (p = {wrong:.1g}); orders are still compared as measured, by `phases`"
        )
        return Finding(*about, None, BITS, undefined=why, parts=parts, table=tuple(lines), **common)  # type: ignore[arg-type]
    if half > width:
        why = (
            f"the runs do not tie the law down: an order that was left out is predicted to ±{half:.2g}, and all arms "
            f"lie within {width:.2g} of each other; score the stages more often, or run each phase alone"
        )
        return Finding(*about, None, BITS, undefined=why, parts=parts, table=tuple(lines), **common)  # type: ignore[arg-type]
    note = join([
        f"Lower is better. Measured: {parts['measured']:+.3f}. The index rule puts {parts['rule']} as the best order.",
        f"{parts['orders_inside']} of {parts['orders_tested']} left-out orders lie inside their intervals.",
        "Assumed: one state for the target, no synergy, a learning rate that belongs to the stage and not its place.",
    ])  # fmt: skip
    return Finding(
        *about, estimate, BITS, (Interval(estimate - half, estimate + half, THESE_PROBLEMS, level),),
        seeds=int(table.counts.min()), note=note, parts=parts, table=tuple(lines), **common,  # type: ignore[arg-type]
    )  # fmt: skip


def _line(
    made: Design, law: PhaseLaw, out: PhaseLaw, strategy: str, path: np.ndarray, rank: int, table: Table,
    variance: float, df: float, level: float,
) -> dict[str, Part]:  # fmt: skip
    """One order: measured, as the law has it, and as predicted without it, with a prediction interval."""
    means = table.means[table.strategies.index(strategy), 0]
    predicted, error = out.predicted(path)
    total = error**2 + variance
    low = high = None
    if variance > 0:
        between = total**2 / (error**4 / out.df + variance**2 / df)
        half = float(student(max(between, 1.0), level)) * math.sqrt(total)
        low, high = predicted - half, predicted + half
    return {
        "strategy": strategy, "order": made.label(strategy), "rank": rank, "measured": float(means),
        "error": math.sqrt(variance), "fitted": law.loss(path), "predicted": predicted, "low": low, "high": high,
        "inside": None if low is None or high is None else bool(low <= means <= high),
    }  # fmt: skip


def by_index(law: PhaseLaw, made: Design, strategy: str) -> list[Phase]:
    """The phases of a strategy in the order of the index rule: k/φ ascending, what forgets nothing last."""

    def key(phase: Phase) -> float:
        found = law.index(phase.doses)
        return math.inf if found is None else found

    return sorted(made.arms[strategy], key=key)


def best_order_of_runs(
    rows: Sequence[Row], targets: Sequence[str], measure: str = BITS_PER_BYTE, level: float = 0.95
) -> list[Finding]:
    """`best_order` of each group of phases that was run in two orders or more, under the law of each target whose
    curves are the law's (the F test of `phase_law`); raises `Refused` for the first reason where none are."""
    laws: list[PhaseLaw] = []
    whys: list[str] = []
    for target in targets:
        here = scored(rows, target, measure, ("stage",))
        if not design(here).orders():
            whys.append(design(here).unclear() or "no two strategies have the same phases in different orders")
            continue
        curves = curves_of(here)
        law = fit(curves, target)
        wrong = misfit(law, curves)
        if wrong is None:
            whys.append("no two seeds of one strategy, so the law cannot be judged")
        elif wrong < WRONG:
            whys.append(f"the law does not describe these curves (p = {wrong:.1g})")
        else:
            laws.append(law)
    if not laws:
        raise Refused(whys[0] if whys else "targets: name one or more")
    made = design(scored(rows, laws[0].target, measure, ("stage",)))

    def told(path: Sequence[Phase]) -> list[dict[str, float]]:
        return [dict(zip(made.sources, phase.doses)) for phase in path]

    before, after = told(made.before), told(made.after)
    best: list[Finding] = []
    for members in made.orders():
        path = made.arms[members[0]]
        phases = dict(zip([phase.name for phase in path], told(path)))
        if 2 <= len(phases) == len(path) <= MOST_ORDERS:
            best.append(best_order(laws, phases, before=before, after=after, measure=measure, level=level))
    return best


def best_order(
    laws: Sequence[PhaseLaw], phases: Mapping[str, Mapping[str, float]], weights: Mapping[str, float] | None = None,
    before: Sequence[Mapping[str, float]] = (), after: Sequence[Mapping[str, float]] = (),
    measure: str = BITS_PER_BYTE, level: float = 0.95,
) -> Finding:  # fmt: skip
    """Every order of `phases` (name → tokens by source) under one law for each target: `table` has each order, and the
    same tokens mixed, with each target's loss and their weighted mean, and how far it lies from the best order. Phases
    `before` and `after` stand where they are. With one target the best is that of the index rule; with several there is
    no index, so all are tried.

    The estimate is the best order less the second best, with the delta method's interval from the laws' covariances
    (`parts` has the worst, too); laws of several targets err together, so their errors add. A law without a covariance
    gives no interval. Raises `Refused` past seven phases."""
    if not laws or not 2 <= len(phases) <= MOST_ORDERS:
        raise Refused(f"phases: {len(phases)} phases and {len(laws)} targets; give 2 to {MOST_ORDERS}, and 1 or more")
    sources = laws[0].sources
    if any(law.sources != sources for law in laws):
        raise Refused("laws: they are of different sources; fit them on the same runs")
    unknown = {s for doses in (*phases.values(), *before, *after) for s in doses} - set(sources)
    if unknown:
        raise Refused(f"phases: {sorted(unknown)[0]!r} is no source of the laws; they have {', '.join(sources)}")
    w = weights_of(weights or [law.target for law in laws])

    def tokens(doses: Mapping[str, float]) -> list[float]:
        return [float(doses.get(s, 0.0)) for s in sources]

    first, last = [tokens(doses) for doses in before], [tokens(doses) for doses in after]
    x = {name: tokens(doses) for name, doses in phases.items()}
    paths = {ARROW.join(order): [*first, *(x[name] for name in order), *last] for order in permutations(phases)}
    mixed = " + ".join(phases)
    paths[mixed] = [*first, list(np.sum(list(x.values()), axis=0)), *last]
    losses = {name: {law.target: law.loss(path) for law in laws} for name, path in paths.items()}
    weighted = {name: sum(w.get(t, 0.0) * loss for t, loss in of.items()) for name, of in losses.items()}
    ranked = sorted((name for name in paths if name != mixed), key=lambda name: weighted[name])
    best, second, worst = ranked[0], ranked[1], ranked[-1]
    quantile = float(student(min(law.df for law in laws), level)) if all(map(known, laws)) else None

    def over(other: str) -> tuple[float, Interval | None]:
        """The best order less another, with its interval."""
        each = [(w.get(law.target, 0.0), *law.predicted(paths[best], minus=paths[other])) for law in laws]
        gap = sum(share * value for share, value, _ in each)
        if quantile is None:
            return gap, None
        half = quantile * sum(share * error for share, _, error in each)
        return gap, Interval(gap - half, gap + half, THESE_PROBLEMS, level)

    lines: list[dict[str, Part]] = []
    for name in sorted(paths, key=lambda name: weighted[name]):
        gap, interval = over(name)
        low, high = (interval.low, interval.high) if interval else (None, None)
        lines.append({
            "order": name, "mixed": name == mixed, "weighted": weighted[name], "best_over": gap, "low": low,
            "high": high, **losses[name],
        })  # fmt: skip
    estimate, interval = over(second)
    worst_gap, worst_interval = over(worst)
    resolved = interval is not None and not interval.contains(0.0)
    note = join([
        "Lower is better. From the fitted laws alone; no such order need have been run.",
        "The laws have no covariance, so how sure the order is, is not said." if interval is None else
        "" if resolved else "The best order is not told from the second best.",
    ])  # fmt: skip
    parts: dict[str, Part] = {
        "best": best, "second": second, "worst": worst, "targets": len(laws), "over_worst": worst_gap,
        "over_worst_low": worst_interval.low if worst_interval else None,
        "over_worst_high": worst_interval.high if worst_interval else None,
    }  # fmt: skip
    return Finding(
        "best-order", f"{best} over {second}", measure, ", ".join(law.target for law in laws), estimate, BITS,
        (interval,) if interval else (), note=note, parts=parts, table=tuple(lines),
    )  # fmt: skip


def known(law: PhaseLaw) -> bool:
    return law.covariance is not None
