"""A byte tokenizer and tiny random models, made here: tests of evaluation download nothing."""

import os
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
)

torch.set_num_threads(1)
END = "<|endoftext|>"


@pytest.fixture(scope="session")
def tokenizer():
    """One token a byte, and the end of a document."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(models.BPE({piece: at for at, piece in enumerate([END, *alphabet])}, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([END])
    return PreTrainedTokenizerFast(tokenizer_object=backend, bos_token=END, eos_token=END, pad_token=END)


SHAPE = {
    "vocab_size": 257,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "bos_token_id": 0,
    "eos_token_id": 0,
    "pad_token_id": 0,
    "initializer_range": 0.3,  # wide, so that outputs differ from prompt to prompt
}


KINDS = {
    "llama": (LlamaForCausalLM, LlamaConfig),
    "qwen2": (Qwen2ForCausalLM, Qwen2Config),
    "gpt2": (GPT2LMHeadModel, GPT2Config),  # absolute positions: rotary ones would not show a shift by the padding
}


@pytest.fixture(params=list(KINDS))
def model(request):
    """In float64, so that the order of a sum cannot decide between two tokens."""
    torch.manual_seed(1)
    kind, config = KINDS[request.param]
    return kind(config(**SHAPE)).double()


@pytest.fixture
def llama():
    torch.manual_seed(1)
    return LlamaForCausalLM(LlamaConfig(**SHAPE)).double()


@pytest.fixture(scope="session")
def data():
    if "CURRICLE_DATA" not in os.environ:
        pytest.skip("CURRICLE_DATA is not set: no real benchmarks here")
    return Path(os.environ["CURRICLE_DATA"]) / "benchmarks"
