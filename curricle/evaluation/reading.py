"""Reading the final answer out of what a model wrote, by rules in a fixed order.

`read_answer` promises the same answer for the same text, in time linear in the text's length, and `None` where the
text does not say an answer: a guess is made only where a benchmark allows it (`last_number`).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Literal

Form = Literal["text", "answer"]
"""`text`: a worked solution that states its answer somewhere. `answer`: the answer alone."""

LONGEST_OUTPUT = 100_000  # characters; answers stand at the end, so of a longer output the end is read

ANSWER_LINE = re.compile(r"^[ \t*]*(?:final )?answer[ \t]*:[ \t*]*(\S[^\n]*)", re.IGNORECASE | re.MULTILINE)
HASHES = re.compile(r"####[ \t]*(\S[^\n]*)")
SENTENCE = re.compile(r"\banswer is:?[ \t]*(\S[^\n]*)", re.IGNORECASE)
END_OF_SENTENCE = re.compile(r"\.(?:\s|$)")
NUMBER = re.compile(r"-?\$?(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?(?:/\d+)?%?")
BOX = re.compile(r"\\(?:boxed|fbox)(?![a-zA-Z])[ \t]*")


def read_answer(output: str, form: Form = "text", *, last_number: bool = False) -> str | None:
    """The answer that a text states, as it is written there, or `None`.

    The first rule that finds something decides, and of several places the last one: an `Answer: …` line; `#### …`;
    `\\boxed{…}`; `the answer is …`; and, with `last_number`, the last number of the text.
    """
    output = output[-LONGEST_OUTPUT:]
    if form == "answer":
        return output.strip() or None
    for rule in (_last(ANSWER_LINE), _last(HASHES), last_boxed, _sentence):
        found = rule(output)
        if found:
            return _sentence(found) or found  # `Final answer: The final answer is 5. I hope it is correct.`
    if last_number:
        numbers = NUMBER.findall(output)
        return numbers[-1] if numbers else None
    return None


def _last(pattern: re.Pattern[str]) -> Callable[[str], str | None]:
    def rule(text: str) -> str | None:
        found = pattern.findall(text)
        return found[-1].strip().strip("*").strip() if found else None

    return rule


def _sentence(text: str) -> str | None:
    """What follows the last `answer is`, up to the sentence's end (`3.5` holds a point and no end)."""
    found = _last(SENTENCE)(text)
    return END_OF_SENTENCE.split(found, maxsplit=1)[0].strip() if found else None


def last_boxed(text: str) -> str | None:
    """The content of the last `\\boxed{…}`, braces balanced, or of `\\boxed 5`; None for a box that never closes."""
    boxes = list(BOX.finditer(text))
    if not boxes:
        return None
    start = boxes[-1].end()
    if not text.startswith("{", start):
        bare = re.match(r"[^\s$.,;]+", text[start:])
        return bare[0] if bare else None
    end = closing_brace(text, start)
    return text[start + 1 : end].strip() if end is not None else None


def closing_brace(text: str, start: int) -> int | None:
    """Where the brace that opens at `start` closes. `\\{` and `\\}` are characters of a set, not braces of TeX."""
    depth, at = 0, start
    while at < len(text):
        character = text[at]
        if character == "\\":
            at += 2
            continue
        depth += (character == "{") - (character == "}")
        if depth == 0:
            return at
        at += 1
    return None
