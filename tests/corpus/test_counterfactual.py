"""Counterfactual code: each transformation takes one property away and leaves the others; every text survives it."""

import ast
import io
import re
import sysconfig
import tokenize
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curricle.corpus.counterfactual import LANGUAGES, PYTHON, TAKEN, counterfactual, language_of, lexemes, names
from curricle.study import Counterfactual

CODE = '''
import os

# How a total is kept.
class Total(Base):
    """Adds up."""
    limit = 0x1F + 1_000.5e-3

    def add(self, amount, *, twice=False):
        if amount in (1, 2) and not twice:  # small ones
            self.total += amount
        for item in [self.limit, {"a": amount}]:
            print(f"{item!r:>{amount}} of {self.total[1:amount]} {{amount}}", item)
        return self.total
'''.lstrip()

SCRIPT = """
/* Options of the tool. */
const limit = 10;
export function add(items, limit) {
	// the pattern has a quote in it
	const found = items.filter(item => /["'(]/u.test(item.name));
	if (found.length > limit) { return [`${found.length} of ${limit}`, 'it\\'s']; }
	return { found, limit };
}
""".lstrip()

RUST = """
// Keeps a slice for as long as it lives.
pub fn longest<'a>(first: &'a str, second: &'a str) -> &'a str {
    let mark = '(';
    if first.len() > second.len() { first } else { second }
}
""".lstrip()


def files(step: int) -> list[tuple[Path, str]]:
    """Some of the standard library's files."""
    found = []
    for file in sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py"))[::step]:
        try:
            text = file.read_text(encoding="utf-8")
            ast.parse(text)
        except (SyntaxError, UnicodeDecodeError, ValueError):
            continue
        found.append((file, text))
    return found


def tokens(text: str) -> list[str]:
    return [piece for kind, piece in lexemes(text) if kind != "space"]


def pattern(text: str) -> list[int]:
    """Which use of a name is of which name, names numbered in the order in which they come."""
    order: dict[str, int] = {}
    return [order.setdefault(text[a:b], len(order)) for a, b in names(text)]


class Shape(ast.NodeTransformer):
    """A tree without its names."""

    def generic_visit(self, node: ast.AST) -> ast.AST:
        for field in ("id", "attr", "arg", "name", "names", "module", "asname", "rest"):
            if isinstance(getattr(node, field, None), str | list):
                setattr(node, field, "")
        return super().generic_visit(node)


def shape(text: str) -> str:
    return ast.dump(Shape().visit(ast.parse(text)))


ANY = st.one_of(
    st.text(max_size=300), st.lists(st.sampled_from([*CODE, *SCRIPT, *RUST, '"', "'", "`", "\\"])).map("".join)
)


@settings(max_examples=100)
@given(ANY)
def test_no_text_loses_a_character_in_the_lexer_or_stops_a_transformation(text):
    assert "".join(piece for _, piece in lexemes(text)) == text
    for take in TAKEN:
        assert counterfactual(text, take) == counterfactual(text, take)


@pytest.mark.parametrize("take", [take for take in TAKEN if take != "code"])
def test_another_seed_is_another_draw_and_the_same_one_is_the_same(take):
    assert counterfactual(CODE, take) == counterfactual(CODE, take, 0) != counterfactual(CODE, take, 1) != CODE


def test_python_is_cut_as_its_own_tokenizer_cuts_it():
    layout = {tokenize.NEWLINE, tokenize.NL, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}
    for file, text in files(12):
        if "FSTRING_START" in tokenize.__all__ and re.search(r"\b[rR]?[fF][rR]?[\"']", text):
            continue  # since 3.12 its own tokenizer cuts formatted strings up
        ours = [piece for piece in tokens(text) if piece != "\\"]  # joins two lines, and is no token to Python
        theirs = [t.string for t in tokenize.generate_tokens(io.StringIO(text).readline) if t.type not in layout]
        assert ours == theirs, file.name


def test_without_meaning_only_the_names_change_and_what_is_bound_to_what_stays():
    for file, text in [*files(20), (Path("CODE"), CODE)]:
        made = counterfactual(text, "meaning")
        assert pattern(made) == pattern(text), file.name
        assert shape(made) == shape(text), file.name
        before, after = ({text[a:b] for a, b in names(text)} for text in (text, made))
        lettered = {name for name in before if name.strip("_0123456789")}
        assert not lettered & after and not after & PYTHON
        assert len(made) == len(text) or len(names(text)) > 500  # short words may run out in a long file


def test_invented_names_keep_their_length_and_case():
    made = counterfactual(CODE, "meaning")
    assert [re.sub("[a-z]", "a", re.sub("[A-Z]", "A", line)) for line in made.splitlines()] == [
        re.sub("[a-z]", "a", re.sub("[A-Z]", "A", line)) for line in CODE.splitlines()
    ]
    assert "class Total" not in made and "# How a total is kept." in made and '"""Adds up."""' in made


def test_without_binding_the_same_invented_names_stand_elsewhere():
    for text in (CODE, SCRIPT, RUST, *(text for _, text in files(40))):
        bound, unbound = counterfactual(text, "meaning"), counterfactual(text, "binding")
        assert Counter(bound[a:b] for a, b in names(bound)) == Counter(unbound[a:b] for a, b in names(unbound))
        assert pattern(unbound) != pattern(bound)
        outside = [(kind, piece if kind not in ("name", "string") else "") for kind, piece in lexemes(bound)]
        assert [(kind, piece if kind not in ("name", "string") else "") for kind, piece in lexemes(unbound)] == outside


def balanced(text: str) -> bool:
    stack = []
    for kind, piece in lexemes(text):
        if kind == "bracket" and piece in "([{":
            stack.append(piece)
        elif kind == "bracket" and (not stack or stack.pop() + piece not in ("()", "[]", "{}")):
            return False
    return not stack


def test_without_nesting_brackets_close_nothing_and_names_stay_where_they_were():
    for text in (CODE, SCRIPT, *(text for _, text in files(40))):
        made = counterfactual(text, "nesting")
        assert balanced(text) and not balanced(made)
        assert Counter(tokens(made)) == Counter(tokens(text))
        kept = [piece for kind, piece in lexemes(text) if kind not in ("space", "bracket", "keyword")]
        assert [piece for kind, piece in lexemes(made) if kind not in ("space", "bracket", "keyword")] == kept
    assert made.count("\n") == text.count("\n")


def test_indents_are_dealt_out_anew():
    made = counterfactual(CODE, "nesting")
    indents = [[len(line) - len(line.lstrip()) for line in text.splitlines() if line] for text in (CODE, made)]
    assert sorted(indents[0]) == sorted(indents[1]) and indents[0] != indents[1]


@settings(max_examples=100)
@given(ANY)
def test_without_order_the_lines_are_the_same_lines(text):
    assert Counter(counterfactual(text, "order").split("\n")) == Counter(text.split("\n"))


def test_without_syntax_the_tokens_are_counted_as_before_and_follow_one_another_as_never_before():
    for text in (CODE, SCRIPT, RUST, *(text for _, text in files(40) if len(text) < 12_000)):
        made = counterfactual(text, "syntax")
        before, after = tokens(text), tokens_of(made, text)
        assert Counter(after) == Counter(before)
        if len(before) > 1000:
            pairs = set(pairwise(before))
            assert sum(pair in pairs for pair in pairwise(after)) < 0.6 * len(after)


def tokens_of(made: str, text: str) -> list[str]:
    """Shuffled text no longer looks like its language: it is cut by the original's tokens, the longest first."""
    known = sorted(set(tokens(text)), key=len, reverse=True)
    word = re.compile("|".join(rf"(?<!\w){re.escape(t)}(?!\w)" if t.isidentifier() else re.escape(t) for t in known))
    return word.findall(made)


def test_without_code_comments_and_documentation_stay():
    assert counterfactual(CODE, "code") == '# How a total is kept.\n"""Adds up."""\n# small ones\n'
    assert counterfactual(SCRIPT, "code") == "/* Options of the tool. */\n// the pattern has a quote in it\n"
    assert counterfactual("x = 1\n", "code") == ""


def test_languages_are_told_apart_and_their_traps_are_known():
    assert [LANGUAGES.index(language_of(text)) for text in (CODE, SCRIPT, RUST)] == [0, 1, 1]
    assert {RUST[a:b] for a, b in names(RUST)} == {"longest", "a", "first", "second", "mark", "len"} | {"str"}
    assert ("string", "'('") in lexemes(RUST) and ("string", "/[\"'(]/u") in lexemes(SCRIPT)
    assert {CODE[a:b] for a, b in names(CODE)} >= {"item", "amount", "total", "limit", "print"}
    made = counterfactual(SCRIPT, "meaning")
    assert "${" in made and "${found" not in made


def test_what_a_study_may_take_is_what_there_is_to_take():
    assert set(get_args(Counterfactual.model_fields["take"].annotation)) == set(TAKEN)
