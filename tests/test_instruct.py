"""An instruct stage from rows of conversations to an exported model that answers to the template it was trained on."""

from __future__ import annotations

import json
import math

import pytest
import torch
from tiny_study import tiny, write_study

from curricle.corpus.conversations import answer_parts
from curricle.planning import compile_plan
from curricle.running.preparation import prepare
from curricle.store import Store
from curricle.study import Refused
from curricle.studyfile import load_study
from curricle.tokens.chat import PLAIN, PROBLEMS, opened

torch.set_num_threads(1)


def chats(number: int) -> list[dict]:
    """Rows of messages, pairs beside them; every third answer calls a tool."""
    rows = []
    for n in range(number):
        answer = (
            f"```python\nprint({n} * 7)\n```\n```output\n{n * 7}\n```\nIt is {n * 7}." if n % 3 else f"It is {n * 7}."
        )
        asked, more = f"What is {n} times 7?", [{"role": "user", "content": "Sure?"}]
        said = [{"role": "user", "content": asked}, {"role": "assistant", "content": answer}]
        said += [*more, {"role": "assistant", "content": "Yes."}] if n % 2 else []
        rows.append({"said": said, "q": asked, "a": answer, "id": n})
    return rows


def study_of(folder, sources: dict, mixture: dict | None = None, **changes):
    fields = tiny(**changes)
    fields["sources"] |= sources
    fields["stages"]["instruct"]["mixture"] = mixture or {next(iter(sources)): 1.0}
    del fields["stages"]["math"]
    fields["strategies"] = {"from scratch": ["instruct"]}
    del fields["benchmarks"]
    file = write_study(folder, fields)
    (folder / "chats.jsonl").write_text("".join(json.dumps(row) + "\n" for row in chats(300)))
    return load_study(file)


MESSAGES = {"files": "chats.jsonl", "messages": "said", "group": "id"}
PAIRS = {"files": "chats.jsonl", "prompt": "q", "text": "a", "group": "id"}


@pytest.mark.parametrize("source", [MESSAGES, PAIRS], ids=["messages", "pairs"])
def test_a_run_trains_on_answers_and_leaves_a_tokenizer_that_renders_what_it_saw(tmp_path, source):
    from transformers import AutoTokenizer

    from curricle.corpus import catalogue as corpora
    from curricle.running.work import work_on
    from curricle.tokens.shards import Shard

    study = study_of(tmp_path, {"chat": source})
    prepared = prepare(study, Store(tmp_path / "store"))
    plan = compile_plan(study, prepared.catalogue)
    (node,) = plan.nodes.values()
    kinds = [message.kind for message in work_on(prepared, node)]
    assert kinds.count("step") == node.steps

    model = prepared.store.run_folder(node.run) / "model"
    tokenizer = AutoTokenizer.from_pretrained(model)
    assert tokenizer.chat_template == opened(PLAIN)
    shard = Shard.open(prepared.shards["chat"] / "data.ds")
    documents = list(corpora.documents(prepared.corpora["chat"]))
    start = 0
    for document, end in zip(documents[:40], shard.ends, strict=False):
        messages = [{"role": role, "content": content} for role, content in document.conversation]
        # A row stands on the delimiter: with it the template gives its very tokens, by either way to them.
        rendered = tokenizer.apply_chat_template(messages, tokenize=False)
        row = [tokenizer.eos_token_id, *shard.tokens[start : int(end)].tolist()]
        assert tokenizer.decode(row) == rendered
        assert tokenizer.apply_chat_template(messages)["input_ids"] == row
        assert tokenizer(rendered, add_special_tokens=False)["input_ids"] == row
        asked = tokenizer.apply_chat_template(messages[:-1], add_generation_prompt=True)["input_ids"]
        assert len(asked) > 1 and asked == row[: len(asked)]
        start = int(end)
    metrics = [json.loads(line) for line in (prepared.store.run_folder(node.run) / "metrics.jsonl").open()]
    assert all(math.isfinite(row["loss_nats"]) for row in metrics if "loss_nats" in row)


def test_held_out_answers_are_scored_without_questions_and_tool_outputs(tmp_path):
    import pyarrow.parquet as pq

    from curricle.running.work import evaluation_file, work_on

    study = study_of(tmp_path, {"chat": MESSAGES})
    prepared = prepare(study, Store(tmp_path / "store"))
    (node,) = compile_plan(study, prepared.catalogue).nodes.values()
    list(work_on(prepared, node))
    file = evaluation_file(prepared, prepared.store.run_folder(node.run), node.tokens, "chat")
    rows = {row["item"]: row for row in pq.read_table(file).to_pylist()}
    held_out = prepared.held_out("chat")
    assert set(rows) == {document.id for document in held_out} and held_out
    for document in held_out:
        answers = [content for role, content in document.conversation if role == "assistant"]
        learnt = [part for text in answers for part, carries in answer_parts(text) if carries]
        assert rows[document.id]["bytes"] == sum(len(part.encode()) for part in learnt)
        assert rows[document.id]["nats"] > 0


def test_a_run_on_generated_problems_leaves_their_template_and_a_pretrained_one_leaves_none(tmp_path):
    study = study_of(tmp_path, {"chat": MESSAGES}, {"algebra": 1.0})
    prepared = prepare(study, Store(tmp_path / "store"))
    assert prepared.chat_template("instruct", ["algebra"]) == opened(PROBLEMS)
    assert prepared.chat_template("instruct", ["algebra", "chat"]) == opened(PLAIN)
    assert prepared.chat_template("instruct", ["algebra", "code"]) is None
    assert prepared.chat_template("pretrain", ["chat"]) is None


def test_text_run_together_may_stand_beside_a_template_and_that_is_the_one_that_goes_out(tmp_path):
    sources = {"chat": MESSAGES, "joined": PAIRS | {"template": "none"}}
    prepared = prepare(study_of(tmp_path, sources, {"chat": 0.5, "joined": 0.5}), Store(tmp_path / "store"))
    assert prepared.chat_template("instruct", ["chat", "joined"]) == opened(PLAIN)
    assert prepared.chat_template("instruct", ["joined"]) is None
    assert prepared.chat_template("instruct", ["joined", "algebra"]) is None


def test_two_templates_in_one_study_are_refused_by_name(tmp_path):
    study = study_of(tmp_path, {"a": MESSAGES, "b": PAIRS | {"template": "checkpoint"}}, {"a": 0.5, "b": 0.5})
    with pytest.raises(
        Refused, match=r"sources\.a\.template: 'plain', but sources\.b\.template is 'checkpoint'; a study"
    ):
        prepare(study, Store(tmp_path / "store"))


def test_a_template_of_a_tokenizer_that_has_none_is_refused_by_name(tmp_path):
    study = study_of(tmp_path, {"chat": MESSAGES | {"template": "checkpoint"}})
    with pytest.raises(Refused, match=r"sources\.chat\.template: the tokenizer of the checkpoint has no chat_template"):
        prepare(study, Store(tmp_path / "store"))


def test_an_instruct_stage_refuses_a_document_without_a_token_to_learn_before_training(tmp_path, monkeypatch):
    from curricle.corpus import catalogue as corpora
    from curricle.corpus.documents import Document

    study = study_of(tmp_path, {"chat": PAIRS})
    found = corpora.documents

    def with_one_empty(folder, part="train"):
        for number, document in enumerate(found(folder, part)):
            yield Document("chats.jsonl:5", "", "chat", "asked") if (number, part) == (7, "train") else document

    monkeypatch.setattr(corpora, "documents", with_one_empty)
    with pytest.raises(Refused) as refusal:
        prepare(study, Store(tmp_path / "store"))
    assert str(refusal.value).startswith(
        "stages.instruct.mixture.chat: the document chats.jsonl:5 has no token that carries loss"
    )


def test_how_conversations_are_laid_out_is_part_of_what_was_trained_on_and_plain_text_knows_nothing_of_it(tmp_path):
    plans = {}
    for name, source in {"plain": PAIRS, "none": PAIRS | {"template": "none"}, "messages": MESSAGES}.items():
        (tmp_path / name).mkdir()
        prepared = prepare(study_of(tmp_path / name, {"chat": source}), Store(tmp_path / "store"))
        plans[name] = {source: supplied.fingerprint for source, supplied in prepared.catalogue.sources.items()}
    assert len({plan["chat"] for plan in plans.values()}) == 3
    assert len({plan["code"] for plan in plans.values()}) == 1


@pytest.mark.parametrize("source", ["chat", "algebra"])
def test_every_row_of_an_instruct_stage_begins_with_a_question_and_ends_in_an_answer(tmp_path, source):
    """Also where the same source was read as running text before."""
    from curricle.running.preparation import sampler_for, write_streams
    from curricle.tokens.tokenizer import load

    study = study_of(tmp_path, {"chat": MESSAGES}, {source: 1.0}, model={"preset": "0.5m", "context": 128})
    fields = study.model_dump(mode="json", exclude_unset=True)
    fields["stages"]["read"] = {"mixture": {source: 1.0}, "budget_tokens": 2048}
    fields["strategies"] = {"from scratch": ["read", "instruct"]}
    study = load_study(write_study(tmp_path, fields))
    prepared = prepare(study, Store(tmp_path / "store"))
    plan = compile_plan(study, prepared.catalogue)
    write_streams(prepared, plan)
    read, instruct = (plan.nodes[run] for run in plan.paths["from scratch", 0])
    before = {n for i in range(read.rows[source]) for n in sampler_for(prepared, read).read(i)[3]}
    sampler, tokenizer = sampler_for(prepared, instruct), load(prepared.tokenizer)
    asked = "Problem: " if source == "algebra" else "User: "
    padding, seen = 0, []
    for i in range(instruct.rows[source]):
        _, tokens, loss, touched = sampler.read(i)
        pieces = tokenizer.decode(tokens).split(asked)
        assert pieces[0] == tokenizer.eos_token and len(pieces) > len(touched)
        end = int(loss.nonzero()[0][-1])
        assert tokens[end] == tokenizer.eos_token_id, "the last answer is there to its end"
        padding += len(tokens) - 1 - end
        seen += touched
    assert len(set(seen)) == len(seen) and not set(seen) & before
    (told,) = [line.padding for line in plan.ledger() if line.stage == "instruct"]
    assert 0 < told < 0.5 and told == pytest.approx(padding / instruct.tokens, abs=0.15)
    assert prepared.described(instruct)["sources"][source]["padding"] == told
    assert all(not line.padding for line in plan.ledger() if line.stage == "read")


def test_conversations_that_are_longer_than_a_row_are_counted_and_named(tmp_path, capsys):
    from curricle.commands.common import make_console, planned
    from curricle.report.terminal import padding

    study = study_of(tmp_path, {"chat": PAIRS}, model={"preset": "0.5m", "context": 128}, held_out={"share": 0.01})
    rows = [json.loads(line) for line in (tmp_path / "chats.jsonl").read_text().splitlines()]
    rows[20]["a"], rows[40]["q"] = "It is very long. " * 100, "What is long? " * 100
    (tmp_path / "chats.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    plan, _ = planned(study, tmp_path / "store", make_console())
    said = capsys.readouterr().out
    assert "chat: conversations longer than a row of 128 tokens: 1 cut at its end, 1 left out, whose answers" in said
    assert "chats.jsonl:21" in said and "chats.jsonl:41" in said
    (line,) = padding(plan)
    assert str(line).startswith("instruct: ") and "of the tokens of chat are padding" in str(line)
