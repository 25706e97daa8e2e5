"""What a study names as its supplies: sources of documents to train on, and benchmarks to be measured by.

Each kind is a frozen value of its own, told from the others by the one field that only it has (`files`, `hub`, …);
whatever has none of these fields, or two, is refused. They are only described here: the rooms of the corpus and of
evaluation read them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import pydantic
from pydantic import Discriminator, Field, Tag

from curricle.values import Count, Frozen, Names, Share

# ---- sources: a named supply of documents -----------------------------------------------------------------------


class Rows(Frozen):
    """How a row becomes a document: a text; a prompt with its answer; or a conversation of many turns."""

    text: str = "text"
    """The field that holds the text (beside `prompt`, the answer)."""
    prompt: str | None = None
    """The field that holds what the user asked; it carries no loss in an `instruct` stage."""
    messages: str | None = None
    """The field that holds a conversation: a list of {role, content}, roles system, user, assistant and tool. It stands
    instead of `text` and `prompt`; in an `instruct` stage the assistant's turns carry loss."""
    template: Literal["plain", "checkpoint", "none"] = "plain"
    """How conversations are laid out: `User: …`, `Assistant: …`, with any tokenizer; by the checkpoint's own chat
    template; or, of a prompt and its text, not at all: the two run together as they are."""
    group: str | None = None
    """The field whose value is never split between training and held-out text; the default is the first of `repo`,
    `host`, `package`, the host of `url`, and the file."""
    licence: str | None = None

    @property
    def conversation(self) -> bool:
        """Whether the rows hold answers to something."""
        return self.prompt is not None or self.messages is not None

    @pydantic.field_validator("messages")
    @classmethod
    def _instead_of_a_pair(cls, messages: str | None, known: pydantic.ValidationInfo) -> str | None:
        beside = [f"{name}: {value}" for name in ("text", "prompt") if (value := known.data.get(name)) not in _UNSAID]
        if messages is not None and beside:
            raise ValueError(f"a row is a conversation or a pair; give messages or {' and '.join(beside)}, not both")
        return messages

    @pydantic.field_validator("template")
    @classmethod
    def _lays_out_something(cls, template: str, known: pydantic.ValidationInfo) -> str:
        messages, prompt = known.data.get("messages"), known.data.get("prompt")
        if messages is None and prompt is None:
            raise ValueError(f"{template!r} has nothing to lay out; name the field of messages, or of the prompt")
        if template == "none" and messages is not None:
            raise ValueError("'none' leaves no mark between turns; messages need plain or checkpoint")
        return template


_UNSAID = (None, Rows.model_fields["text"].default)


class Files(Rows):
    """Documents in files: JSON lines (plain, .gz, .zst), Parquet, or one plain text a file. Globs are expanded."""

    files: Names
    """Paths or globs, relative to the study's file; `~` and `$NAME` are expanded."""
    max_bad_share: Share = 0.01
    """The share of lines that may be unreadable before the study stops."""


class Hub(Rows):
    """A Hugging Face data set, streamed (needs the `hub` extra); a local data set's folder works as well."""

    hub: str
    config: str | None = None
    split: str = "train"
    revision: str | None = None
    documents: Count | None = None
    """Stop after so many documents; all of them when left out."""


class Installed(Frozen):
    """Text that every machine has: Python code without its docstrings, or the English prose beside it."""

    installed: Literal["code", "prose"]
    packages: Names = ("python",)
    """`python` is the standard library; any other name is an installed distribution."""


class Generated(Frozen):
    """Mathematics problems without end, from seeded generators; the held-out problems never occur in training."""

    generated: Names
    worked: bool = True
    """Write the solution out step by step; otherwise only the answer."""


class Procedural(Frozen):
    """Exercises without human text: nested brackets, names bound to values, lists rewritten by rules. The control of a
    code stage that tells nothing about mathematics."""

    procedural: Names = ("brackets", "binding", "rewriting")
    documents: Count = 20_000
    """How many there are, some 500 bytes each."""


class Counterfactual(Frozen):
    """Another source of the study, with one property of its code taken away from every document."""

    counterfactual: str
    """The source that is transformed; it need not be in any mixture itself. The split into training and held-out text
    is that source's own."""
    take: Literal["meaning", "binding", "nesting", "order", "syntax", "code"]
    """`meaning`: names become invented ones, each the same throughout its document. `binding`: those invented names
    stand anywhere. `nesting`: brackets, keywords and indents are shuffled, each among themselves. `order`: lines are
    shuffled. `syntax`: tokens are shuffled, and only their counts stay. `code`: only comments stay."""


class Declared(Frozen):
    """A source that is only described. It can be planned and not run."""

    declared: Count
    """Tokens that the source is stated to hold."""
    reference: str
    """Where that number stands."""


SOURCE_KINDS: dict[str, type[Frozen]] = {
    "files": Files,
    "hub": Hub,
    "installed": Installed,
    "generated": Generated,
    "procedural": Procedural,
    "counterfactual": Counterfactual,
    "declared": Declared,
}


def _kind_by_key(kinds: Mapping[str, type[Frozen]], noun: str) -> Any:
    """A discriminator: the key that is present says which kind of thing was written."""

    def kind(value: Any) -> str | None:
        if isinstance(value, Frozen):
            return next((f"kind:{k}" for k, cls in kinds.items() if isinstance(value, cls)), None)
        found = [k for k in kinds if isinstance(value, Mapping) and k in value]
        return f"kind:{found[0]}" if len(found) == 1 else None

    return Discriminator(
        kind,
        custom_error_type=f"{noun}_kind",
        custom_error_message=f"a {noun} has exactly one of the fields {', '.join(kinds)}",
    )


Source = Annotated[
    Annotated[Files, Tag("kind:files")]
    | Annotated[Hub, Tag("kind:hub")]
    | Annotated[Installed, Tag("kind:installed")]
    | Annotated[Generated, Tag("kind:generated")]
    | Annotated[Procedural, Tag("kind:procedural")]
    | Annotated[Counterfactual, Tag("kind:counterfactual")]
    | Annotated[Declared, Tag("kind:declared")],
    _kind_by_key(SOURCE_KINDS, "source"),
]


def is_answered(source: Source) -> bool:
    """Whether the source's documents are questions with their answers."""
    return isinstance(source, Generated) or (isinstance(source, Files | Hub) and source.conversation)


# ---- benchmarks ---------------------------------------------------------------------------------------------------


class GeneratedBenchmark(Frozen):
    """Held-out problems of the generators: the share of all problems that training never sees."""

    generated: Names
    problems: Count = 200
    max_new_tokens: Count = 96


class FileBenchmark(Frozen):
    """GSM8K or MATH from a JSON-lines file, few-shot with worked solutions."""

    file: str
    format: Literal["gsm8k", "math"]
    problems: Count | None = None
    """The first so many problems in an order shuffled once; all of them when left out."""
    shots: Annotated[int, Field(ge=0, le=4)] = 4
    max_new_tokens: Count = 256
    answers: bool = True
    """Ask for answers and grade them. Otherwise only the likelihood of the reference solutions is scored: a measure
    without floor, and cheap."""


BENCHMARK_KINDS: dict[str, type[Frozen]] = {"generated": GeneratedBenchmark, "file": FileBenchmark}
Benchmark = Annotated[
    Annotated[GeneratedBenchmark, Tag("kind:generated")] | Annotated[FileBenchmark, Tag("kind:file")],
    _kind_by_key(BENCHMARK_KINDS, "benchmark"),
]
