"""Result rows as outcomes: one mean score of one run at one evaluation point, with what the model had read by then.

This is the table that questions about strategies are put to (transfer, saturation, phases, bounds). It is plain
mappings, so that a table from elsewhere, such as a CSV with the same columns, is analysed by the same functions
(`columns.typed` reads its text).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from curricle.analysis.finding import ACCURACY, BITS_PER_BYTE
from curricle.analysis.rows.columns import DOSE as DOSE
from curricle.analysis.rows.columns import Row as Row

if TYPE_CHECKING:
    from curricle.results import Results


SCORED = """
    SELECT run, tokens, benchmark, any_value(kind) AS kind, bool_or(final) AS final, count(*) AS items,
           count(correct) AS verdicts, 100 * avg(correct::INT) AS accuracy,
           1e4 * var_samp(correct::INT) / count(*) AS accuracy_variance,
           count(nats) AS likelihoods, sum(bytes) AS bytes, sum(nats) / ln(2) AS bits,
           sum(nats * nats) / ln(2) ** 2 AS bits_bits, sum(nats * bytes) / ln(2) AS bits_bytes,
           sum(bytes::DOUBLE * bytes) AS bytes_bytes
    FROM evaluations GROUP BY run, tokens, benchmark
"""


def outcomes(results: Results) -> list[dict[str, Any]]:
    """Every strategy and seed at every evaluation point, on every benchmark in every measure.

    Keys: `strategy, baseline, seed, stage, position, stage_tokens` (of this stage, at this point) `, tokens` (of the
    whole strategy until then) `, flops` (of training until then) `, final` (the end of the strategy's last stage) `,
    run, benchmark, kind` (problems, held-out) `, measure` (accuracy in percent, or bits per byte) `, score, items,
    item_variance` (of the mean, over items, for these weights; null for one item) and `dose:SOURCE`, tokens of that
    source read until then, for every source that any run read. Without a table of mixtures there are no doses.
    A model as it came, before any training, is a point of the first stage with 0 tokens. In runs from elsewhere,
    tokens and flops are None where nobody says, and so are items and their variance where only a mean is known.
    """
    scored: dict[str, list[Row]] = {}
    for row in results.sql(SCORED):
        scored.setdefault(row["run"], []).append({**row, "scores": scores_of(row)})
    for row in results.sql("SELECT * FROM scores"):
        score = {name: row[name] for name in ("measure", "score", "items", "item_variance")}
        scored.setdefault(row["run"], []).append({**row, "scores": [score]})
    phases: dict[str, list[Row]] = {}
    for row in results.sql("SELECT * FROM mixtures ORDER BY until_tokens"):
        phases.setdefault(row["run"], []).append(row)
    sources = sorted({row["source"] for of_run in phases.values() for row in of_run})
    paths: dict[tuple[str, int], list[Row]] = {}
    for row in sorted(results.sql("SELECT * FROM runs"), key=lambda row: row["position"]):  # strategies as they stand
        paths.setdefault((row["strategy"], row["seed"]), []).append(row)
    made: list[dict[str, Any]] = []
    for path in paths.values():
        before = dict.fromkeys(sources, 0.0)
        flops: float | None = 0.0
        for stage in path:
            read_here = phases.get(stage["run"], [])
            end, earlier = stage["budget_tokens"], stage["tokens_before"]
            if end is None:
                end = max((row["until_tokens"] for row in read_here), default=None)
            for point in scored.get(stage["run"], []):
                at = point["tokens"]
                if at is None and point["final"]:
                    at = end
                if at is not None and ((end is not None and at > end) or (at == 0 and stage["position"])):
                    continue
                read = {} if at is None else doses(read_here, at)
                known = at is not None and end is not None
                spent = stage["training_flops"] * at / end if known and end and stage["training_flops"] else None
                about = {
                    "strategy": stage["strategy"],
                    "baseline": stage["baseline"],
                    "seed": stage["seed"],
                    "stage": stage["stage"],
                    "position": stage["position"],
                    "stage_tokens": at,
                    "tokens": None if at is None or earlier is None else earlier + at,
                    "flops": None if flops is None or spent is None else flops + spent,
                    "final": stage is path[-1] and bool(at == end if known else point["final"]),
                    "run": stage["run"],
                    "benchmark": point["benchmark"],
                    "kind": point["kind"],
                    **{DOSE + s: None if at is None else before[s] + read.get(s, 0.0) for s in sources},
                }
                made += [{**about, **score} for score in point["scores"]]
            for source, tokens in doses(read_here, end or 0).items():
                before[source] += tokens
            flops = None if flops is None or not stage["training_flops"] else flops + stage["training_flops"]
    return made


def doses(phases: Sequence[Row], tokens: int) -> dict[str, float]:
    """Tokens of each source among the first `tokens` of a stage (to within a row, as the sampler takes turns)."""
    read: dict[str, float] = {}
    ends = sorted({row["until_tokens"] for row in phases})
    for begin, end in zip([0, *ends], ends):
        for row in phases:
            if row["until_tokens"] == end and tokens > begin:
                read[row["source"]] = read.get(row["source"], 0.0) + row["share"] * (min(tokens, end) - begin)
    return read


def scores_of(point: Row) -> list[dict[str, Any]]:
    """The measures that a point carries. A ratio of sums varies as its linearised items do (Cochran 1977, 2.11)."""
    found: list[dict[str, Any]] = []
    n = point["items"]
    if point["verdicts"] == n:
        variance = point["accuracy_variance"] if n > 1 else None
        found.append({"measure": ACCURACY, "score": point["accuracy"], "items": n, "item_variance": variance})
    if point["likelihoods"] == n and point["bytes"]:
        ratio = point["bits"] / point["bytes"]
        squares = point["bits_bits"] - 2 * ratio * point["bits_bytes"] + ratio**2 * point["bytes_bytes"]
        variance = max(squares, 0.0) * n / (n - 1) / point["bytes"] ** 2 if n > 1 else None
        found.append({"measure": BITS_PER_BYTE, "score": ratio, "items": n, "item_variance": variance})
    return found


def steps_of(results: Results) -> list[dict[str, Any]]:
    """Every training step of every strategy and seed, stage by stage (a run that strategies share stands in each).

    Keys: `strategy, seed, stage, position, step, tokens` (of this stage, the step's batch counted) `, batch_tokens,
    loss_nats` (per token, before the step's update) `, lr, run` and `first_pass_tokens`: where the first of the stage's
    sources has been read once, null for endless sources or where nobody says. What earlier stages read does not count.
    """
    return results.sql(
        """
        WITH once AS (
            SELECT run, min(available_tokens / share) AS first_pass_tokens
            FROM mixtures WHERE available_tokens IS NOT NULL AND share > 0 GROUP BY run
        )
        SELECT strategy, runs.seed AS seed, runs.stage AS stage, position, step, tokens,
               tokens - lag(tokens, 1, 0) OVER (PARTITION BY strategy, steps.seed, position ORDER BY step)
                   AS batch_tokens, loss_nats, lr, run, first_pass_tokens
        FROM steps JOIN runs USING (run) LEFT JOIN once USING (run)
        WHERE loss_nats IS NOT NULL AND tokens <= budget_tokens AND steps.seed = runs.seed
        ORDER BY strategy, seed, position, step
        """
    )
