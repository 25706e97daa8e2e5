"""From small to large: are ranks kept between sizes, and what will the loss be at a larger budget?

`ranks` compares candidates (strategies, mixtures) at two sizes: rank correlation, and decision accuracy, the share of
pairs that the small size orders as the large one does, beside the share that the large size would itself order alike
if it were run again with other seeds. `predict_loss` extrapolates a fitted law with its interval, after it has been
put to the test on the largest budget that was measured: where that test fails, the interval is widened by as much as
it failed (docs/theory.md, section 7).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import combinations

import numpy as np

from curricle.analysis.efficiency import both_ways, points_of
from curricle.analysis.finding import (
    ACCURACY,
    OTHER_CANDIDATES,
    THESE_PROBLEMS,
    Finding,
    Interval,
    Part,
    join,
    short,
)
from curricle.analysis.rows.columns import Row, chosen, groups, items, known, numbers, the_one, typed
from curricle.analysis.statistics.intervals import FEWEST_RANKED, rank_correlation, ranked, spearman_interval, student
from curricle.analysis.statistics.spread import within
from curricle.study import Refused

CORRELATION = "rank correlation"
OF_PAIRS = "% of pairs"


# ---- ranks ----------------------------------------------------------------------------------------------------------


def ranks(
    rows: Sequence[Row], small: float | str, large: float | str, size: str = "size", candidate: str = "strategy",
    level: float = 0.95,
) -> list[Finding]:  # fmt: skip
    """Whether candidates stand in the same order at two sizes: Spearman's ρ (question `ranks`) and decision accuracy
    (`decision-accuracy`), with intervals over candidates.

    Columns: `candidate`, `size`, score, and seed where there are several runs of one. `parts`: the `ceiling` (how
    often the large size would order a pair as it did, run again; needs seeds), how many pairs the large size resolves
    and the accuracy among those, and the `regret` of taking the small size's best. `table`: a row a candidate.
    Raises `Refused` for fewer than 4 candidates that stand at both sizes.
    """
    rows = typed(rows)
    known(rows, candidate, size, "score")
    for name in ("benchmark", "measure"):
        the_one(rows, name)
    numbers(rows, "score")
    at = [groups(chosen(rows, **{size: s}), candidate) for s in (small, large)]
    names = [key for key in at[0] if key in at[1]]
    if len(names) < 4:
        raise Refused(f"{candidate}: {len(names)} stand at both sizes; 4 or more are needed to speak of ranks")
    cells = [[np.array([float(row["score"]) for row in of_size[key]]) for key in names] for of_size in at]
    means = np.array([[cell.mean() for cell in of_size] for of_size in cells])
    k = len(names)
    if not np.ptp(means, axis=1).all():
        raise Refused("all candidates are equal at one of the sizes; there are no ranks")
    rho = rank_correlation(means[0], means[1])
    pairs = list(combinations(range(k), 2))
    first, second = np.array(pairs).T
    gap = means[:, first] - means[:, second]
    agree = (1 + np.sign(gap[0]) * np.sign(gap[1])) / 2  # a tie counts half
    accuracy = float(agree.mean())
    noise = [(math.sqrt(v) if df else None, df) for v, df in map(within, cells)]
    seeds = min(len(cell) for of_size in cells for cell in of_size)
    parts: dict[str, Part] = {
        "small": small, "large": large, "candidates": k, "pairs": len(pairs),
        "noise_small": noise[0][0], "noise_large": noise[1][0], "ceiling": None,
        "resolved_pairs": None, "resolved_accuracy": None,
    }  # fmt: skip
    told = spearman_interval(rho, k, OTHER_CANDIDATES, level)
    notes = ["Intervals speak of other candidates of the same kind."]
    if not told:
        notes.append(f"{k} candidates: too few for an interval of ρ (at least {FEWEST_RANKED}).")
    (sigma, df) = noise[1]
    if sigma is not None and sigma > 0:
        error = sigma * np.sqrt(np.array([1 / len(cells[1][i]) + 1 / len(cells[1][j]) for i, j in pairs]))
        spread = float(np.var(means[1], ddof=1))
        true = max(spread - float(np.mean(error**2)) / 2, 0.0)
        kept = 2 * true / np.maximum(2 * true + error**2, 1e-300)  # the share of a gap that is no luck
        again = kept * np.abs(gap[1]) / (error * np.sqrt(1 + kept))
        ceiling = 100 * float(np.mean([0.5 * math.erfc(-z / math.sqrt(2)) for z in again]))
        parts["ceiling"] = ceiling
        clear = np.abs(gap[1]) > float(student(df, level)) * error
        parts["resolved_pairs"] = int(clear.sum())
        parts["resolved_accuracy"] = 100 * float(agree[clear].mean()) if clear.any() else None
        if ceiling < 95:
            notes.append(
                f"The large size run again with other seeds would itself order only {ceiling:.0f} % of pairs "
                "as it did: no small size can be asked for more."
            )
    else:
        notes.append("One run each: luck and a change of ranks cannot be told apart.")
    sign = 1.0 if rows[0].get("measure") == ACCURACY else -1.0
    picked, best = int((sign * means[0]).argmax()), int((sign * means[1]).argmax())
    parts |= {
        "picked": str(names[picked][0]), "best": str(names[best][0]),
        "regret": float(sign * (means[1][best] - means[1][picked])),
    }  # fmt: skip
    table: tuple[dict[str, Part], ...] = tuple(
        {"candidate": str(name[0]), "small": float(means[0][i]), "large": float(means[1][i]),
         "rank_small": float(ranked(-sign * means[0])[i]), "rank_large": float(ranked(-sign * means[1])[i])}
        for i, name in enumerate(names)
    )  # fmt: skip
    shared = (str(rows[0].get("measure", "score")), str(rows[0].get("benchmark", "")))
    subject = f"{k} candidates at {_name(small)} and {_name(large)}"
    return [
        Finding(
            "ranks", subject, *shared, rho, CORRELATION, (told,) if told else (), n=items(rows), seeds=seeds,
            note=join(notes), parts=parts, table=table,
        ),
        Finding(
            "decision-accuracy", subject, *shared, 100 * accuracy, OF_PAIRS,
            (of_pairs(agree, first, second, k, level),), n=items(rows), seeds=seeds, note=join(notes), parts=parts,
            table=table,
        ),
    ]  # fmt: skip


def _name(size: float | str) -> str:
    return size if isinstance(size, str) else short(size)


def of_pairs(agree: np.ndarray, first: np.ndarray, second: np.ndarray, k: int, level: float) -> Interval:
    """Interval of decision accuracy over candidates, in percent: a mean over pairs, so candidates are what varies
    (jackknife of a U-statistic), by Wilson's formula with as many trials as that variance is worth; with no variance
    to be seen, as with perfect agreement, k/2 trials, the pairs that share no candidate."""
    p = float(agree.mean())
    total = np.bincount(first, agree, k) + np.bincount(second, agree, k)
    left_out = (agree.sum() - total) / (len(agree) - (k - 1))
    variance = (k - 1) / k * float(((left_out - left_out.mean()) ** 2).sum())
    trials = k / 2 if variance <= 0 or p * (1 - p) <= 0 else max(min(p * (1 - p) / variance, len(agree)), 1.0)
    z = float(student(k - 1, level))
    centre = (p + z * z / (2 * trials)) / (1 + z * z / trials)
    half = z / (1 + z * z / trials) * math.sqrt(p * (1 - p) / trials + z * z / (4 * trials**2))
    low, high = max(0.0, min(p, centre - half)), min(1.0, max(p, centre + half))
    return Interval(100 * low, 100 * high, OTHER_CANDIDATES, level)


# ---- a larger budget -------------------------------------------------------------------------------------------------


def predict_loss(
    rows: Sequence[Row], at: float | Sequence[float], x: str = "flops", level: float = 0.95
) -> list[Finding]:
    """The loss of one strategy at larger budgets, by E + A·x^−α: one finding (question `predicted-loss`) a budget.
    The interval is the hull of those with E ≥ 0 and with any E.

    Columns: score (a loss) and `x`; seed where there are several runs. The interval is one for the mean of runs at
    that budget; `parts` has the one for a single run (`run_low`, `run_high`). Backtest: the law is fitted to all but
    the largest budget and must say it; if the measured loss lies m > 1 half-widths off, both intervals are m times as
    wide. `table` holds the points, the curve, the predictions and every backtest (all cuts that leave 4 budgets).
    Undefined past the measured range where the points do not follow such a law. Raises `Refused` for fewer than 4
    budgets and for accuracies.
    """
    rows = typed(rows, x)
    for name in ("strategy", "benchmark", "measure"):
        the_one(rows, name)
    places = [float(p) for p in np.atleast_1d(np.asarray(at, dtype=float))]
    if not places or not all(p > 0 and math.isfinite(p) for p in places):
        raise Refused("at: give budgets above 0")
    pair = both_ways(rows, x)
    curve = pair.bounded
    tests = backtest(rows, x, level)
    last = [t for t in tests if t["last"]]
    factor = max([1.0, *(float(t["miss"] or 0) for t in last)])
    top, bottom = float(curve.x.max()), float(curve.x.min())
    floor, floor_low, floor_high = curve.floor(level)
    where = np.array(places)
    mean, run = pair.predict(where, level), pair.predict(where, level, new_run=True)
    notes = list(curve.notes)
    if not tests:
        notes.append("Fewer than 5 budgets: the law could not be put to the test on the largest.")
    elif factor > 1:
        notes.append(
            f"Fitted to all but the largest budget the law missed it by {factor:.2g} half-widths; the interval is "
            f"{factor:.2g} times as wide for that."
        )
    table = [row for row in points_of(rows, x, "measured", curve) if not row["line"]]
    silent = {place for place in places if pair.hopeless and place > top}  # where the law says nothing
    grid = np.geomspace(bottom, max([top, *(place for place in places if place not in silent)]), 60)
    for g, value, low, high in zip(grid, *pair.predict(grid, level)):
        low, high = _widened(value, low, high, factor)
        table.append({"series": "law", "x": float(g), "score": float(value), "line": True, "low": low, "high": high})
    for k, place in enumerate(places):
        if place in silent:
            continue
        low, high = _widened(mean[0][k], mean[1][k], mean[2][k], factor)
        row: dict[str, Part] = {"series": "predicted", "x": place, "score": float(mean[0][k]), "line": False}
        table.append({**row, "low": low, "high": high})
    table += [{"series": "backtest", **t} for t in tests]
    made, seeds = [], len({row.get("seed") for row in rows})
    for k, place in enumerate(places):
        low, high = _widened(mean[0][k], mean[1][k], mean[2][k], factor)
        run_low, run_high = _widened(run[0][k], run[1][k], run[2][k], factor)
        far = place / top
        beyond = [f"{far:.3g} times past the largest budget."] if far > 1 else []
        why = None
        if place in silent:
            why = f"the points do not follow a law of this form (p = {curve.wrong:.1g}), so it says nothing past them"
        parts: dict[str, Part] = {
            "at": place, "beyond": far, "run_low": None if why else run_low, "run_high": None if why else run_high,
            "floor": floor,
            "floor_low": floor_low, "floor_high": floor_high, "floor_error": curve.floor_error,
            "amplitude": curve.law.raw_amplitude,
            "exponent": curve.law.exponent, "noise": math.hypot(curve.sigma, curve.between), "widened": factor,
            "backtests": len(tests), "backtests_held": sum(bool(t["held"]) for t in tests),
            "lack_of_fit_p": curve.wrong,
        }  # fmt: skip
        made.append(Finding(
            "predicted-loss", f"at {short(place)} {x}", str(rows[0].get("measure", "loss")),
            str(rows[0].get("benchmark", "")), None if why else float(mean[0][k]),
            _unit(rows), () if why else (Interval(low, high, THESE_PROBLEMS, level),), n=items(rows), seeds=seeds,
            undefined=why, note=join([*notes, *beyond]), parts=parts, table=tuple(table),
        ))  # fmt: skip
    return made


def _unit(rows: Sequence[Row]) -> str:
    return str(rows[0].get("measure", "loss"))


def _widened(value: float, low: float, high: float, factor: float) -> tuple[float, float]:
    return max(0.0, float(value - factor * (value - low))), float(value + factor * (high - value))


def backtest(rows: Sequence[Row], x: str, level: float = 0.95) -> list[dict[str, Part]]:
    """Each budget predicted from those below it: `until` (the largest that was fitted), x, score, predicted, low, high
    (for a single run), whether it held, and `miss` in half-widths. `last` marks the
    fit to all but the largest budget."""
    x_N = numbers(rows, x)
    budgets = np.unique(x_N[x_N > 0])
    made: list[dict[str, Part]] = []
    for cut in range(4, len(budgets)):
        kept = [row for row, at in zip(rows, x_N) if at <= budgets[cut - 1]]
        try:
            pair = both_ways(kept, x)
        except Refused:
            continue
        later = budgets[cut:]
        for place, value, low, high in zip(later, *pair.predict(later, level, new_run=True)):
            seen = float(np.mean([float(row["score"]) for row, at in zip(rows, x_N) if at == place]))
            half = (high - value) if seen > value else (value - low)
            made.append({
                "until": float(budgets[cut - 1]), "x": float(place), "score": seen, "predicted": float(value),
                "low": float(low), "high": float(high), "held": bool(low <= seen <= high),
                "miss": abs(seen - float(value)) / max(float(half), 1e-12), "last": cut == len(budgets) - 1,
            })  # fmt: skip
    return made
