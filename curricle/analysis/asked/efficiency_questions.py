"""What tokens were worth, asked of a study's rows: rates and the next token's, head starts and their law, a budget
split. Which strategies are meant is found in the rows; a law joins an answer where the rows allow it."""

from __future__ import annotations

import contextlib

from curricle.analysis.asked.asking import Asked
from curricle.analysis.asked.budgets import lines, noted
from curricle.analysis.asked.designs import answered, head_starts, losses
from curricle.analysis.efficiency import efficiency, marginal, transferred
from curricle.analysis.finding import Finding
from curricle.analysis.split_runs import split_of_runs
from curricle.analysis.transfer_runs import transfer_law_of_runs
from curricle.study import Refused


def splits(asked: Asked) -> list[Finding]:
    """The equal-marginal split of the budgets asked for, or of the longest strategy's, by each loss, no source read
    more often than the study allows."""
    there = asked.results.sql("SELECT source, max(available_tokens) AS tokens FROM mixtures GROUP BY source")
    most = {row["source"]: asked.max_epochs * row["tokens"] for row in there if row["tokens"]}
    return answered(
        lambda g=group, b=budget: split_of_runs(g, b, most) for group in losses(asked) for budget in asked.at or (None,)
    )


def efficiencies(asked: Asked) -> list[Finding]:
    """What each stage gave for what it cost and, of each loss with budgets enough for a curve, what the next token
    gives."""
    found: list[Finding] = []
    why: Refused | None = None
    try:
        found += efficiency([row for row in asked.every if asked.about(row)])
    except Refused as refusal:
        why = refusal
    for group in losses(asked):
        for line in lines(asked, group):
            with contextlib.suppress(Refused):
                found += noted(marginal([row for row in line.rows if row["stage_tokens"]]), line.note)
    if why is not None and not found:
        raise why
    return found


def head_starts_in_tokens(asked: Asked) -> list[Finding]:
    """What each head start is worth in tokens of the target, and the law of it where two runs or more tell one."""
    starts = head_starts(asked)
    found = answered(
        lambda g=group, h=start: transferred(g, h.after, h.scratch, stage=h.stage)
        for start in starts
        for group in losses(asked)
    )
    for start in starts:
        for group in losses(asked):
            with contextlib.suppress(Refused):
                found.append(transfer_law_of_runs(group, start.after, start.scratch, stage=start.stage))
    return found
