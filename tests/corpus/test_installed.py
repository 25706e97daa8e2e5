"""Installed text: code without English, English without code, the same on every reading."""

import ast
import textwrap

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curricle.corpus import installed
from curricle.corpus.installed import Prose, installed_documents, reads_as_prose, without_docstrings
from curricle.study import Installed, Refused

PACKAGE = "hypothesis"  # small enough, and a test dependency


def bare(text: str) -> str:
    return without_docstrings(text, ast.parse(text))


def shape(tree: ast.AST) -> str:
    """The tree without docstrings and without the `...` that may stand for one."""
    for node in ast.walk(tree):
        if isinstance(node, installed.Owner) and node.body:
            first = node.body[0]
            placeholder = isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant)
            if placeholder and (isinstance(first.value.value, str) or first.value.value is ...):
                node.body = node.body[1:]
    return ast.dump(tree)


def test_docstrings_go_and_everything_else_stays_as_written():
    text = textwrap.dedent('''\
        # a comment
        """Module é."""

        import os  # why

        class A:
            """Only this."""

        async def f(x):
            """One
            two."""

            # kept
            return "not a docstring"

        def g(): "inline"
        def h(): "inline"; return 1
        class B: """é"""; x = 1
        ''')
    assert bare(text) == textwrap.dedent("""\
        # a comment
        import os  # why

        class A:
            ...

        async def f(x):
            # kept
            return "not a docstring"

        def g(): ...
        def h(): ...; return 1
        class B: ...; x = 1
        """)


docstring = st.sampled_from(['"""d"""', '"é" "f"', '"""a\n\n   b"""', '("p")', "", "'''x'''  # c", '"""e"""; y = 1'])
block = st.recursive(
    st.sampled_from(["x = 1", "return_ = '''t'''", "if x:\n    '''not one'''", "# only\nx = 2"]),
    lambda inner: st.builds(
        lambda head, doc, bodies: (
            f"{head}\n" + textwrap.indent("\n".join([doc, *bodies]) if doc or bodies else "pass", "    ")
        ),
        st.sampled_from(["def f():", "class C:", "async def g(a):", "if x:", "try:\n    pass\nfinally:"]),
        docstring,
        st.lists(inner, max_size=2),
    ),
    max_leaves=6,
)


@settings(max_examples=200)
@given(docstring, st.lists(block, max_size=3))
def test_what_is_left_parses_to_the_same_program_without_docstrings(doc, blocks):
    text = "\n".join([doc, *blocks]) + "\n"
    try:
        ast.parse(text)
    except SyntaxError:
        return
    left = ast.parse(bare(text))
    assert not list(installed._owners(left))
    assert shape(left) == shape(ast.parse(text))


def test_code_and_prose_of_a_package_are_disjoint_and_stable():
    code = list(installed_documents(Installed(installed="code", packages=(PACKAGE,)), "code"))
    prose = list(installed_documents(Installed(installed="prose", packages=(PACKAGE,)), "prose"))
    assert code == list(installed_documents(Installed(installed="code", packages=(PACKAGE,)), "code"))
    assert [d.id for d in code] == sorted(d.id for d in code)
    assert len({d.group for d in code}) > 1
    for document in code:
        assert not list(installed._owners(ast.parse(document.text))), document.id
        assert "/tests/" not in document.id
    assert any(d.id == f"{PACKAGE}/README" for d in prose)
    assert all(">>>" not in d.text for d in prose)


def test_the_standard_library_is_there_without_its_tests_and_tables():
    found = {module.path for module in installed.modules("python", "sources.code.packages")}
    assert {"json/decoder.py", "asyncio/events.py", "textwrap.py"} <= found
    assert not [p for p in found if p.startswith(("test/", "encodings/", "pydoc_data/")) or "site-packages" in p]
    assert len(installed.topics()) > 50


def test_paragraphs_of_english_are_kept_once_and_others_never():
    assert reads_as_prose("Return the number of items in the queue, or zero if it is empty.")
    assert not reads_as_prose(">>> f(1)\n1")
    assert not reads_as_prose("| a | b |\n|---|---|")
    assert not reads_as_prose("x = [a[i] * b[i] + c for i in range(10)]")
    assert not reads_as_prose("Zwei Sätze ohne die englischen Wörter, aber mit vielen Buchstaben darin.")
    prose, paragraph = Prose(), "This is a paragraph that says the same thing as the one before it."
    assert prose.of_text(f"{paragraph}\n\n{paragraph}") == paragraph + "\n"
    assert prose.of_text(paragraph) == ""


def test_a_package_that_is_not_installed_is_refused_by_name():
    with pytest.raises(
        Refused, match=r"sources\.s\.packages: 'hypothesi' is not installed here; did you mean 'hypothesis'"
    ):
        list(installed_documents(Installed(installed="code", packages=("hypothesi",)), "s"))


def test_versions_and_licences_are_reported():
    source = Installed(installed="code", packages=("python", PACKAGE))
    assert set(installed.versions(source, "s")) == {"python", PACKAGE}
    assert installed.licences(source)["python"] == "PSF-2.0"
