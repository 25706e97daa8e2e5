"""Documents as files: a part of a corpus as it is written and read, and the list of what was taken out of it."""

from __future__ import annotations

import hashlib
import io
import json
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from curricle.corpus.documents import SHOWN, Document


class Part:
    """A file of documents as it is written: one JSON line each, compressed, counted and fingerprinted on the way."""

    def __init__(self, path: Path):
        self.path = path
        self.documents = 0
        self.bytes = 0
        self._hash = hashlib.sha256()

    @contextmanager
    def writing(self) -> Iterator[None]:
        import zstandard

        with self.path.open("wb") as file:
            self._out = zstandard.ZstdCompressor(level=3).stream_writer(file, closefd=False)
            try:
                yield
            finally:
                self._out.close()

    def add(self, document: Document) -> None:
        self._out.write(document.to_json().encode() + b"\n")
        self.documents += 1
        self.bytes += size(document)
        turns = (text for turn in document.conversation for text in turn)
        # Not the id: a renamed file is the same text.
        for text in (document.template, *turns) if document.template else (document.prompt, document.text):
            content = text.encode()
            self._hash.update(len(content).to_bytes(8) + content)  # the length, so that no border can move unseen

    @property
    def fingerprint(self) -> str:
        return self._hash.hexdigest()[:16]


class Removed:
    """The list of removed documents as it is written: the document, what it overlapped, and the words they share."""

    def __init__(self, path: Path):
        self.path = path
        self.by_benchmark: Counter[str] = Counter()
        self.examples: list[dict[str, str]] = []
        self.documents = 0
        self._last = ""

    @contextmanager
    def writing(self) -> Iterator[None]:
        with self.path.open("a", encoding="utf-8") as self._out:
            yield

    def add(self, document: Document, benchmark: str, evidence: str) -> None:
        row = {"id": document.id, "benchmark": benchmark, "evidence": evidence}
        self._out.write(json.dumps(row, ensure_ascii=False) + "\n")
        self.by_benchmark[benchmark] += 1
        self.documents += document.id != self._last
        self._last = document.id
        if len(self.examples) < SHOWN:
            self.examples.append(row)


def read_documents(path: Path) -> Iterator[Document]:
    import zstandard

    with path.open("rb") as file:
        for line in io.BufferedReader(zstandard.ZstdDecompressor().stream_reader(file), 2**20):
            yield Document.from_json(line)


def size(document: Document) -> int:
    """Bytes of its text in UTF-8, prompt included."""
    return len(document.whole.encode())


def digest(text: str) -> bytes:
    return hashlib.blake2b(text.encode(), digest_size=16).digest()
