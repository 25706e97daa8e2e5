"""Deciding whether an answer is the expected one: by its text, then by exact numbers, then element by element.

Both answers are brought to a normal form and the forms are compared, so grading is reflexive and symmetric, and never
depends on floating point. A normal form is a number (an exact fraction), a text without the freedoms of notation, or a
collection of these. Nothing is evaluated: work is linear in the length, which is bounded, as are nesting and
exponents. What only algebra could decide (`x+1` and `1+x`) counts as different; reasons say which rule decided.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction

from curricle.evaluation.reading import Form, last_boxed, read_answer

LONGEST_ANSWER = 1000  # characters; the longest answer of MATH has 159
DEEPEST = 6  # brackets within brackets
LARGEST_EXPONENT = 400


@dataclass(frozen=True, slots=True)
class Verdict:
    correct: bool
    reason: str
    answer: str | None
    """As it was read from the prediction."""


@dataclass(frozen=True, slots=True)
class Normal:
    """The normal form of an answer. `kind` is number, text, list, or a pair of brackets such as `(]`."""

    kind: str
    value: Fraction | str | tuple[Normal, ...]


def grade(prediction: str, gold: str, form: Form = "text", *, last_number: bool = False) -> Verdict:
    """Whether `prediction` says `gold`. `form` tells whether the prediction is a worked text or the answer alone;
    `gold` is always an answer alone."""
    answer = read_answer(prediction, form, last_number=last_number)
    if answer is None:
        return Verdict(False, "no answer found", None)
    return _compare(answer, gold)


def _compare(answer: str, gold: str) -> Verdict:
    if answer.strip() == gold.strip():
        return Verdict(True, "same text", answer)
    if max(len(answer), len(gold)) > LONGEST_ANSWER:
        return Verdict(False, f"longer than {LONGEST_ANSWER} characters", answer)
    ours, theirs = normal_form(answer), normal_form(gold)
    if ours == theirs and ours.value not in ("", ()):
        same = {"number": "equal numbers", "text": "same text after normalising"}
        return Verdict(True, same.get(ours.kind, "equal element by element"), answer)
    if ours.kind == theirs.kind == "number":
        return Verdict(False, "different numbers", answer)
    return Verdict(False, "different", answer)


# ---- normal form --------------------------------------------------------------------------------------------------

SPACES = re.compile(r"\\[,;:! ]|~|\\(?:quad|qquad|displaystyle|left|right|limits|big|Big)(?![a-zA-Z])")
FRACTION_NAMES = re.compile(r"\\[dtc]frac(?![a-zA-Z])")
DOLLARS = re.compile(r"\\?\$")
DEGREES = re.compile(r"\^\s*(?:\\circ|\{\s*\\circ\s*\})|°|\\degree")
TEXT = re.compile(r"\\(?:text|textbf|textit|textrm|mbox|mathrm|mathbf|emph)\s*\{([^{}]*)\}")
UNIT_IN_TEXT = re.compile(
    r"(?<=[\d})a-z\s])\\(?:text|mbox|mathrm|textrm)\s*\{\s*[a-zA-Z][^{}\d]*\}(?:\s*\^\s*\{?\d\}?)?\.?\s*$"
)
SCALES = "and|or|pi|mod|million|billion|thousand|hundred|trillion|dozen"  # words that are no unit of what is before
UNIT_IN_WORDS = re.compile(rf"(?<=\d)\s+(?!(?:{SCALES})\b)[a-zA-Z]{{2,}}[a-zA-Z ]*$")
NAMED = re.compile(r"^\s*[a-zA-Z](?:\s*\([a-z]\))?\s*(?:=|\\in(?![a-zA-Z]))(?=[^=]*$)")
FRACTION_SHORT = re.compile(r"\\frac\s*([0-9a-zA-Z])\s*([0-9a-zA-Z])")
FRACTION_HALF = re.compile(r"\\frac\s*([0-9a-zA-Z])\s*\{")
FRACTION_TAIL = re.compile(r"(\\frac\s*\{[^{}]*\})\s*([0-9a-zA-Z])")
ROOT_SHORT = re.compile(r"\\sqrt\s*([0-9a-zA-Z])")
FRACTION_ATOMS = re.compile(r"(?<![\w}])\\frac\{(-?(?:[0-9a-z]|\\pi|\\sqrt\{\w+\})+)\}\{(\d+|[a-z]|\\pi)\}")
POWER_SHORT = re.compile(r"\^\{([0-9a-zA-Z])\}")
BRACKETS = {"(": ")", "[": "]", "{": "}"}


def normal_form(answer: str, depth: int = 0) -> Normal:
    """The normal form of an answer of bounded length."""
    text = _tidy(answer)
    number = parse_number(text)
    if number is not None:
        return Normal("number", number)
    parts = _split(text) if depth < DEEPEST else None
    if parts is not None and len(parts) > 1:
        elements = tuple(normal_form(part, depth + 1) for part in parts)
        return Normal("list", _sorted(elements))
    inside = _enclosed(text) if depth < DEEPEST else None
    if inside is not None:
        kind, content = inside
        elements = tuple(normal_form(part, depth + 1) for part in _split(content))
        if kind == "{}":
            return Normal(kind, _sorted(tuple(dict.fromkeys(elements))))
        if len(elements) > 1:
            return Normal(kind, elements)
    return Normal("text", _plain(text))


def _tidy(answer: str) -> str:
    """Without what carries no meaning: dollar signs, spacing commands, degrees, percent signs, units, `x =`."""
    text = DOLLARS.sub("", re.sub(r"\\[()\[\]]", " ", answer)).strip()
    if text.startswith(("\\boxed", "\\fbox")):
        text = last_boxed(text) or text
    text = text.replace("{,}", ",").replace(",\\!", ",").replace(", \\!", ",")
    text = FRACTION_NAMES.sub(r"\\frac", SPACES.sub(" ", text))
    text = DEGREES.sub("", text).replace("\\%", "").replace("%", "").replace("−", "-").replace("\\cdot", "*")
    text = text.strip().removesuffix(".").strip()
    text = UNIT_IN_WORDS.sub("", UNIT_IN_TEXT.sub("", text))
    return NAMED.sub("", text).strip()


def _plain(text: str) -> str:
    """A text without the freedoms of notation that keep its meaning."""
    words = TEXT.sub(r"\1", text).strip()
    if choice := re.fullmatch(r"\(\s*([A-Za-z])\s*\)", words):
        return choice[1]  # (A) and A
    if re.fullmatch(r"[A-Za-z]{2,}[A-Za-z ]*", words):
        return " ".join(words.casefold().split())
    return FRACTION_ATOMS.sub(r"\1/\2", _braced(re.sub(r"\s+", "", words)))


def _braced(text: str) -> str:
    """`\\frac12` and `\\sqrt3` with the braces that TeX lets one leave out."""
    text = FRACTION_SHORT.sub(r"\\frac{\1}{\2}", text)
    text = FRACTION_TAIL.sub(r"\1{\2}", FRACTION_HALF.sub(r"\\frac{\1}{", text))
    return POWER_SHORT.sub(r"^\1", ROOT_SHORT.sub(r"\\sqrt{\1}", text))


# ---- exact numbers ------------------------------------------------------------------------------------------------

DECIMAL = r"(?:\d{1,3}(?:,\d{3})+|\d+)?(?:\.\d*)?"
PLAIN = re.compile(rf"(?=[.\d]*\d)({DECIMAL})")
SCIENTIFIC = re.compile(rf"({DECIMAL})\s*(?:\*|\\times)\s*10\s*\^\s*\{{?\s*([+-]?\d{{1,4}})\s*\}}?")
POWER_OF_TEN = re.compile(r"10\s*\^\s*(?:\{\s*([+-]?\d{1,4})\s*\}|(\d))")  # without braces TeX raises one digit only
SLASH = re.compile(rf"({DECIMAL})\s*/\s*({DECIMAL})")
MIXED = re.compile(r"(\d+)\s+(\d+)\s*/\s*(\d+)")
TEX_FRACTION = re.compile(r"(\d+)?\s*\\frac\s*\{([^{}]*)\}\s*\{([^{}]*)\}")


def parse_number(text: str) -> Fraction | None:
    """The exact value of an integer, decimal, fraction, mixed number or power of ten; `None` for anything else."""
    text = text.strip()
    sign, unsigned = (text[0], text[1:].lstrip()) if text[:1] in ("+", "-") else ("+", text)
    value = _unsigned(_braced(unsigned))
    return -value if value is not None and sign == "-" else value


def _unsigned(text: str) -> Fraction | None:
    if match := PLAIN.fullmatch(text):
        return _decimal(match[1])
    if match := SLASH.fullmatch(text):
        return _ratio(_decimal(match[1]), _decimal(match[2]))
    if match := MIXED.fullmatch(text):
        part = _ratio(_decimal(match[2]), _decimal(match[3]))
        return None if part is None else Fraction(int(match[1])) + part
    if match := TEX_FRACTION.fullmatch(text):
        part = _ratio(parse_number(match[2]), parse_number(match[3]))
        whole = Fraction(int(match[1] or 0))
        return None if part is None or (match[1] and part < 0) else whole + part
    if match := POWER_OF_TEN.fullmatch(text):
        return _power_of_ten(int(match[1] or match[2]))
    if match := SCIENTIFIC.fullmatch(text):
        factor, power = _decimal(match[1]), _power_of_ten(int(match[2]))
        return None if factor is None or power is None else factor * power
    return None


def _decimal(text: str) -> Fraction | None:
    digits = text.replace(",", "").strip(" ")
    if not any(character.isdigit() for character in digits):
        return None
    return Fraction(digits.rstrip(".") or "0") if len(digits) <= LARGEST_EXPONENT else None


def _ratio(above: Fraction | None, below: Fraction | None) -> Fraction | None:
    return None if above is None or not below else above / below


def _power_of_ten(exponent: int) -> Fraction | None:
    return Fraction(10) ** exponent if abs(exponent) <= LARGEST_EXPONENT else None


# ---- collections --------------------------------------------------------------------------------------------------


def _split(text: str) -> list[str]:
    """The parts between commas (or `and`, `or`) that stand in no bracket."""
    text = re.sub(r",?\s*(?:\\(?:text|mbox)\s*\{\s*(?:and|or)\s*\}|\b(?:and|or)\b)\s*(?=[-+\\\d(])", ", ", text)
    parts, depth, start = [], 0, 0
    for at, character in enumerate(text):
        if character in "([{":
            depth += 1
        elif character in ")]}":
            depth -= 1
        elif character == "," and depth == 0:
            parts.append(text[start:at])
            start = at + 1
    parts.append(text[start:])
    return [part.strip() for part in parts]


def _enclosed(text: str) -> tuple[str, str] | None:
    """The brackets around the whole text, and what they hold: `[0, 1)` → `[)` and `0, 1`."""
    if text.startswith("\\{") and text.endswith("\\}") and text.count("\\{") == 1:
        return "{}", text[2:-2]
    if len(text) < 2 or text[0] not in "([" or text[-1] not in ")]":
        return None
    depth = 0
    for at, character in enumerate(text):
        depth += (character in "([{") - (character in ")]}")
        if depth == 0 and at < len(text) - 1:
            return None  # (0, 1) ∪ (2, 3) is not one pair of brackets
    return text[0] + text[-1], text[1:-1]


def _sorted(elements: tuple[Normal, ...]) -> tuple[Normal, ...]:
    return tuple(sorted(elements, key=repr))
