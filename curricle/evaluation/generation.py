"""Greedy answers from any transformers causal language model, in batches, with a key-value cache allocated once.

`generate` promises what `model.generate(do_sample=False)` gives one prompt at a time: rows of a batch do not see each
other or their padding. It is faster because prompts of like length share a batch, the cache is written in place, and
rows that have ended leave the batch. It draws no random number and leaves the model as it was.

Letters: B rows of a batch, T tokens of a prompt, S tokens in the cache so far, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.cache_utils import Cache, CacheLayerMixin

from curricle.study import Refused
from curricle.tokens.tokenizer import spelled

BATCH_TOKENS = 2**15  # room in the cache for ~200 short problems; measured fastest for 1M parameters on one core


class Sampler(Protocol):
    """What `evaluate` asks of a way to generate: one output for each prompt, in the prompts' order."""

    def __call__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        prompts: Sequence[str],
        *,
        max_new_tokens: int,
        stop: Sequence[str] = (),
    ) -> list[str]: ...


@contextmanager
def measuring(model: torch.nn.Module) -> Iterator[None]:
    """The model in evaluation mode and without gradients; each module's mode is given back as it was."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.inference_mode():
            yield
    finally:
        for module, mode in modes:
            module.training = mode


def context_of(model: PreTrainedModel) -> int:
    """The most tokens that the model takes at once."""
    return int(getattr(model.config.get_text_config(), "max_position_embeddings", None) or 2**31)


def generate(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str],
    *,
    max_new_tokens: int,
    stop: Sequence[str] = (),
    batch_tokens: int = BATCH_TOKENS,
) -> list[str]:
    """The greedy continuation of each prompt, in the prompts' order.

    A prompt is read as a document's beginning: the tokenizer's end-of-document token, then the prompt. An output ends
    before the first end-of-document token or stop string, or after `max_new_tokens`. Of a prompt that leaves no room
    for these in the model's context the first tokens are dropped; a benchmark drops whole exemplars before that.
    `batch_tokens` bounds rows × tokens of the cache. Raises `Refused` if the context has no room for any prompt.
    """
    room = context_of(model) - max_new_tokens
    if room < 2:
        raise Refused(f"max_new_tokens: {max_new_tokens} leaves no room in a context of {context_of(model)} tokens")
    end = tokenizer.eos_token_id
    asked = [[end, *ids[-(room - 1) :]] for ids in spelled(tokenizer, prompts)]
    ends_stop = _stop_watch(tokenizer, stop)
    outputs = [""] * len(asked)
    with measuring(model):
        for rows in batches([len(tokens) + max_new_tokens for tokens in asked], batch_tokens):
            texts = _answer_batch(model, tokenizer, [asked[row] for row in rows], max_new_tokens, ends_stop)
            for row, text in zip(rows, texts, strict=True):
                outputs[row] = _cut(text, stop)
    return outputs


def batches(lengths: Sequence[int], batch_tokens: int) -> Iterator[list[int]]:
    """Indices in order of length, longest first, cut so that rows × the longest row stays within `batch_tokens`."""
    order = sorted(range(len(lengths)), key=lambda row: -lengths[row])
    while order:
        size = max(1, batch_tokens // max(1, lengths[order[0]]))
        yield order[:size]
        order = order[size:]


def _answer_batch(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: list[list[int]],
    max_new_tokens: int,
    ends_stop: Callable[[list[int]], bool],
) -> list[str]:
    width = max(map(len, prompts))
    end = tokenizer.eos_token_id
    device = model.device
    # Padding stands on the left, so that every row's next token falls in the same column of the cache.
    tokens_BT = torch.tensor([[end] * (width - len(p)) + p for p in prompts], device=device)
    filled_BS = torch.ones(len(prompts), width + max_new_tokens, dtype=torch.long, device=device)
    for row, prompt in enumerate(prompts):
        filled_BS[row, : width - len(prompt)] = 0
    positions_BT = (filled_BS[:, :width].cumsum(1) - 1).clamp_min(0)
    padded = bool((filled_BS == 0).any())
    layers = model.config.get_text_config().num_hidden_layers
    cache = Cache(layers=[_Preallocated(width + max_new_tokens) for _ in range(layers)])

    written: list[list[int]] = [[] for _ in prompts]
    live = list(range(len(prompts)))  # the prompt behind each row of the shrinking batch
    going = [True] * len(prompts)
    for width_now in range(width, width + max_new_tokens):
        logits_B1V = model(
            input_ids=tokens_BT,
            attention_mask=filled_BS[:, :width_now] if padded else None,
            position_ids=positions_BT,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        ).logits
        next_B = logits_B1V[:, -1].argmax(-1)
        for row, token in zip(live, next_B.tolist(), strict=True):
            if going[row]:
                if token != end:
                    written[row].append(token)
                going[row] = token != end and not ends_stop(written[row])
        kept = [at for at, row in enumerate(live) if going[row]]
        if not kept:
            break
        tokens_BT, positions_BT = next_B[:, None], positions_BT[:, -1:] + 1
        if 2 * len(kept) <= len(live):
            rows_B = torch.tensor(kept, device=device)
            live = [live[at] for at in kept]
            tokens_BT, positions_BT, filled_BS = tokens_BT[rows_B], positions_BT[rows_B], filled_BS[rows_B]
            for layer in cache.layers:
                layer.keep(rows_B)
    return [_text(tokenizer, tokens) for tokens in written]


class _Preallocated(CacheLayerMixin):
    """One layer's keys and values, allocated whole at the first token and written in place. Attention is given a view
    of the part that is filled, where transformers' own static cache gives all of it."""

    is_sliding = False

    def __init__(self, capacity: int):
        super().__init__()
        self.capacity, self.length = capacity, 0

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        rows, heads, _, size = key_states.shape
        self.keys = key_states.new_empty(rows, heads, self.capacity, size)
        self.values = value_states.new_empty(rows, heads, self.capacity, value_states.shape[-1])
        self.is_initialized = True

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        assert self.keys is not None and self.values is not None
        start, self.length = self.length, self.length + key_states.shape[2]
        self.keys[:, :, start : self.length] = key_states
        self.values[:, :, start : self.length] = value_states
        return self.keys[:, :, : self.length], self.values[:, :, : self.length]

    def keep(self, rows_B: torch.Tensor) -> None:
        assert self.keys is not None and self.values is not None
        self.keys, self.values = self.keys[rows_B], self.values[rows_B]

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.length + query_length, 0

    def get_seq_length(self) -> int:
        return self.length

    def get_max_length(self) -> int:
        return self.capacity


def _text(tokenizer: PreTrainedTokenizerBase, tokens: list[int]) -> str:
    return tokenizer.decode(tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False)


def _stop_watch(tokenizer: PreTrainedTokenizerBase, stop: Sequence[str]) -> Callable[[list[int]], bool]:
    """Says whether the tokens written so far hold a stop string. Text is only decoded after a token that can complete
    one, which few tokens can, because decoding every row after every token would cost more than a small model does."""
    last_characters = {string[-1] for string in stop if string}
    can_end: dict[int, bool] = {}

    def ends(tokens: list[int]) -> bool:
        if not last_characters:
            return False
        token = tokens[-1]
        if token not in can_end:
            piece = _text(tokenizer, [token])
            # A token that is part of a character decodes to the replacement character; it may complete any.
            can_end[token] = "\ufffd" in piece or any(character in piece for character in last_characters)
        return can_end[token] and _cut(text := _text(tokenizer, tokens), stop) != text

    return ends


def _cut(text: str, stop: Sequence[str]) -> str:
    """The text before the first stop string."""
    found = [at for string in stop if string and (at := text.find(string)) >= 0]
    return text[: min(found)] if found else text
