"""What a user writes: a question, the strategies that compete to answer it, and the stages they are made of.

Every value here is frozen and checked when it is made. A study comes from YAML (`load_study`) or from these
constructors; both give the same value. Nothing in this file reads data: it promises that names resolve, that numbers
are in range and that the study can be compiled, and says otherwise in one sentence that names the field. Words for
writing a study that stand in rooms of their own (`values`, `supplies`, `recipe`, `proxy`, `stage`) can be imported from
here.
"""

from __future__ import annotations

import re
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Any, Self

import pydantic
import yaml
from pydantic import Field, PrivateAttr

from curricle.proxy import Proxy
from curricle.recipe import RECIPES, Average, Recipe
from curricle.shapes import PRESETS
from curricle.stage import Phase, Stage
from curricle.supplies import (
    BENCHMARK_KINDS,
    SOURCE_KINDS,
    Benchmark,
    Counterfactual,
    Declared,
    FileBenchmark,
    Files,
    Generated,
    GeneratedBenchmark,
    Hub,
    Installed,
    Procedural,
    Rows,
    Source,
)
from curricle.values import SUFFIXES, Count, Frozen, Names, Refused, Share, Weights, nearest, parse_count, parse_until

__all__ = [
    "BENCHMARK_KINDS",
    "RECIPES",
    "SOURCE_KINDS",
    "SUFFIXES",
    "Average",
    "Benchmark",
    "Count",
    "Counterfactual",
    "Declared",
    "FileBenchmark",
    "Files",
    "Frozen",
    "Generated",
    "GeneratedBenchmark",
    "HeldOut",
    "Hub",
    "Installed",
    "Model",
    "Names",
    "Phase",
    "Procedural",
    "Proxy",
    "Recipe",
    "Refused",
    "Rows",
    "Share",
    "Source",
    "Stage",
    "Study",
    "Tokenizer",
    "Weights",
    "nearest",
    "parse_count",
    "parse_until",
]


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
    strategies: dict[str, Names] = Field(default={})
    """Ordered lists of stage names, each starting from the model. Left out, each stage is one by itself, as in a swarm
    of mixtures."""
    baseline: str
    """The strategy that the others are measured against."""
    benchmarks: dict[str, Benchmark] = Field(default={})
    target: str | None = None
    """The benchmark or source that answers the question; the first benchmark when left out."""
    compare: tuple[tuple[str, str], ...] = ()
    """Pairs of strategies whose difference the question is about, beside each one's difference to the baseline."""
    seeds: tuple[Annotated[int, Field(ge=0, lt=2**31)], ...] = Field(default=(0, 1, 2), min_length=1)
    recipe: Recipe = Recipe()
    proxy: Proxy | None = None
    """This study stands for a larger run."""
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
        """The path with variables and `~` filled in. Raises `Refused` for a variable that is not set."""
        import os

        expanded = Path(os.path.expandvars(path)).expanduser()
        if (unset := re.search(r"\$\{?([A-Za-z_]\w*)", str(expanded))) and not expanded.exists():
            raise Refused(f"{path}: the variable {unset[1]} is not set; set it to the folder that is meant")
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
        """The study's recipe with what the stage says otherwise; a branch's without the study's warm-up, a proxy's at
        its reduced rate."""
        own = self.stages[stage].recipe
        said = {k: getattr(own, k) for k in own.model_fields_set} if own is not None else {}
        if self.stages[stage].branch_at is not None and not said.keys() & {"warmup_share", "warmup_tokens"}:
            said |= {"warmup_share": 0.0, "warmup_tokens": None}  # it goes on, optimizer and all, and is warm
        if self.proxy is not None and self.proxy.learning_rate is not None:
            peak = said.get("learning_rate", self.recipe.learning_rate) * self.proxy.learning_rate
            said["learning_rate"] = float(f"{peak:.12g}")  # the run in which the reduced rate was written is this one
        return self.recipe.model_copy(update=said) if said else self.recipe

    @property
    def part_of_target(self) -> Fraction:
        """The baseline's tokens over those of the target that it stands for; 1 where it stands for itself."""
        target = self.proxy.of_tokens if self.proxy is not None else None
        return Fraction(1) if target is None else Fraction(self._tokens_of(self.baseline), target)

    def _tokens_of(self, strategy: str) -> int:
        """Tokens on the way through its stages, each as far as the next branches off."""
        stages = [self.stages[name] for name in self.strategies[strategy]]
        return sum(
            stage.budget_tokens if after is None or after.branch_at is None else after.branch_at
            for stage, after in zip(stages, (*stages[1:], None))
        )

    def rate_is_default(self, stage: str) -> bool:
        """Whether nobody has written a learning rate for it."""
        own = self.stages[stage]
        stated = [self.recipe.model_fields_set, own.recipe.model_fields_set if own.recipe else ()]
        return not own.sweep and not any("learning_rate" in fields or "preset" in fields for fields in stated)

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

    @pydantic.model_validator(mode="before")
    @classmethod
    def _each_stage_alone(cls, given: Any) -> Any:
        if isinstance(given, dict) and not given.get("strategies") and isinstance(given.get("stages"), dict):
            return {**given, "strategies": {name: (name,) for name in given["stages"]}}
        return given

    @pydantic.model_validator(mode="after")
    def _names_resolve(self) -> Self:
        for name in [*self.sources, *self.stages, *self.benchmarks]:  # parts of file names; a strategy is free text
            if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9 _.+-]*", name):
                raise ValueError(
                    f"{name!r}: a name starts with a letter or digit and holds letters, digits, ' ', '_', '.', '+', '-'"
                )
        for name, spec in self.sources.items():
            if isinstance(spec, Counterfactual):
                self._has_code(name, spec)
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
        if self.part_of_target > 1:
            raise ValueError(
                f"proxy.of_tokens: {self.proxy and self.proxy.of_tokens:,} are fewer than the "
                f"{self._tokens_of(self.baseline):,} of the baseline; the target is the larger run"
            )
        swept = [name for name, stage in self.stages.items() if stage.sweep]
        if swept and self.proxy is not None and self.proxy.learning_rate is not None:
            raise ValueError(
                f"proxy.learning_rate: stages.{swept[0]}.sweep states the rates to try; write the reduced ones there"
            )
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
            asks = not isinstance(benchmark, FileBenchmark) or benchmark.answers
            if asks and self.model.checkpoint is None and benchmark.max_new_tokens + 2 > self.model.context:
                raise ValueError(
                    f"benchmarks.{name}.max_new_tokens: {benchmark.max_new_tokens} leaves no room for a prompt in "
                    f"model.context = {self.model.context}"
                )
        if self.tokenizer is not None and self.tokenizer.bpe is not None and self.model.checkpoint is not None:
            raise ValueError("tokenizer.bpe: a checkpoint has a tokenizer of its own, and its weights know no other")
        if self.tokenizer is None and self.model.checkpoint is None:
            raise ValueError("tokenizer: missing; a preset has no tokenizer of its own, write for example {bpe: 512}")
        return self

    def _has_code(self, name: str, source: Counterfactual) -> None:
        """What is transformed has documents of its own, and is one text, not questions with answers."""
        field, of = f"sources.{name}.counterfactual", source.counterfactual
        if of not in self.sources:
            raise ValueError(f"{field}: unknown source {of!r}; {nearest(of, self.sources)}")
        spec = self.sources[of]
        if not isinstance(spec, Files | Hub | Installed) or (isinstance(spec, Files | Hub) and spec.conversation):
            raise ValueError(
                f"{field}: {of!r} is no code to take something from; name a source of files, of the hub, or of "
                f"installed packages, whose rows are texts without prompts"
            )

    def _has_answers(self, name: str, stage: Stage) -> None:
        """An instruct stage learns from answers to prompts; what it replays may be any text."""
        written = [stage.mixture or {}, *(phase.mixture for phase in stage.phases)]
        for source in dict.fromkeys(n for mixture in written for n, weight in mixture.items() if weight > 0):
            spec = self.sources[source]
            if isinstance(spec, Installed | Procedural | Counterfactual) or (
                isinstance(spec, Files | Hub) and not (spec.prompt or spec.messages)
            ):
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
