"""The law of transfer, D_T = k·D_F^α, fitted to the runs themselves.

    transfer_law_of_runs(rows, after="code then math", scratch="math")

Budgets of one pair of strategies share both curves' errors, so that D_T read off at each of them is no independent
point. Here one model holds all points: from scratch the loss is E + A·x^−a, after another stage E + A·(x + k·x^α)^−a.
The interval of α is its profile, with every other parameter free, by noise within runs and between them
(docs/theory.md, section 2). Letters: R runs, X budgets, N means of both strategies, K parameters.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from curricle.analysis.efficiency import curve_of
from curricle.analysis.finding import THESE_PROBLEMS, Finding, Interval, Part, join, short
from curricle.analysis.rows.columns import Row, chosen, groups, items, known, numbers, the_one, typed
from curricle.analysis.statistics.intervals import student
from curricle.analysis.statistics.powerlaw import HOPELESS
from curricle.analysis.statistics.spread import two_way
from curricle.study import Refused

FARTHEST = 4.0  # of α; a profile that is still inside there is open on that side
STEP = 0.05
FREE = 5  # E, ln A, ln a, ln D_T at the middle budget, α
MISFIT = 0.05
LEAST_HELP = -20.0  # of ln(D_T / the middle budget): nothing


class Curve(NamedTuple):
    """One strategy: mean losses by budget, and the squares that its runs leave about them."""

    x_X: np.ndarray
    mean_X: np.ndarray
    runs: int
    rest: float  # about each run's and each budget's mean
    offsets: float  # of the runs' means


def transfer_law_of_runs(
    rows: Sequence[Row], after: str, scratch: str, x: str = "stage_tokens", stage: str | None = None,
    level: float = 0.95,
) -> Finding:  # fmt: skip
    """α with its profile interval over seeds. `parts`: k in the unit of `x`, D_T at the middle budget, and the misfit.

    Columns: strategy, seed, score (a loss) and `x`; at least 4 budgets, the same for every run of a strategy, and two
    runs of each. Undefined where no transfer is told from 0, and where the points do not follow such a law.
    """
    rows = chosen(typed(rows, x), stage=stage)
    known(rows, "strategy", "seed", "score", x)
    at_first, helped = chosen(rows, strategy=scratch), chosen(rows, strategy=after)
    both = [*at_first, *helped]
    for name in ("benchmark", "measure"):
        the_one(both, name)
    start = curve_of(at_first, x).law
    fitted = Joint([curve(some, x) for some in (at_first, helped)], level)
    theta, squares = fitted.best(start.floor, start.exponent)
    nothing = fitted.at(theta, help_=LEAST_HELP)[1]
    spare = fitted.count - FREE
    from scipy.special import fdtrc, fdtri

    wrong = float(fdtrc(spare, fitted.df_rest, squares / spare))
    limit = fitted.limit(theta, squares / spare if wrong < MISFIT else None)
    help_, alpha = float(theta[3]) + math.log(fitted.middle), float(theta[4])
    parts: dict[str, Part] = {
        "strategy": after, "against": scratch, "alpha": alpha, "k": math.exp(help_ - alpha * math.log(fitted.middle)),
        "middle": fitted.middle, "transferred": math.exp(help_), "lack_of_fit_p": wrong,
        "within": math.sqrt(fitted.noise), "between": math.sqrt(fitted.offset),
    }  # fmt: skip
    about = Finding(
        "transfer-law", f"{after} over {scratch}: D_T = k·D_F^α", str(rows[0].get("measure", "loss")),
        str(rows[0].get("benchmark", "")), None, "α", n=items(both), seeds=min(c.runs for c in fitted.pair),
        undefined="", note="One model size: β cannot be told, and k holds N^β.", parts=parts,
    )  # fmt: skip
    if wrong < HOPELESS:
        return replace(about, undefined=f"the points do not follow such a law (p = {wrong:.1g})")
    # Two parameters go with the help, and it is mostly the runs' offsets that could have made it.
    if nothing - squares <= 2 * float(fdtri(2, fitted.df_runs, level)) * (squares / spare if wrong < MISFIT else 1.0):
        return replace(about, undefined=f"no transfer to {after} is told from 0, so its law has no exponent")
    low, high = (fitted.end(theta, squares + limit, sign) for sign in (-1, 1))
    said = [
        about.note, f"D_T is {short(math.exp(help_))} tokens at a budget of {short(fitted.middle)}.",
        f"The points lie off the law (p = {wrong:.2g}), and the interval is wider for it." * (wrong < MISFIT),
        f"Nothing beyond ±{FARTHEST:g} was looked at." * (low is None or high is None),
    ]  # fmt: skip
    interval = Interval(low, high, THESE_PROBLEMS, level)
    return replace(about, estimate=alpha, undefined=None, intervals=(interval,), note=join(said))


def curve(rows: Sequence[Row], x: str) -> Curve:
    name = rows[0]["strategy"]
    runs = [dict(zip(numbers(run, x).tolist(), numbers(run, "score"))) for run in groups(rows, "seed").values()]
    budgets = sorted(at for at in runs[0] if at > 0)
    if any(sorted(at for at in run if at > 0) != budgets for run in runs) or len(budgets) < 4:
        raise Refused(f"the runs of {name!r} need the same budgets, at least 4 of them")
    if len(runs) < 2:
        raise Refused(f"{name!r} has one run, and a run's own luck cannot be told from transfer; give 2 or more")
    y_RX = np.array([[run[at] for at in budgets] for run in runs])
    rest, df = two_way(y_RX)
    return Curve(
        np.array(budgets), y_RX.mean(0), len(runs), rest * df,
        len(budgets) * float(((y_RX.mean(1) - y_RX.mean()) ** 2).sum()),
    )  # fmt: skip


class Joint:
    """Both curves' means under one model, weighted by the noise of a point and of a run's offset."""

    def __init__(self, pair: Sequence[Curve], level: float):
        self.pair, self.level = pair, level
        self.count = sum(len(c.x_X) for c in pair)
        self.df_runs = sum(c.runs - 1 for c in pair)
        self.df_rest = sum((c.runs - 1) * (len(c.x_X) - 1) for c in pair)
        self.noise = sum(c.rest for c in pair) / self.df_rest
        if not self.noise > 0:
            raise Refused("the runs do not differ, so there is no noise to judge by")
        length = self.count / len(pair)
        self.offset = max(0.0, sum(c.offsets for c in pair) / self.df_runs - self.noise) / length
        self.middle = float(np.exp(np.log(pair[1].x_X).mean()))

    def model(self, theta: np.ndarray) -> list[np.ndarray]:
        floor, log_amplitude, log_exponent, help_, alpha = theta
        made = []
        for place, c in enumerate(self.pair):
            x = c.x_X / self.middle
            d = x + place * np.exp(np.clip(help_ + alpha * np.log(x), -60, 60))
            made.append(floor + np.exp(np.clip(log_amplitude - np.exp(log_exponent) * np.log(d), -60, 60)))
        return made

    def whiten(self, c: Curve, off: np.ndarray) -> np.ndarray:
        """To unit variance: the mean over R runs has covariance (σ²·I + τ²·J)/R."""
        kept = math.sqrt(self.noise / (self.noise + len(c.x_X) * self.offset))
        return (off - (1 - kept) * off.mean(0)) * math.sqrt(c.runs / self.noise)

    def residuals(self, theta: np.ndarray) -> np.ndarray:
        return np.concatenate([self.whiten(c, m - c.mean_X) for c, m in zip(self.pair, self.model(theta))])

    def at(self, theta: np.ndarray, alpha: float | None = None, help_: float | None = None) -> tuple[np.ndarray, float]:
        """Least squares with α or the help held where it is given, from a start."""
        from scipy.optimize import least_squares

        held = {3: help_, 4: alpha if help_ is None else 0.0}
        free = [k for k in range(FREE) if held.get(k) is None]
        whole = np.array([theta[k] if held.get(k) is None else held[k] for k in range(FREE)], dtype=float)

        def off(some: np.ndarray) -> np.ndarray:
            whole[free] = some
            return self.residuals(whole)

        least = np.array([0.0, -10.0, -5.0, LEAST_HELP, -FARTHEST])[free]
        most = np.array([min(c.mean_X.min() for c in self.pair), 10.0, 2.0, 12.0, FARTHEST])[free]
        found = least_squares(off, np.clip(whole[free], least + 1e-6, most - 1e-6), bounds=(least, most), x_scale="jac")
        whole[free] = found.x
        return whole.copy(), float(2 * found.cost)

    def best(self, floor: float, exponent: float) -> tuple[np.ndarray, float]:
        amplitude = math.log(max(float(np.median(self.pair[0].mean_X)) - floor, 1e-6))
        starts = [
            np.array([floor, amplitude, math.log(max(exponent, 0.01)), help_, alpha])
            for help_ in (-2.0, 0.0, 2.0) for alpha in (0.0, 0.7)
        ]  # fmt: skip
        return min((self.at(start) for start in starts), key=lambda found: found[1])

    def limit(self, theta: np.ndarray, misfit: float | None) -> float:
        """How far the squares may rise: t², each part of α's variance with its own degrees of freedom (Banerjee)."""
        steps = 1e-5 * np.eye(FREE)
        slopes_NK = np.stack([(self.residuals(theta + s) - self.residuals(theta - s)) / 2e-5 for s in steps], axis=1)
        weights_N = np.linalg.pinv(slopes_NK)[4]  # of the whitened means in α
        runs = rest = 0.0
        for c, place in zip(self.pair, (slice(0, len(self.pair[0].x_X)), slice(len(self.pair[0].x_X), None))):
            mine = self.whiten(c, weights_N[place])  # of the means themselves: whitening is symmetric
            rest += self.noise / c.runs * float((mine**2).sum())
            runs += self.offset / c.runs * float(mine.sum()) ** 2
        quantiles = [float(student(df, self.level)) ** 2 for df in (self.df_rest, self.df_runs)]
        limit = (quantiles[0] * rest + quantiles[1] * runs) / (rest + runs)
        if misfit is None:
            return limit
        return max(limit, misfit * float(student(self.count - FREE, self.level)) ** 2)

    def end(self, theta: np.ndarray, most: float, sign: int) -> float | None:
        """Where the profile along α passes `most`, outwards; None where it does not."""
        inside, place = float(theta[4]), theta
        under = self.at(theta, alpha=inside)[1]
        step = STEP
        while abs(inside + sign * step) < FARTHEST:
            place, squares = self.at(place, alpha=inside + sign * step)
            if squares > most:
                near, far = math.sqrt(max(most - under, 0.0)), math.sqrt(squares - under)
                return inside + sign * step * near / far
            inside, under, step = inside + sign * step, squares, step * 1.3
        return None
