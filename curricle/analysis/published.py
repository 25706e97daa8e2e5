"""Published tables, analysed by the same functions as our own runs.

The figures stand in `published/*.json` with the paper's arXiv id and table numbers. A published score says how many
problems were solved and not which, and comes from one run: so intervals are binomial, tests are unpaired, both speak
about those weights only, and every finding says that seeds are unknown.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from math import log, sqrt

from curricle.analysis.finding import ACCURACY, ERRORS, PERCENT, POINTS, THESE_WEIGHTS, Finding, Interval, Part, join
from curricle.analysis.gain import compare_scores, two_sided
from curricle.analysis.rows.compare import NOTHING_WRONG, holm_adjusted
from curricle.analysis.statistics.intervals import binomial_variance, normal

ONE_RUN = "One run each: seeds are unknown, so nothing is said about another run. Pairing is unknown: unpaired."
UNKNOWN_N = "The number of problems is not stated, so there is no interval."

CODE, GENERAL, MATH = "code 400B", "general 400B", "math 150B"
NOTHING = "no training on mathematics"


@dataclass(frozen=True, slots=True)
class Table:
    """One table of a paper: model → benchmark → percent correct, None where the paper has none."""

    paper: str
    table: str
    scores: Mapping[str, Mapping[str, float | None]]
    problems: Mapping[str, int]

    def name(self, model: str) -> str:
        return f"{self.paper}, table {self.table}: {model}"

    @property
    def benchmarks(self) -> list[str]:
        return list(next(iter(self.scores.values())))


def tables(paper: str = "deepseekmath") -> dict[str, Table]:
    """The tables of one paper by their number as a string."""
    text = (files("curricle.analysis") / "published" / f"{paper}.json").read_text(encoding="utf-8")
    data = json.loads(text)
    return {
        t["table"]: Table(
            f"arXiv:{data['arxiv']}",
            t["table"],
            {model: dict(zip(t["benchmarks"], row, strict=True)) for model, row in t["scores"].items()},
            data["problems"],
        )
        for t in data["tables"]
    }


def published() -> list[Finding]:
    """What DeepSeekMath's tables say: its gain over Mistral, the code ablation, arXiv alone, and its corpus."""
    t = tables()
    made: list[Finding] = []
    for number in ("2", "3"):
        made += _over(t[number], "published-gain", "DeepSeekMath-Base 7B", "Mistral 7B")
    code_first, general_first = f"{CODE}, {MATH}", f"{GENERAL}, {MATH}"
    made += _over(t["6 and 7"], "published-code", code_first, general_first)
    made += interactions(t["6 and 7"], code_first, CODE, general_first, GENERAL)
    for number, sizes in (("8", ("1.3B", "7B")), ("9", ("7B",))):
        for size in sizes:
            for corpus in ("MathPile", "ArXiv-RedPajama"):
                made += _over(t[number], "published-arxiv", f"{size}, {corpus}", f"{size}, {NOTHING}")
    own = "DeepSeekMath Corpus (120.2B)"
    for other in t["1"].scores:
        made += _over(t["1"], "published-corpus", own, other) if other != own else []
    return holm_adjusted(made, lambda f: f.question)


def _over(table: Table, question: str, model: str, against: str) -> Iterator[Finding]:
    """One model over another on each benchmark that both were scored on: points, percent, and the share of errors
    removed."""
    for benchmark in table.benchmarks:
        p1, p2 = table.scores[against][benchmark], table.scores[model][benchmark]
        if p1 is None or p2 is None:
            continue
        n = table.problems.get(benchmark)
        c = compare_scores(p1, p2, n)
        parts: dict[str, Part] = {
            "strategy": model,
            "against": against,
            "after": p2,
            "before": p1,
            "z": c.z,
            "p_alone": c.p_value,
        }
        for unit, value, interval, undefined in (
            (POINTS, c.absolute_points, c.absolute_interval, None),
            (PERCENT, c.relative_gain_percent, c.relative_interval, c.undefined),
            (ERRORS, c.error_reduction_percent, c.error_reduction_interval, NOTHING_WRONG),
        ):
            yield Finding(
                question, f"{model} over {against}", ACCURACY, benchmark, value, unit, (interval,) if interval else (),
                c.p_value, "unpaired z, unpooled variances" if n else "", n or 0, 1,
                (table.name(model), table.name(against)), undefined if value is None else None,
                join([ONE_RUN, c.note if n and unit == PERCENT else "", "" if n else UNKNOWN_N]), parts,
            )  # fmt: skip


def interactions(table: Table, both: str, first: str, second: str, neither: str) -> Iterator[Finding]:
    """(both − first) − (second − neither) on each benchmark, in points: what mathematics gave after the one beginning
    more than after the other. Beside it, in `parts`, the same on the logit scale, where its sign may differ: an
    interaction belongs to a scale (docs/theory.md, section 3)."""
    models: Sequence[str] = (both, first, second, neither)
    signs = (1, -1, -1, 1)
    for benchmark in table.benchmarks:
        n = table.problems.get(benchmark)
        scores = [table.scores[model][benchmark] for model in models]
        shares = [p / 100 for p in scores if p is not None]
        if n is None or len(shares) < 4:
            continue
        points = 100 * sum(sign * p for sign, p in zip(signs, shares))
        error = 100 * sqrt(sum(binomial_variance(p, n) for p in shares))
        logit = None if {0.0, 1.0} & set(shares) else sum(s * log(p / (1 - p)) for s, p in zip(signs, shares))
        half, z = normal(0.95) * error, points / error
        yield Finding(
            "published-interaction", f"({both} − {first}) − ({second} − {neither})", ACCURACY, benchmark,
            points, POINTS, (Interval(points - half, points + half, THESE_WEIGHTS),), two_sided(z),
            "unpaired z, unpooled variances", n, 1, tuple(table.name(model) for model in models), None, ONE_RUN,
            {**dict(zip(models, scores)), "z": z, "p_alone": two_sided(z), "logit": logit},
        )  # fmt: skip
