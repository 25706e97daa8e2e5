"""The study whose rows are analysed, as proposals change it: which fields, what that adds in tokens, what to type.

A proposal is the study with some fields set, so it is checked as any study is, costs what `curricle plan` will count
(whole batches, what strategies share counted once) and is typed as `curricle plan STUDY --set …`. Where only rows are
there, the study is read off them: `known` is False, its batch is one token, and STUDY.yaml stands for its file.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from curricle.analysis.rows.outcomes import doses
from curricle.study import Refused, Study
from curricle.studyfile import parse_study

if TYPE_CHECKING:
    from curricle.results import Results

Sets = Mapping[tuple[str, ...], Any]  # path of a field → its value


@dataclass(frozen=True, slots=True)
class Runs:
    """Runs beside those that were made: what they are, what they add, what to type."""

    what: str
    tokens: float
    how: str
    sets: tuple[str, ...] = ()
    """Changes of the study, as `--set` takes them; none where another command writes a study of its own."""


@dataclass(frozen=True, slots=True)
class Own:
    study: Study
    words: tuple[str, ...]
    """How the command line names it: the file, and what was set."""
    known: bool
    supply: Mapping[str, float]
    """Tokens in one pass over a source; none for an endless one."""
    place: tuple[str, ...] = ()
    """Where its runs are kept, as the command line says it."""

    @property
    def batch(self) -> int:
        return self.study.recipe.batch_tokens

    def whole(self, tokens: float) -> int:
        """The nearest number of tokens that is whole batches, one at least."""
        return max(1, round(tokens / self.batch)) * self.batch

    def changed(self, sets: Sets) -> Study:
        """The study with these fields. Raises `Refused` where that is no study, or would read a source too often."""
        tree = self.study.model_dump(mode="json", exclude_unset=True)
        for path, value in sets.items():
            here = tree
            for key in path[:-1]:
                here = here.setdefault(key, {})
            here[path[-1]] = value
        made = parse_study(json.dumps(tree), Path("the study"))
        for strategy in made.strategies.values():
            read: dict[str, float] = {}
            for stage in (made.stages[name] for name in strategy):
                for source, tokens in tokens_of(stage.mixtures).items():
                    read[source] = read.get(source, 0.0) + tokens
            self.refuse_too_often(read)
        return made

    def refuse_too_often(self, read: Mapping[str, float]) -> None:
        for source, tokens in read.items():
            there = self.supply.get(source)
            if there and tokens > self.study.max_epochs * there:
                raise Refused(
                    f"{source} holds {there:,.0f} tokens and would be read {tokens / there:.1f} times; max_epochs is "
                    f"{self.study.max_epochs:g}"
                )

    def beside(self, what: str, sets: Sets) -> Runs:
        """The runs that these fields add; none of them takes the name of another stage or strategy of the study.
        Raises `Refused` for what is no study."""
        sets = self.by_new_names(sets)
        # JSON is YAML, and one line of it; names of the study have no full stop of their own making.
        told = tuple(f"{'.'.join(path)}={json.dumps(value, ensure_ascii=False)}" for path, value in sets.items())
        typed = ["curricle", "plan", *self.words, *self.place, *(word for each in told for word in ("--set", each))]
        return Runs(what, cost(self.changed(sets)) - cost(self.study), shlex.join(typed), told)

    def by_new_names(self, sets: Sets) -> Sets:
        """The same fields, a stage or strategy whose name is taken under the next that is free."""
        named: dict[tuple[str, str], str] = {}
        for path in sets:
            if len(path) == 2 and path[0] in ("stages", "strategies"):
                taken = {*getattr(self.study, path[0]), *(name for (of, _), name in named.items() if of == path[0])}
                free = (path[1], *(f"{path[1]} {k}" for k in range(2, len(taken) + 3)))
                named[path[0], path[1]] = next(name for name in free if name not in taken)
        made: dict[tuple[str, ...], Any] = {}
        for path, value in sets.items():
            if path[0] == "strategies":
                value = [named.get(("stages", stage), stage) for stage in value]
            made[(path[0], named[path[0], path[1]]) if (path[0], path[-1]) in named else path] = value
        return made


def tokens_of(mixtures: Iterable[tuple[int, Mapping[str, float]]]) -> dict[str, float]:
    """Tokens of each source in a stage's phases."""
    read: dict[str, float] = {}
    begin = 0
    for end, weights in mixtures:
        for source, weight in weights.items():
            read[source] = read.get(source, 0.0) + weight * (end - begin) / sum(weights.values())
        begin = end
    return read


def distinct(paths: Iterable[Sequence[tuple[str, float]]]) -> float:
    """Tokens of paths of stages (name and tokens), what several begin with counted once."""
    prefixes = {tuple(path[: i + 1]) for path in paths for i in range(len(path))}
    return sum(prefix[-1][1] for prefix in prefixes)


def cost(study: Study) -> float:
    """Tokens that a study trains on, as a plan counts them."""
    rates = {name: max(1, len(stage.sweep)) for name, stage in study.stages.items()}
    batches = {name: study.recipe_of(name).batch_tokens for name in study.stages}
    whole = {
        name: max(1, round(stage.budget_tokens / batches[name])) * batches[name]
        for name, stage in study.stages.items()
    }  # fmt: skip
    prefixes = {steps[: i + 1] for steps in study.strategies.values() for i in range(len(steps))}
    of_seed = sum(whole[prefix[-1]] * prod(rates[name] for name in set(prefix)) for prefix in prefixes)
    return float(of_seed * len(study.seeds))


def own_study(
    results: Results, study: Study | None = None, words: Sequence[str] = (), place: Sequence[str] = ()
) -> Own:
    """The study of these results: as it was written, or read off the rows."""
    there = results.sql("SELECT source, max(available_tokens) AS tokens FROM mixtures GROUP BY source")
    supply = {row["source"]: float(row["tokens"]) for row in there if row["tokens"]}
    if study is not None:
        return Own(study, tuple(words) or ("STUDY.yaml",), True, supply, tuple(place))
    return Own(sketch(results), ("STUDY.yaml",), False, supply)


def sketch(results: Results) -> Study:
    """A study that would leave these rows, for counting; what it is made of is not in them. A stage of which no mixture
    is told reads a source of its own name. Raises `Refused` where nobody says how many tokens a stage had."""
    phases: dict[str, list[dict[str, Any]]] = {}
    for row in results.sql("SELECT * FROM mixtures ORDER BY until_tokens"):
        phases.setdefault(row["run"], []).append(row)
    stages: dict[str, dict[str, Any]] = {}
    paths: dict[tuple[str, int], list[str]] = {}
    for row in sorted(results.sql("SELECT * FROM runs"), key=lambda row: row["position"]):
        tokens = row["budget_tokens"] or max((p["until_tokens"] for p in phases.get(row["run"], [])), default=0)
        if not tokens:
            raise Refused(f"{row['stage']}: nobody says how many tokens it had, so nothing can be priced")
        read = {spelled(s): x for s, x in doses(phases.get(row["run"], []), tokens).items() if x}
        total = sum(read.values())
        mixture = {s: x / total for s, x in read.items()} if read else {spelled(row["stage"]): 1}
        kind = "pretrain" if row["kind"] != "instruct" else "instruct"
        spec = {"kind": kind, "mixture": mixture, "budget_tokens": int(tokens)}
        name = spelled(row["stage"])
        if stages.setdefault(name, spec) != spec:
            name = spelled(f"{row['strategy']} {row['stage']}")
            stages.setdefault(name, spec)
        paths.setdefault((row["strategy"], row["seed"]), []).append(name)
    strategies = {strategy: path for (strategy, _), path in paths.items()}
    first = results.sql("SELECT DISTINCT strategy FROM runs WHERE baseline")
    asked = {s for spec in stages.values() if spec["kind"] == "instruct" for s in spec["mixture"]}
    sources = {
        name: {"files": "PATH", **({"prompt": "prompt"} if name in asked else {})}
        for spec in stages.values() for name in spec["mixture"]
    }  # fmt: skip
    tree = {
        "question": "read off result rows", "model": {"preset": "1m", "context": 1}, "tokenizer": {"bpe": 512},
        "sources": sources, "stages": stages,
        "strategies": strategies, "baseline": first[0]["strategy"] if first else next(iter(strategies)),
        "seeds": sorted({seed for _, seed in paths}), "recipe": {"batch_tokens": 1},
        "target": next(iter(next(iter(stages.values()))["mixture"])),
    }  # fmt: skip
    return parse_study(json.dumps(tree), Path("rows"))


def spelled(name: str) -> str:
    """A name that a study may give and `--set` may hold."""
    kept = "".join(c if c.isascii() and (c.isalnum() or c in " _+-") else "-" for c in name)
    return kept if kept[:1].isalnum() else f"x{kept}"
