"""The optimizer and its schedule, as the recipe says them.

AdamW moves everything, or Muon moves the layers' matrices and AdamW the rest (embeddings, output, norms).
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from itertools import groupby

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
        return torch.optim.AdamW(
            [g for g in groups if g["params"]], lr=recipe.learning_rate, betas=recipe.betas, fused=True
        )

    if recipe.optimizer == "adamw":
        return [adamw(inner + outer)]
    return [Muon(inner, lr=recipe.learning_rate, weight_decay=recipe.weight_decay), adamw(outer)]


class Muon(torch.optim.Optimizer):
    """Muon (K. Jordan, 2024), the step scaled to the size of AdamW's (Moonlight, arXiv 2502.16982, section 2.2), so
    that one learning rate serves both: what `torch.optim.Muon(adjust_lr_fn="match_rms_adamw")` computes.

    It differs in how: matrices of one shape are orthogonalised together, and on a CPU in fp32 rather than in bf16,
    which most CPUs emulate. On small models that was 100 of 280 ms a step (docs/LOG.md).
    """

    def __init__(self, matrices: Iterable[nn.Parameter], lr: float, weight_decay: float, momentum: float = 0.95):
        # Sorted once by shape; the sort is stable, so a saved state fits the next process.
        ordered = sorted(matrices, key=lambda p: tuple(p.shape))
        super().__init__(ordered, {"lr": lr, "weight_decay": weight_decay, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            trained = [p for p in group["params"] if p.grad is not None]
            for shape, members in groupby(trained, key=lambda p: tuple(p.shape)):
                weights = list(members)
                for p in weights:
                    if not self.state[p]:
                        self.state[p]["momentum_buffer"] = torch.zeros_like(p)
                moments = [self.state[p]["momentum_buffer"] for p in weights]
                gradients = [p.grad for p in weights]
                torch._foreach_lerp_(moments, gradients, 1 - group["momentum"])
                ahead = torch._foreach_lerp(gradients, moments, group["momentum"])  # Nesterov's look ahead
                steps_MNK = orthogonalised(torch.stack(ahead))
                torch._foreach_mul_(weights, 1 - group["lr"] * group["weight_decay"])
                torch._foreach_add_(weights, list(steps_MNK), alpha=-group["lr"] * 0.2 * math.sqrt(max(shape)))


def orthogonalised(gradients_MNK: torch.Tensor) -> torch.Tensor:
    """M matrices of N×K with their singular values driven towards 1, by five steps of Newton–Schulz (Jordan's
    quintic)."""
    a, b, c = 3.4445, -4.7750, 2.0315
    tall = gradients_MNK.shape[1] > gradients_MNK.shape[2]
    x = gradients_MNK.mT if tall else gradients_MNK
    x = x.float() if x.device.type == "cpu" else x.bfloat16()
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp(min=1e-7)
    for _ in range(5):
        gram = x @ x.mT
        x = a * x + torch.baddbmm(gram, gram, gram, beta=b, alpha=c) @ x
    return (x.mT if tall else x).to(gradients_MNK.dtype)


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
