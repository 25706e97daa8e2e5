"""What the report shows that no finding carries: single seeds, loss curves, example problems, time spent.

Each is one query on the results and returns plain rows, so that a number in the report can be asked for again.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from curricle.results import Results

Row = dict[str, Any]
LOSS_POINTS = 60  # points kept of one run's loss curve
# The runs that went to their end, with their last step.
ENDED = """
    SELECT s.run, max(step) AS last FROM steps s JOIN runs r ON r.run = s.run
    GROUP BY s.run HAVING max(tokens) >= max(budget_tokens)
"""


def chosen_rates(results: Results) -> dict[str, str]:
    """Strategy → the arm that stands for it, where learning rates were swept."""
    rows = results.sql("SELECT DISTINCT strategy, arm FROM runs WHERE arm != strategy ORDER BY strategy")
    return {row["strategy"]: row["arm"] for row in rows}


def seed_scores(results: Results, benchmark: str) -> list[Row]:
    """Accuracy in percent and bits per byte of each strategy, stage, point and seed."""
    return results.sql(
        """
        SELECT strategy, position, r.stage, r.seed, tokens, bool_or(final) AS final,
               position = max(position) OVER (PARTITION BY strategy) AS last,
               100 * avg(correct::INT) AS accuracy,
               CASE WHEN sum(bytes) > 0 THEN sum(nats) / ln(2) / sum(bytes) END AS bits_per_byte
        FROM runs r JOIN evaluations e ON e.run = r.run
        WHERE benchmark = ? AND tokens > 0
        GROUP BY strategy, position, r.stage, r.seed, tokens
        ORDER BY strategy, position, tokens, r.seed
        """,
        [benchmark],
    )


def losses(results: Results) -> list[Row]:
    """Training loss of each run, a running mean over a twenty-fifth of its steps; at most about `LOSS_POINTS` points a
    run. A run that strategies share stands once, under the first of them."""
    return results.sql(
        f"""
        WITH places AS (SELECT run, arg_min(strategy, line) AS strategy, min(position) AS position,
                               min(line) AS line
                        FROM (SELECT *, row_number() OVER () AS line FROM runs) GROUP BY run),
        sized AS (SELECT *, count(*) OVER (PARTITION BY run) AS n FROM steps),
        smooth AS (
            SELECT *, avg(loss_nats) OVER (PARTITION BY run ORDER BY step
                                           RANGE BETWEEN (n // 25) PRECEDING AND CURRENT ROW) AS smoothed,
                   row_number() OVER (PARTITION BY run ORDER BY step) AS i
            FROM sized
        )
        SELECT strategy, stage, position, seed, run, step, tokens, smoothed AS loss_nats
        FROM smooth JOIN places USING (run)
        WHERE (n - i) % greatest(1, n // {LOSS_POINTS}) = 0
        ORDER BY line, seed, step
        """
    )


def learnt_nothing(results: Results, vocabulary: int) -> dict[str, str]:
    """The runs that went to their end and learnt nothing, each with what to say of it.

    That is where the mean loss over the last tenth of the steps lies above the first, and above that of a guess that
    takes each of so many tokens for equally likely. The loss guard cannot see it where the loss rose before it knew
    what is usual. Neither sign alone would do: a stage may begin where its loss can only rise, and a few steps from
    fresh weights end near the guess."""
    guess = math.log(vocabulary)
    rows = results.sql(
        f"""
        WITH ends AS ({ENDED}),
        sums AS (SELECT run, arg_min(loss_nats, step) AS first,
                        avg(loss_nats) FILTER (step > 0.9 * last) AS loss_nats
                 FROM steps JOIN ends USING (run) GROUP BY run)
        SELECT * FROM sums WHERE loss_nats > greatest(first, ?) ORDER BY run
        """,
        [guess],
    )
    return {
        row["run"]: f"its loss ends at {row['loss_nats']:.2f} nats per token, above its first ({row['first']:.2f}) and "
        f"above that of a blind guess ({guess:.2f}); lower recipe.learning_rate, or look at its text"
        for row in rows
    }


def skipped(results: Results) -> list[Row]:
    """Of each run that went to its end and of which the loss guard skipped steps: how many of how many, and the last
    of them. The run with the most stands first."""
    return results.sql(
        f"""
        WITH ends AS ({ENDED})
        SELECT run, seed, last AS steps, count(guard) AS skipped, max(step) FILTER (guard IS NOT NULL) AS skipped_at
        FROM steps JOIN ends USING (run) GROUP BY run, seed, last HAVING skipped > 0 ORDER BY skipped DESC, run
        """
    )


def skipped_in_words(rows: Sequence[Row]) -> str:
    """`skipped` in a sentence, with what shows the text of one such step."""
    most, total = rows[0], sum(row["skipped"] for row in rows)
    shows = f"curricle explain {most['run']} --step {most['skipped_at']} shows the text of"
    if len(rows) == 1:
        return f"the loss guard skipped {total:,} of the {most['steps']:,} steps of {most['run']}; {shows} the last"
    return (
        f"the loss guard skipped {total:,} steps in {len(rows):,} runs, at most {most['skipped']:,} of "
        f"{most['steps']:,}; {shows} one, and `guard` in results/steps.parquet has all"
    )


def examples(results: Results, benchmark: str, strategy: str, beside: str | None, each: int = 3) -> list[Row]:
    """A few problems that the strategy solved at its end and a few that it did not, with the answer of another
    strategy `beside` it. The choice is by a hash of the problem's id: nobody picked it."""
    return results.sql(
        """
        WITH last AS (SELECT strategy, run, seed FROM runs
                      QUALIFY position = max(position) OVER (PARTITION BY strategy)),
        one AS (SELECT e.* EXCLUDE (run, seed), strategy, l.seed FROM last l JOIN evaluations e ON e.run = l.run
                WHERE final AND benchmark = $benchmark AND correct IS NOT NULL
                QUALIFY l.seed = min(l.seed) OVER ()),
        mine AS (SELECT *, row_number() OVER (PARTITION BY correct ORDER BY md5(item)) AS place
                 FROM one WHERE strategy = $strategy)
        SELECT mine.item, mine.seed, mine.prompt, mine.expected, mine.correct, mine.output, mine.answer, mine.reason,
               other.strategy AS other_strategy, other.output AS other_output, other.answer AS other_answer,
               other.correct AS other_correct
        FROM mine LEFT JOIN one other ON other.item = mine.item AND other.strategy = $beside
        WHERE place <= $each ORDER BY mine.correct DESC, place
        """,
        {"benchmark": benchmark, "strategy": strategy, "beside": beside, "each": each},
    )


def time_spent(results: Results) -> list[Row]:
    """Where the time of each stage went, in seconds over all its runs: in its updates, in waiting for batches, in
    saves, in scoring; and its MFU, weighted by time. What was not noted is null."""
    return results.sql(
        """
        WITH timed AS (
            SELECT *, (tokens - lag(tokens, 1, 0) OVER (PARTITION BY run ORDER BY step)) / tokens_per_second AS seconds
            FROM steps
        ),
        places AS (SELECT stage, min(line) AS line FROM (SELECT stage, row_number() OVER () AS line FROM runs)
                   GROUP BY stage)
        SELECT stage, count(DISTINCT run) AS runs,
               sum(seconds - coalesce(data_seconds, 0)) AS training_seconds, sum(data_seconds) AS data_seconds,
               sum(save_seconds) AS save_seconds, sum(evaluation_seconds) AS evaluation_seconds,
               sum(mfu * seconds) / sum(seconds) FILTER (mfu IS NOT NULL) AS mfu
        FROM timed JOIN places USING (stage) GROUP BY stage, line ORDER BY line
        """
    )
