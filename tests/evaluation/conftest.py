"""The tiny models and the tokenizer of `tiny_models`, as fixtures."""

from tiny_models import data, llama, model, tokenizer

__all__ = ["data", "llama", "model", "tokenizer"]
