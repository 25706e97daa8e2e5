"""What tokens were worth, asked of a study's rows: rates and the next token's, head starts and their law, a budget
split. Which strategies are meant is found in the rows; a law joins an answer where the rows allow it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from curricle.analysis.designs import answered, losses
from curricle.analysis.finding import Finding
from curricle.analysis.split_runs import split_of_runs

if TYPE_CHECKING:
    from curricle.analysis.questions import Asked

MOST_EPOCHS = 4.0  # of a source, as a study's own limit is unless it says otherwise


def splits(asked: Asked) -> list[Finding]:
    """The equal-marginal split of the budgets asked for, or of the longest strategy's, by each loss."""
    there = asked.results.sql("SELECT source, max(available_tokens) AS tokens FROM mixtures GROUP BY source")
    most = {row["source"]: MOST_EPOCHS * row["tokens"] for row in there if row["tokens"]}
    return answered(
        lambda g=group, b=budget: split_of_runs(g, b, most) for group in losses(asked) for budget in asked.at or (None,)
    )
