"""Training losses as code lengths, and the floor that a falling curve points to.

A step's loss was taken before the model learnt from that batch, so on a first pass over the text the losses' sum is the
length of a code for it: the online code length. Promises: strategies are set side by side on the very batches that all
of them read, never past the first pass; a floor comes with its profile interval, which may well begin at 0.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from curricle.analysis.rows.arms import Row, checked
from curricle.study import Refused, nearest

BINS = 28  # along a stage, equally wide in the logarithm of its tokens


class Lengths(NamedTuple):
    """Batches of one stage for runs of several seeds, on the same tokens: `x_T` tokens read by each batch's end, `n_T`
    its tokens, `bits_ST` its code length."""

    seeds: tuple[int, ...]
    x_T: np.ndarray
    n_T: np.ndarray
    bits_ST: np.ndarray

    @property
    def tokens(self) -> float:
        return float(self.n_T.sum())

    @property
    def per_token(self) -> np.ndarray:
        return self.bits_ST / self.n_T


def code_lengths(
    steps: Iterable[Row], stage: str, strategies: Sequence[str], first_pass_tokens: float | None = None
) -> dict[str, Lengths]:
    """The stage's batches for each strategy, on the seeds and the batches that all have. Past the first pass (given, or
    the least `first_pass_tokens` of the rows) batches are left out, since a loss on text seen before is no code length.
    Raises `Refused` where a strategy has no such stage, or where batches differ in size."""
    rows = checked(steps, ("strategy", "seed", "stage"))
    for name in strategies:
        known = {str(r["strategy"]) for r in rows}
        if name not in known:
            raise Refused(f"strategy: {name!r} has no steps; {nearest(name, known)}")
    here = [r for r in rows if r["strategy"] in strategies and r["stage"] == stage]
    for name in strategies:
        if not any(r["strategy"] == name for r in here):
            raise Refused(
                f"stage: {name!r} has no steps of {stage!r}; {nearest(stage, {str(r['stage']) for r in rows})}"
            )
    checked(here, (), ("step", "tokens", "loss_nats"))
    limits = [float(r["first_pass_tokens"]) for r in here if r.get("first_pass_tokens") is not None]
    limit = first_pass_tokens if first_pass_tokens is not None else min(limits, default=math.inf)
    runs: dict[tuple[str, int], dict[float, tuple[float, float]]] = {}
    for key in {(str(r["strategy"]), r["seed"]) for r in here}:
        mine = sorted((r for r in here if (r["strategy"], r["seed"]) == key), key=lambda r: r["step"])
        ends = np.array([float(r["tokens"]) for r in mine])
        sizes = np.diff(ends, prepend=0.0)
        given = [r.get("batch_tokens") for r in mine]
        if all(g is not None for g in given):
            sizes = np.array([float(g) for g in given if g is not None])
        if (sizes <= 0).any():
            raise Refused(f"steps: {key[0]!r}, seed {key[1]}: tokens do not rise from step to step in {stage!r}")
        losses = [float(r["loss_nats"]) for r in mine]
        runs[key] = {x: (n, loss) for x, n, loss in zip(ends.tolist(), sizes.tolist(), losses) if x <= limit}
    seeds = tuple(sorted(set.intersection(*({s for a, s in runs if a == name} for name in strategies))))
    if not seeds:
        raise Refused(f"seeds: {' and '.join(map(repr, strategies))} have none in common; run both on the same seeds")
    common = sorted(set.intersection(*(set(runs[a, s]) for a in strategies for s in seeds)))
    if len(common) < 8:
        raise Refused(
            f"steps: {len(common)} batches of {stage!r} are common to all runs on the first pass; 8 are needed"
        )
    sizes_T = np.array([runs[strategies[0], seeds[0]][x][0] for x in common])
    made = {}
    for a in strategies:
        n_ST = np.array([[runs[a, s][x][0] for x in common] for s in seeds])
        if np.abs(n_ST - sizes_T).max() > 0:
            raise Refused(f"batch_tokens: {a!r} has other batches than {strategies[0]!r} in {stage!r}")
        nats_ST = np.array([[runs[a, s][x][1] for x in common] for s in seeds])
        made[a] = Lengths(seeds, np.array(common), sizes_T, nats_ST * n_ST / math.log(2))
    return made


# ---- the floor under a learner ------------------------------------------------------------------------------------


class Floor(NamedTuple):
    """L = E + A·(x + x₀)^−α by least squares, and E's profile interval (low may be 0: nothing is known of a floor)."""

    estimate: float
    low: float
    high: float
    amplitude: float
    alpha: float
    shift: float  # x₀, tokens

    def excess(self, tokens: float) -> float | None:
        """Σ over the first tokens of L − E, as the law has it; None where α ≥ 1, or no law was fitted."""
        if not self.amplitude or self.alpha >= 1:
            return None
        power = 1 - self.alpha
        return float(self.amplitude * ((tokens + self.shift) ** power - self.shift**power) / power)


def fit_floor(x: np.ndarray, y: np.ndarray, weight: np.ndarray | None = None, level: float = 0.95) -> Floor:
    """The floor of a falling curve. For each E, α and x₀ on a grid A is linear, so the profile of E is exact on it; the
    interval is every E whose best sum of squares an F test does not tell from the least. Raises `Refused` with fewer
    than 6 points."""
    from scipy.special import fdtri

    if len(x) < 6:
        raise Refused(f"{len(x)} points cannot show a floor; 6 are needed, over a decade of tokens or more")
    w = np.ones(len(x)) if weight is None else weight / weight.mean()
    alphas = np.geomspace(0.02, 3.0, 240)
    shifts = x[-1] * np.array([0.0, 0.005, 0.02, 0.06, 0.2])
    floors = np.linspace(0.0, float(y.min()), 301)[:-1]
    above_EX = y - floors[:, None]
    total_E = (above_EX**2 * w).sum(axis=1)
    basis_KX = np.concatenate([((x + shift) / x[-1]) ** -alphas[:, None] for shift in shifts])  # K: x₀ by α
    cross_EK = (above_EX * w) @ basis_KX.T
    size_K = (basis_KX**2 * w).sum(axis=1)
    squares_EK = np.where(cross_EK > 0, total_E[:, None] - cross_EK**2 / size_K, np.inf)
    profile = squares_EK.min(axis=1)
    e = int(profile.argmin())
    k = int(squares_EK[e].argmin())
    alpha, shift = float(alphas[k % len(alphas)]), float(shifts[k // len(alphas)])
    df = len(x) - 4
    limit = max(float(profile[e]), 1e-30) * (1 + float(fdtri(1, df, level)) / df)
    kept = floors[profile <= limit]
    amplitude = float(cross_EK[e, k] / size_K[k] * x[-1] ** alpha)
    step = float(floors[1])  # the grid's own: nothing is known more closely
    return Floor(
        float(floors[e]), max(0.0, float(kept.min()) - step), float(kept.max()) + step, amplitude, alpha, shift
    )


def binned(lengths: Lengths, bits_T: np.ndarray, skip: float = 0.0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Tokens (log-middle), bits per token and number of batches in bins equally wide in log tokens; `skip` leaves out
    the stage's first share, the warm-up."""
    x, n = lengths.x_T - lengths.n_T / 2, lengths.n_T
    keep = lengths.x_T >= skip * lengths.tokens
    edges = np.geomspace(x[keep][0], x[-1] * (1 + 1e-9), BINS + 1)
    of = np.clip(np.searchsorted(edges, x[keep], side="right") - 1, 0, BINS - 1)
    tokens = np.bincount(of, n[keep], BINS)
    full = tokens > 0
    middle = np.exp(np.bincount(of, np.log(x[keep]) * n[keep], BINS)[full] / tokens[full])
    return middle, np.bincount(of, bits_T[keep], BINS)[full] / tokens[full], np.bincount(of, minlength=BINS)[full]


def scratch_floor(lengths: Lengths, skip: float = 0.05) -> Floor:
    """The floor that the scratch learner's own online loss points to, in bits per token."""
    return fit_floor(*binned(lengths, lengths.bits_ST.mean(axis=0), skip))
