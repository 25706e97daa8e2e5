"""Loss against budget: L(x) = E + A·x^−α, and from a checkpoint L(x) = E + A·(1 + x/D₀)^−α, with honest intervals.

For a fixed *shape* (α, and D₀) the law is linear in E and A. So the fit is a sweep: least squares in closed form at
every shape of a fine grid, the best one refined. There are no starting values and no local minima to be caught in.
The profile-likelihood region is known as exactly (sweep.py), so that the interval of a floor, a prediction, a slope or
the gain of a doubling is its range over that region. It promises to say how little is known: a floor that the data
cannot see gets an interval that reaches 0, and `floor_error`, the Cramér–Rao bound, says beforehand what a design can
see.

Letters: K shapes, X places at which something is asked.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from curricle.analysis.statistics.intervals import normal, student
from curricle.analysis.statistics.sweep import Sweep, Whitening, joined, solve
from curricle.study import Refused

NO_FLOOR = -1e12  # as a least floor: E may be below 0, so that a straight line in ln x (α → 0) is among the laws
EXPONENTS = np.geomspace(0.0005, 5.0, 360)  # below, the law is a straight line in ln x; above, a step
OFFSET_EXPONENTS = np.geomspace(0.02, 8.0, 60)
CLEAR = 0.05  # a test below this says that the law is not the one
HOPELESS = 0.001  # and below this, that nothing past the measured range should be read off it


@dataclass(frozen=True, slots=True)
class PowerLaw:
    """L(x) = floor + amplitude·(offset + x/scale)^−exponent; offset 1 from a checkpoint (scale is D₀), else 0."""

    floor: float
    amplitude: float
    exponent: float
    scale: float = 1.0
    offset: float = 0.0

    def __call__(self, x: np.ndarray | float) -> np.ndarray:
        return self.floor + self.amplitude * self.basis(x)

    def basis(self, x: np.ndarray | float) -> np.ndarray:
        with np.errstate(divide="ignore"):
            return (self.offset + np.asarray(x, dtype=float) / self.scale) ** -self.exponent

    def slope(self, x: np.ndarray | float) -> np.ndarray:
        """dL/dx, negative: what the next token takes off the loss."""
        base = self.offset + np.asarray(x, dtype=float) / self.scale
        return -self.amplitude * self.exponent / self.scale * base ** (-self.exponent - 1)

    def reach(self, loss: np.ndarray | float) -> np.ndarray:
        """The x at which the law is at `loss`; ∞ at the floor and below it, 0 above where it begins."""
        left = (np.asarray(loss, dtype=float) - self.floor) / self.amplitude
        with np.errstate(divide="ignore", invalid="ignore"):
            base = np.where(left > 0, np.abs(left) ** (-1 / self.exponent), math.inf)
        return np.maximum((base - self.offset) * self.scale, 0.0)

    @property
    def raw_amplitude(self) -> float:
        """A of E + A·x^−α with x in its own unit; of the checkpoint's form, A of E + A(1 + x/D₀)^−α."""
        return self.amplitude if self.offset else self.amplitude * self.scale**self.exponent


@dataclass(frozen=True, slots=True)
class Fit:
    """A fitted law, what noise there is about it, and what the data leave open."""

    law: PowerLaw
    sweep: Sweep
    x: np.ndarray
    y: np.ndarray
    rss: float
    sigma: float  # of one point about the law, given its curve
    between: float  # standard deviation of a whole curve's offset (0 where it cannot be told, or there is one curve)
    df: float  # of sigma; ∞ where it was given
    curves: int
    wrong: float | None  # p-value of the test that the law is of this form; None where it cannot be tested
    notes: tuple[str, ...]

    def quantile(self, level: float) -> float:
        return normal(level) if math.isinf(self.df) else float(student(self.df, level))

    def limits(self, x_X: np.ndarray, level: float) -> np.ndarray:
        """The residual sum of squares at which a prediction at x is no longer held.

        Its variance is that of the level of all points, 1/u, which rests on the curves' means where curves are few,
        and the rest. Each is given its own quantile of t (Banerjee 1960: at least the level's coverage), since what
        Satterthwaite's rule makes of three runs is too narrow.
        """
        square = np.full(len(x_X), self.quantile(level) ** 2)
        if 1 < self.curves < len(self.x) and not math.isinf(self.df):
            share = np.minimum(1 / (self.sweep.u * np.maximum(self.variances(x_X), 1e-300)), 1.0)
            square = square * (1 - share) + float(student(self.curves - 1, level)) ** 2 * share
        return self.rss + square * self.sigma**2

    def variances(self, x_X: np.ndarray) -> np.ndarray:
        """Cramér–Rao: the least variance of a prediction at x (∞ is the floor) for noise of variance 1."""
        at = gradient(self.law, x_X)
        covariance = np.linalg.pinv(information(self.law, self.x))
        variance = np.einsum("xi,ij,xj->x", at, covariance, at)
        return variance + (self.between / self.sigma) ** 2 / self.curves if self.between else variance

    @property
    def floor_error(self) -> float:
        """The Cramér–Rao standard error of the floor."""
        return self.sigma * math.sqrt(float(self.variances(np.array([math.inf]))[0]))

    def predict(
        self, x: np.ndarray | float, level: float = 0.95, new_run: bool = False
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The law at x (∞ is its floor) with its profile interval: value, low, high. With `new_run` the interval is
        one for the loss of one further run there, not for the mean of such runs."""
        x_X = np.atleast_1d(np.asarray(x, dtype=float))
        limit = self.limits(x_X, level)
        value = self.law(x_X)
        low, high = self.sweep.span(1.0, self.sweep.basis(x_X), limit)
        low, high = np.maximum(np.minimum(low, value), self.sweep.least), np.maximum(high, value)
        if new_run:
            spread = (limit - self.rss) * (1 + (self.between / self.sigma) ** 2 if self.sigma else 1)
            low = value - np.sqrt((value - low) ** 2 + spread)
            high = value + np.sqrt((high - value) ** 2 + spread)
        return value, low, high

    def floor(self, level: float = 0.95) -> tuple[float, float, float]:
        value, low, high = self.predict(math.inf, level)
        return float(value[0]), float(low[0]), float(high[0])

    def exponent(self, level: float = 0.95) -> tuple[float, float, float]:
        """α with its profile interval: the exponents at which the best allowed floor and amplitude are not told from
        the best of all. An offset of a run is none of its matter."""
        held = self.sweep.nearest()[1] <= self.rss + (self.quantile(level) * self.sigma) ** 2
        inside = self.sweep.exponent_K[held]
        value = self.law.exponent
        return value, min(float(inside.min(initial=value)), value), max(float(inside.max(initial=value)), value)

    def of_amplitude(self, c_KX: np.ndarray, level: float = 0.95) -> tuple[np.ndarray, np.ndarray]:
        """Interval of c·B, c depending on the shape: anything in which the floor cancels."""
        return self.sweep.span(0.0, c_KX, np.full(c_KX.shape[1], self.rss + (self.quantile(level) * self.sigma) ** 2))

    def slopes(self, x: np.ndarray | float, level: float = 0.95) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """−dL/dx, what the next token gives, with its interval: value, low, high."""
        x_X, s = np.atleast_1d(np.asarray(x, dtype=float)), self.sweep
        base = s.offset + x_X / s.scale_K[:, None]
        c = (s.exponent_K / s.scale_K)[:, None] * base ** (-s.exponent_K[:, None] - 1)
        return -self.law.slope(x_X), *self.of_amplitude(c, level)

    def doubling(self, x: np.ndarray | float, level: float = 0.95) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """L(x) − L(2x) with its interval: value, low, high."""
        x_X = np.atleast_1d(np.asarray(x, dtype=float))
        c = self.sweep.basis(x_X) - self.sweep.basis(2 * x_X)
        return self.law(x_X) - self.law(2 * x_X), *self.of_amplitude(c, level)

    def reach(
        self, losses: Sequence[float] | np.ndarray, level: float = 0.95
    ) -> list[tuple[float, float | None, float | None]]:
        """For each loss the x at which the law has it, and the least and the largest x at which it is not ruled out;
        None where there is no limit. Inverse regression: the x whose prediction interval holds the loss."""
        positive = self.x[self.x > 0]
        grid = np.geomspace(positive.min() / 100, positive.max() * 1e4, 250)
        _, low, high = self.predict(grid, level)
        made: list[tuple[float, float | None, float | None]] = []
        for loss in losses:
            value = float(self.law.reach(loss))
            least, most = first_below(grid, low, float(loss)), first_below(grid, high, float(loss))
            inside = None if least is None or least == grid[0] else min(least, value)
            made.append((value, inside, None if most is None else max(most, value)))
        return made


def first_below(x_X: np.ndarray, falling_X: np.ndarray, value: float) -> float | None:
    """Where a falling curve first comes down to `value`, on a log scale of x; None where it never does."""
    below = np.flatnonzero(falling_X <= value)
    if not len(below):
        return None
    k = int(below[0])
    if k == 0:
        return float(x_X[0])
    share = (falling_X[k - 1] - value) / (falling_X[k - 1] - falling_X[k])
    return float(x_X[k - 1] * (x_X[k] / x_X[k - 1]) ** share)


def gradient(law: PowerLaw, x_X: np.ndarray) -> np.ndarray:
    """dL/d(E, B, α) at x, and dD₀ in the checkpoint's form: (X, 3 or 4). At x = ∞ only the floor is left."""
    with np.errstate(divide="ignore", invalid="ignore"):
        base = law.offset + np.asarray(x_X, dtype=float) / law.scale
        b = base**-law.exponent
        columns = [np.ones_like(b), b, np.where(np.isinf(base), 0.0, -law.amplitude * b * np.log(base))]
        if law.offset:
            turn = law.amplitude * law.exponent * (base - 1) / base * b
            columns.append(np.where(np.isinf(base), 0.0, turn))
    return np.stack(columns, axis=1)


def information(law: PowerLaw, x: np.ndarray) -> np.ndarray:
    at = gradient(law, x)
    return at.T @ at


def floor_error(x: Sequence[float] | np.ndarray, exponent: float, sigma: float) -> float:
    """The least standard error with which any unbiased estimator can know the floor from runs at these budgets.

    It depends on the number of budgets, their spread (x may be in any unit), α and σ alone: the amplitude scales a
    column of the design and drops out.
    """
    budgets = np.asarray(x, dtype=float)
    if len(budgets) < 3 or len(np.unique(budgets)) < 3:
        raise Refused(f"budgets: {len(np.unique(budgets))} different ones; three parameters need 3 or more")
    if not (budgets > 0).all() or not exponent > 0 or not sigma > 0:
        raise Refused("budgets, exponent, sigma: give numbers above 0")
    law = PowerLaw(0.0, 1.0, exponent, scale=float(np.exp(np.log(budgets).mean())))
    return sigma * math.sqrt(float(np.linalg.inv(information(law, budgets))[0, 0]))


def fit(
    x: np.ndarray | Sequence[float],
    y: np.ndarray | Sequence[float],
    curve: Sequence[object] | None = None,
    *,
    checkpoint: bool = False,
    sigma: float | None = None,
    least_floor: float = 0.0,
    ratio: float | None = None,
) -> Fit:
    """The law through the points by least squares, E ≥ `least_floor`, A ≥ 0.

    `curve` names the run that each point belongs to: points of one run share its luck, which is taken as an offset of
    the whole curve and weighs on the floor (a random intercept). `checkpoint` fits D₀ too, with x counted from the
    checkpoint (0 allowed). `sigma` is the noise of one run, where it is known from elsewhere. `ratio` is the
    variance of the curves' offsets over that of a point, where it is known; else it is estimated. Raises `Refused` for
    fewer points than the law has parameters and one more, unless `sigma` is given.
    """
    x, y = np.asarray(x, dtype=float), np.asarray(y, dtype=float)
    parameters, places = 4 if checkpoint else 3, len(np.unique(x))
    if x.shape != y.shape or not np.isfinite(x).all() or not np.isfinite(y).all():
        raise Refused("x, y: give as many budgets as losses, all finite")
    if (x < 0).any() or (not checkpoint and (x == 0).any()):
        raise Refused("a budget of 0 or less has no place on a power law; leave it out, or fit from a checkpoint")
    if places < parameters or (len(x) <= parameters and sigma is None):
        need = parameters + (sigma is None)
        raise Refused(
            f"scored at {places} budget{'s' * (places != 1)}, {len(x)} point{'s' * (len(x) != 1)} in all; a curve of "
            f"{parameters} parameters needs {need} points or more, at {parameters} budgets"
        )
    if y.max() == y.min():
        raise Refused("the same loss at every budget: there is no curve to fit")
    labels = np.unique([str(c) for c in curve], return_inverse=True)[1] if curve is not None else np.arange(len(x))
    white = Whitening(labels, ratio or 0.0)
    sweep, law, rss = best(x, y, white, checkpoint, least_floor)
    df = float(len(x) - parameters)
    within_df = len(x) - white.curves - (parameters - 1)
    if 1 < white.curves < len(x) and within_df > 0:
        df = float(within_df)
        for _ in range(2 if ratio is None else 0):
            white = Whitening(labels, white.ratio(y - law(x), df))
            sweep, law, rss = best(x, y, white, checkpoint, least_floor)
    noise = math.sqrt(rss / (len(x) - parameters)) if sigma is None else sigma
    made = Fit(
        law, sweep, x, y, rss, max(noise, 1e-12), math.sqrt(white.lam) * noise, math.inf if sigma else df,
        white.curves if curve is not None else len(x), None, (),
    )  # fmt: skip
    return judged(made, labels, parameters, sigma is not None, curve is not None and white.curves == 1)


def best(
    x: np.ndarray, y: np.ndarray, white: Whitening, checkpoint: bool, least: float
) -> tuple[Sweep, PowerLaw, float]:
    """The sweep, refined round its best shape, and the law there."""
    positive = x[x > 0]
    if checkpoint:
        scales = np.geomspace(positive.min() / 30, positive.max() * 30, 40)
        exponent_K, scale_K = (a.ravel() for a in np.meshgrid(OFFSET_EXPONENTS, scales))
        steps = (OFFSET_EXPONENTS[1] / OFFSET_EXPONENTS[0], scales[1] / scales[0])
    else:
        exponent_K, scale_K = EXPONENTS, np.full(len(EXPONENTS), math.exp(np.log(x).mean()))
        steps = (EXPONENTS[1] / EXPONENTS[0], 1.0)
    ones, values = white(np.ones(len(x))), white(y)
    sweep = solve(x, ones, values, white, exponent_K, scale_K, float(checkpoint), least)
    for zoom in range(7):
        k = int(sweep.nearest()[1].argmin())
        reach = 4.0**-zoom
        near = sweep.exponent_K[k] * steps[0] ** np.linspace(-reach, reach, 9)
        wide = sweep.scale_K[k] * steps[1] ** np.linspace(-reach, reach, 9) if checkpoint else sweep.scale_K[k : k + 1]
        exponents, scales = (a.ravel() for a in np.meshgrid(near, wide))
        more = solve(x, ones, values, white, exponents, scales, float(checkpoint), least)
        sweep = joined(sweep, more)
    # Intervals are ranges over shapes, so the shapes that are as good as the best but for noise must stand closely.
    rss_K = sweep.nearest()[1]
    near = rss_K <= rss_K.min() * (1 + 6 / max(len(x) - 4, 1)) + 1e-300
    dense = 24 if checkpoint else 160
    reach = sweep.exponent_K[near]
    exponents = np.geomspace(reach.min() / steps[0], reach.max() * steps[0], dense)
    reach = sweep.scale_K[near]
    scales = np.geomspace(reach.min() / steps[1], reach.max() * steps[1], dense) if checkpoint else reach[:1]
    exponents, scales = (a.ravel() for a in np.meshgrid(exponents, scales))
    more = solve(x, ones, values, white, exponents, scales, float(checkpoint), least)
    sweep = joined(sweep, more)
    spots, rss_K = sweep.nearest()
    k = int(rss_K.argmin())
    amplitude = float(sweep.amplitude_K[k] + math.sqrt(sweep.v_K[k]) * spots[k, 0])
    floor = float(sweep.level_K[k] + spots[k, 1] / math.sqrt(sweep.u) - amplitude * sweep.middle_K[k])
    law = PowerLaw(
        max(floor, least), max(amplitude, 0.0), float(sweep.exponent_K[k]), float(sweep.scale_K[k]), sweep.offset
    )
    return sweep, law, float(max(rss_K[k], 0.0))


def judged(made: Fit, labels: np.ndarray, parameters: int, known: bool, alone: bool) -> Fit:
    """The fit with its doubts: is the law of this form, did an end of the grid stop it, is there more than one run?

    With several runs at a budget, what their means leave is tested against their scatter; where it is too much, the
    scatter of the means about the law takes the place of the runs' own, which widens every interval. Without them,
    the points are tested for a bend that the law cannot follow.
    """
    from scipy.special import fdtrc

    x, left, notes = made.x, made.y - made.law(made.x), []
    budgets, place = np.unique(x, return_inverse=True)
    size = np.bincount(place)
    if made.between:
        left = left - (np.bincount(labels, left) / np.bincount(labels))[labels]
    mean = np.bincount(place, left) / size
    scatter_df = len(x) - len(budgets) - (made.curves - 1 if made.between else 0)
    # As many budgets as parameters leave nothing to test, but where the floor is stopped at its edge and so not fitted.
    # A law that is true is stopped there half the time at most: the test refuses it less often than it says.
    at_edge = made.law.floor <= made.sweep.least
    spare_df = len(budgets) - parameters or int(at_edge)
    wrong = None
    if scatter_df > 0 and spare_df > 0:
        scatter = float(((left - mean[place]) ** 2).sum()) / scatter_df
        misfit = float((size * mean**2).sum()) / spare_df
        wrong = float(fdtrc(spare_df, scatter_df, misfit / max(scatter, 1e-300)))
        if wrong < CLEAR:
            if not known:
                made = replace(made, sigma=max(math.sqrt(misfit), made.sigma), df=float(spare_df))
            notes.append(
                f"The law does not fit: the means of the budgets leave it by more than runs differ (p = {wrong:.2g}); "
                "intervals are widened by that."
            )
    elif len(budgets) > parameters + 1:
        wrong = bend(made, parameters)
        if wrong is not None and wrong < CLEAR:
            notes.append(f"The points bend away from a law of this form (p = {wrong:.2g}); what it says may be wrong.")
    if at_edge:
        notes.append(f"No floor is seen: the best is the least that is allowed, {made.sweep.least:g}.")
    if made.law.amplitude == 0:
        notes.append("The loss does not fall with the budget.")
    if alone:
        notes.append("One run: what another seed would change is not in the interval.")
    return replace(made, wrong=wrong, notes=tuple(notes))


def bend(made: Fit, parameters: int) -> float | None:
    """p-value of one more column, b·ln²x, beside the law's own: a bend that no α can follow (F test, linearised)."""
    from scipy.special import fdtrc

    base = made.law.offset + made.x / made.law.scale
    own = gradient(made.law, made.x)
    left = made.y - made.law(made.x)
    more = np.c_[own, base**-made.law.exponent * np.log(base) ** 2]
    rss = []
    for columns in (own, more):
        scale = np.maximum(np.abs(columns).max(axis=0), 1e-300)
        solution, *_ = np.linalg.lstsq(columns / scale, left, rcond=None)
        rss.append(float(((left - columns / scale @ solution) ** 2).sum()))
    df = len(made.x) - parameters - 1
    if df < 1 or rss[1] <= 1e-24:
        return None
    return float(fdtrc(1, df, max(rss[0] - rss[1], 0.0) / (rss[1] / df)))
