"""Text that no person wrote and that tells nothing about mathematics: the procedural control of a code stage.

Three families of exercises, each with the answer in it, so that a model can learn the procedure from the text alone:
`brackets` (nesting), `binding` (a value follows its name through other names), `rewriting` (rules applied to a list,
step by step). There are no digits and no words; names are drawn anew in each document. Document `i` is a pure function
of (families, i, seed).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from hashlib import blake2b
from random import Random
from string import ascii_lowercase

from curricle.corpus.documents import Document
from curricle.study import Procedural, Refused, nearest

PROCEDURAL_VERSION = 1  # raised by hand when the same document number gives another text
EXERCISES = 6  # in one document, so that its length is a function's
PAIRS = ("()", "[]", "{}", "<>")


def brackets(draw: Random) -> str:
    """An opened sequence, then what closes it: `( [ a { | } ] )`; letters stand between and close nothing."""
    opened = [draw.choice(PAIRS) for _ in range(draw.randint(3, 10))]
    stack: list[str] = []
    said: list[str] = []
    for pair in opened:
        said.append(pair[0])
        stack.append(pair[1])
        if draw.random() < 0.3:
            said.append(draw.choice(ascii_lowercase))
        while stack and draw.random() < 0.3:
            said.append(stack.pop())
    return f"{' '.join([*said, '|', *reversed(stack)])}\n"


def binding(draw: Random) -> str:
    """Assignments in which values pass from name to name, and some names asked for at the end: `ka = x`, `mo = ka`,
    `mo ? x`. A name may be assigned again; the last one counts."""
    names = draw.sample([a + b for a in "bdfgklmnprstvz" for b in "aeiou"], 6)
    values: dict[str, str] = {}
    lines = []
    for _ in range(draw.randint(6, 12)):
        name = draw.choice(names)
        if values and draw.random() < 0.6:
            other = draw.choice(sorted(values))
            values[name] = values[other]
            lines.append(f"{name} = {other}\n")
        else:
            values[name] = draw.choice(ascii_lowercase)
            lines.append(f"{name} = {values[name]}\n")
    asked = draw.sample(sorted(values), min(3, len(values)))
    return "".join([*lines, *(f"{name} ? {values[name]}\n" for name in asked)])


def rewriting(draw: Random) -> str:
    """Rules, a list, and the list after each step: the first rule that fits anywhere is applied at its leftmost place.
    `a b > b a` sorts, `a a > a` shortens; no rule lengthens, and after 12 steps it stops."""
    letters = draw.sample(ascii_lowercase, 4)
    rules = []
    for _ in range(draw.randint(2, 3)):
        a, b = draw.sample(letters, 2)
        rules.append(draw.choice([((a, b), (b, a)), ((a, a), (a,)), ((a, b), (b,)), ((a,), (b,))]))
    row = tuple(draw.choice(letters) for _ in range(draw.randint(4, 8)))
    lines = [f"{' '.join(before)} > {' '.join(after)}\n" for before, after in rules]
    lines.append(f": {' '.join(row)}\n")
    for _ in range(12):
        stepped = step(row, rules)
        if stepped is None:
            break
        row = stepped
        lines.append(f": {' '.join(row)}\n")
    return "".join(lines)


Rule = tuple[tuple[str, ...], tuple[str, ...]]


def step(row: tuple[str, ...], rules: Sequence[Rule]) -> tuple[str, ...] | None:
    """The list after the first rule that fits; None where none does."""
    for before, after in rules:
        for place in range(len(row) - len(before) + 1):
            if row[place : place + len(before)] == before:
                return row[:place] + after + row[place + len(before) :]
    return None


FAMILIES: dict[str, Callable[[Random], str]] = {"brackets": brackets, "binding": binding, "rewriting": rewriting}


def known(families: Sequence[str], field: str) -> None:
    """Raise `Refused` for a family that is not known here, naming the field and the nearest one."""
    for name in families:
        if name not in FAMILIES:
            raise Refused(f"{field}: unknown family {name!r}; {nearest(name, FAMILIES)}")


def text(family: str, number: int, seed: int = 0) -> str:
    """Exercises of one family, a blank line between them."""
    key = blake2b(f"{PROCEDURAL_VERSION} {family} {number} {seed}".encode(), digest_size=16).digest()
    draw = Random(int.from_bytes(key))
    return "\n".join(FAMILIES[family](draw) for _ in range(EXERCISES))


def procedural_documents(source: Procedural, name: str) -> Iterator[Document]:
    """The source's documents, the families in turn. They are one group: any two are as far apart as any others."""
    known(source.procedural, f"sources.{name}.procedural")
    for number in range(source.documents):
        family = source.procedural[number % len(source.procedural)]
        yield Document(f"{family}/{number}", text(family, number), name, group="procedural")
