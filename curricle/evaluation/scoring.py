"""A checkpoint on benchmarks and held-out text: from questions to the rows that every finding rests on.

`evaluate` promises one row for each problem and each held-out document, in a stable order, with the columns of
`results.EVALUATIONS` except those that say which run and when (`run`, `stage`, `seed`, `tokens`, `final`), which its
caller knows. The model comes back in the mode it had, and no random number was drawn: training goes on as if nothing
had happened. Prompt, output, read answer, verdict and reason are kept, so that answers can be graded again.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from curricle.corpus.documents import Document
from curricle.evaluation.benchmarks import Benchmark, Item
from curricle.evaluation.generation import Sampler, generate
from curricle.evaluation.grading import grade
from curricle.evaluation.likelihood import score, score_encoded
from curricle.study import Refused
from curricle.tokens.shards import encode
from curricle.tokens.tokenizer import spelled

Row = dict[str, Any]
Job = tuple[str, Callable[[], list[Row]]]


def evaluate(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    benchmarks: Sequence[Benchmark],
    held_out: Mapping[str, Sequence[Document]],
    *,
    context: int,
    sampler: Sampler = generate,
    watch: Callable[[Iterable[Job]], Iterable[Job]] = lambda jobs: jobs,
) -> list[Row]:
    """Rows for every problem of the benchmarks and every held-out document, by source.

    `context` bounds the tokens of a prompt with its answer, and of a scored window. `watch` is given the jobs, as
    (name, work) pairs, and passes them on: the place for a progress bar.
    """
    jobs: list[Job] = [(b.name, partial(problem_rows, model, tokenizer, b, context, sampler)) for b in benchmarks]
    jobs += [(name, partial(held_out_rows, model, tokenizer, name, docs, context)) for name, docs in held_out.items()]
    return [row for _, work in watch(jobs) for row in work()]


def problem_rows(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, benchmark: Benchmark, context: int, sampler: Sampler
) -> list[Row]:
    """Ask, read, grade; and the likelihood of the reference solutions after the same prompts."""
    prompts = fitted_prompts(tokenizer, benchmark, context)
    outputs: list[str | None] = [None] * len(prompts)
    if benchmark.answers:
        outputs = [*sampler(model, tokenizer, prompts, max_new_tokens=benchmark.max_new_tokens, stop=benchmark.stop)]
    references = [(prompt, item.reference) for prompt, item in zip(prompts, benchmark.items, strict=True)]
    scores = score(model, tokenizer, references, context=context)
    rows = []
    for item, prompt, output, scored in zip(benchmark.items, prompts, outputs, scores, strict=True):
        verdict = None
        if output is not None:
            verdict = grade(output, item.expected, benchmark.form, last_number=benchmark.last_number)
        rows.append(
            {
                "benchmark": benchmark.name,
                "kind": "problems",
                "item": item.id,
                "nats": scored.nats,
                "target_tokens": scored.target_tokens,
                "bytes": scored.bytes,
                "correct": verdict and verdict.correct,
                "prompt": prompt,
                "output": output,
                "answer": verdict and verdict.answer,
                "expected": item.expected,
                "reason": verdict and verdict.reason,
            }
        )
    return rows


def held_out_rows(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, source: str, documents: Sequence[Document], context: int
) -> list[Row]:
    encoded = list(encode(documents, tokenizer))
    scores = score_encoded(model, encoded, tokenizer.eos_token_id, context=context)
    unasked = dict.fromkeys(("correct", "prompt", "output", "answer", "expected", "reason"))
    return [
        {
            "benchmark": source,
            "kind": "held-out",
            "item": document.id,
            "nats": scored.nats,
            "target_tokens": scored.target_tokens,
            "bytes": scored.bytes,
            **unasked,
        }
        for document, scored in zip(documents, scores, strict=True)
    ]


def fitted_prompts(tokenizer: PreTrainedTokenizerBase, benchmark: Benchmark, context: int) -> list[str]:
    """Each item's prompt after as many exemplars as leave room for an answer; the first exemplars go first.

    The answer's room is `max_new_tokens`, or the reference solution's tokens where these are more. Raises `Refused`
    where `max_new_tokens` alone fills the context; a benchmark that asks for no answers needs none.
    """
    longest = benchmark.max_new_tokens if benchmark.answers else 0
    if longest + 2 > context:
        raise Refused(
            f"benchmarks.{benchmark.name}.max_new_tokens: {benchmark.max_new_tokens} leaves no room for a prompt in a "
            f"context of {context} tokens"
        )

    def tokens(text: str) -> int:
        return len(spelled(tokenizer, [text])[0])

    shots = [tokens(shot) for shot in benchmark.exemplars]

    def fitted(item: Item) -> str:
        room = context - 1 - tokens(item.prompt)  # 1: the token that opens a document
        if shots:
            room -= max(longest, tokens(item.reference) + 1)
        drop = 0
        while drop < len(shots) and sum(shots[drop:]) > room:
            drop += 1
        return "".join(benchmark.exemplars[drop:]) + item.prompt

    return [fitted(item) for item in benchmark.items]


def shots_fitted(benchmark: Benchmark, prompts: Sequence[str]) -> tuple[int, int]:
    """The fewest and the most exemplars that stand before a problem in these prompts."""
    counts = [sum(shot in prompt for shot in benchmark.exemplars) for prompt in prompts]
    return min(counts, default=0), max(counts, default=0)


# ---- a summary ----------------------------------------------------------------------------------------------------


def summary(rows: Iterable[Row]) -> dict[str, Row]:
    """For each benchmark or source: n, bits per byte, and where there are verdicts how many are correct."""
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(row["benchmark"], []).append(row)
    return {name: _summarise(group) for name, group in groups.items()}


def _summarise(rows: list[Row]) -> Row:
    size = sum(row["bytes"] for row in rows)
    nats = math.fsum(row["nats"] for row in rows)
    line: Row = {
        "kind": rows[0]["kind"],
        "n": len(rows),
        "bits_per_byte": nats / math.log(2) / size if size else None,
    }
    verdicts = [row["correct"] for row in rows if row["correct"] is not None]
    if verdicts:
        line |= {"correct": sum(verdicts), "accuracy": sum(verdicts) / len(verdicts)}
    return line
