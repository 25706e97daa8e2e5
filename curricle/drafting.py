"""A study to start from, written for a person to change: what each field is for stands beside it."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from curricle.shapes import PRESETS
from curricle.study import Refused, Stage, Study, nearest, parse_count
from curricle.values import plural, shortened

if TYPE_CHECKING:
    from curricle.analysis.factorial import Design


def draft(model: str, sources: list[str], budget_tokens: str) -> str:
    """The YAML of a study over `NAME=PATH` sources. Raises `Refused` for a source or a budget that cannot be read."""
    try:
        budget = parse_count(budget_tokens)
    except ValueError as error:
        raise Refused(f"--budget-tokens: {error}") from None
    if not isinstance(budget, int) or budget < 1:
        raise Refused(f"--budget-tokens: {budget_tokens!r} is not a count of tokens, such as 2B")
    named = _named(sources)
    for name in named:
        if name in {"algebra", "problems", "math", "instruct"}:
            raise Refused(f"--source {name}: the draft has a {name!r} of its own; choose another name")
    if not named:
        named = {"code": "{installed: code}", "prose": "{installed: prose}"}
    preset = model in PRESETS
    first, stage, math = next(iter(named)), budget * 2 // 5, budget // 2
    instruct = budget - stage - math  # the longest strategy reads what was asked for, to the token
    points = f"{_some(budget * 3 // 20)}, {_some(budget * 3 // 10)}"
    width = max(len(name) for name in [*named, "algebra"]) + 1
    lines = [
        "# A study: strategies that compete to answer a question. See what it takes:  curricle plan THIS_FILE",
        f"question: Does {first} before mathematics help, and how much?",
        "",
        *_model(model, preset),
        "",
        "# Where text comes from: files, hub, installed, generated, or declared (planned, not run).",
        "sources:",
        *(f"  {name + ':':<{width}} {value}" for name, value in named.items()),
        f"  {'algebra:':<{width}} {{generated: [chain_sum, simple_equations]}}  # worked problems without end",
        "",
        "# One training phase each. A mixture's weights are shares of tokens and sum to 1.",
        "stages:",
        *(f"  {name}: {{mixture: {{{name}: 1}}, budget_tokens: {_some(stage)}}}" for name in named),
        "  # Points along the way show the curve; they compare, since the rate is constant until instruct.",
        f"  math: {{mixture: {{algebra: 1}}, budget_tokens: {_some(math)}, evaluate_at: [{points}]}}",
        "  # Loss on the answers only, the rate falling to 0.",
        f"  instruct: {{kind: instruct, mixture: {{algebra: 1}}, budget_tokens: {_some(instruct)},",
        "             recipe: {schedule: wsd, decay_share: 1}}",
        "",
        "# Stages in order. What strategies share is trained once.",
        "strategies:",
        *(f"  {name} first: [{name}, math, instruct]" for name in named),
        "  from scratch: [math, instruct]" if preset else "  mathematics only: [math, instruct]",
        f"baseline: {'from scratch' if preset else 'mathematics only'}",
        "",
        "# What is asked at every point, beside held-out bits per byte of each source.",
        "benchmarks:",
        "  problems: {generated: [chain_sum, simple_equations], problems: 200}",
        "",
        "seeds: [0, 1, 2]  # fewer than 3 say little about another run",
        *(
            []
            if preset
            else [
                f"recipe: {{optimizer: adamw, learning_rate: 1.0e-4, batch_tokens: {_batch(model, stage)}, "
                "precision: bf16}"
            ]
        ),
    ]
    return "\n".join(lines) + "\n"


SUPPLIED = {
    "code": "{installed: code}",
    "prose": "{installed: prose}",
    "math": "{generated: [chain_sum, simple_equations]}",
}


def draft_factorial(
    design: Design, model: str, sources: list[str], like: Study | None = None, out: Path = Path("factorial.yaml")
) -> str:
    """The YAML of a proposed factorial, what it can tell at its head. Of `like` the model, the sources, the
    benchmarks, the proxy and the recipes are taken (of a source, that of the stage which reads most of it), the rate
    constant; without it sources that are not given as `NAME=PATH` are what comes
    with the package, by the names `code`, `prose` and `math`. Raises `Refused` for any other."""
    used = [*design.sources, *([design.filler] if design.filler else [])]
    stages = {stage for arm in design.arms for stage in arm.stages}
    names = {arm.strategy: [f"{source} {shortened(tokens)}" for source, tokens in arm.stages] for arm in design.arms}
    baseline = design.arms[0].strategy
    first, second = design.sources
    least = min(tokens for _, tokens in stages)
    by_name = sorted(stages, key=lambda stage: (used.index(stage[0]), stage[1]))
    rows = [
        f"  {source} {shortened(tokens)}: {{mixture: {{{source}: 1}}, budget_tokens: {shortened(tokens)}"
        f"{_own_recipe(like, source)}}}"
        for source, tokens in by_name
    ]
    seeds = list(range(design.seeds)) if like is None else _seeds(like, design.seeds)
    constant = "# Constant, so that a source is learnt at the same rate wherever it stands."
    lines = [
        f"# A factorial: {len(design.arms)} strategies × {plural(design.seeds, 'seed')}.",
        f"# {'It ' + design.why if design.answers else 'It cannot answer: ' + design.why}.",
        f"question: Do {first} and {second} give more together than each gives alone?",
        "",
        *_origin(used, model, sources, like, out),
        "",
        "stages:",
        *rows,
        "",
        "# A filler comes first. What strategies share is trained once.",
        "strategies:",
        *(f"  {_quoted(strategy)}: [{', '.join(steps)}]" for strategy, steps in names.items()),
        f"baseline: {_quoted(baseline)}",
        f"target: {_target(like, used) or second}",
        f"seeds: [{', '.join(map(str, seeds))}]",
        constant,
        *_recipe(like, model, least, "constant"),
    ]
    return "\n".join(lines) + "\n"


def draft_swarm(
    mixtures: Mapping[str, Mapping[str, float]], tokens: int, model: str, sources: list[str],
    like: Study | None = None, out: Path = Path("swarm.yaml"),
) -> str:  # fmt: skip
    """The YAML of a swarm: one stage and one strategy for each mixture. Sources as in `draft_factorial`."""
    used = list(dict.fromkeys(source for mixture in mixtures.values() for source in mixture))
    width = max(len(name) for name in mixtures) + 1
    lines = [
        f"# A swarm: {len(mixtures)} mixtures of {len(used)} sources, {shortened(tokens)} tokens each. Then:",
        "#   curricle analyse THIS_FILE --question mixture",
        "question: Which mixture should a larger run read?",
        "",
        *_origin(used, model, sources, like, out),
        "",
        "stages:",
        *(f"  {name + ':':<{width}} {{budget_tokens: {shortened(tokens)}, mixture: "
          f"{{{', '.join(f'{source}: {share:g}' for source, share in mixture.items())}}}}}"
          for name, mixture in mixtures.items()),
        "",
        "# No strategies: each stage is one by itself.",
        f"baseline: {next(iter(mixtures))}",
        "# The mixture is chosen for this one's loss; a benchmark's reference solutions can stand here too.",
        f"target: {_target(like, used) or used[-1]}",
        "seeds: [0]  # more mixtures say more than more seeds",
        *_recipe(like, model, tokens, None),
    ]  # fmt: skip
    return "\n".join(lines) + "\n"


def draft_next(study: Study, of: str, bought: str, out: Path) -> str:
    """The YAML of `study`, the one that the user calls `of` with what was `bought` in it; a line at its head says so.
    Its paths mean from the folder of `out` what they meant."""
    tree = _moved(study.model_dump(mode="json", exclude_unset=True), study, out)
    text = yaml.safe_dump(tree, sort_keys=False, allow_unicode=True, width=110, default_flow_style=None)
    return f"# {of} with what curricle design buys for {bought}; runs that are there are not trained again.\n{text}"


def _origin(used: list[str], model: str, sources: list[str], like: Study | None, out: Path) -> list[str]:
    """Model, tokenizer and sources: another study's, its benchmarks beside them, or what was named."""
    if like is None:
        named = _supplied(used, sources)
        return [*_model(model, model in PRESETS), "", "sources:", *(f"  {name}: {named[name]}" for name in used)]
    for name in used:
        if name not in like.sources:
            raise Refused(f"--like: the study has no source {name!r}; {nearest(name, like.sources)}")
    tree = like.model_dump(mode="json", exclude_unset=True)
    kept = {field: tree[field] for field in LIKE if field in tree}
    return yaml.safe_dump(_moved(kept, like, out), sort_keys=False, allow_unicode=True, width=110).splitlines()


LIKE = ("model", "tokenizer", "sources", "benchmarks", "max_epochs", "held_out", "decontaminate", "proxy")


def _moved(tree: dict[str, Any], like: Study, out: Path) -> dict[str, Any]:
    """The fields with paths that mean from the draft's folder what they meant from the study's."""

    def path(text: str) -> str:
        if Path(os.path.expandvars(text)).expanduser().is_absolute() or text.startswith(("~", "$")):
            return text
        return os.path.relpath(like.resolve(text).absolute(), out.absolute().parent)

    for source in tree["sources"].values():
        if "files" in source:
            files = source["files"]
            source["files"] = path(files) if isinstance(files, str) else [path(each) for each in files]
        elif "hub" in source and like.resolve(source["hub"]).exists():
            source["hub"] = path(source["hub"])
    for benchmark in tree.get("benchmarks", {}).values():
        if "file" in benchmark:
            benchmark["file"] = path(benchmark["file"])
    if (tree.get("tokenizer") or {}).get("path"):
        tree["tokenizer"]["path"] = path(tree["tokenizer"]["path"])
    checkpoint = tree["model"].get("checkpoint")
    if checkpoint and like.resolve(checkpoint).exists():
        tree["model"]["checkpoint"] = path(checkpoint)
    return tree


def _seeds(like: Study, count: int) -> list[int]:
    """The study's seeds, and as many more as are wanted."""
    more = max(like.seeds) + 1
    return [*like.seeds[:count], *range(more, more + max(0, count - len(like.seeds)))]


def _target(like: Study | None, used: list[str]) -> str | None:
    """What the other study is about, where the draft scores it."""
    target = like.answer_target if like else None
    return target if like and target in {*like.benchmarks, *used} else None


def _recipe(like: Study | None, model: str, least: int, schedule: str | None) -> list[str]:
    if like is not None:
        recipe = like.recipe.model_dump(mode="json", exclude_unset=True) | ({"schedule": schedule} if schedule else {})
        return yaml.safe_dump({"recipe": recipe}, sort_keys=False, width=110).splitlines() if recipe else []
    if model in PRESETS:
        return [f"recipe: {{schedule: {schedule}}}"] if schedule else []
    said = f", schedule: {schedule}" if schedule else ""
    return [
        f"recipe: {{optimizer: adamw, learning_rate: 1.0e-4, batch_tokens: {_batch(model, least)}, "
        f"precision: bf16{said}}}"
    ]


def _own_recipe(like: Study | None, source: str) -> str:
    """What the stage that reads most of this source in the other study says of its recipe, but for the schedule, which
    is the draft's: a field of the stage's YAML, empty where it says nothing."""
    reading = [s for s in like.stages.values() if s.kind == "pretrain" and source in s.sources] if like else []
    if not reading:
        return ""

    def tokens(stage: Stage) -> float:
        begin, read = 0, 0.0
        for end, weights in stage.mixtures:
            read += (end - begin) * weights.get(source, 0.0) / sum(weights.values())
            begin = end
        return read

    own = max(reading, key=tokens).recipe
    said = own.model_dump(mode="json", exclude_unset=True) if own else {}
    kept = {field: value for field, value in said.items() if field not in ("schedule", "decay_share")}
    return f", recipe: {json.dumps(kept)}" if kept else ""


def _supplied(used: Iterable[str], sources: list[str]) -> dict[str, str]:
    """The YAML of each source that is used: as given, or what comes with the package."""
    named = SUPPLIED | _named(sources)
    for name in used:
        if name not in named:
            raise Refused(
                f"--source: none given for {name!r}; write --source {name}=PATH, or use {', '.join(SUPPLIED)}"
            )
    return named


def _named(sources: list[str]) -> dict[str, str]:
    """`NAME=PATH` as the command line writes sources → their YAML."""
    named = {}
    for text in sources:
        name, equals, path = text.partition("=")
        if not equals or not name or not path:
            raise Refused(f"--source {text}: write it as NAME=PATH, for example code='repos/*.jsonl'")
        named[name] = f"{{files: {_quoted(path)}}}"
    return named


def _model(model: str, preset: bool) -> list[str]:
    if preset:
        return [
            f"model: {{preset: {model}, context: 256}}  # fresh weights; or {{checkpoint: FOLDER}}",
            "tokenizer: {bpe: 512}  # trained here, on an equal sample of the sources",
        ]
    if "/" not in model and not Path(model).exists():
        raise Refused(f"--model {model}: neither a preset ({', '.join(PRESETS)}) nor a folder nor a hub id")
    return [f"model: {{checkpoint: {_quoted(model)}, context: {_context(model)}}}  # its own tokenizer is used"]


def _context(model: str) -> int:
    """1,024, or what the checkpoint's positions allow where it is at hand."""
    try:
        config = json.loads((Path(model) / "config.json").read_text(encoding="utf-8"))
        return min(1024, int(config.get("max_position_embeddings") or config.get("n_positions") or 1024))
    except (OSError, ValueError, AttributeError, TypeError):
        return 1024


def _batch(model: str, stage_tokens: int) -> int:
    """16k tokens, or as many rows less as let the stage have thirty steps."""
    context = _context(model)
    return context * max(1, min(16_384, stage_tokens // 30) // context)


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _some(tokens: int) -> str:
    return shortened(max(1, tokens))
