"""How a stage's weights are moved: optimizer, learning rate and its schedule, batch, guard, averaging.

The default is what learned fastest here. A published recipe is a preset: it fills in the fields that are not written
beside it, and its name is no part of the recipe, so that the same fields are the same run.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import pydantic
from pydantic import Field

from curricle.values import Beta, Count, Frozen, Share


class Average(Frozen):
    """The weights that leave a stage are the mean of its last few states (Sanyal et al., arXiv 2306.03241)."""

    last: Annotated[int, Field(ge=2, le=64)]
    every_tokens: Count


# Published recipes (arXiv 2402.03300). Weight decay and betas of the second are those of the first: none are stated.
RECIPES: dict[str, dict[str, Any]] = {
    # Section 2.3: 10M tokens a batch, here the 2,432 rows of 4096 nearest below that 8, 16, 32, 64 or 128 ranks can
    # share; 2,000 steps of 50,000 are the warm-up.
    "deepseekmath-pretrain": {
        "optimizer": "adamw",
        "learning_rate": 4.2e-4,
        "schedule": "multistep",
        "warmup_share": 0.04,
        "batch_tokens": 2432 * 4096,
        "weight_decay": 0.1,
        "betas": (0.9, 0.95),
        "precision": "bf16",
    },
    # Section 3.1: 256 rows of 4096 a batch; 500 steps of it are a budget of 524,288,000 tokens.
    "deepseekmath-instruct": {
        "optimizer": "adamw",
        "learning_rate": 5e-5,
        "schedule": "constant",
        "warmup_share": 0.0,
        "batch_tokens": 256 * 4096,
        "weight_decay": 0.1,
        "betas": (0.9, 0.95),
        "precision": "bf16",
    },
}


class Recipe(Frozen):
    """How a stage's weights are moved. The default is what learned fastest here (docs/LOG.md)."""

    preset: Literal["deepseekmath-pretrain", "deepseekmath-instruct"] | None = Field(default=None, exclude=True)
    """A published recipe to start from; fields beside it override. Its fields are the recipe, its name is no part."""
    optimizer: Literal["muon", "adamw"] = "muon"
    """`muon` moves the matrices by Muon and the rest by AdamW; both read `learning_rate` (updates of equal size)."""
    learning_rate: Annotated[float, Field(gt=0, le=1)] = 4e-3
    schedule: Literal["constant", "multistep", "cosine", "wsd"] = "constant"
    """After the warm-up: flat; ×0.316 at 80 % and ×0.1 at 90 %; a half cosine to 10 %; flat, then straight to 0."""
    warmup_share: Share = 0.02
    """Of the stage; or `warmup_tokens`, which a longer stage leaves as they are."""
    warmup_tokens: Count | None = None
    decay_share: Share = 0.2
    """The last part of a `wsd` schedule, in which the rate falls to 0."""
    batch_tokens: Count = 2048
    micro_batch_tokens: Count | None = None
    """Tokens held in memory at once; the batch is accumulated from such parts. It is no part of what a run is:
    `curricle run --micro-batch-tokens` says otherwise."""
    weight_decay: Annotated[float, Field(ge=0, le=1)] = 0.1
    betas: tuple[Beta, Beta] = (0.9, 0.95)
    clip: Annotated[float, Field(gt=0)] = 1.0
    skip_sigma: Annotated[float, Field(gt=0)] = 6.0
    """A step whose loss or gradient norm lies so many standard deviations above the last 128 moves nothing; nor does
    one that is not a number."""
    max_skipped: Annotated[int, Field(ge=0, le=127)] = 10
    """Past so many skipped steps among the last 128 the run stops."""
    average: Average | None = None
    precision: Literal["fp32", "bf16"] = "fp32"

    @pydantic.model_validator(mode="before")
    @classmethod
    def _begins_with_its_preset(cls, data: object) -> object:
        if isinstance(data, Mapping) and isinstance(data.get("preset"), str):
            return {**RECIPES.get(data["preset"], {}), **data}
        return data
