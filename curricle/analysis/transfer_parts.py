"""The parts of a transfer finding beside γ: each effect with its limits, what the design could have seen, what a
modelled filler does, tests of shape that no scale can alter, the effect of order, and κ."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from curricle.analysis.finding import THESE_PROBLEMS, Part
from curricle.analysis.rows.cells import Factorial, ordered
from curricle.analysis.statistics.crossover import double_cancellation, gail_simon
from curricle.analysis.statistics.intervals import Estimate, holm
from curricle.analysis.statistics.spread import reach
from curricle.analysis.surface import LACK, Cells, Surface, fit, power_needed, prefix_factor


def scale_parts(prefix: str, cells: Cells, used: Sequence[int], x_CK: np.ndarray, level: float) -> dict[str, Part]:
    """α, β, γ (and φ of the filler) on one scale, each with the limits of the widest claim; the seeds' spread."""
    surface = fit(cells, used, x_CK)
    assert surface is not None
    made: dict[str, Part] = {}
    for name in [name for name in surface.weights if name != "base"]:
        widest = surface.term(name)[0]
        made |= limits(prefix + name, widest, level)
    return made | {f"{prefix}seed_sd": cells.sd, f"{prefix}df": cells.df}


def limits(name: str, e: Estimate, level: float) -> dict[str, Part]:
    interval = e.interval(level)
    low, high = (interval.low, interval.high) if interval else (None, None)
    return {name: e.value, f"{name}_low": low, f"{name}_high": high, f"{name}_p": e.p_value}


def power_parts(cells: Cells, surface: Surface) -> dict[str, Part]:
    """The smallest γ that such a design finds in 8 of 10 studies: (t.975 + t.8)·SE, a little more where the cells are
    tested for lying on T."""
    if not cells.df or not cells.pooled:
        return {"smallest_gamma": None}
    error = (cells.pooled * float((surface.weights["gamma"] ** 2 / cells.counts_C).sum())) ** 0.5
    return {"smallest_gamma": reach(cells.df, power=power_needed(surface.lack_p is not None)) * error}


def items_parts(cells: Cells, surface: Surface, widest: Estimate) -> dict[str, Part]:
    """γ's standard error over other items, at most: where rows state each run's variance over items and no more, cells
    are taken as unpaired."""
    apart = cells.apart(surface.weights["gamma"]) if widest.kind == THESE_PROBLEMS and cells.df else None
    return {"items_error_at_most": apart**0.5 if apart else None}


def filler_parts(cells: Cells, surface: Surface, x_CK: np.ndarray) -> dict[str, Part]:
    """γ had the filler not been modelled; how many times as wide its interval is for being modelled; and how many times
    as large its variance could be because cells that begin with the same filler share that run."""
    without = fit(cells, surface.used.tolist(), x_CK[:, :4])
    assert without is not None
    mine, plain = (s.weights["gamma"] for s in (surface, without))
    ratio = float((mine**2 / cells.counts_C).sum()) / float((plain**2 / cells.counts_C).sum())
    fillers = np.array([cell.filler for cell in cells.cells])
    same_CC = (fillers[:, None] == fillers) & (fillers > 0)
    return {
        "gamma_without_filler": without.coefficients["gamma"],
        "inflation": ratio**0.5,
        "prefix_factor": prefix_factor(mine, same_CC),
    }


def shape_parts(design: Factorial, flat: Cells, used: Sequence[int]) -> dict[str, Part]:
    """Tests on the raw means that no increasing f can alter: does an effect change its sign with the other source
    (highest dose − lowest, at each dose of the other), and can any sum of two parts give this order of cells?

    Neither is asked of cells with a filler: it changes with the doses, so that the sign of a difference of two cells
    is not the sign of a source's effect, and a concave filler alone turns it (docs/theory.md, 3).
    """
    places = {flat.cells[k].doses: k for k in used}
    levels = [sorted({doses[axis] for doses in places}) for axis in (0, 1)]
    tests: list[float | None] = []
    for axis in (0, 1):
        effects = []
        for other in levels[1 - axis]:
            ends = [(end, other) if axis == 0 else (other, end) for end in (levels[axis][0], levels[axis][-1])]
            if all(end in places for end in ends):
                weights = np.zeros(len(flat.cells))
                weights[[places[end] for end in ends]] = -1.0, 1.0
                effects.append(flat.contrast(weights))
        alone = [each[0] for each in effects]
        p = None
        if len(alone) > 1 and all(e.variance for e in alone) and not design.filler:
            variances = [e.variance or 0.0 for e in alone]
            p = gail_simon([e.value for e in alone], variances, min(e.df for e in alone))
        tests.append(p)
    made = crossovers(tests)
    whole = len(places) == len(levels[0]) * len(levels[1]) and flat.df > 0 and not design.filler
    made["double_cancellation_p"] = None
    if whole and flat.pooled > 0:
        grid = [[places[a, b] for b in levels[1]] for a in levels[0]]
        variances_RC = (flat.variances_C if flat.spread.uneven else flat.pooled) / flat.counts_C
        made["double_cancellation_p"] = double_cancellation(flat.means_C[grid], variances_RC[grid], flat.df)
    return made


def crossovers(tests: Sequence[float | None]) -> dict[str, Part]:
    """The p of "its effect keeps its sign" for the first source and for the second, and the smaller after Holm."""
    first, second = tests
    either = min((p for p in holm(tests) if p is not None), default=None)
    return {"crossover_of_first_p": first, "crossover_of_second_p": second, "crossover_p": either}


def crossover_of_surface(surface: Surface) -> dict[str, Part]:
    """With a filler, which T holds fixed where cells cannot: whether α and α + γ (β and β + γ) differ in sign. Both
    must be shown, so p is the larger of the two, which holds whatever their correlation. Not told where the cells do
    not lie on T, since these signs are the surface's."""
    if surface.lack_p is not None and surface.lack_p < LACK:
        return crossovers((None, None))
    tests: list[float | None] = []
    for alone, beside in sides(surface):
        if alone.p_value is None or beside.p_value is None:
            tests.append(None)
        else:
            tests.append(max(alone.p_value, beside.p_value) if alone.value * beside.value < 0 else 1.0)
    return crossovers(tests)


def sides(surface: Surface) -> list[tuple[Estimate, Estimate]]:
    """Each source's effect at the lowest and at the highest dose of the other: α and α + γ, β and β + γ."""
    contrast, weights = surface.cells.contrast, surface.weights
    return [(contrast(weights[n])[0], contrast(weights[n] + weights["gamma"])[0]) for n in ("alpha", "beta")]


def signs_parts(surface: Surface) -> dict[str, Part]:
    """The p of "some effect changes its sign", the null that must go before γ is called removable: all four effects
    must be told from 0 with two signs that agree, so it is the largest of their p-values."""
    pairs = sides(surface)
    known = [e.p_value for pair in pairs for e in pair if e.p_value is not None]
    if len(known) < 4 or (surface.lack_p is not None and surface.lack_p < LACK):
        return {"signs_keep_p": None}
    return {"signs_keep_p": max(known) if all(a.value * b.value > 0 for a, b in pairs) else 1.0}


def order_parts(design: Factorial, own: Cells, flat: Cells, main: str, level: float) -> dict[str, Part]:
    """(main order − the reverse), averaged over doses at which both were run, on both scales."""
    reverse = ordered(tuple(main.split("→"))[::-1])
    at = {order: {(*c.doses, c.filler): k for k, c in enumerate(design.cells) if c.both and c.order == order}
          for order in (main, reverse)}  # fmt: skip
    common = [doses for doses in at[main] if doses in at[reverse]] if reverse != main else []
    if not common:
        return {"order_pairs": 0}
    weights = np.zeros(len(design.cells))
    for doses in common:
        weights[at[main][doses]] += 1 / len(common)
        weights[at[reverse][doses]] -= 1 / len(common)
    raws, mine = flat.contrast(weights)[0], own.contrast(weights)[0]
    both = limits("order_effect", mine, level) | limits("raw_order_effect", raws, level)
    return {"order_pairs": len(common), **both}


def synergy_parts(design: Factorial, main: str, level: float) -> dict[str, Part]:
    from curricle.analysis.synergy import synergy

    found = synergy(design, order=main, level=level)
    interval = found.interval()
    return {
        "kappa": found.estimate,
        "kappa_low": interval.low if interval else None,
        "kappa_high": interval.high if interval else None,
        "kappa_p": found.parts.get("zero_p"),
        "complementary": found.parts.get("complementary"),
        "kappa_undefined": found.undefined,
    }
