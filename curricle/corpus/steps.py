"""Worked solutions: from a problem to the lines a careful person writes down.

Every writer is a pure function that returns lines. Each line is a true equation that follows from the ones before by
one piece of local arithmetic, and the last gives the answer; the tests hold every writer to that. Carries are left
implicit, since the numbers are short. `STEPS_VERSION` is part of a corpus's identity: raise it when a line changes.
"""

from __future__ import annotations

import re
from decimal import Decimal
from math import gcd

STEPS_VERSION = 1
LARGEST = 999  # a product beyond three digits is no longer one local step

Tokens = list[int | str]


def running_total(expression: str) -> list[str]:
    """`12 + 7 - 30` → `12 + 7 = 19`, `19 - 30 = -11`. Decimals keep their places."""
    first, *rest = expression.split()
    total = Decimal(first)
    lines = []
    for sign, term in zip(rest[::2], rest[1::2], strict=True):
        after = total + Decimal(term) if sign == "+" else total - Decimal(term)
        lines.append(f"{total} {sign} {term} = {after}")
        total = after
    return lines


def parse(expression: str) -> Tokens:
    """Tokens of an expression whose parts are separated by single spaces; `-(` is one token, a negated bracket.
    Brackets that do nothing are dropped: those around everything, and one of two that stand around the same."""
    tokens: Tokens = [int(part) if part.lstrip("-").isdigit() else part for part in expression.split()]
    while (idle := _idle_bracket(tokens)) is not None:
        tokens = [token for place, token in enumerate(tokens) if place not in idle]
    return tokens


def _idle_bracket(tokens: Tokens) -> tuple[int, int] | None:
    pairs: set[tuple[int, int]] = set()
    unclosed: list[int] = []
    for place, token in enumerate(tokens):
        if token in ("(", "-("):
            unclosed.append(place)
        elif token == ")":
            pairs.add((unclosed.pop(), place))
    for first, last in pairs:
        around = (first - 1, last + 1)
        if tokens[first] == "(" and ((first, last) == (0, len(tokens) - 1) or around in pairs):
            return first, last
        if around in pairs and tokens[first - 1] == "(":
            return around
    return None


def render(tokens: Tokens) -> str:
    return " ".join(str(token) for token in tokens).replace("( ", "(").replace(" )", ")")


def by_precedence(tokens: Tokens) -> list[str] | None:
    """One operation a line, inner brackets first, then products, then sums: `= 7 * 2 - 5`, `= 14 - 5`, `= 9`.

    Each line is the whole expression as it stands then. None where a step is not local: a division with a rest, or
    a result of more than three digits.
    """
    lines = []
    tokens = _unwrapped(tokens)
    while len(tokens) > 1:
        close = tokens.index(")") if ")" in tokens else len(tokens)
        start = max((i + 1 for i in range(close) if tokens[i] in ("(", "-(")), default=0)
        signs = [i for i in range(start, close) if tokens[i] in ("+", "-", "*", "/")]
        at = next((i for i in signs if tokens[i] in ("*", "/")), signs[0])
        value = _apply(tokens[at - 1], tokens[at], tokens[at + 1])
        if value is None or abs(value) > LARGEST:
            return None
        tokens = _unwrapped([*tokens[: at - 1], value, *tokens[at + 2 :]])
        lines.append(f"= {render(tokens)}")
    return lines


def _apply(left: int | str, sign: int | str, right: int | str) -> int | None:
    a, b = int(left), int(right)
    if sign == "/":
        return a // b if b and a % b == 0 else None
    return a + b if sign == "+" else a - b if sign == "-" else a * b


def _unwrapped(tokens: Tokens) -> Tokens:
    """Without brackets around a single number: `(7)` → `7`, `-(7)` → `-7`."""
    for i in range(len(tokens) - 2):
        value = tokens[i + 1]
        if tokens[i] in ("(", "-(") and isinstance(value, int) and tokens[i + 2] == ")":
            return _unwrapped([*tokens[:i], value if tokens[i] == "(" else -value, *tokens[i + 3 :]])
    return tokens


def linear(equation: str) -> list[str]:
    """`3*x + 5 = 20` → `3*x = 20 - 5 = 15`, `x = 15 / 3 = 5`."""
    left, right = equation.split(" = ")
    slope, constant = 0, 0
    for term in re.findall(r"[+-]?[^+-]+", left.replace(" ", "")):
        if term.endswith("x"):
            factor = term.removesuffix("x").removesuffix("*")
            slope += int(factor + "1" if factor in ("", "+", "-") else factor)
        else:
            constant += int(term)
    value = int(right)
    unknown = {1: "x", -1: "-x"}.get(slope, f"{slope}*x")
    lines = []
    if constant:
        sign = "-" if constant > 0 else "+"
        lines.append(f"{unknown} = {value} {sign} {abs(constant)} = {value - constant}")
        value -= constant
    if slope == -1:
        lines.append(f"x = {-value}")
    elif slope != 1:
        lines.append(f"x = {value} / {slope} = {value // slope}")
    return lines


def long_multiplication(a: int, b: int) -> list[str]:
    """`47 * 23` → `47 * 20 = 940`, `47 * 3 = 141`, `940 + 141 = 1081`."""
    digits = str(b)
    parts = [int(digit) * 10 ** (len(digits) - 1 - place) for place, digit in enumerate(digits) if digit != "0"]
    parts = parts or [0]
    lines = [f"{a} * {part} = {a * part}" for part in parts]
    if len(parts) > 1:
        lines += running_total(" + ".join(str(a * part) for part in parts))
    return lines


def euclid(a: int, b: int) -> list[str]:
    """`48 = 2 * 18 + 12`, `18 = 1 * 12 + 6`, `12 = 2 * 6 + 0`: the last divisor is the greatest common one."""
    lines = []
    while b:
        lines.append(f"{a} = {a // b} * {b} + {a % b}")
        a, b = b, a % b
    return lines


def common_multiple(a: int, b: int) -> list[str]:
    """Euclid first, then `a` over the common divisor, times `b`."""
    divisor = gcd(a, b)
    quotient = a // divisor
    return [*euclid(a, b), f"{a} / {divisor} = {quotient}", *long_multiplication(max(quotient, b), min(quotient, b))]


def lowest_terms(numerator: int, denominator: int) -> list[str]:
    """Euclid first, then both parts over the common divisor."""
    divisor = gcd(numerator, denominator)
    lines = euclid(max(numerator, denominator), min(numerator, denominator))
    if divisor > 1:
        lines += [f"{part} / {divisor} = {part // divisor}" for part in (numerator, denominator)]
    return lines


def prime_factors(number: int) -> list[str]:
    """The smallest prime is split off while there is one: `12 = 2 × 6`, `6 = 2 × 3`. A prime needs no line."""
    lines = []
    divisor = 2
    while divisor * divisor <= number:
        if number % divisor:
            divisor += 1
        else:
            lines.append(f"{number} = {divisor} × {number // divisor}")
            number //= divisor
    return lines
