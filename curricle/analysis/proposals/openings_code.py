"""What the question of why code helps would take: a strategy with code again, its code without one property at a time,
and other text in its place (`openings.py` has the other questions')."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, get_args

from curricle.analysis.asked.designs import instead
from curricle.analysis.proposals.had import Had
from curricle.analysis.proposals.own_study import Runs, spelled, tokens_of
from curricle.study import Counterfactual, Files, Hub, Installed, Refused

TAKES_ALL = "code"  # leaves the comments, seldom enough to fill the place of the code


def counterfactuals(had: Had) -> Iterator[Runs]:
    """A strategy with code, its code without one property at a time, and other text in its place."""
    study = had.own.study
    code = next((name for name, spec in study.sources.items() if is_code(name, spec)), None)
    if code is None:
        return
    with_code = [s for s in study.strategies if code in sources_of(had, s)]
    if not with_code:
        return
    whole = min(with_code, key=lambda s: (had.tokens(s), s))
    stages = [name for name in study.strategies[whole] if code in study.stages[name].sources]

    def arm(source: str, said: str) -> dict[tuple[str, ...], Any]:
        made: dict[tuple[str, ...], Any] = {}
        for stage in stages:
            made["stages", spelled(f"{stage} {said}")] = renamed(had.copied(stage), code, source)
        path = [spelled(f"{name} {said}") if name in stages else name for name in study.strategies[whole]]
        return made | {("strategies", spelled(f"{whole} {said}")): path}

    sets: dict[tuple[str, ...], Any] = {}
    takes = [t for t in get_args(Counterfactual.model_fields["take"].annotation) if t != TAKES_ALL]
    for take in takes:
        name = spelled(f"{code} without {take}")
        sets |= {("sources", name): {"counterfactual": code, "take": take}, **arm(name, f"without {take}")}
    read = sources_of(had, whole)
    others = {instead_of(read, sources_of(had, s), code) for s in study.strategies} - {None}
    if not any(source and plain(study.sources[source]) for source in others):
        free = [s for s in study.sources if s != code and plain(study.sources[s])]
        enough = [s for s in free if had.own.supply.get(s, float("inf")) >= read[code] and s not in read]
        if not (enough or free):
            raise Refused("no other text to stand in the place of the code")
        source = (enough or free)[0]
        sets |= arm(source, f"replaced by {source}")
    yield had.own.beside(f"{whole} with {code} of which {len(takes)} properties are taken away, one at a time", sets)


def is_code(name: str, spec: Any) -> bool:
    if isinstance(spec, Installed):
        return spec.installed == "code"
    return isinstance(spec, Files | Hub) and not spec.conversation and "code" in name.lower()


def plain(spec: Any) -> bool:
    return not isinstance(spec, Counterfactual)


def sources_of(had: Had, strategy: str) -> dict[str, float]:
    read: dict[str, float] = {}
    for name in had.own.study.strategies[strategy]:
        for source, tokens in tokens_of(had.own.study.stages[name].mixtures).items():
            read[source] = read.get(source, 0.0) + tokens
    return read


def instead_of(doses: Mapping[str, float], other: Mapping[str, float], code: str) -> str | None:
    every = {*doses, *other}
    return instead({s: doses.get(s, 0.0) for s in every}, {s: other.get(s, 0.0) for s in every}, code)


def renamed(stage: dict[str, Any], code: str, source: str) -> dict[str, Any]:
    """The same stage that reads another source in the place of the code."""

    def swapped(weights: Mapping[str, float] | None) -> dict[str, float]:
        made: dict[str, float] = {}
        for name, weight in (weights or {}).items():
            name = source if name == code else name
            made[name] = made.get(name, 0.0) + weight
        return made

    for field in ("mixture", "replay"):
        if stage.get(field):
            stage[field] = swapped(stage[field])
    if stage.get("phases"):
        stage["phases"] = [phase | {"mixture": swapped(phase["mixture"])} for phase in stage["phases"]]
    return stage
