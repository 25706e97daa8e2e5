"""What a user writes: a question, the strategies that compete to answer it, and what they are made of.

Every value here is frozen and checked when it is made. A study comes from YAML (`load_study`) or from these
constructors; both give the same value. Nothing in this file reads data: it promises that names resolve, that numbers
are in range and that the study can be compiled, and says otherwise in one sentence that names the field.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import pydantic
import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Discriminator, Field, PrivateAttr, Tag

from curricle.shapes import PRESETS


class Refused(ValueError):
    """Input that is refused before anything expensive starts. The text names the field, the value and the way out."""


SUFFIXES = {"k": 10**3, "M": 10**6, "B": 10**9, "T": 10**12}
COUNT = re.compile(r"(\d+(?:\.\d+)?)([kMBT]?)")


def parse_count(value: object) -> object:
    """`'2.5M'` → 2500000. Suffixes are decimal; integers pass; anything else is left for pydantic to refuse."""
    if isinstance(value, bool):
        raise ValueError(f"{value} is not a count; write a whole number")
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if not isinstance(value, str):
        return value
    match = COUNT.fullmatch(value.strip().replace("_", ""))
    if not match:
        raise ValueError(f"{value!r} is not a count; write a whole number, or one with k, M, B or T, such as 400k")
    count = Fraction(match[1]) * SUFFIXES.get(match[2], 1)
    if count.denominator != 1:
        raise ValueError(f"{value!r} is not a whole number of tokens")
    return int(count)


def nearest(word: str, known: Iterable[str]) -> str:
    """The end of an error message: the word that was probably meant, or all that are allowed."""
    words = [str(k) for k in known]
    close = difflib.get_close_matches(str(word), words, n=1)
    return f"did you mean {close[0]!r}?" if close else f"known: {', '.join(sorted(words)) or 'none'}"


Count = Annotated[
    int,
    BeforeValidator(parse_count),
    Field(ge=1),
    pydantic.WithJsonSchema(
        {"anyOf": [{"type": "integer", "minimum": 1}, {"type": "string", "pattern": r"^\d+(\.\d+)?[kMBT]?$"}]}
    ),
]
Share = Annotated[float, Field(ge=0, le=1)]
Beta = Annotated[float, Field(ge=0, lt=1)]


def one_or_many(value: object) -> object:
    return [value] if isinstance(value, str) else value


Names = Annotated[
    tuple[str, ...],
    BeforeValidator(one_or_many),
    Field(min_length=1),
    pydantic.WithJsonSchema(
        {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}, "minItems": 1}]}
    ),
]


class Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True)

    @pydantic.model_validator(mode="before")
    @classmethod
    def _known_fields_only(cls, data: object) -> object:
        if isinstance(data, Mapping):
            for key in data:
                if key not in cls.model_fields:
                    raise ValueError(f"unknown field {key!r}; {nearest(str(key), cls.model_fields)}")
        return data


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
    | Annotated[Declared, Tag("kind:declared")],
    _kind_by_key(SOURCE_KINDS, "source"),
]


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


# ---- model, tokenizer, recipe, stage ------------------------------------------------------------------------------


class Model(Frozen):
    """The model every strategy starts from: a preset with random weights, or a checkpoint."""

    preset: str | None = None
    """A shape by name. Beside a checkpoint that is not on this disk, it states that checkpoint's shape."""
    checkpoint: str | None = None
    """A folder in the Hugging Face format, a hub id, or a `.gguf` file."""
    revision: str | None = None
    decayed: bool | None = None
    """Whether the checkpoint's learning rate had already been decayed; left out, it is unknown. It is recorded, and no
    part of identity. It decides how a gain reads: DeepSeekMath began from the coder before its decay, so on MMLU its
    gain is 42.9 → 54.9 rather than 49.1 → 54.9 (arXiv 2402.03300, table 4)."""
    context: Count = 256
    """Tokens in a training row."""

    @pydantic.model_validator(mode="after")
    def _names_something(self) -> Self:
        if self.preset is None and self.checkpoint is None:
            raise ValueError(f"name a preset ({', '.join(PRESETS)}) or a checkpoint")
        if self.preset is not None and self.preset not in PRESETS:
            raise ValueError(f"unknown preset {self.preset!r}; {nearest(self.preset, PRESETS)}")
        if self.decayed is not None and self.checkpoint is None:
            raise ValueError("decayed: only a checkpoint's learning rate can have been decayed; this is a preset")
        return self


class Tokenizer(Frozen):
    """Trained here on the study's sources (`bpe`), or read from a folder (`path`); exactly one of the two."""

    bpe: Annotated[int, Field(ge=300, le=2**17)] | None = None
    """Vocabulary of a byte-level BPE trained on a sample of every source. Digits are single tokens."""
    sample_bytes: Count = 2_000_000
    """Bytes of the sample that the BPE is trained on, an equal part from each source."""
    path: str | None = None

    @pydantic.model_validator(mode="after")
    def _one_of_two(self) -> Self:
        if (self.bpe is None) == (self.path is None):
            raise ValueError("give exactly one of bpe (train one here) and path (a folder with tokenizer.json)")
        return self


class Average(Frozen):
    """The weights that leave a stage are the mean of its last few states (Sanyal et al., arXiv 2306.03241)."""

    last: Annotated[int, Field(ge=2, le=64)]
    every_tokens: Count


# Published recipes (arXiv 2402.03300). Weight decay and betas of the second are those of the first: none are stated.
RECIPES: dict[str, dict[str, Any]] = {
    # Section 2.3: 10M tokens a batch, written in whole rows of 4096; 2,000 steps of 50,000 are the warm-up.
    "deepseekmath-pretrain": {
        "optimizer": "adamw",
        "learning_rate": 4.2e-4,
        "schedule": "multistep",
        "warmup_share": 0.04,
        "batch_tokens": 10_002_432,
        "weight_decay": 0.1,
        "betas": (0.9, 0.95),
        "precision": "bf16",
    },
    # Section 3.1: 256 rows of 4096 a batch; 500 steps of it are a budget of 524,288,000 tokens.
    "deepseekmath-instruct": {
        "optimizer": "adamw",
        "learning_rate": 5e-5,
        "schedule": "constant",
        "warmup_share": 0.0,
        "batch_tokens": 256 * 4096,
        "weight_decay": 0.1,
        "betas": (0.9, 0.95),
        "precision": "bf16",
    },
}


class Recipe(Frozen):
    """How a stage's weights are moved. The default is what learned fastest here (docs/LOG.md)."""

    preset: Literal["deepseekmath-pretrain", "deepseekmath-instruct"] | None = Field(default=None, exclude=True)
    """A published recipe to start from; fields beside it override. Its fields are the recipe, its name is no part."""
    optimizer: Literal["muon", "adamw"] = "muon"
    """`muon` moves the matrices by Muon and the rest by AdamW; both read `learning_rate` (updates of equal size)."""
    learning_rate: Annotated[float, Field(gt=0, le=1)] = 4e-3
    schedule: Literal["constant", "multistep", "cosine", "wsd"] = "constant"
    """After the warm-up: flat; ×0.316 at 80 % and ×0.1 at 90 %; a half cosine to 10 %; flat, then straight to 0."""
    warmup_share: Share = 0.02
    """Of the stage; or `warmup_tokens`, which a longer stage leaves as they are."""
    warmup_tokens: Count | None = None
    decay_share: Share = 0.2
    """The last part of a `wsd` schedule, in which the rate falls to 0."""
    batch_tokens: Count = 2048
    micro_batch_tokens: Count | None = None
    """Tokens held in memory at once; the batch is accumulated from such parts."""
    weight_decay: Annotated[float, Field(ge=0, le=1)] = 0.1
    betas: tuple[Beta, Beta] = (0.9, 0.95)
    clip: Annotated[float, Field(gt=0)] = 1.0
    skip_sigma: Annotated[float, Field(gt=0)] = 6.0
    """A step whose loss or gradient norm lies so many standard deviations above the last 128 moves nothing; nor does
    one that is not a number."""
    max_skipped: Annotated[int, Field(ge=0)] = 10
    """Past so many skipped steps among the last 128 the run stops."""
    average: Average | None = None
    precision: Literal["fp32", "bf16"] = "fp32"

    @pydantic.model_validator(mode="before")
    @classmethod
    def _begins_with_its_preset(cls, data: object) -> object:
        if isinstance(data, Mapping) and isinstance(data.get("preset"), str):
            return {**RECIPES.get(data["preset"], {}), **data}
        return data


Weights = Annotated[dict[str, Annotated[float, Field(ge=0)]], Field(min_length=1)]


def parse_until(value: object) -> object:
    """`'80%'` stays a share of the budget; anything else is a count of tokens."""
    if isinstance(value, str) and value.strip().endswith("%"):
        number = value.strip().removesuffix("%").strip()
        if not re.fullmatch(r"\d+(\.\d+)?", number) or not 0 < float(number) <= 100:
            raise ValueError(f"{value!r} is not a share; write for example 80%, or a count of tokens such as 240k")
        return f"{float(number):g}%"
    return parse_count(value)


class Phase(Frozen):
    """A part of a stage with a mixture of its own, such as an annealing phase at its end."""

    until: Annotated[
        int | str,
        BeforeValidator(parse_until),
        pydantic.WithJsonSchema({"anyOf": [{"type": "integer", "minimum": 1}, {"type": "string"}]}),
    ]
    """Where it ends: a share of the stage's budget (`80%`), or tokens of the stage."""
    mixture: Weights

    def ends_at(self, budget_tokens: int) -> int:
        if isinstance(self.until, str):
            return round(Fraction(self.until.removesuffix("%")) / 100 * budget_tokens)
        return self.until


class Stage(Frozen):
    """One training phase: a mixture, a budget, a recipe."""

    kind: Literal["pretrain", "instruct"] = "pretrain"
    """`instruct` puts the loss on the answers only."""
    mixture: Weights | None = None
    """Weights over sources, as shares of tokens; they sum to 1."""
    phases: tuple[Phase, ...] = ()
    """Instead of one mixture, several in turn; the last ends with the stage. A phase added later leaves what was
    trained before it as it was."""
    replay: dict[str, Annotated[float, Field(gt=0, lt=1)]] = {}
    """Shares of all tokens that go on reading other text, against forgetting; the mixture shares out the rest."""
    budget_tokens: Count
    evaluate_at: tuple[Count, ...] = ()
    """Tokens of this stage after which to evaluate; its end always is."""
    init_from: Literal["weights", "weights and optimizer"] = "weights"
    """What is taken over from the end of the stage before."""
    branch_at: Count | None = None
    """Branch off inside the stage before, after so many of its tokens, with everything (weights and optimizer): several
    cooldowns or mixtures share one prefix."""
    recipe: Recipe | None = None
    """What differs from the study's recipe."""
    sweep: tuple[Annotated[float, Field(gt=0, le=1)], ...] = ()
    """Learning rates: every strategy that passes through here is run with each of them and judged by its best, since
    the ranking of sources changes with the rate. The plan counts the cost."""

    @pydantic.model_validator(mode="after")
    def _sums_to_one(self) -> Self:
        if (self.mixture is None) == (not self.phases):
            raise ValueError("give exactly one of mixture (one for the whole stage) and phases (several in turn)")
        written = [("mixture", self.mixture)] if self.mixture is not None else []
        written += [(f"phases.{i}.mixture", phase.mixture) for i, phase in enumerate(self.phases)]
        for where, mixture in written:
            total = sum((mixture or {}).values())
            if abs(total - 1) > 1e-6:
                raise ValueError(f"{where}: the weights sum to {total:g}; they must sum to 1")
        ends = [phase.ends_at(self.budget_tokens) for phase in self.phases]
        if ends and (ends[-1] != self.budget_tokens or any(a >= b for a, b in zip([0, *ends], ends))):
            raise ValueError(
                f"phases: they end at {', '.join(f'{e:,}' for e in ends)} tokens; the ends must rise, and the last be "
                f"100% (budget_tokens = {self.budget_tokens:,})"
            )
        if len(self.sweep) == 1 or len(set(self.sweep)) < len(self.sweep):
            raise ValueError(
                f"sweep: {list(self.sweep)}: give two or more different learning rates, or recipe.learning_rate"
            )
        if sum(self.replay.values()) >= 1:
            raise ValueError(
                f"replay: the shares sum to {sum(self.replay.values()):g}; leave something for the mixture"
            )
        late = [t for t in self.evaluate_at if t > self.budget_tokens]
        if late:
            raise ValueError(f"evaluate_at: {late[0]:,} lies past budget_tokens = {self.budget_tokens:,}")
        return self

    @property
    def points(self) -> tuple[int, ...]:
        """Tokens at which the stage is evaluated, in order, its end included."""
        return tuple(sorted({*self.evaluate_at, self.budget_tokens}))

    @property
    def mixtures(self) -> tuple[tuple[int, dict[str, float]], ...]:
        """(tokens at which it ends, weights with the replay in them) for each phase; one where there are none."""
        written = [(phase.ends_at(self.budget_tokens), phase.mixture) for phase in self.phases]
        rest = 1 - sum(self.replay.values())
        found = []
        for end, mixture in written or [(self.budget_tokens, self.mixture or {})]:
            weights = {source: weight * rest for source, weight in mixture.items() if weight > 0}
            for source, share in self.replay.items():
                weights[source] = weights.get(source, 0.0) + share
            found.append((end, weights))
        return tuple(found)

    @property
    def sources(self) -> tuple[str, ...]:
        """Every source that the stage names, in the order in which they are first named."""
        mixtures = [self.mixture or {}, *(phase.mixture for phase in self.phases), self.replay]
        return tuple(dict.fromkeys(source for mixture in mixtures for source in mixture))


class HeldOut(Frozen):
    """How much text of each source is kept from training, and how much of it is scored."""

    share: Annotated[float, Field(gt=0, le=0.5)] = 0.05
    """Share of the source's bytes, taken in whole groups (packages, repositories, hosts)."""
    scored_bytes: Count = 60_000
    """Bytes of it on which bits per byte are measured."""


class Study(Frozen):
    """The question: strategies to compare, a baseline, seeds, benchmarks."""

    question: str
    model: Model
    tokenizer: Tokenizer | None = None
    """May be left out where the model is a checkpoint: then it is the checkpoint's own."""
    sources: dict[str, Source] = Field(min_length=1)
    stages: dict[str, Stage] = Field(min_length=1)
    strategies: dict[str, Names] = Field(min_length=1)
    """Ordered lists of stage names, each starting from the model."""
    baseline: str
    """The strategy that the others are measured against."""
    benchmarks: dict[str, Benchmark] = {}
    target: str | None = None
    """The benchmark or source that answers the question; the first benchmark when left out."""
    compare: tuple[tuple[str, str], ...] = ()
    """Pairs of strategies whose difference the question is about, beside each one's difference to the baseline."""
    seeds: tuple[Annotated[int, Field(ge=0, lt=2**31)], ...] = Field(default=(0, 1, 2), min_length=1)
    recipe: Recipe = Recipe()
    max_epochs: Annotated[float, Field(gt=0)] = 4.0
    """No stage may pass over a source more often than this."""
    held_out: HeldOut = HeldOut()
    decontaminate: bool = True
    """Remove from every source what overlaps a benchmark's problems."""

    _name: str = PrivateAttr("study")
    _path: Path | None = PrivateAttr(None)

    @property
    def name(self) -> str:
        return self._name

    @property
    def path(self) -> Path | None:
        """The file it was read from, if any; relative paths in the study start from its folder."""
        return self._path

    def resolve(self, path: str) -> Path:
        import os

        expanded = Path(os.path.expandvars(path)).expanduser()
        # A study that ships lies among our files; the user's are where the user is.
        if expanded.is_absolute() or self._path is None or self._path.parent == Path(__file__).parent / "studies":
            return expanded
        return self._path.parent / expanded

    def anchored(self) -> Study:
        """The same study, whose relative paths mean the same from any folder."""
        copy = self.model_copy()
        copy._path = self._path.absolute() if self._path is not None else None
        return copy

    def recipe_of(self, stage: str) -> Recipe:
        """The study's recipe with what the stage says otherwise."""
        own = self.stages[stage].recipe
        return (
            self.recipe
            if own is None
            else self.recipe.model_copy(update={k: getattr(own, k) for k in own.model_fields_set})
        )

    def to_yaml(self) -> str:
        """The study as it stands, overrides included, without what was left to its default."""
        plain = self.model_dump(mode="json", exclude_unset=True)
        return yaml.safe_dump(plain, sort_keys=False, allow_unicode=True, width=100, default_flow_style=None)

    @property
    def answer_target(self) -> str:
        """The target, or the first benchmark, or the first source of the baseline's last stage."""
        return (
            self.target
            or next(iter(self.benchmarks), None)
            or self.stages[self.strategies[self.baseline][-1]].sources[0]
        )

    @pydantic.model_validator(mode="after")
    def _names_resolve(self) -> Self:
        for name in [*self.sources, *self.stages, *self.strategies, *self.benchmarks]:
            if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9 _.+-]*", name):
                raise ValueError(
                    f"{name!r}: a name starts with a letter or digit and holds letters, digits, ' ', '_', '.', '+', '-'"
                )
        for name, stage in self.stages.items():
            for source in stage.sources:
                if source not in self.sources:
                    where = "mixture" if source in (stage.mixture or {}) else "phases" if stage.phases else "replay"
                    raise ValueError(
                        f"stages.{name}.{where}.{source}: unknown source {source!r}; {nearest(source, self.sources)}"
                    )
            if stage.kind == "instruct":
                self._has_answers(name, stage)
        for name, steps in self.strategies.items():
            for stage_name in steps:
                if stage_name not in self.stages:
                    raise ValueError(
                        f"strategies.{name}: unknown stage {stage_name!r}; {nearest(stage_name, self.stages)}"
                    )
            self._branches_fit(name, steps)
        if self.baseline not in self.strategies:
            raise ValueError(f"baseline: unknown strategy {self.baseline!r}; {nearest(self.baseline, self.strategies)}")
        for one, other in self.compare:
            for strategy in (one, other):
                if strategy not in self.strategies:
                    raise ValueError(f"compare: unknown strategy {strategy!r}; {nearest(strategy, self.strategies)}")
            if one == other:
                raise ValueError(f"compare: {one!r} stands beside itself")
        if len(set(self.seeds)) != len(self.seeds):
            raise ValueError(f"seeds: {list(self.seeds)} holds a seed twice")
        clash = set(self.benchmarks) & set(self.sources)
        if clash:
            raise ValueError(f"benchmarks.{min(clash)}: a source has the same name; results could not tell them apart")
        if self.target is not None and self.target not in {*self.benchmarks, *self.sources}:
            known = {*self.benchmarks, *self.sources}
            raise ValueError(f"target: unknown benchmark or source {self.target!r}; {nearest(self.target, known)}")
        used = {source for steps in self.strategies.values() for n in steps for source in self.stages[n].sources}
        if self.answer_target not in {*self.benchmarks, *used}:
            raise ValueError(f"target: no strategy uses the source {self.answer_target!r}; {nearest('', used)}")
        for name in dict.fromkeys(name for steps in self.strategies.values() for name in steps):
            batch = self.recipe_of(name).batch_tokens
            if batch % self.model.context:
                where = f"batch_tokens = {batch:,} is not a multiple of model.context = {self.model.context:,}"
                raise ValueError(f"stages.{name}: {where}")
        folders = [name.replace(" ", "_") for name in self.stages]
        if len(set(folders)) < len(folders):
            raise ValueError(f"stages: two of {', '.join(self.stages)} differ only in ' ' and '_'")
        for name, benchmark in self.benchmarks.items():
            if self.model.checkpoint is None and benchmark.max_new_tokens + 2 > self.model.context:
                raise ValueError(
                    f"benchmarks.{name}.max_new_tokens: {benchmark.max_new_tokens} leaves no room for a prompt in "
                    f"model.context = {self.model.context}"
                )
        if self.tokenizer is not None and self.tokenizer.bpe is not None and self.model.checkpoint is not None:
            raise ValueError("tokenizer.bpe: a checkpoint has a tokenizer of its own, and its weights know no other")
        if self.tokenizer is None and self.model.checkpoint is None:
            raise ValueError("tokenizer: missing; a preset has no tokenizer of its own, write for example {bpe: 512}")
        return self

    def _has_answers(self, name: str, stage: Stage) -> None:
        """An instruct stage learns from answers to prompts; what it replays may be any text."""
        written = [stage.mixture or {}, *(phase.mixture for phase in stage.phases)]
        for source in dict.fromkeys(n for mixture in written for n, weight in mixture.items() if weight > 0):
            spec = self.sources[source]
            if isinstance(spec, Installed) or (isinstance(spec, Files | Hub) and not (spec.prompt or spec.messages)):
                raise ValueError(
                    f"stages.{name}: kind: instruct puts the loss on answers, and source {source!r} has no prompts; "
                    f"name the field that holds them (sources.{source}.prompt), or train on it by a pretrain stage or "
                    f"as replay"
                )

    def _branches_fit(self, strategy: str, steps: tuple[str, ...]) -> None:
        for before, name in zip((None, *steps), steps):
            stage = self.stages[name]
            carries = stage.branch_at is not None or stage.init_from != "weights"
            field = "branch_at" if stage.branch_at is not None else "init_from"
            if carries and before is None:
                raise ValueError(f"stages.{name}.{field}: it is the first stage of {strategy!r}, with none before it")
            if carries and before is not None and self.recipe_of(name).optimizer != self.recipe_of(before).optimizer:
                raise ValueError(f"stages.{name}.{field}: {before!r} has another optimizer, whose state does not fit")
            if stage.branch_at is None or before is None:
                continue
            if stage.branch_at >= self.stages[before].budget_tokens:
                raise ValueError(
                    f"stages.{name}.branch_at: {stage.branch_at:,} is not inside {before!r}, which has "
                    f"budget_tokens = {self.stages[before].budget_tokens:,}"
                )
