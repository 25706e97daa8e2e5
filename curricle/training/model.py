"""Models: built from a shape, or read from where models are found: a folder in the Hugging Face format, a hub id, or a
GGUF file. Always a causal LM of transformers, never a fork of one.

Weights are read as data: safetensors or GGUF, never a pickle, never code that came with a checkpoint.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import nn
from torch.nn.modules.module import register_module_parameter_registration_hook
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    GgufConfig,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
)
from transformers import PreTrainedTokenizerBase as Tokenizer
from transformers.utils.logging import disable_progress_bar

from curricle.shapes import Shape
from curricle.store import whole_folder
from curricle.study import Refused
from curricle.tokens.tokenizer import why_unread
from curricle.training.origin import refuse_partial, refuse_torn_gguf, refuse_unread_gguf, unsaid

# Where a package for it is installed, transformers would keep the weights of a GGUF file packed, and no gradient could
# move them.
_FULL_NUMBERS: dict[str, Any] = {"quantization_config": GgufConfig(dequantize=True)}
ROUNDING = {torch.float64: 1e-6, torch.float32: 1e-3, torch.bfloat16: 0.1, torch.float16: 0.05}  # of logits, relative

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


@contextmanager
def weightless() -> Iterator[None]:
    """What is built meanwhile has no weights (they are on `meta`) but all that is worked out beside them, as rotary
    frequencies are. Nothing is drawn for it."""

    def moved(owner: nn.Module, name: str, weight: nn.Parameter | None) -> nn.Parameter | None:
        if weight is None or weight.is_meta:  # a tied one stays one
            return weight
        return nn.Parameter(weight.to("meta"), requires_grad=weight.requires_grad)

    hook = register_module_parameter_registration_hook(moved)  # type: ignore[arg-type]
    try:
        yield
    finally:
        hook.remove()


def architecture(path: str | Path, revision: str | None = None) -> PreTrainedModel:
    """What `load` gives, without reading the weights; a GGUF file, which is converted as a whole, is read."""
    name, settings = _located(str(path), revision)
    if "gguf_file" in settings:
        return load(path, revision=revision)[0]
    with unsaid(), weightless():
        config = AutoConfig.from_pretrained(name, trust_remote_code=False, **settings)
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    with suppress(OSError):  # it has none of its own
        model.generation_config = GenerationConfig.from_pretrained(name, **settings)
    return model.eval()


def load(
    path: str | Path,
    *,
    revision: str | None = None,
    dtype: torch.dtype = torch.float32,
    device: torch.device | None = None,
) -> tuple[PreTrainedModel, Tokenizer]:
    """The model, on the CPU or the `device` that is named, and its tokenizer. Raises `Refused` where `path` is no
    checkpoint that transformers reads."""
    name, settings = _located(str(path), revision)
    try:
        weights = {**settings, **(_FULL_NUMBERS if "gguf_file" in settings else {"use_safetensors": True})}
        with unsaid():
            model, found = AutoModelForCausalLM.from_pretrained(
                name,
                trust_remote_code=False,
                dtype=dtype,
                ignore_mismatched_sizes=True,  # they are refused below
                output_loading_info=True,
                **weights,
            )
    except (OSError, ValueError, KeyError, RuntimeError, ImportError, SafetensorError) as error:
        first_line = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise Refused(f"{path}: not a checkpoint that transformers reads: {first_line}") from None
    refuse_partial(str(path), found)
    _refuse_unfinite(str(path), model)
    _note_two_matrices(model)
    try:
        tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=False, **settings)
    except Exception as error:  # as in `tokens.tokenizer`
        raise Refused(why_unread(path, error)) from None
    if tokenizer.eos_token_id is None:
        raise Refused(f"{path}: its tokenizer names no end-of-text token, which documents are delimited by")
    if "gguf_file" in settings:
        # The weights are full numbers now; what notes that they were quantised would keep them from being saved.
        model.hf_quantizer = None
        if hasattr(model.config, "quantization_config"):
            del model.config.quantization_config
    # Weight by weight, each freed here as it goes there; transformers reads onto a device with accelerate only.
    return model.to(device or model.device).eval(), tokenizer


def _note_two_matrices(model: PreTrainedModel) -> None:
    """Where a config says that embedding and head are one and its weights hold two that differ, transformers keeps
    both. The config has to say so from then on: a copy made by it, and vLLM, would put the one in the other's place."""
    head = model.get_output_embeddings()
    if head is not None and head.weight is not model.get_input_embeddings().weight:
        model.config.tie_word_embeddings = False


def _refuse_unfinite(name: str, model: PreTrainedModel) -> None:
    spoilt = [
        tensor
        for tensor, weights in model.named_parameters()
        if weights.numel() and not all(extreme.isfinite() for extreme in weights.data.aminmax())
    ]
    if spoilt:
        others = f" and {len(spoilt) - 1} more" if len(spoilt) > 1 else ""
        raise Refused(
            f"{name}: its weights are no numbers (NaN or infinite) in {spoilt[0]}{others}, as after a training that "
            f"diverged; take an earlier checkpoint"
        )


def begin(path: str | Path, revision: str | None, delimiter: int) -> PreTrainedModel:
    """A checkpoint to train on, in fp32. Raises `Refused` where documents in a packed row would read each other."""
    model = load(path, revision=revision)[0]
    refuse_leaks(model, delimiter, str(path))
    return model


def refuse_leaks(model: PreTrainedModel, delimiter: int, name: str) -> None:
    """Lay two short documents in one row and compare the second with itself alone: positions that restart must keep
    it from reading the first. A family can take positions and still not heed them (Falcon with ALiBi, a layer that
    carries a state), so this looks at what the model does, once, before anything is trained."""
    first, second = [delimiter, 5, 9, 7, 3], [delimiter, 8, 6, 4, 11, 2]
    positions = [*range(len(first)), *range(len(second))]
    training = model.training
    model.eval()
    with torch.inference_mode():
        row = torch.tensor([first + second], device=model.device)
        where = torch.tensor([positions], device=model.device)
        packed = model(input_ids=row, position_ids=where, attention_mask=None, use_cache=False).logits[0, len(first) :]
        place = where[:, len(first) :]
        alone = model(input_ids=row[:, len(first) :], position_ids=place, attention_mask=None, use_cache=False).logits
    model.train(training)
    if not (packed.isfinite().all() and alone.isfinite().all()):
        raise Refused(
            f"{name}: its logits are no numbers (NaN or infinite), though its weights are; it cannot be trained"
        )
    scale = float(alone.float().std())
    apart = float((packed - alone[0]).float().abs().max())
    if not apart <= ROUNDING[model.dtype] * scale:
        raise Refused(
            f"{name}: in the family {model.config.model_type!r} documents packed into one row read each other (logits "
            f" {apart:.2g} apart where they vary by {scale:.2g}); begin from another family"
        )


def _located(path: str, revision: str | None) -> tuple[str, dict[str, Any]]:
    """What to hand to transformers: a name, and where in it to look."""
    place = Path(path).expanduser()
    if place.suffix == ".gguf":
        refuse_unread_gguf(place, path)
        refuse_torn_gguf(place, path)
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


def export(model: PreTrainedModel, tokenizer: Tokenizer, folder: Path, beside: Mapping[str, str] | None = None) -> None:
    """Write weights, configuration and tokenizer in the Hugging Face format, and texts `beside` them by file name;
    whole or not at all."""
    with whole_folder(folder) as temporary:
        model.save_pretrained(temporary)
        tokenizer.save_pretrained(temporary)
        for file in temporary.iterdir():
            file.chmod(0o644)  # safetensors lets nobody else read what it writes
        for name, text in (beside or {}).items():
            (temporary / name).write_text(text, encoding="utf-8")
