"""Saturation: the budget past which doubling a source's tokens gains less than can be seen, and why the fall ends.

`saturation` gives D_sat, where L(D) − L(2D) falls to δ: (A(1 − 2^−α)/δ)^{1/α} for L = E + A·D^−α. δ is stated, or the
noise of a difference of two strategies, σ√(2/s), with limits of its own, σ from runs at equal budgets. It answers
within the measured range and gives a limit past it. Tokens read again are no new ones: where a pool was read past its
end the law is one of D'. `floors` asks whether two sources end at different floors, and refuses where the Cramér–Rao
bound says that the runs cannot tell. `why_saturated` names the kind of an early end: slow, a mismatch of floors, or
repetition (section 8).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from curricle.analysis.efficiency import TOKENS, Pair, both_ways, curve_of, further, points_of
from curricle.analysis.finding import THESE_PROBLEMS, Finding, Interval, Part, join, short
from curricle.analysis.pools import Pools, one_pool
from curricle.analysis.repetition import repetition
from curricle.analysis.rows.columns import Row, chosen, items, known, numbers, the_one, typed
from curricle.analysis.rows.compare import UNITS
from curricle.analysis.rows.outcomes import DOSE
from curricle.analysis.statistics.powerlaw import Fit, PowerLaw, first_below, floor_error
from curricle.analysis.statistics.repeats import R_STAR
from curricle.analysis.statistics.spread import of_runs
from curricle.study import Refused
from curricle.values import plural

REACH = 1e6  # a limit of D_sat is sought up to so many times the largest budget


def doubling_worth(law: PowerLaw, delta: float) -> float:
    """D_sat: the last x at which L(x) − L(2x) ≥ δ; 0 where no doubling is worth that."""
    if law.offset:
        x = law.scale * np.geomspace(1e-4, 1e9, 4000)
        gain = law(x) - law(2 * x)
        held = np.flatnonzero(gain >= delta)
        if not len(held):
            return 0.0
        if held[-1] < len(x) - 1:
            return float(first_below(x[held[-1] :], gain[held[-1] :], delta) or x[-1])
        # so far out that the checkpoint's own tokens no longer count
    worth = np.float64(law.amplitude * (1 - 2**-law.exponent) / delta)
    with np.errstate(over="ignore"):  # ∞ where hardly anything falls, and that for ever
        return float(law.scale * worth ** (1 / law.exponent)) if worth > 0 else 0.0


def saturation(
    rows: Sequence[Row], source: str | None = None, x: str | None = None, delta: float | None = None,
    seeds: int | None = None, unique_tokens: float | Sequence[Pools] | None = None, checkpoint: bool = False,
    level: float = 0.95,
) -> Finding:  # fmt: skip
    """D_sat of one strategy's curve along the tokens of `source` (column `dose:SOURCE`), of `x`, or of the stage.

    `delta` is what a doubling must gain to be worth it, in the score's unit; without it, the noise of a difference
    between strategies of `seeds` runs each (by default as many as there are), σ√(2/s), with σ the spread of runs at
    equal budgets. Scatter about the law is no such spread, so one run without a `delta` is not answered. Such a δ is an
    estimate, and its own limits (`parts.delta_low`, `delta_high`) are in the interval and in the verdict. The estimate
    is given where it lies within the measured range; past it the finding is undefined, its interval gives the limits,
    and `parts.extrapolated` is what the curve says (neither where the points follow no such curve). `parts.verdict`:
    "saturated" (the last measured doubling gains less than δ, its whole interval), "not yet" (more, its whole
    interval), or "open".

    `unique_tokens` is the pool that is read, or each row's pools. Where it was read past its end, the law is fitted in
    D' (pools.py), and the estimate, `largest` and the table count new tokens; `parts.repeated` is where doubling the
    tokens *read* of that pool gains less than δ, `epochs` how often it was read at most.
    """
    rows = typed(rows, *([x] if x else []))
    for name in ("strategy", "benchmark", "measure"):
        the_one(rows, name)
    column = x or (f"{DOSE}{source}" if source else "stage_tokens")
    known(rows, column, "score")
    pools = read_pools(unique_tokens, rows)
    epochs = max((pool.epochs(float(row[column])) for pool, row in zip(pools, rows)), default=None)
    again = epochs is not None and epochs > 1
    if again:
        rows = [{**row, column: float(pool.new(float(row[column])))} for pool, row in zip(pools, rows)]
    pair = both_ways(rows, column, checkpoint)
    curve = pair.bounded
    runs = seeds if seeds is not None else max(1, len({row.get("seed") for row in rows}))
    noise = noise_of_runs(rows, column, level)
    about = (
        "saturation", f"{source or rows[0].get('strategy', column)} on {rows[0].get('benchmark', 'the target')}",
        str(rows[0].get("measure", "loss")), str(rows[0].get("benchmark", "")),
    )  # fmt: skip
    drawn = tuple(points_of(rows, column, str(source or rows[0].get("strategy", "measured")), curve))
    if delta is None and not noise:
        unknown = "no two runs at one budget, so the noise of a difference is not known; state delta"
        return Finding(*about, None, TOKENS, n=items(rows), seeds=runs, undefined=unknown, table=drawn)
    asked, asked_low, asked_high = (
        [delta] * 3 if delta is not None else [sd * math.sqrt(2 / runs) for sd in noise or ()]
    )
    if not asked > 0 or not math.isfinite(asked):
        raise Refused(f"delta: {asked:g}; what a doubling must gain is above 0")
    top = float(curve.x.max())
    at = doubling_worth(curve.law, asked)
    low, high = limits(pair, asked, asked_low, asked_high, level)
    doubled = [[float(v[0]) for v in f.doubling(top / 2, level)] for f in pair]
    value, least, most = doubled[0][0], min(d[1] for d in doubled), max(d[2] for d in doubled)
    more = difference_of([(value, least, most), (asked, asked_low, asked_high)])
    verdict = "open" if pair.hopeless else "saturated" if more[2] < 0 else "not yet" if more[1] > 0 else "open"
    reason = (
        "stated"
        if delta is not None
        else f"the noise of a difference, {plural(runs, 'run')} each; their spread is itself an estimate, so δ may be "
        f"{asked_low:.2g} to {asked_high:.2g}, which the limits allow for"
    )
    notes = [*curve.notes, f"δ = {asked:.3g}: {reason}."]
    why = None
    if pair.hopeless:
        why = f"the points do not follow a law of this form (p = {curve.wrong:.1g}), so its doublings are not theirs"
    elif at > top:
        of = "new" if again else "measured"
        why = f"not within the {short(top)} {of} tokens: their last doubling gains {value:.3g}, and δ is {asked:.3g}"
    elif 2 * at > top:
        notes.append("The doubling at the estimate ends past what was measured.")
    parts: dict[str, Part] = {
        "delta": asked, "delta_low": asked_low, "delta_high": asked_high, "noise": noise[0] if noise else None,
        "verdict": verdict, "last_doubling": value, "last_doubling_low": least,
        "last_doubling_high": most, "largest": top,
        "extrapolated": at if math.isfinite(at) and not pair.hopeless else None,
        "floor": curve.law.floor, "exponent": curve.law.exponent, "amplitude": curve.law.raw_amplitude,
        "floor_error": curve.floor_error, "lack_of_fit_p": curve.wrong, "epochs": epochs, "in_new_tokens": again,
        "unique_tokens": pools[0].unique_J[0] if len(set(pools)) == 1 and len(pools[0].unique_J) == 1 else None,
        "repeated": repeated_end(curve.law, asked, pools[0]) if len(set(pools)) == 1 else None,
    }  # fmt: skip
    if again:
        notes.append(f"Text was read up to {epochs:.3g} times, so the law is one of new tokens, D' = U + U·R*(1 − "
                     "e^(−R/R*)), and so is the estimate.")  # fmt: skip
    if parts["repeated"] is not None or again:
        notes.append(f"Repeats are taken to fade with R* = {R_STAR}, which these rows do not test.")
    return Finding(
        *about, None if why else at, TOKENS,
        () if pair.hopeless else (Interval(low, high, THESE_PROBLEMS, level),), n=items(rows), seeds=runs,
        undefined=why, note=join(notes), parts=parts, table=drawn,
    )  # fmt: skip


def noise_of_runs(rows: Sequence[Row], x: str, level: float) -> tuple[float, float, float] | None:
    """The spread of a run about the mean of the runs at its budget, pooled over budgets, with its limits; None without
    two runs at one budget, or without any spread. What a law leaves of their means is no part of it."""
    x_N, y_N = numbers(rows, x), numbers(rows, "score")
    seeds = [row.get("seed") for row in rows]
    run_N = np.arange(len(rows)) if seeds.count(None) == len(seeds) else np.array([str(seed) for seed in seeds])
    found = of_runs(y_N[x_N > 0], x_N[x_N > 0], run_N[x_N > 0], level)
    if not found or found[0] <= (1e-12 * np.abs(y_N).max()) ** 2:  # what is left by rounding is no spread
        return None
    sd, low, high = (math.sqrt(variance) for variance in found)
    return sd, low, high


def limits(
    pair: Pair, delta: float, delta_low: float, delta_high: float, level: float
) -> tuple[float, float | None]:  # fmt: skip
    """Limits of D_sat (above: None where there is no end within a million times the largest budget): those of the
    curve at δ and, where δ is an estimate, what δ's own limits make of D_sat, in quadrature on the log scale."""
    low, high = hull(pair, delta, level)
    if delta_low == delta_high:
        return low, high
    law, furthest = pair.bounded.law, REACH * float(pair.bounded.x.max())
    at, near, far = (doubling_worth(law, d) for d in (delta, delta_high, delta_low))
    if not 0 < at < furthest:  # no distance from it can be told: each limit at that limit of δ
        return hull(pair, delta_high, level)[0], hull(pair, delta_low, level)[1]
    return further(at, low, near) or 0.0, further(at, high, far) if far < furthest else None


def hull(pair: Pair, delta: float, level: float) -> tuple[float, float | None]:
    """The last x at which a doubling worth δ is certain, and at which it is not ruled out by either fit."""
    ends = []
    for curve in pair:
        positive = curve.x[curve.x > 0]
        x = np.geomspace(positive.min() / 100, positive.max() * REACH, 250)
        _, low, high = curve.doubling(x, level)
        ends.append((_last(x, low, delta) or 0.0, _last(x, high, delta, open_end=True)))
    tops = [end[1] for end in ends if end[1] is not None]
    return min(end[0] for end in ends), max(tops) if len(tops) == len(ends) else None


def _last(x: np.ndarray, gain: np.ndarray, delta: float, open_end: bool = False) -> float | None:
    held = np.flatnonzero(gain >= delta)
    if not len(held):
        return 0.0
    k = int(held[-1])
    if k == len(x) - 1:
        return None if open_end else float(x[-1])
    return first_below(x[k:], gain[k:], delta)


def read_pools(given: float | Sequence[Pools] | None, rows: Sequence[Row]) -> list[Pools]:
    """Each row's pools; none where nothing is known of them."""
    if given is None:
        return []
    return [one_pool(given)] * len(rows) if isinstance(given, int | float) else list(given)


def repeated_end(law: PowerLaw, delta: float, pools: Pools, r_star: float = R_STAR) -> float | None:
    """The last D at which reading 2D instead of D tokens of the stage gains δ, L taken at new tokens; None where all
    of its sources are endless."""
    ends = [unique / share for share, unique, _ in zip(*pools) if math.isfinite(unique) and share > 0]
    if not ends:
        return None
    x = np.geomspace(1e-4 * min(ends), 1e4 * max(ends), 4000)
    gain = law(pools.new(x, r_star)) - law(pools.new(2 * x, r_star))
    last = _last(x, gain, delta, open_end=True)
    return None if last is None else float(last)


# ---- floors ---------------------------------------------------------------------------------------------------------


def floors(
    rows: Sequence[Row], a: str, b: str, detect: float | None = None, by: str = "strategy", x: str = "stage_tokens",
    level: float = 0.95,
) -> Finding:  # fmt: skip
    """E_a − E_b, the difference of two sources' floors on one target, or a refusal.

    `detect` is the difference that matters (by default the gap between the curves at the largest budget that both
    have). Where the Cramér–Rao standard error of the difference is more than half of it the finding is undefined:
    these runs cannot tell a floor from a slow fall. `parts.decades_needed` then says how far budgets, as dense as now,
    would have to reach.
    """
    rows = typed(rows, x)
    known(rows, by, "score", x)
    for name in ("benchmark", "measure"):
        the_one(rows, name)
    of_a, of_b = chosen(rows, **{by: a}), chosen(rows, **{by: b})
    fits = [curve_of(of_it, x) for of_it in (of_a, of_b)]
    top = min(float(f.x.max()) for f in fits)
    gap = float(fits[0].law(top) - fits[1].law(top))
    asked = abs(gap) if detect is None else detect
    if not asked > 0:
        raise Refused(f"detect: {asked:g}; the difference of floors that matters is above 0")
    error = math.hypot(fits[0].floor_error, fits[1].floor_error)
    ends = [f.floor(level) for f in fits]
    difference, low, high = difference_of(ends)
    blind = error > asked / 2
    why = (
        f"the runs cannot tell: the standard error of the difference of floors is at least {error:.2g}, more than half "
        f"of the {asked:.2g} that matters"
        if blind
        else None
    )
    parts: dict[str, Part] = {
        "a": a, "b": b, "floor_a": ends[0][0], "floor_b": ends[1][0], "exponent_a": fits[0].law.exponent,
        "exponent_b": fits[1].law.exponent, "detect": asked, "floor_error": error, "gap": gap, "largest": top,
        "fitted_difference": difference, "decades_needed": needed(fits, asked) if blind else None,
    }  # fmt: skip
    notes = [*(f"{a}: {n}" for n in fits[0].notes), *(f"{b}: {n}" for n in fits[1].notes)]
    drawn = [row for of_it, name, f in ((of_a, a, fits[0]), (of_b, b, fits[1])) for row in points_of(of_it, x, name, f)]
    return Finding(
        "floor", f"{a} less {b}", str(rows[0].get("measure", "loss")), str(rows[0].get("benchmark", "")),
        None if blind else difference, UNITS.get(str(rows[0].get("measure")), "loss"),
        (Interval(low, high, THESE_PROBLEMS, level),), n=items(rows), seeds=len({row.get("seed") for row in rows}),
        undefined=why, note=join(notes), parts=parts, table=tuple(drawn),
    )  # fmt: skip


def needed(fits: Sequence[Fit], detect: float) -> float | None:
    """Decades that budgets, as dense as now, must span for a floor difference of `detect` to be seen; None past 12."""
    for decades in np.arange(0.5, 12.01, 0.25):
        total = 0.0
        for f in fits:
            budgets: np.ndarray = np.unique(f.x[f.x > 0])
            span = max(math.log10(budgets[-1] / budgets[0]), 0.1)
            count = max(4, round((len(budgets) - 1) / span * decades) + 1)
            each = len(f.x) / len(budgets)
            error = floor_error(np.geomspace(1, 10**decades, count), f.law.exponent, f.sigma / math.sqrt(each))
            total += error**2 + f.between**2 / f.curves
        if math.sqrt(total) <= detect / 2:
            return float(decades)
    return None


def why_saturated(
    rows: Sequence[Row], a: str, b: str, detect: float | None = None, by: str = "strategy", x: str = "stage_tokens",
    unique: str = "unique_tokens", level: float = 0.95,
) -> Finding:  # fmt: skip
    """Why source `a` gives less than `b` at the end: "repetition", "mismatch" (its floor is higher), "slow" (the same
    floor within `detect`, a smaller exponent), or undefined with the reason: among others that `a` is not told to be
    worse than `b` at the largest budget that both have, or its exponent not told from that of `b`.

    Repetition is looked for first, where the rows of `a` have a column `unique` and read some pool more than twice:
    it is claimed when R* = ∞ (repeats as good as new) is ruled out. Where a pool was read past its end floors and
    exponents are those of new tokens; past two readings a higher floor is not told from repeats that fade, so that
    there is no mismatch. The estimate is the difference of floors, where `floors` gives one.
    """
    rows = typed(rows, x, unique)
    of_a, of_b = chosen(rows, **{by: a}), chosen(rows, **{by: b})
    read = [curve_of(of_it, x) for of_it in (of_a, of_b)]
    top = min(float(f.x.max()) for f in read)
    at_top = difference_of([tuple(float(v[0]) for v in f.predict(top, level)) for f in read])
    most, again, fits = most_epochs(rows, x, unique), None, read
    if all(row.get(unique) not in (None, "") for row in of_a) and most_epochs(of_a, x, unique) > 2:
        again = repetition(of_a, tokens=x, unique=unique, level=level)
    if most > 1:
        rows, detect = in_new_tokens(rows, x, unique), abs(at_top[0]) if detect is None else detect
        fits = [curve_of(chosen(rows, **{by: name}), x) for name in (a, b)]
    found = floors(rows, a, b, detect, by, x, level)
    slower = difference_of([f.exponent(level) for f in fits])
    interval = found.interval()
    apart = interval is not None and interval.low is not None and interval.low > 0
    detected = float(found.parts["detect"] or 0)
    kind, reason = None, found.undefined
    if at_top[1] <= 0:
        alike = f"alike: at {short(top)} tokens {a} is not told to be worse than {b}, so there is nothing to explain"
        reason = f"{alike}; of the floors {reason}" if reason else alike
    elif again is not None and again.parts["repeats_fade"]:
        kind, reason = "repetition", reason and f"repetition ended it, and of the floors {reason}"
    elif reason is None and apart and most > 2:
        reason = (
            f"text was read up to {most:.3g} times, and a floor that looks higher may be repeats that fade: repeats as "
            "good as new are not ruled out, nor is what else they are worth known"
        )
    elif reason is None and apart:
        kind = "mismatch"
    elif reason is None and interval is not None and max(abs(interval.low or 0), abs(interval.high or 0)) >= detected:
        reason = "the interval of the difference of floors holds both 0 and what matters"
    elif reason is None and slower[2] >= 0:
        reason = (
            f"the same floor within {detected:.2g}, and the exponent of {a} is not told to be the smaller one "
            f"({slower[0]:+.2g}, from {slower[1]:+.2g} to {slower[2]:+.2g})"
        )
    elif reason is None:
        kind = "slow"
    new = f"Text was read up to {most:.3g} times: floors are those of new tokens, by R* = {R_STAR}." if most > 1 else ""
    return Finding(
        "why-saturated", f"{a} against {b}", found.measure, found.benchmark,
        None if reason else found.estimate, found.unit, found.intervals, n=items(rows), seeds=found.seeds,
        undefined=reason,
        note=join([found.note, new, again.note if again else "", f"{a}: {kind}." if kind else ""]),
        parts={
            **found.parts, "largest": top, "in_new_tokens": most > 1, "kind": kind,
            "r_star": again.estimate if again else None, "repetition_p": again.p_value if again else None,
            "gap_low": at_top[1], "gap_high": at_top[2],
            "exponents_apart": slower[0], "exponents_low": slower[1], "exponents_high": slower[2],
        },
        table=found.table,
    )  # fmt: skip


def most_epochs(rows: Sequence[Row], x: str, unique: str) -> float:
    """How often a pool was read at most; 0 where no row says how large its own is."""
    known = [row for row in rows if row.get(unique) not in (None, "")]
    return float((numbers(known, x) / numbers(known, unique, above=0.0)).max()) if known else 0.0


def in_new_tokens(rows: Sequence[Row], x: str, unique: str) -> list[Row]:
    """Rows with what their tokens are worth in new ones, where they say how large their pool is."""
    return [
        row if row.get(unique) in (None, "") else {**row, x: float(one_pool(float(row[unique])).new(float(row[x])))}
        for row in rows
    ]


def difference_of(pair: Sequence[tuple[float, ...]]) -> tuple[float, float, float]:
    """The first less the second of two independent values with limits, their distances in quadrature on each side."""
    (a, low_a, high_a), (b, low_b, high_b) = pair
    return a - b, a - b - math.hypot(a - low_a, high_b - b), a - b + math.hypot(high_a - a, b - low_b)
