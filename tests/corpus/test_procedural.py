"""The procedural control: what it says is right, no two documents agree, and nothing in it is a word or a number."""

import re
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from curricle.corpus.procedural import FAMILIES, PAIRS, procedural_documents, text
from curricle.study import Procedural, Refused

NUMBER = st.integers(0, 10_000)


@given(st.sampled_from(sorted(FAMILIES)), NUMBER)
def test_a_document_is_a_function_of_its_number_and_holds_neither_digits_nor_words(family, number):
    made = text(family, number)
    assert made == text(family, number) != text(family, number + 1)
    assert not re.search(r"\d|[a-z]{3}", made)


@given(NUMBER)
def test_brackets_close_what_was_opened(number):
    for line in text("brackets", number).split("\n"):
        stack = []
        for mark in line.replace("|", "").split():
            if any(mark == pair[0] for pair in PAIRS):
                stack.append(mark)
            elif not mark.isalpha():
                assert stack.pop() + mark in PAIRS
        assert not stack


@given(NUMBER)
def test_what_a_name_is_said_to_hold_is_what_was_bound_to_it(number):
    asked = 0
    for exercise in text("binding", number).split("\n\n"):
        values: dict[str, str] = {}
        for line in exercise.strip().split("\n"):
            name, mark, value = line.split()
            if mark == "=":
                values[name] = values.get(value, value)
            else:
                asked += 1
                assert values[name] == value
    assert asked >= 6


@given(NUMBER)
def test_every_step_of_a_rewriting_follows_by_the_first_rule_that_fits(number):
    for exercise in text("rewriting", number).split("\n\n"):
        lines = exercise.strip().split("\n")
        rules = [tuple(side.strip() for side in line.split(">")) for line in lines if ":" not in line]
        rows = [line.removeprefix(": ") for line in lines if ":" in line]
        for before, after in pairwise(rows):
            fitting = next((old, new) for old, new in rules if old in before)
            assert after == before.replace(*fitting, 1)
        assert len(rows) == 13 or not any(old in rows[-1] for old, _ in rules)


def test_families_take_turns_and_an_unknown_one_is_refused():
    found = list(procedural_documents(Procedural(procedural=("binding", "brackets"), documents=4), "control"))
    assert [d.id for d in found] == ["binding/0", "brackets/1", "binding/2", "brackets/3"]
    with pytest.raises(Refused, match=r"sources\.control\.procedural: unknown family 'bracket'; did you mean"):
        list(procedural_documents(Procedural(procedural=("bracket",)), "control"))
