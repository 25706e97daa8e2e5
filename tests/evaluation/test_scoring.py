"""A checkpoint on benchmarks and held-out text: rows that fit the table, and a model left as it was."""

import math
from dataclasses import replace

import pyarrow as pa
import pytest
import torch

from curricle.corpus.documents import Document
from curricle.evaluation.benchmarks import Benchmark, Item, load
from curricle.evaluation.scoring import evaluate, fitted_prompts, shots_fitted, summary
from curricle.results import EVALUATIONS
from curricle.study import GeneratedBenchmark, Refused

CALLERS = {"run", "stage", "seed", "tokens", "final"}
DOCUMENTS = {"prose": [Document("p/1", "Some words.", "prose"), Document("p/2", "More of them.", "prose")]}


@pytest.fixture(scope="module")
def sums():
    return load("sums", GeneratedBenchmark(generated=("chain_sum",), problems=6, max_new_tokens=8))


def test_rows_fit_the_table_one_for_each_item(llama, tokenizer, sums):
    rows = evaluate(llama, tokenizer, [sums], DOCUMENTS, context=128)
    assert all(set(row) == set(EVALUATIONS.names) - CALLERS for row in rows)
    table = pa.Table.from_pylist([row | dict.fromkeys(CALLERS) for row in rows], EVALUATIONS)
    assert table.column("item").to_pylist() == [item.id for item in sums.items] + ["p/1", "p/2"]
    assert table.column("kind").to_pylist() == ["problems"] * 6 + ["held-out"] * 2
    assert table.column("correct").to_pylist()[6:] == [None, None]
    assert all(row["bytes"] > 0 and row["nats"] > 0 for row in rows)


def test_a_sampler_is_a_value_and_its_outputs_are_read_and_graded(llama, tokenizer, sums):
    def oracle(model, tokenizer, prompts, *, max_new_tokens, stop=()):
        assert max_new_tokens == 8
        answers = [item.reference for item in sums.items]
        return [*answers[:3], "Answer: 123456\n", "no idea", ""]

    rows = evaluate(llama, tokenizer, [sums], {}, context=128, sampler=oracle)
    assert [row["correct"] for row in rows] == [True] * 3 + [False] * 3
    assert [row["reason"] for row in rows[2:5]] == ["same text", "different numbers", "no answer found"]
    assert rows[3]["answer"] == "123456" and rows[4]["answer"] is None
    line = summary(rows)["sums"]
    assert (line["n"], line["correct"], line["accuracy"]) == (6, 3, 0.5)


def test_evaluation_leaves_training_as_it_was_bit_for_bit(llama, tokenizer, sums):
    llama.config.attention_dropout = 0.5  # training draws random numbers; one that evaluation drew would show

    def train(evaluates):
        torch.manual_seed(5)
        model = type(llama)(llama.config)
        model.train()
        model.lm_head.eval()  # a module that was in another mode goes back to that mode
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
        for _ in range(3):
            if evaluates:
                evaluate(model, tokenizer, [sums], DOCUMENTS, context=128)
                assert model.training and not model.lm_head.training
                assert all(p.requires_grad for p in model.parameters())
            tokens = torch.randint(0, 257, (2, 16))
            model(tokens, labels=tokens).loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        return model.state_dict()

    with_it, without = train(True), train(False)
    assert all(torch.equal(with_it[name], without[name]) for name in without)


def test_the_mode_comes_back_even_when_a_sampler_fails(llama, tokenizer, sums):
    def broken(*args, **kwargs):
        raise RuntimeError("out of order")

    llama.train()
    with pytest.raises(RuntimeError):
        evaluate(llama, tokenizer, [sums], {}, context=128, sampler=broken)
    assert llama.training


def test_the_first_exemplars_go_first_when_the_context_is_short(tokenizer):
    item = Item("i", "q", "P" * 10, "R" * 5, "1")
    benchmark = Benchmark("b", (item,), max_new_tokens=20, exemplars=("a" * 30, "b" * 30, "c" * 30))
    prompts = {context: fitted_prompts(tokenizer, benchmark, context)[0] for context in (121, 120, 91, 61, 60, 30)}
    assert prompts[121] == "a" * 30 + "b" * 30 + "c" * 30 + "P" * 10
    assert prompts[120] == prompts[91] == "b" * 30 + "c" * 30 + "P" * 10
    assert prompts[61] == "c" * 30 + "P" * 10
    assert prompts[60] == prompts[30] == "P" * 10
    assert shots_fitted(benchmark, list(prompts.values())) == (0, 3)
    with pytest.raises(Refused, match=r"benchmarks\.b\.max_new_tokens: 20 leaves no room"):
        fitted_prompts(tokenizer, benchmark, 21)
    assert fitted_prompts(tokenizer, replace(benchmark, answers=False), 21) == ["P" * 10]  # nothing will be written


def test_jobs_pass_through_the_watcher_by_name(llama, tokenizer, sums):
    seen = []

    def watch(jobs):
        for job in jobs:
            seen.append(job[0])
            yield job

    assert len(evaluate(llama, tokenizer, [sums], DOCUMENTS, context=128, watch=watch)) == 8
    assert seen == ["sums", "prose"]


def test_bits_per_byte_are_of_all_bytes_together():
    rows = [
        {"benchmark": "prose", "kind": "held-out", "nats": 8 * math.log(2), "bytes": 4, "correct": None},
        {"benchmark": "prose", "kind": "held-out", "nats": 2 * math.log(2), "bytes": 1, "correct": None},
    ]
    assert summary(rows) == {"prose": {"kind": "held-out", "n": 2, "bits_per_byte": pytest.approx(2.0)}}


def test_where_no_answers_are_asked_for_nothing_is_generated_and_solutions_are_scored(llama, tokenizer, sums):
    def nobody(*_, **__):
        raise AssertionError("asked")

    asked = evaluate(llama, tokenizer, [sums], {}, context=128)
    silent = evaluate(llama, tokenizer, [replace(sums, answers=False)], {}, context=128, sampler=nobody)
    assert [row["nats"] for row in silent] == [row["nats"] for row in asked]
    assert {row["correct"] for row in silent} == {row["output"] for row in silent} == {None}
    assert "accuracy" not in summary(silent)["sums"]
