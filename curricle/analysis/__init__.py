"""Rows to findings: pure functions, each the answer to one question about strategies (docs/theory.md).

    results = Results("runs/code-first/results")
    for finding in analyse(results):
        print(finding.sentence())

Every function takes results (or numbers) and returns findings; none trains, draws or writes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

# Bound here at once: some functions carry their file's name, and a file imported later would take that name's place.
# It costs little, since what is slow (scipy, DuckDB) is imported inside the functions that need it.
from curricle.analysis.allocation import best_split, split
from curricle.analysis.answer import answer
from curricle.analysis.asked.asking import Asked
from curricle.analysis.asked.questions import FIRST, QUESTIONS, Answer, Question, ask, listed, refuse_unknown
from curricle.analysis.bound import bounds, head_start_bound, information_bound, regret_bound
from curricle.analysis.bound_score import accuracy_bound, accuracy_from_loss, last_loss_bound
from curricle.analysis.chain import chain, shapley
from curricle.analysis.critical import critical_share, published_continual
from curricle.analysis.curve import common_stages, curve
from curricle.analysis.efficiency import efficiency, marginal, transfer_law, transferred
from curricle.analysis.factorial import factorial_design, smallest_gamma
from curricle.analysis.finding import Finding, Interval
from curricle.analysis.forgetting import forgetting
from curricle.analysis.front import front
from curricle.analysis.gain import Comparison, compare_scores, contrast, contrasts, gain, scores, stage_gains
from curricle.analysis.mediation import mediation
from curricle.analysis.mixture import mixture, predictions
from curricle.analysis.phase_law import best_order, best_order_of_runs, phase_law
from curricle.analysis.phases import phases
from curricle.analysis.published import published
from curricle.analysis.repetition import muennighoff2023, repetition
from curricle.analysis.rows.outcomes import outcomes, steps_of
from curricle.analysis.saturation import floors, saturation, why_saturated
from curricle.analysis.scaling import predict_loss, ranks
from curricle.analysis.split_runs import split_of_runs
from curricle.analysis.statistics.repeats import effective_tokens
from curricle.analysis.synergy import synergy
from curricle.analysis.transfer import transfer, transfer_published, transfers
from curricle.analysis.transfer_runs import transfer_law_of_runs
from curricle.analysis.value import saturating, surprise, validate, value
from curricle.analysis.why_code import why_code
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
    "accuracy_bound",
    "accuracy_from_loss",
    "analyse",
    "answer",
    "ask",
    "best_order",
    "best_order_of_runs",
    "best_split",
    "bounds",
    "chain",
    "common_stages",
    "compare_scores",
    "contrast",
    "contrasts",
    "critical_share",
    "curve",
    "effective_tokens",
    "efficiency",
    "factorial_design",
    "floors",
    "forgetting",
    "front",
    "gain",
    "head_start_bound",
    "information_bound",
    "last_loss_bound",
    "marginal",
    "mediation",
    "mixture",
    "muennighoff2023",
    "outcomes",
    "phase_law",
    "phases",
    "predict_loss",
    "predictions",
    "published",
    "published_continual",
    "ranks",
    "regret_bound",
    "repetition",
    "saturating",
    "saturation",
    "scores",
    "shapley",
    "smallest_gamma",
    "split",
    "split_of_runs",
    "stage_gains",
    "steps_of",
    "surprise",
    "synergy",
    "transfer",
    "transfer_law",
    "transfer_law_of_runs",
    "transfer_published",
    "transferred",
    "transfers",
    "validate",
    "value",
    "why_code",
    "why_saturated",
]


def analyse(
    results: Results, *, target: str | None = None, max_epochs: float = 4.0, values: Sequence[Mapping[str, Any]] = ()
) -> list[Finding]:
    """All that the rows can say: every question of `questions.QUESTIONS`, in their order.

    What is missing is left out: one strategy gives no gain, one evaluation point no curve, no factorial no transfer.
    With a `target` (a benchmark or a source) its findings come first within each question. `max_epochs` is how often a
    source may be read, as the study has it; `values` are those of documents, as `curricle value --out` writes them.
    Raises `Refused` for a target that has no rows, and where runs were scored on different items.
    """
    asked = Asked(results, target=target, max_epochs=max_epochs, values=tuple(values))
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
