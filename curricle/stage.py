"""A stage as a study's author writes it: its mixture or phases, budget, points, and what it takes over."""

from __future__ import annotations

from fractions import Fraction
from typing import Annotated, Literal, Self

import pydantic
from pydantic import BeforeValidator, Field

from curricle.recipe import Recipe
from curricle.values import Count, Frozen, Weights, parse_until


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
    replay: dict[str, Annotated[float, Field(gt=0, lt=1)]] = Field(default={})
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
    the ranking of sources changes with the rate. The plan counts the cost. An empty list is no sweep: so `--set` takes
    one off."""

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
