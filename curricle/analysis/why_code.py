"""Why code helps: how much of its help goes when one of its properties is taken away (docs/theory.md, 4).

Each arm is a strategy that differs in one source only: the code itself, a filler in its place, the code without a
property, or text that no person wrote. What is estimated are contrasts of the arms' means over shared seeds, with the
seeds' variance pooled over all arms. Shares of the help are given only where that help is told from 0.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from curricle.analysis.finding import ACCURACY, BITS_PER_BYTE, THESE_PROBLEMS, Finding, Interval, Part, join
from curricle.analysis.rows.columns import known, one_of, typed
from curricle.analysis.rows.compare import UNITS
from curricle.analysis.statistics.intervals import holm, student
from curricle.analysis.statistics.spread import reach, two_way
from curricle.study import Refused, nearest

Row = Mapping[str, Any]
PROPERTIES = ("meaning", "binding", "nesting", "order")  # that are taken away one at a time
REMAINDERS = ("syntax", "code")  # so much is taken that what is left is compared with the filler
LEFT = {"syntax": "token counts alone", "code": "comments alone"}
NEEDED = ("strategy", "seed", "benchmark", "measure", "score")


class Table(NamedTuple):
    """Scores of every arm in every seed, the larger the better: S seeds, A arms."""

    y_SA: np.ndarray
    arms: tuple[str, ...]
    seeds: tuple[Any, ...]
    note: str

    @property
    def variance(self) -> float | None:
        """Of one score around what its arm and its seed say, pooled over arms; None for one seed."""
        return two_way(self.y_SA)[0] if len(self.seeds) > 1 else None

    @property
    def df(self) -> int:
        s, a = self.y_SA.shape
        return (s - 1) * (a - 1)


def why_code(
    rows: Iterable[Row],
    *,
    whole: str,
    filler: str,
    taken: Mapping[str, str],
    control: str | None = None,
    benchmark: str | None = None,
    measure: str | None = None,
    level: float = 0.95,
) -> list[Finding]:
    """What each property of code gives, from the strategies that lack it.

    `whole` and `filler` name the strategies with the code and with the filler in its place; `taken` says which strategy
    lacks which property (`{"meaning": "no meaning first", …}`; keys as in `take`), `control` the one with procedural
    text. Rows are outcomes; those that are not `final` are passed over. The first finding is what code gives over the
    filler, with the whole account in its table; then one for each property, corrected among themselves by Holm.
    `binding` is read against `meaning`, where that was run. Raises `Refused` for missing columns, an unknown strategy
    or property, several benchmarks, and seeds that no two arms share.
    """
    for name in taken:
        if name not in (*PROPERTIES, *REMAINDERS):
            raise Refused(f"taken.{name}: unknown property; {nearest(name, (*PROPERTIES, *REMAINDERS))}")
    arms = {"whole": whole, "filler": filler, **taken, **({"control": control} if control else {})}
    found, on, by = _chosen(typed(rows), arms, benchmark, measure)
    table = _table(found, arms, larger_is_better=by == ACCURACY)
    unit = UNITS.get(by, by)
    contrasts = _contrasts(table)
    lines = [_line(table, name, kind, c_A, level) for name, kind, c_A in contrasts]
    help_, properties = lines[0], [line for line in lines if line["kind"] == "taken away"]
    told = bool(help_["low"] is not None and (help_["low"] > 0 or help_["high"] < 0)) and help_["pooled"]
    for line, (_, _, c_A) in zip(lines, contrasts):
        share = _share(table, c_A, contrasts[0][2], level) if told and line["pooled"] else (None, None, None)
        line |= dict(zip(("share", "share_low", "share_high"), share))
    for line, p in zip(properties, holm([line["p"] for line in properties])):
        line["p"] = p
    noisy = [line["what"] for line in lines if not line["pooled"]]
    apart = f"More noise than in the other arms, so on its own variance: {', '.join(noisy)}." if noisy else ""
    why_not = "" if told else "Code is not told from the filler, so there is nothing to take shares of."
    fewer = {ACCURACY: "", BITS_PER_BYTE: "Positive where fewer bits are needed."}.get(
        by, "Positive where less is lost."
    )
    note = join([table.note, why_not, apart, fewer])
    variance = table.variance  # of the smallest difference of two arms that is seen in 8 of 10 studies:
    seen = None if variance is None else reach(table.df, level) * math.sqrt(2 * variance / len(table.seeds))
    made = []
    for line in [help_, *properties]:
        first = line is help_
        subject = f"{whole} over {filler}" if first else f"{line['what']}, lost with {taken[line['property']]}"
        parts: dict[str, Part] = {k: line[k] for k in ("share", "share_low", "share_high")} if not first else {}
        parts |= {"detectable": seen, "seed_sd": None if variance is None else math.sqrt(variance)}
        test = f"t, variance {'pooled over arms' if line['pooled'] else 'of this contrast'}" + (
            "" if first else f", Holm over {len(properties)}"
        )
        interval = Interval(line["low"], line["high"], THESE_PROBLEMS, level)
        finding = Finding(
            "why-code",
            subject,
            by,
            on,
            line["effect"],
            unit,
            () if line["low"] is None else (interval,),
            line["p"],
            test if line["p"] is not None else "",
            n=_items(found),
            seeds=len(table.seeds),
            runs=tuple(sorted({row["run"] for row in found if row.get("run")})),
            note=note,
            parts=parts,
            table=tuple(lines) if first else (),
        )
        made.append(finding)
    return made


def _chosen(
    rows: Sequence[Row], arms: Mapping[str, str], benchmark: str | None, measure: str | None
) -> tuple[list[Row], str, str]:
    """The rows of these arms at their ends, on one benchmark in one measure."""
    known(rows, *NEEDED)
    for arm, strategy in arms.items():
        one_of(arm, strategy, (row["strategy"] for row in rows))
    kept = [row for row in rows if row["strategy"] in set(arms.values()) and row.get("final", True)]
    benchmark = one_of("benchmark", benchmark, (row["benchmark"] for row in kept))
    kept = [row for row in kept if row["benchmark"] == benchmark]
    measure = one_of("measure", measure, (row["measure"] for row in kept))
    return [row for row in kept if row["measure"] == measure], benchmark, measure


def _table(rows: Sequence[Row], arms: Mapping[str, str], larger_is_better: bool) -> Table:
    scores: dict[tuple[str, Any], float] = {}
    for row in rows:
        place, score = (row["strategy"], row["seed"]), float(row["score"])
        if place in scores:
            raise Refused(f"rows: {place[0]!r}, seed {place[1]}, has two final scores; keep one study")
        if not math.isfinite(score):
            raise Refused(f"score: {row['score']} of {place[0]!r}, seed {place[1]}, is no number")
        scores[place] = score if larger_is_better else -score
    of_arm = {arm: {seed for name, seed in scores if name == strategy} for arm, strategy in arms.items()}
    everywhere, anywhere = set.intersection(*of_arm.values()), set.union(*of_arm.values())
    if not everywhere:
        raise Refused(
            f"seed: no seed was run in all arms ({', '.join(f'{a}: {sorted(s)}' for a, s in of_arm.items())})"
        )
    seeds = tuple(sorted(everywhere))
    left_out = ", ".join(map(str, sorted(anywhere - everywhere)))
    note = f"Left out, since an arm lacks them: seeds {left_out}." if left_out else ""
    if len(seeds) < 2:
        note = join([note, "One seed: nothing can be said about another run, so there is no interval."])
    y_SA = np.array([[scores[strategy, seed] for strategy in arms.values()] for seed in seeds])
    return Table(y_SA, tuple(arms), seeds, note)


def _contrast(table: Table, weights: Mapping[str, float]) -> np.ndarray:
    return np.array([float(weights.get(arm, 0.0)) for arm in table.arms])


def _contrasts(table: Table) -> list[tuple[str, str, np.ndarray]]:
    """What is told, its kind, and the weights of the arms in it."""
    helps = _contrast(table, {"whole": 1, "filler": -1})
    found = [("code", "all", helps)]
    for name in PROPERTIES:
        if name in table.arms:
            against = "meaning" if name == "binding" and "meaning" in table.arms else "whole"
            found.append((name, "taken away", _contrast(table, {against: 1, name: -1})))
    if len(found) > 1:
        found.append(("the rest", "rest", helps - sum(c_A for _, _, c_A in found[1:])))
    alone = [*((name, LEFT[name]) for name in REMAINDERS), ("control", "procedural text")]
    return found + [(said, "alone", _contrast(table, {n: 1, "filler": -1})) for n, said in alone if n in table.arms]


def _line(table: Table, name: str, kind: str, c_A: np.ndarray, level: float) -> dict[str, Any]:
    """A contrast with its interval. Where its own seeds vary more than the pooled variance lets expect (F test at .1),
    it stands on its own: a wider interval, and no share."""
    effect = float(table.y_SA.mean(0) @ c_A)
    line: dict[str, Any] = {"what": name, "kind": kind, "effect": effect, "low": None, "high": None, "p": None}
    line["pooled"] = True
    if kind == "taken away":
        line["property"] = name
    if table.variance:
        from scipy.special import fdtri, stdtr

        seeds = len(table.seeds)
        error, df = math.sqrt(table.variance * float(c_A @ c_A) / seeds), table.df
        own = float((table.y_SA @ c_A).std(ddof=1)) / math.sqrt(seeds)
        if own**2 > error**2 * fdtri(seeds - 1, table.df, 0.9):
            line["pooled"], error, df = False, own, seeds - 1
        half = float(student(df, level)) * error
        line |= {"low": effect - half, "high": effect + half, "p": float(2 * stdtr(df, -abs(effect) / error))}
    return line


def _share(
    table: Table, c_A: np.ndarray, helps_A: np.ndarray, level: float
) -> tuple[float, float | None, float | None]:
    """The contrast as a share of what code gives, with Fieller's limits: all ρ at which e − ρ·h is not told from 0.
    The help is told from 0 here, so that the limits are finite."""
    mean_A, scale = table.y_SA.mean(0), float(student(table.df, level)) ** 2 * (table.variance or 0) / len(table.seeds)
    e, h = float(mean_A @ c_A), float(mean_A @ helps_A)
    a = h * h - scale * float(helps_A @ helps_A)
    b = e * h - scale * float(c_A @ helps_A)
    c = e * e - scale * float(c_A @ c_A)
    root = math.sqrt(max(b * b - a * c, 0.0))
    return e / h, (b - root) / a, (b + root) / a


def _items(rows: Sequence[Row]) -> int:
    return int(min((row["items"] for row in rows if row.get("items")), default=0))
