"""What a code stage can give at most, from the losses of training itself (docs/theory.md, section 11).

    regret_bound(steps, code="code first", scratch="from scratch", stage="math")
    head_start_bound(…)   information_bound(…, control="procedural first", parameters=1_000_000)

`steps` are one row for each training step (`strategy, seed, stage, step, tokens, loss_nats, batch_tokens`;
`outcomes.steps_of`). A loss was taken before its batch was learnt from, so on a first pass its sum is a code length.
Every finding is an upper limit in bits per token of the stage, with what was measured beside it (`measured` in `parts`,
and along the stage in `table`), the assumption that it needs, and what shows that the assumption fails.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np

from curricle.analysis.code_length import Floor, Lengths, binned, code_lengths, scratch_floor
from curricle.analysis.finding import BITS_PER_TOKEN, THESE_WEIGHTS, THIS_STRATEGY, Finding, Interval, Part, join
from curricle.analysis.rows.arms import Row
from curricle.analysis.statistics.intervals import Estimate, student
from curricle.study import Refused

ONLINE = "online loss"


# ---- the bounds ---------------------------------------------------------------------------------------------------


def regret_bound(
    steps: Iterable[Row],
    code: str,
    scratch: str,
    stage: str,
    *,
    floor_nats: float | None = None,
    first_pass_tokens: float | None = None,
    level: float = 0.95,
) -> Finding:
    """C_scratch − C_code ≤ R_scratch: no beginning saves more bits than the scratch learner spends above the entropy.

    `floor_nats` is the text's entropy per token where it is known (a generated source); otherwise the scratch curve's
    fitted floor stands for it, and the finding says so. In `table` what was saved and the bound, cumulated along the
    stage; with the floor at 0 the bound is certain (`certain` in `parts`) and empty."""
    made = code_lengths(steps, stage, [scratch, code], first_pass_tokens)
    base, after = made[scratch], made[code]
    saved = saving(base, after)
    floor = _given(floor_nats) or scratch_floor(base)
    above = _above(base, floor, np.ones_like(base.n_T), level)
    bound, low, high = (float(a[-1]) / base.tokens for a in above)
    mean = bound + floor.estimate
    gained_T = (base.bits_ST - after.bits_ST).mean(axis=0)
    table = _along(base, np.cumsum(gained_T), *above)
    parts = {"strategy": code, "against": scratch, **_measured(saved, level), **_floor_parts(floor), "certain": mean,
             "tokens": base.tokens, "saved_bits": saved.value * base.tokens,
             "share": saved.value / bound if bound > 0 else None}  # fmt: skip
    broken = _passes(saved, mean - floor.low, level)
    parts["violated"] = broken
    assumption = (
        "Assumes that the floor is the text's entropy, as given."
        if floor_nats is not None
        else "The floor is the scratch curve's own, fitted: an estimate of the entropy, which may lie "
        "lower unseen, so the bound is an estimate too."
    )
    fails = "More was saved than the bound: the floor is above the entropy, or text was read twice." if broken else ""
    return Finding(
        "bound-regret", f"{code} over {scratch} in {stage}", ONLINE, stage, bound, BITS_PER_TOKEN,
        _limits(base, floor, max(0.0, low), high, level), seeds=len(base.seeds),
        note=join([assumption, fails, saved.note, _one_seed(base, floor)]), parts=parts, table=table,
    )  # fmt: skip


def head_start_bound(
    steps: Iterable[Row],
    code: str,
    scratch: str,
    stage: str,
    *,
    floor_nats: float | None = None,
    first_pass_tokens: float | None = None,
    level: float = 0.95,
) -> Finding:
    """If code is worth at most T̄ tokens of the stage's text, L_code(x) ≥ L_scratch(x + T̄), all that it saves is at most
    R_scratch(T̄) = Σ over the first T̄ tokens of (L_scratch − E) ≈ A·T̄^(1−α)/(1−α): a constant, so the saving per token
    falls as 1/D.

    T̄ is the largest horizontal distance between the two curves, where the scratch curve reaches. Beside it stand
    `marginal_slope`, the power with which the saving of a further token falls (below −1: the total stays bounded, as a
    head start's does; above: it grows, as it does where code multiplies the worth of every token), and `mean_slope`,
    that of the mean saving (−1 once the total has been saved). Undefined where the scratch curve never reaches the
    other's losses: then the head start is longer than the stage."""
    made = code_lengths(steps, stage, [scratch, code], first_pass_tokens)
    base, after = made[scratch], made[code]
    saved, floor = saving(base, after), _given(floor_nats) or scratch_floor(base)
    gained_T = (base.bits_ST - after.bits_ST).mean(axis=0)
    x, ahead = head_start(base, after)
    seen = np.isfinite(ahead)
    parts: dict[str, Part] = {
        "strategy": code, "against": scratch, **_measured(saved, level), **_floor_parts(floor), "tokens": base.tokens,
    }  # fmt: skip
    about = ("bound-head-start", f"{code} over {scratch} in {stage}", ONLINE, stage)
    if not seen.any():
        why = f"{scratch} never comes down to {code}'s losses: the head start is longer than {base.tokens:,.0f} tokens"
        return Finding(*about, None, BITS_PER_TOKEN, undefined=why, seeds=len(base.seeds), parts=parts)
    start = float(max(ahead[seen].max(), 0.0))
    within = np.clip(
        (start - (base.x_T - base.n_T)) / base.n_T, 0.0, 1.0
    )  # what part of a batch lies in the head start
    above = _above(base, floor, within, level)
    bound, low, high = (max(float(a[-1]), 0.0) / base.tokens for a in above)
    most = max(float(((base.bits_ST.mean(axis=0) - floor.low * base.n_T) * within).sum()), 0.0) / base.tokens
    early, late = ahead[seen][: int(seen.sum()) // 2], ahead[seen][int(seen.sum()) // 2 :]
    first, then = float(np.median(early)) if len(early) else None, float(np.median(late))
    i = saved.interval(level)
    helps = (saved.value if i is None or i.low is None else i.low) > 0  # without help the distances are noise
    growing = bool(helps and first is not None and then > 0 and then > 1.5 * first)
    parts |= {
        "head_start_tokens": start, "head_start_early": first,
        "head_start_late": then, "growing": growing, "bound_bits": bound * base.tokens,
        "formula_bits": floor.excess(start), "saved_bits": saved.value * base.tokens,
        "violated": _passes(saved, most, level), **_slopes(base, after, start, level),
    }  # fmt: skip
    table = list(_along(base, np.cumsum(gained_T), *above))
    for k, row in enumerate(table):
        at = float(np.interp(math.log(float(row["tokens"] or 1)), np.log(x[seen]), ahead[seen]))
        reached = float(row["tokens"] or 0) <= float(x[seen].max())
        table[k] = {**row, "head_start": at if reached else None}
    said = (
        "The head start grows along the stage: what came before makes tokens worth more rather than standing for some, "
        "and this bound speaks of the stage's length only, not of longer ones."
        if growing
        else "The saving per token must fall as 1/D when the stage grows."
    )
    short = "The scratch curve reaches the other's losses on a part of the stage only." if not seen.all() else ""
    return Finding(
        *about, bound, BITS_PER_TOKEN,
        _limits(base, floor, min(low, bound), max(high, bound), level) if start else (),
        seeds=len(base.seeds), parts=parts, table=tuple(table),
        note=join([
            f"Assumes that the start of {code} is worth at most {start:,.0f} tokens of {stage} at every point, which "
            "is held fixed.",
            said, short, _one_seed(base, floor),
            "" if start else f"{code} is nowhere ahead: no head start was seen, and a sum over none has no interval.",
        ]),
    )  # fmt: skip


def information_bound(
    steps: Iterable[Row],
    code: str,
    scratch: str,
    stage: str,
    *,
    control: str | None,
    parameters: float | None,
    bits_per_parameter: float = 2.0,
    code_stage: str | None = None,
    first_pass_tokens: float | None = None,
    level: float = 0.95,
) -> Finding:
    """C_scratch − C_code ≤ R_opt + min{I(M; X_code), H(W_code)}: what slow optimisation costs the scratch learner, and
    what the weights can carry over about the text.

    R_opt is measured by what a procedural `control` saves, which says nothing about the text; the information is at
    most `bits_per_parameter`·`parameters` (where they are known), and at most the code length of the code stage itself
    where `code_stage` names it; one of the two is needed. Undefined without a control: a cap on information alone is no
    bound, since a stage may only have cured slow optimisation."""
    steps = list(steps)
    names = [scratch, code, *([control] if control else [])]
    made = code_lengths(steps, stage, names, first_pass_tokens)
    base = made[scratch]
    saved = saving(base, made[code])
    if not (parameters or code_stage):
        raise Refused("parameters: not known, nor a code_stage named; one of them caps what the weights can carry")
    caps = {"weights": bits_per_parameter * parameters} if parameters else {}
    if code_stage:
        before = code_lengths(steps, code_stage, [code])[code]
        caps[f"{code_stage} text"] = float(before.bits_ST.sum(axis=1).mean())
    least = min(caps, key=lambda name: caps[name])
    parts: dict[str, Part] = {
        "strategy": code, "against": scratch, **_measured(saved, level), "tokens": base.tokens,
        "cap": least, "cap_per_token": caps[least] / base.tokens,
        **{f"cap_bits: {name}": value for name, value in caps.items()},
    }  # fmt: skip
    about = ("bound-information", f"{code} over {scratch} in {stage}", ONLINE, stage)
    if control is None:
        why = (
            f"without a procedural control the cost of slow optimisation is not known; the weights carry at most "
            f"{caps[least] / base.tokens:.3g} bits per token of {stage} ({least}), which alone is no bound"
        )
        return Finding(*about, None, BITS_PER_TOKEN, undefined=why, seeds=len(base.seeds), parts=parts)
    cured = saving(base, made[control])
    more = Estimate(*_paired(made[control], made[code]), THIS_STRATEGY)  # what code saves beyond the control
    bound = max(cured.value, 0.0) + caps[least] / base.tokens
    i = cured.interval(level)
    cap = caps[least] / base.tokens
    intervals = (Interval(max(i.low or 0.0, 0.0) + cap, max(i.high or 0.0, 0.0) + cap, i.kind, level),) if i else ()
    extra = more.interval(level)
    parts |= {
        "control": control, "control_saved": cured.value, "beyond_control": more.value,
        "beyond_low": extra.low if extra else None, "beyond_high": extra.high if extra else None,
        "violated": bool(extra and extra.low is not None and extra.low > cap),
    }  # fmt: skip
    note = join([
        f"Assumes that {control} cures as much slow optimisation as {code} (where it cures less, more can be saved "
        f"than the bound), and {bits_per_parameter:g} bits per parameter." if least == "weights" else
        f"Assumes that {control} cures as much slow optimisation as {code}; the weights know no more than the text of "
        f"{code_stage}.",
        f"{code} saves more beyond the control than its weights could carry: the control does not cure all."
        if parts["violated"] else "",
    ])  # fmt: skip
    return Finding(*about, bound, BITS_PER_TOKEN, intervals, seeds=len(base.seeds), note=note, parts=parts)


# ---- pieces -------------------------------------------------------------------------------------------------------


def saving(base: Lengths, after: Lengths) -> Estimate:
    """C_scratch − C_code per token, over seeds: each seed reads its own batches, so runs and text vary together."""
    value, variance, df = _paired(base, after)
    note = "" if variance is not None else "One seed: no interval for what was saved."
    return Estimate(value, variance, df, THIS_STRATEGY, note)


def _paired(base: Lengths, after: Lengths) -> tuple[float, float | None, float]:
    per_seed = (base.bits_ST - after.bits_ST).sum(axis=1) / base.tokens
    s = len(per_seed)
    variance = float(per_seed.var(ddof=1) / s) if s > 1 else None
    return float(per_seed.mean()), variance or None, float(max(s - 1, 1))


def _passes(saved: Estimate, limit: float | None, level: float) -> bool:
    """Whether what was saved is told to be more than a limit."""
    i = saved.interval(level)
    low = saved.value if i is None else i.low
    return limit is not None and low is not None and low > limit * (1 + 1e-9)


def _given(floor_nats: float | None) -> Floor | None:
    if floor_nats is None:
        return None
    bits = floor_nats / math.log(2)
    return Floor(bits, bits, bits, 0.0, 1.0, 0.0)


def _measured(saved: Estimate, level: float) -> dict[str, Part]:
    i = saved.interval(level)
    return {"measured": saved.value, "measured_low": i.low if i else None, "measured_high": i.high if i else None}


def _floor_parts(floor: Floor) -> dict[str, Part]:
    return {"floor": floor.estimate, "floor_low": floor.low, "floor_high": floor.high, "alpha": floor.alpha}


def _above(base: Lengths, floor: Floor, within_T: np.ndarray, level: float) -> list[np.ndarray]:
    """What the scratch learner spends above the floor, cumulated along the stage in bits, with its lower and upper
    limit: the floor's interval and, with two seeds or more, that of the mean over seeds, in quadrature on each side."""
    spent_ST = np.cumsum(base.bits_ST * within_T, axis=1)
    read_T = np.cumsum(base.n_T * within_T)
    s = len(base.seeds)
    half_T = np.zeros_like(read_T)
    if s > 1:
        half_T = float(student(s - 1, level)) * spent_ST.std(axis=0, ddof=1) / math.sqrt(s)
    bound_T = spent_ST.mean(axis=0) - floor.estimate * read_T
    down_T, up_T = ((floor.high - floor.estimate) * read_T, (floor.estimate - floor.low) * read_T)
    return [bound_T, bound_T - np.hypot(down_T, half_T), bound_T + np.hypot(up_T, half_T)]


def _limits(base: Lengths, floor: Floor, low: float, high: float, level: float) -> tuple[Interval, ...]:
    """Of this strategy with two seeds or more; with one of these weights alone, and none where the floor is given."""
    if len(base.seeds) > 1:
        return (Interval(low, high, THIS_STRATEGY, level),)
    return (Interval(low, high, THESE_WEIGHTS, level),) if floor.high > floor.low else ()


def _one_seed(base: Lengths, floor: Floor) -> str:
    if len(base.seeds) > 1:
        return ""
    return "One seed: what another run would spend is not in the limit" + (
        "." if floor.high == floor.low else ", which is the floor's alone."
    )


def _along(base: Lengths, *sums_T: np.ndarray) -> tuple[dict[str, Part], ...]:
    """At some 60 points of the stage: what was saved, the bound, its lower and upper limit, each cumulated, in bits."""
    at = np.unique(np.geomspace(1, len(base.x_T), 60).astype(int)) - 1
    sums = [column[at] for column in sums_T]
    return tuple(
        {"tokens": float(x), **{name: float(s[i]) for name, s in zip(("saved", "bound", "low", "high"), sums)}}
        for i, x in enumerate(base.x_T[at])
    )


def head_start(base: Lengths, after: Lengths) -> tuple[np.ndarray, np.ndarray]:
    """At points along the stage, how many tokens later the scratch learner has the loss that the other has there; NaN
    where it never comes to it. The scratch curve is made to fall (its isotonic fit), and read between bins."""
    x, y, n = binned(base, base.bits_ST.mean(axis=0))
    _, z, _ = binned(after, after.bits_ST.mean(axis=0))
    falling = _isotonic(y, n.astype(float))
    order = np.argsort(falling, kind="stable")
    reach = np.interp(z, falling[order], np.log(x)[order], left=np.nan)
    return x, np.where(z < falling.min(), np.nan, np.exp(reach) - x)


def _isotonic(y: np.ndarray, w: np.ndarray) -> np.ndarray:
    """The falling sequence closest to y (pool adjacent violators), made strictly so by a hair."""
    blocks: list[list[float]] = []
    for value, weight in zip(y, w):
        blocks.append([float(value), float(weight), 1])
        while len(blocks) > 1 and blocks[-2][0] <= blocks[-1][0]:
            v, u, k = blocks.pop()
            b = blocks[-1]
            blocks[-1] = [(b[0] * b[1] + v * u) / (b[1] + u), b[1] + u, b[2] + k]
    made = np.concatenate([np.full(int(k), v) for v, _, k in blocks])
    return made - 1e-12 * np.arange(len(made))


def _slopes(base: Lengths, after: Lengths, start: float, level: float) -> dict[str, Part]:
    """The powers with which the mean saving, and that of a further token, fall with tokens, past the head start (or the
    stage's first tenth), one for each seed; intervals are t over seeds."""
    found: dict[str, list[float]] = {"mean_slope": [], "marginal_slope": []}
    for s in range(len(base.seeds)):
        gained = base.bits_ST[s] - after.bits_ST[s]
        one = base._replace(bits_ST=gained[None])
        x, each, n = binned(one, gained, 0.1)
        past = x >= min(start, base.tokens / 4)
        total = np.interp(np.log(x), np.log(base.x_T), np.cumsum(gained)) / x
        for name, y in (("mean_slope", total), ("marginal_slope", each)):
            ok = past & (y > 0)
            if ok.sum() >= 4 and ok.sum() >= 0.8 * past.sum():
                found[name].append(float(np.polyfit(np.log(x[ok]), np.log(y[ok]), 1, w=np.sqrt(n[ok]))[0]))
    made: dict[str, Part] = {}
    for name, slopes in found.items():
        whole = len(slopes) == len(base.seeds)
        made[name] = float(np.mean(slopes)) if whole else None
        half = None
        if whole and len(slopes) > 1:
            half = float(student(len(slopes) - 1, level)) * float(np.std(slopes, ddof=1)) / math.sqrt(len(slopes))
        made[f"{name}_low"] = None if half is None else float(np.mean(slopes)) - half
        made[f"{name}_high"] = None if half is None else float(np.mean(slopes)) + half
    return made


def bounds(
    steps: Iterable[Row], code: str, scratch: str, stage: str, *, control: str | None = None,
    parameters: float | None = None, **options: Any,
) -> list[Finding]:  # fmt: skip
    """The regret, head-start and (with `parameters`) information bounds of one pair of strategies."""
    rows = list(steps)
    made = [
        regret_bound(rows, code, scratch, stage, **options),
        head_start_bound(rows, code, scratch, stage, **options),
    ]
    if parameters:
        passed = {k: v for k, v in options.items() if k != "floor_nats"}
        made.append(information_bound(rows, code, scratch, stage, control=control, parameters=parameters, **passed))
    return made
