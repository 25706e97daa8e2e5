"""Text that every machine has: Python code without its docstrings, and the English prose that stands beside it.

`python` is the standard library; any other name is an installed distribution. Code is the source text as written, its
comments kept and its docstrings cut out, so that the code source holds no page of English. Prose is docstrings (one
document a module), the standard library's help topics and the packages' READMEs, reduced to the paragraphs that read
as English. The order is fixed, and only the named packages are read: installing another changes nothing.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.metadata
import inspect
import os
import platform
import re
import sysconfig
import tokenize
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from email.message import Message
from pathlib import Path
from typing import cast

from curricle.corpus.documents import Document
from curricle.study import Installed, Refused, nearest

STANDARD = "python"
# Not the library's own code: tests and their fixtures, bundled wheels, what was installed into it, the help topics
# (English in a string), character tables.
LEFT_OUT = {
    *("test", "tests", "idle_test", "testing_data", "_bundled", "site-packages", "dist-packages", "__pycache__"),
    *("pydoc_data", "encodings"),
}
MACHINE = "_sysconfigdata"  # files that record how this machine's Python was built
MIN_CODE = 200  # characters; below it a file is a re-export or empty
MIN_PROSE = 80  # characters of a docstring; below it it is a label
MIN_LETTERS = 0.78  # share of letters and spaces in a paragraph of prose; tables, paths and formulas have less
COMMON = {
    *("the", "a", "an", "of", "to", "is", "in", "and", "that", "for", "it", "be", "are", "as", "with", "this", "by"),
    *("on", "or", "if", "not", "which", "from", "will", "can"),
}


@dataclass(frozen=True, slots=True)
class Module:
    """A Python file of a package: where it lies, its path inside the package, and its group."""

    package: str
    path: str
    file: Path
    group: str


def installed_documents(source: Installed, name: str) -> Iterator[Document]:
    """The source's documents, package after package, files in the order of their paths."""
    versions(source, name)  # refuses what is not installed, before anything is read
    prose = Prose()
    for package in source.packages:
        for module in modules(package, f"sources.{name}.packages"):
            tree, text = parse(module.file)
            if tree is None:
                continue
            body = without_docstrings(text, tree) if source.installed == "code" else prose.of_module(tree)
            if len(body) >= (MIN_CODE if source.installed == "code" else MIN_PROSE):
                meta = {"package": package, "path": module.path}
                yield Document(f"{package}/{module.path}", body, name, group=module.group, meta=meta)
        if source.installed == "prose":
            for title, text in topics() if package == STANDARD else readme(package):
                body = prose.of_text(text)
                if len(body) >= MIN_PROSE:
                    group = f"{package}:{title.partition('/')[0]}"
                    yield Document(f"{package}/{title}", body, name, group=group, meta={"package": package})


def versions(source: Installed, name: str) -> dict[str, str]:
    """Versions of the source's packages. Raises `Refused` for one that is not installed."""
    found = {}
    for package in source.packages:
        if package == STANDARD:
            found[package] = platform.python_version()
            continue
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            others = sorted({d.metadata["Name"] for d in importlib.metadata.distributions() if d.metadata["Name"]})
            raise Refused(
                f"sources.{name}.packages: {package!r} is not installed here; {nearest(package, [STANDARD, *others])}"
            ) from None
    return found


def licences(source: Installed) -> dict[str, str]:
    """What the packages state about their licence."""
    found = {}
    for package in source.packages:
        if package == STANDARD:
            found[package] = "PSF-2.0"
            continue
        stated = _stated(package)
        classifiers = [c.split(" :: ")[-1] for c in stated.get_all("Classifier", []) if c.startswith("License")]
        text = stated.get("License-Expression") or "; ".join(classifiers) or stated.get("License") or "not stated"
        found[package] = text.splitlines()[0]
    return found


def _stated(package: str) -> Message:
    """The package's metadata, which is an e-mail message in all but its declared type."""
    return cast(Message, importlib.metadata.metadata(package))


def modules(package: str, field: str) -> list[Module]:
    """The Python files of a package in the order of their paths, without tests."""
    if package == STANDARD:
        root = Path(sysconfig.get_paths()["stdlib"])
        paths = {file.relative_to(root).as_posix(): file for file in _python_files(root)}
    else:
        listed = importlib.metadata.files(package) or []
        paths = {p.as_posix(): Path(str(p.locate())) for p in listed if p.suffix == ".py" and ".." not in p.parts}
    kept = {path: file for path, file in paths.items() if not LEFT_OUT & set(path.split("/")[:-1]) and file.is_file()}
    if not kept:
        raise Refused(f"{field}: {package!r} lists no Python files (an editable install lists none)")
    return [Module(package, path, kept[path], _group(package, path)) for path in sorted(kept)]


def _python_files(root: Path) -> Iterator[Path]:
    for folder, folders, files in os.walk(root):
        folders[:] = [name for name in folders if name not in LEFT_OUT]  # never down into what was installed
        yield from (Path(folder, name) for name in files if name.endswith(".py") and not name.startswith(MACHINE))


def _group(package: str, path: str) -> str:
    """`asyncio/events.py` → `python:asyncio`; for a distribution its first sub-package, `sympy:sympy/core`."""
    folders = path.removesuffix(".py").split("/")
    return f"{package}:{folders[0] if package == STANDARD else '/'.join(folders[:-1][:2])}"


def parse(file: Path) -> tuple[ast.Module | None, str]:
    """The file's syntax tree and text; no tree where it is not valid Python (templates, other versions)."""
    try:
        with tokenize.open(file) as stream:  # reads the coding line; newlines become \n
            text = stream.read()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # invalid escapes in other people's strings
            return ast.parse(text), text
    except (SyntaxError, ValueError, RecursionError, OSError):
        return None, ""


Owner = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


def _owners(tree: ast.Module) -> Iterator[Owner]:
    """Everything that has a docstring, in the order of the text. Only statements are entered, which is fast."""
    pending: list[ast.AST] = [tree]
    while pending:
        node = pending.pop()
        if isinstance(node, Owner) and ast.get_docstring(node, clean=False) is not None:
            yield node
        for block in ("finalbody", "orelse", "handlers", "cases", "body"):
            inner = getattr(node, block, None)
            if isinstance(inner, list):
                pending += reversed(inner)


def without_docstrings(text: str, tree: ast.Module) -> str:
    """The source text with each docstring cut out; a body that was nothing else becomes `...`, so it still parses."""
    # split("\n"), not splitlines(): the parser counts neither form feeds nor Unicode separators as line ends. Its
    # columns count UTF-8 bytes.
    lines = [line.encode() for line in text.split("\n")]
    for owner in reversed(list(_owners(tree))):
        statement = owner.body[0]
        first, last = statement.lineno - 1, (statement.end_lineno or statement.lineno) - 1
        before, after = lines[first][: statement.col_offset], lines[last][statement.end_col_offset :]
        alone = not before.strip() and not after.strip()
        if alone and (len(owner.body) > 1 or isinstance(owner, ast.Module)):
            last += last + 1 < len(lines) and not lines[last + 1].strip()  # the blank line that set it off
            lines[first : last + 1] = []
        else:
            lines[first : last + 1] = [before + b"..." + after]
    return b"\n".join(lines).decode().strip("\n") + "\n"


class Prose:
    """Picks the paragraphs that read as English, each once: help topics and docstrings repeat one another."""

    def __init__(self) -> None:
        self._seen: set[bytes] = set()

    def of_module(self, tree: ast.Module) -> str:
        """The module's docstrings of some length, in order, set apart by blank lines."""
        docstrings = [inspect.cleandoc(ast.get_docstring(owner, clean=False) or "") for owner in _owners(tree)]
        kept = [self.of_text(text) for text in docstrings if len(text) >= MIN_PROSE]
        return "\n".join(text for text in kept if len(text) >= MIN_PROSE)

    def of_text(self, text: str) -> str:
        """The text's paragraphs of prose, a blank line between them, none of them seen before."""
        kept = []
        for paragraph in re.split(r"\n\s*\n", text.expandtabs().replace("\r\n", "\n")):
            if not reads_as_prose(paragraph):
                continue
            mark = hashlib.blake2b(" ".join(paragraph.split()).encode(), digest_size=8).digest()
            if mark not in self._seen:
                self._seen.add(mark)
                kept.append(inspect.cleandoc(paragraph))
        return "\n\n".join(kept) + "\n" if kept else ""


def reads_as_prose(paragraph: str) -> bool:
    """English sentences: mostly letters, some of the commonest words, no interpreter session and no markup table."""
    if re.search(r"^\s*(>>>|\.\.\. |\||\+[-=]|```|#!|\[!\[|<|\$ )", paragraph, re.MULTILINE):
        return False
    words = re.findall(r"[a-z]+", paragraph.lower())
    letters = sum(character.isalpha() or character.isspace() for character in paragraph)
    common = sum(word in COMMON for word in words)
    return len(words) >= 6 and letters >= MIN_LETTERS * len(paragraph) and common >= 0.15 * len(words)


def topics() -> list[tuple[str, str]]:
    """The language reference as `help()` shows it."""
    try:
        from pydoc_data.topics import topics as found
    except ImportError:  # some distributions leave it out
        return []
    return [(f"topics/{title}", found[title]) for title in sorted(found)]


def readme(package: str) -> list[tuple[str, str]]:
    """The package's own description of itself."""
    stated = _stated(package)
    text = stated.get("Description") or str(stated.get_payload() or "")
    return [("README", text)] if text.strip() else []
