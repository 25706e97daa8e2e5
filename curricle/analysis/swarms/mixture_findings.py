"""What is said about a mixture, as findings: the mixture, its gains, how well the method predicts, what to run next.

Every interval is at 90 % and speaks about new runs: CV+, or at a target size what the left-out errors of the runs there
say; that of a rank correlation is over the runs that were ranked (Bonett and Wright). A gain is told less its optimism:
the least of a fitted function is lower than the truth there, by twice the regret in expectation (docs/theory.md,
section 6), and resamples say by how much.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from curricle.analysis.finding import OTHER_CANDIDATES, THIS_STRATEGY, Finding, Interval, Part, join
from curricle.analysis.statistics.intervals import rank_correlation, spearman_interval, student
from curricle.analysis.swarms.choosing import Choice, Problem, next_runs, predicted
from curricle.analysis.swarms.foldwise import Foldwise, Scatter, cv_plus, foldwise, pairs, scatter
from curricle.analysis.swarms.members import Member, fit_member, known
from curricle.analysis.swarms.mixing_laws import Law
from curricle.analysis.swarms.recalibration import Recalibration
from curricle.analysis.swarms.simplex import repeated
from curricle.analysis.swarms.swarm import Swarm
from curricle.study import Refused
from curricle.values import plural

LEVEL = 0.9
SHARES = (0.01, 0.05, 0.1, 0.2)  # how often each source's share stays above these
LEAST_RUNS = 12
LOSS = "loss"  # the unit of whatever the metrics measure; lower is better
RANK = "rank correlation"
WITNESSES = ("efftokens", "exponential", "gp")  # whose word is asked beside the method's own
MOST_OF_THE_WAY = 0.95  # from natural to the optimum; less is told
APART = 1e-4  # starts that end farther apart than this are told
# Of the limits of the mean gain: why they may be wider than the interval of two runs (docs/theory.md, section 6).
BOTH = "it leaves out the noise of runs and counts what a law and a process disagree by, so it may be the wider"


@dataclass(frozen=True, slots=True)
class Fitted:
    """A swarm with a method fitted to all of it, and fold by fold."""

    swarm: Swarm
    method: str
    whole: Member
    folds: Foldwise


def fit_swarm(swarm: Swarm, method: str = "auto", seed: int = 0) -> Fitted:
    """Raises `Refused` for too few runs."""
    method = known(method)
    if len(swarm.keys) < LEAST_RUNS:
        raise Refused(f"ratios: {plural(len(swarm.keys), 'run')}; a mixture needs {LEAST_RUNS} or more")
    whole = fit_member(method, swarm.p_NJ, swarm.loss_NT)
    return Fitted(swarm, method, whole, foldwise(method, swarm.p_NJ, swarm.loss_NT, whole, seed))


def witnesses(
    fitted: Fitted, problem: Problem, choice: Choice, moved: Recalibration | None
) -> dict[str, tuple[float, float]]:
    """The gains over natural and over uniform that each method predicts for the recommended mixture."""
    swarm, used = fitted.swarm, np.flatnonzero(problem.weights_T)
    three = np.stack([problem.natural_J, uniform_of(swarm), choice.p_J])
    at = repeated(three, problem.unique_J)[0]
    stretch = moved.slope_T[used] if moved else 1.0
    made = {}
    for method in dict.fromkeys((fitted.method, *WITNESSES)):
        if method == fitted.method:
            here = fitted.whole.predict(at)[0][:, used]
        else:
            here = fit_member(method, swarm.p_NJ, swarm.loss_NT[:, used]).predict(at)[0]
        over = ((here[:2] - here[2]) * stretch) @ problem.weights_T[used]
        made[method] = (float(over[0]), float(over[1]))
    return made


def uniform_of(swarm: Swarm) -> np.ndarray:
    """Even shares of what some run read."""
    seen = swarm.p_NJ.max(0) > 0
    return seen / seen.sum()


@dataclass(frozen=True, slots=True)
class Answer:
    """Everything that the findings are made of. `whole` and `refits` speak of the target size where `moved` is
    given."""

    fitted: Fitted
    problem: Problem
    choice: Choice
    whole: Member
    refits: Member  # of the metrics in `narrow` alone
    narrow: Problem
    moved: Recalibration | None
    origin: str  # of the natural mixture, in words
    witnesses: Mapping[str, tuple[float, float]]  # each method's gain of the recommended over natural, over uniform

    # ---- what is compared

    @property
    def weights(self) -> np.ndarray:
        return self.problem.weights_T

    @property
    def points(self) -> dict[str, np.ndarray]:
        """The mixtures that are compared, by name."""
        swarm = self.fitted.swarm
        best = swarm.p_NJ[int((swarm.loss_NT @ self.weights).argmin())]
        return {
            "recommended": self.choice.p_J, "natural": self.problem.natural_J, "uniform": uniform_of(swarm),
            "best run": best, "optimum": self.choice.best_J,
        }  # fmt: skip

    @property
    def measure(self) -> str:
        names = [m for m, w in zip(self.problem.names_T, self.weights) if w > 0]
        return names[0] if len(names) == 1 else f"weighted mean of {len(names)} metrics"

    def level(self, p_MJ: np.ndarray) -> np.ndarray:
        return predicted(self.whole, self.problem, p_MJ)[0]

    def by_fold(self, p_MJ: np.ndarray) -> np.ndarray:
        """The weighted loss by each fold's fit, (K, M)."""
        made = self.fitted.folds.member.predict(repeated(p_MJ, self.problem.unique_J)[0])
        return (self.moved.apply(made) if self.moved else made) @ self.weights

    def outside(self) -> tuple[np.ndarray, np.ndarray, Scatter]:
        """Of the weighted loss of each run: as predicted without it, what was left, and how that scatters."""
        folds = self.fitted.folds
        said = (self.moved.apply(folds.outside_NT) if self.moved else folds.outside_NT) @ self.weights
        residual = (folds.residual_NT * (self.moved.slope_T if self.moved else 1.0)) @ self.weights
        return said, residual, scatter(said, residual)

    @property
    def widening(self) -> float:
        """How much larger a left-out run's squared error is than a fitted run's, on average, of the weighted loss.

        Refits of a law vary as its residuals do, which the fit made small: a run pulls the law towards itself, most of
        all one that stands alone, and where the law is wrong. Their variance is told in the size of left-out errors
        instead. Refits that leave out folds are a jackknife, and are that already."""
        if not isinstance(self.whole, Law):
            return 1.0
        swarm, scale = self.fitted.swarm, self.weights * (self.moved.slope_T if self.moved else 1.0)
        inside = (swarm.loss_NT - self.fitted.whole.predict(swarm.p_NJ)[0]) @ scale
        outside = self.fitted.folds.residual_NT @ scale
        return max(1.0, float((outside**2).sum() / max((inside**2).sum(), 1e-300)))

    # ---- findings

    def finding(self, question: str, subject: str, estimate: float, unit: str, **more: Any) -> Finding:
        n = len(self.fitted.swarm.keys)
        measure = more.pop("measure", self.measure)
        return Finding(question, subject, measure, f"swarm of {n} runs", estimate, unit, n=n, **more)

    def recommended(self) -> Finding:
        choice, swarm = self.choice, self.fitted.swarm
        points = self.points
        low, high = np.quantile(choice.optima_RJ, [0.05, 0.95], axis=0)
        table = []
        for j in np.argsort(-choice.p_J, kind="stable"):
            row: dict[str, Part] = {"source": swarm.sources[j]}
            row |= {name: round(float(p[j]), 6) for name, p in points.items()}
            row |= {"low": float(low[j]), "high": float(high[j])}
            row |= {f"above {100 * s:g} %": float((choice.optima_RJ[:, j] > s).mean()) for s in SHARES}
            row["most"] = float(self.problem.most_J[j])
            table.append(row)
        at = self.level(choice.p_J[None])
        limits = self.level_limits(at)
        value = float(at[0]) + choice.optimism
        parts: dict[str, Part] = {
            "method": self.fitted.method, "natural": self.origin, "regret": self.widening * choice.regret,
            "way_from_natural": choice.kept, "optimism": choice.optimism, "optimiser_gap": choice.gap,
            "optimiser_starts_agree": choice.starts_agree,
            "fit_starts_agree": self.whole.starts_agree if isinstance(self.whole, Law) else None,
            "variation_from_natural": float(np.abs(choice.p_J - points["natural"]).sum() / 2),
            "refits": len(choice.optima_RJ), "runs_at_target_size": self.moved.runs if self.moved else 0,
        }  # fmt: skip
        low_high = sorted([*(float(x) + choice.optimism for x in limits), value])
        interval = Interval(low_high[0], low_high[-1], THIS_STRATEGY, LEVEL)
        return self.finding(
            "mixture", "recommended mixture", value, LOSS, intervals=(interval,), parts=parts, table=tuple(table),
            note=join(self.warnings()),
        )  # fmt: skip

    def warnings(self) -> list[str]:
        swarm, choice = self.fitted.swarm, self.choice
        unseen = [s for s, seen in zip(swarm.sources, swarm.p_NJ.max(0) > 0) if not seen]
        said = self.drawn_back()
        if unseen:
            said.append(f"No run read {', '.join(unseen)}: nothing is known of it, and it gets no share.")
        fit = self.whole.starts_agree if isinstance(self.whole, Law) else 0.0
        if max(fit, choice.starts_agree) > APART:
            said.append(f"Starts did not agree: {max(fit, choice.starts_agree):.1g} apart.")
        if isinstance(self.whole, Law) and len(swarm.keys) < len(swarm.sources) + 4:
            said.append("Fewer runs than the law has numbers: what its priors expect carries much of this.")
        if not isinstance(self.whole, Law):
            said.append("Refits leave out a tenth of the runs in turn: they vary less than new swarms would.")
        far = self.choice.p_J > swarm.p_NJ.max(0) * 1.001
        if far.any():
            said.append(
                f"Beyond the runs: no run gave {', '.join(np.array(swarm.sources)[far])} so large a share; "
                "that is extrapolated."
            )
        return [*said, *self.dissent()]

    def drawn_back(self) -> list[str]:
        """That the recommended mixture is not the law's optimum, whose resamples stand beside it in the table."""
        way, natural = self.choice.kept, np.abs(self.choice.anchor_J - self.problem.natural_J).max() <= APART
        anchor = "natural" if natural else "the mixture nearest to natural within the limits"
        if way >= MOST_OF_THE_WAY:
            return []
        if way == 0:
            told = f"The runs do not show a gain over {anchor}: {anchor} is recommended."
        else:
            told = (
                f"The recommendation goes {100 * way:.2g} % of the way from {anchor} to the law's optimum, since "
                "chance could explain the rest."
            )
        return [f"{told} The optima of resamples are the law's, before that."]

    def dissent(self) -> list[str]:
        """Members that disagree about a gain by more than new runs would."""
        said = []
        for i, name in enumerate(("natural", "uniform")):
            gains = {m: over[i] for m, over in self.witnesses.items()}
            own = f"{self.fitted.method} one of {gains.pop(self.fitted.method):+z.3f}"
            low, high = self.gain_limits(self.points[name])
            others = {m: f"a gain over {name} of {g:+z.3f}" for m, g in gains.items() if not low <= g <= high}
            said += [f"{m} disagrees: it predicts {gain}, and {own}." for m, gain in others.items()]
        return said

    def level_limits(self, at: np.ndarray) -> tuple[float, float]:
        """Of one new run of the recommended mixture: CV+, or at the target size what its runs' left-out errors say."""
        if self.moved:
            half = self.moved.half_level(self.weights, LEVEL)
            return float(at[0]) - half, float(at[0]) + half
        said, residual, size = self.outside()
        units, fold = (size.unit(said), size.unit(at)), self.fitted.folds.fold_N
        low, high = cv_plus(self.by_fold(self.choice.p_J[None]), residual, fold, LEVEL, *units)[:, 0]
        return float(low), float(high)

    def gain_limits(self, other: np.ndarray) -> tuple[float, float]:
        """For the difference of two new runs: CV+ from pairs of runs that were left out together; at the target size,
        from the differences of its runs' left-out errors."""
        pair = np.stack([other, self.choice.p_J])
        if self.moved:
            away = np.subtract(*self.fitted.whole.predict(repeated(pair, self.problem.unique_J)[0])[0])
            half, level = self.moved.half_difference(self.weights, away, LEVEL), self.level(pair)
            return float(level[0] - level[1]) - half, float(level[0] - level[1]) + half
        by_fold, fold = self.by_fold(pair), self.fitted.folds.fold_N
        said, residual, size = self.outside()
        i, j = pairs(fold).T
        units = np.hypot(size.unit(said[i]), size.unit(said[j])), np.hypot(*size.unit(self.level(pair)))
        over = (by_fold[:, 0] - by_fold[:, 1])[:, None]
        limits = cv_plus(over, residual[i] - residual[j], fold[i], LEVEL, *units, runs=len(fold))
        return float(limits[0, 0]), float(limits[1, 0])

    def mean_limits(self, raw: float, spread: float, witness: float) -> tuple[float, float] | None:
        """For the gain in the mean of many runs: what a law's refits vary by, in the size of left-out errors, and how
        far the law lies from a process, which bends where the law cannot. Refits alone would take the law for true.
        From the gain less its optimism down, and from the gain as predicted up."""
        if self.moved or not isinstance(self.whole, Law):
            return None
        error = math.hypot(math.sqrt(self.widening) * spread, witness - raw)
        half = float(student(max(len(self.fitted.swarm.keys) - len(self.fitted.swarm.sources), 1), LEVEL)) * error
        return raw - self.choice.optimism - half, raw + half

    def gains(self) -> list[Finding]:
        """Over the natural and the uniform mixture: how much lower the loss is predicted to be, less the optimism."""
        made = []
        for i, name in enumerate(("natural", "uniform")):
            pair = np.stack([self.points[name], self.choice.p_J])
            raw = self.level(pair)
            resampled = predicted(self.refits, self.narrow, pair)
            spread = resampled[:, 0] - resampled[:, 1]
            low, high = (x - self.choice.optimism for x in self.gain_limits(pair[0]))
            gain = float(raw[0] - raw[1]) - self.choice.optimism
            parts: dict[str, Part] = {
                "strategy": "recommended", "against": name, "uncorrected": float(raw[0] - raw[1]),
                "optimism": self.choice.optimism, "refits_sd": float(spread.std()),
                "refits_above_0": float((spread > 0).mean()),
            }  # fmt: skip
            parts |= {f"by {m}": over[i] for m, over in self.witnesses.items()}
            mean = self.mean_limits(float(raw[0] - raw[1]), float(spread.std()), self.witnesses["gp"][i])
            parts |= {"mean_low": mean[0] if mean else None, "mean_high": mean[1] if mean else None}
            note = f"Positive: a lower loss than that of {name}. "
            note += "The interval is of the difference of two new runs, by how far runs that were left out lay off."
            if mean:
                note += f" In the mean of many runs the gain is {mean[0]:+z.4f} to {mean[1]:+z.4f}: {BOTH}."
            made.append(
                self.finding(
                    "mixture-gain", f"recommended over {name}", gain, LOSS, parts=parts, note=note,
                    intervals=(Interval(min(low, gain), max(high, gain), THIS_STRATEGY, LEVEL),),
                )
            )  # fmt: skip
        return made

    def fits(self) -> list[Finding]:
        """How well left-out runs were ranked: the targets together, with each run in the table, then each metric."""
        swarm, folds = self.fitted.swarm, self.fitted.folds
        actual, said = swarm.loss_NT @ self.weights, folds.outside_NT @ self.weights
        table: tuple[Mapping[str, Part], ...] = tuple(
            {"run": key, "predicted": float(a), "measured": float(b)} for key, a, b in zip(swarm.keys, said, actual)
        )
        made = [self.fit(self.measure, said, actual, table)]
        if np.count_nonzero(self.weights) > 1 or len(swarm.metrics) > 1:
            made += [
                self.fit(name, folds.outside_NT[:, t], swarm.loss_NT[:, t], ()) for t, name in enumerate(swarm.metrics)
            ]
        return made

    def fit(self, name: str, said: np.ndarray, actual: np.ndarray, table: tuple[Mapping[str, Part], ...]) -> Finding:
        spread = float(actual.var())
        unexplained = float(np.mean((actual - said) ** 2))
        parts: dict[str, Part] = {"rmse": unexplained**0.5, "r2": 1 - unexplained / spread if spread else None}
        if not spread:
            return Finding(
                "mixture-fit", name, name, f"swarm of {len(said)} runs", None, RANK, n=len(said),
                undefined="all runs have the same value", parts=parts,
            )  # fmt: skip
        rho = rank_correlation(said, actual)
        told = spearman_interval(rho, len(said), OTHER_CANDIDATES, LEVEL)
        return self.finding(
            "mixture-fit", name, rho, RANK, measure=name, parts=parts, table=table, intervals=(told,) if told else (),
            note=f"The interval speaks of {OTHER_CANDIDATES} of this swarm's kind.",
        )  # fmt: skip

    def next(self) -> Finding:
        """Mixtures to run next, one row a source and run."""
        noise = float(np.std(self.outside()[1]))
        picked = next_runs(self.refits, self.narrow, self.choice, noise)
        table = tuple(
            {"run": i, "source": s, "share": float(p)}
            for i, mix in enumerate(picked, 1)
            for s, p in zip(self.fitted.swarm.sources, mix)
            if p >= 0.0005
        )
        note = "Chosen to take most from the variance, over refits, of the losses where refits put their optima."
        return self.finding("mixture-next", "next runs", float(len(picked)), "runs", table=table, note=note)
