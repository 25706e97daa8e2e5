"""The questions that can be put to result rows, by name: what `curricle analyse` and the report ask.

Another question is one line in `QUESTIONS`. An estimator of rows is made a question by one of the adaptors below:
`whole` hands it every row, `each` those of one benchmark and measure at a time, `each_strategy` one strategy's besides.
A question that these rows cannot answer raises `Refused`, which is an answer too: `ask` hands on why.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

from curricle.analysis.asked import bound_questions, designs, efficiency_questions, exhaustion, valued
from curricle.analysis.asked.asking import Asked
from curricle.analysis.chain import chain, shapley
from curricle.analysis.curve import common_stages, curve
from curricle.analysis.finding import ACCURACY, BITS_PER_BYTE, LOSSES, Finding
from curricle.analysis.forgetting import forgetting
from curricle.analysis.gain import contrasts, gain, scores, stage_gains
from curricle.analysis.rows.outcomes import Row
from curricle.analysis.rows.scores import benchmarks
from curricle.study import Refused, nearest

if TYPE_CHECKING:
    from curricle.study import Study

Answered = Finding | Iterable[Finding]


class Question(NamedTuple):
    title: str
    answer: Callable[[Asked], Answered]


class Answer(NamedTuple):
    """A question with its findings, or why there are none."""

    question: str
    title: str
    findings: list[Finding]
    refused: str | None = None


# ---- adaptors -----------------------------------------------------------------------------------------------------


def whole(estimator: Callable[[list[Row]], Answered]) -> Callable[[Asked], list[Finding]]:
    """An estimator of all rows that were asked about, which tells benchmarks and measures apart itself."""
    return lambda asked: listed(estimator([row for row in asked.every if asked.about(row)]))


def each(estimator: Callable[[list[Row]], Answered]) -> Callable[[Asked], list[Finding]]:
    """An estimator of the rows of one benchmark in one measure."""
    return lambda asked: gathered(estimator, asked.groups)


def each_strategy(estimator: Callable[[list[Row]], Answered]) -> Callable[[Asked], list[Finding]]:
    """An estimator of one strategy's rows on one benchmark in one measure."""

    def split(asked: Asked) -> Iterable[list[Row]]:
        for group in asked.groups:
            for name in dict.fromkeys(row["strategy"] for row in group):
                yield [row for row in group if row["strategy"] == name]

    return lambda asked: gathered(estimator, split(asked))


def gathered(estimator: Callable[[list[Row]], Answered], groups: Iterable[list[Row]]) -> list[Finding]:
    """What the estimator finds in each group; refused where it refuses all of them, with the reason given first."""
    made: list[Finding] = []
    refusals: list[Refused] = []
    for group in groups:
        try:
            made += listed(estimator(group))
        except Refused as refusal:
            refusals.append(refusal)
    if refusals and not made:
        raise refusals[0]
    return made


def listed(found: Answered) -> list[Finding]:
    return [found] if isinstance(found, Finding) else list(found)


def with_tokens(answer: Callable[[Asked], list[Finding]], column: str = "stage_tokens") -> Callable[[Asked], Answered]:
    """A question about tokens of stages, or (column `tokens`) of strategies: put to the benchmarks of which rows say
    them; refused, in the words of those who bring rows, where none of those asked about does."""

    def checked(asked: Asked) -> Answered:
        unknown = [row for row in asked.every if asked.about(row) and row[column] is None]
        dark = {(row["benchmark"], row["measure"]) for row in unknown}
        if not dark:
            return answer(asked)
        if {(group[0]["benchmark"], group[0]["measure"]) for group in asked.groups} <= dark:
            stages = ", ".join(dict.fromkeys(str(row["stage"]) for row in unknown))
            raise Refused(
                f"it takes the tokens that were read until each score, and of scores after {stages} nobody says; "
                "import a table of runs with budget_tokens, and tokens with scores before a stage's end"
            )
        known = replace(asked)
        vars(known)["every"] = [row for row in asked.every if (row["benchmark"], row["measure"]) not in dark]
        return answer(known)

    return checked


def curves(asked: Asked) -> list[Finding]:
    """The curve of every stage that strategies share by name; the end alone is what `gain` compares already."""
    made: list[Finding] = []
    for stage in common_stages(asked.results):
        along = curve(asked.results, stage, asked.benchmark, asked.measure)
        made += along if len({f.parts["tokens"] for f in along}) > 1 else []
    return made


def forgettings(asked: Asked) -> list[Finding]:
    if asked.measure not in (None, BITS_PER_BYTE):
        return []
    return [f for f in forgetting(asked.results) if asked.benchmark in (None, f.benchmark)]


# ---- the questions ------------------------------------------------------------------------------------------------

QUESTIONS: dict[str, Question] = {
    "score": Question("Strategies at their end", lambda a: scores(a.results, a.benchmark, a.measure)),
    "gain": Question("Over the baseline", lambda a: gain(a.results, a.benchmark, a.measure)),
    "contrast": Question("Strategies against each other", lambda a: contrasts(a.results, a.benchmark, a.measure)),
    "stage-gain": Question("What each stage gave", lambda a: stage_gains(a.results, a.benchmark, a.measure)),
    "curve": Question("Scores along the curve", curves),
    "forgetting": Question("What each stage changed on held-out text", forgettings),
}
# These need nothing but scores: their refusals are faults in the rows, such as runs scored on different items. All that
# follow ask for a design that a study may not have.
FIRST = frozenset(QUESTIONS)
QUESTIONS |= {
    "chain": Question("Shares of a strategy's gain by stage", with_tokens(whole(chain))),
    "shapley": Question("Shares of the gain where every subset of stages was run", with_tokens(whole(shapley))),
    "efficiency": Question("What a stage gave per token and per FLOP", with_tokens(efficiency_questions.efficiencies)),
    "split": Question("A budget shared out over sources", with_tokens(efficiency_questions.splits)),
    "transferred": Question(
        "How many tokens a head start is worth", with_tokens(efficiency_questions.head_starts_in_tokens)
    ),
    "transfer": Question("Whether two sources help each other", designs.transfer_of_crossed),
    "why-code": Question("What code gives, property by property", designs.why_of_counterfactuals),
    "value": Question(
        "Whether values order sources as training did", with_tokens(valued.values_beside_gains, "tokens")
    ),
    "mixture": Question("The mixture to train next", designs.swarm),
    "saturation": Question("Where more tokens stop paying", with_tokens(exhaustion.saturations)),
    "repetition": Question("What reading text again is worth", exhaustion.repetitions),
    "floors": Question("Where sources stop lowering the loss", exhaustion.floors_of_sources),
    "why-saturated": Question("Why a source ends sooner than the best", exhaustion.why_sources_end),
    "prediction": Question("The loss at a larger budget", designs.predictions),
    "ranks": Question("Whether small runs rank mixtures as large ones do", designs.ranks_between),
    "front": Question("The target against everything else", designs.fronts),
    "critical-share": Question("The largest share within a bound", designs.critical_shares),
    "phases": Question("Whether the order matters", with_tokens(designs.orders, "tokens")),
    "phase-law": Question("Orders that were not run", with_tokens(designs.laws_of_orders, "tokens")),
    "bound": Question("The most that a head start can give", bound_questions.bounds_of_head_starts),
}
NONE = {
    "score": "nothing has been scored at a strategy's end in this measure",
    "gain": "it takes a baseline and another strategy, scored on the same items",
    "contrast": "it takes two strategies beside the baseline, scored on the same items",
    "stage-gain": "it takes a score before a stage and one at its end",
    "curve": "it takes a stage that two strategies train, scored at two points or more",
    "forgetting": "it takes held-out text, scored at the ends of stages",
    "bound": "it takes training losses step by step (a table of steps: run, step, tokens, loss_nats; of stages whose "
    "budget_tokens are known), or a loss scored at six points or more of the stage from scratch",
} | dict.fromkeys(
    ("split", "transferred", "saturation", "phase-law"),
    f"it takes a loss ({' or '.join(LOSSES)}) scored at several budgets, and these rows hold none",
)


def ask(asked: Asked, questions: Sequence[str] | None = None) -> list[Answer]:
    """Put the questions (all by default) to these results, in the order of `QUESTIONS`.

    Raises `Refused` for a question, benchmark or measure that is not known, and where there are no scores at all.
    """
    refuse_unknown_questions(questions or ())
    refuse_unknown(asked)
    made = []
    for name, question in QUESTIONS.items():
        if questions and name not in questions:
            continue
        try:
            found = listed(question.answer(asked))
            lacking = NONE.get(name, "these rows hold nothing that it could be answered from")
            why = None if found else lacking + without_items(asked, name)
        except Refused as refusal:
            found, why = [], str(refusal)
        made.append(Answer(name, question.title, found, why))
    return made


def without_items(asked: Asked, question: str) -> str:
    """What would provide the scores by item that these questions are answered from, where there are means alone."""
    kind = {"stage-gain": None if asked.benchmark else "problems", "curve": None, "forgetting": "held-out"}
    if question not in kind:
        return ""
    bare = asked.results.sql("SELECT DISTINCT benchmark, kind, measure FROM scores ORDER BY benchmark")
    names = dict.fromkeys(
        str(row["benchmark"]) for row in bare if asked.about(row) and kind[question] in (None, row["kind"])
    )
    if not names:
        return ""
    return (
        f"; by item, and of {', '.join(names)} there are means alone: import a table of evaluations (run, benchmark, "
        "item, and correct, or nats and bytes), or lm-evaluation-harness output with --log_samples"
    )


def refuse_unknown_questions(names: Sequence[str]) -> None:
    for name in names:
        refuse_other("--question", "question", name, QUESTIONS)


def refuse_other(option: str, what: str, name: str, known: Collection[str]) -> None:
    """Refuses a name that is not among those known, and names them."""
    if name not in known:
        close = nearest(name, known)
        names = "" if close.startswith("known") else f" known: {', '.join(known)}"
        raise Refused(f"{option} {name}: unknown {what} {name!r}; {close}{names}")


def refuse_unscored(
    study: Study, *, benchmark: str | None = None, measure: str | None = None, target: str | None = None
) -> None:
    """Refuses, before anything is read, what no run of this study can have been scored on, or in."""
    scored = [*study.benchmarks, *study.sources]
    for option, name in (("--benchmark", benchmark), ("--target", target)):
        if name is not None:
            refuse_other(option, "benchmark or source", name, scored)
    if measure is not None:
        refuse_other("--measure", "measure", measure, (ACCURACY, *LOSSES))


def refuse_unknown(asked: Asked) -> None:
    means = asked.results.sql("SELECT DISTINCT benchmark FROM scores ORDER BY benchmark")
    known = list(dict.fromkeys([*benchmarks(asked.results), *(row["benchmark"] for row in means)]))
    if not known:
        raise Refused(
            f"{asked.results.name}: nothing has been scored yet; curricle run trains and evaluates what is missing"
        )
    for option, name in (("--benchmark", asked.benchmark), ("target", asked.target)):
        if name is not None and name not in known:
            raise Refused(f"{option}: {name!r} has no rows; {nearest(name, known)}")
    if asked.measure is not None and not asked.rows:
        measures = list(dict.fromkeys(row["measure"] for row in asked.every))
        raise Refused(f"--measure: no row has {asked.measure!r}; {nearest(asked.measure, measures)}")
