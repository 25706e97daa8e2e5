"""What the proposals of runs go on: what was asked of which rows, the study that they are of, and its target."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from curricle.analysis.asked.asking import Asked
from curricle.analysis.finding import LOSSES
from curricle.analysis.proposals.own_study import Own, spelled


@dataclass(frozen=True, slots=True)
class Had:
    """Rows, study and target, and what is read off them."""

    asked: Asked
    own: Own
    target: str

    @property
    def ends(self) -> list[Mapping[str, Any]]:
        return [row for row in self.asked.every if row["final"] and row["tokens"]]

    def pretrained(self, strategy: str) -> list[str]:
        return [name for name in self.own.study.strategies[strategy] if self.pretrained_stage(name)]

    def copied(self, stage: str, **fields: Any) -> dict[str, Any]:
        return self.own.study.stages[stage].model_dump(mode="json", exclude_unset=True) | fields

    @property
    def alone(self) -> list[str]:
        """Stages that are a strategy by themselves, one for each mixture."""
        made: dict[str, str] = {}
        for path in self.own.study.strategies.values():
            if len(path) == 1 and self.pretrained_stage(path[0]):
                made.setdefault(str(self.own.study.stages[path[0]].mixtures[-1][1]), path[0])
        return list(made.values())

    def target_after_first(self) -> dict[str, float]:
        """What the target comes to at the end of each stage that a strategy begins with, lower is better."""
        here = [row for row in self.asked.every if row["benchmark"] == self.target and not row["position"]]
        losses = [row for row in here if row["measure"] in LOSSES]
        of: dict[str, list[tuple[float, float]]] = {}
        for row in losses or here:
            of.setdefault(spelled(row["stage"]), []).append((row["tokens"] or 0.0, row["score"]))
        sign = 1 if losses else -1
        made = {}
        for stage, points in of.items():
            ends = [score for tokens, score in points if tokens == max(points)[0]]
            made[stage] = sign * sum(ends) / len(ends)
        return made

    def pretrained_stage(self, name: str) -> bool:
        return self.own.study.stages[name].kind == "pretrain"

    def tokens(self, strategy: str) -> float:
        return sum(self.own.study.stages[name].budget_tokens for name in self.own.study.strategies[strategy])
