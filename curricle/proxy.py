"""What a study says of itself when it stands for a larger run: how large that one is, and at what rate it is tried."""

from __future__ import annotations

from typing import Annotated, Self

import pydantic
from pydantic import Field

from curricle.values import Count, Frozen


class Proxy(Frozen):
    """A small study that decides for a large run, the target (docs/theory.md, 7)."""

    of_tokens: Count | None = None
    """Tokens of the target, where this study has its baseline's. Every source that ends is cut to the same part of its
    documents, so that a source is passed over as often here as it would be there."""
    learning_rate: Annotated[float, Field(gt=0, le=1)] | None = None
    """A factor on the peak of every stage's recipe. Candidates that learn at a reduced rate stand more nearly in the
    order that large runs give, each with its rate tuned."""

    @pydantic.model_validator(mode="after")
    def _says_something(self) -> Self:
        if self.of_tokens is None and self.learning_rate is None:
            raise ValueError("give of_tokens (the target's budget), learning_rate (a factor on the peak), or both")
        return self
