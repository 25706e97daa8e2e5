"""Where and how a plan is carried out. Nothing in it is part of what a run is: it changes speed and memory, never the
result beyond rounding: sums over ranks add in another order, and in bf16 many GPUs hold their parts of a layer in
bf16 while it works, where one GPU casts operation by operation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

# Two rows of 4096. A published batch is millions of tokens, of which a GPU's share would not fit; parts of this size
# are large enough to keep it busy.
GPU_MICRO_BATCH_TOKENS = 8192


@dataclass(frozen=True, slots=True)
class Execution:
    """What `curricle run` is told beside the study. The default suits a machine of a few cores, or of one GPU."""

    ranks: int = 1
    """Processes (and GPUs, where there are any) that train one run together."""
    replicas: int = 1
    """Copies of the model among them: 1 shards it over all ranks, more is hybrid sharding."""
    compile: bool | None = None
    """`torch.compile` the layers; None: on a GPU only. On a CPU long runs gain too (docs/results/train_cpu.md)."""
    attention: Literal["auto", "sdpa", "flex_attention"] = "auto"
    """How documents in a row are kept apart: by a dense mask, or block by block (by default on a GPU, for models that
    can)."""
    recompute: bool = False
    """Activation checkpointing: activations are made again in the backward pass, for memory."""
    micro_batch_tokens: int | None = None
    """Tokens that a rank holds activations of at once, one row at least; its share of a batch is accumulated from such
    parts. None: the recipe's, and where that has none `GPU_MICRO_BATCH_TOKENS` on a GPU, the whole share on a CPU."""
    save_ahead: bool | None = None
    """Write checkpoints while training goes on; None: on a GPU only."""
    save_seconds: float = 30.0
    """Time between checkpoints that are only there to resume from; it grows where saving takes long."""
    keep: int = 2
    """How many of these stay."""
    resources: Mapping[str, float] = field(default_factory=dict)
    """What a run asks of a Ray cluster, by Ray's names (`CPU`, `GPU`, `memory` in bytes, or one that its nodes were
    given), in the place of a CPU and, where there are any, a GPU for each rank."""

    def at_once(self, recipe_tokens: int | None, kind: str) -> int | None:
        """Tokens that a rank takes at once on such a device, for a recipe that names so many or none; None: all."""
        return self.micro_batch_tokens or recipe_tokens or (GPU_MICRO_BATCH_TOKENS if kind == "cuda" else None)

    def for_device(self, kind: str) -> Execution:
        """The same with what depends on the device settled."""
        gpu = kind == "cuda"
        return replace(
            self,
            compile=gpu if self.compile is None else self.compile,
            save_ahead=gpu if self.save_ahead is None else self.save_ahead,
        )
