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

from curricle.study import Refused

Resolve = Callable[[str], Path]
"""A path as a study writes it → where it lies (`Study.resolve`)."""


@dataclass(frozen=True, slots=True)
class Document:
    """One text. What is trained on is `prompt + text`; in an `instruct` stage the prompt carries no loss."""

    id: str
    text: str
    source: str
    prompt: str = ""
    url: str | None = None
    group: str = ""
    meta: dict[str, Any] = field(default_factory=dict)

    @property
    def whole(self) -> str:
        return self.prompt + self.text

    def to_json(self) -> str:
        """One line; fields that say nothing are left out."""
        row = {name: getattr(self, name) for name in ("id", "text", "source", "prompt", "url", "group", "meta")}
        return json.dumps({name: value for name, value in row.items() if value or name == "text"}, ensure_ascii=False)

    @classmethod
    def from_json(cls, line: str | bytes) -> Document:
        return cls(**json.loads(line))


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
