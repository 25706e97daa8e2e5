"""The learning rate of every step, as a pure function of the recipe: a resumed run needs nothing but its step, and a
plan can tell which runs share their first steps."""

from __future__ import annotations

import hashlib
import math
from array import array

from curricle.study import Recipe


def learning_rate(recipe: Recipe, step: int, steps: int) -> float:
    """The rate of step `step` (from 0) of `steps`: linear warm-up, then the schedule."""
    warmup = round(recipe.warmup_tokens / recipe.batch_tokens if recipe.warmup_tokens else recipe.warmup_share * steps)
    if step < warmup:
        return recipe.learning_rate * (step + 1) / warmup
    done = step / steps
    match recipe.schedule:
        case "constant":
            factor = 1.0
        case "multistep":  # DeepSeekMath (arXiv 2402.03300), section 2.3
            factor = 1.0 if done < 0.8 else 0.316 if done < 0.9 else 0.1
        case "cosine":
            factor = 0.1 + 0.45 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))
        case "wsd":
            falling = max(1, round(recipe.decay_share * steps))
            factor = min(1.0, (steps - step) / falling)
    return recipe.learning_rate * factor


def rates(recipe: Recipe, steps: int, until: int) -> str:
    """The first `until` rates of `steps`, to the last digit, as one word: equal words, equal schedules so far."""
    numbers = array("d", (learning_rate(recipe, step, steps) for step in range(until)))
    return hashlib.sha256(numbers.tobytes()).hexdigest()[:16]
