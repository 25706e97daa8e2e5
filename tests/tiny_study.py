"""A study that runs in seconds, on a corpus made here."""

from __future__ import annotations

import json
from pathlib import Path

import yaml

TINY = {
    "question": "Does code help?",
    "model": {"preset": "0.5m", "context": 64},
    "tokenizer": {"bpe": 320, "sample_bytes": 100_000},
    "sources": {"code": {"files": "code.jsonl"}, "algebra": {"generated": ["chain_sum"]}},
    "stages": {
        "code": {"mixture": {"code": 1}, "budget_tokens": 2048},
        "math": {"mixture": {"algebra": 1}, "budget_tokens": 3072, "evaluate_at": [1024]},
        "instruct": {"kind": "instruct", "mixture": {"algebra": 1}, "budget_tokens": 1024},
    },
    "strategies": {"code first": ["code", "math", "instruct"], "from scratch": ["math", "instruct"]},
    "baseline": "from scratch",
    "benchmarks": {"problems": {"generated": ["chain_sum"], "problems": 8, "max_new_tokens": 8}},
    "held_out": {"scored_bytes": 2000},
    "recipe": {"batch_tokens": 512},
    "seeds": [0],
}


def tiny(**changes: object) -> dict:
    """The tiny study's fields, some of them replaced."""
    return json.loads(json.dumps(TINY)) | changes


def write_study(folder: Path, fields: dict) -> Path:
    """The study as a file, with a corpus of code beside it."""
    with open(folder / "code.jsonl", "w", encoding="utf-8") as lines:
        for repository in range(8):
            for number in range(12):
                text = f"def f{number}(x):\n    y = x * {number + repository}\n    return y + {number}\n" * 4
                row = {"text": text, "repo": f"repo{repository}", "path": f"f{number}.py"}
                lines.write(json.dumps(row) + "\n")
    file = folder / "tiny.yaml"
    file.write_text(yaml.safe_dump(fields, sort_keys=False), encoding="utf-8")
    return file
