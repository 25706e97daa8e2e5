"""Problems: every written step is true, the split is by construction, and streams only grow."""

import itertools
import re
from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curricle.corpus import families, problems, steps
from curricle.corpus.families import FAMILIES, draw_entry
from curricle.study import Generated, Refused

EQUATIONS = sorted(
    {"chain_sum", "products", "gcd", "lcm", "fraction_simplification", "decimal_chain_sum", "prime_factorization"}
)
NUMBER = re.compile(r"\d+(?:\.\d+)?")
seeds = st.integers(0, 2**64 - 1)


def value(expression: str) -> Fraction:
    """An independent evaluation: every number becomes an exact fraction, Python's own grammar does the rest."""
    return eval(NUMBER.sub(lambda m: f"Fraction('{m[0]}')", expression.replace("×", "*")), {"Fraction": Fraction})


def operations(expression: str) -> int:
    """Operators between operands; a sign that belongs to a number does not count."""
    return len(re.findall(r"(?<=[\d)]) ?[-+*/×]", expression))


@settings(max_examples=150)
@given(st.sampled_from(EQUATIONS), seeds)
def test_every_step_is_a_true_equation_and_the_last_gives_the_librarys_answer(generator, seed):
    entry = draw_entry(generator, seed)
    mathematics, lines = FAMILIES[generator].write(entry)
    for line in lines:
        left, right = line.split(" = ")
        assert value(left) == value(right), line
    answer = entry["answer"]
    if generator in ("chain_sum", "decimal_chain_sum", "products", "fraction_simplification"):
        assert value(mathematics) == value(answer)
        assert Decimal(lines[-1].split(" = ")[1]) == Decimal(answer) if "/" not in answer else True
    if generator == "gcd":
        assert lines[-1].endswith(f"* {answer} + 0")
    if generator == "lcm":
        assert lines[-1].endswith(f"= {answer}")
    if generator == "fraction_simplification":
        a, b = answer.split("/")
        worked = [line.split(" = ")[1] for line in lines[-2:]]
        assert worked == [a, b] or mathematics == answer
    if generator == "prime_factorization":
        assert value(answer) == int(mathematics)
        split_off = [line.split(" = ")[1].split(" × ") for line in lines]
        assert " × ".join([p for p, _ in split_off] + [split_off[-1][1] if lines else mathematics]) == answer


@settings(max_examples=200)
@given(seeds)
def test_an_expression_loses_one_operation_a_line_and_keeps_its_value(seed):
    entry = draw_entry("basic_arithmetic", seed)
    written = FAMILIES["basic_arithmetic"].write(entry)
    if written is None:
        return
    mathematics, lines = written
    stages = [mathematics, *(line.removeprefix("= ") for line in lines)]
    assert {value(stage) for stage in stages} == {Fraction(entry["answer"])}
    counts = [operations(stage) for stage in stages]
    assert all(later == earlier - 1 for earlier, later in itertools.pairwise(counts))
    assert stages[-1] == entry["answer"]


@pytest.mark.parametrize(
    ("expression", "lines"),
    [
        ("4 - 3 * 2", ["= 4 - 6", "= -2"]),
        ("-( 3 + 4 ) * 2", ["= -7 * 2", "= -14"]),
        ("( 1 + ( 2 - 5 ) ) / -1", ["= (1 + -3) / -1", "= -2 / -1", "= 2"]),
        ("7 / 2", None),
        ("99 * 99", None),
    ],
)
def test_brackets_come_first_then_products_and_steps_that_are_not_local_are_refused(expression, lines):
    assert steps.by_precedence(steps.parse(expression)) == lines


@pytest.mark.parametrize(
    ("expression", "tidy"),
    [
        ("( 0 + 5 )", "0 + 5"),
        ("-5 + -( ( -2 + -6 ) )", "-5 + -(-2 + -6)"),
        ("( -( -7 / 1 ) ) * 1", "-(-7 / 1) * 1"),
        ("( 1 + 2 ) * ( 3 + 4 )", "(1 + 2) * (3 + 4)"),
        ("-( -( 1 + 2 ) )", "-(-(1 + 2))"),
    ],
)
def test_brackets_that_do_nothing_are_dropped_from_the_question(expression, tidy):
    assert steps.render(steps.parse(expression)) == tidy
    assert value(expression) == value(tidy)


@settings(max_examples=200)
@given(seeds)
def test_an_equation_is_solved_by_true_steps(seed):
    entry = draw_entry("simple_equations", seed)
    equation, lines = FAMILIES["simple_equations"].write(entry)
    solved = re.sub(r"\bx\b", f"({entry['answer']})", equation)
    for line in [solved, *(line.replace("x", f"({entry['answer']})") for line in lines)]:
        assert len({value(side) for side in line.split(" = ")}) == 1, line
    if equation != f"x = {entry['answer']}":
        assert lines[-1].startswith("x = ") and lines[-1].endswith(f"= {entry['answer']}")


def test_our_fast_equations_are_the_librarys_own():
    library = families._library("simple_equations")
    for seed in range(150):
        library.seed = seed
        theirs, ours = library[0], draw_entry("simple_equations", seed)
        assert (theirs["metadata"]["equation"], theirs["answer"]) == (ours["equation"], ours["answer"])


def test_held_out_problems_never_occur_in_training_for_any_seed_or_generator():
    names = ["basic_arithmetic", "chain_sum", "products", "simple_equations"]
    held_out = list(itertools.islice(problems.problems(names, seed=0, held_out=True), 120))
    mathematics = {p.question.split(" ", 1)[1].removeprefix("for x: ") for p in held_out}
    assert len({p.id for p in held_out}) == len(held_out) == 120
    for seed in (0, 1):
        trained = itertools.islice(problems.problems(names, seed=seed, held_out=False), 800)
        seen = {p.question.split(" ", 1)[1].removeprefix("for x: ") for p in trained}
        assert not seen & mathematics


def test_the_held_out_share_is_one_in_twenty():
    held_out = sum(problems.is_held_out(f"{a} + {b}") for a in range(100) for b in range(100))
    assert 400 < held_out < 600
    assert problems.is_held_out("1  +\n2") == problems.is_held_out("1 + 2")


def test_a_stream_keeps_its_beginning_and_can_be_entered_at_any_chunk():
    source = Generated(generated=("chain_sum", "simple_equations", "gcd"))
    stream = list(itertools.islice(problems.generated_documents(source, "s", 3), 2 * problems.CHUNK))
    assert stream[problems.CHUNK :] == problems.chunk(source.generated, 3, 1, source="s")
    assert stream[problems.CHUNK :] == list(
        itertools.islice(problems.generated_documents(source, "s", 3, start_chunk=1), problems.CHUNK)
    )
    assert len({d.id for d in stream}) == len(stream)
    counts = [sum(d.group == name for d in stream) for name in source.generated]
    assert max(counts) - min(counts) <= 1


def test_neighbouring_seeds_share_no_stretch_of_problems():
    first, second = ({d.whole for d in problems.chunk(["chain_sum"], seed, 0)} for seed in (0, 1))
    assert len(first & second) < 0.1 * problems.CHUNK


def test_the_text_form_is_prompt_then_steps_then_answer_line():
    problem = next(problems.problems(["chain_sum"], seed=0, held_out=True))
    assert problem.prompt == f"Problem: {problem.question}\nSolution:\n"
    assert problem.solution.endswith(f"\nAnswer: {problem.answer}\n")
    bare = next(problems.problems(["chain_sum"], seed=0, held_out=True, worked=False))
    assert bare.id == problem.id
    assert bare.solution == f"Answer: {problem.answer}\n"


@pytest.mark.parametrize("generator", FAMILIES)
def test_every_generator_writes_problems_with_one_question_line_and_an_answer(generator):
    for problem in itertools.islice(problems.problems([generator], seed=1, held_out=False), 20):
        assert problem.question and "\n" not in problem.question and problem.question == problem.question.strip()
        assert problem.solution.count(problems.ANSWER) == 1
        assert problem.solution.splitlines()[-1] == problems.ANSWER + problem.answer


def test_held_out_problems_end_where_a_small_family_is_exhausted(monkeypatch):
    monkeypatch.setitem(FAMILIES["products"].settings, "max_digits", 1)
    families._library.cache_clear()
    monkeypatch.setattr(problems, "PATIENCE", 1000)
    found = list(problems.problems(["products"], seed=0, held_out=True))
    families._library.cache_clear()
    possible = {f"{a} * {b}" for a in range(10) for b in range(a + 1) if problems.is_held_out(f"{a} * {b}")}
    assert {p.question.removeprefix("Multiply ") for p in found} == possible
    assert len(found) == len(possible)


def test_an_unknown_generator_is_refused_with_the_nearest_one():
    with pytest.raises(Refused, match=r"unknown generator 'chain_sums'; did you mean 'chain_sum'\?"):
        next(problems.problems(["chain_sums"], seed=0, held_out=False))
