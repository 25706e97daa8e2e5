"""Shapes of models: the presets, and what a shape costs in parameters and FLOPs.

Letters: L layers, H hidden, F feed-forward, A attention heads, K key-value heads, V vocabulary, T tokens in a row.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Shape:
    """A Llama-like decoder: grouped attention, gated feed-forward, RMS norms, rotary positions."""

    layers: int
    hidden: int
    feed_forward: int
    heads: int
    kv_heads: int
    vocabulary: int | None = None
    """Fixed by a checkpoint; None where the tokenizer decides."""
    tied: bool = True
    """The output matrix is the embedding."""
    head: int | None = None
    """Size of a head, where it is not hidden / heads (Qwen3, Gemma)."""
    gated: bool = True
    """Whether the feed-forward has a gate, which is a third matrix (GPT-2 and GPT-NeoX have none)."""

    @property
    def head_size(self) -> int:
        return self.head or self.hidden // self.heads

    def matrix_parameters(self) -> int:
        """Parameters of the layers' matrices, embeddings apart."""
        attention = self.hidden * self.head_size * (2 * self.heads + 2 * self.kv_heads)
        return self.layers * (attention + (3 if self.gated else 2) * self.hidden * self.feed_forward)

    def parameters(self, vocabulary: int) -> int:
        """All parameters, norms and embeddings included: what `model.num_parameters()` counts for a Llama. Other
        families have a few vectors more, and GPT-2 a table of positions."""
        embeddings = vocabulary * self.hidden * (1 if self.tied else 2)
        return self.matrix_parameters() + embeddings + self.hidden * (2 * self.layers + 1)

    def training_flops_per_token(self, vocabulary: int, context: int) -> float:
        """Forward and backward, for one token: 6 FLOPs a weight that multiplies (the output matrix included, the
        embedding look-up not), and attention's two products over T positions, halved as it is causal:
        6·L·H·T (PaLM, arXiv 2204.02311, appendix B, counts the full square, 12·L·H·T)."""
        multiplied = self.matrix_parameters() + vocabulary * self.hidden
        return 6.0 * multiplied + 6.0 * self.layers * self.heads * self.head_size * context

    def forward_flops_per_token(self, vocabulary: int, context: int) -> float:
        return self.training_flops_per_token(vocabulary, context) / 3


# 7b is the shape of DeepSeek LLM 7B and DeepSeek-Coder-Base-v1.5 7B (arXiv 2401.02954, table 2).
PRESETS: dict[str, Shape] = {
    "0.4m": Shape(layers=3, hidden=96, feed_forward=256, heads=4, kv_heads=4),
    "0.5m": Shape(layers=4, hidden=96, feed_forward=256, heads=4, kv_heads=4),
    "1m": Shape(layers=4, hidden=128, feed_forward=352, heads=4, kv_heads=4),
    "3m": Shape(layers=6, hidden=192, feed_forward=512, heads=6, kv_heads=6),
    "10m": Shape(layers=8, hidden=320, feed_forward=864, heads=5, kv_heads=5),
    "160m": Shape(layers=12, hidden=768, feed_forward=2048, heads=12, kv_heads=12, vocabulary=50304, tied=False),
    "400m": Shape(layers=24, hidden=1024, feed_forward=2816, heads=16, kv_heads=16, vocabulary=50304, tied=False),
    "1b": Shape(layers=16, hidden=2048, feed_forward=8192, heads=32, kv_heads=8, vocabulary=50304),
    "7b": Shape(layers=30, hidden=4096, feed_forward=11008, heads=32, kv_heads=32, vocabulary=102400, tied=False),
}
