"""Which parts of an answer are learnt, which rows are conversations, and in which words the others are refused."""

from __future__ import annotations

import json
import os
from collections import Counter
from itertools import pairwise
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from curricle.corpus.conversations import answer_parts, read_messages
from curricle.corpus.decontamination import Contamination
from curricle.corpus.documents import Document, Tally
from curricle.corpus.files import file_documents
from curricle.study import Files

TIR = "Compute it.\n```python\nprint(6 * 7)\n```\n```output\n42\n```\nThe answer is 42."


def unlearnt(text: str) -> list[str]:
    return [part for part, carries in answer_parts(text) if not carries]


def test_what_a_tool_printed_carries_no_loss_and_all_else_does():
    assert answer_parts(TIR) == (
        ("Compute it.\n```python\nprint(6 * 7)\n```\n```output\n", True),
        ("42\n", False),
        ("```\nThe answer is 42.", True),
    )
    assert unlearnt(TIR + "\n" + TIR) == ["42\n", "42\n"]
    assert answer_parts("The answer is 42.") == (("The answer is 42.", True),), "chain of thought"
    assert unlearnt("```python\nprint(42)\n```") == [], "program of thought"
    assert answer_parts("") == ()


@pytest.mark.parametrize(
    ("text", "printed"),
    [
        ("```python\nprint('''\n```output\nx\n''')\n```\nEnd", []),  # a fence that a program spells
        ("````\n```output\nx\n```\n````\nEnd", []),
        ("~~~text\n```output\nx\n```\n~~~\nEnd", []),
        ("```output\n```python\nx\n```\nEnd", ["```python\nx\n"]),  # nothing opens inside an output
        ("````output\n```\nx\n````\nEnd", ["```\nx\n"]),  # fewer marks close nothing
        ("```output\nx\n~~~\ny", ["x\n~~~\ny"]),  # other marks close nothing, and unclosed runs to the end
        ("```output\n", []),
        ("```output", []),
        ("see ```output\nx\n```\n", []),  # not at the beginning of a line
        ("```output``` is a word\nx\n", []),  # not a fence
        ("```outputs\nx\n```", []),
        ("    ```output\nx", []),  # indented: text
        ("  ``` output of step 1\r\nx\r\n  ```  \r\nEnd", ["x\r\n"]),
        ("~~~output\nx\n~~~", []),
    ],
)
def test_fences_are_read_as_commonmark_reads_them(text, printed):
    assert unlearnt(text) == printed
    assert "".join(part for part, _ in answer_parts(text)) == text


pieces = st.sampled_from(
    ["```", "````", "~~~", "output", "python", "\n", " ", "x", "```output\n", "```\n", "\r", "42\n"]
)
texts = st.lists(pieces, max_size=25).map("".join) | st.text()


@given(texts)
@example(TIR)
def test_parts_are_the_text_and_neighbours_differ(text):
    parts = answer_parts(text)
    assert "".join(part for part, _ in parts) == text
    assert all(part for part, _ in parts)
    assert all(one[1] != other[1] for one, other in pairwise(parts))


@given(texts)
def test_without_a_line_that_opens_an_output_everything_carries_loss(text):
    if not any(line.lstrip(" `").startswith("output") and "```" in line for line in text.split("\n")):
        assert unlearnt(text) == []


@given(st.text().filter(lambda t: "```" not in t and "~~~" not in t), st.text(alphabet="abc 123\n"))
def test_what_stands_in_an_output_block_is_what_is_not_learnt(prose, printed):
    text = f"{prose}\n```output\n{printed}\n```\nso {prose}"
    assert unlearnt(text) == [f"{printed}\n"]


# ---- rows -----------------------------------------------------------------------------------------------------------

SAID = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "6 * 7?"},
    {"role": "assistant", "content": "```python\nprint(6 * 7)\n```"},
    {"role": "tool", "content": "42"},
    {"role": "assistant", "content": "42."},
]


def rows_in(folder, rows, name="a.jsonl"):
    (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    return lambda path: folder / path


def test_a_conversation_is_read_up_to_its_last_answer(tmp_path):
    resolve = rows_in(tmp_path, [{"said": [*SAID, {"role": "user", "content": "Thanks"}], "repo": "r"}])
    (document,) = file_documents(Files(files=("a.jsonl",), messages="said"), "s", resolve)
    assert document.conversation == tuple((m["role"], m["content"]) for m in SAID)
    assert (document.text, document.template, document.group) == ("42.", "plain", "r")
    assert document.answer_bytes == len(SAID[2]["content"]) + len("42.")
    assert Document.from_json(document.to_json()) == document


def test_parquet_holds_conversations_as_well(tmp_path):
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist([{"said": SAID, "x": 1}]), tmp_path / "a.parquet")
    (document,) = file_documents(Files(files=("a.parquet",), messages="said"), "s", lambda p: tmp_path / p)
    assert len(document.conversation) == 5


def test_decontamination_sees_every_turn(tmp_path):
    question = "how many clips did natalia sell altogether in april and may"
    said = [{"role": "user", "content": question}, SAID[2], *SAID[3:]]
    (document,) = file_documents(Files(files=("a.jsonl",), messages="m"), "s", rows_in(tmp_path, [{"m": said}]))
    assert [hit.benchmark for hit in Contamination({"gsm8k": [question]}).find(document.whole)] == ["gsm8k"]


BAD = [
    ({}, "field 'm' is missing, not a list"),
    ({"m": "hello"}, "field 'm' is a str, not a list"),
    ({"m": ["hello"]}, "m[0] is a str, not an object with role and content"),
    ({"m": [{"role": "bot", "content": "x"}]}, "m[0].role is 'bot'; known: system, user, assistant, tool"),
    ({"m": [{"from": "gpt", "value": "x"}]}, "m[0].role is missing (fields there: from, value); known: system"),
    ({"m": [SAID[1], {"role": "assistant", "content": None}]}, "m[1].content is missing, not text"),
    ({"m": [SAID[1], {"role": "assistant", "content": [{"text": "x"}]}]}, "m[1].content is a list, not text"),
    ({"m": [SAID[1], {"role": "assistant", "content": " \n"}]}, "m[1].content is empty"),
    ({"m": [SAID[1], SAID[0], SAID[4]]}, "m[1] is a system message; one stands only first"),
    ({"m": SAID[:2]}, "field 'm' holds no answer: no message of the assistant"),
    ({"m": []}, "field 'm' holds no answer"),
    ({"m": [SAID[1], {"role": "assistant", "content": "\ud800"}]}, "holds half of a surrogate pair"),
]


@pytest.mark.parametrize(("row", "message"), BAD, ids=[m for _, m in BAD])
def test_a_row_that_is_no_conversation_is_a_bad_line_named_by_file_and_line(tmp_path, row, message):
    resolve = rows_in(tmp_path, [{"m": SAID}, row])
    tally = Tally("sources.s.files", 1.0)
    assert len(list(file_documents(Files(files=("a.jsonl",), messages="m"), "s", resolve, tally))) == 1
    assert tally.bad == 1 and tally.examples[0].startswith(f"a.jsonl:2: {message}"), tally.examples


def test_a_question_without_an_answer_or_without_a_question_is_a_bad_line(tmp_path):
    resolve = rows_in(tmp_path, [{"q": "1?", "a": "1"}, {"q": "2?", "a": " "}, {"q": "", "a": "3"}])
    tally = Tally("sources.s.files", 1.0)
    source = Files(files=("a.jsonl",), prompt="q", text="a")
    (document,) = file_documents(source, "s", resolve, tally)
    assert document.conversation == (("user", "1?"), ("assistant", "1"))
    assert tally.examples == ["a.jsonl:2: field 'a' is empty", "a.jsonl:3: field 'q' is empty"]
    raw = list(file_documents(Files(files=("a.jsonl",), prompt="q", text="a", template="none"), "s", resolve, tally))
    assert [(d.whole, d.conversation) for d in raw] == [("1?1", ()), ("3", ())]


def test_an_absent_field_of_messages_is_refused_by_its_name(tmp_path):
    source = Files(files=("a.jsonl",), messages="conversation")
    with pytest.raises(
        ValueError, match=r"sources\.s\.messages: no field 'conversation' in the first rows of a\.jsonl"
    ):
        list(file_documents(source, "s", rows_in(tmp_path, [{"conversations": SAID}])))


@given(st.recursive(st.none() | st.text() | st.integers(), lambda v: st.lists(v) | st.dictionaries(st.text(), v)))
def test_whatever_a_field_holds_is_turns_or_a_sentence(value):
    found = read_messages(value, "m")
    assert isinstance(found, str) or found[-1][0] == "assistant"


@pytest.mark.skipif("CURRICLE_DATA" not in os.environ, reason="CURRICLE_DATA is not set: no real answers here")
def test_the_real_answers_are_of_three_kinds_and_only_tool_output_carries_no_loss():
    folder = Path(os.environ["CURRICLE_DATA"])
    source = Files(files=("corpora/sft-*.jsonl.zst",), prompt="instruction", text="response", group="style")
    tally = Tally("sources.sft.files", 0.0)
    masked, documents = Counter(), 0
    for document in file_documents(source, "sft", lambda p: folder / p, tally):
        documents += 1
        printed = unlearnt(document.text)
        masked[document.group] += bool(printed)
        assert printed or document.text.count("```output") == 0
        assert "".join(part for part, _ in answer_parts(document.text)) == document.text
    assert (documents, tally.bad) == (34_752, 0)
    assert masked["tir"] > 8_500 and masked["cot"] == masked["pot"] == masked["eq"] == 0
