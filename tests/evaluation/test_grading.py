"""Reading and grading: the real reference answers, freedoms of notation, and input that means harm."""

import gzip
import json
import random
import re
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from curricle.evaluation.grading import grade, normal_form, parse_number
from curricle.evaluation.reading import read_answer


def rows(file):
    with gzip.open(file, "rt", encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def same(prediction, gold):
    forwards, backwards = grade(prediction, gold, "answer"), grade(gold, prediction, "answer")
    assert forwards.correct == backwards.correct
    return forwards.correct


# ---- reading ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("output", "answer"),
    [
        ("1 + 1 = 2\nAnswer: 2\n", "2"),
        ("Answer: 3\nno, wait\nAnswer: 4", "4"),
        ("**Answer:** 12 eggs", "12 eggs"),
        ("so 5 + 5 = 10\n#### 10", "10"),
        ("thus $x = \\boxed{\\frac{1}{2}}$.", "\\frac{1}{2}"),
        ("\\boxed{1} and then \\boxed{\\{1, 2\\}}", "\\{1, 2\\}"),
        ("we get \\boxed 7.", "7"),
        ("\\fbox{8}", "8"),
        ("Therefore the answer is 3.5. Done.", "3.5"),
        ("Final Answer: The final answer is $\\frac{1}{2}$. I hope", "$\\frac{1}{2}$"),
        ("\\boxed{1 + ", None),
        ("12 + 30 = 42", None),
        ("Answer:", None),
        ("", None),
    ],
)
def test_the_stated_answer_is_read(output, answer):
    assert read_answer(output) == answer


def test_the_last_number_is_read_only_where_that_is_asked_for():
    assert read_answer("so 1,250 + 2 = $1,252.50 in all.", last_number=True) == "$1,252.50"
    assert read_answer("no number", last_number=True) is None
    assert read_answer("12 then\nAnswer: 3", last_number=True) == "3"


# ---- real references ----------------------------------------------------------------------------------------------


def test_every_gsm8k_reference_is_graded_correct_and_no_other_number_is(data):
    test = rows(data / "gsm8k" / "test.jsonl.gz")
    solutions = [row["answer"] for row in test]
    golds = [solution.split("####")[1].strip() for solution in solutions]
    assert len(test) == 1319
    assert all(grade(solution, gold).correct for solution, gold in zip(solutions, golds, strict=True))
    for shift in (1, 7, 500):
        for solution, own, gold in zip(solutions, golds, golds[shift:] + golds[:shift], strict=True):
            assert grade(solution, gold).correct == (int(own.replace(",", "")) == int(gold.replace(",", "")))


def rough_value(answer):
    """Another way to compare answers, independent of the grader's: a float, or letters and digits in order."""
    text = re.sub(r"\\text\{[^}]*\}|\\mbox\{[^}]*\}(\^\d)?|\\[$%,!; ]|\^\{?\\circ\}?|^[a-z] ?= ?|[\s$]", "", answer)
    if match := re.fullmatch(r"(-?)(\d*)\\[dt]?frac\{?(-?\d+?)\}?\{?(\d+)\}?", text):
        return float(f"{match[1]}1") * (int(match[2] or 0) + int(match[3]) / int(match[4]))
    try:
        return float(text.replace(",", ""))
    except ValueError:
        kept = re.sub(r"\\[dt]?frac|\\text|\\mbox|\\left|\\right|[^a-zA-Z0-9+-]", "", answer)
        return "".join(sorted(kept))


def test_every_math_reference_is_graded_correct_and_no_other_answer_is(data):
    test = rows(data / "math" / "test.jsonl.gz")
    assert len(test) == 5000
    assert [row["unique_id"] for row in test if not grade(row["solution"], row["answer"]).correct] == []
    others = list(test)
    random.Random(0).shuffle(others)
    judged = [(a["answer"], b["answer"], grade(a["solution"], b["answer"]).correct) for a, b in zip(test, others)]
    assert [(a, b) for a, b, correct in judged if correct and rough_value(a) != rough_value(b)] == []
    assert [(a, b) for a, b, correct in judged if not correct and a.strip() == b.strip()] == []


# ---- notation -----------------------------------------------------------------------------------------------------


def pairs(table):
    """One pair a line."""
    return [tuple(part.strip() for part in line.split("|")) for line in table.strip().splitlines()]


EQUAL = pairs(r"""
18 | 18.0
18 | $18
18 | 18 eggs
1,234 | 1234
10,\!080 | 10080
1{,}000 | 1000
50% | 50\%
0.5 | \frac12
.5 | 1/2
\frac{1}{2} | \dfrac{1}{2}
-\frac12 | \frac{-1}{2}
2\frac{1}{4} | 9/4
2 1/4 | 2.25
12\text{ cm}^2 | 12
45^\circ | 45
x = 5 | 5
3\times10^{4} | 30000
10^{2} | 100
10^2 | 100
2\sqrt3 | 2 \sqrt{3}
\frac{\pi}{2} | \pi/2
(1, 2) | \left(1,2\right)
(0.5, 3] | (\frac{1}{2},3]
\{1, 2\} | \{2,1,1\}
1, 2 | 2,1
1 and 2 | 1,2
\text{Evelyn} | evelyn
\text{(A)} | A
x \in [-2,7] | [-2, 7]
$\boxed{7}$ | 7
7. | 7
(-\infty, 0] | (-\infty,0]
\$0.20 | \frac15
−3 | -3
""")
DIFFERENT = pairs(r"""
18 | 81
18 | -18
50% | 0.5
8\frac47 | 12
(1,2) | (2,1)
(0,1) | [0,1]
[0,1) | (0,1]
(1,2) | 1,2
\{1,2\} | (1,2)
5 million | 5
1/0 | 0
1.23 | 123
2\sqrt{3} | 3\sqrt{2}
1,2 | 1,2,3
x | y
A | B
5x | 5
2^3 | 23
10^{2} | 10
10^12 | 1000000000000
3i | 3
12,34 | 1234
\frac{1}{3} | 0.3333333333
1e5 | 5
3 and 4 | 3
""")


@pytest.mark.parametrize(("one", "other"), EQUAL)
def test_freedoms_of_notation_do_not_count(one, other):
    assert same(one, other)


@pytest.mark.parametrize(("one", "other"), DIFFERENT)
def test_another_answer_is_wrong_however_like_it_looks(one, other):
    assert not same(one, other)


whole = st.integers(-(10**12), 10**12)


@given(whole, st.integers(1, 10**6))
def test_a_fraction_is_itself_in_every_notation(above, below):
    value, sign, size = Fraction(above, below), "-" if above < 0 else "", abs(above)
    whole_part, rest = divmod(size, below)
    written = [
        f"{above}/{below}",
        f"${above}/{below}$",
        f"\\dfrac{{{above}}}{{{below}}}",
        f"{sign}\\frac{{{size}}}{{{below}}}",
        f"{sign}{whole_part}\\frac{{{rest}}}{{{below}}}",
    ]
    assert {normal_form(one).value for one in written} == {value}
    assert all(same(one, other) for one in written for other in written)


@given(whole, whole)
def test_two_whole_numbers_are_equal_exactly_when_they_are(one, other):
    styles = [f"{one}", f"{one:,}", f"${one:,}$", f"{one}.00", f"{one} apples", f"x = {one}", f"\\boxed{{{one}}}"]
    for style in styles:
        assert same(style, f"{other}") == (one == other)
        assert same(style, f"{one}")
    assert grade(f"3 * 4 = 12\nAnswer: {one:,}\n", f"{one}").correct


@given(st.decimals(-(10**6), 10**6, places=4))
def test_a_decimal_equals_its_fraction(value):
    ratio = Fraction(value)
    assert same(f"{value:f}", f"{ratio.numerator}/{ratio.denominator}")


# ---- input that means harm ----------------------------------------------------------------------------------------


@given(st.text(max_size=200) | st.text(alphabet="\\{}()[],.^_0123456789 frac$-+/%xand", max_size=300))
def test_grading_takes_any_text_and_every_text_equals_itself(text):
    assert grade(text, "1").correct in (True, False)
    assert grade(text, text, "answer").correct == bool(text.strip())
    normal_form(text)


PIECES = [
    "(",
    "{",
    "\\frac{",
    "\\{",
    "1,",
    "9",
    "-",
    "#### ",
    "\\boxed{",
    "Answer: ",
    "1 ",
    "a",
    "10^",
    "$",
    " ",
    " and",
    "#",
]


@pytest.mark.parametrize("piece", PIECES)
def test_long_repetition_is_graded_in_bounded_work(piece):
    for times in (100, 1_000, 50_000):
        assert not grade(piece * times, "17", "text", last_number=True).correct
        assert not grade(piece * times, "17", "answer").correct


def test_huge_exponents_are_never_computed():
    assert parse_number("10^{9999}") is None and parse_number("2\\times10^{9999}") is None
    assert not same("10^{999999999999}", "10^{999999999998}")
    assert same("10^{20}", "1" + "0" * 20)
