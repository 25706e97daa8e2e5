"""The bounds of section 11 asked of a study: for every head start in the rows, each limit that the rows allow.

Code lengths need training losses; the information bound a procedural control, and a cap on what weights carry (the
model's parameters where they are known, the code length of the stage before); a last loss six points of the scratch
curve; accuracy from loss both measures of a benchmark, scored on the way. The bound on sampled answers needs the two
models' probabilities of answers, which no row holds (`bound_score.accuracy_bound`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from curricle.analysis.asked.asking import Asked
from curricle.analysis.asked.designs import HeadStart, answered, head_starts, losses
from curricle.analysis.bound import bounds, information_bound
from curricle.analysis.bound_score import accuracy_from_loss, last_loss_bound
from curricle.analysis.finding import ACCURACY, BITS_PER_BYTE, Finding
from curricle.analysis.rows.outcomes import steps_of

Row = Mapping[str, Any]
POINTS_FOR_A_FLOOR = 6


def bounds_of_head_starts(asked: Asked) -> list[Finding]:
    """The bounds on code lengths, those on the last loss of each benchmark, then on accuracy through the loss. A code
    length is a loss of the stage, whatever benchmark was named."""
    pairs = head_starts(asked)

    def attempts() -> Iterator[Any]:
        if asked.measure != ACCURACY:
            yield from on_code_lengths(asked, pairs)
            yield from on_last_losses(asked, pairs)
        if asked.measure in (None, ACCURACY):
            yield from on_accuracies(asked, pairs)

    return answered(attempts())


def on_code_lengths(asked: Asked, pairs: list[HeadStart]) -> Iterator[Any]:
    steps = steps_of(asked.results)
    controls = procedural(asked)
    for h in pairs if steps else []:
        yield lambda h=h: bounds(steps, h.after, h.scratch, h.stage)
        control = next((c.after for c in pairs if c.after in controls and c.stage == h.stage), None)
        before = whole_first_stage(steps, h)
        if h.after != control and (before or asked.parameters):
            yield lambda h=h, c=control, b=before: information_bound(
                steps, h.after, h.scratch, h.stage, control=c, parameters=asked.parameters, code_stage=b
            )


def procedural(asked: Asked) -> set[str]:
    """Strategies whose first stage read procedural text alone: what it cures, it cures without knowing anything."""
    kinds: dict[str, set[str]] = {}
    for row in asked.results.sql(
        "SELECT strategy, kind FROM mixtures JOIN (SELECT run, strategy FROM runs WHERE position = 0) USING (run) "
        "WHERE share > 0"
    ):
        kinds.setdefault(row["strategy"], set()).add(row["kind"])
    return {name for name, of in kinds.items() if of == {"procedural"}}


def whole_first_stage(steps: list[dict[str, Any]], h: HeadStart) -> str | None:
    """The one stage before the head start's, where none of its text was read twice: then its code length is that of
    all it read. Else None."""
    own = [row for row in steps if row["strategy"] == h.after]
    at = min((row["position"] for row in own if row["stage"] == h.stage), default=0)
    before = [row for row in own if row["position"] < at]
    once = all(row["first_pass_tokens"] is None or row["tokens"] <= row["first_pass_tokens"] for row in before)
    return str(before[0]["stage"]) if at == 1 and before and once else None


def on_last_losses(asked: Asked, pairs: list[HeadStart]) -> Iterator[Any]:
    for h in pairs:
        for group in losses(asked):
            name, measure = group[0]["benchmark"], group[0]["measure"]
            if ends_with_it(group, h) and points_of(group, h) >= POINTS_FOR_A_FLOOR:
                yield lambda h=h, g=group, n=name, m=measure: last_loss_bound(g, h.after, h.scratch, n, measure=m)


def on_accuracies(asked: Asked, pairs: list[HeadStart]) -> Iterator[Any]:
    measures: dict[str, set[str]] = {}
    for row in asked.every:
        measures.setdefault(row["benchmark"], set()).add(row["measure"])
    both = [name for name in asked.benchmarks if measures.get(name, set()) >= {ACCURACY, BITS_PER_BYTE}]
    for h in pairs:
        for name in both:
            rows = [row for row in asked.every if row["benchmark"] == name]
            ending = [row for row in rows if row["measure"] == BITS_PER_BYTE]
            if ends_with_it(ending, h) and points_of(ending, h) >= POINTS_FOR_A_FLOOR:
                yield lambda h=h, r=rows, n=name: accuracy_from_loss(r, h.after, h.scratch, n)


def ends_with_it(rows: list[Row], h: HeadStart) -> bool:
    return {r["stage"] for r in rows if r["strategy"] in (h.after, h.scratch) and r["final"]} == {h.stage}


def points_of(rows: list[Row], h: HeadStart) -> int:
    """Points of the scratch curve: enough of them show its floor."""
    return len({row["stage_tokens"] for row in rows if row["strategy"] == h.scratch and row["stage_tokens"]})
