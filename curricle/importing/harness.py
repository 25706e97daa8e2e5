"""lm-evaluation-harness output folders: `results_DATE.json`, and beside it `samples_TASK_DATE.jsonl` where logged.

A model is a run, named as the harness names it. A task's samples become items, paired between models by their number
and the hash of their document; without samples a task is a mean with its n. A task with several metrics or filters
becomes a benchmark for each: `arc_easy acc_norm`, `gsm8k strict-match`. Where a task was run several times, the latest
counts.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from curricle.importing.reading import json_lines, json_of, number
from curricle.results import ACCURACIES
from curricle.study import Refused

BITS = "bits_per_byte"
SAMPLE_KEYS = {"doc_id", "filter", "metrics"}
Row = dict[str, Any]


def results_files(folder: Path) -> list[Path]:
    """The harness's results below a folder, the oldest first; names carry the date."""
    return sorted(folder.rglob("results_*.json"), key=lambda file: file.stem.removeprefix("results_"))


def read(folder: Path) -> tuple[dict[str, list[Row]], list[str]]:
    """Rows of `runs`, `evaluations` and `scores`, and what was left out."""
    files = results_files(folder)
    if not files:
        raise Refused(f"{folder}: no results_*.json of lm-evaluation-harness in it")
    latest: dict[tuple[str, str], tuple[Path, Row]] = {}
    notes: list[str] = []
    for file in files:
        found = json_of(file)
        if not isinstance(found.get("results"), dict):
            raise Refused(f"{file}: has no 'results'; it is not lm-evaluation-harness's output")
        groups = {name for name, of in mapping(found.get("group_subtasks")).items() if of}
        for task in found["results"]:
            if task in groups or not isinstance(found["results"][task], dict):
                continue  # a group is a mean of its tasks, which stand in the file too
            if (model_of(found, file), task) in latest:
                notes.append(f"{task} of {model_of(found, file)}: run several times, the latest is taken")
            latest[model_of(found, file), task] = (file, found)
    runs = {model for model, _ in latest}
    tables: dict[str, list[Row]] = {"runs": [], "evaluations": [], "scores": []}
    tables["runs"] = [{"run": m, "strategy": m, "seed": 0, "position": 0, "stage": "model"} for m in sorted(runs)]
    for (model, task), (file, found) in latest.items():
        date = file.stem.removeprefix("results_")
        samples = file.with_name(f"samples_{task}_{date}.jsonl")
        if samples.exists():
            tables["evaluations"] += items(samples, model, task)
        else:
            made, left = means(found, model, task)
            tables["scores"] += made
            notes += [f"{task} of {model}: {left} left out, no measure of ours"] if left else []
    return tables, notes


def mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def model_of(found: Mapping[str, Any], file: Path) -> str:
    """As the harness names it: the model's name, or what was loaded, or the folder."""
    return str(found.get("model_name") or mapping(found.get("config")).get("model_args") or file.parent.name)


def items(file: Path, model: str, task: str) -> Iterator[Row]:
    """One row for each sample, metric and filter: a verdict, or the nats of a text."""
    rows = list(json_lines(file))
    for row in rows:
        if not row.keys() >= SAMPLE_KEYS or not isinstance(row["metrics"], list):
            lacking = ", ".join(sorted(SAMPLE_KEYS - row.keys())) or "a list of metrics"
            raise Refused(f"{file}: a sample lacks {lacking}; it is not lm-evaluation-harness's output")
    filters = {str(row["filter"]) for row in rows}
    metrics = {m for row in rows for m in row["metrics"] if m in ACCURACIES and verdict(row.get(m)) is not None}
    for row in rows:
        answer = row.get("filtered_resps")
        common = {
            "run": model,
            "tokens": None,
            "final": True,
            "item": f"{row['doc_id']}-{str(row.get('doc_hash', ''))[:12]}",
        }
        first = next((metric for metric in row["metrics"] if metric in metrics), None)
        for metric in row["metrics"]:
            if metric == BITS:
                pair = row.get(metric)
                if not (isinstance(pair, list) and len(pair) == 2 and all(number(x) is not None for x in pair)):
                    raise Refused(f"{file}: doc_id {row['doc_id']}: {metric} is {pair!r}, not [log-likelihood, bytes]")
                yield {**common, "benchmark": task, "kind": "held-out", "nats": -float(pair[0]), "bytes": int(pair[1])}
            elif metric in metrics:
                told = [task, *([metric] if len(metrics) > 1 else []), *([row["filter"]] if len(filters) > 1 else [])]
                right = verdict(row.get(metric))
                if right is None:
                    raise Refused(f"{file}: doc_id {row['doc_id']}: {metric} is {row.get(metric)!r}, not 0 or 1")
                yield {
                    **common, **(gold(row) if metric == first else {}),
                    "benchmark": " ".join(map(str, told)), "kind": "problems", "correct": right,
                    "prompt": prompt_of(row), "expected": str(row.get("target", "")),
                    "output": str(answer[0]) if isinstance(answer, list) and answer and not gold(row) else None,
                    "reason": f"{metric} of lm-evaluation-harness",
                }  # fmt: skip


def verdict(value: Any) -> bool | None:
    found = float(value) if isinstance(value, bool) else number(value)
    return bool(found) if found in (0.0, 1.0) else None


def prompt_of(row: Mapping[str, Any]) -> str | None:
    first = mapping(mapping(row.get("arguments")).get("gen_args_0")).get("arg_0")
    return first if isinstance(first, str) else None


def gold(row: Mapping[str, Any]) -> Row:
    """Of a multiple choice: the nats and bytes of the right choice, where the sample has one likelihood a choice."""
    arguments, answers = mapping(row.get("arguments")), row.get("filtered_resps")
    target = number(row.get("target"))
    if not isinstance(answers, list) or len(answers) < 2 or target is None or not target.is_integer():
        return {}
    place = int(target)
    text = mapping(arguments.get(f"gen_args_{place}")).get("arg_1")
    choices = mapping(row.get("doc")).get("choices")
    if not 0 <= place < len(answers) == len(arguments) or not isinstance(text, str):
        return {}
    if isinstance(choices, list) and len(choices) != len(answers):
        return {}  # as with a correction by the unconditional likelihood: not one a choice
    pair = answers[place]
    nats = number(pair[0]) if isinstance(pair, list) and len(pair) == 2 else None
    return {} if nats is None or nats > 0 else {"nats": -nats, "bytes": len(text.encode())}


def means(found: Mapping[str, Any], model: str, task: str) -> tuple[list[Row], str]:
    """A task's means, and the names of the metrics that are none of ours."""
    named = {k: v for k, v in found["results"][task].items() if "," in k and "_stderr," not in k}
    n = mapping(mapping(found.get("n-samples")).get(task)).get("effective")
    ours = {k: number(v) for k, v in named.items() if k.split(",")[0] in (*ACCURACIES, BITS)}
    accuracies = {k.split(",")[0] for k in ours if k.split(",")[0] != BITS}
    filters = {k.split(",", 1)[1] for k in ours}
    made = []
    for key, value in ours.items():
        metric, filter_ = key.split(",", 1)
        error = number(found["results"][task].get(f"{metric}_stderr,{filter_}"))
        accuracy = metric != BITS
        if value is None or (accuracy and not 0 <= value <= 1) or value < 0:
            raise Refused(f"results of {model}: {task}: {key} is {found['results'][task][key]!r}")
        told = [task, *([metric] if accuracy and len(accuracies) > 1 else []), *([filter_] if len(filters) > 1 else [])]
        scale = 100.0 if accuracy else 1.0
        made.append(
            {"run": model, "tokens": None, "final": True, "benchmark": " ".join(told),
             "kind": "problems" if accuracy else "held-out", "measure": "accuracy" if accuracy else "bits per byte",
             "score": scale * value, "items": n if isinstance(n, int) and n > 0 else None,
             "item_variance": None if error is None else (scale * error) ** 2}
        )  # fmt: skip
    return made, ", ".join(sorted({k.split(",")[0] for k in named if k not in ours}))
