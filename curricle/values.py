"""The words that a study's fields are written in: counts, shares, names, and the base of every written value.

What is read here is either one plain value (`'2.5M'` is 2,500,000) or refused: in one sentence that names what was
written, what is allowed and, where a word was misspelt, the one that was probably meant. Nothing here knows a study.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from fractions import Fraction
from typing import Annotated

import pydantic
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field


class Refused(ValueError):
    """Input that is refused before anything expensive starts. The text names the field, the value and the way out."""


SUFFIXES = {"k": 10**3, "M": 10**6, "B": 10**9, "T": 10**12}
COUNT = re.compile(r"(\d+(?:\.\d+)?)([kMBT]?)")


def parse_count(value: object) -> object:
    """`'2.5M'` → 2500000. Suffixes are decimal; integers pass; anything else is left for pydantic to refuse."""
    if isinstance(value, bool):
        raise ValueError(f"{value} is not a count; write a whole number")
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if not isinstance(value, str):
        return value
    match = COUNT.fullmatch(value.strip().replace("_", ""))
    if not match:
        raise ValueError(f"{value!r} is not a count; write a whole number, or one with k, M, B or T, such as 400k")
    count = Fraction(match[1]) * SUFFIXES.get(match[2], 1)
    if count.denominator != 1:
        raise ValueError(f"{value!r} is not a whole number of tokens")
    return int(count)


def shortened(count: int) -> str:
    """The inverse: 2500000 → `2.5M`, where two decimals say it exactly."""
    for suffix, size in reversed(SUFFIXES.items()):
        whole, hundredths = divmod(count * 100 // size, 100)
        if whole and (count * 100) % size == 0:
            return f"{whole}.{hundredths:02}".rstrip("0").rstrip(".") + suffix
    return str(count)


def parse_until(value: object) -> object:
    """`'80%'` stays a share of the budget; anything else is a count of tokens."""
    if isinstance(value, str) and value.strip().endswith("%"):
        number = value.strip().removesuffix("%").strip()
        if not re.fullmatch(r"\d+(\.\d+)?", number) or not 0 < float(number) <= 100:
            raise ValueError(f"{value!r} is not a share; write for example 80%, or a count of tokens such as 240k")
        return f"{float(number):g}%"
    return parse_count(value)


def nearest(word: str, known: Iterable[str]) -> str:
    """The end of an error message: the word that was probably meant, or all that are allowed."""
    words = [str(k) for k in known]
    close = difflib.get_close_matches(str(word), words, n=1)
    return f"did you mean {close[0]!r}?" if close else f"known: {', '.join(sorted(words)) or 'none'}"


def plural(n: int, noun: str) -> str:
    """`1 seed`, `3 seeds`, `2 strategies`."""
    if n == 1:
        return f"1 {noun}"
    return f"{n:,} {noun[:-1]}ies" if noun.endswith("y") else f"{n:,} {noun}s"


Count = Annotated[
    int,
    BeforeValidator(parse_count),
    Field(ge=1),
    pydantic.WithJsonSchema(
        {"anyOf": [{"type": "integer", "minimum": 1}, {"type": "string", "pattern": r"^\d+(\.\d+)?[kMBT]?$"}]}
    ),
]
Share = Annotated[float, Field(ge=0, le=1)]
Beta = Annotated[float, Field(ge=0, lt=1)]
Weights = Annotated[dict[str, Annotated[float, Field(ge=0)]], Field(min_length=1)]


def one_or_many(value: object) -> object:
    return [value] if isinstance(value, str) else value


Names = Annotated[
    tuple[str, ...],
    BeforeValidator(one_or_many),
    Field(min_length=1),
    pydantic.WithJsonSchema(
        {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}, "minItems": 1}]}
    ),
]


class Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True)

    @pydantic.model_validator(mode="before")
    @classmethod
    def _known_fields_only(cls, data: object) -> object:
        if isinstance(data, Mapping):
            for key in data:
                if key not in cls.model_fields:
                    raise ValueError(f"unknown field {key!r}; {nearest(str(key), cls.model_fields)}")
        return data
