"""A decoder as LitGPT and nanoGPT build theirs, written here in that shape, for `train_cpu.py` to train.

The same arithmetic as our Llama presets (grouped attention aside: their presets at this size have none), with one
matrix for query, key and value, one for gate and up, rotary tables made once, and no options. Batches come from a
memory-mapped file at random offsets.

Letters: B rows, T tokens in a row, H heads, D head size, C hidden, V vocabulary.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from curricle.shapes import Shape


def rotated(x_BHTD: torch.Tensor, cos_TD: torch.Tensor, sin_TD: torch.Tensor) -> torch.Tensor:
    first, second = x_BHTD.chunk(2, dim=-1)
    return x_BHTD * cos_TD + torch.cat((-second, first), dim=-1) * sin_TD


class Block(nn.Module):
    def __init__(self, shape: Shape):
        super().__init__()
        self.heads = shape.heads
        self.norm_1 = nn.RMSNorm(shape.hidden, eps=1e-6)
        self.qkv = nn.Linear(shape.hidden, 3 * shape.hidden, bias=False)
        self.out = nn.Linear(shape.hidden, shape.hidden, bias=False)
        self.norm_2 = nn.RMSNorm(shape.hidden, eps=1e-6)
        self.gate_up = nn.Linear(shape.hidden, 2 * shape.feed_forward, bias=False)
        self.down = nn.Linear(shape.feed_forward, shape.hidden, bias=False)

    def forward(self, x_BTC: torch.Tensor, cos_TD: torch.Tensor, sin_TD: torch.Tensor) -> torch.Tensor:
        B, T, C = x_BTC.shape
        q, k, v = self.qkv(self.norm_1(x_BTC)).view(B, T, 3, self.heads, C // self.heads).permute(2, 0, 3, 1, 4)
        q, k = rotated(q, cos_TD, sin_TD), rotated(k, cos_TD, sin_TD)
        mixed_BHTD = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x_BTC = x_BTC + self.out(mixed_BHTD.transpose(1, 2).reshape(B, T, C))
        gate, up = self.gate_up(self.norm_2(x_BTC)).chunk(2, dim=-1)
        return x_BTC + self.down(F.silu(gate) * up)


class Decoder(nn.Module):
    def __init__(self, shape: Shape, vocabulary: int, context: int):
        super().__init__()
        if shape.kv_heads != shape.heads:
            raise ValueError("the fused matrix here has as many keys and values as queries")
        self.embedding = nn.Embedding(vocabulary, shape.hidden)
        self.blocks = nn.ModuleList(Block(shape) for _ in range(shape.layers))
        self.norm = nn.RMSNorm(shape.hidden, eps=1e-6)
        self.head = nn.Linear(shape.hidden, vocabulary, bias=False)
        if shape.tied:
            self.head.weight = self.embedding.weight
        rates = 1e4 ** -(torch.arange(0, shape.head_size, 2) / shape.head_size)
        angles_TD = torch.outer(torch.arange(context), rates).repeat(1, 2)
        self.register_buffer("cos_TD", angles_TD.cos(), persistent=False)
        self.register_buffer("sin_TD", angles_TD.sin(), persistent=False)
        for p in self.parameters():
            if p.ndim == 2:
                nn.init.normal_(p, std=0.02)

    def forward(self, tokens_BT: torch.Tensor, labels_BT: torch.Tensor) -> torch.Tensor:
        T = tokens_BT.shape[1]
        x_BTC = self.embedding(tokens_BT)
        for block in self.blocks:
            x_BTC = block(x_BTC, self.cos_TD[:T], self.sin_TD[:T])
        return F.cross_entropy(self.head(self.norm(x_BTC)).flatten(0, 1), labels_BT.flatten())


def get_batch(file: Path, rows: int, context: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows at random offsets. The map is opened each time, as nanoGPT does: kept open, its pages count as memory."""
    data = np.memmap(file, np.uint16, mode="r")
    starts = np.random.randint(0, len(data) - context - 1, rows)
    rows_BS = torch.from_numpy(np.stack([data[s : s + context + 1] for s in starts]).astype(np.int64))
    return rows_BS[:, :-1], rows_BS[:, 1:]
