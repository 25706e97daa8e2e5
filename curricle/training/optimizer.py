"""The optimizer and its schedule, as the recipe says them.

AdamW moves everything, or Muon moves the layers' matrices and AdamW the rest (embeddings, output, norms). Muon's step
is scaled to the size of AdamW's (Moonlight, arXiv 2502.16982, section 2.2), so that one learning rate serves both.
"""

from __future__ import annotations

import math

import torch
from torch import nn

from curricle.study import Recipe


def make_optimizers(model: nn.Module, recipe: Recipe) -> list[torch.optim.Optimizer]:
    """One optimizer, or two. Only matrices decay: norms and other vectors keep their scale."""
    embeddings = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}
    output = model.get_output_embeddings()  # type: ignore[operator]
    if output is not None:
        embeddings.add(id(output.weight))
    trained = [p for p in model.parameters() if p.requires_grad]
    inner = [p for p in trained if p.ndim == 2 and id(p) not in embeddings]
    outer = [p for p in trained if p.ndim >= 2 and id(p) in embeddings]
    vectors = [p for p in trained if p.ndim < 2 or (p.ndim > 2 and id(p) not in embeddings)]

    def adamw(decayed: list[nn.Parameter]) -> torch.optim.Optimizer:
        groups = [
            {"params": decayed, "weight_decay": recipe.weight_decay},
            {"params": vectors, "weight_decay": 0.0},
        ]
        return torch.optim.AdamW([g for g in groups if g["params"]], lr=recipe.learning_rate, betas=recipe.betas, fused=True)

    if recipe.optimizer == "adamw":
        return [adamw(inner + outer)]
    muon = torch.optim.Muon(
        inner, lr=recipe.learning_rate, weight_decay=recipe.weight_decay, momentum=0.95, adjust_lr_fn="match_rms_adamw"
    )
    return [muon, adamw(outer)]


def learning_rate(recipe: Recipe, step: int, steps: int) -> float:
    """The rate of step `step` (from 0) of `steps`: linear warm-up, then the schedule. A pure function, so that a
    resumed run needs nothing but its step."""
    warmup = round(recipe.warmup_share * steps)
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
