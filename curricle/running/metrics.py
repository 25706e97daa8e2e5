"""A run's `metrics.jsonl`: its whole lines, what was scored on the way, and whether the run ended by diverging."""

from __future__ import annotations

import json
import math
from contextlib import suppress
from itertools import takewhile
from pathlib import Path
from typing import Any

from curricle.store import whole_file

FILE = "metrics.jsonl"


def lines(run: Path) -> list[str]:
    """The file's lines, up to the first that a kill, a full disk or a power cut left damaged: what lies behind that one
    does not count, since training that goes on cuts the file there."""
    if not (run / FILE).exists():
        return []
    with open(run / FILE, encoding="utf-8", errors="replace") as found:
        return list(takewhile(_whole, found))


def _whole(line: str) -> bool:
    with suppress(ValueError):
        return line.endswith("\n") and isinstance(json.loads(line), dict)
    return False


def reach(content: bytes) -> tuple[int, int]:
    """How far a metrics file goes: its last step, and how often it was scored. Of two sessions' files the one that
    reaches further is a continuation of the other; saves do not count, which each session makes when it likes. What
    lies behind a damaged line does not count: training goes on before it."""
    step, scored = 0, 0
    for line in content.split(b"\n")[:-1]:
        try:
            found = json.loads(line)
            step = max(step, found["step"])
        except (ValueError, TypeError, KeyError):
            break
        scored += "evaluation" in found
    return step, scored


def divergence(content: bytes) -> str | None:
    """What the last whole line of a metrics file says of a run that stopped because it learnt no more; None for any
    other. A run that goes on after it writes that line again."""
    last = content.rpartition(b"\n")[0].rpartition(b"\n")[2]
    with suppress(ValueError, AttributeError):
        return json.loads(last).get("diverged")
    return None


def diverged(run: Path) -> str | None:
    return divergence((run / FILE).read_bytes()) if (run / FILE).exists() else None


def forget_divergence(run: Path) -> None:
    """Make a run that has diverged one that was merely left. As many lines stay, so that of two copies of the file
    neither counts as the longer. Only call it while holding the run's lock."""
    *before, last = lines(run)
    kept = {name: value for name, value in json.loads(last).items() if name != "diverged"}
    with whole_file(run / FILE, "w") as file:
        file.writelines([*before, json.dumps(kept) + "\n"])


def evaluations(run: Path) -> list[dict[str, Any]]:
    """The lines of held-out scores, in the order in which they were written."""
    return [json.loads(line) for line in lines(run) if '"evaluation": {' in line]


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
