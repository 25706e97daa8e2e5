"""The tiny models and the tokenizer of `tiny_models`, as fixtures."""

from tiny_models import llama, tokenizer

__all__ = ["llama", "tokenizer"]
