"""A study to start from, written for a person to change: what each field is for stands beside it."""

from __future__ import annotations

from pathlib import Path

from curricle.shapes import PRESETS
from curricle.study import SUFFIXES, Refused, parse_count


def draft(model: str, sources: list[str], budget_tokens: str) -> str:
    """The YAML of a study over `NAME=PATH` sources. Raises `Refused` for a source or a budget that cannot be read."""
    try:
        budget = parse_count(budget_tokens)
    except ValueError as error:
        raise Refused(f"--budget-tokens: {error}") from None
    if not isinstance(budget, int) or budget < 1:
        raise Refused(f"--budget-tokens: {budget_tokens!r} is not a count of tokens, such as 2B")
    named = {}
    for text in sources:
        name, equals, path = text.partition("=")
        if not equals or not name or not path:
            raise Refused(f"--source {text}: write it as NAME=PATH, for example code='repos/*.jsonl'")
        if name in {"algebra", "problems", "math", "instruct"}:
            raise Refused(f"--source {text}: the draft has a {name!r} of its own; choose another name")
        named[name] = f"{{files: {_quoted(path)}}}"
    if not named:
        named = {"code": "{installed: code}", "prose": "{installed: prose}"}
    preset = model in PRESETS
    first, stage, math = next(iter(named)), budget * 2 // 5, budget // 2
    instruct = budget - stage - math  # the longest strategy reads what was asked for, to the token
    points = f"{_short(budget * 3 // 20)}, {_short(budget * 3 // 10)}"
    width = max(len(name) for name in [*named, "algebra"]) + 1
    lines = [
        "# A study: strategies that compete to answer a question. See what it takes:  curricle plan THIS_FILE",
        f"question: Does {first} before mathematics help, and how much?",
        "",
        *_model(model, preset),
        "",
        "# Where text comes from: files, hub, installed, generated, or declared (planned, not run).",
        "sources:",
        *(f"  {name + ':':<{width}} {value}" for name, value in named.items()),
        f"  {'algebra:':<{width}} {{generated: [chain_sum, simple_equations]}}  # worked problems without end",
        "",
        "# One training phase each. A mixture's weights are shares of tokens and sum to 1.",
        "stages:",
        *(f"  {name}: {{mixture: {{{name}: 1}}, budget_tokens: {_short(stage)}}}" for name in named),
        "  # Points along the way show the curve; they compare, since the rate is constant until instruct.",
        f"  math: {{mixture: {{algebra: 1}}, budget_tokens: {_short(math)}, evaluate_at: [{points}]}}",
        "  # Loss on the answers only, the rate falling to 0.",
        f"  instruct: {{kind: instruct, mixture: {{algebra: 1}}, budget_tokens: {_short(instruct)},",
        "             recipe: {schedule: wsd, decay_share: 1}}",
        "",
        "# Stages in order. What strategies share is trained once.",
        "strategies:",
        *(f"  {name} first: [{name}, math, instruct]" for name in named),
        "  from scratch: [math, instruct]" if preset else "  mathematics only: [math, instruct]",
        f"baseline: {'from scratch' if preset else 'mathematics only'}",
        "",
        "# What is asked at every point, beside held-out bits per byte of each source.",
        "benchmarks:",
        "  problems: {generated: [chain_sum, simple_equations], problems: 200}",
        "",
        "seeds: [0, 1, 2]  # fewer than 3 say little about another run",
        *(
            []
            if preset
            else ["recipe: {optimizer: adamw, learning_rate: 1.0e-4, batch_tokens: 16384, precision: bf16}"]
        ),
    ]
    return "\n".join(lines) + "\n"


def _model(model: str, preset: bool) -> list[str]:
    if preset:
        return [
            f"model: {{preset: {model}, context: 256}}  # fresh weights; or {{checkpoint: FOLDER}}",
            "tokenizer: {bpe: 512}  # trained here, on an equal sample of the sources",
        ]
    if "/" not in model and not Path(model).exists():
        raise Refused(f"--model {model}: neither a preset ({', '.join(PRESETS)}) nor a folder nor a hub id")
    return [f"model: {{checkpoint: {_quoted(model)}, context: 1024}}  # its own tokenizer is used"]


def _quoted(text: str) -> str:
    import json

    return json.dumps(text, ensure_ascii=False)


def _short(tokens: int) -> str:
    """2500000 → 2.5M, where that says it exactly."""
    for suffix, size in reversed(SUFFIXES.items()):
        whole, hundredths = divmod(tokens * 100 // size, 100)
        if whole and (tokens * 100) % size == 0:
            return f"{whole}.{hundredths:02}".rstrip("0").rstrip(".") + suffix
    return str(max(1, tokens))
