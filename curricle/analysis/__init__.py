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
from curricle.analysis.questions import FIRST, QUESTIONS, Answer, Asked, Question, ask, listed, refuse_unknown
from curricle.study import Refused

if TYPE_CHECKING:
    from curricle.results import Results

__all__ = [
    "QUESTIONS",
    "Answer",
    "Asked",
    "Comparison",
    "Finding",
    "Interval",
    "Question",
    "analyse",
    "answer",
    "ask",
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
    """All that the rows can say: every question of `questions.QUESTIONS`, in their order.

    What is missing is left out: one strategy gives no gain, one evaluation point no curve, no factorial no transfer.
    With a `target` (a benchmark or a source) its findings come first within each question. Raises `Refused` for a
    target that has no rows, and where runs were scored on different items.
    """
    asked = Asked(results, target=target)
    refuse_unknown(asked)
    made: list[Finding] = []
    for name, question in QUESTIONS.items():
        try:
            made += listed(question.answer(asked))
        except Refused:
            if name in FIRST:
                raise
    questions = list(dict.fromkeys(f.question for f in made))
    return sorted(made, key=lambda f: (questions.index(f.question), f.benchmark != target))
