"""Whether what documents were found to be worth orders sources as training on each did, asked of a study's rows.

The values come from elsewhere (`curricle value --out`, one row a document); the gains are those of stages that read one
source and nothing else, all begun by the same stages. Raises `Refused` where either is missing, and says which.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from curricle.analysis.asked.asking import Asked
from curricle.analysis.finding import ACCURACY, Finding, join, short
from curricle.analysis.rows.cells import SAME_DOSE
from curricle.analysis.rows.columns import known
from curricle.analysis.rows.compare import holm_adjusted
from curricle.analysis.rows.outcomes import DOSE
from curricle.analysis.value import validate, value
from curricle.study import Refused

Row = Mapping[str, Any]
LEAST_SOURCES = 3  # that have a rank
NEAR = 0.1  # how far from a budget that is asked for the points may lie, which are whole batches
NO_VALUES = (
    "it takes what documents are worth before training: curricle value {model} --target NAME=PATH --source NAME=PATH … "
    "--out values.parquet, then curricle analyse … --question value --values values.parquet"
)
SIGN = "A gain above 0 is better; regret is the best source's gain less that of the first by value."


@dataclass(frozen=True, slots=True)
class Alone:
    """One source read alone in one seed: its run, where it began, and its gain at each point; positive is better."""

    source: str
    seed: Any
    run: str
    begin: tuple[str, ...]
    """The stages before it."""
    model: str | None
    """The run that it began from; None where that was the model as it came."""
    gains: Mapping[float, float]
    """Tokens of the stage → what it gained by then, in the score's unit."""


def values_beside_gains(asked: Asked) -> list[Finding]:
    """Each method's values against the gains, at the budgets of the stage that were asked for, or at the largest that
    all sources have; and, where rows say relevance by itself, the mean of r against them, since an optimizer that
    normalises drops a gradient's size (docs/theory.md, 5). P-values are Holm-adjusted over all of them, methods that
    order the sources alike counted once."""
    if not asked.values:
        raise Refused(NO_VALUES.format(model=beginning_of(asked)))
    why: list[Refused] = []
    worth: dict[str, dict[str, float]] = {}
    for method, rows in by_method(asked.values).items():
        with kept(why):
            worth |= ranks_of(method, rows)
    models = {str(row["model"]) for row in asked.values if row.get("model")}
    target = next((row["target"] for row in asked.values if row.get("target")), None)
    several = len({group[0]["measure"] for group in asked.groups}) > 1
    found: list[Finding] = []
    for group in asked.groups:
        benchmark, measure = group[0]["benchmark"], group[0]["measure"]
        with kept(why):
            alone = from_one_beginning(group, models)
            points = common_points(alone)
            for wanted in asked.at or points[-1:]:
                with kept(why):
                    tokens = nearby(points, wanted)
                    for name, values in worth.items():
                        made = set_beside(values, alone, tokens, name, models)
                        subject = f"{name} after {short(tokens)} tokens" + (f", {measure}" if several else "")
                        parts = {"method": name, "measure": measure, "tokens": tokens, "target": target, **made.parts}
                        found.append(replace(made, subject=subject, benchmark=benchmark, parts=parts))
    if why and not found:
        raise why[0]
    if why:
        left = "; ".join(dict.fromkeys(map(str, why)))
        found[0] = replace(found[0], note=join([found[0].note, f"Left out: {left}."]))
    return holm_adjusted(found, lambda f: f.question, one_order)


def beginning_of(asked: Asked) -> str:
    """The runs that sources were read alone from, where there are such; MODEL where not."""
    for group in asked.groups:
        with kept([]):
            models = sorted({a.model for a in from_one_beginning(group, set()) if a.model})
            return f"{models[0]}{f' (and {len(models) - 1} more)' * (len(models) > 1)}" if models else "MODEL"
    return "MODEL"


def one_order(f: Finding) -> object:
    """What makes two p-values the same test: methods that order the sources alike say the same of the same gains."""
    order = tuple(row["source"] for row in sorted(f.table, key=lambda row: float(row["value"] or 0)))
    return f.benchmark, f.parts["measure"], f.parts["tokens"], order


@contextmanager
def kept(why: list[Refused]) -> Iterator[None]:
    """A refusal inside is kept: what else can be answered is."""
    try:
        yield
    except Refused as refusal:
        why.append(refusal)


# ---- values -------------------------------------------------------------------------------------------------------


def by_method(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """The documents' rows by method. Refused where they are of several targets, or hold a document twice."""
    known(rows, "source", "document", "method", filled=True, table="values")
    targets = dict.fromkeys(row["target"] for row in rows if row.get("target") is not None)
    if len(targets) > 1:
        raise Refused(f"values: of several targets, {', '.join(map(str, targets))}; give those of one at a time")
    made: dict[str, list[Row]] = {}
    seen: set[tuple[Any, ...]] = set()
    for row in rows:
        key = row.get("model"), row["method"], row["source"], row["document"]
        if key in seen:
            raise Refused(
                f"values: {row['source']}, {row['document']} stands twice by {row['method']} of {row.get('model')}; "
                "give each document of a model once"
            )
        seen.add(key)
        made.setdefault(str(row["method"]), []).append(row)
    return made


def ranks_of(method: str, rows: Sequence[Row]) -> dict[str, dict[str, float]]:
    """What orders sources by this method: their values, added up over the models that were looked at, and their mean
    relevance where it is known. Refused where a source was looked at by other models than the rest."""
    looked: dict[str, set[Any]] = {}
    for row in rows:
        looked.setdefault(str(row["source"]), set()).add(row.get("model"))
    first = next(iter(looked))
    other = next((source for source, models in looked.items() if models != looked[first]), None)
    if other is not None:
        raise Refused(f"values: by {method} {first} and {other} were not judged by the same models")
    found = value(rows)
    made = {method: {f.subject: f.estimate for f in found if f.estimate is not None}}
    relevance = {f.subject: mean for f in found if isinstance(mean := f.parts.get("mean_r"), float)}
    return made | ({f"{method}, r alone": relevance} if len(relevance) == len(found) else {})


# ---- gains --------------------------------------------------------------------------------------------------------


def from_one_beginning(group: Sequence[Row], models: set[str]) -> list[Alone]:
    """The stages of one benchmark and measure that read one source alone from one beginning: the one that the values'
    models name, else the one from which most sources were read; of one source in one seed, the longest."""
    if not any(name.startswith(DOSE) for row in group for name in row):
        raise Refused("which sources were read is in no table of mixtures, so none is known to have been read alone")
    made: dict[tuple[str, ...], dict[tuple[str, Any], Alone]] = {}
    for alone in read_alone(group):
        here = made.setdefault(alone.begin, {})
        old = here.get((alone.source, alone.seed))
        if old is None or max(alone.gains) > max(old.gains):
            here[alone.source, alone.seed] = alone
    enough = [list(of.values()) for of in made.values() if len({a.source for a in of.values()}) >= LEAST_SOURCES]
    if not enough:
        raise Refused(
            f"no {LEAST_SOURCES} stages that read one source alone, each another, begun by the same stages and scored "
            "where they begin"
        )
    return max(enough, key=lambda of: (begun_by(of, models), len({a.source for a in of})))


def begun_by(alone: Sequence[Alone], models: set[str]) -> bool:
    """Whether they begin from one of these models, named as a run is, in full or by its first letters."""
    return any(a.model and a.model.startswith(model) for a in alone for model in models)


def read_alone(group: Sequence[Row]) -> Iterator[Alone]:
    """Every stage of every strategy that reads one source and nothing else, and was scored where it begins."""
    paths: dict[tuple[str, Any], dict[int, list[Row]]] = {}
    for row in group:
        if row["stage_tokens"] is not None and row["tokens"] is not None:
            paths.setdefault((row["strategy"], row["seed"]), {}).setdefault(row["position"], []).append(row)
    for (_, seed), stages in paths.items():
        for position, points in stages.items():
            begin = points[0]["tokens"] - points[0]["stage_tokens"]
            read = [row for row in points if row["stage_tokens"] > 0]
            earlier = [row for at, of in stages.items() if at < position for row in of]
            earlier += [row for row in points if row["stage_tokens"] == 0]  # the model as it came
            before = min(earlier, key=lambda row: abs(row["tokens"] - begin), default=None)
            if before is None or not close(before["tokens"], begin) or not read:
                continue
            last = max(read, key=lambda row: row["stage_tokens"])
            source = only_source(last, before)
            if source is not None:
                sign = 1 if last["measure"] == ACCURACY else -1
                names = tuple(stages[at][0]["stage"] for at in sorted(stages) if at < position)
                gains = {row["stage_tokens"]: sign * (row["score"] - before["score"]) for row in read}
                yield Alone(source, seed, last["run"], names, before["run"] if names else None, gains)


def close(one: float, other: float) -> bool:
    """Whether two budgets are one: they are rounded to rows and batches."""
    return abs(one - other) <= SAME_DOSE * max(one, other)


def only_source(last: Row, before: Row) -> str | None:
    """The one source that was read between the two; None where there were several."""
    room = SAME_DOSE * last["stage_tokens"]
    read = [name.removeprefix(DOSE) for name in last if name.startswith(DOSE) and last[name] - before[name] > room]
    return read[0] if len(read) == 1 else None


def common_points(alone: Sequence[Alone]) -> list[float]:
    """Tokens of the stage at which every source was scored in some seed, ascending."""
    points = sorted({tokens for a in alone for tokens in a.gains})
    distinct = [t for t, after in zip(points, [*points[1:], None]) if after is None or not close(t, after)]
    sources = {a.source for a in alone}
    common = [t for t in distinct if {a.source for a in alone if gain_at(a, t) is not None} == sources]
    if not common:
        ends = ", ".join(f"{a.source} {short(max(a.gains))}" for a in {a.source: a for a in alone}.values())
        raise Refused(f"no budget at which all sources read alone were scored; their ends: {ends}")
    return common


def nearby(points: Sequence[float], wanted: float) -> float:
    """The point that a budget means: runs end on whole batches, so within a tenth of it."""
    nearest = min(points, key=lambda tokens: abs(tokens - wanted))
    if abs(nearest - wanted) > NEAR * wanted:
        raise Refused(f"--at {short(wanted)}: not scored there; known: {', '.join(map(short, points))}")
    return nearest


def gain_at(alone: Alone, tokens: float) -> float | None:
    there = min(alone.gains, key=lambda point: abs(point - tokens))
    return alone.gains[there] if close(there, tokens) else None


# ---- both ---------------------------------------------------------------------------------------------------------


def set_beside(
    values: Mapping[str, float], alone: Sequence[Alone], tokens: float, method: str, models: set[str]
) -> Finding:
    """`validate` with the seeds that all sources have, and what was left out said."""
    both = [a for a in alone if a.source in values and gain_at(a, tokens) is not None]
    seeds = [{a.seed for a in both if a.source == source} for source in dict.fromkeys(a.source for a in both)]
    common = set.intersection(*seeds) if seeds else set()
    kept = [a for a in both if a.seed in common] or both
    if not both:
        there = ", ".join(dict.fromkeys(a.source for a in alone))
        raise Refused(f"values: they are of {', '.join(values)}; the sources read alone are {there}")
    gains = [{"source": a.source, "seed": a.seed, "gain": gain_at(a, tokens)} for a in kept]
    found = validate(values, gains, method=method)
    trained = dict.fromkeys(a.source for a in alone)
    lacking = [name for name in values if name not in trained], [name for name in trained if name not in values]
    dropped = sorted(set().union(*seeds) - common, key=str) if common else []
    begun = {a.model for a in kept if a.model}
    judged = {run for run in begun if any(run.startswith(model) for model in models)}
    where = ""
    if models and not judged:
        where = f"The values are of {', '.join(sorted(models))}; the sources were read from {', '.join(sorted(begun))}."
    elif models and judged < begun:
        where = f"Values of {len(judged)} of {len(begun)} beginnings."
    return replace(
        found, runs=tuple(dict.fromkeys(a.run for a in kept)),
        note=join([
            found.note,
            f"Not read alone: {', '.join(lacking[0])}." if lacking[0] else "",
            f"Without values: {', '.join(lacking[1])}." if lacking[1] else "",
            f"Left out, since not all sources have them: seeds {', '.join(map(str, dropped))}." if dropped else "",
            where, SIGN,
        ]),
    )  # fmt: skip
