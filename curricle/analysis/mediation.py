"""Transfer through measured skills: a mediation analysis, after treatment, and named so.

Doses are assigned; skills are what came of them, s_j = (L_j⁰ − L_j)/(L_j⁰ − E_j) on held-out text of each source (at
most 1, negative where it was forgotten). That a run with more skill scores higher may be the skill's work or that of a
third thing that moved both, so this describes how an effect may have come about and never replaces `transfer`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from curricle.analysis.finding import ACCURACY, BITS_PER_BYTE, LOG_LOSS, LOGITS, THESE_PROBLEMS, Finding, Part, join
from curricle.analysis.rows.cells import Row, finite, read_factorial
from curricle.analysis.rows.columns import typed
from curricle.analysis.rows.outcomes import outcomes
from curricle.analysis.statistics.intervals import Estimate
from curricle.analysis.surface import TERMS, determined, dose_of, link, terms
from curricle.study import Refused

if TYPE_CHECKING:
    from curricle.results import Results

AFTER = (
    "A mediation analysis: skills are measured after treatment, so these coefficients are associations. Noise in a "
    "measured skill pulls its coefficient towards 0."
)


def mediation(
    rows: Sequence[Row] | Results,
    *,
    sources: Sequence[str] = ("code", "math"),
    benchmark: str,
    measure: str | None = None,
    skills: Mapping[str, str] | None = None,
    floors: Mapping[str, float] | None = None,
    guess: float = 0.0,
    floor: float = 0.0,
    level: float = 0.95,
) -> Finding:
    """γ of measured skills, by least squares over runs; t intervals over runs.

    `skills` says on which held-out text each source's skill is measured (the one of its own name), `floors` its E_j
    (0). `parts["direct_p"]` tests whether the assigned doses still tell anything once the skills are known: small means
    that these skills do not carry the whole effect. Raises `Refused` where a skill has no rows, or is the outcome.
    """
    plain = typed(outcomes(rows) if hasattr(rows, "sql") else rows)  # type: ignore[arg-type]
    design = read_factorial(plain, sources, benchmark, measure)
    texts = {source: (skills or {}).get(source, source) for source in design.sources}
    own = [source for source, text in texts.items() if text == benchmark and design.measure == BITS_PER_BYTE]
    if own:
        raise Refused(
            f"skills: the skill of {own[0]!r} is measured on {benchmark!r}, which is the outcome; name another"
        )
    f = link(design, guess, floor)
    unit = LOGITS if design.measure == ACCURACY else LOG_LOSS
    about = Finding(
        "transfer-mediated", f"measured skill in {' and '.join(design.sources)} together", design.measure,
        benchmark, None, unit, n=max(cell.items for cell in design.cells),
        seeds=min(len(cell.seeds) for cell in design.cells),
        runs=tuple(run for cell in design.cells for run in cell.runs), undefined="", note=AFTER,
    )  # fmt: skip
    if isinstance(f, str):
        return replace(about, undefined=f"no scale of f: {f}")
    keys = final_keys(plain, benchmark, design.measure)
    losses = [final_scores(plain, texts[source], source, keys) for source in design.sources]
    score = np.array([finite(row, "score") for row in keys.values()])
    doses = np.array([[finite(row, f"dose:{source}") for source in design.sources] for row in keys.values()])
    none = (doses <= doses.min(0)).all(1)
    if not none.any():
        raise Refused("no run has the lowest dose of both sources, from which skills are counted")
    skill, origin = [], []
    for source, loss in zip(design.sources, losses):
        start, least = float(loss[none].mean()), (floors or {}).get(source, 0.0)
        if start <= least:
            raise Refused(
                f"floors: {source}: {least:g} is not below the loss that skills are counted from, {start:.4g}"
            )
        skill.append((start - loss) / (start - least))
        origin.append(float(loss[none].var(ddof=1)) / none.sum() / (start - least) ** 2 if none.sum() > 1 else 0.0)
    x = terms(skill)
    assigned = terms([dose_of(list(column), None, None)(column) for column in doses.T])[:, 1:]
    spare = len(score) - x.shape[1]
    if spare < 1 or not determined(x):
        return replace(about, undefined=f"{len(score)} runs do not determine the {x.shape[1]} terms")
    y = f.to(score)
    beta = np.linalg.lstsq(x, y, rcond=None)[0]
    left = float(((y - x @ beta) ** 2).sum())
    covariance = np.linalg.inv(x.T @ x) * left / spare
    parts: dict[str, Part] = {"first": design.sources[0], "second": design.sources[1], "scale": f.name}
    made = {}
    for k, name in enumerate(TERMS[1:4], start=1):
        made[name] = counted_from(
            Estimate(float(beta[k]), float(covariance[k, k]) or None, spare, THESE_PROBLEMS),
            {"alpha": (beta[1] ** 2 * origin[0], beta[3] ** 2 * origin[1]),
             "beta": (beta[3] ** 2 * origin[0], beta[2] ** 2 * origin[1]),
             "gamma": (beta[3] ** 2 * origin[0], beta[3] ** 2 * origin[1])}[name],
            int(none.sum()) - 1,
        )  # fmt: skip
        interval = made[name].interval(level)
        low, high = (interval.low, interval.high) if interval else (None, None)
        parts |= {name: float(beta[k]), f"{name}_low": low, f"{name}_high": high}
    spread = float(((y - y.mean()) ** 2).sum())
    parts |= {"explained": 1 - left / spread if spread else None, "direct_p": direct(x, assigned, y, left)}
    interval = made["gamma"].interval(level)
    told = parts["direct_p"]
    direct_note = "The doses tell more than these skills do, so the skills do not carry the whole effect."
    return replace(
        about, estimate=made["gamma"].value, undefined=None, intervals=(interval,) if interval else (),
        p_value=made["gamma"].p_value, test=f"t over runs, {made['gamma'].df:.3g} degrees of freedom", parts=parts,
        note=join([AFTER, direct_note if isinstance(told, float) and told < 0.05 else ""]),
        table=tuple(
            {"strategy": str(row.get("strategy", "")), "seed": row["seed"], "first": float(a), "second": float(b),
             "score": float(value)}
            for row, a, b, value in zip(keys.values(), *skill, score)
        ),
    )  # fmt: skip


def counted_from(estimate: Estimate, more: Sequence[float], df: int) -> Estimate:
    """The estimate with the variance of where skills are counted from. That loss is a mean over few runs; m too low by
    a share, it stretches its skill by 1/(1 − m) and shifts it, which moves α by αm₁ + γm₂ and γ by γ(m₁ + m₂)."""
    if estimate.variance is None or df < 1 or not sum(more):
        return estimate
    total = estimate.variance + sum(more)
    below = estimate.variance**2 / estimate.df + sum(v**2 for v in more) / df
    return replace(estimate, variance=total, df=total**2 / below)


def direct(x: np.ndarray, assigned: np.ndarray, y: np.ndarray, left: float) -> float | None:
    """F test of the assigned doses' terms beside the skills'."""
    from scipy.special import fdtrc

    both = np.concatenate([x, assigned], axis=1)
    spare = len(y) - both.shape[1]
    if spare < 1 or not determined(both):
        return None
    rest = float(((y - both @ np.linalg.lstsq(both, y, rcond=None)[0]) ** 2).sum())
    return (
        float(fdtrc(assigned.shape[1], spare, max(left - rest, 0.0) / assigned.shape[1] / (rest / spare)))
        if rest
        else None
    )


def final_keys(rows: Sequence[Row], benchmark: str, measure: str) -> dict[tuple[Any, Any], Row]:
    return {
        (row.get("strategy"), row["seed"]): row
        for row in rows
        if row["benchmark"] == benchmark and row["measure"] == measure and row.get("final", True)
    }


def final_scores(rows: Sequence[Row], text: str, source: str, keys: Mapping[tuple[Any, Any], Row]) -> np.ndarray:
    """The loss on a text at the end of each run."""
    found = final_keys(rows, text, BITS_PER_BYTE)
    lacking = [key for key in keys if key not in found]
    if lacking:
        raise Refused(
            f"skills: {source}: no bits per byte on {text!r} for {len(lacking)} of {len(keys)} runs, the first "
            f"{lacking[0][0]!r} with seed {lacking[0][1]}; say by skills={{{source!r}: NAME}} which held-out text it is"
        )
    return np.array([finite(found[key], "score") for key in keys])
