"""What every question is put to: results, and what of them is meant."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from curricle.analysis.rows.outcomes import Row, outcomes

if TYPE_CHECKING:
    from curricle.results import Results


@dataclass(frozen=True)
class Asked:
    """What questions are put to: results, and the one benchmark or measure that is meant (all where None).

    Both choose what is read. An answer may then be about more than one benchmark, or about a stage."""

    results: Results
    benchmark: str | None = None
    measure: str | None = None
    target: str | None = None  # the study's: what an answer is about where no benchmark was named
    parameters: float | None = None  # of the model, where they are known: what its weights can carry
    at: tuple[float, ...] = ()  # budgets in tokens: of a prediction (twice the largest where none), a split, gains
    max_epochs: float = 4.0  # of a source in a split; the study's own, where it is known
    values: tuple[Row, ...] = ()  # what documents are worth, a row each, as `curricle value --out` writes them

    @cached_property
    def every(self) -> list[Row]:
        """Every outcome: what a target costs is seen on other benchmarks, in other measures."""
        return list(outcomes(self.results))

    @property
    def rows(self) -> list[Row]:
        """Every outcome in the measure asked for, whatever its benchmark."""
        return [row for row in self.every if self.measure in (None, row["measure"])]

    @property
    def benchmarks(self) -> list[str]:
        """What is asked about: the benchmark named, or the target, or all problems, or all there is."""
        named = self.benchmark or self.target
        if named:
            return [named]
        kinds = {row["benchmark"]: row["kind"] for row in self.rows}
        return [name for name, kind in kinds.items() if kind == "problems"] or list(kinds)

    @property
    def groups(self) -> list[list[Row]]:
        """The rows of each benchmark that is asked about, one measure at a time."""
        made: dict[tuple[str, str], list[Row]] = {}
        for row in self.rows:
            if row["benchmark"] in self.benchmarks:
                made.setdefault((row["benchmark"], row["measure"]), []).append(row)
        return list(made.values())

    def about(self, row: Row) -> bool:
        """Whether a row is of the benchmark named (any, where none is) in the measure named."""
        return self.benchmark in (None, row["benchmark"]) and self.measure in (None, row["measure"])
