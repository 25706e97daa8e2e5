"""What a code stage can give a score at most: the last loss, and accuracy (docs/theory.md, section 11).

    last_loss_bound(rows, code="code first", scratch="from scratch", benchmark="math")
    accuracy_bound(43.0, kl_nats)                      # sampled answers
    accuracy_from_loss(rows, code=…, scratch=…, benchmark=…)   # greedy answers, where loss decides them

Rows are outcomes (`outcomes.py`). Promises: each limit stands beside what was measured; a limit that rests on a fitted
curve carries that curve's own uncertainty, and one that lies outside what was measured is called an extrapolation.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np

from curricle.analysis.code_length import fit_floor
from curricle.analysis.finding import (
    ACCURACY,
    BITS_PER_BYTE,
    POINTS,
    THESE_PROBLEMS,
    THESE_WEIGHTS,
    Finding,
    Interval,
    Part,
    join,
)
from curricle.analysis.rows.arms import Row, checked, ends, items_of, noise, runs_of, scored, tabled
from curricle.analysis.rows.columns import typed
from curricle.analysis.rows.compare import UNITS
from curricle.analysis.statistics.intervals import student, wilson
from curricle.analysis.statistics.spread import within
from curricle.study import Refused, nearest

# ---- the last loss --------------------------------------------------------------------------------------------------


def last_loss_bound(
    rows: Iterable[Row],
    code: str,
    scratch: str,
    benchmark: str,
    *,
    measure: str = BITS_PER_BYTE,
    floor_bits: float | None = None,
    floor_range: tuple[float, float] | None = None,
    level: float = 0.95,
) -> Finding:
    """L_scratch(D) − L_code(D) ≤ L_scratch(D) − E: at the stage's end nothing can be better than the floor.

    E is `floor_bits` (in the measure's unit) where it is known, with `floor_range`; else the floor of the scratch curve
    over its own points of the last stage, fitted. With fewer than six points there is no such fit: the floor is then
    taken as 0, which is certain, and said. The interval is the floor's and, with two seeds or more, that of
    L_scratch(D) over seeds, in quadrature on each side; none with one seed and a known floor. In `table` both arms'
    curves."""
    found = scored(rows, benchmark, measure)
    at_end = {key: row for key, row in ends(found).items() if key[0] in (code, scratch)}
    for name in (code, scratch):
        if not any(a == name for a, _ in at_end):
            raise Refused(
                f"strategy: {name!r} has no rows of {benchmark!r}; {nearest(name, {a for a, _ in ends(found)})}"
            )
    table = tabled([{key: float(row["score"]) for key, row in at_end.items()}])
    means = dict(zip(table.strategies, table.means[:, 0]))
    spread = noise(table)
    x, y = _curve(found, at_end, scratch)
    note, fitted = "", None
    if floor_bits is not None:
        low, high = floor_range or (floor_bits, floor_bits)
        floor = floor_bits
    elif len(x) >= 6:
        fitted = fit_floor(x, y, level=level)
        floor, low, high = fitted.estimate, fitted.low, fitted.high
        note = "The floor is fitted to the scratch curve: an estimate, and of what a model of this size comes down to."
    else:
        floor, low, high = 0.0, 0.0, 0.0
        note = (
            f"{len(x)} points of the scratch curve show no floor, so it is taken as 0: certain, and far above any gain."
        )
    last = float(means[scratch])
    bound, measured = last - floor, last - float(means[code])
    half, half_last = None, 0.0
    if spread:
        counts = table.counts
        runs = float(counts[table.strategies.index(scratch)])
        half_last = float(student(spread.df, level)) * math.sqrt(float(spread.covariance[0, 0]) / runs)
        half = float(student(spread.own_df, level)) * math.sqrt(float(spread.own[0, 0]) * float((1 / counts).sum()))
    parts: dict[str, Part] = {
        "strategy": code, "against": scratch, "measured": measured,
        "measured_low": None if half is None else measured - half,
        "measured_high": None if half is None else measured + half, "floor": floor, "floor_low": low,
        "floor_high": high, "after": float(means[code]), "before": last,
        "violated": bool(measured - (half or 0.0) > last - low),
    }  # fmt: skip
    lines: list[dict[str, Part]] = []
    for name in (scratch, code):
        for at, value in zip(*_curve(found, at_end, name)):
            lines.append({"strategy": name, "tokens": float(at), "score": float(value), "floor": floor})
    fails = "The gain passes the bound: the floor is too high." if parts["violated"] else ""
    down, up = math.hypot(high - floor, half_last), math.hypot(floor - low, half_last)
    sides = (Interval(max(0.0, bound - down), bound + up, THESE_PROBLEMS, level),) if down or up else ()
    if not half_last:
        fails = join([fails, "One seed: what another run would end at is not in the limit."])
    return Finding(
        "bound-last-loss", f"{code} over {scratch}", measure, benchmark, bound, UNITS.get(measure, measure),
        sides, n=items_of(at_end),
        seeds=int(table.counts.min()), runs=runs_of(at_end), note=join([note, fails]), parts=parts, table=tuple(lines),
    )  # fmt: skip


def _curve(rows: Sequence[Row], at_end: dict[tuple[str, int], Row], strategy: str) -> tuple[np.ndarray, np.ndarray]:
    """Mean scores over seeds along the strategy's last stage, past its beginning."""
    positions = {key: row.get("position") for key, row in at_end.items()}
    found: dict[float, list[float]] = {}
    for row in rows:
        key = (str(row["strategy"]), row["seed"])
        if key[0] == strategy and key in positions and row.get("position") == positions[key]:
            at = float(row.get("stage_tokens", row.get("tokens", 0)) or 0)
            if at > 0:
                found.setdefault(at, []).append(float(row["score"]))
    x = np.array(sorted(found))
    return x, np.array([float(np.mean(found[at])) for at in x])


# ---- accuracy -------------------------------------------------------------------------------------------------------


def binary_kl(p: float, q: float) -> float:
    """kl(p‖q) of two coins, in nats; infinite where q rules out what p does not."""
    made = 0.0
    for a, b in ((p, q), (1 - p, 1 - q)):
        if a > 0:
            made += a * math.log(a / b) if b > 0 else math.inf
    return made


def highest(p0: float, kl_nats: float) -> float:
    """The largest p with kl(p‖p0) ≤ KL: the most accurate that a model can be at that divergence from the other."""
    if p0 >= 1 or p0 <= 0:
        return p0  # a sure coin cannot be moved by a finite divergence
    low, high = p0, 1.0
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if binary_kl(middle, p0) <= kl_nats else (low, middle)
    return low


def accuracy_bound(
    scratch_percent: float,
    kl_nats: float | Sequence[float],
    *,
    problems: int | None = None,
    measured_percent: float | None = None,
    benchmark: str = "answers",
    level: float = 0.95,
) -> Finding:
    """For *sampled* answers, kl(P_code‖P_scratch) ≤ the mean over problems of KL(code's answers ‖ scratch's), in nats.

    `kl_nats` is that mean, or one unbiased estimate a problem (log p_code(answer) − log p_scratch(answer), answers
    sampled from the code model), whose upper limit is then used. With the number of `problems` the scratch accuracy's
    own upper limit is used too. Beside it Pinsker's weaker √(KL/2). It says nothing about greedy answers, which any
    divergence, however small, can turn round."""
    if not 0 <= scratch_percent <= 100:
        raise Refused(
            f"scratch_percent: {scratch_percent:g} is not an accuracy in percent; give a number from 0 to 100"
        )
    values = np.atleast_1d(np.asarray(kl_nats, dtype=float))
    if not len(values) or not np.isfinite(values).all():
        raise Refused("kl_nats: give a finite number, or one for each problem")
    mean = float(values.mean())
    upper = mean
    if len(values) > 1:
        upper += float(student(len(values) - 1, level)) * float(values.std(ddof=1)) / math.sqrt(len(values))
    elif mean < 0:
        raise Refused(f"kl_nats: {mean:g} is below 0, which no divergence is")
    mean, upper = max(mean, 0.0), max(upper, 0.0)
    p0 = scratch_percent / 100
    p_high = float(wilson(p0, problems, level).high or p0) if problems else p0
    bound, limit = 100 * highest(p0, mean), 100 * highest(p_high, upper)
    pinsker = 100 * min(1.0, p0 + math.sqrt(mean / 2))
    empty = "The bound is empty: the answers' distributions lie too far apart." if limit > 99.5 else ""
    sides = (Interval(None, limit, THESE_WEIGHTS, level),) if problems or len(values) > 1 else ()
    parts: dict[str, Part] = {
        "before": scratch_percent, "kl_nats": mean, "kl_high": upper, "pinsker": pinsker, "measured": measured_percent,
        "violated": None if measured_percent is None else bool(measured_percent > max(limit, bound) + 1e-9),
    }  # fmt: skip
    return Finding(
        "bound-accuracy", "sampled answers", ACCURACY, benchmark, bound, POINTS, sides, n=problems or 0, parts=parts,
        note=join(["Sampled answers at temperature 1 only; greedy accuracy is not bounded by a divergence.", empty]),
    )  # fmt: skip


def accuracy_from_loss(
    rows: Iterable[Row],
    code: str,
    scratch: str,
    benchmark: str,
    *,
    floor_bits: float | None = None,
    guess_percent: float = 0.0,
    level: float = 0.95,
) -> Finding:
    """Where loss decides accuracy, the floor of the loss caps accuracy: P_code ≤ f(E), f one curve for all arms.

    Both measures of `benchmark` are read at every point of both arms. f is a logit line above `guess_percent`, by
    weighted least squares. The check: each run's mean residual from the common curve, compared between the arms (a
    pooled t test, seeds as replicates); where the arms are told apart (p < 1 − level), loss does not decide, and the
    finding is undefined. f(E) lies beyond what was measured, and is called an extrapolation. Its interval is the hull,
    over the floor's interval, of the curve's own (points of a run share its luck); `violated` says that the code arm's
    accuracy, with its spread over seeds, lies above all of it."""
    rows = typed(rows)
    loss = _points(scored(rows, benchmark, BITS_PER_BYTE), (code, scratch))
    right = _points(scored(rows, benchmark, ACCURACY), (code, scratch))
    keys = [key for key in loss if key in right]
    about = ("bound-accuracy-from-loss", f"{code} over {scratch}", ACCURACY, benchmark)
    at_end = {k: r for k, r in ends(scored(rows, benchmark, ACCURACY)).items() if k[0] in (code, scratch)}
    if len(keys) < 6 or len({loss[k][0] for k in keys}) < 4:
        raise Refused(f"{len(keys)} points of {benchmark!r} have both accuracy and bits per byte; 6 are needed")
    x = np.array([loss[k][0] for k in keys])
    n = np.array([max(right[k][1], 2) for k in keys], dtype=float)
    g = guess_percent / 100
    p = np.clip((np.array([right[k][0] for k in keys]) / 100 - g) / (1 - g), 0.5 / n, 1 - 0.5 / n)
    z, w = np.log(p / (1 - p)), n * p * (1 - p)
    slope, level_at = np.polyfit(x, z, 1, w=np.sqrt(w))
    residual = z - (level_at + slope * x)
    arms: dict[str, list[float]] = {code: [], scratch: []}
    for arm, seed in dict.fromkeys((k[0], k[1]) for k in keys):
        mine = np.array([k[0] == arm and k[1] == seed for k in keys])
        arms[arm].append(float(np.average(residual[mine], weights=w[mine])))
    if min(map(len, arms.values())) < 2:
        why = "one seed: nothing tells whether one curve holds for both arms"
        return Finding(*about, None, POINTS, undefined=why, n=items_of(at_end), runs=runs_of(at_end))
    p_value = _two_groups(arms[code], arms[scratch])
    floor = low = high = floor_bits if floor_bits is not None else 0.0
    if floor_bits is None:
        cx, cy = _curve(scored(rows, benchmark, BITS_PER_BYTE), ends(scored(rows, benchmark, BITS_PER_BYTE)), scratch)
        if len(cx) >= 6:
            fitted = fit_floor(cx, cy, level=level)
            floor, low, high = fitted.estimate, fitted.low, fitted.high

    def percent(logits: np.ndarray | float) -> np.ndarray:
        return 100 * (g + (1 - g) / (1 + np.exp(-np.clip(logits, -40, 40))))

    def at(loss_bits: float) -> float:
        return float(percent(level_at + slope * loss_bits))

    places = np.linspace(low, high, 60)
    error, df = _line_errors(places, x, residual, w, [(k[0], k[1]) for k in keys])
    reach = float(student(df, level)) * error
    hull = (float(percent(level_at + slope * places - reach).min()),
            float(percent(level_at + slope * places + reach).max()))  # fmt: skip
    score = {a: np.array([r["score"] for k, r in at_end.items() if k[0] == a]) for a in (code, scratch)}
    measured = {a: float(of_it.mean()) for a, of_it in score.items()}
    s = len(score[code])
    half = float(student(s - 1, level)) * float(score[code].std(ddof=1)) / math.sqrt(s) if s > 1 else 0.0
    parts: dict[str, Part] = {
        "strategy": code, "against": scratch,
        "slope": float(slope), "intercept": float(level_at), "guess": guess_percent, "floor": floor,
        "floor_low": low, "floor_high": high, "least_loss": float(x.min()), "arms_differ_p": p_value,
        "measured": measured[code], "before": measured[scratch],
        "violated": bool(measured[code] - half > hull[1]),
    }  # fmt: skip
    lines = tuple(
        {"strategy": k[0], "seed": k[1], "tokens": float(k[2]), "bits per byte": loss[k][0], "accuracy": right[k][0],
         "curve": at(loss[k][0])}
        for k in keys
    )  # fmt: skip
    common = {"n": items_of(at_end), "runs": runs_of(at_end), "parts": parts, "table": lines}
    if slope >= 0 or p_value < 1 - level:
        why = (
            f"loss does not decide accuracy here: at equal loss the two arms differ (p = {p_value:.2g}), so a floor of "
            "the loss is no limit of the score"
            if slope < 0
            else "accuracy does not rise as the loss falls, so a floor of the loss is no limit of the score"
        )
        return Finding(*about, None, POINTS, undefined=why, seeds=len(arms[code]), **common)  # type: ignore[arg-type]
    note = (
        f"One curve holds for both arms (p = {p_value:.2g}: not told apart, which is no proof). An extrapolation: the "
        f"lowest loss measured is {x.min():.3f}, the floor {floor:.3f}."
    )
    interval = Interval(hull[0], hull[1], THESE_PROBLEMS, level)
    return Finding(*about, at(floor), POINTS, (interval,), seeds=len(arms[code]), note=note, **common)  # type: ignore[arg-type]


def _line_errors(
    at: np.ndarray, x: np.ndarray, residual: np.ndarray, w: np.ndarray, runs: Sequence[tuple[str, int]]
) -> tuple[np.ndarray, float]:
    """Standard errors of a weighted line at some places, and their degrees of freedom: the larger of what independent
    points give and what runs give, whose points share their luck (a sandwich over G runs, times G/(G − 2))."""
    design, there = (np.stack([np.ones_like(v), v], axis=1) for v in (x, at))
    bread = np.linalg.inv(design.T @ (w[:, None] * design))
    names = list(dict.fromkeys(runs))
    of_run = np.array([names.index(run) for run in runs])
    scores = np.stack([((w * residual)[of_run == k, None] * design[of_run == k]).sum(0) for k in range(len(names))])
    points = bread * float((w * residual**2).sum()) / (len(x) - 2)
    shared = bread @ scores.T @ scores @ bread * len(names) / (len(names) - 2)
    variances = [np.einsum("xi,ij,xj->x", there, covariance, there) for covariance in (points, shared)]
    return np.sqrt(np.maximum(*variances)), float(len(names) - 2)


def _points(rows: Sequence[Row], arms: tuple[str, str]) -> dict[tuple[str, int, float], tuple[float, int]]:
    checked(rows, (), ("tokens",))
    return {
        (str(r["strategy"]), r["seed"], float(r["tokens"])): (float(r["score"]), int(r.get("items") or 0))
        for r in rows
        if r["strategy"] in arms
    }


def _two_groups(a: Sequence[float], b: Sequence[float]) -> float:
    """The pooled t test of two groups of runs."""
    from scipy.special import stdtr

    variance, df = within([np.asarray(a), np.asarray(b)])
    error = math.sqrt(variance * (1 / len(a) + 1 / len(b)))
    if error == 0:
        return 1.0 if np.mean(a) == np.mean(b) else 0.0
    return float(2 * stdtr(df, -abs(float(np.mean(a) - np.mean(b))) / error))
