"""What a source is worth to a target: L(D, m) = ∫ r·c·f, from one row a document (docs/theory.md, 5).

A row says how relevant a document is (r), how much there is in it (c) and what a model makes of it (f); or `dot`, the
product that gradients give at once. `value` sums them to sources, `validate` compares that with what single-source
runs gained, and `surprise` puts two accounts of a source that disappoints to the test. The rows are measured by
`curricle value` (`curricle.evaluation.valuation`), or come from anywhere else.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import permutations
from typing import Any

import numpy as np

from curricle.analysis.finding import PERCENT, THESE_WEIGHTS, Finding, Interval, Part, join
from curricle.analysis.rows.columns import known, typed
from curricle.analysis.statistics.intervals import (
    FEWEST_RANKED,
    NEGLIGIBLE,
    Estimate,
    holm,
    over_seeds,
    rank_correlation,
    ranked,
    spearman_interval,
)
from curricle.study import Refused

Row = Mapping[str, Any]
OTHER_SOURCES = "other sources"  # sources vary: would the ranks agree on others?
RANKS = "rank correlation"
LACK = 0.05  # the p below which gains are said not to follow the decay that `surprise` fits


def value(
    rows: Iterable[Row], *, volume: Mapping[str, float] | None = None, half_tokens: float = 1e8, exponent: float = 0.5,
    level: float = 0.95,
) -> list[Finding]:  # fmt: skip
    """What a token of each source gives the target, the most valuable source first, whose finding carries the table.

    With gradients the estimate is in percent of what the same step on the target's own text would give (columns `dot`
    and `target_square`); with stand-ins (`r`, `c`, `f`), in percent of the mean source. Rows of one document at several
    checkpoints are added up: the path, to first order. The interval is over documents, for these weights. `volume`
    states each source's tokens, and adds what all of them are worth where gains saturate: `saturating`.
    """
    found = _documents(typed(rows, *MEASURED))
    lines = [_of_source(source, columns, level) for source, columns in found.items()]
    gradients = all(line["square"] is not None for line in lines)
    scale = _mean([line["square"] for line in lines]) if gradients else _mean([line["per_token"] for line in lines])
    if not scale > 0:
        raise Refused(f"{'target_square' if gradients else 'r, c, f'}: {scale:g} in the mean; nothing to measure by")
    lines.sort(key=lambda line: -line["per_token"])
    corrected = holm([line["p"] if gradients else None for line in lines])
    for line, p in zip(lines, corrected):
        line["p"] = p
        for name in ("value", "low", "high"):
            line[name] = None if line[name] is None else 100 * line[name] / scale
        tokens = (volume or {}).get(line["source"])
        if tokens is not None:
            line["volume_tokens"] = float(tokens)
            line["volume"] = saturating(line["per_token"], float(tokens), half_tokens, exponent)
    of = "a step on the target's own text" if gradients else "the mean source"
    table = tuple({key: line[key] for key in line if key not in ("square", "df")} for line in lines)
    return [
        Finding(
            "value", str(line["source"]), "value a token", "the target", line["value"], PERCENT,
            () if line["low"] is None else (Interval(line["low"], line["high"], THESE_WEIGHTS, level),),
            line["p"], f"t over documents, Holm over {len(lines)}" if line["p"] is not None else "",
            n=line["documents"], note=join([f"100 % is {of}.", _noted(line)]),
            parts={"of": of, **{key: line[key] for key in PARTS if line.get(key) is not None}},
            table=() if place else table,
        )
        for place, line in enumerate(lines)
    ]  # fmt: skip


MEASURED = ("r", "c", "f", "dot", "target_square")  # columns of documents, beside their tokens
PARTS = (
    "tokens",
    "per_token",
    "mean_r",
    "mean_c",
    "mean_rc",
    "product_of_means",
    "alignment",
    "volume_tokens",
    "volume",
)


def saturating(per_token: float, tokens: float, half_tokens: float, exponent: float) -> float:
    """V(D) = v·D₀·[(1 + D/D₀)^r − 1]/r: v·D while D is small beside D₀, then slower; r = 1 never saturates, r = 0 is
    the logarithm."""
    if not (half_tokens > 0 and tokens >= 0 and exponent <= 1):
        raise Refused(f"volume: needs D₀ > 0, D ≥ 0 and r ≤ 1; got {half_tokens:g}, {tokens:g} and {exponent:g}")
    grown = math.log1p(tokens / half_tokens)
    return per_token * half_tokens * (grown if exponent == 0 else math.expm1(exponent * grown) / exponent)


def _documents(rows: Sequence[Row]) -> dict[str, tuple[np.ndarray, ...]]:
    """For each source: tokens, value, r, c and the target's square of every document, checkpoints added up."""
    if not rows:
        raise Refused("rows: there are none")
    by_dot = all(row.get("dot") is not None for row in rows)
    needed = ("source", "document", "tokens", *(("dot",) if by_dot else ("r", "c", "f")))
    for column in needed:
        lacks = next((row for row in rows if row.get(column) is None), None)
        if lacks is not None:
            where = f"{lacks.get('source')}, {lacks.get('document')}"
            raise Refused(f"rows: {where}: no {column!r}; needed: {', '.join(needed)} (or dot in place of r, c, f)")
    summed: dict[tuple[str, str], list[Any]] = {}
    for row in rows:
        worth = float(row["dot"]) if by_dot else float(row["r"]) * float(row["c"]) * float(row["f"])
        known = [row.get(name) for name in ("r", "c", "target_square")]
        numbers = [float(row["tokens"]), worth, *(math.nan if x is None else float(x) for x in known)]
        if not all(math.isfinite(x) for x in numbers[:2]) or numbers[0] <= 0:
            raise Refused(f"rows: {row['source']}, {row['document']}: value {worth:g} on {numbers[0]:g} tokens")
        place = summed.setdefault((str(row["source"]), str(row["document"])), [0, np.zeros(5)])
        place[0] += 1
        place[1] += numbers
    found: dict[str, list[np.ndarray]] = {}
    for (source, _), (times, total) in summed.items():
        # Values and the target's square are added up along the path; tokens, r and c are its means.
        found.setdefault(source, []).append(total / np.array([times, 1, times, times, 1]))
    return {source: tuple(np.array(some).T) for source, some in found.items()}


def _of_source(source: str, columns: tuple[np.ndarray, ...], level: float) -> dict[str, Any]:
    """The ratio Σ tokens·value / Σ tokens, its variance by the jackknife over documents, and its factors."""
    tokens, worth, r, c, square = columns
    n, weight = len(tokens), tokens / tokens.sum()
    per_token = float(weight @ worth)
    line: dict[str, Any] = {
        "source": source,
        "documents": n,
        "tokens": float(tokens.sum()),
        "per_token": per_token,
        "value": per_token,
        "low": None,
        "high": None,
        "p": None,
        "square": None if np.isnan(square).any() else float(square.mean()),
    }
    if n > 1 and np.ptp(worth) > NEGLIGIBLE * np.abs(worth).max():
        # By leaving one out, since a few long documents may carry the sum; as many degrees of freedom as weights allow.
        without = (per_token - weight * worth) / (1 - weight)
        variance = (n - 1) / n * float(((without - without.mean()) ** 2).sum())
        free = float((weight**2).sum() ** 2 / (weight**4).sum()) - 1
        over = Estimate(per_token, variance, max(1.0, free), THESE_WEIGHTS)
        interval = over.interval(level)
        assert interval is not None
        line |= {"low": interval.low, "high": interval.high, "p": over.p_value}
    if not (np.isnan(r).any() or np.isnan(c).any()):
        mean_r, mean_c, mean_rc = float(weight @ r), float(weight @ c), float(weight @ (r * c))
        apart = mean_r * mean_c
        line |= {"mean_r": mean_r, "mean_c": mean_c, "mean_rc": mean_rc, "product_of_means": apart}
        line["alignment"] = mean_rc / apart if abs(apart) > 1e-3 * abs(float(weight @ np.abs(r))) * mean_c else None
    return line


def _noted(line: Mapping[str, Any]) -> str:
    few = "One document: nothing can be said about others." if line["documents"] < 2 else ""
    ratio = line.get("alignment")
    if ratio is None or 0.8 <= ratio <= 1.25:
        return few
    which = "more" if ratio > 1 else "less"
    said = f"E[rc] is {ratio:.2g} of E[r]·E[c]: documents with much in them are the {which} relevant ones."
    return join([few, said if ratio > 0 else "E[rc] and E[r]·E[c] differ in sign: the factors do not separate."])


# ---- validation ---------------------------------------------------------------------------------------------------


def validate(
    values: Mapping[str, float] | Sequence[Finding], gains: Iterable[Row], *, level: float = 0.95, method: str = "value"
) -> Finding:
    """Whether values order sources as measured gains of single-source runs do: Spearman's rank correlation.

    `gains` are rows with `source, gain` (positive is better) and, of several seeds, one row each. The interval is
    Bonett and Wright's (2000) with Student's quantile, since sources are few, and speaks about other sources. The
    p-value is exact, over all orders of the sources (up to eight; beyond, over 20,000 drawn ones). The parts say what
    choosing by value would cost: the gain of the best source less that of the one that value puts first, with limits
    over seeds where both have the same number, in their order (best is the one that came out best, so its lead is
    optimistic). Fewer than 3 common sources are refused; fewer than 5 have no interval.
    """
    if not isinstance(values, Mapping):
        values = {f.subject: f.estimate for f in values if f.question == "value" and f.estimate is not None}
    rows, measured = typed(gains, "gain"), dict[str, list[float]]()
    known(rows, "source", "gain", table="gains")
    for row in rows:
        measured.setdefault(str(row["source"]), []).append(float(row["gain"]))
    names = [name for name in values if name in measured]
    if len(names) < 3:
        raise Refused(f"gains: {len(names)} of the sources {', '.join(values)} were measured; a rank needs 3 or more")
    x, y = np.array([values[name] for name in names], float), np.array([_mean(measured[name]) for name in names])
    if not (np.isfinite(x).all() and np.isfinite(y).all()):
        raise Refused("gains: a value or a gain is no number")
    table: tuple[Row, ...] = tuple(
        {"source": name, "value": float(v), "gain": float(g), "seeds": len(measured[name])}
        for name, v, g in zip(names, x, y)
    )
    first, best = int(x.argmax()), int(y.argmax())
    parts: dict[str, Part] = {
        "first_by_value": names[first], "best": names[best], "regret": float(y[best] - y[first]), "sources": len(names),
    }  # fmt: skip
    limits = (
        over_seeds(np.array(measured[names[best]])[:, None] - np.array(measured[names[first]])[:, None]).interval(level)
        if first != best and len(measured[names[best]]) == len(measured[names[first]])
        else None
    )
    parts |= {"regret_low": limits.low, "regret_high": limits.high} if limits else {}
    a, b = ranked(x), ranked(y)
    rho, undefined, note = None, None, ""
    intervals: tuple[Interval, ...] = ()
    if not (a.std() and b.std()):
        undefined = f"all {'gains' if a.std() else 'values'} are equal"
    else:
        rho = rank_correlation(x, y)
        found = spearman_interval(rho, len(names), OTHER_SOURCES, level)
        intervals = (found,) if found else ()
        if not found:
            note = f"{len(names)} sources: too few for an interval (at least {FEWEST_RANKED})."
    return Finding(
        "value-validation",
        method,
        RANKS,
        "measured gains",
        rho,
        "",
        intervals,
        None if rho is None else _permuted(a, b, rho),
        "" if rho is None else "permutation of sources",
        n=len(names),
        seeds=min(len(measured[name]) for name in names),
        undefined=undefined,
        note=note,
        parts=parts,
        table=table,
    )


def _permuted(a: np.ndarray, b: np.ndarray, rho: float) -> float:
    """The share of orders of `b` that agree with `a`, or disagree, at least as strongly."""
    n = len(a)
    if n <= 8:
        orders = np.array(list(permutations(range(n))))
    else:
        random = np.random.default_rng(0)
        orders = np.vstack([np.arange(n), random.permuted(np.tile(np.arange(n), (20_000, 1)), axis=1)])
    under = ((b - b.mean())[orders] @ (a - a.mean())) / (n * a.std() * b.std())
    return float(np.mean(np.abs(under) >= abs(rho) - 1e-9))


# ---- a source that disappoints --------------------------------------------------------------------------------------


def surprise(rows: Iterable[Row], *, level: float = 0.95) -> Finding:
    """Mismatch or capacity: why does text with much in it (large c) give little?

    Rows: `size` (two of them, parameters), `seed`, `complexity` (c of a bin of documents), `relevance` (r), `gain`
    (what training on the bin gave the target) and, where c was measured anew in each seed, `bin`, its name. Under
    mismatch gain ∝ r·c at every size: r is what is small. Under capacity gain ∝ r·c·e^(−c/c*), with c* growing in size.
    Each seed and size is fitted by least squares in k = 1/c*; the estimate is k(small) − k(large), with a t interval
    over seeds. `verdict`: `capacity` where k(small) and that difference are above 0; `mismatch` where k(small) is not
    told from 0 and its upper limit leaves the richest bin at least half of its r·c; otherwise, where the gains do not
    follow that decay (`lack_of_fit_p` below .05) and where that cannot be tested, `cannot tell`.
    """
    given = typed(rows, "size", "complexity", "relevance", "gain")
    known(given, "size", "seed", "complexity", "relevance", "gain")
    sizes = sorted({float(row["size"]) for row in given})
    if len(sizes) != 2:
        raise Refused(f"size: {len(sizes)} of them; the test compares two model sizes")
    seeds = sorted({row["seed"] for row in given})
    k_ZS, points = np.zeros((2, len(seeds))), list[dict[str, Part]]()
    left: list[list[dict[Any, float]]] = [[], []]  # for each size and seed: what the decay leaves of a bin's gain
    for z, size in enumerate(sizes):
        for s, seed in enumerate(seeds):
            here = [row for row in given if float(row["size"]) == size and row["seed"] == seed]
            c, r, g = (np.array([float(row[name]) for row in here]) for name in ("complexity", "relevance", "gain"))
            if len(here) < 3 or len(set(c)) < 3:
                raise Refused(f"rows: size {size:g}, seed {seed}: {len(here)} bins; it takes 3 different complexities")
            k_ZS[z, s], scale = _decay(c, r * c, g)
            bins = [row.get("bin", row["complexity"]) for row in here]
            left[z].append(dict(zip(bins, g - scale * r * c * np.exp(-k_ZS[z, s] * c))))
            points += [
                {"size": size, "seed": str(seed), "complexity": float(a), "made": float(y / (b * a * scale))}
                for a, b, y in zip(c, r, g) if b * a * scale
            ]  # fmt: skip
    richest = max(float(row["complexity"]) for row in given)
    small, large, change = (over_seeds(k[:, None]) for k in (k_ZS[0], k_ZS[1], k_ZS[0] - k_ZS[1]))
    limits = [found.interval(level) for found in (small, large, change)]
    verdict, lack_p = "cannot tell", _lack(left)
    misfit = lack_p is not None and lack_p < LACK
    if limits[0] is not None and limits[2] is not None and lack_p is not None and not misfit:
        most = math.exp(-max(0.0, limits[0].high or 0.0) * richest)
        if (limits[0].low or 0) > 0 and (limits[2].low or 0) > 0:
            verdict = "capacity"
        elif limits[0].contains(0) and most >= 0.5:
            verdict = "mismatch"
    parts: dict[str, Part] = {"verdict": verdict, "small": sizes[0], "large": sizes[1], "lack_of_fit_p": lack_p}
    why = f"The gains do not follow r·c·e^(−c/c*) (lack of fit, p = {lack_p:.2g})." if misfit else ""
    why = why or ("" if lack_p is not None else "Whether the gains follow r·c·e^(−c/c*) could not be tested.")
    for name, found, limit in (("small", small, limits[0]), ("large", large, limits[1])):
        parts[f"k_{name}"] = found.value
        parts |= {f"k_{name}_low": limit.low, f"k_{name}_high": limit.high} if limit else {}
    return Finding(
        "value-surprise",
        f"{sizes[0]:g} against {sizes[1]:g} parameters",
        "decay with complexity",
        "the target",
        change.value,
        "1/complexity",
        () if limits[2] is None else (limits[2],),
        change.p_value,
        "t over seeds" if change.p_value is not None else "",
        n=len(given),
        seeds=len(seeds),
        note=join([change.note, why, f"Verdict: {verdict}."]),
        parts=parts,
        table=tuple(points),
    )


def _decay(c: np.ndarray, x: np.ndarray, gain: np.ndarray) -> tuple[float, float]:
    """k and A of gain = A·x·e^(−k·c) by least squares; A has a closed form for each k, and k is searched from both
    sides of 0, so that its error has no wall to lean on."""
    low, high = np.array([-6, 6]) / np.ptp(c)
    for _ in range(6):  # each time thirty times finer
        k_G = np.linspace(low, high, 61)
        e_GB = x * np.exp(-k_G[:, None] * (c - c.mean()))
        explained_G = (e_GB @ gain) ** 2 / (e_GB**2).sum(1)
        best = int(explained_G.argmax())
        low, high = k_G[max(0, best - 1)], k_G[min(len(k_G) - 1, best + 1)]
    k = float((low + high) / 2)
    e = x * np.exp(-k * c)
    return k, float(gain @ e / (e @ e))


def _lack(left: Sequence[Sequence[Mapping[Any, float]]]) -> float | None:
    """F test that what each seed's own fit leaves of its bins is noise: then it differs between seeds, and has no part
    that they share. Each fit takes two degrees of freedom from its bins. None for one seed, for bins that differ
    between seeds, and where nothing varies."""
    from scipy.special import fdtrc

    shared = own = df = 0.0
    seeds = len(left[0])
    for of_size in left:
        if seeds < 2 or any(here.keys() != of_size[0].keys() for here in of_size):
            return None
        e_SB = np.array([[here[c] for c in of_size[0]] for here in of_size])
        shared += seeds * float((e_SB.mean(0) ** 2).sum())
        own += float(((e_SB - e_SB.mean(0)) ** 2).sum())
        df += e_SB.shape[1] - 2
    return float(fdtrc(df, df * (seeds - 1), shared / (own / (seeds - 1)))) if own > 0 else None


def _mean(numbers: Sequence[float]) -> float:
    return float(sum(numbers) / len(numbers))
