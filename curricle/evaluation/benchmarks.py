"""Benchmarks: problems, a prompt format, a way to read an answer, a grader.

`load` turns what a study names into a frozen value that holds everything asked of a model. The order of a file's
problems is shuffled once, by a hash of each item's id, so that the first N are the same random subset for everyone and
a smaller N asks a part of what a larger one does. Bad files are refused here, before anything expensive starts.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import re
import zlib
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import IO, Any

import yaml
import zstandard

from curricle import store
from curricle.corpus.files import ends_whole
from curricle.corpus.problems import ANSWER, PROMPT, known, problems
from curricle.evaluation.reading import Form, last_boxed
from curricle.study import FileBenchmark, GeneratedBenchmark, Refused

RULES = 2  # raised by hand when reading or grading changes, so that evaluations are known to be of another kind
LONGEST_LINE = 2**22  # bytes
MOST_ITEMS = 1_000_000
SOLUTION_WORDS = 20  # shorter solutions are too like each other to be looked for
STOP = ("\nProblem:",)  # a model that goes on to the next problem has ended this one


@dataclass(frozen=True, slots=True)
class Item:
    """One problem. `reference` is the reference solution as it would follow the prompt; `expected` its answer."""

    id: str
    question: str
    prompt: str
    reference: str
    expected: str


@dataclass(frozen=True, slots=True)
class Benchmark:
    """What is asked, and how answers are read. `exemplars` stand before each prompt, the first of them first."""

    name: str
    items: tuple[Item, ...]
    max_new_tokens: int
    exemplars: tuple[str, ...] = ()
    stop: tuple[str, ...] = STOP
    form: Form = "text"
    last_number: bool = False
    """Whether an output that states no answer is read as its last number."""
    answers: bool = True
    """Whether answers are asked for, or only the reference solutions scored."""
    whole: bool = False
    """Whether another text is a copy only if it holds the whole question: problems of one template share phrases."""

    def fingerprint(self) -> str:
        """Identity by content: the same questions, asked and read in the same way, whatever the name or the file."""
        content = {key: value for key, value in asdict(self).items() if key != "name"}
        return store.fingerprint({"rules": RULES, **content})


@dataclass(frozen=True, slots=True)
class Texts:
    """What decontamination looks for: the questions, and whether only a whole question counts as a copy; and the
    reference solutions that are long enough to be told from others, since their likelihood is scored."""

    questions: list[str]
    whole: bool
    solutions: list[str]


def texts(benchmark: Benchmark) -> Texts:
    # Worked solutions of generated problems share their steps with each other; there the problem decides.
    found = [] if benchmark.whole else [item.reference for item in benchmark.items]
    solutions = [text for text in found if len(text.split()) >= SOLUTION_WORDS]
    return Texts([item.question for item in benchmark.items], benchmark.whole, solutions)


def load(name: str, spec: GeneratedBenchmark | FileBenchmark, resolve: Callable[[str], Path] = Path) -> Benchmark:
    """The benchmark that a study calls `name`; `resolve` finds its file (`Study.resolve`).

    Raises `Refused` for a file that is missing, unreadable, of other fields, or smaller than what is asked of it.
    """
    if isinstance(spec, GeneratedBenchmark):
        return _generated(name, spec)
    return _from_file(name, spec, resolve(spec.file))


def _generated(name: str, spec: GeneratedBenchmark) -> Benchmark:
    """The first held-out problems of seed 0: the same for every seed of a study, so that runs are paired."""
    known(spec.generated, f"benchmarks.{name}.generated")
    held_out = islice(problems(spec.generated, seed=0, held_out=True), spec.problems)
    items = tuple(Item(p.id, p.question, p.prompt, p.solution, p.answer) for p in held_out)
    if len(items) < spec.problems:
        raise Refused(
            f"benchmarks.{name}.problems: {', '.join(spec.generated)} hold out only {len(items):,} different problems; "
            f"ask for that many or fewer, not {spec.problems:,}"
        )
    return Benchmark(name, items, spec.max_new_tokens, whole=True)


# ---- files --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Format:
    """How a published file's fields become an item."""

    fields: tuple[str, ...]
    solve: Callable[[dict[str, Any]], tuple[str, str] | None]
    """A row → the reference as it follows a prompt, and its answer; None where the row states no answer."""
    last_number: bool = False


CALCULATOR = re.compile(r"<<[^<>]*>>")


def _gsm8k(row: dict[str, Any]) -> tuple[str, str] | None:
    steps, mark, answer = CALCULATOR.sub("", row["answer"]).partition("####")
    answer = answer.strip()
    return (f"{steps.rstrip()}\n{ANSWER}{answer}\n", answer) if mark and answer else None


def _math(row: dict[str, Any]) -> tuple[str, str] | None:
    answer = last_boxed(row["solution"])
    return (f"{row['solution'].strip()}\n", answer) if answer else None


FORMATS = {
    "gsm8k": _Format(("question", "answer"), _gsm8k, last_number=True),
    "math": _Format(("problem", "solution"), _math),
}


def _from_file(name: str, spec: FileBenchmark, file: Path) -> Benchmark:
    where = f"benchmarks.{name}.file"
    rule = FORMATS[spec.format]
    items: dict[str, Item] = {}
    for number, row in _rows(file, where):
        absent = [field for field in rule.fields if not isinstance(row.get(field), str)]
        if absent:
            raise Refused(
                f"{where}: {file}, line {number}: the format {spec.format} reads the text fields "
                f"{' and '.join(rule.fields)}; {absent[0]!r} is not there; found: {', '.join(sorted(row)) or 'none'}"
            )
        question = row[rule.fields[0]].strip()
        solved = rule.solve(row)
        if solved is None:
            mark = "a final `#### ANSWER`" if spec.format == "gsm8k" else "a \\boxed{ANSWER}"
            raise Refused(f"{where}: {file}, line {number}: {rule.fields[1]} holds no answer; it should have {mark}")
        # By content, not by line: the same problem has the same id in a shuffled or shortened copy of the file.
        item_id = f"{spec.format}/{hashlib.sha256(question.encode()).hexdigest()[:12]}"
        items.setdefault(item_id, Item(item_id, question, PROMPT.format(question=question), *solved))
    wanted = spec.problems or len(items)
    if not items or wanted > len(items):
        raise Refused(f"{where}: {file} holds {len(items):,} problems; {wanted or 'at least one'} are asked for")
    order = sorted(items.values(), key=lambda item: hashlib.sha256(item.id.encode()).digest())
    exemplars = tuple(
        PROMPT.format(question=shot["question"]) + shot["solution"] + "\n\n"
        for shot in _exemplars()[spec.format][: spec.shots]
    )
    asked = tuple(order[:wanted])
    return Benchmark(name, asked, spec.max_new_tokens, exemplars, last_number=rule.last_number, answers=spec.answers)


def _exemplars() -> dict[str, list[dict[str, str]]]:
    return yaml.safe_load(Path(__file__).with_name("exemplars.yaml").read_text(encoding="utf-8"))


def _rows(file: Path, where: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """The objects of a JSON-lines file (plain, .gz or .zst) with their line numbers, read with bounds."""
    if not file.is_file():
        raise Refused(f"{where}: {file}: no such file; give the path of the benchmark's JSON-lines file")
    number = 0
    try:
        with _open(file) as lines:
            for number, line in enumerate(iter(lambda: lines.readline(LONGEST_LINE + 1), b""), start=1):
                if len(line) > LONGEST_LINE or number > MOST_ITEMS:
                    raise Refused(f"{where}: {file}, line {number}: larger than any benchmark; is it the right file?")
                if line.strip():
                    yield number, _object(line, f"{where}: {file}, line {number}")
        if file.suffix == ".zst" and not ends_whole(file):
            raise EOFError("the archive ends inside a frame")
    except (OSError, EOFError, zlib.error, zstandard.ZstdError) as error:
        raise Refused(f"{where}: {file}, after line {number}: not readable: {error}") from None


def _object(line: bytes, where: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
        json.dumps(row, ensure_ascii=False).encode()
    except UnicodeEncodeError:  # JSON can spell half of a surrogate pair, which no file can hold
        raise Refused(f"{where}: holds half of a surrogate pair, which is no text") from None
    except (ValueError, RecursionError) as error:
        raise Refused(f"{where}: not JSON: {error}") from None
    if not isinstance(row, dict):
        raise Refused(f"{where}: a {type(row).__name__}; each line is one JSON object")
    return row


def _open(file: Path) -> IO[bytes]:
    if file.suffix == ".gz":
        return io.BufferedReader(gzip.open(file, "rb"))
    if file.suffix == ".zst":
        return io.BufferedReader(zstandard.open(file, "rb"))
    return file.open("rb")
