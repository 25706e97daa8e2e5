"""Models: built from a shape, or read from a checkpoint; always a causal LM of transformers, never a fork of one."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch

from curricle.shapes import Shape
from curricle.store import whole_folder
from curricle.study import Refused

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast


def build(shape: Shape, *, vocabulary: int, context: int, delimiter: int, seed: int) -> PreTrainedModel:
    """A Llama of this shape with fresh weights: the same weights for the same seed, whatever was drawn before."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=shape.hidden,
        intermediate_size=shape.feed_forward,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        max_position_embeddings=context,
        tie_word_embeddings=shape.tied,
        bos_token_id=delimiter,
        eos_token_id=delimiter,
        pad_token_id=None,
        attn_implementation="sdpa",
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return LlamaForCausalLM(config)


def load(folder: Path | str, *, revision: str | None = None) -> PreTrainedModel:
    """A checkpoint in the Hugging Face format, in fp32. Raises `Refused` where transformers cannot read it."""
    from transformers import AutoModelForCausalLM

    try:
        return AutoModelForCausalLM.from_pretrained(
            str(folder), revision=revision or "main", dtype=torch.float32, trust_remote_code=False, use_safetensors=True
        )
    except (OSError, ValueError) as error:
        raise Refused(f"model.checkpoint: {folder} cannot be read: {error}") from None


def export(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Write weights, configuration and tokenizer in the Hugging Face format; whole or not at all."""
    with whole_folder(folder) as temporary:
        model.save_pretrained(temporary)
        tokenizer.save_pretrained(temporary)
