"""What every source yields: a document, one text with where it came from.

A document is a frozen value. Its `id` is stable: it comes from content and relative names, never from where a folder
happens to lie. Its `group` (a repository, a package, a host) is never split between training and held-out text. As one
JSON line it survives a round trip unchanged. `Tally` counts what a source could not read and stops it past a share.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from curricle.corpus.conversations import Turn, answer_parts
from curricle.study import Refused

Resolve = Callable[[str], Path]
"""A path as a study writes it → where it lies (`Study.resolve`)."""


@dataclass(frozen=True, slots=True)
class Document:
    """One text. What is trained on is `prompt + text`; in an `instruct` stage the prompt carries no loss.

    With a `template` it is a conversation, which that chat template lays out: `text` is its last answer, and before it
    stand `turns`, or, of a pair, the user's `prompt`.
    """

    id: str
    text: str
    source: str
    prompt: str = ""
    url: str | None = None
    group: str = ""
    meta: dict[str, Any] = field(default_factory=dict)
    turns: tuple[Turn, ...] = ()
    template: str = ""

    @property
    def conversation(self) -> tuple[Turn, ...]:
        """Every turn in order; empty where there is no template to lay them out."""
        asked = (("user", self.prompt),) if self.prompt else ()
        return (*self.turns, *asked, ("assistant", self.text)) if self.template else ()

    @property
    def texts(self) -> tuple[str, ...]:
        """What was written in it, piece by piece, without what a template adds."""
        return tuple(content for _, content in self.conversation) or (self.prompt, self.text)

    @property
    def whole(self) -> str:
        return "\n\n".join(self.texts) if self.template else self.prompt + self.text

    @property
    def answer_bytes(self) -> int:
        """Bytes in UTF-8 of what carries loss in an `instruct` stage; of a text without a prompt, all of it."""
        if not (self.template or self.prompt):
            return len(self.text.encode())
        answers = [content for role, content in self.conversation if role == "assistant"] or [self.text]
        return sum(len(part.encode()) for text in answers for part, carries in answer_parts(text) if carries)

    def to_json(self) -> str:
        """One line; fields that say nothing are left out."""
        row = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return json.dumps({name: value for name, value in row.items() if value or name == "text"}, ensure_ascii=False)

    @classmethod
    def from_json(cls, line: str | bytes) -> Document:
        row = json.loads(line)
        return cls(**{**row, "turns": tuple((role, content) for role, content in row.get("turns", ()))})


def host_of(url: object) -> str:
    """`https://planetmath.org/x` → `planetmath.org`; empty where there is none."""
    try:
        return (urlsplit(url).hostname or "") if isinstance(url, str) else ""
    except ValueError:  # such as a broken IPv6 address; pages from elsewhere hold everything
        return ""


SHOWN = 5  # bad lines that are shown in full
SETTLED = 1000  # lines after which a share of bad ones means something, so that the reading may stop early


class Tally:
    """Lines read and lines that could not be. Past `max_bad_share` the source is refused, with the first bad ones."""

    def __init__(self, field_name: str, max_bad_share: float):
        self.field_name = field_name  # sources.NAME.files, for the message
        self.max_bad_share = max_bad_share
        self.lines = 0
        self.bad = 0
        self.examples: list[str] = []

    def good(self) -> None:
        self.lines += 1

    def add_bad(self, where: str, why: str) -> None:
        """Count a bad line at `where`, a file and a line."""
        self.lines += 1
        self.bad += 1
        if len(self.examples) < SHOWN:
            self.examples.append(f"{where}: {why}")
        if self.lines >= SETTLED:
            self.check()

    def check(self) -> None:
        if self.bad > self.max_bad_share * self.lines:
            raise Refused(
                f"{self.field_name}: {self.bad:,} of {self.lines:,} lines are bad, more than max_bad_share = "
                f"{self.max_bad_share:g}; the first: {'; '.join(self.examples)}"
            )


def first_field(row: dict[str, Any], names: Iterable[str]) -> str:
    """The first of the named fields that holds something, as text."""
    return next((str(row[name]) for name in names if row.get(name) not in (None, "")), "")
