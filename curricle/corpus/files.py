"""Documents in files: JSON lines (plain, .gz, .zst), Parquet, or one plain text a file.

Files are read as streams, in the order of the study's list, globs in the order of names. What comes from elsewhere is
data: a decompressed line is bounded, so an archive that unpacks to more than memory is a bad line and not the end of
the machine. Bad lines are counted, the first shown with file and line, and past a share the source is refused. Ids
and groups use names relative to the folder that the files share, so a moved corpus is the same corpus.
"""

from __future__ import annotations

import glob
import gzip
import io
import json
import os
import zlib
from collections.abc import Iterator
from itertools import chain, islice
from pathlib import Path
from typing import Any

from curricle.corpus.conversations import Turn, read_messages
from curricle.corpus.documents import Document, Resolve, Tally, first_field, host_of
from curricle.study import Files, Hub, Refused, nearest

MAX_LINE = 64 * 2**20  # bytes of a decompressed line, and of a plain text file
LOOKED_AT = 5  # first rows of a file, in which the named fields must occur
TEXTS = (".txt", ".md")
LICENCE = ("licence", "license")  # fields that say under which licence a row came
LINES = (".jsonl", ".ndjson", ".json")
KNOWN = (*LINES, *(f"{end}{packed}" for end in LINES for packed in (".gz", ".zst")), ".parquet", *TEXTS)

Row = tuple[str, dict[str, Any]]
"""Where a row stands (a line or row number, from 1) and its fields."""


def find_files(source: Files, name: str, resolve: Resolve) -> dict[str, Path]:
    """The source's files by their relative names. Raises `Refused` for a file or glob that finds nothing."""
    field = f"sources.{name}.files"
    found: dict[Path, None] = {}
    for pattern in source.files:
        path = resolve(pattern)
        if glob.has_magic(str(path)):
            matched = sorted(Path(p) for p in glob.glob(str(path), recursive=True) if os.path.isfile(p))
            if not matched:
                raise Refused(f"{field}: {pattern!r} matches no file (looked for {path})")
        elif path.is_file():
            matched = [path]
        elif path.is_dir():
            raise Refused(
                f"{field}: {pattern!r} is a folder; name its files, for example {pattern.rstrip('/')}/*.jsonl"
            )
        else:
            beside = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
            hint = nearest(path.name, beside[:200]) if beside else f"there is no folder {path.parent}"
            raise Refused(f"{field}: {pattern!r}: no such file ({path}); {hint}")
        found |= dict.fromkeys(file.absolute() for file in matched)
    for file in found:
        if not file.name.endswith(KNOWN):
            raise Refused(f"{field}: {file.name}: unknown kind of file; known endings: {', '.join(KNOWN)}")
    shared = os.path.commonpath([file.parent for file in found])
    return {file.relative_to(shared).as_posix(): file for file in found}


def file_documents(source: Files, name: str, resolve: Resolve, tally: Tally | None = None) -> Iterator[Document]:
    """The source's documents; `tally` counts what could not be read."""
    tally = tally or Tally(f"sources.{name}.files", source.max_bad_share)
    for relative, file in find_files(source, name, resolve).items():
        if file.name.endswith(TEXTS):
            yield from _plain_text(file, relative, name, tally)
            continue
        rows = _parquet(file, source) if file.name.endswith(".parquet") else _json_lines(file, relative, tally)
        for place, row in checked(rows, source, name, relative):
            document = to_document(row, source, name, f"{relative}:{place}", relative)
            if isinstance(document, str):
                tally.add_bad(f"{relative}:{place}", document)
            else:
                tally.good()
                yield document
    tally.check()


def checked(rows: Iterator[Row], source: Files | Hub, name: str, where: str) -> Iterator[Row]:
    """The rows as they came, once the named fields were seen among the first ones."""
    first = list(islice(rows, LOOKED_AT))
    fields = dict.fromkeys(field for _, row in first for field in row)
    for option in ("messages" if source.messages else "text", "prompt", "group"):
        wanted = getattr(source, option)
        if first and wanted is not None and wanted not in fields:
            hint = nearest(wanted, fields)
            there = "" if hint.startswith("known") else f" (fields there: {', '.join(fields)})"
            raise Refused(f"sources.{name}.{option}: no field {wanted!r} in the first rows of {where}; {hint}{there}")
    return chain(first, rows)


def to_document(row: dict[str, Any], source: Files | Hub, name: str, id: str, origin: str) -> Document | str:
    """A row as a document, or what is wrong with it. `origin` is the group where the row names none."""
    said = _pair(row, source) if source.messages is None else read_messages(row.get(source.messages), source.messages)
    if isinstance(said, str):
        return said
    *before, (_, text) = said
    if source.group:
        group = first_field(row, [source.group])
    else:
        group = first_field(row, ["repo", "host", "package"]) or host_of(row.get("url"))
    url = row["url"] if isinstance(row.get("url"), str) else None
    licence = next((v for field in LICENCE if isinstance(v := row.get(field), str) and v.strip()), "")
    try:
        "".join((*(content for _, content in said), group, url or "", licence)).encode()
    except UnicodeEncodeError:  # JSON can spell half of a surrogate pair, which no file can hold
        return "holds half of a surrogate pair, which is no text"
    meta = {"licence": licence} if licence else {}
    template = source.template if source.conversation and source.template != "none" else ""
    if source.messages is not None:
        turns = tuple(before)
        return Document(id, text, name, url=url, group=group or origin, meta=meta, turns=turns, template=template)
    prompt = before[0][1] if before else ""
    return Document(id, text, name, prompt, url, group or origin, meta, template=template)


def _pair(row: dict[str, Any], source: Files | Hub) -> tuple[Turn, ...] | str:
    """The text of a row, after its prompt where the source names one."""
    text = row.get(source.text)
    if not isinstance(text, str):
        return f"field {source.text!r} is {'missing' if text is None else 'a ' + type(text).__name__}, not text"
    if not text.strip():
        return f"field {source.text!r} is empty"
    prompt = row.get(source.prompt) if source.prompt else ""
    if not isinstance(prompt, str):
        return f"field {source.prompt!r} is {'missing' if prompt is None else 'a ' + type(prompt).__name__}, not text"
    if source.prompt and source.template != "none" and not prompt.strip():
        return f"field {source.prompt!r} is empty"
    return (("user", prompt), ("assistant", text))


def _json_lines(file: Path, relative: str, tally: Tally) -> Iterator[Row]:
    import zstandard

    number = 0
    try:
        with _opened(file) as stream:
            while line := stream.readline(MAX_LINE + 1):
                number += 1
                if len(line) > MAX_LINE:
                    while line and not line.endswith(b"\n"):
                        line = stream.readline(2**20)
                    tally.add_bad(f"{relative}:{number}", f"a line of more than {MAX_LINE // 2**20} MB")
                elif line.strip():
                    row = _parsed(line)
                    if isinstance(row, dict):
                        yield str(number), row
                    else:
                        tally.add_bad(f"{relative}:{number}", row)
        if file.suffix == ".zst" and not ends_whole(file):
            raise EOFError("the archive ends inside a frame")
    except (EOFError, gzip.BadGzipFile, zlib.error, zstandard.ZstdError) as error:
        # What was read before is good, but an archive that ends early is rarely what its owner meant.
        raise Refused(f"{tally.field_name}: {relative}: damaged after line {number:,}: {error}") from None


def ends_whole(file: Path) -> bool:
    """Whether a .zst file ends where a frame does: its reader takes a file that was cut off for one that is over."""
    import zstandard

    unpacker = None
    with file.open("rb") as stream:
        while packed := stream.read(2**12):
            while packed:
                unpacker = unpacker or zstandard.ZstdDecompressor().decompressobj()
                unpacker.decompress(packed)
                packed = unpacker.unused_data if unpacker.eof else b""
                unpacker = None if unpacker.eof else unpacker
    return unpacker is None


def _parsed(line: bytes) -> dict[str, Any] | str:
    try:
        row = json.loads(line)
    except UnicodeDecodeError:
        return "not UTF-8"
    except (ValueError, RecursionError) as error:
        return f"not JSON: {error}"
    return row if isinstance(row, dict) else f"a JSON {type(row).__name__}, not an object with fields"


def _opened(file: Path) -> io.BufferedIOBase:
    if file.suffix == ".gz":
        return gzip.GzipFile(file, "rb")
    if file.suffix == ".zst":
        import zstandard

        unpacker = zstandard.ZstdDecompressor().stream_reader(file.open("rb"), read_across_frames=True, closefd=True)
        return io.BufferedReader(unpacker, 2**20)
    return file.open("rb")


def _parquet(file: Path, source: Files) -> Iterator[Row]:
    import pyarrow
    import pyarrow.parquet

    try:
        table = pyarrow.parquet.ParquetFile(file)
        wanted = {source.text, source.prompt, source.messages, source.group, "repo", "host", "package", "url", *LICENCE}
        needed = source.messages or source.text
        columns = [column for column in table.schema_arrow.names if column in wanted]
        number = 0
        # Without the columns that are needed, the first rows are read whole: `checked` then says what there is.
        for batch in table.iter_batches(batch_size=256, columns=columns if needed in columns else None):
            for row in batch.to_pylist():
                number += 1
                yield str(number), row
    except (pyarrow.ArrowException, OSError) as error:
        raise Refused(f"{file.name}: not readable as Parquet: {error}") from None


def _plain_text(file: Path, relative: str, name: str, tally: Tally) -> Iterator[Document]:
    with file.open("rb") as stream:
        content = stream.read(MAX_LINE + 1)
    try:
        text = content.decode()
    except UnicodeDecodeError as error:
        tally.add_bad(relative, f"not UTF-8 at byte {error.start:,}")
        return
    if len(content) > MAX_LINE:
        tally.add_bad(relative, f"more than {MAX_LINE // 2**20} MB in one text; cut it into documents")
    elif not text.strip():
        tally.add_bad(relative, "empty")
    else:
        tally.good()
        yield Document(relative, text, name, group=relative)
