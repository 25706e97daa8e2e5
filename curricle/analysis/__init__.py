"""Rows to findings: pure functions, each the answer to one question about strategies (docs/theory.md).

    results = Results("runs/code-first/results")
    for finding in analyse(results):
        print(finding.sentence())

Every function takes results (or numbers) and returns findings; none trains, draws or writes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

# Bound here at once: some functions carry their file's name, and a file imported later would take that name's place.
# It costs little, since what is slow (scipy, DuckDB) is imported inside the functions that need it.
from curricle.analysis.answer import answer
from curricle.analysis.curve import common_stages, curve
from curricle.analysis.finding import Finding, Interval
from curricle.analysis.forgetting import forgetting
from curricle.analysis.gain import Comparison, compare_scores, contrast, contrasts, gain, scores, stage_gains
from curricle.analysis.published import published
from curricle.study import Refused, nearest

if TYPE_CHECKING:
    from curricle.results import Results

__all__ = [
    "Comparison",
    "Finding",
    "Interval",
    "analyse",
    "answer",
    "common_stages",
    "compare_scores",
    "contrast",
    "contrasts",
    "curve",
    "forgetting",
    "gain",
    "published",
    "scores",
    "stage_gains",
]


def analyse(results: Results, *, target: str | None = None) -> list[Finding]:
    """All that the rows can say, in order: scores, gains, contrasts, gains by stage, curves, forgetting.

    What is missing is left out: one strategy gives no gain, one evaluation point no curve. With a `target` (a benchmark
    or a source) its findings come first within each question. Raises `Refused` for a target that has no rows, and where
    runs were scored on different items.
    """
    from curricle.analysis.scores import benchmarks

    known = benchmarks(results)
    if not known:
        raise Refused(
            f"{results.folder}: nothing has been scored yet; curricle run trains and evaluates what is missing"
        )
    if target is not None and target not in known:
        raise Refused(f"target: {target!r} has no rows; {nearest(target, known)}")
    made = [*scores(results), *gain(results), *contrasts(results), *stage_gains(results)]
    for stage in common_stages(results):
        along = curve(results, stage)
        if len({f.parts["tokens"] for f in along}) > 1:  # the end alone is what `gain` compares already
            made += along
    made += forgetting(results)
    questions = list(dict.fromkeys(f.question for f in made))
    return sorted(made, key=lambda f: (questions.index(f.question), f.benchmark != target))
