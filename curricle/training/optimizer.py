"""The optimizer, as the recipe says it.

AdamW moves everything, or Muon moves the layers' matrices and AdamW the rest (embeddings, output, norms).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from itertools import groupby

import torch
from torch import nn
from torch.distributed.tensor import DTensor, Shard, distribute_tensor

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
                whole = list(members)
                for p in whole:
                    if not self.state[p]:
                        self.state[p]["momentum_buffer"] = torch.zeros_like(p)
                moments = [_local(self.state[p]["momentum_buffer"]) for p in whole]
                gradients = [_local(p.grad) for p in whole]
                torch._foreach_lerp_(moments, gradients, 1 - group["momentum"])
                ahead = torch._foreach_lerp(gradients, moments, group["momentum"])  # Nesterov's look ahead
                steps = _orthogonalised_like(whole, ahead)
                weights = [_local(p) for p in whole]
                torch._foreach_mul_(weights, 1 - group["lr"] * group["weight_decay"])
                torch._foreach_add_(weights, steps, alpha=-group["lr"] * 0.2 * math.sqrt(max(shape)))


def _local(tensor: torch.Tensor) -> torch.Tensor:
    """What of a tensor lies on this rank; all of it where it is not sharded."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def _orthogonalised_like(weights: list[nn.Parameter], ahead: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """The steps of matrices of one shape. Of sharded ones each rank gathers the whole, works it out, and keeps its
    part: a matrix is orthogonal as a whole or not at all."""
    if not isinstance(weights[0], DTensor):
        return list(orthogonalised(torch.stack(list(ahead))))
    mesh, of_one = weights[0].device_mesh, weights[0].placements
    # All in one gather: a gather for each matrix costs a round trip each, and gloo hangs once in very many of them.
    placements = [Shard(where.dim + 1) if isinstance(where, Shard) else where for where in of_one]
    shape = torch.Size((len(weights), *weights[0].shape))
    stride = (shape[1] * shape[2], shape[2], 1)
    like_MNK = DTensor.from_local(torch.stack(list(ahead)), mesh, placements, shape=shape, stride=stride)
    steps_MNK = orthogonalised(like_MNK.full_tensor())
    return list(distribute_tensor(steps_MNK, mesh, placements, src_data_rank=None).to_local())


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
