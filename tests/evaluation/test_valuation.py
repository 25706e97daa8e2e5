"""The value of documents at a model's weights: exact products, what approximates them, and what they predict."""

from __future__ import annotations

import csv
import json
import math

import numpy as np
import pytest
import torch

from curricle.analysis.value import value
from curricle.corpus.documents import Document
from curricle.evaluation.valuation import (
    by_forward_passes,
    by_gradients,
    by_stand_ins,
    chosen,
    density_ratios,
    gradient,
    moved,
    pieces,
    product,
    trained,
)
from curricle.study import Refused

TARGET = ["two and three is five", "four and one is five", "one and one is two"]
SOURCES = {
    "near": ["three and three is six", "two and two is four", "five and one is six"],
    "far": ["qxz~~##@@ 0xFF !!", "{{{ }}} ;;; ~~~", "#### @@@@ ^^^^ ||||"],
}


@pytest.fixture
def measured(llama, tokenizer):
    """The model, its tokenizer, the target's and the sources' pieces."""

    def cut(name: str, texts: list[str]) -> list:
        return pieces([Document(f"{name}{i}", t, name) for i, t in enumerate(texts)], tokenizer, 32)

    return llama, tokenizer, cut("target", TARGET), {name: cut(name, texts) for name, texts in SOURCES.items()}


def test_a_value_is_the_product_of_the_two_gradients_and_of_its_factors(measured):
    model, tokenizer, target, sources = measured
    rows = by_gradients(model, tokenizer, target, sources)
    assert [(row["source"], row["document"]) for row in rows] == [(n, f"{n}{i}") for n in SOURCES for i in range(3)]
    aim, _ = gradient(model, target, 0)
    for row, piece in zip(rows, [piece for some in sources.values() for piece in some]):
        ids = torch.tensor([0, *piece.encoded.ids.tolist()])[None]
        model.zero_grad()
        model(input_ids=ids, labels=ids).loss.backward()  # transformers' own mean loss a token
        own = [p.grad for p in trained(model)]
        assert row["dot"] == pytest.approx(product(aim, own), rel=1e-4)
        assert row["dot"] == pytest.approx(row["r"] * row["c"] * row["f"]) and abs(row["r"]) <= 1
        assert row["tokens"] == len(piece.encoded.ids)
        assert row["target_square"] == pytest.approx(product(aim, aim))


def test_forward_passes_tend_to_the_exact_product(measured):
    model, tokenizer, target, sources = measured
    exact = np.array([row["dot"] for row in by_gradients(model, tokenizer, target, sources)])
    before = [p.detach().clone() for p in trained(model)]
    errors = []
    for step in (1e-3, 3e-4, 1e-4):
        rows = by_forward_passes(model, tokenizer, target, sources, step=step)
        errors.append(float(np.abs(np.array([row["dot"] for row in rows]) - exact).max() / np.abs(exact).max()))
    assert errors[1] < errors[0] / 5 and errors[2] < errors[1] / 5 and errors[2] < 0.002, errors
    assert all(torch.equal(a, b) for a, b in zip(before, trained(model)))


@pytest.mark.parametrize("source", list(SOURCES))
def test_a_small_step_on_a_source_lowers_the_target_s_loss_by_what_was_predicted(measured, source):
    model, tokenizer, target, sources = measured
    rows = [row for row in by_gradients(model, tokenizer, target, sources) if row["source"] == source]
    predicted = sum(row["tokens"] * row["dot"] for row in rows) / sum(row["tokens"] for row in rows)
    batch, _ = gradient(model, sources[source], 0)
    _, before = gradient(model, target, 0)
    for rate, within in ((1e-3, 0.05), (1e-4, 0.01)):
        with moved(model, batch, -rate):
            _, after = gradient(model, target, 0)
        assert (before - after) / rate == pytest.approx(predicted, rel=within)


def test_under_adam_s_scale_the_step_that_is_predicted_is_the_scaled_one(measured):
    from curricle.evaluation.valuation import diagonal

    model, tokenizer, target, sources = measured
    rows = by_gradients(model, tokenizer, target, sources, adam=True)
    every = [piece for some in sources.values() for piece in some]
    scale = diagonal(model, every, 0)
    own, _ = gradient(model, every[:1], 0)
    _, before = gradient(model, target, 0)
    with moved(model, [g * s for g, s in zip(own, scale)], -1e-7):
        _, after = gradient(model, target, 0)
    assert (before - after) / 1e-7 == pytest.approx(rows[0]["dot"], rel=0.02)
    assert all(row["dot"] == pytest.approx(row["r"] * row["c"] * row["f"]) for row in rows)


def test_training_on_the_target_itself_is_worth_its_square(measured):
    model, tokenizer, target, _ = measured
    rows = by_gradients(model, tokenizer, target, {"target": target})
    mean = sum(row["tokens"] * row["dot"] for row in rows) / sum(row["tokens"] for row in rows)
    assert mean == pytest.approx(rows[0]["target_square"])


def test_the_model_is_left_as_it_was(measured):
    model, tokenizer, target, sources = measured
    before = [p.detach().clone() for p in model.parameters()]
    model.train()
    by_gradients(model, tokenizer, target, sources)
    by_forward_passes(model, tokenizer, target, sources)
    by_stand_ins(model, tokenizer, target, sources)
    assert model.training and all(p.grad is None for p in model.parameters())
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters()))


def test_stand_ins_put_like_text_before_unlike_text(measured):
    model, tokenizer, target, sources = measured
    rows = by_stand_ins(model, tokenizer, target, sources, better=(model, tokenizer))
    ratio = {name: [row["r"] for row in rows if row["source"] == name] for name in SOURCES}
    assert min(ratio["near"]) > 1 > max(ratio["far"])
    # A model is no better than itself, but for the cut of a document.
    assert all(row["f"] < 0.01 * row["c"] for row in rows)
    assert all(row["c"] == pytest.approx(row["nats"] * row["tokens"] / math.log(2) / row["bytes"]) for row in rows)


def test_a_density_ratio_is_of_what_texts_share_and_not_of_how_many_there_are():
    near, far = ["a b c d"] * 20, ["w x y z"] * 20
    few = density_ratios(["a b c d e"], {"near": near, "far": far})
    many = density_ratios(["a b c d e"], {"near": near * 10, "far": far})
    for found in (few, many):
        assert found["near"][0] > 1 > found["far"][0]


def test_a_question_s_prompt_carries_no_loss_and_long_text_is_cut(tokenizer):
    cut = pieces([Document("q", "42", "s", prompt="What? "), Document("long", "x" * 99, "s")], tokenizer, 32)
    assert [piece.tokens for piece in cut] == [3, 32] and len(cut[1].text) == 32
    with pytest.raises(Refused, match="no document has a token that carries loss within 4 tokens"):
        pieces([Document("q", "42", "s", prompt="What? ")], tokenizer, 4)


def test_a_sample_is_the_same_in_whatever_order_documents_come():
    documents = [Document(str(i), f"text {i}", "s") for i in range(50)]
    assert chosen(documents, 5) == chosen(documents[::-1], 5) and len(chosen(documents, 99)) == 50


@pytest.fixture
def place(tmp_path, llama, tokenizer):
    """A checkpoint and corpora in a folder."""
    llama.float().save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    for name, texts in (SOURCES | {"target": TARGET}).items():
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    answers = [{"question": f"What is {text}?", "answer": f"{text}\n#### 5"} for text in TARGET]
    (tmp_path / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in answers))
    return tmp_path


def asked(place, *options: str):
    """What the verb prints, as its JSON, and the code it leaves with."""
    from typer.testing import CliRunner

    from curricle.cli import app

    corpora = [f"--source={name}={place / name}.jsonl" for name in SOURCES]
    return CliRunner().invoke(app, ["value", str(place / "model"), *corpora, *options])


@pytest.mark.parametrize("method", ["gradient", "forward", "stand-in"])
def test_the_verb_judges_sources_and_keeps_a_row_for_each_document(place, method):
    out = place / "rows.csv"
    shown = asked(place, f"--target=it={place}/target.jsonl", "--method", method, "--out", str(out), "--json")
    found = json.loads(shown.stdout)["findings"]
    assert {f["subject"] for f in found} == set(SOURCES) and found[0]["question"] == "value"
    with open(out) as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 6 and {row["method"] for row in rows} == {method}
    words = ("model", "target", "source", "document", "method")
    again = value([{k: v if k in words else float(v) if v else None for k, v in row.items()} for row in rows])
    assert {row["target"] for row in rows} == {"it"} and len({row["model"] for row in rows}) == 1
    assert [f.estimate for f in again] == pytest.approx([f["estimate"] for f in found])


def test_the_verb_takes_a_benchmark_s_solutions_as_its_target_and_shows_a_table(place):
    shown = asked(place, f"--target=gsm8k={place}/test.jsonl", "--out", str(place / "rows.parquet"))
    assert (
        shown.exit_code == 0 and "near" in shown.stdout and "100 % is a step on the target's own text" in shown.stdout
    )
    assert (place / "rows.parquet").exists()
    assert "E[rc]/E[r]E[c]: above 1" in " ".join(shown.stdout.split())


def test_the_verb_blames_the_option_and_not_a_study_where_a_file_has_no_text(place):
    for option in ("--target", "--source"):
        shown = asked(place, f"--target=it={place}/target.jsonl", f"{option}=gsm8kk={place}/test.jsonl")
        said = str(shown.exception)
        assert said.startswith(f"{option} gsm8kk={place}/test.jsonl: no field 'text' in the first rows of "), said
        assert ("gsm8k=FILE" in said) == (option == "--target")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--target=t=target.jsonl", "--method", "gradients"], "--method gradients: did you mean 'gradient'?"),
        (["--target=target.jsonl"], "--target target.jsonl: write it as NAME=PATH"),
        (["--target=t=target.jsonl", "--adam", "--method", "forward"], "--adam: products are under Adam's scale"),
        (["--target=t=target.jsonl", "--out", "rows.txt"], "--out rows.txt: name a .parquet or a .csv file"),
        (["--target=t=nothing.jsonl"], "nothing.jsonl"),
    ],
)
def test_the_verb_refuses_what_it_cannot_do(place, options, message):
    shown = asked(place, *options)
    assert isinstance(shown.exception, Refused) and message in str(shown.exception)
