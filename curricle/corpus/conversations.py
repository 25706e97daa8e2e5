"""Conversations: what a row's `messages` must be, and which parts of an answer the model has to learn.

A conversation is turns of (role, content). A system message stands only first, roles may repeat, and what follows the
last answer is left out, since nothing answers it. Loss falls on the assistant's turns, except on what a tool printed.
"""

from __future__ import annotations

import re
from typing import Any

ROLES = ("system", "user", "assistant", "tool")
OUTPUT = "output"  # the word after the fence that opens what a tool printed
FENCE = re.compile(r" {0,3}(?P<marks>`{3,}|~{3,})[ \t]*(?P<word>[^\r\n]*?)[ \t\r]*\n?")
LINE = re.compile(r"[^\n]*\n|[^\n]+")

Turn = tuple[str, str]
"""Role and content."""


def answer_parts(text: str) -> tuple[tuple[str, bool], ...]:
    """An answer cut into (part, whether it carries loss). The parts joined are the text, and no two neighbours are
    alike.

    An answer may be prose (chain of thought), a program (program of thought), or prose, ```python blocks and ```output
    blocks by turns (tool-integrated; DeepSeekMath, arXiv 2402.03300, section 3.1). What lies inside an ```output block
    was written by the tool and carries no loss; both of its fences do, since the model asks for the one and goes on
    from the other. Fences are read as CommonMark reads them: inside a block nothing opens another one, a block is
    closed by a line of nothing but at least as many of its marks, and one that is never closed runs to the end.
    """
    parts: list[list[str]] = []
    flags: list[bool] = []
    open_marks, printed = "", False
    for line in LINE.findall(text):
        fence = FENCE.fullmatch(line)
        marks, word = (fence["marks"], fence["word"]) if fence else ("", "")
        carries = True
        if open_marks:
            closes = marks.startswith(open_marks) and not word
            carries = closes or not printed
            if closes:
                open_marks = ""
        elif marks and not (marks[0] == "`" and "`" in word):  # ```x``` in one line is no fence
            open_marks, printed = marks, marks[0] == "`" and word.split()[:1] == [OUTPUT]
        if not flags or flags[-1] != carries:
            parts.append([])
            flags.append(carries)
        parts[-1].append(line)
    return tuple(("".join(lines), carries) for lines, carries in zip(parts, flags, strict=True))


def read_messages(value: Any, field: str) -> tuple[Turn, ...] | str:
    """The turns of a row's field up to its last answer, or what is wrong with them."""
    if not isinstance(value, list):
        return f"field {field!r} is {'missing' if value is None else 'a ' + type(value).__name__}, not a list"
    turns: list[Turn] = []
    for number, message in enumerate(value):
        where = f"{field}[{number}]"
        if not isinstance(message, dict):
            return f"{where} is a {type(message).__name__}, not an object with role and content"
        role, content = message.get("role"), message.get("content")
        if role not in ROLES:
            found = (
                f"is {role!r}" if "role" in message else f"is missing (fields there: {', '.join(message) or 'none'})"
            )
            return f"{where}.role {found}; known: {', '.join(ROLES)}"
        if not isinstance(content, str):
            return f"{where}.content is {'missing' if content is None else 'a ' + type(content).__name__}, not text"
        if not content.strip():
            return f"{where}.content is empty"
        if role == "system" and number:
            return f"{where} is a system message; one stands only first"
        turns.append((role, content))
    while turns and turns[-1][0] != "assistant":
        turns.pop()
    return tuple(turns) or f"field {field!r} holds no answer: no message of the assistant"
