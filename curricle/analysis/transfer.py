"""Transfer: what two sources give together beyond what each gives, T = α·s_c + β·s_m + γ·s_c·s_m with P = f(T).

    finding = transfer(rows, sources=("code", "math"), benchmark="problems", measure="accuracy", filler="prose")
    print(finding.sentence())

Rows are outcomes of a factorial of runs with seeds (`curricle.analysis.outcomes`, or a table with such columns); doses
are assigned, s_c and s_m run from 0 to 1 over them. An interaction belongs to a scale, so a finding says γ on f's scale
(its estimate) and on the raw one, whether an increasing f could remove it, and for losses κ on the scale of effective
tokens, the only one on which complementarity is claimed. Derived in docs/theory.md, section 3.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from curricle.analysis.finding import (
    ACCURACY,
    KAPPA,
    LOG_LOSS,
    LOGITS,
    THESE_PROBLEMS,
    THIS_STRATEGY,
    Finding,
    Interval,
    Part,
    between,
    digits,
    join,
)  # fmt: skip
from curricle.analysis.rows.cells import Factorial, Row, read_factorial
from curricle.analysis.rows.columns import known
from curricle.analysis.rows.compare import holm_adjusted
from curricle.analysis.statistics.intervals import Estimate, holm
from curricle.analysis.surface import (
    LACK,
    Cells,
    Dose,
    Surface,
    determined,
    dose_of,
    fit,
    link,
    on,
    raw,
    terms,
)
from curricle.analysis.transfer_parts import (
    crossover_of_surface,
    filler_parts,
    items_parts,
    order_parts,
    power_parts,
    scale_parts,
    shape_parts,
    signs_parts,
    synergy_parts,
)
from curricle.study import Refused, nearest

if TYPE_CHECKING:
    from curricle.results import Results

FEW_DEGREES = 4
LINES = 25  # points of a fitted line
CLAIMS = ("crossover_p", "signs_keep_p", "double_cancellation_p", "kappa_p")  # beside γ's own
UNTOLD = "γ is not told from 0 on this scale, which is no evidence that it is 0"


def transfer(
    rows: Sequence[Row] | Results,
    *,
    sources: Sequence[str] = ("code", "math"),
    benchmark: str | None = None,
    measure: str | None = None,
    filler: str | None = None,
    order: str | None = None,
    dose_power: float | None = None,
    dose_unit: Mapping[str, float] | None = None,
    guess: float = 0.0,
    floor: float = 0.0,
    synergy: bool = True,
    level: float = 0.95,
) -> Finding:
    """γ on f's scale, with everything beside it in `parts` and the cells and fitted lines in `table`.

    `order`: which cells with both sources the surface rests on, that of `sources` by default ("code→math"); others
    enter the pooled variance and the order effect. `dose_power`: s from D^r instead of log(1 + D/D₀), where D₀ is the
    smallest positive dose of a source unless `dose_unit` gives it. `guess`: accuracy without knowledge, from 0 to 1.
    `floor`: of the loss, E in −ln(L − E). `filler`: the source that keeps total tokens fixed; it is modelled.
    `synergy=False` leaves κ out. Raises `Refused` for rows that are no factorial; where the cells cannot tell γ, the
    finding is undefined and says what is missing.
    """
    design = read_factorial(rows, sources, benchmark, measure, filler)
    found = _measured(design, order, dose_power, dose_unit or {}, guess, floor, synergy, level)
    return concluded(found, level)


def _measured(
    design: Factorial, order: str | None, dose_power: float | None, dose_unit: Mapping[str, float], guess: float,
    floor: float, synergy: bool, level: float,
) -> Finding:  # fmt: skip
    """`transfer` before its test is judged, which may wait for a correction."""
    main = chosen(design, order)
    used = design.of_order(main)
    doses = scales_of_dose(design, dose_power, dose_unit)
    x_CK = regressors(design, doses)
    f = link(design, guess, floor)
    about = words(design, main)
    missing = gap(x_CK[used], design.filler)
    flat = on(raw(design.measure), design.cells)
    parts: dict[str, Part] = {
        "first": design.sources[0],
        "second": design.sources[1],
        "filler": design.filler,
        "order": main,
    }
    if missing or isinstance(f, str):
        parts |= {} if missing else scale_parts("raw_", flat, used, x_CK, level)
        parts |= shape_parts(design, flat, used)
        parts |= {} if isinstance(f, str) else order_parts(design, on(f, design.cells), flat, main, level)
        return replace(about, undefined=missing or f"no scale of f: {f}", parts=parts, table=table(design, flat, None))
    own = on(f, design.cells)
    surface = fit(own, used, x_CK)
    assert surface is not None  # `gap` found nothing missing
    found = surface.term("gamma")
    widest = found[0]
    parts |= {"scale": f.name, **scale_parts("", own, used, x_CK, level), "lack_of_fit_p": surface.lack_p}
    parts |= scale_parts("raw_", flat, used, x_CK, level)
    parts |= power_parts(own, surface) | items_parts(own, surface, widest)
    if design.filler:
        parts |= filler_parts(own, surface, x_CK)
    parts |= shape_parts(design, flat, used) | (crossover_of_surface(surface) if design.filler else {})
    parts |= signs_parts(surface)
    parts |= order_parts(design, own, flat, main, level)
    if synergy and design.measure != ACCURACY:
        parts |= synergy_parts(design, main, level)
    made = replace(
        about, parts=parts, note=join(notes(design, parts, widest, own)),
        table=table(design, flat, Lines(surface, doses, main)),
    )  # fmt: skip
    if surface.lack_p is not None and surface.lack_p < LACK:
        # Under another law γ is that law's curvature, and would be told from 0 where no source helps the other.
        missed = f" ({design.filler}'s own effect may be such; arms of less of it show that)" if design.filler else ""
        why = f"the cells do not lie on T (lack of fit, p = {surface.lack_p:.2g}), so γ may be what T misses{missed}"
        return replace(made, undefined=why)
    return replace(
        made, estimate=widest.value, undefined=None, intervals=tuple(i for e in found if (i := e.interval(level))),
        p_value=widest.p_value, test=tested(widest),
    )  # fmt: skip


def transfers(
    rows: Sequence[Row] | Results, *, sources: Sequence[str] = ("code", "math"), filler: str | None = None,
    order: str | None = None, dose_power: float | None = None, dose_unit: Mapping[str, float] | None = None,
    guess: Mapping[str, float] | None = None, synergy: bool = True, level: float = 0.95,
) -> list[Finding]:  # fmt: skip
    """`transfer` on every benchmark in every measure that the rows hold. Within a measure the p-values of γ, and each
    of the other claims' (`CLAIMS`), are corrected by Holm. `guess` is by benchmark."""
    made = []
    for benchmark, measure in measured_pairs(rows):
        design = read_factorial(rows, sources, benchmark, measure, filler)
        floor = (guess or {}).get(benchmark, 0.0)
        made.append(_measured(design, order, dose_power, dose_unit or {}, floor, 0.0, synergy, level))
    corrected = holm_adjusted(made, lambda f: f.measure)
    for claim in CLAIMS:
        corrected = claims_adjusted(corrected, claim)
    return [concluded(found, level) for found in corrected]


def claims_adjusted(found: Sequence[Finding], claim: str) -> list[Finding]:
    """One claim's p-value in each finding's parts, corrected by Holm over the benchmarks of a measure."""
    made = list(found)
    for measure in {f.measure for f in found}:
        here = [k for k, f in enumerate(found) if f.measure == measure and isinstance(f.parts.get(claim), float)]
        for k, p in zip(here, holm([float(found[k].parts[claim] or 0.0) for k in here])):
            made[k] = replace(found[k], parts={**found[k].parts, claim: p})
    return made


def measured_pairs(rows: Sequence[Row] | Results) -> list[tuple[str, str]]:
    if hasattr(rows, "sql"):
        from curricle.analysis.rows.scores import Benchmark, benchmarks

        return [(name, measure) for name in benchmarks(rows) for measure in Benchmark(rows, name).measures]  # type: ignore[arg-type]
    known(rows, "benchmark", "measure", filled=True)
    return list(dict.fromkeys((row["benchmark"], row["measure"]) for row in rows))


def transfer_published() -> list[Finding]:
    """The two-by-two of DeepSeekMath's tables 6 and 7: 400B tokens of code or of general text, then 150B of
    mathematics or none. One run a cell, so intervals speak about those weights and take cells as unpaired."""
    from curricle.analysis.published import CODE, GENERAL, MATH, tables

    found = tables()["6 and 7"]
    cells = {
        GENERAL: (0.0, 0.0),
        CODE: (4e11, 0.0),
        f"{GENERAL}, {MATH}": (0.0, 1.5e11),
        f"{CODE}, {MATH}": (4e11, 1.5e11),
    }
    rows = [
        {"strategy": model, "seed": 0, "benchmark": benchmark, "measure": ACCURACY,
         "score": found.scores[model][benchmark], "items": found.problems[benchmark],
         "dose:code": code, "dose:math": math, "run": found.name(model)}
        for model, (code, math) in cells.items()
        for benchmark in found.benchmarks
        if benchmark in found.problems and all(found.scores[m][benchmark] is not None for m in cells)
    ]  # fmt: skip
    return transfers(rows)


# ---- what the design can tell -------------------------------------------------------------------------------------


def chosen(design: Factorial, order: str | None) -> str:
    known = design.orders
    if order is not None and order not in known:
        raise Refused(f"order: {order!r} has no cells; {nearest(order, known)}")
    if not known:
        raise Refused(f"no run read both {' and '.join(design.sources)}, so nothing can be said about the two")
    return known[0] if order is None else order


def scales_of_dose(design: Factorial, power: float | None, unit: Mapping[str, float]) -> list[Dose]:
    if power is not None and not 0 < power <= 1:
        raise Refused(f"dose_power: {power!r}; give a number above 0, at most 1")
    named = [*design.sources, *([design.filler] if design.filler else [])]
    levels = [[cell.doses[0] for cell in design.cells], [cell.doses[1] for cell in design.cells]]
    levels += [[cell.filler for cell in design.cells]] if design.filler else []
    for name, these in zip(named, levels):
        if max(these) == min(these):
            raise Refused(f"{name}: every run has {these[0]:,.0f} tokens, so its effect cannot be told; leave it out")
    return [dose_of(these, power, unit.get(name)) for name, these in zip(named, levels)]


def regressors(design: Factorial, doses: Sequence[Dose]) -> np.ndarray:
    tokens = [[cell.doses[0] for cell in design.cells], [cell.doses[1] for cell in design.cells]]
    tokens += [[cell.filler for cell in design.cells]] if design.filler else []
    return terms([dose(np.array(column)) for dose, column in zip(doses, tokens)])


def gap(x_CK: np.ndarray, filler: str | None) -> str:
    """Why these cells cannot tell γ; empty where they can."""
    if determined(x_CK):
        return ""
    if filler and determined(x_CK[:, :4]):
        return (
            f"γ and the effect of the filler {filler!r} cannot be told apart in these {len(x_CK)} cells, since a "
            f"filler that keeps total tokens fixed makes an interaction of its own; three doses of each source, or an "
            f"arm with less filler, would tell them apart"
        )
    return (
        f"these {len(x_CK)} cells do not cross the two sources: γ needs two doses of each with two doses of the other, "
        f"at least 4 cells"
    )


# ---- words and rows -----------------------------------------------------------------------------------------------


def words(design: Factorial, main: str) -> Finding:
    """The finding before it has an estimate."""
    first, second = design.sources
    used = [design.cells[k] for k in design.of_order(main)]
    return Finding(
        "transfer", f"{first} and {second} together, beyond each alone" + (f" ({main})" if main else ""),
        design.measure, design.benchmark, None, LOGITS if design.measure == ACCURACY else LOG_LOSS,
        n=max((cell.items for cell in used), default=0), seeds=min(len(cell.seeds) for cell in used),
        runs=tuple(dict.fromkeys(run for cell in design.cells for run in cell.runs)), undefined="not computed",
    )  # fmt: skip


def tested(e: Estimate) -> str:
    if e.variance is None:
        return ""
    return f"z for {e.kind}, cells unpaired" if e.df > 1e6 else f"t for {e.kind}, {e.df:.3g} degrees of freedom"


def concluded(found: Finding, level: float) -> Finding:
    """The finding with what its corrected p-values allow to be said: `removable` and `complementary` in parts, a
    verdict in its note. `removable` is true or false where one of the two is shown, and None where neither is."""
    parts, filler = dict(found.parts), found.parts["filler"]

    def shown(claim: str) -> bool:
        p = parts.get(claim)
        return isinstance(p, float) and p <= 1 - level

    resolved = found.estimate is not None and found.p_value is not None and found.p_value <= 1 - level
    crossed, keeps = shown("crossover_p"), shown("signs_keep_p")
    parts["removable"] = False if crossed else True if resolved and keeps else None
    if "complementary" in parts:
        parts["complementary"] = bool(parts["complementary"]) and shown("kappa_p")
    told = f"γ is told from 0 on the scale of {parts.get('scale')}"
    said = []
    if found.estimate is not None and not resolved:
        seen = f"; such a design finds γ = {number(parts['smallest_gamma'])} in 8 of 10 studies"
        said.append(f"{UNTOLD}{seen if parts['smallest_gamma'] is not None else ''}.")
    if crossed and filler:
        said.append(
            f"On the surface, with {filler} held, an effect changes its sign with the other source, which no "
            f"increasing scale removes if {filler} adds on the scale of {parts['scale']} as it is modelled to."
        )
    elif crossed:
        said.append("An effect changes its sign with the other source (Gail–Simon), which no increasing scale removes.")
    elif resolved and keeps:
        said.append(f"{told}, but both effects keep their signs: an increasing change of scale could remove it.")
    elif resolved:
        neither = f"no effect is shown to change its sign (p = {number(parts['crossover_p'])}), nor both to keep theirs"
        said.append(f"{told}; whether an increasing change of scale could remove it is not told, since {neither}.")
    if (kappa := kappa_of(found)) is not None:
        value, interval = kappa
        what = f"κ = {digits(value, KAPPA)} ({between(interval, KAPPA)}) on the scale of effective tokens"
        said.append(f"{what}: complementarity is {'claimed' if parts['complementary'] else 'not claimed'}.")
    if shown("double_cancellation_p"):
        p = number(parts["double_cancellation_p"])
        said.append(f"Double cancellation is violated (p = {p}): no increasing function of a sum orders the cells so.")
    return replace(found, parts=parts, note=join([*said, found.note]))


def kappa_of(found: Finding) -> tuple[float, Interval] | None:
    """κ with its profile interval, of a finding `transfer` that has it."""
    told = [found.parts.get(name) for name in ("kappa", "kappa_low", "kappa_high")]
    kappa, low, high = (value if isinstance(value, float) else None for value in told)
    return None if kappa is None else (kappa, Interval(low, high, THESE_PROBLEMS))


def notes(design: Factorial, parts: Mapping[str, Part], widest: Estimate, cells: Cells) -> Iterable[str]:
    """What a reader must know beside the number, in the order of weight."""
    if design.measure != ACCURACY:
        yield "On both scales up is better (less loss), so a positive γ is synergy on that scale."
    lack = parts["lack_of_fit_p"]
    if isinstance(lack, float) and lack < LACK:
        yield "Among the parts, γ is the cells' linear-by-linear contrast, and no more."
    if lack is None:
        yield "Whether the cells lie on T cannot be tested here; under another law γ is that law's curvature."
    yield cells.spread.note("cells")
    if design.filler:
        yield f"Effects are of a source in place of {design.filler}, whose own effect is modelled."
        if isinstance(factor := parts["prefix_factor"], float) and factor > 1.05:
            yield (
                f"Cells with as much {design.filler} may share its run, which would make them alike and the interval "
                f"up to {100 * (factor**0.5 - 1):.0f} % too narrow."
            )
    if not cells.df:
        yield "One run a cell: nothing is said about another run. Items are taken as not shared between cells."
    elif cells.df < FEW_DEGREES:
        yield f"The seeds' variance rests on {cells.df} degrees of freedom."
    if cells.df and widest.kind != THIS_STRATEGY:
        yield "Problems are held fixed: the rows do not say how single items were scored."
        if isinstance(more := parts["items_error_at_most"], float):
            yield f"Other problems would add a standard error of at most {more:.2g} (cells taken as unpaired)."


def number(value: Part) -> str:
    return f"{value:.2g}" if isinstance(value, float) else "unknown"


class Lines:
    """The fitted surface along the first source, at each dose of the second, back on the scale of scores."""

    def __init__(self, surface: Surface, doses: Sequence[Dose], main: str):
        self.surface, self.doses, self.main = surface, doses, main

    def score(self, first: np.ndarray, second: np.ndarray, filler: np.ndarray) -> np.ndarray:
        columns = [dose(tokens) for dose, tokens in zip(self.doses, (first, second, filler))]
        beta = np.array(list(self.surface.coefficients.values()))
        return self.surface.cells.scale.back(terms(columns) @ beta)


def table(design: Factorial, flat: Cells, lines: Lines | None) -> tuple[dict[str, Part], ...]:
    """A row `cell` for each cell, its interval over seeds from the pooled spread; rows `fit` along the surface."""
    made: list[dict[str, Part]] = []
    sign = float(flat.scale.to(np.ones(1))[0])
    for k, cell in enumerate(design.cells):
        alone = np.zeros(len(design.cells))
        alone[k] = 1.0
        interval = flat.contrast(alone)[-1 if not flat.df else 0].interval()
        ends = sorted(sign * end for end in (interval.low, interval.high) if end is not None) if interval else []
        ends = np.clip(ends, 0.0, 100.0 if design.measure == ACCURACY else np.inf).tolist()
        made.append(
            {"row": "cell", "strategy": cell.name, "order": cell.order, "first": cell.doses[0], "second": cell.doses[1],
             "filler": cell.filler, "score": float(cell.y_S.mean()), "low": ends[0] if ends else None,
             "high": ends[1] if ends else None, "seeds": len(cell.seeds)}
        )  # fmt: skip
    if lines is None:
        return tuple(made)
    used = [design.cells[k] for k in lines.surface.used]
    total = design.fixed_total
    for second in sorted({cell.doses[1] for cell in used}):
        here = [cell for cell in used if cell.doses[1] == second]
        first = np.linspace(min(c.doses[0] for c in here), max(c.doses[0] for c in here), LINES)
        filler = np.full(LINES, min(c.filler for c in here)) if total is None else np.maximum(total - first - second, 0)
        for x, y in zip(first, lines.score(first, np.full(LINES, second), filler)):
            made.append({"row": "fit", "order": lines.main, "first": float(x), "second": second, "score": float(y)})
    return tuple(made)
