"""The learning rate of every step, as a pure function of the recipe: a resumed run needs nothing but its step, and a
plan can tell which runs share their first steps."""

from __future__ import annotations

import hashlib
import math

from curricle.study import Recipe


def learning_rate(recipe: Recipe, step: int, steps: int) -> float:
    """The rate of step `step` (from 0) of `steps`: linear warm-up, then the schedule."""
    warmup = warmup_steps(recipe, steps)
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
            factor = min(1.0, (steps - step) / falling_steps(recipe, steps))
    return recipe.learning_rate * factor


def warmup_steps(recipe: Recipe, steps: int) -> int:
    return round(recipe.warmup_tokens / recipe.batch_tokens if recipe.warmup_tokens else recipe.warmup_share * steps)


def falling_steps(recipe: Recipe, steps: int) -> int:
    """The last part of a `wsd` schedule."""
    return max(1, round(recipe.decay_share * steps))


def warmup_fault(stage: str, recipe: Recipe, steps: int) -> str | None:
    """What is wrong with a warm-up in tokens, which a study may give to stages that are shorter than it."""
    warmup = warmup_steps(recipe, steps)
    flat = steps - falling_steps(recipe, steps) if recipe.schedule == "wsd" else steps - 1
    if not recipe.warmup_tokens or warmup <= flat:
        return None
    ends = f"before the rate falls, after step {flat:,} of" if recipe.schedule == "wsd" else "before the last of"
    return (
        f"stages.{stage}.recipe.warmup_tokens: a warm-up of {warmup:,} steps is not over {ends} its {steps:,}; "
        f"lower it, or raise the budget"
    )


def rates(recipe: Recipe, steps: int, until: int) -> str:
    """The first `until` rates of `steps`, to twelve digits, as one word: equal words, equal schedules so far. Of the
    last digits of a cosine C libraries disagree, and a run's name must not depend on the machine."""
    words = " ".join(f"{learning_rate(recipe, step, steps):.12g}" for step in range(until))
    return hashlib.sha256(words.encode()).hexdigest()[:16]
