"""Which mixture of sources, how sure, and what it would gain: the sixth question of docs/theory.md.

    findings = mixture(ratios_rows, metrics_rows, targets=["pile_cc_val_loss"])
    rows = predictions(ratios_rows, metrics_rows, other_ratios_rows)

A swarm of small runs, one mixture each, is fitted target by target and the predictions are then added up. The answer is
a mixture with how often resamples of the runs keep each of its shares, its predicted gain over the natural and the
uniform mixture with an interval and less its optimism, what other methods say to it, and the runs worth buying next.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from curricle.analysis.finding import Finding
from curricle.analysis.swarms.choosing import Problem, choose, choose_among, resample_weights
from curricle.analysis.swarms.foldwise import cv_plus, scatter
from curricle.analysis.swarms.members import Member
from curricle.analysis.swarms.mixing_laws import Law, fit_law
from curricle.analysis.swarms.mixture_findings import LEVEL, Answer, Fitted, fit_swarm, witnesses
from curricle.analysis.swarms.recalibration import Moved, Recalibration, recalibrate
from curricle.analysis.swarms.simplex import refuse_too_little, repeated
from curricle.analysis.swarms.swarm import Row, Swarm, join_column, read_amounts, read_ratios, read_swarm
from curricle.study import Refused, nearest

RESAMPLES = 64
Amounts = Sequence[Row] | Mapping[str, float]
Tables = tuple[Sequence[Row], Sequence[Row]]


def more_is_better(name: str) -> bool:
    """Whether a metric's last word says so, also with a harness's filter behind it: `gsm8k/exact_match,none`."""
    from curricle.results import ACCURACIES  # whose room imports pyarrow

    words = rf"{'|'.join(ACCURACIES)}|f1|mcc|auc|bleu|(?:pass|maj)(?:@|_at_)(?:k|\d+)"
    return re.search(rf"(?:^|[^a-z0-9])(?:{words})(?:,[\w-]+)?$", name, re.I) is not None


# ---- predictions ---------------------------------------------------------------------------------------------------


def predictions(
    ratios: Sequence[Row], metrics: Sequence[Row], others: Sequence[Row], *, targets: Mapping[str, float] | None = None,
    method: str = "auto", larger: Tables | None = None, level: float = LEVEL, seed: int = 0,
) -> list[dict[str, Any]]:  # fmt: skip
    """Every metric (or the targets) for each mixture of `others`: its key as it stood, METRIC, METRIC_low, METRIC_high.

    The interval is CV+: it speaks about one new run of a mixture like the swarm's. With `larger`, a few runs at the
    target size (ratios and metrics), predictions are for that size.
    """
    swarm = read_swarm(ratios, metrics)
    chosen = [swarm.metrics.index(m) for m in weights_of(swarm, targets)] if targets else range(len(swarm.metrics))
    swarm = Swarm(
        swarm.keys, swarm.sources, tuple(swarm.metrics[t] for t in chosen), swarm.p_NJ, swarm.loss_NT[:, list(chosen)]
    )
    key = join_column(ratios, metrics)[0]
    key = key if others and key in others[0] else next(iter(others[0]), key) if others else key
    keys, _, p = read_ratios(others, key, swarm.sources, "predict")
    fitted = fit_swarm(swarm, method, seed)
    moved = at_target_size(fitted, larger)
    middle = fitted.whole.predict(p)[0]
    low_high = prediction_intervals(fitted, p, level)
    if moved is not None:
        middle, low_high = moved.apply(middle), moved.interval(middle, level)
    made: list[dict[str, Any]] = []
    for i, name in enumerate(keys):
        row: dict[str, Any] = {key: name}
        for t, metric in enumerate(swarm.metrics):
            low, high = float(low_high[0, i, t]), float(low_high[1, i, t])
            value = float(middle[i, t])
            row |= {metric: value, f"{metric}_low": min(low, value), f"{metric}_high": max(high, value)}
        made.append(row)
    return made


def prediction_intervals(fitted: Fitted, p_MJ: np.ndarray, level: float = LEVEL) -> np.ndarray:
    """CV+ intervals of every metric: (2, M, T)."""
    folds = fitted.folds
    by_fold, middle = folds.member.predict(p_MJ), fitted.whole.predict(p_MJ)[0]
    made = []
    for t in range(middle.shape[1]):
        residual = folds.residual_NT[:, t]
        size = scatter(folds.outside_NT[:, t], residual)
        units = size.unit(folds.outside_NT[:, t]), size.unit(middle[:, t])
        made.append(cv_plus(by_fold[..., t], residual, folds.fold_N, level, *units))
    return np.stack(made, axis=-1)


def at_target_size(fitted: Fitted, larger: Tables | None) -> Recalibration | None:
    """How the swarm's losses become those of the target size, from a few runs there."""
    if larger is None:
        return None
    runs = read_swarm(*larger)
    p = read_ratios(larger[0], join_column(*larger)[0], fitted.swarm.sources, "larger ratios")[2]
    for name in fitted.swarm.metrics:
        if name not in runs.metrics:
            raise Refused(f"larger metrics: no column {name!r}")
    actual = runs.loss_NT[:, [runs.metrics.index(m) for m in fitted.swarm.metrics]]
    return recalibrate(fitted.whole.predict(p)[0], actual)


# ---- the question --------------------------------------------------------------------------------------------------


def mixture(
    ratios: Sequence[Row], metrics: Sequence[Row], *, targets: Mapping[str, float] | Sequence[str] | None = None,
    method: str = "auto", natural: Amounts | None = None, available: Amounts | None = None,
    budget_tokens: float | None = None, max_epochs: float = 4.0, bounds: Mapping[str, float | str] | None = None,
    max_kl: float | None = None, larger: Tables | None = None, resamples: int = RESAMPLES, seed: int = 0,
) -> list[Finding]:  # fmt: skip
    """The recommended mixture, its gain over natural and uniform, how well the method predicts, what others say, and
    the next runs, as findings of the questions `mixture`, `mixture-gain`, `mixture-fit`, `mixture-next`.

    `targets`: metrics with weights (all alike by default); lower is better. `natural`: the mixture as it comes; by
    default proportional to `available`, else the mean of the swarm. `available` with `budget_tokens`: tokens of each
    source, seen `max_epochs` times at most, repeats worn out by R* = 15.39. `bounds`: a metric's largest value, or
    "natural+0.02". `max_kl`: largest divergence from natural, nats. `larger`: a few runs at the target size.
    """
    swarm = read_swarm(ratios, metrics)
    wanted = weights_of(swarm, targets)
    refuse_higher("target", (m for m, weight in wanted.items() if weight > 0), "leave it out by naming the targets, or")
    refuse_higher("bound", bounds or (), "a bound is a largest value;")
    here, origin = natural_of(swarm, natural, available)
    most, unique = caps(swarm, available, budget_tokens, max_epochs)
    weights = np.array([wanted.get(m, 0.0) for m in swarm.metrics])
    weights /= weights.sum()
    problem = Problem(weights, here, most, unique, np.full(len(weights), np.inf), swarm.metrics, max_kl)
    fitted = fit_swarm(swarm, method, seed)
    moved = at_target_size(fitted, larger)
    random = np.random.default_rng(seed)
    whole: Any = fitted.whole
    if moved is not None:
        whole = (
            whole.rescaled(moved.intercept_T, moved.slope_T) if isinstance(whole, Law)
            else Moved(whole, moved.intercept_T[None], moved.slope_T[None])
        )  # fmt: skip
    problem = narrow = bounded(problem, whole, bounds)
    start = fitted.whole
    if isinstance(whole, Law) and isinstance(start, Law):
        order = np.lexsort(np.sort(swarm.p_NJ, 1).T)
        drawn = np.empty((resamples, len(order)))
        drawn[:, order] = resample_weights(len(order), resamples, random)
        used = np.flatnonzero(weights)  # what carries no weight moves no optimum, so it is not fitted again
        narrow = replace(problem, weights_T=weights[used], names_T=tuple(np.array(swarm.metrics)[used]))
        refits: Any = fit_law(fitted.method, swarm.p_NJ, swarm.loss_NT, drawn, start, only=used)
        if moved is not None:
            refits = refits.rescaled(*(numbers[:, used] for numbers in moved.redrawn(resamples, random)))
        best_run = swarm.p_NJ[int((swarm.loss_NT @ weights).argmin())]
        choice = choose(whole, refits, problem, narrow, (np.full(len(here), 1 / len(here)), best_run))
    else:
        refits = fitted.folds.member
        if moved is not None:
            refits = Moved(refits, *moved.redrawn(len(refits.predict(swarm.p_NJ[:1])), random))
        choice = choose_among(whole, refits, problem, swarm.p_NJ, random)
    said = witnesses(fitted, problem, choice, moved)
    answer = Answer(fitted, problem, choice, whole, refits, narrow, moved, origin, said)
    return [answer.recommended(), *answer.gains(), *answer.fits(), answer.next()]


# ---- what is asked, read -------------------------------------------------------------------------------------------


def weights_of(swarm: Swarm, targets: Mapping[str, float] | Sequence[str] | None) -> dict[str, float]:
    """Metrics to be lowered, with their weights."""
    made = dict.fromkeys(swarm.metrics, 1.0) if targets is None else (
        {m: float(w) for m, w in targets.items()} if isinstance(targets, Mapping) else dict.fromkeys(targets, 1.0)
    )  # fmt: skip
    for name, weight in made.items():
        if name not in swarm.metrics:
            raise unknown_metric("target", name, swarm.metrics)
        if not (np.isfinite(weight) and weight >= 0):
            raise Refused(f"target: {name}: weight {weight:g}; a weight is 0 or more")
    if not sum(made.values()) > 0:
        raise Refused("target: all weights are 0")
    return made


def refuse_higher(what: str, metrics: Iterable[str], way: str) -> None:
    """A mixture lowers its targets: one of which more is better would be made worse, and recommended for it."""
    for name in metrics:
        if more_is_better(name):
            raise Refused(
                f"{what}: {name}: higher is better, and a mixture lowers its targets; {way} give an error rate"
            )


def unknown_metric(what: str, name: str, known: Sequence[str]) -> Refused:
    """Names the metrics that have this name in theirs, or the nearest, and then all: `arxiv` is meant for some of
    them, and which one is not guessed."""
    inside = [metric for metric in known if name.lower() in metric.lower()]
    meant = f"did you mean {' or '.join(map(repr, inside))}?" if inside else nearest(name, known)
    every = "" if meant.startswith("known") else f" known: {', '.join(known)}"
    return Refused(f"{what}: unknown metric {name!r}; {meant}{every}")


def natural_of(swarm: Swarm, natural: Amounts | None, available: Amounts | None) -> tuple[np.ndarray, str]:
    """The natural mixture, and in words where it comes from."""
    if natural is not None:
        amounts, origin = amounts_of(natural, swarm, "natural"), "as given"
    elif available is not None:
        amounts, origin = amounts_of(available, swarm, "available"), "in proportion to the tokens available"
    else:
        amounts, origin = swarm.p_NJ.mean(0), "the mean of the swarm"
    return amounts / amounts.sum(), origin


def amounts_of(given: Amounts, swarm: Swarm, table: str) -> np.ndarray:
    rows = [{"source": s, "amount": a} for s, a in given.items()] if isinstance(given, Mapping) else given
    return read_amounts(rows, swarm.sources, table)


def caps(
    swarm: Swarm, available: Amounts | None, budget_tokens: float | None, max_epochs: float
) -> tuple[np.ndarray, np.ndarray]:
    """The largest share of each source, and its unique tokens over the budget. What no run ever read gets no share."""
    most = np.where(swarm.p_NJ.max(0) > 0, 1.0, 0.0)
    unique = np.full(len(most), np.inf)
    if (available is None) != (budget_tokens is None):
        raise Refused("available: goes together with budget_tokens: both are needed to count epochs")
    if available is not None and budget_tokens is not None:
        if not (max_epochs > 0 and budget_tokens > 0):
            raise Refused(f"max_epochs: {max_epochs:g}; it and the budget must be above 0")
        unique = amounts_of(available, swarm, "available") / budget_tokens
        most = np.minimum(most, max_epochs * unique)
        refuse_too_little(most)  # before anything is fitted
    return most, unique


def bounded(problem: Problem, whole: Member, bounds: Mapping[str, float | str] | None) -> Problem:
    """The problem with its floors: numbers, or `natural+X` above what the natural mixture is predicted to reach."""
    limits = problem.bounds_T.copy()
    at_natural = whole.predict(repeated(problem.natural_J[None], problem.unique_J)[0])[0, 0]
    for name, bound in (bounds or {}).items():
        if name not in problem.names_T:
            raise unknown_metric("bound", name, problem.names_T)
        t = problem.names_T.index(name)
        text = str(bound).strip()
        try:
            limits[t] = float(text.removeprefix("natural") or 0) + (at_natural[t] if text.startswith("natural") else 0)
        except ValueError:
            raise Refused(f"bound: {name}={bound}: write a number, or natural+0.02") from None
    if problem.divergence is not None and not problem.divergence > 0:
        raise Refused(f"max_kl: {problem.divergence:g}; it must be above 0")
    return replace(problem, bounds_T=limits)
