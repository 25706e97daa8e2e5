"""Weights & Biases exports: a run's history (a column `_step`), and a project's table of runs (one row a run).

Both as CSV or JSON lines. A history is named by its column `run`, `run_name` or `name`, or by its file. Columns are
known by the names that trainers give them (`TRAINED`); a column such as `eval/gsm8k/acc`, `accuracy/gsm8k` or
`eval/loss` is a score. Accuracies are shares of 1 or percent: as the caller says, else shares where no value of the
column, over every run of the file, is above 1. That choice is told, for percents that are all below 1 look the same.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from curricle import results
from curricle.importing.reading import columns_of, csv_rows, json_lines, number
from curricle.study import Refused

TRAINED = {
    "loss_nats": ("loss_nats", "train/loss", "loss", "train_loss", "training/loss"),
    "grad_norm": ("grad_norm", "train/grad_norm", "train/global_grad_norm"),
    "lr": ("lr", "train/learning_rate", "learning_rate", "train/lr", "optim/learning_rate_group0"),
    "tokens": (
        "tokens", "train/num_input_tokens_seen", "num_input_tokens_seen", "train/tokens", "train/total_tokens",
        "throughput/total_tokens", "total_tokens",
    ),
    "tokens_per_second": ("tokens_per_second", "train/tokens_per_second", "throughput/device/tokens_per_second"),
}  # fmt: skip
RUN = ("run", "run_name", "name", "Name")
OPENED = ("config", "summary", "summary_metrics")
TABLE = {"State", "Created", "Runtime", "Tags", "config", "summary", "state"}  # columns of a table of runs
ABOUT = ("strategy", "seed", "stage", "position", "baseline", "study", "kind", "budget_tokens")
ACCURACY, BITS, NATS = "accuracy", "bits per byte", "nats per token"
ACCURACIES = ("auto", "share", "percent")
MEASURES = {
    **dict.fromkeys(results.ACCURACIES, ACCURACY),
    **dict.fromkeys(("bits_per_byte", "bpb"), BITS),
    "loss": NATS,
}
HELD_OUT = ("eval", "val", "valid", "validation", "test")
Row = dict[str, Any]


def is_export(path: Path) -> bool:
    """Whether a file looks like one of these exports."""
    if path.suffix == ".jsonl":
        first: Mapping[str, Any] = next(json_lines(path), {})
        return "_step" in first or bool(TABLE & first.keys())
    names = set(columns_of(path))
    opened = any(name.partition(".")[0] in OPENED for name in names)
    return "_step" in names or ("Name" in names and bool(TABLE & names)) or (opened and bool(names & {*RUN}))


def read(
    path: Path, tokens_per_step: int | None = None, accuracies: str = "auto"
) -> tuple[dict[str, list[Row]], list[str]]:
    """Rows of `runs`, `steps` and `scores`, and what could not be brought in. `accuracies`: one of `ACCURACIES`."""
    rows = json_lines(path) if path.suffix == ".jsonl" else csv_rows(path)
    found = [flat(row) for row in rows]
    if not found:
        raise Refused(f"{path}: no rows")
    told = in_percent(path, found, accuracies)
    if any("_step" in row for row in found):
        tables, notes = history(path, found, tokens_per_step)
    else:
        tables, notes = run_table(path, found)
    return tables, [*told, *notes]


def in_percent(path: Path, rows: list[Row], accuracies: str) -> list[str]:
    """Every accuracy of the file in percent, in place: a column means the same in each of its runs. Returns what was
    chosen where nobody said."""
    chosen: dict[str, list[str]] = {"share": [], "percent": []}
    for name in dict.fromkeys(name for row in rows for name in row):
        if (meaning(name) or ("", ""))[1] != ACCURACY:
            continue
        values = {i: v for i, row in enumerate(rows) if (v := number(row.get(name))) is not None}
        unit = accuracies if accuracies != "auto" else "share" if all(v <= 1 for v in values.values()) else "percent"
        if values:
            chosen[unit].append(name)
        for i, value in values.items():
            rows[i][name] = 100 * value if unit == "share" else value
    if accuracies != "auto":
        return []
    words = {"share": "shares of 1, since no value is above 1", "percent": "percent, since a value is above 1"}
    return [
        f"{path}: {', '.join(names)}: taken as {words[unit]}; say otherwise by --accuracies"
        for unit, names in chosen.items()
        if names
    ]


def flat(row: Mapping[str, Any]) -> Row:
    """`config` and `summary` laid open: as objects, as JSON text, or as columns `config.seed`, `summary.eval/loss`. A
    config's `{value: …}` is its value. A summary says more than a plain column, and that more than a config."""
    config, plain, summary, made = Row(), Row(), Row(), Row()
    for name, value in row.items():
        head, _, rest = name.partition(".")
        if head not in OPENED:
            plain[name] = value
            continue
        into = config if head == "config" else summary
        if rest:
            into[rest] = value
            continue
        if isinstance(value, str):
            try:
                value = json.loads(value)
            except (ValueError, RecursionError):
                raise Refused(f"column {name}: not readable as JSON") from None
        if isinstance(value, dict):
            into |= {k: v["value"] if isinstance(v, dict) and "value" in v else v for k, v in value.items()}
        else:
            plain[name] = value
    for said in (config, plain, summary):
        made |= {name: value for name, value in said.items() if value is not None}
    return made


def of(row: Mapping[str, Any], names: Iterable[str]) -> Any:
    return next((row[name] for name in names if row.get(name) is not None), None)


def history(path: Path, rows: list[Row], tokens_per_step: int | None) -> tuple[dict[str, list[Row]], list[str]]:
    tables: dict[str, list[Row]] = {"runs": [], "steps": [], "scores": []}
    runs: dict[str, list[Row]] = {}
    for i, row in enumerate(rows):
        step = number(row.get("_step"))
        if step is None or not step.is_integer() or step < 0:
            raise Refused(f"{path}: row {i + 1:,}: _step is {row.get('_step')!r}, not a step")
        runs.setdefault(str(of(row, RUN) or path.stem), []).append({**row, "_step": int(step)})
    unplaced = 0
    for run, lines in runs.items():
        tables["runs"].append(about(f"{path}: {run}", run, lines))
        lines.sort(key=lambda row: row["_step"])
        tokens: int | None = None
        scored: dict[tuple[str, str], Row] = {}
        scores: dict[int, list[tuple[str, str, str, float]]] = {}
        for benchmark, measure, kind, at, score in scores_in(lines, f"{path}: {run}"):
            scores.setdefault(at, []).append((benchmark, measure, kind, score))
        for i, row in enumerate(lines):
            values = {name: number(of(row, columns)) for name, columns in TRAINED.items()}
            seen = values["tokens"]
            if seen is None and tokens_per_step:
                seen = float(row["_step"] * tokens_per_step)
            tokens = tokens if seen is None else int(seen)
            if values["loss_nats"] is not None:
                made = {"run": run, "step": row["_step"], **values, "tokens": tokens}
                tables["steps"].append(made)
            for benchmark, measure, kind, score in scores.get(i, ()):
                place = {"run": run, "tokens": tokens, "final": False, "benchmark": benchmark, "kind": kind}
                made = {**place, "measure": measure, "score": score, "items": None, "item_variance": None}
                before = scored.get((benchmark, measure))
                if before is not None and before["tokens"] != tokens:
                    tables["scores"].append(before)
                elif before is not None:
                    unplaced += 1
                scored[benchmark, measure] = made
        tables["scores"] += [{**row, "final": True} for row in scored.values()]
    notes = []
    if unplaced:
        notes.append(
            f"{path}: {unplaced:,} scores left out that no tokens tell apart; give --tokens-per-step to place them"
        )
    return tables, notes


def about(where: str, run: str, lines: list[Row]) -> Row:
    """A run's row of `runs`: what its lines say of it, each thing once; its name is its strategy where none does."""
    made: Row = {"run": run, "strategy": run, "seed": 0, "position": 0, "stage": "training"}
    for key in ABOUT:
        said = list(dict.fromkeys(told(where, key, row[key]) for row in lines if row.get(key) is not None))
        if len(said) > 1:
            raise Refused(f"{where}: {key} is {said[0]!r} and {said[1]!r}; a run has one")
        if said:
            made[key] = said[0]
    return made


def told(where: str, key: str, value: Any) -> int | bool | str:
    if key == "baseline":
        return str(value).lower() in {"true", "1"}
    if key not in ("seed", "position", "budget_tokens"):
        return str(value)
    whole = number(value)
    if whole is None or not whole.is_integer():
        raise Refused(f"{where}: {key} is {value!r}, not a whole number")
    return int(whole)


def scores_in(lines: list[Row], where: str) -> Iterator[tuple[str, str, str, int, float]]:
    """Benchmark, measure, kind, index of the line, and score, of every column that is one; accuracies in percent."""
    for name in dict.fromkeys(name for row in lines for name in row):
        known = meaning(name)
        if known is None:
            continue
        values = [(i, v) for i, row in enumerate(lines) if (v := number(row.get(name))) is not None]
        benchmark, measure = known
        for i, v in values:
            if v < 0 or (measure == ACCURACY and v > 100):
                raise Refused(f"{where}: column {name}: {v:g} is no {measure}")
            yield benchmark, measure, "problems" if measure == ACCURACY else "held-out", i, v


def meaning(column: str) -> tuple[str, str] | None:
    """`eval/gsm8k/acc` → gsm8k, accuracy; `eval/loss` → eval, nats per token; None for what is no score."""
    words = [w for w in re.split(r"[/.]", re.sub(rf"^({'|'.join(HELD_OUT)})_", r"\1/", column)) if w]
    if len(words) < 2:
        return None
    if words[0] in MEASURES and words[0] != "loss":
        words = [*words[1:], words[0]]
    measure = MEASURES.get(words[-1])
    held_out = words[0] in HELD_OUT
    if measure is None or words[0] == "train" or (measure == NATS and not held_out):
        return None
    rest = words[1:-1] if held_out else words[:-1]
    return " ".join(rest) or words[0], measure


def run_table(path: Path, rows: list[Row]) -> tuple[dict[str, list[Row]], list[str]]:
    tables: dict[str, list[Row]] = {"runs": [], "scores": []}
    names = [str(of(row, ("run", *RUN[1:], "id", "ID")) or "") for row in rows]
    if "" in names:
        raise Refused(f"{path}: row {names.index('') + 1:,} names no run; one of {', '.join(RUN)} does")
    twice = next((n for n in names if names.count(n) > 1), None) if len(set(names)) < len(names) else None
    if twice is not None:
        raise Refused(f"{path}: run {twice!r} stands twice; give the column 'run' a name for each")
    for name, row in zip(names, rows):
        tables["runs"].append(about(f"{path}: {name}", name, [row]))
    kept = [{k: v for k, v in row.items() if not isinstance(v, dict | list)} for row in rows]
    for benchmark, measure, kind, i, score in scores_in(kept, str(path)):
        tokens = number(of(rows[i], TRAINED["tokens"]))
        tables["scores"].append(
            {"run": names[i], "tokens": None if tokens is None else int(tokens), "final": True, "benchmark": benchmark,
             "kind": kind, "measure": measure, "score": score, "items": None, "item_variance": None}
        )  # fmt: skip
    return tables, []
