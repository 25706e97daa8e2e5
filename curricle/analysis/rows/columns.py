"""Columns of a table as arrays, checked at the door: what an estimator asks of the rows that it is given.

Rows are plain mappings, so that a CSV, a data frame's records and our own outcomes are read alike: `typed` makes
numbers and truth values of what a CSV has as text, and every estimator of rows begins with it. Every refusal names the
column, the value and what is allowed, before anything is computed.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from curricle.study import Refused, nearest

Row = Mapping[str, Any]
DOSE = "dose:"  # and the source's name: a column of tokens
# What columns of outcomes and of steps hold, where they stand; other columns are names, and stay as they are.
NUMBERS = frozenset({
    "position", "stage_tokens", "tokens", "flops", "score", "items", "item_variance", "unique_tokens",
    "step", "batch_tokens", "loss_nats", "lr", "first_pass_tokens",
})  # fmt: skip
TRUTHS = frozenset({"final", "baseline"})
WORDS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}


def typed(rows: Iterable[Row], *numeric: str) -> list[Row]:
    """The rows with numbers and truth values where text says them, as `csv.DictReader` gives all cells: known columns,
    `dose:` columns and those named. An empty cell is None; seeds that are all whole numbers are read as such. Refuses
    text that says neither. Rows that have no text in such columns are handed on as they are."""
    found = list(rows)
    counted = all(str(row.get("seed", 0)).strip().isdecimal() for row in found)
    named = numeric if not counted else (*numeric, "seed")
    return [_typed(row, k, named) if any(map(_is_text, row.items())) else row for k, row in enumerate(found)]


def _is_text(cell: tuple[Any, Any]) -> bool:
    name, value = cell
    return isinstance(value, str) and name not in ("strategy", "stage", "benchmark", "measure", "kind", "run")


def _typed(row: Row, k: int, numeric: Sequence[str]) -> Row:
    made = dict(row)
    for name, value in row.items():
        if not isinstance(value, str):
            continue
        text, column = value.strip(), str(name)
        if column in TRUTHS:
            if text.lower() not in (*WORDS, ""):
                raise Refused(f"rows: {name} is {value!r} in row {k}; give True or False")
            made[name] = WORDS.get(text.lower())
        elif column == "order":
            made[name] = text or None
        elif column in NUMBERS or column in numeric or column.startswith(DOSE):
            made[name] = _number(text, column, k)
    return made


def _number(text: str, name: str, k: int) -> int | float | None:
    if not text:
        return None
    try:
        return int(text) if text.isdecimal() else float(text)
    except ValueError:
        raise Refused(f"rows: {name} is {text!r} in row {k}; give a number") from None


def known(rows: Sequence[Row], *names: str, filled: bool = False, table: str = "rows") -> None:
    """Refuses rows that lack one of these columns or, where they are to be `filled`, have nothing in it."""
    if not rows:
        raise Refused(f"{table}: there are none; give at least one")
    for name in names:
        for k, row in enumerate(rows):
            if name not in row:
                raise Refused(f"{table}: no column {name!r} in row {k}; {nearest(name, [str(key) for key in row])}")
            if filled and row[name] is None:
                raise Refused(f"{table}: {name} is empty in row {k}; give a value, or leave the row out")


def numbers(rows: Sequence[Row], name: str, least: float = -math.inf, above: float = -math.inf) -> np.ndarray:
    """One column as floats: finite, at least `least`, more than `above`. Numbers written as text (a CSV) are read."""
    known(rows, name)
    values = np.empty(len(rows))
    for k, row in enumerate(rows):
        try:
            values[k] = math.nan if row[name] is None else float(row[name])
        except (TypeError, ValueError):
            raise Refused(f"rows: {name} is {row[name]!r} in row {k}; give a number") from None
        if not math.isfinite(values[k]):
            raise Refused(f"rows: {name} is {row[name]!r} in row {k}; give a finite number, or leave the row out")
        if values[k] < least or values[k] <= above:
            allowed = f"more than {above:g}" if values[k] <= above else f"{least:g} or more"
            raise Refused(f"rows: {name} is {row[name]!r} in row {k}; give {allowed}")
    return values


def groups(rows: Sequence[Row], *names: str) -> dict[tuple[Hashable, ...], list[Row]]:
    """Rows by the values of these columns, in the order in which each is met; a column that a row lacks counts as
    None."""
    found: dict[tuple[Hashable, ...], list[Row]] = {}
    for row in rows:
        found.setdefault(tuple(row.get(name) for name in names), []).append(row)
    return found


def chosen(rows: Sequence[Row], **wanted: Hashable) -> list[Row]:
    """The rows that have these values (a wanted None asks nothing). Refuses a value that no row has."""
    kept = list(rows)
    for name, value in wanted.items():
        if value is None:
            continue
        known(rows, name)
        kept = [row for row in kept if row[name] == value]
        if not kept:
            there = list(dict.fromkeys(str(row[name]) for row in rows))
            raise Refused(f"{name}: {value!r} has no rows; {nearest(str(value), there)}")
    return kept


def one_of(field: str, wanted: str | None, values: Iterable[object]) -> str:
    """The value that is wanted, or the only one that there is; refuses one that is not there, and none of several."""
    there = list(dict.fromkeys(map(str, values)))
    if wanted is None and len(there) != 1:
        raise Refused(f"{field}: the rows hold {', '.join(map(repr, there)) or 'none'}; name one")
    if wanted is not None and wanted not in there:
        raise Refused(f"{field}: {wanted!r} has no rows; {nearest(wanted, there)}")
    return there[0] if wanted is None else wanted


def the_one(rows: Sequence[Row], name: str) -> Any:
    """The value that all rows share in this column (None without the column); refuses several."""
    values = list(dict.fromkeys(row.get(name) for row in rows))
    if len(values) > 1:
        raise Refused(f"rows: several values of {name}: {', '.join(map(repr, values))}; choose one")
    return values[0] if values else None


def items(rows: Sequence[Row]) -> int:
    """How many problems or documents the scores are means of (column `items`); 0 where that is not said."""
    found = {row.get("items") for row in rows}
    return int(max(float(n) for n in found)) if found and all(n not in (None, "") for n in found) else 0  # type: ignore[arg-type]
