"""Which problems there are: one `Family` for each of reasoning-gym's arithmetic and algebra generators used here.

A family says how a generator is set, how its problem is put in one canonical form, and which steps solve it. The
answer is always the library's own. What the library phrases in ten ways is phrased in one here, since a small model
should learn mathematics from few tokens, not paraphrase.
"""

from __future__ import annotations

import functools
import re
import string
from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Any

from curricle.corpus import steps

Entry = dict[str, Any]
"""A problem as the library gives it: its metadata, with `question` and `answer`."""

Written = tuple[str, list[str]]
"""The mathematics of a question, and the steps that solve it."""


@dataclass(frozen=True, slots=True)
class Family:
    """One generator: the words before the mathematics, how it is written out, and the settings it is drawn with."""

    words: str
    write: Callable[[Entry], Written | None]
    settings: dict[str, Any]
    draw: Callable[[int, dict[str, Any]], Entry] | None = None
    """Draws the problem of a seed where the library is slow; it must draw what the library draws."""


def _chain_sum(entry: Entry) -> Written:
    return entry["expression"], steps.running_total(entry["expression"])


def _basic_arithmetic(entry: Entry) -> Written | None:
    tokens = steps.parse(entry["expression"])
    lines = steps.by_precedence(tokens)
    return None if lines is None else (steps.render(tokens), lines)


def _simple_equations(entry: Entry) -> Written:
    # One letter for the unknown: another letter is not another problem, and must not cross the split.
    equation = re.sub(r"[a-z]", "x", entry["equation"])
    return equation, steps.linear(equation)


# Order means nothing to a product or a common divisor, so the larger number stands first: one problem, one text.
def _products(entry: Entry) -> Written:
    a, b = sorted(map(int, entry["expression"].split(" * ")), reverse=True)
    return f"{a} * {b}", steps.long_multiplication(a, b)


def _gcd(entry: Entry) -> Written:
    a, b = sorted(entry["numbers"], reverse=True)
    return f"{a} and {b}", steps.euclid(a, b)


def _lcm(entry: Entry) -> Written:
    a, b = sorted(entry["numbers"], reverse=True)
    return f"{a} and {b}", steps.common_multiple(a, b)


def _fraction_simplification(entry: Entry) -> Written:
    a, b = entry["numerator"], entry["denominator"]
    return f"{a}/{b}", steps.lowest_terms(a, b)


def _prime_factorization(entry: Entry) -> Written:
    return str(entry["number"]), steps.prime_factors(entry["number"])


def _gsm_symbolic(entry: Entry) -> Written:
    lines = [line.strip() for line in entry["answer_cot"].split("####")[0].splitlines()]
    return _question(entry)[0], [line for line in lines if line]


def _question(entry: Entry) -> Written:
    """The library's own question, without its sentence on how to format the answer; no steps."""
    return " ".join(re.split(r"Give (?:the|only)|Return your", entry["question"])[0].split()), []


def _leg_counting(entry: Entry) -> Written:
    return entry["question"].split("if you have ")[1].strip(), []


def _field(name: str) -> Callable[[Entry], Written]:
    return lambda entry: (str(entry[name]), [])


def _draw_equation(seed: int, settings: dict[str, Any]) -> Entry:
    """The library's equation for a seed, without sympy, which is fifty times slower. The calls to the random numbers
    are the library's, in its order; a test holds both to the same equations."""
    rng = Random(seed)
    low, high = settings["min_value"], settings["max_value"]
    letter = rng.choice(string.ascii_lowercase)
    count = rng.randint(settings["min_terms"], settings["max_terms"])
    values = [rng.randint(low, high) for _ in range(count)]
    place = rng.randint(0, count - 1)
    values[place] = rng.randint(low, high)
    signs = [1]
    for _ in range(count - 1):
        signs.append(1 if rng.choices("+-*", weights=settings["operators_weights"])[0] == "+" else -1)
    slope = signs[place] * values[place]
    constant = sum(sign * value for sign, value in zip(signs, values, strict=True)) - slope
    answer = rng.randint(low, high)
    unknown = letter if abs(slope) == 1 else f"{abs(slope)}*{letter}"
    if slope < 0 < constant:
        left = f"{constant} - {unknown}"
    else:
        tail = f" {'+' if constant > 0 else '-'} {abs(constant)}" if constant else ""
        left = f"{'-' if slope < 0 else ''}{unknown}{tail}"
    return {"equation": f"{left} = {slope * answer + constant}", "answer": str(answer)}


# What each generator is drawn with. The aim is problems that a model of 1M parameters can learn from some 100k tokens:
# small numbers, two to four terms, every step something that a person does in the head.
FAMILIES: dict[str, Family] = {
    # Two to four numbers of one digit: with two digits, 250k tokens left exact match at 3 % (docs/LOG.md).
    "chain_sum": Family("Compute", _chain_sum, {"min_terms": 2, "max_terms": 4, "min_digits": 1, "max_digits": 1}),
    # One digit, since products of two digits are no local step; brackets and negative numbers are kept.
    "basic_arithmetic": Family(
        "Evaluate", _basic_arithmetic, {"min_terms": 2, "max_terms": 4, "min_digits": 1, "max_digits": 1}
    ),
    # a*x + b = c with |a|, |x| up to 9: some 5,000 equations. The weight 0 keeps products of constants out, which
    # would only make the numbers long.
    "simple_equations": Family(
        "Solve for x:",
        _simple_equations,
        {"min_terms": 2, "max_terms": 3, "min_value": 1, "max_value": 9, "operators_weights": [0.5, 0.5, 0.0]},
        _draw_equation,
    ),
    "products": Family("Multiply", _products, {"min_digits": 1, "max_digits": 2}),
    # Up to 200, so that there are 20,000 pairs: enough that held-out problems do not run out.
    "gcd": Family("Find the gcd of", _gcd, {"min_value": 2, "max_value": 200}),
    "lcm": Family("Find the lcm of", _lcm, {"min_value": 2, "max_value": 100}),
    # Common factors of one digit: the final divisions are short ones. One way to write a fraction instead of four.
    "fraction_simplification": Family(
        "Simplify",
        _fraction_simplification,
        {"min_value": 1, "max_value": 50, "min_factor": 2, "max_factor": 9, "styles": ("plain",)},
    ),
    "decimal_chain_sum": Family(
        "Compute",
        _chain_sum,
        {"min_terms": 2, "max_terms": 3, "max_digits": 1, "min_decimal_places": 1, "max_decimal_places": 2},
    ),
    # Every number up to 2,000 is one problem, so only about 100 are held out in all.
    "prime_factorization": Family("Factor", _prime_factorization, {"min_value": 4, "max_value": 2000}),
    # The library's own written solution; word problems, which want a larger model.
    "gsm_symbolic": Family("", _gsm_symbolic, {}),
    # Only an answer, no steps.
    "complex_arithmetic": Family("", _question, {}),
    "leg_counting": Family("How many legs have", _leg_counting, {"max_animals": 4}),
    "count_bits": Family("Count the one bits of", _field("number"), {"max_n": 4095}),
    "bitwise_arithmetic": Family("Compute in hexadecimal", _field("problem"), {"difficulty": 1}),
    "polynomial_multiplication": Family("Expand", _field("polynomial_expr"), {"max_value": 9, "max_polynomials": 2}),
    "simple_integration": Family("Integrate in x", _field("integrand"), {"max_terms": 3, "symbols": ("x",)}),
}


def draw_entry(generator: str, seed: int) -> Entry:
    """The generator's problem for a seed of up to 64 bits."""
    family = FAMILIES[generator]
    if family.draw:
        return family.draw(seed, family.settings)
    library = _library(generator)
    index = seed % library.size  # the library adds the index to its seed, and one generator looks the index up
    library.seed = seed - index
    item = library[index]
    return {**item["metadata"], "question": item["question"], "answer": item["answer"]}


@functools.cache
def _library(generator: str) -> Any:
    import reasoning_gym  # 1-4 s, so only once problems are drawn

    return reasoning_gym.create_dataset(generator, seed=0, **FAMILIES[generator].settings)
