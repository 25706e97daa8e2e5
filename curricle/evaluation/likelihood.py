"""How well a model predicts a text: −ln p, summed over the text's tokens, in nats.

Divided by the text's bytes this is the measure that does not depend on the tokenizer (bits per byte = nats / ln 2 /
bytes). `score` promises a number that does not depend on what else is in the batch, except for the last digits of the
arithmetic. It draws no random number and leaves the model as it was.

Letters: B rows of a batch, T tokens of a row, N target tokens of the batch, H hidden size, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.nn import functional
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from curricle.evaluation.generation import batches, measuring
from curricle.tokens.tokenizer import spelled
from curricle.training.loss import bends_logits

LOGITS = 2**24  # entries of the widest matrix of logits: 64 MB in float32
BATCH_TOKENS = 2**12  # measured fastest for 1M parameters on one core


@dataclass(frozen=True, slots=True)
class Scored:
    """−ln p of one text given its prompt, its closing token included."""

    nats: float
    target_tokens: int
    bytes: int


def score(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    items: Sequence[tuple[str, str]],
    *,
    context: int,
    batch_tokens: int = BATCH_TOKENS,
) -> list[Scored]:
    """Scores of (prompt, text) pairs, in their order.

    A pair is read as one document: the end-of-document token, the prompt, the text, the end-of-document token; nats
    are summed over the text and the token that closes it. A document of more than `context` tokens is cut into windows
    of `context` tokens that do not overlap: each token is predicted once, the first of a window from nothing but the
    token before it. `batch_tokens` bounds the tokens that are in the model at once.
    """
    end = tokenizer.eos_token_id
    windows: list[tuple[int, list[int], int]] = []  # item, context + 1 tokens, where its targets begin
    targets = [0] * len(items)
    for item, (prompt, text) in enumerate(items):
        before_ids, text_ids = spelled(tokenizer, [prompt, text])
        before = [end, *before_ids]
        document = [*before, *text_ids, end]
        targets[item] = len(document) - len(before)
        for start in range(0, len(document) - 1, context):
            window = document[start : start + context + 1]
            first = max(len(before) - start, 1)
            if first < len(window):  # a window of nothing but prompt predicts no target
                windows.append((item, window, first))

    nats = torch.zeros(len(items), dtype=torch.float64)
    with measuring(model):
        for rows in batches([len(window) for _, window, _ in windows], batch_tokens):
            owner_N, nats_N = _nats(model, [windows[row] for row in rows], end)
            nats.index_add_(0, owner_N, nats_N.double().cpu())
    sizes = [len(text.encode()) for _, text in items]
    return [Scored(*row) for row in zip(nats.tolist(), targets, sizes, strict=True)]


def _nats(
    model: PreTrainedModel, windows: list[tuple[int, list[int], int]], padding: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """The item of each target token, and −ln p of that token."""
    width = max(len(window) for _, window, _ in windows)
    # Padding stands on the right, where no token of a causal model sees it: no mask is needed.
    tokens_BT = torch.tensor([w + [padding] * (width - len(w)) for _, w, _ in windows], device=model.device)
    counts = torch.tensor([len(window) - first for _, window, first in windows])
    rows_N = torch.arange(len(windows)).repeat_interleave(counts)
    places_N = torch.cat([torch.arange(first, len(window)) for _, window, first in windows])
    owner_N = torch.tensor([item for item, _, _ in windows])[rows_N]
    wanted_N = tokens_BT[rows_N, places_N]

    if bends_logits(model):
        logits_NV = model(input_ids=tokens_BT[:, :-1], use_cache=False).logits[rows_N, places_N - 1]
        return owner_N, functional.cross_entropy(logits_NV.float(), wanted_N, reduction="none")
    # Logits only where there is a target, a part at a time: for a large vocabulary they outweigh the model.
    hidden_BTH = model.base_model(input_ids=tokens_BT[:, :-1], use_cache=False).last_hidden_state
    hidden_NH = hidden_BTH[rows_N, places_N - 1]
    head = model.get_output_embeddings()
    part = max(1, LOGITS // head.weight.shape[0])
    nats = [
        functional.cross_entropy(head(some_NH).float(), wanted, reduction="none")
        for some_NH, wanted in zip(hidden_NH.split(part), wanted_N.split(part), strict=True)
    ]
    return owner_N, torch.cat(nats)
