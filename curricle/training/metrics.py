"""A run's `metrics.jsonl`: its whole lines, what was scored on the way, and whether the run ended by diverging."""

from __future__ import annotations

import json
import math
import os
from collections import deque
from collections.abc import Iterable, Iterator
from io import BytesIO
from itertools import takewhile
from pathlib import Path
from typing import Any, BinaryIO

from curricle.store import whole_file

FILE = "metrics.jsonl"
LAST_BYTES = 4096  # of a file: a few steps, or an evaluation of many sources


def whole_lines(file: Iterable[bytes]) -> Iterator[tuple[bytes, dict[str, Any]]]:
    """Lines, and what they say, up to the first that a kill, a full disk or a power cut left damaged: what lies behind
    that one does not count, since training that goes on cuts the file there."""
    for line in file:
        try:
            said = json.loads(line)
            whole = line.endswith(b"\n") and isinstance(said["step"], int)
        except (ValueError, TypeError, KeyError):
            return
        if not whole:
            return
        yield line, said


def lines_until(file: Path, step: float = math.inf) -> Iterator[tuple[bytes, dict[str, Any]]]:
    """The whole lines of a metrics file up to that step."""
    with open(file, "rb") as found:
        yield from takewhile(lambda line: line[1]["step"] <= step, whole_lines(found))


def read(run: Path) -> list[dict[str, Any]]:
    """What the whole lines of a run's metrics say; nothing where it has none yet."""
    return [said for _, said in lines_until(run / FILE)] if (run / FILE).exists() else []


def tokens(run: Path) -> int:
    """How many tokens a run has been trained on."""
    return max((line.get("tokens", 0) for line in read(run)), default=0)


def reach(content: bytes) -> tuple[int, int]:
    """How far a metrics file goes: its last step, and how often it was scored. Of two sessions' files the one that
    reaches further is a continuation of the other; saves do not count, which each session makes when it likes."""
    said = [said for _, said in whole_lines(BytesIO(content))]
    return max((line["step"] for line in said), default=0), sum("evaluation" in line for line in said)


def divergence(file: BinaryIO) -> str | None:
    """What the last whole line of a metrics file says of a run that stopped because it learnt no more; None for any
    other. A run that goes on after it writes that line again."""
    if b'"diverged"' not in _last_ended(file):
        return None  # nearly always: the lines before it are not read
    file.seek(0)  # but it does not count behind a damaged one
    last = deque(whole_lines(file), maxlen=1)
    return last[0][1].get("diverged") if last else None


def _last_ended(file: BinaryIO) -> bytes:
    """The last line that has its end, whole or not, of a file that may have millions before it."""
    size, end = LAST_BYTES, file.seek(0, os.SEEK_END)
    while True:
        file.seek(max(0, end - size))
        read = file.read(min(size, end))
        if read.count(b"\n") > 1 or size >= end:
            return read.rpartition(b"\n")[0].rpartition(b"\n")[2]
        size *= 2


def diverged(run: Path) -> str | None:
    if not (run / FILE).exists():
        return None
    with open(run / FILE, "rb") as file:
        return divergence(file)


def forget_divergence(run: Path) -> None:
    """Make a run that has diverged one that was merely left. As many lines stay, so that of two copies of the file
    neither counts as the longer. Only call it while holding the run's lock."""
    *before, (_, last) = lines_until(run / FILE)
    kept = {name: value for name, value in last.items() if name != "diverged"}
    with whole_file(run / FILE) as file:
        file.writelines([*(line for line, _ in before), json.dumps(kept).encode() + b"\n"])


def evaluations(run: Path) -> list[dict[str, Any]]:
    """The lines of held-out scores, in the order in which they were written."""
    return [line for line in read(run) if "evaluation" in line]


def held_out(
    run: Path, parent: Path | None = None, branch_step: int | None = None
) -> tuple[dict[str, float], dict[str, float]]:
    """Bits per byte of each source's held-out text by the last line of scores, and by how much they changed since the
    run began: since its parent's end or the step it branched at, or else since its own first scores. A source whose
    text is another now, or was not scored then, has no change."""
    scores = evaluations(run)
    if not scores:  # the file is damaged before them
        return {}, {}
    *own, now = scores
    before = {m["step"]: m for m in own if m["step"] < now["step"]}  # of two for one step the later counts
    began = before[min(before)] if before else None
    if parent is not None:
        ends = {m["step"]: m for m in evaluations(parent) if branch_step in (None, m["step"])}
        began = ends[max(ends)] if ends else began
    then = {
        source: _bits_per_byte(scored)
        for source, scored in (began["evaluation"] if began else {}).items()
        if source in now["evaluation"] and now["evaluation"][source]["bytes"] == scored["bytes"]
    }
    bits = {source: _bits_per_byte(scored) for source, scored in now["evaluation"].items()}
    return bits, {source: bits[source] - was for source, was in then.items()}


def _bits_per_byte(scored: dict[str, float]) -> float:
    return scored["nats"] / math.log(2) / scored["bytes"] if scored["bytes"] else math.nan
