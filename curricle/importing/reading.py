"""Files from elsewhere, read as data: bounded, never executed, and a fault named by file, column and value.

Parquet and CSV come as tables of plain columns, JSON and JSON lines as mappings. What is larger than the bounds,
nested, not UTF-8 or not what it says is refused before it fills the memory.
"""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from curricle.study import Refused

MOST_BYTES = 8 * 2**30  # of a table's file, and of what a Parquet file says it unpacks to
MOST_JSON_BYTES = 256 * 2**20
MOST_LINE_BYTES = 16 * 2**20  # of JSON lines: one sample with its prompt and outputs
MOST_ROWS = 50_000_000
MOST_COLUMNS = 5_000
NOT_A_NUMBER = ["NaN", "nan"]
EMPTY = ["", "null", "None", "NA", "N/A"]
NULLS = [*EMPTY, *NOT_A_NUMBER]
MEASURED = ("nats", "target_tokens", "bytes", "correct")  # of an item; what came out as no number was not left out
KINDS = {pa.string(): "text", pa.int64(): "a whole number", pa.float64(): "a number", pa.bool_(): "true or false"}


def sized(path: Path, most: int) -> Path:
    """A plain file within its bound."""
    if not path.is_file():
        raise Refused(f"{path}: no such file" if not path.exists() else f"{path}: not a plain file")
    if path.stat().st_size > most:
        raise Refused(f"{path}: {path.stat().st_size:,} bytes; at most {most:,} are read")
    return path


def json_of(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(sized(path, MOST_JSON_BYTES).read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise Refused(f"{path}: not readable as JSON: {error}") from None
    if not isinstance(found, dict):
        raise Refused(f"{path}: holds {type(found).__name__}, not one JSON object")
    return found


def json_lines(path: Path) -> Iterator[dict[str, Any]]:
    """The objects of a file of JSON lines, one at a time."""
    with open(sized(path, MOST_BYTES), "rb") as file:
        number = 0
        while line := file.readline(MOST_LINE_BYTES + 1):
            number += 1
            if len(line) > MOST_LINE_BYTES:
                raise Refused(f"{path}, line {number:,}: longer than {MOST_LINE_BYTES:,} bytes")
            if not line.strip():
                continue
            try:
                found = json.loads(line.decode("utf-8"))
            except (ValueError, RecursionError) as error:
                raise Refused(f"{path}, line {number:,}: not readable as JSON: {error}") from None
            if not isinstance(found, dict):
                raise Refused(f"{path}, line {number:,}: holds {type(found).__name__}, not an object")
            yield found


def csv_rows(path: Path) -> Iterator[dict[str, Any]]:
    """The rows of a CSV as text, an empty cell as None."""
    try:
        with open(sized(path, MOST_BYTES), encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            names = header(path, list(reader.fieldnames or []))
            for row in reader:
                if row.pop(None, None):
                    raise Refused(f"{path}, line {reader.line_num:,}: more cells than the {len(names)} columns")
                yield {name: None if value is None or value in NULLS else value for name, value in row.items()}
    except (UnicodeDecodeError, csv.Error) as error:
        raise Refused(f"{path}: not readable as CSV: {error}") from None


def header(path: Path, names: list[str]) -> list[str]:
    if not names:
        raise Refused(f"{path}: empty")
    if len(names) > MOST_COLUMNS:
        raise Refused(f"{path}: {len(names):,} columns; at most {MOST_COLUMNS:,} are read")
    twice = sorted({name for name in names if names.count(name) > 1}) if len(set(names)) < len(names) else []
    if twice:
        raise Refused(f"{path}: column {twice[0]!r} stands twice")
    return names


def columns_of(path: Path) -> list[str]:
    """The names of a table's columns, without reading it."""
    if path.suffix == ".parquet":
        return header(path, _parquet(path).schema_arrow.names)
    try:
        with open(sized(path, MOST_BYTES), encoding="utf-8-sig", newline="") as file:
            return header(path, next(csv.reader(file), []))
    except (UnicodeDecodeError, csv.Error) as error:
        raise Refused(f"{path}: not readable as CSV: {error}") from None


def _parquet(path: Path) -> Any:
    import pyarrow.parquet as pq

    try:
        return pq.ParquetFile(sized(path, MOST_BYTES))
    except (pa.ArrowException, OSError) as error:
        raise Refused(f"{path}: not readable as Parquet: {error}") from None


def table_of(path: Path, wanted: pa.Schema, needed: Sequence[str] = ()) -> pa.Table:
    """The columns of `wanted` that the file has, in their types; others are not read. A gap in a column that is
    `needed`, and NaN for what was measured, are refused with their place in the file."""
    names = [name for name in columns_of(path) if name in wanted.names]
    try:
        if path.suffix == ".parquet":
            file = _parquet(path)
            groups = [file.metadata.row_group(i) for i in range(file.metadata.num_row_groups)]
            if file.metadata.num_rows > MOST_ROWS or sum(g.total_byte_size for g in groups) > MOST_BYTES:
                raise Refused(f"{path}: {file.metadata.num_rows:,} rows unpack to more than is read")
            table = file.read(columns=names)
        else:
            from pyarrow import csv as arrow_csv

            table = arrow_csv.read_csv(
                path,
                read_options=arrow_csv.ReadOptions(use_threads=False),
                parse_options=arrow_csv.ParseOptions(newlines_in_values=True),
                convert_options=arrow_csv.ConvertOptions(
                    include_columns=names, column_types=dict.fromkeys(names, pa.string()),
                    null_values=EMPTY, strings_can_be_null=True, quoted_strings_can_be_null=False,
                ),
            )  # fmt: skip
    except (pa.ArrowException, OSError) as error:
        raise Refused(f"{path}: not readable: {str(error).splitlines()[0]}") from None
    if table.num_rows > MOST_ROWS:
        raise Refused(f"{path}: {table.num_rows:,} rows; at most {MOST_ROWS:,} are read")
    fields = [wanted.field(name) for name in names]
    arrays = [converted(table.column(f.name), f.type, f"{path}: column {f.name}") for f in fields]
    for field, array, given in zip(fields, arrays, (table.column(name) for name in names)):
        if field.name in needed and array.null_count:
            gaps = array.is_null()
        elif field.name in MEASURED:
            gaps = _not_a_number(given)
        else:
            continue
        if pc.any(gaps).as_py():
            row = gaps.to_pylist().index(True)
            where, value = _given(path, field.name, row, given)
            if value is None or field.type == pa.string():
                raise Refused(f"{where}: column {field.name!r} is empty")
            raise Refused(f"{where}: column {field.name!r} is {value}, not a finite number")
    return pa.table(arrays, schema=pa.schema(fields))


def _given(path: Path, name: str, row: int, column: pa.ChunkedArray) -> tuple[str, Any]:
    """Where a row stands in its file, and what the file says there; None for nothing."""
    if path.suffix == ".parquet":
        return f"{path}, row {row + 1:,}", column[row].as_py()
    with open(path, encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file)
        cells = next(islice(reader, row, None))
        return f"{path}, line {reader.line_num:,}", cells[name] or None


def converted(column: pa.ChunkedArray, kind: pa.DataType, where: str) -> pa.ChunkedArray:
    """The column in that type. NaN is missing; an infinite number, a fraction of a token and `maybe` are refused."""
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if pa.types.is_nested(column.type) or pa.types.is_binary(column.type):
        raise Refused(f"{where}: holds {column.type}, not {KINDS[kind]}")
    if kind == pa.string():
        made = column.cast(kind)
        return pc.if_else(pc.is_in(made, pa.array(NOT_A_NUMBER)), pa.scalar(None, kind), made)
    try:
        made = column.cast(kind if kind == pa.bool_() and pa.types.is_string(column.type) else pa.float64())
        if kind == pa.int64() and pa.types.is_integer(column.type):
            return column.cast(kind)  # past 2**53 a float would round
        if kind == pa.bool_() and made.type == kind:
            return made
        if pc.any(pc.is_inf(made)).as_py():
            raise pa.ArrowInvalid
        made = pc.if_else(pc.is_nan(made), pa.scalar(None, pa.float64()), made)
        if kind == pa.bool_() and not pc.all(pc.is_in(made, pa.array([0.0, 1.0, None]))).as_py():
            raise pa.ArrowInvalid
        return made.cast(kind)
    except pa.ArrowException:
        row, value = next((i, v) for i, v in enumerate(column.to_pylist()) if not _is(v, kind))
        raise Refused(f"{where}: {value!r} in row {row + 1:,} is not {KINDS[kind]}") from None


def _not_a_number(column: pa.ChunkedArray) -> pa.ChunkedArray:
    if pa.types.is_floating(column.type):
        return pc.fill_null(pc.is_nan(column), False)
    return pc.is_in(column, pa.array(NOT_A_NUMBER if pa.types.is_string(column.type) else [], column.type))


def _is(value: Any, kind: pa.DataType) -> bool:
    if value is None:
        return True
    if kind == pa.bool_():
        return str(value).lower() in {"true", "false", "0", "1", "0.0", "1.0"}
    found = number(value)
    return found is not None and (kind == pa.float64() or found.is_integer())


def number(value: Any) -> float | None:
    """A finite number, also from text; None for anything else."""
    if isinstance(value, bool):
        return None
    try:
        found = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return found if math.isfinite(found) else None
