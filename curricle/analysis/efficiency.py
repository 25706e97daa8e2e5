"""What a stage gives for what it costs: per token, per FLOP, and against a model that began from scratch.

Points per token depend on where on the curve one stands, so `efficiency` says them and `transferred` compares
*horizontally*: how many tokens of the target would a model from scratch need for the same loss? The difference is the
effective data transferred, D_T = D_scratch(L) − D_after(L) (Hernandez et al. 2021, arXiv 2102.01293), their ratio the
multiplier. Curves are inverted within the measured range; past it a limit is given, not a number. `transfer_law` fits
D_T = k·D_F^α·N^β to independent rows (to the runs of one pair: transfer_runs.py) and `marginal` says what the next
token gives (docs/theory.md, section 2). Sharing a budget out stands in allocation.py.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from curricle.analysis.chain import ends, mean_of, same_scores, speaks_of
from curricle.analysis.finding import ACCURACY, THESE_PROBLEMS, Finding, Interval, Part, join, short
from curricle.analysis.rows.columns import Row, chosen, groups, items, known, numbers, the_one, typed
from curricle.analysis.rows.compare import UNITS, holm_adjusted, one_benchmark
from curricle.analysis.statistics.intervals import student
from curricle.analysis.statistics.powerlaw import CLEAR, HOPELESS, NO_FLOOR, Fit, fit
from curricle.study import Refused

TOKENS = "tokens"
TIMES = "times"
PLACE = "A rate belongs to a place on the curve: compare stages that begin at the same loss."
PER_TOKENS, PER_FLOPS = 1e6, 1e15  # a rate is per million tokens, and per 10^15 FLOPs


def efficiency(rows: Sequence[Row], level: float = 0.95) -> list[Finding]:
    """The gain of each stage of each strategy per million tokens and, where `flops` are known, per 10^15 FLOPs.

    Columns as for `chain`. Positive is better: points of accuracy gained, or bits per byte taken off. Intervals are
    over seeds; p-values are Holm-adjusted over the stages on one benchmark in one measure, a stage's two rates being
    one test. Two stages compare by these rates only where they begin at the same loss; the note says so.
    """
    rows = typed(rows)
    known(rows, "strategy")
    made: list[Finding] = []
    for (benchmark, measure), here in groups(rows, "benchmark", "measure").items():
        sign = 1.0 if measure == ACCURACY else -1.0
        for (name,), of_it in groups(here, "strategy").items():
            points, seeds, note = ends(of_it)
            for before, after in pairwise(points):
                gained_S = sign * (after.scores_S - before.scores_S)
                costs = {"million tokens": after.tokens / PER_TOKENS}
                if after.flops:
                    costs["10^15 FLOPs"] = after.flops / PER_FLOPS
                for cost, units in costs.items():
                    value, interval, p_value = mean_of(gained_S / units, level)
                    parts: dict[str, Part] = {
                        "strategy": str(name), "stage": after.stage, "position": after.position, "since": before.stage,
                        "tokens": after.tokens, "flops": after.flops, "gain": float(gained_S.mean()),
                        "before": float(before.scores_S.mean()), "after": float(after.scores_S.mean()),
                    }  # fmt: skip
                    taken = "points gained" if measure == ACCURACY else f"{measure or 'loss'} taken off"
                    unit = f"{UNITS.get(str(measure), str(measure))} per {cost}"
                    about = f"Positive: {taken}. {PLACE}"
                    made.append(Finding(
                        "efficiency", f"{after.stage} in {name}", str(measure), str(benchmark), value, unit,
                        (interval,) if interval else (), p_value, "t over seeds" if p_value is not None else "",
                        0, len(seeds), (), None, join([about, note, speaks_of(interval, seeds)]), parts,
                    ))  # fmt: skip
    if not made:
        raise Refused("no stage has a score before it; efficiency needs where it began and where it ended")
    return holm_adjusted(made, one_benchmark, same_scores)


# ---- horizontally -------------------------------------------------------------------------------------------------


def curve_of(rows: Sequence[Row], x: str, checkpoint: bool = False, least_floor: float = 0.0) -> Fit:
    """The law through one strategy's points along column `x`; points of one seed are one curve where it has several."""
    x_N, y_N = numbers(rows, x, least=0.0), numbers(rows, "score")
    if rows[0].get("measure") == ACCURACY:
        raise Refused("measure: accuracy does not follow a power law; give bits per byte, or another loss")
    kept = np.ones(len(x_N), dtype=bool) if checkpoint else x_N > 0
    seeds = [row.get("seed") for row, keep in zip(rows, kept) if keep]
    one_point_each = len(set(seeds)) == len(seeds) or seeds.count(None) == len(seeds)
    return fit(x_N[kept], y_N[kept], None if one_point_each else seeds, checkpoint=checkpoint, least_floor=least_floor)


class Pair(NamedTuple):
    """One law twice: with a floor of 0 or more, which gives the estimate, and with any floor. Within a range of
    budgets a loss may well fall as a straight line in their logarithm, which only a floor far below 0 can follow; and a
    law that is wrong is often found out only while its floor is held. What either does not rule out is not ruled out.
    """

    bounded: Fit
    free: Fit

    def predict(
        self, x: np.ndarray | float, level: float = 0.95, new_run: bool = False
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        value, low, high = self.bounded.predict(x, level, new_run)
        _, free_low, free_high = self.free.predict(x, level, new_run)
        return value, np.maximum(np.minimum(low, free_low), 0.0), np.maximum(high, free_high)

    @property
    def hopeless(self) -> bool:
        """Whether the points follow neither, so that nothing past them should be read off."""
        return all(f.wrong is not None and f.wrong < HOPELESS for f in self)


def both_ways(rows: Sequence[Row], x: str, checkpoint: bool = False) -> Pair:
    return Pair(curve_of(rows, x, checkpoint), curve_of(rows, x, checkpoint, NO_FLOOR))


def transferred(
    rows: Sequence[Row], after: str, scratch: str, x: str = "stage_tokens", stage: str | None = None,
    level: float = 0.95,
) -> list[Finding]:  # fmt: skip
    """Effective data transferred to the target's stage, and the multiplier: two findings (questions `transferred` and
    `multiplier`), at the lowest loss of strategy `after` that strategy `scratch` has reached too.

    Columns: strategy, seed, score (a loss) and `x`, tokens of the target; `stage` keeps the rows of that stage. The
    curves are fitted (from scratch E + A·x^−α, after another stage E + A(1 + x/D₀)^−α where there are points enough)
    and the one from scratch is inverted. `table` holds every measured budget D_F of `after`: the loss there, the
    tokens from scratch for it, D_T and the multiplier with limits; `beyond` marks losses that the scratch curve has
    not reached, where only the lower limit D_T > (its largest budget) − D_F is measured. Where every loss is beyond,
    the finding is undefined and its interval is that limit.
    """
    rows = chosen(typed(rows, x), stage=stage)
    known(rows, "strategy", "score", x)
    at_first, helped = chosen(rows, strategy=scratch), chosen(rows, strategy=after)
    for name in ("benchmark", "measure"):
        the_one([*at_first, *helped], name)
    positive = [row for row in helped if float(row[x]) > 0]
    base = curve_of(at_first, x)
    budgets = len({float(row[x]) for row in helped})
    curve = curve_of(helped, x, checkpoint=True) if budgets >= 6 else curve_of(positive, x)
    top = float(base.x.max())
    lowest = float(base.law(top))  # what the scratch curve has reached
    table: list[dict[str, Part]] = []
    places = np.unique(numbers(positive, x))
    losses = curve.predict(places, level)
    reached = base.reach(losses[0], level)
    for k, d_f in enumerate(float(place) for place in places):
        loss_value, loss_low, loss_high = (float(v[k]) for v in losses)
        need = float(base.law.reach(loss_value))
        beyond = loss_value < lowest
        # The scratch curve is uncertain, and so is the loss at which it is read: the two are independent, and their
        # distances add in quadrature on each side, on the log scale (Zou and Donner 2008).
        _, low_a, high_a = reached[k]
        low_b, high_b = float(base.law.reach(loss_high)), float(base.law.reach(loss_low))
        down = further(need, low_a, low_b)
        up = None if high_a is None or math.isinf(high_b) else further(need, high_a, high_b)
        if beyond:  # measured is only that the scratch curve has not come so far
            down, up = top if down is None else min(down, top), None
        finite = math.isfinite(need)
        table.append({
            "tokens": d_f, "loss": loss_value, "scratch_tokens": need if finite else None, "beyond": beyond,
            "scratch_low": down, "scratch_high": up,
            "transferred": need - d_f if finite else None,
            "low": None if down is None else down - d_f, "high": None if up is None else up - d_f,
            "multiplier": need / d_f if finite else None,
            "multiplier_low": None if down is None else down / d_f, "multiplier_high": None if up is None else up / d_f,
        })  # fmt: skip
    inside = [row for row in table if not row["beyond"]]
    row = inside[-1] if inside else table[0]
    budget = row["tokens"]
    notes = [*(f"From scratch: {n}" for n in base.notes), *(f"{after}: {n}" for n in curve.notes)]
    off = [name for name, of in ((scratch, base), (after, curve)) if of.wrong is not None and of.wrong < CLEAR]
    if off:
        notes.append(
            f"So the tokens, and the multiplier, are read off a curve that the runs of {' and '.join(off)} do not "
            "follow: they may be wrong by more than the interval says; compare the points in the figure."
        )
    untested = [name for name, of in ((scratch, base), (after, curve)) if of.wrong is None]
    if untested:
        notes.append(f"Whether the curve of {' and of '.join(untested)} fits cannot be tested with so few points.")
    if len(inside) < len(table):
        notes.append(
            f"Past {short(top)} tokens nothing was measured from scratch: {len(table) - len(inside)} of {len(table)} "
            "budgets have a lower limit only."
        )
    why = (
        None
        if inside
        else f"{after} is below all that {scratch} reached with {short(top)} tokens, from {short(budget)} tokens on"
    )
    parts: dict[str, Part] = {
        "strategy": after, "against": scratch, "tokens": budget, "loss": row["loss"], "beyond": bool(row["beyond"]),
        "scratch_tokens": row["scratch_tokens"], "scratch_reached": lowest, "scratch_largest": top,
        "lack_of_fit_p_scratch": base.wrong, "lack_of_fit_p_after": curve.wrong,
    }  # fmt: skip
    drawn = (*table, *points_of(at_first, x, scratch, base), *points_of(helped, x, after, curve))
    made = []
    for question, key, unit in (("transferred", "transferred", TOKENS), ("multiplier", "multiplier", TIMES)):
        prefix = "multiplier_" if key == "multiplier" else ""
        low, high = row[f"{prefix}low"], row[f"{prefix}high"]
        made.append(Finding(
            question, f"{after} over {scratch} at {short(budget)} tokens", str(rows[0].get("measure", "loss")),
            str(rows[0].get("benchmark", "")), row[key] if inside else None, unit,  # type: ignore[arg-type]
            (Interval(low, high, THESE_PROBLEMS, level),), n=items(rows),  # type: ignore[arg-type]
            seeds=len({r.get("seed") for r in helped}), undefined=why, note=join(notes), parts=parts, table=drawn,
        ))  # fmt: skip
    return made


def further(value: float, *limits: float | None) -> float | None:
    """Distances of limits from a value, added in quadrature on the log scale; on the side on which they lie."""
    if any(limit is None or limit <= 0 for limit in limits) or not math.isfinite(value):
        return None
    steps = [math.log(limit / value) for limit in limits if limit is not None]
    return value * math.exp(math.copysign(math.sqrt(sum(s * s for s in steps)), sum(steps)))


def points_of(rows: Sequence[Row], x: str, name: str, curve: Fit) -> list[dict[str, Part]]:
    """What a figure draws: each measured point, and the fitted curve with its band over the measured range."""
    made: list[dict[str, Part]] = [
        {"series": name, "x": float(row[x]), "score": float(row["score"]), "line": False} for row in rows
    ]
    positive = curve.x[curve.x > 0]
    grid = np.geomspace(positive.min(), curve.x.max(), 40)
    for at, value, low, high in zip(grid, *curve.predict(grid)):
        made.append(
            {
                "series": name,
                "x": float(at),
                "score": float(value),
                "line": True,
                "low": float(low),
                "high": float(high),
            }
        )
    return made


def transfer_law(rows: Sequence[Row], level: float = 0.95) -> Finding:
    """D_T = k·D_F^α·N^β by least squares on logarithms, from rows with `transferred`, `tokens` (D_F) and, where it
    varies, `params` (N), each measured on its own. The estimate is α; k, α, β with t intervals stand in `parts`.

    Raises `Refused` for fewer rows than coefficients and one more, where D_T ≤ 0 (no help has no logarithm; leaving
    such rows out would bias α), and for several budgets of one `transferred`, which share the errors of its two curves
    (`transfer_law_of_runs` fits the law to the runs).
    """
    rows = typed(rows, "transferred", "params")
    read_off = [row.get("params") for row in rows if "scratch_tokens" in row]
    if len(set(read_off)) < len(read_off):
        raise Refused(
            "rows: several budgets were read off one pair of fitted curves and share their errors, so no interval of α "
            "would hold; fit the law to the runs with transfer_law_of_runs"
        )
    given, d_f = numbers(rows, "transferred", above=0.0), numbers(rows, "tokens", above=0.0)
    n = numbers(rows, "params", above=0.0) if all("params" in row for row in rows) else np.ones(len(rows))
    names = ["alpha", "beta"] if len(np.unique(n)) > 1 else ["alpha"]
    logs = [np.log(d_f), np.log(n)][: len(names)]
    centre = [float(column.mean()) for column in logs]
    design = np.column_stack([np.ones(len(rows)), *(column - c for column, c in zip(logs, centre))])
    df = len(rows) - design.shape[1]
    if df < 1 or np.linalg.matrix_rank(design) < design.shape[1]:
        raise Refused(f"rows: {len(rows)} budgets; k, {', '.join(names)} need {design.shape[1] + 1} that differ")
    inverse = np.linalg.inv(design.T @ design)
    solution = inverse @ design.T @ np.log(given)
    sigma = math.sqrt(float(((np.log(given) - design @ solution) ** 2).sum()) / df)
    quantile = float(student(df, level))
    to_k = np.array([1.0, *(-c for c in centre)])
    parts: dict[str, Part] = {"k": math.exp(float(to_k @ solution)), "sigma_log": sigma, "df": df}
    half_k = quantile * sigma * math.sqrt(float(to_k @ inverse @ to_k))
    parts |= {"k_low": float(parts["k"] or 0) * math.exp(-half_k), "k_high": float(parts["k"] or 0) * math.exp(half_k)}
    for j, name in enumerate(names, start=1):
        value, half = float(solution[j]), quantile * sigma * math.sqrt(float(inverse[j, j]))
        parts |= {name: value, f"{name}_low": value - half, f"{name}_high": value + half}
    interval = Interval(float(parts["alpha_low"] or 0), float(parts["alpha_high"] or 0), THESE_PROBLEMS, level)
    table = tuple({"tokens": float(a), "params": float(b), "transferred": float(c)} for a, b, c in zip(d_f, n, given))
    note = "" if "beta" in names else "One model size: β cannot be told, and k holds N^β."
    return Finding(
        "transfer-law", "D_T = k·D_F^α·N^β", str(rows[0].get("measure", "loss")), str(rows[0].get("benchmark", "")),
        float(parts["alpha"] or 0), "α", (interval,) if sigma > 1e-12 else (), n=items(rows), note=note,
        parts=parts, table=table,
    )  # fmt: skip


def marginal(
    rows: Sequence[Row], at: Sequence[float] | None = None, x: str = "stage_tokens",
    flops_per_token: float | None = None, level: float = 0.95,
) -> Finding:  # fmt: skip
    """What the next token takes off the loss, from the fitted curve of one strategy: the estimate at the largest
    budget, in bits per byte (or the loss's unit) per million tokens; `table` has it at each of `at` (by default the
    measured budgets), with what it says past the measured range marked `beyond`. Per 10^15 FLOPs where one token's
    FLOPs are given."""
    rows = typed(rows, x)
    strategy = the_one(rows, "strategy")
    the_one(rows, "benchmark")
    curve = curve_of(rows, x)
    places = np.unique(curve.x) if at is None else np.asarray(at, dtype=float)
    value, low, high = curve.slopes(places, level)
    low = np.where(np.abs(low) < 1e-9 * np.abs(high), 0.0, low)  # rounding of a limit that is 0
    per = PER_FLOPS / flops_per_token if flops_per_token else PER_TOKENS
    cost = "10^15 FLOPs" if flops_per_token else "million tokens"
    table = tuple(
        {"tokens": float(p), "value": float(v) * per, "low": float(a) * per, "high": float(b) * per,
         "beyond": bool(p > curve.x.max() or p < curve.x.min())}
        for p, v, a, b in zip(places, value, low, high)
    )  # fmt: skip
    last = table[-1]
    off = f"Positive: {rows[0].get('measure', 'loss')} taken off."
    notes = [off, *curve.notes, "Past the measured range." if last["beyond"] else ""]
    parts: dict[str, Part] = {"strategy": strategy, "tokens": last["tokens"], "exponent": curve.law.exponent,
                              "floor": curve.law.floor, "lack_of_fit_p": curve.wrong}  # fmt: skip
    interval = Interval(float(last["low"]), float(last["high"]), THESE_PROBLEMS, level)
    return Finding(
        "marginal", f"the next token of {strategy} after {short(last['tokens'])}", str(rows[0].get("measure", "loss")),
        str(rows[0].get("benchmark", "")), float(last["value"]),
        f"{UNITS.get(str(rows[0].get('measure')), 'loss')} per {cost}", (interval,), n=items(rows),
        seeds=len({row.get("seed") for row in rows}), note=join(notes), parts=parts, table=table,
    )  # fmt: skip
