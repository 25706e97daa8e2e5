"""Code with one of its properties taken away: text → text, so that a study can ask what that property gives.

`counterfactual(text, take)` keeps all else as it can: names keep their length and case, what is scrambled is scrambled
among things of its own class, and no token is added or lost (docs/theory.md, 4; the table `TAKEN` says it in words).
It is a pure function of text, property and seed. The lexer serves many languages, told apart by how the text looks. It
never loses a character, and where it errs (a language unlike these) a word is taken for something that it is not.
"""

from __future__ import annotations

import keyword
import re
from collections import defaultdict
from functools import cache
from hashlib import blake2b
from random import Random
from typing import NamedTuple

COUNTERFACTUAL_VERSION = 1  # raised by hand when the same text gives another

TAKEN = {
    "meaning": "names are replaced by invented ones, each by the same one throughout its document; binding is kept",
    "binding": "the same invented names, dealt out anew over the places where names stand",
    "nesting": "brackets are shuffled among brackets, keywords among keywords, indents among lines",
    "order": "lines are shuffled",
    "syntax": "tokens are shuffled; only their counts are kept",
    "code": "only comments are kept, and strings that stand alone as documentation",
}

Pieces = list[tuple[str, str]]
"""(kind, text) of every lexeme, in order; the texts joined are the document."""


class Language(NamedTuple):
    """A family of languages that one lexer serves."""

    evidence: str  # lines that look like it
    comment: str
    keywords: frozenset[str]
    prefix: str = ""  # letters that may stand before a single quotation mark


def words(text: str) -> frozenset[str]:
    return frozenset(text.split())


CONSTANTS = words("True False None true false null nil undefined nullptr NULL")
PYTHON = frozenset(keyword.kwlist) | words("match case")
BRACES = words(
    "alignas as asm async auto await become box break case catch char class const const_cast constexpr continue "
    "crate debugger default define defined del delete do double dyn elif else endif enum error explicit export "
    "extends extern final finally float fn for foreach friend func function go goto if ifdef ifndef impl "
    "implements import in include inline instanceof int interface internal is let long loop match mod move mut "
    "namespace new noexcept operator out override package pragma private protected pub public range ref register "
    "return select short signed sizeof static static_cast struct super switch template this throw trait try type "
    "typedef typename typeof undef union unsafe unsigned use using val var virtual void volatile when where while "
    "with yield"
)
SCRIPTS = PYTHON | words(
    "begin do done elsif end esac export fi function local macro module mutable next nil redo rescue retry self struct "
    "then undef unless until using when where"
)
PROOFS = words(
    "abstract axiom by calc case class codata corollary data def defined definition deriving do end else exact example "
    "exists fixpoint forall from fun function goal have hence if import in inductive infix infixl infixr instance "
    "intro intros lemma let locale match module mutual namespace newtype noncomputable of open postulate private proof "
    "qed record rewrite rw section show sorry structure then theorem theory type universe variable variables where with"
)
PROOFS |= frozenset(word.capitalize() for word in PROOFS)

LANGUAGES = (
    Language(
        r"^[ \t]*(?:def|class|elif|except|with|if|for|while|else|try|async)\b[^\n]*:[ \t]*(?:#[^\n]*)?$"
        r"|^[ \t]*(?:#[ !]|(?:from|import) \w)",
        r"\#[^\n]*",
        PYTHON,
        r"[rRbBuUfF]{0,2}",
    ),
    Language(r"(?:;|\) \{)[ \t]*$|^[ \t]*(?://|/\*|\*[ /])", r"//[^\n]*|/\*.*?\*/", BRACES),
    Language(r"^[ \t]*(?:#[ !]|(?:end|fi|done|then|esac|elsif|function|using)\b)", r"\#[^\n]*", SCRIPTS),
    Language(
        r"^[ \t]*(?:--|/-|\{-|theorem|lemma|data|instance|where|variable|open|section)\b",
        r"--[^\n]*|\{-.*?-\}|/-.*?-/",
        PROOFS,
    ),
    Language(r"\(\*|^[ \t]*(?:Proof|Qed|Lemma|Theorem|Definition|let)\b", r"\(\*.*?\*\)", PROOFS),
    Language(r"^[ \t]*[%\\]", r"(?<!\\)%[^\n]*", frozenset()),
)
RUST = re.compile(r"^[ \t]*(?:pub\b.*)?fn \w+.*[{(<]", re.MULTILINE)  # there 'a is a lifetime, and opens no string
LEXER = r"""
(?P<space>\s+)
| (?P<comment>{comment})
| (?P<string> [A-Za-z]{{0,2}}(?P<mark>\"\"\"|''')(?:\\.|.)*?(?P=mark) | [A-Za-z]{{0,2}}\"(?:\\.|[^"\\\n])*\"
    | (?<!\w){prefix}{character} | `(?:\\.|[^`\\])*`{pattern} )
| (?P<number>(?:\d[\d_]*(?:\.\d[\d_]*|\.(?=[eE][+-]?\d|[jJ]\b)|\.(?![.\w]))?|\.\d[\d_]*)(?:[eE][+-]?\d+)?\w*)
| (?P<name>[^\W\d]\w*)
| (?P<bracket>[()\[\]{{}}])
| (?P<operator>\*\*=|//=|>>=|<<=|\.\.\.|===|!==|[-=]>|[=!<>:+*/%&|^@-]=|&&|\|\||\+\+|--|::|\*\*|//|<<|>>|.)
"""
FIELD = re.compile(r"\{\{|\{((?:\[[^\[\]]*\]|\([^()]*\)|!=|[^{}!:\[\]()])+)")  # what an f-string works out
SLOT = re.compile(r"\$\{([^{}]*)\}")  # the same of a string between backticks
QUOTED = r"'(?:\\.|[^'\\\n])*'"
CHARACTER = r"'(?:\\[^\n']{1,10}|[^'\\\n])'"
# A regular expression between slashes, where no division can stand.
PATTERN = r"| (?:(?<=[(,=:\[!&|?>{};])|(?<=[(,=:\[!&|?>{};]\ ))/(?![*/\ ])(?:\\.|\[(?:\\.|[^]\\\n])*\]|[^/\\\n\[])+/\w*"


@cache
def _lexer(language: Language, lifetimes: bool) -> re.Pattern[str]:
    return re.compile(
        LEXER.format(
            comment=language.comment,
            prefix=language.prefix,
            character=CHARACTER if lifetimes else QUOTED,
            pattern=PATTERN if language.keywords is BRACES else "",
        ),
        re.VERBOSE | re.DOTALL,
    )


def language_of(text: str) -> Language:
    """The family with the most lines that look like it; Python's where nothing does."""
    return max(LANGUAGES, key=lambda language: len(re.findall(language.evidence, text, re.MULTILINE)))


def lexemes(text: str) -> Pieces:
    """Kinds: space, comment, string, number, constant, keyword, name, bracket, operator."""
    language = language_of(text)
    return [(_kind(found, language), found[0]) for found in _lexer(language, bool(RUST.search(text))).finditer(text)]


def _kind(found: re.Match[str], language: Language) -> str:
    kind = found.lastgroup or ""
    if kind == "name":
        return "constant" if found[0] in CONSTANTS else "keyword" if found[0] in language.keywords else kind
    return kind


def counterfactual(text: str, take: str, seed: int = 0) -> str:
    """The text without the property `take` (a key of `TAKEN`); empty where nothing is left."""
    if take == "meaning":
        places = names(text)
        return _spliced(text, places, _invented([text[a:b] for a, b in places], _random(text, "names", seed)))
    draw = _random(text, take, seed)
    if take == "binding":
        places = names(text)
        invented = _invented([text[a:b] for a, b in places], _random(text, "names", seed))
        draw.shuffle(invented)
        return _spliced(text, places, invented)
    return {"nesting": _unnested, "order": _disordered, "syntax": _shuffled, "code": _comments}[take](text, draw)


def _random(text: str, purpose: str, seed: int) -> Random:
    key = f"{COUNTERFACTUAL_VERSION} {purpose} {seed} {text}"
    return Random(int.from_bytes(blake2b(key.encode(), digest_size=16).digest()))


# ---- names --------------------------------------------------------------------------------------------------------


def names(text: str) -> list[tuple[int, int]]:
    """Where names stand: identifiers that are no keywords, and those in what a formatted string works out."""
    language = language_of(text)
    pattern = _lexer(language, bool(RUST.search(text)))
    found = []
    for piece in pattern.finditer(text):
        if _kind(piece, language) == "name":
            found.append(piece.span())
        elif piece.lastgroup == "string" and (fields := _fields(piece[0])):
            for field in fields.finditer(text, *piece.span()):
                inside = pattern.finditer(text, *field.span(1)) if field[1] else ()
                found += [name.span() for name in inside if _kind(name, language) == "name"]
    return found


def _fields(string: str) -> re.Pattern[str] | None:
    if string[0] == "`":
        return SLOT
    return FIELD if string[-1] in "\"'" and "f" in string.partition(string[-1])[0].lower() else None


def _spliced(text: str, places: list[tuple[int, int]], names: list[str]) -> str:
    ends = [0, *(end for _, end in places)]
    kept = [text[before:start] for before, (start, _) in zip(ends, places)]
    return "".join(piece for pair in zip(kept, names) for piece in pair) + text[ends[-1] :]


def _invented(uses: list[str], draw: Random) -> list[str]:
    """For every use of a name the invented one, of the same length and case; different names stay different, and no
    name of the document stays."""
    taken = {*uses, *CONSTANTS, *PYTHON, *BRACES, *SCRIPTS, *PROOFS}
    given: dict[str, str] = {}
    for name in uses:
        if name not in given:
            given[name] = _unlike(name, taken, draw)
            taken.add(given[name])
    return [given[name] for name in uses]


def _unlike(name: str, taken: set[str], draw: Random) -> str:
    """Letters in syllables, so that tokens are no rarer than they must be; a letter more where all words are taken."""
    if not any(character.isalpha() for character in name):
        return name
    for attempt in range(10_000):
        made, vowel = [], draw.random() < 0.5
        for character in name + "o" * (attempt // 50):
            if character.isalpha():
                letter = draw.choice("aeiou" if vowel else "bcdfghjklmnpqrstvwxyz")
                made.append(letter.upper() if character.isupper() else letter)
                vowel = not vowel
            else:
                made.append(character)
        if (word := "".join(made)) not in taken:
            return word
    raise AssertionError(name)  # words of two hundred letters do not run out


# ---- structure ----------------------------------------------------------------------------------------------------


def _unnested(text: str, draw: Random) -> str:
    pieces = lexemes(text)
    places: dict[str, list[int]] = defaultdict(list)
    for place, (kind, piece) in enumerate(pieces):
        if kind in ("bracket", "keyword"):
            places[kind].append(place)
        elif kind == "space" and "\n" in piece and place + 1 < len(pieces):
            places["indent"].append(place)
    texts = [piece for _, piece in pieces]
    for kind in ("bracket", "keyword"):
        moved = [texts[place] for place in places[kind]]
        draw.shuffle(moved)
        for place, piece in zip(places[kind], moved):
            texts[place] = piece
    broken = [texts[place].rpartition("\n") for place in places["indent"]]
    indents = [indent for _, _, indent in broken]
    draw.shuffle(indents)
    for place, (before, newline, _), indent in zip(places["indent"], broken, indents):
        texts[place] = before + newline + indent
    return "".join(texts)


def _disordered(text: str, draw: Random) -> str:
    lines, end = (text[:-1], "\n") if text.endswith("\n") else (text, "")
    shuffled = lines.split("\n")
    draw.shuffle(shuffled)
    return "\n".join(shuffled) + end


def _shuffled(text: str, draw: Random) -> str:
    """Each token with the space that follows it; a space more only where two would run together."""
    units: list[str] = []
    for kind, piece in lexemes(text):
        if kind == "space" and units:
            units[-1] += piece
        else:
            units.append(piece + "\n" if kind == "comment" and _open(piece) else piece)
    draw.shuffle(units)
    made = []
    for unit, following in zip(units, [*units[1:], "\n"]):
        apart = unit[-1].isspace() or unit[-1] in ALONE or following[0].isspace() or following[0] in ALONE
        made.append(unit if apart else unit + " ")
    return "".join(made)


ALONE = "()[]{},;"  # characters that are tokens by themselves, whatever stands beside them


def _open(comment: str) -> bool:
    """Whether a comment ends with its line, so that what stands behind it there would belong to it."""
    return not comment.endswith(("*/", "-}", "-/", "*)"))


def _comments(text: str, draw: Random) -> str:
    pieces = [("space", "\n"), *lexemes(text), ("space", "\n")]
    kept = []
    for (before, space), (kind, piece), (_, after) in zip(pieces, pieces[1:], pieces[2:]):
        alone = before == "space" and "\n" in space and after.startswith(("\n", "\r"))
        if kind == "comment" or (kind == "string" and alone and piece.endswith(('"""', "'''"))):
            kept.append(piece.strip() + "\n")
    return "".join(kept)
