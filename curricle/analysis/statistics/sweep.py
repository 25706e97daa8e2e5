"""Least squares of y = E + B·b(x; shape) at every shape of a grid at once, and the region of equally good answers.

For a fixed shape the model is linear: the points (E, B) whose residual sum of squares is at most a limit are an
ellipse, cut by B ≥ 0 and E ≥ a least floor. Anything linear in E and B has its extremes over that region on the
ellipse, on an edge or in the corner, so profile intervals are exact over the grid and in closed form. `Whitening`
makes points of one run, which share its luck, independent.

Letters: K shapes, X places at which something is asked.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

OF_SHAPES = ("exponent_K", "scale_K", "middle_K", "v_K", "level_K", "amplitude_K", "rss_K")


@dataclass(frozen=True, slots=True)
class Sweep:
    """Least squares at each shape. In the coordinates (p, q) = ((B − B̂)/√v, √u·(m − m̂)), with B the amplitude,
    m = E + B·b̄ the level at the middle, the points of equal fit are circles round (0, 0)."""

    exponent_K: np.ndarray
    scale_K: np.ndarray
    offset: float
    u: float  # weight of all points together
    middle_K: np.ndarray  # b̄, the weighted mean of the basis
    v_K: np.ndarray  # Var B̂ for noise of variance 1
    level_K: np.ndarray  # m̂
    amplitude_K: np.ndarray  # B̂
    rss_K: np.ndarray  # of the unconstrained fit
    least: float  # what a floor is at least

    def basis(self, x_X: np.ndarray) -> np.ndarray:
        with np.errstate(divide="ignore"):
            return (self.offset + x_X / self.scale_K[:, None]) ** -self.exponent_K[:, None]

    def edges(self) -> tuple[np.ndarray, np.ndarray]:
        """The two constraints B ≥ 0 and E ≥ least as half-planes n·(p, q) ≥ h: unit normals (K, 2, 2) and h (K, 2)."""
        root_v, root_u = np.sqrt(self.v_K), math.sqrt(self.u)
        floor_K = self.level_K - self.amplitude_K * self.middle_K
        n = np.zeros((len(root_v), 2, 2))
        n[:, 0, 0] = 1.0
        n[:, 1, 0], n[:, 1, 1] = -self.middle_K * root_v, 1 / root_u
        length = np.hypot(n[:, 1, 0], n[:, 1, 1])
        n[:, 1] /= length[:, None]
        return n, np.stack([-self.amplitude_K / root_v, (self.least - floor_K) / length], axis=1)

    def only(self, keep: np.ndarray) -> Sweep:
        return replace(self, **{name: getattr(self, name)[keep] for name in OF_SHAPES})

    def corner(self, n: np.ndarray, h: np.ndarray) -> np.ndarray:
        """Where both constraints hold with equality: (K, 2)."""
        return np.stack([h[:, 0], (h[:, 1] - n[:, 1, 0] * h[:, 0]) / n[:, 1, 1]], axis=1)

    def nearest(self) -> tuple[np.ndarray, np.ndarray]:
        """The best allowed point of each shape, (K, 2), and its residual sum of squares."""
        n, h = self.edges()
        spots = np.stack([np.zeros((len(h), 2)), n[:, 0] * h[:, :1], n[:, 1] * h[:, 1:], self.corner(n, h)], axis=1)
        far = np.where(allowed(spots, n, h), (spots**2).sum(-1), math.inf)
        best = far.argmin(axis=1)
        rows = np.arange(len(best))
        return spots[rows, best], self.rss_K + far[rows, best]

    def span(self, c_floor: float, c_KX: np.ndarray, limit_X: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Least and largest c_floor·E + c·B over all shapes and allowed points whose residual sum of squares is at
        most `limit`. Linear on a disc cut by two lines, so the extremes are the disc's own or lie on the lines."""
        keep = self.rss_K <= limit_X.max()
        if not keep.all():
            return self.only(keep).span(c_floor, c_KX[keep], limit_X)
        n, h = self.edges()
        root_v, root_u = np.sqrt(self.v_K)[:, None], math.sqrt(self.u)
        along_p = (c_KX - c_floor * self.middle_K[:, None]) * root_v
        along_q = np.full_like(along_p, c_floor / root_u)
        start = c_floor * self.level_K[:, None] + (c_KX - c_floor * self.middle_K[:, None]) * self.amplitude_K[:, None]
        room = limit_X - self.rss_K[:, None]
        radius = np.sqrt(np.maximum(room, 0.0))  # (K, X)
        length = np.maximum(np.hypot(along_p, along_q), 1e-300)
        spots = [
            np.stack([sign * radius * along_p / length, sign * radius * along_q / length], axis=-1) for sign in (1, -1)
        ]
        for edge in (0, 1):
            normal_K, h_K = n[:, edge], h[:, edge, None]
            half = np.sqrt(np.maximum(radius**2 - h_K**2, 0.0))
            for sign in (1, -1):
                along = np.stack([-normal_K[:, 1:] * half, normal_K[:, :1] * half], axis=-1)
                spots.append(h_K[..., None] * normal_K[:, None] + sign * along)
        spots.append(np.broadcast_to(self.corner(n, h)[:, None], spots[0].shape))
        at = np.stack(spots, axis=2)  # (K, X, 7, 2)
        inside = (at**2).sum(-1) <= radius[..., None] ** 2 * (1 + 1e-9) + 1e-300
        ok = inside & allowed(at, n, h) & (room[..., None] >= 0)
        value = start[..., None] + along_p[..., None] * at[..., 0] + along_q[..., None] * at[..., 1]
        return (
            np.where(ok, value, math.inf).min(axis=(0, 2)),
            np.where(ok, value, -math.inf).max(axis=(0, 2)),
        )


def allowed(at: np.ndarray, n: np.ndarray, h: np.ndarray) -> np.ndarray:
    """Which points (K, …, 2) satisfy both constraints, but for rounding."""
    middle = (1,) * (at.ndim - 2)
    fits = np.ones(at.shape[:-1], dtype=bool)
    for edge in (0, 1):
        n_K, h_K = n[:, edge].reshape(-1, *middle, 2), h[:, edge].reshape(-1, *middle)
        fits &= (at * n_K).sum(-1) >= h_K - 1e-9 * (1 + np.abs(h_K))
    return fits


@dataclass(frozen=True, slots=True)
class Whitening:
    """Takes the share θ = 1 − 1/√(1 + nλ) of its curve's mean off each value, so that points of one curve, which
    share an offset of variance λσ², become independent."""

    labels: np.ndarray
    lam: float

    @property
    def curves(self) -> int:
        return int(self.labels.max()) + 1

    def __call__(self, values: np.ndarray) -> np.ndarray:
        """Along the last axis."""
        if not self.lam:
            return values
        size = np.bincount(self.labels)
        theta = 1 - 1 / np.sqrt(1 + size * self.lam)
        member = (self.labels == np.arange(self.curves)[:, None]).astype(float)
        means = values @ (member / size[:, None]).T
        return values - (means * theta) @ member

    def ratio(self, left: np.ndarray, within_df: float) -> float:
        """λ by moments from residuals: between-curve against within-curve mean square."""
        size = np.bincount(self.labels)
        means = np.bincount(self.labels, left) / size
        within = float(((left - means[self.labels]) ** 2).sum()) / within_df
        between = float((size * means**2).sum()) / (self.curves - 1)
        return max(0.0, between - within) / max(within, 1e-300) / float(size.mean())


def solve(
    x: np.ndarray, ones: np.ndarray, values: np.ndarray, white: Whitening,
    exponent_K: np.ndarray, scale_K: np.ndarray, offset: float, least: float,
) -> Sweep:  # fmt: skip
    """Least squares in E and B at every shape, with the constant taken out first (stable where α is near 0)."""
    basis = white((offset + x / scale_K[:, None]) ** -exponent_K[:, None])
    u = float(ones @ ones)
    middle = basis @ ones / u
    level = float(values @ ones / u)
    basis = basis - middle[:, None] * ones
    left = values - level * ones
    square = np.maximum((basis**2).sum(1), 1e-300)
    amplitude = basis @ left / square
    rss = np.maximum(((left - amplitude[:, None] * basis) ** 2).sum(1), 0.0)
    return Sweep(exponent_K, scale_K, offset, u, middle, 1 / square, level + 0 * middle, amplitude, rss, least)


def joined(a: Sweep, b: Sweep) -> Sweep:
    both: dict[str, Any] = {name: np.concatenate([getattr(a, name), getattr(b, name)]) for name in OF_SHAPES}
    return replace(a, **both)
