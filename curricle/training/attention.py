"""How documents in a row are kept apart: a dense mask anywhere, or block by block on a GPU (PyTorch flex attention).

Under autocast the rotary embedding leaves queries and keys in float32 beside values in bfloat16, which flex attention
refuses and a dense mask casts by itself; ours casts them alike.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.flex_attention import flex_attention_forward
from transformers.masking_utils import flex_attention_mask

FLEX = "curricle_flex"


def flex_of_one_type(
    module: torch.nn.Module, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *rest: Any, **named: Any
) -> Any:
    return flex_attention_forward(module, query.to(value.dtype), key.to(value.dtype), value, *rest, **named)


AttentionInterface.register(FLEX, flex_of_one_type)
AttentionMaskInterface.register(FLEX, flex_attention_mask)


def keep_documents_apart(model: PreTrainedModel, asked: Literal["auto", "sdpa", "flex_attention"], device: str) -> None:
    """Flex attention where it is asked for, or where nothing is, the device is a GPU and the model can. Otherwise the
    model stays as it came: with a dense mask, by whichever function it prefers."""
    can = bool(getattr(model, "_supports_flex_attn", False))
    if asked == "flex_attention" or (asked == "auto" and device == "cuda" and can):
        model.set_attn_implementation(FLEX)
