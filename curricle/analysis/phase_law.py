"""A law of learning and forgetting over phases, fitted on all curves, and its rule for the best order
(docs/theory.md, section 10).

    du/dD = Σ_j p_j (k_j − φ_j u),  L = E + A·u^−b,  u = 1 at the beginning

u is the effective tokens behind one target's loss, p the mixture, k_j what a token of source j teaches, φ_j what it
makes forget. Over a stretch with x_j tokens of each source, a = Σ φ_j x_j and g = Σ k_j x_j,

    u ← u·e^−a + g·(1 − e^−a)/a,

so a stage cut in two is the same stage. For one target the best order sorts the stages by k/φ, ascending. Promises:
the fit's gradient is exact; its intervals take each run as one observation; an order's prediction is made without
having seen that order; where the runs cannot tell, the finding is undefined and says why.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import permutations
from typing import NamedTuple

import numpy as np

from curricle.analysis.arms import Row, Table, ends, items_of, noise, runs_of, scored, tabled, weights_of
from curricle.analysis.finding import BITS, BITS_PER_BYTE, THESE_PROBLEMS, Finding, Interval, Part, join
from curricle.analysis.intervals import student
from curricle.analysis.phases import ARROW, Design, Phase, cumulative, design
from curricle.study import Refused

Path = Sequence[Sequence[float]] | np.ndarray  # stretches × sources, in tokens
MOST_ORDERS = 7  # phases whose orders are enumerated: 5040


# ---- the law ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class PhaseLaw:
    """The law of one target, per token. `covariance` belongs to (E, ln A, ln b, ln k…, φ·scale…), `df` to its t."""

    target: str
    sources: tuple[str, ...]
    floor: float
    amplitude: float
    exponent: float
    teaches: tuple[float, ...]  # k_j, in states u at the beginning, per token
    forgets: tuple[float, ...]  # φ_j per token
    scale: float = 1.0  # tokens; what the fit took as 1
    covariance: np.ndarray | None = None
    df: float = math.inf
    rms: float | None = None  # of the residuals of means

    @property
    def vector(self) -> np.ndarray:
        k, phi = np.array(self.teaches) * self.scale, np.array(self.forgets) * self.scale
        with np.errstate(divide="ignore"):
            logs = np.maximum(np.log(k), LEAST)
        return np.array([self.floor, math.log(self.amplitude), math.log(self.exponent), *logs, *phi])

    def state(self, path: Path, u: float = 1.0) -> float:
        """u after stretches of so many tokens of each source."""
        for x in path:
            a, g = float(np.dot(self.forgets, x)), float(np.dot(self.teaches, x))
            u = u * math.exp(-a) + g * _h(a)
        return u

    def loss(self, path: Path) -> float:
        return self.floor + self.amplitude * self.state(path) ** -self.exponent

    def index(self, doses: Sequence[float]) -> float | None:
        """k/φ of a stage with this mixture: the state that it would lead to in the end. None where it forgets nothing:
        then it leads on without end, and goes last."""
        a, g = float(np.dot(self.forgets, doses)), float(np.dot(self.teaches, doses))
        return g / a if a > 0 else None

    def predicted(self, path: Path, minus: Path | None = None) -> tuple[float, float]:
        """The loss after a path (less that after another), and its standard error by the delta method."""
        value, gradient = _at(self.vector, np.array(path) / self.scale, len(self.sources))
        if minus is not None:
            other, slope = _at(self.vector, np.array(minus) / self.scale, len(self.sources))
            value, gradient = value - other, gradient - slope
        variance = float(gradient @ self.covariance @ gradient) if self.covariance is not None else 0.0
        return value, math.sqrt(max(variance, 0.0))


LEAST = -18.0  # ln k: a source that teaches nothing


def _h(a: float) -> float:
    return -math.expm1(-a) / a if a > 1e-12 else 1.0 - a / 2


def _at(theta: np.ndarray, path_TJ: np.ndarray, j: int) -> tuple[float, np.ndarray]:
    loss, gradient = _curves(theta, path_TJ[None], j)
    return float(loss[0, -1]), gradient[0, -1]


def _curves(theta: np.ndarray, x_PTJ: np.ndarray, j: int) -> tuple[np.ndarray, np.ndarray]:
    """Losses of P paths at the beginning and after each of T stretches, (P, T+1), and their gradient in θ."""
    p, t, _ = x_PTJ.shape
    floor, amplitude, b = theta[0], math.exp(theta[1]), math.exp(theta[2])
    k, phi = np.exp(theta[3 : 3 + j]), theta[3 + j :]
    a_PT, g_PT = x_PTJ @ phi, x_PTJ @ k
    small = np.abs(a_PT) < 1e-6
    safe = np.where(small, 1.0, a_PT)
    keep_PT = np.exp(-a_PT)
    h_PT = np.where(small, 1 - a_PT / 2, -np.expm1(-a_PT) / safe)
    slope_PT = np.where(small, -0.5 + a_PT / 3, (keep_PT - h_PT) / safe)  # dh/da
    u, du = np.ones(p), np.zeros((p, 2 * j))
    us, dus = [u], [du]
    for i in range(t):
        x, keep = x_PTJ[:, i], keep_PT[:, i]
        by_k = x * k * h_PT[:, i, None]
        by_phi = x * (g_PT[:, i] * slope_PT[:, i] - u * keep)[:, None]
        du = keep[:, None] * du + np.concatenate([by_k, by_phi], axis=1)
        u = u * keep + g_PT[:, i] * h_PT[:, i]
        us.append(u)
        dus.append(du)
    u_PT, du_PTK = np.stack(us, axis=1), np.stack(dus, axis=1)
    log_u = np.log(np.maximum(u_PT, 1e-300))
    above = amplitude * np.exp(-b * log_u)
    gradient = np.empty((*above.shape, 3 + 2 * j))
    gradient[..., 0], gradient[..., 1], gradient[..., 2] = 1.0, above, -above * b * log_u
    gradient[..., 3:] = (-b * above / np.maximum(u_PT, 1e-300))[..., None] * du_PTK
    return floor + above, gradient


# ---- fitting ------------------------------------------------------------------------------------------------------


class Curves(NamedTuple):
    """Observations of one target: on which path, after how many stretches, of which run, how much."""

    sources: tuple[str, ...]
    strategies: list[str]
    x_PTJ: np.ndarray  # tokens of each source in each stretch, 0 after a path's end
    last: list[int]  # stretches of each path
    path: np.ndarray
    stretch: np.ndarray
    run: np.ndarray
    loss: np.ndarray

    def without(self, strategy: str) -> Curves:
        keep = self.path != self.strategies.index(strategy)
        return self._replace(path=self.path[keep], stretch=self.stretch[keep], run=self.run[keep], loss=self.loss[keep])


def curves_of(rows: Sequence[Row], from_tokens: float = 1.0) -> Curves:
    """Rows of one target as curves. What strategies share (a run up to where they part) is one observation."""
    sources, points = cumulative(rows)
    strategies = list(points)
    places = {s: {at: i for i, at in enumerate(sorted(points[s]))} for s in strategies}
    longest = max(len(p) for p in places.values()) - 1
    x = np.zeros((len(strategies), longest, len(sources)))
    for i, s in enumerate(strategies):
        read = np.stack([points[s][at][2] for at in sorted(points[s])])
        x[i, : len(read) - 1] = np.diff(read, axis=0)
    if (x < -1e-9).any():
        raise Refused("rows: tokens of a source fall along a strategy; doses count what was read until then")
    seen: set[object] = set()
    runs: dict[tuple[str, int], int] = {}
    kept: list[tuple[int, int, int, float]] = []
    for row in rows:
        s, seed, at = str(row["strategy"]), row["seed"], float(row["tokens"])
        i, t = strategies.index(s), places[s][at]
        history = np.round(x[i, :t], 6).tobytes()
        same = (seed, row.get("run") or history, row["stage_tokens"], float(row["score"]))
        if at < from_tokens or same in seen:
            continue
        seen.add(same)
        kept.append((i, t, runs.setdefault((s, seed), len(runs)), float(row["score"])))
    path, stretch, run, loss = (np.array(column) for column in zip(*kept)) if kept else [np.array([])] * 4
    last = [len(places[s]) - 1 for s in strategies]
    return Curves(sources, strategies, x, last, path.astype(int), stretch.astype(int), run.astype(int), loss)


def fit(curves: Curves, target: str, start: np.ndarray | None = None) -> PhaseLaw:
    """Least squares from several starts, with exact gradients; bounds E ≥ 0, φ ≥ 0. The covariance takes a run's
    residuals together (a sandwich with runs as clusters), t with runs − parameters degrees of freedom.

    Raises `Refused` with fewer observed means than parameters, and where a source was never read."""
    from scipy.optimize import least_squares

    j = len(curves.sources)
    size = 3 + 2 * j
    cells, of_cell = np.unique(np.stack([curves.path, curves.stretch]), axis=1, return_inverse=True)
    if cells.shape[1] <= size:
        raise Refused(
            f"phases: {cells.shape[1]} observed points for {size} parameters ({j} sources); evaluate more often"
        )
    scale = float(curves.x_PTJ.sum(axis=(1, 2)).max())
    x = curves.x_PTJ / scale
    read = curves.x_PTJ[np.unique(curves.path)].sum(axis=(0, 1))
    if (read <= 0).any():
        raise Refused(f"phases: nothing was read of {curves.sources[int(read.argmin())]!r} in the runs to fit")
    counts = np.bincount(of_cell)
    means = np.bincount(of_cell, curves.loss) / counts
    weight = np.sqrt(counts)
    used, at = np.unique(cells[0], return_inverse=True)
    x_used = x[used]

    def residuals(theta: np.ndarray) -> np.ndarray:
        return weight * (_curves(theta, x_used, j)[0][at, cells[1]] - means)

    def jacobian(theta: np.ndarray) -> np.ndarray:
        return weight[:, None] * _curves(theta, x_used, j)[1][at, cells[1]]

    least, most = float(means.min()), float(means.max())
    low = np.array([0.0, -12.0, math.log(0.02), *[LEAST] * j, *[0.0] * j])
    high = np.array([max(least - 1e-6, 1e-6), 12.0, math.log(20.0), *[25.0] * j, *[60.0] * j])
    if start is not None:
        starts = [start]
    else:
        starts = [
            np.array([share * least, math.log(max(most - share * least, 1e-3)), math.log(b), *[k] * j, *[phi] * j])
            for share, b, k, phi in ((0.5, 0.5, 1.0, 0.5), (0.9, 1.0, 1.0, 1.0), (0.0, 0.3, 2.0, 0.2),
                                     (0.95, 1.0, 0.0, 2.0), (0.8, 2.0, 0.0, 0.1), (0.7, 0.2, 3.0, 0.5))
        ]  # fmt: skip
    best = min(
        (
            least_squares(residuals, np.clip(s, low + 1e-9, high - 1e-9), jacobian, bounds=(low, high), max_nfev=400,
                          x_scale=np.array([0.1, 1.0, 0.5, *[1.0] * (2 * j)]))
            for s in starts
        ),
        key=lambda found: found.cost,
    )  # fmt: skip
    theta = best.x
    covariance, df = _sandwich(theta, x, j, curves, theta[3 + j :] <= 1e-7)
    return PhaseLaw(
        target, curves.sources, float(theta[0]), math.exp(theta[1]), math.exp(theta[2]),
        tuple((np.exp(theta[3 : 3 + j]) / scale).tolist()), tuple((theta[3 + j :] / scale).tolist()), scale, covariance,
        df, float(math.sqrt(2 * best.cost / counts.sum())),
    )  # fmt: skip


def _sandwich(theta: np.ndarray, x: np.ndarray, j: int, curves: Curves, bound: np.ndarray) -> tuple[np.ndarray, float]:
    """(JᵀJ)⁻¹ (Σ over runs of (Jᵀr)(Jᵀr)ᵀ) (JᵀJ)⁻¹ × c/(c − p); a φ at its bound of 0 is held there."""
    value, gradient = _curves(theta, x, j)
    residual = curves.loss - value[curves.path, curves.stretch]
    free = np.concatenate([np.ones(3 + j, dtype=bool), ~bound])
    jac = gradient[curves.path, curves.stretch][:, free]
    sizes = np.maximum(np.sqrt((jac**2).sum(axis=0)), 1e-12)
    jac = jac / sizes
    inverse = np.linalg.pinv(jac.T @ jac, rcond=1e-11)
    runs = np.unique(curves.run)
    scores = np.stack([jac[curves.run == c].T @ residual[curves.run == c] for c in runs])
    df = max(len(runs) - int(free.sum()), 1)
    small = inverse @ (scores.T @ scores) @ inverse * len(runs) / df / np.outer(sizes, sizes)
    covariance = np.zeros((len(theta), len(theta)))
    covariance[np.ix_(free, free)] = small
    return covariance, float(df)


# ---- findings -----------------------------------------------------------------------------------------------------


def phase_law(
    rows: Iterable[Row], target: str, *, measure: str = BITS_PER_BYTE, from_tokens: float = 1.0, level: float = 0.95
) -> Finding:
    """The law fitted on all curves of `target`, and its test: each order that was run is predicted from fits that have
    not seen it, and set beside what was measured.

    The estimate is the effect of the order that the index rule puts first against the one it puts last (of those run),
    each predicted without itself; `measured` beside it in `parts`. Points before `from_tokens` are not fitted (by
    default the model as it came, since random weights follow no such law; 0 includes them). Undefined without two
    orders of the same phases, or where the prediction is wider than all that was measured.
    """
    here = scored(rows, target, measure, ("stage",))
    made, at_end = design(here), ends(here)
    about = ("phase-law", f"best order for {target}", measure, target)
    common = {"n": items_of(at_end), "runs": runs_of(at_end)}
    groups = made.orders()
    if not groups:
        why = "no two strategies have the same phases in different orders, so no order can be left out and predicted"
        return Finding(*about, None, BITS, undefined=why, **common)  # type: ignore[arg-type]
    curves = curves_of(here, from_tokens)
    law = fit(curves, target)
    table = tabled([{key: float(row["score"]) for key, row in at_end.items()}])
    found = noise(table)
    own = (float(found.covariance[0, 0]), found.df) if found else (0.0, 1.0)
    group = max(groups, key=len)
    whole = {s: curves.x_PTJ[i, : curves.last[i]] for i, s in enumerate(curves.strategies)}
    ranked = sorted(group, key=lambda s: law.loss(whole[s]))
    left = {s: fit(curves.without(s), target, law.vector) for members in groups for s in members}
    lines: list[dict[str, Part]] = []
    for members in groups:
        for rank, s in enumerate(sorted(members, key=lambda s: law.loss(whole[s])), 1):
            count = int(table.counts[table.strategies.index(s)])
            lines.append(_line(made, law, left[s], s, whole[s], rank, table, own[0] / count, own[1], level))
    best, worst = ranked[0], ranked[-1]
    (p_best, e_best), (p_worst, e_worst) = (left[s].predicted(whole[s]) for s in (best, worst))
    estimate, error = p_best - p_worst, math.hypot(e_best, e_worst)
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
    width = float(table.means[:, 0].max() - table.means[:, 0].min())
    if found is None:
        why, half = "no two seeds of one strategy, so a left-out order's prediction cannot be judged", 0.0
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


def best_order(
    laws: Sequence[PhaseLaw], phases: Mapping[str, Mapping[str, float]], weights: Mapping[str, float] | None = None
) -> Finding:
    """Every order of `phases` (name → tokens by source) under one law for each target: `table` has each order, and the
    same tokens mixed, with each target's loss and their weighted mean; the estimate is the best order's advantage over
    the worst. With one target the best is that of the index rule; with several there is no index, so all are tried.
    Raises `Refused` past seven phases."""
    if not laws or not 2 <= len(phases) <= MOST_ORDERS:
        raise Refused(f"phases: {len(phases)} phases and {len(laws)} targets; give 2 to {MOST_ORDERS}, and 1 or more")
    sources = laws[0].sources
    if any(law.sources != sources for law in laws):
        raise Refused("laws: they are of different sources; fit them on the same runs")
    unknown = {s for doses in phases.values() for s in doses} - set(sources)
    if unknown:
        raise Refused(f"phases: {sorted(unknown)[0]!r} is no source of the laws; they have {', '.join(sources)}")
    w = weights_of(weights or [law.target for law in laws])
    x = {name: [float(doses.get(s, 0.0)) for s in sources] for name, doses in phases.items()}
    paths = {ARROW.join(order): [x[name] for name in order] for order in permutations(phases)}
    paths[" + ".join(phases)] = [list(np.sum(list(x.values()), axis=0))]
    lines: list[dict[str, Part]] = []
    for name, path in paths.items():
        losses = {law.target: law.loss(path) for law in laws}
        mean = sum(w.get(target, 0.0) * loss for target, loss in losses.items())
        lines.append({"order": name, "mixed": len(path) == 1, "weighted": mean, **losses})
    lines.sort(key=lambda line: float(line["weighted"] or 0.0))
    orders = [line for line in lines if not line["mixed"]]
    gap = float(orders[0]["weighted"] or 0.0) - float(orders[-1]["weighted"] or 0.0)
    targets = ", ".join(law.target for law in laws)
    return Finding(
        "best-order", f"{orders[0]['order']} over {orders[-1]['order']}", BITS_PER_BYTE, targets, gap, BITS,
        note="Lower is better. From the fitted laws alone; no such order need have been run.",
        parts={"best": orders[0]["order"], "worst": orders[-1]["order"], "targets": len(laws)}, table=tuple(lines),
    )  # fmt: skip
