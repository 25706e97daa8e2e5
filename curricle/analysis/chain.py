"""Several stages in a chain: which share of the whole gain is whose, and what no stage explains alone.

Relative gains multiply along a chain, 1 + ΔP = Π(1 + ΔP_k), so shares are taken on logarithms and add to 1 (`chain`).
They depend on the order, and a stage's share on what came before it. Where every subset of the stages was run,
Shapley's value (1953) shares the gain without that: the mean of what a stage adds over all orders of joining
(`shapley`). What the stages give together beyond the sum of what each gives alone is reported as unexplained by any
one of them (docs/theory.md, section 1).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np

from curricle.analysis.finding import (
    THESE_PROBLEMS,
    Finding,
    Interval,
    Part,
    join,
)
from curricle.analysis.rows.columns import Row, groups, known, numbers, typed
from curricle.analysis.rows.compare import UNITS, holm_adjusted, lower_is_better, one_benchmark
from curricle.analysis.statistics.intervals import holm, student
from curricle.analysis.statistics.spread import spread_crossed
from curricle.study import Refused
from curricle.values import plural

SEEDS_ONLY = "Intervals speak of other seeds on the same problems."
ONE_SEED = "One seed: no interval."
ALIKE = "No variation over seeds: no interval."


class Point(NamedTuple):
    """The score of one stage's end (or of the model before any training) for each seed."""

    stage: str
    position: int
    tokens: float  # of this stage
    flops: float | None  # of this stage
    scores_S: np.ndarray


def ends(rows: Sequence[Row]) -> tuple[list[Point], tuple[Any, ...], str]:
    """One strategy on one benchmark in one measure: where it began (position −1, if that was scored), then the end of
    each stage; the seeds that have them all; and a note on those that have not."""
    known(rows, "seed", "stage", "position", "stage_tokens", "score")
    numbers(rows, "score")
    budget = {p: numbers(here, "stage_tokens").max() for (p,), here in groups(rows, "position").items()}
    last: dict[tuple[Any, int], Row] = {}
    for row in rows:
        tokens, position = float(row["stage_tokens"]), int(row["position"])
        if tokens == 0:
            last[row["seed"], -1] = row
        elif tokens == budget[row["position"]]:
            last[row["seed"], position] = row
    places = sorted({place for _, place in last})
    seeds = tuple(sorted({seed for seed, _ in last}, key=str))
    whole = tuple(seed for seed in seeds if all((seed, place) in last for place in places))
    partly = len(seeds) - len(whole)
    note = f"{plural(partly, 'seed')} without all stages: left out." if partly else ""
    made: list[Point] = []
    spent = 0.0
    for place in places if whole else []:
        of_seeds = [last[seed, place] for seed in whole]
        total = [row.get("flops") for row in of_seeds]
        until = None if any(f is None or f == "" for f in total) else float(total[0])  # type: ignore[arg-type]
        here = None if until is None else until - spent
        spent = spent if until is None else until
        name = "before training" if place == -1 else str(of_seeds[0]["stage"])
        scores = np.array([float(row["score"]) for row in of_seeds])
        made.append(Point(name, place, 0.0 if place == -1 else float(of_seeds[0]["stage_tokens"]), here, scores))
    return made, whole, note


def chain(rows: Sequence[Row], level: float = 0.95) -> list[Finding]:
    """The gain along each strategy from before training (or from the end of its first stage, where nothing earlier was
    scored) to its end, with each stage's share of it in `table`; one finding a strategy, benchmark and measure. The
    p-values of strategies on one benchmark in one measure are Holm-adjusted.

    Columns: strategy, seed, stage, position, stage_tokens, score; benchmark and measure where there are several;
    flops if known. A share is ln(P_k/P_{k−1})/ln(P_K/P_0), with Fieller's interval over seeds. Where strategies of
    one stage exist, what each gives alone stands beside it, and `unexplained` is the total less their sum.
    """
    rows = typed(rows)
    known(rows, "strategy")
    made: list[Finding] = []
    for (benchmark, measure), here in groups(rows, "benchmark", "measure").items():
        paths = {name: ends(of_it) for (name,), of_it in groups(here, "strategy").items()}
        alone = {
            points[1].stage: (points, seeds)
            for points, seeds, _ in paths.values()
            if len(points) == 2 and points[0].position == -1
        }
        for name, (points, seeds, note) in paths.items():
            if len(points) >= 3 or (len(points) == 2 and points[0].position >= 0):
                made.append(_chained(str(name), str(benchmark), str(measure), points, seeds, note, alone, level))
    if not made:
        raise Refused("no strategy has two stages, or one and a score before training; a chain has nothing to share")
    return holm_adjusted(made, one_benchmark, same_scores)


def same_scores(f: Finding) -> object:
    """Outcomes carry no runs in common, so a stage that strategies share is known by its scores, to the last digit."""
    return f.parts.get("stage"), f.parts["before"], f.parts["after"]


def _chained(
    name: str, benchmark: str, measure: str, points: list[Point], seeds: tuple[Any, ...], note: str,
    alone: dict[str, tuple[list[Point], tuple[Any, ...]]], level: float,
) -> Finding:  # fmt: skip
    scores = np.array([p.scores_S for p in points])  # stages + 1, seeds
    total_S = scores[-1] - scores[0]
    estimate, interval, p_value = mean_of(total_S, level)
    positive = bool((scores > 0).all())
    logs = np.log(scores) if positive else None
    table, sum_alone = [], 0.0
    notes = [lower_is_better(measure), note, speaks_of(interval, seeds)]
    for k, point in enumerate(points[1:], start=1):
        row: dict[str, Part] = {
            "stage": point.stage, "position": point.position, "since": points[k - 1].stage, "tokens": point.tokens,
            "before": float(scores[k - 1].mean()), "after": float(scores[k].mean()),
            "gain": float((scores[k] - scores[k - 1]).mean()),
            "relative_percent": 100 * float(scores[k].mean() / scores[k - 1].mean() - 1) if positive else None,
            "share": None, "low": None, "high": None, "share_of_difference": None, "alone": None,
        }  # fmt: skip
        if estimate:
            row["share_of_difference"] = float((scores[k] - scores[k - 1]).mean() / estimate)
        if logs is not None and (logs[-1] - logs[0]).mean():
            row["share"], row["low"], row["high"] = ratio(logs[k] - logs[k - 1], logs[-1] - logs[0], level)
            if interval and row["low"] is None and row["high"] is None:
                notes.append("A share is unbounded where the whole gain is not told from 0.")
        if point.stage in alone and len(points) > 2:
            of_it = alone[point.stage][0]
            gave = float((of_it[1].scores_S - of_it[0].scores_S).mean())
            row["alone"], sum_alone = gave, sum_alone + gave
        table.append(row)
    whole = all(row["alone"] is not None for row in table)
    if not positive:
        notes.append("A score of 0 has no logarithm, so shares are of the difference only.")
    if points[0].position >= 0:
        notes.append(f"Nothing was scored before {points[0].stage}, so the chain begins at its end.")
    parts: dict[str, Part] = {
        "strategy": name, "before": float(scores[0].mean()), "after": float(scores[-1].mean()),
        "relative_percent": 100 * float(scores[-1].mean() / scores[0].mean() - 1) if positive else None,
        "unexplained": estimate - sum_alone if whole else None,
    }  # fmt: skip
    return Finding(
        "chain", f"{name}: {points[0].stage} to {points[-1].stage}", measure, benchmark, estimate,
        UNITS.get(measure, measure), (interval,) if interval else (), p_value,
        "t over seeds" if p_value is not None else "", 0, len(seeds), (), None, join(notes), parts, tuple(table),
    )  # fmt: skip


def speaks_of(interval: Interval | None, seeds: Sequence[Any]) -> str:
    """What an interval is about, or why there is none."""
    return SEEDS_ONLY if interval else ALIKE if len(seeds) > 1 else ONE_SEED


def mean_of(d_S: np.ndarray, level: float) -> tuple[float, Interval | None, float | None]:
    """A mean over seeds, its t interval and the p-value of a mean of 0; None where there is one seed or no spread."""
    from scipy.special import stdtr

    mean, n = float(d_S.mean()), len(d_S)
    error = float(d_S.std(ddof=1)) / math.sqrt(n) if n > 1 else 0.0
    if error <= 1e-12 * float(np.abs(d_S).max(initial=0.0)):
        return mean, None, None
    half = float(student(n - 1, level)) * error
    p_value = float(min(1.0, 2 * stdtr(n - 1, -abs(mean) / error)))
    return mean, Interval(mean - half, mean + half, THESE_PROBLEMS, level), p_value


def ratio(a_S: np.ndarray, b_S: np.ndarray, level: float) -> tuple[float, float | None, float | None]:
    """mean a / mean b of paired values with Fieller's interval: the ρ at which a − ρb has a mean not told from 0.
    None on both sides where that set has no end."""
    a, b, n = float(a_S.mean()), float(b_S.mean()), len(a_S)
    if n < 2:
        return a / b, None, None
    (v_aa, v_ab), (_, v_bb) = np.cov(a_S, b_S) / n
    t2 = float(student(n - 1, level)) ** 2
    A, B, C = b * b - t2 * v_bb, a * b - t2 * v_ab, a * a - t2 * v_aa
    if A <= 0:
        return a / b, None, None
    root = math.sqrt(max(B * B - A * C, 0.0))
    return a / b, float((B - root) / A), float((B + root) / A)


def shapley(rows: Sequence[Row], level: float = 0.95) -> list[Finding]:
    """Each stage's Shapley value in the final score; one finding a benchmark, measure and stage, question `shapley`.

    Columns: strategy, seed, stage, position, stage_tokens, score, and `benchmark`, `measure` where there are several.
    The players are the stages that some strategies have and others lack; stages of every strategy are the ground that
    all stand on. Needs every subset once (the empty one is the ground itself, or the model before training), each with
    the same seeds for the pooled interval. `parts`: what the stage gives alone and what it adds last; `unexplained`,
    the whole gain less the sum of what each gives alone, with its interval. p-values of the stages and of what is
    unexplained are Holm-adjusted together. Raises `Refused` for the subsets that lack.
    """
    rows = typed(rows)
    known(rows, "strategy")
    made: list[Finding] = []
    for (benchmark, measure), here in groups(rows, "benchmark", "measure").items():
        paths = {str(name): ends(of_it) for (name,), of_it in groups(here, "strategy").items()}
        stages = {name: [p.stage for p in points if p.position >= 0] for name, (points, _, _) in paths.items()}
        players = list(dict.fromkeys(s for of_it in stages.values() for s in of_it))
        ground = {s for s in players if all(s in of_it for of_it in stages.values()) and len(stages) > 1}
        players = [s for s in players if s not in ground]
        if not 2 <= len(players) <= 6:
            raise Refused(f"strategies differ by {plural(len(players), 'stage')}; Shapley's value shares among 2 to 6")
        cells: dict[frozenset[str], dict[Any, float]] = {}
        for name, (points, seeds, _) in paths.items():
            subset = frozenset(stages[name]) - ground
            if subset in cells:
                raise Refused(f"{name!r} has the same stages as another; give one order of each subset")
            if points:
                cells[subset] = dict(zip(seeds, points[-1].scores_S))
            if frozenset() not in cells and not ground and points and points[0].position == -1:
                cells[frozenset()] = dict(zip(seeds, points[0].scores_S))
        subsets = [frozenset(c) for k in range(len(players) + 1) for c in combinations(players, k)]
        lacking = [" + ".join(sorted(s)) or "none of them" for s in subsets if s not in cells]
        if lacking:
            raise Refused(f"Shapley's value needs every subset of the stages; not run: {'; '.join(lacking)}")
        made += _shared(players, subsets, cells, str(benchmark), str(measure), level)
    return made


def _shared(
    players: list[str], subsets: list[frozenset[str]], cells: dict[frozenset[str], dict[Any, float]],
    benchmark: str, measure: str, level: float,
) -> list[Finding]:  # fmt: skip
    seeds = sorted(set.intersection(*(set(cells[s]) for s in subsets)), key=str)
    if not seeds:
        raise Refused("no seed has every subset of the stages")
    y_CS = np.array([[cells[s][seed] for seed in seeds] for s in subsets])
    # Each cell's scatter about its own mean and the seed's: a seed that is lucky everywhere drops out of a difference.
    spread = spread_crossed(y_CS)
    n = len(players)

    def said(weight_C: np.ndarray) -> tuple[float, Interval | None, float | None]:
        from scipy.special import stdtr

        value = float(weight_C @ y_CS.mean(1))
        variance, df = spread.of(weight_C)
        error = math.sqrt(variance)
        if error <= 1e-12 * float(np.abs(y_CS).max()):
            return value, None, None
        half = float(student(df, level)) * error
        p_value = float(min(1.0, 2 * stdtr(df, -abs(value) / error)))
        return value, Interval(value - half, value + half, THESE_PROBLEMS, level), p_value

    def weights(of: dict[frozenset[str], float]) -> np.ndarray:
        return np.array([of.get(s, 0.0) for s in subsets])

    nothing, everything = frozenset[str](), frozenset(players)
    total, total_interval, _ = said(weights({everything: 1, nothing: -1}))
    together = {everything: 1.0, nothing: -1.0 + n} | {frozenset([p]): -1.0 for p in players}
    rest, rest_interval, rest_p = said(weights(together))
    made, table = [], list[dict[str, Part]]()
    for player in players:
        share: dict[frozenset[str], float] = {}
        for s in subsets:
            if player not in s:
                w = math.factorial(len(s)) * math.factorial(n - len(s) - 1) / math.factorial(n)
                share[s] = share.get(s, 0.0) - w
                share[s | {player}] = share.get(s | {player}, 0.0) + w
        value, interval, p_value = said(weights(share))
        alone = said(weights({frozenset([player]): 1, nothing: -1}))[0]
        last = said(weights({everything: 1, everything - {player}: -1}))[0]
        table.append({
            "stage": player, "value": value, "low": interval.low if interval else None,
            "high": interval.high if interval else None, "alone": alone, "last": last,
            "share": value / total if total else None,
        })  # fmt: skip
        parts: dict[str, Part] = {
            "stage": player, "alone": alone, "last": last, "total": total, "unexplained": rest,
            "unexplained_low": rest_interval.low if rest_interval else None,
            "unexplained_high": rest_interval.high if rest_interval else None,
            "total_low": total_interval.low if total_interval else None,
            "total_high": total_interval.high if total_interval else None,
        }  # fmt: skip
        made.append((player, value, interval, p_value, parts))
    *adjusted, rest_adjusted = holm([*(p_value for _, _, _, p_value, _ in made), rest_p])
    test = f"t, pooled over subsets; Holm over {n + 1}"
    pooled = "The seeds' variance is pooled over all subsets." if spread.df else ""
    note = join([lower_is_better(measure), SEEDS_ONLY if spread.pooled else ONE_SEED, spread.note("subsets") or pooled])
    return [
        Finding(
            "shapley", f"{player} among {', '.join(players)}", measure, benchmark, value, UNITS.get(measure, measure),
            (interval,) if interval else (), p_value, test if p_value is not None else "",
            0, len(seeds), (), None, note, {**parts, "unexplained_p": rest_adjusted}, tuple(table),
        )
        for (player, value, interval, _, parts), p_value in zip(made, adjusted)
    ]  # fmt: skip
