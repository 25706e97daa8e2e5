"""Target against general ability: the front over replay shares (docs/theory.md, section 9).

    front(rows, target="math", general=["web", "books"])

Rows are outcomes (`outcomes.py`), one strategy for each share of replay. Promises: what is dominated is dominated by a
measured point, never by an interpolated one; each point says how often it would be on the front under the seeds' noise.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from curricle.analysis.finding import (
    ACCURACY,
    BITS_PER_BYTE,
    THESE_PROBLEMS,
    THESE_WEIGHTS,
    Finding,
    Interval,
    Part,
    join,
)
from curricle.analysis.rows.arms import (
    Domains,
    Noise,
    Row,
    Table,
    checked,
    ends,
    items_noise,
    items_of,
    last_stage_shares,
    noise,
    runs_of,
    scored,
    tabled,
    weighted,
    weights_of,
)
from curricle.analysis.rows.columns import typed
from curricle.study import Refused

OF_BOX = "% of the box"  # between the best of each objective and the reference point


# ---- plain geometry: every objective is a cost, lower is better ---------------------------------------------------


def non_dominated(costs_NM: np.ndarray) -> np.ndarray:
    """Which points no other point beats: none is at most as costly in all objectives and less in one. Points may come
    in batches, (…, N, M)."""
    a, b = costs_NM[..., :, None, :], costs_NM[..., None, :, :]  # is a row beaten by a column?
    beaten = (b <= a).all(-1) & (b < a).any(-1)
    return np.asarray(~beaten.any(-1))


def hypervolume(costs_NM: np.ndarray, reference_M: np.ndarray) -> float:
    """The volume that the points dominate below the reference point, exactly, by slices along the last objective."""
    inside = costs_NM[(costs_NM < reference_M).all(axis=1)]
    if not len(inside):
        return 0.0
    if inside.shape[1] == 2:
        return float(areas(inside, reference_M))
    inside = inside[np.argsort(inside[:, -1], kind="stable")]
    depths = np.diff(np.append(inside[:, -1], reference_M[-1]))
    return float(sum(d * hypervolume(inside[: i + 1, :-1], reference_M[:-1]) for i, d in enumerate(depths) if d > 0))


def areas(costs_N2: np.ndarray, reference_2: np.ndarray) -> np.ndarray:
    """The hypervolume of two objectives, for a batch of fronts (…, N, 2): strips under the running best."""
    order = np.argsort(costs_N2[..., 0], axis=-1, kind="stable")
    x, y = (np.minimum(np.take_along_axis(costs_N2[..., m], order, -1), reference_2[m]) for m in (0, 1))
    widths = np.diff(x, axis=-1, append=np.broadcast_to(reference_2[0], (*x.shape[:-1], 1)))
    return np.asarray((widths * (reference_2[1] - np.minimum.accumulate(y, axis=-1))).sum(axis=-1))


def knee(costs_NM: np.ndarray) -> int | None:
    """The point of a two-objective front farthest below the chord between its ends, each axis scaled by the front's
    extent; None with fewer than three points on the front, or where none lies below the chord."""
    on = np.flatnonzero(non_dominated(costs_NM))
    on = on[np.argsort(costs_NM[on, 0], kind="stable")]
    extent = np.ptp(costs_NM[on], axis=0)
    if costs_NM.shape[1] != 2 or len(on) < 3 or not (extent > 0).all():
        return None
    scaled = (costs_NM[on] - costs_NM[on].min(axis=0)) / extent
    below = 1 - scaled.sum(axis=1)  # the chord runs from (0, 1) to (1, 0)
    best = int(below.argmax())
    return int(on[best]) if below[best] > 1e-12 else None


# ---- the front ----------------------------------------------------------------------------------------------------


def front(
    rows: Iterable[Row],
    target: str,
    general: Domains,
    *,
    share: str | None = None,
    cost: str | None = None,
    measure: str = BITS_PER_BYTE,
    reference: Sequence[float] | None = None,
    draws: int = 4000,
    level: float = 0.95,
) -> Finding:
    """The strategies' ends as points: the target's score against the general domains' weighted bits per byte (and
    `cost`, a column such as `flops`, as a third objective).

    `general` names the held-out domains, with weights or equally. `share` adds each point's share of a source in its
    last stage (a source's name, or a column). `measure` is the target's. The estimate is the hypervolume as a share of
    the box between the best of each objective and the `reference` point (by default the worst of each, moved out by a
    tenth of the range), at most the whole of it: that the true front may reach past the best that was measured is not
    counted. `table` has one row for each strategy, with `on_front` and `p_front`, the probability of being
    non-dominated when every mean is redrawn from the seeds' noise. Raises `Refused` for fewer than two strategies.
    """
    rows = typed(rows, *([cost] if cost else []))
    domains = weights_of(general)
    here = ends(scored(rows, target, measure))
    sign = -1.0 if measure == ACCURACY else 1.0
    cells: list[dict[tuple[str, int], float]] = [
        {key: sign * row["score"] for key, row in here.items()},
        weighted(rows, domains),
    ]
    if cost:
        checked(here.values(), (), (cost,))
        cells.append({key: float(row[cost]) for key, row in here.items()})
    table = tabled(cells)
    if len(table.strategies) < 2:
        raise Refused(f"{len(table.strategies)} strategy has both {target!r} and {', '.join(domains)}; two make one")
    means = table.means
    found, kind, why = _noise_or_items(
        table, rows, [target, *domains], [measure] + [BITS_PER_BYTE] * len(domains), domains
    )
    on = non_dominated(means)
    low, high = means.min(axis=0), means.max(axis=0)
    if reference is None:
        edge = high + 0.1 * np.where(high > low, high - low, 1.0)
    else:
        edge = np.asarray(reference, dtype=float) * np.array([sign, *[1.0] * (means.shape[1] - 1)])
        if edge.shape != low.shape or (edge <= low).any():
            raise Refused(
                f"reference: {list(reference)} must be worse than the best point in each of {len(low)} objectives"
            )
    box = float(np.prod(edge - low))
    volume, bend = 100 * hypervolume(means, edge) / box, knee(means)
    p_on: np.ndarray | None = None
    intervals: tuple[Interval, ...] = ()
    p_knee, bias = None, None
    if found is not None:
        drawn = means + _errors(found, table.counts, draws)
        p_on = non_dominated(drawn).mean(axis=0)
        several = areas(drawn, edge) if len(edge) == 2 else np.array([hypervolume(d, edge) for d in drawn[:1000]])
        volumes = 100 * several / box
        a, b = np.quantile(volumes, [(1 - level) / 2, (1 + level) / 2])
        bias = float(
            volumes.mean() - volume
        )  # noise pushes a front outwards; the interval is turned round to take it off
        intervals = (Interval(2 * volume - b, 2 * volume - a, kind, level).clipped(0.0, 100.0),)
        knees = [knee(d) for d in drawn[:500]]
        p_knee = float(np.mean([k == bend for k in knees])) if bend is not None else None
    shares = last_stage_shares(rows, share) if share else {}
    half = found.means_error(table, level) if found else None
    names = ["target", "general", *([cost] if cost else [])]
    tops = [100.0 if measure == ACCURACY else np.inf, *[np.inf] * (len(names) - 1)]
    made = []
    for i, strategy in enumerate(table.strategies):
        row: dict[str, Part] = {"strategy": strategy, "seeds": int(table.counts[i])}
        for m, name in enumerate(names):
            value = float((sign if m == 0 else 1.0) * means[i, m]) + 0.0  # no "-0"
            off = None if half is None else float(half[i, m])
            row |= {
                name: value,
                f"{name}_low": None if off is None else max(value - off, 0.0),
                f"{name}_high": None if off is None else min(value + off, tops[m]),
            }
        mine = [value for (name, _), value in shares.items() if name == strategy]
        row["share"] = float(np.mean(mine)) if mine else None
        row |= {"on_front": bool(on[i]), "p_front": None if p_on is None else float(p_on[i]), "knee": i == bend}
        made.append(row)
    parts: dict[str, Part] = {
        "target": target,
        "target_measure": measure,
        "general": ", ".join(domains),
        "knee": None if bend is None else table.strategies[bend],
        "p_knee": p_knee,
        "on_front": int(on.sum()),
        "optimism": bias,
        **{
            f"reference_{name}": float(v * (sign if m == 0 else 1.0)) + 0.0
            for m, (name, v) in enumerate(zip(names, edge))
        },
    }
    verb = "is" if on.sum() == 1 else "are"
    corner = ", ".join(f"{parts[f'reference_{name}']:.4g} ({name})" for name in names)
    corner += ", the reference given" if reference is not None else ", the worst moved out by a tenth of the range"
    note = join(
        [
            f"{int(on.sum())} of {len(on)} strategies {verb} on the front of {target} against {', '.join(domains)}"
            f"{f' and {cost}' if cost else ''}.",
            f"Knee: {parts['knee']}."
            if bend is not None
            else ("" if cost else "No knee: the front does not bend towards its ends' best."),
            f"The box lies between the best that was measured of each and {corner}.",
            why,
        ]
    )
    return Finding(
        "front", f"{target} against {', '.join(domains)}", measure, target, volume, OF_BOX, intervals,
        n=items_of(here), seeds=int(table.counts.min()), runs=runs_of(here), note=note, parts=parts, table=tuple(made),
    )  # fmt: skip


def _errors(found: Noise, counts: np.ndarray, draws: int) -> np.ndarray:
    """Draws × strategies × measures: errors of the means, multivariate t, wider for a strategy that scatters more than
    the others. What a seed shares with all strategies moves the front as a whole, so it matters to the volume and never
    to who dominates whom."""
    random = np.random.default_rng(0)
    shape = (draws, len(counts), len(found.own))
    errors = _normal(random, found.own, shape) * np.sqrt(found.own_df / random.chisquare(found.own_df, (draws, 1, 1)))
    errors *= found.stretch_AM / np.sqrt(counts)[:, None]
    if found.paired:
        df = max(float(counts.min()) - 1, 1.0)
        shift = _normal(random, found.covariance - found.own, (draws, 1, len(found.own)))
        errors += shift * np.sqrt(df / random.chisquare(df, (draws, 1, 1)) / counts.min())
    return errors


def _normal(random: np.random.Generator, covariance: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    values, vectors = np.linalg.eigh(covariance)
    return np.asarray(random.standard_normal(shape) @ (vectors * np.sqrt(values.clip(0))).T)


def _noise_or_items(
    table: Table, rows: Sequence[Row], benchmarks: Sequence[str], measures: Sequence[str], domains: Mapping[str, float]
) -> tuple[Noise | None, str, str]:
    """The noise to judge by, what kind of "again" it speaks about, and what must be said."""
    found = noise(table)
    if found is not None:
        said = "" if found.paired else "Strategies have different seeds, so what a seed shares is not taken out."
        if found.uneven:
            said = join([said, found.uneven.note("strategies")])
        return found, THESE_PROBLEMS, said
    if table.y_ASM.shape[1] > 1 or table.y_ASM.shape[2] > 2:
        return None, THESE_PROBLEMS, "No variation among seeds, so no probability of being on the front."
    known = [items_noise(ends(scored(rows, b, m)).values()) for b, m in zip(benchmarks, measures)]
    if any(v is None for v in known):
        return None, THESE_WEIGHTS, "One seed and no variance over items: nothing says how sure the front is."
    first, rest = known[0] or 0.0, sum(w**2 * (v or 0.0) for w, v in zip(domains.values(), known[1:]))
    matrix = np.diag([first, rest])
    many = 1e6  # items are many: a normal
    said = "One seed: the noise is that of the items alone, as if strategies were scored on different ones."
    return Noise(matrix, many, matrix, many, False), THESE_WEIGHTS, said
