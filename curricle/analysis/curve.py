"""How a stage's curve depends on what came before it: the same stage, after code, after language, after nothing.

Points are set side by side only where they are comparable: the same stage name, the same budget (so the same place in
the schedule) and the same tokens of that stage. Help from an earlier stage often fades along such a curve, which an
end point alone would hide.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import TYPE_CHECKING

from curricle.analysis.finding import Finding, Part
from curricle.analysis.gain import measured
from curricle.analysis.rows.compare import both, holm_adjusted, level
from curricle.analysis.rows.scores import StageRuns, StrategyRuns, strategies
from curricle.study import Refused, nearest

if TYPE_CHECKING:
    from curricle.results import Results


def common_stages(results: Results) -> list[str]:
    """Stages that at least two strategies train as different runs, the name alone being common."""
    found = strategies(results)
    names = dict.fromkeys(stage.name for strategy in found for stage in strategy.stages)
    return [name for name in names if len(distinct(found, name)) > 1]


def distinct(found: Sequence[StrategyRuns], name: str) -> list[tuple[StrategyRuns, StageRuns]]:
    """Strategies with that stage. Strategies that share the very runs, as those with a common prefix do, stand once,
    the baseline rather than another. Where budgets differ, only the one most strategies have is kept."""
    have = [(strategy, stage) for strategy in found if (stage := strategy.stage(name))]
    by_runs = {tuple(sorted(pair[1].runs.items())): pair for pair in sorted(have, key=lambda pair: pair[0].baseline)}
    once = [pair for pair in have if any(pair is kept for kept in by_runs.values())]
    budgets = [stage.budget_tokens for _, stage in once]
    usual = max(budgets, key=budgets.count, default=None)
    return [(strategy, stage) for strategy, stage in once if stage.budget_tokens == usual]


def curve(results: Results, stage: str, benchmark: str | None = None, measure: str | None = None) -> list[Finding]:
    """The score of each strategy at each evaluation point of `stage` (question `curve`), and each two strategies
    against each other there (`curve-contrast`; over the baseline where it is one of them), Holm-adjusted over the
    points. Raises `Refused` for a stage that no strategy has."""
    found = strategies(results)
    having = distinct(found, stage)
    if not having:
        raise Refused(f"stage: {stage!r} has no rows; {nearest(stage, [s.name for x in found for s in x.stages])}")
    having.sort(key=lambda pair: pair[0].baseline)  # last, so that the others are measured against it
    levels: list[Finding] = []
    changes: list[Finding] = []
    for read, each in measured(results, benchmark, measure):
        for tokens in sorted({tokens for _, here in having for tokens in read.tokens(here)}):
            where = f"after {tokens:,} tokens of {stage}"
            place: dict[str, Part] = {"stage": stage, "tokens": tokens}
            scored = [(strategy, at) for strategy, here in having if (at := read.at(here, tokens, each))]
            for strategy, at in scored:
                about = {"strategy": strategy.name, "baseline": strategy.baseline, **place}
                levels.append(level("curve", f"{strategy.name} {where}", at, about))
            for (a, after), (b, before) in combinations(scored, 2):
                subject, parts = f"{a.name} over {b.name} {where}", {"strategy": a.name, "against": b.name, **place}
                changes += both("curve-contrast", subject, after, before, parts)
    return levels + holm_adjusted(changes, one_curve)


def one_curve(f: Finding) -> object:
    """The family of a contrast: the points of one curve of one pair."""
    return f.benchmark, f.measure, f.parts["strategy"], f.parts["against"]
