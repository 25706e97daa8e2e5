"""Models: built from a shape, or read from where models are found: a folder in the Hugging Face format, a hub id, or a
GGUF file. Always a causal LM of transformers, never a fork of one.

Weights are read as data: safetensors or GGUF, never a pickle, never code that came with a checkpoint.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM, PreTrainedModel
from transformers import PreTrainedTokenizerBase as Tokenizer
from transformers.utils.logging import disable_progress_bar

from curricle.shapes import Shape
from curricle.store import whole_folder
from curricle.study import Refused

disable_progress_bar()  # of transformers: a bar for each of hundreds of small files helps nobody


def build(shape: Shape, *, vocabulary: int, context: int, delimiter: int, seed: int) -> PreTrainedModel:
    """A Llama of this shape with fresh weights: the same weights for the same seed, whatever was drawn before."""
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


def load(
    path: str | Path, *, revision: str | None = None, dtype: torch.dtype = torch.float32
) -> tuple[PreTrainedModel, Tokenizer]:
    """The model and its tokenizer. Raises `Refused` where `path` is no checkpoint that transformers reads."""
    name, settings = _located(str(path), revision)
    try:
        tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=False, **settings)
        weights = settings if "gguf_file" in settings else {**settings, "use_safetensors": True}
        model = AutoModelForCausalLM.from_pretrained(name, trust_remote_code=False, dtype=dtype, **weights)
    except (OSError, ValueError, KeyError, RuntimeError, ImportError, SafetensorError) as error:
        first_line = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise Refused(f"{path}: not a checkpoint that transformers reads: {first_line}") from None
    if tokenizer.eos_token_id is None:
        raise Refused(f"{path}: its tokenizer names no end-of-text token, which documents are delimited by")
    # Weights of a GGUF file are full numbers once read; the note that they were quantised would keep them from saving.
    if "gguf_file" in settings and hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    return model.eval(), tokenizer


def _located(path: str, revision: str | None) -> tuple[str, dict[str, Any]]:
    """What to hand to transformers: a name, and where in it to look."""
    place = Path(path).expanduser()
    if place.suffix == ".gguf":
        if not place.is_file():
            raise Refused(f"{path}: no such file")
        missing = [package for package in ("gguf", "accelerate") if importlib.util.find_spec(package) is None]
        if missing:
            raise Refused(f"{path}: reading a GGUF file needs {' and '.join(missing)}: pip install {' '.join(missing)}")
        return str(place.parent), {"gguf_file": place.name}
    if place.is_dir():
        if not (place / "config.json").is_file():
            raise Refused(f"{path}: not a checkpoint: the folder has no config.json")
        return str(place), {}
    if place.exists():
        raise Refused(f"{path}: a file, and no .gguf; give a checkpoint's folder, a hub id, or a .gguf file")
    if path.startswith((".", "/", "~")) or path.count("/") > 1:
        raise Refused(f"{path}: no such folder")
    return path, {"revision": revision}


def export(model: PreTrainedModel, tokenizer: Tokenizer, folder: Path) -> None:
    """Write weights, configuration and tokenizer in the Hugging Face format; whole or not at all."""
    with whole_folder(folder) as temporary:
        model.save_pretrained(temporary)
        tokenizer.save_pretrained(temporary)
