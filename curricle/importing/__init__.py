"""Others' runs, brought into the rows that ours are kept in (docs/schema.md), so that they are analysed the same way.

    made = gather([Path("their-runs.csv"), Path("lm-eval-output")])
    write(made, Path("runs/theirs"))

Three kinds of source: tables with our columns (Parquet or CSV, also only some of them), output folders of
lm-evaluation-harness, and exports of Weights & Biases. Sources join by the run's name: a table of runs says which
strategy, seed and stage stands behind the names that the others give. What is missing and matters is refused by name;
what is optional is null; nothing is guessed. Files are read as data within bounds (`reading`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from curricle.importing import harness, wandb
from curricle.importing.reading import columns_of, table_of
from curricle.importing.rules import REQUIRED, completed
from curricle.results import EVALUATIONS, MIXTURES, RUNS, SCORES, STEPS, write_table
from curricle.study import Refused, nearest

TABLES = {"runs": RUNS, "evaluations": EVALUATIONS, "steps": STEPS, "mixtures": MIXTURES, "scores": SCORES}
FORMATS = ("auto", "parquet", "csv", "lm-eval", "wandb")
# Columns that only one of the tables has: how a file that is not named after its table is known.
TOLD_BY = {
    "evaluations": ("item",),
    "scores": ("score",),
    "steps": ("loss_nats",),
    "mixtures": ("share",),
    "runs": ("strategy",),
}
MOST_FILES = 10_000
PLACE = ("strategy", "seed", "stage", "position", "baseline")  # that evaluations or scores may say of their runs


@dataclass(frozen=True, slots=True)
class Imported:
    tables: Mapping[str, pa.Table]
    notes: tuple[str, ...]


def gather(
    sources: Sequence[Path],
    format: str = "auto",
    *,
    baseline: str | None = None,
    tokens_per_step: int | None = None,
    accuracies: str = "auto",
) -> Imported:
    """All sources as one set of checked tables. `baseline` names the strategy that others are measured against;
    `tokens_per_step` places the steps of a history that counts no tokens; `accuracies` says whether a W&B export has
    them as a `share` of 1 or in `percent`. Raises `Refused` for what cannot be read, lacks a column that matters, or
    contradicts itself."""
    for option, value, known in (("format", format, FORMATS), ("accuracies", accuracies, wandb.ACCURACIES)):
        if value not in known:
            raise Refused(f"--{option} {value}: unknown {value!r}; {nearest(value, known)}")
    if not sources:
        raise Refused("SOURCE: give a file or a folder")
    stated: dict[str, list[pa.Table]] = {name: [] for name in TABLES}
    supposed: list[dict[str, Any]] = []  # runs as a harness or a tracker names them, where no table says more
    notes: list[str] = []
    for source in sources:
        if not source.exists():
            raise Refused(f"{source}: no such file or folder")
        for kind, path in parts(source, format):
            if kind == "lm-eval":
                rows, said = harness.read(path)
            elif kind == "wandb":
                rows, said = wandb.read(path, tokens_per_step, accuracies)
            else:
                table = table_of(path, with_places(kind), REQUIRED.get(kind, ()))
                if table.num_rows or kind == "runs":
                    stated[kind].append(table)
                continue
            supposed += rows.pop("runs")
            notes += said
            for name, of_it in rows.items():
                stated[name] += [pa.Table.from_pylist(of_it, TABLES[name])] if of_it else []
    tables = {name: joined(found, with_places(name)) for name, found in stated.items()}
    return Imported(completed(tables, supposed, TABLES, baseline), tuple(dict.fromkeys(notes)))


def with_places(table: str) -> pa.Schema:
    """A table's columns, and for one that holds scores also those that say which strategy and seed its runs are."""
    schema = TABLES[table]
    if table in ("evaluations", "scores"):
        for name in PLACE:
            schema = schema if name in schema.names else schema.append(RUNS.field(name))
    return schema


def joined(found: Sequence[pa.Table], schema: pa.Schema) -> pa.Table:
    """One table of those columns that any of them has."""
    names = [name for name in schema.names if any(name in table.column_names for table in found)]
    empty = pa.schema([schema.field(name) for name in names]).empty_table()
    return pa.concat_tables([empty, *found], promote_options="default")


def parts(source: Path, format: str) -> list[tuple[str, Path]]:
    """What a source holds: (a table's name, `lm-eval` or `wandb`; its path)."""
    if source.is_dir():
        if format == "lm-eval" or (format == "auto" and next(source.rglob("results_*.json"), None) is not None):
            return [("lm-eval", source)]
        suffixes = {"parquet": (".parquet",), "csv": (".csv",)}.get(format, (".parquet", ".csv", ".jsonl"))
        files = [file for file in sorted(source.iterdir()) if file.suffix in suffixes and file.is_file()]
        if not files:
            raise Refused(f"{source}: holds no {' or '.join(suffixes)}, nor output of lm-evaluation-harness")
        if len(files) > MOST_FILES:
            raise Refused(f"{source}: {len(files):,} files; at most {MOST_FILES:,} are read")
        return [part for file in files for part in parts(file, format)]
    if format == "lm-eval":
        raise Refused(f"{source}: a file; --format lm-eval takes the harness's output folder")
    if format == "wandb":
        return [("wandb", source)]
    if source.suffix not in (".parquet", ".csv", ".jsonl"):
        raise Refused(f"{source}: unknown kind of file; .parquet, .csv, .jsonl, or a folder")
    if format == "auto" and source.suffix != ".parquet" and wandb.is_export(source):
        return [("wandb", source)]
    if source.suffix == ".jsonl" or (format in ("parquet", "csv") and source.suffix != f".{format}"):
        raise Refused(f"{source}: not what --format {format} reads")
    return [(kind_of(source), source)]


def kind_of(path: Path) -> str:
    """Which of our tables a file holds, by its name or by its columns."""
    if path.stem in TABLES:
        return path.stem
    names = columns_of(path)
    for table, columns in TOLD_BY.items():
        if set(columns) <= set(names):
            return table
    told = "; ".join(f"{table} by {' and '.join(columns)}" for table, columns in TOLD_BY.items())
    raise Refused(f"{path}: its columns are those of no table ({told}); docs/schema.md lists them")


def write(made: Imported, folder: Path) -> None:
    """The tables as a folder of results. Raises `Refused` where results are there already."""
    if folder.exists() and not folder.is_dir():
        raise Refused(f"--out {folder}: a file, not a folder")
    if (folder / "runs.parquet").exists():
        raise Refused(f"--out {folder}: holds results already; name another folder")
    for name in ("evaluations", "steps", "mixtures", "scores", "runs"):  # runs last: with them it is a results folder
        if made.tables[name].num_rows or name in ("runs", "evaluations", "steps"):
            write_table(folder / f"{name}.parquet", made.tables[name])
