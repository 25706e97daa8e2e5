"""Decontamination finds what a naive reading of its definition finds, and nothing else."""

import gzip
import json
import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curricle.corpus import decontamination
from curricle.corpus.decontamination import Contamination, words_of

# Few words, so that runs of them recur; separators and scripts that a tokenizer could trip over.
word = st.sampled_from(["a", "B", "12", "3", "é", "数", "学", "x1", "ß", "İ", "𝒳", "カ"])
text = st.lists(st.tuples(word, st.sampled_from([" ", ", ", "\n", "_", "-"])), max_size=40).map(
    lambda parts: "".join(part for pair in parts for part in pair)
)


def literally(sought, document):
    """The text stands in the document, spaces aside, and is not part of a longer word, number or expression."""
    letter = lambda text: text[:1].isalnum() or text[:1] == "_"  # noqa: E731
    sought, document = sought.lower().strip(), document.lower()
    for start in range(len(document)):
        end = walked(sought, document, start)
        if end is None or letter(document[start - 1 : start]) or document[start - 1 : start] == ".":
            continue
        after = document[end:]
        rest = after.lstrip(" \t")
        longer = rest[:1] and rest[0] in "-+*/^" and (letter(w := rest[1:].lstrip(" \t")) or w[:1] == "(")
        if not longer and not letter(after) and not (after[:1] == "." and after[1:2].isdigit()):
            return True
    return False


def walked(sought, document, place):
    """Where `sought` ends in the document if it begins at `place`: spaces count only between two words."""
    sign = lambda character: character in "-+*/^=()"  # noqa: E731
    before = ""
    for at, character in enumerate(sought):
        if character.isspace():
            continue
        spaced = at > 0 and sought[at - 1].isspace()
        loose = before != "" and (sign(before) or sign(character))
        after_spaces = place + len(document[place:]) - len(document[place:].lstrip())
        if loose:
            place = after_spaces
        elif spaced:
            if after_spaces == place:
                return None
            place = after_spaces
        if document[place : place + 1] != character:
            return None
        place, before = place + 1, character
    return place


def naive(texts, whole, document):
    """The definition, word by word."""
    words = words_of(document)
    holds = lambda run: any(words[i : i + len(run)] == run for i in range(len(words) - len(run) + 1))  # noqa: E731
    found = set()
    for benchmark, wanted in texts.items():
        for sought in wanted:
            run = words_of(sought)
            if len(run) < 3:
                continue
            if benchmark in whole:
                hit = holds(run) and literally(sought, document)
            elif len(run) < 10:
                hit = holds(run)
            else:
                hit = any(holds(run[i : i + 10]) for i in range(len(run) - 9))
            if hit:
                found.add(benchmark)
    return sorted(found)


@settings(max_examples=150)
@given(st.dictionaries(st.sampled_from("pqr"), st.lists(text, max_size=3), max_size=3), st.data())
def test_it_finds_exactly_what_the_definition_says(texts, data):
    every = [t for wanted in texts.values() for t in wanted] or [""]
    document = data.draw(st.lists(text | st.sampled_from(every), max_size=4).map(" ".join))
    whole = data.draw(st.sets(st.sampled_from("pqr")))
    hits = Contamination(texts, whole).find(document)
    assert [hit.benchmark for hit in hits] == naive(texts, whole, document)
    for hit in hits:
        assert f" {hit.evidence} " in f" {' '.join(words_of(document))} "


@settings(max_examples=150)
@given(text | st.text(max_size=60))
def test_words_are_hashed_one_by_one_as_they_are_read(document):
    words = words_of(document)
    hashes = decontamination._word_hashes(document)
    assert len(hashes) == len(words)
    assert len(set(hashes.tolist())) == len(set(words))
    assert hashes.tolist() == [int(decontamination._word_hashes(w)[0]) for w in words]


def test_ten_words_in_a_row_are_a_hit_and_nine_are_not():
    problem = "one two three four five six seven eight nine ten eleven"
    search = Contamination({"b": [problem]})
    assert [h.evidence for h in search.find("so ONE, two three-four five six seven eight nine ten!")] == [
        "one two three four five six seven eight nine ten"
    ]
    assert search.find("two three four five six seven eight nine ten then eleven") == []


def test_generated_problems_count_only_as_a_whole():
    problem = "find the sum of the two numbers that stand here 3 and 4"
    near = problem.replace("4", "5")
    assert Contamination({"b": [problem]}).find(near)
    assert Contamination({"b": [problem]}, whole={"b"}).find(near) == []
    assert Contamination({"b": [problem]}, whole={"b"}).find(f"x {problem} y")


@pytest.mark.parametrize(
    ("document", "found"),
    [
        ("x Compute 12 + 7 y", True),
        ("compute  12 +\n7", True),
        ("Compute 12 + 7\nSolution:", True),
        ("Compute 12 + 7.", True),
        ("Compute 12 - 7", False),
        ("Compute 12 + 7 + 3", False),
        ("Compute 12 + 7.5", False),
        ("Compute 12 + 77", False),
        ("Compute 12+7", True),
        ("Compute 12 + 7 = 19", True),
        ("Compute 12 + 7. The answer is 19.", True),
        ("Q: Compute 12 + 7\n- A: 19", True),
        ("Compute 12 + 7\n\n3 apples", True),
        ("Compute 12+7-3", False),
        ("Compute 12 + 7 * (3)", False),
    ],
)
def test_the_operators_of_a_generated_problem_count(document, found):
    assert bool(Contamination({"b": ["Compute 12 + 7"]}, whole={"b"}).find(document)) is found


def test_a_chinese_character_is_a_word():
    assert words_of("求x的值 3.5") == ["求", "x", "的", "值", "3", "5"]
    assert Contamination({"zh": ["小明有十个苹果吃了三个"]}).find("题目：小明有十个苹果吃了三")


def test_real_training_and_test_problems_are_told_apart():
    data = os.environ.get("CURRICLE_DATA")
    if not data:
        pytest.skip("CURRICLE_DATA names no folder of real corpora")

    def questions(part):
        with gzip.open(Path(data, "benchmarks/gsm8k", f"{part}.jsonl.gz"), "rt", encoding="utf-8") as file:
            return [json.loads(line)["question"] for line in file][:400]

    test = questions("test")
    search = Contamination({"gsm8k": test})
    assert all(search.find(f"Exercise. {question} Solution: …") for question in test if len(words_of(question)) > 2)
    assert sum(bool(search.find(question)) for question in questions("train")) < 20


@pytest.mark.parametrize("written", ["{q} = {a}", "{q}. The answer is {a}.", "Q: {q}\n- A: {a}", "{squeezed} = {a}"])
def test_no_generated_problem_is_missed_because_its_answer_follows(written):
    from curricle.evaluation.benchmarks import load
    from curricle.study import GeneratedBenchmark

    items = load("b", GeneratedBenchmark(generated=("chain_sum", "basic_arithmetic"), problems=60)).items
    search = Contamination({"b": [item.question for item in items]}, whole={"b"})
    for item in items:
        squeezed = item.question.replace(" ", "").replace("Compute", "Compute ").replace("Evaluate", "Evaluate ")
        assert search.find(written.format(q=item.question, a=item.expected, squeezed=squeezed)), item.question
