"""A law of learning and forgetting over phases, and its fit to all curves (docs/theory.md, section 10).

    du/dD = Σ_j p_j (k_j − φ_j u),  L = E + A·u^−b,  u = 1 at the beginning

u is the effective tokens behind one target's loss, p the mixture, k_j what a token of source j teaches, φ_j what it
makes forget. Over a stretch with x_j tokens of each source, a = Σ φ_j x_j and g = Σ k_j x_j,

    u ← u·e^−a + g·(1 − e^−a)/a,

so a stage cut in two is the same stage. Promises: the fit's gradient is exact; its standard errors know that points of
one run, and runs of one seed, err together.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from curricle.analysis.phases import cumulative
from curricle.analysis.rows.arms import Row
from curricle.study import Refused

Path = Sequence[Sequence[float]] | np.ndarray  # stretches × sources, in tokens
LEAST = -18.0  # ln k: a source that teaches nothing


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


def _h(a: float) -> float:
    return -math.expm1(-a) / a if a > 1e-12 else 1.0 - a / 2


def _at(theta: np.ndarray, path_TJ: np.ndarray, j: int) -> tuple[float, np.ndarray]:
    loss, gradient = trajectories(theta, path_TJ[None], j)
    return float(loss[0, -1]), gradient[0, -1]


def trajectories(theta: np.ndarray, x_PTJ: np.ndarray, j: int) -> tuple[np.ndarray, np.ndarray]:
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
    """Observations of one target: on which path, after how many stretches, of which run, how much. A point that several
    strategies share stands once, with the first of them."""

    sources: tuple[str, ...]
    strategies: list[str]
    x_PTJ: np.ndarray  # tokens of each source in each stretch, 0 after a path's end
    last: list[int]  # stretches of each path
    path: np.ndarray
    stretch: np.ndarray
    run: np.ndarray
    seed: np.ndarray
    loss: np.ndarray
    stretch_NP: np.ndarray  # after how many stretches of each strategy's path; −1 where it is no point of that strategy

    def without(self, strategy: str, until: float) -> Curves:
        """What the other strategies have. Of what they share with this one, points in its first `until` tokens stay;
        later ones go, and with them what a strategy has that goes on from its end."""
        i = self.strategies.index(strategy)
        at, rest_NP = self.stretch_NP[:, i], self.stretch_NP.copy()
        tokens = np.append(0.0, self.x_PTJ[i].sum(axis=1).cumsum())
        rest_NP[:, i] = -1
        ends_P = rest_NP[at == self.last[i]].max(axis=0, initial=-1)  # where strategies go on from
        rest_NP[(rest_NP > ends_P) & (ends_P >= 0)] = -1
        keep = (rest_NP >= 0).any(axis=1) & ((at < 0) | (tokens[at] <= until * (1 + 1e-9)))
        return _observed(self, rest_NP[keep], self.seed[keep], self.loss[keep])


def _observed(curves: Curves, stretch_NP: np.ndarray, seed: np.ndarray, loss: np.ndarray) -> Curves:
    path = (stretch_NP >= 0).argmax(axis=1)
    stretch = stretch_NP[np.arange(len(path)), path]
    run = path * (int(seed.max(initial=0)) + 1) + seed
    return curves._replace(path=path, stretch=stretch, run=run, seed=seed, loss=loss, stretch_NP=stretch_NP)


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
    seeds: dict[object, int] = {}  # a seed is a name: any value that tells runs apart
    kept: dict[object, int] = {}
    of_seed: list[int] = []
    losses: list[float] = []
    places_of: list[tuple[int, int, int]] = []
    for row in rows:
        s, seed, at = str(row["strategy"]), row["seed"], float(row["tokens"])
        if at < from_tokens:
            continue
        i, t = strategies.index(s), places[s][at]
        history = np.round(x[i, :t], 6).tobytes()
        same = (seed, row.get("run") or history, row["stage_tokens"], float(row["score"]))
        if same not in kept:
            of_seed.append(seeds.setdefault(seed, len(seeds)))
            losses.append(float(row["score"]))
        places_of.append((kept.setdefault(same, len(kept)), i, t))
    stretch_NP = np.full((len(kept), len(strategies)), -1)
    for n, i, t in places_of:
        stretch_NP[n, i] = t
    last = [len(places[s]) - 1 for s in strategies]
    nothing = np.array([], dtype=int)
    bare = Curves(sources, strategies, x, last, nothing, nothing, nothing, nothing, nothing, stretch_NP)
    return _observed(bare, stretch_NP, np.array(of_seed, dtype=int), np.array(losses))


def fit(curves: Curves, target: str, start: np.ndarray | None = None) -> PhaseLaw:
    """Least squares from several starts, with exact gradients; bounds E ≥ 0, φ ≥ 0. The covariance knows that
    points of a run, and runs of a seed, err together; t has the degrees of freedom of the spread between runs: runs −
    parameters, or those that seeds of one strategy leave whatever the law, if these are more.

    Raises `Refused` with fewer observed means than parameters, and where a source was never read."""
    from scipy.optimize import OptimizeResult, least_squares

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

    latest: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []  # residuals and their slopes come together

    def both(theta: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        if not latest or not np.array_equal(latest[0][0], theta):
            value, slope = trajectories(theta, x_used, j)
            latest[:] = [(theta.copy(), weight * (value[at, cells[1]] - means), weight[:, None] * slope[at, cells[1]])]
        return latest[0]

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
    step = np.array([0.1, 1.0, 0.5, *[1.0] * (2 * j)])

    def search(begin: np.ndarray, most: int) -> OptimizeResult:
        begin = np.clip(begin, low + 1e-9, high - 1e-9)
        return least_squares(
            lambda theta: both(theta)[1], begin, lambda theta: both(theta)[2], bounds=(low, high), max_nfev=most,
            x_scale=step,
        )  # fmt: skip

    begun = sorted((search(s, 40) for s in starts), key=lambda found: found.cost)
    best = min((found if found.status > 0 else search(found.x, 400) for found in begun[:2]), key=lambda f: f.cost)
    theta = best.x
    covariance, df = _covariance(theta, x, j, curves, theta[3 + j :] <= 1e-7)
    return PhaseLaw(
        target, curves.sources, float(theta[0]), math.exp(theta[1]), math.exp(theta[2]),
        tuple((np.exp(theta[3 : 3 + j]) / scale).tolist()), tuple((theta[3 + j :] / scale).tolist()), scale, covariance,
        df, float(math.sqrt(2 * best.cost / counts.sum())),
    )  # fmt: skip


def _covariance(
    theta: np.ndarray, x: np.ndarray, j: int, curves: Curves, bound: np.ndarray
) -> tuple[np.ndarray, float]:
    """(JᵀJ)⁻¹ JᵀVJ (JᵀJ)⁻¹, V made of three parts that the residuals show: what all runs of a seed share, what the
    points of a run share, and the rest. E and φ at their bound of 0 are held there. Misfit counts as a run's noise."""
    value, gradient = trajectories(theta, x, j)
    residual = curves.loss - value[curves.path, curves.stretch]
    free = np.concatenate([[theta[0] > 1e-6], np.ones(2 + j, dtype=bool), ~bound])
    jac = gradient[curves.path, curves.stretch][:, free]
    sizes = np.maximum(np.sqrt((jac**2).sum(axis=0)), 1e-12)
    jac = jac / sizes
    runs, of_run = np.unique(curves.run, return_inverse=True)
    seeds, of_seed = np.unique(curves.seed, return_inverse=True)
    # The law says the same of every seed of a path, so it can take no more than the paths' means from the runs.
    taken = min(int(free.sum()), len(np.unique(curves.path)))
    df = max(len(runs) - taken, 1)
    n_run, n_seed = np.bincount(of_run), np.bincount(of_seed)
    by_run = np.bincount(of_run, residual) / n_run
    by_seed = np.bincount(of_seed, residual) / n_seed
    seed_of_run = of_seed[np.unique(of_run, return_index=True)[1]]
    lost = len(residual) / max(len(residual) - int(free.sum()), 1)
    rest = lost * float(((residual - by_run[of_run]) ** 2).sum()) / max(len(residual) - len(runs), 1)
    usual = float(n_run.mean())
    among_runs = float((n_run * (by_run - by_seed[seed_of_run]) ** 2).sum()) / max(len(runs) - len(seeds), 1)
    of_runs = max(among_runs * len(runs) / df - rest, 0.0) / usual
    among_seeds = float((n_seed * (by_seed - residual.mean()) ** 2).sum()) / max(len(seeds) - 1, 1)
    of_seeds = max(among_seeds - rest - usual * of_runs, 0.0) / float(n_seed.mean()) if len(seeds) > 1 else 0.0
    middle = rest * jac.T @ jac
    for groups, labels, part in ((len(runs), of_run, of_runs), (len(seeds), of_seed, of_seeds)):
        sums = np.stack([np.bincount(labels, jac[:, c], groups) for c in range(jac.shape[1])], axis=1)
        middle += part * sums.T @ sums
    inverse = np.linalg.pinv(jac.T @ jac, rcond=1e-12)
    covariance = np.zeros((len(theta), len(theta)))
    covariance[np.ix_(free, free)] = inverse @ middle @ inverse / np.outer(sizes, sizes)
    return covariance, float(max(len(runs) - int(free.sum()), df - len(seeds) + 1, 1))


def misfit(law: PhaseLaw, curves: Curves) -> float | None:
    """The p-value of an F test of the law: the distance of the seeds' means from it, against how far apart the seeds'
    own curves lie. None without a point that two seeds share, or with too few of them; points of one seed do not count.

    A fit takes what it can out of the means, so it is taken out of the seeds' deviations in the same way: both are
    compared in the directions that the law leaves. Points of a run err together, which costs degrees of freedom (Box's
    approximation, with what a run's points share and with neighbours' correlation)."""
    from scipy.special import fdtrc

    j = len(curves.sources)
    value, gradient = trajectories(law.vector, curves.x_PTJ / law.scale, j)
    places, of_place = np.unique(np.stack([curves.path, curves.stretch, curves.seed]), axis=1, return_inverse=True)
    loss = np.bincount(of_place, curves.loss) / np.bincount(of_place)  # a seed that was scored twice at a point is one
    cells, of_cell, counts = np.unique(places[:2], axis=1, return_inverse=True, return_counts=True)
    judged = counts > 1
    if not judged.any():
        return None
    weight, at = np.sqrt(counts), (cells[0], cells[1])
    free = np.concatenate([[law.floor > 1e-6], np.ones(2 + j, dtype=bool), law.vector[3 + j :] > 1e-7])
    jac = weight[:, None] * gradient[at][:, free]
    jac = jac / np.maximum(np.sqrt((jac**2).sum(axis=0)), 1e-12)
    # A point of one seed has no deviation to set against its distance. It is taken out of both, as a fit with a number
    # of its own for that point would.
    u, sizes, _ = np.linalg.svd(np.concatenate([jac, np.eye(len(counts))[:, ~judged]], axis=1), full_matrices=False)
    u = u[:, sizes > 1e-9 * sizes[0]]
    if u.shape[1] == len(counts):
        return None  # nothing is left to judge by
    left = (np.eye(len(counts)) - u @ u.T)[np.ix_(judged, judged)]
    means = np.bincount(of_cell, loss) / counts
    apart_SC = np.zeros((int(curves.seed.max()) + 1, len(counts)))
    apart_SC[places[2], of_cell] = (loss - means[of_cell]) / np.sqrt(np.maximum(counts - 1, 1))[of_cell]
    apart_SC = apart_SC[:, judged]
    off, noise = left @ (weight * (means - value[at]))[judged], apart_SC @ left.T
    if not (noise**2).sum() > 0:
        return None
    spread = left @ _spread(apart_SC, cells[0][judged]) @ left.T
    df = float(np.trace(spread) ** 2 / (spread**2).sum())
    return float(fdtrc(df, df * float((counts[judged] - 1).mean()), float((off**2).sum() / (noise**2).sum())))


def _spread(apart_SC: np.ndarray, path: np.ndarray) -> np.ndarray:
    """How points scatter and err together: a part that a run's points share, and a rest whose neighbours correlate."""
    same = path[:, None] == path[None]
    size = same.sum(axis=1)
    shared_SC = apart_SC @ same / size
    rest_SC = apart_SC - shared_SC
    rest = float((rest_SC**2).sum() / max(len(path) - len(np.unique(path)), 1))
    neighbours = np.flatnonzero(path[1:] == path[:-1])
    together = float((rest_SC[:, neighbours] * rest_SC[:, neighbours + 1]).sum())
    squares = float((rest_SC[:, neighbours] ** 2).sum())
    rho = min(max(together / squares if squares > 0 else 0.0, 0.0), 0.99)
    run = max(float((shared_SC**2).sum() / len(path)) - rest / float(size.mean()), 0.0)
    steps = np.abs(np.subtract.outer(np.arange(len(path)), np.arange(len(path))))
    return same * (rest * rho**steps + run)
