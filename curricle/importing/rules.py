"""What rows from elsewhere must hold, and what follows from them: the checks between reading and writing.

Only what the rows themselves imply is filled in: a stage's place where a strategy has one stage, the tokens before a
stage where every earlier budget is known, a row's seed from its run. Everything else that is missing stays null.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from curricle.study import Refused, nearest

Row = dict[str, Any]
MEASURES = ("accuracy", "bits per byte", "nats per token")
KINDS = ("problems", "held-out")


def completed(
    tables: Mapping[str, pa.Table], supposed: Sequence[Row], schemas: Mapping[str, pa.Schema], baseline: str | None
) -> dict[str, pa.Table]:
    """Every table in its full schema. Raises `Refused` where rows lack what matters or contradict themselves."""
    tables = {name: named_runs(name, table) for name, table in tables.items()}
    if not tables["evaluations"].num_rows and not tables["scores"].num_rows:
        raise Refused("no evaluations and no scores: there is nothing to analyse; give a table with benchmark and item")
    runs = runs_of(tables, supposed, schemas["runs"])
    marked(runs, baseline)
    places: dict[str, Row] = {}
    for row in runs:
        known = places.setdefault(row["run"], row)
        if known["seed"] != row["seed"] or known["stage"] != row["stage"]:
            raise Refused(f"runs: {row['run']} stands for two seeds or stages; a run is one stage with one seed")
    made = {"runs": pa.Table.from_pylist(runs, schemas["runs"])}
    for name in ("evaluations", "scores", "steps", "mixtures"):
        table = tables[name]
        required(name, table)
        for run in table.column("run").unique().to_pylist() if table.num_rows else []:
            if run not in places:
                raise Refused(f"{name}: run {run!r} stands in no row of runs; {nearest(run, places)}")
        made[name] = filled(name, table, made["runs"], schemas[name])
    bounded(made)
    return made


REQUIRED = {
    "evaluations": ("run", "benchmark", "item"),
    "scores": ("run", "benchmark", "measure", "score"),
    "steps": ("run", "step"),
    "mixtures": ("run", "source", "share"),
}


def required(name: str, table: pa.Table) -> None:
    """The columns that matter, each there and without a gap."""
    if not table.num_rows:
        return
    for column in REQUIRED[name]:
        if column not in table.column_names:
            have = ", ".join(table.column_names) or "none of ours"
            raise Refused(f"{name}: column {column!r} is missing (has: {have}); docs/schema.md says what it holds")
        if table.column(column).null_count:
            row = table.column(column).is_null().to_pylist().index(True)
            raise Refused(f"{name}: column {column!r} is empty in row {row + 1:,}")
    has = set(table.column_names)
    if name == "evaluations" and "correct" not in has and not {"nats", "bytes"} <= has:
        raise Refused("evaluations: neither 'correct' nor 'nats' with 'bytes' is there, so nothing was scored")


def named_runs(name: str, table: pa.Table) -> pa.Table:
    """Rows that name a strategy and a seed, and no run, are of the run STAGE/STRATEGY-SEED."""
    if not table.num_rows or "run" in table.column_names or not {"strategy", "seed"} <= set(table.column_names):
        return table
    stages = table.column("stage").to_pylist() if "stage" in table.column_names else [None] * table.num_rows
    both = zip(stages, table.column("strategy").to_pylist(), table.column("seed").to_pylist())
    return table.append_column("run", pa.array([f"{a or 'training'}/{b}-{c}" for a, b, c in both], pa.string()))


def runs_of(tables: Mapping[str, pa.Table], supposed: Sequence[Row], schema: pa.Schema) -> list[Row]:
    """The rows of runs: as stated, as evaluations and scores say beside their rows, or as a harness names them."""
    found = tables["runs"].to_pylist()
    stated = {row.get("run") for row in found}
    beside = {}
    for name in ("evaluations", "scores"):
        table = tables[name]
        if "strategy" in table.column_names:
            columns = [
                c for c in ("run", "strategy", "seed", "stage", "position", "baseline") if c in table.column_names
            ]
            for row in table.select(columns).group_by(columns).aggregate([]).to_pylist():
                beside[tuple(sorted((k, str(v)) for k, v in row.items()))] = row
    found += [row for row in beside.values() if row.get("run") not in stated and row.get("strategy") is not None]
    stated |= {row.get("run") for row in beside.values() if row.get("strategy") is not None}
    for row in supposed:  # a table of a tracker's runs may follow the histories that only name them
        known = next((r for r in found if r.get("run") == row["run"] and r.get("supposed")), None)
        if known is not None:
            said = {k: v for k, v in row.items() if v != known.get(k) and (k in ("budget_tokens",) or known["bare"])}
            known |= said
        elif row["run"] not in stated:
            found.append({**row, "supposed": True, "bare": row["strategy"] == row["run"]})
    if not found:
        raise Refused("runs: nothing says which strategy a run belongs to; give runs.csv with run, strategy and seed")
    for i, row in enumerate(found):
        for column in ("run", "strategy", "seed"):
            if row.get(column) is None:
                raise Refused(f"runs: column {column!r} is missing{f' in row {i + 1:,}' if i else ''}")
    return placed([{name: row.get(name) for name in schema.names} for row in found])


def placed(rows: list[Row]) -> list[Row]:
    """Stages in their order, each with its defaults and the tokens before it."""
    paths: dict[tuple[str, int], list[Row]] = {}
    for row in rows:
        paths.setdefault((row["strategy"], row["seed"]), []).append(row)
        row["stage"] = row["stage"] or (row["run"].split("/")[0] if "/" in row["run"] else "training")
        row["study"], row["kind"] = row["study"] or "imported", row["kind"] or "pretrain"
        row["baseline"] = bool(row["baseline"])
    for (strategy, seed), path in paths.items():
        if len(path) == 1 and path[0]["position"] is None:
            path[0]["position"] = 0
        if any(row["position"] is None for row in path):
            raise Refused(
                f"runs: {strategy!r}, seed {seed} has {len(path)} stages; column 'position' (0, 1, …) says their order"
            )
        path.sort(key=lambda row: row["position"])
        if [row["position"] for row in path] != list(range(len(path))):
            said = ", ".join(str(row["position"]) for row in path)
            raise Refused(f"runs: {strategy!r}, seed {seed} has the positions {said}; each of 0, 1, … stands once")
        before: int | None = 0
        for row in path:
            if row["tokens_before"] is None:
                row["tokens_before"] = before
            told, budget = row["tokens_before"], row["budget_tokens"]
            before = None if told is None or budget is None else told + budget
    return rows


def marked(rows: list[Row], baseline: str | None) -> None:
    """One strategy at most is the baseline, in all its rows."""
    names = list(dict.fromkeys(row["strategy"] for row in rows))
    if baseline is not None:
        if baseline not in names:
            raise Refused(f"--baseline {baseline}: no such strategy; {nearest(baseline, names)}")
        for row in rows:
            row["baseline"] = row["strategy"] == baseline
    told = {row["strategy"] for row in rows if row["baseline"]}
    if len(told) > 1:
        raise Refused(f"runs: {', '.join(sorted(told))} are all said to be the baseline; one is")


def filled(name: str, table: pa.Table, runs: pa.Table, schema: pa.Schema) -> pa.Table:
    """The table in its whole schema, with what follows from its run."""
    import duckdb

    if not table.num_rows:
        return schema.empty_table()
    has = set(table.column_names)
    connection = duckdb.connect(":memory:")
    connection.register("given", table)
    connection.register("runs", runs)
    follows = {
        "stage": "coalesce({0}, r.stage)",
        "seed": "coalesce({0}, r.seed)",
        "until_tokens": "coalesce({0}, r.budget_tokens)",
    }
    if name == "evaluations":
        follows["kind"] = "coalesce({0}, CASE WHEN g_correct IS NULL THEN 'held-out' ELSE 'problems' END)"
    elif name == "scores":
        follows["kind"] = "coalesce({0}, CASE WHEN measure = 'accuracy' THEN 'problems' ELSE 'held-out' END)"
    if name in ("evaluations", "scores"):
        last = "coalesce(g_tokens = max(g_tokens) OVER (PARTITION BY g.run), g_tokens IS NULL)"
        follows["final"] = f"coalesce({{0}}, g_tokens = r.budget_tokens, {last})"
        follows["tokens"] = (
            "coalesce({0}, CASE WHEN " + follows["final"].format("g_final") + " THEN r.budget_tokens END)"
        )
    extra = [
        f"{c if c in has else 'NULL'}{kind if c not in has else ''} AS g_{c}"
        for c, kind in (("correct", "::BOOLEAN"), ("tokens", "::BIGINT"), ("final", "::BOOLEAN"))
    ]
    columns = []
    for field in schema:
        mine = f"g.{field.name}" if field.name in has else "NULL"
        columns.append(f"{follows.get(field.name, '{0}').format(mine)} AS {field.name}")
    made = connection.sql(
        f"""
        WITH g AS (SELECT *, {", ".join(extra)}, row_number() OVER () AS g_line FROM given),
        r AS (SELECT run, any_value(stage) AS stage, any_value(seed) AS seed,
                     any_value(budget_tokens) AS budget_tokens FROM runs GROUP BY run)
        SELECT {", ".join(columns)} FROM g JOIN r ON g.run = r.run ORDER BY g_line
        """
    ).to_arrow_table()
    return made.cast(schema)


CHECKS = {
    "runs": {
        "budget_tokens": "budget_tokens < 0",
        "tokens_before": "tokens_before < 0",
        "training_flops": "training_flops < 0",
    },
    "evaluations": {
        "kind": f"kind NOT IN {KINDS}",
        "tokens": "tokens < 0",
        "nats": "nats < 0",
        "bytes": "bytes < 0",
        "correct": "kind = 'problems' AND correct IS NULL AND nats IS NULL",
    },
    "scores": {
        "kind": f"kind NOT IN {KINDS}",
        "tokens": "tokens < 0",
        "measure": f"measure NOT IN {MEASURES}",
        "score": "score IS NULL OR score < 0 OR (measure = 'accuracy' AND score > 100)",
        "items": "items < 1",
        "item_variance": "item_variance < 0",
    },
    "steps": {"step": "step < 0", "tokens": "tokens < 0", "loss_nats": "loss_nats < 0"},
    "mixtures": {
        "share": "share < 0 OR share > 1",
        "until_tokens": "until_tokens IS NULL OR until_tokens < 0",
        "available_tokens": "available_tokens < 0",
    },
}
ONCE = {
    "evaluations": ("run", "tokens", "benchmark", "item"),
    "scores": ("run", "tokens", "benchmark", "measure"),
    "steps": ("run", "step"),
    "mixtures": ("run", "until_tokens", "source"),
}


def bounded(tables: Mapping[str, pa.Table]) -> None:
    """Values that a quantity can have, and each row once."""
    import duckdb

    connection = duckdb.connect(":memory:")
    for name, checks in CHECKS.items():
        connection.register(name, tables[name])
        for column, wrong in checks.items():
            found = connection.execute(f"SELECT run, {column} FROM {name} WHERE {wrong} LIMIT 1").fetchone()
            if found:
                raise Refused(f"{name}: {found[0]}: {column} is {found[1]!r}, which it cannot be")
        keys = ONCE.get(name)
        if keys:
            query = f"SELECT {', '.join(keys)} FROM {name} GROUP BY ALL HAVING count(*) > 1 LIMIT 1"
            twice = connection.execute(query).fetchone()
            if twice:
                told = ", ".join(f"{k} {v}" for k, v in zip(keys, twice) if v is not None)
                raise Refused(f"{name}: {told} stands twice")
    both = "SELECT run, benchmark FROM scores SEMI JOIN evaluations USING (run, benchmark) LIMIT 1"
    found = connection.execute(both).fetchone()
    if found:
        raise Refused(f"scores: {found[0]} on {found[1]} stands among the evaluations too; keep the items")
