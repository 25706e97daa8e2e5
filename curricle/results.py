"""Every measured number as a row, in Parquet files that DuckDB (or anything else) reads in place.

Five tables. They are the schema that others' runs are brought in by, so a column is added rarely and never changes
its meaning.

`runs`         one row for each stage of each strategy and seed: which run stands there (strategies may share a run)
`evaluations`  one row for each item that was scored at an evaluation point: a problem, or a held-out document
`steps`        one row for each training step of each run
`mixtures`     one row for each source in each phase of each run: what it read, and how much there was
`scores`       one row for each mean that came without its items; our own runs have none
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from curricle.store import whole_file
from curricle.study import Refused

RUNS = pa.schema(
    [
        ("study", pa.string()),
        ("strategy", pa.string()),
        ("arm", pa.string()),  # the strategy, or which of its learning rates stands for it; null where nobody says
        ("baseline", pa.bool_()),  # the strategy that the others are measured against
        ("seed", pa.int64()),
        ("position", pa.int64()),  # 0 for the first stage
        ("stage", pa.string()),
        ("kind", pa.string()),  # pretrain | instruct
        ("run", pa.string()),  # stage/fingerprint
        ("budget_tokens", pa.int64()),
        ("tokens_before", pa.int64()),  # trained on by the earlier stages of the strategy
        ("training_flops", pa.float64()),
        ("wall_seconds", pa.float64()),  # steps only; evaluations and saves apart
        # Null where the study stands for no larger run, and in files that lack them:
        ("proxy_of_tokens", pa.int64()),  # of the target that the study's baseline stands for
        ("proxy_learning_rate", pa.float64()),  # of the recipe's peak
    ]
)
EVALUATIONS = pa.schema(
    [
        ("run", pa.string()),
        ("stage", pa.string()),
        ("seed", pa.int64()),
        ("tokens", pa.int64()),  # of this stage, when it was scored; 0 is the model before any training
        ("final", pa.bool_()),  # the stage's end
        ("benchmark", pa.string()),  # a benchmark's name, or a source's for its held-out text
        ("kind", pa.string()),  # problems | held-out
        ("item", pa.string()),  # the problem's or document's id: the same in every run
        ("nats", pa.float64()),  # −ln p of the reference solution, or of the held-out text
        ("target_tokens", pa.int64()),  # tokens that these nats are summed over
        ("bytes", pa.int64()),  # UTF-8 bytes of the same text
        ("correct", pa.bool_()),  # null for held-out text
        ("prompt", pa.string()),
        ("output", pa.string()),
        ("answer", pa.string()),  # as read from the output; null where none could be read
        ("expected", pa.string()),
        ("reason", pa.string()),  # why the verdict is what it is
    ]
)
STEPS = pa.schema(
    [
        ("run", pa.string()),
        ("stage", pa.string()),
        ("seed", pa.int64()),
        ("step", pa.int64()),
        ("tokens", pa.int64()),
        ("loss_nats", pa.float64()),  # mean over the batch's target tokens
        ("grad_norm", pa.float64()),  # before clipping
        ("lr", pa.float64()),
        ("tokens_per_second", pa.float64()),  # null for steps that were taken over from another run, which has them
        # Null where the run did not note them:
        ("mfu", pa.float64()),  # model FLOPs a second, as a share of the machine's measured matrix-product peak
        ("data_seconds", pa.float64()),  # of the step's time: waiting for its batch
        ("save_seconds", pa.float64()),  # after the step, beside its time: in writing checkpoints
        ("evaluation_seconds", pa.float64()),  # after the step, beside its time: in scoring
        ("flops_per_token", pa.float64()),  # of this run's training; also where no row of `runs` says it
        ("guard", pa.string()),  # why the loss guard kept the step from moving the weights; null where it did not
    ]
)
MIXTURES = pa.schema(
    [
        ("run", pa.string()),
        ("until_tokens", pa.int64()),  # of this stage: where the phase ends; the stage's end where there are no phases
        ("source", pa.string()),
        ("share", pa.float64()),  # of the phase's tokens
        ("available_tokens", pa.int64()),  # in one pass over the source; null for an endless one, or where nobody says
        # Null where nobody says, and in files that lack them:
        ("kind", pa.string()),  # of source: installed | hub | files | generated | procedural | counterfactual …
        ("made_from", pa.string()),  # the source whose documents were transformed into this one's
        ("take", pa.string()),  # the property of code that was taken away from them
    ]
)
SCORES = pa.schema(
    [
        ("run", pa.string()),
        ("tokens", pa.int64()),  # as in `evaluations`
        ("final", pa.bool_()),
        ("benchmark", pa.string()),
        ("kind", pa.string()),
        ("measure", pa.string()),  # accuracy (percent) | bits per byte | nats per token
        ("score", pa.float64()),
        ("items", pa.int64()),  # that the mean is over; null where nobody says
        ("item_variance", pa.float64()),  # of the mean, over items, for these weights; null where nobody says
    ]
)
# Of no run: what a document is worth to a target, as `curricle value --out` writes it.
VALUES = pa.schema(
    [
        ("model", pa.string()),  # at whose weights
        ("target", pa.string()),
        ("source", pa.string()),
        ("document", pa.string()),
        ("method", pa.string()),  # gradient | adam (the same under Adam's scale) | forward | stand-in
        ("tokens", pa.int64()),  # of the document, as far as it was read
        ("bytes", pa.int64()),  # UTF-8 bytes of the same text
        ("nats", pa.float64()),  # its loss a token under the model
        ("r", pa.float64()),  # relevance: the cosine with the target's gradient; or a density ratio
        ("c", pa.float64()),  # content: the size of its gradient; or bits per byte
        ("f", pa.float64()),  # the size of the target's gradient; or bits per byte above a better model's
        ("dot", pa.float64()),  # the gradients' product, r·c·f; null for stand-ins
        ("target_square", pa.float64()),  # what the same step on the target itself would give; null for stand-ins
    ]
)
VALUES_NEED = ("source", "document", "method", "tokens")  # and dot, or r, c and f
# Columns of `steps` that a file may lack:
NOTED = {
    **dict.fromkeys(("mfu", "data_seconds", "save_seconds", "evaluation_seconds", "flops_per_token"), "DOUBLE"),
    "guard": "VARCHAR",
}
PROXY = {"proxy_of_tokens": "BIGINT", "proxy_learning_rate": "DOUBLE"}  # columns of `runs` that a file may lack
# How harnesses and trackers name shares of right answers.
ACCURACIES = (
    "accuracy", "acc", "exact_match", "acc_norm", "pass@1", "pass_at_1", "mc1", "em", "prompt_level_strict_acc",
)  # fmt: skip
MADE = ("kind", "made_from", "take")  # columns of `mixtures` that a file may lack
SCHEMAS = {"runs": RUNS, "evaluations": EVALUATIONS, "steps": STEPS}
OPTIONAL = {"mixtures": MIXTURES, "scores": SCORES}  # tables that results may lack: they are empty then


def read_table(path: Path, columns: list[str] | None = None) -> pa.Table:
    """A table of the store. Raises `Refused` where a disk or a hand has damaged it: it was written whole."""
    try:
        with pq.ParquetFile(path) as file:  # `pq.read_table` would import pandas, which nothing here needs
            return file.read(columns=columns)
    except pa.ArrowException as error:
        said = str(error).splitlines()[0]
        raise Refused(f"{path}: damaged ({said}); remove it and run its study again") from None


def write_rows(path: Path, rows: Iterable[dict[str, Any]], schema: pa.Schema) -> None:
    """Write rows as one Parquet file, whole or not at all. A row with a column that the schema lacks is an error."""
    rows = list(rows)
    for row in rows[:1]:
        unknown = set(row) - set(schema.names)
        if unknown:
            raise KeyError(f"columns {sorted(unknown)} are not in the schema")
    write_table(path, pa.Table.from_pylist(rows, schema))


def write_table(path: Path, table: pa.Table) -> None:
    with whole_file(path) as file:
        pq.write_table(table, file, compression="zstd")


def step_rows(
    lines: Iterable[Mapping[str, Any]], *, run: str, stage: str, seed: int, peak_flops: float | None = None
) -> list[dict[str, Any]]:
    """The lines of a run's `metrics.jsonl` as rows of `steps`.

    A column that the run did not note is null; what is no column is left out. `peak_flops` (FLOP/s) turns the noted
    `flops_per_second` into `mfu`. An evaluation and a save have lines that are no steps: their seconds go to the step
    they came after.
    """
    rows: list[dict[str, Any]] = []
    waiting: dict[str, float] = {}  # for an evaluation of the model as it came, before any step
    for found in lines:
        if (beside := _beside(found)) is not None:
            column, seconds = beside
            after = rows[-1] if rows else waiting
            if seconds:
                after[column] = (after.get(column) or 0.0) + seconds
            continue
        row = {"run": run, "stage": stage, "seed": seed, **{name: found.get(name) for name in STEPS.names[3:]}}
        if peak_flops and found.get("flops_per_second") is not None:
            row["mfu"] = found["flops_per_second"] / peak_flops
        rows.append(row | waiting)
        waiting = {}
    return rows


def _beside(found: Mapping[str, Any]) -> tuple[str, float] | None:
    """Which column a line that is no step adds its seconds to; None for a step."""
    if "evaluation" in found:
        return "evaluation_seconds", found.get("seconds") or 0.0
    if "save_seconds" in found and "loss_nats" not in found:
        return "save_seconds", found["save_seconds"]
    return None


class Results:
    """A folder of result rows. `sql` sees the tables `runs`, `evaluations`, `steps`, `mixtures` and `scores`."""

    def __init__(self, folder: str | Path):
        import duckdb

        self.folder = Path(folder)
        self.name = str(folder)  # what a message calls them
        self._connection = duckdb.connect(":memory:")
        for name in SCHEMAS:
            file = self.folder / f"{name}.parquet"
            if not file.exists():
                raise FileNotFoundError(f"{file}: no such results; `curricle run` writes them")
            table = self._read(file)
            optional = {"steps": NOTED, "runs": {"arm": "VARCHAR", **PROXY}}.get(name, {})
            for column in SCHEMAS[name].names:
                if column not in table.columns and column not in optional:
                    raise Refused(
                        f"{file}: column {column!r} is missing; docs/schema.md says what rows have, and curricle "
                        f"results import brings in those that have less"
                    )
            lacking = [f"NULL::{kind} AS {c}" for c, kind in optional.items() if c not in table.columns]
            table.project(", ".join(["*", *lacking])).create_view(name)
        for name, schema in OPTIONAL.items():
            file = self.folder / f"{name}.parquet"
            if file.exists():
                table = self._read(file)
                lacking = [f"NULL::VARCHAR AS {c}" for c in MADE if name == "mixtures" and c not in table.columns]
                table.project(", ".join(["*", *lacking])).create_view(name)
            else:
                self._connection.from_arrow(schema.empty_table()).create_view(name)

    def _read(self, file: Path) -> Any:
        import duckdb

        try:
            return self._connection.read_parquet(str(file))
        except (duckdb.InvalidInputException, duckdb.IOException) as error:
            raise Refused(f"{file}: not readable as Parquet: {str(error).splitlines()[0]}") from None

    def sql(self, query: str, parameters: list[Any] | dict[str, Any] | None = None) -> list[dict[str, Any]]:
        """Rows of a query as dictionaries."""
        try:
            cursor = self._connection.cursor().execute(query, parameters)
        except RuntimeError as error:
            if str(error) != "Query interrupted":  # DuckDB's words for what a signal's handler has raised
                raise
            raise KeyboardInterrupt from error
        names = [column[0] for column in cursor.description]
        return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]

    def spent(self) -> dict[str, Any]:
        """What training took so far: runs that have begun, their FLOPs and seconds, each step counted once. Where steps
        are noted they say it, and one that was taken over from another run is that run's; else the runs do. A run with
        steps counts if no strategy stands on it, too: it is another arm of a sweep, or its sweep is not done. Where
        neither its steps nor its row say a token's FLOPs, they are those of its stage."""
        return self.sql(
            """
            WITH taken AS (
                SELECT run, stage, tokens_per_second, flops_per_token,
                       tokens - lag(tokens, 1, 0) OVER (PARTITION BY run ORDER BY step) AS tokens
                FROM steps
            ),
            own AS (
                SELECT run, max(stage) AS stage, sum(tokens / tokens_per_second) AS seconds,
                       coalesce(sum(tokens) FILTER (tokens_per_second IS NOT NULL), 0) AS tokens,
                       max(flops_per_token) AS flops_per_token
                FROM taken WHERE (SELECT count(tokens_per_second) FROM taken) > 0 GROUP BY run
            ),
            told AS (
                SELECT run, max(training_flops) AS flops, max(training_flops / budget_tokens) AS flops_per_token,
                       max(wall_seconds) AS seconds
                FROM runs GROUP BY run HAVING max(wall_seconds) IS DISTINCT FROM 0
            ),
            stages AS (SELECT stage, max(training_flops / budget_tokens) AS flops_per_token FROM runs GROUP BY stage)
            SELECT count(*) AS runs, coalesce(sum(own.seconds), sum(told.seconds)) AS wall_seconds,
                   sum(coalesce(own.tokens * coalesce(own.flops_per_token, told.flops_per_token, of.flops_per_token),
                                told.flops)) AS training_flops
            FROM told FULL JOIN own USING (run) LEFT JOIN stages of ON of.stage = own.stage
            """
        )[0]
