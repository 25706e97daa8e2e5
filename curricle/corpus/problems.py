"""Mathematics problems without end, from reasoning-gym's seeded generators, with worked solutions of our own.

Problem number n of a seed is a pure function of (generators, seed, n's chunk), so a stream can be entered at any chunk
and grows without changing its beginning. Held-out and training problems are disjoint for every seed by construction:
a problem is held out exactly when the hash of its mathematics, without the words around it, falls in a fixed share.
The text form that training and prompts use is defined here once: `PROMPT`, then the steps, then the line `Answer: …`.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from curricle.corpus.documents import Document
from curricle.corpus.families import FAMILIES, draw_entry
from curricle.corpus.steps import STEPS_VERSION
from curricle.study import Generated, Refused, nearest

PROMPT = "Problem: {question}\nSolution:\n"
ANSWER = "Answer: "
HELD_OUT_ONE_IN = 20  # 5 % of all problems are never trained on
CHUNK = 200  # problems in a chunk of a stream
PATIENCE = 5_000  # draws without a new held-out problem after which a generator counts as exhausted


@dataclass(frozen=True, slots=True)
class Problem:
    """`solution` holds the steps and ends in the answer line. `id` is the generator and the problem's hash."""

    id: str
    question: str
    solution: str
    answer: str
    generator: str

    @property
    def prompt(self) -> str:
        return PROMPT.format(question=self.question)


def known(generators: Sequence[str], field: str = "generated") -> None:
    """Raise `Refused` for a generator that is not known here, naming the field and the nearest one."""
    for name in generators:
        if name not in FAMILIES:
            raise Refused(f"{field}: unknown generator {name!r}; {nearest(name, FAMILIES)}")


def versions() -> dict[str, str]:
    """What the text of a problem depends on beside its seed."""
    return {"reasoning-gym": importlib.metadata.version("reasoning-gym"), "steps": str(STEPS_VERSION)}


def identity(generators: Sequence[str]) -> dict[str, Any]:
    """All that decides the text of the generators' problems, beside the seed: versions, words, settings."""
    drawn = {name: [FAMILIES[name].words, FAMILIES[name].settings] for name in generators}
    return {
        "generators": list(generators),
        "drawn": drawn,
        "text": PROMPT + ANSWER,
        "chunk": CHUNK,
        "held_out": HELD_OUT_ONE_IN,
        **versions(),
    }


def is_held_out(mathematics: str) -> bool:
    """The split: a property of the mathematics alone, whatever seed or generator it came from."""
    return _hash(" ".join(mathematics.lower().split())) % HELD_OUT_ONE_IN == 0


def problems(
    generators: Sequence[str], *, seed: int, held_out: bool, worked: bool = True, start: int = 0
) -> Iterator[Problem]:
    """Problems of the generators in turn, from chunk `start` on.

    Training problems never end and may recur. Held-out problems do not recur, so they end where the generators are
    exhausted (a small family holds only so many).
    """
    known(generators)
    if not held_out:
        chunk_number = start
        while True:
            yield from _training_chunk(generators, seed, chunk_number, worked)
            chunk_number += 1
    seen: set[str] = set()
    streams = {name: _new_held_out(name, seed, start, worked, seen) for name in generators}
    while streams:
        for name in list(streams):
            problem = next(streams[name], None)
            if problem is None:
                del streams[name]
            else:
                yield problem


def _new_held_out(generator: str, seed: int, start: int, worked: bool, seen: set[str]) -> Iterator[Problem]:
    number, last_new = 0, 0
    while number - last_new < PATIENCE:
        problem = _draw(generator, f"held out {seed} {start} {number}", worked, held_out=True)
        number += 1
        if problem is not None and problem.id not in seen:
            seen.add(problem.id)
            last_new = number
            yield problem


def _training_chunk(generators: Sequence[str], seed: int, number: int, worked: bool) -> Iterator[Problem]:
    draws = dict.fromkeys(generators, 0)
    for place in range(number * CHUNK, (number + 1) * CHUNK):
        name = generators[place % len(generators)]
        problem = None
        while problem is None:
            problem = _draw(name, f"training {seed} {number} {draws[name]}", worked, held_out=False)
            draws[name] += 1
        yield problem


def _draw(generator: str, key: str, worked: bool, *, held_out: bool) -> Problem | None:
    """The generator's problem for a key; None where it lies on the other side of the split, or has no local steps."""
    family = FAMILIES[generator]
    # The library seeds a problem with seed + index, so that neighbouring seeds would share all but one problem: every
    # draw has a 64-bit seed of its own.
    entry = draw_entry(generator, _hash(f"{generator} {key}"))
    written = family.write(entry)
    if written is None or is_held_out(written[0]) != held_out:
        return None
    mathematics, lines = written
    answer = str(entry["answer"])
    return Problem(
        id=f"{generator}/{_hash(mathematics):016x}",
        question=f"{family.words} {mathematics}".strip(),
        solution="".join(f"{line}\n" for line in [*(lines if worked else []), ANSWER + answer]),
        answer=answer,
        generator=generator,
    )


def chunk(
    generators: Sequence[str], seed: int, number: int, *, worked: bool = True, source: str = ""
) -> list[Document]:
    """Training documents number·CHUNK … of the endless stream."""
    known(generators)
    found = _training_chunk(generators, seed, number, worked)
    return [_document(problem, source, f"{seed}.{number}.{place}") for place, problem in enumerate(found)]


def generated_documents(source: Generated, name: str, seed: int, start_chunk: int = 0) -> Iterator[Document]:
    """The source's training documents without end, from a chunk on."""
    while True:
        yield from chunk(source.generated, seed, start_chunk, worked=source.worked, source=name)
        start_chunk += 1


def held_out_documents(source: Generated, name: str, seed: int = 0) -> Iterator[Document]:
    """The source's held-out problems as documents, each once."""
    for problem in problems(source.generated, seed=seed, held_out=True, worked=source.worked):
        yield _document(problem, name)


def _document(problem: Problem, source: str, place: str = "") -> Document:
    """A training problem is named by its place in the stream, since it may recur; a held-out one by its content."""
    name = f"{problem.generator}/{place}" if place else problem.id
    return Document(name, problem.solution, source, problem.prompt, group=problem.generator)


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest())
